"""The whole server under kills, hangs and cancellations: part of the long suites of `make check`.

They share two cores with a dozen processes each and have not been shown to be steady on a busy machine.
"""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.full)
