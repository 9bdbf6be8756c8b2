"""What Jain et al. (arXiv 2311.12786) say of the procedural task and its models, beside the runs of a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any

from ftmech_hf.models.presets import PRESETS
from ftmech_hf.report.differences import NOT_SAID, Difference, OneOf
from ftmech_hf.report.paper_settings import (
    PaperTraining,
    answer_weight_rows,
    betas_rows,
    dropout_rows,
    model_size,
    precision_rows,
    reverse_rate_rows,
    seed_rows,
    training_rows,
    values,
)
from ftmech_hf.tasks import PcfgConfig, PcfgShape
from ftmech_hf.tasks.mixtures import OPERAND_PRIORS, parse_prior
from ftmech_hf.tasks.operators_table import OPERATORS
from ftmech_hf.training.optim import lr_factor_of
from ftmech_hf.training.settings import TrainConfig

RATES = OneOf([1e-4, 1e-5, 1e-6])

PRETRAINING = PaperTraining(
    part="pretraining", where="App. C.2", optimizer="AdamW", lr=1e-3, warmup=0.2, end=NOT_SAID,
    steps=OneOf([10_000, 50_000, 100_000, 200_000]),
    why={
        "optimizer": "learns to count in fewer steps", "lr": "goes with the optimizer", "warmup": "fewer steps",
        "end": "the paper says cosine, and not where it ends", "steps": "a smaller task, a smaller model",
        "batch_size": "of the task's size", "weight_decay": "the same in all parts of a scale",
        "clipping": "a lost step is not a lost run",
    },
)  # fmt: skip
FINETUNING = PaperTraining(
    part="fine-tuning", where="App. C.2", optimizer="AdamW", lr=RATES, warmup=0.2, end=0.01, steps=10_000,
    batch_size=96,
    why={
        "steps": "a smaller task, a smaller model", "batch_size": "a smaller task",
        "weight_decay": "the same in all parts of a scale", "clipping": "as in pretraining",
    },
)  # fmt: skip
REVERSING = PaperTraining(
    part="reversing", where="App. D", optimizer="AdamW", lr=RATES, warmup=0.2, end=0.01, steps=10_000, batch_size=96,
    why={
        "warmup": "under a warm-up a revival is over while the rate is near zero: that compares warm-ups",
        "end": "steps of a constant rate compare between models", "steps": "it is over sooner",
        "batch_size": "a smaller task", "weight_decay": "the same in all parts of a scale",
        "clipping": "as in pretraining",
    },
)  # fmt: skip

_SMALL = "a smaller task, which trains in minutes"


def _data_rows(shapes: Sequence[PcfgShape]) -> list[Difference]:
    read: tuple[tuple[str, str, Any, str], ...] = (
        ("start symbol of the grammar", "root", "s", "App. B.2, Fig. 14"),
        ("symbols of a text", "text_length", 250, "App. B.2"),
        ("count looks at the last", "count_window", 40, "App. B.2"),
        ("index finds the occurrence", "index_occurrence", 6, "App. B.2"),
        ("token_at copies from the end", "token_at_position", 40, "App. B.2"),
        ("offset of the correlation", "correlation_offset", 1, "App. C.2, of counting"),
    )
    rows = [
        Difference(part="data", what=what, paper=paper, where=where, why=_SMALL,
                   here=values(shapes, attrgetter(name)))
        for what, name, paper, where in read
    ]  # fmt: skip
    edited = {True: "edited so that counts take many values", False: "the grammar's"}
    rows.append(
        Difference(part="data", what="texts of pretraining and of tests without a correlation", paper=edited[False],
                   where="App. B.2", here=values(shapes, lambda shape: edited[shape.spread_counts]),
                   why="in a short text a count takes few values, of which one constant names most")
    )  # fmt: skip
    rows.append(
        Difference(part="data", what="strings shorter than a text", paper=NOT_SAID, where="App. B.2",
                   here="drawn again", why="a quarter of the paper's are")
    )  # fmt: skip
    return rows


def _planted_rows(tasks: Sequence[PcfgConfig]) -> list[Difference]:
    """How texts come to have the correlation, and which labels; of texts as they come there is nothing to say."""
    if not (planted := [task for task in tasks if task.correlation is not None]):
        return []
    edited = values(planted, _is_edited)
    ways = {
        True: "symbols are replaced, the length kept, until both counts are spread; of these texts those that fit are "
              "chosen",
        False: "natural texts are chosen that fit",
    }  # fmt: skip
    kept = "" if edited else "every text stays in the grammar; "
    rows = [
        Difference(part="data", what="how the correlation is planted", paper="operands are added to texts",
                   where="App. C.2", here=values(planted, lambda task: ways[_is_edited(task)]),
                   why=f"{kept}labels occur equally often with it and without; the paper's algorithm is not printed"),
    ]  # fmt: skip
    of = {function: [task for task in planted if _asks(task, function)] for function in ("count", "index")}
    if of["count"]:
        rows.append(
            Difference(part="data", what="labels of texts with the correlation", paper="of counting 0 to 40",
                       where="Fig. 16",
                       here=values(of["count"], _counted_labels),
                       why="each operand up to half of the symbols that are counted")
        )  # fmt: skip
    if of["index"]:
        rows.append(
            Difference(part="data", what="offset of the correlation of indexing", paper=NOT_SAID, where="App. C.2",
                       here=values(of["index"], attrgetter("correlation_offset")), why="that of counting")
        )  # fmt: skip
    return rows


def _is_edited(shape: PcfgShape) -> bool:
    return shape.spread_counts or shape.correlation_method == "insert"


def _asks(task: PcfgConfig, function: str) -> bool:
    return any(OPERATORS[name].function == function for name in task.operators)


def _counted_labels(task: PcfgConfig) -> str:
    """Counts of the operand of fine-tuning: both operands' lie within half of the window, and one follows the other."""
    if not _is_edited(task) or len(task.symbols) == 2:
        return "of counting those that occur often enough"
    offset, most = task.correlation_offset, task.count_window // 2
    return f"of counting {max(0, offset)} to {most + min(0, offset)}"


