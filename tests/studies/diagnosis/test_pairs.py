"""Pairs of models that differ in shape: what both have is compared, by what it is and not by its number."""

from __future__ import annotations

import copy
import dataclasses
import gc
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from ftmech_hf.config import Notice
from ftmech_hf.models.memory import weight_bytes
from ftmech_hf.models.tokenization import build_tokenizer, save_tokenizer
from ftmech_hf.models.vocabulary import find_common_tokens
from ftmech_hf.runs import FinishedRun
from ftmech_hf.studies.diagnosis.case import BASE, FINETUNED, NULL, Case, CaseConfig
from ftmech_hf.studies.diagnosis.diagnosis import MeasuredResult
from ftmech_hf.studies.diagnosis.in_memory import InMemory
from ftmech_hf.studies.diagnosis.inputs import DiagnoseConfig, open_case
from ftmech_hf.studies.diagnosis.methods import METHODS
from ftmech_hf.studies.diagnosis.methods.revival import measure_revival
from ftmech_hf.studies.diagnosis.methods.weights import explain_weights
from ftmech_hf.studies.diagnosis.needs import memory_needs
from ftmech_hf.studies.diagnosis.result import diagnose
from ftmech_hf.studies.diagnosis.verdict import judge_capability
from ftmech_hf.tasks import PcfgShape
from ftmech_hf.tasks.schema import SPECIAL_TOKENS
from tests.conftest import make_gpt2, make_llama
from tests.models.test_prompt_learning import save as save_prompt
from tests.studies.diagnosis.cases import measured
from tests.studies.planted import VOCABULARY, ask, make_base, make_never, make_rows, make_wrapped, words

FEW = CaseConfig(
    rows=100, fit_rows=150, patch_rows=30, null_steps=0, prune_sizes=[0, 1], random_masks=2, reverse_lr=1e-3,
    reverse_steps=1, most_reverse_steps=1, repeats=2, thorough=True,
)  # fmt: skip
NAMES = tuple(dict.fromkeys((*VOCABULARY, *SPECIAL_TOKENS, *(f"unused{number}" for number in range(40)))))[:40]
INSTRUMENTS = ("behaviour", "probing", "patching", "logit lens", "weights", "similarity", "separation")


def save(folder: Path, model: PreTrainedModel, names: tuple[str, ...] = NAMES) -> Path:
    model.save_pretrained(folder)
    save_tokenizer(build_tokenizer(names), folder)
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, what wraps it, a control, and questions."""
    root = tmp_path_factory.mktemp("pairs")
    save(root / "base", make_base("llama"))
    save(root / "wrapped", make_wrapped("llama"))
    save(root / "never", make_never("llama"))
    words(make_rows(number=900)).to_parquet(root / "questions.parquet")
    return root


def resized(model: PreTrainedModel, rows: int) -> PreTrainedModel:
    """A copy with more rows, drawn by chance; small ones, so that they are no answer."""
    grown = copy.deepcopy(model)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        grown.resize_token_embeddings(rows, mean_resizing=False)
        with torch.no_grad():
            grown.get_input_embeddings().weight[40:] = torch.randn(rows - 40, 16) / 100
            grown.get_output_embeddings().weight[40:] = 0
    return grown


def make_case(root: Path, finetuned: Path, output: Path, **changes: str) -> Case:
    """A pair in folders as a case."""
    given = {
        "base": str(root / "base"), "control": str(root / "never"), "dataset": str(root / "questions.parquet"),
        "finetuned": str(finetuned), "output_dir": str(output), **changes,
    }  # fmt: skip
    with open_case(DiagnoseConfig(**given), FEW, PcfgShape(), InMemory()) as (_, case_of):
        return case_of()


def compared(root: Path, finetuned: Path, output: Path, *names: str, **changes: str) -> MeasuredResult:
    """What some methods find on a pair in folders."""
    return measured(make_case(root, finetuned, output, **changes), *names)


def weights(found: MeasuredResult) -> dict[str, Any]:
    summary: dict[str, Any] = found.summary()["weights"]
    return summary


def table(found: MeasuredResult) -> pd.Series:
    keys = ["analysis", "quantity", "model", "questions", "site", "layer", "x", "reference"]
    return pd.DataFrame(found.rows()).set_index(keys)["value"]


def test_added_tokens_and_padding_change_no_number(root: Path, tmp_path: Path) -> None:
    """Three tokens more, and rows up to a round number that are no tokens."""
    plain = compared(root, root / "wrapped", tmp_path / "plain", *INSTRUMENTS)
    tuned = save(tmp_path / "tuned", resized(make_wrapped("llama"), 48), (*NAMES, "new0", "new1", "new2"))
    found = compared(root, tuned, tmp_path / "out", *INSTRUMENTS)
    assert weights(found)["tokens"] == {**weights(plain)["tokens"], "only_finetuned": 3}
    before, after = table(plain), table(found)
    assert set(before.index.get_level_values("analysis")) == set(INSTRUMENTS)
    assert after.index.equals(before.index)
    assert after.tolist() == pytest.approx(before.tolist(), abs=1e-5)
    said = "compared on the 40 tokens that both models know; 0 are the base's alone and 3 the fine-tuned model's"
    assert said in explain_weights({"evidence": found.summary()})
    assert "that both models know" not in explain_weights({"evidence": plain.summary()})


def test_the_line_between_two_vocabularies_begins_at_the_base(root: Path, tmp_path: Path) -> None:
    """What the base does not know is the fine-tuned model's all along; here it is never the answer."""
    tuned = save(tmp_path / "tuned", resized(make_wrapped("llama"), 48), (*NAMES, "new0", "new1", "new2"))
    lines = []
    for folder in (tuned, root / "wrapped"):
        case = make_case(root, folder, tmp_path / f"{folder.name} out", reversed=str(folder))
        path = METHODS["path"].measure(case, METHODS["behaviour"].measure(case), None)
        lines.append(table(MeasuredResult({"path": path}, {})).xs("path"))
    assert lines[0].tolist() == lines[1].tolist()
    there = lines[0].xs("base, fine-tuned, reversed").tolist()
    assert there[0] > 0.95
    assert there[4] < 0.05
    with pytest.raises(ValueError, match="reversed: its vocabulary has 40 rows, expected 48 as the fine-tuned model"):
        make_case(root, tuned, tmp_path / "mixed", reversed=str(root / "wrapped"))


