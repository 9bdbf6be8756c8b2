"""One stage of training: a model and rows become a run folder, whatever the stage is called."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
import yaml
from accelerate import DistributedType
from accelerate.utils import broadcast_object_list
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ftmech_hf.config import Settings, tell
from ftmech_hf.jobs.trained_model import note_bytes, note_floors, save_finished, save_snapshot
from ftmech_hf.models.tokenization import task_tokenizer
from ftmech_hf.runs import RunDir, bytes_in, check_disk_space, is_finished, noted, working_folder
from ftmech_hf.tasks import RowStream, Task
from ftmech_hf.training.inheritance import (
    Inheritance,
    check_inherited,
    inherited_bytes,
    save_inheritance,
)
from ftmech_hf.training.keeping import REGULARIZERS, Keeping, regularizers_of
from ftmech_hf.training.kept_rows import ReplayStream, shuffled_answers
from ftmech_hf.training.loop import Progress, fit, start_accelerator
from ftmech_hf.training.objectives import OBJECTIVES, Batch, Documents, Objective
from ftmech_hf.training.objectives.documents import check_documents_apart
from ftmech_hf.training.settings import TrainConfig


def check_suits(objective: Objective, train: TrainConfig, task: Task, name: str) -> None:
    """Make sure that an objective is the one that is named, and that rows have what it needs.

    Raises:
        ValueError: it is not, or they have not; names the objectives that suit.
    """
    if type(objective) is not OBJECTIVES[train.objective]:
        raise ValueError(f"objective: {train.objective}, but the one given is {type(objective).__name__}")
    if objective.needs not in task.offers:
        expected = " or ".join(each for each, kind in OBJECTIVES.items() if kind.needs in task.offers)
        raise ValueError(f"objective: {train.objective} does not suit the rows of task {name}: {expected}")
    if train.eval_near is not None and "accuracy" not in task.measures:
        raise ValueError(f"eval_near: {train.eval_near}, but no accuracy is measured of the rows of task {name}")


def bytes_on_disk(model: PreTrainedModel, snapshots: int, has_adapter: bool) -> int:
    """How much a run takes on the disk at most: checkpoints of what is trained, snapshots, and the model at the end.

    Three checkpoints of weights and two moments each exist for a moment. A snapshot is the model with what is frozen
    of it, as the end is; of a model with an adapter both are the adapter alone.
    """
    sizes = [(p.numel() * p.element_size(), p.requires_grad) for p in model.parameters()]
    trained = sum(size for size, is_trained in sizes if is_trained)
    saved = trained if has_adapter else sum(size for size, _ in sizes)
    return 9 * trained + (1 + snapshots) * saved


@dataclass(frozen=True)
class Stage:
    """What is trained on what, and how.

    Attributes:
        name: the kind of the run.
        split: random stream of the training rows.
        task: makes the rows.
        train: how.
        objective: what is minimised.
        settings: all of them.
        inputs: label -> hash of what was read, but for the task's own.
        tokenizer: of the model, if it is not the task's.
        earlier: what the runs left that the model comes from.
        anchor: the model that features are compared with, if it is not the one that training starts from.
    """

    name: str
    split: str
    task: Task
    train: TrainConfig
    objective: Objective
    settings: Settings
    inputs: Mapping[str, str]
    tokenizer: PreTrainedTokenizerBase | None = None
    earlier: Inheritance = field(default_factory=Inheritance)
    anchor: PreTrainedModel | None = None

    def run(self, model: PreTrainedModel, fresh: bool, progress: Progress | None) -> RunDir:
        """Train the model; a finished run is found again, an interrupted one goes on."""
        task, train, settings = self.task, self.train, self.settings
        check_suits(self.objective, train, task, str(settings["task"]))
        inputs = {**self.inputs, **task.inputs()}
        stream = self._stream()
        keeping = Keeping(task, self.earlier, self.anchor)
        check_inherited(model, train, self.earlier)
        regularizers_of(train, keeping)  # what cannot be made shows here, too
        if isinstance(self.objective, Documents):
            check_documents_apart(model)
        tests = {name: RowStream(each, seed=train.seed, split="test") for name, each in task.test_tasks().items()}
        for each in (stream, *tests.values()):
            each.rows(0, 1)  # an impossible correlation shows here, before anything is written
        path = Path(str(settings["output_dir"]))
        if train.max_steps is not None:
            path = _dry_run_folder(path)
            settings, fresh = settings | {"output_dir": str(path)}, True
        # An interrupted run goes on in the precision it began with, also on a machine where ``auto`` is another.
        began_with = None if fresh else noted(working_folder(path), "mixed_precision")
        accelerator = start_accelerator(train, path.with_name(path.name + "-tracker"), precision=began_with)
        if accelerator.distributed_type == DistributedType.FSDP:
            self._check_sharded()
        left = inherited_bytes(model, stream, train, self.earlier, train.steps * train.batch_size)
        if fresh or not is_finished(path):
            needed = bytes_on_disk(model, len(train.snapshots), self._has_adapter) + left
            check_disk_space(path, needed - (0 if fresh else bytes_in(working_folder(path))))
        is_main = accelerator.is_main_process
        opened = RunDir.open(path, self.name, settings, inputs=inputs, fresh=fresh, is_main=is_main)
        with contextlib.closing(opened) as run:
            run.finished = broadcast_object_list([run.finished])[0]  # others than the main process have not looked
            if run.finished:
                _tell_precision(run, accelerator.mixed_precision)
                return run
            started, tokenizer = time.monotonic(), self.tokenizer or task_tokenizer(task)
            model = fit(
                model, stream, tests, train, run, accelerator, progress,
                lambda step, model: save_snapshot(run, step, model, tokenizer), self.objective, keeping,
            )  # fmt: skip
            if run.is_main:
                self._warn(run, model, stream)
                note_bytes(run, tests)
                note_floors(run, tests)
                if train.max_steps is None:
                    save_inheritance(run.working, model, stream, train, train.seed, self.earlier)
                save_finished(run, model, task, train, time.monotonic() - started, self.tokenizer)
            run.finish()
        accelerator.wait_for_everyone()
        return run

    def _stream(self) -> RowStream:
        stream, kept = RowStream(self.task, seed=self.train.seed, split=self.split), self.earlier.rows
        if not self.train.replay_share:
            return stream
        assert kept is not None
        kept = shuffled_answers(kept, self.train.seed) if self.train.replay_shuffled else kept
        return ReplayStream(stream, kept, self.train.replay_share)

    @torch.no_grad()
    def _warn(self, run: RunDir, model: PreTrainedModel, stream: RowStream) -> None:
        """Say and note what the objective has to say of the model, if that is anything."""
        if type(self.objective).at_an_end is Objective.at_an_end or not self.train.last_step:
            return
        size, ended = self.train.batch_size, 0.0
        last = self.train.last_step * size
        part = max(1, size // self.train.gradient_accumulation_steps)  # what fits into memory in training
        for start in range(last - size, last, part):
            batch = Batch.of(stream.rows(start, min(start + part, last))).to(model.device)
            shown = self.objective.shown(batch)
            ended += float(self.objective.at_an_end(model(shown.token_ids, **shown.options).logits, batch).sum())
        if ended:
            warning = self.objective.warning(ended / size)
            run.note(warning=warning)
            tell(warning)

    @property
    def _has_adapter(self) -> bool:
        return bool(self.settings.get("adapter", "none") != "none")

    def _check_sharded(self) -> None:
        """Refuse what a sharded model cannot do."""
        if self._has_adapter:
            raise ValueError(
                f"adapter: {self.settings['adapter']} is not sharded; use recipes/accelerate/ddp.yaml, its optimizer "
                "state is small"
            )
        if on := [name for name in (*REGULARIZERS, "average", "keep_rows", "keep_fisher") if getattr(self.train, name)]:
            names = ", ".join(on)
            raise ValueError(f"{names}: their copy of the model is not sharded; use recipes/accelerate/ddp.yaml")
        if self.objective.needs_reference:
            raise ValueError(
                f"objective: {self.train.objective} keeps a copy of the model that is not sharded; "
                "use recipes/accelerate/ddp.yaml"
            )


def _dry_run_folder(path: Path) -> Path:
    """Where a dry run goes, which always replaces the one before it.

    Raises:
        ValueError: a run lies there that is no dry run.
    """
    folder = path.with_name(path.name + "-dry-run")
    for place in (folder, working_folder(folder)):
        config = place / "config.yaml"
        if config.is_file() and (yaml.safe_load(config.read_text(encoding="utf-8")) or {}).get("max_steps") is None:
            raise ValueError(f"output_dir: {path}, but {place}, the place of its dry run, holds a run that is none")
    return folder


def _tell_precision(run: RunDir, here: str) -> None:
    """Say so where a finished run that was found was computed in another precision than it would be here."""
    there = noted(run.path, "mixed_precision")
    if run.is_main and there not in (None, here):
        tell(
            f"mixed_precision: auto was {there} when {run.path} was made and would be {here} here; "
            "--fresh makes it again"
        )
