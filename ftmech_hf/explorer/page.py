"""The explorer's page, of gradio: a prompt and sliders in, the models' answers out.

A page takes text, numbers and names from fixed lists; no path, no file and no model is named from it.
"""

from __future__ import annotations

import contextlib
import html
import importlib.util
import inspect
import ipaddress
import os
import socket
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ftmech_hf.activations.sites import plain_objects
from ftmech_hf.config import leave_garbage
from ftmech_hf.explorer.edits import SCALES, Edit
from ftmech_hf.explorer.explorer import Explorer
from ftmech_hf.explorer.first_answer import FirstAnswer
from ftmech_hf.explorer.views import QUESTION, SITES, TITLES, read_resource, render_answers, render_first

if TYPE_CHECKING:
    import gradio

LONGEST = 100_000
"""Characters of a prompt that are looked at, the last ones."""

NOBODY = "none"


@contextlib.contextmanager
def _no_stubs() -> Iterator[None]:
    """While open, gradio writes no type stubs beside its sources; it would at every import, in a third of its time."""
    found = inspect.getfile

    def nowhere_for_stubs(of: Any) -> str:
        if sys._getframe(1).f_globals.get("__name__") == "gradio.component_meta":
            raise OSError("a class of no file, for which gradio writes no stubs")
        return found(of)

    inspect.getfile = nowhere_for_stubs  # type: ignore[assignment]
    try:
        yield
    finally:
        inspect.getfile = found


def need_gradio() -> None:
    """Refuse, before anything is loaded or trained, where the page cannot be shown.

    Raises:
        ValueError: gradio is not installed; the extra ``explorer`` brings it.
    """
    if importlib.util.find_spec("gradio") is None:
        raise ValueError("explore: the page needs the package gradio: pip install 'ftmech_hf[explorer]'")


