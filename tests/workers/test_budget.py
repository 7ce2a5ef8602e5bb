"""The budget: the least of the machine's and of every control group above, wherever they are mounted."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.workers.budget import Budget, memory_limit, read_budget

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


def laid(root: Path, files: Mapping[str, str]) -> Path:
    """A file system with these files beside the machine's."""
    for name, text in {**MACHINE, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


@pytest.mark.parametrize("case", CASES)
def test_the_least_limit_counts(case: str, tmp_path: Path) -> None:
    files, expected = CASES[case]
    assert expected == memory_limit(laid(tmp_path, files))


OF_V2 = {"proc/self/cgroup": "0::/pods/one\n"}
OF_V1 = {"proc/self/cgroup": "5:cpu,cpuacct:/pods/one\n6:cpuset:/pods/one\n4:memory:/elsewhere\n"}
V1_CPU, V1_SET = "sys/fs/cgroup/cpu", "sys/fs/cgroup/cpuset"
ONLINE = {"sys/devices/system/cpu/online": "0-7\n"}
EIGHT = range(8)


def v1_quota(group: str, quota: int, period: int = 100_000) -> dict[str, str]:
    return {f"{group}/cpu.cfs_quota_us": f"{quota}\n", f"{group}/cpu.cfs_period_us": f"{period}\n"}


# Files, and the cores and CPUs that they come to on a machine of eight.
CPU_CASES: Mapping[str, tuple[Mapping[str, str], float, Sequence[int]]] = {
    "no control groups at all": ({}, 8, EIGHT),
    "groups of which nothing is there": (OF_V2, 8, EIGHT),
    "version 2, a quota": (OF_V2 | {f"{V2}/pods/one/cpu.max": "150000 100000\n"}, 1.5, EIGHT),
    "version 2, no quota": (OF_V2 | {f"{V2}/pods/one/cpu.max": "max 100000\n"}, 8, EIGHT),
    "version 2, less than a core in another period": (
        OF_V2 | {f"{V2}/pods/one/cpu.max": "5000 50000\n"},
        0.1,
        EIGHT,
    ),
    "version 2, the pod's quota is tighter than the container's": (
        OF_V2 | {f"{V2}/pods/one/cpu.max": "400000 100000\n", f"{V2}/pods/cpu.max": "250000 100000\n"},
        2.5,
        EIGHT,
    ),
    "version 2, a namespace of its own": (
        {"proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": "300000 100000\n"},
        3,
        EIGHT,
    ),
    "version 2, a quota of more than the machine": (
        OF_V2 | {f"{V2}/pods/one/cpu.max": "6400000 100000\n"},
        8,
        EIGHT,
    ),
    "version 2, a cpuset": (OF_V2 | {f"{V2}/pods/one/cpuset.cpus.effective": "2-3,6\n"}, 3, (2, 3, 6)),
    "version 2, an empty cpuset": (OF_V2 | {f"{V2}/pods/one/cpuset.cpus.effective": "\n"}, 8, EIGHT),
    "version 2, a cpuset above and a quota": (
        OF_V2 | {f"{V2}/pods/cpuset.cpus.effective": "0-3\n", f"{V2}/pods/one/cpu.max": "250000 100000\n"},
        2.5,
        range(4),
    ),
    "version 2, a cpuset of another machine's numbers": (
        OF_V2 | {f"{V2}/pods/one/cpuset.cpus.effective": "64-71\n"},
        8,
        EIGHT,
    ),
    "version 1, a quota": (OF_V1 | v1_quota(f"{V1_CPU}/pods/one", 250_000), 2.5, EIGHT),
    "version 1, no quota": (OF_V1 | v1_quota(f"{V1_CPU}/pods/one", -1), 8, EIGHT),
    "version 1, a quota above, under the long name": (
        OF_V1 | v1_quota("sys/fs/cgroup/cpu,cpuacct/pods", 100_000, 50_000),
        2,
        EIGHT,
    ),
    "version 1, a cpuset": (OF_V1 | {f"{V1_SET}/pods/one/cpuset.cpus": "1\n"}, 1, (1,)),
    "hybrid, the quota is version 1's": (
        {"proc/self/cgroup": "1:cpu:/x\n0::/x\n"} | v1_quota(f"{V1_CPU}/x", 150_000),
        1.5,
        EIGHT,
    ),
    "hybrid, the quota is version 2's": (
        {"proc/self/cgroup": "1:name=systemd:/x\n0::/x\n", f"{V2}/unified/x/cpu.max": "150000 100000\n"},
        1.5,
        EIGHT,
    ),
}


@pytest.mark.parametrize("case", CPU_CASES)
def test_the_cores_are_the_least_of_affinity_cpusets_and_quotas(case: str, tmp_path: Path) -> None:
    files, cores, cpus = CPU_CASES[case]
    found = read_budget(EIGHT, laid(tmp_path, {**ONLINE, **files}))
    assert (found.cores, found.cpus) == (cores, tuple(cpus))
    assert min(bound.allows for bound in found.cpu_bounds) == found.cpu_bounds[0].allows
    assert not found.unreadable


def test_affinity_bounds_too(tmp_path: Path) -> None:
    found = read_budget({1, 4}, laid(tmp_path, OF_V2 | {f"{V2}/pods/one/cpu.max": "400000 100000\n"}))
    assert (found.cores, found.cpus, found.is_throttled) == (2, (1, 4), False)


@pytest.mark.parametrize(
    ("cpuset", "quota", "exclusive"),
    [("2-3", "200000", True), ("2-3", "max", False), ("2-3", "150000", False), ("0-7", "800000", False)],
)
def test_a_cpuset_with_a_quota_of_all_of_it_is_this_containers_alone(
    cpuset: str, quota: str, exclusive: bool, tmp_path: Path
) -> None:
    group = f"{V2}/pods/one"
    files = {f"{group}/cpuset.cpus.effective": cpuset, f"{group}/cpu.max": f"{quota} 100000"}
    assert read_budget(EIGHT, laid(tmp_path, ONLINE | OF_V2 | files)).exclusive is exclusive


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("cpu.max", "?\n"),
        ("cpu.max", "100000\n"),
        ("cpu.max", "0 0\n"),
        ("cpuset.cpus.effective", "one\n"),
        ("memory.max", "much\n"),
        ("memory.high", ""),
    ],
)
def test_what_is_nonsense_is_told_and_bounds_nothing(file: str, text: str, tmp_path: Path) -> None:
    found = read_budget(EIGHT, laid(tmp_path, OF_V2 | {f"{V2}/pods/one/{file}": text}))
    assert (found.cores, found.memory_bytes) == (8, 8 * GIB)
    (told,) = found.unreadable
    assert file in told


