"""Hedges: a call that takes long is sent a second time, elsewhere, and the first good answer is taken.

gRPC's service config has words for this (`hedgingPolicy`, gRFC A6) that Python's gRPC does not follow
(grpcio 1.85: one attempt, measured), so it is done here, by that paper's rules:

- only what is safe to repeat is sent twice, and only out of a budget, a share of all such calls;
- a push-back holds for hedges too: no second attempt while one is in force, and never for a call whose
  first attempt was answered, however it was answered;
- the retries' throttle holds for hedges too: while half of its tokens are gone, nothing is sent twice.

gRPC waits out a push-back without a word, which from outside looks like a slow answer. So the first
attempt of a call that may be hedged is made without gRPC's retries, and if it is refused, the rest of
them are handed to gRPC. Every other call, above all every call under overload, goes gRPC's own way.

What is decided here is the same for both clients, which only do as `Hedger.steps` says. No clock, no
transport: times are handed in, as seconds of any clock that never goes back.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from itertools import cycle
from typing import Any, TypeAlias, TypeVar

from inference_client.connection import RETRYABLE, THROTTLE_RATIO, THROTTLE_TOKENS, Line, Retries
from inference_client.errors import SidecarError

# What `Hedges.after` may say.
_QUANTILES: Mapping[str, float] = {"p90": 0.90, "p95": 0.95, "p98": 0.98, "p99": 0.99}
# A high percentile of fewer says little more than the largest of them. Out of the air.
_LEAST_SAMPLES = 20
# Enough that one slow answer does not move a percentile much, few enough to forget a busy hour. Out of the air.
_MOST_SAMPLES = 128
# Hedges saved up by a long good time, at most: as many as the retries have tokens.
_MOST_SAVED = 10
# Budgets are counted in whole parts of a hedge, so that 50 calls at 2 % make one, not 0.999 of one.
_PARTS = 1_000_000
# Spread of the wait before the rest of the retries where the server named none: as gRPC's own (gRFC A6).
_JITTER = (0.8, 1.2)


@dataclass(frozen=True, slots=True)
class Hedges:
    """When and where a slow call is sent a second time; see docs/client.md for which calls.

    after: a percentile of the client's own recent times, per verb and model: "p90", "p95", "p98" or "p99".
        Nothing is hedged until 20 calls of the kind have been answered. Choose what the budget can pay: "p95"
        names one call in twenty, and at one hedge in fifty calls spends them on those only a little late
        (measured with times around 11 ms and one call in 70 stuck for 300: 99th percentile 302 ms without
        hedges and at "p95", 55 at "p98", 59 at "p99"; 1500 calls, medians of three runs).
    after_s: seconds instead of a percentile. Default None.
    budget: most hedges, as a share of the calls that could be hedged: 0.02 is one in fifty. They are
        earned call by call, so the first can be sent once 1 / budget calls have been made.
    addresses: other sidecars with the same models, taken in turn. Default none: the client's own address,
        which helps against nothing but a call that hangs there.
    """

    _: KW_ONLY
    after: str = "p98"
    after_s: float | None = None
    budget: float = 0.02
    addresses: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.after not in _QUANTILES:
            raise ValueError(f"Hedges.after is one of {', '.join(_QUANTILES)}; found {self.after!r}")
        if self.after_s is not None and not 0 <= self.after_s < math.inf:
            raise ValueError(f"Hedges.after_s is in seconds, from 0; found {self.after_s}")
        if not 1 / _PARTS <= self.budget <= 1:
            raise ValueError(f"Hedges.budget is a share of the calls, above 0 to 1; found {self.budget}")
        if isinstance(self.addresses, str):
            raise ValueError(f"Hedges.addresses is a list of them; found {self.addresses!r}")  # noqa: TRY004 - as above
        object.__setattr__(self, "addresses", tuple(self.addresses))


@dataclass(frozen=True, slots=True)
class Lines:
    """A client's ways to its sidecars; all but `ordinary` serve calls that may be hedged.

    `first` is for first attempts, `rest` for the retries after them (None: there are none), `second` for hedges.
    """

    ordinary: Line
    first: Line | None = None
    rest: Line | None = None
    second: tuple[Line, ...] = ()

    @classmethod
    def of(cls, address: str, retries: Retries, hedges: Hedges | None) -> Lines:
        ordinary = Line(address, retries)
        if hedges is None:
            return cls(ordinary)
        once = replace(retries, attempts=1)
        left = retries.attempts - 1
        return cls(
            ordinary=ordinary,
            first=Line(address, once),
            rest=Line(address, replace(retries, attempts=left)) if left else None,
            second=tuple(Line(each, once) for each in hedges.addresses or (address,)),
        )

    def all(self) -> frozenset[Line]:
        return frozenset(each for each in (self.ordinary, self.first, self.rest, *self.second) if each)


@dataclass(frozen=True, slots=True)
class Send:
    """Send the call by that line, beside what is in the air; attempts are counted from 0."""

    line: Line


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait for any attempt to end, and tell which and how; None if none has by `until`."""

    until: float


