"""What a model that writes stories is asked: to write one with a feature, and to choose between two endings."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from ftmech_hf.tasks.schema import split_generator
from ftmech_hf.tasks.stories import FEATURES, Story, find_evidence
from ftmech_hf.tasks.stories.task import StoriesConfig


def find_stories(
    task: StoriesConfig, split: str, seed: int, number: int, *, feature: str, has: bool = True
) -> list[Story]:
    """The first stories of a split that have a feature, or have it not."""
    stories = (task.story(seed, split, place)[0] for place in itertools.count())
    return list(itertools.islice((story for story in stories if (feature in story.features) == has), number))


def name_feature(story: Story, feature: str, named: bool) -> Story:
    """The story under an instruction that does or does not name a feature; its other features stay."""
    features = tuple(name for name in FEATURES if (named if name == feature else name in story.features))
    return dataclasses.replace(story, features=features)


def make_prompts(stories: Sequence[Story], feature: str, named: bool, seed: int) -> list[str]:
    """The instructions of stories, with and without the feature's name; the header lines are in random order."""
    return [
        name_feature(story, feature, named).prompt(split_generator(seed, "test", number))
        for number, story in enumerate(stories)
    ]


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
        """The model's logits at the places, (B, V)."""
        device = next(model.parameters()).device
        mask = self.mask.to(device)
        logits: Tensor = model(
            self.token_ids.to(device), attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            use_cache=False, logits_to_keep=1,
        ).logits[:, -1]  # fmt: skip
        return logits.float()


def make_choices(stories: Sequence[Story], prompts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> Choices:
    """Where procedural stories with a twist say what the noise was: their animal, or the one that was thought of.

    Both animals are named earlier in the story, so that it is the instruction alone that tells which it will be.

    Args:
        stories: with a twist.
        prompts: their instructions, which may hide that.
        tokenizer: of the model.

    Raises:
        ValueError: a story without a twist, or one that is not procedural.
    """
    rows, pairs = [], []
    for story, prompt in zip(stories, prompts, strict=True):
        slots = [each.slot for each in find_evidence(story.story, "Twist")]
        if len(slots) < 2 or "Twist" not in story.features:
            raise ValueError(f"stories: no twist in {story.story[:60]!r}..., expected procedural stories that have one")
        believed, (start, stop) = story.story[slice(*slots[0])], slots[1]
        texts = [story.story, story.story[:start] + believed + story.story[stop:]]
        whole, other = (tokenizer(prompt + text, add_special_tokens=False)["input_ids"] for text in texts)
        place = next(n for n, (one, two) in enumerate(zip(whole, other, strict=False)) if one != two)
        rows.append([tokenizer.bos_token_id, *whole[:place]])
        pairs.append((whole[place], other[place]))
    width = max(map(len, rows))
    twist, belief = torch.tensor(pairs).T
    return Choices(
        torch.tensor([[tokenizer.pad_token_id] * (width - len(row)) + row for row in rows]),
        torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows]),
        twist,
        belief,
    )


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
