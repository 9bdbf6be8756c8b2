from __future__ import annotations

import numpy as np
import torch

from ftmech_hf.statistics.control_labels import ControlledLabels, add_controls

TRAIN, TEST = np.array([3, 7, 7, 5, 7, 3, 5, 7]), np.array([7, 9, 3, 7])
TYPES = np.array([0, 1, 2, 0, 1, 2, 0, 1]), np.array([3, 0, 1, 1])


def controls(*, types: bool = True, key: int = 0) -> ControlledLabels:
    given = TYPES if types else None
    return add_controls(TRAIN, TEST, given, num_shuffles=5, num_tasks=20, key=[key, 0])


def test_the_first_are_the_labels_themselves() -> None:
    found = controls()
    assert found.classes.tolist() == [3, 5, 7]
    assert found.classes[found.train[0]].tolist() == TRAIN.tolist()
    assert found.test[0].tolist() == [2, -1, 0, 2]  # 9 is no label of training
    assert found.majority == 0.5


def test_shuffles_are_the_same_labels_in_another_order_tested_on_the_labels() -> None:
    found = controls()
    shuffled = found.train[found.shuffles]
    assert shuffled.shape == (5, 8)
    assert (shuffled.sort(dim=1).values == found.train[0].sort().values).all()
    assert any(not torch.equal(each, found.train[0]) for each in shuffled)
    assert (found.test[found.shuffles] == found.test[0]).all()


def test_a_control_task_is_a_function_of_the_type_alone() -> None:
    found = controls()
    assert found.train[found.tasks].shape == (20, 8)
    for fit_on, test_on in zip(found.train[found.tasks].tolist(), found.test[found.tasks].tolist(), strict=True):
        label_of = dict(zip(TYPES[0].tolist(), fit_on, strict=True))
        assert [label_of[each] for each in TYPES[0].tolist()] == fit_on
        assert [label_of.get(each, test_on[0]) for each in TYPES[1].tolist()] == test_on
    # drawn from the labels there are, as often as these come: 7 is half of them
    assert 0.3 < float((found.train[found.tasks] == 2).double().mean()) < 0.7


def test_without_types_there_is_no_control_task_and_other_keys_draw_others() -> None:
    alone = controls(types=False)
    assert alone.train[alone.tasks].shape == (0, 8)
    assert torch.equal(alone.train[alone.shuffles], controls().train[controls().shuffles])
    assert not torch.equal(controls(key=1).train[1:], controls().train[1:])
