from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from ftmech_hf.config import leave_garbage


@pytest.fixture(autouse=True)
def collecting() -> Iterator[None]:
    yield
    gc.enable()
    gc.unfreeze()


def test_garbage_is_left_while_something_is_imported_and_looked_for_afterwards() -> None:
    with leave_garbage():
        assert not gc.isenabled()
        with leave_garbage():
            pass
        assert not gc.isenabled()  # the outer one is not over
    assert gc.isenabled()
    with pytest.raises(ModuleNotFoundError), leave_garbage():
        import ftmech_hf.nothing_of_ours  # type: ignore[import-not-found]  # noqa: F401
    assert gc.isenabled()


def test_who_has_switched_it_off_finds_it_off() -> None:
    gc.disable()
    with leave_garbage():
        pass
    assert not gc.isenabled()


def test_what_was_made_is_looked_through_later_unless_it_is_left_for_good() -> None:
    before = gc.get_freeze_count()
    with leave_garbage():
        made = [[number] for number in range(1000)]
    assert gc.get_freeze_count() == before
    with leave_garbage(for_good=True):
        pass
    assert gc.get_freeze_count() >= before + len(made)
