"""A step: what it is made of is tested where that lies; here that nobody waits in it, and that its ways agree."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoTokenizer, PreTrainedModel

from ftmech_hf.config import to_dict
from ftmech_hf.runs import RunDir, read_metrics
from ftmech_hf.tasks import PcfgConfig, Rows, RowStream, SafetyConfig, StoriesConfig, Task, TextConfig
from ftmech_hf.training import step as step_module
from ftmech_hf.training.attention import NAME
from ftmech_hf.training.inheritance import Inheritance
from ftmech_hf.training.keeping import Keeping, total_loss_of
from ftmech_hf.training.kept_rows import ReplayStream
from ftmech_hf.training.loop import fit, start_accelerator
from ftmech_hf.training.memory import recompute_blocks
from ftmech_hf.training.objectives import OBJECTIVES, Objective
from ftmech_hf.training.objectives.own_answers import draw
from ftmech_hf.training.optim import build_optimizers, set_lr, take_lr_from_device
from ftmech_hf.training.parts import Parts
from ftmech_hf.training.settings import TrainConfig
from ftmech_hf.training.step import Step, find_way, keep_recomputing, why_not_captured
from tests.conftest import make_gpt2, make_llama
from tests.foreign import save_gpt2, sums, write_rows

CPU, META = torch.device("cpu"), torch.device("meta")
PCFG = PcfgConfig(text_length=12, count_window=8, index_occurrence=2, token_at_position=6, min_labels=4)
STORIES = StoriesConfig(vocab_size=300, row_tokens=32, relations=1)
SAFETY = SafetyConfig(mixture="forget")
TASKS: dict[str, Task] = {"tokens": PCFG, "answers": PCFG, "documents": STORIES, "pairs": SAFETY}
"""By what an objective needs."""


def process(device: torch.device) -> Any:
    """What a step needs of an accelerator, on a device that accelerate knows nothing of."""
    return SimpleNamespace(
        device=device, num_processes=1, process_index=0, no_sync=lambda model: contextlib.nullcontext(),
        backward=lambda loss: loss.backward(), clip_grad_norm_=torch.nn.utils.clip_grad_norm_,
    )  # fmt: skip


def steps_on(
    device: torch.device,
    objective: Objective,
    task: Task,
    config: TrainConfig,
    *,
    make: Callable[..., PreTrainedModel] = make_gpt2,
    stream: RowStream | None = None,
    keeping: Keeping | None = None,
    vocabulary: int | None = None,
) -> Iterator[Callable[[], Tensor]]:
    """The steps of a training one after another, rows on the CPU included; calling what is yielded takes one."""
    model = make(vocabulary or len(task.vocabulary))
    model.set_attn_implementation("sdpa")
    model.set_attn_implementation(NAME)
    accelerator = process(device)
    total = total_loss_of(model, objective, config, keeping or Keeping(task=task)).to(device)
    torch.nn.Module.to(model, device)
    optimizers = build_optimizers(
        model, optimizer=config.optimizer, lr=config.lr, muon_lr=config.muon_lr, weight_decay=0.01, betas=(0.9, 0.95)
    )
    parts = Parts(stream or RowStream(task, seed=0, split="finetune"), config, total, accelerator)
    step = Step(config, accelerator, total, model, model, optimizers, optimizers)
    for number in range(config.steps):
        yield lambda number=number: step(number, parts.of_step(number), 0.5)  # type: ignore[misc]


CONFIG = TrainConfig(steps=2, batch_size=8, gradient_accumulation_steps=2, optimizer="sgd", mixed_precision="no")


@pytest.mark.parametrize("make", [make_gpt2, make_llama])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_nothing_of_an_objective_is_read_by_the_host(name: str, make: Callable[..., PreTrainedModel]) -> None:
    """Tensors of the device ``meta`` have no numbers: whoever reads one, as one waits for a GPU, gets an error."""
    objective = OBJECTIVES[name]()
    for take in steps_on(META, objective, TASKS[objective.needs], CONFIG, make=make):
        take()


def test_the_check_above_can_fail() -> None:
    class Reads(OBJECTIVES["next_token"]):  # type: ignore[misc]
        def loss(self, logits: Tensor, *more: Any) -> Tensor:
            loss: Tensor = super().loss(logits, *more)
            return loss * (2 if loss > 100 else 1)

    take = next(steps_on(META, Reads(), PCFG, CONFIG))
    with pytest.raises(RuntimeError, match="meta"):
        take()


@pytest.fixture(scope="module")
def ragged(tmp_path_factory: pytest.TempPathFactory) -> Task:
    folder = tmp_path_factory.mktemp("ragged")
    rows = TextConfig(dataset=write_rows(folder / "sums.jsonl", sums()))
    return rows.in_tokens_of(AutoTokenizer.from_pretrained(save_gpt2(folder / "gpt2")))


@pytest.mark.parametrize("name", ["next_token", "answer_only", "own_answers"])
def test_nothing_is_read_of_rows_of_unequal_lengths_and_of_what_keeps_a_model(name: str, ragged: Task) -> None:
    kept: Rows = RowStream(ragged, seed=1, split="train").rows(0, 6)
    assert kept.answers is not None
    logits = torch.zeros(int(kept.answers[:, 1:].sum()), 300)
    config = dataclasses.replace(
        CONFIG, l2sp=1.0, ldifs=1.0, lfl=1.0, lwf=1.0, der=1.0, replay_share=0.5, gradient_accumulation_steps=1
    )
    keeping = Keeping(task=ragged, earlier=Inheritance(rows=kept, logits=logits))
    stream = ReplayStream(RowStream(ragged, seed=0, split="finetune"), kept, 0.5)
    for take in steps_on(META, OBJECTIVES[name](), ragged, config, stream=stream, keeping=keeping, vocabulary=300):
        take()


class Reads(TorchDispatchMode):
    """Counts where a number of a tensor goes to the host: ``item``, ``float``, ``int``, ``bool`` and ``if``."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.number += torch.Tag.data_dependent_output in func.tags
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("optimizer", ["muon", "adamw", "sgd"])
def test_no_number_goes_to_the_host_in_a_step_with_its_rows_and_its_update(optimizer: Any) -> None:
    config = dataclasses.replace(CONFIG, optimizer=optimizer, l2sp=1.0)
    for take in steps_on(CPU, OBJECTIVES["documents"](answer_weight=2.0), STORIES, config):
        with Reads() as reads:
            loss = take()
            assert reads.number == 0
            float(loss)
            assert reads.number == 1


