"""TensorRT-LLM's models, as stand-ins in the real Triton have their inputs and outputs: which form of media each is
handed, text as it comes, and that leaving ends the work.
"""

from __future__ import annotations

import asyncio
import io
import queue
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton_client
from PIL import Image

import testbed.media
from inference_client import AsyncClient, Client, UnsupportedMedia
from inference_client.tensors import InputValue
from sidecar.errors import ModelMismatch
from testbed.triton import Triton
from tests.running import Running, running

pytestmark = pytest.mark.triton
MEDIA = Path(testbed.media.__file__).parent
SOUND = MEDIA / "speech.wav"
QWEN = "qwen2-vl-2b-instruct"


def picture(width: int, height: int) -> bytes:
    """A JPEG with a comment, EXIF and a rotation in it."""
    exif = Image.Exif()
    exif[0x010E] = "private"
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(file, "JPEG", exif=exif, comment=b"private")
    return file.getvalue()


def test_the_current_backend_is_handed_a_clean_picture_of_the_models_own_size(sidecar: Running) -> None:
    with Client(sidecar.address) as client:
        model = client.model("tensorrt_llm")
        words = list(client.chat("tensorrt_llm", "one two three", [picture(5000, 4000)]))
        whole = client.chat("tensorrt_llm", "one two three", [picture(300, 200)], stream=False, max_tokens=2)
    assert [spec.name for spec in model.media_inputs] == ["image_url"]
    (size, *rest) = "".join(words).split()
    height, width = (int(side) for side in reversed(size.strip("[]").split("x")))
    # Turned upright, no larger than the processor would make it, of whole patches, and without the comment.
    assert height * width < 5000 * 4000
    assert (height % 28, width % 28, height > width) == (0, 0, True)
    assert rest == ["one", "two", "three"]
    assert len(words) == 4
    assert whole == "[200x300] one two"


