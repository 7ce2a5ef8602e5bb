"""Other people's rules of admission, as `Turns`, so that ours is measured beside them in the same server.

Each is the published law with its published constants, told the time by its caller. None looks at what an item
costs: they count items, or time their waits. Where a law says nothing (a hint for refused callers, memory) all of
them do the same: a short hint, and no more bytes in the queue than `MOST_BYTES`.
"""

# ruff: noqa: ARG002 - the seam names arguments that a law may have no use for

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from sidecar.media import Modality
from sidecar.stages.admit.turns import Asker, Drop, Refusal, Turns, Verdict, Work

MOST_BYTES = 256 * 2**20
"""Of encoded media in a queue: "bounded by memory only" in a container of 1 GiB."""

# None of these laws has a hint; this is the shortest that a client's own backoff would wait.
_HINT_S = 0.1


class Fifo:
    """Everybody is let in whom memory has room for, in order of arrival: what a server does by itself.

    Items of one modality never overtake each other; between modalities the one that came first goes first, if it
    may. What has begun is done to its end.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._waiting: dict[Modality, dict[Work, int]] = {modality: {} for modality in Modality}
        self._running: dict[Work, int] = {}

    def resize(self, cores: int, express: int) -> None:
        """None of these policies asks how many there are."""

    @property
    def inside(self) -> int:
        """Items in the queue and under way."""
        return len(self._running) + sum(map(len, self._waiting.values()))

    def full(self, asker: Asker, count: int, now_ns: int) -> Refusal | None:
        """Never."""
        return None

    def judge(self, works: Sequence[Work], now_ns: int) -> Verdict:
        """Refuses where the queue's bytes would pass the most; foretells nothing."""
        wait = self._bytes + sum(work.bytes for work in works)
        if self._bytes and wait > self._most_bytes:
            why = f"would make {wait} bytes wait, and {self._most_bytes} may"
            return Verdict(0.0, Refusal(why, _HINT_S))
        return Verdict(0.0)

    def join(self, work: Work, now_ns: int) -> None:
        self._waiting[work.asker.modality][work] = now_ns
        self._bytes += work.bytes

    def leave(self, work: Work, now_ns: int) -> None:
        self._take(work)

    def begin(self, now_ns: int, may: Callable[[Work], bool]) -> Work | None:
        heads = [next(iter(queue.items())) for queue in self._waiting.values() if queue]
        for work, _ in sorted(heads, key=lambda head: head[1]):
            if may(work):
                self._running[work] = self._take(work)
                return work
        return None

    def drop(self, work: Work, now_ns: int) -> Drop | None:
        """Never."""
        return None

    def ended(self, work: Work, cpu_ms: float, now_ns: int) -> None:
        del self._running[work]

    def _take(self, work: Work) -> int:
        """Takes an item out of the queue, and tells when it came."""
        self._bytes -= work.bytes
        return self._waiting[work.asker.modality].pop(work)


class FixedLimit(Fifo):
    """At most so many items inside, waiting or under way; the next is refused at once.

    What gRPC's `maximum_concurrent_rpcs`, Envoy's circuit breaker (`max_requests`) and a bounded queue have in
    common. The number is somebody's guess, whatever the items cost.
    """

    def __init__(self, limit: int = 16, most_bytes: int = MOST_BYTES) -> None:
        super().__init__(most_bytes)
        self._limit = limit

    @property
    def limit(self) -> int:
        """Items that may be inside now."""
        return self._limit

    def full(self, asker: Asker, count: int, now_ns: int) -> Refusal | None:
        """What would pass the limit is refused."""
        if self.inside + count <= self.limit:
            return None
        return Refusal(f"finds {self.inside} items inside, and {self.limit} may be", _HINT_S)


class CoDel(Fifo):
    """Drops what has waited long, while nobody had a short wait: CoDel as folly does it for requests.

    Nichols and Jacobson, Controlling Delay (RFC 8289), with the change of folly's executors/Codel: when the least
    wait of an interval passed the target, everything that waited more than twice the target is dropped when its turn
    comes, instead of one by one ever faster. folly's interval is 100 ms; its target of 5 ms would drop most of what
    stands behind a single picture here, so it is 20 ms: what waited 40 is dropped.
    """

    def __init__(
        self, target_ms: float = 20.0, interval_ms: float = 100.0, most_bytes: int = MOST_BYTES
    ) -> None:
        super().__init__(most_bytes)
        self._target_ns, self._interval_ns = int(target_ms * 1e6), int(interval_ms * 1e6)
        self._ends_ns: int | None = None
        self._least_ns = 0
        self._overloaded = False

    def drop(self, work: Work, now_ns: int) -> Drop | None:
        """STALE where it waited more than twice the target, in an overload; never an interval's first, since one
        alone proves nothing.
        """
        is_first = self._ends_ns is None or now_ns > self._ends_ns
        waited_ns = now_ns - self._waiting[work.asker.modality][work]
        too_long = self._overloaded and waited_ns > 2 * self._target_ns
        return Drop.STALE if too_long and not is_first else None

    def begin(self, now_ns: int, may: Callable[[Work], bool]) -> Work | None:
        work = super().begin(now_ns, may)
        if work is not None:
            self._saw(now_ns - self._running[work], now_ns)
        return work

    def _saw(self, waited_ns: int, now_ns: int) -> None:
        """Takes the wait of an item whose turn came, be it begun or dropped."""
        if self._ends_ns is None:
            self._ends_ns, self._least_ns = now_ns, waited_ns
        elif now_ns > self._ends_ns:
            self._overloaded = self._least_ns > self._target_ns
            self._ends_ns, self._least_ns = now_ns + self._interval_ns, waited_ns
        else:
            self._least_ns = min(self._least_ns, waited_ns)


