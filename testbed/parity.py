"""transformers' own processors as judges of ours: the configurations they are compared on, and how to ask them.

Here and nowhere else is it said how a reference is called; tests and `scripts/golden.py` share it.
"""

from __future__ import annotations

import functools
import json
import warnings
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

CHECKPOINTS: Final = Path(__file__).parent / "checkpoints"
IMAGE_CHECKPOINTS: Final = (
    "clip-vit-base-patch32",
    "clip-vit-large-patch14-336",
    "siglip-base-patch16-224",
    "siglip-so400m-patch14-384",
    "vit-base-patch16-224",
)

Keys = dict[str, Any]


def published(checkpoint: str) -> Keys:
    """The keys of a checkpoint's preprocessor_config.json."""
    keys: Keys = json.loads(
        (CHECKPOINTS / checkpoint / "preprocessor_config.json").read_text(encoding="utf-8")
    )
    return keys


def _clip(**keys: Any) -> Keys:  # noqa: ANN401 - JSON values
    return {"image_processor_type": "CLIPImageProcessor", **keys}


def _vit(**keys: Any) -> Keys:  # noqa: ANN401 - JSON values
    return {"image_processor_type": "ViTImageProcessor", **keys}


# What the published files leave out: odd crops, crops larger than the picture, every shape of `size`, every
# filter, each step switched off, and factors and means that are no round numbers.
CONFIGS: Final[dict[str, Keys]] = {
    **{name: published(name) for name in IMAGE_CHECKPOINTS},
    "class defaults": _clip(),
    "odd crop": _clip(size={"shortest_edge": 230}, crop_size={"height": 225, "width": 191}),
    "crop wider than the picture": _clip(size={"shortest_edge": 100}, crop_size={"height": 225, "width": 302}),
    "size as a list": _clip(size=[150, 201], crop_size=133),
    "longest edge bounded": _clip(size={"shortest_edge": 224, "longest_edge": 448}, do_center_crop=False),
    "within a box": _vit(size={"max_height": 300, "max_width": 200}),
    "lanczos": _vit(size={"height": 192, "width": 257}, resample=1),
    "no resize, cropped": _clip(do_resize=False, crop_size=201),
    "rescale only": _vit(do_normalize=False, size=64),
    "normalise only": _vit(do_rescale=False, size=64, image_mean=[124, 116.5, 104], image_std=[58.4, 57, 57.3]),
    "neither": _vit(do_rescale=False, do_normalize=False, size=64),
    "to -1..1": _vit(rescale_factor=1 / 127.5, image_mean=[1.0, 1.0, 1.0], image_std=[1.0, 1.0, 1.0], size=64),
    "imagenet": _vit(image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225], size=64),
    "one mean for all": _vit(image_mean=0.3, image_std=0.7, size=64),
}  # fmt: skip
# Filters that torchvision does not have for tensors, or rounds otherwise.
PIL_CONFIGS: Final[dict[str, Keys]] = {
    "nearest": _vit(resample=0),
    "box": _vit(resample=4),
    "hamming": _vit(resample=5),
}


_IMAGENET: Final = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
_OPENAI: Final = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
_HALF: Final = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
# Bytes to 0..1, then normalised: what most files say at length.
_USUAL: Final = {"do_resize": True, "do_rescale": True, "do_normalize": True, "rescale_factor": 1 / 255}


CLASS_DEFAULTS: Final = "class defaults"


def _of(processor: str, checkpoint: str, **keys: Any) -> Keys:  # noqa: ANN401 - JSON values
    kind = "image_processor_type" if processor.endswith("ImageProcessor") else "feature_extractor_type"
    return {kind: processor, "_name_or_path": checkpoint, **keys}


def _taken(checkpoint: str, publisher: str) -> Keys:
    return {**published(checkpoint), "_name_or_path": f"{publisher}/{checkpoint}"}


