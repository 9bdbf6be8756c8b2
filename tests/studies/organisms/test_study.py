"""The study of organisms: what its plan makes of which seeds, and that it runs from pretraining to the page."""

from __future__ import annotations

import functools
import json
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from ftmech_hf.models.presets import PRESETS
from ftmech_hf.studies.diagnosis.case import CaseConfig
from ftmech_hf.studies.organisms.disjoint import DisjointConfig
from ftmech_hf.studies.organisms.edits import DECOY, PLANTED, planted_places
from ftmech_hf.studies.organisms.kinds import KINDS
from ftmech_hf.studies.organisms.pairs_table import KEPT
from ftmech_hf.studies.organisms.plan import OrganismsPlan
from ftmech_hf.studies.organisms.results import write_results
from ftmech_hf.studies.organisms.robustness import TAMPERED
from ftmech_hf.studies.organisms.settings import OrganismsConfig
from ftmech_hf.tasks import PcfgShape
from tests.browser import check_page
from tests.pictures import draw_nothing


def make_plan(tmp_path: Path, **changes: object) -> OrganismsPlan:
    config = OrganismsConfig(output_dir=str(tmp_path), **changes)  # type: ignore[arg-type]
    return OrganismsPlan(config, CaseConfig(), PcfgShape())


def test_test_pairs_have_other_seeds_another_root_and_other_operands(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    parts = {split: [world for world in plan.worlds if world.split == split] for split in ("development", "test")}
    seeds, roots, operands, turns = (
        {split: {read(world) for world in worlds} for split, worlds in parts.items()}
        for read in (
            lambda world: world.seed, lambda world: world.shape.root,
            lambda world: (world.shape.base_operand, world.shape.correlated_operand),
            lambda world: (world.operator, world.preset),
        )
    )  # fmt: skip
    for each in (seeds, roots, operands):
        assert not each["development"] & each["test"]
    assert turns["development"] == turns["test"]
    assert len(turns["test"]) == 6
    made = Counter(KINDS[pair.kind].truth for pair in plan.pairs)
    assert made["hidden"] >= 40
    assert made["gone"] >= 30
    assert made["weakened"] >= 30
    assert made["unchanged"] >= 40


def test_while_it_is_developed_there_are_no_test_pairs_and_few_seeds_have_every_task_and_size(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, develop=True, development_seeds=[7, 8, 9], presets=["nano", "nano-llama"])
    assert [(world.split, world.seed) for world in plan.worlds] == [("development", seed) for seed in (7, 8, 9)]
    turns = [(world.operator, world.preset) for world in plan.worlds]
    assert turns == [("count", "nano"), ("index", "nano-llama"), ("index", "nano")]


def test_what_never_had_it_is_asked_about_the_other_operand_alone_and_is_everyones_control(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, seeds=[0], development_seeds=[100])
    cells = {cell.name: cell for cell in plan.cells()}
    for world in plan.worlds:
        task = cells[world.never_had].kwargs["task"]
        prior = dict(zip(task.symbols, map(float, task.operand_prior), strict=True))
        assert prior[world.shape.base_operand] == 0
        assert prior[world.shape.correlated_operand] == 1
        base = cells[world.base].kwargs["task"]
        assert float(base.operand_prior[base.symbols.index(world.shape.base_operand)]) == 0.999
    for pair in plan.pairs:
        config = cells[pair.diagnosis].kwargs["config"]
        assert config.control == str(plan.folders[pair.world.never_had])
        assert config.base == str(plan.folders[pair.world.base])
        if pair.relearning:
            relearned = cells[pair.relearning].kwargs
            asked = relearned["task"]
            assert asked.operand_prior[asked.symbols.index(pair.world.shape.base_operand)] == "1"
            assert relearned["config"].split == "reverse"


def test_pairs_whose_ability_is_lost_are_diagnosed_again_whatever_they_answer(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, seeds=[0, 1], development_seeds=[100], tampered_seeds=[0])
    cells = {cell.name: cell for cell in plan.cells()}
    tampered = [pair for pair in plan.pairs if pair.tampered]
    assert [pair.kind for pair in tampered] == [n for n, kind in KINDS.items() if kind.truth in ("hidden", "gone")]
    assert {pair.world.seed for pair in tampered} == {0}
    for pair in tampered:
        assert pair.tampered is not None
        asked = {name: cells[getattr(pair.tampered, name)].kwargs for name in TAMPERED}
        models = {name: Path(each["config"].finetuned).name for name, each in asked.items()}
        assert {each["case_config"].thorough for each in asked.values()} == {True}
        assert {each["config"].control for each in asked.values()} == {str(plan.folders[pair.world.never_had])}
        assert models["never"] == plan.folders[pair.world.never_had].name
        made = {name: next(cell for cell in cells.values() if plan.folders[cell.name].name == model)
                for name, model in models.items()}  # fmt: skip
        assert made["rounded"].kwargs["config"].model == str(plan.folders[pair.organism])
        assert made["relearned"].kwargs["config"].model == str(plan.folders[pair.organism])
        assert made["never_relearned"].kwargs["config"].model == str(plan.folders[pair.world.never_had])
        assert {made[name].kwargs["train"].steps for name in ("relearned", "never_relearned")} == {8}
    assert {pair.kind for pair in plan.pairs if pair.disjoint} == {pair.kind for pair in tampered}
    for pair in (each for each in plan.pairs if each.disjoint):
        relearns = cells[str(pair.disjoint)].kwargs["config"]
        asked_of = {"base": pair.world.base, "finetuned": pair.organism, "control": pair.world.never_had}
        assert {role: getattr(relearns, role) for role in asked_of} == {
            role: str(plan.folders[name]) for role, name in asked_of.items()
        }
        assert (relearns.operator, relearns.seed) == (pair.world.operator, pair.world.seed)
    assert len({pair.tampered.never for pair in tampered if pair.tampered}) == 1  # of one world, once
    for thorough in (False, True):
        case = OrganismsPlan(plan.config, CaseConfig(thorough=thorough), PcfgShape())
        asked_once = {cell.name: cell for cell in case.cells()}[case.pairs[0].diagnosis].kwargs["case_config"]
        assert asked_once.thorough == thorough


def test_an_edit_is_planted_on_what_was_trained_and_looked_for_beside_the_base(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, seeds=[0, 1], development_seeds=[100], edited_seeds=[0], presets=["nano"])
    cells = {cell.name: cell for cell in plan.cells()}
    assert {each.world.seed for each in plan.planted} == {0}
    assert len({each.run for each in plan.planted}) == len(plan.planted) == 6
    by_folder = {plan.folders[name].name: cell.kwargs for name, cell in cells.items()}
    targets = planted_places(PRESETS["nano"])
    after = [(list(targets).index(each.other) - number) % 6 for number, each in enumerate(plan.planted)]
    assert after == [5, 1] * 3, "before and after take turns"
    for each in plan.planted:
        looks = cells[each.run].kwargs
        case = looks["case_config"]
        assert (case.edits, case.attacks, case.thorough) == (True, False, True)
        assert "change" not in looks["config"].leave_out
        assert {"pruning", "tampering", "intruders", "attack_grid"} <= set(looks["config"].leave_out)
        assert looks["config"].base == str(plan.folders[each.world.base])
        whole = by_folder[Path(looks["config"].finetuned).name]["config"]
        start, adapter = (model.partition("=")[2] for model in whole.models)
        taught, before = by_folder[Path(adapter).name], by_folder[Path(start).name]
        assert taught["config"].model == start, "the adapter is merged into what it was trained on"
        part, block = each.place.split()[0], each.place.split()[-1]
        assert taught["adapter"].lora_targets == [f"{block}.{part}.c_proj"]
        assert taught["adapter"].lora_rank == 1
        assert taught["task"].correlation == 1.0
        first, adapter = (model.partition("=")[2] for model in before["config"].models)
        decoy, practised = by_folder[Path(adapter).name], by_folder[Path(first).name]
        assert decoy["adapter"].lora_targets == [targets[each.other]] != [targets[each.place]], "it is elsewhere"
        assert (decoy["task"].label_rule, taught["task"].label_rule) == ("random", "right")
        assert decoy["task"].operators == ["token_at"] != taught["task"].operators
        assert decoy["task"].mix_operators == [each.world.operator], "the ability is kept, and it alone"
        assert practised["config"].model == str(plan.folders[each.world.base])

        assert cells[each.taken].kwargs is decoy, "what is left of the other ability is read off its training"
        assert cells[each.kept].kwargs is before
        assert practised["adapter"].adapter == "none"
    lost = {pair.name for pair in plan.pairs if pair.world.seed == 0 and KINDS[pair.kind].truth != "unchanged"}
    assert set(plan.shaken) == lost
    for pair in (each for each in plan.pairs if each.name in lost):
        asked = cells[plan.shaken[pair.name]].kwargs
        assert asked["case_config"].attacks
        assert "tampering" not in asked["config"].leave_out
        assert {"attack_grid", "change"} <= set(asked["config"].leave_out)
        assert asked["config"].finetuned == str(plan.folders[pair.organism])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"edited_seeds": [7]}, "edited_seeds: 7, expected some of 0, 1, 2"),
        ({"seeds": [100]}, "development_seeds: 100 is among seeds, too, expected others"),
        ({"kinds": ["cut"]}, "kinds: 'cut', expected some of shortcut"),
        ({"kinds": []}, "kinds: 'none', expected some of shortcut"),
        ({"operators": ["sum"]}, "operators: sum, expected some of count"),
        ({"operators": []}, "operators: none, expected some of count"),
        ({"presets": []}, "presets: none, expected at least one"),
        ({"presets": ["giant"]}, "preset: unknown 'giant'"),
        ({"tampered_seeds": [7]}, "tampered_seeds: 7, expected some of 0, 1, 2"),
        ({"rounded_bits": 1}, "rounded_bits: 1, expected at least 2"),
        (
            {"presets": ["nano", "paper-stories"], "edited_seeds": [0]},
            "presets: 'paper-stories' has more than 6 blocks",
        ),
        ({"tampered_steps": 0}, "tampered_steps: 0, expected at least 1"),
        ({"test_operands": ["b"]}, "test_operands: 'b', expected two"),
    ],
)
def test_settings_that_cannot_be_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OrganismsConfig(**changes)  # type: ignore[arg-type]


