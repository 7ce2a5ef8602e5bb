"""An OpenTelemetry collector for tests: a real gRPC server that takes OTLP traces and keeps what it is sent.

    with collecting() as collector:
        ...                        # something exports to collector.endpoint
        collector.spans()          # of one that has sent all it will

A mute one takes calls and answers none of them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span

_SERVICE = "opentelemetry.proto.collector.trace.v1.TraceService"


@dataclass
class Collector:
    """What it was sent, and with which metadata."""

    endpoint: str = ""
    mute: bool = False
    requests: list[ExportTraceServiceRequest] = field(default_factory=list)
    metadata: list[dict[str, str | bytes]] = field(default_factory=list)
    asked: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)

    def export(
        self, request: ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> ExportTraceServiceResponse:
        """OTLP's one call."""
        self.asked.set()
        if self.mute:
            self.ended.wait()
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        return ExportTraceServiceResponse()

    def resources(self) -> list[ResourceSpans]:
        """By resource, as they came."""
        return [each for request in self.requests for each in request.resource_spans]

    def spans(self) -> list[Span]:
        """All spans, in the order in which they came."""
        return [span for each in self.resources() for scope in each.scope_spans for span in scope.spans]


def values(attributes: Iterator[KeyValue] | list[KeyValue]) -> Mapping[str, str | int | float]:
    """Attributes by name."""
    return {each.key: getattr(each.value, str(each.value.WhichOneof("value"))) for each in attributes}


@contextmanager
def collecting(*, mute: bool = False) -> Iterator[Collector]:
    """A collector on a free port of this machine, stopped at the end."""
    collector = Collector(mute=mute)
    handler = grpc.unary_unary_rpc_method_handler(
        collector.export,
        request_deserializer=ExportTraceServiceRequest.FromString,
        response_serializer=ExportTraceServiceResponse.SerializeToString,
    )
    with ThreadPoolExecutor(4) as threads:
        server = grpc.server(threads)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(_SERVICE, {"Export": handler}),)
        )
        collector.endpoint = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        try:
            yield collector
        finally:
            collector.ended.set()
            server.stop(None).wait()
