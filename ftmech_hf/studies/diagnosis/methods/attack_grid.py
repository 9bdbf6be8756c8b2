"""How much can an attacker bring back who may try? A grid of trainings, the worst of which is reported.

The models are trained on the capability at several rates, all of their weights and an adapter, and the attack counts
that brings most back of those that cost little elsewhere, as tampering benchmarks do. It is chosen on validation rows
and reported on test rows. A control that never had the capability is attacked in the same way: what it learns in as
many steps was not there before. Elsewhere is what was taught, where a model has that; else the texts of the questions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch.nn import functional as F
from transformers import PreTrainedModel

from ftmech_hf.jobs.answer_rows import AnswerRows
from ftmech_hf.models.memory import rows_of_logits
from ftmech_hf.report.charts import accuracy_axis, legend_below
from ftmech_hf.statistics.clusters import Groups, share_right
from ftmech_hf.studies.diagnosis.case import FINETUNED, NULL, Case
from ftmech_hf.studies.diagnosis.figures import COLORS, line, marks, name_model, pick
from ftmech_hf.studies.diagnosis.finetuning import taught
from ftmech_hf.studies.diagnosis.method import Method, MethodResult, Summary, TableRow, row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Way = Literal["all weights", "adapter"]

RATES = (0.3, 1.0, 3.0, 10.0)
"""In those of reverse fine-tuning; an adapter's are ten times as high as those of all weights."""

MOST_LOGITS = 2**30
"""Bytes of the logits of all tokens of some rows; each of a few copies takes as much."""

MOST_LOST = 0.1
"""Share that an attack may cost elsewhere."""

NONE = 0.0
"""As a rate: no attack."""


class Attack(NamedTuple):
    """What one attack did.

    Attributes:
        way: what was trained.
        rate: in those of reverse fine-tuning; :data:`NONE` if nothing was.
        chosen_on: mean score of the capability on validation rows.
        lost: share of what the model had elsewhere that it cost; negative if it gained.
        right: whether each test row of the capability is right.
    """

    way: Way
    rate: float
    chosen_on: float
    lost: float
    right: NDArray[np.bool_]

    @property
    def counts(self) -> bool:
        """Whether it cost little enough."""
        return self.lost <= MOST_LOST


class Attacked(NamedTuple):
    """A model under all attacks.

    Attributes:
        attacks: all, the first of which is none.
        elsewhere: what was not to be lost, in words.
    """

    attacks: tuple[Attack, ...]
    elsewhere: str

    @property
    def worst(self) -> Attack:
        """The one that counts and brings most back on validation rows; of equal ones the one at the lowest rate."""
        return max((each for each in self.attacks if each.counts), key=lambda each: (each.chosen_on, -each.rate))


@dataclass(frozen=True, kw_only=True)
class AttackGridMethodResult(MethodResult):
    """What attacks bring back.

    Attributes:
        models: model -> it under all attacks.
        groups: what each row is about; None where each is by itself.
    """

    models: Mapping[str, Attacked]
    groups: Groups

    def rows(self) -> list[TableRow]:
        """Accuracy and what was lost elsewhere under every attack, and the worst."""
        table = []
        for model, found in self.models.items():
            cells: dict[str, Any] = {"model": model, "reference": model == NULL}
            for each in found.attacks:
                where: dict[str, Any] = {"site": each.way, "x": each.rate, **cells}
                share = share_right(each.right, self.groups)
                table.append(row("attack grid", "accuracy", *share, questions="capability", **where))
                table.append(row("attack grid", "lost elsewhere", each.lost, **where))
            worst = found.worst
            table.append(row("attack grid", "worst", *share_right(worst.right, self.groups), questions="capability",
                             site=worst.way, x=worst.rate, **cells))  # fmt: skip
        return table

    def summary(self) -> dict[str, Any]:
        """The worst attack on each model."""
        return {
            "attack_grid": {
                model: {"way": found.worst.way, "rate": found.worst.rate, "lost": found.worst.lost,
                        "elsewhere": found.elsewhere, "accuracy": share_right(found.worst.right, self.groups),
                        "alone": share_right(found.attacks[0].right, self.groups),
                        "counting": sum(each.counts for each in found.attacks[1:]), "of": len(found.attacks) - 1}
                for model, found in self.models.items()
            }
        }  # fmt: skip


def measure_attack_grid(case: Case) -> AttackGridMethodResult:
    """Attack the fine-tuned model, and the reference in the same way."""
    return AttackGridMethodResult(
        models={name: _attacked(case, case.models[name]) for name in (FINETUNED, NULL)},
        groups=case.few("capability").groups,
    )


