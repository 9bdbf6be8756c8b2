"""Write tables and lists into the READMEs, so that every number there comes from a file and every list from the code.

python recipes/update_readme.py --reproduction runs/reproduce-nano --benchmark runs/benchmark-train.json
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

from ftmech_hf.config import clean_exit, parse_config
from ftmech_hf.explorer.picture import find_chromium, take_picture_of_report
from ftmech_hf.runs import FinishedRun, FolderLock, copy_file, describe_versions, write_text
from ftmech_hf.runs.results import NAMES as RESULTS
from recipes.readme import benchmarks, code, continual, programs, real, retrieval, safety, studies
from recipes.readme.architectures import architectures_block
from recipes.readme.compare_organisms import compare_organisms_block
from recipes.readme.found import found_block, studies_block
from recipes.readme.organisms import organisms_block

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ".github"
WAIT_SECONDS = 60.0
"""For another process that writes into the same README, which takes it no time."""


@dataclass(frozen=True, kw_only=True)
class UpdateReadmeConfig:
    """Where the results are."""

    reproduction: str = field(default="runs/reproduce-nano", metadata={"help": "folder of a reproduction"})
    benchmark: str = field(default="runs/benchmark-train.json", metadata={"help": "file of a training benchmark"})
    gpu_benchmark: str = field(
        default="runs/benchmark-train-gpu.json", metadata={"help": "file of a training benchmark on a GPU"}
    )
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
    explorer_benchmark: str = field(
        default="runs/benchmark-explorer.json", metadata={"help": "file of a benchmark of the explorer"}
    )
    architectures: str = field(
        default="runs/architectures.json", metadata={"help": "file that recipes/architectures.py wrote"}
    )
    interop: str = field(default="runs/interop.json", metadata={"help": "file that make test-interop wrote"})
    grid: str = field(default="runs/sweep-grid-nano", metadata={"help": "folder of the sweep of the paper's tables"})
    forgetting: str = field(default="runs/sweep-forgetting-nano", metadata={"help": "folder of the sweep of methods"})
    lora: str = field(default="runs/sweep-lora-nano", metadata={"help": "folder of the sweep of ranks"})
    tracr: str = field(default="runs/tracr-nano", metadata={"help": "folder of the study of compiled programs"})
    instruments: str = field(
        default="runs/instruments-nano", metadata={"help": "folder of the instruments' score on small programs"}
    )
    safety: str = field(default="runs/safety-nano", metadata={"help": "folder of the study of safety fine-tuning"})
    safety_texts: str = field(
        default="runs/safety-texts", metadata={"help": "folder of safety_texts.py, of a real model"}
    )
    continual: str = field(default="runs/continual-nano", metadata={"help": "folder of the continual study"})
    retrieval: str = field(default="runs/retrieval-nano", metadata={"help": "folder of the study of retrieval"})
    retrieval_pair: str = field(
        default="runs/retrieval-countries", metadata={"help": "folder of retrieval.py, of a pair of real models"}
    )
    continual_strengths: str = field(
        default="runs/continual-strengths", metadata={"help": "folder of the same with --develop true"}
    )
    continual_texts: str = field(
        default="runs/continual-texts", metadata={"help": "folder of the example of it on data sets"}
    )
    continual_stories: str = field(
        default="runs/continual-stories-nano", metadata={"help": "folder of continual_stories.py"}
    )
    continual_stories_strengths: str = field(
        default="runs/continual-stories-strengths", metadata={"help": "folder of the same with --develop true"}
    )
    organisms: str = field(default="runs/organisms-nano", metadata={"help": "folder of the study that scores verdicts"})
    compare_organisms: str = field(
        default="runs/compare-organisms", metadata={"help": "folder of the study that scores comparisons"}
    )
    stories: str = field(default="runs/stories-nano", metadata={"help": "folder of the study of stories"})
    real: str = field(default="runs/real", metadata={"help": "folder of the study of a real model"})
    written: str = field(
        default="runs/stories-micro-written",
        metadata={"help": "folder of write_stories.py, of a model of real stories"},
    )
    only: list[str] = field(
        default_factory=list,
        metadata={"help": "settings above whose tables are written, or code for the lists; all if none are named"},
    )

    def __post_init__(self) -> None:
        known = [CODE, *(each.name for each in fields(self) if each.name != "only")]
        if unknown := [name for name in self.only if name not in known]:
            raise ValueError(f"only: unknown {unknown[0]!r}, expected some of {', '.join(known)}")


FIVE_SEEDS = "--seeds 0 1 2 3 4"
CODE = "code"
"""What a block is made from that needs no file: the docstrings of what is there."""


@dataclass(frozen=True)
class Block:
    """A part of a README that is written from a file.

    Attributes:
        readme: where it stands.
        source: the setting that says from which file or folder it is made, or :data:`CODE`.
        write: makes it.
        picture: a picture in that folder which the READMEs show as well.
        page: the picture of that folder's page, which they show, too.
    """

    readme: str
    source: str
    write: Callable[[Any], str]
    picture: str | None = None
    page: str | None = None


SPEED = "recipes/benchmarks/README.md"
REPRODUCTION, SWEEP, TRACR, STORIES, SAFETY, CONTINUAL, REAL, RETRIEVAL = (
    f"ftmech_hf/studies/{name}/README.md"
    for name in ("pcfg", "sweep", "tracr", "tinystories", "safety", "continual", "real", "retrieval")
)
BLOCKS: dict[str, Block] = {
    "results": Block(REPRODUCTION, "reproduction", studies.results_block, picture="overview.png", page="report.png"),
    "real": Block("README.md", "real", real.real_block, picture="example.png"),
    "real pairs": Block(REAL, "real", real.real_pairs_block),
    "main results": Block("README.md", "reproduction", studies.main_block),
    "speed": Block(SPEED, "benchmark", benchmarks.speed_block),
    "speed on a GPU": Block(SPEED, "gpu_benchmark", benchmarks.gpu_speed_block),
    "accuracy": Block(SPEED, "accuracy_benchmark", benchmarks.accuracy_block),
    "data": Block(SPEED, "data_benchmark", benchmarks.data_block),
    "analysis": Block(SPEED, "analysis_benchmark", benchmarks.analysis_block),
    "explorer": Block(SPEED, "explorer_benchmark", benchmarks.explorer_block),
    "sweep": Block(SPEED, "sweep_benchmark", benchmarks.sweep_speed_block),
    "architectures": Block("ftmech_hf/activations/README.md", "architectures", architectures_block),
    "interop": Block("ftmech_hf/hub/README.md", "interop", benchmarks.interop_block),
    "grid": Block(SWEEP, "grid", studies.grid_block),
    "forgetting": Block(SWEEP, "forgetting", studies.forgetting_block),
    "lora": Block(SWEEP, "lora", studies.lora_block),
    "tracr": Block(TRACR, "tracr", studies.tracr_block),
    "tracr claims": Block(TRACR, "tracr", studies.tracr_claims_block),
    "instruments": Block(TRACR, "tracr", studies.instruments_block),
    "small programs": Block(TRACR, "instruments", programs.scores_block),
    "known directions": Block(TRACR, "instruments", programs.directions_block),
    "safety": Block(SAFETY, "safety", studies.claims_block),
    "safety of texts": Block(SAFETY, "safety_texts", safety.texts_block),
    "continual": Block(CONTINUAL, "continual", studies.claims_block),
    "continual methods": Block(CONTINUAL, "continual", continual.methods_block),
    "continual paper": Block(CONTINUAL, "continual", continual.paper_block),
    "continual sequences": Block(CONTINUAL, "continual", continual.sequences_block),
    "continual diagnoses": Block(CONTINUAL, "continual", continual.diagnoses_block),
    "continual strengths": Block(CONTINUAL, "continual_strengths", continual.strengths_block),
    "continual stories": Block(CONTINUAL, "continual_stories", continual.stories_block),
    "continual stories claims": Block(CONTINUAL, "continual_stories", continual.stories_claims_block),
    "continual stories strengths": Block(CONTINUAL, "continual_stories_strengths", continual.stories_strengths_block),
    "continual texts": Block(CONTINUAL, "continual_texts", continual.texts_block),
    "retrieval": Block(RETRIEVAL, "retrieval", studies.claims_block),
    "retrieval models": Block(RETRIEVAL, "retrieval", retrieval.models_block),
    "retrieval verdicts": Block(RETRIEVAL, "retrieval", retrieval.verdicts_block),
    "retrieval pair": Block(RETRIEVAL, "retrieval_pair", retrieval.pair_block),
    "organisms": Block("ftmech_hf/studies/organisms/README.md", "organisms", organisms_block),
    "compare organisms": Block(
        "ftmech_hf/studies/compare_organisms/README.md", "compare_organisms", compare_organisms_block
    ),
    "stories": Block(STORIES, "stories", studies.stories_block),
    "stories claims": Block(STORIES, "stories", studies.stories_claims_block),
    "written": Block(STORIES, "written", studies.written_block),
    "differences": Block(
        REPRODUCTION,
        CODE,
        partial(code.differences_block, name="reproduce", config="nano/reproduce.yaml", words=FIVE_SEEDS),
    ),
    "differences of the sweep": Block(
        SWEEP, CODE, partial(code.differences_block, name="sweep", config="nano/sweep_grid.yaml")
    ),
    "differences of programs": Block(
        TRACR, CODE, partial(code.differences_block, name="tracr", config="nano/tracr_grid.yaml")
    ),
    "differences of stories": Block(
        STORIES, CODE, partial(code.differences_block, name="tinystories", config="nano/stories.yaml", words=FIVE_SEEDS)
    ),
    "differences of safety": Block(
        SAFETY, CODE, partial(code.differences_block, name="safety", config="nano/safety.yaml")
    ),
    "differences of continual": Block(
        CONTINUAL, CODE, partial(code.differences_block, name="continual", config="nano/continual.yaml")
    ),
    "differences of retrieval": Block(
        RETRIEVAL, CODE, partial(code.differences_block, name="retrieval", config="nano/retrieval.yaml")
    ),
    "recipes": Block("recipes/README.md", CODE, code.recipes_block),
    "studies": Block("README.md", CODE, studies_block),
    "found": Block("ftmech_hf/studies/README.md", CODE, found_block),
    "floors": Block("ftmech_hf/README.md", CODE, code.floors_block),
    "package": Block("ftmech_hf/README.md", CODE, code.package_block),
}
"""Name of a block, which stands in the marks around it -> where it is and what it is made from."""


def marks(name: str) -> tuple[str, str]:
    """The lines between which a block stands."""
    return f"<!-- {name}: written by recipes/update_readme.py -->", f"<!-- end of {name} -->"


def replace_block(text: str, name: str, block: str) -> str:
    """Put ``block`` between its marks."""
    first, last = marks(name)
    before, rest = text.split(first)
    return f"{before}{first}\n{block}\n{last}{rest.split(last)[1]}"


def put_into(readme: Path, name: str, block: str) -> None:
    """Put ``block`` between its marks in a README, whose other blocks another process may be writing now.

    Raises:
        TimeoutError: one has been writing for :data:`WAIT_SECONDS`.
    """
    lock = FolderLock(readme)
    if not lock.acquire(timeout=WAIT_SECONDS):
        raise TimeoutError(f"another process is writing {readme}; try again when it is done")
    try:
        write_text(readme, replace_block(readme.read_text(encoding="utf-8"), name, block))
    finally:
        lock.release()


def find_source(place: Path) -> Any:
    """What is between a block's marks made from: what a file says, or a folder that is whole; None if there is none."""
    if place.suffix == ".json" and place.is_file():
        return json.loads(place.read_text(encoding="utf-8"))
    return place if any((place / made).is_file() for made in ("report.html", "manifest.json", RESULTS)) else None


