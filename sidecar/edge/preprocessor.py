"""Our own API, one method per RPC: receive, walk the path, respond.

Nothing is decided here. A method enters the path before it reads a single chunk, so that a call that
will be refused is refused before its caller has paid for sending media.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from operator import attrgetter
from typing import TypeVar

from multimodal.v1 import preprocessor_pb2 as pb
from multimodal.v1 import preprocessor_pb2_grpc

from sidecar.catalogue import Catalogue
from sidecar.deadline import Deadline
from sidecar.edge import receive, respond
from sidecar.edge.interceptors import Context
from sidecar.media import Source
from sidecar.observe.metrics import Metrics
from sidecar.observe.timings import Stage, Timeline, Timings
from sidecar.pipeline import Entry, Item, Pipeline
from sidecar.stages.deliver.upstream import Answer

Event = TypeVar("Event", pb.InferStreamResponse, pb.InferStreamUploadResponse)


@dataclass(frozen=True, slots=True)
class _Visit:
    """A call that was let in: its entry, its clock, and how long its caller will wait."""

    entry: Entry
    timeline: Timeline
    deadline: Deadline


class Preprocessor(preprocessor_pb2_grpc.PreprocessorServicer):
    """The service `multimodal.v1.Preprocessor`, over the path."""

    def __init__(self, pipeline: Pipeline, catalogue: Catalogue, metrics: Metrics) -> None:
        self._pipeline = pipeline
        self._catalogue = catalogue
        self._metrics = metrics

    async def Preprocess(self, request: pb.PreprocessRequest, context: Context) -> pb.PreprocessResponse:  # noqa: N802 - the contract's name
        response = pb.PreprocessResponse()
        with self._enter(request, context, delivers=False) as visit:
            await self._preprocess(visit, request, self._inline(visit, request), response)
        return response

    async def PreprocessUpload(  # noqa: N802 - the contract's name
        self, request_iterator: AsyncIterator[pb.PreprocessUploadRequest], context: Context
    ) -> pb.PreprocessUploadResponse:
        response = pb.PreprocessUploadResponse()
        request = await receive.first_part(request_iterator, pb.PreprocessRequest)
        with self._enter(request, context, delivers=False) as visit:
            sources = await self._uploaded(visit, request, request_iterator)
            await self._preprocess(visit, request, sources, response.response)
        return response

    async def Infer(self, request: pb.InferRequest, context: Context) -> pb.InferResponse:  # noqa: N802 - the contract's name
        response = pb.InferResponse()
        with self._enter(request, context, delivers=True) as visit:
            await self._infer(visit, request, self._inline(visit, request), response)
        return response

    async def InferUpload(  # noqa: N802 - the contract's name
        self, request_iterator: AsyncIterator[pb.InferUploadRequest], context: Context
    ) -> pb.InferUploadResponse:
        response = pb.InferUploadResponse()
        request = await receive.first_part(request_iterator, pb.InferRequest)
        with self._enter(request, context, delivers=True) as visit:
            sources = await self._uploaded(visit, request, request_iterator)
            await self._infer(visit, request, sources, response.response)
        return response

    async def InferStream(  # noqa: N802 - the contract's name
        self, request: pb.InferStreamRequest, context: Context
    ) -> AsyncIterator[pb.InferStreamResponse]:
        inner = request.request
        with self._enter(inner, context, delivers=True, streams=True) as visit:
            sources = self._inline(visit, inner)
            events = self._stream(visit, inner, sources, pb.InferStreamResponse, lambda event: event)
            async with aclosing(events):
                async for event in events:
                    yield event

    async def InferStreamUpload(  # noqa: N802 - the contract's name
        self, request_iterator: AsyncIterator[pb.InferStreamUploadRequest], context: Context
    ) -> AsyncIterator[pb.InferStreamUploadResponse]:
        request = await receive.first_part(request_iterator, pb.InferRequest)
        with self._enter(request, context, delivers=True, streams=True) as visit:
            sources = await self._uploaded(visit, request, request_iterator)
            events = self._stream(
                visit, request, sources, pb.InferStreamUploadResponse, attrgetter("response")
            )
            async with aclosing(events):
                async for event in events:
                    yield event

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:  # noqa: ARG002, N802 - the contract's
        return pb.ListModelsResponse(models=[respond.model(model) for model in self._catalogue.all()])

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:  # noqa: ARG002, N802 - the contract's
        return pb.GetModelResponse(model=respond.model(self._catalogue.get(request.model)))

    @contextmanager
    def _enter(
        self, request: receive.RequestMessage, context: Context, *, delivers: bool, streams: bool = False
    ) -> Iterator[_Visit]:
        timeline = Timeline()
        deadline = Deadline.after(context.time_remaining())
        receive.check_named(request)
        with self._pipeline.enter(
            request.model, len(request.media), delivers=delivers, streams=streams
        ) as entry:
            yield _Visit(entry, timeline, deadline)

    def _inline(self, visit: _Visit, request: receive.RequestMessage) -> tuple[Source, ...]:
        with visit.timeline.measure(Stage.RECEIVE):
            return receive.inline_sources(request.media, self._pipeline.limits)

    async def _uploaded(
        self, visit: _Visit, request: receive.RequestMessage, parts: AsyncIterator[receive.UploadPart]
    ) -> tuple[Source, ...]:
        with visit.timeline.measure(Stage.RECEIVE):
            return await receive.collect(parts, receive.Assembly(request.media, self._pipeline.limits))

    async def _preprocess(
        self,
        visit: _Visit,
        request: pb.PreprocessRequest,
        sources: tuple[Source, ...],
        response: pb.PreprocessResponse,
    ) -> None:
        asked = receive.request(request, sources, visit.deadline)
        reply = await self._pipeline.preprocess(visit.entry, asked, visit.timeline)
        with visit.timeline.measure(Stage.RESPOND):
            respond.fill_preprocess(response, reply, request.request_id)
        response.times.CopyFrom(respond.stage_times(self._observe(visit, reply.items)))

    async def _infer(
        self, visit: _Visit, request: pb.InferRequest, sources: tuple[Source, ...], response: pb.InferResponse
    ) -> None:
        asked = receive.request(request, sources, visit.deadline)
        reply = await self._pipeline.infer(visit.entry, asked, visit.timeline)
        with visit.timeline.measure(Stage.RESPOND):
            respond.fill_infer(response, reply, request.request_id)
        response.times.CopyFrom(respond.stage_times(self._observe(visit, reply.items)))

    async def _stream(
        self,
        visit: _Visit,
        request: pb.InferRequest,
        sources: tuple[Source, ...],
        new: Callable[[], Event],
        event_of: Callable[[Event], pb.InferStreamResponse],
    ) -> AsyncGenerator[Event, None]:
        """The events of a streamed answer, each in a message of the RPC's own."""
        asked = receive.request(request, sources, visit.deadline)
        items: tuple[Item, ...] = ()
        responses = first_output_ns = handed_over_ns = 0
        async with aclosing(self._pipeline.infer_stream(visit.entry, asked, visit.timeline)) as happenings:
            async for happening in happenings:
                message = new()
                if isinstance(happening, Answer):
                    first_output_ns = first_output_ns or time.monotonic_ns() - handed_over_ns
                    respond.fill_outputs(event_of(message), happening, responses)
                    responses += 1
                else:
                    items = tuple(happening)
                    handed_over_ns = time.monotonic_ns()
                    respond.fill_prepared(event_of(message), items, request.request_id)
                yield message
        message = new()
        times = self._observe(visit, items)
        respond.fill_finished(event_of(message), items, times, first_output_ns, responses)
        yield message

    def _observe(self, visit: _Visit, items: Sequence[Item]) -> Timings:
        times = visit.timeline.snapshot()
        self._metrics.stages(visit.entry.model.name, items, times)
        return times
