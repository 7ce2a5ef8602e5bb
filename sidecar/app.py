"""The composition root: the only place where objects meet.

It builds every part from its own part of the settings, starts them in order, stops them in reverse,
and holds no logic of the path.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

from threadpoolctl import threadpool_limits

from sidecar.catalogue import Catalogue
from sidecar.edge.preprocessor import Preprocessor
from sidecar.edge.receive import UploadRoom
from sidecar.edge.server import Server
from sidecar.observe.metrics import Metrics, Reading
from sidecar.pipeline import Pipeline
from sidecar.settings import Settings
from sidecar.stages.admit.gate import Gate
from sidecar.stages.deliver.triton import TritonUpstream
from sidecar.workers.plan import plan_threads
from sidecar.workers.pool import ThreadWorkers, Workers

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
        async with AsyncExitStack() as parts:
            upstream = TritonUpstream(settings.triton) if settings.triton else None
            if upstream is not None:
                parts.push_async_callback(upstream.close)
            catalogue = Catalogue(settings.models, upstream)
            parts.push_async_callback(catalogue.close)
            await catalogue.open()
            # Parallel over items, one thread inside each: a library's own threads would fight for the cores.
            parts.enter_context(threadpool_limits(1))
            plan = plan_threads(settings.threads, len(os.sched_getaffinity(0)))
            workers = ThreadWorkers(plan)
            parts.push_async_callback(workers.close)
            log.info("threads: %s", plan)
            gate = Gate(workers.slots, settings.gate)
            metrics = Metrics()
            metrics.watch(lambda: _readings(gate, workers))
            self.metrics_address = parts.enter_context(metrics.served(settings.metrics))
            pipeline = Pipeline(catalogue, settings.limits, gate, workers, upstream)
            uploads = UploadRoom(settings.server.uploads_bytes, settings.server.upload_idle_s)
            preprocessor = Preprocessor(pipeline, catalogue, metrics, uploads)
            server = Server(settings.server, preprocessor, metrics)
            await server.start()
            parts.push_async_callback(self._stop, server)
            self.addresses = server.addresses
            readiness = asyncio.create_task(_tell_readiness(server, catalogue))
            parts.callback(readiness.cancel)
            yield self

    async def _stop(self, server: Server) -> None:
        self.finished_drain = await server.stop()


def _readings(gate: Gate, workers: Workers) -> Iterator[Reading]:
    """What gate and workers tell of themselves, a reading a modality."""
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


async def _tell_readiness(server: Server, catalogue: Catalogue) -> None:
    """Tells readiness once the model server has answered for every model; it is not taken back."""
    await catalogue.reached()
    await server.ready()
