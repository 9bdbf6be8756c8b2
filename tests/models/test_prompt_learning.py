"""Learned tokens in front of rows: the model answers as peft's does, and its sites are those of a row's own tokens."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from ftmech_hf.activations import TracedModel, intervene
from ftmech_hf.jobs.answer_rows import AnswerRows
from ftmech_hf.jobs.answer_scores import answer_loss, tokens_after
from ftmech_hf.jobs.generation import continue_rows
from ftmech_hf.jobs.padding import mask_padding
from ftmech_hf.jobs.written_answers import write_greedily
from ftmech_hf.models.configs import model_positions
from ftmech_hf.models.loading import load_model
from ftmech_hf.models.prompt_learning import load_with_prompt, nothing_in_front, positions_of, prompt_learning_kind
from tests.conftest import make_gpt2, make_llama

ROWS = torch.arange(4, 22).view(2, 9)
KINDS: dict[str, Any] = {
    "PROMPT_TUNING": lambda: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "P_TUNING": lambda: peft.PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=3, encoder_hidden_size=8),
    "PREFIX_TUNING": lambda: peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
}
MAKERS = {"llama": make_llama, "gpt2": make_gpt2}


def save(folder: Path, base: PreTrainedModel, kind: str) -> Any:
    """A base and an adapter of large random weights; gives peft's own model."""
    base.save_pretrained(folder / "base")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(1)
        adapted = get_peft_model(load_model(str(folder / "base")), KINDS[kind]()).eval()
        with torch.no_grad():
            for weight in adapted.parameters():
                if weight.requires_grad:
                    weight += torch.randn_like(weight)
        adapted.save_pretrained(folder / "tuned")
    path = folder / "tuned" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": str(folder / "base")}))
    return adapted


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_without_a_place_and_none_at_all_are_refused(tmp_path: Path, kind: str) -> None:
    save(tmp_path, make_llama(40), kind)
    name, weights = str(tmp_path / "tuned"), tmp_path / "tuned" / "adapter_model.safetensors"
    found = load_file(weights)
    save_file({**found, "more": torch.zeros(2)}, weights, {"format": "pt"})
    with pytest.raises(ValueError, match="more has no place in it"):
        load_with_prompt(name)
    save_file({"other": found["prompt_embeddings"]}, weights, {"format": "pt"})
    with pytest.raises(ValueError, match="prompt_embeddings"):
        load_with_prompt(name)
    weights.unlink()
    with pytest.raises(ValueError, match=r"holds no weights of its adapter \(no adapter_model.safetensors\)"):
        load_with_prompt(name)


