"""Where the files of this process's control groups are, in version 1 and 2, in containers and out of them.

Groups are looked for where every distribution and container runtime mounts them. In a container without a
namespace of its own, the path that the kernel tells is the host's and is not there; then the mount's top, which is
the container's own group, is what is left to read. It reads which groups there are, and no limit.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

Places = Mapping[str, Sequence[tuple[str, str]]]
"""By the controller that a line of /proc/self/cgroup names ("" is version 2): mount points, and a file there. The
mount of version 2 moves aside on machines that still use version 1 for most controllers.
"""


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
