"""A retried call is told what it was told before: replies, kept for a while by the key that the caller gave.

A client that lost a reply on the way cannot know whether its call was carried out; with a key it may ask again, and
nothing is done twice. A key stands for one content: the same key with another is a fault of the caller, and is
refused. Two calls with one key at the same time are one call: the second waits for the first's reply, and takes
its place if that has none. Failed calls are not kept; a retry tries.

Replies go in the order in which they came, the oldest first, by time as by want of room: one that was replayed
has done its service. It lives on one event loop and looks into no reply.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Final, NamedTuple, Self

from annotated_types import Ge, Gt

from sidecar.deadline import Deadline
from sidecar.errors import InvalidRequest
from sidecar.reuse.relay import Baton, Relay

_MIB: Final = 1024 * 1024
_MOST_KEY_BYTES: Final = 256
# A reply of a quarter of the room and more would push out too many others'.
_MOST_PART: Final = 4
# What a reply takes beside its bytes and its key, the objects around them: 408 by tracemalloc.
_ENTRY_BYTES: Final = 512
_LATE: Final = (
    "the deadline passed while the call waited for the reply to another with the same `idempotency_key`; allow more "
    "time"
)
# Overdue replies that are dropped at once: takes some 100 µs, and every call drops more than it can bring.
_AT_ONCE: Final = 256


@dataclass(frozen=True, slots=True)
class ReplaysConfig:
    """`window_s`: how long a reply is kept for a retry, in seconds. `bytes`: what all replies kept may take
    together; a single one of more than a quarter of it is not kept. 0 keeps none.
    """

    window_s: Annotated[float, Gt(0)] = 300.0
    bytes: Annotated[int, Ge(0)] = 64 * _MIB


@dataclass(frozen=True, slots=True)
class ReplaysStatistics:
    """Replies kept, and their bytes, now. Since the start: replies kept; those told again, to a retry and to a call
    that came while the first was under way; dropped before their time; and calls refused for their content.
    """

    entries: int
    kept_bytes: int
    kept_total: int
    replayed_total: int
    dropped_total: int
    mismatched_total: int


class CallKey(NamedTuple):
    """Whose call it is, of which method, under which name of the caller's own."""

    tenant: str
    method: str
    idempotency_key: str


@dataclass(frozen=True, slots=True)
class _Kept:
    reply: bytes
    digest: bytes
    until: float
    nbytes: int


class Turn:
    """The call is the caller's to carry out. A `with` block around it lets the next one try when there is no
    reply by its end.
    """

    def __init__(self, baton: Baton[bytes], keep: Callable[[bytes], None]) -> None:
        self._baton = baton
        self._keep = keep

    def reply(self, reply: bytes) -> None:
        """Keeps the reply of a call that succeeded, and gives it to who waits. Once."""
        self._keep(reply)
        self._baton.finish(reply)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._baton.leave()


class Replays:
    """Replies by the key of their call. `clock` gives seconds, and never goes back."""

    def __init__(self, config: ReplaysConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self._config = config
        self._clock = clock
        self._relay: Relay[CallKey, bytes] = Relay(_LATE)
        # The oldest first.
        self._entries: OrderedDict[CallKey, _Kept] = OrderedDict()
        self._kept_bytes = 0
        self._kept_total = 0
        self._found_total = 0
        self._dropped_total = 0
        self._mismatched_total = 0

    async def begin(self, key: CallKey, digest: bytes, deadline: Deadline) -> Turn | bytes:
        """The reply that this call had before, or has now; or the turn, for a call that is to be carried out.

        `digest` stands for all that the request says, beside its own id. Raises InvalidRequest for a key of more
        than 256 bytes and for one that came with another content, and DeadlineExceeded.
        """
        _check(key)
        self.sweep()
        kept = self._find(key)
        self._check_content(key, digest, self._relay.about(key) if kept is None else kept.digest)
        if kept is not None:
            self._found_total += 1
            return kept.reply
        outcome = await self._relay.join(key, deadline, digest)
        if isinstance(outcome, bytes):
            return outcome
        return Turn(outcome, lambda reply: self._keep(key, digest, reply))

    def sweep(self) -> None:
        """Drops some of what is past its time, to be called about once a second."""
        now = self._clock()
        for _ in range(_AT_ONCE):
            if not self._entries or next(iter(self._entries.values())).until > now:
                return
            self._drop_oldest()

    def close(self) -> None:
        """Drops everything."""
        self._entries.clear()
        self._kept_bytes = 0

    def statistics(self) -> ReplaysStatistics:
        """A snapshot for observers."""
        return ReplaysStatistics(
            entries=len(self._entries),
            kept_bytes=self._kept_bytes,
            kept_total=self._kept_total,
            replayed_total=self._found_total + self._relay.statistics().given_total,
            dropped_total=self._dropped_total,
            mismatched_total=self._mismatched_total,
        )

    def _find(self, key: CallKey) -> _Kept | None:
        kept = self._entries.get(key)
        return None if kept is None or kept.until <= self._clock() else kept

    def _check_content(self, key: CallKey, digest: bytes, known: bytes | None) -> None:
        if known is not None and known != digest:
            self._mismatched_total += 1
            raise InvalidRequest(
                f"`idempotency_key` {key.idempotency_key[:64]!r} came with another request before: give every new "
                "request a key of its own",
                field="idempotency_key",
            )

    def _keep(self, key: CallKey, digest: bytes, reply: bytes) -> None:
        nbytes = _ENTRY_BYTES + len(reply) + sum(map(len, key))
        if nbytes > self._config.bytes // _MOST_PART:
            return
        if key in self._entries:  # past its time, and not swept yet
            self._kept_bytes -= self._entries.pop(key).nbytes
        while self._kept_bytes + nbytes > self._config.bytes:
            self._drop_oldest()
            self._dropped_total += 1
        self._entries[key] = _Kept(reply, digest, self._clock() + self._config.window_s, nbytes)
        self._kept_bytes += nbytes
        self._kept_total += 1

    def _drop_oldest(self) -> None:
        _, kept = self._entries.popitem(last=False)
        self._kept_bytes -= kept.nbytes

    def __repr__(self) -> str:
        return f"<Replays {len(self._entries)} replies, {self._kept_bytes} of {self._config.bytes} bytes>"


def _check(key: CallKey) -> None:
    found = len(key.idempotency_key.encode())
    if found > _MOST_KEY_BYTES:
        raise InvalidRequest(
            f"`idempotency_key` has {found} bytes and may have {_MOST_KEY_BYTES}: send a shorter one, such as a UUID",
            field="idempotency_key",
        )
