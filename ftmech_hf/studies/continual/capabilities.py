"""What can a model do, by its own answers and by linear probes of its stream? All capabilities on the same rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ftmech_hf.analysis.probing import ANSWER, fit_probes
from ftmech_hf.jobs.job import ModelJobConfig, check_positive, finish_job, job
from ftmech_hf.jobs.publication import as_percent
from ftmech_hf.runs import FinishedRun, RunDir
from ftmech_hf.statistics.intervals import share_interval
from ftmech_hf.studies.continual.sequences import CAPABILITIES, NEVER_TUNED, TUNED, name_of, planted_shape
from ftmech_hf.tasks import Capability, PcfgConfig, PcfgShape, RowStream, for_capability
from ftmech_hf.tasks.floors import stream_floor
from ftmech_hf.training.evaluation import answer_accuracy
from ftmech_hf.training.loop import Progress

FINAL_NORM = "final norm"
"""What the unembedding reads: where the paper's probes are."""


@dataclass(frozen=True, kw_only=True)
class CapabilitiesConfig(ModelJobConfig):
    """Which model is asked, and how thoroughly."""

    model: str = field(default="runs/finetune", metadata={"place": "input", "help": "folder of a run, or on the Hub"})
    eval_rows: int = field(default=256, metadata={"help": "test rows of each capability"})
    probe_rows: int = field(default=0, metadata={"help": "rows that probes are fitted on; 0 for no probes"})
    probe_test_rows: int = field(default=512, metadata={"help": "rows that choose a layer, and as many that test"})
    planted: bool = field(default=False, metadata={"help": "ask what is tuned on texts with the shortcut, too"})
    split: Literal["test", "validation"] = field(
        default="test", metadata={"help": "rows that are asked: validation where something is chosen by the answers"}
    )
    output_dir: str = field(default="runs/capabilities", metadata={"place": "output", "help": "the run's folder"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "eval_rows", "probe_test_rows")
        if self.probe_rows < 0:
            raise ValueError(f"probe_rows: {self.probe_rows}, expected 0 or more")


def task_of(shape: PcfgShape, capability: Capability, correlation: float | None) -> PcfgConfig:
    """Rows about one capability; a shortcut is planted through the operand that they ask about."""
    if correlation is not None:
        shape = planted_shape(shape, capability)
    return for_capability(shape, capability, correlation)


@torch.no_grad()
def stream_at_answer(model: PreTrainedModel, token_ids: Tensor, *, batch_size: int = 256) -> dict[str, Tensor]:
    """The stream (B, D) where answers of rows (B, T) are predicted: embedding, all blocks but the last, final norm."""
    parts = []
    for rows in token_ids.split(batch_size):
        found = model(rows[:, :-2].to(model.device), output_hidden_states=True, use_cache=False, logits_to_keep=1)
        parts.append([state[:, -1].cpu() for state in found.hidden_states])
    sites = ["embedding", *(f"block {layer}" for layer in range(len(parts[0]) - 2)), FINAL_NORM]
    return {site: torch.cat(states) for site, states in zip(sites, zip(*parts, strict=True), strict=True)}


def measure_capabilities(config: CapabilitiesConfig, asked: PcfgShape, *, progress: Progress | None = None) -> RunDir:
    """Ask a model for everything that the sequences are about, and read what is never tuned from its stream."""
    models = {"model": config.model}
    with job("capabilities", config, asked, models=models, vocabulary=asked.vocabulary) as run:
        if run.finished:
            return run
        model = config.load(config.model)
        planted = TUNED if config.planted else ()
        sets = {str(each): task_of(asked, each, None) for each in CAPABILITIES}
        sets |= {name_of(each, 1.0): task_of(asked, each, 1.0) for each in planted}
        table: list[dict[str, Any]] = []
        floors = {}
        for number, (name, task) in enumerate(sets.items(), start=1):
            stream = RowStream(task, seed=config.seed, split=config.split)
            floors[name] = stream_floor(stream, config.eval_rows)
            right = answer_accuracy(model, torch.from_numpy(stream.rows(0, config.eval_rows).token_ids))
            table.append({"capability": name, "by": "behaviour", "site": "", "value": right,
                          "floor": floors[name].floor, "rows": config.eval_rows})  # fmt: skip
            if progress is not None:
                progress(number, len(sets), name)
        if config.probe_rows:
            for each in NEVER_TUNED:
                table += probe_rows(config, model, asked, each)
        summary = {row["capability"]: row["value"] for row in table if row["by"] == "behaviour"}
        return finish_job(run, table, summary, floors=floors)


def state_capabilities(run: FinishedRun, label: str) -> list[str]:
    """What a model answers about every capability of the sequences, for its card."""
    rows = run.table[run.table["by"] == "behaviour"].to_dict("records")
    said = "; ".join(
        f"`{row['capability']}` {100 * share.value:.1f} % ({100 * share.low:.1f} to {100 * share.high:.1f}; "
        f"{as_percent(row['floor'])})"
        for row in rows
        for share in [share_interval(round(row["value"] * row["rows"]), row["rows"])]
    )
    return [
        f"Right answers in {rows[0]['rows']} prompts of each capability (95 % interval of the rows; what one answer to "
        f"all would get): {said}. (seed {run.config['seed']})"
    ]


def probe_rows(
    config: CapabilitiesConfig, model: PreTrainedModel, shape: PcfgShape, capability: Capability
) -> Iterator[dict[str, Any]]:
    """Two rows of the table: a probe at the final norm, and one at the site that other rows choose.

    Deviation from the paper, whose probes are softmax regressions on unit vectors by AdamW at a rate that is chosen on
    a tenth of the rows: those here are fitted to convergence, on standardised activations.
    """
    task = task_of(shape, capability, None)
    sizes = {"probe": config.probe_rows, "validation": config.probe_test_rows, "test": config.probe_test_rows}
    ids = {split: torch.from_numpy(RowStream(task, seed=config.seed, split=split).rows(0, number).token_ids)
           for split, number in sizes.items()}  # fmt: skip
    sites = {split: stream_at_answer(model, rows) for split, rows in ids.items()}
    labels = {split: rows[:, -2].numpy() for split, rows in ids.items()}
    found = fit_probes(
        sites["probe"], labels["probe"], sites["test"], labels["test"], seed=config.seed, code=False,
        choose=(sites["validation"], {ANSWER: labels["validation"]}), num_tasks=0,
        device=model.device,
    )  # fmt: skip
    for place, score in ((FINAL_NORM, found.score(FINAL_NORM)), ("best", found.best())):
        yield {
            "capability": str(capability), "by": "probe", "site": place, "value": score.accuracy,
            "floor": score.majority, "rows": score.num_test, "shuffled": score.shuffled,
        }  # fmt: skip
