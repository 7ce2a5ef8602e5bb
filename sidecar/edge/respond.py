"""From the path's values to the wire's messages, and the one table from errors to gRPC statuses.

Nothing here decides; a value that has no row is a fault of this program and a test finds it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import NoReturn

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from multimodal.v1 import media_pb2, preprocessor_pb2

from sidecar import errors
from sidecar.catalogue import ModelState, ServedModel
from sidecar.edge import payloads
from sidecar.edge.fields import Part
from sidecar.entry import Verb
from sidecar.media import AudioInfo, DataType, ImageInfo, MediaInfo, Modality, Reuse, Tensor, TensorSpec
from sidecar.observe.timings import ModelTimes, Stage, Timings
from sidecar.stages.admit.gate import refused
from sidecar.stages.admit.turns import Verdict
from sidecar.stages.deliver.bindings import Grouping
from sidecar.stages.deliver.upstream import Answer
from sidecar.walk import Item, Walk

DOMAIN = "multimodal.v1"
LET_IN = (("x-media-let-in", "1"),)
"""Initial metadata for a caller who asked first: that the call is let in, and its message may come."""

# Every leaf of the error tree, and the status that a caller sees. UNAVAILABLE and RESOURCE_EXHAUSTED
# are kept for what a later try can mend, so that a client's retry policy needs no exceptions; a push-back below
# 0, which forbids retries, marks the one that is not.
STATUS: Mapping[type[errors.SidecarError], grpc.StatusCode] = {
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.WrongItemCount: grpc.StatusCode.INVALID_ARGUMENT,
    errors.UnknownModel: grpc.StatusCode.NOT_FOUND,
    errors.WrongModality: grpc.StatusCode.INVALID_ARGUMENT,
    errors.WrongStream: grpc.StatusCode.FAILED_PRECONDITION,
    errors.InvalidInput: grpc.StatusCode.INVALID_ARGUMENT,
    errors.MediaTooLarge: grpc.StatusCode.INVALID_ARGUMENT,
    errors.Unaffordable: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.UnsupportedMedia: grpc.StatusCode.INVALID_ARGUMENT,
    errors.CorruptMedia: grpc.StatusCode.INVALID_ARGUMENT,
    errors.MislabelledMedia: grpc.StatusCode.INVALID_ARGUMENT,
    errors.FetchRefused: grpc.StatusCode.PERMISSION_DENIED,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.CallCancelled: grpc.StatusCode.CANCELLED,
    errors.Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.ShuttingDown: grpc.StatusCode.UNAVAILABLE,
    errors.UpstreamUnavailable: grpc.StatusCode.UNAVAILABLE,
    errors.UpstreamBusy: grpc.StatusCode.UNAVAILABLE,
    errors.UpstreamRejected: grpc.StatusCode.INVALID_ARGUMENT,
    errors.UpstreamModelMissing: grpc.StatusCode.NOT_FOUND,
    errors.UpstreamUnimplemented: grpc.StatusCode.UNIMPLEMENTED,
    errors.UpstreamTimeout: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.UpstreamFailed: grpc.StatusCode.INTERNAL,
    errors.FetchFailed: grpc.StatusCode.FAILED_PRECONDITION,
    errors.FetchUnavailable: grpc.StatusCode.UNAVAILABLE,
    errors.SettingsError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.RecipeError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ModelMismatch: grpc.StatusCode.FAILED_PRECONDITION,
    errors.InternalError: grpc.StatusCode.INTERNAL,
}

MODALITIES = {
    Modality.IMAGE: media_pb2.MODALITY_IMAGE,
    Modality.AUDIO: media_pb2.MODALITY_AUDIO,
}
_REUSES = {
    Reuse.MADE: media_pb2.REUSE_UNSPECIFIED,
    Reuse.KEPT: media_pb2.REUSE_KEPT,
    Reuse.SHARED: media_pb2.REUSE_SHARED,
}
_DATA_TYPES = {data_type: media_pb2.DataType.Value(f"DATA_TYPE_{data_type.value}") for data_type in DataType}
_TIMES = {stage: f"{stage.value}_ns" for stage in Stage}
_TENSORS = payloads.number_of(media_pb2.ItemResult, "tensors")
_STATES = {
    ModelState.READY: preprocessor_pb2.MODEL_STATE_READY,
    ModelState.UNREACHABLE: preprocessor_pb2.MODEL_STATE_UNREACHABLE,
    ModelState.MISSING: preprocessor_pb2.MODEL_STATE_MISSING,
    ModelState.MISMATCHED: preprocessor_pb2.MODEL_STATE_MISMATCHED,
}
_GROUPINGS = {
    None: preprocessor_pb2.GROUPING_UNSPECIFIED,
    Grouping.EACH: preprocessor_pb2.GROUPING_EACH,
    Grouping.TOGETHER: preprocessor_pb2.GROUPING_TOGETHER,
}


async def abort(context: grpc.aio.ServicerContext[object, object], error: errors.SidecarError) -> NoReturn:
    """Ends the call with the error's status, google.rpc details, and a retry push-back where one helps."""
    trailers: list[tuple[str, str | bytes]] = [
        ("grpc-status-details-bin", _details(error).SerializeToString())
    ]
    if isinstance(error, errors.CapacityError | errors.Unaffordable):
        trailers.append(("grpc-retry-pushback-ms", str(_pushback_ms(error))))
    await context.abort(STATUS[type(error)], _message(error), tuple(trailers))
    raise AssertionError("abort raises")


