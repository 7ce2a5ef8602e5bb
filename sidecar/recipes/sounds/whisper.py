"""Whisper (WhisperFeatureExtractor): the first `chunk_length` seconds as a log-mel spectrum.

Mono at `sampling_rate`; cut, or filled with `padding_value`, to `chunk_length` seconds; frames of `n_fft`
samples every `hop_length`; `feature_size` Slaney mel bands from 0 to 8 kHz; log10, 8 decades kept, shifted
and scaled. `dither` adds random noise and is refused unless 0. `return_attention_mask` adds a mask that is
1 for frames with sound. `mel_filters`, `n_samples` and `nb_max_frames`, which older files carry, follow from
the other keys and are ignored, as in transformers.

Output: `input_features`, float32 [feature_size, chunk_length * sampling_rate // hop_length]; within 1e-6 of
transformers' numpy path, whose torch sibling is 3e-5 from it. `attention_mask`, int32 [frames].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import numpy.typing as npt

from sidecar.media import DataType, DecodeTarget, Frames, MediaInfo, Shaped, TensorSpec
from sidecar.recipes import sound
from sidecar.recipes.choice import Choice
from sidecar.recipes.config import Config
from sidecar.recipes.recipe import ignored_step
from sidecar.stages.transform.mel import Mel, log_mel
from sidecar.stages.transform.resample import to_wave

_KEYS: Final = sound.HARMLESS | {
    "chunk_length", "dither", "feature_size", "hop_length", "mel_filters", "n_fft", "n_samples",
    "nb_max_frames", "padding_side", "padding_value", "return_attention_mask", "sampling_rate",
}  # fmt: skip
# The filter bank reaches to 8 kHz, so half the rate must as well.
_LEAST_RATE: Final = 16_000


@dataclass(frozen=True, slots=True)
class WhisperRecipe(sound.SoundRecipe):
    """Whisper's numbers; see Recipe. `length` is the samples that the model sees."""

    OUTPUT: ClassVar[str] = "input_features"

    mel: Mel
    length: int
    padding_value: float

    @property
    def exact(self) -> bool:
        """Never to the bit: the reference multiplies its bands in float64. The bound is 1e-6."""
        return False

    @property
    def steps(self) -> tuple[str, ...]:
        mel = self.mel
        return (
            sound.loading_step(self.resampler, mel.rate),
            f"cut or filled with {self.padding_value:g} to {self.length} samples ({self.length / mel.rate:g} s)",
            f"power spectrum: Hann window of {mel.n_fft} samples every {mel.hop}",
            f"{mel.bands} Slaney mel bands, 0 to 8000 Hz",
            "log10 (floor 1e-10), at most 8 below the loudest, (x + 4) / 4",
            "as transformers' numpy path does, within 1e-6",
            *ignored_step(self.ignored),
        )

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self._specs((self.mel.bands, self._frames))

    def decode_target(self, _info: MediaInfo) -> DecodeTarget:
        return sound.decode_target(self.resampler, self.mel.rate, self.length / self.mel.rate)

    def output_bytes(self, info: MediaInfo, data_types: Mapping[str, DataType]) -> Mapping[str, int]:
        sound.seconds_of(info, self.processor)
        return self._bytes_of(self.mel.bands, self._frames, data_types)

    def transform(self, frames: Frames) -> tuple[Shaped, ...]:
        samples = sound.samples_of(frames, self.processor)
        wave = to_wave(samples.array, samples.rate, self.mel.rate, at_most=self.length)
        heard = -(-wave.size // self.mel.hop)
        return self._shaped(log_mel(self._filled(wave), self.length, self.mel), heard)

    @property
    def _frames(self) -> int:
        return self.length // self.mel.hop

    def _filled(self, wave: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Zeros need no filling: the spectrum knows them."""
        if not self.padding_value:
            return wave
        return np.pad(wave, (0, self.length - wave.size), constant_values=self.padding_value)


def whisper_recipe(config: Config, processor: str, choice: Choice) -> WhisperRecipe:
    """The recipe that the extractor's keys describe. Raises RecipeError; see Config."""
    config.one_of("dither", 0.0, (0.0, 0))
    config.one_of("padding_side", "right", ("right",))
    mel = Mel(
        rate=config.integer("sampling_rate", 16_000, least=_LEAST_RATE),
        n_fft=config.integer("n_fft", 400, least=2),
        hop=config.integer("hop_length", 160),
        bands=config.integer("feature_size", 80),
    )
    length = config.integer("chunk_length", 30) * mel.rate
    if mel.n_fft % 2 or mel.n_fft > length:
        raise config.refusal("n_fft", f"even, and at most the chunk's {length} samples")
    if mel.hop > length:
        raise config.refusal("hop_length", f"at most the chunk's {length} samples")
    return WhisperRecipe(
        processor=processor,
        resampler=sound.resampler(config, processor, choice),
        mask=config.flag("return_attention_mask", False),
        ignored=config.ignored(_KEYS),
        mel=mel,
        length=length,
        padding_value=config.number("padding_value", 0.0),
    )


PROCESSORS: Final = {"WhisperFeatureExtractor": whisper_recipe}
"""The classes of this family by name, each with what makes its recipe."""
