"""Turns a verb and its arguments into one RPC: which one, with what messages, and how to read its reply.

Both clients send what is made here and add nothing, so that they cannot drift apart. No transport
and no clock; the disk is touched only where an item is a path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from typing import Any, Generic, TypeAlias, TypedDict, TypeVar, Unpack

from google.protobuf.message import Message
from multimodal.v1 import diagnostics_pb2, media_pb2, preprocessor_pb2
from numpy.typing import DTypeLike

from inference_client import facts, replies
from inference_client.ask import Asking
from inference_client.diagnosis import Diagnosis, SelfCheck
from inference_client.errors import InvalidInput, ModelMismatch, SidecarError
from inference_client.items import Item, MediaItem, as_item, listed
from inference_client.plan import ThreadPlan
from inference_client.results import (
    Batch,
    Estimate,
    Inference,
    MediaInfo,
    Modality,
    Model,
    ModelState,
    Prepared,
    Priority,
    StreamOutputs,
    TensorSpec,
)
from inference_client.tensors import InputValue, to_tensor, type_number

# Unit: bytes of one chunk, and of what plain inputs may always take. A quarter of gRPC's default message
# limit, so that any server takes it.
CHUNK_BYTES = 2**20

ParameterValue: TypeAlias = bool | int | float | str

ResultT = TypeVar("ResultT")

_PRIORITIES: Mapping[Priority | None, preprocessor_pb2.Priority.ValueType] = {
    None: preprocessor_pb2.PRIORITY_UNSPECIFIED,
    Priority.PROBE: preprocessor_pb2.PRIORITY_PROBE,
    Priority.INTERACTIVE: preprocessor_pb2.PRIORITY_INTERACTIVE,
    Priority.BATCH: preprocessor_pb2.PRIORITY_BATCH,
}
_MODALITIES: Mapping[Modality, media_pb2.Modality.ValueType] = {
    Modality.UNKNOWN: media_pb2.MODALITY_UNSPECIFIED,
    Modality.IMAGE: media_pb2.MODALITY_IMAGE,
    Modality.AUDIO: media_pb2.MODALITY_AUDIO,
}


class CallOptions(TypedDict, total=False):
    """What any call on media may be told.

    all_or_nothing: raise the first failed item's problem instead of answering for its neighbours.
        Default False; always so where one item, not a list, is sent.
    request_id: your own id, echoed in the result and in the sidecar's log. Default "".
    priority: whose work goes first among your own: a Priority, or its name. Default: the client's.
    fresh: have every item prepared anew, whatever the sidecar keeps of the same content. Default False.
    """

    all_or_nothing: bool
    request_id: str
    priority: Priority | str
    fresh: bool


class PreprocessOptions(CallOptions, total=False):
    """What a preparation may be told besides.

    data_type: the tensors' element type, "FP32" or numpy.float32. Default: that of the model's own input.
    idempotency_key: names the call, so that the sidecar answers a repetition of it, with the same key and
        content, by the first one's reply. At most 256 bytes. Default "": a repetition is a new call.
    """

    data_type: str | DTypeLike
    idempotency_key: str


class EstimateOptions(TypedDict, total=False):
    """What an estimate may be told besides: `data_type` and `priority` of the call that is asked about."""

    data_type: str | DTypeLike
    priority: Priority | str


class StreamOptions(CallOptions, total=False):
    """What a streamed inference may be told besides.

    outputs: names of the outputs wanted. Default: all of them.
    parameters: handed to the model server as they are, for example {"max_tokens": 64}.
    """

    outputs: Sequence[str]
    parameters: Mapping[str, ParameterValue]


class InferOptions(StreamOptions, total=False):
    """What an inference may be told besides.

    idempotency_key: as for a preparation; its retries then ask the model once.
    """

    idempotency_key: str


class Outgoing(Iterator[Message]):
    """The messages of an upload, in order. gRPC hides what reading a file raised; `failure` keeps it."""

    def __init__(self, messages: Iterator[Message]) -> None:
        self._messages = messages
        self.failure: OSError | None = None

    def __next__(self) -> Message:
        try:
            return next(self._messages)
        except OSError as error:
            self.failure = error
            raise


@dataclass(frozen=True, slots=True)
class Call(Generic[ResultT]):
    """One RPC, to be made once: its name in its service, its request, and what its reply means.

    `model` is the one asked ("": none). `outgoing` is set for an upload and takes the place of
    `request`. `read` takes the reply; of a stream, each event. `repeatable`: sending it twice does no harm,
    so that it may be hedged; an upload never is, because it would travel twice. `facts` is what is told
    of the media before `request` is sent; None: the call does not ask first.
    """

    rpc: str
    model: str
    request: Message
    read: Callable[[Any], ResultT]
    outgoing: Outgoing | None = None
    repeatable: bool = False
    facts: preprocessor_pb2.EstimateRequest | None = None

    def raise_unread(self) -> None:
        """To be asked first when the call failed: raises the OSError that kept an upload from its file."""
        if self.outgoing is not None and self.outgoing.failure is not None:
            raise self.outgoing.failure


_Request: TypeAlias = preprocessor_pb2.PreprocessRequest | preprocessor_pb2.InferRequest
_WithMedia: TypeAlias = _Request | preprocessor_pb2.EstimateRequest
# What an upload is made of: the request in its first message, and then the chunks.
_Part: TypeAlias = Callable[..., Message]


@dataclass(frozen=True, slots=True)
class _Media:
    """The items of a request, and whether they came alone rather than in a list."""

    items: tuple[Item, ...]
    alone: bool

    @classmethod
    def of(cls, media: MediaItem | Sequence[MediaItem] | None) -> _Media:
        items, alone = listed(media)
        return cls(tuple(as_item(each) for each in items), alone)

    @property
    def size(self) -> int:
        """Bytes of all items, encoded."""
        return sum(item.size for item in self.items)

    def fill(
        self, request: _WithMedia, *, upload: bool, look: bool = False
    ) -> list[media_pb2.MediaInfo | None]:
        """Adds the items to the request in place: a message handed to another's constructor is copied.

        Of a 400 KB photo that takes 35 µs where this takes 8 (protobuf 6.33, upb). `look`: gives what each
        that goes inline says of itself.
        """
        infos: list[media_pb2.MediaInfo | None] = []
        for item in self.items:
            if item.uri:
                request.media.add(content_type=item.content_type, name=item.name, uri=item.uri)
                infos.append(None)
            # An empty item has no chunks to follow, so it goes inline, where the server calls it empty.
            elif upload and item.size:
                chunked = media_pb2.Chunked(total_bytes=item.size)
                request.media.add(content_type=item.content_type, name=item.name, chunked=chunked)
            else:
                data = item.read()
                request.media.add(content_type=item.content_type, name=item.name, inline=data)
                if look:
                    infos.append(facts.read(data))
        return infos

    def chunks(self, part: _Part) -> Iterator[Message]:
        for index, item in enumerate(self.items):
            for piece in item.pieces(CHUNK_BYTES):
                yield part(chunk=media_pb2.Chunk(media_index=index, data=piece))


class Calls:
    """Makes calls. Keeps what it learnt of models, to give plain inputs the types they declare.

    `priority` is that of every call on media that is not given its own; None: unsaid. `asking` says
    which calls ask first; None: none does.
    """

    def __init__(
        self, upload_threshold: int, priority: Priority | str | None = None, asking: Asking | None = None
    ) -> None:
        self._upload_threshold = upload_threshold
        self._asking = asking
        self._priority = _priority(priority)
        self._inputs: dict[str, dict[str, TensorSpec]] = {}

    def preprocess(
        self,
        model: str,
        media: MediaItem | Sequence[MediaItem],
        *,
        all_or_nothing: bool = False,
        request_id: str = "",
        data_type: str | DTypeLike | None = None,
        priority: Priority | str | None = None,
        fresh: bool = False,
        idempotency_key: str = "",
    ) -> Call[Prepared | Batch[Prepared]]:
        what = _Media.of(media)
        upload = self._is_large(what, 0)
        request = preprocessor_pb2.PreprocessRequest(
            model=model,
            all_or_nothing=all_or_nothing or what.alone,
            request_id=request_id,
            data_type=type_number(data_type),
            priority=self._priority_of(priority),
            fresh=fresh,
            idempotency_key=idempotency_key,
        )
        known = self._fill(request, what, 0, upload=upload)
        read: Callable[[Any], Prepared | Batch[Prepared]] = (
            replies.prepared_one if what.alone else partial(replies.prepared_batch, count=len(what.items))
        )
        if upload:
            part = preprocessor_pb2.PreprocessUploadRequest
            return _upload("PreprocessUpload", part, request, what, read)
        return Call("Preprocess", model, request, read, repeatable=True, facts=known)

    def infer(
        self,
        model: str,
        media: MediaItem | Sequence[MediaItem] | None,
        inputs: Mapping[str, InputValue] | None,
        *,
        idempotency_key: str = "",
        **options: Unpack[StreamOptions],
    ) -> Call[Inference | Batch[Inference]]:
        what = _Media.of(media)
        request, upload, known = self._infer_request(model, what, inputs, **options)
        request.idempotency_key = idempotency_key
        read: Callable[[Any], Inference | Batch[Inference]] = partial(
            replies.inference_one if what.alone else replies.inference_batch, count=len(what.items)
        )
        if upload:
            return _upload("InferUpload", preprocessor_pb2.InferUploadRequest, request, what, read)
        return Call("Infer", model, request, read, repeatable=bool(idempotency_key), facts=known)

    def infer_stream(
        self,
        model: str,
        media: MediaItem | Sequence[MediaItem] | None,
        inputs: Mapping[str, InputValue] | None,
        read: Callable[[preprocessor_pb2.InferStreamResponse], StreamOutputs | None],
        **options: Unpack[StreamOptions],
    ) -> Call[StreamOutputs | None]:
        what = _Media.of(media)
        request, upload, known = self._infer_request(model, what, inputs, **options)
        if upload:
            part = preprocessor_pb2.InferUploadRequest
            return _upload("InferStreamUpload", part, request, what, read)
        return Call("InferStream", model, request, read, facts=known)

    def estimate(
        self,
        model: str,
        media: MediaItem | Sequence[MediaItem] | None,
        infos: MediaInfo | Sequence[MediaInfo],
        *,
        data_type: str | DTypeLike | None = None,
        priority: Priority | str | None = None,
    ) -> Call[Estimate]:
        what = _Media.of(media)
        told = (infos,) if isinstance(infos, MediaInfo) else tuple(infos)
        if self._is_large(what, 0):
            raise ValueError(
                f"media to be told the cost of is sent in one message, of at most {self._upload_threshold} bytes; "
                f"found {what.size}. Send what is known of it as `infos` instead."
            )
        request = preprocessor_pb2.EstimateRequest(
            model=model,
            infos=[_told(info) for info in told],
            data_type=type_number(data_type),
            priority=self._priority_of(priority),
        )
        what.fill(request, upload=False)
        read = partial(replies.estimate, count=len(what.items) + len(told))
        return Call("Estimate", model, request, read, repeatable=True)

    def models(self) -> Call[list[Model]]:
        request = preprocessor_pb2.ListModelsRequest()
        return Call("ListModels", "", request, replies.models, repeatable=True)

    def model(self, name: str) -> Call[Model]:
        request = preprocessor_pb2.GetModelRequest(model=name)
        return Call("GetModel", name, request, _read_model, repeatable=True)

    def placeholder_tokens(self, name: str, sizes: Sequence[tuple[int, int]]) -> Call[list[int]]:
        asked = [preprocessor_pb2.PictureSize(width=width, height=height) for width, height in sizes]
        request = preprocessor_pb2.GetModelRequest(model=name, sizes=asked)
        return Call("GetModel", name, request, _read_tokens, repeatable=True)

    # These ask one sidecar about itself: another one's answer, to a hedge, would be about another.
    def verdict(self, upstream: str, window_s: float) -> Call[Diagnosis]:
        request = diagnostics_pb2.VerdictRequest(window_s=window_s, upstream=upstream)
        return Call("Verdict", "", request, replies.diagnosis)

    def watch(self, upstream: str, window_s: float, interval_s: float) -> Call[Diagnosis]:
        request = diagnostics_pb2.WatchVerdictRequest(
            window_s=window_s, upstream=upstream, interval_s=interval_s
        )
        return Call("WatchVerdict", "", request, replies.watched)

    def self_check(self, model: str, seconds: float) -> Call[SelfCheck]:
        request = diagnostics_pb2.SelfCheckRequest(model=model, seconds=seconds)
        return Call("SelfCheck", model, request, replies.self_check)

    def thread_plan(self) -> Call[ThreadPlan]:
        return Call("GetThreadPlan", "", diagnostics_pb2.GetThreadPlanRequest(), replies.thread_plan)

    def set_thread_plan(self, numbers: Mapping[str, int | None]) -> Call[ThreadPlan]:
        request = diagnostics_pb2.SetThreadPlanRequest(
            unset=[name for name, number in numbers.items() if number is None]
        )
        for name, number in numbers.items():
            if number is not None:
                request.numbers[name] = _number(name, number)
        return Call("SetThreadPlan", "", request, replies.thread_plan)

    def must_learn(self, model: str, inputs: Mapping[str, InputValue] | None) -> bool:
        """Whether the model's declaration is needed for these inputs and not known yet."""
        return bool(inputs) and model not in self._inputs

    def learn(self, model: Model) -> None:
        """Keeps what the model declares of its inputs; where it is not known yet, nothing."""
        if model.state is not ModelState.READY and not model.inputs:
            return
        self._inputs[model.name] = {spec.name: spec for spec in model.inputs}

    def doubt(self, model: str, error: SidecarError) -> None:
        """Forgets a model's declaration if the error says that it may have changed."""
        if isinstance(error, (InvalidInput, ModelMismatch)):
            self._inputs.pop(model, None)

    def _priority_of(self, priority: Priority | str | None) -> preprocessor_pb2.Priority.ValueType:
        return self._priority if priority is None else _priority(priority)

    def _is_large(self, what: _Media, inputs_bytes: int) -> bool:
        return what.size > 0 and what.size + inputs_bytes > self._upload_threshold

    def _fill(
        self, request: _Request, what: _Media, inputs_bytes: int, *, upload: bool
    ) -> preprocessor_pb2.EstimateRequest | None:
        """Adds the items to the request; gives what is told of it beforehand, if the call is to ask first."""
        asks = not upload and self._asking is not None and self._asking.asks(what.size + inputs_bytes)
        infos = what.fill(request, upload=upload, look=asks)
        return facts.told(request, infos) if asks else None

    def _tensors(
        self, model: str, inputs: Mapping[str, InputValue] | None
    ) -> tuple[list[media_pb2.Tensor], int]:
        """Plain inputs as tensors, and the bytes that they take in the message.

        They travel in one message, however the media does. One beyond the server's limit gRPC itself
        would refuse by RESOURCE_EXHAUSTED, which is tried again in vain; hence the ValueError here.
        """
        declared = self._inputs.get(model, {})
        tensors = [to_tensor(name, value, declared.get(name)) for name, value in (inputs or {}).items()]
        sizes = {tensor.name: tensor.ByteSize() for tensor in tensors}
        total, allowed = sum(sizes.values()), max(self._upload_threshold, CHUNK_BYTES)
        if total > allowed:
            largest = max(sizes, key=sizes.__getitem__)
            raise ValueError(
                f"inputs take {total} bytes, {sizes[largest]} of them {largest!r}, and at most {allowed} are "
                "sent, in one message. Send media as `media`, which has no such limit, or raise the "
                "client's `upload_threshold`, up to a little less than the sidecar's `server.message_bytes`."
            )
        return tensors, total

    def _infer_request(
        self,
        model: str,
        what: _Media,
        inputs: Mapping[str, InputValue] | None,
        *,
        outputs: Sequence[str] = (),
        parameters: Mapping[str, ParameterValue] | None = None,
        all_or_nothing: bool = False,
        request_id: str = "",
        priority: Priority | str | None = None,
        fresh: bool = False,
    ) -> tuple[preprocessor_pb2.InferRequest, bool, preprocessor_pb2.EstimateRequest | None]:
        """The request, whether its media follows in pieces, and what is told of it before it is sent."""
        tensors, inputs_bytes = self._tensors(model, inputs)
        upload = self._is_large(what, inputs_bytes)
        request = preprocessor_pb2.InferRequest(
            model=model,
            inputs=tensors,
            outputs=outputs,
            all_or_nothing=all_or_nothing or what.alone,
            request_id=request_id,
            parameters={name: _parameter(name, value) for name, value in (parameters or {}).items()},
            priority=self._priority_of(priority),
            fresh=fresh,
        )
        return request, upload, self._fill(request, what, inputs_bytes, upload=upload)


