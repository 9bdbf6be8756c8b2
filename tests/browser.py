"""A real browser for tests of pages: Debian's Chromium, at the width of a desktop and of a phone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from ftmech_hf.explorer.picture import CHROMIUM_FLAGS, find_chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

WIDTHS = {"desktop": (1280, 900), "phone": (400, 800)}
GRAVE = ("serious", "critical")


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

    found = Axe().run(page).response["violations"]
    return [
        f"{each['id']}: {each['nodes'][0]['html'][:150]} {each['nodes'][0].get('failureSummary', '')[:300]}"
        for each in found
        if each["impact"] in GRAVE
    ]


def overflow(page: Page) -> int:
    """By how many pixels a page is wider than its window."""
    wider: int = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    return wider
