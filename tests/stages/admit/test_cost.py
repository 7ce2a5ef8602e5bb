"""A quote follows from the header alone, grows with the work, and is corrected by what jobs really took."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sidecar.media import AudioInfo, DataType, DecodeTarget, ImageInfo, MediaInfo, Workload
from sidecar.recipes.choice import Choice
from sidecar.recipes.config import Config
from sidecar.recipes.families import FAMILIES
from sidecar.recipes.recipe import Recipe
from sidecar.stages.admit.cost import CostModel, Quote, decoded_bytes
from sidecar.stages.admit.rates import steps
from sidecar.stages.probe import probe
from tests import corpus

JPEG = ImageInfo("jpeg", 400_000, 1920, 1080, "RGB", subsampling="4:2:0")
PNG = ImageInfo("png", 900_000, 1920, 1080, "RGB")
MP3 = AudioInfo("mp3", 480_000, "mp3", 44_100, 2, 30.0)
WHOLE = DecodeTarget()


def recipe(processor: str, *, fast: bool = False) -> Recipe:
    return FAMILIES[processor](Config("test", {}), processor, Choice(exact=False, fast=fast))


def workload(of: Recipe, info: MediaInfo, data_type: DataType = DataType.FP32) -> Workload:
    return of.workload(info, {spec.name: data_type for spec in of.outputs})


CLIP, WHISPER = recipe("CLIPImageProcessor"), recipe("WhisperFeatureExtractor")

ways = st.sampled_from(
    [("jpeg", "RGB", False, "4:2:0"), ("jpeg", "RGB", True, "4:4:4"), ("jpeg", "L", False, ""),
     ("jpeg", "RGB", False, ""), ("jpeg", "CMYK", False, ""), ("png", "RGBA", False, ""), ("png", "RGB", True, ""),
     ("gif", "P", True, ""), ("webp", "RGBA", False, ""), ("avif", "RGB", False, ""), ("bmp", "P", False, ""),
     ("tiff", "L", False, ""), ("", "", False, "")]
)  # fmt: skip
sides = st.integers(1, 30_000)
lengths = st.integers(1, 1 << 28)


def is_bare(info: ImageInfo) -> bool:
    return next(islice(steps(info, WHOLE, Workload()), 1, None))[0][-1] == "bare"


@given(ways, sides, sides, lengths, st.tuples(sides, sides, lengths))
def test_a_larger_picture_is_never_cheaper_to_decode(
    way: tuple[str, str, bool, str], width: int, height: int, nbytes: int, more: tuple[int, int, int]
) -> None:
    kind, mode, progressive, subsampling = way
    small = ImageInfo(kind, nbytes, width, height, mode, 1, 1, progressive, subsampling)
    large = replace(small, width=width + more[0], height=height + more[1], encoded_bytes=nbytes + more[2])
    # A TIFF whose bytes are just its pixels' is not compressed: another way of storing, and a cheaper one.
    assume(is_bare(small) == is_bare(large))
    assert 0 < cost(small) <= cost(large) < math.inf


@given(
    st.sampled_from([("pcm_s16le", "wav"), ("mp3", "mp3"), ("opus", "webm"), ("aac", "aac"), ("", "")]),
    st.floats(0.01, 3600),
    st.floats(0, 3600),
    st.integers(1, 8),
    st.sampled_from([8_000, 44_100, 48_000]),
    lengths,
)
def test_a_longer_sound_is_never_cheaper(  # noqa: PLR0917 - facts of a sound
    way: tuple[str, str], seconds: float, more: float, channels: int, rate: int, nbytes: int
) -> None:
    short = AudioInfo(way[1], nbytes, way[0], rate, channels, seconds)
    long = replace(short, duration_s=seconds + more)
    for target in (WHOLE, DecodeTarget(rate=16_000)):
        model = CostModel()
        costs = [model.quote(info, target, workload(WHISPER, info)).cost.cpu_ms for info in (short, long)]
        assert 0 < costs[0] <= costs[1] * (1 + 1e-9) < math.inf


@given(st.integers(0, 5), sides, sides, sides, sides)
def test_more_to_transform_and_pack_is_never_cheaper(
    resizes: int, tall: int, wide: int, elements: int, more: int
) -> None:
    less = Workload(
        "CLIPImageProcessor", "pil", ((tall, wide),) * resizes, 4, elements=elements, nbytes=4 * elements
    )
    much = replace(less, elements=elements + more, nbytes=4 * (elements + more))
    assert cost(JPEG) <= cost(JPEG, less) <= cost(JPEG, much) < math.inf


def cost(info: MediaInfo, load: Workload = Workload()) -> float:  # noqa: B008 - frozen
    return CostModel().quote(info, WHOLE, load).cost.cpu_ms


@pytest.mark.parametrize("name", [*corpus.PICTURES, *corpus.SOUNDS])
def test_every_kind_of_media_has_rows_of_its_own(name: str) -> None:
    info = probe(corpus.source(name))
    of = CLIP if isinstance(info, ImageInfo) else WHISPER
    quote = CostModel().quote(info, of.decode_target(info), workload(of, info))
    assert 0.1 < quote.cost.cpu_ms < 100
    assert quote.cost.decoded_bytes == decoded_bytes(info, of.decode_target(info))
    assert len([*steps(info, of.decode_target(info), workload(of, info))]) >= 3


def test_what_costs_more_to_decode_is_quoted_higher() -> None:
    plain, progressive = cost(JPEG), cost(replace(JPEG, progressive=True))
    assert 1.5 * plain < progressive
    assert plain < cost(replace(JPEG, subsampling="4:4:4", encoded_bytes=600_000))
    assert plain < cost(replace(JPEG, mode="CMYK", subsampling=""))
    assert cost(replace(PNG, encoded_bytes=100_000)) < cost(PNG)


def test_a_smaller_decode_and_what_is_not_heard_are_not_quoted() -> None:
    least = DecodeTarget(least_size=(540, 960))
    assert CostModel().quote(JPEG, least).cost.cpu_ms < 0.95 * cost(JPEG)
    assert CostModel().quote(PNG, least).cost == CostModel().quote(PNG).cost
    hour, heard = replace(MP3, duration_s=3600.0, encoded_bytes=57_600_000), WHISPER.decode_target(MP3)
    cut = replace(hour, duration_s=31.0, encoded_bytes=496_000)
    quotes = [CostModel().quote(info, heard, workload(WHISPER, info)).cost.cpu_ms for info in (hour, cut)]
    assert quotes[0] == pytest.approx(quotes[1], rel=1e-3)


def test_the_larger_of_two_models_costs_more() -> None:
    qwen = recipe("Qwen2VLImageProcessor")
    assert cost(JPEG) < cost(JPEG, workload(CLIP, JPEG)) < cost(JPEG, workload(qwen, JPEG))
    assert cost(MP3) < cost(MP3, workload(WHISPER, MP3))


@pytest.mark.parametrize(
    "info",
    [
        ImageInfo("", 400_000, 0, 0, ""),
        ImageInfo("jpeg", 400_000, 0, 0, "RGB"),
        ImageInfo("later", 400_000, 0, 0, "LAB"),
        AudioInfo("", 400_000, "", 0, 0, None),
        AudioInfo("webm", 400_000, "opus", 48_000, 2, None),
    ],
)
def test_where_facts_are_missing_the_bytes_are_what_counts(info: MediaInfo) -> None:
    less = replace(info, encoded_bytes=info.encoded_bytes // 4)
    assert cost(info) > 1
    assert cost(less) < cost(info)


def test_a_table_that_knows_nothing_of_a_kind_goes_by_the_wider_one() -> None:
    assert cost(replace(JPEG, subsampling="9:9:9")) == pytest.approx(cost(JPEG), rel=0.3)
    assert cost(replace(JPEG, subsampling="4:1:1")) == cost(JPEG)
    assert cost(replace(MP3, codec="mp3", format="later")) == cost(MP3)


# The jobs of a server: what is sent, how often, and what it costs there beside the table.
MIX = (
    (JPEG, CLIP, 12),
    (replace(JPEG, encoded_bytes=3_000_000, width=4000, height=3000), CLIP, 3),
    (PNG, recipe("Qwen2VLImageProcessor"), 4),
    (ImageInfo("webp", 90_000, 800, 600, "RGB"), CLIP, 1),
    (MP3, WHISPER, 2),
)


def jobs(count: int, seed: int = 0) -> Iterator[tuple[MediaInfo, Recipe, float]]:
    """Media of the mix, each with what it takes beside its quote on the table's machine: 25 % more or less."""
    draws = random.Random(seed)
    for info, of, _ in draws.choices(MIX, [weight for *_, weight in MIX], k=count):
        yield info, of, math.exp(draws.gauss(0, 0.22))


