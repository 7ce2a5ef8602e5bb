"""Reads the contract's replies into results. Pure: message in, value out.

A reply that contradicts the contract is a BadReply; enum values of a newer server become UNKNOWN.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from multimodal.v1 import diagnostics_pb2, media_pb2, preprocessor_pb2
from numpy.typing import NDArray

from inference_client.diagnosis import (
    AcceleratorState,
    Advice,
    Cause,
    Diagnosis,
    Finding,
    Fleet,
    Gpu,
    Lane,
    Machine,
    SelfCheck,
    StageLoad,
    StarvationLevel,
    StarvedTime,
    UpstreamVerdict,
    Worker,
)
from inference_client.errors import BadReply, SidecarError
from inference_client.failures import from_problem
from inference_client.plan import BudgetBound, PlanChange, PlanNumber, ThreadPlan
from inference_client.results import (
    AudioInfo,
    Batch,
    Cost,
    Estimate,
    Finished,
    Grouping,
    ImageInfo,
    Inference,
    ItemEstimate,
    MediaInfo,
    Modality,
    Model,
    ModelState,
    ModelTimes,
    Prepared,
    Recipe,
    Reuse,
    StageTimes,
    StreamOutputs,
    TensorSpec,
)
from inference_client.tensors import from_tensor, type_name

_MODALITIES: Mapping[int, Modality] = {
    media_pb2.MODALITY_IMAGE: Modality.IMAGE,
    media_pb2.MODALITY_AUDIO: Modality.AUDIO,
}
_GROUPINGS: Mapping[int, Grouping] = {
    preprocessor_pb2.GROUPING_EACH: Grouping.EACH,
    preprocessor_pb2.GROUPING_TOGETHER: Grouping.TOGETHER,
}
_STATES: Mapping[int, ModelState] = {
    preprocessor_pb2.MODEL_STATE_READY: ModelState.READY,
    preprocessor_pb2.MODEL_STATE_UNREACHABLE: ModelState.UNREACHABLE,
    preprocessor_pb2.MODEL_STATE_MISMATCHED: ModelState.MISMATCHED,
    preprocessor_pb2.MODEL_STATE_MISSING: ModelState.MISSING,
}
_REUSES: Mapping[int, Reuse] = {
    media_pb2.REUSE_UNSPECIFIED: Reuse.MADE,
    media_pb2.REUSE_KEPT: Reuse.KEPT,
    media_pb2.REUSE_SHARED: Reuse.SHARED,
}
_ACCELERATOR_STATES: Mapping[int, AcceleratorState] = {
    diagnostics_pb2.ACCELERATOR_STATE_BUSY: AcceleratorState.BUSY,
    diagnostics_pb2.ACCELERATOR_STATE_HUNG: AcceleratorState.HUNG,
    diagnostics_pb2.ACCELERATOR_STATE_IDLE_BATCH: AcceleratorState.IDLE_BATCH,
    diagnostics_pb2.ACCELERATOR_STATE_IDLE_XFER: AcceleratorState.IDLE_XFER,
    diagnostics_pb2.ACCELERATOR_STATE_IDLE_PREP: AcceleratorState.IDLE_PREP,
    diagnostics_pb2.ACCELERATOR_STATE_IDLE_DEMAND: AcceleratorState.IDLE_DEMAND,
}
_CAUSES: Mapping[int, Cause] = {
    diagnostics_pb2.CAUSE_RECEIVE: Cause.RECEIVE,
    diagnostics_pb2.CAUSE_PROBE: Cause.PROBE,
    diagnostics_pb2.CAUSE_ADMIT: Cause.ADMIT,
    diagnostics_pb2.CAUSE_THROTTLED: Cause.THROTTLED,
    diagnostics_pb2.CAUSE_DECODE: Cause.DECODE,
    diagnostics_pb2.CAUSE_TRANSFORM: Cause.TRANSFORM,
    diagnostics_pb2.CAUSE_PACK: Cause.PACK,
    diagnostics_pb2.CAUSE_DELIVER: Cause.DELIVER,
}
_FINDINGS: Mapping[int, Finding] = {
    diagnostics_pb2.FINDING_NO_DEMAND: Finding.NO_DEMAND,
    diagnostics_pb2.FINDING_ACCELERATOR: Finding.ACCELERATOR,
    diagnostics_pb2.FINDING_STARVED: Finding.STARVED,
    diagnostics_pb2.FINDING_TRANSPORT: Finding.TRANSPORT,
    diagnostics_pb2.FINDING_BATCH: Finding.BATCH,
    diagnostics_pb2.FINDING_HUNG: Finding.HUNG,
}
_LEVELS: Mapping[int, StarvationLevel] = {
    diagnostics_pb2.STARVATION_LEVEL_NONE: StarvationLevel.NONE,
    diagnostics_pb2.STARVATION_LEVEL_MODERATE: StarvationLevel.MODERATE,
    diagnostics_pb2.STARVATION_LEVEL_SEVERE: StarvationLevel.SEVERE,
}
_TIMES = tuple(StageTimes.__dataclass_fields__)


def times(message: media_pb2.StageTimes) -> StageTimes:
    return StageTimes(**{name: getattr(message, name) for name in _TIMES})


def model_times(message: preprocessor_pb2.InferResponse | preprocessor_pb2.Finished) -> ModelTimes | None:
    if not message.HasField("model_times"):
        return None
    told = message.model_times
    return ModelTimes(told.queue_ns, told.first_token_ns, told.generation_ns)


def cost(message: media_pb2.Cost) -> Cost:
    return Cost(message.predicted_cpu_ms, message.actual_cpu_ms, message.decoded_bytes, message.output_bytes)


def tensors(messages: Iterable[media_pb2.Tensor]) -> dict[str, NDArray[Any]]:
    return {message.name: from_tensor(message) for message in messages}


def media_info(message: media_pb2.MediaInfo) -> MediaInfo:
    image, audio = message.image, message.audio
    return MediaInfo(
        modality=_MODALITIES.get(message.modality, Modality.UNKNOWN),
        format=message.format,
        encoded_bytes=message.encoded_bytes,
        image=ImageInfo(
            width=image.width,
            height=image.height,
            mode=image.mode,
            orientation=image.orientation or 1,
            frames=image.frames or 1,
            progressive=image.progressive,
            subsampling=image.subsampling,
        )
        if message.HasField("image")
        else None,
        audio=AudioInfo(
            codec=audio.codec,
            sample_rate=audio.sample_rate,
            channels=audio.channels,
            duration_s=audio.duration_s,
        )
        if message.HasField("audio")
        else None,
    )


def prepared_batch(message: preprocessor_pb2.PreprocessResponse, count: int) -> Batch[Prepared]:
    """The results of `count` items."""
    _check_count(len(message.items), count)
    return Batch(
        tensors={},
        items=tuple(_prepared(item, message) for item in message.items),
        times=times(message.times),
        cost=cost(message.cost),
        request_id=message.request_id,
        replayed=message.replayed,
    )


def prepared_one(message: preprocessor_pb2.PreprocessResponse) -> Prepared:
    """The result of the only item, with the call's own times. Raises its problem."""
    _check_count(len(message.items), 1)
    result = _prepared(message.items[0], message).raise_for_problem()
    return replace(result, times=times(message.times), cost=cost(message.cost))


