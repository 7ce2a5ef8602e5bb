"""Whisper (WhisperFeatureExtractor), and those that share it: log-mel spectra of a window, or of the whole sound.

Mono at `sampling_rate`; cut, or filled with `padding_value`, to `chunk_length` seconds; frames of `n_fft`
samples every `hop_length`; `feature_size` Slaney mel bands from 0 to 8 kHz; log10, 8 decades kept, shifted
and scaled. `dither` adds random noise and is refused unless 0. `return_attention_mask` adds a mask that is
1 for frames with sound. `mel_filters`, `n_samples` and `nb_max_frames`, which older files carry, follow from
the other keys and are ignored, as in transformers.

The processors of some models call the extractor otherwise, which `model_type` in config.json tells:
qwen2_audio and qwen2_5_omni always ask for the mask; qwen3_omni_moe too, and for the whole sound as it is,
neither cut nor filled; voxtral fills the whole sound to a multiple of 30 s, takes one spectrum of it, so that
the loudest value counts for all, and cuts that into chunks.

Output: `input_features`, float32 [feature_size, chunk_length * sampling_rate // hop_length], with samples //
hop_length frames for qwen3_omni_moe, and for voxtral [chunks, feature_size, 3000]; within 1e-6 of
transformers' numpy path, whose torch sibling is 3e-5 from it. `attention_mask`, int32 [frames].

Tokens, for n frames with sound: qwen2_audio and qwen2_5_omni ((n - 1) // 2 - 1) // 2 + 1; qwen3_omni_moe 13
for each 100 frames and an eighth of what is left, rounded up thrice by halves (`n_window` of
processor_config.json, 50, is half of the 100). Others are not told.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Final

import numpy as np
import numpy.typing as npt

from sidecar.errors import CorruptMedia
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
# Voxtral's processor calls the extractor with these, whatever the file says.
_VOXTRAL_CHUNK: Final = 480_000
_VOXTRAL_HOP: Final = 160


class _Extent(enum.Enum):
    """How much of a sound is looked at, and how it is laid out."""

    WINDOW = "window"
    WHOLE = "whole"
    CHUNKS = "chunks"


@dataclass(frozen=True, slots=True)
class _Use:
    """How a model's processor uses the extractor; `tokens` counts for frames with sound, and half a window."""

    extent: _Extent = _Extent.WINDOW
    masked: bool = False
    tokens: Callable[[int, int], int] | None = None


