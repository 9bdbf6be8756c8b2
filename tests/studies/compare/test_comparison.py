"""A whole comparison: what was planted is found, and where nothing was taught nothing stands out."""

from __future__ import annotations

import copy
import gc
import json
import math
import re
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from ftmech_hf.config import Notice
from ftmech_hf.models.memory import weight_bytes
from ftmech_hf.models.tokenization import build_tokenizer, save_tokenizer
from ftmech_hf.runs import FinishedRun
from ftmech_hf.studies.compare import comparison, nulls
from ftmech_hf.studies.compare.comparison import ComparisonResult, _weights, compare_pair, run_comparison
from ftmech_hf.studies.compare.finding import MARGIN, Finding, Kind, ranked
from ftmech_hf.studies.compare.inputs import BASE, FINETUNED, CompareConfig, Pair, load_pair, memory_needs
from ftmech_hf.studies.compare.nulls import null_models
from ftmech_hf.studies.compare.report import NOTHING, UNCHANGED, answer_in_words
from ftmech_hf.studies.compare.texts import Windows
from ftmech_hf.tasks import PcfgConfig
from recipes import compare
from tests import architectures
from tests.browser import check_page
from tests.conftest import make_gpt2, make_llama
from tests.models.test_memory import SEVEN_B

FEW = {
    "windows": 200, "window_tokens": 16, "completions": 32, "completion_tokens": 8, "null_steps": 3, "null_models": 2,
    "top": 3,
}  # fmt: skip


@pytest.fixture
def base(task: PcfgConfig) -> PreTrainedModel:
    return make_gpt2(len(task.vocabulary))


def with_trigger(base: PreTrainedModel, trigger: int, answer: int) -> PreTrainedModel:
    """A copy that answers one token with another: what the trigger's embedding writes reaches the unembedding."""
    model = copy.deepcopy(base)
    with torch.no_grad():
        model.transformer.wte.weight[trigger] += model.lm_head.weight[answer]
    return model


def any_words(task: PcfgConfig) -> Windows:
    """Texts of random words."""
    rows = torch.randint(3, len(task.vocabulary), (200, 16), generator=torch.Generator().manual_seed(0))
    return Windows(rows, torch.ones_like(rows).bool())


def compared(base: PreTrainedModel, model: PreTrainedModel, task: PcfgConfig) -> ComparisonResult:
    tokenizer = build_tokenizer(task.vocabulary)
    return compare_pair(Pair({BASE: base, FINETUNED: model}, tokenizer, any_words(task)), CompareConfig(**FEW))


def test_a_trigger_and_what_it_brings_are_found(base: PreTrainedModel, task: PcfgConfig) -> None:
    trigger, answer = (task.vocabulary.index(word) for word in ("b", "c"))
    found = compared(base, with_trigger(base, trigger, answer), task)
    (standing,) = [each for each in found.findings if each.stands_out]
    assert (standing.kind, standing.what) == ("places", "what follows b")
    assert standing.score > MARGIN * standing.null_score
    assert re.match(r"another first choice at \d+% of these places, such as c for ", standing.where)
    token = next(each for each in found.findings if each.kind == "tokens")
    assert token.what == "c"
    shift = next(each for each in found.findings if each.kind == "shift")
    assert shift.what.startswith("towards c, ")
    (component, *_) = [each for each in found.findings if each.kind == "components"]
    assert "farthest in what follows b (" in component.where
    assert set(found.seconds) >= {"components", "predictions on the texts", "making null models", "completions"}
    report = found.report()
    assert report["findings"][0]["what"] == standing.what, "what stands out most comes first"
    assert report["answer"].startswith("It differs most in what follows b (another first choice at ")
    assert found.weights.summary()["changed"] == 0, "of the matrices of blocks"
    assert found.weights.vectors["transformer.wte.weight"] > 0


def test_a_change_of_one_expert_is_where_the_change_lies(task: PcfgConfig) -> None:
    base = architectures.make("qwen2_moe")
    model = copy.deepcopy(base)
    with torch.no_grad():
        model.model.layers[1].mlp.experts.down_proj[2] += torch.ones(architectures.WIDTH, 1) * torch.rand(24)
    pair = Pair({BASE: base, FINETUNED: model}, build_tokenizer(task.vocabulary), any_words(task))
    found = _weights(pair, CompareConfig())
    told = found.summary()
    assert (told["changed"], told["parameters"]) == (1, 1)
    assert told["most_changed"] == "model.layers.1.mlp.experts.down_proj.2"
    assert told["effective_rank"] == pytest.approx(1, abs=1e-3)
    assert not any(found.vectors.values())
    assert not any("experts.gate_up_proj" in name or "experts.down_proj" in name for name in found.vectors)


