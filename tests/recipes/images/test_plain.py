"""Plain classifiers' pixels beside transformers' own; CLIP, SigLIP and ViT are judged in test_pil_parity.py too."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from sidecar.errors import RecipeError
from sidecar.media import DataType, ImageInfo, Pixels, Source
from sidecar.stages.decode import decode
from sidecar.stages.pack import pack
from sidecar.stages.probe import probe
from testbed.parity import Keys
from testbed.pictures import pictures
from tests.recipes.images.judge import BACKENDS, agree, recipe_of, skip_without


def of(name: str, **keys: object) -> Keys:
    return {"image_processor_type": f"{name}ImageProcessor", **keys}


IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
CONFIGS = {
    "dinov2-base": of(
        "Bit",
        size={"shortest_edge": 256},
        crop_size={"height": 224, "width": 224},
        resample=3,
        do_center_crop=True,
        do_convert_rgb=True,
        **IMAGENET,
    ),
    "convnext-tiny-224": of("ConvNext", size={"shortest_edge": 224}, crop_pct=0.875, resample=3, **IMAGENET),
    "convnext-base-384": of("ConvNext", size={"shortest_edge": 384}, crop_pct=0.875, resample=3, **IMAGENET),
    "resnet-50": of("ConvNext", size=224, crop_pct=0.875, resample=3, **IMAGENET),
    "blip-image-captioning-base": of("Blip", size={"height": 384, "width": 384}, resample=3),
    "deit-base-distilled-patch16-224": of(
        "DeiT", size=256, crop_size=224, resample=3, do_center_crop=True, **IMAGENET
    ),
    **{
        f"class defaults of {name}": of(name)
        for name in ("Bit", "Blip", "CLIP", "ConvNext", "DeiT", "Pvt", "Siglip", "ViT")
    },
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CONFIGS)
def test_pixels_are_bit_equal(name: str, backend: str, tmp_path: Path) -> None:
    skip_without(backend)
    recipe = recipe_of(CONFIGS[name], tmp_path, backend)
    assert recipe.exact
    for _, picture in list(pictures())[::2]:
        if picture.size < 1_000_000:
            agree(recipe, CONFIGS[name], backend, picture)


def test_a_classifier_takes_no_placeholders(tmp_path: Path) -> None:
    recipe = recipe_of(CONFIGS["convnext-tiny-224"], tmp_path, "pil")
    assert recipe.tokens(ImageInfo("png", 1, 640, 480, "RGB")) is None


@pytest.mark.parametrize(
    "keys",
    [
        {"size": {"height": 224, "width": 224}},
        {"size": 0},
        {"size": 9000},
        {"size": 224, "crop_pct": 1.5},
        {"size": 224, "crop_pct": 0},
        {"do_center_crop": True},
    ],
    ids=str,
)
def test_what_convnext_cannot_follow_is_refused(keys: Keys, tmp_path: Path) -> None:
    with pytest.raises(RecipeError):
        recipe_of(of("ConvNext", **keys), tmp_path, "pil")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    "keys", [of("ViT", do_resize=False), of("CLIP", do_resize=False, crop_size=64)], ids=str
)
def test_a_turned_picture_that_is_not_resized_is_turned(keys: Keys, orientation: int, tmp_path: Path) -> None:
    """Decode hands on a view of a turned JPEG, and nothing between it and pack lays it out."""
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x112] = orientation
    pixels = np.random.default_rng(2).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(file, "JPEG", exif=exif)
    recipe, source = recipe_of(keys, tmp_path, "pil"), Source(file.getvalue())
    info = probe(source)
    frames = decode(source, info, recipe.decode_target(info))
    assert isinstance(frames, Pixels)
    (found,) = pack(recipe.transform(frames), {"pixel_values": DataType.UINT8})
    upright = np.asarray(ImageOps.exif_transpose(Image.open(file)).convert("RGB"))
    assert upright.transpose(2, 0, 1).tobytes() == bytes(found.data)
