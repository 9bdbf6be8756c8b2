"""Tries changes of the code on the tests, and writes tests/mutants.md: how many of them a test notices.

mutmut changes one place at a time (``[tool.mutmut]`` of pyproject.toml names the files) and writes the changes into
``mutants/``; there :mod:`tests.mutant_session` tries them and keeps what became of them, so that an interrupted run
goes on where it stopped. A function whose source has changed is tried again. Every change that no test notices stands
in the table with the reason why it may stay. Reasons are written by hand, into the table itself: they are found again
by the change they belong to, whatever its number is by then.

    make mutants            # every change: hours
    make mutants SAMPLE=4   # so many of every file, drawn by chance: minutes
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import io
import json
import os
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from scipy import stats

TABLE = Path("tests/mutants.md")
FOLDER = Path("mutants")
States = Mapping[str, Mapping[str, str]]
"""File -> name of a mutant -> what became of it."""

SURVIVED, UNTESTED, UNTRIED = "survived", "no test", "not tried"
STATES = {0: SURVIVED, 2: UNTRIED, 5: UNTESTED, 33: UNTESTED, None: UNTRIED}
"""By mutmut's exit codes; with all others (a failure, an error, a time-out) the change was noticed."""

NO_REASON = "**none given yet**"


def mutmut(module: str) -> Any:
    """A part of mutmut, which is found beside this folder's ``mutants.py`` and not in it."""
    sys.path[:] = [path for path in sys.path if Path(path or ".").resolve() != Path(__file__).parent]
    return importlib.import_module(f"mutmut.{module}")


def mutmut_settings() -> dict[str, Any]:
    """What pyproject.toml says of it."""
    with Path("pyproject.toml").open("rb") as file:
        settings: dict[str, Any] = tomllib.load(file)["tool"]["mutmut"]
    return settings


def make_changes(processes: int) -> None:
    """Let mutmut write all changes into its folder, and keep what is known of those that are there."""
    tool = mutmut("__main__")
    tool.set_mutant_under_test("mutant_generation")
    FOLDER.mkdir(exist_ok=True)
    drop_half_written(FOLDER)
    with contextlib.redirect_stdout(io.StringIO()):  # it tells of every file
        tool.copy_src_dir()
        tool.copy_also_copy_files()
        tool.create_mutants(processes)


def drop_half_written(folder: Path) -> None:
    """Let files be changed anew that were being written when mutmut was stopped: it takes whatever lies there."""
    for meta in folder.rglob("*.py.meta"):
        if meta.stat().st_mtime < meta.with_suffix("").stat().st_mtime:
            meta.unlink()
    for name in mutmut_settings()["only_mutate"]:
        if not (folder / f"{name}.meta").exists():
            (folder / name).unlink(missing_ok=True)


