from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from ftmech_hf.activations import intervene, model_blocks
from ftmech_hf.activations.lens import NoLensError
from ftmech_hf.analysis.activation_difference import read_direction
from ftmech_hf.analysis.logit_lens import logit_lens
from ftmech_hf.models.small import small_model
from ftmech_hf.training.evaluation import answer_logits
from tests.conftest import make_gpt2


def final_norm(model: PreTrainedModel) -> torch.nn.Module:
    names = {"gpt2": "transformer.ln_f", "llama": "model.norm", "gpt_neox": "gpt_neox.final_layer_norm"}
    return model.get_submodule(names[model.config.model_type])


def test_it_is_the_norm_and_the_unembedding_on_every_layer(any_model: PreTrainedModel) -> None:
    torch.manual_seed(1)
    rows = torch.randint(3, 40, (20, 12))
    answers = {"right": rows[:, -2], "other": torch.randint(3, 40, (20,))}
    found = logit_lens(any_model, rows, answers, batch_size=6)
    with torch.no_grad():
        hidden = any_model(rows[:, :-2], output_hidden_states=True).hidden_states
        early = any_model.get_output_embeddings()(final_norm(any_model)(hidden[1][:, -1]))
        last = answer_logits(any_model, rows)
    for layer, logits in enumerate((early, last)):
        log_probability = F.log_softmax(logits, -1)
        for name, tokens in answers.items():
            assert (found.first[name][layer] == (logits.argmax(-1) == tokens).numpy()).all()
            expected = log_probability[torch.arange(20), tokens]
            torch.testing.assert_close(torch.from_numpy(found.log_probability[name][layer]), expected)
    assert not torch.allclose(early, last, atol=0.1)
    assert len(found.rows()) == 4


def test_it_says_from_which_layer_on_an_answer_leads(any_model: PreTrainedModel) -> None:
    torch.manual_seed(1)
    rows = torch.randint(3, 40, (20, 12))
    with torch.no_grad():
        said = answer_logits(any_model, rows).argmax(-1)
    found = logit_lens(any_model, rows, {"said": said, "never": torch.full((20,), 39)})
    assert found.first["said"][-1].all()
    assert found.summary()["said"] is not None
    assert found.summary()["never"] is None
    assert found.majority["never"] == 1


def test_blocks_are_run_once(any_model: PreTrainedModel) -> None:
    """However many layers are read; and they are as they were afterwards."""
    rows, ran = torch.randint(3, 40, (20, 12)), []
    blocks = [block for _, block in model_blocks(any_model)]
    hooks = [block.register_forward_pre_hook(lambda _, args: ran.append(args[0].shape)) for block in blocks]
    before = answer_logits(any_model, rows)
    ran.clear()
    logit_lens(any_model, rows, {"right": rows[:, -2]}, batch_size=20)
    assert [shape[1] for shape in ran if shape[1] > 1] == [10] * len(blocks)
    for hook in hooks:
        hook.remove()
    assert torch.equal(answer_logits(any_model, rows), before)


REFUSED = "model: the stream behind the last block of {}, read alone, does not give its logits, as a logit lens expects"


def test_a_model_whose_answer_is_made_of_more_than_its_last_stream_is_refused() -> None:
    """Inkling 2 attends to what all blocks wrote; in the other, the norm is told of the embeddings."""
    rows = torch.randint(3, 40, (6, 12), generator=torch.Generator().manual_seed(1))
    told, embedded = make_gpt2(40), list[torch.Tensor]()
    told.transformer.wte.register_forward_hook(lambda _, args, output: embedded.append(output))
    told.transformer.ln_f.register_forward_hook(lambda _, args, output: output + embedded[-1].mean(1, keepdim=True))
    for model in (small_model("inkling2_text"), told):
        with torch.no_grad():  # small weights hide it
            for weight in model.parameters():
                weight.mul_(4 if weight.ndim > 1 else 1)
        with pytest.raises(NoLensError, match=REFUSED.format(model.config.model_type)):
            logit_lens(model, rows, {"right": rows[:, -2]})
        with pytest.raises(NoLensError, match=REFUSED.format(model.config.model_type)):
            read_direction(model, torch.ones(model.config.hidden_size), 3)


def test_a_reading_of_nan_is_refused() -> None:
    model, rows = make_gpt2(40), torch.randint(3, 40, (6, 12))
    model.lm_head.weight.detach()[3, 0] = float("nan")
    with pytest.raises(NoLensError, match="read alone, does not give its logits"):
        logit_lens(model, rows, {"right": rows[:, -2]})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ordinary_models_are_read(any_model: PreTrainedModel, dtype: torch.dtype) -> None:
    rows = torch.randint(3, 40, (6, 12))
    found = logit_lens(any_model.to(dtype), rows, {"right": rows[:, -2]})
    assert found.first["right"].shape == (2, 6)


def test_a_write_behind_the_last_block_that_every_reading_would_meet_is_refused(any_model: PreTrainedModel) -> None:
    """It would be in the readings of all layers, and twice in that of the last."""
    rows = torch.randint(3, 40, (6, 12))
    twice = intervene(any_model, {("resid_post", 1): lambda stream: stream + 1.0 * torch.arange(16)})
    with twice, pytest.raises(NoLensError, match="read alone, does not give its logits"):
        logit_lens(any_model, rows, {"right": rows[:, -2]})
