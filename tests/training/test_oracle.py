"""Training against the textbook: what a few steps do to the weights, and what is logged of them, computed by hand.

Nothing here calls the optimizers, schedules, losses or measures under test.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from ftmech_hf.jobs.training import FinetuneConfig, PretrainConfig, finetune, pretrain
from ftmech_hf.models.loading import load_model
from ftmech_hf.models.presets import build_model
from ftmech_hf.runs import RunDir, read_metrics
from ftmech_hf.tasks import Capability, PcfgConfig, RowStream, StoriesConfig, for_capability
from ftmech_hf.training.loop import fit, start_accelerator
from ftmech_hf.training.settings import TrainConfig
from tests.conftest import make_gpt2, make_llama

CONFIG = TrainConfig(
    steps=5, batch_size=8, lr=3e-3, muon_lr=0.013, weight_decay=0.3, adam_beta1=0.6, adam_beta2=0.9,
    warmup_fraction=0.6, final_lr_fraction=0.2, max_grad_norm=0.5, mixed_precision="no", num_evals=0, eval_rows=16,
    final_eval_rows=32,
)  # fmt: skip
"""Every number is far from its default and from the others, and each does something within these steps."""


GAP = 5e-4
"""How far rounding may carry a tensor from the textbook's, as a share of what training moved it."""


def trained(
    folder: Path,
    task: Any,
    config: TrainConfig,
    model: PreTrainedModel,
) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """What the loop makes of the model, and what it logs."""
    run = RunDir.open(folder, "pretrain", dataclasses.asdict(config))
    stream = RowStream(task, seed=config.seed, split="train")
    tests = {name: RowStream(each, seed=config.seed, split="test") for name, each in task.test_tasks().items()}
    try:
        fit(model, stream, tests, config, run, start_accelerator(config))
    finally:
        run.close()
    return {name: p.detach().clone() for name, p in model.named_parameters()}, read_metrics(run.working)


def rows_of(task: Any, split: str, start: int, stop: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(RowStream(task, seed=seed, split=split).rows(start, stop).token_ids)


def loss_by_hand(model: PreTrainedModel, rows: Tensor, objective: str) -> Tensor:
    log_p = model(rows).logits.log_softmax(-1)[:, :-1].gather(-1, rows[:, 1:, None])[..., 0]
    return -(log_p if objective == "next_token" else log_p[:, -2]).mean()  # ... = ANSWER <eos>


def factor_by_hand(step: int) -> float:
    """Three steps up to the peak, then two steps of a cosine down to 0.2 of it, which the run would end with."""
    return [1 / 3, 2 / 3, 1.0, 1.0, 0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi / 2))][step]


def orthogonal(matrix: Tensor) -> Tensor:
    wide = matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix
    x = wide.double() / wide.double().norm()
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return (x.mT if matrix.shape[0] > matrix.shape[1] else x).float()


def by_hand(model: PreTrainedModel, task: Any, config: TrainConfig) -> tuple[dict[str, Tensor], list[float]]:
    """Plain loop: weights after the last step, and the loss of each step."""
    c, losses = config, []
    weights = dict(model.named_parameters())
    first = {name: torch.zeros_like(p) for name, p in weights.items()}
    second = {name: torch.zeros_like(p) for name, p in weights.items()}
    for step in range(c.steps):
        loss = loss_by_hand(model, rows_of(task, "train", step * 8, step * 8 + 8, c.seed), c.objective)
        losses.append(float(loss.detach()))
        grads = dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))
        norm = math.sqrt(sum(float(g.square().sum()) for g in grads.values()))
        assert norm > c.max_grad_norm  # it clips
        factor = factor_by_hand(step)
        with torch.no_grad():
            for name, p in weights.items():
                g = grads[name] * c.max_grad_norm / norm
                if c.optimizer == "muon" and ".layers." in name and p.ndim == 2:
                    first[name] = 0.95 * first[name] + 0.05 * g
                    update = orthogonal(0.95 * first[name] + 0.05 * g) * max(1, p.shape[0] / p.shape[1]) ** 0.5
                    p.copy_(p * (1 - factor * c.muon_lr * c.weight_decay) - factor * c.muon_lr * update)
                elif c.optimizer == "sgd":
                    g = g + c.weight_decay * p
                    first[name] = 0.9 * first[name] + g
                    p.sub_(factor * c.lr * first[name])
                else:
                    first[name] = c.adam_beta1 * first[name] + (1 - c.adam_beta1) * g
                    second[name] = c.adam_beta2 * second[name] + (1 - c.adam_beta2) * g**2
                    m = first[name] / (1 - c.adam_beta1 ** (step + 1))
                    v = second[name] / (1 - c.adam_beta2 ** (step + 1))
                    p.copy_(p * (1 - factor * c.lr * c.weight_decay) - factor * c.lr * m / (v.sqrt() + 1e-8))
    return {name: p.detach() for name, p in weights.items()}, losses


