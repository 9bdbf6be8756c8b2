"""Questions as every model reads them: a fine-tuned model whose tokenizer reads other tokens is asked in its own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ftmech_hf.config import tell
from ftmech_hf.jobs.behavior import Behavior
from ftmech_hf.jobs.prompts import from_datasets
from ftmech_hf.models.identity import find_gguf, find_model
from ftmech_hf.models.loading import TOKENIZER_FILES, load_tokenizer
from ftmech_hf.models.vocabulary import check_known, compared_tokens, fit_vocabulary
from ftmech_hf.tasks.text.reading import Table


@dataclass(frozen=True)
class PairQuestions:
    """What a diagnosis asks.

    Attributes:
        behaviors: about the capability, and if there are any about what was taught, as the base reads them.
        own: the same questions as the fine-tuned model's own tokenizer reads them, if those are other tokens.
        difference: the first question that is read differently.
    """

    behaviors: list[Behavior]
    own: list[Behavior] | None = None
    difference: str | None = None


def ask_models(
    names: Sequence[str | Table],
    models: Mapping[str, str],
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    **settings: Any,
) -> PairQuestions:
    """Questions from data sets for several models.

    Args:
        names: of the data sets.
        models: ``base``, ``finetuned`` and others -> folder; those that are left out read the base's tokens.
        tokenizer: of the base; None for the one beside it.
        settings: of :func:`~ftmech_hf.jobs.prompts.from_datasets`.

    Raises:
        ValueError: the questions cannot be asked; or the tokenizer of a model that is neither the base nor the
            fine-tuned one reads other tokens.
    """
    base = tokenizer or load_tokenizer(models["base"])
    behaviors = from_datasets(names, base, **settings)
    own, difference = None, None
    for role, other in _other_tokenizers(base, {role: each for role, each in models.items() if role != "base"}):
        try:
            found = from_datasets(names, other, **settings)
        except ValueError as error:
            raise ValueError(f"{role}: with its own tokenizer, {error}") from error
        text = first_difference(behaviors, found)
        if text is None:
            continue
        if role != "finetuned":
            raise ValueError(f"{role}: its tokenizer reads other tokens than the base's, first in {text!r}")
        how = settings.get("how")
        if (how and how.leaves_out) or [len(each.test) for each in behaviors] != [len(e.test) for e in found]:
            raise ValueError(
                f"finetuned: its tokenizer reads other tokens than the base's, first in {text!r}, and would leave out "
                "other rows; give questions that both can be asked"
            )
        own, difference = found, text
    return PairQuestions(behaviors, own, difference)


def check_questions_known(called: str, known: int, behaviors: Sequence[Behavior]) -> None:
    """Make sure that a model has a row for every token of some questions and their answers.

    Args:
        called: the setting and the model, for errors.
        known: how many rows its embeddings have.
        behaviors: as it reads them.

    Raises:
        ValueError: it has not.
    """
    for behavior in behaviors:
        largest = _largest_id(behavior)
        check_known(called, known, largest, behavior.spell([largest]))


def _largest_id(behavior: Behavior) -> int:
    """The largest token id that a model is shown or gives; the end of a row is neither."""
    found = [0]
    again = [] if behavior.again is None else [behavior.again]
    for part in (behavior.train, behavior.validation, *behavior.tests.values(), *again):
        found += [int(each.max()) for each in (part.token_ids[:, :-1], part.other) if each is not None and len(each)]
        wholes = (whole for more in (part.accepted, part.choices) for row in more or () for whole in row)
        found += [max(whole.token_ids[:-1]) for whole in wholes]
    return max(found)


def check_same_tokens(
    behavior: Behavior, dataset: str, models: Sequence[str], tokenizer: PreTrainedTokenizerBase, **settings: Any
) -> None:
    """Make sure that all models read a data set as the first one does.

    Args:
        behavior: the data set as the first model reads it.
        dataset: its name.
        models: folders or names on the Hub.
        tokenizer: of the first.
        settings: of :func:`~ftmech_hf.jobs.prompts.from_datasets`.

    Raises:
        ValueError: a model's own tokenizer reads other tokens.
    """
    for folder, other in _other_tokenizers(tokenizer, {folder: folder for folder in models[1:]}):
        text = first_difference([behavior], from_datasets([dataset], other, **settings))
        if text is not None:
            raise ValueError(
                f"models: the tokenizer of {folder} reads other tokens than that of {models[0]}, first in {text!r}"
            )


def _other_tokenizers(
    tokenizer: PreTrainedTokenizerBase, models: Mapping[str, str]
) -> Iterator[tuple[str, PreTrainedTokenizerBase]]:
    """The models that have a tokenizer of their own which may give a text other ids: (label, tokenizer)."""
    for label, folder in models.items():
        other = own_tokenizer(folder)
        if other is not None and _definition(other) != _definition(tokenizer):
            yield label, other


def own_tokenizer(folder: str) -> PreTrainedTokenizerBase | None:
    """The tokenizer that lies beside a model, if one does; a GGUF file has it inside."""
    if find_gguf(folder) is not None:
        return load_tokenizer(folder)
    where = find_model(folder)
    return load_tokenizer(folder) if any((where / name).is_file() for name in TOKENIZER_FILES) else None


def in_vocabulary_of(
    base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, role: str, folder: str, model: PreTrainedModel
) -> PreTrainedModel:
    """A model in a base's vocabulary, so that both read what the base's tokenizer gives; itself if that is its own.

    What the model's own tokenizer has besides, such as the marks of a chat, is left out, which is said.

    Args:
        base: whose vocabulary it is.
        tokenizer: of the base.
        role: what errors call the model.
        folder: of the model, in which its own tokenizer is looked for.
        model: stays as it is.

    Raises:
        ValueError: the two are of two architectures, or nothing says which of their rows are the same tokens.
    """
    own = own_tokenizer(folder)
    common = compared_tokens(role, base, model, (tokenizer.get_vocab(), None if own is None else own.get_vocab()))
    if common.only_second:
        first = ", ".join(repr(word) for word in common.only_second[:3])
        tell(f"{role}: {len(common.only_second)} tokens are its own alone and are left out, such as {first}")
    return fit_vocabulary(model, base, common.turned())


def first_difference(ours: Sequence[Behavior], theirs: Sequence[Behavior]) -> str | None:
    """The text of the first question that two tokenizers read differently, or one of its answers; None if none is."""
    for one, other in zip(ours, theirs, strict=True):
        rows, others = _rows(one), _rows(other)
        for row, read in itertools.zip_longest(rows, others):
            if row != read:
                return one.spell((row or rows[-1])[0][:-1])
    return None


def _rows(behavior: Behavior) -> list[tuple[list[int], list[Any]]]:
    """Rows without what fills them, and every other answer to them; fillers may differ between tokenizers."""
    found: list[tuple[list[int], list[Any]]] = []
    for part in (behavior.test, behavior.validation, behavior.again or behavior.train):
        others: list[list[Any]] = [[] for _ in range(len(part))]
        for more in (part.accepted, part.choices):
            for row, wholes in zip(others, more or [()] * len(part), strict=True):
                row.append([(list(whole.token_ids), whole.answer) for whole in wholes])
        if part.other is not None:
            others = [[*row, first] for row, first in zip(others, part.other.tolist(), strict=True)]
        own = ([token for token in row if token != behavior.pad] for row in part.token_ids.tolist())
        found += list(zip(own, others, strict=True))
    return found


def _definition(tokenizer: PreTrainedTokenizerBase) -> tuple[Any, ...]:
    """All that says which ids a text gets; equal only if the ids are."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return (
        tokenizer if backend is None else backend.to_str(),
        tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id, len(tokenizer),
        getattr(tokenizer, "chat_template", None), getattr(tokenizer, "add_bos_token", None),
        getattr(tokenizer, "add_eos_token", None),
    )  # fmt: skip