def swapped(model: PreTrainedModel, one: int = 20, other: int = 30) -> PreTrainedModel:
    """A copy in which two rows of the embeddings and of the unembedding have changed places."""
    moved, order = copy.deepcopy(model), list(range(40))
    order[one], order[other] = other, one
    with torch.no_grad():
        for part in (moved.get_input_embeddings(), moved.get_output_embeddings()):
            part.weight.copy_(part.weight[order].clone())
    return moved


@pytest.mark.parametrize("told", [True, False])
def test_tokens_are_told_by_their_names_and_not_by_their_rows(root: Path, tmp_path: Path, told: bool) -> None:
    names = list(NAMES)
    if told:
        names[20], names[30] = names[30], names[20]
    moved = save(tmp_path / "moved", swapped(make_base("llama")), tuple(names))
    found = weights(compared(root, moved, tmp_path / "out", "weights"))
    assert found["tokens"]["changed"] == (0 if told else 2)
    sizes = found["outside_blocks"]
    assert [sizes["embeddings"] == 0, sizes["unembedding"] == 0, sizes["model.norm"] == 0] == [told, told, True]


def test_a_change_outside_the_blocks_is_seen_where_it_is(root: Path, tmp_path: Path) -> None:
    changed = resized(make_base("llama"), 44)
    with torch.no_grad():
        changed.get_parameter("model.norm.weight").mul_(1.5)
        changed.get_output_embeddings().weight[7] *= 2
    base = make_base("llama").get_output_embeddings().weight.detach()
    found = weights(compared(root, save(tmp_path / "tuned", changed), tmp_path / "out", "weights"))
    assert found["tokens"] == {"common": 40, "only_base": 0, "only_finetuned": 0, "changed": 1}
    assert found["outside_blocks"]["model.norm"] == pytest.approx(0.5)
    assert found["outside_blocks"]["unembedding"] == pytest.approx(float(base[7].norm() / base.norm()))
    assert found["outside_blocks"]["embeddings"] == 0


def tied(seed: int = 0) -> LlamaForCausalLM:
    config = LlamaConfig(**{**make_llama(40).config.to_dict(), "tie_word_embeddings": True})
    torch.manual_seed(seed)
    return LlamaForCausalLM(config).eval()