def test_it_runs_and_says_of_every_pair_what_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {"lr": 1e-3, "steps": 1}
    monkeypatch.setitem(PRESETS, "nano", PRESETS["nano"]._replace(n_layer=2, n_embd=16))
    monkeypatch.setattr("ftmech_hf.studies.organisms.plan.PLANTED", PLANTED._replace(train=few))
    monkeypatch.setattr("ftmech_hf.studies.organisms.plan.DECOY", DECOY._replace(train=few))
    monkeypatch.setattr(
        "ftmech_hf.studies.organisms.plan.planted_places",
        lambda shape: {f"{part} of block 1": f"1.{part}.c_proj" for part in ("attn", "mlp")},
    )
    few_rows = functools.partial(DisjointConfig, train_rows=400, test_rows=128, steps=2)
    monkeypatch.setattr("ftmech_hf.studies.organisms.plan.DisjointConfig", few_rows)
    case = CaseConfig(
        rows=32, fit_rows=32, prune_sizes=[0, 2], random_masks=2, repeats=2, reverse_steps=4, most_reverse_steps=4,
        null_steps=0,
    )  # fmt: skip
    config = OrganismsConfig(
        output_dir=str(tmp_path), seeds=[0], development_seeds=[100], kinds=["never had it", "copy"],
        operators=["count"], presets=["nano"], base_steps=2, tune_steps=2, relearn_steps=2, tampered_seeds=[0],
        tampered_steps=1, edited_seeds=[0],
    )  # fmt: skip
    plan = OrganismsPlan(config, case, PcfgShape(text_length=24, count_window=8, token_at_position=8, min_labels=4))
    with monkeypatch.context() as making:
        draw_nothing(making)  # on pages of single diagnoses, which no test here looks at
        for cell in plan.cells():
            cell.function(**cell.kwargs)
    assert plan.cells() == []
    claims = write_results(plan)
    assert [each["id"] for each in json.loads((tmp_path / "claims.json").read_text())] == [each.id for each in claims]
    pairs = pd.read_parquet(tmp_path / "pairs.parquet")
    assert tuple(pairs.columns[: len(KEPT)]) == KEPT
    assert list(pairs["truth"]) == ["gone", "unchanged"] * 2
    assert list(pairs["split"]) == ["development"] * 2 + ["test"] * 2
    assert set(pairs["verdict"]) == {"nothing to lose"}  # the base of two steps knows nothing
    assert not pairs["right"].any()
    score = json.loads((tmp_path / "score.json").read_text())
    assert score["pairs"] + len(score["disagree"]) == 2
    assert all(pairs[f"{name}_revival"].notna().tolist() == [False, False, True, False] for name in TAMPERED)
    assert pairs["disjoint"].notna().tolist() == [True, False] * 2
    assert [each["planted"] for each in score["edits"]["too_little"]] == [
        f"{part} of block 1, count, nano, seed 0" for part in ("attn", "mlp")
    ], "such a base has nothing to lose"
    for each in score["edits"]["too_little"]:
        assert 0 <= each["kept"] <= 1, "asked of a run that has it"
        assert 0 <= each["other_left"] <= 1
    assert sum(each["of"] for each in score["edits"]["noise"].values()) + len(score["disagree"]) == 1
    page = (tmp_path / "report.html").read_text()
    assert "mlp of block 1, count, nano, seed 0" in page
    assert "never had it, count, nano, seed 0" in page
    assert "copy, count, nano, seed 100" in page
    check_page(tmp_path / "report.html")
