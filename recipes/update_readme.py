"""Write the results of a reproduction and of a benchmark into README.md, so that every number there comes from a file.

python recipes/update_readme.py --run runs/reproduce-nano --benchmark runs/benchmark-train.json
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from ftmech_hf.config import clean_exit, parse_config, read_yaml
from ftmech_hf.report.claims import Claim
from ftmech_hf.report.page import format_interval, format_value, verdict
from ftmech_hf.report.sweep import as_text
from ftmech_hf.runs import describe_versions, write_text

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ("<!-- results: written by recipes/update_readme.py -->", "<!-- end of results -->")
DATA = ("<!-- data: written by recipes/update_readme.py -->", "<!-- end of data -->")
ACCURACY = ("<!-- accuracy: written by recipes/update_readme.py -->", "<!-- end of accuracy -->")
GRID = ("<!-- grid: written by recipes/update_readme.py -->", "<!-- end of grid -->")
FORGETTING = ("<!-- forgetting: written by recipes/update_readme.py -->", "<!-- end of forgetting -->")
LORA = ("<!-- lora: written by recipes/update_readme.py -->", "<!-- end of lora -->")
TRACR = ("<!-- tracr: written by recipes/update_readme.py -->", "<!-- end of tracr -->")
INSTRUMENTS = ("<!-- instruments: written by recipes/update_readme.py -->", "<!-- end of instruments -->")
ANALYSIS = ("<!-- analysis: written by recipes/update_readme.py -->", "<!-- end of analysis -->")
SWEEP_SPEED = ("<!-- sweep: written by recipes/update_readme.py -->", "<!-- end of sweep -->")
INTEROP = ("<!-- interop: written by recipes/update_readme.py -->", "<!-- end of interop -->")
SPEED = ("<!-- speed: written by recipes/update_readme.py -->", "<!-- end of speed -->")


@dataclass(frozen=True, kw_only=True)
class UpdateReadmeConfig:
    """Where the results are."""

    run: str = field(default="runs/reproduce-nano", metadata={"help": "folder of a reproduction"})
    benchmark: str = field(default="runs/benchmark-train.json", metadata={"help": "file of a training benchmark"})
    accuracy_benchmark: str = field(
        default="runs/benchmark-accuracy.json", metadata={"help": "file of a benchmark of the time to an accuracy"}
    )
    data_benchmark: str = field(default="runs/benchmark-data.json", metadata={"help": "file of a data benchmark"})
    sweep_benchmark: str = field(
        default="runs/benchmark-sweep.json", metadata={"help": "file of a benchmark of runs side by side"}
    )
    analysis_benchmark: str = field(
        default="runs/benchmark-analysis.json", metadata={"help": "file of a benchmark of the instruments"}
    )
    interop: str = field(default="runs/interop.json", metadata={"help": "file that make test-interop wrote"})
    grid: str = field(default="runs/sweep-grid-nano", metadata={"help": "folder of the sweep of the paper's tables"})
    forgetting: str = field(default="runs/sweep-forgetting-nano", metadata={"help": "folder of the sweep of methods"})
    lora: str = field(default="runs/sweep-lora-nano", metadata={"help": "folder of the sweep of ranks"})
    tracr: str = field(default="runs/tracr-nano", metadata={"help": "folder of the study of compiled programs"})


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]], source: str) -> str:
    """A Markdown table, and below it where its numbers come from."""
    lines = [f"| {' | '.join(cells)} |" for cells in (columns, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(columns), *lines[1:], "", source])


def results_block(folder: Path) -> str:
    """The table of claims and where it comes from, as Markdown."""
    claims = [Claim(**claim) for claim in json.loads((folder / "claims.json").read_text(encoding="utf-8"))]
    env = json.loads((folder / "env.json").read_text(encoding="utf-8"))
    rows = [
        (c.statement, c.paper, format_value(c.measured, c.unit), format_interval(c), c.bar, verdict(c)) for c in claims
    ]
    seeds = ", ".join(str(seed) for seed in claims[0].seeds)
    source = f"Mean over seeds {seeds}, 95 % Student t interval; config hash `{env['hash']}`; {describe_versions(env)}."
    return markdown_table(("claim", "paper", "measured", "95 % interval", "bar", "verdict"), rows, source)


def _machine(result: Mapping[str, Any]) -> str:
    return f"{result['threads']} threads, {result['machine']}, {describe_versions(result)}."


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
    return markdown_table(columns, rows, _machine(result))


def accuracy_block(result: Mapping[str, Any]) -> str:
    """The table of the time to an accuracy, as Markdown."""
    rows = [
        (
            row["rows"],
            row["recipe"],
            str(row["steps"]),
            f"{row['seconds']:.0f}",
            f"{row['accuracy']:.1%}",
            f"{'' if row['reached'] else 'more than '}{row['ours_is_faster_by']:.1f} x",
        )
        for row in result["rows"]
    ]
    columns = ("rows", "recipe", "steps", "seconds", "accuracy", "ours is faster by")
    return markdown_table(columns, rows, _machine(result))


def sweep_speed_block(result: Mapping[str, Any]) -> str:
    """The table of the sweep benchmark, as Markdown."""
    rows = [
        (f"{row['runs']} runs, {row['way']}", f"{row['seconds']:.0f}", f"{row['ours_is_faster_by']:.2f} x")
        for row in result["rows"]
    ]
    return markdown_table(
        ("way", "seconds", "ours is faster by"), rows, f"{result['machine']}, {describe_versions(result)}."
    )


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
    return markdown_table(columns, rows, f"{result['machine']}, {describe_versions(result)}.")


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
    return markdown_table(("what", "measured", "ratio"), rows, _machine(result))


def interop_block(result: Mapping[str, Any]) -> str:
    """Which libraries were seen to work with what is published, as Markdown."""
    rows = [(row["library"], row["versions"], row["shows"]) for row in result["rows"]]
    return markdown_table(
        ("library", "verified with", "what was seen to work"), rows, "Written by `make test-interop`."
    )


def _sweep_source(folder: Path) -> str:
    env = json.loads((folder / "env.json").read_text(encoding="utf-8"))
    seeds = read_yaml(str(folder / "config.yaml"))["seeds"]
    several = f"Mean over seeds {', '.join(map(str, seeds))} (95 % Student t interval)"
    over = several if len(seeds) > 1 else f"Seed {seeds[0]} alone, so there are no intervals over seeds"
    return f"{over}; sweep `{env['hash']}`; {describe_versions(env)}."


def grid_block(folder: Path) -> str:
    """How far the pattern of the paper's tables is found again, as Markdown."""
    rows = [
        (
            f"{row['operator']}, {row['pretraining']}",
            f"`{row['column']}`",
            f"{row['rank_correlation']:.2f}",
            f"{row['low']:.2f} to {row['high']:.2f}",
            f"{row['same_third']:.0%}",
            f"{row['mean_difference']:+.0f} points",
        )
        for row in pd.read_csv(folder / "agreement.csv").to_dict("records")
        if row["pretraining"] == "200K"
    ]
    columns = (
        "paper's table",
        "column",
        "rank correlation over 36 cells",
        "95 % interval",
        "in the same third",
        "ours less the paper's",
    )
    return markdown_table(columns, rows, _sweep_source(folder))


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
    rows = [
        (
            row["program"],
            f"`{row['column']}`",
            str(row["cells"]),
            f"{row['rank_correlation']:.2f}",
            f"{row['low']:.2f} to {row['high']:.2f}",
            f"{row['same_third']:.0%}",
            f"{row['mean_difference']:+.0f} points",
        )
        for row in pd.read_csv(folder / "agrees.csv").to_dict("records")
    ]
    size = read_yaml(str(folder / "config.yaml"))
    trained = f"{size['steps']:,} steps of {size['batch_size']} rows (the paper: 10,000 of 96). "
    columns = (
        "program",
        "column",
        "cells",
        "rank correlation",
        "95 % interval",
        "in the same third",
        "ours less the paper's",
    )
    return markdown_table(columns, rows, trained + _sweep_source(folder))


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
    settings = read_yaml(str(folder / "config.yaml"))
    env = json.loads((folder / "env.json").read_text(encoding="utf-8"))
    source = f"Seed {settings['seeds'][0]}, one try each; study `{env['hash']}`; {describe_versions(env)}."
    return markdown_table(columns, rows, source)


