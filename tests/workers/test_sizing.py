"""Cores, replicas and room follow from costs and rates by laws that can be checked by hand."""

from __future__ import annotations

import dataclasses

import pytest

from sidecar.media import Modality
from sidecar.stages.admit.gate import BARE_BYTES, FRONT_BYTES
from sidecar.workers.plan import ThreadPlan
from sidecar.workers.sizing import FRONT_USE, SHM_SPARE, USE, Demand, Stream, demand, room, split

MIB = 1 << 20
PHOTOS = Stream("clip", "1080p", Modality.IMAGE, 100.0, 8.5, MIB // 2, 6 * MIB, 600 * 1024)
PLAN = ThreadPlan(processes=2, image_threads=2, audio_threads=2, probe_threads=1, express_threads=1)


def test_demand_is_rate_times_cost_for_workers_and_front_apart() -> None:
    found = demand([PHOTOS, PHOTOS], factor=1.0)
    assert found.workers == pytest.approx(2 * 100 * 8.5e-3)
    assert found.front == pytest.approx(2 * 100 * (1.3 + 1.8 / 2) * 1e-3)


def test_a_machine_twice_as_slow_has_a_front_twice_as_slow() -> None:
    assert demand([PHOTOS], factor=2.0).front == pytest.approx(2 * demand([PHOTOS], factor=1.0).front)


def test_cores_leave_room_for_bursts() -> None:
    found = split(Demand(workers=6.0, front=0.6))
    assert (found.replicas, found.cores) == (1, 8)
    assert found.used <= USE
    assert found.headroom == pytest.approx(8 / 6.6)


def test_little_work_has_two_cores() -> None:
    assert split(Demand(workers=0.01, front=0.01)).cores == 2


@pytest.mark.parametrize(("most", "replicas", "cores"), [(4, 3, 4), (3, 4, 3), (1, 10, 1), (64, 1, 10)])
def test_replicas_have_no_more_cores_than_they_may(most: int, replicas: int, cores: int) -> None:
    found = split(Demand(workers=7.5, front=0.6), most)
    assert (found.replicas, found.cores) == (replicas, cores)
    assert found.used <= USE


def test_a_front_that_would_be_the_limit_takes_another_replica_and_bounds_the_headroom() -> None:
    found = split(Demand(workers=0.8, front=2.8))
    assert found.replicas == 4
    assert found.front_used <= FRONT_USE
    assert found.headroom == pytest.approx(4 / 2.8)


def test_the_arena_holds_what_is_under_way_and_memory_holds_all_of_it() -> None:
    found = room([PHOTOS], PLAN, replicas=1)
    slots = 3 * (MIB // 2 + MIB) + 32 * MIB
    assert found.arena >= slots
    assert found.shm == found.arena + SHM_SPARE
    assert found.memory >= FRONT_BYTES + 3 * BARE_BYTES + found.arena + 3 * 6 * MIB * 7 // 3 + 500 * MIB // 2
    assert found.memory >= 2 * found.arena


def test_larger_media_never_need_less_room() -> None:
    larger = dataclasses.replace(PHOTOS, encoded_bytes=8 * MIB, decoded_bytes=64 * MIB, tensor_bytes=9 * MIB)
    small, large = room([PHOTOS], PLAN, 1), room([PHOTOS, larger], PLAN, 1)
    assert small.arena < large.arena
    assert small.memory < large.memory


def test_more_replicas_hold_less_of_the_queue_each() -> None:
    many = dataclasses.replace(PHOTOS, rate=1e3, encoded_bytes=8 * MIB)
    assert room([many], PLAN, 100).memory < room([many], PLAN, 1).memory
