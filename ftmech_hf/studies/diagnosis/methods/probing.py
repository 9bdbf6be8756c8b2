"""What can be read inside? Linear probes in every model, where they count, and where halves of the base meet.

Three kinds of rows: probes are fitted on one, a layer is chosen on another, and what is reported is read on a third.
Random networks differ in how much they let be read, so there are several: the reference and two of random weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from ftmech_hf.analysis.probing import ANSWER, fit_probes
from ftmech_hf.jobs.answer_rows import AnswerRows
from ftmech_hf.report.charts import CONTROL, RANDOM, accuracy_axis, legend_below
from ftmech_hf.statistics.clusters import share_right
from ftmech_hf.statistics.intervals import Share
from ftmech_hf.studies.diagnosis.case import BASE, FINETUNED, NULL, SPLITS, Case, is_reference
from ftmech_hf.studies.diagnosis.evidence import ReadingEvidence
from ftmech_hf.studies.diagnosis.figures import COLORS, DOTTED, layer_axis, line, name_model, pick
from ftmech_hf.studies.diagnosis.method import Method, MethodResult, Summary, TableRow, read_of_answers, row
from ftmech_hf.tasks.text.splits import OPEN_ANSWERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EMBEDDINGS = "input embeddings"
"""What can be read before any block: the mean embedding of the prompt's tokens, and that of its last one."""


class Reading(NamedTuple):
    """What the probe of one model reads in one place.

    Attributes:
        chosen: on the rows that choose.
        reported: on the rows that are reported.
        shuffled: on the latter, by a probe fitted on shuffled labels; not a number where none was.
    """

    chosen: Share
    reported: Share
    shuffled: float


Readings = Mapping[str, Mapping[int, Reading]]
"""Model -> layer -> what is read there; of the embeddings, the layers are -1 and -2."""


class Places(NamedTuple):
    """Where probes count and halves meet: chosen without the fine-tuned model, and not on the rows that are reported.

    Attributes:
        layer: where the base is read best; None if probes of the base read no more than those of the controls.
        null: the control in which most is read, and its layer.
        late: the layer after which the answer is still to be computed; None if there is no central one.
        early: the layer after which it is there; None if there is no central one.
    """

    layer: int | None
    null: tuple[str, int]
    late: int | None
    early: int | None


@dataclass(frozen=True, kw_only=True)
class ProbingMethodResult(MethodResult):
    """What is read in every model.

    Attributes:
        readings: of all models and of the embeddings; of none where most answers are words that no probe would see.
        places: where probes count and halves meet.
        answers_seen: share of the test rows whose answer stands in the rows that probes are fitted on.
        rows_per_answer: rows that probes are fitted on, for each answer.
    """

    readings: Readings
    places: Places
    answers_seen: float
    rows_per_answer: float

    def rows(self) -> list[TableRow]:
        """Accuracy of the probes by model and layer; nothing where none was fitted."""
        if not self.readings:
            return []
        best = max(each.reported for each in self.readings[EMBEDDINGS].values())
        return [
            *(
                row("probing", "probe", *each.reported, model=name, questions="capability", layer=layer,
                    reference=is_reference(name))
                for name, layers in self.readings.items() if name != EMBEDDINGS for layer, each in layers.items()
            ),
            row("probing", EMBEDDINGS, *best, questions="capability", reference=True),
            *(row("probing", "shuffled labels", each.shuffled, model=BASE, layer=layer, reference=True)
              for layer, each in self.readings[BASE].items()),
        ]  # fmt: skip

    def evidence(self) -> ReadingEvidence:
        """What is read where probes count."""
        layer, (null, at) = self.places.layer, self.places.null
        return ReadingEvidence(
            read=None if layer is None else self.readings[FINETUNED][layer].reported,
            read_base=None if layer is None else self.readings[BASE][layer].reported,
            read_null=self.readings[null][at].reported if self.readings else None,
        )

    def summary(self) -> dict[str, Any]:
        """Where that is, and how well the answers are known to the probes."""
        return {
            "read_null_in": self.places.null[0], "read_layer": self.places.layer,
            "answers_seen": self.answers_seen, "rows_per_answer": self.rows_per_answer,
        }  # fmt: skip


def measure_probing(case: Case) -> ProbingMethodResult:
    """Fit probes on each model and on what lies before any block.

    Where less than :attr:`~ftmech_hf.studies.diagnosis.signs.VerdictRule.share` of the tested answers are words that
    probes would see, none is fitted: it could not name them.
    """
    train, test = case.capability.train.first_answers, case.capability.test.first_answers
    seen = float(torch.isin(test, train).float().mean())
    readings = read_everyone(case, [BASE, FINETUNED, *controls(case)]) if seen >= case.rule.share else {}
    places = choose_places(case, readings) if readings else Places(None, (NULL, 0), None, None)
    return ProbingMethodResult(
        readings=readings, places=places, answers_seen=seen, rows_per_answer=len(train) / len(train.unique())
    )


def controls(case: Case) -> list[str]:
    """What the capability is not in, but may be read from."""
    return [NULL, *case.more_references, EMBEDDINGS]


