"""The instruments tried on a mechanism that is known: do they find the compiled circuit, and nothing else?

The same is done on the program as it was compiled and with noise on its weights, because an instrument that is fooled
by noise of a ten-thousandth is worth knowing about.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ftmech_hf.activations import TracedModel, intervene, model_blocks
from ftmech_hf.activations.units import find_units
from ftmech_hf.analysis.probing import fit_probes
from ftmech_hf.analysis.pruning import gradient_importance, pruned
from ftmech_hf.analysis.recovery import RecoveryResult, recovery
from ftmech_hf.jobs.compiling import add_noise
from ftmech_hf.jobs.job import JobConfig, finish_job, job
from ftmech_hf.models.compiled import CompiledModel
from ftmech_hf.models.conversion import load_program
from ftmech_hf.runs import RunDir
from ftmech_hf.tasks import RowStream
from ftmech_hf.tasks.letters import LettersConfig
from ftmech_hf.tasks.programs import ANSWER_POSITION
from ftmech_hf.training.evaluation import answer_logits
from ftmech_hf.training.loop import Progress
from ftmech_hf.training.objectives import answer_only_loss

EFFECT = 0.01
"""A part matters if changing it changes more than this share of the answers."""

WRITES = {
    # program -> what its blocks write, in the order in which they run: (site, layer)
    "counter": [("mlp_act", 0), ("attn_out", 1), ("mlp_act", 1), ("attn_out", 2)],
    "max_identifier": [("attn_out", 0), ("mlp_act", 0), ("mlp_act", 1), ("attn_out", 2)],
}
"""The circuits of the two programs, as tracr lays them out; ``attn_out`` 0 or 1 and ``mlp_act`` 2 are empty.

counter: a flag on every a; attention of the asking position to the flags; their count; a copy of it into the answer.
max_identifier: attention to earlier letters; each letter's place; a flag on the fifth; attention to it.
"""

EVERYWHERE = {"counter": 1, "max_identifier": 3}
"""How many of these are used at every letter, because something later attends to them; the rest where the answer is."""

ANSWER_IN = {
    "counter": ["attn_out 1", "resid_post 1", "attn_out 2", "resid_post 2"],
    "max_identifier": ["attn_out 2", "resid_post 2"],
}
"""Where the answer is at the position that gives it. The counter's attention writes 1 / (count + 1)."""


