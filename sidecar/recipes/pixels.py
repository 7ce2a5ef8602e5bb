"""Resize, centre crop, rescale, normalise: the steps that plain image processors share.

transformers runs them from one base class, and its CLIP, SigLIP and ViT processors are nothing but
defaults for its keys; so here they are one recipe, and a family is a set of defaults (clip.py, vit.py).

Keys: `do_resize`, `size`, `default_to_square`, `resample`; `do_center_crop`, `crop_size`; `do_rescale`,
`rescale_factor`; `do_normalize`, `image_mean`, `image_std`; `do_pad`, which is refused, since padding
depends on a batch's other pictures. Pictures are RGB when they come here; `do_convert_rgb` decides only what
becomes of the one colour that a GIF or PNG declares transparent: transformers' own conversion makes it white.

Output: `pixel_values`, float32 [3, height, width]; bare bytes (UINT8) where the model normalises by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, get_args

from sidecar.errors import InternalError, RecipeError
from sidecar.media import (
    DataType,
    DecodeTarget,
    Frames,
    ImageInfo,
    MediaInfo,
    Modality,
    Pixels,
    Shaped,
    TensorSpec,
)
from sidecar.recipes.choice import Choice
from sidecar.recipes.config import Config, is_count
from sidecar.recipes.recipe import bytes_of, ignored_step
from sidecar.stages.transform.geometry import (
    Crop,
    Fixed,
    Reference,
    Rule,
    ShortestEdge,
    Size,
    Within,
    center_crop,
    resized,
)
from sidecar.stages.transform.normalize import Normalization, Triple, value_table
from sidecar.stages.transform.resize import (
    FILTERS,
    MOST_RESIZED_BYTES,
    check_resized_size,
    cropped,
    references_met,
    resize,
)

OUTPUT: Final = "pixel_values"
_TYPES: Final = frozenset({DataType.FP32, DataType.FP16, DataType.BF16, DataType.UINT8})

BILINEAR: Final = 2
BICUBIC: Final = 3

# What transformers' loaders read, write or take at call time, and what cannot matter here: one picture at
# a time, in RGB, into one layout.
_HARMLESS: Final = frozenset({
    "_name_or_path", "_processor_class", "_valid_processor_keys", "auto_map", "data_format", "device",
    "disable_grouping", "feature_extractor_type", "image_processor_type",
    "image_seq_length", "input_data_format", "model_input_names", "pad_size", "processor_class",
    "return_tensors", "transformers_version",
})  # fmt: skip
_DRIVING: Final = frozenset({
    "crop_size", "default_to_square", "do_center_crop", "do_convert_rgb", "do_normalize", "do_pad",
    "do_rescale", "do_resize", "image_mean", "image_std", "resample", "rescale_factor", "size", "use_square_size",
})  # fmt: skip

# Which backend a class name asks for. A plain name asks for none: transformers then takes torchvision's
# where that is installed and PIL's where not, which is no property of a model. Here it is always PIL's, the
# one that has every filter.
_SUFFIXES: Final[dict[str, Reference]] = {"Fast": "torchvision", "Pil": "pil"}
_PLAIN: Final[Reference] = "pil"
_REFERENCES: Final[tuple[Reference, ...]] = get_args(Reference)


# PSNR after resize and crop, of all three factors and four filters: 50 to 55 dB with the benchmarks' pictures,
# 44 to 51 with photographs that were small to begin with.
_SMALLER: Final = (
    "JPEGs decoded at 1/2, 1/4 or 1/8 where that leaves twice the target: about 50 dB from the exact path"
)
# Filters that take little notice of where a smaller picture's pixels begin: with box it is 42 dB, and nearest
# takes single pixels of the whole (30 dB).
_SMOOTH: Final = frozenset(FILTERS) - {0, 4}


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a processor does where its files say nothing: the attributes of its class in transformers."""

    resample: int
    mean: Triple
    std: Triple
    size: Rule
    square: bool
    converts_rgb: bool
    crop: Size | None = None


