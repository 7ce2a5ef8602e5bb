"""Without a container engine the image's test says so, and how to get one; with one it leaves nothing behind."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.image.engine import Engine, EngineFailed, NoEngine

PROJECT = Path(__file__).parents[2]
# An engine in a few lines: it writes down what it is told, and knows one container that never says what is waited for.
SCRIPT = """\
#!/bin/sh
echo "$@" >>"$0.told"
case "$1" in
version) exit {status} ;;
inspect) echo '{{"StartedAt": "2026-11-30T12:00:00.123456789Z", "Running": false}}' ;;
logs) echo '2026-11-30T12:00:02.623456789Z serving on 0.0.0.0:50051' ;;
esac
"""


@pytest.fixture
def command(tmp_path: Path) -> Path:
    script = tmp_path / "engine"
    script.write_text(SCRIPT.format(status=0))
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return script


def told(command: Path) -> list[str]:
    return Path(f"{command}.told").read_text().splitlines()


def test_a_command_that_is_not_there_is_told_with_what_to_do() -> None:
    with pytest.raises(NoEngine, match=r"no command 'no-such-engine'.*Install Docker 23"):
        Engine("no-such-engine", "run")


def test_an_engine_that_does_not_answer_is_told_with_what_to_do(command: Path) -> None:
    command.write_text(SCRIPT.format(status=1))
    with pytest.raises(NoEngine, match=r"no container engine answers(.|\n)*DOCKER_HOST"):
        Engine(str(command), "run")


@pytest.mark.parametrize(
    "program", [["scripts/image.sh", "--test"], [sys.executable, "-m", "tests.image", "none"]]
)
def test_without_an_engine_the_verbs_end_with_3_and_a_way_to_get_one(program: list[str]) -> None:
    where = {"ENGINE": "no-such-engine", "PATH": "/usr/bin:/bin"}
    ended = subprocess.run(
        program, cwd=PROJECT, env=where, check=False, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 3, ended.stderr
    assert "install docker" in ended.stderr.lower()


def test_containers_bear_the_runs_name_and_are_removed_however_it_ends(command: Path) -> None:
    with pytest.raises(EngineFailed), Engine(str(command), "run") as engine:
        engine.start("one", "--read-only", "image")
        engine.once("two", "image")
        raise EngineFailed("as any check may")
    assert told(command)[-1] == "rm --force --volumes run-one run-two"
    assert "create --name run-one --read-only image" in told(command)


def test_a_start_is_measured_by_the_engines_own_clock(command: Path) -> None:
    with Engine(str(command), "run") as engine:
        assert engine.says("run-one", "serving on", within_s=1.0) == pytest.approx(2.5)


def test_a_container_that_ended_without_a_word_is_not_waited_for(command: Path) -> None:
    with Engine(str(command), "run") as engine, pytest.raises(EngineFailed, match="does not say 'ready'"):
        engine.says("run-one", "ready", within_s=60.0)
