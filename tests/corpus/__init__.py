"""Small real media files, good and broken, with what is true of each.

`make.py` beside this file makes all of them; run it after a change there and commit what it writes.
Every file is the project's own work: synthetic pictures and tones, nothing taken from anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sidecar.media import Source

_ROOT = Path(__file__).parent
_FOLDERS = ("image", "audio", "broken")


@dataclass(frozen=True, slots=True)
class Picture:
    """What is true of a picture: as ImageInfo has it."""

    format: str
    mode: str
    width: int = 96
    height: int = 64
    orientation: int = 1
    frames: int = 1
    progressive: bool = False
    subsampling: str = ""


@dataclass(frozen=True, slots=True)
class Sound:
    """What is true of a sound. `samples` is the exact count that decoding gives at the stored rate.

    Channel n holds a tone of 440 * (n + 1) Hz.
    """

    format: str
    codec: str
    rate: int
    channels: int
    samples: int


PICTURES = {
    "jpeg_420.jpg": Picture("jpeg", "RGB", 320, 200, subsampling="4:2:0"),
    "jpeg_444.jpg": Picture("jpeg", "RGB", subsampling="4:4:4"),
    "jpeg_progressive.jpg": Picture("jpeg", "RGB", progressive=True, subsampling="4:2:0"),
    "jpeg_gray.jpg": Picture("jpeg", "L"),
    "jpeg_cmyk.jpg": Picture("jpeg", "CMYK"),
    "jpeg_ycck.jpg": Picture("jpeg", "CMYK"),
    "jpeg_1x1.jpg": Picture("jpeg", "RGB", 1, 1, subsampling="4:2:0"),
    "jpeg_3x1000.jpg": Picture("jpeg", "RGB", 3, 1000, subsampling="4:2:0"),
    **{
        f"jpeg_exif_{n}.jpg": Picture("jpeg", "RGB", 48, 32, orientation=n, subsampling="4:2:0")
        for n in range(1, 9)
    },
    "jpeg_exif_damaged.jpg": Picture("jpeg", "RGB", 48, 32, subsampling="4:2:0"),
    "png_rgb.png": Picture("png", "RGB"),
    "png_rgba.png": Picture("png", "RGBA"),
    "png_palette.png": Picture("png", "P"),
    "png_palette_alpha.png": Picture("png", "P"),
    "png_palette_key.png": Picture("png", "P"),
    "png_rgb_key.png": Picture("png", "RGB"),
    "png_la.png": Picture("png", "LA"),
    "png_gray.png": Picture("png", "L"),
    "png_1bit.png": Picture("png", "1"),
    "png_gray16.png": Picture("png", "I;16"),
    "png_rgb16.png": Picture("png", "RGB"),
    "png_interlaced.png": Picture("png", "RGB", progressive=True),
    "png_animated.png": Picture("png", "RGB", frames=3),
    "png_exif_6.png": Picture("png", "RGB", orientation=6),
    "png_exif_6_late.png": Picture("png", "RGB", orientation=6),
    "webp_lossy.webp": Picture("webp", "RGB"),
    "webp_lossless.webp": Picture("webp", "RGB"),
    "webp_alpha.webp": Picture("webp", "RGBA"),
    "webp_animated.webp": Picture("webp", "RGB", frames=3),
    "webp_exif_8.webp": Picture("webp", "RGB", orientation=8),
    "gif_static.gif": Picture("gif", "P", progressive=True),
    "gif_animated.gif": Picture("gif", "P", frames=3),
    "gif_key.gif": Picture("gif", "P", progressive=True),
    "bmp_rgb.bmp": Picture("bmp", "RGB"),
    "bmp_palette.bmp": Picture("bmp", "P"),
    "tiff_raw.tif": Picture("tiff", "RGB"),
    "tiff_lzw.tif": Picture("tiff", "RGB"),
    "tiff_jpeg.tif": Picture("tiff", "RGB"),
    "tiff_pages.tif": Picture("tiff", "RGB", frames=3),
    "tiff_gray16.tif": Picture("tiff", "I;16"),
    "tiff_exif_6.tif": Picture("tiff", "RGB", orientation=6),
    "tiff_big.tif": Picture("tiff", "RGB"),
    "avif.avif": Picture("avif", "RGB"),
    "avif_exif_6.avif": Picture("avif", "RGB", orientation=6),
}

SOUNDS = {
    "wav_pcm16_mono_16k.wav": Sound("wav", "pcm_s16le", 16000, 1, 8000),
    "wav_pcm16_stereo_44k.wav": Sound("wav", "pcm_s16le", 44100, 2, 22050),
    "wav_pcm8_mono_8k.wav": Sound("wav", "pcm_u8", 8000, 1, 4000),
    "wav_pcm24_stereo_48k.wav": Sound("wav", "pcm_s24le", 48000, 2, 12000),
    "wav_float_mono_48k.wav": Sound("wav", "pcm_f32le", 48000, 1, 12000),
    "wav_pcm16_51_48k.wav": Sound("wav", "pcm_s16le", 48000, 6, 9600),
    "wav_mulaw_mono_8k.wav": Sound("wav", "pcm_mulaw", 8000, 1, 4000),
    "wav_streamed.wav": Sound("wav", "pcm_s16le", 16000, 1, 8000),
    "flac_stereo_44k.flac": Sound("flac", "flac", 44100, 2, 22050),
    "flac_24bit_mono_48k.flac": Sound("flac", "flac", 48000, 1, 12000),
    "mp3_mono_16k.mp3": Sound("mp3", "mp3", 16000, 1, 8000),
    "mp3_stereo_44k.mp3": Sound("mp3", "mp3", 44100, 2, 22050),
    "mp3_vbr_stereo_44k.mp3": Sound("mp3", "mp3", 44100, 2, 22050),
    "mp3_id3_picture.mp3": Sound("mp3", "mp3", 44100, 2, 22050),
    "mp3_bare_stereo_44k.mp3": Sound("mp3", "mp3", 44100, 2, 24192),
    "aac_adts_stereo_44k.aac": Sound("aac", "aac", 44100, 2, 23552),
    "aac_mono_44k.m4a": Sound("mp4", "aac", 44100, 1, 22528),
    "alac_stereo_44k.m4a": Sound("mp4", "alac", 44100, 2, 22050),
    "vorbis_stereo_44k.ogg": Sound("ogg", "vorbis", 44100, 2, 21922),
    "opus_mono_48k.opus": Sound("ogg", "opus", 48000, 1, 24000),
    "opus_stereo_48k.webm": Sound("webm", "opus", 48000, 2, 24000),
    "opus_with_video.webm": Sound("webm", "opus", 48000, 1, 24000),
    "aac_with_video.mp4": Sound("mp4", "aac", 44100, 1, 22528),
}

UNSUPPORTED = (
    "garbage.bin",
    "header_only.png",
    "playlist.m3u8",
    "playlist.ffconcat",
    "drawing.svg",
    "page.html",
    "archive.zip",
    "video_only.mp4",
    "video_only.webm",
    "picture.heic",
)
CORRUPT = (
    "empty.bin",
    *(f"cut.{name}" for name in ("jpg", "png", "webp", "gif", "bmp", "tif", "avif")),
    *(f"cut.{name}" for name in ("wav", "flac", "mp3", "m4a", "ogg", "webm")),
    *(f"start.{name}" for name in ("jpg", "png", "webp", "gif", "bmp", "tif", "avif")),
    *(f"start.{name}" for name in ("wav", "flac", "mp3", "aac", "m4a", "ogg", "webm")),
    "huge.png",
    "gif_endless_comment.gif",
    "wav_nan.wav",
    "noise_as.mp3",
    "noise_as.jpg",
)
"""Cut files end in the middle, `start` ones within the header."""

SHORT = ("cut.aac",)
"""Cut, but of a format that states no length: what is there decodes."""

MISLABELLED = {"png_named.jpg": "png", "wav_named.mp3": "wav"}
"""Good files with the wrong extension, and what they are."""


def path(name: str) -> Path:
    """Where the file of that name lies."""
    return next(found for folder in _FOLDERS if (found := _ROOT / folder / name).exists())


def data(name: str) -> bytes:
    """The file's bytes."""
    return path(name).read_bytes()


def source(name: str) -> Source:
    """The file as an item, labelled with its name."""
    return Source(data(name), label=name)


def image(name: str) -> bytes:
    """The bytes of one of PICTURES."""
    return (_ROOT / "image" / name).read_bytes()


def audio(name: str) -> bytes:
    """The bytes of one of SOUNDS."""
    return (_ROOT / "audio" / name).read_bytes()
