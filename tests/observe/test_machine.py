"""What the machine gave: cores, CPU time, idle time, and what a quota took, wherever the kernel tells of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.observe.clocks import cpu_ns
from sidecar.observe.machine import Machine, Spell, Usage, between, joined

S = 1_000_000_000
V2, UNIFIED = "sys/fs/cgroup", "sys/fs/cgroup/unified"
V1, V1_LONG = "sys/fs/cgroup/cpu", "sys/fs/cgroup/cpu,cpuacct"
OF_V2 = {"proc/self/cgroup": "0::/pods/one\n"}
OF_V1 = {"proc/self/cgroup": "5:cpu,cpuacct:/pods/one\n4:memory:/elsewhere\n1:name=systemd:/x\n"}
NO_CONTROLLER = "usage_usec 900\nuser_usec 800\nsystem_usec 100\n"


def v2(group: str, quota: str, usec: int = 0, periods: int = 0) -> dict[str, str]:
    """A group's files, of version 2."""
    stat = f"{NO_CONTROLLER}nr_periods {periods}\nnr_throttled 2\nthrottled_usec {usec}\nnr_bursts 0\n"
    return {f"{group}/cpu.max": f"{quota}\n", f"{group}/cpu.stat": stat}


def v1(group: str, quota: int, ns: int = 0, period: int = 100_000) -> dict[str, str]:
    """A group's files, of version 1."""
    stat = f"nr_periods 7\nnr_throttled 2\nthrottled_time {ns}\nnr_bursts 0\nburst_time 0\n"
    return {
        f"{group}/cpu.cfs_quota_us": f"{quota}\n",
        f"{group}/cpu.cfs_period_us": f"{period}\n",
        f"{group}/cpu.stat": stat,
    }


# Files, and what they come to: throttled nanoseconds, and cores that are allowed.
CASES: Mapping[str, tuple[Mapping[str, str], int | None, float | None]] = {
    "no control groups at all": ({}, None, None),
    "groups of which nothing is there": (OF_V2, None, None),
    "version 2, a quota": (OF_V2 | v2(f"{V2}/pods/one", "150000 100000", 2500), 2_500_000, 1.5),
    "version 2, no quota": (OF_V2 | v2(f"{V2}/pods/one", "max 100000"), 0, None),
    "version 2, less than a core": (OF_V2 | v2(f"{V2}/pods/one", "5000 50000", 1), 1000, 0.1),
    "version 2, without the controller": (OF_V2 | {f"{V2}/pods/one/cpu.stat": NO_CONTROLLER}, None, None),
    "version 2, the tightest is its own": (
        OF_V2 | v2(f"{V2}/pods/one", "100000 100000", 5) | v2(f"{V2}/pods", "400000 100000"),
        5000,
        1.0,
    ),
    "version 2, the tightest is above": (
        OF_V2 | v2(f"{V2}/pods/one", "400000 100000") | v2(f"{V2}/pods", "200000 100000", 7),
        7000,
        2.0,
    ),
    "version 2, the only one is above": (
        OF_V2 | v2(f"{V2}/pods/one", "max 100000") | v2(f"{V2}/pods", "200000 100000", 7),
        7000,
        2.0,
    ),
    "version 2, the only one is above groups without the controller": (
        OF_V2 | {f"{V2}/pods/one/cpu.stat": NO_CONTROLLER} | v2(f"{V2}/pods", "200000 100000", 7),
        7000,
        2.0,
    ),
    "version 2, two quotas took their parts": (
        OF_V2 | v2(f"{V2}/pods/one", "100000 100000", 5) | v2(f"{V2}/pods", "150000 100000", 7),
        12_000,
        1.0,
    ),
    "version 2, the host's path is not in the container": (
        {"proc/self/cgroup": "0::/kubepods/pod7/c9\n"} | v2(V2, "300000 100000", 9),
        9000,
        3.0,
    ),
    "version 2, a group beside is nobody's business": (
        OF_V2 | v2(f"{V2}/pods/one", "max 100000", 1) | v2(f"{V2}/pods/two", "100000 100000", 8),
        1000,
        None,
    ),
    "version 1, a quota": (OF_V1 | v1(f"{V1}/pods/one", 250_000, 2500), 2500, 2.5),
    "version 1, no quota": (OF_V1 | v1(f"{V1}/pods/one", -1), 0, None),
    "version 1, another period": (OF_V1 | v1(f"{V1}/pods/one", 5000, 3, period=10_000), 3, 0.5),
    "version 1, the tightest is above": (
        OF_V1 | v1(f"{V1}/pods/one", 400_000) | v1(f"{V1}/pods", 200_000, 6) | v1(V1, -1),
        6,
        2.0,
    ),
    "version 1, by its long name": (OF_V1 | v1(f"{V1_LONG}/pods/one", 250_000, 2500), 2500, 2.5),
    "version 1, the host's path is not in the container": (OF_V1 | v1(V1, 100_000, 4), 4, 1.0),
    "version 1, a quota that nothing counts": (
        OF_V1 | {f"{V1}/cpu.cfs_quota_us": "50000\n", f"{V1}/cpu.cfs_period_us": "100000\n"},
        None,
        0.5,
    ),
    "version 2 beside version 1, which has the controller": (
        {"proc/self/cgroup": "1:cpu:/a\n0::/b\n"}
        | v1(f"{V1}/a", 100_000, 4)
        | {f"{UNIFIED}/b/cpu.stat": NO_CONTROLLER},
        4,
        1.0,
    ),
    "version 2 beside version 1, which has it not": (
        {"proc/self/cgroup": "1:name=systemd:/a\n0::/b\n"} | v2(f"{UNIFIED}/b", "100000 100000", 4),
        4000,
        1.0,
    ),
    "a quota without words": (OF_V2 | v2(f"{V2}/pods/one", "", 3), 3000, None),
    "a quota of nonsense": (OF_V2 | v2(f"{V2}/pods/one", "many few", 3), 3000, None),
    "a quota of nothing": (OF_V2 | v2(f"{V2}/pods/one", "0 0", 3), 3000, None),
    "counts of nonsense": (
        OF_V2 | v2(f"{V2}/pods/one", "100000 100000") | {f"{V2}/pods/one/cpu.stat": "nr_periods x\n"},
        None,
        1.0,
    ),
}