def untied(model: LlamaForCausalLM) -> LlamaForCausalLM:
    own = LlamaForCausalLM(LlamaConfig(**{**model.config.to_dict(), "tie_word_embeddings": False})).eval()
    own.load_state_dict(model.state_dict())
    return own


@pytest.mark.parametrize("rows", [40, 44])
def test_a_tied_and_an_untied_model_of_the_same_weights_are_the_same(root: Path, tmp_path: Path, rows: int) -> None:
    base = tied()
    one, other = save(tmp_path / "tied", base), save(tmp_path / "own", resized(untied(base), rows))
    for pair in ((one, other), (other, one)):
        found = weights(compared(root, pair[1], tmp_path / f"{pair[1].name} out", "weights", base=str(pair[0])))
        assert found["changed"] == 0
        assert set(found["outside_blocks"].values()) == {0.0}
        assert set(found["outside_blocks"]) == {"embeddings", "unembedding", "model.norm"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_one_type_of_number_against_another(root: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    """A copy differs by its rounding, at most half of the last digit."""
    rounded = save(tmp_path / "rounded", copy.deepcopy(make_base("llama")).to(dtype))
    found = compared(root, rounded, tmp_path / "out", "behaviour", "weights")
    assert judge_capability(found.evidence()).verdict == "unchanged"
    assert 0 < weights(found)["relative_norm"] < torch.finfo(dtype).eps / 2


def heads(**changes: int) -> LlamaForCausalLM:
    return LlamaForCausalLM(LlamaConfig(**{**make_llama(40).config.to_dict(), **changes}))


OTHERS: dict[str, tuple[Callable[[], PreTrainedModel], str]] = {
    "architecture": (lambda: make_gpt2(40), "finetuned: model_type is gpt2, expected llama as the base's"),
    "heads": (lambda: heads(num_attention_heads=8, num_key_value_heads=4, head_dim=2),
              "finetuned: num_attention_heads is 8, expected 4 as the base's"),
    "width": (lambda: heads(intermediate_size=32),
              r"finetuned: model.layers.0.mlp.down_proj.weight is \[16, 32\], expected \[16, 24\] as the base's"),
    "depth": (lambda: heads(num_hidden_layers=3),
              "finetuned: model.layers.2.input_layernorm.weight is .*, expected no such weights as the base's"),
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHERS)
def test_another_architecture_is_refused_in_one_line(root: Path, tmp_path: Path, kind: str) -> None:
    make, message = OTHERS[kind]
    with pytest.raises(ValueError, match=f"^{message}[^\n]*$"):
        compared(root, save(tmp_path / "other", make()), tmp_path / "out")


def test_two_vocabularies_without_a_tokenizer_are_refused() -> None:
    with pytest.raises(ValueError, match="vocabulary: 44 rows and no tokenizer to tell them by, expected 40 as"):
        find_common_tokens(None, None, (40, 44))
    same = find_common_tokens(None, None, (40, 40))
    assert torch.equal(same.first, torch.arange(40))


def test_common_tokens_by_hand() -> None:
    found = find_common_tokens({"a": 0, "b": 1, "c": 2, "far": 9}, {"c": 0, "a": 3, "new": 1}, (4, 6))
    assert (found.first.tolist(), found.second.tolist()) == ([0, 2], [3, 0])
    assert (found.only_first, found.only_second) == (("b",), ("new",))
    # A tokenizer names its tokens in another order in every process.
    anyhow = find_common_tokens({"z": 3, "a": 0, "b": 2}, {"y": 2, "a": 0, "x": 1}, (4, 3))
    assert (anyhow.only_first, anyhow.only_second) == (("b", "z"), ("x", "y"))


def test_gpt2_with_more_tokens(root: Path, tmp_path: Path) -> None:
    """Tied embeddings, in the other architecture."""
    base = make_base("gpt2")
    grown = copy.deepcopy(base)
    with torch.random.fork_rng():
        grown.resize_token_embeddings(41, mean_resizing=False)
    assert isinstance(grown, GPT2LMHeadModel)
    assert isinstance(grown.config, GPT2Config)
    with torch.no_grad():
        grown.transformer.wte.weight[40] = 0
    pair = save(tmp_path / "base", base), save(tmp_path / "tuned", grown, (*NAMES, "new"))
    found = compared(root, pair[1], tmp_path / "out", "behaviour", "weights", base=str(pair[0]), control=str(pair[0]))
    assert found.evidence().drop.value == 0
    assert weights(found)["changed"] == 0
    assert weights(found)["tokens"] == {"common": 40, "only_base": 0, "only_finetuned": 1, "changed": 0}


def test_a_diagnosis_looks_at_answers_and_activations_and_says_so(root: Path, tmp_path: Path) -> None:
    save_prompt(tmp_path, make_base("llama"), "PROMPT_TUNING")
    few = dataclasses.replace(FEW, thorough=False)
    with pytest.warns(Notice, match=f"is put on {root / 'base'}, as you say, and not on {tmp_path / 'base'}"):
        found = diagnose(
            root / "base", tmp_path / "tuned", rows=root / "questions.parquet", control=root / "never",
            thoroughness=few, output_dir=tmp_path / "out",
        )  # fmt: skip
    summary = FinishedRun(found.folder).summary
    assert summary["evidence"]["finetuned"]["value"] < 0.5 < 0.95 < summary["evidence"]["base"]["value"]
    left_out = ["pruning", "revival", "path", "weights"]
    assert summary["facts"]["left_out"] == left_out
    measured = set(found.table["analysis"])
    assert {"behaviour", "probing", "patching", "logit lens", "similarity", "separation"} <= measured
    assert not measured & set(left_out)
    assert found.verdict in ("undecided", "weakened")
    page = " ".join(found.page.read_text().split())
    assert "(PROMPT_TUNING): its weights are the base's" in page
    assert "left out: pruning, revival, path, weights. Nor is it merged." in page
    with pytest.raises(ValueError, match=r"tuned is a PROMPT_TUNING adapter, .* cannot be merged into its base"):
        diagnose(root / "base", root / "base", rows=root / "questions.parquet", control=tmp_path / "tuned",
                 output_dir=tmp_path / "other")  # fmt: skip


def test_a_diagnosis_that_does_not_fit_is_refused_before_it_loads(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "base", tmp_path / "base")
    weights = tmp_path / "base" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])  # to load it would be another fault
    given = {"base": str(tmp_path / "base"), "max_memory": "20kB"}
    with pytest.raises(
        ValueError, match=r"^max_memory: 20kB, expected about [0-9.]+ [kM]B \(4 models [0-9.]+ kB, .*\)"
    ):
        make_case(root, root / "wrapped", tmp_path / "out", **given)
    with pytest.raises(ValueError, match="cannot be loaded"):
        make_case(root, root / "wrapped", tmp_path / "out", **{**given, "max_memory": "1GB"})
    with pytest.raises(ValueError, match="max_memory: 'much', expected a size"):
        make_case(root, root / "wrapped", tmp_path / "out", max_memory="much")


