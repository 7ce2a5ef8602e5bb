"""Both references' bits on every machine, beside the libraries themselves and beside what they were seen to give.

Pillow judges "pil" and pillow-simd "torchvision", whichever stands in this environment; torch judges
"torchvision" where it is installed (scripts/simd.sh makes the environment for both).
"""

from __future__ import annotations

import itertools
import zlib
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import PIL
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from sidecar.errors import MediaTooLarge
from sidecar.stages.transform.geometry import Crop, Reference, Size, Span, center_crop
from sidecar.stages.transform.resize import (
    FILTERS,
    MOST_RESIZED_BYTES,
    cropped,
    references_met,
    resize,
)
from sidecar.stages.transform.turn import Turn
from testbed.pictures import KINDS, blocks, noise
from testbed.torchvision_import import import_torchvision

Pixels = npt.NDArray[np.uint8]

NEAREST, LANCZOS, BILINEAR, BICUBIC, BOX = range(5)
REFERENCES: tuple[Reference, ...] = ("pil", "torchvision")

# CRC-32 over the resized pixels of these sizes, one after the other: upwards, downwards and in both
# orientations, because of the order of passes. "pil" was computed by the Pillow 13.0.0 wheel; "torchvision"
# by torchvision 0.28.0 on torch 2.13.0 (CPU with AVX2 and AVX-512), and pillow-simd 12.1.1.post0 gives the
# same with SSE4 and with AVX2.
KNOWN_SIZES: Final[tuple[tuple[Size, Size], ...]] = (
    ((97, 61), (29, 23)),
    ((61, 97), (23, 29)),
    ((97, 61), (40, 224)),
    ((61, 97), (224, 40)),
    ((480, 31), (20, 64)),
    ((31, 480), (64, 20)),
)
KNOWN_ANSWERS: Final[dict[tuple[int, Reference], int]] = {
    (0, "pil"): 0x62D786A6,
    (1, "pil"): 0x3E00A374,
    (1, "torchvision"): 0x4F5E5AC8,
    (2, "pil"): 0x3232328E,
    (2, "torchvision"): 0x05209DF9,
    (3, "pil"): 0x02C913D6,
    (3, "torchvision"): 0x8B420571,
    (4, "pil"): 0x703F9DEA,
    (5, "pil"): 0x680481DD,
}

# What the PIL of this environment judges.
JUDGED: Final[Reference | None] = {"13.0.0": "pil", "12.1.1.post0": "torchvision"}.get(PIL.__version__)  # type: ignore[assignment]
needs_judge = pytest.mark.skipif(JUDGED is None, reason=f"PIL {PIL.__version__} gives neither reference")

sides = st.one_of(st.integers(1, 8), st.integers(1, 70), st.integers(60, 700))
sizes = st.tuples(sides, sides)


@st.composite
def crops(draw: st.DrawFn, size: Size) -> Crop | None:
    """Any part of a picture of `size`, at its edges as much as in the middle, or none."""
    if draw(st.booleans()):
        return None
    spans = []
    for length in size:
        start = draw(st.integers(0, length - 1))
        spans.append(Span(start, draw(st.integers(start + 1, length)), 0))
    return Crop((len(spans[0]), len(spans[1])), *spans)


@st.composite
def tasks(draw: st.DrawFn) -> tuple[Pixels, Size, Crop | None]:
    """A picture, the size it becomes, where every so often a side stays as it is, and a crop of that."""
    source, target = draw(sizes), list(draw(sizes))
    for place in range(2):
        if draw(st.integers(0, 7)) == 0:
            target[place] = source[place]
    size = (target[0], target[1])
    picture = KINDS[draw(st.sampled_from(sorted(KINDS)))](*source)
    return picture, size, draw(crops(size))


def pils(picture: Pixels, target: Size, resample: int) -> Pixels:
    size = (target[1], target[0])
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling(resample)))


def judge(picture: Pixels, target: Size, resample: int, crop: Crop | None) -> None:
    assert JUDGED is not None
    whole = pils(picture, target, resample)
    expected = whole if crop is None else cropped(whole, crop)
    found = resize(picture, target, resample, JUDGED, crop)
    assert expected.shape == found.shape
    assert np.array_equal(expected, found)


def judged_filters() -> list[int]:
    return [resample for resample in FILTERS if JUDGED in references_met(resample)]