# Errors quote callers, who can be long-winded, and an RPC's travel in its trailers: the message three times
# (once escaped, which may triple it), the facts once, in base64. gRPC refuses trailers at random from
# 8 KiB on. Bytes of UTF-8.
_MOST_OF_A_MESSAGE = 768
_MOST_OF_A_FACT = 256


def _message(error: errors.SidecarError) -> str:
    return _clipped(error.message, _MOST_OF_A_MESSAGE)


def _facts(error: errors.SidecarError) -> dict[str, str]:
    return {key: _clipped(value, _MOST_OF_A_FACT) for key, value in error.facts.items()}


def _clipped(text: str, most: int) -> str:
    encoded = text.encode()
    return text if len(encoded) <= most else encoded[: most - 3].decode(errors="ignore") + "..."


def _pushback_ms(error: errors.CapacityError | errors.Unaffordable) -> int:
    """Milliseconds, never 0 to 9: grpcio 1.85 hangs a call whose push-back or backoff is that; -1 for never."""
    if isinstance(error, errors.Unaffordable):
        return -1
    return max(10, math.ceil(error.retry_after_s * 1e3))


def _details(error: errors.SidecarError) -> status_pb2.Status:
    code: int = STATUS[type(error)].value[0]
    facts = {**_facts(error), "retryable": str(error.retryable).lower()}
    details = [error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=facts)]
    if isinstance(error, errors.CapacityError):
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(error.retry_after_s * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    if "field" in error.facts:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=_facts(error)["field"], description=_message(error)
        )
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    status = status_pb2.Status(code=code, message=_message(error))
    for detail in details:
        status.details.append(_packed(detail))
    return status


def _packed(message: object) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)  # type: ignore[arg-type]  # google.rpc carries no types
    return packed


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply, laid but for the call's times: `message` without its tensors and items, `parts` those."""

    message: preprocessor_pb2.PreprocessResponse | preprocessor_pb2.InferResponse
    parts: list[Part]

    def stamped(self, times: Timings) -> bytes:
        """The whole reply; the one copy of its tensors is made here."""
        self.message.times.CopyFrom(stage_times(times))
        return b"".join([self.message.SerializeToString(), *self.parts])


def preprocess_reply(walk: Walk, request_id: str) -> Reply:
    """All but the call's times, which are stamped when this is done."""
    kind = preprocessor_pb2.PreprocessResponse
    message = kind(request_id=request_id, cost=total_cost(walk.items))
    return Reply(message, _laid_items(walk.items, payloads.number_of(kind, "items")))


