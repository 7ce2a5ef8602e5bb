"""Values of bytes: each reference's arithmetic in its own order and types."""

from __future__ import annotations

import numpy as np
import pytest

from sidecar.stages.transform.geometry import Reference
from sidecar.stages.transform.normalize import Normalization, value_table

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
REFERENCES: tuple[Reference, ...] = ("pil", "torchvision")


@pytest.mark.parametrize("reference", REFERENCES)
def test_a_table_is_within_rounding_of_the_plain_formula(reference: Reference) -> None:
    exact = (np.arange(256) / 255 - np.array(MEAN)[:, None]) / np.array(STD)[:, None]
    table = value_table(Normalization(1 / 255, MEAN, STD), reference)
    assert np.dtype(np.float32) == table.dtype
    assert np.abs(exact - table).max() < 1e-6


def test_the_two_references_differ_in_their_last_bits() -> None:
    """Which is why a recipe says whose it follows."""
    pil, torchvision = (value_table(Normalization(1 / 255, MEAN, STD), reference) for reference in REFERENCES)
    assert 0 < np.count_nonzero(pil != torchvision) < pil.size


@pytest.mark.parametrize("reference", REFERENCES)
def test_with_no_step_a_byte_stands_for_itself(reference: Reference) -> None:
    assert np.array_equal(
        np.tile(np.arange(256, dtype=np.float32), (3, 1)), value_table(Normalization(), reference)
    )


@pytest.mark.parametrize("reference", REFERENCES)
def test_a_table_is_made_once_and_cannot_be_changed(reference: Reference) -> None:
    how = Normalization(1 / 255, MEAN, STD)
    assert value_table(how, reference) is value_table(how, reference)
    assert not value_table(how, reference).flags.writeable