@dataclass(frozen=True, kw_only=True)
class KnownConfig(JobConfig):
    """On what the instruments are tried."""

    task: str = field(default="counter", metadata={"help": "counter or max_identifier"})
    noise: list[float] = field(
        default_factory=lambda: [0.0, 1e-4], metadata={"help": "standard deviations of the noise on the weights"}
    )
    fit_rows: int = field(default=2000, metadata={"help": "rows a probe is fitted on"})
    rows: int = field(default=256, metadata={"help": "rows that a change of the model is tried on"})
    output_dir: str = field(default="runs/known", metadata={"place": "output", "help": "the run's folder"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.noise or min(self.noise) < 0:
            raise ValueError(f"noise: {self.noise}, expected numbers of 0 or more")
        if self.rows < 2 or self.fit_rows < 2:
            raise ValueError(f"rows: {self.rows}, fit_rows: {self.fit_rows}, expected at least 2")


def try_instruments(config: KnownConfig, task: LettersConfig, *, progress: Progress | None = None) -> RunDir:
    """Probing, patching, ablation, gradient x weight and weight change on the program of ``task.base_operand``."""
    with job("known", config, task) as run:
        if run.finished:
            return run
        rows: list[dict[str, Any]] = []
        probes: dict[str, dict[str, float]] = {}
        for number, noise in enumerate(config.noise):
            trial = _Trial(config, task, noise)
            found, probes[str(noise)] = trial.probing()
            results = {"probing": found, **trial.weights()}
            results["patching"] = trial.patching()
            rows += [{"instrument": name, "noise": noise, **result.summary()} for name, result in results.items()]
            if progress is not None:
                progress(number + 1, len(config.noise), "")
        return finish_job(run, rows, {"program": task.program_name, "probes": probes, "recovery": rows})


class _Trial:
    """One program with one amount of noise, and the rows it is tried on."""

    def __init__(self, config: KnownConfig, task: LettersConfig, noise: float) -> None:
        self.config, self.task, self.noise = config, task, noise
        self.clean, _ = load_program(task.program())
        self.model, _ = load_program(task.program())
        add_noise(self.model, noise, config.seed)
        self.fit = RowStream(task, seed=config.seed, split="probe").rows(0, config.fit_rows)
        self.test = RowStream(task, seed=config.seed, split="test").rows(0, config.rows)
        self.token_ids = torch.from_numpy(self.test.token_ids)
        with torch.no_grad():
            self.answers = answer_logits(self.model, self.token_ids).argmax(-1)

    @torch.no_grad()
    def changed(self) -> float:
        """Share of the answers that are not what they were."""
        now = answer_logits(self.model, self.token_ids).argmax(-1)
        return float((now != self.answers).float().mean())

    def probing(self) -> tuple[RecoveryResult, dict[str, float]]:
        """A probe for the answer at every site of the answer's position, and how far each is above guessing."""
        traced, sites = TracedModel(self.model), ("resid_pre", "attn_out", "resid_post")
        read: list[dict[str, Tensor]] = []
        for token_ids in (torch.from_numpy(self.fit.token_ids), self.token_ids):
            found = traced.collect(token_ids[:, :-2], sites, positions=ANSWER_POSITION)
            named = {f"{site} {layer}": found[site, layer] for layer in range(traced.num_layers) for site in sites}
            read.append(
                {name: value for name, value in named.items() if not name.startswith("resid_pre") or "0" in name}
            )
        result = fit_probes(
            read[0], self.fit.label, read[1], self.test.label, seed=self.config.seed, num_shuffles=1, code=False
        )
        guess = {score.site: max(score.majority, score.shuffled) for score in result.scores}
        accuracy = {score.site: score.accuracy for score in result.scores}
        above = {site: (value - guess[site]) / (1 - guess[site]) for site, value in accuracy.items()}
        return recovery(above, set(ANSWER_IN[self.task.program_name]), above=0.5), accuracy

    def patching(self) -> RecoveryResult:
        """Every (site, layer, position) in turn gets the value it has on another row."""
        writes, length = WRITES[self.task.program_name], self.token_ids.shape[1] - 2
        order = torch.arange(len(self.token_ids)).roll(1)
        scores: dict[tuple[str, int, int], float] = {}
        for layer in range(len(self.model.blocks)):
            for site in ("attn_out", "mlp_act"):
                for position in range(1, length):

                    def swap(value: Tensor, position: int = position) -> Tensor:
                        swapped = value.clone()
                        swapped[:, position] = value[order, position]
                        return swapped

                    with intervene(self.model, {(site, layer): swap}):
                        scores[site, layer, position] = self.changed()
        everywhere = EVERYWHERE[self.task.program_name]
        known = {(*place, position) for place in writes[:everywhere] for position in range(1, length)}
        known |= {(*place, ANSWER_POSITION) for place in writes[everywhere:]}
        return recovery(scores, known, above=EFFECT)

    def weights(self) -> dict[str, RecoveryResult]:
        """Rows of weight matrices: zeroed one by one, ranked by gradient x weight, compared with another program's."""
        units, known = find_units(self.model, "row"), self._used_rows()
        ablated = {}
        for name, group in units.items():
            for row in range(group.num_units):
                kept = torch.ones(group.num_units, dtype=torch.bool)
                kept[row] = False
                with pruned(units, {name: kept}):
                    ablated[name, row] = self.changed()
        importance = gradient_importance(units, lambda rows: answer_only_loss(self.model, rows), self.token_ids)
        gradient = {
            (name, row): abs(float(score)) for name, scores in importance.items() for row, score in enumerate(scores)
        }
        return {
            "ablation of rows": recovery(ablated, known, above=EFFECT),
            "gradient x weight": recovery(gradient, known),
            "weight change": self._weight_change(),
        }

    def _used_rows(self) -> set[tuple[str, int]]:
        """Rows of the program as it was compiled that put out anything but 0 on these texts."""
        used: set[tuple[str, int]] = set()
        handles = []
        for block, module in model_blocks(self.clean):
            for name, part in module.named_modules():
                if isinstance(part, torch.nn.Linear):

                    def note(module: torch.nn.Module, args: Any, output: Tensor, name: str = f"{block}.{name}") -> None:
                        used.update((name, row) for row in (output != 0).flatten(0, -2).any(0).nonzero()[:, 0].tolist())

                    handles.append(part.register_forward_hook(note))
        with torch.no_grad():
            answer_logits(self.clean, self.token_ids)
        for handle in handles:
            handle.remove()
        return used

    def _weight_change(self) -> RecoveryResult:
        """The program that answers about the other operand differs in rows that are known; noise is added to both."""
        other, _ = load_program(self.task.program(self.task.correlated_operand))
        known = {part for part, size in _row_distances(self.clean, other).items() if size > 0}
        add_noise(other, self.noise, [self.config.seed, 1])
        return recovery(_row_distances(self.model, other), known)


def _row_distances(first: CompiledModel, second: PreTrainedModel) -> Mapping[tuple[str, int], float]:
    ours, theirs = (find_units(model, "row") for model in (first, second))
    return {
        (name, row): float(size)
        for name in ours
        for row, size in enumerate((ours[name].weight - theirs[name].weight).detach().norm(dim=1))
    }
