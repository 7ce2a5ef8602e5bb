"""What fuzzing begins with holds, and what it once found does not come back."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzz.targets import CRASHES, TARGETS, format_of
from tests import corpus

_KEPT = sorted(path for path in CRASHES.glob("*/*") if path.is_file())


@pytest.mark.parametrize("path", _KEPT, ids=[f"{path.parent.name}/{path.name}" for path in _KEPT])
def test_what_once_broke_a_promise_keeps_it(path: Path) -> None:
    TARGETS[path.parent.name].run(path.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_what_fuzzing_begins_with_keeps_every_promise(name: str) -> None:
    target = TARGETS[name]
    # Of files every fourth: all others are what other tests are about.
    for seed in list(target.seeds())[:: 4 if target.media else 1]:
        target.run(seed)


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_and_anything_keep_every_promise(name: str) -> None:
    for data in (b"", b"\0", b"\xff" * 300, bytes(20_000), corpus.data("garbage.bin")):
        TARGETS[name].run(data)


def test_every_target_says_first_what_must_hold() -> None:
    for target in TARGETS.values():
        assert (target.run.__doc__ or "").startswith("Whatever ")


def test_every_folder_of_findings_is_a_targets() -> None:
    assert {path.name for path in CRASHES.iterdir() if path.is_dir()} <= set(TARGETS)


def test_the_formats_that_are_taken_apart_are_found_by_their_content() -> None:
    assert format_of(corpus.image("png_rgb.png")) == "png"
    assert format_of(b"") is None
