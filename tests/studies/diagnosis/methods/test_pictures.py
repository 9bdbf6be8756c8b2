"""What a picture shows of a method's table: which numbers, as what, and beside what; and what is said below it."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_hex
from matplotlib.container import BarContainer

from ftmech_hf.report.charts import new_figure
from ftmech_hf.studies.diagnosis.figures import COLORS, KINDS
from ftmech_hf.studies.diagnosis.method import MethodResult, Picture, plain
from ftmech_hf.studies.diagnosis.methods.behaviour import draw_behaviour, explain_behaviour
from ftmech_hf.studies.diagnosis.methods.patching import draw_patching_back, draw_patching_forth, explain_patching
from ftmech_hf.studies.diagnosis.methods.probing import draw_probing, explain_probing
from ftmech_hf.studies.diagnosis.methods.pruning import draw_pruning, explain_pruning
from ftmech_hf.studies.diagnosis.methods.revival import draw_revival, explain_revival
from ftmech_hf.studies.diagnosis.methods.unlearning import explain_unlearning
from tests.studies.diagnosis.methods.results import behaviour, patching, probing, pruning, revival, share

GREY, ORANGE, BLUE, PALE = "#4b5563", "#c2410c", "#1971c2", "#808896"
GREEN = "#2b8a3e"


class Drawn(NamedTuple):
    """A line: its numbers, color and whether it is solid."""

    x: list[float]
    y: list[float]
    color: str
    style: str
    marker: str = "o"


def drawn(draw: Picture, result: MethodResult) -> Axes:
    ax = new_figure(5, 4).add_subplot()
    rows = pd.DataFrame(result.rows())
    draw(ax, rows, "control")
    ax.figure.canvas.draw()
    return ax


def lines(ax: Axes) -> dict[str, Drawn]:
    """Label -> line; those without a label have one of matplotlib's."""
    found = {}
    for line in ax.get_lines():
        pattern = line._unscaled_dash_pattern[1]  # type: ignore[attr-defined]
        style = "solid" if pattern is None else "dotted" if list(pattern) == [1, 2] else "dashed"
        x, y = (np.asarray(each, float).tolist() for each in line.get_data())
        found[str(line.get_label())] = Drawn(x, y, to_hex(line.get_color()), style, str(line.get_marker()))  # type: ignore[arg-type]
    return found


def bands(ax: Axes) -> list[tuple[str, list[float], list[float]]]:
    """(color, lows, highs) of all shaded areas."""
    found = []
    for each in ax.collections:
        if isinstance(each, PolyCollection):
            points = pd.DataFrame(each.get_paths()[0].vertices).groupby(0)[1].agg(["min", "max"])
            found.append((to_hex(each.get_facecolor()[0]), points["min"].tolist(), points["max"].tolist()))
    return found


def shares(*numbers: int, of: int = 40) -> list[float]:
    return [number / of for number in numbers]


def axes_of(ax: Axes) -> tuple[str, str, str]:
    assert ax.get_ylim() == (-0.03, 1.03)
    assert ax.get_legend() is not None
    return ax.get_title(loc="left") or ax.get_title(), ax.get_xlabel(), ax.get_ylabel()


def test_bars_stand_side_by_side_each_with_its_interval_and_chance() -> None:
    ax = new_figure(5, 4).add_subplot()
    table = pd.DataFrame(behaviour().rows())
    draw_behaviour(ax, table, "control")
    bars = [each for each in ax.containers if isinstance(each, BarContainer)]
    assert [each.get_label() for each in bars] == ["base", "fine-tuned", "control"]
    heights = {each.get_label(): [bar.get_height() for bar in each] for each in bars}
    assert heights == {"base": shares(38, 7), "fine-tuned": shares(9, 39), "control": shares(4, 3)}
    centers = np.array([[bar.get_x() + bar.get_width() / 2 for bar in each] for each in bars])
    assert centers == pytest.approx(np.array([[-0.8 / 3, 1 - 0.8 / 3], [0, 1], [0.8 / 3, 1 + 0.8 / 3]]))
    assert bars[0][0].get_width() == pytest.approx(0.9 * 0.8 / 3)
    assert [to_hex(each[0].get_facecolor()) for each in bars] == [GREY, ORANGE, BLUE]
    segments = [path for each in ax.collections if isinstance(each, LineCollection) for path in each.get_segments()]
    intervals = [(path[0][0], *path[:, 1]) for path in segments if path[0][0] == path[1][0]]
    accuracy = table[table["quantity"] == "accuracy"]
    assert np.array(sorted(intervals)) == pytest.approx(
        np.array(
            sorted(
                (
                    centers[("base", "fine-tuned", "reference").index(each.model)][int(each.questions == "other")],
                    each.low,
                    each.high,
                )
                for each in accuracy.itertuples()
            )
        ),
        abs=1e-6,
    )
    drawn_lines = [each for each in ax.collections if isinstance(each, LineCollection)]
    assert {to_hex(color) for each in drawn_lines for color in each.get_colors()} == {"#111827"}  # type: ignore[arg-type]
    chance = sorted(tuple(map(tuple, path)) for path in segments if path[0][1] == path[1][1])
    assert chance == [((-0.45, 0.2), (0.45, 0.2)), ((0.55, 0.3), (1.45, 0.3))]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["the capability", "what was taught"]
    assert axes_of(ax) == ("", "", "accuracy")


