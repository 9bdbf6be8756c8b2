"""What a run leaves, and whether the runs that go on from it take it up: through the jobs, as users do."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ftmech_hf.config import Notice
from ftmech_hf.jobs.training import FinetuneConfig, PretrainConfig, finetune, pretrain
from ftmech_hf.jobs.training_checks import check_keeping
from ftmech_hf.models.loading import load_model
from ftmech_hf.tasks import Capability, PcfgConfig, Rows, RowStream, for_capability
from ftmech_hf.tasks.stories import StoriesConfig
from ftmech_hf.training import inheritance
from ftmech_hf.training.adapters import AdapterConfig, add_adapter
from ftmech_hf.training.earlier_tasks import answer_logits_of
from ftmech_hf.training.inheritance import (
    Inheritance,
    check_inherited,
    inherited_bytes,
    load_inheritance,
)
from ftmech_hf.training.keeping_settings import KeepingConfig
from ftmech_hf.training.kept_rows import ReplayStream, shuffled_answers, widened
from ftmech_hf.training.objectives import OBJECTIVES, Batch
from ftmech_hf.training.settings import TrainConfig
from tests.conftest import make_gpt2

SMALL = PcfgConfig(text_length=12, count_window=8, index_occurrence=2, token_at_position=6, min_labels=4)
TRAIN: dict[str, Any] = {"steps": 3, "batch_size": 8, "num_evals": 0, "eval_rows": 8, "final_eval_rows": 8, "lr": 1e-2}
LORA = AdapterConfig(adapter="lora", lora_rank=2)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base; a first task that keeps rows and information; an adapter for the first task."""
    folder = tmp_path_factory.mktemp("inheritance")
    place = PretrainConfig(n_layer=1, n_head=2, n_embd=16, output_dir=str(folder / "base"))
    pretrain(place, SMALL, TrainConfig(**TRAIN))
    tune(folder, "base", "first", keep_rows=5, keep_fisher=4)
    tune(folder, "base", "adapter", adapter=LORA)
    return folder


def tune(
    folder: Path, model: str, output: str, operand: str = "b", adapter: AdapterConfig | None = None,
    anchor: str | None = None, **keeping: Any,
) -> Path:  # fmt: skip
    train = TrainConfig(**TRAIN, objective="answer_only", optimizer="adamw", **keeping)
    place = FinetuneConfig(model=str(folder / model), anchor_model=anchor, output_dir=str(folder / output))
    return finetune(place, for_capability(SMALL, Capability("count", operand)), train, adapter).path


def weights(folder: Path) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in load_model(str(folder)).parameters()])


def test_packed_stories_are_kept_and_shown_again_without_logits(tmp_path: Path) -> None:
    stories = StoriesConfig(row_tokens=64, vocab_size=280)
    place = PretrainConfig(task="stories", preset="nano-stories", output_dir=str(tmp_path / "base"))
    train = {**TRAIN, "objective": "documents", "optimizer": "adamw"}
    pretrain(place, stories, TrainConfig(**{**train, "steps": 0}))

    def delete(feature: str, start: str, output: str, **keeping: Any) -> Path:
        place = FinetuneConfig(task="stories", model=str(tmp_path / start), output_dir=str(tmp_path / output))
        task = dataclasses.replace(stories, without=feature)
        return finetune(place, task, TrainConfig(**train, **keeping)).path

    file = "inheritance/rows.safetensors"
    kept = load_file(delete("Twist", "base", "first", keep_rows=5) / file)
    rows = RowStream(dataclasses.replace(stories, without="Twist"), seed=0, split="finetune").rows(0, 5)
    assert np.array_equal(kept["token_ids"].numpy(), rows.token_ids)
    assert "logits" not in kept
    both = load_file(delete("Dialogue", "first", "second", keep_rows=3, replay_share=0.9) / file)
    assert both["token_ids"].shape[0] == 8
    assert torch.equal(both["token_ids"][:5], kept["token_ids"])
    delete("Dialogue", "first", "without")
    apart = weights(tmp_path / "second") - weights(tmp_path / "without")
    assert apart.abs().max() > 1e-4  # other rows were learned
    with pytest.raises(ValueError, match=r"der: 0\.5 is of answers, which the rows of task stories lack"):
        delete("Dialogue", "first", "third", replay_share=0.5, der=0.5)
    with pytest.raises(ValueError, match="keep_fisher: 4 is of answers"):
        delete("Dialogue", "first", "third", keep_fisher=4)


