"""A real gRPC server that lets calls in before it reads their message, or not, and a wire that counts.

A script is a list of `Answer`s; each attempt takes the next, and the last one is repeated. The server keeps
what it was told beforehand and the messages it read. It must never decide anything by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message
from multimodal.v1 import preprocessor_pb2

from tests.inference_client.scripted_server import Refusal

SERVICE = "multimodal.v1.Preprocessor"


@dataclass(frozen=True)
class Answer:
    """Refuses before the message, or lets the call in, reads it and gives `reply`, or refuses only then (`full`).

    `silent`: reads without letting in first, as sidecars did before they knew how. `gate`: waits for it before
    anything else, and `late` for it before the reply.
    """

    reply: Message | None = None
    refusal: Refusal | None = None
    full: Refusal | None = None
    silent: bool = False
    gate: asyncio.Event | None = None
    late: asyncio.Event | None = None


@dataclass
class AskingServer:
    """`told[n]` is what came before the n-th attempt's message, `read[n]` how many messages were read of it."""

    script: list[Answer] = field(default_factory=list)
    told: list[dict[str, Any]] = field(default_factory=list)
    read: list[list[bytes]] = field(default_factory=list)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    server: grpc.aio.Server = field(
        default_factory=lambda: grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    )
    address: str = ""

    def facts(self, attempt: int = 0) -> preprocessor_pb2.EstimateRequest:
        return preprocessor_pb2.EstimateRequest.FromString(self.told[attempt]["x-media-facts-bin"])

    async def one(self, _requests: Any, context: Any) -> bytes:
        answer = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        self.told.append(dict(context.invocation_metadata()))
        read: list[bytes] = []
        self.read.append(read)
        self.asked.set()
        if answer.gate is not None:
            await answer.gate.wait()
        if answer.refusal is not None:
            await context.abort(answer.refusal.code, "as the script says", answer.refusal.trailing())
        if not answer.silent:
            await context.send_initial_metadata((("x-media-let-in", "1"),))
        while (message := await context.read()) is not grpc.aio.EOF:
            read.append(message)
        if answer.late is not None:
            await answer.late.wait()
        if answer.full is not None:
            await context.abort(answer.full.code, "as the script says", answer.full.trailing())
        assert answer.reply is not None
        return answer.reply.SerializeToString()

    async def many(self, requests: Any, context: Any) -> AsyncIterator[bytes]:
        yield await self.one(requests, context)


@asynccontextmanager
async def asking_server() -> AsyncIterator[AskingServer]:
    """On a free port, stopped on leaving."""
    scripted = AskingServer()
    one: Any = grpc.stream_unary_rpc_method_handler(scripted.one)
    handlers = {
        "Preprocess": one,
        "Infer": one,
        "InferStream": grpc.stream_stream_rpc_method_handler(scripted.many),
    }
    scripted.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    scripted.address = f"127.0.0.1:{scripted.server.add_insecure_port('127.0.0.1:0')}"
    await scripted.server.start()
    try:
        yield scripted
    finally:
        await scripted.server.stop(grace=None)


@dataclass
class Wire:
    """A wire to a server: where it begins, and the bytes that went along it to the server."""

    address: str = ""
    sent: int = 0


@asynccontextmanager
async def wire(address: str) -> AsyncIterator[Wire]:
    """A wire to `address`, cut on leaving."""
    counted = Wire()
    host, port = address.rsplit(":", 1)

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, weight: int) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(2**16):
                counted.sent += weight * len(data)
                writer.write(data)
                await writer.drain()
        writer.close()

    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        await asyncio.gather(carry(reader, far_writer, 1), carry(far_reader, writer, 0))

    server = await asyncio.start_server(join, "127.0.0.1", 0)
    counted.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield counted
