"""`sidecar plan --for`: what a person writes becomes cores and memory; what cannot be read is told with its reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sidecar.cli.main import run
from tests import corpus
from tests.running import CHECKPOINTS

Said = pytest.CaptureFixture[str]
CLIP = f"--set=models.clip.recipe={CHECKPOINTS / 'clip-vit-base-patch32'}"
WHISPER = f"--set=models.whisper.recipe={CHECKPOINTS / 'whisper-tiny'}"


def told(capsys: Said, *flags: str) -> dict[str, Any]:
    assert run(["plan", "--json", CLIP, WHISPER, *flags], {}) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def stream(capsys: Said, text: str) -> dict[str, Any]:
    (found,) = told(capsys, "--for", text)["streams"]
    return dict(found)


def test_cores_memory_threads_and_what_was_assumed_are_told(capsys: Said) -> None:
    assert run(["plan", CLIP, "--for", "clip:200/s@1080p"], {}) == 0
    said = capsys.readouterr().out
    for word in (
        "3 cores",
        "in use at these rates",
        "memory limit",
        "arena.bytes",
        "/dev/shm",
        "threads.image",
        "assumed:",
    ):
        assert word in said


def test_rates_add_up_and_may_be_by_the_second_the_minute_and_the_hour(capsys: Said) -> None:
    one = told(capsys, "--for", "clip:60/s@1080p")["demand"]
    three = told(
        capsys, "--for", "clip:60/s@1080p", "--for", "clip:3600/min@1080p", "--for", "clip:216000/h@1080p"
    )["demand"]
    assert three["workers"] == pytest.approx(3 * one["workers"])
    assert three["front"] == pytest.approx(3 * one["front"])


@pytest.mark.parametrize(
    ("one", "same"),
    [("1080p", "1920x1080"), ("1080p", "1920x1080.jpg"), ("12MP", "4000x3000"), ("4k", "2160p")],
)
def test_sizes_may_be_named(one: str, same: str, capsys: Said) -> None:
    first, second = stream(capsys, f"clip:1/s@{one}"), stream(capsys, f"clip:1/s@{same}")
    assert first["cpu_ms"] == second["cpu_ms"]


def test_a_dearer_format_and_a_longer_sound_cost_more(capsys: Said) -> None:
    costs = [stream(capsys, f"clip:1/s@1080p.{kind}")["cpu_ms"] for kind in ("jpeg", "png", "webp")]
    assert costs == sorted(costs)
    sounds = [stream(capsys, f"whisper:1/s@{seconds}s.opus")["cpu_ms"] for seconds in (1, 5, 25)]
    assert sounds == sorted(sounds)


def test_the_facts_of_a_file_count(capsys: Said) -> None:
    path = corpus.path("jpeg_420.jpg")
    found = stream(capsys, f"clip:1/s@{path}")
    assert found["encoded_bytes"] == path.stat().st_size
    assert found["modality"] == "image"


def test_a_directory_stands_in_for_a_model_of_the_settings(capsys: Said) -> None:
    named = stream(capsys, "clip:1/s@1080p")
    found = stream(capsys, f"{CHECKPOINTS / 'clip-vit-base-patch32'}:1/s@1080p")
    assert found["cpu_ms"] == named["cpu_ms"]


def test_a_machine_twice_as_slow_takes_twice_the_cores(capsys: Said) -> None:
    one = told(capsys, "--for", "clip:100/s@1080p")["demand"]
    two = told(capsys, "--for", "clip:100/s@1080p", "--factor", "2")["demand"]
    assert (two["workers"], two["front"]) == pytest.approx((2 * one["workers"], 2 * one["front"]))


def test_replicas_of_the_given_cores_are_counted(capsys: Said) -> None:
    found = told(capsys, "--for", "clip:1000/s@1080p", "--cores", "4")
    assert found["cores"] == 4
    assert found["replicas"] * 4 * 0.85 >= sum(found["demand"].values())


def test_too_little_memory_is_told_and_fails(capsys: Said) -> None:
    assert run(["plan", CLIP, "--for", "clip:100/s@1080p", "--memory", "256Mi"], {}) == 1
    assert "256 MiB of memory are less than" in capsys.readouterr().err


def test_this_machine_can_be_measured(capsys: Said) -> None:
    found = told(capsys, "--for", "clip:1/s@1080p", "--factor", "here")
    assert "measured on this machine" in found["assumed"][0]
    assert found["streams"][0]["cpu_ms"] > 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("clip", "it is not MODEL:RATE@MEDIA"),
        ("clip:many/s@1080p", "it is not MODEL:RATE@MEDIA"),
        ("clip:1.2.3/s@1080p", "'1.2.3' is no number"),
        ("clip:0/s@1080p", "is no rate"),
        ("clip:1/day@1080p", "it is not MODEL:RATE@MEDIA"),
        ("clop:1/s@1080p", "the settings, which are clip, whisper"),
        ("clip:1/s@999p", "'999p' is no size; there are 480p"),
        ("clip:1/s@1080p.psd", "'psd' is no format of pictures"),
        ("clip:1/s@0x10", "a picture has a pixel at least"),
        ("clip:1/s@nowhere.jpg", "nor a file that can be read (No such file or directory)"),
        ("clip:1/s@30s", "clip takes image, and 30s is audio"),
        ("whisper:1/s@30s.mid", "'mid' is no format of sounds"),
        ("whisper:1/s@1.2.3s", "'1.2.3' is no number"),
        ("clip:1/s@1.2.3MP", "'1.2.3' is no number"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_reason(text: str, words: str, capsys: Said) -> None:
    assert run(["plan", CLIP, WHISPER, "--for", text], {}) == 2
    said = capsys.readouterr().err
    assert f"`--for {text}`" in said
    assert words in said


def test_a_file_that_is_no_media_is_told(tmp_path: Path, capsys: Said) -> None:
    (tmp_path / "x").write_bytes(b"nothing")
    assert run(["plan", CLIP, "--for", f"clip:1/s@{tmp_path / 'x'}"], {}) == 2
    assert "`--for" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [["--factor", "0"], ["--factor", "fast"], ["--cores", "2.5"]])
def test_flags_that_fit_nothing_are_told(flags: list[str], capsys: Said) -> None:
    assert run(["plan", CLIP, "--for", "clip:1/s@1080p", *flags], {}) == 2
    assert f"`{flags[0]} {flags[1]}`" in capsys.readouterr().err
