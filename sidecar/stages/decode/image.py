"""Encoded pictures to upright RGB: the pixels that `transformers.image_utils.load_image` gives.

That reference is `exif_transpose(Image.open(bytes)).convert("RGB")`, and is followed mode by mode:

    stored                     becomes
    RGB, L, 1                  itself; grey is repeated; 1-bit is 0 and 255
    CMYK, YCCK                 Pillow's own conversion, Adobe's inverted inks turned back
    P, PA                      the palette's colours
    RGBA, LA, P with tRNS      the colours alone: alpha is dropped, not blended
    I;16 (PNG, TIFF grey)      what Pillow's convert gives: values over 255 are clipped to 255
    RGB of 16 bits (PNG)       the upper 8 bits, taken by Pillow on reading
    I, F                       clipped to 0..255

Where a file names one colour as transparent (GIF, PNG), `transformers`' own `convert_to_rgb`, which
processors with `do_convert_rgb` run after `load_image`, paints that colour white;
`DecodeTarget.white_transparency` asks for it.

Only the first frame or page is decoded. Most JPEGs and PNGs are decoded past Pillow, to the same bits (jpeg.py,
png.py). JPEGs alone may come smaller, where the target says so: that is not the reference any more.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
from PIL import Image, PngImagePlugin

from sidecar.errors import CorruptMedia
from sidecar.media import SIDEWAYS, DecodeTarget, ImageInfo, Pixels, Source
from sidecar.stages import pillow
from sidecar.stages.decode.jpeg import decode_jpeg
from sidecar.stages.decode.png import Header, decode_png, goes_on

# Pixels that are made white at once: a mask and its making take four bytes of each, a megabyte here.
_WHITENED_AT_ONCE = 1 << 18


def decode_image(source: Source, info: ImageInfo, target: DecodeTarget) -> Pixels:
    """Decodes the first frame of a picture. Errors as `sidecar.stages.decode.decode` says."""
    needed = 3 * info.width * info.height
    if target.max_decoded_bytes is not None and needed > target.max_decoded_bytes:
        raise CorruptMedia(
            f"{source.label} decodes to {needed} bytes and {target.max_decoded_bytes} are allowed: "
            "send a smaller picture",
            allowed=target.max_decoded_bytes,
            found=needed,
        )
    if info.format == "jpeg":
        found = decode_jpeg(source.data, info, target.least_size)
        if found is not None:
            return found
    if info.format == "png":
        found = _past_pillow(source, info, target)
        if found is not None:
            return found
        if goes_on(source.data, info):
            raise CorruptMedia(
                f"{source.label} goes on unpacking far behind the last row of its {info.width}×{info.height} pixels: "
                "save it again as plain png"
            )
    return _by_pillow(source, info, target)


def _by_pillow(source: Source, info: ImageInfo, target: DecodeTarget) -> Pixels:
    with pillow.opened(source.data, info.format, source.label) as image:
        # Before any pixel is made room for: the header must still say what admission went by.
        _require(source, info, _header_size(image, info))
        image.load()
        upright = _upright(image)
        rgb = upright if upright.mode == "RGB" else upright.convert("RGB")
        _require(source, info, rgb.size)
        colour = rgb.info.get("transparency") if target.white_transparency else None
        pixels = _packed(rgb)
    if isinstance(colour, tuple):
        del image, upright, rgb  # Pillow's four bytes a pixel, before three more are taken
        pixels = _whitened(pixels, colour)
    return Pixels(pixels)


def _past_pillow(source: Source, info: ImageInfo, target: DecodeTarget) -> Pixels | None:
    """A PNG whose header alone Pillow reads; None where it must do the rest as well."""
    with pillow.opened(source.data, info.format, source.label) as image:
        _require(source, info, _header_size(image, info))
        found = _png_header(image)
        turned = pillow.orientation(image)
    if found is None or turned != info.orientation:
        return None
    header, colour = found
    if not target.white_transparency:
        colour = None
    if colour is not None and header.palette is not None:
        header = dataclasses.replace(header, palette=_whitened(header.palette, colour))
        colour = None
    pixels = decode_png(source.data, info, header)
    if pixels is not None and colour is not None:
        _whitened(pixels.array, colour)
    return pixels


def _png_header(image: Image.Image) -> tuple[Header, tuple[int, ...] | None] | None:
    """What an opened PNG says of its pixels, and which colour of them is transparent, in RGB.

    None for what cannot be decoded past Pillow: animated (or said to be, by a chunk that sets the media
    type), interlaced, in parts, or with colours that Pillow itself does not understand.
    """
    if not isinstance(image, PngImagePlugin.PngImageFile) or image.png is None:
        return None
    if image.custom_mimetype or image.info.get("interlace") or "bbox" in image.info:
        return None
    if (image.mode == "P") != (image.palette is not None) or len(image.tile) != 1:
        return None
    _, extents, pixels, layout = image.tile[0]
    if extents != (0, 0, *image.size) or not isinstance(layout, str):
        return None
    try:
        colours = _stand_in(image).convert("RGB")
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - any exception can come out of damaged metadata, and will again
        return None
    colour = colours.info.get("transparency")
    palette = _packed(colours) if image.mode == "P" else None
    texts = PngImagePlugin.MAX_TEXT_MEMORY - image.png.text_memory
    return Header(pixels, layout, palette, texts), colour if isinstance(colour, tuple) else None


def _stand_in(image: Image.Image) -> Image.Image:
    """A picture that is converted as this one will be: of each of a palette's colours a pixel, or one of no matter."""
    if image.palette is None:
        found = Image.new(image.mode, (1, 1))
    else:
        found = Image.frombytes("P", (1, 256), bytes(range(256)))
        found.palette = image.palette.copy()
    found.info = dict(image.info)
    return found


