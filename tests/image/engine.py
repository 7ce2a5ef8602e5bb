"""The container engine's command line, as far as the image's test needs it: any that speaks Docker's.

Every container that is started here bears the run's name, and `close` removes them all, however the run ends.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

# The longest command builds the neighbour's image; out of the air, for a slow line.
COMMAND_S = 1800.0
POLL_S = 0.2


class NoEngine(Exception):
    """No container engine answers; the message says what to do."""


class EngineFailed(Exception):
    """A command of the engine failed; the message holds it and its own words."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that ended by itself: status and what it printed, both streams joined in `everything`."""

    status: int
    out: str
    err: str

    @property
    def everything(self) -> str:
        return self.out + self.err


class Engine:
    """Runs containers; a context manager that removes them."""

    def __init__(self, command: str, name: str) -> None:
        """Raises NoEngine where `command` is not there or no engine answers it."""
        self._command = command
        self._name = name
        self._started: list[str] = []
        if shutil.which(command) is None:
            raise NoEngine(f"there is no command {command!r}. {_ADVICE}")
        answer = self.tried("version")
        if answer.status:
            last = answer.everything.strip().splitlines()[-1:] or [""]
            raise NoEngine(f"no container engine answers `{command} version`: {last[0]}\n{_ADVICE}")

    def tried(self, *arguments: str, timeout_s: float = COMMAND_S) -> Ended:
        """A command of the engine, however it ends."""
        done = subprocess.run(
            [self._command, *arguments], check=False, capture_output=True, text=True, timeout=timeout_s
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    def done(self, *arguments: str) -> str:
        """A command that must go well: what it printed. Raises EngineFailed."""
        ended = self.tried(*arguments)
        if ended.status:
            raise EngineFailed(f"`{self._command} {' '.join(arguments)}` failed:\n{ended.everything}")
        return ended.out

    def create(self, role: str, *arguments: str) -> str:
        """A container that is not started yet; its name."""
        name = f"{self._name}-{role}"
        self._started.append(name)
        self.done("create", "--name", name, *arguments)
        return name

    def start(self, role: str, *arguments: str) -> str:
        name = self.create(role, *arguments)
        self.done("start", name)
        return name

    def once(self, role: str, *arguments: str, timeout_s: float = 120.0) -> Ended:
        """A container that ends by itself, and is removed."""
        name = f"{self._name}-{role}"
        self._started.append(name)
        return self.tried("run", "--rm", "--name", name, *arguments, timeout_s=timeout_s)

    def popen(self, role: str, *arguments: str) -> subprocess.Popen[str]:
        """A container whose output is read while it runs."""
        name = f"{self._name}-{role}"
        self._started.append(name)
        return subprocess.Popen(
            [self._command, "run", "--rm", "--name", name, *arguments], stdout=subprocess.PIPE, text=True
        )

    def inside(self, name: str, *command: str) -> Ended:
        return self.tried("exec", name, *command)

    def state(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.done("inspect", "--format", "{{json .State}}", name))
        return found

    def log(self, name: str) -> str:
        return self.tried("logs", "--timestamps", name).everything

    def says(self, name: str, words: str, within_s: float) -> float:
        """Seconds from the container's start until it logs these words. Raises EngineFailed where it does not."""
        ends = time.monotonic() + within_s
        while True:
            state = self.state(name)
            for line in self.log(name).splitlines():
                if words in line:
                    return (_instant(line.split(" ", 1)[0]) - _instant(state["StartedAt"])).total_seconds()
            if not state["Running"] or time.monotonic() > ends:
                raise EngineFailed(f"{name} does not say {words!r}; it said:\n{self.log(name)}")
            time.sleep(POLL_S)

    def awaits(self, holds: Callable[[], bool], what: str, within_s: float = 60.0) -> None:
        ends = time.monotonic() + within_s
        while not holds():
            if time.monotonic() > ends:
                raise EngineFailed(f"it did not come to this: {what}")
            time.sleep(POLL_S)

    def remove(self, names: Sequence[str]) -> None:
        if names:
            self.tried("rm", "--force", "--volumes", *names)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove(list(dict.fromkeys(self._started)))


_ADVICE = (
    "The image is tested by building and running it. Install Docker 23 or later (Debian, Ubuntu: apt-get install "
    "docker.io docker-buildx) and start it, name a running one by DOCKER_HOST, or another command by ENGINE, such as "
    "ENGINE=podman."
)


def _instant(text: str) -> datetime:
    """An engine's timestamp, whose nanoseconds Python does not read."""
    whole, _, rest = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{whole}.{rest[:6].ljust(6, '0')}").replace(tzinfo=UTC)
