"""Seeds of the study of retrieval differ in all that an interval over seeds speaks of."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftmech_hf.studies.retrieval.one_fact import ask_one_fact
from ftmech_hf.studies.retrieval.plan import TUNINGS, RetrievalConfig, RetrievalPlan
from ftmech_hf.tasks import RowStream
from ftmech_hf.tasks.library.world import find_world


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> RetrievalPlan:
    return RetrievalPlan(RetrievalConfig(seeds=[3, 4], rates=[], output_dir=str(tmp_path_factory.mktemp("plan"))))


def test_every_run_of_a_seed_is_of_that_seeds_worlds(plan: RetrievalPlan, tmp_path: Path) -> None:
    for seed in (3, 4):
        for name in ("base", "heart", "random", *TUNINGS):
            assert plan.called_with(f"{name}-seed{seed}")["task"].world_seed == seed
        for name in ("closed-full-2", "heart", "random"):
            assert plan.called_with(f"reversed-{name}-seed{seed}")["task"].world_seed == seed
        for kind in ("asked-base", "taught-base", "inside-base"):
            assert plan.called_with(f"{kind}-seed{seed}")["library"].world_seed == seed


@pytest.mark.parametrize("name", ["base", "heart", "closed-full-0", "oracle-full", "reversed-heart"])
def test_what_is_taught_differs_from_seed_to_seed(plan: RetrievalPlan, name: str) -> None:
    """They were the same questions with the same answers, in another order."""
    rows = []
    for seed in (3, 4):
        task = plan.called_with(f"{name}-seed{seed}")["task"]
        drawn = RowStream(task, seed=seed, split="train").rows(0, 64).token_ids.tolist()
        rows.append({tuple(row) for row in drawn})
    assert len(rows[0]) > 32
    assert len(rows[0] & rows[1]) <= 3


def test_what_is_asked_of_one_fact_is_of_the_seeds_own_worlds() -> None:
    worlds = {seed: find_world("domain", seed) for seed in (0, 1)}
    assert (worlds[0].values != worlds[1].values).mean() > 0.8
    for part in ("fit", "choose", "report"):
        told = [{(*each.person, each.value) for each in ask_one_fact(part, 200, seed)} for seed in (0, 1)]  # type: ignore[arg-type]
        assert len(told[0]) > 100
        assert len(told[0] & told[1]) <= 10