def test_rows_and_logits_are_those_that_were_learned_and_add_up(runs: Path) -> None:
    kept = load_file(runs / "first" / "inheritance" / "rows.safetensors")
    rows = RowStream(for_capability(SMALL, Capability("count", "b")), seed=0, split="finetune").rows(0, 5)
    assert np.array_equal(kept["token_ids"].numpy(), rows.token_ids)
    with torch.no_grad():
        expected = answer_logits_of(load_model(str(runs / "first")), Batch(torch.from_numpy(rows.token_ids)))
    torch.testing.assert_close(kept["logits"], expected, rtol=1e-4, atol=1e-4)
    tune(runs, "first", "second", "c", keep_rows=7, keep_fisher=4, ewc=1.0, replay_share=0.5, der=0.5)
    both = load_file(runs / "second" / "inheritance" / "rows.safetensors")
    assert both["token_ids"].shape[0] == both["logits"].shape[0] == 12
    assert torch.equal(both["token_ids"][:5], kept["token_ids"])
    assert torch.equal(both["logits"][:5], kept["logits"])  # as they were then
    new = RowStream(for_capability(SMALL, Capability("count", "c")), seed=0, split="finetune").rows(0, 7)
    assert np.array_equal(both["token_ids"][5:].numpy(), new.token_ids)  # new rows, and no replayed ones
    first, second = (load_file(runs / run / "inheritance" / "fisher.safetensors") for run in ("first", "second"))
    assert set(first) == {name for name, _ in load_model(str(runs / "first")).named_parameters()}
    assert all((second[name] >= first[name]).all() for name in first)
    assert any((second[name] > first[name]).any() for name in first)


