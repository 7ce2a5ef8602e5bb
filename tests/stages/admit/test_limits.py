"""A limit names itself, its value and the one found, and stands before anything is decoded."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from sidecar.errors import MediaTooLarge
from sidecar.media import AudioInfo, DecodeTarget, ImageInfo, MediaInfo, Source
from sidecar.stages.admit.cost import decoded_bytes
from sidecar.stages.admit.limits import Limits, LimitsByModel, ModelLimits

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
        (picture(1001, 1000), "limits.image_pixels", "1001000"),
        (picture(2001, 1), "limits.image_side", "2001"),
        (picture(1, 2001), "limits.image_side", "2001"),
        (sound(rate=96_000), "limits.audio_rate", "96000"),
        (sound(channels=3), "limits.audio_channels", "3"),
        (sound(seconds=60.5), "limits.audio_seconds", "60.5"),
        (sound(rate=48_000, channels=2, seconds=30), "limits.decoded_bytes", "11520000"),
        (picture(1000, 1000), "limits.decoded_bytes", "3000000"),
        (replace(picture(1, 1), frames=1001), "limits.image_frames", "1001"),
        (replace(picture(1, 1), metadata_bytes=(16 << 20) + 1), "limits.metadata_bytes", "16777217"),
        (replace(sound(), metadata_bytes=(16 << 20) + 1), "limits.metadata_bytes", "16777217"),
        (replace(sound(), streams=33), "limits.audio_streams", "33"),
    ],
)
def test_what_passes_a_limit_is_refused_by_name(info: MediaInfo, limit: str, found: str) -> None:
    limits = replace(LIMITS, decoded_bytes=2_999_999) if limit.endswith("decoded_bytes") else LIMITS
    with pytest.raises(MediaTooLarge) as refused:
        limits.check(SOURCE, info)
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


def test_no_header_within_the_limits_asks_for_more_than_half_a_gibibyte() -> None:
    claim = AudioInfo("flac", 1000, "flac", 192_000, 8, 3600.0)
    with pytest.raises(
        MediaTooLarge, match=r"22118400000 bytes once decoded and the limit `limits.decoded_b"
    ):
        Limits().check(SOURCE, claim)
    for info in (claim, replace(claim, duration_s=None), picture(30_000, 30_000)):
        assert Limits().max_decoded_bytes(info) == 512 * 1024 * 1024


def test_a_sound_of_unknown_length_is_let_in_and_bounded_while_decoding() -> None:
    """Its bytes could last for hours as speech, and seldom do."""
    stream = AudioInfo("webm", 4_000_000, "opus", 48_000, 2, None)
    Limits().check(SOURCE, stream)
    assert decoded_bytes(stream, DecodeTarget()) > Limits().max_decoded_bytes(stream)


def test_only_what_a_recipe_wants_decoded_counts() -> None:
    hour, heard = AudioInfo("mp3", 57_600_000, "mp3", 44_100, 2, 3600.0), DecodeTarget(max_seconds=31)
    with pytest.raises(MediaTooLarge, match=r"`limits\.decoded_bytes`"):
        Limits().check(SOURCE, hour)
    Limits().check(SOURCE, hour, heard)
    assert decoded_bytes(hour, heard) == decoded_bytes(replace(hour, duration_s=31.0), DecodeTarget())
    assert decoded_bytes(sound(seconds=1), heard) == decoded_bytes(sound(seconds=1), DecodeTarget())
    resampled = DecodeTarget(rate=16_000)
    assert decoded_bytes(hour, resampled) == 4 * 16_000 * 3600
    assert Limits().max_decoded_bytes(sound(rate=8_000), resampled) == 4 * 16_000 * 3600


def test_an_item_larger_than_a_message_fits_into_an_upload() -> None:
    assert 64 * 1024 * 1024 < Limits().media_bytes <= Limits().upload_bytes


def test_a_model_may_have_limits_of_its_own_tighter_and_wider_and_is_refused_by_its_own_keys() -> None:
    shared = Limits(image_side=100, image_pixels=5_000)
    limits = LimitsByModel(shared, {"thumb": ModelLimits(image_side=50), "maps": ModelLimits(image_side=500)})
    assert limits.of("other") == shared
    for model, side, key in (
        ("other", 101, "limits.image_side"),
        ("thumb", 51, "models.thumb.limits.image_side"),
        ("maps", 501, "models.maps.limits.image_side"),
    ):
        limits.of(model).check(SOURCE, picture(side - 1, 1))
        with pytest.raises(MediaTooLarge, match=f"the limit `{key}` is {side - 1}") as refused:
            limits.of(model).check(SOURCE, picture(side, 1))
        assert refused.value.facts["limit"] == key
    with pytest.raises(MediaTooLarge, match=r"the limit `limits\.image_pixels` is 5000"):
        limits.of("maps").check(SOURCE, picture(400, 400))


def test_every_limit_on_an_item_can_be_a_models_own() -> None:
    of_item = {each.name for each in fields(Limits)} - {
        "items",
        "inputs_bytes",
        "delivering_bytes",
        "upload_bytes",
    }
    assert {each.name for each in fields(ModelLimits)} == of_item
