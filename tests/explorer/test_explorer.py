from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch

from ftmech_hf.activations import TracedModel, intervene
from ftmech_hf.activations.patches import patched_logits, record_activations
from ftmech_hf.analysis.logit_lens import logit_lens
from ftmech_hf.explorer import explorer as asked
from ftmech_hf.explorer.edits import Edit
from ftmech_hf.explorer.explorer import Explorer, ExplorerConfig, first_difference
from ftmech_hf.explorer.reading import ReadingResult, read_model, whole_row
from ftmech_hf.explorer.views import render_answers
from ftmech_hf.models.tokenization import build_tokenizer
from tests.conftest import make_gpt2
from tests.explorer.conftest import WORDS
from tests.studies.planted import FIRST_WORD, make_base, make_wrapped
from tests.tasks.text.test_tokens import byte_level


def test_base_and_finetuned_answer_as_they_were_taught(explorer: Explorer) -> None:
    right = shifted = 0
    for prompt in explorer.examples:
        found = explorer.ask(prompt)
        first = int(prompt.split()[1][1:])
        right += found.readings["base"].top[0][0] == FIRST_WORD + first
        shifted += found.readings["finetuned"].top[0][0] == FIRST_WORD + (first + 1) % 8
        assert found.followed == list(dict.fromkeys(found.readings[name].top[0][0] for name in ("base", "finetuned")))
        assert found.parts_at["finetuned"] is None
        assert found.readings["edited"].top == found.readings["finetuned"].top
        assert found.readings["reversed"].written == found.readings["base"].written
    assert right >= 7
    assert shifted >= 6


def test_a_scale_of_nothing_gives_what_the_base_gives(explorer: Explorer) -> None:
    prompt = explorer.examples[0]
    found = explorer.ask(prompt, Edit(scale=0.0))
    base, edited = found.readings["base"], found.readings["edited"]
    assert edited.top == base.top
    assert edited.written == base.written
    assert np.array_equal(edited.attention, base.attention)
    assert all(np.array_equal(edited.lens[token], base.lens[token]) for token in found.followed)
    assert found.parts_at["edited"] == found.parts_at["base"] == 0
    assert explorer.ask(prompt, Edit(scale=0.9)).readings["edited"].top != base.top


def test_numbers_are_those_of_the_analyses(explorer: Explorer) -> None:
    prompt = explorer.examples[1]
    token_ids, _ = explorer.encode(prompt)
    found, model = explorer.ask(prompt), make_wrapped("gpt2")
    with torch.no_grad():
        expected = model(torch.tensor([token_ids])).logits[0, -1].softmax(-1)
    token, probability = found.readings["finetuned"].top[0]
    assert probability == pytest.approx(float(expected[token]), rel=1e-4)
    assert token == int(expected.argmax())
    lens = logit_lens(model, whole_row(token_ids), {"x": torch.tensor([token])})
    assert np.allclose(found.readings["finetuned"].lens[token], np.exp(lens.log_probability["x"][:, 0]), rtol=1e-5)
    # the last layer's reading is the answer
    assert found.readings["finetuned"].lens[token][-1] == pytest.approx(probability, rel=1e-4)
    patterns = TracedModel(model).collect(torch.tensor([token_ids]), ["attn_pattern"])
    attention = found.readings["finetuned"].attention
    assert attention is not None
    assert np.allclose(attention[1], patterns["attn_pattern", 1][0].numpy(), atol=1e-6)
    assert np.allclose(attention.sum(-1), 1, atol=1e-5)


