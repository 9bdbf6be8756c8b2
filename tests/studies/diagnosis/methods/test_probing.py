from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ftmech_hf.jobs.answer_rows import AnswerRows
from ftmech_hf.statistics.intervals import share_interval
from ftmech_hf.studies.diagnosis.case import BASE, FINETUNED, NULL, Case, CaseConfig
from ftmech_hf.studies.diagnosis.methods.halves import cuts_by_exchange
from ftmech_hf.studies.diagnosis.methods.patching import measure_patching
from ftmech_hf.studies.diagnosis.methods.probing import (
    EMBEDDINGS,
    Places,
    Reading,
    choose_places,
    embedded,
    is_central,
    measure_probing,
    read_everyone,
)
from tests.conftest import make_llama
from tests.studies.diagnosis.cases import found_by
from tests.studies.planted import FIRST_WORD, ask, make_base, make_never, make_rows, make_wrapped

FEW = CaseConfig(rows=200, fit_rows=500, patch_rows=150, null_steps=0)


def untrained(num_layers: int = 2) -> Case:
    """A case of which only layers, embeddings and rows are looked at by what is tested."""
    models = {name: make_llama(40, seed=seed) for seed, name in enumerate((BASE, FINETUNED, NULL))}
    case = Case(models, ask(make_rows()), None, FEW, 0)
    case.num_layers, case.layers = num_layers, list(range(num_layers))
    return case


def read(*percent: int, reported: int = 0, first: int = 0) -> Mapping[int, Reading]:
    """What is read in layers, of 200 rows that choose; the reported rows say something else."""
    return {
        layer: Reading(share_interval(2 * each, 200), share_interval(2 * reported, 200), math.nan)
        for layer, each in enumerate(percent, first)
    }


LOW = {NULL: read(9, 10, 8, 7, 6, 5), "random weights 2": read(*[8] * 6), "random weights 3": read(*[9] * 6),
       EMBEDDINGS: read(5, 6, first=-2)}  # fmt: skip


@pytest.mark.parametrize(
    ("base", "changed", "expected"),
    [
        # the answer is there after block 2 of six: halves of three blocks, and of four
        ((10, 11, 97, 100, 99, 98), {}, Places(3, (NULL, 1), 1, 2)),
        # it is there after block 4, where a cut would leave one block: only the last blocks have a half, of two
        ((10, 10, 10, 10, 100, 99), {}, Places(4, (NULL, 1), 3, None)),
        # it is there at once: only the first blocks have a half, of two
        ((96, 100, 99, 98, 98, 98), {}, Places(1, (NULL, 1), None, 1)),
        # a layer that is within five points of the best will do, one that is six below will not
        ((10, 94, 95, 100, 90, 90), {}, Places(3, (NULL, 1), 1, 2)),
        # the best layer of the controls counts, not that beside it, wherever it is
        ((10, 11, 97, 100, 99, 98), {NULL: read(99, 5, 5, 5, 5, 5)}, Places(None, (NULL, 0), None, None)),
        ((10, 11, 97, 100, 99, 98), {"random weights 3": read(5, 5, 5, 5, 5, 99)},
         Places(None, ("random weights 3", 5), None, None)),
        ((10, 11, 97, 100, 99, 98), {EMBEDDINGS: read(99, 10, first=-2)}, Places(None, (EMBEDDINGS, -2), None, None)),
        # above a control that reads much, but not all
        ((10, 11, 96, 100, 99, 98), {NULL: read(5, 90, 5, 5, 5, 5)}, Places(3, (NULL, 1), 2, 3)),
        # nothing is read: answers that the probes never saw
        ((0, 0, 0, 0, 0, 0), {}, Places(None, (NULL, 1), None, None)),
    ],
)  # fmt: skip
def test_where_probes_count_and_halves_meet(
    base: tuple[int, ...], changed: dict[str, Mapping[int, Reading]], expected: Places
) -> None:
    found = {BASE: read(*base), FINETUNED: read(*reversed(base)), **LOW, **changed}
    assert choose_places(untrained(6), found) == expected


