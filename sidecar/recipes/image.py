"""What recipes for pictures share: a plan from a picture's size alone, then pixels by the plan.

A family is one file in `images/`: a Plan of its own, how it follows from (height, width), and how resized
pixels are laid out. Whatever is known before decoding (shapes, placeholder tokens, bytes) is in the plan, so
that admission, GetModel and transform cannot disagree. Nothing here knows a family.
"""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Generic, TypeVar, get_args

import numpy as np
import numpy.typing as npt

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
    Workload,
)
from sidecar.recipes.choice import Choice
from sidecar.recipes.config import Config
from sidecar.recipes.recipe import bytes_of, ignored_step
from sidecar.stages.transform.geometry import Crop, Reference, Size, Span
from sidecar.stages.transform.normalize import Normalization, Table, Triple, value_table
from sidecar.stages.transform.resize import FILTERS, TAPS, check_resized_size, references_met, resize

PIXELS: Final = "pixel_values"
VALUES: Final = frozenset({DataType.FP32, DataType.FP16, DataType.BF16, DataType.UINT8})
"""What pixels can be packed as; UINT8 is bare bytes, which the model normalises."""
COUNTS: Final = frozenset({DataType.INT32, DataType.INT64})
"""What grids, sizes and masks can be packed as."""

BILINEAR: Final = 2
BICUBIC: Final = 3
LANCZOS: Final = 1

CLIP_MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Final = (0.26862954, 0.26130258, 0.27577711)
"""Mean and standard deviation of CLIP's training pictures, published with OpenAI's CLIP."""
IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)
"""The same of ImageNet's, as torchvision publishes them."""
HALF: Final = (0.5, 0.5, 0.5)

# What transformers' loaders read, write or take at call time, and what cannot matter here: one picture at
# a time, in RGB, into one layout.
HARMLESS: Final = frozenset({
    "_name_or_path", "_processor_class", "_valid_processor_keys", "auto_map", "data_format", "device",
    "disable_grouping", "feature_extractor_type", "image_processor_type", "image_seq_length", "input_data_format",
    "model_input_names", "num_image_tokens", "processor_class", "return_tensors", "transformers_version",
})  # fmt: skip
COMMON: Final = frozenset({
    "do_convert_rgb", "do_normalize", "do_rescale", "do_resize", "image_mean", "image_std", "resample",
    "rescale_factor", "size",
})  # fmt: skip
"""The keys that `common` reads, and two that every family reads by itself."""

# Which backend a class name asks for. A plain name asks for none: transformers then takes torchvision's
# where that is installed and PIL's where not, which is no property of a model. Here it is always PIL's, the
# one that has every filter.
_SUFFIXES: Final[dict[str, Reference]] = {"Fast": "torchvision", "Pil": "pil"}
_PLAIN: Final[Reference] = "pil"
_REFERENCES: Final[tuple[Reference, ...]] = get_args(Reference)

# How much larger than its target a picture must stay when it is decoded smaller. At twice it is 50 dB from the
# exact pixels and saves a quarter of 1080p to 224; at 6/5, where 1080p comes at a quarter, 44 dB (1.1 of 255 on
# average) and a third; from there down it loses more than it saves (34 to 39 dB at 1).
_LEAST: Final = 1.2
_SMALLER: Final = (
    "JPEGs decoded at 1/2, 1/4 or 1/8 where that leaves 6/5 of the target: about 44 dB from the exact path"
)
# Filters that take little notice of where a smaller picture's pixels begin: with box it is 42 dB, and nearest
# takes single pixels of the whole (30 dB).
_SMOOTH: Final = frozenset(FILTERS) - {0, 4}


# Rows that are resized at once into what is larger: some hundred lose little to the rows that two bands share.
_BAND: Final = 256

