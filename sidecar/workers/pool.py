"""Runs jobs on threads, as many a modality as the plan says, and lets go of tickets when they end.

The interface is `Workers`; threads of this process are one way behind it. A caller who goes away
cancels a job that has not begun; one that runs is left to finish, and its result is dropped on purpose
and counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from sidecar.media import MediaInfo, Modality, Source
from sidecar.stages.admit.gate import Ticket
from sidecar.stages.probe import probe
from sidecar.workers.plan import ThreadPlan
from sidecar.workers.worker import Done, Job, work


@dataclass(frozen=True, slots=True)
class WorkersStatistics:
    """Counts since the start: jobs that ended, and those whose caller had gone."""

    finished_total: int
    abandoned_total: int


class Workers(Protocol):
    """Where probe, decode, transform and pack run."""

    @property
    def slots(self) -> Mapping[Modality, int]:
        """How many jobs of each modality run at once."""
        ...

    async def probe(self, source: Source) -> MediaInfo:
        """Reads a source's facts; raises only UnsupportedMedia and CorruptMedia."""
        ...

    async def run(self, job: Job, ticket: Ticket) -> Done:
        """Runs a job that holds a ticket, and releases the ticket when the job has really ended."""
        ...

    def statistics(self) -> WorkersStatistics: ...

    def close(self) -> None:
        """Waits for running jobs and ends the threads."""
        ...


class ThreadWorkers:
    """Workers on threads of this process: one pool a modality, and one for probe."""

    def __init__(self, plan: ThreadPlan) -> None:
        self.slots: Mapping[Modality, int] = {
            Modality.IMAGE: plan.image_threads,
            Modality.AUDIO: plan.audio_threads,
        }
        self._pools = {
            modality: ThreadPoolExecutor(threads, thread_name_prefix=f"{modality.value}-worker")
            for modality, threads in self.slots.items()
        }
        self._probe_pool = ThreadPoolExecutor(plan.probe_threads, thread_name_prefix="probe")
        self._finished_total = 0
        self._abandoned_total = 0

    async def probe(self, source: Source) -> MediaInfo:
        return await asyncio.get_running_loop().run_in_executor(self._probe_pool, probe, source)

    async def run(self, job: Job, ticket: Ticket) -> Done:
        loop = asyncio.get_running_loop()
        future = self._pools[ticket.modality].submit(work, job)

        def ended(_: Future[Done]) -> None:
            loop.call_soon_threadsafe(self._end, ticket)

        future.add_done_callback(ended)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            self._abandoned_total += 1
            raise

    def _end(self, ticket: Ticket) -> None:
        self._finished_total += 1
        ticket.release()

    def statistics(self) -> WorkersStatistics:
        return WorkersStatistics(self._finished_total, self._abandoned_total)

    def close(self) -> None:
        for pool in (self._probe_pool, *self._pools.values()):
            pool.shutdown(wait=True, cancel_futures=True)

    def __repr__(self) -> str:
        threads = ", ".join(f"{modality.value} {count}" for modality, count in self.slots.items())
        return f"<ThreadWorkers {threads}>"
