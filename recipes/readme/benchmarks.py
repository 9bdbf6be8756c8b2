"""The tables of benchmarks, from the JSON files that they write."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ftmech_hf.runs import describe_versions
from recipes.benchmarks.accuracy import UNIT
from recipes.readme.tables import markdown_table


def _made_by(result: Mapping[str, Any], machine: str | None = None) -> str:
    """With which seeds, settings and versions, and on which machine; ``threads`` are those of a torch operation."""
    seeds = f"Seed{'s' * (len(result['seeds']) > 1)} {', '.join(map(str, result['seeds']))}"
    where = machine or f"{result['threads']} threads, {result['machine']}"
    return f"{seeds}; {where}; config hash `{result['hash']}`; {describe_versions(result)}."


def speed_block(result: Mapping[str, Any]) -> str:
    """The table of the training benchmark, as Markdown."""
    rows = [
        (
            row["contender"],
            row["precision"],
            f"{row['tokens_per_second']:,}",
            f"{row['ours_over_this']:.2f} x",
            f"{row['share_of_matmul_peak']:.0%}",
        )
        for row in result["rows"]
    ]
    columns = ("loop", "precision", "tokens/s", "ours is faster by", "share of the matmul peak")
    return markdown_table(columns, rows, _made_by(result))


def gpu_speed_block(result: Mapping[str, Any]) -> str:
    """The table of the training benchmark on a GPU, as Markdown."""
    rows = [
        (
            row["contender"],
            f"{row['ms_per_step']:.1f}",
            f"{row['tokens_per_second']:,}",
            f"{row['ours_over_this']:.2f} x",
            f"{row['share_of_matmul_peak']:.1%}",
            f"{row['share_of_bandwidth']:.1%}",
        )
        for row in result["rows"]
    ]
    columns = (
        "loop",
        "ms a step",
        "tokens/s",
        "ours is faster by",
        "share of the matmul peak",
        "share of the bandwidth",
    )
    first = result["rows"][0]
    machine = (
        f"{first['device']}, {first['precision']}; its products come to {first['matmul_peak_gflops'] / 1000:,.0f} "
        f"TFLOP/s and its copies to {first['bandwidth_gb_per_second'] / 1000:.1f} TB/s"
    )
    return markdown_table(columns, rows, _made_by(result, machine))


def accuracy_block(result: Mapping[str, Any]) -> str:
    """The table of the time to an accuracy, as Markdown."""
    number = len(result["seeds"])
    reached = {row["rows"]: row["reached"] == number for row in result["rows"] if row["recipe"] == UNIT}
    rows = []
    for row in result["rows"]:
        # who gave up on some seed needs longer than was measured
        says = {(True, True): "", (True, False): "more than ", (False, True): "less than "}
        bound = says.get((row["reached"] == number, reached[row["rows"]]))
        interval = "" if row["low"] is None else f" ({row['low']:.1f} to {row['high']:.1f})"
        rows.append((
            row["rows"],
            row["recipe"],
            row["precision"],
            ", ".join(map(str, row["steps"])),
            f"{sum(row['seconds']) / number:.0f}",
            f"{row['reached']} of {number}",
            "—" if bound is None else f"{bound}{row['faster_by']:.1f} x{interval}",
        ))  # fmt: skip
    columns = ("rows", "recipe", "precision", "steps of each seed", "seconds, mean", "reached", "faster by")
    return markdown_table(columns, rows, _made_by(result))


def sweep_speed_block(result: Mapping[str, Any]) -> str:
    """The table of the sweep benchmark, as Markdown."""
    rows = [
        (
            f"{row['runs']} runs, {row['way']}",
            f"{row['seconds']:.0f}",
            f"{row['ours_is_faster_by']:.2f} x ({row['least']:.2f} to {row['most']:.2f})",
        )
        for row in result["rows"]
    ]
    columns = ("way", "seconds, median", "ours is faster by, median (least to most of the rounds)")
    return markdown_table(columns, rows, _made_by(result, result["machine"]))


def data_block(result: Mapping[str, Any]) -> str:
    """The table of the data benchmark, as Markdown."""
    rows = [
        (
            row["what"],
            f"{row['per_second']:,} {row['unit']}",
            row["against"],
            f"{row['that_per_second']:,} {row['unit']}",
            f"{row['ratio']:,.0f} x" if row["ratio"] >= 1 else f"{row['ratio']:.1%}",
        )
        for row in result["rows"]
    ]
    columns = ("what", "per second", "beside", "per second", "ratio")
    return markdown_table(columns, rows, _made_by(result, result["machine"]))


def analysis_block(result: Mapping[str, Any]) -> str:
    """The table of the instruments' benchmark, as Markdown."""
    rows = [
        (
            row["what"],
            f"{row['value']:,} {row['unit']}",
            "" if row["ratio"] is None else f"{row['ratio']} x {row['ratio_of']}",
        )
        for row in result["rows"]
    ]
    return markdown_table(("what", "measured", "ratio"), rows, _made_by(result))


def explorer_block(result: Mapping[str, Any]) -> str:
    """The table of the explorer's benchmark, as Markdown."""

    def said(seconds: float) -> str:
        return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"

    rows = [
        (
            row["pair"],
            row["what"],
            said(row["median_seconds"]),
            f"{said(row['most_seconds'])} of {row['times']}",
            "" if row["cpu_seconds"] is None else f"{row['cpu_seconds']:.1f} s",
        )
        for row in result["rows"]
    ]
    return markdown_table(("pair", "what", "median", "most", "computing"), rows, _made_by(result))


def interop_block(result: Mapping[str, Any]) -> str:
    """Which libraries were seen to work with what is published, as Markdown."""
    rows = [(row["library"], row["versions"], row["shows"]) for row in result["rows"]]
    return markdown_table(
        ("library", "verified with", "what was seen to work"), rows, "Written by `make test-interop`."
    )
