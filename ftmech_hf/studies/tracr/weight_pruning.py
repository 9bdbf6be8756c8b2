"""What hides the first answer of a fine-tuned compiled program: which single weights, and where it looks.

Jain et al. (arXiv 2311.12786, App. D, Algorithm 3) prune single weights of their compiled models, K at once, those with
the largest gradient x weight for the loss on the answers of pretraining; see :mod:`ftmech_hf.analysis.pruning`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ftmech_hf.analysis.attention import attention_to_groups
from ftmech_hf.jobs.behavior import from_task
from ftmech_hf.jobs.job import JobConfig, check_positive, finish_job, job
from ftmech_hf.jobs.pruning_sweep import prune_for
from ftmech_hf.models.loading import load_model
from ftmech_hf.runs import RunDir
from ftmech_hf.tasks import RowStream
from ftmech_hf.tasks.letters import CounterConfig, LettersConfig
from ftmech_hf.tasks.programs import ANSWER_POSITION
from ftmech_hf.training.loop import Progress


@dataclass(frozen=True, kw_only=True)
class DissectConfig(JobConfig):
    """Which model to take apart."""

    task: str = field(default="counter", metadata={"help": "counter or max_identifier"})
    model: str = field(
        default="runs/tracr", metadata={"place": "input", "help": "folder of a run: a compiled program, fine-tuned"}
    )
    sizes: list[int] = field(
        default_factory=lambda: [0, 1, 2, 3, 5, 8, 11, 15], metadata={"help": "numbers of weights to zero"}
    )
    num_random: int = field(default=3, metadata={"help": "random choices of as many weights, at the best number"})
    score_rows: int = field(default=256, metadata={"help": "rows the importance is computed on"})
    eval_rows: int = field(default=256, metadata={"help": "rows per test set"})
    output_dir: str = field(default="runs/dissect", metadata={"place": "output", "help": "the run's folder"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "num_random", "score_rows", "eval_rows")
        if not self.sizes or min(self.sizes) < 0 or max(self.sizes) == 0:
            raise ValueError(f"sizes: {self.sizes}, expected numbers of 0 or more, one of them above 0")


def dissect(config: DissectConfig, task: LettersConfig, *, progress: Progress | None = None) -> RunDir:
    """Zero single weights for the answer of pretraining, and sum up attention of the position that answers."""
    with job("dissect", config, task, models={"model": config.model}, vocabulary=task.vocabulary) as run:
        if run.finished:
            return run
        model = load_model(config.model, device="cpu")  # a few hundred weights
        plain = dataclasses.replace(task, operand=task.base_operand, correlation=None)
        behavior = from_task(
            plain, tests={"o_pt": plain, **task.test_tasks()}, seed=config.seed, train_rows=config.score_rows,
            test_rows=config.eval_rows, name="o_pt",
        )  # fmt: skip
        result = prune_for(
            model, behavior, unit="weight", sizes=config.sizes, num_random=0, num_random_at_best=config.num_random,
            seed=config.seed, progress=progress,
        ).pruning  # fmt: skip
        sets = ["validation", *behavior.tests]
        before = {e["num_pruned"]: e for e in result.curve if e["method"] == "importance"}
        summary = {
            **result.summary(),
            "before": {name: before[0][name] if 0 in before else None for name in sets},
            "one_weight": {name: before[1][name] if 1 in before else None for name in sets},
            "best": {name: result.at_best("importance", name) for name in sets},
            "random": result.at_best("random", "o_pt"),
            "rows": config.eval_rows,
            **_attention(model, task, config),
        }
        return finish_job(run, result.rows(), summary, floors=behavior.floors)


@torch.no_grad()
def _attention(model: PreTrainedModel, task: LettersConfig, config: DissectConfig) -> dict[str, Any]:
    """Attention of the answer's position, summed over kinds of letters, and as it is on one row."""
    rows = RowStream(dataclasses.replace(task, correlation=None), seed=config.seed, split="test").rows(0, 64)
    token_ids = torch.from_numpy(rows.token_ids)[:, :-2]
    attentions = model(token_ids, output_attentions=True).attentions
    patterns = torch.stack([pattern[:, :, ANSWER_POSITION] for pattern in attentions])
    place = {word: number for number, word in enumerate(task.vocabulary)}
    groups = {task.base_operand: task.base_operand, task.correlated_operand: task.correlated_operand}
    if isinstance(task, CounterConfig):
        result = attention_to_groups(patterns, token_ids, {name: [place[word]] for name, word in groups.items()})
        mass = [
            {name: float(result.mass[layer, 0, number]) for number, name in enumerate(result.groups)}
            for layer in range(len(patterns))
        ]
    else:
        mass = [_mass_by_rank(pattern[:, 0], token_ids, task) for pattern in patterns]
    whole = [attention[0, 0].double().round(decimals=3).tolist() for attention in attentions]
    return {"attention": mass, "pattern": whole, "tokens": [task.vocabulary[word] for word in token_ids[0].tolist()]}


def _mass_by_rank(pattern: Tensor, token_ids: Tensor, task: LettersConfig) -> dict[str, float]:
    """Mean attention (B, T) to the letters of the two ranks, and to all else."""
    ranks = token_ids[:, 1:].argsort(-1).argsort(-1) + 1
    mass = {
        name: float((pattern[:, 1:] * (ranks == int(name))).sum(-1).mean())
        for name in (task.base_operand, task.correlated_operand)
    }
    return {**mass, "other": 1 - sum(mass.values())}