@torch.no_grad()
def of_peft(adapted: Any, rows: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Logits and hidden states of the rows' own tokens, as peft computes them."""
    found = adapted(input_ids=rows, output_hidden_states=True)
    return found.logits[:, -rows.shape[1] :], [each[:, -rows.shape[1] :] for each in found.hidden_states]


@pytest.mark.parametrize("model", MAKERS)
@pytest.mark.parametrize("kind", KINDS)
def test_it_answers_as_in_peft_and_is_the_base_without(tmp_path: Path, kind: str, model: str) -> None:
    adapted = save(tmp_path, MAKERS[model](40), kind)
    name = str(tmp_path / "tuned")
    assert prompt_learning_kind(name) == kind
    assert prompt_learning_kind(str(tmp_path / "base")) is None
    loaded, base = load_with_prompt(name), load_model(str(tmp_path / "base"))
    logits, states = of_peft(adapted, ROWS)
    with torch.no_grad():
        torch.testing.assert_close(loaded(ROWS).logits, logits, atol=1e-5, rtol=1e-4)
        last = loaded(ROWS, logits_to_keep=2, use_cache=False).logits
        torch.testing.assert_close(last, logits[:, -2:], atol=1e-5, rtol=1e-4)
        assert (base(ROWS).logits - logits).abs().max() > 0.1
        with nothing_in_front(loaded):
            assert torch.equal(loaded(ROWS).logits, base(ROWS).logits)
    door = TracedModel(loaded)
    found = door.collect(ROWS, ["resid_pre", "resid_post", "mlp_act"], positions=[0, 4, -1])
    for layer in range(2):
        torch.testing.assert_close(found["resid_pre", layer], states[layer][:, [0, 4, -1]], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found["resid_post", 0], states[1][:, [0, 4, -1]], atol=1e-5, rtol=1e-4)
    assert found["mlp_act", 1].shape[:2] == (2, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_padded_row_is_answered_as_the_row_alone(tmp_path: Path, kind: str) -> None:
    save(tmp_path, make_llama(40), kind)
    loaded = mask_padding(load_with_prompt(str(tmp_path / "tuned")), 0)
    padded = torch.cat([torch.zeros(2, 4, dtype=torch.long), ROWS], 1)
    with torch.no_grad():
        torch.testing.assert_close(loaded(padded).logits[:, 4:], loaded(ROWS).logits, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_in_front_takes_positions_of_the_rows(tmp_path: Path, kind: str) -> None:
    """Also where it is keys and values alone. A row that fills what is left is read, and nothing is written beyond."""
    save(tmp_path, make_gpt2(40), kind)
    loaded, base = load_with_prompt(str(tmp_path / "tuned")), load_model(str(tmp_path / "base"))
    whole = base.config.max_position_embeddings
    room = positions_of(loaded)
    assert (room, positions_of(base), model_positions(str(tmp_path / "tuned"))) == (whole - 3, whole, whole - 3)
    with nothing_in_front(loaded):
        assert positions_of(loaded) == whole
    assert room is not None
    full = AnswerRows.one_token((torch.arange(room + 2) % 30 + 3)[None])  # its prompt is of as many as there is room
    assert tokens_after(loaded, full).tolist() == [int(full.token_ids[0, -1])], "no place is left behind the answer"
    assert [len(each) for each in write_greedily(loaded, full, 6)] == [1]
    shorter = AnswerRows.one_token(full.token_ids[:, 4:])
    assert [len(each) for each in write_greedily(loaded, shorter, 6)] == [5]
    longer = AnswerRows.one_token((torch.arange(room + 3) % 30 + 3)[None])
    with pytest.raises(ValueError, match=f"but the model has {room} positions"):
        answer_loss(loaded, longer)
    with pytest.raises(ValueError, match=f"has {room} tokens, but the model has {room} positions"):
        continue_rows(loaded, full.prompts()[0].tolist(), eos=None, seed=0, max_new_tokens=2)


@pytest.mark.parametrize("kind", KINDS)
def test_writes_are_at_the_rows_own_tokens(tmp_path: Path, kind: str) -> None:
    save(tmp_path, make_llama(40), kind)
    loaded, base = load_with_prompt(str(tmp_path / "tuned")), load_model(str(tmp_path / "base"))
    seen: list[Tensor] = []

    def keep(value: Tensor) -> Tensor:
        seen.append(value.clone())
        return value

    with torch.no_grad():
        plain = loaded(ROWS).logits
        with intervene(loaded, {("resid_post", 0): keep}):
            loaded(ROWS)
        assert seen[0].shape == (2, 9, 16)
        with intervene(loaded, {("resid_post", 0): seen[0]}):
            torch.testing.assert_close(loaded(ROWS).logits, plain, atol=1e-6, rtol=1e-5)
        last = TracedModel(base).collect(ROWS, ["resid_post"], positions=range(9))["resid_post", 1]
        with intervene(loaded, {("resid_post", 1): last}):  # all that is left is the norm and the unembedding
            torch.testing.assert_close(loaded(ROWS).logits, base(ROWS).logits, atol=1e-5, rtol=1e-4)


def test_other_kinds_are_refused_by_name(tmp_path: Path) -> None:
    given = {"cpt_token_ids": [1, 2, 3], "cpt_mask": [1, 1, 1], "cpt_tokens_type_mask": [1, 2, 4]}
    peft.CPTConfig(task_type="CAUSAL_LM", **given).save_pretrained(tmp_path / "tuned")
    with pytest.raises(ValueError, match="tuned is a CPT adapter, expected one of PROMPT_TUNING, P_TUNING, PREFIX"):
        prompt_learning_kind(str(tmp_path / "tuned"))
