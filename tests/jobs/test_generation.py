from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import CodeGenConfig, CodeGenForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from ftmech_hf.jobs.caching import make_cache
from ftmech_hf.jobs.generation import Amplified, continue_rows, generate, generation_randomness, sample_tokens
from ftmech_hf.jobs.padding import passes_over_padding
from ftmech_hf.models.presets import build_model, find_preset
from ftmech_hf.models.small import small_model
from ftmech_hf.models.tokenization import build_tokenizer
from ftmech_hf.models.vocabulary import num_rows
from ftmech_hf.tasks.schema import SPECIAL_TOKENS
from tests.conftest import make_gpt2

WORDS = [f"w{number}" for number in range(40 - len(SPECIAL_TOKENS))]
PROMPTS = ["w1 w2 w3", "w5", "w4 w4 w9 w9 w9 w1", "w1 w2 w3", "w30 w12", "w8 w8 w8 w8 w8", "w7 w1"]


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer([*SPECIAL_TOKENS, *WORDS])


def _alone(
    model: PreTrainedModel, ids: list[int], uniform: np.ndarray, temperature: float, eos: int | None = 2
) -> list[int]:
    """One text, without padding, cache or batch."""
    written: list[int] = []
    for number in uniform:
        logits = model(torch.tensor([[*ids, *written]]), use_cache=False).logits[0, -1].double() / temperature
        token = int((logits.softmax(-1).cumsum(-1) <= number).sum())
        if token == eos:
            break
        written.append(token)
    return written


@torch.no_grad()
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_a_text_is_that_of_a_loop_without_batch_padding_or_cache(
    any_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, batch_size: int
) -> None:
    texts = generate(
        any_model, tokenizer, PROMPTS, seed=3, max_new_tokens=20, temperature=0.7, batch_size=batch_size
    )  # fmt: skip
    for number, (prompt, text) in enumerate(zip(PROMPTS, texts, strict=True)):
        ids = [1, *tokenizer(prompt)["input_ids"]]
        expected = _alone(any_model, ids, generation_randomness(3, number, 20), 0.7)
        assert text == tokenizer.decode(expected, skip_special_tokens=True)
    assert texts[0] != texts[3]  # the same prompt has other random numbers in another place
    assert len({len(text) for text in texts}) > 1  # some have ended early


@torch.no_grad()
def test_convolutions_see_no_padding_and_outlive_texts_that_end(tokenizer: PreTrainedTokenizerFast) -> None:
    """Layers without keys and values keep the rows that go on, as attention does."""
    model = build_model(find_preset("nano-library", n_layer=2, n_embd=16, n_head=2), 40, seed=0)
    model.load_state_dict(
        {name: 30 * each if "norm" not in name else each for name, each in model.state_dict().items()}
    )
    texts = generate(model, tokenizer, PROMPTS, seed=3, max_new_tokens=20, temperature=0.7, batch_size=4)
    for number, (prompt, text) in enumerate(zip(PROMPTS, texts, strict=True)):
        expected = _alone(model, [1, *tokenizer(prompt)["input_ids"]], generation_randomness(3, number, 20), 0.7)
        assert text == tokenizer.decode(expected, skip_special_tokens=True)
    assert len({len(text) for text in texts}) > 1


@torch.no_grad()
@pytest.mark.parametrize(
    "kind",
    [
        "openai-gpt",  # takes no cache
        "xlm",  # one of its own, by another name
        "minimax",  # one of its own only
        "mamba",  # takes neither positions nor what attention keeps
        "bloom",  # takes no positions
        "recurrent_gemma",  # reads padding
        "roberta",  # counts positions from elsewhere
        "deepseek_v32",  # may choose padding to attend to
        "zamba",
        "gemma3_text",
        "lfm2",
    ],
)
def test_every_kind_of_model_writes_what_a_loop_over_whole_texts_does(kind: str) -> None:
    """In texts of several lengths, of which two have one."""
    model = small_model(kind).eval()
    rows = np.random.default_rng(0).integers(6, num_rows(model), (4, 9))
    prompts = [row[:length].tolist() for row, length in zip(rows, (3, 9, 5, 9), strict=True)]
    written = continue_rows(model, prompts, eos=None, seed=3, max_new_tokens=5, temperature=0.7, batch_size=4)
    for number, (prompt, found) in enumerate(zip(prompts, written, strict=True)):
        assert found == _alone(model, prompt, generation_randomness(3, number, 5), 0.7, eos=None)


