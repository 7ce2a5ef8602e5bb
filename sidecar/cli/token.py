"""`sidecar token TENANT`: makes a token. The token itself goes to standard output, its line for the file to standard
error, so that `sidecar token agents > token 2>> tokens` keeps the two apart. It keeps neither.
"""

from __future__ import annotations

import argparse
import sys

from sidecar.edge.callers.token_file import made
from sidecar.errors import SettingsError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the argument of `sidecar token`."""
    parser.add_argument("tenant", metavar="TENANT", help="whose token it is: the name that fair shares go by")


def token(options: argparse.Namespace) -> int:
    """Makes one. Raises SettingsError for a tenant's name that cannot be."""
    try:
        secret, line = made(options.tenant)
    except ValueError as error:
        raise SettingsError(str(error), key="", value=options.tenant) from None
    sys.stdout.write(f"{secret}\n")
    sys.stderr.write(f"{line}\n")
    return 0
