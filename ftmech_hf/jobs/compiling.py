"""Where the Tracr experiments start: a compiled program with noise on its weights, as a run like any other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from ftmech_hf.config import tell
from ftmech_hf.jobs.card import write_model_card
from ftmech_hf.jobs.job import JobConfig, check_positive, job
from ftmech_hf.jobs.trained_model import note_floors
from ftmech_hf.models import compiled, compiled_config
from ftmech_hf.models.compiled import CompiledModel
from ftmech_hf.models.conversion import load_program
from ftmech_hf.models.loading import quiet_transformers
from ftmech_hf.models.tokenization import build_tokenizer, save_tokenizer
from ftmech_hf.runs import RunDir, disk_errors, write_json
from ftmech_hf.tasks import RowStream, build_dataset
from ftmech_hf.tasks.letters import LettersConfig
from ftmech_hf.training.evaluation import answer_accuracy
from ftmech_hf.training.loop import Progress


@dataclass(frozen=True, kw_only=True)
class CompileConfig(JobConfig):
    """Which noise a compiled program gets, and where it goes."""

    task: str = field(default="counter", metadata={"help": "counter or max_identifier"})
    noise: float = field(
        default=1e-4, metadata={"help": "standard deviation of the Gaussian noise added to every weight; 0 for none"}
    )
    final_eval_rows: int = field(default=512, metadata={"help": "rows per test set"})
    with_code: bool = field(
        default=False,
        metadata={
            "manner": True,
            "help": "put the model's code beside its weights, for who loads it with trust_remote_code=True",
        },
    )
    output_dir: str = field(default="runs/compiled", metadata={"place": "output", "help": "the run's folder"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.noise < float("inf"):
            raise ValueError(f"noise: {self.noise}, expected 0 or more")
        check_positive(self, "final_eval_rows")


def add_noise(model: PreTrainedModel, deviation: float, seed: int | Sequence[int]) -> None:
    """Add Gaussian noise to every weight in place (Jain et al., App. C.1, to make sparse weights trainable).

    The paper adds N(0, 0.001) "without loss of accuracy". With tracr's default exactness that cannot be: a standard
    deviation of 0.001 takes the counter from 100 % to about 10, a variance of 0.001 to 0, and 0.0001, our default, is
    the largest power of ten that leaves both programs as they were.
    """
    rng = np.random.Generator(np.random.Philox(seed if isinstance(seed, int) else np.random.SeedSequence(list(seed))))
    with torch.no_grad():
        for parameter in model.parameters():
            noise = rng.normal(0.0, 1.0, tuple(parameter.shape)) * deviation
            parameter.add_(torch.from_numpy(noise).to(parameter.dtype))


def save_compiled(model: CompiledModel, vocabulary: tuple[str, ...], folder: Path, *, with_code: bool = False) -> None:
    """Save weights (safetensors), config and tokenizer, as every model here.

    Args:
        model: a compiled program, fine-tuned or not.
        vocabulary: its words.
        folder: made if need be.
        with_code: put the model's code beside its weights, so that ``AutoModel.from_pretrained(...,
            trust_remote_code=True)`` loads it where ftmech_hf is not installed. Who loads it so runs that code.
    """
    with quiet_transformers(), disk_errors(folder):
        model.save_pretrained(folder)
        save_tokenizer(build_tokenizer(vocabulary), folder)
    if with_code:
        for source in (Path(str(module.__file__)) for module in (compiled, compiled_config)):
            shutil.copyfile(source, folder / source.name)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config["auto_map"] = {"AutoConfig": "compiled_config.CompiledConfig"}
        for auto in ("AutoModel", "AutoModelForCausalLM", "AutoModelForTokenClassification"):
            config["auto_map"][auto] = "compiled.CompiledModel"
        write_json(folder / "config.json", config)


def start_compiled(config: CompileConfig, task: LettersConfig, *, progress: Progress | None = None) -> RunDir:
    """Save the program that answers about ``task.operand``, with noise, and how well it answers."""
    with job("compile", config, task) as run:
        if run.finished:
            if config.with_code and not (run.path / Path(str(compiled.__file__)).name).is_file():
                tell(f"with_code: {run.path} was made without the model's code; --fresh puts it there")
            return run
        model, vocabulary = load_program(task.program(task.operand))
        assert vocabulary == task.vocabulary
        add_noise(model, config.noise, config.seed)
        tests = {name: RowStream(each, seed=config.seed, split="test") for name, each in task.test_tasks().items()}
        accuracy = {
            f"accuracy/{name}": answer_accuracy(
                model, torch.from_numpy(stream.rows(0, config.final_eval_rows).token_ids)
            )
            for name, stream in tests.items()
        }
        run.truncate_log(-1)
        run.log({"step": 0, "eval_rows": config.final_eval_rows, **accuracy})
        note_floors(run, tests)
        save_compiled(model, vocabulary, run.working, with_code=config.with_code)
        run.note(parameters=model.num_parameters(), architecture="CompiledModel")
        write_model_card(
            run.working,
            what="A RASP program compiled by tracr: its mechanism is known exactly.",
            example=build_dataset(task, "test", 1, seed=config.seed)[0],
        )
        run.finish()
    if progress is not None:
        progress(1, 1, "")
    return run
