"""Any causal LM is fine-tuned on any text: models as others publish them, from end to end."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, PreTrainedModel

from ftmech_hf.config.notices import Notice
from ftmech_hf.jobs.card import check_card
from ftmech_hf.jobs.training import FinetuneConfig, finetune
from ftmech_hf.models.loading import load_model, load_tokenizer
from ftmech_hf.runs import FinishedRun, damaged_files, read_metrics
from ftmech_hf.tasks import RowStream, TextConfig
from ftmech_hf.tasks.text.identity import dataset_hash
from ftmech_hf.training.adapters import AdapterConfig
from ftmech_hf.training.memory import recompute_blocks
from ftmech_hf.training.objectives import Preference
from ftmech_hf.training.settings import TrainConfig
from recipes import diagnose, probe, prune, publish
from recipes import finetune as finetune_recipe
from recipes import reverse_finetune as reverse_recipe
from tests.foreign import chats, pairs, save_gpt2, save_llama, sums, write_rows

TRAIN = TrainConfig(
    steps=6, batch_size=8, objective="answer_only", optimizer="adamw", lr=3e-3, mixed_precision="no", num_evals=2,
    eval_rows=16, final_eval_rows=64, checkpoint_every=2,
)  # fmt: skip


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("foreign")
    return {
        "gpt2": str(save_gpt2(root / "gpt2")),
        "llama": str(save_llama(root / "llama")),
        "sums": write_rows(root / "sums.jsonl", sums()),
        "chats": write_rows(root / "chats.jsonl", chats()),
        "pairs": write_rows(root / "pairs.jsonl", pairs()),
    }


def tuned(
    foreign: dict[str, str],
    folder: Path,
    model: str,
    rows: str,
    train: TrainConfig = TRAIN,
    *,
    stop_at: int | None = None,
    **more: Any,
) -> FinishedRun:
    def progress(step: int, steps: int, text: str) -> None:
        if step == stop_at:
            raise Killed

    config = FinetuneConfig(task="text", model=foreign.get(model, model), output_dir=str(folder))
    finetune(config, TextConfig(dataset=foreign[rows]), train, progress=progress, **more)
    return FinishedRun(folder)


@pytest.mark.parametrize("adapter", ["none", "lora"])
@pytest.mark.parametrize(("model", "rows"), [("gpt2", "sums"), ("llama", "chats")])
def test_a_foreign_model_is_tuned_and_loads_with_its_own_tokenizer(
    tmp_path: Path, foreign: dict[str, str], model: str, rows: str, adapter: Any
) -> None:
    lora = AdapterConfig(adapter=adapter, **({} if adapter == "none" else {"lora_rank": 4}))
    train = dataclasses.replace(TRAIN, steps=40, lr=2e-2 if adapter == "lora" else 5e-3)
    run = tuned(foreign, tmp_path / "run", model, rows, train, adapter=lora)
    assert damaged_files(run.path) == []
    assert run.env["inputs"]["dataset"] == dataset_hash(foreign[rows])
    losses = [line["loss/all"] for line in run.metrics]
    assert losses[-1] < losses[0] - (0.1 if adapter == "lora" else 0.5)
    assert ("accuracy/all" in run.metrics[-1]) == (rows == "sums")
    assert {name for name, _ in run.floors} == ({"all"} if rows == "sums" else set())
    number = run.metrics[-1]["eval_rows"]
    assert number < TRAIN.final_eval_rows  # no more than there are
    in_tokens = TextConfig(dataset=foreign[rows]).in_tokens_of(AutoTokenizer.from_pretrained(foreign[model]))
    bytes_of = [
        in_tokens.bytes_per_token(RowStream(in_tokens, seed=0, split="test").rows(0, each))
        for each in (number, TRAIN.final_eval_rows)
    ]
    assert run.env["bytes_per_token"]["all"] == bytes_of[0] != bytes_of[1]  # of the rows that the loss is of
    loaded, theirs = AutoModelForCausalLM.from_pretrained(run.path), AutoTokenizer.from_pretrained(foreign[model])
    tokenizer = AutoTokenizer.from_pretrained(run.path)
    text = "what is 3 plus 4? it is 7"
    assert tokenizer(text)["input_ids"] == theirs(text)["input_ids"]
    assert tokenizer.chat_template == theirs.chat_template
    before = AutoModelForCausalLM.from_pretrained(foreign[model])
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    assert not torch.allclose(loaded(ids).logits, before(ids).logits, atol=1e-3)
    card = (run.path / "README.md").read_text()
    assert f"{losses[-1]:.4f}" in card
    assert "license: other" in card
    assert ("LoRA adapter" in card) == (adapter == "lora")


@pytest.mark.parametrize(("rows", "change"), [
    ("sums", {}), ("sums", {"l2sp": 0.1, "ldifs": 1.0, "gradient_accumulation_steps": 2}),
    ("pairs", {"objective": "preference"}), ("pairs", {"objective": "rmu"}),
])  # fmt: skip
def test_an_interrupted_run_ends_as_the_whole_one_bit_for_bit(
    tmp_path: Path, foreign: dict[str, str], rows: str, change: dict[str, Any]
) -> None:
    train = dataclasses.replace(TRAIN, **change)
    whole = tuned(foreign, tmp_path / "whole", "gpt2", rows, train)
    with pytest.raises(Killed):
        tuned(foreign, tmp_path / "cut", "gpt2", rows, train, stop_at=5)
    cut = tuned(foreign, tmp_path / "cut", "gpt2", rows, train)
    assert cut.metrics == whole.metrics
    weights = [load_file(each.path / "model.safetensors") for each in (whole, cut)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    other = tuned(foreign, tmp_path / "other", "gpt2", rows, dataclasses.replace(train, seed=1))
    assert other.metrics != whole.metrics


def test_an_adapter_on_a_foreign_model_goes_on_bit_for_bit_also_with_blocks_that_are_computed_again(
    tmp_path: Path, foreign: dict[str, str]
) -> None:
    lora = AdapterConfig(adapter="lora", lora_rank=4, lora_dropout=0.1)
    train = dataclasses.replace(TRAIN, gradient_accumulation_steps=2, lr=1e-2)
    again = dataclasses.replace(train, gradient_checkpointing=True)
    whole = tuned(foreign, tmp_path / "whole", "llama", "chats", train, adapter=lora)
    with pytest.raises(Killed):
        tuned(foreign, tmp_path / "cut", "llama", "chats", again, stop_at=5, adapter=lora)
    cut = tuned(foreign, tmp_path / "cut", "llama", "chats", again, adapter=lora)
    assert cut.metrics == whole.metrics
    weights = [load_file(each.path / "adapter_model.safetensors") for each in (whole, cut)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert any(weight.any() for name, weight in weights[0].items() if "lora_B" in name)
    assert cut.hash == whole.hash  # it is a manner of computing the same


def test_blocks_are_computed_again_only_where_that_is_asked_for(foreign: dict[str, str]) -> None:
    model = AutoModelForCausalLM.from_pretrained(foreign["llama"]).train()
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    model.model.layers[0].self_attn.register_forward_hook(count)
    found = []
    for wanted in (False, True, False):
        recompute_blocks(model, wanted)
        calls = 0
        model(input_ids=torch.tensor([[5, 6, 7]])).logits.sum().backward()
        found.append(calls)
    assert found == [1, 2, 1]


def test_a_model_that_cannot_compute_blocks_again_is_refused() -> None:
    class Plain(PreTrainedModel):
        config_class = LlamaConfig

    model = Plain(LlamaConfig())
    recompute_blocks(model, False)
    with pytest.raises(ValueError, match=r"gradient_checkpointing: .* does not offer it; gradient_accumulation_steps"):
        recompute_blocks(model, True)


def test_accumulated_parts_weigh_tokens_and_not_parts(tmp_path: Path, foreign: dict[str, str]) -> None:
    """Rows differ in length and answers too; the parts' means are not the whole's, but the weighted ones are."""
    losses = []
    for parts in (1, 4):
        train = dataclasses.replace(
            TRAIN, steps=2, optimizer="sgd", l2sp=0.5, ldifs=5.0, gradient_accumulation_steps=parts
        )
        run = tuned(foreign, tmp_path / str(parts), "llama", "chats", train)
        losses.append([line["loss"] for line in run.metrics if "loss" in line])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_preference_has_settings_of_its_own_which_make_another_run(tmp_path: Path, foreign: dict[str, str]) -> None:
    train = dataclasses.replace(TRAIN, objective="preference", steps=30)
    plain = tuned(foreign, tmp_path / "plain", "gpt2", "pairs", train)
    sharp = tuned(foreign, tmp_path / "sharp", "gpt2", "pairs", train, objective=Preference(beta=1.0))
    assert (plain.config["beta"], sharp.config["beta"]) == (0.1, 1.0)
    assert plain.hash != sharp.hash
    losses = [[line["loss"] for line in run.metrics if "loss" in line] for run in (plain, sharp)]
    assert losses[0][0] == pytest.approx(losses[1][0], abs=1e-5)  # log 2: the model is its own reference
    assert losses[1][-1] < losses[1][0] - 0.1
    assert "beta" not in tuned(foreign, tmp_path / "answers", "gpt2", "pairs").config
    with pytest.raises(ValueError, match=r"objective: answer_only, but the one given is Preference"):
        tuned(foreign, tmp_path / "wrong", "gpt2", "pairs", objective=Preference())


def test_a_run_says_that_ascent_came_to_its_end(tmp_path: Path, foreign: dict[str, str]) -> None:
    far = dataclasses.replace(TRAIN, objective="graddiff", steps=60, lr=3e-2)
    with pytest.warns(Notice, match=r"forget_weight: \d+% of the rejected answers of the last step cost 3 times"):
        run = tuned(foreign, tmp_path / "far", "gpt2", "pairs", far)
    assert run.env["warning"].startswith("forget_weight: ")
    near = tuned(foreign, tmp_path / "near", "gpt2", "pairs", dataclasses.replace(far, steps=2, lr=1e-4))
    assert "warning" not in near.env


@pytest.mark.parametrize(("rows", "objective", "expected"), [
    ("sums", "preference", "next_token or answer_only or own_answers"),
    (
        "pairs", "documents",
        "next_token or answer_only or own_answers or preference or unlearn or graddiff or npo or simnpo or rmu",
    ),
])  # fmt: skip
def test_an_objective_that_rows_cannot_serve_is_refused(
    tmp_path: Path, foreign: dict[str, str], rows: str, objective: str, expected: str
) -> None:
    train = dataclasses.replace(TRAIN, objective=objective)
    with pytest.raises(ValueError, match=f"objective: {objective} does not suit the rows of task text: {expected}$"):
        tuned(foreign, tmp_path / "run", "gpt2", rows, train)
    assert not list(tmp_path.iterdir())


def test_a_tokenizer_that_writes_what_its_model_does_not_know_is_named(tmp_path: Path, foreign: dict[str, str]) -> None:
    config = json.loads((Path(foreign["gpt2"]) / "config.json").read_text())
    folder = tmp_path / "small"
    AutoTokenizer.from_pretrained(foreign["gpt2"]).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 40}))
    (folder / "model.safetensors").write_bytes((Path(foreign["gpt2"]) / "model.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"model: .* knows 40 tokens, but its tokenizer writes '.+' as token \d+, exp"):
        tuned(foreign, tmp_path / "run", str(folder), "sums")


def test_padding_that_was_added_and_that_the_model_has_no_row_for_is_masked_by_another_token(
    tmp_path: Path, foreign: dict[str, str]
) -> None:
    folder = tmp_path / "padded"
    shutil.copytree(foreign["gpt2"], folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)
    model = load_model(str(folder))
    assert tokenizer.pad_token_id >= model.config.vocab_size
    padded, plain = (tuned(foreign, tmp_path / name, where, "sums")
                     for name, where in (("one", str(folder)), ("two", foreign["gpt2"])))  # fmt: skip
    one, two = (load_model(str(each.path)).state_dict() for each in (padded, plain))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert load_tokenizer(str(padded.path)).pad_token == "[PAD]"


FLAGS = ["--steps", "4", "--batch_size", "8", "--num_evals", "0", "--optimizer", "adamw"]


def test_recipes_tune_and_tune_back_with_a_model_and_a_data_set_alone(
    tmp_path: Path, foreign: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The task is said by the data set, the objective by the task; a run's config is one to go on with."""
    there, back = tmp_path / "there", tmp_path / "back"
    finetune_recipe.main(["--model", foreign["gpt2"], "--dataset", foreign["sums"], "--output_dir", str(there), *FLAGS])
    assert FinishedRun(there).config["objective"] == "answer_only"
    reverse_recipe.main(["--model", str(there), "--dataset", foreign["sums"], "--output_dir", str(back), *FLAGS])
    assert "not within 4 steps" in capsys.readouterr().out
    assert FinishedRun(back).env["kind"] == "reverse_finetune"
    again = tmp_path / "again"
    finetune_recipe.main(["--config", str(there / "config.yaml"), "--output_dir", str(again)])
    assert read_metrics(again) == read_metrics(there)
    assert FinishedRun(again).hash == FinishedRun(there).hash
    pushed = ["--model", foreign["gpt2"], "--dataset", foreign["pairs"], "--objective", "preference", "--beta", "0.3"]
    finetune_recipe.main([*pushed, "--output_dir", str(tmp_path / "dpo"), *FLAGS])
    assert FinishedRun(tmp_path / "dpo").config["beta"] == 0.3


