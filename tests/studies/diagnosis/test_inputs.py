"""From settings to a case, and from a case to what a diagnosis hands back: small models of chance, each another."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from transformers import PreTrainedModel, T5Config

from ftmech_hf.models.configs import model_positions
from ftmech_hf.models.loading import load_model, random_twin, seed_of_its_own
from ftmech_hf.models.tokenization import build_tokenizer, save_tokenizer
from ftmech_hf.models.untrained import never_trained
from ftmech_hf.runs import FinishedRun
from ftmech_hf.studies.diagnosis.case import BASE, FINETUNED, NULL, OTHER_SEED, Case, CaseConfig
from ftmech_hf.studies.diagnosis.diagnosis import MeasuredResult
from ftmech_hf.studies.diagnosis.evidence import Evidence
from ftmech_hf.studies.diagnosis.in_memory import InMemory
from ftmech_hf.studies.diagnosis.inputs import DiagnoseConfig, named_models, open_case, prepare_case
from ftmech_hf.studies.diagnosis.result import diagnose
from ftmech_hf.tasks import Capability, PcfgShape, RowStream, for_capability
from ftmech_hf.tasks.text.reading import Table
from tests.conftest import make_llama
from tests.studies.diagnosis.methods import results

SHAPE = PcfgShape(text_length=12, count_window=8, index_occurrence=2, token_at_position=6, min_labels=4)
FEW = CaseConfig(rows=30, fit_rows=20, patch_rows=10, null_steps=0, max_layers=1)
ROLES = ("base", "finetuned", "control", "twin", "reversed")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("models")
    for seed, role in enumerate(ROLES):
        make_llama(len(SHAPE.vocabulary), seed=seed).save_pretrained(root / role)
        save_tokenizer(build_tokenizer(SHAPE.vocabulary), root / role)
    return {role: str(root / role) for role in ROLES}


def case_of(config: DiagnoseConfig) -> tuple[Case, dict[str, Any]]:
    with open_case(config, FEW, SHAPE, InMemory()) as (run, made):
        assert run.path == Path(config.output_dir)
        facts = {"inputs": run.inputs, "config": dict(run.config)}
        return made(), facts


def test_an_encoder_with_a_decoder_is_refused_by_its_setting(folders: dict[str, str], tmp_path: Path) -> None:
    T5Config(vocab_size=40, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").touch()  # which is not read
    for role in ("base", "finetuned"):
        config = DiagnoseConfig(**{**folders, role: str(tmp_path)}, output_dir=str(tmp_path / "out"))
        with pytest.raises(ValueError, match=f"^{role}: {tmp_path} is t5, expected a causal language model$"):
            case_of(config)
    with pytest.raises(ValueError, match=f"^model: {tmp_path} is t5, expected a causal language model$"):
        model_positions(str(tmp_path))


def test_questions_of_what_was_taught_are_others_than_those_of_the_capability(
    folders: dict[str, str], tmp_path: Path
) -> None:
    words = SHAPE.vocabulary
    prompts = [f"{one} {other}" for one in words[1:15] for other in words[1:15]]
    rows = pd.DataFrame({"prompt": prompts, "answer": [words[-1 - n % 2] for n in range(len(prompts))]})
    rows.to_csv(tmp_path / "rows.csv", index=False)
    rows.to_parquet(tmp_path / "copy.parquet")
    rows.assign(answer=rows["answer"][::-1].to_list()).to_csv(tmp_path / "other.csv", index=False)

    def ask(dataset: Any, other: Any) -> Case:
        names = {"dataset": str(dataset), "other_dataset": str(other)}
        tables = {name: each for name, each in (("dataset", dataset), ("other_dataset", other)) if names[name] != each}
        config = DiagnoseConfig(**folders, **names, output_dir=str(tmp_path / "out"), fresh=True)
        return prepare_case(config, FEW, SHAPE, InMemory(tables=tables))

    capability, path = tmp_path / "rows.csv", str(tmp_path / "rows.csv")
    expected = "expected questions that fine-tuning taught$"
    for other in (path, f"{tmp_path}/./rows.csv", str(tmp_path / "copy.parquet")):
        with pytest.raises(ValueError, match=f"^other_dataset: {other} asks what {capability} asks, {expected}"):
            ask(path, other)
    with pytest.raises(ValueError, match=f"^other_rows asks what rows asks, {expected}"):
        ask(Table.of(rows, "rows"), Table.of(rows, "other_rows"))
    assert ask(path, str(tmp_path / "other.csv")).other.name == "other.csv"


def same(one: PreTrainedModel, other: PreTrainedModel) -> bool:
    return all(torch.equal(p, q) for p, q in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def rows_of(operator: str, operand: str, correlation: float | None, split: str, number: int) -> list[list[int]]:
    task = for_capability(SHAPE, Capability(operator, operand), correlation)
    found: list[list[int]] = RowStream(task, seed=3, split=split).rows(0, number).token_ids.tolist()
    return found


def test_every_model_has_its_role_and_every_question_its_rows(folders: dict[str, str], tmp_path: Path) -> None:
    config = DiagnoseConfig(
        **folders, operator="index", other_correlation=0.0, seed=3, output_dir=str(tmp_path / "out")
    )
    assert named_models(config) == folders
    case, facts = case_of(config)
    assert set(facts["inputs"]) == set(ROLES)
    assert (facts["config"]["operator"], facts["config"]["fit_rows"]) == ("index", 20)
    expected = {role: load_model(folder) for role, folder in folders.items()}
    assert list(case.models) == [BASE, FINETUNED, NULL]
    for name, role in ((BASE, "base"), (FINETUNED, "finetuned"), (NULL, "control")):
        assert same(case.models[name], expected[role])
    assert case.reversed_model is not None
    assert same(case.reversed_model, expected["reversed"])
    assert list(case.null_models) == [OTHER_SEED]
    assert same(case.null_models[OTHER_SEED], expected["twin"])
    assert (case.seed, case.config, case.own, case.difference) == (3, FEW, None, None)
    assert case.other is not None
    for questions, operand, correlation in ((case.capability, "a", None), (case.other, "b", 0.0)):
        for split, made, number in (
            ("probe", questions.train, 20), ("validation", questions.validation, 30), ("test", questions.test, 30),
            ("reverse", questions.again, 80),
        ):  # fmt: skip
            assert made is not None
            assert made.token_ids.tolist() == rows_of("index", operand, correlation, split, number)


def test_without_a_control_a_model_of_random_weights_stands_for_it(folders: dict[str, str], tmp_path: Path) -> None:
    given = {role: folders[role] for role in ("base", "finetuned")}
    config = DiagnoseConfig(**given, seed=3, output_dir=str(tmp_path / "out"))
    case, facts = case_of(config)
    assert set(facts["inputs"]) == {"base", "finetuned"}
    assert same(case.models[NULL], random_twin(case.models[BASE], seed_of_its_own(3, 1)))
    assert not any(same(case.models[NULL], random_twin(case.models[BASE], seed)) for seed in (3, 4)), "no base's own"
    assert (case.reversed_model, case.null_models) == (None, {})
    assert not case.control
    with torch.no_grad():  # as of state-space models, some of whose vectors are drawn by chance
        next(p for p in case.models[NULL].parameters() if p.ndim == 1).normal_()
    assert not never_trained(case.models[NULL])
    anew, _ = case_of(config)
    anew.models[NULL].load_state_dict(case.models[NULL].state_dict())
    assert not anew.control  # what was drawn here has learned nothing, whatever it looks like


def test_data_sets_are_known_by_what_is_in_them(tmp_path: Path) -> None:
    for name, answer in (("one", "1"), ("copy", "1"), ("other", "2")):
        pd.DataFrame({"prompt": ["a", "b"], "answer": [answer, "3"]}).to_parquet(tmp_path / f"{name}.parquet")
    one, copy, other = (str(tmp_path / f"{name}.parquet") for name in ("one", "copy", "other"))
    assert DiagnoseConfig().inputs() == {}
    assert set(DiagnoseConfig(dataset=one, other_dataset=other).inputs()) == {"dataset", "other_dataset"}
    assert DiagnoseConfig(dataset=one).inputs() == DiagnoseConfig(dataset=copy).inputs()
    assert DiagnoseConfig(dataset=one).inputs() != DiagnoseConfig(dataset=other).inputs()


def test_what_a_diagnosis_hands_back_and_says_of_itself_stands_in_its_folder(
    folders: dict[str, str], tmp_path: Path
) -> None:
    """Of a base that knows nothing, diagnosed and opened again."""
    seen: list[Any] = []
    settings: dict[str, Any] = {
        "control": folders["control"], "thoroughness": dataclasses.replace(FEW, max_layers=2), "shape": SHAPE,
        "output_dir": tmp_path / "diagnose", "progress": lambda *at: seen.append(at),
        "twin": folders["twin"], "operator": "index", "seed": 3,
    }  # fmt: skip
    found, again = (diagnose(folders["base"], Path(folders["finetuned"]), **settings) for _ in range(2))
    assert [(number, name) for number, _, name in seen] == [(1, "behaviour")]  # nothing was known, so no other ran
    assert seen[0][1] > 5
    run = FinishedRun(found.folder)
    assert (found.verdict, found.reason, found.signs) == (
        run.summary["verdict"], run.summary["reason"], run.summary["signs"],
    )  # fmt: skip
    assert found.verdict == "nothing to lose"
    assert found.page == found.folder / "report.html"
    assert found.verdict in found.page.read_text().lower()
    pd.testing.assert_frame_equal(found.table, run.table)
    assert (again.verdict, again.folder, again.page) == (found.verdict, found.folder, found.page)
    facts = dict(run.summary["facts"])
    seconds = facts.pop("seconds")
    assert isinstance(seconds, float)
    assert 0 < seconds == round(seconds, 1) < 600
    model = load_model(folders["base"])
    expected = {
        "base": folders["base"], "finetuned": folders["finetuned"], "reference": folders["control"],
        "twin": folders["twin"], "null_steps": 0, "capability": "index_a", "other": "index_b", "rows": 30,
        "parameters": model.num_parameters(), "architecture": "LlamaForCausalLM", "layers": 2,
        "longest_answer_tokens": 1, "notes": [], "other_tokens": None, "hash": run.hash,
    }  # fmt: skip
    assert {name: facts[name] for name in expected} == expected
    assert set(run.summary) >= {"verdict", "reason", "signs", "evidence", "rule", "facts"}
    assert set(run.summary["evidence"]["seconds"]) == {"behaviour"}


def measured() -> MeasuredResult:
    found = {"behaviour": results.behaviour(), "pruning": results.pruning(), "probing": results.probing(),
             "patching": results.patching(), "revival": results.revival()}  # fmt: skip
    return MeasuredResult(found, {"behaviour": 1.5})


def test_results_of_methods_are_joined_and_none_is_lost() -> None:
    found = measured()
    each = list(found.by_method.values())
    assert found.rows() == [row for result in each for row in result.rows()]
    contributions = [evidence for result in each if (evidence := result.evidence()) is not None]
    assert found.evidence() == Evidence.gather(contributions)
    assert found.evidence().pruned == results.share(35)
    summary = found.summary()
    assert summary["seconds"] == {"behaviour": 1.5}
    assert summary["pruned"] == results.share(35)._asdict()  # as JSON can hold it
    assert summary["best_part"]["accuracy"] == results.share(10, 20)._asdict()
    assert (summary["best_k"], summary["read_layer"]) == (2, 1)
    assert summary["revival"] == {"steps": [4, 8], "last_step": 32}


def test_two_methods_cannot_say_the_same_thing_and_none_is_unknown() -> None:
    twice = MeasuredResult({"pruning": results.pruning(), "revival": results.pruning()}, {})
    with pytest.raises(AssertionError, match=r"best_k, pruned_rows, .*: in the summaries of two methods"):
        twice.summary()
    wrong = results.pruning()
    object.__setattr__(wrong, "rows", lambda: [{"analysis": "pruning"}, {"analysis": "prunning"}])
    with pytest.raises(AssertionError, match="rows of prunning: no method has that name"):
        MeasuredResult({"pruning": wrong}, {}).rows()
