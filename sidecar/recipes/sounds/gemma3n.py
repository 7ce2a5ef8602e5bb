"""Gemma 3n and Gemma 4 (Gemma3nAudioFeatureExtractor, Gemma4AudioFeatureExtractor): log-mel of up to 480000 samples.

Mono at `sampling_rate`, cut to 480000 samples and filled with `padding_value` to a multiple of 128; frames of
`frame_length_ms` every `hop_length_ms`; `preemphasis` inside a frame, HTK's way or not
(`preemphasis_htk_flavor`); periodic Hann window; the magnitudes of a transform of the next power of two, or twice
that (`fft_overdrive`); `feature_size` HTK bands from `min_frequency` to `max_frequency`; log; `per_bin_mean` taken
off and `per_bin_stddev` divided by. `input_scale_factor` multiplies the wave. `dither` is noise and refused unless
0. Gemma 3n takes at least `mel_floor` for a band; Gemma 4 adds it, begins half a frame before the sound, and
makes frames zeros that see padding. `return_attention_mask` is ignored, as there: the mask is always made.

Outputs: `input_features`, float32 [frames, feature_size]; `input_features_mask`, bool [frames]. Sounds shorter than
a frame are refused. Within 1e-6 of transformers' numpy code, relative where values pass 1.
Tokens: Gemma 3n's processor puts `audio_seq_length` (processor_config.json, 188) for every sound; Gemma 4's one
for four frames of the mask, rounded up twice by halves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import numpy.typing as npt

from sidecar.errors import CorruptMedia
from sidecar.media import DataType, DecodeTarget, Frames, MediaInfo, Shaped, TensorSpec
from sidecar.recipes import sound
from sidecar.recipes.choice import Choice
from sidecar.recipes.config import Config
from sidecar.recipes.recipe import ignored_step
from sidecar.stages.transform.fbank import Framed, framed_mel
from sidecar.stages.transform.resample import to_wave

_KEYS: Final = sound.HARMLESS | {
    "dither", "feature_size", "fft_overdrive", "frame_length_ms", "hop_length_ms", "input_scale_factor",
    "max_frequency", "mel_floor", "min_frequency", "padding_side", "padding_value", "per_bin_mean",
    "per_bin_stddev", "preemphasis", "preemphasis_htk_flavor", "return_attention_mask", "sampling_rate",
    # Follow from the others, and are written into files all the same.
    "fft_length", "frame_length", "hop_length",
}  # fmt: skip
# What the extractors are called with by default.
_LONGEST: Final = 480_000
_MULTIPLE: Final = 128


@dataclass(frozen=True, slots=True)
class _Kind:
    """What sets one extractor apart: its defaults, and the three ways in which it computes otherwise."""

    frame_ms: float
    low: float
    high: float
    emphasis: float
    overdrive: bool
    floor: float
    leads: bool
    added: bool
    rounded: bool


_GEMMA_3N: Final = _Kind(32.0, 125.0, 7600.0, 0.97, True, 1e-5, leads=False, added=False, rounded=True)
_GEMMA_4: Final = _Kind(20.0, 0.0, 8000.0, 0.0, False, 1e-3, leads=True, added=True, rounded=False)


@dataclass(frozen=True, slots=True)
class GemmaRecipe(sound.SoundRecipe):
    """The extractor's numbers; see Recipe. `lead` is the zeros before the sound; `fixed` the tokens of any sound."""

    OUTPUT: ClassVar[str] = "input_features"
    MASK: ClassVar[str] = "input_features_mask"
    MASK_TYPE: ClassVar[DataType] = DataType.BOOL
    TIME: ClassVar[int] = 0

    mel: Framed
    padding_value: float
    lead: int
    blanked: bool
    fixed: int | None

    @property
    def exact(self) -> bool:
        """Not always to the bit: bands are summed in another order, in float64."""
        return False

    @property
    def steps(self) -> tuple[str, ...]:
        mel = self.mel
        floor = f"log(x + {mel.floor:g})" if mel.added else f"log (floor {mel.floor:g})"
        lead = (f"{self.lead} zeros before it",) if self.lead else ()
        emphasis = (f"{mel.emphasis:g} of each sample's predecessor taken off",) if mel.emphasis else ()
        own = ("less each band's own mean, by its own deviation",) if mel.mean or mel.deviation else ()
        return (
            sound.loading_step(self.resampler, mel.rate),
            f"cut to {_LONGEST} samples, filled with {self.padding_value:g} to a multiple of {_MULTIPLE}",
            *lead,
            *emphasis,
            f"magnitudes: Hann window of {mel.frame} in {mel.n_fft} samples every {mel.hop}",
            f"{mel.bands} HTK mel bands, {mel.low:g} to {mel.high:g} Hz, {floor}",
            *own,
            "as transformers' numpy code does, within 1e-6",
            *ignored_step(self.ignored),
        )

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self._specs((-1, self.mel.bands))

    def tokens(self, info: MediaInfo) -> int | None:
        samples = sound.told_samples(info, self.processor, self.mel.rate)
        if self.fixed is not None or samples is None:
            return self.fixed
        return -(-self._heard(min(samples, _LONGEST)) // 4)

    @property
    def model_rate(self) -> int:
        return self.mel.rate

    def decode_target(self, _info: MediaInfo) -> DecodeTarget:
        return sound.decode_target(self.resampler, self.mel.rate, _LONGEST / self.mel.rate)

    def output_bytes(self, info: MediaInfo, data_types: Mapping[str, DataType]) -> Mapping[str, int]:
        samples = min(sound.samples_at(info, self.processor, self.mel.rate), _LONGEST)
        frames = self.mel.frames(self.lead + _padded(samples))
        return self._bytes_of(frames * self.mel.bands, frames, data_types)

    def transform(self, frames: Frames) -> tuple[Shaped, ...]:
        """Raises CorruptMedia for a sound that is shorter than a frame."""
        samples = sound.samples_of(frames, self.processor)
        wave = to_wave(samples.array, samples.rate, self.mel.rate, at_most=_LONGEST)
        features = framed_mel(self._filled(wave), self.mel)
        if not len(features):
            raise CorruptMedia(
                f"the sound has {wave.size} samples at {self.mel.rate} Hz, less than a frame of"
                f" {self.processor} ({self.mel.frame}): send a longer one"
            )
        heard = min(self._heard(wave.size), len(features))
        if self.blanked:
            features[heard:] = 0.0
        return self._shaped(features, heard)

    def _heard(self, samples: int) -> int:
        """How many frames the mask counts: those without padding, or else those that begin before it."""
        return self.mel.frames(self.lead + samples) if self.blanked else -(-samples // self.mel.hop)

    def _filled(self, wave: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        filled = np.zeros(self.lead + _padded(wave.size), np.float32)
        filled[self.lead : self.lead + wave.size] = wave
        filled[self.lead + wave.size :] = self.padding_value
        return filled


def _padded(samples: int) -> int:
    return -(-samples // _MULTIPLE) * _MULTIPLE


def _recipe(config: Config, processor: str, choice: Choice, kind: _Kind) -> GemmaRecipe:
    config.one_of("dither", 0.0, (0.0, 0))
    config.one_of("padding_side", "right", ("right",))
    rate = config.integer("sampling_rate", 16_000, most=sound.MOST_RATE)
    bands = config.integer("feature_size", 128, most=sound.MOST_SAMPLES)
    frame, hop = (
        round(rate * config.positive(key, default) / 1000.0)
        for key, default in (("frame_length_ms", kind.frame_ms), ("hop_length_ms", 10.0))
    )
    if not 2 <= frame < _LONGEST:  # noqa: PLR2004 - a window
        raise config.refusal("frame_length_ms", f"2 to {_LONGEST} samples at {rate} Hz")
    if not hop:
        raise config.refusal("hop_length_ms", f"at least a sample at {rate} Hz")
    emphasis = config.number("preemphasis", kind.emphasis)
    overdrive = config.flag("fft_overdrive", kind.overdrive)
    low, high = config.number("min_frequency", kind.low), config.positive("max_frequency", kind.high)
    if not 0 <= low < high:
        raise config.refusal("min_frequency", f"at least 0 and less than max_frequency, {high:g}")
    mel = Framed(
        rate=rate,
        frame=frame,
        hop=hop,
        n_fft=2 ** math.ceil(math.log2(frame)) * (2 if overdrive else 1),
        bands=bands,
        low=low,
        high=high,
        rounded=kind.rounded,
        scale=config.number("input_scale_factor", 1.0),
        emphasis=max(emphasis, 0.0),
        chained=config.flag("preemphasis_htk_flavor", True),
        floor=config.positive("mel_floor", kind.floor),
        added=kind.added,
        mean=_own(config, "per_bin_mean", bands),
        deviation=_own(config, "per_bin_stddev", bands),
    )
    return GemmaRecipe(
        processor=processor,
        resampler=sound.resampler(config, processor, choice),
        mask=True,
        ignored=config.ignored(_KEYS),
        mel=mel,
        padding_value=config.number("padding_value", 0.0),
        lead=frame // 2 if kind.leads else 0,
        blanked=kind.leads,
        fixed=None if kind.leads else _fixed(config),
    )


def _own(config: Config, key: str, bands: int) -> tuple[float, ...]:
    """One number a band, or none at all."""
    value = config.raw(key)
    if value is None:
        return ()
    if isinstance(value, list) and len(value) == bands:
        numbers = tuple(
            float(item) for item in value if isinstance(item, int | float) and math.isfinite(item)
        )
        if len(numbers) == bands:
            return numbers
    raise config.refusal(key, f"null, or {bands} finite numbers")


def _fixed(config: Config) -> int:
    return 188 if config.processor is None else config.processor.integer("audio_seq_length", 188)


def gemma3n_recipe(config: Config, processor: str, choice: Choice) -> GemmaRecipe:
    """The recipe that a Gemma 3n extractor's keys describe. Raises RecipeError; see Config."""
    return _recipe(config, processor, choice, _GEMMA_3N)


def gemma4_recipe(config: Config, processor: str, choice: Choice) -> GemmaRecipe:
    """The recipe that a Gemma 4 extractor's keys describe. Raises RecipeError; see Config."""
    return _recipe(config, processor, choice, _GEMMA_4)


PROCESSORS: Final = {
    "Gemma3nAudioFeatureExtractor": gemma3n_recipe,
    "Gemma4AudioFeatureExtractor": gemma4_recipe,
}
"""The classes of this family by name, each with what makes its recipe."""
