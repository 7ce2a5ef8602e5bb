"""Decode: encoded bytes to upright RGB pixels, or to float32 samples.

Runs only on media that probe has measured and admission has let in. Whatever the bytes are, it raises
only UnsupportedMedia or CorruptMedia; it keeps to the memory that its target allows, uses one thread,
and leaves no process-wide state changed.
"""

from __future__ import annotations

from sidecar.media import DecodeTarget, Frames, ImageInfo, MediaInfo, Source
from sidecar.stages.decode.audio import decode_audio
from sidecar.stages.decode.image import decode_image
from sidecar.stages.decode.room import ROOM

__all__ = ["decode", "give_back"]


def decode(source: Source, info: MediaInfo, target: DecodeTarget) -> Frames:
    """Decodes `source`, whose facts probe found to be `info`, to what `target` asks for.

    Pixels are uint8 [height, width, 3], upright RGB; Samples are float32 [channels, samples], at most
    `target.max_seconds` of them. Both are C-contiguous. CorruptMedia where the content is damaged, cut
    short, larger than the target allows, or not what `info` says.
    """
    if isinstance(info, ImageInfo):
        return decode_image(source, info, target)
    return decode_audio(source, info, target)


def give_back(size: int) -> None:
    """Returns `size` bytes of the memory of this thread's last picture to the kernel, unless somebody looks at it.

    Memory that is not given back is kept for the next picture, which then comes faster.
    """
    ROOM.give_back(size)
