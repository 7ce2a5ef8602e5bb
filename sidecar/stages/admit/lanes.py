"""Who is let in, and whose turn is next: fair among tenants, then by priority, then fair among cost classes.

    tenant     the one that has used least of its share (virtual time of predicted, later real, CPU)
    priority   probe above interactive above batch, among a tenant's own
    lane       one a model and cost class: the one that has used least of its share; dear classes weigh less
    item       first come, first served

A call is let in when its last item will be done before the deadline, by what is queued ahead of it, what goes on
arriving in the other lanes, the shares, and the rate at which the machine was seen to work. What has become
hopeless by its turn is dropped instead of begun. A lane whose items wait longer than they were promised, all of
them for a while, was promised too much: until that is over its waits are foretold longer by as much.

The laws: virtual time as in start-time fair queueing (Goyal 1996) and VTC (Sheng, OSDI'24: charged by prediction,
corrected by what it took, lifted on return); feasibility as in Clockwork (Gujarati, OSDI'20); the lateness test is
CoDel's (Nichols 2012: the least of an interval), on lateness instead of delay.

Pure: told the time, and never looks at a clock, a byte or a future.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, TypeVar

from annotated_types import Ge, Gt

from sidecar.errors import SettingsError
from sidecar.media import Modality
from sidecar.stages.admit.turns import Asker, Drop, Priority, Refusal, Verdict, Work

# A class is a power of this many milliseconds of one core: up to 4, 16, 64, 256, and more.
_STEP = 4.0
CLASSES = 5
# How long the load was full before a rate is read from it, and how much of the old one stays.
_RATE_WINDOW_NS = 500_000_000
_RATE_STAYS = 0.7
# A reading is believed between these parts of the cores: a machine that is shared, and clocks that disagree.
_RATE_LEAST, _RATE_MOST = 0.2, 1.1
# Arrivals of a lane fade with this time constant.
_ARRIVALS_NS = 1_000_000_000
# CoDel's interval, and the lateness that is none.
_INTERVAL_NS = 100_000_000
_LATENESS_S = 0.05
# Work that is within so much of its deadline is begun all the same: predictions err.
_HOPE = 0.8
# How many times what is foretold nine of ten items of a class are done in: how fast that follows, and its bounds. What
# is foretold to be done at once says nothing: there a thread's waking is most of it.
_KEPT = 0.9
_MARGIN_STEP = 0.05
_MOST_MARGIN = 4.0
_LEAST_PROMISE_S = 0.02
# It fades with this time constant: a class that nobody is let into tells nothing new.
_MARGIN_NS = 2_000_000_000
# Who has work and could not begin any for so long (no slot, memory or upstream room) has no claim on what others did.
_STUCK_NS = 1_000_000_000
# Of the work under way so much is still to be done, on average.
_UNDER_WAY = 0.5
# Tenants that are told apart; callers make up their names.
_MOST_TENANTS = 1024
_OTHERS = "(others)"


@dataclass(frozen=True, slots=True)
class LanesConfig:
    """How items are let in and ordered.

    `max_queued`: items of all tenants that may wait; each tenant of those that have work has its share of them.
    `patience_s`: seconds that a call without a deadline is taken to wait at most. `small_first`: how many times the
    weight of a class of items is that of the next dearer one (up to 4, 16, 64, 256 ms of one core, and more): 1
    gives every class the same CPU time when there is too much of all, 4 about the same number of items.
    `tenants`: weights by the tenants' names; who is not named weighs 1.
    """

    max_queued: Annotated[int, Ge(1)] = 512
    patience_s: Annotated[float, Gt(0)] = 5.0
    small_first: Annotated[float, Ge(1)] = 4.0
    tenants: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, weight in self.tenants.items():
            if not (math.isfinite(weight) and weight > 0):
                raise SettingsError(
                    f"`gate.tenants.{name}` has the value {weight}: a weight is a number above 0",
                    key=f"gate.tenants.{name}",
                    value=weight,
                    allowed="above 0",
                )


@dataclass(frozen=True, slots=True)
class LaneStatistics:
    """A cost class of a modality: items that wait, milliseconds of one core that they will take, items begun."""

    queued: int
    queued_ms: float
    begun_total: int


def cost_class(cpu_ms: float) -> int:
    """The class of an item: 0 up to 4 ms of one core, 1 up to 16, and so on; CLASSES - 1 is the last."""
    if cpu_ms <= _STEP:
        return 0
    return min(CLASSES - 1, math.ceil(math.log(cpu_ms, _STEP)) - 1)


@dataclass(eq=False, slots=True)
class _Share:
    """A part in something shared fairly: `used` is virtual time, milliseconds by weight; `begun` counts what is
    under way, and `served_ns` is when something began last, or came after a pause.
    """

    weight: float
    used: float = 0.0
    begun: int = 0
    served_ns: int = 0

    def charge(self, cpu_ms: float) -> None:
        self.used += cpu_ms / self.weight

    def stuck(self, now_ns: int) -> bool:
        return not self.begun and now_ns - self.served_ns > _STUCK_NS


# Priority, model, cost class, and whether the model server gets it: what is only prepared does not wait for that.
_LaneKey = tuple[Priority, str, int, bool]


@dataclass(eq=False, slots=True)
class _Lane(_Share):
    """A tenant's items of a priority, model and cost class. `ms` is what those that wait will take;
    `arriving` milliseconds a millisecond, as of `seen_ns`.
    """

    tenant: _Tenant = field(kw_only=True)
    key: _LaneKey = field(kw_only=True)
    queue: deque[Work] = field(default_factory=deque)
    ms: float = 0.0
    arriving: float = 0.0
    seen_ns: int = 0

    def arrived(self, cpu_ms: float, now_ns: int) -> None:
        self.arriving = self.rate(now_ns) + cpu_ms * 1e6 / _ARRIVALS_NS
        self.seen_ns = now_ns

    def rate(self, now_ns: int) -> float:
        return self.arriving * math.exp(min(0, self.seen_ns - now_ns) / _ARRIVALS_NS)


@dataclass(eq=False, slots=True)
class _Tenant(_Share):
    """A tenant's lanes; `floor` is the virtual time at which its next lane begins."""

    name: str = field(kw_only=True)
    lanes: dict[_LaneKey, _Lane] = field(default_factory=dict)
    floor: float = 0.0
    queued: int = 0

    @property
    def busy(self) -> bool:
        return bool(self.queued or self.begun)


