"""Media of every kind that is decoded, at many sizes: what the cost of a header is fitted on, and judged by.

Photographs are those of `bench.photos`, made smaller; screens are flat panels with text; testbed's pictures are
the hardest and the easiest for a codec; sounds are testbed's speech, and chords with breath and pauses. Everything
is drawn from seeds and encoded here, by Pillow and FFmpeg. Two assortments share no file, no size and no length:
what is fitted on one is judged by the other.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

import testbed.media
from bench.photos import photos
from testbed.pictures import KINDS

Size = tuple[int, int]
_Wave = npt.NDArray[np.float32]

_SPEECH: Final = Path(testbed.media.__file__).parent / "speech.wav"


@dataclass(frozen=True, slots=True)
class Medium:
    """An encoded file, and what a person calls it."""

    name: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Choice:
    """What sets one assortment apart: (width, height) of pictures, seconds of sounds, and the seed of both."""

    seed: int
    sizes: Sequence[Size]
    seconds: Sequence[float]


FITTED: Final = Choice(
    0,
    ((64, 48), (320, 240), (480, 640), (1024, 682), (1920, 1080), (2560, 1700), (4000, 3000)),
    (0.5, 3.0, 12.0, 40.0),
)
"""What the table of rates is made of."""
JUDGED: Final = Choice(
    1,
    ((96, 120), (400, 300), (800, 600), (900, 1200), (1600, 1200), (3000, 2250)),
    (1.3, 7.0, 25.0),
)
"""What it is judged by."""

# Codecs whose encoders take seconds a megapixel are left out above it.
_SLOW_PIXELS: Final = 1_300_000
# Formats that nobody sends large: every second size, up to this.
_RARE_PIXELS: Final = 2_500_000

_Options = dict[str, Any]

# Pillow's format, its mode, and options. The first are what is sent most, and made of all kinds of pictures.
_COMMON: Final[Sequence[tuple[str, str, _Options]]] = (
    ("JPEG", "RGB", {"quality": 85, "subsampling": "4:2:0"}),
    ("JPEG", "RGB", {"quality": 92, "subsampling": "4:4:4"}),
    ("PNG", "RGB", {"compress_level": 6}),
)
_OTHERS: Final[Sequence[tuple[str, str, _Options]]] = (
    ("JPEG", "RGB", {"quality": 50, "subsampling": "4:2:0"}),
    ("JPEG", "RGB", {"quality": 95, "subsampling": "4:2:0"}),
    ("JPEG", "RGB", {"quality": 75, "subsampling": "4:2:2"}),
    ("JPEG", "RGB", {"quality": 85, "subsampling": "4:2:0", "progressive": True}),
    ("JPEG", "RGB", {"quality": 90, "subsampling": "4:4:4", "progressive": True}),
    ("JPEG", "L", {"quality": 85}),
    ("PNG", "RGBA", {"compress_level": 3}),
    ("PNG", "L", {"compress_level": 6}),
    ("PNG", "P", {"compress_level": 6}),
    ("WEBP", "RGB", {"quality": 80, "method": 2}),
)
_RARE: Final[Sequence[tuple[str, str, _Options]]] = (
    ("JPEG", "L", {"quality": 85, "progressive": True}),
    ("JPEG", "CMYK", {"quality": 85}),
    ("PNG", "LA", {"compress_level": 3}),
    ("PNG", "1", {"compress_level": 6}),
    ("GIF", "P", {"interlace": 0}),
    ("GIF", "P", {"interlace": 1}),
    ("BMP", "RGB", {}),
    ("BMP", "P", {}),
    ("TIFF", "RGB", {}),
    ("TIFF", "RGB", {"compression": "tiff_lzw"}),
    ("TIFF", "RGB", {"compression": "jpeg"}),
    ("TIFF", "L", {}),
)
_SLOW: Final[Sequence[tuple[str, str, _Options]]] = (
    ("WEBP", "RGB", {"quality": 95, "method": 2}),
    ("WEBP", "RGBA", {"quality": 80, "method": 2}),
    ("WEBP", "RGB", {"lossless": True, "method": 0}),
    ("AVIF", "RGB", {"quality": 75, "speed": 9}),
)

# FFmpeg's encoder, container, sample format, rate, layout and options.
_SOUNDS: Final[Sequence[tuple[str, str, str, int, str, dict[str, str]]]] = (
    ("pcm_s16le", "wav", "s16", 16_000, "mono", {}),
    ("pcm_s16le", "wav", "s16", 44_100, "stereo", {}),
    ("pcm_f32le", "wav", "flt", 48_000, "mono", {}),
    ("pcm_s24le", "wav", "s32", 48_000, "stereo", {}),
    ("pcm_mulaw", "wav", "s16", 8_000, "mono", {}),
    ("flac", "flac", "s16", 44_100, "stereo", {}),
    ("flac", "flac", "s16", 16_000, "mono", {}),
    ("libmp3lame", "mp3", "fltp", 44_100, "stereo", {"b": "128000"}),
    ("libmp3lame", "mp3", "fltp", 44_100, "stereo", {"b": "256000"}),
    ("libmp3lame", "mp3", "fltp", 16_000, "mono", {"b": "32000"}),
    ("aac", "adts", "fltp", 44_100, "stereo", {"b": "128000"}),
    ("aac", "ipod", "fltp", 48_000, "mono", {"b": "64000"}),
    ("aac", "ipod", "fltp", 44_100, "stereo", {"b": "192000"}),
    ("alac", "ipod", "s16p", 44_100, "stereo", {}),
    ("libopus", "ogg", "flt", 48_000, "mono", {"b": "32000"}),
    ("libopus", "ogg", "flt", 48_000, "stereo", {"b": "128000"}),
    ("libopus", "webm", "flt", 48_000, "stereo", {"b": "64000"}),
    ("vorbis", "ogg", "fltp", 44_100, "stereo", {"strict": "-2"}),
)


def pictures(choice: Choice) -> Iterator[Medium]:
    """Pictures of every format, mode and kind, the smallest first."""
    for place, size in enumerate(choice.sizes):
        pixels = size[0] * size[1]
        for kind, options in (
            ("photo", (*_COMMON, *_OTHERS)),
            ("screen", (*_COMMON, *_OTHERS[-4:])),
            ("photo", _RARE if pixels <= _RARE_PIXELS and (place + choice.seed) % 2 == 0 else ()),
            ("photo", _SLOW if pixels <= _SLOW_PIXELS else ()),
            *((name, _COMMON[:1]) for name in KINDS if pixels <= _RARE_PIXELS),
        ):
            picture = drawn(kind, size, choice.seed)
            yield from (_saved(kind, picture, *each) for each in options)


def drawn(kind: str, size: Size, seed: int) -> Image.Image:
    """A picture in RGB: "photo", "screen", or one of testbed's kinds."""
    width, height = size
    if kind == "photo":
        return (
            _photo(seed).resize(size, Image.Resampling.LANCZOS) if width >= height else _portrait(size, seed)
        )
    if kind == "screen":
        return _screen(size, seed)
    return Image.fromarray(KINDS[kind](height, width))