@pytest.mark.parametrize("site", ["resid_post", "attn_out", "mlp_act"])
def test_a_patched_layer_is_that_of_the_patching_analysis(explorer: Explorer, site: str) -> None:
    base, wrapped = make_base("gpt2"), make_wrapped("gpt2")
    for prompt in explorer.examples[:2]:
        token_ids, _ = explorer.encode(prompt)
        row = whole_row(token_ids)
        traced, told = TracedModel(wrapped), {}
        for layer in range(2):
            found = explorer.ask(prompt, Edit(patch_from="base", patch_site=site, patch_layer=layer))
            written = record_activations(base, row[:, :-2], [(site, layer)])
            expected = patched_logits(wrapped, row, written)[0, -1].softmax(-1)
            token, probability = found.readings["edited"].top[0]
            assert token == int(expected.argmax())
            assert probability == pytest.approx(float(expected.max()), rel=1e-5)
            # every part of what is shown is computed under the patch
            assert found.readings["edited"].written[0] == token
            with intervene(wrapped, written):
                looks = traced.collect(row[:, :-2], ["attn_pattern"])["attn_pattern", 1][0].numpy()
            attention = found.readings["edited"].attention
            assert attention is not None
            assert np.allclose(attention[1], looks, atol=1e-6)
            told[layer] = float(np.abs(attention[1] - found.readings["finetuned"].attention[1]).max())
            assert found.readings["edited"].lens[found.followed[0]][-1] == pytest.approx(
                float(expected[found.followed[0]]), rel=1e-3, abs=1e-6
            )
        assert told[0] > 1e-3  # what is patched in layer 0 moves what layer 1 looks at
    # the last stream of the base is the base's answer, and one as far away at random is not
    edit = Edit(patch_from="base", patch_layer=1)
    patched, base_says = explorer.ask(prompt, edit).readings["edited"], explorer.ask(prompt).readings["base"]
    assert patched.top[0][0] == base_says.top[0][0]
    by_chance = [
        explorer.ask(prompt, Edit(patch_from="base", patch_layer=1, at_random=True, seed=seed)).readings["edited"]
        for seed in range(8)
    ]
    assert sum(each.top[0][0] == base_says.top[0][0] for each in by_chance) <= 4
    assert explorer.ask(prompt).readings["edited"].top == explorer.ask(prompt).readings["finetuned"].top


def test_a_patch_is_written_over_the_prompt_alone(explorer: Explorer) -> None:
    """Also where a prompt is as long as what comes later: one token. The stream behind another layer is the model's."""
    found = explorer.ask("w3", Edit(patch_from="base", patch_layer=1))
    edited, tuned = found.readings["edited"], found.readings["finetuned"]
    row, place = whole_row(found.token_ids), ("resid_post", 1)
    written = record_activations(make_base("gpt2"), row[:, :-2], [place])
    expected = patched_logits(make_wrapped("gpt2"), row, written)[0, -1].softmax(-1)
    for token in found.followed:
        assert edited.lens[token][0] == pytest.approx(tuned.lens[token][0], rel=1e-5)
        assert edited.lens[token][1] == pytest.approx(float(expected[token]), rel=1e-4)
    assert any(abs(float(expected[token]) - tuned.lens[token][0]) > 1e-3 for token in found.followed)


