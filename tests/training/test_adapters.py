from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Gemma3Config, PreTrainedModel

from ftmech_hf.jobs.training import FinetuneConfig, PretrainConfig, finetune, pretrain
from ftmech_hf.models.conversion import ARTEFACTS, load_artefact
from ftmech_hf.models.identity import model_hash
from ftmech_hf.models.loading import load_model
from ftmech_hf.models.merging import quiet_peft
from ftmech_hf.models.small import small_model
from ftmech_hf.runs import commit_folder, damaged_files, read_metrics
from ftmech_hf.tasks import Capability, PcfgConfig, for_capability
from ftmech_hf.training.adapters import PAST_ADAPTERS, AdapterConfig, add_adapter, experts_left_out, unread_by_texts
from ftmech_hf.training.settings import TrainConfig
from tests.conftest import make_gpt2, make_llama

SMALL = PcfgConfig(text_length=12, count_window=8, index_occurrence=2, token_at_position=6, min_labels=4)
TRAIN = TrainConfig(steps=6, batch_size=8, num_evals=2, eval_rows=16, final_eval_rows=16, checkpoint_every=2, lr=1e-2)
LORA = AdapterConfig(adapter="lora", lora_rank=4, lora_dropout=0.1)


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("adapters") / "base"
    pretrain(PretrainConfig(n_layer=1, n_head=2, n_embd=16, output_dir=str(path)), SMALL, TRAIN)
    return path


def tune(base: Path, output: Path, *, stop_at: int | None = None) -> None:
    def progress(step: int, steps: int, text: str) -> None:
        if step == stop_at:
            raise Killed

    task = for_capability(SMALL, Capability("count", "b"), 0.5)
    train = dataclasses.replace(TRAIN, objective="answer_only", optimizer="adamw")
    finetune(FinetuneConfig(model=str(base), output_dir=str(output)), task, train, LORA, progress=progress)


@pytest.mark.parametrize("make", [make_gpt2, make_llama])
def test_an_adapter_starts_as_no_change_and_trains_alone(make: object) -> None:
    model: PreTrainedModel = make(40)  # type: ignore[operator]
    token_ids = torch.randint(0, 40, (2, 9))
    before = model(token_ids).logits
    adapted = add_adapter(model, LORA, base="somewhere", seed=0).eval()
    assert torch.equal(adapted(token_ids).logits, before)
    trained = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    assert not any("lm_head" in name or "wte" in name or "embed" in name for name in trained)
    with pytest.raises(ValueError, match="lora_targets: the model has no 'c_atn', expected some of "):
        add_adapter(make(40), dataclasses.replace(LORA, lora_targets=["c_atn"]), base="", seed=0)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("make", "target"),
    [(make_gpt2, "1.mlp.c_proj"), (make_gpt2, "transformer.h.1.mlp.c_proj"), (make_llama, "1.mlp.down_proj")],
)
def test_a_target_may_be_the_end_of_a_path(make: object, target: str) -> None:
    """As peft has it: one matrix of one block, and not that of attention, which has the same name."""
    adapted = add_adapter(make(40), dataclasses.replace(LORA, lora_targets=[target]), base="", seed=0)  # type: ignore[operator]
    trained = [name for name, p in adapted.named_parameters() if p.requires_grad]
    assert len(trained) == 2
    assert all(f".{target}.lora_" in name for name in trained)
    for wrong in ("1.mlp.c_prj", "mlp.1.c_proj", "lp.c_proj", "lp.down_proj"):  # not whole names
        with pytest.raises(ValueError, match=f"lora_targets: the model has no '{wrong}', expected some of "):
            add_adapter(make(40), dataclasses.replace(LORA, lora_targets=[wrong]), base="", seed=0)  # type: ignore[operator]


def test_none_leaves_the_model_alone() -> None:
    model = make_gpt2(40)
    assert add_adapter(model, AdapterConfig(), base="", seed=0) is model


