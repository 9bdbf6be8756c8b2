from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import yaml

from ftmech_hf.config import ConfigError, config_hash
from ftmech_hf.studies.sweep.plan import Sweep, SweepConfig
from ftmech_hf.studies.sweep.study import STUDY
from tests.recipes.conftest import CONFIGS

SECTIONS: dict[str, Any] = {
    "common": {
        "batch_size": 8,
        "text_length": 12,
        "count_window": 8,
        "index_occurrence": 2,
        "token_at_position": 6,
        "min_labels": 4,
    },
    "pretrain": {"steps": 5},
    "finetune": {"operators": "count", "operand_prior": "b", "correlation": 1.0, "steps": 3},
}


def make(tmp_path: Path, grid: dict[str, Any] | None = None, seeds: tuple[int, ...] = (0, 1), **more: Any) -> Sweep:
    config = SweepConfig(seeds=list(seeds), output_dir=str(tmp_path / "out"), **more.pop("config", {}))
    return Sweep(config, {**SECTIONS, **more, "grid": grid or {}}, "nano")


def kwargs_of(sweep: Sweep, stage: str, **labels: str) -> dict[str, Any]:
    cell = next(c for c in sweep.points if all(c.labels[axis] == label for axis, label in labels.items()))
    made = {each.name: each for each in sweep.unfinished()}
    return dict(made[cell.runs[stage]].kwargs)


def test_cells_share_the_runs_that_they_have_in_common(tmp_path: Path) -> None:
    grid = {"pretrain.operand_prior": ["low", "high"], "finetune.lr": {"large": 1e-3, "small": 1e-5}}
    sweep = make(tmp_path, grid)
    assert len(sweep.points) == 8
    stages = [name.split("-")[0] for name in sweep.folders]
    assert (stages.count("pretrain"), stages.count("finetune")) == (4, 8)
    assert sweep.stage_axes == {"pretrain": ["pretrain.operand_prior"], "finetune": list(grid)}
    assert [cell.seed for cell in sweep.points] == [0] * 4 + [1] * 4
    small = kwargs_of(sweep, "finetune", **{"pretrain.operand_prior": "high", "finetune.lr": "small"})
    assert (small["train"].lr, small["train"].steps, small["train"].batch_size) == (1e-5, 3, 8)
    assert small["task"].text_length == 12
    assert "pretrain-high-seed0" in small["config"].model


def test_an_axis_may_change_several_stages_or_leave_one_out(tmp_path: Path) -> None:
    reverse = {"operators": "count", "operand_prior": "a", "steps": 4}
    grid = {"arm": {"tuned": {}, "scratch": {"pretrain.steps": 0, "finetune": False}, "none": {"reverse": False}}}
    sweep = make(tmp_path, grid, seeds=(0,), reverse=reverse)
    runs = {cell.labels["arm"]: cell.runs for cell in sweep.points}
    assert [list(stages) for stages in runs.values()] == [
        ["pretrain", "finetune", "reverse"], ["pretrain", "reverse"], ["pretrain", "finetune"],
    ]  # fmt: skip
    for arm, origin in (("scratch", "pretrain"), ("tuned", "finetune")):
        expected = sweep.folders[runs[arm][origin]]
        assert kwargs_of(sweep, "reverse", arm=arm)["config"].model == str(expected)
    assert kwargs_of(sweep, "reverse", arm="tuned")["config"].split == "reverse"
    assert runs["tuned"]["finetune"] == runs["none"]["finetune"]


def test_none_takes_back_what_a_config_file_says(tmp_path: Path) -> None:
    finetune = {"config": str(CONFIGS / "nano" / "finetune.yaml"), "correlation": None, "steps": 3}
    sweep = make(tmp_path, {"finetune.correlation": {"file": 1.0, "none": None}}, seeds=(0,), finetune=finetune)
    assert kwargs_of(sweep, "finetune", **{"finetune.correlation": "none"})["task"].correlation is None
    assert kwargs_of(sweep, "finetune", **{"finetune.correlation": "file"})["task"].correlation == 1.0
    assert kwargs_of(sweep, "finetune")["train"].objective == "answer_only"


def test_an_empty_list_takes_back_what_a_config_file_says(tmp_path: Path) -> None:
    file = tmp_path / "finetune.yaml"
    file.write_text("snapshots: [1, 2]\n", encoding="utf-8")
    section = {**SECTIONS["finetune"], "config": str(file)}
    kept = make(tmp_path, seeds=(0,), finetune=section)
    assert kwargs_of(kept, "finetune")["train"].snapshots == [1, 2]
    without = make(tmp_path, seeds=(0,), finetune={**section, "snapshots": []})
    assert kwargs_of(without, "finetune")["train"].snapshots == []


