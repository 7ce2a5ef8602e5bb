"""Where pixels go: ints in, ints out, rounded as the references round.

Nothing here touches a pixel. Sizes are (height, width) throughout. The two references agree on the size
of a resized picture and differ in one place: which side gets the odd pixel when a picture is smaller
than its crop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Size = tuple[int, int]
Reference = Literal["pil", "torchvision"]


@dataclass(frozen=True, slots=True)
class Fixed:
    """Both sides are set; the aspect ratio is not kept."""

    height: int
    width: int

    def __str__(self) -> str:
        return f"to {self.height}x{self.width} (height x width), aspect ratio not kept"


@dataclass(frozen=True, slots=True)
class ShortestEdge:
    """The shorter side becomes `edge`; the longer one follows, at most `longest` where that is set."""

    edge: int
    longest: int | None = None

    def __str__(self) -> str:
        bound = "" if self.longest is None else f", longest edge at most {self.longest}"
        return f"shortest edge to {self.edge}{bound}"


@dataclass(frozen=True, slots=True)
class Within:
    """The picture is scaled, up or down, to the largest size of its aspect ratio inside the box."""

    height: int
    width: int

    def __str__(self) -> str:
        return f"to the largest size within {self.height}x{self.width} (height x width)"


Rule = Fixed | ShortestEdge | Within


def resized(size: Size, rule: Rule) -> Size:
    """The (height, width) in pixels that a picture of `size` is resized to; each side at least 1.

    The reference lets a side become 0 for extreme aspect ratios under a bound, and then fails; here it
    stays at 1.
    """
    match rule:
        case Fixed(height, width):
            return height, width
        case ShortestEdge(edge, longest):
            return _shortest(size, edge) if longest is None else _shortest_bounded(size, edge, longest)
        case Within(height, width):
            scale = min(height / size[0], width / size[1])
            return max(1, int(size[0] * scale)), max(1, int(size[1] * scale))


def _shortest(size: Size, edge: int) -> Size:
    """As transformers' `get_resize_output_image_size`: the longer side is truncated, never rounded."""
    height, width = size
    short, long = (width, height) if width <= height else (height, width)
    other = int(edge * long / short)
    return (other, edge) if width <= height else (edge, other)


def _shortest_bounded(size: Size, edge: int, longest: int) -> Size:
    """As transformers' `get_size_with_aspect_ratio`: a bounded edge is rounded, the other side truncated."""
    height, width = size
    short, long = float(min(size)), float(max(size))
    exact: float = edge
    if long / short * edge > longest:
        exact = longest * short / long
        edge = round(exact)
    if min(height, width) == edge:
        return size
    if width < height:
        return max(1, int(exact * height / width)), max(1, edge)
    return max(1, edge), max(1, int(exact * width / height))


@dataclass(frozen=True, slots=True)
class Span:
    """One axis of a crop: pixels [start, stop) of the source, written from `offset` on."""

    start: int
    stop: int
    offset: int

    def __len__(self) -> int:
        return self.stop - self.start


def center_span(length: int, crop: int, reference: Reference) -> Span:
    """The middle `crop` pixels of an axis of `length`; a shorter axis is placed whole, zeros around it.

    Where an odd number of zeros is to be shared, the PIL backend puts the extra one first and the
    torchvision backend last. A longer axis loses its extra pixel at the end in both.
    """
    if length >= crop:
        start = (length - crop) // 2
        return Span(start, start + crop, 0)
    missing = crop - length
    return Span(0, length, (missing + 1) // 2 if reference == "pil" else missing // 2)


@dataclass(frozen=True, slots=True)
class Crop:
    """A crop of `size` (height, width): which pixels it takes and where they land; the rest is zero."""

    size: Size
    rows: Span
    columns: Span

    @property
    def is_padded(self) -> bool:
        return (len(self.rows), len(self.columns)) != self.size


def center_crop(size: Size, crop: Size, reference: Reference) -> Crop:
    """The middle `crop` (height, width) of a picture of `size`, as the reference cuts or pads it."""
    return Crop(crop, center_span(size[0], crop[0], reference), center_span(size[1], crop[1], reference))
