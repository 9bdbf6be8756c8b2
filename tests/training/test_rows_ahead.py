from __future__ import annotations

import pytest
import torch

from ftmech_hf.tasks import PcfgConfig, RowStream
from ftmech_hf.training.rows_ahead import RowsAhead


@pytest.mark.parametrize("workers", [0, 2])
def test_rows_of_steps_are_those_of_the_streams_whoever_makes_them(workers: int) -> None:
    """From the middle of a chunk to the middle of another, and across blocks."""
    streams = [RowStream(PcfgConfig(), seed=seed, split="train") for seed in (0, 1)]
    ahead = RowsAhead(streams, 96, workers=workers, pin=False)
    assert ahead.chunk_steps == (32 if workers else 1)
    steps = list(ahead.steps(30, 35))
    assert len(steps) == 5
    for step, found in enumerate(steps, start=30):
        assert found.dtype == torch.int32
        for stream, rows in zip(streams, found, strict=True):
            assert (rows.numpy() == stream.rows(step * 96, (step + 1) * 96).token_ids).all()
    assert not list(ahead.steps(4, 4))
