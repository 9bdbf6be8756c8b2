from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ftmech_hf.tasks.stories.cache import A_DAY, make_once
from tests.runs.deaths import mortal


def test_what_many_want_one_makes_and_the_others_wait_for(tmp_path: Path) -> None:
    all_begun, made = threading.Barrier(4), []

    def write(place: Path) -> None:
        made.append(place)
        place.write_text("x" * 100_000)

    def want(number: int) -> int:
        all_begun.wait()
        return len(make_once(tmp_path / "bpe.json", write).read_text())

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(want, range(4))) == [100_000] * 4
    assert len(made) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["bpe.json"]


def test_a_maker_that_fails_or_dies_leaves_it_to_the_next(tmp_path: Path) -> None:
    kept = tmp_path / "bpe.json"

    def fail(place: Path) -> None:
        place.write_text("half")
        raise ValueError("no text")

    with pytest.raises(ValueError, match="no text"):
        make_once(kept, fail)
    assert list(tmp_path.iterdir()) == []
    moments = iter(range(1, 20))
    while not list(tmp_path.glob(".*.tmp")):  # it dies when what was written would get its name
        with mortal(tmp_path, next(moments)):
            make_once(kept, lambda place: place.write_text("half") and None)
    (left,) = tmp_path.glob(".*.tmp")
    assert not kept.exists()
    make_once(kept, lambda place: place.write_text("whole") and None)
    assert kept.read_text() == "whole"
    assert left.exists()  # it could be that of a living one, and is too young to tell
    long_ago = time.time() - A_DAY - 1
    os.utime(left, (long_ago, long_ago))
    make_once(tmp_path / "other", lambda place: place.write_text("whole") and None)
    assert not left.exists()
