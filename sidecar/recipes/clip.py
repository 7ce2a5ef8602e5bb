"""CLIP (CLIPImageProcessor): shortest edge to `size`, centre crop to `crop_size`, rescale, normalise.

Defaults: bicubic, shortest edge 224, crop 224x224, 1/255, OpenAI's mean and standard deviation. A legacy
`size` that is a bare number means the shortest edge. Every other key is as pixels.py says.
"""

from __future__ import annotations

from typing import Final

from sidecar.recipes.pixels import BICUBIC, Defaults
from sidecar.stages.transform.geometry import ShortestEdge

# Mean and standard deviation of CLIP's training pictures, published with OpenAI's CLIP.
CLIP: Final = Defaults(
    resample=BICUBIC,
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
    size=ShortestEdge(224),
    square=False,
    converts_rgb=True,
    crop=(224, 224),
)
