"""FFmpeg, held so that hostile bytes reach its audio demuxers and decoders and nothing else.

The one place for what probe and decode must agree on: which demuxer a format is forced to, which
decoders may be opened, which protocols exist (none but the bytes at hand), and how its many
exceptions become UnsupportedMedia or CorruptMedia. It never lets FFmpeg guess a format, open a
second file, or open a video decoder: H.264 headers alone can claim hundreds of megabytes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Final

import av
import av.error

from sidecar.errors import CorruptMedia, MediaError, UnsupportedMedia
from sidecar.stages.reader import Encoded

DEMUXERS: Final = {
    "wav": "wav",
    "flac": "flac",
    "mp3": "mp3",
    "aac": "aac",
    "mp4": "mov",
    "ogg": "ogg",
    "webm": "matroska",
}
"""Our names of formats to FFmpeg's demuxers."""

CODECS: Final = (
    "mp3",
    "mp2",
    "aac",
    "alac",
    "flac",
    "opus",
    "vorbis",
    "pcm_u8",
    "pcm_s8",
    "pcm_s16le",
    "pcm_s16be",
    "pcm_s24le",
    "pcm_s24be",
    "pcm_s32le",
    "pcm_s32be",
    "pcm_f32le",
    "pcm_f32be",
    "pcm_f64le",
    "pcm_f64be",
    "pcm_alaw",
    "pcm_mulaw",
    "adpcm_ms",
    "adpcm_ima_wav",
)
"""The codecs that are decoded here, by FFmpeg's names of codecs."""

# FFmpeg's decoders of those codecs: the same names, and the variants that builds prefer.
_DECODERS = (*CODECS, "mp3float", "mp2float", "libopus", "libvorbis")

RATES: Final = range(1_000, 768_001)
"""Sample rates that are believed, hertz: from below telephony to the fastest converters. A resampler's
filter grows with the ratio of rates: from a claim of 2 GHz to 16 kHz it takes 1 GB and 5 seconds."""

MOST_STREAMS: Final = 64
"""More streams than this are refused by FFmpeg itself; its default is 1,000."""

OPEN_OPTIONS: Final = {
    "codec_whitelist": ",".join(_DECODERS),
    # FFmpeg looks through up to 2,500 packets of 16-bit WAV for hidden DTS: 18 ms for 5 MB. Not here.
    "max_probe_packets": "1",
    # Bytes that may be read in search of a stream's parameters; FFmpeg's default is 5 MB. Covers the
    # first packets of every codec above.
    "probesize": "65536",
    "max_streams": str(MOST_STREAMS),
}
"""What both stages open a container with; the protocols are each stage's own."""

_ID3_HEADER = 10  # bytes

_UNSUPPORTED = (
    av.error.DecoderNotFoundError,
    av.error.DemuxerNotFoundError,
    av.error.PatchWelcomeError,
    av.error.NotImplementedError,
)


@contextlib.contextmanager
def blaming(label: str, name: str) -> Iterator[None]:
    """Turns whatever FFmpeg or PyAV raises in the block into an error about `label`, of format `name`.

    What FFmpeg says it cannot do is UnsupportedMedia, anything else CorruptMedia, with the original
    as the cause. Errors of the tree and Python's own MemoryError pass; FFmpeg's does not, because it
    reports impossible sizes in headers with it.
    """
    try:
        yield
    except MediaError:
        raise
    except _UNSUPPORTED as error:
        raise UnsupportedMedia(
            f"{label} is {name} of a variant that is not decoded here ({_describe(error)}): "
            f"send its sound as one of {', '.join(DEMUXERS)}"
        ) from error
    except Exception as error:
        if isinstance(error, MemoryError) and not isinstance(error, av.error.FFmpegError):
            raise
        raise CorruptMedia(
            f"{label} is damaged {name} ({_describe(error)}): check that the whole file was sent"
        ) from error


def unsupported_codec(label: str, name: str, codec: str) -> UnsupportedMedia:
    """The error for a sound stream that no allowed decoder takes."""
    return UnsupportedMedia(
        f"{label} is {name} with {codec} sound, which is not decoded here: encode it as one of mp3, aac, "
        "alac, flac, opus, vorbis or PCM"
    )


def _describe(error: BaseException) -> str:
    said = error.strerror if isinstance(error, av.error.FFmpegError) else str(error)
    text = " ".join((said or "").split())
    return text[:120] or type(error).__name__


@contextlib.contextmanager
def memory_file(data: Encoded) -> Iterator[int]:
    """`data` as an open file that has no name anywhere; its descriptor, valid in the block."""
    descriptor = os.memfd_create("media", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", buffering=0, closefd=False) as file:
            view = memoryview(data)
            while view:
                view = view[file.write(view) :]
            file.seek(0)
        yield descriptor
    finally:
        os.close(descriptor)


def tag_bytes(data: Encoded) -> int:
    """Length of the ID3v2 tag that `data` begins with, 0 for none; its size is 4 × 7 bits."""
    if data[:3] != b"ID3" or len(data) < _ID3_HEADER:
        return 0
    size = data[6:10]
    return _ID3_HEADER + (size[0] << 21 | size[1] << 14 | size[2] << 7 | size[3])