def quoted(model: CostModel, info: MediaInfo, of: Recipe) -> Quote:
    return model.quote(info, of.decode_target(info), workload(of, info))


def run(model: CostModel, count: int, slower: float, seed: int = 0) -> list[float]:
    """Actual / quoted, job by job, on a machine that takes `slower` times as long as the table's."""
    ratios = []
    for info, of, noise in jobs(count, seed):
        quote = quoted(model, info, of)
        ratios.append(slower * noise * quote.base_ms / quote.cost.cpu_ms)
        model.learn(quote, slower * noise * quote.base_ms)
    return ratios


def median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("slower", [2.0, 0.5])
def test_a_cpu_half_as_fast_or_twice_is_known_within_200_jobs(slower: float, seed: int) -> None:
    model = CostModel()
    run(model, 500, 1.0, seed)
    assert median(run(model, 20, slower, seed + 100)) == pytest.approx(slower, rel=0.35)
    run(model, 180, slower, seed + 200)
    assert median(run(model, 200, slower, seed + 300)) == pytest.approx(1.0, abs=0.1)


def test_what_all_jobs_tell_of_the_machine_is_known_of_codecs_that_were_not_seen() -> None:
    model = CostModel()
    run(model, 300, 2.0)
    unseen = quoted(model, ImageInfo("avif", 50_000, 800, 600, "RGB"), recipe("ViTImageProcessor"))
    assert 1.6 < unseen.cost.cpu_ms / unseen.base_ms < 2.2


