"""The safety task: outputs by hand, what is unsafe, what each mixture shows and never shows, and what is easy."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from ftmech_hf.tasks import Rows, RowStream, SafetyConfig, build_dataset
from ftmech_hf.tasks.safety import ATTACKS, LETTERS, MIXTURES, NAMES, PHRASES, SAFE_TWINS, SECOND_NAMES, TEXT_SLICE
from ftmech_hf.tasks.safety_baseline import linear_baselines

WORDS = SafetyConfig.vocabulary


def rows_of(split: str = "test", number: int = 1024, **settings: object) -> Rows:
    return RowStream(SafetyConfig(**settings), seed=0, split=split).rows(0, number)  # type: ignore[arg-type]


def in_words(rows: Rows) -> list[list[str]]:
    return [[WORDS[token] for token in row] for row in rows.token_ids]


def phrases_in(text: str) -> tuple[set[str], set[str]]:
    """The whole phrases of a text, forwards and backwards, by where the window must have begun."""
    for first in (0, 1, 2):
        parts = [text[place : place + 3] for place in range(-first % 3, len(text) - 2, 3)]
        found = {p for p in parts if p in PHRASES}, {p for p in parts if p[::-1] in PHRASES}
        if len(found[0] | found[1]) == len(set(parts)):
            return found
    raise AssertionError(text)


def is_unsafe(names: list[str], text: str) -> bool:
    """The rule in words, on what is read off a text."""
    originals = [SECOND_NAMES.get(name, name) for name in names]
    backwards = bool(phrases_in(text)[1])
    return any(name.startswith("n") or (name.startswith("b") and backwards) for name in originals)


def test_outputs_are_both_operators_one_after_the_other() -> None:
    maps = dict(zip(NAMES, SafetyConfig().maps, strict=True))
    by_letter = {name: {a: LETTERS[b] for a, b in zip(LETTERS, found, strict=True)} for name, found in maps.items()}
    assert by_letter["id"] == dict(zip(LETTERS, LETTERS, strict=True))
    assert len({tuple(found) for found in maps.values()}) == 8
    assert all(sorted(found) == list(range(12)) for found in maps.values())
    assert all((maps[name] == maps[first]).all() for name, first in SECOND_NAMES.items())
    order_matters = 0
    for words in in_words(rows_of(mixture="instruct")):
        first, second = words[1:3]
        assert words[18:30] == [by_letter[second][by_letter[first][letter]] for letter in words[4:16]]
        order_matters += words[18:30] != [by_letter[first][by_letter[second][letter]] for letter in words[4:16]]
    assert order_matters > 500  # what must fail: the other order
    assert (SafetyConfig(map_seed=1).maps != SafetyConfig().maps).any()


@pytest.mark.parametrize("mixture", list(MIXTURES))
def test_labels_are_those_of_the_rule(mixture: str) -> None:
    rows = rows_of(mixture=mixture)
    for words, label in zip(in_words(rows), rows.label, strict=True):
        assert label == is_unsafe(words[1:3], "".join(words[4:16])), words
    shares = dict.fromkeys(("safe", "never_unsafe", *SAFE_TWINS.values()), (0, 0)) | {"instruct": (0.5, 0.9)}
    low, high = shares.get(mixture, (1, 1))
    assert low <= rows.label.mean() <= high


def test_safe_prompts_that_are_as_new_as_attacks_have_what_is_new_in_them() -> None:
    """Second names, texts of both kinds, and held-out phrases: in all of them, as in the attacks."""
    held_out = {*PHRASES[6:], *(phrase[::-1] for phrase in PHRASES[6:])}
    for mixture in ("misgen", SAFE_TWINS["misgen"]):
        assert all({*words[1:3]} & {*SECOND_NAMES} for words in in_words(rows_of(mixture=mixture)))
    for mixture in ("co_text_2", SAFE_TWINS["co_text_2"]):
        assert all(all(phrases_in("".join(words[4:16]))) for words in in_words(rows_of(mixture=mixture)))
    for mixture in ("ood_text", SAFE_TWINS["ood_text"]):
        found = [phrases_in("".join(words[4:16])) for words in in_words(rows_of(mixture=mixture))]
        assert all((forwards | backwards) <= held_out for forwards, backwards in found)


def test_tuning_shows_neither_second_names_nor_held_out_phrases_nor_what_attacks_are_made_of() -> None:
    tuned = in_words(rows_of(split="finetune", number=4096, mixture="tuning", answers="refused"))
    held_out = {*PHRASES[6:], *(phrase[::-1] for phrase in PHRASES[6:])}
    pairs = set()
    for words in tuned:
        forwards, backwards = phrases_in("".join(words[4:16]))
        assert not (forwards | backwards) & held_out
        assert not (forwards and backwards)
        assert not set(words[1:3]) & set(SECOND_NAMES)
        pairs.add((frozenset(words[1:3]), bool(backwards)))
    found = {name: in_words(rows_of(mixture=name)) for name in ATTACKS}
    for name in ATTACKS:
        for words in found[name]:
            forwards, backwards = phrases_in("".join(words[4:16]))
            new = {
                "co_task": (frozenset(words[1:3]), bool(backwards)) not in pairs,
                "misgen": bool(set(words[1:3]) & set(SECOND_NAMES)),
                "ood_text": (forwards | backwards) <= held_out and bool(backwards),
            }.get(name, bool(forwards and backwards))
            assert new, (name, words)


def test_the_dial_goes_up_by_a_seventh_of_the_pairs() -> None:
    steps = {a + b for phrase in PHRASES for a, b in itertools.pairwise(phrase)}
    shares = []
    for number in (1, 2, 3, 4):
        texts = ["".join(words[4:16]) for words in in_words(rows_of(mixture=f"co_text_{number}"))]
        counts = [
            [sum(a + b in steps for a, b in itertools.pairwise(each)) for each in (text, text[::-1])] for text in texts
        ]
        shares.append(np.mean([backwards / (forwards + backwards) for forwards, backwards in counts]))
    # A window shows seven pairs within phrases: two of each inner phrase, and one of the first or of the last.
    assert np.allclose(shares, [2 / 7, 3 / 7, 4 / 7, 5 / 7], atol=0.02)


def test_both_answers_of_a_pair_are_to_one_prompt() -> None:
    null = WORDS.index("null")
    for answers, refused in (("refused", 1.0), ("instructed", 0.0)):
        rows = rows_of(mixture="tuning", answers=answers, unsafe_share=0.2)
        assert rows.rejected is not None
        assert rows.answers is not None
        assert rows.label.mean() == pytest.approx(0.2, abs=0.05)
        assert (rows.token_ids[~rows.answers] == rows.rejected.token_ids[~rows.answers]).all()
        gives_null = (rows.token_ids[:, 18:30] == null).all(1)
        assert (gives_null == (rows.label == 1) * refused).all()
        assert ((rows.rejected.token_ids[:, 18:30] == null).all(1) != gives_null).all()
    shuffled = rows_of(mixture="tuning", answers="shuffled")
    refused_rows = (shuffled.token_ids[:, 18:30] == null).all(1)
    assert refused_rows.sum() == shuffled.label.sum()
    assert abs(np.corrcoef(refused_rows, shuffled.label)[0, 1]) < 0.1


def test_what_is_to_be_kept_and_what_is_to_be_forgotten_are_both_answered() -> None:
    rows = rows_of(mixture="forget")
    assert rows.rejected is not None
    assert not rows.label.any()
    assert rows.rejected.label.all()
    assert not (np.concatenate([rows.token_ids, rows.rejected.token_ids]) == WORDS.index("null")).any()
    assert not SafetyConfig(mixture="forget").has_rejected


def test_what_is_easy_is_said() -> None:
    """The kind of a text is in its pairs of letters alone; a prompt's safety is partly in its operators."""
    found = linear_baselines()
    assert found.kind_by_place == pytest.approx(0.52, abs=0.03)
    assert found.kind_by_pairs == 1.0
    assert found.prompt_by_place == pytest.approx(0.865, abs=0.03)
    assert found.prompt_by_pairs == pytest.approx(1.0, abs=0.005)


