"""`sidecar plan --for MODEL:RATE@MEDIA`: cores, replicas, threads and memory for media that has not come yet.

    clip:200/s@1080p            pictures by a name, by 4032x3024, or by 12MP; of JPEG, or 1080p.png
    whisper:600/min@30s.opus    sounds by their length
    clip:50/s@photos/cat.jpg    a file, whose own facts count
    checkpoints/vit:20/s@4k     a directory in place of a model of the settings

What a person wrote becomes facts and recipes here, and what follows becomes words or JSON; the arithmetic is
`workers/sizing.py`'s. It starts nothing but, for `--factor here`, some jobs that tell how fast this machine is.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from sidecar.arena.arena import Arena, ArenaConfig
from sidecar.arena.lease import Lease
from sidecar.catalogue import ModelConfig, recipe_of
from sidecar.errors import SettingsError, SidecarError
from sidecar.media import AudioInfo, ImageInfo, MediaInfo, Source
from sidecar.recipes.recipe import Recipe
from sidecar.settings import Settings
from sidecar.stages import fourier, kernels
from sidecar.stages.admit.cost import CostModel
from sidecar.stages.probe import probe
from sidecar.workers import sizing
from sidecar.workers.budget import memory_limit
from sidecar.workers.calibrate import calibrate
from sidecar.workers.plan import ThreadPlan
from sidecar.workers.sizing import Demand, Room, Split, Stream
from sidecar.workers.worker import Done, Job, work

_STREAM: Final = re.compile(r"(?P<model>.+?):(?P<rate>[0-9.]+)/(?P<unit>s|min|h)@(?P<media>.+)")
_PER: Final[Mapping[str, float]] = {"s": 1.0, "min": 60.0, "h": 3600.0}
_PICTURE: Final = re.compile(
    r"(?:(?P<name>[0-9]+p|[248]k)|(?P<width>\d+)x(?P<height>\d+)|(?P<mp>[0-9.]+)MP)(?:\.(?P<format>\w+))?"
)
_SOUND: Final = re.compile(r"(?P<seconds>[0-9.]+)s(?:\.(?P<format>\w+))?")
_NAMED: Final[Mapping[str, tuple[int, int]]] = {
    "480p": (640, 480),
    "720p": (1280, 720),
    "1080p": (1920, 1080),
    "1440p": (2560, 1440),
    "2160p": (3840, 2160),
    "2k": (2048, 1080),
    "4k": (3840, 2160),
    "8k": (7680, 4320),
}
# Bytes a pixel of photographs, by format: JPEG and WebP at quality 85 (bench/photos.py; a third less), PNG and TIFF of
# noise as cameras have it. Out of the air but for JPEG's; a file tells its own.
_BYTES_A_PIXEL: Final[Mapping[str, float]] = {
    "jpeg": 1 / 4.5,
    "webp": 0.15,
    "avif": 0.1,
    "png": 1.8,
    "gif": 0.8,
    "bmp": 3.0,
    "tiff": 3.0,
}
_FORMATS: Final[Mapping[str, str]] = {"jpg": "jpeg", "tif": "tiff", **{name: name for name in _BYTES_A_PIXEL}}
# By ending: container, codec, hertz, channels, and bytes a second, as phones and podcasts have them.
_SOUNDS: Final[Mapping[str, tuple[str, str, int, int, int]]] = {
    "wav": ("wav", "pcm_s16le", 16_000, 1, 32_000),
    "flac": ("flac", "flac", 44_100, 2, 90_000),
    "mp3": ("mp3", "mp3", 44_100, 2, 16_000),
    "aac": ("aac", "aac", 44_100, 2, 16_000),
    "m4a": ("mp4", "aac", 44_100, 2, 16_000),
    "ogg": ("ogg", "vorbis", 44_100, 2, 14_000),
    "opus": ("ogg", "opus", 48_000, 1, 4_000),
}
_HERE: Final = "here"
_MOST_RATE: Final = 1e6
# Slots for the calibration's few files and tensors.
_CALIBRATION_BYTES: Final = 64 << 20

Told = dict[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Sized:
    """What was asked for, and what it takes. `factor`: how many times the table's time a job takes, and `by` whom that
    is known.
    """

    streams: tuple[Stream, ...]
    factor: float
    by: str
    demand: Demand
    split: Split


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `--for` brings."""
    parser.add_argument(
        "--for",
        action="append",
        default=[],
        metavar="MODEL:RATE@MEDIA",
        dest="streams",
        help="say what such media would take, as clip:200/s@1080p, whisper:600/min@30s.opus, or @FILE; may be "
        "repeated. MODEL is one of the settings, or a directory; with --cores, no replica has more",
    )
    parser.add_argument(
        "--factor",
        default="1",
        metavar="F",
        help="how many times as long as on the machine of the cost table a job takes there: a running server's "
        f"sidecar_cost_machine_factor, or `{_HERE}` to find out on this one (default: 1)",
    )


