"""The guide's example is complete: it runs, and is the objective that it is said to be."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from ftmech_hf.training import objectives
from ftmech_hf.training.objectives import Batch, Preference
from ftmech_hf.training.settings import TrainConfig
from ftmech_hf.training.total_loss import TotalLoss
from tests.conftest import make_gpt2

GUIDE = Path(objectives.__file__).parent / "README.md"


def test_the_example_is_one_file_and_one_line_and_gives_the_loss_of_preference(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(objectives, "OBJECTIVES", {**objectives.OBJECTIVES})
    with pytest.raises(ValueError, match="objective: unknown 'dpo'"):
        TrainConfig(objective="dpo")
    code = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    space: dict[str, object] = {"__name__": __name__}
    for block in code:
        exec(block, space)
    assert float(re.findall(r"([\d.]+) after 20 steps", capsys.readouterr().out)[0]) < 0.6
    assert TrainConfig(objective="dpo").objective == "dpo"
    model = make_gpt2(40)
    rows = torch.randint(3, 40, (4, 6), generator=torch.Generator().manual_seed(0))
    answers = torch.arange(6).expand(4, 6) >= 4
    batch = Batch(rows, answers, rejected=Batch(rows.flip(0), answers))
    totals = [TotalLoss(model, each) for each in (objectives.OBJECTIVES["dpo"](beta=0.3), Preference(beta=0.3))]  # type: ignore[call-arg]
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
    losses = [total(model, batch).item() for total in totals]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    assert abs(losses[0] - 0.6931) > 0.01


def test_the_table_names_every_objective() -> None:
    assert re.findall(r"^\| \[`(\w+)`\]", GUIDE.read_text(), re.MULTILINE) == list(objectives.OBJECTIVES)
