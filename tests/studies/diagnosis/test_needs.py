"""What a diagnosis says it needs, beside what it takes."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from ftmech_hf.config.notices import Notice
from ftmech_hf.jobs.beside import torch_threads
from ftmech_hf.models.memory import weight_bytes
from ftmech_hf.studies.diagnosis import diagnosis, needs
from ftmech_hf.studies.diagnosis.case import BASE, FINETUNED, NULL, Case, CaseConfig, backward_rows
from ftmech_hf.studies.diagnosis.methods import METHODS
from ftmech_hf.studies.diagnosis.needs import memory_needs, multiplications_per_second, passed_tokens, say_time
from tests.conftest import make_llama
from tests.models.test_memory import ONE_B, SEVEN_B
from tests.studies.diagnosis.cases import make_case, measured
from tests.studies.planted import ask, make_rows, make_wrapped


@pytest.mark.parametrize("tokens", [9, 200])
def test_a_pair_of_7b_and_of_1b_fits_where_it_should(tokens: int) -> None:
    """In bfloat16, with a control that is drawn and a base that is taught nothing: 80 GB and 16 GB.

    What has to be there at the same time is four models and one that lies between two of them, or one's gradients. With
    all weights trained back, of copies in float32, it would be more than twice that.
    """
    rows = make_rows()
    rows = torch.cat([rows[:, :1].expand(-1, tokens - rows.shape[1]), rows], 1)
    for model, limit in ((SEVEN_B, 80e9), (ONE_B, 16e9)):
        by_adapter, by_weights = (
            memory_needs(model, CaseConfig(reverse_by=by), [ask(rows)], 3, dtype=torch.bfloat16)
            for by in ("auto", "weights")
        )
        assert by_adapter["4 models"] == 4 * weight_bytes(model, torch.bfloat16)
        assert 5 * weight_bytes(model, torch.bfloat16) < sum(by_adapter.values()) < limit
        assert sum(by_weights.values()) > 2 * limit


ROOT = Path(__file__).parents[3]
SMALL_LM = LlamaConfig(
    vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
    num_key_value_heads=3, tie_word_embeddings=True,
)  # fmt: skip
"""The shape of SmolLM2-135M."""


@pytest.mark.parametrize("tokens", [20, 60])
def test_a_pair_of_135_million_weights_needs_three_gigabytes(tokens: int) -> None:
    """With the settings of the real study, and questions as long as its own: Python and torch take 0.6 more, of 4.

    A backward pass takes as many rows as have 512 tokens, with twice as many it is the largest thing by far.
    """
    settings = yaml.safe_load((ROOT / "recipes/configs/nano/real.yaml").read_text())
    case = CaseConfig(**{each.name: settings[each.name] for each in fields(CaseConfig) if each.name in settings})
    rows = make_rows()
    rows = torch.cat([rows[:, :1].expand(-1, tokens - rows.shape[1]), rows], 1)
    needed = memory_needs(SMALL_LM, case, [ask(rows)], 3)
    assert needed["3 models"] == pytest.approx(3 * 4 * 134_515_008, rel=1e-4)
    assert sum(needed.values()) < 3e9
    assert [tokens * backward_rows(True, tokens) for tokens in (9, 20, 60, 250, 512, 900)] == [
        504, 500, 480, 500, 512, 900,
    ]  # fmt: skip
    assert backward_rows(False, 900) == 64


@pytest.mark.slow
def test_the_tokens_that_pass_are_about_those_that_do() -> None:
    """Counted in all methods where tokens pass a block, three times where its gradient is wanted."""
    case, counted = make_case(make_wrapped("llama"), edits=True, attacks=True), 0

    def count(module: nn.Module, args: Any, output: Any) -> None:
        nonlocal counted
        if isinstance(module, LlamaDecoderLayer):
            first = output[0] if isinstance(output, tuple) else output
            counted += first.shape[0] * first.shape[1] * (3 if first.requires_grad else 1)

    hook = register_module_forward_hook(count)  # of every module
    measured(case, *METHODS)
    hook.remove()
    said = sum(passed_tokens(case.models["base"].config, case.config, [case.capability], 3).values())
    assert counted / case.num_layers / 4 < said < 4 * counted / case.num_layers


def test_what_takes_long_is_said_with_what_it_rests_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "multiplications_per_second", lambda *_: 1e12)
    tokens = {"reading": 60_000, "training back": 40_000}
    message = (
        r"^this diagnosis takes about 11 minutes or more: 100,000 tokens \(reading 60%, training back 40%\) times "
        r"6,738 million weights, at 1,000 billion products of matrices a second$"
    )
    with pytest.warns(Notice, match=message):
        say_time(SEVEN_B, tokens, torch.device("cpu"), torch.bfloat16)
    say_time(SEVEN_B, {"reading": 1000}, torch.device("cpu"), torch.bfloat16)  # not worth saying: no warning


def test_the_rate_is_that_of_a_product_of_matrices() -> None:
    assert 1e8 < multiplications_per_second(torch.device("cpu"), torch.float32, 0.05) < 1e15


def test_what_a_busy_machine_makes_wait_does_not_count() -> None:
    """One product of thirty is left alone, and takes 2 ms; the others wait 60 times as long.

    Three threads do three times as much, whether they were free at the same moment or not.
    """
    times = iter([0.002 if number == 17 else 0.12 for number in range(30)])
    now, started = 0.0, False

    def clock() -> float:
        nonlocal now, started
        started = not started
        if not started:
            now += next(times)
        return now

    with torch_threads(3):
        rate = multiplications_per_second(torch.device("cpu"), torch.float32, 0.5, clock)
        assert torch.get_num_threads() == 3
    assert rate == pytest.approx(3 * 512**3 / 0.002)
    assert len(list(times)) == 10  # twenty at least, though five take longer than was asked for


@pytest.mark.parametrize(("by", "times"), [("adapter", 3), ("weights", 0)])
def test_what_a_method_of_a_large_model_has_freed_goes_back_before_the_next(
    by: str, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what was freed stays beside what the next one takes. Small models are faster if it stays."""
    given_back: list[None] = []
    monkeypatch.setattr(diagnosis, "release_freed_memory", lambda: given_back.append(None))
    models = {name: make_llama(40, seed=seed) for seed, name in enumerate((BASE, FINETUNED, NULL))}
    few = CaseConfig(rows=20, fit_rows=20, patch_rows=8, null_steps=0, reverse_by=by, thorough=True)  # type: ignore[arg-type]
    case = Case(models, ask(make_rows(number=900)), None, few, 0)
    case.leave_out = [name for name in METHODS if name not in ("behaviour", "logit lens", "separation")]
    found = diagnosis.measure_case(case, workers=1)
    assert (len(found.by_method), len(given_back)) == (3, times)
