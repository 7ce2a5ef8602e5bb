"""Facts are right, for every file of the corpus, and cost neither memory nor time."""

from __future__ import annotations

import io
import struct
import tracemalloc
import warnings
import zlib
from collections.abc import Callable
from dataclasses import replace

import pytest
from PIL import Image

from sidecar.errors import CorruptMedia, UnsupportedMedia
from sidecar.media import AudioInfo, DecodeTarget, ImageInfo, Source
from sidecar.stages.decode import decode
from sidecar.stages.probe import probe
from testbed.hostile.bombs import BOMBS
from tests import corpus


@pytest.mark.parametrize(("name", "expected"), corpus.PICTURES.items())
def test_the_facts_of_a_picture_are_those_of_its_header(name: str, expected: corpus.Picture) -> None:
    found = probe(corpus.source(name))
    assert isinstance(found, ImageInfo)
    assert replace(found, metadata_bytes=0) == ImageInfo(
        format=expected.format,
        encoded_bytes=len(corpus.image(name)),
        width=expected.width,
        height=expected.height,
        mode=expected.mode,
        orientation=expected.orientation,
        frames=expected.frames,
        progressive=expected.progressive,
        subsampling=expected.subsampling,
    )


@pytest.mark.parametrize(("name", "expected"), corpus.SOUNDS.items())
def test_the_facts_of_a_sound_are_those_of_its_container(name: str, expected: corpus.Sound) -> None:
    info = probe(corpus.source(name))
    assert isinstance(info, AudioInfo)
    found = (info.format, info.encoded_bytes, info.codec, info.sample_rate, info.channels)
    assert found == (
        expected.format,
        len(corpus.audio(name)),
        expected.codec,
        expected.rate,
        expected.channels,
    )


@pytest.mark.parametrize("name", [name for name in corpus.SOUNDS if "with_video" not in name])
def test_durations_are_right_to_a_tenth_of_a_second(name: str) -> None:
    info, expected = probe(corpus.source(name)), corpus.SOUNDS[name]
    assert isinstance(info, AudioInfo)
    assert info.duration_s == pytest.approx(expected.samples / expected.rate, abs=0.1)


@pytest.mark.parametrize("name", corpus.UNSUPPORTED)
def test_what_is_not_decoded_here_is_unsupported(name: str) -> None:
    with pytest.raises(UnsupportedMedia) as refusal:
        probe(corpus.source(name))
    assert refusal.value.message.startswith(name)


@pytest.mark.parametrize("name", [n for n in corpus.CORRUPT if n.startswith("start.")])
def test_a_file_that_ends_in_its_header_is_corrupt(name: str) -> None:
    with pytest.raises(CorruptMedia) as refusal:
        probe(corpus.source(name))
    assert refusal.value.message.startswith(name)


def test_the_original_of_a_library_is_kept_as_the_cause() -> None:
    with pytest.raises(CorruptMedia) as refusal:
        probe(corpus.source("start.flac"))
    assert refusal.value.__cause__ is not None
    assert "Invalid data" in str(refusal.value.__cause__)


@pytest.mark.parametrize("name", ["huge.png", "huge.webp", "huge.tif", "huge.bmp", "huge.gif", "cleared.gif"])
def test_no_memory_is_taken_for_what_a_header_claims(name: str) -> None:
    source = Source(_HUGE[name](), label=name)
    tracemalloc.start()
    try:
        info = probe(source)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(info, ImageInfo)
    assert info.width * info.height >= 65535 * 16383
    assert peak < 1_000_000


def _riff(width: int, height: int) -> bytes:
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + canvas
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _resized_tiff() -> bytes:
    data = bytearray(corpus.image("tiff_raw.tif"))
    at = int.from_bytes(data[4:8], "little")
    for tag in range(int.from_bytes(data[at : at + 2], "little")):
        entry = at + 2 + 12 * tag
        if int.from_bytes(data[entry : entry + 2], "little") in (256, 257):
            data[entry : entry + 12] = data[entry : entry + 2] + struct.pack("<HII", 4, 1, 1 << 20)
    return bytes(data)


def _resized(name: str, at: int, size: bytes) -> bytes:
    data = corpus.image(name)
    return data[:at] + size + data[at + len(size) :]


