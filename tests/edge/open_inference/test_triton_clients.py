"""Triton's own client, unchanged, before the sidecar: the same outcome as from Triton, for all that has no recipe; and
encoded files in the place of tensors, for all that has one.
"""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_client
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException, serialize_byte_tensor, shared_memory

import testbed.media
from inference_client import Client as OurClient
from testbed.triton import Triton
from testbed.triton_calls import CALLS, echoed, region
from testbed.triton_calls import Call as ListedCall
from tests.running import Running, running

pytestmark = pytest.mark.triton
MEDIA = Path(testbed.media.__file__).parent
PICTURE = (MEDIA / "text.jpg").read_bytes()
SOUND = (MEDIA / "speech.wav").read_bytes()

Call = Callable[[triton_client.InferenceServerClient], Any]


def encoded(*files: bytes, shape: tuple[int, ...] | None = None, name: str = "image") -> Any:
    """An input of encoded files, a row each."""
    array = np.array(files, object).reshape(shape or (len(files), 1))
    return triton_client.InferInput(name, list(array.shape), "BYTES").set_data_from_numpy(array)


def text_input(name: str, text: str) -> Any:
    return triton_client.InferInput(name, [1], "BYTES").set_data_from_numpy(np.array([text.encode()], object))


def outcome(address: str, call: Call) -> object:
    """What a call gives, or the status and the words that it ends with."""
    with triton_client.InferenceServerClient(address) as client:
        try:
            return call(client)
        except InferenceServerException as error:
            return error.status(), error.message()


def _arrays(result: Any, *names: str) -> dict[str, Any]:
    return {name: result.as_numpy(name).tolist() for name in names}


def _response(result: Any) -> Any:
    return result.get_response(as_json=True)


@pytest.mark.parametrize("call", CALLS, ids=lambda call: f"{call.kind}, {call.what}")
def test_what_has_no_recipe_is_answered_as_triton_answers_it(
    call: ListedCall, triton: Triton, sidecar: Running
) -> None:
    assert call.outcome(sidecar.address) == call.outcome(triton.grpc_address)


def test_a_models_metadata_shows_encoded_files_in_place_of_its_tensors(sidecar: Running) -> None:
    with triton_client.InferenceServerClient(sidecar.address) as client:
        metadata = client.get_model_metadata("prompted", as_json=True)
        config = client.get_model_config("prompted", as_json=True)["config"]
        together = client.get_model_metadata("together", as_json=True)
    inputs = {each["name"]: (each["datatype"], each["shape"]) for each in metadata["inputs"]}
    assert metadata["name"] == config["name"] == "prompted"
    assert inputs.pop("image") == ("BYTES", ["-1", "1"])
    assert set(inputs) == {"prompt", "scale", "ids"}
    assert {each["name"]: each["data_type"] for each in config["input"]}["image"] == "TYPE_STRING"
    assert together["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": ["-1"]}]


def test_encoded_files_are_preprocessed_and_a_row_each(sidecar: Running) -> None:
    with triton_client.InferenceServerClient(sidecar.address) as client, OurClient(sidecar.address) as ours:
        result = client.infer("clip", [encoded(PICTURE, PICTURE)], request_id="mine")
        wanted = ours.infer("clip", PICTURE).tensor("crc32").tolist()
    response = result.get_response()
    assert result.as_numpy("crc32").tolist() == [wanted, wanted]
    assert (response.model_name, response.id) == ("clip", "mine")
    assert response.parameters["sidecar_decode_ns"].int64_param > 0
    spent = {name.removeprefix("sidecar_"): value.int64_param for name, value in response.parameters.items()}
    assert spent.pop("total_ns") == sum(spent.values())


def test_sound_comes_in_as_pictures_do(sidecar: Running) -> None:
    with triton_client.InferenceServerClient(sidecar.address) as client, OurClient(sidecar.address) as ours:
        result = client.infer("whisper", [encoded(SOUND, name="audio")])
        assert result.as_numpy("crc32").tolist() == [ours.infer("whisper", SOUND).tensor("crc32").tolist()]