@dataclass(slots=True)
class _Lateness:
    """CoDel's test for the items of a class: the least lateness of an interval, in seconds."""

    ends_ns: int = 0
    least_s: float = math.inf
    over_s: float = 0.0

    def saw(self, late_s: float, now_ns: int) -> None:
        if now_ns >= self.ends_ns:
            found = 0.0 if math.isinf(self.least_s) else self.least_s
            self.over_s = found if found > _LATENESS_S else 0.0
            self.ends_ns, self.least_s = now_ns + _INTERVAL_NS, math.inf
        self.least_s = min(self.least_s, late_s)


@dataclass(slots=True)
class _Promises:
    """How far a class's promises are kept: the quantile of what was needed by what was foretold, as a logarithm.

    It goes up by nine tenths of a step when a promise is broken and down by one when it is kept, so that it
    stands still where nine of ten are.
    """

    level: float = 0.0
    seen_ns: int = 0

    def margin(self, now_ns: int) -> float:
        return math.exp(self._faded(now_ns))

    def saw(self, work: Work, now_ns: int) -> None:
        if work.promised_s >= _LEAST_PROMISE_S:
            broken = now_ns - work.joined_ns > work.promised_s * 1e9
            step = _MARGIN_STEP * (_KEPT if broken else _KEPT - 1)
            self.level = min(math.log(_MOST_MARGIN), max(0.0, self._faded(now_ns) + step))
            self.seen_ns = now_ns

    def _faded(self, now_ns: int) -> float:
        return self.level * math.exp((self.seen_ns - now_ns) / _MARGIN_NS)


_S = TypeVar("_S", bound=_Share)


def _by_use(shares: Iterable[_S]) -> list[_S]:
    return sorted(shares, key=lambda share: share.used)