def test_what_is_reported_and_the_fine_tuned_model_choose_nothing() -> None:
    base = {**read(10, 11, 97, 100, 99, 98)}
    base[5] = base[5]._replace(reported=share_interval(200, 200))
    for reported in (0, 50, 100):
        found = {BASE: base, FINETUNED: read(*[reported] * 6), **LOW, NULL: read(9, 10, 8, 7, 6, 5, reported=reported)}
        assert choose_places(untrained(6), found) == Places(3, (NULL, 1), 1, 2)


@pytest.mark.parametrize(
    ("num_layers", "central"),
    [(1, []), (2, [0]), (3, [0, 1]), (4, [1]), (5, [1, 2]), (6, [1, 2, 3]), (7, [2, 3]), (30, list(range(9, 20)))],
)
def test_a_half_has_at_least_a_third_of_the_blocks(num_layers: int, central: list[int]) -> None:
    assert [layer for layer in range(num_layers) if is_central(layer, num_layers, 1 / 3)] == central


def test_embeddings_are_those_of_the_prompts_tokens() -> None:
    case = untrained()
    rows = case.capability.test.token_ids
    weight = case.models[BASE].get_input_embeddings().weight.detach()
    found = embedded(case, "test")
    expected = torch.stack([weight[row[:-2]].mean(0) for row in rows])
    assert torch.allclose(found[-1], expected, atol=1e-6)
    assert torch.equal(found[-2], weight[rows[:, -3]])
    # tokens that only fill a row do not count
    filled = torch.cat([torch.full((len(rows), 3), 39), rows], 1)
    case.capability = dataclasses.replace(case.capability, tests={"test": AnswerRows.one_token(filled, pad=39)})
    assert torch.allclose(embedded(case, "test")[-1], expected, atol=1e-6)


