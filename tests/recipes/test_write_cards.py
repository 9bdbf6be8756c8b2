"""The cards of the released models come from the files of the studies that made them."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results

from ftmech_hf.config import to_dict
from ftmech_hf.hub.claims import claims_of
from ftmech_hf.jobs.card import check_card
from ftmech_hf.jobs.study import Study
from ftmech_hf.report.claims import Measurement, claims_json, judge, name_claims
from ftmech_hf.report.differences import write_differences
from ftmech_hf.runs import FinishedRun
from ftmech_hf.studies import load_study
from ftmech_hf.studies.continual.claims import MEASUREMENTS as CONTINUAL_CLAIMS
from ftmech_hf.studies.continual.stories.claims import MEASUREMENTS as CONTINUAL_STORIES_CLAIMS
from ftmech_hf.studies.pcfg.claims import CLAIMS_OF_MODELS, MEASUREMENTS
from ftmech_hf.studies.pcfg.plan import ReproduceConfig, ReproducePlan
from ftmech_hf.studies.retrieval.claims import MEASUREMENTS as RETRIEVAL_CLAIMS
from ftmech_hf.studies.safety.claims import MEASUREMENTS as SAFETY_CLAIMS
from ftmech_hf.studies.safety.texts_page import MEASURED as TEXTS_CLAIMS
from ftmech_hf.studies.tinystories.claims import CLAIMS as STORIES_CLAIMS
from ftmech_hf.tasks import PcfgConfig, PcfgShape
from ftmech_hf.tasks.schema import NO_OPERAND
from recipes import write_cards
from recipes.readme.released import RELEASED
from tests.recipes.conftest import CONFIGS

CLAIMS = {
    "reproduce": MEASUREMENTS, "tinystories": STORIES_CLAIMS, "safety": SAFETY_CLAIMS,
    "continual": CONTINUAL_CLAIMS, "retrieval": RETRIEVAL_CLAIMS,
}  # fmt: skip


@pytest.fixture(scope="module")
def reproduction(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished one: its runs lie where its plan looks for them, as sweeps may have left them there."""
    folder = tmp_path_factory.mktemp("reproduction")
    config, shape = ReproduceConfig(seeds=[0, 1], output_dir=str(folder), runs_dir=str(folder / "shared")), PcfgShape()
    (folder / "config.yaml").write_text(yaml.safe_dump(to_dict(config, shape)))
    (folder / "env.json").write_text(json.dumps({"kind": "reproduce", "command": "reproduce.py --seeds 0 1"}))
    for name, place in ReproducePlan(config, shape).of_seed(0).items():
        kind = {"base": "base", "prune": "prune", "probe": "probe"}.get(name.split("-")[0], "tuned")
        shutil.copytree(runs / kind, place)
    measured = {seed: {each.id: 50.0 + seed for each in MEASUREMENTS} for seed in (0, 1)}
    (folder / "claims.json").write_text(json.dumps(claims_json(judge(MEASUREMENTS, measured))))
    write_differences(folder, ReproducePlan(config, shape).differences())
    return folder


def test_every_released_model_gets_a_card(runs: Path, reproduction: Path, tmp_path: Path) -> None:
    argv = ["--studies", str(reproduction), "--namespace", "someone", "--output_dir", str(tmp_path),
            "--models", f"medium={runs}/bas*", "--datasets", "someone/rows"]  # fmt: skip
    write_cards.main(argv)
    names = {f"ftmech-nano-{name}" for name in (*(each.name for each in RELEASED["reproduce"].values()), "medium")}
    assert {path.name for path in tmp_path.iterdir()} == names
    for name in names:
        text = (tmp_path / name / "README.md").read_text()
        check_card(text, "model")
        assert f'from_pretrained("someone/{name}")' in text
        assert str(runs) not in text
        assert (tmp_path / name / "training_curve.png").is_file()
    tuned = ModelCard.load(tmp_path / "ftmech-nano-low-finetuned" / "README.md")
    assert tuned.data.base_model.startswith("someone/ftmech-nano-")
    assert "gain in counting a over that model or over one answer | — | +50.5 points |" in tuned.text
    assert "pruning_row.png" in tuned.text
    assert "    python recipes/reproduce.py --seeds 0 1\n" in tuned.text
    base = ModelCard.load(tmp_path / "ftmech-nano-low" / "README.md")
    control = ModelCard.load(tmp_path / "ftmech-nano-control" / "README.md")
    assert "\n**The control**: trained as the bases are" in control.text
    names_of_sets = [each.dataset_config for each in base.data.eval_results]
    assert len(set(names_of_sets)) == len(names_of_sets) > 1
    again = model_index_to_eval_results(eval_results_to_model_index("x", base.data.eval_results))[1]
    assert [each.dataset_name for each in again] == [each.dataset_name for each in base.data.eval_results]
    otherwise = "Done otherwise than in the paper: "
    for card, tuned_too in ((tuned, True), (base, False)):
        (said,) = (line for line in card.text.splitlines() if line.startswith(otherwise))
        assert "symbols of a text 32 (250)" in said
        assert ("fine-tuning: steps" in said) == tuned_too
        assert "seeds" not in said  # what the paper leaves open stands on the page
    assert otherwise not in ModelCard.load(tmp_path / "ftmech-nano-medium" / "README.md").text
    assert "over seeds" not in ModelCard.load(tmp_path / "ftmech-nano-medium" / "README.md").text


