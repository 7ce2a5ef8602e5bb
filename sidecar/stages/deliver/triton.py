"""The upstream that speaks KServe v2 over gRPC: Triton, and any server of that protocol.

One channel, no state about models. The messages are tritonclient's generated ones, the calls are
grpc.aio's own: tritonclient's asyncio client takes three times as long for a 2.4 MB input.

What must never happen here: a call without the caller's deadline or that outlives its caller, an
error of gRPC leaving as itself, an answer whose bytes contradict its shape, or the request header
`triton_grpc_error` (see `faults.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le
from grpc import aio

from sidecar.addresses import is_host_port, is_unix
from sidecar.deadline import Deadline
from sidecar.errors import SettingsError, UpstreamUnavailable, UpstreamUnimplemented
from sidecar.stages.deliver import faults
from sidecar.stages.deliver.upstream import Answer, Call, Signature
from sidecar.stages.deliver.wire import (
    SERVICE,
    check_complete,
    lay_question,
    lay_request,
    read_answer,
    read_event,
    read_signature,
)

_Unary = aio.UnaryUnaryMultiCallable[bytes, bytes]
_Stream = aio.StreamStreamMultiCallable[bytes, bytes]


@dataclass(frozen=True, slots=True)
class TritonConfig:
    """Where the model server is and how its connection is kept. Times are seconds, sizes bytes.

    `address` is "host:port" or "unix:path". `connect_timeout_s` bounds one attempt to connect and
    `describe_timeout_s` one description; requests are bounded by their callers. `message_bytes` is
    the largest message either way, by default Triton's own limit and gRPC's greatest.
    `reconnect_after_s` is the pause before the first new attempt when a connection could not be made,
    and `reconnect_within_s` the longest between two: by gRPC's own 1 and 120 a restarted server would
    stay unused for a minute. `keepalive_s` is the pause before a silent connection with calls under way
    is asked for a sign of life: Triton hangs up on who asks again within 300. `keepalive_timeout_s` is
    how long that sign may take, and how long sent bytes may stay unacknowledged.
    """

    address: str
    connect_timeout_s: Annotated[float, Gt(0)] = 2.0
    describe_timeout_s: Annotated[float, Gt(0)] = 5.0
    message_bytes: Annotated[int, Ge(1024), Le(2**31 - 1)] = 2**31 - 1
    reconnect_after_s: Annotated[float, Gt(0)] = 0.1
    reconnect_within_s: Annotated[float, Gt(0)] = 0.5
    keepalive_s: Annotated[float, Gt(0)] = 330.0
    keepalive_timeout_s: Annotated[float, Gt(0)] = 10.0

    def __post_init__(self) -> None:
        if not (is_host_port(self.address) or is_unix(self.address)):
            raise SettingsError(
                f"`triton.address` has the value {self.address!r}: allowed are 'host:port' and 'unix:path'",
                key="triton.address",
                value=self.address,
                allowed="host:port or unix:path",
            )

    @property
    def channel_options(self) -> list[tuple[str, int | str]]:
        """The same as gRPC's channel arguments, whose times are milliseconds."""
        return [
            ("grpc.max_send_message_length", self.message_bytes),
            ("grpc.max_receive_message_length", self.message_bytes),
            ("grpc.initial_reconnect_backoff_ms", _ms(self.reconnect_after_s)),
            ("grpc.max_reconnect_backoff_ms", _ms(self.reconnect_within_s)),
            # By its name a pause, by its effect the least time that an attempt to connect is given.
            ("grpc.min_reconnect_backoff_ms", _ms(self.connect_timeout_s)),
            # A server that comes back under another address is looked up again at once, not after 30 s.
            ("grpc.dns_min_time_between_resolutions_ms", _ms(self.reconnect_within_s)),
            ("grpc.keepalive_time_ms", _ms(self.keepalive_s)),
            ("grpc.keepalive_timeout_ms", _ms(self.keepalive_timeout_s)),
            # gRPC would read a proxy from the environment; the way to the model server is the settings'.
            ("grpc.enable_http_proxy", 0),
            # Connections, and their pauses, are this upstream's own.
            ("grpc.use_local_subchannel_pool", 1),
        ]


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))


# How long a server may take to end a stream after its last response: Triton does so within milliseconds.
_END_S = 1.0


