"""What recipes say in the terminal."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ftmech_hf.report.claims import Claim
from ftmech_hf.report.page import (
    count_verdicts,
    format_floor,
    format_interval,
    format_measured,
    format_share,
    format_verdict,
)
from ftmech_hf.runs import FinishedRun, RunDir
from ftmech_hf.training.loop import Progress
from ftmech_hf.training.progress import make_bar

MAX_ROWS = 40


def make_console() -> Console:
    """A console as wide as the terminal, and wide enough where there is none.

    What it says stands as it is: brackets and colons are those of paths and of what models answer, not of styles.
    """
    return Console(width=None if sys.stdout.isatty() else 150, markup=False, emoji=False)


def print_claims(claims: Sequence[Claim]) -> None:
    """The table of claims."""
    table = Table(title=f"Claims: {count_verdicts(claims)}", title_justify="left")
    judged = [claim for claim in claims if claim.bar]
    floors = ["floor"] * any(claim.floor is not None for claim in judged)
    for name in ("claim", "paper", *floors, "measured", "95 % interval", "bar", "verdict"):
        table.add_column(name, justify="left" if name in ("claim", "paper", "verdict") else "right")
    for claim in judged:
        color = {"holds": "green", "fails": "red"}.get(claim.verdict or "", "yellow")
        shown = [claim.statement, claim.paper, *([format_floor(claim)] if floors else [])]
        shown += [format_measured(claim), format_interval(claim), claim.bar]
        table.add_row(*shown, Text(format_verdict(claim), style=color))
    make_console().print(table)


def print_failures(failed: Mapping[str, BaseException]) -> None:
    """Which runs failed, and why."""
    for name, error in failed.items():
        make_console().print(f"failed: {name}: {describe_error(error)}", soft_wrap=True)


def describe_error(error: BaseException) -> str:
    """An error in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def print_run(run: RunDir) -> None:
    """Final accuracies or losses of a training run and where it lies; from the main process only."""
    if not run.is_main:
        return
    made = FinishedRun(run.path)
    console = make_console()
    found = {
        ("accuracy after the last step", "95 % interval", "always one answer", "guess without the text"): [
            (
                row["name"],
                f"{row['value']:.1%}",
                f"{row['low']:.1%} to {row['high']:.1%}",
                *(format_share(row[column]) for column in ("floor", "text_free")),
            )
            for row in made.accuracy
        ],
        ("loss after the last step, nats per token", "nats per byte"): [
            (row["name"], f"{row['value']:.4f}", f"{row['per_byte']:.4f}") for row in made.loss
        ],
    }
    for columns, rows in found.items():
        if rows:
            table = Table()
            for name in ("test set", *columns):
                table.add_column(name, justify="left" if name == "test set" else "right")
            for row in rows:
                table.add_row(*row)
            console.print(table)
    if "projection" in made.env:
        console.print(describe_cost_estimate(made.env["projection"], made.env["device"], made.env["threads"]))
    console.print(f"run: {run.path} (hash {run.hash})", soft_wrap=True)


def describe_cost_estimate(estimate: Mapping[str, Any], device: str, threads: int) -> str:
    """What a dry run says about the whole run."""
    where = f"{device} with {threads} threads" if device == "cpu" else device
    cost = estimate.get("cost")
    return (
        f"dry run on {where}: {estimate['seconds_per_step']:.3g} s a step; all {estimate['steps']:,} would "
        f"take {estimate['hours']:.3g} hours, {estimate['evaluation_share']:.0%} of them for evaluation, and "
        f"{estimate['flops']:.2g} floating-point operations"
        + (f", and cost {cost:.2f}" if cost is not None else "; --price_per_hour says what that costs")
    )


def _in_short(value: float) -> str:
    """Three digits behind the point; of what is smaller than that its first two."""
    return f"{value:.3f}" if value == 0 or not abs(value) < 0.001 else f"{value:.2g}"


def print_job(run: RunDir, picture: Path | None = None) -> None:
    """The table of a job, its summary's plain numbers, and where its run lies."""
    made = FinishedRun(run.path)
    table = made.table
    shown = Table()
    for column in table.columns:
        shown.add_column(column)
    for _, row in table.head(MAX_ROWS).iterrows():
        shown.add_row(*(_in_short(value) if isinstance(value, float) else str(value) for value in row))
    console = make_console()
    console.print(shown)
    if len(table) > MAX_ROWS:
        console.print(f"... {len(table) - MAX_ROWS} more rows in {run.path / 'table.parquet'}")
    if made.floors:
        floors = Table()
        for name in ("test set", "rows", "always one answer", "guess without the text"):
            floors.add_column(name, justify="left" if name == "test set" else "right")
        for (name, rows), found in made.floors.items():
            floors.add_row(name, str(rows), *(format_share(found[column]) for column in ("floor", "text_free")))
        console.print(floors)
    for name, value in made.summary.items():
        if isinstance(value, str | int | float):
            console.print(f"{name}: {_in_short(value) if isinstance(value, float) else value}")
    console.print(f"run: {run.path} (hash {run.hash})", soft_wrap=True)
    if picture is not None:
        console.print(f"picture: {picture}", soft_wrap=True)


def print_dataset(run: RunDir, *, reads_first: bool = False) -> None:
    """What a job was asked, where that was a data set.

    Args:
        run: with what was noted of the data set in its summary.
        reads_first: whether the job looks at the first token of an answer alone.
    """
    found = FinishedRun(run.path).summary.get("dataset")
    if found is None:
        return
    most = found["most_answer_tokens"]
    tokens = "of one token" if most == 1 else f"of up to {most} tokens, {found['share_of_one_token']:.0%} of one"
    first = ", of which the first is read" if reads_first and most > 1 else ""
    said = f"dataset: {found['name']}; answers {tokens}{first}; the constant answer is right for {found['chance']:.1%}"
    for line in (said, *(f"note: {note}" for note in found["notes"])):
        make_console().print(line, soft_wrap=True)


def print_table(title: str, table: pd.DataFrame) -> None:
    """A table as it is, as far as a screen holds it."""
    shown = Table(title=title, title_justify="left")
    for column in table.columns:
        shown.add_column(str(column))
    for row in table.head(MAX_ROWS).itertuples(index=False):
        shown.add_row(*(f"{value:g}" if isinstance(value, float) else str(value) for value in row))
    make_console().print(shown)


def print_published(repo_id: str | None, revisions: Mapping[str, Any]) -> None:
    """Where every revision of a published run went, or what a dry run wrote."""
    console = make_console()
    for name, done in revisions.items():
        if isinstance(done, Path):
            console.print(f"would push {repo_id}@{name}: {done}", soft_wrap=True)
        else:
            what = "pushed" if done.changed else "was there already:"
            console.print(f"{what} {done.url} {name} (commit {done.commit[:12]})", soft_wrap=True)


@contextlib.contextmanager
def step_bar(description: str, unit: str) -> Iterator[Progress]:
    """A progress bar to hand to a job; it appears with the first step, so that an error before stands alone."""
    with contextlib.ExitStack() as stack:
        bars: list[Any] = []

        def progress(step: int, steps: int, text: str) -> None:
            if not bars:
                bars.append(stack.enter_context(make_bar(desc=description, unit=unit, total=steps)))
            bars[0].update(step - bars[0].n)
            if text:
                bars[0].set_postfix_str(text, refresh=False)

        yield progress
