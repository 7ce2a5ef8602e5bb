"""The composition root: the only place where objects meet.

It builds every part from its own part of the settings, starts them in order, stops them in reverse,
and holds no logic of the path.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from threadpoolctl import threadpool_limits

from sidecar import readings
from sidecar.arena.arena import Arena
from sidecar.arena.lease import Lease
from sidecar.catalogue import Catalogue
from sidecar.edge.callers.door import Callers
from sidecar.edge.certificates import server_credentials
from sidecar.edge.diagnostics import Diagnostics
from sidecar.edge.fetch.fetcher import Fetcher
from sidecar.edge.open_inference.service import OpenInference
from sidecar.edge.open_inference.streams import handlers
from sidecar.edge.preprocessor import Preprocessor
from sidecar.edge.receive import UploadRoom
from sidecar.edge.server import Server
from sidecar.edge.status import StatusPages
from sidecar.edge.tallies import Tallies
from sidecar.edge.visits import Visits
from sidecar.errors import SettingsError
from sidecar.following import Following, followed
from sidecar.media import Cost
from sidecar.observe.journal import Journal
from sidecar.observe.logs import RequestLog
from sidecar.observe.machine import Machine
from sidecar.observe.metrics import Metrics
from sidecar.observe.tracing import Tracing
from sidecar.observe.watcher import Watcher
from sidecar.pipeline import Pipeline
from sidecar.prepare import Preparer
from sidecar.reuse.replays import Replays
from sidecar.reuse.shared import Shared
from sidecar.self_check import SelfCheck
from sidecar.settings import Settings
from sidecar.stages.admit.cost import CostModel
from sidecar.stages.admit.credits import Credits
from sidecar.stages.admit.gate import Gate, GateConfig, choose_memory_bytes
from sidecar.stages.admit.lanes import Lanes
from sidecar.stages.admit.limits import LimitsByModel, ModelLimits
from sidecar.stages.admit.turns import Asker, Turns
from sidecar.stages.deliver.triton import TritonUpstream
from sidecar.surroundings import Surroundings
from sidecar.workers.budget import Budget, read_budget
from sidecar.workers.calibrate import calibrate
from sidecar.workers.heap import keep_blocks
from sidecar.workers.plan import ThreadPlan
from sidecar.workers.planner import Planner, Wanted
from sidecar.workers.pool import ThreadWorkers, Workers
from sidecar.workers.prober import Prober
from sidecar.workers.sandbox.config import NO_PROCESSES, SandboxConfig
from sidecar.workers.supervisor import ProcessWorkers
from sidecar.workers.tuning import Tuning
from sidecar.workers.worker import Done, Job

log = logging.getLogger(__name__)

# What a calibrating job is let in as: none of the small ones, that the other workers are warmed.
_CALIBRATING = Cost(cpu_ms=10.0, decoded_bytes=0)


class App:
    """A running sidecar. Its addresses are those really bound, once `running` is entered; `beside` has those of what is
    served apart, by the settings' keys (`diagnostics_listen`).
    """

    def __init__(self, settings: Settings, turns: Callable[[GateConfig, int, int], Turns] = Lanes) -> None:
        """`turns` makes what decides who is let in, of the settings, a number of cores and one of express threads."""
        self._settings = settings
        self._turns = turns
        self.addresses: tuple[str, ...] = ()
        self.beside: Mapping[str, tuple[str, ...]] = {}
        self.metrics_address = ""
        self.finished_drain = True
        self._following = Following()
        self._catalogue: Catalogue | None = None
        self._limits = _limits(settings)
        self._planner: Planner | None = None
        self._prober: Prober | None = None
        self._watcher: Watcher | None = None
        self._server: Server | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[App]:
        """Starts every part; on leaving drains and stops. Raises SetupError before anything is bound."""
        settings = self._settings
        keep_blocks()
        async with AsyncExitStack() as parts:
            budget = read_budget(os.sched_getaffinity(0))
            arena = Arena.open(settings.arena, budget.memory_bytes)
            parts.callback(arena.close)
            upstream = TritonUpstream(settings.triton, arena) if settings.triton else None
            if upstream is not None:
                parts.push_async_callback(upstream.close)
            catalogue = self._catalogue = Catalogue(settings.models, upstream)
            parts.push_async_callback(catalogue.close)
            await catalogue.open()
            # Parallel over items, one thread inside each: a library's own threads would fight for the cores.
            parts.enter_context(threadpool_limits(1))
            planner = self._planner = Planner(wanted(settings), budget)
            plan = _told(planner)
            prober = self._prober = Prober(plan.probe_threads, settings.formats)
            parts.push_async_callback(prober.close)
            workers = _workers(settings, plan, arena, catalogue, budget.memory_bytes)
            parts.push_async_callback(workers.close)
            await workers.open()
            credit, costs = Credits(), CostModel()
            turns = self._turns(settings.gate, _cores(budget, plan), plan.express_threads)
            media_bytes = choose_memory_bytes(
                settings.gate.memory_bytes, budget.memory_bytes, arena.size, plan.processes
            )
            gate = Gate(
                turns,
                workers.slots,
                memory_bytes=media_bytes,
                upstream_room=lambda model: credit.room(model, time.monotonic_ns()),
            )
            arena.freed = credit.freed = gate.kick
            planner.apply = partial(_resize, workers, prober, gate, planner)
            await _calibrate(costs, gate, workers, arena)
            shared = Shared(settings.cache, arena)
            parts.push_async_callback(shared.close)
            replays = Replays(settings.replays)
            metrics, machine = Metrics(), Machine()
            for read in (
                lambda: readings.work_readings(gate, workers, arena),
                lambda: readings.sandbox_readings(workers),
                lambda: readings.plan_readings(planner),
                lambda: readings.reuse_readings(shared, replays),
                lambda: readings.cost_readings(costs),
                lambda: readings.credit_readings(credit),
                lambda: readings.lane_readings(turns),
                lambda: readings.handover_readings(upstream),
                lambda: readings.model_readings(catalogue),
                lambda: readings.settings_readings(self._following),
                lambda: readings.machine_readings(machine),
            ):
                metrics.watch(read)
            surroundings = Surroundings(
                catalogue=catalogue,
                upstream=upstream,
                gate=gate,
                lanes=turns if isinstance(turns, Lanes) else None,
                credit=credit,
                costs=costs,
                workers=workers,
                planner=planner,
            )
            seen = await parts.enter_async_context(
                self._observed(surroundings, catalogue, upstream, metrics, planner)
            )
            preparer = Preparer(
                gate=gate,
                credit=credit,
                costs=costs,
                shared=shared,
                prober=prober,
                arena=arena,
                workers=workers,
            )
            pipeline = Pipeline(
                catalogue=catalogue,
                limits=self._limits,
                preparer=preparer,
                credit=credit,
                upstream=upstream,
                offer=seen.self_check.offer,
            )
            uploads = UploadRoom(
                min(settings.server.uploads_bytes, media_bytes), settings.server.upload_idle_s
            )
            callers = Callers(settings.callers, settings.tls, settings.gate.tenant_key)
            server = self._server = _server(
                settings, catalogue, upstream, pipeline, uploads, replays, metrics, seen, callers
            )
            metrics.watch(lambda: readings.serving_readings(server))
            await server.start()
            parts.push_async_callback(self._stop, server)
            self.addresses, self.beside = server.addresses, server.beside
            jobs = [
                _tell_readiness(server, catalogue, workers),
                _sweep(arena, replays),
                planner.watch(),
                callers.watch(),
            ]
            if settings.tuner.mode != "off":
                jobs.append(Tuning(settings.tuner, planner, gate, lambda: workers.crew().pids).watch())
            for job in jobs:
                parts.callback(asyncio.create_task(job).cancel)
            yield self

    @asynccontextmanager
    async def _observed(
        self,
        surroundings: Surroundings,
        catalogue: Catalogue,
        upstream: TritonUpstream | None,
        metrics: Metrics,
        planner: Planner,
    ) -> AsyncIterator[_Observation]:
        """Starts what watches the path, and shows it; on leaving what ended last is told too."""
        settings = self._settings
        tracing, requests = Tracing(settings.tracing), RequestLog(settings.log)
        async with AsyncExitStack() as parts:
            parts.push_async_callback(asyncio.to_thread, tracing.close)
            whole = bool(settings.tracing.endpoint) or settings.log.requests != "none"
            journal = Journal(settings.verdict.enabled or whole, whole, [surroundings.remember])
            sinks = (requests.record, tracing.record)
            watcher = self._watcher = Watcher(settings.verdict, journal, surroundings, sinks)
            watcher.open()
            parts.push_async_callback(watcher.close)
            self_check = SelfCheck(upstream, watcher)
            diagnostics = Diagnostics(watcher, surroundings, catalogue, self_check, planner)
            metrics.watch(lambda: readings.verdict_readings(watcher))
            pages = StatusPages(asyncio.get_running_loop(), diagnostics)
            shown = (
                pages.serve if settings.metrics.status and settings.server.diagnostics else lambda _path: None
            )
            self.metrics_address = parts.enter_context(metrics.served(settings.metrics, shown))
            yield _Observation(journal, tracing, self_check, diagnostics)

    async def reconfigure(self, load: Callable[[], Settings]) -> None:
        """Reads the settings anew and goes by them, as far as that can be done while running; says which keys cannot.

        Raises SetupError for those that cannot be; then nothing is changed.
        """
        assert self._catalogue is not None  # noqa: S101 - made before anything is bound
        assert self._planner is not None  # noqa: S101 - the same
        assert self._watcher is not None  # noqa: S101 - the same
        assert self._prober is not None  # noqa: S101 - the same
        with self._following.one():
            settings = load()
            live = followed(self._settings, settings)
            models = await self._catalogue.reread(live.models)
            self._planner.reconfigure(wanted(live))
        self._catalogue.serve(models)
        self._limits.become(live.limits, _limits_of_models(live))
        self._watcher.reconfigure(live.verdict)
        self._prober.formats = live.formats
        self._settings = live
        if restart := self._following.waits(live, settings):
            log.warning("changed in the settings, and takes a restart: %s", ", ".join(restart))

    def refuse(self) -> None:
        """Refuses new calls and finishes those under way, while all goes on: for who is to be stopped in a while."""
        if self._server is not None:
            log.info("refusing new calls: %d in flight", self._server.refuse())

    async def _stop(self, server: Server) -> None:
        self.finished_drain = await server.stop()


@dataclasses.dataclass(frozen=True, slots=True)
class _Observation:
    """What the path enters its calls into, who hands traces on, and what tells of both."""

    journal: Journal
    tracing: Tracing
    self_check: SelfCheck
    diagnostics: Diagnostics


def _server(  # noqa: PLR0917 - the edge over all that it stands on
    settings: Settings,
    catalogue: Catalogue,
    upstream: TritonUpstream | None,
    pipeline: Pipeline,
    uploads: UploadRoom,
    replays: Replays,
    metrics: Metrics,
    seen: _Observation,
    callers: Callers,
) -> Server:
    """The edge: both APIs over the same path."""
    tallies = Tallies()
    visits = Visits(
        pipeline=pipeline,
        metrics=metrics,
        tallies=tallies,
        journal=seen.journal,
        tracing=seen.tracing,
        tenant=callers.tenant,
    )
    preprocessor = Preprocessor(
        pipeline=pipeline,
        catalogue=catalogue,
        uploads=uploads,
        fetcher=Fetcher(settings.fetch, uploads),
        replays=replays,
        visits=visits,
    )
    triton_api = OpenInference(
        settings.open_inference,
        catalogue=catalogue,
        pipeline=pipeline,
        visits=visits,
        tallies=tallies,
        passing=upstream.passing() if upstream is not None else None,
    )
    return Server(
        settings.server,
        connections=settings.connections,
        credentials=server_credentials(settings.tls),
        callers=callers,
        preprocessor=preprocessor,
        diagnostics=seen.diagnostics,
        metrics=metrics,
        journal=seen.journal,
        triton_api=partial(handlers, triton_api, pipeline, visits)
        if settings.open_inference.enabled
        else None,
    )


def _resize(workers: Workers, prober: Prober, gate: Gate, planner: Planner, plan: ThreadPlan) -> None:
    workers.resize(plan)
    prober.resize(plan.probe_threads)
    gate.resize(workers.slots, _cores(planner.budget, plan))


def wanted(settings: Settings) -> Wanted:
    """What the settings ask of the plan."""
    return Wanted(settings.threads, settings.workers.processes, settings.workers.pin)


def _limits(settings: Settings) -> LimitsByModel:
    return LimitsByModel(settings.limits, _limits_of_models(settings))


def _limits_of_models(settings: Settings) -> dict[str, ModelLimits]:
    return {name: model.limits for name, model in settings.models.items()}


def _cores(budget: Budget, plan: ThreadPlan) -> int:
    """What admission foretells waits by: the cores that the plan's threads can use."""
    return min(max(1, round(budget.cores)), max(plan.threads.values()))


