"""Which file speaks, which family answers, and what the operator is told where neither can."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scripts.model_types import pairs
from sidecar.errors import InternalError, MediaTooLarge, RecipeError
from sidecar.media import AudioInfo, DataType, DecodeTarget, ImageInfo, Modality, Pixels, Samples, TensorSpec
from sidecar.recipes.families import FAMILIES
from sidecar.recipes.images.plain import PlainRecipe
from sidecar.recipes.loader import load_recipe
from sidecar.recipes.model_types import MODEL_TYPES
from sidecar.recipes.recipe import Recipe
from sidecar.recipes.sounds.whisper import WhisperRecipe
from sidecar.stages.pack import pack
from sidecar.stages.transform.geometry import Fixed, ShortestEdge
from testbed.parity import CHECKPOINTS

CLIP = {"image_processor_type": "CLIPImageProcessor"}
WHISPER = {"feature_extractor_type": "WhisperFeatureExtractor"}
WAV2VEC2 = {"feature_extractor_type": "Wav2Vec2FeatureExtractor"}

SOUND = AudioInfo("wav", 1, "pcm_s16le", 16_000, 1, 1.0)

Write = Callable[..., Path]


@pytest.fixture
def model(tmp_path: Path) -> Write:
    """Writes a model's directory: a file a keyword, dots for underscores aside."""

    def write(**files: Any) -> Path:
        for name, content in files.items():
            text = content if isinstance(content, str) else json.dumps(content)
            (tmp_path / f"{name}.json").write_text(text, encoding="utf-8")
        return tmp_path

    return write


def pixel_recipe(directory: Path, **choice: Any) -> PlainRecipe:
    recipe = load_recipe(directory, **choice)
    assert isinstance(recipe, PlainRecipe)
    return recipe


@pytest.mark.parametrize(
    ("checkpoint", "shape"),
    [
        ("clip-vit-base-patch32", (3, 224, 224)),
        ("clip-vit-large-patch14-336", (3, 336, 336)),
        ("siglip-base-patch16-224", (3, 224, 224)),
        ("siglip-so400m-patch14-384", (3, 384, 384)),
        ("vit-base-patch16-224", (3, 224, 224)),
        ("whisper-tiny", (80, 3000)),
        ("whisper-large-v3", (128, 3000)),
        ("wav2vec2-base-960h", (-1,)),
    ],
)
def test_every_checkpoint_loads_with_its_own_shape(checkpoint: str, shape: tuple[int, ...]) -> None:
    (output,) = load_recipe(CHECKPOINTS / checkpoint).outputs
    assert shape == output.shape
    assert output.data_type is DataType.FP32


def every_recipe() -> list[Recipe]:
    return [load_recipe(path) for path in sorted(CHECKPOINTS.iterdir())]


def test_recipes_cross_process_boundaries() -> None:
    for recipe in every_recipe():
        assert recipe == pickle.loads(pickle.dumps(recipe))
        assert len(pickle.dumps(recipe)) < 2_000


def test_steps_tell_the_numbers() -> None:
    steps = load_recipe(CHECKPOINTS / "clip-vit-base-patch32").steps
    assert steps == (
        "RGB; a colour declared transparent becomes white",
        "resize (bicubic) shortest edge to 224",
        "centre crop to 224x224 (height x width), zeros around smaller pictures",
        "rescale: times 0.00392156862745098",
        "normalise: minus [0.48145466, 0.4578275, 0.40821073], over [0.26862954, 0.26130258, 0.27577711]",
        "as transformers' pil backend does, to the bit",
    )


@pytest.mark.parametrize(
    ("named", "reference"),
    [
        ("CLIPImageProcessor", "pil"),
        ("CLIPImageProcessorFast", "torchvision"),
        ("CLIPImageProcessorPil", "pil"),
        ("CLIPFeatureExtractor", "pil"),
        ("SiglipImageProcessorFast", "torchvision"),
        ("ViTFeatureExtractor", "pil"),
    ],
)
def test_the_ending_of_the_name_says_whose_bits(model: Write, named: str, reference: str) -> None:
    recipe = load_recipe(model(preprocessor_config={"image_processor_type": named}), exact=False)
    assert (named, reference) == (recipe.processor, recipe.reference)


