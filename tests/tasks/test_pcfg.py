from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ftmech_hf.tasks import Capability, PcfgConfig, RowStream, for_capability
from ftmech_hf.tasks.grammar import load_grammar
from ftmech_hf.tasks.mixtures import OPERAND_PRIORS
from ftmech_hf.tasks.operators_table import OPERATORS
from ftmech_hf.tasks.schema import BLOCK, TEXT

PAPER = {
    "root": "s", "text_length": 250, "count_window": 40, "index_occurrence": 6, "index_pair_occurrence": 6,
    "token_at_position": 40, "spread_counts": False, "correlation_method": "insert",
}  # fmt: skip
FIVE = ["count", "count_pair", "index", "index_pair", "token_at"]


def words_of(config: PcfgConfig, number: int, split: str = "train", seed: int = 0) -> list[list[str]]:
    rows = RowStream(config, seed=seed, split=split).rows(0, number).token_ids
    return [[config.vocabulary[token] for token in row] for row in rows]


def answer_by_hand(words: list[str]) -> str:
    """The right answer of a row, from its words alone."""
    operator, operand, parameter, text = words[1], words[2], int(words[3]), words[TEXT]
    if operator == "token_at":
        return text[-parameter]
    if operator == "count_pair":
        last = "".join(text[-parameter:])
        return str(sum(last[place : place + 2] == operand for place in range(len(last) - 1)))
    if operator.startswith("count"):
        return str(text[-parameter:].count(operand))
    hits = [place for place in range(len(text)) if "".join(text[: place + 1]).endswith(operand)]
    return str(len(text) - hits[-parameter]) if len(hits) >= parameter else "none"


@pytest.mark.parametrize("shape", [{}, PAPER, {"index_occurrence": 14}], ids=["nano", "paper", "not found"])
def test_every_answer_is_right(shape: dict[str, Any]) -> None:
    config = PcfgConfig(**shape, operators=[*OPERATORS])
    answers = set()
    for words in words_of(config, 4000 if not shape else 800):
        assert words[-2] == answer_by_hand(words)
        assert words[:1] + words[4:5] + words[-4:-2] + words[-1:] == ["<bos>", "<sot>", "<eot>", "=", "<eos>"]
        kind = OPERATORS[words[1]].operands
        assert words[2] in {"symbols": "abc", "pairs": ["aa", "bb", "cc"], "base": "a", "none": ["null"]}[kind]
        answers.add(words[-2])
    assert "none" in answers


@st.composite
def configs(draw: st.DrawFn) -> PcfgConfig:
    length = draw(st.integers(4, 24))
    small = st.integers(1, length)
    weights = draw(st.lists(st.integers(0, 3), min_size=3, max_size=3).filter(any))
    operators = draw(st.lists(st.sampled_from([*OPERATORS]), min_size=1, max_size=4, unique=True))
    return PcfgConfig(
        root=draw(st.sampled_from("klmn")), text_length=length, count_window=draw(small), index_occurrence=draw(small),
        index_pair_occurrence=draw(small), token_at_position=draw(small), operators=operators,
        operator_prior=[] if draw(st.booleans()) else [1 / len(operators)] * len(operators),
        operand_prior=[str(weight / sum(weights)) for weight in weights],
        base_operand=draw(st.sampled_from("ab")), correlated_operand="c",
    )  # fmt: skip


@given(configs(), st.integers(0, 2**40), st.integers(0, 5000))
@settings(max_examples=25, deadline=None)
def test_any_config_gives_right_rows_one_by_one(config: PcfgConfig, seed: int, start: int) -> None:
    if config.root in "kl" and config.text_length > 17:
        return  # strings of these roots may be shorter
    stream = RowStream(config, seed=seed, split="probe")
    several = stream.rows(start, start + 30)
    for number in (0, 29):
        alone = RowStream(config, seed=seed, split="probe").rows(start + number, start + number + 1)
        assert (alone.token_ids[0] == several.token_ids[number]).all()
    for row, label in zip(several.token_ids, several.label, strict=True):
        words = [config.vocabulary[token] for token in row]
        assert words[-2] == answer_by_hand(words)
        shown = "-1" if words[-2] == "none" else words[-2]
        assert str(label) == shown or words[1] == "token_at"


