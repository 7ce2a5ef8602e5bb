"""Our own API, one method per RPC: receive, walk the path, respond.

Nothing is decided here. A method enters the path before it reads a single chunk, so that a call that
will be refused is refused before its caller has paid for sending media.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
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

Part = TypeVar("Part", bound=receive.UploadPart)


class Preprocessor(preprocessor_pb2_grpc.PreprocessorServicer):
    """The service `multimodal.v1.Preprocessor`, over the path."""

    def __init__(self, pipeline: Pipeline, catalogue: Catalogue, metrics: Metrics) -> None:
        self._pipeline = pipeline
        self._catalogue = catalogue
        self._metrics = metrics

    async def Preprocess(self, request: pb.PreprocessRequest, context: Context) -> pb.PreprocessResponse:  # noqa: N802 - the contract's name
        timeline = Timeline()
        receive.check_named(request)
        with self._pipeline.enter(request.model, len(request.media), delivers=False) as entry:
            with timeline.measure(Stage.RECEIVE):
                sources = receive.inline_sources(request.media, self._pipeline.limits)
            return await self._preprocess(entry, request, sources, timeline, _deadline(context))

    async def PreprocessUpload(  # noqa: N802 - the contract's name
        self, request_iterator: AsyncIterator[pb.PreprocessUploadRequest], context: Context
    ) -> pb.PreprocessUploadResponse:
        timeline = Timeline()
        message = await receive.first_part(request_iterator)
        assert isinstance(message, pb.PreprocessRequest)  # noqa: S101 - by the contract
        receive.check_named(message)
        with self._pipeline.enter(message.model, len(message.media), delivers=False) as entry:
            sources = await self._collect(request_iterator, message, timeline)
            response = await self._preprocess(entry, message, sources, timeline, _deadline(context))
        return pb.PreprocessUploadResponse(response=response)

    async def Infer(self, request: pb.InferRequest, context: Context) -> pb.InferResponse:  # noqa: N802 - the contract's name
        timeline = Timeline()
        receive.check_named(request)
        with self._pipeline.enter(request.model, len(request.media), delivers=True) as entry:
            with timeline.measure(Stage.RECEIVE):
                sources = receive.inline_sources(request.media, self._pipeline.limits)
            return await self._infer(entry, request, sources, timeline, _deadline(context))

    async def InferUpload(  # noqa: N802 - the contract's name
        self, request_iterator: AsyncIterator[pb.InferUploadRequest], context: Context
    ) -> pb.InferUploadResponse:
        timeline = Timeline()
        message = await receive.first_part(request_iterator)
        assert isinstance(message, pb.InferRequest)  # noqa: S101 - by the contract
        receive.check_named(message)
        with self._pipeline.enter(message.model, len(message.media), delivers=True) as entry:
            sources = await self._collect(request_iterator, message, timeline)
            response = await self._infer(entry, message, sources, timeline, _deadline(context))
        return pb.InferUploadResponse(response=response)

    async def InferStream(  # noqa: N802 - the contract's name
        self, request: pb.InferStreamRequest, context: Context
    ) -> AsyncIterator[pb.InferStreamResponse]:
        timeline = Timeline()
        message = request.request
        receive.check_named(message)
        with self._pipeline.enter(message.model, len(message.media), delivers=True, streams=True) as entry:
            with timeline.measure(Stage.RECEIVE):
                sources = receive.inline_sources(message.media, self._pipeline.limits)
            async with aclosing(
                self._stream(entry, message, sources, timeline, _deadline(context))
            ) as events:
                async for event in events:
                    yield event

    async def InferStreamUpload(  # noqa: N802 - the contract's name
        self, request_iterator: AsyncIterator[pb.InferStreamUploadRequest], context: Context
    ) -> AsyncIterator[pb.InferStreamUploadResponse]:
        timeline = Timeline()
        message = await receive.first_part(request_iterator)
        assert isinstance(message, pb.InferRequest)  # noqa: S101 - by the contract
        receive.check_named(message)
        with self._pipeline.enter(message.model, len(message.media), delivers=True, streams=True) as entry:
            sources = await self._collect(request_iterator, message, timeline)
            async with aclosing(
                self._stream(entry, message, sources, timeline, _deadline(context))
            ) as events:
                async for event in events:
                    yield pb.InferStreamUploadResponse(response=event)

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:  # noqa: ARG002, N802 - the contract's
        return pb.ListModelsResponse(models=[respond.model(model) for model in self._catalogue.all()])

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:  # noqa: ARG002, N802 - the contract's
        return pb.GetModelResponse(model=respond.model(self._catalogue.get(request.model)))

    async def _collect(
        self, parts: AsyncIterator[Part], message: receive.RequestMessage, timeline: Timeline
    ) -> tuple[Source, ...]:
        with timeline.measure(Stage.RECEIVE):
            return await receive.collect(parts, receive.Assembly(message.media, self._pipeline.limits))

    async def _preprocess(
        self,
        entry: Entry,
        message: pb.PreprocessRequest,
        sources: tuple[Source, ...],
        timeline: Timeline,
        deadline: Deadline,
    ) -> pb.PreprocessResponse:
        reply = await self._pipeline.preprocess(entry, receive.request(message, sources, deadline), timeline)
        with timeline.measure(Stage.RESPOND):
            response = respond.preprocess_response(reply, message.request_id)
        response.times.CopyFrom(respond.stage_times(self._observe(entry, reply.items, timeline)))
        return response

    async def _infer(
        self,
        entry: Entry,
        message: pb.InferRequest,
        sources: tuple[Source, ...],
        timeline: Timeline,
        deadline: Deadline,
    ) -> pb.InferResponse:
        reply = await self._pipeline.infer(entry, receive.request(message, sources, deadline), timeline)
        with timeline.measure(Stage.RESPOND):
            response = respond.infer_response(reply, message.request_id)
        response.times.CopyFrom(respond.stage_times(self._observe(entry, reply.items, timeline)))
        return response

    async def _stream(
        self,
        entry: Entry,
        message: pb.InferRequest,
        sources: tuple[Source, ...],
        timeline: Timeline,
        deadline: Deadline,
    ) -> AsyncGenerator[pb.InferStreamResponse, None]:
        request = receive.request(message, sources, deadline)
        items: tuple[Item, ...] = ()
        responses = first_output_ns = handed_over_ns = 0
        async with aclosing(self._pipeline.infer_stream(entry, request, timeline)) as events:
            async for event in events:
                if isinstance(event, Answer):
                    first_output_ns = first_output_ns or time.monotonic_ns() - handed_over_ns
                    yield respond.stream_outputs(event, responses)
                    responses += 1
                else:
                    items = tuple(event)
                    handed_over_ns = time.monotonic_ns()
                    yield respond.prepared(items, message.request_id)
        times = self._observe(entry, items, timeline)
        yield respond.finished(items, times, first_output_ns, responses)

    def _observe(self, entry: Entry, items: Sequence[Item], timeline: Timeline) -> Timings:
        times = timeline.snapshot()
        self._metrics.stages(entry.model.name, items, times)
        return times


def _deadline(context: Context) -> Deadline:
    return Deadline.after(context.time_remaining())
