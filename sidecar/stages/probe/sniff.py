"""Which format a file is, by its first bytes.

One table from magic bytes to the names in media.proto's MediaInfo.format, and one of what people
send by mistake, so that the refusal can name it. Never looks at file names or declared types, never
at more than the first bytes (behind an ID3 tag, where there is one), and never guesses: what is in
neither table is refused.
"""

from __future__ import annotations

from dataclasses import dataclass

from sidecar.errors import CorruptMedia, UnsupportedMedia
from sidecar.media import Source
from sidecar.stages import ffmpeg, pillow
from sidecar.stages.reader import Encoded

IMAGE_FORMATS = tuple(pillow.PLUGINS)
AUDIO_FORMATS = tuple(ffmpeg.DEMUXERS)

# Of the formats known here, those that the libraries at hand decode.
_SUPPORTED = f"pictures as {', '.join(pillow.AVAILABLE)}; sound as {', '.join(AUDIO_FORMATS)}"
# All magic bytes of the tables below lie within this many bytes.
_HEAD = 64


@dataclass(frozen=True, slots=True)
class _Magic:
    """`name` of what begins with each of `pieces`: bytes that must stand at an offset."""

    name: str
    pieces: tuple[tuple[int, bytes], ...]

    def opens(self, head: bytes) -> bool:
        return all(head.startswith(piece, offset) for offset, piece in self.pieces)


def _ftyp(name: str, *brands: bytes) -> tuple[_Magic, ...]:
    return tuple(_Magic(name, ((4, b"ftyp"), (8, brand))) for brand in brands)


def _begins(name: str, *prefixes: bytes) -> tuple[_Magic, ...]:
    return tuple(_Magic(name, ((0, prefix),)) for prefix in prefixes)


# Order matters where one row's bytes begin another's: the plain `ftyp` row is the last of its kind.
_KNOWN: tuple[_Magic, ...] = (
    *_begins("jpeg", b"\xff\xd8\xff"),
    *_begins("png", b"\x89PNG\r\n\x1a\n"),
    *_begins("gif", b"GIF87a", b"GIF89a"),
    _Magic("webp", ((0, b"RIFF"), (8, b"WEBP"))),
    *_begins("tiff", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    *_ftyp("avif", b"avif", b"avis"),
    _Magic("wav", ((0, b"RIFF"), (8, b"WAVE"))),
    _Magic("wav", ((0, b"RF64"), (8, b"WAVE"))),
    *_begins("flac", b"fLaC"),
    *_begins("ogg", b"OggS"),
)
_MP4 = _Magic("mp4", ((4, b"ftyp"),))

# What else people send, for a message that says more than "unknown".
_REFUSED: tuple[_Magic, ...] = (
    *_ftyp("an HEIC picture", b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"),
    *_begins("an M3U playlist", b"#EXTM3U"),
    *_begins("a concat script", b"ffconcat"),
    *_begins("a DASH or XML document", b"<?xml", b"<MPD"),
    *_begins("an SVG drawing", b"<svg"),
    *_begins("an HTML page", b"<!DOCTYPE html", b"<!doctype html", b"<html", b"<HTML"),
    *_begins("a ZIP archive", b"PK\x03\x04", b"PK\x05\x06"),
    *_begins("a gzip archive", b"\x1f\x8b"),
    *_begins("a PDF document", b"%PDF"),
    *_begins("a JPEG XL picture", b"\xff\x0a", b"\0\0\0\x0cJXL "),
    *_begins("a JPEG 2000 picture", b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"),
    *_begins("an icon", b"\0\0\1\0"),
    *_begins("a Photoshop document", b"8BPS"),
    *_begins("an AMR recording", b"#!AMR"),
    *_begins("a MIDI score", b"MThd"),
    *_begins("a Windows Media file", b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),
    *_begins("a Flash video", b"FLV\x01"),
    _Magic("an AVI video", ((0, b"RIFF"), (8, b"AVI "))),
    _Magic("an AIFF recording", ((0, b"FORM"), (8, b"AIF"))),
)

# Lengths of the BMP header that follows the file header; Windows and OS/2 have no others.
_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)


def sniff(source: Source) -> str:
    """The format of `source`, one of IMAGE_FORMATS or AUDIO_FORMATS.

    CorruptMedia for no bytes at all; UnsupportedMedia, naming what is taken, for anything else that
    is not in the table.
    """
    data = source.data
    if not data:
        raise CorruptMedia(f"{source.label} is empty: send the encoded file's bytes")
    head = bytes(data[:_HEAD])
    found = _known(head) or _bmp(head) or _ebml(head) or _brands(head, data) or _framed(data)
    if found:
        return found
    what = _refused(head)
    raise UnsupportedMedia(
        f"{source.label} is {what}, which is not decoded here: send {_SUPPORTED}", found=what
    )


def _known(head: bytes) -> str | None:
    return next((magic.name for magic in _KNOWN if magic.opens(head)), None)


def _refused(head: bytes) -> str:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    return next(
        (magic.name for magic in _REFUSED if magic.opens(head) or magic.opens(text)), "of no known format"
    )


def _bmp(head: bytes) -> str | None:
    """BMP's magic is two letters, so the length of its second header must make sense as well."""
    return "bmp" if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADERS else None


def _ebml(head: bytes) -> str | None:
    """Matroska is told from other EBML by its DocType; WebM is a profile of it."""
    is_matroska = head[:4] == b"\x1a\x45\xdf\xa3" and (b"webm" in head or b"matroska" in head)
    return "webm" if is_matroska else None


def _brands(head: bytes, data: Encoded) -> str | None:
    """ISO media: AVIF may hide behind a general brand; HEIC is refused; the rest is MP4."""
    if not _MP4.opens(head) or any(magic.opens(head) for magic in _REFUSED):
        return None
    if head[8:12] in {b"mif1", b"msf1"}:
        compatible = bytes(data[16 : min(int.from_bytes(head[:4], "big"), 256)])
        return "avif" if b"avif" in compatible or b"avis" in compatible else None
    return _MP4.name


def _framed(data: Encoded) -> str | None:
    """Streams with no header but the sync word of their first frame, after an ID3 tag if there is one."""
    start = ffmpeg.tag_bytes(data)
    tagged = start > 0
    frame = bytes(data[start : start + 4])
    if frame == b"fLaC":
        return "flac"
    if len(frame) == 4 and frame[0] == 0xFF:  # noqa: PLR2004 - bytes of a sync word
        return _framed_by(frame) or ("mp3" if tagged else None)
    return "mp3" if tagged else None


def _framed_by(frame: bytes) -> str | None:
    """ADTS has layer bits 00 and one of 13 rates; MPEG audio layer II or III a version, bit rate and rate."""
    second, third = frame[1], frame[2]
    if second & 0xF6 == 0xF0:  # noqa: PLR2004 - 12 sync bits and layer 00
        return "aac" if third >> 2 & 0xF <= 12 else None  # noqa: PLR2004 - the last rate of the table
    layer, version = second >> 1 & 3, second >> 3 & 3
    is_mpeg = second & 0xE0 == 0xE0 and version != 1 and layer in (1, 2)  # noqa: PLR2004 - 11 sync bits
    return "mp3" if is_mpeg and third >> 4 != 0xF and third >> 2 & 3 != 3 else None  # noqa: PLR2004 - reserved
