"""A limit names itself, its value and the one found, and stands before anything is decoded."""

from __future__ import annotations

import pytest

from sidecar.errors import MediaTooLarge
from sidecar.media import AudioInfo, ImageInfo, MediaInfo, Source
from sidecar.stages.admit.cost import predict
from sidecar.stages.admit.limits import Limits

LIMITS = Limits(
    image_pixels=1_000_000, image_side=2_000, audio_seconds=60, audio_channels=2, audio_rate=48_000
)
SOURCE = Source(b"", label="item 3 (cat.jpg)")


def picture(width: int, height: int) -> ImageInfo:
    return ImageInfo("jpeg", 1000, width, height, "RGB")


def sound(rate: int = 16_000, channels: int = 1, seconds: float | None = 1.0) -> AudioInfo:
    return AudioInfo("wav", 1000, "pcm_s16le", rate, channels, seconds)


@pytest.mark.parametrize(
    ("info", "limit", "found"),
    [
        (picture(1001, 1000), "limits.image_pixels", "1.001e+06"),
        (picture(2001, 1), "limits.image_side", "2001"),
        (picture(1, 2001), "limits.image_side", "2001"),
        (sound(rate=96_000), "limits.audio_rate", "96000"),
        (sound(channels=3), "limits.audio_channels", "3"),
        (sound(seconds=60.5), "limits.audio_seconds", "60.5"),
    ],
)
def test_what_passes_a_limit_is_refused_by_name(info: MediaInfo, limit: str, found: str) -> None:
    with pytest.raises(MediaTooLarge) as refused:
        LIMITS.check(SOURCE, info)
    assert refused.value.facts["limit"] == limit
    assert refused.value.facts["found"] == found
    assert refused.value.message.startswith("item 3 (cat.jpg) has ")


@pytest.mark.parametrize("info", [picture(1000, 1000), picture(2000, 500), sound(), sound(seconds=None)])
def test_what_stays_within_the_limits_passes(info: MediaInfo) -> None:
    LIMITS.check(SOURCE, info)


def test_encoded_bytes_have_a_limit_of_their_own() -> None:
    with pytest.raises(MediaTooLarge) as refused:
        Limits(media_bytes=10).check_size(11, "item 0")
    assert refused.value.facts == {"limit": "limits.media_bytes", "allowed": "10", "found": "11"}


def test_a_sound_of_unknown_length_may_not_decode_past_the_limit() -> None:
    assert LIMITS.max_decoded_bytes(sound(seconds=None)) == 4 * 16_000 * 60


def test_cost_grows_with_pixels_and_seconds() -> None:
    assert predict(picture(200, 200)).cpu_ms < predict(picture(400, 400)).cpu_ms
    assert predict(sound(seconds=1)).cpu_ms < predict(sound(seconds=10)).cpu_ms
    assert predict(picture(200, 100)).decoded_bytes == 60_000


def test_a_header_without_a_length_is_costed_by_its_bytes() -> None:
    long = AudioInfo("mp3", 2_000_000, "mp3", 44_100, 2, None)
    assert predict(long).cpu_ms > predict(sound(seconds=100)).cpu_ms