def test_logits_are_kept_where_they_are_asked_for(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of large vocabularies they take more than all else, and only der reads them."""

    def file(run: str) -> dict[str, torch.Tensor]:
        return load_file(runs / run / "inheritance" / "rows.safetensors")

    tune(runs, "base", "rows-alone", keep_rows=5, keep_logits="never")
    assert "logits" not in file("rows-alone")
    with pytest.warns(Notice, match="keep_rows: the logits of 2 rows"):  # there are none of new ones either
        tune(runs, "rows-alone", "after-those", "c", keep_rows=2)
    assert "logits" not in file("after-those")
    with pytest.raises(ValueError, match="keep_logits: always, but the run before keeps rows without logits"):
        tune(runs, "rows-alone", "never-begun", "c", keep_rows=2, keep_logits="always")
    with pytest.raises(ValueError, match=r"der: 0\.5, but the run of .* keeps no logits: .*with keep_logits: always"):
        tune(runs, "rows-alone", "refused", "c", replay_share=0.5, der=0.5)
    monkeypatch.setattr(inheritance, "MOST_LOGITS", 4 * len(SMALL.vocabulary) * 5 - 1)
    with pytest.warns(
        Notice, match=f"keep_rows: the logits of 5 rows over {len(SMALL.vocabulary)} tokens are not kept"
    ):
        tune(runs, "base", "too-many", keep_rows=5)
    assert "logits" not in file("too-many")
    assert torch.equal(file("too-many")["token_ids"], file("first")["token_ids"])
    tune(runs, "base", "asked", keep_rows=5, keep_logits="always")
    torch.testing.assert_close(file("asked")["logits"], file("first")["logits"])
    with pytest.warns(Notice, match="keep_rows: the logits of 2 rows"):  # with those that are left
        tune(runs, "first", "left", "c", keep_rows=2)
    assert "logits" not in file("left")
    assert len(file("left")["token_ids"]) == 7
    tune(runs, "first", "der", "c", keep_rows=2, replay_share=0.5, der=0.5)
    assert len(file("der")["logits"]) == 7


def test_what_a_run_leaves_is_counted_before_it_begins(runs: Path) -> None:
    model, stream = load_model(str(runs / "base")), stream_of("b")
    earlier = load_inheritance(str(runs / "first"), KeepingConfig(keep_rows=1))
    words = len(SMALL.vocabulary)
    for keeping, left, size in (
        ({}, Inheritance(), 0), ({"keep_rows": 9}, Inheritance(), 9 * 4 * words),
        ({"keep_rows": 9}, earlier, 14 * 4 * words), ({"keep_rows": 9, "keep_logits": "never"}, earlier, 0),
        ({"keep_fisher": 2}, Inheritance(), 4 * model.num_parameters()),
    ):  # fmt: skip
        assert inherited_bytes(model, stream, KeepingConfig(**keeping), left, 9) == size
    for name in ("keep_rows", "keep_fisher"):
        with pytest.raises(ValueError, match=f"^{name}: 9, expected at most 8, the rows that are trained on$"):
            inherited_bytes(model, stream, KeepingConfig(**{name: 9}), Inheritance(), 8)  # type: ignore[arg-type]


def test_what_a_run_takes_up_changes_what_is_learned(runs: Path) -> None:
    """Against plain tuning of the same model on the same rows; and the control of a way is another run than it."""
    body = AdapterConfig(trainable="body")
    ways: dict[str, dict[str, Any]] = {
        "plain": {}, "average": {"average": 0.5}, "ewc": {"ewc": 30.0}, "replay": {"replay_share": 0.5},
        "replay-shuffled": {"replay_share": 0.5, "replay_shuffled": True}, "ldifs": {"ldifs": 10.0, "adapter": body},
        "ldifs-base": {"ldifs": 10.0, "anchor": str(runs / "base"), "adapter": body},
    }  # fmt: skip
    found = {name: weights(tune(runs, "first", f"way-{name}", "c", **way)) for name, way in ways.items()}
    for one, other in itertools.combinations(found, 2):
        assert not torch.equal(found[one], found[other]), (one, other)
    start = weights(runs / "first")
    torch.testing.assert_close(found["average"], (start + found["plain"]) / 2)
    assert (found["ewc"] - start).norm() < (found["plain"] - start).norm()
    heads = [
        load_model(str(runs / name)).get_output_embeddings().weight  # type: ignore[union-attr]
        for name in ("first", "way-ldifs", "way-plain")
    ]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_an_adapter_is_kept_apart_from_the_one_it_stands_on(runs: Path) -> None:
    lora = dataclasses.replace(LORA, lora_alpha=4.0)
    plain = tune(runs, "adapter", "second-adapter", "c", adapter=lora)
    apart = tune(runs, "adapter", "second-apart", "c", adapter=lora, olora=100.0)
    earlier = load_file(runs / "adapter" / "adapter_model.safetensors")

    def overlap(run: Path) -> float:
        mine = load_file(run / "adapter_model.safetensors")
        return sum(float((earlier[name] @ mine[name].T).abs().sum()) for name in mine if ".lora_A." in name)

    assert overlap(apart) < 0.9 * overlap(plain)


@pytest.mark.parametrize(
    ("model", "way", "message"),
    [
        (
            "base",
            {"ewc": 1.0},
            "ewc: 1.0, but the run of .*base keeps no Fisher information; train it with",
        ),
        ("base", {"replay_share": 0.1}, "replay_share: 0.1, but the run of .*base keeps no rows"),
        ("base", {"olora": 0.5, "adapter": LORA}, "olora: 0.5, but the run of .*base stands on no LoRA adapter"),
        ("first", {"olora": 0.5}, "olora: 0.5 is of LoRA adapters, expected adapter: lora"),
        ("first", {"ewc": 1.0, "adapter": LORA}, "ewc: 1.0 is of a model's own weights, expected adapter: none"),
        ("first", {"anchor": "first"}, "anchor_model: first changes nothing, expected ldifs or lfl above 0"),
        ("first", {"lwf": 1.0, "lwf_ask": ["count_x"]}, "lwf_ask: 'count_x', expected capabilities such as count_a"),
    ],
)
def test_what_cannot_be_kept_is_said_in_a_line(runs: Path, model: str, way: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tune(runs, model, "refused", "c", **way)
    assert not list(runs.glob("refused*"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keep_logits": "always"}, "keep_logits: always changes nothing, expected keep_rows above 0"),
        ({"keep_logits": "some", "keep_rows": 3}, "keep_logits: 'some', expected one of auto, always, never"),
        ({"der": 1.0}, "der: 1.0 compares rows that are replayed, expected replay_share above 0"),
        ({"ewc_permuted": True}, "ewc_permuted: True changes nothing, expected ewc above 0"),
        ({"ldifs_norm": "positions"}, "ldifs_norm: positions changes nothing, expected ldifs above 0"),
        ({"lwf_temperature": 1.0}, "lwf_temperature: 1.0 changes nothing, expected lwf above 0"),
        ({"average": 1.0}, "average: 1.0, expected a share, 0 or more and less than 1"),
        ({"lwf_temperature": 0.0}, "lwf_temperature: 0.0, expected a number above 0"),
    ],
)
def test_settings_that_say_nothing_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KeepingConfig(**settings)


def stream_of(operand: str) -> RowStream:
    return RowStream(for_capability(SMALL, Capability("count", operand)), seed=0, split="finetune")


def test_replayed_rows_are_a_share_and_a_function_of_the_row_number() -> None:
    kept = stream_of("a").rows(0, 20)
    stream = ReplayStream(stream_of("b"), kept, 0.25)
    rows = stream.rows(0, 3000)
    assert rows.kept is not None
    old = rows.kept >= 0
    assert 0.22 < old.mean() < 0.28
    assert set(rows.kept[old]) == set(range(20))
    assert np.array_equal(rows.token_ids[old], kept.token_ids[rows.kept[old]])
    assert np.array_equal(rows.token_ids[~old], stream_of("b").rows(0, 3000).token_ids[~old])
    for start, stop in ((0, 8), (1020, 1030), (2500, 2501)):
        part = stream.rows(start, stop)
        assert np.array_equal(part.token_ids, rows.token_ids[start:stop])
        assert np.array_equal(part.kept, rows.kept[start:stop])  # type: ignore[arg-type]
    assert Batch.of(rows[:8]).kept.tolist() == rows.kept[:8].tolist()  # type: ignore[union-attr]


def test_shuffled_rows_keep_their_prompts_and_all_answers_but_not_together() -> None:
    kept = stream_of("a").rows(0, 200)
    control = shuffled_answers(kept, 0)
    assert np.array_equal(np.delete(control.token_ids, -2, 1), np.delete(kept.token_ids, -2, 1))
    assert np.array_equal(np.sort(control.token_ids[:, -2]), np.sort(kept.token_ids[:, -2]))
    same = (control.token_ids[:, -2] == kept.token_ids[:, -2]).mean()
    assert same < 0.4  # by chance, of nine answers
    assert (shuffled_answers(kept, 1).token_ids != control.token_ids).any()


def test_rows_of_different_widths_are_put_together_where_they_say_where_they_end() -> None:
    ids = np.arange(6).reshape(2, 3)
    some = np.ones((2, 3), bool)
    rows = Rows(ids, np.zeros(2, np.int64), np.zeros(2, bool), answers=some, lengths=np.array([3, 2]))
    wide = widened(rows, 5)
    assert wide.token_ids.tolist() == [[0, 1, 2, 0, 0], [3, 4, 5, 0, 0]]
    assert wide.answers is not None
    assert wide.answers.tolist() == [[True] * 3 + [False] * 2] * 2
    unmarked = Rows(ids, np.zeros(2, np.int64), np.zeros(2, bool))
    with pytest.raises(ValueError, match=r"^replay_share: kept rows of 3 tokens beside rows of 5, expected one length"):
        widened(unmarked, 5)


def test_rows_of_another_kind_or_length_are_refused_before_anything_is_trained() -> None:
    """Of another kind the rows that were kept lost their answers, without a word."""
    rows, stream = stream_of("a").rows(0, 2), stream_of("a")
    model, keep = make_gpt2(len(SMALL.vocabulary)), TrainConfig(keep_rows=2, keep_logits="never")
    wider = dataclasses.replace(rows, token_ids=np.pad(rows.token_ids, ((0, 0), (0, 4))))
    marked = dataclasses.replace(rows, answers=np.ones(rows.token_ids.shape, bool), lengths=np.array([5, 5]))
    width = rows.token_ids.shape[1]
    assert inheritance.inherited_bytes(model, stream, keep, Inheritance(rows=rows), 100) >= 0
    for earlier, reason in (
        (wider, f"kept rows of {width + 4} tokens beside rows of {width}, expected one length"),
        (marked, "kept rows have token_ids and label and correlated and answers and lengths, and new ones "),
    ):
        with pytest.raises(ValueError, match=f"^keep_rows: {reason}"):
            inheritance.inherited_bytes(model, stream, keep, Inheritance(rows=earlier), 100)


def test_what_frozen_weights_keep_of_earlier_tasks_is_not_lost(runs: Path) -> None:
    tune(runs, "first", "head-next", "c", keep_fisher=4, adapter=AdapterConfig(trainable="head"))
    first, second = (load_file(runs / run / "inheritance" / "fisher.safetensors") for run in ("first", "head-next"))
    assert set(second) == set(first)
    changed = {name for name in first if not torch.equal(first[name], second[name])}
    assert changed == {"lm_head.weight"}


def test_what_cannot_be_kept_is_refused_by_name_before_anything_is_written(runs: Path, tmp_path: Path) -> None:
    model, earlier = load_model(str(runs / "first")), Inheritance(fisher={"lm_head.weight": torch.ones(1)})
    said = r"ewc: 1.0, but the run before keeps no Fisher information of transformer.wte.weight and \d+ more"
    with pytest.raises(ValueError, match=said):
        check_inherited(model, KeepingConfig(ewc=1.0), earlier)
    check_inherited(model, KeepingConfig(keep_fisher=2), earlier)
    adapted = add_adapter(load_model(str(runs / "base")), AdapterConfig(adapter="lora", lora_targets=["c_fc"]),
                          base="x", seed=0)  # fmt: skip
    other = Inheritance(adapters=({"base_model.model.transformer.h.0.attn.c_attn.lora_A.weight": torch.ones(1)},))
    with pytest.raises(ValueError, match=r"olora: 0.5, but no earlier adapter is on a module of this one"):
        check_inherited(adapted, KeepingConfig(olora=0.5), other)
    place = PretrainConfig(n_layer=1, n_head=2, n_embd=16, output_dir=str(tmp_path / "fresh"))
    for setting in ("ewc", "olora", "replay_share"):
        with pytest.raises(ValueError, match=f"{setting}: 0.5 is of an earlier run, which a fresh model has none of"):
            pretrain(place, SMALL, TrainConfig(**TRAIN, **{setting: 0.5}))
    with pytest.raises(ValueError, match="keep_fisher: 2 is of answers, which the rows of task stories lack"):
        pretrain(dataclasses.replace(place, task="stories"), StoriesConfig(vocab_size=300, row_tokens=32, relations=1),
                 TrainConfig(**TRAIN, keep_fisher=2))  # fmt: skip
    train = TrainConfig(**TRAIN, replay_share=0.5, objective="npo")
    with pytest.raises(ValueError, match=r"replay_share: 0\.5, but objective: npo needs pairs of answers"):
        check_keeping(train, AdapterConfig(), SMALL, OBJECTIVES["npo"](), "safety")
    with pytest.warns(Notice, match="lora_dropout: 0.1 drops nothing: objective preference compares with the model"):
        check_keeping(TrainConfig(**TRAIN, objective="preference"), dataclasses.replace(LORA, lora_dropout=0.1), SMALL,
                      OBJECTIVES["preference"](), "safety")  # fmt: skip
    assert not list(tmp_path.iterdir())
