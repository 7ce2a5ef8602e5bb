"""Workers: tickets end with the work, departed callers cost nothing that has not begun."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from PIL import Image

from sidecar.arena.arena import Arena, ArenaConfig
from sidecar.deadline import Deadline
from sidecar.errors import CorruptMedia, DeadlineExceeded, InternalError, MediaTooLarge
from sidecar.media import (
    Cost,
    DataType,
    DecodeTarget,
    Frames,
    MediaInfo,
    Modality,
    Pixels,
    Shaped,
    Source,
    TensorSpec,
    Workload,
)
from sidecar.observe.timings import Stage
from sidecar.stages.admit.gate import Gate, Slots, Ticket
from sidecar.stages.admit.lanes import Lanes, LanesConfig
from sidecar.stages.admit.turns import Asker
from sidecar.stages.probe import probe
from sidecar.workers.budget import memory_limit
from sidecar.workers.plan import ThreadPlan
from sidecar.workers.pool import ThreadWorkers
from sidecar.workers.worker import Job, Outlet

FOREVER = Deadline(None)


@dataclass(frozen=True)
class Held:
    """A recipe that waits inside transform until it is let go: work that takes as long as a test wants."""

    begun: threading.Event = field(default_factory=threading.Event)
    let_go: threading.Event = field(default_factory=threading.Event)
    processor: str = "Held"
    modality: Modality = Modality.IMAGE
    reference: str = "none"
    exact: bool = True
    steps: tuple[str, ...] = ()
    outputs: tuple[TensorSpec, ...] = (TensorSpec("pixels", DataType.UINT8, (-1, -1, 3)),)

    def decode_target(self, _info: MediaInfo) -> DecodeTarget:
        return DecodeTarget()

    def tokens(self, _info: MediaInfo) -> int | None:
        return None

    def accepts(self, output: str, data_type: DataType) -> bool:
        return (output, data_type) == ("pixels", DataType.UINT8)

    def workload(self, _info: MediaInfo, _data_types: Mapping[str, DataType]) -> Workload:
        return Workload()

    def output_bytes(self, info: MediaInfo, data_types: Mapping[str, DataType]) -> Mapping[str, int]:
        return dict.fromkeys(data_types, info.encoded_bytes)

    def transform(self, frames: Frames) -> tuple[Shaped, ...]:
        assert isinstance(frames, Pixels)
        self.begun.set()
        assert self.let_go.wait(30)
        return (Shaped.of("pixels", frames.array),)


def free() -> Held:
    recipe = Held()
    recipe.let_go.set()
    return recipe


@pytest.fixture
async def workers() -> AsyncIterator[ThreadWorkers]:
    pool = ThreadWorkers(ThreadPlan(0, image_threads=1, audio_threads=1, probe_threads=1, express_threads=1))
    yield pool
    await pool.close()


@pytest.fixture
def gate(workers: ThreadWorkers) -> Gate:
    return opened(workers.slots)


def opened(slots: Slots) -> Gate:
    return Gate(Lanes(LanesConfig(), slots.together), slots, memory_bytes=1 << 20)


async def ticket(gate: Gate, cpu_ms: float = 20.0) -> Ticket:
    return await gate.enter(Asker(Modality.IMAGE, "model"), [Cost(cpu_ms, 1)], [0]).ticket(0)


def png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((4, 5, 3), 7, np.uint8)).save(file, "PNG")
    return file.getvalue()


def job(recipe: Held, deadline: Deadline = FOREVER) -> Job:
    source = Source(png())
    info = probe(source)
    return Job(source, info, recipe, DecodeTarget(), {"pixels": DataType.UINT8}, deadline)


async def idle(gate: Gate) -> None:
    """Returns when no ticket is out; the test's own timeout bounds it."""
    while any(lane.running for lane in gate.statistics().values()):  # noqa: ASYNC110 - the gate tells nobody that it is idle
        await asyncio.sleep(0)


async def test_a_job_gives_tensors_and_a_time_for_each_of_its_stages(
    workers: ThreadWorkers, gate: Gate
) -> None:
    done = await workers.run(job(free()), await ticket(gate), ())
    assert [tensor.shape for tensor in done.tensors] == [(4, 5, 3)]
    assert [stage for stage, _, _ in done.marks] == [Stage.DECODE, Stage.TRANSFORM, Stage.PACK]
    assert done.cpu_ms > 0


async def test_an_output_that_the_model_has_no_use_for_is_not_packed(
    workers: ThreadWorkers, gate: Gate
) -> None:
    unwanted = replace(job(free()), data_types={})
    assert (await workers.run(unwanted, await ticket(gate), ())).tensors == ()


@dataclass(frozen=True)
class Faulty(Held):
    """A recipe that fails as told."""

    failure: Exception = field(default_factory=KeyError)

    def transform(self, frames: Frames) -> tuple[Shaped, ...]:
        assert isinstance(frames, Pixels)
        raise self.failure


async def test_what_a_recipe_refuses_is_told_of_the_item(workers: ThreadWorkers, gate: Gate) -> None:
    refused = replace(job(free()), recipe=Faulty(failure=MediaTooLarge("too thin", limit="x")))
    problem = (await workers.run(refused, await ticket(gate), ())).problem
    assert isinstance(problem, MediaTooLarge)
    assert (problem.message, problem.facts) == ("item 0: too thin", {"limit": "x"})


