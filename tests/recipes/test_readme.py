"""What the READMEs say is true."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
import yaml
from datasets import load_dataset
from transformers import AutoTokenizer

from ftmech_hf.report.paper_tables import read_paper_table
from ftmech_hf.runs import FolderLock
from ftmech_hf.studies.compare_organisms.claims import BARS as COMPARE_BARS
from ftmech_hf.studies.compare_organisms.kinds import NOTHINGS, ORGANISMS
from ftmech_hf.studies.continual.claims import MEASUREMENTS as CONTINUAL_CLAIMS
from ftmech_hf.studies.continual.stories.claims import MEASUREMENTS as STORY_CLAIMS
from ftmech_hf.studies.continual.stories.plan import CHAINS, TRIED
from ftmech_hf.studies.organisms.claims import BARS, EVERY_BARS
from ftmech_hf.studies.organisms.edits import EDIT_BARS
from ftmech_hf.studies.organisms.kinds import TRUTHS
from ftmech_hf.studies.organisms.scoring import RIVALS
from ftmech_hf.studies.pcfg.claims import MEASUREMENTS as PCFG_CLAIMS
from ftmech_hf.studies.pcfg.plan import ReproduceConfig
from ftmech_hf.studies.real.pair import PAIRS
from ftmech_hf.studies.retrieval.claims import MEASUREMENTS as RETRIEVAL_CLAIMS
from ftmech_hf.studies.retrieval.plan import DIAGNOSED, TUNINGS
from ftmech_hf.studies.safety.claims import MEASUREMENTS as SAFETY_CLAIMS
from ftmech_hf.tasks import TASKS
from ftmech_hf.training.objectives import OBJECTIVES
from recipes import make_dataset, pretrain, update_readme
from recipes.benchmarks.accuracy import MIXTURES, RECIPES
from recipes.readme.studies import MAIN
from recipes.update_readme import BLOCKS, CODE, Block, find_source, marks, replace_block
from tests.interop.checks import CHECKS
from tests.recipes.commands import READMES, ROOT, TOUR, Command, block_of, read_commands
from tests.recipes.conftest import CHAIN, TINY

PYTHON = [
    pytest.param(code, id=f"{name}-{number}")
    for name, text in READMES.items()
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
]


def slug(title: str) -> str:
    """What GitHub calls the place of a heading in an address."""
    plain = re.sub(r"\[([^]]+)\]\([^)]*\)", r"\1", title)
    return re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")


@pytest.mark.parametrize("code", PYTHON)
def test_its_python_runs(
    code: str, chain: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ftmech_hf.tasks.TASKS", {**TASKS})
    monkeypatch.setattr("ftmech_hf.training.objectives.OBJECTIVES", {**OBJECTIVES})
    monkeypatch.chdir(tmp_path)
    for name in ("pretrain", "finetune"):
        code = code.replace(f"runs/{name}-nano-low", str(chain / name))
    exec(code, {"__name__": __name__})
    assert capsys.readouterr().out or "print" not in code


def test_its_task_trains_and_publishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the README says: the class in a file, one line in the dict, and the recipes know it."""
    (code,) = (str(block.values[0]) for block in PYTHON if "ParityConfig" in str(block.values[0]))
    assert len(code.splitlines()) < 45
    monkeypatch.setattr("ftmech_hf.tasks.TASKS", {**TASKS})
    exec(code, {"__name__": __name__})
    small = ["--task", "parity", "--text_length", "6"]
    where = tmp_path / "model"
    pretrain.main([*small, *TINY, "--steps", "3", "--final_eval_rows", "32", "--output_dir", str(where)])
    assert AutoTokenizer.from_pretrained(where)("parity")["input_ids"] == [7]
    make_dataset.main([*small, "--rows", "train=50", "test=20", "--output_dir", str(tmp_path / "rows")])
    rows = load_dataset(str(tmp_path / "rows"), "default", cache_dir=str(tmp_path / "cache"))["train"]
    for row in rows:
        assert row["answer"] == ("odd" if row["text"].split().count("1") % 2 else "even")


