"""Every model of the testbed's repository, asked through Triton's own client."""

from __future__ import annotations

import json
import queue
import time
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from numpy.typing import NDArray
from PIL import Image
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from testbed.checksum import checksum, crc32
from testbed.install import installed, why_not
from testbed.triton import MODELS, Triton, TritonFailed, servable

pytestmark = pytest.mark.triton

MEDIA = Path(__file__).parents[2] / "testbed" / "media"
Array = NDArray[Any]


@pytest.fixture(scope="module")
def client(triton: Triton) -> Iterator[grpcclient.InferenceServerClient]:
    with grpcclient.InferenceServerClient(triton.grpc_address) as connected:
        yield connected


def inputs_of(arrays: Mapping[str, Array]) -> list[grpcclient.InferInput]:
    found = []
    for name, array in arrays.items():
        tensor = grpcclient.InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        found.append(tensor)
    return found


def ask(client: grpcclient.InferenceServerClient, model: str, **arrays: Array) -> dict[str, Array]:
    result = client.infer(model, inputs_of(arrays))
    return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}


def texts(*words: str) -> Array:
    return np.array([word.encode() for word in words], object)


def random(shape: tuple[int, ...], dtype: type[np.generic] = np.float32) -> Array:
    return np.random.default_rng(7).uniform(0, 255, shape).astype(dtype)


def assert_checksums_of(rows: Array, answer: Mapping[str, Array]) -> None:
    expected = np.array([checksum(row) for row in rows])
    np.testing.assert_allclose(answer["checksum"], expected, rtol=1e-9)
    if "crc32" in answer:
        np.testing.assert_array_equal(answer["crc32"], [[crc32(row)] for row in rows])


def test_every_model_of_the_repository_is_served(
    triton: Triton, client: grpcclient.InferenceServerClient
) -> None:
    names = sorted(config.parent.name for config in MODELS.glob("*/config.pbtxt"))
    assert len(names) == 22
    if why_not() is None:
        names = servable(installed())
        assert len(names) >= 15  # the sink needs a C compiler
    assert [name for name in names if not client.is_model_ready(name)] == [], triton


@pytest.mark.parametrize(
    ("model", "name", "shape", "dtype"),
    [
        ("checksum_fp32", "pixel_values", (3, 224, 224), np.float32),
        ("checksum_fp16", "pixel_values", (3, 224, 224), np.float16),
        ("checksum_uint8", "pixel_values", (3, 224, 224), np.uint8),
        ("checksum_mel80", "input_features", (80, 3000), np.float32),
        ("checksum_mel128", "input_features", (128, 3000), np.float32),
        ("checksum_audio", "input_values", (16001,), np.float32),
        ("accelerator", "pixel_values", (3, 224, 224), np.float32),
    ],
)
def test_a_checksum_model_answers_for_every_row(
    client: grpcclient.InferenceServerClient,
    model: str,
    name: str,
    shape: tuple[int, ...],
    dtype: type[np.generic],
) -> None:
    rows = random((3, *shape), dtype)
    answer = ask(client, model, **{name: rows})
    assert_checksums_of(rows, answer)
    assert answer["batch_rows"].tolist() == [[3]] * 3


def test_requests_that_ran_together_get_their_own_rows_back(client: grpcclient.InferenceServerClient) -> None:
    pixels = random((12, 3, 224, 224))
    with ThreadPoolExecutor(12) as callers:
        answers = list(
            callers.map(lambda i: ask(client, "accelerator", pixel_values=pixels[i : i + 1]), range(12))
        )
    for row, answer in zip(pixels, answers, strict=True):
        assert_checksums_of(row[None], answer)
    executions = {
        (int(a["began_ns"][0, 0]), int(a["ended_ns"][0, 0])): int(a["batch_rows"][0, 0]) for a in answers
    }
    assert sum(executions.values()) == 12
    assert max(executions.values()) > 1


def test_the_accelerator_takes_its_time_and_says_when(client: grpcclient.InferenceServerClient) -> None:
    before = time.monotonic_ns()
    answer = ask(client, "accelerator", pixel_values=random((4, 3, 224, 224)))
    after = time.monotonic_ns()
    began, ended = int(answer["began_ns"][0, 0]), int(answer["ended_ns"][0, 0])
    assert before < began < ended < after
    # 10 ms and 1 ms a row; how much longer depends on the machine.
    assert ended - began >= 14e6


def test_the_accelerator_can_be_loaded_with_another_speed(
    triton: Triton, client: grpcclient.InferenceServerClient
) -> None:
    config = client.get_model_config("accelerator", as_json=True)["config"]
    config["parameters"]["delay_base_ms"]["string_value"] = "60"
    client.load_model("accelerator", config=json.dumps(config))
    try:
        answer = ask(client, "accelerator", pixel_values=random((1, 3, 224, 224)))
        assert answer["ended_ns"][0, 0] - answer["began_ns"][0, 0] >= 61e6, triton
    finally:
        client.load_model("accelerator")


