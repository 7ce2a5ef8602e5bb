"""Unary calls of gRPC to the model server over one connection that the event loop itself reads: the shortest way.

gRPC's own asyncio client hands every event from a thread of its own to the loop: 0.35 ms of CPU a call, beside 0.16
here (docs/design/20261130-http2.md). It is what all other calls go by, and what this keeps to: statuses and their
words, connections made when they are needed and again after a pause, deadlines, signs of life, and that what a server
refused to look at is asked once more.

What must never happen here: a call that neither ends nor has a way to, or one asked twice that the server may have run.
"""

from __future__ import annotations

import asyncio
import socket
from base64 import b64decode, b64encode
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol, cast
from urllib.parse import unquote_to_bytes

import grpc
from grpc import aio

from sidecar.addresses import is_unix
from sidecar.stages.deliver import http2
from sidecar.stages.deliver.http2 import Broken, Connection, Headers, Part, Stream, literal

Metadata = Sequence[tuple[str, str | bytes]]

CLOSED: Final = "the connection was closed on this side"
"""The words of calls that closing ends, or that come after."""
_PREFIX: Final = 5
"""Bytes before a message: whether it is compressed, and its length."""
_SERVED: Final = b"200"
_OWN: Final = frozenset({b"grpc-status", b"grpc-message", b":status", b"content-type"})
# What gRPC makes of HTTP's statuses and of resets that say nothing else (its documents http-grpc-status-mapping and
# PROTOCOL-HTTP2).
_OF_HTTP: Final = {
    b"400": grpc.StatusCode.INTERNAL,
    b"401": grpc.StatusCode.UNAUTHENTICATED,
    b"403": grpc.StatusCode.PERMISSION_DENIED,
    b"404": grpc.StatusCode.UNIMPLEMENTED,
    b"429": grpc.StatusCode.UNAVAILABLE,
    b"502": grpc.StatusCode.UNAVAILABLE,
    b"503": grpc.StatusCode.UNAVAILABLE,
    b"504": grpc.StatusCode.UNAVAILABLE,
}
_OF_RESET: Final = {
    http2.REFUSED: grpc.StatusCode.UNAVAILABLE,
    http2.CANCEL: grpc.StatusCode.CANCELLED,
    0xB: grpc.StatusCode.RESOURCE_EXHAUSTED,  # ENHANCE_YOUR_CALM
    0xC: grpc.StatusCode.PERMISSION_DENIED,  # INADEQUATE_SECURITY
}
_STATUSES: Final = {str(code.value[0]).encode(): code for code in grpc.StatusCode}
# grpc-timeout has eight digits at most.
_MOST_DIGITS: Final = 99_999_999


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: its message, and the metadata that came behind it."""

    message: bytes
    trailers: Metadata


class Settings(Protocol):
    """What this needs to know of the model server; see `TritonConfig`."""

    @property
    def address(self) -> str: ...
    @property
    def connect_timeout_s(self) -> float: ...
    @property
    def message_bytes(self) -> int: ...
    @property
    def reconnect_after_s(self) -> float: ...
    @property
    def reconnect_within_s(self) -> float: ...
    @property
    def keepalive_s(self) -> float: ...
    @property
    def keepalive_timeout_s(self) -> float: ...


@dataclass(slots=True, eq=False)
class _Call:
    """A call that has not ended. `stream` is its own, once it has been sent; `again` that it may be sent once more."""

    answer: asyncio.Future[Reply]
    block: bytes
    body: tuple[Part, ...]
    wire: _Wire | None = None
    stream: Stream | None = None
    again: bool = True
    timer: asyncio.TimerHandle | None = None

    def fail(self, code: grpc.StatusCode, words: str, trailers: Metadata = ()) -> None:
        if not self.answer.done():
            error = aio.AioRpcError(code, aio.Metadata(), aio.Metadata(*trailers), words)
            self.answer.set_exception(error)


class UnaryCalls:
    """Calls of one service's unary methods. Made inside a running event loop; closed by `close`."""

    def __init__(self, settings: Settings, service: str) -> None:
        """`service` is the methods' path, slashes and all."""
        self._settings = settings
        self._service = service
        self._blocks: dict[str, bytes] = {}
        self._loop = asyncio.get_running_loop()
        self._wire: _Wire | None = None
        self._wires: set[_Wire] = set()
        self._waiting: list[_Call] = []
        self._connecting: asyncio.Task[None] | None = None
        self._pause_s = 0.0
        self._not_before = 0.0
        self._last_words = ""
        self._closed = False

    def begin(
        self, method: str, message: bytes, timeout: float | None, metadata: Metadata = ()
    ) -> asyncio.Future[Reply]:
        """Sends a message, as soon as there is a connection. Cancelling the future cancels the call at the server.

        The future raises aio.AioRpcError, as gRPC's own client does.
        """
        answer: asyncio.Future[Reply] = self._loop.create_future()
        block = self._block(method) + _fields(timeout, metadata)
        call = _Call(answer, block, (bytes(1) + len(message).to_bytes(4, "big"), message))
        most = self._settings.message_bytes
        if self._closed:
            call.fail(grpc.StatusCode.CANCELLED, CLOSED)
        elif len(message) > most:
            words = f"CLIENT: Sent message larger than max ({len(message)} vs. {most})"
            call.fail(grpc.StatusCode.RESOURCE_EXHAUSTED, words)
        elif timeout is not None and timeout <= 0:
            call.fail(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
        else:
            self._send(call)
            if timeout is not None:
                call.timer = self._loop.call_later(
                    timeout, call.fail, grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"
                )
            answer.add_done_callback(lambda _: self._over(call))
        return answer

    async def close(self) -> None:
        """Ends the connection; calls under way fail with CANCELLED."""
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        for call in self._waiting:
            call.fail(grpc.StatusCode.CANCELLED, CLOSED)
        self._waiting.clear()
        wires = [*self._wires]
        for wire in wires:
            wire.end(grpc.StatusCode.CANCELLED, CLOSED)
        for wire in wires:
            await wire.gone.wait()

    # --- calls ---

    def _block(self, method: str) -> bytes:
        """The header fields that all calls of a method begin with."""
        if (block := self._blocks.get(method)) is None:
            address = self._settings.address
            host = "localhost" if is_unix(address) else address
            fields = (
                (b":path", f"{self._service}{method}".encode()),
                (b":authority", host.encode()),
                (b"content-type", b"application/grpc"),
                (b"te", b"trailers"),
                (b"user-agent", b"multimodal-sidecar"),
                (b"grpc-accept-encoding", b"identity"),
            )
            # The static table's `:method: POST` and `:scheme: http` come first (RFC 7541, appendix A).
            block = b"\x83\x86" + b"".join(literal(name, value) for name, value in fields)
            self._blocks[method] = block
        return block

    def _send(self, call: _Call) -> None:
        if self._wire is not None and not self._wire.connection.leaving:
            self._wire.start(call, self._settings.message_bytes)
        elif self._loop.time() < self._not_before:
            call.fail(grpc.StatusCode.UNAVAILABLE, self._last_words)
        else:
            self._waiting.append(call)
            if self._connecting is None:
                self._connecting = self._loop.create_task(self._connect(), name="connect to the model server")

    def _over(self, call: _Call) -> None:
        """A call has ended, whoever ended it."""
        if call.timer is not None:
            call.timer.cancel()
        if call.wire is not None and call.stream is not None:
            call.wire.leave(call.stream)

    def refused(self, call: _Call, words: str) -> None:
        """The server did not look at a call: it is asked once more."""
        if call.answer.done():
            return
        call.stream = call.wire = None
        if call.again and not self._closed:
            call.again = False
            self._send(call)
        else:
            call.fail(grpc.StatusCode.UNAVAILABLE, words)

    # --- the connection ---

    async def _connect(self) -> None:
        """Makes a connection, and sends what waits for it; or says why not, and that the next attempt has time."""
        wire = _Wire(self)
        try:
            async with asyncio.timeout(self._settings.connect_timeout_s):
                await self._reach(wire)
                await wire.settled.wait()
        except (OSError, TimeoutError) as error:
            wire.end(grpc.StatusCode.UNAVAILABLE, "it could not be connected to")
            self._failed(
                f"failed to connect to all addresses; last error: {str(error) or 'it took too long'}"
            )
        except BaseException:
            wire.end(grpc.StatusCode.CANCELLED, CLOSED)
            raise
        else:
            if wire.connection.leaving or wire.gone.is_set():
                self._failed("failed to connect to all addresses; last error: it hung up")
                return
            self._pause_s = 0.0
            self._wire = wire
            self._connecting = None
            waiting, self._waiting = self._waiting, []
            for call in waiting:
                if not call.answer.done():
                    self._send(call)

    async def _reach(self, wire: _Wire) -> None:
        address, make = self._settings.address, lambda: wire
        if is_unix(address):
            kind, _, path = address.partition(":")
            await self._loop.create_unix_connection(make, f"\0{path}" if kind == "unix-abstract" else path)
            return
        host, _, port = address.rpartition(":")
        transport, _ = await self._loop.create_connection(make, host.strip("[]"), int(port))
        found = transport.get_extra_info("socket")
        # Bytes that stay unacknowledged end the connection, as with gRPC's own.
        found.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(self._settings.keepalive_timeout_s * 1e3)
        )

    def _failed(self, words: str) -> None:
        self._connecting = None
        self._last_words = words
        self._pause_s = min(
            max(self._settings.reconnect_after_s, 2 * self._pause_s), self._settings.reconnect_within_s
        )
        self._not_before = self._loop.time() + self._pause_s
        waiting, self._waiting = self._waiting, []
        for call in waiting:
            call.fail(grpc.StatusCode.UNAVAILABLE, words)

    def opened(self, wire: _Wire) -> None:
        """A connection stands."""
        self._wires.add(wire)

    def lost(self, wire: _Wire) -> None:
        """A connection is no more."""
        self._wires.discard(wire)
        if self._wire is wire:
            self._wire = None

    @property
    def signs_of_life(self) -> tuple[float, float]:
        """Seconds of silence after which the server is asked for one, and that it may take."""
        return self._settings.keepalive_s, self._settings.keepalive_timeout_s


