"""One span a request at a real collector, and nothing that waits for it."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from sidecar.errors import CorruptMedia, SettingsError
from sidecar.media import Modality
from sidecar.observe.journal import Passage
from sidecar.observe.timings import Stage
from sidecar.observe.trace_context import TraceContext
from sidecar.observe.tracing import Tracing, TracingConfig
from tests.observe.collector import Collector, collecting, values
from tests.observe.passages import START_NS, item, passage

CALLER = TraceContext(0x4BF92F3577B34DA6A3CE929D0E0E4736, 0, 0xF067AA0BA902B7, sampled=True)
OURS = TraceContext(CALLER.trace_id, CALLER.span_id, 0x1234, sampled=True, state="a=1,b=2")
MS = 1_000_000
# What close may take: its bound for a collector that does not answer, and a busy machine's time.
CLOSED_WITHIN_S = 8.0


@pytest.fixture(autouse=True)
def loggers_as_they_were() -> Iterator[None]:
    logger = logging.getLogger("opentelemetry")
    level = logger.level
    yield
    logger.setLevel(level)


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as started:
        yield started


def sent(collector: Collector, *ended: Passage, **settings: str) -> list[Span]:
    """What the collector has of these calls."""
    with closing(Tracing(TracingConfig(collector.endpoint, **settings))) as tracing:  # type: ignore[arg-type]
        tracing.record(ended)
    return collector.spans()


def at(start_ms: float, end_ms: float, stage: Stage) -> tuple[Stage, int, int]:
    return stage, START_NS + int(start_ms * MS), START_NS + int(end_ms * MS)


@contextmanager
def nobody() -> Iterator[str]:
    """An address where nobody listens, for as long as the block lasts."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