def test_its_tree_names_every_file_and_no_other() -> None:
    named = {
        (ROOT / name).parent / link
        for name in ("ftmech_hf/README.md", "recipes/README.md")
        for link in re.findall(r"^- \[`[^`]+`\]\(([^)]+)\): ", READMES[name], re.MULTILINE)
    }
    tracked = [*ROOT.glob("ftmech_hf/**/*.py"), *ROOT.glob("recipes/**/*.py"), *ROOT.glob("ftmech_hf/**/*.j2")]
    assert {path for path in tracked if path.name != "__init__.py"} <= named
    assert all(path.exists() for path in named)


@pytest.mark.parametrize("name", [name for name, block in BLOCKS.items() if block.source == CODE])
def test_its_lists_are_what_the_code_says(name: str) -> None:
    """python recipes/update_readme.py --only code writes them."""
    assert block_of(name) == f"\n{BLOCKS[name].write(ROOT)}\n"


def without_code(text: str) -> str:
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def dead_links(name: str, text: str) -> list[str]:
    """Relative links of a README that lead to no file of the repository or to no heading in it."""
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(text)):
        path, _, anchor = link.partition("#")
        target = ((ROOT / name).parent / path).resolve() if path else ROOT / name
        if re.match(r"\w+:", link):
            continue
        if not (target.exists() and target.is_relative_to(ROOT)):
            dead.append(link)
        elif anchor:
            titles = re.findall(r"^#+ (.*)$", without_code(target.read_text(encoding="utf-8")), re.MULTILINE)
            dead += [link] * (anchor not in map(slug, titles))
    return dead


@pytest.mark.parametrize("name", READMES)
def test_no_link_is_dead(name: str) -> None:
    assert dead_links(name, READMES[name]) == []


def test_dead_links_are_seen() -> None:
    links = ("no.md", "../outside.md", "recipes/README.md#no-such-heading", "#no-such-heading")
    text = " ".join(f"[here]({link})" for link in (*links, "recipes/README.md#a-tour", "https://example.org/no.md"))
    assert dead_links("README.md", text) == list(links)


@pytest.mark.parametrize("name", READMES)
def test_each_opens_with_a_sentence_that_says_what_it_is(name: str) -> None:
    title, empty, first = READMES[name].split("\n")[:3]
    assert title.startswith("# ")
    assert empty == ""
    assert re.match(r"[A-Z*].*", first)


COMMANDS = {name: found for name, text in READMES.items() if (found := read_commands(text))}


