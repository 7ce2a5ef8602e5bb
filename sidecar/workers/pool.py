"""Runs jobs on threads, as many a modality as the plan says, and lets go of tickets when they end.

The interface is `Workers`; threads of this process are one way behind it. A caller who goes away
cancels a job that has not begun; one that runs is left to finish, and its result is dropped on purpose
and counted.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
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
    """Counts of a modality since the start: jobs that ended, and those whose caller had gone."""

    finished_total: int
    abandoned_total: int


class Workers(Protocol):
    """Where probe, decode, transform and pack run."""

    @property
    def slots(self) -> Mapping[Modality, int]:
        """How many jobs of each modality run at once."""
        ...

    async def probe(self, source: Source) -> tuple[MediaInfo, int]:
        """A source's facts, and the nanoseconds that reading them took, without the wait for a thread.

        Raises only UnsupportedMedia and CorruptMedia.
        """
        ...

    async def run(self, job: Job, ticket: Ticket) -> Done:
        """Runs a job that holds a ticket, and releases the ticket when the job has really ended.

        What went wrong with the job is in what it gives back; only cancellation is raised.
        """
        ...

    def statistics(self) -> Mapping[Modality, WorkersStatistics]: ...

    async def close(self) -> None:
        """Drops what has not begun, waits for what runs, and ends the threads."""
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
        self._finished: Counter[Modality] = Counter()
        self._abandoned: Counter[Modality] = Counter()

    async def probe(self, source: Source) -> tuple[MediaInfo, int]:
        return await asyncio.get_running_loop().run_in_executor(self._probe_pool, _timed_probe, source)

    async def run(self, job: Job, ticket: Ticket) -> Done:
        loop = asyncio.get_running_loop()
        future = self._pools[ticket.modality].submit(work, job)

        def ended(_: Future[Done]) -> None:
            loop.call_soon_threadsafe(self._end, ticket)

        future.add_done_callback(ended)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            self._abandoned[ticket.modality] += 1
            raise

    def _end(self, ticket: Ticket) -> None:
        self._finished[ticket.modality] += 1
        ticket.release()

    def statistics(self) -> Mapping[Modality, WorkersStatistics]:
        return {
            modality: WorkersStatistics(self._finished[modality], self._abandoned[modality])
            for modality in self.slots
        }

    async def close(self) -> None:
        for pool in (self._probe_pool, *self._pools.values()):
            await asyncio.to_thread(pool.shutdown, wait=True, cancel_futures=True)

    def __repr__(self) -> str:
        threads = ", ".join(f"{modality.value} {count}" for modality, count in self.slots.items())
        return f"<ThreadWorkers {threads}>"


def _timed_probe(source: Source) -> tuple[MediaInfo, int]:
    begun = time.monotonic_ns()
    return probe(source), time.monotonic_ns() - begun
