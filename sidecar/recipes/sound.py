"""What recipes for sound share: one line of values, a mask beside it, and the choice of a resampler."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import numpy.typing as npt

from sidecar.errors import InternalError, RecipeError
from sidecar.media import (
    AudioInfo,
    DataType,
    DecodeTarget,
    Frames,
    MediaInfo,
    Modality,
    Samples,
    Shaped,
    TensorSpec,
    Workload,
)
from sidecar.recipes.choice import Choice
from sidecar.recipes.config import Config
from sidecar.recipes.recipe import bytes_of
from sidecar.stages.transform.resample import MARGIN_S

FLOATS: Final = frozenset({DataType.FP32, DataType.FP16, DataType.BF16})
MASKS: Final = frozenset({DataType.BOOL, DataType.INT32, DataType.INT64})

# Keys that transformers' loaders read or write, or that its extractors take at call time only.
HARMLESS: Final = frozenset({
    "_name_or_path", "_processor_class", "auto_map", "feature_extractor_type", "image_processor_type",
    "model_input_names", "processor_class", "return_tensors", "transformers_version",
})  # fmt: skip

MOST_SAMPLES: Final = 8192
"""Of a window or its transform, and the most bands; processors have some hundreds. A transform costs their square."""
MOST_RATE: Final = 768_000
"""Hertz, twice what any recording has."""

_REFERENCES: Final = ("auto", "numpy")
_RESAMPLERS: Final = ("soxr_hq", "swresample")


@dataclass(frozen=True, slots=True)
class SoundRecipe(ABC):
    """A sound processor's common part; see Recipe. `resampler` is as Choice says.

    `mask` adds the attention mask, one element a sample or frame; `ignored` lists keys of the model's file
    that the processor itself ignores. A family says what its outputs are called, of which type its mask is, and
    along which axis of the values it runs.
    """

    OUTPUT: ClassVar[str]
    MASK: ClassVar[str] = "attention_mask"
    MASK_TYPE: ClassVar[DataType] = DataType.INT32
    TIME: ClassVar[int] = -1

    processor: str
    resampler: str
    mask: bool
    ignored: tuple[str, ...]

    @property
    def modality(self) -> Modality:
        return Modality.AUDIO

    @property
    def reference(self) -> str:
        return "numpy"

    @property
    @abstractmethod
    def model_rate(self) -> int:
        """The rate, in hertz, at which the model hears."""

    @abstractmethod
    def decode_target(self, info: MediaInfo) -> DecodeTarget:
        """See Recipe."""

    @abstractmethod
    def output_bytes(self, info: MediaInfo, data_types: Mapping[str, DataType]) -> Mapping[str, int]:
        """See Recipe."""

    def workload(self, info: MediaInfo, data_types: Mapping[str, DataType]) -> Workload:
        sizes = self.output_bytes(info, data_types)
        seconds, most = seconds_of(info, self.processor), self.decode_target(info).max_seconds
        return Workload(
            self.processor,
            self.reference,
            rate=self.model_rate,
            seconds=seconds if most is None else min(seconds, most),
            elements=sum(nbytes // data_types[name].itemsize for name, nbytes in sizes.items()),
            nbytes=sum(sizes.values()),
        )

    def tokens(self, info: MediaInfo) -> int | None:
        """Not told by the processors here."""
        seconds_of(info, self.processor)
        return None

    def accepts(self, output: str, data_type: DataType) -> bool:
        if output == self.MASK:
            return self.mask and data_type in MASKS
        return output == self.OUTPUT and data_type in FLOATS

    def _specs(self, shape: tuple[int, ...]) -> tuple[TensorSpec, ...]:
        """The outputs, for values of `shape`."""
        values = TensorSpec(self.OUTPUT, DataType.FP32, shape)
        mask = TensorSpec(self.MASK, self.MASK_TYPE, (shape[self.TIME],), optional=True)
        return (values, mask) if self.mask else (values,)

    def _shaped(self, values: npt.NDArray[np.float32], heard: int) -> tuple[Shaped, ...]:
        """The outputs themselves; of the mask the first `heard` elements are ones, the rest zeros."""
        shaped = Shaped.of(self.OUTPUT, values)
        if not self.mask:
            return (shaped,)
        mask = np.arange(values.shape[self.TIME]) < heard
        return shaped, Shaped.of(self.MASK, mask.astype(self.MASK_TYPE.storage))

    def _bytes_of(self, values: int, times: int, data_types: Mapping[str, DataType]) -> Mapping[str, int]:
        """Bytes of so many values and of a mask for so many times, in the types named by output."""
        elements = {self.OUTPUT: values} | ({self.MASK: times} if self.mask else {})
        return bytes_of(elements, data_types)


def resampler(config: Config, processor: str, choice: Choice) -> str:
    """The resampler chosen. Raises RecipeError for an unknown one, and for a reference of pixels."""
    for key, value, allowed in (
        ("reference", choice.reference, _REFERENCES),
        ("resampler", choice.resampler, _RESAMPLERS),
    ):
        if value not in allowed:
            raise RecipeError(
                f"{config.source}: `{key}` is {value!r}, and for {processor} must be {' or '.join(allowed)}",
                file=config.source,
                key=key,
                value=value,
                allowed=", ".join(allowed),
            )
    return choice.resampler


def decode_target(resampler: str, rate: int, heard_s: float | None = None) -> DecodeTarget:
    """What decode must leave for a recipe at `rate` hertz that hears the first `heard_s` seconds; None: all.

    A little more is asked for, so that what is heard is resampled as part of the whole sound.
    """
    return DecodeTarget(
        rate=rate if resampler == "swresample" else None,
        max_seconds=None if heard_s is None else heard_s + MARGIN_S,
    )


def loading_step(resampler: str, rate: int) -> str:
    how = {
        "soxr_hq": "mean over the channels, then soxr HQ",
        "swresample": "FFmpeg's swresample, while decoding",
    }
    return f"mono at {rate} Hz ({how[resampler]})"


def samples_of(frames: Frames, processor: str) -> Samples:
    if isinstance(frames, Samples):
        return frames
    raise InternalError(f"{processor} was handed a picture")


def samples_at(info: MediaInfo, processor: str, rate: int) -> int:
    """The most samples that a sound with these facts has at `rate` hertz."""
    return int(seconds_of(info, processor) * rate + 1)


def seconds_of(info: MediaInfo, processor: str) -> float:
    """AudioInfo.longest_s. Raises InternalError for a picture."""
    if isinstance(info, AudioInfo):
        return info.longest_s
    raise InternalError(f"{processor} was asked about a picture")


def told_samples(info: MediaInfo, processor: str, rate: int) -> int | None:
    """How many samples the header tells of, at `rate` hertz; None where it tells no length.

    As true as the header is: encoders that pad state lengths that are some milliseconds off. Raises InternalError
    for a picture.
    """
    if not isinstance(info, AudioInfo):
        raise InternalError(f"{processor} was asked about a picture")
    if info.duration_s is None:
        return None
    return -(-round(info.duration_s * info.sample_rate) * rate // info.sample_rate)