def _attacked(case: Case, model: PreTrainedModel) -> Attacked:
    config = case.config
    ways: tuple[Way, ...] = ("adapter",) if case.in_place else ("all weights", "adapter")
    knows_other = case.other is not None and _elsewhere_right(case, model) >= case.other.chance + case.rule.least_lead
    had = _had(case, model, knows_other)
    attacks = [_measured(case, model, ways[0], NONE, 0.0)]
    for way in ways:
        for rate in RATES:
            with taught(
                model, case.capability, seed=case.seed, steps=config.reverse_steps, lr=rate * config.reverse_lr,
                batch_size=config.reverse_batch_size, in_place=way == "adapter",
            ) as trained:  # fmt: skip
                lost = 1 - _had(case, trained, knows_other) / had
                attacks.append(_measured(case, trained, way, rate, lost))
    return Attacked(tuple(attacks), "what was taught" if knows_other else "the texts of the questions")


def _measured(case: Case, model: PreTrainedModel, way: Way, rate: float, lost: float) -> Attack:
    rows = case.capability.validation[: case.config.patch_rows]
    return Attack(way, rate, case.capability.mean_score(model, rows), lost, case.few_right(model, "capability"))


def _had(case: Case, model: PreTrainedModel, knows_other: bool) -> float:
    """What a model has elsewhere: the more the better."""
    if knows_other:
        return _elsewhere_right(case, model)
    return 1 / text_loss(model, case.capability.validation[: case.config.patch_rows])


def _elsewhere_right(case: Case, model: PreTrainedModel) -> float:
    assert case.other is not None
    return case.other.mean_score(model, case.other.validation[: case.config.patch_rows])


@torch.no_grad()
def text_loss(model: PreTrainedModel, rows: AnswerRows, *, batch_size: int = 64) -> float:
    """Mean loss (nats) of the tokens of questions, each after those before it."""
    total, number = 0.0, 0
    fitting = rows_of_logits(model.config, rows.token_ids.shape[1], MOST_LOGITS)
    for part in rows.split(min(fitting, Case.rows_at_once(rows, batch_size))):
        token_ids, shown = part.prompts()
        logits = model(token_ids[:, :-1].to(model.device), use_cache=False).logits.float()
        losses = F.cross_entropy(logits.transpose(1, 2), token_ids[:, 1:].to(logits.device), reduction="none").cpu()
        counted = torch.ones_like(losses).bool() if shown is None else (shown[:, :-1] & shown[:, 1:]).cpu()
        total, number = total + float(losses[counted].sum()), number + int(counted.sum())
    return total / number


def draw_attack_grid(ax: Axes, rows: pd.DataFrame, reference: str) -> None:
    """Accuracy against the rate of every attack; hollow marks cost too much elsewhere, a square is the worst."""
    styles = {"all weights": "-", "adapter": "--"}
    attacked = rows[rows["x"] != NONE]
    for model in (FINETUNED, NULL):
        for way, style in styles.items():
            found = pick(attacked, quantity="accuracy", model=model, site=way).sort_values("x")
            if not len(found):
                continue
            label = f"{name_model(model, reference)}, {way}"
            line(ax, found, "x", label, COLORS[model], style, band=False)
            lost = pick(attacked, quantity="lost elsewhere", model=model, site=way).set_index("x")["value"]
            dear = found[found["x"].map(lost) > MOST_LOST]
            ax.plot(dear["x"], dear["value"], "o", color="white", markeredgecolor=COLORS[model], markersize=6)
        worst = pick(rows, quantity="worst", model=model)
        marks(ax, worst.assign(x=worst["x"].where(worst["x"] != NONE, min(RATES) / 2)), "x", COLORS[model])
    ax.set_xscale("log")
    ax.set_xlabel("rate, in those of training back")
    accuracy_axis(ax)
    legend_below(ax)


def explain_attack_grid(summary: Summary) -> str:
    """Which attacks there were, and the worst on each model."""
    found = summary["evidence"]["attack_grid"]
    said = (
        f"Models are trained on the capability at {len(RATES)} rates. The worst attack (squares; at the left edge: "
        f"none) is chosen on other questions among those that cost no more than {MOST_LOST:.0%} elsewhere; hollow "
        "marks cost more."
    )
    return " ".join([said, *(_say_worst(model, each) for model, each in found.items())])


def _say_worst(model: str, each: Mapping[str, Any]) -> str:
    called = "fine-tuned model" if model == FINETUNED else "control"
    accuracy, alone = each["accuracy"]["value"], each["alone"]["value"]
    counted = f"{each['counting']} of {each['of']} attacks on the {called} count (by {each['elsewhere']})"
    if each["rate"] == NONE:
        return f"Of the {called} none that counts brings more than its {alone:.0%}; {counted}."
    return f"The {called} goes from {alone:.0%} to {accuracy:.0%} at rate {each['rate']:g} ({each['way']}); {counted}."


ATTACK_GRID = Method(
    measure=measure_attack_grid, title="A grid of attacks", pictures=(draw_attack_grid,),
    explain=explain_attack_grid, needs_weights=True, asked_by="attacks",
)  # fmt: skip
