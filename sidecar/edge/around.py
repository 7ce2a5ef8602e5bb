"""What stands around every call: its status, its count, the drain; each says why it stands at its height.

All four kinds of gRPC method are wrapped by the same two functions, once, where they are registered: gRPC's
interceptors would be asked anew for every call. The count and the drain are plain context managers:
asynchronous ones took 45 µs a call.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from types import MappingProxyType
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from sidecar.edge import payloads, respond
from sidecar.errors import CallCancelled, InternalError, InvalidRequest, ShuttingDown, SidecarError
from sidecar.observe.journal import ARRIVAL, Journal
from sidecar.observe.metrics import Metrics
from sidecar.stages.deliver import faults
from sidecar.stages.deliver.passing import Said

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]

# By (request streams, response streams): where a handler keeps its method, what makes one anew, and
# whether it takes many messages and gives many.
_KINDS: Mapping[tuple[bool, bool], tuple[str, Callable[..., grpc.RpcMethodHandler[Any, Any]], bool, bool]] = {
    (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler, False, False),
    (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler, True, False),
    (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler, False, True),
    (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler, True, True),
}


def _parsed(raw: bytes, parse: Callable[[bytes], Any]) -> Any:  # noqa: ANN401 - any message
    try:
        return parse(raw)
    except DecodeError as error:
        raise InvalidRequest(
            "the message is not one of multimodal.v1: generate your client from its protos", field=""
        ) from error


async def _parsed_all(raws: AsyncIterator[bytes], parse: Callable[[bytes], Any]) -> AsyncIterator[Any]:
    async for raw in raws:
        yield _parsed(raw, parse)


class Around:
    """Stands around the calls of the methods that are registered through it, in a gRPC server's place."""

    def __init__(
        self,
        server: grpc.aio.Server,
        drain: Drain,
        metrics: Metrics,
        journal: Journal,
        *,
        parsers: Mapping[str, Callable[[bytes], Any]] = MappingProxyType({}),
        previews: Mapping[str, Callable[[Context], Awaitable[None]]] = MappingProxyType({}),
        recognise: Callable[[str, Context], None] = lambda _method, _context: None,
    ) -> None:
        """By the methods' names: `parsers` read their requests in place of the generated classes; `previews` are
        asked before the one message of a request is read, and refuse by raising. `journal` is told of calls whose
        message is still on its way. `recognise` is asked who calls a method, and refuses by raising.
        """
        self._recognise = recognise
        self._server = server
        self._drain = drain
        self._metrics = metrics
        self._journal = journal
        self._parsers = parsers
        self._previews = previews

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Generated code adds its methods this way too; those of `add_registered_method_handlers` are taken."""

    def add_registered_method_handlers(
        self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        """Registers a service's methods at the server, wrapped."""
        wrapped = {method: self.wrap(handler, method) for method, handler in handlers.items()}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, wrapped),))
        self._server.add_registered_method_handlers(service, wrapped)

    def wrap(self, handler: grpc.RpcMethodHandler[Any, Any], method: str) -> grpc.RpcMethodHandler[Any, Any]:
        """A method's handler with all that stands around it."""
        name, make, takes, gives = _KINDS[bool(handler.request_streaming), bool(handler.response_streaming)]
        behaviour = getattr(handler, name)
        request_of = self._reader(handler, method, takes=takes)
        if method in self._previews:
            # One message is a stream of one on the wire; only who reads a stream can refuse before it has come.
            _, make, *_ = _KINDS[True, gives]

        async def one(raw: object, context: Context) -> object:
            try:
                with self.entered(method, context):
                    return await behaviour(await request_of(raw, context), context)
            except Exception as error:  # noqa: BLE001 - told as what it is
                ended = failure(method, error)
            # Out of the handler, so that the abort does not carry the error, its frames and their media along.
            return await respond.abort(context, ended)

        async def many(raw: object, context: Context) -> AsyncIterator[object]:
            try:
                with self.entered(method, context):
                    async with aclosing(behaviour(await request_of(raw, context), context)) as responses:
                        async for response in responses:
                            yield response
            except Exception as error:  # noqa: BLE001 - told as what it is
                ended = failure(method, error)
            else:
                return
            await respond.abort(context, ended)

        # Requests come as bytes and are parsed inside, where a malformed one has its status.
        return make(many if gives else one, None, payloads.serialized)

    def _reader(
        self, handler: grpc.RpcMethodHandler[Any, Any], method: str, *, takes: bool
    ) -> Callable[[Any, Context], Awaitable[Any]]:
        """What makes a request, or a stream of them, of what gRPC hands a method."""
        parse: Callable[[bytes], Any] = self._parsers.get(method) or handler.request_deserializer  # type: ignore[assignment]  # generated code sets it
        preview = self._previews.get(method)

        async def plain(raw: Any, _context: Context) -> Any:  # noqa: ANN401 - bytes, or a stream of them
            return _parsed_all(raw, parse) if takes else _parsed(raw, parse)

        async def previewed(_raw: object, context: Context) -> Any:  # noqa: ANN401 - any message
            assert preview is not None  # noqa: S101 - as told below
            arrival = self._journal.arrive()
            ARRIVAL.set(arrival)
            try:
                await preview(context)
                raw = await context.read()
                if raw is grpc.aio.EOF:
                    raise InvalidRequest("the call ended before its request came: send one message", field="")
                return _parsed(raw, parse)
            finally:
                self._journal.arrived(arrival)

        return plain if preview is None else previewed

    @contextmanager
    def entered(self, method: str, context: Context) -> Iterator[None]:
        """What stands around a call beneath the one thing outermost: that what it raises has its status."""
        with (
            _counted(self._metrics, method),  # above the drain, so that refusals are counted too
            self._drain.around(context),  # innermost: what passes it is in flight and will be finished
        ):
            self._recognise(method, context)
            yield


