"""Pages that are touched: what they hold without scripts, and what scripts make of it in a real browser."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from PIL import Image

from ftmech_hf.explorer.picture import SIZE, take_picture_of_report
from ftmech_hf.report import touch
from ftmech_hf.report.alt import _percent
from ftmech_hf.report.charts import accuracy_axis, new_figure, panel, percent, seed_lines
from ftmech_hf.report.claims import read_claims
from ftmech_hf.report.page import make_picture
from ftmech_hf.studies.pcfg.plan import ReproduceConfig, ReproducePlan
from ftmech_hf.studies.pcfg.results import PANELS, write_results
from ftmech_hf.studies.tracr import results as tracr
from ftmech_hf.tasks import PcfgShape
from tests.browser import (
    MOST_BYTES,
    WIDTHS,
    check_page,
    figures_of_claims,
    grave_faults,
    need_browser,
    open_browser,
    open_page,
    overflow,
)
from tests.hub.test_study_results import MADE
from tests.report.fabricated import CURVES, SEEDS, write_reproduction

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from playwright.sync_api import Browser, Page


def touched(draw: Any) -> list[dict[str, Any]]:
    return list(json.loads(make_picture(panel(draw), "x").touch)["curves"])


def test_every_value_of_a_curve_is_where_it_is_drawn_and_says_its_seeds() -> None:
    def draw(ax: Axes) -> None:
        seed_lines(ax, [pd.Series({0: 0.0, 10: 0.5}), pd.Series({0: 0.5, 10: 1.0})], "counts a", "#123456")
        ax.plot([0, 10], [1.0, 1.0], color="#000000", label="counts b")
        accuracy_axis(ax)
        ax.set_xlabel("step")

    first, second = touched(draw)
    assert first["name"] == "counts a"
    assert [point[2] for point in first["points"]] == [
        "counts a, step 0: 25% (seeds 0%, 50%)", "counts a, step 10: 75% (seeds 50%, 100%)",
    ]  # fmt: skip
    assert first["ids"] == ["curve-0-2"]
    assert first["seeds"] == ["curve-0-0", "curve-0-1"]
    assert second["seeds"] == []
    (left, low, _), (right, high, _) = first["points"]
    assert 0 < left < right < 1
    assert 0 < high < low < 1  # places are counted from the top
    top = second["points"][1][1]
    assert (low - high) / (low - top) == pytest.approx(2 / 3, abs=1e-3)  # 25 %, 75 % and 100 % on one axis


def test_little_is_not_said_to_be_nothing_nor_nearly_all_to_be_all() -> None:
    figure = new_figure(3, 3)
    ax = figure.subplots()
    percent(ax.yaxis)
    said = [_percent(ax.yaxis, each) for each in (0.0, 0.0004, 0.004, 0.17, 0.994, 0.996, 0.9999, 1.0, -0.004)]
    assert said == ["0%", "0%", "0.4%", "17%", "99%", "99.6%", "100%", "100%", "0%"]


def test_intervals_are_said_and_curves_that_say_nothing_are_left_out() -> None:
    def draw(ax: Axes) -> None:
        ax.bar([0, 1], [2.0, 3.0], label="found")
        ax.errorbar([0, 1], [2.0, 3.0], yerr=[[0.5, 1.0], [0.25, 1.0]], fmt="none")
        ax.axhline(1.0, label="_floor")
        ax.set_xticks([0, 1], ["base", "tuned"])

    (bars,) = touched(draw)
    assert [point[2] for point in bars["points"]] == [
        "found, base: 2 (interval 1.5 to 2.25)", "found, tuned: 3 (interval 2 to 4)",
    ]  # fmt: skip
    assert touched(lambda ax: ax.plot(np.arange(2000), np.zeros(2000), label="long")) == []


def test_an_interval_is_said_beside_the_value_it_was_drawn_for() -> None:
    """Several values stand at one place, of which some have no interval, or one that holds the others' values, too."""

    def draw(ax: Axes) -> None:
        ax.plot([0, 1], [0.6, 0.52], color="#c2410c", label="seen in training")
        for value, ends, color, name in ((0.5, 0.2, "#c2410c", "asked"), (0.7, 0.3, "#1971c2", "taught"),
                                         (0.7, 0.1, "#808896", "by chance")):  # fmt: skip
            ax.errorbar(1, value, yerr=[[ends], [0.05]], fmt="s", color=color, label=name)
        ax.plot([0, 1], [0.1, 0.9], color="C0", label="alone")
        ax.plot([0, 1], [0.2, 0.9], color="C1", label="beside it")
        ax.errorbar([0, 1], [0.1, 0.9], yerr=[[0.05, 0.2], [0.2, 0.05]], fmt="none", ecolor="C0", alpha=0.4)

    said = {point[2] for curve in touched(draw) for point in curve["points"]}
    assert said == {
        "seen in training, 0: 0.6", "seen in training, 1: 0.52", "asked, 1: 0.5 (interval 0.3 to 0.55)",
        "taught, 1: 0.7 (interval 0.4 to 0.75)", "by chance, 1: 0.7 (interval 0.6 to 0.75)",
        "alone, 0: 0.1 (interval 0.05 to 0.3)", "alone, 1: 0.9 (interval 0.7 to 0.95)",
        "beside it, 0: 0.2", "beside it, 1: 0.9",
    }  # fmt: skip


