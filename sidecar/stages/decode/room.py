"""Memory that pictures are decoded into, for each thread its own: kept from one to the next, or given back.

malloc keeps or returns pages by rules of its own, and nobody can tell when. Here pages are cleared once and used
again, and a caller who is about to need as much for something else can have them back in the kernel's hands
(`ROOM.give_back`) as soon as the picture is not looked at any more. What somebody still looks at is never handed
out again and never given back: every array in the memory holds the one array that stands for it, whose
references are counted.
"""

from __future__ import annotations

import mmap
import sys
import threading
from contextlib import suppress
from typing import Final

import numpy as np
import numpy.typing as npt

_Array = npt.NDArray[np.uint8]

# A huge page of x86 and most others: what is left of a broken one is cleared 4 KiB at a time.
_AT_ONCE: Final = 2 << 20


class Room(threading.local):
    """Memory for pictures, one piece a thread. Only what was written to is ever real.

    Pages that were given back are cleared anew when they are next written to: 0.3 ms a MiB, measured between jobs.
    """

    LEAST: Final = 4 << 20
    """Bytes from which on memory is kept here; malloc keeps what is smaller."""
    MOST: Final = 64 << 20
    """Bytes that are kept, at most, of a thread: a picture of 22 MP."""

    def __init__(self) -> None:
        self._pages: mmap.mmap | None = None
        self._kept: _Array | None = None

    def take(self, size: int) -> _Array:
        """Memory of `size` bytes, uint8, not cleared, that nothing else uses as long as an array in it lives."""
        if not self.LEAST < size <= self.MOST:
            return np.empty(size, np.uint8)
        if self._kept is None:
            self._pages = mmap.mmap(-1, self.MOST, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            # As numpy asks for its own: clearing is several times faster. Kernels without it say no.
            with suppress(OSError):
                self._pages.madvise(mmap.MADV_HUGEPAGE)
            self._kept = np.frombuffer(self._pages, np.uint8)
        # Every array in it holds this one. Two references are this object's and the question itself.
        if sys.getrefcount(self._kept) > 2:  # noqa: PLR2004
            return np.empty(size, np.uint8)
        return self._kept[:size]

    def give_back(self, size: int) -> bool:
        """Returns `size` bytes of this thread's pages or a little more to the kernel, those that pictures begin in.

        False, and nothing is done, where there are none, or where an array in them lives.
        """
        if size <= 0 or self._pages is None or sys.getrefcount(self._kept) > 2:  # noqa: PLR2004 - as above
            return False
        self._pages.madvise(mmap.MADV_DONTNEED, 0, min(self.MOST, -(-size // _AT_ONCE) * _AT_ONCE))
        return True


ROOM: Final = Room()
"""What the decoders of this process use."""