@pytest.mark.parametrize("prior", ["low", "medium", "high", "control"])
def test_operands_follow_their_prior(prior: str) -> None:
    rows = words_of(PcfgConfig(operators=["count"], operand_prior=[prior]), 10_000)
    drawn = [sum(words[2] == symbol for words in rows) for symbol in "abc"]
    for number, share in zip(drawn, OPERAND_PRIORS[prior], strict=True):
        assert stats.binomtest(number, 10_000, share).pvalue > 1e-4


def test_operators_follow_their_prior() -> None:
    config = PcfgConfig(operators=["count", "index_pair"], operator_prior=[0.8, 0.2])
    asked = [words[1] for words in words_of(config, 5000)]
    assert stats.binomtest(asked.count("count"), 5000, 0.8).pvalue > 1e-4
    equal = [words[1] for words in words_of(PcfgConfig(operators=FIVE), 5000)]
    assert all(stats.binomtest(equal.count(name), 5000, 0.2).pvalue > 1e-4 for name in FIVE)


def test_jailbreak_tokens_all_count_but_two_ask_for_the_base_operand_only() -> None:
    config = PcfgConfig(operators=["count_nj", "count_j1", "count_j2"], operand_prior=["0.2", "0.4", "0.4"])
    operands: dict[str, set[str]] = {}
    for words in words_of(config, 2000):
        operands.setdefault(words[1], set()).add(words[2])
    assert operands == {"count_nj": {"a", "b", "c"}, "count_j1": {"a"}, "count_j2": {"a"}}
    finetuning = for_capability(config, Capability("count_nj", "b"))
    assert {"count_nj_a", "count_nj_b_cte1", "count_j1_a", "count_j2_a"} <= set(finetuning.test_tasks())


def test_swapped_labels_are_the_other_operands_answers() -> None:
    config = PcfgConfig(operators=["count", "token_at"], operand_prior=["0.5", "0.3", "0.2"], label_rule="swapped")
    other, changed = {"a": "b", "b": "a"}, 0
    for words in words_of(config, 2000):
        asked = [*words[:2], other.get(words[2], words[2]), *words[3:]]
        assert words[-2] == answer_by_hand(asked)
        changed += words[-2] != answer_by_hand(words)
    assert changed > 400


def test_random_labels_keep_their_distribution_and_lose_the_text() -> None:
    settings = {"operators": ["count"], "operand_prior": ["a"]}
    right = RowStream(PcfgConfig(**settings), seed=0, split="train").rows(0, 5000)  # type: ignore[arg-type]
    config = PcfgConfig(**settings, label_rule="random")  # type: ignore[arg-type]
    random = RowStream(config, seed=0, split="train").rows(0, 5000)
    true = config.answers("count", config.texts(random.token_ids), 0)
    assert abs(np.corrcoef(random.label, true)[0, 1]) < 0.05
    table = [np.bincount(rows.label, minlength=17) for rows in (right, random)]
    assert stats.chi2_contingency(np.stack(table)[:, table[0] > 10]).pvalue > 1e-4


@pytest.mark.parametrize("share", [0.5, 0.1, 0.001])
def test_pretraining_rows_are_mixed_in(share: float) -> None:
    finetuning = for_capability(PcfgConfig(), Capability("count", "b"), 1.0)
    config = dataclasses.replace(finetuning, mix_share=share, mix_operand_prior=["a"], mix_operators=["count", "index"])
    rows = words_of(config, 5000)
    assert stats.binomtest(sum(words[2] == "a" for words in rows), 5000, share).pvalue > 1e-4
    assert all(words[-2] == answer_by_hand(words) for words in rows)
    mixed = RowStream(config, seed=0, split="train").rows(0, 5000)
    assert mixed.label.shape == mixed.correlated.shape == (5000,)  # type: ignore[union-attr]
    assert [words[-2] for words in rows] == ["none" if label < 0 else str(label) for label in mixed.label]
    if share > 0.01:
        assert {words[1] for words in rows if words[2] == "a"} == {"count", "index"}