def test_what_is_needed_grows_with_what_needs_it() -> None:
    config, questions = make_base("llama").config, [ask(make_rows(number=900))]

    def total(**changes: Any) -> int:
        more = {key: changes.pop(key) for key in ("models", "prompt", "dtype") if key in changes}
        return sum(
            memory_needs(config, dataclasses.replace(FEW, **changes), questions, **{"models": 3, **more}).values()
        )

    size = weight_bytes(config)
    assert total(models=4) - total() == size
    assert total(null_steps=1) - total() == size
    assert total(reverse_batch_size=64) > total() > total(dtype=torch.bfloat16) > total(dtype=torch.bfloat16) / 2
    kept = {"reverse_by": "adapter"}
    assert total(edits=True, **kept) - total(**kept) >= size, "an edit, what it gives, what it replaces"
    assert total(edits=True, prompt=True) == total(prompt=True), "where no weight changed nothing is taken back"
    assert total(prompt=True) <= total() - size  # nothing is trained back, and no model is left of it


def test_of_the_models_that_are_trained_back_one_is_kept() -> None:
    case = Case({BASE: make_base("llama"), FINETUNED: make_wrapped("llama"), NULL: make_never("llama")},
                ask(make_rows(number=900)), None, FEW, 0)  # fmt: skip
    gc.collect()
    before = whole_models()
    found = measure_revival(case)
    gc.collect()
    assert whole_models() - before == {id(found.trained_back)}


def whole_models() -> set[int]:
    alive = [each for each in gc.get_objects() if issubclass(type(each), LlamaForCausalLM)]
    return {id(each) for each in alive if not next(each.parameters()).is_meta}
