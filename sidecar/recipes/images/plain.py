"""CLIP, SigLIP, ViT, BiT (DINOv2), BLIP, DeiT, PVT and their like: resize, centre crop, rescale, normalise.

transformers runs these steps from one base class, and such processors are nothing but defaults for its keys; so
here they are one recipe with a row of defaults each.

Keys: `do_resize`, `size`, `default_to_square`, `resample`; `do_center_crop`, `crop_size`; `do_rescale`,
`rescale_factor`; `do_normalize`, `image_mean`, `image_std`; `do_pad`, which is refused, since padding
depends on a batch's other pictures. Pictures are RGB when they come here; `do_convert_rgb` decides only what
becomes of the one colour that a GIF or PNG declares transparent: transformers' own conversion makes it white.
A legacy `size` that is a bare number means both sides or the shortest edge, by the processor.

Output: `pixel_values`, float32 [3, height, width]; bare bytes (UINT8) where the model normalises by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from sidecar.media import Pixels, Shaped, TensorSpec
from sidecar.recipes.choice import Choice
from sidecar.recipes.config import Config, is_count
from sidecar.recipes.image import (
    BICUBIC,
    BILINEAR,
    CLIP_MEAN,
    CLIP_STD,
    HALF,
    IMAGENET_MEAN,
    IMAGENET_STD,
    PIXELS,
    Defaults,
    ImageRecipe,
    Plan,
    common,
)
from sidecar.stages.transform.geometry import (
    Crop,
    Fixed,
    Rule,
    ShortestEdge,
    Size,
    Within,
    center_crop,
    resized,
)
from sidecar.stages.transform.resize import FILTERS, MOST_RESIZED_BYTES, cropped
from sidecar.stages.transform.turn import together

_KEYS: Final = frozenset({
    "crop_size", "default_to_square", "do_center_crop", "do_pad", "pad_size", "use_square_size",
})  # fmt: skip


_SQUARE: Final = Fixed(224, 224)


@dataclass(frozen=True, slots=True)
class PlainDefaults(Defaults):
    """Also the size rule, what a bare number for it means, and the crop; None for no crop."""

    size: Rule = _SQUARE
    square: bool = True
    crop: Size | None = None


CLIP: Final = PlainDefaults(
    BICUBIC, CLIP_MEAN, CLIP_STD, True, size=ShortestEdge(224), square=False, crop=(224, 224)
)
SIGLIP: Final = PlainDefaults(BICUBIC, HALF, HALF, True, square=False)
VIT: Final = PlainDefaults(BILINEAR, HALF, HALF, False)
BIT: Final = PlainDefaults(
    BICUBIC, CLIP_MEAN, CLIP_STD, True, size=ShortestEdge(224), square=False, crop=(224, 224)
)
BLIP: Final = PlainDefaults(BICUBIC, CLIP_MEAN, CLIP_STD, True, size=Fixed(384, 384))
DEIT: Final = PlainDefaults(BICUBIC, HALF, HALF, False, size=Fixed(256, 256), crop=(224, 224))
PVT: Final = PlainDefaults(BICUBIC, IMAGENET_MEAN, IMAGENET_STD, False)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainPlan(Plan):
    """`target` is the size after the resize; `crop` what is taken of that, None for the whole."""

    target: Size
    crop: Crop | None


@dataclass(frozen=True, slots=True)
class PlainRecipe(ImageRecipe[PlainPlan]):
    """A plain image processor; see Recipe. None stands for a step that is not taken."""

    rule: Rule | None
    crop: Size | None

    @property
    def geometry(self) -> tuple[str, ...]:
        steps = []
        if self.rule is not None:
            steps.append(f"resize ({FILTERS[self.common.resample]}) {self.rule}")
        if self.crop is not None:
            steps.append(
                f"centre crop to {self.crop[0]}x{self.crop[1]} (height x width), zeros around smaller pictures"
            )
        return tuple(steps)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        match self.crop, self.rule:
            case (height, width), _:
                shape = (3, height, width)
            case None, Fixed(height, width):
                shape = (3, height, width)
            case _:
                shape = (3, -1, -1)
        return (TensorSpec(PIXELS, self.pixel_type, shape),)

    def plan(self, size: Size) -> PlainPlan:
        target = size if self.rule is None else resized(size, self.rule)
        crop = None
        if self.crop is not None and self.crop != target:
            crop = center_crop(target, self.crop, self.common.reference)
        return PlainPlan(
            shapes={PIXELS: (3, *(crop.size if crop else target))},
            resized=() if self.rule is None else (target,),
            target=target,
            crop=crop,
        )

    def shape(self, frames: Pixels, plan: PlainPlan) -> tuple[Shaped, ...]:
        if self.rule is not None:
            pixels = self.resized(frames, plan.target, plan.crop)
        elif plan.crop is not None:
            pixels = cropped(frames.array, plan.crop)
        else:
            pixels = together(frames.array)
        return (Shaped.channels_first(PIXELS, pixels, self.table),)


def plain_recipe(defaults: PlainDefaults, config: Config, processor: str, choice: Choice) -> PlainRecipe:
    """The recipe that a processor's keys describe. Raises RecipeError; see Config and `common`."""
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
    return PlainRecipe(common(config, processor, defaults, choice, _KEYS), rule, crop)


def _rule(config: Config, defaults: PlainDefaults) -> Rule:
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


def _crop(config: Config, defaults: PlainDefaults) -> Size | None:
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


PROCESSORS: Final = {
    "BitImageProcessor": partial(plain_recipe, BIT),
    "BlipImageProcessor": partial(plain_recipe, BLIP),
    "CLIPImageProcessor": partial(plain_recipe, CLIP),
    "DeiTImageProcessor": partial(plain_recipe, DEIT),
    "PvtImageProcessor": partial(plain_recipe, PVT),
    "SiglipImageProcessor": partial(plain_recipe, SIGLIP),
    "ViTImageProcessor": partial(plain_recipe, VIT),
}
"""The classes of this family by name, each with what makes its recipe."""