def _two_convolutions(frames: int, _n_window: int) -> int:
    """A convolution of stride 2, and a pooling by two."""
    return ((frames - 1) // 2 - 1) // 2 + 1


def _windows(frames: int, n_window: int) -> int:
    """Three convolutions of stride 2 for what is left of the windows; whole ones make 13 tokens by definition."""
    whole, rest = divmod(frames, 2 * n_window)
    for _ in range(3):
        rest = (rest - 1) // 2 + 1
    return rest + 13 * whole


_USES: Final[Mapping[object, _Use]] = MappingProxyType({
    "qwen2_audio": _Use(masked=True, tokens=_two_convolutions),
    "qwen2_5_omni": _Use(masked=True, tokens=_two_convolutions),
    "qwen3_omni_moe": _Use(_Extent.WHOLE, masked=True, tokens=_windows),
    "voxtral": _Use(_Extent.CHUNKS),
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class WhisperRecipe(sound.SoundRecipe):
    """Whisper's numbers; see Recipe. `length` is the samples of the window, or of a chunk."""

    OUTPUT: ClassVar[str] = "input_features"

    mel: Mel
    length: int
    padding_value: float
    use: _Use
    n_window: int

    @property
    def exact(self) -> bool:
        """Never to the bit: the reference multiplies its bands in float64. The bound is 1e-6."""
        return False

    @property
    def steps(self) -> tuple[str, ...]:
        mel = self.mel
        seconds = f"{self.length} samples ({self.length / mel.rate:g} s)"
        extent = {
            _Extent.WINDOW: (f"cut or filled with {self.padding_value:g} to {seconds}",),
            _Extent.WHOLE: (),
            _Extent.CHUNKS: (f"filled with {self.padding_value:g} to a multiple of {seconds}",),
        }
        cut = (f"cut into chunks of {self.length // mel.hop} frames",)
        return (
            sound.loading_step(self.resampler, mel.rate),
            *extent[self.use.extent],
            f"power spectrum: Hann window of {mel.n_fft} samples every {mel.hop}",
            f"{mel.bands} Slaney mel bands, 0 to 8000 Hz",
            "log10 (floor 1e-10), at most 8 below the loudest, (x + 4) / 4",
            *(cut if self.use.extent is _Extent.CHUNKS else ()),
            "as transformers' numpy path does, within 1e-6",
            *ignored_step(self.ignored),
        )

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        frames = self.length // self.mel.hop
        if self.use.extent is _Extent.CHUNKS:
            return (TensorSpec(self.OUTPUT, DataType.FP32, (-1, self.mel.bands, frames), rows=True),)
        return self._specs((self.mel.bands, frames if self.use.extent is _Extent.WINDOW else -1))

    def tokens(self, info: MediaInfo) -> int | None:
        samples = sound.told_samples(info, self.processor, self.mel.rate)
        if self.use.tokens is None or samples is None:
            return None
        frames = self._heard(samples)
        return self.use.tokens(frames, self.n_window) if frames else 0

    @property
    def model_rate(self) -> int:
        return self.mel.rate

    def decode_target(self, _info: MediaInfo) -> DecodeTarget:
        heard = self.length / self.mel.rate if self.use.extent is _Extent.WINDOW else None
        return sound.decode_target(self.resampler, self.mel.rate, heard)

    def output_bytes(self, info: MediaInfo, data_types: Mapping[str, DataType]) -> Mapping[str, int]:
        frames = self._extent(sound.samples_at(info, self.processor, self.mel.rate)) // self.mel.hop
        return self._bytes_of(self.mel.bands * frames, frames, data_types)

    def transform(self, frames: Frames) -> tuple[Shaped, ...]:
        """Raises CorruptMedia for a sound that is too short, where it is not filled up."""
        samples = sound.samples_of(frames, self.processor)
        at_most = self.length if self.use.extent is _Extent.WINDOW else None
        wave = to_wave(samples.array, samples.rate, self.mel.rate, at_most=at_most)
        length, least = self._extent(wave.size), max(self.mel.n_fft // 2 + 1, self.mel.hop)
        if length < least:
            needed = 1 if self.use.extent is _Extent.CHUNKS else least
            raise CorruptMedia(
                f"the sound has {wave.size} samples at {self.mel.rate} Hz, and the model needs {needed}:"
                " send a longer one"
            )
        features = log_mel(self._filled(wave, length), length, self.mel)
        if self.use.extent is not _Extent.CHUNKS:
            return self._shaped(features, self._heard(wave.size))
        chunks = features.reshape(self.mel.bands, -1, self.length // self.mel.hop).transpose(1, 0, 2)
        return (Shaped.of(self.OUTPUT, chunks),)

    def _extent(self, samples: int) -> int:
        """How many samples are transformed, of a sound with so many."""
        match self.use.extent:
            case _Extent.WINDOW:
                return self.length
            case _Extent.WHOLE:
                return samples
            case _Extent.CHUNKS:
                return -(-samples // self.length) * self.length

    def _heard(self, samples: int) -> int:
        """How many frames the mask marks."""
        if self.use.extent is _Extent.WHOLE:
            return samples // self.mel.hop
        return -(-min(samples, self.length) // self.mel.hop)

    def _filled(self, wave: npt.NDArray[np.float32], length: int) -> npt.NDArray[np.float32]:
        """Zeros need no filling: the spectrum knows them."""
        if not self.padding_value:
            return wave
        return np.pad(wave, (0, length - wave.size), constant_values=self.padding_value)


def whisper_recipe(config: Config, processor: str, choice: Choice) -> WhisperRecipe:
    """The recipe that the extractor's keys describe. Raises RecipeError; see Config."""
    config.one_of("dither", 0.0, (0.0, 0))
    config.one_of("padding_side", "right", ("right",))
    mel = Mel(
        rate=config.integer("sampling_rate", 16_000, least=_LEAST_RATE, most=sound.MOST_RATE),
        n_fft=config.integer("n_fft", 400, least=2, most=sound.MOST_SAMPLES),
        hop=config.integer("hop_length", 160),
        bands=config.integer("feature_size", 80, most=sound.MOST_SAMPLES),
    )
    use = _use(config)
    length = config.integer("chunk_length", 30, most=86_400) * mel.rate
    if use.extent is _Extent.CHUNKS:
        config.one_of("hop_length", _VOXTRAL_HOP, (_VOXTRAL_HOP,))
        length = _VOXTRAL_CHUNK
    if mel.n_fft % 2 or mel.n_fft > length:
        raise config.refusal("n_fft", f"even, and at most the chunk's {length} samples")
    if mel.hop > length:
        raise config.refusal("hop_length", f"at most the chunk's {length} samples")
    return WhisperRecipe(
        processor=processor,
        resampler=sound.resampler(config, processor, choice),
        mask=use.extent is not _Extent.CHUNKS and (use.masked or config.flag("return_attention_mask", False)),
        ignored=config.ignored(_KEYS),
        mel=mel,
        length=length,
        padding_value=config.number("padding_value", 0.0),
        use=use,
        n_window=50 if config.processor is None else config.processor.integer("n_window", 50),
    )


def _use(config: Config) -> _Use:
    kind = None if config.model is None else config.model.raw("model_type")
    return _USES.get(kind, _Use()) if isinstance(kind, str) else _Use()


PROCESSORS: Final = {"WhisperFeatureExtractor": whisper_recipe}
"""The classes of this family by name, each with what makes its recipe."""
