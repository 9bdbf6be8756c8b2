"""The one door to nnsight: named sites of any causal language model, read, stored and written."""

from ftmech_hf.activations.ablation import ablated_losses
from ftmech_hf.activations.answering import answers_alone
from ftmech_hf.activations.interventions import WRITABLE, intervene
from ftmech_hf.activations.layout import Layout, find_layout, model_blocks
from ftmech_hf.activations.sites import SITES
from ftmech_hf.activations.store import ActivationStore
from ftmech_hf.activations.traced import TracedModel
from ftmech_hf.activations.units import Unit, UnitGroup, Units, block_matrices, find_units, split_experts

__all__ = [
    "SITES",
    "WRITABLE",
    "ActivationStore",
    "Layout",
    "TracedModel",
    "Unit",
    "UnitGroup",
    "Units",
    "ablated_losses",
    "answers_alone",
    "block_matrices",
    "find_layout",
    "find_units",
    "intervene",
    "model_blocks",
    "split_experts",
]
