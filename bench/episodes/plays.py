"""The episodes: which fault, how strong, and what the verdict must be. A table, and how each kind is played.

An episode begins with callers whom the accelerator keeps waiting, so that nothing is starved; then the fault is let
in, and from that moment counts how long the alarm takes. Where there is no fault, it may not ring at all. The last
seconds are compared with what was true.
"""

from __future__ import annotations

import asyncio
import functools
import io
import time
import wave
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from multimodal.v1 import diagnostics_pb2 as pb

from bench.episodes.callers import Load, Noted, call_on
from bench.episodes.link import slow_link
from bench.episodes.stage import DELAYED, FAR, LARGE, NEAR, PICTURES, SPEECH, Sight, Stage
from bench.load import median
from bench.mix import screenshot
from bench.photos import photos
from bench.sidecars import PREPROCESS

CALM_S, FAULT_S, WINDOW_S = 1.2, 5.0, 4.0
"""Seconds before the fault, from it to the end, and those at the end that are compared."""
# Between episodes, for what is under way to end and the alarm to be lowered.
_REST_S = 1.0
# An accelerator that takes this much longer than preprocessing keeps callers waiting, whatever else.
_SLOWER = 1.5
_MEASURE_S = 3.0
_SPEECH_S = 40


@dataclass(frozen=True, slots=True)
class Episode:
    """One episode: `kind` says how it is played and `level` how strongly, in the kind's own measure.

    `label` is what the verdict must be: a finding, or a cause of starvation. `onset`: the alarm must ring after the
    fault. `shares`: the starved share is compared with the truth.
    """

    kind: str
    label: str
    media: str
    level: float
    onset: bool = True
    shares: bool = True

    @property
    def upstream(self) -> str:
        return DELAYED if self.kind == "batch delay" else LOADS[self.media].model

    @property
    def sidecar(self) -> str:
        return FAR if self.kind == "slow transport" else NEAR


@dataclass(frozen=True, slots=True)
class Played:
    """An episode's outcome, and what its truth is computed from once the stage has ended.

    `alarm_s`: seconds from the fault to the alarm, None where it did not ring after it; `rang`: whether it rang at
    all. `held_ns`: how long requests were on their way to the model server.
    """

    episode: Episode
    told: pb.UpstreamVerdict
    ended_ns: int
    calls: npt.NDArray[np.int64]
    executions: npt.NDArray[np.int64]
    held_ns: int
    alarm_s: float | None
    rang: bool


@functools.cache
def _speech() -> bytes:
    """Noise as a WAV of 16 kHz: what a recording is before any codec."""
    samples = np.random.default_rng(0).standard_normal(_SPEECH_S * 16_000) * 3000
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(16_000)
        out.writeframes(samples.astype("<i2").tobytes())
    return file.getvalue()


LOADS: Mapping[str, Load] = {
    "1080p": Load(PICTURES, photos("1920x1080"), 6),
    "12 MP": Load(PICTURES, photos("4000x3000", 4), 4),
    "screenshot": Load(PICTURES, (screenshot(),), 4),
    "enlarged": Load(LARGE, photos("640x480"), 4),
    "speech": Load(SPEECH, (_speech(),), 4),
}
"""Callers by what they send; enough of them that preprocessing never waits for one."""
# What most of the work is with each.
_MOST = {
    "1080p": "decode",
    "12 MP": "decode",
    "screenshot": "decode",
    "enlarged": "pack",
    "speech": "transform",
}


def episodes(repeats: int) -> list[Episode]:
    """All of them, the kinds in turn so that a slow spell of the machine is no kind's own."""
    rows: list[Episode] = []
    for level in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8):
        rows += [
            Episode("slow stage", _MOST[media], media, level, onset=level > _ALARMING)
            for media in ("1080p", "12 MP", "speech")
        ]
    for level in (0.3, 0.6):
        rows += [
            Episode("slow stage", _MOST[media], media, level) for media in ("screenshot", "enlarged")
        ] * 2
    rows += [Episode("accelerator", "accelerator", media, 0.0, onset=False) for media in LOADS]
    rows += [Episode("quota", "throttled", "1080p", level) for level in (0.3, 0.4, 0.5)] * 2
    rows += [Episode("slow upload", "receive", "1080p", level) for level in (0.2, 0.4, 0.8)] * 2
    rows += [Episode("slow link", "receive", "1080p", level) for level in (0.15, 0.3)] * 2
    rows += [Episode("others' work", "admit", "1080p", level) for level in (8, 12)] * 2
    rows += [Episode("slow transport", "transport", "1080p", level) for level in (40, 80, 160)] * 2
    rows += [Episode("batch delay", "batch", "1080p", level, onset=False) for level in (1, 2)] * 2
    rows += [Episode("hang", "hung", "1080p", level, shares=False) for level in (4, 6)] * 2
    rows += [Episode("nobody", "no_demand", "1080p", 0.0, onset=False)]
    rows += [Episode("few", "no_demand", "1080p", level, onset=False) for level in (1.0, 2.0)]
    return [replace(row) for _ in range(repeats) for row in rows]


