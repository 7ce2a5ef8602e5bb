"""The lanes keep their promises: shares, order, deadlines, hints, and books that balance; on a clock of our own."""

from __future__ import annotations

import copy
import heapq
import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sidecar.errors import SettingsError
from sidecar.media import Cost, Modality
from sidecar.stages.admit.lanes import CLASSES, Lanes, LanesConfig, cost_class
from sidecar.stages.admit.turns import Asker, Drop, Priority, Refusal, Work

MS = 1_000_000
ANYBODY = Asker(Modality.IMAGE, "model")
# A cost of each class, in milliseconds.
OF_CLASS = (2.0, 10.0, 40.0, 150.0, 400.0)


class Machine:
    """So many cores that work as the lanes say, and a clock that goes from one event to the next.

    `takes` makes of a prediction what the work really takes; both are milliseconds of one core.
    """

    def __init__(
        self, lanes: Lanes, cores: int, takes: Callable[[Work], float] = lambda work: work.cost.cpu_ms
    ) -> None:
        self.lanes = lanes
        self.cores = cores
        self.takes = takes
        self.now_ns = 0
        self.may: Callable[[Work], bool] = lambda _work: True
        self.order: list[Work] = []
        self.ended_ns: dict[Work, int] = {}
        self.done_ms: dict[str, float] = defaultdict(float)
        self._running: list[tuple[int, int, Work]] = []
        self._numbers = itertools.count()

    def send(self, asker: Asker, *costs: float) -> list[Work]:
        """A call that comes now."""
        works = queued(self.lanes, asker, *costs, now_ns=self.now_ns)
        self.begin()
        return works

    def begin(self) -> None:
        while len(self._running) < self.cores:
            if (work := self.lanes.begin(self.now_ns, self.may)) is None:
                return
            self.order.append(work)
            end_ns = self.now_ns + int(self.takes(work) * MS)
            heapq.heappush(self._running, (end_ns, next(self._numbers), work))

    def step(self) -> bool:
        """To the next end of an item; whether there was one."""
        if not self._running:
            return False
        self.now_ns, _, work = heapq.heappop(self._running)
        self.ended_ns[work] = self.now_ns
        self.done_ms[work.asker.tenant] += self.takes(work)
        self.lanes.ended(work, self.takes(work), self.now_ns)
        self.begin()
        return True

    def until(self, at_ns: int) -> None:
        while self._running and self._running[0][0] <= at_ns:
            self.step()
        self.now_ns = max(self.now_ns, at_ns)

    def drain(self) -> None:
        while self.step():
            pass

    @property
    def working(self) -> bool:
        return bool(self._running)

    def given_ms(self, before: Mapping[str, float] | None = None) -> dict[str, float]:
        """What each tenant has had of the cores by now, or since `before`, work under way included."""
        given = defaultdict(float, self.done_ms)
        for end_ns, _, work in self._running:
            given[work.asker.tenant] += self.takes(work) - (end_ns - self.now_ns) / MS
        for name, had_ms in (before or {}).items():
            given[name] -= had_ms
        return given


def call(asker: Asker, *costs: float) -> list[Work]:
    return [Work(asker, Cost(cpu_ms, 1)) for cpu_ms in costs]


def queued(lanes: Lanes, asker: Asker, *costs: float, now_ns: int = 0) -> list[Work]:
    """A call in the queue, let in whatever the lanes think of it; nothing is begun."""
    works = call(asker, *costs)
    promised_s = lanes.judge(works, now_ns).wait_s
    for work in works:
        work.promised_s = promised_s
        lanes.join(work, now_ns)
    return works


def opened(cores: int = 2, **config: object) -> Lanes:
    return Lanes(replace(LanesConfig(max_queued=100_000), **config), cores)  # type: ignore[arg-type]


def tenant(name: str, **more: object) -> Asker:
    return replace(ANYBODY, tenant=name, **more)  # type: ignore[arg-type]


