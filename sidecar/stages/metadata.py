"""What of a file is about the media instead of it, counted before a library copies or unpacks it.

EXIF, profiles, texts, tags, covers and attachments are read by libraries whole, as soon as they open a file. The
bound here is on what probe looks at at all; what is let in below it is for the limit `metadata_bytes` to say. Nothing
is copied, and no more is believed of a directory than that it asks for what it says.
"""

from __future__ import annotations

from typing import Final, Literal

from sidecar.errors import CorruptMedia
from sidecar.stages.reader import Encoded

MOST: Final = 16 * 1024 * 1024
"""Bytes of metadata in a file that are looked at. Out of the air: cameras and editors write up to 1 MiB, phones that
keep a depth map in XMP and covers of records up to 10."""

# Bytes an element of a TIFF tag takes, by its type; of a type that there is not, nothing is read.
_SIZES: Final = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
_HEADER: Final = 8


def require_little(found: int, label: str) -> None:
    """CorruptMedia where a file has more metadata than is looked at."""
    if found > MOST:
        raise CorruptMedia(
            f"{label} has {found} bytes of metadata and at most {MOST} are looked at: save it again without its "
            "metadata",
            allowed=MOST,
            found=found,
        )


def claimed(tags: bytes, wide: int, order: Literal["little", "big"]) -> int:
    """Bytes that the values of a TIFF directory take, by its own word, beside it; `tags` are its entries.

    `wide` is bytes of an offset: 4, or 8 in BigTIFF. Of two entries of a name libraries read one: the first counts.
    """
    size, seen, total = 4 + 2 * wide, set[bytes](), 0
    for at in range(0, len(tags) - size + 1, size):
        name = tags[at : at + 2]
        if name in seen:
            continue
        seen.add(name)
        unit = _SIZES.get(int.from_bytes(tags[at + 2 : at + 4], order), 0)
        nbytes = unit * int.from_bytes(tags[at + 4 : at + 4 + wide], order)
        total += nbytes if nbytes > wide else 0
    return total


def claimed_by_exif(block: Encoded) -> int:
    """The same of an EXIF or MPF block: a TIFF header and its first directory."""
    order: Literal["little", "big"] = "little" if block[:2] == b"II" else "big"
    big = bytes(block[2:4]) in {b"+\0", b"\0+"}
    wide, count, tag = (8, 8, 20) if big else (4, 2, 12)
    at = int.from_bytes(block[8:16] if big else block[4:_HEADER], order)
    entries = min(int.from_bytes(block[at : at + count], order), len(block) // tag)
    return claimed(bytes(block[at + count : at + count + entries * tag]), wide, order)
