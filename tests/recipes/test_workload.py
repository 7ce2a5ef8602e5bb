"""What a recipe says it will do is what it does, and costs one plan a header."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sidecar.errors import InternalError, MediaTooLarge
from sidecar.media import AudioInfo, DataType, ImageInfo, Modality, Pixels, Samples
from sidecar.recipes.choice import Choice
from sidecar.recipes.config import Config
from sidecar.recipes.families import FAMILIES
from sidecar.recipes.image import ImageRecipe
from sidecar.recipes.recipe import Recipe
from sidecar.stages.pack import packed_bytes
from testbed.parity import FAMILY_CONFIGS

PICTURE = ImageInfo("jpeg", 50_000, 333, 222, "RGB")
SOUND = AudioInfo("wav", 0, "pcm_s16le", 16_000, 1, 2.5)


def recipe(processor: str) -> Recipe:
    keys = {"image_processor_type": processor, **FAMILY_CONFIGS.get(processor, {})}
    return FAMILIES[processor](Config("test", keys), processor, Choice(exact=False))


@pytest.mark.parametrize("processor", FAMILY_CONFIGS)
def test_elements_and_bytes_are_those_that_pack_writes(processor: str) -> None:
    of = recipe(processor)
    types = {spec.name: spec.data_type for spec in of.outputs}
    info: ImageInfo | AudioInfo = PICTURE
    frames: Pixels | Samples = Pixels(np.zeros((222, 333, 3), np.uint8))
    if of.modality is Modality.AUDIO:
        info, frames = SOUND, Samples(np.zeros((1, 40_000), np.float32), 16_000)
    load = of.workload(info, types)
    shaped = of.transform(frames)
    made = sum(packed_bytes(shaped, types).values())
    assert load.processor == processor
    assert load.nbytes == pytest.approx(made, rel=0.01)
    assert load.elements == pytest.approx(sum(np.prod(each.shape) for each in shaped), rel=0.01)


def test_a_narrower_type_and_an_output_left_out_are_less_work() -> None:
    of = recipe("Qwen2VLImageProcessor")
    wide, narrow = (of.workload(PICTURE, {"pixel_values": kind}) for kind in (DataType.FP32, DataType.BF16))
    assert (wide.elements, wide.nbytes) == (narrow.elements, 2 * narrow.nbytes)
    assert of.workload(PICTURE, {}).elements == 0


def test_a_sound_is_heard_at_the_model_s_rate_and_as_long_as_it_listens() -> None:
    whisper, wave = recipe("WhisperFeatureExtractor"), recipe("Wav2Vec2FeatureExtractor")
    hour = AudioInfo("mp3", 57_600_000, "mp3", 44_100, 2, 3600.0)
    types = {"input_features": DataType.FP32, "input_values": DataType.FP32}
    assert (whisper.workload(hour, types).seconds, whisper.workload(hour, types).rate) == (31.0, 16_000)
    assert wave.workload(hour, types).seconds == 3600.0


def test_a_workload_is_refused_as_its_bytes_are() -> None:
    with pytest.raises(InternalError):
        recipe("CLIPImageProcessor").workload(SOUND, {})
    with pytest.raises(InternalError):
        recipe("WhisperFeatureExtractor").workload(PICTURE, {})
    with pytest.raises(MediaTooLarge):
        recipe("CLIPImageProcessor").output_bytes(ImageInfo("jpeg", 600, 65_000, 1, "RGB"), {})


def test_one_plan_answers_all_questions_about_a_header(monkeypatch: pytest.MonkeyPatch) -> None:
    of, other = recipe("LlavaNextImageProcessor"), recipe("CLIPImageProcessor")
    assert isinstance(of, ImageRecipe)
    plan, asked = type(of).plan, []

    def counted(self: Any, size: tuple[int, int]) -> Any:
        asked.append(size)
        return plan(self, size)

    monkeypatch.setattr(type(of), "plan", counted)

    def questions(info: ImageInfo) -> None:
        of.decode_target(info)
        of.output_bytes(info, {})
        of.tokens(info)
        of.workload(info, {})

    questions(PICTURE)
    questions(PICTURE)
    assert asked == [(222, 333)]
    other.tokens(PICTURE)
    questions(ImageInfo("jpeg", 1, 500, 400, "RGB"))
    questions(PICTURE)
    assert asked == [(222, 333), (400, 500), (222, 333)]
