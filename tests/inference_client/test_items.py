"""What media items become: our PNG and WAV against Pillow and FFmpeg, and files, and images."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from inference_client import Item, audio, image, media
from inference_client.items import as_item

PIXELS = st.one_of(
    arrays.arrays(np.uint8, arrays.array_shapes(min_dims=2, max_dims=2, max_side=9)),
    *(
        arrays.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(channels)))
        for channels in (1, 3, 4)
    ),
)


def opened(item: Item) -> Image.Image:
    return Image.open(io.BytesIO(item.read()))


def samples_of(item: Item) -> tuple[int, np.ndarray[Any, Any], str]:
    """Rate, samples [channels, n] and codec, as FFmpeg reads them."""
    with av.open(io.BytesIO(item.read()), "r") as container:
        stream = container.streams.audio[0]
        frames = []
        for frame in container.decode(stream):
            block = frame.to_ndarray()
            frames.append(block if frame.format.is_planar else block.reshape(-1, stream.channels).T)
        return stream.rate, np.concatenate(frames, axis=1), stream.codec_context.name


class TestImages:
    @given(PIXELS)
    def test_pillow_reads_the_very_pixels(self, pixels: np.ndarray[Any, Any]) -> None:
        assert np.array_equal(np.asarray(opened(image(pixels))).reshape(pixels.shape), pixels)

    @pytest.mark.parametrize(
        ("shape", "mode"), [((2, 3), "L"), ((2, 3, 1), "L"), ((2, 3, 3), "RGB"), ((2, 3, 4), "RGBA")]
    )
    def test_the_number_of_channels_decides_the_mode(self, shape: tuple[int, ...], mode: str) -> None:
        assert opened(image(np.zeros(shape, np.uint8))).mode == mode

    def test_a_view_that_is_not_contiguous_is_sent_as_it_looks(self) -> None:
        pixels = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(3, 2, 4).transpose(1, 2, 0)[:, ::-1]
        assert np.array_equal(np.asarray(opened(image(pixels))), pixels)

    @pytest.mark.parametrize(
        "pixels",
        [
            np.zeros((2, 2), np.float32),
            np.zeros((3, 2, 2), np.uint8),
            np.zeros((0, 2), np.uint8),
            np.zeros(4, np.uint8),
        ],
        ids=["floats", "channels first", "empty", "one axis"],
    )
    def test_other_arrays_are_refused_with_what_was_found(self, pixels: np.ndarray[Any, Any]) -> None:
        with pytest.raises(ValueError, match="found") as caught:
            image(pixels)
        assert str(list(pixels.shape)) in str(caught.value)

    def test_a_bare_array_is_a_picture(self) -> None:
        assert opened(as_item(np.zeros((2, 3), np.uint8))).size == (3, 2)

    def test_a_bare_float_array_is_refused_because_sound_needs_a_rate(self) -> None:
        with pytest.raises(TypeError, match=r"audio\(array, rate\)"):
            as_item(np.zeros(9, np.float32))

    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
    def test_a_pil_image_keeps_its_mode_and_pixels(self, mode: str) -> None:
        picture = Image.frombytes("L", (16, 8), bytes(range(128)))
        picture = picture.convert("RGB").convert(mode) if mode != "I;16" else picture.convert("I;16")
        got = opened(as_item(picture))
        assert got.mode == mode
        assert np.array_equal(np.asarray(got.convert("RGBA")), np.asarray(picture.convert("RGBA")))

    def test_a_mode_that_png_has_not_is_refused_with_a_way_out(self) -> None:
        with pytest.raises(ValueError, match=r"CMYK.*convert\('RGB'\)"):
            as_item(Image.new("CMYK", (2, 2)))

    @pytest.mark.parametrize("mode", ["RGB", "P"])
    def test_the_orientation_of_an_opened_photo_is_left_out(self, mode: str) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        buffer = io.BytesIO()
        Image.new(mode, (4, 2)).save(buffer, "PNG", exif=exif)
        photo = Image.open(buffer)
        assert photo.getexif()[0x0112] == 6
        assert not opened(as_item(photo)).getexif()


class TestAudio:
    @pytest.mark.parametrize(
        ("dtype", "codec"),
        [(np.int16, "pcm_s16le"), (np.float32, "pcm_f32le"), (np.float64, "pcm_f32le"), (">i2", "pcm_s16le")],
    )
    @pytest.mark.parametrize("channels", [1, 2, 6])
    def test_ffmpeg_reads_the_very_samples(self, dtype: Any, codec: str, channels: int) -> None:
        samples = (np.random.default_rng(1).uniform(-0.9, 0.9, (channels, 441)) * 100).astype(dtype)
        rate, got, found = samples_of(audio(samples, 44_100))
        assert (rate, found) == (44_100, codec)
        assert np.array_equal(got, samples.astype(np.int16 if codec == "pcm_s16le" else np.float32))

    def test_one_axis_is_one_channel(self) -> None:
        assert samples_of(audio(np.zeros(16, np.int16), 8000))[1].shape == (1, 16)

    @pytest.mark.parametrize(
        "samples",
        [
            np.zeros((48_000, 2), np.float32),
            np.zeros(9, np.uint8),
            np.zeros(9, np.int32),
            np.zeros(0, np.int16),
            np.zeros((1, 1, 1), np.int16),
        ],
        ids=["channels last", "bytes", "32 bits", "empty", "three axes"],
    )
    def test_other_arrays_are_refused_with_what_was_found(self, samples: np.ndarray[Any, Any]) -> None:
        with pytest.raises(ValueError, match="found") as caught:
            audio(samples, 16_000)
        assert str(list(samples.shape)) in str(caught.value)

    @pytest.mark.parametrize("rate", [0, -1])
    def test_a_rate_is_above_zero(self, rate: int) -> None:
        with pytest.raises(ValueError, match="rate in hertz"):
            audio(np.zeros(9, np.int16), rate)


class TestOthers:
    @pytest.mark.parametrize("content", [b"abc", bytearray(b"abc"), memoryview(b"abc")])
    def test_bytes_of_any_kind_are_the_file_itself(self, content: Any) -> None:
        assert as_item(content) == Item(b"abc", 3)

    @pytest.mark.parametrize("kind", [str, Path])
    def test_a_path_is_read_when_it_is_sent_and_names_the_item(self, kind: Any, tmp_path: Path) -> None:
        path = tmp_path / "a.png"
        path.write_bytes(b"abc")
        item = as_item(kind(path))
        assert item == Item(path, 3, name="a.png")
        assert list(item.pieces(2)) == [b"ab", b"c"]
        assert item.read() == b"abc"

    def test_a_label_is_added_to_any_item(self) -> None:
        assert media(b"abc", content_type="audio/*", name="n") == Item(b"abc", 3, "audio/*", "n")
        assert media(media(b"abc", name="n"), content_type="audio/*").name == "n"

    @pytest.mark.parametrize("wrong", [3, None, object()])
    def test_what_is_no_media_is_a_type_error_that_names_it(self, wrong: Any) -> None:
        with pytest.raises(TypeError, match=type(wrong).__name__):
            as_item(wrong)


def test_pillow_and_the_server_are_never_imported() -> None:
    """In an interpreter of its own, because this one has them."""
    program = (
        "import sys, inference_client as c, numpy as n; c.image(n.zeros((2, 2), n.uint8));"
        "print(sorted({'PIL', 'av', 'sidecar', 'scipy'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"
