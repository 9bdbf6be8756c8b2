"""What the explorer found as HTML: everything that was typed or written by a model is text in it, never markup."""

from __future__ import annotations

import functools
from importlib import resources
from typing import Any

import jinja2
import numpy as np

from ftmech_hf.explorer.edits import BASE, EDITED, FINETUNED, REVERSED, Edit
from ftmech_hf.explorer.explorer import Explorer, ExplorerResult
from ftmech_hf.explorer.reading import ReadingResult

QUESTION = "What did fine-tuning change?"
AT_RANDOM = "at random"
SITES = {"resid_post": "the whole stream", "attn_out": "what attention writes", "mlp_act": "MLP activations"}
"""What of a layer can be patched, in words."""
TITLES = {
    BASE: "Base",
    FINETUNED: "Fine-tuned",
    REVERSED: "Trained back",
    EDITED: "Edited",
    AT_RANDOM: "Same edit at random",
}
SHOWN_TOKENS = 64
"""Tokens of a prompt that a map of attention shows, the last ones."""


def read_resource(name: str) -> str:
    """A file beside this one, as text."""
    return resources.files("ftmech_hf.explorer").joinpath(name).read_text(encoding="utf-8")


@functools.cache
def _template(name: str) -> jinja2.Template:
    text = read_resource(name)
    return jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True).from_string(text)


def visible(text: str) -> str:
    """A token's text with its spaces and line ends to be seen."""
    shown = text.replace("\n", "⏎").replace("\t", "⇥")
    return shown if shown.strip() else "␣" * max(1, len(shown))


def share(value: float) -> str:
    """A probability in per cent; one that rounds to nothing is said to be small, and one that rounds to all, large."""
    if 0 < value < 0.0005:
        return "<0.1 %"
    return ">99.9 %" if 0.9995 <= value < 1 else f"{100 * value:.1f} %"


def describe_edit(edit: Edit, explorer: Explorer) -> str:
    """An edit in words."""
    parts = [f"weight change x {edit.scale:g}"] if edit.scale != 1 else []
    if edit.directions:
        most = explorer.edited.most_directions
        parts.append(f"first {edit.directions} of {most} directions of every matrix's change")
    if edit.zero_rows:
        number = explorer.edited.num_found
        parts.append(f"{number} unit{'s' * (number != 1)} zeroed")
    if edit.patch_from is not None:
        site = SITES[edit.patch_site]
        parts.append(f"{site} of layer {edit.patch_layer} from the {TITLES[edit.patch_from].lower()} model")
    return ", ".join(parts) or "nothing is edited"


def render_answers(explorer: Explorer, found: ExplorerResult, edit: Edit, chance: ExplorerResult | None = None) -> str:
    """The page's answers.

    Args:
        explorer: which was asked.
        found: what it answered.
        edit: that was made.
        chance: what it answered under the same edit at random.
    """
    readings, parts = dict(found.readings), dict(found.parts_at)
    if chance is not None:
        readings[AT_RANDOM], parts[AT_RANDOM] = chance.readings[EDITED], chance.parts_at[EDITED]
    names = {name: visible(explorer.spell(token)) for name, token in _answers(readings).items()}
    notes = (
        [f"Only the last {len(found.token_ids)} tokens are read, {found.cut} before them are not."] if found.cut else []
    )
    return _template("answers.html.j2").render(
        sentence=_sentence(names, readings, edit, explorer, found.seconds),
        notes=notes,
        models=[_card(explorer, name, reading, parts[name]) for name, reading in readings.items()],
        **_layers(explorer, found, readings),
        maps=[_map(explorer, found, name, reading, _most(readings)) for name, reading in readings.items()],
        attention_note=f" (the last {SHOWN_TOKENS})" if len(found.token_ids) > SHOWN_TOKENS else "",
    )


def render_first(explorer: Explorer, prompt: str, answer: str) -> str:
    """The first answer as it is seen before the page's scripts have run.

    Args:
        explorer: which was asked.
        prompt: that it was asked.
        answer: what :func:`render_answers` made of it. It is the scripts' to say that it has changed.
    """
    still = answer.replace(' role="status" id="fx-lead"', "")
    return _template("first_answer.html.j2").render(
        css=read_resource("page.css"), question=QUESTION, title=explorer.title, prompt=prompt, answer=still
    )


def _answers(readings: dict[str, ReadingResult]) -> dict[str, int]:
    return {name: reading.top[0][0] for name, reading in readings.items()}


