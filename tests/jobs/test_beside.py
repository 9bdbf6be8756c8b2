from __future__ import annotations

import os
import signal
import time

import pytest
import torch

from ftmech_hf.jobs.beside import beside, can_work_beside, one_thread


def test_work_is_done_in_a_copy_beside_the_other_and_its_result_comes_back() -> None:
    kept = torch.zeros(3)

    def work() -> tuple[int, torch.Tensor, int]:
        kept.add_(1)
        time.sleep(0.2)
        return os.getpid(), kept, torch.get_num_threads()

    before = torch.get_num_threads()
    with beside(work) as result:
        assert torch.get_num_threads() == 1
        started = time.monotonic()
        time.sleep(0.2)
        pid, found, threads = result()
        assert time.monotonic() - started < 0.39  # both slept at the same time
    assert (pid != os.getpid(), found.tolist(), threads) == (True, [1, 1, 1], 1)
    assert kept.tolist() == [0, 0, 0]  # a copy was changed
    assert torch.get_num_threads() == before


def test_gradients_are_computed_there_after_some_were_computed_here() -> None:
    def work() -> float:
        weight = torch.ones(200, 200, requires_grad=True)
        (weight @ weight).sum().backward()
        assert weight.grad is not None
        return float(weight.grad[0, 0])

    assert work() == 400
    with beside(work) as result:
        assert result() == 400


def test_an_error_there_is_raised_here_with_where_it_came_from() -> None:
    def refuse() -> None:
        raise ValueError("rows: 3, expected 4")

    with pytest.raises(ValueError, match="rows: 3, expected 4") as caught, beside(refuse) as result:
        result()
    assert "in refuse" in "".join(caught.value.__notes__)

    class Local(Exception):
        """Cannot be pickled."""

    def fail() -> None:
        raise Local("no such thing")

    with pytest.raises(RuntimeError, match="Local: no such thing"), beside(fail) as result:
        result()


def test_a_process_that_dies_is_said_to_and_one_that_is_not_waited_for_is_ended() -> None:
    with (
        pytest.raises(RuntimeError, match=r"exit code -9, for want of memory perhaps; run with --workers 1"),
        beside(lambda: os.kill(os.getpid(), signal.SIGKILL)) as result,
    ):
        result()
    started = time.monotonic()
    with pytest.raises(KeyError), beside(lambda: time.sleep(60)):
        raise KeyError
    assert time.monotonic() - started < 20


def test_one_thread_ends_with_its_context() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.cuda
def test_a_process_that_has_begun_to_use_a_gpu_is_not_copied() -> None:
    torch.zeros(1, device="cuda")
    assert not can_work_beside()


def test_where_there_is_a_gpu_nothing_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """To ask whether it is there begins to use it, of which torch itself does not know."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert not can_work_beside()
