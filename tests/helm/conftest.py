"""The chart's tests. Those that render it need Helm's engine, which only `make chart-test` has."""

from __future__ import annotations

import importlib.util

collect_ignore = (
    [] if importlib.util.find_spec("helm_python") else ["test_check.py", "test_render.py", "test_ways.py"]
)
