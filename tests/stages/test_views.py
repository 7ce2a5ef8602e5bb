"""A file in shared memory is the same file: facts, pixels, samples and errors are those of its bytes."""

from __future__ import annotations

import dataclasses
import mmap
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from sidecar.errors import MediaError
from sidecar.media import DecodeTarget, Frames, MediaInfo, Source
from sidecar.stages.decode import decode
from sidecar.stages.probe import probe
from sidecar.stages.reader import Encoded
from tests import corpus

_ROOM = 1 << 24
_TARGETS = (
    DecodeTarget(None, _ROOM),
    DecodeTarget(16_000, _ROOM),
    DecodeTarget(None, _ROOM, white_transparency=True),
)


@contextmanager
def _mapped(name: str) -> Iterator[memoryview]:
    """The file's bytes where nobody may write; whoever still holds some at the end makes it fail."""
    with (
        corpus.path(name).open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        memoryview(mapped) as view,
    ):
        yield view


def _outcome(data: Encoded, label: str, target: DecodeTarget) -> tuple[MediaInfo | None, Frames | None, str]:
    source = Source(data, label=label)
    info = None
    try:
        info = probe(source)
        return info, decode(source, info, target), ""
    except MediaError as error:
        return info, None, f"{error.reason}: {error.message}"


_FILES = [*corpus.PICTURES, *corpus.SOUNDS, *corpus.CORRUPT, *corpus.SHORT, *corpus.UNSUPPORTED]


@pytest.mark.parametrize("name", [name for name in _FILES if corpus.data(name)])
def test_a_view_gives_what_its_bytes_give(name: str) -> None:
    for target in _TARGETS:
        facts, frames, said = _outcome(corpus.data(name), name, target)
        with memoryview(bytearray(corpus.data(name))) as writable, _mapped(name) as mapped:
            for view in (writable, mapped):
                found_facts, found_frames, found_said = _outcome(view, name, target)
                assert (found_facts, found_said) == (facts, said)
                assert (found_frames is None) == (frames is None)
                if found_frames is not None and frames is not None:
                    np.testing.assert_array_equal(found_frames.array, frames.array)
                    assert not np.shares_memory(found_frames.array, np.frombuffer(view, np.uint8))


def test_no_bytes_in_a_view_are_none() -> None:
    _, _, said = _outcome(memoryview(b""), "item 0", DecodeTarget())
    assert said == _outcome(b"", "item 0", DecodeTarget())[2]


@pytest.mark.parametrize(
    "name", ["jpeg_420.jpg", "png_rgb.png", "webp_lossy.webp", "tiff_raw.tif", "gif_static.gif"]
)
def test_probing_a_large_view_does_not_copy_it(name: str) -> None:
    data = corpus.image(name)
    source = Source(memoryview(data + bytes(5_000_000)))
    tracemalloc.start()
    try:
        info = probe(source)
        assert tracemalloc.get_traced_memory()[1] < 500_000
    finally:
        tracemalloc.stop()
    assert dataclasses.replace(info, encoded_bytes=len(data)) == probe(Source(data))
