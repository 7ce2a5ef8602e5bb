"""What a media file's first bytes say of it, for a sidecar that is asked before the file is sent.

Only what is read in full counts: a sidecar guesses what it is not told, carefully, and would refuse a file
on a guess that it lets in once it has seen it (of sound of unknown length it expects 2,000 bytes a second,
an eighth of what MP3 usually takes). So formats whose facts lie deep in the file have none here, nor have
files that are damaged or unusual. Nothing here decodes, raises, or reads further than the header.

Layouts are those of the formats' own specifications. The words are the contract's: formats by content, modes
in Pillow's words, codecs in FFmpeg's.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence

from multimodal.v1 import media_pb2, preprocessor_pb2

MOST_BYTES = 4096
"""A call's facts, at most, in bytes: gRPC's servers take 8 KiB of metadata in all unless told otherwise, and it
may travel as base64, a third longer. Enough for a hundred pictures."""

# Segments, chunks or blocks that are passed by on the way; cameras and editors write some twenty.
_STEPS = 64

# JPEG's frames that everybody writes, by marker, and whether they come in passes over the whole picture.
_FRAMES: Mapping[int, bool] = {0xC0: False, 0xC1: False, 0xC2: True}
# What may stand before them: tables of both kinds, restart intervals, applications' data, comments.
_BEFORE_FRAMES = frozenset((0xC4, 0xDB, 0xDD, *range(0xE0, 0xF0), 0xFE))
# Modes by components.
_JPEG_MODES: Mapping[int, str] = {1: "L", 3: "RGB", 4: "CMYK"}
# Samples of the light, then of either colour: across and down, four bits each.
_SUBSAMPLINGS: Mapping[tuple[int, int], str] = {
    (0x11, 0x11): "4:4:4",
    (0x21, 0x11): "4:2:2",
    (0x22, 0x11): "4:2:0",
    (0x12, 0x11): "4:4:0",
    (0x41, 0x11): "4:1:1",
    (0x22, 0x22): "4:4:4",
    (0x22, 0x12): "4:2:2",
    (0x22, 0x21): "4:4:0",
}
# By bits a sample and colour type.
_PNG_MODES: Mapping[tuple[int, int], str] = {
    (1, 0): "1",
    (2, 0): "L",
    (4, 0): "L",
    (8, 0): "L",
    (16, 0): "I;16",
    (8, 2): "RGB",
    (16, 2): "RGB",
    (1, 3): "P",
    (2, 3): "P",
    (4, 3): "P",
    (8, 3): "P",
    (8, 4): "LA",
    (16, 4): "LA",
    (8, 6): "RGBA",
    (16, 6): "RGBA",
}
_GIF_INTERLACED = 0x40  # a flag of a frame
# By bits a pixel; palettes of greys and masks of alpha, which have modes of their own, are not looked at.
_BMP_MODES: Mapping[int, str] = {1: "1", 4: "P", 8: "P", 16: "RGB", 24: "RGB", 32: "RGB"}
_BMP_HEADERS = frozenset((40, 52, 56, 64, 108, 124))
# WAV's codecs by format tag and bits a sample.
_WAV_CODECS: Mapping[tuple[int, int], str] = {
    (1, 8): "pcm_u8",
    (1, 16): "pcm_s16le",
    (1, 24): "pcm_s24le",
    (1, 32): "pcm_s32le",
    (3, 32): "pcm_f32le",
    (3, 64): "pcm_f64le",
    (6, 8): "pcm_alaw",
    (7, 8): "pcm_mulaw",
}
# The tag that says that the tag stands 24 bytes into the chunk.
_WAV_EXTENSIBLE = 0xFFFE


def read(data: bytes) -> media_pb2.MediaInfo | None:
    """What the encoded file `data` says of itself; None unless that is all that its cost depends on.

    EXIF's orientation and the number of frames are left out: one frame is prepared, and turned sides cost the
    same, or nearly.
    """
    reader = _READERS.get(data[:2])
    try:
        return None if reader is None else reader(data)
    except (IndexError, struct.error):  # it ends in its header
        return None


def told(
    request: preprocessor_pb2.PreprocessRequest | preprocessor_pb2.InferRequest,
    infos: Sequence[media_pb2.MediaInfo | None],
) -> preprocessor_pb2.EstimateRequest | None:
    """What is told of `request` before it is sent; None where something is missing, or it is too long."""
    known = [info for info in infos if info is not None]
    if not known or len(known) < len(infos):
        return None
    facts = preprocessor_pb2.EstimateRequest(model=request.model, infos=known, priority=request.priority)
    if isinstance(request, preprocessor_pb2.PreprocessRequest):
        facts.data_type = request.data_type
    return facts if facts.ByteSize() <= MOST_BYTES else None


def _picture(
    data: bytes,
    name: str,
    size: tuple[int, int],
    mode: str | None,
    *,
    progressive: bool = False,
    subsampling: str = "",
) -> media_pb2.MediaInfo | None:
    width, height = size
    if not (width and height and mode):
        return None
    image = media_pb2.ImageInfo(
        width=width, height=height, mode=mode, progressive=progressive, subsampling=subsampling
    )
    return media_pb2.MediaInfo(
        modality=media_pb2.MODALITY_IMAGE, format=name, encoded_bytes=len(data), image=image
    )


def _sound(
    data: bytes, name: str, codec: str | None, *, rate: int, channels: int, samples: int
) -> media_pb2.MediaInfo | None:
    if not (codec and rate and channels and samples):
        return None
    audio = media_pb2.AudioInfo(codec=codec, sample_rate=rate, channels=channels, duration_s=samples / rate)
    return media_pb2.MediaInfo(
        modality=media_pb2.MODALITY_AUDIO, format=name, encoded_bytes=len(data), audio=audio
    )


def _jpeg(data: bytes) -> media_pb2.MediaInfo | None:
    at = 2
    for _ in range(_STEPS):
        start, marker = data[at], data[at + 1]
        if start != 0xFF:  # noqa: PLR2004 - what begins a marker
            return None
        if marker in _FRAMES:
            return _jpeg_frame(data, at)
        if marker == 0xFF:  # noqa: PLR2004 - fill
            at += 1
        elif marker in _BEFORE_FRAMES:
            at += 2 + (data[at + 2] << 8 | data[at + 3])
        else:
            return None
    return None


def _jpeg_frame(data: bytes, at: int) -> media_pb2.MediaInfo | None:
    precision, height, width, components = struct.unpack_from(">BHHB", data, at + 4)
    if precision != 8:  # noqa: PLR2004 - bits; nobody decodes the others
        return None
    subsampling = ""
    if components == 3:  # noqa: PLR2004 - light and two colours, three bytes each
        light, blue, red = data[at + 11], data[at + 14], data[at + 17]
        subsampling = _SUBSAMPLINGS.get((light, blue), "") if blue == red else ""
    return _picture(
        data,
        "jpeg",
        (width, height),
        _JPEG_MODES.get(components),
        progressive=_FRAMES[data[at + 1]],
        subsampling=subsampling,
    )


def _png(data: bytes) -> media_pb2.MediaInfo | None:
    if data[:8] != b"\x89PNG\r\n\x1a\n" or data[12:16] != b"IHDR":
        return None
    width, height, depth, colour, _, _, interlace = struct.unpack_from(">IIBBBBB", data, 16)
    return _picture(data, "png", (width, height), _PNG_MODES.get((depth, colour)), progressive=interlace == 1)


def _gif(data: bytes) -> media_pb2.MediaInfo | None:
    """The screen's size, and the first frame's order of lines."""
    if data[:6] not in {b"GIF87a", b"GIF89a"}:
        return None
    at = 13 + _palette(data[10])
    for _ in range(_STEPS):
        kind = data[at : at + 1]
        if kind == b",":
            left, top, width, height, flags = struct.unpack_from("<HHHHB", data, at + 1)
            # Decoders make room for a first frame that is larger than the screen.
            size = tuple(map(max, struct.unpack_from("<HH", data, 6), (left + width, top + height)))
            return _picture(data, "gif", size, "P", progressive=bool(flags & _GIF_INTERLACED))
        if kind != b"!":
            return None
        at = _past_blocks(data, at + 2)
    return None


def _past_blocks(data: bytes, at: int) -> int:
    """Where a chain of GIF's blocks of data ends; the file's end for a long one."""
    for _ in range(_STEPS):
        length = data[at]
        at += 1 + length
        if not length:
            return at
    return len(data)


def _palette(flags: int) -> int:
    """Bytes of the GIF palette that these flags announce."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _bmp(data: bytes) -> media_pb2.MediaInfo | None:
    (header,) = struct.unpack_from("<I", data, 14)
    if header == 12:  # noqa: PLR2004 - bytes of OS/2's first, with sizes of 16 bits
        width, height, _, depth = struct.unpack_from("<HHHH", data, 18)
    elif header in _BMP_HEADERS:
        width, height, _, depth = struct.unpack_from("<iiHH", data, 18)
    else:
        return None
    # A height below 0 says that the lines begin at the top.
    return _picture(data, "bmp", (max(width, 0), abs(height)), _BMP_MODES.get(depth))


