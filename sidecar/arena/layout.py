"""Where the outputs of a call's items lie beside each other: by output, and in the order of the items.

So the rows of a batch follow one another in memory and the model server reads them as one tensor, with
nothing joined. Pure: byte counts in, offsets out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

# A column starts on a cache line, and so does every row where rows differ in size and are not joined.
ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class Layout:
    """`total` bytes; for each item, where each of its outputs begins, in bytes from the start."""

    total: int
    rows: tuple[Mapping[str, int], ...]


def lay_out(rows: Sequence[Mapping[str, int]], joined: Collection[str] = ()) -> Layout:
    """A layout for items whose outputs take these bytes, by output's name.

    Rows of the outputs that are `joined` follow one another without a gap whatever their sizes.
    """
    places: list[dict[str, int]] = [{} for _ in rows]
    end = 0
    for name in dict.fromkeys(name for row in rows for name in row):
        column = [(place, row[name]) for place, row in zip(places, rows, strict=True) if name in row]
        even = name in joined or len({nbytes for _, nbytes in column}) == 1
        end = _aligned(end)
        for place, nbytes in column:
            end = end if even else _aligned(end)
            place[name] = end
            end += nbytes
    return Layout(end, tuple(places))


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT
