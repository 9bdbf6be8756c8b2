"""Write the results of a reproduction and of a benchmark into README.md, so that every number there comes from a file.

python recipes/update_readme.py --run runs/reproduce-nano --benchmark runs/benchmark-train.json
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ftmech_hf.config import clean_exit, parse_config
from ftmech_hf.runs import write_text
from recipes.readme.benchmarks import (
    accuracy_block,
    analysis_block,
    data_block,
    interop_block,
    speed_block,
    sweep_speed_block,
)
from recipes.readme.studies import (
    forgetting_block,
    grid_block,
    instruments_block,
    lora_block,
    results_block,
    stories_block,
    stories_claims_block,
    tracr_block,
    written_block,
)

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ("<!-- results: written by recipes/update_readme.py -->", "<!-- end of results -->")
DATA = ("<!-- data: written by recipes/update_readme.py -->", "<!-- end of data -->")
ACCURACY = ("<!-- accuracy: written by recipes/update_readme.py -->", "<!-- end of accuracy -->")
GRID = ("<!-- grid: written by recipes/update_readme.py -->", "<!-- end of grid -->")
FORGETTING = ("<!-- forgetting: written by recipes/update_readme.py -->", "<!-- end of forgetting -->")
LORA = ("<!-- lora: written by recipes/update_readme.py -->", "<!-- end of lora -->")
TRACR = ("<!-- tracr: written by recipes/update_readme.py -->", "<!-- end of tracr -->")
INSTRUMENTS = ("<!-- instruments: written by recipes/update_readme.py -->", "<!-- end of instruments -->")
STORIES = ("<!-- stories: written by recipes/update_readme.py -->", "<!-- end of stories -->")
STORIES_CLAIMS = ("<!-- stories claims: written by recipes/update_readme.py -->", "<!-- end of stories claims -->")
WRITTEN = ("<!-- written: written by recipes/update_readme.py -->", "<!-- end of written -->")
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
    stories: str = field(default="runs/stories-nano", metadata={"help": "folder of the study of stories"})
    written: str = field(
        default="runs/stories-micro-written",
        metadata={"help": "folder of write_stories.py, of a model of real stories"},
    )
    only: list[str] = field(
        default_factory=list, metadata={"help": "settings above whose tables are written; all if none are named"}
    )

    def __post_init__(self) -> None:
        known = [each.name for each in fields(self) if each.name != "only"]
        if unknown := [name for name in self.only if name not in known]:
            raise ValueError(f"only: unknown {unknown[0]!r}, expected some of {', '.join(known)}")

    def writes(self, name: str) -> bool:
        """Whether a setting's tables are to be written."""
        return not self.only or name in self.only


BLOCKS: tuple[tuple[tuple[str, str], Callable[[Any], str], str], ...] = (
    (SPEED, speed_block, "benchmark"),
    (ACCURACY, accuracy_block, "accuracy_benchmark"),
    (DATA, data_block, "data_benchmark"),
    (SWEEP_SPEED, sweep_speed_block, "sweep_benchmark"),
    (ANALYSIS, analysis_block, "analysis_benchmark"),
    (INTEROP, interop_block, "interop"),
    (GRID, grid_block, "grid"),
    (FORGETTING, forgetting_block, "forgetting"),
    (LORA, lora_block, "lora"),
    (TRACR, tracr_block, "tracr"),
    (INSTRUMENTS, instruments_block, "tracr"),
    (STORIES, stories_block, "stories"),
    (STORIES_CLAIMS, stories_claims_block, "stories"),
    (WRITTEN, written_block, "written"),
)
"""Marks in the README, what writes the block between them, and the setting that says from which file or folder."""


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
        reproduced = config.writes("run") and (folder / "claims.json").is_file()
        if reproduced:
            text = replace_block(text, RESULTS, results_block(folder))
        elif config.writes("run"):
            print(f"no {folder}: its table and the picture stay as they are")
        for marks, block, name in BLOCKS:
            place = Path(getattr(config, name))
            if not config.writes(name):
                continue
            if place.suffix == ".json" and place.is_file():
                text = replace_block(text, marks, block(json.loads(place.read_text(encoding="utf-8"))))
            elif any((place / made).is_file() for made in ("report.html", "manifest.json")):
                text = replace_block(text, marks, block(place))
            else:
                print(f"no {place}: its table stays as it is")
        write_text(readme, text)
        print(f"wrote {readme.name}")
        if reproduced and (folder / "overview.png").is_file():
            picture = ROOT / ".github" / "overview.png"
            picture.parent.mkdir(exist_ok=True)
            shutil.copyfile(folder / "overview.png", picture)
            print(f"wrote {picture.relative_to(ROOT)} from {folder}")


if __name__ == "__main__":
    main()
