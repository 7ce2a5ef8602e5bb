"""What an item will cost, foretold from its header alone, and corrected by what such items did cost.

The shape of the cost is fixed (rates.py): what is learned is three factors, each a logarithm. How much slower this
machine is than the table's, which every job tells of, so that a CPU that is made half as fast is known for what is
seldom seen as well; how much dearer a codec's media are here than in the table; and how much dearer a recipe is.

A factor follows the middle of what it is told: a residual counts up to `clip`, however far off the job was, and no
factor leaves its bounds. So media that cost what no header tells (and people who send them on purpose) move
what others are quoted by at most that bit, as long as they are fewer than half of the jobs, and by the bounds
if they are all there is. Jobs that took next to no time say next to nothing.

It never looks at media, and keeps nothing of an item. One thread alone may use a model; nothing here waits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from sidecar.media import AudioInfo, Cost, DecodeTarget, ImageInfo, MediaInfo, Workload
from sidecar.stages.admit.rates import base_ms

_WHOLE: Final = DecodeTarget()
_UNKNOWN: Final = Workload()

# Of a residual, what counts: a quarter more or less, which holds two of three honest ones.
_CLIP: Final = 0.25
# How much of a residual each factor takes up. The machine's is the fastest, so that what all codecs have in common
# ends up there: a change by two is known to 5 % after 60 jobs, of whatever codecs.
_MACHINE_STEP: Final = 0.05
_OWN_STEP: Final = 0.01
# Bounds. The machine: four times its calibration either way (throttling, a neighbour on the same core). A codec or
# recipe: three times, the most that any was off by before it was fitted.
_MACHINE_BOUND: Final = math.log(4.0)
_OWN_BOUND: Final = math.log(3.0)
_CALIBRATION_BOUND: Final = math.log(16.0)
# A job of so many milliseconds has half a say: below, wake-ups and cold caches are most of it.
_HALF_SAY_MS: Final = 0.25

# The quantile that margins follow, their step, and where they begin: the table's own spread.
_MARGIN_QUANTILE: Final = 0.9
_MARGIN_STEP: Final = 0.05
_FIRST_MARGIN: Final = math.log(1.3)
_MOST_MARGIN: Final = math.log(4.0)


@dataclass(frozen=True, slots=True)
class Quote:
    """What an item was foretold to cost, and what `CostModel.learn` must know of it.

    `base_ms` is the table's, before anything learned; `codec` and `recipe` say whose factors it was quoted with.
    """

    cost: Cost
    base_ms: float
    codec: str
    recipe: str


@dataclass(frozen=True, slots=True)
class CodecStatistics:
    """Of a codec's jobs: how many were learned from, by what factor they cost more than the table on this machine,
    and the quotient of actual and quoted cost that nine of ten stay below.
    """

    jobs: int
    factor: float
    margin: float


@dataclass(frozen=True, slots=True)
class CostStatistics:
    """`machine`: how many times as long as the table's this machine takes; `calibrated`: what it was at start-up.

    `codecs` and `recipes`: what is known of each beside that.
    """

    machine: float
    calibrated: float
    codecs: Mapping[str, CodecStatistics]
    recipes: Mapping[str, float]


@dataclass(slots=True)
class _Codec:
    """What is known of a codec: its factor and its margin as logarithms."""

    jobs: int = 0
    factor: float = 0.0
    margin: float = _FIRST_MARGIN


@dataclass(slots=True)
class CostModel:
    """Quotes what an item will cost on this machine, and learns from what it did cost. One thread's own."""

    _machine: float = 0.0
    _calibrated: float = 0.0
    _codecs: dict[str, _Codec] = field(default_factory=dict)
    _recipes: dict[str, float] = field(default_factory=dict)

    def calibrate(self, factor: float) -> None:
        """Takes this machine for `factor` times as slow as the table's; what is learned later starts from there."""
        bound = _CALIBRATION_BOUND
        self._calibrated = self._machine = _within(math.log(factor), -bound, bound)

    def quote(self, info: MediaInfo, target: DecodeTarget = _WHOLE, work: Workload = _UNKNOWN) -> Quote:
        """Foretells a job: milliseconds of one core, and bytes of what decode leaves.

        `work` is what the recipe says that it will do (Recipe.workload); without it only decoding is foretold.
        More pixels, bytes or seconds never cost less.
        """
        base, codec = base_ms(info, target, work), codec_of(info)
        ms = base * math.exp(self._level(codec, work.processor))
        return Quote(Cost(ms, decoded_bytes(info, target)), base, codec, work.processor)

    def learn(self, quote: Quote, cpu_ms: float) -> None:
        """Takes in what a quoted job really took, in milliseconds of its thread's CPU. For jobs that succeeded:
        those that failed did not do what they were quoted for.

        It is compared with what would be quoted now, since a job may wait for long between.
        """
        if not (0.0 < cpu_ms < math.inf and quote.base_ms > 0.0):
            return
        residual = math.log(cpu_ms / quote.base_ms) - self._level(quote.codec, quote.recipe)
        say = quote.base_ms / (quote.base_ms + _HALF_SAY_MS)
        counted = say * _within(residual, -_CLIP, _CLIP)
        codec = self._codecs.setdefault(quote.codec, _Codec())
        codec.jobs += 1
        codec.margin = _within(codec.margin + _margin_step(residual, codec.margin), 0.0, _MOST_MARGIN)
        codec.factor = _within(codec.factor + _OWN_STEP * counted, -_OWN_BOUND, _OWN_BOUND)
        recipe = self._recipes.get(quote.recipe, 0.0) + _OWN_STEP * counted
        self._recipes[quote.recipe] = _within(recipe, -_OWN_BOUND, _OWN_BOUND)
        self._machine = _within(
            self._machine + _MACHINE_STEP * counted,
            self._calibrated - _MACHINE_BOUND,
            self._calibrated + _MACHINE_BOUND,
        )

    def margin(self, quote: Quote) -> float:
        """What to multiply a quote with so that nine of ten jobs of its codec stay below; at least 1."""
        known = self._codecs.get(quote.codec)
        return math.exp(_FIRST_MARGIN if known is None else known.margin)

    def statistics(self) -> CostStatistics:
        """A snapshot for observers."""
        return CostStatistics(
            math.exp(self._machine),
            math.exp(self._calibrated),
            {
                name: CodecStatistics(codec.jobs, math.exp(codec.factor), math.exp(codec.margin))
                for name, codec in self._codecs.items()
            },
            {name: math.exp(factor) for name, factor in self._recipes.items()},
        )

    def __repr__(self) -> str:
        jobs = sum(codec.jobs for codec in self._codecs.values())
        return f"<CostModel {math.exp(self._machine):.2f} times the table's, {jobs} jobs>"

    def _level(self, codec: str, recipe: str) -> float:
        """The logarithm of all factors together."""
        known = self._codecs.get(codec)
        own = 0.0 if known is None else known.factor
        return self._machine + own + self._recipes.get(recipe, 0.0)