class _Wire(asyncio.Protocol):
    """One connection, between the event loop and what is known of it."""

    def __init__(self, calls: UnaryCalls) -> None:
        self._calls = calls
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._of: dict[Stream, _Call] = {}
        self._heard = 0.0
        self._watch: asyncio.TimerHandle | None = None
        self._ended: tuple[grpc.StatusCode, str] | None = None
        self.connection = Connection()
        self.settled = asyncio.Event()
        self.gone = asyncio.Event()

    # --- what the owner does ---

    def start(self, call: _Call, most: int) -> None:
        """Sends a call."""
        call.wire = self
        call.stream = self.connection.open(call.block, call.body, most + _PREFIX, self._on_end)
        self._of[call.stream] = call
        if self._watch is None:
            self._heard = self._loop.time()
            self._watch = self._loop.call_later(self._calls.signs_of_life[0], self._listen)
        self._flush()

    def leave(self, stream: Stream) -> None:
        """Ends a call's stream, if the server has not."""
        if self._of.pop(stream, None) is not None:
            self.connection.reset(stream)
            self._flush()

    def end(self, code: grpc.StatusCode, words: str) -> None:
        """Ends the connection and all its calls."""
        self._ended = self._ended or (code, words)
        if self._transport is None:
            self.gone.set()
            return
        self._flush()
        self._transport.abort()

    # --- what the event loop tells ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class
        if self._ended is not None:
            self._transport.abort()
        self._calls.opened(self)
        self._flush()

    def data_received(self, data: bytes) -> None:
        self._heard = self._loop.time()
        try:
            self.connection.receive(data)
        except Broken as broken:
            self.connection.close(broken.code)
            self.end(grpc.StatusCode.UNAVAILABLE, f"the model server speaks no HTTP/2 here: {broken}")
            return
        if self.connection.settled and not self.settled.is_set():
            self.settled.set()
        self._flush()
        if self.connection.leaving and not self.connection.busy and self._transport is not None:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        code, words = self._ended or (
            grpc.StatusCode.UNAVAILABLE,
            f"Socket closed{f': {exc}' if exc is not None else ''}",
        )
        if self._watch is not None:
            self._watch.cancel()
        self._transport = None
        self._calls.lost(self)
        calls, self._of = [*self._of.values()], {}
        for call in calls:
            call.fail(code, words)
        self.settled.set()
        self.gone.set()

    # --- calls that end ---

    def _on_end(self, stream: Stream, code: int | None) -> None:
        call = self._of.pop(stream, None)
        if call is None:
            return
        if stream.refused:
            # Not before all that came has been read: the server may be leaving.
            self._loop.call_soon(self._calls.refused, call, f"GOAWAY received: {self.connection.last_words}")
        elif code is None:
            _tell(call, stream)
        elif stream.size > stream.most:
            words = f"CLIENT: Received message larger than max ({stream.size} vs. {stream.most - _PREFIX})"
            call.fail(grpc.StatusCode.RESOURCE_EXHAUSTED, words)
        else:
            call.fail(
                _OF_RESET.get(code, grpc.StatusCode.INTERNAL), f"Received RST_STREAM with error code {code}"
            )

    # --- signs of life ---

    def _listen(self) -> None:
        """Asks a silent server with calls under way for a sign of life."""
        self._watch = None
        pause_s, patience_s = self._calls.signs_of_life
        if not self.connection.busy:
            return
        left_s = self._heard + pause_s - self._loop.time()
        if left_s > 0:
            self._watch = self._loop.call_later(left_s, self._listen)
            return
        self.connection.ping()
        self._flush()
        self._watch = self._loop.call_later(patience_s, self._give_up, self._heard)

    def _give_up(self, heard: float) -> None:
        self._watch = None
        if self._heard == heard:
            self.end(grpc.StatusCode.UNAVAILABLE, "keepalive watchdog timeout")
        else:
            self._watch = self._loop.call_later(self._calls.signs_of_life[0], self._listen)

    def _flush(self) -> None:
        if self._transport is None or not (parts := self.connection.outgoing()):
            return
        if sum(map(len, parts)) <= http2.WHOLE:
            self._transport.write(b"".join(parts))
        else:
            self._transport.writelines(parts)