@dataclass(frozen=True, slots=True)
class Pause:
    """Let the time pass."""

    until: float


Step: TypeAlias = Send | Wait | Pause


@dataclass(frozen=True, slots=True)
class Answered:
    """An attempt that ended well, and when."""

    attempt: int
    at: float
    reply: Any


@dataclass(frozen=True, slots=True)
class Failed:
    """An attempt that failed, when, and what its push-back said.

    `pushback_s`: seconds until the next attempt, infinity for never, None where nothing was said.
    """

    attempt: int
    at: float
    error: SidecarError
    pushback_s: float | None = None

    @property
    def can_mend(self) -> bool:
        """Whether the failure is one that gRPC's retries, too, take for worth another attempt."""
        return self.error.status in RETRYABLE and self.error.retryable


Ended: TypeAlias = Answered | Failed
ResultT = TypeVar("ResultT")
# What is done step by step, told how attempts ended, and gives a result.
Steps: TypeAlias = Generator[Step, Ended | None, ResultT]


@dataclass(slots=True)
class _Second:
    """A call's second attempt: where it was sent (None: it was not), and how it failed, once it has."""

    line: Line | None = None
    failed: Failed | None = None

    def note(self, error: SidecarError) -> None:
        """Tells the second attempt's failure beside the error that is raised."""
        if self.line is not None and self.failed is not None:
            also = self.failed.error
            error.add_note(
                f"A second attempt, at {self.line.address}, failed too: {also.reason}: {also.message}"
            )


