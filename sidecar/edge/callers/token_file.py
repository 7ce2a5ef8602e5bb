"""Tokens from a file: a tenant and the SHA-256 of its token a line.

    # comments and empty lines are left out
    agents:sha256:2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b

`sidecar token TENANT` makes a token and its line. Tokens are random, so one round of SHA-256 is enough, and the file
tells nobody a token. A tenant may have several, so that one can be replaced by the next without a gap.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from sidecar.edge.callers.caller import Caller
from sidecar.edge.watched import Watched
from sidecar.errors import Unauthenticated

_LINE: Final = re.compile(r"(?P<tenant>[^:\s][^:]{0,127}):sha256:(?P<digest>[0-9a-f]{64})")
# Bytes from the system's generator: nobody guesses 256 bits.
_RANDOM_BYTES: Final = 32


class TokenFile:
    """The tokens of a file, which is read again when it has changed. Raises SettingsError."""

    def __init__(self, file: Path) -> None:
        self._tokens = Watched("callers.tokens", [file], _read)

    def caller(self, token: str) -> Caller:
        """Whose token it is. Raises Unauthenticated."""
        digest = hashlib.sha256(token.encode(errors="replace")).digest()
        # The look-up takes longer the more two digests have in common, which tells nothing of tokens: nobody can make
        # one whose digest begins as they like. What is found is compared whole, in constant time.
        found = self._tokens.value().get(digest)
        if found is None or not hmac.compare_digest(found[0], digest):
            raise Unauthenticated("the token is not known here: it is mistyped, or was taken back")
        return found[1]


def made(tenant: str) -> tuple[str, str]:
    """A new token of a tenant, and the line of the file that stands for it. Raises ValueError for no name."""
    token = secrets.token_urlsafe(_RANDOM_BYTES)
    line = f"{tenant}:sha256:{hashlib.sha256(token.encode()).hexdigest()}"
    if _LINE.fullmatch(line) is None:
        raise ValueError(
            f"a tenant is 1 to 128 characters without a colon, and begins with no space; found {tenant!r}"
        )
    return token, line


def _read(contents: Sequence[bytes]) -> Mapping[bytes, tuple[bytes, Caller]]:
    (content,) = contents
    found: dict[bytes, tuple[bytes, Caller]] = {}
    for number, text in enumerate(content.decode().splitlines(), 1):
        line = text.strip()
        if not line or line.startswith("#"):
            continue
        parts = _LINE.fullmatch(line)
        if parts is None:
            # Not quoted: somebody may have written the token itself.
            raise ValueError(
                f"line {number} is not of the form tenant:sha256:DIGEST; `sidecar token` writes such lines"
            )
        digest = bytes.fromhex(parts["digest"])
        found[digest] = (digest, Caller(parts["tenant"]))
    return found