def apart(ours: dict[str, Tensor], other: dict[str, Tensor], start: dict[str, Tensor]) -> float:
    """The largest difference of two trained models' weights in a tensor, as a share of what training moved there."""
    return max(float((ours[name] - other[name]).norm() / (other[name] - start[name]).norm()) for name in start)


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "sgd"])
@pytest.mark.parametrize(("objective", "parts", "seed"), [("next_token", 1, 0), ("answer_only", 2, 3)])
def test_steps_are_the_textbooks(
    tmp_path: Path, task: PcfgConfig, optimizer: Any, objective: Any, parts: int, seed: int
) -> None:
    settings = {"optimizer": optimizer, "objective": objective, "gradient_accumulation_steps": parts, "seed": seed}
    config = dataclasses.replace(CONFIG, **settings, eval_at=[1, 2, 3, 4, 5])
    start = {name: p.detach().clone() for name, p in make_llama(len(task.vocabulary)).named_parameters()}
    weights, lines = trained(tmp_path / "run", task, config, make_llama(len(task.vocabulary)))
    expected, losses = by_hand(make_llama(len(task.vocabulary)), task, config)
    assert [line["loss"] for line in lines[1:]] == pytest.approx(losses, rel=1e-4)
    assert apart(weights, expected, start) < GAP


def changes() -> list[dict[str, Any]]:
    """Each setting changed by little, or two of them exchanged."""
    each_of = {
        "adamw": [
            {"adam_beta1": 0.9, "adam_beta2": 0.6}, {"adam_beta1": 0.7}, {"adam_beta2": 0.95}, {"lr": 3.2e-3},
            {"objective": "answer_only"},
        ],
        "muon": [
            {"weight_decay": 0.1}, {"warmup_fraction": 0.4}, {"final_lr_fraction": 0.3}, {"seed": 1},
            {"muon_lr": 0.014}, {"muon_lr": CONFIG.lr},
        ],
        "sgd": [{"max_grad_norm": 0.45}, {"weight_decay": 0.1}],
    }  # fmt: skip
    return [{"optimizer": optimizer, **change} for optimizer, changed in each_of.items() for change in changed]


@pytest.mark.parametrize("change", changes(), ids=lambda change: "-".join(map(str, change.values())))
def test_the_check_above_sees_every_setting(tmp_path: Path, task: PcfgConfig, change: dict[str, Any]) -> None:
    """What must fail: the textbook with another setting. The gap to it is far beyond the rounding allowed above."""
    start = {name: p.detach().clone() for name, p in make_llama(len(task.vocabulary)).named_parameters()}
    config = dataclasses.replace(CONFIG, optimizer=change["optimizer"])
    expected, _ = by_hand(make_llama(len(task.vocabulary)), task, config)
    other, _ = trained(tmp_path / "run", task, dataclasses.replace(config, **change), make_llama(len(task.vocabulary)))
    assert apart(other, expected, start) > 10 * GAP


