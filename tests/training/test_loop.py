from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from transformers import PreTrainedModel

from ftmech_hf.runs import RunDir, damaged_files, read_metrics
from ftmech_hf.tasks import PcfgConfig, RowStream
from ftmech_hf.training import checkpoint, loop
from ftmech_hf.training.checkpoint import NotFinite, find_checkpoints, load_checkpoint, save_checkpoint
from ftmech_hf.training.divergence import LossCheck
from ftmech_hf.training.evaluation import answer_accuracy
from ftmech_hf.training.loop import fit, start_accelerator
from ftmech_hf.training.optim import build_optimizers
from ftmech_hf.training.settings import TrainConfig
from tests.conftest import make_gpt2

CONFIG = TrainConfig(steps=9, batch_size=8, num_evals=3, eval_rows=16, final_eval_rows=32, checkpoint_every=4)


class Killed(Exception):
    pass


def train(
    folder: Path,
    task: PcfgConfig,
    config: TrainConfig = CONFIG,
    *,
    stop_at: int | None = None,
    dropout: float = 0.1,
    seen: list[int] | None = None,
) -> tuple[PreTrainedModel, list[dict[str, object]]]:
    def progress(step: int, steps: int, text: str) -> None:
        if seen is not None:
            seen.append(step)
        if step == stop_at:
            raise Killed

    accelerator = start_accelerator(config)
    run = RunDir.open(folder, "pretrain", dataclasses.asdict(config))
    model = make_gpt2(len(task.vocabulary), dropout=dropout, attn="sdpa")
    stream = RowStream(task, seed=0, split="train")
    tests = {"all": RowStream(task, seed=0, split="test")}
    try:
        fit(model, stream, tests, config, run, accelerator, progress)
    finally:
        run.close()
    return model, read_metrics(run.working)


def same_weights(first: PreTrainedModel, second: PreTrainedModel) -> bool:
    return all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("stop_at", [2, 4, 7, 8])
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(
    tmp_path: Path, task: PcfgConfig, stop_at: int, optimizer: str
) -> None:
    config = dataclasses.replace(CONFIG, optimizer=optimizer)  # type: ignore[arg-type]
    whole, metrics = train(tmp_path / "whole", task, config)
    with pytest.raises(Killed):
        train(tmp_path / "cut", task, config, stop_at=stop_at)
    resumed, resumed_metrics = train(tmp_path / "cut", task, config)
    assert same_weights(whole, resumed)
    assert metrics == resumed_metrics


def test_the_check_above_can_fail(tmp_path: Path, task: PcfgConfig) -> None:
    whole, _ = train(tmp_path / "whole", task)
    other_seed, _ = train(tmp_path / "other", task, dataclasses.replace(CONFIG, seed=1))
    assert not same_weights(whole, other_seed)  # dropout alone differs: the data are the stream's


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(tmp_path: Path, task: PcfgConfig) -> None:
    config = dataclasses.replace(CONFIG, checkpoint_every=2)
    whole, metrics = train(tmp_path / "whole", task, config)
    with pytest.raises(Killed):
        train(tmp_path / "cut", task, config, stop_at=7)
    checkpoints = tmp_path / "cut.partial" / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["step-00000004", "step-00000006"]
    (checkpoints / "step-00000006" / "optimizers.pt").write_bytes(b"half")
    (checkpoints / "step-00000008.partial").mkdir()
    steps: list[int] = []
    with pytest.warns(UserWarning, match=r"checkpoint step-00000006 is damaged \(optimizers.pt\) and passed over"):
        resumed, resumed_metrics = train(tmp_path / "cut", task, config, seen=steps)
    assert steps[0] == 4
    assert same_weights(whole, resumed)
    assert metrics == resumed_metrics
    assert not list(checkpoints.glob("*.partial"))


