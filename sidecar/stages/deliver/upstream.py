"""The model server as the path sees it: describe a model, ask it once, or ask it for a stream.

Nothing here knows which protocol is spoken. Every method raises only UpstreamError's leaves and
DeadlineExceeded, and leaves cancellation alone: cancelling the awaiting task cancels the call there.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from sidecar.deadline import Deadline
from sidecar.media import Tensor, TensorSpec

ParameterValue = bool | int | float | str


@dataclass(frozen=True, slots=True)
class Signature:
    """What a model server says of a model: its inputs and outputs, without the batch axis.

    `max_batch_size` counts rows, 0 where the model does not batch; then shapes are whole.
    """

    model: str
    version: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int
    decoupled: bool


@dataclass(frozen=True, slots=True)
class Call:
    """One request to a model server. Tensors carry the batch axis wherever the model batches.

    `version` empty takes the server's choice; `outputs` empty takes all.
    """

    model: str
    inputs: tuple[Tensor, ...]
    version: str = ""
    outputs: tuple[str, ...] = ()
    request_id: str = ""
    parameters: Mapping[str, ParameterValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """One response of a model server, and which model and version gave it."""

    outputs: tuple[Tensor, ...]
    model: str
    version: str


class Upstream(Protocol):
    """A model server."""

    async def describe(self, model: str, version: str, deadline: Deadline) -> Signature:
        """Reads the model's names, types, shapes, batching and decoupled-ness from the server."""
        ...

    async def infer(self, call: Call, deadline: Deadline) -> Answer:
        """Asks once. A decoupled model is an UpstreamUnimplemented error."""
        ...

    def stream(self, call: Call, deadline: Deadline) -> AsyncGenerator[Answer, None]:
        """Asks, and yields every response until the model's last; closing the iterator cancels it."""
        ...

    async def close(self) -> None:
        """Lets go of the connection; calls under way are cancelled."""
        ...
