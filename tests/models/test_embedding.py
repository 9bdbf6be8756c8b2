"""Vectors of texts are those of the encoder's own states, pooled as its folder says, whatever stands beside a text."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, BertConfig, BertModel, PreTrainedTokenizerFast, RobertaConfig, RobertaModel

from ftmech_hf.models.embedding import load_embedder, num_positions, pool
from tests.foreign import byte_bpe

TEXTS = ["Anna keeps bees", "Ben", "who lives here, and who does not?"]
POOLING = {"mean": "pooling_mode_mean_tokens", "first": "pooling_mode_cls_token", "last": "pooling_mode_lasttoken",
           "max": "pooling_mode_max_tokens"}  # fmt: skip


def save_encoder(folder: Path, way: str | None = None, *, more: tuple[str, ...] = (), longest: int = 0) -> str:
    """An encoder of random weights, in the layout of sentence-transformers if a pooling is named."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_bpe(["<pad>"]), pad_token="<pad>")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=64, pad_token_id=0,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if way is not None:
        kinds = [
            ("", "Transformer"),
            ("1_Pooling", "Pooling"),
            *((f"{n}_More", kind) for n, kind in enumerate(more, 2)),
        ]
        modules = [{"idx": n, "path": path, "type": f"sentence_transformers.models.{kind}"}
                   for n, (path, kind) in enumerate(kinds)]  # fmt: skip
        (folder / "modules.json").write_text(json.dumps(modules))
        (folder / "1_Pooling").mkdir()
        said = {key: key == POOLING.get(way, way) for key in (*POOLING.values(), way)}
        (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 16, **said}))
    if longest:
        (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": longest}))
    return str(folder)


def states_of(folder: str, text: str) -> np.ndarray:  # type: ignore[type-arg]
    """The encoder's last hidden states of one text, alone."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    with torch.no_grad():
        found = AutoModel.from_pretrained(folder).eval()(torch.tensor([tokenizer(text)["input_ids"]]))
    return np.asarray(found.last_hidden_state[0].numpy())


@pytest.mark.parametrize("way", [None, *POOLING])
def test_texts_are_pooled_as_the_folder_says(tmp_path: Path, way: str | None) -> None:
    folder = save_encoder(tmp_path / "encoder", way)
    found = load_embedder(folder, batch_size=2)(TEXTS)
    expected = {
        "mean": lambda x: x.mean(0),
        "first": lambda x: x[0],
        "last": lambda x: x[-1],
        "max": lambda x: x.max(0),
    }
    by_hand = np.stack([expected[way or "mean"](states_of(folder, text)) for text in TEXTS])  # alone, without padding
    np.testing.assert_allclose(found, by_hand, atol=1e-5)
    others = [each for name, each in expected.items() if name != (way or "mean")]
    assert all(np.abs(found[0] - each(states_of(folder, TEXTS[0]))).max() > 1e-3 for each in others)


def test_padding_on_either_side_is_left_out() -> None:
    states = torch.tensor([[[9.0], [1.0], [2.0]], [[3.0], [5.0], [9.0]]])
    shown = torch.tensor([[0, 1, 1], [1, 1, 0]])
    found = {way: pool(states, shown, way)[:, 0].tolist() for way in POOLING}
    assert found == {"mean": [1.5, 4.0], "first": [1.0, 3.0], "last": [2.0, 5.0], "max": [2.0, 5.0]}


def test_long_texts_are_cut_where_the_folder_says(tmp_path: Path) -> None:
    long = "a b c d e f g h i j k l m n o p " * 20  # more tokens than there are positions
    cut = load_embedder(save_encoder(tmp_path / "cut", "first", longest=4))
    whole = load_embedder(save_encoder(tmp_path / "whole", "first"))
    assert np.abs(cut([long]) - whole([long])).max() > 1e-3
    np.testing.assert_allclose(cut([long]), cut([f"{long} z"]), atol=1e-6)


def test_positions_that_are_counted_from_another_number_are_fewer(tmp_path: Path) -> None:
    """RoBERTa's begin behind padding's, of which transformers has two less than the config says."""
    folder = tmp_path / "roberta"
    tokenizer = PreTrainedTokenizerFast.from_pretrained(save_encoder(tmp_path / "bert"))
    config = RobertaConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=64, pad_token_id=1,
    )  # fmt: skip
    RobertaModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    assert num_positions(RobertaModel(config)) == 62
    assert num_positions(BertModel(BertConfig(max_position_embeddings=64, num_hidden_layers=1))) == 64
    assert load_embedder(str(folder))(["a b c d e f g h i j k l m n o p " * 20]).shape == (1, 16)


def test_what_is_not_known_is_refused(tmp_path: Path) -> None:
    normed = save_encoder(tmp_path / "normed", "mean", more=("Normalize",))
    assert load_embedder(normed)(TEXTS).shape == (3, 16)
    with pytest.raises(ValueError, match="has a part Dense, expected a transformer and a pooling alone"):
        load_embedder(save_encoder(tmp_path / "dense", "mean", more=("Dense",)))
    with pytest.raises(ValueError, match="has poolings pooling_mode_weightedmean_tokens, expected one of"):
        load_embedder(save_encoder(tmp_path / "weighted", "pooling_mode_weightedmean_tokens"))
    lacking = Path(save_encoder(tmp_path / "lacking")) / "model.safetensors"
    weights = {name: each for name, each in load_file(lacking).items() if "word_embeddings" not in name}
    save_file(weights, lacking, {"format": "pt"})
    with pytest.raises(ValueError, match=r"lacking lacks 1 weights of its config \(first embeddings.word_embeddings"):
        load_embedder(str(lacking.parent))
    lacking.rename(lacking.with_name("pytorch_model.bin"))
    with pytest.raises(ValueError, match="its weights are a pickle"):
        load_embedder(str(lacking.parent))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no encoder that transformers can read"):
        load_embedder(str(tmp_path / "empty"))
