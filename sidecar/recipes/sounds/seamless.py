"""SeamlessM4T and w2v-BERT 2.0 (SeamlessM4TFeatureExtractor): Kaldi's filter bank features, some frames side by side.

Mono at `sampling_rate`, as 16-bit numbers; frames of 400 samples every 160, each less its mean, emphasised by
0.97, under Povey's window; power of a transform of 512; `num_mel_bins` Kaldi bands from 20 Hz to half the rate;
log with float32's epsilon as the floor; each band to mean 0 and variance 1 over the sound. An odd number of
frames is filled up by a row of `padding_value`; `stride` rows are put side by side, and what is over is dropped.
`feature_size` and `return_attention_mask` change nothing.

Outputs: `input_features`, float32 [frames / stride, num_mel_bins * stride]; `attention_mask`, int32 [frames /
stride]: 1 where the second of the rows is sound. Sounds of less than two frames (560 samples) are refused: they
have no variance. With the bits of transformers' numpy code but for one value in a million, within 1e-5; where a
band stands still, as in a steady tone, the last bit of its logarithm weighs up to 3e-3. Tokens: not told.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from sidecar.errors import CorruptMedia
from sidecar.media import DataType, DecodeTarget, Frames, MediaInfo, Shaped, TensorSpec
from sidecar.recipes import sound
from sidecar.recipes.choice import Choice
from sidecar.recipes.config import Config
from sidecar.recipes.recipe import ignored_step
from sidecar.stages.transform.fbank import KALDI_FRAME, KALDI_HOP, kaldi_frames, kaldi_mel
from sidecar.stages.transform.resample import to_wave

_KEYS: Final = sound.HARMLESS | {
    "feature_size", "num_mel_bins", "padding_side", "padding_value", "return_attention_mask", "sampling_rate",
    "stride",
}  # fmt: skip
# What the extractor fills up to by default, and the least that has a variance.
_MULTIPLE: Final = 2
_LEAST_FRAMES: Final = 2


@dataclass(frozen=True, slots=True)
class SeamlessRecipe(sound.SoundRecipe):
    """The extractor's numbers; see Recipe."""

    OUTPUT: ClassVar[str] = "input_features"
    TIME: ClassVar[int] = 0

    rate: int
    bands: int
    stride: int
    padding_value: float

    @property
    def exact(self) -> bool:
        """Not always to the bit: bands are summed in another order, in float64."""
        return False

    @property
    def steps(self) -> tuple[str, ...]:
        return (
            sound.loading_step(self.resampler, self.rate),
            f"frames of {KALDI_FRAME} samples every {KALDI_HOP}, less their mean, emphasis 0.97, Povey's window",
            f"power, {self.bands} Kaldi mel bands, 20 to {self.rate // 2} Hz, log",
            "each band to mean 0 and variance 1",
            f"filled with {self.padding_value:g} to a multiple of {_MULTIPLE}, {self.stride} frames side by side",
            "as transformers' numpy code does, within 1e-5",
            *ignored_step(self.ignored),
        )

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self._specs((-1, self.bands * self.stride))

    @property
    def model_rate(self) -> int:
        return self.rate

    def decode_target(self, _info: MediaInfo) -> DecodeTarget:
        return sound.decode_target(self.resampler, self.rate)

    def output_bytes(self, info: MediaInfo, data_types: Mapping[str, DataType]) -> Mapping[str, int]:
        rows = self._rows(kaldi_frames(sound.samples_at(info, self.processor, self.rate)))
        return self._bytes_of(rows * self.bands * self.stride, rows, data_types)

    def transform(self, frames: Frames) -> tuple[Shaped, ...]:
        """Raises CorruptMedia for a sound of less than two frames, or of less than a row."""
        samples = sound.samples_of(frames, self.processor)
        wave = to_wave(samples.array, samples.rate, self.rate)
        count = kaldi_frames(wave.size)
        rows = self._rows(count)
        if count < _LEAST_FRAMES or not rows:
            least = KALDI_FRAME + (max(_LEAST_FRAMES, self.stride) - 1) * KALDI_HOP
            raise CorruptMedia(
                f"the sound has {wave.size} samples at {self.rate} Hz, and {self.processor} needs {least}:"
                " send a longer one"
            )
        features = np.full((rows * self.stride, self.bands), self.padding_value, np.float32)
        features[:count] = kaldi_mel(wave, self.rate, self.bands)[: len(features)]
        # The mask is taken from the second of the frames that stand side by side.
        heard = -(-(count - 1) // self.stride)
        return self._shaped(features.reshape(rows, -1), heard)

    def _rows(self, frames: int) -> int:
        return -(-frames // _MULTIPLE) * _MULTIPLE // self.stride


def seamless_recipe(config: Config, processor: str, choice: Choice) -> SeamlessRecipe:
    """The recipe that the extractor's keys describe. Raises RecipeError; see Config."""
    config.one_of("padding_side", "right", ("right",))
    # With one feature the reference fills the bands up as well, and with a stride of 1 its mask is empty.
    config.integer("feature_size", 80, least=2)
    return SeamlessRecipe(
        processor=processor,
        resampler=sound.resampler(config, processor, choice),
        mask=True,
        ignored=config.ignored(_KEYS),
        rate=config.integer("sampling_rate", 16_000, least=100, most=sound.MOST_RATE),
        bands=config.integer("num_mel_bins", 80, most=sound.MOST_SAMPLES),
        stride=config.integer("stride", 2, least=2),
        padding_value=config.number("padding_value", 0.0),
    )


PROCESSORS: Final = {"SeamlessM4TFeatureExtractor": seamless_recipe}
"""The classes of this family by name, each with what makes its recipe."""
