"""Writes tests/mutants.md: how many of the changes that ``make mutants`` makes to the code a test notices.

mutmut changes one place at a time (``[tool.mutmut]`` of pyproject.toml names the files) and keeps in ``mutants/`` what
it has tried, so an interrupted run goes on where it stopped. Every change that no test notices stands in the table with
the reason why it may stay. Reasons are written by hand, into the table itself: they are found again by the change they
belong to, whatever its number is by then.

    make mutants
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

TABLE = Path("tests/mutants.md")
SURVIVED, UNTESTED, UNTRIED = "survived", "no test", "not tried"
STATES = {0: SURVIVED, 2: UNTRIED, 5: UNTESTED, 33: UNTESTED, None: UNTRIED}
"""By mutmut's exit codes; with all others (a failure, an error, a time-out) the change was noticed."""

NO_REASON = "**none given yet**"


def read_states(folder: Path) -> dict[str, dict[str, str]]:
    """File -> name of a mutant -> what became of it."""
    found = {}
    for path in sorted(folder.rglob("*.py.meta")):
        codes = json.loads(path.read_text(encoding="utf-8"))["exit_code_by_key"]
        if codes:
            name = path.relative_to(folder).as_posix().removesuffix(".meta")
            found[name] = {key: STATES.get(code, "killed") for key, code in codes.items()}
    return found


def describe_change(mutant: str) -> str:
    """A mutant as one cell of a table: its function, and the lines it takes out and puts in."""
    command = [str(Path(sys.executable).with_name("mutmut")), "show", mutant]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
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


def write_table(states: dict[str, dict[str, str]], reasons: dict[str, str]) -> str:
    """The file's text."""
    rows, survivors, total = [], [], Counter[str]()
    for file, mutants in states.items():
        counts = Counter(mutants.values())
        total += counts
        rows.append(_row(file, counts))
        left = [describe_change(name) for name, state in mutants.items() if state in (SURVIVED, UNTESTED)]
        if left:
            cells = "\n".join(f"| {change} | {reasons.get(change, NO_REASON)} |" for change in dict.fromkeys(left))
            survivors.append(f"### {file}\n\n| change | why it may stay |\n|---|---|\n{cells}\n")
    heads = "| file | changes | noticed | not noticed | not tried | score |\n|---|---|---|---|---|---|"
    table = "\n".join([heads, *rows, _row("**all**", total)])
    return (
        "# Changes of the code that tests notice\n\n"
        "Written by `make mutants`, which changes the code in one place at a time and runs the tests that reach it; "
        "the reasons\nare written by hand. Decorated functions are left alone by mutmut. The score counts the changes "
        f"that were tried.\n\n{table}\n\n## Not noticed\n\n" + "\n".join(survivors)
    )


def _row(name: str, counts: Counter[str]) -> str:
    left, untried = counts[SURVIVED] + counts[UNTESTED], counts[UNTRIED]
    tried = counts.total() - untried
    score = f"{counts['killed'] / tried:.0%}" if tried else ""
    return f"| {name} | {counts.total()} | {counts['killed']} | {left} | {untried} | {score} |"


if __name__ == "__main__":
    TABLE.write_text(write_table(read_states(Path("mutants")), read_reasons(TABLE)), encoding="utf-8")
    print(TABLE)
