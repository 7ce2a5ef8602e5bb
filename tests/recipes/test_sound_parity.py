"""Ours beside transformers' feature extractors: log-mel within 1e-6, raw waves to the bit."""

from __future__ import annotations

import struct
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soxr

from sidecar.media import DataType, Samples, Shaped, Source
from sidecar.recipes.loader import load_recipe
from sidecar.stages.decode import decode
from sidecar.stages.pack import pack
from sidecar.stages.probe import probe
from testbed.parity import CHECKPOINTS, published

RATE = 16_000
MEL_BOUND = 1e-6  # to the numpy path
TORCH_BOUND = 1e-4  # to the torch path, which is taken where torch is installed

Wave = npt.NDArray[np.float32]


def noise(samples: int, channels: int = 1) -> Wave:
    return (np.random.default_rng(samples).standard_normal((channels, samples)) * 0.1).astype(np.float32)


def tone(samples: int, radians: float) -> Wave:
    wave: Wave = np.sin(np.arange(samples) * radians).astype(np.float32)
    return wave[np.newaxis]


# Loud pure tones are the hardest for single precision: eight decades lie between their peak and the floor.
# Lengths around the end of the 30 s window meet the mirrored padding.
SOUNDS: dict[str, Wave] = {
    "one sample": noise(1),
    "one hop": noise(160),
    "a second": noise(RATE),
    "five seconds and a bit": noise(5 * RATE + 77),
    "almost the window": noise(30 * RATE - 199),
    "one frame short of the mirror": noise(30 * RATE - 200),
    "just out of the mirror": noise(30 * RATE - 201),
    "the whole window": noise(30 * RATE),
    "longer than the window": noise(41 * RATE + 3),
    "silence": np.zeros((1, 3 * RATE), np.float32),
    "full scale": np.ones((1, 2 * RATE), np.float32),
    "a low tone": tone(30 * RATE, 0.001),
    "a tone": tone(20 * RATE, 0.05),
    "a high tone": tone(30 * RATE, 3.0),
    "a tone between bins": tone(30 * RATE, 0.0981),
    "clicks": (np.arange(30 * RATE) % 7919 == 0).astype(np.float32)[np.newaxis],
    "loud, then faint": np.concatenate([tone(RATE, 0.3), noise(RATE) * 1e-4], axis=1),
}


def extractor(checkpoint: str, **changed: Any) -> Any:
    import transformers

    keys = {**published(checkpoint), **changed}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(transformers, keys.pop("feature_extractor_type"))(**keys)


def mel_of(checkpoint: str, wave: Wave) -> Wave:
    """transformers' numpy path, whether or not torch is there to take the other one."""
    whisper = extractor(checkpoint)
    padded = np.zeros(whisper.n_samples, np.float32)
    padded[: wave.size] = wave[: whisper.n_samples]
    expected: Wave = whisper._np_extract_fbank_features(padded[np.newaxis], "cpu")[0]
    return expected


def plain(shaped: Shaped) -> npt.NDArray[np.generic]:
    """An output's one array."""
    (array,) = shaped.parts
    assert isinstance(array, np.ndarray)
    assert shaped.shape == array.shape
    return array


@pytest.mark.parametrize("checkpoint", ["whisper-tiny", "whisper-large-v3"])
@pytest.mark.parametrize("sound", SOUNDS)
def test_log_mel_stays_within_a_millionth(checkpoint: str, sound: str) -> None:
    wave = SOUNDS[sound]
    (features,) = load_recipe(CHECKPOINTS / checkpoint).transform(Samples(wave, RATE))
    expected = mel_of(checkpoint, wave[0])
    assert expected.shape == plain(features).shape
    assert np.dtype(np.float32) == plain(features).dtype
    assert np.abs(expected - plain(features).astype(np.float64)).max() <= MEL_BOUND


def test_the_extractor_as_a_whole_agrees() -> None:
    """Called as users call it, padding and all, on whichever path it takes here."""
    wave = SOUNDS["five seconds and a bit"]
    expected = extractor("whisper-tiny")(wave[0], sampling_rate=RATE, return_tensors="np")["input_features"][
        0
    ]
    (features,) = load_recipe(CHECKPOINTS / "whisper-tiny").transform(Samples(wave, RATE))
    assert np.abs(expected - plain(features).astype(np.float64)).max() <= TORCH_BOUND


