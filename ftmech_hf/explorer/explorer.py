"""The explorer without its page: a prompt and an edit in, what every model says and where they part out."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ftmech_hf.activations import WRITABLE, TracedModel, find_layout
from ftmech_hf.activations.calls import answer_position
from ftmech_hf.activations.patches import Place, record_activations
from ftmech_hf.explorer.edits import BASE, EDITED, FINETUNED, REVERSED, Edit, EditedModel, FoundUnits, patch_of
from ftmech_hf.explorer.reading import Probes, ReadingResult, next_tokens, read_model, whole_row
from ftmech_hf.jobs.beside import torch_threads
from ftmech_hf.jobs.job import LoadingConfig
from ftmech_hf.models.interpolation import check_same_shapes
from ftmech_hf.models.prompt_learning import positions_of
from ftmech_hf.tasks.text.continuations import begun, tokens_before

SMALL = 10_000_000
"""Parameters of a model below which several threads wait for each other longer than they compute."""
PATCHED = ("resid_post", "attn_out", "mlp_act")
"""Sites that can be patched from the page, where a model has them."""


@dataclass(frozen=True, kw_only=True)
class ExplorerConfig(LoadingConfig):
    """Where models compute, how much is read of a prompt, and how much is written."""

    prompt_tokens: int = field(default=256, metadata={"help": "tokens of a prompt that are read, the last ones"})
    new_tokens: int = field(default=8, metadata={"help": "tokens that every model writes"})

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("prompt_tokens", "new_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)}, expected at least 1")


@dataclass(frozen=True, kw_only=True)
class ExplorerResult:
    """What the models say to a prompt.

    Attributes:
        token_ids: of the prompt, as far as it was read.
        cut: how many tokens before them were not read.
        readings: name of a model -> what it says; the edited one is the last.
        followed: token ids that the logit lens follows: the base's answer, and the fine-tuned model's if it is another.
        parts_at: name of a model -> the first token at which it and the fine-tuned model write something else, counted
            from 0; None if they write the same.
        seconds: what it took to edit and to read the edited model.
    """

    token_ids: list[int]
    cut: int
    readings: dict[str, ReadingResult]
    followed: list[int]
    parts_at: dict[str, int | None]
    seconds: float


def first_difference(one: Sequence[int], other: Sequence[int]) -> int | None:
    """The first place at which two texts differ, a text's end included; None if they are equal."""
    for place in range(max(len(one), len(other))):
        if list(one[place : place + 1]) != list(other[place : place + 1]):
            return place
    return None


