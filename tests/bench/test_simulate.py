"""The simulator: what it must keep to, and what it says of policies."""

from __future__ import annotations

import pytest

from bench.policies import POLICIES, Fifo, FixedLimit
from bench.simulate import MIX, STUDY, Kind, Sent, ours, outcome, play, simulate
from sidecar.stages.admit.turns import Turns

pytestmark = pytest.mark.full

ONE = (Kind("only", 1.0, 10.0, 1.0),)


def fifo(_: int) -> Turns:
    return Fifo()


def ends(sent: list[Sent]) -> list[str]:
    return sorted({each.state for each in sent})


def test_a_seed_gives_the_same_again_and_another_does_not() -> None:
    first, again, other = (repr(simulate(fifo, 2.0, seed=seed, seconds=3)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_every_request_comes_to_an_end(name: str) -> None:
    assert set(ends(play(POLICIES[name], [(3.0, 3.0)]))) <= {"ended", "refused", "dropped", "left"}


def test_no_more_core_time_is_spent_than_there_is() -> None:
    sent = play(fifo, [(5.0, 4.0)])
    last_s = max(each.done_s for each in sent if each.done_s is not None)
    assert sum(each.cpu_ms for each in sent if each.state == "ended") / 1e3 <= 2 * last_s


def test_half_a_load_is_met_by_all_but_some() -> None:
    found = simulate(fifo, 0.5, seconds=10)
    assert found.met > 0.99
    assert found.goodput == pytest.approx(0.5, abs=0.1)
    assert found.broken < 0.01


def test_the_load_is_the_one_that_was_asked_for_whatever_the_error_of_the_costs() -> None:
    for sigma in (0.0, 0.5, 1.0):
        sent = play(fifo, [(60.0, 0.5)], sigma=sigma, mix=ONE)
        assert sum(each.cpu_ms for each in sent) / 1e3 / (2 * 60.0) == pytest.approx(0.5, rel=0.06)


def test_a_refused_caller_comes_back_as_often_as_it_may() -> None:
    def none(_: int) -> Turns:
        return FixedLimit(0)

    sent = play(none, [(1.0, 0.5)], mix=ONE, attempts=4)
    assert {(each.state, each.attempts) for each in sent} == {("refused", 4)}


def test_a_caller_leaves_at_its_deadline_and_its_item_costs_nothing() -> None:
    hopeless = (Kind("long", 1.0, 400.0, 0.5),)
    sent = play(fifo, [(4.0, 4.0)], mix=hopeless)
    left = [each for each in sent if each.state == "left"]
    assert left
    assert all(each.done_s is None for each in left)


def test_stretches_are_told_apart() -> None:
    sent = play(fifo, [(4.0, 0.3), (4.0, 4.0)])
    calm, storm = outcome(sent, 2, 0.0, 4.0), outcome(sent, 2, 4.0, 8.0)
    assert calm.met > 0.99
    assert storm.met < 0.7


def test_tenants_are_told_apart() -> None:
    mix = (Kind("one", 1.0, 10.0, 1.0, tenant="a"), Kind("other", 1.0, 20.0, 1.0, tenant="b"))
    found = simulate(fifo, 0.3, seconds=10, mix=mix)
    assert found.tenants["b"] > found.tenants["a"] > 0


@pytest.mark.parametrize("load", [2.0, 4.0])
@pytest.mark.parametrize("name", ["limit16", "codel", "gradient2"])
def test_who_counts_requests_serves_every_kind_alike_and_no_more_than_its_part(
    name: str, load: float
) -> None:
    found = simulate(POLICIES[name], load, seconds=10)
    assert found.met == pytest.approx(1 / load, abs=0.08)
    assert found.goodput > 0.9


def test_without_control_almost_nobody_is_served_in_time_at_twice_the_load() -> None:
    assert simulate(fifo, 2.0).met < 0.2


@pytest.mark.parametrize(("load", "work", "met"), [(2.0, 0.95, 0.90), (4.0, 0.88, 0.65)])
def test_ours_keeps_to_the_issues_bounds_before_a_server_takes_its_part(
    load: float, work: float, met: float
) -> None:
    found = simulate(ours, load)
    assert found.goodput >= work
    assert found.met >= met


def test_ours_serves_more_than_twice_as_many_as_who_counts_at_four_times_the_load() -> None:
    best = max(simulate(POLICIES[name], 4.0, seconds=10).met for name in ("limit16", "codel", "gradient2"))
    assert simulate(ours, 4.0, seconds=10).met >= 2 * best


def test_the_mixes_pull_count_and_work_apart() -> None:
    for mix in (MIX, STUDY):
        count = sum(kind.share for kind in mix[2:]) / sum(kind.share for kind in mix)
        work = sum(kind.share * kind.cpu_ms for kind in mix[2:]) / sum(
            kind.share * kind.cpu_ms for kind in mix
        )
        assert count < 0.15
        assert work > 0.5
