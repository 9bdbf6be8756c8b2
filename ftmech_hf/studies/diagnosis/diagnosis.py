"""Is a capability of a base model still there in what it was fine-tuned into? All instruments on one pair of models."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from ftmech_hf.jobs.job import JobConfig, finish_job, job
from ftmech_hf.jobs.padding import mask_padding
from ftmech_hf.jobs.prompts import task_questions
from ftmech_hf.jobs.tokenizers import Asked, ask_models
from ftmech_hf.models.loading import RANDOM_INIT, load_model, model_positions, random_twin, untie_alike
from ftmech_hf.runs import RunDir, is_finished
from ftmech_hf.studies.diagnosis import evidence, whereabouts
from ftmech_hf.studies.diagnosis.case import BASE, FINETUNED, NULL, ExaminationConfig, Examined, Found, TableRow, plain
from ftmech_hf.studies.diagnosis.verdict import Evidence, judge_behaviour, judge_capability
from ftmech_hf.tasks import Capability, PcfgShape
from ftmech_hf.tasks.text.identity import dataset_hash
from ftmech_hf.training.loop import Progress


@dataclass(frozen=True, kw_only=True)
class DiagnoseConfig(JobConfig):
    """Which models to diagnose, and what to ask them."""

    base: str = field(
        default="runs/pretrain", metadata={"place": "input", "help": "folder of the base model, or its name on the Hub"}
    )
    finetuned: str = field(
        default="runs/finetune", metadata={"place": "input", "help": "what it was fine-tuned into; may be an adapter"}
    )
    control: str | None = field(
        default=None,
        metadata={
            "place": "input",
            "help": "a model of the same shape that never had the capability; else one of random weights",
        },
    )
    twin: str | None = field(
        default=None,
        metadata={"place": "input", "help": "the base trained with another seed, to see what differs between seeds"},
    )
    reversed: str | None = field(
        default=None,
        metadata={"place": "input", "help": "the model after reverse fine-tuning, for the path; else it is made here"},
    )
    dataset: str | None = field(
        default=None,
        metadata={
            "place": "input",
            "help": "questions about the capability: columns prompt and answer; the procedural task if not given",
        },
    )
    other_dataset: str | None = field(
        default=None, metadata={"place": "input", "help": "questions that fine-tuning taught, in the same columns"}
    )
    only_one_token: bool = field(
        default=False, metadata={"help": "leave out rows of a dataset whose answer is several tokens"}
    )
    operator: str = field(default="count", metadata={"help": "without a dataset: task token of the capability"})
    other_correlation: float | None = field(
        default=1.0, metadata={"help": "without a dataset: share of texts with the correlation, in what was taught"}
    )
    output_dir: str = field(default="runs/diagnose", metadata={"place": "output", "help": "the run's folder"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.other_dataset and not self.dataset:
            raise ValueError(f"other_dataset: {self.other_dataset}, but no dataset with the capability's questions")

    def inputs(self) -> dict[str, str]:
        """The data sets, by what is in them."""
        given = {"dataset": self.dataset, "other_dataset": self.other_dataset}
        return {label: dataset_hash(name) for label, name in given.items() if name}


def diagnose(
    config: DiagnoseConfig,
    examination: ExaminationConfig,
    shape: PcfgShape,
    *,
    write_page: Callable[[Path], str] | None = None,
    progress: Progress | None = None,
) -> RunDir:
    """Examine a pair of models and give a verdict; see :mod:`ftmech_hf.studies.diagnosis.verdict` for the rule.

    Args:
        config: which models, which questions.
        examination: how thoroughly.
        shape: of the procedural task, where no data set is given.
        write_page: makes ``report.html`` of the folder with the table and the summary.
        progress: called after every instrument.

    Raises:
        ValueError: models of other shapes or vocabularies, or questions that cannot be asked.
    """
    if is_finished(Path(config.output_dir)) and not config.fresh:
        with _open(config, examination, shape) as run:
            return run
    started = time.monotonic()
    case, asked, reversed_model = _prepare(
        config, examination, shape
    )  # what cannot be asked shows before anything is written
    with _open(config, examination, shape) as run:
        table, found = examine(case, reversed_model, progress)
        result = judge_capability(gather(found), case.rule)
        facts = {**_describe(config, case, asked), "seconds": round(time.monotonic() - started, 1), "hash": run.hash}
        summary = {**result.summary(), "evidence": plain(found), "rule": vars(case.rule), "facts": facts}
        return finish_job(run, table, summary, write_page)


def _describe(config: DiagnoseConfig, case: Examined, asked: Asked) -> dict[str, Any]:
    base = case.models[BASE]
    return {
        "base": config.base,
        "finetuned": config.finetuned,
        "reference": config.control or RANDOM_INIT,
        "twin": config.twin,
        "null_steps": case.config.null_steps,
        "capability": case.capability.name,
        "other": case.other.name if case.other else None,
        "rows": len(case.capability.test),
        "parameters": base.num_parameters(),
        "architecture": type(base).__name__,
        "layers": case.num_layers,
        "notes": [note for each in case.both.values() for note in each.notes],
        "other_tokens": asked.difference,
    }


def _models(config: DiagnoseConfig) -> dict[str, str]:
    given = {
        "base": config.base, "finetuned": config.finetuned, "control": config.control, "twin": config.twin,
        "reversed": config.reversed,
    }  # fmt: skip
    return {name: folder for name, folder in given.items() if folder is not None}


def _open(
    config: DiagnoseConfig, examination: ExaminationConfig, shape: PcfgShape
) -> contextlib.AbstractContextManager[RunDir]:
    vocabulary = shape.vocabulary if config.dataset is None else None
    return job("diagnose", config, shape, examination, models=_models(config), vocabulary=vocabulary)


def _ask(config: DiagnoseConfig, examination: ExaminationConfig, shape: PcfgShape) -> Asked:
    sizes: dict[str, int] = {"seed": config.seed, "train_rows": examination.fit_rows, "test_rows": examination.rows}
    if config.dataset is None:
        words = [shape.operand_word(config.operator, each) for each in (shape.base_operand, shape.correlated_operand)]
        questions = [
            task_questions(shape, Capability(config.operator, words[0]), **sizes),
            task_questions(shape, Capability(config.operator, words[1]), correlation=config.other_correlation, **sizes),
        ]

        def spell(token_ids: list[int]) -> str:
            return " ".join(shape.vocabulary[each] if each < len(shape.vocabulary) else "?" for each in token_ids)

        return Asked(questions, (spell, spell))
    names = [config.dataset, *([config.other_dataset] if config.other_dataset else [])]
    return ask_models(
        names, _models(config), **sizes, positions=model_positions(config.base), only_one_token=config.only_one_token
    )


def _prepare(
    config: DiagnoseConfig, examination: ExaminationConfig, shape: PcfgShape
) -> tuple[Examined, Asked, PreTrainedModel | None]:
    asked = _ask(config, examination, shape)
    loaded = {name: load_model(folder, base=config.base) for name, folder in _models(config).items()}
    base = loaded["base"]
    untie_alike(loaded.values())
    for name, model in loaded.items():
        _check_same_shape(name, base, model)
    loaded.setdefault("control", random_twin(base, config.seed + 1))
    capability, *others = asked.questions
    for name, model in loaded.items():
        own = asked.own if name == "finetuned" and asked.own else asked.questions
        mask_padding(model, own[0].pad)
    models = {BASE: base, FINETUNED: loaded["finetuned"], NULL: loaded["control"]}
    case = Examined(
        models, capability, others[0] if others else None, examination, config.seed, loaded.get("twin"),
        spell=asked.spell, own=asked.own,
    )  # fmt: skip
    if asked.own:
        _check_own_tokens(case, asked)
    return case, asked, loaded.get("reversed")


def _check_own_tokens(case: Examined, asked: Asked) -> None:
    """Refuse two tokenizers beside a base that knows nothing: then one of them is likely not its model's."""
    found = gather(evidence.behaviour(case)[1])
    if found.base.low - found.chance < case.rule.least_lead:
        raise ValueError(
            f"finetuned: its tokenizer reads other tokens than the base's, first in {asked.difference!r}, and the base "
            f"answers {found.base.value:.0%} right where naming one answer gives {found.chance:.0%}; expected the "
            "tokenizer that each model was trained with"
        )


