"""`sidecar tune`: what is tried, what is best, what is written, and the whole of it on real files and a real server."""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import yaml

import testbed.media
from sidecar.cli.main import run
from sidecar.cli.tune import Plan, Tried, best_of, plans_for, written
from sidecar.media import Modality
from sidecar.settings import load_settings

MEDIA = Path(testbed.media.__file__).parent
CHECKPOINTS = Path(testbed.media.__file__).parents[1] / "checkpoints"
CLIP, SOUNDS = CHECKPOINTS / "clip-vit-base-patch32", CHECKPOINTS / "wav2vec2-base-960h"
IMAGE, AUDIO = "threads.image", "threads.audio"
Said = pytest.CaptureFixture[str]


def tried(image: int, per_s: float, p99_ms: float = 10.0, mode: str = "exact") -> Tried:
    """A plan that gave so much in ten seconds, one item in fifty of it late."""
    count = int(per_s * 10)
    return Tried(
        Plan(mode, {IMAGE: image}), 10.0, [p99_ms if number % 50 == 0 else 1.0 for number in range(count)]
    )


@pytest.mark.parametrize(("cpus", "counts"), [(1, {1, 2}), (2, {1, 2, 3, 4}), (8, {1, 2, 4, 6, 8, 16})])
def test_threads_are_tried_from_one_to_twice_the_cpus(cpus: int, counts: set[int]) -> None:
    plans = plans_for({Modality.IMAGE: CLIP}, cpus)
    assert {plan.threads[IMAGE] for plan in plans} == counts
    assert {plan.mode for plan in plans} == {"exact", "fast"}


def test_pictures_and_sounds_are_tried_in_every_combination() -> None:
    plans = plans_for({Modality.IMAGE: CLIP, Modality.AUDIO: SOUNDS}, 1)
    assert {(plan.threads[IMAGE], plan.threads[AUDIO]) for plan in plans} == {(1, 1), (1, 2), (2, 1), (2, 2)}
    assert {plan.mode for plan in plans_for({Modality.AUDIO: SOUNDS}, 1)} == {"exact"}


def test_the_best_does_most_and_of_those_alike_has_the_fewest_threads() -> None:
    found = [tried(1, 50), tried(2, 99), tried(3, 100), tried(4, 90)]
    assert best_of(found, None) is found[1]


def test_what_is_too_slow_for_the_target_is_not_the_best() -> None:
    found = [tried(1, 50, 20), tried(2, 100, 80)]
    assert best_of(found, 40) is found[0]
    assert best_of(found, 5) is None


def test_fast_is_shown_and_never_chosen() -> None:
    found = [tried(1, 50), tried(1, 100, mode="fast")]
    assert best_of(found, None) is found[0]


def test_the_files_are_settings_values_and_a_picture(tmp_path: Path) -> None:
    found = [tried(1, 50), tried(2, 100)]
    files = written(found, best_of(found, None), 8)
    (tmp_path / "plan.yaml").write_text(files["plan.yaml"])
    assert load_settings(tmp_path / "plan.yaml", {}).threads.image == 2
    assert yaml.safe_load(files["values.yaml"]) == {"config": {"threads": {"image": 2}}}
    drawn = ET.fromstring(files["tune.svg"])
    assert len(drawn.findall("{*}polyline")) == 3  # a curve in either panel, and the legend's


@pytest.mark.full
def test_a_corpus_is_tried_for_real(tmp_path: Path, capsys: Said) -> None:
    media = tmp_path / "media"
    media.mkdir()
    shutil.copy(MEDIA / "text.jpg", media)
    (media / "notes.txt").write_text("no picture")
    out = tmp_path / "out"
    flags = [
        "--corpus",
        str(media),
        "--recipe",
        str(CLIP),
        "--seconds",
        "0.3",
        "--callers",
        "2",
        "--out",
        str(out),
    ]
    assert run(["tune", *flags, "--json"], {}) == 0
    found = json.loads(capsys.readouterr().out)
    assert all(row["items"] > 0 for row in found["tried"])
    assert found["best"]["mode"] == "exact"
    assert {path.name for path in out.iterdir()} == {"plan.yaml", "values.yaml", "tune.svg"}
    load_settings(out / "plan.yaml", {})


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--corpus", "nowhere", "--recipe", str(CLIP)], "no picture and no sound"),
        (["--corpus", str(MEDIA), "--recipe", str(SOUNDS)], "has image files, and no `--recipe` is for them"),
        (["--corpus", str(MEDIA), "--recipe", "nowhere"], "nowhere"),
    ],
)
def test_what_nothing_can_be_tried_with_is_refused(flags: list[str], words: str, capsys: Said) -> None:
    assert run(["tune", *flags], {}) == 2
    assert words in capsys.readouterr().err