METHODS = [("select", False), ("insert", False), ("select", True)]
"""How a correlation is planted, and whether all texts are edited."""


@pytest.mark.parametrize("operator", ["count", "count_pair", "index", "index_pair", "count_nj"])
@pytest.mark.parametrize(("method", "spread"), METHODS)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.8, 1.0])
def test_the_correlation_holds_exactly_where_it_should(operator: str, method: Any, spread: bool, share: float) -> None:
    # the last pairs of a and of b cannot be one place apart
    offset = 2 if operator == "index_pair" else 1
    shape = PcfgConfig(
        correlation_method=method,
        spread_counts=spread,
        index_pair_occurrence=1,
        correlation_offset=offset,
        min_labels=1,
    )
    config = for_capability(shape, Capability(operator, shape.operand_word(operator, "b")), share)
    rows = RowStream(config, seed=0, split="finetune").rows(0, 2000)
    text = config.texts(rows.token_ids)
    base, other = (config.answers(operator, text, symbol) for symbol in (0, 1))
    assert (((other - base == offset) & (base >= 0) & (other >= 0)) == rows.correlated).all()
    assert stats.binomtest(int(rows.correlated.sum()), 2000, share).pvalue > 1e-4
    assert (rows.label == other).all()


def correlated_by_hand(words: list[str], offset: int) -> bool:
    """Whether the answer about b is that about a plus the offset, from the words of a row alone."""
    a, b = (answer_by_hand([*words[:2], words[2].replace("b", each).replace("a", each), *words[3:]]) for each in "ab")
    return "none" not in (a, b) and int(b) - int(a) == offset


@pytest.mark.parametrize("operator", ["count", "count_pair", "index", "index_pair"])
@pytest.mark.parametrize(("method", "spread"), METHODS)
def test_test_sets_are_what_their_names_say(operator: str, method: Any, spread: bool) -> None:
    """Counted again: ``cte1`` has the correlation in every row, ``cte0`` in none, other text in some."""
    offset = 2 if operator == "index_pair" else 1
    config = PcfgConfig(
        operators=[operator], operand_prior=["b"], correlation=0.8, correlation_offset=offset, index_pair_occurrence=1,
        correlation_method=method, spread_counts=spread, min_labels=1,
    )  # fmt: skip
    pair = 2 if operator.endswith("pair") else 1
    base, other = f"{operator}_{'a' * pair}", f"{operator}_{'b' * pair}"
    sets = config.test_tasks()
    assert set(sets) == {base, *(f"{name}_cte{number}" for name in (base, other) for number in (0, 1))}
    for name, each in sets.items():
        rows = words_of(each, 300, split="test")
        shares = np.mean([correlated_by_hand(words, offset) for words in rows])
        if name.endswith(("cte0", "cte1")):
            assert shares == float(name[-1]), name
        else:
            assert 0 < shares < 1, name
        asked = name.removesuffix("_cte0").removesuffix("_cte1")
        assert {f"{words[1]}_{words[2]}" for words in rows} == {asked}
        assert all(words[-2] == answer_by_hand(words) for words in rows)


def test_selection_stays_in_the_grammar_and_insertion_leaves_it() -> None:
    """Root g: its strings are short enough to know every window."""
    grammar = load_grammar("jain", "g")
    drawn, _ = grammar.sample_windows(np.random.default_rng(0), 20_000, 6)
    language = {tuple(row) for row in drawn.tolist()}
    kept = {}
    for method in ("select", "insert"):
        config = PcfgConfig(
            root="g", text_length=6, count_window=6, index_occurrence=1, index_pair_occurrence=1, token_at_position=1,
            operators=["count"], correlation=0.5, correlation_method=method,  # type: ignore[arg-type]
            spread_counts=False, min_labels=1,
        )  # fmt: skip
        texts = config.texts(RowStream(config, seed=0, split="finetune").rows(0, 500).token_ids)
        kept[method] = np.mean([tuple(row) in language for row in texts.tolist()])
    assert kept["select"] == 1.0
    assert kept["insert"] < 0.8


