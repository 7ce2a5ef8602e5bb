"""argv + environ -> a command. The only place that looks at the environment."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from sidecar.processor import lacking


def main() -> None:
    """The `sidecar` command."""
    if problem := lacking(Path(sys.prefix)):
        sys.stderr.write(f"sidecar: {problem}\n")
        sys.exit(2)
    from sidecar.cli.main import run  # noqa: PLC0415 - loads libraries that the processor must be able to run

    sys.exit(run(sys.argv[1:], os.environ))


if __name__ == "__main__":
    main()
