"""Callers who mean harm: what they send is refused, what they hold is given back, and others are served."""

from __future__ import annotations

import concurrent.futures
import contextlib
import gc
import gzip
import io
import socket
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from multimodal.v1 import media_pb2, preprocessor_pb2, preprocessor_pb2_grpc
from PIL import Image

from inference_client import Client
from sidecar.media import Source
from sidecar.stages.admit.gate import GateConfig
from tests.running import Running, running

BROKEN = Path(__file__).parents[1] / "corpus" / "broken"
MODELS = {"clip": "clip-vit-base-patch32", "whisper": "whisper-tiny"}
MESSAGE_BYTES = 1_500_000
# Far more than any of it takes; a server that needs as long is stuck.
PATIENCE_S = 30.0

Stub = preprocessor_pb2_grpc.PreprocessorStub


@pytest.fixture(scope="module")
def attacked() -> Iterator[Running]:
    with running(MODELS, None, f"server.message_bytes={MESSAGE_BYTES}") as sidecar:
        yield sidecar


@pytest.fixture
def stub(attacked: Running) -> Iterator[Stub]:
    with grpc.insecure_channel(attacked.address) as channel:
        yield Stub(channel)


def picture(width: int = 64, height: int = 48) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), (9, 120, 200)).save(file, "PNG")
    return file.getvalue()


def asking(*data: bytes, model: str = "clip") -> preprocessor_pb2.PreprocessRequest:
    return preprocessor_pb2.PreprocessRequest(
        model=model, media=[media_pb2.Media(inline=each) for each in data]
    )


def serves(sidecar: Running) -> bool:
    with Client(sidecar.address) as client:
        return client.preprocess("clip", picture()).tensor().shape == (3, 224, 224)


