"""What recipes must reach, and what a child tells of a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bench import preparers
from bench.processes import Child
from bench.recipes import SIMD, WHEEL, targets
from testbed.parity import published
from testbed.pictures import blocks, ramp

CLIP = published("clip-vit-base-patch32")
HEIGHT, WIDTH = 1000, 1200


def case(kind: str, **figures: Any) -> dict[str, Any]:
    return {"case": kind, "kind": kind, **figures}


def measured(ratio: float, pillows: tuple[str, ...] = (WHEEL, SIMD)) -> list[dict[str, Any]]:
    """Cases in which every ratio is this one."""
    names = {
        "JPEG 1920x1080 to CLIP 224": ("PIL backend ÷ exact", "torchvision backend ÷ exact", "exact ÷ fast"),
        "JPEG 4000x3000 to CLIP 224": ("PIL backend ÷ exact", "torchvision backend ÷ exact", "exact ÷ fast"),
        "JPEG 1920x1080 to Qwen2-VL": ("PIL backend ÷ exact",),
        "30 s of sound to Whisper's log-mel": ("numpy path ÷ ours", "torch path ÷ ours"),
    }
    return [
        {
            "case": name,
            "kind": "pictures",
            "ratios": {f"{each}, {pillow}": ratio for each in ratios for pillow in pillows},
        }
        for name, ratios in names.items()
    ]


@pytest.fixture
def picture(tmp_path: Path) -> str:
    path = tmp_path / "picture.jpg"
    Image.fromarray(ramp(HEIGHT, WIDTH) // 2 + blocks(HEIGHT, WIDTH) // 4).save(path)
    return str(path)


def test_each_pillow_has_targets_of_its_own() -> None:
    one, both = targets(measured(10, (WHEEL,))), targets(measured(10))
    assert len(both) == 2 * len(one) == 18
    assert all(each["holds"] for each in both)
    assert not any(each["holds"] for each in targets(measured(1)))


def test_what_was_not_measured_has_no_target() -> None:
    cases = [{**each, "ratios": {}} for each in measured(10)]
    assert targets(cases) == []


def test_fast_is_held_to_its_error_where_it_differs() -> None:
    error = case("error", differ=1, mean_absolute_difference=1.3, psnr_median_db=43, psnr_min_db=33)
    found = targets([*measured(10), error, case("error", differ=0)])[-3:]
    assert [each["holds"] for each in found] == [False, True, False]


def test_memory_is_held_to_eight_megabytes() -> None:
    found = targets([*measured(10), case("memory", over_mb=7.9), case("memory", over_mb=8.1)])[-2:]
    assert [each["holds"] for each in found] == [True, False]


def test_ours_and_the_judge_make_the_same(picture: str) -> None:
    ours = preparers.sums("ours", CLIP, picture, reference="pil")
    assert ours == preparers.sums("pil", CLIP, picture)


def test_fast_and_exact_are_apart_by_little(picture: str) -> None:
    ((mean, square),) = preparers.apart(CLIP, [picture])
    assert 0 < mean < 10
    assert square > 0


def test_a_child_tells_what_a_picture_took(picture: str, tmp_path: Path) -> None:
    warm = tmp_path / "warm.jpg"
    Image.new("RGB", (64, 48)).save(warm)
    with Child.of("bench.preparers") as child:
        assert child.ask(ask="spent", work="ours", keys=CLIP, paths=[picture]) > 0
        found = child.ask(ask="peak", keys=CLIP, path=picture, warm=str(warm))
    assert found["output"] == 3 * 224 * 224 * 4
    # The kernel counts pages in batches, so that a little may be missing.
    assert 3 * HEIGHT * WIDTH < found["peak"] < 3 * HEIGHT * WIDTH + found["output"] + (8 << 20)
    assert json.dumps(found)
