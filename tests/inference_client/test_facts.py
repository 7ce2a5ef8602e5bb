"""Facts read by the client are the sidecar's own, or none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multimodal.v1 import media_pb2, preprocessor_pb2

from inference_client import facts
from sidecar.media import AudioInfo
from sidecar.stages.probe import probe
from tests import corpus

READ_PICTURES = [name for name, each in corpus.PICTURES.items() if each.format not in {"tiff", "avif"}]
READ_SOUNDS = [name for name, each in corpus.SOUNDS.items() if each.format in {"wav", "flac"}]
READ = [corpus.data(name) for name in (*READ_PICTURES, *READ_SOUNDS)]


@pytest.mark.parametrize("name", READ_PICTURES)
def test_the_facts_of_a_picture_are_those_that_the_sidecar_finds(name: str) -> None:
    found, expected = facts.read(corpus.image(name)), corpus.PICTURES[name]
    image = media_pb2.ImageInfo(
        width=expected.width,
        height=expected.height,
        mode=expected.mode,
        progressive=expected.progressive,
        subsampling=expected.subsampling,
    )
    assert found == media_pb2.MediaInfo(
        modality=media_pb2.MODALITY_IMAGE,
        format=expected.format,
        encoded_bytes=len(corpus.image(name)),
        image=image,
    )


@pytest.mark.parametrize("name", READ_SOUNDS)
def test_the_facts_of_a_sound_are_those_that_the_sidecar_finds(name: str) -> None:
    found, expected = facts.read(corpus.audio(name)), probe(corpus.source(name))
    assert found is not None
    assert isinstance(expected, AudioInfo)
    assert (found.modality, found.format, found.encoded_bytes) == (
        media_pb2.MODALITY_AUDIO,
        expected.format,
        expected.encoded_bytes,
    )
    told = found.audio
    assert (told.codec, told.sample_rate, told.channels) == (
        expected.codec,
        expected.sample_rate,
        expected.channels,
    )
    assert told.duration_s == pytest.approx(expected.duration_s)


@pytest.mark.parametrize(
    "name",
    sorted({*corpus.PICTURES, *corpus.SOUNDS} - {*READ_PICTURES, *READ_SOUNDS} | {*corpus.UNSUPPORTED}),
)
def test_of_what_would_have_to_be_guessed_nothing_is_told(name: str) -> None:
    assert facts.read(corpus.data(name)) is None


@given(st.sampled_from(READ), st.data())
def test_damaged_headers_are_read_or_not_but_never_raise(data: bytes, draw: st.DataObject) -> None:
    damaged = bytearray(data[: draw.draw(st.integers(0, len(data)))])
    for _ in range(draw.draw(st.integers(0, 8))):
        if damaged:
            at = draw.draw(st.integers(0, min(len(damaged), 256) - 1))
            damaged[at] = draw.draw(st.integers(0, 255))
    found = facts.read(bytes(damaged))
    assert found is None or found.encoded_bytes == len(damaged)


@given(st.sampled_from([data[:16] for data in READ]), st.binary(max_size=600))
def test_magic_bytes_before_noise_never_raise(magic: bytes, noise: bytes) -> None:
    facts.read(magic + noise)


@pytest.mark.parametrize(
    "data",
    [
        b"GIF89a" + bytes(7) + b"!\xfe" + b"\1." * 2**20,
        b"GIF89a" + bytes(7) + b"!\xfe\1.\0" * 2**18,
        b"\xff\xd8" + b"\xff" * 2**20,
        b"\xff\xd8" + b"\xff\xe0\0\2" * 2**18,
        b"RIFF\0\0\0\0WAVE" + b"junk\0\0\0\0" * 2**17,
    ],
)
def test_a_header_of_countless_parts_is_given_up(data: bytes) -> None:
    assert facts.read(data) is None


def _request(
    *, items: int = 1
) -> tuple[preprocessor_pb2.PreprocessRequest, list[media_pb2.MediaInfo | None]]:
    request = preprocessor_pb2.PreprocessRequest(
        model="clip", data_type=media_pb2.DATA_TYPE_BF16, priority=preprocessor_pb2.PRIORITY_BATCH
    )
    return request, [facts.read(corpus.image("jpeg_420.jpg"))] * items


def test_a_call_tells_its_model_its_type_its_priority_and_every_items_facts() -> None:
    request, infos = _request(items=2)
    told = facts.told(request, infos)
    assert told is not None
    assert (told.model, told.data_type, told.priority) == (request.model, request.data_type, request.priority)
    assert list(told.infos) == infos


def test_a_call_with_an_item_that_cannot_be_told_of_tells_nothing() -> None:
    request, infos = _request()
    assert facts.told(request, [*infos, None]) is None
    assert facts.told(request, []) is None


def test_no_more_is_told_than_metadata_holds() -> None:
    assert facts.told(*_request(items=100)) is not None
    assert facts.told(*_request(items=200)) is None