def test_the_run_is_an_adapter_that_merges_into_its_base(base: Path, tmp_path: Path) -> None:
    tune(base, tmp_path / "tuned")
    assert not (tmp_path / "tuned" / "model.safetensors").exists()
    assert damaged_files(tmp_path / "tuned") == []
    merged = load_model(str(tmp_path / "tuned"))
    assert type(merged).__name__ == "GPT2LMHeadModel"
    assert all(p.requires_grad for p in merged.parameters())  # so that it can be trained on
    with quiet_peft():
        unmerged = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "tuned").eval()
    token_ids = torch.randint(0, 36, (4, 12))
    torch.testing.assert_close(merged(token_ids).logits, unmerged(token_ids).logits, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(merged(token_ids).logits, load_model(str(base))(token_ids).logits, atol=1e-3)
    card = (tmp_path / "tuned" / "README.md").read_text()
    assert f"LoRA adapter of rank 4 with {16 * 4 * 2 + (16 + 48) * 4 + 2 * (16 + 64) * 4:,} parameters" in card


@pytest.mark.parametrize("stop_at", [1, 2, 5])
def test_a_resumed_adapter_equals_the_uninterrupted_one_bit_for_bit(base: Path, tmp_path: Path, stop_at: int) -> None:
    tune(base, tmp_path / "whole")
    with pytest.raises(Killed):
        tune(base, tmp_path / "cut", stop_at=stop_at)
    tune(base, tmp_path / "cut")
    whole, cut = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    assert read_metrics(tmp_path / "whole") == read_metrics(tmp_path / "cut")


def test_an_adapter_finds_its_base_beside_it_and_refuses_another(base: Path, tmp_path: Path) -> None:
    tune(base, tmp_path / "tuned")
    config = json.loads((tmp_path / "tuned" / "adapter_config.json").read_text())
    moved = tmp_path / "elsewhere"
    shutil.copytree(tmp_path / "tuned", moved / "tuned")
    shutil.copytree(base, moved / base.name)
    config["base_model_name_or_path"] = f"no/longer/there/{base.name}"
    (moved / "tuned" / "adapter_config.json").write_text(json.dumps(config))
    (moved / "tuned" / "manifest.json").unlink()  # an adapter from elsewhere has none
    load_model(str(moved / "tuned"))
    pretrain(
        PretrainConfig(n_layer=1, n_head=2, n_embd=16, output_dir=str(base), fresh=True), SMALL,
        dataclasses.replace(TRAIN, seed=1),
    )  # fmt: skip
    with pytest.raises(ValueError, match=f"the adapter .*tuned was trained on [0-9a-f]+, but {base} is "):
        load_model(str(tmp_path / "tuned"))


def remake_with_other_weights(run: Path) -> None:
    """As if a run had been made again on another device: the same settings, other rounding."""
    weights = load_file(run / "model.safetensors")
    save_file({name: tensor + 1e-3 for name, tensor in weights.items()}, run / "model.safetensors", {"format": "pt"})
    (run / "manifest.json").unlink()
    run.rename(run.with_name("made again"))
    commit_folder(run.with_name("made again"), run)


def test_an_adapter_is_not_put_on_other_weights_of_the_same_run(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "base")
    tune(tmp_path / "base", tmp_path / "tuned")
    before, identity = load_model(str(tmp_path / "tuned")), model_hash(str(tmp_path / "base"))
    remake_with_other_weights(tmp_path / "base")
    assert model_hash(str(tmp_path / "base")) == identity  # by its name alone nothing has changed
    with pytest.raises(
        ValueError, match=r"tuned was trained on other weights than .*base has now, though of the same run"
    ):
        load_model(str(tmp_path / "tuned"))
    with pytest.raises(
        ValueError, match=r"tuned was made from other weights or files of model, .* or --fresh to replace"
    ):
        tune(tmp_path / "base", tmp_path / "tuned")
    # The weights it was trained on are found where they are: as given, or beside it.
    same = load_model(str(tmp_path / "tuned"), base=str(base))
    assert all(torch.equal(one, other) for one, other in zip(before.parameters(), same.parameters(), strict=True))


def test_impossible_adapters_name_their_fields() -> None:
    with pytest.raises(ValueError, match="lora_rank: 0, expected at least 1"):
        AdapterConfig(lora_rank=0)
    with pytest.raises(ValueError, match="lora_alpha: 0, expected a number above 0"):
        AdapterConfig(lora_alpha=0)
    with pytest.raises(ValueError, match=r"lora_dropout: 1\.0, expected 0 or more"):
        AdapterConfig(lora_dropout=1.0)
    for settings, message in (
        ({"lora_rank": 64}, "lora_rank: 64 changes nothing, expected adapter: lora"),
        ({"lora_targets": ["c_attn"], "adapter": "osf"}, "changes nothing, expected adapter: lora"),
        ({"osf_rank": 0.25, "adapter": "lora"}, "osf_rank: 0.25 changes nothing, expected adapter: osf"),
        ({"adapter": "LoRA"}, "adapter: 'LoRA', expected one of none, lora, osf"),
        ({"trainable": "last"}, "trainable: 'last', expected one of all, head, body"),
    ):
        with pytest.raises(ValueError, match=message):
            AdapterConfig(**settings)  # type: ignore[arg-type]
    for settings, message in (
        ({"optimizer": "lion"}, "optimizer: 'lion', expected one of muon, adamw, sgd"),
        ({"mixed_precision": "fp16"}, "mixed_precision: 'fp16', expected one of auto, no, bf16"),
        ({"adam_beta1": 1.0}, "adam_beta1: 1.0, expected 0 or more and less than 1"),
        ({"steps": 0, "max_steps": 5}, "max_steps: 5, but steps: 0 leaves none to try"),
    ):
        with pytest.raises(ValueError, match=message):
            TrainConfig(**settings)  # type: ignore[arg-type]


def test_what_reads_images_is_neither_trained_nor_adapted() -> None:
    """As in Gemma 3, whose causal language model has it beside it: no text passes there."""
    text = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 16,
            "num_attention_heads": 2, "num_key_value_heads": 2}  # fmt: skip
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 28, "patch_size": 14}  # fmt: skip
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    torch.manual_seed(0)
    for adapter in ("none", "lora", "osf"):
        model = AutoModelForCausalLM.from_config(config)
        adapted = add_adapter(model, AdapterConfig(adapter=adapter), base="", seed=0)  # type: ignore[arg-type]
        trained = {name for name, each in adapted.named_parameters() if each.requires_grad}
        assert trained
        assert not [name for name in trained if "vision" in name or "projector" in name]
        adapted(input_ids=torch.randint(3, 60, (2, 5))).logits.sum().backward()
        assert all(each.grad is not None for each in adapted.parameters() if each.requires_grad)
    assert unread_by_texts(make_llama(40)) == set()


