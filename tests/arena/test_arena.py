"""The arena keeps its word: all or none, and nobody's bytes are another's."""

from __future__ import annotations

import gc
import itertools
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.arena.arena import (
    SMALLEST_SLOT,
    Arena,
    ArenaConfig,
    choose_bytes,
)
from sidecar.arena.lease import Lease
from sidecar.arena.segment import HEADER_BYTES, SHM
from sidecar.arena.view import attach
from sidecar.errors import InternalError, MediaTooLarge, SettingsError
from sidecar.stages.deliver.upstream import SharedMemory
from sidecar.workers.budget import memory_limit

PAGE = SMALLEST_SLOT
PAGES = 16
MIB = 1 << 20
GIB = 1 << 30


def opened(pages: int = PAGES, lease_s: float = 300.0) -> Arena:
    config = ArenaConfig(pages * PAGE, lease_s, f"sidecar-test-{secrets.token_hex(4)}")
    return Arena.open(config, memory_limit())


@pytest.fixture
def arena() -> Iterator[Arena]:
    with_pages = opened()
    yield with_pages
    with_pages.close()


def empty(arena: Arena) -> bool:
    """Whether nothing is leased, and the whole can be had in one piece."""
    now = arena.statistics()
    whole = arena.try_take(now.size)
    if whole is not None:
        whole.release()
    left = (now.leased, now.leased_bytes, now.asked_bytes, now.pinned, now.misreleased_total)
    return left == (0,) * 5 and now.taken_total == now.released_total and whole is not None


def taken(arena: Arena, *sizes: int) -> tuple[Lease, ...]:
    """Slots that there is room for."""
    leases = arena.try_take_all(sizes)
    assert leases is not None
    return leases


class TestLeases:
    def test_slots_are_as_asked_apart_and_aligned(self, arena: Arena) -> None:
        leases = taken(arena, 10, 3 * PAGE, 0)
        assert (
            [len(lease.view) for lease in leases] == [lease.nbytes for lease in leases] == [10, 3 * PAGE, 0]
        )
        places = sorted((lease.offset, lease.offset + lease.nbytes) for lease in leases)
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(places))
        assert all(lease.offset % 64 == 0 and lease.offset >= HEADER_BYTES for lease in leases)
        assert all(lease.offset + lease.nbytes <= arena.size for lease in leases)

    def test_what_is_written_is_what_another_mapping_reads(self, arena: Arena) -> None:
        (lease,) = taken(arena, PAGE)
        np.frombuffer(lease.view, np.uint8)[:] = np.arange(PAGE) % 251
        other = attach(arena.name, arena.size)
        assert bytes(other[lease.offset : lease.offset + lease.nbytes]) == bytes(lease.view)

    def test_statistics_tell_slots_and_what_was_asked(self, arena: Arena) -> None:
        lease = arena.try_take(PAGE + 1)
        assert lease is not None
        lease.pin()
        now = arena.statistics()
        assert (now.size, now.leased_bytes, now.asked_bytes) == (PAGES * PAGE, 2 * PAGE, PAGE + 1)
        assert (now.leased, now.pinned, now.taken_total, now.released_total) == (1, 1, 1, 0)

    def test_a_slot_is_free_when_its_last_holder_released_it(self, arena: Arena) -> None:
        lease = arena.try_take(PAGES * PAGE)
        assert lease is not None
        lease.retain()
        lease.release()
        assert arena.try_take(1) is None
        lease.release()
        assert empty(arena)

    def test_a_pinned_slot_is_not_free_though_nobody_holds_it(self, arena: Arena) -> None:
        lease = arena.try_take(PAGES * PAGE)
        assert lease is not None
        lease.pin()
        lease.pin()
        lease.release()
        lease.unpin()
        assert arena.try_take(1) is None
        lease.unpin()
        assert empty(arena)

    def test_a_lease_that_is_over_gives_no_view_and_takes_no_holder(self, arena: Arena) -> None:
        lease = arena.try_take(1)
        assert lease is not None
        lease.release()
        for use in (lambda: lease.view, lease.retain, lease.pin):
            with pytest.raises(InternalError, match=f"lease {lease.generation} .* is over"):
                use()

    def test_a_release_too_many_is_counted_and_frees_nobody_elses_slot(
        self, arena: Arena, caplog: pytest.LogCaptureFixture
    ) -> None:
        old = arena.try_take(PAGE)
        assert old is not None
        old.release()
        new = arena.try_take(PAGE)
        assert new is not None
        assert (new.offset, new.generation > old.generation) == (old.offset, True)
        old.release()
        old.unpin()
        assert (arena.statistics().leased, arena.statistics().misreleased_total) == (1, 2)
        assert "once too often" in caplog.text
        assert len(new.view) == PAGE

    def test_generations_never_repeat(self, arena: Arena) -> None:
        leases = [arena.try_take(1) for _ in range(PAGES)]
        seen = {lease.generation for lease in leases if lease is not None}
        for lease in leases:
            assert lease is not None
            lease.release()
        again = [arena.try_take(1) for _ in range(PAGES)]
        assert not seen & {lease.generation for lease in again if lease is not None}

    def test_it_is_what_deliver_takes_for_shared_memory(self, arena: Arena) -> None:
        as_deliver_sees_it: SharedMemory = arena
        slot = as_deliver_sees_it.try_take(100)
        assert slot is not None
        assert slot.offset == HEADER_BYTES