def test_there_are_commands_and_the_front_page_is_short() -> None:
    assert sum(map(len, COMMANDS.values())) > 30
    assert len(READMES["README.md"].splitlines()) <= 220
    assert set(CHAIN) <= TOUR.keys()


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(each, id=f"{name}-{number}-{each.recipe}")
        for name, found in COMMANDS.items()
        for number, each in enumerate(found)
    ],
)
def test_its_commands_have_flags_and_settings_that_exist(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    """Each command line is right up to the flag that is put behind it, which is not."""
    recipe = importlib.import_module(f"recipes.{command.recipe}")
    with pytest.raises(SystemExit):
        recipe.main([*command.argv, "--no_such_flag"])
    assert "unknown argument '--no_such_flag'" in capsys.readouterr().err


FEW = {"pretrain": TINY, "finetune": TINY, "reverse_finetune": TINY, "truth": ["--rows", "64"],
       "fit_judge": ["--fit_stories=300", "--test_stories=200"],
       "diagnose": ["--rows=64", "--fit_rows=100", "--patch_rows=24", "--repeats=2", "--reverse_steps=2",
                    "--random_masks=2"]}  # fmt: skip
"""What makes a recipe quick."""


@pytest.mark.parametrize("name", COMMANDS)
def test_its_commands_run(name: str, chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are not marked as minutes long, one after the other; the models are those of the tour's first part."""
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    for folder in ("pretrain", "finetune"):
        (tmp_path / "runs" / f"{folder}-nano-low").symlink_to(chain / folder)
    for command in COMMANDS[name]:
        made = command.recipe in CHAIN and list(command.argv) == TOUR[command.recipe]
        if command.is_run and not made:
            importlib.import_module(f"recipes.{command.recipe}").main([*command.argv, *FEW.get(command.recipe, [])])


OTHERS_FLAGS = {
    *("quiet", "num_processes", "config_file", "machine_rank", "main_process_ip", "nproc_per_node"),  # of launchers
    *("config", "scale", "help"),  # of every recipe
    "learning_rate",  # transformers' name for ours
}


def test_its_flags_are_settings() -> None:
    """Those in the prose and in tables as well."""
    code = [path for folder in ("ftmech_hf", "recipes") for path in (ROOT / folder).rglob("*.py")]
    sources = [*(path.read_text(encoding="utf-8") for path in code), *READMES.values()]  # and what a guide adds
    fields = {name for source in sources for name in re.findall(r"^    (\w+): [^=\n]+= field\(", source, re.MULTILINE)}
    for name, text in READMES.items():
        assert set(re.findall(r"(?<![\w-])--(\w+)", text)) - fields - OTHERS_FLAGS == set(), name


EXAMPLES = {"mine.yaml", "methods/confidence.py"}
"""Files that a reader is to make."""


def test_files_in_its_prose_are_there() -> None:
    """By their whole place, or as they are called in the package, among the recipes, or beside the README."""
    for name, text in READMES.items():
        homes = [ROOT, ROOT / "ftmech_hf", ROOT / "recipes", ROOT / "recipes/configs/nano", (ROOT / name).parent]
        prose = re.sub(r"<!-- .*?<!-- end of [^>]*>|\[[^]]*\]\([^)]*\)", "", without_code(text), flags=re.DOTALL)
        for path in re.findall(r"`(?:\w+ )*([\w/]+\.(?:py|yaml))\b", prose):
            assert path in EXAMPLES or any((home / path).is_file() for home in homes), f"{path} in {name}"


def test_its_make_targets_exist() -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for text in READMES.values():
        shell = "".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))
        assert set(re.findall(r"^make ([\w-]+)", shell, re.MULTILINE)) <= set(targets)
        assert set(re.findall(r"`make ([\w-]+)`", text)) <= set(targets)


def test_its_paper_index_names_what_there_is() -> None:
    index = READMES["README.md"].split("## Where the paper's parts are")[1].split("\n## ")[0]
    rows = re.findall(r"^\| [^|]+ \| [^|]+ \| `([\w.]+)` \| `(\w+)\.py` \|", index, re.MULTILINE)
    assert len(rows) == index.count("\n|") - 2 > 15
    for function, recipe in rows:
        module, _, name = f"ftmech_hf.{function}".rpartition(".")
        assert callable(getattr(importlib.import_module(module), name)), function
        assert (ROOT / "recipes" / f"{recipe}.py").is_file()


def test_the_front_pages_table_is_part_of_the_reproductions() -> None:
    few, all_of_them = (block_of(name).strip().splitlines() for name in ("main results", "results"))
    assert few[:2] == all_of_them[:2]
    assert few[-1] == all_of_them[-1]
    assert len(few[2:-2]) == len(MAIN) == 5
    assert set(few[2:-2]) <= set(all_of_them)