def write_block(block: Block, source: Any) -> str:
    """What stands in a block: the table, and of which results it is, if it does not say that by itself."""
    text = block.write(source)
    if block.source == CODE or not isinstance(source, Path):
        return text
    run = FinishedRun(source)
    if f"`{run.env['hash']}`" in text:
        return text
    seeds = run.config["seeds"]
    named = f"Seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
    return f"{text}\n\n{named}; config hash `{run.env['hash']}`; {describe_versions(run.env)}."


def main(argv: list[str] | None = None) -> None:
    """Replace the blocks between the marks, copy the pictures, and take those of pages."""
    with clean_exit():
        (config,) = parse_config(UpdateReadmeConfig, argv=argv, description=__doc__)
        written: dict[Path, None] = {}
        # lists of the code last: some are made of the tables
        for name, block in sorted(BLOCKS.items(), key=lambda each: each[1].source == CODE):
            if config.only and block.source not in config.only:
                continue
            place = ROOT if block.source == CODE else Path(getattr(config, block.source))
            source = ROOT if block.source == CODE else find_source(place)
            if source is None:
                print(f"no {place}: its table stays as it is")
                continue
            readme = ROOT / block.readme
            put_into(readme, name, write_block(block, source))
            written[readme] = None
            if block.picture and (place / block.picture).is_file():
                (ROOT / PICTURES).mkdir(exist_ok=True)
                copy_file(place / block.picture, ROOT / PICTURES / block.picture)
                print(f"wrote {PICTURES}/{block.picture} from {place}")
            if block.page and find_chromium() is None:
                print(f"no Chromium: {PICTURES}/{block.page} stays as it is")
            elif block.page:
                take_picture_of_report(place / "report.html", ROOT / PICTURES / block.page)
                print(f"wrote {PICTURES}/{block.page} from {place}")
        for readme in written:
            print(f"wrote {readme.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