def test_a_list_that_needs_a_value_is_not_left_empty(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"finetune: .*operators"):
        make(tmp_path, seeds=(0,), finetune={**SECTIONS["finetune"], "operators": []})


def test_a_sweep_can_start_from_a_model_that_is_there(tmp_path: Path) -> None:
    model = tmp_path / "mine"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"weights")
    sections = {**SECTIONS, "finetune": {**SECTIONS["finetune"], "model": str(model)}, "grid": {}}
    del sections["pretrain"]
    sweep = Sweep(SweepConfig(seeds=[0], output_dir=str(tmp_path / "out")), sections, "nano")
    (cell,) = sweep.unfinished()
    assert cell.kwargs["config"].model == str(model)
    assert cell.needs == ()


def test_settings_can_be_changed_from_the_command_line(tmp_path: Path) -> None:
    changes = ["finetune.steps=7", "common.eval_rows=16", "finetune.correlation=none"]
    sweep = make(tmp_path, seeds=(0,), config={"set": changes})
    found = kwargs_of(sweep, "finetune")
    assert (found["train"].steps, found["train"].eval_rows, found["task"].correlation) == (7, 16, None)


CLAIM = {"id": "c", "statement": "s", "metric": "count_a", "bar": ">= 5"}
TWO_RATES = {"grid": {"finetune.lr": [0.1, 0.2]}}


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"grid": {"finetune.lr": 3}}, "grid: finetune.lr: 3, expected a list of values, or label: settings"),
        ({"grid": {"finetun.lr": [1]}}, "unknown key 'finetun.lr' in grid: .* did you mean 'finetune'"),
        ({"grid": {"lr": [1]}}, "unknown key 'lr' in grid: lr: 1, expected STAGE.SETTING or STAGE: false"),
        ({"grid": {"finetune.lrr": [1]}}, "finetune: unknown argument '--lrr'; did you mean 'lr'"),
        ({"grid": {"finetune.lr": ["big"]}}, "finetune: .*--lr: invalid float value: 'big'"),
        ({"grid": {"finetune.correlation": [2.0]}}, "finetune: correlation: 2.0, expected a probability"),
        ({"common": {"stepz": 3}}, "unknown key 'stepz' in common; did you mean 'steps'"),
        ({"pretrain": {"stepz": 3}}, "pretrain: unknown argument '--stepz'"),
        ({"figures": [{"title": "t", "colour": "x"}]}, "unknown key 'colour' in figures: 0; did you mean 'color'"),
        ({"figures": [{"title": "t", "rows": "rate"}]}, "figures: t: rows: 'rate', expected one of"),
        ({"figures": [{"title": "t", "stage": "reverse"}]}, "figures: t: stage: 'reverse', expected one of pretrain"),
        ({"figures": {"title": "t"}}, "figures: {'title': 't'}, expected a list"),
        ({"figures": [{"title": "t", "kind": "fronteer"}]}, "figures: t: kind: 'fronteer', expected one of lines, fr"),
        ({"figures": [{"title": "t", "kind": "frontier"}]}, r"figures: t: metrics: \[\], expected two of a frontier"),
        ({"figures": [{"title": "t", "metrics": "count_a"}]}, "figures: t: metrics: 'count_a', expected a list"),
        ({"compare": {"first_step": 3}}, "unknown key 'first_step' in compare"),
        ({"claims": [{"id": "c", "statement": "s", "bar": ">= 5"}]}, "claims: 0: metric: not given"),
        (
            {"grid": {"method": {"full": {}, "from scratch": {"pretrain": False}}}},
            "finetune: no stage before it makes a model, expected model in its section; random weights are those of",
        ),
        (
            {"probe": {}, "grid": {"base": {"none": {"pretrain": False, "finetune": False}}}},
            "probe: no stage before it",
        ),
        ({"common": {"seed": 3}}, "pretrain: seed: 3, expected none: it would be that of all repetitions"),
        ({"finetune": {"seed": 3}}, "finetune: seed: 3, expected none"),
        ({"grid": {"finetune.seed": [3, 4]}}, "finetune: seed: 3, expected none"),
        ({"claims": [CLAIM], **TWO_RATES}, r"claims: c: only: {}, but 2 points of the grid are so, expected one"),
        ({"claims": [{**CLAIM, "only": {"rate": 1}}], **TWO_RATES}, "claims: c: only: unknown axis 'rate', expected"),
        ({"claims": [{**CLAIM, "only": {"finetune.lr": 3}}], **TWO_RATES}, "only: finetune.lr: '3', expected one of"),
    ],
)
def test_what_cannot_be_is_named_before_anything_runs(tmp_path: Path, sections: dict[str, Any], message: str) -> None:
    config = SweepConfig(seeds=[0], output_dir=str(tmp_path / "out"))
    with pytest.raises(ValueError, match=message):
        Sweep(config, {**SECTIONS, **sections}, "nano")
    assert not (tmp_path / "out").exists()


