"""Processes die, hang and are killed; callers get their answers, and nothing stays behind."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sidecar.arena.arena import Arena, ArenaConfig
from sidecar.arena.lease import Lease
from sidecar.deadline import Deadline
from sidecar.errors import CorruptMedia, DeadlineExceeded, SettingsError
from sidecar.media import Cost, DataType, DecodeTarget, Modality, Source
from sidecar.observe.timings import Stage
from sidecar.stages.admit.gate import Gate, Ticket
from sidecar.stages.admit.lanes import Lanes, LanesConfig
from sidecar.stages.admit.turns import Asker
from sidecar.stages.probe import probe
from sidecar.workers.budget import memory_limit
from sidecar.workers.plan import ThreadPlan
from sidecar.workers.precedence import NICENESS
from sidecar.workers.sandbox.config import SandboxConfig
from sidecar.workers.supervisor import ProcessWorkers, WorkersConfig
from sidecar.workers.worker import Done, Job, Outlet, work
from testbed import faulty
from testbed.faulty import Faulty

FOREVER = Deadline(None)
MIB = 1 << 20
QUIET = {"level": "error", "format": "text"}
# A job that is small enough for a worker of its own, and one that is not; what they really take does not matter.
SMALL_MS, DEAR_MS = 1.0, 20.0


class Crew:
    """Workers with all that they need, and a way to send them pictures."""

    def __init__(self, arena: Arena, workers: ProcessWorkers, recipe: Faulty) -> None:
        self.arena = arena
        self.workers = workers
        self.recipe = recipe
        # Whoever comes is let in: here it is not the gate that is tried.
        turns = Lanes(LanesConfig(max_queued=10_000, patience_s=600), workers.slots.together)
        self.gate = Gate(turns, workers.slots, memory_bytes=MIB)

    async def ticket(self, cpu_ms: float = DEAR_MS) -> Ticket:
        places = self.gate.enter(Asker(Modality.IMAGE, "model"), [Cost(cpu_ms, 36)], [0])
        try:
            return await places.ticket(0)
        finally:
            places.leave()

    def taken(self, *sizes: int) -> tuple[Lease, ...]:
        """Slots of the arena, of which there are enough."""
        leases = self.arena.try_take_all(sizes)
        assert leases is not None
        return leases

    async def send(
        self, how: int, number: int = 0, recipe: Faulty | None = None, cpu_ms: float = DEAR_MS
    ) -> Done:
        """A picture that makes the worker do `how`, foretold to take `cpu_ms`; `number` tells it from others."""
        source = Source(picture(how, number), label=f"picture {number}")
        self.workers.check(source)
        info = probe(source)
        out, inlet = self.taken(3 * 12, len(source.data))
        try:
            inlet.view[:] = source.data
            job = Job(
                replace(source, data=inlet.view.toreadonly()),
                info,
                recipe or self.recipe,
                DecodeTarget(),
                {"pixels": DataType.UINT8},
                FOREVER,
                inlet.offset,
                {"pixels": Outlet(out.offset, out.view)},
            )
            done = await self.workers.run(job, await self.ticket(cpu_ms), [out, inlet])
            if done.tensors:
                assert bytes(done.tensors[0].data) == work(replace(job, outlets=None)).tensors[0].data
            return done
        finally:
            out.release()
            inlet.release()

    def kill(self, place: int = 0) -> int:
        pid = sorted(self.workers.crew().pids)[place]
        os.kill(pid, signal.SIGKILL)
        return pid

    async def settled(self, workers: int) -> None:
        """Returns when so many processes are there, and nobody holds anything."""
        while len(self.workers.crew().pids) != workers:
            await self.workers.changed()
        while any(lane.running for lane in self.gate.statistics().values()):  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0)
        statistics = self.arena.statistics()
        assert (statistics.leased, statistics.pinned) == (0, 0)


def picture(how: int, number: int = 0) -> bytes:
    """4 by 3 pixels, the first of them saying what the worker shall do."""
    pixels = np.full((3, 4, 3), (how, number % 256, number // 256), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@asynccontextmanager
async def crew(
    processes: int = 2, threads: int = 2, recipe: Faulty | None = None, express: int = 0, **config: Any
) -> AsyncIterator[Crew]:
    arena = Arena.open(ArenaConfig(bytes=16 * MIB), memory_limit())
    plan = ThreadPlan(processes, threads, 1, 1, express)
    # Who waits for a gate looks for a file, which nobody in the sandbox can.
    sandbox = SandboxConfig(layers={"seccomp": "off"} if recipe and recipe.gate else {})
    nursery = {
        "arena": arena.name,
        "arena_bytes": arena.size,
        "log": QUIET,
        "sandbox": asdict(sandbox.confinement(memory_bytes=1 << 30, file_bytes=MIB)),
        "recipes": [Faulty.__module__],
    }
    workers = ProcessWorkers(plan, WorkersConfig(**config), sandbox, nursery)
    try:
        await workers.open()
        yield Crew(arena, workers, recipe or Faulty())
    finally:
        await workers.close()
        arena.close()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_a_job_is_done_as_in_this_process() -> None:
    async with crew() as it:
        done = await it.send(faulty.GOOD)
        assert done.problem is None
        assert [stage for stage, _, _ in done.marks] == [Stage.DECODE, Stage.TRANSFORM, Stage.PACK]
        assert done.cpu_ms > 0
        await it.settled(2)


async def test_bad_media_costs_its_job_only_and_no_worker() -> None:
    async with crew() as it:
        pids = it.workers.crew().pids
        file = io.BytesIO()
        Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 40, 3), np.uint8)).save(file, "PNG")
        source = Source(file.getvalue()[:-400])
        info = probe(source)
        (inlet,) = it.taken(len(source.data))
        inlet.view[:] = source.data
        job = Job(
            replace(source, data=inlet.view),
            info,
            it.recipe,
            DecodeTarget(),
            {},
            FOREVER,
            inlet.offset,
            {},
        )
        done = await it.workers.run(job, await it.ticket(), [inlet])
        inlet.release()
        assert isinstance(done.problem, CorruptMedia)
        assert it.workers.crew().pids == pids
        await it.settled(2)


async def test_a_job_whose_deadline_has_passed_is_not_begun() -> None:
    async with crew() as it:
        (inlet,) = it.taken(100)
        info = probe(Source(picture(faulty.GOOD)))
        job = Job(
            Source(inlet.view), info, it.recipe, DecodeTarget(), {}, Deadline.after(0), inlet.offset, {}
        )
        done = await it.workers.run(job, await it.ticket(), [inlet])
        inlet.release()
        assert isinstance(done.problem, DeadlineExceeded)
        await it.settled(2)


async def test_workers_share_nothing_with_the_front_but_the_arena_and_have_one_thread_for_each_job() -> None:
    async with crew(processes=2, threads=4) as it:
        for pid in it.workers.crew().pids:
            # Two for pictures, one for sounds, and none of a library's own.
            await until(lambda pid=pid: entries(f"/proc/{pid}/task") >= 3)  # type: ignore[misc]
            assert (await it.send(faulty.GOOD)).problem is None
            assert entries(f"/proc/{pid}/task") == 3
            assert entries(f"/proc/{pid}/fd", "socket:") == 1 + entries("/proc/self/fd", "socket:", below=3)


@pytest.mark.parametrize("how", [faulty.SEGFAULT, faulty.KILLED, faulty.EXITS])
async def test_media_that_ends_two_workers_is_refused_and_its_neighbours_are_answered(how: int) -> None:
    async with crew() as it:
        deadly = asyncio.create_task(it.send(how, 1))
        good = await asyncio.gather(*(it.send(faulty.GOOD, number) for number in range(100, 140)))
        assert [done.problem for done in good] == [None] * 40
        problem = (await deadly).problem
        assert isinstance(problem, CorruptMedia)
        assert "picture 1 ended or hung the process that decoded it, twice" in problem.message
        with pytest.raises(CorruptMedia, match="refused for the next"):
            await it.send(how, 1)
        assert (await it.send(faulty.GOOD, 2)).problem is None
        counts = it.workers.crew()
        assert (counts.deaths_total, counts.poisoned_total, counts.quarantined) == (2, 1, 1)
        await it.settled(2)


async def test_innocents_that_ran_beside_a_deadly_one_are_told_apart_from_it() -> None:
    async with crew(processes=1, threads=4) as it:
        both = [faulty.SEGFAULT if number % 3 == 0 else faulty.GOOD for number in range(12)]
        dones = await asyncio.gather(*(it.send(how, number) for number, how in enumerate(both)))
        assert [isinstance(done.problem, CorruptMedia) for done in dones] == [
            how == faulty.SEGFAULT for how in both
        ]
        assert it.workers.crew().quarantined == 4
        await it.settled(1)


@pytest.mark.parametrize("how", [faulty.HANGS, faulty.HANGS_HOLDING_THE_LOCK])
async def test_media_that_hangs_is_ended_by_its_lease_tried_once_more_and_refused(how: int) -> None:
    async with crew(lease_s=0.3) as it:
        hanging = asyncio.create_task(it.send(how, 1))
        good = await asyncio.gather(*(it.send(faulty.GOOD, number) for number in range(100, 120)))
        assert [done.problem for done in good] == [None] * 20
        assert isinstance((await hanging).problem, CorruptMedia)
        counts = it.workers.crew()
        assert (counts.hangs_total, counts.deaths_total, counts.poisoned_total) == (2, 2, 1)
        await it.settled(2)


async def test_a_worker_that_gets_no_core_is_not_taken_for_one_that_hangs() -> None:
    core = min(os.sched_getaffinity(0))
    async with crew(processes=1, threads=1, lease_s=0.3) as it:
        worker = it.workers.crew().pids[0]
        os.sched_setaffinity(worker, {core})
        # To an idle worker on the same core it leaves some thousandth of it.
        hog = await asyncio.create_subprocess_exec(sys.executable, "-c", "while True: pass")
        try:
            os.sched_setaffinity(hog.pid, {core})
            starved = asyncio.create_task(it.send(faulty.TOILS, 1))
            done, _ = await asyncio.wait([starved], timeout=1.5)
            assert not done
            assert it.workers.crew().hangs_total == 0
        finally:
            hog.kill()
            await hog.wait()
        assert (await starved).problem is None
        await it.settled(1)


async def test_what_ran_beside_a_hang_is_not_suspected(tmp_path: Path) -> None:
    async with crew(processes=1, threads=2, lease_s=0.5, recipe=Faulty(str(tmp_path / "go"))) as it:
        hanging = asyncio.create_task(it.send(faulty.HANGS, 1))
        await asyncio.sleep(0.2)  # so that the other's lease still runs when this one's is over
        waiting = asyncio.create_task(it.send(faulty.WAITS, 2))
        while not it.workers.crew().deaths_total:
            await it.workers.changed()
        (tmp_path / "go").touch()
        assert (await waiting).problem is None
        assert isinstance((await hanging).problem, CorruptMedia)
        await it.settled(1)


async def test_a_worker_killed_fifty_times_under_load_loses_no_job() -> None:
    async with crew(processes=2, threads=2) as it:
        stop, answered, slowest = asyncio.Event(), [0] * 8, 0.0

        async def load(first: int) -> None:
            nonlocal slowest
            number = first
            while not stop.is_set():
                begun = time.monotonic()
                assert (await it.send(faulty.GOOD, number % 60_000)).problem is None
                slowest = max(slowest, time.monotonic() - begun)
                answered[first] += 1
                number += 8

        callers = [asyncio.create_task(load(first)) for first in range(8)]
        try:
            for kill in range(50):
                before = [*answered]
                it.kill(kill % 2)
                # Twice each: what is run again after this kill is not to meet the next, which would be its second.
                while it.workers.crew().deaths_total <= kill or any(
                    now < then + 2 for then, now in zip(before, answered, strict=True)
                ):
                    await asyncio.sleep(0)
                    assert not any(caller.done() for caller in callers), "a job was lost"
                while len(it.workers.crew().pids) < 2:
                    await it.workers.changed()
        finally:
            stop.set()  # however it ends: who goes on calling keeps the workers from closing
        await asyncio.gather(*callers)
        counts = it.workers.crew()
        assert (counts.deaths_total, counts.poisoned_total) == (50, 0)
        assert counts.reruns_total > 0
        assert slowest < 1.0
        await it.settled(2)


async def test_a_killed_idle_worker_is_replaced_by_a_warm_one() -> None:
    async with crew() as it:
        killed = it.kill()
        while killed in it.workers.crew().pids or len(it.workers.crew().pids) < 2:
            await it.workers.changed()
        begun = time.monotonic()
        assert (await it.send(faulty.GOOD)).problem is None
        assert time.monotonic() - begun < 1.0
        await it.settled(2)


async def test_places_whose_workers_achieve_nothing_are_refilled_ever_more_slowly_and_it_is_told() -> None:
    async with crew(processes=1, threads=1) as it:
        assert it.workers.ailment == ""
        for _ in range(4):
            while not it.workers.crew().pids:
                await it.workers.changed()
            it.kill()
            while it.workers.crew().pids:
                await it.workers.changed()
        assert "no worker process is alive: 4 have ended" in it.workers.ailment
        assert (await it.send(faulty.GOOD)).problem is None  # it waited for the next one
        assert it.workers.ailment == ""
        await it.settled(1)


async def test_a_nursery_that_ends_is_started_again_and_no_job_is_lost() -> None:
    async with crew() as it:
        os.kill(parent(it.workers.crew().pids[0]), signal.SIGKILL)
        dones = await asyncio.gather(*(it.send(faulty.GOOD, number) for number in range(20)))
        assert [done.problem for done in dones] == [None] * 20
        await it.settled(2)


async def test_a_job_is_not_suspected_of_what_ends_the_nursery_and_with_it_every_worker(
    tmp_path: Path,
) -> None:
    async with crew(4, 4, recipe=Faulty(str(tmp_path / "go"))) as it:
        for round_ in range(4):
            (tmp_path / "go").unlink(missing_ok=True)
            running = asyncio.create_task(it.send(faulty.WAITS, round_))
            await in_hand(it, 1)
            before = set(it.workers.crew().pids)
            os.kill(parent(min(before)), signal.SIGKILL)
            while before & set(it.workers.crew().pids):
                await it.workers.changed()
            (tmp_path / "go").touch()
            assert (await running).problem is None
            await it.settled(4)
        assert it.workers.crew().poisoned_total == 0


async def test_a_job_that_has_not_begun_is_dropped_with_its_caller(tmp_path: Path) -> None:
    async with crew(processes=1, threads=1, recipe=Faulty(str(tmp_path / "go"))) as it:
        running = asyncio.create_task(it.send(faulty.WAITS, 1))
        queued = asyncio.create_task(it.send(faulty.SEGFAULT, 2))
        await in_hand(it, 2)
        queued.cancel()
        await asyncio.gather(queued, return_exceptions=True)
        (tmp_path / "go").touch()
        assert (await running).problem is None
        assert it.workers.statistics()[Modality.IMAGE].abandoned_total == 1
        assert it.workers.crew().deaths_total == 0
        await it.settled(1)


async def test_a_running_job_finishes_without_its_caller_and_holds_its_slots_until_then(
    tmp_path: Path,
) -> None:
    async with crew(processes=1, threads=1, recipe=Faulty(str(tmp_path / "go"))) as it:
        running = asyncio.create_task(it.send(faulty.WAITS, 1))
        await in_hand(it, 1)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        statistics = it.arena.statistics()
        assert (statistics.leased, statistics.pinned) == (2, 2)
        (tmp_path / "go").touch()
        await it.settled(1)
        assert it.workers.statistics()[Modality.IMAGE].abandoned_total == 1


async def test_a_deadly_job_that_nobody_waits_for_is_not_run_again() -> None:
    async with crew(processes=1, threads=1, lease_s=0.3) as it:
        running = asyncio.create_task(it.send(faulty.HANGS, 1))
        await in_hand(it, 1)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        while not it.workers.crew().deaths_total:
            await it.workers.changed()
        assert (it.workers.crew().reruns_total, it.workers.crew().poisoned_total) == (0, 0)
        await it.settled(1)


async def test_closing_waits_for_what_runs_and_ends_every_process(tmp_path: Path) -> None:
    async with crew(processes=2, threads=2, recipe=Faulty(str(tmp_path / "go"))) as it:
        pids = it.workers.crew().pids
        running = asyncio.create_task(it.send(faulty.WAITS, 1))
        await in_hand(it, 1)
        closing = asyncio.create_task(it.workers.close())
        await asyncio.sleep(0)
        assert all(map(alive, pids))
        (tmp_path / "go").touch()
        assert (await running).problem is None
        await closing
        await until(lambda: not any(map(alive, pids)))


async def test_a_small_job_does_not_wait_behind_long_ones(tmp_path: Path) -> None:
    async with crew(processes=1, threads=1, recipe=Faulty(str(tmp_path / "go")), express=1) as it:
        running = [asyncio.create_task(it.send(faulty.WAITS, number)) for number in range(2)]
        await in_hand(it, 2)
        small = await asyncio.gather(*(it.send(faulty.GOOD, number, cpu_ms=SMALL_MS) for number in range(9)))
        assert [done.problem for done in small] == [None] * 9
        assert not any(task.done() for task in running)
        (tmp_path / "go").touch()
        assert [done.problem for done in await asyncio.gather(*running)] == [None] * 2
        await it.settled(2)


async def test_workers_give_way_to_those_for_small_items_and_to_the_front() -> None:
    async with crew(processes=2, threads=2, express=1) as it:
        wanted = [os.SCHED_OTHER, os.SCHED_IDLE, os.SCHED_IDLE]
        await until(lambda: sorted(map(os.sched_getscheduler, it.workers.crew().pids)) == wanted)
        await it.settled(3)


async def test_workers_give_way_by_niceness_alone_where_that_is_asked_for() -> None:
    async with crew(processes=2, threads=2, express=1, policy="nice") as it:
        own, pids = os.getpriority(os.PRIO_PROCESS, 0), it.workers.crew().pids
        wanted = [own, own + NICENESS, own + NICENESS]
        await until(lambda: sorted(os.getpriority(os.PRIO_PROCESS, pid) for pid in pids) == wanted)
        assert {os.sched_getscheduler(pid) for pid in pids} == {os.SCHED_OTHER}
        await it.settled(3)


async def test_small_jobs_go_to_the_other_workers_while_theirs_is_replaced() -> None:
    async with crew(processes=1, threads=1, express=1) as it:
        for number in range(20):
            if number % 5 == 0:
                await until(lambda: len(it.workers.crew().pids) == 2)
                it.kill(1)  # forked last, so most often the one for small items
            assert (await it.send(faulty.GOOD, number, cpu_ms=SMALL_MS)).problem is None
        assert it.workers.crew().poisoned_total == 0
        await it.settled(2)


async def test_a_deadly_small_job_ends_no_more_than_two_workers_and_is_refused() -> None:
    async with crew(processes=1, threads=1, express=1) as it:
        assert isinstance((await it.send(faulty.SEGFAULT, 1, cpu_ms=SMALL_MS)).problem, CorruptMedia)
        assert (await it.send(faulty.GOOD, 2, cpu_ms=SMALL_MS)).problem is None
        assert (await it.send(faulty.GOOD, 3)).problem is None
        assert it.workers.crew().deaths_total == 2
        await it.settled(2)


async def test_workers_that_do_not_become_warm_in_time_are_a_settings_error() -> None:
    with pytest.raises(SettingsError, match=r"`workers.start_s` is 0.01 s and only 0 of 2"):
        async with crew(start_s=0.01):
            pass


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def entries(folder: str, kind: str = "", below: int = 1 << 30) -> int:
    """How many entries of a folder in /proc are links to such a thing, of those with lower numbers."""
    numbers = [one for one in Path(folder).iterdir() if int(one.name) < below]
    return len([one for one in numbers if not kind or str(one.readlink()).startswith(kind)])


async def in_hand(it: Crew, tickets: int) -> None:
    await until(lambda: it.gate.statistics()[Modality.IMAGE].running == tickets)


async def until(true: Callable[[], bool]) -> None:
    """Gives way to others until something is true; the test's own timeout bounds it."""
    while not true():  # noqa: ASYNC110 - what is waited for tells nobody
        await asyncio.sleep(0)