def test_adamw_decays_and_steps_by_its_own_rate_and_muon_by_its_own(tmp_path: Path, task: PcfgConfig) -> None:
    """A rate of next to nothing for one of the two leaves its weights, and only them, where they were."""
    for still, kind in (({"lr": 1e-30}, "adamw"), ({"muon_lr": 1e-30}, "muon")):
        model = make_llama(len(task.vocabulary))
        start = {name: p.detach().clone() for name, p in model.named_parameters()}
        weights, _ = trained(tmp_path / kind, task, dataclasses.replace(CONFIG, **still), model)
        for name, weight in weights.items():
            is_muons = ".layers." in name and weight.ndim == 2
            assert torch.equal(weight, start[name]) == (is_muons == (kind == "muon")), name


def accuracy_by_hand(model: PreTrainedModel, rows: Tensor) -> float:
    with torch.no_grad():
        return float((model.eval()(rows).logits[:, -3].argmax(-1) == rows[:, -2]).float().mean())


def document_loss_by_hand(model: PreTrainedModel, rows: Tensor) -> float:
    """Each document in a pass of its own; a mean over all predicted tokens."""
    total, number = 0.0, 0
    for row in rows.tolist():
        ends = [place for place, token in enumerate(row) if token == 1] + [row.index(0) if 0 in row else len(row)]
        for first, last in itertools.pairwise(ends):
            ids = torch.tensor([row[first:last]])
            if last - first > 1:
                with torch.no_grad():
                    logits = model.eval()(ids, use_cache=False).logits[0, :-1]
                total += float(F.cross_entropy(logits, ids[0, 1:], reduction="sum"))
                number += last - first - 1
    return total / number


def test_models_are_measured_without_dropout_on_the_first_rows_of_the_test_stream(tmp_path: Path) -> None:
    """Before training and after it, on as many rows as asked for: few in between and more at the end."""
    task = StoriesConfig(vocab_size=300, row_tokens=32, relations=1)
    config = dataclasses.replace(CONFIG, steps=2, objective="documents", eval_rows=4, final_eval_rows=12)
    trained_model = make_gpt2(300, dropout=0.3)
    _, lines = trained(tmp_path / "run", task, config, trained_model)
    assert [line["eval_rows"] for line in lines] == [4, 12]
    for line, model in zip(lines, (make_gpt2(300), trained_model), strict=True):
        for name, tests in task.test_tasks().items():
            rows = rows_of(tests, "test", 0, line["eval_rows"])
            assert line[f"loss/{name}"] == pytest.approx(document_loss_by_hand(model, rows), abs=2e-4), name
    for wrong in (rows_of(task, "train", 0, 12), rows_of(task, "test", 0, 4), rows_of(task, "test", 12, 24)):
        assert abs(document_loss_by_hand(trained_model, wrong) - lines[-1]["loss/all"]) > 2e-3
    with torch.no_grad():  # and dropout would show
        noisy = trained_model.train()(rows_of(task, "test", 0, 12)).logits
        assert not torch.allclose(noisy, trained_model.eval()(rows_of(task, "test", 0, 12)).logits, atol=0.1)


def test_looking_at_a_model_changes_nothing_of_its_training(tmp_path: Path, task: PcfgConfig) -> None:
    """Dropout is back on after an evaluation, and draws what it would have drawn."""
    found = {}
    for name, dropout, looks in (("often", 0.2, [1, 2, 3, 4]), ("once", 0.2, [5]), ("no dropout", 0.0, [5])):
        config = dataclasses.replace(CONFIG, eval_at=looks)
        model = make_gpt2(len(task.vocabulary), dropout=dropout).eval()
        found[name], _ = trained(tmp_path / name, task, config, model)
    assert all(torch.equal(found["often"][name], value) for name, value in found["once"].items())
    assert not any(
        torch.equal(found["no dropout"][name], value) for name, value in found["once"].items() if "weight" in name
    )


