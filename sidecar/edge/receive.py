"""From the wire's messages to the path's values.

It checks form only: that fields are there, sizes are within the limits, chunks belong together. What
the bytes mean is probe's business. What is wrong with one item is that item's problem; what is wrong with
the call is raised as InvalidRequest, MediaTooLarge, Overloaded or DeadlineExceeded, never as a gRPC error.

Reading a bytes field of a message copies it, so each is read once; those of a single message's media are
not in it at all (payloads.py).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from google.protobuf.message import DecodeError
from multimodal.v1 import media_pb2, preprocessor_pb2

from sidecar.deadline import Deadline
from sidecar.edge import payloads
from sidecar.entry import Asked, Verb
from sidecar.errors import DeadlineExceeded, InvalidRequest, MediaTooLarge, Overloaded, SidecarError
from sidecar.media import AudioInfo, DataType, ImageInfo, MediaInfo, Source, Tensor
from sidecar.stages.admit.limits import Limits
from sidecar.stages.admit.rates import PIXELS_PER_BYTE
from sidecar.stages.admit.turns import Priority
from sidecar.stages.deliver.upstream import ParameterValue
from sidecar.walk import Received

RequestMessage = preprocessor_pb2.PreprocessRequest | preprocessor_pb2.InferRequest
Message = TypeVar("Message", preprocessor_pb2.PreprocessRequest, preprocessor_pb2.InferRequest)
Metadata = Iterable[tuple[str, str | bytes]]
Inline = TypeVar(
    "Inline",
    preprocessor_pb2.PreprocessRequest,
    preprocessor_pb2.InferRequest,
    preprocessor_pb2.EstimateRequest,
)

_DATA_TYPES: Mapping[int, DataType] = {
    media_pb2.DataType.Value(f"DATA_TYPE_{data_type.value}"): data_type for data_type in DataType
}
# A name is echoed in messages and logs, so only so much of it.
_MOST_OF_A_NAME = 64
# Inputs, outputs or parameters of a call: far more than any model has. Out of the air.
_MOST_OF_A_KIND = 256


@dataclass(frozen=True, slots=True)
class Link:
    """Media that is to be fetched by its address. `field` is where the request has it."""

    uri: str
    content_type: str
    label: str
    field: str


class UploadPart(Protocol):
    """One message of an upload: the request, or a chunk."""

    @property
    def request(self) -> RequestMessage: ...
    @property
    def chunk(self) -> media_pb2.Chunk: ...


@dataclass(slots=True)
class UploadRoom:
    """Memory that all uploads under way may hold together, and how long one may be silent.

    `most_bytes` is bytes and `idle_s` seconds; `held` is what they hold now, by the chunks that came.
    """

    most_bytes: int
    idle_s: float
    held: int = 0

    def take(self, count: int) -> None:
        """Raises Overloaded where the room is full."""
        if self.held + count > self.most_bytes:
            raise Overloaded(
                f"uploads under way hold {self.held} bytes and `server.uploads_bytes` is {self.most_bytes}: "
                "try again after the hinted time, or add replicas",
                # Uploads take about as long as their callers' networks need; out of the air.
                retry_after_s=1.0,
            )
        self.held += count

    def give_back(self, count: int) -> None:
        self.held -= count


# A message of them stays far below a page of replies; out of the air.
_MOST_SIZES = 1024


def sizes(message: preprocessor_pb2.GetModelRequest) -> tuple[tuple[int, int], ...]:
    """The (width, height) asked about. Raises InvalidRequest where there are too many, or a side is none."""
    if len(message.sizes) > _MOST_SIZES:
        raise InvalidRequest(
            f"the request asks about {len(message.sizes)} sizes, and at most {_MOST_SIZES} are taken at once",
            field="sizes",
            found=len(message.sizes),
            allowed=_MOST_SIZES,
        )
    for place, size in enumerate(message.sizes):
        if not (size.width and size.height):
            raise InvalidRequest(
                f"size {place} is {size.width}x{size.height}: both sides must be at least 1 pixel",
                field=f"sizes[{place}]",
            )
    return tuple((size.width, size.height) for size in message.sizes)


def asked(verb: Verb, message: RequestMessage, deadline: Deadline, tenant: str = "") -> Asked:
    """What is asked, all but the media. Raises InvalidRequest where the message is malformed."""
    if not message.model:
        raise InvalidRequest("the request names no model: set `model`", field="model")
    _check_counts(message)
    _check_key(verb, message)
    common: dict[str, Any] = {
        "verb": verb,
        "model": message.model,
        "items": len(message.media),
        "deadline": deadline,
        "all_or_nothing": message.all_or_nothing,
        "request_id": message.request_id,
        "tenant": tenant,
        "fresh": message.fresh,
        "idempotency_key": message.idempotency_key,
    }
    if isinstance(message, preprocessor_pb2.PreprocessRequest):
        return Asked(
            **common, data_type=_wanted_type(message.data_type), priority=_priority(message.priority)
        )
    parameters = {name: _parameter(name, value) for name, value in message.parameters.items()}
    return Asked(
        **common,
        inputs=tuple(_tensor(tensor) for tensor in message.inputs),
        outputs=tuple(message.outputs),
        parameters=parameters,
        priority=_priority(message.priority, parameters.get("priority", 0)),
    )


# Tenants are labels of books that are kept; a name is a name. Characters.
_MOST_OF_A_TENANT = 128


def tenant(metadata: Metadata | None, key: str) -> str:
    """The tenant that a call's metadata names; empty where it names none, or `key` is empty."""
    if key:
        for name, value in metadata or ():
            if name == key:
                return str(value)[:_MOST_OF_A_TENANT]
    return ""


