"""Embeddings and unembeddings of two models: which of their rows are the same tokens, and whether a model ties them.

A vocabulary grows when tokens are added and when it is padded to a round number. Which rows two models have in common
is said by their tokenizers: a row without a token is no one's, and a token may have moved.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ftmech_hf.models.stored import stored_tensors

ONE_ARCHITECTURE = "only models of one architecture are compared"


class CommonTokens(NamedTuple):
    """The tokens that two models both know.

    Attributes:
        first, second: their rows in the embeddings of either model, (C,), in one order.
        only_first, only_second: tokens of one model alone, by their ids.
    """

    first: Tensor
    second: Tensor
    only_first: tuple[str, ...] = ()
    only_second: tuple[str, ...] = ()

    def turned(self) -> CommonTokens:
        """The same with the second model as the first."""
        return CommonTokens(self.second, self.first, self.only_second, self.only_first)


def find_common_tokens(
    first: Mapping[str, int] | None, second: Mapping[str, int] | None, rows: tuple[int, int]
) -> CommonTokens:
    """Match the rows of two vocabularies.

    Args:
        first, second: token -> id, as ``get_vocab`` of their tokenizers gives them; None where neither is known.
        rows: how many each model has. Ids beyond them are no tokens of that model.

    Returns:
        the tokens that both tokenizers name. Where the vocabularies are the same and have as many rows, all rows, also
        those without a token.

    Raises:
        ValueError: the tokenizers are not known, and the models have other numbers of rows.
    """
    if first == second and rows[0] == rows[1]:
        every = torch.arange(rows[0])
        return CommonTokens(every, every)
    if first is None or second is None:
        raise ValueError(f"vocabulary: {rows[1]} rows and no tokenizer to tell them by, expected {rows[0]} as the base")
    known, others = (
        {word: words[word] for word in sorted(words, key=words.__getitem__) if words[word] < limit}
        for words, limit in zip((first, second), rows, strict=True)
    )
    common = [(number, others[word]) for word, number in known.items() if word in others]
    places = torch.tensor(sorted(common), dtype=torch.long).view(-1, 2)
    return CommonTokens(
        places[:, 0], places[:, 1],
        tuple(word for word in known if word not in others), tuple(word for word in others if word not in known),
    )  # fmt: skip


def compared_tokens(
    role: str, base: PreTrainedModel, model: PreTrainedModel, words: tuple[Mapping[str, int] | None, ...]
) -> CommonTokens:
    """The tokens that a base and another model both know, whose shapes differ in no more than their vocabularies.

    Args:
        role: what errors call the other model.
        base, model: the two.
        words: token -> id of the tokenizer of each; None where it has none, the base's is taken for the other model.

    Raises:
        ValueError: they are of two architectures, or nothing says which of their rows are the same tokens.
    """
    for key in ("model_type", "num_attention_heads", "num_key_value_heads"):
        expected, found = (getattr(each.config.get_text_config(), key, None) for each in (base, model))
        if expected != found:
            raise ValueError(f"{role}: {key} is {found}, expected {expected} as the base's; {ONE_ARCHITECTURE}")
    with_rows = {name for each in (base, model) for name in vocabulary_parameters(each)}
    first, second = (
        {name: list(p.shape[1:] if name in with_rows else p.shape) for name, p in stored_tensors(each).items()}
        for each in (base, model)
    )
    for name in sorted(first.keys() | second.keys()):
        if first.get(name) != second.get(name):
            has, expected = (each.get(name, "no such weights") for each in (second, first))
            raise ValueError(f"{role}: {name} is {has}, expected {expected} as the base's; {ONE_ARCHITECTURE}")
    try:
        return find_common_tokens(words[0], words[1] or words[0], (num_rows(base), num_rows(model)))
    except ValueError as error:
        raise ValueError(f"{role}: {error}") from error


def find_embeddings(model: PreTrainedModel) -> dict[str, Tensor]:
    """Name of the module -> weight (V, D), of the input embeddings and the unembedding."""
    ours = {id(each) for each in (model.get_input_embeddings(), model.get_output_embeddings()) if each is not None}
    return {name: module.weight for name, module in model.named_modules() if id(module) in ours}


def num_rows(model: PreTrainedModel) -> int:
    """Rows of a model's embeddings, of which some may be no tokens."""
    return len(next(iter(find_embeddings(model).values())))


def num_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """How many of the first ids may be tokens: up to the last that the tokenizer names and the model has a row for."""
    return min(num_rows(model), max(tokenizer.get_vocab().values()) + 1)