_HUGE: dict[str, Callable[[], bytes]] = {
    "huge.png": lambda: corpus.data("huge.png"),
    "huge.webp": lambda: _riff(1 << 24, 1 << 7),
    "huge.tif": _resized_tiff,
    "huge.bmp": lambda: _resized("bmp_rgb.bmp", 18, struct.pack("<II", 1 << 20, 1 << 20)),
    "huge.gif": lambda: _resized("gif_static.gif", 6, struct.pack("<HH", 65535, 65535)),
    "cleared.gif": BOMBS["65535 a side to be cleared.gif"],
}


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _png_with(*chunks: bytes) -> bytes:
    data = corpus.image("png_rgb.png")
    return data[:33] + b"".join(chunks) + data[33:]


_NESTED: dict[str, Callable[[], bytes]] = {
    "segments.jpg": lambda: b"\xff\xd8" + b"\xff\xfe\0\2" * 300_000 + corpus.image("jpeg_444.jpg")[2:],
    "chunks.png": lambda: _png_with(_chunk(b"quIt", b"") * 100_000),
    "texts.png": lambda: _png_with(*[_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(900_000)))] * 60),
    "comment.gif": lambda: corpus.data("gif_endless_comment.gif"),
    "tags.tif": lambda: b"II*\0\x08\0\0\0\xff\xff" + bytes(65535 * 12),
}


@pytest.mark.parametrize("name", _NESTED)
def test_a_header_of_countless_parts_is_refused_before_a_library_walks_it(name: str) -> None:
    with pytest.raises(CorruptMedia, match="save it again without its metadata"):
        probe(Source(_NESTED[name](), label=name))


@pytest.mark.parametrize("kind", [b"IDAT", b"teSt"])
def test_pixels_in_countless_pieces_are_refused_before_a_library_reads_each(kind: bytes) -> None:
    data = corpus.image("png_rgb.png")
    pieces = _chunk(kind, b"") * 10_000
    with pytest.raises(CorruptMedia, match="more than 4096 chunks of less than 1024 bytes"):
        probe(Source(data[:-12] + pieces + data[-12:]))
    full = _chunk(kind, bytes(1200)) * 6_000
    assert probe(Source(data[:-12] + full + data[-12:])).format == "png"


def _progressive(extra: int, tail: bytes = b"") -> bytes:
    """A progressive JPEG of 64×64 grey whose last scan comes `extra` times more."""
    file = io.BytesIO()
    Image.new("L", (64, 64), 128).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    assert data.count(b"\xff\xda") == 6
    return data[:-2] + data[data.rindex(b"\xff\xda") : -2] * extra + data[-2:] + tail


def test_a_jpeg_of_countless_scans_is_corrupt() -> None:
    with pytest.raises(CorruptMedia, match="more than 100 scans"):
        probe(Source(_progressive(95)))


@pytest.mark.parametrize(
    "data",
    [
        _progressive(94),
        _progressive(0, tail=b"\xff\xda" * 1000),
        # Segments may hold whole pictures, and so what looks like scans.
        _progressive(0)[:2] + b"\xff\xe1\x07\xd2" + b"\xff\xda" * 1000 + _progressive(0)[2:],
    ],
    ids=["as many as are read", "behind its end", "in its metadata"],
)
def test_only_the_scans_of_the_picture_itself_count(data: bytes) -> None:
    assert probe(Source(data)).format == "jpeg"


def _apart(scans: int) -> bytes:
    """A sequential JPEG of three components whose scans name one component each, as far as headers go."""
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, "JPEG")
    head = file.getvalue()[: file.getvalue().index(b"\xff\xda")]
    return head + b"\xff\xda\0\x08\x01\x01\0\0\x3f\0\x12\x34" * scans + b"\xff\xd9"


def test_scans_of_single_components_count() -> None:
    assert probe(Source(_apart(100))).format == "jpeg"
    with pytest.raises(CorruptMedia, match="more than 100 scans"):
        probe(Source(_apart(101)))


def test_behind_a_scan_of_all_components_there_is_none_to_count() -> None:
    data = corpus.image("jpeg_444.jpg")
    scan = data[data.index(b"\xff\xda") : -2]
    source = Source(data[:-2] + scan * 200 + data[-2:])
    with pytest.raises(CorruptMedia, match="damaged jpeg"):
        decode(source, probe(source), DecodeTarget())


