from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ftmech_hf.analysis.probing import ANSWER
from ftmech_hf.models.loading import load_model
from ftmech_hf.models.tokenization import task_tokenizer
from ftmech_hf.runs import FinishedRun
from ftmech_hf.statistics.intervals import share_interval
from ftmech_hf.studies.continual import capabilities
from ftmech_hf.studies.continual.capabilities import (
    FINAL_NORM,
    CapabilitiesConfig,
    measure_capabilities,
    state_capabilities,
    stream_at_answer,
    task_of,
)
from ftmech_hf.studies.continual.sequences import CAPABILITIES, NEVER_TUNED
from ftmech_hf.tasks import Capability, PcfgConfig, PcfgShape, RowStream
from ftmech_hf.training.evaluation import answer_accuracy
from tests.conftest import make_gpt2

SHAPE: dict[str, Any] = {
    "text_length": 12, "count_window": 8, "index_occurrence": 2, "token_at_position": 6, "min_labels": 4,
}  # fmt: skip


def ids(capability: Capability, split: str, number: int) -> Tensor:
    stream = RowStream(task_of(PcfgShape(**SHAPE), capability, None), seed=0, split=split)
    return torch.from_numpy(stream.rows(0, number).token_ids)


def test_the_stream_is_read_where_the_answer_is_predicted() -> None:
    model = make_gpt2(40)
    rows = torch.randint(3, 40, (7, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = model(rows, output_hidden_states=True)
    found = stream_at_answer(model, rows, batch_size=3)
    assert list(found) == ["embedding", "block 0", FINAL_NORM]
    for site, states in zip(found, whole.hidden_states, strict=True):
        torch.testing.assert_close(found[site], states[:, -3])
        assert not torch.allclose(found[site], states[:, -2], atol=1e-2)  # which has read the answer
    torch.testing.assert_close(model.lm_head(found[FINAL_NORM]), whole.logits[:, -3])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with an idea of its own: it always gives one answer, so that it is right now and then."""
    folder = tmp_path_factory.mktemp("base")
    task = PcfgConfig(**SHAPE)
    tokenizer = task_tokenizer(task)
    model = make_gpt2(len(tokenizer))
    answers = ids(NEVER_TUNED[0], "test", 50)[:, -2]
    with torch.no_grad():
        model.lm_head.weight.mul_(0.01)
        model.transformer.ln_f.bias.fill_(1.0)
        model.lm_head.weight[int(answers.mode().values)] += 1.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_every_capability_is_asked_on_the_rows_of_its_split(base: Path, tmp_path: Path) -> None:
    found = {}
    for split in ("test", "validation"):
        place = CapabilitiesConfig(model=str(base), eval_rows=40, split=split, output_dir=str(tmp_path / split))
        found[split] = FinishedRun(measure_capabilities(place, PcfgShape(**SHAPE)).path)
        table = found[split].table.set_index("capability")
        assert list(table.index) == [str(each) for each in CAPABILITIES]
        model = load_model(str(base))
        for each in CAPABILITIES:
            rows = ids(each, split, 40)
            assert table.loc[str(each), "value"] == answer_accuracy(model, rows)
            always = rows[:, -2] == rows[:, -2].mode().values  # the floor: one answer for all
            assert table.loc[str(each), "floor"] == pytest.approx(float(always.double().mean()))
        assert set(table["rows"]) == {40}
        assert found[split].summary["count_a"] == table.loc["count_a", "value"] > 0
        (said,) = state_capabilities(found[split], "")
        assert said.startswith("Right answers in 40 prompts of each capability")
        for each in CAPABILITIES:  # the last one of a sequence, too
            _, low, high = share_interval(round(40 * table.loc[str(each), "value"]), 40)
            assert (
                f"`{each}` {100 * table.loc[str(each), 'value']:.1f} % ({100 * low:.1f} to {100 * high:.1f}; "
                f"{100 * table.loc[str(each), 'floor']:.1f} %)"
            ) in said
    both = [found[split].table["value"] for split in found]
    assert (both[0] != both[1]).any()


def test_shortcuts_are_asked_about_on_texts_that_have_them(base: Path, tmp_path: Path) -> None:
    place = CapabilitiesConfig(model=str(base), eval_rows=16, planted=True, output_dir=str(tmp_path / "planted"))
    table = FinishedRun(measure_capabilities(place, PcfgShape(**SHAPE)).path).table
    assert list(table["capability"][7:]) == ["count_b_cte1", "index_b_cte1", "count_c_cte1", "index_c_cte1"]
    planted = RowStream(task_of(PcfgShape(**SHAPE), Capability("count", "c"), 1.0), seed=0, split="test").rows(0, 50)
    assert planted.correlated.all()
    natural = RowStream(task_of(PcfgShape(**SHAPE), Capability("count", "c"), None), seed=0, split="test").rows(0, 50)
    assert not natural.correlated.all()


def test_probes_are_fitted_chosen_and_tested_on_rows_of_three_kinds(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is reported was neither fitted nor chosen on; the best site is the one that the choosing rows name."""
    seen: list[tuple[Any, ...]] = []
    fit = capabilities.fit_probes

    def recorded(train: Any, labels: Any, test: Any, test_labels: Any, **more: Any) -> Any:
        seen.append((train, labels, test, test_labels, more["choose"], fit(train, labels, test, test_labels, **more)))
        return seen[-1][-1]

    monkeypatch.setattr(capabilities, "fit_probes", recorded)
    place = CapabilitiesConfig(
        model=str(base), eval_rows=8, probe_rows=120, probe_test_rows=60, output_dir=str(tmp_path / "probed")
    )
    table = FinishedRun(measure_capabilities(place, PcfgShape(**SHAPE)).path).table
    model = load_model(str(base))
    for each, (train, labels, test, test_labels, chosen, result) in zip(NEVER_TUNED, seen, strict=True):
        states, kinds = chosen
        parts = {
            "probe": (train, labels, 120),
            "validation": (states, kinds[ANSWER], 60),
            "test": (test, test_labels, 60),
        }
        for split, (sites, answers, number) in parts.items():
            rows = ids(each, split, number)
            assert torch.equal(torch.as_tensor(answers), rows[:, -2])
            assert torch.equal(sites[FINAL_NORM], stream_at_answer(model, rows)[FINAL_NORM])
        rows_of = table[(table["capability"] == str(each)) & (table["by"] == "probe")].set_index("site")
        assert rows_of.loc[FINAL_NORM, "value"] == result.score(FINAL_NORM).accuracy
        assert rows_of.loc["best", "value"] == result.best().accuracy
        assert rows_of.loc["best", "shuffled"] == result.best().shuffled
        assert set(rows_of["rows"]) == {60}
