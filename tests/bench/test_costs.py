"""What costs must reach, and media that are as different as they say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bench.assortment import FITTED, JUDGED, pictures, sounds
from bench.costs import targets
from sidecar.media import ImageInfo, Source
from sidecar.stages.admit.fitted import RATES
from sidecar.stages.probe import probe


def cases(gsd: float, median: float, header_us: float, jobs: int) -> list[dict[str, Any]]:
    return [
        {"case": "actual ÷ quoted, codec jpeg", "kind": "judged", "gsd": 9.0, "median": 9.0},
        {"case": "actual ÷ quoted, all", "kind": "judged", "gsd": gsd, "median": median},
        {"case": "a picture's header, CLIP", "kind": "header", "quote_us": 1.0, "header_us": header_us},
        {"case": "half", "kind": "relearned", "jobs_until_learned": jobs},
    ]


@pytest.mark.parametrize(
    ("found", "missed"),
    [
        (cases(1.29, 1.1, 49.0, 200), 0),
        (cases(1.31, 1.0, 49.0, 200), 1),
        (cases(1.29, 1.2, 49.0, 200), 1),
        (cases(1.29, 0.8, 49.0, 200), 1),
        (cases(1.29, 1.0, 51.0, 200), 1),
        (cases(1.29, 1.0, 49.0, 201), 1),
    ],
)
def test_a_target_is_missed_where_its_bound_is_passed(found: list[dict[str, Any]], missed: int) -> None:
    assert sum(not target["holds"] for target in targets(found)) == missed


def test_what_is_judged_was_not_fitted() -> None:
    assert not {*FITTED.sizes} & {*JUDGED.sizes}
    assert not {*FITTED.seconds} & {*JUDGED.seconds}
    assert FITTED.seed != JUDGED.seed


@pytest.mark.full
def test_every_format_mode_and_codec_is_there_and_has_a_row() -> None:
    small = replace(FITTED, sizes=FITTED.sizes[:1], seconds=FITTED.seconds[:1])
    found = [probe(Source(medium.data)) for medium in (*pictures(small), *sounds(small))]
    kinds = {info.format if isinstance(info, ImageInfo) else info.codec for info in found}
    assert kinds >= {
        "jpeg",
        "png",
        "gif",
        "bmp",
        "tiff",
        "webp",
        "avif",
        "mp3",
        "aac",
        "opus",
        "vorbis",
        "flac",
        "alac",
    }
    ways = {(info.progressive, info.subsampling) for info in found if isinstance(info, ImageInfo)}
    assert {(True, "4:2:0"), (True, "4:4:4"), (False, "4:2:2"), (True, "")} <= ways


def test_no_rate_is_negative_and_every_step_has_a_row() -> None:
    assert all(rate >= 0 for rates in RATES.values() for rate in rates)
    steps = {"job", "picture", "sound", "resize", "mono", "resample", "spectrum", "pack"}
    assert {row[0] for row in RATES} == steps
    assert {row for row in RATES if len(row) == 1} == {(step,) for step in steps}
