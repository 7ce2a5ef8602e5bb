"""Bounded walks over the skeletons of image formats, before any library meets the bytes.

Two things that libraries do not do in bounded time: count frames without reading them, and give up
on a header made of a million empty parts (Pillow reads headers in Python, part by part, so 64 MB of
them would hold a core for half a minute). Each walk takes at most `STEPS` steps, allocates nothing
by what the header claims, and reads past the end as zeros rather than fail: what is cut short is for
the decoder to say. Layouts are those of the formats' own specifications.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Literal

from sidecar.errors import CorruptMedia
from sidecar.stages import metadata
from sidecar.stages.reader import Encoded

STEPS = 4096
"""Most parts that a walk visits: out of the air, twenty times what cameras and editors write."""

SCANS = 100
"""Most scans of a JPEG. Encoders write 10 to 20. Decoders touch every pixel in each, for 14 bytes of file:
0.8 ms a megapixel, so a hundred cost what ten plain pictures do. libtiff has the same limit for JPEG in TIFF."""

TILE = 1 << 22
"""Most pixels of a TIFF's tile that is larger than its picture: libtiff makes room for a whole tile,
whatever the picture's size. Writers use 256 to 1,024 a side; this is 2,048 a side, 16 MB of RGBA."""

_COMPRESSED_TEXTS = 32  # of a PNG; each may cost a millisecond to unpack


@dataclass(frozen=True, slots=True)
class Skeleton:
    """`frames` as far as they were counted, None to ask the library; `head` to open in place of the file;
    `plain` the width, height and Pillow's mode of a picture of which the walk has found all that there is.
    `progressive` and `subsampling` as in ImageInfo; `metadata` is bytes of it, zero where nobody counted.
    """

    frames: int | None = None
    head: bytes | None = None
    plain: tuple[int, int, str] | None = None
    progressive: bool = False
    subsampling: str = ""
    metadata: int = 0


@dataclass(frozen=True, slots=True)
class WebP:
    """The facts of a WebP file: its canvas in pixels, Pillow's mode, frames, and metadata blocks."""

    width: int
    height: int
    mode: str
    frames: int
    exif: bytes | None
    xmp: bytes | None
    metadata: int


def _too_many(label: str, parts: str) -> CorruptMedia:
    return CorruptMedia(
        f"{label} has more than {STEPS} {parts} before its picture, as no camera or editor writes: "
        "save it again without its metadata"
    )


def walk_jpeg(data: Encoded, label: str) -> Skeleton:
    """Counts the segments before the scans, and the scans; the frame count (MPO) is for the library.

    A sequential picture whose first scan holds all its components has no other: decoders stop with an error
    at the next. So the pixels of most photographs, where scans take 0.3 ms a megabyte to count, are left alone.
    """
    at, in_one, about = 2, 0, 0
    frame: int | None = None
    plain = True
    for _ in range(STEPS):
        # Segments begin with FF; libraries skip what lies between, byte by byte.
        found = _FF.search(data, at, at + 65536)
        if found is None or found.start() + 5 > len(data):
            return Skeleton()
        at = found.start()
        if data[at + 1] == 0xDA:  # noqa: PLR2004 - start of scan
            if data[at + 4] != in_one:
                _require_few_scans(data, at, label)
            return Skeleton(
                plain=_plain_facts(data, frame) if plain and frame else None,
                progressive=frame is not None and data[frame + 1] == _PROGRESSIVE,
                subsampling="" if frame is None else _subsampling(data, frame),
                metadata=about,
            )
        if data[at + 1] in _SEQUENTIAL:
            in_one = int.from_bytes(data[at + 9 : at + 10], "big")
        if data[at + 1] in _FRAMES:
            plain = plain and frame is None
            frame = at
        plain = plain and data[at + 1] in _PLAIN
        if data[at + 1] in _ABOUT:
            about += _about(data, at)
            metadata.require_little(about, label)
        if data[at + 1] in _BARE_MARKERS:
            at += 2 if data[at + 1] != 0xFF else 1  # noqa: PLR2004 - a fill byte
        else:
            at += _segment(data, at)
    raise _too_many(label, "segments")


def _plain_facts(data: Encoded, frame: int) -> tuple[int, int, str] | None:
    """Width, height and mode from the frame's header at `frame`; None where they are not the usual ones."""
    precision, height, width, components = struct.unpack(">BHHB", data[frame + 4 : frame + 10])
    mode = _MODES.get(components)
    return (width, height, mode) if mode and precision == 8 and width and height else None  # noqa: PLR2004 - bits


