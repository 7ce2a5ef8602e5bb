"""How commands that ask a running sidecar show who they are, and whom they trust: flags that name files.

A token is never an argument: others on the machine could read it in the list of processes.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TypedDict

from inference_client import Tls, token_file
from inference_client.identity import Bearer, Token
from sidecar.errors import SettingsError


class Identity(TypedDict):
    """Arguments of both clients."""

    tls: Tls | None
    token: Token
    token_in_clear: bool


def add_identity(parser: argparse.ArgumentParser) -> None:
    """Adds the flags."""
    flags = parser.add_argument_group("by TLS, and with a token")
    flags.add_argument(
        "--ca",
        type=Path,
        metavar="FILE",
        help="PEM: the authorities of the sidecar's certificate; turns TLS on",
    )
    flags.add_argument("--certificate", type=Path, metavar="FILE", help="PEM: the certificate to show")
    flags.add_argument("--key", type=Path, metavar="FILE", help="PEM: its key")
    flags.add_argument(
        "--server-name", default="", metavar="NAME", help="what the sidecar's certificate says"
    )
    flags.add_argument("--token-file", type=Path, metavar="FILE", help="a file with the token to show")
    flags.add_argument(
        "--token-in-clear",
        action="store_true",
        help="show it to another machine without TLS too, as in a mesh",
    )


def identity(options: argparse.Namespace) -> Identity:
    """The clients' arguments. Raises SettingsError for files that cannot be read, and flags that contradict."""
    token: Token = ""
    try:
        tls = None
        if options.ca or options.certificate or options.key or options.server_name:
            tls = Tls(options.ca or "", options.certificate or "", options.key or "", options.server_name)
            tls.credentials()
        if options.token_file:
            token = token_file(options.token_file)
            token()
        Bearer((), token, [options.address], is_safe=tls is not None or options.token_in_clear)
    except (OSError, ValueError) as error:
        raise SettingsError(f"a flag cannot be followed: {error}", key="", value="") from None
    return Identity(tls=tls, token=token, token_in_clear=options.token_in_clear)
