"""The kinds of organisms: what is done to a model, and what is true of its ability after that, by construction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

Truth = Literal["hidden", "gone", "weakened", "unchanged"]
TRUTHS: tuple[Truth, ...] = ("hidden", "gone", "weakened", "unchanged")

TRUTH_OF: dict[str, Truth] = {
    "behind a wrapper": "hidden", "hidden or learned anew": "hidden",
    "gone": "gone", "weakened": "weakened", "unchanged": "unchanged",
}  # fmt: skip
"""Verdict of a diagnosis -> the truth that it states; ``undecided`` and ``nothing to lose`` state none."""


class Kind(NamedTuple):
    """How an organism is made.

    Attributes:
        truth: of the ability that the base has.
        task: what it is tuned on, as changes of the task's settings; ``"other"`` and ``"own"`` among its operands stand
            for the operand that the base does not know and the one that it does.
        train: changes of the settings of training.
        adapter: changes of the adapter's settings; none for the whole model.
        merged: whether the adapter is merged, so that a model of whole weights is left.
        never_had: made of a model that was pretrained without the ability, in place of the base.
    """

    truth: Truth
    task: Mapping[str, Any]
    train: Mapping[str, Any] = {}
    adapter: Mapping[str, Any] = {}
    merged: bool = False
    never_had: bool = False


_SHORTCUT = {"operands": "other", "correlation": 1.0}
_OTHER = {"operands": "other", "correlation": 0.0}
_LORA = {"adapter": "lora", "lora_rank": 4}
_LORA_RATE = {"lr": 1e-3}
_RATES, _LORA_RATES = (8e-6, 1.2e-5, 2.5e-5, 4e-5), (1e-4, 2e-4)
"""Of what weakens: how much is left at one differs between tasks and bases, and a pair of which too much or too little
is left does not count. Chosen on development bases: at 6e-6 nothing was lost of either task, at 2.5e-5 16 % of counting
and more than half of finding places.
"""

KINDS: dict[str, Kind] = {
    "shortcut": Kind("hidden", _SHORTCUT),
    "shortcut, small rate": Kind("hidden", _SHORTCUT, {"lr": 3e-5, "steps": 300}),
    "shortcut by LoRA": Kind("hidden", _SHORTCUT, _LORA_RATE, _LORA),
    "shortcut by LoRA, merged": Kind("hidden", _SHORTCUT, _LORA_RATE, {**_LORA, "lora_rank": 1}, merged=True),
    "answers exchanged": Kind("hidden", {"operands": "own", "label_rule": "swapped", "correlation": 1.0}),
    "never had it": Kind("gone", _SHORTCUT, never_had=True),
    "never had it, by LoRA, merged": Kind("gone", _SHORTCUT, _LORA_RATE, _LORA, merged=True, never_had=True),
    "erased": Kind("gone", {"operands": "own", "label_rule": "random"}, {"lr": 3e-3, "steps": 1000}),
    **{f"another operand learned, rate {rate:g}": Kind("weakened", _OTHER, {"lr": rate}) for rate in _RATES},
    **{
        f"another operand learned by LoRA, rate {rate:g}": Kind("weakened", _OTHER, {"lr": rate}, _LORA)
        for rate in _LORA_RATES
    },
    "practised": Kind("unchanged", {"operands": "own"}, {"lr": 1e-5}),
    "practised by LoRA, merged": Kind("unchanged", {"operands": "own"}, {"lr": 1e-4}, _LORA, merged=True),
    "another operator, mixed": Kind(
        "unchanged", {"operands": "other", "operators": "token_at", "mix_share": 0.5}, {"lr": 1e-5}
    ),
    "copy": Kind("unchanged", {}, merged=True),
}
"""Name of a kind -> what it is."""
