"""Which models a page compares: those that are named, those of a run's folder, or those of the nano reproduction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ftmech_hf.explorer.edits import BASE, FINETUNED, REVERSED, FoundUnits
from ftmech_hf.explorer.examples import find_examples
from ftmech_hf.explorer.explorer import Explorer, ExplorerConfig
from ftmech_hf.explorer.reading import Probes
from ftmech_hf.jobs.saved_probes import load_probes
from ftmech_hf.jobs.scheduler import run_cells
from ftmech_hf.jobs.study import StudyPlan
from ftmech_hf.jobs.tokenizers import in_vocabulary_of
from ftmech_hf.models.identity import base_for
from ftmech_hf.models.loading import load_tokenizer, quiet_transformers
from ftmech_hf.models.vocabulary import untie_alike
from ftmech_hf.runs import FinishedRun
from ftmech_hf.tasks import PcfgShape

DEMO_RUNS = ("base-low", "finetuned-low", "reversed-low", "prune-rows")
"""What the demo needs of a seed of the reproduction; its probes are shown where they were made."""


@dataclass(frozen=True, kw_only=True)
class ExploreConfig(ExplorerConfig):
    """Which models to compare, and where the page is."""

    base: str | None = field(
        default=None, metadata={"place": "input", "help": "folder of the base, or its name on the Hub"}
    )
    finetuned: str | None = field(
        default=None, metadata={"place": "input", "help": "what it was fine-tuned into; may be an adapter"}
    )
    reversed: str | None = field(
        default=None, metadata={"place": "input", "help": "the fine-tuned model after reverse fine-tuning"}
    )
    pruned: str | None = field(
        default=None,
        metadata={"place": "input", "help": "run of prune.py on the fine-tuned model, whose units are zeroed"},
    )
    probes: str | None = field(
        default=None, metadata={"place": "input", "help": "run of probe.py on models called base and finetuned"}
    )
    run: str | None = field(
        default=None,
        metadata={
            "place": "input",
            "help": "take the models of this run: a diagnosis, a fine-tuning or what was tuned back, a pruning, or a "
            "reproduction",
        },
    )
    demo: bool = field(
        default=False, metadata={"help": "take the nano reproduction's models, and make what is missing"}
    )
    hub: bool = field(default=False, metadata={"manner": True, "help": "models may be taken from the Hub"})
    prompts: list[str] = field(
        default_factory=list, metadata={"help": "to begin with; those of the models' task if not given"}
    )
    space: str | None = field(
        default=None, metadata={"place": "output", "help": "write a folder for a Space of the Hub, and serve nothing"}
    )
    picture: str | None = field(
        default=None,
        metadata={
            "place": "output",
            "help": "write a picture of the page as a PNG, of playwright and Chromium, and stop",
        },
    )
    host: str = field(default="127.0.0.1", metadata={"manner": True, "help": "0.0.0.0 lets other machines in"})
    port: int = field(default=7860, metadata={"manner": True, "help": "of the page"})

    def __post_init__(self) -> None:
        super().__post_init__()
        named = self.base is not None or self.finetuned is not None
        if named + (self.run is not None) + self.demo != 1:
            raise ValueError("base: expected one of --base A --finetuned B, --run FOLDER and --demo true")
        if named and (self.base is None or self.finetuned is None):
            raise ValueError("finetuned: expected --base and --finetuned together")
        if self.probes is not None and self.space is not None:
            raise ValueError(f"probes: {self.probes}, expected none with space, which holds models alone")
        if self.picture is not None and self.space is not None:
            raise ValueError(f"picture: {self.picture}, expected none with space, which serves no page")
        if not 1 <= self.port < 2**16:
            raise ValueError(f"port: {self.port}, expected 1 to 65535")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The models of a page, by folder or name, and what is known of them.

    Attributes:
        models: ``base``, ``finetuned`` and maybe ``reversed`` -> folder or name.
        found: units that pruning found.
        probes: folder with the probes of a run.
        examples: prompts to begin with.
    """

    models: dict[str, str]
    found: FoundUnits | None = None
    probes: Path | None = None
    examples: Sequence[str] = ()


def find_pair(config: ExploreConfig, demo: Callable[[], StudyPlan]) -> Pair:
    """The models that a command line asks for.

    Args:
        config: the settings.
        demo: plans the nano reproduction of one seed; what it lacks of :data:`DEMO_RUNS` is made.

    Raises:
        ValueError: no such run, one that names no pair, or a model that is no folder and was not to be downloaded.
    """
    if config.demo:
        make_runs(plan := demo())
        pair = _of_seed(plan.folders)
    elif config.run is not None:
        pair = of_run(Path(config.run))
    else:
        pair = Pair(models={BASE: str(config.base), FINETUNED: str(config.finetuned)})
    if config.reversed is not None:
        pair = replace(pair, models={**pair.models, REVERSED: config.reversed})
    if config.pruned is not None:
        pair = replace(pair, found=_units_of(_finished(Path(config.pruned), "pruned")))
    if config.probes is not None:
        pair = replace(pair, probes=_finished(Path(config.probes), "probes").path / "probes")
    for role, name in pair.models.items():
        if not config.hub and not Path(name).exists():
            raise ValueError(f"{role}: no folder {name}; --hub true takes a model of that name from the Hub")
    return replace(pair, examples=config.prompts or pair.examples or find_examples(pair.models[BASE]))


def make_runs(plan: StudyPlan) -> None:
    """Make what is not there of what the demo needs.

    Raises:
        ValueError: a run failed.
    """
    wanted = {name for name in plan.folders if name.rpartition("-seed")[0] in DEMO_RUNS}
    cells = [cell for cell in plan.unfinished() if cell.name in wanted]
    if cells:
        print(f"{len(cells)} of {len(wanted)} runs of the demo are not there and are made, about a minute", flush=True)
        outcome = run_cells(cells, description="demo")
        if outcome.failed:
            raise ValueError(outcome.describe())