def test_files_that_belong_together_are_one_inference(sidecar: Running) -> None:
    with triton_client.InferenceServerClient(sidecar.address) as client:
        result = client.infer("together", [encoded(PICTURE, PICTURE, PICTURE, shape=(3,))])
    assert result.as_numpy("images").tolist() == [3]


def prompts(*texts: bytes) -> list[Any]:
    rows = len(texts)
    text = triton_client.InferInput("prompt", [rows, 1], "BYTES").set_data_from_numpy(
        np.array(texts, object).reshape(rows, 1)
    )
    ids = triton_client.InferInput("ids", [rows, 2], "INT64").set_data_from_numpy(
        np.arange(2 * rows).reshape(rows, 2)
    )
    return [text, ids]


def test_other_inputs_go_with_the_file_of_their_row(sidecar: Running) -> None:
    with triton_client.InferenceServerClient(sidecar.address) as client:
        result = client.infer("prompted", [encoded(PICTURE, PICTURE), *prompts(b"one", b"two")])
        again = client.infer("prompted", [encoded(PICTURE), *prompts(b"one")])
    assert result.as_numpy("echo").tolist() == [[b"one"], [b"two"]]
    assert result.as_numpy("ids_sum").tolist() == [[1], [5]]
    assert again.as_numpy("echo").tolist() == [[b"one"]]


def test_tensors_themselves_are_passed_on_to_a_model_with_a_recipe(triton: Triton, sidecar: Running) -> None:
    pixels = np.zeros((1, 3, 224, 224), np.float32)

    def call(model: str) -> Call:
        def calling(client: triton_client.InferenceServerClient) -> Any:
            given = triton_client.InferInput("pixel_values", list(pixels.shape), "FP32")
            return _arrays(client.infer(model, [given.set_data_from_numpy(pixels)]), "crc32", "checksum")

        return calling

    assert outcome(sidecar.address, call("clip")) == outcome(triton.grpc_address, call("checksum_fp32"))


def test_what_is_wrong_with_media_is_said_in_words_and_harms_nobody(sidecar: Running) -> None:
    with triton_client.InferenceServerClient(sidecar.address) as client:
        for wrong in (
            encoded(b"no picture"),
            encoded(PICTURE[:2000]),
            encoded(PICTURE, shape=(1, 1, 1)),
            encoded(SOUND),
        ):
            with pytest.raises(InferenceServerException) as failed:
                client.infer("clip", [wrong])
            assert failed.value.status() == "StatusCode.INVALID_ARGUMENT"
            assert "item 0" in failed.value.message() or "image" in failed.value.message()
        assert client.infer("clip", [encoded(PICTURE)]).as_numpy("crc32").shape == (1, 1)


def test_statistics_have_an_entry_for_preprocessing(sidecar: Running) -> None:
    with triton_client.InferenceServerClient(sidecar.address) as client:
        client.infer("siglip", [encoded(PICTURE)])
        told = client.get_inference_statistics("siglip", as_json=True)["model_stats"]
        everything = client.get_inference_statistics(as_json=True)["model_stats"]
    names = [entry["name"] for entry in told]
    assert names == ["siglip", "siglip/preprocessing"]
    stats = told[1]["inference_stats"]
    assert int(stats["success"]["count"]) >= 1
    assert int(stats["compute_infer"]["ns"]) > 0
    assert {"echo", "siglip/preprocessing", "clip/preprocessing"} <= {entry["name"] for entry in everything}


def test_encoded_files_may_lie_in_shared_memory_and_outputs_be_written_there(sidecar: Running) -> None:
    with triton_client.InferenceServerClient(sidecar.address) as client:
        packed = serialize_byte_tensor(np.array([PICTURE], object))
        size = len(PICTURE) + 4
        with region(client, "test-file", size) as one, region(client, "test-crc", 64) as other:
            shared_memory.set_shared_memory_region(one, [packed])
            given = triton_client.InferInput("image", [1, 1], "BYTES")
            given.set_shared_memory("test-file", size)
            wanted = triton_client.InferRequestedOutput("crc32")
            wanted.set_shared_memory("test-crc", 64)
            client.infer("clip", [given], outputs=[wanted])
            found = shared_memory.get_contents_as_numpy(other, np.uint32, [1]).tolist()
        sent = client.infer("clip", [encoded(PICTURE)]).as_numpy("crc32").tolist()
        given.set_shared_memory("test-nowhere", size)
        with pytest.raises(InferenceServerException, match="test-nowhere"):
            client.infer("clip", [given])
    assert [found] == sent


