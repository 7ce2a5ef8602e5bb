"""Our own API over real channels: every verb, every way to send media, and what is said when it fails."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Iterator

import grpc
import numpy as np
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from multimodal.v1 import media_pb2, preprocessor_pb2, preprocessor_pb2_grpc
from PIL import Image

import inference_client
from inference_client import AsyncClient, Client, Retries
from tests.running import Running, running

pytestmark = pytest.mark.triton


def picture(width: int = 64, height: int = 48, shade: int = 120, form: str = "PNG") -> bytes:
    file = io.BytesIO()
    ramp = np.linspace(0, shade, width * height * 3).astype(np.uint8).reshape(height, width, 3)
    Image.fromarray(ramp).save(file, form)
    return file.getvalue()


@pytest.fixture
def client(sidecar: Running) -> Iterator[Client]:
    with Client(sidecar.address) as client:
        yield client


@pytest.fixture
def stub(sidecar: Running) -> Iterator[preprocessor_pb2_grpc.PreprocessorStub]:
    with grpc.insecure_channel(sidecar.address) as channel:
        yield preprocessor_pb2_grpc.PreprocessorStub(channel)


class TestAnswers:
    def test_items_of_one_call_are_answered_in_order_each_for_itself(self, client: Client) -> None:
        shades = [10, 200, 90]
        alone = [client.infer("clip", picture(shade=shade)).tensor("checksum") for shade in shades]
        batch = client.infer("clip", [picture(shade=shade) for shade in shades])
        assert [list(item.tensor("checksum")) for item in batch] == [list(each) for each in alone]

    def test_more_items_than_the_model_batches_are_split_and_joined_again(self, client: Client) -> None:
        pictures = [picture(shade=shade) for shade in range(0, 180, 9)]
        batch = client.infer("clip", pictures)
        assert len(batch) == 20
        assert max(int(item.tensor("batch_rows")[0]) for item in batch) <= 16
        last = client.infer("clip", pictures[-1]).tensor("checksum")
        assert list(batch[-1].tensor("checksum")) == list(last)

    def test_a_bad_item_leaves_its_neighbours_alone(self, client: Client) -> None:
        good, bad, again = client.infer("clip", [picture(), picture()[:60], picture()])
        assert isinstance(bad.problem, inference_client.CorruptMedia)
        assert bad.problem.message.startswith("item 1 ")
        assert good.problem is None
        assert list(good.tensor("checksum")) == list(again.tensor("checksum"))

    def test_all_or_nothing_makes_it_the_calls_own_failure(self, client: Client) -> None:
        with pytest.raises(inference_client.CorruptMedia, match="item 1"):
            client.infer("clip", [picture(), picture()[:60]], all_or_nothing=True)

    def test_all_items_of_a_model_that_takes_them_together_are_one_inference(self, client: Client) -> None:
        batch = client.infer("together", [picture(), picture(shade=9), picture(shade=70)])
        assert int(batch.tensor("images")[0]) == 3
        assert all(not item.tensors for item in batch)

    def test_one_bad_item_of_a_model_that_takes_them_together_fails_the_call(self, client: Client) -> None:
        with pytest.raises(inference_client.CorruptMedia, match="item 1"):
            client.infer("together", [picture(), picture()[:60]])

    def test_preprocess_prepares_items_independently_whatever_the_model_does_with_them(
        self, client: Client
    ) -> None:
        good, bad = client.preprocess("together", [picture(), picture()[:60]])
        assert good.problem is None
        assert isinstance(bad.problem, inference_client.CorruptMedia)

    def test_preprocess_gives_the_type_asked_for_or_the_models_own(self, client: Client) -> None:
        assert client.preprocess("clip_fp16", picture()).tensor().dtype == np.float16
        assert client.preprocess("clip_fp16", picture(), data_type="FP32").tensor().dtype == np.float32
        assert client.preprocess("clip_uint8", picture()).tensor().dtype == np.uint8
        with pytest.raises(inference_client.InvalidRequest, match="BYTES"):
            client.preprocess("clip", picture(), data_type="BYTES")

    def test_plain_inputs_go_along_with_every_item(self, client: Client) -> None:
        inputs = {"prompt": "what is this?", "ids": [1, 2, 39]}
        first, second = client.infer("prompted", [picture(), picture(shade=3)], inputs)
        assert (first.text("echo"), int(first.tensor("ids_sum")[0])) == ("what is this?", 42)
        assert (second.text("echo"), int(second.tensor("ids_sum")[0])) == ("what is this?", 42)
        assert list(first.tensor("checksum")) != list(second.tensor("checksum"))

    def test_a_model_without_media_is_asked_with_plain_inputs_alone(self, client: Client) -> None:
        answer = client.infer("echo", inputs={"text": ["a", "b"], "numbers": np.array([1.5], np.float32)})
        assert answer.texts("text") == ["a", "b"]
        assert list(answer.tensor("numbers")) == [1.5]

    def test_only_the_outputs_asked_for_come_back(self, client: Client) -> None:
        answer = client.infer("clip", picture(), outputs=["crc32"])
        assert list(answer.tensors) == ["crc32"]

    def test_preprocess_gives_tensors_and_asks_no_model(self, client: Client) -> None:
        prepared = client.preprocess("clip", picture())
        assert prepared.tensor("pixel_values").shape == (3, 224, 224)
        assert prepared.times.deliver_ns == 0

    def test_a_request_id_comes_back(self, client: Client) -> None:
        assert client.infer("clip", picture(), request_id="agent-7").request_id == "agent-7"

    def test_facts_times_and_cost_come_with_every_item(self, client: Client) -> None:
        item = client.infer("clip", [picture(form="JPEG")])[0]
        assert item.info is not None
        assert item.info.image is not None
        assert (item.info.format, item.info.image.width, item.info.image.height) == ("jpeg", 64, 48)
        assert item.cost.predicted_cpu_ms > 0
        assert item.cost.actual_cpu_ms > 0
        assert item.cost.output_bytes == 3 * 224 * 224 * 4

    def test_the_calls_stages_and_gap_equal_its_total(self, client: Client) -> None:
        times = client.infer("clip", [picture(), picture()]).times
        stages = (
            times.receive_ns + times.probe_ns + times.admit_ns + times.decode_ns
            + times.transform_ns + times.pack_ns + times.deliver_ns + times.respond_ns
        )  # fmt: skip
        assert stages + times.gap_ns == times.total_ns
        assert times.gap_ns >= 0
        assert min(times.decode_ns, times.transform_ns, times.pack_ns, times.deliver_ns) > 0


class TestStreams:
    def test_a_decoupled_model_streams_and_ends(self, client: Client) -> None:
        with client.infer_stream("streamer", picture(), {"count": 4}) as stream:
            tokens = [outputs.text("token") for outputs in stream]
        assert tokens == [f"token {index} of 4" for index in range(4)]
        assert stream.finished is not None
        assert stream.finished.responses == 4
        assert 0 < stream.finished.first_output_ns <= stream.times.deliver_ns

    def test_an_ordinary_model_gives_one_response_through_a_stream(self, client: Client) -> None:
        with client.infer_stream("clip", picture()) as stream:
            (only,) = list(stream)
        assert list(only.tensor("checksum")) == list(client.infer("clip", picture()).tensor("checksum"))

    def test_a_decoupled_model_is_not_asked_through_infer(self, client: Client) -> None:
        with pytest.raises(inference_client.WrongStream, match="InferStream"):
            client.infer("streamer", picture(), {"count": 1})

    def test_bad_media_fails_the_stream_before_the_model_is_asked(self, client: Client) -> None:
        with (
            pytest.raises(inference_client.CorruptMedia),
            client.infer_stream("streamer", picture()[:60], {"count": 1}) as stream,
        ):
            next(iter(stream))

    def test_a_stream_takes_one_item_where_items_are_inferences_of_their_own(self, client: Client) -> None:
        with (
            pytest.raises(inference_client.WrongItemCount, match="exactly 1"),
            client.infer_stream("clip", [picture(), picture()]) as stream,
        ):
            next(iter(stream))

    async def test_a_caller_who_leaves_a_stream_ends_it_and_others_are_served(self, sidecar: Running) -> None:
        async with AsyncClient(sidecar.address) as client:
            async with client.infer_stream("streamer", picture(), {"count": 500, "delay_ms": 20}) as stream:
                async for outputs in stream:
                    assert outputs.text("token") == "token 0 of 500"
                    break
            # The streamer has one instance: were the first stream still going on, this would wait 10 s.
            async with client.infer_stream("streamer", picture(), {"count": 1}, timeout=5) as stream:
                assert [outputs.text("token") async for outputs in stream] == ["token 0 of 1"]


class TestUploads:
    def test_chunked_media_is_answered_like_inline_media(self, sidecar: Running) -> None:
        data = picture(400, 300)
        with Client(sidecar.address) as inline, Client(sidecar.address, upload_threshold=1000) as chunked:
            expected = inline.infer("clip", data)
            assert list(chunked.infer("clip", data).tensor("checksum")) == list(expected.tensor("checksum"))
            prepared = chunked.preprocess("clip", data).tensor("pixel_values")
            assert np.array_equal(prepared, inline.preprocess("clip", data).tensor("pixel_values"))
            with chunked.infer_stream("clip", data) as stream:
                (only,) = list(stream)
            assert list(only.tensor("checksum")) == list(expected.tensor("checksum"))

    def test_media_larger_than_a_message_is_served(self) -> None:
        with running({"clip": "clip-vit-base-patch32"}, None, "server.message_bytes=1500000") as small:
            file = io.BytesIO()
            Image.fromarray(np.random.default_rng(1).integers(0, 256, (900, 900, 3), np.uint8)).save(
                file, "PNG"
            )
            assert len(file.getvalue()) > 2_000_000
            with Client(small.address, upload_threshold=100_000) as client:
                assert client.preprocess("clip", file.getvalue()).tensor().shape == (3, 224, 224)

    @pytest.mark.parametrize(
        ("parts", "words"),
        [
            ([], "begins with the `request`"),
            (["chunk 0"], "begins with the `request`"),
            (["request 4", "chunk 0", "request 4"], "brings chunks only"),
            (["request 0", "chunk 5"], "names media 5"),
        ],
    )
    def test_an_upload_out_of_order_is_told_what_is_wrong(
        self, stub: preprocessor_pb2_grpc.PreprocessorStub, parts: list[str], words: str
    ) -> None:
        with pytest.raises(grpc.RpcError) as refused:
            stub.PreprocessUpload(iter([upload_part(part) for part in parts]))
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert words in str(refused.value.details())

    @pytest.mark.parametrize(
        ("parts", "words"),
        [
            (["request 9", "chunk 0"], "announced 9 bytes and sent 4"),
            (["request 0"], "empty"),
            (["request 0", "chunk 0"], "no known format"),
        ],
    )
    def test_what_is_wrong_with_one_item_of_an_upload_is_its_own_problem(
        self, stub: preprocessor_pb2_grpc.PreprocessorStub, parts: list[str], words: str
    ) -> None:
        (item,) = stub.PreprocessUpload(iter([upload_part(part) for part in parts])).items
        assert words in item.problem.message

    def test_an_upload_that_announces_too_much_is_answered_before_its_chunks(
        self, stub: preprocessor_pb2_grpc.PreprocessorStub
    ) -> None:
        answered = threading.Event()

        def parts() -> Iterator[preprocessor_pb2.PreprocessUploadRequest]:
            yield upload_part(f"request {2**40}")
            answered.wait(10)

        (item,) = stub.PreprocessUpload(parts()).items
        answered.set()
        assert item.problem.metadata["limit"] == "limits.media_bytes"

    def test_a_silent_upload_is_ended_and_holds_nobody_up(self) -> None:
        with running(
            {"clip": "clip-vit-base-patch32"}, None, "server.upload_idle_s=0.5", "gate.max_queued=2"
        ) as one:
            released = threading.Event()

            def silent() -> Iterator[preprocessor_pb2.PreprocessUploadRequest]:
                yield upload_part("request 100")
                released.wait(10)

            with grpc.insecure_channel(one.address) as channel:
                stub = preprocessor_pb2_grpc.PreprocessorStub(channel)
                call, _ = (stub.PreprocessUpload.future(silent()) for _ in range(2))
                with Client(one.address) as client:
                    assert client.preprocess("clip", picture()).tensor().shape == (3, 224, 224)
                with pytest.raises(grpc.RpcError) as silent_too_long:
                    call.result()
                released.set()
                assert silent_too_long.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
                assert "server.upload_idle_s" in str(call.details())

    def test_uploads_together_hold_no_more_than_their_room(self) -> None:
        with running({"clip": "clip-vit-base-patch32"}, None, "server.uploads_bytes=10") as one:
            parts = [upload_part("request 12"), *[upload_part("chunk 0")] * 3]
            with grpc.insecure_channel(one.address) as channel, pytest.raises(grpc.RpcError) as refused:
                preprocessor_pb2_grpc.PreprocessorStub(channel).PreprocessUpload(iter(parts))
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "server.uploads_bytes" in str(refused.value.details())
            with Client(one.address) as client:
                assert client.preprocess("clip", picture()).tensor().shape == (3, 224, 224)


def upload_part(words: str) -> preprocessor_pb2.PreprocessUploadRequest:
    kind, number = words.split()
    if kind == "chunk":
        chunk = media_pb2.Chunk(media_index=int(number), data=b"1234")
        return preprocessor_pb2.PreprocessUploadRequest(chunk=chunk)
    chunked = media_pb2.Media(chunked=media_pb2.Chunked(total_bytes=int(number)))
    request = preprocessor_pb2.PreprocessRequest(model="clip", media=[chunked])
    return preprocessor_pb2.PreprocessUploadRequest(request=request)


class TestRefusals:
    @pytest.mark.parametrize(
        ("call", "kind", "words"),
        [
            (lambda c: c.infer("nobody", picture()), "UnknownModel", "there are: "),
            (lambda c: c.infer("clip", []), "WrongItemCount", "brings 0"),
            (lambda c: c.infer("clip", [picture()] * 65), "WrongItemCount", "1 to 64"),
            (lambda c: c.infer("echo", picture(), {"text": ["a"]}), "WrongModality", "takes no media"),
            (lambda c: c.infer("vad", picture()), "WrongModality", "takes audio"),
            (lambda c: c.preprocess("clip", b""), "CorruptMedia", "item 0"),
            (lambda c: c.preprocess("clip", b"#!/bin/sh\necho hello\n"), "UnsupportedMedia", "jpeg"),
            (lambda c: c.preprocess("clip", picture()[:50]), "CorruptMedia", "item 0"),
            (lambda c: c.preprocess("clip", inference_client.media(picture(), content_type="image/jpeg")),
             "MislabelledMedia", "image/png"),
            (lambda c: c.preprocess("small", picture(200, 20)), "MediaTooLarge", "limits.image_side"),
            (lambda c: c.infer("prompted", picture(), {"ids": [1]}), "InvalidInput", "'prompt' is missing"),
            (lambda c: c.infer("prompted", picture(), {"prompt": "a", "ids": [1], "zzz": 1}), "InvalidInput", "zzz"),
            (lambda c: c.infer("clip", picture(), parameters={"triton_x": 1}), "InvalidRequest", "reserved"),
            (lambda c: c.infer("failing", picture()), "UpstreamFailed", "failing"),
            (lambda c: c.infer("clip", picture(), outputs=["nothing"]), "InvalidRequest", "nothing"),
        ],
    )  # fmt: skip
    def test_what_cannot_be_done_is_told_by_name(
        self, client: Client, small: Running, call: object, kind: str, words: str
    ) -> None:
        assert callable(call)
        with Client(small.address) as to_small, pytest.raises(getattr(inference_client, kind)) as refused:
            call(to_small if kind == "MediaTooLarge" else client)
        assert words in refused.value.message

    def test_a_failure_carries_google_rpc_details(self, stub: preprocessor_pb2_grpc.PreprocessorStub) -> None:
        with pytest.raises(grpc.RpcError) as refused:
            stub.Infer(preprocessor_pb2.InferRequest())
        info = error_info(refused.value)
        bad_request = error_details_pb2.BadRequest()
        assert details(refused.value)[1].Unpack(bad_request)
        assert (info.reason, info.domain) == ("INVALID_REQUEST", "multimodal.v1")
        assert bad_request.field_violations[0].field == "model"

    def test_an_item_without_bytes_is_named_and_its_neighbour_answered(
        self, stub: preprocessor_pb2_grpc.PreprocessorStub
    ) -> None:
        media = [media_pb2.Media(inline=picture()), media_pb2.Media(name="cat\n.jpg")]
        good, bad = stub.Infer(preprocessor_pb2.InferRequest(model="clip", media=media)).items
        assert not good.HasField("problem")
        assert bad.problem.message.startswith("item 1 (cat?.jpg) has no inline bytes")
        assert bad.problem.metadata["item"] == "1"

    def test_an_item_over_the_limit_is_its_own_problem(self, small: Running) -> None:
        with Client(small.address) as client:
            good, bad = client.preprocess("small", [picture(), picture(200, 20)])
        assert good.problem is None
        assert isinstance(bad.problem, inference_client.MediaTooLarge)

    def test_a_failure_of_all_or_nothing_tells_which_item(
        self, stub: preprocessor_pb2_grpc.PreprocessorStub
    ) -> None:
        media = [media_pb2.Media(inline=picture()), media_pb2.Media(inline=picture()[:60])]
        request = preprocessor_pb2.PreprocessRequest(model="clip", media=media, all_or_nothing=True)
        with pytest.raises(grpc.RpcError) as refused:
            stub.Preprocess(request)
        info = error_info(refused.value)
        assert (info.reason, info.metadata["item"], info.metadata["retryable"]) == (
            "CORRUPT_MEDIA",
            "1",
            "false",
        )

    def test_a_deadline_that_has_no_chance_is_told_as_one(self, client: Client) -> None:
        with pytest.raises(inference_client.DeadlineExceeded):
            client.infer("accelerator", [picture()] * 64, timeout=0.005)

    def test_more_items_than_the_queue_holds_are_refused_for_good(self, tight: Running) -> None:
        with (
            Client(tight.address, retries=Retries(attempts=1)) as client,
            pytest.raises(inference_client.Unaffordable) as refused,
        ):
            client.preprocess("clip", [picture()] * 5)
        assert not refused.value.retryable
        assert "gate.max_queued" in refused.value.message

    async def test_many_at_once_are_served_or_refused_and_never_lost(self, tight: Running) -> None:
        # Its decoding takes many times what bringing it here does, so that they meet.
        large = picture(3000, 2000)
        async with AsyncClient(tight.address, retries=Retries(attempts=1)) as client:
            calls = [client.preprocess("clip", large) for _ in range(30)]
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
        refused = [each for each in outcomes if isinstance(each, inference_client.Overloaded)]
        served = [each for each in outcomes if isinstance(each, inference_client.Prepared)]
        assert len(refused) + len(served) == 30
        assert served
        assert refused
        assert all(each.retry_after_s and each.retry_after_s > 0 for each in refused)


def details(error: grpc.RpcError) -> list[any_pb2.Any]:
    trailers = {datum.key: datum.value for datum in error.trailing_metadata()}
    return list(status_pb2.Status.FromString(trailers["grpc-status-details-bin"]).details)


def error_info(error: grpc.RpcError) -> error_details_pb2.ErrorInfo:
    info = error_details_pb2.ErrorInfo()
    assert details(error)[0].Unpack(info)
    return info


class TestModels:
    def test_models_tell_what_they_take_and_give(self, client: Client) -> None:
        model = client.model("prompted")
        assert [spec.name for spec in model.media_inputs] == ["pixel_values"]
        assert {spec.name: spec.optional for spec in model.inputs} == {
            "prompt": False,
            "scale": True,
            "ids": False,
        }
        assert {spec.name for spec in model.outputs} == {"checksum", "echo", "ids_sum"}
        assert model.recipe is not None
        assert model.recipe.processor.startswith("CLIP")

    def test_all_models_are_listed_by_name(self, client: Client) -> None:
        names = [model.name for model in client.models()]
        assert names == sorted(names)
        assert {"clip", "whisper", "streamer", "echo"} <= set(names)

    def test_an_unknown_model_is_told_which_there_are(self, client: Client) -> None:
        with pytest.raises(inference_client.UnknownModel, match="clip"):
            client.model("clop")
