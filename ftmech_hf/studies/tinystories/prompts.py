"""What a model that writes stories is asked: to write one with a feature, and to choose between two endings."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ftmech_hf.tasks.schema import PAD, SPECIAL_TOKENS, split_generator
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


class Choices(NamedTuple):
    """Places where a story goes one way or the other.

    Attributes:
        token_ids: what comes before, padded on the left, (B, T).
        mask: 1 for real tokens, (B, T).
        twist: the token by which the twist begins, (B,).
        belief: the one by which the story would go on as expected, (B,).
    """

    token_ids: Tensor
    mask: Tensor
    twist: Tensor
    belief: Tensor

    def batches(self, size: int) -> Iterator[Choices]:
        """Parts of at most so many rows, without the columns that are padding in all of them."""
        for start in range(0, len(self.twist), size):
            part = Choices(*(values[start : start + size] for values in self))
            first = int(part.mask.any(0).nonzero()[0])
            yield part._replace(token_ids=part.token_ids[:, first:], mask=part.mask[:, first:])

    def logits(self, model: nn.Module) -> Tensor:
        """The model's logits at the places, (B, V).

        Raises:
            ValueError: the model has too few positions for what comes before.
        """
        device = next(model.parameters()).device
        room = int(getattr(getattr(model, "config", None), "max_position_embeddings", 0)) or 2**31
        if (longest := int(self.mask.sum(1).max())) > room:
            raise ValueError(f"choices: {longest} tokens come before one, but the model has {room} positions")
        mask = self.mask.to(device)
        logits: Tensor = model(
            self.token_ids.to(device), attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            use_cache=False, logits_to_keep=1,
        ).logits[:, -1]  # fmt: skip
        return logits.float()


def make_choices(task: StoriesConfig, documents: Sequence[Document]) -> Choices:
    """Where procedural stories with a twist say what the noise was: their animal, or the one that was thought of.

    Both animals are named earlier in the story, so that it is the instruction alone that tells which it will be. Each
    is a single token in the vocabulary of the nano scale; in a smaller one, the first tokens that differ are compared.

    Args:
        task: whose tokens the model has.
        documents: stories with a twist; their instructions may hide that.

    Raises:
        ValueError: a story without a twist, or one that is not procedural.
    """
    rows, pairs = [], []
    for document in documents:
        text = document.story.story
        slots = [each.slot for each in find_evidence(text, "Twist")]
        if len(slots) < 2 or "Twist" not in document.story.features:
            raise ValueError(f"stories: no twist in {text[:60]!r}..., expected procedural stories that have one")
        believed, (start, stop) = text[slice(*slots[0])], slots[1]
        expected = dataclasses.replace(document.story, story=text[:start] + believed + text[stop:])
        whole, other = task.encode(document), task.encode(document._replace(story=expected))
        place = next(n for n, (one, two) in enumerate(zip(whole, other, strict=False)) if one != two)
        rows.append(whole[:place])
        pairs.append((whole[place], other[place]))
    token_ids, mask = pad_left(rows)
    twist, belief = torch.tensor(pairs).T
    return Choices(token_ids, mask, twist, belief)


def pad_left(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Rows of token ids as one tensor (B, T), and the mask of what is not padding."""
    width = max(map(len, rows))
    pad = SPECIAL_TOKENS.index(PAD)
    token_ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return token_ids, mask


@torch.no_grad()
def twists_chosen(model: nn.Module, choices: Choices, *, batch_size: int = 64) -> Tensor:
    """Whether a model finds the twist more likely than the expected, bool (B,)."""
    found = []
    for part in choices.batches(batch_size):
        logits = part.logits(model).cpu()
        found.append(logits.gather(1, part.twist[:, None]) > logits.gather(1, part.belief[:, None]))
    return torch.cat(found)[:, 0]


def twist_loss(model: nn.Module, choices: Choices) -> Tensor:
    """Mean cross-entropy (nats) of the twist's token."""
    logits = choices.logits(model)
    return F.cross_entropy(logits, choices.twist.to(logits.device))
