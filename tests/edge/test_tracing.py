"""A caller's trace through a whole sidecar: a span of it at the collector, and its number at the model server."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

import grpc
import numpy as np
import pytest
from multimodal.v1 import media_pb2, preprocessor_pb2, preprocessor_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from PIL import Image
from tritonclient.grpc import model_config_pb2, service_pb2

from tests.observe.collector import Collector, collecting, values
from tests.running import Running, running
from tests.upstream.scripted import Fail, Say, ScriptedServer, scripted

CLIP = {"clip": "clip-vit-base-patch32"}
TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
KEPT, DROPPED = (f"00-{TRACE}-{CALLER}-{flag}" for flag in ("01", "00"))
ONE_WORKER = ("workers.processes=1", "threads.image=1", "threads.express=1")


def picture(side: int = 64) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def media(*contents: bytes) -> list[media_pb2.Media]:
    return [media_pb2.Media(inline=content) for content in contents]


def told(*traceparent: str) -> tuple[tuple[str, str], ...]:
    return tuple(("traceparent", each) for each in traceparent)


@contextmanager
def traced(collector: Collector, *settings: str) -> Iterator[Running]:
    """A sidecar that exports what callers keep."""
    with running(
        CLIP, None, f"tracing.endpoint='{collector.endpoint}'", "tracing.ratio=0", *ONE_WORKER, *settings
    ) as it:
        yield it


@pytest.fixture(scope="module")
def spans() -> dict[str, Span]:
    """The spans, by request, of calls at a sidecar that has stopped since; one of each kind."""
    with collecting() as collector:
        with traced(collector) as sidecar, grpc.insecure_channel(sidecar.address) as channel:
            stub = preprocessor_pb2_grpc.PreprocessorStub(channel)

            def ask(name: str, contents: Sequence[bytes], *traceparent: str, whole: bool = False) -> None:
                request = preprocessor_pb2.PreprocessRequest(
                    model="clip", media=media(*contents), request_id=name, all_or_nothing=whole
                )
                stub.Preprocess(request, metadata=told(*traceparent), timeout=60)

            ask("well", [picture(), picture(32)], KEPT)
            ask("dropped", [picture()], DROPPED)
            ask("untraced", [picture()])
            ask("broken", [picture()], "00-broken")
            with pytest.raises(grpc.RpcError):
                ask("failed", [picture()[:60]], KEPT, whole=True)
        return {str(values(list(span.attributes))["sidecar.request_id"]): span for span in collector.spans()}


def test_calls_whose_callers_keep_them_are_spans_and_others_are_not(spans: dict[str, Span]) -> None:
    assert set(spans) == {"well", "failed"}


def test_a_call_s_span_is_its_caller_s_child(spans: dict[str, Span]) -> None:
    for span in spans.values():
        assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, CALLER)
    assert len({span.span_id for span in spans.values()}) == 2


def test_it_tells_every_stage_of_every_item_within_its_own_time(spans: dict[str, Span]) -> None:
    span = spans["well"]
    events = [(values(list(event.attributes)).get("item"), event.name) for event in span.events]
    for number in (0, 1):
        stages = dict.fromkeys(name for item, name in events if item == number)
        assert list(stages) == ["probe", "admit", "decode", "transform", "pack"]
    assert {name for item, name in events if item is None} == {"receive", "respond"}
    for event in span.events:
        duration_ns = float(values(list(event.attributes))["duration_ms"]) * 1e6
        assert span.start_time_unix_nano <= event.time_unix_nano - duration_ns + 1000
        assert event.time_unix_nano <= span.end_time_unix_nano


def test_it_tells_what_it_was(spans: dict[str, Span]) -> None:
    attributes = values(list(spans["well"].attributes))
    assert (attributes["rpc.method"], attributes["sidecar.model"]) == ("Preprocess", "clip")
    assert (attributes["sidecar.items"], attributes["sidecar.modality"]) == (2, "image")
    assert float(attributes["sidecar.cpu_ms"]) > 0


def test_a_call_that_failed_says_with_what(spans: dict[str, Span]) -> None:
    status = Status(code=Status.StatusCode.STATUS_CODE_ERROR, message="CORRUPT_MEDIA")
    assert spans["failed"].status == status
    assert values(list(spans["failed"].attributes))["error.type"] == "CORRUPT_MEDIA"


def describes(server: ScriptedServer) -> None:
    """Has the server tell of a model that takes CLIP's pictures."""
    tensor = service_pb2.ModelMetadataResponse.TensorMetadata
    server.metadata = service_pb2.ModelMetadataResponse(
        name="clip",
        versions=["1"],
        inputs=[tensor(name="pixel_values", datatype="FP32", shape=[-1, 3, 224, 224])],
        outputs=[tensor(name="y", datatype="FP32", shape=[-1, 1])],
    )
    server.config = service_pb2.ModelConfigResponse(
        config=model_config_pb2.ModelConfig(name="clip", max_batch_size=8)
    )


