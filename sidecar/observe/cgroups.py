"""Where the files of this process's control groups are, in version 1 and 2, in containers and out of them.

Groups are looked for where every distribution and container runtime mounts them. In a container without a
namespace of its own, the path that the kernel tells is the host's and is not there; then the mount's top, which is
the container's own group, is what is left to read. It reads which groups there are, and of limits the CPU quota alone,
which both the watcher and the budget go by.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Final

Places = Mapping[str, Sequence[tuple[str, str]]]
"""By the controller that a line of /proc/self/cgroup names ("" is version 2): mount points, and a file there. The
mount of version 2 moves aside on machines that still use version 1 for most controllers.
"""


_V2: Final = "cpu.max"
_V1_QUOTA, _V1_PERIOD = "cpu.cfs_quota_us", "cpu.cfs_period_us"
# Of a file of the kernel's: /proc/stat begins with the cores, some 100 bytes each.
_LONGEST: Final = 1 << 17


def cpu_quota(group: Path) -> float | None:
    """Cores that a group's own quota allows; None for as many as there are.

    Raises OSError where its file is there and cannot be read or nothing of it is there, ValueError for nonsense.
    """
    try:
        quota, period = read(group / _V2).split()
    except FileNotFoundError:
        quota, period = (read(group / file) for file in (_V1_QUOTA, _V1_PERIOD))
    if quota == "max" or int(quota) < 0:
        return None
    if int(quota) == 0 or int(period) <= 0:
        raise ValueError(f"a quota of {quota} in {period}")
    return int(quota) / int(period)


def read(path: Path) -> str:
    """A small file of the kernel's, by system calls alone: pathlib's and io's layers would be half of a look's time.

    Raises OSError, and ValueError for what is not ASCII.
    """
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(file, _LONGEST).decode("ascii")
    finally:
        os.close(file)


def group_files(root: Path, places: Places) -> Iterator[Path]:
    """The files of the process's own groups and of all groups above them, whether they are there or not.

    `root` is where the file system begins. A process's own group comes before those above it.
    """
    try:
        # A group's name is bytes of somebody's choice, as any file's.
        lines = os.fsdecode((root / "proc/self/cgroup").read_bytes()).split("\n")
    except OSError:
        lines = []
    for line in lines:
        parts = line.split(":", 2)
        if len(parts) < 3:  # noqa: PLR2004 - a hierarchy's number, controllers, a path; or the text's end
            continue
        _, controllers, path = parts
        for controller in controllers.split(","):
            for mount, file in places.get(controller, ()):
                # `..` is how the kernel tells of a group above the namespace's top.
                group = PurePosixPath(*(part for part in path.split("/") if part not in {"", ".."}))
                for each in (group, *group.parents):
                    yield root / mount / each / file