@dataclass(slots=True)
class _Mean:
    """An exponential mean of so many samples, the plain mean while there are fewer than `warm`."""

    window: int
    warm: int = 10
    count: int = 0
    value: float = 0.0

    def add(self, sample: float) -> float:
        self.count = min(self.count + 1, self.warm + 1)
        share = 2 / (self.window + 1) if self.count > self.warm else 1 / self.count
        self.value += share * (sample - self.value)
        return self.value


@dataclass(slots=True)
class _Window:
    """Samples since the last change of the limit."""

    count: int = 0
    total_ns: int = 0
    most_inside: int = 0


@dataclass(frozen=True, slots=True)
class Gradient2Constants:
    """Netflix's defaults. Times are in seconds; `long` is samples of the long mean."""

    least: int = 20
    most: int = 200
    queue: int = 4
    smoothing: float = 0.2
    tolerance: float = 1.5
    long: int = 600
    decay: float = 0.95
    window_s: float = 1.0
    samples: int = 10


@dataclass(slots=True)
class _Entered:
    """When an item came, and how many were inside with it."""

    at_ns: int
    inside: int


@dataclass(slots=True)
class _Gradient:
    """Gradient2's state, apart from who is inside."""

    limit: float
    long: _Mean
    window: _Window = field(default_factory=_Window)
    next_ns: int = 0


class Gradient2(FixedLimit):
    """A limit on the items inside that follows the round-trip time: Gradient2 of Netflix's concurrency-limits.

    Once a window, from its mean time `short` and a long mean over windows (Gradient2Limit and WindowedLimit there):

        gradient = max(0.5, min(1, tolerance * long / short))
        limit    = (1 - smoothing) * limit + smoothing * (limit * gradient + queue), within its bounds

    The long mean shrinks faster while it is more than twice the short one, and nothing changes while less than
    half of the limit was used. A time is from being let in to the end, or to the caller's leaving.
    """

    # Shorter ones are not counted, as in WindowedLimit.
    _LEAST_NS = 100_000

    def __init__(
        self, constants: Gradient2Constants = Gradient2Constants(), most_bytes: int = MOST_BYTES
    ) -> None:
        super().__init__(constants.least, most_bytes)
        self._constants = constants
        self._state = _Gradient(constants.least, _Mean(constants.long))
        self._entered: dict[Work, _Entered] = {}

    @property
    def limit(self) -> int:
        return math.floor(self._state.limit)

    def join(self, work: Work, now_ns: int) -> None:
        super().join(work, now_ns)
        self._entered[work] = _Entered(now_ns, self.inside)

    def leave(self, work: Work, now_ns: int) -> None:
        super().leave(work, now_ns)
        self._sample(self._entered.pop(work), now_ns)

    def ended(self, work: Work, cpu_ms: float, now_ns: int) -> None:
        super().ended(work, cpu_ms, now_ns)
        self._sample(self._entered.pop(work), now_ns)

    def _sample(self, entered: _Entered, now_ns: int) -> None:
        taken_ns, state = now_ns - entered.at_ns, self._state
        if taken_ns < self._LEAST_NS:
            return
        window = state.window
        window.count += 1
        window.total_ns += taken_ns
        window.most_inside = max(window.most_inside, entered.inside)
        if now_ns > state.next_ns:
            state.next_ns = now_ns + int(self._constants.window_s * 1e9)
            state.window = _Window()
            if window.count >= self._constants.samples:
                self._update(window.total_ns / window.count, window.most_inside)

    def _update(self, short_ns: float, most_inside: int) -> None:
        constants, state = self._constants, self._state
        long_ns = state.long.add(short_ns)
        if long_ns / short_ns > 2:  # noqa: PLR2004 - the law's
            state.long.value *= constants.decay
        if most_inside < state.limit / 2:
            return
        gradient = max(0.5, min(1.0, constants.tolerance * long_ns / short_ns))
        wanted = state.limit * gradient + constants.queue
        smoothed = (1 - constants.smoothing) * state.limit + constants.smoothing * wanted
        state.limit = max(constants.least, min(constants.most, smoothed))


POLICIES: Mapping[str, Callable[[int], Turns]] = {
    "fifo": lambda _: Fifo(),
    "limit16": lambda _: FixedLimit(),
    "codel": lambda _: CoDel(),
    "gradient2": lambda _: Gradient2(),
}
"""By name: what makes the policy for so many cores. None of them asks how many there are."""

COUNT_BASED = ("limit16", "codel", "gradient2")
"""Those that somebody chose to control load with, and that know an item by its number alone."""
