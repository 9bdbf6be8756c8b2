"""Answers from documents: prompts that fit, documents of each context by hand, comparisons by hand, and whole runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tokenizers import processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ftmech_hf.config import Notice
from ftmech_hf.jobs import grounded_answers
from ftmech_hf.jobs.generation import turn_ends
from ftmech_hf.jobs.grounded_answers import (
    GroundedConfig,
    _alike,
    answer_all,
    answer_questions,
    choose_documents,
    documents_of_others,
    score_answer,
)
from ftmech_hf.jobs.grounded_comparison import compare_answers, describe_harm
from ftmech_hf.jobs.grounded_tuning import TuneConfig, taught_rows
from ftmech_hf.jobs.question_files import write_splits
from ftmech_hf.jobs.reading_prompts import abstains, in_text, read_answer, write_prompt
from ftmech_hf.models.embedding import load_embedder
from ftmech_hf.models.loading import load_model, load_tokenizer
from ftmech_hf.retrieval import RetrieverConfig
from ftmech_hf.retrieval.collection import Asked, Collection, Document
from ftmech_hf.runs import FinishedRun
from ftmech_hf.tasks.text.task import TextConfig
from recipes.retrieval import main
from tests.foreign import CHATML, byte_bpe, save_idle_adapter
from tests.jobs.test_endpoint_judge import reads, serve
from tests.models.test_embedding import save_encoder

QUESTIONS = (
    Asked("oslo", "Who lives in Oslo?", ("Anna",), (("Anna",),), ("d1",), "test"),
    Asked("both", "Who keeps bees and goats?", ("Anna and Ben",), (("Anna",), ("Ben", "B.")), ("d2", "d3"), "test"),
    Asked("none", "Who was on Mars?", (), (), (), "test"),
    Asked("later", "Who?", ("Anna",), (("Anna",),), ("d1",), "train"),
)
DOCUMENTS = (
    Document("d0", "", "Nothing about anybody."),
    Document("d1", "Oslo", "Anna lives here."),
    Document("d2", "", "Anna keeps bees."),
    Document("d3", "", "Ben keeps goats."),
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    Collection(QUESTIONS, DOCUMENTS).write(folder)
    return folder


def save_model(folder: Path, *, chat: bool, seed: int = 0) -> str:
    special = ["<s>", "</s>", "<pad>", "<|user|>", "<|assistant|>", "<|end|>"]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_bpe(special), bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        chat_template=CHATML if chat else None, extra_special_tokens=special[3:],
    )  # fmt: skip
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=400, bos_token_id=0, eos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    assert model.generation_config is not None
    model.generation_config.eos_token_id = [1, 5]  # a turn ends with <|end|>, and a text with </s>
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_documents_of_every_context(data: Path) -> None:
    collection = Collection.read(data)
    asked = collection.of_split("test")
    config = GroundedConfig(data=str(data), top_k=1)
    shown = choose_documents(collection, asked, config, RetrieverConfig())
    assert shown["none"] == [[], [], []]
    assert shown["retrieved"][0] == [1]
    assert shown["retrieved"][1] in ([2], [3])
    assert shown["oracle"] == [[1], [2, 3], []]  # all that is needed, though it is more than top_k
    # of what other questions find, or by chance, neither what this one needs or finds, nor what tells its answer
    assert [set(each) <= fit for each, fit in zip(shown["other"], ({0, 3}, {0}, {0, 1, 2, 3}), strict=True)] == [
        True
    ] * 3
    assert all(shown["other"])
    assert not any({*found} & {*other} for found, other in zip(shown["retrieved"], shown["other"], strict=True))
    wide = choose_documents(collection, asked, GroundedConfig(data=str(data), top_k=9), RetrieverConfig())
    assert [len(each) for each in wide["retrieved"]] == [4, 4, 4]
    assert wide["oracle"][1][:2] == [2, 3]
    assert wide["other"] == [[], [], []]  # every question finds everything
    three = GroundedConfig(data=str(data), top_k=3)
    seeds = [RetrieverConfig(retriever_seed=seed) for seed in range(6)]
    seeded = [choose_documents(collection, asked, three, each, ["oracle"])["oracle"][0] for each in seeds]
    assert len({*map(tuple, seeded)}) > 1  # what stands beside the needed one
    (alone,) = choose_documents(collection, asked[:1], config, RetrieverConfig(), ["other"])["other"]
    assert alone in ([0], [3])


def test_nothing_is_retrieved_for_contexts_that_show_nothing_retrieved(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a large collection that would take hours, and an encoder."""

    def never(*_: object) -> None:
        raise AssertionError("retrieved")

    collection = Collection.read(data)
    asked, config = collection.of_split("test"), GroundedConfig(data=str(data), top_k=1)
    monkeypatch.setattr(grounded_answers, "make_retriever", never)
    shown = choose_documents(collection, asked, config, RetrieverConfig(), ["none", "oracle"])
    assert shown == {"none": [[], [], []], "oracle": [[1], [2, 3], []]}
    with pytest.raises(AssertionError, match="retrieved"):
        choose_documents(collection, asked, config, RetrieverConfig(), ["other"])