def inference_batch(message: preprocessor_pb2.InferResponse, count: int) -> Batch[Inference]:
    """The results of `count` items, and the outputs for all of them together."""
    _check_count(len(message.items), count)
    return Batch(
        tensors=tensors(message.outputs),
        items=tuple(_inference(item, message) for item in message.items),
        times=times(message.times),
        cost=cost(message.cost),
        request_id=message.request_id,
        replayed=message.replayed,
        model_times=model_times(message),
    )


def inference_one(message: preprocessor_pb2.InferResponse, count: int) -> Inference:
    """The answer for the only item, or for a request without media (`count` 0). Raises its problem."""
    _check_count(len(message.items), count)
    item = message.items[0] if message.items else media_pb2.ItemResult()
    result = _inference(item, message).raise_for_problem()
    return replace(
        result,
        # A model that takes its items together answers for the request, also when it is one item.
        tensors={**result.tensors, **tensors(message.outputs)},
        times=times(message.times),
        cost=cost(message.cost),
        model_times=model_times(message),
    )


def estimate(message: preprocessor_pb2.EstimateResponse, count: int) -> Estimate:
    """What a call with `count` items would cost."""
    _check_count(len(message.items), count)
    return Estimate(
        items=tuple(
            ItemEstimate(_info(item), cost(item.cost), _tokens(item), _problem(item))
            for item in message.items
        ),
        cost=cost(message.cost),
        wait_s=message.wait_s,
        refusal=from_problem(message.refusal) if message.HasField("refusal") else None,
    )


