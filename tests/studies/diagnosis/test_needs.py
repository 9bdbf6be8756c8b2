"""What a diagnosis says it needs, beside what it takes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from ftmech_hf.config.notices import Notice
from ftmech_hf.models.memory import weight_bytes
from ftmech_hf.studies.diagnosis import needs
from ftmech_hf.studies.diagnosis.case import CaseConfig
from ftmech_hf.studies.diagnosis.methods import METHODS
from ftmech_hf.studies.diagnosis.needs import memory_needs, multiplications_per_second, passed_tokens, say_time
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


@pytest.mark.slow
def test_the_tokens_that_pass_are_about_those_that_do() -> None:
    """Counted in all methods where tokens pass a block, three times where its gradient is wanted."""
    case, counted = make_case(make_wrapped("llama")), 0

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
