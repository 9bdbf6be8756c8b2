"""Which terms settings make, and of what: each by its strength, its controls and what earlier runs left."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ftmech_hf.tasks import PcfgConfig, Rows
from ftmech_hf.training.earlier_tasks import EWC, DarkExperience, LwF, OLoRA
from ftmech_hf.training.inheritance import Inheritance
from ftmech_hf.training.keeping import REGULARIZERS, Keeping, answer_lengths, regularizers_of
from ftmech_hf.training.regularizers import L2SP, LDIFS, LFL, Regularizer, channel_distance, feature_distance
from ftmech_hf.training.settings import TrainConfig

KEPT = Rows(np.zeros((3, 6), np.int64), np.zeros(3, np.int64), np.zeros(3, bool))
FISHER = {"weight": torch.arange(12.0).view(3, 4)}
A = {"block.lora_A.weight": torch.ones(2, 4)}
EARLIER = Inheritance(KEPT, torch.arange(12.0).view(3, 4), FISHER, (A,))
WAYS: dict[str, tuple[dict[str, Any], type[Regularizer], dict[str, Any]]] = {
    "l2sp": ({"l2sp": 2.0}, L2SP, {}),
    "ldifs": ({"ldifs": 2.0}, LDIFS, {"distance": feature_distance}),
    "ldifs of the paper's code": ({"ldifs": 2.0, "ldifs_norm": "positions"}, LDIFS, {"distance": channel_distance}),
    "lfl": ({"lfl": 2.0}, LFL, {}),
    "lwf": ({"lwf": 2.0, "lwf_temperature": 3.0}, LwF, {"temperature": 3.0, "questions": None}),
    "ewc": ({"ewc": 2.0}, EWC, {"fisher": FISHER}),
    "der": ({"der": 2.0, "replay_share": 0.25}, DarkExperience, {"logits": EARLIER.logits, "share": 0.25}),
    "olora": ({"olora": 2.0}, OLoRA, {"earlier": [A]}),
}


@pytest.mark.parametrize("name", WAYS)
def test_a_setting_makes_its_term_of_its_strength(name: str) -> None:
    settings, kind, attributes = WAYS[name]
    [term] = regularizers_of(TrainConfig(**settings), Keeping(PcfgConfig(), EARLIER))
    assert type(term) is kind
    assert term.strength == 2.0
    for attribute, expected in attributes.items():
        assert getattr(term, attribute) is expected or getattr(term, attribute) == expected


def test_every_term_is_made_here_and_none_unasked() -> None:
    assert {setting for settings, _, _ in WAYS.values() for setting in settings} >= set(REGULARIZERS)
    assert regularizers_of(TrainConfig(replay_share=0.25, average=0.5), Keeping(PcfgConfig(), EARLIER)) == []


def test_old_questions_are_those_that_are_named() -> None:
    task = PcfgConfig()
    config = TrainConfig(lwf=1.0, lwf_ask=["index_a", "token_at_null"])
    [term] = regularizers_of(config, Keeping(task, EARLIER))
    assert isinstance(term, LwF)
    assert term.questions is not None
    assert np.array_equal(term.questions.numpy(), task.question_ids(["index_a", "token_at_null"]))
    assert len(np.unique(term.questions.numpy(), axis=0)) == 2


def test_the_control_of_ewc_is_drawn_by_the_seed_of_the_run() -> None:
    def drawn(seed: int) -> torch.Tensor:
        config = TrainConfig(ewc=1.0, ewc_permuted=True, seed=seed)
        [term] = regularizers_of(config, Keeping(PcfgConfig(), EARLIER))
        assert isinstance(term, EWC)
        return term.fisher["weight"]

    assert torch.equal(drawn(0), drawn(0))
    assert not torch.equal(drawn(0), drawn(1))
    assert torch.equal(drawn(0).flatten().sort().values, FISHER["weight"].flatten())


def test_lengths_of_answers_are_counted_where_rows_say_where_they_are() -> None:
    assert answer_lengths(KEPT).tolist() == [1, 1, 1]
    answers = np.zeros((2, 6), bool)
    answers[0, 2:5], answers[1, 5] = True, True
    rows = Rows(KEPT.token_ids[:2], KEPT.label[:2], KEPT.correlated[:2], answers=answers, lengths=np.array([6, 6]))
    assert answer_lengths(rows).tolist() == [3, 1]