def test_images_together_get_one_checksum(client: grpcclient.InferenceServerClient) -> None:
    pixels = random((5, 3, 224, 224))
    answer = ask(client, "checksum_together", pixel_values=pixels)
    np.testing.assert_allclose(answer["checksum"], checksum(pixels), rtol=1e-9)
    assert answer["crc32"].tolist() == [crc32(pixels)]
    assert answer["images"].tolist() == [5]


@pytest.mark.parametrize("scale", [None, 0.5])
def test_a_prompted_model_sees_its_plain_inputs_and_may_miss_the_optional_one(
    client: grpcclient.InferenceServerClient, scale: float | None
) -> None:
    pixels = random((2, 3, 224, 224))
    plain = {
        "prompt": texts("what is this?", "häh?").reshape(2, 1),
        "ids": np.array([[1, 2, 3], [40, 50, 60]], np.int64),
    }
    optional = {} if scale is None else {"scale": np.full((2, 1), scale, np.float32)}
    answer = ask(client, "checksum_prompted", pixel_values=pixels, **plain, **optional)
    expected = np.array([checksum(row) for row in pixels]) * (1 if scale is None else scale)
    np.testing.assert_allclose(answer["checksum"], expected, rtol=1e-9)
    assert [word.decode() for word in answer["echo"].ravel()] == ["what is this?", "häh?"]
    assert answer["ids_sum"].tolist() == [[6], [150]]


def test_echo_gives_back_what_it_got(client: grpcclient.InferenceServerClient) -> None:
    answer = ask(client, "echo", text=texts("a", "", "ü"), numbers=np.array([1.5, -2.0], np.float32))
    assert answer["text"].tolist() == [b"a", b"", "ü".encode()]
    assert answer["numbers"].tolist() == [1.5, -2.0]


@pytest.mark.parametrize("shape", [(1, 1, 1, 4), (3, 3, 224, 224)])
def test_the_sink_counts_the_bytes_that_it_does_not_read(
    client: grpcclient.InferenceServerClient, shape: tuple[int, ...]
) -> None:
    if not client.is_model_ready("sink"):
        pytest.skip("the sink was not compiled: there is no C compiler here")
    pixels = random(shape)
    answer = ask(client, "sink", pixel_values=pixels)
    assert answer["bytes"].tolist() == [[pixels[0].nbytes]] * shape[0]


def test_the_sink_s_statistics_count_rows_and_executions(
    client: grpcclient.InferenceServerClient,
) -> None:
    if not client.is_model_ready("sink"):
        pytest.skip("the sink was not compiled: there is no C compiler here")
    (before,) = client.get_inference_statistics("sink").model_stats
    ask(client, "sink", pixel_values=random((4, 3, 448, 448)))
    after = before
    while after.inference_count == before.inference_count:  # it is counted once the answer is on its way
        (after,) = client.get_inference_statistics("sink").model_stats
    assert after.inference_count - before.inference_count == 4
    assert after.execution_count - before.execution_count == 1


def test_embeddings_are_made_from_their_seeds(client: grpcclient.InferenceServerClient) -> None:
    answer = ask(
        client,
        "embeddings",
        seed=np.array([[3], [2000]], np.int32),
        values=np.array([[1, 2.5], [3, 4]], np.float16),
        word=texts("a", "b").reshape(2, 1),
    )
    assert {name: array.shape for name, array in answer.items()} == {
        "embedding": (2, 512, 512),
        "mask": (2, 512 * 512),
        "sum": (2, 1),
        "word": (2, 1),
    }
    assert answer["embedding"][:, 0, :2].tolist() == [[3, 4], [2000 - 1024, 2001 - 1024]]
    assert answer["mask"][:, -1].tolist() == [3, 2000 % 256]
    assert answer["sum"].tolist() == [[3.5], [7]]


@pytest.mark.parametrize("tokens", [100, 600])
def test_embeddings_may_be_other_than_declared(client: grpcclient.InferenceServerClient, tokens: int) -> None:
    column = np.array([[tokens]], np.int32)
    assert ask(client, "embeddings", seed=column, tokens=column)["embedding"].shape == (1, tokens, 512)


def test_the_failing_model_fails_with_its_message(client: grpcclient.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="this model always fails") as failed:
        ask(client, "failing", pixel_values=random((1, 3, 224, 224)))
    assert failed.value.status() == "StatusCode.INTERNAL"


def test_ocr_reads_the_line_of_the_media_file(client: grpcclient.InferenceServerClient) -> None:
    with Image.open(MEDIA / "text.jpg") as image:
        small = image.convert("RGB").resize((320, 48), Image.Resampling.BILINEAR)
    pixels = (np.asarray(small, np.float32) / 255 - 0.5) / 0.5
    answer = ask(client, "ocr", pixel_values=pixels.transpose(2, 0, 1)[None].copy())
    assert answer["text"].tolist() == [[b"Hello Triton 2026"]]
    assert answer["confidence"][0, 0] > 0.9


