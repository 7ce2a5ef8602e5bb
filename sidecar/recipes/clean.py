"""Media handed on as media, but clean: for model servers that do the model's preprocessing themselves.

TensorRT-LLM's current backend takes nothing of a picture but an address (`image_url`), and would fetch and parse
whatever lies there; the older one takes a sound as samples (`WAV`). They are given what was decoded, checked and shrunk
here: a `data:` URI of a JPEG of our own making, no larger than the model's own processor would make it, and the mono
wave at the model's rate. So no byte of a caller's file reaches them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Generic, Literal, TypeVar

import numpy as np

from sidecar.errors import CorruptMedia, InternalError
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
    Verbatim,
    Workload,
)
from sidecar.recipes import sound
from sidecar.recipes.image import ImageRecipe
from sidecar.recipes.recipe import Recipe, bytes_of
from sidecar.recipes.sound import SoundRecipe
from sidecar.stages.transform.encode import data_uri, likely_bytes
from sidecar.stages.transform.geometry import Size
from sidecar.stages.transform.resample import to_wave

IMAGE_URL: Final = "image_url"
WAV, WAV_LENS = "WAV", "WAV_LENS"
_LENGTH: Final = struct.Struct("<I")

BaseT = TypeVar("BaseT", ImageRecipe[Any], SoundRecipe)

Form = Literal["auto", "tensors", "media"]
"""In which form a model is handed its media: what its inputs say, its recipe's tensors, or clean media."""


def formed(recipe: Recipe, inputs: Iterable[TensorSpec], form: Form) -> Recipe:
    """The recipe itself, or the one that leaves clean media, by what the model's inputs are called."""
    if form == "tensors":
        return recipe
    types = {spec.name: spec.data_type for spec in inputs}
    if isinstance(recipe, ImageRecipe) and (form == "media" or _takes_addresses_alone(types)):
        return CleanPicture(recipe)
    if isinstance(recipe, SoundRecipe) and (form == "media" or {WAV, WAV_LENS} <= types.keys()):
        return CleanSound(recipe)
    return recipe


def _takes_addresses_alone(types: Mapping[str, DataType]) -> bool:
    """TensorRT-LLM's `llmapi` backend: beside addresses there is nothing that a picture could be given by."""
    pixels = {DataType.FP32, DataType.FP16, DataType.BF16, DataType.UINT8}
    own = {name: kind for name, kind in types.items() if not name.startswith("sampling_param_")}
    return own.get(IMAGE_URL) is DataType.BYTES and not pixels & set(own.values())


@dataclass(frozen=True, slots=True)
class _Clean(Generic[BaseT]):
    """What is the model's own, whichever form its media has: that of `base`."""

    base: BaseT

    @property
    def processor(self) -> str:
        return self.base.processor

    @property
    def modality(self) -> Modality:
        return self.base.modality

    @property
    def reference(self) -> str:
        return self.base.reference

    def tokens(self, info: MediaInfo) -> int | None:
        return self.base.tokens(info)


@dataclass(frozen=True, slots=True)
class CleanPicture(_Clean[ImageRecipe[Any]]):
    """A picture as a `data:` URI, shrunk as the model's own processor `base` would; see Recipe."""

    @property
    def exact(self) -> bool:
        return False

    @property
    def steps(self) -> tuple[str, ...]:
        return (
            "decoded, and shrunk to the size that the model's processor resizes to, where that is smaller",
            f"a JPEG without metadata, as a data: URI in {IMAGE_URL}",
        )

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return (TensorSpec(IMAGE_URL, DataType.BYTES, ()),)

    def decode_target(self, info: MediaInfo) -> DecodeTarget:
        return self.base.decode_target(info)

    def accepts(self, output: str, data_type: DataType) -> bool:
        return output == IMAGE_URL and data_type is DataType.BYTES

    def output_bytes(self, info: MediaInfo, data_types: Mapping[str, DataType]) -> Mapping[str, int]:
        """See Recipe; rarely more than this, which shows only once it is encoded."""
        size = self._size(info)
        return {name: likely_bytes(*size) for name in data_types if name == IMAGE_URL}

    def workload(self, info: MediaInfo, data_types: Mapping[str, DataType]) -> Workload:
        nbytes = sum(self.output_bytes(info, data_types).values())
        return replace(self.base.workload(info, {}), elements=nbytes, nbytes=nbytes)

    def transform(self, frames: Frames) -> tuple[Shaped, ...]:
        if not isinstance(frames, Pixels):
            raise InternalError(f"{self.processor} was handed a sound")
        height, width = frames.size
        target = self._size(ImageInfo("", 0, width, height, "RGB"))
        is_smaller = target != frames.size
        uri = data_uri(self.base.resized(frames, target) if is_smaller else frames.array)
        return (Shaped(IMAGE_URL, (), (Verbatim(_LENGTH.pack(len(uri)) + uri),)),)

    def _size(self, info: MediaInfo) -> Size:
        """(height, width) of the picture that is handed on."""
        if not isinstance(info, ImageInfo):
            raise InternalError(f"{self.processor} was asked about a sound")
        width, height = info.upright_size
        resized = self.base.workload(info, {}).resized
        if len(resized) == 1 and resized[0][0] <= height and resized[0][1] <= width:
            return resized[0]
        return height, width


@dataclass(frozen=True, slots=True)
class CleanSound(_Clean[SoundRecipe]):
    """A sound as its samples, mono at the rate at which the model hears; see Recipe."""

    @property
    def exact(self) -> bool:
        return True

    @property
    def steps(self) -> tuple[str, ...]:
        return (
            sound.loading_step(self.base.resampler, self.base.model_rate),
            f"its samples in {WAV}, and how many they are in {WAV_LENS}",
        )

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return TensorSpec(WAV, DataType.FP32, (-1,)), TensorSpec(WAV_LENS, DataType.INT32, (1,))

    def decode_target(self, _info: MediaInfo) -> DecodeTarget:
        return sound.decode_target(self.base.resampler, self.base.model_rate)

    def accepts(self, output: str, data_type: DataType) -> bool:
        wanted = {WAV: {DataType.FP32, DataType.FP16}, WAV_LENS: {DataType.INT32, DataType.INT64}}
        return data_type in wanted.get(output, ())

    def output_bytes(self, info: MediaInfo, data_types: Mapping[str, DataType]) -> Mapping[str, int]:
        samples = sound.samples_at(info, self.processor, self.base.model_rate)
        return bytes_of({WAV: samples, WAV_LENS: 1}, data_types)

    def workload(self, info: MediaInfo, data_types: Mapping[str, DataType]) -> Workload:
        sizes = self.output_bytes(info, data_types)
        return Workload(
            self.processor,
            self.reference,
            rate=self.base.model_rate,
            seconds=sound.seconds_of(info, self.processor),
            elements=sum(nbytes // data_types[name].itemsize for name, nbytes in sizes.items()),
            nbytes=sum(sizes.values()),
        )

    def transform(self, frames: Frames) -> tuple[Shaped, ...]:
        """Raises CorruptMedia for a sound without a sample."""
        samples = sound.samples_of(frames, self.processor)
        wave = to_wave(samples.array, samples.rate, self.base.model_rate)
        if not wave.size:
            raise CorruptMedia("the sound holds no samples: send one with at least one")
        return Shaped.of(WAV, wave), Shaped.of(WAV_LENS, np.array([wave.size], np.int32))