def _header_size(image: Image.Image, info: ImageInfo) -> tuple[int, int]:
    """The upright size by the opened header. Pillow states TIFF's upright already."""
    width, height = image.size
    swaps = info.orientation in SIDEWAYS and info.format != "tiff"
    return (height, width) if swaps else (width, height)


def _require(source: Source, info: ImageInfo, found: tuple[int, int]) -> None:
    if found != info.upright_size:
        expected = "×".join(map(str, info.upright_size))
        raise CorruptMedia(
            f"{source.label} says {expected} pixels in its header and {found[0]}×{found[1]} further on: "
            "check the file, or save it again"
        )


def _upright(image: Image.Image) -> Image.Image:
    """As ImageOps.exif_transpose, without its copy of upright pictures and of metadata.

    Pillow has turned TIFFs already, on loading, and taken the tag away.
    """
    method = pillow.TRANSPOSITIONS.get(pillow.orientation(image))
    return image if method is None else image.transpose(method)


def _whitened(pixels: npt.NDArray[np.uint8], colour: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """As transformers' convert_to_rgb: pixels of the colour that is declared transparent become white.

    Some rows at a time, in place or in a copy where they cannot be written to, as Pillow's bytes. Of
    a colour of 16 bits the lower 8 count, as in Pillow.
    """
    wanted = np.array([part & 0xFF for part in colour], np.uint8)
    white = pixels if pixels.flags.writeable else pixels.copy()
    rows = max(1, _WHITENED_AT_ONCE // white.shape[1])
    for start in range(0, len(white), rows):
        block = white[start : start + rows]
        block[(block == wanted).all(axis=-1)] = 255
    return white


def _packed(rgb: Image.Image) -> npt.NDArray[np.uint8]:
    """The pixels, three bytes each, read-only; Pillow keeps four, so one copy is needed.

    `np.asarray` makes three (Pillow's tobytes encodes in pieces and joins them): 12 MP take 27 ms
    that way and 9 ms in one piece.
    """
    width, height = rgb.size
    encoder = Image._getencoder("RGB", "raw", ("RGB",))  # noqa: SLF001 - what tobytes itself calls
    encoder.setimage(rgb.im, (0, 0, width, height))
    size = 3 * width * height
    written, _, data = encoder.encode(size)
    encoder.cleanup()
    if written != size:
        raise ValueError("Pillow left pixels out")
    return np.frombuffer(data, np.uint8).reshape(height, width, 3)
