"""What the verbs send and give back, for both clients, over a real channel."""

from __future__ import annotations

import asyncio
import inspect
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from multimodal.v1 import media_pb2, preprocessor_pb2

from inference_client import (
    AsyncClient,
    AudioInfo,
    BadReply,
    Batch,
    CallCancelled,
    Client,
    CorruptMedia,
    Cost,
    Estimate,
    Grouping,
    ImageInfo,
    ItemEstimate,
    MediaInfo,
    MediaTooLarge,
    Modality,
    ModelState,
    Overloaded,
    Prepared,
    Priority,
    Reuse,
    StageTimes,
    TensorSpec,
    UpstreamFailed,
    UpstreamModelMissing,
    media,
)
from inference_client.calls import CHUNK_BYTES
from tests.inference_client.scripted_server import HANG, Refusal, ScriptedServer, event, serving

FP32 = media_pb2.DATA_TYPE_FP32


def tensor(name: str = "y", values: tuple[float, ...] = (1.0, 2.0)) -> media_pb2.Tensor:
    data = np.array(values, "<f4").tobytes()
    return media_pb2.Tensor(name=name, data_type=FP32, shape=[len(values)], data=data)


def item(*tensors: media_pb2.Tensor) -> media_pb2.ItemResult:
    return media_pb2.ItemResult(
        info=media_pb2.MediaInfo(
            modality=media_pb2.MODALITY_IMAGE,
            format="jpeg",
            encoded_bytes=9,
            image=media_pb2.ImageInfo(width=4, height=3, mode="RGB"),
        ),
        times=media_pb2.StageTimes(decode_ns=5, total_ns=5),
        cost=media_pb2.Cost(actual_cpu_ms=1.5),
        tensors=tensors,
    )


CORRUPT = media_pb2.ItemResult(
    problem=media_pb2.Problem(
        code=3, reason="CORRUPT_MEDIA", message="item 1 ends early", metadata={"item": "1"}
    )
)
WHOLE_TIMES = media_pb2.StageTimes(receive_ns=1, decode_ns=5, gap_ns=2, total_ns=8)


def prepared(*items: media_pb2.ItemResult) -> preprocessor_pb2.PreprocessResponse:
    return preprocessor_pb2.PreprocessResponse(items=items, times=WHOLE_TIMES, request_id="r1")


def inferred(*items: media_pb2.ItemResult, **more: Any) -> preprocessor_pb2.InferResponse:
    return preprocessor_pb2.InferResponse(items=items, times=WHOLE_TIMES, upstream_model="m1", **more)


async def test_one_item_gives_one_result_with_the_calls_own_times(
    caller: Any, server: ScriptedServer
) -> None:
    server.will("Preprocess", prepared(item(tensor())))
    result = await caller.preprocess("clip", b"jpeg", request_id="r1")
    assert isinstance(result, Prepared)
    assert result.tensor("y").tolist() == [1.0, 2.0]
    assert result.info is not None
    assert ImageInfo(4, 3, "RGB", 1, 1) == result.info.image
    assert result.info.modality == Modality.IMAGE
    assert StageTimes(receive_ns=1, decode_ns=5, gap_ns=2, total_ns=8) == result.times
    assert Cost() == result.cost
    assert result.request_id == "r1"


async def test_one_item_is_asked_for_as_all_or_nothing(caller: Any, server: ScriptedServer) -> None:
    server.will("Preprocess", prepared(item()))
    await caller.preprocess("clip", b"jpeg")
    assert server.request("Preprocess").all_or_nothing


async def test_a_list_gives_a_batch_in_which_a_bad_item_leaves_its_neighbours_alone(
    caller: Any, server: ScriptedServer
) -> None:
    server.will("Preprocess", prepared(item(tensor()), CORRUPT))
    good, bad = batch = await caller.preprocess("clip", [b"jpeg", b"jp"])
    assert isinstance(batch, Batch)
    assert not server.request("Preprocess").all_or_nothing
    assert StageTimes(decode_ns=5, total_ns=5) == good.times
    assert batch.times.total_ns == 8
    assert good is good.raise_for_problem()
    assert isinstance(bad.problem, CorruptMedia)
    assert bad.problem.item == 1
    assert bad.problem.facts == {"item": "1"}
    assert bad.problem.status == "INVALID_ARGUMENT"
    with pytest.raises(CorruptMedia, match="item 1 ends early"):
        bad.raise_for_problem()
    with pytest.raises(CorruptMedia):
        batch.raise_for_problem()


