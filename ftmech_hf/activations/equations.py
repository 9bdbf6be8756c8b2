"""Which parts of one block add to the stream: equations between tensors that must hold in every copy of a row.

The copies are those of a :class:`ftmech_hf.activations.block_record.BlockRecord`: one row, in each of which something
else was moved.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from ftmech_hf.activations.block_record import BlockRecord, fit_factors, is_near, norms
from ftmech_hf.activations.matrices import find_matrices, is_inside
from ftmech_hf.activations.routed import find_routed


class BlockParts(NamedTuple):
    """Parts of one block that were shown to be what they are taken for, the likeliest first; paths from the block.

    Attributes:
        attention: the module that attention is computed in; empty if there is not one.
        added: (module, constant): the stream receives the first output of the module times the constant.
        heads: matrices of the attention whose output, or its norm, is what the stream receives.
        neurons: the same of the MLP: the stream receives nothing but this and the attention's.
        why_not: what was sought (``added``, ``heads``, ``neurons``, ``experts``, ``shared``) and not found -> why.
        order: (``in`` or ``out``, path), as the block computes.
        experts: what holds its routed experts; empty if there are none.
        shared: last matrices of experts that every token passes beside those.
    """

    attention: str
    added: list[tuple[str, float]]
    heads: list[str]
    neurons: list[str]
    why_not: dict[str, str]
    order: list[tuple[str, str]]
    experts: str = ""
    shared: list[str] = []  # noqa: RUF012, never changed


class _Sum(NamedTuple):
    """Where the stream receives the attention's part."""

    path: str
    constant: float
    value: Tensor  # the stream behind it, without the MLP's part
    copies: list[int]  # in which it was to be shown


