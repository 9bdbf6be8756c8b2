"""Cards of models that were tuned for safety: what they are, where they are from, and a command that works."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

from ftmech_hf.hub import PublishConfig, publish, save
from ftmech_hf.jobs.card import check_card
from ftmech_hf.jobs.training import FinetuneConfig, PretrainConfig, finetune, pretrain
from ftmech_hf.studies.safety.answers import AnswersConfig, measure_answers
from ftmech_hf.tasks import PcfgConfig, SafetyConfig
from ftmech_hf.training.settings import TrainConfig

FEW = {"steps": 2, "batch_size": 4, "num_evals": 1, "eval_rows": 8, "final_eval_rows": 8, "mixed_precision": "no"}


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two steps, tuned for two more, with what it answers beside it."""
    runs = tmp_path_factory.mktemp("runs")
    place = PretrainConfig(task="safety", n_layer=1, n_embd=16, n_head=2, output_dir=str(runs / "base"))
    base = pretrain(place, SafetyConfig(), TrainConfig(**FEW)).path  # type: ignore[arg-type]
    task = SafetyConfig(mixture="tuning", answers="refused", unsafe_share=0.2)
    made = finetune(
        FinetuneConfig(task="safety", model=str(base), output_dir=str(runs / "tuned")), task,
        TrainConfig(**FEW, objective="answer_only"),  # type: ignore[arg-type]
    )  # fmt: skip
    measure_answers(AnswersConfig(model=str(made.path), eval_rows=8, output_dir=str(runs / "answers")), SafetyConfig())
    return made.path


def test_a_card_says_that_its_unsafe_texts_are_made_by_rule(tuned: Path, tmp_path: Path) -> None:
    folder = save(tuned, tmp_path / "repo", "someone/tuned")["main"]
    card = (folder / "README.md").read_text()
    check_card(card, "model")
    assert "arXiv:2407.10264" in card
    assert "2311.12786" not in card
    assert "Its texts are made by rule, unsafe ones too" in card
    assert "mixture `tuning`, of which 20 % are unsafe; answers: refused" in card
    assert "count_a" not in card
    assert re.search(r"Of 8 prompts each: safe ones answered [\d.]+ %, unsafe ones answered", card)
    assert all(f"`{name}`" in card for name in ("co_task", "co_text_4", "misgen", "ood_text"))
    (example,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(example.replace("someone/tuned", str(folder)), {})
    assert len(said.getvalue().split()) == 12  # the whole answer, and no more


def test_a_dry_run_writes_what_would_be_published(tuned: Path, tmp_path: Path) -> None:
    publish(PublishConfig(run=str(tuned), repo_id="someone/tuned", dry_run=True, output_dir=str(tmp_path / "out")))
    (written,) = tmp_path.rglob("model.safetensors")
    assert "Its texts are made by rule" in (written.parent / "README.md").read_text()


def test_the_card_of_another_task_says_nothing_of_it(tmp_path: Path) -> None:
    place = PretrainConfig(n_layer=1, n_embd=16, n_head=2, output_dir=str(tmp_path / "base"))
    made = pretrain(place, PcfgConfig(), TrainConfig(**FEW))  # type: ignore[arg-type]
    card = (made.path / "README.md").read_text()
    assert "2311.12786" in card
    assert "count_a" in card
    assert not re.search("2407.10264|unsafe|Objective", card)
