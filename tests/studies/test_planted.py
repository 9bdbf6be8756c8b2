"""Models that the tests of a process share."""

from __future__ import annotations

import torch

from tests.studies.planted import make_base, make_pair_models


def test_what_a_test_does_to_a_shared_model_no_other_test_sees() -> None:
    spoiled = make_base("llama")
    room, weight = spoiled.config.max_position_embeddings, spoiled.lm_head.weight.clone()
    spoiled.config.max_position_embeddings = 1
    with torch.no_grad():
        spoiled.lm_head.weight.zero_()
    again = make_base("llama")
    assert again.config.max_position_embeddings == room > 1
    assert torch.equal(again.lm_head.weight, weight)
    make_pair_models()["base"].config.n_positions = 1
    assert make_pair_models()["base"].config.n_positions > 1