def _upload(
    rpc: str, part: _Part, request: _Request, what: _Media, read: Callable[[Any], ResultT]
) -> Call[ResultT]:
    first = part(request=request)
    return Call(rpc, request.model, first, read, Outgoing(chain([first], what.chunks(part))))


def _priority(priority: Priority | str | None) -> preprocessor_pb2.Priority.ValueType:
    """The contract's number. Raises ValueError for what is no priority."""
    try:
        return _PRIORITIES[None if priority is None else Priority(priority)]
    except ValueError as error:
        raise ValueError(f"priority is one of {', '.join(Priority)}; found {priority!r}") from error


def _told(info: MediaInfo) -> media_pb2.MediaInfo:
    """What a caller knows of a file, for the wire."""
    image, audio = info.image, info.audio
    return media_pb2.MediaInfo(
        modality=_MODALITIES[info.modality],
        format=info.format,
        encoded_bytes=info.encoded_bytes,
        image=None if image is None else media_pb2.ImageInfo(**asdict(image)),
        audio=None if audio is None else media_pb2.AudioInfo(**asdict(audio)),
    )


def _parameter(name: str, value: ParameterValue) -> preprocessor_pb2.Parameter:
    # bool before int: a bool is an int to Python.
    match value:
        case bool():
            return preprocessor_pb2.Parameter(bool_value=value)
        case int():
            return preprocessor_pb2.Parameter(int64_value=value)
        case float():
            return preprocessor_pb2.Parameter(double_value=value)
        case str():
            return preprocessor_pb2.Parameter(string_value=value)
        case _:
            raise TypeError(f"parameter {name!r} is a bool, int, float or str; found {type(value).__name__}")


def _read_tokens(reply: preprocessor_pb2.GetModelResponse) -> list[int]:
    return list(reply.placeholder_tokens)


def _read_model(reply: preprocessor_pb2.GetModelResponse) -> Model:
    return replies.model(reply.model)


def _number(name: str, number: int) -> int:
    """A number of a plan as it can be sent. Raises ValueError for one that cannot."""
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 1 << 31:
        raise ValueError(f"{name} is {number!r}: give a whole number, 0 or more, or None to give it back")
    return number