async def test_a_list_of_one_is_still_a_list(caller: Any, server: ScriptedServer) -> None:
    server.will("Preprocess", prepared(item()))
    assert len(await caller.preprocess("clip", [b"jpeg"])) == 1


async def test_a_list_can_be_asked_for_as_all_or_nothing(caller: Any, server: ScriptedServer) -> None:
    server.will("Infer", inferred(item(), item()))
    await caller.infer("clip", (b"a", b"b"), all_or_nothing=True)
    assert server.request("Infer").all_or_nothing


async def test_a_problem_of_the_only_item_is_raised_even_if_the_call_went_well(
    caller: Any, server: ScriptedServer
) -> None:
    server.will("Infer", inferred(CORRUPT))
    with pytest.raises(CorruptMedia):
        await caller.infer("clip", b"jp")


async def test_a_model_without_media_answers_for_the_request(caller: Any, server: ScriptedServer) -> None:
    server.will("GetModel", preprocessor_pb2.GetModelResponse())
    server.will("Infer", inferred(outputs=[tensor("z")]))
    result = await caller.infer("text", inputs={"prompt": "hello"})
    assert result.tensor().tolist() == [1.0, 2.0]
    assert result.model == "m1"
    assert result.info is None
    assert list(server.request("Infer").media) == []


async def test_a_model_that_takes_items_together_answers_in_the_batch(
    caller: Any, server: ScriptedServer
) -> None:
    server.will("Infer", inferred(item(), item(), outputs=[tensor("z")]))
    batch = await caller.infer("llava", [b"a", b"b"])
    assert batch.tensor("z").tolist() == [1.0, 2.0]
    assert [dict(each.tensors) for each in batch] == [{}, {}]


async def test_a_model_that_takes_items_together_answers_a_single_item_in_its_result(
    caller: Any, server: ScriptedServer
) -> None:
    server.will("Infer", inferred(item(), outputs=[tensor("z")]))
    assert (await caller.infer("llava", b"a")).tensor("z").tolist() == [1.0, 2.0]


async def test_fewer_results_than_items_are_a_bad_reply(caller: Any, server: ScriptedServer) -> None:
    server.will("Infer", inferred(item()))
    with pytest.raises(BadReply, match="2 media items were sent and 1 results came back"):
        await caller.infer("clip", [b"a", b"b"])


async def test_options_reach_the_request(caller: Any, server: ScriptedServer) -> None:
    server.will("Infer", inferred(item()))
    parameters = {"max_tokens": 7, "greedy": True, "temperature": 0.5, "stop": "."}
    await caller.infer("clip", b"a", outputs=["y"], parameters=parameters, request_id="mine")
    request = server.request("Infer")
    assert list(request.outputs) == ["y"]
    assert request.request_id == "mine"
    assert parameters == {
        name: getattr(value, value.WhichOneof("value")) for name, value in request.parameters.items()
    }


@pytest.mark.parametrize(
    ("options", "number"),
    [
        ({}, media_pb2.DATA_TYPE_UNSPECIFIED),
        ({"data_type": "FP32"}, FP32),
        ({"data_type": "BF16"}, media_pb2.DATA_TYPE_BF16),
        ({"data_type": np.uint8}, media_pb2.DATA_TYPE_UINT8),
    ],
)
async def test_the_element_type_wanted_reaches_the_request(
    caller: Any, server: ScriptedServer, options: Any, number: int
) -> None:
    server.will("Preprocess", prepared(item()))
    await caller.preprocess("clip", b"a", **options)
    assert number == server.request("Preprocess").data_type


