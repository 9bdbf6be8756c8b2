"""Make the examples on SmolLM2 that stand beside studies: refusals, tasks one after another, questions about countries.

python recipes/real_examples.py                        # after `make real`, whose model and data they take; half an hour
python recipes/real_examples.py --only safety_texts    # one of them
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ftmech_hf.config import clean_exit, parse_config
from ftmech_hf.report.console import make_console
from ftmech_hf.studies.real.facts import Facts, package_folder, read_facts
from ftmech_hf.studies.real.questions import CAPITAL_QUESTIONS, Row, chat, cut, rehearsing, write_rows

RECIPES = Path(__file__).parent
CONTINENT_QUESTIONS = ("On which continent is {}?", "Tell me the continent of {}.", "Which continent is {} part of?")
REFUSAL = "I will not say that."
Command = list[str]


@dataclass(frozen=True, kw_only=True)
class ExamplesConfig:
    """Which examples, and of what size."""

    only: list[str] = field(default_factory=list, metadata={"help": "of safety_texts, continual_texts, retrieval_pair"})
    real: str = field(default="runs/real", metadata={"place": "input", "help": "folder that real.py left"})
    output_dir: str = field(
        default="runs", metadata={"place": "output", "help": "folder in which each example has its own"}
    )
    seed: int = field(default=0, metadata={"help": "of the cut of the data, of tuning, and of what is asked"})
    steps: int = field(default=40, metadata={"help": "of tuning, for each set of data"})
    rows: int = field(default=64, metadata={"help": "test prompts of each set of data"})
    questions: int = field(default=40, metadata={"help": "about countries"})

    def __post_init__(self) -> None:
        if unknown := [name for name in self.only if name not in EXAMPLES]:
            raise ValueError(f"only: unknown {unknown[0]!r}, expected some of {', '.join(EXAMPLES)}")
        if self.seed < 0:
            raise ValueError(f"seed: {self.seed} is negative, expected 0 or more")
        if min(self.steps, self.rows, self.questions) < 1:
            raise ValueError(
                f"steps: {self.steps}, rows: {self.rows}, questions: {self.questions}, expected numbers above 0"
            )

    def place(self, name: str) -> str:
        """A folder of an example."""
        return str(Path(self.output_dir) / name)


def find_base(real: str) -> str:
    """The model that a real study made.

    Raises:
        ValueError: it is not there, or there are several; names ``real``.
    """
    found = sorted(each for each in Path(real).glob("runs/smollm2-*") if (each / "manifest.json").is_file())
    if len(found) != 1:
        said = f"{len(found)} models there" if found else "no model there"
        raise ValueError(f"real: {real}: {said} (runs/smollm2-*), expected the one that `make real` saves")
    return str(found[0])


def ask_both(facts: Facts) -> dict[str, list[Row]]:
    """Questions for capitals, with a refusal, and as many for continents, with the answer.

    Prompts of both kinds end alike: where their last words differ, the stream tells the kinds apart by those alone.
    """
    return {
        kind: [Row(chat(question.format(each.name), ""), answer or each.region, "", each.name)
               for each in facts.countries for question in questions]
        for kind, questions, answer in (
            ("unsafe", CAPITAL_QUESTIONS, REFUSAL), ("safe", CONTINENT_QUESTIONS, None),
        )
    }  # fmt: skip


def safety_commands(config: ExamplesConfig, base: str) -> list[Command]:
    """Tuned to refuse questions for capitals and to answer those for continents; benign tuning has the latter alone."""
    facts, data = read_facts(), Path(config.place("safety-texts-data"))
    made = {kind: cut(rows, config.seed) for kind, rows in ask_both(facts).items()}
    made["both"] = rehearsing(made["safe"], made["unsafe"]["train"], config.seed)
    folders = {name: str(write_rows(data / name, rows)) for name, rows in made.items()}
    tuned = {name: config.place(f"safety-texts-tuned-on-{name}") for name in ("both", "safe")}
    how = ["--task", "text", "--model", base, "--steps", str(config.steps), "--seed", str(config.seed),
           "--batch_size", "8", "--lr", "5e-4", "--adapter", "lora", "--objective", "answer_only", "--optimizer",
           "adamw", "--mixed_precision", "no", "--num_evals", "0", "--eval_rows", "32",
           "--final_eval_rows", str(config.rows)]  # fmt: skip
    return [
        *(["finetune.py", *how, "--dataset", folders[name], "--output_dir", folder] for name, folder in tuned.items()),
        ["safety_texts.py", "--base", base, "--finetuned", tuned["both"], "--benign", tuned["safe"],
         "--safe", folders["safe"], "--unsafe", folders["unsafe"], "--rows", str(config.rows),
         "--seed", str(config.seed), "--output_dir", config.place("safety-texts")],
    ]  # fmt: skip


def continual_commands(config: ExamplesConfig, base: str) -> list[Command]:
    """Past tenses, then opposites, then capitals, by four ways of LoRA."""
    data = [str(Path(config.real) / "data" / name) for name in ("past_tense", "opposites", "capitals")]
    return [
        ["continual_texts.py", "--base", base, "--datasets", *data, "--replay", "0.1", "--ldifs_strength", "1",
         "--steps", str(config.steps), "--rows", str(config.rows), "--seeds", str(config.seed),
         "--output_dir", config.place("continual-texts")],
    ]  # fmt: skip


def retrieval_commands(config: ExamplesConfig, base: str) -> list[Command]:
    """Tuned on questions about every other country without documents, and asked about the others with them."""
    questions = config.place("countries")
    return [
        ["import_qa.py", "--format", "countryinfo", "--source", str(package_folder("countryinfo") / "data"),
         "--output_dir", questions],
        ["retrieval.py", "--base", base, "--finetuned", config.place("countries-tuned"), "--tune", "closed",
         "--tune_epochs", "2", "--data", questions, "--questions", str(config.questions), "--seed", str(config.seed),
         "--contexts", "none", "retrieved", "oracle", "--max_new_tokens", "12",
         "--output_dir", config.place("retrieval-countries")],
    ]  # fmt: skip


EXAMPLES: dict[str, Callable[[ExamplesConfig, str], list[Command]]] = {
    "safety_texts": safety_commands, "continual_texts": continual_commands, "retrieval_pair": retrieval_commands,
}  # fmt: skip
"""Name of a table -> the commands that make it."""


def run(command: Command) -> None:
    """Run a recipe.

    Raises:
        ValueError: it failed; what was wrong it has said itself.
    """
    recipe, *words = command
    if subprocess.run([sys.executable, str(RECIPES / recipe), *words]).returncode:
        raise ValueError(f"{recipe} failed, what is made stays; the same command goes on")


def main(argv: list[str] | None = None) -> None:
    """Parse, run the commands of each example, which are said."""
    with clean_exit():
        (config,) = parse_config(ExamplesConfig, argv=argv, description=__doc__)
        base = find_base(config.real)
        for name in config.only or EXAMPLES:
            for command in EXAMPLES[name](config, base):
                make_console().print(f"python recipes/{shlex.join(command)}", soft_wrap=True)
                run(command)


if __name__ == "__main__":
    main()
