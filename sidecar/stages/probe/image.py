"""The facts of a picture, by Pillow, from its header: no pixel is decoded.

Each format's skeleton is walked first, in bounds (skeleton.py), then one Pillow plugin alone reads
the header. Nothing here allocates by what the header claims.

Frames are counted, not read: GIF and TIFF by their skeleton and up to its bound (a longer animation
is reported as what was seen of it, an endless one costs no more); the others as their header says.
"""

from __future__ import annotations

from collections.abc import Callable

from sidecar.media import SIDEWAYS, ImageInfo, Source
from sidecar.stages import pillow
from sidecar.stages.probe import skeleton
from sidecar.stages.reader import Encoded

_WALKS: dict[str, Callable[[Encoded, str], skeleton.Skeleton]] = {
    "jpeg": skeleton.walk_jpeg,
    "png": skeleton.walk_png,
    "gif": skeleton.walk_gif,
    "bmp": skeleton.walk_bare,
    "tiff": skeleton.walk_tiff,
    "avif": skeleton.walk_bare,
}


def probe_image(source: Source, name: str) -> ImageInfo:
    """Reads a picture of format `name` (sniff's answer) as far as its pixels begin."""
    return _probe_webp(source) if name == "webp" else _probe_by_pillow(source, name)


def _probe_by_pillow(source: Source, name: str) -> ImageInfo:
    found = _WALKS[name](source.data, source.label)
    if found.plain is not None:
        # Opening by Pillow would say the same, for three times the time of the walk.
        width, height, mode = found.plain
        return ImageInfo(
            name,
            len(source.data),
            width,
            height,
            mode,
            progressive=found.progressive,
            subsampling=found.subsampling,
            metadata_bytes=found.metadata,
        )
    with pillow.opened(found.head or source.data, name, source.label) as image:
        orientation = pillow.orientation(image)
        width, height = image.size
        if name == "tiff" and orientation in SIDEWAYS:
            # Pillow alone of all formats states the size of a TIFF as it will be once upright.
            width, height = height, width
        return ImageInfo(
            format=name,
            encoded_bytes=len(source.data),
            width=width,
            height=height,
            mode=image.mode,
            orientation=orientation,
            frames=found.frames or int(getattr(image, "n_frames", 1)),
            progressive=found.progressive,
            subsampling=found.subsampling,
            metadata_bytes=found.metadata or pillow.metadata_bytes(image),
        )


def _probe_webp(source: Source) -> ImageInfo:
    found = skeleton.read_webp(source.data, source.label)
    return ImageInfo(
        format="webp",
        encoded_bytes=len(source.data),
        width=found.width,
        height=found.height,
        mode=found.mode,
        orientation=pillow.orientation_of(found.exif, found.xmp) if found.exif or found.xmp else 1,
        frames=found.frames,
        metadata_bytes=found.metadata,
    )
