"""Write the results of a reproduction into README.md, so that every number there comes from a run's files.

python recipes/update_readme.py --run runs/reproduce-nano
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from ftmech_hf.config import clean_exit, parse_config
from ftmech_hf.report.claims import Claim
from ftmech_hf.report.page import format_interval, format_value, verdict
from ftmech_hf.runs import write_text

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- results: written by recipes/update_readme.py -->", "<!-- end of results -->"


@dataclass(frozen=True, kw_only=True)
class UpdateReadmeConfig:
    """Where the results are."""

    run: str = field(default="runs/reproduce-nano", metadata={"help": "folder of a reproduction"})


def results_block(folder: Path) -> str:
    """The table of claims and where it comes from, as Markdown."""
    claims = [Claim(**claim) for claim in json.loads((folder / "claims.json").read_text(encoding="utf-8"))]
    env = json.loads((folder / "env.json").read_text(encoding="utf-8"))
    lines = ["| claim | paper | measured | 95 % interval | bar | verdict |", "|---|---|---|---|---|---|"]
    for c in claims:
        cells = (c.statement, c.paper, format_value(c.measured, c.unit), format_interval(c), c.bar, verdict(c))
        lines.append(f"| {' | '.join(cells)} |")
    seeds = ", ".join(str(seed) for seed in claims[0].seeds)
    versions = ", ".join(f"{name} {version}" for name, version in env["versions"].items())
    return "\n".join(
        [*lines, "", f"Mean over seeds {seeds}, 95 % Student t interval; config hash `{env['hash']}`; {versions}."]
    )


def main(argv: list[str] | None = None) -> None:
    """Replace the block between the marks and copy the picture."""
    with clean_exit():
        (config,) = parse_config(UpdateReadmeConfig, argv=argv, description=__doc__)
        folder, readme = Path(config.run), ROOT / "README.md"
        before, rest = readme.read_text(encoding="utf-8").split(BEGIN)
        after = rest.split(END)[1]
        write_text(readme, f"{before}{BEGIN}\n{results_block(folder)}\n{END}{after}")
        picture = ROOT / ".github" / "overview.png"
        picture.parent.mkdir(exist_ok=True)
        shutil.copyfile(folder / "overview.png", picture)
        print(f"wrote {readme.name} and {picture.relative_to(ROOT)} from {folder}")


if __name__ == "__main__":
    main()
