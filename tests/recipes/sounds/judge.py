"""Holds a recipe for sound against transformers' own extractor, and has the sounds that it is judged on."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sidecar.media import AudioInfo, Samples
from sidecar.recipes.loader import load_recipe
from sidecar.recipes.recipe import Recipe
from sidecar.stages.pack import pack
from testbed.parity import Keys, extractor

RATE = 16_000

Wave = npt.NDArray[np.float32]
Outputs = dict[str, npt.NDArray[Any]]


def noise(samples: int) -> Wave:
    return (np.random.default_rng(samples).standard_normal(samples) * 0.1).astype(np.float32)


def tone(samples: int, radians: float) -> Wave:
    wave: Wave = np.sin(np.arange(samples) * radians).astype(np.float32)
    return wave


def speech(samples: int) -> Wave:
    """Harmonics of a gliding pitch that swell and fade like syllables, over faint noise."""
    at = np.arange(samples) / RATE
    phase = 2 * np.pi * (120 * at + 15 * np.sin(2 * np.pi * 0.7 * at))
    voice = sum(np.sin(order * phase) / order**1.5 for order in range(1, 40))
    swell = np.clip(np.sin(2 * np.pi * 2.3 * at) + 0.4, 0, 1)
    wave: Wave = (0.2 * voice * swell + 1e-3 * np.random.default_rng(1).standard_normal(samples)).astype(
        np.float32
    )
    return wave


# Those in which every band moves, and those in which some or all stand still.
MOVING: dict[str, Wave] = {
    "a second": noise(RATE),
    "five seconds and a bit": noise(5 * RATE + 77),
    "two frames of Kaldi's": noise(560),
    "an odd number of frames": noise(400 + 160 * 6),
    "speech": speech(7 * RATE + 5),
    "the longest that Gemma hears": noise(480_000),
    "longer than that": noise(481_003),
    "clicks": (np.arange(10 * RATE) % 7919 == 0).astype(np.float32),
    "loud, then faint": np.concatenate([tone(RATE, 0.3), noise(RATE) * np.float32(1e-4)]),
    "full of clipping": np.clip(noise(4 * RATE) * np.float32(20), -1, 1),
    "too loud": noise(3 * RATE) * np.float32(30),
}
STILL: dict[str, Wave] = {
    "silence": np.zeros(3 * RATE, np.float32),
    "full scale": np.ones(2 * RATE, np.float32),
    "a low tone": tone(10 * RATE, 0.001),
    "a tone": tone(10 * RATE, 0.05),
    "a high tone": tone(10 * RATE, 3.0),
    "a tone between bins": tone(10 * RATE, 0.0981),
    "a tone that repeats with the frames": tone(10 * RATE, math.pi / 8),
    "two tones": (tone(10 * RATE, 0.7) + tone(10 * RATE, 2.1)) * np.float32(0.5),
    "a whisper of a tone": tone(5 * RATE, 1.1) * np.float32(1e-5),
}
SOUNDS: dict[str, Wave] = MOVING | STILL


def recipe_of(keys: Keys, directory: Path, **files: Keys) -> Recipe:
    """The recipe of a directory with these keys, and with further files by name."""
    for name, content in {"preprocessor_config": keys, **files}.items():
        (directory / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return load_recipe(directory)


def info_of(samples: int, rate: int = RATE) -> AudioInfo:
    return AudioInfo("wav", 1, "pcm_f32le", rate, 1, samples / rate)


def made(recipe: Recipe, wave: Wave) -> Outputs:
    """What the recipe makes of a wave at 16 kHz, by output; shapes are as its rules say, and bytes as foretold."""
    natural = {spec.name: spec.data_type for spec in recipe.outputs}
    tensors = pack(recipe.transform(Samples(wave[np.newaxis], RATE)), natural)
    foretold = recipe.output_bytes(info_of(wave.size), natural)
    for spec, tensor in zip(recipe.outputs, tensors, strict=True):
        assert spec.name == tensor.name
        assert spec.admits(tensor.shape)
        assert tensor.nbytes <= foretold[spec.name]
    return {
        tensor.name: np.frombuffer(tensor.data, tensor.data_type.storage).reshape(tensor.shape)
        for tensor in tensors
    }


def expected(keys: Keys, wave: Wave) -> Outputs:
    """What transformers makes of a batch of one."""
    reference = extractor(keys)([wave], sampling_rate=RATE, return_tensors="np")
    return {name: np.asarray(values)[0] for name, values in reference.items()}
