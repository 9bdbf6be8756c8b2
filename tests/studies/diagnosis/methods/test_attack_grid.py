"""The worst of a grid of attacks: chosen on validation rows, among those that cost little elsewhere."""

from __future__ import annotations

import copy
import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray

from ftmech_hf.jobs.answer_rows import AnswerRows
from ftmech_hf.jobs.padding import mask_padding
from ftmech_hf.studies.diagnosis.case import FINETUNED, NULL, Case
from ftmech_hf.studies.diagnosis.method import plain
from ftmech_hf.studies.diagnosis.methods.attack_grid import (
    MOST_LOST,
    NONE,
    Attack,
    Attacked,
    AttackGridMethodResult,
    Way,
    draw_attack_grid,
    explain_attack_grid,
    measure_attack_grid,
    text_loss,
)
from tests.conftest import make_llama
from tests.studies.diagnosis.cases import FEW, found_by, make_case, right
from tests.studies.planted import ask, make_rows, make_wrapped


def first(number: int) -> NDArray[np.bool_]:
    return np.arange(100) < number


def attack(rate: float, chosen_on: float, lost: float, of_test: int, way: Way = "all weights") -> Attack:
    return Attack(way, rate, chosen_on, lost, first(of_test))


def test_the_worst_is_chosen_on_validation_rows_among_those_that_cost_little() -> None:
    attacks = (
        attack(NONE, 0.1, 0.0, 10), attack(1.0, 0.6, 0.05, 50), attack(3.0, 0.6, 0.01, 90),
        attack(10.0, 0.9, MOST_LOST + 0.01, 95), attack(1.0, 0.5, -0.2, 99, "adapter"),
    )  # fmt: skip
    found = Attacked(attacks, "what was taught")
    assert found.worst is attacks[1], "of equal ones the lower rate, whatever the test rows say"
    assert Attacked((*attacks, attack(10.0, 0.7, MOST_LOST, 3)), "").worst.chosen_on == 0.7, "at the bar it counts"
    nothing = Attacked((attacks[0], attack(1.0, 0.9, 0.5, 90)), "the texts of the questions")
    assert nothing.worst.rate == NONE
    result = AttackGridMethodResult(models={FINETUNED: found, NULL: nothing}, groups=None)
    facts = found_by(result)[1]["attack_grid"]
    assert facts[FINETUNED]["accuracy"].value == 0.5
    assert (facts[FINETUNED]["counting"], facts[FINETUNED]["of"]) == (3, 4)
    said = explain_attack_grid({"evidence": {"attack_grid": plain(facts)}})
    assert "The fine-tuned model goes from 10% to 50% at rate 1 (all weights); 3 of 4 attacks on the" in said
    assert "Of the control none that counts brings more than its 10%; 0 of 1 attacks on the control count (by " in said
    table = pd.DataFrame(result.rows())
    assert table[table["quantity"] == "worst"]["value"].tolist() == [0.5, 0.1]
    assert set(table[table["reference"]]["model"]) == {NULL}
    figure, axes = plt.subplots()
    draw_attack_grid(axes, table, "control")
    hollow = [list(each.get_xdata()) for each in axes.lines if each.get_markerfacecolor() == "white"]  # type: ignore[arg-type]
    assert [10.0] in hollow
    assert [1.0] in hollow
    plt.close(figure)


def test_a_wrapper_comes_off_and_a_control_gains_less(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = (1.0, 10.0)
    monkeypatch.setattr("ftmech_hf.studies.diagnosis.methods.attack_grid.RATES", rates)
    models = make_case(make_wrapped("llama")).models
    other = ask(make_rows(shift=1, seed=2), "next")
    case = Case(models, ask(make_rows()), None, FEW, 0)
    before = {name: copy.deepcopy(model.state_dict()) for name, model in models.items()}
    result = measure_attack_grid(case)
    for name, model in models.items():
        assert all(torch.equal(value, before[name][key]) for key, value in model.state_dict().items()), name
    tuned, control = result.models[FINETUNED], result.models[NULL]
    assert {(each.way, each.rate) for each in tuned.attacks[1:]} == {
        (way, rate) for way in ("all weights", "adapter") for rate in rates
    }
    assert tuned.attacks[0].right.mean() == right(models[FINETUNED], case.few("capability").token_ids).mean()
    validation = case.capability.validation[: FEW.patch_rows]
    never = case.capability.mean_score(models[NULL], validation)
    assert control.attacks[0].chosen_on == pytest.approx(never)
    assert never != pytest.approx(control.attacks[0].right.mean()), "the test rows say another number"
    assert tuned.elsewhere == control.elsewhere == "the texts of the questions"
    most = {name: max(each.right.mean() for each in found.attacks) for name, found in result.models.items()}
    assert most[FINETUNED] > 0.9
    assert most[FINETUNED] > most[NULL] + 0.1, "the control has to learn it"
    asked = Case(models, ask(make_rows()), other, FEW, 0)
    found = measure_attack_grid(asked).models[FINETUNED]
    assert found.elsewhere == "what was taught"
    # questions read the same and are answered otherwise now: what was taught is lost with every attack that works
    assert all(each.lost > MOST_LOST for each in found.attacks if each.right.mean() > 0.5)
    assert found.worst.right.mean() < 0.5


def test_the_loss_of_texts_is_that_of_their_tokens_and_padding_does_not_count() -> None:
    model = make_llama(40)
    rows = ask(make_rows(number=900)).test[:10]
    ids = rows.token_ids[:, :-2]
    with torch.no_grad():
        logits = model(ids[:, :-1]).logits.log_softmax(-1)
    expected = -float(logits.gather(-1, ids[:, 1:, None]).mean())
    assert text_loss(model, rows) == pytest.approx(expected, rel=1e-5)
    assert text_loss(model, rows, batch_size=3) == pytest.approx(expected, rel=1e-5)
    shorter = rows.token_ids.clone()
    shorter[:5, 1:] = rows.token_ids[:5, :-1]
    shorter[:5, 0] = 0
    answer = torch.zeros_like(shorter).bool()
    answer[:, -2] = True
    padded = AnswerRows(token_ids=shorter, answer=answer, pad=0)
    mask_padding(model, 0)
    with torch.no_grad():
        whole = [-model(each[None, :-3]).logits.log_softmax(-1)[0].gather(-1, each[1:-2, None]).sum()
                 for each in (*(row[1:] for row in shorter[:5]), *shorter[5:])]  # fmt: skip
    number = 5 * (len(shorter[0]) - 4) + 5 * (len(shorter[0]) - 3)
    assert text_loss(model, padded) == pytest.approx(float(sum(whole)) / number, rel=1e-4)
    assert not math.isnan(text_loss(model, padded))
