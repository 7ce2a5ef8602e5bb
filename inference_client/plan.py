"""The sidecar's thread plan as the client tells it: frozen values, and the words for people.

Nothing here knows the wire; `replies.py` fills these in.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PlanNumber:
    """One number of a plan: what it is of, by the settings' name (`threads.image`), and why it is what it is.

    `is_set`: whether somebody set it, by settings or by hand.
    """

    name: str
    number: int
    is_set: bool
    why: str


@dataclass(frozen=True, slots=True)
class BudgetBound:
    """One thing that bounds what the container may use, and how many cores or bytes it allows; the other is None."""

    what: str
    cores: float | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class PlanChange:
    """A change of the plan: seconds since then, what for, and the plan from then on, in words."""

    ago_s: float
    why: str
    plan: str


@dataclass(frozen=True, slots=True)
class ThreadPlan:
    """How many processes and threads each kind of work has. `print(plan)` tells every number with its reason.

    `bounds` are what bounds cores and memory, the tightest of either first; `changes` the last ones, the newest first.
    """

    budget_cores: float
    budget_memory_bytes: int
    numbers: tuple[PlanNumber, ...]
    bounds: tuple[BudgetBound, ...]
    changes: tuple[PlanChange, ...]

    def __getitem__(self, name: str) -> int:
        """A number by the settings' name. Raises KeyError for a name that the plan has not."""
        for each in self.numbers:
            if each.name == name:
                return each.number
        raise KeyError(name)

    def __str__(self) -> str:
        width = max((len(each.name) for each in self.numbers), default=0)
        lines = [f"{each.name:<{width}}  {each.number:>3}  {each.why}" for each in self.numbers]
        return "\n".join([f"{self.budget_cores:g} cores, {self.budget_memory_bytes >> 20} MiB", *lines])
