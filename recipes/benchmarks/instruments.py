"""Probing and ablation beside what one would do instead: scikit-learn fit after fit, one forward pass per neuron."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn import functional as F

from ftmech_hf.activations import TracedModel, ablated_losses
from ftmech_hf.analysis.probing import fit_probes
from ftmech_hf.tasks import Capability, PcfgConfig, RowStream, for_capability
from recipes.benchmarks.limits import wait

SOLVERS = ("lbfgs", "newton-cholesky")
EVERY = 24
"""One forward pass per neuron is timed on every so many-th neuron."""


def _counting(task: PcfgConfig, seed: int, split: str, number: int) -> tuple[Tensor, dict[str, NDArray[np.integer]]]:
    """Rows that ask for the count of a, and the answers about every symbol."""
    rows = RowStream(for_capability(task, Capability("count", "a")), seed=seed, split=split).rows(0, number).token_ids
    texts = task.texts(rows)
    return torch.from_numpy(rows.copy()), {s: task.answers("count", texts, n) for n, s in enumerate(task.symbols)}


def _sites(traced: TracedModel, token_ids: Tensor) -> dict[str, Tensor]:
    stream = traced.collect(token_ids[:, :-2], ["resid_pre", "resid_post"])
    after = {f"block {layer}": stream["resid_post", layer] for layer in range(traced.num_layers)}
    return {"embedding": stream["resid_pre", 0], **after}


def measure_probing(
    traced: TracedModel, task: PcfgConfig, seed: int, rows: int, shuffles: int
) -> Iterator[dict[str, Any]]:
    """The grid of sites x symbols x label orders (the right one, and ``shuffles`` more), in one fit and fit by fit."""
    (fit_ids, labels), (test_ids, held_out) = (_counting(task, seed, split, rows) for split in ("probe", "test"))
    train, test = _sites(traced, fit_ids), _sites(traced, test_ids)
    started = time.perf_counter()
    ours = fit_probes(train, labels, test, held_out, num_shuffles=shuffles, code=False)
    seconds = time.perf_counter() - started
    fits = len(train) * len(labels) * (1 + shuffles)
    yield {"what": f"{fits} probes on {rows:,} rows", "value": round(seconds, 2), "unit": "s", "ratio": 1.0,
           "ratio_of": "the time of ours"}  # fmt: skip
    for solver in SOLVERS:
        started, furthest = time.perf_counter(), 0.0
        for site in train:
            scaler = StandardScaler().fit(train[site].numpy())
            fit_on, test_on = scaler.transform(train[site].numpy()), scaler.transform(test[site].numpy())
            for name, right in labels.items():
                for order in range(1 + shuffles):
                    shuffled = right if order == 0 else np.random.default_rng(order).permutation(right)
                    accuracy = _scikit_learn(solver, fit_on, shuffled, test_on, held_out[name])
                    if order == 0:
                        furthest = max(furthest, abs(accuracy - ours.score(site, name).accuracy))
        taken = time.perf_counter() - started
        what = f"the same, scikit-learn's {solver}"
        yield {"what": what, "value": round(taken, 2), "unit": "s", "ratio": round(taken / seconds, 1),
               "ratio_of": "the time of ours"}  # fmt: skip
        yield {"what": f"largest difference of an accuracy from {solver}'s", "value": round(100 * furthest, 2),
               "unit": "points", "ratio": None, "ratio_of": ""}  # fmt: skip


def _scikit_learn(
    solver: str, train: NDArray[Any], labels: NDArray[Any], test: NDArray[Any], held_out: NDArray[Any]
) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", UserWarning)  # Newton's matrix is singular where activations do not vary
        probe = LogisticRegression(solver=solver, max_iter=1000).fit(train, labels)
    return float(probe.score(test, held_out))


def measure_ablation(traced: TracedModel, task: PcfgConfig, seed: int, rows: int) -> Iterator[dict[str, Any]]:
    """The loss without each MLP neuron: many to a pass, and one forward pass each."""
    token_ids = _counting(task, seed, "test", rows)[0].to(traced.model.device)
    inputs, answers = token_ids[:, :-2], token_ids[:, -2]
    wait()
    started = time.perf_counter()
    _, losses = ablated_losses(traced.model, inputs, answers, "activation")
    wait()
    seconds = time.perf_counter() - started
    neurons = sum(len(values) for values in losses.values())
    furthest, alone, chosen = 0.0, 0.0, range(0, neurons, EVERY)
    with torch.no_grad():
        for number in chosen:
            layer, neuron = divmod(number, traced.num_neurons)
            keep = torch.ones(traced.num_neurons, device=inputs.device)
            keep[neuron] = 0
            started = time.perf_counter()
            with traced.intervene({("mlp_act", layer): lambda value, keep=keep: value * keep}):  # type: ignore[misc]
                logits = traced.model(inputs, use_cache=False, logits_to_keep=1).logits[:, -1]
                loss = float(F.cross_entropy(logits, answers))
            alone += time.perf_counter() - started
            furthest = max(furthest, abs(loss - float(losses[f"mlp_act.{layer}"][neuron])))
    alone *= neurons / len(chosen)
    yield {"what": f"{neurons:,} neurons ablated, each on {rows} rows", "value": round(seconds, 2), "unit": "s",
           "ratio": 1.0, "ratio_of": "the time of ours"}  # fmt: skip
    yield {"what": f"one forward pass per neuron (timed on {len(chosen)})", "value": round(alone, 2), "unit": "s",
           "ratio": round(alone / seconds, 1), "ratio_of": "the time of ours"}  # fmt: skip
    yield {"what": "largest difference of a loss", "value": float(f"{furthest:.1e}"), "unit": "nats", "ratio": None,
           "ratio_of": ""}  # fmt: skip
