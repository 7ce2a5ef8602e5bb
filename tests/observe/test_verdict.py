"""From booked time to a verdict: what limits, how badly, and when the bell rings."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

import pytest

from sidecar.media import Modality
from sidecar.observe.starvation import Booked, Cause, State
from sidecar.observe.verdict import Bell, Finding, Level, Verdict, judge

SECOND = 1_000_000_000
HALF = SECOND // 2


def booked(
    span_ns: int = 10 * SECOND, *, causes: Mapping[Cause, float] | None = None, **shares: float
) -> Booked:
    """An interval with these parts of it in states, the rest in IDLE_DEMAND."""
    states = Counter({State(state): round(share * span_ns) for state, share in shares.items()})
    states[State.IDLE_DEMAND] += span_ns - states.total()
    starved: Counter[tuple[Cause, Modality | None]] = Counter()
    for cause, part in (causes or {}).items():
        starved[cause, Modality.IMAGE] = round(part * span_ns)
    return Booked(0, span_ns, states, starved, settled_ns=span_ns)


def in_shares(shares: Mapping[str, float], causes: Mapping[Cause, float] | None = None) -> Booked:
    made = booked(causes=causes)
    made.states = Counter({State(state): round(share * made.span_ns) for state, share in shares.items()})
    made.states[State.IDLE_DEMAND] += made.span_ns - made.states.total()
    return made


def verdict(window: Booked, latest: Booked | None = None) -> Verdict:
    return judge("model", window, latest or window, Bell())


@pytest.mark.parametrize(
    ("shares", "finding"),
    [
        ({}, Finding.NO_DEMAND),
        ({"busy": 0.03}, Finding.NO_DEMAND),
        ({"busy": 0.3, "idle_prep": 0.04}, Finding.NO_DEMAND),
        ({"busy": 0.98}, Finding.ACCELERATOR),
        ({"busy": 0.93, "idle_batch": 0.06}, Finding.ACCELERATOR),
        ({"busy": 0.5, "idle_batch": 0.4, "idle_prep": 0.1}, Finding.BATCH),
        ({"busy": 0.5, "idle_xfer": 0.4, "idle_prep": 0.1}, Finding.TRANSPORT),
        ({"busy": 0.5, "idle_prep": 0.4, "idle_xfer": 0.1}, Finding.STARVED),
        ({"busy": 0.1, "hung": 0.2, "idle_prep": 0.7}, Finding.HUNG),
        ({"busy": 0.8, "idle_batch": 0.1, "idle_prep": 0.09}, Finding.STARVED),
    ],
)
def test_what_limits_is_the_largest_wait_that_matters(shares: dict[str, float], finding: Finding) -> None:
    assert verdict(in_shares(shares)).finding is finding


@pytest.mark.parametrize(
    ("starved", "level"),
    [
        (0.0, Level.NONE),
        (0.049, Level.NONE),
        (0.05, Level.MODERATE),
        (0.199, Level.MODERATE),
        (0.2, Level.SEVERE),
    ],
)
def test_levels_are_those_of_tensorflows_analyser(starved: float, level: Level) -> None:
    assert verdict(booked(busy=0.5, idle_prep=starved)).level is level


def test_the_cause_is_the_largest_and_its_own_modality() -> None:
    window = booked(busy=0.5, idle_prep=0.5, causes={Cause.DECODE: 0.3, Cause.ADMIT: 0.1})
    window.starved[Cause.DECODE, Modality.AUDIO] = round(0.1 * window.span_ns)
    found = verdict(window)
    assert (found.cause, found.modality) == (Cause.DECODE, Modality.IMAGE)
    assert "starved 50%" in found.words
    assert "image decode" in found.words


def test_without_starvation_nothing_is_named() -> None:
    found = verdict(booked(busy=0.97, idle_prep=0.01, causes={Cause.DECODE: 0.01}))
    assert (found.cause, found.modality) == (None, None)


def test_utilisation_is_by_the_time_in_which_somebody_asked() -> None:
    assert verdict(booked(busy=0.3, idle_prep=0.1)).utilisation == pytest.approx(0.75)
    assert math.isnan(verdict(booked()).utilisation)


def test_what_has_just_begun_is_for_want_of_demand() -> None:
    assert verdict(Booked(0, 0)).finding is Finding.NO_DEMAND


@pytest.mark.parametrize("finding", list(Finding))
def test_every_finding_has_its_words(finding: Finding) -> None:
    shares = {
        Finding.NO_DEMAND: {},
        Finding.ACCELERATOR: {"busy": 1.0},
        Finding.STARVED: {"busy": 0.5, "idle_prep": 0.5},
        Finding.TRANSPORT: {"busy": 0.5, "idle_xfer": 0.5},
        Finding.BATCH: {"busy": 0.5, "idle_batch": 0.5},
        Finding.HUNG: {"hung": 1.0},
    }[finding]
    causes = {Cause.PACK: 0.5} if finding is Finding.STARVED else {}
    assert verdict(in_shares(shares, causes)).words.startswith("model: ")


class TestBell:
    """Looks half a second apart."""

    STARVED = booked(HALF, busy=0.7, idle_prep=0.3)
    WELL = booked(HALF, busy=0.98, idle_prep=0.02)

    def test_it_rings_at_the_second_look_that_finds_it_starved(self) -> None:
        bell = Bell()
        assert [bell.look(self.STARVED, now) for now in (1, 2, 3)] == [False, True, True]
        assert bell.since_ns == 2

    def test_a_single_gap_rings_nothing(self) -> None:
        bell = Bell()
        assert not any(bell.look(look, now) for now, look in enumerate([self.STARVED, self.WELL] * 5))

    def test_the_next_look_is_wanted_sooner_once_there_is_suspicion(self) -> None:
        bell = Bell()
        bell.look(self.STARVED, 1)
        assert bell.listens
        bell.look(self.STARVED, 2)
        assert not bell.listens

    def test_it_is_lowered_when_less_than_half_is_left(self) -> None:
        bell = Bell()
        looks = [self.STARVED, self.STARVED, booked(HALF, busy=0.92, idle_prep=0.08), self.WELL]
        assert [bell.look(look, now) for now, look in enumerate(looks, 1)] == [False, True, True, False]

    def test_waiting_for_transport_rings_it_too(self) -> None:
        bell, far = Bell(), booked(HALF, busy=0.5, idle_xfer=0.5)
        assert [bell.look(far, now) for now in (1, 2)] == [False, True]

    def test_a_hang_rings_at_once(self) -> None:
        assert Bell().look(booked(HALF, hung=0.1, busy=0.9), 1)

    def test_a_lack_of_demand_never_does(self) -> None:
        bell, lone = Bell(), booked(HALF, busy=0.1, idle_prep=0.3)
        assert not any(bell.look(lone, now) for now in range(10))

    def test_a_busy_accelerator_and_a_waiting_batch_never_do(self) -> None:
        bell = Bell()
        looks = [booked(HALF, busy=1.0), booked(HALF, busy=0.4, idle_batch=0.6)] * 5
        assert not any(bell.look(look, now) for now, look in enumerate(looks))
