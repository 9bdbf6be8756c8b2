"""Relearning on some answers: none of the others is taught, the others alone are asked, and of the right models."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel

from ftmech_hf.jobs.behavior import Behavior, from_capability
from ftmech_hf.jobs.training import PretrainConfig, pretrain
from ftmech_hf.models.loading import load_model
from ftmech_hf.runs import FinishedRun
from ftmech_hf.studies.organisms import disjoint
from ftmech_hf.studies.organisms.disjoint import DisjointConfig, relearn_disjoint, split_answers
from ftmech_hf.tasks import Capability, PcfgConfig, PcfgShape
from ftmech_hf.training.settings import TrainConfig
from tests.loading import loaded_alone

SHAPE = PcfgShape(text_length=24, count_window=8, token_at_position=8, min_labels=4)


def questions() -> Behavior:
    return from_capability(SHAPE, Capability("count", "a"), seed=3, train_rows=400, test_rows=200)


def test_half_of_the_answers_are_taught_and_the_other_half_is_asked() -> None:
    whole = questions()
    halves = split_answers(whole)
    taught, asked = ({answer for (answer,) in rows.answer_ids()} for rows in (halves.train, halves.test))
    answers = sorted({answer for (answer,) in whole.train.answer_ids()})
    assert taught == set(answers[0::2])
    assert asked <= set(answers[1::2])
    assert len(asked) >= 2
    assert len(halves.train) + sum(each[0] in asked for each in whole.train.answer_ids()) == len(whole.train)
    # every step of training draws from these rows, and from no other
    drawn = {answer for step in range(20) for (answer,) in halves.training_rows(0, step, 32).answer_ids()}
    assert drawn == taught
    # one answer to all of them: the most frequent among rows that are not reported
    others = Counter(each[0] for each in whole.train.answer_ids() if each[0] in asked)
    best = others.most_common(1)[0][0]
    assert halves.chance == pytest.approx(sum(each[0] == best for each in halves.test.answer_ids()) / len(halves.test))


def test_one_answer_cannot_be_split() -> None:
    whole = questions()
    same = [place for place, each in enumerate(whole.test.answer_ids()) if each == whole.test.answer_ids()[0]]
    train = [place for place, each in enumerate(whole.train.answer_ids()) if each == whole.test.answer_ids()[0]]
    alone = Behavior(name="one", train=whole.train[train], validation=whole.test, tests={"it": whole.test[same]})
    with pytest.raises(ValueError, match="one: 1 answers, expected two that rows are asked for"):
        split_answers(alone)


def fingerprint(model: PreTrainedModel) -> float:
    return float(model.get_input_embeddings().weight.detach().sum())


def test_the_trained_models_are_asked_and_each_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = {}
    for seed, name in enumerate(disjoint.MODELS):
        task = PcfgConfig(text_length=24, count_window=8, token_at_position=8, min_labels=4, operators=["count"])
        train = TrainConfig(seed=seed, steps=2, batch_size=4, eval_rows=2, final_eval_rows=2)
        place = PretrainConfig(output_dir=str(tmp_path / name), n_layer=1, n_embd=16, n_head=1)
        folders[name] = str(pretrain(place, task, train).path)

    trained: list[dict[str, Any]] = []

    @contextlib.contextmanager
    def taught(model: PreTrainedModel, halves: Behavior, **settings: Any) -> Iterator[PreTrainedModel]:
        trained.append({**settings, "model": fingerprint(model)})
        yield load_model(folders["base" if len(trained) == 1 else "finetuned"])  # whatever it was before

    monkeypatch.setattr(disjoint, "taught", taught)
    # models of two steps answer nothing right, so that their scores would be the same
    monkeypatch.setattr(Behavior, "mean_score", lambda self, model, rows: fingerprint(model))
    config = DisjointConfig(**folders, train_rows=200, test_rows=100, steps=5, output_dir=str(tmp_path / "out"))
    with loaded_alone():
        run = relearn_disjoint(config, SHAPE)
    scores = FinishedRun(run.path).summary
    assert len(trained) == 2
    assert {each["steps"] for each in trained} == {5}
    assert {each["lr"] for each in trained} == {1e-4}
    for each, name in zip(trained, ("finetuned", "control"), strict=True):
        assert each["model"] == fingerprint(load_model(folders[name]))
    assert (scores["finetuned_after"], scores["control_after"]) == (scores["base"], scores["finetuned"])
    assert {name: scores[name] for name in folders} == {
        name: fingerprint(load_model(folder)) for name, folder in folders.items()
    }
    assert len({scores[name] for name in folders}) == 3
    halves = split_answers(from_capability(SHAPE, Capability("count", "a"), seed=0, train_rows=200, test_rows=100))
    assert (scores["rows"], scores["chance"]) == (len(halves.test), halves.chance)
    assert run.path == relearn_disjoint(config, SHAPE).path
    assert len(trained) == 2  # finished, and not made again
