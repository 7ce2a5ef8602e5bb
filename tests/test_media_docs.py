"""What the pages say of limits and formats is what there is."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from sidecar.stages.admit.formats import FORMATS
from sidecar.stages.admit.limits import ModelLimits

ROOT = Path(__file__).parents[1]
LIMITS = (ROOT / "docs" / "media-limits.md").read_text()


def test_every_format_has_its_row_and_every_row_is_a_format() -> None:
    table = LIMITS[LIMITS.index("| format |") : LIMITS.index("**FFmpeg**")]
    rows = [row for row in table.splitlines() if row.startswith("| `")]
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(named) == sorted(FORMATS)


@pytest.mark.parametrize("name", [each.name for each in fields(ModelLimits)])
def test_every_limit_on_an_item_is_told(name: str) -> None:
    assert name in LIMITS


@pytest.mark.parametrize("page", ["THREAT_MODEL.md", "docs/media-limits.md", "docs/cve-response.md"])
def test_every_test_that_a_page_leans_on_is_there(page: str) -> None:
    found = re.findall(r"`((?:tests|fuzz|bench)/[\w./]*)`", (ROOT / page).read_text())
    assert found or page.endswith("response.md")
    for name in found:
        assert (ROOT / name.removesuffix("TARGET/")).exists(), name


def test_formats_that_a_hole_shuts_out_are_formats() -> None:
    page = (ROOT / "docs" / "cve-response.md").read_text()
    table = page[page.index("| hole in |") : page.index("3. **Update.**")]
    for name in re.findall(
        r"`(\w+)`", "".join(row.split("|")[2] for row in table.splitlines()[2:] if "|" in row)
    ):
        assert name in {*FORMATS, "mov", "matroska"}, name
