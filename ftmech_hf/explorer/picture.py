"""A picture of the explorer's page for a README, taken in a real browser: the machine's own Chromium."""

from __future__ import annotations

import shutil
from pathlib import Path

from ftmech_hf.explorer.explorer import Explorer
from ftmech_hf.explorer.page import serve

CHROMIUM_FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
SIZE = {"width": 1280, "height": 1080}


def find_chromium() -> str | None:
    """The browser on this machine, if there is one."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


def take_picture(explorer: Explorer, path: Path, *, port: int) -> None:
    """Serve the page, take most of the wrapper off, make the same edit at random beside it, and keep what is seen.

    Raises:
        ValueError: there is no Chromium on this machine.
        ModuleNotFoundError: playwright is not installed.
    """
    if (browser := find_chromium()) is None:
        raise ValueError("picture: there is no Chromium on this machine to take it in")
    from playwright.sync_api import sync_playwright

    serve(explorer, host="127.0.0.1", port=port, block=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=browser, args=[*CHROMIUM_FLAGS])
        page = opened.new_page(viewport=SIZE)
        page.goto(f"http://127.0.0.1:{port}")
        page.wait_for_selector("#fx-lead")
        page.fill("#scale input[type=range]", "0.2")
        page.wait_for_function("document.querySelector('#fx-lead').innerText.includes('weight change x 0.2')")
        page.click("#random")
        page.wait_for_function("document.querySelector('#fx-lead').innerText.includes('at random')")
        page.screenshot(path=path)
        opened.close()
