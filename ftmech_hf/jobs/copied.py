"""What the process has loaded that workers are copies of: importing this loads it."""

from __future__ import annotations

import contextlib
import gc
import importlib


def _load() -> None:
    gc.disable()  # a sixth of the time that this takes, for nothing: modules stay
    for name in ("ftmech_hf.jobs.training", "datasets"):  # every model card shows a row of a dataset
        importlib.import_module(name)
    # Which weights of which architecture are saved under other names: a thousand patterns to compile, for whoever
    # saves. Where a version has it elsewhere, each copy compiles its own.
    with contextlib.suppress(ImportError, AttributeError):
        importlib.import_module("transformers.conversion_mapping").get_checkpoint_conversion_mapping("gpt2")
    gc.freeze()  # for a copy to look through what all copies have means to copy it in memory, too
    gc.enable()


_load()
