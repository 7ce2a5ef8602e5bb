"""The upstream that speaks KServe v2 over gRPC: Triton, and any server of that protocol.

No state about models, and two connections: inferences go by `unary.py`, all else by grpc.aio's own channel. The
messages are tritonclient's generated ones; its asyncio client takes three times as long for a 2.4 MB input.

Inputs that lie in the arena, and outputs of a size known beforehand, are handed over by place where
the server takes part in that (see `shared_memory.py`). A call with outputs there is never cancelled at
the server: when its caller goes, it runs on to its end and its answer is dropped, for only at its end is
it certain that nothing more is written to its slots. No other unary call is either, where a cancellation
may end the server (see `cancelling.py`).

What must never happen here: a call without the caller's deadline or that outlives its caller, but for
the above; an error of gRPC leaving as itself, an answer whose bytes contradict its shape, or the request
header `triton_grpc_error` (see `faults.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import grpc
from annotated_types import Ge, Gt, Le
from google.protobuf.message import DecodeError
from grpc import aio

from sidecar.addresses import is_host_port, is_unix
from sidecar.deadline import Deadline
from sidecar.errors import SettingsError, UpstreamUnavailable, UpstreamUnimplemented
from sidecar.observe.starvation import Counters
from sidecar.stages.deliver import faults
from sidecar.stages.deliver.cancelling import survives_cancelling
from sidecar.stages.deliver.outliving import LONGEST_S, Outliving
from sidecar.stages.deliver.passing import Passing
from sidecar.stages.deliver.shared_memory import Handover, Lender, Loan
from sidecar.stages.deliver.unary import CLOSED, UnaryCalls
from sidecar.stages.deliver.upstream import Answer, Call, SharedMemory, Signature
from sidecar.stages.deliver.wire import (
    SERVICE,
    check_complete,
    event_words,
    lay_count,
    lay_question,
    lay_request,
    read_answer,
    read_counters,
    read_event,
    read_server,
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
    how long that sign may take, and how long sent bytes may stay unacknowledged. `shared_memory` "auto"
    hands tensors over without copies where the model server allows it, "off" always sends bytes.
    """

    address: str
    connect_timeout_s: Annotated[float, Gt(0)] = 2.0
    describe_timeout_s: Annotated[float, Gt(0)] = 5.0
    message_bytes: Annotated[int, Ge(1024), Le(2**31 - 1)] = 2**31 - 1
    reconnect_after_s: Annotated[float, Gt(0)] = 0.1
    reconnect_within_s: Annotated[float, Gt(0)] = 0.5
    keepalive_s: Annotated[float, Gt(0)] = 330.0
    keepalive_timeout_s: Annotated[float, Gt(0)] = 10.0
    shared_memory: Literal["auto", "off"] = "auto"
    cancel: Literal["auto", "always", "never"] = "auto"

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


# How long `close` waits for calls that run on without their callers. Out of the air.
_CLOSE_S = 2.0


async def _ended(under_way: aio.StreamStreamCall[bytes, bytes]) -> None:
    """Waits for the server's own end of a stream, a while at most.

    Triton 2.51 never unloads a model again when a stream is cancelled just as it ends by itself (the
    unload hangs; seen within three streams). A server that does not end it is left to the cancel.
    """
    with suppress(TimeoutError, aio.AioRpcError):
        async with asyncio.timeout(_END_S):
            while isinstance(await under_way.read(), bytes):
                pass


def _release(answer: Answer) -> None:
    for slot in answer.slots:
        slot.release()


