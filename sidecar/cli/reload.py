"""Settings that change while the server runs: on SIGHUP, and when their file does.

A file is looked at by what its name leads to, so that a mounted ConfigMap counts, whose files are links into a folder
that is exchanged whole. Settings that are wrong are told and change nothing. It never decides what a change means.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Final

from sidecar.errors import SidecarError
from sidecar.settings import Settings

log = logging.getLogger(__name__)

# How often the file is looked at; the kubelet itself brings a change after up to a minute.
_LOOK_S: Final = 1.0
_Seen = tuple[int, int, int]


class Reload:
    """Reads the settings anew by `load`, and hands them to `use`; `file` is None where they come from none."""

    def __init__(
        self, load: Callable[[], Settings], use: Callable[[Settings], None], file: Path | None
    ) -> None:
        self._load = load
        self._use = use
        self._file = file
        self._seen = self._look()

    async def watch(self) -> None:
        """Until it is cancelled."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self.reload, "SIGHUP")
        try:
            while True:
                await asyncio.sleep(_LOOK_S)
                seen = self._look()
                if seen is not None and seen != self._seen:
                    self._seen = seen
                    self.reload(f"{self._file} changed")
        finally:
            loop.remove_signal_handler(signal.SIGHUP)

    def reload(self, why: str) -> None:
        """Reads and hands over, or says what is wrong with the settings."""
        try:
            self._use(self._load())
        except SidecarError as problem:
            log.error("%s, and the settings are wrong; the old ones stay: %s", why, problem.message)  # noqa: TRY400 - its text is enough
        else:
            log.info("%s: the settings were read anew", why)

    def _look(self) -> _Seen | None:
        """What tells one state of the file from another; None while there is none."""
        if self._file is None:
            return None
        try:
            found = self._file.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size