# --- header fields and statuses ---


def _fields(timeout: float | None, metadata: Metadata) -> bytes:
    """A call's own header fields."""
    fields = [] if timeout is None else [literal(b"grpc-timeout", _timeout(timeout))]
    for name, value in metadata:
        coded = value.encode() if isinstance(value, str) else value
        if name.endswith("-bin"):
            coded = b64encode(coded).rstrip(b"=")
        fields.append(literal(name.lower().encode(), coded))
    return b"".join(fields)


def _timeout(seconds: float) -> bytes:
    """As gRPC has it: eight digits and a unit, never less than is left."""
    for unit, a_second in ((b"u", 1e6), (b"m", 1e3), (b"S", 1.0)):
        if (count := int(seconds * a_second) + 1) <= _MOST_DIGITS:
            return str(count).encode() + unit
    return str(_MOST_DIGITS).encode() + b"S"


def _tell(call: _Call, stream: Stream) -> None:
    """Gives a call what its complete answer says."""
    headers, trailers = dict(stream.headers), stream.trailers or stream.headers
    told = dict(trailers)
    if (served := headers.get(b":status", _SERVED)) != _SERVED:
        code = _OF_HTTP.get(served, grpc.StatusCode.UNKNOWN)
        call.fail(code, f"Received http2 header with status: {served.decode(errors='replace')}")
        return
    if b"grpc-status" not in told:
        call.fail(grpc.StatusCode.INTERNAL, "the answer ended without a status of gRPC's")
        return
    code = _STATUSES.get(told[b"grpc-status"], grpc.StatusCode.UNKNOWN)
    metadata = _metadata(trailers)
    if code is not grpc.StatusCode.OK:
        words = unquote_to_bytes(told.get(b"grpc-message", b"")).decode(errors="replace")
        call.fail(code, words, metadata)
        return
    body = stream.body[0] if len(stream.body) == 1 else b"".join(stream.body)
    if len(body) < _PREFIX or body[0] or int.from_bytes(body[1:_PREFIX], "big") != len(body) - _PREFIX:
        call.fail(grpc.StatusCode.INTERNAL, "the answer is not one message as it was asked for")
        return
    if not call.answer.done():
        call.answer.set_result(Reply(body[_PREFIX:], metadata))


def _metadata(trailers: Headers) -> Metadata:
    found: list[tuple[str, str | bytes]] = []
    for name, value in trailers:
        if name in _OWN:
            continue
        if name.endswith(b"-bin"):
            with suppress(ValueError):
                found.append(
                    (
                        name.decode(errors="replace"),
                        b64decode(value + b"=" * (-len(value) % 4), validate=True),
                    )
                )
        else:
            found.append((name.decode(errors="replace"), value.decode(errors="replace")))
    return found