def test_a_file_that_may_not_be_read_is_told(tmp_path: Path) -> None:
    laid(tmp_path, OF_V2)
    (tmp_path / V2 / "pods/one/cpu.max").mkdir(parents=True)  # what root, too, cannot read as a file
    (told,) = read_budget(EIGHT, tmp_path).unreadable
    assert "Is a directory" in told


def test_memory_that_is_reclaimed_early_is_no_more_than_that(tmp_path: Path) -> None:
    files = {f"{V2}/pods/one/memory.max": f"{4 * GIB}", f"{V2}/pods/one/memory.high": f"{3 * GIB}"}
    assert read_budget(EIGHT, laid(tmp_path, OF_V2 | files)).memory_bytes == 3 * GIB


def test_a_group_with_two_names_is_told_once(tmp_path: Path) -> None:
    laid(tmp_path, OF_V1 | v1_quota("sys/fs/cgroup/cpu,cpuacct/pods/one", 100_000))
    (tmp_path / V1_CPU).symlink_to("cpu,cpuacct")
    assert len(read_budget(EIGHT, tmp_path).cpu_bounds) == 2


@given(
    st.lists(st.tuples(st.integers(1, 10**6), st.integers(1000, 10**6)), max_size=4),
    st.sets(st.integers(0, 7), min_size=1),
)
def test_whatever_is_nested_the_tightest_of_all_bounds(
    quotas: list[tuple[int, int]], affinity: set[int]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = "/".join(["top", *map(str, range(len(quotas)))])
        files = {"proc/self/cgroup": f"0::/{path}\n"}
        for depth, (quota, period) in enumerate(quotas):
            group = "/".join(path.split("/")[: depth + 2])
            files[f"{V2}/{group}/cpu.max"] = f"{quota} {period}\n"
        found = read_budget(affinity, laid(Path(name), files))
    assert found.cores == min([len(affinity), *(quota / period for quota, period in quotas)])


def test_this_machine_has_a_budget() -> None:
    found = read_budget(os.sched_getaffinity(0))
    assert isinstance(found, Budget)
    assert 0 < found.cores <= len(os.sched_getaffinity(0))


@pytest.mark.parametrize("meminfo", [None, "", "MemFree: 1 kB\n"])
def test_a_machine_that_does_not_tell_its_memory_is_an_error(meminfo: str | None, tmp_path: Path) -> None:
    if meminfo is not None:
        (tmp_path / "proc").mkdir()
        (tmp_path / "proc/meminfo").write_text(meminfo, encoding="ascii")
    with pytest.raises(OSError, match="meminfo"):
        memory_limit(tmp_path)


def test_this_machine_has_some_memory() -> None:
    assert memory_limit() > 1 << 26
