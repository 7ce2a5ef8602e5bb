"""The nouns of the path: what comes in, what probe finds, what decode and transform leave, what goes out.

Every noun is frozen, and computes at most what it says about itself. Nothing here does I/O or knows who
uses it.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

SIDEWAYS: Final = frozenset({5, 6, 7, 8})
"""EXIF's orientations that swap a picture's sides."""

# The least that codecs here use for speech: 16 kbit/s.
_LEAST_BYTES_PER_SECOND: Final = 2_000


class Modality(enum.Enum):
    """What kind of media an item is, decided by its content."""

    IMAGE = "image"
    AUDIO = "audio"

    # As Stage has it: Enum's own hash is Python.
    __hash__ = object.__hash__


@dataclass(frozen=True, slots=True)
class Source:
    """One encoded media item as the caller sent it.

    `data` is the whole encoded file, read-only by agreement: bytes, or a view of the arena's; a contiguous
    buffer of unsigned bytes either way, which libraries take as it is. `content_type` is the caller's claim
    ("image/png", "audio/*", empty for none); `label` names the item in messages ("item 0 (cat.jpg)").
    """

    data: bytes | memoryview = field(repr=False)
    content_type: str = ""
    label: str = "item 0"


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """Facts of a picture, from its header alone.

    `width` and `height` are pixels as stored, before EXIF rotation; `mode` is Pillow's word for the
    stored pixel mode; `orientation` is EXIF's 1 to 8; `frames` counts animation frames or pages.
    `progressive`: stored in passes over the whole picture (progressive JPEG, interlaced PNG and GIF);
    `subsampling` is a JPEG's of its colours ("4:2:0"), empty where it has none or says nothing usual.
    `metadata_bytes` are those of the file that are about the picture: EXIF, XMP, profiles, texts.
    """

    format: str
    encoded_bytes: int
    width: int
    height: int
    mode: str
    orientation: int = 1
    frames: int = 1
    progressive: bool = False
    subsampling: str = ""
    metadata_bytes: int = 0

    @property
    def modality(self) -> Modality:
        return Modality.IMAGE

    @property
    def upright_size(self) -> tuple[int, int]:
        """(width, height) in pixels as a viewer would show it."""
        return (self.height, self.width) if self.orientation in SIDEWAYS else (self.width, self.height)


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """Facts of a sound, from its container's header.

    `codec` is FFmpeg's name; `sample_rate` is hertz and `channels` a count, both as stored;
    `duration_s` is what the header claims in seconds, or what FFmpeg makes of the file's size; None where
    neither says. `streams` counts those of every kind in the container, covers and films among them;
    `metadata_bytes` are those of tags, covers and attachments.
    """

    format: str
    encoded_bytes: int
    codec: str
    sample_rate: int
    channels: int
    duration_s: float | None = None
    streams: int = 1
    metadata_bytes: int = 0

    @property
    def modality(self) -> Modality:
        return Modality.AUDIO

    @property
    def longest_s(self) -> float:
        """`duration_s`, or, where that is unknown, the longest that the bytes would last as speech. Seconds."""
        return self.duration_s or self.encoded_bytes / _LEAST_BYTES_PER_SECOND


MediaInfo = ImageInfo | AudioInfo


class Reuse(enum.Enum):
    """Whether an item's tensors were made for the call that has them."""

    MADE = "made"
    KEPT = "kept"
    SHARED = "shared"


@dataclass(frozen=True, slots=True)
class Cost:
    """What an item takes: `cpu_ms` milliseconds of one core; `decoded_bytes` of what decode leaves.

    Those are 3 bytes a pixel, and 4 a sample of a channel. Working memory comes on top: Pillow holds 4 bytes
    a pixel while its 3 are copied out, and a resampler its own copy.
    """

    cpu_ms: float
    decoded_bytes: int


@dataclass(frozen=True, slots=True)
class Workload:
    """What a recipe will do with a decoded item, as far as its header tells; zeros are nothing, or nothing known.

    `processor` and `reference` are the recipe's. `resized`: every size, (height, width), that the whole picture is
    resized to, by a filter that spans `taps` samples where a side keeps its length. `rate` is hertz that sound is
    brought to, and `seconds` how much of it is heard. `elements` and `nbytes` are those of all outputs together.
    """

    processor: str = ""
    reference: str = ""
    resized: tuple[tuple[int, int], ...] = ()
    taps: int = 0
    rate: int = 0
    seconds: float = 0.0
    elements: int = 0
    nbytes: int = 0


