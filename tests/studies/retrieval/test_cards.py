"""Cards of models of the library: what they are, where they are from, and a command that works."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest
import yaml

from ftmech_hf.hub import PublishConfig, publish, save
from ftmech_hf.jobs.card import check_card
from ftmech_hf.jobs.training import FinetuneConfig, PretrainConfig, finetune, pretrain
from ftmech_hf.tasks import LibraryConfig
from ftmech_hf.training.settings import TrainConfig

FEW = {"steps": 2, "batch_size": 4, "num_evals": 1, "eval_rows": 8, "final_eval_rows": 8, "mixed_precision": "no"}
SMALL = {"task": "library", "preset": "nano-library", "n_layer": 2, "n_embd": 16, "n_head": 2}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A base of two steps, and what it was tuned into in two more."""
    runs = tmp_path_factory.mktemp("runs")
    place = PretrainConfig(**SMALL, output_dir=str(runs / "base"))  # type: ignore[arg-type]
    base = pretrain(place, LibraryConfig(), TrainConfig(**FEW)).path  # type: ignore[arg-type]
    task = LibraryConfig(mixture="questions", people="trained", asked=["one", "several"], pairs=200,
                         pretraining_share=0.25)  # fmt: skip
    made = finetune(
        FinetuneConfig(task="library", model=str(base), output_dir=str(runs / "tuned")), task,
        TrainConfig(**FEW, objective="answer_only"),  # type: ignore[arg-type]
    )  # fmt: skip
    return base, made.path


def test_cards_say_what_the_models_read_and_nothing_of_another_task(models: tuple[Path, Path], tmp_path: Path) -> None:
    for path, told in zip(
        models,
        ("Its rows show documents about people",
         "Taught: 200 questions (one, several) about the trained people of the world `domain`, beside documents: none; "
         "answers: full; 25 % of the rows are of pretraining."),
        strict=True,
    ):  # fmt: skip
        folder = save(path, tmp_path / path.name, f"someone/{path.name}")["main"]
        card = (folder / "README.md").read_text()
        check_card(card, "model")
        assert told in card
        assert "The question is that of Barnett et al." in card
        assert "arxiv:2406.11201" in card
        assert "the task is of this project" in card
        assert "It reads the library task's words" in card
        assert not re.search("2311.12786|count_a|_cte0|unsafe|Jain", card)
        (example,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            exec(example.replace(f"someone/{path.name}", str(folder)), {})
        assert len(said.getvalue().split()) == 1


def test_a_dry_run_writes_what_would_be_published(models: tuple[Path, Path], tmp_path: Path) -> None:
    publish(PublishConfig(run=str(models[1]), repo_id="someone/tuned", dry_run=True, output_dir=str(tmp_path / "out")))
    (written,) = tmp_path.rglob("model.safetensors")
    assert "Taught: 200 questions" in (written.parent / "README.md").read_text()
    assert yaml.safe_load((written.parent / "config.yaml").read_text())["task"] == "library"
