"""Which files are looked at for a process's control groups: its own first, then those above."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.observe.cgroups import Places, group_files

PLACES: Places = {
    "": (("cg", "v2"), ("cg/unified", "v2")),
    "cpu": (("cg/cpu", "v1"),),
}

CASES: Mapping[str, tuple[str, Sequence[str]]] = {
    "nothing told": ("", []),
    "version 2, the top": ("0::/\n", ["cg/v2", "cg/unified/v2"]),
    "version 2, deep": (
        "0::/pods/one\n",
        [
            "cg/pods/one/v2",
            "cg/pods/v2",
            "cg/v2",
            "cg/unified/pods/one/v2",
            "cg/unified/pods/v2",
            "cg/unified/v2",
        ],
    ),
    "version 1": (
        "3:cpuset:/x\n2:cpu:/docker/c9\n",
        ["cg/cpu/docker/c9/v1", "cg/cpu/docker/v1", "cg/cpu/v1"],
    ),
    "version 1, two controllers in one": ("2:cpuacct,cpu:/a\n", ["cg/cpu/a/v1", "cg/cpu/v1"]),
    "controllers whose names only begin so": ("2:cpuset,cpuacct:/a\n", []),
    "a hierarchy without controllers": ("1:name=systemd:/a\n", []),
    "both versions": (
        "2:cpu:/a\n0::/b\n",
        ["cg/cpu/a/v1", "cg/cpu/v1", "cg/b/v2", "cg/v2", "cg/unified/b/v2", "cg/unified/v2"],
    ),
    "a group above the namespace's top": ("2:cpu:/../../side\n", ["cg/cpu/side/v1", "cg/cpu/v1"]),
    "a group named with a colon": ("2:cpu:/a:b\n", ["cg/cpu/a:b/v1", "cg/cpu/v1"]),
    "a group named with what some take for a line's end": (
        "2:cpu:/a\u2028b\x0bc\n",
        ["cg/cpu/a\u2028b\x0bc/v1", "cg/cpu/v1"],
    ),
    "a group that was removed": ("2:cpu:/a (deleted)\n", ["cg/cpu/a (deleted)/v1", "cg/cpu/v1"]),
    "no end of the last line": ("2:cpu:/", ["cg/cpu/v1"]),
    "an empty line": ("\n2:cpu:/\n\n", ["cg/cpu/v1"]),
    "lines that are none": ("2:cpu\nnonsense\n", []),
}


def told(root: Path, text: bytes) -> Path:
    (root / "proc/self").mkdir(parents=True, exist_ok=True)
    (root / "proc/self/cgroup").write_bytes(text)
    return root


@pytest.mark.parametrize("case", CASES)
def test_a_process_s_groups_are_its_own_and_those_above(case: str, tmp_path: Path) -> None:
    text, expected = CASES[case]
    root = told(tmp_path, text.encode())
    assert [root / name for name in expected] == list(group_files(root, PLACES))


def test_where_the_kernel_tells_of_none_there_are_none(tmp_path: Path) -> None:
    assert not list(group_files(tmp_path, PLACES))
    (tmp_path / "proc/self/cgroup").mkdir(parents=True)
    assert not list(group_files(tmp_path, PLACES))


def test_a_group_may_be_named_by_any_bytes(tmp_path: Path) -> None:
    own, top = group_files(told(tmp_path, b"2:cpu:/\xff\xfe\n"), PLACES)
    assert os.fsencode(own.parent.name) == b"\xff\xfe"
    assert top == tmp_path / "cg/cpu/v1"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("root")


@given(text=st.binary() | st.from_regex(rb"\A([0-9]{0,2}:(cpu|,|x)*:(/|\.|a|:){0,9}\n?){0,4}\Z"))
def test_no_text_is_an_error_and_no_file_lies_outside_the_mounts(root: Path, text: bytes) -> None:
    mounts = [root / mount for places in PLACES.values() for mount, _ in places]
    for file in group_files(told(root, text), PLACES):
        assert ".." not in file.parts
        assert any(file.is_relative_to(mount) for mount in mounts)


def test_this_process_has_groups_or_none_and_reading_says_which() -> None:
    places: Places = {"": (("sys/fs/cgroup", "cgroup.procs"),), "cpu": (("sys/fs/cgroup/cpu", "tasks"),)}
    for file in group_files(Path("/"), places):
        assert file.is_relative_to("/sys/fs/cgroup")