class TestTaking:
    def test_all_are_given_together_or_none(self, arena: Arena) -> None:
        (held,) = taken(arena, 8 * PAGE)
        assert arena.try_take_all([4 * PAGE, 8 * PAGE]) is None
        assert arena.statistics().leased == 1
        held.release()
        assert [lease.nbytes for lease in taken(arena, 4 * PAGE, 8 * PAGE)] == [4 * PAGE, 8 * PAGE]

    def test_it_is_crowded_from_a_call_that_found_no_room_until_one_finds_it(self, arena: Arena) -> None:
        (held,) = taken(arena, PAGES * PAGE)
        assert not arena.crowded
        assert arena.try_take_all([PAGE]) is None
        assert arena.crowded
        held.release()
        assert arena.crowded
        taken(arena, PAGE)
        assert not arena.crowded

    def test_a_slot_more_may_be_had_beside_a_call_that_waits(self, arena: Arena) -> None:
        taken(arena, PAGE)
        assert arena.try_take_all([PAGES * PAGE]) is None
        assert arena.try_take(PAGE) is not None
        assert arena.try_take(PAGES * PAGE) is None
        assert arena.crowded

    def test_whatever_frees_a_slot_is_told_once_for_each(self, arena: Arena) -> None:
        told: list[int] = []
        arena.freed = lambda: told.append(arena.statistics().leased)
        first, second, third = taken(arena, PAGE, PAGE, PAGE)
        first.retain()
        first.release()
        second.pin()
        second.release()
        assert told == []
        first.release()
        second.unpin()
        arena._books.sweep(float("inf"))
        assert (told, third.live) == ([2, 1, 0], False)

    def test_who_is_told_of_room_can_take_it_at_once(self, arena: Arena) -> None:
        (held,) = taken(arena, PAGES * PAGE)
        arena.freed = lambda: got.extend(taken(arena, PAGES * PAGE))
        got: list[Lease] = []
        held.release()
        assert [lease.live for lease in (held, *got)] == [False, True]

    @pytest.mark.parametrize("sizes", [[PAGES * PAGE + 1], [8 * PAGE + 1, 1], [1] * (PAGES + 1)])
    def test_what_never_fits_is_refused_for_good(self, arena: Arena, sizes: Sequence[int]) -> None:
        with pytest.raises(MediaTooLarge) as refused:
            arena.check_fits(sizes, "media[3]")
        assert refused.value.message.startswith("media[3]: ")
        assert (refused.value.facts["limit"], refused.value.facts["allowed"]) == (
            "arena.bytes",
            str(PAGES * PAGE),
        )
        assert int(refused.value.facts["found"]) > PAGES * PAGE
        assert arena.try_take_all(sizes) is None
        assert empty(arena)

    def test_what_just_fits_passes_the_check(self, arena: Arena) -> None:
        arena.check_fits([8 * PAGE, 4 * PAGE, 1, PAGE, 2 * PAGE], "media[0]")
        arena.check_fits([], "media[0]")


