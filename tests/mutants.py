"""Tries changes of the code on the tests, and writes tests/mutants.md: how many of them a test notices.

mutmut changes one place at a time (``[tool.mutmut]`` of pyproject.toml names the files) and keeps in ``mutants/`` what
it has tried, so an interrupted run goes on where it stopped. Every change that no test notices stands in the table with
the reason why it may stay. Reasons are written by hand, into the table itself: they are found again by the change they
belong to, whatever its number is by then.

    make mutants             # every change: a day
    make mutants SAMPLE=60   # so many of every file, drawn by chance: hours
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from scipy import stats

TABLE = Path("tests/mutants.md")
FOLDER = Path("mutants")
KNOWN_TESTS = FOLDER / "mutmut-stats.json"
"""Where mutmut keeps which tests reach a function, and how long they take."""

BUDGET = 30.0
"""Seconds of tests for a change, at most: those of the same folder come first, and of these the fastest."""

States = Mapping[str, Mapping[str, str]]
"""File -> name of a mutant -> what became of it."""

SURVIVED, UNTESTED, UNTRIED = "survived", "no test", "not tried"
STATES = {0: SURVIVED, 2: UNTRIED, 5: UNTESTED, 33: UNTESTED, None: UNTRIED}
"""By mutmut's exit codes; with all others (a failure, an error, a time-out) the change was noticed."""

NO_REASON = "**none given yet**"


def mutmut(*arguments: str, quiet: bool = False) -> str:
    """A command of mutmut; what it prints, if it is to be quiet."""
    command = [str(Path(sys.executable).with_name("mutmut")), *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE if quiet else None, text=True, check=True).stdout or ""


def try_changes(sample: int, seed: int, processes: int) -> None:
    """Try what was not tried before: of every file a sample, or all with 0."""
    running = ("run", "--max-children", str(processes))
    if not KNOWN_TESTS.exists():  # the first of a small file, to make all of them and to learn which tests reach what
        mutmut(*running, "ftmech_hf.runs.lock.*__mutmut_1")
        known = json.loads(KNOWN_TESTS.read_text(encoding="utf-8"))
        keep_nearest_tests(known["tests_by_mangled_function_name"], known["duration_by_test"])
        KNOWN_TESTS.write_text(json.dumps(known), encoding="utf-8")
    chosen = draw_sample(read_states(FOLDER), sample, seed)
    names = [name for states in chosen.values() for name, state in states.items() if state == UNTRIED]
    if names:
        mutmut(*running, *(names if sample else []))


def keep_nearest_tests(tests: dict[str, list[str]], seconds: Mapping[str, float]) -> None:
    """Of the tests that reach each function keep those nearest to it, as many as fit into :data:`BUDGET`."""
    for function, reaching in tests.items():
        near = f"tests/{function.split('.')[1]}/"
        left, kept = BUDGET, []
        for test in sorted(reaching, key=lambda each: (not each.startswith(near), seconds[each])):
            if seconds[test] <= left or not kept:
                kept.append(test)
                left -= seconds[test]
        tests[function] = kept


def draw_sample(states: States, number: int, seed: int) -> dict[str, dict[str, str]]:
    """So many mutants of every file, or all with 0: the same for the same seed, the smaller in the larger."""

    def drawn(names: Iterable[str]) -> list[str]:
        return sorted(names, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).hexdigest())

    return {
        file: {name: each[name] for name in (drawn(each)[:number] if number else each)} for file, each in states.items()
    }


def read_states(folder: Path) -> dict[str, dict[str, str]]:
    """All mutants that were made, and what became of them."""
    found = {}
    for path in sorted(folder.rglob("*.py.meta")):
        codes = json.loads(path.read_text(encoding="utf-8"))["exit_code_by_key"]
        if codes:
            name = path.relative_to(folder).as_posix().removesuffix(".meta")
            found[name] = {key: STATES.get(code, "killed") for key, code in codes.items()}
    return found


def describe_change(mutant: str) -> str:
    """A mutant as one cell of a table: its function, and the lines it takes out and puts in."""
    shown = mutmut("show", mutant, quiet=True).splitlines()
    lines = [line for line in shown if re.match(r"[-+](?![-+]{2} )", line)]
    function = re.sub(r"__mutmut_\d+$", "", mutant.rsplit(".", 1)[1]).replace("ǁ", ".").removeprefix("x").lstrip("._")
    changes = [f"`{line[0]} {' '.join(line[1:].split())}`".replace("|", "\\|") for line in lines]
    return f"{function}: {' '.join(changes)}"


def read_reasons(table: Path) -> dict[str, str]:
    """Change -> reason, of a table that was written before."""
    if not table.exists():
        return {}
    rows = re.findall(r"^\| (.+) \| (.+) \|$", table.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {change: reason for change, reason in rows if reason != NO_REASON}


def write_table(states: States, tried: States, reasons: Mapping[str, str], describe: Callable[[str], str]) -> str:
    """The file's text, of all mutants and of those that were to be tried."""
    rows, survivors, total, everything = [], [], Counter[str](), 0
    for file, mutants in tried.items():
        counts = Counter(mutants.values())
        total, everything = total + counts, everything + len(states[file])
        rows.append(_row(file, len(states[file]), counts))
        left = [describe(name) for name, state in mutants.items() if state in (SURVIVED, UNTESTED)]
        if left:
            cells = "\n".join(f"| {change} | {reasons.get(change, NO_REASON)} |" for change in dict.fromkeys(left))
            survivors.append(f"### {file}\n\n| change | why it may stay |\n|---|---|\n{cells}\n")
    heads = "| file | changes | tried | noticed | not noticed | score | 95 % interval |\n|---|---|---|---|---|---|---|"
    table = "\n".join([heads, *rows, _row("**all**", everything, total)])
    return (
        "# Changes of the code that tests notice\n\n"
        "Written by `make mutants`, which changes the code in one place at a time and runs the tests that reach it; "
        "with `SAMPLE`\nso many changes of every file are tried, drawn by chance. Decorated functions are left alone. "
        "The reasons are written\nby hand. The score counts the changes that were tried; its interval is "
        f"Wilson's.\n\n{table}\n\n## Not noticed\n\n" + "\n".join(survivors)
    )


def _row(name: str, number: int, counts: Counter[str]) -> str:
    left, killed = counts[SURVIVED] + counts[UNTESTED], counts["killed"]
    cells = [str(cell) for cell in (number, left + killed, killed, left)]
    if left + killed:
        low, high = stats.binomtest(killed, left + killed).proportion_ci(0.95, method="wilson")
        cells += [f"{killed / (left + killed):.0%}", f"{low:.0%} to {high:.0%}"]
    return " | ".join([f"| {name}", *cells, *[""] * (6 - len(cells))]) + " |"


def main() -> None:
    """Try, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=0, help="changes of every file to try; 0 for all")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--processes", type=int, default=1, help="side by side; 0 to write the table only")
    given = parser.parse_args()
    if given.processes:
        try_changes(given.sample, given.seed, given.processes)
    states = read_states(FOLDER)
    tried = draw_sample(states, given.sample, given.seed)
    TABLE.write_text(write_table(states, tried, read_reasons(TABLE), describe_change), encoding="utf-8")
    print(TABLE)


if __name__ == "__main__":
    main()