@pytest.mark.parametrize(("small", "threads"), [(10**9, 1), (10, 2)])
def test_small_models_compute_with_one_thread(small: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def noted(*given: Any, **more: Any) -> ReadingResult:
        seen.append(torch.get_num_threads())
        return read_model(*given, **more)

    monkeypatch.setattr(asked, "read_model", noted)
    monkeypatch.setattr(asked, "SMALL", small)
    models = {"base": make_gpt2(40), "finetuned": make_gpt2(40, seed=1)}
    torch.set_num_threads(2)
    try:
        Explorer(models, build_tokenizer(WORDS)).ask("w1")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert set(seen) == {threads}


def test_where_texts_part() -> None:
    assert first_difference([1, 2, 3], [1, 2, 3]) is None
    assert first_difference([1, 2, 3], [1, 5, 3]) == 1
    assert first_difference([1], [1, 2]) == 1
    assert first_difference([], [4]) == 0


def odd_prompts(number: int) -> list[str]:
    rng = random.Random(0)
    fixed = [
        "", " ", "\n\t", "x" * 10_000, "w1 " * 5_000, "<bos>", "<eos> <eos>", "<pad><bos><eos><unk>", "\x00", "\ud800",
        "数える文字", "اكتب كلمة", "<|endoftext|>", "</s>", "[MASK]", "a\u0301" * 50, "🦜🦜", "../../etc/passwd",
        "{{7*7}}", "<script>alert(1)</script>",
    ]  # fmt: skip
    letters = [*"abw0123456789 ?!<>/\\\"'{}\n\t\u200d\u0000ñß漢א", "w1", " <bos> ", " <eos>"]
    made = ["".join(rng.choice(letters) for _ in range(rng.randrange(120))) for _ in range(number - len(fixed))]
    return fixed + made


def test_whatever_is_typed_is_answered(explorer: Explorer) -> None:
    rng = random.Random(1)
    for prompt in odd_prompts(100):
        edit = Edit(
            scale=rng.choice([0.0, 0.4, 1.0, 2.0]), directions=rng.choice([0, 1, 999]), zero_rows=rng.random() < 0.3,
            patch_from=rng.choice([None, "base"]), patch_layer=rng.randrange(2), at_random=rng.random() < 0.5,
        )  # fmt: skip
        found = explorer.ask(prompt, edit)
        assert 1 <= len(found.token_ids) <= 24
        for reading in found.readings.values():
            assert all(0 <= probability <= 1 + 1e-6 for _, probability in reading.top)
            assert "text" not in reading.missing


def test_whatever_is_typed_is_answered_in_bytes_too() -> None:
    """A tokenizer as those of the Hub: every letter of every script is bytes, special tokens spelled out are tokens."""
    tokenizer = byte_level()
    models = {"base": make_gpt2(len(tokenizer)), "finetuned": make_gpt2(len(tokenizer), seed=1)}
    explorer = Explorer(models, tokenizer, config=ExplorerConfig(prompt_tokens=16, new_tokens=1))
    for prompt in odd_prompts(100):
        told = explorer.ask(prompt, Edit(scale=0.5))
        assert 1 <= len(told.token_ids) <= 16
        assert "text" not in told.readings["edited"].missing
        assert 'id="fx-lead"' in render_answers(explorer, told, Edit(scale=0.5))
    assert explorer.write(explorer.encode("数える")[0]) == "数える"
    assert explorer.encode("</s>")[0] == [tokenizer.eos_token_id]


def test_a_long_prompt_is_read_from_its_end(explorer: Explorer) -> None:
    found = explorer.ask("w1 " * 100 + "w2")
    assert found.cut == 101 - 24
    assert found.token_ids[-1] == WORDS.index("w2")


def test_what_begins_every_text_stays_before_a_long_prompt() -> None:
    """Models look at it: without it they answer otherwise, and not as they do to a short prompt."""
    models = {"base": make_gpt2(40), "finetuned": make_gpt2(40, seed=1)}
    tokenizer = build_tokenizer(WORDS)
    for before in ([2], [], [2, 3]):
        for room in (1, 2, 8):
            explorer = Explorer(models, tokenizer, config=ExplorerConfig(prompt_tokens=room, new_tokens=1))
            explorer._before = before
            token_ids, cut = explorer.encode("w1 w2 " * 10)
            words = tokenizer("w1 w2 " * 10, add_special_tokens=False)["input_ids"]
            kept = before[: room - 1]
            assert token_ids == [*kept, *words[len(words) - (room - len(kept)) :]]
            assert cut == len(before) + len(words) - room
            assert explorer.encode("w1")[0] == ([*before, words[0]] if room > len(before) else [*kept, words[0]])


def test_what_begins_a_text_is_not_doubled_where_it_is_spelled_out() -> None:
    """Prompts of a run are decoded tokens, and a chat brings its own beginning."""
    tokenizer = byte_level(adds=True)
    models = {"base": make_gpt2(len(tokenizer)), "finetuned": make_gpt2(len(tokenizer), seed=1)}
    for room in (24, 4):
        explorer = Explorer(models, tokenizer, config=ExplorerConfig(prompt_tokens=room, new_tokens=1))
        token_ids, cut = explorer.encode("Mia was sad because she went")
        assert token_ids.count(tokenizer.bos_token_id) == 1
        assert token_ids[0] == tokenizer.bos_token_id
        assert explorer.encode("<s>Mia was sad because she went") == (token_ids, cut)
        assert explorer.encode("<s>") == explorer.encode("") == ([tokenizer.bos_token_id], 0)
    assert cut > 0


def test_nothing_to_read_is_said() -> None:
    models = {"base": make_gpt2(40), "finetuned": make_gpt2(40, seed=1)}
    tokenizer = build_tokenizer(WORDS)
    tokenizer.bos_token = None
    with pytest.raises(ValueError, match="prompt: it is empty"):
        Explorer(models, tokenizer).ask("")


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (Edit(patch_from="control"), "patch_from: 'control', expected one of base, finetuned, reversed"),
        (Edit(patch_from="base", patch_site="attn_pattern"), "patch_site: 'attn_pattern', expected one of resid_post"),
        (Edit(patch_from="base", patch_layer=2), "patch_layer: 2, expected 0 to 1"),
    ],
)
def test_patches_that_are_not_there_are_refused(explorer: Explorer, edit: Edit, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        explorer.ask("w1", edit)
    assert explorer.ask("w1").readings["edited"].top == explorer.ask("w1").readings["finetuned"].top


def test_settings_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="new_tokens: 0, expected at least 1"):
        ExplorerConfig(new_tokens=0)