def _subsampling(data: Encoded, frame: int) -> str:
    """How much coarser the two colours are than the light, from the frame's header at `frame`, in the usual words."""
    components = bytes(data[frame + 10 : frame + 19])
    if data[frame + 9 : frame + 10] != b"\3" or len(components) < 9:  # noqa: PLR2004 - three of three bytes
        return ""
    light, blue, red = ((factors >> 4, factors & 15) for factors in components[1::3])
    return _SUBSAMPLINGS.get((*light, *blue), "") if blue == red else ""


def _segment(data: Encoded, at: int) -> int:
    """Bytes of the JPEG segment whose marker stands at `at`."""
    return 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))


def _about(data: Encoded, at: int) -> int:
    """Bytes of the metadata in a JPEG's segment, or what the directory in it makes of them, where that is more."""
    size = _segment(data, at)
    for name in _DIRECTORIES:
        if data[at + 4 : at + 4 + len(name)] == name:
            return max(size, metadata.claimed_by_exif(data[at + 4 + len(name) : at + size]))
    return size


def _require_few_scans(data: Encoded, at: int, label: str) -> None:
    """Follows the segments from the first scan's on, to the end of the picture: what is behind it is no scan.

    (Phones put a film there, whose bytes spell the marker of a scan every 64 KiB.)
    """
    scans = 0
    for _ in range(STEPS):
        scans += data[at + 1] == 0xDA  # noqa: PLR2004 - start of scan
        if scans > SCANS:
            raise CorruptMedia(
                f"{label} has more than {SCANS} scans, which no encoder writes: save it again as plain jpeg",
                allowed=SCANS,
            )
        found = _IN_SCANS.search(data, at + _segment(data, at))
        if found is None or found[0] == b"\xff\xd9":
            return
        at = found.start()
    raise _too_many(label, "segments")


_FF = re.compile(rb"\xff")
# Frames of one scan for each component, or one for all of them, by their markers; both with Huffman's codes.
_SEQUENTIAL = (0xC0, 0xC1)
# What may stand among the coded pixels without a meaning of its own is stuffing, fill and restarts.
_IN_SCANS = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]", re.DOTALL)

# Frames that libjpeg decodes; what stands before the scan of a picture without metadata (frames, tables of
# both kinds, restart intervals, JFIF, comments, fill); Pillow's modes by components where nothing says otherwise.
_FRAMES = (0xC0, 0xC1, 0xC2)
_PLAIN = frozenset((*_FRAMES, 0xC4, 0xDB, 0xDD, 0xE0, 0xFE, 0xFF))
_PROGRESSIVE = 0xC2
_MODES = {1: "L", 3: "RGB"}
# Samples of the light, then of either colour, across and down; only their ratios mean anything, and these are
# those that encoders write.
_SUBSAMPLINGS = {
    (1, 1, 1, 1): "4:4:4",
    (2, 1, 1, 1): "4:2:2",
    (2, 2, 1, 1): "4:2:0",
    (1, 2, 1, 1): "4:4:0",
    (4, 1, 1, 1): "4:1:1",
    (2, 2, 2, 2): "4:4:4",
    (2, 2, 1, 2): "4:2:2",
    (2, 2, 2, 1): "4:4:0",
}

# What may hold metadata: the applications' segments and comments; and in them TIFF's directories, of EXIF and MPO.
_ABOUT = frozenset((*range(0xE0, 0xF0), 0xFE))
_DIRECTORIES = (b"Exif\0\0", b"MPF\0")

# JPEG markers without a length: stuffing, TEM, restarts, start and end of image, fill.
_BARE_MARKERS = frozenset((0x00, 0x01, *range(0xD0, 0xDA), 0xFF))


