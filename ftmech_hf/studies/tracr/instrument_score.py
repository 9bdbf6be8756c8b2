"""The instruments that say which parts carry an answer, scored on small compiled programs of which that is known."""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch

from ftmech_hf.activations.patches import Part, patched_logits
from ftmech_hf.analysis.attribution import attribute_patches
from ftmech_hf.analysis.part_patching import PartPatchingResult, Source, patch_parts
from ftmech_hf.analysis.recovery import recovery
from ftmech_hf.jobs.compiling import add_noise
from ftmech_hf.jobs.job import JobConfig, check_positive, finish_job, job
from ftmech_hf.models.compiled import CompiledModel
from ftmech_hf.models.conversion import compile_program
from ftmech_hf.runs import RunDir
from ftmech_hf.studies.tracr.known_directions import known_variables, search_known
from ftmech_hf.studies.tracr.known_parts import Texts, asked_index, carrying_parts, draw_texts
from ftmech_hf.tasks.programs import Program
from ftmech_hf.tasks.small_programs import SMALL_PROGRAMS
from ftmech_hf.tasks.variables import Variables
from ftmech_hf.training.loop import Progress

EFFECT = 0.01
"""A part is found if patching it changes more than this share of the answers, or if it is estimated to change the lead
of an answer over the other text's by more than this: programs lead by 1.
"""

STEPS = 8
"""Values on the way to the other text's activation over which gradients are averaged."""

BAR = 0.95
"""Precision and recall that exact patching should have, in the median over programs."""


