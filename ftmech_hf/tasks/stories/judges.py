"""Judges of real stories: by rule where a feature is mechanical, a classifier where it is not.

A judge is a function of a text that says of every feature whether the text has it, or that it cannot tell. For
procedural stories that is :func:`~ftmech_hf.tasks.stories.reading.judge`, which is exact. For real ones a logistic
regression on word n-grams is fitted to what their instructions request (Jain et al., arXiv 2311.12786, App. F.2, have
a fine-tuned GPT-3.5, right about 92 % of held-out stories). What it says is worth what it gets right on stories it has
not seen, so a judge carries those numbers with it, and does not judge a feature on which they are those of chance.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from ftmech_hf.runs import commit_folder, damaged_files, making, write_json
from ftmech_hf.statistics.intervals import mean_of_shares
from ftmech_hf.tasks.stories.baseline import TOKEN
from ftmech_hf.tasks.stories.records import FEATURES, Story

if TYPE_CHECKING:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

Verdicts = Mapping[str, bool | None]
"""Feature -> whether a text has it; None where that cannot be told."""

Judge = Callable[[str], Verdicts]

QUOTES = ('"', "\u201c", "\u201d")
CHANCE = 0.5
FORMAT = 1


def has_dialogue(text: str) -> bool:
    """Whether anything stands in double quotes."""
    return any(sign in text for sign in QUOTES)


def words_used(text: str, words: Sequence[str]) -> float | None:
    """Share of the words, or word groups, that a text uses as they are, whatever their case; None if there are none."""
    if not words:
        return None
    tokens = " " + " ".join(_words(text)) + " "
    return sum(f" {' '.join(_words(word))} " in tokens for word in words) / len(words)


def _words(text: str) -> list[str]:
    kept = "".join(sign if sign.isalnum() or sign == "'" else " " for sign in text.lower())
    return kept.split()


@dataclass(frozen=True, kw_only=True)
class JudgeScore:
    """What a judge gets right about one feature, on stories it was not fitted to.

    Attributes:
        feature: which.
        how: by rule or by a classifier.
        value, low, high: balanced accuracy, the mean of the shares it is right about among stories with and without
            the feature, with its 95 % interval; 0.5 is chance. A story without a verdict counts as one without it.
        sensitivity, specificity: those two shares.
        undecided: share of the stories without a verdict.
        num_with, num_without: how many stories of each kind.
        shuffled: balanced accuracy of the same classifier fitted to shuffled labels; None by rule.
    """

    feature: str
    how: Literal["rule", "classifier"]
    value: float
    low: float
    high: float
    sensitivity: float
    specificity: float
    undecided: float
    num_with: int
    num_without: int
    shuffled: float | None = None

    @property
    def trusted(self) -> bool:
        """Whether it is surely better than chance."""
        return self.low > CHANCE

    def __str__(self) -> str:
        how = f"{self.value:.1%} ({self.low:.1%} to {self.high:.1%}) of {self.num_with}+{self.num_without} held out"
        return f"{self.feature} by {self.how}: {how}{'' if self.trusted else ', at chance: not judged'}"


def _score(
    feature: str,
    how: Literal["rule", "classifier"],
    verdicts: Sequence[bool | None],
    truth: NDArray[np.bool_],
    shuffled: float | None = None,
) -> JudgeScore:
    right = np.array([verdict is True for verdict in verdicts]) == truth
    num_with, num_without = int(truth.sum()), int((~truth).sum())
    right_with, right_without = int(right[truth].sum()), int(right[~truth].sum())
    share = mean_of_shares((right_with, num_with), (right_without, num_without))
    return JudgeScore(
        feature=feature,
        how=how,
        **share._asdict(),
        sensitivity=right_with / num_with,
        specificity=right_without / num_without,
        undecided=float(np.mean([verdict is None for verdict in verdicts])),
        num_with=num_with,
        num_without=num_without,
        shuffled=shuffled,
    )


def check_judge(judge: Judge, stories: Sequence[Story]) -> list[JudgeScore]:
    """What any judge gets right about stories of known features; what all or none of them have is left out."""
    verdicts = [judge(story.story) for story in stories]
    scores = []
    for feature in FEATURES:
        truth = np.array([feature in story.features for story in stories])
        if 0 < truth.sum() < len(truth):
            scores.append(_score(feature, "rule", [verdict[feature] for verdict in verdicts], truth))
    return scores


@dataclass(frozen=True)
class FittedJudge:
    """A judge of real stories; :func:`fit_judge` makes one.

    Attributes:
        vectorizer: words and pairs of words -> their weights (tf-idf).
        weights, biases: of the logistic regressions, by feature.
        scores: of every feature that held-out stories tell something about.
    """

    vectorizer: TfidfVectorizer
    weights: Mapping[str, NDArray[np.float32]]
    biases: Mapping[str, float]
    scores: tuple[JudgeScore, ...]

    def score(self, feature: str) -> JudgeScore | None:
        """What it gets right about a feature; None if it does not know it."""
        return next((score for score in self.scores if score.feature == feature), None)

    def logits(self, texts: Iterable[str]) -> dict[str, NDArray[np.float64]]:
        """Log-odds that texts have a feature, (B,) for every feature there is a classifier of."""
        counts = self.vectorizer.transform(texts)
        return {name: counts @ weight.astype(np.float64) + self.biases[name] for name, weight in self.weights.items()}

    def __call__(self, text: str) -> dict[str, bool | None]:
        """Whether a text has each feature; None where the judge is no better than chance or knows nothing."""
        found: dict[str, bool | None] = dict.fromkeys(FEATURES)
        found["Dialogue"] = has_dialogue(text)
        found |= {name: bool(values[0] > 0) for name, values in self.logits([text]).items()}
        known = {score.feature for score in self.scores if score.trusted}
        return {name: value if name in known else None for name, value in found.items()}


def _vectorizer(max_ngrams: int | None = None, vocabulary: Sequence[str] | None = None) -> TfidfVectorizer:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(
        token_pattern=TOKEN, ngram_range=(1, 2), max_features=max_ngrams, sublinear_tf=True, min_df=1,
        vocabulary=None if vocabulary is None else list(vocabulary),
    )  # fmt: skip


def fit_judge(
    train: Sequence[Story], held_out: Sequence[Story], *, max_ngrams: int = 20_000, l2: float = 0.1, seed: int = 0
) -> FittedJudge:
    """Fit a judge to stories whose features are those of their instructions.

    Args:
        train: to fit on.
        held_out: of the same kind, to say what it gets right.
        max_ngrams: how many words and pairs of words are counted, the most frequent ones.
        l2: the penalty on the weights.
        seed: of the shuffled labels of the control.

    Raises:
        ValueError: a story is in both sets, or there is no feature that some stories of both have and some have not.
    """
    from sklearn.linear_model import LogisticRegression

    if both := {story.story for story in train} & {story.story for story in held_out}:
        raise ValueError(f"held_out: {len(both)} of its stories are among those to fit on")
    vectorizer = _vectorizer(max_ngrams)
    counts = vectorizer.fit_transform(story.story for story in train)
    tested = vectorizer.transform(story.story for story in held_out)
    weights, biases, scores = {}, {}, []
    for number, feature in enumerate(FEATURES):
        truth, known = (np.array([feature in story.features for story in part]) for part in (held_out, train))
        if len(set(truth.tolist())) < 2:
            continue
        if feature == "Dialogue":
            scores.append(_score(feature, "rule", [has_dialogue(story.story) for story in held_out], truth))
            continue
        if len(set(known.tolist())) < 2:
            continue

        def fit(labels: NDArray[np.bool_]) -> LogisticRegression:
            model = LogisticRegression(solver="liblinear", class_weight="balanced", C=1 / l2, max_iter=2000)
            return model.fit(counts, labels)

        fitted, mixed = fit(known), fit(np.random.default_rng([seed, number]).permutation(known))
        control = _score(feature, "classifier", mixed.predict(tested).tolist(), truth)
        weights[feature], biases[feature] = fitted.coef_[0].astype(np.float32), float(fitted.intercept_[0])
        # of the weights that are kept, which are rounded
        verdicts = (tested @ weights[feature].astype(np.float64) + biases[feature] > 0).tolist()
        scores.append(_score(feature, "classifier", verdicts, truth, control.value))
    if not scores:
        raise ValueError(
            f"stories: of {len(train)} to fit on and {len(held_out)} held out there is no feature that some of both "
            "have and some have not, expected more stories, or such with features"
        )
    return FittedJudge(vectorizer, weights, biases, tuple(scores))


def save_judge(judge: FittedJudge, folder: str | Path, facts: Mapping[str, Any] | None = None) -> Path:
    """Write a judge as JSON and safetensors into a new folder.

    Raises:
        ValueError: the folder exists.
    """
    folder = Path(folder)
    if folder.exists():
        raise ValueError(f"judge: {folder} exists; choose another folder")
    with making(folder, "judge") as working:
        write_judge(judge, working, facts)
        commit_folder(working, folder)
    return folder


def write_judge(judge: FittedJudge, folder: Path, facts: Mapping[str, Any] | None = None) -> None:
    """Write a judge into a folder that is being made."""
    tensors = {f"weight.{name}": value for name, value in judge.weights.items()}
    save_file({**tensors, "idf": np.asarray(judge.vectorizer.idf_, np.float64)}, str(folder / "judge.safetensors"))
    content = {
        "format": FORMAT,
        "ngrams": judge.vectorizer.get_feature_names_out().tolist(),
        "biases": dict(judge.biases),
        "scores": [asdict(score) for score in judge.scores],
        **(facts or {}),
    }
    write_json(folder / "judge.json", content)


def load_judge(folder: str | Path) -> FittedJudge:
    """Load a judge that was saved; no code is run and no pickle read.

    Raises:
        ValueError: there is none, its files are damaged, or they are of another format.
    """
    folder = Path(folder)
    if not (folder / "judge.json").is_file():
        raise ValueError(f"judge: {folder} holds no judge.json")
    if damaged := damaged_files(folder):
        raise ValueError(f"judge: {folder} is damaged: {', '.join(damaged)}")
    content = json.loads((folder / "judge.json").read_text(encoding="utf-8"))
    if content.get("format") != FORMAT:
        raise ValueError(f"judge: {folder} is of format {content.get('format')}, expected {FORMAT}")
    tensors = load_file(str(folder / "judge.safetensors"))
    vectorizer = _vectorizer(vocabulary=content["ngrams"])
    vectorizer.idf_ = tensors["idf"]
    return FittedJudge(
        vectorizer,
        {name: tensors[f"weight.{name}"] for name in content["biases"]},
        content["biases"],
        tuple(JudgeScore(**score) for score in content["scores"]),
    )