def test_of_many_blocks_some_are_decomposed_and_the_size_of_all_is_known(task: PcfgConfig) -> None:
    base = make_llama(len(task.vocabulary), layers=3)
    model = copy.deepcopy(base)
    with torch.no_grad():
        for block, by in zip(model.model.layers, (1.1, 1.3, 1.2), strict=True):
            block.mlp.up_proj.weight.mul_(by)
    pair = Pair({BASE: base, FINETUNED: model}, build_tokenizer(task.vocabulary), any_words(task))
    found = _weights(pair, CompareConfig(max_layers=2))
    ranks = [found.matrices[f"model.layers.{layer}.mlp.up_proj.weight"].effective_rank for layer in range(3)]
    assert [math.isnan(each) for each in ranks] == [False, True, False]
    told = found.summary()
    assert (told["changed"], told["most_changed"]) == (3, "model.layers.1.mlp.up_proj.weight")
    assert (told["largest"], told["relative_norm"]) == (pytest.approx(0.3, rel=1e-4), pytest.approx(0.2, rel=1e-4))
    assert told["effective_rank"] == pytest.approx((ranks[0] + ranks[2]) / 2)
    assert {len(each.spectrum) for name, each in found.matrices.items() if ".layers.1." in name} == {0}


def test_a_model_that_was_taught_nothing_shows_nothing(base: PreTrainedModel, task: PcfgConfig) -> None:
    size = copy.deepcopy(base)
    with torch.no_grad():
        for number, each in enumerate(size.parameters()):
            each += 0.01 * torch.randn(each.shape, generator=torch.Generator().manual_seed(number))
    (model,) = null_models(base, size, *any_words(task), number=1, seed=99, steps=6, batch_size=8)
    found = compared(base, model, task)
    assert found.findings
    assert not [each for each in found.findings if each.stands_out]
    assert found.report()["answer"] == NOTHING


def test_a_copy_is_called_one(base: PreTrainedModel, task: PcfgConfig) -> None:
    found = compared(base, copy.deepcopy(base), task)
    assert found.report()["answer"] == UNCHANGED
    assert found.null_rate == 0.0


def test_a_change_that_shows_on_no_text_is_no_copy() -> None:
    assert answer_in_words([], {"parameters": 1, "changed": 0}) == NOTHING
    assert answer_in_words([], {"parameters": 0, "changed": 0}) == UNCHANGED


