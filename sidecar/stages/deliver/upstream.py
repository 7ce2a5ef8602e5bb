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
from sidecar.observe.starvation import Counters

ParameterValue = bool | int | float | str


@dataclass(frozen=True, slots=True)
class Signature:
    """What a model server says of a model: its inputs and outputs, without the batch axis.

    `max_batch_size` counts rows, 0 where the model does not batch; then shapes are whole. `batch_delay_us`: how long
    it waits for a batch to fill, in microseconds; `instances`: how many batches it runs at once.
    """

    model: str
    version: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int
    decoupled: bool
    batch_delay_us: int = 0
    instances: int = 1


class Slot(Protocol):
    """A leased piece of the arena, as far as deliver knows it. It is free again when every holder released it.

    `offset` is bytes from the arena's start; `view` is its memory, writable, as many bytes as were asked for.
    """

    @property
    def offset(self) -> int: ...
    @property
    def view(self) -> memoryview: ...

    def retain(self) -> None:
        """Takes part in holding it: one more `release` is needed."""
        ...

    def release(self) -> None:
        """Ends one holder's part."""
        ...

    def pin(self) -> None:
        """Says that another process may touch it: however long that takes, it is not given out meanwhile."""
        ...

    def unpin(self) -> None:
        """Takes one `pin` back: that process is done with it."""
        ...


class SharedMemory(Protocol):
    """The arena, as far as deliver knows it: a POSIX shared-memory object that a model server can open."""

    @property
    def name(self) -> str:
        """What shm_open takes, without the slash."""
        ...

    @property
    def size(self) -> int:
        """Bytes of the whole."""
        ...

    @property
    def predecessors(self) -> tuple[str, ...]:
        """Names of objects that dead processes left and that were removed at this one's start."""
        ...

    def try_take(self, nbytes: int) -> Slot | None:
        """A slot, if there is room this instant; never waits."""
        ...


@dataclass(frozen=True, slots=True)
class Call:
    """One request to a model server. Tensors carry the batch axis wherever the model batches.

    `version` empty takes the server's choice; `outputs` empty takes all. `slots` lie under those inputs that
    are in the arena; the upstream retains them for as long as the model server may read them. `signature`
    is the model's own, where it is known: output sizes are foretold from it. `headers` go along with the request: the
    W3C trace context of who asks. `classes`: how many of an output's highest classes are wanted in its place.
    """

    model: str
    inputs: tuple[Tensor, ...]
    version: str = ""
    outputs: tuple[str, ...] = ()
    request_id: str = ""
    parameters: Mapping[str, ParameterValue] = field(default_factory=dict)
    slots: tuple[Slot, ...] = ()
    signature: Signature | None = None
    headers: tuple[tuple[str, str], ...] = ()
    classes: Mapping[str, int] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """The rows of the batch that it is; 1 for a model that does not batch."""
        batches = self.signature is not None and self.signature.max_batch_size > 0
        return self.inputs[0].shape[0] if batches and self.inputs else 1


@dataclass(frozen=True, slots=True)
class Answer:
    """One response of a model server, and which model and version gave it.

    `slots` lie under those outputs that are in the arena; who has the answer releases them, once.
    """

    outputs: tuple[Tensor, ...]
    model: str
    version: str
    slots: tuple[Slot, ...] = ()


class Upstream(Protocol):
    """A model server."""

    async def describe(self, model: str, version: str, deadline: Deadline) -> Signature:
        """Reads the model's names, types, shapes, batching and decoupled-ness from the server."""
        ...

    async def counters(self, model: str, version: str, deadline: Deadline) -> Counters:
        """What the server counted of a model. UpstreamUnimplemented where it does not count."""
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
