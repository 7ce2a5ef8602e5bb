"""Unary calls over a connection of their own: against a server by another implementation, which does as it is told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import h2.config
import h2.connection
import h2.events
import pytest
from grpc import aio

from sidecar.stages.deliver import http2
from sidecar.stages.deliver.triton import TritonConfig
from sidecar.stages.deliver.unary import UnaryCalls

SERVICE = "/s/"
SOON = 10.0
ANSWER = [(":status", "200"), ("content-type", "application/grpc")]
OK = [("grpc-status", "0")]


def message_of(text: bytes) -> bytes:
    return bytes(1) + len(text).to_bytes(4, "big") + text


@dataclass
class Asked:
    """A request that has come whole, and the connection that it came over."""

    wire: Wire
    number: int
    headers: dict[str, str]
    body: bytes = b""

    def answer(
        self,
        body: bytes = b"",
        headers: list[tuple[str, str]] = ANSWER,
        trailers: list[tuple[str, str]] = OK,
    ) -> None:
        self.wire.h2.send_headers(self.number, headers)
        if body:
            self.wire.h2.send_data(self.number, body)
        self.wire.h2.send_headers(self.number, trailers, end_stream=True)
        self.wire.flush()

    def only(self, headers: list[tuple[str, str]]) -> None:
        self.wire.h2.send_headers(self.number, headers, end_stream=True)
        self.wire.flush()

    def refuse(self) -> None:
        self.wire.h2.reset_stream(self.number, http2.REFUSED)
        self.wire.flush()


class Wire(asyncio.Protocol):
    def __init__(self, server: Server) -> None:
        self.server = server
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        )
        self.asked: dict[int, Asked] = {}
        self.silent = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]  # of a socket
        self.server.wires.append(self)
        if self.server.greets:
            self.h2.initiate_connection()
            self.flush()

    def data_received(self, data: bytes) -> None:
        if self.silent or not self.server.greets:
            return
        for event in self.h2.receive_data(data):
            match event:
                case h2.events.RequestReceived(stream_id=int(number), headers=headers):
                    found = {str(name): str(value) for name, value in headers or ()}
                    self.asked[number] = Asked(self, number, found)
                case h2.events.DataReceived(stream_id=int(number), data=bytes(body)):
                    self.asked[number].body += body
                    self.h2.acknowledge_received_data(event.flow_controlled_length or 0, number)
                case h2.events.StreamEnded(stream_id=int(number)):
                    self.server.requests.append(self.asked[number])
                    self.server.does(self.asked[number])
                case h2.events.StreamReset():
                    self.server.resets.append(int(event.error_code or 0))
                    self.server.reset.set()
        self.flush()

    def flush(self) -> None:
        self.transport.write(self.h2.data_to_send())


@dataclass
class Server:
    """`does` is what it does with a request; `greets` whether it says its settings."""

    does: Callable[[Asked], None] = lambda asked: asked.answer(asked.body)
    greets: bool = True
    wires: list[Wire] = field(default_factory=list)
    requests: list[Asked] = field(default_factory=list)
    resets: list[int] = field(default_factory=list)
    reset: asyncio.Event = field(default_factory=asyncio.Event)
    address: str = ""

    def calls(self, **more: float) -> UnaryCalls:
        return UnaryCalls(TritonConfig(self.address, **more), SERVICE)  # type: ignore[arg-type]  # seconds and bytes


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    listening = await asyncio.get_running_loop().create_server(lambda: Wire(made), "127.0.0.1", 0)
    made.address = f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    yield made
    listening.close()
    for wire in made.wires:
        wire.transport.abort()


@contextlib.contextmanager
def fails(code: grpc.StatusCode, words: str = "") -> Iterator[None]:
    with pytest.raises(aio.AioRpcError) as failure:
        yield
    assert failure.value.code() is code
    assert words in (failure.value.details() or "")


async def test_a_message_comes_back_with_its_metadata_both_ways(server: Server) -> None:
    server.does = lambda asked: asked.answer(
        asked.body, trailers=[*OK, ("mine", "yes"), ("raw-bin", "AP8"), ("wrong-bin", "%")]
    )
    calls = server.calls()
    metadata: list[tuple[str, str | bytes]] = [
        ("traceparent", "00-1-2-01"),
        ("blob-bin", b"\x00\xff"),
        ("long", "v" * 300),
    ]
    reply = await calls.begin("M", b"hello", 5.0, metadata)
    await calls.close()
    assert reply.message == b"hello"
    assert list(reply.trailers) == [("mine", "yes"), ("raw-bin", b"\x00\xff")]
    (asked,) = server.requests
    assert asked.headers[":path"] == "/s/M"
    assert asked.headers[":authority"] == server.address
    assert asked.headers["content-type"] == "application/grpc"
    assert asked.headers["traceparent"] == "00-1-2-01"
    assert asked.headers["blob-bin"] == "AP8"
    assert asked.headers["long"] == "v" * 300
    assert 4_000_000 < int(asked.headers["grpc-timeout"].removesuffix("u")) <= 5_000_001


async def test_large_messages_and_many_at_once_share_one_connection(server: Server) -> None:
    calls = server.calls()
    sent = [bytes([place]) * (place * 30_000) for place in range(20)]
    server.does = lambda asked: asked.answer(message_of(asked.body[5:10]))
    replies = await asyncio.gather(*(calls.begin("M", each, SOON) for each in sent))
    await calls.close()
    assert [reply.message for reply in replies] == [each[:5] for each in sent]
    assert len(server.wires) == 1


@pytest.mark.parametrize(
    ("does", "code", "words"),
    [
        (
            lambda asked: asked.only([*ANSWER, ("grpc-status", "5"), ("grpc-message", "no%20such%3A%C3%A9")]),
            grpc.StatusCode.NOT_FOUND,
            "no such:é",
        ),
        (lambda asked: asked.answer(trailers=[("grpc-status", "3")]), grpc.StatusCode.INVALID_ARGUMENT, ""),
        (lambda asked: asked.answer(trailers=[("grpc-status", "77")]), grpc.StatusCode.UNKNOWN, ""),
        (lambda asked: asked.answer(trailers=[("other", "1")]), grpc.StatusCode.INTERNAL, "without a status"),
        (lambda asked: asked.only([(":status", "503")]), grpc.StatusCode.UNAVAILABLE, "503"),
        (lambda asked: asked.only([(":status", "404")]), grpc.StatusCode.UNIMPLEMENTED, "404"),
        (lambda asked: asked.only([(":status", "302")]), grpc.StatusCode.UNKNOWN, "302"),
        (lambda asked: asked.answer(), grpc.StatusCode.INTERNAL, "not one message"),
        (lambda asked: asked.answer(b"\1\0\0\0\1x"), grpc.StatusCode.INTERNAL, "not one message"),
        (lambda asked: asked.answer(message_of(b"a") * 2), grpc.StatusCode.INTERNAL, "not one message"),
        (lambda asked: asked.answer(message_of(b"abc")[:-1]), grpc.StatusCode.INTERNAL, "not one message"),
        (lambda asked: asked.answer(message_of(bytes(2000))), grpc.StatusCode.RESOURCE_EXHAUSTED, "larger"),
        (lambda asked: asked.wire.transport.abort(), grpc.StatusCode.UNAVAILABLE, "Socket closed"),
        (
            lambda asked: asked.wire.transport.write(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
            grpc.StatusCode.UNAVAILABLE,
            "no HTTP/2",
        ),
        (
            lambda asked: asked.wire.transport.write(
                http2.frame(http2.RST_STREAM, 0, asked.number, (2).to_bytes(4, "big"))
            ),
            grpc.StatusCode.INTERNAL,
            "RST_STREAM",
        ),
    ],
)
async def test_how_an_answer_ends_is_told_by_its_status(
    does: Callable[[Asked], None], code: grpc.StatusCode, words: str, server: Server
) -> None:
    calls = server.calls(message_bytes=1024)
    server.does = does
    with fails(code, words):
        await calls.begin("M", b"m", SOON)
    # And the next one is answered, over a new connection where that is needed.
    server.does = lambda asked: asked.answer(asked.body)
    assert (await calls.begin("M", b"next", SOON)).message == b"next"
    await calls.close()


async def test_what_the_server_refused_to_look_at_is_asked_once_more_and_no_third_time(
    server: Server,
) -> None:
    calls = server.calls()
    server.does = lambda asked: asked.refuse() if len(server.requests) == 1 else asked.answer(asked.body)
    assert (await calls.begin("M", b"m", SOON)).message == b"m"
    assert len(server.requests) == 2
    server.does = lambda asked: asked.refuse()
    with fails(grpc.StatusCode.UNAVAILABLE):
        await calls.begin("M", b"m", SOON)
    assert len(server.requests) == 4
    await calls.close()


async def test_a_server_that_leaves_is_left_and_its_unseen_calls_go_to_the_next_connection(
    server: Server,
) -> None:
    calls = server.calls()

    def leave(asked: Asked) -> None:
        server.does = lambda asked: asked.answer(asked.body)
        asked.wire.silent = True
        asked.wire.transport.write(http2.frame(http2.GOAWAY, 0, 0, bytes(8)))

    server.does = leave
    first, second = calls.begin("M", b"1", SOON), calls.begin("M", b"2", SOON)
    assert [(await call).message for call in (first, second)] == [b"1", b"2"]
    assert len(server.wires) == 2
    await calls.close()


async def test_the_deadline_ends_a_call_here_and_there(server: Server) -> None:
    calls = server.calls()
    server.does = lambda _asked: None
    with fails(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"):
        await calls.begin("M", b"m", 0.05)
    await asyncio.wait_for(server.reset.wait(), SOON)
    with fails(grpc.StatusCode.DEADLINE_EXCEEDED):
        await calls.begin("M", b"m", 0)
    assert server.resets == [http2.CANCEL]
    await calls.close()


async def test_who_cancels_a_call_cancels_it_there(server: Server) -> None:
    calls = server.calls()
    came = asyncio.Event()
    server.does = lambda _asked: came.set()
    call = calls.begin("M", b"m", None)
    await asyncio.wait_for(came.wait(), SOON)
    call.cancel()
    await asyncio.wait_for(server.reset.wait(), SOON)
    assert "grpc-timeout" not in server.requests[0].headers
    await calls.close()


async def test_a_call_that_was_cancelled_before_there_was_a_connection_is_not_sent(server: Server) -> None:
    calls = server.calls()
    left, kept = calls.begin("M", b"left", SOON), calls.begin("M", b"kept", SOON)
    left.cancel()
    assert (await kept).message == b"kept"
    assert [asked.body[5:] for asked in server.requests] == [b"kept"]
    await calls.close()


async def test_a_server_without_a_sign_of_life_is_given_up(server: Server) -> None:
    calls = server.calls(keepalive_s=0.05, keepalive_timeout_s=0.1)
    server.does = lambda asked: setattr(asked.wire, "silent", True)
    with fails(grpc.StatusCode.UNAVAILABLE, "keepalive"):
        await calls.begin("M", b"m", SOON)
    await calls.close()


async def test_a_slow_server_that_gives_signs_of_life_is_waited_for(server: Server) -> None:
    calls = server.calls(keepalive_s=0.02, keepalive_timeout_s=5.0)

    def later(asked: Asked) -> None:
        asyncio.get_running_loop().call_later(0.2, asked.answer, asked.body)

    server.does = later
    assert (await calls.begin("M", b"m", SOON)).message == b"m"
    await calls.close()


async def test_a_server_that_never_greets_is_not_waited_for_longer_than_allowed(server: Server) -> None:
    server.greets = False
    calls = server.calls(connect_timeout_s=0.1, reconnect_after_s=5.0, reconnect_within_s=5.0)
    with fails(grpc.StatusCode.UNAVAILABLE, "took too long"):
        await calls.begin("M", b"m", SOON)
    # Within the pause nobody waits, and nothing is tried.
    with fails(grpc.StatusCode.UNAVAILABLE, "took too long"):
        await calls.begin("M", b"m", SOON)
    assert len(server.wires) == 1
    await calls.close()


async def test_closing_ends_what_waits_and_what_is_under_way(server: Server) -> None:
    calls = server.calls()
    came = asyncio.Event()
    server.does = lambda _asked: came.set()
    under_way = calls.begin("M", b"m", SOON)
    await asyncio.wait_for(came.wait(), SOON)
    await calls.close()
    with fails(grpc.StatusCode.CANCELLED, "closed on this side"):
        await under_way
    with fails(grpc.StatusCode.CANCELLED, "closed on this side"):
        await calls.begin("M", b"m", SOON)
    never = Server(address="127.0.0.1:9", greets=False).calls()
    waits = never.begin("M", b"m", SOON)
    await never.close()
    with fails(grpc.StatusCode.CANCELLED, "closed on this side"):
        await waits


@pytest.mark.parametrize("abstract", [False, True])
async def test_sockets_of_this_machine_are_spoken_to_as_well(tmp_path: Path, abstract: bool) -> None:
    server = Server()
    name = f"unary-{id(server)}" if abstract else str(tmp_path / "s.sock")
    path = f"\0{name}" if abstract else name
    listening = await asyncio.get_running_loop().create_unix_server(lambda: Wire(server), path)
    server.address = f"unix-abstract:{name}" if abstract else f"unix:{name}"
    calls = server.calls()
    assert (await calls.begin("M", b"m", SOON)).message == b"m"
    assert server.requests[0].headers[":authority"] == "localhost"
    await calls.close()
    listening.close()
