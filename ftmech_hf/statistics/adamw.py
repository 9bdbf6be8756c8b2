"""Linear probes trained by AdamW, as Jain et al. (arXiv 2311.12786, App. D) train theirs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ftmech_hf.statistics.linear_classifiers import LinearFit, check_rows, class_priors, join_fits, label_groups


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
    batches = torch.randint(len(features), (steps, min(batch_size, len(features))), generator=generator).to(
        features.device
    )
    fits = []
    for group in label_groups(labels, num_classes):
        absent = torch.where(class_priors(group, num_classes) > 0, 0.0, -torch.inf)
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
    return join_fits(fits)
