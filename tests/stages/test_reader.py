"""A view reads as bytes do, is not copied, and is let go of."""

from __future__ import annotations

import io
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.stages.reader import Encoded, reader

_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.integers(-1, 20_000)),
        st.tuples(st.just("start"), st.integers(0, 50_000)),
        st.tuples(st.just("on"), st.integers(0, 9_000)),
        st.tuples(st.just("end"), st.integers(-9_000, 0)),
    ),
    max_size=20,
)


def _read(data: Encoded, steps: list[tuple[str, int]]) -> list[bytes | int]:
    whence = {"start": io.SEEK_SET, "on": io.SEEK_CUR, "end": io.SEEK_END}
    with reader(data) as file:
        return [
            file.read(number) if kind == "read" else file.seek(number, whence[kind]) for kind, number in steps
        ]


@given(size=st.integers(9_000, 40_000), steps=_STEPS)
def test_a_view_reads_as_its_bytes_do(size: int, steps: list[tuple[str, int]]) -> None:
    data = bytes(at * at & 0xFF for at in range(size))
    assert _read(data, steps) == _read(memoryview(data), steps)


def test_a_place_before_the_first_byte_is_an_error() -> None:
    with reader(memoryview(b"abc")) as file, pytest.raises(ValueError, match="before the first byte: -1"):
        file.seek(-4, io.SEEK_END)


def test_a_closed_file_holds_nothing() -> None:
    memory = bytearray(b"\1" * 100_000)
    with memoryview(memory) as view:
        file = reader(view)
        assert file.read(20_000) == b"\1" * 20_000
        file.close()
    memory.clear()  # raises while anybody has a view


@pytest.mark.parametrize("kind", [bytes, memoryview])
def test_nothing_is_copied_but_what_is_read(kind: type[bytes | memoryview]) -> None:
    data = kind(bytes(5_000_000))
    tracemalloc.start()
    try:
        with reader(data) as file:
            file.read(100)
            file.seek(-100, io.SEEK_END)
            file.read(100)
        assert tracemalloc.get_traced_memory()[1] < 50_000
    finally:
        tracemalloc.stop()
