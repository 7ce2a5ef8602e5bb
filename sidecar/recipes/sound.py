"""What recipes for sound share: the choice of a resampler, and how much memory a length of sound takes."""

from __future__ import annotations

from typing import Final

from sidecar.errors import InternalError, RecipeError
from sidecar.media import AudioInfo, DataType, DecodeTarget, Frames, MediaInfo, Samples
from sidecar.recipes.choice import Choice
from sidecar.recipes.config import Config

FLOATS: Final = frozenset({DataType.FP32, DataType.FP16, DataType.BF16})
MASKS: Final = frozenset({DataType.INT32, DataType.INT64})
MASK: Final = "attention_mask"

# Keys that transformers' loaders read or write, or that its extractors take at call time only.
HARMLESS: Final = frozenset({
    "_name_or_path", "_processor_class", "auto_map", "feature_extractor_type", "image_processor_type",
    "model_input_names", "processor_class", "return_tensors", "transformers_version",
})  # fmt: skip

_REFERENCES: Final = ("auto", "numpy")
_RESAMPLERS: Final = ("soxr_hq", "swresample")

# Where the header gives no duration: 16 kbit/s is the least that codecs here use for speech.
_LEAST_BYTES_PER_SECOND: Final = 2_000


def resampler(config: Config, processor: str, choice: Choice) -> str:
    """The resampler chosen. Raises RecipeError for an unknown one, and for a reference of pixels."""
    for key, value, allowed in (
        ("reference", choice.reference, _REFERENCES),
        ("resampler", choice.resampler, _RESAMPLERS),
    ):
        if value not in allowed:
            raise RecipeError(
                f"{config.source}: `{key}` is {value!r}, and for {processor} must be {' or '.join(allowed)}",
                key=key,
                value=value,
                allowed=", ".join(allowed),
            )
    return choice.resampler


def decode_target(resampler: str, rate: int) -> DecodeTarget:
    return DecodeTarget(rate if resampler == "swresample" else None)


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


def seconds_of(info: MediaInfo, processor: str) -> float:
    """The duration that the header claims, or the longest that its bytes can hold. Unit: seconds."""
    if isinstance(info, AudioInfo):
        return info.duration_s or info.encoded_bytes / _LEAST_BYTES_PER_SECOND
    raise InternalError(f"{processor} was asked about a picture")
