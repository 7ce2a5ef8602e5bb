"""The main job: every format through a real channel to the real Triton, judged by transformers.

The model's checksum of what the sidecar sent is compared with the same checksum of what transformers'
own processor makes of the same file.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import av
import numpy as np
import numpy.typing as npt
import pytest
import soxr
from PIL import Image, ImageOps
from transformers import AutoFeatureExtractor, AutoImageProcessor

from inference_client import Client
from testbed.checksum import checksum, crc32
from tests import corpus
from tests.running import CHECKPOINTS, Running

pytestmark = pytest.mark.triton

Wave = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def client(sidecar: Running) -> Iterator[Client]:
    with Client(sidecar.address) as client:
        yield client


def reference_pixels(name: str, checkpoint: str, **options: bool) -> npt.NDArray[np.generic]:
    """transformers' own answer for a corpus picture: opened by Pillow, turned upright, made RGB."""
    processor = AutoImageProcessor.from_pretrained(CHECKPOINTS / checkpoint, backend="pil")
    picture = ImageOps.exif_transpose(Image.open(io.BytesIO(corpus.image(name)))).convert("RGB")
    pixels = processor(picture, return_tensors="np", **options)["pixel_values"][0]
    return np.ascontiguousarray(pixels)


def reference_wave(name: str) -> Wave:
    """Mono at 16 kHz, as librosa loads: decoded frame by frame here, mean of channels, soxr's HQ."""
    with av.open(io.BytesIO(corpus.audio(name)), "r") as container:
        stream = container.streams.audio[0]
        resampler = av.AudioResampler(format="fltp", layout=stream.layout, rate=stream.rate)
        frames = [out.to_ndarray() for frame in container.decode(stream) for out in resampler.resample(frame)]
        frames += [out.to_ndarray() for out in resampler.resample(None)]
        rate = stream.rate
    mono = np.concatenate(frames, axis=1).mean(axis=0, dtype=np.float32)
    return mono if rate == 16_000 else np.asarray(soxr.resample(mono, rate, 16_000, quality="HQ"))


@pytest.mark.parametrize("model", ["clip", "siglip", "vit"])
@pytest.mark.parametrize("name", corpus.PICTURES)
def test_a_picture_reaches_the_model_as_transformers_would_have_made_it(
    client: Client, name: str, model: str
) -> None:
    checkpoint = {
        "clip": "clip-vit-base-patch32",
        "siglip": "siglip-base-patch16-224",
        "vit": "vit-base-patch16-224",
    }[model]
    answer = client.infer(model, corpus.path(name))
    expected = checksum(reference_pixels(name, checkpoint))
    assert answer.tensor("checksum") == pytest.approx(expected, rel=1e-6, abs=1e-2)


@pytest.mark.parametrize("name", corpus.PICTURES)
def test_bare_pixels_reach_the_model_to_the_bit(client: Client, name: str) -> None:
    answer = client.infer("clip_uint8", corpus.path(name))
    expected = reference_pixels(name, "clip-vit-base-patch32", do_rescale=False, do_normalize=False)
    assert int(answer.tensor("crc32")[0]) == crc32(expected.astype(np.uint8))


@pytest.mark.parametrize("name", ["jpeg_420.jpg", "png_rgba.png", "webp_lossy.webp"])
def test_half_precision_reaches_the_model_rounded_once(client: Client, name: str) -> None:
    answer = client.infer("clip_fp16", corpus.path(name))
    expected = reference_pixels(name, "clip-vit-base-patch32").astype(np.float16)
    assert answer.tensor("checksum") == pytest.approx(checksum(expected), rel=1e-3, abs=1.0)


@pytest.mark.parametrize(
    ("model", "checkpoint"), [("whisper", "whisper-tiny"), ("whisper_v3", "whisper-large-v3")]
)
@pytest.mark.parametrize("name", corpus.SOUNDS)
def test_a_sound_reaches_the_model_as_transformers_would_have_made_it(
    client: Client, name: str, model: str, checkpoint: str
) -> None:
    extractor = AutoFeatureExtractor.from_pretrained(CHECKPOINTS / checkpoint)
    features = extractor(reference_wave(name), sampling_rate=16_000, return_tensors="np")["input_features"][0]
    total, weighted = checksum(features)
    answer = client.infer(model, corpus.path(name)).tensor("checksum")
    # Each of 240,000 values (384,000 for 128 mels) may differ by 1e-4; they do by far less, and both ways.
    assert answer == pytest.approx([total, weighted], abs=1e-4 * features.size / 10)


@pytest.mark.parametrize("name", corpus.SOUNDS)
def test_a_waveform_reaches_the_model_as_transformers_would_have_made_it(client: Client, name: str) -> None:
    extractor = AutoFeatureExtractor.from_pretrained(CHECKPOINTS / "wav2vec2-base-960h")
    wave = extractor(reference_wave(name), sampling_rate=16_000, return_tensors="np")["input_values"][0]
    answer = client.infer("wav2vec2", corpus.path(name)).tensor("checksum")
    assert answer == pytest.approx(checksum(wave), abs=1e-4 * wave.size)


@pytest.mark.parametrize("name", [*corpus.CORRUPT, *corpus.UNSUPPORTED])
def test_broken_files_are_told_and_the_server_goes_on(client: Client, name: str) -> None:
    good = corpus.image("jpeg_420.jpg")
    broken, after = client.infer("clip", [corpus.data(name), good])
    expected = "CORRUPT_MEDIA" if name in corpus.CORRUPT else "UNSUPPORTED_MEDIA"
    assert broken.problem is not None
    if name.rpartition(".")[2] in {"wav", "flac", "mp3", "aac", "m4a", "ogg", "webm"}:
        assert broken.problem.reason in {expected, "WRONG_MODALITY"}
    else:
        assert broken.problem.reason in {expected, "MEDIA_TOO_LARGE"}
    assert after.problem is None