class TestOptionsOfAdmission:
    @pytest.mark.parametrize(
        ("default", "own", "number"),
        [
            (None, {}, preprocessor_pb2.PRIORITY_UNSPECIFIED),
            (None, {"priority": Priority.PROBE}, preprocessor_pb2.PRIORITY_PROBE),
            ("batch", {}, preprocessor_pb2.PRIORITY_BATCH),
            (Priority.BATCH, {"priority": "interactive"}, preprocessor_pb2.PRIORITY_INTERACTIVE),
        ],
    )
    async def test_a_calls_priority_is_its_own_or_else_the_clients(
        self, connect: Any, server: ScriptedServer, default: Any, own: dict[str, Any], *, number: int
    ) -> None:
        server.will("Preprocess", prepared(item()))
        server.will("Infer", inferred(item()))
        server.will("InferStream", [TestStreams.FINISHED])
        server.will("Estimate", preprocessor_pb2.EstimateResponse())
        caller = connect(server.address, priority=default)
        await caller.preprocess("m", b"a", **own)
        await caller.infer("m", b"a", **own)
        await caller.stream("m", b"a", **own)
        await caller.call("estimate", "m", **own)
        assert {rpc: server.request(rpc).priority for rpc in server.seen} == {
            **dict.fromkeys(("Preprocess", "Infer", "InferStream", "Estimate"), number)
        }

    async def test_a_priority_that_there_is_not_is_refused_before_anything_is_sent(
        self, caller: Any, connect: Any, server: ScriptedServer
    ) -> None:
        with pytest.raises(ValueError, match="probe, interactive, batch; found 'urgent'"):
            await caller.infer("m", b"a", priority="urgent")
        with pytest.raises(ValueError, match="found 'urgent'"):
            connect(server.address, priority="urgent")
        assert server.seen == {}

    async def test_fresh_reaches_every_kind_of_request(self, caller: Any, server: ScriptedServer) -> None:
        server.will("Preprocess", prepared(item()))
        server.will("Infer", inferred(item()))
        server.will("InferStream", [TestStreams.FINISHED])
        await caller.preprocess("m", b"a", fresh=True)
        await caller.infer("m", b"a", fresh=True)
        await caller.stream("m", b"a", fresh=True)
        assert all(server.request(rpc).fresh for rpc in ("Preprocess", "Infer", "InferStream"))

    async def test_an_idempotency_key_reaches_the_request_and_the_upload(
        self, connect: Any, server: ScriptedServer
    ) -> None:
        server.will("Preprocess", prepared(item()))
        server.will("Infer", inferred(item()))
        server.will("InferUpload", inferred(item()))
        caller = connect(server.address, upload_threshold=4)
        await caller.preprocess("m", b"a", idempotency_key="k1")
        await caller.infer("m", b"a", idempotency_key="k2")
        await caller.infer("m", b"large", idempotency_key="k3")
        sent = [server.request(rpc).idempotency_key for rpc in ("Preprocess", "Infer")]
        assert [*sent, server.seen["InferUpload"][0][0].request.idempotency_key] == ["k1", "k2", "k3"]

    async def test_a_stream_takes_no_idempotency_key(self, caller: Any) -> None:
        with pytest.raises(TypeError, match="idempotency_key"):
            await caller.stream("m", b"a", idempotency_key="k")

    @pytest.mark.parametrize("key", ["x-tenant-id", "team"])
    async def test_the_tenant_goes_along_with_every_call(
        self, connect: Any, server: ScriptedServer, key: str
    ) -> None:
        server.will("ListModels", preprocessor_pb2.ListModelsResponse())
        server.will("InferUpload", inferred(item()))
        server.will("InferStream", [TestStreams.FINISHED])
        named = {} if key == "x-tenant-id" else {"tenant_key": key}
        caller = connect(server.address, tenant="agents/7", upload_threshold=1, **named)
        await caller.call("models")
        await caller.infer("m", b"large")
        await caller.stream("m", b"a")
        assert [sent[0][key] for sent in server.metadata.values()] == ["agents/7"] * 3

    async def test_no_tenant_is_no_metadata(self, caller: Any, server: ScriptedServer) -> None:
        server.will("ListModels", preprocessor_pb2.ListModelsResponse())
        await caller.call("models")
        assert "x-tenant-id" not in server.metadata["ListModels"][0]

    @pytest.mark.parametrize(
        "wrong",
        [
            *({"tenant": tenant} for tenant in ("café", "a\nb", " a")),
            *({"tenant_key": key} for key in ("", "X-Tenant", "grpc-tenant", "tenant-bin", "a b")),
        ],
        ids=str,
    )
    def test_what_metadata_cannot_carry_is_refused(self, connect: Any, wrong: dict[str, str]) -> None:
        with pytest.raises(ValueError, match="found"):
            connect("127.0.0.1:1", **wrong)