def by(deadline_ns: int, asker: Asker = ANYBODY) -> Asker:
    return replace(asker, deadline_ns=deadline_ns)


COSTS = st.floats(0.5, 600.0)
WEIGHTS = st.floats(0.25, 4.0)


class TestClasses:
    @pytest.mark.parametrize(
        ("cpu_ms", "found"),
        [(0.0, 0), (4.0, 0), (4.01, 1), (16.0, 1), (64.0, 2), (64.1, 3), (256.0, 3), (256.1, 4), (1e9, 4)],
    )
    def test_a_class_ends_at_a_power_of_four(self, cpu_ms: float, found: int) -> None:
        assert cost_class(cpu_ms) == found


class TestTenants:
    @given(
        st.lists(COSTS, min_size=1, max_size=8),
        st.lists(COSTS, min_size=1, max_size=8),
        st.tuples(WEIGHTS, WEIGHTS),
        st.integers(1, 2),
        st.sampled_from([1.0, 0.25, 4.0]),
    )
    @settings(max_examples=60, deadline=None)
    def test_two_backlogged_tenants_are_never_two_of_the_largest_jobs_apart(
        self,
        ours: list[float],
        theirs: list[float],
        weights: tuple[float, float],
        cores: int,
        error: float,
    ) -> None:
        """By weight; also where one tenant's work takes a multiple of what was foretold."""
        share = {"a": weights[0], "b": weights[1]}
        takes = {"a": error, "b": 1.0}
        lanes = opened(cores, tenants=share)
        machine = Machine(lanes, cores, lambda work: work.cost.cpu_ms * takes[work.asker.tenant])
        for name, costs in (("a", ours), ("b", theirs)):
            for cpu_ms in itertools.islice(itertools.cycle(costs), 60):
                queued(lanes, tenant(name), cpu_ms)
        machine.begin()
        # While a job is under way it counts as what was foretold of it, which is all that is known: the law holds for
        # the larger of that and what it took.
        most = max(1.0, error)
        largest = max(*(cost * most / share["a"] for cost in ours), *(cost / share["b"] for cost in theirs))
        while all(lanes._tenants[name].queued for name in share):
            machine.step()
            given = machine.given_ms()
            assert abs(given["a"] / share["a"] - given["b"] / share["b"]) <= 2 * largest + 1e-3

    def test_a_tenant_who_comes_back_gets_no_more_than_its_share_from_then_on(self) -> None:
        machine = Machine(opened(1), 1)
        machine.send(tenant("away"), 10.0)
        for _ in range(200):
            machine.send(tenant("busy"), 10.0)
        machine.until(1_000 * MS)
        before = machine.given_ms()
        for _ in range(50):
            machine.send(tenant("away"), 10.0)
        machine.until(1_500 * MS)
        since = machine.given_ms(before)
        assert abs(since["away"] - since["busy"]) <= 20.0

    def test_a_tenant_who_leaves_with_a_debt_comes_back_with_it(self) -> None:
        machine = Machine(opened(1), 1, lambda work: 1_000.0 if work.asker.tenant == "dear" else 10.0)
        for _ in range(200):
            queued(machine.lanes, tenant("honest"), 10.0)
        machine.send(tenant("dear"), 5.0)
        while "dear" not in machine.done_ms:
            machine.step()
        for _ in range(5):
            machine.send(tenant("dear"), 5.0)
        before, gap = machine.now_ns, 1_000.0 - machine.done_ms["honest"]
        while machine.order[-1].asker.tenant != "dear":
            machine.step()
        assert machine.now_ns - before == pytest.approx(gap * MS, abs=20 * MS)

    def test_a_newcomer_does_not_wait_for_others_to_make_up_what_only_one_could_use(self) -> None:
        """Small items have a core that nobody else may use; who sends only such is far ahead."""
        machine = Machine(opened(2), 2)
        small: set[Work] = set()

        def may(work: Work) -> bool:
            running = {each for _, _, each in machine._running}
            return not (running & small) if work.cost.cpu_ms < 4 else len(running - small) < 1

        machine.may = may
        big = [tenant(f"big {number}") for number in range(4)]
        for _ in range(4_000):
            small.update(queued(machine.lanes, tenant("small"), 2.0))
        for asker in big * 40:
            queued(machine.lanes, asker, 20.0)
        machine.begin()
        machine.until(2_000 * MS)
        given = machine.given_ms()
        assert given["small"] > 3 * given["big 0"]
        (came,) = machine.send(tenant("newcomer"), 20.0)
        begun_by = machine.now_ns + 6 * 20 * MS
        machine.until(begun_by)
        assert came in machine.order

    def test_who_was_kept_back_by_the_model_server_does_not_make_up_for_it_afterwards(self) -> None:
        machine = Machine(opened(1), 1)
        stuck = replace(ANYBODY, model="stuck")
        machine.may = lambda work: work.asker.model != "stuck"
        for _ in range(300):
            queued(machine.lanes, replace(stuck, tenant="a"), 10.0)
            queued(machine.lanes, tenant("b"), 10.0)
            queued(machine.lanes, replace(stuck, tenant="c"), 10.0)
            queued(machine.lanes, tenant("c"), 10.0)
        machine.begin()
        machine.until(4_000 * MS)
        machine.may = lambda _work: True
        machine.step()
        before = machine.given_ms()
        machine.until(machine.now_ns + 1_200 * MS)
        since = machine.given_ms(before)
        assert max(since.values()) - min(since.values()) <= 200.0
        models = Counter(work.asker.model for work in machine.order[-60:] if work.asker.tenant == "c")
        assert abs(models["model"] - models["stuck"]) <= 2

    @given(st.lists(st.text(max_size=4), min_size=1, max_size=4))
    @settings(max_examples=5, deadline=None)
    def test_made_up_names_do_not_grow_the_books(self, seeds: list[str]) -> None:
        lanes, held = opened(), []
        for number in range(3_000):
            queued(lanes, tenant(f"{seeds[number % len(seeds)]}{number}"), 5.0, now_ns=number)
            if number % 3 and (begun := lanes.begin(number, lambda _work: True)):
                held.append(begun)
        assert len(lanes._tenants) <= 1_025
        while rest := lanes.begin(3_000, lambda _work: True):
            held.append(rest)
        for work in held:
            lanes.ended(work, 5.0, 3_000)
        assert len(lanes._tenants) <= 1

    @pytest.mark.parametrize("weight", [0.0, -1.0, math.inf, math.nan])
    def test_a_weight_that_is_none_is_a_settings_error(self, weight: float) -> None:
        with pytest.raises(SettingsError, match=r"`gate\.tenants\.a`"):
            LanesConfig(tenants={"a": weight})