def test_all_regions_of_clients_are_unregistered_and_the_arena_is_not(sidecar: Running) -> None:
    with triton_client.InferenceServerClient(sidecar.address) as client:
        made = shared_memory.create_shared_memory_region("test-all", "/test-all", 64)
        client.register_system_shared_memory("test-all", "/test-all", 64)
        client.unregister_system_shared_memory()
        assert not client.get_system_shared_memory_status(as_json=True)
        shared_memory.destroy_shared_memory_region(made)
        before = sidecar.app
        assert client.infer("clip", [encoded(PICTURE)]).as_numpy("crc32").size == 1
    assert before is sidecar.app


def test_the_asyncio_client_works_as_well(sidecar: Running) -> None:
    async def ask() -> list[Any]:
        async with triton_aio.InferenceServerClient(sidecar.address) as client:
            assert await client.is_model_ready("clip")
            return list(await asyncio.gather(*(client.infer("clip", [encoded(PICTURE)]) for _ in range(4))))

    results = asyncio.run(ask())
    assert len({result.as_numpy("crc32").tolist()[0][0] for result in results}) == 1


class Stream:
    """A stream of Triton's client, with what came over it."""

    def __init__(self, client: triton_client.InferenceServerClient, **more: Any) -> None:
        self.came: queue.Queue[tuple[Any, InferenceServerException | None]] = queue.Queue()
        client.start_stream(callback=lambda result, error: self.came.put((result, error)), **more)

    def next(self) -> tuple[Any, InferenceServerException | None]:
        return self.came.get(timeout=60)


def count_of(number: int, delay_ms: int = 0) -> list[Any]:
    given = [("count", number), ("delay_ms", delay_ms)]
    return [
        triton_client.InferInput(name, [1], "INT32").set_data_from_numpy(np.array([value], np.int32))
        for name, value in given
    ]


def pixels() -> Any:
    array = np.zeros((1, 3, 224, 224), np.float32)
    return triton_client.InferInput("pixel_values", list(array.shape), "FP32").set_data_from_numpy(array)


def test_a_decoupled_models_tokens_come_as_from_triton(triton: Triton, sidecar: Running) -> None:
    def call(media: Any) -> Call:
        def calling(client: triton_client.InferenceServerClient) -> object:
            stream = Stream(client)
            client.async_stream_infer(
                "streamer", [media, *count_of(3)], request_id="9", enable_empty_final_response=True
            )
            tokens: list[object] = []
            while True:
                result, error = stream.next()
                assert error is None, error
                response = result.get_response()
                final = response.parameters["triton_final_response"].bool_param
                token = None if not response.outputs else result.as_numpy("token").tolist()
                tokens.append((response.id, response.model_name, final, token))
                if final:
                    client.stop_stream()
                    return tokens

        return calling

    wanted = outcome(triton.grpc_address, call(pixels()))
    assert outcome(sidecar.address, call(pixels())) == wanted
    assert outcome(sidecar.address, call(encoded(PICTURE, shape=(1,)))) == wanted


def test_models_of_every_kind_are_asked_over_one_stream(sidecar: Running) -> None:
    with triton_client.InferenceServerClient(sidecar.address) as client:
        stream = Stream(client)
        for number in range(8):
            client.async_stream_infer("clip", [encoded(PICTURE)], request_id=f"clip {number}")
        client.async_stream_infer("clip", [encoded(b"no picture")], request_id="bad")
        client.async_stream_infer("streamer", [encoded(PICTURE, shape=(1,)), *count_of(2)], request_id="s")
        client.async_stream_infer("nobody", [], request_id="nobody")
        came = [stream.next() for _ in range(12)]
        client.stop_stream()
    ids = [result.get_response().id for result, error in came if error is None]
    assert [each for each in ids if each.startswith("clip")] == [f"clip {number}" for number in range(8)]
    assert ids.count("s") == 2
    errors = [error.message() for _, error in came if error is not None]
    assert len(errors) == 2
    assert any("item 0" in words for words in errors)
    assert any("nobody" in words for words in errors)


