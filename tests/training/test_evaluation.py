"""What is measured on test rows, and on which."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from ftmech_hf.tasks import PcfgConfig, Rows, RowStream, StoriesConfig
from ftmech_hf.training import evaluation
from ftmech_hf.training.evaluation import (
    Evaluation,
    answer_accuracy,
    documents_mean_loss,
    in_words,
    logit_batches,
    mean_loss,
)
from ftmech_hf.training.objectives import AnswerOnly, Batch, Documents
from tests.conftest import make_gpt2


class Counted(RowStream):
    """Remembers what was asked of it."""

    asked: list[tuple[int, int]]

    def rows(self, start: int, stop: int) -> Rows:
        self.asked = [*getattr(self, "asked", []), (start, stop)]
        return super().rows(start, stop)


def test_the_first_rows_of_every_test_set_are_measured_and_made_once(task: PcfgConfig) -> None:
    sets = {name: Counted(task, seed=seed, split="test") for seed, name in enumerate(["one", "two"])}
    evaluation = Evaluation(sets, task)
    model = make_gpt2(len(task.vocabulary), dropout=0.5).train()
    assert len(evaluation) == 2
    assert isinstance(evaluation.objective, AnswerOnly)
    for _ in range(2):
        for number in (300, 40):
            found = evaluation(model, [number])
            assert found == {
                f"accuracy/{name}": answer_accuracy(model, torch.from_numpy(stream.rows(0, number).token_ids))
                for name, stream in ((n, RowStream(task, seed=s, split="test")) for s, n in enumerate(sets))
            }
    assert [stream.asked for stream in sets.values()] == [[(0, 300), (0, 40)]] * 2
    assert not model.training


def test_more_rows_are_measured_where_an_accuracy_may_be_near_the_threshold(task: PcfgConfig) -> None:
    """Of a model that answers nothing right: by Wilson's formula 40 rows leave 8.8 % in doubt, and 160 rows 2.3 %."""
    stream = Counted(task, seed=0, split="test")
    evaluation, model = Evaluation({"one": stream}, task), make_gpt2(len(task.vocabulary))
    assert evaluation(model, [40, 160, 400], 0.09) == {"accuracy/one": 0}
    assert evaluation(model, [40, 160, 400], 0.08) == {"accuracy/one": 0, "eval_rows/one": 160}
    assert stream.asked == [(0, 40), (40, 160)]
    assert in_words({"accuracy/one": 0.5, "eval_rows/one": 160, "accuracy/two": 0.25}) == "one 50.0%, two 25.0%"


def test_of_packed_documents_the_loss_is_measured_over_all_their_tokens() -> None:
    task = StoriesConfig(vocab_size=300, row_tokens=32, relations=1)
    stream = RowStream(task, seed=0, split="test")
    evaluation = Evaluation({"all": stream}, task)
    assert isinstance(evaluation.objective, Documents)
    model = make_gpt2(300)
    rows = torch.from_numpy(stream.rows(0, 70).token_ids)  # more than are in memory at a time
    assert evaluation(model, [70]) == {
        "loss/all": pytest.approx(documents_mean_loss(model, rows, batch_size=7), abs=1e-5)
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Few(PcfgConfig):
    there: int | None = None

    def num_rows(self, split: str) -> int | None:
        assert split == "test"
        return self.there


def test_no_more_rows_are_wanted_than_the_smallest_test_set_has(task: PcfgConfig) -> None:
    def rows_of(*there: int | None) -> int:
        sets = {
            str(number): RowStream(Few(**{**dataclasses.asdict(task), "there": each}), seed=0, split="test")
            for number, each in enumerate(there)
        }
        return Evaluation(sets, task).num_rows(50)

    assert [rows_of(), rows_of(None), rows_of(None, 60), rows_of(30, None, 20)] == [50, 50, 50, 20]


def test_two_measures_fit_beside_a_progress_bar() -> None:
    assert in_words({}) == ""
    assert in_words({"accuracy/all": 0.12345}) == "all 12.3%"
    assert in_words({"loss/all": 1.23456, "accuracy/cte0": 0.5, "accuracy/cte1": 1.0}) == "loss/all 1.235, cte0 50.0%"


def test_as_many_rows_are_read_at_once_as_their_logits_fit(monkeypatch: pytest.MonkeyPatch, task: PcfgConfig) -> None:
    rows = RowStream(task, seed=0, split="test").rows(0, 70)
    model, width, words = make_gpt2(len(task.vocabulary)), rows.token_ids.shape[1], len(task.vocabulary)
    assert [len(batch) for batch in logit_batches(model, rows)] == [32, 32, 6]
    monkeypatch.setattr(evaluation, "LOGIT_BYTES", 4 * words * width * 10)
    assert [len(batch) for batch in logit_batches(nn.DataParallel(model), rows)] == [10] * 7
    monkeypatch.setattr(evaluation, "LOGIT_BYTES", 1)
    assert {len(batch) for batch in logit_batches(model, rows)} == {1}


def test_a_batch_in_which_nothing_counts_is_no_number_less(task: PcfgConfig) -> None:
    ids = torch.from_numpy(RowStream(task, seed=0, split="test").rows(0, 4).token_ids)
    model, answers = make_gpt2(len(task.vocabulary)), torch.zeros_like(ids, dtype=torch.bool)
    answers[:, -2] = True
    counted, nothing = Batch(ids, answers=answers), Batch(ids, answers=torch.zeros_like(answers))
    assert mean_loss(model, AnswerOnly(), [counted, nothing]) == mean_loss(model, AnswerOnly(), [counted])
