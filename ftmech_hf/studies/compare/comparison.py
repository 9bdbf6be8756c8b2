"""What did fine-tuning do at all? All that is measured of a pair of models, beside null models."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ftmech_hf.activations import TracedModel, find_units, model_blocks, split_experts
from ftmech_hf.activations.layout import spaced_layers
from ftmech_hf.analysis.activation_difference import compare_activations
from ftmech_hf.analysis.difference_components import find_components
from ftmech_hf.analysis.output_difference import OutputDifferenceResult, compare_outputs
from ftmech_hf.analysis.weights import WeightChangeResult, weight_change
from ftmech_hf.jobs.generation import Amplified, continue_rows, up_to_end
from ftmech_hf.jobs.job import finish_job, prepared_job
from ftmech_hf.models.stored import stored_tensors
from ftmech_hf.runs import RunDir, write_json
from ftmech_hf.studies.compare.finding import Finding, Words, ranked
from ftmech_hf.studies.compare.findings import Measured, Written, find_all
from ftmech_hf.studies.compare.inputs import BASE, FINETUNED, NULL, CompareConfig, Pair, load_pair
from ftmech_hf.studies.compare.nulls import null_models
from ftmech_hf.studies.compare.page import render_comparison
from ftmech_hf.studies.compare.report import answer_in_words
from ftmech_hf.studies.compare.texts import Windows, prefixes
from ftmech_hf.studies.compare.where import DRAWS, PlaceEffect, beside_nulls, place_effects
from ftmech_hf.training.loop import Progress
from ftmech_hf.training.memory import release_freed_memory

LONGEST_PREFIX = 5


def run_comparison(config: CompareConfig, *, progress: Progress | None = None) -> RunDir:
    """Compare two models and write a page, a table and ``report.json``.

    Args:
        config: which models, on which texts.
        progress: called after every model.

    Raises:
        ValueError: models of other shapes, or texts that are none.
    """
    with prepared_job(lambda: load_pair(config), "compare", config, models=config.named) as (run, pair_of):
        if run.finished:
            return run
        result = compare_pair(pair_of(), config, progress)
        write_json(run.working / "report.json", result.report())
        return finish_job(run, result.rows(), {**result.summary(), "hash": run.hash}, render_comparison)


@dataclass(frozen=True, kw_only=True)
class ComparisonResult:
    """What two models differ in.

    Attributes:
        findings: of the fine-tuned model, by kind.
        by_chance: what each null model shows beside the others, when it is asked about as the fine-tuned model is.
        weights: where the change lies, and of what size and rank it is there.
        places: which places' changes move the predictions, those that do most first.
        left_out: what was not looked at, and why, in sentences.
        facts: of the models and texts, for the page.
        seconds: what was done -> how long it took, of all models together.
    """

    findings: Sequence[Finding]
    by_chance: Sequence[Sequence[Finding]]
    weights: WeightChangeResult
    places: Sequence[PlaceEffect]
    left_out: Sequence[str]
    facts: Mapping[str, Any]
    seconds: Mapping[str, float]

    @property
    def null_rate(self) -> float | None:
        """Share of the null models on whose page anything would stand out; None of one: no other stands beside it."""
        if not self.by_chance:
            return None
        return sum(any(each.stands_out for each in page) for page in self.by_chance) / len(self.by_chance)

    def report(self) -> dict[str, Any]:
        """For programs: the answer, how often a null model would show something, and every finding."""
        return {
            "answer": answer_in_words(self.findings, self.weights.summary(), self.places),
            "null_rate": self.null_rate,
            "left_out": list(self.left_out),
            "findings": [each.row() for each in ranked(self.findings)],
        }

    def rows(self) -> list[dict[str, Any]]:
        """The tidy table: what was found, in the pair and in the null models, and the change by place and by matrix."""
        pages = {FINETUNED: self.findings, **{f"{NULL} {n + 1}": each for n, each in enumerate(self.by_chance)}}
        return [
            *({"model": name, **finding.row()} for name, page in pages.items() for finding in page),
            *({"model": FINETUNED, "kind": "weights", "what": each["matrix"], "score": each["relative_norm"], **each}
              for each in self.weights.rows()),
            *({"model": FINETUNED, **each.row()} for each in self.places),
        ]  # fmt: skip

    def summary(self) -> dict[str, Any]:
        """The report, where the change lies, and what was compared."""
        return {**self.report(), "weights": self.weights.summary(), "facts": self.facts, "seconds": self.seconds}


def compare_pair(pair: Pair, config: CompareConfig, progress: Progress | None = None) -> ComparisonResult:
    """Measure the fine-tuned model and every null model in the same way, one after another."""
    times = _Times()
    found: dict[str, Measured] = {}
    places: dict[str, list[PlaceEffect]] = {}
    with times.of("the base's streams"):
        base, left_out = _open(pair.models[BASE])
    begin = prefixes(pair.windows, number=config.completions, longest=LONGEST_PREFIX, seed=config.seed)
    models = _models(pair, config)
    for number in range(1 + _number_of_nulls(config)):
        with times.of("making null models"):
            name, model = next(models)
        found[name] = _measure(pair, base, begin, model, config, times)
        with times.of("places of the change"):
            # Where blocks are not found there are no places; null models stand beside a pair as random edits do.
            places[name] = [] if base is None else place_effects(
                pair.models[BASE], model, pair.windows, tokens=pair.tokens, seed=config.seed,
                draws=DRAWS if name == FINETUNED else 0,
            )  # fmt: skip
        del model
        release_freed_memory()  # a null model is there alone: whatever traced the one before holds it in a circle
        if progress is not None:
            progress(number + 1, 1 + _number_of_nulls(config), name)
    nulls = [name for name in found if name != FINETUNED]
    words = _words(pair)

    def page(name: str, beside: Sequence[str]) -> list[Finding]:
        return find_all(found, name, beside, base, pair.windows, words, top=config.top)

    with times.of("weights"):
        weights = _weights(pair, config)
    with times.of("finding"):
        findings = page(FINETUNED, nulls)
        by_chance = [page(name, [each for each in nulls if each != name]) for name in nulls] if len(nulls) > 1 else []
    return ComparisonResult(
        findings=findings, by_chance=by_chance, weights=weights, left_out=left_out,
        places=beside_nulls(places[FINETUNED], [{each.place: each.kl for each in places[name]} for name in nulls]),
        facts=_facts(pair, config), seconds=times.rounded(),
    )  # fmt: skip


class _Times:
    """How long what is done took, by its name."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def of(self, what: str) -> Iterator[None]:
        """While open, the time counts for this."""
        started = time.monotonic()
        yield
        self._seconds[what] = self._seconds.get(what, 0.0) + time.monotonic() - started

    def rounded(self) -> dict[str, float]:
        """In the order in which they first began, to a tenth of a second."""
        return {what: round(seconds, 1) for what, seconds in self._seconds.items()}