class TritonUpstream:
    """A model server. Made inside a running event loop; closed by `close`.

    `memory` is the arena, where there is one; it must outlive the upstream.
    """

    def __init__(self, config: TritonConfig, memory: SharedMemory | None = None) -> None:
        self._config = config
        self._closed = False
        self._channel = aio.insecure_channel(config.address, options=config.channel_options)
        # Bytes in and bytes out: requests are laid by hand, and an answer that is not protobuf must be told
        # as the server's failure, where gRPC would log it and hand on None.
        self._metadata: _Unary = self._channel.unary_unary(f"{SERVICE}ModelMetadata")
        self._model_config: _Unary = self._channel.unary_unary(f"{SERVICE}ModelConfig")
        self._calls = UnaryCalls(config, SERVICE)
        self._statistics: _Unary = self._channel.unary_unary(f"{SERVICE}ModelStatistics")
        self._server_metadata: _Unary = self._channel.unary_unary(f"{SERVICE}ServerMetadata")
        self._stream: _Stream = self._channel.stream_stream(f"{SERVICE}ModelStreamInfer")
        off = config.shared_memory == "off"
        why = "`triton.shared_memory` is off" if off else "there is no arena"
        self._lender = Lender(None if off else memory, self._channel, why)
        self._cancels = config.cancel == "always"
        self._outliving = Outliving()
        self._own = f"{memory.name.rpartition('-')[0]}-" if memory is not None else "sidecar-"
        self._shared_calls_total = self._raw_calls_total = 0
        self._shared_bytes_total = self._copied_bytes_total = 0

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
        signature = read_signature(metadata, config, model, version)
        await self._learn_cancelling(sooner)
        self._lender.described(model)
        await self._lender.ready(sooner)
        return signature

    async def counters(self, model: str, version: str, deadline: Deadline) -> Counters:
        """Reads the model's statistics, which Triton has and not every server of the protocol."""
        asked_ns = time.monotonic_ns()
        with self._meaning(model):
            told = await self._statistics(lay_count(model, version), timeout=deadline.remaining_s())
        return read_counters(told, model, asked_ns, time.monotonic_ns())

    async def infer(self, call: Call, deadline: Deadline) -> Answer:
        """Asks once. Cancelling the awaiting task cancels the call at the server, unless outputs of it are
        to be written to slots, or the server might die of that: then it runs on there, without its caller.
        """
        deadline.check("deliver")
        await self._lender.ready(deadline)
        loan = self._lender.lend(call, outputs=not call.classes)
        nbytes = sum(tensor.nbytes for tensor in call.inputs)
        if not loan.outputs and self._cancels:
            return await self._ask(call, loan, deadline)
        longest = Deadline(None) if loan.outputs else deadline.later(LONGEST_S)
        try:
            asking = asyncio.create_task(self._ask(call, loan, longest), name="infer")
            return await self._outliving.run(asking, deadline, nbytes, _release, always=bool(loan.outputs))
        except TimeoutError:
            raise faults.of_status(
                grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", call.model
            ) from None

    def passing(self) -> Passing:
        """The same connection, for calls that are handed on as they came."""
        return Passing(self._channel, self._calls, self._outliving, lambda: self._cancels, self._own)

    async def stream(self, call: Call, deadline: Deadline) -> AsyncGenerator[Answer, None]:
        """Asks, and yields every response until the model's last.

        Each request has a stream of its own: a failure or a cancellation then is one request's. The
        deadline holds for the whole of it. The last response of a decoupled model is empty, and not
        yielded; a server that marks none ends the stream instead.
        """
        deadline.check("deliver")
        await self._lender.ready(deadline)
        loan = self._lender.lend(call, outputs=False)
        under_way: aio.StreamStreamCall[bytes, bytes] | None = None
        try:
            under_way, message = await self._open(call, loan, deadline)
            while isinstance(message, bytes):
                answer, last = read_event(message, call)
                loan.ended = last
                if answer.outputs or not last:
                    yield answer
                if last:
                    await _ended(under_way)
                    return
                with self._meaning(call.model):
                    message = await under_way.read()
            loan.ended = True  # EOF: the server ended the stream with status OK
        finally:
            if under_way is not None:
                under_way.cancel()
            self._lender.take_back(loan)

    def handover(self) -> Handover:
        """How tensors went to the model server so far."""
        return Handover(
            path=self._lender.path,
            reason=self._lender.reason,
            wanted=self._config.shared_memory != "off",
            registrations_total=self._lender.registrations_total,
            shared_calls_total=self._shared_calls_total,
            raw_calls_total=self._raw_calls_total,
            shared_bytes_total=self._shared_bytes_total,
            copied_bytes_total=self._copied_bytes_total,
            detached_total=self._outliving.total,
            detached=len(self._outliving),
            limbo=self._lender.limbo,
        )

    async def close(self) -> None:
        """Closes the channel, after the model server was told to let go of the arena, for which calls that
        use it are given a while; calls still under way then end as UpstreamUnavailable.
        """
        if not self._closed:
            self._closed = True
            await self._outliving.ended(_CLOSE_S)
            await self._lender.close()
        await self._calls.close()
        await self._channel.close()

    async def _ask(self, call: Call, loan: Loan, deadline: Deadline) -> Answer:
        """Asks, reads the answer and ends the loan, whatever becomes of it."""
        answer: Answer | None = None
        try:
            with self._meaning(call.model):
                response = await self._exchange(call, loan, deadline)
            answer = check_complete(read_answer(response, call, loan.outputs), call)
        finally:
            self._lender.take_back(loan, answer.slots if answer else ())
        return answer

    async def _exchange(self, call: Call, loan: Loan, deadline: Deadline) -> bytes:
        """A request and its response; the request is repeated once where only its places were wrong.

        A server that does not know the region has run nothing. One that finds an output too large for its
        slot has run the model; the signature then is wrong, and this is the price of it, paid once.
        """
        try:
            return await self._send(call, loan, deadline)
        except aio.AioRpcError as error:
            words = error.details() or ""
            if loan.region is not None and faults.is_unknown_region(words):
                await self._register_again(loan, deadline)
            elif loan.outputs and faults.is_too_small(words):
                self._lender.widen(loan, call.model)
            else:
                raise
        return await self._send(call, loan, deadline)

    async def _send(self, call: Call, loan: Loan, deadline: Deadline) -> bytes:
        message = self._lay(call, loan)
        loan.ended = False
        try:
            reply = await self._calls.begin("ModelInfer", message, deadline.remaining_s(), call.headers)
        except aio.AioRpcError as error:
            loan.ended = not faults.is_in_doubt(error.code(), error.details() or "")
            raise
        loan.ended = True
        return reply.message

    async def _open(
        self, call: Call, loan: Loan, deadline: Deadline
    ) -> tuple[aio.StreamStreamCall[bytes, bytes], object]:
        """A stream that the request was written to, and its first message, or EOF; begun again once where
        the server did not know the region.
        """
        under_way, message = await self._begin(call, loan, deadline)
        if loan.region is not None and isinstance(message, bytes):
            try:
                forgotten = faults.is_unknown_region(event_words(message, call.model))
                if forgotten:
                    await self._register_again(loan, deadline)
            except BaseException:
                under_way.cancel()
                raise
            if forgotten:
                under_way.cancel()
                return await self._begin(call, loan, deadline)
        return under_way, message

    async def _begin(
        self, call: Call, loan: Loan, deadline: Deadline
    ) -> tuple[aio.StreamStreamCall[bytes, bytes], object]:
        message = self._lay(call, loan, want_final=True)
        with self._meaning(call.model):
            under_way = self._stream(timeout=deadline.remaining_s(), metadata=call.headers or None)
            try:
                await under_way.write(message)
                await under_way.done_writing()
                return under_way, await under_way.read()
            except BaseException:
                under_way.cancel()
                raise

    async def _register_again(self, loan: Loan, deadline: Deadline) -> None:
        self._lender.forgotten(loan)
        await self._lender.ready(deadline)
        self._lender.renew(loan)

    def _lay(self, call: Call, loan: Loan, *, want_final: bool = False) -> bytes:
        if loan.outputs and not call.outputs and call.signature is not None:
            call = replace(call, outputs=tuple(spec.name for spec in call.signature.outputs))
        laid = lay_request(call, region=loan.region, into=loan.outputs, want_final=want_final)
        if laid.shared or loan.outputs:
            self._shared_calls_total += 1
        else:
            self._raw_calls_total += 1
        self._shared_bytes_total += laid.shared
        self._copied_bytes_total += laid.copied
        return laid.message

    async def _learn_cancelling(self, deadline: Deadline) -> None:
        """Asks who the server is, where it hangs on that whether calls are cancelled there."""
        if self._config.cancel != "auto":
            return
        try:
            told = await self._server_metadata(b"", timeout=deadline.remaining_s())
            self._cancels = survives_cancelling(*read_server(told))
        except aio.AioRpcError as error:
            # Triton has the call.
            self._cancels = error.code() is grpc.StatusCode.UNIMPLEMENTED
        except DecodeError:
            self._cancels = False

    @contextmanager
    def _meaning(self, model: str) -> Iterator[None]:
        """Turns what gRPC raises into what it means; leaves the task's own cancellation alone."""
        if self._closed:
            raise self._gone(model)
        try:
            yield
        except aio.AioRpcError as error:
            if self._closed:
                raise self._gone(model) from None
            meaning = faults.of_status(error.code(), error.details() or "", model)
            if isinstance(meaning, UpstreamUnavailable):
                self._lender.lost()
            raise meaning from error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            # Closing the channel cancels its calls, and gRPC tells that as if the task had been.
            if self._closed and not (task and task.cancelling()):
                raise self._gone(model) from None
            raise

    @staticmethod
    def _gone(model: str) -> UpstreamUnavailable:
        return faults.of_kind(UpstreamUnavailable, CLOSED, model)
