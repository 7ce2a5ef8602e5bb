"""How much memory this process may use: the least of what the machine has and its control groups allow.

Reads files, decides nothing. Groups are looked for where every distribution and container runtime mounts
them. In a container without a namespace of its own, the path that the kernel tells is the host's and is
not there; then the mount's top, which is the container's own group, is what is left to read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

# Mount point and file of a limit, by the controllers that a line of /proc/self/cgroup names: "" is
# version 2, whose mount moves aside on machines that still use version 1 for most controllers.
_LIMITS = {
    "": (("sys/fs/cgroup", "memory.max"), ("sys/fs/cgroup/unified", "memory.max")),
    "memory": (("sys/fs/cgroup/memory", "memory.limit_in_bytes"),),
}


def memory_limit(root: Path = Path("/")) -> int:
    """Bytes that this process may use: the least limit of its control groups and of those above them that
    can be seen, and at most what the machine has. `root` is where the file system begins.

    Raises OSError where the machine's memory cannot be read at all.
    """
    meminfo = (root / "proc/meminfo").read_text(encoding="ascii")
    total = re.search(r"^MemTotal:\s+(\d+) kB$", meminfo, re.MULTILINE)
    if total is None:
        raise OSError("/proc/meminfo does not tell MemTotal")
    return min([int(total[1]) * 1024, *_group_limits(root)])


def _group_limits(root: Path) -> list[int]:
    found = (_limit(file) for file in _group_files(root))
    return [limit for limit in found if limit is not None]


def _group_files(root: Path) -> Iterator[Path]:
    """The limit files of the process's own groups and of all groups above them, whether they are there or not."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            for mount, file in _LIMITS.get(controller, ()):
                # `..` is how the kernel tells of a group above the namespace's top.
                group = PurePosixPath(*(part for part in path.split("/") if part not in {"", ".."}))
                for each in (group, *group.parents):
                    yield root / mount / each / file


def _limit(file: Path) -> int | None:
    """The limit in a file; None where there is no such file or no limit."""
    try:
        text = file.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None
