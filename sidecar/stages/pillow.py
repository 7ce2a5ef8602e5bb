"""Pillow, held so that hostile bytes get nothing from it but a picture or one of two errors.

The one place where Pillow's process-wide switches are set (at import, never later) and where its
many exceptions become UnsupportedMedia or CorruptMedia. It never decides what is too large: limits
are admission's, on facts that probe found, so Pillow's own pixel limit is switched off. It never
touches Python's warning filters: they are process-wide, `catch_warnings` is not safe with threads,
and the filters' memory of what was shown grows with every new text that a hostile file provokes. So
Pillow's modules get a `warnings` of their own that says nothing, and libtiff is told to say nothing either.

Only functions that Pillow 13 and pillow-simd 12.1 share are used.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
    features,
)

from sidecar.errors import CorruptMedia, MediaError, UnsupportedMedia
from sidecar.stages import metadata
from sidecar.stages.reader import Encoded, reader

# Our names of formats to Pillow's.
PLUGINS: Final = {
    "jpeg": "JPEG",
    "png": "PNG",
    "webp": "WEBP",
    "gif": "GIF",
    "bmp": "BMP",
    "tiff": "TIFF",
    "avif": "AVIF",
}
# The library that a format needs Pillow to be built with; the others need none, or zlib.
_LIBRARIES = {"jpeg": "jpg", "png": "zlib", "webp": "webp", "avif": "avif"}

AVAILABLE: Final = tuple(
    name for name in PLUGINS if name not in _LIBRARIES or features.check(_LIBRARIES[name])
)
"""The image formats that the Pillow at hand can decode."""

Image.MAX_IMAGE_PIXELS = None
# AV1 would otherwise be decoded on every core, whatever the thread plan says.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1
# Compressed text of a PNG may unpack to this much in all, bytes; Pillow's own 64 MiB would let a
# small file cost half a second in probe. Adobe's XMP packets stay below 1 MiB.
PngImagePlugin.MAX_TEXT_MEMORY = 4 * 1024 * 1024

# What Pillow would load when it first meets a picture that needs it: a worker that is confined can load nothing.
for _name in ("ImageCms", "ImageColor", "ImageFile", "ImagePalette"):
    importlib.import_module(f"PIL.{_name}")
Image.preinit()

_SILENCE = types.SimpleNamespace(warn=lambda *_args, **_kwargs: None)
for _module in (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
):
    if "warnings" in vars(_module):
        vars(_module)["warnings"] = _SILENCE


def _silence_libtiff() -> None:
    """Has libtiff keep to itself what it thinks of a file: it writes that to stderr, past the log, as often as somebody
    sends a broken one. It is found among what this process has mapped; where it is part of Pillow it stays as it is.
    """
    with contextlib.suppress(OSError):
        mapped = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
        for path in (each for each in mapped if "/libtiff" in each):
            library = ctypes.CDLL(path)
            with contextlib.suppress(AttributeError):
                library.TIFFSetWarningHandler(None)
                library.TIFFSetErrorHandler(None)


_silence_libtiff()

# What EXIF's orientation asks for; 1 is upright already.
TRANSPOSITIONS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@contextlib.contextmanager
def opened(data: Encoded, name: str, label: str) -> Iterator[Image.Image]:
    """Opens the header of a picture of format `name`, and closes the picture at the end of the block.

    Whatever Pillow raises in the block becomes CorruptMedia about `label`, with the original as its
    cause; errors of the tree and MemoryError pass. UnsupportedMedia where this Pillow was built
    without the format. Keep the block to Pillow's own work, or faults of ours look like the caller's.
    """
    if name not in AVAILABLE:
        raise UnsupportedMedia(
            f"{label} is {name}, which the installed Pillow was built without: install a Pillow wheel "
            f"with {_LIBRARIES[name]} support, or send one of {', '.join(AVAILABLE)}"
        )
    try:
        # One plugin alone: no other parser meets the bytes.
        with reader(data) as file, Image.open(file, formats=(PLUGINS[name],)) as image:
            yield image
    except (MediaError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise CorruptMedia(
            f"{label} begins as {name} but its header is damaged or of a kind that cannot be read: "
            f"check the file, or save it again as plain {name}"
        ) from error
    except Exception as error:
        raise CorruptMedia(
            f"{label} is damaged {name} ({describe(error)}): check that the whole file was sent"
        ) from error


def orientation(image: Image.Image) -> int:
    """EXIF's orientation of an opened picture, 1 to 8, from EXIF or else XMP as Pillow reads them.

    1 where there is none, where the value means nothing, and where the metadata cannot be read: a
    damaged tag is no reason to refuse a picture.
    """
    if _claims_too_much(image.info.get("exif")):
        return 1
    try:
        # The base class's own: PNG's override decodes every pixel when the header holds no EXIF.
        value = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - any exception can come out of damaged metadata
        return 1
    return next((known for known in TRANSPOSITIONS if known == value), 1)


def metadata_bytes(image: Image.Image) -> int:
    """Bytes of the metadata that an opened picture has brought along."""
    return sum(len(block) for key in _BLOCKS if isinstance(block := image.info.get(key), bytes))


_BLOCKS: Final = ("exif", "xmp", "icc_profile")


def _claims_too_much(exif: object) -> bool:
    """Whether a block's directory asks for more than anybody looks at: values may lie one upon another, and Pillow
    before 13 copies each.
    """
    block = exif.removeprefix(_EXIF) if isinstance(exif, bytes) else b""
    return metadata.claimed_by_exif(block) > metadata.MOST


_EXIF: Final = b"Exif\0\0"


def orientation_of(exif: bytes | None, xmp: bytes | None) -> int:
    """The same for bare metadata blocks that were found without Pillow."""
    image = Image.Image()
    blocks = {"exif": exif, "xmp": xmp}
    image.info = {key: block for key, block in blocks.items() if block is not None}
    return orientation(image)


def describe(error: BaseException) -> str:
    """A library's exception in one short line that is safe to show: no addresses, nothing long."""
    text = " ".join(str(error).split())
    return text[:120] if text and "object at 0x" not in text else type(error).__name__
