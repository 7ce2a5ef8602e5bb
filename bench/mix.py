"""What the overload benchmark sends: four kinds of media a hundred times apart in cost, how many of each, how soon due.

By count it is mostly small and by work mostly large, as with agents that send icons and crops at every turn and now
and then a photograph or a recording; so whoever counts requests and whoever counts work decide differently. The
deadlines are what a user would wait for each; they, and the shares, are fixed here and not tuned to any result.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from bench.photos import photos
from inference_client.calls import Calls

PICTURES, SOUNDS = "pictures", "sounds"
"""The sidecar's models: CLIP at 224, and wav2vec2, which takes a sound whole."""

# Never by an upload, whatever the size.
_CALLS = Calls(upload_threshold=2**30)

ICON_SIDE = 96
AUDIO_SECONDS = 120
AUDIO_RATE = 44_100


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of request: the sidecar's model for it, its share by count in percent, seconds until its deadline."""

    name: str
    model: str
    percent: int
    deadline_s: float


KINDS: Sequence[Kind] = (
    Kind("icon", PICTURES, 60, 0.25),
    Kind("1080p", PICTURES, 30, 0.5),
    Kind("12 MP", PICTURES, 8, 1.0),
    Kind("audio", SOUNDS, 2, 2.0),
)
"""From the smallest to the dearest."""

SMALL = KINDS[0]


@functools.cache
def media() -> Mapping[str, tuple[bytes, ...]]:
    """Encoded files by kind; several of each, so that nothing is learnt by heart."""
    return {
        "icon": _icons(),
        "1080p": photos("1920x1080"),
        "12 MP": photos("4000x3000", 4),
        "audio": (_recording(0), _recording(1)),
    }


def request(model: str, data: bytes, *, fresh: bool = True) -> bytes:
    """A serialised InferRequest for one file. `fresh`: have it worked off, whatever is kept of the same content."""
    return _CALLS.infer(model, data, None, fresh=fresh).request.SerializeToString()


def preprocess_request(model: str, data: bytes, *, fresh: bool = True) -> bytes:
    """The same for a serialised PreprocessRequest."""
    return _CALLS.preprocess(model, data, fresh=fresh).request.SerializeToString()


@functools.cache
def requests() -> Mapping[str, tuple[bytes, ...]]:
    """Serialised requests by kind, one a file."""
    files = media()
    return {kind.name: tuple(request(kind.model, data) for data in files[kind.name]) for kind in KINDS}


@functools.cache
def screenshot() -> bytes:
    """A 1080p PNG as agents send them: windows, lines of text, a picture among them."""
    draws = np.random.default_rng(1)
    picture = Image.new("RGB", (1920, 1080), (244, 245, 247))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(14)
    for x, y, width, height in (
        (0, 0, 1920, 36),
        (0, 36, 280, 1044),
        (300, 60, 1000, 980),
        (1320, 60, 580, 980),
    ):
        draw.rectangle((x, y, x + width, y + height), fill=(255, 255, 255), outline=(200, 204, 210))
        for line in range(y + 12, y + height - 20, 22):
            letters = draws.integers(97, 123, int(draws.integers(4, max(5, width // 9))))
            words = bytes(letters).decode("ascii").replace("e", " ")
            draw.text((x + 12, line), words, fill=(40, 44, 52), font=font)
    with Image.open(io.BytesIO(photos("640x480")[0])) as photo:
        picture.paste(photo.resize((560, 420)), (1330, 70))
    return _saved(picture, "PNG")


def _icons() -> tuple[bytes, ...]:
    """PNGs and JPEGs in turn, of 3 to 20 KB."""
    made = []
    for number, data in enumerate(photos("640x480")):
        with Image.open(io.BytesIO(data)) as photo:
            small = photo.resize((ICON_SIDE, ICON_SIDE), Image.Resampling.LANCZOS)
        made.append(_saved(small, "PNG" if number % 2 else "JPEG"))
    return tuple(made)


def _saved(picture: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind)
    return file.getvalue()


def _recording(seed: int) -> bytes:
    """Stereo MP3 of something like speech: noise in syllables, through two formants that wander."""
    samples = _syllables(seed)
    file = io.BytesIO()
    with av.open(file, "w", format="mp3") as out:
        stream = out.add_stream("libmp3lame", rate=AUDIO_RATE, layout="stereo")
        for start in range(0, samples.shape[1], AUDIO_RATE):
            part = np.ascontiguousarray(samples[:, start : start + AUDIO_RATE])
            frame = av.AudioFrame.from_ndarray(part, format="s16p", layout="stereo")
            frame.sample_rate, frame.pts, frame.time_base = AUDIO_RATE, start, Fraction(1, AUDIO_RATE)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return file.getvalue()


def _syllables(seed: int) -> npt.NDArray[np.int16]:
    """int16 [2, samples]."""
    draws = np.random.default_rng([seed, AUDIO_SECONDS])
    at = np.arange(AUDIO_SECONDS * AUDIO_RATE) / AUDIO_RATE
    loudness = np.clip(np.sin(2 * np.pi * (3.1 + seed) * at) + 0.4 * np.sin(2 * np.pi * 0.37 * at), 0, None)
    pitch = 2 * np.pi * np.cumsum(120 + 25 * np.sin(2 * np.pi * 0.8 * at)) / AUDIO_RATE
    voice = sum(np.sin(overtone * pitch) / overtone for overtone in range(1, 9))
    hiss = draws.standard_normal(at.size) * 0.15
    both = [loudness * (voice * side + hiss) for side in (1.0, 0.8)]
    return (np.stack(both) * 6000).clip(-32768, 32767).astype(np.int16)