LATE: list[tuple[dict[str, Any], str]] = [
    ({"finetune": {"objective": "npo"}}, "finetune: objective: npo does not suit the rows of task pcfg: "),
    (
        {"finetune": {"gradient_accumulation_steps": 3}},
        "finetune: batch_size: 8 rows cannot be shared equally by 1",
    ),
    ({"finetune": {"keep_rows": 25}}, "finetune: keep_rows: 25, expected at most 24, the rows that are trained on"),
    ({"finetune": {"keep_fisher": 25}}, "finetune: keep_fisher: 25, expected at most 24"),
    (
        {"finetune": {"replay_share": 0.5}},
        "finetune: replay_share: 0.5, but pretrain-seed0 is trained without",
    ),
    ({"finetune": {"ewc": 1.0}}, "finetune: ewc: 1.0, but pretrain-seed0 is trained without keep_fisher"),
    ({"finetune": {"snapshot": 2}}, r"finetune: snapshot: pretrain-seed0 keeps none of step 2, expected one of \[\]"),
    ({"finetune": {"text_length": 16}}, "finetune: model: pretrain-seed0 was trained on another vocabulary than"),
    (
        {"finetune": {"adapter": "lora", "lora_targets": ["q_proj"]}},
        "finetune: lora_targets: the model has no",
    ),
    ({"finetune": {"adapter": "osf"}}, "finetune: adapter: osf works on linear layers, and this model has Conv1D ones"),
    ({"finetune": {"min_labels": 8}}, "finetune: min_labels: 8, but only"),
    ({"finetune": {"log_with": "wandb"}}, "finetune: log_with: wandb is not installed"),
    (
        {"pretrain": {"text_length": 90}},
        "pretrain: n_positions: 64 of preset 'nano' are too few for the task",
    ),
    ({"pretrain": {"ewc": 1.0}}, "pretrain: ewc: 1.0 is of an earlier run, which a fresh model has none of"),
    (
        {"prune": {"sizes": [1, 10**7]}},
        "prune: sizes: 10000000, expected at most .*: the model has no more of",
    ),
    ({"prune": {"text_length": 16}}, "prune: model: finetune-seed0 was trained on another vocabulary"),
    ({"reverse": {"gradient_accumulation_steps": 5}}, "reverse: batch_size: 8 rows cannot be shared equally"),
]


@pytest.mark.parametrize(("changes", "message"), LATE)
def test_what_a_run_would_refuse_is_refused_before_those_that_it_needs_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "wandb" else find(name))
    sections = {name: {**SECTIONS.get(name, {}), **each} for name, each in changes.items()}
    with pytest.raises(ConfigError, match=f"^{message}"):
        make(tmp_path, seeds=(0,), **sections)
    assert not (tmp_path / "out").exists()


def test_what_an_earlier_run_leaves_is_there_for_a_later_one(tmp_path: Path) -> None:
    kept = {"keep_rows": 8, "keep_fisher": 4, "snapshots": [2]}
    tuned = {"replay_share": 0.5, "ewc": 1.0, "snapshot": None}
    sections = {"pretrain": {**SECTIONS["pretrain"], **kept}, "finetune": {**SECTIONS["finetune"], **tuned}}
    assert len(make(tmp_path, {"finetune.snapshot": {"end": None, "early": 2}}, seeds=(0,), **sections).folders) == 3


def test_a_claim_is_about_one_run_of_every_seed(tmp_path: Path) -> None:
    """Also where it says nothing of an axis that its stage does not depend on, and where a label is a number."""
    grid = {"finetune.lr": [0.1, 0.2]}
    for claim in ({**CLAIM, "only": {"finetune.lr": 0.2}}, {**CLAIM, "stage": "pretrain"}):
        sweep = Sweep(SweepConfig(output_dir=str(tmp_path)), {**SECTIONS, "grid": grid, "claims": [claim]}, "nano")
        assert [each.id for each in sweep.shown.claims] == ["c"]


