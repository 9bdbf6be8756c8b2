from __future__ import annotations

import torch

from ftmech_hf.activations import find_units
from ftmech_hf.analysis.pruning import gradient_importance
from ftmech_hf.jobs.pruning import PruneConfig, sweep_masks
from ftmech_hf.training.objectives import answer_only_loss
from tests.studies.planted import make_rows, make_wrapped


def test_the_number_of_neurons_is_not_chosen_on_the_set_that_is_reported() -> None:
    """Validation rows that nothing answers take the smallest number, whatever the reported rows say."""
    model, rows = make_wrapped("llama"), make_rows()
    never = rows[500:600].clone()
    never[:, -2] = 0  # <pad>
    units = find_units(model, "row")
    importance = gradient_importance(units, lambda batch: answer_only_loss(model, batch), rows[:100])
    config = PruneConfig(sizes=[0, 1, 8], num_random=0, num_random_at_best=2)

    def best(validation: torch.Tensor) -> int:
        sets = {"validation": validation, "count_a": rows[650:750], "count_b_cte0": never, "count_b_cte1": never}
        result = sweep_masks(config, model, units, importance, rows[:100], sets, None)
        assert result.chosen_on == "validation"
        assert {entry["method"] for entry in result.curve if "count_b_cte0" not in entry} == {"random"}
        return result.best_k

    assert best(never) == 1
    assert best(rows[650:750]) == 8