def test_bars_side_by_side_are_told_by_what_they_stand_over_and_open_ends_by_nothing() -> None:
    def draw(ax: Axes) -> None:
        for offset, name in ((-0.2, "base"), (0.2, "tuned")):
            ax.bar([offset, 1 + offset], [0.7, 0.1], 0.4, label=name)
        ax.set_xticks([0, 1], ["counting", "indexing"])

    said = {point[2] for curve in touched(draw) for point in curve["points"]}
    assert said == {f"{name}, {what}: {value}" for name in ("base", "tuned")
                    for what, value in (("counting", 0.7), ("indexing", 0.1))}  # fmt: skip

    def open_ends(ax: Axes) -> None:
        ax.errorbar([0, 1], [0.5, 0.6], yerr=[[np.nan, 0.1], [np.inf, 0.1]], fmt="s", label="one")

    said = {point[2] for curve in touched(open_ends) for point in curve["points"]}
    assert said == {"one, 0: 0.5", "one, 1: 0.6 (interval 0.5 to 0.7)"}


def test_words_are_no_formulas_and_the_powers_of_an_axis_are() -> None:
    """A token may be a dollar or two, and what is between them is no mathematics."""

    def draw(ax: Axes) -> None:
        ax.plot([1, 1000], [1.0, 2.0], label="$$ ^")
        ax.set_xscale("log")
        ax.set_yticks([1, 2], ["$$", "$_$"])
        ax.set_title("from $x^ to $y_")
        ax.legend()

    figure = panel(draw)
    make_picture(figure, "x")  # matplotlib would not parse these
    parsed = {text.get_text(): text.get_parse_math() for text in figure.findobj(Text) if "$" in text.get_text()}
    assert {text for text, is_formula in parsed.items() if not is_formula} == {"$$ ^", "$$", "$_$", "from $x^ to $y_"}
    assert "$\\mathdefault{10^{2}}$" in parsed


def test_bars_that_lie_are_as_long_as_they_are_said_to_be() -> None:
    def draw(ax: Axes) -> None:
        ax.barh(["layers.0.mlp", "layers.1.attn"], [0.25, 0.5], label="the change")

    (bars,) = touched(draw)
    (short, low, said), (long, high, also_said) = bars["points"]
    assert (said, also_said) == ("the change, layers.0.mlp: 0.25", "the change, layers.1.attn: 0.5")
    assert 0 < short < long < 1
    assert 0 < high < low < 1
    assert "the change layers.0.mlp 0.25, layers.1.attn 0.5" in make_picture(panel(draw), "x").alt


def test_points_that_lie_say_shares_and_their_seeds() -> None:
    def draw(ax: Axes) -> None:
        for row in ([1.0, 0.5], [0.9, np.nan]):
            ax.plot(row, [1, 0], "o", color="C0", alpha=0.3)
        ax.plot([0.95, 0.5], [1, 0], "o", color="C0", label="answers")
        ax.errorbar([0.2, np.nan], [1, 0], xerr=[[0.1, 0.1], [0.05, 0.1]], fmt="s", color="C1", label="refuses")
        ax.set_yticks([1, 0], ["base", "tuned"])
        percent(ax.xaxis)

    answers, refuses = touched(draw)
    assert [point[2] for point in answers["points"]] == [
        "answers, base: 95% (seeds 100%, 90%)", "answers, tuned: 50% (seeds 50%)",
    ]  # fmt: skip
    assert [point[2] for point in refuses["points"]] == ["refuses, base: 20% (interval 10% to 25%)"]
    (right, high, _), (left, low, _) = answers["points"]
    assert 0 < left < right < 1
    assert 0 < high < low < 1


