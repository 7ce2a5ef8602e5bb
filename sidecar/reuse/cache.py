"""Results that are kept in the arena, by content: an item that was prepared before is not prepared again.

What is kept is a lease, never a copy where the result has a slot of its own. Work in hand goes before it always:
the arena has entries dropped as soon as somebody finds no room, and nothing is kept while somebody lacks
room. An entry that is dropped while calls read it is theirs until they end.

Who goes first is decided by GreedyDual-Size with Frequency (L. Cherkasova, Improving WWW proxies performance
with Greedy-Dual-Size-Frequency caching policy, HPL-98-69R1, 1998): the entry with the least

    priority = clock at its last use + uses * cpu_ms / bytes,

where the clock is the priority of who was dropped last, so that whatever is not used grows old. The second term
is rounded down to a power of two (CAMP: S. Ghandeharizadeh et al., Middleware 2014): entries of equal worth stand
in a queue by their last use, and only the queues' heads are compared. So no use and no eviction costs more for
there being many entries, and who goes is right to a factor of two.

It lives on the arena's event loop, never waits, and looks into no tensor.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Final

from annotated_types import Ge

from sidecar.arena.arena import Arena
from sidecar.arena.layout import lay_out
from sidecar.arena.lease import Lease
from sidecar.errors import SettingsError
from sidecar.media import Tensor
from sidecar.reuse.content import Address
from sidecar.reuse.prepared import Prepared

# Of the arena, where `cache.bytes` is 0: what agents send again is a few screenshots each, and work needs the rest.
_AUTOMATIC_PART: Final = 4
# To drop one costs 4 to 12 µs, so that all of them, for one take of the whole arena, hold the event loop up for
# 8 to 25 ms. Of results of 224² in float32, a slot of 1 MiB each, as many take 2 GiB.
_MOST_ENTRIES: Final = 2048
# Results that cost nothing measurable to make are still worth something by their uses. Milliseconds.
_LEAST_MS: Final = 1e-3


@dataclass(frozen=True, slots=True)
class CacheConfig:
    """`enabled`: whether results are kept, and identical items waited for. `bytes`: of the arena's slots that may
    be kept at most, while nobody needs them; 0 for a quarter of the arena.
    """

    enabled: bool = True
    bytes: Annotated[int, Ge(0)] = 0


@dataclass(frozen=True, slots=True)
class CacheStatistics:
    """Now: entries, the bytes of their slots, and the most that these may be.

    Since the start: lookups that found something, and that did not; results kept, those of them that had to be
    copied, and those that were not kept for want of room; entries dropped for newer ones, and for work in hand;
    milliseconds of one core that hits have saved.
    """

    entries: int
    kept_bytes: int
    most_bytes: int
    hits_total: int
    misses_total: int
    kept_total: int
    copied_total: int
    declined_total: int
    evicted_total: int
    yielded_total: int
    saved_cpu_ms_total: float


@dataclass(eq=False, slots=True)
class _Entry:
    """`worth` is the exponent of uses * cpu_ms / bytes; `priority` what it was given at its last use."""

    address: Address
    prepared: Prepared
    nbytes: int
    uses: int = 1
    worth: int = 0
    priority: float = 0.0


class ResultCache:
    """Kept results of an arena, which is told to have them dropped when it is full."""

    def __init__(self, config: CacheConfig, arena: Arena) -> None:
        """Raises SettingsError where `cache.bytes` is more than the arena has."""
        size = arena.statistics().size
        if config.bytes > size:
            raise SettingsError(
                f"`cache.bytes` has the value {config.bytes} and the arena has {size} bytes of slots: lower it, or "
                "raise `arena.bytes`",
                key="cache.bytes",
                value=config.bytes,
                allowed=f"0 to {size}",
            )
        self._arena = arena
        self._most = (config.bytes or size // _AUTOMATIC_PART) if config.enabled else 0
        self._entries: dict[Address, _Entry] = {}
        # By worth; in each the least recently used is the first.
        self._queues: dict[int, OrderedDict[Address, _Entry]] = {}
        self._clock = 0.0
        self._kept_bytes = 0
        self._hits_total = 0
        self._misses_total = 0
        self._kept_total = 0
        self._copied_total = 0
        self._declined_total = 0
        self._evicted_total = 0
        self._yielded_total = 0
        self._saved_cpu_ms_total = 0.0
        arena.when_full(self.make_room)

    @property
    def enabled(self) -> bool:
        """Whether anything may be kept at all; if not, no content need be digested for it."""
        return self._most > 0

    def find(self, address: Address) -> Prepared | None:
        """What was made of that content before; whoever gets it holds its lease, and releases it once."""
        entry = self._entries.get(address)
        if entry is None:
            self._misses_total += 1
            return None
        entry.prepared.lease.retain()
        entry.uses += 1
        self._leave_queue(entry)
        self._join_queue(entry)
        self._hits_total += 1
        self._saved_cpu_ms_total += entry.prepared.cpu_ms
        return entry.prepared

    def keep(self, address: Address, prepared: Prepared) -> bool:
        """Keeps a result whose lease the caller holds; whether it is kept now. The caller's part stays the caller's.

        Where tensors lie in a slot that is larger than they need, or kept for another, they are copied to one of
        their own. Nothing is kept for which there is no room, or while a call lacks room to begin.
        """
        if address in self._entries:
            return True
        nbytes = self._arena.slot_bytes(_total(prepared.tensors))
        kept = self._take(prepared, nbytes) if self._has_room(nbytes) else None
        if kept is None:
            self._declined_total += self.enabled
            return False
        entry = self._entries[address] = _Entry(address, kept, nbytes)
        self._kept_bytes += nbytes
        self._kept_total += 1
        self._join_queue(entry)
        return True

    def make_room(self, sizes: Sequence[int]) -> None:
        """Drops entries until the arena has slots of all these `sizes` free, or nothing is kept any more."""
        while self._entries and not self._arena.has_room(sizes):
            self._evict()
            self._yielded_total += 1

    def clear(self) -> None:
        """Drops everything."""
        while self._entries:
            self._evict()

    def close(self) -> None:
        """Drops everything, and keeps nothing from now on."""
        self._most = 0
        self.clear()

    def statistics(self) -> CacheStatistics:
        """A snapshot for observers."""
        return CacheStatistics(
            entries=len(self._entries),
            kept_bytes=self._kept_bytes,
            most_bytes=self._most,
            hits_total=self._hits_total,
            misses_total=self._misses_total,
            kept_total=self._kept_total,
            copied_total=self._copied_total,
            declined_total=self._declined_total,
            evicted_total=self._evicted_total,
            yielded_total=self._yielded_total,
            saved_cpu_ms_total=self._saved_cpu_ms_total,
        )

    def _has_room(self, nbytes: int) -> bool:
        """Whether an entry of `nbytes` may be kept, once others were dropped for it."""
        if nbytes > self._most:
            return False
        while self._kept_bytes + nbytes > self._most or len(self._entries) >= _MOST_ENTRIES:
            self._evict()
            self._evicted_total += 1
        return not self._arena.crowded  # and who was told of that room may have found it too little

    def _take(self, prepared: Prepared, nbytes: int) -> Prepared | None:
        """The result in a slot of `nbytes` that is kept: its own, or a copy; None where there is no room for one."""
        if self._has_own_slot(prepared, nbytes):
            kept = prepared
            kept.lease.keep()
        else:
            layout = lay_out([_sizes(prepared.tensors)])
            # Not by `try_take` alone: it would have others dropped for a copy.
            lease = self._arena.try_take(layout.total) if self._arena.has_room((layout.total,)) else None
            if lease is None:
                return None
            kept = _copied(prepared, lease, layout.rows[0])
            lease.keep()
            lease.release()
            self._copied_total += 1
        return replace(kept, tensors=tuple(map(_read_only, kept.tensors)))

    def _has_own_slot(self, prepared: Prepared, nbytes: int) -> bool:
        lease = prepared.lease
        return (
            not lease.kept
            and self._arena.slot_bytes(lease.nbytes) == nbytes
            and all(_lies_in(tensor, lease) for tensor in prepared.tensors)
        )

    def _join_queue(self, entry: _Entry) -> None:
        worth = entry.uses * max(entry.prepared.cpu_ms, _LEAST_MS) / entry.nbytes
        _, entry.worth = math.frexp(worth)
        entry.priority = self._clock + math.ldexp(0.5, entry.worth)
        self._queues.setdefault(entry.worth, OrderedDict())[entry.address] = entry

    def _leave_queue(self, entry: _Entry) -> None:
        queue = self._queues[entry.worth]
        del queue[entry.address]
        if not queue:
            del self._queues[entry.worth]

    def _evict(self) -> None:
        """Drops the entry of the least priority."""
        heads = (next(iter(queue.values())) for queue in self._queues.values())
        entry = min(heads, key=lambda entry: entry.priority)
        self._clock = entry.priority
        self._leave_queue(entry)
        del self._entries[entry.address]
        self._kept_bytes -= entry.nbytes
        entry.prepared.lease.drop()

    def __repr__(self) -> str:
        return f"<ResultCache {len(self._entries)} entries, {self._kept_bytes} of {self._most} bytes>"


def _sizes(tensors: Sequence[Tensor]) -> Mapping[str, int]:
    return {tensor.name: tensor.nbytes for tensor in tensors}


def _total(tensors: Sequence[Tensor]) -> int:
    """Bytes of a slot's room for these tensors."""
    return lay_out([_sizes(tensors)]).total


def _lies_in(tensor: Tensor, lease: Lease) -> bool:
    return tensor.at is not None and lease.offset <= tensor.at <= lease.offset + lease.nbytes - tensor.nbytes


def _copied(prepared: Prepared, lease: Lease, places: Mapping[str, int]) -> Prepared:
    view, copies = lease.view, []
    for tensor in prepared.tensors:
        at = places[tensor.name]
        place = view[at : at + tensor.nbytes]
        place[:] = memoryview(tensor.data).cast("B")
        copies.append(replace(tensor, data=place, at=lease.offset + at))
    return replace(prepared, tensors=tuple(copies), lease=lease)


def _read_only(tensor: Tensor) -> Tensor:
    return replace(tensor, data=tensor.data.toreadonly()) if isinstance(tensor.data, memoryview) else tensor
