"""Files that mean harm are made as they say: put together as they were, and the same each time."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from sidecar.media import DecodeTarget, Source
from sidecar.stages.decode import decode
from sidecar.stages.probe import probe
from testbed.hostile.mutate import MOST_BYTES, Mutator
from testbed.hostile.parts import LAYOUTS, Part
from tests import corpus

_KNOWN: dict[str, corpus.Picture | corpus.Sound] = {**corpus.PICTURES, **corpus.SOUNDS}


@pytest.mark.parametrize("name", [name for name in _KNOWN if name != "wav_streamed.wav"])
def test_a_file_that_is_taken_apart_and_put_together_is_the_same_or_as_good(name: str) -> None:
    layout = LAYOUTS[_KNOWN[name].format]
    again = layout.join(layout.split(corpus.data(name)))
    if _KNOWN[name].format not in {"tiff", "webm"}:
        assert again == corpus.data(name)
    else:  # the directory is elsewhere, and sizes are told in full
        whole, made = (Source(data) for data in (corpus.data(name), again))
        expected, found = (decode(each, probe(each), DecodeTarget()).array for each in (whole, made))
        np.testing.assert_array_equal(found, expected)


def test_checksums_are_made_right() -> None:
    png = LAYOUTS["png"]
    head, *chunks = png.split(corpus.image("png_rgb.png"))
    made = png.join([head, Part(b"teSt", b"abc"), *chunks])
    assert made[8:23] == b"\0\0\0\3teStabc" + zlib.crc32(b"teStabc").to_bytes(4, "big")


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_same_number_is_the_same_mutant_and_no_other_is(name: str) -> None:
    seeds = [corpus.data(each) for each, facts in _KNOWN.items() if facts.format == name]
    one, again = Mutator(name, seeds), Mutator(name, seeds)
    made = [one.mutant(number) for number in range(60)]
    assert made == [again.mutant(number) for number in range(60)]
    assert len(set(made)) > 45
    assert max(map(len, made)) <= MOST_BYTES


@pytest.mark.parametrize("name", LAYOUTS)
def test_anything_can_be_taken_apart_and_put_together(name: str) -> None:
    for data in (b"", b"\0", b"\xff" * 40, *(corpus.data(each) for each in corpus.CORRUPT)):
        assert isinstance(LAYOUTS[name].join(LAYOUTS[name].split(data)), bytes)
