"""From the wire's messages to the path's values.

It checks form only: that fields are there, sizes are within the limits, chunks belong together. What
the bytes mean is probe's business. It raises InvalidRequest and MediaTooLarge, never a gRPC error.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol, TypeVar

from multimodal.v1 import media_pb2, preprocessor_pb2

from sidecar.deadline import Deadline
from sidecar.errors import InvalidRequest, MediaTooLarge
from sidecar.media import DataType, Source, Tensor
from sidecar.pipeline import Request
from sidecar.stages.admit.limits import Limits
from sidecar.stages.deliver.upstream import ParameterValue

RequestMessage = preprocessor_pb2.PreprocessRequest | preprocessor_pb2.InferRequest
Message = TypeVar("Message", preprocessor_pb2.PreprocessRequest, preprocessor_pb2.InferRequest)

_DATA_TYPES: Mapping[int, DataType] = {
    media_pb2.DataType.Value(f"DATA_TYPE_{data_type.value}"): data_type for data_type in DataType
}


class UploadPart(Protocol):
    """One message of an upload: the request, or a chunk."""

    @property
    def request(self) -> RequestMessage: ...
    @property
    def chunk(self) -> media_pb2.Chunk: ...


def request(message: RequestMessage, sources: tuple[Source, ...], deadline: Deadline) -> Request:
    """The path's request, from the message and its media."""
    match message:
        case preprocessor_pb2.InferRequest():
            return Request(
                model=message.model,
                sources=sources,
                deadline=deadline,
                inputs=tuple(_tensor(tensor) for tensor in message.inputs),
                outputs=tuple(message.outputs),
                all_or_nothing=message.all_or_nothing,
                request_id=message.request_id,
                parameters={name: _parameter(name, value) for name, value in message.parameters.items()},
            )
        case _:
            return Request(
                model=message.model,
                sources=sources,
                deadline=deadline,
                all_or_nothing=message.all_or_nothing,
                request_id=message.request_id,
            )


def check_named(message: RequestMessage) -> None:
    """Raises InvalidRequest when no model is named."""
    if not message.model:
        raise InvalidRequest("the request names no model: set `model`", field="model")


def inline_sources(media: Sequence[media_pb2.Media], limits: Limits) -> tuple[Source, ...]:
    """The media of a request that is one message. An item whose bytes are missing is an error of the call."""
    sources = []
    for index, item in enumerate(media):
        label = _label(index, item)
        if item.WhichOneof("source") != "inline":
            raise InvalidRequest(
                f"{label} has no inline bytes: set `inline`, or use an Upload call for chunked media",
                field=f"media[{index}].source",
            )
        limits.check_size(len(item.inline), label)
        sources.append(Source(item.inline, item.content_type, label))
    return tuple(sources)


class Assembly:
    """Collects the chunks of an upload, within the limits from the first byte on."""

    def __init__(self, media: Sequence[media_pb2.Media], limits: Limits) -> None:
        self._media = media
        self._limits = limits
        self._parts: dict[int, bytearray] = {}
        for index, item in enumerate(media):
            match item.WhichOneof("source"):
                case "chunked":
                    limits.check_size(item.chunked.total_bytes, _label(index, item))
                    self._parts[index] = bytearray()
                case "inline":
                    limits.check_size(len(item.inline), _label(index, item))
                case _:
                    raise InvalidRequest(
                        f"{_label(index, item)} has no bytes: set `inline` or `chunked`",
                        field=f"media[{index}].source",
                    )
        self._held = sum(len(item.inline) for item in media)

    def add(self, chunk: media_pb2.Chunk) -> None:
        """Takes the next piece of an item."""
        part = self._parts.get(chunk.media_index)
        if part is None:
            raise InvalidRequest(
                f"a chunk names media {chunk.media_index}, which is not a `chunked` item of the request",
                field="chunk.media_index",
            )
        item = self._media[chunk.media_index]
        self._limits.check_size(len(part) + len(chunk.data), _label(chunk.media_index, item))
        self._held += len(chunk.data)
        if self._held > self._limits.upload_bytes:
            raise MediaTooLarge(
                f"the upload's items together pass the limit `limits.upload_bytes` {self._limits.upload_bytes}: "
                "send them in several requests, or raise the limit",
                limit="limits.upload_bytes",
                allowed=self._limits.upload_bytes,
                found=self._held,
            )
        part += chunk.data

    def sources(self) -> tuple[Source, ...]:
        """All items, once the last chunk is in. Raises InvalidRequest where an announced length is missed."""
        sources = []
        for index, item in enumerate(self._media):
            label = _label(index, item)
            data = item.inline if index not in self._parts else bytes(self._parts.pop(index))
            announced = item.chunked.total_bytes
            if announced and len(data) != announced:
                raise InvalidRequest(
                    f"{label} announced {announced} bytes and sent {len(data)}: the upload was cut short or miscounted",
                    field=f"media[{index}].chunked.total_bytes",
                )
            sources.append(Source(data, item.content_type, label))
        return tuple(sources)


async def first_part(parts: AsyncIterator[UploadPart], kind: type[Message]) -> Message:
    """The request of an upload. Raises InvalidRequest when the stream begins otherwise."""
    async for part in parts:
        if _which(part) == "request" and isinstance(part.request, kind):
            return part.request
        break
    raise InvalidRequest("an upload begins with the `request`, then its chunks", field="part")


async def collect(parts: AsyncIterator[UploadPart], assembly: Assembly) -> tuple[Source, ...]:
    """The media of an upload, from the chunks that follow its request."""
    async for part in parts:
        if _which(part) != "chunk":
            raise InvalidRequest("after the `request` an upload brings chunks only", field="part")
        assembly.add(part.chunk)
    return assembly.sources()


def _which(part: UploadPart) -> str | None:
    which: str | None = part.WhichOneof("part")  # type: ignore[attr-defined]  # every upload message has it
    return which


def _label(index: int, item: media_pb2.Media) -> str:
    return f"item {index} ({item.name[:64]})" if item.name else f"item {index}"


def _tensor(message: media_pb2.Tensor) -> Tensor:
    data_type = _DATA_TYPES.get(message.data_type)
    if data_type is None:
        raise InvalidRequest(
            f"input {message.name!r} states no data type: set `data_type`",
            field=f"inputs[{message.name}].data_type",
        )
    return Tensor(message.name, data_type, tuple(message.shape), message.data)


def _parameter(name: str, message: preprocessor_pb2.Parameter) -> ParameterValue:
    which = message.WhichOneof("value")
    if which is None:
        raise InvalidRequest(f"parameter {name!r} has no value", field=f"parameters[{name}]")
    value: ParameterValue = getattr(message, which)
    return value
