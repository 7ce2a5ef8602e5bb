"""Every family over a corpus of encoded files, from bytes to tensors, beside transformers as its users run it.

The quick run takes a few files, `full` takes all. A class that is registered has a configuration here, or fails.
"""

from __future__ import annotations

import numpy as np
import pytest
from PIL import __version__ as pillow

from testbed.parity import CLASS_DEFAULTS, FAMILY_CONFIGS
from tests.corpus import SOUNDS as CLIPS
from tests.corpus import audio
from tests.recipes.parity import (
    FEW,
    FEW_SOUNDS,
    IMAGES,
    SOUNDS,
    agrees,
    backends,
    compare_picture,
    compare_sound,
    encoded_pictures,
    heard_by,
    judged,
    most_ulp,
    recipe_of,
)


def pictures_agree(family: str, names: tuple[str, ...]) -> None:
    backend = backends()["image"]
    if backend == "pil" and pillow != "13.0.0":
        pytest.skip(f"Pillow {pillow} does not give the bits of the Pillow 13 wheel")
    if not judged(family, backend):
        pytest.skip(f"transformers has no {family} of the {backend} backend")
    assert recipe_of(family, backend).exact
    for name in names:
        outcome = compare_picture(family, backend, encoded_pictures()[name]())
        assert agrees(outcome, "picture"), f"{name}: {outcome}"


def sounds_agree(family: str, names: tuple[str, ...]) -> None:
    if not heard_by(family):
        pytest.skip(f"transformers' {family} needs torch")
    for name in names:
        outcome = compare_sound(family, audio(name))
        assert agrees(outcome, "sound"), f"{name}: {outcome}"


@pytest.mark.parametrize("family", [*IMAGES, *SOUNDS])
def test_every_registered_class_has_a_configuration(family: str) -> None:
    keys = FAMILY_CONFIGS[family]
    assert keys["_name_or_path"] == CLASS_DEFAULTS or keys["_name_or_path"].count("/") == 1
    assert family in {keys.get("image_processor_type"), keys.get("feature_extractor_type")} or family.replace(
        "ImageProcessor", "FeatureExtractor"
    ) == keys.get("feature_extractor_type")


def test_the_corpus_is_as_large_as_promised() -> None:
    assert len(encoded_pictures()) >= 40
    assert len(CLIPS) >= 20
    assert set(FEW) <= set(encoded_pictures())


@pytest.mark.parametrize("family", IMAGES)
def test_a_few_pictures_are_those_of_transformers(family: str) -> None:
    pictures_agree(family, FEW)


@pytest.mark.parametrize("family", SOUNDS)
def test_a_few_sounds_are_those_of_transformers(family: str) -> None:
    sounds_agree(family, FEW_SOUNDS)


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("family", IMAGES)
def test_all_pictures_are_those_of_transformers(family: str) -> None:
    pictures_agree(family, tuple(encoded_pictures()))


@pytest.mark.full
@pytest.mark.parametrize("family", SOUNDS)
def test_all_sounds_are_those_of_transformers(family: str) -> None:
    sounds_agree(family, tuple(CLIPS))


def test_ulps_are_counted_across_zero() -> None:
    tiny = np.nextafter(np.float32(0), np.float32(1))
    assert most_ulp(np.array([-tiny, 1.0]), np.array([tiny, np.nextafter(np.float32(1), np.float32(2))])) == 2
    assert most_ulp(np.array([0.0]), np.array([-0.0])) == 0
