"""Mounted files that change under a running server: certificates, tokens, keys.

They are looked at when what they say is wanted, once a second at most, by what their names lead to, so that a mounted
Secret counts, whose files are links into a folder that is exchanged whole. What cannot be read, or makes no sense, is
told once and changes nothing: the old content stays. It never logs content.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Generic, TypeVar

from sidecar.errors import SettingsError

log = logging.getLogger(__name__)

ValueT = TypeVar("ValueT")

# How often files are looked at, at most; the kubelet itself brings a change after up to a minute.
_LOOK_S: Final = 1.0
# Certificates, tokens of a hundred thousand tenants, keys: far more than any. Bytes of one file.
_MOST_BYTES: Final = 16 * 1024 * 1024

_Stamp = tuple[tuple[int, int, int], ...]


class Watched(Generic[ValueT]):
    """What some files say together. `read` makes it of their contents, and raises ValueError where they make no sense.

    May be asked by any thread.
    """

    def __init__(
        self,
        key: str,
        files: Sequence[Path],
        read: Callable[[Sequence[bytes]], ValueT],
        *,
        changed: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Reads them; `changed` is called after each later time. Raises SettingsError, naming `key`."""
        self._key = key
        self._files = files
        self._read = read
        self._changed = changed
        self._clock = clock
        self._lock = threading.Lock()
        self._looked_s = clock()
        try:
            self._stamp = self._look()
            self._value = self._load()
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"`{key}` has {self._names()}, which cannot be used: {_words(error)}",
                key=key,
                value=self._names(),
            ) from None  # its cause may quote a secret

    def value(self) -> ValueT:
        """What they say now, or said when they last made sense."""
        now_s = self._clock()
        if now_s - self._looked_s < _LOOK_S:
            return self._value
        with self._lock:
            if now_s - self._looked_s >= _LOOK_S:
                self._looked_s = now_s
                self._look_again()
            return self._value

    def _look_again(self) -> None:
        try:
            stamp = self._look()
            if stamp == self._stamp:
                return
            # Taken before they are read: what changes meanwhile is seen the next time.
            self._stamp = stamp
            self._value = self._load()
        except (OSError, ValueError) as error:
            log.error("%s (%s): the old content stays: %s", self._names(), self._key, _words(error))  # noqa: TRY400 - a trace may quote a secret
        else:
            log.info("%s (%s) was read anew", self._names(), self._key)
            self._changed()

    def _look(self) -> _Stamp:
        """What tells one state of the files from another; zeros for one that is missing, which is told once."""
        return tuple(_stamp(file) for file in self._files)

    def _load(self) -> ValueT:
        contents = []
        for file in self._files:
            with file.open("rb") as opened:
                contents.append(opened.read(_MOST_BYTES + 1))
            if len(contents[-1]) > _MOST_BYTES:
                raise ValueError(f"{file} is larger than {_MOST_BYTES} bytes")
        return self._read(contents)

    def _names(self) -> str:
        return ", ".join(str(file) for file in self._files)


def _stamp(file: Path) -> tuple[int, int, int]:
    try:
        found = file.stat()
    except OSError:
        return 0, 0, 0
    return found.st_ino, found.st_mtime_ns, found.st_size


def _words(error: OSError | ValueError) -> str:
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else str(error)