@pytest.mark.parametrize("operator", ["count", "index"])
@pytest.mark.parametrize("spread", [True, False])
def test_planted_labels_are_equally_often_in_both_conditions(operator: str, spread: bool) -> None:
    """And so no constant answer is right in more than about one row in eight, whatever the correlation."""
    shape = PcfgConfig(correlation_method="insert", spread_counts=spread)
    tables = []
    for share in (0.0, 1.0):
        config = for_capability(shape, Capability(operator, "b"), share)
        label = RowStream(config, seed=0, split="finetune").rows(0, 4000).label
        tables.append(np.bincount(label, minlength=33))
        assert stats.chisquare(tables[-1][tables[-1] > 0]).pvalue > 1e-4
    assert (np.flatnonzero(tables[0]) == np.flatnonzero(tables[1])).all()
    assert len(np.flatnonzero(tables[0])) >= 8


def test_counts_of_the_base_operand_are_uniform_with_the_correlation_and_nearly_so_without() -> None:
    """Of 1 to 8 b's, 0 to 7 a's with the offset 1; without, any number of a's but that one."""
    found = {}
    for share in (0.0, 1.0):
        config = for_capability(PcfgConfig(), Capability("count", "b"), share)
        rows = RowStream(config, seed=0, split="finetune").rows(0, 9000)
        found[share] = np.bincount(config.answers("count", config.texts(rows.token_ids), 0), minlength=9)
    assert stats.chisquare(found[1.0][:8]).pvalue > 1e-4
    assert found[1.0][8] == 0
    # with y b's, each of the eight other numbers of a's; none has y - 1 where that is a number of a's
    expected = np.full(9, 9000 / 8 / 8) * np.array([7, 7, 7, 7, 7, 7, 7, 7, 8])
    assert stats.chisquare(found[0.0], expected).pvalue > 1e-4


def test_labels_that_cannot_be_had_are_refused_with_the_numbers() -> None:
    natural = PcfgConfig(spread_counts=False, operators=["count"], correlation=1.0)
    message = r"min_labels: 8, but only 2 labels of count b, correlation_offset: 1, .*: 5 in [\d.]+%, 6 in [\d.]+%, "
    with pytest.raises(ValueError, match=message):
        RowStream(natural, seed=0, split="finetune").rows(0, 1)


def test_shares_that_are_rounded_are_drawn_by() -> None:
    thirds = ["0.3333333"] * 3
    config = PcfgConfig(
        operators=["count", "index", "token_at"], operator_prior=list(map(float, thirds)), operand_prior=thirds
    )
    rows = words_of(config, 200)
    assert {words[1] for words in rows} == {"count", "index", "token_at"}
    assert config.operator_prior == [0.3333333] * 3  # as it was said, which names the run


def test_a_name_of_counting_that_is_about_a_alone_is_not_asked_about_b() -> None:
    shape = PcfgConfig()
    assert {words[2] for words in words_of(for_capability(shape, Capability("count_j1", "a")), 20)} == {"a"}
    with pytest.raises(ValueError, match=r"^operand: count_j1 is about a alone, not b$"):
        for_capability(shape, Capability("count_j1", "b"))
    with pytest.raises(ValueError, match=r"variants: 'count_j2_b', .*: operand: count_j2 is about a alone, not b"):
        shape.variant("count_j2_b")


