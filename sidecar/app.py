"""The composition root: the only place where objects meet.

It builds every part from its own part of the settings, starts them in order, stops them in reverse,
and holds no logic of the path.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

from threadpoolctl import threadpool_limits

from sidecar.arena.arena import Arena
from sidecar.catalogue import Catalogue
from sidecar.edge.preprocessor import Preprocessor
from sidecar.edge.receive import UploadRoom
from sidecar.edge.server import Server
from sidecar.observe.metrics import Metrics, Reading
from sidecar.pipeline import Pipeline
from sidecar.settings import Settings
from sidecar.stages.admit.gate import Gate
from sidecar.stages.deliver.triton import TritonUpstream
from sidecar.workers.allocator import keep_blocks
from sidecar.workers.memory import memory_limit
from sidecar.workers.plan import ThreadPlan, plan_threads
from sidecar.workers.pool import ThreadWorkers, Workers
from sidecar.workers.prober import Prober
from sidecar.workers.supervisor import ProcessWorkers

log = logging.getLogger(__name__)


class App:
    """A running sidecar. Its addresses are those really bound, once `running` is entered."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.addresses: tuple[str, ...] = ()
        self.metrics_address = ""
        self.finished_drain = True

    @asynccontextmanager
    async def running(self) -> AsyncIterator[App]:
        """Starts every part; on leaving drains and stops. Raises SetupError before anything is bound."""
        settings = self._settings
        keep_blocks()
        async with AsyncExitStack() as parts:
            arena = Arena.open(settings.arena, memory_limit())
            parts.callback(arena.close)
            upstream = TritonUpstream(settings.triton, arena) if settings.triton else None
            if upstream is not None:
                parts.push_async_callback(upstream.close)
            catalogue = Catalogue(settings.models, upstream)
            parts.push_async_callback(catalogue.close)
            await catalogue.open()
            # Parallel over items, one thread inside each: a library's own threads would fight for the cores.
            parts.enter_context(threadpool_limits(1))
            plan = plan_threads(settings.threads, settings.workers.processes, len(os.sched_getaffinity(0)))
            log.info("plan: %s", plan)
            prober = Prober(plan.probe_threads)
            parts.push_async_callback(prober.close)
            workers = _workers(settings, plan, arena)
            parts.push_async_callback(workers.close)
            await workers.open()
            gate = Gate(workers.slots, settings.gate)
            metrics = Metrics()
            metrics.watch(lambda: _readings(gate, workers, arena))
            if upstream is not None:
                metrics.watch(lambda: _handover_readings(upstream))
            self.metrics_address = parts.enter_context(metrics.served(settings.metrics))
            pipeline = Pipeline(
                catalogue=catalogue,
                limits=settings.limits,
                gate=gate,
                prober=prober,
                arena=arena,
                workers=workers,
                upstream=upstream,
            )
            uploads = UploadRoom(settings.server.uploads_bytes, settings.server.upload_idle_s)
            preprocessor = Preprocessor(pipeline, catalogue, metrics, uploads)
            server = Server(settings.server, preprocessor, metrics)
            await server.start()
            parts.push_async_callback(self._stop, server)
            self.addresses = server.addresses
            for task in (
                asyncio.create_task(_tell_readiness(server, catalogue, workers)),
                asyncio.create_task(_sweep(arena)),
            ):
                parts.callback(task.cancel)
            yield self

    async def _stop(self, server: Server) -> None:
        self.finished_drain = await server.stop()


def _workers(settings: Settings, plan: ThreadPlan, arena: Arena) -> Workers:
    if not plan.processes:
        return ThreadWorkers(plan)
    nursery = {"arena": arena.name, "arena_bytes": arena.size, "log": dataclasses.asdict(settings.log)}
    return ProcessWorkers(plan, settings.workers, nursery)


