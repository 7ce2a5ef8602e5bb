"""A KServe v2 server whose every answer is written down beforehand: for faults a real Triton cannot show.

It is a real gRPC server on a real socket, so what a client meets is what a network gives; only the
answers are scripted. Use the real Triton for what a model server does, and this for what it should
not do: a status on demand, a reply that is late, malformed or cut short, a connection that dies.

    async with scripted() as server:
        server.will(Hold(), Say(response))     # the next inference waits, then answers
        ...
        server.will(Fail(StatusCode.INTERNAL, "no"))
        server.cut()                           # every connection is reset; new ones are refused
        server.mend()                          # until now

Each call of ModelInfer or ModelStreamInfer plays the oldest script not yet played, step by step, and
leaves a Seen. A caller that goes away does not end its script, as it does not end Triton's work: a
Hold then notes it in `Seen.cancelled`, and the answer goes nowhere. A call without a script fails with
FAILED_PRECONDITION, which means a mistake in the test. ModelMetadata, ModelConfig and ServerMetadata
answer from `metadata`, `config` and `about`; None there is UNIMPLEMENTED, as from a server without that call.

Shared memory is registered and unregistered as Triton does it, in words and in status, by name alone:
nothing is mapped. `refuses` answers instead where it is set, and `busy` regions cannot be unregistered.
A request that names a region not registered is refused before its script is looked at; `forget` makes the
server one that was started anew.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
from grpc import aio
from tritonclient.grpc import service_pb2


@dataclass(frozen=True)
class Say:
    """Send this: a message, or bytes that are sent as they are, whatever they mean."""

    message: Any


@dataclass(frozen=True)
class Fail:
    """End the call with this status."""

    code: grpc.StatusCode
    words: str = ""


@dataclass(frozen=True)
class Hold:
    """Wait until `release`, or until the caller goes away."""


@dataclass(frozen=True)
class Cut:
    """Reset every connection, as `ScriptedServer.cut` does."""


Step = Say | Fail | Hold | Cut


@dataclass
class Seen:
    """One call as the server met it; `time_left` is the caller's deadline, in seconds at arrival."""

    request: Any
    headers: dict[str, str | bytes]
    time_left: float | None
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)