def test_dropout_is_drawn_anew_in_every_step_and_by_the_seed(tmp_path: Path, task: PcfgConfig) -> None:
    def masks(name: str, seed: int) -> list[Tensor]:
        found: list[Tensor] = []
        model = make_gpt2(len(task.vocabulary), dropout=0.5)
        model.transformer.drop.register_forward_hook(
            lambda module, given, output: found.append(output.detach() == 0) if module.training else None
        )
        trained(tmp_path / name, task, dataclasses.replace(CONFIG, steps=2, warmup_fraction=0.0, seed=seed), model)
        return found

    first, again, other = masks("first", 0), masks("again", 0), masks("other", 1)
    assert len(first) == 2
    assert all(0.4 < float(mask.float().mean()) < 0.6 for mask in first)
    assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))
    assert not torch.equal(*first)
    assert not any(torch.equal(*pair) for pair in zip(first, other, strict=True))


ONE_STEP: dict[str, Any] = {
    "steps": 1, "batch_size": 64, "objective": "answer_only", "optimizer": "sgd", "lr": 0.5, "weight_decay": 0.0,
    "max_grad_norm": 1e9,
    "warmup_fraction": 0.0, "mixed_precision": "no", "num_evals": 0, "eval_rows": 100, "final_eval_rows": 300,
}  # fmt: skip


def accuracies(model: PreTrainedModel, task: PcfgConfig, split: str, number: int, seed: int) -> dict[str, float]:
    return {
        f"accuracy/{name}": accuracy_by_hand(model, rows_of(each, split, 0, number, seed))
        for name, each in task.test_tasks().items()
    }


def check_stage(folder: Path, start: PreTrainedModel, task: PcfgConfig, split: str, seed: int) -> None:
    """One step of SGD on the first rows of the stream, and the metrics on the test rows of the same seed."""
    before = accuracies(start, task, "test", 100, seed)
    loss_by_hand(start, rows_of(task, split, 0, 64, seed), "answer_only").backward()
    with torch.no_grad():
        for p in start.parameters():
            p.sub_(0.5 * p.grad)  # type: ignore[operator]
    model = load_model(str(folder))
    for (name, one), other in zip(model.named_parameters(), start.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5, msg=name)
    first, last = ({key: value for key, value in line.items() if "/" in key} for line in read_metrics(folder))
    assert first == pytest.approx(before, abs=0.011)  # a row may go either way
    assert last == pytest.approx(accuracies(model, task, "test", 300, seed), abs=0.004)
    for wrong in ((split, seed), ("test", 1 - seed)):  # what must fail: rows it was trained on, another seed's
        assert last != pytest.approx(accuracies(model, task, wrong[0], 300, wrong[1]), abs=0.004)


def test_each_stage_draws_its_own_rows_by_its_seed_and_is_tested_on_none_of_them(
    tmp_path: Path, task: PcfgConfig
) -> None:
    place: dict[str, Any] = {"n_layer": 1, "n_embd": 16, "n_head": 2}
    shape, base = PretrainConfig(**place).shape, tmp_path / "base-1"
    for seed in (0, 1):
        train = TrainConfig(**ONE_STEP, seed=seed)
        pretrain(PretrainConfig(**place, output_dir=str(tmp_path / f"base-{seed}")), task, train)
        start = build_model(shape, len(task.vocabulary), seed=seed)
        check_stage(tmp_path / f"base-{seed}", start, task, "train", seed)
    tuned = for_capability(task, Capability("count", "b"), 0.5)
    for split in ("finetune", "reverse", "train"):
        folder = tmp_path / split
        finetune(FinetuneConfig(model=str(base), output_dir=str(folder), split=split), tuned, train)  # type: ignore[arg-type]
        check_stage(folder, load_model(str(base)), tuned, split, 1)
    ends = [load_file(tmp_path / name / "model.safetensors")["lm_head.weight"] for name in ("finetune", "reverse")]
    assert not torch.allclose(*ends, atol=1e-4)
