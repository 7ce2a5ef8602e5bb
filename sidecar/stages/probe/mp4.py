"""A bounded walk over an MP4's tables of samples, before FFmpeg meets the bytes.

FFmpeg makes an index of every sample that the tables claim as soon as it opens a file, and the claims
are run lengths: 5 KB can ask for gigabytes. This walk adds the claims up and refuses what the file
cannot hold. It believes no size, reads past the end as nothing, and never takes a sample apart.

FFmpeg takes tables wherever they stand, and unpacks compressed headers. Here they must stand where
ISO/IEC 14496-12 puts them, once each, so that what was added up is what FFmpeg will see.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from sidecar.errors import CorruptMedia, UnsupportedMedia
from sidecar.stages.reader import Encoded

STEPS = 65536
"""Most boxes that are visited. A recording in fragments of a second has five a second: three hours."""

ENTRIES = 1 << 20
"""Most entries of FFmpeg's index, all tracks together: six hours of AAC at 48 kHz; measured: 40 MB."""

_TABLES = re.compile(rb"stsz|stz2|stts|ctts|stsc|stco|co64|elst|trun|cmov")
# Bytes an entry of those that a track has once each; sizes (stsz, stz2) are laid out otherwise.
_WIDTHS = {b"stts": 8, b"ctts": 8, b"stsc": 12, b"stco": 4, b"co64": 8}
_SIZES = (b"stsz", b"stz2")
# Boxes of titles, covers and the like, which FFmpeg keeps; at the top of a file and in `moov`.
_ABOUT = (b"udta", b"meta", b"uuid")
# Of sound without packets FFmpeg makes one entry of many samples: of at least this many.
_PLAIN_RUN = 160

_Words = npt.NDArray[np.uint32]
_NONE: _Words = np.empty(0, np.uint32)


def require_sane_tables(data: Encoded, label: str) -> int:
    """CorruptMedia where the sample tables claim more than `data` can hold; else how many bytes are tags and covers.

    UnsupportedMedia for a compressed header (`cmov`), which hides its tables.
    """
    walk = _Walk(data, label)
    walk.check()
    return walk.about