def _check_same_shape(name: str, base: PreTrainedModel, model: PreTrainedModel) -> None:
    first, second = ({key: tuple(p.shape) for key, p in each.named_parameters()} for each in (base, model))
    if first != second:
        differing = sorted({key for key, _ in first.items() ^ second.items()})
        raise ValueError(
            f"{name}: its weights have other names or shapes than the base's: {', '.join(differing[:3])}; "
            "a diagnosis compares models of one architecture"
        )


def gather(found: dict[str, Any]) -> Evidence:
    """The evidence among what the instruments found."""
    return Evidence(**{name: found[name] for name in Evidence.__annotations__ if name in found})


def examine(
    case: Examined, reversed_model: PreTrainedModel | None, progress: Progress | None
) -> tuple[list[TableRow], dict[str, Any]]:
    """All instruments, in the order in which they need each other: (rows of the tidy table, evidence and facts).

    Where the answers alone decide that nothing is lost, or that there was nothing to lose, the others could not change
    the verdict, and are run only if the examination is to be thorough. Where the models read the questions as different
    tokens, they are not run.
    """
    table: list[TableRow] = []
    found: dict[str, Any] = {}
    steps: list[tuple[str, Callable[[], Found]]] = [
        ("behaviour", lambda: evidence.behaviour(case)),
        ("bystanders", lambda: evidence.bystanders(case)),
        ("pruning", lambda: evidence.pruning(case)),
        ("probing", lambda: evidence.probing(case)),
        ("patching", lambda: evidence.patching(case, found["cuts"])),
        ("reverse fine-tuning", lambda: evidence.revival(case, found["base"])),
        ("path", lambda: whereabouts.path(case, reversed_model or found.pop("reversed"))),
        ("weights", lambda: whereabouts.weights(case)),
        ("logit lens", lambda: whereabouts.lens(case)),
        ("similarity", lambda: whereabouts.similarity(case)),
        ("separation", lambda: whereabouts.separation(case)),
        ("sensitivity", lambda: whereabouts.sensitivity(case)),
    ]
    seconds = {}
    for number, (name, step) in enumerate(steps):
        started = time.monotonic()
        rows, facts = step()
        table += rows
        found |= facts
        seconds[name] = round(time.monotonic() - started, 2)
        if progress is not None:
            progress(number + 1, len(steps), name)
        if name == "behaviour" and _ends_with_answers(case, found):
            break
    found.pop("reversed", None)
    return table, {**found, "seconds": seconds}


def _ends_with_answers(case: Examined, found: dict[str, Any]) -> bool:
    """Whether the other instruments could say no more: they need the same tokens, and a capability that is lost."""
    if case.own is not None:
        return True
    answers = judge_behaviour(gather(found), case.rule)
    return not case.config.thorough and answers is not None and answers.verdict != "weakened"
