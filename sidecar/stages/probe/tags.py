"""Bytes of tags, covers and attachments in sound's containers, before FFmpeg reads them all into memory.

Walks over the containers' own tables, in bounds: at most STEPS parts, no size believed, nothing copied. Layouts are
those of the formats' specifications. What stands behind the bound is not counted; FFmpeg would have to walk there too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sidecar.stages import ffmpeg
from sidecar.stages.reader import Encoded

STEPS: Final = 4096
"""Most parts that a walk visits, as for pictures: an hour of WebM has a thousand or two."""


def tag_bytes(data: Encoded, name: str) -> int:
    """Bytes of a file of format `name` that are tags, covers or attachments; MP4's are counted by its own walk."""
    count = _COUNTS.get(name)
    return count(data) if count is not None else 0


def _id3(data: Encoded) -> int:
    """ID3 tags, of which FFmpeg reads as many as stand there one behind the other."""
    at = 0
    for _ in range(STEPS):
        size = ffmpeg.tag_bytes(data[at : at + _ID3_HEADER])
        if not size:
            break
        at += size
    return at


def _wav(data: Encoded) -> int:
    at, found = 12, 0
    for _ in range(STEPS):
        kind = bytes(data[at : at + 4])
        if len(kind) < 4:  # noqa: PLR2004 - the end
            break
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        found += 0 if kind in _WAV_SOUND else min(size, len(data) - at)
        at += 8 + size + (size & 1)
    return found


def _flac(data: Encoded) -> int:
    start = ffmpeg.tag_bytes(data)
    at, found = start + 4, start
    for _ in range(STEPS):
        head = bytes(data[at : at + 4])
        if len(head) < 4:  # noqa: PLR2004 - the end
            break
        size = int.from_bytes(head[1:], "big")
        found += 0 if head[0] & 0x7F in _FLAC_SOUND else size
        at += 4 + size
        if head[0] & 0x80:
            break
    return found


def _ogg(data: Encoded) -> int:
    """The pages before the first that holds a sample: headers, of which the comments are most."""
    at, found = 0, 0
    for _ in range(STEPS):
        head = bytes(data[at : at + _OGG_HEADER])
        if len(head) < _OGG_HEADER or head[:4] != b"OggS":
            break
        segments = bytes(data[at + _OGG_HEADER : at + _OGG_HEADER + head[26]])
        granule = int.from_bytes(head[6:14], "little", signed=True)
        if granule > 0:
            break
        found += sum(segments)
        at += _OGG_HEADER + len(segments) + sum(segments)
    return found


def _webm(data: Encoded) -> int:
    """Tags, chapters and attachments, which stand beside the clusters of the segment."""
    at, end, found = 0, len(data), 0
    for _ in range(STEPS):
        if at >= end:
            break
        name, at = _vint(data, at, keep=True)
        size, at = _vint(data, at, keep=False)
        if name == _SEGMENT:
            continue  # its children follow
        found += min(size, end - at) if name in _WEBM_TAGS else 0
        at += size
    return found


def _vint(data: Encoded, at: int, *, keep: bool) -> tuple[int, int]:
    """A number of EBML's at a place, and where it ends; with the bits that tell its length for a name."""
    first = data[at] if at < len(data) else 0
    length = 9 - first.bit_length()
    value = int.from_bytes(data[at : at + length], "big")
    return value if keep else value & (1 << 7 * length) - 1, at + max(1, length)


_ID3_HEADER: Final = 10
_WAV_SOUND: Final = frozenset((b"fmt ", b"data", b"fact", b"ds64", b"JUNK", b"PAD ", b"FLLR"))
_FLAC_SOUND: Final = frozenset((0, 1, 3))  # the stream's facts, padding, places to seek to
_OGG_HEADER: Final = 27
_SEGMENT: Final = 0x18538067
_WEBM_TAGS: Final = frozenset((0x1941A469, 0x1254C367, 0x1043A770))  # attachments, tags, chapters

_COUNTS: Final[dict[str, Callable[[Encoded], int]]] = {
    "wav": _wav,
    "flac": _flac,
    "mp3": _id3,
    "aac": _id3,
    "ogg": _ogg,
    "webm": _webm,
}
