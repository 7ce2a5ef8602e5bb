"""Numpy arrays to files that the sidecar decodes bit for bit: PNG for pixels, WAV for samples.

Standard library and numpy only. Both formats are written without compression: the sidecar is
usually on the same machine, and for a 1080p picture storing costs 16 ms here and 11 ms there, where
the lightest deflate costs 127 ms and 43 ms for 15 % fewer bytes (one core, measured).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# PNG's colour type by number of channels (PNG specification, 11.2.2): grey, true colour, with alpha.
_PNG_COLOUR: Mapping[int, int] = {1: 0, 3: 2, 4: 6}
# Largest width or height that PNG's header holds (11.2.2).
_PNG_LIMIT = 2**31 - 1

# WAV format tags (RIFF registry): integer PCM and IEEE floating point.
_WAV_PCM, _WAV_FLOAT = 1, 3
# RIFF states sizes in 32 bits; the headers written here take less than 60 bytes.
_WAV_LIMIT = 2**32 - 64
# More channels than this is taken for [n, channels] by mistake. Out of the air: 7.1.4 sound has 12.
_MOST_CHANNELS = 32


def png(pixels: NDArray[Any]) -> bytes:
    """A PNG of `pixels`: uint8, shaped [height, width], [height, width, 3] (RGB) or [.., 4] (RGBA).

    Raises ValueError for other dtypes and shapes.
    """
    shape = pixels.shape
    channels = shape[2] if pixels.ndim == 3 else 1  # noqa: PLR2004 - axes: height, width, channels
    if pixels.dtype != np.uint8 or pixels.ndim not in {2, 3} or channels not in _PNG_COLOUR or 0 in shape:
        raise ValueError(
            "an image array is uint8 of shape [height, width], [height, width, 3] or [height, width, 4]; "
            f"found {pixels.dtype} of shape {list(shape)}. Scale floats to 0..255 and convert them with "
            "`.astype(numpy.uint8)`; move channels last with `.transpose(1, 2, 0)`."
        )
    height, width = shape[:2]
    if max(height, width) > _PNG_LIMIT:
        raise ValueError(f"an image array is at most {_PNG_LIMIT} pixels high and wide; found {list(shape)}")
    rows = np.zeros((height, 1 + width * channels), np.uint8)  # column 0: filter type 0, none
    rows[:, 1:] = pixels.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, _PNG_COLOUR[channels], 0, 0, 0)
    body = zlib.compress(rows.data, level=0)
    parts = ((b"IHDR", header), (b"IDAT", body), (b"IEND", b""))
    return b"".join((_PNG_SIGNATURE, *(_png_chunk(kind, data) for kind, data in parts)))


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(data, zlib.crc32(kind))
    return b"".join((struct.pack(">I", len(data)), kind, data, struct.pack(">I", checksum)))


def wav(samples: NDArray[Any], rate: int) -> bytes:
    """A WAV of `samples`, shaped [n] or [channels, n], at `rate` hertz.

    int16 is kept as it is; float32 (full scale -1 to 1, not clipped) too; float16 and float64 become
    float32. Raises ValueError for other dtypes and shapes.
    """
    if rate <= 0:
        raise ValueError(f"an audio array needs its rate in hertz, above 0; found {rate}")
    if samples.ndim not in {1, 2} or samples.dtype.kind not in {"f", "i"} or 0 in samples.shape:
        raise _unusable_audio(samples)
    if samples.dtype.kind == "i" and samples.dtype.itemsize != 2:  # noqa: PLR2004 - bytes of an int16
        raise _unusable_audio(samples)
    planes = np.atleast_2d(samples)
    channels, length = planes.shape
    if channels > _MOST_CHANNELS:
        raise _unusable_audio(samples)
    tag, stored = (_WAV_FLOAT, np.dtype("<f4")) if samples.dtype.kind == "f" else (_WAV_PCM, np.dtype("<i2"))
    if channels * length * stored.itemsize > _WAV_LIMIT:
        raise ValueError(
            f"an audio array takes at most 4 GiB; found {samples.dtype} of {list(samples.shape)}"
        )
    data = np.ascontiguousarray(planes.T, dtype=stored).tobytes()
    frame = channels * stored.itemsize
    layout = struct.pack("<HHIIHHH", tag, channels, rate, rate * frame, frame, stored.itemsize * 8, 0)
    # Sound that is not integer PCM states its length in frames too.
    parts = ((b"fmt ", layout), (b"fact", struct.pack("<I", length)), (b"data", data))
    body = b"".join((b"WAVE", *(struct.pack("<4sI", kind, len(part)) + part for kind, part in parts)))
    return struct.pack("<4sI", b"RIFF", len(body)) + body


def _unusable_audio(samples: NDArray[Any]) -> ValueError:
    return ValueError(
        "an audio array is float or int16 of shape [n] or [channels, n]; "
        f"found {samples.dtype} of shape {list(samples.shape)}. Turn [n, channels] with `.T`."
    )