def answers() -> Say:
    response = service_pb2.ModelInferResponse(model_name="clip", model_version="1")
    response.outputs.add(name="y", datatype="FP32", shape=(1, 1))
    response.raw_output_contents.append(np.float32(1).tobytes())
    return Say(response)


@asynccontextmanager
async def before(
    server: ScriptedServer, *settings: str
) -> AsyncIterator[preprocessor_pb2_grpc.PreprocessorAsyncStub]:
    """A sidecar before that model server, which is on this test's own loop."""
    describes(server)
    starting = running(CLIP, server.address, "triton.shared_memory='off'", *ONE_WORKER, *settings)
    sidecar = await asyncio.to_thread(starting.__enter__)
    try:
        async with grpc.aio.insecure_channel(sidecar.address) as channel:
            yield preprocessor_pb2_grpc.PreprocessorStub(channel)
    finally:
        await asyncio.to_thread(starting.__exit__, None, None, None)


INFER = preprocessor_pb2.InferRequest(model="clip", media=media(picture()))


async def infer(
    server: ScriptedServer, stub: preprocessor_pb2_grpc.PreprocessorAsyncStub, *traceparent: str
) -> str | bytes | None:
    """What the model server is told of the trace of a call whose caller says this."""
    server.will(answers())
    await stub.Infer(INFER, metadata=told(*traceparent), timeout=60)
    return server.seen[-1].headers.get("traceparent")


async def test_the_model_server_is_told_the_trace_with_the_span_as_its_parent() -> None:
    with collecting() as collector:
        async with scripted() as server:
            settings = (f"tracing.endpoint='{collector.endpoint}'", "tracing.ratio=0")
            async with before(server, *settings) as stub:
                kept = await infer(server, stub, KEPT)
                dropped = await infer(server, stub, DROPPED)
                own = await infer(server, stub)
                server.will(Fail(grpc.StatusCode.INTERNAL, "it broke"))
                with pytest.raises(grpc.aio.AioRpcError):
                    await stub.Infer(INFER, metadata=told(KEPT), timeout=60)
        well, failed = collector.spans()
        assert kept == f"00-{TRACE}-{well.span_id.hex()}-01"
        assert "deliver" in {event.name for event in well.events}
        assert failed.status.code == Status.StatusCode.STATUS_CODE_ERROR
        assert str(dropped).startswith(f"00-{TRACE}-")
        assert str(dropped).endswith("-00")
        assert CALLER not in str(dropped)
        # One that nobody asked to keep begins a trace that nobody keeps.
        assert str(own).endswith("-00")
        assert TRACE not in str(own)


async def test_without_a_collector_it_is_told_what_the_caller_said_and_nothing_else() -> None:
    async with scripted() as server, before(server) as stub:
        assert await infer(server, stub, KEPT) == KEPT
        assert await infer(server, stub, DROPPED) == DROPPED
        assert await infer(server, stub) is None
        assert await infer(server, stub, "00-broken") is None


def test_a_collector_that_is_away_holds_up_neither_calls_nor_the_end() -> None:
    with collecting(mute=True) as collector:
        with (
            traced(collector, "server.drain_s=1") as sidecar,
            grpc.insecure_channel(sidecar.address) as channel,
        ):
            request = preprocessor_pb2.PreprocessRequest(model="clip", media=media(picture()))
            for _ in range(3):
                preprocessor_pb2_grpc.PreprocessorStub(channel).Preprocess(
                    request, metadata=told(KEPT), timeout=60
                )
            sidecar.stop()
        assert sidecar.app.finished_drain
        assert collector.asked.is_set()