def _told(planner: Planner) -> ThreadPlan:
    """The plan, told in the log with what it goes by."""
    budget, plan = planner.budget, planner.plan
    log.info("budget: %.3g cores, %d MiB", budget.cores, budget.memory_bytes >> 20)
    for file in budget.unreadable:
        log.warning("a limit that cannot be read, and may be there all the same: %s", file)
    log.info("plan: %s (`sidecar plan` says why)", plan)
    return plan


def _workers(
    settings: Settings, plan: ThreadPlan, arena: Arena, catalogue: Catalogue, memory_bytes: int
) -> Workers:
    if not plan.processes:
        _warn_unconfined(settings.sandbox)
        return ThreadWorkers(plan)
    # What a worker writes into memory files has come to it by the arena.
    confinement = settings.sandbox.confinement(memory_bytes=memory_bytes - arena.size, file_bytes=arena.size)
    nursery = {
        "arena": arena.name,
        "arena_bytes": arena.size,
        "log": dataclasses.asdict(settings.log),
        "sandbox": dataclasses.asdict(confinement),
        "recipes": sorted({type(model.recipe).__module__ for model in catalogue.all() if model.recipe}),
    }
    return ProcessWorkers(plan, settings.workers, settings.sandbox, nursery)


def _warn_unconfined(sandbox: SandboxConfig) -> None:
    """Without processes nothing can be confined. Raises SettingsError where that is required."""
    if sandbox.required:
        raise SettingsError(
            f"`workers.processes` is 0 and the sandbox's layers {', '.join(sandbox.required)} are required: threads of "
            "the front process cannot be confined; run worker processes, or set `sandbox.mode` to optional",
            key="sandbox.mode",
            value="required",
            allowed="optional, off",
        )
    log.warning("sandbox: %s", NO_PROCESSES)


async def _calibrate(costs: CostModel, gate: Gate, workers: Workers, arena: Arena) -> None:
    """Finds out how fast this machine is, through the workers as any job."""

    async def run(job: Job, held: Sequence[Lease]) -> Done:
        places = gate.enter(Asker(job.info.modality, ""), [_CALIBRATING], [0])
        try:
            return await workers.run(job, await places.ticket(0), held)
        finally:
            places.leave()

    await calibrate(costs, run, arena.try_take)


# How often the arena looks for slots that nobody gave back.
_SWEEP_S = 1.0


async def _sweep(arena: Arena, replays: Replays) -> None:
    while True:
        await asyncio.sleep(_SWEEP_S)
        arena.sweep()
        replays.sweep()


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
