"""Two models that read the same questions as other tokens: what is right is what each says in its own words."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from ftmech_hf.jobs.answer_rows import AnswerRows
from ftmech_hf.jobs.asking import AskConfig, ask
from ftmech_hf.jobs.behavior import Behavior
from ftmech_hf.jobs.questions import QuestionConfig
from ftmech_hf.jobs.tokenizers import ask_models, first_difference
from ftmech_hf.studies.compare.inputs import CompareConfig, load_pair
from ftmech_hf.studies.diagnosis.case import CaseConfig
from ftmech_hf.studies.diagnosis.diagnosis import run_diagnosis
from ftmech_hf.studies.diagnosis.inputs import DiagnoseConfig
from ftmech_hf.tasks import PcfgShape
from ftmech_hf.tasks.text.tokens import Whole
from tests.conftest import make_llama
from tests.studies.planted import VOCABULARY, make_base, make_rows, make_wrapped

WORDS = [*VOCABULARY, *(f"unused{number}" for number in range(40 - len(VOCABULARY)))]
ORDER = [*range(3), *(5, 3, 9, 4, 10, 8, 6, 7), *range(11, 40)]
"""The same words with other numbers."""
SIZES = {"seed": 0, "train_rows": 300, "test_rows": 200}
FEW = CaseConfig(
    rows=200, fit_rows=300, patch_rows=50, reverse_steps=2, most_reverse_steps=2, repeats=2, random_masks=2,
    prune_sizes=[0, 1], null_steps=0,
)  # fmt: skip


def save(folder: Path, model: PreTrainedModel, words: list[str] | None) -> str:
    model.save_pretrained(folder)
    if words is not None:
        made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<pad>"))
        made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        special = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<pad>"}
        PreTrainedTokenizerFast(tokenizer_object=made, **special).save_pretrained(folder)
    return str(folder)


@torch.no_grad()
def renumbered(model: PreTrainedModel) -> PreTrainedModel:
    """The same model for a vocabulary in another order: as text it answers the same."""
    model = copy.deepcopy(model)
    for matrix in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
        assert isinstance(matrix, torch.Tensor)
        matrix.copy_(matrix[torch.tensor(ORDER)])
    return model


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("asking")
    other = [WORDS[each] for each in ORDER]
    text = [[WORDS[token] for token in row] for row in make_rows(number=700).tolist()]
    columns = {"prompt": [" ".join(row[:-2]) for row in text], "answer": [row[-2] for row in text]}
    datasets.Dataset.from_dict(columns).to_parquet(root / "questions.parquet")
    return {
        "dataset": str(root / "questions.parquet"),
        "base": save(root / "base", make_base("llama"), WORDS),
        "same": save(root / "same", renumbered(make_base("llama")), other),
        "wrapped": save(root / "wrapped", renumbered(make_wrapped("llama")), other),
        "bare": save(root / "bare", make_base("llama"), None),
        "random": save(root / "random", make_llama(40, seed=9), WORDS),
    }


def diagnosed(folders: dict[str, str], output: Path, **models: str) -> dict[str, Any]:
    config = DiagnoseConfig(dataset=folders["dataset"], output_dir=str(output), **models)
    run = run_diagnosis(config, FEW, PcfgShape())
    summary: dict[str, Any] = json.loads((run.path / "summary.json").read_text())
    return summary


def test_a_model_that_answers_the_same_in_its_own_words_is_unchanged(folders: dict[str, str], tmp_path: Path) -> None:
    summary = diagnosed(folders, tmp_path / "out", base=folders["base"], finetuned=folders["same"])
    assert summary["verdict"] == "unchanged"
    assert summary["evidence"]["finetuned"] == summary["evidence"]["base"]
    assert summary["evidence"]["drop"]["value"] == 0
    assert not summary["evidence"]["same_tokens"]
    assert summary["facts"]["other_tokens"].startswith("<bos> w")
    for example in summary["evidence"]["examples"]:  # in words, of two vocabularies
        assert [example[name].split()[0] for name in ("base", "finetuned")] == [example["right"].strip()] * 2
        assert example["right"] in example["question"]
    # the control: the base's words for the renumbered model's tokens would be wrong nearly always
    alike = diagnosed(folders, tmp_path / "alike", base=folders["base"], finetuned=folders["bare"])
    assert (alike["verdict"], alike["facts"]["other_tokens"]) == ("unchanged", None)
    assert alike["evidence"]["same_tokens"]


def test_tokens_of_choices_and_of_accepted_answers_are_compared_too() -> None:
    """Two words that stand among the choices alone have each other's ids."""
    rows = make_rows(number=40)

    def behavior(other: int, **more: Any) -> Behavior:
        whole = [[Whole((*row[:-2], other, row[-1]), 1)] for row in rows.tolist()]
        asked = AnswerRows.one_token(rows, **{name: whole for name in more})
        return Behavior(name="first word", train=asked, validation=asked, tests={"test": asked})

    for name in ("accepted", "choices"):
        assert first_difference([behavior(8, **{name: 1})], [behavior(8, **{name: 1})]) is None
        assert first_difference([behavior(8, **{name: 1})], [behavior(9, **{name: 1})]) is not None
    sides = [AnswerRows.one_token(rows, other=torch.full((40,), other)) for other in (8, 9)]
    one, other = (Behavior(name="first word", train=each, validation=each, tests={"test": each}) for each in sides)
    assert first_difference([one], [other]) is not None


