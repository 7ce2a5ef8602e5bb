"""How long the event loop takes for a round: what every step of a call waits for that is not its own.

A front that has too much to do is late for everybody, and its calls cannot know it: each of their steps is taken a
round after it could have been. Felt only while there are calls, at a microsecond each.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

# How much of what is felt counts; some tens of calls make a reading.
_STEP: Final = 0.05


class Rounds:
    """A running mean of an event loop's rounds. One loop's own."""

    def __init__(self) -> None:
        self._mean_ns = 0.0
        self._feeling = False

    @property
    def mean_ns(self) -> float:
        """Nanoseconds a round."""
        return self._mean_ns

    def feel(self) -> None:
        """Measures the round that has begun, when it ends."""
        if not self._feeling:
            self._feeling = True
            asyncio.get_running_loop().call_soon(self._ended, time.monotonic_ns())

    def _ended(self, begun_ns: int) -> None:
        self._feeling = False
        self._mean_ns += _STEP * (time.monotonic_ns() - begun_ns - self._mean_ns)
