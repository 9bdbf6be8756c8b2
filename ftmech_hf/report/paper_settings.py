"""What Jain et al. (arXiv 2311.12786) say about how models are trained, beside the settings of runs.

Their learning rates: large 1e-4, medium 1e-5, small 1e-6 in fine-tuning (App. C.2); 1e-3 at its peak in pretraining.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ftmech_hf.models.presets import NAMES, Preset
from ftmech_hf.report.differences import NOT_SAID, Difference, OneOf, Part
from ftmech_hf.training.settings import TrainConfig

OPTIMIZERS = {"adamw": "AdamW", "muon": "Muon on the matrices of blocks, AdamW on the rest", "sgd": "SGD with momentum"}


@dataclass(frozen=True, kw_only=True)
class PaperTraining:
    """What a paper says of one part of training; what it leaves open is :data:`NOT_SAID`.

    Attributes:
        part: of the study.
        where: in the paper.
        optimizer, steps, batch_size, weight_decay: its values.
        lr: its peak rates.
        warmup: share of the steps that warm up.
        end: where the rate ends, as a share of the peak.
        clipping: norm at which gradients are clipped.
        why: name of a setting -> why ours is another.
        elsewhere: name of a setting -> where the paper says that, if it is another place.
    """

    part: Part
    where: str
    optimizer: Any = NOT_SAID
    lr: Any = NOT_SAID
    warmup: Any = NOT_SAID
    end: Any = NOT_SAID
    steps: Any = NOT_SAID
    batch_size: Any = NOT_SAID
    weight_decay: Any = NOT_SAID
    clipping: Any = NOT_SAID
    why: Mapping[str, str]
    elsewhere: Mapping[str, str] = field(default_factory=dict)


def values(of: Sequence[Any], read: Callable[[Any], Any]) -> Any:
    """What settings of several runs have: the one value, or the set of them."""
    found = {read(each) for each in of}
    return found if len(found) > 1 else next(iter(found))


def share(value: Any) -> Any:
    """A share in words; what a paper leaves open stays that."""
    return value if isinstance(value, str) else f"{100 * value:g} % of the steps"


def schedule_end(value: Any) -> Any:
    """How the rate goes on after the warm-up."""
    if isinstance(value, str):
        return value
    return "constant" if value == 1 else f"cosine to {100 * value:g} % of the peak"


def peak_rate(train: TrainConfig) -> Any:
    """The peak rate of whatever optimizer there is."""
    return f"{train.muon_lr:g} (Muon), {train.lr:g} (AdamW)" if train.optimizer == "muon" else float(train.lr)


def training_rows(paper: PaperTraining, trains: Sequence[TrainConfig]) -> list[Difference]:
    """Optimizer, rates, schedule, steps, batch, decay and clipping of some runs beside the paper's."""
    trains = [train for train in trains if train.steps]  # a model that starts from nothing is not trained first
    if not trains:
        return []
    read: dict[str, tuple[str, Any, Callable[[TrainConfig], Any]]] = {
        "optimizer": ("optimizer", paper.optimizer, lambda train: OPTIMIZERS[train.optimizer]),
        "lr": ("peak learning rate", paper.lr, peak_rate),
        "warmup": ("warm-up", _each(share, paper.warmup), lambda train: share(train.warmup_fraction)),
        "end": ("rate after the warm-up", _each(schedule_end, paper.end),
                lambda train: schedule_end(train.final_lr_fraction)),
        "steps": ("steps", paper.steps, lambda train: train.steps),
        "batch_size": ("rows of a step", paper.batch_size, lambda train: train.batch_size),
        "weight_decay": ("weight decay", paper.weight_decay, lambda train: float(train.weight_decay)),
        "clipping": ("gradients clipped at norm", paper.clipping, lambda train: float(train.max_grad_norm)),
    }  # fmt: skip
    return [
        Difference(
            part=paper.part, what=f"{paper.part}: {what}", paper=theirs,
            where="" if theirs == NOT_SAID else paper.elsewhere.get(name, paper.where),
            here=values(trains, here), why=paper.why.get(name, ""),
        )
        for name, (what, theirs, here) in read.items()
    ]  # fmt: skip


