"""A library is trained on like any task: its gate is what is measured, and a search finds what it should."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftmech_hf.jobs.training import FinetuneConfig, PretrainConfig, finetune, pretrain
from ftmech_hf.retrieval import Query, RandomRetriever, recall_at
from ftmech_hf.runs import FinishedRun
from ftmech_hf.tasks.library.documents import gold_document
from ftmech_hf.tasks.library.questions import corpus, draw_asked, in_words, search
from ftmech_hf.tasks.library.task import GATE, LibraryConfig
from ftmech_hf.tasks.library.world import find_world
from ftmech_hf.tasks.schema import split_generator
from ftmech_hf.training.settings import TrainConfig


def test_it_is_pretrained_and_tuned(tmp_path: Path) -> None:
    train = TrainConfig(steps=2, batch_size=4, eval_rows=4, final_eval_rows=8, num_evals=0)
    place = PretrainConfig(task="library", preset="nano-stories", n_layer=1, n_embd=16, n_head=2,
                           output_dir=str(tmp_path / "base"))  # fmt: skip
    base = FinishedRun(pretrain(place, LibraryConfig(), train).path)
    assert {f"accuracy/{name}" for name in GATE} <= base.metrics[-1].keys()
    assert {floor["name"]: floor["floor"] for floor in base.env["floors"] if floor["rows"] == 8}["missing"] == 1.0
    asked = LibraryConfig(mixture="questions", context="bm25", pairs=10, people="trained")
    tuned = FinetuneConfig(task="library", model=str(base.path), output_dir=str(tmp_path / "tuned"))
    assert "accuracy/all" in FinishedRun(finetune(tuned, asked, train).path).metrics[-1]


def test_what_a_search_finds_of_the_people() -> None:
    """As many documents as a person has find one fact nearly always, fewer do not; two hops are beyond one search."""
    world, rng = find_world("domain", 0), split_generator(0, "test", 0)
    for asked, known in (("one", {1: 0.47, 2: 0.59, 4: 0.99}), ("several", {2: 0.11, 4: 0.97}), ("friend", {4: 0.02})):
        questions = [draw_asked(rng, world, int(rng.integers(600)), asked) for _ in range(200)]  # type: ignore[arg-type]
        queries = [
            Query(in_words(each.asked), tuple(gold_document(world, fact) for fact in each.facts)) for each in questions
        ]
        ranking = search("bm25", "domain", 0)(queries, 4)
        for k, share in known.items():
            assert recall_at(queries, ranking, k).row["all_gold"] == pytest.approx(share, abs=0.1), (asked, k)
    by_chance = RandomRetriever(len(corpus("domain", 0)))(queries, 4)
    assert recall_at(queries, by_chance, 4).row["recall"] < 0.02