def laid(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


@pytest.mark.parametrize("case", CASES)
def test_quotas_and_what_they_took_are_found(case: str, tmp_path: Path) -> None:
    files, throttled_ns, quota_cores = CASES[case]
    usage = Machine(laid(tmp_path, files)).look([])
    assert (usage.throttled_ns, usage.quota_cores) == (throttled_ns, quota_cores)


def test_a_group_that_is_found_by_two_names_counts_once(tmp_path: Path) -> None:
    laid(tmp_path, OF_V1 | v1(f"{V1_LONG}/pods/one", 100_000, 5))
    (tmp_path / V1).symlink_to("cpu,cpuacct")
    assert Machine(tmp_path).look([]).throttled_ns == 5


def test_files_that_cannot_be_read_tell_nothing(tmp_path: Path) -> None:
    group = laid(tmp_path, OF_V2) / V2 / "pods/one"
    for name in ("cpu.max", "cpu.stat"):
        (group / name).mkdir(parents=True)
    (tmp_path / "proc/stat").mkdir()
    usage = Machine(tmp_path).look([])
    assert (usage.throttled_ns, usage.quota_cores, usage.idle_ns) == (None, None, 0)


def test_a_group_that_is_gone_since_tells_nothing_any_more(tmp_path: Path) -> None:
    group = f"{V2}/pods/one"
    machine = Machine(laid(tmp_path, OF_V2 | v2(group, "100000 100000", 5)))
    for name in ("cpu.max", "cpu.stat"):
        (tmp_path / group / name).unlink()
    usage = machine.look([])
    assert (usage.throttled_ns, usage.quota_cores) == (None, None)


def test_a_quota_that_is_changed_since_is_the_new_one(tmp_path: Path) -> None:
    group = f"{V2}/pods/one"
    machine = Machine(laid(tmp_path, OF_V2 | v2(group, "max 100000")))
    assert machine.look([]).quota_cores is None
    laid(tmp_path, v2(group, "200000 100000", 8))
    usage = machine.look([])
    assert (usage.throttled_ns, usage.quota_cores) == (8000, 2.0)


def test_idle_time_is_that_of_the_cores_it_may_run_on(tmp_path: Path) -> None:
    mine = os.sched_getaffinity(0)
    beside = max(mine) + 1
    # user, nice, system, idle, iowait, irq, ...; ticks.
    lines = ["cpu  9 9 9 99999 99999 9 9 9 9 9"]
    lines += [f"cpu{core} 5 5 5 300 20 5 5 5 0 0" for core in mine]
    lines += [f"cpu{beside} 5 5 5 77777 5 5 5 5 0 0", "intr 12 0 0", "ctxt 5", "btime 1795248056"]
    usage = Machine(laid(tmp_path, {"proc/stat": "\n".join(lines) + "\n"})).look([])
    assert usage.cores == len(mine)
    assert usage.idle_ns == 320 * len(mine) * S // os.sysconf("SC_CLK_TCK")


NOTHING = Usage(at_ns=0, cores=4, front_ns=0, others_ns={}, idle_ns=0)


class TestBetween:
    def test_what_was_used_is_told_in_cores(self) -> None:
        before = Usage(10 * S, 4, front_ns=S, others_ns={1: 5 * S, 2: S}, idle_ns=7 * S)
        after = Usage(12 * S, 4, front_ns=2 * S, others_ns={1: 6 * S, 2: 3 * S}, idle_ns=9 * S)
        assert between(before, after, running=2.0) == Spell(
            seconds=2.0,
            budget=4,
            front=0.5,
            workers=1.5,
            idle=1.0,
            throttled=0.0,
            cores=4,
            quota_cores=None,
        )

    def test_a_process_that_came_since_counts_whole_and_one_that_went_counts_nothing(self) -> None:
        before = replace(NOTHING, others_ns={1: 9 * S, 2: S})
        after = replace(NOTHING, at_ns=S, others_ns={2: S + S // 4, 3: S // 2})
        assert between(before, after, running=1.0).workers == 0.75

    def test_one_that_took_over_a_number_takes_nothing_away(self) -> None:
        before = replace(NOTHING, others_ns={1: 9 * S})
        assert between(before, replace(NOTHING, at_ns=S, others_ns={1: 5}), running=1.0).workers == 0

    @pytest.mark.parametrize(
        ("quota", "budget"), [(None, 4), (1.5, 1.5), (16.0, 4)], ids=["none", "tighter", "wider"]
    )
    def test_what_may_be_used_is_the_less_of_cores_and_quota(
        self, quota: float | None, budget: float
    ) -> None:
        spell = between(NOTHING, replace(NOTHING, at_ns=S, quota_cores=quota), running=1.0)
        assert (spell.budget, spell.quota_cores, spell.cores) == (budget, quota, 4)

    # Throttled time of two seconds, of threads that wanted so many cores of four: the part of the time they waited.
    @pytest.mark.parametrize(
        ("throttled_ns", "running", "expected"),
        [
            (0, 2.0, 0.0),
            (S, 1.0, 0.5),
            (S, 2.0, 0.25),
            (S, 0.1, 0.5),
            (4 * S, 9.0, 0.5),
            (99 * S, 2.0, 1.0),
        ],
        ids=["none", "of one", "of two", "of less than one", "of more than there are", "of more than can be"],
    )
    def test_what_a_quota_took_is_a_part_of_the_time(
        self, throttled_ns: int, running: float, expected: float
    ) -> None:
        before = replace(NOTHING, throttled_ns=5 * S)
        after = replace(NOTHING, at_ns=2 * S, throttled_ns=5 * S + throttled_ns)
        assert between(before, after, running).throttled == expected

    @pytest.mark.parametrize(("first", "second"), [(None, None), (None, 5 * S), (5 * S, None), (5 * S, S)])
    def test_what_is_not_known_at_both_ends_or_goes_back_is_nothing(
        self, first: int | None, second: int | None
    ) -> None:
        before, after = replace(NOTHING, throttled_ns=first), replace(NOTHING, at_ns=S, throttled_ns=second)
        assert between(before, after, running=1.0).throttled == 0

    def test_two_looks_at_the_same_moment_are_no_error(self) -> None:
        assert between(NOTHING, NOTHING, running=0.0).seconds > 0


NUMBERS = st.integers(0, 10**12)
USAGES = st.builds(
    Usage,
    NUMBERS,
    st.integers(1, 64),
    NUMBERS,
    st.dictionaries(st.integers(1, 9), NUMBERS),
    NUMBERS,
    st.none() | NUMBERS,
    st.none() | st.floats(0.01, 100),
)


@given(USAGES, USAGES, st.floats(0, 100))
def test_whatever_the_kernel_says_no_part_is_less_than_nothing_or_more_than_all(
    before: Usage, after: Usage, running: float
) -> None:
    spell = between(before, after, running)
    assert spell.seconds > 0
    assert 0 <= spell.throttled <= 1
    assert min(spell.workers, spell.idle) >= 0
    assert 0 < spell.budget <= spell.cores


SPELL = Spell(1.0, budget=4, front=0.5, workers=1.0, idle=2.0, throttled=0.0, cores=4, quota_cores=None)


class TestJoined:
    def test_none_is_none(self) -> None:
        assert joined([]) is None

    def test_one_is_itself(self) -> None:
        assert joined([SPELL]) == SPELL

    def test_longer_ones_weigh_more_and_the_last_says_what_there_is(self) -> None:
        last = Spell(3.0, 2.0, front=0.1, workers=3.0, idle=0.0, throttled=0.4, cores=8, quota_cores=2.0)
        expected = Spell(4.0, 2.0, front=0.2, workers=2.5, idle=0.5, throttled=0.3, cores=8, quota_cores=2.0)
        together = joined([SPELL, last])
        assert together is not None
        assert astuple(together) == pytest.approx(astuple(expected))

    @given(
        st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=9)
    )
    def test_joined_they_are_what_one_look_at_both_ends_would_have_told(
        self, steps: list[tuple[int, int, int]]
    ) -> None:
        looks = [NOTHING]
        for seconds, front, worker in steps:
            last = looks[-1]
            looks.append(
                replace(
                    last,
                    at_ns=last.at_ns + seconds * S,
                    front_ns=last.front_ns + front * S,
                    others_ns={1: last.others_ns.get(1, 0) + worker * S},
                )
            )
        parts = joined([between(a, b, 1.0) for a, b in pairwise(looks)])
        whole = between(looks[0], looks[-1], 1.0)
        assert parts is not None
        assert (parts.seconds, parts.front, parts.workers) == pytest.approx(
            (whole.seconds, whole.front, whole.workers)
        )


@contextmanager
def busy() -> Iterator[int]:
    """A process that works until the block ends."""
    code = "print('there', flush=True); [None for _ in iter(int, 1)]"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process.pid
        finally:
            process.kill()


class TestThisMachine:
    def test_its_own_time_grows_as_it_works(self) -> None:
        machine = Machine()
        before = machine.look([])
        while time.process_time_ns() < before.front_ns + 30_000_000:
            pass
        spell = between(before, machine.look([]), running=1.0)
        assert spell.front * spell.seconds >= 0.03
        assert spell.front <= 1.05
        assert spell.workers == 0
        assert before.cores == len(os.sched_getaffinity(0)) == spell.cores

    def test_so_does_that_of_its_workers(self) -> None:
        machine = Machine()
        with busy() as pid:
            before = machine.look([pid])
            while cpu_ns(pid) < before.others_ns[pid] + 30_000_000:
                os.sched_yield()
            spell = between(before, machine.look([pid]), running=1.0)
        assert spell.workers * spell.seconds >= 0.03

    def test_a_process_that_is_gone_is_left_out(self) -> None:
        machine = Machine()
        with busy() as pid:
            before = machine.look([pid])
            assert set(before.others_ns) == {pid}
        after = machine.look([pid])
        assert after.others_ns == {}
        assert between(before, after, running=1.0).workers == 0

    def test_its_cores_have_been_idle_at_some_time(self) -> None:
        first = Machine().look([])
        assert 0 < first.idle_ns <= Machine().look([]).idle_ns


ROOT = Path(__file__).parents[2]
# A process that goes into a group, works there until it was kept waiting for 0.2 s, and tells what it saw.
CHILD = """
import dataclasses, json, os, pathlib, sys
from sidecar.observe.machine import Machine, between
pathlib.Path(sys.argv[1], "cgroup.procs").write_text(str(os.getpid()))
machine = Machine()
first = last = machine.look([])
while last.throttled_ns < first.throttled_ns + 200_000_000:
    last = machine.look([])
print(json.dumps(dataclasses.asdict(between(first, last, running=1.0))))
"""


@pytest.fixture
def group() -> Iterator[Path]:
    """A CPU group of version 1 with a tenth of a core, and one without a quota inside; removed at the end."""
    made = Path(f"/sys/fs/cgroup/cpu/sidecar-test-{os.getpid()}")
    try:
        made.mkdir()
    except OSError as error:
        pytest.skip(f"no CPU groups of version 1 can be made here: {error}")
    try:
        (made / "cpu.cfs_quota_us").write_text("10000")
        (made / "cpu.cfs_period_us").write_text("100000")
        (made / "inside").mkdir()
        yield made
    finally:
        for each in (made / "inside", made):
            if each.exists():
                each.rmdir()


@pytest.mark.parametrize("where", ["", "inside"], ids=["its own", "one above its own"])
def test_what_a_real_quota_takes_is_seen(where: str, group: Path) -> None:
    command = [sys.executable, "-c", CHILD, str(group / where)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    spell = Spell(**json.loads(ended.stdout))
    assert (spell.quota_cores, spell.budget) == (0.1, 0.1)
    assert 0.1 < spell.throttled <= 1
    # A period's 10 ms are spent at once; the first may have begun before, and a tick more is taken and paid back.
    assert spell.front <= 0.1 + 0.04 / spell.seconds


@pytest.mark.parametrize(
    ("off_core", "idle", "expected"),
    [(0.6, 1.0, 0.6), (0.2, 1.0, 0.0), (0.6, 0.2, 0.0)],
)
def test_workers_that_are_off_idle_cores_are_kept_from_running_though_no_quota_tells(
    off_core: float, idle: float, expected: float
) -> None:
    before = replace(NOTHING, cores=2)
    after = replace(before, at_ns=S, idle_ns=round(idle * S))
    assert between(before, after, running=1.0, off_core=off_core).throttled == expected