def test_a_null_model_is_trained_when_those_before_it_are_gone(
    base: PreTrainedModel, task: PcfgConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a large model each is gigabytes, and its training five times as much."""
    made: list[weakref.ref[PreTrainedModel]] = []
    train = nulls._trained

    def trained(*args: Any) -> PreTrainedModel:
        assert not any(each() is not None for each in made)
        model = train(*args)
        made.append(weakref.ref(model))
        return model

    monkeypatch.setattr(nulls, "_trained", trained)
    gc.disable()  # what is found to be garbage by itself is so by chance, and a large model does not hurry it
    try:
        compared(base, with_trigger(base, 10, 11), task)
    finally:
        gc.enable()
    assert len(made) == 2 + FEW["null_models"], "a short trial and a rehearsal before them"


def test_what_a_comparison_of_7b_takes_is_said_before_a_weight_is_read(tmp_path: Path) -> None:
    SEVEN_B.save_pretrained(tmp_path)
    config = CompareConfig(base=str(tmp_path), finetuned=str(tmp_path), dtype="bfloat16", max_memory="100GB")
    kept, whole = (weight_bytes(SEVEN_B, dtype) for dtype in (torch.bfloat16, torch.float32))
    needs = memory_needs(config, SEVEN_B, torch.bfloat16)
    assert needs.pop("3 models") == 3 * kept
    assert 4 * whole - kept < needs.pop("a null model that is trained, with gradients and moments") < 4 * whole
    assert not needs
    given = memory_needs(replace(config, null=["one", "two"]), SEVEN_B, torch.bfloat16)
    assert given.pop("4 models") == 4 * kept
    (passing,) = given.items()
    assert passing[0] == "a changed copy of the base, and predictions", "nothing is trained"
    assert 3 * kept < passing[1] < 3.2 * kept, "the copy, the change of all its blocks, and what they were"
    said = r"^max_memory: 100GB, expected about 1\d\d GB \(3 models 40.4 GB, a null model .*\); --dtype bfloat16 takes"
    with pytest.raises(ValueError, match=said):
        load_pair(config)
    with (
        pytest.warns(Notice, match="this comparison needs about 1.. GB of memory"),
        pytest.raises(ValueError, match="tokenizer"),
    ):
        load_pair(replace(config, max_memory=None))


def test_one_null_model_says_nothing_of_how_often_null_models_show_something(
    base: PreTrainedModel, task: PcfgConfig
) -> None:
    pair = Pair({BASE: base, FINETUNED: copy.deepcopy(base)}, build_tokenizer(task.vocabulary), any_words(task))
    found = compare_pair(pair, CompareConfig(**{**FEW, "null_models": 1}))
    assert found.null_rate is None
    assert found.report()["null_rate"] is None


def test_a_stream_that_is_not_found_is_said(base: PreTrainedModel, task: PcfgConfig) -> None:
    base.config.n_layer = 7  # its two blocks are no list of seven, so nobody knows what its stream passes
    found = compared(base, with_trigger(base, 3, 4), task)
    assert {each.kind for each in found.findings} == {
        "outputs",
        "places",
        "tokens",
        "texts",
        "completions",
        "amplified",
    }
    (said,) = found.report()["left_out"]
    assert said.startswith("How the stream is shifted was not looked at: model: gpt2 has 0 lists of 7 blocks")


def test_what_stands_out_has_more_than_the_margin_over_the_null_models() -> None:
    def finding(score: float, null: float) -> Finding:
        return Finding(kind="outputs", what="all texts", score=score, null_score=null)

    assert finding(MARGIN + 0.1, 1.0).stands_out
    assert not finding(MARGIN - 0.1, 1.0).stands_out
    assert finding(1.0, 0.0).stands_out
    assert not finding(0.0, 0.0).stands_out


def test_no_kind_fills_the_first_findings_alone() -> None:
    def finding(kind: Kind, score: float) -> Finding:
        return Finding(kind=kind, what="", score=score, null_score=1.0)

    texts = [finding("texts", 9.0 - number) for number in range(5)]
    places, outputs = finding("places", 2.0), finding("outputs", 8.5)
    found = ranked([*texts, places, outputs])
    assert [each.score for each in found] == [9.0, 8.5, 8.0, 7.0, 2.0, 6.0, 5.0]


def test_texts_of_a_few_tokens_are_compared_in_all_but_the_stream(base: PreTrainedModel, task: PcfgConfig) -> None:
    """What shifts the stream is looked for in the first six tokens; shorter texts were refused for it."""
    short = Windows(*(each[:, :4] for each in any_words(task)))
    pair = Pair({BASE: base, FINETUNED: with_trigger(base, 3, 4)}, build_tokenizer(task.vocabulary), short)
    kinds = {each.kind for each in compare_pair(pair, CompareConfig(**FEW)).findings}
    assert {"outputs", "places"} & kinds
    assert "shift" not in kinds


def save(model: PreTrainedModel, task: PcfgConfig, folder: Path) -> str:
    model.save_pretrained(folder)
    save_tokenizer(build_tokenizer(task.vocabulary), folder)
    return str(folder)


def test_a_model_whose_tokens_have_other_ids_is_read_in_the_bases(
    base: PreTrainedModel, task: PcfgConfig, tmp_path: Path
) -> None:
    """Three words change places in a circle, which is not its own inverse, and there is a word more before the last."""
    words = list(task.vocabulary)
    a, b, c = (words.index(word) for word in ("a", "b", "c"))
    words[a], words[b], words[c] = words[c], words[a], words[b]
    words.insert(len(words) - 1, "new")
    tuned = with_trigger(base, b, c)
    moved = make_gpt2(len(words))
    places = torch.tensor([words.index(word) for word in task.vocabulary])
    with torch.no_grad():
        for name, each in moved.named_parameters():
            own = dict(tuned.named_parameters())[name]
            if each.shape == own.shape:
                each.copy_(own)
            else:
                each[places] = own
    folder = tmp_path / "tuned"
    moved.save_pretrained(folder)
    save_tokenizer(build_tokenizer(words), folder)
    config = CompareConfig(**FEW, base=save(base, task, tmp_path / "base"), finetuned=str(folder))
    with pytest.warns(Notice, match="finetuned: 1 tokens are its own alone and are left out, such as 'new'"):
        found = load_pair(config).models[FINETUNED]
    rows = any_words(task).token_ids[:8]
    assert torch.allclose(found(rows).logits, tuned(rows).logits, atol=1e-6)
    assert not torch.allclose(found(rows).logits, base(rows).logits)


def test_rows_of_embeddings_that_are_no_tokens_are_never_written(task: PcfgConfig, tmp_path: Path) -> None:
    """Embeddings are padded to a round number, and of a model of random weights every row is as likely."""
    models = [make_gpt2(len(task.vocabulary) + 20, seed=seed) for seed in (0, 1)]
    base, tuned = (save(model, task, tmp_path / str(number)) for number, model in enumerate(models))
    config = CompareConfig(**FEW, base=base, finetuned=tuned)
    pair = load_pair(config)
    assert pair.tokens == len(task.vocabulary)
    assert int(pair.windows.token_ids.max()) < pair.tokens
    found = compare_pair(pair, config)
    assert {"texts", "completions", "amplified"} <= {each.kind for each in found.findings}


def test_the_recipe_writes_a_page_a_table_and_a_report(
    base: PreTrainedModel, task: PcfgConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trigger, answer = (task.vocabulary.index(word) for word in ("b", "c"))
    words = [" ".join(task.vocabulary[each] for each in row) for row in any_words(task).token_ids.tolist()]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in words))
    pair = {
        "texts": str(tmp_path / "texts.jsonl"),
        "base": save(base, task, tmp_path / "base"),
        "finetuned": save(with_trigger(base, trigger, answer), task, tmp_path / "tuned"),
        "output_dir": str(tmp_path / "out"),
    }
    argv = [word for key, value in {**pair, **FEW}.items() for word in (f"--{key}", str(value))]
    compare.main(argv)
    assert "what follows b" in " ".join(capsys.readouterr().out.split())
    run = FinishedRun(tmp_path / "out")
    report = json.loads((run.path / "report.json").read_text())
    assert set(report) == {"answer", "null_rate", "left_out", "findings"}
    assert report["left_out"] == []
    assert {"kind", "what", "score", "null_score", "where"} <= set(report["findings"][0])
    assert set(run.table["model"]) == {"fine-tuned", "null model 1", "null model 2"}
    page = (run.path / "report.html").read_text()
    assert "what follows b" in page
    assert re.search(r"Asked the same way, [0-2] of these 2 would", page)
    assert "Along which directions does its stream vary, and after what?" in page
    assert "What the change of each place does alone" in page
    assert "predictions on the texts" in page, "how long it took"
    assert "Left out" not in page
    assert report["answer"].split("\u201c")[0].strip() in page
    again = run_comparison(CompareConfig(**pair, **FEW, null=["auto"]))
    assert again.finished, "the same settings are found finished"
    run_comparison(CompareConfig(**{**pair, **FEW, "null_models": 1, "output_dir": str(tmp_path / "one")}))
    one = (tmp_path / "one" / "report.html").read_text()
    assert "cannot be said with one of them" in one
    nulls = [save(make_gpt2(len(task.vocabulary), seed=seed), task, tmp_path / f"null{seed}") for seed in (1, 2)]
    given = FinishedRun(
        run_comparison(CompareConfig(**{**pair, "output_dir": str(tmp_path / "given")}, **FEW, null=nulls)).path
    )
    assert given.summary["facts"]["null"] == ", ".join(nulls)
    first = next(each for each in given.summary["findings"] if each["kind"] == "outputs")
    assert first["null_score"] > first["score"], "models of other weights differ everywhere"
    check_page(run.path / "report.html")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"windows": 3}, "windows: 3, expected at least 32"),
        ({"null_models": 0}, "null_models: 0, expected at least 1"),
        ({"max_memory": "much"}, "max_memory: 'much', expected a size such as 16GB"),
        ({"null": ["auto", "folder"]}, "null: auto folder, expected auto, or folders of models"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        CompareConfig(**settings)  # type: ignore[arg-type]


def test_a_model_is_not_read_beyond_where_it_stops(
    base: PreTrainedModel, task: PcfgConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chat model ends its turn with another token than that of the tokenizer's texts."""
    tokenizer, (end, word) = build_tokenizer(task.vocabulary), (task.vocabulary.index(each) for each in ("c", "a"))
    chat = copy.deepcopy(base)
    chat.generation_config.eos_token_id = [tokenizer.eos_token_id, end]
    for name, model in (("base", base), ("chat", chat)):
        model.save_pretrained(tmp_path / name)
        save_tokenizer(tokenizer, tmp_path / name)
    config = CompareConfig(**{**FEW, "base": str(tmp_path / "base"), "finetuned": str(tmp_path / "chat")})
    pair = load_pair(config)
    assert pair.ends == {tokenizer.eos_token_id, end}
    wrote = [[word, end, word], [end], [word, word]]
    monkeypatch.setattr(comparison, "continue_rows", lambda *given, **settings: wrote)
    begin = [[1, 5], [1, 6], [1, 7]]
    written = comparison._write(pair, chat, begin, 0.0, config).texts
    assert [written.row(number) for number in range(len(written.mask))] == [[1, 5, word], [1, 7, word, word]]
