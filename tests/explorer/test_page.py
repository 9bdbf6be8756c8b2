"""The page as it is served: over HTTP, and in a real browser."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from ftmech_hf.explorer.edits import Edit
from ftmech_hf.explorer.explorer import Explorer
from ftmech_hf.explorer.page import _own_names
from ftmech_hf.explorer.views import visible
from ftmech_hf.models.tokenization import build_tokenizer, save_tokenizer
from tests.browser import WIDTHS, grave_faults, need_browser, open_browser, open_page, overflow
from tests.explorer.conftest import WORDS
from tests.explorer.test_explorer import odd_prompts
from tests.processes import Forked, forked, wait_until
from tests.studies.planted import make_base, make_wrapped

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytest.importorskip("fastapi", reason="the explorer's page is not tested: no gradio")  # gradio itself takes long

ROOT = Path(__file__).parents[2]
BUSY = """
from pathlib import Path

from ftmech_hf.explorer.page import import_gradio
from recipes import explore

def waited_too_long(url):
    return False

read, was_read = Path.read_text, []

def noted(path, *args, **how):
    was_read.append(path.suffix)
    return read(path, *args, **how)

if __name__ == "__main__":
    Path.read_text = noted
    import_gradio()
    assert ".py" not in was_read and ".pyi" not in was_read, "gradio makes stubs beside its sources"
    import_gradio().networking.url_ok = waited_too_long  # gradio's own look at the page, for which it has 3 seconds
    explore.main()
"""
ONE_BLOCK = """
from ftmech_hf.explorer.explorer import Explorer
from ftmech_hf.explorer.page import build_page
from ftmech_hf.models.tokenization import build_tokenizer
from tests.conftest import make_llama
from tests.explorer.conftest import WORDS

models = {name: make_llama(40, layers=1, seed=seed) for seed, name in enumerate(("base", "finetuned"))}
page = build_page(Explorer(models, build_tokenizer(WORDS), title="one block"), "")
(layer,) = [each for each in page.blocks.values() if each.elem_id == "layer"]
assert (layer.value, layer.interactive) == (0, False)
"""
WHOLE = [1, 16, False, "none", "resid_post", 0]


@pytest.fixture(scope="module")
def url(explorer: Explorer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The recipe's page of the planted pair, in a process of its own."""
    folder = tmp_path_factory.mktemp("page")
    for name, make in {"base": make_base, "finetuned": make_wrapped}.items():
        make("gpt2").save_pretrained(folder / name)
        save_tokenizer(build_tokenizer(WORDS), folder / name)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    models = [word for name in ("base", "finetuned") for word in (f"--{name}", str(folder / name))]
    script, log = folder / "busy.py", folder / "log"
    script.write_text(BUSY)
    words = [str(script), *models, "--port", str(port), "--prompts", *explorer.examples]
    with forked(words, log, cwd=ROOT) as process:
        wait_for(f"http://127.0.0.1:{port}", process, log)
        yield f"http://127.0.0.1:{port}"


def wait_for(url: str, process: Forked, log: Path) -> None:
    for _ in range(600):
        assert process.poll() is None, log.read_text()
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise AssertionError(log.read_text())


def call(client: httpx.Client, url: str, *given: Any, name: str = "ask") -> tuple[str, Any]:
    """What the page's API answers: the last event and what it carries."""
    body = json.dumps({"data": list(given)})  # in ASCII, so that what is no character can be sent too
    sent = client.post(f"{url}/gradio_api/call/{name}", content=body, headers={"Content-Type": "application/json"})
    assert sent.status_code == 200, sent.text
    told = client.get(f"{url}/gradio_api/call/{name}/{sent.json()['event_id']}").text
    event, data = re.findall(r"event: (\w+)\ndata: (.*)", told)[-1]
    return event, json.loads(data)