def test_the_setting_overrides_the_name(model: Write) -> None:
    directory = model(preprocessor_config={"image_processor_type": "CLIPImageProcessorFast"})
    assert load_recipe(directory, reference="pil", exact=False).reference == "pil"


@pytest.mark.parametrize("reference", ["pil", "torchvision"])
def test_either_reference_can_be_had_to_the_bit(model: Write, reference: str) -> None:
    recipe = load_recipe(model(preprocessor_config=CLIP), reference=reference)
    assert (reference, True) == (recipe.reference, recipe.exact)


@pytest.mark.parametrize(("resample", "name"), [(0, "nearest"), (4, "box"), (5, "hamming")])
def test_exact_is_refused_for_a_filter_that_torchvision_lacks(model: Write, resample: int, name: str) -> None:
    directory = model(preprocessor_config={**CLIP, "resample": resample})
    with pytest.raises(
        RecipeError, match=f"its filter {name} cannot be had: set `reference` to pil, or `exact: false`"
    ) as refused:
        load_recipe(directory, reference="torchvision")
    assert refused.value.facts["value"] == "torchvision"
    inexact = load_recipe(directory, reference="torchvision", exact=False)
    assert not inexact.exact
    assert "not to the bit" in inexact.steps[-1]


def test_a_plain_name_follows_pil_which_has_every_filter(model: Write) -> None:
    recipe = load_recipe(model(preprocessor_config={**CLIP, "resample": 0}))
    assert (recipe.reference, recipe.exact) == ("pil", True)


def test_the_nested_file_wins(model: Write) -> None:
    directory = model(
        processor_config={"image_processor": {**CLIP, "crop_size": 96}, "processor_class": "CLIPProcessor"},
        preprocessor_config={**CLIP, "crop_size": 128},
    )
    assert pixel_recipe(directory).crop == (96, 96)


def test_a_nested_file_without_sections_leaves_the_flat_one_to_speak(model: Write) -> None:
    directory = model(
        processor_config={"processor_class": "CLIPProcessor"}, preprocessor_config={**CLIP, "crop_size": 128}
    )
    assert pixel_recipe(directory).crop == (128, 128)


@pytest.mark.parametrize("section", ["feature_extractor", "audio_processor"])
def test_the_nested_file_may_hold_a_sound_processor(model: Write, section: str) -> None:
    recipe = load_recipe(model(processor_config={section: {**WHISPER, "feature_size": 128}}))
    assert (TensorSpec("input_features", DataType.FP32, (128, 3000)),) == recipe.outputs


def test_a_legacy_file_names_a_feature_extractor_and_bare_sizes(model: Write) -> None:
    clip = pixel_recipe(
        model(preprocessor_config={"feature_extractor_type": "CLIPFeatureExtractor", "size": 100})
    )
    assert ShortestEdge(100) == clip.rule
    vit = pixel_recipe(
        model(preprocessor_config={"feature_extractor_type": "ViTFeatureExtractor", "size": 100})
    )
    assert Fixed(100, 100) == vit.rule


def test_a_file_without_a_type_is_read_by_the_models_type(model: Write) -> None:
    recipe = load_recipe(model(preprocessor_config={"size": 100}, config={"model_type": "vit"}))
    assert recipe.processor == "ViTImageProcessor"


def test_our_table_of_model_types_is_transformers_own() -> None:
    assert pairs() == MODEL_TYPES, "run scripts/model_types.py"


def test_an_unknown_processor_is_answered_with_the_supported_ones(model: Write) -> None:
    with pytest.raises(RecipeError) as refused:
        load_recipe(model(preprocessor_config={"image_processor_type": "SamImageProcessor"}))
    for name in ("SamImageProcessor", *FAMILIES):
        assert name in refused.value.message


