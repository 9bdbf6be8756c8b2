"""A method is one file and one line: that of the README, planted beside the others; and what methods need."""

from __future__ import annotations

import base64
import importlib
import inspect
import re
import sys
import textwrap
import typing
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from ftmech_hf.statistics.intervals import mean_interval
from ftmech_hf.studies.diagnosis import diagnosis
from ftmech_hf.studies.diagnosis.case import BASE, FINETUNED, NULL, CaseConfig
from ftmech_hf.studies.diagnosis.diagnosis import asked_methods, computed_otherwise, left_out
from ftmech_hf.studies.diagnosis.method import Method, MethodResult
from ftmech_hf.studies.diagnosis.methods import METHODS
from ftmech_hf.studies.diagnosis.result import DiagnosisResult, diagnose
from tests.studies.diagnosis.cases import make_case
from tests.studies.planted import make_base, make_never, make_rows, make_wrapped, save_models, words

FEW = CaseConfig(rows=200, fit_rows=100, patch_rows=60, null_steps=0)


@pytest.fixture(scope="module")
def confidence(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The file of the README's guide, imported."""
    readme = Path(diagnosis.__file__).parent / "README.md"
    guide = readme.read_text(encoding="utf-8").split("## Add a method")[1]
    (code,) = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    path = tmp_path_factory.mktemp("methods") / "confidence.py"
    path.write_text(code, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(path.parent)
        yield importlib.import_module("confidence")
        patch.delitem(sys.modules, "confidence")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pair")
    save_models(
        root / "models", base=make_base("llama"), wrapped=make_wrapped("llama"), finetuned=make_base("llama"),
        other=make_never("llama"),
    )  # fmt: skip
    words(make_rows(number=900)).to_parquet(root / "questions.parquet")
    return root


@pytest.fixture
def registry() -> Iterator[dict[str, Method]]:
    """The methods, of which for now only the first is there; a dict gives them back in their order."""
    there = dict(METHODS)
    METHODS.clear()
    METHODS["behaviour"] = there["behaviour"]
    yield METHODS
    METHODS.clear()
    METHODS.update(there)


def run(models: Path, output: Path) -> DiagnosisResult:
    folders = {name: models / "models" / name for name in ("base", "wrapped", "other")}
    return diagnose(
        folders["base"], folders["wrapped"], rows=models / "questions.parquet", control=folders["other"],
        output_dir=output, thoroughness=FEW,
    )  # fmt: skip


def test_a_method_is_one_file_and_one_line(
    models: Path, confidence: ModuleType, tmp_path: Path, registry: dict[str, Method]
) -> None:
    """Its numbers are in the table, its picture and its words on the page; without the line nothing of it is."""
    without = run(models, tmp_path / "without")
    registry["confidence"] = confidence.CONFIDENCE
    found = run(models, tmp_path / "with")
    assert set(found.table["analysis"]) - set(without.table["analysis"]) == {"confidence"}
    rows = found.table[found.table["analysis"] == "confidence"].set_index("model")
    assert rows["reference"].to_dict() == {BASE: False, FINETUNED: False, NULL: True}
    assert rows.loc[BASE, "value"] > 0.8 > 0.3 > rows.loc[FINETUNED, "value"]
    title, said = "How likely the right answer is", f"the fine-tuned model gives it {rows.loc[FINETUNED, 'value']:.0%}."
    pages = [each.html for each in (without, found)]
    pictures = [re.findall(r"data:image/svg\+xml;base64,([^\"]+)", page) for page in pages]
    assert [(title in page, said in page) for page in pages] == [(False, False), (True, True)]
    assert [len(each) for each in pictures] == [1, 2]
    assert "probability" in base64.b64decode(pictures[1][1]).decode()


def test_its_numbers_are_the_models(confidence: ModuleType) -> None:
    case = make_case(make_wrapped("llama"))
    result = confidence.measure_confidence(case)
    token_ids = case.few("capability").token_ids
    with torch.no_grad():
        logits = case.models[FINETUNED](token_ids[:, :-2]).logits[:, -1]
    right = logits.softmax(-1)[torch.arange(len(token_ids)), token_ids[:, -2]]
    (row,) = (each for each in result.rows() if each["model"] == FINETUNED)
    assert [row["value"], row["low"], row["high"]] == pytest.approx(list(mean_interval(right.tolist())))


def test_rows_of_no_method_are_refused(
    models: Path, confidence: ModuleType, tmp_path: Path, registry: dict[str, Method]
) -> None:
    registry["certainty"] = confidence.CONFIDENCE  # its rows are called otherwise
    with pytest.raises(AssertionError, match="rows of confidence: no method has that name"):
        run(models, tmp_path / "out")


@pytest.mark.parametrize("name", METHODS)
def test_what_a_method_needs_is_there_before_it_and_is_what_it_takes(name: str) -> None:
    method = METHODS[name]
    _, *taken = inspect.signature(method.measure).parameters
    hints = typing.get_type_hints(method.measure)
    assert [hints[each] for each in taken] == [
        typing.get_type_hints(METHODS[need].measure)["return"] for need in method.needs
    ]
    assert set(method.needs) <= set(list(METHODS)[: list(METHODS).index(name)])
    assert issubclass(hints["return"], MethodResult)
    assert bool(method.title) == bool(method.pictures)


def test_the_example_of_diagnose_runs(
    models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    example = textwrap.dedent((inspect.getdoc(diagnose) or "").split("of your own::")[1])
    monkeypatch.chdir(models)
    exec(example, {})
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("unchanged: its accuracy stayed the same")
    assert printed[1].endswith("report.html")
    assert (models / printed[1]).is_file()
    with pytest.raises(TypeError, match="unexpected keyword argument 'contrl'"):
        diagnose("models/base", "models/finetuned", contrl="models/other")


def test_weights_of_models_that_compute_otherwise_are_not_mixed() -> None:
    """A context that tuning made longer may be asked and trained back; but no model lies between the two."""
    tuned = make_wrapped("llama")
    tuned.config.rope_parameters = {**tuned.config.rope_parameters, "rope_theta": 123.0}
    case = make_case(tuned, edits=True)
    gone = {name for name in asked_methods(case.config) if METHODS[name].mixes_weights}
    assert gone == {"path", "change"}
    assert set(left_out(case)) == gone
    assert computed_otherwise(case).startswith("rope_parameters is {")
    assert "'rope_theta': 123.0" in computed_otherwise(case)
    assert "config of the fine-tuned model" in computed_otherwise(case)
    case.models[FINETUNED] = make_wrapped("llama")
    assert (computed_otherwise(case), left_out(case)) == ("", [])
