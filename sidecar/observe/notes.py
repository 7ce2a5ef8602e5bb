"""Calls that ended, as numbers: what accounts and sums are made of, without keeping anything of the calls themselves.

Noted at each call's end, on the path: numbers are laid one after the other into buffers that the collector passes
over, and what they mean is worked out later, for hundreds of calls at once. It reads a call, never changes it, and
keeps none for longer than some others take to end. Times are nanoseconds of the monotonic clock.
"""

from __future__ import annotations

import enum
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from sidecar.media import Modality
from sidecar.observe.journal import Handover, Passage
from sidecar.observe.timings import STAGES, Stage

Columns = npt.NDArray[np.int64]
"""One row a call, item or hand-over."""

NEVER: Final = 1 << 62
"""Later than any time."""

MODALITIES: Final = (None, *Modality)
"""What a place of a modality means."""
PLACES_OF_MODALITIES: Final[Mapping[Modality | None, int]] = {
    modality: place for place, modality in enumerate(MODALITIES)
}


class Calls(enum.IntEnum):
    """Columns of a call: its arrival, when it ceased to be in preprocessing, its rank by completion, its end; whether
    it failed; the place of its modality in MODALITIES; its workers' CPU time; the stage that it was at after its last
    mark, by its place in STAGES. Then its own time by stage, as in STAGES.
    """

    BEGUN = 0
    PREPARED = 1
    RANK = 2
    ENDED = 3
    FAILED = 4
    MODALITY = 5
    CPU_NS = 6
    LAST = 7
    STAGES = 8


class Items(enum.IntEnum):
    """Columns of an item: the place of its modality in MODALITIES, its worker's CPU time (0: no worker made it), and
    its time by stage.
    """

    MODALITY = 0
    CPU_NS = 1
    STAGES = 2


class Runs(enum.IntEnum):
    """Columns of rows handed over: when, and when answered (0: not yet); how many; of what kind; the way there until
    THERE, then the queue until BEGUN, then executed until ENDED; whether the server's own counters say so.
    """

    HANDED = 0
    ANSWERED = 1
    ROWS = 2
    KIND = 3
    THERE = 4
    BEGUN = 5
    ENDED = 6
    PLACED = 7


PLAIN, FAILED, WHOLE = 0, 1, 2
"""Kinds of what was handed over: answered once; not answered; of several responses, or with an error."""

_CALL: Final = Calls.STAGES + len(STAGES)
_ITEM: Final = Items.STAGES + len(STAGES)
_DELIVER: Final = STAGES.index(Stage.DELIVER)
_AT_A_TIME: Final = 16


@dataclass(frozen=True, slots=True)
class Noted:
    """Rows of calls in the order in which they ended, of their items, and of what they handed over; `marks` has each
    call's `Timeline.flat`.
    """

    calls: Columns
    items: Columns
    runs: Columns
    marks: list[list[int]]


NOTHING: Final = Noted(
    np.empty((0, _CALL), np.int64),
    np.empty((0, _ITEM), np.int64),
    np.empty((0, len(Runs)), np.int64),
    [],
)


def joined(parts: Sequence[Noted]) -> Noted:
    """What was noted in parts, as one."""
    if not parts:
        return NOTHING
    calls, items, runs = (
        np.concatenate([getattr(part, columns) for part in parts]) for columns in ("calls", "items", "runs")
    )
    return Noted(calls, items, runs, [flat for part in parts for flat in part.marks])


class Notes:
    """Takes calls in, and gives them out as columns.

    Calls are turned into numbers some at a time: the first of them brings the code into the core's caches, and the
    others find it there.
    """

    def __init__(self) -> None:
        self._fresh: list[Passage] = []
        self._clear()

    def __len__(self) -> int:
        return len(self._fresh) + len(self._calls) // _CALL

    def take(self, passage: Passage) -> bool:
        """Notes a call that ended; whether there are enough of them to be laid."""
        self._fresh.append(passage)
        return len(self._fresh) >= _AT_A_TIME

    def drain(self) -> Noted:
        """What was noted since this was asked last."""
        self.lay()
        noted = Noted(
            _table(self._calls, _CALL),
            _table(self._items, _ITEM),
            _table(self._runs, len(Runs)),
            self._marks,
        )
        self._clear()
        return noted

    def _clear(self) -> None:
        self._calls, self._items, self._runs = (array("q") for _ in range(3))
        self._marks: list[list[int]] = []

    def lay(self) -> None:
        """Turns what was taken into numbers, and lets it go."""
        calls, items, runs = self._calls.fromlist, self._items.fromlist, self._runs.fromlist
        for passage in self._fresh:
            timeline, handovers, ended = passage.timeline, passage.handovers, passage.ended_ns
            modality, cpu_ns = PLACES_OF_MODALITIES[passage.modality], 0
            for item in passage.items:
                spent = int(item.cpu_ms * 1e6)
                cpu_ns += spent
                items([modality, spent, *item.timeline.sums])
            handed, last = (handovers[0].handed_ns, _DELIVER) if handovers else (0, at_last(passage))
            own = [timeline.start_ns, handed or ended, handed or NEVER, ended, passage.reason != "OK"]
            calls([*own, modality, cpu_ns, last, *timeline.sums])
            self._marks.append(timeline.flat)
            for handover in handovers:
                runs(run(handover))
        self._fresh.clear()


def _table(numbers: array[int], columns: int) -> Columns:
    table = np.frombuffer(numbers, np.int64) if numbers else np.empty(0, np.int64)
    return table.reshape(-1, columns)


def run(handover: Handover) -> list[int]:
    """The columns of rows handed over; of a stream whose reader rests, as if its last response were the last."""
    kind = FAILED if handover.failed else WHOLE if handover.whole else PLAIN
    answered = handover.last_ns if handover.paused else handover.answered_ns
    return [handover.handed_ns, answered, handover.rows, kind, 0, 0, 0, 0]


def at_last(passage: Passage) -> int:
    """What a call is at after its last mark, by its place in STAGES. Of what a worker is at nothing is known before it
    reports, and most of the time, and first, it decodes.
    """
    return STAGES.index(_at_last(passage))


def _at_last(passage: Passage) -> Stage:
    if passage.handovers:
        return Stage.DELIVER
    if passage.items:
        if any(item.begun_ns and not item.cpu_ms for item in passage.items):
            return Stage.DECODE
        return Stage.DELIVER if any(item.cpu_ms for item in passage.items) else Stage.ADMIT
    return Stage.PROBE if passage.timeline.flat else Stage.RECEIVE
