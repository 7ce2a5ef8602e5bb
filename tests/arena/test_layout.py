"""Rows of a batch follow one another, and nothing overlaps."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from sidecar.arena.layout import ALIGNMENT, lay_out

ROWS = st.lists(st.dictionaries(st.sampled_from("abc"), st.integers(0, 1000)), max_size=6)


@given(ROWS)
def test_no_two_outputs_share_a_byte_and_all_are_inside(rows: list[dict[str, int]]) -> None:
    layout = lay_out(rows)
    spans = sorted(
        (begin, begin + row[name])
        for row, places in zip(rows, layout.rows, strict=True)
        for name, begin in places.items()
    )
    assert [set(row) for row in rows] == [set(places) for places in layout.rows]
    assert all(0 <= begin <= end <= layout.total for begin, end in spans)
    assert all(before[1] <= after[0] for before, after in pairwise(spans))


@given(st.integers(1, 8), st.dictionaries(st.sampled_from("abc"), st.integers(1, 1000), min_size=1))
def test_rows_of_equal_size_follow_one_another_without_a_gap(count: int, row: dict[str, int]) -> None:
    layout = lay_out([row] * count)
    for name, nbytes in row.items():
        starts = [places[name] for places in layout.rows]
        assert starts == [starts[0] + place * nbytes for place in range(count)]
        assert starts[0] % ALIGNMENT == 0


def test_rows_of_differing_size_begin_on_lines_of_their_own() -> None:
    assert [row["a"] % ALIGNMENT for row in lay_out([{"a": 3}, {"a": 5}, {"a": 7}]).rows] == [0, 0, 0]


def test_rows_that_are_joined_follow_one_another_whatever_their_size() -> None:
    layout = lay_out([{"a": 3, "b": 4}, {"a": 5, "b": 4}, {"a": 7, "b": 4}], {"a"})
    assert [row["a"] for row in layout.rows] == [0, 3, 8]
    assert layout.rows[0]["b"] % ALIGNMENT == 0
