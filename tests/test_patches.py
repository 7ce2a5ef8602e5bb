"""Several pictures of one prompt, each of its own size, through a real channel to the real Triton as one inference."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image, ImageOps
from transformers import AutoImageProcessor

from inference_client import Client, InvalidRequest, MediaTooLarge, SidecarError, WrongModality
from testbed.checksum import crc32
from tests import corpus
from tests.running import CHECKPOINTS, Running

pytestmark = pytest.mark.triton

MODEL = "qwen2_vl"
NAMES = ("jpeg_420.jpg", "png_rgba.png", "jpeg_exif_6.jpg")


@pytest.fixture(scope="module")
def client(sidecar: Running) -> Iterator[Client]:
    with Client(sidecar.address) as client:
        yield client


def opened(name: str) -> Image.Image:
    return ImageOps.exif_transpose(Image.open(io.BytesIO(corpus.image(name)))).convert("RGB")


def reference(*names: str) -> dict[str, np.ndarray]:
    processor = AutoImageProcessor.from_pretrained(CHECKPOINTS / "qwen2-vl-2b-instruct", backend="pil")
    return dict(processor([opened(name) for name in names], return_tensors="np"))


def test_pictures_of_any_sizes_reach_the_model_in_a_row_as_transformers_would_have_made_them(
    client: Client,
) -> None:
    expected = reference(*NAMES)
    answer = client.infer(MODEL, [corpus.path(name) for name in NAMES])
    assert np.array_equal(expected["image_grid_thw"], answer.tensor("grids"))
    assert int(answer.tensor("crc32")[0]) == crc32(expected["pixel_values"])


def test_each_picture_tells_the_placeholder_tokens_that_its_size_foretells(client: Client) -> None:
    grids = reference(*NAMES)["image_grid_thw"]
    expected = [int(grid.prod()) // 4 for grid in grids]
    items = client.preprocess(MODEL, [corpus.path(name) for name in NAMES])
    assert [item.placeholder_tokens for item in items] == expected
    assert client.placeholder_tokens(MODEL, [opened(name).size for name in NAMES]) == expected


def test_a_model_without_placeholders_tells_none(client: Client) -> None:
    assert client.preprocess("clip", corpus.path(NAMES[0])).placeholder_tokens is None
    assert client.placeholder_tokens("clip", [(640, 480)]) == []


@pytest.mark.parametrize(
    ("model", "sizes", "kind", "says"),
    [
        ("whisper", [(640, 480)], WrongModality, "takes no pictures"),
        (MODEL, [(640, 0)], InvalidRequest, "size 0 is 640x0"),
        (MODEL, [(1, 1)] * 1025, InvalidRequest, "1025 sizes"),
        (MODEL, [(1, 1), (201, 1)], SidecarError, "size 201x1: .*aspect ratios"),
    ],
)
def test_sizes_that_cannot_be_answered_are_refused(
    client: Client, model: str, sizes: list[tuple[int, int]], kind: type[SidecarError], says: str
) -> None:
    with pytest.raises(kind, match=says):
        client.placeholder_tokens(model, sizes)


def test_a_picture_that_the_processor_refuses_is_that_items_problem(client: Client) -> None:
    file = io.BytesIO()
    Image.new("RGB", (402, 2)).save(file, "PNG")
    good, bad = client.preprocess(MODEL, [corpus.path(NAMES[0]), file.getvalue()])
    assert good.problem is None
    assert bad.problem is not None
    assert "aspect ratios of up to 200" in str(bad.problem)
    assert not isinstance(bad.problem, MediaTooLarge)
