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

from ftmech_hf.config import clean_exit, parse_config
from ftmech_hf.report.claims import Claim
from ftmech_hf.report.page import format_interval, format_value, verdict
from ftmech_hf.runs import describe_versions, write_text

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ("<!-- results: written by recipes/update_readme.py -->", "<!-- end of results -->")
DATA = ("<!-- data: written by recipes/update_readme.py -->", "<!-- end of data -->")
ACCURACY = ("<!-- accuracy: written by recipes/update_readme.py -->", "<!-- end of accuracy -->")
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


def replace_block(text: str, marks: tuple[str, str], block: str) -> str:
    """Put ``block`` between two marks."""
    before, rest = text.split(marks[0])
    return f"{before}{marks[0]}\n{block}\n{marks[1]}{rest.split(marks[1])[1]}"


def main(argv: list[str] | None = None) -> None:
    """Replace the blocks between the marks and copy the picture."""
    with clean_exit():
        (config,) = parse_config(UpdateReadmeConfig, argv=argv, description=__doc__)
        folder, readme = Path(config.run), ROOT / "README.md"
        text = replace_block(readme.read_text(encoding="utf-8"), RESULTS, results_block(folder))
        for marks, block, file in (
            (SPEED, speed_block, config.benchmark),
            (ACCURACY, accuracy_block, config.accuracy_benchmark),
            (DATA, data_block, config.data_benchmark),
        ):
            if Path(file).is_file():
                text = replace_block(text, marks, block(json.loads(Path(file).read_text(encoding="utf-8"))))
            else:
                print(f"no {file}: its table stays as it is")
        write_text(readme, text)
        picture = ROOT / ".github" / "overview.png"
        picture.parent.mkdir(exist_ok=True)
        shutil.copyfile(folder / "overview.png", picture)
        print(f"wrote {readme.name} and {picture.relative_to(ROOT)} from {folder}")


if __name__ == "__main__":
    main()
