"""Pages for everybody: seen in the dark, on a phone, or not seen at all."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ftmech_hf.report import charts, page
from ftmech_hf.report.alt import describe_figure
from ftmech_hf.report.charts import panel
from ftmech_hf.report.claims import Claim, Measurement, judge
from ftmech_hf.report.readings import Reading
from ftmech_hf.studies.diagnosis import figures as diagnosis_figures
from ftmech_hf.studies.diagnosis.methods.revival import draw_revival
from ftmech_hf.studies.diagnosis.methods.weights import draw_weight_spectrum
from ftmech_hf.studies.pcfg.plan import ReproduceConfig, ReproducePlan
from ftmech_hf.studies.pcfg.results import build_sections
from ftmech_hf.studies.tinystories import figures as stories_figures
from ftmech_hf.tasks import PcfgShape
from tests.report.fabricated import SEEDS, write_reproduction

TEMPLATES = sorted(Path(charts.__file__).parents[1].rglob("*.html.j2"))
STYLE = (Path(charts.__file__).parent / "base.html.j2").read_text().split("<style>")[1].split("</style>")[0]


def luminance(color: str) -> float:
    """WCAG 2.2: relative luminance of #rrggbb."""
    parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def test_contrast_is_what_the_standard_says() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)  # the best known grey that just fails


SCHEMES = [dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block)) for block in re.findall(r":root \{(.*?)\}", STYLE)]


def test_text_can_be_read_in_the_light_and_in_the_dark() -> None:
    light, dark = SCHEMES
    assert set(light) == set(dark)
    assert "prefers-color-scheme: dark" in STYLE
    assert luminance(light["page"]) > 0.5 > luminance(dark["page"])
    for scheme in SCHEMES:
        for text in ("ink", "soft", "good", "bad", "unsure", "link"):
            for ground in ("page", "card"):
                assert contrast(scheme[text], scheme[ground]) >= 4.5, (text, ground, scheme)


def test_colors_of_a_style_come_from_the_scheme_or_bring_their_ground() -> None:
    for path in TEMPLATES:
        for style in re.findall(r"<style>(.*?)</style>", path.read_text(), re.DOTALL):
            for rule, body in re.findall(r"([^{}]+)\{([^{}]*)\}", style):
                own = dict(re.findall(r"(?<![\w-])(background|color): (#[0-9a-f]{6}|#[0-9a-f]{3})", body))
                if "color" in own:
                    assert contrast(own["color"], own["background"]) >= 4.5, rule
                elif "background" in own and rule.strip() not in ("img",):
                    assert rule.strip() == "mark.slot"  # has the color of `mark`
                    assert contrast("#1f2937", own["background"]) >= 4.5


def test_nothing_is_not_less_than_nothing() -> None:
    assert [page.format_value(-0.04, unit) for unit in ("points", "x")] == ["+0.0 points", "0.0 x"]
    assert page.format_value(-0.06, "points") == "-0.1 points"
    # nats are of any size: a cost of a twentieth of one is no nothing
    assert [page.format_value(value, "nats") for value in (0.0412, 12.34, -0.0)] == [
        "0.0412 nats",
        "12.3 nats",
        "0 nats",
    ]
    assert page._format_end(0.0234, "nats") == "0.0234"


def test_lines_of_pictures_can_be_told_from_their_ground() -> None:
    named = {name: getattr(charts, name) for name in ("BASE", "FINETUNED", "CONTROL", "RANDOM")}
    named |= {f"diagnosis {name}": color for name, color in diagnosis_figures.COLORS.items()}
    named |= {"other": diagnosis_figures.OTHER, **stories_figures.COLORS}
    for name, color in named.items():
        assert contrast(color, "#ffffff") >= 3, name
    for name in ("BASE", "FINETUNED", "CONTROL"):  # also the color of letters
        assert contrast(named[name], "#ffffff") >= 4.5, name


