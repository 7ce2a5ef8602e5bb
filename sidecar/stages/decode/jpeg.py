"""JPEGs to upright RGB by libjpeg-turbo alone, where that gives the very bits that Pillow gives.

Pillow decodes by libjpeg-turbo too, into four bytes a pixel that are then copied to three, and holds the
interpreter lock between pieces of 64 KiB. Here the library writes the three bytes where they stay.

Only what both read alike is decoded here: YCbCr and grey, in a size that is probe's, and without one
warning of the library. For all else (CMYK, RGB, 12 bits, unknown sampling, any damage) the answer is None
and Pillow is asked, whose errors are the ones that are reported. It never raises for what the bytes are.
"""

from __future__ import annotations

import simplejpeg

from sidecar.media import SIDEWAYS, ImageInfo, Pixels
from sidecar.stages.decode.room import ROOM
from sidecar.stages.decode.turned import upright
from sidecar.stages.reader import Encoded

# What the library calls the colours of a file, by the mode that probe found. Lossless JPEG is never among
# them: the library converts no colours of it, and raises. (It would ignore a smaller size.)
_COLOURS = {"RGB": "YCbCr", "L": "Gray"}

# Pixels a side of the DCT's blocks, and how many times smaller they may come. Of the library's other
# factors 3/8 saves little over a half (4.4 to 4.6 ms at 1080p), and from 5/8 on none is faster than the whole.
_BLOCK = 8
_SHRINKS = (8, 4, 2)


def decode_jpeg(data: Encoded, info: ImageInfo, least_size: tuple[int, int] | None) -> Pixels | None:
    """The picture, turned upright as a view of what the library wrote; None where Pillow must be asked.

    `info` is what probe found in `data`, and what memory is taken by. With `least_size` the picture
    may come at a half, a quarter or an eighth, as DecodeTarget says.
    """
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if (height, width, colours) != (info.height, info.width, _COLOURS.get(info.mode)):
            return None
        shrink = _shrink(info, least_size)
        down, across = -(-height // shrink), -(-width // shrink)
        # Room for the whole picture always: what is not written to costs nothing, and a library that left
        # more than was asked for would write no further.
        room = ROOM.take(3 * info.height * info.width)
        least = (down, across) if shrink > 1 else (0, 0)  # zeros ask for the whole
        found = simplejpeg.decode_jpeg(data, "RGB", min_height=least[0], min_width=least[1], buffer=room)
    except (ValueError, KeyError, RuntimeError):
        return None
    if found.shape != (down, across, 3):
        return None
    stored = room[: found.size].reshape(found.shape)
    turned = upright(stored, info.orientation)
    return Pixels(turned, info.upright_size[::-1], shrink) if shrink > 1 else Pixels(turned)


def _shrink(info: ImageInfo, least_size: tuple[int, int] | None) -> int:
    """How many times smaller the smallest picture is that is enough; 1: the whole.

    The library is told a size, and takes the first of its factors that gives it: on pictures below a
    block another one than is meant here, so those stay whole.
    """
    if least_size is None or max(info.height, info.width) < _BLOCK:
        return 1
    least = least_size[::-1] if info.orientation in SIDEWAYS else least_size
    return next(
        (n for n in _SHRINKS if -(-info.height // n) >= least[0] and -(-info.width // n) >= least[1]), 1
    )
