"""Questions cut in rows to fit on, rows to choose on and rows to report, so that no word stands on both sides of a cut.

Rows that belong together go to one side: those of one value in the column ``group``, if there is one; else those of one
answer, where answers are open (fewer than :data:`OPEN_ANSWERS` rows each, as where every word has an answer of its
own); else those of one prompt. A probe that was fitted on some rows of a word knows that word in other rows, whatever
the model does with it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ftmech_hf.tasks.text.reading import Table, read_table

if TYPE_CHECKING:
    import datasets

OPEN_ANSWERS = 8
"""Below so many rows per answer, answers are taken to be words of their own, and not classes."""

LEAST_THINGS = 10
GROUP = "group"


def things(rows: datasets.Dataset) -> list[str]:
    """What each row is about: rows of one thing belong together."""
    if GROUP in rows.column_names:
        groups = map(_group, rows[GROUP])
        return [f"\0{prompt}" if group is None else group for group, prompt in zip(groups, rows["prompt"], strict=True)]
    answers = [str(each) for each in rows["answer"]]
    if len(answers) < OPEN_ANSWERS * len(set(answers)):
        return answers
    prompts = [str(each) for each in rows["prompt"]]
    # with hardly any prompts nothing can be cut between them; test rows that others have are left out later
    return prompts if len(set(prompts)) >= LEAST_THINGS else [str(place) for place in range(len(rows))]


def _group(value: Any) -> str | None:
    """The name of a group; None of a row that names none, which is about its prompt alone.

    Where some rows name none, tables write whole numbers as 3.0.
    """
    if value is None or value != value or (isinstance(value, str) and not value.strip()):
        return None
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def read_splits(
    name: str | Table, seed: int, convert: Callable[[datasets.Dataset, str], datasets.Dataset]
) -> dict[str, datasets.Dataset]:
    """The splits of a data set that are used, each converted, and the test split without what the others have.

    Args:
        name: of the data set, or the data set itself.
        seed: of the cut, where splits are missing.
        convert: (rows, name of their split) -> rows with ``prompt`` and ``answer``.
    """
    loaded = name.splits if isinstance(name, Table) else read_table(name)
    used = [split for split in ("train", "validation", "test") if split in loaded]
    if "train" not in used:
        used.insert(0, next(iter(loaded)))
    splits = three_splits({split: convert(loaded[split], split) for split in used}, seed)
    splits["test"] = of_their_own(splits["test"], [splits["train"], splits["validation"]])
    return splits


def three_splits(loaded: Mapping[str, datasets.Dataset], seed: int) -> dict[str, datasets.Dataset]:
    """The splits ``train``, ``validation`` and ``test``; missing ones are cut off the train split, or the first one.

    A fifth of the things that rows are about goes to each missing split, with all their rows. Rows of every split are
    put in an order by chance: where they are stored class by class, the first of them are no sample.
    """
    splits = {split: loaded[split] for split in ("train", "validation", "test") if split in loaded}
    if "train" not in splits:
        first = next(iter(loaded.values()))
        splits = {"train": first, **{key: rows for key, rows in splits.items() if rows is not first}}
    splits = {split: rows.shuffle(seed=seed, keep_in_memory=True) for split, rows in splits.items()}
    whole = splits["train"]
    missing = [split for split in ("validation", "test") if split not in splits]
    if not missing:
        return splits
    about = things(whole)
    rest = np.arange(len(whole))
    for split in missing:
        taken = _taken(about, rest, len(whole) // 5)
        splits[split] = whole.select(np.flatnonzero(taken).tolist())
        rest = rest[~taken[rest]]
    splits["train"] = whole.select(rest.tolist())
    return splits


def _taken(about: list[str], rest: NDArray[np.int64], number: int) -> NDArray[np.bool_]:
    """Whether each row is taken: things in the order of their first row, until there are so many rows."""
    sizes = Counter(about[place] for place in rest)
    taken: set[str] = set()
    for place in rest:
        if number <= 0:
            break
        if about[place] not in taken:
            taken.add(about[place])
            number -= sizes[about[place]]
    left = set(rest.tolist())
    return np.array([place in left and each in taken for place, each in enumerate(about)], bool)


def of_their_own(rows: datasets.Dataset, others: list[datasets.Dataset]) -> datasets.Dataset:
    """The rows whose prompt, and whose group if they have one, none of the others has."""
    named = {column: name for column, name in (("prompt", str), (GROUP, _group)) if column in rows.column_names}
    seen = {column: {name(each) for other in others if column in other.column_names for each in other[column]} - {None}
            for column, name in named.items()}  # fmt: skip
    values = {column: [name(each) for each in rows[column]] for column, name in named.items()}
    fresh = [place for place in range(len(rows)) if not any(values[column][place] in seen[column] for column in named)]
    return rows.select(fresh)


def overlap(train: datasets.Dataset, test: datasets.Dataset) -> str | None:
    """What is to be said of answers that stand on both sides where each word has its own; nothing if none do."""
    answers = [str(each) for each in train["answer"]]
    if GROUP in train.column_names or len(answers) >= OPEN_ANSWERS * len(set(answers)):
        return None
    known = set(answers)
    seen = sum(str(each) in known for each in test["answer"])
    if not seen:
        return None
    return (
        f"{seen} of {len(test)} test rows have an answer that stands in training rows as well, of few rows each: what "
        "is read there may be the word; a column group says which rows belong together"
    )