async def _ended(under_way: aio.StreamStreamCall[bytes, bytes]) -> None:
    """Waits for the server's own end of a stream, a while at most.

    Triton 2.51 never unloads a model again when a stream is cancelled just as it ends by itself (the
    unload hangs; seen within three streams). A server that does not end it is left to the cancel.
    """
    with suppress(TimeoutError, aio.AioRpcError):
        async with asyncio.timeout(_END_S):
            while isinstance(await under_way.read(), bytes):
                pass


class TritonUpstream:
    """A model server behind one channel. Made inside a running event loop; closed by `close`."""

    def __init__(self, config: TritonConfig) -> None:
        self._config = config
        self._closed = False
        self._channel = aio.insecure_channel(config.address, options=config.channel_options)
        # Bytes in and bytes out: requests are laid by hand, and an answer that is not protobuf must be told
        # as the server's failure, where gRPC would log it and hand on None.
        self._metadata: _Unary = self._channel.unary_unary(f"{SERVICE}ModelMetadata")
        self._model_config: _Unary = self._channel.unary_unary(f"{SERVICE}ModelConfig")
        self._infer: _Unary = self._channel.unary_unary(f"{SERVICE}ModelInfer")
        self._stream: _Stream = self._channel.stream_stream(f"{SERVICE}ModelStreamInfer")

    def __repr__(self) -> str:
        return f"TritonUpstream({self._config.address!r}{', closed' if self._closed else ''})"

    async def describe(self, model: str, version: str, deadline: Deadline) -> Signature:
        """Reads the model's metadata and configuration, within the settings' time for it."""
        deadline.check("deliver")
        sooner = Deadline.after(self._config.describe_timeout_s)
        if deadline.at_ns is not None and sooner.at_ns is not None:
            sooner = min(deadline, sooner, key=lambda one: one.at_ns or 0)
        with self._meaning(model):
            metadata = await self._metadata(lay_question(model, version), timeout=sooner.remaining_s())
        config: bytes | None = None
        # Only Triton has configurations; without one a model is what its metadata says.
        with suppress(UpstreamUnimplemented), self._meaning(model):
            config = await self._model_config(lay_question(model, version), timeout=sooner.remaining_s())
        return read_signature(metadata, config, model, version)

    async def infer(self, call: Call, deadline: Deadline) -> Answer:
        """Asks once. Cancelling the awaiting task cancels the call at the server."""
        deadline.check("deliver")
        with self._meaning(call.model):
            response = await self._infer(lay_request(call), timeout=deadline.remaining_s())
        return check_complete(read_answer(response, call), call)

    async def stream(self, call: Call, deadline: Deadline) -> AsyncGenerator[Answer, None]:
        """Asks, and yields every response until the model's last.

        Each request has a stream of its own: a failure or a cancellation then is one request's. The
        deadline holds for the whole of it. The last response of a decoupled model is empty, and not
        yielded; a server that marks none ends the stream instead.
        """
        deadline.check("deliver")
        with self._meaning(call.model):
            under_way = self._stream(timeout=deadline.remaining_s())
        try:
            with self._meaning(call.model):
                await under_way.write(lay_request(call, want_final=True))
                await under_way.done_writing()
            last = False
            while not last:
                with self._meaning(call.model):
                    message = await under_way.read()
                if not isinstance(message, bytes):
                    return  # EOF: the server ended the stream with status OK
                answer, last = read_event(message, call)
                if answer.outputs or not last:
                    yield answer
            await _ended(under_way)
        finally:
            under_way.cancel()

    async def close(self) -> None:
        """Closes the channel; calls under way end as UpstreamUnavailable."""
        self._closed = True
        await self._channel.close()

    @contextmanager
    def _meaning(self, model: str) -> Iterator[None]:
        """Turns what gRPC raises into what it means; leaves the task's own cancellation alone."""
        if self._closed:
            raise self._gone(model)
        try:
            yield
        except aio.AioRpcError as error:
            raise faults.of_status(error.code(), error.details() or "", model) from error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            # Closing the channel cancels its calls, and gRPC tells that as if the task had been.
            if self._closed and not (task and task.cancelling()):
                raise self._gone(model) from None
            raise

    @staticmethod
    def _gone(model: str) -> UpstreamUnavailable:
        return faults.of_kind(UpstreamUnavailable, "the connection was closed on this side", model)