@pytest.mark.parametrize(("flags", "message"), [
    (lambda f: ["--model", f["gpt2"], "--dataset", "no/where/at/all"], "error: dataset: cannot read no/where/at/all"),
    (lambda f: ["--model", f["gpt2"], "--dataset", f["sums"], "--beta", "1"], "unknown argument '--beta'"),
    (lambda f: ["--model", f["gpt2"], "--dataset", f["sums"], "--objective", "dpo"], "objective: unknown 'dpo'"),
    (lambda f: ["--model", f["gpt2"], "--task", "text"], "error: dataset: none, expected"),
])  # fmt: skip
def test_recipes_say_what_is_wrong_in_one_line(
    tmp_path: Path,
    foreign: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    flags: Callable[[dict[str, str]], list[str]],
    message: str,
) -> None:
    with pytest.raises(SystemExit) as caught:
        finetune_recipe.main([*flags(foreign), "--output_dir", str(tmp_path / "run"), *FLAGS])
    said = capsys.readouterr().err
    assert caught.value.code == 2
    assert message in said
    assert len(said.strip().splitlines()) == 1


@pytest.mark.slow
def test_everything_after_it_works_on_a_foreign_model(
    tmp_path: Path, foreign: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """It is pruned, probed, diagnosed and made ready for the Hub as a model of our own is."""
    rows = write_rows(tmp_path / "rows.jsonl", sums(200))
    flags = ["--steps", "30", "--batch_size", "16", "--num_evals", "0", "--optimizer", "adamw", "--lr", "0.003"]
    for name in ("gpt2", "llama"):
        base = foreign[name]
        made = tmp_path / name
        asked = ["--dataset", rows, "--output_dir"]
        finetune_recipe.main(["--model", base, *asked, str(made / "tuned"), *flags])
        tuned_run = str(made / "tuned")
        prune.main(["--model", tuned_run, *asked, str(made / "prune")])
        probe.main(["--models", f"base={base}", f"tuned={tuned_run}", *asked, str(made / "probe")])
        few = ["--rows=32", "--fit_rows=64", "--patch_rows=16", "--prune_sizes", "0", "2", "--random_masks=2"]
        few += ["--repeats=2", "--reverse_steps=2", "--reverse_batch_size=8"]
        diagnose.main(["--base", base, "--finetuned", tuned_run, *asked, str(made / "diagnosis"), *few])
        publish.main(
            ["--run", tuned_run, "--repo_id", "user/text", "--base_model", "user/base", "--dry_run", "true",
             "--output_dir", str(made / "published")]
        )  # fmt: skip
        card = (made / "published" / "main" / "README.md").read_text()
        check_card(card, "model")
        assert "what is" in card
        assert foreign[name] not in card
    assert "report: " in capsys.readouterr().out
