"""What a program's parts carry is as one can work it out, and exact patching finds it; a wrong truth is not found."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from ftmech_hf.activations.patches import Part
from ftmech_hf.jobs.compiling import add_noise
from ftmech_hf.models.compiled import CompiledModel
from ftmech_hf.models.conversion import compile_program
from ftmech_hf.studies.tracr import instrument_score
from ftmech_hf.studies.tracr.instrument_score import (
    InstrumentsConfig,
    _in_halves,
    _rank_correlation,
    score_instruments,
    summarise,
)
from ftmech_hf.studies.tracr.known_directions import KnownVariable
from ftmech_hf.studies.tracr.known_parts import Texts, all_pairs, carrying_parts, draw_texts, find_writers, variable_of
from ftmech_hf.tasks.programs import Program
from ftmech_hf.tasks.small_programs import SMALL_PROGRAMS
from recipes import instruments
from recipes.readme.programs import directions_block, scores_block

FEW = ("first_beside_count", "smallest_word")


@functools.cache
def compiled(name: str) -> tuple[CompiledModel, tuple[str, ...]]:
    return compile_program(SMALL_PROGRAMS[name])


def carried(name: str) -> dict[str, list[tuple[str, int, int]]]:
    """Variable -> (site, layer, index) of the parts that write it and carry the answer."""
    model, _ = compiled(name)
    truth = carrying_parts(SMALL_PROGRAMS[name], model, np.random.default_rng(0))
    found: dict[str, list[tuple[str, int, int]]] = {}
    for writer, variables in find_writers(model).items():
        for position in range(SMALL_PROGRAMS[name].max_length):
            if truth[writer.at(position + 1)] > 0:
                found.setdefault(" ".join(variables), []).append((writer.site, writer.layer, position))
    return found


def test_what_is_beside_the_answer_carries_nothing() -> None:
    model, _ = compiled("first_beside_count")
    written = [variable for variables in find_writers(model).values() for variable in variables]
    assert sorted(written) == ["answer", "idle", "idle", "needed"]  # the count by its attention and by its MLP
    found = carried("first_beside_count")
    assert list(found) == ["needed", "answer"]
    assert [place for _, _, place in found["needed"] + found["answer"]] == [2, 2]


def test_flags_carry_everywhere_and_the_answer_where_it_is_read() -> None:
    found = carried("smallest_word")
    assert [place for _, _, place in found["flag"]] == [0, 1, 2, 3]
    assert [site for site, _, _ in found["flag"]] == ["mlp_act"] * 4
    assert [place for _, _, place in found["answer"]] == [1]
    assert {site for site, _, _ in found["beyond"]} == {"head_out", "mlp_act"}
    assert len(found["beyond"]) == 8


def test_names_of_directions_are_variables() -> None:
    assert [variable_of(each) for each in ("count:3", "count_selector_width_attn_output", "share", "tokens:a")] == [
        "count", "count", "share", "tokens",
    ]  # fmt: skip


def test_pairs_are_all_there_are_or_many() -> None:
    few = SMALL_PROGRAMS["rarely_needed"]  # 16 texts
    texts, order = all_pairs(few, np.random.default_rng(0))
    assert len({(texts[at], texts[other]) for at, other in enumerate(order)}) == 256
    many, order = all_pairs(SMALL_PROGRAMS["two_back"], np.random.default_rng(0))
    assert len(many) == len(order) == 4096
    assert (order != np.arange(4096)).all()


@pytest.mark.parametrize("number", [8, 200])
def test_no_text_is_in_the_half_that_is_searched_and_in_the_one_that_is_reported(number: int) -> None:
    words = [(place % 8,) for place in range(number)]
    texts = Texts(words, torch.arange(number)[:, None] % 8)
    found = _in_halves(texts, np.random.default_rng(0))
    assert len(found.words) == number
    assert not {*found.words[::2]} & {*found.words[1::2]}
    assert found.token_ids[:, 0].tolist() == [word for (word,) in found.words]


def test_texts_have_answers_and_are_rows() -> None:
    program = SMALL_PROGRAMS["middle_word"]
    vocabulary = ("<pad>", "<bos>", "<eos>", *program.words)
    texts = draw_texts(program, vocabulary, 40, np.random.default_rng(0))
    assert all(len({*text} - {min(text)}) > 0 for text in texts.words), "of three equal words none is in the middle"
    for text, row in zip(texts.words, texts.token_ids.tolist(), strict=True):
        assert [vocabulary[token] for token in row] == ["<bos>", *text, "<eos>", "<eos>"]


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("instruments") / "run"
    instruments.main([
        "--programs", *FEW, "--noise", "0", "1e-4", "--rows", "64", "--draws", "2", "--output_dir", str(where)
    ])  # fmt: skip
    return where


def test_exact_patching_finds_the_truth_on_a_few_programs(scored: Path) -> None:
    table = pd.read_parquet(scored / "table.parquet").set_index(["instrument", "program", "noise"]).sort_index()
    assert len(table) == 5 * 2 * 2 * 2
    assert (table.loc["patching", ["precision", "recall"]] == 1).all(axis=None)
    assert (table["chance"] < 0.6).all()
    assert (table.loc["patching", "rank_correlation"] > 0.999).all()
    one, several = (table.loc[name] for name in ("attribution", "attribution, 8 steps"))
    assert one["recall"].min() < several["recall"].min(), "a saturated program has gradients on the way alone"
    assert (table["accuracy"] == 1).all()
    summary = json.loads((scored / "summary.json").read_text())
    assert {(row["programs"], row["draws"]) for row in summary["scores"]} == {(2, 2)}
    block = scores_block(scored)
    assert "| patching | 0.0001 | 1.00 (1.00) | 1.00 (1.00) | 2 of 2 |" in block
    assert "| `first_beside_count` | `needed` | " in directions_block(scored)
    # flags of the other program select nothing or too much when they are exchanged
    for found in summary["directions"]:
        assert found["found"] >= 0.95 > 0.7 > found["random"]
    one, other = summary["directions"]
    assert (one["draw"], other["draw"]) == (0, 1)
    assert one["random"] != other["random"], "each draw has texts and directions of its own"


def test_draws_differ_and_what_else_is_scored_changes_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noisy, own, searches = list[torch.Tensor](), list[pd.DataFrame](), list[tuple[int, int]]()

    def noted(model: CompiledModel, noise: float, seed: list[int]) -> None:
        add_noise(model, noise, seed)
        noisy.append(model.get_parameter("blocks.0.mlp.up_proj.weight").detach().clone())

    def searched(model: CompiledModel, variable: KnownVariable, *, seed: int, starts: int) -> dict[str, Any]:
        searches.append((seed, starts))
        return {}

    monkeypatch.setattr(instrument_score, "add_noise", noted)
    monkeypatch.setattr(instrument_score, "search_known", searched)
    for number, programs in enumerate((["smallest_word"], ["smallest_word", "first_beside_count"])):
        config = InstrumentsConfig(
            programs=programs, noise=[3e-3], rows=64, draws=2, starts=3, output_dir=str(tmp_path / str(number))
        )
        table = pd.read_parquet(score_instruments(config).path / "table.parquet")
        own.append(table[table["program"] == "smallest_word"].drop(columns="seconds").reset_index(drop=True))
    pd.testing.assert_frame_equal(*own)
    ranks = own[0].groupby("draw")["rank_correlation"].sum()
    assert ranks[0] != ranks[1]
    assert not torch.equal(noisy[0], noisy[1])
    assert torch.equal(noisy[0], noisy[2])
    assert searches == [(0, 3), (1, 3)], "of first_beside_count"


def test_against_a_wrong_truth_it_has_no_better_than_chance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: the same parts at the next position."""

    def shifted(program: Program, model: CompiledModel, rng: np.random.Generator) -> dict[Part, float]:
        truth = carrying_parts(program, model, rng)
        return {part: truth[part._replace(position=part.position % program.max_length + 1)] for part in truth}

    monkeypatch.setattr(instrument_score, "carrying_parts", shifted)
    monkeypatch.setattr(instrument_score, "compile_program", lambda program: compiled(program.name))
    config = InstrumentsConfig(programs=["first_beside_count"], noise=[0.0], rows=32, output_dir=str(tmp_path / "run"))
    table = pd.read_parquet(score_instruments(config).path / "table.parquet").set_index("instrument")
    assert table.loc["patching", "precision"] == table.loc["patching", "recall"] == 0


