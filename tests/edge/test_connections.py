"""Abusive connections over raw sockets: each is bounded, and others are served meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sidecar.edge.connections import ConnectionsConfig
from sidecar.edge.health import Health

PATIENCE_S = 20.0
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, PING, GOAWAY = 4, 6, 7
MAX_CONCURRENT_STREAMS = 3
ENHANCE_YOUR_CALM = 11


@asynccontextmanager
async def serving(**config: Any) -> AsyncIterator[str]:
    server = grpc.aio.server(options=ConnectionsConfig(**config).options())
    health = Health()
    health.set("", serving=True)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


async def serves(address: str, **call: Any) -> bool:
    async with grpc.aio.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S, **call)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def frame(kind: int, payload: bytes = b"", flags: int = 0, stream: int = 0) -> bytes:
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


class Raw:
    """A connection that speaks HTTP/2 by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def to(cls, address: str, greeting: bytes = PREFACE + frame(SETTINGS)) -> Raw:
        host, _, port = address.rpartition(":")
        raw = cls(*await asyncio.open_connection(host, int(port)))
        raw.writer.write(greeting)
        return raw

    async def frames(self) -> AsyncIterator[tuple[int, bytes]]:
        """Until the other side ends."""
        try:
            while True:
                head = await self.reader.readexactly(9)
                yield head[3], await self.reader.readexactly(int.from_bytes(head[:3]))
        except (asyncio.IncompleteReadError, OSError):
            return

    async def sent_away(self) -> list[int]:
        """Waits for the connection's end; the errors that it was sent away with, none where it just ended."""
        async with asyncio.timeout(PATIENCE_S):
            return [int.from_bytes(payload[4:8]) async for kind, payload in self.frames() if kind == GOAWAY]

    async def close(self) -> None:
        self.writer.transport.abort()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


async def test_a_flood_of_pings_ends_its_connection_and_nobody_elses() -> None:
    async with serving() as address:
        raw = await Raw.to(address)
        raw.writer.write(frame(PING, bytes(8)) * 50)
        assert ENHANCE_YOUR_CALM in await raw.sent_away()
        await raw.close()
        assert await serves(address)


async def test_pings_within_what_is_set_are_answered() -> None:
    async with serving(least_ping_s=0.0, ping_strikes=0) as address:
        raw = await Raw.to(address)
        raw.writer.write(frame(PING, bytes(8)) * 50)
        answered = 0
        async with asyncio.timeout(PATIENCE_S):
            async for kind, _ in raw.frames():
                answered += kind == PING
                if answered == 50:
                    break
        await raw.close()


async def test_a_connection_that_does_not_begin_is_closed() -> None:
    async with serving(handshake_s=0.2) as address:
        raw = await Raw.to(address, b"PRI * HT")
        async with asyncio.timeout(PATIENCE_S):
            await raw.sent_away()
        await raw.close()
        assert await serves(address)


async def test_streams_are_announced_to_be_bounded() -> None:
    async with serving(streams=7) as address:
        raw = await Raw.to(address)
        async with asyncio.timeout(PATIENCE_S):
            async for kind, payload in raw.frames():
                if kind == SETTINGS and payload:
                    pairs = dict(struct.iter_unpack(">HI", payload))
                    break
        await raw.close()
        assert pairs[MAX_CONCURRENT_STREAMS] == 7


async def test_calls_past_the_bound_wait_at_the_caller_and_are_answered_then() -> None:
    async with serving(streams=2) as address, grpc.aio.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watches = [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(2)]
        for watch in watches:
            assert (await watch.read()).status
        third = asyncio.ensure_future(stub.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S))
        done, _ = await asyncio.wait([third], timeout=0.1)
        assert not done
        watches[0].cancel()
        assert (await third).status
        watches[1].cancel()


async def test_metadata_past_the_bound_is_refused_and_below_it_taken() -> None:
    async with serving(metadata_bytes=8192) as address:
        assert await serves(address, metadata=(("a", "b" * 7000),))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await serves(address, metadata=(("a", "b" * 9000),))
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_connections_past_the_bound_are_closed_and_make_room_when_others_go() -> None:
    async with serving(most=2) as address:
        held = [await Raw.to(address) for _ in range(2)]
        for raw in held:
            async for _ in raw.frames():
                break
        more = await Raw.to(address)
        assert await more.sent_away() == []
        await more.close()
        await held[0].close()
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    assert await serves(address)
                    break
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.01)
        await held[1].close()


async def test_a_connection_without_calls_is_ended() -> None:
    async with serving(idle_s=0.2) as address:
        raw = await Raw.to(address)
        assert await raw.sent_away()
        await raw.close()


async def test_one_that_is_old_is_asked_to_go() -> None:
    async with serving(age_s=0.2, age_grace_s=0.1) as address:
        raw = await Raw.to(address)
        assert await raw.sent_away()
        await raw.close()