@dataclass(frozen=True, kw_only=True)
class InstrumentsConfig(JobConfig):
    """On which programs instruments are scored, and with how much noise on the weights."""

    programs: list[str] = field(
        default_factory=lambda: [*SMALL_PROGRAMS], metadata={"help": "of ftmech_hf.tasks.small_programs"}
    )
    noise: list[float] = field(
        default_factory=lambda: [0.0, 1e-4, 1e-3], metadata={"help": "standard deviations of the noise on the weights"}
    )
    rows: int = field(default=128, metadata={"help": "texts that instruments see; each gets another one's activations"})
    draws: int = field(default=1, metadata={"help": "of texts, of noise and of where searches start"})
    starts: int = field(
        default=1, metadata={"help": "of each search; the one with the lowest loss in training is kept"}
    )
    output_dir: str = field(default="runs/instruments", metadata={"place": "output", "help": "the run's folder"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "rows", "draws", "starts")
        if unknown := [name for name in self.programs if name not in SMALL_PROGRAMS]:
            raise ValueError(f"programs: unknown {unknown[0]!r}, expected some of {', '.join(SMALL_PROGRAMS)}")
        if not self.programs or len(set(self.programs)) != len(self.programs):
            raise ValueError(f"programs: {self.programs}, expected at least one and none twice")
        if not self.noise or min(self.noise) < 0:
            raise ValueError(f"noise: {self.noise}, expected numbers of 0 or more")


@dataclass(frozen=True)
class Trial:
    """One program with noise on its weights, and the texts that instruments see.

    Attributes:
        model: the program.
        texts: the texts.
        order: whose activations each text gets.
        truth: part -> share of pairs of texts in which the answer depends on it.
    """

    model: CompiledModel
    texts: Texts
    order: torch.Tensor
    truth: Mapping[Part, float]

    @property
    def carrying(self) -> set[Part]:
        """The parts that an instrument should find."""
        return {part for part, share in self.truth.items() if share > 0}


def _patching(source: Source) -> Callable[[Trial], PartPatchingResult]:
    def measure(trial: Trial) -> PartPatchingResult:
        rows = trial.texts.token_ids
        return patch_parts(trial.model, rows, rows[trial.order], [*trial.truth], source=source)

    return measure


def _attribution(steps: int) -> Callable[[Trial], PartPatchingResult]:
    """The size of what each part is estimated to do to the lead of the answer over the other text's."""

    def measure(trial: Trial) -> PartPatchingResult:
        own, rows = _answers(trial.model, trial.texts), trial.texts.token_ids.clone()
        rows[:, -2] = own
        found = attribute_patches(
            trial.model, trial.model, rows, sites=sorted({part.site for part in trial.truth}),
            layers=range(len(trial.model.blocks)), other_ids=rows[trial.order], instead=own[trial.order], steps=steps,
            batch_size=len(rows),
        )  # fmt: skip
        sizes = {part: abs(found.of_part(part)) for part in trial.truth}
        return PartPatchingResult(sizes, sizes)

    return measure


EXACT = "patching"
INSTRUMENTS: dict[str, Callable[[Trial], PartPatchingResult]] = {
    EXACT: _patching("other row"),
    "zeros": _patching("zero"),
    "mean over rows": _patching("mean"),
    "attribution": _attribution(0),
    f"attribution, {STEPS} steps": _attribution(STEPS),
}
"""What is scored: name -> gives each part numbers. The others are held against the first."""


def score_instruments(config: InstrumentsConfig, *, progress: Progress | None = None) -> RunDir:
    """Precision and recall of every instrument on every program with every amount of noise."""
    with job("instruments", config) as run:
        if run.finished:
            return run
        rows, directions = list[dict[str, Any]](), list[dict[str, Any]]()
        for number, name in enumerate(config.programs):
            model, vocabulary = compile_program(SMALL_PROGRAMS[name])
            truth = carrying_parts(SMALL_PROGRAMS[name], model, np.random.default_rng(_seed(config, name)))
            for draw in range(config.draws):
                rows += _score_program(config, name, draw, model, vocabulary, truth)
                directions += _search_program(config, name, draw, model, vocabulary)
            if progress is not None:
                progress(number + 1, len(config.programs), name)
        return finish_job(run, rows, {"programs": len(config.programs), "scores": summarise(rows),
                                     "directions": directions})  # fmt: skip


def _seed(config: InstrumentsConfig, name: str, *what: int) -> list[int]:
    """One program's seed, whichever others are scored beside it; of a draw, and of what is drawn."""
    return [config.seed, [*SMALL_PROGRAMS].index(name), *what]


def _score_program(
    config: InstrumentsConfig, name: str, draw: int, clean: CompiledModel, vocabulary: tuple[str, ...],
    truth: Mapping[Part, float],
) -> list[dict[str, Any]]:  # fmt: skip
    program, seed = SMALL_PROGRAMS[name], _seed(config, name, draw, 0)
    texts = draw_texts(program, vocabulary, config.rows, np.random.default_rng(seed))
    right = _answers(clean, texts)
    _check_answers(program, texts, right)
    rows = []
    for noise in config.noise:
        model = copy.deepcopy(clean)
        add_noise(model, noise, seed)
        trial = Trial(model, texts, torch.arange(config.rows).roll(1), truth)
        accuracy = float((_answers(model, texts) == right).double().mean())
        exact: dict[Part, float] = {}
        for instrument, measure in INSTRUMENTS.items():
            started = time.process_time()
            found = measure(trial)
            seconds = time.process_time() - started
            exact = exact or found.effect
            rows.append({
                "instrument": instrument, "program": name, "draw": draw, "noise": noise, "accuracy": accuracy,
                **recovery(found.changed, trial.carrying, above=EFFECT).summary(),
                "rank_correlation": _rank_correlation(found.effect, exact), "seconds": seconds,
            })  # fmt: skip
    return rows


def _rank_correlation(one: Mapping[Part, float], other: Mapping[Part, float]) -> float:
    """Spearman's, over parts, of the sizes of their effects; 0 where all are alike, which ranks nothing."""
    sizes = [pd.Series([abs(each[part]) for part in other]).round(6).rank() for each in (one, other)]
    return float(sizes[0].corr(sizes[1])) if all(each.nunique() > 1 for each in sizes) else 0.0


def _search_program(
    config: InstrumentsConfig, name: str, draw: int, model: CompiledModel, vocabulary: tuple[str, ...]
) -> list[dict[str, Any]]:
    """The search for directions, on the first variable of a program that one can look for."""
    program, rng = SMALL_PROGRAMS[name], np.random.default_rng(_seed(config, name, draw, 1))
    texts = _in_halves(draw_texts(program, vocabulary, 2 * config.rows, rng), rng)
    # the next but one, of the same half
    variables = known_variables(program, model, texts, np.roll(np.arange(2 * config.rows), 2))
    return [
        {"program": name, "draw": draw,
         **search_known(model, variable, seed=config.seed + draw, starts=config.starts)}
        for variable in itertools.islice(variables, 1)
    ]  # fmt: skip


def _in_halves(texts: Texts, rng: np.random.Generator) -> Texts:
    """As many texts, at even places of one half of the distinct ones and at odd places of the other.

    One half is searched on and the other reported: a program of few words has few texts, which are drawn many times.
    """
    distinct = list(dict.fromkeys(texts.words))
    one = {distinct[place] for place in rng.permutation(len(distinct))[::2].tolist()}
    in_one = np.array([text in one for text in texts.words])
    chosen = np.empty(len(texts.words), np.int64)
    for start, half in ((0, in_one), (1, ~in_one)):
        chosen[start::2] = rng.choice(np.flatnonzero(half), len(chosen[start::2]))
    return Texts([texts.words[place] for place in chosen.tolist()], texts.token_ids[torch.from_numpy(chosen)])


@torch.no_grad()
def _answers(model: CompiledModel, texts: Texts) -> torch.Tensor:
    return patched_logits(model, texts.token_ids, {})[:, -1].argmax(-1)


def _check_answers(program: Program, texts: Texts, answers: torch.Tensor) -> None:
    """A compiled program that does not say what it means, one word for each meaning, is no ground truth."""
    meant = Variables(program.build(), texts.words, causal=program.causal).answers(asked_index(program))
    said = set(zip(meant, answers.tolist(), strict=True))
    if not len(said) == len(set(meant)) == len(set(answers.tolist())):
        raise RuntimeError(f"program: {program.name}, compiled, does not answer what it means: {said}")


def summarise(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Median and worst precision and recall over programs and draws, of every instrument with every amount of noise.

    Returns:
        one entry per instrument and noise; ``perfect`` are the programs of which both are 1, in the draw with the
        fewest and in the one with the most, and ``seconds`` are one draw's.
    """
    found, table = [], pd.DataFrame(rows)
    exact = table[table["instrument"] == EXACT].groupby("noise")["seconds"].sum().to_dict()
    for (instrument, noise), each in table.groupby(["instrument", "noise"], sort=False):
        both = each[["precision", "recall"]]
        perfect = (both == 1).all(axis=1).groupby(each["draw"]).sum()
        draws = each["draw"].nunique()
        found.append({
            "instrument": instrument, "noise": noise, "programs": each["program"].nunique(), "draws": draws,
            **{f"{name}_median": float(both[name].median()) for name in both},
            **{f"{name}_min": float(both[name].min()) for name in both},
            "worst": each["program"].iloc[int(both.min(axis=1).to_numpy().argmin())],
            "perfect": [int(perfect.min()), int(perfect.max())],
            "chance_median": float(each["chance"].median()), "chance_max": float(each["chance"].max()),
            "accuracy_min": float(each["accuracy"].min()), "seconds": float(each["seconds"].sum() / draws),
            "of_exact": float(each["seconds"].sum() / exact[noise]),
            "rank_median": float(each["rank_correlation"].median()),
            "rank_min": float(each["rank_correlation"].min()),
        })  # fmt: skip
    return found
