"""Questions cut in rows to fit on, rows to choose on and rows to report, so that no word stands on both sides of a cut.

Rows that belong together go to one side: those of one value in the column ``group``, if there is one; else those of one
answer, where answers are open (fewer than :data:`OPEN_ANSWERS` rows each, as where every word has an answer of its
own); else those of one prompt. A probe that was fitted on some rows of a word knows that word in other rows, whatever
the model does with it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ftmech_hf.tasks.text.reading import Table, read_table

if TYPE_CHECKING:
    import datasets

OPEN_ANSWERS = 8
"""Below so many rows per answer, answers are taken to be words of their own, and not classes."""

LEAST_THINGS = 10
GROUP = "group"
SPLITS = ("train", "validation", "test")


def things(rows: datasets.Dataset) -> list[str]:
    """What each row is about: rows of one thing belong together."""
    groups = groups_of(rows)
    if groups is not None:
        return groups
    answers = [str(each) for each in rows["answer"][:]]
    if len(answers) < OPEN_ANSWERS * len(set(answers)):
        return answers
    prompts = [str(each) for each in rows["prompt"][:]]
    # with hardly any prompts nothing can be cut between them; test rows that others have are left out later
    return prompts if len(set(prompts)) >= LEAST_THINGS else [str(place) for place in range(len(rows))]


def groups_of(rows: datasets.Dataset) -> list[str] | None:
    """The group of each row, by its name; None without a column that names them. A row of none is about its prompt."""
    if GROUP not in rows.column_names:
        return None
    groups, prompts = map(_group, rows[GROUP][:]), rows["prompt"][:]
    return [f"\0{prompt}" if group is None else group for group, prompt in zip(groups, prompts, strict=True)]


def _group(value: Any) -> str | None:
    """The name of a group; None of a row that names none, which is about its prompt alone.

    Where some rows name none, tables write whole numbers as 3.0.
    """
    if value is None or value != value or (isinstance(value, str) and not value.strip()):
        return None
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def read_splits(
    name: str | Table, seed: int, convert: Callable[[datasets.Dataset, str], datasets.Dataset],
    order_seed: int | None = None,
) -> dict[str, datasets.Dataset]:  # fmt: skip
    """The splits of a data set that are used, each converted, and the test split without what the others have.

    Args:
        name: of the data set, or the data set itself.
        seed: of the cut, where splits are missing.
        convert: (rows, name of their split) -> rows with ``prompt`` and ``answer``.
        order_seed: of the order of the rows; None for that of the cut.

    Raises:
        ValueError: a group is needed for each split, and there are fewer.
    """
    loaded = name.splits if isinstance(name, Table) else read_table(name)
    used = [split for split in SPLITS if split in loaded]
    if "train" not in used:
        used.insert(0, next(iter(loaded)))
    try:
        splits = three_splits({split: convert(loaded[split], split) for split in used}, seed, order_seed)
    except TooFewGroupsError as error:
        raise ValueError(f"dataset: {name}: {error}") from None
    splits["validation"] = of_their_own(splits["validation"], [splits["train"]])
    splits["test"] = of_their_own(splits["test"], [splits["train"], splits["validation"]])
    return splits


class TooFewGroupsError(ValueError):
    """Rows are about fewer groups than there are splits to cut."""


def three_splits(
    loaded: Mapping[str, datasets.Dataset], seed: int, order_seed: int | None = None
) -> dict[str, datasets.Dataset]:
    """The splits ``train``, ``validation`` and ``test``; missing ones are cut off the train split, or the first one.

    A fifth of the rows goes to each missing split, whole things at a time. Rows of every split are put in an order by
    chance: where they are stored class by class, the first of them are no sample.

    Args:
        loaded: the splits that there are.
        seed: of the cut. Who trains on a data set and who asks it must have the same one.
        order_seed: of the order of the rows in every split; None for that of the cut.

    Raises:
        TooFewGroupsError: a column names groups, fewer than there are splits to cut.
    """
    order_seed = seed if order_seed is None else order_seed
    splits = {split: loaded[split] for split in SPLITS if split in loaded}
    if "train" not in splits:
        first = next(iter(loaded.values()))
        splits = {"train": first, **{key: rows for key, rows in splits.items() if rows is not first}}
    missing = [split for split in ("validation", "test") if split not in splits]
    whole = splits.pop("train") if missing else None
    splits = {split: rows.shuffle(seed=order_seed, keep_in_memory=True) for split, rows in splits.items()}
    if whole is None:
        return splits
    cut = _cut(whole, missing, seed)
    if order_seed != seed:
        cut = {split: rows.shuffle(seed=order_seed, keep_in_memory=True) for split, rows in cut.items()}
    return {split: {**splits, **cut}[split] for split in SPLITS}


def _cut(whole: datasets.Dataset, missing: Sequence[str], seed: int) -> dict[str, datasets.Dataset]:
    """Missing splits and what is left for ``train``, each in an order by chance."""
    order = np.random.default_rng(seed).permutation(len(whole))
    about = things(whole)
    known = set(about)
    if GROUP in whole.column_names and 0 < len(known) <= len(missing):
        raise TooFewGroupsError(
            f"column {GROUP} names {len(known)} of them, expected at least {len(missing) + 1}: one for each of train, "
            f"{' and '.join(missing)}"
        )
    # Where one row of a thing comes to lie does not depend on how many it has; where its first one does, does.
    one_row = {each: place for place, each in reversed([*enumerate(about)])}
    ranks = np.argsort(order)
    drawn = sorted(known, key=lambda each: int(ranks[one_row[each]]))
    sizes, split_of = Counter(about), {}
    for number, split in enumerate(missing):
        left = [each for each in drawn if each not in split_of]
        chosen = _taken(left, sizes, len(whole) // 5, len(left) // (len(missing) - number + 1))
        split_of.update(dict.fromkeys(chosen, split))
    parts: dict[str, list[int]] = {split: [] for split in ("train", *missing)}
    for place in order.tolist():
        parts[split_of.get(about[place], "train")].append(place)
    return {split: whole.select(places) for split, places in parts.items()}


def _taken(drawn: Sequence[str], sizes: Mapping[str, int], rows: int, most: int) -> list[str]:
    """The first things that fit into so many rows, and no more than an even share of them; else the smallest one."""
    taken: list[str] = []
    for each in drawn:
        if len(taken) < most and sizes[each] <= rows:
            taken.append(each)
            rows -= sizes[each]
    return taken if taken or not rows or not most else [min(drawn, key=lambda each: sizes[each])]


def of_their_own(rows: datasets.Dataset, others: list[datasets.Dataset]) -> datasets.Dataset:
    """The rows whose prompt, and whose group if they have one, none of the others has."""
    named = {column: name for column, name in (("prompt", str), (GROUP, _group)) if column in rows.column_names}
    seen = {
        column: {name(each) for other in others if column in other.column_names for each in other[column][:]} - {None}
        for column, name in named.items()
    }
    values = {column: [name(each) for each in rows[column][:]] for column, name in named.items()}
    fresh = [place for place in range(len(rows)) if not any(values[column][place] in seen[column] for column in named)]
    return rows.select(fresh)


def say_groups(test: datasets.Dataset) -> str | None:
    """What is to be said of intervals where rows belong together; nothing where each is a group of its own."""
    if GROUP not in test.column_names:
        return None
    groups = len({_group(each) for each in test[GROUP][:]})
    if groups == len(test):
        return None
    return (
        f"its {len(test)} test rows are of {groups} groups: intervals of what is answered, and of what comes back, are "
        "as much wider as those of a group are right or wrong together; those of other instruments take rows for "
        "independent, and are then too narrow"
    )


def overlap(train: datasets.Dataset, test: datasets.Dataset) -> str | None:
    """What is to be said of answers that stand on both sides where each word has its own; nothing if none do."""
    answers = [str(each) for each in train["answer"][:]]
    if GROUP in train.column_names or len(answers) >= OPEN_ANSWERS * len(set(answers)):
        return None
    known = set(answers)
    seen = sum(str(each) in known for each in test["answer"][:])
    if not seen:
        return None
    return (
        f"{seen} of {len(test)} test rows have an answer that stands in training rows as well, of few rows each: what "
        "is read there may be the word; a column group says which rows belong together"
    )