def _riff(data: bytes) -> media_pb2.MediaInfo | None:
    kind = data[8:12]
    if data[:4] != b"RIFF" or kind not in {b"WEBP", b"WAVE"}:
        return None
    return _webp(data) if kind == b"WEBP" else _wav(data)


def _webp(data: bytes) -> media_pb2.MediaInfo | None:
    match data[12:16]:
        case b"VP8 " if data[23:26] == b"\x9d\x01\x2a":
            width, height = struct.unpack_from("<HH", data, 26)
            size, alpha = (width & 0x3FFF, height & 0x3FFF), False
        case b"VP8L" if data[20] == 0x2F:  # noqa: PLR2004 - its signature
            (bits,) = struct.unpack_from("<I", data, 21)
            size, alpha = ((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1), bool(bits >> 28 & 1)
        case b"VP8X" if len(data) >= 30:  # noqa: PLR2004 - the chunk's end
            size = (int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1)
            alpha = bool(data[20] & 0x10)
        case _:
            return None
    return _picture(data, "webp", size, "RGBA" if alpha else "RGB")


def _wav(data: bytes) -> media_pb2.MediaInfo | None:
    at, layout = 12, None
    for _ in range(_STEPS):
        kind, length = struct.unpack_from("<4sI", data, at)
        at += 8
        if kind == b"fmt ":
            layout = struct.unpack_from("<HHIIHH", data, at)
            if layout[0] == _WAV_EXTENSIBLE:
                layout = (*struct.unpack_from("<H", data, at + 24), *layout[1:])
        elif kind == b"data":
            if layout is None:
                return None
            tag, channels, rate, _, frame, bits = layout
            # What was written as it came has no length, or one that is too long.
            length = min(length, len(data) - at) or len(data) - at
            codec = _WAV_CODECS.get((tag, bits))
            return _sound(data, "wav", codec, rate=rate, channels=channels, samples=length // max(1, frame))
        at += length + (length & 1)
    return None


def _flac(data: bytes) -> media_pb2.MediaInfo | None:
    if data[:4] != b"fLaC" or data[4] & 0x7F:  # the first block tells of the stream
        return None
    (packed,) = struct.unpack_from(">Q", data, 18)
    rate, channels, samples = packed >> 44, (packed >> 41 & 7) + 1, packed & (1 << 36) - 1
    return _sound(data, "flac", "flac", rate=rate, channels=channels, samples=samples)


_READERS: Mapping[bytes, Callable[[bytes], media_pb2.MediaInfo | None]] = {
    b"\xff\xd8": _jpeg,
    b"\x89P": _png,
    b"GI": _gif,
    b"BM": _bmp,
    b"RI": _riff,
    b"fL": _flac,
}
