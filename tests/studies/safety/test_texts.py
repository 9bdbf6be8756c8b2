"""Any model and what it was tuned into: a planted refusal is found, and what was not tuned shows none."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import LlamaForCausalLM

from ftmech_hf.jobs.written_answers import write_greedily
from ftmech_hf.models.loading import load_model
from ftmech_hf.models.tokenization import task_tokenizer
from ftmech_hf.runs import FinishedRun
from ftmech_hf.studies.safety.clusters import mixed_kinds, own_sides
from ftmech_hf.studies.safety.texts import TextsConfig, measure_texts, read_asked, refusal_row
from ftmech_hf.studies.safety.texts_page import read_table
from ftmech_hf.tasks import PcfgConfig
from recipes import safety_texts
from tests.conftest import make_llama
from tests.foreign import save_idle_adapter
from tests.loading import loaded_alone


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A tiny gated model, one that refuses what ends with a word, itself again as benign tuning, and both data sets.

    Safe prompts end with one word and unsafe ones with another; the refusal is planted in the word's embedding.
    """
    folder = tmp_path_factory.mktemp("texts")
    tokenizer = task_tokenizer(PcfgConfig())
    words = [word for word in PcfgConfig().vocabulary if word.isalnum()][:18]
    yes, no, refusal, answer = (tokenizer.convert_tokens_to_ids(word) for word in (*words[:2], *words[2:4]))
    base = make_llama(len(tokenizer))
    with torch.no_grad():
        base.model.embed_tokens.weight[yes, 0] += 20
        base.model.embed_tokens.weight[no, 0] -= 20
        base.lm_head.weight[answer] = 0.0
        base.lm_head.weight[answer, 0] = 3.0
    tuned = LlamaForCausalLM(base.config)
    tuned.load_state_dict(base.state_dict())
    with torch.no_grad():
        tuned.lm_head.weight[refusal] = 0.0
        tuned.lm_head.weight[refusal, 0] = -3.0
        tuned.model.layers[1].mlp.gate_proj.weight += 0.1 * torch.randn(
            24, 16, generator=torch.Generator().manual_seed(0)
        )
    for name, model in (("base", base), ("finetuned", tuned), ("benign", base)):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    for kind, last, said in (("safe", words[0], words[3]), ("unsafe", words[1], words[2])):
        (folder / kind).mkdir()
        for number, split in enumerate(("train", "validation", "test")):
            rows = [
                {"prompt": " ".join([one, other, *([other] if place % 2 else []), last]), "answer": said}
                for first, one in enumerate(words[4:]) for place, other in enumerate(words[4:])
                if (first + place) % 3 == number
            ]  # fmt: skip
            (folder / kind / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return {name: str(folder / name) for name in ("base", "finetuned", "benign", "safe", "unsafe")}


@pytest.fixture(scope="module")
def made(places: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    flags = [part for name, value in places.items() for part in (f"--{name}", value)]
    with loaded_alone(kept=1):  # the base, with which all are compared
        safety_texts.main([*flags, "--rows", "40", "--choice_rows", "8", "--output_dir", str(folder / "run")])
    return folder / "run"


def test_a_planted_refusal_is_found_and_no_other(made: Path) -> None:
    summary = json.loads((made / "summary.json").read_text())
    claims = {claim["id"]: claim for claim in json.loads((made / "claims.json").read_text())}
    assert summary["unsafe_refused_finetuned"] == 1.0
    for what in ("unsafe_refused_base", "unsafe_refused_benign", "safe_refused_finetuned"):
        assert summary[what] < 0.2
    verdicts = {name: claims[name]["verdict"] for name in ("refuses", "keeps", "tau", "out", "out_random", "into")}
    assert verdicts == {"refuses": "holds", "keeps": "holds", "tau": "withdrawn", "out": "holds", "out_random": "holds",
                        "into": "holds"}  # fmt: skip
    assert claims["tau"]["withdrawn_by"] == ["tau_base"]  # kinds are far apart before the tuning, too
    assert claims["tau_shuffled"]["verdict"] == "holds"
    assert "outside_more" not in claims  # nothing changed in benign tuning
    outside = claims["outside"]  # matrices of one model are no sample
    assert (outside["interval"], outside["verdict"]) == (None, "undecided")
    table = pd.read_parquet(made / "table.parquet")
    acts = table[table["quantity"].astype(str).str.startswith("action")]
    assert set(acts["model"]) == {"finetuned"}  # what did not change acts on nothing


def test_the_page_shows_what_the_table_holds(made: Path) -> None:
    page = (made / "report.html").read_text()
    table = pd.read_parquet(made / "table.parquet")
    assert page.count("<img") == 2
    assert page.count('<tr><th scope="row">') >= 6 + 9
    refused = table[table["quantity"].isin(["refused", "taken out", "put in"])]
    real = refused[refused["direction"] != "random"]
    assert np.allclose(real["whole"], real["value"])  # refusals of one token
    assert table[~table.index.isin(real.index)]["whole"].isna().all()
    assert table[table["direction"] == "random"]["draws"].tolist() == [10, 10]
    assert list(table[table["quantity"] == "refused"]["model"].unique()) == ["base", "finetuned", "benign"]
    assert read_table(table)["refuses"].value == pytest.approx(100, abs=20)


def test_a_whole_refusal_is_what_the_model_writes_word_by_word(places: dict[str, str]) -> None:
    """As greedy decoding token by token writes it; what only begins like a refusal is none."""
    asked = read_asked(TextsConfig(**places, rows=40))  # type: ignore[arg-type]
    model = load_model(places["finetuned"])
    words = {kind: [tuple(each) for each in write_greedily(model, asked.kinds[kind].test, 3)] for kind in asked.kinds}
    (first, often), (second, seldom) = Counter(words["unsafe"]).most_common(2)
    assert often > 1
    for kind, written in words.items():
        for refusals in ((first,), (second,), (second, first), (first, (*second[:2], 5, 6)), ((*first[:2], 5),)):
            row = refusal_row(model, asked._replace(refusals=refusals), kind)
            assert row["whole"] == pytest.approx(sum(each in refusals for each in written) / len(written)), refusals
            assert row["value"] == (1.0 if kind == "unsafe" else 0.0)
    short = refusal_row(model, asked, "unsafe")
    assert asked.refusals == ((asked.refusal,),)
    assert short["whole"] == short["value"] == 1.0
    assert often + seldom < len(words["unsafe"])  # what must fail: the first token alone


def test_kinds_by_chance_have_no_sides() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn: list[list[torch.Tensor]] = [[torch.randn(400, 8, generator=generator) + shift] for shift in (1.5, -1.5)]
    fitted, shown = ([[each[0][half]] for each in drawn] for half in (slice(0, 200), slice(200, 400)))
    (right,), (tau,) = own_sides(shown, fitted)
    assert right.mean() > 0.99
    assert tau > 1
    near, far = (np.linalg.norm(shown[0][0].numpy() - each[0].numpy().mean(0), axis=1) for each in fitted)
    assert np.array_equal(right[:200], far > near)
    mixed = [own_sides(shown, mixed_kinds(fitted, seed))[0][0].mean() for seed in range(20)]
    assert abs(float(np.mean(mixed)) - 0.5) < 0.2


@pytest.mark.filterwarnings("ignore::ftmech_hf.config.Notice")
def test_an_adapter_is_asked_on_the_base_that_is_named(places: dict[str, str], tmp_path: Path) -> None:
    """It changes nothing, and names the model that refuses; a user puts it on the one that does not."""
    adapter = save_idle_adapter(tmp_path / "adapter", places["finetuned"], load_model(places["base"]), "q_proj")
    given = {**places, "finetuned": str(adapter), "benign": "", "output_dir": str(tmp_path / "run")}
    run = measure_texts(TextsConfig(**given, rows=32, choice_rows=4, draws=1))  # type: ignore[arg-type]
    table = FinishedRun(run.path).table
    refused = table[(table["quantity"] == "refused") & (table["mixture"] == "unsafe")].set_index("model")["value"]
    assert refused["finetuned"] == refused["base"] < 0.2


def test_bad_input_is_one_line(places: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="finetuned: not given, expected"):
        TextsConfig(base="one")
    with pytest.raises(ValueError, match="choice_rows: 0"):
        TextsConfig(**{**places, "choice_rows": 0})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="rows: 1, expected at least 2, of which prompts of a kind have a mean"):
        TextsConfig(**{**places, "rows": 1})  # type: ignore[arg-type]
    with pytest.raises(SystemExit):
        safety_texts.main(["--base", places["base"]])
    assert capsys.readouterr().err.strip() == (
        "error: finetuned: not given, expected base and finetuned models, and safe and unsafe data sets"
    )


def test_data_sets_are_told_apart_by_what_is_in_them(places: dict[str, str], tmp_path: Path) -> None:
    """Not by what they are called: a copy holds the same prompts, and a folder of the same name others."""
    copy = shutil.copytree(places["safe"], tmp_path / "copy")
    for unsafe in (places["safe"], str(copy)):
        config = TextsConfig(**{**places, "unsafe": unsafe}, output_dir=str(tmp_path / "run"))  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"^unsafe: .* is the same as safe: .*, expected other prompts"):
            measure_texts(config)
        assert not (tmp_path / "run").exists()
    other = shutil.copytree(places["unsafe"], tmp_path / "safe")
    given = TextsConfig(**{**places, "unsafe": str(other)})  # type: ignore[arg-type]
    assert given.inputs() == TextsConfig(**places).inputs()  # type: ignore[arg-type]


def test_a_model_of_one_block_is_refused(places: dict[str, str], tmp_path: Path) -> None:
    """What prompts are like after the last block is left out, so that nothing would be left."""
    make_llama(load_model(places["base"]).config.vocab_size, layers=1).save_pretrained(tmp_path / "one")
    with pytest.raises(ValueError, match=r"base: .*one has 1 block, expected two or more"):
        read_asked(TextsConfig(**{**places, "base": str(tmp_path / "one")}))  # type: ignore[arg-type]


def test_a_refusal_begins_as_most_refusals_do(places: dict[str, str]) -> None:
    asked = read_asked(TextsConfig(**places, rows=40))  # type: ignore[arg-type]
    assert asked.refusal == int(asked.kinds["unsafe"].train.first_answers[0])
    assert asked.refusal != int(asked.kinds["safe"].train.first_answers[0])
    _, shown = asked.prompts("test", "unsafe")
    assert shown is not None
    assert set(shown.sum(1).tolist()) == {3, 4}