FAMILY_CONFIGS: Final[dict[str, Keys]] = {
    "CLIPImageProcessor": _taken("clip-vit-base-patch32", "openai"),
    "SiglipImageProcessor": _taken("siglip-base-patch16-224", "google"),
    "ViTImageProcessor": _taken("vit-base-patch16-224", "google"),
    "WhisperFeatureExtractor": _taken("whisper-large-v3", "openai"),
    "Wav2Vec2FeatureExtractor": _taken("wav2vec2-base-960h", "facebook"),
    **{
        str(keys.get("image_processor_type", keys.get("feature_extractor_type"))): keys
        for keys in (
            _of(
                "Qwen2VLImageProcessor", "Qwen/Qwen2-VL-7B-Instruct", **_USUAL, **_OPENAI, resample=3,
                min_pixels=3136, max_pixels=12845056, patch_size=14, temporal_patch_size=2, merge_size=2,
            ),
            _of(
                "PixtralImageProcessor", "mistral-community/pixtral-12b", **_USUAL, **_OPENAI, resample=3,
                do_convert_rgb=True, patch_size={"height": 16, "width": 16}, size={"longest_edge": 1024},
            ),
            _of(
                "LlavaNextImageProcessor", "llava-hf/llava-v1.6-mistral-7b-hf", **_USUAL, **_OPENAI,
                resample=3, do_convert_rgb=True, do_center_crop=True, do_pad=True,
                crop_size={"height": 336, "width": 336}, size={"shortest_edge": 336},
                image_grid_pinpoints=[[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
            ),
            _of(
                "LlavaOnevisionImageProcessor", "llava-hf/llava-onevision-qwen2-7b-ov-hf", **_USUAL, **_HALF,
                resample=3, do_convert_rgb=True, do_pad=True, size={"height": 384, "width": 384},
                image_grid_pinpoints=[
                    [384 * down, 384 * across] for down in range(1, 7) for across in range(1, 7)
                ],
            ),
            _of(
                "GotOcr2ImageProcessor", "OpenGVLab/InternVL3-8B-hf", **_USUAL, **_IMAGENET, resample=3,
                do_convert_rgb=True, crop_to_patches=True, min_patches=1, max_patches=12,
                size={"height": 448, "width": 448},
            ),
            _of(
                "Gemma3ImageProcessor", "google/gemma-3-4b-it", **_USUAL, **_HALF, resample=2,
                image_seq_length=256, size={"height": 896, "width": 896},
            ),
            _of(
                "Llama4ImageProcessor", "meta-llama/Llama-4-Scout-17B-16E-Instruct", **_USUAL, **_HALF,
                resample=2, do_convert_rgb=True, max_patches=16, resize_to_max_canvas=False,
                size={"height": 336, "width": 336},
            ),
            _of(
                "MllamaImageProcessor", "meta-llama/Llama-3.2-11B-Vision-Instruct", **_USUAL, **_OPENAI,
                resample=2, do_convert_rgb=True, do_pad=True, max_image_tiles=4,
                size={"height": 560, "width": 560},
            ),
            _of(
                "Idefics3ImageProcessor", "HuggingFaceM4/Idefics3-8B-Llama3", **_USUAL, **_HALF, resample=1,
                do_convert_rgb=True, do_pad=True, do_image_splitting=True,
                max_image_size={"longest_edge": 364}, size={"longest_edge": 1456},
            ),
            _of(
                "SmolVLMImageProcessor", "HuggingFaceTB/SmolVLM2-2.2B-Instruct", **_USUAL, **_HALF, resample=1,
                do_convert_rgb=True, do_pad=True, do_image_splitting=True,
                max_image_size={"longest_edge": 384}, size={"longest_edge": 1536},
            ),
            _of(
                "Cohere2VisionImageProcessor", "CohereLabs/command-a-vision-07-2025", **_USUAL, **_HALF,
                resample=3, crop_to_patches=True, min_patches=1, max_patches=12,
                size={"height": 512, "width": 512},
            ),
            _of(
                "Glm4vImageProcessor", "zai-org/GLM-4.1V-9B-Thinking", **_USUAL, **_OPENAI, resample=3,
                size={"shortest_edge": 12544, "longest_edge": 9633792}, patch_size=14, temporal_patch_size=2,
                merge_size=2,
            ),
            _of(
                "ConvNextImageProcessor", "facebook/convnext-tiny-224", **_USUAL, **_IMAGENET, resample=3,
                crop_pct=0.875, size={"shortest_edge": 224},
            ),
            _of(
                "BitImageProcessor", "facebook/dinov2-base", **_USUAL, **_IMAGENET, resample=3,
                do_convert_rgb=True, do_center_crop=True, size={"shortest_edge": 256},
                crop_size={"height": 224, "width": 224},
            ),
            _of(
                "DeiTImageProcessor", "facebook/deit-base-distilled-patch16-224", **_USUAL, **_IMAGENET,
                resample=3, do_center_crop=True, size={"height": 256, "width": 256},
                crop_size={"height": 224, "width": 224},
            ),
            _of(
                "Phi4MultimodalImageProcessor", "microsoft/Phi-4-multimodal-instruct", **_HALF,
                size={"height": 448, "width": 448}, patch_size=14, dynamic_hd=36,
            ),
            _of(
                "ParakeetFeatureExtractor", "nvidia/parakeet-ctc-1.1b", feature_size=80, sampling_rate=16000,
                hop_length=160, n_fft=512, win_length=400, preemphasis=0.97, padding_value=0.0,
                padding_side="right", return_attention_mask=True,
            ),
            _of(
                "SeamlessM4TFeatureExtractor", "facebook/w2v-bert-2.0", feature_size=80, num_mel_bins=80,
                sampling_rate=16000, stride=2, padding_value=1, padding_side="right",
                return_attention_mask=True,
            ),
            _of(
                "Siglip2ImageProcessor", "google/siglip2-base-patch16-naflex", **_USUAL, **_HALF, resample=2,
                patch_size=16, max_num_patches=256,
            ),
            _of(
                "BlipImageProcessor", "Salesforce/blip-image-captioning-base", **_USUAL, **_OPENAI, resample=3,
                size={"height": 384, "width": 384},
            ),
            _of(
                "Kimi_K25ImageProcessor", "moonshotai/Kimi-K2.5", **_HALF, max_patches=16384, patch_size=14,
                merge_size=2, size={"max_height": 512, "max_width": 512},
            ),
            _of(
                "PaddleOCRVLImageProcessor", "PaddlePaddle/PaddleOCR-VL", **_USUAL, **_HALF, resample=3,
                min_pixels=147384, max_pixels=2822400, patch_size=14, temporal_patch_size=1, merge_size=2,
            ),
            *(
                _of(f"{name}ImageProcessor", CLASS_DEFAULTS)
                for name in (
                    "Ernie4_5_VLMoe", "Ernie4_5_VL_Moe", "Gemma4", "Glm46V", "MiniCPMOcr",
                    "MiniCPMV4_6", "MiniMaxM3VL", "Pvt", "VideoLlama3",
                )
            ),
            *(
                _of(f"{name}FeatureExtractor", CLASS_DEFAULTS)
                for name in ("Gemma3nAudio", "Gemma4Audio")
            ),
        )
    },
}  # fmt: skip
"""For each class of FAMILIES what a published checkpoint's file says, which `_name_or_path` names.

CLASS_DEFAULTS stands there for classes of which no published file is known to us: they have their own defaults.
"""


BACKENDS: Final = {"pil": "Pil", "torchvision": ""}
"""transformers' backends, and what they add to a class's name."""


def reference_outputs(
    keys: Keys, backend: str, picture: npt.NDArray[np.uint8], **switches: object
) -> dict[str, npt.NDArray[Any]]:
    """Everything that a backend's processor with these keys gives for a uint8 [height, width, 3] picture, a
    batch of one. `switches` are call-time arguments, such as do_normalize=False.
    """
    given = processor(json.dumps(keys, sort_keys=True), backend)(
        picture, input_data_format="channels_last", **switches
    )
    return {name: np.asarray(values) for name, values in given.items()}


@functools.lru_cache(maxsize=64)
def processor(keys: str, backend: str) -> Any:  # noqa: ANN401 - transformers is untyped
    """The processor of a backend for keys given as JSON; torchvision's needs torchvision to have been imported."""
    return _named(json.loads(keys), BACKENDS[backend])


def pil_processor(keys: Keys) -> Any:  # noqa: ANN401 - transformers is untyped
    """The PIL backend of transformers for these keys."""
    return _named(keys, "Pil")


def torchvision_processor(keys: Keys) -> Any:  # noqa: ANN401 - transformers is untyped
    """The torchvision backend of transformers for these keys; torchvision must have been imported."""
    return _named(keys, "")


def _named(keys: Keys, suffix: str) -> Any:  # noqa: ANN401 - transformers is untyped
    import transformers  # noqa: PLC0415 - seconds to import, and only parity needs it

    name = keys.get("image_processor_type", keys.get("feature_extractor_type"))
    name = str(name).replace("FeatureExtractor", "ImageProcessor")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(transformers, name + suffix)(**keys)


def reference_pixels(processor: Any, picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:  # noqa: ANN401
    """uint8 [3, height, width]: what the reference resizes and crops a uint8 [height, width, 3] picture to."""
    pixels = _ask(processor, picture, do_rescale=False, do_normalize=False)
    assert pixels.dtype == np.uint8  # noqa: S101 - a float here would hide a rounding
    return pixels


def reference_values(processor: Any, picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:  # noqa: ANN401
    """[3, height, width]: the reference's `pixel_values` for a picture, as float32."""
    return _ask(processor, picture).astype(np.float32)


def _ask(processor: Any, picture: npt.NDArray[np.uint8], **switches: bool) -> npt.NDArray[Any]:  # noqa: ANN401
    # A picture given as an array has its channel axis guessed, wrongly for 3x2 pixels: it is named.
    (values,) = processor(picture, input_data_format="channels_last", **switches)["pixel_values"]
    return np.asarray(values)


def extractor(keys: Keys) -> Any:  # noqa: ANN401 - transformers is untyped
    """The feature extractor of a sound's keys, which computes with torch where that is installed."""
    import transformers  # noqa: PLC0415 - seconds to import, and only parity needs it

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(transformers, str(keys["feature_extractor_type"]))(**keys)