class Relay:
    """A TCP port in front of a unix socket, so that connections can be reset without asking gRPC."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._open: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.port = 0
        self.connections = 0

    async def listen(self) -> None:
        """Takes connections at `port`; the first time a free one is chosen."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        """Stops listening and resets what is open."""
        if self._server:
            self._server.close()
        for writer in self._open:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        far_reader, far_writer = await asyncio.open_unix_connection(str(self._target))
        both = {writer, far_writer}
        self._open |= both
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, far_writer))
                group.create_task(self._pump(far_reader, writer))
        finally:
            self._open -= both

    @staticmethod
    async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()


class ScriptedServer:
    """The server; made and stopped by `scripted`."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._scripts: deque[tuple[Step, ...]] = deque()
        self._released = asyncio.Event()
        self._arrived = asyncio.Event()
        self.seen: list[Seen] = []
        self.metadata: Any = None
        self.config: Any = None
        self.about: Any = None
        self.regions: set[str] = set()
        self.refuses: Fail | None = None
        self.busy = False
        self.registrations = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._relay.port}"

    @property
    def connections(self) -> int:
        """How many connections there have been."""
        return self._relay.connections

    def will(self, *steps: Step) -> None:
        """Puts the script of one more inference at the end."""
        self._scripts.append(steps)

    def unsay(self) -> None:
        """Takes the last script back: its call never came."""
        self._scripts.pop()

    def release(self) -> None:
        """Lets every Hold go on, present and future."""
        self._released.set()

    async def arrival(self, count: int = 1) -> Seen:
        """Waits until `count` inferences have arrived in all; gives the last of them."""
        while len(self.seen) < count:
            self._arrived.clear()
            await self._arrived.wait()
        return self.seen[count - 1]

    def cut(self) -> None:
        """Resets every connection and refuses new ones until `mend`."""
        self._relay.cut()

    async def mend(self) -> None:
        """Takes connections again, at the same address."""
        await self._relay.listen()

    def forget(self) -> None:
        """Knows no region any more, as after a restart."""
        self.regions.clear()

    @property
    def handler(self) -> grpc.GenericRpcHandler:
        """The service, for a grpc.aio server."""
        unary, stream = grpc.unary_unary_rpc_method_handler, grpc.stream_stream_rpc_method_handler
        return grpc.method_handlers_generic_handler(
            "inference.GRPCInferenceService",
            {
                "ModelMetadata": unary(self._metadata),
                "ModelConfig": unary(self._config),
                "ServerMetadata": unary(self._about),
                "ModelInfer": unary(self._infer),
                "ModelStreamInfer": stream(self._stream),
                "SystemSharedMemoryRegister": unary(self._register),
                "SystemSharedMemoryUnregister": unary(self._unregister),
            },
        )

    async def _metadata(self, _: bytes, context: aio.ServicerContext[Any, Any]) -> bytes:
        return await _told(self.metadata, context)

    async def _config(self, _: bytes, context: aio.ServicerContext[Any, Any]) -> bytes:
        return await _told(self.config, context)

    async def _about(self, _: bytes, context: aio.ServicerContext[Any, Any]) -> bytes:
        return await _told(self.about, context)

    async def _register(self, request: bytes, context: aio.ServicerContext[Any, Any]) -> bytes:
        self.registrations += 1
        if self.refuses is not None:
            await context.abort(self.refuses.code, self.refuses.words)
        name = service_pb2.SystemSharedMemoryRegisterRequest.FromString(request).name
        if name in self.regions:
            words = f"shared memory region '{name}' already in manager"
            await context.abort(grpc.StatusCode.ALREADY_EXISTS, words)
        self.regions.add(name)
        return b""

    async def _unregister(self, request: bytes, context: aio.ServicerContext[Any, Any]) -> bytes:
        name = service_pb2.SystemSharedMemoryUnregisterRequest.FromString(request).name
        if self.busy and name in self.regions:
            words = f"Cannot unregister shared memory region '{name}', it is currently in use."
            await context.abort(grpc.StatusCode.INTERNAL, words)
        self.regions.discard(name)
        return b""

    async def _infer(self, request: bytes, context: aio.ServicerContext[Any, Any]) -> bytes:
        if (unknown := self._unknown_region(request)) is not None:
            await context.abort(grpc.StatusCode.NOT_FOUND, unknown)
        async for said in self._play(request, context):
            return said
        return b""

    async def _stream(
        self, requests: AsyncIterator[bytes], context: aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[bytes]:
        async for request in requests:
            if (unknown := self._unknown_region(request)) is not None:
                yield service_pb2.ModelStreamInferResponse(error_message=unknown).SerializeToString()
                continue
            async for said in self._play(request, context):
                yield said

    def _unknown_region(self, request: bytes) -> str | None:
        """Triton's words about a region that a request names and nobody registered; None where all is well."""
        message = service_pb2.ModelInferRequest.FromString(request)
        for tensor in (*message.inputs, *message.outputs):
            if "shared_memory_region" in tensor.parameters:
                name = tensor.parameters["shared_memory_region"].string_param
                if name not in self.regions:
                    return f"Unable to find shared memory region: '{name}'"
        return None

    async def _play(self, request: bytes, context: aio.ServicerContext[Any, Any]) -> AsyncIterator[bytes]:
        headers = dict(context.invocation_metadata() or ())
        seen = Seen(service_pb2.ModelInferRequest.FromString(request), headers, context.time_remaining())
        self.seen.append(seen)
        self._arrived.set()
        unscripted = (Fail(grpc.StatusCode.FAILED_PRECONDITION, "the test has no script for this call"),)
        for step in self._scripts.popleft() if self._scripts else unscripted:
            match step:
                case Say(bytes() as message):
                    yield message
                case Say(message):
                    yield message.SerializeToString()
                case Fail(code, words):
                    await context.abort(code, words)
                case Hold():
                    await self._hold(seen)
                case Cut():
                    self.cut()

    async def _hold(self, seen: Seen) -> None:
        try:
            await self._released.wait()
        except asyncio.CancelledError:
            seen.cancelled.set()


async def _told(answer: Any, context: aio.ServicerContext[Any, Any]) -> bytes:
    if answer is None:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "")
    if isinstance(answer, Fail):
        await context.abort(answer.code, answer.words)
    told: bytes = answer.SerializeToString()
    return told


@asynccontextmanager
async def scripted() -> AsyncIterator[ScriptedServer]:
    """A scripted server on a free port of this machine, stopped at the end."""
    with TemporaryDirectory(prefix="scripted-") as folder:
        socket = Path(folder) / "kserve.sock"
        relay = Relay(socket)
        server = ScriptedServer(relay)
        grpc_server = aio.server(options=[("grpc.max_receive_message_length", -1)])
        grpc_server.add_generic_rpc_handlers((server.handler,))
        grpc_server.add_insecure_port(f"unix:{socket}")
        await grpc_server.start()
        await relay.listen()
        try:
            yield server
        finally:
            server.release()
            relay.cut()
            await grpc_server.stop(None)
