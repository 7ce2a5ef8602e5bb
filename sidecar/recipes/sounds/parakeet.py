"""Parakeet (ParakeetFeatureExtractor): log-mel features of the whole sound, each band normalised over its length.

Mono at `sampling_rate`; `preemphasis` of each sample's predecessor taken off (null: none); frames of `n_fft`
samples every `hop_length`, centred, under a symmetric Hann window of `win_length`; power; `feature_size` Slaney
bands up to half the rate; log(x + 2^-24); each band less its mean, by its deviation + 1e-5. `padding_value`,
`padding_side` and `return_attention_mask` change nothing for one sound.

Outputs, for n = samples // hop_length: `input_features`, float32 [n + 1, feature_size], the last row zeros;
`attention_mask`, bool [n + 1], true but for the last. Sounds of less than two hops have no deviation and are
refused. Tokens: the model takes no prompt.

Within 5e-6 of this in float64 for sounds in which every band moves (speech, music, noise). The reference is torch
in float32 and up to 7e-4 away from float64 on the same sounds, so that ours are within 1e-3 of it. Where a band
stands still (silence, a steady tone) its deviation of next to nothing divides the rounding of its logarithms:
there the reference shows up to 0.9 of noise, and ours at most 0.15, and no more than the reference.
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
from sidecar.stages.transform.fbank import Normalized, normalized_mel
from sidecar.stages.transform.resample import to_wave

_KEYS: Final = sound.HARMLESS | {
    "feature_size", "hop_length", "n_fft", "padding_side", "padding_value", "preemphasis",
    "return_attention_mask", "sampling_rate", "win_length",
}  # fmt: skip
_LEAST_HOPS: Final = 2


@dataclass(frozen=True, slots=True)
class ParakeetRecipe(sound.SoundRecipe):
    """The extractor's numbers; see Recipe."""

    OUTPUT: ClassVar[str] = "input_features"
    MASK_TYPE: ClassVar[DataType] = DataType.BOOL
    TIME: ClassVar[int] = 0

    mel: Normalized

    @property
    def reference(self) -> str:
        return "torch"

    @property
    def exact(self) -> bool:
        """Never to the bit: the reference computes in float32, in an order of its own."""
        return False

    @property
    def steps(self) -> tuple[str, ...]:
        mel = self.mel
        emphasis = (f"{mel.emphasis:g} of each sample's predecessor taken off",) if mel.emphasis else ()
        return (
            sound.loading_step(self.resampler, mel.rate),
            *emphasis,
            f"power spectrum: Hann window of {mel.window} in {mel.n_fft} samples every {mel.hop}",
            f"{mel.bands} Slaney mel bands, 0 to {mel.rate / 2:g} Hz, log(x + 2^-24)",
            "each band to mean 0 and deviation 1",
            "as transformers' torch code does, within 1e-3 wherever bands move",
            *ignored_step(self.ignored),
        )

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self._specs((-1, self.mel.bands))

    @property
    def model_rate(self) -> int:
        return self.mel.rate

    def decode_target(self, _info: MediaInfo) -> DecodeTarget:
        return sound.decode_target(self.resampler, self.mel.rate)

    def output_bytes(self, info: MediaInfo, data_types: Mapping[str, DataType]) -> Mapping[str, int]:
        frames = sound.samples_at(info, self.processor, self.mel.rate) // self.mel.hop + 1
        return self._bytes_of(frames * self.mel.bands, frames, data_types)

    def transform(self, frames: Frames) -> tuple[Shaped, ...]:
        """Raises CorruptMedia for a sound of less than two hops."""
        samples = sound.samples_of(frames, self.processor)
        wave = to_wave(samples.array, samples.rate, self.mel.rate)
        least = _LEAST_HOPS * self.mel.hop
        if wave.size < least:
            raise CorruptMedia(
                f"the sound has {wave.size} samples at {self.mel.rate} Hz, and {self.processor} needs {least}:"
                " send a longer one"
            )
        return self._shaped(normalized_mel(wave, self.mel), wave.size // self.mel.hop)


def parakeet_recipe(config: Config, processor: str, choice: Choice) -> ParakeetRecipe:
    """The recipe that the extractor's keys describe. Raises RecipeError; see Config."""
    silent = "preemphasis" in config.values and config.raw("preemphasis") is None
    mel = Normalized(
        rate=config.integer("sampling_rate", 16_000, most=sound.MOST_RATE),
        n_fft=config.integer("n_fft", 512, least=2, most=sound.MOST_SAMPLES),
        window=config.integer("win_length", 400, least=2),
        hop=config.integer("hop_length", 160),
        bands=config.integer("feature_size", 80, most=sound.MOST_SAMPLES),
        emphasis=0.0 if silent else config.number("preemphasis", 0.97),
    )
    if mel.n_fft % 2:
        raise config.refusal("n_fft", "even")
    if mel.window > mel.n_fft:
        raise config.refusal("win_length", f"at most n_fft, {mel.n_fft}")
    return ParakeetRecipe(
        processor=processor,
        resampler=sound.resampler(config, processor, choice),
        mask=True,
        ignored=config.ignored(_KEYS),
        mel=mel,
    )


PROCESSORS: Final = {"ParakeetFeatureExtractor": parakeet_recipe}
"""The classes of this family by name, each with what makes its recipe."""