def test_a_hundred_inputs_over_http_are_all_answered(url: str) -> None:
    with httpx.Client(timeout=60) as client:
        for number, prompt in enumerate(odd_prompts(100)):
            event, data = call(client, url, prompt, [0, 0.5, 1][number % 3], *WHOLE[1:])
            assert event == "complete", prompt
            assert 'id="fx-lead"' in data[0], prompt


def test_what_no_slider_gives_is_refused_and_the_page_goes_on(url: str) -> None:
    with httpx.Client(timeout=60) as client:
        for given in (["w1", 99, *WHOLE[1:]], ["w1", *WHOLE[:3], "/etc/passwd", *WHOLE[4:]], ["w1"], [{}] * 7, []):
            sent = client.post(f"{url}/gradio_api/call/ask", json={"data": given})
            if sent.status_code == 200:
                told = client.get(f"{url}/gradio_api/call/ask/{sent.json()['event_id']}").text
                assert "event: error" in told or 'role=\\"alert\\"' in told, (given, told)
                assert "root:" not in told
        assert call(client, url, "w1", *WHOLE)[0] == "complete"


def test_no_file_is_given_or_taken_and_no_other_machine_is_let_in(url: str) -> None:
    with httpx.Client(timeout=60) as client:
        for path in ("/etc/passwd", "pyproject.toml", f"{__file__}", "../../etc/passwd"):
            found = client.get(f"{url}/gradio_api/file={path}")
            assert found.status_code in (403, 404), (path, found.status_code)
        sent = client.post(f"{url}/gradio_api/upload", files={"files": ("x.txt", b"0" * 100)})
        assert sent.status_code >= 400
    port = int(url.rpartition(":")[2])
    with socket.socket() as other:  # nobody listens on the machine's other addresses, which are free to be bound
        other.bind(("127.0.0.2", port))


def test_it_is_called_by_names_of_this_machine_alone(url: str) -> None:
    """A page of the web may have its own name lead to 127.0.0.1, and would then read here as if it were this page."""
    port = url.rpartition(":")[2]
    with httpx.Client(timeout=60) as client:
        for name in ("127.0.0.1", "localhost", "[::1]"):
            assert client.get(url, headers={"Host": f"{name}:{port}"}).status_code == 200, name
        for name in ("rebound.example", "127.0.0.1.rebound.example", "localhost.rebound.example"):
            for path in ("", "/config", "/gradio_api/info"):
                found = client.get(url + path, headers={"Host": f"{name}:{port}"})
                assert (found.status_code, found.text) == (400, "Invalid host header"), (name, path)


def test_one_that_lets_other_machines_in_is_called_by_any_name() -> None:
    for host in ("0.0.0.0", "::", "192.168.1.7", "host.example"):
        assert _own_names(host) == ["*"]
    for host in ("127.0.0.1", "127.0.0.2", "::1", "localhost", "[::1]", "127.1", "LOCALHOST"):
        assert host.lower() in _own_names(host)
        assert "*" not in _own_names(host)


def test_a_model_of_one_block_is_shown(tmp_path: Path) -> None:
    """There is one layer to patch, so that its slider has nowhere to go."""
    (tmp_path / "one.py").write_text(ONE_BLOCK)
    with forked([str(tmp_path / "one.py")], tmp_path / "log", cwd=ROOT) as process:
        wait_until(lambda: process.poll() is not None)
        assert process.poll() == 0, (tmp_path / "log").read_text()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    need_browser()
    with open_browser() as found:
        yield found


def lead(page: Page, pattern: str) -> str:
    """The sentence above the answers, once it says something."""
    page.wait_for_function("p => new RegExp(p).test(document.querySelector('#fx-lead')?.innerText)", arg=pattern)
    return page.inner_text("#fx-lead")


