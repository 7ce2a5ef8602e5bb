"""The tuner on a machine that is simulated: where it settles, how soon, and that it leaves a steady load alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from sidecar.media import Modality
from sidecar.workers.tuner import TICK_S, Kind, Move, Numbers, Sample, Tuner

IMAGE, AUDIO = Modality.IMAGE, Modality.AUDIO
TICK_NS = int(TICK_S * 1e9)
ALL = frozenset(Modality)


@dataclass
class Machine:
    """Threads that work, on cores of which the front takes a part; each thread beyond the cores costs some of it all.

    `noise` is the relative deviation of a tick's work, `mix` how much the cost of what comes wanders.
    """

    cores: float = 2.0
    front: float = 0.2
    crowding: float = 0.03
    noise: float = 0.05
    mix: float = 0.0
    quota: float | None = None
    waiting: frozenset[Modality] = ALL
    seed: int = 1
    dice: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)

    def work(self, numbers: Numbers) -> float:
        """Milliseconds of one core in a tick, without noise."""
        threads = sum(numbers[each] for each in self.waiting)
        limit = min(self.cores, self.quota or self.cores) - self.front
        over = max(0.0, threads - self.cores)
        lost: float = (1 - self.crowding) ** over
        return min(threads, limit) * lost * TICK_S * 1e3

    def sample(self, at_ns: int, numbers: Numbers) -> Sample:
        threads = sum(numbers.values())
        wanted = threads + self.front
        quota = self.quota or self.cores
        return Sample(
            at_ns,
            max(
                0.0,
                self.work(numbers)
                * self.dice.gauss(1, self.noise)
                * (1 + self.mix * self.dice.uniform(-1, 1)),
            ),
            self.waiting,
            min(1.0, wanted / quota),
            max(0.0, 1 - quota / wanted) if self.quota else 0.0,
        )


def played(
    machine: Machine,
    numbers: Numbers,
    seconds: float,
    own: Numbers,
    *,
    each: Callable[[float], None] = lambda _s: None,
    tuner: Tuner | None = None,
) -> tuple[Numbers, list[tuple[float, Move]]]:
    """The numbers in the end, and the moves with their moments."""
    tuner, moves, settled = tuner or Tuner(), [], dict(numbers)
    for tick in range(int(seconds / TICK_S)):
        each(tick * TICK_S)
        move = tuner.tick(machine.sample(tick * TICK_NS, numbers), numbers, own)
        if move is not None:
            moves.append((tick * TICK_S, move))
            numbers = move.numbers
            if move.kind is not Kind.TRIAL:
                settled = dict(move.numbers)
    return settled, moves


def kept(moves: list[tuple[float, Move]]) -> list[tuple[float, Numbers]]:
    return [(at, move.numbers) for at, move in moves if move.kind is Kind.KEPT]


OWN = {IMAGE: 2, AUDIO: 1}


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("start", [(1, 1), (4, 1), (8, 4), (3, 2)])
def test_it_settles_near_the_best_from_any_start_within_half_a_minute(
    start: tuple[int, int], seed: int
) -> None:
    machine = Machine(seed=seed, waiting=frozenset({IMAGE}), noise=0.02)
    settled, _ = played(machine, {IMAGE: start[0], AUDIO: start[1]}, 30, OWN)
    best = max(machine.work({IMAGE: image, AUDIO: 1}) for image in range(1, 9))
    assert machine.work(settled) >= 0.97 * best


@pytest.mark.parametrize("seed", range(10))
def test_a_steady_mixed_load_is_left_alone(seed: int) -> None:
    machine = Machine(seed=seed, noise=0.05, mix=0.2)
    _, moves = played(machine, OWN, 600, OWN)
    assert len(kept(moves)) <= 2


def test_a_quota_that_stops_the_container_takes_threads_at_once() -> None:
    settled, moves = played(Machine(cores=8, quota=2.0, noise=0.0), {IMAGE: 8, AUDIO: 1}, 8, OWN)
    assert kept(moves)[0][0] <= 2.0
    assert settled[IMAGE] < 8
    assert "a quota stopped the container" in moves[0][1].why


def test_where_nobody_waits_nothing_is_tried() -> None:
    _, moves = played(Machine(waiting=frozenset()), {IMAGE: 1, AUDIO: 1}, 60, OWN)
    assert moves == []


def test_a_trial_whose_callers_go_away_ends_where_it_began() -> None:
    machine = Machine(noise=0.0)

    def each(seconds: float) -> None:
        machine.waiting = ALL if seconds < 4 else frozenset()

    settled, moves = played(machine, {IMAGE: 1, AUDIO: 1}, 20, OWN, each=each)
    assert settled == {IMAGE: 1, AUDIO: 1}
    assert moves[-1][1].kind is Kind.BACK


def test_numbers_that_do_not_fit_are_not_tried() -> None:
    tuner = Tuner(lambda numbers: numbers[IMAGE] <= 1)
    _, moves = played(Machine(), {IMAGE: 1, AUDIO: 1}, 60, OWN, tuner=tuner)
    assert all(move.numbers[IMAGE] == 1 for _, move in moves)


def test_what_was_tried_in_vain_is_tried_again_ever_more_seldom() -> None:
    _, moves = played(Machine(cores=2, noise=0.01), OWN, 1200, {IMAGE: 3, AUDIO: 1})
    back = [at for at, move in moves if move.kind is Kind.BACK]
    gaps = [later - before for before, later in pairwise(back)]
    assert gaps == sorted(gaps)
    assert len(back) < 10


def test_after_a_restart_everything_may_be_tried_again() -> None:
    tuner = Tuner()
    machine = Machine(cores=2, noise=0.0)
    played(machine, OWN, 60, {IMAGE: 3, AUDIO: 1}, tuner=tuner)
    tuner.restart()
    assert not tuner.is_trying
    _, moves = played(machine, OWN, 20, {IMAGE: 3, AUDIO: 1}, tuner=tuner)
    assert moves


def test_each_decision_carries_its_evidence() -> None:
    _, moves = played(Machine(waiting=frozenset({IMAGE}), noise=0.02), {IMAGE: 1, AUDIO: 1}, 30, OWN)
    (first, *_) = [move for _, move in moves if move.kind is Kind.KEPT]
    assert "work by 3 pairs" in first.why
