"""What is inside: places, probes and attention of models and prompts of which it is known what they must show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from ftmech_hf.activations import TracedModel
from ftmech_hf.jobs.training import PretrainConfig, pretrain
from ftmech_hf.models.presets import build_model, find_preset
from ftmech_hf.runs import FinishedRun
from ftmech_hf.studies.retrieval.inside import (
    ANOTHER,
    NEEDED,
    OTHER_ROW,
    VALUE,
    InsideConfig,
    Prompts,
    look_inside,
    read_attention,
    read_prompts,
    read_values,
    value_places,
)
from ftmech_hf.studies.retrieval.one_fact import Part
from ftmech_hf.tasks import LibraryConfig
from ftmech_hf.tasks.library.world import PLACE, VOCABULARY
from ftmech_hf.training.settings import TrainConfig

SMALL = find_preset("nano-library", n_layer=4, n_embd=16, n_head=2)


def small_model() -> TracedModel:
    model = build_model(SMALL, len(VOCABULARY), seed=0).eval()
    model.set_attn_implementation("eager")
    return TracedModel(model)


def ids(words: str) -> list[int]:
    return [PLACE[word] for word in words.split()]


def test_the_needed_value_is_the_one_of_the_person_who_is_asked_about() -> None:
    prompt = ids(
        "<bos> Alra Kerath lives city3 . Alra Kerbeck city city3 . Belin Kerath eats food1 . ? Alra Kerbeck city is"
    )
    assert value_places(prompt, ids("Alra Kerbeck"), PLACE["city3"]) == (9, 14)
    assert value_places(prompt, ids("Alra Kerath"), PLACE["city3"]) == (4, 9)
    assert value_places(prompt, ids("Belin Kerath"), PLACE["food1"]) == (14, 4)  # the next one is the first


def test_prompts_mark_their_values() -> None:
    rows = read_prompts("report", 30, 2)
    for number in range(30):
        (needed,) = rows.token_ids[number][rows.needed[number]]
        (another,) = rows.token_ids[number][rows.another[number]]
        assert int(needed) == rows.values[number]
        assert VOCABULARY[int(another)][-1].isdigit()
        assert VOCABULARY[int(rows.token_ids[number, -1])] == "is"
        assert VOCABULARY[int(rows.token_ids[number][rows.shown[number]][0])] == "<bos>"
    assert not (rows.needed & rows.another).any()


def test_a_probe_reads_what_the_last_token_is_and_nothing_of_another_row() -> None:
    """A value that ends the prompt is in every layer's stream; that of the row before is in none."""
    rng, values = np.random.default_rng(0), np.array([PLACE[f"city{number}"] for number in range(8)])

    def rows(number: int) -> Prompts:
        token_ids = torch.from_numpy(rng.integers(8, len(VOCABULARY), (number, 5)))
        last = rng.choice(values, number)
        token_ids[:, -1] = torch.from_numpy(last)
        none = torch.zeros(number, 5, dtype=torch.bool)
        return Prompts(token_ids, ~none, last, none, none)

    parts: dict[Part, Prompts] = {"fit": rows(300), "choose": rows(60), "report": rows(200)}
    table = pd.DataFrame(read_values(small_model(), parts, 0))
    assert table.groupby("of")["layer"].apply(list).to_dict() == {VALUE: [0, 1, 2, 3], OTHER_ROW: [0, 1, 2, 3]}
    value = table.groupby("of")["value"]
    assert value.min()[VALUE] > 0.95
    assert value.max()[OTHER_ROW] < 0.25  # one of eight
    assert table.loc[table["of"] == VALUE, "chosen"].min() > 0.9
    assert table["floor"].between(0.08, 0.3).all()


def test_attention_is_what_the_model_itself_says() -> None:
    traced = small_model()
    rows = read_prompts("report", 6, 0)
    parts: dict[Part, Prompts] = {"fit": rows, "choose": read_prompts("choose", 4, 0), "report": rows}
    table = pd.DataFrame(read_attention(traced, parts)).set_index(["layer", "head", "of"])
    assert set(table.index.get_level_values("layer")) == {1, 3}  # the others are convolutions
    assert set(table.index.get_level_values("head")) == {0, 1}
    weights = {layer: [] for layer in (1, 3)}  # type: ignore[var-annotated]
    for number in range(6):
        prompt = rows.token_ids[number][rows.shown[number]]  # alone, without padding
        with torch.no_grad():
            found = traced.model(prompt[None], output_attentions=True).attentions
        for layer, pattern in zip((1, 3), [each for each in found if each is not None], strict=True):
            at = [mask[number][rows.shown[number]] for mask in (rows.needed, rows.another)]
            weights[layer].append([[float(head[-1][mask].sum()) for head in pattern[0]] for mask in at])
    for layer, each in weights.items():
        for place, group in enumerate((NEEDED, ANOTHER)):
            for head in range(2):
                expected = np.mean([row[place][head] for row in each])
                assert table.loc[(layer, head, group), "value"] == pytest.approx(expected, abs=1e-5)


def test_a_model_is_looked_into(tmp_path: Path) -> None:
    place = PretrainConfig(task="library", preset="nano-library", n_layer=2, n_embd=16, n_head=2,
                           output_dir=str(tmp_path / "base"))  # fmt: skip
    pretrain(place, LibraryConfig(), TrainConfig(steps=0, batch_size=2, eval_rows=2, final_eval_rows=2, num_evals=0))
    config = InsideConfig(model=str(tmp_path / "base"), fit_rows=64, eval_rows=32, output_dir=str(tmp_path / "inside"))
    run = FinishedRun(look_inside(config, LibraryConfig()).path)
    assert run.table.groupby("what").size().to_dict() == {"attention": 4, "probe": 4}
    assert run.summary["layer"] in (0, 1)
    with pytest.raises(ValueError, match="eval_rows: 3, expected at least 4"):
        InsideConfig(eval_rows=3)