class TestExpiry:
    def test_a_lease_in_time_is_left_alone(self, arena: Arena) -> None:
        lease = arena.try_take(1)
        assert lease is not None
        arena.sweep()
        assert (len(lease.view), arena.statistics().expired_total) == (1, 0)

    def test_a_lost_lease_is_taken_back_and_its_late_release_frees_nobody_elses_slot(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        arena = opened(lease_s=1e-6)
        (lost,) = taken(arena, PAGES * PAGE)
        assert arena.try_take(1) is None
        past(lost)
        arena.sweep()
        (new,) = taken(arena, PAGES * PAGE)
        assert new.offset == lost.offset
        assert "arena.lease_s" in caplog.text
        lost.release()
        with pytest.raises(InternalError):
            lost.view  # noqa: B018 - reading it is the statement
        now = arena.statistics()
        assert (now.leased, now.expired_total, now.reclaimed_total, now.misreleased_total) == (1, 1, 1, 0)
        new.release()
        assert empty(arena)
        arena.close()

    def test_a_lease_that_another_process_may_write_to_is_counted_once_and_never_taken_back(self) -> None:
        arena = opened(lease_s=1e-6)
        lease = arena.try_take(PAGES * PAGE)
        assert lease is not None
        lease.pin()
        past(lease)
        for _ in range(3):
            arena.sweep()
        now = arena.statistics()
        assert (now.leased, now.expired_total, now.reclaimed_total) == (1, 1, 0)
        assert arena.try_take(1) is None
        lease.unpin()
        lease.release()
        assert empty(arena)
        arena.close()

    def test_a_late_lease_is_taken_back_once_it_is_unpinned(self) -> None:
        arena = opened(lease_s=1e-6)
        lease = arena.try_take(PAGES * PAGE)
        assert lease is not None
        lease.pin()
        past(lease)
        arena.sweep()
        lease.unpin()
        arena.sweep()
        now = arena.statistics()
        assert (now.leased, now.expired_total, now.reclaimed_total) == (0, 1, 1)
        lease.release()
        assert empty(arena)
        arena.close()


class TestKeeping:
    def test_what_is_kept_never_grows_old_and_is_told_apart(self) -> None:
        arena = opened(lease_s=1e-6)
        lease = arena.try_take(PAGE + 1)
        assert lease is not None
        lease.keep()
        lease.release()
        past(lease)
        arena.sweep()
        now = arena.statistics()
        assert (lease.live, lease.kept, now.leased, now.kept, now.kept_bytes) == (True, True, 1, 1, 2 * PAGE)
        assert (now.leased_bytes, now.expired_total) == (2 * PAGE, 0)
        lease.drop()
        assert (lease.live, lease.kept, arena.statistics().kept, arena.statistics().kept_bytes) == (
            False,
            False,
            0,
            0,
        )
        assert empty(arena)
        arena.close()

    def test_who_still_reads_what_was_dropped_has_as_long_as_if_it_were_new(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        arena = opened(lease_s=300.0)
        kept, younger = arena.try_take(PAGE), arena.try_take(PAGE)
        assert kept is not None
        assert younger is not None
        kept.keep()
        begun = time.monotonic()
        monkeypatch.setattr("sidecar.arena.lease.time.monotonic", lambda: begun + 299)
        kept.drop()
        monkeypatch.setattr("sidecar.arena.lease.time.monotonic", lambda: begun + 301)
        arena.sweep()
        assert (kept.live, younger.live) == (True, False)
        monkeypatch.setattr("sidecar.arena.lease.time.monotonic", lambda: begun + 600)
        arena.sweep()
        assert not kept.live
        assert arena.statistics().reclaimed_total == 2
        arena.close()

    def test_a_lease_is_kept_once_and_dropped_once(
        self, arena: Arena, caplog: pytest.LogCaptureFixture
    ) -> None:
        lease = arena.try_take(1)
        assert lease is not None
        lease.keep()
        with pytest.raises(InternalError, match="is kept already"):
            lease.keep()
        lease.drop()
        lease.drop()
        assert arena.statistics().misreleased_total == 1
        assert "once too often" in caplog.text
        lease.release()
        with pytest.raises(InternalError, match="is over"):
            lease.keep()
        assert arena.statistics().leased == 0

    def test_closing_ends_what_is_kept(self) -> None:
        arena = opened()
        lease = arena.try_take(1)
        assert lease is not None
        lease.keep()
        arena.close()
        assert not lease.live
        lease.drop()
        lease.release()
        assert arena.statistics().misreleased_total == 0

    def test_who_finds_no_room_has_what_is_kept_dropped_first(self, arena: Arena) -> None:
        kept = [arena.try_take(4 * PAGE) for _ in range(4)]
        asked: list[tuple[int, ...]] = []

        def give_way(sizes: Sequence[int]) -> None:
            asked.append(tuple(sizes))
            while kept and not arena.has_room(sizes):
                lease = kept.pop()
                assert lease is not None
                lease.drop()

        arena.when_full(give_way)
        for lease in kept:
            assert lease is not None
            lease.keep()
            lease.release()
        found = taken(arena, 4 * PAGE, PAGE)
        assert (len(kept), asked) == (2, [(4 * PAGE, PAGE)])
        more = arena.try_take(4 * PAGE)
        assert more is not None
        assert (len(kept), asked[1:]) == (1, [(4 * PAGE,)])
        for lease in (*found, more):
            lease.release()
        give_way([PAGES * PAGE])
        assert empty(arena)

    def test_what_could_never_fit_drops_nothing(self, arena: Arena) -> None:
        lease = arena.try_take(PAGE)
        assert lease is not None
        lease.keep()
        arena.when_full(lambda _: lease.drop())
        assert arena.try_take(PAGES * PAGE + 1) is None
        assert arena.try_take_all([PAGES * PAGE, 1]) is None
        assert lease.kept

    def test_looking_for_room_takes_none(self, arena: Arena) -> None:
        assert arena.has_room([8 * PAGE, 8 * PAGE])
        assert not arena.has_room([8 * PAGE, 8 * PAGE, 1])
        assert arena.slot_bytes(PAGE + 1) == 2 * PAGE
        assert empty(arena)


def past(lease: Lease) -> None:
    """Returns when the clock is past the lease's short term."""
    while time.monotonic() - lease.since <= 1e-6:
        pass


class TestOpening:
    def test_triton_and_others_find_it_by_its_name(self, arena: Arena) -> None:
        assert (SHM / arena.name).stat().st_size == arena.size == HEADER_BYTES + PAGES * PAGE

    def test_a_killed_process_s_arena_is_freed_by_the_next_of_its_name(self) -> None:
        name = f"sidecar-test-{secrets.token_hex(4)}"
        program = (
            "import sys\nfrom sidecar.arena.arena import Arena, ArenaConfig\n"
            "arena = Arena.open(ArenaConfig(65536, name=sys.argv[1]), 1 << 40)\nprint(arena.name, flush=True)\n"
            "sys.stdin.read()"
        )
        command = [sys.executable, "-c", program, name]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            left = SHM / process.stdout.readline().strip()
            Arena.open(ArenaConfig(PAGE, name=name), memory_limit()).close()
            assert left.exists()
            process.send_signal(signal.SIGKILL)
        assert left.exists()
        Arena.open(ArenaConfig(PAGE, name=name), memory_limit()).close()
        assert not left.exists()

    @pytest.mark.parametrize(
        ("asked", "free", "limit", "expected"),
        [
            pytest.param(0, 100 * GIB, 100 * GIB, 512 * MIB, id="512 MiB where there is plenty"),
            pytest.param(0, 100 * GIB, GIB, 256 * MIB, id="a quarter of the memory limit"),
            pytest.param(
                0, 64 * MIB, 100 * GIB, 32 * MIB, id="half of what is free, as in a plain container"
            ),
            pytest.param(0, 64 * MIB + 5000, 100 * GIB, 32 * MIB, id="whole slots"),
            pytest.param(0, 32 * MIB, 64 * MIB, 16 * MIB, id="the least"),
            pytest.param(GIB, GIB + HEADER_BYTES, 2 * GIB, GIB, id="as asked, though it is all there is"),
            pytest.param(70_000, GIB, GIB, 17 * PAGE, id="as asked, whole slots"),
        ],
    )
    def test_a_size_is_chosen(self, asked: int, free: int, limit: int, expected: int) -> None:
        assert expected == choose_bytes(asked, free, limit)

    @pytest.mark.parametrize(
        ("asked", "free", "limit"),
        [
            pytest.param(0, 31 * MIB, 100 * GIB, id="too little is free"),
            pytest.param(0, 100 * GIB, 63 * MIB, id="the limit is too low"),
            pytest.param(0, 0, GIB, id="nothing is free"),
            pytest.param(GIB, GIB, 100 * GIB, id="asked for more than is free with the header"),
            pytest.param(GIB, 100 * GIB, 2 * GIB - 1, id="asked for more than half of the limit"),
            pytest.param(PAGE - 1, GIB, GIB, id="asked for less than a slot"),
        ],
    )
    def test_a_size_that_cannot_be_is_refused_with_all_numbers(
        self, asked: int, free: int, limit: int
    ) -> None:
        with pytest.raises(SettingsError) as refused:
            choose_bytes(asked, free, limit)
        assert (refused.value.facts["key"], refused.value.facts["value"]) == ("arena.bytes", str(asked))
        for told in (asked, f"{free} bytes free", f"limit is {limit}", "--shm-size", "emptyDir"):
            assert str(told) in refused.value.message

    def test_a_size_beyond_this_machine_is_a_settings_error_and_leaves_nothing(self) -> None:
        name = f"sidecar-test-{secrets.token_hex(4)}"
        with pytest.raises(SettingsError, match="--shm-size"):
            Arena.open(ArenaConfig(1 << 50, name=name), memory_limit())
        assert list(SHM.glob(f"{name}-*")) == []

    def test_room_that_is_promised_and_not_there_is_an_error_and_no_bus_error(self) -> None:
        # A /dev/shm of 1 MiB in a mount namespace of its own, filled up between the look and the taking.
        program = (
            "import pathlib, sidecar.arena.arena as it\n"
            "from sidecar.errors import SettingsError\n"
            "it.free_bytes = lambda: 1 << 30\n"
            "try: it.Arena.open(it.ArenaConfig(2 << 20), 1 << 40)\n"
            "except SettingsError as error: print(error)\n"
            "print(len(list(pathlib.Path('/dev/shm').iterdir())), 'left')\n"
        )
        inside = f'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec {sys.executable} -c "$0"'
        attempt = ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/dev/shm"]
        if (
            not shutil.which("unshare")
            or subprocess.run(attempt, capture_output=True, check=False).returncode
        ):
            pytest.skip("mounting is not allowed here")
        command = ["unshare", "-m", "sh", "-c", inside, program]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert "No space left" in told
        assert "--shm-size" in told
        assert told.endswith("0 left\n")

    def test_no_place_for_shared_memory_is_a_settings_error(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr("sidecar.arena.segment.SHM", tmp_path / "none")
        with pytest.raises(SettingsError, match="No such file") as refused:
            Arena.open(ArenaConfig(PAGE), memory_limit())
        assert refused.value.facts["key"] == "arena.bytes"

    @pytest.mark.parametrize(
        "name", ["", "a/b", "-a", "A", "triton_python_backend_shm_region_1", "a" * 65, ".."]
    )
    def test_a_name_that_shm_open_or_triton_would_not_take_is_refused(self, name: str) -> None:
        with pytest.raises(SettingsError) as refused:
            ArenaConfig(name=name)
        assert refused.value.facts["key"] == "arena.name"


class TestClosing:
    def test_closing_removes_the_name_ends_leases_and_gives_nothing_out(self) -> None:
        arena = opened()
        (held,) = taken(arena, PAGE)
        view = np.frombuffer(held.view, np.uint8)
        arena.close()
        arena.close()
        assert not (SHM / arena.name).exists()
        assert arena.try_take_all([1]) is None
        assert arena.try_take(1) is None
        assert not arena.crowded
        with pytest.raises(InternalError):
            held.view  # noqa: B018 - reading it is the statement
        view[:] = 1
        held.release()
        assert (arena.statistics().leased, arena.statistics().misreleased_total) == (1, 0)


ACTIONS = st.one_of(
    st.tuples(st.just("take"), st.lists(st.integers(0, 6 * PAGE), min_size=1, max_size=3)),
    st.tuples(st.just("try"), st.integers(0, 6 * PAGE)),
    st.tuples(
        st.sampled_from(["release", "retain", "pin", "unpin", "keep", "drop", "expire"]),
        st.integers(0, 99),
    ),
)


class Play:
    """Callers of an arena, played by a list of actions, and what each may rightly have."""

    def __init__(self, arena: Arena) -> None:
        self.arena = arena
        self.freed = 0
        arena.freed = self.hear
        self.held: list[Lease] = []
        self.pinned: list[Lease] = []
        self.kept: list[Lease] = []

    def hear(self) -> None:
        self.freed += 1

    def act(self, action: str, value: int | list[int]) -> None:
        before, released = self.freed, self.arena.statistics().released_total
        if isinstance(value, list):
            self.take(value)
        elif action == "try":
            if (lease := self.arena.try_take(value)) is not None:
                self.held.append(lease)
        elif action == "expire":
            self.expire()
        elif action == "unpin" and self.pinned:
            self.pinned.pop(value % len(self.pinned)).unpin()
        elif action == "drop" and self.kept:
            self.kept.pop(value % len(self.kept)).drop()
        elif self.held:
            self.hold(action, value % len(self.held))
        assert (self.freed > before) == (self.arena.statistics().released_total > released)
        self.check()

    def take(self, sizes: list[int]) -> None:
        leases = self.arena.try_take_all(sizes)
        assert self.arena.crowded == (leases is None)
        self.held += leases or ()

    def hold(self, action: str, index: int) -> None:
        lease = self.held[index]
        match action:
            case "release":
                self.held.pop(index).release()
            case "retain" if lease.live:
                lease.retain()
                self.held.append(lease)
            case "pin" if lease.live:
                lease.pin()
                self.pinned.append(lease)
            case "keep" if lease.live and not lease.kept:
                lease.keep()
                self.kept.append(lease)

    def expire(self) -> None:
        """Everything that is out is late; what is pinned or kept must be left alone."""
        before = {lease.generation for lease in self.pinned}
        self.arena._books.sweep(float("inf"))
        assert all(lease.live for lease in self.pinned + self.kept)
        assert before == {lease.generation for lease in self.pinned}

    def check(self) -> None:
        out = {lease.generation: lease for lease in self.held + self.pinned + self.kept if lease.live}
        places = sorted((lease.offset, lease.offset + max(lease.nbytes, 1)) for lease in out.values())
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(places))
        now = self.arena.statistics()
        assert now.pinned == len({lease.generation for lease in self.pinned})
        assert now.kept == len(self.kept)
        assert now.kept_bytes == sum(self.arena.slot_bytes(lease.nbytes) for lease in self.kept)
        assert now.leased == now.taken_total - now.released_total >= len(out)
        assert now.asked_bytes <= now.leased_bytes <= now.size

    def end(self) -> None:
        for lease in self.held:
            lease.release()
        for lease in self.pinned:
            lease.unpin()
        for lease in self.kept:
            lease.drop()


@given(st.lists(ACTIONS, max_size=60), st.integers(6, 20))
@settings(deadline=None)
def test_whatever_callers_do_slots_stay_apart_and_nothing_leaks(
    actions: list[tuple[str, int | list[int]]], pages: int
) -> None:
    arena = opened(pages)
    callers = Play(arena)
    for action, value in actions:
        callers.act(action, value)
    callers.end()
    now = arena.statistics()
    assert (now.leased, now.leased_bytes, now.asked_bytes) == (0, 0, 0)
    assert (now.pinned, now.kept, now.misreleased_total) == (0, 0, 0)
    assert arena.try_take((1 << (pages.bit_length() - 1)) * PAGE) is not None
    arena.close()


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096


def test_a_hundred_thousand_takes_and_releases_leave_nothing_behind() -> None:
    arena = opened(64)
    refused = 0

    def rounds(count: int) -> None:
        """A hundred callers a round for room for a dozen, who leave in another order than they came."""
        nonlocal refused
        held: deque[tuple[Lease, ...]] = deque()
        for number in range(100 * count):
            while (leases := arena.try_take_all([PAGE * (number % 5), PAGE])) is None:
                refused += 1
                held.rotate(number % 3)
                for lease in held.popleft():
                    lease.release()
            held.append(leases)
        for leases in held:
            for lease in leases:
                lease.release()

    rounds(100)
    gc.collect()
    before, resident = arena.statistics(), resident_bytes()
    rounds(900)
    gc.collect()
    grown = resident_bytes() - resident
    assert empty(arena)
    now = asdict(arena.statistics())
    lasting = [name for name in now if not name.endswith("_total")]
    assert {name: now[name] for name in lasting} == {name: asdict(before)[name] for name in lasting}
    assert refused > 1_000
    # Where every lease is kept it is 30 MiB.
    assert grown < 4 * MIB
    arena.close()
