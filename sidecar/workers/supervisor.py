"""Runs jobs in worker processes, and sees to it that a process's death costs at most the job that caused it.

Every job has a lease on its worker from its predicted cost; who overruns it, and whoever runs when a worker
dies, is a suspect. A suspect is run once more, elsewhere and alone, so that a second death names the culprit:
that one is answered as bad media and its content is refused for a while. What ran beside a known culprit, or in a
worker that went down with its nursery, is run again and suspected of nothing. Callers notice none of it but time.

The plan may change while it runs: new processes come, those that are too many or too small take no more orders and end
when what they run has ended; no job notices.

It lives on one event loop, whose thread alone may change it. It never forks, never decodes, and never gives
a slot of the arena back while a process lives that may write there.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Annotated, Any

from annotated_types import Ge, Gt

from sidecar.arena.lease import Lease
from sidecar.errors import Overloaded, SettingsError, SidecarError
from sidecar.media import Modality, Source
from sidecar.observe.clocks import cpu_ns, wants_a_core
from sidecar.stages.admit.gate import Slots, Ticket
from sidecar.workers.nursery_link import Listener, NurseryLink, SpawnOrder
from sidecar.workers.orders import MOST_BYTES, lay_order, read_report, report_number
from sidecar.workers.plan import ThreadPlan
from sidecar.workers.pool import CrewStatistics, WorkersStatistics
from sidecar.workers.precedence import Policy
from sidecar.workers.quarantine import Quarantine, refusal
from sidecar.workers.sandbox.config import LayerState, SandboxConfig, lacking, words
from sidecar.workers.worker import Done, Job

log = logging.getLogger(__name__)

# How often leases are looked at. A hang is found this much late at most.
_WATCH_S = 0.2
# A job that did nothing wrong is run this often before its caller is asked to come back.
_MOST_RUNS = 4
# Deaths of one place in a row without a finished job: up to this many are replaced at once, further ones
# after a pause that doubles, up to the longest. Out of the air.
_FREE_DEATHS = 3
_FIRST_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 30.0


def _pause_s(times: int) -> float:
    """The pause, doubled so many times."""
    return min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** min(10, times))


@dataclass(frozen=True, slots=True)
class WorkersConfig:
    """Where jobs run, and how long they may. Times are seconds.

    `processes`: worker processes; 0 runs the same jobs on threads of the front process, without isolation;
    null takes the plan's own number. `start_s`: how long the workers may take to become warm. `lease_s`: what
    any job may take, and `lease_factor`: how many times its predicted CPU time a long one; past the longer
    of the two its process is ended, unless the kernel has given it no core. `quarantine_s`: how long media that
    ended two processes is refused. `policy`: how processes give way to the front and to small items: `idle` takes
    cores that all others leave, `nice` (niceness 10) suits machines whose cores other containers keep busy. `pin`: each
    process keeps to its own part of the CPUs, where the container has these for itself.
    """

    processes: Annotated[int, Ge(0)] | None = None
    start_s: Annotated[float, Gt(0)] = 60.0
    lease_s: Annotated[float, Gt(0)] = 10.0
    lease_factor: Annotated[float, Gt(0)] = 20.0
    quarantine_s: Annotated[float, Ge(0)] = 300.0
    policy: Policy = "idle"
    pin: bool = False


@dataclass(eq=False, slots=True)
class _Task:
    """A job on its way through workers."""

    job: Job
    order: bytes
    number: int
    ticket: Ticket
    held: Sequence[Lease]
    done: asyncio.Future[Done]
    runs: int = 0
    strikes: int = 0
    ends_ns: int = 0
    lease_ns: int = 0
    cpu_ns: int = 0
    overdue: bool = False


@dataclass(eq=False, slots=True)
class _Worker:
    """A living process of so many threads, kept to `cpus` where there are any. It takes orders once `pidfd` is there.
    `alone`: it runs, or is to run, a suspect; `doomed`: its nursery ended, and so will it; `leaving`: the plan has no
    place for it any more.
    """

    place: int
    number: int
    nursery: NurseryLink
    channel: socket.socket
    threads: int
    cpus: tuple[int, ...] = ()
    pid: int = 0
    pidfd: int = -1
    alone: bool = False
    doomed: bool = False
    leaving: bool = False
    finished: int = 0
    running: dict[int, _Task] = field(default_factory=dict)
    busy: Counter[Modality] = field(default_factory=Counter)

    @property
    def express(self) -> bool:
        """Whether it is for small items."""
        return self.place < 0


def _places(plan: ThreadPlan) -> set[int]:
    """Where the plan has a process: numbers from 0 on, and from -1 down for those of small items."""
    return {*range(plan.processes), *range(-plan.express_threads, 0)}


def _order(place: int) -> tuple[bool, int]:
    """In which order places are filled: those of small items last."""
    return place < 0, place


def _slots(plan: ThreadPlan) -> Slots:
    """One job more than threads for each process is made ready, so that a worker who reports finds the next order
    written.
    """
    return Slots(
        {modality: threads + plan.processes for modality, threads in plan.threads.items()},
        max(plan.threads.values()) + plan.processes,
        2 * plan.express_threads,
    )


class ProcessWorkers:
    """Workers in processes of their own. Made and used inside a running event loop."""

    takes_copies = True

    def __init__(
        self, plan: ThreadPlan, config: WorkersConfig, sandbox: SandboxConfig, nursery: Mapping[str, Any]
    ) -> None:
        """`nursery` is what the nursery is told: the arena's name and size, how to log, what workers are confined by,
        and the modules that recipes come from, for nothing is loaded later.
        """
        self._plan = plan
        self._config = config
        self._sandbox = sandbox
        self._layers: tuple[LayerState, ...] = ()
        self._unconfined: SettingsError | None = None
        self._loop = asyncio.get_running_loop()
        self.slots = _slots(plan)
        self._quarantine = Quarantine(config.quarantine_s)
        self._nursery_config = dict(nursery)
        self._nursery: NurseryLink | None = None
        self._nursery_warm = False
        self._workers: dict[int, _Worker] = {}
        self._fruitless: Counter[int] = Counter()
        # Nurseries in a row none of whose workers finished anything.
        self._barren = 0
        self._empty = _places(plan)
        # Processes whose channel was closed, and that nobody has heard of since.
        self._seen_off: set[int] = set()
        self._waiting: dict[Modality, deque[_Task]] = {modality: deque() for modality in plan.threads}
        self._express: deque[_Task] = deque()
        self._suspects: deque[_Task] = deque()
        self._numbers = 0
        self._finished: Counter[Modality] = Counter()
        self._abandoned: Counter[Modality] = Counter()
        self._counts: Counter[str] = Counter()
        self._changed = asyncio.Event()
        self._idle = asyncio.Event()
        self._tasks = 0
        self._closed = False
        self._watch_handle: asyncio.TimerHandle | None = None

    async def open(self) -> None:
        """Starts all processes side by side, and returns when they are warm.

        Raises SettingsError if late, and where a layer of the sandbox is required that is not here.
        """
        self._start_nursery()
        self._watch()
        begun = time.monotonic()
        try:
            async with asyncio.timeout(self._config.start_s):
                while len(self._ready()) < self._processes and self._unconfined is None:
                    await self._change()
        except TimeoutError:
            await self.close()
            raise SettingsError(
                f"`workers.start_s` is {self._config.start_s:g} s and only {len(self._ready())} of "
                f"{self._processes} worker processes were warm by then: their log lines stand above; "
                "allow more time, or run without processes by `workers: 0`",
                key="workers.start_s",
                value=self._config.start_s,
            ) from None
        if self._unconfined is not None:
            await self.close()
            raise self._unconfined
        log.info(
            "%d worker processes of %s threads are warm after %.1f s",
            self._processes,
            self._threads,
            time.monotonic() - begun,
        )

    def resize(self, plan: ThreadPlan) -> None:
        """Goes by another plan from now on. What runs ends where it runs, and nothing waits for it."""
        if not plan.processes:
            raise ValueError("worker processes cannot become threads while running")
        self._plan, self.slots = plan, _slots(plan)
        wanted = _places(plan)
        for worker in self._workers.values():
            fits = worker.threads >= self._threads and worker.cpus == self._cpus_of(worker.place)
            worker.leaving |= worker.place not in wanted or not fits
        self._empty = wanted - {worker.place for worker in self._workers.values() if not worker.leaving}
        for place in sorted(self._empty, key=_order):
            self._spawn(place)
        self._see_off()
        self._dispatch()
        self._tell()

    def _see_off(self) -> None:
        """Lets go of who is leaving and has nothing to do, once somebody else can take orders."""
        leaving = [
            each for each in self._workers.values() if each.leaving and each.pidfd >= 0 and not each.running
        ]
        for worker in leaving:
            if worker.express or any(not other.leaving and not other.express for other in self._ready()):
                self._seen_off.add(worker.number)
                self._let_go(worker)
                self._tell()

    def _cpus_of(self, place: int) -> tuple[int, ...]:
        """The CPUs that the process of a place keeps to; none for all, as for small items."""
        return () if place < 0 else self._plan.cpus_of(place)

    @property
    def _processes(self) -> int:
        """How many the plan has, those of small items among them."""
        return len(_places(self._plan))

    @property
    def _threads(self) -> int:
        """What a process of the plan runs at once."""
        return sum(self._plan.threads_per_process.values())

    def check(self, source: Source) -> None:
        self._quarantine.check(source)

    @property
    def ailment(self) -> str:
        if self._ready() or not self._empty:
            return ""
        return f"no worker process is alive: {self._counts['deaths']} have ended since the start, see the log"

    async def changed(self) -> None:
        await self._change()

    async def run(self, job: Job, ticket: Ticket, held: Sequence[Lease]) -> Done:
        self._numbers += 1
        try:
            order = lay_order(self._numbers, job)
        except SidecarError as problem:
            ticket.release()
            return Done((), problem.bare(), (), 0.0)
        task = _Task(job, order, self._numbers, ticket, held, self._loop.create_future())
        for lease in held:
            lease.retain()
            lease.pin()
        self._tasks += 1
        queue = self._queue_of(task)
        queue.append(task)
        self._dispatch()
        try:
            return await task.done
        except asyncio.CancelledError:
            self._abandoned[ticket.modality] += 1
            if task in queue:
                queue.remove(task)
                self._end(task, 0.0)
            raise

    def statistics(self) -> Mapping[Modality, WorkersStatistics]:
        return {
            modality: WorkersStatistics(self._finished[modality], self._abandoned[modality])
            for modality in self._waiting
        }

    def crew(self) -> CrewStatistics:
        return CrewStatistics(
            processes=len(self._workers),
            pids=tuple(worker.pid for worker in list(self._workers.values()) if worker.pid),
            deaths_total=self._counts["deaths"],
            hangs_total=self._counts["hangs"],
            escapes_total=self._counts["escapes"],
            reruns_total=self._counts["reruns"],
            poisoned_total=self._counts["poisoned"],
            quarantined=len(self._quarantine),
            sandbox=self._layers,
        )

    async def close(self) -> None:
        """Drops what has not begun, waits for what runs, and ends the processes."""
        for queue in (*self._waiting.values(), self._express, self._suspects):
            while queue:
                task = queue.popleft()
                task.done.cancel()
                self._end(task, 0.0)
        while self._tasks:
            self._idle.clear()
            await self._idle.wait()
        self._closed = True
        if self._watch_handle is not None:
            self._watch_handle.cancel()
        if self._nursery is not None:
            await self._nursery.close()
        for worker in list(self._workers.values()):
            self._let_go(worker)

    def __repr__(self) -> str:
        return f"<ProcessWorkers {len(self._ready())} of {self._processes} alive>"

    # Orders and reports

    def _dispatch(self) -> None:
        """Hands out what waits: suspects first, each to a worker that does nothing else."""
        while self._suspects:
            worker = self._worker_for_suspect()
            if worker is None or worker.running:
                break
            self._send(worker, self._suspects.popleft())
        while (
            self._express and (worker := self._freest_express(self._express[0].ticket.modality)) is not None
        ):
            self._send(worker, self._express.popleft())
        for modality, queue in self._waiting.items():
            while queue and (worker := self._freest(modality)) is not None:
                self._send(worker, queue.popleft())

    def _queue_of(self, task: _Task) -> deque[_Task]:
        return self._express if task.ticket.express else self._waiting[task.ticket.modality]

    def _worker_for_suspect(self) -> _Worker | None:
        """One kept free already and idle, else the least busy one, which gets no further orders until then."""
        ready = self._ready()
        kept = [worker for worker in ready if worker.alone]
        if kept and (idle := [worker for worker in kept if not worker.running]):
            return idle[0]
        if kept or not ready:
            return None
        worker = min(ready, key=lambda one: len(one.running))
        worker.alone = True
        return worker

    def _freest(self, modality: Modality) -> _Worker | None:
        working = [worker for worker in self._workers.values() if not worker.express]
        if sum(worker.busy[modality] for worker in working) >= self._plan.threads[modality]:
            return None
        most = self._plan.threads_per_process[modality]
        free = [
            worker
            for worker in self._ready()
            if not worker.express
            and not worker.alone
            and worker.busy[modality] < most
            and len(worker.running) < worker.threads
        ]
        return min(free, key=lambda worker: len(worker.running), default=None)

    def _freest_express(self, modality: Modality) -> _Worker | None:
        """One that does nothing, for it has one job at a time; while there is none at all, any other will do."""
        express = [worker for worker in self._ready() if worker.express]
        if not express:
            return self._freest(modality)
        return next((worker for worker in express if not worker.alone and not worker.running), None)

    def _alive(self) -> list[_Worker]:
        return [worker for worker in self._workers.values() if worker.pidfd >= 0 and not worker.doomed]

    def _ready(self) -> list[_Worker]:
        """Who takes orders: who is leaving only until another of its kind does."""
        alive = self._alive()
        staying = {worker.express for worker in alive if not worker.leaving}
        return [worker for worker in alive if not worker.leaving or worker.express not in staying]

    def _send(self, worker: _Worker, task: _Task) -> None:
        task.runs += 1
        lease_s = max(self._config.lease_s, self._config.lease_factor * task.ticket.cost.cpu_ms / 1e3)
        task.lease_ns = int(lease_s * 1e9)
        task.ends_ns = time.monotonic_ns() + task.lease_ns
        task.cpu_ns = cpu_ns(worker.pid)
        worker.running[task.number] = task
        worker.busy[task.ticket.modality] += 1
        try:
            worker.channel.send(task.order)
        except OSError as error:
            # A dying worker's channel; or one so full that nobody reads it. Its end is dealt with as any.
            log.warning("worker %d takes no order: %s", worker.pid, error)
            self._kill(worker)

    def _hear(self, worker: _Worker) -> None:
        """Reads all reports that are there."""
        while True:
            try:
                laid = worker.channel.recv(MOST_BYTES)
            except BlockingIOError:
                return
            except OSError:
                laid = b""
            if not laid:
                self._loop.remove_reader(worker.channel.fileno())
                self._kill(worker)
                return
            try:
                number, report = report_number(laid)
                task = worker.running[number]
                done = read_report(report, task.job)
            except (ValueError, KeyError) as error:
                log.error("worker %d reports nonsense (%s) and is ended", worker.pid, error)  # noqa: TRY400 - its text is enough
                self._loop.remove_reader(worker.channel.fileno())
                self._kill(worker)
                return
            self._take_back(worker, task)
            worker.finished += 1
            self._fruitless[worker.place] = self._barren = 0
            worker.alone = worker.alone and bool(worker.running or self._suspects)
            self._dispatch()
            self._answer(task, done)
            if worker.leaving:
                self._see_off()
                if worker.number not in self._workers:
                    return

    def _take_back(self, worker: _Worker, task: _Task) -> None:
        del worker.running[task.number]
        worker.busy[task.ticket.modality] -= 1

    def _answer(self, task: _Task, done: Done) -> None:
        if not task.done.done():
            task.done.set_result(done)
        self._end(task, done.cpu_ms)

    def _end(self, task: _Task, cpu_ms: float) -> None:
        """The work has really ended: what it held is free."""
        for lease in task.held:
            lease.unpin()
            lease.release()
        self._finished[task.ticket.modality] += 1
        task.ticket.release(cpu_ms)
        self._tasks -= 1
        if not self._tasks:
            self._idle.set()

    # Deaths

    def _watch(self) -> None:
        """Ends workers whose job overran its lease."""
        now = time.monotonic_ns()
        for worker in self._alive():
            late = [
                task
                for task in worker.running.values()
                if task.ends_ns < now and not task.overdue and not _is_starved(worker, task)
            ]
            for task in late:
                task.overdue = True
                self._counts["hangs"] += 1
                log.error("%s hangs in worker %d, which is ended", task.job.source.label, worker.pid)
            if late:
                self._kill(worker)
        self._watch_handle = self._loop.call_later(_WATCH_S, self._watch)

    def _kill(self, worker: _Worker) -> None:
        if worker.pidfd >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(worker.pidfd, signal.SIGKILL)

    def _died(self, worker: _Worker) -> None:
        """A process is gone for certain: its last reports are read, its jobs are sorted, its place refilled."""
        self._hear(worker)
        if worker.number not in self._workers:
            return  # it was seen off, and had nothing to do
        self._let_go(worker)
        if self._closed:
            return
        self._counts["deaths"] += 1
        if not worker.finished:
            self._fruitless[worker.place] += 1
        tasks = list(worker.running.values())
        if worker.nursery.is_ending:
            # The first of them is heard of before the others: a job must not follow them to the grave one by one.
            for sibling in self._workers.values():
                sibling.doomed |= sibling.nursery is worker.nursery
        is_explained = worker.nursery.is_ending or any(task.overdue for task in tasks)
        for task in tasks:
            self._take_back(worker, task)
            if task.overdue or not is_explained:
                task.strikes += 1
            self._judge(task)
        if not worker.leaving:
            self._empty.add(worker.place)
            self._refill(worker.place)
        self._dispatch()
        self._tell()

    def _judge(self, task: _Task) -> None:
        """What becomes of a job whose worker died under it."""
        task.overdue = False
        source = task.job.source
        if task.done.done():
            self._end(task, 0.0)  # nobody waits for it any more
        elif task.strikes > 1:
            self._counts["poisoned"] += 1
            self._quarantine.add(source)
            log.error("%s ended two workers: it is refused from now on", source.label)
            self._answer(task, Done((), refusal(source.label, self._config.quarantine_s), (), 0.0))
        elif task.runs >= _MOST_RUNS:
            problem = Overloaded(
                f"{source.label} was begun {task.runs} times, and each time its worker process ended for another's "
                "sake: try again after the hinted time",
                retry_after_s=1.0,
            )
            self._answer(task, Done((), problem, (), 0.0))
        else:
            self._counts["reruns"] += 1
            if task.strikes:
                self._suspects.append(task)
            else:
                self._queue_of(task).appendleft(task)

    def _let_go(self, worker: _Worker) -> None:
        self._workers.pop(worker.number, None)
        self._loop.remove_reader(worker.channel.fileno())
        worker.channel.close()
        if worker.pidfd >= 0:
            self._loop.remove_reader(worker.pidfd)
            os.close(worker.pidfd)
            worker.pidfd = -1

    # Births

    def _start_nursery(self) -> None:
        self._nursery_warm = False
        self._nursery = NurseryLink(
            self._nursery_config,
            Listener(self._nursery_ready, self._spawned, self._ended, self._nursery_gone),
        )

    def _nursery_ready(self, layers: Sequence[LayerState]) -> None:
        self._layers = tuple(layers)
        log.info("sandbox: %s", words(layers))
        self._unconfined = lacking(self._sandbox, layers)
        if self._unconfined is not None:
            log.error("no worker is started: %s", self._unconfined.message)
            self._tell()
            return
        self._nursery_warm = True
        for place in sorted(self._empty, key=_order):
            self._spawn(place)

    def _nursery_gone(self) -> None:
        """Its workers end with it, each by itself; those that were only asked for never come.

        The next one comes at once or later, as `_refill` has it of workers.
        """
        log.error("the nursery ended and is started again")
        for worker in [worker for worker in self._workers.values() if worker.pidfd < 0]:
            self._let_go(worker)
            if not worker.leaving:
                self._empty.add(worker.place)
        self._barren += 1
        self._seen_off.clear()
        self._nursery_warm = False
        self._loop.call_later(_pause_s(self._barren), self._start_nursery_again)

    def _start_nursery_again(self) -> None:
        if not self._closed:
            self._start_nursery()

    def _refill(self, place: int) -> None:
        """Asks for a new worker: at once, or after a pause where the place's last ones achieved nothing."""
        extra = self._fruitless[place] - _FREE_DEATHS
        if extra <= 0:
            self._spawn(place)
            return
        pause = _pause_s(extra - 1)
        log.error(
            "%d workers in a row ended without finishing anything: the next in %.1f s",
            self._fruitless[place],
            pause,
        )
        self._loop.call_later(pause, self._spawn, place)

    def _spawn(self, place: int) -> None:
        # A nursery that is not warm yet fills all empty places itself once it is.
        if self._closed or place not in self._empty or self._nursery is None or not self._nursery_warm:
            return
        self._empty.discard(place)
        self._numbers += 1
        order = SpawnOrder(
            self._numbers, None if place < 0 else self._config.policy, self._threads, self._cpus_of(place)
        )
        channel = self._nursery.spawn(order)
        worker = _Worker(place, self._numbers, self._nursery, channel, order.threads, order.cpus)
        self._workers[worker.number] = worker
        self._loop.add_reader(worker.channel.fileno(), self._hear, worker)

    def _spawned(self, number: int, pid: int, pidfd: int) -> None:
        worker = self._workers.get(number)
        if worker is None:
            os.close(pidfd)
            return
        worker.pid, worker.pidfd = pid, pidfd
        self._loop.add_reader(pidfd, self._died, worker)
        self._see_off()
        self._dispatch()
        self._tell()

    def _ended(self, number: int, status: int) -> None:
        if number in self._seen_off:
            self._seen_off.discard(number)
        elif os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGSYS:
            self._counts["escapes"] += 1
            log.error(
                "a worker was ended by SIGSYS: it made a system call that no decoder makes, and code that was smuggled "
                "in does; see docs/sandbox.md"
            )
        elif os.WIFSIGNALED(status):
            log.error("a worker was ended by %s", signal.Signals(os.WTERMSIG(status)).name)
        else:
            log.error("a worker ended with status %d", os.waitstatus_to_exitcode(status))

    def _tell(self) -> None:
        self._changed.set()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()


def _is_starved(worker: _Worker, task: _Task) -> bool:
    """Whether a job is late for want of a core, which others or a quota keep from it: no fault of its own."""
    return cpu_ns(worker.pid) - task.cpu_ns < task.lease_ns / 2 and wants_a_core(worker.pid)
