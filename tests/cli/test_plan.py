"""`sidecar plan`: the numbers, where they come from, and the same for a container that is not there yet."""

from __future__ import annotations

import json
import os

import pytest

from sidecar.cli.main import run

Said = pytest.CaptureFixture[str]


def told(capsys: Said, *flags: str) -> dict[str, object]:
    assert run(["plan", "--json", *flags], {}) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def numbers(found: dict[str, object]) -> dict[str, int]:
    plan = found["plan"]
    assert isinstance(plan, list)
    return {each["what"]: each["number"] for each in plan}


def test_every_number_stands_with_its_reason_and_the_tightest_limit_is_named(capsys: Said) -> None:
    assert run(["plan"], {}) == 0
    said = capsys.readouterr().out
    for key in ("threads.image", "threads.audio", "threads.probe", "threads.express", "workers.processes"):
        assert key in said
    assert said.count("the tightest") == 2
    assert "the machine's memory" in said


def test_it_plans_for_this_container(capsys: Said) -> None:
    found = told(capsys)
    assert found["cpus"] == sorted(os.sched_getaffinity(0))


def test_it_plans_for_a_container_that_is_not_there_yet(capsys: Said) -> None:
    found = told(capsys, "--cores", "6.5", "--memory", "4Gi")
    assert (found["cores"], found["memory_bytes"]) == (6.5, 4 << 30)
    assert numbers(found)["threads.image"] == 6


def test_settings_win_and_say_so(capsys: Said) -> None:
    assert run(["plan", "--set", "threads.image=1"], {"SIDECAR_THREADS__AUDIO": "2"}) == 0
    assert capsys.readouterr().out.count("set by hand") == 2


def test_what_cannot_be_is_refused_as_the_server_would(capsys: Said) -> None:
    assert run(["plan", "--set", "threads.image=4096"], {}) == 2
    assert "`threads.image` has the value 4096" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [["--memory", "2 GB"], ["--cores", "0"], ["--cores", "many"]])
def test_nonsense_is_a_usage_error(flags: list[str], capsys: Said) -> None:
    with pytest.raises(SystemExit) as ended:
        run(["plan", *flags], {})
    assert ended.value.code == 2
    assert flags[0] in capsys.readouterr().err
