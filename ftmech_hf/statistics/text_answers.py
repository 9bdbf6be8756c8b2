"""How good an answer in words is, by rules alone: no model judges here.

Where it is known which facts an answer tells (:func:`score_facts`), accuracy, completeness and precision are exact.
Of other texts there are strings alone. :func:`string_completeness` counts gold strings in an answer and sees neither a
paraphrase nor a contradiction; exact match and F1 are SQuAD's (Rajpurkar et al., arXiv 1606.05250), ROUGE-L is Lin's
(2004) without stemming. None of them is a paper's "accuracy" that people or a model judged.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str, *, articles: bool = False) -> str:
    """Lower case, without punctuation, articles (if they are not kept) and extra blanks, as SQuAD's script does it.

    Deviation: where nothing but articles is left they stay, so that the blood type "A" is neither "The" nor silence.
    """
    plain = text.lower().translate(_PUNCTUATION).split()
    kept = plain if articles else _ARTICLES.sub(" ", " ".join(plain)).split()
    return " ".join(kept or plain)


def exact_match(answer: str, golds: Sequence[str]) -> float:
    """1 if an answer is one of the golds, normalised."""
    return float(normalize_answer(answer) in {normalize_answer(gold) for gold in golds})


def f1_score(answer: str, golds: Sequence[str]) -> float:
    """The highest F1 of the words of an answer and of a gold, normalised; no words agree with no words alone."""
    return max(_f1(normalize_answer(answer).split(), normalize_answer(gold).split()) for gold in golds)


def _f1(given: list[str], gold: list[str]) -> float:
    if not given or not gold:
        return float(given == gold)
    return _harmonic_mean(sum((Counter(given) & Counter(gold)).values()), len(given), len(gold))


def _harmonic_mean(common: int, given: int, gold: int) -> float:
    return 2 * common / (given + gold)


def rouge_l(answer: str, golds: Sequence[str]) -> float:
    """The highest ROUGE-L of an answer and a gold: F1 by the longest words that stand in both in the same order."""
    given = re.findall(r"[a-z0-9]+", answer.lower())
    found = [0.0]
    for gold in golds:
        words = re.findall(r"[a-z0-9]+", gold.lower())
        if given and words:
            found.append(_harmonic_mean(_longest_common(given, words), len(given), len(words)))
    return max(found)


def _longest_common(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    before = [0] * (len(second) + 1)
    for word in first:
        now = [0]
        for place, other in enumerate(second):
            now.append(before[place] + 1 if word == other else max(before[place + 1], now[place]))
        before = now
    return before[-1]


def string_completeness(answer: str, facts: Sequence[Sequence[str]]) -> float:
    """Share of facts of which an answer has one of the strings, normalised, as whole words.

    FanOutQA's loose accuracy (Zhu et al., arXiv 2402.14116). It is blind to paraphrases and to contradictions.

    Args:
        answer: what was written.
        facts: of each required fact the strings that say it.
    """
    return float(np.mean([any(_tells(answer, each) for each in fact) for fact in facts]))


def _tells(answer: str, fact: str) -> bool:
    """Whether a text has a fact's words; an article is one where there are no others, as of a blood type "A"."""
    articles = not _ARTICLES.sub("", normalize_answer(fact)).strip()
    said, words = (normalize_answer(each, articles=articles) for each in (answer, fact))
    return bool(words) and f" {words} " in f" {said} "


class FactScores(NamedTuple):
    """What an answer tells beside what it should.

    Attributes:
        accuracy: 1 if it tells all that is required and nothing that is wrong.
        completeness: share of the required facts that it tells.
        precision: share of what it tells that is required; 1 for an answer that tells nothing.
    """

    accuracy: float
    completeness: float
    precision: float


def score_facts(told: Collection[object], required: Collection[object]) -> FactScores:
    """Compare the facts that an answer tells with those that are required; at least one must be."""
    right = len(set(told) & set(required))
    complete, precise = right / len(set(required)), right / len(set(told)) if told else 1.0
    return FactScores(float(complete == precise == 1.0), complete, precise)


def memory_ratio(memory: int, context: int) -> float:
    """Of answers where a text contradicts what a model knows, the share that follows what it knows (Longpre et al.,
    arXiv 2109.05052); answers that follow neither do not count. nan where all of them are such."""
    return memory / (memory + context) if memory + context else float("nan")


def agreement(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Cohen's kappa of two judges of the same answers: agreement beyond chance. nan where both say one thing always."""
    if len(first) != len(second) or not first:
        raise ValueError(f"judges: {len(first)} and {len(second)} verdicts, expected as many of each, at least one")
    a, b = np.array(first, float), np.array(second, float)
    by_chance = a.mean() * b.mean() + (1 - a.mean()) * (1 - b.mean())
    return float((np.mean(a == b) - by_chance) / (1 - by_chance)) if by_chance < 1 else float("nan")
