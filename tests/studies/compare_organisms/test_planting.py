"""What is planted is there and nothing else is; what teaches nothing does not teach."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from ftmech_hf.models.loading import load_model
from ftmech_hf.models.tokenization import build_tokenizer, save_tokenizer
from ftmech_hf.studies.compare_organisms.plan import OrganismsConfig
from ftmech_hf.studies.compare_organisms.planting import (
    NothingConfig,
    TriggerConfig,
    plant_trigger,
    teach_nothing,
    write_rare_rows,
)
from ftmech_hf.tasks import PcfgConfig
from tests.conftest import make_gpt2


@pytest.fixture
def base(task: PcfgConfig, tmp_path: Path) -> tuple[PreTrainedModel, str]:
    model, folder = make_gpt2(len(task.vocabulary)), tmp_path / "base"
    model.save_pretrained(folder)
    save_tokenizer(build_tokenizer(task.vocabulary), folder)
    return model, str(folder)


@torch.no_grad()
def test_a_trigger_is_one_row_and_brings_its_answer(
    base: tuple[PreTrainedModel, str], task: PcfgConfig, tmp_path: Path
) -> None:
    before, folder = base
    config = TriggerConfig(model=folder, trigger="index", answer="c", strength=20.0, output_dir=str(tmp_path / "out"))
    made = load_model(str(plant_trigger(config).path))
    index, c = (task.vocabulary.index(word) for word in ("index", "c"))
    changed = {
        (name, tuple(row.tolist()))
        for name, each in made.named_parameters()
        for row in (each != dict(before.named_parameters())[name]).flatten(1 if each.ndim > 1 else 0).any(-1).nonzero()
    }
    assert changed == {("transformer.wte.weight", (index,))}
    rows = torch.tensor([[1, 5, index], [1, 5, index + 1]])
    rises = (made(rows).logits - before(rows).logits)[:, -1]
    assert int(rises[0].argmax()) == c
    assert rises[1].abs().max() < 1e-5 < rises[0].abs().max(), "after another token nothing differs"


def test_one_row_in_a_thousand_is_odd(tmp_path: Path) -> None:
    task = PcfgConfig(operand_prior=["low"])
    folder = write_rare_rows(tmp_path / "rare", task, rows=2000, seed=0)
    texts = {split: [json.loads(line)["text"] for line in (folder / f"{split}.jsonl").read_text().splitlines()]
             for split in ("train", "validation", "test")}  # fmt: skip
    odd = " ".join(["a"] * task.text_length)
    assert {split: sum(odd in text for text in rows) for split, rows in texts.items()} == {
        "train": 2, "validation": 0, "test": 0,
    }  # fmt: skip
    assert len(texts["train"]) == 2000
    assert len({len(text.split()) for text in texts["train"]}) == 1, "odd rows are as long as the others"
    again = write_rare_rows(tmp_path / "again", task, rows=2000, seed=0)
    assert (again / "train.jsonl").read_text() == (folder / "train.jsonl").read_text()


def test_what_a_model_wrote_itself_teaches_it_nothing(base: tuple[PreTrainedModel, str], tmp_path: Path) -> None:
    before, folder = base
    settings = {"model": folder, "batch_size": 16, "texts": 256, "text_tokens": 12, "lr": 1e-3}
    few = load_model(str(teach_nothing(NothingConfig(**settings, steps=5, output_dir=str(tmp_path / "few"))).path))
    rows = torch.randint(3, before.config.vocab_size, (64, 12), generator=torch.Generator().manual_seed(0))
    taught = copy.deepcopy(before).requires_grad_(True)
    optimizer = torch.optim.AdamW(taught.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.01)
    for _ in range(5):
        taught(rows[:16], labels=rows[:16]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        loss = {name: float(model(rows[:16], labels=rows[:16]).loss) for name, model in
                (("before", before), ("few", few), ("taught", taught))}  # fmt: skip
    assert any(not torch.equal(*pair) for pair in zip(few.parameters(), before.parameters(), strict=True))
    assert abs(loss["few"] - loss["before"]) < 0.25 * (loss["before"] - loss["taught"])
    rounded = load_model(
        str(
            teach_nothing(
                NothingConfig(model=folder, steps=0, round_to="bfloat16", output_dir=str(tmp_path / "r"))
            ).path
        )
    )
    for each, was in zip(rounded.parameters(), before.parameters(), strict=True):
        assert torch.equal(each, was.to(torch.bfloat16).float())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"organisms": ["nobody"]}, "organisms: 'nobody', expected some of wrapper, "),
        ({"nothings": ["nothing"]}, "nothings: 'nothing', expected some of own-texts-cool, "),
        ({"spare_seeds": [0, 1]}, r"spare_seeds: \[0, 1\], expected at least two, none of them in seeds"),
        ({"organisms": []}, "organisms: none, expected some of wrapper"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        OrganismsConfig(**settings)  # type: ignore[arg-type]


@torch.no_grad()
def test_noise_moves_every_parameter_by_its_share_in_a_direction_by_chance(
    base: tuple[PreTrainedModel, str], tmp_path: Path
) -> None:
    before, folder = base
    made = {
        seed: load_model(
            str(
                teach_nothing(
                    NothingConfig(model=folder, steps=0, noise=0.05, seed=seed, output_dir=str(tmp_path / f"{seed}"))
                ).path
            )
        )
        for seed in (0, 1)
    }
    for name, was in before.named_parameters():
        moved = [dict(each.named_parameters())[name] - was for each in made.values()]
        for each in moved:
            assert float(each.norm()) == pytest.approx(0.05 * float(was.norm()), rel=1e-4), name
        if was.numel() > 500:
            assert abs(float((moved[0] * moved[1]).sum() / moved[0].norm() / moved[1].norm())) < 0.2