def test_what_is_lost_in_other_tokens_is_undecided(folders: dict[str, str], tmp_path: Path) -> None:
    summary = diagnosed(folders, tmp_path / "out", base=folders["base"], finetuned=folders["wrapped"])
    assert summary["verdict"] == "undecided"
    assert "read the questions as different tokens" in summary["reason"]
    assert summary["evidence"]["finetuned"]["value"] < 0.2
    assert list(summary["evidence"]["seconds"]) == ["behaviour"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "each is asked in its own" in page
    assert "--thorough" not in page  # nothing else can be run
    lost = summary["evidence"]["examples"][0]
    word = int(lost["right"].removeprefix("w"))
    assert [lost[name].split()[0] for name in ("base", "finetuned")] == [f"w{word}", f"w{(word + 1) % 8}"]
    assert (lost["base_right"], lost["finetuned_right"]) == (True, False)


def test_other_tokens_are_refused_where_they_cannot_be_asked(folders: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"control: its tokenizer reads other tokens than the base's, first in '<bos>"):
        diagnosed(folders, tmp_path / "out", base=folders["base"], finetuned=folders["base"], control=folders["same"])
    with pytest.raises(ValueError, match="expected the tokenizer that each model was trained with"):
        diagnosed(folders, tmp_path / "out", base=folders["random"], finetuned=folders["same"])
    models = {"base": folders["base"], "finetuned": folders["same"]}
    with pytest.raises(ValueError, match="would leave out other rows"):
        ask_models([folders["dataset"]], models, **SIZES, how=QuestionConfig(only_one_token=True))
    few = save(tmp_path / "few", make_base("llama"), [word if word != "w3" else "other" for word in WORDS])
    with pytest.raises(ValueError, match=r"finetuned: with its own tokenizer, dataset: .* does not know 'w3'"):
        ask_models([folders["dataset"]], {"base": folders["base"], "finetuned": few}, **SIZES)
    assert not list(tmp_path.glob("out*"))


def test_the_same_tokens_in_another_file_are_the_same(folders: dict[str, str], tmp_path: Path) -> None:
    more = save(tmp_path / "more", make_base("llama"), [*WORDS, "unheard"])
    asked = ask_models([folders["dataset"]], {"base": folders["base"], "finetuned": more}, **SIZES)
    assert (asked.own, asked.difference) == (None, None)


def test_a_word_that_a_tokenizer_has_and_its_model_has_not_is_named(folders: dict[str, str], tmp_path: Path) -> None:
    """Tokens were added, and the embeddings not resized; who does not meet such a word is asked as ever."""
    beyond = save(tmp_path / "beyond", make_base("llama"), [*WORDS, "new"])
    rows = [dict(row) for row in datasets.load_dataset("parquet", data_files=folders["dataset"], split="train")]
    asked = str(tmp_path / "asked.parquet")
    texts = [f"{row['prompt']} new" for row in rows]
    datasets.Dataset.from_dict({"prompt": texts, "answer": [row["answer"] for row in rows]}).to_parquet(asked)
    datasets.Dataset.from_dict({"text": texts}).to_parquet(tmp_path / "texts.parquet")
    said = r"{}: .*beyond knows 40 tokens, but its tokenizer writes 'new' as token 40, expected one below 40"
    with pytest.raises(ValueError, match=said.format("base")):
        diagnosed({"dataset": asked}, tmp_path / "out", base=beyond, finetuned=beyond)
    with pytest.raises(ValueError, match=said.format("model")):
        ask(AskConfig(dataset=asked), {"base": beyond}, seed=0, train_rows=40, test_rows=40)
    ask(AskConfig(dataset=folders["dataset"]), {"base": beyond}, seed=0, train_rows=40, test_rows=40)
    both = {"base": beyond, "finetuned": beyond, "texts": str(tmp_path / "texts.parquet")}
    with pytest.raises(ValueError, match=said.format("base")):
        load_pair(CompareConfig(**both, output_dir=str(tmp_path / "compared")))
