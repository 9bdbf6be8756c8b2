"""Models that settings name: what one is refused for is said of the setting."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from ftmech_hf.models.configs import model_config
from ftmech_hf.models.identity import ADAPTER, find_gguf, find_model


@contextlib.contextmanager
def said_of(setting: str) -> Iterator[None]:
    """Whatever a model is refused for is said of the setting that names it, where several settings do."""
    try:
        yield
    except (ValueError, OSError) as error:
        if error.args and str(error.args[0]).startswith("model: "):
            error.args = (f"{setting}: {str(error.args[0]).removeprefix('model: ')}", *error.args[1:])
        raise


def setting_of(label: str, config: Any) -> str:
    """What a config calls the model of a label: a setting of its own, such as ``base``, or one of its ``models``."""
    return label if hasattr(config, label) else f"models: {label}"


def check_models(named: Mapping[str, str]) -> None:
    """Make sure that what settings name are causal language models, as far as is known before weights are read.

    Args:
        named: setting -> folder, file or name on the Hub.

    Raises:
        ValueError: one is none; names its setting.
    """
    for setting, name in named.items():
        with said_of(setting):
            if find_gguf(name) is None and not (find_model(name) / ADAPTER).is_file():
                model_config(name)
