"""Results as the path leaves them: tensors in slots of a real arena."""

from __future__ import annotations

import secrets

import numpy as np

from sidecar.arena.arena import SMALLEST_SLOT, Arena, ArenaConfig
from sidecar.deadline import Deadline
from sidecar.media import DataType, DecodeTarget, Tensor
from sidecar.reuse.content import Address
from sidecar.reuse.prepared import Prepared
from sidecar.workers.budget import memory_limit

PAGE = SMALLEST_SLOT
FOREVER = Deadline(None)


def opened(pages: int, lease_s: float = 300.0) -> Arena:
    return Arena.open(
        ArenaConfig(pages * PAGE, lease_s, f"sidecar-test-{secrets.token_hex(4)}"), memory_limit()
    )


def address(number: int, tenant: str = "") -> Address:
    return Address(number.to_bytes(32, "little"), bytes(32), DecodeTarget(), tenant)


def made(arena: Arena, nbytes: int = PAGE, cpu_ms: float = 1.0, fill: int = 0) -> Prepared:
    """A result of two tensors in a slot of its own, which the caller holds; every byte is `fill`."""
    lease = arena.try_take(nbytes)
    assert lease is not None
    np.frombuffer(lease.view, np.uint8)[:] = fill
    half = nbytes // 2 // 64 * 64
    return Prepared(
        (
            Tensor("first", DataType.UINT8, (half,), lease.view[:half], lease.offset),
            Tensor("second", DataType.UINT8, (nbytes - half,), lease.view[half:], lease.offset + half),
        ),
        lease,
        cpu_ms,
    )


def bytes_of(prepared: Prepared) -> bytes:
    return b"".join(map(bytes, (tensor.data for tensor in prepared.tensors)))