def test_two_processors_in_one_directory_are_refused(model: Write) -> None:
    with pytest.raises(RecipeError, match=r"describes CLIPImageProcessor .*: image_processor\) and Whisper"):
        load_recipe(model(processor_config={"image_processor": CLIP, "feature_extractor": WHISPER}))


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({}, "has no preprocessor_config.json"),
        ({"preprocessor_config": "{"}, "is not JSON: .* at line 1"),
        ({"preprocessor_config": "[]"}, "must hold a JSON object, and holds list"),
        (
            {"preprocessor_config": {"size": 3}},
            "names no processor .* model_type in config.json beside it is null",
        ),
        ({"preprocessor_config": {}, "config": {"model_type": "bert"}}, 'is "bert"; supported: Bit'),
        ({"preprocessor_config": {"image_processor_type": 3}}, "`image_processor_type` is 3"),
        ({"processor_config": {"image_processor": []}}, r"`image_processor` is \[\], and must be an object"),
    ],
)
def test_files_that_cannot_be_read_are_named(model: Write, files: dict[str, Any], complaint: str) -> None:
    directory = model(**files)
    with pytest.raises(RecipeError, match=complaint) as refused:
        load_recipe(directory)
    assert str(directory) in refused.value.message
    assert refused.value.facts["file"].startswith(str(directory))


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="is not a directory"):
        load_recipe(tmp_path / "nowhere")


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("size", 0),
        ("size", True),
        ("size", "224"),
        ("size", [224]),
        ("size", {"height": 224}),
        ("size", {"longest_edge": 224}),
        ("size", {"height": 224, "width": 2.5}),
        ("size", {"height": 8192, "width": 8193}),
        ("crop_size", 8193),
        ("crop_size", -1),
        ("crop_size", {"shortest_edge": 224}),
        ("resample", 6),
        ("resample", "bicubic"),
        ("do_resize", "yes"),
        ("rescale_factor", 0),
        ("rescale_factor", float("nan")),
        ("image_mean", [0.5, 0.5]),
        ("image_mean", "0.5"),
        ("image_std", [0.5, 0.5, 0.0]),
        ("image_std", [0.5, 0.5, None]),
        ("do_pad", True),
        ("use_square_size", True),
        ("do_pan_and_scan", True),
    ],
)
def test_an_impossible_value_of_an_image_key_is_named(model: Write, key: str, value: object) -> None:
    directory = model(preprocessor_config={**CLIP, key: value})
    with pytest.raises(RecipeError) as refused:
        load_recipe(directory)
    assert f"preprocessor_config.json: `{key}` is {json.dumps(value)}, and must be " in refused.value.message
    assert key == refused.value.facts["key"]


@pytest.mark.parametrize(
    ("keys", "key", "value"),
    [
        (WHISPER, "dither", 0.1),
        (WHISPER, "feature_size", 0),
        (WHISPER, "sampling_rate", 8000),
        (WHISPER, "n_fft", 1),
        (WHISPER, "n_fft", 401),
        (WHISPER, "n_fft", 600_000),
        (WHISPER, "hop_length", None),
        (WHISPER, "hop_length", 480_001),
        (WHISPER, "padding_side", "left"),
        (WHISPER, "padding_value", "0"),
        (WAV2VEC2, "feature_size", 2),
        (WAV2VEC2, "sampling_rate", 0),
        (WAV2VEC2, "do_normalize", 1),
    ],
)
def test_an_impossible_value_of_a_sound_key_is_named(
    model: Write, keys: dict[str, str], key: str, value: object
) -> None:
    directory = model(preprocessor_config={**keys, key: value})
    if value is None:
        assert load_recipe(directory).outputs[0].shape == (80, 3000)  # null is the processor's default
        return
    with pytest.raises(RecipeError, match=f"`{key}` is ") as refused:
        load_recipe(directory)
    assert key == refused.value.facts["key"]


@pytest.mark.parametrize(
    ("keys", "choice", "complaint"),
    [
        (CLIP, {"reference": "numpy"}, "`reference` is 'numpy'.*pil, torchvision or auto"),
        (WHISPER, {"reference": "pil"}, "`reference` is 'pil'.*auto or numpy"),
        (WHISPER, {"resampler": "linear"}, "`resampler` is 'linear'.*soxr_hq or swresample"),
        (WAV2VEC2, {"resampler": "linear"}, "`resampler` is 'linear'.*soxr_hq or swresample"),
    ],
)
def test_an_impossible_choice_is_named(
    model: Write, keys: dict[str, str], choice: dict[str, str], complaint: str
) -> None:
    directory = model(preprocessor_config=keys)
    with pytest.raises(RecipeError, match=complaint) as refused:
        load_recipe(directory, **choice)  # type: ignore[arg-type]  # a table of keywords
    file = str(directory / "preprocessor_config.json")
    assert refused.value.message.startswith(f"{file}: ")
    assert refused.value.facts["file"] == file


