"""The resize engine is known by what it computes, and never asked for more memory than is sane."""

from __future__ import annotations

import numpy as np
import pytest

from sidecar.errors import MediaTooLarge
from sidecar.stages.transform.geometry import center_crop
from sidecar.stages.transform.resize import (
    FILTERS,
    MOST_RESIZED_BYTES,
    cropped,
    known_answer,
    references_met,
    resize,
)
from testbed.pictures import blocks, noise

BICUBIC = 3


def test_the_pil_here_meets_one_reference_for_every_smooth_filter() -> None:
    met = references_met(BICUBIC)
    assert len(met) == 1, "neither the Pillow 13 wheel nor pillow-simd 12.1: no reference can be met here"
    for resample in (1, 2):
        assert met == references_met(resample)


def test_no_two_filters_answer_alike() -> None:
    assert len(FILTERS) == len({known_answer(resample) for resample in FILTERS})


@pytest.mark.parametrize("resample", FILTERS)
@pytest.mark.parametrize("size", [(61, 97), (97, 61), (5, 3)])
def test_a_crop_takes_its_part_of_the_resized_picture(resample: int, size: tuple[int, int]) -> None:
    whole = resize(noise(61, 97), size, resample)
    assert (*size, 3) == whole.shape
    for target in [(30, 31), (61, 97), (80, 20), (1, 1), (99, 99)]:
        crop = center_crop(size, target, "pil")
        assert np.array_equal(cropped(whole, crop), resize(noise(61, 97), size, resample, crop))


@pytest.mark.parametrize("resample", FILTERS)
def test_the_same_size_keeps_every_pixel(resample: int) -> None:
    assert np.array_equal(blocks(33, 44), resize(blocks(33, 44), (33, 44), resample))


def test_pixels_that_do_not_lie_together_are_read_right() -> None:
    picture = noise(50, 60)
    turned = picture.transpose(1, 0, 2)[::-1]
    expected = resize(np.ascontiguousarray(turned), (20, 30), BICUBIC)
    assert np.array_equal(expected, resize(turned, (20, 30), BICUBIC))


def test_a_resized_picture_past_the_limit_is_refused_with_the_sizes() -> None:
    width = MOST_RESIZED_BYTES // 4 // 224 + 1
    with pytest.raises(MediaTooLarge, match=f"{width}x224") as refused:
        resize(noise(1, 9), (224, width), BICUBIC)
    assert refused.value.facts == {
        "limit": "resized_bytes (fixed)",
        "allowed": str(MOST_RESIZED_BYTES),
        "found": str(4 * 224 * width),
    }
    assert refused.value.message.startswith("the picture's aspect ratio is too extreme: ")
    assert "whatever the settings" in refused.value.message