def _tiff(*tags: tuple[int, int, int], big: bool = False, size: int = 16) -> bytes:
    """A TIFF's header: of each tag the number, the type (3 SHORT, 4 LONG, 16 LONG8) and one value."""
    grey = ((256, 4, size), (257, 4, size), (258, 3, 8), (259, 3, 1), (262, 3, 1), (277, 3, 1))
    entries = sorted((*grey, *tags))
    layout, count = ("<HHQQ", "<Q") if big else ("<HHII", "<H")
    head = struct.pack("<2sHHHQ", b"II", 43, 8, 0, 16) if big else struct.pack("<2sHI", b"II", 42, 8)
    directory = b"".join(struct.pack(layout, number, kind, 1, value) for number, kind, value in entries)
    return head + struct.pack(count, len(entries)) + directory + bytes(64)


def _tiles(across: int, down: int, kind: int = 4) -> tuple[tuple[int, int, int], ...]:
    return (322, kind, across), (323, kind, down), (324, 4, 8), (325, 4, 64)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (_tiff(*_tiles(30_000, 20_000)), "tiles of 30000×20000 pixels for a picture of 16×16"),
        (_tiff(*_tiles(30_000, 20_000), big=True), "tiles of 30000×20000 pixels for a picture of 16×16"),
        (_tiff(*_tiles(30_000, 20_000, kind=16), big=True), "tiles of 30000×20000"),
        (_tiff(*_tiles(2_048, 2_064, kind=3)), "tiles of 2048×2064"),
        (_tiff(*_tiles(30_000, 20_000, kind=16)), r"\(tag 322\) twice, or as a number of type 16"),
        (_tiff(*_tiles(30_000, 20_000, kind=11)), r"\(tag 322\) twice, or as a number of type 11"),
        (_tiff((256, 4, 60_000), *_tiles(30_000, 20_000)), r"\(tag 256\) twice"),
    ],
    ids=["tile", "big", "long", "short", "long in a classic", "float", "two widths"],
)
def test_a_tile_far_larger_than_its_picture_is_corrupt(data: bytes, why: str) -> None:
    with pytest.raises(CorruptMedia, match=why):
        probe(Source(data))


@pytest.mark.parametrize(
    "data",
    [
        _tiff(*_tiles(2_048, 2_048)),
        _tiff(*_tiles(5_008, 5_008), size=5_000),
        _tiff((273, 4, 8), (278, 4, 2**32 - 1), (279, 4, 64)),
    ],
    ids=["usual", "the picture in one", "one strip of any height"],
)
def test_tiles_of_usual_sizes_are_let_pass(data: bytes) -> None:
    assert probe(Source(data)).format == "tiff"


@pytest.mark.parametrize("rate", [1, 999, 768_001, 2_000_000_000])
def test_a_rate_that_no_recorder_writes_is_refused(rate: int) -> None:
    data = corpus.audio("wav_pcm16_mono_16k.wav")
    with pytest.raises(UnsupportedMedia, match="samples a second, and 1000 to 768000 are taken"):
        probe(Source(data[:24] + struct.pack("<I", rate) + data[28:]))


def test_an_endless_animation_costs_no_more_than_a_long_one() -> None:
    data = corpus.image("gif_static.gif")
    at = 13 + 3 * 64
    endless = data[:at] + data[at:-1] * 20_000
    info = probe(Source(endless))
    assert isinstance(info, ImageInfo)
    assert 1000 < info.frames <= 4096


def test_a_chain_of_pages_that_bites_its_tail_ends() -> None:
    data = corpus.image("tiff_raw.tif")
    at = int.from_bytes(data[4:8], "little")
    after = at + 2 + 12 * int.from_bytes(data[at : at + 2], "little")
    info = probe(Source(data[:after] + data[4:8] + data[after + 4 :]))
    assert isinstance(info, ImageInfo)
    assert info.frames == 1


def test_probing_decodes_no_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object) -> None:
        raise AssertionError("room was made for pixels")

    for maker in ("new", "fill"):
        monkeypatch.setattr(f"PIL.Image.core.{maker}", refuse)
    for name in corpus.PICTURES:
        probe(corpus.source(name))


def test_answers_do_not_depend_on_the_filters_of_warnings() -> None:
    answers = []
    for action in ("error", "ignore"):
        with warnings.catch_warnings():
            warnings.simplefilter(action)
            answers.append([probe(corpus.source(name)) for name in corpus.PICTURES])
    assert answers[0] == answers[1]