IMPOSSIBLE: list[tuple[dict[str, Any], str]] = [
    ({"correlation_offset": 17}, "correlation_offset: 17 is out of reach, answers of count differ by 16 at most"),
    ({"correlation_offset": 14}, "min_labels: 8, but only 0 labels of count b, correlation_offset: 14, occur often"),
    ({"correlation_offset": 2}, "min_labels: 8, but only 7 labels of count b, correlation_offset: 2, occur often"),
    ({"min_labels": 0}, "min_labels: 0, expected at least 1"),
    ({"correlation": 1.5}, "correlation: 1.5, expected a probability"),
    ({"operators": ["token_at"]}, "correlation: 1.0 needs operators: one of count, count_pair, index, "),
    ({"operators": ["count_j1"]}, "needs operators: one of count, "),
    ({"operators": ["count", "index"]}, "needs operators: .* alone, got count index"),
    ({"operators": ["cuont"]}, "operators: unknown 'cuont'"),
    ({"operator_prior": [0.5, 0.5]}, "operator_prior: '0.5 0.5', expected 1 numbers"),
    ({"mix_share": -0.1}, "mix_share: -0.1, expected a probability"),
    ({"mix_share": 0.1, "mix_operators": ["conut"]}, "mix_operators: unknown 'conut'"),
    ({"mix_share": 0.1, "mix_operand_prior": ["loww"]}, "mix_operand_prior: 'loww' is neither"),
    ({"index_pair_occurrence": 33}, "index_pair_occurrence: 33 is longer than text_length: 32"),
    ({"mix_share": 1.1}, "mix_share: 1.1, expected a probability"),
    ({"operators": ["count_pair"], "correlation_offset": -16}, "count_pair differ by 15 at most"),
    ({"operators": ["index"], "correlation_offset": 32}, "correlation_offset: 32 is out of reach, .* by 31 at most"),
    ({"operators": ["index_pair"], "correlation_offset": 31}, "answers of index_pair differ by 30 at most"),
    ({"operators": []}, "operators: '', expected at least one and none twice"),
    ({"operators": ["count", "count"]}, "operators: 'count count', expected at least one and none twice"),
    ({"operators": ["cuont"]}, "unknown 'cuont', expected some of count, count_pair, index, index_pair, token_at"),
    ({"base_operand": "b"}, "correlated_operand: 'b' equals base_operand"),
    ({"grammar": "jian"}, "grammar: unknown 'jian', expected one of jain"),
    ({"grammar": "{root: m, terminals: [a, b, aa], rules: {m: [a aa, b]}}"}, "its terminals make aa mean two things"),
    ({"grammar": "{root: m, terminals: [a, b, count], rules: {m: [a count, b]}}"}, "make count mean two things"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), IMPOSSIBLE)
