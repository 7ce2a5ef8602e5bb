"""What an item will cost, foretold from its header alone.

Pure arithmetic on probe's facts. The rates are CPU time measured on one core of a cloud Xeon with
AVX-512 and Pillow 13 (docs/design), so they rank items well everywhere and are right to a factor of
two on other machines; nothing here learns.
"""

from __future__ import annotations

from sidecar.media import AudioInfo, Cost, DecodeTarget, ImageInfo, MediaInfo

# Milliseconds of one core per megapixel: entropy decoding, colour conversion and resize together.
_MS_PER_MEGAPIXEL = {
    "jpeg": 10.0,
    "png": 25.0,
    "webp": 20.0,
    "gif": 12.0,
    "bmp": 6.0,
    "tiff": 10.0,
    "avif": 25.0,
}
# Of that, what a JPEG takes that is decoded smaller: 36 of 54 ms at 12 MP, 6.6 of 9.0 at 2 MP. Entropy decoding
# stays, so the factor hardly matters.
_SMALLER = 0.7
# Milliseconds of one core per second of sound: decoding, resampling to 16 kHz and a log-mel share.
_MS_PER_SECOND = {"wav": 0.4, "flac": 0.6, "mp3": 1.0, "aac": 1.2, "mp4": 1.2, "ogg": 1.2, "webm": 1.2}
_DEAREST_MS_PER_SECOND = max(_MS_PER_SECOND.values())
# Taking up an item at all: thread wake-up, opening the codec.
_FLOOR_MS = 0.3
_WHOLE = DecodeTarget()


def predict(info: MediaInfo, target: DecodeTarget = _WHOLE) -> Cost:
    """Foretells an item's cost: milliseconds of one core, and bytes of what decode leaves.

    A JPEG that may come smaller, by `least_size`, costs less time; its memory is taken whole all the same.
    Of sound only what `target` asks for counts: its `max_seconds`, at its `rate`. A sound whose length is
    unknown is taken for the longest that its bytes can hold.

    The decode of a picture peaks above what it leaves, 3 bytes a pixel: Pillow holds 4 beside them, and
    7 in all were measured for RGB of 16 megapixels, with white painted or not. Pillow's turning of it, or
    converting from another mode, holds one picture more.
    """
    match info:
        case ImageInfo():
            pixels = info.width * info.height
            rate = _MS_PER_MEGAPIXEL.get(info.format, max(_MS_PER_MEGAPIXEL.values()))
            rate *= _SMALLER if _comes_smaller(info, target) else 1
            return Cost(cpu_ms=_FLOOR_MS + rate * pixels / 1e6, decoded_bytes=3 * pixels)
        case AudioInfo():
            seconds = (
                info.longest_s if target.max_seconds is None else min(info.longest_s, target.max_seconds)
            )
            rate = _MS_PER_SECOND.get(info.format, _DEAREST_MS_PER_SECOND)
            return Cost(
                cpu_ms=_FLOOR_MS + rate * seconds,
                decoded_bytes=int(sound_bytes_per_second(info, target) * seconds),
            )


def _comes_smaller(info: ImageInfo, target: DecodeTarget) -> bool:
    """Whether half the picture is enough."""
    if info.format != "jpeg" or target.least_size is None:
        return False
    width, height = info.upright_size
    return -(-height // 2) >= target.least_size[0] and -(-width // 2) >= target.least_size[1]


def sound_bytes_per_second(info: AudioInfo, target: DecodeTarget) -> int:
    """What a second of decoded sound takes: 4 bytes a sample; one channel where decode resamples."""
    return 4 * info.channels * info.sample_rate if target.rate is None else 4 * target.rate
