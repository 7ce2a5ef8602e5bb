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
