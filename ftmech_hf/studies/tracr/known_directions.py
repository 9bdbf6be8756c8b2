"""Variables of a compiled program whose directions are known, and what the search for directions makes of them."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ftmech_hf.activations.patches import patched_logits
from ftmech_hf.analysis.alignment_search import (
    Exchanges,
    Position,
    interchange_accuracy,
    random_directions,
    search_alignment,
    subspace_cosines,
)
from ftmech_hf.models.compiled import CompiledModel
from ftmech_hf.models.loading import random_twin
from ftmech_hf.studies.tracr.known_parts import Texts, asked_index, find_writers, variable_of
from ftmech_hf.tasks.programs import Program
from ftmech_hf.tasks.variables import Variables

LEAST_CHANGED = 0.2
"""A variable is looked for where its exchange changes at least this share of the answers."""


@dataclass(frozen=True)
class KnownVariable:
    """A variable, where it acts, and its directions there.

    Attributes:
        name: of the variable.
        where: a place and a position.
        directions: of the stream, a basis of the differences of its values, (D, values - 1).
        exchanges: rows and what the program answers with another row's value.
    """

    name: str
    where: Position
    directions: Tensor
    exchanges: Exchanges


def known_variables(
    program: Program, model: CompiledModel, texts: Texts, order: NDArray[np.int64]
) -> Iterator[KnownVariable]:
    """The variables of a program that one can look for: each at the first place where its own directions carry it.

    A place is right if an exchange of the known directions gives what the program answers on every row; many places are
    not, because the next MLP reads the variable within the block, or nothing reads it there.

    Args:
        program: whose expressions all have names.
        model: what it was compiled to, without noise.
        texts: texts of it.
        order: whose value each text gets.
    """
    variables, asked = Variables(program.build(), texts.words, causal=program.causal), asked_index(program)
    tokens = patched_logits(model, texts.token_ids, {})[:, -1].argmax(-1)
    clean = variables.answers(asked)
    said = dict(zip(clean, tokens.tolist(), strict=True))
    written = {name: writer.layer for writer, names in find_writers(model).items() for name in names}
    for name, layer in written.items():
        known = _differences(model, name)
        if name == "answer" or known is None:
            continue
        for position in range(program.max_length):
            answers = variables.exchanged([name], position, order)["answer"].at(asked)
            changed = np.mean([now != before for now, before in zip(answers, clean, strict=True)])
            if changed < LEAST_CHANGED or any(answer not in said for answer in answers):
                continue
            expected = torch.tensor([said[answer] for answer in answers])
            exchanges = Exchanges(texts.token_ids, texts.token_ids[torch.from_numpy(order)], expected)
            places = [Position(site, layer, position + 1) for site in ("resid_post", "attn_out")]
            right = [where for where in places if interchange_accuracy(model, exchanges, where, known).all()]
            if right:
                yield KnownVariable(name, right[0], known, exchanges)
                break


def _differences(model: CompiledModel, variable: str) -> Tensor | None:
    """An orthonormal basis of the differences of a variable's values; None if it is a number, of one direction."""
    names = model.config.residual_names
    own = [number for number, name in enumerate(names) if variable_of(name) == variable and ":" in name]
    if len(own) < 2:
        return None
    basis = torch.zeros(len(names), len(own) - 1)
    for column in range(len(own) - 1):
        basis[own[: column + 1], column] = 1.0
        basis[own[column + 1], column] = -(column + 1.0)
    return basis / basis.norm(dim=0)


def search_known(model: CompiledModel, variable: KnownVariable, *, seed: int, starts: int = 1) -> dict[str, Any]:
    """Learn a variable's directions on half of the rows and say on the other half what was found, beside the controls.

    Args:
        model, variable: of a program.
        seed, starts: of each search, the controls' as well; see :func:`search_alignment`.

    Returns:
        ``found``, ``random`` (a random subspace of the same rank), ``random_model`` (found in a model of random
        weights), ``shuffled`` (learned from the answers in another order), ``alone`` (nothing exchanged): shares of
        answers as expected; and ``cosine``, the smallest of the principal angles to the known directions.
    """
    rows = torch.arange(len(variable.exchanges.token_ids))
    train, test = (variable.exchanges.chosen(rows[start::2]) for start in (0, 1))
    where, rank = variable.where, variable.directions.shape[1]
    search = functools.partial(search_alignment, where=where, rank=rank, seed=seed, starts=starts)
    found = search(model, train).directions
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(train.expected)))
    shuffled = search(model, train._replace(expected=train.expected[order])).directions
    other = random_twin(model, seed)
    elsewhere = search(other, train).directions
    tried = {
        "found": (model, found),
        "known": (model, variable.directions),
        "random": (model, random_directions(len(found), rank, [seed, 99])),
        "random_model": (other, elsewhere),
        "shuffled": (model, shuffled),
        "alone": (model, torch.zeros(len(found), 1)),
    }
    shares = {name: float(interchange_accuracy(each, test, where, directions).mean())
              for name, (each, directions) in tried.items()}  # fmt: skip
    return {"variable": variable.name, "site": where.site, "layer": where.layer, "position": where.position,
            "rank": rank, **shares, "cosine": float(subspace_cosines(found, variable.directions)[-1])}  # fmt: skip