def try_changes(sample: int, seed: int, processes: int, again: bool, learn: float) -> None:
    """Try what was not tried before: of every file a sample, or all with 0. See :mod:`tests.mutant_session`.

    Args:
        sample: changes of every file; 0 for all.
        seed: of the sample.
        processes: side by side.
        again: whether those are tried once more that no test noticed.
        learn: seconds in which it is found out which functions tests reach, at most.
    """
    settings = mutmut_settings()
    make_changes(processes)
    wanted = {UNTRIED, SURVIVED, UNTESTED} if again else {UNTRIED}
    chosen = draw_sample(read_states(FOLDER), sample, seed)
    names = [name for states in chosen.values() for name, state in states.items() if state in wanted]
    tests = [*settings["pytest_add_cli_args"], *settings["pytest_add_cli_args_test_selection"]]
    command = [
        sys.executable,
        "-m",
        "tests.mutant_session",
        "--processes",
        str(processes),
        "--learn",
        str(learn),
        *tests,
    ]
    environment = {**os.environ, "PYTHONPATH": str(FOLDER.absolute()), "PY_IGNORE_IMPORTMISMATCH": "1"}
    environment |= {"MUTANT_UNDER_TEST": "", "MUTMUT_DEPENDENCY_DEPTH": "-1"}
    if names:
        subprocess.run(
            command, cwd=FOLDER, env=environment, input="\n".join(names), text=True, check=True,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip


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
    shown = mutmut("mutation.diff_apply").get_diff_for_mutant(mutant).splitlines()
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


def read_firsts(table: Path) -> dict[str, str]:
    """Sample -> its score when it was first tried, of a table that was written before."""
    if not table.exists():
        return {}
    rows = re.findall(
        r"^\| (\d+ of every file, seed \d+[^|]*?) \| (.+) \|$", table.read_text(encoding="utf-8"), re.MULTILINE
    )
    return dict(rows)


def score(counts: Counter[str]) -> list[str]:
    """Noticed, not noticed, the share of the former and its interval."""
    left, killed = counts[SURVIVED] + counts[UNTESTED], counts["killed"]
    if not left + killed:
        return ["0", "0", "0", "", ""]
    low, high = stats.binomtest(killed, left + killed).proportion_ci(0.95, method="wilson")
    share = f"{killed / (left + killed):.0%}"
    return [str(left + killed), str(killed), str(left), share, f"{low:.0%} to {high:.0%}"]


def add_first(firsts: Mapping[str, str], tried: States, sample: int, seed: int, commit: str) -> dict[str, str]:
    """The first scores with that of a sample, if it was tried whole and has none: later ones do not replace it."""
    name, counts = (
        f"{sample} of every file, seed {seed}",
        Counter(each for file in tried.values() for each in file.values()),
    )
    if not sample or counts[UNTRIED] or name in firsts:
        return dict(firsts)
    return {**firsts, name: " | ".join([commit, *score(counts)])}


def write_table(
    states: States,
    tried: States,
    reasons: Mapping[str, str],
    describe: Callable[[str], str],
    firsts: Mapping[str, str] | None = None,
) -> str:
    """The file's text, of all mutants and of those that were to be tried, and of what samples scored at first."""
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
    first = "\n".join(f"| {name} | {cells} |" for name, cells in (firsts or {}).items())
    first_heads = (
        "| sample | code | tried | noticed | not noticed | score | 95 % interval |\n|---|---|---|---|---|---|---|"
    )
    return (
        "# Changes of the code that tests notice\n\n"
        "Written by `make mutants`, which changes the code in one place at a time and runs the tests that reach it; "
        "with `SAMPLE`\nso many changes of every file are tried, drawn by chance. Decorated functions are left alone. "
        "The reasons are written\nby hand. The score counts the changes that were tried; its interval is "
        f"Wilson's.\n\n{table}\n\n## Fresh samples\n\nWhat a sample scored when it was first tried, before any test "
        f"was written for what it left; later runs do not change it.\n\n{first_heads}\n{first}\n\n"
        "## Not noticed\n\n" + "\n".join(survivors)
    )


def _row(name: str, number: int, counts: Counter[str]) -> str:
    return " | ".join([f"| {name}", str(number), *score(counts)]) + " |"


def main() -> None:
    """Try, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=0, help="changes of every file to try; 0 for all")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--processes", type=int, default=1, help="side by side; 0 to write the table only")
    parser.add_argument("--again", action="store_true", help="try those once more that no test noticed")
    parser.add_argument("--learn", type=float, default=3600.0, help="seconds to learn which functions tests reach")
    given = parser.parse_args()
    if given.processes:
        try_changes(given.sample, given.seed, given.processes, given.again, given.learn)
    states = read_states(FOLDER)
    tried = draw_sample(states, given.sample, given.seed)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    firsts = add_first(read_firsts(TABLE), tried, given.sample, given.seed, commit)
    TABLE.write_text(write_table(states, tried, read_reasons(TABLE), describe_change, firsts), encoding="utf-8")
    print(TABLE)


if __name__ == "__main__":
    main()
