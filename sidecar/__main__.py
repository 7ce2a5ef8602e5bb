"""argv + environ -> a command. The only place that looks at the environment."""

from __future__ import annotations

import os
import sys

from sidecar.cli.main import run


def main() -> None:
    """The `sidecar` command."""
    sys.exit(run(sys.argv[1:], os.environ))


if __name__ == "__main__":
    main()