def _within(value: float, least: float, most: float) -> float:
    return min(most, max(least, value))


def _margin_step(residual: float, margin: float) -> float:
    """Up by nine steps' tenths where the margin was passed, down by one where not: in balance at the quantile."""
    return _MARGIN_STEP * (_MARGIN_QUANTILE if residual > margin else _MARGIN_QUANTILE - 1.0)


def codec_of(info: MediaInfo) -> str:
    """Whose factor an item has: a picture's format, JPEGs and PNGs in passes apart; a sound's codec, all PCM as one."""
    match info:
        case ImageInfo():
            return (
                f"progressive {info.format}"
                if info.progressive and info.format in {"jpeg", "png"}
                else info.format
            )
        case AudioInfo():
            return "pcm" if info.codec.startswith("pcm_") else info.codec


def decoded_bytes(info: MediaInfo, target: DecodeTarget) -> int:
    """What decode leaves: 3 bytes a pixel of the stored picture; 4 a sample, of as much as `target` asks for.

    A sound whose length is unknown is taken for the longest that its bytes can hold: this is what memory goes by.
    The decode of a picture peaks above it: Pillow holds 4 bytes a pixel beside them, and 7 in all were measured for
    RGB of 16 megapixels, with white painted or not. Pillow's turning of it, or converting from another mode, holds
    one picture more.
    """
    match info:
        case ImageInfo():
            return 3 * info.width * info.height
        case AudioInfo():
            longest = info.longest_s
            seconds = longest if target.max_seconds is None else min(longest, target.max_seconds)
            return int(sound_bytes_per_second(info, target) * seconds)


def sound_bytes_per_second(info: AudioInfo, target: DecodeTarget) -> int:
    """What a second of decoded sound takes: 4 bytes a sample; one channel where decode resamples."""
    return 4 * info.channels * info.sample_rate if target.rate is None else 4 * target.rate