def test_a_picture_that_hardly_compresses_has_room_all_the_same(sidecar: Running) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (560, 560, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    with Client(sidecar.address) as client:
        assert client.chat("tensorrt_llm", "word", [file.getvalue()], stream=False) == "[560x560] word"


def test_several_pictures_and_none(sidecar: Running) -> None:
    with Client(sidecar.address) as client:
        two = client.chat("tensorrt_llm", "word", [picture(280, 280), picture(56, 560)], stream=False)
        none = client.chat("tensorrt_llm", "word", stream=False)
    assert two == "[280x280] [560x56] word"
    assert none == "word"


def test_parameters_that_the_model_does_not_take_are_named(sidecar: Running) -> None:
    with (
        Client(sidecar.address) as client,
        pytest.raises(ValueError, match=r"takes no 'temprature'.*temperature"),
    ):
        client.chat("tensorrt_llm", "word", temprature=1.0)


def test_placeholders_are_written_out_by_the_recipes_counts(sidecar: Running) -> None:
    with Client(sidecar.address) as client:
        (tokens,) = client.placeholder_tokens("tensorrt_llm", [(56, 56)])
        text = client.chat(
            "tensorrt_llm", "see <image> now", [picture(56, 56)], placeholder="<|pad|> ", stream=False
        )
        with pytest.raises(ValueError, match="for 1 media items"):
            client.chat("tensorrt_llm", "see nothing", [picture(56, 56)], placeholder="<|pad|>", stream=False)
    assert text.count("<|pad|>") == tokens


def test_who_leaves_ends_the_models_work(sidecar: Running, triton: Triton) -> None:
    def answered(client: triton_client.InferenceServerClient) -> int:
        stats = client.get_inference_statistics("tensorrt_llm").model_stats[0].inference_stats
        return int(stats.success.count + stats.fail.count)

    with (
        triton_client.InferenceServerClient(triton.grpc_address) as direct,
        Client(sidecar.address) as client,
    ):
        before = answered(direct)
        texts = client.chat("tensorrt_llm", "word " * 3000)  # half a minute of it
        next(texts)
        texts.close()  # type: ignore[attr-defined]  # a generator's
        ends = time.monotonic() + 10
        while answered(direct) == before:
            assert time.monotonic() < ends, "the model goes on"
            time.sleep(0.02)


def test_what_the_model_tells_of_its_own_time_joins_the_stage_times(sidecar: Running) -> None:
    asked: dict[str, InputValue] = {
        "text_input": "a b c",
        "streaming": True,
        "sampling_param_return_perf_metrics": True,
    }
    with Client(sidecar.address) as client:
        with client.infer_stream("tensorrt_llm", picture(56, 56), asked) as stream:
            for _ in stream:
                pass
        with client.infer_stream("tensorrt_llm", picture(56, 56), {"text_input": "a"}) as silent:
            for _ in silent:
                pass
    assert stream.finished is not None
    times = stream.finished.model_times
    assert times is not None
    assert times.first_token_ns > 0
    assert times.generation_ns > 0
    spent = times.queue_ns + times.first_token_ns + times.generation_ns
    assert spent <= stream.times.deliver_ns
    assert silent.finished is not None
    assert silent.finished.model_times is None
    with urllib.request.urlopen(f"http://{sidecar.app.metrics_address}/metrics", timeout=10) as answer:
        assert (
            b'sidecar_model_duration_seconds_count{model="tensorrt_llm",part="generation"} 1.0'
            in answer.read()
        )


def test_clients_of_tritons_are_told_the_models_times_too(sidecar: Running) -> None:
    file = picture(56, 56)
    inputs = [
        _given("text_input", [b"a b"]),
        _given("image", [file]),
        _given("streaming", np.array([True])),
        _given("sampling_param_return_perf_metrics", np.array([True])),
    ]
    answers: queue.Queue[tuple[triton_client.InferResult | None, Exception | None]] = queue.Queue()
    with triton_client.InferenceServerClient(sidecar.address) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        client.async_stream_infer("tensorrt_llm", inputs, enable_empty_final_response=True)
        while True:
            result, error = answers.get(timeout=30)
            assert error is None
            assert result is not None
            told = result.get_response().parameters
            if told["triton_final_response"].bool_param:
                break
    assert told["sidecar_model_generation_ns"].int64_param > 0
    assert told["sidecar_model_first_token_ns"].int64_param <= told["sidecar_deliver_ns"].int64_param


def _given(name: str, values: object) -> triton_client.InferInput:
    array = values if isinstance(values, np.ndarray) else np.array(values, object)
    given = triton_client.InferInput(name, list(array.shape), "BOOL" if array.dtype == bool else "BYTES")
    given.set_data_from_numpy(array)
    return given


def test_the_asyncio_client_talks_as_well(sidecar: Running) -> None:
    async def talk() -> list[str]:
        async with AsyncClient(sidecar.address) as client:
            return [text async for text in client.chat("tensorrt_llm", "a b", [picture(280, 280)])]

    assert "".join(asyncio.run(talk())) == "[280x280] a b"


def test_a_client_of_tritons_sends_files_to_the_current_backend_too(sidecar: Running) -> None:
    with triton_client.InferenceServerClient(sidecar.address) as client:
        metadata = client.get_model_metadata("tensorrt_llm", as_json=True)
    inputs = {each["name"]: each for each in metadata["inputs"]}
    assert inputs["image"]["datatype"] == "BYTES"
    assert "image_url" not in inputs
    assert "text_input" in inputs


def test_the_older_ensemble_is_handed_tensors_by_its_own_names(sidecar: Running) -> None:
    with Client(sidecar.address) as client:
        text = client.chat(
            "multimodal_ensemble",
            "one two three",
            [picture(300, 200), picture(300, 200)],
            stream=False,
            max_tokens=2,
        )
    assert text == "[image_input [2, 3, 224, 224]] one two"


def test_the_older_encoders_are_handed_an_image_a_row_in_their_own_axes(sidecar: Running) -> None:
    with Client(sidecar.address) as client:
        model = client.model("multimodal_encoders")
        batch = client.infer("multimodal_encoders", [picture(56, 112), picture(56, 56), picture(56, 112)])
        counts = client.placeholder_tokens("multimodal_encoders", [(112, 56), (56, 56), (112, 56)])
    assert [spec.name for spec in model.media_inputs] == ["pixel_values", "image_grid_thw"]
    sizes = [int(item.tensor("OUT_PROMPT_VOCAB_SIZE")[0]) for item in batch]
    assert sizes == [4 * count for count in counts if count is not None]
    # Red is one value a channel, whatever the patch.
    assert all(np.ptp(item.tensor("OUT_PROMPT_EMBEDDING_TABLE")) == 0 for item in batch)


def test_the_older_whisper_is_handed_samples(sidecar: Running) -> None:
    with Client(sidecar.address) as client:
        model = client.model("whisper_bls")
        answer = client.infer("whisper_bls", SOUND, {"TEXT_PREFIX": "heard: "})
    assert [spec.name for spec in model.media_inputs] == ["WAV", "WAV_LENS"]
    text = answer.text("TRANSCRIPTS")
    heard, of = text.removeprefix("heard: ").split(" samples")[0].split(" of ")
    assert heard == of
    assert int(heard) > 16_000


def test_the_form_can_be_said_and_what_cannot_be_is_refused(triton: Triton) -> None:
    settings = ("models.clip.upstream=checksum_fp32", "models.clip.form=media")
    with (
        running({"clip": "clip-vit-base-patch32"}, None, "models.clip.form=media") as sidecar,
        Client(sidecar.address) as client,
    ):
        # Without a model server nothing says which form it takes: the recipe's own.
        assert client.preprocess("clip", MEDIA / "text.jpg").tensor("pixel_values").shape == (3, 224, 224)
    with (
        pytest.raises(ModelMismatch, match="image_url"),
        running({"clip": "clip-vit-base-patch32"}, triton.grpc_address, *settings),
    ):
        pass


def test_an_item_that_is_no_picture_never_reaches_the_model(sidecar: Running) -> None:
    with Client(sidecar.address) as client, pytest.raises(UnsupportedMedia, match="item 0"):
        client.chat("tensorrt_llm", "word", [b"<svg onload=alert(1)>"], stream=False)