class _Walk:
    def __init__(self, data: Encoded, label: str) -> None:
        self._data, self._label = data, label
        self._steps = 0
        self._placed = 0  # tables that stand where they belong
        self._entries = 0
        self.about = 0  # bytes of tags and covers

    def check(self) -> None:
        named = 0
        for name, start, end in self._boxes(0, len(self._data)):
            # What samples are made of may spell anything.
            named += 0 if name == b"mdat" else self._named(start, end) + bool(_TABLES.fullmatch(name))
            self.about += end - start if name in _ABOUT else 0
            if name == b"moov":
                self.about += sum(
                    last - first for found, first, last in self._boxes(start, end) if found in _ABOUT
                )
                named -= self._named_in_covers(start, end)
                for _ in self._inside(start, end, b"cmov"):
                    raise UnsupportedMedia(
                        f"{self._label} is mp4 with a compressed header, which is not read here: save it again"
                    )
                for at, stop in self._inside(start, end, b"trak"):
                    self._track(at, stop)
            elif name == b"moof":
                for at, stop in self._inside(start, end, b"traf", b"trun"):
                    self._placed += 1
                    self._index(self._claim("fragments", self._word(at + 4, stop)))
        if named != self._placed:
            raise self._bad("tables of samples where none belong")

    def _track(self, start: int, end: int) -> None:
        edits = 1
        for at, stop in self._inside(start, end, b"edts", b"elst"):
            self._placed += 1
            # A track is indexed anew for each of its edits.
            edits = max(edits, self._word(at + 4, stop))
        for count, (at, stop) in enumerate(self._inside(start, end, b"mdia", b"minf", b"stbl")):
            if count:
                raise self._bad("two sets of tables in one track")
            self._index(edits * self._indexed(at, stop))

    def _indexed(self, start: int, end: int) -> int:
        """How many entries FFmpeg's index gets of the tables in this `stbl`, once they were found sane."""
        samples, tables = 0, dict[bytes, _Words]()
        for name, at, stop in self._boxes(start, end):
            if name not in _SIZES and name not in _WIDTHS:
                continue
            self._placed += 1
            kind = b"stsz" if name in _SIZES else name
            if kind in tables:
                raise self._bad(f"two tables of the kind {kind.decode()} in one track")
            if name in _SIZES:
                samples, tables[kind] = self._sizes(name, at, stop), _NONE
            else:
                tables[kind] = self._entries_of(name, at, stop, self._word(at + 4, stop), _WIDTHS[name])
        times, chunks = tables.get(b"stts", _NONE), len(tables.get(b"stco", _NONE))
        chunks = max(chunks, len(tables.get(b"co64", _NONE)) // 2)
        self._claim("times", int(times[::2].sum(dtype=np.uint64)))
        implied = self._claim("chunks", _implied(tables.get(b"stsc", _NONE), chunks))
        if len(times) == 2 and times[1] == 1 and b"ctts" not in tables:  # noqa: PLR2004 - one pair
            return chunks + implied // _PLAIN_RUN
        return samples

    def _sizes(self, name: bytes, at: int, stop: int) -> int:
        """The count of a table of sizes: of 32 bits each, or none where all are the same; or short ones."""
        size, count = self._word(at + 4, stop), self._word(at + 8, stop)
        self._claim("sizes", count)
        bits = (0 if size else 32) if name == b"stsz" else size & 0xFF
        if at + 12 + count * bits // 8 > stop:
            raise self._bad(f"{count} samples in a table of sizes that ends before")
        return count

    def _entries_of(self, name: bytes, at: int, stop: int, count: int, width: int) -> _Words:
        if at + 8 + count * width > stop:
            raise self._bad(f"{count} entries in a table of kind {name.decode()} that ends before")
        return np.frombuffer(self._data, ">u4", count * width // 4, at + 8).astype(np.uint32)

    def _claim(self, table: str, samples: int) -> int:
        """`samples`, where there are bytes for them: each takes one at least."""
        if samples > len(self._data):
            raise self._bad(f"{samples} samples in {len(self._data)} bytes, by its table of {table}")
        return samples

    def _index(self, entries: int) -> None:
        self._entries += entries
        if self._entries > ENTRIES:
            raise self._bad(f"more than {ENTRIES} samples to index: send a shorter recording")

    def _boxes(self, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
        """The boxes between two places: name, where the content starts, where it ends, as FFmpeg sees them."""
        while at + 8 <= end:
            self._steps += 1
            if self._steps > STEPS:
                raise self._bad(f"more than {STEPS} boxes")
            size, content = self._word(at, end), at + 8
            if size == 1 and at + 16 <= end:
                size, content = int.from_bytes(self._data[at + 8 : at + 16], "big"), at + 16
            stop = min(end, at + size) if size else end
            if stop < content:
                return
            yield bytes(self._data[at + 4 : at + 8]), content, stop
            at = stop

    def _inside(self, start: int, end: int, name: bytes, *deeper: bytes) -> Iterator[tuple[int, int]]:
        """The contents of all boxes at the path of names, from the content of one box."""
        for found, at, stop in self._boxes(start, end):
            if found == name and deeper:
                yield from self._inside(at, stop, *deeper)
            elif found == name:
                yield at, stop

    def _named_in_covers(self, start: int, end: int) -> int:
        """Names in the bytes of cover pictures, where they mean nothing: FFmpeg looks for no table there."""
        return sum(
            self._named(at, stop)
            for first, last in self._inside(start, end, b"udta", b"meta")
            if self._data[first + 8 : first + 12] == b"hdlr"
            for at, stop in self._inside(first + 4, last, b"ilst", b"covr")
        )

    def _named(self, start: int, end: int) -> int:
        return sum(1 for _ in _TABLES.finditer(self._data, start, end))

    def _word(self, at: int, end: int) -> int:
        return int.from_bytes(self._data[at : min(at + 4, end)], "big") if at < end else 0

    def _bad(self, what: str) -> CorruptMedia:
        return CorruptMedia(f"{self._label} is damaged mp4 ({what}): check that the whole file was sent")


def _implied(runs: _Words, chunks: int) -> int:
    """Samples in all chunks: each run (its first chunk, samples a chunk, a description) lasts until the next."""
    first, each = runs[::3].astype(np.float64), runs[1::3].astype(np.float64)
    return int((np.maximum(np.diff(first, append=chunks + 1.0), 0.0) * each).sum())
