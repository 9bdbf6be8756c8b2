"""What other libraries are asked to do with a published model and dataset, each in a clean process.

Every snippet sees ``user``, and must print nothing but what it found; it fails by an exception. None may import
ftmech_hf.
"""

from __future__ import annotations

from typing import NamedTuple


class Check(NamedTuple):
    """One library: the packages whose versions count, what the snippet shows, and the snippet."""

    packages: tuple[str, ...]
    shows: str
    code: str


_OPEN = """
import torch
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(f"{user}/base")
tokenizer = AutoTokenizer.from_pretrained(f"{user}/base")
rows = load_dataset(f"{user}/rows", "count_b-c1")
"""

CHECKS: dict[str, Check] = {
    "transformers": Check(
        ("transformers", "torch"),
        "AutoModelForCausalLM, AutoModel, AutoTokenizer and pipeline, from main and from a revision",
        _OPEN + """
from transformers import AutoModel, pipeline
prompt = rows["test"][0]["prompt"]
batch = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
greedy = tokenizer.decode(model(**batch).logits[0, -1].argmax())
generate = pipeline("text-generation", model=f"{user}/base")
answer = generate(prompt, max_new_tokens=1, do_sample=False, return_full_text=False)
assert answer[0]["generated_text"].strip() == greedy
with torch.no_grad():
    features = AutoModel.from_pretrained(f"{user}/base")(**batch).last_hidden_state
    assert torch.equal(features, model(**batch, output_hidden_states=True).hidden_states[-1])
    step = AutoModelForCausalLM.from_pretrained(f"{user}/base", revision="step-2")
    assert not torch.equal(step(**batch).logits, model(**batch).logits)
""",
    ),
    "datasets": Check(
        ("datasets",),
        "load_dataset(repo, config), its splits and columns",
        """
from datasets import get_dataset_config_names, load_dataset
assert get_dataset_config_names(f"{user}/rows") == ["pretrain-low", "count_b-c1"]
rows = load_dataset(f"{user}/rows", "count_b-c1")
assert all(rows["train"]["correlated"])
assert rows["train"].features["operand"].names[:3] == ["a", "b", "c"]
""",
    ),
    "peft": Check(
        ("peft",),
        "PeftModel.from_pretrained(base, adapter): another model, and the base again without the adapter",
        _OPEN + """
from peft import PeftModel
batch = tokenizer(rows["test"][0]["prompt"], return_tensors="pt", return_token_type_ids=False)
with torch.no_grad():
    before = model(**batch).logits
    adapted = PeftModel.from_pretrained(model, f"{user}/lora")
    assert not torch.allclose(adapted(**batch).logits, before)
    with adapted.disable_adapter():
        assert torch.equal(adapted(**batch).logits, before)
assert adapted.peft_config["default"].base_model_name_or_path == f"{user}/base"
""",
    ),
    "nnsight": Check(
        ("nnsight",),
        "NNsight traces a block's output, and a written one changes the logits",
        _OPEN + """
from nnsight import NNsight
batch = tokenizer(rows["test"][0]["prompt"], return_tensors="pt", return_token_type_ids=False)
with torch.no_grad():
    plain = model(**batch, output_hidden_states=True)
    traced = NNsight(model)
    with traced.trace(input_ids=batch["input_ids"]):
        logits = traced.lm_head.output.save()
    assert torch.equal(logits, plain.logits)
    with traced.trace(input_ids=batch["input_ids"]):
        traced.transformer.h[0].output[:] = 0
        logits = traced.lm_head.output.save()
    assert not torch.allclose(logits, plain.logits)
""",
    ),
    "trl": Check(
        ("trl", "accelerate"),
        "SFTTrainer trains the model on the rows' prompt and completion, with the loss on the completion",
        _OPEN + """
from trl import SFTConfig, SFTTrainer
arguments = SFTConfig(
    output_dir="sft", max_steps=30, per_device_train_batch_size=16, learning_rate=1e-2, logging_steps=1,
    report_to=[], use_cpu=True, bf16=False, save_strategy="no", completion_only_loss=True,
)
kept = rows["train"].select_columns(["prompt", "completion"])
trainer = SFTTrainer(model=model, args=arguments, train_dataset=kept, processing_class=tokenizer)
first = trainer.train_dataset[0]
expected = tokenizer(kept[0]["prompt"] + kept[0]["completion"])["input_ids"]
assert first["input_ids"] == expected, (first["input_ids"], expected)
trained = first.get("completion_mask") or [int(label != -100) for label in first["labels"]]
assert trained == [0] * (len(expected) - 2) + [1, 1], trained
trainer.train()
losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
assert losses[-1] < 0.7 * losses[0], losses
""",
    ),
    "lm-evaluation-harness": Check(
        ("lm_eval",),
        "the `hf` model on a task that reads the rows: the accuracy is that of the model's own logits",
        _OPEN + """
import lm_eval
numbers = [str(number) for number in range(17)]
task = {
    "task": "count_b", "dataset_path": f"{user}/rows", "dataset_name": "count_b-c1", "test_split": "test",
    "output_type": "multiple_choice", "doc_to_text": "{{prompt}}", "doc_to_choice": numbers,
    "doc_to_target": "{{label}}", "target_delimiter": " ", "metric_list": [{"metric": "acc"}],
}
found = lm_eval.simple_evaluate(
    model="hf", model_args={"pretrained": f"{user}/base", "dtype": "float32"}, tasks=[task], device="cpu",
    batch_size=4, bootstrap_iters=0,
)
accuracy = found["results"]["count_b"]["acc,none"]
ids = tokenizer.convert_tokens_to_ids(numbers)
batch = tokenizer(list(rows["test"]["prompt"]), return_tensors="pt", return_token_type_ids=False)
with torch.no_grad():
    chosen = model(**batch).logits[:, -1, ids].argmax(-1)
assert accuracy == (chosen == torch.tensor(list(rows["test"]["label"]))).float().mean().item(), accuracy
""",
    ),
    "TransformerLens": Check(
        ("transformer-lens",),
        "TransformerBridge.boot_transformers(repo): the logits, and the stream of every block in its cache",
        _OPEN + """
from transformer_lens.model_bridge import TransformerBridge
bridge = TransformerBridge.boot_transformers(f"{user}/base", device="cpu", dtype=torch.float32)
ids = tokenizer(rows["test"]["prompt"][:4], return_tensors="pt", return_token_type_ids=False)["input_ids"]
with torch.no_grad():
    plain = model(ids, output_hidden_states=True)
    logits, cache = bridge.run_with_cache(ids)
assert torch.allclose(logits, plain.logits, atol=1e-4), (logits - plain.logits).abs().max()
assert torch.allclose(cache["blocks.0.hook_resid_pre"], plain.hidden_states[0], atol=1e-5)
""",
    ),
}  # fmt: skip
