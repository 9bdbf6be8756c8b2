"""Tries changes of the code on tests: one process collects the tests once, and each change has a child of it.

:mod:`tests.mutants` runs this in ``mutants/``, where mutmut has written every change of a function beside the function
itself; which of them is called the environment says. What costs time, imports and collection, is paid once, so that
most changes take a second. Results go where mutmut keeps its own.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ACTIVE = "MUTANT_UNDER_TEST"
"""What tells mutmut's changed functions which change is to be called; with ``stats`` they note that they are."""

KNOWN_TESTS = Path("tests.json")
SLOWEST = 5.0
"""Seconds of computing that a test may take: a slower one is not used."""
BUDGET = 8.0
"""Seconds of tests for a change, at most."""
LONGEST_LEARNING = 3600.0
UNTESTED = 33
"""mutmut's exit code of a change that no test reaches."""
LONGEST_WAIT = 900
"""Seconds after which a child that waits for something is stopped; one that computes is stopped by what it computes."""


class Reached(NamedTuple):
    """What is known of a test."""

    seconds: float
    functions: list[str]
    usable: bool


def nearest_tests(reaching: Mapping[str, Reached], budget: float = BUDGET) -> list[str]:
    """Of the tests that reach a function those that reach the fewest others, as many as fit: in any case one."""
    kept: list[str] = []
    for test, known in sorted(reaching.items(), key=lambda each: (len(each[1].functions), each[1].seconds, each[0])):
        if not kept or known.seconds <= budget:
            kept.append(test)
            budget -= known.seconds
    return kept


def function_of(change: str) -> str:
    """The function that a change is one of."""
    return re.sub(r"__mutmut_\d+$", "", change)


def record(change: str, code: int) -> None:
    """Keep what became of a change, beside the changed file."""
    path = Path(*function_of(change).split(".")[:-1]).with_suffix(".py.meta")
    known = json.loads(path.read_text(encoding="utf-8"))
    known["exit_code_by_key"][change] = code
    path.write_text(json.dumps(known, indent=4), encoding="utf-8")


