"""What was made is found again by its address, byte for byte, and is gone as soon as its room is needed."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sidecar.arena.arena import Arena
from sidecar.arena.lease import Lease
from sidecar.errors import SettingsError
from sidecar.media import DataType, Tensor
from sidecar.reuse import cache as module
from sidecar.reuse.cache import CacheConfig, ResultCache
from sidecar.reuse.prepared import Prepared
from tests.reuse.making import PAGE, address, bytes_of, made, opened


@pytest.fixture
def cache(arena: Arena) -> Iterator[ResultCache]:
    """Room for 16 slots of the smallest size, in an arena of 64."""
    opened_cache = ResultCache(CacheConfig(), arena)
    yield opened_cache
    opened_cache.close()


def keep(cache: ResultCache, number: int, prepared: Prepared) -> bool:
    """Keeps a result and lets go of it, as a call does at its end."""
    kept = cache.keep(address(number), prepared)
    prepared.lease.release()
    return kept


def holds(cache: ResultCache, number: int) -> bool:
    found = cache.find(address(number))
    if found is not None:
        found.lease.release()
    return found is not None


class TestFinding:
    def test_what_was_kept_is_found_where_it_was_made(self, cache: ResultCache, arena: Arena) -> None:
        prepared = made(arena, 3 * PAGE, cpu_ms=7.5, fill=42)
        assert keep(cache, 1, prepared)
        found = cache.find(address(1))
        assert found is not None
        assert (found.lease, found.cpu_ms) == (prepared.lease, 7.5)
        assert [(each.name, each.shape, each.at) for each in found.tensors] == [
            (each.name, each.shape, each.at) for each in prepared.tensors
        ]
        assert bytes_of(found) == bytes([42]) * (3 * PAGE)
        found.lease.release()
        now = cache.statistics()
        assert (now.hits_total, now.misses_total, now.kept_total, now.copied_total) == (1, 0, 1, 0)
        assert (now.saved_cpu_ms_total, now.kept_bytes, now.entries) == (7.5, 4 * PAGE, 1)

    def test_who_finds_it_cannot_change_it(self, cache: ResultCache, arena: Arena) -> None:
        keep(cache, 1, made(arena))
        found = cache.find(address(1))
        assert found is not None
        assert all(isinstance(each.data, memoryview) and each.data.readonly for each in found.tensors)
        found.lease.release()

    def test_another_address_finds_nothing(self, cache: ResultCache, arena: Arena) -> None:
        keep(cache, 1, made(arena))
        assert cache.find(address(2)) is None
        assert cache.find(address(1, tenant="another")) is None
        assert cache.statistics().misses_total == 2

    def test_keeping_the_same_again_changes_nothing(self, cache: ResultCache, arena: Arena) -> None:
        assert keep(cache, 1, made(arena, fill=1))
        assert keep(cache, 1, made(arena, fill=2))
        found = cache.find(address(1))
        assert found is not None
        assert bytes_of(found) == bytes([1]) * PAGE
        found.lease.release()
        assert (cache.statistics().entries, cache.statistics().kept_total) == (1, 1)

    def test_it_is_still_whole_for_who_reads_it_after_it_was_dropped(
        self, cache: ResultCache, arena: Arena
    ) -> None:
        keep(cache, 1, made(arena, fill=9))
        found = cache.find(address(1))
        assert found is not None
        cache.clear()
        others = [arena.try_take(PAGE) for _ in range(63)]
        for other in others:
            assert other is not None
            other.view[:] = bytes([1]) * PAGE
        assert arena.try_take(1) is None
        assert bytes_of(found) == bytes([9]) * PAGE
        for other in (found.lease, *others):
            assert other is not None
            other.release()


class TestKeeping:
    def test_one_of_several_in_a_slot_is_copied_to_one_of_its_own(
        self, cache: ResultCache, arena: Arena
    ) -> None:
        berth = arena.try_take(8 * PAGE)
        assert berth is not None
        berth.view[:] = bytes(range(8)) * PAGE
        part = berth.view[2 * PAGE : 3 * PAGE]
        tensors = (
            Tensor("a", DataType.UINT8, (100,), part[:100], berth.offset + 2 * PAGE),
            Tensor("b", DataType.FP32, (25,), part[128:228], berth.offset + 2 * PAGE + 128),
        )
        expected = [bytes(tensor.data) for tensor in tensors]
        assert cache.keep(address(1), Prepared(tensors, berth, 5.0))
        berth.view[:] = bytes(8 * PAGE)
        berth.release()
        found = cache.find(address(1))
        assert found is not None
        assert [bytes(tensor.data) for tensor in found.tensors] == expected
        assert [tensor.at for tensor in found.tensors] == [found.lease.offset, found.lease.offset + 128]
        assert [(each.name, each.data_type, each.shape) for each in found.tensors] == [
            ("a", DataType.UINT8, (100,)),
            ("b", DataType.FP32, (25,)),
        ]
        found.lease.release()
        assert (cache.statistics().copied_total, cache.statistics().kept_bytes) == (1, PAGE)

    def test_small_ones_that_share_a_slot_are_each_kept(self, cache: ResultCache, arena: Arena) -> None:
        berth = arena.try_take(3 * 64)
        assert berth is not None
        for number in range(3):
            view = berth.view[number * 64 : number * 64 + 64]
            view[:] = bytes([number]) * 64
            tensor = Tensor("a", DataType.UINT8, (64,), view, berth.offset + number * 64)
            assert cache.keep(address(number), Prepared((tensor,), berth, 1.0))
        berth.release()
        assert (cache.statistics().copied_total, arena.statistics().kept_bytes) == (2, 3 * PAGE)
        for number in range(3):
            found = cache.find(address(number))
            assert found is not None
            assert bytes_of(found) == bytes([number]) * 64
            found.lease.release()

    def test_tensors_that_do_not_lie_in_the_arena_are_copied_into_it(
        self, cache: ResultCache, arena: Arena
    ) -> None:
        lease = arena.try_take(5)
        assert lease is not None
        prepared = Prepared((Tensor("a", DataType.UINT8, (5,), b"12345"),), lease, 1.0)
        assert keep(cache, 1, prepared)
        found = cache.find(address(1))
        assert found is not None
        assert (bytes_of(found), found.tensors[0].at) == (b"12345", found.lease.offset)
        found.lease.release()

    def test_a_result_without_bytes_is_kept_like_any_other(self, cache: ResultCache, arena: Arena) -> None:
        assert keep(cache, 1, made(arena, 0))
        assert holds(cache, 1)

    def test_a_copy_is_not_made_where_others_would_have_to_go_for_it(self, arena: Arena) -> None:
        cache = ResultCache(CacheConfig(bytes=32 * PAGE), arena)
        for number in range(16):
            keep(cache, number, made(arena))
        berth = arena.try_take(32 * PAGE)
        work = arena.try_take(16 * PAGE)
        assert berth is not None
        assert work is not None
        tensor = Tensor("a", DataType.UINT8, (8 * PAGE,), berth.view[: 8 * PAGE], berth.offset)
        assert not cache.keep(address(99), Prepared((tensor,), berth, 1000.0))
        now = cache.statistics()
        assert (now.entries, now.declined_total, now.evicted_total, now.yielded_total) == (16, 1, 0, 0)
        berth.release()
        work.release()
        cache.close()

    def test_what_is_larger_than_all_that_may_be_kept_is_not(self, cache: ResultCache, arena: Arena) -> None:
        keep(cache, 1, made(arena))
        assert not keep(cache, 2, made(arena, 16 * PAGE + 1))
        assert keep(cache, 3, made(arena, 15 * PAGE + 1))
        assert [holds(cache, number) for number in (1, 2, 3)] == [False, False, True]

    def test_there_are_never_too_many_entries(
        self, cache: ResultCache, arena: Arena, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "_MOST_ENTRIES", 3)
        for number in range(5):
            assert keep(cache, number, made(arena))
        assert [holds(cache, number) for number in range(5)] == [False, False, True, True, True]

    def test_it_can_be_turned_off(self, arena: Arena) -> None:
        cache = ResultCache(CacheConfig(enabled=False), arena)
        assert not cache.enabled
        assert not keep(cache, 1, made(arena))
        assert not holds(cache, 1)
        assert cache.statistics().declined_total == 0

    @pytest.mark.parametrize(("asked", "most"), [(0, 16 * PAGE), (64 * PAGE, 64 * PAGE), (1, 1)])
    def test_its_size_is_chosen(self, arena: Arena, asked: int, most: int) -> None:
        assert ResultCache(CacheConfig(bytes=asked), arena).statistics().most_bytes == most

    def test_a_size_beyond_the_arena_is_a_settings_error(self, arena: Arena) -> None:
        with pytest.raises(SettingsError, match=r"arena\.bytes") as refused:
            ResultCache(CacheConfig(bytes=64 * PAGE + 1), arena)
        assert refused.value.facts["key"] == "cache.bytes"

    def test_nothing_is_kept_after_its_end(self, cache: ResultCache, arena: Arena) -> None:
        keep(cache, 1, made(arena))
        cache.close()
        assert not keep(cache, 2, made(arena))
        assert arena.statistics().leased == 0

    def test_the_arena_may_be_closed_first(self) -> None:
        arena = opened(8)
        cache = ResultCache(CacheConfig(bytes=4 * PAGE), arena)
        keep(cache, 1, made(arena))
        arena.close()
        cache.close()
        assert arena.statistics().misreleased_total == 0


class TestGoing:
    def test_of_equal_worth_the_least_recently_used_goes(self, cache: ResultCache, arena: Arena) -> None:
        for number in range(16):
            keep(cache, number, made(arena))
        for number in (0, 1):
            assert holds(cache, number)
        for number in range(16, 18):
            keep(cache, number, made(arena))
        assert [number for number in range(18) if holds(cache, number)] == [0, 1, *range(4, 18)]
        assert cache.statistics().evicted_total == 2

    def test_what_saves_little_for_its_bytes_goes_first(self, cache: ResultCache, arena: Arena) -> None:
        keep(cache, 1, made(arena, 8 * PAGE, cpu_ms=10))
        keep(cache, 2, made(arena, 4 * PAGE, cpu_ms=500))
        keep(cache, 3, made(arena, 4 * PAGE, cpu_ms=40))
        keep(cache, 4, made(arena, PAGE, cpu_ms=10))
        assert [holds(cache, number) for number in (1, 2, 3, 4)] == [False, True, True, True]

    def test_what_is_used_often_stays_longer(self, cache: ResultCache, arena: Arena) -> None:
        keep(cache, 0, made(arena))
        for _ in range(7):
            assert holds(cache, 0)
        for number in range(1, 50):
            keep(cache, number, made(arena))
        assert holds(cache, 0)

    def test_what_is_not_used_any_more_goes_in_the_end_however_dear_it_was(
        self, cache: ResultCache, arena: Arena
    ) -> None:
        keep(cache, 0, made(arena, cpu_ms=100))
        for number in range(1, 5000):
            keep(cache, number, made(arena))
        assert not holds(cache, 0)

    def test_it_saves_about_as_much_as_the_exact_rule(self, arena: Arena) -> None:
        """The queues by powers of two beside a plain search for the least priority, on a mix that is skewed."""
        chance = random.Random(5)
        costs = [chance.lognormvariate(1, 1.2) for _ in range(100)]
        pages = [chance.choice((1, 1, 2, 4, 8)) for _ in range(100)]
        asked = [min(99, int(chance.paretovariate(0.7)) - 1) for _ in range(3000)]
        cache = ResultCache(CacheConfig(), arena)
        for number in asked:
            if not holds(cache, number):
                keep(cache, number, made(arena, pages[number] * PAGE, costs[number]))
        saved = cache.statistics().saved_cpu_ms_total
        cache.close()
        assert saved == pytest.approx(exact(asked, costs, pages, 16), rel=0.1)


def exact(asked: list[int], costs: list[float], pages: list[int], most: int) -> float:
    """Milliseconds that GreedyDual-Size-Frequency would have saved, by its definition."""
    clock, saved = 0.0, 0.0
    kept: dict[int, float] = {}
    uses: Counter[int] = Counter()
    for number in asked:
        if number in kept:
            saved += costs[number]
        else:
            while sum(pages[each] for each in kept) + pages[number] > most:
                gone = min(kept, key=lambda each: kept[each])
                clock = kept.pop(gone)
                del uses[gone]
        uses[number] += 1
        kept[number] = clock + uses[number] * costs[number] / pages[number]
    return saved


class TestGivingWay:
    def test_a_slot_that_is_needed_is_had_in_the_place_of_what_is_kept(
        self, cache: ResultCache, arena: Arena
    ) -> None:
        for number in range(16):
            keep(cache, number, made(arena))
        whole = arena.try_take(64 * PAGE)
        assert whole is not None
        assert (cache.statistics().entries, cache.statistics().yielded_total) == (0, 16)
        whole.release()

    def test_only_as_much_goes_as_is_needed(self, cache: ResultCache, arena: Arena) -> None:
        work = arena.try_take_all([32 * PAGE, 16 * PAGE])
        assert work is not None
        for number in range(4):
            keep(cache, number, made(arena, 4 * PAGE))
        more = arena.try_take_all([4 * PAGE])
        assert more is not None
        assert [holds(cache, number) for number in range(4)] == [False, True, True, True]
        for lease in (*work, *more):
            lease.release()

    def test_nothing_is_kept_while_a_call_lacks_room(self, cache: ResultCache, arena: Arena) -> None:
        prepared = made(arena)
        assert arena.try_take_all([64 * PAGE]) is None
        assert not cache.keep(address(1), prepared)
        prepared.lease.release()
        whole = arena.try_take_all([64 * PAGE])
        assert whole is not None
        whole[0].release()
        assert keep(cache, 1, made(arena))

    def test_a_call_that_finds_the_room_of_others_too_little_is_not_kept_waiting_for_it(
        self, arena: Arena
    ) -> None:
        """Room is told of as entries are dropped for a new one, and whoever asks then may find it too little."""
        cache = ResultCache(CacheConfig(bytes=4 * PAGE), arena)
        for number in range(4):
            keep(cache, number, made(arena))
        asked = []
        arena.freed = lambda: asked.append(arena.try_take_all([64 * PAGE]))
        prepared = made(arena)
        assert not cache.keep(address(99), prepared)
        assert cache.statistics().entries == 0
        assert set(asked) == {None}
        arena.freed = lambda: None
        prepared.lease.release()

    def test_who_reads_what_was_dropped_lets_the_next_one_begin_by_ending(
        self, cache: ResultCache, arena: Arena
    ) -> None:
        keep(cache, 1, made(arena))
        found = cache.find(address(1))
        assert found is not None
        assert arena.try_take_all([64 * PAGE]) is None
        assert cache.statistics().entries == 0
        told = []
        arena.freed = lambda: told.append(arena.try_take_all([64 * PAGE]))
        found.lease.release()
        ((whole,),) = (leases for leases in told if leases is not None)
        arena.freed = lambda: None
        whole.release()

    def test_what_is_kept_is_never_taken_for_lost(self) -> None:
        arena = opened(8, lease_s=1e-9)
        cache = ResultCache(CacheConfig(bytes=4 * PAGE), arena)
        keep(cache, 1, made(arena, fill=3))
        arena.sweep()
        found = cache.find(address(1))
        assert found is not None
        arena.sweep()
        assert bytes_of(found) == bytes([3]) * PAGE
        found.lease.release()
        cache.close()
        assert (arena.statistics().leased, arena.statistics().expired_total) == (0, 0)
        arena.close()


MOST = 12


class Calls(RuleBasedStateMachine):
    """Calls that make, find, keep and lack room, in an arena of 32 slots of which 12 may be kept.

    As at the gate, one of them at most lacks room to begin, and asks again whenever it is told of some.
    """

    def __init__(self) -> None:
        super().__init__()
        self.arena = opened(32)
        self.arena.freed = self.kick
        self.cache = ResultCache(CacheConfig(bytes=MOST * PAGE), self.arena)
        self.held: list[tuple[Prepared, int]] = []
        self.pages: dict[int, int] = {}
        self.short: list[int] | None = None
        self.kicking = False
        self.work: list[Lease] = []

    def kick(self) -> None:
        if self.short is not None and not self.kicking:
            self.kicking = True
            leases = self.arena.try_take_all(self.short)
            if leases is not None:
                self.work += leases
                self.short = None
            self.kicking = False

    @rule(number=st.integers(0, 9), pages=st.integers(0, 9), cost=st.floats(0, 100), shared=st.booleans())
    def make_and_keep(self, number: int, pages: int, cost: float, shared: bool) -> None:
        """A result of `number`, alone in its slot or beside another's."""
        pages = self.pages.setdefault(number, pages)
        if not self.arena.has_room([pages * PAGE * (1 + shared)]):
            return
        prepared = made(self.arena, pages * PAGE * (1 + shared), cost, fill=number)
        if shared:
            tensor = prepared.tensors[0]
            prepared = replace(prepared, tensors=(replace(tensor, name="only"),))
        self.cache.keep(address(number), prepared)
        self.held.append((prepared, number))

    @rule(number=st.integers(0, 9))
    def find(self, number: int) -> None:
        found = self.cache.find(address(number))
        if found is not None:
            self.held.append((found, number))

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 99))
    def let_go(self, which: int) -> None:
        self.held.pop(which % len(self.held))[0].lease.release()

    @rule(pages=st.integers(0, 32))
    def try_to_take(self, pages: int) -> None:
        lease = self.arena.try_take(pages * PAGE)
        if lease is not None:
            self.work.append(lease)
        else:
            assert self.cache.statistics().entries == 0

    @precondition(lambda self: self.short is None)
    @rule(pages=st.lists(st.integers(0, 20), min_size=1, max_size=3))
    def begin(self, pages: list[int]) -> None:
        sizes = [each * PAGE for each in pages]
        if sum(map(self.arena.slot_bytes, sizes)) <= 32 * PAGE:
            self.short = sizes
            self.kick()

    @precondition(lambda self: self.short)
    @rule()
    def leave(self) -> None:
        """The next call asks at once, and needs next to nothing."""
        self.short = [0]
        self.kick()

    @precondition(lambda self: self.work)
    @rule(which=st.integers(0, 99))
    def end_work(self, which: int) -> None:
        self.work.pop(which % len(self.work)).release()

    @rule(pages=st.integers(0, 32))
    def make_room(self, pages: int) -> None:
        self.cache.make_room([pages * PAGE])
        assert self.arena.has_room([pages * PAGE]) or self.cache.statistics().entries == 0

    @rule()
    def forget(self) -> None:
        self.cache.clear()

    @invariant()
    def bytes_are_accounted_exactly(self) -> None:
        now, there = self.cache.statistics(), self.arena.statistics()
        assert (now.kept_bytes, now.entries) == (there.kept_bytes, there.kept)
        assert now.kept_bytes <= MOST * PAGE
        out = {lease.generation: lease for lease in (*self.work, *(each.lease for each, _ in self.held))}
        alone = {
            entry.prepared.lease.generation: entry.prepared.lease for entry in self.cache._entries.values()
        }
        slots = [self.arena.slot_bytes(lease.nbytes) for lease in (out | alone).values()]
        assert (sum(slots), len(slots)) == (there.leased_bytes, there.leased)
        assert there.misreleased_total == 0

    @invariant()
    def work_in_hand_goes_first(self) -> None:
        assert self.arena.crowded == (self.short is not None)
        if self.short is not None:
            assert self.cache.statistics().entries == 0
            assert not self.arena.has_room(self.short)

    @invariant()
    def every_queue_is_what_its_entries_say(self) -> None:
        queued = {key: worth for worth, queue in self.cache._queues.items() for key in queue}
        assert queued == {key: entry.worth for key, entry in self.cache._entries.items()}
        assert all(self.cache._queues.values())
        for queue in self.cache._queues.values():
            priorities = [entry.priority for entry in queue.values()]
            assert priorities == sorted(priorities)

    @invariant()
    def nobodys_bytes_change(self) -> None:
        for prepared, number in self.held:
            assert set(bytes_of(prepared)) <= {number}

    def teardown(self) -> None:
        self.short = None
        for lease in (*self.work, *(each.lease for each, _ in self.held)):
            lease.release()
        self.cache.close()
        left = self.arena.statistics()
        whole = self.arena.try_take(32 * PAGE)
        self.arena.close()
        assert (left.leased, left.kept_bytes, left.misreleased_total) == (0, 0, 0)
        assert whole is not None


TestCalls = Calls.TestCase
TestCalls.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
