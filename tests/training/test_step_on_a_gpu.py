"""Steps on a GPU: none waits, what is captured or compiled is what it would be, and a run goes on."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ftmech_hf.runs import RunDir, read_metrics
from ftmech_hf.tasks import RowStream, Task
from ftmech_hf.training import loop
from ftmech_hf.training.inheritance import Inheritance
from ftmech_hf.training.keeping import Keeping
from ftmech_hf.training.kept_rows import ReplayStream
from ftmech_hf.training.loop import fit, start_accelerator
from ftmech_hf.training.objectives import OBJECTIVES
from ftmech_hf.training.step import CapturedStep
from tests.conftest import make_gpt2
from tests.training.test_step import CONFIG, PCFG, STORIES, TASKS, WHOLE, check_alike, ragged, steps_on, train

__all__ = ["ragged"]  # a fixture

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype:UserWarning"),
]


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_step_on_a_gpu_waits_for_nothing(name: str, optimizer: Any) -> None:
    objective = OBJECTIVES[name]()
    config = dataclasses.replace(CONFIG, steps=4, optimizer=optimizer)
    for number, take in enumerate(steps_on(torch.device("cuda"), objective, TASKS[objective.needs], config)):
        torch.cuda.set_sync_debug_mode("error" if number >= 2 else "default")
        try:
            take()
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", ["next_token", "answer_only", "own_answers"])
def test_nothing_waits_on_a_gpu_for_what_keeps_a_model(name: str, ragged: Task) -> None:
    kept = RowStream(ragged, seed=1, split="train").rows(0, 6)
    assert kept.answers is not None
    logits = torch.zeros(int(kept.answers[:, 1:].sum()), 300)
    config = dataclasses.replace(
        CONFIG, steps=4, l2sp=1.0, ldifs=1.0, lfl=1.0, lwf=1.0, der=1.0, replay_share=0.5,
        gradient_accumulation_steps=1,
    )  # fmt: skip
    keeping = Keeping(task=ragged, earlier=Inheritance(rows=kept, logits=logits))
    stream = ReplayStream(RowStream(ragged, seed=0, split="finetune"), kept, 0.5)
    steps = steps_on(
        torch.device("cuda"), OBJECTIVES[name](), ragged, config, stream=stream, keeping=keeping, vocabulary=300
    )
    for number, take in enumerate(steps):
        torch.cuda.set_sync_debug_mode("error" if number >= 2 else "default")
        try:
            take()
        finally:
            torch.cuda.set_sync_debug_mode("default")


CUDA_CASES = [("muon", PCFG, "next_token"), ("adamw", PCFG, "answer_only"), ("adamw", STORIES, "documents")]
LONGER = dataclasses.replace(WHOLE, steps=30, num_evals=6, checkpoint_every=12)


@pytest.mark.parametrize(("optimizer", "task", "objective"), CUDA_CASES, ids=["muon", "answers", "documents"])
def test_captured_steps_are_the_eager_ones(tmp_path: Path, optimizer: Any, task: Task, objective: str) -> None:
    """The same kernels, in float32: losses agree to 1e-4, although evaluations come between, and checkpoints."""
    config = dataclasses.replace(LONGER, optimizer=optimizer, objective=objective)
    models = [make_gpt2(len(task.vocabulary), attn="sdpa") for _ in range(2)]
    usual, noted = train(tmp_path / "off", dataclasses.replace(config, compile="off"), models[0], task=task)
    there, noted_there = train(tmp_path / "auto", config, models[1], task=task)
    assert (noted["steps_computed"], noted_there["steps_computed"]) == ("eager", "captured")
    assert [line["loss"] for line in usual[1:]] == pytest.approx([line["loss"] for line in there[1:]], abs=1e-4)
    assert usual[-1]["loss"] < usual[1]["loss"]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_steps_are_captured_on_the_device_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which need not be the current one: a graph of another device would be empty, and no weight would change."""
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", "cuda:1")
    models = [make_gpt2(len(PCFG.vocabulary), attn="sdpa") for _ in range(2)]
    usual, _ = train(tmp_path / "off", dataclasses.replace(LONGER, compile="off"), models[0])
    there, noted = train(tmp_path / "auto", LONGER, models[1])
    assert (noted["steps_computed"], models[1].device) == ("captured", torch.device("cuda", 1))
    assert torch.cuda.current_device() == 0
    assert [line["loss"] for line in usual[1:]] == pytest.approx([line["loss"] for line in there[1:]], abs=1e-4)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("optimizer", "task", "objective"), CUDA_CASES[::2], ids=["muon", "documents"])
def test_compiled_steps_are_near_the_eager_ones(tmp_path: Path, optimizer: Any, task: Task, objective: str) -> None:
    config = dataclasses.replace(LONGER, optimizer=optimizer, objective=objective)
    models = [make_gpt2(len(task.vocabulary), attn="sdpa") for _ in range(2)]
    usual, _ = train(tmp_path / "off", dataclasses.replace(config, compile="off"), models[0], task=task)
    there, noted = train(tmp_path / "on", dataclasses.replace(config, compile="on"), models[1], task=task)
    assert noted["steps_computed"] == "compiled"
    assert [line["loss"] for line in usual[1:]] == pytest.approx([line["loss"] for line in there[1:]], abs=1e-2)


