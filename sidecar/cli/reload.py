"""When settings are read anew while the server runs: on SIGHUP, and when their file changes.

A file is looked at by what its name leads to, so that a mounted ConfigMap counts, whose files are links into a folder
that is exchanged whole. Settings that are wrong are told and change nothing. It never decides what a change means.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from sidecar.errors import SidecarError

log = logging.getLogger(__name__)

# How often the file is looked at; the kubelet itself brings a change after up to a minute.
_LOOK_S: Final = 1.0
# How soon settings that were refused are tried again: the model server that they contradicted may be another by then.
_AGAIN_S: Final = 30.0
Seen = tuple[int, int, int]
"""A file's identity, time and size."""


class Reload:
    """Has settings read anew and gone by, one time after the other, by `reconfigure`, which raises a SidecarError where
    they are wrong; `file` is None where they come from none.
    """

    def __init__(
        self, reconfigure: Callable[[], Awaitable[None]], file: Path | None, seen: Seen | None
    ) -> None:
        """`seen` is the file's state before the settings were read that are gone by now (`look`)."""
        self._reconfigure = reconfigure
        self._file = file
        self._seen = seen
        self._told = asyncio.Event()
        self._refused = ""
        self._again_s = 0.0

    async def watch(self) -> None:
        """Until it is cancelled."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self._told.set)
        try:
            while True:
                why = await self._reason()
                # Seen before it is read: what comes while it is read is another change.
                self._seen = look(self._file) or self._seen
                await self.reload(why)
        finally:
            loop.remove_signal_handler(signal.SIGHUP)

    async def _reason(self) -> str:
        """Waits for one."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await self._told.wait()
                self._told.clear()
                return "SIGHUP"
            seen = look(self._file)
            if seen is not None and seen != self._seen:
                return f"{self._file} changed"
            if self._refused and asyncio.get_running_loop().time() > self._again_s:
                return "another try"

    async def reload(self, why: str) -> None:
        """Reads and goes by the settings, or says what is wrong with them, once for the same."""
        try:
            await self._reconfigure()
        except SidecarError as problem:
            if problem.message != self._refused:
                log.error("%s, and the settings are wrong; the old ones stay: %s", why, problem.message)  # noqa: TRY400 - its text is enough
            self._refused = problem.message
        except Exception:
            log.exception("%s, and the settings could not be gone by; the old ones stay", why)
            self._refused = "a fault of this program"
        else:
            log.info("%s: the settings were read anew", why)
            self._refused = ""
        self._again_s = asyncio.get_running_loop().time() + _AGAIN_S


def look(file: Path | None) -> Seen | None:
    """What tells one state of a file from another; None while there is none."""
    if file is None:
        return None
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
