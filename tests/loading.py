"""What a job has in memory while it loads a model: of a large one a second copy may be more than there is room for."""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from transformers import PreTrainedModel

from ftmech_hf.jobs.job import LoadingConfig


@contextlib.contextmanager
def loaded_alone(kept: int = 0) -> Iterator[None]:
    """A job must not have more than ``kept`` of the models that it loaded when it loads the next one.

    Nothing is found to be garbage by itself meanwhile: when that happens is chance, and no sooner of a large model.
    """
    made: list[weakref.ref[PreTrainedModel]] = []
    load = LoadingConfig.load

    def loaded(self: LoadingConfig, name: str, **options: Any) -> PreTrainedModel:
        assert sum(each() is not None for each in made) <= kept
        model = load(self, name, **options)
        made.append(weakref.ref(model))
        return model

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LoadingConfig, "load", loaded)
        gc.collect()
        gc.disable()
        try:
            yield
        finally:
            gc.enable()
    assert len(made) > 1, "one model alone says nothing"