# What a caller may say of a call before its message: facts of its media, an EstimateRequest, and that it
# waits for initial metadata before it sends any of it.
_FACTS_KEY, _ASKS_KEY = "x-media-facts-bin", "x-media-ask-first"


def trace(metadata: Metadata | None) -> tuple[str, str]:
    """What a caller's metadata says of the trace that it is part of: `traceparent` and `tracestate`, or empty texts."""
    parent, states = "", []
    for key, value in metadata or ():
        if key == "traceparent" and isinstance(value, str):
            parent = value
        elif key == "tracestate" and isinstance(value, str):
            states.append(value)  # several are one list (W3C Trace Context, section 3.3.1)
    return parent, ",".join(states)


def facts(metadata: Metadata | None) -> preprocessor_pb2.EstimateRequest | None:
    """What a call's metadata says of its media; None where it says nothing, or nothing that can be read."""
    for name, value in metadata or ():
        if name == _FACTS_KEY and isinstance(value, bytes):
            try:
                return preprocessor_pb2.EstimateRequest.FromString(value)
            except DecodeError:
                return None
    return None


def asks_first(metadata: Metadata | None) -> bool:
    """Whether a caller waits to be let in before it sends media."""
    return any(name == _ASKS_KEY for name, _ in metadata or ())


def estimated(message: preprocessor_pb2.EstimateRequest, deadline: Deadline, tenant: str = "") -> Asked:
    """A call as an estimate asks about it. Raises InvalidRequest where the message is malformed."""
    if not message.model:
        raise InvalidRequest("the request names no model: set `model`", field="model")
    return Asked(
        verb=Verb.PREPROCESS,
        model=message.model,
        items=len(message.media) + len(message.infos),
        deadline=deadline,
        data_type=_wanted_type(message.data_type),
        tenant=tenant,
        priority=_priority(message.priority),
    )


_PRIORITIES: Mapping[int, Priority] = {
    preprocessor_pb2.PRIORITY_PROBE: Priority.PROBE,
    preprocessor_pb2.PRIORITY_INTERACTIVE: Priority.INTERACTIVE,
    preprocessor_pb2.PRIORITY_BATCH: Priority.BATCH,
}
# Triton's levels begin at 1, the highest; 0 is the model's default. From here on nobody is in a hurry.
_FIRST_BATCH_LEVEL = 2


def _priority(number: int, level: ParameterValue = 0) -> Priority:
    """What the request says, else what its level in Triton's sense says."""
    if number == preprocessor_pb2.PRIORITY_UNSPECIFIED:
        return priority_of(level)
    if number not in _PRIORITIES:
        raise InvalidRequest(
            f"`priority` {number} is not known here: use one of the contract's", field="priority"
        )
    return _PRIORITIES[number]


def priority_of(level: ParameterValue) -> Priority:
    """What a level in Triton's sense says. Raises InvalidRequest where it is none."""
    if not isinstance(level, int) or isinstance(level, bool) or level < 0:
        raise InvalidRequest(
            f"parameter 'priority' is {level!r}: it must be a whole number from 0, in the model server's sense",
            field="parameters['priority']",
        )
    return Priority.BATCH if level >= _FIRST_BATCH_LEVEL else Priority.INTERACTIVE


def _check_key(verb: Verb, message: RequestMessage) -> None:
    if message.idempotency_key and verb is Verb.INFER_STREAM:
        raise InvalidRequest(
            "a streamed answer is not stored: leave `idempotency_key` out, or ask through Infer",
            field="idempotency_key",
        )


