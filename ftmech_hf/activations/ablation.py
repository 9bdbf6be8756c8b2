"""Exact ablation: the loss with each unit of a model zeroed by itself.

Many units are ablated in one forward pass, each in its own copy of the rows, and what an ablation cannot change is not
computed again: the blocks before the unit's, the unit's own block where it only adds to the stream, and in the last
block all that is not the last position's, but for the keys and values that it attends to. Every shortcut is first tried
on the model at hand, and not taken where it changes the logits: for each group of units, those that it gives without
half of them at a time are compared with those of a pass of the whole model in which their weights are really zero. No
hook sees a weight that is read beside its module's call, and a block by itself does not see what passes beside the
stream. Where that makes a difference, every unit costs a pass of the whole model.
"""

from __future__ import annotations

import functools
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from ftmech_hf.activations.agreement import same_logits
from ftmech_hf.activations.blocks_again import BlocksAgain
from ftmech_hf.activations.interventions import on_input, on_output, rows_of
from ftmech_hf.activations.units import Unit, UnitGroup, find_units
from ftmech_hf.activations.whole_pass import zeroed

MAX_ROWS = 128
"""Rows of one pass through a block: copies of the given rows, one per ablated unit. More do not fit into caches."""

READ_ROWS = 512
"""Rows that are turned into logits together: only their last position is left then."""

TRIAL_ROWS = 4
"""Rows on which the shortcuts are tried; all of them where nothing changes in these, as without an expert of others."""

Way = Literal["added", "block", "model"]
"""How much is computed again: what is behind the unit's block, the block too, or the whole model."""