def sized(settings: Settings, wanted: Sequence[str], factor: str, cores: float | None) -> Sized:
    """What streams take. Raises SettingsError naming the part of one that cannot be read, and what recipes raise."""
    times, by = _factor(factor)
    if cores is not None and (cores != int(cores) or cores < 1):
        raise SettingsError(
            f"`--cores {cores:g}` with `--for`: give a whole number, the most that a replica may have",
            key="--cores",
            value=cores,
            allowed="1, 2, ...",
        )
    streams = tuple(_stream(settings, each, times) for each in wanted)
    needed = sizing.demand(streams, times)
    return Sized(streams, times, by, needed, sizing.split(needed, None if cores is None else int(cores)))


def _factor(text: str) -> tuple[float, str]:
    if text == _HERE:
        return _measured(), "measured on this machine now"
    try:
        factor = float(text)
    except ValueError:
        factor = 0.0
    if not 0.05 <= factor <= 20:  # noqa: PLR2004 - no machine is further from the table's
        raise SettingsError(
            f"`--factor {text}`: give a number from 0.05 to 20, or `{_HERE}`",
            key="--factor",
            value=text,
            allowed=f"0.05 to 20, {_HERE}",
        )
    return factor, "the machine of the cost table" if factor == 1 else "as told"


def _measured() -> float:
    """How fast this machine is, by the jobs that calibrate a server at its start."""
    kernels.warm()
    fourier.warm()
    with closing(
        Arena.open(ArenaConfig(bytes=_CALIBRATION_BYTES, name="sidecar-plan"), memory_limit())
    ) as arena:
        factor = asyncio.run(calibrate(CostModel(), _run, arena.try_take))
    if factor is None:
        raise SettingsError(
            f"`--factor {_HERE}`: this machine's speed cannot be found, see the log: give a number",
            key="--factor",
            value=_HERE,
        )
    return factor


async def _run(job: Job, _held: Sequence[Lease]) -> Done:
    """One after the other, on the only thread: nobody else is served here."""
    return work(job)


def _stream(settings: Settings, text: str, factor: float) -> Stream:
    match = _STREAM.fullmatch(text)
    if match is None:
        raise _unreadable(
            text, "it is not MODEL:RATE@MEDIA, such as clip:200/s@1080p or whisper:600/min@30s.opus"
        )
    rate = _number(match["rate"], text) / _PER[match["unit"]]
    if not 0 < rate <= _MOST_RATE:
        raise _unreadable(
            text, f"{match['rate']} a {match['unit']} is no rate: more than none, up to a million a second"
        )
    recipe, info = _recipe(settings, match["model"], text), _media(match["media"], text)
    if info.modality is not recipe.modality:
        raise _unreadable(
            text,
            f"{match['model']} takes {recipe.modality.value}, and {match['media']} is {info.modality.value}",
        )
    types = {spec.name: spec.data_type for spec in recipe.outputs}
    target = recipe.decode_target(info)
    try:
        cost = CostModel().quote(info, target, recipe.workload(info, types)).cost
        tensors = sum(recipe.output_bytes(info, types).values())
    except SidecarError as error:
        raise _unreadable(text, error.message) from error
    return Stream(
        match["model"],
        match["media"],
        info.modality,
        rate,
        cost.cpu_ms * factor,
        info.encoded_bytes,
        cost.decoded_bytes,
        tensors,
    )


def _recipe(settings: Settings, model: str, text: str) -> Recipe:
    config = settings.models.get(model)
    if config is None and Path(model).is_dir():
        config = ModelConfig(recipe=Path(model))
    if config is None:
        there = ", ".join(sorted(settings.models)) or "none, for no --config was given"
        raise _unreadable(
            text, f"{model!r} is neither a directory nor a model of the settings, which are {there}"
        )
    recipe = recipe_of(model, config)
    if recipe is None:
        raise _unreadable(text, f"{model!r} has no recipe, so it takes no media")
    return recipe


def _media(text: str, whole: str) -> MediaInfo:
    """Facts of what was named: a size, a length, or a file."""
    if (picture := _PICTURE.fullmatch(text)) is not None:
        return _picture(picture, whole)
    if (sound := _SOUND.fullmatch(text)) is not None:
        return _sound(sound, whole)
    try:
        data = Path(text).read_bytes()
    except OSError as error:
        raise _unreadable(
            whole,
            f"{text!r} is neither 1080p, 640x480, 12MP, 30s nor a file that can be read ({error.strerror})",
        ) from error
    try:
        return probe(Source(data, label=text))
    except SidecarError as error:
        raise _unreadable(whole, error.message) from error