def replace_block(text: str, marks: tuple[str, str], block: str) -> str:
    """Put ``block`` between two marks."""
    before, rest = text.split(marks[0])
    return f"{before}{marks[0]}\n{block}\n{marks[1]}{rest.split(marks[1])[1]}"


def main(argv: list[str] | None = None) -> None:
    """Replace the blocks between the marks and copy the picture."""
    with clean_exit():
        (config,) = parse_config(UpdateReadmeConfig, argv=argv, description=__doc__)
        folder, readme = Path(config.run), ROOT / "README.md"
        text = readme.read_text(encoding="utf-8")
        if (folder / "claims.json").is_file():
            text = replace_block(text, RESULTS, results_block(folder))
        else:
            print(f"no {folder}: its table and the picture stay as they are")
        for marks, block, file in (
            (SPEED, speed_block, config.benchmark),
            (ACCURACY, accuracy_block, config.accuracy_benchmark),
            (DATA, data_block, config.data_benchmark),
            (SWEEP_SPEED, sweep_speed_block, config.sweep_benchmark),
            (ANALYSIS, analysis_block, config.analysis_benchmark),
            (INTEROP, interop_block, config.interop),
        ):
            if Path(file).is_file():
                text = replace_block(text, marks, block(json.loads(Path(file).read_text(encoding="utf-8"))))
            else:
                print(f"no {file}: its table stays as it is")
        for marks, sweep_table, place in (
            (GRID, grid_block, config.grid),
            (FORGETTING, forgetting_block, config.forgetting),
            (LORA, lora_block, config.lora),
            (TRACR, tracr_block, config.tracr),
            (INSTRUMENTS, instruments_block, config.tracr),
        ):
            if (Path(place) / "report.html").is_file():
                text = replace_block(text, marks, sweep_table(Path(place)))
            else:
                print(f"no {place}: its table stays as it is")
        write_text(readme, text)
        print(f"wrote {readme.name}")
        if (folder / "overview.png").is_file():
            picture = ROOT / ".github" / "overview.png"
            picture.parent.mkdir(exist_ok=True)
            shutil.copyfile(folder / "overview.png", picture)
            print(f"wrote {picture.relative_to(ROOT)} from {folder}")


if __name__ == "__main__":
    main()
