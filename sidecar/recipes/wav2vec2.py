"""wav2vec2 and its kin (Wav2Vec2FeatureExtractor): the wave itself, mono at `sampling_rate`.

`do_normalize` sets it to zero mean and unit variance over its whole length. `return_attention_mask` adds a
mask of ones (one sound is never padded here). `feature_size` must be 1, and padding keys cannot matter.

Output: `input_values`, float32 [samples], with the bits of transformers' numpy code for the same wave.
`attention_mask`, int32 [samples].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from sidecar.errors import CorruptMedia
from sidecar.media import DataType, DecodeTarget, Frames, MediaInfo, Modality, Shaped, TensorSpec
from sidecar.recipes import sound
from sidecar.recipes.choice import Choice
from sidecar.recipes.config import Config
from sidecar.stages.transform.resample import to_wave
from sidecar.stages.transform.wave import zero_mean_unit_variance

OUTPUT: Final = "input_values"

_KEYS: Final = sound.HARMLESS | {
    "do_normalize", "feature_size", "padding_side", "padding_value", "return_attention_mask", "sampling_rate",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class WaveRecipe:
    """A raw-wave extractor's numbers; see Recipe. `rate` is hertz."""

    processor: str
    rate: int
    normalize: bool
    mask: bool
    resampler: str
    ignored: tuple[str, ...] = ()

    @property
    def modality(self) -> Modality:
        return Modality.AUDIO

    @property
    def reference(self) -> str:
        return "numpy"

    @property
    def exact(self) -> bool:
        return True

    @property
    def steps(self) -> tuple[str, ...]:
        normalize = (
            ("zero mean and unit variance: (x - mean) / sqrt(variance + 1e-7)",) if self.normalize else ()
        )
        return (
            sound.loading_step(self.resampler, self.rate),
            *normalize,
            "as transformers' numpy code does, to the bit",
        )

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        values = TensorSpec(OUTPUT, DataType.FP32, (-1,))
        if not self.mask:
            return (values,)
        return values, TensorSpec(sound.MASK, DataType.INT32, (-1,), optional=True)

    @property
    def decode_target(self) -> DecodeTarget:
        return sound.decode_target(self.resampler, self.rate)

    def accepts(self, output: str, data_type: DataType) -> bool:
        if output == sound.MASK:
            return self.mask and data_type in sound.MASKS
        return output == OUTPUT and data_type in sound.FLOATS

    def output_bytes(self, info: MediaInfo) -> int:
        tensors = 2 if self.mask else 1
        return int(sound.seconds_of(info, self.processor) * self.rate + 1) * tensors * DataType.FP32.itemsize

    def transform(self, frames: Frames) -> tuple[Shaped, ...]:
        """Raises CorruptMedia for a sound without a sample: it has no mean."""
        samples = sound.samples_of(frames, self.processor)
        wave = to_wave(samples.array, samples.rate, self.rate)
        if not wave.size:
            raise CorruptMedia("the sound holds no samples: send one with at least one")
        values = Shaped(OUTPUT, zero_mean_unit_variance(wave) if self.normalize else wave)
        if not self.mask:
            return (values,)
        return values, Shaped(sound.MASK, np.ones(wave.size, np.int32))


def wave_recipe(config: Config, processor: str, choice: Choice) -> WaveRecipe:
    """The recipe that the extractor's keys describe. Raises RecipeError; see Config."""
    config.one_of("feature_size", 1, (1,))
    return WaveRecipe(
        processor,
        config.integer("sampling_rate", 16_000),
        config.flag("do_normalize", True),
        config.flag("return_attention_mask", False),
        sound.resampler(config, processor, choice),
        config.ignored(_KEYS),
    )
