"""Memory as the transport: slots of one shared-memory object, leased for as long as somebody needs them.

The front process is the only allocator; worker processes and the model server map the same bytes and are
told where to read and write. A request takes all its slots at once or none, so that no two requests wait for
each other's halves. The arena lives on one event loop, whose thread alone may take, release and sweep;
`statistics` may be read from any.

Nobody waits here: who finds no room asks again when `freed` says that there is more. Exhaustion is never a
crash. The object is never truncated, and nothing in the shared pages is trusted.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Literal, Self

from annotated_types import Ge, Gt

from sidecar.arena.buddy import Buddy
from sidecar.arena.lease import Books, Lease
from sidecar.arena.segment import HEADER_BYTES, Segment, clear_stale, free_bytes
from sidecar.errors import MediaTooLarge, SettingsError

_MIB = 1024 * 1024
# A slot has pages of its own: what is small (a row of token ids) costs little, no two slots share a cache
# line, and slots begin on page boundaries, so 64-byte aligned for every kernel.
SMALLEST_SLOT = 4096
# What `arena.bytes: 0` takes at most and at least: 128 slots for a tensor of 448² in float32, and four. Out of
# the air.
_AUTOMATIC_MOST = 512 * _MIB
_AUTOMATIC_LEAST = 16 * _MIB
_MODES: Mapping[str, int] = MappingProxyType({"user": 0o600, "group": 0o660, "all": 0o666})
_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")


@dataclass(frozen=True, slots=True)
class ArenaConfig:
    """`bytes`: of all slots together; 0 chooses by itself: 512 MiB, or half of what /dev/shm has free, or a
    quarter of the memory limit, whichever is least. `lease_s`: how long a slot may be held, in seconds,
    before its holder is taken for lost. `name`: how the name of the shared-memory object begins; what a
    killed process left under the same name is cleared up at the next start. `access`: who may open it
    beside root: a model server that runs as another user needs "group" or "all", and whoever may open it can
    read and change what is in it.
    """

    bytes: Annotated[int, Ge(0)] = 0
    lease_s: Annotated[float, Gt(0)] = 300.0
    name: str = "sidecar"
    access: Literal["user", "group", "all"] = "user"

    def __post_init__(self) -> None:
        # Underscores are out, and with them the prefix that Triton keeps for itself.
        if not _NAME.fullmatch(self.name):
            allowed = "1 to 64 of a-z, 0-9, `.` and `-`, the first a letter or a digit"
            raise SettingsError(
                f"`arena.name` has the value {self.name!r}; it must be {allowed}",
                key="arena.name",
                value=self.name,
                allowed=allowed,
            )


@dataclass(frozen=True, slots=True)
class ArenaStatistics:
    """How full the arena is: bytes of all slots together, of those leased, and of what was asked for in
    them; slots leased, and those of them that another process may use (pinned). Of the slots leased, those that
    are kept for later calls, and their bytes: they go as soon as somebody needs the room.

    Since the start: slots leased, and freed again; leases that passed `arena.lease_s`, and those of them
    that were taken back; releases of what was not held, each a fault of this program.
    """

    size: int
    leased_bytes: int
    asked_bytes: int
    leased: int
    pinned: int
    kept: int
    kept_bytes: int
    taken_total: int
    released_total: int
    expired_total: int
    reclaimed_total: int
    misreleased_total: int


class Arena:
    """The slots of a shared-memory object. To be closed by who opened it.

    `predecessors` are the names of objects that dead processes left, and that were removed at its opening;
    `freed` is called whenever there is room where there was none.
    """

    def __init__(self, segment: Segment, lease_s: float, predecessors: tuple[str, ...] = ()) -> None:
        self.predecessors = predecessors
        self._segment = segment
        self._lease_s = lease_s
        self._buddy = Buddy(segment.size - HEADER_BYTES, SMALLEST_SLOT)
        self._books = Books(segment.memory, HEADER_BYTES, self._buddy, self._tell)
        self.freed: Callable[[], None] = lambda: None
        self._give_way: Callable[[Sequence[int]], None] | None = None
        self._crowded = False
        self._closed = False

    @classmethod
    def open(cls, config: ArenaConfig, memory_limit: int) -> Self:
        """Clears up after dead owners, then creates and fills the object: about 0.4 s a GiB.

        `memory_limit` is the bytes that all of this program may use.

        Raises SettingsError where it is too large, or where there is no memory for it.
        """
        try:
            predecessors = clear_stale(config.name)
            slots = choose_bytes(config.bytes, free_bytes(), memory_limit)
            return cls(
                Segment(config.name, HEADER_BYTES + slots, _MODES[config.access]),
                config.lease_s,
                predecessors,
            )
        except OSError as error:
            raise SettingsError(
                f"the shared memory of `arena.bytes` {config.bytes} cannot be had in /dev/shm: "
                f"{error.strerror or error}; {_REMEDY}",
                key="arena.bytes",
                value=config.bytes,
            ) from error

    @property
    def name(self) -> str:
        """What shm_open takes, without the slash."""
        return self._segment.name

    @property
    def size(self) -> int:
        """Bytes of the whole object: a header's page, then the slots."""
        return self._segment.size

    def try_take_all(self, sizes: Sequence[int]) -> tuple[Lease, ...] | None:
        """Slots of at least `sizes` bytes, in their order, if there is room for all of them this instant.

        For calls that have not begun: until one that found no room asks again and finds it, the arena is `crowded`.
        """
        leases = self._take_now(sizes)
        self._crowded = leases is None and not self._closed
        return leases

    def try_take(self, nbytes: int) -> Lease | None:
        """A slot more for a call that has begun, if there is room this instant.

        It may overtake one that waits to begin: those that have begun are few, and end.
        """
        leases = self._take_now((nbytes,))
        return leases[0] if leases else None

    @property
    def crowded(self) -> bool:
        """Whether the call that asked last for all its slots found no room for them."""
        return self._crowded

    def has_room(self, sizes: Sequence[int]) -> bool:
        """Whether slots for all of these are free this instant."""
        offsets = self._buddy.take_all(sizes)
        for offset in offsets or ():
            self._buddy.free(offset)
        return offsets is not None

    def slot_bytes(self, nbytes: int) -> int:
        """Bytes of the slot that `nbytes` are given."""
        return self._buddy.slot_bytes(nbytes)

    def when_full(self, give_way: Callable[[Sequence[int]], None]) -> None:
        """Has `give_way` drop leases that are kept, whenever there is no room for slots of the sizes it is told.

        What is kept anew frees nothing, so that nobody is told to ask again: while the arena is `crowded`, nothing
        may be.
        """
        self._give_way = give_way

    def check_fits(self, sizes: Sequence[int], label: str) -> None:
        """Raises MediaTooLarge, told of `label`, when slots of these sizes would not fit an empty arena."""
        if not self._buddy.fits(sizes):
            found = sum(map(self._buddy.slot_bytes, sizes))
            raise MediaTooLarge(
                f"{label}: needs {found} bytes of slots at once, and `arena.bytes` is {self._buddy.size}: "
                "send less at once, or raise it",
                limit="arena.bytes",
                allowed=self._buddy.size,
                found=found,
            )

    def statistics(self) -> ArenaStatistics:
        """A snapshot for observers."""
        books = self._books
        return ArenaStatistics(
            size=self._buddy.size,
            leased_bytes=books.leased_bytes,
            asked_bytes=books.asked_bytes,
            leased=books.leased,
            pinned=books.pinned,
            kept=books.kept,
            kept_bytes=books.kept_bytes,
            taken_total=books.taken_total,
            released_total=books.released_total,
            expired_total=books.expired_total,
            reclaimed_total=books.reclaimed_total,
            misreleased_total=books.misreleased_total,
        )

    def sweep(self) -> None:
        """Looks for leases past `arena.lease_s`, to be called about once a second.

        Each is counted and logged once. One that another process may write to is left alone until it is
        released; any other is taken back.
        """
        self._books.sweep(time.monotonic() - self._lease_s)

    def close(self) -> None:
        """Removes the object's name, ends all leases, gives out nothing any more; twice is once.

        The bytes stay where somebody still maps them or holds a view.
        """
        if self._closed:
            return
        self._closed = True
        self._books.close()
        self._segment.close()

    def _take_now(self, sizes: Sequence[int]) -> tuple[Lease, ...] | None:
        """Slots for all of `sizes`, if need be in the place of what is kept; None where there is no room even so."""
        if self._closed:
            return None
        leases = self._books.take_all(sizes)
        if leases is None and self._books.kept and self._give_way is not None and self._buddy.fits(sizes):
            self._give_way(sizes)
            leases = self._books.take_all(sizes)
        return leases

    def _tell(self) -> None:
        self.freed()

    def __repr__(self) -> str:
        now = self.statistics()
        return f"<Arena {self.name} {now.leased_bytes} of {now.size} bytes leased>"