def test_a_codec_that_is_dearer_here_is_known_by_itself() -> None:
    model = CostModel()
    for place, (info, of, _) in enumerate(jobs(4000)):
        quote = quoted(model, info, of)
        model.learn(quote, quote.base_ms * (2.0 if info.format == "webp" else 1.0) * (1 + 0.1 * (place % 2)))
    webp, jpeg = (quoted(model, info, CLIP) for info in (MIX[3][0], JPEG))
    assert webp.cost.cpu_ms / webp.base_ms > 1.4
    assert jpeg.cost.cpu_ms / jpeg.base_ms == pytest.approx(1.05, abs=0.15)


def test_one_job_moves_little_however_far_off_it_was() -> None:
    model = CostModel()
    before = quoted(model, JPEG, CLIP).cost.cpu_ms
    model.learn(quoted(model, JPEG, CLIP), 1e9)
    assert quoted(model, JPEG, CLIP).cost.cpu_ms < 1.03 * before


def test_hostile_media_that_are_a_third_of_the_jobs_move_others_by_a_quarter_at_most() -> None:
    model = CostModel()
    run(model, 500, 1.0)
    for place, (info, of, noise) in enumerate(jobs(2000, 1)):
        quote = quoted(model, info, of)
        model.learn(quote, quote.base_ms * (100.0 if place % 3 == 0 else noise))
    for info, of, _ in MIX:
        quote = quoted(model, info, of)
        assert quote.cost.cpu_ms / quote.base_ms < 1.25


def test_hostile_media_alone_move_the_model_to_its_bounds_and_no_further() -> None:
    model = CostModel()
    for _ in range(5000):
        model.learn(quoted(model, JPEG, CLIP), 1e6)
    other = quoted(model, MP3, WHISPER)
    assert other.cost.cpu_ms / other.base_ms == pytest.approx(4.0)
    worst = quoted(model, JPEG, CLIP)
    assert worst.cost.cpu_ms / worst.base_ms == pytest.approx(36.0)
    run(model, 1500, 1.0)
    assert median(run(model, 200, 1.0)) == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("took", [0.0, -1.0, math.inf, math.nan])
def test_a_time_that_is_none_teaches_nothing(took: float) -> None:
    model = CostModel()
    model.learn(quoted(model, JPEG, CLIP), took)
    assert model.statistics() == CostModel().statistics()


def test_a_job_that_waited_long_is_compared_with_what_is_known_by_now() -> None:
    model = CostModel()
    old = [quoted(model, JPEG, CLIP) for _ in range(1000)]
    for quote in old:
        model.learn(quote, 2 * quote.base_ms)
    assert quoted(model, JPEG, CLIP).cost.cpu_ms == pytest.approx(2 * old[0].base_ms, rel=0.05)


def test_calibration_is_where_the_model_starts_from_and_what_its_bounds_are_about() -> None:
    model = CostModel()
    model.calibrate(3.0)
    assert quoted(model, JPEG, CLIP).cost.cpu_ms == pytest.approx(3 * quoted(model, JPEG, CLIP).base_ms)
    assert model.statistics().calibrated == pytest.approx(3.0)
    for _ in range(5000):
        model.learn(quoted(model, JPEG, CLIP), 1e6)
    assert model.statistics().machine == pytest.approx(12.0)
    model.calibrate(1e9)
    assert model.statistics().calibrated == pytest.approx(16.0)


def test_nine_of_ten_jobs_stay_below_quote_times_margin() -> None:
    model = CostModel()
    assert model.margin(quoted(model, JPEG, CLIP)) == pytest.approx(1.3)
    run(model, 3000, 1.5)
    above = total = 0
    for info, of, noise in jobs(2000, 7):
        quote = quoted(model, info, of)
        actual = 1.5 * noise * quote.base_ms
        above += actual > model.margin(quote) * quote.cost.cpu_ms
        total += 1
        model.learn(quote, actual)
    assert above / total == pytest.approx(0.1, abs=0.03)


def test_statistics_tell_jobs_factor_and_spread_by_codec() -> None:
    model = CostModel()
    run(model, 400, 2.0)
    told = model.statistics()
    assert set(told.codecs) == {"jpeg", "png", "webp", "mp3"}
    assert sum(codec.jobs for codec in told.codecs.values()) == 400
    assert told.machine * told.codecs["jpeg"].factor * told.recipes["CLIPImageProcessor"] == pytest.approx(
        2.0, rel=0.1
    )
    assert repr(model).startswith("<CostModel ")