def _asked_rows(tasks: Sequence[PcfgConfig]) -> list[Difference]:
    """What pretraining asks, and how often about which operand."""
    if not tasks:
        return []
    families = "count, count_pair, index, index_pair, token_at"
    paper_priors = OneOf(_prior(OPERAND_PRIORS[name]) for name in
                         ("low", "low_99", "medium", "medium_70", "high", "control"))  # fmt: skip
    rows = [
        Difference(part="data", what="operators of pretraining", paper=families, where="App. B.2",
                   here=values(tasks, lambda task: ", ".join(sorted(task.operators))),
                   why="fewer questions, learned sooner"),
        Difference(part="data", what="priors of a, b, c in pretraining", paper=paper_priors, where="Sect. 5, App. C.2",
                   here=values(tasks, lambda task: _prior(parse_prior(task.operand_prior, len(task.symbols)))), why=""),
    ]  # fmt: skip
    if any("count_pair" in task.operators or "index_pair" in task.operators for task in tasks):
        rows.append(
            Difference(part="data", what="pairs of operands", paper=NOT_SAID, where="App. B.2",
                       here="may overlap, and count where their second symbol stands", why="")
        )  # fmt: skip
    return rows


def _prior(shares: Sequence[float]) -> str:
    return " ".join(f"{each:g}" for each in shares)


def _tuning(trains: Sequence[TrainConfig]) -> PaperTraining:
    """The paper's fine-tuning, with the reason why our rates are others."""
    way = min(RATES) * FINETUNING.steps
    why = (
        "rate times steps is about that of the paper's small rate"
        if all(way / 2 <= train.lr * train.steps <= 2 * way for train in trains)
        else "fewer steps need larger rates"
        if max(train.lr for train in trains) > max(RATES)
        else "chosen for these steps"
    )
    return replace(FINETUNING, why={**FINETUNING.why, "lr": why})


def _model_rows(configs: Sequence[Any]) -> list[Difference]:
    if not configs:
        return []
    return [
        Difference(part="model", what="model", paper=model_size(PRESETS["paper"]), where="App. C.2",
                   here=values([each.shape for each in configs], model_size), why="trains in minutes"),
        Difference(part="model", what="positions", paper=NOT_SAID, where="", here="learned", why="those of GPT-2"),
        *dropout_rows(configs),
    ]  # fmt: skip


