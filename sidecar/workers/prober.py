"""Where headers are read: in the front process, before anything is decided about an item.

A picture's header takes less time than waking a thread, so it is read at once; what may take longer, sounds
and very long files, is read on threads. It never decodes.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

from sidecar.media import MediaInfo, Source
from sidecar.observe.timings import Mark, Stage
from sidecar.stages.admit.formats import FormatsConfig
from sidecar.stages.probe import IMAGE_FORMATS, probe, sniff

# Reading a picture's header takes 30 to 100 µs, and counting the scans of a progressive JPEG 0.3 ms a
# megabyte; a thread costs 150 µs of waking and waiting.
_AT_ONCE_BYTES = 4 << 20


class Prober:
    """Reads headers, at most `threads` of them at once beside the event loop's own.

    `formats` are those whose headers are read at all; another value counts from the next item on.
    """

    def __init__(self, threads: int, formats: FormatsConfig | None = None) -> None:
        self.formats = formats or FormatsConfig()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="probe")

    async def probe(self, source: Source) -> tuple[MediaInfo, Mark]:
        """A source's facts, and when they were read, without the wait for a thread.

        Raises only UnsupportedMedia and CorruptMedia.
        """
        name = sniff(source)
        self.formats.check(name, source.label)
        if len(source.data) <= _AT_ONCE_BYTES and name in IMAGE_FORMATS:
            return _timed(source)
        return await asyncio.get_running_loop().run_in_executor(self._pool, _timed, source)

    def resize(self, threads: int) -> None:
        """Reads so many at once from now on; what has begun goes on."""
        self._pool.shutdown(wait=False)  # what it was given is done all the same
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="probe")

    async def close(self) -> None:
        """Drops what has not begun, and ends the threads."""
        await asyncio.to_thread(self._pool.shutdown, wait=True, cancel_futures=True)


def _timed(source: Source) -> tuple[MediaInfo, Mark]:
    begun = time.monotonic_ns()
    return probe(source), (Stage.PROBE, begun, time.monotonic_ns())
