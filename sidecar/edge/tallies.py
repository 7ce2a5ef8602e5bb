"""What preprocessing has done for each model since the start, as sums: for who asks in Triton's own terms.

Counted once a call, on the path's thread. It keeps no call.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from sidecar.observe.timings import Stage, Timings
from sidecar.walk import Item


@dataclass(slots=True)
class Tally:
    """Of one model: items that were made and that were not, nanoseconds of these by stage, and when the last one
    ended, in milliseconds since the epoch, 0 for never.
    """

    made: int = 0
    failed: int = 0
    stages: Counter[Stage] = field(default_factory=Counter)
    failed_ns: int = 0
    last_ms: int = 0


class Tallies:
    """Tallies by the served model's name."""

    def __init__(self) -> None:
        self._tallies: defaultdict[str, Tally] = defaultdict(Tally)

    def count(self, model: str, items: Iterable[Item], times: Timings) -> None:
        """Counts a call that ended: its items, and what receiving took."""
        tally = self._tallies[model]
        tally.stages[Stage.RECEIVE] += times.stages.get(Stage.RECEIVE, 0)
        for item in items:
            if item.times is None or item.problem is not None:
                tally.failed += 1
                tally.failed_ns += item.times.total_ns if item.times is not None else 0
                continue
            tally.made += 1
            tally.last_ms = int(time.time() * 1e3)
            tally.stages.update(item.times.stages)

    def all(self) -> Mapping[str, Tally]:
        """As they are now."""
        return self._tallies