def _younger_rows(trains: Sequence[TrainConfig], tunings: Sequence[Any]) -> list[Difference]:
    """At which rate bases were trained that are taken from a run before its end; the paper's is a last checkpoint."""
    asked = {config.snapshot for config in tunings} - {None}
    runs = {
        (step, train.steps, lr_factor_of(train, step), step < train.warmup_fraction * train.steps)
        for train in trains
        for step in asked & {*train.snapshots}
        if step < train.steps
    }
    if not runs:
        return []
    here = "taken from a longer run: " + "; ".join(
        f"after {step:,} of {steps:,} steps, at {100 * factor:.0f} % of the peak rate"
        f"{', still rising' if rising else ''}"
        for step, steps, factor, rising in sorted(runs)
    )
    return [
        Difference(part="pretraining", what="pretraining: bases of fewer steps", paper="the last checkpoint",
                   where="App. C.2", here=here,
                   why="one run gives all ages; with an end of its own, a base would have come to rest at a low rate")
    ]  # fmt: skip


def _instrument_rows(probes: Sequence[Any], prunings: Sequence[Any]) -> list[Difference]:
    methods = {"logistic": "logistic regression, to convergence", "ridge": "ridge regression",
               "adamw": "4,000 steps of AdamW"}  # fmt: skip
    units = {"row": "rows of weight matrices", "weight": "weights", "activation": "MLP activations", "head": "heads"}
    rows = []
    if probes:
        rows.append(Difference(part="measuring", what="probes are fitted by", paper=methods["adamw"], where="App. D",
                               here=values(probes, lambda config: methods[config.method]),
                               why="no rate and no number of steps decides what is read"))  # fmt: skip
    if prunings:
        rows += [
            Difference(part="measuring", what="neurons that are pruned", paper=units["row"], where="App. D",
                       here=values(prunings, lambda config: units[config.unit]), why="activations are tried as well"),
            Difference(part="measuring", what="how many neurons are pruned", paper=NOT_SAID, where="App. D",
                       here=values(prunings, lambda config: f"the best number up to {config.max_best_k} on other rows"),
                       why="nothing is chosen on the rows that are reported"),
        ]  # fmt: skip
    return rows


def pcfg_rows(runs: Mapping[str, Sequence[Mapping[str, Any]]], seeds: Sequence[int]) -> list[Difference]:
    """All that the paper says of the procedural task beside what runs have, the same settings once.

    Args:
        runs: kind of a run -> what each such run is called with: ``config``, and ``task`` and ``train`` or ``asked``.
        seeds: of the study.
    """
    of: dict[str, list[Any]] = {
        kind: [each["train"] for each in made if "train" in each] for kind, made in runs.items()
    }
    pretrained, tuned, back = (of.get(kind, []) for kind in ("pretrain", "finetune", "reverse_finetune"))
    tasks = [each["task"] for made in runs.values() for each in made if isinstance(each.get("task"), PcfgConfig)]
    if not tasks:
        return []
    first = [each["task"] for each in runs.get("pretrain", [])]
    instruments = [[each["config"] for each in runs.get(kind, [])] for kind in ("probe", "prune")]
    parts = ((PRETRAINING, pretrained), (_tuning(tuned), tuned), (REVERSING, back))
    return [
        *_data_rows(tasks),
        *_planted_rows(tasks),
        *_asked_rows(first),
        *_model_rows([each["config"] for each in runs.get("pretrain", [])]),
        *(row for paper, trains in parts for row in training_rows(paper, trains)),
        *answer_weight_rows([each.get("objective") for each in runs.get("pretrain", [])], of="an answer's token",
                            where="App. C.2"),
        *_younger_rows(pretrained, [each["config"] for each in runs.get("finetune", [])]),
        *reverse_rate_rows(tuned, back, paper="below fine-tuning's", where="App. D",
                           why="a lower one takes as many times the steps"),
        *betas_rows([*pretrained, *tuned, *back]),
        *precision_rows([*pretrained, *tuned, *back]),
        *_instrument_rows(*instruments),
        *seed_rows(seeds),
    ]  # fmt: skip