def _portrait(size: Size, seed: int) -> Image.Image:
    return _photo(seed).transpose(Image.Transpose.ROTATE_90).resize(size, Image.Resampling.LANCZOS)


@functools.cache
def _photo(seed: int) -> Image.Image:
    return Image.open(io.BytesIO(photos("4000x3000", 2)[seed])).convert("RGB")


def _screen(size: Size, seed: int) -> Image.Image:
    """Panels in few colours, and lines of text in them: what agents photograph of desktops."""
    draws = np.random.default_rng([seed, *size])
    width, height = size
    picture = Image.new("RGB", size, (246, 247, 249))
    draw = ImageDraw.Draw(picture)
    for _ in range(6):
        left, top = int(draws.integers(width)), int(draws.integers(height))
        box = (left, top, left + width // 3, top + height // 3)
        draw.rectangle(box, fill=tuple(map(int, draws.integers(200, 256, 3))), outline=(180, 184, 190))
    words = np.array(
        ["tensor", "queue", "the", "of", "latency", "worker", "17.3", "ms", "decode", "=>", "ok"]
    )
    for row in range(2, height - 12, 15):
        line = " ".join(draws.choice(words, max(1, width // 48)))
        draw.text((int(draws.integers(2, 12)), row), line, fill=(32, 36, 44))
    return picture


def _saved(kind: str, picture: Image.Image, name: str, mode: str, options: _Options) -> Medium:
    file = io.BytesIO()
    converted = picture if mode == "RGB" else picture.convert(mode)
    converted.save(file, name, **options)
    said = " ".join(f"{key}={value}" for key, value in options.items())
    width, height = picture.size
    return Medium(f"{kind} {width}x{height} {name} {mode} {said}".rstrip(), file.getvalue())


def sounds(choice: Choice) -> Iterator[Medium]:
    """Sounds of every codec, the shortest first."""
    for place, seconds in enumerate(choice.seconds):
        for number, (codec, kind, sample_format, rate, layout, options) in enumerate(_SOUNDS):
            spoken = (place + number + choice.seed) % 2 == 0
            channels = 1 if layout == "mono" else 2
            wave = (_speech if spoken else _chords)(seconds, rate, channels, choice.seed)
            data = _encoded(wave, rate, codec, kind, sample_format, layout, options)
            what = "speech" if spoken else "chords"
            yield Medium(f"{what} {seconds:g} s {codec} in {kind} {rate} Hz {layout}", data)


def _chords(seconds: float, rate: int, channels: int, seed: int) -> _Wave:
    """Chords that swell and fade, with breath between. float32 [channels, samples]."""
    draws = np.random.default_rng([seed, rate, channels])
    time = np.arange(round(seconds * rate)) / rate
    swell = 0.5 + 0.5 * np.sin(2 * np.pi * 0.7 * time)
    tones = [
        sum(np.sin(2 * np.pi * pitch * time) for pitch in draws.uniform(90, 3000, 8)) / 16
        for _ in range(channels)
    ]
    breath = draws.normal(0, 0.02, (channels, time.size))
    return (np.stack(tones) * swell + breath).astype(np.float32)


def _speech(seconds: float, rate: int, channels: int, seed: int) -> _Wave:
    """Testbed's sentence, over and over, at another rate. float32 [channels, samples]."""
    spoken, stored_rate = _sentence()
    wanted = round(seconds * rate)
    at = (np.arange(wanted) * (stored_rate / rate) + seed * stored_rate) % (spoken.size - 1)
    wave = np.interp(at, np.arange(spoken.size), spoken).astype(np.float32)
    return np.repeat(wave[np.newaxis], channels, axis=0)


@functools.cache
def _sentence() -> tuple[_Wave, int]:
    with av.open(str(_SPEECH)) as container:
        stream = container.streams.audio[0]
        rate = stream.rate
        blocks = [frame.to_ndarray().reshape(-1, stream.channels) for frame in container.decode(stream)]
    return np.concatenate(blocks)[:, 0].astype(np.float32) / np.float32(2**15), rate


def _encoded(  # noqa: PLR0917 - a row of the table, and its wave
    wave: _Wave, rate: int, codec: str, kind: str, sample_format: str, layout: str, options: dict[str, str]
) -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format=kind) as container:
        stream: Any = container.add_stream(codec, rate=rate, options=options)
        stream.layout, stream.format = layout, sample_format
        stream.codec_context.open()
        frame = av.AudioFrame.from_ndarray(wave, "fltp", layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        blocks = av.AudioResampler(sample_format, layout, rate, stream.codec_context.frame_size or 1024)
        for block in (*blocks.resample(frame), *blocks.resample(None), None):
            container.mux(stream.encode(block))
    return out.getvalue()