def check_known(called: str, known: int, largest: int, word: str) -> None:
    """Make sure that a model has a row for every token that it is shown.

    Args:
        called: the setting and the model, for errors.
        known: how many rows its embeddings have.
        largest: id of the tokens that it is shown.
        word: that this id stands for.

    Raises:
        ValueError: tokens were added to the tokenizer and not to the model.
    """
    if largest >= known:
        raise ValueError(
            f"{called} knows {known} tokens, but its tokenizer writes {word!r} as token {largest}, expected one below "
            f"{known}"
        )


def vocabulary_parameters(model: PreTrainedModel) -> list[str]:
    """Names of the parameters that have a row for every token: of the embeddings, the unembedding, and its bias."""
    modules = find_embeddings(model)
    return [
        name
        for name, parameter in model.named_parameters()
        if (weight := modules.get(name.rpartition(".")[0])) is not None and len(parameter) == len(weight)
    ]


def fit_vocabulary(model: PreTrainedModel, other: PreTrainedModel, common: CommonTokens) -> PreTrainedModel:
    """A model in the vocabulary of another one of its architecture; itself if that is its own already.

    It computes as its own config says, which may differ from the other's in more than the vocabulary.

    Args:
        model: stays as it is.
        other: whose rows are taken for the tokens that ``model`` does not know.
        common: of the two, with ``model`` as the first.
    """
    same = num_rows(model) == num_rows(other) == len(common.first)
    if same and torch.equal(common.first, common.second):
        return model
    fitted = copy.deepcopy(model)
    _take_rows(fitted, other, common)
    for ours, theirs in zip(_configs(fitted), _configs(other), strict=True):
        for name in ("vocab_size", "pad_token_id", "bos_token_id", "eos_token_id"):
            if hasattr(ours, name) and hasattr(theirs, name):
                setattr(ours, name, copy.deepcopy(getattr(theirs, name)))
    fitted.generation_config = copy.deepcopy(other.generation_config)
    _take_hooks(fitted, other)
    return fitted.eval()


def _configs(model: PreTrainedModel) -> list[Any]:
    """A model's config, and that of what reads text in it, which of most models is the same."""
    return [model.config, model.config.get_text_config()]


@torch.no_grad()
def _take_rows(fitted: PreTrainedModel, other: PreTrainedModel, common: CommonTokens) -> None:
    """Give a model another's rows, in its order: its own where it knows the token, the other's elsewhere."""
    own, theirs = dict(fitted.named_parameters()), dict(other.named_parameters())
    rows, made = (num_rows(fitted), num_rows(other)), dict[int, torch.nn.Parameter]()
    for name in vocabulary_parameters(fitted):
        taken = theirs[name].detach().to(own[name], copy=True)
        taken[common.second.to(taken.device)] = own[name][common.first.to(taken.device)]
        made[id(own[name])] = torch.nn.Parameter(taken, requires_grad=own[name].requires_grad)
    for module in fitted.modules():
        found = {key: made[id(each)] for key, each in module._parameters.items() if id(each) in made}
        module._parameters.update(found)  # also where two modules share them
        for size in ("num_embeddings", "out_features", "vocab_size"):
            if (found or size == "vocab_size") and getattr(module, size, None) == rows[0]:
                setattr(module, size, rows[1])
    ours, its = fitted.get_input_embeddings(), other.get_input_embeddings()
    if hasattr(ours, "padding_idx") and hasattr(its, "padding_idx"):
        ours.padding_idx = its.padding_idx


def _take_hooks(fitted: PreTrainedModel, other: PreTrainedModel) -> None:
    """What reads token ids at the door of a model, as what passes over padding does, is to know the ids it is given."""
    for kind in ("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs"):
        hooks = getattr(fitted, kind)
        hooks.clear()
        hooks.update(getattr(other, kind))


def has_tied_embeddings(model: PreTrainedModel) -> bool:
    """Whether a model's unembedding is its embedding."""
    weights = find_embeddings(model).values()
    return len(weights) == 2 and len({id(weight) for weight in weights}) == 1


def plain_layer(layer: Any) -> Any:
    """A layer without what peft put around it."""
    while (inner := layer._modules.get("base_layer", layer._modules.get("original_module"))) is not None:
        layer = inner
    return layer


def untie(model: PreTrainedModel) -> None:
    """Give a model's unembedding a matrix of its own, in its config as well; it starts as what it was."""
    head = plain_layer(model.get_output_embeddings())
    head.weight = torch.nn.Parameter(head.weight.detach().clone())
    for config in {id(each): each for each in (model.config, model.config.get_text_config())}.values():
        config.tie_word_embeddings = False


def untie_alike(models: Iterable[PreTrainedModel]) -> None:
    """Where some of the models have an unembedding of their own, give one to all, so that their weights compare.

    What they compute stays the same.
    """
    models = list(models)
    tied = [model for model in models if has_tied_embeddings(model)]
    if len(tied) < len(models):
        for model in tied:
            untie(model)
