"""Of an animation and of a document the first frame or page is the picture; how many there may be is a limit."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from sidecar.errors import MediaTooLarge
from sidecar.media import DecodeTarget, ImageInfo, Source
from sidecar.stages.admit.limits import Limits
from sidecar.stages.decode import decode
from sidecar.stages.probe import probe
from tests import corpus

_MOVING = [name for name, facts in corpus.PICTURES.items() if facts.frames > 1]


def _sequence() -> bytes:
    """An AVIF of three frames."""
    frames = [Image.new("RGB", (32, 32), (80 * n, 0, 0)) for n in range(3)]
    file = io.BytesIO()
    frames[0].save(file, "AVIF", save_all=True, append_images=frames[1:])
    return file.getvalue()


@pytest.mark.parametrize("name", [*_MOVING, "sequence.avif"])
def test_the_first_frame_alone_is_decoded(name: str) -> None:
    data = _sequence() if name == "sequence.avif" else corpus.image(name)
    source = Source(data)
    info = probe(source)
    assert isinstance(info, ImageInfo)
    assert info.frames == 3
    with Image.open(io.BytesIO(data)) as image:
        first = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(decode(source, info, DecodeTarget()).array, first)


@pytest.mark.parametrize("name", [*_MOVING, "sequence.avif"])
def test_more_frames_or_pages_than_are_allowed_are_refused_by_name(name: str) -> None:
    source = Source(_sequence() if name == "sequence.avif" else corpus.image(name))
    info = probe(source)
    Limits(image_frames=3).check(source, info)
    with pytest.raises(MediaTooLarge, match=r"3 frames or pages and the limit `limits\.image_frames` is 2"):
        Limits(image_frames=2).check(source, info)