class TestOrder:
    @given(st.lists(st.tuples(st.sampled_from(Priority), COSTS), min_size=1, max_size=40))
    @settings(deadline=None)
    def test_nothing_of_a_tenant_begins_while_something_more_urgent_of_it_waits(
        self, items: list[tuple[Priority, float]]
    ) -> None:
        machine = Machine(opened(1), 1)
        for priority, cpu_ms in items:
            queued(machine.lanes, replace(ANYBODY, priority=priority), cpu_ms)
        machine.begin()
        machine.drain()
        order = [work.asker.priority for work in machine.order]
        assert order == sorted(order)
        assert len(order) == len(items)

    def test_a_tenants_urgent_work_does_not_go_before_other_tenants(self) -> None:
        machine = Machine(opened(1), 1)
        for _ in range(50):
            queued(machine.lanes, tenant("pushy", priority=Priority.PROBE), 10.0)
            queued(machine.lanes, tenant("patient", priority=Priority.BATCH), 10.0)
        machine.begin()
        machine.until(500 * MS)
        given = machine.given_ms()
        assert abs(given["pushy"] - given["patient"]) <= 20.0

    def test_items_of_a_class_are_first_come_first_served(self) -> None:
        machine = Machine(opened(2), 2)
        sent = [
            work for cpu_ms in (40.0, 20.0, 60.0, 30.0) for work in queued(machine.lanes, ANYBODY, cpu_ms)
        ]
        machine.begin()
        machine.drain()
        assert machine.order == sent

    @given(st.floats(1.0, 8.0))
    @settings(max_examples=10, deadline=None)
    def test_when_there_is_too_much_of_all_classes_each_gets_its_weight_of_the_cpu(
        self, first: float
    ) -> None:
        machine = Machine(opened(2, small_first=first), 2)
        for number, cpu_ms in enumerate(OF_CLASS[:4]):
            for _ in range(int(10_000 / first**number / cpu_ms) + 20):
                queued(machine.lanes, ANYBODY, cpu_ms)
        machine.begin()
        machine.until(4_000 * MS)
        given: dict[int, float] = defaultdict(float)
        for work in machine.order:
            given[cost_class(work.cost.cpu_ms)] += work.cost.cpu_ms
        whole = sum(first**-number for number in range(4))
        for number in range(4):
            fair = 8_000 * first**-number / whole
            assert given[number] == pytest.approx(fair, abs=4 * max(OF_CLASS[:4]))

    @given(
        st.integers(0, CLASSES - 1),
        st.floats(1.0, 4.0),
        st.lists(st.sampled_from(OF_CLASS), min_size=1, max_size=5),
    )
    @settings(max_examples=15, deadline=None)
    def test_nothing_waits_for_ever_however_much_of_all_else_keeps_coming(
        self, which: int, first: float, flood: list[float]
    ) -> None:
        machine = Machine(opened(2, small_first=first), 2)
        endless = itertools.cycle(flood)
        for _ in range(100):
            queued(machine.lanes, ANYBODY, next(endless))
        machine.begin()
        machine.until(90 * MS)
        ahead = list(machine.lanes._tenants[""].lanes.values())
        key = (Priority.INTERACTIVE, "model", which, False)
        ahead_ms = sum(lane.ms for lane in ahead if lane.key == key)
        (ours,) = queued(machine.lanes, ANYBODY, OF_CLASS[which], now_ns=machine.now_ns)
        share = first**-which / sum(first**-number for number in range(CLASSES))
        bound_ms = (ahead_ms + OF_CLASS[which]) / (2 * share) + 2 * max(OF_CLASS) / share
        end_ns = machine.now_ns + int(bound_ms * MS)
        while machine.now_ns < end_ns and ours not in machine.order:
            machine.send(ANYBODY, next(endless))
            machine.step()
        assert ours in machine.order

    def test_an_item_that_may_not_begin_keeps_those_behind_it_unless_they_may_pass_it(self) -> None:
        lanes = opened()
        first, second = call(ANYBODY, 40.0, 40.0)
        for work in (first, second):
            lanes.join(work, 0)
        assert lanes.begin(0, lambda work: work is second) is None
        first.passable = True
        assert lanes.begin(0, lambda work: work is second) is second
        first.passable = False
        assert lanes.begin(0, lambda _work: True) is first