def test_the_rate_and_the_cells_of_the_papers_table_5_are_those_that_are_said() -> None:
    table = read_paper_table("count", "200K").set_index(["prior", "rate", "correlation", "column"])["paper"]
    claimed = {each.id: each.paper for each in PCFG_CLAIMS}
    cells = {"low_a": ("low", 1.0, "o_pt_cte0_10k"), "low_b_cte0": ("low", 1.0, "o_ft_cte0_10k"),
             "low_b_cte1": ("low", 1.0, "o_ft_cte1_10k"), "high_a": ("high", 0.8, "o_pt_cte0_10k"),
             "high_b_cte0": ("high", 0.8, "o_ft_cte0_10k")}  # fmt: skip
    for name, (prior, correlation, column) in cells.items():
        assert claimed[name] == f"{table[prior, 'small', correlation, column]:g} (Table 5)"
    kept = [
        table[prior, "medium", correlation, "o_pt_cte0_10k"] for prior, correlation in (("low", 1.0), ("high", 0.8))
    ]
    text = " ".join(READMES["ftmech_hf/studies/pcfg/README.md"].split())
    assert "the paper's small rate, 1e-6, after 10 K steps" in text
    assert "its medium rate (1e-5) the low prior keeps {:g} % of a and the high prior {:g} %".format(*kept) in text
    assert "small rate, 1e-6, of 10 K steps, and ours is 3e-5, of 300" in READMES["README.md"]
    ours = ReproduceConfig()
    assert (ours.finetune_lr, ours.finetune_steps) == (3e-5, 300)


def test_its_table_of_other_libraries_has_every_check() -> None:
    verified = re.findall(r"^\| ([\w-]+) \| [^|]+ \| ([^|]+) \|$", block_of("interop"), re.MULTILINE)[1:]
    assert verified == [(name, check.shows) for name, check in CHECKS.items()]


def run_chains() -> list[str]:
    settings = (ROOT / "recipes" / "configs" / "nano" / "continual_stories.yaml").read_text(encoding="utf-8")
    return list(yaml.safe_load(settings)["chains"])


def test_its_results_come_from_a_run() -> None:
    results = block_of("results")
    assert results.count("\n|") >= 14
    assert re.search(r"Mean over seeds 0, 1, 2, 3, 4, .*config hash `[0-9a-f]{12}`; ftmech_hf ", results)
    assert block_of("speed").count("\n|") == 8
    assert block_of("accuracy").count("\n|") - 2 in (len(RECIPES), len(MIXTURES) * len(RECIPES))
    for name, rows in (("grid", 34), ("forgetting", 11), ("lora", 9), ("tracr", 10), ("instruments", 22), ("data", 9)):
        assert block_of(name).count("\n|") == rows
    for name, rows in (
        ("stories", 11),
        ("stories claims", 2 + 19),
        ("tracr claims", 3),
        ("safety", 2 + sum(bool(each.bar) for each in SAFETY_CLAIMS)),
        ("continual", 2 + sum(bool(each.bar) for each in CONTINUAL_CLAIMS)),
        ("continual stories", 2 + 1 + sum(len(CHAINS[each].tasks) for each in run_chains())),
        ("continual stories strengths", 2 + len(TRIED)),
        ("continual stories claims", 2 + sum(bool(each.bar) for each in STORY_CLAIMS)),
        ("retrieval", 2 + sum(bool(each.bar) for each in RETRIEVAL_CLAIMS)),
        ("retrieval models", 2 + len(TUNINGS) + 3),
        ("retrieval verdicts", 2 + len(DIAGNOSED)),
        ("retrieval pair", 2 + 4),  # what is needed is found for all questions
        (
            "organisms",
            2
            + len(BARS)
            + len(EVERY_BARS)
            + 2
            + len(EDIT_BARS)
            + 2
            + len(TRUTHS)
            + 2
            + 1
            + len(RIVALS)
            + 2
            + 2
            + 2
            + 5
            + 2
            + 9
            + 2
            + 3,
        ),
        ("compare organisms", 2 + len(COMPARE_BARS) + 2 + len(ORGANISMS) + len(NOTHINGS) + 1),
    ):  # nothing as long as the study has not been run
        assert block_of(name).count("\n|") in (0, rows)
    assert (ROOT / ".github" / "overview.png").stat().st_size > 50_000
    assert block_of("real").count("\n|") == 5
    assert "The verdict: **hidden or learned anew**" in block_of("real")
    assert 2 < block_of("real pairs").count("\n|") <= 2 + len(PAIRS)
    assert (ROOT / ".github" / "example.png").stat().st_size > 20_000


