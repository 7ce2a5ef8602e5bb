"""One span a request, its stages as events, to an OpenTelemetry collector; and the trace handed on to the model server.

Spans are made of ended calls, off the path, and sent by a thread of the SDK's own. Where none are exported a caller's
trace context is handed on as it came. It never waits for a collector, and loses spans rather than time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Final

from annotated_types import Ge, Le
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from sidecar.addresses import is_host_port
from sidecar.errors import SettingsError
from sidecar.observe.journal import Passage
from sidecar.observe.timings import Stage
from sidecar.observe.trace_context import TraceContext, continued, passed_on

_SCOPE: Final = InstrumentationScope("sidecar")
_SERVICE: Final = "multimodal.v1.Preprocessor"
# How long an end may wait for a collector that does not answer: little of what Kubernetes gives a pod (30 s), of
# which draining has taken most. The SDK would wait for 30 s.
_LAST_S: Final = 3.0


@dataclass(frozen=True, slots=True)
class TracingConfig:
    """`endpoint`: "host:port" of an OpenTelemetry collector that takes OTLP over gRPC; empty exports nothing.

    `ratio`: the part of requests without a caller's trace that are kept, 0 to 1; a caller's own word counts for its
    own. `tls`: whether the collector is spoken to by TLS. `headers`: metadata for it, such as a key, their names in any
    case. `service`: the name that spans are found by.
    """

    endpoint: str = ""
    ratio: Annotated[float, Ge(0), Le(1)] = 0.01
    tls: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    service: str = "sidecar"

    def __post_init__(self) -> None:
        if self.endpoint and not is_host_port(self.endpoint):
            raise SettingsError(
                f"`tracing.endpoint` has {self.endpoint!r}: allowed are host:port, and an empty text to export nothing",
                key="tracing.endpoint",
                value=self.endpoint,
                allowed="host:port or an empty text",
            )


class Tracing:
    """Makes contexts of calls and spans of ended ones. `exporter` stands in for the collector's."""

    def __init__(self, config: TracingConfig, exporter: SpanExporter | None = None) -> None:
        self._config = config
        self._exporter = exporter
        self._processor: BatchSpanProcessor | None = None
        if config.endpoint and exporter is None:
            self._exporter = OTLPSpanExporter(
                endpoint=config.endpoint,
                insecure=not config.tls,
                # gRPC takes names in lower case only, and sends nothing where one is not.
                headers={name.lower(): value for name, value in config.headers.items()},
            )
        if self._exporter is not None:
            # The SDK tells every failed attempt; a collector that is away must not fill the log.
            logging.getLogger("opentelemetry").setLevel(logging.ERROR)
            self._processor = BatchSpanProcessor(self._exporter)
        self._resource = Resource.create({"service.name": config.service})

    def context(self, traceparent: str, tracestate: str) -> TraceContext | None:
        """The context of a call whose caller said this; None for a call that is part of no trace."""
        if self._processor is not None:
            return continued(traceparent, tracestate, self._config.ratio)
        return passed_on(traceparent, tracestate)

    def record(self, ended: Iterable[Passage]) -> None:
        """Hands spans of ended calls to the exporter, those that are kept."""
        if self._processor is None:
            return
        # Spans tell the time of day, marks the monotonic clock.
        offset_ns = time.time_ns() - time.monotonic_ns()
        for passage in ended:
            if passage.trace is not None and passage.trace.sampled:
                self._processor.on_end(self._span(passage, passage.trace, offset_ns))

    def close(self) -> None:
        """Sends what is left, for some seconds at most."""
        if self._processor is None or self._exporter is None:
            return
        # An exporter that is shut down gives up its attempt, and the processor what is left.
        late = threading.Timer(_LAST_S, self._exporter.shutdown)
        late.start()
        self._processor.shutdown()  # type: ignore[no-untyped-call]  # the SDK leaves it so
        late.cancel()
        late.join()

    def _span(self, passage: Passage, trace: TraceContext, offset_ns: int) -> ReadableSpan:
        flags = TraceFlags(TraceFlags.SAMPLED)
        state = TraceState.from_header([trace.state]) if trace.state else TraceState()
        well = passage.reason == "OK"
        return ReadableSpan(
            name=f"{_SERVICE}/{_method(passage.verb)}",
            context=SpanContext(
                trace.trace_id, trace.span_id, is_remote=False, trace_flags=flags, trace_state=state
            ),
            parent=SpanContext(trace.trace_id, trace.parent_id, is_remote=True, trace_flags=flags)
            if trace.parent_id
            else None,
            resource=self._resource,
            attributes=_attributes(passage),
            events=_events(passage, offset_ns),
            kind=SpanKind.SERVER,
            status=Status(StatusCode.UNSET) if well else Status(StatusCode.ERROR, passage.reason),
            start_time=passage.timeline.start_ns + offset_ns,
            end_time=passage.ended_ns + offset_ns,
            instrumentation_scope=_SCOPE,
        )


def _method(verb: str) -> str:
    """The contract's name of a verb's call: infer_stream is InferStream."""
    return verb.title().replace("_", "")


def _attributes(passage: Passage) -> dict[str, str | int | float]:
    """What a span says of its call: names and sums, nothing of its media."""
    told: dict[str, str | int | float] = {
        "rpc.system": "grpc",
        "rpc.service": _SERVICE,
        "rpc.method": _method(passage.verb),
        "sidecar.model": passage.model,
        "sidecar.items": len(passage.items),
        "sidecar.items_failed": sum(bool(item.problem_reason) for item in passage.items),
        "sidecar.cpu_ms": sum(item.cpu_ms for item in passage.items),
    }
    optional: Sequence[tuple[str, str]] = (
        ("sidecar.upstream", passage.upstream),
        ("sidecar.modality", passage.modality.value if passage.modality else ""),
        ("sidecar.request_id", passage.request_id),
        ("sidecar.tenant", passage.tenant),
        ("error.type", "" if passage.reason == "OK" else passage.reason),
    )
    return told | {key: value for key, value in optional if value}


def _events(passage: Passage, offset_ns: int) -> list[Event]:
    """An event for every mark of every item and of the call: the stage, when it ended, and how long it took."""
    marks = [
        (stage, begun, ended, number)
        for number, item in enumerate(passage.items)
        for stage, begun, ended in item.timeline.marks
    ]
    own = {Stage.RECEIVE, Stage.DELIVER, Stage.RESPOND}
    marks += [(stage, begun, ended, -1) for stage, begun, ended in passage.timeline.marks if stage in own]
    return [
        Event(
            stage.value,
            {"duration_ms": (ended - begun) / 1e6} | ({"item": number} if number >= 0 else {}),
            ended + offset_ns,
        )
        for stage, begun, ended, number in sorted(marks, key=lambda mark: mark[2])
    ]