def test_experts_that_an_adapter_leaves_out_are_counted() -> None:
    """Where an MLP that every token passes has matrices of their names, peft adapts them, too."""
    lora = AdapterConfig(adapter="lora")
    mixtral = small_model("mixtral")
    of_experts = sum(each.numel() for name, each in mixtral.named_parameters() if ".experts." in name)
    adapted = add_adapter(mixtral, lora, base="", seed=0)
    everything = sum(each.numel() for each in adapted.parameters())
    assert experts_left_out(adapted) == pytest.approx(of_experts / everything)
    assert experts_left_out(add_adapter(small_model("deepseek_v3"), lora, base="", seed=0)) == 0
    assert experts_left_out(add_adapter(make_llama(40), lora, base="", seed=0)) == 0


@pytest.mark.parametrize("trainable", ["head", "body"])
def test_a_model_without_an_unembedding_of_its_own_is_trained_whole(trainable: str) -> None:
    model, _ = load_artefact(next(iter(ARTEFACTS)))
    with pytest.raises(
        ValueError, match=f"^trainable: {trainable}, but .* has no unembedding of its own, expected all"
    ):
        add_adapter(model, AdapterConfig(trainable=trainable), base="", seed=0)  # type: ignore[arg-type]


def test_osf_leaves_the_larger_singular_directions_as_they_are(tmp_path: Path) -> None:
    pretrain(
        PretrainConfig(preset="nano-llama", n_layer=1, n_head=2, n_embd=16, output_dir=str(tmp_path / "b")),
        SMALL,
        TRAIN,
    )
    place = FinetuneConfig(model=str(tmp_path / "b"), output_dir=str(tmp_path / "t"))
    train = dataclasses.replace(TRAIN, objective="answer_only", optimizer="sgd", lr=0.1, weight_decay=0.0)
    finetune(place, for_capability(SMALL, Capability("count", "b")), train, AdapterConfig(adapter="osf", osf_rank=0.25))
    before, after = (dict(load_model(str(tmp_path / name)).named_parameters()) for name in ("b", "t"))
    changed = [name for name, p in before.items() if not torch.allclose(p, after[name], atol=1e-6)]
    assert changed
    for name in changed:
        assert "layers" in name
        u, _, v = torch.linalg.svd(before[name])
        kept = min(before[name].shape) // 4
        change = after[name] - before[name]
        assert (u[:, :kept].T @ change).norm() < 1e-3 * change.norm()  # nothing of it lies in the kept directions
        assert (change @ v[:kept].T).norm() < 1e-3 * change.norm()
        assert (u[:, kept:].T @ change).norm() > 0.9 * change.norm()  # the control: all of it in the others
    with pytest.raises(ValueError, match="adapter: osf works on linear layers, and this model has Conv1D ones"):
        add_adapter(make_gpt2(40), AdapterConfig(adapter="osf"), base="", seed=0)
    with pytest.raises(ValueError, match=r"osf_rank: 1\.0, expected a share"):
        AdapterConfig(osf_rank=1.0)


