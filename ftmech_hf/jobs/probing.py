"""Can an answer be read from the stream of saved models?"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ftmech_hf.activations import ActivationStore, TracedModel
from ftmech_hf.activations.calls import predicting_position
from ftmech_hf.analysis.probing import ProbingResult, fit_probes
from ftmech_hf.jobs.answer_rows import AnswerRows
from ftmech_hf.jobs.asking import Asked, ask, asking_job, check_procedural, describe_dataset, find_capability
from ftmech_hf.jobs.behavior import Behavior, from_task
from ftmech_hf.jobs.job import (
    ModelJobConfig,
    check_positive,
    finish_job,
    first_of,
    load_named,
    one_by_one,
    parse_models,
)
from ftmech_hf.jobs.publication import Picture, Publication, as_percent, asked_name
from ftmech_hf.jobs.saved_probes import save_probes
from ftmech_hf.models.loading import RANDOM_INIT
from ftmech_hf.runs import FinishedRun, RunDir
from ftmech_hf.statistics.clusters import Groups, paired_lead
from ftmech_hf.statistics.floors import FloorResult, measure_floor
from ftmech_hf.tasks import PcfgShape, Rows, Task, for_capability
from ftmech_hf.training.loop import Progress

CONTROL = "control"


@dataclass(frozen=True, kw_only=True)
class ProbeConfig(ModelJobConfig):
    """Which models to probe, and on what."""

    models: list[str] = field(
        default_factory=lambda: ["finetuned=runs/finetune"],
        metadata={
            "place": "input",
            "help": "name=folder of each model; one called control is what the others are compared with",
        },
    )
    operator: str = field(default="count", metadata={"help": "task token of the capability"})
    prompt_operand: str = field(default="a", metadata={"help": "operand that the prompts name"})
    label_operands: list[str] = field(
        default_factory=list,
        metadata={"help": "operands whose answers are read; the base and the correlated one if none is given"},
    )
    positions: list[int] = field(
        default_factory=lambda: [-1], metadata={"help": "tokens of the prompt to read at; -1 predicts the answer"}
    )
    method: Literal["logistic", "ridge", "adamw"] = field(
        default="logistic", metadata={"help": "to convergence, in closed form, or the paper's 4,000 steps of AdamW"}
    )
    num_shuffles: int = field(default=2, metadata={"help": "fits on shuffled labels"})
    num_tasks: int = field(default=2, metadata={"help": "fits on control tasks"})
    type_symbols: int = field(
        default=3, metadata={"help": "a control task gives every ending of a text, of so many symbols, a random answer"}
    )
    fit_rows: int = field(default=2000, metadata={"help": "rows the probes are fitted on"})
    test_rows: int = field(default=1024, metadata={"help": "rows they are tested on"})
    output_dir: str = field(default="runs/probe", metadata={"place": "output", "help": "the run's folder"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "fit_rows", "test_rows", "num_shuffles", "num_tasks", "type_symbols")
        if not self.positions or len(set(self.positions)) != len(self.positions):
            raise ValueError(f"positions: {self.positions}, expected at least one, none twice")
        parse_models(self.models)

    def inputs(self) -> dict[str, str]:
        """Which model the random twin is like, where that is not the usual one."""
        return first_of(self.models)


def probe(config: ProbeConfig, asked: Asked, *, progress: Progress | None = None) -> RunDir:
    """Probe models, and a randomly initialised twin of the first, for answers that are not necessarily asked for.

    Sites: the embedding and the stream after every block, at the given positions. Of the procedural task, the prompts
    name ``prompt_operand``; the first label is the answer for the *base* operand, so a probe can look for what is not
    asked. Of each model the best site is chosen on other rows than it is reported on, and models are compared there on
    the same rows (``over_random`` and the like). Of another task or a data set, the label is the answer, or its first
    token where some have several; rows have no types there, and so there are no control tasks. The probes of every
    model lie in ``probes/`` beside its hash, without which :func:`~ftmech_hf.jobs.saved_probes.load_probes` does not
    load them.

    Raises:
        ValueError: an unknown operand, a data set that cannot be asked, or models that read it as different tokens.
    """
    models = parse_models(config.models)
    asking = asking_job(lambda: _find_behavior(config, asked, models), "probe", config, asked, models)
    with asking as (run, behavior):
        if run.finished:
            return run
        fit_on, choose_on, test_on = behavior().train, behavior().validation, behavior().test
        right: dict[str, NDArray[np.bool_]] = {}
        table: list[dict[str, Any]] = []
        summary: dict[str, Any] = {}
        for number, name in one_by_one((*models, RANDOM_INIT)):
            result = _probe_model(config, TracedModel(load_named(config, models, name)), fit_on, choose_on, test_on)
            hashed = f"random weights, seed {config.seed}"
            if name != RANDOM_INIT:
                hashed = run.inputs[name]
            save_probes(run.working / "probes" / name, result.probes, hashed,
                        {"method": config.method, "positions": list(config.positions)})  # fmt: skip
            table += [{"model": name, **row} for row in result.rows()]
            by_label = {label: result.best(label).accuracy for label in test_on.labels}
            summary[name] = {**result.summary(), "accuracy_by_label": by_label}
            best = result.best()
            right[name] = result.right[best.site, best.label]
            if progress is not None:
                progress(number, len(models) + 1, f"{name}: {summary[name]['accuracy']:.1%}")
        _compare(summary, right, test_on.groups)
        return finish_job(run, table, {**summary, **describe_dataset(behavior(), asked)}, floors=_floors(behavior()))


def _find_behavior(config: ProbeConfig, asked: Asked, models: Mapping[str, str]) -> Behavior:
    sizes: dict[str, Any] = {"seed": config.seed, "train_rows": config.fit_rows, "test_rows": config.test_rows}
    if not isinstance(asked, PcfgShape):
        check_procedural(config, "label_operands", "operator", "prompt_operand", "num_tasks", "type_symbols")
        return ask(asked, models, **sizes)
    shape = asked
    if (types := len(shape.symbols) ** config.type_symbols) > config.fit_rows:
        raise ValueError(
            f"type_symbols: {config.type_symbols}, which are {types} types of rows, expected no more than fit_rows: "
            f"{config.fit_rows}; no probe would see a type twice"
        )
    operands = config.label_operands or [shape.base_operand, shape.correlated_operand]
    if unknown := [name for name in operands if name not in shape.symbols]:
        raise ValueError(f"label_operands: {unknown[0]!r}, expected some of {', '.join(shape.symbols)}")

    def known(task: Task, rows: Rows) -> Mapping[str, Any]:
        """The answer for each operand, and the type of each row for the control task."""
        texts = shape.texts(rows.token_ids)
        ending = texts[:, -config.type_symbols :].astype(np.int64)
        return {
            "labels": {name: shape.answers(config.operator, texts, shape.symbols.index(name)) for name in operands},
            "types": ending @ len(shape.symbols) ** np.arange(ending.shape[1]),
        }

    task = for_capability(shape, find_capability(shape, config.operator, config.prompt_operand))
    return from_task(task, known=known, **sizes)


def _probe_model(
    config: ProbeConfig, traced: TracedModel, fit_on: AnswerRows, choose_on: AnswerRows, test_on: AnswerRows
) -> ProbingResult:
    types = None if fit_on.types is None or test_on.types is None else (fit_on.types, test_on.types)
    with tempfile.TemporaryDirectory() as folder:
        train, choose, test = (
            _StreamSites(traced, rows, config.positions, Path(folder) / name)
            for name, rows in (("train", fit_on), ("choose", choose_on), ("test", test_on))
        )
        return fit_probes(
            train,
            fit_on.labels,
            test,
            test_on.labels,
            choose=(choose, choose_on.labels),
            types=types,
            method=config.method,
            seed=config.seed,
            num_shuffles=config.num_shuffles,
            num_tasks=config.num_tasks,
            device=traced.model.device,
        )


class _StreamSites(Mapping[str, Tensor]):
    """The embedding and the stream after every block, on disk: site name -> activations (B, D), read when asked."""

    def __init__(self, traced: TracedModel, rows: AnswerRows, positions: list[int], folder: Path) -> None:
        token_ids, shown = rows.prompts()
        read = [predicting_position(traced.model) if position == -1 else position for position in positions]
        where: dict[str, Any] = {"positions": read, "attention_mask": None if shown is None else shown.long()}
        first = traced.collect_to(folder / "embedding", token_ids, ["resid_pre"], layers=[0], **where)
        after = traced.collect_to(folder / "blocks", token_ids, ["resid_post"], **where)
        named: dict[str, tuple[ActivationStore, tuple[str, int]]] = {"embedding": (first, ("resid_pre", 0))}
        named |= {f"block {layer}": (after, ("resid_post", layer)) for layer in range(traced.num_layers)}
        self._places = {
            name if len(positions) == 1 else f"{name}, token {position}": (*store, number)
            for number, position in enumerate(positions)
            for name, store in named.items()
        }

    def __getitem__(self, site: str) -> Tensor:
        store, key, number = self._places[site]
        return torch.from_numpy(np.array(store[key][:, number]))

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _floors(behavior: Behavior) -> dict[str, FloorResult]:
    """How often one answer is right for every label: on the rows that are reported, and chosen on those of the fit."""
    fitted, tested = ({name: [(each,) for each in labels.tolist()] for name, labels in rows.labels.items()}
                      for rows in (behavior.train, behavior.test))  # fmt: skip
    return {name: measure_floor(labels, fitted[name]) for name, labels in tested.items()}


def _compare(summary: dict[str, Any], right: Mapping[str, NDArray[np.bool_]], groups: Groups) -> None:
    """Say how far each model is above the control, above random weights and above the fine-tuned model.

    Each is read at the site that was chosen for it, on the same rows: with the 95 % interval of paired rows,
    wider where rows of one group are alike.
    """
    for key, reference in (("over_control", CONTROL), ("over_random", RANDOM_INIT), ("over_finetuned", "finetuned")):
        if reference in summary:
            for name, found in summary.items():
                found[key] = paired_lead(right[name], right[reference], groups)._asdict()


def _state(run: FinishedRun, label: str) -> list[str]:
    if label not in run.summary:
        return []
    mine, control = run.summary[label], run.summary.get(RANDOM_INIT)
    above = mine.get("over_random", {})
    beside = (
        f", and {as_percent(control['accuracy'])} from that of random weights, a difference of "
        f"{100 * above['value']:+.1f} points ({100 * above['low']:.1f} to {100 * above['high']:.1f})"
        if control and label != RANDOM_INIT
        else ""
    )
    return [
        f"A linear probe reads `{_read_name(run, mine)}` from its stream in "
        f"{as_percent(mine['accuracy'])} of the prompts{beside}; "
        f"{as_percent(mine['shuffled'])} with shuffled labels, and {as_percent(mine['majority'])} by "
        "always naming the most frequent answer."
    ]


def _read_name(run: FinishedRun, found: Mapping[str, Any]) -> str:
    """What a probe reads: of the procedural task the capability with these answers, asked for or not."""
    of_operand = "dataset" not in run.summary and run.config.get("task") is None and "label" in found
    return f"{run.config['operator']}_{found['label']}" if of_operand else asked_name(run)


def _draw(run: FinishedRun) -> list[Picture]:
    from ftmech_hf.jobs.figures import draw_probing  # jobs start without matplotlib

    caption = "What linear probes read from the stream, beside random weights and shuffled labels"
    return [Picture("probing.png", caption, lambda ax: draw_probing(ax, {0: {"probe": run}}, "Linear probes"))]


PUBLICATIONS = (
    Publication(
        kind="probe",
        holds="table",
        question="Can an answer be read from the stream, and where?",
        state=_state,
        pictures=_draw,
    ),
)