_REMEDY = (
    "lower it, or allow the container more: `docker run --shm-size` and `--memory`, in Kubernetes an emptyDir "
    "of medium Memory with a sizeLimit at /dev/shm and `resources.limits.memory`"
)


def choose_bytes(asked: int, free: int, limit: int) -> int:
    """Bytes for slots: what was `asked`, or a number of our own for 0, where `free` bytes are left in
    /dev/shm and `limit` bytes of memory may be used. Whole slots. Raises SettingsError where it cannot be.
    """
    most = min(free - HEADER_BYTES, limit // 2)
    least = SMALLEST_SLOT if asked else _AUTOMATIC_LEAST
    chosen = asked or min(_AUTOMATIC_MOST, free // 2, limit // 4)
    chosen -= chosen % SMALLEST_SLOT
    if not least <= chosen <= most:
        wish = (
            f"`arena.bytes` asks for {asked} bytes"
            if asked
            else f"`arena.bytes` is 0, and what it would choose is {chosen} bytes"
        )
        raise SettingsError(
            f"{wish}: at least {least} are needed, and at most {max(most, 0)} can be had, since /dev/shm has "
            f"{free} bytes free and the memory limit is {limit}, of which half may be taken; {_REMEDY}",
            key="arena.bytes",
            value=asked,
            allowed=f"{least} to {max(most, 0)}",
        )
    return chosen
