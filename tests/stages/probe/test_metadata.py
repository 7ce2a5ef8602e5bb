"""What a file says about itself is counted before a library takes it in, and bounded whatever the limits are."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from collections.abc import Callable

import pytest
from PIL import Image

from sidecar.errors import CorruptMedia
from sidecar.media import Source
from sidecar.stages import pillow
from sidecar.stages.metadata import MOST, claimed_by_exif
from sidecar.stages.probe import probe
from tests import corpus

# More than any of the corpus's files has.
_ABOUT = 300_000


def _segments(size: int) -> bytes:
    data = corpus.image("jpeg_444.jpg")
    whole, rest = divmod(size, 65_535)
    one = b"\xff\xe2\xff\xff" + bytes(65_533)
    return data[:2] + one * whole + b"\xff\xfe" + struct.pack(">H", rest + 2) + bytes(rest) + data[2:]


def _chunks(size: int, kind: bytes) -> bytes:
    body = bytes(size)
    data = corpus.image("png_rgb.png")
    return (
        data[:33]
        + struct.pack(">I", size)
        + kind
        + body
        + struct.pack(">I", zlib.crc32(kind + body))
        + data[33:]
    )


def _riff(name: str, kind: bytes, size: int) -> bytes:
    """A chunk behind all others."""
    data = corpus.data(name)
    return data + kind + struct.pack("<I", size) + bytes(size)


def _webp(size: int) -> bytes:
    return _riff("webp_exif_8.webp", b"XMP ", size)


def _tiff(size: int, tags: int = 1) -> bytes:
    """Tags that nobody knows, whose values lie one upon another."""
    grey = ((256, 4, 1, 16), (257, 4, 1, 16), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8))
    entries = (*grey, *((60_000 + n, 1, size, 8) for n in range(tags)))
    directory = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + directory + bytes(4 + size)


def _gif(size: int) -> bytes:
    data = corpus.image("gif_static.gif")
    at = 13 + (3 << (data[10] & 7) + 1)
    comment = b"!\xfe" + (b"\xff" + b"x" * 255) * (size // 256) + b"\0"
    return data[:at] + comment + data[at:]


def _id3(name: str, size: int) -> bytes:
    """Two tags, one behind the other; before ADTS one, behind which it is found."""
    tags = 1 if name.endswith("aac") else 2
    each = size // tags
    tag = b"ID3\x04\0\0" + bytes(each >> shift & 0x7F for shift in (21, 14, 7, 0)) + bytes(each)
    return tag * tags + corpus.audio(name)


def _flac(size: int) -> bytes:
    data = corpus.audio("flac_stereo_44k.flac")
    blocks = b""
    while size > 0:
        one = min(size, (1 << 24) - 1)
        blocks += b"\x02" + one.to_bytes(3, "big") + bytes(one)
        size -= one
    return data[:42] + blocks + data[42:]


def _mp4(size: int) -> bytes:
    return corpus.audio("aac_mono_44k.m4a") + struct.pack(">I", size + 8) + b"udta" + bytes(size)


def _ogg(size: int) -> bytes:
    """Pages of a stream that nobody reads, before the one that holds sound."""
    page = b"OggS\0\2" + bytes(8) + b"\7\0\0\0" + bytes(8) + b"\xff" + b"\xff" * 255 + bytes(65_025)
    return page * (size // 65_025 + 1) + corpus.audio("opus_mono_48k.opus")


def _webm(size: int) -> bytes:
    return (
        corpus.audio("opus_stereo_48k.webm") + b"\x19\x41\xa4\x69\x01" + size.to_bytes(7, "big") + bytes(size)
    )


_WITH: dict[str, Callable[[int], bytes]] = {
    "jpeg": _segments,
    "png": lambda size: _chunks(size, b"eXIf"),
    "png of a kind nobody knows": lambda size: _chunks(size, b"prVt"),
    "webp": _webp,
    "tiff": _tiff,
    "gif": _gif,
    "wav": lambda size: _riff("wav_pcm16_mono_16k.wav", b"id3 ", size),
    "mp3": lambda size: _id3("mp3_bare_stereo_44k.mp3", size),
    "aac": lambda size: _id3("aac_adts_stereo_44k.aac", size),
    "flac": _flac,
    "mp4": _mp4,
    "ogg": _ogg,
    "webm": _webm,
}


@pytest.mark.parametrize("name", [*corpus.PICTURES, *corpus.SOUNDS])
def test_a_usual_file_has_little(name: str) -> None:
    assert probe(corpus.source(name)).metadata_bytes < 20_000


@pytest.mark.parametrize("name", [name for name in _WITH if name != "ogg"])
def test_what_is_there_is_counted(name: str) -> None:
    assert _ABOUT * 0.99 < probe(Source(_WITH[name](_ABOUT))).metadata_bytes < _ABOUT * 1.2


@pytest.mark.parametrize("name", [name for name in _WITH if name not in {"gif", "jpeg"}])
def test_what_is_too_much_is_refused_before_a_library_takes_it_in(name: str) -> None:
    source = Source(_WITH[name](MOST + 70_000))
    tracemalloc.start()
    try:
        with pytest.raises(CorruptMedia, match=f"bytes of metadata and at most {MOST} are looked at"):
            probe(source)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_of_a_gif_and_a_jpeg_parts_are_bounded_sooner() -> None:
    with pytest.raises(CorruptMedia, match="more than 4096 blocks of comment"):
        probe(Source(_gif(MOST)))
    with pytest.raises(CorruptMedia, match="bytes of metadata and at most"):
        probe(Source(_segments(MOST + 70_000)))


def _aliased(values: int, size: int) -> bytes:
    """An EXIF block whose values all are the same bytes."""
    entries = b"".join(struct.pack("<HHII", 1000 + n, 1, size, 8) for n in range(values))
    head = b"II*\0\x08\0\0\0" + struct.pack("<H", values) + entries + bytes(4)
    return head + bytes(max(0, 8 + size - len(head)))


def test_values_that_lie_one_upon_another_count_each() -> None:
    assert claimed_by_exif(_aliased(500, 60_000)) == 500 * 60_000
    assert claimed_by_exif(b"") == claimed_by_exif(b"II*\0\xff\xff\xff\xff") == 0
    with pytest.raises(CorruptMedia, match="bytes of metadata"):
        probe(Source(_tiff(1 << 20, tags=40)))


@pytest.mark.parametrize("block", [b"Exif\0\0", b"MPF\0"])
def test_a_directory_in_a_jpeg_that_asks_for_more_is_refused(block: bytes) -> None:
    data, body = corpus.image("jpeg_444.jpg"), block + _aliased(2000, 40_000)
    marker = b"\xff\xe1" if block.startswith(b"E") else b"\xff\xe2"
    with pytest.raises(CorruptMedia, match="80000000 bytes of metadata"):
        probe(Source(data[:2] + marker + struct.pack(">H", len(body) + 2) + body + data[2:]))


def test_an_orientation_in_such_a_directory_is_not_looked_for() -> None:
    image = Image.new("RGB", (1, 1))
    tags = Image.Exif()
    tags[0x0112] = 6
    image.info["exif"] = tags.tobytes()
    assert pillow.orientation(image) == 6
    image = Image.open(io.BytesIO(corpus.image("bmp_rgb.bmp")))
    image.info["exif"] = _aliased(2000, 40_000)
    assert pillow.orientation(image) == 1