@dataclass(frozen=True, slots=True)
class PixelRecipe:
    """A plain image processor's steps and numbers; see Recipe. None stands for a step that is not taken.

    `met`: the reference has the filter, so that the resize has its bits. `least_size` is as DecodeTarget says.
    `ignored` lists keys of the model's file that the processor itself ignores.
    """

    processor: str
    reference: Reference
    met: bool
    rule: Rule | None
    resample: int
    crop: Size | None
    normalization: Normalization
    white_transparency: bool
    least_size: Size | None = None
    ignored: tuple[str, ...] = ()

    @property
    def modality(self) -> Modality:
        return Modality.IMAGE

    @property
    def exact(self) -> bool:
        return self.met and self.least_size is None

    @property
    def steps(self) -> tuple[str, ...]:
        how, steps = self.normalization, []
        if self.least_size is not None:
            steps.append(_SMALLER)
        if self.white_transparency:
            steps.append("RGB; a colour declared transparent becomes white")
        if self.rule is not None:
            steps.append(f"resize ({FILTERS[self.resample]}) {self.rule}")
        if self.crop is not None:
            steps.append(
                f"centre crop to {self.crop[0]}x{self.crop[1]} (height x width), zeros around smaller pictures"
            )
        if how.scale is not None:
            steps.append(f"rescale: times {how.scale!r}")
        if how.mean is not None:
            steps.append(f"normalise: minus {list(how.mean)}, over {list(how.std or ())}")
        faith = "to the bit" if self.met else "not to the bit: its filter of that name is another"
        if self.least_size is not None:
            faith += ", but for JPEGs decoded smaller"
        steps.append(f"as transformers' {self.reference} backend does, {faith}")
        return (*steps, *ignored_step(self.ignored))

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        data_type = DataType.FP32 if self.normalization.changes_bytes else DataType.UINT8
        match self.crop, self.rule:
            case (height, width), _:
                shape = (3, height, width)
            case None, Fixed(height, width):
                shape = (3, height, width)
            case _:
                shape = (3, -1, -1)
        return (TensorSpec(OUTPUT, data_type, shape),)

    @property
    def decode_target(self) -> DecodeTarget:
        return DecodeTarget(white_transparency=self.white_transparency, least_size=self.least_size)

    def accepts(self, output: str, data_type: DataType) -> bool:
        return output == OUTPUT and data_type in _TYPES

    def output_bytes(self, info: MediaInfo, data_types: Mapping[str, DataType]) -> Mapping[str, int]:
        """See Recipe. Raises MediaTooLarge where the resized picture would pass its limit."""
        if not isinstance(info, ImageInfo):
            raise InternalError(f"{self.processor} was asked about a sound")
        width, height = info.upright_size
        target, crop = self._geometry((height, width))
        if self.rule is not None:
            check_resized_size(target)
        height, width = target if crop is None else crop.size
        return bytes_of({OUTPUT: 3 * height * width}, data_types)

    def transform(self, frames: Frames) -> tuple[Shaped, ...]:
        """Raises MediaTooLarge where the resized picture would pass its limit."""
        if not isinstance(frames, Pixels):
            raise InternalError(f"{self.processor} was handed a sound")
        pixels = frames.array
        target, crop = self._geometry(frames.size)
        if self.rule is not None:
            pixels = resize(pixels, target, self.resample, self.reference, crop, frames.extent)
        elif crop is not None:
            pixels = cropped(pixels, crop)
        return (Shaped(OUTPUT, pixels, value_table(self.normalization, self.reference)),)

    def _geometry(self, size: Size) -> tuple[Size, Crop | None]:
        """The size after the resize, and the crop where it takes anything but the whole of that."""
        target = size if self.rule is None else resized(size, self.rule)
        if self.crop is None or self.crop == target:
            return target, None
        return target, center_crop(target, self.crop, self.reference)


def pixel_recipe(config: Config, processor: str, defaults: Defaults, choice: Choice) -> PixelRecipe:
    """The recipe that a processor's keys describe. Raises RecipeError; see Config and `_followed`."""
    config.one_of("do_pad", False, (False,))
    config.one_of("use_square_size", False, (False,))
    rule = _rule(config, defaults) if config.flag("do_resize", True) else None
    crop = _crop(config, defaults)
    for key, size in (
        ("size", (rule.height, rule.width) if isinstance(rule, Fixed) else None),
        ("crop_size", crop),
    ):
        if size is not None and size[0] * size[1] * 4 > MOST_RESIZED_BYTES:
            raise config.refusal(key, f"at most {MOST_RESIZED_BYTES // 4} pixels in all")
    resample = _resample(config, defaults)
    reference, met = _followed(config, processor, None if rule is None else resample, choice)
    return PixelRecipe(
        processor,
        reference,
        met,
        rule,
        resample,
        crop,
        _normalization(config, defaults),
        config.flag("do_convert_rgb", defaults.converts_rgb),
        _least_size(rule) if choice.fast and resample in _SMOOTH else None,
        config.ignored(_HARMLESS | _DRIVING),
    )