def test_the_first_answer_is_there_without_scripts(browser: Browser, url: str, explorer: Explorer) -> None:
    found = explorer.ask(explorer.examples[0])
    base = visible(explorer.spell(found.readings["base"].top[0][0]))
    with open_page(browser, url, "phone", java_script_enabled=False) as page:
        shown = page.inner_text("#first")
        assert f"Base: {base} " in shown
        assert explorer.examples[0] in shown
        assert "to ask and to edit it needs them" in shown
        assert not page.locator("[role=status]").count()
    with open_page(browser, url, "phone") as page:
        page.wait_for_selector("#fx-lead")
        page.wait_for_selector("#first", state="detached")
        assert page.locator(".fx-lead").count() == 1
    with httpx.Client(base_url=url) as client:
        assert client.head("/").status_code == 200
        assert "first" in client.get("/", headers={"Accept-Encoding": "br"}).text
        assert '<main id="first">' not in client.get("/config").text
        assert client.get("/gradio_api/runs").status_code == 404  # nothing is kept of what was asked


@pytest.mark.parametrize("width", list(WIDTHS))
def test_a_prompt_is_typed_a_slider_moved_and_the_answer_changes(
    browser: Browser, url: str, explorer: Explorer, width: str
) -> None:
    prompt = explorer.examples[3]
    found = explorer.ask(prompt)
    base, tuned = (visible(explorer.spell(found.readings[name].top[0][0])) for name in ("base", "finetuned"))
    assert base != tuned
    with open_page(browser, url, width) as page:
        page.wait_for_selector("#fx-lead")
        assert grave_faults(page) == []
        page.fill("#prompt textarea", prompt)
        page.click("#ask")
        lead(page, rf"^Base: {base} .*Edited \(nothing is edited\): {tuned} ")
        page.locator("#scale input[type=range]").focus()
        page.locator("#scale input[type=range]").fill("0")
        assert "as the base model" in lead(page, rf"Edited \(weight change x 0\): {base} ")
        assert page.inner_text('[data-model="edited"] .fx-answer b') == base
        page.click("#random")
        lead(page, "the same edit at random: ")
        by_chance = explorer.ask(prompt, Edit(scale=0.0).by_chance(1)).readings["edited"].top[0][0]
        assert page.inner_text('[data-model="at random"] .fx-answer b') == visible(explorer.spell(by_chance))
        assert grave_faults(page) == []
        assert overflow(page) <= 0
        page.click("#sample")
        page.wait_for_function("p => document.querySelector('#prompt textarea').value == p", arg=explorer.examples[1])
        lead(page, r"Edited \(weight change x 0\)")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_is_used_with_keys_alone_and_one_sees_where_one_is(browser: Browser, url: str, theme: str) -> None:
    """From the prompt on, every part that takes keys has a ring when it has the focus."""
    ring = "(at => getComputedStyle(at).outlineStyle + getComputedStyle(at).outlineWidth)(document.activeElement)"
    with open_page(browser, f"{url}/?__theme={theme}", "phone") as page:
        page.wait_for_selector("#fx-lead")
        page.keyboard.press("Tab")
        reached = []
        while not reached or reached[-1] != "random":
            assert page.evaluate(ring) == "solid3px"
            reached.append(page.evaluate("document.activeElement.closest('[id]').id.replace(/^range_id.*/, 'slider')"))
            if page.evaluate("document.activeElement.type") == "range" and reached.count("slider") == 1:
                page.keyboard.press("ArrowLeft")
                lead(page, r"weight change x 0\.95")
            page.keyboard.press("Tab")
            assert len(reached) < 40
        assert reached[0] == "prompt"
        assert {"ask", "sample", "donor", "site"} <= {*reached}
        assert reached.count("slider") == 3


def test_the_page_can_be_read_in_the_dark(browser: Browser, url: str) -> None:
    with open_page(browser, f"{url}/?__theme=dark", "phone", color_scheme="dark") as page:
        page.wait_for_selector("#fx-lead")
        assert grave_faults(page) == []
        assert overflow(page) <= 0