class TestSpans:
    def test_a_call_is_one_span_with_its_name_and_its_times_of_day(self, collector: Collector) -> None:
        now_ns, ended_ns = time.time_ns(), time.monotonic_ns()
        (span,) = sent(
            collector,
            passage(verb="infer_stream", trace=OURS, start_ns=ended_ns - 10 * MS, ended_ns=ended_ns),
        )
        assert (span.name, span.kind) == (
            "multimodal.v1.Preprocessor/InferStream",
            Span.SpanKind.SPAN_KIND_SERVER,
        )
        assert span.end_time_unix_nano - span.start_time_unix_nano == 10 * MS
        assert abs(span.end_time_unix_nano - now_ns) < 1000 * MS

    def test_it_is_its_caller_s_child_in_its_caller_s_trace(self, collector: Collector) -> None:
        (span,) = sent(collector, passage(trace=OURS))
        assert span.trace_id.hex() == CALLER.trace_hex
        assert span.parent_span_id == CALLER.span_id.to_bytes(8, "big")
        assert span.span_id == OURS.span_id.to_bytes(8, "big")
        assert span.trace_state == "a=1,b=2"

    def test_without_a_caller_s_trace_it_has_no_parent(self, collector: Collector) -> None:
        with closing(Tracing(TracingConfig(collector.endpoint, ratio=1))) as tracing:
            trace = tracing.context("", "")
            assert trace is not None
            tracing.record([passage(trace=trace)])
        (span,) = collector.spans()
        assert (span.trace_id.hex(), span.parent_span_id) == (trace.trace_hex, b"")

    def test_what_the_model_server_is_told_names_the_span_as_parent(self, collector: Collector) -> None:
        with closing(Tracing(TracingConfig(collector.endpoint))) as tracing:
            trace = tracing.context(CALLER.traceparent, "")
            assert trace is not None
            tracing.record([passage(trace=trace)])
        (span,) = collector.spans()
        assert trace.traceparent == f"00-{CALLER.trace_hex}-{span.span_id.hex()}-01"
        assert span.parent_span_id.hex() == f"{CALLER.span_id:016x}"

    def test_its_stages_are_events_with_their_durations_and_items_in_the_order_of_their_ends(
        self, collector: Collector
    ) -> None:
        first = item(at(2, 4, Stage.ADMIT), at(4, 7.5, Stage.DECODE))
        second = item(at(2, 2.25, Stage.ADMIT), at(3, 9, Stage.DECODE))
        # The call's own timeline counts what its last item did too, which is told by the item.
        own = (at(0, 1, Stage.RECEIVE), at(2, 9, Stage.DECODE), at(9, 9.5, Stage.RESPOND))
        (span,) = sent(collector, passage(*own, items=[first, second], trace=OURS))
        assert [
            (
                event.name,
                (event.time_unix_nano - span.start_time_unix_nano) / MS,
                values(list(event.attributes)),
            )
            for event in span.events
        ] == [
            ("receive", 1, {"duration_ms": 1.0}),
            ("admit", 2.25, {"duration_ms": 0.25, "item": 1}),
            ("admit", 4, {"duration_ms": 2.0, "item": 0}),
            ("decode", 7.5, {"duration_ms": 3.5, "item": 0}),
            ("decode", 9, {"duration_ms": 6.0, "item": 1}),
            ("respond", 9.5, {"duration_ms": 0.5}),
        ]

    def test_it_tells_names_and_sums(self, collector: Collector) -> None:
        items = [item(cpu_ms=1.5), item(cpu_ms=2.0, problem=CorruptMedia("cut short"))]
        (span,) = sent(
            collector,
            passage(
                items=items,
                verb="infer",
                modality=Modality.AUDIO,
                upstream="whisper",
                request_id="r1",
                tenant="t1",
                trace=OURS,
            ),
        )
        assert values(list(span.attributes)) == {
            "rpc.system": "grpc",
            "rpc.service": "multimodal.v1.Preprocessor",
            "rpc.method": "Infer",
            "sidecar.model": "clip",
            "sidecar.items": 2,
            "sidecar.items_failed": 1,
            "sidecar.cpu_ms": 3.5,
            "sidecar.upstream": "whisper",
            "sidecar.modality": "audio",
            "sidecar.request_id": "r1",
            "sidecar.tenant": "t1",
        }

    def test_what_a_call_has_not_is_not_told(self, collector: Collector) -> None:
        (span,) = sent(collector, passage(modality=None, trace=OURS))
        optional = {
            "sidecar.upstream",
            "sidecar.modality",
            "sidecar.request_id",
            "sidecar.tenant",
            "error.type",
        }
        assert not optional & set(values(list(span.attributes)))

    def test_a_long_request_id_is_cut(self, collector: Collector) -> None:
        (span,) = sent(collector, passage(request_id="x" * 100_000, trace=OURS))
        assert values(list(span.attributes))["sidecar.request_id"] == "x" * 64

    def test_one_that_failed_is_an_error_of_its_name(self, collector: Collector) -> None:
        well, failed = sent(collector, passage(trace=OURS), passage(reason="OVERLOADED", trace=OURS))
        assert (well.status.code, failed.status.code) == (
            Status.StatusCode.STATUS_CODE_UNSET,
            Status.StatusCode.STATUS_CODE_ERROR,
        )
        assert failed.status.message == values(list(failed.attributes))["error.type"] == "OVERLOADED"

    def test_spans_are_found_by_the_service_s_name(self, collector: Collector) -> None:
        sent(collector, passage(trace=OURS), service="eyes")
        (resource,) = collector.resources()
        assert values(list(resource.resource.attributes))["service.name"] == "eyes"

    def test_the_collector_gets_its_headers_however_they_are_written(self, collector: Collector) -> None:
        config = TracingConfig(collector.endpoint, headers={"X-Api-Key": "secret", "x-team": "eyes"})
        with closing(Tracing(config)) as tracing:
            tracing.record([passage(trace=OURS)])
        (metadata,) = collector.metadata
        assert (metadata["x-api-key"], metadata["x-team"]) == ("secret", "eyes")

    def test_those_that_are_not_kept_are_not_sent(self, collector: Collector) -> None:
        dropped = TraceContext(CALLER.trace_id, CALLER.span_id, 0x99, sampled=False)
        (span,) = sent(collector, passage(trace=dropped), passage(trace=None), passage(trace=OURS))
        assert span.span_id == OURS.span_id.to_bytes(8, "big")

    def test_many_calls_are_as_many_spans(self, collector: Collector) -> None:
        ended = [passage(trace=TraceContext(7, 0, number, sampled=True)) for number in range(1, 2001)]
        spans = sent(collector, *ended)
        assert {int.from_bytes(span.span_id, "big") for span in spans} == set(range(1, 2001))


