"""A real browser for tests of pages: Debian's Chromium, at the width of a desktop and of a phone."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ftmech_hf.explorer.picture import CHROMIUM_FLAGS, find_chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

WIDTHS = {"desktop": (1280, 900), "phone": (400, 800)}
GRAVE = ("serious", "critical")
MOST_BYTES = 6_000_000
"""A page of a study is one file that can be sent."""
LEAST_PIXELS = 0.79
"""A picture is shown with so many pixels for a point: letters of 10 points are 8 pixels high then."""
SHORTEST_TEXT = 30
"""Letters of the shortest text that can say what a picture shows."""
LEAD_NOWHERE = """links => links.map(link => link.getAttribute('href').slice(1)).filter(
    place => document.querySelectorAll(`[id='${place}']`).length !== 1)"""
"""Of links within a page, the places that are not there, or are there twice; asked at once: it may be hundreds."""
TEXTS = "pictures => pictures.map(each => each.getAttribute('alt') || each.getAttribute('aria-label') || '')"


def need_browser() -> None:
    """Skip, and say why, where pages cannot be shown."""
    pytest.importorskip("playwright.sync_api", reason="pages are not tested in a browser: no playwright")
    pytest.importorskip("axe_playwright_python.sync_playwright", reason="pages are not tested in a browser: no axe")
    if find_chromium() is None:
        pytest.skip("pages are not tested in a browser: no chromium (apt-get install chromium)")


@contextlib.contextmanager
def open_browser() -> Iterator[Browser]:
    """A browser without windows."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=[*CHROMIUM_FLAGS])
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def open_page(browser: Browser, url: str, width: str, **how: Any) -> Iterator[Page]:
    """A page at a width; whatever it asks of another machine, and whatever fails in its scripts, is a failed test."""
    size = dict(zip(("width", "height"), WIDTHS[width], strict=True))
    context = browser.new_context(viewport=size, **how)
    faults: list[str] = []
    page = context.new_page()
    page.on("pageerror", lambda error: faults.append(str(error)))
    here = url.split("/")[2]
    page.on("request", lambda sent: faults.append(sent.url) if not is_here(sent.url, here) else None)
    try:
        page.goto(url)
        yield page
    finally:
        context.close()
    assert faults == []


def is_here(url: str, host: str) -> bool:
    """Whether an address is within a page or of the machine that it is from."""
    return url.startswith(("data:", "blob:", "file:", f"http://{host}/", f"ws://{host}/"))


def grave_faults(page: Page) -> list[str]:
    """What axe-core finds that keeps people out, each with a place on the page."""
    from axe_playwright_python.sync_playwright import Axe

    # without every element that passed, which it would describe one by one, it takes a third of the time
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [
        f"{each['id']}: {each['nodes'][0]['html'][:150]} {each['nodes'][0].get('failureSummary', '')[:300]}"
        for each in found
        if each["impact"] in GRAVE
    ]


def _check_buttons(figure: Locator) -> None:
    """One button for one name, and it switches off all curves of that name, in every panel, and no other."""
    names = figure.get_by_role("button").all_inner_texts()
    assert len(set(names)) == len(names)
    curves = json.loads(figure.get_attribute("data-touch") or "")["curves"]
    for name in names[:1]:
        figure.get_by_role("button", name=name, exact=True).click()
        shown = (
            "nodes => nodes.filter(node => node.style.display !== 'none').map(node => node.id.replace(/^p\\d+-/, ''))"
        )
        left = set(figure.locator("svg [id*=curve-]").evaluate_all(shown))
        for curve in curves:
            assert (set(curve["ids"]) <= left) == (curve["name"] != name) or not curve["ids"]
        figure.get_by_role("button", name=name, exact=True).click()


def figures_of_claims(file: Path) -> dict[str, list[str]]:
    """Id of a claim in a page's table -> the places of the pictures that its row links to."""
    rows = re.findall(r'id="claim-([^"]+)">(.*?)<a href="#command"', file.read_text())
    return {claim: re.findall(r'href="#(figure-[^"]+)"', links) for claim, links in rows}


def _check_letters(figure: Locator) -> None:
    """A picture is never so small that its letters cannot be read: it is moved by touch, or by keys, instead."""
    size = "node => node.getBoundingClientRect().width / node.querySelector('svg').viewBox.baseVal.width"
    for plot in figure.locator(".plot").all():
        assert plot.evaluate(size) >= LEAST_PIXELS
    points = "node => node.getBoundingClientRect().width / (0.75 * node.naturalWidth)"
    for image in figure.locator("img").all():  # one without curves stays an image
        assert image.evaluate(points) >= LEAST_PIXELS


def check_page(file: Path, *, touched: int = 1) -> None:
    """Nobody is kept out of a study's page, at either width. The last words of a test: without a browser it is skipped.

    It is one file and not large, its links lead somewhere, its pictures say what they show, and on paper there are no
    buttons.

    Args:
        file: the page.
        touched: so many of its pictures, at least, can be touched.
    """
    assert file.stat().st_size <= MOST_BYTES
    need_browser()
    with open_browser() as browser:
        for width in WIDTHS:
            with open_page(browser, file.as_uri(), width) as page:
                assert grave_faults(page) == []
                assert overflow(page) <= 0
                assert page.locator("figure.touch svg").count() >= touched
                for figure in page.locator("figure.touch").all():
                    _check_buttons(figure)
                    _check_letters(figure)
                assert page.locator("main a[href^='#']").evaluate_all(LEAD_NOWHERE) == []
                for text in page.locator("main img, main svg[role=img]").evaluate_all(TEXTS):
                    assert len(text) >= SHORTEST_TEXT, text
                page.emulate_media(media="print")
                assert not page.locator(".tools:visible, .mark:visible").count()


def overflow(page: Page) -> int:
    """By how many pixels a page is wider than its window."""
    wider: int = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    return wider
