"""Lets a call in and observes it, however it ends; the same for every API that walks the path.

A visit enters its call into the journal and leaves its times in the metrics and the tallies. What a call asks is read
by the API that it came through; whether it may begin is the path's to say. Nothing is decided here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sidecar.deadline import Deadline
from sidecar.edge import receive
from sidecar.edge.around import Context
from sidecar.edge.tallies import Tallies
from sidecar.entry import Accepted, Asked, Verb
from sidecar.errors import CallCancelled, InternalError, SidecarError
from sidecar.observe.journal import ARRIVAL, Journal, Passage
from sidecar.observe.metrics import Metrics
from sidecar.observe.timings import Stage, Timeline
from sidecar.observe.tracing import Tracing
from sidecar.pipeline import Pipeline
from sidecar.walk import Walk


@dataclass(frozen=True, slots=True)
class Visit:
    """A call that was let in, and how far it has come."""

    accepted: Accepted
    walk: Walk


class Visits:
    """Calls on the path."""

    def __init__(
        self,
        *,
        pipeline: Pipeline,
        metrics: Metrics,
        tallies: Tallies,
        journal: Journal,
        tracing: Tracing,
        tenant: Callable[[Context], str],
    ) -> None:
        """`tenant` says whose a call is, empty where callers are not told apart; it refuses by raising."""
        self._pipeline = pipeline
        self._metrics = metrics
        self._tallies = tallies
        self._journal = journal
        self._tracing = tracing
        self._tenant = tenant

    def tenant(self, context: Context) -> str:
        """Whose call it is; empty where callers are not told apart. Raises PermissionDenied."""
        return self._tenant(context)

    @contextmanager
    def visit(
        self,
        verb: Verb,
        model: str,
        request_id: str,
        ask: Callable[[Deadline, str], Asked],
        context: Context,
    ) -> Iterator[Visit]:
        """Lets a call in, and observes it however it ends. `ask` reads it, given its deadline and its tenant."""
        walk = _walk()
        metadata = context.invocation_metadata()
        deadline = Deadline.after(context.time_remaining())
        tenant, trace = self.tenant(context), self._tracing.context(*receive.trace(metadata))
        try:
            asked = ask(deadline, tenant)
            accepted = self._pipeline.accept(asked)
        except SidecarError as error:
            refused = Passage(
                verb=verb.value,
                model=model,
                upstream="",
                modality=None,
                timeline=walk.timeline,
                items=(),
                handovers=(),
                request_id=request_id,
                tenant=tenant,
                trace=trace,
            )
            self._journal.refuse(refused, error.reason)
            raise
        walk.headers = trace.headers if trace is not None else ()
        passage = Passage(
            verb=verb.value,
            model=accepted.model.name,
            upstream=accepted.upstream,
            modality=accepted.modality,
            timeline=walk.timeline,
            items=walk.items,
            handovers=walk.handovers,
            request_id=asked.request_id,
            tenant=asked.tenant,
            trace=trace,
        )
        self._journal.begin(passage)
        reason = InternalError.reason
        try:
            yield Visit(accepted, walk)
            reason = "OK"
        except SidecarError as error:
            reason = error.reason
            raise
        except (asyncio.CancelledError, GeneratorExit):
            reason = CallCancelled.reason
            raise
        finally:
            walk.release()
            self._journal.end(passage, reason)
            times = walk.timeline.snapshot()
            self._tallies.count(accepted.model.name, walk.items, times)
            self._metrics.stages(accepted.model.name, accepted.modality, walk.items, times, trace)
            if walk.model_times is not None:
                self._metrics.model_times(accepted.model.name, walk.model_times)


def _walk() -> Walk:
    """A call's walk, from when its headers came, where that is known: until now its message was on its way."""
    arrival = ARRIVAL.get()
    if arrival is None:
        return Walk()
    walk = Walk(Timeline(arrival.at_ns))
    walk.timeline.add(Stage.RECEIVE, arrival.at_ns, time.monotonic_ns())
    return walk
