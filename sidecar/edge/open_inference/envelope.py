"""Triton's messages as they are passed on: which model is meant and which memory is spoken of, contents unread. Pure.

A message is walked once, and none of it is copied but to name another model. Nothing is decided here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

from sidecar.edge.fields import LENGTH_DELIMITED, Field, fields
from sidecar.errors import InvalidRequest
from sidecar.stages.deliver.wire import varint

REGION: Final = "shared_memory_region"
"""The parameter of an input or output that names its region of shared memory."""
RAW_INPUTS: Final = 7
"""The field of a request with the contents of inputs."""
_MODEL, _VERSION = 1, 2
# Of a message's fields; past them protobuf reads it whole.
_MOST_FIELDS: Final = 512


@dataclass(frozen=True, slots=True)
class Envelope:
    """A serialised message about a model; `fields` is None where it cannot be walked and protobuf is to read it."""

    raw: bytes
    fields: list[Field] | None

    @classmethod
    def of(cls, raw: bytes) -> Envelope:
        """Walks over a message."""
        return cls(raw, fields(memoryview(raw), _MOST_FIELDS))

    def model(self) -> str:
        """The model that is meant; every kind of message about one has its name as the first field.

        Raises InvalidRequest for what is no message.
        """
        if self.fields is None:
            return str(parsed(self.raw).model_name)
        name: memoryview | bytes = b""
        for number, _, content in self.fields:
            if number == _MODEL and content is not None:
                name = content
        try:
            return str(name, "utf-8")
        except UnicodeDecodeError as error:
            raise InvalidRequest("the model's name is not UTF-8", field="model_name") from error

    def aimed(self, model: str, version: str) -> bytes:
        """The same message about another model; `version` empty leaves the one that it has."""
        if self.fields is None:
            message = parsed(self.raw)
            message.model_name = model
            message.model_version = version or message.model_version
            serialised: bytes = message.SerializeToString()
            return serialised
        replaced = {_MODEL, _VERSION} if version else {_MODEL}
        rest = [whole for number, whole, _ in self.fields if number not in replaced]
        return b"".join([*_text(_MODEL, model), *(_text(_VERSION, version) if version else ()), *rest])

    def called(self, model: str) -> bytes:
        """The same response under another name for its model; as it is where it cannot be walked."""
        return self.raw if self.fields is None else self.aimed(model, "")

    def speaks_of(self, prefix: str) -> bool:
        """Whether a request names a region of shared memory that begins so. Contents are not looked at."""
        wanted, region = prefix.encode(), REGION.encode()
        parts = (
            (self.raw,)
            if self.fields is None
            else (bytes(whole) for number, whole, _ in self.fields if number != RAW_INPUTS)
        )
        return any(region in part and wanted in part for part in parts)


def parsed(raw: bytes) -> service_pb2.ModelInferRequest:
    """A request as protobuf reads it. Raises InvalidRequest."""
    try:
        return service_pb2.ModelInferRequest.FromString(raw)
    except DecodeError as error:
        raise InvalidRequest("the message is not one of Triton's protocol", field="") from error


def _text(number: int, text: str) -> tuple[bytes, bytes, bytes]:
    encoded = text.encode()
    return varint(number << 3 | LENGTH_DELIMITED), varint(len(encoded)), encoded
