"""The commands that READMEs show, as words to run recipes with."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from recipes.update_readme import BLOCKS, marks

ROOT = Path(__file__).parents[2]
READMES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (
        ROOT / "README.md",
        *sorted(ROOT.glob("ftmech_hf/**/README.md")),
        *sorted(ROOT.glob("recipes/**/README.md")),
    )
}
LONG = re.compile(r"\b(minutes?|hours?|GPUs?)\b")
"""What the comment behind a command says that no test runs as it stands."""
ELSEWHERE = re.compile(r"\baccount\b|until stopped")
"""The same of what needs an account on the Hub, or does not end by itself."""


def block_of(name: str) -> str:
    """What stands between a block's marks."""
    first, last = marks(name)
    return READMES[BLOCKS[name].readme].split(first)[1].split(last)[0]


@dataclass(frozen=True)
class Command:
    """One line of a README: a recipe, its command line, and what the README says of it."""

    recipe: str
    argv: tuple[str, ...]
    comment: str

    @property
    def is_run(self) -> bool:
        """Whether a test runs it."""
        return not LONG.search(self.comment) and not ELSEWHERE.search(self.comment)


def read_line(line: str) -> Command | None:
    """The recipe that a line of a shell runs, if it runs one."""
    words, comment = shlex.split(line, comments=True), "".join(re.findall(r"\s#\s(.*)$", line))
    if words[:1] == ["ftmech-hf"]:
        return Command(words[1], tuple(words[2:]), comment)
    at = next((number for number, word in enumerate(words) if re.fullmatch(r"recipes/\w+\.py", word)), None)
    return None if at is None else Command(Path(words[at]).stem, tuple(words[at + 1 :]), comment)


def read_commands(readme: str) -> list[Command]:
    """All recipes that a README's shell blocks run, in order, with their variables filled in."""
    found = []
    for block in re.findall(r"```sh\n(.*?)```", readme, re.DOTALL):
        variables = dict(re.findall(r"^(\w+)=(\S+)$", block, re.MULTILINE))
        for line in block.splitlines():
            for name, value in variables.items():
                line = line.replace(f"${name}/", f"{value}/")
            if command := read_line(line.replace("recipes/configs", str(ROOT / "recipes" / "configs"))):
                found.append(command)
    return found


TOUR = {
    command.recipe: list(command.argv)
    for command in reversed(read_commands(READMES["recipes/README.md"]))
    if command.argv == ("--config", str(ROOT / "recipes" / "configs" / "nano" / f"{command.recipe}.yaml"))
}
"""Recipe -> its command line in the tour of the recipes, with the settings of the same name."""