def model(message: preprocessor_pb2.Model) -> Model:
    recipe = message.recipe
    return Model(
        name=message.name,
        state=_STATES.get(message.state, ModelState.UNKNOWN),
        modality=_MODALITIES.get(message.modality, Modality.UNKNOWN),
        grouping=_GROUPINGS.get(message.grouping, Grouping.UNKNOWN),
        problem=_problem(message),
        recipe=Recipe(recipe.processor, recipe.reference, recipe.exact, tuple(recipe.steps))
        if message.HasField("recipe")
        else None,
        media_inputs=_specs(message.media_inputs),
        inputs=_specs(message.inputs),
        outputs=_specs(message.outputs),
        decoupled=message.decoupled,
        max_batch_size=message.max_batch_size,
    )


def models(message: preprocessor_pb2.ListModelsResponse) -> list[Model]:
    return [model(each) for each in message.models]


class StreamReader:
    """Follows the events of one streamed answer, keeping the first and the last.

    `prepared` is None until the media is prepared; `finished` until the model is done.
    """

    def __init__(self) -> None:
        self.prepared: tuple[Prepared, ...] | None = None
        self.finished: Finished | None = None

    def read(self, event: preprocessor_pb2.InferStreamResponse) -> StreamOutputs | None:
        """The outputs in this event, if it is one of outputs. Unknown kinds of event are skipped."""
        kind = event.WhichOneof("event")
        if kind == "outputs":
            return StreamOutputs(tensors=tensors(event.outputs.outputs), index=event.outputs.index)
        if kind == "prepared":
            start = event.prepared
            self.prepared = tuple(_prepared(item, start) for item in start.items)
        if kind == "finished":
            end = event.finished
            self.finished = Finished(
                times=times(end.times),
                cost=cost(end.cost),
                first_output_ns=end.first_output_ns,
                responses=end.responses,
                request_id=end.request_id,
                model=end.upstream_model,
                version=end.upstream_version,
                model_times=model_times(end),
            )
        return None

    def times(self) -> StageTimes:
        """Those of the last event. Raises RuntimeError before it."""
        if self.finished is None:
            raise RuntimeError(
                "the stream is not finished; loop over it to its end before asking for its times"
            )
        return self.finished.times

    def check_finished(self) -> None:
        """To be called when the stream has ended. Raises BadReply if it ended without saying so."""
        if self.finished is None:
            raise BadReply("the stream ended without its last event; some outputs may be missing")


def diagnosis(message: diagnostics_pb2.VerdictResponse) -> Diagnosis:
    fleet, machine = message.fleet, message.machine
    return Diagnosis(
        window_s=message.window_s,
        upstreams=tuple(_upstream(each) for each in message.upstreams),
        stages=tuple(StageLoad(each.stage, _kind(each.modality), each.seconds) for each in message.stages),
        lanes=tuple(
            Lane(
                modality=_MODALITIES.get(each.modality, Modality.UNKNOWN),
                cost_class=each.cost_class,
                queued=each.queued,
                queued_cpu_s=each.queued_cpu_s,
            )
            for each in message.lanes
        ),
        fleet=Fleet(
            processes=fleet.processes,
            image_threads=fleet.image_threads,
            audio_threads=fleet.audio_threads,
            express_threads=fleet.express_threads,
            calls=fleet.calls,
            queued=fleet.queued,
            running=fleet.running,
            handed=fleet.handed,
            workers=tuple(Worker(each.pid, each.cores) for each in fleet.workers),
            sandbox=fleet.sandbox,
        ),
        machine=Machine(
            cores=machine.cores,
            quota=machine.quota or None,
            front=machine.front,
            workers=machine.workers,
            idle=machine.idle,
            throttled=machine.throttled,
        )
        if message.HasField("machine")
        else None,
        gpus=tuple(Gpu(each.index, each.name, each.utilisation, each.memory) for each in message.gpus),
    )


def watched(message: diagnostics_pb2.WatchVerdictResponse) -> Diagnosis:
    return diagnosis(message.verdict)


def self_check(message: diagnostics_pb2.SelfCheckResponse) -> SelfCheck:
    return SelfCheck(
        upstream=message.upstream,
        live_rows_per_s=message.live_rows_per_s,
        fed_rows_per_s=message.fed_rows_per_s,
        starved_by_rates=message.starved_by_rates,
        starved_by_accounts=message.starved_by_accounts,
        agree=message.agree,
        summary=message.summary,
    )


