"""Calibration finds how fast the machine is by real jobs, and never stands in the way of a start."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace

import pytest

from sidecar.arena.arena import Arena, ArenaConfig
from sidecar.arena.lease import Lease
from sidecar.errors import CorruptMedia
from sidecar.stages import fourier, kernels
from sidecar.stages.admit.cost import CostModel
from sidecar.workers.budget import memory_limit
from sidecar.workers.calibrate import calibrate
from sidecar.workers.orders import lay_order
from sidecar.workers.worker import Done, Job, work


@pytest.fixture
def arena() -> Iterator[Arena]:
    with closing(Arena.open(ArenaConfig(bytes=64 << 20), memory_limit())) as opened:
        yield opened


@pytest.fixture(scope="module", autouse=True)
def _warm() -> None:
    kernels.warm()
    fourier.warm()


async def on_a_thread(job: Job, held: Sequence[Lease]) -> Done:
    """As workers do: the slots are theirs until the job has ended."""
    for lease in held:
        lease.retain()
    try:
        return await asyncio.to_thread(work, job)
    finally:
        for lease in held:
            lease.release()


async def test_real_jobs_tell_how_fast_the_machine_is(arena: Arena) -> None:
    model = CostModel()
    factor = await calibrate(model, on_a_thread, arena.try_take)
    assert factor is not None
    assert 0.05 < factor < 20
    assert model.statistics().calibrated == pytest.approx(min(16.0, factor))
    assert arena.statistics().leased == 0


async def test_a_machine_half_as_fast_is_found_to_be(arena: Arena) -> None:
    async def slowly(job: Job, held: Sequence[Lease]) -> Done:
        done = await on_a_thread(job, held)
        load = job.recipe.workload(job.info, job.data_types)
        return replace(done, cpu_ms=2 * CostModel().quote(job.info, job.target, load).base_ms)

    model = CostModel()
    assert await calibrate(model, slowly, arena.try_take) == pytest.approx(2.0)
    assert model.statistics().machine == pytest.approx(2.0)


async def test_its_jobs_can_be_sent_to_worker_processes(arena: Arena) -> None:
    orders: list[bytes] = []

    async def sent(job: Job, held: Sequence[Lease]) -> Done:
        orders.append(lay_order(len(orders), job))
        assert {lease.offset for lease in held} >= {
            job.source_at,
            *(each.at for each in (job.outlets or {}).values()),
        }
        return await on_a_thread(job, held)

    assert await calibrate(CostModel(), sent, arena.try_take) is not None
    assert len(orders) > 10


async def fails(_job: Job, _held: Sequence[Lease]) -> Done:
    raise OSError("no workers")


async def refuses(_job: Job, _held: Sequence[Lease]) -> Done:
    return Done((), CorruptMedia("damaged"), [], 1.0)


@pytest.mark.parametrize("run", [fails, refuses])
async def test_what_goes_wrong_leaves_the_table_as_it_is_and_is_logged(
    run: Callable[[Job, Sequence[Lease]], Awaitable[Done]], arena: Arena, caplog: pytest.LogCaptureFixture
) -> None:
    model = CostModel()
    assert await calibrate(model, run, arena.try_take) is None
    assert model.statistics() == CostModel().statistics()
    assert "not calibrated" in caplog.text
    assert arena.statistics().leased == 0


async def test_without_room_in_the_arena_nothing_is_calibrated() -> None:
    model = CostModel()
    assert await calibrate(model, on_a_thread, lambda _nbytes: None) is None
    assert model.statistics() == CostModel().statistics()


async def test_who_is_cancelled_while_it_runs_is_cancelled(arena: Arena) -> None:
    begun = asyncio.Event()

    async def for_ever(_job: Job, _held: Sequence[Lease]) -> Done:
        begun.set()
        await asyncio.get_running_loop().create_future()
        raise AssertionError("it is never done")

    task = asyncio.create_task(calibrate(CostModel(), for_ever, arena.try_take))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert arena.statistics().leased == 0