@needs_judge
@settings(max_examples=400, deadline=None)
@given(task=tasks(), resample=st.sampled_from(judged_filters() or [0]))
def test_any_part_of_any_picture_has_pils_bits(task: tuple[Pixels, Size, Crop | None], resample: int) -> None:
    picture, target, crop = task
    judge(picture, target, resample, crop)


@needs_judge
@pytest.mark.full
@settings(max_examples=8_000, deadline=None)
@given(task=tasks(), resample=st.sampled_from(judged_filters() or [0]))
def test_any_part_of_many_pictures_has_pils_bits(
    task: tuple[Pixels, Size, Crop | None], resample: int
) -> None:
    picture, target, crop = task
    judge(picture, target, resample, crop)


@needs_judge
@pytest.mark.parametrize("resample", judged_filters())
@pytest.mark.parametrize(
    ("source", "target"),
    [
        ((1, 1), (300, 500)),
        ((1, 20_000), (3, 5)),
        ((20_000, 1), (5, 3)),
        ((30_000, 40), (200, 30)),
        ((40, 30_000), (30, 200)),
        ((2, 65_000), (1, 1)),
        ((65_000, 2), (1, 1)),
        ((3, 3), (4_000, 1)),
        ((3, 3), (1, 4_000)),
        ((1_080, 1_920), (224, 398)),
        ((1_920, 1_080), (448, 448)),
        pytest.param((3_000, 4_000), (224, 299), marks=pytest.mark.full),
    ],
)
def test_extreme_and_usual_shapes_have_pils_bits(source: Size, target: Size, resample: int) -> None:
    for make in (noise, blocks):
        judge(make(*source), target, resample, None)
        if min(target) > 1:
            judge(make(*source), target, resample, center_crop(target, (min(target) - 1,) * 2, "pil"))


@needs_judge
@settings(max_examples=200, deadline=None)
@given(height=st.integers(2, 300), target=sizes, lost=st.integers(1, 150), off=st.integers(-2, 2))
def test_the_passes_are_turned_round_where_pil_turns_them(
    height: int, target: Size, lost: int, off: int
) -> None:
    """Around the height that loses twice what the width loses."""
    width, least = min(target[1], 150) + lost, max(1, height - 2 * lost)
    judge(noise(max(1, least + 2 * lost + off), width), (least, min(target[1], 150)), BICUBIC, None)


@pytest.fixture(scope="module")
def torch() -> Any:
    try:
        import_torchvision()
    except ImportError as error:
        pytest.skip(f"{error}: scripts/simd.sh installs it")
    import torch

    return torch


def torchs(torch: Any, picture: Pixels, target: Size, resample: int) -> Pixels:
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2.functional import resize as resize_planes

    mode = {
        LANCZOS: InterpolationMode.LANCZOS,
        BILINEAR: InterpolationMode.BILINEAR,
        BICUBIC: InterpolationMode.BICUBIC,
    }[resample]
    planes = torch.from_numpy(picture).permute(2, 0, 1).contiguous()
    found = resize_planes(planes, list(target), interpolation=mode, antialias=True)
    pixels: Pixels = found.permute(1, 2, 0).contiguous().numpy()
    return pixels


@settings(max_examples=300, deadline=None)
@given(task=tasks(), resample=st.sampled_from([LANCZOS, BILINEAR, BICUBIC]))
def test_any_part_of_any_picture_has_torchs_bits(
    task: tuple[Pixels, Size, Crop | None], resample: int, torch: Any
) -> None:
    picture, target, crop = task
    assume(target != (1, 1))  # torch 2.13 fails on that with an internal error
    whole = torchs(torch, picture, target, resample)
    expected = whole if crop is None else cropped(whole, crop)
    assert np.array_equal(expected, resize(picture, target, resample, "torchvision", crop))


@pytest.mark.parametrize(("resample", "reference"), KNOWN_ANSWERS)
def test_the_bits_are_those_that_the_reference_was_seen_to_give(resample: int, reference: Reference) -> None:
    crc = 0
    for size, target in KNOWN_SIZES:
        crc = zlib.crc32(resize(known_pattern(size), target, resample, reference).tobytes(), crc)
    assert KNOWN_ANSWERS[resample, reference] == crc