def test_ocr_reads_nothing_from_an_empty_page(client: grpcclient.InferenceServerClient) -> None:
    answer = ask(client, "ocr", pixel_values=np.ones((1, 3, 48, 320), np.float32))
    assert answer["text"].tolist() == [[b""]]
    assert answer["confidence"].tolist() == [[0.0]]


def test_vad_finds_the_speech_of_the_media_file_and_only_there(
    client: grpcclient.InferenceServerClient,
) -> None:
    import wave

    from scipy.signal import resample_poly

    with wave.open(str(MEDIA / "speech.wav")) as file:
        rate, samples = file.getframerate(), file.readframes(file.getnframes())
    assert (rate, file.getnchannels()) == (22050, 2)
    mono = np.frombuffer(samples, "<i2").reshape(-1, 2).mean(axis=1) / 32768
    audio = resample_poly(mono, 16000, rate).astype(np.float32)
    probabilities = ask(client, "vad", audio=audio[None])["speech_probs"][0]
    assert probabilities.shape == (len(audio) // 512,)
    at_s = np.arange(len(probabilities)) * 512 / 16000
    spoken = (at_s > 2.2) & (at_s < len(audio) / 16000 - 2.6)
    silent = (at_s < 1.9) | (at_s > len(audio) / 16000 - 1.7)
    assert (probabilities[spoken] > 0.5).mean() > 0.9
    assert probabilities[silent].max() < 0.3


def test_vad_of_less_than_a_window_is_empty(client: grpcclient.InferenceServerClient) -> None:
    assert ask(client, "vad", audio=np.zeros((1, 511), np.float32))["speech_probs"].shape == (1, 0)


class Stream:
    """One request to the streamer, its responses in the order of their coming."""

    def __init__(self, address: str, pixels: Array, count: int, delay_ms: int) -> None:
        self.arrived: queue.Queue[Any] = queue.Queue()
        self.client = grpcclient.InferenceServerClient(address)
        self.client.start_stream(lambda result, error: self.arrived.put(error or result))
        plain = {"count": np.array([count], np.int32), "delay_ms": np.array([delay_ms], np.int32)}
        inputs = inputs_of({"pixel_values": pixels, **plain})
        self.client.async_stream_infer("streamer", inputs, enable_empty_final_response=True)

    def next(self) -> dict[str, Array] | None:
        """The next response's outputs; None at the end."""
        result = self.arrived.get(timeout=20)
        if isinstance(result, Exception):
            raise result
        response = result.get_response()
        if response.parameters["triton_final_response"].bool_param:
            return None
        return {output.name: result.as_numpy(output.name) for output in response.outputs}

    def close(self, *, cancel: bool = False) -> None:
        self.client.stop_stream(cancel_requests=cancel)
        self.client.close()


def test_the_streamer_sends_every_token_in_order_and_an_end(triton: Triton) -> None:
    pixels = random((1, 3, 224, 224))
    stream = Stream(triton.grpc_address, pixels, count=5, delay_ms=0)
    for index in range(5):
        answer = stream.next()
        assert answer is not None
        assert answer["token"].tolist() == [f"token {index} of 5".encode()]
        assert answer["index"].tolist() == [index]
        np.testing.assert_allclose(answer["checksum"], checksum(pixels), rtol=1e-9)
    assert stream.next() is None
    stream.close()


def test_a_stream_whose_caller_has_gone_ends_early(
    triton: Triton, client: grpcclient.InferenceServerClient
) -> None:
    """The model's unloading waits for its streams: were this one to run on, that would take 50 s."""
    stream = Stream(triton.grpc_address, random((1, 3, 224, 224)), count=1000, delay_ms=50)
    assert stream.next() is not None
    began = time.monotonic()
    stream.close(cancel=True)
    client.unload_model("streamer")
    try:
        while client.is_model_ready("streamer") or "UNLOADING" in str(client.get_model_repository_index()):
            assert time.monotonic() - began < 20
            time.sleep(0.02)
    finally:
        client.load_model("streamer")


def test_a_slow_stream_does_not_hold_up_another(triton: Triton) -> None:
    slow = Stream(triton.grpc_address, random((1, 3, 224, 224)), count=2, delay_ms=2000)
    assert slow.next() is not None
    quick = Stream(triton.grpc_address, random((1, 3, 224, 224)), count=1, delay_ms=0)
    assert quick.next() is not None
    assert quick.next() is None
    assert slow.arrived.empty()
    quick.close()
    slow.close(cancel=True)


def test_the_metrics_address_serves_metrics(triton: Triton) -> None:
    try:
        address = triton.metrics_address
    except TritonFailed:
        pytest.skip("a Triton elsewhere keeps its metrics' address to itself")
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as page:
        assert b"nv_inference_count" in page.read()
