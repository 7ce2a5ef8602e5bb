"""What can be sent as media, and the one form it takes before it is sent: an `Item`.

    bytes                    the encoded file itself
    str, pathlib.Path        a file's path; read when the call is made, large files piece by piece
    PIL image                its pixels as they are, as PNG (Pillow is used through the image alone)
    numpy array              `image(array)`; a bare uint8 array is taken for a picture
    image(array)             uint8 [height, width], [height, width, 3] or [height, width, 4]
    audio(array, rate)       float or int16, [n] or [channels, n]
    link(address)            an address that the sidecar fetches, where its operator allows that
    media(item, ...)         any of the above with a content type or a name

Nothing here decodes, guesses a content type, or knows the wire: the sidecar believes the content.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeAlias, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from inference_client import encode

# Pixel modes whose array is what PNG holds; Pillow itself writes the others (palettes, bits, 16 bits).
_PLAIN_MODES = frozenset({"L", "RGB", "RGBA"})


@runtime_checkable
class PillowImage(Protocol):
    """What is asked of a PIL image."""

    @property
    def mode(self) -> str: ...
    @property
    def size(self) -> tuple[int, int]: ...
    def tobytes(self) -> bytes: ...
    def save(self, fp: Any, format: str, **params: Any) -> None: ...  # noqa: A002, ANN401 - Pillow's own words


@dataclass(frozen=True, slots=True)
class Item:
    """One media item, ready to send: bytes at hand, a file that is read when it is sent, or an address.

    `size` is the encoded size in bytes, 0 of an address: `content` is empty then, and `uri` has it. `content_type` and
    `name` are empty unless the caller gave them; a file's name is that of its last path component.
    """

    content: bytes | Path
    size: int
    content_type: str = ""
    name: str = ""
    uri: str = ""

    def read(self) -> bytes:
        """The whole encoded file. Raises OSError for a file that cannot be read."""
        return self.content.read_bytes() if isinstance(self.content, Path) else self.content

    def pieces(self, length: int) -> Iterator[bytes]:
        """The encoded file in pieces of at most `length` bytes; a file on disk is read as it goes."""
        if isinstance(self.content, Path):
            with self.content.open("rb") as file:
                while piece := file.read(length):
                    yield piece
        else:
            for begin in range(0, len(self.content), length):
                yield self.content[begin : begin + length]


MediaItem: TypeAlias = (
    "Item | bytes | bytearray | memoryview | str | os.PathLike[str] | PillowImage | NDArray[Any]"
)


def image(pixels: NDArray[Any], *, name: str = "") -> Item:
    """A picture from its pixels: uint8, [height, width], [height, width, 3] (RGB) or [.., 4] (RGBA).

    The sidecar sees exactly these pixels. Raises ValueError for other dtypes and shapes.
    """
    return _at_hand(encode.png(np.asarray(pixels)), name=name)


def audio(samples: NDArray[Any], rate: int, *, name: str = "") -> Item:
    """A sound from its samples at `rate` hertz: float (full scale -1 to 1) or int16, [n] or [channels, n].

    Raises ValueError for other dtypes and shapes.
    """
    return _at_hand(encode.wav(np.asarray(samples), rate), name=name)


def link(address: str, *, name: str = "") -> Item:
    """Media that the sidecar is to fetch: an absolute https:// address, percent-encoded and without a user.

    The sidecar sends no credentials there, and refuses hosts that its operator does not allow.
    """
    return Item(b"", 0, name=name, uri=address)


def media(item: MediaItem, *, content_type: str = "", name: str = "") -> Item:
    """Any item with a content type that it must have ("image/jpeg", "audio/*") or a name for messages.

    Raises TypeError for what cannot be sent, ValueError for an unusable array and OSError for a path
    that leads to no file.
    """
    plain = as_item(item)
    return replace(plain, content_type=content_type or plain.content_type, name=name or plain.name)


def as_item(item: MediaItem) -> Item:
    """The item in the form that is sent; errors as for `media`."""
    match item:
        case Item():
            return item
        case bytes():
            return _at_hand(item)
        case bytearray() | memoryview():
            return _at_hand(bytes(item))
        case str() | os.PathLike():
            path = Path(item)
            return Item(path, path.stat().st_size, name=path.name)
        case np.ndarray():
            if item.dtype != np.uint8:
                raise TypeError(
                    f"a bare array is taken for a picture and must be uint8; found {item.dtype}. "
                    "Send sound as `audio(array, rate)`."
                )
            return image(item)
        case PillowImage():
            return _at_hand(_png_of(item))
        case _:
            raise TypeError(
                f"a media item is bytes, a path, a PIL image or an array; found {type(item).__name__}"
            )


def listed(media: MediaItem | Sequence[MediaItem] | None) -> tuple[Sequence[MediaItem], bool]:
    """The items as a list, and whether they came alone: as one item or none, rather than in a list."""
    if media is None:
        return (), True
    if isinstance(media, (str, bytes, bytearray, memoryview)) or not isinstance(media, Sequence):
        return (cast("MediaItem", media),), True
    return cast("Sequence[MediaItem]", media), False


def are_at_hand(media: Sequence[MediaItem]) -> bool:
    """Whether turning these into `Item`s and reading them takes neither disk nor noticeable CPU."""
    return all(
        isinstance(each.content if isinstance(each, Item) else each, (bytes, bytearray, memoryview))
        for each in media
    )


def _at_hand(content: bytes, *, name: str = "") -> Item:
    return Item(content, len(content), name=name)


def _png_of(picture: PillowImage) -> bytes:
    """The picture's pixels as they are now.

    Its EXIF orientation is left out: whoever opened the file sees the pixels unturned, and so must
    the model. Raises ValueError for a mode that PNG does not have.
    """
    if picture.mode in _PLAIN_MODES:
        return encode.png(np.asarray(picture))
    buffer = io.BytesIO()
    try:
        picture.save(buffer, format="PNG", compress_level=0, exif=b"", icc_profile=None)
    except OSError as error:
        raise ValueError(
            f"a PIL image of mode {picture.mode} has no lossless PNG form ({error}); convert it first, "
            "for example with `.convert('RGB')`, or send the original file"
        ) from error
    return buffer.getvalue()
