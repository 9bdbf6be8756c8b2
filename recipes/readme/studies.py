"""The tables of studies and sweeps, from the folders that they leave."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd

from ftmech_hf.report.claims import read_claims
from ftmech_hf.report.page import format_floor, format_interval, format_measured, format_verdict
from ftmech_hf.runs import FinishedRun, describe_versions
from ftmech_hf.studies.sweep.results import as_text
from recipes.readme.tables import markdown_table

MAIN = ("low_a", "gain_a", "control_gain_a", "probe_gap", "revival_ratio")
"""The claims of a reproduction that the front README shows."""


def claims_table(
    folder: Path,
    source: str,
    only: Collection[str] = (),
    *,
    remarks: Mapping[str, str] = MappingProxyType({}),
    floor: str = "constant answer",
) -> str:
    """Claims, their bars and what was measured, as Markdown.

    Args:
        folder: of the results.
        source: where its numbers come from.
        only: names of claims that are shown; all if there are none.
        remarks: id of a claim -> what stands behind its verdict.
        floor: what the floors are of, where there are any.
    """
    found = read_claims(folder)
    claims = [claim for claim in found if not only or claim.id in only]
    floors = any(claim.floor is not None for claim in claims)
    columns = (
        "claim",
        "paper",
        *((floor,) if floors else ()),
        "measured",
        "95 % interval",
        "bar",
        "verdict",
    )
    rows = [
        (c.statement, c.paper, *((format_floor(c),) if floors else ()), format_measured(c), format_interval(c), c.bar,
         "; ".join(filter(None, (format_verdict(c, found), remarks.get(c.id)))))
        for c in claims
    ]  # fmt: skip
    return markdown_table(columns, rows, source)


def _reproduction_source(folder: Path) -> str:
    env = FinishedRun(folder).env
    seeds = ", ".join(map(str, read_claims(folder)[0].seeds))
    interval = "95 % interval over seeds and their rows"
    return f"Mean over seeds {seeds}, {interval}; config hash `{env['hash']}`; {describe_versions(env)}."


def results_block(folder: Path) -> str:
    """The table of claims and where it comes from, as Markdown."""
    return claims_table(folder, _reproduction_source(folder))


def claims_block(folder: Path, *, floor: str = "constant answer") -> str:
    """All claims of a study, as Markdown; ``floor`` says what their floors are of."""
    return claims_table(folder, _sweep_source(folder), floor=floor)


def main_block(folder: Path) -> str:
    """The claims that the front README shows, as Markdown."""
    return claims_table(folder, _reproduction_source(folder), only=MAIN)


def _minutes(env: Mapping[str, Any]) -> str:
    """What the runs behind a table took, if their study knows it."""
    return f"; {env['seconds'] / 60:.0f} minutes of one core" if "seconds" in env else ""


def _made(folder: Path) -> str:
    """What stands behind every source of a table: what its runs took, the settings and the versions."""
    env = FinishedRun(folder).env
    return f"{_minutes(env)}; config hash `{env['hash']}`; {describe_versions(env)}."


def _sweep_source(folder: Path) -> str:
    seeds = FinishedRun(folder).config["seeds"]
    several = f"Mean over seeds {', '.join(map(str, seeds))} (95 % interval over seeds and their rows)"
    over = (
        several
        if len(seeds) > 1
        else f"Seed {seeds[0]} alone (95 % interval of its rows, which says nothing of other seeds)"
    )
    return over + _made(folder)


AGREEMENT = ("in the same third", "ours less the paper's")
"""The last columns of a table of how far a pattern of the paper's is found again."""


def _agreement(row: Mapping[Any, Any]) -> tuple[str, ...]:
    """The rank correlation of a row, and its :data:`AGREEMENT`."""
    return (
        f"{row['rank_correlation']:.2f}",
        f"{row['same_third']:.0%}",
        f"{row['mean_difference']:+.0f} points",
    )


def grid_block(folder: Path) -> str:
    """How far the pattern of the paper's tables is found again, as Markdown."""
    rows = [
        (f"{row['operator']}, {row['pretraining']}", f"`{row['column']}`", str(row["cells"]), *_agreement(row))
        for row in pd.read_csv(folder / "agreement.csv").to_dict("records")
    ]
    columns = ("paper's table", "column", "cells", "rank correlation over them", *AGREEMENT)
    seeds = ", ".join(map(str, FinishedRun(folder).config["seeds"]))
    return markdown_table(columns, rows, f"Of means over seeds {seeds}, without an interval{_made(folder)}")


def sweep_block(folder: Path, axis: str, metrics: Mapping[str, str]) -> str:
    """The last numbers of a sweep along one axis, as Markdown; ``metrics``: STAGE METRIC -> what to call it."""
    summary = pd.read_csv(folder / "summary.csv", dtype={axis: str})
    rows = []
    for label in summary[axis].unique():
        cells = [label]
        for name in metrics:
            stage, metric = name.split(" ")
            found = summary[(summary[axis] == label) & (summary["stage"] == stage) & (summary["metric"] == metric)]
            cells.append(as_text(found.sort_values("step").iloc[-1]) if len(found) else "")
        rows.append(cells)
    return markdown_table((axis, *metrics.values()), rows, _sweep_source(folder))


def forgetting_block(folder: Path) -> str:
    """Gain and forgetting of every method, as Markdown."""
    metrics = {
        "finetune count_b_cte0": "b, no correlation, %",
        "finetune count_b_cte1": "b, with it, %",
        "finetune count_a": "a, %",
        "finetune change/count_a": "a: change, points",
        "probe change/probe": "probe for a: change, points",
    }
    return sweep_block(folder, "method", metrics)


