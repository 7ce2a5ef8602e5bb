"""Facts reach the caller as probe found them."""

from __future__ import annotations

from sidecar.edge.respond import media_info
from sidecar.media import ImageInfo


def test_how_a_picture_is_stored_is_told() -> None:
    told = media_info(ImageInfo("jpeg", 9, 640, 480, "RGB", 6, 1, True, "4:2:0"))
    assert (told.format, told.encoded_bytes) == ("jpeg", 9)
    image = told.image
    assert (image.width, image.height, image.mode, image.orientation, image.frames) == (640, 480, "RGB", 6, 1)
    assert (image.progressive, image.subsampling) == (True, "4:2:0")


def test_what_has_no_passes_and_no_sampling_says_neither() -> None:
    image = media_info(ImageInfo("png", 9, 640, 480, "RGB")).image
    assert (image.progressive, image.subsampling) == (False, "")