def test_one_of_the_answers_is_drawn_as_torch_draws_it() -> None:
    probabilities = torch.randn(64, 9, generator=torch.Generator().manual_seed(0)).softmax(-1)
    torch.manual_seed(3)
    expected = torch.multinomial(probabilities, 1)[:, 0]
    torch.manual_seed(3)
    assert torch.equal(draw(probabilities), expected)


def train(
    folder: Path, config: TrainConfig, model: PreTrainedModel, *, task: Task = PCFG, stop_at: int | None = None
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Log and notes of a training."""

    def progress(step: int, steps: int, text: str) -> None:
        if step == stop_at:
            raise InterruptedError

    run = RunDir.open(folder, "pretrain", to_dict(config))
    tests = {"all": RowStream(task, seed=0, split="test")}
    try:
        fit(model, RowStream(task, seed=0, split="train"), tests, config, run, start_accelerator(config), progress)
    except InterruptedError:
        pass
    finally:
        run.close()
    return read_metrics(run.working), json.loads((run.working / "env.json").read_text())


WHOLE = TrainConfig(
    steps=8, batch_size=8, num_evals=3, eval_rows=16, final_eval_rows=32, checkpoint_every=3, mixed_precision="no"
)


def check_alike(first: PreTrainedModel, second: PreTrainedModel, *, atol: float) -> None:
    """Key biases have no gradient but rounding, which Adam blows up, and no effect: they are equal or left out."""
    for (name, one), two in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        if atol and name.endswith("c_attn.bias"):
            continue
        torch.testing.assert_close(one.cpu(), two.cpu(), rtol=0, atol=atol, msg=name)


@pytest.mark.parametrize(
    ("optimizer", "task", "objective", "parts"),
    [("muon", PCFG, "next_token", 1), ("adamw", STORIES, "documents", 2), ("adamw", PCFG, "answer_only", 1)],
    ids=["muon", "documents", "answers"],
)
def test_steps_on_rows_in_one_place_are_the_same_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: Any, task: Task, objective: str, parts: int
) -> None:
    """With rates that lie on the device and rows copied into one place; how operations are fused is torch's affair."""
    config = dataclasses.replace(
        WHOLE,
        optimizer=optimizer,
        objective=objective,
        gradient_accumulation_steps=parts,
        compile="off",
        eval_at=[2, 5],
    )
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    models = [make_gpt2(len(task.vocabulary), dropout=0.1, attn="sdpa") for _ in range(2)]
    usual, noted = train(tmp_path / "eager", config, models[0], task=task)
    there, noted_there = train(tmp_path / "on", dataclasses.replace(config, compile="on"), models[1], task=task)
    assert (noted["steps_computed"], noted_there["steps_computed"]) == ("eager", "compiled")
    assert [line["loss"] for line in usual[1:]] == pytest.approx([line["loss"] for line in there[1:]], abs=1e-5)
    check_alike(*models, atol=1e-5)
    assert all(p.grad is None for model in models for p in model.parameters())
    assert noted["first_loss"] == pytest.approx(noted_there["first_loss"], abs=1e-6)


def test_a_compiled_run_goes_on_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_module, "BACKEND", "eager")
    config = dataclasses.replace(WHOLE, compile="on", num_evals=0, steps=4, checkpoint_every=2)
    whole, cut = (make_gpt2(len(PCFG.vocabulary), attn="sdpa") for _ in range(2))
    train(tmp_path / "whole", config, whole)
    train(tmp_path / "cut", config, make_gpt2(len(PCFG.vocabulary), attn="sdpa"), stop_at=3)
    with pytest.raises(ValueError, match=r"compile: off makes steps eager here, but this run began with compiled ones"):
        train(tmp_path / "cut", dataclasses.replace(config, compile="off"), cut)
    train(tmp_path / "cut", config, cut)
    check_alike(whole, cut, atol=0)


