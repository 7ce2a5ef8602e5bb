"""ModelStreamInfer: many requests on one stream, each routed as a call of its own would be.

Requests that are passed on share one stream to the model server, opened by the first of them; what comes back there is
written as it comes. Those that walk the path are worked on side by side, so many at once, and answered in their order
unless their model is decoupled. Whoever reads slowly holds up both, and in the end its own sending. When the caller
goes, everything ends.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from functools import partial
from typing import Final

import grpc
from grpc import aio

from sidecar.catalogue import ServedModel
from sidecar.deadline import Deadline
from sidecar.edge import respond
from sidecar.edge.around import Around, Context
from sidecar.edge.open_inference import messages
from sidecar.edge.open_inference.envelope import Envelope
from sidecar.edge.open_inference.messages import Given, Request
from sidecar.edge.open_inference.service import (
    ERRORS_AS_STATUS,
    SERVICE,
    OpenInference,
    carried_out,
    onward,
)
from sidecar.edge.visits import Visits
from sidecar.entry import Verb
from sidecar.errors import SidecarError, WrongItemCount
from sidecar.observe.timings import Stage
from sidecar.pipeline import Pipeline
from sidecar.stages.deliver import faults
from sidecar.stages.deliver.passing import Said

METHOD: Final = "ModelStreamInfer"
# Requests of one stream that walk the path at once, or wait to be answered in their turn; what a caller sends beyond is
# left in its connection. Enough to keep any plan's threads busy; out of the air.
_MOST_AT_ONCE: Final = 64


def handlers(
    service: OpenInference, pipeline: Pipeline, visits: Visits, around: Around
) -> grpc.GenericRpcHandler:
    """All handlers of the service, bytes in and bytes out."""

    async def handle(_requests: object, context: Context) -> None:
        await carried_out(around, METHOD, context, _Stream(service, pipeline, visits, context).run)

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
        self._room = asyncio.Semaphore(_MOST_AT_ONCE)

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
                envelope = Envelope.of(raw)
                served = self._service.served(envelope.model())
                found = self._service.media_of(envelope, served)
            except SidecarError as problem:
                await self._tell(problem, None)
                continue
            if found is None or served is None:
                await self._pass(self._service.aimed(envelope, served), works)
                continue
            await self._room.acquire()  # given back by the task
            if served.signature is not None and served.signature.decoupled:
                works.create_task(self._answer(*found, served))
                continue
            before, self._before = self._before, asyncio.Event()
            works.create_task(self._answer_in_turn(*found, served, before, self._before))
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

    async def _answer(self, request: Request, media: Given, served: ServedModel) -> None:
        """Of a decoupled model, as the responses come."""
        try:
            await self._stream(request, media, served)
        except (SidecarError, Said) as problem:
            await self._tell(problem, request)
        finally:
            self._room.release()

    async def _answer_in_turn(
        self,
        request: Request,
        media: Given,
        served: ServedModel,
        before: asyncio.Event | None,
        done: asyncio.Event,
    ) -> None:
        """Of any other, when those that were asked before have been answered."""
        outcome: bytes | SidecarError | Said
        try:
            try:
                outcome = await self._service.prepared(request, media, served, self._context, final=True)
            except (SidecarError, Said) as problem:
                outcome = problem
            if before is not None:
                await before.wait()
            if isinstance(outcome, bytes):
                await self._write(messages.event(outcome))
            else:
                await self._tell(outcome, request)
        finally:
            done.set()
            self._room.release()

    async def _stream(self, request: Request, media: Given, served: ServedModel) -> None:
        """Every response of a decoupled model; then, where that is wanted, an empty one that says it was the last."""
        deadline = Deadline.after(self._context.time_remaining())
        headers = onward(self._context)
        request, media = await self._service.fetched(request, media, deadline, headers)
        shares = messages.shares(request, media, served, self._pipeline.limits(served.name))
        if len(shares) > 1:
            raise WrongItemCount(
                f"model {served.name!r} answers in a stream, and the request brings {len(shares)} rows: ask for one at "
                "a time",
                field=media.name,
                found=len(shares),
                allowed=1,
            )
        (share,) = shares
        ask = partial(share.ask, request, Verb.INFER_STREAM)
        with self._visits.visit(
            Verb.INFER_STREAM, served.name, request.request_id, ask, self._context
        ) as visit:
            walk = visit.walk
            answers = self._pipeline.infer_stream(visit.accepted, self._service.received(share, served), walk)
            async with aclosing(answers) as responses:
                async for answer in responses:
                    if answer is None:
                        continue
                    with walk.timeline.measure(Stage.RESPOND):
                        outputs = messages.outputs_of_one(answer.outputs, visit.accepted.model)
                        await self._service.written(request, outputs, deadline, headers)
                        laid = messages.reply(request, outputs, answer.version, final=False).laid()
                    await self._write(messages.event(laid))
            if request.wants_final:
                last = messages.reply(request, (), walk.version, final=True)
                await self._write(messages.event(last.stamped(walk.timeline.snapshot(), walk.model_times)))

    # --- what is written ---

    async def _write(self, event: bytes) -> None:
        async with self._writing:
            await self._context.write(event)

    async def _tell(self, problem: SidecarError | Said, request: Request | None) -> None:
        """Says what went wrong with a request: in the stream, or by ending it where the caller wants that."""
        if self._errors_end_it:
            raise problem
        words = problem.words if isinstance(problem, Said) else problem.bare().message
        await self._write(messages.event_of_error(words, request))