class TestReuse:
    async def test_each_item_tells_whose_work_its_tensors_are(
        self, caller: Any, server: ScriptedServer
    ) -> None:
        numbers = (media_pb2.REUSE_UNSPECIFIED, media_pb2.REUSE_KEPT, media_pb2.REUSE_SHARED, 9)
        items = [media_pb2.ItemResult(reuse=number) for number in numbers]  # type: ignore[arg-type]  # 9: a newer server's
        server.will("Preprocess", prepared(*items))
        server.will("Infer", inferred(*items))
        expected = [Reuse.MADE, Reuse.KEPT, Reuse.SHARED, Reuse.UNKNOWN]
        for verb in (caller.preprocess, caller.infer):
            assert [each.reuse for each in await verb("m", [b"a"] * 4)] == expected

    @pytest.mark.parametrize("replayed", [True, False])
    async def test_a_reply_tells_whether_it_is_that_of_an_earlier_call(
        self, caller: Any, server: ScriptedServer, *, replayed: bool
    ) -> None:
        reply = prepared(item())
        reply.replayed = replayed
        server.will("Preprocess", reply)
        server.will("Infer", inferred(item(), replayed=replayed))
        for verb in (caller.preprocess, caller.infer):
            batch = await verb("m", [b"a"])
            assert [each.replayed for each in (batch, batch[0], await verb("m", b"a"))] == [replayed] * 3


class TestEstimates:
    FOUND = media_pb2.MediaInfo(
        modality=media_pb2.MODALITY_IMAGE,
        format="jpeg",
        encoded_bytes=9,
        image=media_pb2.ImageInfo(width=4, height=3, mode="RGB", progressive=True, subsampling="4:2:0"),
    )
    INFO = MediaInfo(Modality.IMAGE, "jpeg", 9, ImageInfo(4, 3, "RGB", progressive=True, subsampling="4:2:0"))

    async def test_an_estimate_tells_costs_tokens_and_the_wait(
        self, caller: Any, server: ScriptedServer
    ) -> None:
        cost = media_pb2.Cost(predicted_cpu_ms=7.5, decoded_bytes=36, output_bytes=602_112)
        items = [media_pb2.ItemResult(info=self.FOUND, cost=cost, placeholder_tokens=64), CORRUPT]
        reply = preprocessor_pb2.EstimateResponse(items=items, cost=cost, wait_s=0.25)
        server.will("Estimate", reply)
        estimate = await caller.call("estimate", "clip", [b"jpeg", b"jp"], data_type="FP16", timeout=5)
        assert isinstance(estimate, Estimate)
        expected = Cost(7.5, 0.0, 36, 602_112)
        assert estimate.items == (ItemEstimate(self.INFO, expected, 64), ItemEstimate(None, Cost()))
        assert isinstance(estimate.items[1].problem, CorruptMedia)
        assert (estimate.cost, estimate.wait_s, estimate.refusal) == (expected, 0.25, None)
        assert estimate is estimate.raise_for_refusal()
        request = server.request("Estimate")
        assert (request.model, request.data_type) == ("clip", media_pb2.DATA_TYPE_FP16)
        assert [each.inline for each in request.media] == [b"jpeg", b"jp"]

    async def test_a_refusal_foretold_is_the_error_that_would_be_raised(
        self, caller: Any, server: ScriptedServer
    ) -> None:
        facts = {"retry_after_s": "1.5"}
        refusal = media_pb2.Problem(
            code=8, reason="OVERLOADED", message="too much to do", retryable=True, metadata=facts
        )
        server.will("Estimate", preprocessor_pb2.EstimateResponse(refusal=refusal))
        estimate = await caller.call("estimate", "clip")
        with pytest.raises(Overloaded, match="too much to do") as caught:
            estimate.raise_for_refusal()
        assert caught.value is estimate.refusal
        assert (caught.value.retry_after_s, caught.value.status) == (1.5, "RESOURCE_EXHAUSTED")

    async def test_what_is_known_of_a_file_is_sent_as_it_was_found(
        self, caller: Any, server: ScriptedServer
    ) -> None:
        sound = MediaInfo(Modality.AUDIO, "wav", 320_044, audio=AudioInfo(sample_rate=16_000, channels=1))
        items = [media_pb2.ItemResult()] * 2
        server.will("Estimate", preprocessor_pb2.EstimateResponse(items=items))
        await caller.call("estimate", "clip", infos=[self.INFO, sound])
        first, second = server.request("Estimate").infos
        expected = media_pb2.MediaInfo()
        expected.CopyFrom(self.FOUND)
        expected.image.orientation = expected.image.frames = 1
        assert first == expected
        assert not second.HasField("image")
        assert (second.modality, second.audio.sample_rate) == (media_pb2.MODALITY_AUDIO, 16_000)

    async def test_one_item_and_one_info_need_no_list(self, caller: Any, server: ScriptedServer) -> None:
        items = [media_pb2.ItemResult()] * 2
        server.will("Estimate", preprocessor_pb2.EstimateResponse(items=items))
        bare = MediaInfo(Modality.IMAGE, "", 400_000)
        assert len((await caller.call("estimate", "clip", b"jpeg", infos=bare)).items) == 2

    async def test_estimates_for_fewer_items_than_asked_are_a_bad_reply(
        self, caller: Any, server: ScriptedServer
    ) -> None:
        server.will("Estimate", preprocessor_pb2.EstimateResponse())
        with pytest.raises(BadReply, match="1 media items were sent and 0 results"):
            await caller.call("estimate", "clip", b"jpeg")

    async def test_media_too_large_for_one_message_is_asked_about_by_what_is_known_of_it(
        self, connect: Any, server: ScriptedServer
    ) -> None:
        with pytest.raises(ValueError, match="as `infos` instead"):
            await connect(server.address, upload_threshold=4).call("estimate", "clip", b"large")
        assert server.seen == {}


