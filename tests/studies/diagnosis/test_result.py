"""A diagnosis as a function: objects and names give the same, nothing is written, nothing of a user's is changed."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest
import torch
from peft import LoraConfig, PolyConfig, PromptTuningConfig, get_peft_model
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ftmech_hf.activations import model_blocks
from ftmech_hf.activations.lens import NoLensError
from ftmech_hf.models.loading import load_tokenizer
from ftmech_hf.studies.diagnosis.case import CaseConfig
from ftmech_hf.studies.diagnosis.in_memory import plain_model, weights_hash
from ftmech_hf.studies.diagnosis.methods import METHODS, logit_lens
from ftmech_hf.studies.diagnosis.result import DiagnosisResult, diagnose
from ftmech_hf.tasks.text.reading import Table, read_table
from tests.browser import check_page
from tests.conftest import make_gpt2, make_llama
from tests.studies.planted import make_pair_models, make_pairs, save_models, words

FEW = CaseConfig(
    rows=80, fit_rows=120, patch_rows=24, reverse_lr=1e-3, reverse_steps=8, most_reverse_steps=8, repeats=2,
    random_masks=2, null_steps=0, prune_sizes=[0, 2], max_layers=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pair")
    save_models(root, **make_pair_models())
    words(make_pairs(number=900), 2).to_parquet(root / "questions.parquet")
    return root


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(str(folder / "base"))


@pytest.fixture(scope="module")
def in_memory(folder: Path, tokenizer: PreTrainedTokenizerBase) -> DiagnosisResult:
    models = make_pair_models()
    rows = words(make_pairs(number=900), 2).to_list()
    return diagnose(models["base"], models["wrapped"], tokenizer, rows, control=models["never"], thoroughness=FEW)


def test_nobody_is_kept_out_of_its_page(in_memory: DiagnosisResult, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(in_memory.html, encoding="utf-8")
    check_page(tmp_path / "page.html", touched=4)


def test_objects_and_names_give_the_same(folder: Path, in_memory: DiagnosisResult, tmp_path: Path) -> None:
    names = {name: folder / name for name in ("base", "wrapped", "never")}
    written = diagnose(
        names["base"], names["wrapped"], rows=folder / "questions.parquet", control=names["never"], thoroughness=FEW,
        output_dir=tmp_path / "out",
    )  # fmt: skip
    assert (in_memory.verdict, in_memory.reason, in_memory.signs) == (written.verdict, written.reason, written.signs)
    pd.testing.assert_frame_equal(in_memory.table, written.table, check_dtype=False, rtol=1e-5, atol=1e-5)
    assert in_memory.summary["evidence"]["examples"] == written.summary["evidence"]["examples"]
    assert (in_memory.folder, in_memory.page) == (None, None)
    assert written.page == tmp_path / "out" / "report.html"
    assert written.page.read_text(encoding="utf-8") == written.html
    for result, said in ((in_memory, "GPT2LMHeadModel in memory"), (written, str(names["wrapped"]))):
        assert f"<code>{said}</code>" in result.html
        assert result.html.count("data:image/svg+xml;base64,") == written.html.count("data:image/svg+xml;base64,") > 5


def test_what_was_trained_back_answers_too(in_memory: DiagnosisResult) -> None:
    examples = in_memory.summary["evidence"]["examples"]
    assert len(examples) == 5
    assert [each["base_right"] and not each["finetuned_right"] for each in examples[:3]] == [True] * 3
    for each in examples:
        for name in ("base", "finetuned", "reversed"):
            assert each[name].startswith(each["right"].strip()) == each[f"{name}_right"]
    assert any(each["reversed_right"] for each in examples)
    tokens = in_memory.summary["evidence"]["tokens"]
    assert [(each["model"], each["number"]) for each in tokens[:2]] == [("base", 1), ("base", 2)]
    assert min(each["right"]["value"] for each in tokens[:2]) >= in_memory.summary["evidence"]["base"]["value"]


def test_nothing_of_a_users_is_written_or_changed(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    models = {name: copy.deepcopy(model) for name, model in make_pair_models().items()}
    models["wrapped"].train()
    models["base"].requires_grad_(False)
    path, frozen = next(iter(model_blocks(models["base"])))
    models["base"].train()
    frozen.eval()
    before = {name: (weights_hash(each), each.training, len(each._forward_pre_hooks)) for name, each in models.items()}
    rows = words(make_pairs(number=400), 2).to_list()
    rows[0]["answer"] = rows[0]["answer"].split()[0]  # rows of several lengths, so that they are filled
    quick = CaseConfig(rows=60, fit_rows=60)
    found = diagnose(models["base"], models["base"], tokenizer, rows, control=models["wrapped"], thoroughness=quick)
    assert found.verdict == "unchanged"
    assert {
        name: (weights_hash(each), each.training, len(each._forward_pre_hooks)) for name, each in models.items()
    } == before
    assert {part.training for name, part in models["base"].named_modules() if path not in name} == {True}
    assert not frozen.training
    assert not any(p.requires_grad for p in models["base"].parameters())
    assert not list(tmp_path.iterdir())
    assert found.folder is None


def test_a_diagnosis_of_objects_is_found_again_only_for_the_same_objects(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    model, rows = make_pair_models()["base"], words(make_pairs(number=400), 2).to_list()
    settings: dict[str, Any] = {"thoroughness": CaseConfig(rows=60, fit_rows=60), "output_dir": tmp_path / "out"}
    first = diagnose(model, model, tokenizer, rows, **settings)
    assert first.page is not None
    written = first.page.stat().st_mtime_ns
    again = diagnose(copy.deepcopy(model), model, tokenizer, datasets.Dataset.from_list(rows), **settings)
    assert (again.verdict, first.page.stat().st_mtime_ns) == (first.verdict, written)
    other = copy.deepcopy(model)
    with torch.no_grad():
        next(other.parameters())[0, 0] += 1e-3
    for base, asked in ((other, rows), (model, rows[1:])):
        with pytest.raises(ValueError, match=r"output_dir: .*out"):
            diagnose(base, model, tokenizer, asked, **settings)


def test_objects_are_the_same_if_they_compute_the_same() -> None:
    """The base of rotary positions and where a text ends stand in configs alone, with a model's name, which is none."""
    model = make_llama(40)
    hashed = weights_hash(model)
    other = copy.deepcopy(model)
    other.config._name_or_path = "elsewhere"
    assert weights_hash(other) == hashed
    assert other.generation_config is not None
    other.generation_config.eos_token_id = 7
    assert weights_hash(other) != hashed
    turned = type(model)(copy.deepcopy(model.config))
    turned.load_state_dict(model.state_dict())
    assert weights_hash(turned) == hashed
    turned.config.rope_parameters = {**turned.config.rope_parameters, "rope_theta": 500.0}
    assert weights_hash(turned) != hashed


