"""Formats are told by content alone, and what is refused is named."""

from __future__ import annotations

import pytest

from sidecar.errors import CorruptMedia, UnsupportedMedia
from sidecar.media import Source
from sidecar.stages import pillow
from sidecar.stages.probe import AUDIO_FORMATS, IMAGE_FORMATS, sniff
from tests import corpus

_ISO = b"\0\0\0\x18ftyp"
_PLAIN = (
    (b"\xff\xd8\xff\xe0" + bytes(20), "jpeg"),
    (b"MM\0*" + bytes(20), "tiff"),
    (b"II+\0" + bytes(20), "tiff"),
    (b"BM" + bytes(12) + b"\x28\0\0\0", "bmp"),
    (b"RIFF\0\0\0\0WAVEfmt ", "wav"),
    (b"RF64\xff\xff\xff\xffWAVEds64", "wav"),
    (_ISO + b"mif1\0\0\0\0avifmif1", "avif"),
    (_ISO + b"isom\0\0\0\0isomiso2", "mp4"),
    (_ISO + b"qt  \0\0\0\0qt  qt  ", "mp4"),
    (b"\x1a\x45\xdf\xa3\x93\x42\x82\x88matroska", "webm"),
    (b"\xff\xfb\x90\x64", "mp3"),
    (b"\xff\xf3\x40\xc4", "mp3"),
    (b"\xff\xf1\x50\x80", "aac"),
    (b"\xff\xf9\x50\x80", "aac"),
    (b"ID3\x04\0\0\0\0\0\x02xx\xff\xf1\x50\x80", "aac"),
    (b"ID3\x04\0\0\0\0\0\x02xxfLaC", "flac"),
    (b"ID3\x04\0\0\0\0\x01\0", "mp3"),
)
_REFUSED = (
    (b"RIFF\0\0\0\0AVI LIST", "an AVI video"),
    (_ISO + b"heic\0\0\0\0mif1heic", "an HEIC picture"),
    (_ISO + b"mif1\0\0\0\0heicmif1", "of no known format"),
    (b"BM" + b"any text that begins so", "of no known format"),
    (b"\xef\xbb\xbf  #EXTM3U\n", "an M3U playlist"),
    (b"\xff\xfe<\0h\0t\0m\0l\0", "of no known format"),
    (b"\xff\xff\xff\xff", "of no known format"),
    (b"\x1a\x45\xdf\xa3" + bytes(40), "of no known format"),
    (b"hello", "of no known format"),
)


@pytest.mark.parametrize(
    ("name", "expected"), [(n, p.format) for n, p in (corpus.PICTURES | corpus.SOUNDS).items()]
)
def test_every_good_file_is_told_by_its_content(name: str, expected: str) -> None:
    assert expected == sniff(corpus.source(name))


@pytest.mark.parametrize(("data", "expected"), _PLAIN)
def test_magic_bytes_name_the_format(data: bytes, expected: str) -> None:
    assert expected == sniff(Source(data))


@pytest.mark.parametrize(("name", "expected"), corpus.MISLABELLED.items())
def test_names_are_not_believed(name: str, expected: str) -> None:
    assert expected == sniff(Source(corpus.data(name), content_type="image/gif", label=name))


@pytest.mark.parametrize(("data", "expected"), _REFUSED)
def test_a_refusal_says_what_came_and_what_is_taken(data: bytes, expected: str) -> None:
    with pytest.raises(UnsupportedMedia) as refusal:
        sniff(Source(data, label="item 3 (cat)"))
    assert refusal.value.message.startswith(f"item 3 (cat) is {expected},")
    assert refusal.value.message.endswith(
        f"send pictures as {', '.join(pillow.AVAILABLE)}; sound as {', '.join(AUDIO_FORMATS)}"
    )


def test_the_formats_are_those_of_the_corpus() -> None:
    assert {picture.format for picture in corpus.PICTURES.values()} == set(IMAGE_FORMATS)
    assert {sound.format for sound in corpus.SOUNDS.values()} == set(AUDIO_FORMATS)


def test_nothing_at_all_is_corrupt() -> None:
    with pytest.raises(CorruptMedia, match=r"^item 0 is empty"):
        sniff(Source(b""))
