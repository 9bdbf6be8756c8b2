"""Many linear classifiers of the same rows at once: multinomial logistic regressions, ridge, and AdamW.

The classifiers differ in their labels alone (other questions, shuffled labels, other seeds), so that the logits of all
of them are one matrix product. Shapes: N rows, D features, P classifiers, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

MAX_LOGITS = 2**23
"""Logits in memory at once (32 MB); more classifiers are fitted group after group."""

MEMORY = 20
"""Pairs of steps and gradients that L-BFGS keeps."""

REFRESH = 5
"""Steps after which L-BFGS starts from a new Hessian: the loss flattens as predictions grow sure."""


class LinearFit(NamedTuple):
    """Fitted classifiers.

    Attributes:
        weight: (P, D, C).
        bias: (P, C); minus infinity where a class never occurred, and so is never answered.
        steps: optimizer steps that each took, (P,).
        converged: whether each met its tolerance, (P,).
    """

    weight: Tensor
    bias: Tensor
    steps: Tensor
    converged: Tensor

    def logits(self, features: Tensor) -> Tensor:
        """Scores (P, N, C) of rows (N, D)."""
        return torch.einsum("nd,pdc->pnc", features, self.weight) + self.bias[:, None]


def check_rows(features: Tensor, labels: Tensor, num_classes: int) -> None:
    """Make sure that rows can be fitted: numbers that are numbers, and a class for every row.

    Rows may be fewer than classes, and all of one class, which is then always answered.

    Raises:
        ValueError: they cannot; says which of them is wrong.
    """
    if features.ndim != 2 or not features.is_floating_point():
        shape, kind = tuple(features.shape), str(features.dtype).removeprefix("torch.")
        raise ValueError(f"features: {kind} of shape {shape}, expected floating-point numbers (rows, width)")
    if labels.ndim != 2 or labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        shape, kind = tuple(labels.shape), str(labels.dtype).removeprefix("torch.")
        raise ValueError(f"labels: {kind} of shape {shape}, expected whole numbers (classifiers, rows)")
    if labels.shape[1] != len(features) or not labels.numel():
        raise ValueError(f"labels: {tuple(labels.shape)}, expected one for each of {len(features)} rows, and a row")
    if not bool(torch.isfinite(features).all()):
        wrong = int((~torch.isfinite(features)).any(1).sum())
        raise ValueError(f"features: {wrong} of {len(features)} rows hold nan or infinity, expected finite numbers")
    if int(labels.min()) < 0 or int(labels.max()) >= num_classes:
        least, most = int(labels.min()), int(labels.max())
        raise ValueError(f"labels: from {least} to {most}, expected class numbers from 0 to {num_classes - 1}")


def _check_l2(l2: float) -> None:
    if not 0 <= l2 < math.inf:
        raise ValueError(f"l2: {l2}, expected a number of 0 or more")


def _groups(labels: Tensor, num_classes: int) -> Iterator[Tensor]:
    """Labels (P, N) in groups whose logits fit into :data:`MAX_LOGITS`."""
    return iter(labels.split(max(1, MAX_LOGITS // (labels.shape[1] * num_classes))))


def _join(fits: list[LinearFit]) -> LinearFit:
    return LinearFit(*(torch.cat(parts) for parts in zip(*fits, strict=True)))


def _priors(labels: Tensor, num_classes: int) -> Tensor:
    """Frequency of each class, (P, C)."""
    counts = torch.zeros(len(labels), num_classes, device=labels.device)
    counts.scatter_add_(1, labels, torch.ones_like(labels, dtype=torch.float32))
    return counts / labels.shape[1]


def fit_logistic(
    features: Tensor, labels: Tensor, num_classes: int, *, l2: float = 1.0, tol: float = 1e-4, max_iter: int = 500
) -> LinearFit:
    """Multinomial logistic regressions: each minimises its summed cross-entropy + l2 / 2 |weight|².

    That is what scikit-learn's ``LogisticRegression(C=1 / l2)`` minimises, to the same tolerance. All take the steps of
    L-BFGS side by side, each with its own step size, and leave when they are done. The Hessian that L-BFGS starts from
    is the Kronecker product of the features' second moments and the mean covariance of the predicted classes (as
    K-FAC's): its inverse costs one eigendecomposition for all classifiers and a small one for each, and is almost the
    answer where labels cannot be read.

    Args:
        features: (N, D), best standardised; the intercept assumes that they are near their mean of zero.
        labels: class numbers (P, N), 0 to ``num_classes`` - 1.
        num_classes: C.
        l2: strength of the penalty; the intercept has none.
        tol: largest entry of the mean gradient at which a classifier is done.
        max_iter: steps after which the rest is given up as not converged.

    Raises:
        ValueError: what :func:`check_rows` refuses, or a penalty that is none.
    """
    check_rows(features, labels, num_classes)
    _check_l2(l2)
    gram = features.double().T @ features.double()
    moments, basis = torch.linalg.eigh(gram)
    # Rotating the features changes neither the penalty nor the problem, and makes the preconditioner a division.
    rotated = torch.cat([(features.double() @ basis).float(), torch.ones_like(features[:, :1])], dim=1)
    moments = torch.cat([moments.clamp(min=0), torch.full_like(moments[:1], len(features))]).float()
    penalty = torch.full_like(moments, l2)
    penalty[-1] = 0
    fits = []
    for group in _groups(labels, num_classes):
        solver = _Lbfgs(rotated, moments, penalty, group, num_classes)
        weight, steps, converged = solver.run(tol, max_iter)
        turned = torch.einsum("de,pec->pdc", basis.float(), weight[:, :-1])
        absent = torch.where(_priors(group, num_classes) > 0, 0.0, -torch.inf)
        fits.append(LinearFit(turned, weight[:, -1] + absent, steps, converged))
    return _join(fits)


class _Lbfgs:
    """The classifiers that are not done yet. Weights are (D, P, C), so that all logits are one product (N, P * C)."""

    def __init__(self, features: Tensor, moments: Tensor, penalty: Tensor, labels: Tensor, num_classes: int) -> None:
        self.features, self.penalty = features, penalty[:, None, None]
        priors = _priors(labels, num_classes)
        self.labels = labels.T[..., None]  # (N, P, 1)
        self.absent = torch.where(priors > 0, 0.0, -torch.inf)
        self.moments = moments[:, None, None]
        self.weight = torch.zeros(features.shape[1], *priors.shape, device=features.device)
        self.weight[-1] = torch.where(priors > 0, priors, 1.0).log()
        self.scores = self._products(self.weight)
        self.history: list[tuple[Tensor, Tensor, Tensor]] = []  # step, change of gradient, 1 / their product
        self.value, self.log_sum = self._loss(self.scores, self.weight)
        self._set_curvature()

    def _set_curvature(self) -> None:
        """Take the Hessian to start from at the present predictions."""
        predicted = (self.scores + self.absent - self.log_sum).exp()
        mean = predicted.mean(0)
        products = torch.einsum("npc,npe->pce", predicted, predicted) / len(predicted)
        # Adding the same to all classes changes nothing, nor do absent ones: any curvature will do there but zero.
        present = (self.absent == 0).float()
        same = present / present.sum(-1, keepdim=True).sqrt()
        nothing = same[:, :, None] * same[:, None, :] + torch.diag_embed(1 - present)
        covariance, self.turn = torch.linalg.eigh(torch.diag_embed(mean) - products + nothing)
        self.curvature = (self.moments * covariance.clamp(min=1e-7) + self.penalty).clamp(min=1e-6 * len(predicted))

    def _products(self, weight: Tensor) -> Tensor:
        return (self.features @ weight.flatten(1)).view(len(self.features), *weight.shape[1:])

    def _loss(self, scores: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        log_sum = (scores + self.absent).logsumexp(-1, keepdim=True)
        loss = (log_sum - scores.gather(-1, self.labels)).sum((0, 2), dtype=torch.float64)
        return loss + 0.5 * (self.penalty * weight.square()).sum((0, 2), dtype=torch.float64), log_sum

    def _gradient(self) -> Tensor:
        residual = (self.scores + self.absent - self.log_sum).exp()
        residual.scatter_add_(-1, self.labels, residual.new_full((1, 1, 1), -1.0).expand_as(self.labels))
        return (self.features.T @ residual.flatten(1)).view_as(self.weight) + self.penalty * self.weight

    def _precondition(self, gradient: Tensor) -> Tensor:
        turned = torch.einsum("dpc,pce->dpe", gradient, self.turn) / self.curvature
        return torch.einsum("dpe,pce->dpc", turned, self.turn)

    def _direction(self, gradient: Tensor) -> Tensor:
        """The two loops of L-BFGS (Nocedal & Wright, algorithm 7.4), for every classifier by itself."""
        direction, shares = -gradient, []
        for step, change, inverse in reversed(self.history):
            shares.append(inverse * _dot(step, direction))
            direction = direction - shares[-1][:, None] * change
        direction = self._precondition(direction)
        for (step, change, inverse), share in zip(self.history, reversed(shares), strict=True):
            direction = direction + (share - inverse * _dot(change, direction))[:, None] * step
        return direction

    def _take_step(self, direction: Tensor, slope: Tensor) -> Tensor:
        """Go along the direction, half as far where that does not lower the loss; returns the step.

        The scores along a line are linear in the step size, so trying another one costs no product.
        """
        along = self._products(direction)
        size = torch.ones_like(slope)
        for _ in range(12):
            scores, weight = self.scores + size[:, None] * along, self.weight + size[:, None] * direction
            value, log_sum = self._loss(scores, weight)
            # single precision does not resolve smaller changes of the loss
            failed = value > self.value + 1e-4 * size * slope + 1e-6 * self.value.abs()
            if not failed.any():
                break
            size = torch.where(failed, size / 2, size)
        self.scores, self.weight, self.value, self.log_sum = scores, weight, value, log_sum
        return size[:, None] * direction

    def _keep(self, chosen: Tensor) -> None:
        """Go on with some of the classifiers."""
        self.labels, self.absent, self.turn = self.labels[:, chosen], self.absent[chosen], self.turn[chosen]
        self.scores, self.log_sum = self.scores[:, chosen], self.log_sum[:, chosen]
        self.curvature, self.weight, self.value = self.curvature[:, chosen], self.weight[:, chosen], self.value[chosen]
        self.history = [(step[:, chosen], change[:, chosen], inverse[chosen]) for step, change, inverse in self.history]

    def run(self, tol: float, max_iter: int) -> tuple[Tensor, Tensor, Tensor]:
        """Weights (P, D, C), steps (P,) and whether each converged (P,)."""
        number = self.weight.shape[1]
        found = torch.empty(number, len(self.weight), self.weight.shape[2], device=self.weight.device)
        steps, converged = torch.full((number,), max_iter), torch.zeros(number, dtype=torch.bool)
        places, gradient = torch.arange(number), self._gradient()
        for taken in range(max_iter + 1):
            done = (gradient.abs().amax((0, 2)) <= tol * len(self.features)).cpu()
            leaving = torch.ones_like(done) if taken == max_iter else done
            if leaving.any():
                found[places[leaving]] = self.weight[:, leaving].transpose(0, 1)
                steps[places[leaving]], converged[places[leaving]] = taken, done[leaving]
                if leaving.all():
                    break
                self._keep(~leaving)
                places, gradient = places[~leaving], gradient[:, ~leaving]
            if taken % REFRESH == 0 and taken:
                self._set_curvature()
            direction = self._direction(gradient)
            step = self._take_step(direction, _dot(gradient, direction))
            before, gradient = gradient, self._gradient()
            change = gradient - before
            product = _dot(step, change)
            # where rounding hides the curvature, the pair says nothing
            inverse = torch.where(product > 1e-10, 1 / product, 0.0)
            self.history = [*self.history[-MEMORY + 1 :], (step, change, inverse)]
        return found, steps, converged


def _dot(first: Tensor, second: Tensor) -> Tensor:
    """Inner product of each classifier, (P,)."""
    return (first * second).sum((0, 2))


def fit_ridge(features: Tensor, labels: Tensor, num_classes: int, *, l2: float = 1.0) -> LinearFit:
    """Ridge regressions on one-hot labels, in closed form: one factorisation for all classifiers.

    Args:
        features: (N, D).
        labels: class numbers (P, N).
        num_classes: C.
        l2: the penalty, scikit-learn's ``RidgeClassifier(alpha=l2)``.

    Raises:
        ValueError: what :func:`check_rows` refuses, or a penalty of 0 where rows do not fix the weights.
    """
    check_rows(features, labels, num_classes)
    _check_l2(l2)
    center = features.double().mean(0)
    centered = features.double() - center
    gram = centered.T @ centered + l2 * torch.eye(features.shape[1], dtype=torch.float64, device=features.device)
    factor, failed = torch.linalg.cholesky_ex(gram)
    if bool(failed):
        raise ValueError(
            f"l2: {l2} is too little for {len(features)} rows of {features.shape[1]} features, expected more"
        )
    fits = []
    for group in _groups(labels, num_classes):
        targets = F.one_hot(group, num_classes).double()
        mean = targets.mean(1)
        products = torch.einsum("nd,pnc->dpc", centered, targets - mean[:, None])
        weight = torch.cholesky_solve(products.flatten(1), factor).view_as(products).transpose(0, 1)
        bias = mean - torch.einsum("d,pdc->pc", center, weight)
        bias = torch.where(mean > 0, bias, -torch.inf)
        done = torch.ones(len(group), dtype=torch.long)
        fits.append(LinearFit(weight.float(), bias.float(), done, done.bool()))
    return _join(fits)


def fit_adamw(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    seed: int,
    steps: int = 4000,
    lr: float = 1e-3,
    batch_size: int = 256,
    on_step: Callable[[int], None] | None = None,
) -> LinearFit:
    """The probes of Jain et al. (arXiv 2311.12786, App. D): AdamW, its rate divided by ten at 1/2, 3/4 and 7/8.

    All classifiers see the same batches; AdamW acts on every weight by itself, so each is what it would be alone.
    Deviations: the paper does not print the batch size, and starts from random weights where these start from zero,
    which for a convex loss changes the way and not the goal.

    Args:
        features: (N, D), as they are in the model.
        labels: class numbers (P, N).
        num_classes: C.
        seed: of the batches.
        steps, lr, batch_size: of training.
        on_step: called with the number of each step taken.

    Raises:
        ValueError: what :func:`check_rows` refuses.
    """
    check_rows(features, labels, num_classes)
    extended = torch.cat([features, torch.ones_like(features[:, :1])], dim=1)
    generator = torch.Generator().manual_seed(seed)
    batches = torch.randint(len(features), (steps, min(batch_size, len(features))), generator=generator)
    fits = []
    for group in _groups(labels, num_classes):
        absent = torch.where(_priors(group, num_classes) > 0, 0.0, -torch.inf)
        weight = torch.zeros(extended.shape[1], len(group), num_classes, device=features.device, requires_grad=True)
        optimizer = torch.optim.AdamW([weight], lr=lr, foreach=True)
        milestones = [steps // 2, steps * 3 // 4, steps * 7 // 8]
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones)
        for number, batch in enumerate(batches):
            scores = (extended[batch] @ weight.flatten(1)).view(len(batch), *weight.shape[1:]) + absent
            optimizer.zero_grad(set_to_none=True)
            # the sum over classifiers: each has the gradient of its own mean loss
            F.cross_entropy(scores.movedim(-1, 1), group.T[batch], reduction="sum").div(len(batch)).backward()
            optimizer.step()
            schedule.step()
            if on_step is not None:
                on_step(number + 1)
        found = weight.detach().transpose(0, 1)
        counts = torch.full((len(group),), steps)
        fits.append(LinearFit(found[:, :-1], found[:, -1] + absent, counts, torch.ones_like(counts).bool()))
    return _join(fits)
