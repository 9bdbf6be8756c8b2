"""Try which sites and units can be had of every causal language model class of transformers, each built small.

python recipes/architectures.py --json runs/architectures.json
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from ftmech_hf.config import clean_exit, parse_config
from ftmech_hf.jobs.architectures import survey_classes
from ftmech_hf.report.console import step_bar
from ftmech_hf.runs import write_json


@dataclass(frozen=True, kw_only=True)
class ArchitecturesConfig:
    """Which classes to try, and where the table goes."""

    json: str = field(default="runs/architectures.json", metadata={"help": "file that the table is written to"})
    classes: list[str] = field(
        default_factory=list, metadata={"help": "names of classes to try; all if none are named"}
    )


def main(argv: list[str] | None = None) -> None:
    """Parse, try every class, say how many open."""
    with clean_exit():
        (config,) = parse_config(ArchitecturesConfig, argv=argv, description=__doc__)
        with step_bar("architectures", "classes") as progress:
            found = survey_classes(config.classes, progress)
        Path(config.json).parent.mkdir(parents=True, exist_ok=True)
        write_json(Path(config.json), [each.row() for each in found])
        sites = Counter(site for each in found for site in each.sites)
        print(f"{sum(each.opens for each in found)} of {len(found)} classes open: {config.json}")
        print(", ".join(f"{site} {number}" for site, number in sites.most_common()))


if __name__ == "__main__":
    main()