class Explorer:
    """Two or three models of one shape, and edits of the fine-tuned one.

    Answers are asked for from several threads at once by a page; they are given one after the other.

    Args:
        models: ``base``, ``finetuned`` and, if there is one, ``reversed``, loaded with eager attention.
        tokenizer: of the base.
        config: how much is read and written.
        found: units that pruning found in the fine-tuned model.
        probes: name of a model -> its probes.
        examples: prompts to begin with.
        title: what is compared.

    Raises:
        ValueError: the models differ in shape, or answer elsewhere than at the end of a prompt.
    """

    def __init__(
        self,
        models: Mapping[str, PreTrainedModel],
        tokenizer: PreTrainedTokenizerBase,
        *,
        config: ExplorerConfig | None = None,
        found: FoundUnits | None = None,
        probes: Mapping[str, Probes] | None = None,
        examples: Sequence[str] = (),
        title: str = "",
    ) -> None:
        if any(answer_position(model) is not None for model in models.values()):
            raise ValueError("models: they answer at one place of their rows, expected causal LMs that go on writing")
        check_same_shapes(*models.values())
        self.config, self.tokenizer, self.title = config or ExplorerConfig(), tokenizer, title
        self.examples, self._probes = list(examples), dict(probes or {})
        self._small = models[BASE].num_parameters() < SMALL
        names = [name for name in (BASE, FINETUNED, REVERSED) if name in models]
        with self._threads():
            self.edited = EditedModel(models[BASE], models[FINETUNED], found)
            self._traced = {name: TracedModel(models[name]) for name in names}
            self._traced[EDITED] = TracedModel(self.edited.model)
        self.num_layers = self._traced[BASE].num_layers
        refused = find_layout(models[BASE]).refused
        self.sites = [site for site in PATCHED if site in WRITABLE and site not in refused]
        self._before = self._find_before()
        self._kept: dict[tuple[int, ...], dict[str, ReadingResult]] = {}
        self._lock = threading.Lock()

    @property
    def donors(self) -> list[str]:
        """The models that can be patched from."""
        return [name for name in self._traced if name != EDITED]

    def _threads(self) -> contextlib.AbstractContextManager[None]:
        return torch_threads(1) if self._small else contextlib.nullcontext()

    def _find_before(self) -> list[int]:
        """What the tokenizer puts before a text, seen at one that it takes."""
        for text in ("a", *self.examples):
            with contextlib.suppress(Exception):  # the tokenizers library has one exception for everything
                return tokens_before(text, self.tokenizer)
        return []

    def encode(self, prompt: str) -> tuple[list[int], int]:
        """A prompt's token ids as far as they are read, and how many before them are not.

        Raises:
            ValueError: there is nothing to read.
        """
        text = prompt.encode("utf-8", "replace").decode("utf-8")  # what is no character cannot be a token
        try:
            encoded = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] if text else []
        except Exception as error:  # the tokenizers library has one exception for everything
            raise ValueError(f"prompt: the tokenizer does not take it: {' '.join(str(error).split())[:200]}") from error
        token_ids = begun(encoded, self._before)
        if not token_ids and self.tokenizer.bos_token_id is not None:
            token_ids = [self.tokenizer.bos_token_id]
        if not token_ids:
            raise ValueError("prompt: it is empty, and this tokenizer has no token that begins a text")
        positions = positions_of(self._traced[BASE].model) or 2**31
        room = max(1, min(self.config.prompt_tokens, positions - self.config.new_tokens))
        cut = max(0, len(token_ids) - room)
        # What begins every text stays: models look at it, and answer otherwise without it.
        front = token_ids[: min(len(self._before), room - 1)] if cut else []
        return [*front, *token_ids[len(front) + cut :]], cut

    def spell(self, token: int) -> str:
        """One token in letters; what a tokenizer shows of it if it has none."""
        return str(self.tokenizer.decode([token])) or str(self.tokenizer.convert_ids_to_tokens(token))

    def write(self, token_ids: Sequence[int]) -> str:
        """Tokens that follow each other in letters."""
        return str(self.tokenizer.decode(list(token_ids))) if token_ids else ""

    def ask(self, prompt: str, edit: Edit | None = None) -> ExplorerResult:
        """What every model says, and the edited one.

        Raises:
            ValueError: nothing to read in the prompt, or a layer, site or model of a patch that is not there.
        """
        edit = edit or Edit()
        token_ids, cut = self.encode(prompt)
        self._check(edit)
        with self._lock, torch.no_grad(), self._threads():
            readings = self._unedited(token_ids)
            followed = list(dict.fromkeys(readings[name].top[0][0] for name in (BASE, FINETUNED)))
            start = time.perf_counter()
            readings[EDITED] = self._read_edited(token_ids, followed, edit)
            seconds = time.perf_counter() - start
        reference = readings[FINETUNED].written
        parts = {name: first_difference(found.written, reference) for name, found in readings.items()}
        return ExplorerResult(
            token_ids=token_ids, cut=cut, readings=readings, followed=followed, parts_at=parts, seconds=seconds
        )

    def _check(self, edit: Edit) -> None:
        if edit.patch_from is None:
            return
        if edit.patch_from not in self.donors:
            raise ValueError(f"patch_from: {edit.patch_from!r}, expected one of {', '.join(self.donors)}")
        if edit.patch_site not in self.sites:
            raise ValueError(f"patch_site: {edit.patch_site!r}, expected one of {', '.join(self.sites)}")
        if not 0 <= edit.patch_layer < self.num_layers:
            raise ValueError(f"patch_layer: {edit.patch_layer}, expected 0 to {self.num_layers - 1}")

    def _unedited(self, token_ids: list[int]) -> dict[str, ReadingResult]:
        """What the models say as they are; kept for the prompt that was asked last, since sliders do not change it."""
        key = tuple(token_ids)
        if key not in self._kept:
            best = [int(next_tokens(self._traced[name].model, token_ids).argmax()) for name in (BASE, FINETUNED)]
            followed = list(dict.fromkeys(best))
            self._kept = {key: {name: self._read(name, token_ids, followed) for name in self.donors}}
        return dict(self._kept[key])

    def _read(self, name: str, token_ids: list[int], followed: list[int]) -> ReadingResult:
        return read_model(
            self._traced[name], self.tokenizer, token_ids, followed, new_tokens=self.config.new_tokens,
            probes=self._probes.get(name),
        )  # fmt: skip

    def _read_edited(self, token_ids: list[int], followed: list[int], edit: Edit) -> ReadingResult:
        place: Place = (edit.patch_site, edit.patch_layer)
        donor: Tensor | None = None
        if edit.patch_from is not None:
            row = whole_row(token_ids)[:, :-2].to(self.edited.model.device)
            donor = record_activations(self._traced[edit.patch_from].model, row, [place])[place]
        with self.edited.edited(edit):
            return read_model(
                self._traced[EDITED], self.tokenizer, token_ids, followed, new_tokens=self.config.new_tokens,
                patch=dict if donor is None else lambda: {place: patch_of(donor, edit)},
            )  # fmt: skip