# Far below any picture's, and far above where float32 would make an infinity of a quotient.
_LEAST_STD: Final = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a picture of one size becomes. Families add what they need to lay it out.

    `shapes`: of each output, by name, without batch axis. `tokens`: how many placeholder tokens the picture
    takes in the prompt; None where the model has none, or its files do not tell. `resized`: every size
    (height, width) that the whole picture is resized to; empty where parts of it are, or nothing.
    """

    shapes: Mapping[str, tuple[int, ...]]
    tokens: int | None = None
    resized: tuple[Size, ...] = ()


PlanT = TypeVar("PlanT", bound=Plan)


@dataclass(frozen=True, slots=True)
class Common:
    """The numbers that all image processors have; `common` reads them from a model's files.

    `met`: the reference has the filter, so that a resize has its bits. `fast` is as Choice says, where the
    filter allows it. `ignored` lists keys of the model's file that the processor itself ignores.
    """

    processor: str
    reference: Reference
    met: bool
    resample: int
    normalization: Normalization
    white_transparency: bool
    fast: bool = False
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ImageRecipe(ABC, Generic[PlanT]):
    """An image processor's steps and numbers; see Recipe. A family says what `plan`, `shape` and `geometry` are."""

    common: Common

    @abstractmethod
    def plan(self, size: Size) -> PlanT:
        """What an upright picture of (height, width) becomes. Raises MediaTooLarge, and CorruptMedia where the
        processor itself refuses such a size (extreme aspect ratios).
        """

    @abstractmethod
    def shape(self, frames: Pixels, plan: PlanT) -> tuple[Shaped, ...]:
        """The outputs of a picture, in the order of `outputs`."""

    @property
    @abstractmethod
    def geometry(self) -> tuple[str, ...]:
        """What becomes of a picture's shape, a line a step, for people."""

    @property
    @abstractmethod
    def outputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def processor(self) -> str:
        return self.common.processor

    @property
    def reference(self) -> Reference:
        return self.common.reference

    @property
    def modality(self) -> Modality:
        return Modality.IMAGE

    @property
    def exact(self) -> bool:
        return self.common.met and not self.common.fast

    @property
    def table(self) -> Table:
        """What each byte of a channel stands for."""
        return value_table(self.common.normalization, self.common.reference)

    @property
    def pixel_type(self) -> DataType:
        """The natural type of the pixels: bytes where nothing is done to them."""
        return DataType.FP32 if self.common.normalization.changes_bytes else DataType.UINT8

    @property
    def steps(self) -> tuple[str, ...]:
        common, how = self.common, self.common.normalization
        steps = [_SMALLER] if common.fast else []
        if common.white_transparency:
            steps.append("RGB; a colour declared transparent becomes white")
        steps += self.geometry
        if how.scale is not None:
            steps.append(f"rescale: times {how.scale!r}")
        if how.mean is not None:
            steps.append(f"normalise: minus {list(how.mean)}, over {list(how.std or ())}")
        faith = "to the bit" if common.met else "not to the bit: its filter of that name is another"
        if common.fast:
            faith += ", but for JPEGs decoded smaller"
        steps.append(f"as transformers' {common.reference} backend does, {faith}")
        return (*steps, *ignored_step(common.ignored))

    @property
    def fills_up(self) -> bool:
        """Whether zeros are put among the pixels after they are normalised."""
        return False

    def accepts(self, output: str, data_type: DataType) -> bool:
        """See Recipe. Bytes are refused where zeros are filled in that are no byte's value."""
        if output == PIXELS and data_type is DataType.UINT8 and self.fills_up and self.table[:, 0].any():
            return False
        return data_type in (VALUES if output == PIXELS else COUNTS)

    def decode_target(self, info: MediaInfo) -> DecodeTarget:
        least = None
        if self.common.fast and (sizes := self._planned(_size(info, self.processor)).resized):
            height, width = (math.ceil(_LEAST * max(size[axis] for size in sizes)) for axis in (0, 1))
            least = height, width
        return DecodeTarget(white_transparency=self.common.white_transparency, least_size=least)

    def tokens(self, info: MediaInfo) -> int | None:
        return self._planned(_size(info, self.processor)).tokens

    def output_bytes(self, info: MediaInfo, data_types: Mapping[str, DataType]) -> Mapping[str, int]:
        """See Recipe. Raises MediaTooLarge where a resized picture would pass its limit."""
        plan = self._planned(_size(info, self.processor))
        for size in plan.resized:
            check_resized_size(size)
        return bytes_of({name: math.prod(shape) for name, shape in plan.shapes.items()}, data_types)

    def workload(self, info: MediaInfo, data_types: Mapping[str, DataType]) -> Workload:
        plan = self._planned(_size(info, self.processor))
        counts = {name: math.prod(shape) for name, shape in plan.shapes.items() if name in data_types}
        return Workload(
            self.processor,
            self.reference,
            plan.resized,
            TAPS[self.common.resample],
            elements=sum(counts.values()),
            nbytes=sum(bytes_of(counts, data_types).values()),
        )

    def transform(self, frames: Frames) -> tuple[Shaped, ...]:
        """Raises MediaTooLarge where a resized picture would pass its limit."""
        if not isinstance(frames, Pixels):
            raise InternalError(f"{self.processor} was handed a sound")
        return self.shape(frames, self.plan(frames.size))

    def _planned(self, size: Size) -> PlanT:
        """`plan`, not made anew for each of the questions that are asked of one header."""
        if _LAST.recipe is not self or _LAST.size != size:
            _LAST.plan = self.plan(size)
            _LAST.recipe, _LAST.size = self, size
        plan: PlanT = _LAST.plan
        return plan

    def resized(self, frames: Pixels, target: Size, crop: Crop | None = None) -> npt.NDArray[np.uint8]:
        """The whole picture at `target` (height, width), then cropped: uint8 [height, width, 3]."""
        return resize(frames.array, target, self.common.resample, self.common.reference, crop, frames.extent)

    def fill(self, canvas: npt.NDArray[np.uint8], frames: Pixels) -> None:
        """Resizes the whole picture to `canvas`, uint8 [height, width, 3] and perhaps part of something larger.

        A band of rows at a time, to the same bits: no second picture of that size is made on the way.
        """
        height, width, _ = canvas.shape
        columns = Span(0, width, 0)
        for top in range(0, height, _BAND):
            band = canvas[top : top + _BAND]
            crop = Crop((len(band), width), Span(top, top + len(band), 0), columns)
            band[:] = self.resized(frames, (height, width), crop)