def test_the_unembedding_alone_is_not_trained_where_it_is_the_embedding() -> None:
    """Its features would be trained with it, so that the first half of LP-FT were no linear probe."""
    tied = make_llama(20)
    tied.config.tie_word_embeddings = True
    tied.tie_weights()
    assert tied.get_input_embeddings().weight is tied.get_output_embeddings().weight
    with pytest.raises(ValueError, match="trainable: head, but this model's unembedding is its embedding, too"):
        add_adapter(tied, AdapterConfig(trainable="head"), base="x", seed=0)
    apart = add_adapter(make_gpt2(20), AdapterConfig(trainable="head"), base="x", seed=0)
    assert [name for name, p in apart.named_parameters() if p.requires_grad] == ["lm_head.weight"]


PLAIN_LORA = AdapterConfig(adapter="lora")


@pytest.mark.parametrize("kind", ["phimoe", "llama4_text", "ctrl", "gemma3n_text", "qwen2_moe"])
def test_an_adapter_is_put_on_matrices_alone_whatever_else_is_called_so(kind: str) -> None:
    """Routers that return several things are linear layers too, and a matrix may be called by a number, as a block."""
    model = small_model(kind)
    adapted = add_adapter(model, PLAIN_LORA, base="", seed=0)
    rows = torch.randint(3, 20, (2, 6))
    adapted(input_ids=rows, attention_mask=torch.ones_like(rows)).logits.sum().backward()
    names = {name for name, each in adapted.named_parameters() if each.requires_grad}
    assert names
    assert all("lora_" in name for name in names)


@pytest.mark.parametrize("kind", ["mamba", "falcon_mamba", "jamba"])
def test_what_kernels_read_past_an_adapter_gets_none(kind: str) -> None:
    adapted = add_adapter(small_model(kind), PLAIN_LORA, base="", seed=0)
    assert not any("dt_proj" in name for name, each in adapted.named_parameters() if each.requires_grad)
    with pytest.raises(ValueError, match=f"lora_targets: dt_proj of {kind} is read past any adapter"):
        add_adapter(small_model(kind), dataclasses.replace(PLAIN_LORA, lora_targets=["dt_proj"]), base="", seed=0)


def test_a_matrix_that_has_no_share_of_directions_is_left_out() -> None:
    model = small_model("qwen2_moe")
    gates = [name for name, each in model.named_parameters() if "shared_expert_gate" in name and min(each.shape) == 1]
    assert gates
    adapted = add_adapter(model, AdapterConfig(adapter="osf"), base="", seed=0)
    assert not any("shared_expert_gate" in name and each.requires_grad for name, each in adapted.named_parameters())


def test_a_compiled_program_takes_an_adapter() -> None:
    model, _ = load_artefact(next(iter(ARTEFACTS)))
    adapted = add_adapter(model, PLAIN_LORA, base="", seed=0)
    assert any("lora_" in name for name, each in adapted.named_parameters() if each.requires_grad)
    assert adapted.peft_config["default"].task_type is None


def test_what_kernels_read_past_a_module_is_known_of_every_architecture() -> None:
    """Without the kernels, as here, the module is called; with them no adapter on it would be trained."""
    sources = (Path(transformers.__file__).parent / "models").glob("*/modeling_*.py")
    past = {path.parent.name for path in sources if "outproj_weight=self.out_proj.weight" in path.read_text("utf-8")}
    assert past >= {"mamba2", "zamba2"}
    assert {kind for kind in past if "out_proj" not in PAST_ADAPTERS.get(kind, ())} == set()
