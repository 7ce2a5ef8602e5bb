"""Makes the corpus: `python tests/corpus/make.py`. Every source is synthetic, with fixed seeds.

Pillow and PyAV write what they can. By hand: 16-bit RGB and interlaced PNG (zlib and the chunks of the
specification), YCCK (a CMYK JPEG whose Adobe marker says 2 instead of 0, so the same numbers mean
YCCK), ID3 tags, EXIF after the pixels, streamed WAV sizes, and everything broken.
"""

from __future__ import annotations

import io
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from PIL import Image

ROOT = Path(__file__).parent
# Not made here: FFmpeg's own Vorbis encoder is experimental and its files end in the wrong place.
# Written with soundfile 0.13 (libsndfile 1.2.2, libvorbis) from `tones(0.5, 44100, 2)`.
KEPT = ("vorbis_stereo_44k.ogg",)
Bytes = npt.NDArray[np.uint8]


def photo(width: int = 96, height: int = 64, seed: int = 0) -> Bytes:
    """Photo-like: light gradients, soft waves, hard shapes and sensor noise. uint8 [height, width, 3]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    light = np.stack([120 + 90 * x, 90 + 80 * y, 160 - 70 * x * y], axis=-1)
    light += 25 * np.sin(12 * x + 7 * y + seed)[..., None] * [1.0, 0.6, -0.8]
    light[(x - 0.35) ** 2 + (y - 0.3) ** 2 < 0.02] = [230, 200, 40]
    light[(abs(x - 0.75) < 0.1) & (abs(y - 0.4) < 0.15)] = [30, 60, 190]
    light += rng.normal(0, 5, (height, width, 1))
    pixels: Bytes = np.clip(light, 0, 255).astype(np.uint8)
    return pixels


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def png(width: int, height: int, depth: int, color: int, rows: bytes, *, interlace: int = 0) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlace)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, body) for kind, body in chunks)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def adam7(pixels: Bytes) -> bytes:
    steps = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    passes = (pixels[y::dy, x::dx] for y, x, dy, dx in steps)
    return b"".join(b"\0" + row.tobytes() for part in passes for row in part)


def pictures() -> dict[str, bytes]:
    rgb = Image.fromarray(photo())
    small = Image.fromarray(photo(48, 32, seed=1))
    others = [Image.fromarray(photo(seed=n)) for n in (2, 3)]
    alpha = Image.fromarray(np.tile(np.linspace(0, 255, 96).astype(np.uint8), (64, 1)))
    rgba = rgb.copy()
    rgba.putalpha(alpha)
    gray = rgb.convert("L")
    gray_alpha = gray.copy()
    gray_alpha.putalpha(alpha)
    palette = rgb.quantize(64)
    key = int(np.bincount(np.asarray(palette).ravel()).argmax())
    gray16 = Image.fromarray((np.asarray(gray).astype(np.uint16) * 257 // 40).astype(np.uint16))
    rgb16 = np.asarray(rgb).astype(">u2") * 257 + 3
    cmyk = saved(rgb.convert("CMYK"), "JPEG", quality=90)
    adobe = cmyk.index(b"Adobe")
    exif_png = saved(rgb, "PNG", exif=exif(6))
    tag = exif_png.index(b"eXIf") - 4
    tag_end = tag + 12 + int.from_bytes(exif_png[tag : tag + 4], "big")
    pixels_end = exif_png.index(b"IEND") - 4
    late = exif_png[:tag] + exif_png[tag_end:pixels_end] + exif_png[tag:tag_end] + exif_png[pixels_end:]
    damaged = saved(small, "JPEG", quality=90, exif=exif(6).tobytes().replace(b"MM\0*", b"XX\0*"))
    return {
        "jpeg_420.jpg": saved(Image.fromarray(photo(320, 200)), "JPEG", quality=85, subsampling="4:2:0"),
        "jpeg_444.jpg": saved(rgb, "JPEG", quality=90, subsampling="4:4:4"),
        "jpeg_progressive.jpg": saved(rgb, "JPEG", quality=90, progressive=True),
        "jpeg_gray.jpg": saved(gray, "JPEG", quality=90),
        "jpeg_cmyk.jpg": cmyk,
        "jpeg_ycck.jpg": cmyk[: adobe + 11] + b"\2" + cmyk[adobe + 12 :],
        "jpeg_1x1.jpg": saved(Image.fromarray(photo(1, 1)), "JPEG"),
        "jpeg_3x1000.jpg": saved(Image.fromarray(photo(3, 1000)), "JPEG"),
        **{f"jpeg_exif_{n}.jpg": saved(small, "JPEG", quality=90, exif=exif(n)) for n in range(1, 9)},
        "jpeg_exif_damaged.jpg": damaged,
        "png_rgb.png": saved(rgb, "PNG"),
        "png_rgba.png": saved(rgba, "PNG"),
        "png_palette.png": saved(palette, "PNG"),
        "png_palette_alpha.png": saved(palette, "PNG", transparency=bytes(range(0, 256, 4))),
        "png_palette_key.png": saved(palette, "PNG", transparency=key),
        "png_rgb_key.png": saved(rgb, "PNG", transparency=tuple(int(v) for v in np.asarray(rgb)[20, 20])),
        "png_la.png": saved(gray_alpha, "PNG"),
        "png_gray.png": saved(gray, "PNG"),
        "png_1bit.png": saved(gray.convert("1"), "PNG"),
        "png_gray16.png": saved(gray16, "PNG"),
        "png_rgb16.png": png(96, 64, 16, 2, b"".join(b"\0" + row.tobytes() for row in rgb16)),
        "png_interlaced.png": png(96, 64, 8, 2, adam7(np.asarray(rgb)), interlace=1),
        "png_animated.png": saved(rgb, "PNG", save_all=True, append_images=others, duration=40),
        "png_exif_6.png": exif_png,
        "png_exif_6_late.png": late,
        "webp_lossy.webp": saved(rgb, "WEBP", quality=80),
        "webp_lossless.webp": saved(rgb, "WEBP", lossless=True),
        "webp_alpha.webp": saved(rgba, "WEBP", quality=80),
        "webp_animated.webp": saved(rgb, "WEBP", save_all=True, append_images=others, duration=40),
        "webp_exif_8.webp": saved(rgb, "WEBP", quality=80, exif=exif(8)),
        "gif_static.gif": saved(palette, "GIF"),
        "gif_animated.gif": saved(rgb, "GIF", save_all=True, append_images=others, duration=40),
        "gif_key.gif": saved(palette, "GIF", transparency=key),
        "bmp_rgb.bmp": saved(rgb, "BMP"),
        "bmp_palette.bmp": saved(palette, "BMP"),
        "tiff_raw.tif": saved(rgb, "TIFF"),
        "tiff_lzw.tif": saved(rgb, "TIFF", compression="tiff_lzw"),
        "tiff_jpeg.tif": saved(rgb, "TIFF", compression="jpeg", quality=90),
        "tiff_pages.tif": saved(rgb, "TIFF", save_all=True, append_images=others, compression="tiff_lzw"),
        "tiff_gray16.tif": saved(gray16, "TIFF"),
        "tiff_exif_6.tif": saved(rgb, "TIFF", exif=exif(6)),
        "tiff_big.tif": saved(rgb, "TIFF", big_tiff=True),
        "avif.avif": saved(rgb, "AVIF", quality=80),
        "avif_exif_6.avif": saved(rgb, "AVIF", quality=80, exif=exif(6)),
    }


def tones(seconds: float, rate: int, channels: int) -> npt.NDArray[np.float32]:
    """Channel n is a tone of 440 * (n + 1) Hz at half scale. float32 [channels, samples]."""
    time = np.arange(round(seconds * rate)) / rate
    return np.stack([0.5 * np.sin(2 * np.pi * 440 * (n + 1) * time) for n in range(channels)]).astype(
        np.float32
    )


def encoded(
    sound: npt.NDArray[np.float32],
    rate: int,
    codec: str,
    kind: str,
    sample_format: str,
    *,
    layout: str | None = None,
    video: str | None = None,
    muxer: dict[str, str] | None = None,
    **codec_options: str,
) -> bytes:
    out = io.BytesIO()
    layout = layout or {1: "mono", 2: "stereo"}[len(sound)]
    with av.open(out, "w", format=kind, container_options=muxer or {}) as container:
        container.flags |= av.container.Flags.bitexact.value  # type: ignore[operator]  # the stub types the value as its class
        pixels = _video(container, video) if video else []
        stream: Any = container.add_stream(codec, rate=rate, options=codec_options)
        stream.layout, stream.format = layout, sample_format
        stream.codec_context.open()
        frame = av.AudioFrame.from_ndarray(sound, "fltp", layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        blocks = av.AudioResampler(sample_format, layout, rate, stream.codec_context.frame_size or 1024)
        frames = [*blocks.resample(frame), *blocks.resample(None)]
        for packet in [*pixels, *(packet for each in [*frames, None] for packet in stream.encode(each))]:
            container.mux(packet)
    return out.getvalue()


def _video(container: Any, codec: str) -> list[Any]:
    stream = container.add_stream(codec, rate=10)
    stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
    frames = [av.VideoFrame.from_ndarray(photo(seed=n), "rgb24") for n in range(7)]
    return [packet for each in [*frames, None] for packet in stream.encode(each)]


def video_only(kind: str, codec: str) -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format=kind) as container:
        container.flags |= av.container.Flags.bitexact.value  # type: ignore[operator]  # the stub types the value as its class
        for packet in _video(container, codec):
            container.mux(packet)
    return out.getvalue()


def id3(picture: bytes) -> bytes:
    """An ID3v2.3 tag with a cover: the body's length in 4 × 7 bits."""
    body = b"\0image/jpeg\0\x03\0" + picture
    frame = b"APIC" + struct.pack(">IH", len(body), 0) + body
    size = bytes(len(frame) >> shift & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\x03\0\0" + size + frame


def sounds() -> dict[str, bytes]:
    mono16, mono44, stereo44 = tones(0.5, 16000, 1), tones(0.5, 44100, 1), tones(0.5, 44100, 2)
    mono48, stereo48 = tones(0.5, 48000, 1), tones(0.5, 48000, 2)
    short48 = mono48[:, :12000]
    pcm16 = encoded(mono16, 16000, "pcm_s16le", "wav", "s16")
    at = pcm16.index(b"data") + 4
    mp3 = encoded(stereo44, 44100, "libmp3lame", "mp3", "fltp", b="96000")
    return {
        "wav_pcm16_mono_16k.wav": pcm16,
        "wav_pcm16_stereo_44k.wav": encoded(stereo44, 44100, "pcm_s16le", "wav", "s16"),
        "wav_pcm8_mono_8k.wav": encoded(tones(0.5, 8000, 1), 8000, "pcm_u8", "wav", "u8"),
        "wav_pcm24_stereo_48k.wav": encoded(stereo48[:, :12000], 48000, "pcm_s24le", "wav", "s32"),
        "wav_float_mono_48k.wav": encoded(short48, 48000, "pcm_f32le", "wav", "flt"),
        "wav_pcm16_51_48k.wav": encoded(tones(0.2, 48000, 6), 48000, "pcm_s16le", "wav", "s16", layout="5.1"),
        "wav_mulaw_mono_8k.wav": encoded(tones(0.5, 8000, 1), 8000, "pcm_mulaw", "wav", "s16"),
        "wav_streamed.wav": pcm16[:4] + b"\xff" * 4 + pcm16[8:at] + b"\xff" * 4 + pcm16[at + 4 :],
        "flac_stereo_44k.flac": encoded(stereo44, 44100, "flac", "flac", "s16"),
        "flac_24bit_mono_48k.flac": encoded(short48, 48000, "flac", "flac", "s32"),
        "mp3_mono_16k.mp3": encoded(mono16, 16000, "libmp3lame", "mp3", "fltp", b="32000"),
        "mp3_stereo_44k.mp3": mp3,
        "mp3_vbr_stereo_44k.mp3": encoded(
            stereo44, 44100, "libmp3lame", "mp3", "fltp", flags="+qscale", global_quality="472"
        ),
        "mp3_id3_picture.mp3": id3(saved(Image.fromarray(photo()), "JPEG")) + mp3[mp3.index(b"\xff\xfb") :],
        "mp3_bare_stereo_44k.mp3": encoded(
            stereo44, 44100, "libmp3lame", "mp3", "fltp", b="96000",
            muxer={"write_xing": "0", "id3v2_version": "0"},
        ),
        "aac_adts_stereo_44k.aac": encoded(stereo44, 44100, "aac", "adts", "fltp", b="96000"),
        "aac_mono_44k.m4a": encoded(mono44, 44100, "aac", "ipod", "fltp", b="64000"),
        "alac_stereo_44k.m4a": encoded(stereo44, 44100, "alac", "ipod", "s16p"),
        **{name: (ROOT / "audio" / name).read_bytes() for name in KEPT},
        "opus_mono_48k.opus": encoded(mono48, 48000, "libopus", "ogg", "flt", b="32000"),
        "opus_stereo_48k.webm": encoded(stereo48, 48000, "libopus", "webm", "flt", b="64000"),
        "opus_with_video.webm": encoded(mono48, 48000, "libopus", "webm", "flt", b="32000", video="libvpx"),
        "aac_with_video.mp4": encoded(mono44, 44100, "aac", "mp4", "fltp", b="64000", video="mpeg4"),
    }  # fmt: skip


_CUT_PICTURES = {
    "jpg": "jpeg_420.jpg",
    "png": "png_rgb.png",
    "webp": "webp_lossy.webp",
    "gif": "gif_static.gif",
    "bmp": "bmp_rgb.bmp",
    "tif": "tiff_raw.tif",
    "avif": "avif.avif",
}
_CUT_SOUNDS = {
    "wav": "wav_pcm16_mono_16k.wav",
    "flac": "flac_stereo_44k.flac",
    "mp3": "mp3_stereo_44k.mp3",
    "aac": "aac_adts_stereo_44k.aac",
    "m4a": "aac_mono_44k.m4a",
    "ogg": "opus_mono_48k.opus",
    "webm": "opus_stereo_48k.webm",
}


def broken(images: dict[str, bytes], audio: dict[str, bytes]) -> dict[str, bytes]:
    whole = {**{end: images[name] for end, name in _CUT_PICTURES.items()}}
    whole.update({end: audio[name] for end, name in _CUT_SOUNDS.items()})
    noise = np.random.default_rng(9).bytes(4096)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(zipfile.ZipInfo("a.txt"), "not a picture")
    palette = images["gif_static.gif"]
    at = 13 + (3 << (palette[10] & 7) + 1)
    not_numbers = audio["wav_float_mono_48k.wav"][:-400] + b"\xff\xff\xff\x7f" * 100
    return {
        "empty.bin": b"",
        "garbage.bin": b"\x17" + noise[:511],
        **{f"cut.{end}": data[: len(data) // 2] for end, data in whole.items()},
        **{f"start.{end}": data[: _STARTS.get(end, 24)] for end, data in whole.items()},
        "header_only.png": b"\x89PNG",
        "huge.png": png(2_000_000_000, 2_000_000_000, 8, 2, b"\0" * 64),
        "gif_endless_comment.gif": palette[:at] + b"!\xfe" + (b"\1x" * 5000) + b"\0" + palette[at:],
        "wav_nan.wav": not_numbers,
        "noise_as.mp3": b"\xff\xfb\x90\x64" + noise,
        "noise_as.jpg": b"\xff\xd8\xff\xe0" + noise,
        "playlist.m3u8": b"#EXTM3U\n#EXTINF:10,\nfile:///etc/hostname\n",
        "playlist.ffconcat": b"ffconcat version 1.0\nfile /etc/hostname\n",
        "drawing.svg": b'<svg xmlns="http://www.w3.org/2000/svg"><rect width="1" height="1"/></svg>',
        "page.html": b"\n<!DOCTYPE html><html><body>404</body></html>",
        "archive.zip": archive.getvalue(),
        "video_only.mp4": video_only("mp4", "mpeg4"),
        "video_only.webm": video_only("webm", "libvpx"),
        "picture.heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + noise[:100],
        "png_named.jpg": images["png_gray.png"],
        "wav_named.mp3": audio["wav_pcm8_mono_8k.wav"],
    }


# Bytes of a `start` file where 24 would hold no whole magic, or would be refused before its header.
_STARTS = {"mp3": 60, "aac": 8, "webm": 44, "ogg": 40}


def main() -> None:
    images, audio = pictures(), sounds()
    makers: tuple[tuple[str, Callable[[], dict[str, bytes]]], ...] = (
        ("image", lambda: images),
        ("audio", lambda: audio),
        ("broken", lambda: broken(images, audio)),
    )
    for folder, make in makers:
        shutil.rmtree(ROOT / folder, ignore_errors=True)
        (ROOT / folder).mkdir()
        for name, data in make().items():
            (ROOT / folder / name).write_bytes(data)


if __name__ == "__main__":
    main()
