"""Our own API, one method per RPC: receive, walk the path, respond.

Nothing is decided here. A call is accepted before its media is looked at, and an upload before its first
chunk, so that one which will be refused is refused before its caller has paid for sending media.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, aclosing
from functools import partial
from typing import Any

from multimodal.v1 import preprocessor_pb2 as pb
from multimodal.v1 import preprocessor_pb2_grpc

from sidecar.catalogue import Catalogue
from sidecar.deadline import Deadline
from sidecar.edge import payloads, receive, respond
from sidecar.edge.around import Context
from sidecar.edge.fetch.fetcher import Fetcher
from sidecar.edge.visits import Visit, Visits
from sidecar.entry import Verb, placeholder_tokens
from sidecar.errors import CallCancelled, CallerError
from sidecar.observe.timings import Stage
from sidecar.pipeline import Pipeline
from sidecar.reuse.content import digest_of
from sidecar.reuse.replays import CallKey, Replays
from sidecar.walk import Received, Walk

PARSERS: Mapping[str, Callable[[bytes], payloads.Request[Any]]] = {
    "Preprocess": partial(payloads.read_request, pb.PreprocessRequest),
    "Infer": partial(payloads.read_request, pb.InferRequest),
    "InferStream": partial(payloads.read_request, pb.InferRequest),
    "Estimate": partial(payloads.read_request, pb.EstimateRequest),
}
"""How the requests that bring media in one message are read."""


class Preprocessor(preprocessor_pb2_grpc.PreprocessorServicer):
    """The service `multimodal.v1.Preprocessor`, over the path."""

    def __init__(
        self,
        *,
        pipeline: Pipeline,
        catalogue: Catalogue,
        uploads: receive.UploadRoom,
        fetcher: Fetcher,
        replays: Replays,
        visits: Visits,
    ) -> None:
        self._pipeline = pipeline
        self._catalogue = catalogue
        self._uploads = uploads
        self._fetcher = fetcher
        self._replays = replays
        self._visits = visits
        self.previews: Mapping[str, Callable[[Context], Awaitable[None]]] = {
            "Preprocess": partial(self._preview, Verb.PREPROCESS),
            "Infer": partial(self._preview, Verb.INFER),
            "InferStream": partial(self._preview, Verb.INFER_STREAM),
        }

    async def Preprocess(  # type: ignore[override]  # noqa: N802 - read by PARSERS; the contract's name
        self, request: payloads.Request[pb.PreprocessRequest], context: Context
    ) -> bytes:
        with self._visit(Verb.PREPROCESS, request.message, context) as visit:
            return await self._once(visit, await self._inline(visit, request), self._preprocess)

    async def PreprocessUpload(  # type: ignore[override]  # noqa: N802 - as Preprocess
        self, request_iterator: AsyncIterator[pb.PreprocessUploadRequest], context: Context
    ) -> bytes:
        request = await receive.first_part(request_iterator, self._uploads, pb.PreprocessRequest)
        with self._visit(Verb.PREPROCESS, request, context) as visit:
            received = await self._uploaded(visit, request, request_iterator, context)
            return await self._once(visit, received, self._preprocess)

    async def Infer(  # type: ignore[override]  # noqa: N802 - read by PARSERS; the contract's name
        self, request: payloads.Request[pb.InferRequest], context: Context
    ) -> bytes:
        with self._visit(Verb.INFER, request.message, context) as visit:
            return await self._once(visit, await self._inline(visit, request), self._infer)

    async def InferUpload(  # type: ignore[override]  # noqa: N802 - as Preprocess
        self, request_iterator: AsyncIterator[pb.InferUploadRequest], context: Context
    ) -> bytes:
        request = await receive.first_part(request_iterator, self._uploads, pb.InferRequest)
        with self._visit(Verb.INFER, request, context) as visit:
            received = await self._uploaded(visit, request, request_iterator, context)
            return await self._once(visit, received, self._infer)

    async def InferStream(  # type: ignore[override]  # noqa: N802 - as Preprocess
        self, request: payloads.Request[pb.InferRequest], context: Context
    ) -> AsyncIterator[pb.InferStreamResponse]:
        with self._visit(Verb.INFER_STREAM, request.message, context) as visit:
            async with aclosing(self._stream(visit, await self._inline(visit, request))) as events:
                async for event in events:
                    yield event

    async def InferStreamUpload(  # noqa: N802 - the contract's name
        self, request_iterator: AsyncIterator[pb.InferUploadRequest], context: Context
    ) -> AsyncIterator[pb.InferStreamResponse]:
        request = await receive.first_part(request_iterator, self._uploads, pb.InferRequest)
        with self._visit(Verb.INFER_STREAM, request, context) as visit:
            received = await self._uploaded(visit, request, request_iterator, context)
            async with aclosing(self._stream(visit, received)) as events:
                async for event in events:
                    yield event

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:  # noqa: ARG002, N802 - the contract's
        return pb.ListModelsResponse(models=[respond.model(model) for model in self._catalogue.all()])

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:  # noqa: ARG002, N802 - the contract's
        served = self._catalogue.get(request.model)
        sizes = receive.sizes(request)
        return pb.GetModelResponse(
            model=respond.model(served), placeholder_tokens=placeholder_tokens(served, sizes)
        )

    async def Estimate(  # type: ignore[override]  # noqa: N802 - read by PARSERS; the contract's name
        self, request: payloads.Request[pb.EstimateRequest], context: Context
    ) -> pb.EstimateResponse:
        walk = Walk()
        asked = receive.estimated(
            request.message, Deadline.after(context.time_remaining()), self._visits.tenant(context)
        )
        media = receive.unfetched(receive.inline(request, self._pipeline.limits(request.message.model)))
        facts = receive.infos(request.message)
        verdict = await self._pipeline.estimate(self._pipeline.look(asked), [*media, *facts], walk)
        return respond.estimate(walk, verdict)

    async def _preview(self, verb: Verb, context: Context) -> None:
        """Refuses a call by what its metadata says of its media, before any of that has come.

        The facts are the caller's word and refuse only its own call; who is let in by them is measured
        like everybody else. A caller who asked to be told so is, and sends its media only then.
        """
        metadata = context.invocation_metadata()
        request = receive.facts(metadata)
        if request is None:
            return
        asked = receive.estimated(
            request, Deadline.after(context.time_remaining()), self._visits.tenant(context)
        )
        self._pipeline.preview(asked, receive.infos(request), delivers=verb is not Verb.PREPROCESS)
        if receive.asks_first(metadata):
            await context.send_initial_metadata(respond.LET_IN)

    def _visit(
        self, verb: Verb, request: receive.RequestMessage, context: Context
    ) -> AbstractContextManager[Visit]:
        ask = partial(receive.asked, verb, request)
        return self._visits.visit(verb, request.model, request.request_id, ask, context)

    async def _inline(self, visit: Visit, request: payloads.Request[receive.Message]) -> list[Received]:
        with visit.walk.timeline.measure(Stage.RECEIVE):
            received = receive.inline(request, visit.accepted.limits)
            # The message lives as long as the call; media that was in it has been read, and would be held twice.
            request.message.ClearField("media")
            return await self._fetched(visit, received)

    async def _fetched(self, visit: Visit, received: Sequence[Received | receive.Link]) -> list[Received]:
        asked = visit.accepted.asked
        limits = visit.accepted.limits
        return await self._fetcher.fetch_all(received, limits, asked.tenant, asked.deadline)

    async def _uploaded(
        self,
        visit: Visit,
        request: receive.RequestMessage,
        parts: AsyncIterator[receive.UploadPart],
        context: Context,
    ) -> list[Received]:
        assembly = receive.Assembly(request.media, visit.accepted.limits, self._uploads)
        try:
            with visit.walk.timeline.measure(Stage.RECEIVE):
                received = await receive.collect(parts, assembly, self._uploads)
                # gRPC ends the stream of a caller who left as it ends one that is complete.
                if context.cancelled():
                    raise CallCancelled("the caller left before the upload was complete")
                return await self._fetched(visit, received)
        finally:
            assembly.close()

    async def _once(
        self,
        visit: Visit,
        received: Sequence[Received],
        carry_out: Callable[[Visit, Sequence[Received]], Awaitable[bytes]],
    ) -> bytes:
        """Carries a call out, unless one with its `idempotency_key` was: then its reply is told again."""
        asked = visit.accepted.asked
        if not asked.idempotency_key:
            return await carry_out(visit, received)
        key = CallKey(asked.tenant, asked.verb.value, asked.idempotency_key)
        content = await asyncio.to_thread(digest_of, receive.content_of(asked, received))
        outcome = await self._replays.begin(key, content, asked.deadline)
        if isinstance(outcome, bytes):
            return respond.replayed(asked.verb, outcome)
        with outcome as turn:
            reply = await carry_out(visit, received)
            if all(
                item.problem is None or isinstance(item.problem, CallerError) for item in visit.walk.items
            ):
                turn.reply(reply)
            return reply

    async def _preprocess(self, visit: Visit, received: Sequence[Received]) -> bytes:
        walk = visit.walk
        await self._pipeline.preprocess(visit.accepted, received, walk)
        with walk.timeline.measure(Stage.RESPOND):
            reply = respond.preprocess_reply(walk, visit.accepted.asked.request_id)
        return reply.stamped(walk.timeline.snapshot())

    async def _infer(self, visit: Visit, received: Sequence[Received]) -> bytes:
        walk = visit.walk
        await self._pipeline.infer(visit.accepted, received, walk)
        with walk.timeline.measure(Stage.RESPOND):
            reply = respond.infer_reply(walk, visit.accepted.asked.request_id)
        return reply.stamped(walk.timeline.snapshot())

    async def _stream(
        self, visit: Visit, received: Sequence[Received]
    ) -> AsyncGenerator[pb.InferStreamResponse, None]:
        """The events of a streamed answer."""
        walk, request_id = visit.walk, visit.accepted.asked.request_id
        async with aclosing(self._pipeline.infer_stream(visit.accepted, received, walk)) as happenings:
            async for answer in happenings:
                with walk.timeline.measure(Stage.RESPOND):
                    event = (
                        respond.prepared(walk.items, request_id)
                        if answer is None
                        else respond.stream_outputs(answer, walk.responses - 1)
                    )
                yield event
        yield respond.finished(walk, request_id)