async def at_work(it: Crew, jobs: int) -> Counter[str]:
    """How so many jobs ended that were sent at once."""
    done = await asyncio.gather(*(it.send(faulty.GOOD, number) for number in range(jobs)))
    return Counter("well" if one.problem is None else one.problem.reason for one in done)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (ThreadPlan(1, 1, 1, 1), ThreadPlan(3, 3, 1, 1)),
        (ThreadPlan(3, 3, 1, 1), ThreadPlan(1, 1, 1, 1)),
        (ThreadPlan(2, 2, 1, 1), ThreadPlan(2, 6, 2, 1)),
        (ThreadPlan(1, 1, 1, 1, 0), ThreadPlan(2, 2, 1, 1, 2)),
        (ThreadPlan(2, 2, 1, 1, 2), ThreadPlan(2, 2, 1, 1, 0)),
        (ThreadPlan(1, 4, 1, 1, 1), ThreadPlan(4, 4, 1, 1, 1)),
    ],
)
async def test_the_plan_is_moved_under_load_and_no_job_notices(before: ThreadPlan, after: ThreadPlan) -> None:
    async with crew(before.processes, before.image_threads, express=before.express_threads) as it:
        sent = asyncio.create_task(at_work(it, 40))
        await asyncio.sleep(0)
        for plan in (after, before, after):
            it.workers.resize(plan)
            await asyncio.sleep(0)
        assert await sent == {"well": 40}
        await it.settled(after.processes + after.express_threads)
        crew_ = it.workers.crew()
        assert (crew_.deaths_total, crew_.reruns_total) == (0, 0)
        assert await at_work(it, 8) == {"well": 8}
        assert it.workers.slots.each[Modality.IMAGE] == after.image_threads + after.processes


