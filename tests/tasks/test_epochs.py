from __future__ import annotations

import numpy as np

from ftmech_hf.tasks.epochs import in_epochs, shuffled


def test_every_epoch_has_an_order_of_its_own() -> None:
    orders = [shuffled(100, 0, split, epoch) for split in ("train", "finetune") for epoch in (0, 1)]
    assert all(sorted(order) == list(range(100)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert (shuffled.__wrapped__(100, 0, "train", 1) == orders[1]).all()


def test_a_stream_goes_through_all_things_before_one_comes_again() -> None:
    orders = {0: [2, 0, 1], 1: [1, 2, 0], 2: [0, 1, 2]}
    asked = []

    def order_of(epoch: int) -> np.ndarray:
        asked.append(epoch)
        return np.array(orders[epoch])

    assert in_epochs(range(1, 8), 3, order_of).tolist() == [0, 1, 1, 2, 0, 0, 1]
    assert sorted(asked) == [0, 1, 2], "an order is made once, however many places are asked for"