def test_the_old_checkpoint_goes_only_after_the_new_one_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_gpt2(40)
    optimizers = build_optimizers(model, optimizer="adamw", lr=1e-3, muon_lr=0.1, weight_decay=0, betas=(0.9, 0.9))
    save_checkpoint(tmp_path, 1, model, optimizers)

    def full_disk(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", full_disk)
        with pytest.raises(OSError, match="No space left"):
            save_checkpoint(tmp_path, 2, model, optimizers)
    assert load_checkpoint(tmp_path, model, optimizers) == 1
    save_checkpoint(tmp_path, 2, model, optimizers)
    assert load_checkpoint(tmp_path, model, optimizers) == 2
    save_checkpoint(tmp_path, 3, model, optimizers)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]
    for folder in tmp_path.iterdir():
        shutil.rmtree(folder)
    assert load_checkpoint(tmp_path, model, optimizers) == 0


def saving() -> Callable[..., None]:
    model = make_gpt2(40)

    def save(root: Path, *steps: int) -> None:
        for step in steps:
            save_checkpoint(root, step, model, [])

    return save


def steps_in(root: Path) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in find_checkpoints(root)]


def damage(root: Path, *steps: int) -> None:
    for step in steps:
        (root / f"step-{step:08d}" / "weights.safetensors").write_bytes(b"half")


def test_what_is_damaged_is_newer_than_nothing(tmp_path: Path) -> None:
    save, model = saving(), make_gpt2(40)
    save(tmp_path / "all", 400, 600)
    damage(tmp_path / "all", 400, 600)
    with pytest.warns(UserWarning, match="passed over"):
        assert load_checkpoint(tmp_path / "all", model, []) == 0
    save(tmp_path / "all", 200)
    assert steps_in(tmp_path / "all") == [200]
    save(tmp_path / "all", 400, 600)
    assert steps_in(tmp_path / "all") == [400, 600]
    for every, later in ((50, [450, 500]), (350, [750, 1100])):  # before and after the damaged one
        root = tmp_path / str(every)
        save(root, 400, 600)
        damage(root, 600)
        save(root, later[0])
        assert steps_in(root) == [400, later[0]]
        save(root, later[1])
        assert steps_in(root) == later


def test_a_whole_checkpoint_of_a_later_step_stays_and_is_no_reason_to_remove_earlier_ones(tmp_path: Path) -> None:
    """Of a run that went further alone, and goes on with others from where they are."""
    save = saving()
    save(tmp_path, 400, 500, 600)
    save(tmp_path, 450)
    assert steps_in(tmp_path) == [450, 500, 600]
    save(tmp_path, 475)
    assert steps_in(tmp_path) == [450, 475, 500, 600]
    save(tmp_path, 550)
    assert steps_in(tmp_path) == [500, 550, 600]


