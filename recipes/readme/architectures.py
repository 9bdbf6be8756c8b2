"""The table of architectures, from the JSON file that ``recipes/architectures.py`` writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from recipes.readme.tables import markdown_table

STREAM = ("resid_pre", "resid_post")


def architectures_block(result: Sequence[Mapping[str, Any]]) -> str:
    """What works for each class, those alike in one row, and why the others are refused, as Markdown."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for row in result:
        if row["opens"]:
            alike.setdefault(_can(row), []).append(_plain(row["class"]))
    opened = [
        (", ".join(names), *can) for can, names in sorted(alike.items(), key=lambda each: (-len(each[1]), each[1]))
    ]
    refused = [(_plain(row["class"]), _cell(row["reason"])) for row in result if not row["opens"]]
    number = sum(map(len, alike.values()))
    columns = ("classes", "sites in every layer beside the stream", "in some layers", "units", "not, because")
    first = f"{number} of {len(result)} classes open; in each the stream is a site of every layer.\n\n"
    return first + markdown_table(columns, opened) + "\n\n" + markdown_table(("not opened", "reason"), refused)


def _plain(name: str) -> str:
    return name.removesuffix("ForCausalLM")


def _can(row: Mapping[str, Any]) -> tuple[str, ...]:
    sites = [site for site in row["sites_proven"] if site not in STREAM]
    units = [unit for unit in ("head", "activation", "row") if unit in row["units"]]
    known = {*sites, *row["some_layers"]}
    missing = {site: why for site, why in row["refused"].items() if site not in known and site != "weight"}
    if not {"router", "expert_act"} & known:  # no model of dense layers needs to say so
        missing = {site: why for site, why in missing.items() if site not in ("router", "expert_act", "shared_act")}
    said = sorted({f"{site}: {_reason(why)}" for site, why in missing.items()})
    return (
        ", ".join(sites) or "none", ", ".join(row["some_layers"]) or "", ", ".join(units) or "none", "; ".join(said)
    )  # fmt: skip


def _reason(why: str) -> str:
    """A reason without what only names a model or a block."""
    for known, short in (
        ("that is not one matrix's output", "the MLP is not one matrix's output"),
        ("no attention", "no attention in some blocks"),
        ("adds nothing to the stream", "attention is not plainly added"),
        ("it has no MLP", "no MLP in some blocks"),
        ("no expert that all tokens pass", "no expert that all tokens pass"),
        ("could not be seen as one matrix", "it is behind a norm, or not one matrix"),
        ("are not one head each", "slices are not one head each"),
        ("are halves of heads", "heads come in pairs"),
        ("is not what their patterns say", "outputs are not what patterns say"),
        ("what their patterns say", "outputs are not what patterns say"),
        ("returns none beside its output", "attention returns none"),
        ("do not sum to one", "patterns do not sum to one"),
        ("expected at most", "many weights are in no matrices"),
        ('needs a model loaded with attn_implementation="eager"', "no eager attention"),
        ("neurons, expected as many in each", "another number of neurons in some blocks"),
        ("makes what it adds", "no matrix makes what attention adds"),
        ("attentions", "several attentions in a block"),
        ("are kept in one tensor", "not in the layers that have experts"),
        ("has not one attention", "no attention in some blocks"),
    ):
        if known in why:
            return short
    return _cell(why)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "/").split())