def test_probes_are_drawn_by_layer_beside_all_that_reads_without_the_capability() -> None:
    ax = drawn(draw_probing, probing())
    found = lines(ax)
    assert found["base"] == Drawn([0, 1], shares(30, 39), GREY, "solid")
    assert found["fine-tuned"] == Drawn([0, 1], shares(28, 37), ORANGE, "dashed")
    assert found["control"] == Drawn([0, 1], shares(6, 11), BLUE, "solid")
    assert found["other random weights"] == Drawn([0, 1], shares(5, 10), BLUE, "dotted", "")
    assert Drawn([0, 1], shares(4, 8), BLUE, "dotted", "") in found.values()
    assert found["shuffled labels"] == Drawn([0, 1], [0.1, 0.11], PALE, "dotted")
    assert (found["input embeddings"].y, found["input embeddings"].color) == (shares(13, 13), PALE)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [  # type: ignore[union-attr]
        "base", "fine-tuned", "control", "other random weights", "shuffled labels", "input embeddings",
    ]  # fmt: skip
    assert axes_of(ax) == ("", "stream after block", "accuracy")
    assert {color for color, _, _ in bands(ax)} == {GREY, ORANGE, BLUE}
    assert len(bands(ax)) == 3  # not of the random weights


@pytest.mark.parametrize(("draw", "title", "whole", "attention", "null"), [
    (draw_patching_back, "The base's activations in the fine-tuned model", (36, 35), (8, 20), (1, 6)),
    (draw_patching_forth, "The fine-tuned model's activations in the base", (33, 34), (30, 31), (3, 2)),
])  # fmt: skip
def test_patches_are_drawn_by_block_each_way_in_its_own_picture(
    draw: Picture, title: str, whole: tuple[int, int], attention: tuple[int, int], null: tuple[int, int]
) -> None:
    ax = drawn(draw, patching())
    found = lines(ax)
    assert found["whole stream"] == Drawn([0, 1], shares(*whole), GREY, "solid")
    assert found["attention"] == Drawn([0, 1], shares(*attention), ORANGE, "solid")
    assert found["MLP"].color == GREEN
    others = [number // 5 for number in attention]
    assert found["attention, another question"] == Drawn([0, 1], shares(*others, of=8), ORANGE, "dashed", "")
    assert found["whole stream, control"] == Drawn([0, 1], shares(*null), BLUE, "dotted")
    assert len(found) == 7
    assert len(bands(ax)) == 4
    assert axes_of(ax) == (title, "patched block", "accuracy")


def test_pruning_is_drawn_by_number_of_rows_beside_random_rows_from_the_same_start() -> None:
    ax = drawn(draw_pruning, pruning())
    assert lines(ax) == {
        "the capability": Drawn([0, 2], shares(9, 35), ORANGE, "solid"),
        "what was taught": Drawn([0, 2], shares(8, 34), GREEN, "solid"),
        "the capability, random rows": Drawn([0, 2], shares(9, 10), PALE, "dashed"),
        "the capability, control": Drawn([0, 2], shares(4, 7), BLUE, "dotted"),
    }
    assert len(bands(ax)) == 3
    assert axes_of(ax) == ("", "rows set to zero", "accuracy")


def test_every_repetition_of_a_revival_is_a_line_and_one_of_a_model_is_named() -> None:
    ax = drawn(draw_revival, revival())
    found = lines(ax)
    assert found["fine-tuned"] == Drawn([0, 4], [0.1, 0.95], ORANGE, "solid")
    assert Drawn([0, 8], [0.2, 0.96], ORANGE, "solid") in found.values()
    assert found["control"] == Drawn([0, 16], [0.3, 0.4], BLUE, "dashed")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["fine-tuned", "control"]  # type: ignore[union-attr]
    threshold = [each for each in found.values() if each.style == "dotted"]
    assert [each.y for each in threshold] == [[0.9, 0.9]]
    assert [each.get_text() for each in ax.texts] == ["back"]
    assert ax.texts[0].get_position()[1] == 0.9
    assert bands(ax) == [(ORANGE, [0.1, 0.95, 0.96], [0.2, 0.95, 0.96])]
    assert axes_of(ax) == ("", "step of training", "accuracy")
    assert ax.get_xscale() == "symlog"


FACTS = {"reference": "runs/never", "null_steps": 64, "twin": "runs/twin", "longest_answer_tokens": 1}


def said(explain: Any, evidence: dict[str, Any], **facts: Any) -> str:
    text: str = explain({"evidence": plain(evidence), "facts": {**FACTS, **facts}})
    assert_prose(text)
    return text


def assert_prose(text: str) -> None:
    """Sentences: each begins with a capital letter and ends with a full stop, and no word but a few is in capitals."""
    assert re.fullmatch(r"\S(.*\S)?", text)
    assert text.endswith(".")
    assert "  " not in text
    assert set(re.findall(r"[A-Z]{2,}s?", text)) <= {"MLP", "MLPs", "CKA"}
    for sentence in re.split(r"(?<=\.) ", text):
        assert sentence[0].isupper()


def test_what_is_said_below_the_pictures_is_prose_with_the_right_numbers() -> None:
    answers = said(explain_behaviour, {})
    assert "The reference is runs/never, a model that is said never to have had the capability. Where models" in answers
    assert ("is drawn, too: the base after 64 steps of fine-tuning on its own answers (taught nothing), and runs/twin, "
            "which is said to be the base trained with another seed.") in answers  # fmt: skip
    only = said(explain_behaviour, {}, twin=None)
    assert only.endswith("is drawn, too: the base after 64 steps of fine-tuning on its own answers (taught nothing).")
    none = explain_behaviour(
        {"evidence": {}, "facts": {**FACTS, "twin": None, "null_steps": 0, "reference": "random init"}}
    )
    assert none.strip().endswith("The reference is the same architecture with random weights.")

    read = {"answers_seen": 1.0, "rows_per_answer": 50.0}
    assert said(explain_probing, read).endswith("only what lies above all of them, wherever they are best, counts.")
    assert said(explain_probing, read, longest_answer_tokens=2).endswith("it is the first that is read.")
    for changed, rows, seen in (({"rows_per_answer": 1.4}, 1, 100), ({"answers_seen": 0.98}, 50, 98)):
        warned = said(explain_probing, {**read, **changed})
        assert (f"Careful: an answer stands in only {rows} of the rows that probes are fitted on, and {seen}% of the "
                "tested answers stand in them at all, so that a probe may know words and not the capability; a column "
                "group keeps words apart.") in warned  # fmt: skip

    found = patching().summary()
    accuracy, alone, other = (
        f"{each.value:.0%} ({each.low:.0%} to {each.high:.0%})" for each in (share(10, 20), share(2, 20), share(2, 4))
    )
    numbers = f"{accuracy}; without it {alone}, with another question's {other}"
    shown = "of 4 attentions and MLPs the best, chosen on other questions, is the attention of block 1: "
    assert f"enough. No attention or MLP alone is: {shown}{numbers}. In the second" in said(explain_patching, found)
    part = found["best_part"]
    low = part["alone"]._replace(high=0.2)  # below what the part brings back
    best = {**part, "site": "mlp_act", "alone": low, "other_row": low}
    clear = f"enough. O{shown[1:].replace('attention of', 'MLP of')}{accuracy}; without it"
    assert clear in said(explain_patching, {**found, "best_part": best})
    for worse in ("alone", "other_row"):
        not_clear = {**best, worse: low._replace(high=part["accuracy"].low)}
        assert "No attention or MLP alone is: of 4" in said(explain_patching, {**found, "best_part": not_clear})
    alone_in_length = said(explain_patching, {**found, "best_part": {**best, "other_row": None}})
    assert "%), no question is as long as another. In the second" in alone_in_length
    depth = {"value": 0.17, "low": 0.07, "high": 0.3}
    found = {"unlearning_depth": {"fine-tuned": depth, "taught nothing": dict.fromkeys(depth)}}
    assert "1 where nothing is: fine-tuned 0.17 (0.07 to 0.30)." in said(explain_unlearning, found)
    found = {"unlearning_depth": {"fine-tuned": dict.fromkeys(depth)}}
    assert "so that there is no unlearning depth." in said(explain_unlearning, found)

    assert "How many, 2, was chosen on other questions than those shown." in said(explain_pruning, {"best_k": 2})
    steps = {"revival": {"steps": [1, 2, 3]}, "revival_null": {"steps": [9, 9, 9]}}
    late = said(explain_revival, {**steps, "revival_null": {"steps": [60]}})
    assert "for the reference (that one 1 time, since training had to go on), which is followed" in late
    assert "The same short training on the capability, 3 times on different questions, for" in said(
        explain_revival, steps
    )


def test_colors_are_told_apart() -> None:
    assert len(set(COLORS.values())) == len(COLORS)
    assert len({color for _, _, color in KINDS}) == len(KINDS)