def embedded(case: Case, split: str) -> dict[int, Tensor]:
    """The base's embeddings of the prompts: their mean, and the last token's."""
    weight = case.models[BASE].get_input_embeddings().weight
    assert isinstance(weight, Tensor)
    rows: AnswerRows = getattr(case.capability, split)
    prompts, tokens = rows.prompts()
    shown = torch.ones_like(prompts) if tokens is None else tokens.long()
    # of a large vocabulary prompts have few tokens; and a bag is summed without (B, T, D)
    there, places = prompts.unique(return_inverse=True)
    vectors = weight.detach()[there.to(weight.device)].float().cpu()
    total = F.embedding_bag(places, vectors, mode="sum", per_sample_weights=shown.float())
    return {-1: total / shown.sum(1, keepdim=True), -2: vectors[places[:, -1]]}


def read_everyone(case: Case, names: Sequence[str]) -> Readings:
    """Probes for the answer, fitted on each of these models (or on the embeddings) and read on that model."""
    labels = {split: getattr(case.capability, split).first_answers.numpy() for split in SPLITS}
    found: dict[str, dict[int, Reading]] = {}
    for name in names:
        streams = {
            split: embedded(case, split) if name == EMBEDDINGS else case.stream(name, "capability", split)
            for split in SPLITS
        }
        train, test = ({str(layer): values for layer, values in streams[split].items()} for split in ("train", "test"))
        result = fit_probes(
            train, labels["train"], test, labels["test"], seed=case.seed, num_shuffles=int(name == BASE), code=False,
            device=case.models[BASE].device,
        )  # fmt: skip
        found[name] = {}
        for layer, values in streams["validation"].items():
            predicted = result.probes[str(layer), ANSWER].predict(values).numpy()
            chosen = share_right(predicted == labels["validation"], case.capability.validation.groups)
            reported = share_right(result.right[str(layer), ANSWER], case.capability.test.groups)
            found[name][layer] = Reading(chosen, reported, result.score(str(layer)).shuffled)
    return found


def is_central(layer: int, num_layers: int, half: float) -> bool:
    """Whether both sides of a cut after a layer have at least a share ``half`` of the blocks."""
    before = layer + 1
    return min(before, num_layers - before) >= half * num_layers - 1e-9


def choose_places(case: Case, readings: Readings) -> Places:
    """Where probes count and halves meet; reads ``chosen`` of the base and the controls alone."""
    own = {layer: reading.chosen for layer, reading in readings[BASE].items()}
    best = max(own, key=lambda layer: own[layer].value)
    most = max(
        ((name, layer) for name in controls(case) for layer in readings[name]),
        key=lambda place: readings[place[0]][place[1]].chosen.value,
    )
    above = [layer for layer in own if own[layer].low > readings[most[0]][most[1]].chosen.high]
    there = [layer for layer in above if own[layer].value >= own[best].value - case.rule.same]
    if not there:
        return Places(None, most, None, None)
    central = [layer for layer in case.layers if is_central(layer, case.num_layers, case.rule.half)]
    before = [layer for layer in central if layer < there[0]]
    after = [layer for layer in central if layer >= there[0]]
    return Places(best, most, before[-1] if before else None, after[0] if after else None)


def draw_probing(ax: Axes, rows: pd.DataFrame, reference: str) -> None:
    """Accuracy of probes by layer."""
    for model, style in (("base", "-"), ("fine-tuned", "--"), ("reference", "-")):
        line(ax, pick(rows, quantity="probe", model=model), "layer", name_model(model, reference), COLORS[model], style)
    others = pick(rows, quantity="probe")
    for number, (_, each) in enumerate(others[~others["model"].isin(COLORS)].groupby("model")):
        label = "" if number else "other random weights"
        line(ax, each, "layer", label, CONTROL, DOTTED, marker="", band=False)
    line(ax, pick(rows, quantity="shuffled labels"), "layer", "shuffled labels", RANDOM, DOTTED)
    embeddings = pick(rows, quantity=EMBEDDINGS)
    ax.axhline(float(embeddings["value"].iloc[0]), color=RANDOM, linewidth=1, label="input embeddings")
    layer_axis(ax, "stream after block")
    accuracy_axis(ax)
    legend_below(ax)


def explain_probing(summary: Summary) -> str:
    """What is read, beside what, and whether the probes may know words alone."""
    found = summary["evidence"]
    seen = found["answers_seen"]
    warning = (
        f" Careful: an answer stands in only {found['rows_per_answer']:.0f} of the rows that probes are fitted on, and "
        f"{seen:.0%} of the tested answers stand in them at all, so that a probe may know words and not the "
        "capability; a column group keeps words apart."
        if found["rows_per_answer"] < OPEN_ANSWERS or seen < 1
        else ""
    )
    return (
        "A linear probe reads the right answer from the stream after each block; layers are chosen on other questions "
        "than those shown. Random weights let much be read too, some more than others, and so do the embeddings of the "
        "input (grey line): only what lies above all of them, wherever they are best, counts."
        + read_of_answers(summary)
        + warning
    )


PROBING = Method(
    measure=measure_probing, title="What can be read inside", pictures=(draw_probing,), explain=explain_probing
)
