"""Exact ablation: the loss with each unit of a model zeroed by itself.

Many units are ablated in one forward pass, each in its own copy of the rows, and what an ablation cannot change is not
computed again: the blocks before the unit's, the unit's own block where it only adds to the stream, and in the last
block all that is not the last position's, but for the keys and values that it attends to. Every shortcut is first tried
on the model at hand, and not taken where it changes the logits.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import torch
from accelerate.utils import recursively_apply
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from ftmech_hf.activations.calls import adding_at, answer_position, last_query, replaced
from ftmech_hf.activations.interventions import on_input, on_output, rows_of
from ftmech_hf.activations.proofs import first_tensor
from ftmech_hf.activations.units import Unit, UnitGroup, find_units
from ftmech_hf.activations.whole_pass import WholePass
from ftmech_hf.models.compiled import NEVER
from ftmech_hf.models.tolerance import tolerance_of

MAX_ROWS = 128
"""Rows of one pass through a block: copies of the given rows, one per ablated unit. More do not fit into caches."""

READ_ROWS = 512
"""Rows that are turned into logits together: only their last position is left then."""


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
    for rows, answers in zip(token_ids.split(max_rows), targets.split(max_rows), strict=True):
        ablation = _Ablation(model, rows.to(model.device), answers.to(model.device))
        share = len(rows) / len(token_ids)
        whole += ablation.clean_loss * share
        for name, group in units.items():
            losses[name] += ablation.losses(group, max(1, max_rows // len(rows))) * share
    return whole, losses


class _NoRowsError(Exception):
    """A matrix is given something else than rows of tokens, so that copies of rows cannot differ in it."""


class _Ablation(WholePass):
    """One batch of rows, run through the model from any block on: blocks are called as the model called them."""

    def __init__(self, model: PreTrainedModel, token_ids: Tensor, targets: Tensor) -> None:
        self.targets = targets
        last = token_ids.shape[1] - 1
        found = answer_position(model)
        at = last if found is None else found
        if at > last:
            raise ValueError(f"token_ids: rows of {last + 1} tokens, expected more: the model answers at position {at}")
        self.answers_last = at == last
        self.answer = slice(-1, None) if self.answers_last else slice(at, at + 1)
        super().__init__(model, token_ids)
        self._check_targets()
        self.clean_loss = float(F.cross_entropy(self.logits, targets))
        last = len(self.blocks) - 1
        self.trims_last_block = False
        if not self._agrees(lambda: self._left_by(0, self.before[0].repeat(2, 1, 1)), self.logits.repeat(2, 1)):
            kind = model.config.model_type
            raise ValueError(f"model: the blocks of {kind}, run one after the other, do not give its logits")
        self.trims_last_block = bool(self.layout.layers[last].attention_out)
        self.trims_last_block = self.trims_last_block and self._agrees(
            lambda: self._left_by(last, self.before[last]), self.logits
        )

    def _check_targets(self) -> None:
        outputs = self.logits.shape[-1]
        if outputs < 2:
            raise ValueError(f"model: {self.model.config.model_type} gives a number and no words, which have losses")
        if not 0 <= int(self.targets.min()) <= int(self.targets.max()) < outputs:
            given = f"{int(self.targets.min())} to {int(self.targets.max())}"
            raise ValueError(f"targets: {given}, expected 0 to {outputs - 1}, the tokens of the model")

    def _agrees(self, shortcut: Callable[[], Tensor], expected: Tensor) -> bool:
        """Whether what a shortcut leaves gives the logits that it should; one that fails to run does not."""
        try:
            found = self._read(shortcut())
        except (RuntimeError, TypeError, ValueError, LookupError, AttributeError):
            return False
        possible = expected > NEVER  # others, such as words that a program never says, are no measure of a spread
        if found.shape != expected.shape or not torch.equal(found > NEVER, possible):
            return False
        spread = expected[possible].max() - expected[possible].min()
        return bool((found - expected)[possible].abs().max() <= tolerance_of(self.model) * spread)

    def _left_by(self, layer: int, stream: Tensor) -> Tensor:
        """What the last block leaves where the answer is (R, 1, D), if a stream (R, T, D) enters a block.

        R is a multiple of the number of rows. Behind the last block it is the stream itself.
        """
        for number in range(layer, len(self.blocks)):
            stream = self._run_block(number, stream)
        return stream if stream.shape[1] == 1 else stream[:, self.answer]

    def _read(self, stream: Tensor) -> Tensor:
        """Logits (R, V) of what the last block leaves where the answer is."""
        length = 1 if self.answers_last else self.token_ids.shape[1]
        stream = stream.expand(-1, length, -1)
        with contextlib.ExitStack() as stack:
            for number, block in enumerate(self.blocks):
                stack.enter_context(replaced(block, stream if number == 0 else None, self.returned))
            return self.forward(self.token_ids[:, -length:].repeat(len(stream) // len(self.token_ids), 1))

    def _run_block(self, number: int, stream: Tensor) -> Tensor:
        """The stream leaving a block; if that is the last and trimmed, where the answer is alone."""
        block, copies = self.blocks[number], len(stream) // len(self.token_ids)
        per_row = iter(self.per_row[number])

        def repeated(value: Tensor) -> Tensor:
            return value.repeat(copies, *[1] * (value.ndim - 1)) if next(per_row) else value

        args, kwargs = recursively_apply(repeated, self.given[number])
        with contextlib.ExitStack() as stack:
            if self.trims_last_block and number + 1 == len(self.blocks):
                # The block adds to one position of the stream, and its attention reads all of them.
                assert self.first_part is not None
                whole, stream = stream, stream[:, self.answer]
                reader = block.get_submodule(self.layout.layers[number].attention_out)
                stack.enter_context(adding_at(self.first_part, reader, lambda: whole, self.answer))
                if self.answers_last:
                    stack.enter_context(last_query(self.model))
            output = block(stream, *args, **kwargs)
        left = first_tensor(output)
        assert left is not None
        return left

    def losses(self, group: UnitGroup, per_pass: int) -> Tensor:
        """The loss without each unit of a group, (N,)."""
        run = self._without_units if group.is_hooked else self._without_slices
        if self._activations(group) is not None:
            strongest = self._added(group, torch.arange(group.num_units)).norm(dim=-1).argmax()[None].cpu()
            slow = self._read(run(group, strongest))
            if self._adds(group) and self._agrees(lambda: self._without_added(group, strongest), slow):
                run = self._without_added
        found = []
        per_read = max(per_pass, READ_ROWS // len(self.token_ids))
        for read in torch.arange(group.num_units).split(per_read):
            try:
                left = [run(group, chosen) for chosen in read.split(per_pass)]
            except _NoRowsError:
                run = self._without_slices
                left = [run(group, chosen) for chosen in read.split(per_pass)]
            logits = self._read(torch.cat(left))
            targets = self.targets.repeat(len(read))
            found.append(F.cross_entropy(logits, targets, reduction="none").view(len(read), -1).mean(1))
        return torch.cat(found).cpu()

    def _without_units(self, group: UnitGroup, chosen: Tensor) -> Tensor:
        """What is left (U * B, 1, D) without each chosen unit, run from the unit's block on."""
        width = group.weight.shape[group.axis]
        gone = torch.zeros(len(chosen), width, dtype=torch.bool)
        gone.scatter_(1, group.places(chosen), True)
        # (U * B, 1, width): the unit of every copy of the rows
        gone = gone.repeat_interleave(len(self.token_ids), dim=0)[:, None].to(self.model.device)
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
                return self._left_by(group.layer, stream)
            finally:
                handle.remove()

    def _without_slices(self, group: UnitGroup, chosen: Tensor) -> Tensor:
        """The same for a matrix that no hook reaches row by row, as one of many experts': slices are zero in turn."""
        weight, left = group.weight.detach(), []
        for places in group.places(chosen.to(weight.device)):
            kept = weight.index_select(group.axis, places)
            weight.index_fill_(group.axis, places, 0.0)
            try:
                left.append(self._run_block(group.layer, self.before[group.layer]))
            finally:
                weight.index_copy_(group.axis, places, kept)
        return self._left_by(group.layer + 1, torch.cat(left))

    def _added(self, group: UnitGroup, chosen: Tensor) -> Tensor:
        """What each chosen MLP neuron writes, by the direction that it writes in: (U, D) times a mean activation."""
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
            left = self._run_block(group.layer, self.before[group.layer])
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
        activations = found[:, positions, chosen.to(found.device)].permute(2, 0, 1)
        columns = self._columns(group, chosen)
        # (U, B, T, D), in one product per copy of the rows
        stream = self.after[layer][None, :, positions] - activations[..., None] * columns[:, None, None]
        return self._left_by(layer + 1, stream.flatten(0, 1).contiguous())