class Hedger:
    """One client's hedges: which calls may be sent twice, and which are. Safe between threads."""

    def __init__(self, hedges: Hedges, lines: Lines) -> None:
        self._hedges = hedges
        self._lines = lines
        self._second = cycle(lines.second)
        self._earned = round(hedges.budget * _PARTS)
        self._saved = 0
        self._tokens = float(THROTTLE_TOKENS)
        self._quiet_until = -math.inf
        self._took: dict[tuple[str, str], deque[float]] = {}
        self._lock = threading.Lock()

    def steps(self, rpc: str, model: str, now: float, until: float, random: float) -> Steps[Any]:
        """What to do for a call that is safe to repeat, step by step; gives its reply, or raises its error.

        `until` is its deadline; `random`, between 0 and 1, spreads a wait that the server left open. Attempts
        still in the air at the end are to be cancelled.
        """
        second_from = self._arm(rpc, model, now, until)
        answered = yield from (
            self._alone(self._lines.ordinary)
            if second_from is None or self._lines.first is None
            else self._raced(self._lines.first, second_from, until, random)
        )
        self._answered(rpc, model, answered.at - now)
        return answered.reply

    def _alone(self, line: Line) -> Steps[Answered]:
        """An attempt with nothing beside it; raises its error."""
        yield Send(line)
        ended = yield from self._own_end(_Second())
        if isinstance(ended, Failed):
            raise ended.error
        return ended

    def _raced(self, first: Line, second_from: float, until: float, random: float) -> Steps[Answered]:
        """A first attempt, a second one if nothing is heard of it by `second_from`, and the rest of its retries.

        The first good answer ends it, and so does a failure at the own address that no other attempt can
        mend. Else it ends when nothing is left to hope for: with the own address's last error. How the second
        fails, or that it hangs, changes nothing for the others: its sidecar may lack the model, or be older.
        """
        yield Send(first)
        ended = yield Wait(second_from)
        second = _Second(self._take(second_from) if ended is None else None)
        if second.line is not None:
            yield Send(second.line)
        ended = yield from self._own_end(second, ended)
        if isinstance(ended, Answered):
            return ended
        rest_from = self._rest_from(ended, until, random)
        if self._lines.rest is not None and rest_from is not None:
            answered = yield from self._second_end(second, rest_from)
            if answered is not None:
                return answered
            yield Pause(rest_from)
            yield Send(self._lines.rest)
            ended = yield from self._own_end(second)
            if isinstance(ended, Answered):
                return ended
        if ended.can_mend:
            answered = yield from self._second_end(second, math.inf)
            if answered is not None:
                return answered
        second.note(ended.error)
        raise ended.error

    def _own_end(self, second: _Second, ended: Ended | None = None) -> Steps[Ended]:
        """How the own address's attempt ended, unless the second was answered well before."""
        while True:
            if ended is None:
                ended = yield Wait(math.inf)
            if isinstance(ended, Answered):
                return ended
            if ended is not None:
                is_second = second.line is not None and ended.attempt == 1
                self.count(ended, hedge=is_second)
                if not is_second:
                    return ended
                second.failed = ended
            ended = None

    def _second_end(self, second: _Second, until: float) -> Steps[Answered | None]:
        """The second attempt's good answer, if it comes by `until`."""
        if second.line is None or second.failed is not None:
            return None
        ended = yield Wait(until)
        if isinstance(ended, Failed):
            second.failed = ended
            self.count(ended, hedge=True)
            return None
        return ended

    def _rest_from(self, first: Failed, until: float, random: float) -> float | None:
        """When the rest of the retries may begin; None: never, or not before the deadline `until`."""
        if not first.can_mend:
            return None
        wait = first.pushback_s
        if wait is None:
            least, most = _JITTER
            wait = self._lines.ordinary.retries.first_backoff_s * (least + (most - least) * random)
        return first.at + wait if first.at + wait < until else None

    def _arm(self, rpc: str, model: str, now: float, until: float) -> float | None:
        """Counts a call that could be hedged, and says from when; None: go gRPC's own way."""
        with self._lock:
            self._saved = min(self._saved + self._earned, _MOST_SAVED * _PARTS)
            delay = self._hedges.after_s
            if delay is None:
                delay = self._percentile(rpc, model)
            if delay is None or now + delay >= until or not self._may_send(now):
                return None
            return now + delay

    def _take(self, now: float) -> Line | None:
        """Where to send a second attempt, which the budget has then paid; None: not now."""
        with self._lock:
            if not self._may_send(now):
                return None
            self._saved -= _PARTS
            return next(self._second)

    def _answered(self, rpc: str, model: str, took_s: float) -> None:
        with self._lock:
            self._tokens = min(self._tokens + THROTTLE_RATIO, THROTTLE_TOKENS)
            self._took.setdefault((rpc, model), deque(maxlen=_MOST_SAMPLES)).append(took_s)

    def count(self, failed: Failed, *, hedge: bool = False) -> None:
        """Counts a failure, also of a call that is not hedged.

        A hedge that failed takes a token, and so does what gRPC's retries would take one for.
        """
        with self._lock:
            if hedge or failed.can_mend or failed.pushback_s is not None:
                self._tokens = max(self._tokens - 1, 0)
            # "Never" is about that call alone.
            if failed.pushback_s is not None and failed.pushback_s < math.inf:
                self._quiet_until = max(self._quiet_until, failed.at + failed.pushback_s)

    def _may_send(self, now: float) -> bool:
        return self._saved >= _PARTS and self._tokens > THROTTLE_TOKENS / 2 and now >= self._quiet_until

    def _percentile(self, rpc: str, model: str) -> float | None:
        """By nearest rank, of the recent times of such calls."""
        took = sorted(self._took.get((rpc, model), ()))
        if len(took) < _LEAST_SAMPLES:
            return None
        return took[math.ceil(len(took) * _QUANTILES[self._hedges.after]) - 1]
