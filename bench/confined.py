"""A process tree under a real limit of memory: a control group of its own, below this process's.

Version 1 of control groups lets root put a group anywhere. Version 2 has no limits in a group below one that has
processes itself, which ours has; there, and without the rights, `group` is None, the tree runs without a limit, and
whoever measures looks at its proportional memory instead.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.processes import tree

_ROOT = Path("/sys/fs/cgroup/memory")
# Groups are gone as soon as their last process is; it may be a moment until that is so.
_GONE_S = 5.0


@dataclass(frozen=True, slots=True)
class Group:
    """A group of version 1, as a folder."""

    folder: Path

    def command(self, command: Sequence[str]) -> list[str]:
        """The command, to be run inside."""
        enter = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
        return ["/bin/sh", "-c", enter, str(self.folder), *command]

    @property
    def peak_bytes(self) -> int:
        """The most that was charged at once: pages of processes, of shared memory and of files."""
        return int((self.folder / "memory.max_usage_in_bytes").read_text())

    @property
    def killed(self) -> int:
        """Processes that the kernel ended for want of memory; -1 where it does not tell."""
        found = re.search(r"^oom_kill (\d+)$", (self.folder / "memory.oom_control").read_text(), re.MULTILINE)
        return int(found[1]) if found else -1


@contextmanager
def confined(limit_bytes: int) -> Iterator[Group | None]:
    """A group with this limit, and no swap beside it; removed on leaving, when all in it have ended."""
    group = _made(limit_bytes)
    try:
        yield group
    finally:
        if group is not None:
            _remove(group.folder)


def _made(limit_bytes: int) -> Group | None:
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    own = next((line.split(":", 2)[2] for line in lines if line.split(":", 2)[1] == "memory"), None)
    if own is None:
        return None
    folder = _ROOT / own.lstrip("/") / f"sidecar-bench-{os.getpid()}"
    try:
        folder.mkdir()
        (folder / "memory.limit_in_bytes").write_text(str(limit_bytes))
        with contextlib.suppress(OSError):  # a kernel that does not account swap
            (folder / "memory.memsw.limit_in_bytes").write_text(str(limit_bytes))
    except OSError:
        with contextlib.suppress(OSError):
            folder.rmdir()
        return None
    return Group(folder)


def _remove(folder: Path) -> None:
    until = time.monotonic() + _GONE_S
    while True:
        try:
            folder.rmdir()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
        else:
            return


def resident_bytes(*roots: int) -> int:
    """Proportional memory of the trees under `roots`: shared pages are counted once among them."""
    found = 0
    for pid in tree(*roots):
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            pss = re.search(r"^Pss:\s+(\d+) kB$", text, re.MULTILINE)
            found += int(pss[1]) * 1024 if pss else 0
    return found