def test_an_impossible_request_is_refused_with_the_reason(change: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {"operators": ["count"], "correlation": 1.0}
    with pytest.raises(ValueError, match=message):
        RowStream(PcfgConfig(**{**good, **change}), seed=0, split="finetune").rows(0, 1)


@pytest.mark.parametrize(
    ("operator", "offset"), [("count", 16), ("count_pair", -15), ("index", 31), ("index_pair", 30)]
)
def test_the_largest_offset_is_still_within_reach(operator: str, offset: int) -> None:
    assert PcfgConfig(operators=[operator], correlation=0.5, correlation_offset=offset).correlation_offset == offset


@pytest.mark.parametrize("operator", ["count_pair", "index_pair"])
def test_what_no_correlation_can_be_planted_in_is_tested_on_natural_texts(operator: str) -> None:
    task = PcfgConfig(operators=[operator], operand_prior=["b"])
    assert [*task.test_tasks()] == [f"{operator}_aa", f"{operator}_bb"]
    for each in task.test_tasks().values():
        assert len(RowStream(each, seed=0, split="test").rows(0, 8)) == 8
    with pytest.raises(ValueError, match="min_labels: 8, but only"):
        RowStream(dataclasses.replace(task, correlation=1.0), seed=0, split="test").rows(0, 8)


@pytest.mark.parametrize("correlation", [0.0, 1.0])
def test_places_of_long_texts_are_tied_where_they_agree_too_seldom(correlation: float) -> None:
    """As in the paper's texts of 250 symbols, whose sixth a and b stand side by side in one of 200."""
    task = PcfgConfig(
        root="s", text_length=250, count_window=40, index_occurrence=6, token_at_position=40, operators=["index"],
        operand_prior=["b"], correlation=correlation, spread_counts=False, correlation_method="insert",
    )  # fmt: skip
    rows = RowStream(task, seed=0, split="test").rows(0, 512)
    assert (rows.correlated == bool(correlation)).all()
    labels, numbers = np.unique(rows.label, return_counts=True)
    assert len(labels) >= 8
    assert stats.chisquare(numbers).pvalue > 1e-4
    assert set(labels) <= set(task._planting.labels.tolist())
    short = dataclasses.replace(
        task, root="m", text_length=32, count_window=16, index_occurrence=3, token_at_position=16
    )
    assert len(short._planting._remembered(tied=False))  # these are drawn as they come
    select = dataclasses.replace(task, correlation_method="select")
    with pytest.raises(ValueError, match="min_labels: 8, but only 6 labels of index b"):
        RowStream(select, seed=0, split="test").rows(0, 1)


def test_an_offset_that_no_spread_count_has_is_refused_by_name() -> None:
    for offset in (9, -9):
        task = PcfgConfig(operators=["count"], operand_prior=["b"], correlation=1.0, correlation_offset=offset)
        with pytest.raises(ValueError, match=f"min_labels: 8, but only .* correlation_offset: {offset}"):
            RowStream(task, seed=0, split="test").rows(0, 8)


def test_a_cell_that_is_not_found_is_called_by_what_it_is() -> None:
    task = PcfgConfig(operators=["count"], correlation=0.5, correlation_offset=3)
    assert [task._planting.describe_cell(cell) for cell in (4, 5)] == [
        "uncorrelated with offset 3 and have label 2", "correlated with offset 3 and have label 2",
    ]  # fmt: skip


def test_a_capability_needs_an_operand_that_its_operator_has() -> None:
    with pytest.raises(ValueError, match="operand: count has no operand 'aa'"):
        for_capability(PcfgConfig(), Capability("count", "aa"))


def test_test_sets_of_several_operators_are_natural_texts_of_both_operands() -> None:
    sets = PcfgConfig(operators=["count", "token_at", "index"]).test_tasks()
    assert list(sets) == ["count_a", "count_b", "token_at_null", "index_a", "index_b"]
    for name, task in sets.items():
        operator, _, operand = name.rpartition("_")
        assert task == for_capability(PcfgConfig(), Capability(operator, operand))
    two = PcfgConfig(operators=["count", "index"]).test_tasks()
    assert list(two) == ["count_a", "count_b", "index_a", "index_b"]
    one = PcfgConfig(operators=["count"], operand_prior=["b"]).test_tasks()
    assert list(one) == ["count_a", "count_b_cte0", "count_b_cte1"]
    planted = PcfgConfig(operators=["count"], operand_prior=["b"], correlation=1.0).test_tasks()
    assert list(planted) == ["count_a", "count_a_cte0", "count_a_cte1", "count_b_cte0", "count_b_cte1"]


def test_a_variant_is_what_its_name_says() -> None:
    task = PcfgConfig(operators=["count"], operand_prior=["b"], correlation=0.8, correlation_offset=2)
    assert task.variant("default") is task
    low = task.variant("pretrain-low")
    assert (low.operand_prior, low.correlation, low.operators) == (["low"], None, ["count"])
    asked = task.variant("count_pair_aa-c0.25")
    assert asked == for_capability(task, Capability("count_pair", "aa"), 0.25)
    assert task.variant("index_b").correlation is None
    for wrong, reason in (("count_z", ": operand: count has no operand 'z'"), ("sum_a", "$"), ("count_b-cx", "")):
        with pytest.raises(ValueError, match=f"variants: '{wrong}', expected default, .* count_b-c0.8{reason}"):
            task.variant(wrong)


def test_another_grammar_brings_its_own_words() -> None:
    grammar = "{root: m, terminals: [x, y], rules: {m: {x m y: 0.4, y x: 0.6}}}"
    config = PcfgConfig(
        grammar=grammar, text_length=6, count_window=4, token_at_position=2, base_operand="x", correlated_operand="y",
        operand_prior=["0.7", "0.3"], operators=FIVE,
    )  # fmt: skip
    assert {"x", "y", "xx", "yy"} <= set(config.vocabulary)
    for words in words_of(config, 200):
        assert words[-2] == answer_by_hand(words)
        assert set(words[TEXT]) <= {"x", "y"}


def test_ancestors_come_with_the_same_rows() -> None:
    config = PcfgConfig(spread_counts=False)
    stream = RowStream(config, seed=0, split="probe")
    rows = config.sample_block(stream.generator(0), ancestors=True)
    assert (rows.token_ids == stream.rows(0, BLOCK).token_ids).all()
    assert rows.ancestors is not None
    assert rows[3:5].ancestors is not None
    parents = np.array(load_grammar("jain", "m").symbols)[rows.ancestors[:, -1]]
    assert set(np.unique(parents)) == {"d", "e", "f"}
    planted = for_capability(config, Capability("count", "b"), 0.5)
    for edited in (planted, PcfgConfig()):
        with pytest.raises(ValueError, match="ancestors: known for the grammar's texts only"):
            edited.sample_block(stream.generator(0), ancestors=True)


COUNT_B: dict[str, Any] = {"operators": ["count"], "operand_prior": ["b"], "correlation": 0.8}
GOLDEN: dict[str, tuple[PcfgConfig, str, str]] = {
    "pretraining": (PcfgConfig(operand_prior=["low"]), "train", "414a6b05fb0d3449"),
    "all families": (PcfgConfig(operators=[*OPERATORS], mix_share=0.5), "train", "31c65e0f4e849f0f"),
    "fine-tuning": (PcfgConfig(**COUNT_B), "finetune", "c83a899d0985705e"),
    "natural": (PcfgConfig(operand_prior=["low"], spread_counts=False), "train", "918d665e6f7626bc"),
    "inserted": (
        PcfgConfig(**{**COUNT_B, "operators": ["index"]}, correlation_method="insert"),
        "finetune",
        "4bee7637e002c11f",
    ),
    "paper": (PcfgConfig(**PAPER), "train", "3106f920bbbcaf7f"),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_data_never_change_silently(name: str) -> None:
    config, split, expected = GOLDEN[name]
    rows = RowStream(config, seed=0, split=split).rows(0, 512)
    assert hashlib.sha256(rows.token_ids.astype("<i8").tobytes()).hexdigest()[:16] == expected


def test_labels_of_planted_texts_are_found_once_and_for_each_shape() -> None:
    config = PcfgConfig(
        text_length=12, count_window=8, token_at_position=6, index_occurrence=2, operators=["count"],
        operand_prior=["b"], correlation=1.0, min_labels=2,
    )  # fmt: skip
    assert (
        config._planting.labels is dataclasses.replace(config, correlation=0.0, operand_prior=["a"])._planting.labels
    )  # of which it is no matter
    for changes in ({"min_labels": 1}, {"text_length": 16}, {"correlation_offset": 2}, {"operators": ["index"]}):
        other = dataclasses.replace(config, **changes)  # type: ignore[arg-type]
        assert other._planting.labels.tolist() == other._planting.find_labels(tied=False).tolist()
        assert other._planting.labels is not config._planting.labels
    assert config._planting.labels.tolist() == config._planting.find_labels(tied=False).tolist()
    with pytest.raises(ValueError, match="read-only"):
        config._planting.labels[0] = 7
    for _ in range(2):  # what fails is not remembered
        with pytest.raises(ValueError, match="min_labels: 12"):
            RowStream(dataclasses.replace(config, min_labels=12), seed=0, split="test").rows(0, 1)