def _check_counts(message: RequestMessage) -> None:
    """Before anything is made of them: a few megabytes can name millions of inputs or parameters."""
    for field in ("inputs", "outputs", "parameters"):
        count = len(getattr(message, field, ()))
        if count > _MOST_OF_A_KIND:
            raise InvalidRequest(
                f"the request brings {count} {field}, and {_MOST_OF_A_KIND} are allowed: leave out what the "
                "model does not take",
                field=field,
            )


def _wanted_type(number: int) -> DataType | None:
    if number == media_pb2.DATA_TYPE_UNSPECIFIED:
        return None
    if number not in _DATA_TYPES:
        raise InvalidRequest(
            f"`data_type` {number} is not known here: use one of the contract's", field="data_type"
        )
    return _DATA_TYPES[number]


def content_of(asked: Asked, received: Sequence[Received]) -> Iterator[bytes | memoryview]:
    """All that decides the answer to a call, in pieces: what makes a retry of it the same call."""
    yield repr(
        (
            asked.verb,
            asked.model,
            asked.data_type,
            asked.all_or_nothing,
            asked.outputs,
            sorted(asked.parameters.items()),
        )
    ).encode()
    for tensor in asked.inputs:
        yield repr((tensor.name, tensor.data_type, tensor.shape)).encode()
        yield tensor.data
    for one in received:
        yield one.content_type.encode() if isinstance(one, Source) else one.message.encode()
        yield one.data if isinstance(one, Source) else b""


def infos(message: preprocessor_pb2.EstimateRequest) -> list[MediaInfo | SidecarError]:
    """Facts of media that was not sent; what they leave out is left for cost to guess."""
    return [_info(place, info) for place, info in enumerate(message.infos)]


# Of sound whose rate is not told. Hertz.
_USUAL_RATE = 44_100


def _info(place: int, info: media_pb2.MediaInfo) -> MediaInfo | SidecarError:
    match info.modality:
        case media_pb2.MODALITY_IMAGE:
            image = info.image
            side = max(1, math.isqrt(int(PIXELS_PER_BYTE * info.encoded_bytes)))
            known = image.width and image.height
            return ImageInfo(
                format=info.format,
                encoded_bytes=info.encoded_bytes,
                width=image.width if known else side,
                height=image.height if known else side,
                mode=image.mode or "RGB",
                orientation=image.orientation or 1,
                frames=image.frames or 1,
                progressive=image.progressive,
                subsampling=image.subsampling,
            )
        case media_pb2.MODALITY_AUDIO:
            audio = info.audio
            return AudioInfo(
                format=info.format,
                encoded_bytes=info.encoded_bytes,
                codec=audio.codec,
                sample_rate=audio.sample_rate or _USUAL_RATE,
                channels=audio.channels or 1,
                duration_s=audio.duration_s or None,
            )
    return InvalidRequest(
        f"info {place} has no `modality`: say whether it is an image or a sound",
        field=f"infos[{place}].modality",
    )


def inline(request: payloads.Request[Inline], limits: Limits) -> list[Received | Link]:
    """The media of a request that is one message."""
    return [_inline(index, item, request.inline, limits) for index, item in enumerate(request.message.media)]


def unfetched(received: Iterable[Received | Link]) -> list[Received]:
    """The media of a request for which nothing is fetched."""
    return [
        InvalidRequest(
            f"{each.label} is to be fetched by its `uri`, which this call does not: send its bytes, or its `infos`",
            field=each.field,
        )
        if isinstance(each, Link)
        else each
        for each in received
    ]


def _inline(
    index: int, item: media_pb2.Media, read: Callable[[int], bytes | memoryview], limits: Limits
) -> Received | Link:
    label = _label(index, item)
    if item.WhichOneof("source") == "uri":
        return Link(item.uri, item.content_type, label, f"media[{index}].uri")
    if item.WhichOneof("source") != "inline":
        return InvalidRequest(
            f"{label} has no inline bytes: set `inline` or `uri`, or use an Upload call for chunked media",
            field=f"media[{index}].source",
        )
    data = read(index)
    try:
        limits.check_size(len(data), label)
    except MediaTooLarge as problem:
        return problem
    return Source(data, item.content_type, label)