def walk_png(data: Encoded, label: str) -> Skeleton:
    """Counts the chunks before the pixels, and brings metadata that stands after them to the front.

    EXIF may follow the pixels, and decoders apply its orientation all the same, so probe must see it.
    """
    at, pixels, late, texts, about = 8, -1, list[Encoded](), 0, 0
    for step in range(STEPS + len(data) // _PIXELS_A_CHUNK):
        length, kind = _chunk(data, at)
        end = at + 12 + length
        if not kind or kind == b"IEND":
            break
        if step >= STEPS and pixels < 0:
            raise _too_many(label, "chunks")
        texts += kind in {b"zTXt", b"iTXt"}
        if kind not in _PNG_PICTURE:
            # A chunk that ends behind the file is still read as far as that goes.
            about += min(length, len(data) - at)
            metadata.require_little(about, label)
        if kind == b"IDAT" and pixels < 0:
            pixels = at
        elif pixels >= 0 and kind in _PNG_METADATA:
            late.append(data[at:end])
        at = end
    else:
        raise CorruptMedia(
            f"{label} is cut into more than {STEPS} chunks of less than {_PIXELS_A_CHUNK} bytes, as no camera or "
            "editor writes: save it again as plain png"
        )
    if texts > _COMPRESSED_TEXTS:
        raise CorruptMedia(
            f"{label} has {texts} compressed texts and at most {_COMPRESSED_TEXTS} are read: "
            "save it again without its metadata"
        )
    head = b"".join((data[:pixels], *late, data[pixels : pixels + 64])) if late else None
    return Skeleton(head=head, progressive=bytes(data[_INTERLACE : _INTERLACE + 1]) == b"\1", metadata=about)


# Writers put 8 KiB of pixels or more into a chunk; Pillow reads each in Python, 2 µs.
_PIXELS_A_CHUNK = 1024
_INTERLACE = 28  # where a PNG's header ends, and says whether it is interlaced
_PNG_METADATA = frozenset((b"eXIf", b"iTXt", b"zTXt", b"tEXt"))
# What is the picture itself, or its frames; all else is read whole by Pillow, known to it or not.
_PNG_PICTURE = frozenset((b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"acTL", b"fcTL", b"fdAT"))


def _chunk(data: Encoded, at: int) -> tuple[int, bytes]:
    return int.from_bytes(data[at : at + 4], "big"), bytes(data[at + 4 : at + 8])


def walk_gif(data: Encoded, label: str) -> Skeleton:
    """Counts the frames, block by block; a file that goes on past STEPS blocks or frames has that many, or more.

    Pillow makes room for what is to replace the first frame as soon as it opens a file, so it is given a head without
    the wish for that.
    """
    at, frames, interlaced, about, left = 13 + _palette(data, 10), 0, False, 0, _GIF_PIECES
    controls, begun = list[int](), 0
    for _ in range(STEPS):
        kind = bytes(data[at : at + 1])
        if kind == b",":
            if not frames:
                interlaced = bool(int.from_bytes(data[at + 9 : at + 10], "big") & _INTERLACED)
                begun = at + 11 + _palette(data, at + 9)
            frames += 1
            at += 11 + _palette(data, at + 9)
        elif kind == b"!":
            if not frames and data[at + 1 : at + 2] == b"\xf9":
                controls.append(at + 3)
            at += 2
        elif kind in {b"", b";"}:
            break
        else:
            at += 1
            continue
        start = at
        at, pieces = _skip_blocks(data, at, left)
        about += at - start if kind == b"!" else 0
        metadata.require_little(about, label)
        left -= pieces
        if not left or (pieces >= STEPS and not frames):
            if not frames:
                raise _too_many(label, "blocks of comment")
            break
    else:
        if not frames:
            raise _too_many(label, "extensions")
        frames = STEPS
    return Skeleton(
        frames=max(1, frames),
        head=_undisposed(data[:begun], controls) if controls and begun else None,
        progressive=interlaced,
        metadata=about,
    )


def _undisposed(head: Encoded, controls: list[int]) -> bytes:
    """The head of a GIF whose graphic controls, with their flags at these places, ask for no disposal."""
    changed = bytearray(head)
    for at in controls:
        if at < len(changed):
            changed[at] &= ~_DISPOSAL & 0xFF
    return bytes(changed)


_DISPOSAL = 0x1C  # bits of a graphic control's flags
# Of all blocks together, the most pieces that are skipped: 4 MiB of full ones, in 1 ms. Out of the air.
_GIF_PIECES = 16384
_INTERLACED = 0x40  # a flag of a GIF's frame


def _skip_blocks(data: Encoded, at: int, most: int) -> tuple[int, int]:
    """Past a chain of GIF's data blocks, `most` at most: where it ends, and how many they were."""
    size = len(data)
    for pieces in range(most):
        if at >= size:
            return at, pieces
        length = data[at]
        at += 1 + length
        if not length:
            return at, pieces
    return at, most


def _palette(data: Encoded, at: int) -> int:
    """Bytes of the GIF palette that the flags at `at` announce."""
    flags = data[at] if at < len(data) else 0
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def walk_tiff(data: Encoded, label: str) -> Skeleton:
    """Counts the pages along their chain, at most STEPS, and looks at the first one's tags and tiles."""
    order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"
    big = bytes(data[2:4]) in {b"+\0", b"\0+"}
    # Widths in bytes: an offset, a count of tags, a tag.
    wide, count, tag = (8, 8, 20) if big else (4, 2, 12)
    at = int.from_bytes(data[8:16] if big else data[4:8], order)
    pages, seen, about = 0, set[int](), 0
    while at and at not in seen and at + count <= len(data) and pages < STEPS:
        seen.add(at)
        tags = int.from_bytes(data[at : at + count], order)
        if not pages:
            if tags > STEPS:
                raise _too_many(label, "tags")
            directory = bytes(data[at + count : at + count + tags * tag])
            _require_sane_tiles(directory, wide, order, label)
            about = metadata.claimed(directory, wide, order)
            metadata.require_little(about, label)
        pages += 1
        after = at + count + tags * tag
        at = int.from_bytes(data[after : after + wide], order)
    return Skeleton(frames=max(1, pages), metadata=about)


def _require_sane_tiles(tags: bytes, wide: int, order: Literal["little", "big"], label: str) -> None:
    """Refuses tiles far larger than their picture. Strips need no such look: libtiff cuts them to its height."""
    sizes = dict.fromkeys(_TIFF_SIZES, 0)
    tag = 4 + 2 * wide
    for at in range(0, len(tags), tag):
        name, kind = (int.from_bytes(tags[at + i : at + i + 2], order) for i in (0, 2))
        if name not in sizes:
            continue
        length = _TIFF_INTEGERS.get(kind, wide + 1)
        # Longer values stand elsewhere, and of two of a name each library takes another.
        if length > wide or sizes[name]:
            raise CorruptMedia(
                f"{label} states the size of its picture or tiles (tag {name}) twice, or as a number of type "
                f"{kind}, which TIFF does not use for it: save it again"
            )
        sizes[name] = int.from_bytes(tags[at + tag - wide : at + tag - wide + length], order)
    across, down, tile_across, tile_down = sizes.values()
    picture = (across + 15) // 16 * 16 * ((down + 15) // 16 * 16)  # tiles' sides are multiples of 16
    if tile_across * tile_down > max(TILE, picture):
        raise CorruptMedia(
            f"{label} has tiles of {tile_across}×{tile_down} pixels for a picture of {across}×{down}: "
            "save it again in smaller tiles",
            allowed=max(TILE, picture),
            found=tile_across * tile_down,
        )


_TIFF_SIZES = (256, 257, 322, 323)  # tags: width and height of the picture, of a tile
_TIFF_INTEGERS = {1: 1, 3: 2, 4: 4, 16: 8}  # types of a tag to bytes: BYTE, SHORT, LONG, LONG8


def walk_bare(_data: Encoded, _label: str) -> Skeleton:
    """For formats whose header has a fixed size, or whose library reads it in C and in bounds."""
    return Skeleton()


def read_webp(data: Encoded, label: str) -> WebP:
    """The facts of a WebP file. Pillow is not asked: it makes room for the whole canvas on opening."""
    kind = bytes(data[12:16])
    frames, exif, xmp, about = 0, None, None, 0
    at = 12
    for _ in range(STEPS):
        chunk, length = bytes(data[at : at + 4]), int.from_bytes(data[at + 4 : at + 8], "little")
        if len(chunk) < 4:  # noqa: PLR2004 - the end
            break
        frames += chunk == b"ANMF"
        if chunk not in _WEBP_PICTURE:
            about += min(length, len(data) - at)
            metadata.require_little(about, label)
        if chunk == b"EXIF" and exif is None:
            exif = bytes(data[at + 8 : at + 8 + length])
        elif chunk == b"XMP " and xmp is None:
            xmp = bytes(data[at + 8 : at + 8 + length])
        at += 8 + length + (length & 1)
    size = _WEBP_SIZES[kind](data) if kind in _WEBP_SIZES and len(data) >= 30 else None  # noqa: PLR2004
    if size is None:
        raise CorruptMedia(
            f"{label} begins as webp but its header is damaged: check that the whole file was sent"
        )
    width, height, alpha = size
    return WebP(width, height, "RGBA" if alpha else "RGB", max(1, frames), exif, xmp, about)


_WEBP_PICTURE = frozenset((b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF"))


def _webp_lossy(data: Encoded) -> tuple[int, int, bool] | None:
    width, height = struct.unpack_from("<HH", data, 26)
    known = data[23:26] == b"\x9d\x01\x2a" and width & 0x3FFF and height & 0x3FFF
    return (width & 0x3FFF, height & 0x3FFF, False) if known else None


def _webp_lossless(data: Encoded) -> tuple[int, int, bool] | None:
    bits = int.from_bytes(data[21:25], "little")
    known = data[20] == 0x2F  # noqa: PLR2004 - the signature of a lossless bitstream
    return ((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, bool(bits >> 28 & 1)) if known else None


def _webp_extended(data: Encoded) -> tuple[int, int, bool] | None:
    width, height = int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    return width, height, bool(data[20] & 0x10)


_WEBP_SIZES = {b"VP8 ": _webp_lossy, b"VP8L": _webp_lossless, b"VP8X": _webp_extended}