def _sentence(
    names: dict[str, str], readings: dict[str, ReadingResult], edit: Edit, explorer: Explorer, seconds: float
) -> str:
    top = {name: share(reading.top[0][1]) for name, reading in readings.items()}
    told = f"Base: {names[BASE]} ({top[BASE]}). Fine-tuned: {names[FINETUNED]} ({top[FINETUNED]}). "
    as_whom = [TITLES[name].lower() for name in (BASE, FINETUNED) if names[name] == names[EDITED]]
    like = f", as the {' and the '.join(as_whom)} model" if as_whom else ", as neither"
    told += f"Edited ({describe_edit(edit, explorer)}): {names[EDITED]} ({top[EDITED]}){like}"
    if AT_RANDOM in names:
        told += f"; the same edit at random: {names[AT_RANDOM]} ({top[AT_RANDOM]})"
    return f"{told}. {1000 * seconds:.0f} ms."


def _card(explorer: Explorer, name: str, reading: ReadingResult, parts_at: int | None) -> dict[str, Any]:
    place = len(reading.written) if parts_at is None else parts_at
    if name == FINETUNED:
        parts = "What the others are compared with."
    elif parts_at is None:
        parts = "Writes the same as the fine-tuned model."
    else:
        parts = f"Parts from the fine-tuned model at token {parts_at + 1}."
    return {
        "id": name,
        "title": TITLES[name],
        "top": [
            {"text": visible(explorer.spell(token)), "share": share(value), "width": round(100 * value, 1)}
            for token, value in reading.top
        ],
        "same": explorer.write(reading.written[:place]),
        "other": explorer.write(reading.written[place:]),
        "why_not": reading.missing.get("text", ""),
        "parts": parts,
    }


def _layers(explorer: Explorer, found: ExplorerResult, readings: dict[str, ReadingResult]) -> dict[str, Any]:
    """The table of layers: in each, the probability of the followed answers in every model, and what probes read."""
    spelled = {token: visible(explorer.spell(token)) for token in found.followed}
    read = {name: each.lens for name, each in readings.items() if "lens" not in each.missing}
    columns = [f"{TITLES[name]}: {spelled[token]}" for name in read for token in found.followed]
    columns += [
        f"Probe of the {TITLES[name].lower()}: {label}" for name, each in readings.items() for label in each.probes
    ]
    rows = []
    for layer in range(explorer.num_layers):
        values = [lens[token][layer] for lens in read.values() for token in found.followed]
        cells: list[dict[str, Any]] = [{"text": share(value), "shade": round(60 * value)} for value in values]
        for reading in readings.values():
            cells += [{"text": str(label[layer]), "shade": None} for label in reading.probes.values()]
        rows.append({"layer": layer, "cells": cells})
    whose = " and ".join(f"{each!r}" for each in spelled.values())
    text = f"The logit lens: the probability of {whose} if the model ended after a layer"
    text += "; and what linear probes read there." if any(each.probes for each in readings.values()) else "."
    unread = next((each.missing["lens"] for each in readings.values() if "lens" in each.missing), "")
    text += f" Cannot be read: {unread}." if unread else ""
    return {"columns": columns, "layers": rows, "lens_text": text}


def _most(readings: dict[str, ReadingResult]) -> float:
    """The largest attention in any map, which is drawn in full colour."""
    return max(
        (float(each.attention.mean(1).max()) for each in readings.values() if each.attention is not None), default=1
    )


def _map(explorer: Explorer, found: ExplorerResult, name: str, reading: ReadingResult, most: float) -> dict[str, Any]:
    if reading.attention is None:
        return {"title": TITLES[name], "why_not": f"Cannot be read: {reading.missing['attention']}."}
    tokens = [visible(explorer.spell(token)) for token in found.token_ids[-SHOWN_TOKENS:]]
    mean = reading.attention.mean(1)[:, -len(tokens) :]
    layer, column = (int(each) for each in np.unravel_index(int(mean.argmax()), mean.shape))
    first = len(found.token_ids) - len(tokens)
    cells = [
        {"x": 10 * at, "y": 10 * row, "shade": f"{mean[row, at] / most:.3f}",
         "text": f"layer {row}, token {first + at + 1} {tokens[at]}: {mean[row, at]:.1%}"}
        for row in range(mean.shape[0]) for at in range(mean.shape[1])
    ]  # fmt: skip
    label = f"Most in layer {layer}: {mean[layer, column]:.0%} to token {first + column + 1}, {tokens[column]}"
    return {
        "title": TITLES[name], "why_not": "", "label": label, "cells": cells,
        "width": 10 * mean.shape[1], "height": 10 * mean.shape[0],
    }  # fmt: skip
