"""What recipes for pictures share: a canvas that is filled band by band has the bits of resizing at once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sidecar.media import Pixels
from sidecar.recipes.image import _BAND, ImageRecipe
from sidecar.recipes.loader import load_recipe
from sidecar.stages.transform.geometry import Size
from testbed.parity import FAMILY_CONFIGS
from testbed.pictures import blocks, noise

_SIZE = (333, 301)


@pytest.mark.parametrize("reference", ["pil", "torchvision"])
@pytest.mark.parametrize(
    "target",
    [
        (2 * _BAND + 1, 97),
        (_BAND, 400),
        (_BAND + 1, 301),
        (40, 17),
        (1, 1),
        _SIZE,
        (_SIZE[0], 95),
        (700, 650),
    ],
)
def test_a_filled_canvas_has_the_bits_of_resizing_at_once(
    target: Size, reference: str, tmp_path: Path
) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(FAMILY_CONFIGS["Qwen2VLImageProcessor"]))
    recipe = load_recipe(tmp_path, reference=reference)
    assert isinstance(recipe, ImageRecipe)
    straight = noise(*_SIZE) // 2 + blocks(*_SIZE) // 2
    lying = np.ascontiguousarray(straight.swapaxes(0, 1)[::-1])
    shrunk = Pixels(straight, (2 * _SIZE[0] - 1, 2 * _SIZE[1]), 2)
    for frames in (Pixels(straight), Pixels(lying[::-1].swapaxes(0, 1)), shrunk):
        around = np.full((target[0] + 2, target[1] + 3, 3), 7, np.uint8)
        recipe.fill(around[1:-1, :-3], frames)
        np.testing.assert_array_equal(around[1:-1, :-3], recipe.resized(frames, target))
        around[1:-1, :-3] = 7
        assert (around == 7).all()