def test_answers_come_in_their_order_whatever_is_wrong_with_one(sidecar: Running) -> None:
    with triton_client.InferenceServerClient(sidecar.address) as client:
        stream = Stream(client)
        files = (PICTURE, b"no picture", PICTURE, PICTURE)
        for number, file in enumerate(files):
            client.async_stream_infer(
                "clip", [encoded(*[file] * (8 if number == 0 else 1))], request_id=str(number)
            )
        came = [stream.next() for _ in files]
        client.stop_stream()
    assert [error is None for _, error in came] == [True, False, True, True]
    assert [result.get_response().id for result, error in came if error is None] == ["0", "2", "3"]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda client: client.infer("clip", [encoded(*[PICTURE] * 65)]), "65 files"),
        (lambda client: client.infer("clip", [encoded(shape=(0, 1))]), "0 files"),
        (lambda client: client.infer("clip", [encoded(PICTURE)], model_version="7"), "version 7"),
        (lambda client: client.register_system_shared_memory("mine", "/sidecar-0", 64), "sidecar's own"),
        (lambda client: client.register_system_shared_memory("sidecar-0", "/mine", 64), "sidecar's own"),
        (lambda client: client.unregister_system_shared_memory("sidecar-0"), "sidecar's own"),
        (
            lambda client: client.infer(
                "tensorrt_llm",
                [
                    text_input("text_input", "see"),
                    text_input("image_url", "http://169.254.169.254/latest"),
                ],
            ),
            "made from the media",
        ),
    ],
    ids=["files", "no files", "version", "key", "region", "unregistering", "an address"],
)
def test_what_may_not_be_is_refused_before_anything_is_done(call: Call, words: str, sidecar: Running) -> None:
    with (
        triton_client.InferenceServerClient(sidecar.address) as client,
        pytest.raises(InferenceServerException, match=words),
    ):
        call(client)


def test_a_region_of_the_sidecars_is_named_by_nobody(sidecar: Running, triton: Triton) -> None:
    with triton_client.InferenceServerClient(triton.grpc_address) as direct:
        arena, *_ = [
            name for name in direct.get_system_shared_memory_status().regions if name.startswith("sidecar-")
        ]
    with triton_client.InferenceServerClient(sidecar.address) as client:
        for model, name in (("clip", "image"), ("echo", "text")):
            given = triton_client.InferInput(name, [1, 1], "BYTES")
            given.set_shared_memory(arena, 64)
            with pytest.raises(InferenceServerException, match="sidecar's own"):
                client.infer(model, [given])


def test_what_is_closed_is_refused_by_its_kind(triton: Triton) -> None:
    settings = (
        "models.clip.upstream=checksum_fp32",
        'open_inference.closed=["log"]',
        "open_inference.models=served",
    )
    with (
        running({"clip": "clip-vit-base-patch32"}, triton.grpc_address, *settings) as sidecar,
        triton_client.InferenceServerClient(sidecar.address) as client,
    ):
        # Of the models that are not served nothing is told, and none is loaded.
        for call in (client.get_model_repository_index, client.get_log_settings, client.get_trace_settings):
            with pytest.raises(InferenceServerException, match=r"open_inference\.closed"):
                call()
        with pytest.raises(InferenceServerException, match="no model 'echo' is served here"):
            echoed(client)
        told = client.get_inference_statistics(as_json=True)["model_stats"]
        assert {entry["name"] for entry in told} == {"checksum_fp32", "clip/preprocessing"}
        assert client.infer("clip", [encoded(PICTURE)]).as_numpy("crc32").size == 1


def test_without_a_model_server_the_api_says_so() -> None:
    with (
        running({"clip": "clip-vit-base-patch32"}) as sidecar,
        triton_client.InferenceServerClient(sidecar.address) as client,
        pytest.raises(InferenceServerException, match=r"set `triton\.address`"),
    ):
        client.get_server_metadata()
