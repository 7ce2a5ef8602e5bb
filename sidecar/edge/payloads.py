"""Media and tensors pass beside protobuf: a message is read and laid around its large bytes fields.

protobuf copies a bytes field when it parses a message, again when the field is read, once more when it is
set, and last when the message is serialised. Here a request's media stays where gRPC put it, and a reply's
tensors go from the arena into the reply in one copy. Measured on two busy cores, 640 KB in and 600 KB out:
see docs/design. What is laid is valid protobuf, and what cannot be read so is left to protobuf whole, so
that there is one contract and nothing is decided here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from google.protobuf.message import Message
from multimodal.v1 import media_pb2, preprocessor_pb2

from sidecar.edge.fields import LENGTH_DELIMITED, Field, Part, fields
from sidecar.media import Tensor
from sidecar.stages.deliver.wire import varint

Read = TypeVar(
    "Read",
    preprocessor_pb2.PreprocessRequest,
    preprocessor_pb2.InferRequest,
    preprocessor_pb2.EstimateRequest,
)

# Smaller requests are parsed whole: two copies of 16 KiB take less time than one walk over fields.
_LEAST_BYTES = 16 * 1024
# Fields that are walked over before protobuf is left to do it all: walking is Python, a microsecond a field,
# and a hostile message may have millions.
_MOST_FIELDS = 512


@dataclass(frozen=True, slots=True)
class Request(Generic[Read]):
    """A request as it was read. `media` has the inline bytes of each item that were left out of the message,
    None for an item that is whole in it; empty where all are.
    """

    message: Read
    media: Sequence[memoryview | None] = ()

    def inline(self, index: int) -> Part:
        """The inline bytes of an item."""
        apart = self.media[index] if self.media else None
        return self.message.media[index].inline if apart is None else apart


def read_request(kind: type[Read], raw: bytes) -> Request[Read]:
    """A request from its bytes. Raises DecodeError where they are none."""
    if len(raw) >= _LEAST_BYTES:
        walked = _Walk(kind.DESCRIPTOR.fields_by_name["media"].number).request(raw)
        if walked is not None:
            rest, media = walked
            return Request(kind.FromString(rest), media)
    return Request(kind.FromString(raw))


class _Walk:
    """One walk over a request's fields, within bounds; None stands for: let protobuf do it."""

    def __init__(self, media_field: int) -> None:
        self._media_field = media_field
        self._left = _MOST_FIELDS

    def request(self, raw: bytes) -> tuple[bytes, list[memoryview | None]] | None:
        """The request without its media's inline bytes, and those bytes."""
        view = memoryview(raw)
        parts: list[Part] = []
        media: list[memoryview | None] = []
        fields = self._fields(view)
        if fields is None:
            return None
        for number, whole, content in fields:
            if number != self._media_field:
                parts.append(whole)
                continue
            item = None if content is None else self._item(content)
            if item is None:
                return None
            rest, inline = item
            parts += laid(self._media_field, rest)
            media.append(inline)
        return b"".join(parts), media

    def _item(self, view: memoryview) -> tuple[list[Part], memoryview | None] | None:
        """A media item's fields, its inline bytes made empty, and those bytes."""
        fields = self._fields(view)
        if fields is None:
            return None
        inline = [content for number, _, content in fields if number == _INLINE]
        others = {number for number, _, _ in fields}
        if not inline:
            return [view], None
        if len(inline) > 1 or inline[0] is None or others & _OTHER_SOURCES:
            return None  # of several sources the last counts: protobuf's rule, and protobuf's work
        rest = [whole for number, whole, _ in fields if number != _INLINE]
        return [*rest, *laid(_INLINE, ())], inline[0]

    def _fields(self, view: memoryview) -> list[Field] | None:
        found = fields(view, self._left)
        self._left -= len(found or ())
        return found


def laid(number: int, parts: Iterable[Part]) -> list[Part]:
    """A length-delimited field around its content."""
    content = list(parts)
    return [varint(number << 3 | LENGTH_DELIMITED), varint(sum(map(len, content))), *content]


def tensor(value: Tensor, data_type: int) -> list[Part]:
    """A serialised `Tensor` of the contract, its data last."""
    head = media_pb2.Tensor(name=value.name, data_type=data_type, shape=value.shape)  # type: ignore[arg-type]  # a number of the enum
    data = value.data.cast("B") if isinstance(value.data, memoryview) else value.data
    return [head.SerializeToString(), *laid(_DATA, [data])]


def number_of(kind: type[Message], field: str) -> int:
    """A field's number in the contract."""
    return int(kind.DESCRIPTOR.fields_by_name[field].number)


def serialized(reply: Any) -> bytes:  # noqa: ANN401 - a message of any kind
    """A reply's bytes: those that were laid here, or a message's."""
    if isinstance(reply, bytes):
        return reply
    laid_by_protobuf: bytes = reply.SerializeToString()
    return laid_by_protobuf


_INLINE: Final = number_of(media_pb2.Media, "inline")
_OTHER_SOURCES: Final = frozenset({number_of(media_pb2.Media, "chunked"), number_of(media_pb2.Media, "uri")})
_DATA: Final = number_of(media_pb2.Tensor, "data")
