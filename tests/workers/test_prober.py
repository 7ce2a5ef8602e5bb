"""Headers are read at once where that is quick, and beside the event loop where it is not."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sidecar.errors import CorruptMedia, UnsupportedMedia
from sidecar.media import AudioInfo, ImageInfo, MediaInfo, Source
from sidecar.observe.timings import Stage
from sidecar.stages import probe as stages
from sidecar.workers import prober
from sidecar.workers.prober import Prober

MEDIA = Path(__file__).parents[2] / "testbed" / "media"


@pytest.fixture
async def probing() -> AsyncIterator[Prober]:
    it = Prober(1)
    yield it
    await it.close()


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the threads that probed."""
    seen: list[str] = []

    def probe(source: Source) -> MediaInfo:
        seen.append(threading.current_thread().name)
        return real(source)

    real = stages.probe
    monkeypatch.setattr(prober, "probe", probe)
    return seen


async def test_a_picture_is_read_at_once(probing: Prober, threads: list[str]) -> None:
    info, (stage, begun, ended) = await probing.probe(Source((MEDIA / "text.jpg").read_bytes()))
    assert isinstance(info, ImageInfo)
    assert (stage, begun < ended) == (Stage.PROBE, True)
    assert threads == ["MainThread"]


async def test_a_sound_is_read_on_a_thread(probing: Prober, threads: list[str]) -> None:
    info, _ = await probing.probe(Source((MEDIA / "speech.wav").read_bytes()))
    assert isinstance(info, AudioInfo)
    assert threads == ["probe_0"]


async def test_a_very_long_picture_is_read_on_a_thread(
    probing: Prober, threads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prober, "_AT_ONCE_BYTES", 1000)
    await probing.probe(Source((MEDIA / "text.jpg").read_bytes()))
    assert threads == ["probe_0"]


async def test_bad_media_is_told_from_either(probing: Prober) -> None:
    with pytest.raises(UnsupportedMedia):
        await probing.probe(Source(b"no media at all"))
    with pytest.raises(CorruptMedia):
        await probing.probe(Source((MEDIA / "speech.wav").read_bytes()[:30]))
