"""The texts that both models read: a user's own, or what the base writes when it is given nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ftmech_hf.jobs.generation import continue_rows
from ftmech_hf.models.configs import config_positions
from ftmech_hf.tasks.text.reading import read_table
from ftmech_hf.tasks.text.tables import checked_texts

LEAST_WINDOWS = 32


class Windows(NamedTuple):
    """Pieces of texts, filled up at their end.

    Attributes:
        token_ids: (N, T).
        mask: which of them are tokens, bool (N, T).
    """

    token_ids: Tensor
    mask: Tensor

    def row(self, number: int) -> list[int]:
        """The tokens of one of them."""
        return [int(each) for each in self.token_ids[number][self.mask[number]].tolist()]

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]]) -> Windows:
        """Rows of any length; what fills them up is no token, whatever its id."""
        width = max(len(row) for row in rows)
        ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
        lengths = torch.tensor([len(row) for row in rows])
        return cls(ids, torch.arange(width) < lengths[:, None])


def begin_token(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """What stands before a text: the token that begins one, or the one that ends the text before."""
    found = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    return None if found is None else int(found)


def read_windows(name: str, tokenizer: PreTrainedTokenizerBase, *, number: int, width: int, seed: int) -> Windows:
    """Windows of a data set's texts, drawn from all of them: one of each text, and more where texts are few.

    Args:
        name: a data set with a column ``text``; or else each of its columns of text is read.
        tokenizer: of the models.
        number: how many windows at most.
        width: tokens of a window, with what begins it.
        seed: of which are taken.

    Raises:
        ValueError: there is no such data set, it has no text, or too little.
    """
    texts, begin = _texts(name), begin_token(tokenizer)
    ahead = [] if begin is None else [begin]
    rng, step = np.random.default_rng(seed), width - len(ahead)
    first, more = list[tuple[int, int, list[int]]](), list[tuple[int, int, list[int]]]()
    order = rng.permutation(len(texts))
    # A text at a time as long as windows are missing: a corpus is not read by the tokenizer for some of its texts.
    for start in range(0, len(order), number):
        if len(first) >= number:
            break
        drawn = order[start : start + number].tolist()
        encoded = tokenizer([texts[each] for each in drawn], add_special_tokens=False, verbose=False)["input_ids"]
        for text, ids in zip(drawn, encoded, strict=True):
            pieces = [
                (text, at, [*ahead, *ids[at : at + step]]) for at in range(0, len(ids), step) if len(ids) > at + 1
            ]
            if pieces:
                first.append(pieces.pop(int(rng.integers(len(pieces)))))
                more += pieces
    if len(first) + len(more) < LEAST_WINDOWS:
        raise ValueError(
            f"texts: {name} gives {len(first) + len(more)} windows of text, expected at least {LEAST_WINDOWS}"
        )
    # Windows of one text are alike, and errors are those of windows that are not.
    chosen = first[:number] + [more[each] for each in rng.permutation(len(more))[: max(0, number - len(first))]]
    return Windows.of([ids for _, _, ids in sorted(chosen, key=lambda each: each[:2])])


def _texts(name: str) -> list[str]:
    """All texts of a data set, split by split."""
    found = list[str]()
    for split, rows in read_table(name).items():
        columns = [
            column
            for column, feature in rows.features.items()
            if getattr(feature, "dtype", "") in ("string", "large_string")
        ]
        for column in ["text"] if "text" in columns else columns:
            found += checked_texts(rows[column][:], column, name, split)
    return found


def write_windows(
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    number: int,
    width: int,
    seed: int,
    tokens: int | None = None,
) -> Windows:
    """Texts that the base writes after nothing but the token that begins one.

    Args:
        base: of the pair.
        tokenizer, number, width, seed: as for :func:`read_windows`.
        tokens: how many ids are tokens of the vocabulary; all if None.

    Raises:
        ValueError: no token begins a text, or the model cannot write, or ends nearly every text at once.
    """
    begin = begin_token(tokenizer)
    if begin is None:
        raise ValueError(
            "texts: none, and the tokenizer has no token by which the base could begin one; expected texts"
        )
    eos = tokenizer.eos_token_id
    written = continue_rows(base, [[begin]] * number, eos=eos, seed=seed, max_new_tokens=width - 1, tokens=tokens)
    room = width - 1
    ends = [] if eos is None else [int(eos)]
    rows = [[begin, *ids, *(ends if len(ids) < room else [])] for ids in written]
    kept = [row for row in rows if len(row) > 2]
    if len(kept) < min(LEAST_WINDOWS, number):
        raise ValueError(
            f"texts: none, and of {number} texts that the base wrote {len(kept)} have more than one token, "
            f"expected at least {min(LEAST_WINDOWS, number)}; give texts"
        )
    return Windows.of(kept)


def prefixes(windows: Windows, *, number: int, longest: int, seed: int) -> list[list[int]]:
    """The beginnings of texts: their first token and 1 to ``longest`` tokens from a random place in one of them."""
    rng = np.random.default_rng(seed)
    found = []
    for each in range(number):
        row = windows.row(int(rng.integers(len(windows.mask))))
        length = 1 + each % longest
        start = int(rng.integers(1, max(2, len(row) - length)))
        found.append([row[0], *row[start : start + length]])
    return found


def width_of(config: Any, width: int) -> int:
    """The width of windows that a model of a config can be shown."""
    return min(width, config_positions(config) or width)
