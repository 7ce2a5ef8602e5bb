"""wav2vec2 and its kin (Wav2Vec2FeatureExtractor): the wave itself, mono at `sampling_rate`.

`do_normalize` sets it to zero mean and unit variance over its whole length. `return_attention_mask` adds a
mask of ones (one sound is never padded here). `feature_size` must be 1, and padding keys cannot matter.

Output: `input_values`, float32 [samples], with the bits of transformers' numpy code for the same wave.
`attention_mask`, int32 [samples].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

from sidecar.errors import CorruptMedia
from sidecar.media import DataType, DecodeTarget, Frames, MediaInfo, Shaped, TensorSpec
from sidecar.recipes import sound
from sidecar.recipes.choice import Choice
from sidecar.recipes.config import Config
from sidecar.recipes.recipe import ignored_step
from sidecar.stages.transform.resample import to_wave
from sidecar.stages.transform.wave import zero_mean_unit_variance

_KEYS: Final = sound.HARMLESS | {
    "do_normalize", "feature_size", "padding_side", "padding_value", "return_attention_mask", "sampling_rate",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class WaveRecipe(sound.SoundRecipe):
    """A raw-wave extractor's numbers; see Recipe. `rate` is hertz."""

    OUTPUT: ClassVar[str] = "input_values"

    rate: int
    normalize: bool

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
            *ignored_step(self.ignored),
        )

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self._specs((-1,))

    @property
    def model_rate(self) -> int:
        return self.rate

    def decode_target(self, _info: MediaInfo) -> DecodeTarget:
        return sound.decode_target(self.resampler, self.rate)

    def output_bytes(self, info: MediaInfo, data_types: Mapping[str, DataType]) -> Mapping[str, int]:
        samples = sound.samples_at(info, self.processor, self.rate)
        return self._bytes_of(samples, samples, data_types)

    def transform(self, frames: Frames) -> tuple[Shaped, ...]:
        """Raises CorruptMedia for a sound without a sample: it has no mean."""
        samples = sound.samples_of(frames, self.processor)
        wave = to_wave(samples.array, samples.rate, self.rate)
        if not wave.size:
            raise CorruptMedia("the sound holds no samples: send one with at least one")
        return self._shaped(zero_mean_unit_variance(wave) if self.normalize else wave, wave.size)


def wave_recipe(config: Config, processor: str, choice: Choice) -> WaveRecipe:
    """The recipe that the extractor's keys describe. Raises RecipeError; see Config."""
    config.one_of("feature_size", 1, (1,))
    return WaveRecipe(
        processor=processor,
        resampler=sound.resampler(config, processor, choice),
        mask=config.flag("return_attention_mask", False),
        ignored=config.ignored(_KEYS),
        rate=config.integer("sampling_rate", 16_000, most=sound.MOST_RATE),
        normalize=config.flag("do_normalize", True),
    )


PROCESSORS: Final = {"Wav2Vec2FeatureExtractor": wave_recipe}
"""The classes of this family by name, each with what makes its recipe."""
