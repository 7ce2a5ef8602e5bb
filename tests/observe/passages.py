"""Calls that ended, for observers to look at: of the path's own parts, at moments that a test chooses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sidecar.errors import SidecarError
from sidecar.media import Modality
from sidecar.observe.journal import Passage
from sidecar.observe.notes import Noted, Notes
from sidecar.observe.timings import Mark, Timeline
from sidecar.observe.trace_context import TraceContext
from sidecar.walk import Item

# Where a call begins that says nothing else: far from any clock's start.
START_NS = 5_000_000_000


def item(*marks: Mark, cpu_ms: float = 0.0, problem: SidecarError | None = None) -> Item:
    """An item that was at these stages."""
    made = Item(timeline=Timeline(START_NS), cpu_ms=cpu_ms, problem=problem)
    made.timeline.include(marks)
    return made


def passage(
    *marks: Mark,
    items: Sequence[Item] = (),
    verb: str = "preprocess",
    modality: Modality | None = Modality.IMAGE,
    upstream: str = "",
    reason: str = "OK",
    request_id: str = "",
    tenant: str = "",
    trace: TraceContext | None = None,
    start_ns: int = START_NS,
    ended_ns: int = START_NS + 10_000_000,
) -> Passage:
    """A call that was at these stages, and ended so."""
    timeline = Timeline(start_ns)
    timeline.include(marks)
    return Passage(
        verb=verb,
        model="clip",
        upstream=upstream,
        modality=modality,
        timeline=timeline,
        items=items,
        handovers=(),
        request_id=request_id,
        tenant=tenant,
        trace=trace,
        reason=reason,
        ended_ns=ended_ns,
    )


def calls(reasons: Iterable[str]) -> list[Passage]:
    """One that ended so for each of them."""
    return [passage(reason=reason) for reason in reasons]


def noted(*ended: Passage) -> Noted:
    """Calls as they are noted, in this order."""
    notes = Notes()
    for each in ended:
        notes.take(each)
    return notes.drain()