class _Tables(HTMLParser):
    """What is wrong with the tables of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.parent: dict[str, str | None] = {}
        self.wrong: list[str] = []
        self.tables = 0
        self.labels: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "table":
            self.tables += 1
            region = self.parent.get("role") == "region" and self.parent.get("tabindex") == "0"
            if not (region and self.parent.get("aria-label") and self.parent.get("class") == "scroll"):
                self.wrong.append(f"table {self.tables} is in no named region that scrolls")
        if tag == "th" and found.get("scope") not in ("col", "row"):
            self.wrong.append(f"a heading of table {self.tables} heads neither rows nor columns")
        self.parent = found


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_tables_stay_tables_on_a_phone(path: Path) -> None:
    """They scroll inside their card: as blocks they would be no tables to a screen reader."""
    text = path.read_text()
    parser = _Tables()
    parser.feed(re.sub(r"\{%.*?%\}|\{#.*?#\}", "", text, flags=re.DOTALL))
    assert parser.wrong == []
    assert text.count("<table") == text.count("</table></div>") == text.count('role="region"')
    assert not re.search(r"(table|tr|td|th|thead)[^{};]*\{[^}]*display:\s*(block|flex|none|grid)", text)
    assert len(re.findall(r'<tr><th scope="row"', text)) >= text.count("<tbody>") - text.count("loop.first")


def test_a_picture_is_described_by_what_was_drawn() -> None:
    def draw(ax) -> None:  # type: ignore[no-untyped-def]
        ax.plot([0, 5, 10], [1.0, 0.25, 0.5], label="counts a")
        ax.plot([0, 5, 10], [0.0, 0.75, 0.5], label="counts b")
        ax.plot([0, 10], [0.3, 0.3], label="_one of the seeds")
        ax.yaxis.set_major_formatter(PercentFormatter(1.0))
        ax.set_xlabel("step")
        ax.set_ylabel("accuracy")
        ax.set_title("Two letters")

    assert describe_figure(panel(draw)) == (
        "Two letters, accuracy against step: counts a from 100% at 0 to 50% at 10; "
        "counts b from 0% at 0 to 50% at 10, highest 75% at 5."
    )


def test_a_floor_is_drawn_with_its_curve_and_explained_once() -> None:
    def draw(ax) -> None:  # type: ignore[no-untyped-def]
        for name, color, floors in (("counts a", "C0", [0.25, 0.35]), ("counts b", "C1", [0.8, 0.8])):
            ax.plot([0, 10], [0.5, 1.0], color=color, label=name)
            charts.floor_line(ax, floors, name, color)
        charts.floor_line(ax, [None, None], "of a run that does not know", "C2")
        ax.yaxis.set_major_formatter(PercentFormatter(1.0))

    figure = panel(draw)
    (ax,) = figure.axes
    assert ax.get_legend_handles_labels()[1] == ["counts a", charts.FLOOR_LABEL, "counts b"]
    drawn = {line.get_label(): line for line in ax.lines}
    for name, color, floor in (("counts a", "C0", 0.3), ("counts b", "C1", 0.8)):
        line = drawn[f"_{charts.FLOOR_LABEL}, {name}"]
        assert list(line.get_ydata()) == pytest.approx([floor, floor])  # type: ignore[arg-type]
        assert (line.get_color(), line.is_dashed()) == (color, True)
    assert len(ax.lines) == 5
    text = describe_figure(figure)
    assert "always one answer, counts a 30%" in text
    assert "always one answer, counts b 80%" in text


def test_bars_points_maps_and_named_places_are_described() -> None:
    figure = Figure()
    bars, points, map_of = figure.subplots(1, 3)
    bars.bar([0, 1], [0.5, 2.0], label="base")
    points.errorbar([0, 1], [3.0, 4.0], yerr=[0.1, 0.1], fmt="o", label="tuned")
    points.plot([0, 1], [1.0, 2.0], label="line")
    points.set_xticks([0, 1], ["here", "there"])
    image = map_of.imshow([[0.0, 0.1], [-0.9, 0.2]])
    figure.colorbar(image, ax=map_of)
    text = describe_figure(figure)
    assert "base 0.5, 2." in text
    assert "tuned here 3, there 4" in text
    assert "line from 1 at here to 2 at there" in text
    assert text.endswith("a map of 2 rows and 2 columns, largest -0.9 in row 2, column 1.")


def test_a_picture_that_lies_is_read_from_place_to_place() -> None:
    """Words stand on its upright axis, so that row numbers are no values; what is not known is not said."""

    def draw(ax) -> None:  # type: ignore[no-untyped-def]
        ax.plot([1.0, 0.25, float("nan")], [2.2, 1.2, 0.2], "o", label="answers")
        ax.plot([0.0, 0.5, -0.001], [1.8, 0.8, -0.2], "s", label="refuses")
        ax.set_yticks([2, 1, 0], ["base", "tuned\nagain", "never"])
        ax.xaxis.set_major_formatter(PercentFormatter(1.0))

    assert describe_figure(panel(draw)) == (
        "base: answers 100%, refuses 0%; tuned again: answers 25%, refuses 50%; never: refuses 0%."
    )


def test_places_are_said_as_the_axis_writes_them() -> None:
    figure = Figure()
    counted, shares, points = figure.subplots(1, 3)
    counted.plot([0, 1, 3], [1.0, 0.0, 0.5], label="place")  # people count from one
    counted.set_xticks([0, 1, 3], ["1", "2", "4"])
    shares.plot([0.0572988, 0.5], [0.25, 1.0], label="frontier")
    shares.plot([0.75], [0.125], "o", label="one")
    shares.axvline(0.2, label="floor")
    shares.set_xlabel("count_b")
    for axis in (shares.xaxis, shares.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    points.plot([0, 1, 0, 1], [0.1, 0.2, 0.3, 0.2], "o", label="pairs")
    points.set_xticks([0, 1], ["hidden", "gone"])
    assert describe_figure(figure) == (
        "place from 1 at 1 to 0.5 at 4. "
        "count_b: frontier from 25% at 6% to 100% at 50%; one 12% at 75%; floor, count_b 20%. "
        "pairs hidden 0.1 to 0.3, gone 0.2."
    )


def test_a_map_with_numbers_says_its_last_row() -> None:
    def draw(ax) -> None:  # type: ignore[no-untyped-def]
        ax.imshow([[1.0, 0.5], [0.25, float("nan")]])
        for column, row, text in ((0, 0, "100"), (1, 0, "50"), (0, 1, "25")):
            ax.text(column, row, text)
        ax.set_xticks([0, 1], ["count_a", "count_b"])
        ax.set_yticks([0, 1], ["base", "task 1"])

    assert describe_figure(panel(draw)) == "a map of 2 rows and 2 columns, task 1: count_a 25."


def test_every_picture_of_a_reproduction_says_what_it_shows(tmp_path: Path) -> None:
    plan = ReproducePlan(ReproduceConfig(seeds=list(SEEDS), output_dir=str(tmp_path)), PcfgShape())
    for seed in SEEDS:
        write_reproduction(plan.of_seed(seed), seed)
    sections = build_sections(plan.finished)
    assert len({section.alt for section in sections}) == len(sections) == 7
    first, *_, reading, back, _ = (section.alt for section in sections)
    # means over seeds: 77/1000 at the start; 12.1, 15.5 and 17.7 % at the end
    assert "counts a (pretraining) from 8% at 0 to 15% at 150" in first
    assert "counts b, correlation holds from 8% at 0 to 99% at 150" in first
    assert "base from 49% at embedding to 87% at block 1, highest 97% at block 0" in reading
    assert "control, never counted a from 11% at 0 to 94% at 150" in back
    assert not any(re.search(r"picture \d", section.alt) for section in sections)


def test_no_page_numbers_its_pictures_instead_of_describing_them() -> None:
    for path in TEMPLATES:
        for alt in re.findall(r'<img [^>]*alt="([^"]*)"', path.read_text()):
            assert alt == "{{ shown.alt }}", path.name  # of the one macro that shows pictures


def test_what_was_repeated_is_drawn_with_its_spread() -> None:
    """Trained back three times, and singular values of three matrices: a band from the lowest to the highest."""
    rows = [
        {"quantity": f"repetition {number}", "model": model, "x": step, "value": value + number / 10, "low": None,
         "high": None}
        for model in ("fine-tuned", "reference")
        for number in range(3)
        for step, value in ((0, 0.1), (4, 0.5))
    ]  # fmt: skip
    rows.append({"quantity": "threshold", "model": "", "x": None, "value": 0.9, "low": None, "high": None})
    figure = panel(lambda ax: draw_revival(ax, pd.DataFrame(rows), "control"))
    bands = figure.axes[0].collections
    assert len(bands) == 2
    heights = sorted({round(float(y), 6) for y in bands[0].get_paths()[0].vertices[:, 1]})  # type: ignore[index]
    assert heights == [0.1, 0.3, 0.5, 0.7]

    values = [
        {"quantity": "singular value", "reference": by_chance, "x": x, "value": (3.0 - x) * size}
        for by_chance in (False, True)
        for x in (0, 1)
        for size in (1.0, 2.0, 6.0)
    ]
    figure = panel(lambda ax: draw_weight_spectrum(ax, pd.DataFrame(values), "control"))
    bands = figure.axes[0].collections
    assert len(bands) == 2
    assert sorted({float(y) for y in bands[0].get_paths()[0].vertices[:, 1]}) == [2, 3, 12, 18]  # type: ignore[index]


def test_a_page_names_controls_by_what_they_state_and_counts_one_claim_as_one() -> None:
    control = Measurement("add_random", "Control, a random direction", "%", bar=">= 90")
    claim = Measurement("add", "It refuses", "%", bar=">= 50", controls=("add_random",))
    found = judge([claim, control], {0: {"add": Reading(100.0, rows=99), "add_random": Reading(90.0, rows=99)}})
    facts = {"missing": [], "failed": {}, "seeds": [0], "differences": [], "command": "", "hash": "", "versions": ""}

    def shown(claims: list[Claim]) -> str:
        return page.render_page("ftmech_hf.studies.pcfg", claims=claims, sections=[], facts=facts)

    table = shown(found)
    assert '<td class="verdict"><span class="holds">✓ holds</span>' in table
    assert '<a href="#claim-add_random">Control, a random direction</a> is undecided' in table
    assert "add_random" not in re.sub(r"<[^>]*>", "", table)
    assert "2 claims: 1 holds, 1 undecided" in table
    assert "1 claim: 1 undecided" in shown(found[1:])