def _of_seed(folders: dict[str, Path]) -> Pair:
    """The pair of a reproduction's first seed, by the names of its runs."""
    seed = min(int(name.rpartition("-seed")[2]) for name in folders)
    at = {name.rpartition("-seed")[0]: folder for name, folder in folders.items() if name.endswith(f"-seed{seed}")}
    pruned, probes = FinishedRun.find(at["prune-rows"]), FinishedRun.find(at["probe"])
    return Pair(
        models={BASE: str(at["base-low"]), FINETUNED: str(at["finetuned-low"]), REVERSED: str(at["reversed-low"])},
        found=_units_of(pruned) if pruned else None,
        probes=probes.path / "probes" if probes else None,
    )


def _finished(folder: Path, setting: str) -> FinishedRun:
    if (found := FinishedRun.find(folder)) is None:
        raise ValueError(f"{setting}: {folder} holds no finished run")
    return found


def _units_of(run: FinishedRun) -> FoundUnits:
    if run.kind != "prune" or run.summary["unit"] == "weight":
        raise ValueError(
            f"pruned: {run.path} is a run of kind {run.kind}, expected one of prune.py on rows or larger units"
        )
    return FoundUnits(run.summary["unit"], run.summary["pruned"])


def locate(name: str, run: Path) -> str:
    """A model as a run names it, or where it lies beside that run if the run was made from another folder than this."""
    above = [] if Path(name).is_absolute() or Path(name).exists() else run.resolve().parents
    return next((str(each / name) for each in above if (each / name).is_dir()), name)


def of_run(folder: Path) -> Pair:
    """The pair that a run is about: of a diagnosis, a reproduction, a fine-tuning, or a pruning of a fine-tuned model.

    Raises:
        ValueError: it is about none.
    """
    if not (folder / "env.json").is_file():
        raise ValueError(f"run: {folder} holds no finished run")
    run = FinishedRun(folder)
    config = run.config
    if run.kind == "reproduce":
        return _of_seed(_reproduced(config))
    if run.kind == "diagnose":
        roles = [role for role in (BASE, FINETUNED, REVERSED) if config.get(role)]
        models = {role: locate(config[role], folder) for role in roles}
        rows = run.summary["evidence"].get("pruned_rows") or []
        asked = [each["question"] for each in run.summary["evidence"].get("examples", ())]
        return Pair(models=models, found=FoundUnits("row", rows) if rows else None, examples=asked)
    if run.kind == "prune":
        return replace(of_run(Path(locate(config["model"], folder))), found=_units_of(run))
    if run.kind == "finetune":
        return Pair(models={BASE: locate(config["model"], folder), FINETUNED: str(folder)})
    if run.kind == "reverse_finetune":
        below = of_run(Path(locate(config["model"], folder)))
        return replace(below, models={**below.models, REVERSED: str(folder)})
    raise ValueError(
        f"run: {folder} is a run of kind {run.kind}, expected diagnose, reproduce, finetune, reverse_finetune or prune"
    )


def _reproduced(config: dict[str, Any]) -> dict[str, Path]:
    from ftmech_hf.studies.pcfg.plan import ReproduceConfig, ReproducePlan

    def of(kind: type) -> Any:
        return kind(**{each.name: config[each.name] for each in fields(kind) if each.name in config})

    return ReproducePlan(of(ReproduceConfig), of(PcfgShape)).folders


def put_on(role: str, models: dict[str, str]) -> dict[str, Any]:
    """What a model of a pair is put on if it is an adapter: the pair's base, whatever it names.

    What was fine-tuned back may be an adapter on the fine-tuned model, which is no base: it stays on what it names.
    """
    return {"base": models[BASE]} if role == REVERSED else base_for(role, models)


def load_models(pair: Pair, config: ExplorerConfig) -> tuple[dict[str, PreTrainedModel], PreTrainedTokenizerBase]:
    """The models of a pair by their roles, adapters merged, all in the vocabulary of the base, and its tokenizer.

    Raises:
        ValueError: a model that cannot be loaded, or of another shape.
    """
    loaded = {
        role: config.load(name, attn_implementation="eager", **put_on(role, pair.models))
        for role, name in pair.models.items()
    }
    tokenizer = load_tokenizer(pair.models[BASE])
    untie_alike(loaded.values())
    for role, name in pair.models.items():
        if role != BASE:
            loaded[role] = in_vocabulary_of(loaded[BASE], tokenizer, role, name, loaded[role])
    return loaded, tokenizer


def open_explorer(pair: Pair, config: ExplorerConfig) -> Explorer:
    """Load a pair's models.

    Raises:
        ValueError: a model that cannot be loaded, or of another shape, or probes of another model.
    """
    loaded, tokenizer = load_models(pair, config)
    probes: dict[str, Probes] = {}
    for role, name in pair.models.items():
        if pair.probes is not None and (pair.probes / f"{role}.json").is_file():
            probes[role] = load_probes(pair.probes / role, name, positions=[-1], **put_on(role, pair.models))
    names = [Path(name).name for role, name in pair.models.items() if role != REVERSED]
    with quiet_transformers():  # of what it warns of once: inputs that hold the padding token, which none of ours is
        explorer = Explorer(
            loaded, tokenizer, config=config, found=pair.found, probes=probes,
            examples=pair.examples, title=" and ".join(names),
        )  # fmt: skip
        explorer.ask(pair.examples[0] if pair.examples else "a")
    return explorer