class Equations:
    """The equations of one block.

    An equation about what a module writes is not checked in the copies in which what its value passes through on its
    way to the stream was moved; in the copy in which the module itself was moved, it is.

    Args:
        block: which.
        record: what it computed.
        constants: numbers by which a part may be multiplied before it is added, beside 1.
        tolerance: how far the sides of an equation may be apart, relative to their size.
    """

    def __init__(self, block: nn.Module, record: BlockRecord, constants: set[float], tolerance: float) -> None:
        self.block, self.record, self.tolerance = block, record, tolerance
        self.constants = constants | {1.0}
        self.last = {path: place for place, (where, path) in enumerate(record.order) if where == "out"}
        self.written = sorted(record.streams(), key=lambda path: -self.last[path])  # what is last, first
        self.matrices = find_matrices(block)
        self.copies = list(range(record.copies))
        self.changed = [record.changed_in(copy) for copy in self.copies]
        self._sizes: dict[int, tuple[Tensor, Tensor]] = {}
        self._near: dict[tuple[int, int], tuple[Tensor, Tensor, list[bool]]] = {}

    def parts(self) -> BlockParts:
        """What was found, and why the rest was not."""
        why_not: dict[str, str] = {}
        mixers = self._mixers()
        attention = [name for name in mixers if self._is_attention(name)]
        mixers = attention or mixers
        chain = self._chain(mixers[0]) if len(mixers) == 1 else []
        nothing = _Sum("", 1.0, self.record.entered, self.copies)
        sums = list(self._sums(chain)) if mixers else [nothing]
        if not attention:
            why_not["added"] = f"has no attention{f', but {mixers[0]}' if mixers else ''}"
        elif len(attention) != 1:
            why_not["added"] = f"has {len(attention)} attentions ({', '.join(attention)}), expected one"
        elif not sums:
            why_not["added"] = f"adds nothing to the stream that a module inside or behind {attention[0]} returns"
        added = list(dict.fromkeys((each.path, each.constant) for each in sums)) if attention else []
        heads = self._makers([path for path, _ in added], self._inside(attention[0])) if added else []
        if not heads:
            why_not["heads"] = why_not.get("added", f"has no matrix in {''.join(attention)} that makes what it adds")
        neurons = self._neurons(sums, chain)
        outside = [path for path in self.matrices if not is_inside(path, mixers)]
        experts, shared = find_routed(self.record, outside, mixers, self.tolerance, why_not)
        if not neurons:
            others = self._no_matrices(mixers)
            hint = f"; it has weights in {', '.join(others)}" if others else ""
            beside = f"its {'attention' if attention else mixers[0]}" if mixers else "nothing"
            why_not["neurons"] = f"adds something beside {beside} that is not one matrix's output{hint}"
            if any(self._equal(each.value, self.record.left, each.copies) for each in sums):
                why_not["neurons"] = f"adds nothing beside {beside}: it has no MLP"
        only = attention[0] if len(attention) == 1 else ""
        return BlockParts(only, added, heads, neurons, why_not, self.record.order, experts, shared)

    def _mixers(self) -> list[str]:
        """Children with a matrix that carry something from token to token, and those that are called attention.

        Where other tokens were moved and a child reads the same at the last one, it returns something else there.
        Cross-attention is not called.
        """
        record, found = self.record, []
        for name, _ in self.block.named_children():
            if name not in self.last or not self._inside(name):
                continue
            read, wrote = record.read.get(name), record.wrote.get(name)
            carries = (
                read is not None
                and wrote is not None
                and read.shape == record.entered.shape
                and self._is_near(read[1, -1], read[0, -1])
                and not self._is_near(wrote[1, -1], wrote[0, -1])
            )
            if self._is_attention(name) or carries:
                found.append(name)
        return found

    def _is_attention(self, name: str) -> bool:
        """Whether a child, or its class, is called attention."""
        if "norm" in name or "drop" in name:
            return False
        # a layer of a transformer may have the word in its class' name, but not at its end
        is_class = type(self.block.get_submodule(name)).__name__.endswith("Attention")
        return is_class or "attn" in name or "attention" in name

    def _inside(self, parent: str) -> list[str]:
        """Matrices inside a module; what is last, first."""
        return [path for path in reversed(self.matrices) if is_inside(path, [parent])]

    def _chain(self, attention: str) -> list[str]:
        """Modules that write what may be the attention's part: inside it, and norms and the like behind it."""
        chain = {path for path in self.written if path == attention or path.startswith(f"{attention}.")}
        while True:
            behind = {
                path
                for path in self.written
                if path not in chain and path not in self.matrices and not self._inside(path)
                if any(self._reads(path, self.record.wrote[each], self.copies) for each in chain)
            }
            if not behind:
                return [path for path in self.written if path in chain]
            chain |= behind

    def _but_after(self, path: str, passed: Sequence[str], copies: Sequence[int] | None = None) -> list[int]:
        """Copies without those in which one of some modules that write after another was changed."""
        after = {each for each in passed if self.last[each] > self.last[path]}
        among = self.copies if copies is None else copies
        return [copy for copy in among if self.changed[copy] not in after]

    def _reads(self, path: str, value: Tensor, copies: Sequence[int]) -> bool:
        read = self.record.read.get(path)
        return read is not None and read.shape == value.shape and self._equal(read, value, copies)

    def _equal(self, one: Tensor, other: Tensor, copies: Sequence[int]) -> bool:
        """In every one of some copies; asked of the same two values over and over, and computed once."""
        if (key := (id(one), id(other))) not in self._near:
            near = norms(one - other) <= self.tolerance * self._size(other)
            self._near[key] = one, other, near.tolist()  # values are kept, so that no other has their ids
        return all(self._near[key][-1][copy] for copy in copies)

    def _size(self, value: Tensor) -> Tensor:
        """The norm of a value in each copy, (copies,)."""
        if id(value) not in self._sizes:
            self._sizes[id(value)] = value, norms(value)
        return self._sizes[id(value)][-1]

    def _constants(self, rest: Tensor, parts: list[Tensor], size: Tensor, copies: Sequence[int]) -> list[float] | None:
        """Constants with which parts add up to the rest, in every copy; None if there are none that are known.

        Every part must matter: the equation would not hold without it, in one copy at least.
        """
        among = list(copies)
        wanted, columns = rest[among], [part[among] for part in parts]
        known = [self._nearest(value) for value in fit_factors(wanted, columns)]
        limits = self.tolerance * self._size(size)[among]
        sizes = (abs(each) * self._size(part)[among] for each, part in zip(known, parts, strict=True))
        if not all(bool((each > limits / 10).any()) for each in sizes):
            return None
        left = wanted - sum(each * column for each, column in zip(known, columns, strict=True))
        return known if bool((norms(left) <= limits).all()) else None

    def _nearest(self, value: float) -> float:
        return min(self.constants, key=lambda known: abs(known - value))

    def _sums(self, chain: list[str]) -> Iterator[_Sum]:
        """Every way to see the stream receive the attention's part: alone, or together with the MLP's."""
        entered, left, wrote = self.record.entered, self.record.left, self.record.wrote
        targets = [value for value in self.record.read.values() if value.shape == left.shape] + [left]
        for path in chain:
            copies = self._but_after(path, chain)
            for target in targets:
                found = self._constants(target - entered, [wrote[path]], target, copies)
                if found and self._goes_on(each := _Sum(path, found[0], target, copies), chain):
                    yield each
                    break
        others = [path for path in self.written if path not in chain]
        for path in chain:
            for other in others:
                copies = self._but_after(other, others, self._but_after(path, chain))
                if found := self._constants(left - entered, [wrote[path], wrote[other]], left, copies):
                    yield _Sum(path, found[0], entered + found[0] * wrote[path], copies)

    def _goes_on(self, behind: _Sum, chain: list[str]) -> bool:
        """Whether the stream behind a block is that sum, or that and what one or two other modules return."""
        if self._equal(behind.value, self.record.left, behind.copies):
            return True
        others = [path for path in self.written if path not in chain]
        if any(self._adds_the_rest(behind, path, others) for path in others):
            return True
        left, wrote = self.record.left, self.record.wrote
        return any(
            self._constants(left - behind.value, [wrote[one], wrote[two]], left, copies)
            for one, two in itertools.combinations(others, 2)
            if (copies := self._but_after(one, others, self._but_after(two, others, behind.copies)))
        )

    def _makers(self, added: list[str], among: list[str]) -> list[str]:
        """Matrices whose output is what is added, or what a norm before that reads."""
        return [path for path in among if any(self._makes(path, each) for each in added)]

    def _makes(self, matrix: str, path: str) -> bool:
        """Whether a module returns a function of a matrix's output at the same position, and of no other matrix's."""
        record = self.record
        if matrix not in record.held or self.last[matrix] > self.last[path]:
            return False
        held, moved = (copies + names.index(matrix) for copies, names in (
            (2 + len(record.moved), record.held), (2, record.moved)))  # fmt: skip
        wrote = record.wrote[path]
        between = [
            each
            for each in self.matrices
            if each in record.read and self.last[matrix] < self.last[each] <= self.last[path]
        ]
        return (
            self._is_near(wrote[held], wrote[0])
            and not self._is_near(wrote[moved], wrote[0])
            and self._is_near(wrote[moved, -1], wrote[0, -1])
            and all(self._is_near(record.read[each][moved], record.read[each][0]) for each in between)
        )

    def _is_near(self, value: Tensor, other: Tensor) -> bool:
        return is_near(value, other, self.tolerance)

    def _neurons(self, sums: list[_Sum], chain: list[str]) -> list[str]:
        """Matrices outside attention that make all that the stream receives beside the attention's part."""
        found: list[str] = []
        others = [path for path in self.written if path not in chain]
        for each in sums:
            adding = [path for path in others if self._adds_the_rest(each, path, others)]
            for matrix in self._makers(adding, [path for path in reversed(self.matrices) if path in others]):
                if matrix not in found and matrix in self.record.read and self._is_local(matrix, each):
                    found.append(matrix)
        return found

    def _adds_the_rest(self, behind: _Sum, path: str, others: list[str]) -> bool:
        """Whether a module's output times a constant is all that is added behind the attention's part."""
        read, wrote, left = self.record.read, self.record.wrote, self.record.left
        copies = self._but_after(path, others, behind.copies)
        if self._constants(left - behind.value, [wrote[path]], left, copies):
            return True
        # or the stream itself is normalised behind either sum
        first = [each for each in self.written if each != path and self._reads(each, behind.value, copies)]
        last = [each for each in self.written if each in read and self._equal(wrote[each], left, copies)]
        return any(
            read[end].shape == left.shape
            and self._constants(read[end] - wrote[start], [wrote[path]], read[end], copies)
            for start in first
            for end in last
        )

    def _is_local(self, matrix: str, behind: _Sum) -> bool:
        """Whether what a matrix reads at the last position owes nothing to others, but by attention."""
        read = self.record.read[matrix][:, -1]
        copies = [2 + self.record.moved.index(behind.path)] if behind.path else [1]
        if behind.path and not any(self._reads(path, behind.value, behind.copies) for path in self.record.read):
            copies.append(1)  # the MLP does not see what attention adds, so that the stream may be moved too
        rest = (read[copies] - read[:1]).norm(dim=-1)
        return bool((rest <= self.tolerance * read[:1].norm(dim=-1)).all())

    def _no_matrices(self, attention: list[str]) -> list[str]:
        """Modules outside attention with weights of two or more axes that are no matrices."""
        return [
            path
            for path, module in self.block.named_modules()
            if path not in self.matrices and not any(path == each or path.startswith(f"{each}.") for each in attention)
            if any(weight.ndim > 1 for weight in module.parameters(recurse=False))
        ]
