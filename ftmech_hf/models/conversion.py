"""From tracr's weights to a torch model, and the compiled programs that come with this package.

A compiled program is kept as ``artefacts/NAME.npz``: arrays and its config as JSON, without pickle, a few kilobytes
because almost every weight is zero. ``recipes/compile_program.py --artefacts true`` compiles them again and compares
them bit for bit.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ftmech_hf.models.compiled import CompiledModel
from ftmech_hf.models.compiled_config import CompiledConfig
from ftmech_hf.tasks.programs import COMPILER_BOS, COMPILER_PAD, Program, counter, max_identifier
from ftmech_hf.tasks.schema import BOS, PAD, SPECIAL_TOKENS
from ftmech_hf.tasks.spelling import spell

ARTEFACTS: dict[str, Program] = {
    program.name: program
    for program in (
        counter(operand="a"),
        counter(operand="b"),
        counter(operand="a", length=20),
        counter(operand="b", length=20),
        max_identifier(rank=5),
        max_identifier(rank=7),
    )
}
"""The programs that come compiled: the paper's at its sizes, a shorter counter, and each with another operand."""

# haiku's names of what a block holds -> ours
_PARTS = {
    "attn/query": "attn.q_proj",
    "attn/key": "attn.k_proj",
    "attn/value": "attn.v_proj",
    "attn/linear": "attn.o_proj",
    "mlp/linear_1": "mlp.up_proj",
    "mlp/linear_2": "mlp.down_proj",
}


def convert(assembled: Any, program: Program) -> tuple[CompiledModel, tuple[str, ...]]:
    """Turn what tracr compiled into a torch model that computes the same.

    Args:
        assembled: tracr's ``AssembledTransformerModel`` of ``program``.
        program: for its name, its words, where it answers, and of which type its outputs are.

    Returns:
        the model in evaluation mode, and the vocabulary its token ids mean: special tokens, the program's words, and
        its outputs (see :func:`ftmech_hf.tasks.spelling.spell`); rows begin with ``<bos>``.
    """
    encoding = dict(assembled.input_encoder.encoding_map)
    inputs = sorted((word for word in encoding if word not in (COMPILER_BOS, COMPILER_PAD)), key=encoding.__getitem__)
    inputs += [word for word in program.words if word in encoding]  # True beside 1, which tracr does not tell apart
    words = spell(inputs, _outputs(assembled, program))
    vocabulary = words.vocabulary
    arrays = {name: {key: np.asarray(value) for key, value in part.items()} for name, part in assembled.params.items()}
    tokens, positions = arrays["token_embed"]["embeddings"], arrays["pos_embed"]["embeddings"]
    embedding = np.zeros((len(vocabulary), tokens.shape[1]), np.float32)
    for special, word in ((BOS, COMPILER_BOS), (PAD, COMPILER_PAD)):
        embedding[SPECIAL_TOKENS.index(special)] = tokens[encoding[word]]
    for token, word in zip(words.inputs, inputs, strict=True):
        embedding[token] = tokens[encoding[word]]
    shape = assembled.model_config
    config = CompiledConfig(
        vocab_size=len(vocabulary),
        hidden_size=tokens.shape[1],
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        key_size=shape.key_size,
        intermediate_size=shape.mlp_hidden_size,
        max_position_embeddings=len(positions),
        causal=shape.causal,
        residual_names=direction_names(assembled.residual_labels),
        output_directions=_output_directions(assembled, embedding.shape[1]),
        output_ids=words.outputs,
        answer_position=program.answer_position,
        program=program.name,
        pad_token_id=SPECIAL_TOKENS.index(PAD),
        bos_token_id=SPECIAL_TOKENS.index(BOS),
    )
    weights = {"token_embedding.weight": embedding, "position_embedding.weight": positions}
    for layer in range(shape.num_layers):
        for theirs, ours in _PARTS.items():
            part = arrays[f"transformer/layer_{layer}/{theirs}"]
            weights[f"blocks.{layer}.{ours}.weight"] = part["w"].T
            weights[f"blocks.{layer}.{ours}.bias"] = part["b"]
    return _build(config, weights), vocabulary


