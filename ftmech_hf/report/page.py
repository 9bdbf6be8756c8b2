"""The report: one self-contained HTML file that reads well on a phone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ftmech_hf.config import config_hash
from ftmech_hf.report import figures
from ftmech_hf.report.alt import describe_figure
from ftmech_hf.report.claims import Claim
from ftmech_hf.report.figures import Runs
from ftmech_hf.runs import describe_versions, environment, noted, write_json, write_text


class Section(NamedTuple):
    """A picture and what it shows."""

    title: str
    text: str
    picture: str
    alt: str


def make_section(title: str, text: str, figure: Figure, what: str) -> Section:
    """A section of a page; its picture says in words what it shows.

    Args:
        title: of the section.
        text: what the picture means.
        figure: the picture.
        what: of what it is, such as "Accuracy by layer"; what was drawn follows it.
    """
    return Section(title, text, figures.to_data_uri(figure), f"{what}. {describe_figure(figure)}")


def format_value(value: float, unit: str) -> str:
    """A number as it is printed everywhere: ``99.8 %``, ``24.1 x``, ``19 steps``."""
    if unit in ("steps", "neurons"):
        return f"{value:.0f}" if float(value).is_integer() else f"{value:.1f}"
    return f"{value:.1f} {unit}" if unit != "points" else f"{value:+.1f} points"


def format_interval(claim: Claim) -> str:
    """The interval as it is printed everywhere; an em dash for a single seed."""
    if claim.interval is None:
        return "—"
    low, high = claim.interval
    return f"{low:.1f} to {high:.1f}"


def verdict(claim: Claim) -> str:
    """``holds``, ``does not hold``, ``not judged`` if a seed is missing, or nothing without a bar."""
    if claim.holds is None:
        return "not judged" if claim.bar else ""
    return "holds" if claim.holds else "does not hold"


class _Panel(NamedTuple):
    """A picture of a reproduction with its explanation, and the runs that it shows."""

    title: str
    text: str
    alt: str
    needs: tuple[str, ...]
    draw: Callable[[Axes, Runs], None]


PANELS = (
    _Panel(
        "Fine-tuning seems to destroy counting a",
        "A model that saw almost only prompts about a is fine-tuned to count b, on texts in which the count of b "
        "is always the count of a plus one. It becomes perfect where that correlation holds, fails where it does "
        "not, and its answers about a are wrong. Seeds differ in how many: in some, part of the prompts about a "
        "escape the shortcut.",
        "Accuracy against fine-tuning step, low prior",
        ("finetuned-low",),
        lambda ax, runs: figures.draw_finetuning(ax, runs, "finetuned-low", "Low prior, C_Tr = 1"),
    ),
    _Panel(
        "A model that can already count b has no need of the shortcut",
        "The same fine-tuning of a model that saw enough prompts about b, on texts in which the correlation holds "
        "in four of five: nothing is lost.",
        "Accuracy against fine-tuning step, high prior",
        ("finetuned-high",),
        lambda ax, runs: figures.draw_finetuning(ax, runs, "finetuned-high", "High prior, C_Tr = 0.8"),
    ),
    _Panel(
        "A few neurons hide it",
        "Rows of weight matrices are set to zero in the order of gradient x weight for the loss on prompts about "
        "a. The number is chosen on a validation set. Controls: as many random rows, and the same procedure on a "
        "model that never counted a (its accuracy without pruning is that of naming likely counts).",
        "Accuracy against number of pruned rows",
        ("prune-rows", "prune-control"),
        lambda ax, runs: figures.draw_pruning(ax, runs, "prune-rows", "prune-control", "Rows of weight matrices"),
    ),
    _Panel(
        "The same with single MLP activations",
        "Activations are set to zero through nnsight, in the order of gradient x activation.",
        "Accuracy against number of pruned activations",
        ("prune-activations",),
        lambda ax, runs: figures.draw_pruning(ax, runs, "prune-activations", None, "MLP activations"),
    ),
    _Panel(
        "The count of a can be read from the stream throughout",
        "Linear probes for the count of a at the position that predicts the answer. A caution that the probe alone "
        "would hide: a network of random weights lets much of the count be read as well, so reading it is not "
        "evidence of having learned it. That the fine-tuned curve lies on its base's is.",
        "Probe accuracy by layer",
        ("probe",),
        lambda ax, runs: figures.draw_probing(ax, runs, "Linear probes"),
    ),
    _Panel(
        "It comes back much faster than it is learned",
        "Fine-tuning back on prompts about a, at the same constant learning rate, beside a control that learned to "
        "count b but never a. A model that is not back by the last step counts with that step.",
        "Accuracy against step of reverse fine-tuning",
        ("reversed-low", "reversed-control"),
        lambda ax, runs: figures.draw_revival(ax, runs, "Reverse fine-tuning"),
    ),
)


def _fill(panel: _Panel, runs: Runs) -> Callable[[Axes], None]:
    return lambda ax: panel.draw(ax, runs)


def build_sections(runs: Runs) -> list[Section]:
    """Every picture of a reproduction with its explanation, in reading order; of the seeds whose runs are there."""
    sections = []
    for panel in PANELS:
        if there := figures.with_runs(runs, *panel.needs):
            figure = figures.panel(_fill(panel, there))
            sections.append(make_section(panel.title, panel.text, figure, panel.alt))
    if there := figures.with_runs(runs, "attention"):
        attention = figures.attention_figure(next(iter(there.values()))["attention"])
        sections.append(
            make_section(
                "Where the answer looks",
                "Attention of the position that predicts the answer, every layer and head, on one prompt about b of "
                "the first seed: before fine-tuning, after, and the difference.",
                attention,
                "Attention maps before and after fine-tuning",
            )
        )
    return sections


def render_page(claims: Sequence[Claim], sections: Sequence[Section], facts: Mapping[str, Any]) -> str:
    """The whole page as HTML.

    Args:
        claims: all measurements; those with a bar are the table at the top.
        sections: pictures in order.
        facts: ``seeds``, ``missing`` (names of runs that are not there), ``failed`` (run -> why), ``command``,
            ``hash``, ``versions`` and ``seconds`` (training time, None if unknown).
    """
    return render_template("page.html.j2", claims=claims, sections=sections, facts=facts)


def render_template(name: str, **values: Any) -> str:
    """Fill a template of this package; a value it needs and does not get is an error."""
    folder = resources.files("ftmech_hf.report")
    loader = jinja2.FunctionLoader(lambda file: folder.joinpath(file).read_text(encoding="utf-8"))
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, loader=loader)
    environment.globals.update(format_value=format_value, format_interval=format_interval, verdict=verdict)
    return environment.get_template(name).render(**values)


def write_origin(
    folder: Path,
    kind: str,
    settings: Mapping[str, Any],
    identity: str | None = None,
    *,
    seconds: float | None = None,
    runs: Iterable[Path] = (),
) -> dict[str, Any]:
    """Write ``config.yaml`` and ``env.json`` into a folder of results.

    Args:
        folder: is made if it is not there.
        kind: of results.
        settings: all of them.
        identity: their hash, if it is not that of ``settings``.
        seconds: what all runs behind them took, each in one thread; None if that is not known.
        runs: their folders. ``auto`` may have become another precision in each, and the results' name does not say.

    Returns:
        what a page says of where it is from: ``command``, ``hash``, ``versions``, ``seconds``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    env, identity = environment(), identity or config_hash(settings)
    write_text(folder / "config.yaml", yaml.safe_dump(dict(settings), sort_keys=False))
    known = {} if seconds is None else {"seconds": round(seconds)}
    if precisions := sorted({str(found) for run in runs if (found := noted(run, "mixed_precision"))}):
        env["mixed_precision"] = " and ".join(precisions)
    write_json(folder / "env.json", {"kind": kind, "hash": identity, **known, **env})
    return {"command": env["command"], "hash": identity, "versions": describe_versions(env), "seconds": seconds}
