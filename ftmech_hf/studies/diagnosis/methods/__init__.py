"""The methods of a diagnosis, in the order in which they run and are read: what the verdict rests on comes first."""

from __future__ import annotations

from ftmech_hf.studies.diagnosis.method import Method
from ftmech_hf.studies.diagnosis.methods.attack_grid import ATTACK_GRID
from ftmech_hf.studies.diagnosis.methods.attribution import ATTRIBUTION
from ftmech_hf.studies.diagnosis.methods.behaviour import BEHAVIOUR
from ftmech_hf.studies.diagnosis.methods.change import CHANGE
from ftmech_hf.studies.diagnosis.methods.direction import DIRECTION
from ftmech_hf.studies.diagnosis.methods.intruders import INTRUDERS
from ftmech_hf.studies.diagnosis.methods.logit_lens import LOGIT_LENS
from ftmech_hf.studies.diagnosis.methods.null_models import NULL_MODELS
from ftmech_hf.studies.diagnosis.methods.patching import PATCHING
from ftmech_hf.studies.diagnosis.methods.path import PATH
from ftmech_hf.studies.diagnosis.methods.probing import PROBING
from ftmech_hf.studies.diagnosis.methods.pruning import PRUNING
from ftmech_hf.studies.diagnosis.methods.revival import REVIVAL
from ftmech_hf.studies.diagnosis.methods.sensitivity import SENSITIVITY
from ftmech_hf.studies.diagnosis.methods.separation import SEPARATION
from ftmech_hf.studies.diagnosis.methods.similarity import SIMILARITY
from ftmech_hf.studies.diagnosis.methods.tampering import TAMPERING
from ftmech_hf.studies.diagnosis.methods.unlearning import UNLEARNING
from ftmech_hf.studies.diagnosis.methods.weights import WEIGHTS

METHODS: dict[str, Method] = {
    "behaviour": BEHAVIOUR,
    "null models": NULL_MODELS,
    "pruning": PRUNING,
    "revival": REVIVAL,
    "probing": PROBING,
    "patching": PATCHING,
    "unlearning": UNLEARNING,
    "logit lens": LOGIT_LENS,
    "path": PATH,
    "change": CHANGE,
    "intruders": INTRUDERS,
    "direction": DIRECTION,
    "attribution": ATTRIBUTION,
    "tampering": TAMPERING,
    "attack grid": ATTACK_GRID,
    "weights": WEIGHTS,
    "similarity": SIMILARITY,
    "separation": SEPARATION,
    "sensitivity": SENSITIVITY,
}
"""Name, as ``analysis`` of the table has it -> method. What a method needs stands before it."""