@pytest.fixture(scope="module")
def in_memory() -> Iterator[Tracing]:
    with closing(Tracing(TracingConfig(), InMemorySpanExporter())) as tracing:
        yield tracing


@given(st.text(max_size=600) | st.from_regex(r"\A([a-z]{1,3}=[a-z]{0,3}[,; ]){0,40}\Z"))
def test_whatever_a_caller_says_beside_its_trace_a_span_comes_of_it(in_memory: Tracing, state: str) -> None:
    trace = in_memory.context(CALLER.traceparent, state)
    assert trace is not None
    span = in_memory._span(passage(trace=trace), trace, 0)
    assert span.context is not None
    assert (span.context.trace_id, span.context.span_id) == (CALLER.trace_id, trace.span_id)


class TestWithoutACollector:
    def test_a_caller_s_context_is_handed_on_as_it_came(self) -> None:
        with closing(Tracing(TracingConfig(ratio=1))) as tracing:
            context = tracing.context(CALLER.traceparent, "a=1")
            assert context is not None
            assert (context.traceparent, context.state) == (CALLER.traceparent, "a=1")

    @pytest.mark.parametrize("said", ["", "nonsense"])
    def test_a_call_without_one_is_part_of_no_trace(self, said: str) -> None:
        with closing(Tracing(TracingConfig(ratio=1))) as tracing:
            assert tracing.context(said, "") is None

    def test_nothing_is_made_of_calls_and_no_thread_runs(self) -> None:
        before = set(threading.enumerate())
        with closing(Tracing(TracingConfig(ratio=1))) as tracing:
            tracing.record([passage(trace=OURS)])
            assert set(threading.enumerate()) <= before


class TestACollectorThatIsAway:
    def test_recording_does_not_wait_and_closing_ends(self) -> None:
        with nobody() as address:
            took, closed = self.timed(address)
        assert took < 1.0
        assert closed < CLOSED_WITHIN_S

    def test_nor_for_one_that_says_nothing(self) -> None:
        with collecting(mute=True) as collector:
            took, closed = self.timed(collector.endpoint)
            assert collector.asked.is_set()
        assert took < 1.0
        assert closed < CLOSED_WITHIN_S

    def test_it_does_not_fill_the_log(self, caplog: pytest.LogCaptureFixture) -> None:
        with nobody() as address:
            self.timed(address)
        # The SDK says the same thing once in 20 s, by the clock on the wall.
        assert len(caplog.records) <= 2

    def test_what_comes_after_the_end_is_left_out(self, collector: Collector) -> None:
        tracing = Tracing(TracingConfig(collector.endpoint))
        tracing.close()
        tracing.record([passage(trace=OURS)])
        tracing.close()
        assert not collector.spans()

    def timed(self, address: str) -> tuple[float, float]:
        """Seconds that recording more than fits into one message took, and closing."""
        tracing = Tracing(TracingConfig(address))
        begun = time.monotonic()
        tracing.record([passage(trace=OURS) for _ in range(2000)])
        recorded = time.monotonic()
        tracing.close()
        return recorded - begun, time.monotonic() - recorded


BAD_ENDPOINTS: Mapping[str, str] = {
    "no port": "collector",
    "a URL": "http://collector:4317",
    "a port that is none": "collector:99999",
    "a socket": "unix:/run/otel.sock",
}


@pytest.mark.parametrize("case", BAD_ENDPOINTS)
def test_an_endpoint_that_is_none_is_named(case: str) -> None:
    with pytest.raises(SettingsError, match=r"tracing\.endpoint") as refused:
        TracingConfig(BAD_ENDPOINTS[case])
    assert refused.value.facts["value"] == BAD_ENDPOINTS[case]


@pytest.mark.parametrize("endpoint", ["", "collector:4317", "127.0.0.1:4317", "[::1]:4317"])
def test_one_that_is_an_address_or_empty_is_taken(endpoint: str) -> None:
    assert TracingConfig(endpoint).endpoint == endpoint