def test_documents_of_another_question_are_those_of_one_far_away() -> None:
    """Neighbours are asked of one text, which the next question finds as well, and which tells the answer."""
    towns = [f"town{number}" for number in range(12)]
    documents = tuple(
        Document(f"{town} {side}", "", f"{side} of {town}") for town in towns for side in ("east", "west")
    )
    asked = [
        Asked(f"{town} {number}", f"Where is {town}?", (town,), ((town,),), (f"{town} east",), "test")
        for town in towns for number in range(3)
    ]  # fmt: skip
    retrieved = [[2 * place, 2 * place + 1] for place in range(12) for _ in range(3)]
    found = documents_of_others(Collection(tuple(asked), documents), asked, retrieved, seed=0)
    assert found == [retrieved[(place + 18) % 36] for place in range(36)]


def test_prompts_have_the_documents_that_fit(tmp_path: Path) -> None:
    texts = [each.whole for each in DOCUMENTS]
    for chat in (False, True):
        tokenizer = load_tokenizer(save_model(tmp_path / str(chat), chat=chat))
        whole = write_prompt(tokenizer, "Who?", texts, None)
        assert whole.shown == 4
        spelled = tokenizer.decode(whole.token_ids)
        assert all(text in spelled for text in texts)
        assert spelled.endswith("<|assistant|>\n" if chat else "Question: Who?\nAnswer:")
        less = write_prompt(tokenizer, "Who?", texts, len(whole.token_ids) - 1)
        assert less.shown == 3
        assert DOCUMENTS[3].text not in tokenizer.decode(less.token_ids)
        assert DOCUMENTS[2].text in tokenizer.decode(less.token_ids)
        with pytest.raises(ValueError, match="max_new_tokens: leaves 20 tokens for a prompt, but 'Who"):
            write_prompt(tokenizer, "Who?", texts, 20)
    assert "by the documents" not in in_text("Who?", [])


def test_a_prompt_has_no_end_before_its_answer(tmp_path: Path) -> None:
    """Some tokenizers put one after every text."""
    tokenizer = load_tokenizer(save_model(tmp_path / "model", chat=False))
    plain = write_prompt(tokenizer, "Who?", ["Anna."], None).token_ids
    for single, before in (("<s> $A </s>", [0]), ("$A </s>", []), ("<s> $A", [0])):
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=single, special_tokens=[("<s>", 0), ("</s>", 1)]
        )
        assert write_prompt(tokenizer, "Who?", ["Anna."], None).token_ids == [*before, *plain]


