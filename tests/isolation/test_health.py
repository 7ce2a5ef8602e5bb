"""What health says while workers die again and again: the truth, and the truth again when it is over."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from multimodal.v1 import media_pb2, preprocessor_pb2, preprocessor_pb2_grpc

from inference_client import AsyncClient
from sidecar.edge.server import SERVICE
from tests.isolation.inside import CLIP, PATIENCE_S, Inside, inside, picture

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Watched:
    """What a watcher of the service's health was told, in order."""

    def __init__(self) -> None:
        self.told: list[int] = []

    async def hears(self, status: int) -> None:
        """Returns once that is the last word."""
        async with asyncio.timeout(PATIENCE_S):
            while self.told[-1:] != [status]:  # noqa: ASYNC110 - it is told on another task
                await asyncio.sleep(0.01)

    @classmethod
    @asynccontextmanager
    async def of(cls, address: str) -> AsyncIterator[Watched]:
        watched = cls()
        async with grpc.aio.insecure_channel(address) as channel:
            call = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=SERVICE))

            async def listen() -> None:
                with suppress(asyncio.CancelledError):
                    async for state in call:
                        watched.told.append(state.status)

            listening = asyncio.create_task(listen())
            try:
                await watched.hears(SERVING)
                yield watched
            finally:
                call.cancel()
                await listening


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame of HTTP/2 (RFC 9113)."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def field(name: bytes, value: bytes) -> bytes:
    """A header that is told in full (RFC 7541)."""
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


@contextmanager
def watching_without_reading(address: str) -> Iterator[None]:
    """A watcher who gives the server no room to write a single byte to it, and stays."""
    data, headers, settings, window = 0, 1, 4, 4
    request = health_pb2.HealthCheckRequest(service=SERVICE).SerializeToString()
    fields = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": b"/grpc.health.v1.Health/Watch",
        b":authority": b"sidecar",
        b"content-type": b"application/grpc",
        b"te": b"trailers",
    }
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as connection:
        connection.sendall(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + frame(settings, 0, 0, window.to_bytes(2, "big") + bytes(4))
            + frame(headers, 4, 1, b"".join(field(*each) for each in fields.items()))
            + frame(data, 1, 1, b"\0" + len(request).to_bytes(4, "big") + request)
        )
        # Its answer begins with headers, which need no room; then the server is about to write.
        seen = b""
        while b"application/grpc" not in seen:
            seen += connection.recv(4096)
            if seen.endswith(frame(settings, 0, 0)[3:]):
                connection.sendall(frame(settings, 1, 0))
        yield


@asynccontextmanager
async def kill_loop(it: Inside) -> AsyncIterator[None]:
    """Kills every worker as soon as there is one."""

    async def kill() -> None:
        while True:
            for pid in it.crew.pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            await asyncio.sleep(0.001)

    killing = asyncio.create_task(kill())
    try:
        yield
    finally:
        killing.cancel()
        await asyncio.gather(killing, return_exceptions=True)


async def test_with_no_worker_left_the_service_is_not_serving_with_a_line_in_the_log_until_one_is_there(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with inside({"clip": CLIP}, None, "workers=2", "log.level=error") as it:
        async with Watched.of(it.address) as watched, AsyncClient(it.address) as client:
            for _ in range(2):
                async with kill_loop(it):
                    await watched.hears(NOT_SERVING)
                assert "not ready: no worker process is alive" in caplog.text
                await watched.hears(SERVING)
                assert (await client.preprocess("clip", picture(1))).tensor().shape == (3, 224, 224)
            it.nothing_left()


async def test_a_watcher_is_told_although_another_one_left_before() -> None:
    with inside({"clip": CLIP}, None, "workers=2", "log.level=error") as it:
        async with Watched.of(it.address) as stays:
            async with Watched.of(it.address):
                pass
            async with kill_loop(it):
                await stays.hears(NOT_SERVING)
            await stays.hears(SERVING)


def test_a_watcher_who_does_not_read_holds_up_neither_the_others_nor_the_end() -> None:
    overrides = ("workers=2", "server.drain_s=1", "log.level=error")
    with inside({"clip": CLIP}, None, *overrides) as it:
        with watching_without_reading(it.address), watching_without_reading(it.address):
            stopping = threading.Thread(target=it.sidecar.stop, daemon=True)
            stopping.start()
            stopping.join(PATIENCE_S)
            assert not stopping.is_alive()


async def test_overload_alone_never_takes_readiness_back() -> None:
    overrides = ("workers=2", "gate.max_queued=8", "threads.image=2", "log.level=error")
    with inside({"clip": CLIP}, None, *overrides) as it:
        async with Watched.of(it.address) as watched, grpc.aio.insecure_channel(it.address) as channel:
            stub = preprocessor_pb2_grpc.PreprocessorStub(channel)
            media = [media_pb2.Media(inline=picture(1, 1200, 900, "JPEG"))]

            async def call() -> grpc.StatusCode:
                try:
                    await stub.Preprocess(preprocessor_pb2.PreprocessRequest(model="clip", media=media))
                except grpc.aio.AioRpcError as error:
                    return error.code()
                return grpc.StatusCode.OK

            codes = await asyncio.gather(*(call() for _ in range(200)))
            assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
            assert watched.told == [SERVING]
            it.nothing_left()
