"""Which bytes of a range are free: a buddy allocator, in numbers only.

A slot is a power of two of bytes and lies at a multiple of its size. The range need not be a power of two:
it is cut into descending ones, so that whatever sums up to no more than the whole fits an empty range.
Taking splits the smallest free block that will do, freeing joins a block with its twin as far as it goes:
both take at most one step a power of two.

It never touches memory, never waits, and knows nothing of who holds what.
"""

from __future__ import annotations

from collections.abc import Sequence

from sidecar.errors import InternalError


class Buddy:
    """An allocator over `total` bytes, rounded down to whole `smallest` slots (a power of two of bytes)."""

    def __init__(self, total: int, smallest: int) -> None:
        self._shift = smallest.bit_length() - 1
        units = total >> self._shift
        self.size = units << self._shift
        # Free blocks by order: a block of order n is 2**n units, and is named by its first unit.
        self._free: list[set[int]] = [set() for _ in range(units.bit_length())]
        start = 0
        for order in reversed(range(units.bit_length())):
            if units >> order & 1:
                self._free[order].add(start)
                start += 1 << order
        self._orders: dict[int, int] = {}

    def slot_bytes(self, nbytes: int) -> int:
        """Bytes of the slot that `nbytes` are given; 0 bytes take a slot as well."""
        return 1 << self._order(nbytes) << self._shift

    def fits(self, sizes: Sequence[int]) -> bool:
        """Whether slots for all of these lie in the empty range together."""
        return sum(map(self.slot_bytes, sizes)) <= self.size

    def take(self, nbytes: int) -> int | None:
        """The offset of a slot of at least `nbytes`, None where there is none free now."""
        order = wanted = self._order(nbytes)
        free = self._free
        while order < len(free) and not free[order]:
            order += 1
        if order >= len(free):
            return None
        start = free[order].pop()
        while order > wanted:
            order -= 1
            free[order].add(start + (1 << order))
        self._orders[start] = wanted
        return start << self._shift

    def take_all(self, sizes: Sequence[int]) -> tuple[int, ...] | None:
        """The offsets of slots for all of `sizes`, in their order, or None and nothing taken."""
        # In any order: no choice of blocks leaves more room for the rest than the smallest that will do.
        offsets: list[int] = []
        for nbytes in sizes:
            if (offset := self.take(nbytes)) is None:
                for each in offsets:
                    self.free(each)
                return None
            offsets.append(offset)
        return tuple(offsets)

    def free(self, offset: int) -> int:
        """Gives the slot at `offset` back; how many bytes it had. InternalError where no slot is taken."""
        start = offset >> self._shift
        if (order := self._orders.pop(start, None)) is None:
            raise InternalError(f"no slot is taken at offset {offset}: it was freed before, or never given")
        nbytes = 1 << order << self._shift
        free = self._free
        # A block at the edge of the range has a twin that there is not, and that is never found free.
        while (twin := start ^ (1 << order)) in free[order]:
            free[order].remove(twin)
            start &= ~(1 << order)
            order += 1
        free[order].add(start)
        return nbytes

    def _order(self, nbytes: int) -> int:
        return ((nbytes or 1) - 1 >> self._shift).bit_length()
