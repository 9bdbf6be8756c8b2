"""Which parts of one block are its experts: those that tokens are sent to, and one that all pass beside those."""

from __future__ import annotations

from collections.abc import Sequence

from ftmech_hf.activations.block_record import BlockRecord, is_near
from ftmech_hf.activations.matrices import is_inside

UNSEEN = "which could not be seen as one matrix in the stream"
"""What is said of matrices beside routed experts whose part of the stream is not known."""


def find_routed(
    record: BlockRecord, matrices: Sequence[str], mixers: list[str], tolerance: float, why_not: dict[str, str]
) -> tuple[str, list[str]]:
    """What holds a block's routed experts, and the last matrix of the expert that every token passes.

    Args:
        record: what the block computed.
        matrices: its matrices outside of ``mixers``.
        mixers: its children that carry something from token to token.
        tolerance: how far two sides of an equation may be apart, relative to their size.
        why_not: where the reasons go why one or the other was not found.
    """
    held = [path for path in record.experts if not is_inside(path, mixers)]
    if not held:
        why_not["experts"] = "has no experts that are kept in one tensor and called with their tokens"
    elif len(held) > 1:
        why_not["experts"] = f"has {len(held)} lists of experts ({', '.join(held)}), expected one"
    elif record.experts[held[0]]:
        why_not["experts"] = f"has experts in {held[0]} that {record.experts[held[0]]}"
    elif held[0] not in record.moved or is_near(record.left[record.copy_of(held[0])], record.left[0], tolerance):
        why_not["experts"] = f"adds nothing to the stream that {held[0]} returns"
    if "experts" in why_not:
        why_not["shared"] = why_not["experts"]
        return "", []
    shared = [path for path in matrices if _lies_beside(record, path, held[0], tolerance)]
    unseen = [path for path in matrices if path in record.moved]
    if len(shared) != 1:
        found = f"{', '.join(shared or unseen)}, {UNSEEN}"
        why_not["shared"] = f"has, beside its routed experts, {found if unseen else 'no expert that all tokens pass'}"
        return held[0], []
    return held[0], shared


def _lies_beside(record: BlockRecord, matrix: str, experts: str, tolerance: float) -> bool:
    """Whether the stream receives a matrix's output times one number for each token, and routed experts beside it.

    Neither of the two reads what the other writes.
    """
    if matrix not in record.moved or matrix not in record.read or experts not in record.read:
        return False
    copy = record.copy_of(matrix)
    write, change = record.wrote[matrix][copy] - record.wrote[matrix][0], record.left[copy] - record.left[0]
    share = (write * change).sum(-1, keepdim=True) / write.square().sum(-1, keepdim=True).clamp(min=1e-30)
    rest = (change - share * write)[:-1].norm(dim=-1)
    return (
        bool((rest <= tolerance * record.left[0, :-1].norm(dim=-1)).all())
        and not is_near(record.left[copy], record.left[0], tolerance)
        and is_near(record.left[copy, -1], record.left[0, -1], tolerance)
        and is_near(record.read[matrix][record.copy_of(experts)], record.read[matrix][0], tolerance)
        and is_near(record.read[experts][copy], record.read[experts][0], tolerance)
    )
