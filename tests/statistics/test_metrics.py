from __future__ import annotations

import dataclasses
import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import RepoCard
from scipy import stats

from ftmech_hf.analysis.divergence import divergence_from_truth
from ftmech_hf.analysis.forgetting import measure_forgetting
from ftmech_hf.statistics.intervals import share_interval
from ftmech_hf.statistics.measures import accuracy_by_group
from ftmech_hf.statistics.metrics import AnswerAccuracy, Forgetting, KLFromTruth
from ftmech_hf.tasks import PcfgConfig, RowStream, build_dataset
from ftmech_hf.tasks.exact_distribution import row_truth
from tests.conftest import make_gpt2, run_python

FOLDERS = sorted((Path(__file__).parents[2] / "model_cards" / "metrics").iterdir())


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", str(tmp_path))


def test_accuracy_is_split_by_operand_and_correlation(task: PcfgConfig) -> None:
    rows = build_dataset(task, "test", 400)
    operands = [rows.features["operand"].int2str(number) for number in rows["operand"]]
    rng = np.random.default_rng(0)
    wrong = rng.random(400) < 0.3
    answers = [f"not {answer}" if w else answer for answer, w in zip(rows["answer"], wrong, strict=True)]
    result = AnswerAccuracy().compute(
        predictions=answers, references=rows["answer"], operands=operands, correlated=rows["correlated"]
    )
    assert result["accuracy"] == pytest.approx(1 - wrong.mean())
    for operand in set(operands):
        mine = np.array([each == operand for each in operands])
        assert result["by_group"][operand]["accuracy"] == pytest.approx(1 - wrong[mine].mean())
        for holds in (False, True):
            part = mine & (np.array(rows["correlated"]) == holds)
            name = f"{operand}_cte{int(holds)}"
            assert (name in result["by_group"]) == bool(part.any())
            if part.any():
                assert result["by_group"][name] == {
                    "accuracy": pytest.approx(1 - wrong[part].mean()),
                    "rows": part.sum(),
                    "interval": result["by_group"][name]["interval"],
                }


def test_the_interval_is_wilsons() -> None:
    result = AnswerAccuracy().compute(
        predictions=["1"] * 80, references=["1"] * 60 + ["2"] * 20, operands=["a"] * 80, correlated=[True] * 80
    )
    z, n, p = stats.norm.ppf(0.975), 80, 0.75
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert result["interval"] == pytest.approx((middle - half, middle + half))


def test_kl_is_what_the_analysis_says_and_zero_for_the_truth_itself(task: PcfgConfig) -> None:
    task = dataclasses.replace(task, spread_counts=False)
    token_ids = RowStream(task, seed=0, split="test").rows(0, 6).token_ids
    truth = row_truth(task, token_ids).probabilities
    logits = make_gpt2(len(task.vocabulary))(torch.from_numpy(token_ids[:, :-1])).logits.detach()
    found = KLFromTruth().compute(
        predictions=logits.flatten(0, 1).tolist(), references=truth.reshape(-1, truth.shape[-1])
    )
    expected = divergence_from_truth(
        logits, torch.from_numpy(truth), torch.from_numpy(token_ids), {"all": slice(1, None)}
    )
    assert found["kl"] == pytest.approx(expected.kl["all"], abs=1e-6)
    assert found["tokens"] == expected.tokens["all"]
    with np.errstate(divide="ignore"):
        perfect = np.log(np.maximum(truth, 1e-300)).reshape(-1, truth.shape[-1])
    found = KLFromTruth().compute(predictions=perfect, references=truth.reshape(-1, truth.shape[-1]))
    assert found["kl"] == pytest.approx(0, abs=1e-9)
    entropy = stats.entropy(truth, axis=-1).mean()
    assert found["lowest_loss"] == pytest.approx(entropy)


@pytest.mark.parametrize(
    ("references", "message"), [([[0.5, 0.4]], "sum to 1"), ([[1.5, -0.5]], "sum to 1"), ([[1.0]], "expected the pred")]
)
def test_what_is_no_distribution_is_refused(references: list[list[float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KLFromTruth().compute(predictions=[[0.0, 0.0]], references=references)


def test_forgetting_is_what_the_analysis_says() -> None:
    groups = ["a"] * 4 + ["b"] * 4
    result = Forgetting().compute(
        predictions=list("01110000"), predictions_before=list("00001110"), references=list("00000000"), groups=groups
    )
    lines = [{f"accuracy/{name}": result[when][name] for name in "ab"} for when in ("before", "after")]
    expected = measure_forgetting(lines)
    assert result["change"] == expected.change == {"a": -0.75, "b": 0.75}
    assert result["most_forgotten"] == expected.summary()["most_forgotten"] == "a"


def test_the_folders_load_offline_and_their_examples_run(tmp_path: Path) -> None:
    """In a process of its own: evaluate reads its cache's place and the offline switch when it is imported."""
    code = "\n".join(
        re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)[0] for folder in FOLDERS
    )
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_EVALUATE_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    root = FOLDERS[0].parents[2]
    lines = run_python(code, env=env, cwd=root).splitlines()
    assert len(lines) == len(FOLDERS) == 3
    assert lines[0].startswith("{'accuracy': 0.666")
    assert "'most_forgotten': 'a'" in lines[1]
    assert "'tokens': 2" in lines[2]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_folder_has_a_card(folder: Path) -> None:
    card = RepoCard.load(folder / "README.md")
    assert {"evaluate", "metric"} <= set(card.data.tags)
    assert card.data.license == "apache-2.0"
    assert "## Limits" in card.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["a"], ["a", "b"], ["x", "x"]), "predictions: 1, references: 2, groups: 2, expected as many of each"),
        (([], [], []), "predictions: 0, references: 0, groups: 0, expected as many of each, and at least one"),
        (([None], ["a"], ["x"]), "predictions: None at 0, expected text"),
        ((["a", "b"], ["a", 3], ["x", "x"]), "references: 3 at 1, expected text"),
    ],
)
def test_answers_are_words_as_many_as_there_are_questions(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        accuracy_by_group(*arguments)


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ([[0.0, math.nan]], [[0.5, 0.5]], "predictions: nan or infinity"),
        ([[0.0, math.inf]], [[0.5, 0.5]], "predictions: nan or infinity"),
        ([[0.0, 0.0]], [[0.5, math.nan]], "references: nan or infinity"),
        ([[0.0, 0.0], [0.0]], [[0.5, 0.5], [1.0]], r"predictions: 2 rows of lengths \[1, 2\]"),
        ([], [], "predictions: 0 rows of lengths"),
    ],
)
def test_distributions_are_rows_of_numbers(predictions: Any, references: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KLFromTruth()._compute(predictions, references)


def test_a_share_is_of_something() -> None:
    for right, total in ((0, 0), (2, 1), (-1, 3)):
        with pytest.raises(ValueError, match=f"right: {right} of {total}, expected at least one"):
            share_interval(right, total)