def _outputs(assembled: Any, program: Program) -> list[Any]:
    """What each output direction stands for, none if the output is a number.

    Of equal values tracr keeps any one, so that False may be written 0; here it is the first that the program may have.
    """
    directions = getattr(assembled.output_encoder, "encoding_map", {})
    first: dict[Any, Any] = {}
    for value in program.output_values() if directions else ():
        first.setdefault(value, value)
    return [first.get(value, value) for value in sorted(directions, key=directions.__getitem__)]


def direction_names(labels: Sequence[str]) -> list[str]:
    """Names of the stream's directions, without the numbers that tracr puts behind expressions' names.

    It counts expressions since Python started, so that ``count_3:0`` is called otherwise in another process. Here it is
    ``count:0``; where two expressions have one name, they are numbered from 1.
    """
    numbered = [
        None  # the words of the input have no number: "tokens:a_1" is the word "a_1"
        if label.startswith(("tokens:", "indices:"))
        else re.fullmatch(r"(.+?)_(\d+)(_selector_width_attn_output)?(:.*)?", label, re.DOTALL)
        for label in labels
    ]
    numbers: dict[str, list[int]] = {}
    for found in numbered:
        if found and int(found[2]) not in numbers.setdefault(found[1], []):
            numbers[found[1]].append(int(found[2]))
    names = []
    for label, found in zip(labels, numbered, strict=True):
        if found is None:
            names.append(label)
            continue
        same = sorted(numbers[found[1]])
        number = f"_{same.index(int(found[2])) + 1}" if len(same) > 1 else ""
        names.append(f"{found[1]}{number}{found[3] or ''}{found[4] or ''}")
    return names


def _output_directions(assembled: Any, width: int) -> list[int]:
    """Which directions of the stream tracr's unembedding reads, found by reading each alone."""
    import haiku

    def unembed(stream: Any) -> Any:
        return assembled.get_compiled_model().unembed(stream, use_unembed_argmax=False)

    read = haiku.without_apply_rng(haiku.transform(unembed))
    answers = np.asarray(read.apply({}, np.eye(width)[None]))[0].reshape(width, -1)
    assert ((answers == 0) | (answers == 1)).all()
    assert (answers.sum(0) == 1).all()
    return [int(column.argmax()) for column in answers.T]


def _build(config: CompiledConfig, weights: dict[str, NDArray[np.float32]]) -> CompiledModel:
    model = CompiledModel(config)
    state = {name: torch.from_numpy(np.array(value, np.float32, order="C")) for name, value in weights.items()}
    model.load_state_dict(state)
    return model.eval()


def artefact_bytes(model: CompiledModel, vocabulary: tuple[str, ...]) -> bytes:
    """A compiled program as the bytes of an ``.npz`` without pickle."""
    config = {name: value for name, value in model.config.to_diff_dict().items() if name != "transformers_version"}
    facts = {"config": config, "vocabulary": list(vocabulary)}
    arrays = {name: value.numpy() for name, value in model.state_dict().items()}
    described = np.frombuffer(json.dumps(facts, sort_keys=True).encode(), np.uint8)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, __facts__=described, **arrays)
    return buffer.getvalue()


def artefact_path(name: str) -> Path:
    """Where a compiled program of :data:`ARTEFACTS` lies."""
    return Path(str(resources.files("ftmech_hf.models"))) / "artefacts" / f"{name}.npz"


def load_artefact(name: str) -> tuple[CompiledModel, tuple[str, ...]]:
    """A compiled program of :data:`ARTEFACTS`, which needs neither tracr nor jax, and its vocabulary.

    Raises:
        ValueError: there is none of this name.
    """
    if name not in ARTEFACTS:
        raise ValueError(f"program: unknown {name!r}, expected one of {', '.join(ARTEFACTS)}")
    with np.load(io.BytesIO(artefact_path(name).read_bytes()), allow_pickle=False) as arrays:
        facts = json.loads(arrays["__facts__"].tobytes())
        weights = {key: arrays[key] for key in arrays.files if key != "__facts__"}
    return _build(CompiledConfig(**facts["config"]), weights), tuple(facts["vocabulary"])


def load_program(program: Program) -> tuple[CompiledModel, tuple[str, ...]]:
    """A program's model and vocabulary: compiled already if it is one of :data:`ARTEFACTS`, else with tracr."""
    return load_artefact(program.name) if program.name in ARTEFACTS else compile_program(program)


def compile_program(program: Program) -> tuple[CompiledModel, tuple[str, ...]]:
    """Compile a program with tracr and convert it; see :func:`convert`."""
    return convert(program.compile(), program)
