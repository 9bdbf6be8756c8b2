from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
import pytest

from ftmech_hf.tasks.text.reading import Table
from ftmech_hf.tasks.text.splits import of_their_own, overlap, read_splits, say_groups, things, three_splits


def table(number: int = 600, groups: int | None = 60, answers: int = 4) -> datasets.Dataset:
    """Rows about ``groups`` things, in no order, with their group as a column if there are any."""
    rng = np.random.default_rng(0)
    about = rng.integers(0, groups or 60, number)
    columns = {
        "prompt": [f"{place} {each}" for place, each in enumerate(about)],
        "answer": [str(each % answers) for each in about],
    }
    return datasets.Dataset.from_dict({**columns, **({"group": about.tolist()} if groups else {})})


def test_a_group_goes_to_one_side() -> None:
    splits = three_splits({"train": table()}, seed=0)
    groups = {split: set(rows["group"]) for split, rows in splits.items()}
    assert sum(len(each) for each in groups.values()) == 60 == len(set.union(*groups.values()))
    sizes = {split: len(rows) for split, rows in splits.items()}
    assert sum(sizes.values()) == 600
    assert 100 < sizes["test"] <= 120
    assert 100 < sizes["validation"] <= 120
    # the control: without the column rows are cut by themselves, and nearly every group is on both sides
    rows = three_splits({"train": table(groups=None)}, seed=0)
    about = {split: {each.split()[1] for each in part["prompt"]} for split, part in rows.items()}
    assert len(about["train"] & about["test"]) > 40
    assert {split: len(part) for split, part in rows.items()} == {"train": 360, "validation": 120, "test": 120}


def test_the_cut_is_by_chance_and_depends_on_the_seed_alone() -> None:
    first, again, other = (three_splits({"train": table()}, seed=seed) for seed in (0, 0, 1))
    assert first["test"]["prompt"] == again["test"]["prompt"]
    assert set(first["test"]["group"]) != set(other["test"]["group"])
    prompts = [prompt for rows in first.values() for prompt in rows["prompt"]]
    assert sorted(prompts) == sorted(table()["prompt"])
    assert first["train"]["group"] != sorted(first["train"]["group"])


def test_rows_that_are_about_nothing_in_common_are_cut_in_the_order_of_the_shuffle() -> None:
    """As they were when published numbers were measured: the first fifth, the second one, and the rest."""
    rows = datasets.Dataset.from_dict({"prompt": [str(place) for place in range(50)], "answer": ["a", "b"] * 25})
    shuffled = list(rows.shuffle(seed=3)["prompt"])
    splits = {split: list(part["prompt"]) for split, part in three_splits({"train": rows}, seed=3).items()}
    assert splits == {"validation": shuffled[:10], "test": shuffled[10:20], "train": shuffled[20:]}
    ordered = three_splits({"train": rows}, seed=3, order_seed=4)
    assert {split: set(part["prompt"]) for split, part in ordered.items()} == {
        split: set(each) for split, each in splits.items()
    }
    assert all(list(part["prompt"]) != splits[split] for split, part in ordered.items())


def test_given_splits_are_in_the_order_of_the_second_seed_whatever_is_cut() -> None:
    test = table(groups=None)
    for seed in (0, 1):
        splits = three_splits({"train": table(), "test": test}, seed=seed, order_seed=4)
        assert splits["test"]["prompt"] == test.shuffle(seed=4)["prompt"]


def test_where_rows_go_does_not_depend_on_how_many_share_an_answer() -> None:
    """A hundred of a thousand are unknown: all go to one side, and that is as often a tenth as not."""
    answers = ["unknown"] * 100 + [f"word {number}" for number in range(900)]
    rows = datasets.Dataset.from_dict({"prompt": [str(place) for place in range(1000)], "answer": answers})
    where = []
    for seed in range(40):
        splits = three_splits({"train": rows}, seed=seed)
        where += [split for split, part in splits.items() if "unknown" in part["answer"]]
        assert all(180 <= len(splits[split]) <= 200 for split in ("validation", "test"))
    assert len(where) == 40
    assert where.count("train") > 20
    assert where.count("validation") < 15


