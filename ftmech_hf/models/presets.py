"""Sizes of the models we train: stock configs of transformers' classes, so that what is made for those takes them."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    Lfm2Config,
    Lfm2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
)

from ftmech_hf.models.seeding import seeded
from ftmech_hf.tasks.schema import BOS, EOS, PAD, SPECIAL_TOKENS


class Preset(NamedTuple):
    """Shape of a model; the names of its numbers are ``GPT2Config``'s.

    Embeddings are tied only where a paper's are, or where a model must learn to copy from its prompt, which tied ones
    do sooner: LoRA on tied embeddings breaks when merged, and logit lenses want the unembedding alone.
    """

    n_layer: int
    n_head: int
    n_embd: int
    n_positions: int
    architecture: Literal["gpt2", "llama", "mixtral", "lfm2"] = "gpt2"
    tied: bool = False


PRESETS: dict[str, Preset] = {
    "nano": Preset(n_layer=3, n_head=4, n_embd=96, n_positions=64),
    "micro": Preset(n_layer=4, n_head=4, n_embd=160, n_positions=128),
    # Jain et al., App. C.2: six blocks, six heads, width 192, about 3 M parameters.
    "paper": Preset(n_layer=6, n_head=6, n_embd=192, n_positions=320),
    # The nano scale as a Llama: rotary positions, RMSNorm, a gated MLP, no biases.
    "nano-llama": Preset(n_layer=3, n_head=4, n_embd=96, n_positions=64, architecture="llama"),
    # The same with a mixture of experts in place of each MLP, of which every token takes two.
    "nano-moe": Preset(n_layer=3, n_head=4, n_embd=96, n_positions=64, architecture="mixtral"),
    # For stories: the paper's (App. F) is a Llama of 91 M parameters, embeddings tied; the others are small ones.
    # Llamas too: in the runs tried, they learned from fewer tokens to copy what the story said before.
    "nano-stories": Preset(n_layer=4, n_head=4, n_embd=128, n_positions=256, architecture="llama"),
    "micro-stories": Preset(n_layer=4, n_head=6, n_embd=192, n_positions=512, architecture="llama"),
    "paper-stories": Preset(n_layer=12, n_head=12, n_embd=768, n_positions=1024, architecture="llama", tied=True),
    # For documents and questions: short convolutions bring a name to the words that follow it, which a Llama of this
    # size did not learn to do within the same minutes (ftmech_hf/tasks/README.md).
    "nano-library": Preset(n_layer=4, n_head=4, n_embd=128, n_positions=256, architecture="lfm2", tied=True),
    # The same at the size of the stories' paper model; Barnett et al.'s models have billions of parameters.
    "paper-library": Preset(n_layer=12, n_head=12, n_embd=768, n_positions=512, architecture="lfm2", tied=True),
}


def find_preset(name: str, **changes: int | None) -> Preset:
    """A preset by name, with some of its numbers changed.

    Raises:
        ValueError: unknown name, a number below 1, or heads that do not divide the width.
    """
    if name not in PRESETS:
        raise ValueError(f"preset: unknown {name!r}, expected one of {', '.join(PRESETS)}")
    changed: dict[str, Any] = {field: value for field, value in changes.items() if value is not None}
    shape = PRESETS[name]._replace(**changed)
    for field, value in _numbers(shape).items():
        if value < 1:
            raise ValueError(f"{field}: {value}, expected at least 1")
    if shape.n_embd % shape.n_head:
        raise ValueError(f"n_head: {shape.n_head} heads do not divide n_embd: {shape.n_embd}")
    return shape


def _numbers(shape: Preset) -> dict[str, Any]:
    return {name: value for name, value in shape._asdict().items() if name.startswith("n_")}


def gated_width(shape: Preset) -> int:
    """Neurons of a Llama's MLP: 8/3 of the width, rounded up to a multiple of 8, as many weights as GPT-2's 4."""
    return -(-shape.n_embd // 3) * 8


NUM_EXPERTS, EXPERTS_PER_TOKEN = 4, 2
"""Of a mixture of experts, in every block."""

CONVOLVED = 4
"""Tokens that a short convolution of an LFM2 sees: a token and the three before it."""


def mixing_layers(shape: Preset) -> list[str]:
    """Of an LFM2, what mixes tokens in each layer: short convolutions and attention in turns."""
    return ["full_attention" if layer % 2 else "conv" for layer in range(shape.n_layer)]


def expected_parameters(shape: Preset, vocab_size: int) -> int:
    """Closed form of the parameter count of a model with this shape."""
    width = shape.n_embd
    words = (1 if shape.tied else 2) * vocab_size
    if shape.architecture == "lfm2":
        attention = 4 * width**2 + 2 * (width // shape.n_head)  # queries and keys are normalised in each head
        convolution = 4 * width**2 + CONVOLVED * width
        mixing = sum(attention if layer == "full_attention" else convolution for layer in mixing_layers(shape))
        return mixing + shape.n_layer * (3 * width * gated_width(shape) + 2 * width) + width + words * width
    if shape.architecture != "gpt2":
        experts = NUM_EXPERTS if shape.architecture == "mixtral" else 1
        router = experts * width if experts > 1 else 0
        block = 4 * width**2 + experts * 3 * width * gated_width(shape) + router + 2 * width
        return shape.n_layer * block + width + words * width
    block = 12 * width**2 + 13 * width
    return shape.n_layer * block + 2 * width + (words + shape.n_positions) * width


def _common_settings(shape: Preset, vocab_size: int) -> dict[str, Any]:
    return {
        "vocab_size": vocab_size,
        "tie_word_embeddings": shape.tied,
        "bos_token_id": SPECIAL_TOKENS.index(BOS),
        "eos_token_id": SPECIAL_TOKENS.index(EOS),
        "pad_token_id": SPECIAL_TOKENS.index(PAD),
        "use_cache": False,
    }


def gpt2_config(shape: Preset, vocab_size: int, *, dropout: float = 0.0) -> GPT2Config:
    """The ``GPT2Config`` of a shape with our special token ids."""
    return GPT2Config(
        **_numbers(shape),
        # The same function as GPT-2's gelu_new in one fused kernel.
        activation_function="gelu_pytorch_tanh",
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        **_common_settings(shape, vocab_size),
    )


def llama_config(shape: Preset, vocab_size: int, *, dropout: float = 0.0) -> LlamaConfig | MixtralConfig | Lfm2Config:
    """The ``LlamaConfig`` of a shape with our special token ids; or that of a mixture of experts, or of an LFM2.

    Raises:
        ValueError: dropout in the residual stream, which none of them has.
    """
    if dropout:
        raise ValueError(f"dropout: {dropout}, which {NAMES[shape.architecture]} models do not have")
    common: dict[str, Any] = {
        "hidden_size": shape.n_embd,
        "intermediate_size": gated_width(shape),
        "num_hidden_layers": shape.n_layer,
        "num_attention_heads": shape.n_head,
        "max_position_embeddings": shape.n_positions,
        **_common_settings(shape, vocab_size),
    }
    if shape.architecture == "mixtral":
        common |= {"num_local_experts": NUM_EXPERTS, "num_experts_per_tok": EXPERTS_PER_TOKEN}
        return MixtralConfig(num_key_value_heads=shape.n_head, **common)
    if shape.architecture == "lfm2":
        common |= {"layer_types": mixing_layers(shape), "conv_L_cache": CONVOLVED, "block_auto_adjust_ff_dim": False}
        return Lfm2Config(num_key_value_heads=shape.n_head, **common)
    return LlamaConfig(**common)


CLASSES: dict[str, type[PreTrainedModel]] = {
    "gpt2": GPT2LMHeadModel,
    "llama": LlamaForCausalLM,
    "mixtral": MixtralForCausalLM,
    "lfm2": Lfm2ForCausalLM,
}
"""Architecture -> its class."""

NAMES = {"gpt2": "GPT-2", "llama": "Llama", "mixtral": "Mixtral", "lfm2": "LFM2"}
"""Architecture -> its name in prose."""


def model_config(
    shape: Preset, vocab_size: int, *, dropout: float = 0.0
) -> GPT2Config | LlamaConfig | MixtralConfig | Lfm2Config:
    """The config of a shape with our special token ids, of the class that its architecture has.

    Raises:
        ValueError: dropout where the architecture has none.
    """
    return (gpt2_config if shape.architecture == "gpt2" else llama_config)(shape, vocab_size, dropout=dropout)


def build_model(shape: Preset, vocab_size: int, *, seed: int, dropout: float = 0.0) -> PreTrainedModel:
    """A freshly initialised model; weights are a function of (shape, vocab_size, seed)."""
    with seeded(seed):
        model: PreTrainedModel = CLASSES[shape.architecture](model_config(shape, vocab_size, dropout=dropout))
    # HF configs accept unknown names silently; a wrong count is how that would show.
    assert model.num_parameters() == expected_parameters(shape, vocab_size)
    return model
