"""Pictures of pages for READMEs, taken in a real browser: the machine's own Chromium."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Page

CHROMIUM_FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
SIZE = {"width": 1280, "height": 1080}
STEPS = 7
"""So far along a curve is the value that is pointed at."""


def find_chromium() -> str | None:
    """The browser on this machine, if there is one."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


def need_chromium() -> str:
    """The same.

    Raises:
        ValueError: there is none.
    """
    if (browser := find_chromium()) is None:
        raise ValueError("picture: there is no Chromium on this machine to take it in")
    return browser


@contextlib.contextmanager
def open_to_look(url: str) -> Iterator[Page]:
    """A page in the machine's Chromium.

    Raises:
        ValueError: there is no Chromium on this machine.
        ModuleNotFoundError: playwright is not installed.
    """
    browser = need_chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=browser, args=[*CHROMIUM_FLAGS])
        page = opened.new_page(viewport=SIZE)
        page.goto(url)
        yield page
        opened.close()


def take_picture(url: str, path: Path) -> None:
    """On an explorer's page, take most of the wrapper off, make the same edit at random, and keep what is seen.

    Raises:
        ValueError: there is no Chromium on this machine.
        ModuleNotFoundError: playwright is not installed.
    """
    with open_to_look(url) as page:
        page.wait_for_selector("#fx-lead")
        page.fill("#scale input[type=range]", "0.2")
        page.wait_for_function("document.querySelector('#fx-lead').innerText.includes('weight change x 0.2')")
        page.click("#random")
        page.wait_for_function("document.querySelector('#fx-lead').innerText.includes('at random')")
        path.parent.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=path)


def take_picture_of_report(report: Path, path: Path) -> None:
    """Go to the first picture of a study's page, point at a value of it, and keep what is seen.

    Args:
        report: the page, which has a picture that can be touched.
        path: the PNG.

    Raises:
        ValueError: there is no Chromium on this machine.
        ModuleNotFoundError: playwright is not installed.
    """
    with open_to_look(report.resolve().as_uri()) as page:
        plot = page.locator("figure.touch .plot").first
        plot.evaluate("plot => plot.closest('section').scrollIntoView()")
        plot.focus()
        for _ in range(STEPS):
            page.keyboard.press("ArrowRight")
        path.parent.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=path)