def test_no_checkpoint_is_read_again_whose_state_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading takes as long as writing, and models have gigabytes."""
    read: list[str] = []

    def note(folder: Path) -> list[str]:
        read.append(folder.name)
        return damaged_files(folder)

    monkeypatch.setattr(checkpoint, "damaged_files", note)
    save = saving()
    save(tmp_path, 1, 2, 3, 4)
    assert read == []
    monkeypatch.setattr(checkpoint, "_WHOLE", {})  # another process
    assert load_checkpoint(tmp_path, make_gpt2(40), []) == 4
    save(tmp_path, 5, 6, 7)
    assert read == ["step-00000004"]
    monkeypatch.setattr(checkpoint, "_WHOLE", {})
    save(tmp_path, 8, 9)
    assert read == ["step-00000004", "step-00000007"]


@pytest.mark.parametrize(("lr", "value"), [(1e30, "nan"), (30.0, r"[\d.]+")])
def test_a_loss_that_is_lost_stops_the_run(tmp_path: Path, task: PcfgConfig, lr: float, value: str) -> None:
    config = dataclasses.replace(CONFIG, optimizer="adamw", lr=lr, warmup_fraction=0.0, max_grad_norm=1e30, num_evals=9)
    message = rf"loss: became {value} at or before step \d+, above .*; lower lr or muon_lr \(checkpoint: "
    with pytest.raises(ValueError, match=message):
        train(tmp_path / "run", task, config)


def test_accumulated_gradients_are_those_of_the_whole_batch(tmp_path: Path, task: PcfgConfig) -> None:
    config = dataclasses.replace(CONFIG, mixed_precision="no", optimizer="adamw")
    whole, metrics = train(tmp_path / "whole", task, config, dropout=0.0)
    config = dataclasses.replace(config, gradient_accumulation_steps=4)
    parts, part_metrics = train(tmp_path / "parts", task, config, dropout=0.0)
    # Logits rather than weights: key biases have no gradient but rounding, which Adam blows up, and no effect.
    rows = torch.from_numpy(RowStream(task, seed=0, split="test").rows(0, 16).token_ids)
    assert torch.allclose(whole(rows).logits, parts(rows).logits, atol=1e-4)
    losses = [[line.get("loss", 0) for line in lines] for lines in (metrics, part_metrics)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    with pytest.raises(
        ValueError, match="batch_size: 8 rows cannot be shared equally by 1 processes with gradient_acc"
    ):
        start_accelerator(dataclasses.replace(CONFIG, gradient_accumulation_steps=3))


def test_training_learns(tmp_path: Path, task: PcfgConfig) -> None:
    config = dataclasses.replace(CONFIG, steps=60, lr=1e-2, optimizer="adamw", mixed_precision="no")
    _, metrics = train(tmp_path / "run", task, config, dropout=0.0)
    losses = [float(str(line["loss"])) for line in metrics if "loss" in line]
    assert losses[-1] < 0.7 * losses[0]


def test_evaluations_are_log_spaced() -> None:
    assert TrainConfig(steps=1000, num_evals=4).eval_steps() == {0, 1, 10, 100, 1000}
    assert TrainConfig(steps=5, num_evals=0).eval_steps() == {0, 5}
    assert TrainConfig(steps=1, num_evals=30).eval_steps() == {0, 1}


def test_batches_do_not_depend_on_how_they_are_split(task: PcfgConfig) -> None:
    stream: Callable[[int, int], torch.Tensor] = lambda a, b: torch.from_numpy(  # noqa: E731
        RowStream(task, seed=0, split="train").rows(a, b).token_ids
    )
    assert torch.equal(torch.cat([stream(64, 96), stream(96, 128)]), stream(64, 128))


@pytest.mark.parametrize("anchor", [{"l2sp": 0.3}, {"ldifs": 3.0}])
def test_an_anchored_run_resumes_bit_for_bit(tmp_path: Path, task: PcfgConfig, anchor: dict[str, float]) -> None:
    config = dataclasses.replace(CONFIG, **anchor)
    whole, metrics = train(tmp_path / "whole", task, config)
    with pytest.raises(Killed):
        train(tmp_path / "cut", task, config, stop_at=6)
    resumed, resumed_metrics = train(tmp_path / "cut", task, config)
    assert same_weights(whole, resumed)
    assert metrics == resumed_metrics
    free, _ = train(tmp_path / "free", task)
    assert not same_weights(whole, free)


def test_the_model_is_evaluated_when_asked(tmp_path: Path, task: PcfgConfig) -> None:
    _, metrics = train(tmp_path / "run", task, dataclasses.replace(CONFIG, eval_at=[5, 2]))
    assert [line["step"] for line in metrics] == [0, 2, 5, 9]
    with pytest.raises(ValueError, match=r"eval_at: \[10\], expected steps between 1 and steps: 9"):
        dataclasses.replace(CONFIG, eval_at=[10])


def test_evaluations_near_a_crossing_take_more_rows(tmp_path: Path, task: PcfgConfig) -> None:
    """Of 16 rows of a model that knows nothing, none right leaves 15 % in doubt, and of 64 no more."""
    config = dataclasses.replace(CONFIG, eval_near=0.15, eval_at=[2, 5, 6])
    _, metrics = train(tmp_path / "run", task, config)
    assert [line["eval_rows"] for line in metrics] == [16, 16, 16, 16, 32]
    assert metrics[0]["eval_rows/all"] == 64
    assert {"eval_rows/all" in line for line in metrics[:-1]} == {True}
    assert "eval_rows/all" not in metrics[-1]
    rows = torch.from_numpy(RowStream(task, seed=0, split="test").rows(0, 64).token_ids)
    start = make_gpt2(len(task.vocabulary)).eval()
    assert metrics[0]["accuracy/all"] == answer_accuracy(start, rows)
    with pytest.raises(Killed):
        train(tmp_path / "cut", task, config, stop_at=5)
    _, resumed = train(tmp_path / "cut", task, config)
    assert resumed == metrics
    _, far = train(tmp_path / "far", task, dataclasses.replace(config, eval_near=0.9))
    assert [line.get("eval_rows/all") for line in far] == [None] * 5


def test_steps_of_evaluations_per_factor_of_ten() -> None:
    steps = sorted(TrainConfig(steps=3000, evals_per_decade=12).eval_steps())
    for first in (10, 100):
        assert 12 <= sum(first < step <= 10 * first for step in steps) <= 13
    assert steps[:9] == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert steps[-1] == 3000
    assert all(later <= 1.25 * step for step, later in itertools.pairwise(steps) if step >= 10)
    assert TrainConfig(steps=1, evals_per_decade=12).eval_steps() == {0, 1}
    with pytest.raises(ValueError, match=r"eval_near: 95.0, expected an accuracy between 0 and 1"):
        TrainConfig(eval_near=95.0)


def test_no_steps_leave_the_weights_as_they_are(tmp_path: Path, task: PcfgConfig) -> None:
    model, metrics = train(tmp_path / "run", task, dataclasses.replace(CONFIG, steps=0))
    assert same_weights(model, make_gpt2(len(task.vocabulary)))
    assert [(line["step"], line["eval_rows"]) for line in metrics] == [(0, 32)]


def test_a_dry_run_stops_early_and_projects_the_rest(tmp_path: Path, task: PcfgConfig) -> None:
    """It looks once, at a few rows: at the paper's scale evaluations would otherwise take longer than its steps."""
    config = dataclasses.replace(CONFIG, steps=1000, max_steps=5, price_per_hour=2.0, final_eval_rows=2048)
    _, metrics = train(tmp_path / "run", task, config)
    assert [(line["step"], line["eval_rows"]) for line in metrics] == [(5, 64)]
    kept = [path.name for path in (tmp_path / "run.partial" / "checkpoints").iterdir()]
    assert kept == ["step-00000004"]  # nobody goes on with the last
    found = json.loads((tmp_path / "run.partial" / "env.json").read_text())["projection"]
    assert found["steps"] == 1000
    assert found["hours"] > 1000 * found["seconds_per_step"] / 3600 > 0
    assert found["cost"] == pytest.approx(2 * found["hours"])
    block, head = 12 * 16**2 + 13 * 16, len(task.vocabulary) * 16
    assert found["flops"] == 6 * (2 * block + 2 * 16 + head) * 1000 * 8 * (task.row_length - 1)


