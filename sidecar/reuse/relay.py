"""One does it, the others wait: work that several want at the same time is done by the first of them.

The doer has the baton, and ends with an outcome that all who wait are given, or without one: then the baton
goes to who has waited longest. Whatever ends a doer, it never ends who waits: not its cancellation, not its
deadline, not its refusal. Who waits may leave at any moment, and everyone waits by a deadline of their own.

A doer may have to wait itself before it begins, for what others hold. Who holds such things follows only a doer who
has begun, and is sent away rather than made to wait for one who has not: so nobody waits in a circle.

It lives on one event loop, runs no work, and knows nothing of what is done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, Self, TypeVar

from sidecar.deadline import Deadline
from sidecar.errors import DeadlineExceeded

Key = TypeVar("Key", bound=Hashable)
Outcome = TypeVar("Outcome")


@dataclass(frozen=True, slots=True)
class RelayStatistics:
    """Work under way, and callers who wait for it, now; since the start, outcomes given to who waited, and
    batons handed on because the doer had none.
    """

    under_way: int
    waiting: int
    given_total: int
    handed_on_total: int


class Baton(Generic[Outcome]):
    """The work is its holder's. A `with` block around the work hands it on when there is no outcome by its end."""

    def __init__(self, leg: _Leg[Outcome]) -> None:
        self._leg: _Leg[Outcome] | None = leg

    def begin(self) -> None:
        """Says that the doer has all it needs, and will wait for nothing that another could hold."""
        if self._leg is not None:
            self._leg.begun = True

    def finish(self, outcome: Outcome) -> None:
        """Gives the outcome to all who wait. Without effect once the baton is out of hand."""
        leg, self._leg = self._leg, None
        if leg is not None:
            leg.finish(outcome)

    def leave(self) -> None:
        """Hands the baton to who has waited longest. Without effect once it is out of hand."""
        leg, self._leg = self._leg, None
        if leg is not None:
            leg.hand_on()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()


class Relay(Generic[Key, Outcome]):
    """Work under way, by its key.

    `late` is what a caller is told whose deadline passes while it waits. `give` is called for everyone who is
    given an outcome, and `take_back` for those of them who had left by then.
    """

    def __init__(
        self,
        late: str,
        give: Callable[[Outcome], None] = lambda _: None,
        take_back: Callable[[Outcome], None] = lambda _: None,
    ) -> None:
        self._late = late
        self._give = give
        self._take_back = take_back
        self._legs: dict[Key, _Leg[Outcome]] = {}
        self._waiting = 0
        self._given_total = 0
        self._handed_on_total = 0

    def about(self, key: Key) -> bytes | None:
        """What was said of that work by who began it; None where it is not under way."""
        leg = self._legs.get(key)
        return None if leg is None else leg.about

    def try_take(self, key: Key, about: bytes = b"") -> Baton[Outcome] | None:
        """The baton, where the work is not under way."""
        if key in self._legs:
            return None
        leg = self._legs[key] = _Leg(about, partial(self._finish, key), partial(self._hand_on, key))
        return Baton(leg)

    async def join(self, key: Key, deadline: Deadline, about: bytes = b"") -> Baton[Outcome] | Outcome:
        """The baton, at once where the work is not under way; else what becomes of it, the baton or its outcome.

        Raises DeadlineExceeded when neither came in time.
        """
        baton = self.try_take(key, about)
        if baton is not None:
            return baton
        given = await self._wait(self._legs[key], deadline, heir=True)
        assert given is not None  # noqa: S101 - an heir is never sent away
        return given

    async def follow(self, key: Key, deadline: Deadline) -> Outcome | None:
        """The outcome of work that has begun; None where none has, or its doer leaves without one.

        Raises DeadlineExceeded when it did not come in time.
        """
        leg = self._legs.get(key)
        if leg is None or not leg.begun:
            return None
        given = await self._wait(leg, deadline, heir=False)
        assert not isinstance(given, Baton)  # noqa: S101 - heirs alone are handed it
        return given

    def statistics(self) -> RelayStatistics:
        """A snapshot for observers."""
        return RelayStatistics(len(self._legs), self._waiting, self._given_total, self._handed_on_total)

    async def _wait(
        self, leg: _Leg[Outcome], deadline: Deadline, *, heir: bool
    ) -> Baton[Outcome] | Outcome | None:
        deadline.check("admit")
        turn: _Turn[Outcome] = asyncio.get_running_loop().create_future()
        leg.turns[turn] = heir
        self._waiting += 1
        try:
            async with asyncio.timeout(deadline.remaining_s()):
                return await turn
        except BaseException as error:
            self._leave(leg, turn)
            if isinstance(error, TimeoutError):
                raise DeadlineExceeded(self._late, stage="admit") from None
            raise
        finally:
            self._waiting -= 1

    def _finish(self, key: Key, outcome: Outcome) -> None:
        for turn in self._legs.pop(key).turns:
            # One that is done was cancelled a moment ago, and its task did not run yet.
            if not turn.done():
                self._give(outcome)
                turn.set_result(outcome)
                self._given_total += 1

    def _hand_on(self, key: Key) -> None:
        leg = self._legs[key]
        turns = [turn for turn in leg.turns if not turn.done()]
        heirs = {turn: True for turn in turns if leg.turns[turn]}
        for turn in turns:
            if turn not in heirs:
                turn.set_result(None)
        leg.turns, leg.begun = heirs, False
        if not heirs:
            del self._legs[key]
            return
        heir = next(iter(heirs))
        del heirs[heir]
        heir.set_result(Baton(leg))
        self._handed_on_total += 1

    def _leave(self, leg: _Leg[Outcome], turn: _Turn[Outcome]) -> None:
        """Passes on what was given to a caller who just left, or takes it out of those who wait."""
        leg.turns.pop(turn, None)
        given = turn.result() if turn.done() and not turn.cancelled() else None
        if isinstance(given, Baton):
            given.leave()
        elif given is not None:
            self._take_back(given)


_Turn = asyncio.Future[Baton[Outcome] | Outcome | None]


@dataclass(eq=False, slots=True)
class _Leg(Generic[Outcome]):
    """Work under way: what was said of it, its two ends, and who waits for it, the longest first, and whether they
    would do it. `begun`: its doer waits for nothing any more.
    """

    about: bytes
    finish: Callable[[Outcome], None]
    hand_on: Callable[[], None]
    turns: dict[_Turn[Outcome], bool] = field(default_factory=dict)
    begun: bool = False
