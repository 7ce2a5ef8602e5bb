"""An arena for tests of deliver, which must be as empty at the end as at the start."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from sidecar.arena.arena import Arena, ArenaConfig
from sidecar.arena.lease import Lease
from sidecar.media import Tensor
from sidecar.workers.budget import memory_limit


class Bench:
    """An arena and what a test put into it; `clear` takes that out again."""

    def __init__(self) -> None:
        self.arena = Arena.open(ArenaConfig(bytes=16 << 20, name="test-deliver"), memory_limit())
        self.leases: list[Lease] = []

    def put(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The same tensors, with their bytes in the arena."""
        return tuple(self._put(tensor) for tensor in tensors)

    def _put(self, tensor: Tensor) -> Tensor:
        lease = self.arena.try_take(max(1, tensor.nbytes))
        assert lease is not None
        self.leases.append(lease)
        view = lease.view[: tensor.nbytes]
        view[:] = memoryview(tensor.data).cast("B")
        return replace(tensor, data=view, at=lease.offset)

    def clear(self) -> None:
        """Releases what `put` took."""
        for lease in self.leases:
            lease.release()
        self.leases.clear()

    @property
    def leased(self) -> int:
        """Slots that somebody holds or may write to, those of `put` included."""
        return self.arena.statistics().leased

    @property
    def pinned(self) -> int:
        return self.arena.statistics().pinned


@pytest.fixture
def bench() -> Iterator[Bench]:
    """Fails a test that leaves a slot leased or pinned, or released once too often."""
    made = Bench()
    yield made
    made.clear()
    left = made.arena.statistics()
    made.arena.close()
    assert (left.leased, left.pinned, left.misreleased_total) == (0, 0, 0)
