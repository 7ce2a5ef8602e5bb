"""What this container really has: cores and memory, the least that anything between it and the machine allows.

    cores    the CPUs that the process may run on (affinity, which a cpuset narrows), and the quota over the period of
             its control groups and of all above them that can be seen
    memory   what the machine has, and the limits of the same groups

Version 1 and 2 of control groups, in containers and out of them. It only reads, and sets nothing; what cannot be read
is told, and never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sidecar.observe.cgroups import Places, cpu_quota, group_files

_QUOTAS: Final[Places] = {
    "": (("sys/fs/cgroup", "cpu.max"), ("sys/fs/cgroup/unified", "cpu.max")),
    "cpu": (("sys/fs/cgroup/cpu", "cpu.cfs_quota_us"), ("sys/fs/cgroup/cpu,cpuacct", "cpu.cfs_quota_us")),
}
_CPUSETS: Final[Places] = {
    "": (("sys/fs/cgroup", "cpuset.cpus.effective"), ("sys/fs/cgroup/unified", "cpuset.cpus.effective")),
    "cpuset": (("sys/fs/cgroup/cpuset", "cpuset.cpus"),),
}
_MEMORY: Final[Places] = {
    "": tuple(
        (mount, file)
        for mount in ("sys/fs/cgroup", "sys/fs/cgroup/unified")
        for file in ("memory.max", "memory.high")
    ),
    "memory": (("sys/fs/cgroup/memory", "memory.limit_in_bytes"),),
}
_ONLINE: Final = "sys/devices/system/cpu/online"


@dataclass(frozen=True, slots=True)
class Bound:
    """One thing that bounds what may be used: what it is, for people, and the cores or bytes that it allows."""

    what: str
    allows: float


@dataclass(frozen=True, slots=True)
class Budget:
    """What may be used. `cpus` are the numbers of the CPUs; `quota` is what the tightest control group allows of them,
    None for all their time. `exclusive`: whether they seem to be this container's alone, by a quota of exactly as many
    whole cores as a cpuset smaller than the machine has (the kubelet's static CPU manager).

    `cpu_bounds` and `memory_bounds` are all that was found, the tightest first; `unreadable` are files that are there
    and tell nothing, each with the reason.
    """

    cpus: tuple[int, ...]
    quota: float | None
    memory_bytes: int
    exclusive: bool = False
    cpu_bounds: tuple[Bound, ...] = ()
    memory_bounds: tuple[Bound, ...] = ()
    unreadable: tuple[str, ...] = ()

    @property
    def cores(self) -> float:
        """Cores, in CPU seconds a second."""
        return len(self.cpus) if self.quota is None else min(self.quota, len(self.cpus))

    @property
    def is_throttled(self) -> bool:
        """Whether a quota, and not the number of CPUs, is what bounds."""
        return self.cores < len(self.cpus)


def read_budget(affinity: Collection[int], root: Path = Path("/")) -> Budget:
    """The budget of a process that may run on the CPUs of `affinity`; `root` is where the file system begins.

    Raises OSError where the machine's memory cannot be read at all.
    """
    unreadable: list[str] = []
    machine = _cpus(root / _ONLINE, unreadable)
    cpus, cpu_bounds = _allowed(affinity, root, unreadable)
    quotas = [
        Bound(f"quota of {_named(file, root)}", quota)
        for file in _files(root, _QUOTAS, unreadable)
        if (quota := _quota(file, unreadable)) is not None
    ]
    quota = min((bound.allows for bound in quotas), default=None)
    memory = _memory(root, unreadable)
    return Budget(
        cpus=cpus,
        quota=quota,
        memory_bytes=int(min(bound.allows for bound in memory)),
        exclusive=quota == len(cpus) and (not machine or len(cpus) < len(machine)),
        cpu_bounds=_ordered([*cpu_bounds, *quotas]),
        memory_bounds=_ordered(memory),
        unreadable=tuple(unreadable),
    )


def memory_limit(root: Path = Path("/")) -> int:
    """Bytes that this process may use. Raises OSError where the machine's memory cannot be read at all."""
    return int(min(bound.allows for bound in _memory(root, [])))


def _memory(root: Path, unreadable: list[str]) -> list[Bound]:
    return [
        Bound("the machine's memory", _machine_bytes(root)),
        *(
            Bound(f"limit of {_named(file, root)}", limit)
            for file in _files(root, _MEMORY, unreadable)
            if (limit := _limit(file, unreadable)) is not None
        ),
    ]


def _ordered(bounds: list[Bound]) -> tuple[Bound, ...]:
    return tuple(sorted(bounds, key=lambda bound: bound.allows))


def _allowed(
    affinity: Collection[int], root: Path, unreadable: list[str]
) -> tuple[tuple[int, ...], list[Bound]]:
    """The CPUs that affinity and cpusets leave. A set that leaves none of them is not this process's: the file is of
    another view of the machine, and affinity is the kernel's own word.
    """
    cpus = set(affinity)
    bounds = [Bound("CPUs that the process may run on (affinity)", len(cpus))]
    for file in _files(root, _CPUSETS, unreadable):
        if found := _cpus(file, unreadable):
            bounds.append(Bound(f"cpuset of {_named(file, root)}", len(found)))
            cpus = cpus & found or cpus
    return tuple(sorted(cpus)), bounds


def _files(root: Path, places: Places, unreadable: list[str]) -> Iterator[Path]:
    """Files of groups that are there, each once: mount points are links to each other on many machines."""
    seen: set[tuple[int, int]] = set()
    for file in group_files(root, places):
        try:
            found = file.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            unreadable.append(f"{file}: {_why(error)}")
            continue
        if (found.st_dev, found.st_ino) not in seen:
            seen.add((found.st_dev, found.st_ino))
            yield file


def _named(file: Path, root: Path) -> str:
    return "/" + str(file.relative_to(root))


def _quota(file: Path, unreadable: list[str]) -> float | None:
    try:
        return cpu_quota(file.parent)
    except (OSError, ValueError) as error:
        unreadable.append(f"{file}: {_why(error)}")
        return None


def _cpus(file: Path, unreadable: list[str]) -> set[int]:
    """The CPUs of a list such as `0-3,8`; none where there is no such file, or an empty one."""
    found: set[int] = set()
    try:
        for part in file.read_text(encoding="ascii").strip().split(","):
            first, _, last = part.partition("-")
            if part:
                found.update(range(int(first), int(last or first) + 1))
    except FileNotFoundError:
        return set()
    except (OSError, ValueError) as error:
        unreadable.append(f"{file}: {_why(error)}")
        return set()
    return found


def _limit(file: Path, unreadable: list[str]) -> int | None:
    """The limit in a file, in bytes; None for none."""
    try:
        text = file.read_text(encoding="ascii").strip()
        return None if text == "max" else int(text)
    except (OSError, ValueError) as error:
        unreadable.append(f"{file}: {_why(error)}")
        return None


def _machine_bytes(root: Path) -> int:
    meminfo = (root / "proc/meminfo").read_text(encoding="ascii")
    total = re.search(r"^MemTotal:\s+(\d+) kB$", meminfo, re.MULTILINE)
    if total is None:
        raise OSError("/proc/meminfo does not tell MemTotal")
    return int(total[1]) * 1024


def _why(error: OSError | ValueError) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else "nonsense"