@pytest.mark.parametrize("name", RELEASED)
def test_every_released_model_is_a_run_of_its_study_and_its_claims_are_measured(name: str) -> None:
    study = load_study(name)
    assert isinstance(study, Study)
    plan = study.read_plan(["--config", str(CONFIGS / "nano" / f"{name.replace('tiny', '')}.yaml")])
    assert {f"{run}-seed0" for run in RELEASED[name]} <= set(plan.folders)
    measured = {each.id: each.controls for each in CLAIMS[name] if each.bar}
    for model in RELEASED[name].values():
        assert model.claims
        assert set(model.claims) <= set(measured)
        controls = {control for claim in model.claims for control in measured[claim]}
        assert controls <= set(model.claims)  # no claim stands on a card without what could undo it
    names = [model.name for models in RELEASED.values() for model in models.values()]
    assert len(set(names)) == len(names)
    if name == "reproduce":
        assert {run: model.claims for run, model in RELEASED[name].items()} == CLAIMS_OF_MODELS


@pytest.mark.parametrize("claims", [*CLAIMS.values(), TEXTS_CLAIMS, CONTINUAL_STORIES_CLAIMS])
def test_what_a_control_states_names_it_and_no_other(claims: tuple[Measurement, ...]) -> None:
    """In a verdict, in italics."""
    names = name_claims([each for each in claims if each.bar])
    assert len(set(names.values())) == len(names)
    assert not any("*" in each or "|" in each for each in names.values())


def test_a_card_says_what_the_same_is_of(reproduction: Path) -> None:
    """The control's card has none of the claim that its statements lean on; that of the tuned model has it above."""
    pruned = (
        "Zeroing at most 15 neurons (weight rows) of the low-prior fine-tuned model: gain in counting a over that "
        "model or over one answer"
    )
    same = "The same in the control, which never counted a"
    seen = "Made after looking: the same in the control after the same fine-tuning"
    of = {run: [row["statement"] for row in claims_of(reproduction, CLAIMS_OF_MODELS[run])] for run in CLAIMS_OF_MODELS}
    assert of["base-control"][:2] == [f"{pruned}. {same}", f"{pruned}. {seen}"]
    assert of["finetuned-low"][3:6] == [pruned, same, seen]


def test_cards_and_readme_say_of_which_questions_a_prior_is_a_share() -> None:
    """A third of what a base is asked names no symbol: no prior is a share of all questions."""
    shares = {}
    for prior in ("low", "high"):
        task = PcfgConfig(operand_prior=[prior])
        operands = np.concatenate([task.block(0, "train", number).token_ids[:, 2] for number in range(4)])
        named = operands[operands != task.word_ids[NO_OPERAND]]
        assert len(named) / len(operands) == pytest.approx(2 / 3, abs=0.02)
        shares[prior] = (named == task.word_ids["a"]).mean()
    assert shares == {"low": pytest.approx(0.999, abs=2e-3), "high": pytest.approx(0.5, abs=0.02)}
    cards = [RELEASED["reproduce"][f"base-{prior}"].what for prior in shares]
    for text in (*cards, (CONFIGS.parents[1] / "ftmech_hf/studies/pcfg/README.md").read_text(encoding="utf-8")):
        assert "questions that name a symbol (two of three; the third, token_at, names none)" in " ".join(text.split())


