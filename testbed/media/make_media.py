"""Makes the demo's two files again: `python -m testbed.media.make_media [ESPEAK_NG]`.

Needs Pillow and numpy (both in the project's environment) and the program espeak-ng (tried with 1.51,
Debian's package espeak-ng). The noise is seeded, so a run with the same releases gives the same files.
`SOURCES.md` says whose work they are.
"""

from __future__ import annotations

import subprocess
import sys
import wave
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

HERE = Path(__file__).parent
SEED = 2026

LINE = "Hello Triton 2026"
# The recognition model sees 48 x 320; twice that leaves the resize something to do.
WIDTH, HEIGHT = 640, 96

SENTENCE = "Please send the tensors while the accelerator is waiting."
SILENCE_S = 2.0
# Peak of the hiss in the pauses, of full scale: a quiet room, not digital silence.
HISS = 0.002


def picture() -> Image.Image:
    """The line on paper that is lit from one side, seen a little askew and out of focus, with grain."""
    noise = np.random.default_rng(SEED)
    light = np.linspace(238, 196, WIDTH)[None, :] + np.linspace(6, -14, HEIGHT)[:, None]
    paper = np.stack([light, light * 0.98, light * 0.93], axis=-1)
    ink = Image.new("L", (WIDTH, HEIGHT), 0)
    # Pillow's own font: nothing depends on the fonts of a machine.
    ImageDraw.Draw(ink).text((WIDTH // 2, HEIGHT // 2), LINE, 255, ImageFont.load_default(64), anchor="mm")
    ink = ink.rotate(0.6, Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(0.8))
    share = np.asarray(ink, np.float64)[..., None] / 255
    seen = paper * (1 - share) + np.array([38.0, 40.0, 52.0]) * share
    seen += noise.normal(0, 4, seen.shape)
    return Image.fromarray(np.clip(np.rint(seen), 0, 255).astype(np.uint8))


def spoken(program: str) -> tuple[NDArray[np.float64], int]:
    """The sentence as [samples] in -1..1, and its rate in Hz (22050 with espeak-ng)."""
    said = subprocess.run(  # noqa: S603 - the program is the one this script's caller names
        [program, "-v", "en-us", "-s", "150", "--stdout", SENTENCE], check=True, capture_output=True
    )
    with wave.open(BytesIO(said.stdout)) as file:
        # espeak-ng streams, so the header's length is a dummy: read what there is.
        samples = np.frombuffer(file.readframes(2**26), "<i2")
        return samples / 32768, file.getframerate()


def recording(program: str) -> tuple[NDArray[np.int16], int]:
    """[samples, 2]: near-silence, the sentence a little left of the middle, near-silence; and its rate."""
    speech, rate = spoken(program)
    pause = np.zeros(round(SILENCE_S * rate))
    middle = np.concatenate([pause, speech, pause])
    stereo = middle[:, None] * np.array([0.8, 0.6])
    stereo += np.random.default_rng(SEED).uniform(-HISS, HISS, stereo.shape)
    return np.rint(np.clip(stereo, -1, 1) * 32767).astype("<i2"), rate


def main(program: str = "espeak-ng") -> None:
    """Writes both files beside this one."""
    picture().save(HERE / "text.jpg", quality=88)
    samples, rate = recording(program)
    with wave.open(str(HERE / "speech.wav"), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())


if __name__ == "__main__":
    main(*sys.argv[1:])