@pytest.mark.parametrize("name", [name for name in BLOCKS if "ftmech_hf 1." in block_of(name)])
def test_every_published_table_says_its_seeds_its_config_hash_and_its_code(name: str) -> None:
    text = block_of(name)
    assert re.search(r"[Ss]eeds? \d+(, \d+)*\b", text)
    assert re.search(r"[Cc]onfig hash `[0-9a-f]{12}`; ftmech_hf [0-9.]+ \(code [0-9a-f]{16}[,)]", text)


def test_a_table_is_written_from_a_run_a_page_or_the_results_that_were_kept_of_a_study(tmp_path: Path) -> None:
    assert find_source(tmp_path) is None
    for name in ("report.html", "manifest.json", ".results.json"):
        (tmp_path / name).write_text("{}")
        assert find_source(tmp_path) == tmp_path
        (tmp_path / name).unlink()


def copy_readmes(folder: Path) -> None:
    for name, text in READMES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def test_only_the_named_tables_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results of one kind that are new do not bring in older ones that happen to lie in runs/."""
    copy_readmes(tmp_path)
    monkeypatch.setattr("recipes.update_readme.ROOT", tmp_path)
    seen = tmp_path / "interop.json"
    seen.write_text('{"rows": [{"library": "a", "versions": "a 1", "shows": "it loads"}]}', encoding="utf-8")
    run = tmp_path / "run"
    run.mkdir()
    (run / "claims.json").write_text("[]", encoding="utf-8")
    (run / "report.html").write_text("", encoding="utf-8")
    update_readme.main(["--only", "interop", "--interop", str(seen), "--reproduction", str(run)])
    block = "| library | verified with | what was seen to work |\n|---|---|---|\n| a | a 1 | it loads |"
    for name, before in READMES.items():
        written = (tmp_path / name).read_text(encoding="utf-8")
        if name == BLOCKS["interop"].readme:
            assert block in written
            assert written == replace_block(before, "interop", f"{block}\n\nWritten by `make test-interop`.")
        else:
            assert written == before
    with pytest.raises(SystemExit):
        update_readme.main(["--only", "interop", "tables"])


def test_what_another_process_writes_into_a_readme_meanwhile_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block may take long to make; the README is read when it is there."""
    readme = tmp_path / "README.md"
    readme.write_text("\n".join(line for name in ("one", "other") for line in (marks(name)[0], "old", marks(name)[1])))

    def write(root: Path) -> str:
        update_readme.put_into(readme, "other", "new of another")
        return "new"

    monkeypatch.setattr("recipes.update_readme.ROOT", tmp_path)
    monkeypatch.setattr("recipes.update_readme.BLOCKS", {"one": Block("README.md", CODE, write)})
    update_readme.main(["--only", CODE])
    assert re.findall("^[a-z].*", readme.read_text(), re.M) == ["new", "new of another"]
    monkeypatch.setattr("recipes.update_readme.WAIT_SECONDS", 0.0)
    held = FolderLock(readme)
    assert held.acquire()
    with pytest.raises(TimeoutError, match=f"another process is writing {readme}"):
        update_readme.put_into(readme, "one", "newer")
    held.release()
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_each_block_stands_in_its_readme_and_no_other() -> None:
    for name in BLOCKS:
        assert [readme for readme, text in READMES.items() if marks(name)[0] in text] == [BLOCKS[name].readme]
    found = [
        name for text in READMES.values() for name in re.findall(r"<!-- ([\w ]+): written by recipes/update_", text)
    ]
    assert sorted(found) == sorted(BLOCKS)