def test_results_are_named_by_all_that_runs_are_made_of(tmp_path: Path) -> None:
    """A file's content and the scale are no part of the sections."""
    config, file = SweepConfig(seeds=[0], output_dir=str(tmp_path / "out")), tmp_path / "finetune.yaml"
    hashes = []
    for text in ("lr: 0.001\n", "lr: 0.002\n"):
        file.write_text(text, encoding="utf-8")
        by_axis = {"grid": {"method": {"file": {"finetune.config": str(file)}}}}
        by_section = {"finetune": {**SECTIONS["finetune"], "config": str(file)}}
        hashes += [Sweep(config, {**SECTIONS, **each}, "nano").hash for each in (by_axis, by_section)]
    hashes += [Sweep(config, SECTIONS, scale).hash for scale in ("nano", "micro")]
    assert len(set(hashes)) == 6
    # of settings that say all, results keep the name that they had before runs counted
    text = yaml.safe_dump({**SECTIONS, "seeds": [0]}, sort_keys=False)
    assert hashes[4] == config_hash({"sweep": text})


def test_a_file_without_stages_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a sweep needs a section for at least one of pretrain"):
        Sweep(SweepConfig(output_dir=str(tmp_path)), {"grid": {}}, "nano")
    with pytest.raises(ValueError, match=r"set: 'steps=3', expected entries like finetune.steps=20"):
        make(tmp_path, config={"set": ["steps=3"]})


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*/sweep_*.yaml")), ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_every_sweep_of_ours_can_be_planned(path: Path, tmp_path: Path) -> None:
    places = ["--output_dir", str(tmp_path), "--runs_dir", str(tmp_path)]
    sweep = STUDY.read_plan(["--config", str(path), *places, "--seeds", "0"])  # another is the same, run for run
    assert len(sweep.unfinished()) > 3
    assert path.read_text().startswith("# ")
    assert sweep.title != "Sweep"


def test_results_are_not_written_over_a_finished_run(tmp_path: Path) -> None:
    config = SweepConfig(seeds=[0], output_dir=str(tmp_path))
    (tmp_path / "env.json").write_text('{"kind": "sweep", "hash": "h"}', encoding="utf-8")  # its own are written again
    assert Sweep(config, SECTIONS, "nano").folders
    (tmp_path / "manifest.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match=r"output_dir: .* is a finished run, which the results of a study would"):
        Sweep(config, SECTIONS, "nano")


@pytest.mark.parametrize("name", ["output_dir", "runs_dir", "keep_measurements"])
def test_a_file_where_a_folder_is_to_be_is_named_before_anything_runs(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("mine")
    place = {
        "output_dir": str(tmp_path / "out"),
        "runs_dir": str(tmp_path / "runs"),
        name: str(tmp_path / "file" / "x.tar.xz"),
    }
    with pytest.raises(ValueError, match=rf"^{name}: .*file.*, but .*file is a file, expected a folder$"):
        Sweep(SweepConfig(seeds=[0], **place), SECTIONS, "nano")  # type: ignore[arg-type]


def test_what_was_tuned_by_its_head_alone_is_looked_into_and_not_what_it_was_tuned_from(tmp_path: Path) -> None:
    """Linear probing has no other fine-tuning: its head's run is the tuned model of every stage after it."""
    head = {"operators": "count", "operand_prior": "b", "steps": 2}
    more: dict[str, Any] = {stage: {} for stage in ("prune", "probe", "interpolate")}
    grid = {"arm": {"both": {}, "linear probing": {"finetune": False}}}
    sweep = make(tmp_path, grid, seeds=(0,), head=head, **more)
    runs = {cell.labels["arm"]: cell.runs for cell in sweep.points}
    assert runs["linear probing"]["head"] == runs["both"]["head"]
    for arm, tuned in (("both", "finetune"), ("linear probing", "head")):
        folder = str(sweep.folders[runs[arm][tuned]])
        assert kwargs_of(sweep, "prune", arm=arm)["config"].model == folder
        for stage in ("probe", "interpolate"):
            assert any(each.endswith(folder) for each in kwargs_of(sweep, stage, arm=arm)["config"].models), stage