class _Last(threading.local):
    """The plan that was made last on a thread, of which recipe, and for which size. A plan takes 2 to 50 µs."""

    recipe: object = None
    size: Size | None = None
    plan: Any = None


_LAST: Final = _Last()


def _size(info: MediaInfo, processor: str) -> Size:
    if not isinstance(info, ImageInfo):
        raise InternalError(f"{processor} was asked about a sound")
    width, height = info.upright_size
    return height, width


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a processor does where its files say nothing: the attributes of its class in transformers."""

    resample: int
    mean: Triple
    std: Triple
    converts_rgb: bool
    rescales: bool = True
    normalizes: bool = True
    resizes: bool = True


def common(
    config: Config, processor: str, defaults: Defaults, choice: Choice, known: frozenset[str]
) -> Common:
    """What COMMON's keys say. `known` are the family's other keys; every further one is ignored, and listed.

    Raises RecipeError where a key is unusable, where `choice` names no reference of pixels, or is exact and
    cannot be.
    """
    resamples = config.flag("do_resize", defaults.resizes)
    resample = _resample(config, defaults.resample)
    reference, met = _followed(config, processor, resample if resamples else None, choice)
    return Common(
        processor,
        reference,
        met,
        resample,
        _normalization(config, defaults),
        config.flag("do_convert_rgb", defaults.converts_rgb),
        choice.fast and resamples and resample in _SMOOTH,
        config.ignored(HARMLESS | COMMON | known),
    )


def torchvision_only(config: Config, processor: str, choice: Choice) -> Choice:
    """The choice for a processor that exists for that backend alone: auto is it. Raises RecipeError for others."""
    if choice.reference in {"auto", "torchvision"}:
        return replace(choice, reference="torchvision")
    raise RecipeError(
        f"{config.source}: `reference` is {choice.reference!r}, and transformers has {processor} for torchvision"
        " alone: set it to torchvision or auto",
        file=config.source,
        key="reference",
        value=choice.reference,
        allowed="torchvision, auto",
    )


def _resample(config: Config, default: int) -> int:
    value = config.integer("resample", default, least=0)
    if value not in FILTERS:
        raise config.refusal("resample", ", ".join(f"{key} ({name})" for key, name in FILTERS.items()))
    return value


def _normalization(config: Config, defaults: Defaults) -> Normalization:
    rescales = config.flag("do_rescale", defaults.rescales)
    scale = config.positive("rescale_factor", 1 / 255) if rescales else None
    if not config.flag("do_normalize", defaults.normalizes):
        return Normalization(scale)
    std = config.triple("image_std", defaults.std)
    if min(map(abs, std)) < _LEAST_STD:
        raise config.refusal(
            "image_std", f"at least {_LEAST_STD:g} in every channel: values are divided by it"
        )
    return Normalization(scale, config.triple("image_mean", defaults.mean), std)


def _followed(config: Config, processor: str, resample: int | None, choice: Choice) -> tuple[Reference, bool]:
    """Whose bits the recipe follows, and whether it has them: the reference may lack the filter."""
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