async def test_processes_that_the_plan_has_no_place_for_end(caplog: pytest.LogCaptureFixture) -> None:
    async with crew(processes=3) as it:
        before = set(it.workers.crew().pids)
        it.workers.resize(ThreadPlan(1, 1, 1, 1))
        await it.settled(1)
        gone = before - set(it.workers.crew().pids)
        assert len(gone) == 2
        for pid in gone:
            await until(lambda pid=pid: not alive(pid))  # type: ignore[misc]
        assert await at_work(it, 4) == {"well": 4}
        assert not caplog.text  # it is no error


async def test_a_worker_that_is_leaving_and_dies_has_its_job_done_by_another() -> None:
    async with crew(processes=1, threads=1) as it:
        slow = asyncio.create_task(it.send(faulty.KILLED))
        await asyncio.sleep(0)
        it.workers.resize(ThreadPlan(2, 2, 1, 1))
        done = await slow
        assert isinstance(done.problem, CorruptMedia)
        assert await at_work(it, 4) == {"well": 4}
        await it.settled(2)


async def test_workers_keep_to_the_cpus_of_the_plan() -> None:
    cpus = tuple(sorted(os.sched_getaffinity(0)))[:2]
    async with crew(processes=1) as it:
        it.workers.resize(ThreadPlan(2, 4, 1, 1, cpus=cpus))
        await it.settled(2)
        expected = sorted((cpus[number % len(cpus)],) for number in range(2))

        def kept() -> list[tuple[int, ...]]:
            return sorted(tuple(sorted(os.sched_getaffinity(pid))) for pid in it.workers.crew().pids)

        await until(lambda: kept() == expected)


async def test_a_worker_that_is_leaving_and_hangs_is_ended_by_its_jobs_lease() -> None:
    async with crew(processes=1, threads=1, lease_s=0.3) as it:
        hanging = asyncio.create_task(it.send(faulty.HANGS))
        await until(lambda: it.gate.statistics()[Modality.IMAGE].running == 1)
        it.workers.resize(ThreadPlan(1, 3, 1, 1))  # more threads than the present one has
        assert isinstance((await hanging).problem, CorruptMedia)
        assert it.workers.crew().hangs_total == 2
        assert await at_work(it, 4) == {"well": 4}
        await it.settled(1)