def test_a_table_is_the_same_if_it_asks_the_same() -> None:
    """Of numbers that stand for names the names are asked."""
    rows = {"prompt": ["a", "b"], "answer": [0, 1]}

    def hashed(names: list[str]) -> str:
        kinds = {"prompt": datasets.Value("string"), "answer": datasets.ClassLabel(names=names)}
        return Table.of(datasets.Dataset.from_dict(rows, features=datasets.Features(kinds))).hash()

    assert hashed(["no", "yes"]) == Table.of({"prompt": ["a", "b"], "answer": ["no", "yes"]}).hash()
    assert hashed(["no", "yes"]) != hashed(["yes", "no"])


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # which peft reads
def test_an_adapter_in_memory_is_merged_into_a_copy() -> None:
    plain = make_gpt2(40)
    tuned = get_peft_model(copy.deepcopy(plain), LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True))
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    ids = torch.arange(6)[None]
    expected = tuned(ids).logits
    merged = plain_model(tuned, "finetuned")
    torch.testing.assert_close(merged(ids).logits, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(tuned(ids).logits, expected, rtol=0, atol=0)
    with pytest.raises(ValueError, match="base: an adapter is attached to its layers; expected the model alone"):
        plain_model(tuned.get_base_model(), "base")
    with pytest.raises(ValueError, match="base: Linear, expected a model of transformers, its folder or its name"):
        plain_model(torch.nn.Linear(2, 2), "base")


class Packed(torch.Tensor):
    """As torchao and quanto keep weights: a class of tensors that says it is of float32."""


def test_quantized_weights_of_layers_that_are_not_linear_are_refused() -> None:
    weight = torch.zeros(40, 16)
    kinds = {
        "torch.uint8": weight.to(torch.uint8), "torch.float8_e4m3fn": weight.to(torch.float8_e4m3fn),
        "Packed": weight.as_subclass(Packed),
    }  # fmt: skip
    for kind, packed in kinds.items():
        model = make_gpt2(40)
        model.transformer.wte.weight = torch.nn.Parameter(packed, requires_grad=False)
        said = rf"^model: transformer.wte.weight is quantized \({kind}\) in a layer of Embedding, expected linear"
        with pytest.raises(ValueError, match=said), pytest.warns(UserWarning, match="quantized"):
            plain_model(model, "base")


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_what_is_no_one_change_of_weights_is_refused_in_memory_as_well() -> None:
    kinds = {
        "POLY": (PolyConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], r=2), "another one for every row's"),
        "PROMPT_TUNING": (PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2), "adds tokens"),
    }  # fmt: skip
    for kind, (config, why) in kinds.items():
        with pytest.raises(ValueError, match=f"^finetuned: it is a {kind} adapter, .*{why}"):
            plain_model(get_peft_model(make_llama(40), config), "finetuned")