def test_embeddings_of_a_large_vocabulary_are_read_without_a_table_of_it() -> None:
    """Nothing that is made has as many rows or columns as there are tokens."""
    case = untrained()
    vocabulary, made = 5003, list[torch.Size]()
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(vocabulary, 16, generator=generator).bfloat16()
    case.models[BASE].set_input_embeddings(torch.nn.Embedding.from_pretrained(weight))
    rows = torch.randint(3, vocabulary, (50, 7), generator=generator)
    case.capability = dataclasses.replace(case.capability, tests={"test": AnswerRows.one_token(rows)})

    class Recorded(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            made.extend(each.shape for each in tree_leaves(result) if isinstance(each, torch.Tensor))
            return result

    with Recorded():
        found = embedded(case, "test")
    assert torch.allclose(found[-1], weight.float()[rows[:, :-2]].mean(1), atol=1e-6)
    assert torch.equal(found[-2], weight.float()[rows[:, -3]])
    # the weights themselves, detached, and nothing else
    assert {shape for shape in made if vocabulary in shape} <= {weight.shape}
    assert sum(vocabulary in shape for shape in made) <= 1


def read_by_scikit_learn(streams: dict[str, torch.Tensor], case: Case) -> tuple[float, float]:
    """Accuracy on the rows that choose and on those that are reported."""
    labels = {split: getattr(case.capability, split).token_ids[:, -2].numpy() for split in streams}
    mean, spread = streams["train"].mean(0), streams["train"].std(0, correction=0)
    values = {split: ((each - mean) / spread).numpy() for split, each in streams.items()}
    probe = LogisticRegression(C=1.0, max_iter=3000).fit(values["train"], labels["train"])
    return probe.score(values["validation"], labels["validation"]), probe.score(values["test"], labels["test"])


def test_embeddings_and_a_model_of_random_weights_are_read_by_their_own_values() -> None:
    """The last token is the same mark in every prompt: of it alone nothing can be read, of the mean a little."""
    case, splits = untrained(), ("train", "validation", "test")
    found = read_everyone(case, [EMBEDDINGS, NULL])
    for name, layers in ((EMBEDDINGS, (-1,)), (NULL, (0, 1))):
        for layer in layers:
            streams = {
                split: (embedded(case, split) if name == EMBEDDINGS else case.stream(name, "capability", split))[layer]
                for split in splits
            }
            chosen, reported = read_by_scikit_learn(streams, case)
            got = found[name][layer]
            assert (got.chosen.value, got.reported.value) == (
                pytest.approx(chosen, abs=0.03), pytest.approx(reported, abs=0.03),
            )  # fmt: skip
    assert found[EMBEDDINGS][-2].reported.value < 0.3
    assert found[EMBEDDINGS][-1].chosen != found[EMBEDDINGS][-1].reported


def test_three_kinds_of_rows_read_as_scikit_learn_reads_them() -> None:
    models = {BASE: make_base("llama"), FINETUNED: make_wrapped("llama"), NULL: make_never("llama")}
    case = Case(models, ask(make_rows()), None, FEW, 0)
    found = read_everyone(case, [BASE, NULL])
    for name in (BASE, NULL):
        for layer in (0, 1):
            streams = {
                split: case.stream(name, "capability", split)[layer] for split in ("train", "validation", "test")
            }
            chosen, reported = read_by_scikit_learn(streams, case)
            got = found[name][layer]
            assert got.chosen.value == pytest.approx(chosen, abs=0.03)
            assert got.reported.value == pytest.approx(reported, abs=0.03)
            assert math.isnan(got.shuffled) == (name != BASE)
    assert found[BASE][1].reported.value > 0.95
    assert found[BASE][1].shuffled < 0.3
    assert found[NULL][1].reported.high < 0.6
    # the two kinds of rows are not the same rows
    split = case.capability.validation.token_ids[:, :-2].tolist(), case.capability.test.token_ids[:, :-2].tolist()
    assert not {tuple(row) for row in split[0]} & {tuple(row) for row in split[1]}


def test_a_control_that_reads_in_another_layer_takes_the_sign_away() -> None:
    """Each control where it is best: the base itself, as a control, reads all that the base reads."""
    models = {BASE: make_base("llama"), FINETUNED: make_wrapped("llama"), NULL: make_base("llama")}
    _, facts = found_by(measure_probing(Case(models, ask(make_rows()), None, FEW, 0)))
    assert facts["read"] is None
    assert facts["read_null_in"] == NULL
    assert facts["read_null"].value > 0.95


def test_probes_that_never_saw_the_answers_measure_nothing_and_an_exchange_places_the_halves() -> None:
    """With answers of the test rows absent from the rows that probes are fitted on."""
    rows = make_rows(number=3000)
    known = rows[:, -2] < FIRST_WORD + 4
    questions = dataclasses.replace(
        ask(make_rows()), train=AnswerRows.one_token(rows[known][:500]),
        validation=AnswerRows.one_token(rows[~known][:150]),
        tests={"test": AnswerRows.one_token(rows[~known][150:350])},
    )  # fmt: skip
    case = Case({BASE: make_base("llama"), FINETUNED: make_wrapped("llama"), NULL: make_never("llama")},
                    questions, None, FEW, 0)  # fmt: skip
    probing = measure_probing(case)
    _, facts = found_by(probing)
    assert (facts["read"], facts["read_base"], facts["answers_seen"]) == (None, None, 0)
    _, halves = found_by(measure_patching(case, probing))
    late, early = halves["cuts"]
    followed = halves["followed"]
    assert followed[1].value == 1  # after the last block nothing else decides
    # of two blocks one cut is central; it serves one side, by what the exchange did there
    assert (late, early) == ((0, None) if followed[0].high < 0.5 else (None, 0))
    assert {halves["late"] is None, halves["early"] is None} == {late is None, early is None}
    assert late is not None or early is not None


def test_a_base_that_knows_nothing_gives_an_exchange_nothing_to_go_by() -> None:
    questions = dataclasses.replace(ask(make_rows()), train=AnswerRows.one_token(make_rows()[:500]))
    case = Case({BASE: make_never("llama"), FINETUNED: make_wrapped("llama"), NULL: make_never("llama")},
                dataclasses.replace(questions, validation=questions.validation[:3]), None, FEW, 0)  # fmt: skip
    assert cuts_by_exchange(case) == (None, None, None)