async def test_a_fault_of_ours_is_told_as_one_and_logged(
    workers: ThreadWorkers, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    faulty = replace(job(free()), recipe=Faulty())
    problem = (await workers.run(faulty, await ticket(gate), ())).problem
    assert isinstance(problem, InternalError)
    assert "KeyError" not in problem.message
    assert "KeyError" in caplog.text


async def test_a_ticket_is_released_when_the_job_has_ended(workers: ThreadWorkers, gate: Gate) -> None:
    await workers.run(job(free()), await ticket(gate), ())
    await idle(gate)
    assert workers.statistics()[Modality.IMAGE].finished_total == 1


async def test_a_ticket_outlives_a_caller_who_left_while_the_job_ran(
    workers: ThreadWorkers, gate: Gate
) -> None:
    recipe = Held()
    running = asyncio.create_task(workers.run(job(recipe), await ticket(gate), ()))
    await asyncio.to_thread(recipe.begun.wait, 30)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert gate.statistics()[Modality.IMAGE].running == 1
    recipe.let_go.set()
    await idle(gate)
    assert workers.statistics()[Modality.IMAGE].abandoned_total == 1


async def test_a_job_that_has_not_begun_is_dropped_with_its_caller(
    workers: ThreadWorkers, gate: Gate
) -> None:
    first, second = Held(), Held()
    running = asyncio.create_task(workers.run(job(first), await ticket(gate), ()))
    await asyncio.to_thread(first.begun.wait, 30)
    spare = opened(Slots({Modality.IMAGE: 1}, 1))
    queued = asyncio.create_task(workers.run(job(second), await ticket(spare), ()))
    await asyncio.sleep(0)
    queued.cancel()
    await asyncio.gather(queued, return_exceptions=True)
    await idle(spare)
    first.let_go.set()
    await running
    await idle(gate)
    assert not second.begun.is_set()


async def test_a_small_job_has_a_thread_of_its_own(workers: ThreadWorkers, gate: Gate) -> None:
    long = Held()
    running = asyncio.create_task(workers.run(job(long), await ticket(gate), ()))
    await asyncio.to_thread(long.begun.wait, 30)
    small = await ticket(gate, cpu_ms=1.0)
    assert small.express
    assert (await workers.run(job(free()), small, ())).problem is None
    assert not running.done()
    long.let_go.set()
    await running
    await idle(gate)


async def test_a_job_whose_deadline_has_passed_is_not_begun(workers: ThreadWorkers, gate: Gate) -> None:
    late = job(free(), Deadline.after(0))
    done = await workers.run(late, await ticket(gate), ())
    assert isinstance(done.problem, DeadlineExceeded)
    assert done.problem.facts["stage"] == "decode"
    await idle(gate)


async def test_outputs_are_written_where_the_job_says_and_held_until_then(
    workers: ThreadWorkers, gate: Gate
) -> None:
    with closing(Arena.open(ArenaConfig(bytes=16 << 20), memory_limit())) as arena:
        lease = arena.try_take(60)
        assert lease is not None
        placed = replace(job(free()), outlets={"pixels": Outlet(lease.offset, lease.view)})
        done = await workers.run(placed, await ticket(gate), [lease])
        assert done.tensors[0].at == lease.offset
        assert bytes(lease.view) == bytes([7] * 60)
        await idle(gate)
        assert arena.statistics().pinned == 0
        lease.release()
        assert arena.statistics().leased == 0


async def test_an_outlet_too_small_is_told_and_not_written_to(workers: ThreadWorkers, gate: Gate) -> None:
    outlet = memoryview(bytearray(59))
    small = replace(job(free()), outlets={"pixels": Outlet(0, outlet)})
    done = await workers.run(small, await ticket(gate), ())
    assert (done.tensors, done.needed) == ((), {"pixels": 60})
    assert not any(outlet)


async def test_bad_media_costs_its_job_only(workers: ThreadWorkers, gate: Gate) -> None:
    good = job(free())
    bad = Job(Source(png()[:-30]), good.info, good.recipe, good.target, good.data_types, FOREVER)
    damaged = await workers.run(bad, await ticket(gate), ())
    assert isinstance(damaged.problem, CorruptMedia)
    assert damaged.marks[0][0] is Stage.DECODE
    assert damaged.cpu_ms > 0
    assert (await workers.run(good, await ticket(gate), ())).problem is None
    await idle(gate)


async def test_another_plan_takes_nothing_from_jobs_that_run_or_wait(
    workers: ThreadWorkers, gate: Gate
) -> None:
    slow = Held()
    running = asyncio.create_task(workers.run(job(slow), await ticket(gate), []))
    await asyncio.to_thread(slow.begun.wait, 30)
    workers.resize(ThreadPlan(0, image_threads=2, audio_threads=1, probe_threads=1))
    gate.resize(workers.slots, 2)
    done = await workers.run(job(free()), await ticket(gate), [])
    assert done.problem is None  # beside the one that still runs
    slow.let_go.set()
    assert (await running).problem is None
    await idle(gate)


async def test_threads_do_not_become_processes_while_running(workers: ThreadWorkers) -> None:
    with pytest.raises(ValueError, match="worker processes"):
        workers.resize(ThreadPlan(2, 2, 1, 1))
