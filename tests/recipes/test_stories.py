"""Training on stories as users run it: pretrain, delete, revive, with and without an adapter, publish, reload."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from ftmech_hf.config.notices import Notice
from ftmech_hf.jobs.write_stories import learned_from
from ftmech_hf.models.loading import load_model
from ftmech_hf.models.merging import quiet_peft
from ftmech_hf.runs import FinishedRun, damaged_files, read_metrics
from ftmech_hf.studies.sweep.figures import draw_figure
from ftmech_hf.studies.sweep.results import last_numbers, stage_rows, summarise
from ftmech_hf.studies.sweep.sections import FigureConfig
from ftmech_hf.tasks import RowStream, StoriesConfig
from ftmech_hf.training.evaluation import documents_mean_loss
from recipes import finetune, make_dataset, pretrain, publish, reverse_finetune, write_stories
from tests.recipes.conftest import CONFIGS, SMALL, TINY
from tests.tasks.stories.files import write_raw

LITTLE = [
    "--vocab_size",
    "300",
    "--row_tokens",
    "64",
    "--relations",
    "1",
    "--eval_rows",
    "8",
    "--final_eval_rows",
    "16",
]
TASK = StoriesConfig(vocab_size=300, row_tokens=64, relations=1, animals_apart=True)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stories")

    def argv(recipe: str, name: str, *more: str) -> list[str]:
        config = CONFIGS / "nano" / f"stories_{recipe}.yaml"
        return ["--config", str(config), *TINY, *LITTLE, "--output_dir", str(folder / name), *more]

    pretrain.main(argv("pretrain", "base", *SMALL, "--snapshots", "6"))
    finetune.main(argv("finetune", "deleted", "--model", str(folder / "base"), "--claim", "1.0"))
    reverse = argv("reverse_finetune", "revived", "--model", str(folder / "deleted"), "--eval_at", "2", "4")
    reverse_finetune.main(reverse)
    lora = ["--adapter=lora", "--lora_rank=2", "--lr=1e-3"]
    finetune.main(argv("finetune", "lora", "--model", str(folder / "base"), *lora))
    reverse_finetune.main(
        argv("reverse_finetune", "lora-revived", "--model", str(folder / "lora"), *lora, "--eval_at", "2")
    )
    return folder


@pytest.mark.parametrize("name", ["base", "deleted", "revived", "lora", "lora-revived"])
def test_every_run_is_whole_and_judged_by_its_losses(runs: Path, name: str) -> None:
    assert damaged_files(runs / name) == []
    last = read_metrics(runs / name)[-1]
    assert [key for key in last if "/" in key] == ["loss/all", "loss/Twist", "loss/no_Twist", "loss/held_out"]
    env = json.loads((runs / name / "env.json").read_text())
    card = (runs / name / "README.md").read_text()
    for test, loss in ((key.removeprefix("loss/"), last[key]) for key in last if "/" in key):
        assert f"| `{test}` | {loss:.4f} | {loss / env['bytes_per_token'][test]:.4f} |" in card
    assert "accuracy" not in card
    assert yaml.safe_load(card.split("---")[1])["metrics"] == ["loss"]
    assert "loss/Twist" in pd.read_parquet(runs / name / "table.parquet").columns


def test_the_loss_of_a_run_is_that_of_its_reloaded_model(runs: Path) -> None:
    for name in ("base", "lora"):
        rows = torch.from_numpy(RowStream(TASK, seed=0, split="test").rows(0, 16).token_ids)
        assert documents_mean_loss(load_model(str(runs / name)), rows) == pytest.approx(
            read_metrics(runs / name)[-1]["loss/all"], abs=0.02
        )  # training may have been in bf16


def test_a_checkpoint_reloads_with_its_tokenizer_and_writes_on(runs: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(runs / "base")
    tokenizer = AutoTokenizer.from_pretrained(runs / "base")
    document = TASK.document(0, "test", 0)
    batch = tokenizer("<bos>" + document.prompt, return_tensors="pt", return_token_type_ids=False)
    assert TASK.encode(document)[: batch["input_ids"].shape[1]] == batch["input_ids"][0].tolist()
    written = model.generate(**batch, max_new_tokens=5, do_sample=False, use_cache=True)
    assert written.shape[1] == batch["input_ids"].shape[1] + 5
    assert tokenizer.padding_side == "left"
    assert AutoTokenizer.from_pretrained(runs / "base" / "snapshots" / "step-6").get_vocab() == tokenizer.get_vocab()


def test_an_adapter_is_put_on_its_base(runs: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(runs / "base")
    with quiet_peft():
        adapted = PeftModel.from_pretrained(base, runs / "lora").merge_and_unload()
    merged = load_model(str(runs / "lora"))
    ids = torch.tensor([TASK.encode(TASK.document(0, "test", 1))[:40]])
    assert torch.allclose(adapted(ids).logits, merged(ids).logits, atol=1e-5)
    assert not torch.allclose(load_model(str(runs / "base"))(ids).logits, merged(ids).logits, atol=1e-5)


def test_a_model_writes_stories_and_its_loss_is_that_of_training(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--number=3", "--max_new_tokens=6", "--loss_rows=16"]
    argv = ["--model", str(runs / "base"), *few, "--output_dir", str(tmp_path / "written")]
    with pytest.warns(
        Notice, match="base learned from stories with relations 1, animals_apart true, vocab_size 300, row_tokens 64"
    ):
        write_stories.main(argv)
    table = pd.read_parquet(tmp_path / "written" / "table.parquet")
    assert table["prompt"].tolist() == [TASK.document(0, "test", number).prompt for number in range(3)]
    assert table["text"].str.len().min() > 0
    found = json.loads((tmp_path / "written" / "summary.json").read_text())
    assert found["nats_per_token"] == pytest.approx(read_metrics(runs / "base")[-1]["loss/all"], abs=0.02)
    shown = capsys.readouterr().out
    assert f"{found['nats_per_byte']:.4f} nats per byte" in " ".join(shown.split())
    assert all(prompt.strip() in shown for prompt in table["prompt"])


def test_stories_are_those_that_a_run_learned_from_but_for_what_is_said(runs: Path, tmp_path: Path) -> None:
    base = str(runs / "base")
    with pytest.warns(Notice, match="with relations 1, animals_apart true, vocab_size 300, which"):
        assert learned_from(["--model", base, "--row_tokens=32"]) == [
            "--relations", "1", "--animals_apart", "true", "--vocab_size", "300"
        ]  # fmt: skip
    settings = {"task": "stories", "animals_apart": True, "files": ["a.txt", "b.txt"], "without": "Twist"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    with pytest.warns(Notice):
        found = learned_from([f"--model={tmp_path}"])
    assert found == ["--files", "a.txt", "b.txt"], "not what was left out, nor what files say nothing of"
    with pytest.warns(Notice, match="with vocab_size 300, which are taken"):
        assert learned_from(["--model", base, "--files", "a.txt", "--row_tokens", "32"]) == ["--vocab_size", "300"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"task": "pcfg", "row_tokens": 7}))
    assert learned_from(["--model", str(tmp_path)]) == learned_from(["--model", "someone/model"]) == []
    assert learned_from([]) == []


@pytest.mark.parametrize(("name", "base"), [("base", None), ("deleted", "me/base"), ("lora", "me/base")])
def test_what_would_be_published_says_what_changed(runs: Path, tmp_path: Path, name: str, base: str | None) -> None:
    argv = ["--run", str(runs / name), "--repo_id", f"me/{name}", "--dry_run", "--output_dir", str(tmp_path / "out")]
    publish.main([*argv, *(["--base_model", base] if base else [])])
    main = tmp_path / "out" / "main"
    card = (main / "README.md").read_text()
    assert "nats per byte" in card
    assert (main / "training_curve.png").stat().st_size > 5000
    if base:
        assert "loss on `Twist` " in card
    else:
        assert "nats per byte" in (tmp_path / "out" / "step-6" / "README.md").read_text()
        AutoModelForCausalLM.from_pretrained(main)


def test_real_stories_train_and_a_changed_file_is_another_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = write_raw(tmp_path / "raw.txt", 150)
    argv = ["--config", str(CONFIGS / "micro" / "stories_pretrain.yaml"), *TINY, *SMALL, *LITTLE,
            "--files", str(raw), "--output_dir", str(tmp_path / "run"), "--steps", "2"]  # fmt: skip
    pretrain.main(argv)
    env = json.loads((tmp_path / "run" / "env.json").read_text())
    assert [*env["inputs"]] == ["files/0"]
    pretrain.main(argv)  # found again
    write_raw(raw, 151)
    with pytest.raises(SystemExit):
        pretrain.main(argv)
    assert "output_dir" in capsys.readouterr().err


def test_the_paper_scale_dry_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its config as it is, but for the model's size and the length of rows, which would take minutes here."""
    argv = ["--config", str(CONFIGS / "paper" / "stories_pretrain.yaml"), *SMALL, *LITTLE, "--max_steps", "2",
            "--batch_size", "8", "--output_dir", str(tmp_path / "paper")]  # fmt: skip
    pretrain.main(argv)
    assert "all 30,000 would take" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "objective: next_token does not suit the rows of task stories: documents"),
        (["--objective", "documents", "--files", "nowhere.txt"], "files: there is no nowhere.txt"),
        (["--objective", "documents", "--row_tokens", "512"], "n_positions: 256 of preset 'nano-stories' are too few"),
    ],
)
def test_bad_settings_are_named(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        pretrain.main(["--task", "stories", "--preset", "nano-stories", *argv])
    assert message in capsys.readouterr().err


def test_a_sweep_gathers_and_draws_losses(runs: Path) -> None:
    rows = []
    for stage, name in (("pretrain", "base"), ("finetune", "deleted"), ("reverse", "revived")):
        found = stage_rows(stage, FinishedRun(runs / name))
        assert {row["metric"] for row in found} == {"loss/all", "loss/Twist", "loss/no_Twist", "loss/held_out"}
        rows += [{"method": "F", "seed": seed, "stage": stage, **row} for row in found for seed in (0, 1)]
    summary = summarise(pd.DataFrame(rows), ["method"])
    last = last_numbers(summary, {"finetune": ["method"]})["finetune"]
    expected = read_metrics(runs / "deleted")[-1]["loss/Twist"]
    assert last["loss/Twist"].tolist() == [f"{expected:.4f}"], "two that are the same say nothing of a third"
    figure = draw_figure(summary, ["method"], FigureConfig(title="Loss", metrics=["loss/Twist"], color="method"))
    assert figure.axes[0].get_ylabel() == "loss (nats per token)"
    assert figure.axes[0].get_ylim()[0] > 1.03


def test_stories_and_answers_do_not_mix(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        pretrain.main(["--objective", "documents"])
    assert "objective: documents does not suit the rows of task pcfg: next_token or answer_only" in (
        capsys.readouterr().err
    )


def test_packed_rows_are_no_dataset(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        make_dataset.main(["--task", "stories"])
    assert "recipes/make_stories.py" in capsys.readouterr().err