def test_a_captured_run_that_was_cut_goes_on_from_its_optimizers_state(tmp_path: Path) -> None:
    config = dataclasses.replace(LONGER, optimizer="adamw")
    whole, cut = (make_gpt2(len(PCFG.vocabulary), attn="sdpa") for _ in range(2))
    lines, _ = train(tmp_path / "whole", config, whole)
    train(tmp_path / "cut", config, make_gpt2(len(PCFG.vocabulary), attn="sdpa"), stop_at=20)
    again, _ = train(tmp_path / "cut", config, cut)
    assert [line["step"] for line in again] == [line["step"] for line in lines]
    assert again[-1]["loss"] == pytest.approx(lines[-1]["loss"], abs=1e-4)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_deterministic_run_goes_on_bit_for_bit(tmp_path: Path, precision: Any) -> None:
    config = dataclasses.replace(LONGER, deterministic=True, mixed_precision=precision)
    whole, cut = (make_gpt2(len(PCFG.vocabulary), dropout=0.1, attn="sdpa") for _ in range(2))
    lines, noted = train(tmp_path / "whole", config, whole)
    assert (noted["steps_computed"], noted["deterministic"]) == ("eager", True)
    train(tmp_path / "cut", config, make_gpt2(len(PCFG.vocabulary), dropout=0.1, attn="sdpa"), stop_at=20)
    again, _ = train(tmp_path / "cut", config, cut)
    assert again == lines
    check_alike(whole, cut, atol=0)
    assert not torch.are_deterministic_algorithms_enabled()


def test_dropout_is_new_in_every_captured_step_and_a_function_of_it(tmp_path: Path) -> None:
    config = dataclasses.replace(LONGER, optimizer="adamw", lr=0.0 + 1e-12, batch_size=8, eval_at=[*range(6, 12)])
    losses = []
    for name in ("one", "two"):
        model = make_gpt2(len(PCFG.vocabulary), dropout=0.5, attn="sdpa")
        lines, noted = train(tmp_path / name, config, model)
        assert noted["steps_computed"] == "captured"
        losses.append([line["loss"] for line in lines if "loss" in line])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert len({round(loss, 3) for loss in losses[0]}) > 3


def test_a_loss_that_is_no_number_is_seen_in_captured_steps(tmp_path: Path) -> None:
    config = dataclasses.replace(
        LONGER, optimizer="adamw", lr=1e30, max_grad_norm=1e30, warmup_fraction=0.0, num_evals=0, checkpoint_every=10
    )
    with pytest.raises(ValueError, match=r"loss: became .* at or before step \d+"):
        train(tmp_path / "run", config, make_gpt2(len(PCFG.vocabulary), attn="sdpa"))


def test_snapshots_of_captured_steps_hold_the_weights_of_their_steps(tmp_path: Path) -> None:
    taken: dict[int, Tensor] = {}
    config = dataclasses.replace(LONGER, optimizer="adamw", snapshots=[10, 20, 30])
    model = make_gpt2(len(PCFG.vocabulary), attn="sdpa")
    run = RunDir.open(tmp_path / "run", "pretrain", dataclasses.asdict(config))
    fit(
        model, RowStream(PCFG, seed=0, split="train"), {}, config, run, start_accelerator(config), lambda *_: None,
        save_snapshot=lambda step, it: taken.update({step: it.lm_head.weight.detach().cpu().clone()}),
    )  # fmt: skip
    run.close()
    assert [*taken] == [10, 20, 30]
    assert not torch.equal(taken[10], taken[20])
    assert torch.equal(taken[30], model.lm_head.weight.detach().cpu())


def test_a_step_that_waits_is_computed_as_it_is(tmp_path: Path) -> None:
    """Its losses are those of a run that is never captured."""

    class Waiting(OBJECTIVES["next_token"]):  # type: ignore[misc]
        def loss(self, logits: Tensor, *more: Any) -> Tensor:
            loss: Tensor = super().loss(logits, *more)
            return loss * (2 if loss.detach() > 1e9 else 1)

    found = []
    for name, objective in (("waits", Waiting()), ("usual", OBJECTIVES["next_token"]())):
        run = RunDir.open(tmp_path / name, "pretrain", dataclasses.asdict(LONGER))
        stream = RowStream(PCFG, seed=0, split="train")
        accelerator = start_accelerator(LONGER)
        fit(make_gpt2(len(PCFG.vocabulary), attn="sdpa"), stream, {}, LONGER, run, accelerator, objective=objective)
        found.append([line["loss"] for line in read_metrics(run.working) if "loss" in line])
        run.close()
    assert found[0] == pytest.approx(found[1], abs=1e-4)


def test_a_graph_is_replayed(tmp_path: Path) -> None:
    """What is captured is not run again by the host: its kernels are in one graph from the fourth step on."""
    replayed = []
    config = dataclasses.replace(LONGER, optimizer="adamw", num_evals=0)
    run = RunDir.open(tmp_path / "run", "pretrain", dataclasses.asdict(config))
    taken: list[Any] = []

    def progress(step: int, steps: int, text: str) -> None:
        replayed.append(taken[0]._graph is not None)

    class Seen(CapturedStep):
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **more)
            taken.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "CapturedStep", Seen)
        model = make_gpt2(len(PCFG.vocabulary), attn="sdpa")
        fit(model, RowStream(PCFG, seed=0, split="train"), {}, config, run, start_accelerator(config), progress)
    run.close()
    assert replayed == [False] * 4 + [True] * 27
