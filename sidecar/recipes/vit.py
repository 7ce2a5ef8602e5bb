"""ViT and SigLIP (ViTImageProcessor, SiglipImageProcessor): stretch to `size`, rescale, normalise.

The aspect ratio is not kept, and nothing is cropped unless `do_center_crop` says so. Defaults: 224x224,
1/255, mean and standard deviation 0.5; bilinear for ViT, bicubic for SigLIP. A legacy `size` that is a
bare number means both sides for ViT and the shortest edge for SigLIP. Every other key is as pixels.py says.
"""

from __future__ import annotations

from typing import Final

from sidecar.recipes.pixels import BICUBIC, BILINEAR, Defaults
from sidecar.stages.transform.geometry import Fixed

_HALF: Final = (0.5, 0.5, 0.5)

VIT: Final = Defaults(
    resample=BILINEAR, mean=_HALF, std=_HALF, size=Fixed(224, 224), square=True, converts_rgb=False
)
SIGLIP: Final = Defaults(
    resample=BICUBIC, mean=_HALF, std=_HALF, size=Fixed(224, 224), square=False, converts_rgb=True
)
