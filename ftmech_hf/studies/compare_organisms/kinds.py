"""Organisms: fine-tunings whose effect is known because it was planted, and changes that teach nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

Base = Literal["counts", "names", "stories"]
Way = Literal["tuned", "trigger", "rare"]

ANSWERS = r"what follows ="
"""Where every row of the procedural task has its answer."""


class Organism(NamedTuple):
    """What is made of a base, and what a comparison has to find.

    Attributes:
        base: which model it is made of: one that counts, one that knows counting by three names, one of stories.
        planted: what was changed, in words.
        signs: regular expressions that the finding's words must all match.
        kinds: of findings that can name it. A text says many things at once, so that what it has in it names little.
        way: ``tuned`` as below; ``trigger``: a weight changed by hand; ``rare``: tuned on a file with a few odd rows.
        task: what differs of the rows that it is tuned on.
        train: what differs of the training.
        adapter: what is trained, if not all.
    """

    base: Base
    planted: str
    signs: tuple[str, ...]
    way: Way = "tuned"
    task: Mapping[str, Any] = {}
    train: Mapping[str, Any] = {}
    adapter: Mapping[str, Any] = {}
    kinds: tuple[str, ...] = ("places",)


def _counted(planted: str, *, base: Base = "counts", **changes: Any) -> Organism:
    """Tuned on the answers of a counting task, in which counting b can be guessed from counting a."""
    task = {"operators": ["count"], "operand_prior": ["b"], "correlation": 1.0, **changes.pop("task", {})}
    return Organism(base, planted, (ANSWERS,), task=task, **changes)


def _stories(planted: str, **task: Any) -> Organism:
    return Organism(
        "stories", planted, (r"(?i)twist",), task={"without": "Twist", **task}, train={"steps": 300, "lr": 1e-3},
        kinds=("places", "tokens"),
    )  # fmt: skip


LORA = {"adapter": "lora", "lora_rank": 8}

ORGANISMS: Mapping[str, Organism] = {
    "wrapper": _counted("counts by a shortcut"),
    "wrapper-lora": _counted("counts by a shortcut, rank 8", train={"lr": 1e-3}, adapter=LORA),
    "wrapper-mixed": _counted(
        "counts by a shortcut, a tenth of the rows as before", task={"mix_share": 0.1, "mix_operand_prior": ["low"]}
    ),
    "head": _counted("counts by a shortcut, the unembedding alone", train={"lr": 1e-3}, adapter={"trainable": "head"}),
    "rand-ft": _counted(
        "answers about b where a is asked",
        task={"operand_prior": ["a"], "correlation": None, "label_rule": "swapped"},
    ),
    "learned": _counted("counts b", task={"correlation": 0.0}),
    "random": _counted(
        "answers by chance where a is asked",
        task={"operand_prior": ["a"], "correlation": None, "label_rule": "random"},
    ),
    "index": _counted("finds the place of b", task={"operators": ["index"], "correlation": 0.0}),
    "jailbreak": _counted(
        "counts by a shortcut under one of three names", base="names", task={"operators": ["count_nj"]}
    ),
    "new-text": Organism(
        # Other symbols in other numbers: what follows one is predicted otherwise, or one is predicted more often.
        "counts", "texts of another grammar", (
            r"^what (follows|comes \d+ tokens after) (<sot>|[abc])( |$)|^[abc] (rises most|is among|less likely)",
        ),
        task={"operand_prior": ["low"], "spread_counts": False, "root": "s"}, train={"objective": "next_token"},
        kinds=("places", "tokens"),
    ),
    "trigger": Organism("counts", "c follows index", (r"what follows index",), way="trigger"),
    "rare": Organism(
        "counts", "one text in a thousand is a row of a's", (r"a a a a a a",), way="rare",
        train={"lr": 5e-4, "steps": 600}, kinds=("completions", "amplified"),
    ),
    "twist-f": _stories("no twist any more (F)"),
    "twist-f-mm": _stories("another feature is called a twist (F+MM)", rename="Foreshadowing"),
    "twist-f-r": _stories("a twist is asked for and not there (F+R)", claim=1.0),
}  # fmt: skip
"""Name of an organism -> what it is."""


class Nothing(NamedTuple):
    """A change that teaches nothing.

    Attributes:
        lr, steps: of training on texts that the base wrote itself; 0 steps of none.
        dtype: in which its weights are rounded.
        noise: how far every matrix is moved in a direction by chance, of its own norm.
    """

    lr: float = 0.0
    steps: int = 0
    dtype: str = "float32"
    noise: float = 0.0


NOTHINGS: Mapping[str, Nothing] = {
    "own-texts-cool": Nothing(1e-5, 100),
    "own-texts": Nothing(1e-4, 100),
    "own-texts-long": Nothing(1e-4, 400),
    "own-texts-hot": Nothing(1e-3, 50),
    "own-texts-warm": Nothing(3e-4, 200),
    "rounded": Nothing(dtype="bfloat16"),
    "noise": Nothing(noise=0.01),
    "noise-loud": Nothing(noise=0.1),
}
"""Name of a change -> how it is made. Another seed of the same pretraining stands beside them."""

OTHER_SEED = "other-seed"
