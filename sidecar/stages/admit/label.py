"""Whether the content is what the caller says it is.

Pure. The content decides what an item is; the label can only contradict it, and then the item is
refused, because a mislabelled file is more often an attack or a bug than a slip.
"""

from __future__ import annotations

from sidecar.errors import MislabelledMedia
from sidecar.media import MediaInfo, Source

# What a media subtype allows the content to be. A subtype that is not listed, such as "*", allows all.
_FORMATS_BY_SUBTYPE = {
    "jpeg": {"jpeg"},
    "jpg": {"jpeg"},
    "png": {"png"},
    "webp": {"webp"},
    "gif": {"gif"},
    "bmp": {"bmp"},
    "x-ms-bmp": {"bmp"},
    "tiff": {"tiff"},
    "avif": {"avif"},
    "wav": {"wav"},
    "x-wav": {"wav"},
    "wave": {"wav"},
    "flac": {"flac"},
    "x-flac": {"flac"},
    "mpeg": {"mp3"},
    "mp3": {"mp3"},
    "aac": {"aac", "mp4"},
    "mp4": {"mp4"},
    "x-m4a": {"mp4"},
    "m4a": {"mp4"},
    "ogg": {"ogg"},
    "opus": {"ogg", "webm"},
    "vorbis": {"ogg"},
    "webm": {"webm"},
}
# Containers of sound that are often declared as the video, or the anything, that they could also hold.
_CONTAINERS = {
    "mp4": {"video/mp4"},
    "webm": {"video/webm", "video/x-matroska"},
    "ogg": {"video/ogg", "application/ogg"},
}


def check_label(source: Source, info: MediaInfo) -> None:
    """A declared type must agree with the content: its family, and its format where one is named."""
    if not source.content_type:
        return
    declared = source.content_type.split(";")[0].strip().lower()
    family, _, subtype = declared.partition("/")
    if family == info.modality.value and _FORMATS_BY_SUBTYPE.get(subtype, {info.format}) >= {info.format}:
        return
    if declared in {"application/octet-stream"} | _CONTAINERS.get(info.format, set()):
        return
    raise MislabelledMedia(
        f"{source.label} is declared {source.content_type!r} and its content is {info.modality.value}/{info.format}: "
        "declare what it is, or nothing",
        declared=source.content_type,
        found=f"{info.modality.value}/{info.format}",
    )