@torch.no_grad()
def test_a_cache_that_answers_otherwise_is_not_believed() -> None:
    """Tried, and out of sight of those who read in the model; a model that keeps rightly is given its cache."""
    model, calls = make_gpt2(40, seed=0), []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    assert make_cache(model, 20) is not None
    assert make_cache(model, 20) is not make_cache(model, 20)
    assert not calls

    class Forgetful(type(model)):  # type: ignore[misc]  # takes a cache, and does not look at it
        def forward(self, input_ids: torch.Tensor, past_key_values: Any = None, **settings: Any) -> Any:
            return super().forward(input_ids, **{**settings, "use_cache": False})

    forgetful = Forgetful(model.config).eval()
    assert make_cache(forgetful, 20) is None
    forgetful.load_state_dict(model.state_dict())
    rows = [[1, 5, 6, 7], [1, 9]]
    texts = [continue_rows(each, rows, eos=2, seed=0, max_new_tokens=6) for each in (model, forgetful)]
    assert texts[0] == texts[1]


@torch.no_grad()
def test_a_cache_that_forgets_the_padding_is_not_believed() -> None:
    """GIT passes over padding, and reads its cache rightly where there is none, but not both at once."""
    model = small_model("git")
    torch.manual_seed(1)
    for parameter in model.parameters():
        parameter.mul_(4.0) if parameter.ndim > 1 else parameter.add_(0.1 * torch.randn_like(parameter))
    assert passes_over_padding(model, 40)
    assert make_cache(model, 40) is None
    prompts = [torch.randint(3, 60, (length,)).tolist() for length in (12, 12, 20)]
    written = continue_rows(model, prompts, eos=None, seed=0, max_new_tokens=9, temperature=0.7)
    for number, (prompt, found) in enumerate(zip(prompts, written, strict=True)):
        assert found == _alone(model, prompt, generation_randomness(0, number, 9), 0.7, eos=None)


def test_a_model_of_nan_writes_nothing() -> None:
    """The first token that is known would be the most likely one, and the last be drawn."""
    model = make_gpt2(40, seed=0)
    with torch.no_grad():
        model.transformer.ln_f.bias.fill_(float("nan"))
    for temperature in (0.0, 1.0):
        with pytest.raises(ValueError, match=r"^model: it answers with nan or inf, expected numbers; .*dtype: float32"):
            continue_rows(model, [[1, 5]], eos=2, seed=0, max_new_tokens=3, temperature=temperature)


def test_without_temperature_it_is_what_transformers_writes(
    any_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    texts = generate(any_model, tokenizer, PROMPTS, seed=0, max_new_tokens=12, temperature=0, batch_size=4)
    for prompt, text in zip(PROMPTS, texts, strict=True):
        ids = torch.tensor([[1, *tokenizer(prompt)["input_ids"]]])
        theirs = any_model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, use_cache=True
        )
        assert text == tokenizer.decode(theirs[0, ids.shape[1] :], skip_special_tokens=True)


