"""ModelStreamInfer: many requests on one stream, each routed as a call of its own would be.

Requests that are passed on share one stream to the model server, opened by the first of them; what comes back there is
written as it comes. Those that walk the path are worked on side by side, and answered in their order unless their model
is decoupled. Whoever reads slowly holds up the readers of both, and no more than one response of each waits. When the
caller goes, everything ends, the stream to the model server first.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from functools import partial

import grpc
from grpc import aio

from sidecar.catalogue import ServedModel
from sidecar.deadline import Deadline
from sidecar.edge import respond
from sidecar.edge.around import Around, Context, failure
from sidecar.edge.open_inference import messages
from sidecar.edge.open_inference.messages import Given, Request
from sidecar.edge.open_inference.service import (
    ERRORS_AS_STATUS,
    SERVICE,
    OpenInference,
    abort,
    onward,
)
from sidecar.edge.visits import Visits
from sidecar.entry import Verb
from sidecar.errors import SidecarError
from sidecar.observe.timings import Stage
from sidecar.pipeline import Pipeline
from sidecar.stages.deliver import faults
from sidecar.stages.deliver.passing import Said

METHOD = "ModelStreamInfer"


def handlers(
    service: OpenInference, pipeline: Pipeline, visits: Visits, around: Around
) -> grpc.GenericRpcHandler:
    """All handlers of the service, bytes in and bytes out."""

    async def handle(_requests: object, context: Context) -> None:
        ended: Said | SidecarError
        try:
            with around.entered(METHOD, context):
                await _Stream(service, pipeline, visits, context).run()
                return
        except Said as said:
            ended = said
        except Exception as error:  # noqa: BLE001 - told as what it is
            ended = failure(METHOD, error)
        await abort(context, ended)

    streaming: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(handle, None, None)
    return grpc.method_handlers_generic_handler(SERVICE, {**service.handlers(around), METHOD: streaming})


class _Stream:
    """One caller's stream."""

    def __init__(self, service: OpenInference, pipeline: Pipeline, visits: Visits, context: Context) -> None:
        self._service = service
        self._pipeline = pipeline
        self._visits = visits
        self._context = context
        self._errors_end_it = any(key == ERRORS_AS_STATUS for key, _ in context.invocation_metadata() or ())
        self._writing = asyncio.Lock()
        self._upstream: aio.StreamStreamCall[bytes, bytes] | None = None
        self._before: asyncio.Event | None = None

    async def run(self) -> None:
        """Until the caller has no more to ask and has all its answers. Raises Said and the errors of the path."""
        try:
            async with asyncio.TaskGroup() as works:
                await self._take_all(works)
        except BaseExceptionGroup as group:
            # The first failure has cancelled the others, and is what the stream ends with.
            raise group.exceptions[0] from None
        finally:
            if self._upstream is not None:
                self._upstream.cancel()

    async def _take_all(self, works: asyncio.TaskGroup) -> None:
        while isinstance(raw := await self._context.read(), bytes):
            try:
                served = self._service.served(messages.model_of(raw))
                request = messages.read(raw) if served is not None and served.recipe is not None else None
            except SidecarError as problem:
                await self._tell(problem, None)
                continue
            media = request.media(served) if request is not None and served is not None else None
            if request is None or media is None or served is None:
                await self._pass(self._service.aimed(raw, served), works)
                continue
            before, self._before = self._before, asyncio.Event()
            works.create_task(self._answer(request, media, served, before, self._before))
        if self._upstream is not None:
            await self._upstream.done_writing()

    # --- what is passed on ---

    async def _pass(self, raw: bytes, works: asyncio.TaskGroup) -> None:
        if self._upstream is None:
            deadline = Deadline.after(self._context.time_remaining())
            self._upstream = self._service.passing.stream(deadline, onward(self._context))
            works.create_task(self._hand_back(self._upstream))
        try:
            await self._upstream.write(raw)
        except (aio.AioRpcError, asyncio.InvalidStateError):
            return  # it has ended, and who reads from it tells how

    async def _hand_back(self, upstream: aio.StreamStreamCall[bytes, bytes]) -> None:
        """What the model server answers, as it comes."""
        try:
            while isinstance(event := await upstream.read(), bytes):
                if self._errors_end_it and (words := messages.words_of(event)):
                    raise Said(respond.STATUS[type(faults.of_stream(words, ""))], words)
                await self._write(event)
            if (code := await upstream.code()) is not grpc.StatusCode.OK:
                raise Said(
                    code, await upstream.details() or "", tuple(await upstream.trailing_metadata() or ())
                )
        except aio.AioRpcError as error:
            raise Said.of(error) from error

    # --- what walks the path ---

    async def _answer(
        self,
        request: Request,
        media: Given,
        served: ServedModel,
        before: asyncio.Event | None,
        done: asyncio.Event,
    ) -> None:
        try:
            if served.signature is not None and served.signature.decoupled:
                await self._stream(request, media, served)
                return
            answer = await self._service.prepared(request, media, served, self._context, final=True)
            if before is not None:
                await before.wait()
            await self._write(messages.event(answer))
        except SidecarError as problem:
            await self._tell(problem.bare(), request)
        except Said as said:
            await self._tell_words(said.words, request)
        finally:
            done.set()

    async def _stream(self, request: Request, media: Given, served: ServedModel) -> None:
        """Every response of a decoupled model; then, where that is wanted, an empty one that says it was the last."""
        deadline = Deadline.after(self._context.time_remaining())
        request, media = await self._service.fetched(request, media, deadline, onward(self._context))
        share, *_ = messages.shares(request, media, served)
        ask = partial(share.ask, request, Verb.INFER_STREAM)
        with self._visits.visit(
            Verb.INFER_STREAM, served.name, request.request_id, ask, self._context
        ) as visit:
            walk = visit.walk
            answers = self._pipeline.infer_stream(visit.accepted, self._service.received(share), walk)
            async with aclosing(answers) as responses:
                async for answer in responses:
                    if answer is None:
                        continue
                    with walk.timeline.measure(Stage.RESPOND):
                        outputs = messages.outputs_of_one(answer.outputs, served)
                        laid = messages.reply(request, outputs, answer.version, final=False).laid()
                    await self._write(messages.event(laid))
            if request.wants_final:
                last = messages.reply(request, (), walk.version, final=True)
                await self._write(messages.event(last.stamped(walk.timeline.snapshot())))

    # --- what is written ---

    async def _write(self, event: bytes) -> None:
        async with self._writing:
            await self._context.write(event)

    async def _tell(self, problem: SidecarError, request: Request | None) -> None:
        """Says what went wrong with a request: in the stream, or by ending it where the caller wants that."""
        if self._errors_end_it:
            raise problem
        await self._tell_words(problem.message, request)

    async def _tell_words(self, words: str, request: Request | None) -> None:
        await self._write(messages.event_of_error(words, request))