def test_keys_that_the_processor_ignores_are_listed(model: Write) -> None:
    recipe = pixel_recipe(
        model(preprocessor_config={**CLIP, "do_dance": False, "vision_feature": 3, "size": 8})
    )
    assert recipe.common.ignored == ("do_dance", "vision_feature")
    assert recipe.steps[-1] == "ignored keys of the file: do_dance, vision_feature"


@pytest.mark.parametrize("keys", [CLIP, WHISPER, WAV2VEC2])
def test_the_last_step_tells_the_ignored_keys_and_only_where_there_are_some(
    model: Write, keys: dict[str, str]
) -> None:
    plain = load_recipe(model(preprocessor_config=keys)).steps
    assert not plain[-1].startswith("ignored")
    more = load_recipe(model(preprocessor_config={**keys, "zoom": 3})).steps
    assert more == (*plain, "ignored keys of the file: zoom")


def test_a_mel_table_of_older_files_is_ignored_as_transformers_does(model: Write) -> None:
    recipe = load_recipe(model(preprocessor_config={**WHISPER, "mel_filters": [[0.0]], "n_samples": 1}))
    assert isinstance(recipe, WhisperRecipe)
    assert recipe.length == 480_000


def test_images_are_taken_in_four_types_and_sounds_in_three() -> None:
    clip, whisper = (load_recipe(CHECKPOINTS / name) for name in ("clip-vit-base-patch32", "whisper-tiny"))
    floats = {DataType.FP32, DataType.FP16, DataType.BF16}
    assert floats | {DataType.UINT8} == {kind for kind in DataType if clip.accepts("pixel_values", kind)}
    assert floats == {kind for kind in DataType if whisper.accepts("input_features", kind)}
    assert not clip.accepts("pixel_mask", DataType.FP32)
    assert not whisper.accepts("attention_mask", DataType.INT32)


def test_swresample_is_left_to_decode(model: Write) -> None:
    directory = model(preprocessor_config=WHISPER)
    swresample = load_recipe(directory, resampler="swresample")
    assert swresample.decode_target(SOUND) == DecodeTarget(rate=16_000, max_seconds=31)
    assert load_recipe(directory).decode_target(SOUND) == DecodeTarget(max_seconds=31)
    assert load_recipe(CHECKPOINTS / "wav2vec2-base-960h").decode_target(SOUND) == DecodeTarget()


def photo(width: int, height: int, orientation: int = 1) -> ImageInfo:
    return ImageInfo("jpeg", 1000, width, height, "RGB", orientation)


def speech(duration_s: float | None) -> AudioInfo:
    return AudioInfo("wav", 64_000, "pcm_s16le", 44_100, 2, duration_s)


PIXELS = {"pixel_values": DataType.FP32}


def test_output_bytes_are_what_transform_leaves(model: Write) -> None:
    clip = load_recipe(CHECKPOINTS / "clip-vit-base-patch32")
    assert clip.output_bytes(photo(640, 480), PIXELS) == {"pixel_values": 4 * 3 * 224 * 224}
    mel = {"input_features": DataType.FP32}
    whisper = load_recipe(CHECKPOINTS / "whisper-tiny")
    assert whisper.output_bytes(speech(None), mel) == {"input_features": 4 * 80 * 3000}
    wave, values = load_recipe(CHECKPOINTS / "wav2vec2-base-960h"), {"input_values": DataType.FP32}
    assert wave.output_bytes(speech(2.0), values) == {"input_values": 4 * (32_000 + 1)}
    assert wave.output_bytes(speech(None), values) == {"input_values": 4 * (32 * 16_000 + 1)}
    uncropped = load_recipe(model(preprocessor_config={**CLIP, "do_center_crop": False}))
    assert (TensorSpec("pixel_values", DataType.FP32, (3, -1, -1)),) == uncropped.outputs
    assert uncropped.output_bytes(photo(448, 224, orientation=6), PIXELS) == {
        "pixel_values": 4 * 3 * 448 * 224
    }
    (shaped,) = uncropped.transform(Pixels(np.zeros((448, 224, 3), np.uint8)))
    assert shaped.shape == (3, 448, 224)