def test_another_seed_gives_other_texts_and_a_longer_limit_the_same_beginnings(
    any_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    first, other, longer = (
        generate(any_model, tokenizer, PROMPTS, seed=seed, max_new_tokens=limit)
        for seed, limit in ((0, 8), (1, 8), (0, 16))
    )
    assert first != other
    assert all(long.startswith(short) for short, long in zip(first, longer, strict=True))
    assert any(len(long) > len(short) for short, long in zip(first, longer, strict=True))


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    logits = torch.tensor([0.0, 2.0, -torch.inf, 1.0])
    uniform = torch.from_numpy(generation_randomness(0, 0, 20_000))
    for temperature in (0.5, 2.0):
        tokens = sample_tokens(logits.expand(len(uniform), -1), uniform, temperature)
        counts = torch.bincount(tokens, minlength=4).numpy()
        expected = (logits / temperature).softmax(-1).numpy() * len(uniform)
        assert counts[2] == 0
        assert stats.chisquare(counts[[0, 1, 3]], expected[[0, 1, 3]], sum_check=False).pvalue > 0.01
        wrong = (logits / 1.0).softmax(-1).numpy() * len(uniform)
        assert stats.chisquare(counts[[0, 1, 3]], wrong[[0, 1, 3]], sum_check=False).pvalue < 1e-6


def test_a_number_next_to_one_still_gives_a_token() -> None:
    logits = torch.randn(1, 1000, generator=torch.Generator().manual_seed(0))
    last = torch.tensor([np.nextafter(1.0, 0.0)])
    assert 0 <= int(sample_tokens(logits, last, 1.0)) < 1000


def test_a_text_ends_with_the_last_position(tokenizer: PreTrainedTokenizerFast) -> None:
    from tests.conftest import make_gpt2

    model = make_gpt2(40)  # 32 positions
    with torch.no_grad():
        model.transformer.ln_f.bias[0] = 100.0
        model.lm_head.weight[:, 0] = 0
        model.lm_head.weight[: len(SPECIAL_TOKENS), 0] = -1  # none of these, <eos> among them, is ever likely
    texts = generate(model, tokenizer, ["w1 " * 30, "w1"], seed=0, max_new_tokens=100)
    # <bos> and 30 words leave one position, whose token is the last that can be followed by a prediction
    assert [len(tokenizer(text)["input_ids"]) for text in texts] == [1, 30]
    with pytest.raises(ValueError, match="prompts: number 1 has 33 tokens, but the model has 32 positions"):
        generate(model, tokenizer, ["w1", "w1 " * 32], seed=0, max_new_tokens=4)


def test_a_model_whose_config_names_no_padding_writes_too(tokenizer: PreTrainedTokenizerFast) -> None:
    """As those of several parts, whose language model has a config of its own, and CodeGen."""
    torch.manual_seed(0)
    config = CodeGenConfig(vocab_size=40, n_embd=32, n_layer=1, n_head=4, rotary_dim=4, n_positions=32, n_ctx=32)
    model = CodeGenForCausalLM(config).eval()
    assert not hasattr(config, "pad_token_id")
    texts = generate(model, tokenizer, PROMPTS, seed=0, max_new_tokens=5)
    assert texts == generate(model, tokenizer, PROMPTS, seed=0, max_new_tokens=5, batch_size=1)


def test_a_prompt_that_spells_its_beginning_begins_once(tokenizer: PreTrainedTokenizerFast) -> None:
    model = make_gpt2(40)
    bare, spelled = (
        generate(model, tokenizer, [begin + prompt for prompt in PROMPTS], seed=3, max_new_tokens=6)
        for begin in ("", "<bos> ")
    )
    assert bare == spelled


def test_impossible_settings_are_named(tokenizer: PreTrainedTokenizerFast, any_model: PreTrainedModel) -> None:
    with pytest.raises(ValueError, match="max_new_tokens: 0, batch_size: 64"):
        generate(any_model, tokenizer, ["w1"], seed=0, max_new_tokens=0)
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="tokenizer: it has no <bos> or no <eos>"):
        generate(any_model, tokenizer, ["w1"], seed=0, max_new_tokens=1)


@torch.no_grad()
def test_what_a_model_learned_is_made_stronger_as_the_formula_says() -> None:
    """Against a loop over whole texts, without cache, batch or padding, for texts of several lengths."""
    base, model = make_gpt2(40, seed=0), make_gpt2(40, seed=1)
    rows = [[1, 5, 6, 7], [1, 9], [1, 4, 4, 8, 8, 8]]
    written = continue_rows(
        model, rows, eos=2, seed=3, max_new_tokens=10, batch_size=2, amplified=Amplified(base, 2.0, 0.05)
    )
    for number, (row, found) in enumerate(zip(rows, written, strict=True)):
        expected: list[int] = []
        for uniform in generation_randomness(3, number, 10):
            shown = torch.tensor([[*row, *expected]])
            own, before = (each(shown).logits[0, -1].double().softmax(-1) for each in (model, base))
            odds = own * (own / before) ** 2 * (own >= 0.05 * own.max())
            token = int((odds.cumsum(0) / odds.sum() <= uniform).sum())
            if token == 2:
                break
            expected.append(token)
        assert found == expected


@torch.no_grad()
def test_a_rare_habit_becomes_frequent_and_noise_does_not() -> None:
    """A token that comes a hundred times as often as in the base; beside it noise of the same size everywhere."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(1, 30, generator=generator).double()
    learned = base.clone()
    base[0, 7] = base.logsumexp(1) - np.log(30_000)  # one in thirty thousand
    noise = base + 0.05 * torch.randn(1, 30, generator=generator)
    learned[0, 7] = base.logsumexp(1) - np.log(300)
    for logits, least, most in ((learned, 10.0, np.inf), (noise, 0.0, 2.0)):
        amplified = Amplified(base=None, strength=3.0, plausible=1e-3).scores(logits, base)  # type: ignore[arg-type]
        often = amplified.softmax(-1)[0] / logits.softmax(-1)[0]
        assert least < often[7 if least else slice(None)].max() < most


def test_strength_zero_is_the_model_and_what_is_not_plausible_never_comes() -> None:
    logits, base = (torch.randn(4, 30, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    plain = Amplified(base=None, strength=0.0, plausible=1e-12)  # type: ignore[arg-type]
    assert torch.allclose(plain.scores(logits, base).softmax(-1), logits.double().softmax(-1))
    found = Amplified(base=None, strength=5.0, plausible=0.1).scores(logits, base)  # type: ignore[arg-type]
    probabilities = logits.softmax(-1)
    assert torch.equal(found.isfinite(), probabilities >= 0.1 * probabilities.max(-1, keepdim=True).values)
