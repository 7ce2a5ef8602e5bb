"""Files that change are read again, and what makes no sense changes nothing and is told once."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import pytest

from sidecar.edge.watched import Watched
from sidecar.errors import SettingsError


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 10.0
        return self.now


def read(contents: Sequence[bytes]) -> bytes:
    if b"bad" in contents:
        raise ValueError("it is bad")
    return b"+".join(contents)


def swap(folder: Path, name: str, **files: bytes) -> None:
    """As Kubernetes renews a mounted Secret: a new folder, to which one link is moved."""
    (folder / name).mkdir()
    for file, content in files.items():
        (folder / name / file).write_bytes(content)
    fresh = folder / "..fresh"
    fresh.symlink_to(name)
    fresh.rename(folder / "..data")


def test_a_mounted_secret_that_was_exchanged_is_read_anew(tmp_path: Path) -> None:
    swap(tmp_path, "one", a=b"1", b=b"2")
    for name in ("a", "b"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    changes: list[bool] = []
    found = Watched(
        "key", [tmp_path / "a", tmp_path / "b"], read, changed=lambda: changes.append(True), clock=Clock()
    )
    assert (found.value(), found.value(), changes) == (b"1+2", b"1+2", [])
    swap(tmp_path, "two", a=b"3", b=b"4")
    assert (found.value(), found.value(), changes) == (b"3+4", b"3+4", [True])


def test_what_makes_no_sense_or_is_gone_leaves_the_old_content_and_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"good")
    found = Watched("key", [file], read, clock=Clock())
    file.write_bytes(b"bad")
    assert [found.value() for _ in range(3)] == [b"good"] * 3
    file.unlink()
    assert [found.value() for _ in range(3)] == [b"good"] * 3
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    file.write_bytes(b"better")
    assert found.value() == b"better"


def test_it_is_looked_at_once_a_second_at_most(tmp_path: Path) -> None:
    file, times = tmp_path / "a", iter([0.0, 0.4, 0.9, 1.1])
    file.write_bytes(b"old")
    found = Watched("key", [file], read, clock=lambda: next(times))
    file.write_bytes(b"newer")
    assert [found.value() for _ in range(3)] == [b"old", b"old", b"newer"]


@pytest.mark.parametrize("content", [None, b"bad", b"x" * (16 * 1024 * 1024 + 1)])
def test_what_cannot_be_used_at_the_start_is_told_by_its_key_and_file(
    tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "a"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingsError, match=f"`some.key` has {file}"):
        Watched("some.key", [file], read)