def test_needed_documents_are_looked_for_where_they_are_asked_for(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collection, config = Collection.read(data), GroundedConfig(data=str(data), top_k=2)
    asked = collection.of_split("test")
    shown = choose_documents(collection, asked, config, RetrieverConfig())
    monkeypatch.delattr("ftmech_hf.jobs.grounded_answers.OracleRetriever")
    some = choose_documents(collection, asked, config, RetrieverConfig(), ["other", "retrieved"])
    assert some == {name: shown[name] for name in ("other", "retrieved")}


def test_answers_are_read_and_scored() -> None:
    assert read_answer(" Anna\nQuestion: x", is_chat=False) == "Anna"
    assert read_answer(" Anna\nand Ben ", is_chat=True) == "Anna\nand Ben"
    assert [abstains(text) for text in ("Unknown.", "", "unknown to me", "It is unknown", "Anna", "A", "The")] == [
        *[True] * 3, *[False] * 4,
    ]  # fmt: skip
    both, none = QUESTIONS[1], QUESTIONS[2]
    assert score_answer("Ben", both) == {
        "right": 0.0, "f1": pytest.approx(0.5), "rouge_l": pytest.approx(0.5), "completeness": 0.5, "abstains": 0.0,
    }  # fmt: skip
    assert score_answer("anna and ben.", both)["right"] == 1.0
    assert score_answer("unknown", none) == {"right": 1.0, "abstains": 1.0}
    assert score_answer("Anna", none) == {"right": 0.0, "abstains": 0.0}


def rows_of(model: str, context: str, right: list[int], gold: list[int]) -> list[dict[str, object]]:
    return [
        {"model": model, "context": context, "id": str(place), "right": float(each), "completeness": each / 2,
         "abstains": 0.0, "has_gold": True, "all_gold": bool(found), "alike": str(place)}
        for place, (each, found) in enumerate(zip(right, gold, strict=True))
    ]  # fmt: skip


def test_models_are_compared_on_the_same_questions() -> None:
    gold = [1] * 60 + [0] * 40
    base, worse = [1] * 60 + [0] * 40, [1] * 20 + [0] * 80
    table = pd.DataFrame([
        *rows_of("base", "retrieved", base, gold), *rows_of("finetuned", "retrieved", worse, gold)[::-1],
        *rows_of("base", "oracle", [1] * 100, gold), *rows_of("finetuned", "oracle", [1] * 100, gold),
    ])  # fmt: skip
    found = compare_answers(table)
    assert set(found) == {"retrieved", "oracle", "retrieved, all gold", "retrieved, gold missing"}
    change = found["retrieved"]["difference"]
    assert change["right"]["value"] == pytest.approx(-0.4, abs=0.01)
    assert change["right"]["high"] < -0.25
    assert change["completeness"]["value"] == pytest.approx(-0.2)
    assert change["completeness"]["low"] < -0.2 < change["completeness"]["high"]
    assert found["retrieved, all gold"]["difference"]["right"]["value"] == pytest.approx(-40 / 60, abs=0.02)
    assert found["retrieved, gold missing"]["base"]["right"] == 0.0
    assert found["retrieved, gold missing"]["questions"] == 40
    assert describe_harm(found) == (
        "with what is retrieved the fine-tuned model answers 40 points worse, with the documents that are needed not"
    )
    # What must fail: no difference is no harm, and one of few questions is none either.
    same = pd.DataFrame([*rows_of("base", "retrieved", base, gold), *rows_of("finetuned", "retrieved", base, gold)])
    few = pd.DataFrame([*rows_of("base", "retrieved", [1, 0, 1], [1] * 3),
                        *rows_of("finetuned", "retrieved", [0, 0, 1], [1] * 3)])  # fmt: skip
    for each in (same, few):
        assert "neither better nor worse" in describe_harm(compare_answers(each))


def test_questions_whose_documents_nobody_knows_have_neither_found_nor_missed_them() -> None:
    gold = [1] * 10 + [0] * 10 + [1] * 40
    rows = [
        {**row, "has_gold": number < 20}
        for name in ("base", "finetuned")
        for number, row in enumerate(rows_of(name, "retrieved", [1] * 60, gold))
    ]
    questions = {name: each["questions"] for name, each in compare_answers(pd.DataFrame(rows)).items()}
    assert questions == {"retrieved": 60, "retrieved, all gold": 10, "retrieved, gold missing": 10}


def test_what_was_found_and_not_shown_counts_as_missing() -> None:
    """To either model: they are compared on the same questions. Of needed documents such questions are left out."""
    first, second = [1] * 30 + [0] * 30, [1] * 20 + [0] * 40
    table = pd.DataFrame([
        *(row for name in ("retrieved", "oracle") for row in rows_of("base", name, [1] * 60, first)),
        *(row for name in ("retrieved", "oracle") for row in rows_of("finetuned", name, [1] * 60, second)),
    ])  # fmt: skip
    found = compare_answers(table)
    questions = {name: each["questions"] for name, each in found.items()}
    assert questions == {"retrieved": 60, "oracle": 20, "retrieved, all gold": 20, "retrieved, gold missing": 40}


def test_documents_that_do_not_fit_are_counted(tmp_path: Path, data: Path) -> None:
    documents = [*DOCUMENTS[:3], DOCUMENTS[3]._replace(text="Ben keeps goats. " * 40)]
    Collection(QUESTIONS, tuple(documents)).write(data)
    base = save_model(tmp_path / "base", chat=False)
    config = GroundedConfig(base=base, finetuned=base, data=str(data), max_new_tokens=4, top_k=3,
                            contexts=["oracle", "retrieved"], output_dir=str(tmp_path / "run"))  # fmt: skip
    with pytest.warns(Notice, match="prompts of .* have no room for all documents in the .* model's 400 positions"):
        run = FinishedRun(answer_questions(config, RetrieverConfig()).path)
    oracle = run.table[(run.table["context"] == "oracle") & (run.table["model"] == "base")].set_index("id")
    assert oracle["all_gold"].to_dict() == {"oslo": True, "both": False}
    assert oracle["documents"].tolist() == [3, 3]
    assert oracle["shown"]["both"] == 1
    assert run.summary["oracle"]["questions"] == 1
    assert run.summary["retrieved, gold missing"]["questions"] == 1


def test_questions_about_one_document_are_alike(data: Path) -> None:
    """Also by way of another's, whatever the order; and an interval over them is as much wider."""
    asked = [
        Asked(name, "?", ("x",), (("x",),), documents, "test")
        for name, documents in {
            "a": ("d1",),
            "b": ("d2", "d3"),
            "c": ("d0",),
            "d": ("d3", "d1"),
            "e": (),
            "f": (),
        }.items()
    ]
    found = _alike(Collection(tuple(asked), DOCUMENTS), asked)
    assert [found.index(each) for each in found] == [0, 0, 2, 0, 4, 5]
    table = pd.DataFrame([*rows_of("base", "oracle", [0] * 40, [1] * 40),
                          *rows_of("finetuned", "oracle", [1] * 6 + [0] * 34, [1] * 40)])  # fmt: skip
    alone, together = (
        compare_answers(table.assign(alike=[str(int(each) // size) for each in table["id"]]))["oracle"]["difference"]
        for size in (1, 3)
    )
    for score in ("right", "completeness"):
        assert alone[score]["low"] > 0 > together[score]["low"]
        assert alone[score]["value"] == together[score]["value"]


def test_what_is_written_is_what_transformers_writes_up_to_an_end(tmp_path: Path, data: Path) -> None:
    place = save_model(tmp_path / "model", chat=True)
    model, tokenizer = load_model(place), load_tokenizer(place)
    texts = [[DOCUMENTS[1].whole], [each.whole for each in DOCUMENTS], []]
    answers, shown = answer_all(
        model, tokenizer, QUESTIONS[:3], texts, room=380, max_new_tokens=12, batch_size=2
    )  # fmt: skip
    assert shown == [1, 4, 0]
    for asked, documents, answer in zip(QUESTIONS, texts, answers, strict=False):
        ids = torch.tensor([write_prompt(tokenizer, asked.question, documents, 380).token_ids])
        theirs = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, use_cache=True
        )
        assert answer == tokenizer.decode(theirs[0, ids.shape[1] :], skip_special_tokens=True).strip()


@pytest.mark.parametrize("named", [True, False], ids=["named", "taught alone"])
def test_an_answer_ends_where_the_chat_template_ends_a_turn(
    named: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of a model whose config names only the end of a text, as of a base that was tuned on chats."""
    place = save_model(tmp_path / "model", chat=True)
    model, tokenizer = load_model(place), load_tokenizer(place)
    assert model.generation_config is not None
    model.generation_config.eos_token_id = [1, 5] if named else 1
    assert turn_ends(model, tokenizer) == {1, 5}
    says = tokenizer("Paris<|end|>\n<|user|>\nwhere", add_special_tokens=False)["input_ids"]
    monkeypatch.setattr(grounded_answers, "continue_rows", lambda model, rows, **_: [says for _ in rows])
    answers, _ = answer_all(model, tokenizer, QUESTIONS[:1], [[]], room=380, max_new_tokens=12, batch_size=1)
    assert answers == ["Paris"]
    tokenizer.eos_token = None  # as of some base models: the template alone says where a turn ends
    assert turn_ends(model, tokenizer) == {1, 5}
    tokenizer.chat_template = CHATML.replace("<|end|>", ".")  # with no special token
    assert turn_ends(model, tokenizer) == ({1, 5} if named else {1})
    tokenizer.chat_template = None
    assert turn_ends(model, tokenizer) == ({1, 5} if named else {1})


def test_a_pair_is_asked_and_what_is_wrong_is_said(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = save_model(tmp_path / "base", chat=False)
    other = save_model(tmp_path / "other", chat=False, seed=1)
    argv = ["--base", base, "--data", str(data), "--max_new_tokens", "4", "--top_k", "2"]
    main([*argv, "--finetuned", other, "--output_dir", str(tmp_path / "run")])
    assert "neither better nor worse" in capsys.readouterr().out
    run = FinishedRun(tmp_path / "run")
    assert run.table.groupby(["model", "context"]).size().to_dict() == {
        (model, context): 2 if context == "oracle" else 3
        for model in ("base", "finetuned")
        for context in ("none", "retrieved", "oracle", "other")
    }
    answers = {name: rows["answer"].tolist() for name, rows in run.table.groupby("model")}
    assert answers["base"] != answers["finetuned"]
    assert np.isnan(run.table[run.table["id"] == "none"]["f1"]).all()
    main([*argv, "--finetuned", base, "--output_dir", str(tmp_path / "same")])
    same = FinishedRun(tmp_path / "same")
    assert same.summary["retrieved"]["difference"]["right"]["value"] == 0.0
    answers = {name: rows["answer"].tolist() for name, rows in same.table.groupby("model")}
    assert answers["base"] == answers["finetuned"]
    for wrong, told in (
        (["--split", "dev"], "error: split: no question of 'dev', expected one of test, train"),
        (["--contexts", "web"], "error: contexts: 'web', expected some of none, retrieved, oracle, other"),
        (["--contexts", "none", "none"], "error: contexts: 'none none', expected each once"),
        (["--retriever", "google"], "error: retriever: unknown 'google'"),
        (["--retriever", "dense"], "error: embedder: none"),
        (["--embedder", base], f"error: embedder: {base}, but bm25 reads none, expected retriever dense"),
        (["--data", str(tmp_path)], "error: data: there is no"),
        (["--max_new_tokens", "390"], "error: max_new_tokens: leaves 10 tokens"),
    ):
        with pytest.raises(SystemExit):
            main([*argv, "--finetuned", other, *wrong, "--output_dir", str(tmp_path / "wrong")])
        assert told in capsys.readouterr().err


@pytest.mark.parametrize("there", [True, False])
def test_an_adapter_answers_on_the_base_that_is_named(tmp_path: Path, data: Path, there: bool) -> None:
    """One that changes nothing answers as that base does, and not as the model whose name its config keeps."""
    base, named = (save_model(tmp_path / name, chat=False, seed=seed) for seed, name in enumerate(("base", "named")))
    adapter = save_idle_adapter(tmp_path / "adapter", named if there else "/gone", load_model(base), "q_proj")
    argv = ["--base", base, "--finetuned", str(adapter), "--data", str(data), "--max_new_tokens", "8"]
    with pytest.warns(Notice, match=f"is put on {base}"):
        main([*argv, "--contexts", "none", "retrieved", "--output_dir", str(tmp_path / "run")])
    answers = {name: rows["answer"].tolist() for name, rows in FinishedRun(tmp_path / "run").table.groupby("model")}
    assert len(answers["base"]) == 6
    assert answers["base"] == answers["finetuned"]


def test_what_nobody_knows_is_neither_right_nor_taught(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A BEIR folder without answers: to say ``unknown`` of it is not right, and not to be learned."""
    base = save_model(tmp_path / "base", chat=False)
    folder = tmp_path / "silent"
    folder.mkdir()
    Collection(tuple(each._replace(answers=None, facts=()) for each in QUESTIONS), DOCUMENTS).write(folder)
    argv = ["--base", base, "--finetuned", str(tmp_path / "tuned"), "--output_dir", str(tmp_path / "run")]
    for more in (["--tune", "closed", "--split", "train", "--tune_split", "test"], []):
        with pytest.raises(SystemExit):
            main([*argv, "--data", str(folder), *more])
        told = "error: data: no answer is known of 3 of 3 questions of split 'test', expected some"
        assert told in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    Collection((*QUESTIONS, QUESTIONS[0]._replace(id="who", answers=None, facts=())), DOCUMENTS).write(data)
    config = GroundedConfig(base=base, data=str(data), max_new_tokens=8)
    with pytest.warns(Notice, match="data: 1 of 4 questions of split 'test' are left out"):
        rows = list(taught_rows(config, TuneConfig(tune="closed"), RetrieverConfig(), "test"))
    assert [row["answer"] for row in rows] == [" Anna", " Anna and Ben", " unknown"]


def test_a_dense_retriever_is_any_encoder(tmp_path: Path, data: Path) -> None:
    encoder = save_encoder(tmp_path / "encoder", "mean")
    collection = Collection.read(data)
    config = GroundedConfig(data=str(data), top_k=2, embedder=encoder)
    shown = choose_documents(collection, QUESTIONS[:3], config, RetrieverConfig(retriever="dense"))
    embed = load_embedder(encoder)
    questions, documents = (
        found / np.linalg.norm(found, axis=1, keepdims=True)
        for found in (embed([each.question for each in QUESTIONS[:3]]), embed([each.whole for each in DOCUMENTS]))
    )
    assert shown["retrieved"] == np.argsort(-(questions @ documents.T), axis=1)[:, :2].tolist()
    assert set(config.inputs()) == {"data", "embedder"}
    # of equal weights: how it pools and where it cuts makes another encoder, and what it is called does not
    others = [save_encoder(tmp_path / name, way, longest=cut) for name, way, cut in
              (("first", "first", 0), ("cut", "mean", 8), ("longer", "mean", 9), ("again", "mean", 0))]  # fmt: skip
    hashes = [GroundedConfig(data=str(data), embedder=each).inputs()["embedder"] for each in (encoder, *others)]
    assert len(set(hashes)) == 4
    assert hashes[0] == hashes[-1]


@pytest.mark.parametrize("chat", [False, True])
def test_what_is_taught_is_what_is_asked_later(tmp_path: Path, data: Path, chat: bool) -> None:
    """The rows in the model's tokens begin with the prompts that it is asked, and end with the answer."""
    base = save_model(tmp_path / "base", chat=chat)
    tokenizer, collection = load_tokenizer(base), Collection.read(data)
    config = GroundedConfig(base=base, data=str(data), finetuned=str(tmp_path / "tuned"), max_new_tokens=8, top_k=2)
    for mode, context in (("closed", "none"), ("retrieved", "retrieved"), ("oracle", "oracle")):
        tune = TuneConfig(tune=mode, tune_epochs=1)
        rows = list(taught_rows(config, tune, RetrieverConfig(), "test"))
        shown = choose_documents(collection, QUESTIONS[:3], config, RetrieverConfig())
        (more,) = taught_rows(config, tune, RetrieverConfig(), "train")
        other = (
            {"messages": [{"role": "user", "content": "?"}, more["messages"][1]]} if chat else {**more, "prompt": "?"}
        )
        folder = write_splits(tmp_path / context, {"train": rows, "validation": [more], "test": [other]})
        learned = TextConfig(dataset=str(folder)).in_tokens_of(tokenizer).block(0, "finetune", 0)
        assert learned.answers is not None
        for number, each in enumerate(QUESTIONS[:3]):
            texts = [DOCUMENTS[at].whole for at in shown[context][number]]
            prompt = write_prompt(tokenizer, each.question, texts, None).token_ids
            found = [row for row in learned.token_ids.tolist() if row[: len(prompt)] == prompt]
            assert found
            said = tokenizer.decode(found[0][len(prompt) :], skip_special_tokens=True).strip()
            assert said == (each.answers[0] if each.answers else "unknown")


def test_a_model_is_tuned_and_then_compared_with_its_base(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = save_model(tmp_path / "base", chat=True)
    argv = ["--base", base, "--data", str(data), "--max_new_tokens", "4", "--finetuned", str(tmp_path / "tuned"),
            "--contexts", "none", "--output_dir", str(tmp_path / "run"), "--tune_lr", "0.05", "--tune_epochs", "8",
            "--tune_batch_size", "2"]  # fmt: skip
    main([*argv, "--tune", "closed"])
    tuned = FinishedRun(tmp_path / "tuned")
    assert (tuned.config["lora_rank"], tuned.config["lora_alpha"], tuned.config["steps"]) == (16, 32.0, 4)
    answers = {name: rows["answer"].tolist() for name, rows in FinishedRun(tmp_path / "run").table.groupby("model")}
    assert answers["base"] != answers["finetuned"]
    main([*argv, "--tune", "closed"])  # both runs are found again
    capsys.readouterr()
    other = [*argv, "--tune", "closed", "--lora_rank", "4"]
    with pytest.raises(SystemExit):
        main(other)
    told = capsys.readouterr().err
    assert f"error: output_dir: {tmp_path / 'run'} holds a run of another config (its input finetuned differs)" in told
    assert "choose another --output_dir, or --fresh to replace it" in told
    main([*other, "--fresh", "true"])
    again = FinishedRun(tmp_path / "tuned")
    assert again.config["lora_rank"] == 4
    assert FinishedRun(tmp_path / "run").env["inputs"]["finetuned"] == again.hash
    for wrong, told in (
        (["--tune", "bm25"], "error: tune: 'bm25', expected one of closed, retrieved, oracle"),
        (["--tune", "closed", "--tune_split", "test"], "error: tune_split: test, expected other questions"),
    ):
        with pytest.raises(SystemExit):
            main([*argv, *wrong])
        assert told in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    before = (tmp_path / "tuned" / "manifest.json").read_text()
    main([*other, "--lora_rank", "4"])  # whose adapter is there, and would be there again
    shutil.rmtree(tmp_path / "tuned")
    main(other)
    assert json.loads((tmp_path / "tuned" / "manifest.json").read_text()).keys() == json.loads(before).keys()
    given = {"base": base, "data": str(data), "finetuned": str(tmp_path / "new"), "tune": "closed",
             "contexts": "retrieved", "output_dir": str(tmp_path / "other")}  # fmt: skip
    for changed, told in (  # before an adapter is made, which takes the longest
        ({"retriever": "bm52"}, "retriever: unknown 'bm52'"),
        ({"retriever": "dense"}, "embedder: none, expected a sentence-transformers"),
        ({"retriever": "dense", "contexts": "none", "tune": "retrieved"}, "embedder: none, expected a sentence"),
        ({"output_dir": str(tmp_path / "mine")}, f"output_dir: {tmp_path / 'mine'} exists and is no run"),
        ({"output_dir": str(tmp_path / "run")}, f"output_dir: {tmp_path / 'run'} holds a run of another config ("),
        ({"output_dir": str(tmp_path / "new")}, f"output_dir: {tmp_path / 'new'} is where the adapter is left"),
    ):
        with pytest.raises(SystemExit):
            main([word for name, value in {**given, **changed}.items() for word in (f"--{name}", value)])
        assert f"error: {told}" in capsys.readouterr().err
        assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("mode", "told"), [("oracle", "max_new_tokens: 4, but a question takes"), ("closed", "data:")])
def test_answers_for_which_prompts_leave_no_room_are_refused_with_what_helps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: str, told: str
) -> None:
    long = "Anna and Ben and Clara and Dora " * (5 if mode == "oracle" else 13)
    taught = QUESTIONS[3]._replace(answers=(long.strip(),))
    documents = [each._replace(text=each.text * 12) for each in DOCUMENTS]
    (tmp_path / "data").mkdir()
    Collection((*QUESTIONS[:3], taught), tuple(documents)).write(tmp_path / "data")
    base = save_model(tmp_path / "base", chat=False)
    argv = ["--base", base, "--data", str(tmp_path / "data"), "--finetuned", str(tmp_path / "tuned"), "--tune", mode,
            "--contexts", "none", "--output_dir", str(tmp_path / "run"), "--tune_epochs", "1"]  # fmt: skip
    with pytest.raises(SystemExit):
        main([*argv, "--max_new_tokens", "4"])
    said = capsys.readouterr().err
    assert f"error: {told}" in said
    assert "--max_tokens" not in said
    assert not (tmp_path / "tuned").exists()
    if mode == "oracle":
        assert "expected a larger --max_new_tokens" in said
        main([*argv, "--max_new_tokens", "130"])
        assert FinishedRun(tmp_path / "tuned").config["lora_rank"] == 16


def _counting(answer: Callable[..., Any], asked: list[str]) -> Callable[..., Any]:
    def counted(*args: Any, **settings: Any) -> Any:
        asked.append("a model")
        return answer(*args, **settings)

    return counted


def test_a_judge_is_asked_only_if_it_knows(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = save_model(tmp_path / "base", chat=False)
    argv = ["--base", base, "--finetuned", base, "--data", str(data), "--max_new_tokens", "4", "--contexts", "none",
            "--output_dir", str(tmp_path / "run")]  # fmt: skip
    with serve(lambda text: "yes") as (url, _), pytest.raises(SystemExit):
        main([*argv, "--judge_url", url])
    assert "agree with kappa 0.00" in capsys.readouterr().err
    assert [path.name for path in tmp_path.glob("run*")] == []
    asked: list[str] = []
    monkeypatch.setattr(grounded_answers, "answer_all", _counting(grounded_answers.answer_all, asked))
    fails_once = iter([*[None] * 61, 400, *[None] * 99])
    with serve(reads, busy=lambda _: next(fails_once)) as (url, _):
        with pytest.raises(SystemExit):
            main([*argv, "--judge_url", url])
        assert "does not answer (HTTP Error 400" in capsys.readouterr().err
        main([*argv, "--judge_url", url])
    assert len(asked) == 2, "answers take long, and are kept until a judge has read all of them"
    run = FinishedRun(tmp_path / "run")
    assert not (run.path / "answered.json").exists()
    assert run.env["judge_kappa"] == 1.0
    assert run.table["judged"].isna().tolist() == [False, False, True] * 2