def _number_of_nulls(config: CompareConfig) -> int:
    return len(config.nulls_given) or config.null_models


def _models(pair: Pair, config: CompareConfig) -> Iterator[tuple[str, PreTrainedModel]]:
    """The fine-tuned model and the null models, one in memory at a time beside those that were given."""
    yield FINETUNED, pair.models[FINETUNED]
    given = {name: model for name, model in pair.models.items() if name.startswith(NULL)}
    yield from given.items()
    if not given:
        made = null_models(
            pair.models[BASE], pair.models[FINETUNED], *pair.windows, number=config.null_models, seed=config.seed,
            steps=config.null_steps, batch_size=config.null_batch_size,
        )  # fmt: skip
        for number in range(config.null_models):
            yield f"{NULL} {number + 1}", next(made)


def _open(model: PreTrainedModel) -> tuple[TracedModel | None, list[str]]:
    """The base with its sites; or none, and why its stream is not looked at."""
    try:
        return TracedModel(model), []
    except ValueError as error:
        return None, [f"How the stream is shifted was not looked at: {error}."]


def _measure(
    pair: Pair, base: TracedModel | None, begin: Sequence[list[int]], model: PreTrainedModel, config: CompareConfig,
    times: _Times,
) -> Measured:  # fmt: skip
    activations = components = None
    if base is not None:
        layers = spaced_layers(base.num_layers, config.max_layers)
        begun = pair.windows.mask[:, :6]
        rows = pair.windows.token_ids[begun.all(1) & (begun.shape[1] == 6)][:, :6]
        with times.of("shift"):
            traced = TracedModel(model)
            activations = compare_activations(base, traced, rows, layers=layers) if len(rows) else None
        with times.of("components"):
            components = find_components(base, traced, *pair.windows, layers=layers)
    part = max(1, len(begin) // len(config.strengths)) if config.strengths else 0  # as many texts as without strength
    with times.of("completions"):
        written = {0.0: _write(pair, model, begin, 0.0, config)}
    with times.of("amplified completions"):
        written |= {strength: _write(pair, model, begin[:part], strength, config) for strength in config.strengths}
    with times.of("predictions on the texts"):
        outputs = _compared(pair, model, pair.windows)
    return Measured(outputs=outputs, written=written, activations=activations, components=components)


def _compared(
    pair: Pair, model: PreTrainedModel, windows: Windows, places: Tensor | None = None
) -> OutputDifferenceResult:
    return compare_outputs(pair.models[BASE], {"": model}, *windows, places=places, tokens=pair.tokens)[""]


def _write(
    pair: Pair, model: PreTrainedModel, begin: Sequence[list[int]], strength: float, config: CompareConfig
) -> Written:
    """What a model writes, and what it and the base predict there."""
    amplified = Amplified(pair.models[BASE], strength) if strength else None
    written = continue_rows(
        model, begin, eos=pair.tokenizer.eos_token_id, seed=config.seed, max_new_tokens=config.completion_tokens,
        amplified=amplified, tokens=pair.tokens,
    )  # fmt: skip
    written = [up_to_end(ids, pair.ends) for ids in written]
    texts = [(before, after) for before, after in zip(begin, written, strict=True) if after]
    texts = texts or [(begin[0], [])]  # a model that writes nothing at all gains nothing
    wrote = Windows.of([[*before, *after] for before, after in texts])
    # What stands at the beginning of a text was given, and is no text of the model's.
    lengths = torch.tensor([len(before) for before, _ in texts])
    own = torch.arange(wrote.mask.shape[1] - 1) >= lengths[:, None] - 1
    return Written(wrote, _compared(pair, model, wrote, own))


def _words(pair: Pair) -> Words:
    def token(number: int) -> str:
        return repr(pair.tokenizer.decode([number]))[1:-1] or str(pair.tokenizer.convert_ids_to_tokens(number))

    def text(ids: Sequence[int]) -> str:
        return " ".join(str(pair.tokenizer.decode(list(ids))).split())

    return Words(token=token, text=text)


def _weights(pair: Pair, config: CompareConfig) -> WeightChangeResult:
    """The size of the change of every matrix, experts by themselves; its rank and direction in some blocks alone.

    A decomposition takes time by the cube of a matrix's width: of all matrices of a large model, hours.
    """
    before, after = (stored_tensors(pair.models[name]) for name in (BASE, FINETUNED))
    try:
        units = find_units(pair.models[BASE], "row")
    except ValueError:
        return weight_change(before, after, {})
    layers = spaced_layers(len(list(model_blocks(pair.models[BASE]))), config.max_layers)
    return weight_change(
        split_experts(before, units), split_experts(after, units),
        {unit.matrix(name): unit.axis == 1 for name, unit in units.items()},
        sizes_alone={unit.matrix(name) for name, unit in units.items() if unit.layer not in layers},
    )  # fmt: skip


def _facts(pair: Pair, config: CompareConfig) -> dict[str, Any]:
    base = pair.models[BASE]
    return {
        "base": config.named["base"],
        "finetuned": config.named["finetuned"],
        "architecture": type(base).__name__,
        "parameters": base.num_parameters(),
        "texts": config.texts or "what the base writes",
        "windows": len(pair.windows.mask),
        "tokens": int(pair.windows.mask.sum()),
        "null_models": _number_of_nulls(config),
        "null": ", ".join(config.nulls_given) or "made here",
    }