def import_gradio() -> Any:
    """gradio, which is told to send nothing about its use anywhere, to keep nothing of what is asked, and to show no
    plots of its own, for which it would look for a screen before the first answer.

    Raises:
        ValueError: see :func:`need_gradio`.
    """
    told = {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_RUN_HISTORY": "False", "MPLBACKEND": "agg"}
    os.environ.update({name: value for name, value in told.items() if name not in os.environ})
    need_gradio()
    with plain_objects(), leave_garbage(), _no_stubs():
        import anyio._backends._asyncio
        import anyio.abc  # noqa: F401
        import gradio
    return gradio


def answer(
    explorer: Explorer,
    prompt: str | None,
    scale: float,
    directions: float,
    zero_rows: bool,
    patch_from: str | None,
    patch_site: str | None,
    patch_layer: float,
    chance: float = 0,
) -> str:
    """What the page shows, as HTML; a fault in what was given is said in its place.

    Args:
        explorer: which is asked.
        prompt: anything.
        scale, zero_rows, patch_from, patch_site, patch_layer: of an :class:`~ftmech_hf.explorer.edits.Edit`.
        directions: the same; none, or all there are, for the whole change.
        chance: which draw of the same edit at random stands beside it; 0 for none.
    """
    try:
        most = explorer.edited.most_directions
        edit = Edit(
            scale=float(scale),
            directions=0 if int(directions) >= most else int(directions),
            zero_rows=bool(zero_rows),
            patch_from=None if patch_from in (None, NOBODY) else patch_from,
            patch_site=patch_site or "",
            patch_layer=int(patch_layer),
        )
        text = (prompt or "")[-LONGEST:]
        found = explorer.ask(text, edit)
        other = explorer.ask(text, edit.by_chance(int(chance))) if chance else None
        return render_answers(explorer, found, edit, other)
    except (ValueError, TypeError, OverflowError) as error:
        return f'<div class="fx"><p class="fx-alert" role="alert">{html.escape(" ".join(str(error).split()))}</p></div>'


def answer_first(explorer: Explorer) -> tuple[str, str]:
    """The first prompt, and what is said to it."""
    prompt = explorer.examples[0] if explorer.examples else ""
    return prompt, answer(explorer, prompt, 1.0, 0, False, NOBODY, explorer.sites[0], 0)


def build_page(explorer: Explorer, first: str) -> gradio.Blocks:
    """The page; :func:`serve` shows it.

    Args:
        explorer: which is asked.
        first: what it says to its first prompt.

    Raises:
        ModuleNotFoundError: gradio is not installed, which the extra ``explorer`` brings.
    """
    gr = import_gradio()
    examples = explorer.examples or [""]
    with gr.Blocks(title=f"Explorer: {explorer.title}", analytics_enabled=False) as page:
        gr.HTML(
            f'<div class="fx"><h1>{QUESTION}</h1><p>{html.escape(explorer.title)}: ask both, then '
            "take the change apart. At a scale of 0 the edited model is the base, at 1 the fine-tuned one, to the bit."
            "</p></div>"
        )
        with gr.Row():
            prompt = gr.Textbox(
                examples[0], label="Prompt", lines=3, max_lines=8, elem_id="prompt", scale=4, min_width=320
            )
            with gr.Column(scale=1, min_width=140):
                ask = gr.Button("Ask", variant="primary", elem_id="ask")
                sample = gr.Button("Another prompt", elem_id="sample")
        controls = _controls(gr, explorer)
        again = gr.Button("Same edit at random", elem_id="random")
        draw, place = gr.State(0), gr.State(0)
        given = [prompt, *controls]

        def shown(*values: Any) -> tuple[str, int]:
            return answer(explorer, *values), 0

        def shown_at_random(number: int, *values: Any) -> tuple[str, int]:
            whole = [*values, number + 1]
            return answer(explorer, *whole), number + 1

        def sampled(number: int, _: str, *values: Any) -> tuple[str, str, int, int]:
            number = (number + 1) % len(examples)
            return examples[number], answer(explorer, examples[number], *values), number, 0

        answers = gr.HTML(first, elem_id="answers")
        changes = [each.change for each in controls]
        gr.on([ask.click, prompt.submit, *changes], shown, given, [answers, draw], api_name="ask",
              trigger_mode="always_last", show_progress="hidden")  # fmt: skip
        again.click(shown_at_random, [draw, *given], [answers, draw], show_progress="hidden", api_name="at_random")
        sample.click(
            sampled, [place, *given], [prompt, answers, place, draw], show_progress="hidden", api_name="sample"
        )
    return page


def _controls(gr: Any, explorer: Explorer) -> list[Any]:
    """Sliders and choices, in the order of :func:`answer`'s parameters."""
    most, (low, high) = max(1, explorer.edited.most_directions), SCALES
    with gr.Row():
        scale = gr.Slider(low, high, 1.0, step=0.05, label="Scale of the weight change", elem_id="scale",
                          min_width=260, info="0 is the base, 1 the fine-tuned model")  # fmt: skip
        kept = gr.Slider(0, most, most, step=1, label="Directions kept", elem_id="directions",
                         min_width=260, info=f"of every matrix's change; 0 or {most}: all. These matrices hold "
                         f"{explorer.edited.share:.0%} of the change's squared norm")  # fmt: skip
    with gr.Row():
        donor = gr.Radio([(TITLES.get(name, "Nobody"), name) for name in (NOBODY, *explorer.donors)], value=NOBODY,
                         label="Patch a layer from", elem_id="donor")  # fmt: skip
        words = [(f"{SITES[name][0].upper()}{SITES[name][1:]}", name) for name in explorer.sites]
        site = gr.Radio(words, value=explorer.sites[0], label="What of the layer", elem_id="site")
        last = explorer.num_layers - 1
        layer = gr.Slider(0, max(1, last), 0, step=1, label="Layer", elem_id="layer", interactive=last > 0)
        number = explorer.edited.num_found
        zero = gr.Checkbox(False, label=f"Zero the {number} unit{'s' * (number != 1)} that pruning found" if number else
                           "Zero what pruning found (no pruning run was given)", interactive=number > 0,
                           elem_id="zero")  # fmt: skip
    return [scale, kept, zero, donor, site, layer]


def serve(explorer: Explorer, *, host: str, port: int) -> gradio.Blocks:
    """Show the page as long as the process lives; ``block_thread`` of what it returns waits until it is ended.

    Args:
        explorer: what is asked.
        host: an address of this machine; 127.0.0.1 lets in no other machine, nor a page of the web that calls it by a
            name of its own.
        port: of the page.
    """
    gr = import_gradio()
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    prompt, first = answer_first(explorer)
    page = build_page(explorer, first)
    shown = Middleware(FirstAnswer, shown=render_first(explorer, prompt, first))
    called = Middleware(TrustedHostMiddleware, allowed_hosts=_own_names(host), www_redirect=False)
    page.queue(default_concurrency_limit=1).launch(
        server_name=host, server_port=port, share=False, quiet=True, show_error=False,
        prevent_thread_lock=True, allowed_paths=[], max_file_size=1, enable_monitoring=False, ssr_mode=False,
        css=read_resource("page.css"), theme=_theme(gr), app_kwargs={"middleware": [called, shown]},
        _frontend=False,  # else the page is given up where a busy machine, or its proxy, does not answer in 3 seconds
    )  # fmt: skip
    return page


def _own_names(host: str) -> list[str]:
    """What the server at an address may be called by: of one that this machine alone reaches the names that stay here.

    Any other name may be of a page of the web that had it lead here, to ask and read in the browser of who is here.
    """
    with contextlib.suppress(OSError, ValueError):
        found = {each[4][0] for each in socket.getaddrinfo(host.strip("[]"), None)}
        if found and all(ipaddress.ip_address(str(each).partition("%")[0]).is_loopback for each in found):
            return [host.lower(), "localhost", "127.0.0.1", "::1", "[::1]"]
    return ["*"]


def _theme(gr: Any) -> Any:
    """The machine's own letters, and colours with enough contrast for all to read (WCAG AA)."""
    letters = {
        "font": ["system-ui", "Segoe UI", "DejaVu Sans", "sans-serif"],
        "font_mono": ["ui-monospace", "monospace"],
    }
    light = {"button_primary_background_fill": "#1557b0", "button_primary_background_fill_hover": "#0f4390",
             "button_primary_text_color": "#ffffff", "body_text_color_subdued": "#4b5563",
             "block_info_text_color": "#4b5563", "block_label_text_color": "#374151", "slider_color": "#1557b0",
             "checkbox_background_color_selected": "#1557b0", "block_title_text_color": "#1f2937"}  # fmt: skip
    dark = {"body_text_color_subdued": "#c4cad4", "block_info_text_color": "#c4cad4",
            "block_title_text_color": "#f3f4f6", "block_label_text_color": "#f3f4f6",
            "button_primary_background_fill": "#1557b0",
            "button_primary_text_color": "#ffffff"}  # fmt: skip
    return gr.themes.Default(**letters).set(**light, **{f"{name}_dark": color for name, color in dark.items()})
