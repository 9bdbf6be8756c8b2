"""The report: one self-contained HTML file that reads well on a phone."""

from __future__ import annotations

import fnmatch
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jinja2
import yaml

from ftmech_hf.config import config_hash
from ftmech_hf.report import charts
from ftmech_hf.report.alt import describe_figure
from ftmech_hf.report.claims import SIGNS, Claim, decide, name_claims
from ftmech_hf.report.touch import name_parts, read_parts
from ftmech_hf.runs import code_version, describe_versions, environment, noted, write_json, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = "page.html.j2"


class Picture(NamedTuple):
    """A picture, what it shows in words, and number by number; see :mod:`ftmech_hf.report.touch`."""

    picture: str
    alt: str
    touch: str


class Section(NamedTuple):
    """A picture and what it shows, and the ids of the claims that it is about; ``*`` in an id stands for anything."""

    title: str
    text: str
    picture: str
    alt: str
    touch: str
    claims: tuple[str, ...] = ()

    @property
    def anchor(self) -> str:
        """What links call its place on the page."""
        return "figure-" + re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")

    def shows(self, claim: str) -> bool:
        """Whether a claim of this id rests on what the picture shows."""
        return any(fnmatch.fnmatchcase(claim, each) for each in self.claims)


def make_picture(figure: Figure, what: str) -> Picture:
    """A picture of a page.

    Args:
        figure: is drawn.
        what: of what it is, such as "Accuracy by layer"; what was drawn follows it.
    """
    name_parts(figure)
    drawn = charts.to_data_uri(figure)
    return Picture(drawn, f"{what}. {describe_figure(figure)}", read_parts(figure))


def make_section(title: str, text: str, figure: Figure, what: str, claims: Sequence[str] = ()) -> Section:
    """A section of a page; its picture says in words what it shows.

    Args:
        title: of the section.
        text: what the picture means.
        figure: the picture.
        what: of what it is, see :func:`make_picture`.
        claims: ids of the claims that rest on what it shows; ``*`` stands for anything.
    """
    return Section(title, text, *make_picture(figure, what), claims=tuple(claims))


def format_value(value: float, unit: str) -> str:
    """A number as it is printed everywhere: ``99.8 %``, ``24.1 x``, ``19``, ``0.0412 nats``; a share ``0.994``."""
    if unit == "share":
        return f"{value:.3f}"
    if unit in ("steps", "neurons"):
        return _format_count(value)
    if unit == "nats":
        return f"{value + 0.0:.3g} nats"
    value = round(value, 1) + 0.0  # nothing is not less than nothing
    return f"{value:.1f} {unit}" if unit != "points" else f"{value:+.1f} points"


def format_share(value: float | None) -> str:
    """A share as it is printed in tables; an em dash where it is not known."""
    return "—" if value is None else f"{value:.1%}"


def format_measured(claim: Claim) -> str:
    """What a claim measured as it is printed everywhere; ``at least`` where its interval is open above."""
    ends = claim.interval or (0.0, 0.0)
    bound = {(False, True): "at least ", (True, False): "at most "}.get((ends[0] is None, ends[1] is None), "")
    return bound + format_value(claim.measured, claim.unit)


def format_interval(claim: Claim) -> str:
    """The interval as it is printed everywhere; an em dash where there is none.

    An end that is rounded stays on its side of the bar: 5.02 is not printed as 5.0 where at most 5 is asked for.
    """
    ends = claim.interval or (None, None)
    low, high = (None if end is None else _format_beside_bar(end, claim) for end in ends)
    if low is None:
        return "—" if high is None else f"up to {high}"
    return f"{low} or more" if high is None else f"{low} to {high}"


def _format_beside_bar(value: float, claim: Claim) -> str:
    text, digits = _format_end(value, claim.unit), 1
    if not claim.bar or claim.unit in ("steps", "neurons", "nats"):
        return text
    side = decide((value, value), claim.bar)
    while decide((float(text), float(text)), claim.bar) != side and digits < 6:
        digits += 1
        text = f"{value:.{digits}f}"
    return text


def _format_end(value: float, unit: str) -> str:
    """An end of an interval: as many digits as a number of its unit, without the unit."""
    if unit == "nats":
        return f"{value + 0.0:.3g}"
    if unit in ("steps", "neurons"):
        return _format_count(value)
    return f"{value:.3f}" if unit == "share" else format_number(value, 1)


def _format_count(value: float) -> str:
    """A count, or a mean of some; that of the logarithms of what is 600 thrice is not quite 600."""
    return f"{value:.0f}" if abs(value - round(value)) < 1e-6 else f"{value:.1f}"


def format_number(value: float, digits: int = 0, *, sign: bool = False) -> str:
    """A number of some digits behind the point; nothing is not less than nothing."""
    return f"{round(value, digits) + 0.0:{'+' if sign else ''}.{digits}f}"


