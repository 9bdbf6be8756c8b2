from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from ftmech_hf.jobs.asking import AskConfig, ask
from ftmech_hf.models.loading import load_tokenizer
from ftmech_hf.models.tokenization import task_tokenizer
from ftmech_hf.runs import FinishedRun
from ftmech_hf.studies.continual.texts import (
    AnswersConfig,
    TextsConfig,
    TextsPlan,
    dataset_labels,
    matrix_rows,
    measure_answers,
)
from ftmech_hf.tasks import PcfgConfig, RowStream
from ftmech_hf.training.adapters import AdapterConfig
from recipes import continual_texts
from recipes.readme import continual as continual_block
from tests.conftest import make_gpt2


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny model, and two data sets in its words: answers are the last word of the prompt, or the first."""
    folder = tmp_path_factory.mktemp("texts")
    tokenizer = task_tokenizer(PcfgConfig())
    make_gpt2(len(tokenizer)).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    words = [word for word in PcfgConfig().vocabulary if word.isalnum()][:16]
    for name, place in (("last", -1), ("first", 0)):
        (folder / name).mkdir()
        for number, split in enumerate(("train", "validation", "test")):
            rows = [
                {"prompt": f"{one} {two}", "answer": (one, two)[place]}
                for first, one in enumerate(words) for second, two in enumerate(words) if (first + second) % 3 == number
            ]  # fmt: skip
            (folder / name / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return {name: folder / name for name in ("base", "last", "first")}


def flags(places: dict[str, Path]) -> list[str]:
    return ["--base", str(places["base"]), "--datasets", str(places["last"]), str(places["first"])]


def test_methods_are_chains_that_differ_in_what_each_adds(places: dict[str, Path], tmp_path: Path) -> None:
    names = [str(places[name]) for name in ("last", "first")]
    plan = TextsPlan(TextsConfig(base=str(places["base"]), datasets=names, output_dir=str(tmp_path)))
    second = {method: plan.called_with(plan.asked[0, method, 2].removeprefix("asked-").removesuffix("-seed0"))
              for method in plan.config.methods}  # fmt: skip
    for method, called in second.items():
        assert called["task"].dataset == names[1]
        assert called["adapter"] == AdapterConfig(adapter="lora")
        assert called["config"].model != str(places["base"])  # goes on from the first
        train = called["train"]
        added = {"olora": train.olora, "replay": train.replay_share, "ldifs-base": train.ldifs}
        assert {name for name, value in added.items() if value} == {method} - {"lora"}
    assert second["ldifs-base"]["config"].anchor_model == str(places["base"])
    first = {method: plan.called_with(plan.asked[0, method, 1].removeprefix("asked-").removesuffix("-seed0"))["train"]
             for method in plan.config.methods}  # fmt: skip
    for train in [*first.values(), *(called["train"] for called in second.values())]:  # nothing else differs
        what = {"keep_rows": 0, "replay_share": 0.0, "ldifs": 0.0, "olora": 0.0}
        assert replace(train, **what) == replace(first["lora"], **what)
    # all the rows that there are are kept, 86 and 85 of the two tables, where they are fewer than are asked for
    assert (first["replay"].keep_rows, second["replay"]["train"].keep_rows) == (86, 86)
    few = TextsConfig(base=str(places["base"]), datasets=names, output_dir=str(tmp_path), steps=2, buffer_rows=20)
    kept = [
        each["train"].keep_rows
        for each in map(TextsPlan(few).called_with, ("replay-1-last-seed0", "replay-2-first-seed0"))
    ]
    assert kept == [16, 16]  # two steps of eight
    for asked in plan.asked.values():  # everybody is asked everything
        assert plan.called_with(asked)["config"].datasets == names


@pytest.mark.parametrize("seed", [0, 1])
def test_no_seed_asks_what_was_trained_on(places: dict[str, Path], tmp_path: Path, seed: int) -> None:
    """Of a file without a test split, which is cut twice: by the training, and by who asks."""
    words = [word for word in PcfgConfig().vocabulary if word.isalnum()][:20]
    rows = [{"prompt": f"{one} {two}", "answer": f" {two}"} for one in words for two in words]
    file = tmp_path / "whole.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    names = [str(file), str(places["first"])]
    plan = TextsPlan(TextsConfig(base=str(places["base"]), datasets=names, seeds=[seed], output_dir=str(tmp_path)))
    tokenizer = load_tokenizer(str(places["base"]))
    task = plan.called_with(f"lora-1-whole.jsonl-seed{seed}")["task"].in_tokens_of(tokenizer)
    trained = {
        tuple(row[:2]) for row in RowStream(task, seed=seed, split="train").rows(0, task.num_rows("train")).token_ids
    }
    asked = ask(AskConfig(dataset=str(file)), [str(places["base"])], seed=seed, train_rows=64, test_rows=256)
    shown, _ = asked.test.prompts()
    assert len(trained) == 240
    assert len(shown) == 80
    assert not trained & {tuple(row[-2:]) for row in shown.tolist()}


def test_answers_to_rows_that_belong_together_are_less_sure(places: dict[str, Path], tmp_path: Path) -> None:
    """Of rows about eight things an interval is that of about as many."""
    (tmp_path / "grouped").mkdir()
    for split in ("train", "validation", "test"):
        rows = [json.loads(line) for line in (places["last"] / f"{split}.jsonl").read_text("utf-8").splitlines()]
        grouped = [{**row, "group": f"{split} {row['answer'] > 'e'}{number % 4}"} for number, row in enumerate(rows)]
        (tmp_path / "grouped" / f"{split}.jsonl").write_text("\n".join(map(json.dumps, grouped)), encoding="utf-8")
    datasets = [str(places["last"]), str(tmp_path / "grouped")]
    config = AnswersConfig(model=str(places["base"]), datasets=datasets, output_dir=str(tmp_path / "run"))
    alone, together = FinishedRun(measure_answers(config).path).table.to_dict("records")
    assert together["value"] == alone["value"]
    assert together["rows"] == alone["rows"]
    assert together["high"] - together["low"] > 1.5 * (alone["high"] - alone["low"])


def test_data_sets_of_one_name_are_told_apart_by_their_folders() -> None:
    assert dataset_labels(["a/x/test", "b/x/test", "other"]) == ["a/x/test", "b/x/test", "other"]
    assert dataset_labels(["test", "b/test", "user/name"]) == ["test", "b/test", "name"]
    for kind in (lambda names: TextsConfig(base="m", datasets=names), lambda names: AnswersConfig(datasets=names)):
        with pytest.raises(ValueError, match="datasets: a stands there twice, expected each once"):
            kind(["a", "b", "a"])


@pytest.mark.parametrize("wrong", [{"datasets": ["one"]}, {"methods": ["ewc"]}, {"base": ""}, {"rows": 0}])
def test_bad_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected"):
        TextsConfig(**{"base": "m", "datasets": ["a", "b"], **wrong})  # type: ignore[arg-type]


def test_a_data_set_that_cannot_be_asked_is_named_before_the_first_is_learned(
    places: dict[str, Path], tmp_path: Path
) -> None:
    words = [word for word in PcfgConfig().vocabulary if word.isalnum()][:16]
    whole = [{"prompt": f"{one} {two}", "answer": f" {two}"} for one in words for two in words]
    for name, rows, told in (
        ("few", whole[:40], r"few.jsonl has \d+ train rows of its own, expected at least 32"),
        ("texts", [{"text": row["prompt"]} for row in whole], "texts.* has no column 'prompt'"),
        ("empty", [{**row, "answer": ""} for row in whole], "empty.*answer"),
        ("long", [*whole, {"prompt": " ".join(words * 9), "answer": " a"}], "long.*positions"),
    ):
        file = tmp_path / f"{name}.jsonl"
        file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        config = TextsConfig(
            base=str(places["base"]), datasets=[str(places["last"]), str(file)], methods=["lora"],
            output_dir=str(tmp_path / "out"),
        )  # fmt: skip
        with pytest.raises(ValueError, match=told):
            TextsPlan(config)
    for wrong, told in (
        ({"buffer_rows": 0}, "buffer_rows: 0, expected at least 1"),
        ({"task_lr": 0.0}, "task_lr: 0.0"),
    ):
        with pytest.raises(ValueError, match=told):
            TextsConfig(base="m", datasets=["a", "b"], **wrong)  # type: ignore[arg-type]


def test_a_line_is_a_model_and_a_column_what_it_is_asked() -> None:
    rows = [
        {"seed": 0, "method": method, "after_task": after, "capability": name, "value": value, "low": value - 0.1,
         "high": value + 0.1, "floor": 0.2}
        for method, after, values in (("base", 0, (0.5, 0.6)), ("lora", 1, (0.9, 0.3)))
        for name, value in zip(("a", "b"), values, strict=True)
    ]  # fmt: skip
    assert matrix_rows(pd.DataFrame(rows)) == [
        ["method", "after task", "a", "b"], ["one answer for all", "", "20", "20"],
        ["base", "0", "50 (40 to 60)", "60 (50 to 70)"], ["lora", "1", "90 (80 to 100)", "30 (20 to 40)"],
    ]  # fmt: skip
    two = pd.DataFrame([*rows, *({**row, "seed": 1, "value": row["value"] - 0.2} for row in rows)])
    assert matrix_rows(two)[2] == ["base", "0", "40", "50"]  # rows say nothing of other seeds


@pytest.mark.slow
def test_the_example_as_a_user_runs_it(places: dict[str, Path], tmp_path: Path) -> None:
    more = ["--steps", "2", "--rows", "32", "--workers", "1", "--output_dir", str(tmp_path)]
    continual_texts.main([*flags(places), *more])
    matrix = pd.read_parquet(tmp_path / "matrix.parquet")
    assert len(matrix) == 2 * (1 + 2 * 4)
    assert set(matrix["capability"]) == {"last", "first"}
    assert ((matrix["low"] <= matrix["value"]) & (matrix["value"] <= matrix["high"])).all()
    page, rows = (tmp_path / "report.html").read_text(), matrix_rows(matrix)
    assert page.count('<th scope="row">') == 1 + 9
    assert all(f">{cell}<" in page for row in rows for cell in row if cell)
    block = continual_block.texts_block(tmp_path)
    assert all(f"| {' | '.join(row)} |" in block for row in rows)
    answered = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert list(answered) == ["lora", "olora", "replay", "ldifs-base"]
    assert all(set(each) == {"last", "first"} for each in answered.values())