class Trials:
    """A plugin of pytest that tries changes, where pytest would run the tests that it has collected.

    Args:
        changes: to be tried, by mutmut's names.
        processes: children side by side.
        learn: for how many seconds tests are run that have changed, to learn what they reach.
    """

    def __init__(self, changes: Sequence[str], processes: int, learn: float = LONGEST_LEARNING) -> None:
        self.changes, self.processes, self.most = changes, processes, learn
        self.items: dict[str, Any] = {}
        self.failed = self.is_child = False
        self.children: dict[int, str] = {}
        self.known: dict[str, Reached] = {}
        self.sound: dict[str, bool] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """The first failure ends a child."""
        if report.failed and self.is_child:
            _noticed_by(os.getpid()).write_text(report.nodeid, encoding="utf-8")
            os._exit(1)
        self.failed |= report.failed

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Say why tests cannot be collected."""
        if report.failed:
            tell(f"{report.nodeid}: {report.longrepr}"[-800:])

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """All of it."""
        if session.testsfailed:
            raise session.Interrupted("tests that cannot be collected")
        self.items = {item.nodeid: item for item in session.items}
        self.known = self.learn()
        for number, change in enumerate(self.changes):
            self.start(change)
            self.wait(self.processes - 1)
            if number % 10 == 0:
                tell(f"{number} of {len(self.changes)} changes")
        self.wait(0)
        return True

    def learn(self) -> dict[str, Reached]:
        """Run the tests that have changed since they were last run here, and note which functions they reach.

        Those come first that are named like a changed file, of these the files of functions that no test is known to
        reach; what there is no time for is not used.
        """
        hits = importlib.import_module("mutmut.state").state()
        stored = json.loads(KNOWN_TESTS.read_text(encoding="utf-8")) if KNOWN_TESTS.exists() else {}
        keys = {test: f"{test} {_digest(item.path)}" for test, item in self.items.items()}
        functions = {function_of(change) for change in self.changes}
        unknown = functions.difference(*(stored[key][1] for key in keys.values() if key in stored))
        files, first = ({function.split(".")[-2] for function in each} for each in (functions, unknown))

        def order(test: str) -> tuple[bool, bool]:
            name = self.items[test].path.stem.removeprefix("test_")
            return name not in first, name not in files

        new = sorted((test for test, key in keys.items() if key not in stored), key=order)
        end = time.monotonic() + self.most
        signal.signal(signal.SIGVTALRM, _too_slow)
        os.environ[ACTIVE] = "stats"
        for number, test in enumerate(new):
            if time.monotonic() > end:
                break
            hits._stats.clear()
            self.failed, began = False, time.process_time()
            signal.setitimer(signal.ITIMER_VIRTUAL, SLOWEST)
            self.run(new[number : number + 2])
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            stored[keys[test]] = [time.process_time() - began, sorted(hits._stats), not self.failed]
            if number % 20 == 0:
                tell(f"{number} of {len(new)} tests learned")
                KNOWN_TESTS.write_text(json.dumps(stored), encoding="utf-8")
        KNOWN_TESTS.write_text(json.dumps(stored), encoding="utf-8")
        os.environ[ACTIVE] = ""
        return {test: Reached(*stored[key]) for test, key in keys.items() if key in stored}

    def run(self, tests: Sequence[str]) -> None:
        """Run the first of some tests; what the next one needs as well is left standing."""
        item, *rest = (self.items[test] for test in tests)
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=rest[0] if rest else None)

    def start(self, change: str) -> None:
        """Try a change in a child, on the tests that reach its function."""
        function = function_of(change)
        reaching = {test: each for test, each in self.known.items() if each.usable and function in each.functions}
        if tests := nearest_tests(reaching):
            self.children[self.fork(change, tests)] = change
        else:
            record(change, UNTESTED)

    def fork(self, change: str, tests: Sequence[str]) -> int:
        """A child that runs tests with a change, or with none, and ends with 0 if all pass."""
        if child := os.fork():
            return child
        self.is_child = True
        most = int(time.process_time() + 8 * sum(self.known[test].seconds for test in tests) + 10)
        resource.setrlimit(resource.RLIMIT_CPU, (most, most + 1))
        signal.alarm(LONGEST_WAIT)
        os.environ[ACTIVE] = change
        try:
            for number in range(len(tests)):
                self.run(tests[number : number + 2])
        except BaseException:
            os._exit(1)
        os._exit(0)

    def wait(self, number: int) -> None:
        """Until no more than so many children are left.

        A test that fails without any change as well has noticed nothing: it is left out, and the change tried again.
        """
        while len(self.children) > number:
            child, status = os.wait()
            change, code, path = self.children.pop(child), os.waitstatus_to_exitcode(status), _noticed_by(child)
            test = path.read_text(encoding="utf-8") if path.exists() else ""
            path.unlink(missing_ok=True)
            if test and not self.passes(test):
                self.known[test] = self.known[test]._replace(usable=False)
                self.start(change)
            else:
                record(change, code)

    def passes(self, test: str) -> bool:
        """Whether a test passes in a child without any change."""
        if test not in self.sound:
            child = self.fork("", [test])
            self.sound[test] = os.waitpid(child, 0)[1] == 0
            _noticed_by(child).unlink(missing_ok=True)
        return self.sound[test]


def _noticed_by(child: int) -> Path:
    """Where a child says which test has failed in it."""
    return Path(f".noticed-by-{child}")


def _too_slow(*_: object) -> None:
    pytest.fail("takes too long to be run for each change")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:8]


def tell(text: str) -> None:
    """Say how far it is, where pytest does not catch it."""
    print(text, file=sys.__stderr__, flush=True)


def main(arguments: Collection[str] | None = None) -> int:
    """Read the names of changes, one a line, and try them on the tests that the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--learn", type=float, default=LONGEST_LEARNING)
    given, tests = parser.parse_known_args(None if arguments is None else list(arguments))
    trials = Trials(sys.stdin.read().split(), given.processes, given.learn)
    return int(pytest.main(["--rootdir=.", "--quiet", "--tb=no", "--no-header", *tests], plugins=[trials]))


if __name__ == "__main__":
    sys.exit(main())
