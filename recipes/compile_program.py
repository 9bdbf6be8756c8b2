"""Save a compiled program as a model: weights, config, tokenizer and card; with noise, if one means to fine-tune it.

python recipes/compile_program.py --config recipes/configs/nano/compile_program.yaml

The programs of the paper come compiled; for other sizes this needs tracr: pip install "ftmech_hf[tracr]". With
``--artefacts true`` it compiles all that come compiled again and says whether they are the same, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ftmech_hf.config import ConfigError, clean_exit, parse_config, peek_setting
from ftmech_hf.jobs.compiling import CompileConfig, start_compiled
from ftmech_hf.models.conversion import ARTEFACTS, artefact_bytes, artefact_path, compile_program, load_artefact
from ftmech_hf.report.console import print_run
from ftmech_hf.runs import replacing
from ftmech_hf.tasks import TASKS
from ftmech_hf.tasks.letters import LettersConfig


@dataclass(frozen=True, kw_only=True)
class ArtefactConfig:
    """Whether to check what comes compiled instead."""

    artefacts: bool = field(
        default=False, metadata={"help": "compile the programs that come with the package again, and compare"}
    )
    write_to: str | None = field(default=None, metadata={"help": "folder to write them to, if they should be replaced"})

    def __post_init__(self) -> None:
        if self.write_to is not None and not self.artefacts:
            raise ValueError(f"write_to: {self.write_to}, but only --artefacts true writes there")


def check_artefacts(write_to: str | None) -> None:
    """Compile every artefact again.

    Raises:
        ValueError: one of them differs from what tracr compiles here.
    """
    differing = []
    for name, program in ARTEFACTS.items():
        content = artefact_bytes(*compile_program(program))
        if write_to is not None:
            Path(write_to).mkdir(parents=True, exist_ok=True)
            with replacing(Path(write_to) / artefact_path(name).name) as working:
                working.write_bytes(content)
        same = artefact_path(name).is_file() and artefact_bytes(*load_artefact(name)) == content
        print(f"{name}: {'the same' if same else 'differs'}", flush=True)
        if not same and write_to is None:
            differing.append(name)
    if differing:
        raise ValueError(f"artefacts: {', '.join(differing)} differ from what tracr compiles here")


def main(argv: list[str] | None = None) -> None:
    """Parse, compile or find, save, say where."""
    with clean_exit():
        task_name = peek_setting("task", default="counter", argv=argv)
        kind = TASKS.get(task_name, object)
        if not issubclass(kind, LettersConfig):
            able = [name for name, known in TASKS.items() if issubclass(known, LettersConfig)]
            raise ConfigError(f"task: {task_name!r}, expected one of {', '.join(able)}")
        asked, config, task = parse_config(ArtefactConfig, CompileConfig, kind, argv=argv, description=__doc__)
        if asked.artefacts:
            check_artefacts(asked.write_to)
        else:
            print_run(start_compiled(config, task))


if __name__ == "__main__":
    main()
