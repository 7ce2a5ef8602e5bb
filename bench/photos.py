"""Pictures to measure with: JPEGs about as hard to decode as photographs, of nobody and without a licence.

What a decoder meets in a photograph is fine detail whose strength falls with its fineness (a spectrum of
about 1/f, Field 1987), objects that hide each other with edges between them (the dead-leaves model, Lee,
Mumford and Huang 2001), less detail in colour than in light, and a sensor's grain. All of that is drawn from
seeds here, so the pictures are the same on every run; only a codec's or a Fourier transform's version may
change a bit of them. Sizes in bytes meet what cameras and phones give at quality 85, 4:2:0: about 80 KB at
640x480, 400 KB at 1080p, 3 MB at 12 MP.
"""

from __future__ import annotations

import functools
import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.fft
from PIL import Image, ImageDraw, ImageFilter

SIZES = {"640x480": (640, 480), "1920x1080": (1920, 1080), "4000x3000": (4000, 3000)}
"""(width, height) by name, as the benchmarks' cases name them."""

# Deviation of the detail in grey levels, by the bytes that such files have: a sensor of 12 MP is noisier a
# pixel than a picture that was made smaller.
_DETAIL = {"640x480": 10.5, "1920x1080": 8.5, "4000x3000": 13.0}
# Busy and quiet pictures differ by this much around it.
_BUSY = 0.25

COUNT = 8
"""Different pictures a size, so that no branch predictor or cache learns one by heart."""

QUALITY = 85

# Of the detail's deviation: the colour's, and the grain of single pixels.
_COLOUR, _GRAIN = 0.6, 0.1
_LEAVES = 220
# A lens and a demosaiced sensor leave no edge sharper than about this many pixels.
_SOFT_PIXELS = 0.8

_Plane = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Fields:
    """What the pictures of one size share, each seeing it shifted: noise of mean 0 and deviation 1."""

    detail: _Plane
    colour: tuple[_Plane, _Plane]


@functools.cache
def photos(name: str, count: int = COUNT) -> tuple[bytes, ...]:
    """`count` JPEGs of the size that SIZES names, all different, the same on every call."""
    size = SIZES[name]
    fields = _fields(*size)
    return tuple(_jpeg(_photo(fields, size, _DETAIL[name], seed)) for seed in range(count))


def _photo(fields: _Fields, size: tuple[int, int], detail: float, seed: int) -> Image.Image:
    draws = np.random.default_rng([seed, *size])
    width, height = size
    # The three planes are light and two colours; Pillow filters them only under the name of RGB.
    objects = Image.new("RGB", size, (118, 124, 132))
    draw = ImageDraw.Draw(objects)
    # Radii fall as r^-3, which makes the statistics the same at every scale.
    smallest, largest = height / 60, height / 2
    spread = draws.random(_LEAVES)
    radii = 1 / np.sqrt(spread / smallest**2 + (1 - spread) / largest**2)
    for radius in radii:
        x, y = draws.uniform(0, width), draws.uniform(0, height)
        light, blue, red = draws.uniform(30, 225), draws.normal(122, 12), draws.normal(134, 12)
        box = (x - radius, y - radius * draws.uniform(0.4, 1), x + radius, y + radius * draws.uniform(0.4, 1))
        shape = draw.ellipse if draws.random() < 0.6 else draw.rectangle  # noqa: PLR2004 - more round than square
        shape(box, fill=(int(light), int(blue), int(red)))
    objects = objects.filter(ImageFilter.GaussianBlur(_SOFT_PIXELS))
    shift = (int(draws.integers(height)), int(draws.integers(width)))
    detail *= draws.uniform(1 - _BUSY, 1 + _BUSY)
    strengths = (detail, detail * _COLOUR, detail * _COLOUR)
    planes = []
    for plane, field, strength in zip(
        objects.split(), (fields.detail, *fields.colour), strengths, strict=True
    ):
        mixed = np.asarray(plane, np.float32) + strength * np.roll(field, shift, (0, 1))
        planes.append(Image.fromarray(np.clip(np.rint(mixed), 0, 255).astype(np.uint8)))
    return Image.merge("YCbCr", planes)


def _fields(width: int, height: int) -> _Fields:
    draws = np.random.default_rng([width, height])
    detail = _noise(draws, width, height, 1.0)
    grain = draws.standard_normal((height, width), np.float32)
    return _Fields(
        detail + np.float32(_GRAIN) * grain,
        (_noise(draws, width, height, 1.6), _noise(draws, width, height, 1.6)),
    )


def _noise(draws: np.random.Generator, width: int, height: int, power: float) -> _Plane:
    """Noise whose amplitude falls as 1/f^power, periodic in both directions."""
    spectrum = scipy.fft.rfft2(draws.standard_normal((height, width), np.float32))
    rows = np.fft.fftfreq(height).astype(np.float32)[:, np.newaxis]
    columns = np.fft.rfftfreq(width).astype(np.float32)
    frequency = np.sqrt(rows**2 + columns**2)
    # Nothing is slower than an eighth of the picture: the objects are what is large.
    spectrum /= np.maximum(frequency, np.float32(8 / max(width, height))) ** np.float32(power)
    spectrum[0, 0] = 0
    noise: _Plane = scipy.fft.irfft2(spectrum, s=(height, width)).astype(np.float32)
    noise /= noise.std()
    return noise


def _jpeg(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=QUALITY, subsampling="4:2:0")
    return file.getvalue()