def lora_block(folder: Path) -> str:
    """The wrapper against the rank of the update, as Markdown."""
    metrics = {
        "finetune count_b_cte1": "b, with correlation, %",
        "finetune count_b_cte0": "b, without, %",
        "finetune count_a": "a, %",
        "prune pruned/count_a": "a after pruning, %",
        "prune pruned/neurons": "rows pruned",
        "reverse steps_to_revival": "steps to revive a",
    }
    return sweep_block(folder, "rank", metrics)


def tracr_block(folder: Path) -> str:
    """How far the pattern of the paper's Table 3 is found again, as Markdown."""
    cells = pd.read_csv(folder / "cells.csv")
    verdicts = cells.groupby(["program", "column"])["verdict"]
    rows = [
        (row["program"], f"`{row['column']}`", str(row["cells"]), *_agreement(row),
         *_told(verdicts.get_group((row["program"], row["column"]))))
        for row in pd.read_csv(folder / "agrees.csv").to_dict("records")
    ]  # fmt: skip
    size = FinishedRun(folder).config
    trained = f"{size['steps']:,} steps of {size['batch_size']} rows (the paper: 10,000 of 96). "
    columns = ("program", "column", "cells", "rank correlation", *AGREEMENT, "as the paper's", "not", "undecided")
    return markdown_table(columns, rows, trained + _sweep_source(folder))


def _told(verdicts: pd.Series) -> tuple[str, ...]:
    """How many cells hold, fail and are undecided; cells of the paper's middle third have no bar."""
    return tuple(str(verdicts.str.endswith(word).sum()) for word in ("holds", "fails", "undecided"))


def tracr_claims_block(folder: Path) -> str:
    """What the paper says of the programs in its text, as Markdown; its cells stand in the table."""
    return claims_table(folder, _sweep_source(folder), only=("counter_one_weight",))


def instruments_block(folder: Path) -> str:
    """What each instrument found of the compiled circuits, as Markdown."""
    rows = [
        (
            row["instrument"],
            row["program"],
            f"{row['noise']:g}",
            f"{row['found']} of {row['candidates']}",
            str(row["known"]),
            f"{row['precision']:.2f}",
            f"{row['recall']:.2f}",
            f"{row['chance']:.2f}",
        )
        for row in pd.read_csv(folder / "instruments.csv").to_dict("records")
    ]
    columns = ("instrument", "program", "noise", "found", "known", "precision", "recall", "chance")
    settings = FinishedRun(folder).config
    env = FinishedRun(folder).env
    source = f"Seed {settings['seeds'][0]}, one try each; config hash `{env['hash']}`; {describe_versions(env)}."
    return markdown_table(columns, rows, source)


def stories_block(folder: Path) -> str:
    """The paper's Table 1 beside ours, as Markdown."""
    cells = pd.read_csv(folder / "cells.csv")
    steps = cells[["paper_step", "step"]].drop_duplicates().sort_values("paper_step")
    rows = []
    for model in cells["model"].unique():
        found = cells[cells["model"] == model].set_index("paper_step")
        row = [model]
        for step in steps["paper_step"]:
            if step not in found.index:
                row.append("")
                continue
            cell = found.loc[step]
            paper = "" if pd.isna(cell["paper"]) else f"{cell['paper']:.0f} → "
            row.append(
                f"{paper}{cell['ours']:.0f} ({cell['low']:.0f} to {cell['high']:.0f}), unasked {cell['unasked']:.0f}"
            )
        rows.append(row)
    columns = ["model", *(f"step {ours} ({theirs:,})" for theirs, ours in steps.itertuples(index=False))]
    return markdown_table(columns, rows, _stories_source(folder))


def stories_claims_block(folder: Path) -> str:
    """What the study of stories claims, as Markdown."""
    return claims_table(folder, _stories_source(folder), floor="floor")


SHOWN = 3
"""Stories of a model that the README shows."""


def written_block(folder: Path) -> str:
    """What a model trained on real stories writes, and its loss on those held out, as Markdown."""
    env = FinishedRun(folder).env
    found = FinishedRun(folder).summary
    settings = FinishedRun(folder).config
    trained = FinishedRun(settings["model"]).config
    table = FinishedRun(folder).table.head(SHOWN).to_dict("records")
    texts = [f"> {' '.join(str(row['prompt'] + row['text']).split())}" for row in table]
    loss = (
        f"**{found['nats_per_byte']:.3f} nats per byte** ({found['nats_per_token']:.3f} per token) on "
        f"{found['loss_rows']} packed rows held out; the first {len(texts)} stories it writes:"
    )
    rows = f"{trained['steps']:,} steps of {trained['batch_size']} rows of {trained['row_tokens']} tokens"
    sampling = f"temperature {settings['temperature']:g}, seed {settings['seed']}, one run"
    source = f"`{trained['preset']}`, {rows}; {sampling}; config hash `{env['hash']}`; {describe_versions(env)}."
    return "\n\n".join([loss, *texts, source])


def _stories_source(folder: Path) -> str:
    settings = FinishedRun(folder).config
    seeds = settings["seeds"]
    interval = (
        "over seeds and stories" if len(seeds) > 1 else "of stories and instructions; of other seeds it says nothing"
    )
    named = f"Seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
    number = f"{settings['generations']} stories a cell (the paper: 16)"
    return f"{named}, {number}; 95 % interval {interval}{_made(folder)}"