def infer_reply(walk: Walk, request_id: str) -> Reply:
    """All but the call's times, which are stamped when this is done."""
    kind = preprocessor_pb2.InferResponse
    message = kind(
        request_id=request_id,
        cost=total_cost(walk.items),
        upstream_model=walk.model,
        upstream_version=walk.version,
        model_times=model_times(walk.model_times),
    )
    parts = _laid_items(walk.items, payloads.number_of(kind, "items"))
    for output in walk.outputs:
        parts += payloads.laid(payloads.number_of(kind, "outputs"), _laid_tensor(output))
    return Reply(message, parts)


_REPLAYED: Mapping[Verb, bytes] = {
    Verb.PREPROCESS: preprocessor_pb2.PreprocessResponse(replayed=True).SerializeToString(),
    Verb.INFER: preprocessor_pb2.InferResponse(replayed=True).SerializeToString(),
}


def replayed(verb: Verb, reply: bytes) -> bytes:
    """A stored reply that says so: a field behind the others counts as one among them."""
    return reply + _REPLAYED[verb]


def _laid_items(items: Iterable[Item], number: int) -> list[Part]:
    parts: list[Part] = []
    for item in items:
        content: list[Part] = [_item_result(item).SerializeToString()]
        for tensor in item.tensors:
            content += payloads.laid(_TENSORS, _laid_tensor(tensor))
        parts += payloads.laid(number, content)
    return parts


def _laid_tensor(tensor: Tensor) -> list[Part]:
    return payloads.tensor(tensor, _DATA_TYPES[tensor.data_type])


def prepared(items: Sequence[Item], request_id: str) -> preprocessor_pb2.InferStreamResponse:
    """The first event of a stream: what became of the items, without their tensors."""
    event = preprocessor_pb2.InferStreamResponse()
    event.prepared.request_id = request_id
    for item in items:
        event.prepared.items.add().CopyFrom(_item_result(item))
    return event


def stream_outputs(answer: Answer, index: int) -> preprocessor_pb2.InferStreamResponse:
    """One of the model's responses; `index` counts those before it."""
    event = preprocessor_pb2.InferStreamResponse()
    event.outputs.index = index
    for output in answer.outputs:
        # Filled in place: a message handed to another's constructor is copied whole, with its data.
        event.outputs.outputs.add(
            name=output.name,
            data_type=_DATA_TYPES[output.data_type],
            shape=output.shape,
            data=bytes(output.data),
        )
    return event


def finished(walk: Walk, request_id: str) -> preprocessor_pb2.InferStreamResponse:
    """The last event of a stream."""
    return preprocessor_pb2.InferStreamResponse(
        finished=preprocessor_pb2.Finished(
            times=stage_times(walk.timeline.snapshot()),
            cost=total_cost(walk.items),
            first_output_ns=walk.first_output_ns,
            responses=walk.responses,
            request_id=request_id,
            upstream_model=walk.model,
            upstream_version=walk.version,
            model_times=model_times(walk.model_times),
        )
    )


def estimate(walk: Walk, verdict: Verdict) -> preprocessor_pb2.EstimateResponse:
    """What a call would cost, and what the gate says of it."""
    refusal = problem(refused(verdict.refusal)) if verdict.refusal else None
    return preprocessor_pb2.EstimateResponse(
        items=[_item_result(item) for item in walk.items],
        cost=total_cost(walk.items),
        wait_s=verdict.wait_s,
        refusal=refusal,
    )


def _item_result(item: Item) -> media_pb2.ItemResult:
    """All but its tensors."""
    result = media_pb2.ItemResult(cost=_cost(item))
    if item.problem is not None:
        result.problem.CopyFrom(problem(item.problem))
    if item.info is not None:
        result.info.CopyFrom(media_info(item.info))
    if item.tokens is not None:
        result.placeholder_tokens = item.tokens
    result.reuse = _REUSES[item.reuse]
    if item.times is not None:
        result.times.CopyFrom(stage_times(item.times))
    return result