def _picture(match: re.Match[str], whole: str) -> ImageInfo:
    name, ending = match["name"], match["format"] or "jpeg"
    if ending not in _FORMATS:
        raise _unreadable(whole, f"{ending!r} is no format of pictures; there are {', '.join(_FORMATS)}")
    if name is not None and name not in _NAMED:
        raise _unreadable(whole, f"{name!r} is no size; there are {', '.join(_NAMED)}")
    if name is not None:
        width, height = _NAMED[name]
    elif match["mp"] is not None:
        height = round((_number(match["mp"], whole) * 1e6 * 3 / 4) ** 0.5)
        width = round(height * 4 / 3)
    else:
        width, height = int(match["width"]), int(match["height"])
    kind = _FORMATS[ending]
    if not width * height:
        raise _unreadable(whole, "a picture has a pixel at least")
    nbytes = round(width * height * _BYTES_A_PIXEL[kind])
    return ImageInfo(kind, nbytes, width, height, "RGB", subsampling="4:2:0" if kind == "jpeg" else "")


def _sound(match: re.Match[str], whole: str) -> AudioInfo:
    ending = match["format"] or "wav"
    if ending not in _SOUNDS:
        raise _unreadable(whole, f"{ending!r} is no format of sounds; there are {', '.join(_SOUNDS)}")
    container, codec, rate, channels, pace = _SOUNDS[ending]
    seconds = _number(match["seconds"], whole)
    return AudioInfo(container, round(seconds * pace), codec, rate, channels, seconds)


def _number(text: str, whole: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise _unreadable(whole, f"{text!r} is no number") from None


def _unreadable(text: str, why: str) -> SettingsError:
    return SettingsError(f"`--for {text}`: {why}", key="--for", value=text)


def lines(found: Sized, plan: ThreadPlan, needed: Room) -> Iterator[str]:
    """The same for people."""
    width = max(len(each.model) for each in found.streams)
    for each in found.streams:
        yield (
            f"{each.model:<{width}}  {each.rate:g}/s of {each.media}: {each.cpu_ms:.1f} ms of a worker, "
            f"{each.front_ms(found.factor):.1f} ms of the front, {_mib(each.tensor_bytes)} of tensors"
        )
    wanted, split = found.demand, found.split
    yield ""
    yield f"{wanted.cores:.2f} cores of work: {wanted.workers:.2f} for workers, {wanted.front:.2f} for fronts"
    many = (
        f"{split.replicas} replicas of {split.cores} cores each"
        if split.replicas > 1
        else f"{split.cores} cores"
    )
    yield f"{many}, of which {split.used:.0%} are in use at these rates; full at {split.headroom:.2f} times as much"
    if split.replicas > 1 and wanted.front / sizing.FRONT_USE > split.replicas - 1:
        yield f"  a front is one thread: past {sizing.FRONT_USE:.0%} of a core there is another replica"
    yield ""
    yield "of each replica:" if split.replicas > 1 else "of it:"
    for name, value in _settings(plan, needed).items():
        yield f"  {name:<30} {value}"
    yield ""
    yield "assumed:"
    yield from (f"  {each}" for each in _assumed(found))


def fields(found: Sized, plan: ThreadPlan, needed: Room) -> Told:
    """The same for programs."""
    return {
        "streams": [
            {
                **dataclasses.asdict(each),
                "modality": each.modality.value,
                "front_ms": each.front_ms(found.factor),
            }
            for each in found.streams
        ],
        "demand": dataclasses.asdict(found.demand),
        "replicas": found.split.replicas,
        "cores": found.split.cores,
        "used": found.split.used,
        "headroom": found.split.headroom,
        "room": dataclasses.asdict(needed),
        "settings": _settings(plan, needed),
        "assumed": _assumed(found),
    }


def _settings(plan: ThreadPlan, needed: Room) -> dict[str, str]:
    """What is to be given to the container, and what follows by itself."""
    return {
        "memory limit": _mib(needed.memory),
        "/dev/shm": _mib(needed.shm),  # noqa: S108 - the name of a volume
        "arena.bytes": str(needed.arena),
        "threads.image, threads.audio": f"{plan.image_threads}, {plan.audio_threads} by themselves",
        "threads.express": f"{plan.express_threads} by itself",
        "workers.processes": f"{plan.processes} by itself",
    }


def _assumed(found: Sized) -> list[str]:
    return [
        f"a job takes {found.factor:.2f} times the cost table's time ({found.by})",
        f"{sizing.USE:.0%} of the cores in use, and {sizing.FRONT_USE:.0%} of a core by one front",
        "a call brings one item, and nothing is found in the cache",
        "tensors in the recipes' own types; a model that takes FP16 or UINT8 halves or quarters them",
        f"{sizing.UPSTREAM_ITEMS} items at the model server, which answers as fast as they come",
        "sizes of files by their pixels or seconds, where no file was given: photographs at quality 85, speech",
    ]


def _mib(nbytes: int) -> str:
    return f"{nbytes / (1 << 20):.4g}Mi"
