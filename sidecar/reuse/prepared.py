"""What preparing an item has left: made once, and read by as many as want it."""

from __future__ import annotations

from dataclasses import dataclass

from sidecar.arena.lease import Lease
from sidecar.media import Tensor


@dataclass(frozen=True, slots=True)
class Prepared:
    """An item's tensors, nobody's to change any more, and the `lease` under them.

    Who is given one holds the lease, and releases it once, when the tensors are not to be read any more.
    `cpu_ms` are the milliseconds of one core that making them took, and that who is given them was spared.
    """

    tensors: tuple[Tensor, ...]
    lease: Lease
    cpu_ms: float