@dataclass(frozen=True, slots=True)
class Pixels:
    """A decoded picture, upright: uint8 [height, width, 3], RGB.

    `array` may be a view that mirrors or transposes the pixels as they lie. Where decode left a smaller
    picture, `full` is the (height, width) that the whole one has, upright, and each pixel here stands for
    `shrink` x `shrink` of it; those of the last row and column, as they lie, for what remains. None: as decoded.
    """

    array: npt.NDArray[np.uint8]
    full: tuple[int, int] | None = None
    shrink: int = 1

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the whole picture, which is what geometry goes by."""
        return self.full or (self.array.shape[0], self.array.shape[1])

    @property
    def extent(self) -> tuple[float, float]:
        """(height, width) that the whole picture takes up in `array`, in its pixels, down to a part of one."""
        height, width = self.size
        return height / self.shrink, width / self.shrink


@dataclass(frozen=True, slots=True)
class Samples:
    """A decoded sound: float32 [channels, samples] in -1..1 at `rate` hertz."""

    array: npt.NDArray[np.float32]
    rate: int


Frames = Pixels | Samples


@dataclass(frozen=True, slots=True)
class DecodeTarget:
    """What decode must leave.

    `rate` is hertz, and set only where a recipe wants the decoder's own resampler (FFmpeg's
    swresample, mono); None leaves sounds as they are stored. `max_decoded_bytes` bounds the memory of
    the result: content that goes on past it, whatever its header claimed, is CorruptMedia.
    `max_seconds`: of sound, decode may stop once it has this much; None: all of it.
    `white_transparency` paints the one colour that a GIF or PNG declares transparent white, as
    `transformers`' convert_to_rgb does (recipes with do_convert_rgb); alpha channels are dropped always.
    `least_size` is (height, width) in pixels, upright: decode may leave a smaller picture than the stored
    one as long as neither side is below this, where that is cheaper (JPEG, by a half, a quarter or an
    eighth). Pixels are then near those of the reference, not equal. None: full size, which is exact.
    """

    rate: int | None = None
    max_decoded_bytes: int | None = None
    max_seconds: float | None = None
    white_transparency: bool = False
    least_size: tuple[int, int] | None = None


class DataType(enum.Enum):
    """Element types by their KServe v2 names; `itemsize` is bytes, 0 for the variable BYTES."""

    BOOL = "BOOL"
    UINT8 = "UINT8"
    UINT16 = "UINT16"
    UINT32 = "UINT32"
    UINT64 = "UINT64"
    INT8 = "INT8"
    INT16 = "INT16"
    INT32 = "INT32"
    INT64 = "INT64"
    FP16 = "FP16"
    FP32 = "FP32"
    FP64 = "FP64"
    BF16 = "BF16"
    BYTES = "BYTES"

    @property
    def itemsize(self) -> int:
        return _ITEMSIZE[self]

    @property
    def storage(self) -> np.dtype[np.generic]:
        """The numpy dtype that holds the elements; BF16 has none of its own and is held as uint16 bits.

        Raises KeyError for BYTES, whose elements vary in length.
        """
        return _STORAGE[self]


_STORAGE: dict[DataType, np.dtype[np.generic]] = {
    DataType.BOOL: np.dtype(np.bool_),
    DataType.UINT8: np.dtype("u1"),
    DataType.UINT16: np.dtype("<u2"),
    DataType.UINT32: np.dtype("<u4"),
    DataType.UINT64: np.dtype("<u8"),
    DataType.INT8: np.dtype("i1"),
    DataType.INT16: np.dtype("<i2"),
    DataType.INT32: np.dtype("<i4"),
    DataType.INT64: np.dtype("<i8"),
    DataType.FP16: np.dtype("<f2"),
    DataType.FP32: np.dtype("<f4"),
    DataType.FP64: np.dtype("<f8"),
    DataType.BF16: np.dtype("<u2"),
}
_ITEMSIZE = {kind: _STORAGE[kind].itemsize if kind in _STORAGE else 0 for kind in DataType}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor's name, type and shape rule: axes without the batch axis, -1 where a length varies.

    `rows`: the items of a request follow one another along its first axis, which is no item's own; false for
    one item a row of an axis in front.
    """

    name: str
    data_type: DataType
    shape: tuple[int, ...]
    optional: bool = False
    rows: bool = False

    def admits(self, shape: tuple[int, ...]) -> bool:
        """Whether `shape` (axis lengths, no batch axis) obeys the rule."""
        return len(shape) == len(self.shape) and all(
            rule in (-1, length) for rule, length in zip(self.shape, shape, strict=True)
        )


@dataclass(frozen=True, slots=True)
class Tensor:
    """A dense tensor in wire form: `data` holds the elements row-major, little-endian, contiguous.

    BYTES elements carry a 4-byte little-endian length each, as Triton lays them out. `at` is where `data`
    begins in the arena, in bytes from its start; None for data that lies elsewhere.
    """

    name: str
    data_type: DataType
    shape: tuple[int, ...]
    data: bytes | memoryview = field(repr=False)
    at: int | None = None

    @property
    def nbytes(self) -> int:
        return self.data.nbytes if isinstance(self.data, memoryview) else len(self.data)

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Looked:
    """Bytes that stand for values, as they are to lie: element i of `view` becomes table[channel of i, view[i]].

    `view` is uint8 of any shape, with strides of 0 and above, in the order of the output; `channel`
    is the axis of it that is the colour channel; `table` is float32 [channels, 256].
    """

    view: npt.NDArray[np.uint8]
    channel: int
    table: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Blank:
    """So many elements of nothing: 0 in every type, as processors fill up after they have normalised."""

    count: int


@dataclass(frozen=True, slots=True)
class Verbatim:
    """A tensor's data as it is to lie: one element of BYTES, its length in front."""

    data: bytes = field(repr=False)


Part = Looked | Blank | Verbatim | npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class Shaped:
    """What transform leaves for pack: one output of the recipe, not yet in its final type.

    `parts` fill `shape` row-major, one behind another; an array among them is in its final layout, with only
    its element type to cast.
    """

    name: str
    shape: tuple[int, ...]
    parts: tuple[Part, ...]

    @classmethod
    def of(cls, name: str, array: npt.NDArray[np.generic]) -> Shaped:
        """An array as it is."""
        return cls(name, array.shape, (array,))

    @classmethod
    def channels_first(
        cls, name: str, pixels: npt.NDArray[np.uint8], table: npt.NDArray[np.float32]
    ) -> Shaped:
        """uint8 [height, width, channels] as values [channels, height, width]."""
        height, width, channels = pixels.shape
        return cls(name, (channels, height, width), (Looked(pixels.transpose(2, 0, 1), 0, table),))