async def test_an_element_type_that_there_is_not_is_refused_before_anything_is_sent(
    caller: Any, server: ScriptedServer
) -> None:
    with pytest.raises(ValueError, match="FP16, FP32"):
        await caller.preprocess("clip", b"a", data_type="FP8")
    assert server.seen == {}


async def test_content_type_and_name_go_along(caller: Any, server: ScriptedServer, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"jpeg")
    server.will("Preprocess", prepared(item(), item()))
    named = media(b"jpeg", content_type="image/jpeg", name="front")
    await caller.preprocess("clip", [named, tmp_path / "photo.jpg"])
    sent = [(each.inline, each.content_type, each.name) for each in server.request("Preprocess").media]
    assert sent == [(b"jpeg", "image/jpeg", "front"), (b"jpeg", "", "photo.jpg")]


async def test_a_missing_file_is_an_os_error_and_nothing_is_sent(caller: Any, server: ScriptedServer) -> None:
    with pytest.raises(FileNotFoundError):
        await caller.infer("clip", "no/such/file.jpg")
    assert server.seen == {}


async def test_an_unknown_option_is_a_type_error(caller: Any) -> None:
    with pytest.raises(TypeError, match="colour"):
        await caller.infer("clip", b"a", colour="blue")


async def test_plain_inputs_take_the_type_and_rank_that_the_model_declares_and_it_is_asked_once(
    caller: Any, server: ScriptedServer
) -> None:
    specs = [
        preprocessor_pb2.TensorSpec(name="top_k", data_type=media_pb2.DATA_TYPE_INT32, shape=[1, 1]),
        preprocessor_pb2.TensorSpec(name="weights", data_type=media_pb2.DATA_TYPE_FP16, shape=[-1]),
    ]
    model = preprocessor_pb2.Model(name="m", inputs=specs)
    server.will("GetModel", preprocessor_pb2.GetModelResponse(model=model))
    server.will("Infer", inferred(item()))
    for _ in range(2):
        await caller.infer("m", b"a", {"top_k": 5, "weights": [0.5, 1], "text": "hi"})
    top_k, weights, text = server.seen["Infer"][1][0].inputs
    assert (
        top_k.data_type,
        list(top_k.shape),
        top_k.data,
    ) == (media_pb2.DATA_TYPE_INT32, [1, 1], b"\5\0\0\0")
    assert np.array([0.5, 1], "<f2").tobytes() == weights.data
    assert (text.data_type, list(text.shape), text.data) == (media_pb2.DATA_TYPE_BYTES, [1], b"\2\0\0\0hi")
    assert server.attempts("GetModel") == 1


