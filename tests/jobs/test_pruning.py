from __future__ import annotations

import torch

from ftmech_hf.jobs.answer_rows import AnswerRows
from ftmech_hf.jobs.behavior import Behavior
from ftmech_hf.jobs.pruning_sweep import prune_for
from tests.studies.planted import make_rows, make_wrapped


def test_the_number_of_neurons_is_not_chosen_on_the_set_that_is_reported() -> None:
    """Validation rows that nothing answers take the smallest number, whatever the reported rows say."""
    model, rows = make_wrapped("llama"), make_rows()
    never = rows[500:600].clone()
    never[:, -2] = 0  # <pad>

    def best(validation: torch.Tensor) -> int:
        sets = {"count_a": rows[650:750], "count_b_cte0": never, "count_b_cte1": never}
        behavior = Behavior(
            name="first word", train=AnswerRows.one_token(rows[:100]), validation=AnswerRows.one_token(validation),
            tests={name: AnswerRows.one_token(each) for name, each in sets.items()},
        )  # fmt: skip
        found = prune_for(model, behavior, sizes=[0, 1, 8], max_best_k=15, num_random=0, num_random_at_best=2)
        assert found.pruning.chosen_on == "validation"
        curve = found.pruning.curve
        assert {entry["method"] for entry in curve if "count_b_cte0" not in entry} == {"random"}
        # the scores of every row, in the order of the curve
        assert [float(each["count_a"].double().mean()) for each in found.scores] == [e["count_a"] for e in curve]
        assert [len(each) for each in found.at_best("random", "count_a")] == [100, 100]
        return found.pruning.best_k

    assert best(never) == 1
    assert best(rows[650:750]) == 8