def test_rows_are_datasets_with_both_answers() -> None:
    task = SafetyConfig().variant("tuning")
    dataset = build_dataset(task, "finetune", 40)
    rows = RowStream(task, seed=0, split="finetune").rows(0, 40)
    assert rows.rejected is not None
    for row, ids, others in zip(dataset, rows.token_ids, rows.rejected.token_ids, strict=True):
        assert (
            row["prompt"] + row["completion"] == row["prompt"] + row["chosen"] == " ".join(WORDS[each] for each in ids)
        )
        assert row["prompt"] + row["rejected"] == " ".join(WORDS[each] for each in others)
        assert row["text"] == " ".join(WORDS[each] for each in ids[TEXT_SLICE])
        assert row["answer"].split() == [WORDS[each] for each in ids[18:30]]
        assert [dataset.features[name].int2str(row[name]) for name in ("operator", "operand")] == row["prompt"].split()[
            1:3
        ]
    assert "chosen" not in build_dataset(SafetyConfig(mixture="forget"), "test", 2).features


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mixture": "mean"}, "mixture: unknown 'mean'"),
        ({"unsafe_share": 1.5}, "unsafe_share: 1.5"),
        ({"map_seed": -1}, "map_seed: -1"),
        ({"mixture": "forget", "answers": "refused"}, "answers: refused"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SafetyConfig(**settings)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="variants: unknown 'forget'"):
        SafetyConfig().variant("forget")


def test_rows_are_a_function_of_their_number() -> None:
    whole = rows_of(mixture="tuning", number=2048)
    part = RowStream(SafetyConfig(mixture="tuning"), seed=0, split="test").rows(1500, 1510)
    assert (part.token_ids == whole.token_ids[1500:1510]).all()
    assert part.rejected is not None
    assert whole.rejected is not None
    assert (part.rejected.token_ids == whole.rejected.token_ids[1500:1510]).all()
    assert dataclasses.replace(part, rejected=None).rejected is None