async def test_a_models_declaration_is_asked_for_again_after_an_invalid_input(
    caller: Any, server: ScriptedServer
) -> None:
    server.will("GetModel", preprocessor_pb2.GetModelResponse(model=preprocessor_pb2.Model(name="m")))
    refusal = Refusal(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_INPUT")
    server.will("Infer", refusal, inferred(item()))
    with pytest.raises(Exception, match="as the script says"):
        await caller.infer("m", b"a", {"top_k": 5})
    await caller.infer("m", b"a", {"top_k": 5})
    assert server.attempts("GetModel") == 2


async def test_models_are_told_in_full(caller: Any, server: ScriptedServer) -> None:
    message = preprocessor_pb2.Model(
        name="clip",
        state=preprocessor_pb2.MODEL_STATE_READY,
        modality=media_pb2.MODALITY_IMAGE,
        grouping=preprocessor_pb2.GROUPING_EACH,
        recipe=preprocessor_pb2.Recipe(processor="CLIPImageProcessor", reference="pil", steps=["resize"]),
        media_inputs=[preprocessor_pb2.TensorSpec(name="x", data_type=FP32, shape=[3, -1])],
        max_batch_size=8,
    )
    server.will("ListModels", preprocessor_pb2.ListModelsResponse(models=[message]))
    server.will("GetModel", preprocessor_pb2.GetModelResponse(model=message))
    (listed,) = await caller.call("models")
    assert listed == await caller.call("model", "clip")
    assert (
        listed.state,
        listed.modality,
        listed.grouping,
    ) == (ModelState.READY, Modality.IMAGE, Grouping.EACH)
    assert (TensorSpec("x", "FP32", (3, -1)),) == listed.media_inputs
    assert listed.recipe.steps == ("resize",)
    assert listed.problem is None
    assert server.request("GetModel").model == "clip"


async def test_placeholder_tokens_are_asked_for_by_size(caller: Any, server: ScriptedServer) -> None:
    server.will("GetModel", preprocessor_pb2.GetModelResponse(placeholder_tokens=[64, 391]))
    assert await caller.call("placeholder_tokens", "qwen", [(224, 224), (640, 480)]) == [64, 391]
    assert [(size.width, size.height) for size in server.request("GetModel").sizes] == [
        (224, 224),
        (640, 480),
    ]


async def test_a_model_that_cannot_be_asked_says_why_as_an_error(caller: Any, server: ScriptedServer) -> None:
    problem = media_pb2.Problem(code=5, reason="UPSTREAM_MODEL_MISSING", message="load it", retryable=False)
    missing = preprocessor_pb2.Model(name="m", state=preprocessor_pb2.MODEL_STATE_MISSING, problem=problem)
    server.will("ListModels", preprocessor_pb2.ListModelsResponse(models=[missing]))
    (model,) = await caller.call("models")
    assert model.state is ModelState.MISSING
    assert isinstance(model.problem, UpstreamModelMissing)
    assert (model.problem.message, model.problem.status) == ("load it", "NOT_FOUND")


async def test_enum_values_of_a_newer_server_are_unknown(caller: Any, server: ScriptedServer) -> None:
    newer = preprocessor_pb2.Model(name="m", state=99, modality=99, grouping=99)  # type: ignore[arg-type]
    server.will("GetModel", preprocessor_pb2.GetModelResponse(model=newer))
    model = await caller.call("model", "m")
    assert (
        model.state,
        model.modality,
        model.grouping,
    ) == (ModelState.UNKNOWN, Modality.UNKNOWN, Grouping.UNKNOWN)


class TestStreams:
    PREPARED = event(prepared=preprocessor_pb2.Prepared(items=[item()], request_id="r1"))
    FINISHED = event(
        finished=preprocessor_pb2.Finished(
            times=WHOLE_TIMES,
            first_output_ns=3,
            responses=2,
            request_id="r1",
            upstream_model="m1",
            upstream_version="7",
        )
    )

    @staticmethod
    def outputs(index: int) -> preprocessor_pb2.InferStreamResponse:
        return event(outputs=preprocessor_pb2.StreamOutputs(outputs=[tensor()], index=index))

    async def test_outputs_come_one_by_one_and_the_end_tells_the_times(
        self, caller: Any, server: ScriptedServer
    ) -> None:
        server.will("InferStream", [self.PREPARED, self.outputs(0), self.outputs(1), self.FINISHED])
        seen: list[Any] = []

        def watch(stream: Any) -> None:
            seen.append((stream.prepared[0].info.format, stream.finished))

        outputs, stream = await caller.stream("s", b"a", watch=watch)
        assert [each.index for each in outputs] == [0, 1]
        assert seen == [("jpeg", None), ("jpeg", None)]
        assert stream.times.total_ns == 8
        end = stream.finished
        assert (end.first_output_ns, end.responses) == (3, 2)
        assert (end.request_id, end.model, end.version) == ("r1", "m1", "7")
        assert stream.prepared[0].request_id == "r1"

    async def test_leaving_early_cancels_the_call_on_the_server(
        self, caller: Any, server: ScriptedServer
    ) -> None:
        server.will("InferStream", [self.outputs(0), HANG])
        outputs, stream = await caller.stream("s", b"a", most=1)
        await server.left.wait()
        assert len(outputs) == 1
        with pytest.raises(RuntimeError, match="not finished"):
            _ = stream.times

    async def test_closing_while_another_waits_ends_the_loop_as_cancelled(
        self, caller: Any, server: ScriptedServer
    ) -> None:
        server.will("InferStream", [self.outputs(0), HANG])

        closing: list[Any] = []

        def close(stream: Any) -> None:
            if (coroutine := stream.close()) is not None:
                closing.append(asyncio.ensure_future(coroutine))

        with pytest.raises(CallCancelled):
            await caller.stream("s", b"a", watch=close)
        await asyncio.gather(*closing)

    async def test_a_failure_in_the_middle_is_raised_after_the_outputs_before_it(
        self, caller: Any, server: ScriptedServer
    ) -> None:
        failure = Refusal(grpc.StatusCode.INTERNAL, "UPSTREAM_FAILED")
        server.will("InferStream", [self.outputs(0), failure])
        seen: list[Any] = []
        with pytest.raises(UpstreamFailed):
            await caller.stream("s", b"a", watch=seen.append)
        assert len(seen) == 1

    async def test_a_stream_that_ends_without_its_last_event_is_a_bad_reply(
        self, caller: Any, server: ScriptedServer
    ) -> None:
        server.will("InferStream", [self.outputs(0)])
        with pytest.raises(BadReply, match="without its last event"):
            await caller.stream("s", b"a")

    async def test_events_of_a_newer_server_are_skipped(self, caller: Any, server: ScriptedServer) -> None:
        server.will("InferStream", [event(), self.FINISHED])
        outputs, _ = await caller.stream("s", b"a")
        assert outputs == []


class TestUploads:
    async def test_media_beyond_the_threshold_travels_in_pieces(
        self, connect: Any, server: ScriptedServer, tmp_path: Path
    ) -> None:
        big = bytes(range(256)) * (CHUNK_BYTES // 256) + b"tail"
        (tmp_path / "big.wav").write_bytes(big)
        server.will("InferUpload", inferred(item(), item()))
        caller = connect(server.address, upload_threshold=CHUNK_BYTES)
        await caller.infer("m", [tmp_path / "big.wav", b"small"], request_id="mine")
        first, *parts = server.seen["InferUpload"][0]
        assert first.request.request_id == "mine"
        assert [len(big), 5] == [each.chunked.total_bytes for each in first.request.media]
        assert [(p.chunk.media_index, len(p.chunk.data)) for p in parts] == [(0, CHUNK_BYTES), (0, 4), (1, 5)]
        assert big == parts[0].chunk.data + parts[1].chunk.data

    async def test_media_up_to_the_threshold_goes_in_one_message(
        self, connect: Any, server: ScriptedServer
    ) -> None:
        server.will("Preprocess", prepared(item()))
        await connect(server.address, upload_threshold=4).preprocess("m", b"1234")
        assert list(server.seen) == ["Preprocess"]

    @pytest.mark.parametrize(("length", "rpc"), [(900, "Infer"), (1100, "InferUpload")])
    async def test_plain_inputs_count_towards_the_threshold(
        self, connect: Any, server: ScriptedServer, length: int, rpc: str
    ) -> None:
        server.will("GetModel", preprocessor_pb2.GetModelResponse())
        server.will(rpc, inferred(item()))
        caller = connect(server.address, upload_threshold=2000)
        await caller.infer("m", bytes(1000), {"k": np.zeros(length, np.uint8)})
        assert list(server.seen) == ["GetModel", rpc]

    @pytest.mark.parametrize("media_bytes", [None, b"a"], ids=["alone", "beside media"])
    async def test_plain_inputs_beyond_the_threshold_are_refused_before_they_are_sent(
        self, connect: Any, server: ScriptedServer, media_bytes: bytes | None
    ) -> None:
        server.will("GetModel", preprocessor_pb2.GetModelResponse())
        caller = connect(server.address, upload_threshold=2 * CHUNK_BYTES)
        inputs = {"k": 1, "table": np.zeros(2 * CHUNK_BYTES, np.uint8)}
        with pytest.raises(ValueError, match=r"'table'.*upload_threshold"):
            await caller.infer("m", media_bytes, inputs)
        with pytest.raises(ValueError, match=r"'table'.*upload_threshold"):
            await caller.stream("m", media_bytes, inputs)
        assert list(server.seen) == ["GetModel"]

    async def test_plain_inputs_of_a_chunks_size_are_sent_whatever_the_threshold(
        self, connect: Any, server: ScriptedServer
    ) -> None:
        server.will("GetModel", preprocessor_pb2.GetModelResponse())
        server.will("Infer", inferred())
        inputs = {"k": np.zeros(CHUNK_BYTES - 100, np.uint8)}
        await connect(server.address, upload_threshold=0).infer("m", None, inputs)
        assert server.attempts("Infer") == 1

    async def test_each_verb_has_its_upload(self, connect: Any, server: ScriptedServer) -> None:
        server.will("PreprocessUpload", prepared(item()))
        server.will("InferStreamUpload", [TestStreams.FINISHED])
        caller = connect(server.address, upload_threshold=0)
        assert (await caller.preprocess("m", b"1")).info.format == "jpeg"
        _, stream = await caller.stream("m", b"1")
        assert stream.times.total_ns == 8

    async def test_an_upload_refused_by_its_first_message_is_not_sent_on(
        self, connect: Any, server: ScriptedServer
    ) -> None:
        too_large = Refusal(grpc.StatusCode.INVALID_ARGUMENT, "MEDIA_TOO_LARGE", unread=True)
        server.will("InferUpload", too_large)
        server.will("InferStreamUpload", too_large)
        caller = connect(server.address, upload_threshold=1)
        with pytest.raises(MediaTooLarge):
            await caller.infer("m", bytes(64 * CHUNK_BYTES))
        with pytest.raises(MediaTooLarge):
            await caller.stream("m", bytes(64 * CHUNK_BYTES))

    async def test_a_file_that_cannot_be_read_while_it_is_sent_is_an_os_error(
        self, connect: Any, server: ScriptedServer, tmp_path: Path
    ) -> None:
        answer = Refusal(grpc.StatusCode.INTERNAL)
        server.will("InferUpload", answer)
        server.will("InferStreamUpload", answer)
        caller = connect(server.address, upload_threshold=1)
        with pytest.raises(IsADirectoryError):
            await caller.infer("m", tmp_path)
        with pytest.raises(IsADirectoryError):
            await caller.stream("m", tmp_path)

    async def test_an_empty_item_among_pieces_stays_an_empty_item(
        self, connect: Any, server: ScriptedServer
    ) -> None:
        server.will("InferUpload", inferred(item(), item()))
        await connect(server.address, upload_threshold=1).infer("m", [b"", b"12"])
        assert [each.WhichOneof("source") for each in server.seen["InferUpload"][0][0].request.media] == [
            "inline",
            "chunked",
        ]


async def test_a_unix_socket_serves_as_well(connect: Any, tmp_path: Path) -> None:
    async with serving(f"unix://{tmp_path}/s.sock") as server:
        server.will("Preprocess", prepared(item()))
        assert (await connect(server.address).preprocess("clip", b"a")).info.format == "jpeg"


async def test_a_closed_client_says_so(caller: Any) -> None:
    await caller.close()
    with pytest.raises(RuntimeError, match="closed"):
        await caller.infer("clip", b"a")
    assert "closed" in repr(caller.client)


def test_both_clients_have_the_same_verbs_and_signatures() -> None:
    def verbs(kind: type) -> dict[str, list[tuple[str, Any, Any]]]:
        return {
            name: [(p.name, p.kind, p.default) for p in inspect.signature(member).parameters.values()]
            for name, member in vars(kind).items()
            if inspect.isfunction(member) and not name.startswith("_")
        }

    assert verbs(Client) == verbs(AsyncClient)
    assert inspect.signature(Client.__init__).parameters.keys() == (
        inspect.signature(AsyncClient.__init__).parameters.keys()
    )


async def test_closing_the_client_ends_its_calls_as_cancelled(caller: Any, server: ScriptedServer) -> None:
    server.will("Infer", HANG)
    task = asyncio.create_task(caller.infer("m", b"a"))
    await server.hanging.wait()
    await caller.close()
    with pytest.raises(CallCancelled):
        await task


async def test_cancelling_the_task_that_awaits_cancels_the_call(server: ScriptedServer) -> None:
    server.will("Infer", HANG)
    async with AsyncClient(server.address) as client:
        task = asyncio.create_task(client.infer("m", b"a"))
        await server.hanging.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.left.wait()


def test_the_blocking_client_closes_with_its_block() -> None:
    with Client("127.0.0.1:1") as client:
        assert repr(client) == "Client('127.0.0.1:1')"
    assert repr(client) == "Client('127.0.0.1:1', closed)"