def _readings(gate: Gate, workers: Workers, arena: Arena) -> Iterator[Reading]:
    """What gate, workers and arena tell of themselves."""
    yield from _gate_readings(gate, workers)
    crew, slots = workers.crew(), arena.statistics()
    for name, help_text, value, counts in (
        ("sidecar_workers_processes", "Worker processes alive.", crew.processes, False),
        ("sidecar_workers_deaths", "Worker processes that ended.", crew.deaths_total, True),
        ("sidecar_workers_hangs", "Jobs that overran their lease.", crew.hangs_total, True),
        ("sidecar_workers_reruns", "Jobs run again after a death.", crew.reruns_total, True),
        ("sidecar_workers_poisoned", "Jobs refused after two deaths.", crew.poisoned_total, True),
        ("sidecar_workers_quarantined", "Contents refused at the door now.", crew.quarantined, False),
        ("sidecar_arena_bytes", "Shared memory for slots.", slots.size, False),
        ("sidecar_arena_leased_bytes", "Of it, leased.", slots.leased_bytes, False),
        ("sidecar_arena_waiting_calls", "Calls that wait for room in the arena.", slots.waiting, False),
        ("sidecar_arena_expired_leases", "Leases held longer than allowed.", slots.expired_total, True),
    ):
        yield Reading(name, help_text, "", value, counts)


def _handover_readings(upstream: TritonUpstream) -> Iterator[Reading]:
    """How tensors went to the model server."""
    now = upstream.handover()
    for name, help_text, value, counts in (
        (
            "sidecar_handover_shared_memory",
            "1 while tensors go by shared memory, 0 while as bytes.",
            now.path == "shared_memory",
            False,
        ),
        (
            "sidecar_handover_shared_bytes",
            "Bytes of inputs told by their place.",
            now.shared_bytes_total,
            True,
        ),
        (
            "sidecar_handover_copied_bytes",
            "Bytes of inputs copied into messages.",
            now.copied_bytes_total,
            True,
        ),
        ("sidecar_handover_registrations", "Times the arena was registered.", now.registrations_total, True),
        (
            "sidecar_handover_detached_calls",
            "Calls that run on at the model server without their callers.",
            now.detached,
            False,
        ),
        ("sidecar_handover_limbo_slots", "Slots whose end is not known yet.", now.limbo, False),
    ):
        yield Reading(name, help_text, "", value, counts)


def _gate_readings(gate: Gate, workers: Workers) -> Iterator[Reading]:
    """A reading a modality."""
    lanes, pools = gate.statistics(), workers.statistics()
    for modality, lane in lanes.items():
        pool = pools[modality]
        for name, help_text, value, counts in (
            ("sidecar_gate_queued_items", "Items let in that wait for a worker.", lane.queued, False),
            ("sidecar_gate_running_items", "Items that a worker has.", lane.running, False),
            ("sidecar_gate_admitted_items", "Items that were given a worker.", lane.admitted_total, True),
            (
                "sidecar_gate_refused_calls",
                "Calls refused because the queue was full.",
                lane.refused_total,
                True,
            ),
            ("sidecar_workers_finished_jobs", "Jobs that ended.", pool.finished_total, True),
            ("sidecar_workers_abandoned_jobs", "Jobs whose caller had gone.", pool.abandoned_total, True),
        ):
            yield Reading(name, help_text, modality.value, value, counts)


# How often the arena looks for slots that nobody gave back.
_SWEEP_S = 1.0


async def _sweep(arena: Arena) -> None:
    while True:
        await asyncio.sleep(_SWEEP_S)
        arena.sweep()


async def _tell_readiness(server: Server, catalogue: Catalogue, workers: Workers) -> None:
    """Tells readiness once the model server has answered for every model, and takes it back only while no
    worker is alive to do anything at all.
    """
    await catalogue.reached()
    while True:
        if workers.ailment:
            log.error("not ready: %s", workers.ailment)
            server.unready()
        else:
            server.ready()
        await workers.changed()
