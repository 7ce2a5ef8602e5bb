"""What calls are under way, and which ended since somebody looked: all that observation takes from the path.

A call is entered when its headers arrive, again when its message tells its model, and once more when it has ended.
Then takers note numbers of it and let it go: what is kept for half a second makes the collector's work, some 20 µs a
call. Where somebody wants ended calls whole (spans, request lines), they are queued besides, up to a bound. It never
waits, and never keeps media or tensors.

One event loop's own.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final, Protocol

from sidecar.media import Modality
from sidecar.observe.timings import Timeline, Timings
from sidecar.observe.trace_context import TraceContext

log = logging.getLogger(__name__)

# Ended calls that wait to be looked at: half a minute of the fastest load seen. Past it the oldest are dropped.
_MOST_ENDED: Final = 1 << 14
# Of a caller's own text, which may be as long as its message. Characters; a UUID has 36.
_MOST_OF_AN_ID: Final = 64


class ObservedItem(Protocol):
    """What is read of an item. `begun_ns`: when its job was given to the workers, 0 for not yet."""

    @property
    def timeline(self) -> Timeline: ...
    @property
    def times(self) -> Timings | None: ...
    @property
    def begun_ns(self) -> int: ...
    @property
    def ready_ns(self) -> int: ...
    @property
    def cpu_ms(self) -> float: ...
    @property
    def problem_reason(self) -> str: ...


@dataclass(slots=True, eq=False)
class Handover:
    """Rows on their way to the model server: when they were handed over and, once that is known, answered.

    `last_ns` is that of the last response so far, `answered_ns` that of the last of all; 0 for not yet. `failed`: there
    was no answer, or nobody waited for it. `whole`: there may be several responses, or it was an error, so that the
    server's counters do not tell of it. `paused`: its reader does not take the next response.
    """

    rows: int
    handed_ns: int
    last_ns: int = 0
    answered_ns: int = 0
    failed: bool = False
    whole: bool = False
    paused: bool = False


@dataclass(slots=True, eq=False)
class Arrival:
    """A call whose headers came, and of which nothing else is known yet."""

    at_ns: int


@dataclass(slots=True, eq=False)
class Passage:
    """A call from its arrival until it has ended: live views of what the path fills in.

    `upstream` is the model server's name for the model, empty for calls that deliver nothing. `reason` is OK or an
    error's, empty while the call is under way; `ended_ns` is 0 as long. Of `request_id`, the caller's own text, no more
    than its beginning is kept.
    """

    verb: str
    model: str
    upstream: str
    modality: Modality | None
    timeline: Timeline
    items: Sequence[ObservedItem]
    handovers: Sequence[Handover]
    request_id: str = ""
    tenant: str = ""
    trace: TraceContext | None = None
    reason: str = ""
    ended_ns: int = 0

    def __post_init__(self) -> None:
        self.request_id, self.model = self.request_id[:_MOST_OF_AN_ID], self.model[:_MOST_OF_AN_ID]


@dataclass(slots=True)
class Journal:
    """Calls by how far they have come. `dropped` counts ended ones that nobody looked at in time.

    `kept`: whether anybody looks at all, which may change at any time; where nobody does, nothing is entered. `queues`:
    whether ended calls are kept whole for `take_ended`. `takers` are told of each call as it ends.
    """

    kept: bool = True
    queues: bool = True
    takers: list[Callable[[Passage], None]] = field(default_factory=list)
    arriving: dict[Arrival, None] = field(default_factory=dict)
    under_way: dict[Passage, None] = field(default_factory=dict)
    ended: deque[Passage] = field(default_factory=deque)
    dropped: int = 0

    def arrive(self) -> Arrival:
        """Enters a call whose headers came; to be followed by `arrived`, whatever becomes of it."""
        arrival = Arrival(time.monotonic_ns())
        if self.kept:
            self.arriving[arrival] = None
        return arrival

    def arrived(self, arrival: Arrival) -> None:
        """The rest of the call's message has come, or never will."""
        self.arriving.pop(arrival, None)

    def begin(self, passage: Passage) -> None:
        """Enters a call of which the model is known; to be followed by `end`."""
        if self.kept:
            self.under_way[passage] = None

    def end(self, passage: Passage, reason: str) -> None:
        """The call has ended so."""
        passage.reason, passage.ended_ns = reason, time.monotonic_ns()
        self.under_way.pop(passage, None)
        if not self.kept:
            return
        for take in self.takers:
            try:
                take(passage)
            except Exception:
                log.exception("a call that ended could not be noted")
        self._queue(passage)

    def refuse(self, passage: Passage, reason: str) -> None:
        """Enters a call that was refused before it began, for those who want calls whole."""
        passage.reason, passage.ended_ns = reason, time.monotonic_ns()
        if self.kept:
            self._queue(passage)

    def _queue(self, passage: Passage) -> None:
        if not self.queues:
            return
        if len(self.ended) >= _MOST_ENDED:
            self.ended.popleft()
            self.dropped += 1
        self.ended.append(passage)

    def take_ended(self) -> list[Passage]:
        """The calls that ended since this was asked last, in the order in which they did."""
        taken = list(self.ended)
        self.ended.clear()
        return taken


ARRIVAL: ContextVar[Arrival | None] = ContextVar("arrival", default=None)
"""The arrival of the call that this task carries out."""