class Assembly:
    """Collects the chunks of an upload, within the limits from the first byte on."""

    def __init__(self, media: Sequence[media_pb2.Media], limits: Limits, room: UploadRoom) -> None:
        self._media = media
        self._limits = limits
        self._room = room
        self._held = 0
        self._chunks: dict[int, list[bytes]] = {}
        self._sizes: dict[int, int] = {}
        self._problems: dict[int, SidecarError] = {}
        for index, item in enumerate(media):
            if item.WhichOneof("source") == "chunked":
                self._chunks[index] = []
                self._sizes[index] = 0
                self._check(index, item.chunked.total_bytes)

    @property
    def hopeless(self) -> bool:
        """Whether every item that is to come has its problem already, so that no chunk can help."""
        return self._problems.keys() == self._chunks.keys()

    def add(self, chunk: media_pb2.Chunk) -> None:
        """Takes the next piece of an item; pieces of an item that has its problem are dropped."""
        index, data = chunk.media_index, chunk.data
        if index not in self._chunks:
            raise InvalidRequest(
                f"a chunk names media {index}, which is not a `chunked` item of the request",
                field="chunk.media_index",
            )
        self._sizes[index] += len(data)
        self._check(index, self._sizes[index])
        if index in self._problems:
            return
        if self._held + len(data) > self._limits.upload_bytes:
            raise MediaTooLarge(
                f"the upload's items together pass the limit `limits.upload_bytes` {self._limits.upload_bytes}: "
                "send them in several requests, or raise the limit",
                limit="limits.upload_bytes",
                allowed=self._limits.upload_bytes,
                found=self._held + len(data),
            )
        self._room.take(len(data))
        self._held += len(data)
        self._chunks[index].append(data)

    def received(self) -> list[Received | Link]:
        """All items, once the last chunk is in; the chunks are let go of as they are joined."""
        return [self._received(index, item) for index, item in enumerate(self._media)]

    def close(self) -> None:
        """Gives the room back."""
        self._room.give_back(self._held)
        self._held = 0

    def _received(self, index: int, item: media_pb2.Media) -> Received | Link:
        if index not in self._chunks:
            return _inline(index, item, lambda index: self._media[index].inline, self._limits)
        announced, sent = item.chunked.total_bytes, self._sizes[index]
        if index not in self._problems and announced and sent != announced:
            self._problems[index] = InvalidRequest(
                f"{_label(index, item)} announced {announced} bytes and sent {sent}: "
                "the upload was cut short or miscounted",
                field=f"media[{index}].chunked.total_bytes",
            )
        if index in self._problems:
            return self._problems[index]
        return Source(b"".join(self._chunks.pop(index)), item.content_type, _label(index, item))

    def _check(self, index: int, size: int) -> None:
        if index not in self._problems:
            try:
                self._limits.check_size(size, _label(index, self._media[index]))
            except MediaTooLarge as problem:
                self._problems[index] = problem
                self._chunks[index].clear()


async def first_part(parts: AsyncIterator[UploadPart], room: UploadRoom, kind: type[Message]) -> Message:
    """The request of an upload. Raises InvalidRequest when the stream begins otherwise."""
    part = await _next(parts, room)
    if part is not None and _which(part) == "request" and isinstance(part.request, kind):
        return part.request
    raise InvalidRequest("an upload begins with the `request`, then its chunks", field="part")


async def collect(
    parts: AsyncIterator[UploadPart], assembly: Assembly, room: UploadRoom
) -> list[Received | Link]:
    """The media of an upload, from the chunks that follow its request."""
    while not assembly.hopeless and (part := await _next(parts, room)) is not None:
        if _which(part) != "chunk":
            raise InvalidRequest("after the `request` an upload brings chunks only", field="part")
        assembly.add(part.chunk)
    return assembly.received()


async def _next(parts: AsyncIterator[UploadPart], room: UploadRoom) -> UploadPart | None:
    """The next message of an upload, None at its end. Raises DeadlineExceeded for a silent caller."""
    try:
        async with asyncio.timeout(room.idle_s):
            return await anext(parts, None)
    except TimeoutError:
        raise DeadlineExceeded(
            f"the upload brought nothing for `server.upload_idle_s` {room.idle_s:g} s: send its chunks without pauses",
            stage="receive",
        ) from None


def _which(part: UploadPart) -> str | None:
    which: str | None = part.WhichOneof("part")  # type: ignore[attr-defined]  # every upload message has it
    return which


def _label(index: int, item: media_pb2.Media) -> str:
    if not item.name:
        return f"item {index}"
    name = "".join(letter if letter.isprintable() else "?" for letter in item.name[:_MOST_OF_A_NAME])
    return f"item {index} ({name})"


def _tensor(message: media_pb2.Tensor) -> Tensor:
    data_type = _DATA_TYPES.get(message.data_type)
    if data_type is None:
        raise InvalidRequest(
            f"input {message.name[:_MOST_OF_A_NAME]!r} states no data type known here: set `data_type`",
            field=f"inputs[{message.name}].data_type",
        )
    return Tensor(message.name, data_type, tuple(message.shape), message.data)


def _parameter(name: str, message: preprocessor_pb2.Parameter) -> ParameterValue:
    which = message.WhichOneof("value")
    if which is None:
        raise InvalidRequest(f"parameter {name!r} has no value", field=f"parameters[{name}]")
    value: ParameterValue = getattr(message, which)
    return value