def _least_size(rule: Rule | None) -> Size | None:
    """The least that is still about twice the resized size, whatever a picture's aspect ratio."""
    match rule:
        case Fixed(height, width) | Within(height, width):
            return 2 * height, 2 * width
        case ShortestEdge(edge):
            return 2 * edge, 2 * edge
        case None:
            return None


def _rule(config: Config, defaults: Defaults) -> Rule:
    """`size`: a number (both sides, or the shortest edge), [height, width], or a mapping."""
    value = config.raw("size")
    match value:
        case None:
            return defaults.size
        case int() if is_count(value):
            square = config.flag("default_to_square", defaults.square)
            return Fixed(value, value) if square else ShortestEdge(value)
        case [height, width] if is_count(height) and is_count(width):
            return Fixed(height, width)
        case dict() if all(is_count(length) for length in value.values()):
            shape = _SIZES.get(frozenset(value))
            if shape is not None:
                return shape(value)
    raise config.refusal(
        "size",
        "a whole number, [height, width], or a mapping with the keys "
        + " or ".join("{" + ", ".join(sorted(keys)) + "}" for keys in _SIZES)
        + ", each of at least 1",
    )


_SIZES: Final[Mapping[frozenset[str], Callable[[Mapping[str, int]], Rule]]] = {
    frozenset({"height", "width"}): lambda size: Fixed(size["height"], size["width"]),
    frozenset({"shortest_edge"}): lambda size: ShortestEdge(size["shortest_edge"]),
    frozenset({"shortest_edge", "longest_edge"}): lambda size: ShortestEdge(
        size["shortest_edge"], size["longest_edge"]
    ),
    frozenset({"max_height", "max_width"}): lambda size: Within(size["max_height"], size["max_width"]),
}


def _resample(config: Config, defaults: Defaults) -> int:
    value = config.integer("resample", defaults.resample, least=0)
    if value not in FILTERS:
        raise config.refusal("resample", ", ".join(f"{key} ({name})" for key, name in FILTERS.items()))
    return value


def _crop(config: Config, defaults: Defaults) -> Size | None:
    """`crop_size`: a number for both sides, [height, width], or {height, width}."""
    if not config.flag("do_center_crop", defaults.crop is not None):
        return None
    value = config.raw("crop_size")
    match value:
        case None if defaults.crop is not None:
            return defaults.crop
        case int() if is_count(value):
            return value, value
        case [height, width] | {"height": height, "width": width} if is_count(height) and is_count(width):
            return height, width
    raise config.refusal(
        "crop_size", "a whole number, [height, width] or {height, width}, each of at least 1"
    )


def _normalization(config: Config, defaults: Defaults) -> Normalization:
    scale = config.positive("rescale_factor", 1 / 255) if config.flag("do_rescale", True) else None
    if not config.flag("do_normalize", True):
        return Normalization(scale)
    std = config.triple("image_std", defaults.std)
    if 0.0 in std:
        raise config.refusal("image_std", "other than 0 in every channel: values are divided by it")
    return Normalization(scale, config.triple("image_mean", defaults.mean), std)


def _followed(config: Config, processor: str, resample: int | None, choice: Choice) -> tuple[Reference, bool]:
    """Whose bits the recipe follows, and whether it has them: the reference may lack the filter.

    Raises RecipeError where `choice` names no reference of pixels, or wants `exact` and cannot have it.
    """
    reference = _reference(config, processor, choice)
    met = frozenset(_REFERENCES) if resample is None else references_met(resample)
    if reference in met or not choice.exact:
        return reference, reference in met
    raise RecipeError(
        f"{config.source}: {processor} is to have the pixels of transformers' {reference} backend exactly, and"
        f" those of its filter {FILTERS[resample or 0]} cannot be had: set `reference` to {' or '.join(sorted(met))},"
        " or `exact: false`",
        file=config.source,
        key="reference",
        value=reference,
        allowed=", ".join(sorted(met)),
    )


def _reference(config: Config, processor: str, choice: Choice) -> Reference:
    for known in _REFERENCES:
        if choice.reference == known:
            return known
    if choice.reference != "auto":
        raise RecipeError(
            f"{config.source}: `reference` is {choice.reference!r}, and for {processor} must be"
            f" {', '.join(_REFERENCES)} or auto",
            file=config.source,
            key="reference",
            value=choice.reference,
            allowed=", ".join((*_REFERENCES, "auto")),
        )
    endings = (reference for suffix, reference in _SUFFIXES.items() if processor.endswith(suffix))
    return next(endings, _PLAIN)
