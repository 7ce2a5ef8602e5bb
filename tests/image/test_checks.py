"""What is found of an image is told in the form of a benchmark's result; what an engine does not tell is left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.image.checks import Checks, sizes
from tests.image.engine import Engine

# Newest first, as engines tell an image's history; the base has no SHELL.
HISTORY = ("0 USER 10001:10001", "300 COPY /opt/venv", "0 SHELL [/bin/bash -c]", "80 RUN apt-get", "20 ")


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    """An engine that knows one image, of 400 bytes."""
    script = tmp_path / "engine"
    (tmp_path / "history").write_text("\n".join(HISTORY))
    script.write_text(
        f'#!/bin/sh\ncase "$1" in\nimage) echo 400 ;;\nhistory) cat {tmp_path}/history ;;\nesac\n'
    )
    script.chmod(0o755)
    return Engine(str(script), "run")


def test_checks_are_targets_that_hold_or_do_not() -> None:
    checks = Checks(lambda _what, _holds, _found: None)
    checks.that("it has a user", 1, "10001")
    checks.that("it has no compiler", [], ["cc", "ld"])
    assert checks.targets == [
        {"target": "it has a user", "figure": "10001", "bound": "holds", "holds": True},
        {"target": "it has no compiler", "figure": "['cc', 'ld']", "bound": "holds", "holds": False},
    ]


def test_what_is_found_is_one_line_that_ends_between_words() -> None:
    checks = Checks(lambda _what, _holds, _found: None)
    checks.that("it speaks", holds=True, found="a word\n" * 50)
    (target,) = checks.targets
    assert target["figure"].endswith("a word a …")
    assert len(target["figure"]) <= 150


def test_the_base_is_what_lies_below_the_first_line_of_the_dockerfile(engine: Engine) -> None:
    assert sizes(engine, "image") == {"bytes": 400, "base_bytes": 100}


def test_where_the_engine_tells_no_lines_of_a_dockerfile_only_the_whole_is_told(
    engine: Engine, tmp_path: Path
) -> None:
    (tmp_path / "history").write_text("400 buildah\n")
    assert sizes(engine, "image") == {"bytes": 400}
