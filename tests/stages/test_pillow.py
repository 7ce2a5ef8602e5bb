"""Pillow and its libraries do what they are asked, and nothing beside it."""

from __future__ import annotations

import contextlib

import pytest

from bench.mutants import mutator
from sidecar.errors import MediaError
from sidecar.media import DecodeTarget, Source
from sidecar.stages.decode import decode
from sidecar.stages.probe import probe


def test_broken_pictures_write_nothing_past_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    mutants = mutator("tiff")
    for number in range(60):  # libtiff has something to say of one in fifteen
        with contextlib.suppress(MediaError):
            source = Source(mutants.mutant(number))
            decode(source, probe(source), DecodeTarget(max_decoded_bytes=1 << 22))
    assert capfd.readouterr() == ("", "")