@pytest.mark.parametrize(
    ("run", "said"),
    [
        ("1", {"base_model": "someone/base"}),
        ("2", {"ancestor": "someone/base", "start": ", which is `someone/base` after 1 earlier fine-tuning, whose "
               "model is not released"}),
        ("4", {"ancestor": "someone/base", "start": ", which is `someone/base` after 3 earlier fine-tunings, whose "
               "models are not released"}),
        ("0", {"base_model": None}),
        ("6", {"start": ", which is not released"}),
    ],
)  # fmt: skip
def test_a_card_names_the_last_released_model_that_its_own_was_made_of(
    run: str, said: dict[str, str | None], tmp_path: Path
) -> None:
    """0 is released, and 1 to 4 were tuned one after another; 6 was made of 5, which is not."""
    starts = {"0": None, "1": "0", "2": "1", "3": "2", "4": "3", "5": None, "6": "5"}
    for name, start in starts.items():
        (tmp_path / name).mkdir()
        env = {"kind": "finetune", "hash": f"hash{name}", "inputs": {"model": f"hash{start}"} if start else {}}
        (tmp_path / name / "env.json").write_text(json.dumps(env))
    opened, others = FinishedRun(tmp_path / run), [tmp_path / name for name in starts]
    assert write_cards._started_from(opened, others, {"hash0": "someone/base"}) == said
    if run == "4":
        assert write_cards._started_from(opened, [], {"hash0": "someone/base"}) == {"base_model": None}


def test_a_card_names_its_control_or_says_that_it_is_one(tmp_path: Path) -> None:
    made = {each.name: write_cards.Made(tmp_path, released=each) for each in RELEASED["reproduce"].values()}
    repo_ids = {name: f"someone/{name}" for name in made}
    said = {name: found for name in made if (found := write_cards._beside(name, made, repo_ids))}
    assert said == {
        "low-reversed": "Its control, the same fine-tuning of a model that never had the capability, is "
        "`someone/control-reversed`.",
        "control-reversed": "It is the control of `someone/low-reversed`, whose steps say something only beside these.",
    }
    for models in RELEASED.values():
        named = {each.name for each in models.values()}
        assert {each.control for each in models.values() if each.control} <= named


def test_a_card_shows_what_measured_its_model_and_a_diagnosis_that_of_the_tuned_one(tmp_path: Path) -> None:
    """A run that made a model is none, and the base of a diagnosis does not get it on its card."""
    looked = {
        "probe": {"finetuned": "0" * 12, "base": "1" * 12}, "prune": {"model": "1" * 12},
        "diagnose": {"base": "1" * 12, "finetuned": "0" * 12, "control": "2" * 12}, "finetune": {"model": "1" * 12},
    }  # fmt: skip
    for kind, inputs in looked.items():
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "env.json").write_text(json.dumps({"kind": kind, "inputs": inputs}))
    runs = [tmp_path / kind for kind in looked]
    found = {model: [Path(run).name for run in write_cards._analyses_of(model * 12, runs)] for model in "012"}
    assert found == {"0": ["probe", "diagnose"], "1": ["probe", "prune"], "2": []}


def test_a_run_that_is_missing_is_named(
    reproduction: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    with pytest.raises(SystemExit):
        write_cards.main(["--studies", str(reproduction), "--seed", "1", "--output_dir", str(tmp_path)])
    assert "has no finished base-low of seed 1" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        write_cards.main(["--studies", str(tmp_path), "--output_dir", str(tmp_path)])
    assert f"studies: {tmp_path} holds no results, expected those of reproduce" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        write_cards.main(["--studies", str(reproduction), "--models", "x=/nowhere*", "--output_dir", str(tmp_path)])
    assert "models: '/nowhere*' fits 0 folders, expected one" in capsys.readouterr().err


def test_the_command_of_a_study_can_be_given_by_anybody(tmp_path: Path) -> None:
    said = f"sweep.py --config recipes/configs/nano/a.yaml --output_dir runs/mine --dataset {tmp_path}/rows --seeds 0 1"
    found = write_cards.as_published(said)
    assert found == (
        "sweep.py --config recipes/configs/nano/a.yaml --output_dir runs/mine --dataset '(local path)' --seeds 0 1"
    )
    assert shlex.split(found)[6] == "(local path)"