def known_pattern(size: Size) -> Pixels:
    """Noise that needs no generator: the middle bits of a multiplicative hash (Knuth's 2654435761)."""
    index = np.arange(size[0] * size[1] * 3, dtype=np.uint64)
    mixed = (index * np.uint64(2654435761) >> np.uint64(11)) & np.uint64(255)
    return mixed.astype(np.uint8).reshape(*size, 3)


def test_the_answers_cover_every_filter_that_a_reference_has() -> None:
    assert {(resample, reference) for resample in FILTERS for reference in references_met(resample)} == set(
        KNOWN_ANSWERS
    )


@pytest.mark.parametrize("resample", FILTERS)
def test_a_filter_that_torchvision_lacks_is_pils(resample: int) -> None:
    picture = noise(397, 261)
    one, other = (resize(picture, (129, 123), resample, reference) for reference in REFERENCES)
    assert ("torchvision" not in references_met(resample)) == np.array_equal(one, other)


@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("resample", FILTERS)
@pytest.mark.parametrize("size", [(61, 97), (97, 61), (5, 3)])
def test_a_crop_takes_its_part_of_the_resized_picture(
    resample: int, size: tuple[int, int], reference: Reference
) -> None:
    whole = resize(noise(61, 97), size, resample, reference)
    assert (*size, 3) == whole.shape
    for target in [(30, 31), (61, 97), (80, 20), (1, 1), (99, 99)]:
        crop = center_crop(size, target, reference)
        assert np.array_equal(cropped(whole, crop), resize(noise(61, 97), size, resample, reference, crop))


@pytest.mark.parametrize("resample", FILTERS)
def test_the_same_size_keeps_every_pixel(resample: int) -> None:
    assert np.array_equal(blocks(33, 44), resize(blocks(33, 44), (33, 44), resample, "pil"))


@pytest.mark.parametrize("resample", FILTERS)
def test_pixels_that_do_not_lie_together_or_cannot_be_written_are_read_right(resample: int) -> None:
    picture = noise(50, 60)
    turned = picture.transpose(1, 0, 2)[::-1]
    together = np.ascontiguousarray(turned)
    expected = resize(together, (20, 30), resample, "pil")
    assert together.flags.writeable, "the caller's own array stays as it was"
    together.flags.writeable = False
    assert np.array_equal(expected, resize(turned, (20, 30), resample, "pil"))
    assert np.array_equal(expected, resize(together, (20, 30), resample, "pil"))


EVERY_TURN = [Turn(*flags) for flags in itertools.product((False, True), repeat=3)]
turns = st.sampled_from(EVERY_TURN)


def check_turned(
    task: tuple[Pixels, Size, Crop | None], turn: Turn, resample: int, reference: Reference
) -> None:
    picture, target, crop = task
    turned = turn.view(turn.lying(picture).copy())
    assert np.array_equal(picture, turned)
    expected = resize(picture, target, resample, reference, crop)
    assert np.array_equal(expected, resize(turned, target, resample, reference, crop))


@settings(max_examples=400, deadline=None)
@given(
    task=tasks(), turn=turns, resample=st.sampled_from(sorted(FILTERS)), reference=st.sampled_from(REFERENCES)
)
def test_a_turned_view_has_the_bits_of_turning_first(
    task: tuple[Pixels, Size, Crop | None], turn: Turn, resample: int, reference: Reference
) -> None:
    check_turned(task, turn, resample, reference)


@pytest.mark.full
@settings(max_examples=8_000, deadline=None)
@given(
    task=tasks(), turn=turns, resample=st.sampled_from(sorted(FILTERS)), reference=st.sampled_from(REFERENCES)
)
def test_many_turned_views_have_the_bits_of_turning_first(
    task: tuple[Pixels, Size, Crop | None], turn: Turn, resample: int, reference: Reference
) -> None:
    check_turned(task, turn, resample, reference)


@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("turn", EVERY_TURN)
@pytest.mark.parametrize(
    ("source", "target"),
    [
        ((1_080, 1_920), (224, 398)),
        ((1_920, 1_080), (398, 224)),
        ((2, 65_000), (1, 1)),
        ((30_000, 40), (200, 30)),
    ],
)
def test_usual_and_extreme_shapes_have_the_bits_of_turning_first(
    source: Size, target: Size, turn: Turn, reference: Reference
) -> None:
    for resample in (NEAREST, BICUBIC):
        check_turned((noise(*source), target, None), turn, resample, reference)


