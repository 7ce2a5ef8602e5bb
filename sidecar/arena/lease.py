"""Who is leased which bytes of the arena: the books, kept by one thread, told to nobody.

A slot is given to nobody else while anybody holds it or another process may write there (a pin). Every
lease has a number that is never used again, and a lease that is over answers with an error, never with
somebody else's bytes; what its holders do with it later changes nothing for the slot's next owner.

Nothing here waits, and nothing is read from the shared bytes.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Sequence

from sidecar.arena.buddy import Buddy
from sidecar.errors import InternalError

log = logging.getLogger(__name__)


class Lease:
    """The right to use a slot: `nbytes` bytes at `offset` of the arena, from `since` on the monotonic clock.

    Who takes it holds it. It is over when every holder has released it and nobody has it pinned, or when
    the arena took it back. `generation` never comes again.
    """

    __slots__ = (
        "_books",
        "_holders",
        "_kept",
        "_live",
        "_pins",
        "generation",
        "late",
        "nbytes",
        "offset",
        "since",
    )

    def __init__(self, books: Books, offset: int, nbytes: int, generation: int, since: float) -> None:
        self.offset = offset
        self.nbytes = nbytes
        self.generation = generation
        self.since = since
        self.late = False
        self._books = books
        self._holders = 1
        self._kept = False
        self._pins = 0
        self._live = True

    @property
    def live(self) -> bool:
        """Whether the slot is still this lease's."""
        return self._live

    @property
    def pinned(self) -> bool:
        return self._pins > 0

    @property
    def kept(self) -> bool:
        """Whether it is held on purpose, however long it lasts."""
        return self._kept

    @property
    def view(self) -> memoryview:
        """The slot's memory, writable, as many bytes as were asked for. InternalError when the lease is over.

        A view got earlier outlives the lease, as pointers do: who holds the lease drops its views first.
        """
        self._check()
        return self._books.memory[self.offset : self.offset + self.nbytes]

    def retain(self) -> None:
        """Takes part in holding it: one more `release` is needed. InternalError when the lease is over."""
        self._check()
        self._holders += 1

    def release(self) -> None:
        """Ends one holder's part. Once too often is logged and counted, and never frees another's slot."""
        if not self._holders:
            self._books.misreleased(self)
            return
        self._holders -= 1
        if not self._holders and not self._pins:
            self._books.end(self)

    def keep(self) -> None:
        """Takes part in holding it for as long as it may be of use: until `drop` it has no age, is never late,
        and is told apart in the statistics. InternalError when the lease is over, or is kept already.
        """
        if self._kept:
            raise InternalError(f"{self!r} is kept already")
        self.retain()
        self._kept = True
        self._books.keep(self)

    def drop(self) -> None:
        """Ends that part. Who still holds it has as long as if it were new. Once too often is logged and counted."""
        if not self._kept:
            self._books.misreleased(self)
            return
        self._kept = False
        self._books.drop(self)
        self.release()

    def pin(self) -> None:
        """Says that another process may read or write there from now on: until `unpin` the slot is not taken
        back, however long it lasts, and not free, even when nobody holds it. Pins are counted.
        InternalError when the lease is over.
        """
        self._check()
        self._pins += 1
        if self._pins == 1:
            self._books.pinned += 1

    def unpin(self) -> None:
        """Ends one pin. Once too often is logged and counted."""
        if not self._pins:
            self._books.misreleased(self)
            return
        self._pins -= 1
        if not self._pins:
            self._books.pinned -= 1
            if not self._holders:
                self._books.end(self)

    def finish(self) -> None:
        """For the books alone: the slot is not this lease's any more."""
        self._live = False

    def _check(self) -> None:
        if not self._live:
            raise InternalError(
                f"lease {self.generation} of {self.nbytes} bytes at offset {self.offset} of the arena is over"
            )

    def __repr__(self) -> str:
        state = f"{self._holders} holders {self._pins} pins" if self._live else "over"
        return f"<Lease {self.generation} {self.nbytes} bytes at {self.offset} {state}>"


