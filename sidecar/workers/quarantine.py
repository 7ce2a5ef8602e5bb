"""Media that ended worker processes, remembered by content for a while and refused at the door.

Hashing costs a millisecond a megabyte, so nothing is hashed while nothing is remembered, and then only what
has the length of something remembered. It knows no asyncio and no callers.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict

from sidecar.errors import CorruptMedia
from sidecar.media import Source

# Past it the oldest are forgotten: each costs its sender two worker deaths, so thousands are an attack,
# which the restart back-off slows. Out of the air.
_MOST = 1024


class Quarantine:
    """Remembers contents for `seconds` each."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until: OrderedDict[tuple[int, bytes], float] = OrderedDict()
        self._lengths: set[int] = set()

    def __len__(self) -> int:
        return len(self._until)

    def add(self, source: Source) -> None:
        """Remembers a content from now on."""
        key = _key(source)
        self._until[key] = time.monotonic() + self._seconds
        self._until.move_to_end(key)
        if len(self._until) > _MOST:
            self._until.popitem(last=False)
        self._lengths = {length for length, _ in self._until}

    def check(self, source: Source) -> None:
        """Raises CorruptMedia for a content that is remembered."""
        if len(source.data) not in self._lengths:
            return
        key = _key(source)
        until = self._until.get(key)
        if until is None:
            return
        left = until - time.monotonic()
        if left > 0:
            raise refusal(source.label, left)
        del self._until[key]
        self._lengths = {length for length, _ in self._until}


def refusal(label: str, seconds: float) -> CorruptMedia:
    """What the sender of such a content is told."""
    return CorruptMedia(
        f"{label} ended or hung the process that decoded it, twice: it is damaged, and refused for the next "
        f"{seconds:.0f} s; save the file again with another program",
        quarantined_s=round(seconds),
    )


def _key(source: Source) -> tuple[int, bytes]:
    return len(source.data), hashlib.blake2b(source.data, digest_size=16).digest()