def test_a_view_whose_exchanged_passes_need_too_much_memory_is_turned_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Down first keeps whole rows between the passes, which across first has made short."""
    picture = noise(3_000, 400).swapaxes(0, 1)
    expected = resize(picture, (3, 3), BICUBIC, "torchvision")
    monkeypatch.setattr("sidecar.stages.transform.resize.MOST_RESIZED_BYTES", 1 << 20)
    assert np.array_equal(expected, resize(picture, (3, 3), BICUBIC, "torchvision"))


def shrunken(whole: Pixels, shrink: int) -> Pixels:
    """Each `shrink` x `shrink` pixels to their mean, as a decoder would: edges go on past the end."""
    missing = [(0, -length % shrink) for length in whole.shape[:2]]
    full = np.pad(whole, (*missing, (0, 0)), mode="edge").astype(np.float64)
    height, width = (length // shrink for length in full.shape[:2])
    means = full.reshape(height, shrink, width, shrink, 3).mean((1, 3))
    rounded: Pixels = np.rint(means).astype(np.uint8)
    return rounded


@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("turn", EVERY_TURN)
def test_a_last_pixel_that_is_only_in_part_the_pictures_moves_nothing(
    turn: Turn, reference: Reference
) -> None:
    """A slope of one level a column is a scale to read shifts from, down to rounding."""
    height, width, shrink = 497, 8 * 31 + 1, 8
    lying = np.broadcast_to(np.arange(width, dtype=np.uint8)[:, np.newaxis], (height, width, 3))
    whole, small = turn.view(lying), turn.view(shrunken(lying, shrink))
    target, extent = (15, 14), (whole.shape[0] / shrink, whole.shape[1] / shrink)
    exact = resize(whole, target, BICUBIC, reference).astype(int)
    found = resize(small, target, BICUBIC, reference, extent=extent).astype(int)
    assert np.abs(found - exact).max() <= 2
    crop = center_crop(target, (9, 9), reference)
    cut = resize(small, target, BICUBIC, reference, crop, extent)
    assert np.array_equal(cropped(found.astype(np.uint8), crop), cut)
    stretched = resize(small, target, BICUBIC, reference).astype(int)
    assert np.abs(stretched - exact).max() >= 6


def test_places_past_two_gigabytes_are_found() -> None:
    """Where 32-bit indexes would wrap: the last pixels of a picture of 2.2 GB, of which little is touched."""
    picture = np.zeros((27_000, 27_000, 3), np.uint8)
    picture[-30:, -30:] = corner = noise(30, 30)
    last = Span(7_990, 8_000, 0)
    found = resize(picture, (8_000, 8_000), BOX, "pil", Crop((10, 10), last, last))
    nearest = resize(picture, (8_000, 8_000), NEAREST, "pil", Crop((10, 10), last, last))
    small = np.zeros((270, 270, 3), np.uint8)
    small[-30:, -30:] = corner
    end = Span(70, 80, 0)
    for each, resample in ((found, BOX), (nearest, NEAREST)):
        assert np.array_equal(each, resize(small, (80, 80), resample, "pil", Crop((10, 10), end, end)))


def test_a_resized_picture_past_the_limit_is_refused_with_the_sizes() -> None:
    width = MOST_RESIZED_BYTES // 4 // 224 + 1
    with pytest.raises(MediaTooLarge, match=f"{width}x224") as refused:
        resize(noise(1, 9), (224, width), BICUBIC, "pil")
    assert refused.value.facts == {
        "limit": "resized_bytes (fixed)",
        "allowed": str(MOST_RESIZED_BYTES),
        "found": str(4 * 224 * width),
    }
    assert refused.value.message.startswith("the picture's aspect ratio is too extreme: ")
    assert "whatever the settings" in refused.value.message


@pytest.mark.parametrize(
    ("source", "target"),
    [((100_000, 1), (1, 4_096)), ((1, 9_000_000), (224, 224))],
    ids=["between the passes", "weights"],
)
def test_memory_for_the_work_has_the_same_limit(source: Size, target: Size) -> None:
    with pytest.raises(MediaTooLarge, match="aspect ratio is too extreme"):
        resize(np.zeros((*source, 3), np.uint8), target, LANCZOS, "torchvision")
