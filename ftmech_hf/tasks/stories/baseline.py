"""What a story's words alone give away about its features: the floor under a claim that a model learned one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ftmech_hf.tasks.stories.records import FEATURES, Story

TOKEN = r"\w+|[^\w\s]"
"""Words and signs: a quotation mark is evidence too."""


class WordBaseline(NamedTuple):
    """How well a feature is told from a story's bag of words.

    Attributes:
        feature: which.
        share: of the test stories that have it.
        accuracy: the mean of the accuracies on stories with and without it; 0.5 is chance.
        held_out: the same on stories of words and sentences that were not fitted on; nothing if there are none.
    """

    feature: str
    share: float
    accuracy: float
    held_out: float | None

    def row(self) -> dict[str, Any]:
        """Its columns in a table."""
        return self._asdict()


def word_baseline(
    train: Sequence[Story], test: Sequence[Story], held_out: Sequence[Story] = (), *, max_words: int = 5000
) -> list[WordBaseline]:
    """Fit a logistic regression on word counts for every feature that some stories of each set have and some have not.

    Args:
        train: to fit on.
        test: to report on, of the same kind.
        held_out: of other words, to report on.
        max_words: the most frequent words are counted.
    """
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score

    vectorizer = CountVectorizer(token_pattern=TOKEN, max_features=max_words)
    counts = vectorizer.fit_transform([story.story for story in train])
    sets = {"test": test, "held_out": held_out}
    others = {name: vectorizer.transform([s.story for s in stories]) for name, stories in sets.items() if stories}
    found = []
    for feature in FEATURES:
        labels = {name: {feature in s.features for s in stories} for name, stories in (*sets.items(), ("train", train))}
        if any(len(labels[name]) < 2 for name in ("train", *others)):
            continue
        has = np.array([feature in story.features for story in train])
        probe = LogisticRegression(solver="liblinear", class_weight="balanced", max_iter=2000, C=0.1).fit(counts, has)
        accuracy: dict[str, float] = {}
        for name, columns in others.items():
            truth = [feature in story.features for story in sets[name]]
            accuracy[name] = float(balanced_accuracy_score(truth, probe.predict(columns)))
        share = float(np.mean([feature in story.features for story in test]))
        found.append(WordBaseline(feature, share, accuracy["test"], accuracy.get("held_out")))
    return found
