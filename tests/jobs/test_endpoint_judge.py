"""A judge behind an endpoint: one that knows is taken, a yes to all is refused, and what is broken is named."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from ftmech_hf.jobs import endpoint_judge as endpoint_judge_module
from ftmech_hf.jobs.endpoint_judge import TOKEN, check_judge, endpoint_judge, known_answers


def reads(text: str) -> str:
    """The verdict of somebody who reads: the right value stands in the answer, and no other one of its kind."""
    right, answer = (re.search(f"{what} answer: (.*)", text)[1] for what in ("Right", "Given"))  # type: ignore[index]
    kind = right.rstrip("0123456789")
    return "Yes." if set(re.findall(rf"\b{kind}\d+\b", answer)) == {right} else "no"


@contextmanager
def serve(
    says: Callable[[str], str], *, broken: bool = False, busy: Callable[[int], int | None] = lambda number: None
) -> Iterator[tuple[str, list[str | None]]]:
    """An endpoint, and the authorizations it was shown; ``busy`` says with which status it refuses a question."""
    shown: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            shown.append(self.headers.get("Authorization"))
            said = {"choices": [{"message": {"content": says(body["messages"][0]["content"])}}]}
            content = json.dumps({"error": "no"} if broken else said).encode()
            refused = busy(len(shown))
            self.send_response(refused or (200 if self.path == "/v1/chat/completions" else 404))
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", shown
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_judge_module, "BETWEEN", 0.001)


def test_a_server_that_is_busy_is_asked_again_and_one_that_refuses_is_not() -> None:
    with serve(reads, busy=lambda number: {1: 503, 2: 429, 3: 408}.get(number)) as (url, shown):
        assert endpoint_judge(url, "m")("What is the job of A?", ["job3"], "It is job3.")
    assert len(shown) == 4
    for status, times in ((500, 4), (400, 1), (401, 1)):
        with serve(reads, busy=lambda _, status=status: status) as (url, shown):
            with pytest.raises(ValueError, match=f"judge_url: .* does not answer .*{status}"):
                endpoint_judge(url, "m")("?", ["job3"], "job3")
            assert len(shown) == times


def test_known_answers_are_right_as_often_as_wrong_and_a_reader_agrees() -> None:
    known = known_answers()
    assert sum(each.is_right for each in known) == 30
    assert check_judge(
        lambda question, right, answer: reads(f"Right answer: {right[0]}\nGiven answer: {answer}")[0] == "Y"
    )
    for judge in (
        lambda *_: True,
        lambda *_: False,
        lambda question, right, answer: right[0] in answer,  # by strings alone: a contradiction is not seen
        lambda question, right, answer: right[0] == answer,  # nor a sentence
    ):
        with pytest.raises(ValueError, match="agree with kappa"):
            check_judge(judge)


def test_an_endpoint_is_asked_and_its_token_goes_there_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(reads) as (url, shown):
        judge = endpoint_judge(url, "m")
        assert check_judge(judge, 12) == 1.0
        monkeypatch.setenv(TOKEN, "secret")
        assert judge("What is the job of A?", ["job3"], "It is job3.")
        assert not judge("What is the job of A?", ["job3"], "job4")
    assert set(shown) == {None, "Bearer secret"}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_token_is_not_sent_on_to_where_an_endpoint_points(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN, "secret")
    asked: list[str] = []

    class Elsewhere(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(f"{self.command} {self.path}")
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.send_header("Location", f"http://localhost:{server.server_port}/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_POST

        def log_message(self, *args: object) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Elsewhere)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        judge = endpoint_judge(f"http://127.0.0.1:{server.server_port}/v1", "m")
        with pytest.raises(ValueError, match=f"judge_url: .* does not answer .*{status}"):
            judge("?", ["a"], "a")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert asked == ["POST /v1/chat/completions"]


def test_what_is_no_judge_is_named() -> None:
    with pytest.raises(ValueError, match="judge_url: 'file:///x', expected http"):
        endpoint_judge("file:///x", "m")
    with (
        serve(lambda text: "Perhaps") as (url, _),
        pytest.raises(ValueError, match="said 'perhaps', expected yes or no"),
    ):
        endpoint_judge(url, "m")("?", ["a"], "a")
    for said in ("Not sure", "None of these", "Yesterday", "nonsense"):
        with serve(lambda text, said=said: said) as (url, _), pytest.raises(ValueError, match="expected yes or no"):
            endpoint_judge(url, "m")("?", ["a"], "a")
    for said, right in (("Yes.", True), ("**No**, it is not", False)):
        with serve(lambda text, said=said: said) as (url, _):
            assert endpoint_judge(url, "m")("?", ["a"], "a") is right
    with serve(reads, broken=True) as (url, _), pytest.raises(ValueError, match="answers in another format"):
        endpoint_judge(url, "m")("?", ["a"], "a")
    with serve(reads) as (url, _), pytest.raises(ValueError, match="does not answer"):
        endpoint_judge(f"{url}/other", "m")("?", ["a"], "a")
    with pytest.raises(ValueError, match="does not answer"):
        endpoint_judge(url, "m")("?", ["a"], "a")