def exploding(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """The learning rate, which is 1e30, counts for nothing until a step, and from then on in full."""
    monkeypatch.setattr(loop, "lr_factor_of", lambda _, step: 1.0 if step >= at else 1e-33)


EXPLODES = dataclasses.replace(
    CONFIG, steps=40, num_evals=0, optimizer="adamw", lr=1e30, max_grad_norm=1e30, checkpoint_every=5
)


@pytest.mark.parametrize("at", [9, 10, 11, 14, 17])
def test_no_checkpoint_is_kept_that_nothing_can_go_on_from(
    tmp_path: Path, task: PcfgConfig, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Whether weights explode just before a checkpoint (step 10 or 15), when the loss of its step was still good."""
    exploding(monkeypatch, at)
    last = at - at % 5
    for _ in range(2):  # it does not help to try again, and does no harm
        with pytest.raises(ValueError, match=rf"loss: .* \(checkpoint: step-{last:08d}\)"):
            train(tmp_path / "run", task, EXPLODES)
        kept = find_checkpoints(tmp_path / "run.partial" / "checkpoints")
        assert [int(path.name[5:]) for path in kept] == ([last - 5, last] if last > 5 else [last])
        for path in kept:
            assert damaged_files(path) == []
            for values in load_file(path / "weights.safetensors").values():
                assert values.abs().max() < 1e3


def test_a_run_whose_last_step_explodes_does_not_finish(
    tmp_path: Path, task: PcfgConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    exploding(monkeypatch, EXPLODES.steps - 1)
    with pytest.raises(ValueError, match=r"loss: .* step 40.* \(checkpoint: step-00000035\)"):
        train(tmp_path / "run", task, EXPLODES)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["weights", "optimizer"])
def test_what_is_not_finite_is_not_saved(tmp_path: Path, where: str, value: float) -> None:
    model = make_gpt2(40)
    optimizers = build_optimizers(model, optimizer="adamw", lr=1e-3, muon_lr=0.1, weight_decay=0, betas=(0.9, 0.9))
    model(torch.arange(6)[None], labels=torch.arange(6)[None]).loss.backward()
    optimizers[0].step()
    for step in (1, 2):
        save_checkpoint(tmp_path, step, model, optimizers)
    with torch.no_grad():
        parameter = next(model.parameters())
        (parameter if where == "weights" else optimizers[0].state[parameter]["exp_avg_sq"])[0, 0] = value
    with pytest.raises(NotFinite, match="wte.weight is not finite" if where == "weights" else "optimizer remembers"):
        save_checkpoint(tmp_path, 3, model, optimizers)
    assert [path.name for path in find_checkpoints(tmp_path)] == ["step-00000001", "step-00000002"]
    save_checkpoint(tmp_path, 3, model, optimizers, check_finite=False)


def test_a_loss_is_measured_by_that_of_the_first_step_also_where_a_run_went_on(
    tmp_path: Path, task: PcfgConfig
) -> None:
    config = dataclasses.replace(CONFIG, num_evals=0, eval_at=[1])
    _, metrics = train(tmp_path / "whole", task, config)
    with pytest.raises(Killed):
        train(tmp_path / "cut", task, config, stop_at=6)
    train(tmp_path / "cut", task, config)
    envs = [json.loads((tmp_path / f"{name}.partial" / "env.json").read_text()) for name in ("whole", "cut")]
    assert [env["first_loss"] for env in envs] == [metrics[1]["loss"]] * 2


def test_the_state_of_the_last_step_is_kept(tmp_path: Path, task: PcfgConfig) -> None:
    whole, _ = train(tmp_path / "run", task)
    seen: list[int] = []
    again, _ = train(tmp_path / "run", task, seen=seen)
    assert seen == [9]
    assert same_weights(whole, again)


def fitted(
    folder: Path, task: PcfgConfig, config: TrainConfig, **more: Any
) -> tuple[PreTrainedModel, RunDir, list[tuple[int, int, str]]]:
    """As :func:`train`, with what is called on the way."""
    seen: list[tuple[int, int, str]] = []
    run = RunDir.open(folder, "pretrain", dataclasses.asdict(config))
    tests = {"all": RowStream(task, seed=0, split="test")}
    model = fit(
        make_gpt2(len(task.vocabulary), attn="sdpa"), RowStream(task, seed=0, split="train"), tests, config, run,
        start_accelerator(config), lambda *at: seen.append(at), **more,
    )  # fmt: skip
    return model, run, seen


def test_what_is_said_of_a_step_is_what_is_logged_of_it(tmp_path: Path, task: PcfgConfig) -> None:
    model, run, seen = fitted(tmp_path / "run", task, dataclasses.replace(CONFIG, eval_at=[2]))
    run.close()
    assert not model.training
    logged = {line["step"]: line for line in read_metrics(run.working)}
    assert [(step, steps) for step, steps, _ in seen] == [(step, 9) for step in range(10)]
    for step, _, text in seen:
        line = logged.get(step, {})
        assert text == (f"loss {line['loss']:.3f}, all {line['accuracy/all']:.1%}" if "loss" in line else "")
    assert [*logged] == [0, 2, 9]
    assert "loss" not in logged[0]
    assert [line["eval_rows"] for line in logged.values()] == [16, 16, 32]


def test_snapshots_are_taken_after_their_steps(tmp_path: Path, task: PcfgConfig) -> None:
    taken: dict[int, torch.Tensor] = {}
    config = dataclasses.replace(CONFIG, snapshots=[3, 9])
    model, run, _ = fitted(
        tmp_path / "run", task, config, save_snapshot=lambda step, it: taken.update({step: it.lm_head.weight.clone()})
    )
    run.close()
    assert list(taken) == [3, 9]
    assert torch.equal(taken[9], model.lm_head.weight)
    assert not torch.equal(taken[3], taken[9])


def test_a_run_remembers_how_it_was_computed_and_goes_on_that_way_only(tmp_path: Path, task: PcfgConfig) -> None:
    config = dataclasses.replace(CONFIG, mixed_precision="no")
    _, run, _ = fitted(tmp_path / "run", task, config)
    env = json.loads((run.working / "env.json").read_text())
    assert (env["mixed_precision"], env["processes"]) == ("no", 1)
    assert env["evaluation_seconds"] == round(env["evaluation_seconds"], 1) >= 0
    assert "projection" not in env
    run.note(mixed_precision="fp16")
    run.close()
    with pytest.raises(
        ValueError, match="mixed_precision: no is no here, but this run began with fp16; go on where it"
    ):
        train(tmp_path / "run", task, config)


def test_auto_stays_what_it_became_when_the_run_began() -> None:
    for precision in ("no", "bf16"):
        assert start_accelerator(TrainConfig(mixed_precision="auto"), precision=precision).mixed_precision == precision
    asked = TrainConfig(mixed_precision="no")
    assert start_accelerator(asked, precision="bf16").mixed_precision == "no"  # what is asked is not changed


def test_the_loss_is_looked_at_between_evaluations(
    tmp_path: Path, task: PcfgConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every so many steps, although nothing is evaluated or kept there."""
    monkeypatch.setattr(loop, "LOSS_CHECK_EVERY", 3)
    exploding(monkeypatch, 1)
    config = dataclasses.replace(EXPLODES, checkpoint_every=40)
    with pytest.raises(ValueError, match=r"loss: became .* at or before step 3, above"):
        train(tmp_path / "run", task, config)


def test_a_projection_counts_all_evaluations_of_the_whole_run(tmp_path: Path, task: PcfgConfig) -> None:
    config = dataclasses.replace(CONFIG, steps=1000, max_steps=4, eval_at=[1, 10, 100, 1000])
    _, run, _ = fitted(tmp_path / "run", task, config)
    run.close()
    found = json.loads((run.working / "env.json").read_text())["projection"]
    evaluations = len(dataclasses.replace(config, max_steps=None).eval_steps()) - 1
    rows = evaluations * 16 + 32
    (line,) = [each for each in read_metrics(run.working) if each["step"] == 4]
    evaluating = found["hours"] * 3600 * found["evaluation_share"]
    measured = json.loads((run.working / "env.json").read_text())["evaluation_seconds"]
    assert found["hours"] * 3600 == pytest.approx(1000 * found["seconds_per_step"] + evaluating)
    looked_at = sum(each["eval_rows"] for each in read_metrics(run.working))
    assert evaluating * looked_at / rows == pytest.approx(measured, abs=0.06)
    assert line["eval_rows"] == 32
    assert "cost" not in found


def test_only_a_run_that_goes_on_knows_its_first_loss(
    tmp_path: Path, task: PcfgConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float | None] = []

    class Seen(LossCheck):
        def __init__(self, *args: Any, **settings: Any) -> None:
            super().__init__(*args, **settings)
            seen.append(self.first_loss)

    monkeypatch.setattr(loop, "LossCheck", Seen)
    with pytest.raises(Killed):
        train(tmp_path / "cut", task, stop_at=6)
    train(tmp_path / "cut", task)
    assert seen[0] is None
    assert seen[1] == json.loads((tmp_path / "cut.partial" / "env.json").read_text())["first_loss"] is not None


@pytest.mark.parametrize(("worth", "times"), [(loop.WORTH_COLLECTING, 0), (1, 1)])
def test_what_a_training_leaves_is_collected_at_once_where_it_is_large(
    tmp_path: Path, task: PcfgConfig, monkeypatch: pytest.MonkeyPatch, worth: int, times: int
) -> None:
    collected: list[None] = []
    monkeypatch.setattr(Accelerator, "free_memory", lambda self: collected.append(None))
    monkeypatch.setattr(loop, "WORTH_COLLECTING", worth)
    train(tmp_path / "run", task)
    assert len(collected) == times
