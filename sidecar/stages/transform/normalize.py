"""The value that each byte of a channel stands for, as the references compute it: 256 numbers a channel.

A decoded pixel has 256 values, so rescaling and normalising a picture is looking its bytes up; `pack` does
that. The tables here repeat each reference's arithmetic in its order and its types, and so hold its bits.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sidecar.stages.transform.geometry import Reference

Triple = tuple[float, float, float]
Table = npt.NDArray[np.float32]

_BYTES = np.arange(256, dtype=np.uint8)


@dataclass(frozen=True, slots=True)
class Normalization:
    """How bytes become values: times `scale`, then minus `mean`, over `std`; None skips a step."""

    scale: float | None = None
    mean: Triple | None = None
    std: Triple | None = None

    @property
    def changes_bytes(self) -> bool:
        return self.scale is not None or self.mean is not None


@functools.lru_cache(maxsize=64)
def value_table(how: Normalization, reference: Reference) -> Table:
    """float32 [3, 256], read-only: entry [c, b] is the value of byte b in channel c.

    PIL backend (transformers' image_transforms.py, `rescale` and `normalize`): the byte times the scale in
    float64, rounded to float32; minus the mean and over the standard deviation, both as float32.
    torchvision backend (image_processing_backends.py, `_fuse_mean_std_and_rescale_factor`): with both steps,
    mean and standard deviation are multiplied by 1/scale in float32 first, and the bare byte is normalised
    by those; with the scale alone, the byte times the scale in float32.
    """
    mean, std = _column(how.mean), _column(how.std)
    values = np.broadcast_to(_BYTES.astype(np.float32), (3, 256))
    if reference == "pil":
        if how.scale is not None:
            values = np.broadcast_to((_BYTES.astype(np.float64) * how.scale).astype(np.float32), (3, 256))
    elif how.scale is not None and mean is not None and std is not None:
        factor = np.float32(1.0 / how.scale)
        mean, std = mean * factor, std * factor
    elif how.scale is not None:
        values = values * np.float32(how.scale)
    if mean is not None and std is not None:
        values = (values - mean) / std
    table = np.ascontiguousarray(values)
    table.flags.writeable = False
    return table


def _column(values: Triple | None) -> Table | None:
    return None if values is None else np.array(values, np.float32)[:, np.newaxis]