# Alarms ring from a tenth of half a second starved on; at a level near that, chance decides when.
_ALARMING = 0.2


@dataclass(slots=True)
class Troupe:
    """A stage, and what it was capable of of late: calls a second by media, without an accelerator's time."""

    stage: Stage
    rates: dict[str, float] = field(default_factory=dict)

    def measure(self, media: str) -> None:
        """Finds out a rate."""
        self.stage.calm()
        self.rates[media] = self.stage.loop.run(self.stage.rate(LOADS[media], _MEASURE_S))

    def play(self, episode: Episode) -> Played:
        """Plays one, and takes every fault back.

        A level is a part of what the machine can do now: one that was half as fast an hour ago would be taken for
        starved by a third where it is by a twentieth.
        """
        if episode.kind == "slow stage" or episode.media not in self.rates:
            self.measure(episode.media)
        self.stage.calm()
        try:
            return self.stage.loop.run(self._play(episode))
        finally:
            self.stage.calm()
            time.sleep(_REST_S)

    def calm_ms(self, media: str) -> float:
        """An execution's milliseconds by which nothing is starved."""
        return _SLOWER * 1e3 / self.rates[media]

    async def _play(self, episode: Episode) -> Played:
        scene = _Scene(self, episode)
        async with AsyncExitStack() as around:
            sights = await around.enter_async_context(self.stage.watched(episode.upstream, episode.sidecar))
            trips = await around.enter_async_context(self.stage.round_trips())
            around.push_async_callback(scene.end)
            await _KINDS[episode.kind](scene)
            await asyncio.sleep(max(0.0, scene.fault_s + FAULT_S - time.monotonic()))
            told = await self.stage.ask(episode.upstream, WINDOW_S, episode.sidecar)
            ended_ns = time.monotonic_ns()
        # On its way a request is for half of what a small call takes, and for as long as it is held up.
        held_ns = int(median(trips) / 2) + (int(episode.level * 1e6) if episode.sidecar == FAR else 0)
        return Played(
            episode,
            told.upstreams[0] if told.upstreams else pb.UpstreamVerdict(),
            ended_ns,
            scene.noted.calls(ended_ns),
            self.stage.accelerators[episode.upstream].executions(),
            held_ns,
            _alarm_s(sights, scene.fault_s),
            any(sight.told.alarm for sight in sights),
        )


def _alarm_s(sights: Sequence[Sight], fault_s: float) -> float | None:
    rung = [sight.at_ns / 1e9 - fault_s for sight in sights if sight.told.alarm]
    return next((after for after in rung if after > 0), None)


class _Scene:
    """An episode while it is played: its callers, and when the fault was let in."""

    def __init__(self, troupe: Troupe, episode: Episode) -> None:
        self.troupe = troupe
        self.stage = troupe.stage
        self.episode = episode
        self.noted = Noted()
        self.fault_s = time.monotonic()
        self.links = AsyncExitStack()
        self._over: list[bool] = []
        self._calls: list[asyncio.Task[None]] = []

    @property
    def accelerator_ms(self) -> float:
        return self.troupe.calm_ms(self.episode.media)

    def take(self, milliseconds: float, *, hang: bool = False) -> None:
        """How long executions take from now on."""
        self.stage.accelerators[self.episode.upstream].take(milliseconds, hang=hang)

    def call(self, load: Load | None = None, *, noted: Noted | None = None, address: str = "") -> int:
        """Callers from now on; gives their number, for `stop`."""
        chosen = load or replace(LOADS[self.episode.media], model=self.episode.upstream)
        place = len(self._over)
        self._over.append(False)
        where = address or self.stage.sidecars[self.episode.sidecar].address
        self._calls.append(
            asyncio.create_task(
                call_on(where, chosen, self.noted if noted is None else noted, lambda: self._over[place])
            )
        )
        return place

    async def stop(self, place: int) -> None:
        """Ends callers, and waits for their last answers."""
        self._over[place] = True
        await self._calls[place]

    async def end(self) -> None:
        """Ends all callers; what hangs is let go."""
        self._over[:] = [True] * len(self._over)
        self.stage.calm()
        await asyncio.gather(*self._calls)
        await self.links.aclose()

    async def calm(self) -> None:
        """Callers whom the accelerator keeps waiting, for a while; then the fault may come."""
        self.take(self.accelerator_ms)
        self.call()
        await asyncio.sleep(CALM_S)
        self.fault_s = time.monotonic()


