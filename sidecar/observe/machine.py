"""What the machine and the container gave this sidecar: cores, CPU time, and what a quota took away.

Reads the kernel's own clocks and files, a few microseconds each; decides nothing. What cannot be read is told as
absent, never guessed. CPU time is nanoseconds.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sidecar.observe.cgroups import Places, cpu_quota, group_files, read
from sidecar.observe.clocks import cpu_ns

_STAT: Final = "cpu.stat"
_STATS: Final[Places] = {
    "": (("sys/fs/cgroup", _STAT), ("sys/fs/cgroup/unified", _STAT)),
    "cpu": (("sys/fs/cgroup/cpu", _STAT), ("sys/fs/cgroup/cpu,cpuacct", _STAT)),
}
# Version 1 counts nanoseconds, version 2 microseconds.
_THROTTLED: Final = re.compile(r"^throttled_(time|usec) (\d+)$", re.MULTILINE)
_PERIODS: Final = re.compile(r"^nr_periods (\d+)$", re.MULTILINE)
# Of their jobs' time workers are off their cores for some hundredths on an idle machine (wake-ups, Python's lock), and
# for more only behind others, when no core is idle.
_KEPT_OFF: Final = 0.3
_KEPT_IDLE: Final = 0.3
# /proc/stat: user, nice, system, idle, iowait, ... in ticks.
_IDLE: Final = slice(3, 5)


@dataclass(frozen=True, slots=True)
class Usage:
    """One look. CPU time used until now by the front and by each other process of the sidecar; time that the cores
    it may run on were idle; time that its control groups were throttled, summed over cores, None where none tells.

    `quota_cores`: what the tightest group allows, None for no quota.
    """

    at_ns: int
    cores: int
    front_ns: int
    others_ns: Mapping[int, int]
    idle_ns: int
    throttled_ns: int | None = None
    quota_cores: float | None = None


@dataclass(frozen=True, slots=True)
class Spell:
    """What happened between two looks, in cores: 1.5 is one and a half of them all the time.

    `throttled` is the part of the time, 0 to 1, for which a quota kept the sidecar from running; `budget` how many
    cores it may use.
    """

    seconds: float
    budget: float
    front: float
    workers: float
    idle: float
    throttled: float
    cores: int
    quota_cores: float | None


@dataclass(slots=True)
class Machine:
    """Looks, with the groups that are worth looking at found once. `root` is where the file system begins."""

    root: Path = Path("/")
    _groups: tuple[Path, ...] = field(init=False, default=())

    def __post_init__(self) -> None:
        # The process's own group and those above it: each counts only what its own quota took, and a quota may be any
        # one's. Mount points are links to each other on many machines, and a group counts once.
        found = dict.fromkeys(file.parent.resolve() for file in group_files(self.root, _STATS))
        self._groups = tuple(
            group for group in found if _throttled_ns(group) is not None or _quota(group) is not None
        )

    def look(self, pids: Iterable[int]) -> Usage:
        """`pids` are the sidecar's processes beside this one."""
        allowed = os.sched_getaffinity(0)
        throttled = [spent for group in self._groups if (spent := _throttled_ns(group)) is not None]
        quotas = [quota for group in self._groups if (quota := _quota(group)) is not None]
        return Usage(
            at_ns=time.monotonic_ns(),
            cores=len(allowed),
            front_ns=time.process_time_ns(),
            others_ns={pid: spent for pid in pids if (spent := cpu_ns(pid))},
            idle_ns=self._idle_ns(allowed),
            throttled_ns=sum(throttled) if throttled else None,
            quota_cores=min(quotas, default=None),
        )

    def _idle_ns(self, cores: set[int]) -> int:
        try:
            lines = read(self.root / "proc/stat").splitlines()
        except OSError:
            return 0
        mine = {f"cpu{core}" for core in cores}
        ticks = sum(
            sum(map(int, fields[1:][_IDLE]))
            for line in lines
            if line.startswith("cpu") and (fields := line.split())[0] in mine
        )
        return ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def between(before: Usage, after: Usage, running: float, off_core: float = 0.0) -> Spell:
    """What happened between two looks; `running`: how many of the sidecar's threads wanted a core, on average;
    `off_core`: which part of their jobs' time workers had none, 0 to 1.

    The kernel counts throttled time once for every core on which somebody was kept waiting (cpu.stat). Where it tells
    of none and workers were off their cores all the same while cores were idle, something else kept them from running:
    a quota that cannot be read here, or a stop; that counts as throttled too.
    """
    span = max(1, after.at_ns - before.at_ns)
    workers = sum(spent - before.others_ns.get(pid, 0) for pid, spent in after.others_ns.items())
    throttled = 0.0
    if before.throttled_ns is not None and after.throttled_ns is not None:
        waiting = min(float(after.cores), max(1.0, running))
        throttled = min(1.0, max(0.0, (after.throttled_ns - before.throttled_ns) / span / waiting))
    idle = min(float(after.cores), max(0.0, (after.idle_ns - before.idle_ns) / span))
    if not throttled and off_core >= _KEPT_OFF and idle >= _KEPT_IDLE * after.cores:
        throttled = off_core
    quota = after.quota_cores
    return Spell(
        seconds=span / 1e9,
        budget=after.cores if quota is None else min(after.cores, quota),
        front=(after.front_ns - before.front_ns) / span,
        workers=max(0, workers) / span,
        idle=idle,
        throttled=throttled,
        cores=after.cores,
        quota_cores=quota,
    )


def joined(spells: Sequence[Spell]) -> Spell | None:
    """Spells one after the other as one, weighted by their time; None for none."""
    seconds = sum(spell.seconds for spell in spells)
    if not seconds:
        return None

    def mean(of: str) -> float:
        return float(sum(getattr(spell, of) * spell.seconds for spell in spells) / seconds)

    last = spells[-1]
    return Spell(
        seconds=seconds,
        budget=last.budget,
        front=mean("front"),
        workers=mean("workers"),
        idle=mean("idle"),
        throttled=mean("throttled"),
        cores=last.cores,
        quota_cores=last.quota_cores,
    )


def _throttled_ns(group: Path) -> int | None:
    """For how long a group's own quota kept it waiting; None where that is not counted."""
    try:
        text = read(group / _STAT)
    except OSError:
        return None
    throttled, periods = _THROTTLED.search(text), _PERIODS.search(text)
    if throttled is None or periods is None:
        return None
    return int(throttled[2]) * (1 if throttled[1] == "time" else 1000)


def _quota(group: Path) -> float | None:
    """Cores that a group's own quota allows; None for as many as there are, and where that cannot be read."""
    try:
        return cpu_quota(group)
    except (OSError, ValueError):
        return None
