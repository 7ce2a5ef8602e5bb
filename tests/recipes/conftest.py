"""Readies torchvision for the judges of recipes, where it is installed."""

from __future__ import annotations

from contextlib import suppress

from testbed.torchvision_import import import_torchvision

# transformers imports torchvision wherever that is installed, so it must be importable before any test is.
with suppress(ImportError):
    import_torchvision()
