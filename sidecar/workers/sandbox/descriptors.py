"""Closes whatever a worker inherited and has no use for.

What the nursery holds open (its channel to the front, the arena's file, what the front was started with) would be a way
past every later layer: they forbid opening, and these are open. The arena stays mapped without its file, and cannot be
cut short by a worker then, which would end all who look at it.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Final

_STANDARD: Final = frozenset({0, 1, 2})
_OPEN: Final = Path("/proc/self/fd")


def close_all_but(kept: Collection[int]) -> None:
    """Closes every descriptor but the three standard ones and those kept. Raises OSError where /proc does not tell."""
    for number in opened() - _STANDARD - frozenset(kept):
        try:
            os.close(number)
        except OSError:
            continue  # the listing's own


def opened() -> frozenset[int]:
    """The descriptors that are open, and that of the listing itself."""
    return frozenset(int(name) for name in os.listdir(_OPEN))  # noqa: PTH208 - names, not paths