@pytest.mark.parametrize("sizes", [(900, 50, 50), (300, 300, 300), (400, 300, 200, 100), (300, 300, 300, *[1] * 100)])
def test_every_split_has_something_however_large_groups_are(sizes: tuple[int, ...]) -> None:
    groups = [f"g{number}" for number, size in enumerate(sizes) for _ in range(size)]
    columns = {"prompt": [str(place) for place in range(len(groups))], "answer": ["a"] * len(groups), "group": groups}
    for seed in range(5):
        splits = three_splits({"train": datasets.Dataset.from_dict(columns)}, seed=seed)
        assert min(map(len, splits.values())) >= min(20, *sizes[:3])
        assert len(splits["train"]) >= max(len(groups) // 5, min(sizes[:3]))


def test_fewer_groups_than_splits_are_refused() -> None:
    rows = datasets.Dataset.from_dict({"prompt": ["a", "b"] * 50, "answer": ["c"] * 100, "group": ["x", "y"] * 50})
    wanted = "dataset: mine: column group names 2 of them, expected at least 3: one for each of train, validation and"
    with pytest.raises(ValueError, match=wanted):
        read_splits(Table.of(rows, "mine"), 0, lambda rows, split: rows)
    assert len(three_splits({"train": rows, "test": rows}, seed=0)["validation"]) == 50  # two are enough for one cut


def test_open_answers_are_what_rows_are_about() -> None:
    """A hundred words of six rows each have an answer of their own; four classes have not."""
    words = table(groups=None, answers=100).map(lambda row: {"answer": f"word {int(row['prompt'].split()[1])}"})
    splits = three_splits({"train": words}, seed=0)
    answers = {split: set(rows["answer"]) for split, rows in splits.items()}
    assert answers["train"] & answers["test"]  # ten rows each: not open
    few = words.select(range(400))
    answers = {split: set(rows["answer"]) for split, rows in three_splits({"train": few}, seed=0).items()}
    assert not answers["train"] & answers["test"]
    assert not answers["validation"] & answers["test"]
    assert not answers["train"] & answers["validation"]


def test_rows_of_one_prompt_stay_together_unless_there_is_hardly_another() -> None:
    rows = datasets.Dataset.from_dict({"prompt": [str(place % 100) for place in range(900)], "answer": ["a"] * 900})
    splits = three_splits({"train": rows}, seed=0)
    prompts = {split: set(part["prompt"]) for split, part in splits.items()}
    assert sum(len(each) for each in prompts.values()) == 100
    same = datasets.Dataset.from_dict({"prompt": ["?"] * 50, "answer": ["a"] * 50})
    assert {split: len(part) for split, part in three_splits({"train": same}, seed=0).items()} == {
        "train": 30, "validation": 10, "test": 10,
    }  # fmt: skip


def test_given_validation_rows_that_are_trained_on_are_left_out(tmp_path: Path) -> None:
    """What is chosen on them would be chosen by what was learned by heart."""
    for split, places in (("train", range(60)), ("validation", range(40, 90)), ("test", range(80, 120))):
        rows = {"prompt": [f"row {place}" for place in places], "answer": ["a"] * len(places)}
        datasets.Dataset.from_dict(rows).to_parquet(tmp_path / f"{split}.parquet")
    found = {split: set(rows["prompt"]) for split, rows in read_splits(
        str(tmp_path), 0, lambda rows, split: rows).items()}  # fmt: skip
    assert found["validation"] == {f"row {place}" for place in range(60, 90)}
    assert found["test"] == {f"row {place}" for place in range(90, 120)}
    assert found["train"] == {f"row {place}" for place in range(60)}


def test_rows_of_few_groups_are_said_to_know_less_than_they_seem() -> None:
    rows = {
        "prompt": [str(place) for place in range(40)],
        "answer": ["a"] * 40,
        "group": [place // 8 for place in range(40)],
    }
    said = say_groups(datasets.Dataset.from_dict(rows))
    assert said is not None
    assert said.startswith(
        "its 40 test rows are of 5 groups: intervals of what is answered, and of what comes back, are"
    )
    assert say_groups(datasets.Dataset.from_dict({**rows, "group": [*range(40)]})) is None
    assert say_groups(datasets.Dataset.from_dict({key: rows[key] for key in ("prompt", "answer")})) is None


def test_given_splits_stay_and_the_first_one_is_cut() -> None:
    test = datasets.Dataset.from_dict({"prompt": ["x"], "answer": ["y"], "group": [70]})
    splits = three_splits({"train": table(), "test": test}, seed=0)
    assert splits["test"]["prompt"] == ["x"]
    assert set(splits) == {"train", "validation", "test"}
    assert not set(splits["train"]["group"]) & set(splits["validation"]["group"])
    assert set(three_splits({"everything": table()}, seed=0)) == {"train", "validation", "test"}
    whole = three_splits({"train": table(), "validation": test, "test": test}, seed=0)
    assert len(whole["train"]) == 600


@pytest.mark.parametrize("given", [("train",), ("train", "test"), ("train", "validation", "test")])
def test_what_is_stored_class_by_class_is_in_an_order_by_chance_in_every_split(given: tuple[str, ...]) -> None:
    """Who asks some hundred rows takes the first ones, which are of one class in such a file."""
    sorted_ = {
        split: datasets.Dataset.from_dict(
            {"prompt": [f"{split} {place}" for place in range(600)], "answer": ["no"] * 300 + ["yes"] * 300}
        )
        for split in given
    }
    splits = three_splits(sorted_, seed=0)
    for split in ("train", "validation", "test"):
        assert 0.3 < splits[split]["answer"][:60].count("yes") / 60 < 0.7
    other = three_splits(sorted_, seed=1)
    assert all(splits[split]["prompt"] != other[split]["prompt"] for split in splits)


def test_test_rows_of_a_group_or_a_prompt_that_others_have_are_left_out() -> None:
    train = datasets.Dataset.from_dict({"prompt": ["a", "b"], "answer": ["1", "2"], "group": ["g", "h"]})
    test = datasets.Dataset.from_dict({"prompt": ["a", "c", "d"], "answer": ["1"] * 3, "group": ["i", "g", "j"]})
    assert of_their_own(test, [train])["prompt"] == ["d"]
    assert of_their_own(test.remove_columns("group"), [train])["prompt"] == ["c", "d"]
    assert of_their_own(test, [train.remove_columns("group")])["prompt"] == ["c", "d"]


@pytest.mark.parametrize("nothing", [None, float("nan"), " "])
def test_rows_that_name_no_group_are_about_their_prompts_alone(nothing: object) -> None:
    """As if each named one of its own: they are no group together, which would go to one side and be left out whole."""
    named = [str(place) if place % 3 else nothing for place in range(300)]
    if isinstance(nothing, float):  # as a table of numbers holds them
        named = [float(place) if place % 3 else nothing for place in range(300)]
    rows = datasets.Dataset.from_dict(
        {"prompt": [f"p{place // 2}" for place in range(300)], "answer": ["1"] * 300, "group": named}
    )
    about = things(rows)
    nameless = [place for place in range(300) if not place % 3]
    assert len({about[place] for place in nameless}) == len({place // 2 for place in nameless})
    assert [about[place] for place in range(300) if place % 3] == [str(place) for place in range(300) if place % 3]
    test = datasets.Dataset.from_dict({"prompt": ["new", "p0", "other"], "answer": ["1"] * 3, "group": [nothing] * 3})
    assert of_their_own(test, [rows])["prompt"] == ["new", "other"]
    # the control: a group that both name; where some rows name none, a table holds 4 as 4.0
    known = test.remove_columns("group").add_column("group", [4, 3, 5])  # type: ignore[call-arg]
    assert of_their_own(known, [rows])["prompt"] == []


@pytest.mark.parametrize(("rows", "said"), [(15, True), (16, False)])
def test_words_on_both_sides_are_told(rows: int, said: bool) -> None:
    train = datasets.Dataset.from_dict({"prompt": ["?"] * rows, "answer": [str(place % 2) for place in range(rows)]})
    test = datasets.Dataset.from_dict({"prompt": ["?"] * 3, "answer": ["0", "1", "7"]})
    note = overlap(train, test)
    assert (note is not None) == said
    assert not said or (note or "").startswith("2 of 3 test rows have an answer that stands in training rows as well")
    assert overlap(train, test.select([2])) is None
    assert overlap(train.add_column("group", list(range(rows))), test) is None  # type: ignore[call-arg]