def way(config: TrainConfig, device: str, *, why: str | None = None, began: str | None = None) -> str:
    return find_way(config, torch.device(device), why, began)


def test_what_is_compiled_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    short, long = TrainConfig(steps=10), TrainConfig(steps=200_000)
    assert [way(each, "cpu") for each in (short, long)] == ["eager"] * 2
    assert [way(each, "cuda") for each in (short, long)] == ["captured"] * 2
    assert [way(long, "cuda", began=each) for each in ("eager", "compiled")] == ["eager", "compiled"]
    assert way(long, "cuda", why="this") == "eager"
    assert way(dataclasses.replace(long, compile="off"), "cuda") == "eager"
    assert way(dataclasses.replace(short, compile="on"), "cpu") == "compiled"
    with pytest.raises(ValueError, match="compile: on is not possible with this; expected auto or off"):
        way(dataclasses.replace(short, compile="on"), "cuda", why="this")
    with pytest.raises(ValueError, match=r"compile: auto makes steps eager here, but this run began with captured"):
        way(long, "cpu", began="captured")
    monkeypatch.setenv("PATH", "")
    assert way(long, "cuda") == "captured"
    with pytest.raises(ValueError, match=r"compile: on, but there is no C\+\+ compiler"):
        way(dataclasses.replace(long, compile="on"), "cuda")


