"""What an MP4's sample tables claim is added up before FFmpeg makes an index of it."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from sidecar.errors import CorruptMedia, UnsupportedMedia
from sidecar.media import Source
from sidecar.stages.probe import probe
from sidecar.stages.probe.mp4 import ENTRIES, require_sane_tables
from tests import corpus


def _box(name: bytes, *content: bytes) -> bytes:
    body = b"".join(content)
    return struct.pack(">I", 8 + len(body)) + name + body


def _words(*words: int) -> bytes:
    return struct.pack(f">{len(words)}I", *words)


def _table(name: bytes, *words: int) -> bytes:
    return _box(name, _words(0, *words))


def _file(
    *stbl: bytes, edits: bytes = b"", more: bytes = b"", fragment: bytes = b"", media: int = 10_000
) -> bytes:
    track = _box(b"trak", edits, _box(b"mdia", _box(b"minf", _box(b"stbl", *stbl))))
    return (
        _box(b"ftyp", b"M4A \0\0\0\0") + _box(b"moov", track, more) + fragment + _box(b"mdat", bytes(media))
    )


_SIZES = _table(b"stsz", 1, 9_000)
_TIMES = _table(b"stts", 1, 9_000, 1024)
_RUNS = _table(b"stsc", 1, 1, 9_000, 1)
_CHUNKS = _table(b"stco", 1, 100)

_CLAIMS: dict[str, tuple[bytes, str]] = {
    "sizes": (_file(_table(b"stsz", 1, 30_000_000), _TIMES, _RUNS, _CHUNKS), "30000000 samples in"),
    "sizes one by one": (_file(_table(b"stsz", 0, 9_000)), "9000 samples in a table of sizes that ends"),
    "short sizes": (_file(_table(b"stz2", 4, 9_000)), "9000 samples in a table of sizes that ends"),
    "times": (_file(_SIZES, _table(b"stts", 2, 9_000, 1, 9_000, 1)), "18000 samples in"),
    "times' entries": (_file(_table(b"stts", 2**32 - 1, 1, 1)), "4294967295 entries in .* stts"),
    "offsets' entries": (_file(_table(b"ctts", 9_000, 1, 1)), "9000 entries in .* ctts"),
    "runs": (_file(_table(b"stsc", 1, 1, 2**32 - 1, 1), _CHUNKS), "4294967295 samples in"),
    "runs' entries": (_file(_table(b"stsc", 2, 1, 1, 1)), "2 entries in .* stsc"),
    "chunks": (_file(_table(b"co64", 2, 0, 1)), "2 entries in .* co64"),
    "edits": (
        _file(_SIZES, _TIMES, edits=_box(b"edts", _table(b"elst", 1_000, 0, 0, 1))),
        f"more than {ENTRIES} samples to index",
    ),
    "a fragment": (
        _file(fragment=_box(b"moof", _box(b"traf", _table(b"trun", 2**31)))),
        "2147483648 samples in",
    ),
    "fragments": (
        _file(fragment=_box(b"moof", _box(b"traf", _table(b"trun", 10_000)) * 200)),
        f"more than {ENTRIES} samples to index",
    ),
    "all that fit": (_file(_table(b"stsz", 1, 3_000_000), media=3_000_000), f"more than {ENTRIES} samples"),
    "a table twice": (_file(_SIZES, _SIZES), "two tables of the kind stsz"),
    "tables twice": (
        _file(more=_box(b"trak", _box(b"mdia", _box(b"minf", _box(b"stbl"), _box(b"stbl"))))),
        "two sets of tables",
    ),
    "a stray table": (_file(more=_box(b"udta", _table(b"stsz", 1, 10**8))), "tables .* where none belong"),
    "a table at the top": (_file(fragment=_table(b"trun", 10**8)), "tables .* where none belong"),
    "a hidden header": (_file(fragment=_box(b"free", _file(_SIZES))), "tables .* where none belong"),
    "countless boxes": (_file(more=_box(b"free") * 70_000), "more than 65536 boxes"),
    "a bottomless nest": (_file(more=_box(b"trak", _box(b"mdia")) * 70_000), "more than 65536 boxes"),
}


@pytest.mark.parametrize(("data", "why"), _CLAIMS.values(), ids=list(_CLAIMS))
def test_tables_that_claim_what_the_file_cannot_hold_are_corrupt(data: bytes, why: str) -> None:
    with pytest.raises(CorruptMedia, match=why):
        require_sane_tables(data, "item 0")


def test_a_compressed_header_is_unsupported() -> None:
    with pytest.raises(UnsupportedMedia, match="compressed header"):
        require_sane_tables(_file(more=_box(b"cmov", bytes(20))), "item 0")


def _cover(picture: bytes) -> bytes:
    handler = _box(b"hdlr", bytes(25))
    return _box(b"udta", _box(b"meta", bytes(4), handler, _box(b"ilst", _box(b"covr", picture))))


_SANE: dict[str, Callable[[], bytes]] = {
    "sound": lambda: _file(_SIZES, _TIMES, _RUNS, _CHUNKS, edits=_box(b"edts", _table(b"elst", 2, 0, 0, 1))),
    # Each sample is a number here, and FFmpeg makes one entry of many.
    "an hour of PCM": lambda: _file(
        _table(b"stsz", 2, 5_000_000),
        _table(b"stts", 1, 5_000_000, 1),
        _table(b"stsc", 1, 1, 1_000, 1),
        _table(b"stco", 5_000, *range(5_000)),
        media=10_000_000,
    ),
    "a fragment": lambda: _file(fragment=_box(b"moof", _box(b"traf", _table(b"trun", 1_000)))),
    "a picture that spells a table's name": lambda: _file(_SIZES, more=_cover(b"..stsz..trun..")),
    "samples that spell a table's name": lambda: _file(_SIZES) + _box(b"mdat", b"..stsz..cmov.."),
    "a size of 64 bits": lambda: _file(_SIZES) + _words(1) + b"mdat" + struct.pack(">Q", 24) + b"stszstsz",
    "a last box without a size": lambda: _file(_SIZES) + _words(0) + b"mdat" + b"stszstsz",
}


@pytest.mark.parametrize("name", _SANE)
def test_tables_that_the_file_can_hold_are_let_pass(name: str) -> None:
    require_sane_tables(_SANE[name](), "item 0")


def test_probe_refuses_the_claim_before_ffmpeg_believes_it() -> None:
    data = bytearray(corpus.audio("aac_mono_44k.m4a"))
    at = data.index(b"stsz")
    data[at + 8 : at + 16] = _words(1, 30_000_000)
    with pytest.raises(CorruptMedia, match="30000000 samples in 5290 bytes, by its table of sizes"):
        probe(Source(bytes(data)))