def thread_plan(
    message: diagnostics_pb2.GetThreadPlanResponse | diagnostics_pb2.SetThreadPlanResponse,
) -> ThreadPlan:
    plan = message.plan
    return ThreadPlan(
        budget_cores=plan.budget_cores,
        budget_memory_bytes=plan.budget_memory_bytes,
        numbers=tuple(PlanNumber(each.name, each.number, each.is_set, each.why) for each in plan.numbers),
        bounds=tuple(
            BudgetBound(each.what, cores=each.cores)
            if each.WhichOneof("allows") == "cores"
            else BudgetBound(each.what, memory_bytes=each.memory_bytes)
            for each in plan.bounds
        ),
        changes=tuple(PlanChange(each.ago_s, each.why, each.plan) for each in plan.changes),
    )


def _upstream(message: diagnostics_pb2.UpstreamVerdict) -> UpstreamVerdict:
    states: dict[AcceleratorState, float] = {}
    for each in message.states:
        state = _ACCELERATOR_STATES.get(each.state, AcceleratorState.UNKNOWN)
        states[state] = states.get(state, 0.0) + each.seconds
    return UpstreamVerdict(
        upstream=message.upstream,
        models=tuple(message.models),
        finding=_FINDINGS.get(message.finding, Finding.UNKNOWN),
        level=_LEVELS.get(message.level, StarvationLevel.UNKNOWN),
        cause=_CAUSES.get(message.cause, Cause.UNKNOWN) if message.cause else None,
        modality=_kind(message.modality),
        summary=message.summary,
        alarm=message.alarm,
        alarm_for_s=message.alarm_for_s,
        starved=message.starved,
        underfilled=message.underfilled,
        utilisation=message.utilisation if message.HasField("utilisation") else None,
        states=states,
        causes=tuple(
            StarvedTime(_CAUSES.get(each.cause, Cause.UNKNOWN), _kind(each.modality), each.seconds)
            for each in message.causes
        ),
        advice=tuple(_advice(each) for each in message.advice),
        rows_per_s=message.rows_per_s,
        ceiling_rows_per_s=message.ceiling_rows_per_s or None,
        counted=message.counted,
        note=message.note,
    )


def _advice(message: diagnostics_pb2.Advice) -> Advice:
    return Advice(
        setting=message.setting,
        present=message.present,
        proposed=message.proposed,
        why=message.why,
        rows_per_s=message.rows_per_s if message.HasField("rows_per_s") else None,
        then_rows_per_s=message.then_rows_per_s if message.HasField("then_rows_per_s") else None,
    )


def _kind(modality: int) -> Modality | None:
    """None for calls without media, of which the contract says nothing."""
    return _MODALITIES.get(modality, Modality.UNKNOWN) if modality else None


def _prepared(
    item: media_pb2.ItemResult, reply: preprocessor_pb2.PreprocessResponse | preprocessor_pb2.Prepared
) -> Prepared:
    """An item of a reply, or of a stream's first event, which is never replayed."""
    return Prepared(
        tensors=tensors(item.tensors),
        info=_info(item),
        times=times(item.times),
        cost=cost(item.cost),
        problem=_problem(item),
        request_id=reply.request_id,
        placeholder_tokens=_tokens(item),
        reuse=_reuse(item),
        replayed=isinstance(reply, preprocessor_pb2.PreprocessResponse) and reply.replayed,
    )


def _inference(item: media_pb2.ItemResult, reply: preprocessor_pb2.InferResponse) -> Inference:
    return Inference(
        tensors=tensors(item.tensors),
        info=_info(item),
        times=times(item.times),
        cost=cost(item.cost),
        problem=_problem(item),
        request_id=reply.request_id,
        placeholder_tokens=_tokens(item),
        reuse=_reuse(item),
        replayed=reply.replayed,
        model=reply.upstream_model,
        version=reply.upstream_version,
    )


def _tokens(item: media_pb2.ItemResult) -> int | None:
    return item.placeholder_tokens if item.HasField("placeholder_tokens") else None


def _reuse(item: media_pb2.ItemResult) -> Reuse:
    return _REUSES.get(item.reuse, Reuse.UNKNOWN)


def _info(item: media_pb2.ItemResult) -> MediaInfo | None:
    return media_info(item.info) if item.HasField("info") else None


def _problem(owner: media_pb2.ItemResult | preprocessor_pb2.Model) -> SidecarError | None:
    return from_problem(owner.problem) if owner.HasField("problem") else None


def _specs(messages: Iterable[preprocessor_pb2.TensorSpec]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(each.name, type_name(each.data_type), tuple(each.shape), each.optional)
        for each in messages
    )


def _check_count(found: int, count: int) -> None:
    if found != count:
        raise BadReply(f"{count} media items were sent and {found} results came back")
