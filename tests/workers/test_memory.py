"""The memory limit: the least of the machine's and of every control group above, wherever they are mounted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from sidecar.workers.memory import memory_limit

GIB = 1 << 30
MACHINE = {"proc/meminfo": "MemTotal:       8388608 kB\nMemFree:         100 kB\n"}
NO_LIMIT_V1 = "9223372036854771712\n"
V1 = "sys/fs/cgroup/memory"
V2 = "sys/fs/cgroup"

CASES: Mapping[str, tuple[Mapping[str, str], int]] = {
    "no control groups at all": ({}, 8 * GIB),
    "version 2, a namespace of its own": (
        {"proc/self/cgroup": "0::/\n", f"{V2}/memory.max": f"{2 * GIB}\n"},
        2 * GIB,
    ),
    "version 2, no limit": ({"proc/self/cgroup": "0::/\n", f"{V2}/memory.max": "max\n"}, 8 * GIB),
    "version 2, the limit is the parent's": (
        {
            "proc/self/cgroup": "0::/pods/one/main\n",
            f"{V2}/pods/one/main/memory.max": "max\n",
            f"{V2}/pods/one/memory.max": f"{3 * GIB}\n",
            f"{V2}/pods/memory.max": f"{6 * GIB}\n",
        },
        3 * GIB,
    ),
    "version 2, the tightest is its own": (
        {
            "proc/self/cgroup": "0::/pods/one\n",
            f"{V2}/pods/one/memory.max": f"{GIB}\n",
            f"{V2}/pods/memory.max": f"{6 * GIB}\n",
        },
        GIB,
    ),
    "version 2, the host's path is not in the container": (
        {"proc/self/cgroup": "0::/kubepods/pod7/c9\n", f"{V2}/memory.max": f"{GIB}\n"},
        GIB,
    ),
    "version 2, a group above the namespace's top": (
        {"proc/self/cgroup": "0::/../../side\n", f"{V2}/side/memory.max": f"{GIB}\n"},
        GIB,
    ),
    "version 1, with others": (
        {
            "proc/self/cgroup": "5:cpu,cpuacct:/a\n4:memory:/docker/c9\n0::/\n",
            f"{V1}/docker/c9/memory.limit_in_bytes": f"{4 * GIB}\n",
            f"{V1}/memory.limit_in_bytes": NO_LIMIT_V1,
        },
        4 * GIB,
    ),
    "version 1, the host's path is not in the container": (
        {"proc/self/cgroup": "4:memory:/docker/c9\n", f"{V1}/memory.limit_in_bytes": f"{GIB}\n"},
        GIB,
    ),
    "version 1, no limit": (
        {"proc/self/cgroup": "4:memory:/\n", f"{V1}/memory.limit_in_bytes": NO_LIMIT_V1},
        8 * GIB,
    ),
    "version 2 beside version 1": (
        {"proc/self/cgroup": "1:name=systemd:/x\n0::/x\n", f"{V2}/unified/x/memory.max": f"{GIB}\n"},
        GIB,
    ),
    "a limit above the machine's memory": (
        {"proc/self/cgroup": "0::/\n", f"{V2}/memory.max": f"{100 * GIB}\n"},
        8 * GIB,
    ),
    "a group named with a colon": (
        {"proc/self/cgroup": "0::/a:b\n", f"{V2}/a:b/memory.max": f"{GIB}\n"},
        GIB,
    ),
    "an unreadable number": ({"proc/self/cgroup": "0::/\n", f"{V2}/memory.max": "?\n"}, 8 * GIB),
}


@pytest.mark.parametrize("case", CASES)
def test_the_least_limit_counts(case: str, tmp_path: Path) -> None:
    files, expected = CASES[case]
    for name, text in {**MACHINE, **files}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert expected == memory_limit(tmp_path)


@pytest.mark.parametrize("meminfo", [None, "", "MemFree: 1 kB\n"])
def test_a_machine_that_does_not_tell_its_memory_is_an_error(meminfo: str | None, tmp_path: Path) -> None:
    if meminfo is not None:
        (tmp_path / "proc").mkdir()
        (tmp_path / "proc/meminfo").write_text(meminfo, encoding="ascii")
    with pytest.raises(OSError, match="meminfo"):
        memory_limit(tmp_path)


def test_this_machine_has_some_memory() -> None:
    assert memory_limit() > 1 << 26