class Drain:
    """Counts calls until their last byte is out, and refuses new ones once the server is going away."""

    def __init__(self) -> None:
        self._in_flight = 0
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def around(self, context: Context) -> Iterator[None]:
        if self._draining:
            raise ShuttingDown(
                "the server is draining: ask another replica, or this one after its restart", retry_after_s=1
            )
        self._in_flight += 1
        self._idle.clear()
        # Not at the handler's end: then the reply may still have its way to the caller before it.
        context.add_done_callback(lambda _call: self._done())  # type: ignore[arg-type]  # the stub asks for a class
        yield

    @property
    def has_begun(self) -> bool:
        return self._draining

    @property
    def in_flight(self) -> int:
        return self._in_flight

    def begin(self) -> int:
        """Refuses new calls from now on; returns how many are in flight."""
        self._draining = True
        return self._in_flight

    async def finished(self) -> None:
        """Returns when no call is in flight."""
        await self._idle.wait()

    def _done(self) -> None:
        self._in_flight -= 1
        if not self._in_flight:
            self._idle.set()


def failure(method: str, error: Exception) -> SidecarError:
    """What the caller is told of what a call raised, never a stack trace; raises what is gRPC's own."""
    if isinstance(error, SidecarError):
        # The frames below have ended, and context managers among them hold the error that holds them.
        traceback.clear_frames(error.__traceback__)
        return error.bare()
    if isinstance(error, grpc.aio.AbortError):
        raise error
    log.error("%s failed", method, exc_info=error)
    return InternalError("a fault of the server; its log tells more")


@contextmanager
def _counted(metrics: Metrics, method: str) -> Iterator[None]:
    """Counts calls by method and status, and how long they took."""
    with metrics.call(method) as call:
        try:
            yield
            call.reason = "OK"
        except SidecarError as error:
            call.reason = error.reason
            raise
        except Said as said:
            call.reason = faults.of_status(said.status, said.words, "").reason
            raise
        except (asyncio.CancelledError, GeneratorExit):
            # A stream whose caller left is ended where it last gave something, as a closed generator.
            call.reason = CallCancelled.reason
            raise
