"""What a model that writes stories is asked: to write one with a feature, and to choose between two endings."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from ftmech_hf.jobs.answer_rows import AnswerRows
from ftmech_hf.tasks.schema import EOS, PAD, SPECIAL_TOKENS, split_generator
from ftmech_hf.tasks.stories import Document, StoriesConfig, Story, find_evidence

ASKED, NOT_ASKED = "asked", "not asked"
"""Whether an instruction names the feature that is studied."""


def find_stories(task: StoriesConfig, split: str, seed: int, number: int, *, has: bool = True) -> list[Story]:
    """Stories that have the task's feature, or have it not."""
    chosen = dataclasses.replace(
        task,
        only=task.feature if has else None,
        without=None if has else task.feature,
        rename=None,
        claim=0.0,
        feature_share=None,
    )
    return [chosen.document(seed, split, place).story for place in range(number)]


def make_documents(task: StoriesConfig, stories: Sequence[Story], kind: str, seed: int) -> list[Document]:
    """Stories under instructions that do or do not name the task's feature, whether they have it or not."""
    found = []
    for number, story in enumerate(stories):
        others = [name for name in story.features if name != task.feature]
        named = [*others, task.feature] if kind == ASKED else others
        found.append(task.instruct(story, named, split_generator(seed, "test", number)))
    return found


def make_choices(task: StoriesConfig, documents: Sequence[Document]) -> AnswerRows:
    """Where procedural stories with a twist say what the noise was: their animal, or the one that was thought of.

    Both animals are named earlier in the story, so that it is the instruction alone that tells which it will be. Each
    is a single token in the vocabulary of the nano scale; in a smaller one, the first tokens that differ are compared.

    Args:
        task: whose tokens the model has.
        documents: stories with a twist; their instructions may hide that.

    Returns:
        what comes before, and the token by which the twist begins as the answer to it; the other answer is the one by
        which the story would go on as expected.

    Raises:
        ValueError: a story without a twist, or one that is not procedural.
    """
    rows, expected_tokens = [], []
    for document in documents:
        text = document.story.story
        slots = [each.slot for each in find_evidence(text, "Twist")]
        if len(slots) < 2 or "Twist" not in document.story.features:
            raise ValueError(f"stories: no twist in {text[:60]!r}..., expected procedural stories that have one")
        believed, (start, stop) = text[slice(*slots[0])], slots[1]
        expected = dataclasses.replace(document.story, story=text[:start] + believed + text[stop:])
        whole, other = task.encode(document), task.encode(document._replace(story=expected))
        place = next(n for n, (one, two) in enumerate(zip(whole, other, strict=False)) if one != two)
        rows.append([*whole[: place + 1], SPECIAL_TOKENS.index(EOS)])
        expected_tokens.append(other[place])
    token_ids, _ = pad_left(rows)
    return AnswerRows.one_token(token_ids, pad=SPECIAL_TOKENS.index(PAD), other=torch.tensor(expected_tokens))


def pad_left(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Rows of token ids as one tensor (B, T), and the mask of what is not padding."""
    width = max(map(len, rows))
    pad = SPECIAL_TOKENS.index(PAD)
    token_ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return token_ids, mask
