"""What an item's work consists of, and at which rates a core does it: the cost of a header on the machine of the table.

Each step of a job is a row of the table, and its cost a sum: a constant, and so many milliseconds for each of the
amounts that it goes through (pixels, encoded bytes, samples). Rows hold no negative rate, so that more work never
costs less. Which row a step is, and its amounts, are said here; the rates were fitted to measurements by
scripts/fit_costs.py (fitted.py).

Pure arithmetic on probe's facts and the recipe's plan. Nothing here knows this machine: cost.py learns how much
faster or slower it is.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from typing import Final

from sidecar.media import SIDEWAYS, AudioInfo, DecodeTarget, ImageInfo, MediaInfo, Workload
from sidecar.stages.admit.fitted import RATES

Row = tuple[str, ...]
"""A row's name: the step, and its variants from the widest to the finest."""
Amounts = tuple[float, ...]
"""How much a row's step goes through, in the order of its rates; the first is 1, for the constant."""

JOB: Final[Row] = ("job",)
"""What taking up any item costs."""

# Of pixels, samples, elements and bytes.
_MILLION: Final = 1e6
# Photographs at quality 85 take a byte for 4 to 5 pixels (bench/photos.py): where one is known, and not the other.
PIXELS_PER_BYTE: Final = 4.5
# Where a sound's length is unknown: what streams of music and good speech use (64 kbit/s), so that speech at less
# is taken for shorter than it is. Limits and decode go by `longest_s`.
_USUAL_BYTES_PER_SECOND: Final = 8_000
# Bytes of an element from which on nothing is rounded: FP32's.
_WIDE: Final = 4
# How near a TIFF's bytes must be to what its pixels take, 3 each, to be those pixels as they are.
_BARE: Final = 0.02
_USUAL_RATE: Final = 48_000
_USUAL_CHANNELS: Final = 2
_SHRINKS: Final = (8, 4, 2)
_COARSER: Final = {"4:1:1": "4:2:0", "4:4:0": "4:2:2"}


def base_ms(info: MediaInfo, target: DecodeTarget, work: Workload) -> float:
    """Milliseconds of one core of the table's machine for a whole job."""
    return sum(row_ms(row, amounts) for row, amounts in steps(info, target, work))


def row_ms(row: Row, amounts: Amounts) -> float:
    """Milliseconds of a step: of the finest row of that name that the table has, else of a wider one."""
    while len(row) > 1 and row not in RATES:
        row = row[:-1]
    return math.fsum(map(operator.mul, RATES[row], amounts))


def steps(info: MediaInfo, target: DecodeTarget, work: Workload) -> Iterator[tuple[Row, Amounts]]:
    """The rows and amounts of a job's steps."""
    yield JOB, (1.0,)
    match info:
        case ImageInfo():
            pixels = info.width * info.height or PIXELS_PER_BYTE * info.encoded_bytes
            encoded = info.encoded_bytes or pixels / PIXELS_PER_BYTE
            shrink = shrink_of(info, target)
            yield (
                _picture(info),
                (1.0, pixels / _MILLION, pixels / shrink**2 / _MILLION, encoded / _MILLION),
            )
            yield from _resizes(info, work, shrink)
        case AudioInfo():
            yield from _sound(info, target, work)
    if work.elements:
        width = "wide" if work.nbytes >= _WIDE * work.elements else "narrow"
        yield ("pack", info.modality.value, width), (1.0, work.elements / _MILLION)


def _picture(info: ImageInfo) -> Row:
    """Progressive and interlaced pictures are rows of their own; so are a JPEG's subsamplings, and others' modes."""
    way = "progressive" if info.progressive else "plain"
    if info.format == "jpeg" and info.mode == "RGB":
        return "picture", info.format, way, _COARSER.get(info.subsampling, info.subsampling)
    bare = 3 * info.width * info.height
    is_bare = info.format == "tiff" and abs(info.encoded_bytes - bare) <= _BARE * bare
    return "picture", info.format, way, "bare" if is_bare else info.mode


def shrink_of(info: ImageInfo, target: DecodeTarget) -> int:
    """By how much a side of a JPEG comes smaller, as decode chooses it for `target.least_size`."""
    if info.format != "jpeg" or target.least_size is None or info.mode not in {"RGB", "L"}:
        return 1
    down, across = target.least_size[::-1] if info.orientation in SIDEWAYS else target.least_size
    return next((n for n in _SHRINKS if -(-info.height // n) >= down and -(-info.width // n) >= across), 1)


def _resizes(info: ImageInfo, work: Workload, shrink: int) -> Iterator[tuple[Row, Amounts]]:
    """Two passes each: every row across, then every column down; a sum of `taps` samples, or more to make it smaller.

    Where outputs hold fewer pixels than the sizes do, the rest is cropped, and not computed.
    """
    width, height = (side / shrink for side in info.upright_size)
    made = sum(tall * wide for tall, wide in work.resized)
    kept = min(1.0, work.elements / (3 * made)) if made else 1.0
    for tall, wide in work.resized:
        across = height * max(wide, width) * kept if wide != width else 0.0
        down = wide * kept * max(tall, height) if tall != height else 0.0
        if across or down:
            taps = work.taps / _MILLION
            yield ("resize", work.reference), (1.0, across * taps, down * taps)


def _sound(info: AudioInfo, target: DecodeTarget, work: Workload) -> Iterator[tuple[Row, Amounts]]:
    stored = seconds_of(info)
    seconds = stored if target.max_seconds is None else min(stored, target.max_seconds)
    part = seconds / stored if stored else 0.0
    samples = seconds * (info.sample_rate or _USUAL_RATE) / _MILLION
    channels = info.channels or _USUAL_CHANNELS
    kind = ("pcm", info.codec) if info.codec.startswith("pcm_") else (info.codec, info.format)
    yield ("sound", *kind), (1.0, channels * samples, part * info.encoded_bytes / _MILLION)
    # FFmpeg's own resampler, while decoding, costs no more than the memory that it spares (12 s of 44.1 kHz stereo:
    # 6 ms with it and 10 without).
    if target.rate is None:
        yield ("mono",), (1.0, (channels - 1) * samples)
        if work.rate and work.rate != info.sample_rate:
            yield ("resample",), (1.0, samples, seconds * work.rate / _MILLION)
    if work.rate:
        heard = min(seconds, work.seconds) if work.seconds else seconds
        yield ("spectrum", work.processor), (1.0, heard * work.rate / _MILLION, work.elements / _MILLION)


def seconds_of(info: AudioInfo) -> float:
    """How long a sound probably is: what its header says, else what its bytes would last at a usual rate."""
    return info.duration_s or info.encoded_bytes / _USUAL_BYTES_PER_SECOND
