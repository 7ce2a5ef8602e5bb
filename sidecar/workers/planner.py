"""The plan while the server runs: it follows the budget, the settings read anew, and what is set by hand.

    the tuner     what it tries and keeps, until anything below changes
    by hand       `Diagnostics.SetThreadPlan`, until the settings say something else
    settings      `threads.*` and `workers.processes`
    the budget    what is left to the plan

Every change is told with its reason and applied at once, without a request's notice (`apply`). It decides no number
itself: `plan_threads` does; and it never touches a worker.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from sidecar.errors import SettingsError
from sidecar.media import Modality
from sidecar.workers.budget import Budget, read_budget
from sidecar.workers.plan import ThreadPlan, ThreadsConfig, plan_threads

log = logging.getLogger(__name__)

# How often the budget is looked at: a resize in place is noticed within it. A look takes 1.2 ms, off the event loop.
_LOOK_S: Final = 1.0
_MOST_CHANGES: Final = 32
_PROCESSES: Final = "workers.processes"
KEYS: Final = ("threads.image", "threads.audio", "threads.probe", "threads.express", _PROCESSES)
"""What can be set by hand, by the settings' names."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the settings ask for; see ThreadsConfig and WorkersConfig."""

    threads: ThreadsConfig
    processes: int | None = None
    pin: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """One change of the plan: when, by the clock of the wall in seconds, why, and to what."""

    at_s: float
    why: str
    plan: ThreadPlan


class Planner:
    """Holds the plan and moves it; `apply` is told of every new one. `version` counts what others than the tuner
    said.
    """

    def __init__(
        self,
        wanted: Wanted,
        budget: Budget,
        look: Callable[[], Budget] = lambda: read_budget(os.sched_getaffinity(os.getpid())),
    ) -> None:
        """Raises SettingsError for settings that make no plan."""
        self._wanted = wanted
        self._look = look
        self._by_hand: Mapping[str, int] = MappingProxyType({})
        self.budget = budget
        self.plan = _planned(wanted, budget, self._by_hand)
        self.version = 0
        self.changes: deque[Change] = deque(
            [Change(time.time(), "the server started", self.plan)], _MOST_CHANGES
        )
        self.moved = 0
        self._told = self.plan
        self.apply: Callable[[ThreadPlan], None] = lambda _plan: None

    def set(self, numbers: Mapping[str, int | None]) -> ThreadPlan:
        """Sets numbers by hand, by the settings' names; None gives a number back to the settings.

        Raises SettingsError for what cannot be; then nothing is changed.
        """
        by_hand = {**self._by_hand, **numbers}
        self._move(
            self._wanted,
            self.budget,
            {key: told for key, told in by_hand.items() if told is not None},
            "by hand",
        )
        return self.plan

    def reconfigure(self, wanted: Wanted) -> None:
        """Goes by other settings. What was set by hand before is forgotten. Raises SettingsError as `set`."""
        if wanted != self._wanted:
            self._move(wanted, self.budget, {}, "the settings changed")

    @property
    def own(self) -> ThreadPlan:
        """What the plan would be if nobody said anything."""
        processes = None if self.plan.processes else 0
        return plan_threads(ThreadsConfig(), processes, self.budget, pin=self._wanted.pin)

    def allows(self, threads: Mapping[Modality, int]) -> bool:
        """Whether these threads by modality can be."""
        try:
            _planned(self._wanted, self.budget, {**self._by_hand, **_keys(threads)})
        except SettingsError:
            return False
        return True

    def tune(self, threads: Mapping[Modality, int] | None, why: str, *, lasting: bool = True) -> None:
        """Goes by the tuner's threads by modality; None gives them back. What is not `lasting` is no change to tell of.

        Raises SettingsError as `set`.
        """
        numbers = {} if threads is None else _keys(threads)
        plan = _planned(self._wanted, self.budget, {**self._by_hand, **numbers})
        before, self.plan = self.plan, plan
        if lasting and plan != self._told:
            self._tell(why)
        if plan != before:
            self.apply(plan)

    def notice(self, budget: Budget) -> None:
        """Goes by another budget. Numbers that it does not allow any more are given back to the plan."""
        if budget == self.budget:
            return
        why = f"the budget is {budget.cores:.3g} cores and {budget.memory_bytes >> 20} MiB now"
        try:
            self._move(self._wanted, budget, self._by_hand, why)
        except SettingsError as problem:
            log.error("%s: the plan's own numbers are taken", problem.message)  # noqa: TRY400 - its text is enough
            processes = None if self.plan.processes else 0
            self._move(Wanted(ThreadsConfig(), processes, self._wanted.pin), budget, {}, why)

    async def watch(self) -> None:
        """Notices changes of the budget, until it is cancelled."""
        while True:
            await asyncio.sleep(_LOOK_S)
            try:
                self.notice(await asyncio.to_thread(self._look))
            except OSError as error:
                log.warning("the budget cannot be read: %s", error)

    def _move(self, wanted: Wanted, budget: Budget, by_hand: Mapping[str, int], why: str) -> None:
        plan = _planned(wanted, budget, by_hand)
        if bool(plan.processes) is not bool(self.plan.processes):
            raise SettingsError(
                f"`{_PROCESSES}` is {self.plan.processes} and was to become {plan.processes}: between processes and "
                "threads of the front nothing can be changed while running; restart with it",
                key=_PROCESSES,
                value=plan.processes,
                allowed="1 or more" if self.plan.processes else "0",
            )
        is_new = plan != self.plan
        self._wanted, self.budget, self._by_hand, self.plan = (
            wanted,
            budget,
            MappingProxyType(dict(by_hand)),
            plan,
        )
        self.version += 1
        if is_new or plan != self._told:
            self._tell(why)
        if is_new:
            self.apply(plan)

    def _tell(self, why: str) -> None:
        log.info("plan: %s; %s", self.plan, why)
        self._told = self.plan
        self.moved += 1
        self.changes.append(Change(time.time(), why, self.plan))


def _keys(threads: Mapping[Modality, int]) -> dict[str, int]:
    return {f"threads.{modality.value}": number for modality, number in threads.items()}


def _planned(wanted: Wanted, budget: Budget, numbers: Mapping[str, int]) -> ThreadPlan:
    threads = {key.partition(".")[2]: number for key, number in numbers.items() if key != _PROCESSES}
    return plan_threads(
        replace(wanted.threads, **threads),
        numbers.get(_PROCESSES, wanted.processes),
        budget,
        pin=wanted.pin,
    )
