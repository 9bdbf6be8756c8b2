"""Prompts to begin with end where the first answer begins."""

from __future__ import annotations

import pytest

from ftmech_hf.explorer.examples import _of_both_operands, _prompt
from ftmech_hf.tasks import TASKS, PcfgConfig, RowStream


@pytest.mark.parametrize("name", ["pcfg", "safety", "library"])
def test_no_prompt_shows_its_answer(name: str) -> None:
    task = TASKS[name]()
    rows = RowStream(task, seed=1, split="test").rows(0, 8)
    for number in range(8):
        prompt, row = _prompt(rows, number), rows.token_ids[number].tolist()
        assert prompt == row[: len(prompt)]
        answers = [len(row) - 2] if rows.answers is None else rows.answers[number].nonzero()[0].tolist()
        assert len(prompt) == answers[0]
        assert "<pad>" not in [task.vocabulary[token] for token in prompt]


def test_both_operands_are_asked_about_as_the_base_was() -> None:
    def asked(**settings: object) -> list[tuple[list[str], list[str]]]:
        made = _of_both_operands(PcfgConfig(**settings))  # type: ignore[arg-type]
        return [(each.operators, each.operand_prior) for each in made]  # type: ignore[attr-defined]

    of_a, of_b, of_c = (["1.0", "0.0", "0.0"], ["0.0", "1.0", "0.0"], ["0.0", "0.0", "1.0"])
    assert asked() == [(["count"], of_a), (["count"], of_b)]
    assert asked(operators=["index"], base_operand="b", correlated_operand="c") == [
        (["index"], of_b),
        (["index"], of_c),
    ]
    assert asked(operators=["token_at"]) == []
