"""The content decides; a label can only contradict it."""

from __future__ import annotations

import pytest

from sidecar.errors import MislabelledMedia
from sidecar.media import AudioInfo, ImageInfo, MediaInfo, Source
from sidecar.stages.admit.label import check_label

JPEG = ImageInfo("jpeg", 10, 1, 1, "RGB")
M4A = AudioInfo("mp4", 10, "aac", 44_100, 2)
OPUS = AudioInfo("ogg", 10, "opus", 48_000, 2)


@pytest.mark.parametrize(
    ("declared", "info"),
    [
        ("", JPEG),
        ("image/jpeg", JPEG),
        ("IMAGE/JPG; q=1", JPEG),
        ("image/*", JPEG),
        ("application/octet-stream", JPEG),
        ("audio/mp4", M4A),
        ("video/mp4", M4A),
        ("audio/aac", M4A),
        ("audio/opus", OPUS),
        ("application/ogg", OPUS),
        ("audio/x-unheard-of", OPUS),
    ],
)
def test_a_label_that_agrees_passes(declared: str, info: MediaInfo) -> None:
    check_label(Source(b"", declared), info)


@pytest.mark.parametrize(
    ("declared", "info"),
    [
        ("image/png", JPEG),
        ("audio/jpeg", JPEG),
        ("audio/*", JPEG),
        ("text/html", JPEG),
        ("audio/wav", M4A),
        ("jpeg", JPEG),
        ("application/ogg", JPEG),
    ],
)
def test_a_label_that_contradicts_the_content_is_refused(declared: str, info: MediaInfo) -> None:
    with pytest.raises(MislabelledMedia) as refused:
        check_label(Source(b"", declared, "item 1"), info)
    assert declared in refused.value.message
    assert refused.value.facts["found"] == f"{info.modality.value}/{info.format}"
