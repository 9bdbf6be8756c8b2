from __future__ import annotations

import numpy as np
import pytest

from ftmech_hf.tasks import SPLITS, PcfgConfig, Rows, RowStream
from ftmech_hf.tasks.schema import BLOCK

PLANTED = PcfgConfig(operators=["count"], correlation=0.5)


def test_any_row_can_be_made_alone() -> None:
    whole = RowStream(PLANTED, seed=0, split="finetune").rows(0, 3000)
    for start, stop in ((0, 1), (BLOCK - 1, BLOCK + 1), (300, 301), (1500, 3000)):
        part = RowStream(PLANTED, seed=0, split="finetune").rows(start, stop)
        for name in ("token_ids", "label", "correlated"):
            assert (getattr(part, name) == getattr(whole, name)[start:stop]).all(), name
    together = Rows.concatenate([whole[0:400], whole[400:3000]])
    assert (together.token_ids == whole.token_ids).all()


def test_pieces_are_the_whole() -> None:
    stream = RowStream(PLANTED, seed=0, split="test")
    for start, stop in ((0, 10), (0, BLOCK), (5, 2 * BLOCK + 1), (BLOCK, 2 * BLOCK)):
        pieces = list(stream.blocks(start, stop))
        assert all(len(piece) <= BLOCK for piece in pieces)
        assert (Rows.concatenate(pieces).token_ids == stream.rows(start, stop).token_ids).all()


def test_streams_of_different_seeds_and_splits_share_no_random_numbers() -> None:
    """Each block has a 128-bit Philox key of its own; all keys of many seeds, splits and blocks differ."""
    keys = {
        tuple(RowStream(PLANTED, seed=seed, split=split).generator(block).bit_generator.state["state"]["key"])
        for seed in range(20) for split in SPLITS for block in range(50)
    }  # fmt: skip
    assert len(keys) == 20 * len(SPLITS) * 50
    first = [RowStream(PcfgConfig(), seed=0, split=split).rows(0, 256).token_ids for split in SPLITS]
    for number, rows in enumerate(first):
        for other in first[:number]:
            assert (rows == other).all(axis=1).mean() < 0.01


def test_bad_requests_name_their_fields() -> None:
    with pytest.raises(ValueError, match="split: unknown 'tset', expected one of train"):
        RowStream(PcfgConfig(), seed=0, split="tset")
    with pytest.raises(ValueError, match="seed: -1 is negative"):
        RowStream(PcfgConfig(), seed=-1, split="test")
    with pytest.raises(ValueError, match="rows: expected 0 <= start < stop, got start 5 and stop 5"):
        RowStream(PcfgConfig(), seed=0, split="test").rows(5, 5)


def test_row_numbers_far_out_are_reached_at_once() -> None:
    far = RowStream(PcfgConfig(), seed=0, split="train").rows(10**12, 10**12 + 3)
    assert far.token_ids.shape == (3, PcfgConfig().row_length)
    assert np.unique(far.token_ids, axis=0).shape[0] == 3