def format_floor(claim: Claim) -> str:
    """What the constant answer gets on the same rows; an em dash where that is no question."""
    return "—" if claim.floor is None else format_value(claim.floor, claim.unit)


def format_verdict(claim: Claim, stated: Sequence[Claim] = ()) -> str:
    """The verdict, a sign before its word, and why; ``not judged`` if a seed is missing, or nothing without a bar.

    Args:
        claim: whose verdict it is.
        stated: all claims of the study, for tables in which ids lead nowhere: a control is named by what it states, in
            italics of Markdown. Without them it is named by its id.
    """
    names = {name: f"*{statement}*" for name, statement in name_claims(stated).items()}
    if claim.verdict is None:
        return say_verdict(claim) + _because(claim.unmeasured, names, "is not measured", "are not measured")
    said = say_verdict(claim) + _because(claim.withdrawn_by, names, "fails", "fail")
    return said + _because(claim.open_controls, names, "is undecided", "are undecided", before="; ")


def say_verdict(claim: Claim) -> str:
    """The verdict alone, a sign before its word; see :func:`format_verdict`."""
    return f"{SIGNS[claim.verdict]} {claim.verdict}" if claim.verdict else "not judged" if claim.bar else ""


def explain_verdict(claim: Claim) -> list[tuple[str, list[str]]]:
    """Why a verdict is what it is: what its controls do, and their ids, for pages that name and link them."""
    found = {"fails": claim.withdrawn_by, "is undecided": claim.open_controls, "is not measured": claim.unmeasured}
    return [(what, ids) for what, ids in found.items() if ids]


def _because(controls: Sequence[str], names: Mapping[str, str], one: str, several: str, *, before: str = ": ") -> str:
    if not controls:
        return ""
    called = f"{'its ' if names else ''}control{'s' * (len(controls) > 1)}"
    listed = ", ".join(names.get(each, each) for each in controls)
    return f"{before}{called} {listed} {one if len(controls) == 1 else several}"


def count_verdicts(claims: Iterable[Claim]) -> str:
    """How many claims have which verdict, such as ``9 hold, 1 fails, 3 undecided``."""
    found = [claim.verdict for claim in claims if claim.bar]
    verbs = {"holds": ("holds", "hold"), "fails": ("fails", "fail"), "undecided": ("undecided",) * 2,
             "withdrawn": ("withdrawn",) * 2}  # fmt: skip
    said = [f"{number} {verbs[word][number != 1]}" for word in SIGNS if (number := found.count(word))]  # type: ignore[arg-type]
    return ", ".join([*said, *([f"{number} not judged"] if (number := found.count(None)) else [])])


@functools.cache
def _templates(package: str, page: str) -> jinja2.Environment:
    """A page of a package and the templates that it may use, each compiled once."""
    places = {page: resources.files(package)}
    ours = resources.files("ftmech_hf")
    loader = jinja2.FunctionLoader(lambda file: places.get(file, ours).joinpath(file).read_text(encoding="utf-8"))
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, loader=loader)
    shown = (format_value, format_measured, format_interval, format_floor, format_number, format_verdict, say_verdict,
             explain_verdict, count_verdicts, name_claims)  # fmt: skip
    environment.globals.update({function.__name__: function for function in shown})
    return environment


def render_page(package: str | None, page: str = PAGE, **values: Any) -> str:
    """Fill the ``page.html.j2`` of a package, or another of its pages; a value it needs and does not get is an error.

    Args:
        package: of a study, as its ``__package__`` says; the page may use the templates of this package by their place
            in ftmech_hf, such as ``report/base.html.j2``.
        page: its file there.
        values: what the page asks for.
    """
    assert package is not None
    return _templates(package, page).get_template(page).render(**values)


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
        seconds: what all runs behind them computed, in seconds of one core; None if that is not known.
        runs: their folders. ``auto`` may have become another precision in each, and each may be of other code, which
            the results' name does not say.

    Returns:
        what a page says of where it is from: ``command``, ``hash``, ``versions``, ``seconds``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    env, identity = {**environment(), "code": code_version()}, identity or config_hash(settings)
    write_text(folder / "config.yaml", yaml.safe_dump(dict(settings), sort_keys=False))
    known = {} if seconds is None else {"seconds": round(seconds)}
    runs = [*runs]
    env["other_code"] = len({noted(run, "code") for run in runs} - {None, env["code"]})
    if precisions := sorted({str(found) for run in runs if (found := noted(run, "mixed_precision"))}):
        env["mixed_precision"] = " and ".join(precisions)
    write_json(folder / "env.json", {"kind": kind, "hash": identity, **known, **env})
    return {"command": env["command"], "hash": identity, "versions": describe_versions(env), "seconds": seconds}