def refused(model: PreTrainedModel, *given: Any, **settings: Any) -> str:
    with pytest.raises(ValueError, match=r"expected|no column|no rows") as error:
        diagnose(model, model, *given, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_cannot_be_diagnosed_is_said_in_a_line(tokenizer: PreTrainedTokenizerBase) -> None:
    model, rows = make_pair_models()["base"], words(make_pairs(number=60), 2).to_list()
    assert refused(model, None, rows) == (
        "tokenizer: none, but the base is in memory; expected its tokenizer, or the name of it"
    )
    assert "rows: int, expected a list of dicts" in refused(model, tokenizer, 7)
    assert "rows: columns of different lengths" in refused(model, tokenizer, {"prompt": ["a"], "answer": []})
    assert "no column 'answer'" in refused(model, tokenizer, [{"prompt": "w1"}] * 9)
    assert "answer of row 3 of train: 2.5 (float), expected text" in refused(
        model, tokenizer, [*rows[:3], {"prompt": "w1 ?", "answer": 2.5}, *rows[3:]]
    )
    assert refused(model, tokenizer, other_rows=rows).startswith("other_rows: given, but no rows")


@pytest.mark.parametrize(
    "form", ["list", "dict", "pandas", "dataset", "splits", "dataset dict", "parquet", "csv", "jsonl"]
)
def test_rows_in_every_form_are_the_same_rows(form: str, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"prompt": f"{n} + 1 =", "answer": str(n + 1)} for n in range(5)]
    frame, path = pd.DataFrame(rows), tmp_path / f"rows.{form}"
    given: Any = {
        "list": rows, "dict": frame.to_dict("list"), "pandas": frame, "dataset": datasets.Dataset.from_list(rows),
        "splits": {"train": rows}, "dataset dict": datasets.DatasetDict(train=datasets.Dataset.from_list(rows)),
    }.get(form)  # fmt: skip
    if form == "parquet":
        frame.to_parquet(path)
    elif form == "csv":
        frame.to_csv(path, index=False)
    elif form == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    splits = read_table(str(path)) if given is None else Table.of(given).splits
    assert {name: found.to_list() for name, found in splits.items()} == {"train": rows}


def test_rows_in_memory_keep_values_of_every_type() -> None:
    chat = [{"role": "user", "content": "a"}]
    given = [
        {"prompt": "a", "answer": 3},
        {"prompt": chat, "answer": "b", "group": "g"},
        {"prompt": None, "answer": 0.5},
    ]
    table = Table.of(given)
    assert [row["prompt"] for row in table.splits["train"]] == ["a", chat, None]
    assert [row["answer"] for row in table.splits["train"]] == [3, "b", 0.5]
    assert [row["group"] for row in table.splits["train"]] == [None, "g", None]
    assert table.hash() == Table.of(given, "other").hash() != Table.of(given[:2]).hash()


def test_what_models_cannot_be_measured_by_is_said_and_the_rest_is_measured(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise NoLensError("model: of this one no stream can be read alone")

    monkeypatch.setattr(logit_lens, "logit_lens", refuse)
    asked = ("behaviour", "logit lens", "separation")
    models, rows = make_pair_models(), words(make_pairs(number=900), 2).to_list()
    found = diagnose(
        models["base"], models["wrapped"], tokenizer, rows, control=models["never"], thoroughness=FEW,
        leave_out=[name.replace(" ", "_") for name in METHODS if name not in asked],
    )  # fmt: skip
    assert set(found.table["analysis"]) == {"behaviour", "separation"}
    assert "Not measured: logit lens (model: of this one no stream can be read alone)." in found.html