@pytest.mark.parametrize(
    ("keys", "data_types"),
    [
        (CLIP, {"pixel_values": DataType.UINT8}),
        (CLIP, {"pixel_values": DataType.FP16}),
        (WHISPER, {"input_features": DataType.BF16}),
        (WHISPER, {"input_features": DataType.FP32, "attention_mask": DataType.INT64}),
        (WAV2VEC2, {"input_values": DataType.FP16}),
        (WAV2VEC2, {"input_values": DataType.FP32, "attention_mask": DataType.INT32}),
    ],
)
def test_output_bytes_are_those_of_the_types_and_outputs_that_are_made(
    model: Write, keys: dict[str, str], data_types: dict[str, DataType]
) -> None:
    recipe = load_recipe(model(preprocessor_config={**keys, "return_attention_mask": True}))
    info, frames = (
        (photo(300, 400), Pixels(np.zeros((400, 300, 3), np.uint8)))
        if keys is CLIP
        else (speech(2.0), Samples(np.ones((2, 88_200), np.float32), 44_100))
    )
    shaped = [each for each in recipe.transform(frames) if each.name in data_types]
    foretold = recipe.output_bytes(info, data_types)
    assert foretold.keys() == data_types.keys()
    for tensor in pack(shaped, data_types):
        # A sound's length is not known to the sample from its header.
        assert tensor.nbytes <= foretold[tensor.name] <= tensor.nbytes + 8


def test_a_picture_that_is_not_resized_has_no_limit_of_its_own(model: Write) -> None:
    recipe = load_recipe(model(preprocessor_config={**CLIP, "do_resize": False}))
    assert recipe.output_bytes(photo(20_000, 20_000), PIXELS) == {"pixel_values": 4 * 3 * 224 * 224}


def test_a_picture_too_thin_to_resize_is_refused_before_and_after_decoding() -> None:
    clip = load_recipe(CHECKPOINTS / "clip-vit-base-patch32")
    with pytest.raises(MediaTooLarge, match="aspect ratio is too extreme"):
        clip.output_bytes(photo(1, 65_000), PIXELS)
    with pytest.raises(MediaTooLarge, match="aspect ratio is too extreme"):
        clip.transform(Pixels(np.zeros((65_000, 1, 3), np.uint8)))


def test_a_recipe_does_not_take_the_other_kind_of_media() -> None:
    for recipe in every_recipe():
        image = recipe.modality is Modality.IMAGE
        with pytest.raises(InternalError):
            recipe.transform(
                Samples(np.zeros((1, 9), np.float32), 16_000)
                if image
                else Pixels(np.zeros((9, 9, 3), np.uint8))
            )
        with pytest.raises(InternalError):
            recipe.output_bytes(speech(1.0) if image else photo(9, 9), {})


DEEP = '{"image_processor_type": "CLIPImageProcessor", "size": ' + "[" * 5000 + "1" + "]" * 5000 + "}"


@pytest.mark.parametrize(
    "keys",
    [
        DEEP,
        '{"image_processor_type": "CLIPImageProcessor", "size": ' + "1" * 5000 + "}",
        {**CLIP, "rescale_factor": 10**400},
        {**CLIP, "rescale_factor": 1e-300},
        {**CLIP, "image_std": 1e-50},
        {**CLIP, "image_mean": [1e300, 0, 0]},
        {**CLIP, "size": 10**400},
        {**WHISPER, "n_fft": 480_000},
        {**WHISPER, "feature_size": 2**40},
        {"feature_extractor_type": "ParakeetFeatureExtractor", "n_fft": 65_536},
        {"feature_extractor_type": "Gemma3nAudioFeatureExtractor", "frame_length_ms": 1e308},
        {"image_processor_type": "GotOcr2ImageProcessor", "size": [1, 1], "max_patches": 6 * 10**7},
        {"image_processor_type": "LlavaNextImageProcessor", "crop_size": 1, "size": 1},
        {"image_processor_type": "Llama4ImageProcessor", "max_patches": 10**5},
        {"image_processor_type": "Phi4MultimodalImageProcessor", "dynamic_hd": 10**7},
        {"image_processor_type": "MiniCPMV4_6ImageProcessor", "max_slice_nums": 10**7},
        {"image_processor_type": "ConvNextImageProcessor", "size": 224, "crop_pct": 1e-308},
    ],
    ids=lambda keys: str(keys)[:80],
)
def test_numbers_that_would_take_the_server_down_are_refused_in_few_words(model: Write, keys: Any) -> None:
    with pytest.raises(RecipeError) as refused:
        load_recipe(model(preprocessor_config=keys))
    assert len(refused.value.message) < 2000