def test_what_is_not_captured_says_why(ragged: Task) -> None:
    def reason(config: TrainConfig = WHOLE, task: Task = PCFG, objective: str = "next_token",
               layerdrop: float = 0.0, **process_: Any) -> Any:  # fmt: skip
        model = make_gpt2(40)
        model.config.layerdrop = layerdrop
        total = total_loss_of(model, OBJECTIVES[objective](), config)
        accelerator: Any = SimpleNamespace(**{"num_processes": 1, "device": torch.device("cuda"), **process_})
        return why_not_captured(config, accelerator, total, RowStream(task, seed=0, split="train"), model)

    assert reason() is None
    assert reason(layerdrop=0.1) == "a model that leaves out layers by chance"
    assert reason(num_processes=2) == "several processes"
    assert reason(device=torch.device("mps")) == "a device of type mps"
    assert reason(task=ragged) == "rows of unequal lengths"
    assert reason(objective="own_answers") == "what compares with the model that training started from"
    for change in ({"deterministic": True}, {"gradient_checkpointing": True}):
        assert reason(dataclasses.replace(WHOLE, **change)) == f"{next(iter(change))}: true"
    assert reason(dataclasses.replace(WHOLE, optimizer="sgd")) == "optimizer: sgd"
    assert reason(dataclasses.replace(WHOLE, l2sp=1.0)) == "what compares with the model that training started from"


def test_rates_on_the_device_are_set_in_their_place() -> None:
    model = make_gpt2(40)
    optimizers = build_optimizers(model, optimizer="muon", lr=1e-3, muon_lr=0.02, weight_decay=0.01, betas=(0.9, 0.95))
    take_lr_from_device(optimizers, CPU)
    places = [group["lr"] for each in optimizers for group in each.param_groups]
    set_lr(optimizers, 0.5)
    set_lr(optimizers, 0.25)  # of the peak
    assert [float(place) for place in places] == pytest.approx([0.005, 0.00025])
    assert [group["lr"] is place for (each, place) in zip(optimizers, places, strict=True)
            for group in each.param_groups] == [True, True]  # fmt: skip


@pytest.mark.parametrize("drops", [False, True])
def test_blocks_are_computed_again_where_the_start_is_compared_with_and_nothing_is_dropped(drops: bool) -> None:
    """Preferences take twice the memory of answers, and so need it most; what drops by itself is left alone."""
    model = make_llama(20)
    recompute_blocks(model, True)
    model.eval()
    if drops:
        model.model.layers[0].dropout = 0.1
    keep_recomputing(model)
    assert [block.training for block in model.model.layers] == [not drops, True]
    assert not any(module.training for block in model.model.layers for module in block.children())
    times = [0, 0]
    for place, block in enumerate(model.model.layers):

        def count(*_: object, place: int = place) -> None:
            times[place] += 1

        block.mlp.register_forward_pre_hook(count)
    model(torch.arange(12).view(2, 6)).logits.sum().backward()
    assert times == [1 if drops else 2, 2]


@pytest.mark.parametrize("name", ["preference", "rmu", "own_answers"])
def test_blocks_are_computed_again_in_every_part_of_a_step_that_compares_with_the_start(name: str) -> None:
    """Three times a part: for the model, for what it started from, and again in the backward pass."""
    objective = OBJECTIVES[name]()
    task = TASKS[objective.needs]
    model = make_llama(len(task.vocabulary))
    recompute_blocks(model, True)
    total = total_loss_of(model, objective, CONFIG)
    times: list[int] = []

    def count(*_: object) -> None:
        times[-1] += 1

    block = model.model.layers[0]
    block.mlp.register_forward_pre_hook(count)
    model.eval()
    keep_recomputing(model)
    for part, weights in Parts(RowStream(task, seed=0, split="finetune"), CONFIG, total, process(CPU)).of_step(0):
        times.append(0)
        total(model, part, **weights).backward()
        assert block.training
        assert not model.training
        assert not block.mlp.training
    assert times == [3, 3]