async def _slow_stage(scene: _Scene) -> None:
    """The accelerator becomes so fast that preprocessing cannot keep it busy."""
    await scene.calm()
    scene.take((1 - scene.episode.level) * 1e3 / scene.troupe.rates[scene.episode.media])


async def _accelerator(scene: _Scene) -> None:
    """Nothing: the accelerator is what all wait for."""
    await scene.calm()


async def _quota(scene: _Scene) -> None:
    """The sidecar may use so many cores only."""
    await scene.calm()
    scene.stage.allow(scene.episode.level)


async def _slow_upload(scene: _Scene) -> None:
    """Callers send media in pieces that come slowly: an upload takes so many seconds."""
    scene.take(scene.accelerator_ms)
    fast = scene.call()
    await asyncio.sleep(CALM_S)
    scene.fault_s = time.monotonic()
    scene.call(replace(LOADS[scene.episode.media], callers=4, slow_s=scene.episode.level))
    await scene.stop(fast)


async def _slow_link(scene: _Scene) -> None:
    """Callers sit behind a slow network: a message takes so many seconds."""
    scene.take(scene.accelerator_ms)
    fast = scene.call()
    await asyncio.sleep(CALM_S)
    scene.fault_s = time.monotonic()
    load = replace(LOADS[scene.episode.media], callers=4)
    rate = float(np.mean([len(data) for data in load.files])) / scene.episode.level
    link = await scene.links.enter_async_context(slow_link(scene.stage.sidecars[NEAR].address, rate))
    scene.call(load, address=link)
    await scene.stop(fast)


async def _others_work(scene: _Scene) -> None:
    """Others have large pictures prepared, and send nothing to the accelerator; one caller's pictures wait behind."""
    one = replace(LOADS[scene.episode.media], callers=1)
    scene.take(40.0)
    calm = scene.call(replace(one, callers=3))
    await asyncio.sleep(CALM_S)
    scene.fault_s = time.monotonic()
    scene.take(2.0)
    scene.call(one)
    others = replace(LOADS["12 MP"], callers=int(scene.episode.level), method=PREPROCESS)
    scene.call(others, noted=Noted())
    await scene.stop(calm)


async def _slow_transport(scene: _Scene) -> None:
    """Every request is held up so many milliseconds on its way to the model server."""
    scene.take(25.0)
    scene.call(replace(LOADS[scene.episode.media], callers=4))
    await asyncio.sleep(CALM_S)
    scene.fault_s = time.monotonic()
    scene.take(5.0)
    scene.stage.hold_up(scene.episode.level)


async def _batch_delay(scene: _Scene) -> None:
    """So few callers that the model server waits for its batch to fill, in vain."""
    scene.take(8.0)
    scene.call(replace(LOADS[scene.episode.media], model=DELAYED, callers=int(scene.episode.level)))
    await asyncio.sleep(CALM_S)
    scene.fault_s = time.monotonic()


async def _hang(scene: _Scene) -> None:
    """The accelerator takes an execution up and never ends it."""
    scene.take(20.0)
    scene.call(replace(LOADS[scene.episode.media], callers=int(scene.episode.level)))
    await asyncio.sleep(CALM_S)
    scene.take(20.0, hang=True)
    scene.fault_s = time.monotonic()


async def _nobody(scene: _Scene) -> None:
    """Nobody asks."""
    scene.take(10.0)
    await asyncio.sleep(CALM_S)
    scene.fault_s = time.monotonic()


async def _few(scene: _Scene) -> None:
    """One caller, who asks once in so many seconds."""
    scene.take(10.0)
    scene.call(replace(LOADS[scene.episode.media], callers=1, pause_s=scene.episode.level))
    await asyncio.sleep(CALM_S)
    scene.fault_s = time.monotonic()


_KINDS: Mapping[str, Callable[[_Scene], Awaitable[None]]] = {
    "slow stage": _slow_stage,
    "accelerator": _accelerator,
    "quota": _quota,
    "slow upload": _slow_upload,
    "slow link": _slow_link,
    "others' work": _others_work,
    "slow transport": _slow_transport,
    "batch delay": _batch_delay,
    "hang": _hang,
    "nobody": _nobody,
    "few": _few,
}