class TestDeadlines:
    @given(
        st.lists(
            st.tuples(st.floats(0, 12.0), st.floats(4.5, 16.0), st.floats(5.0, 150.0)),
            min_size=1,
            max_size=60,
        ),
        st.integers(1, 3),
    )
    @settings(max_examples=60, deadline=None)
    def test_who_is_let_in_is_done_in_time_and_who_is_refused_would_not_have_been(
        self, arrivals: list[tuple[float, float, float]], cores: int
    ) -> None:
        """Predictions are exact, there is one class, and one of its jobs is the tolerance."""
        tolerance_ns = 16 * MS
        machine = Machine(opened(cores), cores)
        admitted: list[Work] = []
        for gap_ms, cpu_ms, left_ms in arrivals:
            machine.until(machine.now_ns + int(gap_ms * MS))
            asker = by(machine.now_ns + int(left_ms * MS))
            deadline_ns = asker.deadline_ns or 0
            if machine.lanes.judge(call(asker, cpu_ms), machine.now_ns).refusal is None:
                admitted += machine.send(asker, cpu_ms)
            else:
                forced = copy.deepcopy(machine)
                (work,) = forced.send(asker, cpu_ms)
                forced.drain()
                assert forced.ended_ns[work] >= deadline_ns - tolerance_ns
        machine.drain()
        for work in admitted:
            assert machine.ended_ns[work] <= (work.asker.deadline_ns or 0) + tolerance_ns

    @given(
        st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), COSTS), min_size=10, max_size=80),
        COSTS,
        st.floats(0.02, 2.0),
        st.booleans(),
    )
    @settings(max_examples=60, deadline=None)
    def test_hints_end_with_the_backlog(
        self, backlog: list[tuple[str, float]], cpu_ms: float, left_s: float, small_queue: bool
    ) -> None:
        """Nothing else comes meanwhile. A hint counts on more arrivals, but on an idle machine none is given."""
        machine = Machine(opened(2, max_queued=len(backlog) // 2 if small_queue else 1_000), 2)
        for name, each in backlog:
            queued(machine.lanes, tenant(name), each)
        machine.begin()
        while machine.working:
            refusal = refusal_of(machine, cpu_ms, left_s)
            if refusal is None or refusal.retry_after_s is None:
                return
            machine.until(machine.now_ns + int(max(0.02, refusal.retry_after_s) * 1e9))
        refusal = refusal_of(machine, cpu_ms, left_s)
        assert refusal is None or refusal.retry_after_s is None

    @given(st.lists(st.floats(4.5, 16.0), min_size=20, max_size=100), st.floats(0.05, 0.2))
    @settings(max_examples=30, deadline=None)
    def test_after_the_hinted_time_the_same_call_is_let_in(self, backlog: list[float], left_s: float) -> None:
        """Nothing else comes meanwhile, and no job is long; one job is the tolerance."""
        machine = Machine(opened(2), 2)
        queued(machine.lanes, tenant("a"), *backlog)
        machine.begin()
        refusal = refusal_of(machine, 10.0, left_s)
        if refusal is not None:
            assert refusal.retry_after_s is not None
            machine.until(machine.now_ns + int(refusal.retry_after_s * 1e9) + 16 * MS)
            assert refusal_of(machine, 10.0, left_s) is None

    def test_on_an_idle_machine_nobody_is_told_to_come_back(self) -> None:
        """It would never become better; what may just not be done is tried, and what cannot be is told so."""
        lanes = Lanes(LanesConfig(), 2)
        for promises in lanes._promises:
            promises.level = math.log(2.0)
        lanes._rate = 0.5
        assert lanes.judge(call(by(1_000 * MS), 900.0), 0).refusal is None
        assert lanes.judge(call(by(1_000 * MS), 1_200.0), 0).refusal is None
        refusal = lanes.judge(call(by(1_000 * MS), 1_300.0), 0).refusal
        assert refusal is not None
        assert refusal.retry_after_s is None
        assert "even where nothing waits" in refusal.why

    def test_a_call_without_a_deadline_that_takes_longer_than_patience_is_let_in_where_it_need_not_wait(
        self,
    ) -> None:
        lanes = opened(patience_s=1.0)
        long = call(ANYBODY, *[400.0] * 64)
        assert lanes.judge(long, 0).refusal is None
        machine = Machine(lanes, 2)
        machine.send(ANYBODY, *[400.0] * 8)
        refusal = lanes.judge(long, 0).refusal
        assert refusal is not None
        assert "`gate.patience_s`" in refusal.why
        assert refusal.retry_after_s == pytest.approx(0.6, abs=0.4)

    @given(WEIGHTS)
    def test_a_tenants_weight_counts_from_its_first_call(self, weight: float) -> None:
        """What it is promised as a stranger is what it is promised once it is known."""
        machine = Machine(opened(2, tenants={"ours": weight}), 2)
        for _ in range(40):
            queued(machine.lanes, tenant("theirs"), 40.0)
        machine.begin()
        stranger = machine.lanes.judge(call(tenant("ours"), *[40.0] * 10), 0).wait_s
        machine.lanes._tenant("ours")
        assert machine.lanes.judge(call(tenant("ours"), *[40.0] * 10), 0).wait_s == pytest.approx(stranger)

    def test_the_promise_counts_the_share_not_the_whole_backlog(self) -> None:
        machine = Machine(opened(2), 2)
        for _ in range(50):
            queued(machine.lanes, ANYBODY, 400.0)
        machine.begin()
        small = machine.lanes.judge(call(ANYBODY, 2.0), 0).wait_s
        dear = machine.lanes.judge(call(ANYBODY, 400.0), 0).wait_s
        assert small < 0.5
        assert dear > 5.0

    def test_a_small_item_with_a_worker_of_its_own_is_not_promised_what_large_ones_will_take(self) -> None:
        shared, express = Lanes(LanesConfig(), 2), Lanes(LanesConfig(), 2, 1)
        for lanes in (shared, express):
            for work in queued(lanes, ANYBODY, *[160.0] * 4):
                assert lanes.begin(0, lambda one, this=work: one is this) is work  # type: ignore[misc]
            queued(lanes, ANYBODY, 160.0)
        small = by(int(0.02e9))
        assert shared.judge(call(small, 2.0), 0).refusal is not None
        assert express.judge(call(small, 2.0), 0).refusal is None
        assert express.judge(call(small, 8.0), 0).refusal is not None

    def test_small_items_wait_for_the_small_ones_before_them(self) -> None:
        lanes = Lanes(LanesConfig(), 2, 1)
        queued(lanes, ANYBODY, *[160.0] * 8)
        waiting = queued(lanes, ANYBODY, *[2.0] * 50)
        assert lanes.judge(call(by(int(0.04e9)), 2.0), 0).refusal is not None
        for work in waiting[:40]:
            lanes.leave(work, 0)
        assert lanes.judge(call(by(int(0.04e9)), 2.0), 0).refusal is None

    def test_what_cannot_be_done_in_time_any_more_is_dropped_at_its_turn(self) -> None:
        lanes = opened(1)
        (work,) = call(by(100 * MS), 50.0)
        lanes.join(work, 0)
        assert lanes.drop(work, 0) is None
        assert lanes.drop(work, 60 * MS) is None
        assert lanes.drop(work, 61 * MS) is Drop.LATE

    def test_what_waits_far_longer_than_foretold_is_dropped_while_all_of_its_class_do(self) -> None:
        machine = Machine(opened(1, patience_s=0.1), 1, lambda _work: 100.0)
        stale = [work for _ in range(40) for work in queued(machine.lanes, ANYBODY, 5.0)]
        machine.begin()
        machine.until(1_000 * MS)
        assert machine.lanes.drop(stale[-1], machine.now_ns) is Drop.STALE
        (fresh,) = queued(machine.lanes, ANYBODY, 5.0, now_ns=machine.now_ns)
        assert machine.lanes.drop(fresh, machine.now_ns) is None
        (promised,) = queued(machine.lanes, ANYBODY, 5.0)
        promised.promised_s, promised.joined_ns = 2.0, 0
        assert machine.lanes.drop(promised, machine.now_ns) is None

    def test_the_rate_follows_what_the_machine_really_does(self) -> None:
        """Twice as much time passes as the cores' own clocks count: half of the machine is somebody else's."""
        machine = Machine(opened(2), 2, lambda _work: 20.0)
        ended = machine.lanes.ended
        machine.lanes.ended = lambda work, cpu_ms, now_ns: ended(work, cpu_ms / 2, now_ns)  # type: ignore[method-assign]
        for _ in range(2_000):
            queued(machine.lanes, ANYBODY, 10.0)
        machine.begin()
        machine.until(8_000 * MS)
        assert machine.lanes.rate == pytest.approx(1.0, rel=0.05)


def refusal_of(machine: Machine, cpu_ms: float, left_s: float) -> Refusal | None:
    asker = by(machine.now_ns + int(left_s * 1e9), tenant("a"))
    full = machine.lanes.full(asker, 1, machine.now_ns)
    return full or machine.lanes.judge(call(asker, cpu_ms), machine.now_ns).refusal


class TestFullness:
    def test_more_items_than_the_queue_may_hold_are_refused_for_good(self) -> None:
        refusal = opened(max_queued=3).full(ANYBODY, 4, 0)
        assert refusal is not None
        assert refusal.retry_after_s is None
        assert "`gate.max_queued` 3" in refusal.why

    def test_a_tenants_own_flood_leaves_the_others_their_part(self) -> None:
        lanes = opened(max_queued=10)
        for work in call(tenant("noisy"), *[5.0] * 10):
            lanes.join(work, 0)
        refusal = lanes.full(tenant("noisy"), 1, 0)
        assert refusal is not None
        assert "10 items of tenant 'noisy' waiting, and 10 may" in refusal.why
        assert lanes.full(tenant("quiet"), 5, 0) is None

    def test_names_that_are_made_up_fill_it_twice_at_most(self) -> None:
        lanes = opened(max_queued=10)
        count = 0
        while (refusal := lanes.full(tenant(f"agent {count}"), 1, 0)) is None:
            queued(lanes, tenant(f"agent {count}"), 5.0)
            count += 1
        assert count == 20
        assert "20 items of all tenants waiting, and 20 may" in refusal.why
        assert refusal.retry_after_s is not None
        assert refusal.retry_after_s > 0.02

    def test_the_hint_grows_with_what_is_to_be_done(self) -> None:
        hints = []
        for cpu_ms in (5.0, 50.0, 500.0):
            lanes = opened(max_queued=4)
            for work in call(ANYBODY, *[cpu_ms] * 4):
                lanes.join(work, 0)
            refusal = lanes.full(ANYBODY, 1, 0)
            assert refusal is not None
            hints.append(refusal.retry_after_s)
        assert hints == pytest.approx([0.005, 0.05, 0.5])


class Books(RuleBasedStateMachine):
    """Whatever callers and workers do, in whatever order, the lanes know what waits and what runs."""

    @initialize(cores=st.integers(1, 4))
    def begin_with(self, cores: int) -> None:
        self.lanes = Lanes(LanesConfig(max_queued=20, tenants={"b": 3.0}), cores)
        self.now_ns = 0
        self.waiting: list[Work] = []
        self.running: list[Work] = []
        self.begun: Counter[tuple[Modality, int]] = Counter()

    @rule(
        name=st.sampled_from("abc"),
        priority=st.sampled_from(Priority),
        modality=st.sampled_from(Modality),
        costs=st.lists(COSTS, min_size=1, max_size=4),
        left_ms=st.none() | st.integers(-10, 3_000),
    )
    def ask(
        self, name: str, priority: Priority, modality: Modality, costs: list[float], left_ms: int | None
    ) -> None:
        deadline_ns = None if left_ms is None else self.now_ns + left_ms * MS
        asker = Asker(modality, modality.value, name, priority, deadline_ns)
        works = call(asker, *costs)
        before = state(self.lanes)
        verdict = self.lanes.judge(works, self.now_ns)
        full = self.lanes.full(asker, len(works), self.now_ns)
        assert state(self.lanes) == before
        assert math.isfinite(verdict.wait_s)
        assert verdict.wait_s > 0
        for refusal in (full, verdict.refusal):
            hint = refusal.retry_after_s if refusal else None
            assert hint is None or (math.isfinite(hint) and hint > 0)
        if full is None and verdict.refusal is None:
            for work in works:
                self.lanes.join(work, self.now_ns)
            self.waiting += works

    @precondition(lambda self: self.waiting)
    @rule(which=st.integers(0, 999))
    def leave(self, which: int) -> None:
        self.lanes.leave(self.waiting.pop(which % len(self.waiting)), self.now_ns)

    @rule(picky=st.integers(1, 4), passable=st.booleans())
    def begin_one(self, picky: int, passable: bool) -> None:
        chosen = {work for number, work in enumerate(self.waiting) if number % picky == 0}
        for work in self.waiting:
            work.passable = passable
        first = self.lanes.begin(self.now_ns, lambda one: one in chosen)
        if first is None:
            assert not (chosen and (passable or picky == 1))
            return
        assert first in chosen
        self.waiting.remove(first)
        self.running.append(first)
        self.begun[first.asker.modality, cost_class(first.cost.cpu_ms)] += 1

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 999), took=st.sampled_from([0.0, 0.5, 1.0, 5.0]))
    def end_one(self, which: int, took: float) -> None:
        work = self.running.pop(which % len(self.running))
        self.lanes.ended(work, work.cost.cpu_ms * took, self.now_ns)

    @rule(ms=st.sampled_from([0, 1, 30, 700, 5_000]))
    def wait(self, ms: int) -> None:
        self.now_ns += ms * MS

    @invariant()
    def balances(self) -> None:
        if not hasattr(self, "lanes"):
            return
        expected: dict[tuple[Modality, int], list[float]] = defaultdict(list)
        for work in self.waiting:
            expected[work.asker.modality, cost_class(work.cost.cpu_ms)].append(work.cost.cpu_ms)
        for kind, now in self.lanes.statistics().items():
            assert now.queued == len(expected[kind])
            assert now.queued_ms == pytest.approx(sum(expected[kind]), abs=1e-6)
            assert now.begun_total == self.begun[kind]
        assert f"{len(self.waiting)} queued, {len(self.running)} under way" in repr(self.lanes)
        assert self.lanes._begun_ms == pytest.approx(sum(work.cost.cpu_ms for work in self.running), abs=1e-6)
        assert 0 < self.lanes.rate <= 1.1 * self.lanes._cores

    def teardown(self) -> None:
        if not hasattr(self, "lanes"):
            return
        for work in self.waiting:
            self.lanes.leave(work, self.now_ns)
        for work in self.running:
            self.lanes.ended(work, 0.0, self.now_ns)
        assert all(not now.queued for now in self.lanes.statistics().values())
        assert not any(one.busy for one in self.lanes._tenants.values())
        assert "0 queued, 0 under way" in repr(self.lanes)


def state(lanes: Lanes) -> object:
    """All that the lanes know, as values."""
    plain = {
        name: copy.copy(value) for name, value in vars(lanes).items() if name not in {"_tenants", "_late"}
    }
    late = [(late.ends_ns, late.least_s, late.over_s) for late in lanes._late]
    books = [
        (
            one.name,
            one.used,
            one.floor,
            one.queued,
            one.begun,
            [lane_state(lane) for lane in one.lanes.values()],
        )
        for one in lanes._tenants.values()
    ]
    return plain, late, books


def lane_state(lane: object) -> Sequence[object]:
    names = ("key", "used", "ms", "arriving", "seen_ns", "begun")
    return [*(getattr(lane, name) for name in names), list(getattr(lane, "queue"))]  # noqa: B009 - any lane


Books.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestBooks = Books.TestCase
