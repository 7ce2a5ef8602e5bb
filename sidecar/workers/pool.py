"""What runs jobs, as the path sees it: `Workers`; and the simplest of them, threads of this process.

Worker processes (supervisor.py) are the other. Either way a caller who goes away cancels a job that has not
begun; one that runs is left to finish, and its result is dropped on purpose and counted. What a job holds,
its ticket and its slots of the arena, is let go of when it has really ended.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from sidecar.arena.lease import Lease
from sidecar.media import Modality, Source
from sidecar.stages import compiled, fourier, kernels, unfilter
from sidecar.stages.admit.gate import Slots, Ticket
from sidecar.workers.plan import ThreadPlan
from sidecar.workers.precedence import give_way
from sidecar.workers.sandbox.config import LayerState
from sidecar.workers.worker import Done, Job, work

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WorkersStatistics:
    """Counts of a modality since the start: jobs that ended, and those whose caller had gone."""

    finished_total: int
    abandoned_total: int


@dataclass(frozen=True, slots=True)
class CrewStatistics:
    """Worker processes alive, with their pids; since the start: deaths, among them hangs and escapes (a system call
    that the sandbox forbids to code from outside), jobs run again and jobs refused because they ended two processes;
    contents that are refused at the door now; what became of each layer of the sandbox that is wanted.
    """

    processes: int = 0
    pids: tuple[int, ...] = ()
    deaths_total: int = 0
    hangs_total: int = 0
    escapes_total: int = 0
    reruns_total: int = 0
    poisoned_total: int = 0
    quarantined: int = 0
    sandbox: tuple[LayerState, ...] = ()


class Workers(Protocol):
    """Where decode, transform and pack run."""

    @property
    def slots(self) -> Slots:
        """How many jobs may hold a ticket at once."""
        ...

    @property
    def takes_copies(self) -> bool:
        """Whether a job's source must lie in the arena."""
        ...

    @property
    def ailment(self) -> str:
        """Why no job can be run at present, for the health status; empty while all is well."""
        ...

    async def open(self) -> None:
        """Returns when jobs can be run. Raises SettingsError where that takes too long."""
        ...

    async def changed(self) -> None:
        """Returns when `ailment` may have changed."""
        ...

    def check(self, source: Source) -> None:
        """Raises CorruptMedia for media that is known to end workers."""
        ...

    async def run(self, job: Job, ticket: Ticket, held: Sequence[Lease]) -> Done:
        """Runs a job that holds a ticket, and releases the ticket when the job has really ended.

        `held` are the slots that it reads and writes: they are retained, and pinned, as long.
        What went wrong with the job is in what it gives back; only cancellation is raised.
        """
        ...

    def statistics(self) -> Mapping[Modality, WorkersStatistics]: ...

    def crew(self) -> CrewStatistics:
        """Of worker processes; all zeros where there are none."""
        ...

    def resize(self, plan: ThreadPlan) -> None:
        """Goes by another plan from now on; what has begun goes on where it is. Raises ValueError for a plan of the
        other kind of workers.
        """
        ...

    async def close(self) -> None:
        """Drops what has not begun, waits for what runs, and ends the threads."""
        ...


class ThreadWorkers:
    """Workers on threads of this process: one pool a modality, and one for small items."""

    takes_copies = False
    ailment = ""

    def __init__(self, plan: ThreadPlan) -> None:
        self._outgrown: list[ThreadPoolExecutor] = []
        self._make(plan)
        self._finished: Counter[Modality] = Counter()
        self._abandoned: Counter[Modality] = Counter()

    def _make(self, plan: ThreadPlan) -> None:
        self.slots = Slots(plan.threads, max(plan.threads.values()), plan.express_threads)
        self._pools = {
            modality: ThreadPoolExecutor(threads, f"{modality.value}-worker", give_way, ("nice",))
            for modality, threads in plan.threads.items()
        }
        # Made for any number; without slots nobody asks it.
        self._express = ThreadPoolExecutor(max(1, plan.express_threads), "express-worker")

    def resize(self, plan: ThreadPlan) -> None:
        if plan.processes:
            raise ValueError("threads cannot become worker processes while running")
        for pool in (*self._pools.values(), self._express):
            pool.shutdown(wait=False)  # what it was given is done all the same
            self._outgrown.append(pool)
        self._make(plan)

    async def open(self) -> None:
        """Threads are there when they are needed; what they run is compiled now."""
        await asyncio.to_thread(kernels.warm)
        await asyncio.to_thread(fourier.warm)
        await asyncio.to_thread(unfilter.warm)
        log.info("kernels: %s", compiled.told())

    async def changed(self) -> None:
        await asyncio.get_running_loop().create_future()  # nothing ever does

    def check(self, source: Source) -> None:
        """No worker has ever been ended here."""

    async def run(self, job: Job, ticket: Ticket, held: Sequence[Lease]) -> Done:
        loop = asyncio.get_running_loop()
        for lease in held:
            lease.retain()
            lease.pin()
        pool = self._express if ticket.express else self._pools[ticket.modality]
        future = pool.submit(work, job)

        def ended(future: Future[Done]) -> None:
            cpu_ms = 0.0 if future.cancelled() else future.result().cpu_ms
            loop.call_soon_threadsafe(self._end, ticket, held, cpu_ms)

        future.add_done_callback(ended)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            self._abandoned[ticket.modality] += 1
            raise

    def _end(self, ticket: Ticket, held: Sequence[Lease], cpu_ms: float) -> None:
        for lease in held:
            lease.unpin()
            lease.release()
        self._finished[ticket.modality] += 1
        ticket.release(cpu_ms)

    def statistics(self) -> Mapping[Modality, WorkersStatistics]:
        return {
            modality: WorkersStatistics(self._finished[modality], self._abandoned[modality])
            for modality in self._pools
        }

    def crew(self) -> CrewStatistics:
        return CrewStatistics()

    async def close(self) -> None:
        for pool in (*self._outgrown, *self._pools.values(), self._express):
            await asyncio.to_thread(pool.shutdown, wait=True, cancel_futures=True)

    def __repr__(self) -> str:
        threads = ", ".join(f"{modality.value} {count}" for modality, count in self.slots.each.items())
        return f"<ThreadWorkers {threads}>"
