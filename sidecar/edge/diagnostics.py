"""The service `multimodal.v1.Diagnostics`: what was seen of the accelerator and of ourselves, and the thread plan; here
both are read and handed on, and nothing is decided.

It is not admitted or drained like calls of the path: who wants to know why nothing works must be answered.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Mapping

from multimodal.v1 import diagnostics_pb2 as pb
from multimodal.v1 import diagnostics_pb2_grpc, media_pb2

from sidecar.catalogue import Catalogue
from sidecar.edge.around import Context
from sidecar.edge.respond import MODALITIES
from sidecar.errors import InvalidRequest, SettingsError
from sidecar.media import Modality
from sidecar.observe.picture import Picture, UpstreamView
from sidecar.observe.starvation import Cause, State
from sidecar.observe.verdict import Finding, Level
from sidecar.observe.watcher import Watcher
from sidecar.self_check import USUAL_S, Checked, SelfCheck
from sidecar.surroundings import Surroundings
from sidecar.workers.planner import KEYS, Planner

_MOST_WINDOW_S = 60.0

_STATES: Mapping[State, pb.AcceleratorState.ValueType] = {
    state: pb.AcceleratorState.Value(f"ACCELERATOR_STATE_{state.name}") for state in State
}
_CAUSES: Mapping[Cause | None, pb.Cause.ValueType] = {
    None: pb.CAUSE_UNSPECIFIED,
    **{cause: pb.Cause.Value(f"CAUSE_{cause.name}") for cause in Cause},
}
_FINDINGS: Mapping[Finding, pb.Finding.ValueType] = {
    finding: pb.Finding.Value(f"FINDING_{finding.name}") for finding in Finding
}
_LEVELS: Mapping[Level, pb.StarvationLevel.ValueType] = {
    level: pb.StarvationLevel.Value(f"STARVATION_LEVEL_{level.name}") for level in Level
}


class Diagnostics(diagnostics_pb2_grpc.DiagnosticsServicer):
    """Over a watcher, which may be told to watch nothing."""

    def __init__(
        self,
        watcher: Watcher,
        surroundings: Surroundings,
        catalogue: Catalogue,
        self_check: SelfCheck,
        planner: Planner,
    ) -> None:
        self._watcher = watcher
        self._surroundings = surroundings
        self._catalogue = catalogue
        self._self_check = self_check
        self._planner = planner

    async def Verdict(self, request: pb.VerdictRequest, context: Context) -> pb.VerdictResponse:  # noqa: ARG002, N802 - the contract's
        return await self.fresh(request.window_s, request.upstream)

    async def WatchVerdict(  # noqa: N802 - the contract's name
        self,
        request: pb.WatchVerdictRequest,
        context: Context,  # noqa: ARG002 - the contract's
    ) -> AsyncIterator[pb.WatchVerdictResponse]:
        watcher = self._watching()
        if not 0 <= request.interval_s <= _MOST_WINDOW_S:
            raise InvalidRequest(
                f"`interval_s` is {request.interval_s:g}: allowed are 0 to {_MOST_WINDOW_S:g}",
                field="interval_s",
            )
        await watcher.fresh()
        while True:
            soonest = time.monotonic() + request.interval_s
            yield pb.WatchVerdictResponse(verdict=self.verdict(request.window_s, request.upstream))
            await watcher.turned()
            await asyncio.sleep(max(0.0, soonest - time.monotonic()))

    async def SelfCheck(self, request: pb.SelfCheckRequest, context: Context) -> pb.SelfCheckResponse:  # noqa: ARG002, N802 - the contract's
        model = self._catalogue.get(request.model)
        facts = self._surroundings.upstreams().get(model.upstream)
        if facts is None:
            raise InvalidRequest(
                f"model {request.model!r} has no model server: set `triton.address`", field="model"
            )
        checked = await self._self_check.run(model.name, (model.upstream, facts), request.seconds or USUAL_S)
        return _checked(checked)

    async def GetThreadPlan(  # noqa: N802 - the contract's name
        self,
        request: pb.GetThreadPlanRequest,  # noqa: ARG002 - the contract's
        context: Context,  # noqa: ARG002 - the contract's
    ) -> pb.GetThreadPlanResponse:
        return pb.GetThreadPlanResponse(plan=planned(self._planner))

    async def SetThreadPlan(  # noqa: N802 - the contract's name
        self,
        request: pb.SetThreadPlanRequest,
        context: Context,  # noqa: ARG002 - the contract's
    ) -> pb.SetThreadPlanResponse:
        asked: dict[str, int | None] = {**dict(request.numbers), **dict.fromkeys(request.unset)}
        for key in asked:
            if key not in KEYS:
                raise InvalidRequest(
                    f"the plan has no number {key!r}: it has {', '.join(KEYS)}", field="numbers"
                )
        try:
            self._planner.set(asked)
        except SettingsError as problem:
            raise InvalidRequest(problem.message, field="numbers") from problem
        return pb.SetThreadPlanResponse(plan=planned(self._planner))

    async def fresh(self, window_s: float = 0.0, upstream: str = "") -> pb.VerdictResponse:
        """The verdict as soon as all that is known is in it. Raises as `verdict` does."""
        await self._watching().fresh()
        return self.verdict(window_s, upstream)

    def verdict(self, window_s: float = 0.0, upstream: str = "") -> pb.VerdictResponse:
        """The verdict of the last turn.

        Raises InvalidRequest for a window or model that is not there, and where nobody watches.
        """
        if not 0 <= window_s <= _MOST_WINDOW_S:
            raise InvalidRequest(
                f"`window_s` is {window_s:g}: allowed are 0, for the server's own, to {_MOST_WINDOW_S:g}",
                field="window_s",
            )
        picture = self._watching().picture(window_s)
        if upstream and upstream not in {each.verdict.upstream for each in picture.upstreams}:
            known = ", ".join(each.verdict.upstream for each in picture.upstreams) or "none yet"
            raise InvalidRequest(
                f"the model server's {upstream!r} is not watched; watched are: {known}", field="upstream"
            )
        return told(picture, upstream)

    def _watching(self) -> Watcher:
        if not self._watcher.watches:
            raise InvalidRequest("nobody watches here: set `verdict.enabled`", field="")
        return self._watcher


def told(picture: Picture, upstream: str = "") -> pb.VerdictResponse:
    """The picture as a message; of one model at the model server, or of all of them."""
    demand, fleet, spell = picture.demand, picture.fleet, picture.spell
    return pb.VerdictResponse(
        window_s=picture.window_s,
        upstreams=[_upstream(each) for each in picture.upstreams if upstream in {"", each.verdict.upstream}],
        stages=[
            pb.StageLoad(stage=stage.value, modality=_modality(modality), seconds=spent / 1e9)
            for modality, stages in demand.stage_ns.items()
            for stage, spent in stages.items()
        ],
        lanes=[
            pb.Lane(
                modality=_modality(lane.modality),
                cost_class=lane.cost_class,
                queued=lane.queued,
                queued_cpu_s=lane.queued_cpu_s,
            )
            for lane in fleet.lanes
        ],
        fleet=pb.Fleet(
            processes=fleet.processes,
            image_threads=fleet.threads.get(Modality.IMAGE, 0),
            audio_threads=fleet.threads.get(Modality.AUDIO, 0),
            express_threads=fleet.express,
            calls=picture.under_way,
            queued=fleet.queued,
            running=fleet.running,
            handed=fleet.handed,
            workers=[pb.Worker(pid=worker.pid, cores=worker.cores) for worker in picture.workers],
            sandbox=fleet.sandbox,
        ),
        machine=None
        if spell is None
        else pb.Machine(
            cores=spell.cores,
            quota=spell.quota_cores or 0.0,
            front=spell.front,
            workers=spell.workers,
            idle=spell.idle,
            throttled=spell.throttled,
        ),
        gpus=[
            pb.Gpu(index=gpu.index, name=gpu.name, utilisation=gpu.utilisation, memory=gpu.memory)
            for gpu in picture.gpus
        ],
    )


def planned(planner: Planner) -> pb.ThreadPlan:
    """The plan as a message."""
    budget, now_s = planner.budget, time.time()
    return pb.ThreadPlan(
        budget_cores=budget.cores,
        budget_memory_bytes=budget.memory_bytes,
        numbers=[
            pb.PlanNumber(name=each.what, number=each.number, is_set=each.is_set, why=each.why)
            for each in planner.plan.reasons
        ],
        bounds=[
            *(pb.BudgetBound(what=bound.what, cores=bound.allows) for bound in budget.cpu_bounds),
            *(
                pb.BudgetBound(what=bound.what, memory_bytes=int(bound.allows))
                for bound in budget.memory_bounds
            ),
        ],
        changes=[
            pb.PlanChange(ago_s=now_s - change.at_s, why=change.why, plan=str(change.plan))
            for change in reversed(planner.changes)
        ],
    )


def _upstream(view: UpstreamView) -> pb.UpstreamVerdict:
    verdict = view.verdict
    booked = verdict.booked
    return pb.UpstreamVerdict(
        upstream=verdict.upstream,
        models=view.models,
        finding=_FINDINGS[verdict.finding],
        level=_LEVELS[verdict.level],
        cause=_CAUSES[verdict.cause],
        modality=_modality(verdict.modality),
        summary=verdict.words,
        alarm=verdict.alarm,
        alarm_for_s=(time.monotonic_ns() - verdict.since_ns) / 1e9 if verdict.alarm else 0.0,
        starved=verdict.starved,
        underfilled=verdict.fill,
        utilisation=None if math.isnan(verdict.utilisation) else verdict.utilisation,
        states=[pb.StateTime(state=_STATES[state], seconds=booked.states[state] / 1e9) for state in State],
        causes=[
            pb.StarvedTime(cause=_CAUSES[cause], modality=_modality(modality), seconds=spent / 1e9)
            for (cause, modality), spent in booked.starved.most_common()
        ],
        advice=[
            pb.Advice(
                setting=line.setting,
                present=line.present,
                proposed=line.proposed,
                rows_per_s=None if math.isnan(line.now) else line.now,
                then_rows_per_s=None if math.isnan(line.then) else line.then,
                why=line.why,
            )
            for line in view.lines
        ],
        rows_per_s=view.rows_per_s,
        ceiling_rows_per_s=view.ceiling,
        counted=view.counted,
        note=view.note,
    )


def _checked(checked: Checked) -> pb.SelfCheckResponse:
    return pb.SelfCheckResponse(
        upstream=checked.upstream,
        live_rows_per_s=checked.live_rows_per_s,
        fed_rows_per_s=checked.fed_rows_per_s,
        starved_by_rates=checked.starved_by_rates,
        starved_by_accounts=checked.starved_by_accounts,
        agree=checked.agree,
        summary=checked.words,
    )


def _modality(modality: Modality | None) -> media_pb2.Modality.ValueType:
    return media_pb2.MODALITY_UNSPECIFIED if modality is None else MODALITIES[modality]