class Books:
    """All leases of an arena over `memory`, whose slots begin at byte `start`.

    `room` is called whenever there is room where there was none. The counts are for observers.
    """

    def __init__(self, memory: memoryview, start: int, buddy: Buddy, room: Callable[[], None]) -> None:
        self.memory = memory
        self.leased_bytes = 0
        self.asked_bytes = 0
        self.pinned = 0
        self.kept_bytes = 0
        self.taken_total = 0
        self.released_total = 0
        self.expired_total = 0
        self.reclaimed_total = 0
        self.misreleased_total = 0
        self._start = start
        self._buddy = buddy
        self._room = room
        self._live: dict[int, Lease] = {}  # the oldest comes first
        self._kept: dict[int, Lease] = {}
        self._generations = itertools.count(1)

    @property
    def leased(self) -> int:
        """Slots leased now."""
        return len(self._live) + len(self._kept)

    @property
    def kept(self) -> int:
        """Those of them that are kept."""
        return len(self._kept)

    def take(self, nbytes: int) -> Lease | None:
        """A slot that is free now."""
        offset = self._buddy.take(nbytes)
        return None if offset is None else self._lease(offset, nbytes)

    def take_all(self, sizes: Sequence[int]) -> tuple[Lease, ...] | None:
        """Slots for all of `sizes` that are free now, or none at all."""
        if len(sizes) == 1:
            lease = self.take(sizes[0])
            return None if lease is None else (lease,)
        offsets = self._buddy.take_all(sizes)
        if offsets is None:
            return None
        return tuple(self._lease(offset, nbytes) for offset, nbytes in zip(offsets, sizes, strict=True))

    def keep(self, lease: Lease) -> None:
        """Takes a lease out of those that grow old."""
        self._kept[lease.generation] = self._live.pop(lease.generation)
        self.kept_bytes += self._buddy.slot_bytes(lease.nbytes)

    def drop(self, lease: Lease) -> None:
        """Puts it back as the youngest of them."""
        del self._kept[lease.generation]
        self.kept_bytes -= self._buddy.slot_bytes(lease.nbytes)
        lease.since, lease.late = time.monotonic(), False
        self._live[lease.generation] = lease

    def end(self, lease: Lease) -> None:
        """Frees the slot of a lease that nobody holds; one that was taken back has none."""
        if lease.live:
            self._free(lease)
            self._room()

    def sweep(self, before: float) -> None:
        """Takes back what was leased `before` then and is not pinned; counts and logs what is late."""
        overdue = list(itertools.takewhile(lambda lease: lease.since < before, self._live.values()))
        news = [lease for lease in overdue if not lease.late]
        for lease in news:
            lease.late = True
        self.expired_total += len(news)
        lost = [lease for lease in overdue if not lease.pinned]
        for lease in lost:
            self._free(lease)
        self.reclaimed_total += len(lost)
        if news:
            log.warning(
                "%d slots of the arena are held for longer than `arena.lease_s`, the oldest is %r; "
                "%d were taken back, the others may still be written to by another process",
                len(news),
                news[0],
                len(lost),
            )
        if lost:
            self._room()

    def close(self) -> None:
        """Ends every lease; the counts go on telling what was leased."""
        for lease in (*self._live.values(), *self._kept.values()):
            lease.finish()

    def misreleased(self, lease: Lease) -> None:
        """Counts a release or unpin of what was not held: a fault of this program that harms nobody here."""
        self.misreleased_total += 1
        log.error("%r was released or unpinned once too often", lease, stack_info=True)

    def _lease(self, offset: int, nbytes: int) -> Lease:
        lease = Lease(self, self._start + offset, nbytes, next(self._generations), time.monotonic())
        self._live[lease.generation] = lease
        self.leased_bytes += self._buddy.slot_bytes(nbytes)
        self.asked_bytes += nbytes
        self.taken_total += 1
        return lease

    def _free(self, lease: Lease) -> None:
        lease.finish()
        del self._live[lease.generation]
        self.leased_bytes -= self._buddy.free(lease.offset - self._start)
        self.asked_bytes -= lease.nbytes
        self.released_total += 1
