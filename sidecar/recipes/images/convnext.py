"""ConvNeXT (ConvNextImageProcessor; also ResNet, RegNet, CvT): resize by a crop's share, rescale, normalise.

Below a shortest edge of 384 the shorter side becomes edge / crop_pct, cut off to a whole number, and the middle
edge x edge is taken; from 384 on the picture is stretched to edge x edge and nothing is cut.

Keys: `size.shortest_edge`, `crop_pct`; `do_center_crop` (another crop after it) is refused; the rest as image.py
says. Output: `pixel_values`, float32 [3, edge, edge]. No tokens.
"""

from __future__ import annotations

from typing import Final

from sidecar.recipes.choice import Choice
from sidecar.recipes.config import Config, is_count
from sidecar.recipes.image import BICUBIC, HALF, Defaults, common
from sidecar.recipes.images.plain import PlainRecipe
from sidecar.stages.transform.geometry import Fixed, ShortestEdge
from sidecar.stages.transform.resize import MOST_RESIZED_BYTES

_KEYS: Final = frozenset(
    {"crop_pct", "crop_size", "default_to_square", "do_center_crop", "do_pad", "pad_size"}
)
_DEFAULTS: Final = Defaults(BICUBIC, HALF, HALF, False)
_EDGE: Final = 384
# The processor's own: from this edge on nothing is cut.
_WHOLE_FROM: Final = 384
_LEAST_SHARE: Final = 0.1


def convnext_recipe(config: Config, processor: str, choice: Choice) -> PlainRecipe:
    """The recipe that a processor's keys describe. Raises RecipeError; see Config and `common`."""
    config.one_of("do_center_crop", False, (False,))
    config.one_of("do_pad", False, (False,))
    shared = common(config, processor, _DEFAULTS, choice, _KEYS)
    if not config.flag("do_resize", True):
        return PlainRecipe(shared, None, None)
    edge = _edge(config)
    if edge >= _WHOLE_FROM:
        return PlainRecipe(shared, Fixed(edge, edge), None)
    share = config.positive("crop_pct", 224 / 256)
    if not _LEAST_SHARE <= share <= 1:
        raise config.refusal("crop_pct", f"from {_LEAST_SHARE} to 1")
    return PlainRecipe(shared, ShortestEdge(int(edge / share)), (edge, edge))


def _edge(config: Config) -> int:
    """`size`: {shortest_edge}, or a bare number, which means the same."""
    value = config.raw("size")
    match value:
        case None:
            return _EDGE
        case int(edge) | {"shortest_edge": int(edge)} if is_count(edge) and edge**2 * 4 <= MOST_RESIZED_BYTES:
            return edge
    raise config.refusal("size", "{shortest_edge}, of at least 1 and at most 8192 pixels")


PROCESSORS: Final = {"ConvNextImageProcessor": convnext_recipe}
"""The classes of this family by name, each with what makes its recipe."""