@pytest.mark.parametrize("samples", [1, 159, 160, 161, 16_000, 480_000, 480_001])
def test_the_attention_mask_marks_the_frames_with_sound(samples: int, tmp_path: Path) -> None:
    keys = (CHECKPOINTS / "whisper-tiny" / "preprocessor_config.json").read_text(encoding="utf-8")
    keys = keys.replace('"return_attention_mask": false', '"return_attention_mask": true')
    (tmp_path / "preprocessor_config.json").write_text(keys, encoding="utf-8")
    recipe = load_recipe(tmp_path)
    wave = noise(samples)
    whisper = extractor("whisper-tiny")
    whisper._np_extract_fbank_features = whisper._torch_extract_fbank_features = lambda batch, _device: batch
    expected = whisper(wave[0], sampling_rate=RATE, return_attention_mask=True, return_tensors="np")
    _, mask = recipe.transform(Samples(wave, RATE))
    assert [output.name for output in recipe.outputs] == ["input_features", "attention_mask"]
    assert expected["attention_mask"][0].tolist() == plain(mask).tolist()
    assert recipe.accepts("attention_mask", DataType.INT64)


@pytest.mark.parametrize("sound", SOUNDS)
@pytest.mark.parametrize("normalize", [True, False])
def test_raw_waves_are_bit_equal(sound: str, normalize: bool, tmp_path: Path) -> None:
    keys = (CHECKPOINTS / "wav2vec2-base-960h" / "preprocessor_config.json").read_text(encoding="utf-8")
    if not normalize:
        keys = keys.replace('"do_normalize": true', '"do_normalize": false')
    (tmp_path / "preprocessor_config.json").write_text(keys, encoding="utf-8")
    wave = SOUNDS[sound]
    reference = extractor("wav2vec2-base-960h", do_normalize=normalize)
    expected = reference(wave[0], sampling_rate=RATE, return_tensors="np")["input_values"][0]
    (tensor,) = pack(load_recipe(tmp_path).transform(Samples(wave, RATE)), {"input_values": DataType.FP32})
    assert expected.shape == tensor.shape
    assert expected.tobytes() == bytes(tensor.data)


@pytest.mark.parametrize("channels", [1, 2, 6, 8])
@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_other_rates_and_layouts_are_loaded_as_transformers_loads_them(rate: int, channels: int) -> None:
    """Its loader: the mean over interleaved channels, soxr HQ, and ceil(samples x 16000 / rate) samples."""
    sound = noise(rate * 3 + 1, channels)
    interleaved = np.ascontiguousarray(sound.T)
    mono = interleaved.mean(axis=1) if channels > 1 else interleaved[:, 0]
    resampled = soxr.resample(mono, rate, RATE, quality="soxr_hq")
    length = -(-mono.size * RATE // rate)
    loaded = np.pad(resampled, (0, max(0, length - resampled.size)))[:length]
    expected = extractor("wav2vec2-base-960h")(loaded, sampling_rate=RATE, return_tensors="np")[
        "input_values"
    ][0]
    (values,) = load_recipe(CHECKPOINTS / "wav2vec2-base-960h").transform(Samples(sound, rate))
    assert np.array_equal(expected, plain(values))


@pytest.mark.parametrize("resampler", ["soxr_hq", "swresample"])
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_what_whisper_leaves_undecoded_changes_no_bit(rate: int, resampler: str) -> None:
    recipe = load_recipe(CHECKPOINTS / "whisper-tiny", resampler=resampler)
    source = Source(wav(noise(40 * rate, 2), rate))
    info = probe(source)
    target = recipe.decode_target(info)
    part, whole = decode(source, info, target), decode(source, info, replace(target, max_seconds=None))
    assert part.array.size < 0.8 * whole.array.size
    (expected,), (found,) = recipe.transform(whole), recipe.transform(part)
    assert np.array_equal(plain(expected), plain(found))


def wav(wave: Wave, rate: int) -> bytes:
    """float32 [channels, samples] as a WAV of 32-bit floats."""
    channels, pcm = wave.shape[0], wave.T.astype("<f4").tobytes()
    form = struct.pack("<HHIIHH", 3, channels, rate, 4 * channels * rate, 4 * channels, 32)
    body = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", len(pcm)) + pcm
    return b"RIFF" + struct.pack("<I", len(body)) + body
