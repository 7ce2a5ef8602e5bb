"""Sizes and crops as transformers' own functions compute them, over all shapes."""

from __future__ import annotations

from typing import get_args

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.image_transforms import (
    center_crop as reference_crop,
)
from transformers.image_transforms import (
    get_resize_output_image_size,
    get_size_with_aspect_ratio,
)
from transformers.image_utils import get_image_size_for_max_height_width

from sidecar.stages.transform.geometry import (
    Fixed,
    Reference,
    ShortestEdge,
    Size,
    Within,
    center_crop,
    center_span,
    resized,
)

REFERENCES: tuple[Reference, ...] = get_args(Reference)

sides = st.integers(1, 20_000)
sizes = st.tuples(sides, sides)
edges = st.integers(1, 2_000)


@given(size=sizes, edge=edges)
def test_the_shortest_edge_rule_is_the_references(size: Size, edge: int) -> None:
    picture = np.broadcast_to(np.uint8(0), (*size, 3))
    expected = get_resize_output_image_size(
        picture, edge, default_to_square=False, input_data_format="channels_last"
    )
    assert expected == resized(size, ShortestEdge(edge))


@given(size=sizes, edge=edges, longest=edges)
def test_the_bounded_rule_is_the_references_and_never_nothing(size: Size, edge: int, longest: int) -> None:
    height, width = get_size_with_aspect_ratio(size, edge, longest)
    assert (max(1, height), max(1, width)) == resized(size, ShortestEdge(edge, longest))


@given(size=sizes, box=sizes)
def test_the_box_rule_is_the_references_and_never_nothing(size: Size, box: Size) -> None:
    height, width = get_image_size_for_max_height_width(size, *box)
    assert (max(1, height), max(1, width)) == resized(size, Within(*box))


@given(size=sizes, target=sizes)
def test_a_fixed_size_is_itself(size: Size, target: Size) -> None:
    assert target == resized(size, Fixed(*target))


@given(length=sides, crop=sides)
def test_a_crop_takes_what_fits_and_nothing_else(length: int, crop: int) -> None:
    for reference in REFERENCES:
        span = center_span(length, crop, reference)
        assert min(length, crop) == len(span)
        assert 0 <= span.start <= span.stop <= length
        assert 0 <= span.offset <= crop - len(span)


small = st.integers(1, 40)


@given(size=st.tuples(small, small), target=st.tuples(small, small))
def test_a_crop_is_the_pil_backends(size: Size, target: Size) -> None:
    picture = np.arange(1, size[0] * size[1] + 1).reshape(1, *size)
    expected = reference_crop(picture, target, input_data_format="channels_first")
    assert np.array_equal(expected[0], cut(picture[0], target, "pil"))


def cut(picture: npt.NDArray[np.int64], target: Size, reference: Reference) -> npt.NDArray[np.int64]:
    crop = center_crop((picture.shape[0], picture.shape[1]), target, reference)
    canvas = np.zeros(target, np.int64)
    top, left = crop.rows.offset, crop.columns.offset
    taken = picture[crop.rows.start : crop.rows.stop, crop.columns.start : crop.columns.stop]
    canvas[top : top + taken.shape[0], left : left + taken.shape[1]] = taken
    return canvas


@pytest.mark.parametrize(("reference", "offset"), [("pil", 2), ("torchvision", 1)])
def test_the_odd_row_of_zeros_goes_first_for_pil_and_last_for_torchvision(
    reference: Reference, offset: int
) -> None:
    assert offset == center_span(2, 5, reference).offset


@pytest.mark.parametrize("reference", REFERENCES)
def test_the_odd_pixel_that_is_cut_off_is_the_last(reference: Reference) -> None:
    assert center_span(5, 2, reference).start == 1