class Lanes:
    """Turns for a machine of so many cores."""

    def __init__(self, config: LanesConfig, cores: int, express: int = 0) -> None:
        """`express`: how many items of the smallest class are done beside what the cores are shared for."""
        self._config = config
        self._cores = cores
        self._express = express
        self._tenants: dict[str, _Tenant] = {}
        self._floor = 0.0
        self._queued = 0
        self._begun_ms = 0.0
        self._begun = 0
        self._begun_total: dict[tuple[Modality, int], int] = {}
        self._late = [_Lateness() for _ in range(CLASSES)]
        self._promises = [_Promises() for _ in range(CLASSES)]
        self._rate = float(cores)
        self._full_since_ns: int | None = None
        self._full_ns = 0
        self._done_ms = 0.0

    def resize(self, cores: int, express: int) -> None:
        """What is known of the rate a core stays."""
        self._rate *= cores / self._cores
        self._cores, self._express = cores, express

    @property
    def rate(self) -> float:
        """Milliseconds of one core that are worked off in a millisecond, when there is enough to do."""
        return self._rate

    # Who is let in

    def full(self, asker: Asker, count: int, now_ns: int) -> Refusal | None:  # noqa: ARG002 - the seam's
        most = self._config.max_queued
        if count > most:
            return Refusal(
                f"brings {count} items and the queue holds `gate.max_queued` {most}: send them in several",
                None,
            )
        tenant = self._tenants.get(self._name(asker.tenant))
        part = self._part(asker.tenant)
        allowed = max(count, int(most * part))
        if tenant and tenant.queued + count > allowed:
            who = f"tenant {asker.tenant!r}" if asker.tenant else "the queue"
            return Refusal(
                f"finds {tenant.queued} items of {who} waiting, and {allowed} may (`gate.max_queued` {most})",
                self._drained_s([tenant], tenant.queued + count - allowed, part),
            )
        if self._queued + count > 2 * most:
            return Refusal(
                f"finds {self._queued} items of all tenants waiting, and {2 * most} may (twice `gate.max_queued`)",
                self._drained_s(self._tenants.values(), self._queued + count - 2 * most, 1.0),
            )
        return None

    def judge(self, works: Sequence[Work], now_ns: int) -> Verdict:
        asker = works[0].asker
        dearest = max(work.cost.cpu_ms for work in works)
        stretch = max(1.0, self._cores / self._rate)
        start_s = self._start_s(asker, works, now_ns)
        last_s = dearest * stretch / 1e3
        classes = {cost_class(work.cost.cpu_ms) for work in works}
        wait_s = (start_s + last_s) * max(self._promises[each].margin(now_ns) for each in classes)
        if asker.deadline_ns is None:
            # Patience is for others' work: what takes longer than it by itself would never be let in.
            left_s = (
                self._config.patience_s + last_s + sum(work.cost.cpu_ms for work in works) / self._rate / 1e3
            )
        else:
            left_s = (asker.deadline_ns - now_ns) / 1e9
        alone_s = self._alone_s(works)
        # Where nothing waits it will not become better: a refusal with a hint would be repeated for ever.
        idle = not self._queued and self._begun < self._cores
        if wait_s <= left_s or (idle and alone_s <= left_s):
            return Verdict(wait_s)
        if asker.deadline_ns is not None and alone_s > left_s:
            why = f"takes {alone_s:.3g} s even where nothing waits, and {max(0.0, left_s):.3g} s are left until its "
            return Verdict(wait_s, Refusal(why + "deadline: allow more time, or send less", None))
        limit = "its deadline" if asker.deadline_ns is not None else "`gate.patience_s`"
        return Verdict(
            wait_s,
            Refusal(
                f"would be done in {wait_s:.3g} s, and {limit} allows {max(0.0, left_s):.3g} s",
                wait_s - left_s,
            ),
        )

    def _alone_s(self, works: Sequence[Work]) -> float:
        """How long a call takes at least on a machine with nothing else to do, in seconds."""
        costs = [work.cost.cpu_ms for work in works]
        return _HOPE * max(*costs, sum(costs) / self._cores) / 1e3

    def _start_s(self, asker: Asker, works: Sequence[Work], now_ns: int) -> float:
        """How long until the last of a call's items begins, in seconds.

        Small ones wait for their turn among all, or for the small ones before them alone, whichever is sooner.
        """
        shared_s = self._shared_s(asker, works, now_ns)
        if not self._express or any(cost_class(work.cost.cpu_ms) for work in works):
            return shared_s
        busy = (tenant for tenant in self._tenants.values() if tenant.queued)
        queued_ms = sum(lane.ms for tenant in busy for lane in tenant.lanes.values() if not lane.key[2])
        ahead_ms = queued_ms + sum(work.cost.cpu_ms for work in works[:-1])
        return min(shared_s, ahead_ms / self._express / 1e3)

    def _shared_s(self, asker: Asker, works: Sequence[Work], now_ns: int) -> float:
        """How long it is by what the cores are shared for, in seconds."""
        lanes: dict[_LaneKey, float] = {}
        for work in works:
            key = _key(asker, work.cost.cpu_ms)
            lanes[key] = lanes.get(key, 0.0) + work.cost.cpu_ms
        last = works[-1].cost.cpu_ms
        if not self._queued:
            # Nobody waits: a free core takes it up at once.
            ahead = sum(lanes.values()) - last
            under_way = self._begun_ms * _UNDER_WAY if self._begun >= self._cores else 0.0
            return (ahead + under_way) / self._rate / 1e3
        late_s = max(self._late[key[2]].over_s for key in lanes)
        return max(self._fluid_s(asker, key, cpu_ms, now_ns) for key, cpu_ms in lanes.items()) + late_s

    def _fluid_s(self, asker: Asker, key: _LaneKey, more_ms: float, now_ns: int) -> float:
        """When `more_ms` at the end of a lane would be reached, were the work a fluid, in seconds.

        In a time t a lane f that has work all the while is given its weight's part: the lane in question, with
        B to be worked off, needs t = B / part. Another lane is given no more than what it has and what
        arrives until then: sum over f of min(B_f + a_f t, w_f B / w) = rate t, which is solved by iteration
        from below.
        """
        own_ms, own_weight, others = self._seen_from(asker, key, now_ns)
        own_ms += more_ms
        under_way = self._begun_ms * _UNDER_WAY
        until = 0.0
        for _ in range(4):
            taken = sum(
                have + arriving * until
                if weight is None
                else min(have + arriving * until, weight * own_ms / own_weight)
                for have, arriving, weight in others
            )
            until = (own_ms + under_way + taken) / self._rate
        return until / 1e3

    def _seen_from(
        self, asker: Asker, key: _LaneKey, now_ns: int
    ) -> tuple[float, float, list[tuple[float, float, float | None]]]:
        """What a lane has to be worked off, its weight, and of all others that come before it or share with it:
        milliseconds queued, arriving a millisecond, and weight; None for who goes first whatever it has.
        """
        name = self._name(asker.tenant)
        own_tenant = self._tenants.get(name)
        own = own_tenant.lanes.get(key) if own_tenant else None
        own_weight = self._config.tenants.get(name, 1.0)
        others: list[tuple[float, float, float | None]] = []
        tenants = [tenant for tenant in self._tenants.values() if tenant.queued or tenant is own_tenant]
        for tenant in tenants:
            lanes = list(tenant.lanes.values())
            if tenant is own_tenant:
                first = [lane for lane in lanes if lane.key[0] < key[0]]
                others += [(lane.ms, lane.rate(now_ns), None) for lane in first]
                lanes = [lane for lane in lanes if lane.key[0] == key[0]]
            whole = sum(lane.weight for lane in lanes if lane.queue or lane is own)
            if tenant is own_tenant:
                weight = own.weight if own else self._weight(key)
                whole += 0 if own else weight
                own_weight = tenant.weight * weight / whole
            for lane in lanes:
                if lane is not own:
                    part = lane.weight / max(whole, lane.weight)
                    others.append((lane.ms, lane.rate(now_ns), tenant.weight * part))
        return (own.ms if own else 0.0), own_weight, others

    def _drained_s(self, tenants: Iterable[_Tenant], over: int, part: float) -> float:
        """When half of what tenants have waiting will have gone, or `over` items where that is more, by their part
        of the machine; in seconds.
        """
        tenants = list(tenants)
        waiting = sum(lane.ms for tenant in tenants for lane in tenant.lanes.values())
        going = max(0.5, over / sum(tenant.queued for tenant in tenants))
        return min(1.0, going) * waiting / 1e3 / max(1e-6, self._rate * part)

    def _part(self, tenant: str) -> float:
        """A tenant's part of what is shared, among those that have work now and itself."""
        name = self._name(tenant)
        weight = self._config.tenants.get(name, 1.0)
        others = sum(one.weight for one in self._tenants.values() if one.busy and one.name != name)
        return weight / (weight + others)

    # Whose turn it is

    def join(self, work: Work, now_ns: int) -> None:
        tenant = self._tenant(work.asker.tenant)
        if not tenant.busy:
            # Who comes back has no claim on what it did not use; a debt stays.
            tenant.used = max(tenant.used, self._floor)
            tenant.served_ns = now_ns
        key = _key(work.asker, work.cost.cpu_ms)
        lane = tenant.lanes.get(key)
        if lane is None:
            lane = tenant.lanes[key] = _Lane(self._weight(key), tenant=tenant, key=key, seen_ns=now_ns)
        if not lane.queue:
            lane.used = max(lane.used, tenant.floor)
            lane.served_ns = now_ns
        work.lane = lane
        work.joined_ns = now_ns
        lane.queue.append(work)
        lane.ms += work.cost.cpu_ms
        lane.arrived(work.cost.cpu_ms, now_ns)
        tenant.queued += 1
        self._queued += 1

    def leave(self, work: Work, now_ns: int) -> None:
        lane = _lane_of(work)
        lane.queue.remove(work)
        if now_ns - work.joined_ns > work.promised_s * 1e9:
            self._promises[lane.key[2]].saw(work, now_ns)
        self._gone(lane, work)
        self._forget()

    def begin(self, now_ns: int, may: Callable[[Work], bool]) -> Work | None:
        for lane in self._in_turn():
            for work in lane.queue:
                if may(work):
                    lane.queue.remove(work)
                    self._gone(lane, work)
                    self._began(lane, work, now_ns)
                    return work
                if not work.passable:
                    break
            self._lift(lane, now_ns)
        return None

    def _lift(self, lane: _Lane, now_ns: int) -> None:
        """Takes from who is stuck the claim on what others have used meanwhile, as if it had been away."""
        if lane.stuck(now_ns):
            lane.used = max(lane.used, lane.tenant.floor)
        if lane.tenant.stuck(now_ns):
            lane.tenant.used = max(lane.tenant.used, self._floor)

    def _in_turn(self) -> Iterator[_Lane]:
        """The lanes that have work, whose turn it is first; by tenant, priority and use."""
        for tenant in _by_use(tenant for tenant in self._tenants.values() if tenant.queued):
            lanes = [lane for lane in tenant.lanes.values() if lane.queue]
            yield from sorted(lanes, key=lambda lane: (lane.key[0], lane.used))

    def _gone(self, lane: _Lane, work: Work) -> None:
        lane.ms = lane.ms - work.cost.cpu_ms if lane.queue else 0.0
        lane.tenant.queued -= 1
        self._queued -= 1

    def _began(self, lane: _Lane, work: Work, now_ns: int) -> None:
        tenant = lane.tenant
        # Who comes back begins where the last of those stands who have work and can do it (VTC's lift). Who begins
        # now may be far ahead of them, by slots that nobody else can use.
        rivals = [one for one in self._tenants.values() if one.queued and not one.stuck(now_ns)]
        self._floor = max(self._floor, min(one.used for one in (tenant, *rivals)))
        lanes = [one for one in tenant.lanes.values() if one.queue and one.key[0] == lane.key[0]]
        behind = [one.used for one in lanes if not one.stuck(now_ns)]
        tenant.floor = max(tenant.floor, min([lane.used, *behind]))
        for share in (tenant, lane):
            share.charge(work.cost.cpu_ms)
            share.begun += 1
            share.served_ns = now_ns
        work.begun_ns = now_ns
        self._begun += 1
        self._begun_ms += work.cost.cpu_ms
        kind = (work.asker.modality, lane.key[2])
        self._begun_total[kind] = self._begun_total.get(kind, 0) + 1
        waited_s = (now_ns - work.joined_ns) / 1e9
        self._late[lane.key[2]].saw(waited_s - work.promised_s, now_ns)
        if self._begun >= self._cores and self._full_since_ns is None:
            self._full_since_ns = now_ns

    def drop(self, work: Work, now_ns: int) -> Drop | None:
        deadline_ns = work.asker.deadline_ns
        if deadline_ns is not None:
            return Drop.LATE if now_ns + _HOPE * work.cost.cpu_ms * 1e6 > deadline_ns else None
        waited_s = (now_ns - work.joined_ns) / 1e9
        stale = waited_s > 2 * max(self._config.patience_s, work.promised_s)
        stale = stale and self._late[_lane_of(work).key[2]].over_s > 0
        return Drop.STALE if stale else None

    def ended(self, work: Work, cpu_ms: float, now_ns: int) -> None:
        lane = _lane_of(work)
        for share in (lane.tenant, lane):
            share.charge(cpu_ms - work.cost.cpu_ms)
            share.begun -= 1
        self._begun -= 1
        self._begun_ms = self._begun_ms - work.cost.cpu_ms if self._begun else 0.0
        self._promises[lane.key[2]].saw(work, now_ns)
        self._learn(cpu_ms, now_ns)
        self._forget()

    def _learn(self, cpu_ms: float, now_ns: int) -> None:
        """Reads the rate from what ended while all cores had work."""
        if self._full_since_ns is None:
            return
        self._done_ms += cpu_ms
        if self._begun + 1 >= self._cores and self._queued:
            self._full_ns += now_ns - self._full_since_ns
            self._full_since_ns = now_ns
        else:
            self._full_since_ns, self._full_ns, self._done_ms = None, 0, 0.0
            return
        if self._full_ns >= _RATE_WINDOW_NS:
            found = self._done_ms * 1e6 / self._full_ns
            found = min(_RATE_MOST * self._cores, max(_RATE_LEAST * self._cores, found))
            self._rate = _RATE_STAYS * self._rate + (1 - _RATE_STAYS) * found
            self._full_ns, self._done_ms = 0, 0.0

    # Books

    def _name(self, tenant: str) -> str:
        known = tenant in self._tenants or tenant in self._config.tenants
        return tenant if known or len(self._tenants) < _MOST_TENANTS else _OTHERS

    def _tenant(self, name: str) -> _Tenant:
        name = self._name(name)
        tenant = self._tenants.get(name)
        if tenant is None:
            tenant = self._tenants[name] = _Tenant(self._config.tenants.get(name, 1.0), name=name)
        return tenant

    def _weight(self, key: _LaneKey) -> float:
        return self._config.small_first ** -key[2]

    def _forget(self) -> None:
        """Lets go of tenants that have no work and no debt; the next time they begin where all do."""
        if len(self._tenants) > 1:
            for tenant in [one for one in self._tenants.values() if not one.busy and one.used <= self._floor]:
                del self._tenants[tenant.name]

    def statistics(self) -> Mapping[tuple[Modality, int], LaneStatistics]:
        """By modality and cost class, over all tenants, priorities and models."""
        queued: dict[tuple[Modality, int], tuple[int, float]] = {}
        for tenant in list(self._tenants.values()):
            for lane in list(tenant.lanes.values()):
                for work in list(lane.queue)[:1]:
                    kind = (work.asker.modality, lane.key[2])
                    count, cpu_ms = queued.get(kind, (0, 0.0))
                    queued[kind] = (count + len(lane.queue), cpu_ms + lane.ms)
        return MappingProxyType(
            {
                kind: LaneStatistics(*queued.get(kind, (0, 0.0)), self._begun_total.get(kind, 0))
                for kind in queued.keys() | self._begun_total.keys()
            }
        )

    def __repr__(self) -> str:
        return f"<Lanes {self._queued} queued, {self._begun} under way, rate {self._rate:.2f}>"


def _key(asker: Asker, cpu_ms: float) -> _LaneKey:
    return asker.priority, asker.model, cost_class(cpu_ms), asker.delivers


def _lane_of(work: Work) -> _Lane:
    assert isinstance(work.lane, _Lane)  # noqa: S101 - set by join
    return work.lane
