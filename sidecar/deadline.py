"""How long the caller will still wait.

Time is the monotonic clock in nanoseconds, which on Linux is one clock for all processes of a
machine, so a deadline can travel to a worker. A deadline decides nothing; it only answers.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from sidecar.errors import DeadlineExceeded


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point on the monotonic clock; `at_ns` None means that the caller waits for ever."""

    at_ns: int | None

    @classmethod
    def after(cls, seconds: float | None) -> Deadline:
        """The deadline `seconds` from now; None for none."""
        return cls(None if seconds is None else time.monotonic_ns() + int(seconds * 1e9))

    def remaining_s(self) -> float | None:
        """Seconds left, not below zero; None where there is no deadline."""
        if self.at_ns is None:
            return None
        return max(0.0, (self.at_ns - time.monotonic_ns()) / 1e9)

    def later(self, seconds: float) -> Deadline:
        """The deadline `seconds` after this one."""
        return self if self.at_ns is None else Deadline(self.at_ns + int(seconds * 1e9))

    @property
    def passed(self) -> bool:
        return self.at_ns is not None and time.monotonic_ns() >= self.at_ns

    def check(self, stage: str) -> None:
        """Raises DeadlineExceeded, naming `stage` as the one not begun, when the time is over."""
        if self.passed:
            raise DeadlineExceeded(
                f"the deadline passed before {stage} began; allow more time or send less at once",
                stage=stage,
            )