def problem(error: errors.SidecarError) -> media_pb2.Problem:
    return media_pb2.Problem(
        code=STATUS[type(error)].value[0],
        reason=error.reason,
        message=_message(error),
        retryable=error.retryable,
        metadata=_facts(error),
    )


def media_info(info: MediaInfo) -> media_pb2.MediaInfo:
    message = media_pb2.MediaInfo(
        modality=MODALITIES[info.modality], format=info.format, encoded_bytes=info.encoded_bytes
    )
    match info:
        case ImageInfo():
            message.image.CopyFrom(
                media_pb2.ImageInfo(
                    width=info.width,
                    height=info.height,
                    mode=info.mode,
                    orientation=info.orientation,
                    frames=info.frames,
                    progressive=info.progressive,
                    subsampling=info.subsampling,
                )
            )
        case AudioInfo():
            message.audio.CopyFrom(
                media_pb2.AudioInfo(
                    codec=info.codec,
                    sample_rate=info.sample_rate,
                    channels=info.channels,
                    duration_s=info.duration_s or 0.0,
                )
            )
    return message


def stage_times(times: Timings) -> media_pb2.StageTimes:
    """The reply's times: a field a stage, named after it."""
    fields = {_TIMES[stage]: nanoseconds for stage, nanoseconds in times.stages.items()}
    return media_pb2.StageTimes(**fields, gap_ns=times.gap_ns, total_ns=times.total_ns)


def model_times(times: ModelTimes | None) -> media_pb2.ModelTimes | None:
    """The reply's times of the model's own; None where it did not tell."""
    return media_pb2.ModelTimes(**asdict(times)) if times is not None else None


def total_cost(items: Iterable[Item]) -> media_pb2.Cost:
    total = media_pb2.Cost()
    for item in items:
        cost = _cost(item)
        total.predicted_cpu_ms += cost.predicted_cpu_ms
        total.actual_cpu_ms += cost.actual_cpu_ms
        total.decoded_bytes += cost.decoded_bytes
        total.output_bytes += cost.output_bytes
    return total


def _cost(item: Item) -> media_pb2.Cost:
    return media_pb2.Cost(
        predicted_cpu_ms=item.cost.cpu_ms if item.cost else 0.0,
        actual_cpu_ms=item.cpu_ms,
        decoded_bytes=item.cost.decoded_bytes if item.cost else 0,
        output_bytes=item.output_bytes,
    )


def model(served: ServedModel) -> preprocessor_pb2.Model:
    """What a caller learns of a model."""
    message = preprocessor_pb2.Model(
        name=served.name,
        state=_STATES[served.state],
        problem=problem(served.problem) if served.problem else None,
        grouping=_GROUPINGS[served.grouping],
    )
    if served.recipe is not None:
        message.modality = MODALITIES[served.recipe.modality]
        message.recipe.CopyFrom(
            preprocessor_pb2.Recipe(
                processor=served.recipe.processor,
                reference=served.recipe.reference,
                exact=served.recipe.exact,
                steps=served.recipe.steps,
            )
        )
    if served.signature is not None:
        made = served.binding.made if served.binding else ()
        message.media_inputs.extend(_spec(spec) for spec in served.signature.inputs if spec.name in made)
        message.inputs.extend(_spec(spec) for spec in served.signature.inputs if spec.name not in made)
        message.outputs.extend(_spec(spec) for spec in served.signature.outputs)
        message.decoupled = served.signature.decoupled
        message.max_batch_size = served.signature.max_batch_size
    elif served.recipe is not None:
        message.media_inputs.extend(_spec(spec) for spec in served.recipe.outputs)
    return message


def _spec(spec: TensorSpec) -> preprocessor_pb2.TensorSpec:
    return preprocessor_pb2.TensorSpec(
        name=spec.name, data_type=_DATA_TYPES[spec.data_type], shape=spec.shape, optional=spec.optional
    )
