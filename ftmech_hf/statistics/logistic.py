"""Multinomial logistic regressions: many fitted at once by L-BFGS, as exactly as scikit-learn fits each by itself."""

from __future__ import annotations

import torch
from torch import Tensor

from ftmech_hf.statistics.linear_classifiers import (
    LinearFit,
    check_l2,
    check_rows,
    class_priors,
    join_fits,
    label_groups,
)

MEMORY = 20
"""Pairs of steps and gradients that L-BFGS keeps."""

REFRESH = 5
"""Steps after which L-BFGS starts from a new Hessian: the loss flattens as predictions grow sure."""


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
    check_l2(l2)
    gram = features.double().T @ features.double()
    moments, basis = torch.linalg.eigh(gram)
    # Rotating the features changes neither the penalty nor the problem, and makes the preconditioner a division.
    rotated = torch.cat([(features.double() @ basis).float(), torch.ones_like(features[:, :1])], dim=1)
    moments = torch.cat([moments.clamp(min=0), torch.full_like(moments[:1], len(features))]).float()
    penalty = torch.full_like(moments, l2)
    penalty[-1] = 0
    fits = []
    for group in label_groups(labels, num_classes):
        solver = _Lbfgs(rotated, moments, penalty, group, num_classes)
        weight, steps, converged = solver.run(tol, max_iter)
        turned = torch.einsum("de,pec->pdc", basis.float(), weight[:, :-1])
        absent = torch.where(class_priors(group, num_classes) > 0, 0.0, -torch.inf)
        fits.append(LinearFit(turned, weight[:, -1] + absent, steps, converged))
    return join_fits(fits)


class _Lbfgs:
    """The classifiers that are not done yet. Weights are (D, P, C), so that all logits are one product (N, P * C)."""

    def __init__(self, features: Tensor, moments: Tensor, penalty: Tensor, labels: Tensor, num_classes: int) -> None:
        self.features, self.penalty = features, penalty[:, None, None]
        priors = class_priors(labels, num_classes)
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
