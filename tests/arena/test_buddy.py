"""The buddy allocator: whatever is taken and freed, slots are apart, aligned, and whole again at the end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sidecar.arena.buddy import Buddy
from sidecar.errors import InternalError

PAGE = 4096


@pytest.mark.parametrize(
    ("asked", "slot"),
    [(0, PAGE), (1, PAGE), (PAGE, PAGE), (PAGE + 1, 2 * PAGE), (602_112, 1 << 20), (1 << 20, 1 << 20)],
)
def test_a_slot_is_the_next_power_of_two_of_what_is_asked(asked: int, slot: int) -> None:
    buddy = Buddy(1 << 20, PAGE)
    assert buddy.slot_bytes(asked) == slot
    offset = buddy.take(asked)
    assert offset == 0
    assert buddy.free(offset) == slot


def test_a_range_is_rounded_down_to_whole_slots() -> None:
    assert Buddy(7 * PAGE + 4095, PAGE).size == 7 * PAGE


def test_a_range_smaller_than_a_slot_gives_nothing() -> None:
    assert Buddy(PAGE - 1, PAGE).take(1) is None


def test_what_is_larger_than_the_largest_block_is_not_given() -> None:
    assert Buddy(3 * PAGE, PAGE).take(2 * PAGE + 1) is None


def test_neighbours_join_again_when_both_are_free() -> None:
    buddy = Buddy(4 * PAGE, PAGE)
    offsets = [buddy.take(PAGE) for _ in range(4)]
    assert sorted(each for each in offsets if each is not None) == [0, PAGE, 2 * PAGE, 3 * PAGE]
    assert buddy.take(PAGE) is None
    for offset in (0, 2 * PAGE, 3 * PAGE):
        buddy.free(offset)
    assert buddy.take(4 * PAGE) is None
    assert buddy.take(2 * PAGE) == 2 * PAGE
    buddy.free(2 * PAGE)
    buddy.free(PAGE)
    assert buddy.take(4 * PAGE) == 0


def test_all_or_none_takes_nothing_when_one_does_not_fit() -> None:
    buddy = Buddy(4 * PAGE, PAGE)
    assert buddy.take_all([PAGE, PAGE, 2 * PAGE, 1]) is None
    assert buddy.take(4 * PAGE) == 0


def test_all_together_are_placed_in_the_order_asked() -> None:
    buddy = Buddy(4 * PAGE, PAGE)
    offsets = buddy.take_all([PAGE, 2 * PAGE, PAGE])
    assert offsets is not None
    assert [buddy.free(each) for each in offsets] == [PAGE, 2 * PAGE, PAGE]


@pytest.mark.parametrize("offset", [0, PAGE, 3 * PAGE, 1 << 40, -PAGE])
def test_freeing_what_is_not_taken_is_a_fault_and_changes_nothing(offset: int) -> None:
    buddy = Buddy(4 * PAGE, PAGE)
    with pytest.raises(InternalError):
        buddy.free(offset)
    assert buddy.take(4 * PAGE) == 0


@given(st.integers(1, 200), st.lists(st.integers(0, 100 * PAGE), max_size=8))
def test_an_empty_range_takes_exactly_what_it_says_that_fits(units: int, sizes: list[int]) -> None:
    buddy = Buddy(units * PAGE, PAGE)
    assert (buddy.take_all(sizes) is not None) == buddy.fits(sizes)


class Takes(RuleBasedStateMachine):
    """Random takes and frees, held against the plain list of what is out."""

    def __init__(self) -> None:
        super().__init__()
        self.units = 0
        self.buddy = Buddy(0, PAGE)
        self.out: dict[int, int] = {}  # offset to bytes

    @precondition(lambda self: not self.out)
    @rule(units=st.integers(1, 77))
    def begin(self, units: int) -> None:
        self.units = units
        self.buddy = Buddy(units * PAGE, PAGE)

    @rule(nbytes=st.one_of(st.integers(0, PAGE), st.integers(0, 40 * PAGE)))
    def take(self, nbytes: int) -> None:
        offset = self.buddy.take(nbytes)
        if offset is not None:
            self.keep(offset, self.buddy.slot_bytes(nbytes))
            assert self.out[offset] >= nbytes
        else:
            assert not self.aligned_gap(self.buddy.slot_bytes(nbytes))

    @rule(sizes=st.lists(st.integers(0, 10 * PAGE), max_size=5))
    def take_all(self, sizes: list[int]) -> None:
        offsets = self.buddy.take_all(sizes)
        for offset, nbytes in zip(offsets or (), sizes if offsets else (), strict=True):
            self.keep(offset, self.buddy.slot_bytes(nbytes))

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        offset = data.draw(st.sampled_from(sorted(self.out)))
        assert self.buddy.free(offset) == self.out.pop(offset)
        with pytest.raises(InternalError):
            self.buddy.free(offset)

    def keep(self, offset: int, nbytes: int) -> None:
        assert offset not in self.out
        self.out[offset] = nbytes

    def aligned_gap(self, nbytes: int) -> bool:
        """Whether a free place of that size and alignment is there by the list."""
        return any(
            all(begin + size <= at or at + nbytes <= begin for begin, size in self.out.items())
            for at in range(0, self.units * PAGE - nbytes + 1, nbytes)
        )

    @invariant()
    def slots_are_apart_aligned_and_inside(self) -> None:
        end = 0
        for offset, nbytes in sorted(self.out.items()):
            assert nbytes.bit_count() == 1
            assert offset % nbytes == 0
            assert offset >= end
            end = offset + nbytes
        assert end <= self.units * PAGE

    def teardown(self) -> None:
        for offset in self.out:
            self.buddy.free(offset)
        if self.units:
            largest = 1 << (self.units.bit_length() - 1)
            assert self.buddy.take(largest * PAGE) == 0


TestTakes = Takes.TestCase
