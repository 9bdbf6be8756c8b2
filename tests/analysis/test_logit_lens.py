from __future__ import annotations

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from ftmech_hf.activations import model_blocks
from ftmech_hf.analysis.logit_lens import logit_lens
from ftmech_hf.training.evaluation import answer_logits


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