def test_a_program_that_was_compiled_wrong_is_no_truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = compiled("smallest_word")
    monkeypatch.setattr(instrument_score, "compile_program", lambda program: wrong)
    monkeypatch.setattr(instrument_score, "carrying_parts", lambda *args: {})
    config = InstrumentsConfig(programs=["mirrored_word"], output_dir=str(tmp_path / "run"))
    with pytest.raises(RuntimeError, match="program: mirrored_word, compiled, does not answer what it means"):
        score_instruments(config)


def test_ranks_are_those_of_sizes() -> None:
    parts = [Part("mlp_act", 0, 0, 4, position) for position in range(4)]
    exact = dict(zip(parts, [0.1, -0.4, 0.2, 0.0], strict=True))
    same = dict(zip(parts, [1.0, 9.0, 5.0, 0.0], strict=True))
    assert _rank_correlation(same, exact) == pytest.approx(1)
    assert _rank_correlation({part: -exact[part] for part in parts}, exact) == pytest.approx(1)
    assert _rank_correlation(dict.fromkeys(parts, 0.3), exact) == 0


def test_median_and_worst_over_programs() -> None:
    row = {"instrument": "patching", "noise": 0.0, "accuracy": 1.0, "seconds": 1.0, "rank_correlation": 1.0, "draw": 0}
    rows = [
        {**row, "program": name, "precision": precision, "recall": recall, "chance": chance}
        for name, precision, recall, chance in (("a", 1.0, 1.0, 0.1), ("b", 0.5, 1.0, 0.3), ("c", 0.8, 0.25, 0.2))
    ]
    rows += [
        {**each, "instrument": "attribution", "seconds": 0.25, "rank_correlation": each["recall"]} for each in rows
    ]
    rows += [{**each, "draw": 1, "precision": 1.0, "recall": 1.0, "seconds": each["seconds"] * 3} for each in rows]
    found, other = summarise(rows)
    assert (found["of_exact"], other["of_exact"], other["rank_median"], other["rank_min"]) == (1, 0.25, 1, 0.25)
    assert (found["precision_median"], found["precision_min"]) == (1.0, 0.5)
    assert (found["recall_median"], found["recall_min"], found["worst"]) == (1.0, 0.25, "c")
    assert (found["perfect"], found["programs"], found["draws"]) == ([1, 3], 3, 2)
    assert found["seconds"] == 6.0, "of one draw"
    assert (found["chance_median"], found["chance_max"]) == (0.2, 0.3)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"programs": ["sort"]}, "programs: unknown 'sort', expected some of first_word"),
        ({"programs": []}, "programs: .*, expected at least one and none twice"),
        ({"noise": [-1.0]}, "noise: .*, expected numbers of 0 or more"),
        ({"rows": 0}, "rows: 0, expected at least 1"),
        ({"draws": 0}, "draws: 0, expected at least 1"),
        ({"starts": 0}, "starts: 0, expected at least 1"),
    ],
)
def test_impossible_settings_are_named(more: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InstrumentsConfig(**more)  # type: ignore[arg-type]
