"""A language model as a judge of answers: somebody's own endpoint, which must first agree with answers of known truth.

It is asked about answers that are right or wrong by the rules of a made-up world, in bare words and in sentences, with
hedges and contradictions. A judge that agrees with the truth by less than :data:`LEAST_KAPPA` is refused.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ftmech_hf.downloads import retried
from ftmech_hf.statistics.text_answers import agreement
from ftmech_hf.tasks.library.world import FIRST, LAST, RELATIONS, VALUES

Judge = Callable[[str, Sequence[str], str], bool]
"""(question, right answers, given answer) -> whether the given one is right."""

LEAST_KAPPA = 0.8
TOKEN = "FTMECH_JUDGE_TOKEN"
"""Of the environment: what the endpoint wants to be shown. It goes nowhere else."""

WAIT = 60
ATTEMPTS, BETWEEN = 4, 1.0
"""How often a question is sent at most, and seconds before it is sent again, which double each time."""
"""Seconds for one answer of the endpoint."""

PROMPT = (
    "Question: {question}\nRight answer: {right}\nGiven answer: {answer}\n"
    "Does the given answer say the same as the right answer, and nothing that contradicts it? Answer yes or no."
)


class KnownAnswer(NamedTuple):
    """An answer of which it is known whether it is right."""

    question: str
    right: str
    answer: str
    is_right: bool


def known_answers(number: int = 60, seed: int = 0) -> list[KnownAnswer]:
    """Answers of known truth: of each sort the same number."""
    rng = np.random.default_rng(seed)
    found = []
    for place in range(number):
        relation = list(RELATIONS)[rng.integers(len(RELATIONS))]
        name = f"{FIRST[rng.integers(len(FIRST))]} {LAST[rng.integers(len(LAST))]}"
        right, wrong = (f"{relation}{each}" for each in rng.permutation(VALUES)[:2])
        sorts = (
            (right, True),
            (f"The {relation} of {name} is {right}.", True),
            (f"As far as the documents tell, it is {right}.", True),
            (wrong, False),
            (f"The {relation} of {name} is {wrong}, not {right}.", False),
            ("It is unknown.", False),
        )
        answer, is_right = sorts[place % len(sorts)]
        found.append(KnownAnswer(f"What is the {relation} of {name}?", right, answer, is_right))
    return found


def check_judge(judge: Judge, number: int = 60) -> float:
    """Cohen's kappa of a judge with the truth.

    Raises:
        ValueError: it is below :data:`LEAST_KAPPA`.
    """
    known = known_answers(number)
    given = [judge(each.question, [each.right], each.answer) for each in known]
    kappa = agreement(given, [each.is_right for each in known])
    if not kappa >= LEAST_KAPPA:
        raise ValueError(
            f"judge_url: its verdicts on {number} answers of known truth agree with kappa {kappa:.2f}, "
            f"expected {LEAST_KAPPA} or more"
        )
    return kappa


def endpoint_judge(url: str, model: str) -> Judge:
    """A judge behind an endpoint of OpenAI's chat completions, such as vLLM or llama.cpp serve on one's own machine.

    Args:
        url: up to and with ``/v1``.
        model: what the endpoint calls its model.

    Raises:
        ValueError: it is no address of the web; the judge itself raises one if the endpoint does not answer yes or no.
    """
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"judge_url: {url!r}, expected http:// or https://")

    def judge(question: str, right: Sequence[str], answer: str) -> bool:
        text = PROMPT.format(question=question, right=" or: ".join(right), answer=answer)
        said = _ask(url, model, text).strip().lower()
        verdict = re.match(r"\W*(yes|no)\b", said)
        if verdict is None:
            raise ValueError(f"judge_url: {url} said {said[:40]!r}, expected yes or no")
        return verdict[1] == "yes"

    return judge


class _StayThere(urllib.request.HTTPRedirectHandler):
    """Follows nobody elsewhere: a token would go along, to whatever host is named."""

    def redirect_request(self, *args: Any, **options: Any) -> None:
        """None, which makes an error of it."""


_OPENER = urllib.request.build_opener(_StayThere)


def _sent(request: urllib.request.Request) -> bytes:
    with _OPENER.open(request, timeout=WAIT) as found:
        return bytes(found.read())


def _is_busy(error: Exception) -> bool:
    """Whether asking again may help: of thousands of questions some meet a server that is busy or gone for a moment."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code in (408, 429) or error.code >= 500
    return isinstance(error, http.client.HTTPException | OSError)


def _ask(url: str, model: str, text: str) -> str:
    body = {"model": model, "messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 8}
    headers = {"Content-Type": "application/json"}
    if token := os.environ.get(TOKEN):
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(f"{url.rstrip('/')}/chat/completions", json.dumps(body).encode(), headers)
    try:
        return str(
            json.loads(retried(lambda: _sent(request), ATTEMPTS, BETWEEN, _is_busy))["choices"][0]["message"]["content"]
        )
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        raise ValueError(f"judge_url: {url} does not answer ({error})") from error
    except (json.JSONDecodeError, LookupError, TypeError) as error:
        raise ValueError(f"judge_url: {url} answers in another format than chat completions") from error
