"""What the operator chose for a recipe, beside the model's own files: whose bits, how strictly, how fast."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Choice:
    """`reference`: "auto", or one that the family can follow ("pil", "torchvision"; "numpy" for sound).

    `exact`: refuse a recipe whose reference the libraries at hand cannot meet to the bit. `resampler`:
    "soxr_hq" as transformers loads sound, or "swresample" for FFmpeg's, done while decoding.
    `fast`: large JPEGs may be decoded smaller before they are resized, near the reference and not to the bit;
    `exact` then speaks of the resize alone. Ignored for sound, without a resize, and by the filters nearest and box.
    """

    reference: str = "auto"
    exact: bool = True
    resampler: str = "soxr_hq"
    fast: bool = False