def _each(say: Callable[[Any], Any], paper: Any) -> Any:
    return OneOf(say(each) for each in paper) if isinstance(paper, OneOf) else say(paper)


def reverse_rate_rows(
    finetunings: Sequence[TrainConfig], reversals: Sequence[TrainConfig], *, paper: str, where: str, why: str
) -> list[Difference]:
    """Whether the rate of reverse fine-tuning is below that of the fine-tuning that it reverses."""
    if not finetunings or not reversals:
        return []
    tuned, back = ([train.lr for train in trains] for trains in (finetunings, reversals))
    here = (
        "below fine-tuning's" if max(back) < min(tuned)
        else "fine-tuning's" if set(back) == set(tuned)
        else "above fine-tuning's" if min(back) > max(tuned)
        else "not always below fine-tuning's"
    )  # fmt: skip
    return [Difference(part="reversing", what="reversing: its rate", paper=paper, where=where, here=here, why=why)]


def answer_weight_rows(objectives: Sequence[Any], *, of: str, where: str) -> list[Difference]:
    """How much a token that says what was asked weighs in pretraining, ``of`` in words; no paper here weighs any.

    Args:
        objectives: of the pretraining runs; one without a weight of answers takes all tokens alike.
        of: which tokens have the weight.
        where: the part of the paper that says how its models are pretrained.
    """
    if not objectives:
        return []
    here = values(objectives, lambda objective: float(getattr(objective, "answer_weight", 1.0)))
    return [Difference(part="pretraining", what=f"pretraining: weight of {of}, beside any other", paper=1.0,
                       where=where, here=here, why="what is asked for is learned from fewer tokens")]  # fmt: skip


def betas_rows(trains: Sequence[TrainConfig], *, paper: Any = NOT_SAID, where: str = "") -> list[Difference]:
    """AdamW's betas in all training, but that of SGD, which has none.

    Args:
        trains: of the runs.
        paper, where: both, as ``0.9 and 0.95``, and where they are said.
    """
    trains = [train for train in trains if train.optimizer != "sgd"]
    if not trains:
        return []
    here = values(trains, lambda train: f"{train.adam_beta1:g} and {train.adam_beta2:g}")
    return [Difference(part="pretraining", what="AdamW's betas", paper=paper, where=where, here=here,
                       why="those of the authors' code of other tasks")]  # fmt: skip


def dropout_rows(configs: Sequence[Any], *, paper: Any = NOT_SAID, where: str = "") -> list[Difference]:
    """Dropout of the models that are made.

    Args:
        configs: of the runs that make them.
        paper, where: the paper's, and where it says so.
    """
    if not configs:
        return []
    here = values(configs, lambda config: float(config.dropout))
    return [Difference(part="model", what="dropout", paper=paper, where=where, here=here,
                       why="as in the authors' code of other tasks")]  # fmt: skip


def precision_rows(trains: Sequence[TrainConfig], *, paper: Any = NOT_SAID, where: str = "") -> list[Difference]:
    """The precision of training, which the papers do not say, but for the code of one.

    Args:
        trains: of the runs.
        paper, where: what is said all the same, and where.
    """
    names = {"auto": "bfloat16 where the processor has it, else float32", "no": "float32", "bf16": "bfloat16"}
    here = values(trains, lambda train: names[train.mixed_precision])
    fastest = any(train.mixed_precision == "auto" for train in trains)
    why = (
        "what the machine does fastest; each run's env.json says which it was" if fastest else "the same on any machine"
    )
    return [Difference(part="pretraining", what="precision of training", paper=paper, where=where, here=here, why=why)]


def seed_rows(seeds: Sequence[int]) -> list[Difference]:
    """How many times everything is repeated, which the paper does not say."""
    return [Difference(part="measuring", what="seeds", paper=NOT_SAID, where="", here=len(seeds),
                       why="independent repetitions, of which the intervals are made")]  # fmt: skip


def model_size(shape: Preset) -> str:
    """The size of a model in words."""
    return f"{NAMES[shape.architecture]} of {shape.n_layer} blocks, {shape.n_head} heads, width {shape.n_embd}"
