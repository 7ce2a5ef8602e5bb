"""A caller who was believed, and the one interface of what believes: tokens in, callers out.

Whose call is under way is kept beside it, in its context, so that whatever runs for it can ask.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final, Protocol

HEADER: Final = "authorization"
"""The metadata key of tokens."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, by a token or a certificate: `tenant` is the name that fair shares and limits go by."""

    tenant: str
    by_token: bool = True


class Tokens(Protocol):
    """Believes tokens, or does not."""

    def caller(self, token: str) -> Caller:
        """Whose it is. Raises Unauthenticated, in words that do not repeat it."""
        ...


CALLER: ContextVar[Caller | None] = ContextVar("caller", default=None)
"""Who makes the call that runs here; None for one who was not asked."""
