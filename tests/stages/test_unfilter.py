"""Filters are undone as PNG's specification says, into nothing but what the kernels were given."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.stages import unfilter

_Array = npt.NDArray[np.uint8]

KERNELS: dict[str, Any] = {"unfilter": unfilter.unfilter, "spread": unfilter.spread}
# What lies around the memory that a kernel may write to.
AROUND = 64
CANARY = 0xA5


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_let_go_of_the_lock_and_keep_to_one_thread_and_to_plain_arithmetic(name: str) -> None:
    options = KERNELS[name].targetoptions
    assert options["nogil"]
    assert not options.get("parallel")
    assert not options.get("fastmath")


def predicted(number: int, left: int, above: int, corner: int) -> int:
    """The specification's words (section 9), in the order in which it names the neighbours."""
    if number == 4:
        guess = left + above - corner
        return min((left, above, corner), key=lambda near: abs(guess - near))
    return (0, left, above, (left + above) // 2)[number]


def expected(rows: list[bytes], reach: int, above: bytes) -> list[bytes]:
    done = [above]
    for number, *stored in rows:
        line: list[int] = []
        for place, byte in enumerate(stored):
            left, corner = (line[place - reach], done[-1][place - reach]) if place >= reach else (0, 0)
            line.append((byte + predicted(number, left, done[-1][place], corner)) % 256)
        done.append(bytes(line))
    return done[1:]


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_every_filter_is_undone_as_specified(data: st.DataObject) -> None:
    reach, count = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 12))
    length = reach * count
    some = st.binary(min_size=length, max_size=length)
    rows = data.draw(
        st.lists(st.builds(lambda n, row: bytes([n]) + row, st.integers(0, 4), some), max_size=6)
    )
    above = data.draw(some)
    source = np.frombuffer(b"".join(rows) + bytes(unfilter.SLACK), np.uint8).copy()
    around = np.full(2 * AROUND + length * (1 + len(rows)) + unfilter.SLACK, CANARY, np.uint8)
    out = around[AROUND:-AROUND]
    out[:length] = np.frombuffer(above, np.uint8)
    assert unfilter.unfilter(source, len(rows), length, reach, out, length)
    assert out[length : length * (1 + len(rows))].tobytes() == b"".join(expected(rows, reach, above))
    assert out[:length].tobytes() == above
    assert (around[:AROUND] == CANARY).all()
    assert (around[-AROUND:] == CANARY).all()


@pytest.mark.parametrize("number", [5, 6, 127, 128, 255])
def test_an_unknown_filter_is_told(number: int) -> None:
    source = np.zeros(2 * 4 + unfilter.SLACK, np.uint8)
    out = np.zeros(3 * 3 + unfilter.SLACK, np.uint8)
    source[4] = number
    assert unfilter.unfilter(source, 1, 3, 3, out, 3)
    assert not unfilter.unfilter(source, 2, 3, 3, out, 3)


def spread(  # noqa: PLR0917 - as the kernel has them
    lines: _Array, rows: int, width: int, bits: int, kind: int, table: _Array
) -> _Array:
    around = np.full(2 * AROUND + 3 * rows * width, CANARY, np.uint8)
    out = around[AROUND:-AROUND]
    table.flags.writeable = False
    unfilter.spread(lines, rows, width, bits, kind, table, out)
    assert (around[:AROUND] == CANARY).all()
    assert (around[-AROUND:] == CANARY).all()
    return out.reshape(rows, width, 3)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("width", [1, 7, 8, 9, 100])
def test_parts_of_bytes_are_looked_up_from_the_upper_one_on(bits: int, width: int) -> None:
    random = np.random.default_rng(bits)
    table = random.integers(0, 256, (unfilter.COLOURS, 3), np.uint8)
    lines = random.integers(0, 256, (5, (width * bits + 7) // 8), np.uint8)
    each = np.unpackbits(lines, axis=1)[:, : width * bits].reshape(5, width, bits)
    values = each @ (1 << np.arange(bits)[::-1])
    found = spread(lines.reshape(-1), 5, width, bits, unfilter.LOOKED_UP, table.reshape(-1))
    np.testing.assert_array_equal(found, table[values])


@pytest.mark.parametrize(
    ("kind", "step", "places"),
    [
        (unfilter.GREY, 1, (0, 0, 0)),
        (unfilter.GREY_ALPHA, 2, (0, 0, 0)),
        (unfilter.RGBA, 4, (0, 1, 2)),
        (unfilter.GREY_ALPHA_16, 4, (0, 0, 0)),
        (unfilter.RGB_16, 6, (0, 2, 4)),
        (unfilter.RGBA_16, 8, (0, 2, 4)),
    ],
)
@pytest.mark.parametrize("width", [1, 2, 31, 100])
def test_of_every_other_kind_the_colours_upper_bytes_are_taken(
    kind: int, step: int, places: tuple[int, ...], width: int
) -> None:
    lines = np.random.default_rng(1).integers(0, 256, (5, width, step), np.uint8)
    found = spread(lines.reshape(-1), 5, width, 8 * step, kind, np.zeros(3 * unfilter.COLOURS, np.uint8))
    np.testing.assert_array_equal(found, lines[:, :, list(places)])


def test_grey_of_16_bits_is_clipped() -> None:
    values = np.array([0, 1, 254, 255, 256, 257, 65535], np.uint16)
    lines = values.astype(">u2").view(np.uint8)
    found = spread(lines, 1, values.size, 16, unfilter.CLIPPED_16, np.zeros(3 * unfilter.COLOURS, np.uint8))
    assert found[0].tolist() == [[min(value, 255)] * 3 for value in values.tolist()]
