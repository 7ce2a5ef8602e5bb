"""Files of every format taken apart, and put together again with lengths and checksums that are right.

A flipped bit seldom gets further than a checksum; a part that was moved, doubled or changed in a file that is whole
otherwise does. Taking apart never fails: what cannot be understood is one part. Layouts are those of the formats'
specifications.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

# Of one file; the last holds the rest.
_MOST = 400


@dataclass(slots=True)
class Part:
    """A piece of a file: its name (of the format's own kind), its content, or the parts that it is made of."""

    name: bytes
    body: bytes = b""
    parts: list[Part] | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """How files of a format are taken apart, and put together."""

    split: Callable[[bytes], list[Part]]
    join: Callable[[Sequence[Part]], bytes]


def _raw(parts: Sequence[Part]) -> bytes:
    return b"".join(part.name + part.body for part in parts)


# --- chunks of a name and a length: PNG, RIFF, MP4, EBML ---


def _split_png(data: bytes) -> list[Part]:
    found, at = [Part(b"", data[:8])], 8
    while at + 12 <= len(data) and len(found) < _MOST:
        size = int.from_bytes(data[at : at + 4], "big")
        found.append(Part(data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    return found


def _join_png(parts: Sequence[Part]) -> bytes:
    head, *chunks = parts or [Part(b"")]
    whole = [head.name + head.body]
    for chunk in chunks:
        named = chunk.name[:4].ljust(4, b"x") + chunk.body
        whole.append(struct.pack(">I", len(chunk.body)) + named + struct.pack(">I", zlib.crc32(named)))
    return b"".join(whole)


def _split_riff(data: bytes) -> list[Part]:
    found, at = [Part(data[:4], data[8:12])], 12
    while at + 8 <= len(data) and len(found) < _MOST:
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        found.append(Part(data[at : at + 4], data[at + 8 : at + 8 + size]))
        at += 8 + size + (size & 1)
    return found


def _join_riff(parts: Sequence[Part]) -> bytes:
    head, *chunks = parts or [Part(b"RIFF")]
    body = b"".join(
        each.name[:4].ljust(4) + struct.pack("<I", len(each.body)) + each.body + b"\0" * (len(each.body) & 1)
        for each in chunks
    )
    return head.name + struct.pack("<I", len(body) + len(head.body)) + head.body + body


_BOXES: Final = frozenset(
    (
        b"moov",
        b"trak",
        b"mdia",
        b"minf",
        b"stbl",
        b"edts",
        b"udta",
        b"dinf",
        b"moof",
        b"traf",
        b"mvex",
        b"iprp",
        b"ipco",
    )
)


def _split_boxes(data: bytes) -> list[Part]:
    found, at = list[Part](), 0
    while at + 8 <= len(data) and len(found) < _MOST:
        size, start, name = int.from_bytes(data[at : at + 4], "big"), at + 8, data[at + 4 : at + 8]
        if size == 1:
            size, start = int.from_bytes(data[at + 8 : at + 16], "big"), at + 16
        stop = min(len(data), at + size) if size else len(data)
        if stop < start:
            break
        body = data[start:stop]
        if name in _BOXES:
            found.append(Part(name, parts=_split_boxes(body)))
        elif name == b"meta" and body[4 + 4 : 4 + 8] == b"hdlr":
            found.append(Part(name, parts=[Part(b"", body[:4]), *_split_boxes(body[4:])]))
        else:
            found.append(Part(name, body))
        at = stop
    return [*found, Part(b"", data[at:])] if at < len(data) else found


def _join_boxes(parts: Sequence[Part]) -> bytes:
    whole = []
    for part in parts:
        body = part.body if part.parts is None else _join_boxes(part.parts)
        whole.append(struct.pack(">I", 8 + len(body)) + part.name[:4].ljust(4) + body if part.name else body)
    return b"".join(whole)


# Elements that hold others: segment, seek head, seek, info, tracks, track, sound, cluster, block group, cues, cue,
# tags, tag, attachments, file.
_MASTERS: Final = frozenset(
    bytes.fromhex(name)
    for name in [
        "18538067",
        "114d9b74",
        "4dbb",
        "1549a966",
        "1654ae6b",
        "ae",
        "e1",
        "1f43b675",
        "a0",
        "1c53bb6b",
        "bb",
        "b7",
        "1254c367",
        "7373",
        "63c0",
        "67c8",
        "1941a469",
        "61a7",
    ]
)


def _split_ebml(data: bytes) -> list[Part]:
    found, at = list[Part](), 0
    while at < len(data) and len(found) < _MOST:
        length = 9 - data[at].bit_length()
        name = data[at : at + length]
        first = data[at + length] if at + length < len(data) else 0
        width = 9 - first.bit_length()
        start = at + length + width
        size = int.from_bytes(data[at + length : start], "big") & (1 << 7 * width) - 1
        if not first or length > 4 or start > len(data):  # noqa: PLR2004 - the longest name
            break
        stop = min(len(data), start + size)
        body = data[start:stop]
        found.append(Part(name, parts=_split_ebml(body)) if name in _MASTERS else Part(name, body))
        at = stop
    return [*found, Part(b"", data[at:])] if at < len(data) else found


def _join_ebml(parts: Sequence[Part]) -> bytes:
    whole = []
    for part in parts:
        body = part.body if part.parts is None else _join_ebml(part.parts)
        whole.append(part.name + b"\x01" + len(body).to_bytes(7, "big") + body if part.name else body)
    return b"".join(whole)


# --- segments, blocks, pages and frames ---


def _split_jpeg(data: bytes) -> list[Part]:
    """Segments; with a scan's go its coded pixels."""
    found, at = [Part(b"", data[:2])], 2
    while at + 4 <= len(data) and data[at] == 0xFF and len(found) < _MOST:  # noqa: PLR2004 - a marker
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        body, stop = data[at + 4 : end], end
        if data[at + 1] == 0xDA:  # noqa: PLR2004 - start of scan
            while stop + 1 < len(data) and (data[stop] != 0xFF or data[stop + 1] in _STUFFING):  # noqa: PLR2004
                stop += 1
        found.append(Part(data[at : at + 2], parts=[Part(b"", body), Part(b"", data[end:stop])]))
        at = stop
    return [*found, Part(b"", data[at:])]


_STUFFING: Final = frozenset((0, *range(0xD0, 0xD8)))


def _join_jpeg(parts: Sequence[Part]) -> bytes:
    whole = []
    for part in parts:
        if part.parts is None:
            whole.append(part.name + part.body)
            continue
        head = part.parts[0].body[:65533] if part.parts else b""
        whole += [part.name, struct.pack(">H", 2 + len(head)), head, *(each.body for each in part.parts[1:])]
    return b"".join(whole)


def _split_gif(data: bytes) -> list[Part]:
    at = 13 + (3 << (data[10] & 7) + 1 if len(data) > 10 and data[10] & 0x80 else 0)  # noqa: PLR2004
    found = [Part(b"", data[:at])]
    while at < len(data) and len(found) < _MOST and data[at] in b"!,":
        start = at + 2
        if data[at] == ord(","):
            flags = data[at + 9] if at + 9 < len(data) else 0
            start = at + 11 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
        pieces, here = list[Part](), start
        while here < len(data) and data[here] and len(pieces) < _MOST:
            pieces.append(Part(b"", data[here + 1 : here + 1 + data[here]]))
            here += 1 + data[here]
        found.append(Part(data[at:start], parts=pieces))
        at = here + 1
    return [*found, Part(b"", data[at:])]


def _join_gif(parts: Sequence[Part]) -> bytes:
    whole = []
    for part in parts:
        if part.parts is None:
            whole.append(part.name + part.body)
            continue
        pieces = (bytes([len(each.body[:255])]) + each.body[:255] for each in part.parts if each.body)
        whole += [part.name, *pieces, b"\0"]
    return b"".join(whole)


def _split_bmp(data: bytes) -> list[Part]:
    pixels = int.from_bytes(data[10:14], "little")
    header = 14 + int.from_bytes(data[14:18], "little")
    cuts = sorted({0, 2, 14, 18, min(header, len(data)), min(pixels, len(data)), len(data)})
    return [Part(b"", data[a:b]) for a, b in pairwise(cuts)]


def _split_tiff(data: bytes) -> list[Part]:
    """The header with all that tags refer to, the entries of the first directory one by one, and what comes next."""
    order = "<" if data[:2] == b"II" else ">"
    if data[2:4] not in {b"*\0", b"\0*"} or len(data) < 8:  # noqa: PLR2004 - BigTIFF stays whole
        return [Part(b"", data)]
    (at,) = struct.unpack_from(order + "I", data, 4)
    if at + 2 > len(data):
        return [Part(b"", data)]
    (count,) = struct.unpack_from(order + "H", data, at)
    entries = [Part(b"entry", data[at + 2 + 12 * n : at + 14 + 12 * n]) for n in range(min(count, _MOST))]
    return [Part(b"", data), *entries, Part(b"next", data[at + 2 + 12 * count :][:4])]


def _join_tiff(parts: Sequence[Part]) -> bytes:
    """With the directory behind everything else."""
    entries = [part.body[:12].ljust(12, b"\0") for part in parts if part.name == b"entry"]
    after = b"".join(part.body[:4] for part in parts if part.name == b"next").ljust(4, b"\0")[:4]
    base = b"".join(part.body for part in parts if not part.name)
    if not entries or len(base) < 8:  # noqa: PLR2004 - a header
        return base
    order = "<" if base[:2] == b"II" else ">"
    at = struct.pack(order + "I", len(base))
    return base[:4] + at + base[8:] + struct.pack(order + "H", len(entries)) + b"".join(entries) + after


def _split_ogg(data: bytes) -> list[Part]:
    found, at = list[Part](), 0
    while data[at : at + 4] == b"OggS" and at + 27 <= len(data) and len(found) < _MOST:
        sizes = data[at + 27 : at + 27 + data[at + 26]]
        stop = at + 27 + len(sizes) + sum(sizes)
        page = [
            Part(b"", data[at + 4 : at + 22]),
            Part(b"", sizes),
            Part(b"", data[at + 27 + len(sizes) : stop]),
        ]
        found.append(Part(b"OggS", parts=page))
        at = stop
    return [*found, Part(b"", data[at:])]


def _join_ogg(parts: Sequence[Part]) -> bytes:
    whole = []
    for part in parts:
        if part.parts is None:
            whole.append(part.name + part.body)
            continue
        head, sizes, body = ([each.body for each in part.parts] + [b""] * 3)[:3]
        sizes = sizes[:255]
        page = b"OggS" + head[:18].ljust(18, b"\0") + bytes(4) + bytes([len(sizes)]) + sizes + body
        whole.append(page[:22] + struct.pack("<I", _ogg_crc(page)) + page[26:])
    return b"".join(whole)


def _crc_row(byte: int) -> int:
    value = byte << 24
    for _ in range(8):
        value = (value << 1) ^ (0x04C11DB7 if value & 0x80000000 else 0)
    return value & 0xFFFFFFFF


_CRCS: Final = [_crc_row(byte) for byte in range(256)]


def _ogg_crc(page: bytes) -> int:
    crc = 0
    for byte in page:
        crc = (crc << 8 & 0xFFFFFFFF) ^ _CRCS[crc >> 24 ^ byte]
    return crc


def _split_flac(data: bytes) -> list[Part]:
    found, at = [Part(b"", data[:4])], 4
    while at + 4 <= len(data) and len(found) < _MOST:
        last, size = data[at] & 0x80, int.from_bytes(data[at + 1 : at + 4], "big")
        found.append(Part(bytes([data[at] & 0x7F]), data[at + 4 : at + 4 + size]))
        at += 4 + size
        if last:
            break
    return [*found, *_frames(data[at:], b"\xff\xf8")]


def _join_flac(parts: Sequence[Part]) -> bytes:
    blocks = [part for part in parts if len(part.name) == 1]
    whole = [part.body for part in parts[:1] if not part.name]
    for block in blocks:
        kind = block.name[0] & 0x7F | (0x80 if block is blocks[-1] else 0)
        whole.append(bytes([kind]) + min(len(block.body), (1 << 24) - 1).to_bytes(3, "big") + block.body)
    return b"".join([*whole, *(part.name + part.body for part in parts[1:] if len(part.name) != 1)])


def _frames(data: bytes, sync: bytes) -> list[Part]:
    """What begins with a sync word each; what stands before the first is one too."""
    found, at = list[Part](), 0
    while at < len(data) and len(found) < _MOST:
        stop = data.find(sync, at + len(sync))
        stop = len(data) if stop < 0 else stop
        found.append(Part(b"", data[at:stop]))
        at = stop
    return found


def _split_mp3(data: bytes) -> list[Part]:
    sync = next(
        (word for word in (b"\xff\xfb", b"\xff\xf3", b"\xff\xf2", b"\xff\xfa") if word in data), b"\xff\xfb"
    )
    return _frames(data, sync)


def _split_adts(data: bytes) -> list[Part]:
    found, at = list[Part](), 0
    while at + 7 <= len(data) and len(found) < _MOST:
        size = (data[at + 3] & 3) << 11 | data[at + 4] << 3 | data[at + 5] >> 5
        if size < 7:  # noqa: PLR2004 - a header
            break
        found.append(Part(data[at : at + 7], data[at + 7 : at + size]))
        at += size
    return [*found, Part(b"", data[at:])]


def _join_adts(parts: Sequence[Part]) -> bytes:
    whole = []
    for part in parts:
        head, size = bytearray(part.name), 7 + len(part.body)
        if len(head) == 7 and size < 1 << 13:  # noqa: PLR2004 - a header, and the length that it can tell
            head[3] = head[3] & 0xFC | size >> 11
            head[4] = size >> 3 & 0xFF
            head[5] = head[5] & 0x1F | (size & 7) << 5
        whole.append(bytes(head) + part.body)
    return b"".join(whole)


LAYOUTS: Final[Mapping[str, Layout]] = {
    "jpeg": Layout(_split_jpeg, _join_jpeg),
    "png": Layout(_split_png, _join_png),
    "webp": Layout(_split_riff, _join_riff),
    "gif": Layout(_split_gif, _join_gif),
    "bmp": Layout(_split_bmp, _raw),
    "tiff": Layout(_split_tiff, _join_tiff),
    "avif": Layout(_split_boxes, _join_boxes),
    "wav": Layout(_split_riff, _join_riff),
    "flac": Layout(_split_flac, _join_flac),
    "mp3": Layout(_split_mp3, _raw),
    "aac": Layout(_split_adts, _join_adts),
    "mp4": Layout(_split_boxes, _join_boxes),
    "ogg": Layout(_split_ogg, _join_ogg),
    "webm": Layout(_split_ebml, _join_ebml),
}
"""By the names that the server gives formats."""