def test_of_curves_of_one_name_it_is_said_in_which_panel_they_are() -> None:
    figure = new_figure(4, 2)
    for ax, rate, high in zip(figure.subplots(1, 2), ("large", "small"), (0.5, 1.0), strict=True):
        ax.plot([0, 10], [0.0, high], label="control")
        ax.set_title(f"{rate} rate", loc="left")
    large, small = json.loads(make_picture(figure, "x").touch)["curves"]
    assert [curve["points"][1][2] for curve in (large, small)] == [
        "large rate: control, 10: 0.5", "small rate: control, 10: 1",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def page_of(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a reproduction whose numbers are known."""
    folder = tmp_path_factory.mktemp("pages")
    plan = ReproducePlan(
        ReproduceConfig(seeds=list(SEEDS), output_dir=str(folder), runs_dir=str(folder / "runs")), PcfgShape()
    )
    for seed in SEEDS:
        write_reproduction(plan.of_seed(seed), seed)
    write_results(plan)
    return folder / "report.html"


def test_a_page_is_one_file_that_is_whole_without_scripts(page_of: Path) -> None:
    text = page_of.read_text()
    assert len(text.encode()) <= MOST_BYTES
    still = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    pictures = re.findall(r'<figure class="touch" data-touch="[^"]*"><img src="data:image/svg\+xml;base64,', still)
    assert len(pictures) == still.count("<img") == len(PANELS) + 1
    assert not re.search(r'(src|href)="(https?:)?//(?!arxiv)', still)
    assert text.count("<script>") == text.count("<script") == 1
    for link in re.findall(r'href="#([^"]+)"', still):
        assert f'id="{link}"' in still, link


def test_every_claim_leads_to_its_figure_and_its_command(page_of: Path) -> None:
    text = page_of.read_text()
    claims = read_claims(page_of.parent)
    known = {each for panel in PANELS for each in panel.claims}
    assert {claim.id for claim in claims} == known
    for claim in claims:
        row = next(row for row in text.split("<tr>") if f'<th scope="row">{claim.statement}<' in row)
        (anchor,) = re.findall(r'href="#(figure-[^"]+)"', row)
        assert f'id="{anchor}"' in text
        assert 'href="#command"' in row


def test_the_picture_of_a_page_shows_a_value_that_is_pointed_at(page_of: Path, tmp_path: Path) -> None:
    need_browser()
    take_picture_of_report(page_of, tmp_path / "pictures" / "report.png")
    with Image.open(tmp_path / "pictures" / "report.png") as picture:
        assert picture.size == tuple(SIZE.values())
        blue = (np.abs(np.asarray(picture.convert("RGB"), int) - (0x15, 0x57, 0xB0)).max(2) < 12).sum()
    assert blue > 400  # the ring around the picture that has the focus, and the mark on its value


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    need_browser()
    with open_browser() as found:
        yield found


def any_map(*_: object) -> Figure:
    figure = new_figure(2, 2)
    figure.subplots().imshow([[0.0, 1.0], [0.5, 0.5]])
    return figure


@pytest.mark.parametrize("study", [name for name in MADE if name != "reproduce"])
def test_nobody_is_kept_out_of_the_page_of_any_study(
    study: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracr.tracr_figures, "attention_figure", any_map)  # else it is of models that are there
    MADE[study][0](tmp_path / "out")
    drawn = figures_of_claims(tmp_path / "out" / "report.html")
    assert drawn
    assert all(len(pictures) == 1 for pictures in drawn.values()), drawn
    check_page(tmp_path / "out" / "report.html")


def column(page: Page, number: int) -> list[str]:
    cells = "rows => rows.map(row => row.cells[%d].childNodes[0].textContent.trim())"
    found: list[str] = page.locator("main table").first.locator("tbody tr").evaluate_all(cells % number)
    return found


def test_whoever_is_kept_out_is_noticed(browser: Browser, tmp_path: Path) -> None:
    """The control of all tests of pages: one picture says nothing, and one word can hardly be seen."""
    file = tmp_path / "page.html"
    file.write_text(
        "<!DOCTYPE html><html lang='en'><title>page</title><main><h1>page</h1><img src='data:,'>"
        "<p style='color: #eee; background: #fff'>word</p></main></html>"
    )
    with open_page(browser, file.as_uri(), "desktop") as page:
        assert sorted(each.split(":")[0] for each in grave_faults(page)) == ["color-contrast", "image-alt"]


def test_powers_of_ten_are_sorted_by_what_they_are(browser: Browser) -> None:
    rows = "".join(f"<tr><th>x</th><td>{each}</td></tr>" for each in ("1.5", "3.2e-05", "1e+03", "0.0326 of 2"))
    script = (Path(touch.__file__).parent / "touch.js").read_text()
    with browser.new_page() as page:
        page.set_content(
            f"<main><table><thead><tr><th>what</th><th>Score</th></tr></thead><tbody>{rows}</tbody></table></main>"
            f"<script>{script}</script>"
        )
        page.get_by_role("button", name="Score").click()
        assert column(page, 1) == ["3.2e-05", "0.0326 of 2", "1.5", "1e+03"]


def test_words_with_a_number_in_them_are_sorted_as_words(browser: Browser) -> None:
    said = ("weakened (seed 0)", "gone (seed 0)", "unchanged (seed 0)", "GPT-2")
    counts = ("at least 8.9 x", "<0.1 %", "\u22123 points", "1,024")
    rows = "".join(
        f"<tr><th>x</th><td>{one}</td><td>{other}</td></tr>" for one, other in zip(said, counts, strict=True)
    )
    script = (Path(touch.__file__).parent / "touch.js").read_text()
    with browser.new_page() as page:
        page.set_content(
            "<main><table><thead><tr><th>what</th><th>Verdict</th><th>Count</th></tr></thead>"
            f"<tbody>{rows}</tbody></table></main><script>{script}</script>"
        )
        page.get_by_role("button", name="Verdict").click()
        assert column(page, 1) == sorted(said, key=str.lower)
        page.get_by_role("button", name="Count").click()
        assert column(page, 2) == ["\u22123 points", "<0.1 %", "at least 8.9 x", "1,024"]


@pytest.mark.parametrize("width", list(WIDTHS))
def test_it_is_touched_with_a_pointer_and_with_keys(browser: Browser, page_of: Path, width: str) -> None:
    with open_page(browser, page_of.as_uri(), width) as page:
        assert grave_faults(page) == []
        assert overflow(page) <= 0
        verdict = page.locator("table.claims td:last-child").first.bounding_box()
        assert verdict is not None
        assert verdict["x"] + verdict["width"] <= WIDTHS[width][0]  # on a phone, too, before anything is scrolled
        figure = page.locator("figure.touch").nth(5)
        assert figure.locator("svg").get_attribute("aria-label") is not None
        # the pointer is at the last value of the curve that is trained back
        curve = json.loads(figure.get_attribute("data-touch") or "")["curves"][0]
        across, down, said = curve["points"][-1]
        plot = figure.locator(".plot")
        plot.scroll_into_view_if_needed()
        box = plot.bounding_box()
        assert box is not None
        plot.hover(position={"x": across * box["width"], "y": down * box["height"]})
        assert figure.locator(".value").inner_text() == said
        assert said.startswith("fine-tuned model, reversed, step of reverse fine-tuning")
        assert len(CURVES["reversed-low"]) == len(re.findall(r"\d+%", said.partition("seeds")[2]))
        # keys go along a curve, and to the next one
        plot.focus()
        page.keyboard.press("ArrowLeft")
        assert figure.locator(".value").inner_text() == curve["points"][-2][2]
        page.keyboard.press("ArrowDown")
        assert figure.locator(".value").inner_text().startswith("control, never counted a")
        # a model and all seeds but one are switched off
        button = figure.get_by_role("button", name="control, never counted a")
        button.focus()
        page.keyboard.press("Enter")
        assert button.get_attribute("aria-pressed") == "false"
        figure.get_by_label("Seeds").select_option("0")
        shown = (
            "nodes => nodes.filter(node => node.style.display !== 'none').map(node => node.id.replace(/^p\\d+-/, ''))"
        )
        parts = set(figure.locator("svg [id*=curve-]").evaluate_all(shown))
        assert set(curve["seeds"]) & parts == {curve["seeds"][0]}
        assert not set(curve["ids"]) & parts
        assert grave_faults(page) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_tables_are_sorted_and_claims_lead_to_their_figures(browser: Browser, page_of: Path, scheme: Any) -> None:
    with open_page(browser, page_of.as_uri(), "desktop", color_scheme=scheme) as page:
        before = column(page, 0)
        head = page.locator("main table").first.get_by_role("button", name="Measured")
        head.focus()
        page.keyboard.press("Enter")
        numbers = [float(re.findall(r"[-+]?[\d.]+", each)[0]) for each in column(page, 3)]
        assert numbers == sorted(numbers)
        assert len(set(numbers)) > 5
        assert page.locator("main table").first.locator("th[aria-sort=ascending]").inner_text().startswith("Measured")
        head.click()
        falling = [float(re.findall(r"[-+]?[\d.]+", each)[0]) for each in column(page, 3)]
        assert falling == sorted(numbers, reverse=True)
        assert page.locator("th[aria-sort=descending]").count() == 1
        assert sorted(column(page, 0)) == sorted(before)
        page.locator("main table a", has_text="figure").first.click()
        assert "#figure-" in page.url
        assert grave_faults(page) == []


def test_it_is_read_and_printed_without_scripts(browser: Browser, page_of: Path) -> None:
    with open_page(browser, page_of.as_uri(), "phone", java_script_enabled=False) as page:
        assert page.locator("figure.touch img").count() == len(PANELS) + 1
        assert page.locator("button").count() == 0
    with open_page(browser, page_of.as_uri(), "desktop") as page:
        page.emulate_media(media="print")
        assert not page.locator(".tools").first.is_visible()
        assert page.locator("figure.touch svg").first.is_visible()
        assert page.evaluate("getComputedStyle(document.querySelector('.card')).breakInside") == "avoid"