def samples(sidecar: Running, *names: str) -> dict[str, float]:
    """Samples whose name begins with one of `names`, with their labels, as a scraper reads them."""
    with urllib.request.urlopen(f"http://{sidecar.app.metrics_address}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if line.startswith(names))
    return {name: float(value) for name, value in pairs}


def settled(sidecar: Running) -> dict[str, float]:
    """What is queued and running, once it is nothing, or when patience has ended."""
    give_up = time.monotonic() + PATIENCE_S
    while True:
        now = samples(sidecar, "sidecar_gate_queued", "sidecar_gate_running")
        if not any(now.values()) or time.monotonic() > give_up:
            return now


def is_empty(gate: dict[str, float]) -> bool:
    return bool(gate) and not any(gate.values())


class TestBadMedia:
    def test_broken_files_many_at_once_are_each_refused_as_the_callers_fault(
        self, attacked: Running, stub: Stub
    ) -> None:
        files = [file.read_bytes() for file in sorted(BROKEN.iterdir())]
        requests = [asking(data, model=model) for data in files for model in MODELS]
        with concurrent.futures.ThreadPoolExecutor(50) as callers:
            answers = callers.map(lambda request: stub.Preprocess(request, timeout=PATIENCE_S), requests)
            reasons = {answer.items[0].problem.reason for answer in answers}
        # Some are broken for one kind of model only, or not enough to be refused.
        assert reasons <= {
            "",
            "CORRUPT_MEDIA",
            "UNSUPPORTED_MEDIA",
            "WRONG_MODALITY",
            "MEDIA_TOO_LARGE",
        }
        assert is_empty(settled(attacked))

    @pytest.mark.parametrize("size", [(1, 65_000), (65_000, 1), (1, 32_768), (32_768, 1)])
    def test_a_picture_of_absurd_ratio_is_too_large_before_it_is_decoded(
        self, stub: Stub, size: tuple[int, int]
    ) -> None:
        (item,) = stub.Preprocess(asking(picture(*size))).items
        assert item.problem.reason == "MEDIA_TOO_LARGE"
        assert item.times.decode_ns == 0


class TestBadBehaviour:
    def test_calls_cancelled_in_any_state_leave_nothing_queued_or_running(
        self, attacked: Running, stub: Stub
    ) -> None:
        data = picture(800, 600)
        calls = [stub.Preprocess.future(asking(*[data] * 3)) for _ in range(80)]
        for call in calls:
            call.cancel()
        assert is_empty(settled(attacked))
        assert serves(attacked)

    def test_uploads_abandoned_midway_give_their_places_back(self, attacked: Running, stub: Stub) -> None:
        # Twice as many items as the queue has places.
        calls = [
            (upload := Abandoned(), stub.PreprocessUpload.future(upload))
            for _ in range(2 * GateConfig().max_queued // 64)
        ]
        for upload, call in calls:
            call.cancel()
            upload.end()
        assert is_empty(settled(attacked))
        assert serves(attacked)

    def test_connections_cut_midway_through_an_upload_give_their_places_back(self, attacked: Running) -> None:
        for _ in range(8):
            upload = Abandoned()
            with grpc.insecure_channel(attacked.address) as channel:
                call = Stub(channel).PreprocessUpload.future(upload)
                upload.wait_until_asked_for_more()
            upload.end()
            assert call.done()
        assert is_empty(settled(attacked))
        assert serves(attacked)

    @pytest.mark.parametrize(
        "hello",
        [
            b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
            bytes.fromhex("1603010005010000010303"),
            bytes(range(256)) * 16,
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 64,
        ],
        ids=["http1", "tls", "bytes", "http2 garbage"],
    )
    def test_who_speaks_no_grpc_is_hung_up_on_and_others_are_served(
        self, attacked: Running, hello: bytes
    ) -> None:
        host, _, port = attacked.address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as connection:
            connection.sendall(hello)
            try:
                while connection.recv(4096):
                    pass
            except ConnectionResetError:
                pass
        assert serves(attacked)


class TestBadMessages:
    def test_a_small_message_that_unpacks_past_the_limit_is_refused(
        self, attacked: Running, stub: Stub
    ) -> None:
        bomb = asking(bytes(20 * MESSAGE_BYTES))
        assert len(gzip.compress(bomb.SerializeToString())) < MESSAGE_BYTES
        with pytest.raises(grpc.RpcError) as refused:
            stub.Preprocess(bomb, compression=grpc.Compression.Gzip)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert serves(attacked)

    def test_names_that_callers_make_up_add_no_series_to_the_metrics(
        self, attacked: Running, stub: Stub
    ) -> None:
        def ask(model: str) -> grpc.StatusCode:
            with pytest.raises(grpc.RpcError) as refused:
                stub.Preprocess(asking(picture(), model=model))
            return refused.value.code()

        assert ask("nobody") is grpc.StatusCode.NOT_FOUND
        before = set(samples(attacked, "sidecar_"))
        assert {ask(f"nobody {number}") for number in range(100)} == {grpc.StatusCode.NOT_FOUND}
        assert set(samples(attacked, "sidecar_")) == before


class Abandoned:
    """An upload of 64 items that brings a piece of one and then nothing, until it is ended."""

    def __init__(self) -> None:
        self._asked = concurrent.futures.Future[None]()
        self._ended = concurrent.futures.Future[None]()
        media = [media_pb2.Media(chunked=media_pb2.Chunked()) for _ in range(64)]
        request = preprocessor_pb2.PreprocessRequest(model="clip", media=media)
        chunk = media_pb2.Chunk(data=picture())
        self._parts = iter(
            (
                preprocessor_pb2.PreprocessUploadRequest(request=request),
                preprocessor_pb2.PreprocessUploadRequest(chunk=chunk),
            )
        )

    def __iter__(self) -> Iterator[preprocessor_pb2.PreprocessUploadRequest]:
        return self

    def __next__(self) -> preprocessor_pb2.PreprocessUploadRequest:
        for part in self._parts:
            return part
        if not self._asked.done():
            self._asked.set_result(None)
        self._ended.result(PATIENCE_S)
        raise StopIteration

    def wait_until_asked_for_more(self) -> None:
        """Returns when what there is has been taken by the connection."""
        self._asked.result(PATIENCE_S)

    def end(self) -> None:
        self._ended.set_result(None)


def raw(sidecar: Running, method: str, message: bytes) -> grpc.RpcError:
    with grpc.insecure_channel(sidecar.address) as channel, pytest.raises(grpc.RpcError) as refused:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
            f"/multimodal.v1.Preprocessor/{method}"
        )
        call(message, timeout=PATIENCE_S)
    return refused.value


@pytest.mark.parametrize("message", [b"\xff\xff\xff\xff\x01", b"\x0a\x02\xff\xfe", b"\x12\x7f"])
@pytest.mark.parametrize("method", ["Preprocess", "Infer", "GetModel"])
def test_what_is_no_message_of_the_contract_is_an_invalid_request(
    attacked: Running, method: str, message: bytes
) -> None:
    refused = raw(attacked, method, message)
    assert refused.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "DecodeError" not in str(refused.details())


@pytest.mark.parametrize("times", range(8))
def test_a_name_of_a_megabyte_is_refused_with_its_reason(attacked: Running, times: int) -> None:
    """Again and again: gRPC refuses long trailers at random."""
    refused = raw(
        attacked,
        "GetModel",
        preprocessor_pb2.GetModelRequest(model="\u00e9" * (500_000 + times)).SerializeToString(),
    )
    assert refused.code() is grpc.StatusCode.NOT_FOUND
    assert "grpc-status-details-bin" in {datum.key for datum in refused.trailing_metadata()}


def test_a_million_parameters_are_not_taken_apart(attacked: Running) -> None:
    request = preprocessor_pb2.InferRequest(model="clip")
    for number in range(1000):
        request.parameters[f"p{number}"].int64_value = number
    refused = raw(attacked, "Infer", request.SerializeToString())
    assert refused.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "1000 parameters" in str(refused.details())


@pytest.mark.parametrize("all_or_nothing", [False, True])
def test_refused_media_is_let_go_of_at_once(attacked: Running, stub: Stub, *, all_or_nothing: bool) -> None:
    request = asking(*[picture()[:60]] * 4)
    request.all_or_nothing = all_or_nothing
    gc.collect()
    gc.disable()
    try:
        for _ in range(5):
            with contextlib.suppress(grpc.RpcError):
                stub.Preprocess(request)
        with Client(attacked.address) as client:
            client.preprocess("clip", picture())
        kept = sum(isinstance(each, Source) and len(each.data) > 0 for each in gc.get_objects())
    finally:
        gc.enable()
    # The last call's own may still be on their way out.
    assert kept <= 1


def test_tensors_of_a_call_pass_no_limit_together() -> None:
    one = 3 * 224 * 224 * 4
    with (
        running(MODELS, None, f"limits.output_bytes={2 * one}") as sidecar,
        Client(sidecar.address) as client,
    ):
        results = client.preprocess("clip", [picture()] * 3)
        assert sorted(str(item.problem.reason if item.problem else "OK") for item in results) == [
            "MEDIA_TOO_LARGE",
            "OK",
            "OK",
        ]