@torch.no_grad()
def ablated_losses(
    model: PreTrainedModel, token_ids: Tensor, targets: Tensor, unit: Unit, *, max_rows: int = MAX_ROWS
) -> tuple[float, dict[str, Tensor]]:
    """Mean loss of predicting the token after each row, as the model is and with every unit zeroed by itself.

    Args:
        model: any causal LM, in evaluation mode. One whose config has an ``answer_position``, as compiled programs
            have, answers there and not at the last position.
        token_ids: rows without padding, (B, T).
        targets: the token after each, (B,); for a compiled program the answer.
        unit: ``row``, ``activation`` or ``head``; single weights are too many.
        max_rows: copies of rows in one forward pass, which bounds memory.

    Returns:
        the loss of the whole model, and group -> loss without each of its units, (N,), in nats.

    Raises:
        ValueError: targets that are no outputs of the model, which a compiled program's number has none of.
    """
    if unit == "weight":
        raise ValueError("unit: weight has too many units to ablate each, expected row, activation or head")
    units = find_units(model, unit)
    whole, losses = 0.0, {name: torch.zeros(group.num_units) for name, group in units.items()}
    ways: dict[str, Way] = {}
    for rows, answers in zip(token_ids.split(max_rows), targets.split(max_rows), strict=True):
        ablation = _Ablation(model, rows.to(model.device), answers.to(model.device))
        share = len(rows) / len(token_ids)
        whole += ablation.clean_loss * share
        for name, group in units.items():
            way, told = (ways[name], True) if name in ways else ablation.find_way(group)
            if told:
                ways[name] = way
            losses[name] += ablation.losses(group, max(1, max_rows // len(rows)), way) * share
    return whole, losses


class _NoRowsError(Exception):
    """A matrix is given something else than rows of tokens, so that copies of rows cannot differ in it."""


class _Ablation(BlocksAgain):
    """One batch of rows, of which the loss is known and what units do to it."""

    def __init__(self, model: PreTrainedModel, token_ids: Tensor, targets: Tensor) -> None:
        super().__init__(model, token_ids)
        self.targets = targets
        self.few: _Ablation | None = None
        self.fed: int | None = None
        self.unhooked: set[UnitGroup] = set()
        self._check_targets()
        self.clean_loss = float(F.cross_entropy(self.logits, targets))

    def _check_targets(self) -> None:
        outputs = self.logits.shape[-1]
        if outputs < 2:
            raise ValueError(f"model: {self.model.config.model_type} gives a number and no words, which have losses")
        if not 0 <= int(self.targets.min()) <= int(self.targets.max()) < outputs:
            given = f"{int(self.targets.min())} to {int(self.targets.max())}"
            raise ValueError(f"targets: {given}, expected 0 to {outputs - 1}, the tokens of the model")

    def find_way(self, group: UnitGroup) -> tuple[Way, bool]:
        """The least to compute that gives what the whole model gives without units of a group.

        Returns:
            it, and whether the model gave anything else without them, by which alone that can be told.
        """
        if self.few is None:
            first = slice(TRIAL_ROWS)
            fewer = len(self.token_ids) > TRIAL_ROWS
            self.few = _Ablation(self.model, self.token_ids[first], self.targets[first]) if fewer else self
        way, told = self.few._try_ways(group)
        return (way, told) if told or self.few is self else self._try_ways(group)

    def _try_ways(self, group: UnitGroup) -> tuple[Way, bool]:
        if self.fed is None:
            self.fed = self.find_fed()
        if group.layer < self.fed:
            return "model", True
        order = torch.randperm(group.num_units, generator=torch.Generator().manual_seed(0))
        half = (len(order) + 1) // 2
        halves = torch.stack([order[:half], order[-half:]])
        clean, zero = self.logits.repeat(2, 1), torch.cat([self.logits_zeroed(group, each) for each in halves])
        told = not torch.equal(zero, clean)
        # a change that is too little to be compared must be there at least
        must_change = told and same_logits(self.model, zero, clean)
        for way in self._ways(group):
            agrees = self.agrees(functools.partial(self._without, group, halves, way), zero)
            if agrees and not (must_change and self._is_nothing(group, halves, way)):
                return way, told
        return "model", told

    def _is_nothing(self, group: UnitGroup, chosen: Tensor, way: Way) -> bool:
        """Whether all is the same to the bit without the chosen units."""
        untouched = self.before[group.layer].repeat(len(chosen), 1, 1)
        return torch.equal(self._without(group, chosen, way), self.left_by(group.layer, untouched))

    def _ways(self, group: UnitGroup) -> list[Way]:
        """Ways that there are beside the whole model, that with the least to compute first."""
        return ["added", "block"] if self._can_add(group) else ["block"]

    def _can_add(self, group: UnitGroup) -> bool:
        if self._activations(group) is None:
            return False
        strongest = self._added(group, torch.arange(group.num_units)).norm(dim=-1).argmax()[None, None].cpu()
        slow = self.read(self._without(group, strongest, "block"))
        return self._adds(group) and self.agrees(lambda: self._without_added(group, strongest), slow)

    def losses(self, group: UnitGroup, per_pass: int, way: Way) -> Tensor:
        """The loss without each unit of a group, (N,)."""
        found = []
        per_read = max(per_pass, READ_ROWS // len(self.token_ids))
        for read in torch.arange(group.num_units)[:, None].split(per_read):
            if way == "model":
                logits = torch.cat([self.logits_zeroed(group, unit) for unit in read])
            else:
                logits = self.read(torch.cat([self._without(group, chosen, way) for chosen in read.split(per_pass)]))
            targets = self.targets.repeat(len(read))
            found.append(F.cross_entropy(logits, targets, reduction="none").view(len(read), -1).mean(1))
        return torch.cat(found).cpu()

    def _without(self, group: UnitGroup, chosen: Tensor, way: Way) -> Tensor:
        """What is left (U * B, 1, D) in U copies of the rows, each without the units (U, K) that are chosen for it."""
        if way == "added":
            return self._without_added(group, chosen)
        if group.is_hooked and group not in self.unhooked:
            try:
                return self._without_units(group, chosen)
            except _NoRowsError:
                self.unhooked.add(group)
        return self._without_slices(group, chosen)

    def _without_units(self, group: UnitGroup, chosen: Tensor) -> Tensor:
        """What is left without them, run from the units' block on."""
        width = group.weight.shape[group.axis]
        gone = torch.zeros(len(chosen), width, dtype=torch.bool)
        gone.scatter_(1, group.places(chosen.flatten()).view(len(chosen), -1), True)
        # (U * B, 1, width): the units of every copy of the rows
        gone = gone.repeat_interleave(len(self.token_ids), dim=0)[:, None].to(group.weight.device)
        stream = self.before[group.layer].repeat(len(chosen), 1, 1)
        bias = getattr(group.module, "bias", None) if group.side == "output" else None
        fill = torch.zeros(width, device=gone.device) if bias is None else bias

        def without(value: Tensor) -> Tensor:
            if value.ndim != 3 or len(value) != len(gone):
                raise _NoRowsError
            return torch.where(gone, fill.to(value.dtype), value)

        with rows_of(self.blocks[group.layer]) as by_rows:
            write = on_input if group.side == "input" else on_output
            handle = write(group.module, by_rows(without))
            try:
                return self.left_by(group.layer, stream)
            finally:
                handle.remove()

    def _without_slices(self, group: UnitGroup, chosen: Tensor) -> Tensor:
        """The same for a matrix that no hook reaches row by row, as one of many experts': slices are zero in turn."""
        left = []
        for units in chosen:
            with zeroed(group, units):
                left.append(self.run_block(group.layer, self.before[group.layer]))
        return self.left_by(group.layer + 1, torch.cat(left))

    def _added(self, group: UnitGroup, chosen: Tensor) -> Tensor:
        """What each chosen MLP neuron writes, by the direction that it writes in: (N, D) times a mean activation."""
        columns = self._columns(group, chosen)
        activations = self._activations(group)
        assert activations is not None
        return columns * activations.abs().mean((0, 1))[chosen.to(columns.device), None]

    def _activations(self, group: UnitGroup) -> Tensor | None:
        """What neurons of an MLP or an expert are multiplied by on their way to the stream, (B, T, N), or None."""
        layer, parts = group.layer, self.layout.layers[group.layer]
        if group.side != "input":
            return None
        if group.expert is not None:
            return self.expert_activations(layer, group.expert)
        is_last = parts.mlp_down and group.module is self.blocks[layer].get_submodule(parts.mlp_down)
        return self.neurons[layer] if is_last else None

    def _columns(self, group: UnitGroup, chosen: Tensor) -> Tensor:
        weight = group.weight if group.reads_first else group.weight.T
        return weight[chosen.to(weight.device)]

    def _adds(self, group: UnitGroup) -> bool:
        """Whether all that these MLP neurons do to the stream is to add what they write, with no norm between.

        One neuron's part of the logits may be less than half precision tells apart; that of all of them is not.
        """
        activations, weight = self._activations(group), group.weight.detach()
        assert activations is not None
        kept = weight.clone()
        weight.zero_()
        try:
            left = self.run_block(group.layer, self.before[group.layer])
        finally:
            weight.copy_(kept)
        written = activations.float() @ self._columns(group, torch.arange(group.num_units)).float()
        after = self.after[group.layer]
        if left.shape[1] != after.shape[1]:
            written, after = written[:, self.answer], after[:, self.answer]
        apart = (after.float() - left.float() - written).norm()
        rounding = torch.finfo(after.dtype).eps / 2 * after.float().norm()
        return bool(apart <= 0.1 * written.norm() + rounding)

    def _without_added(self, group: UnitGroup, chosen: Tensor) -> Tensor:
        """The same for MLP neurons that only add to the stream: it is known what leaves their block without them."""
        layer, last = group.layer, group.layer + 1 == len(self.blocks)
        positions = self.answer if last else slice(None)
        found = self._activations(group)
        assert found is not None
        # (U, B, T, K) and (U, 1, K, D); of single neurons, which most are, a plain product is faster
        activations = found[:, positions][..., chosen.to(found.device)].permute(2, 0, 1, 3)
        columns = self._columns(group, chosen)[:, None]
        written = activations * columns if chosen.shape[1] == 1 else activations @ columns
        stream = self.after[layer][None, :, positions] - written  # (U, B, T, D)
        return self.left_by(layer + 1, stream.flatten(0, 1).contiguous())
