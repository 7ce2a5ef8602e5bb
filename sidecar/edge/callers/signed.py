"""Signed tokens (JWT), verified by the keys of whoever signs them; the only place that knows PyJWT.

Only signatures of asymmetric keys are taken, by algorithms that are named, each key for its own: a token's header
chooses nothing. `aud`, `iss` and `exp` must be there and be right. A verified token is remembered until it expires, for
a minute at most, and forgotten when the keys change. No message repeats a token or what it claims.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import jwt

from sidecar.edge.callers.caller import Caller
from sidecar.edge.callers.config import JwtConfig
from sidecar.errors import Unauthenticated

# Verified tokens that are remembered: one a user of a busy gateway; some 400 bytes each. Out of the air.
_MOST_REMEMBERED: Final = 4096
# For so long, so that a key that was taken back counts soon even where nobody says so.
_REMEMBERED_S: Final = 60.0
# Signers have a few; verifying by more would only cost.
_MOST_KEYS: Final = 100
# As for a tenant that callers name themselves (edge/receive.py).
_MOST_OF_A_TENANT: Final = 128


Keys = Mapping[str, jwt.PyJWK]


def read_keys(content: bytes) -> Keys:
    """The keys of a JWKS by their ids, those that cannot verify anything left out. Raises ValueError."""
    try:
        listed = json.loads(content)["keys"]
    except (ValueError, KeyError, TypeError, RecursionError):
        listed = None
    if not isinstance(listed, list):
        raise ValueError('it is no JWKS: a JSON object with a list of "keys"')  # noqa: TRY004 - of bad content
    found: dict[str, jwt.PyJWK] = {}
    for key in listed[:_MOST_KEYS]:
        if not isinstance(key, dict) or key.get("kty") == "oct" or key.get("use", "sig") != "sig":
            continue  # a shared secret, or a key to encrypt by
        try:
            found[str(key.get("kid", ""))] = jwt.PyJWK(key)
        except (jwt.PyJWTError, ValueError, TypeError):
            continue  # of a kind that is newer than the library
    if not found:
        raise ValueError("the JWKS has no key that verifies signatures")
    return found


class SignedTokens:
    """Verifies tokens. `keys` gives those of now, the same object as long as they are the same."""

    def __init__(
        self,
        config: JwtConfig,
        keys: Callable[[], Keys | None],
        *,
        missing: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`missing` is told of a token by a key that is not there, which may have been exchanged."""
        self._config = config
        self._keys = keys
        self._missing = missing
        self._clock = clock
        self._by: Keys | None = None
        self._remembered: OrderedDict[bytes, tuple[float, Caller]] = OrderedDict()

    def caller(self, token: str) -> Caller:
        """Whose token it is. Raises Unauthenticated."""
        keys = self._keys()
        if keys is None:
            raise Unauthenticated("the server has no keys to verify tokens by at present; its log tells why")
        if keys is not self._by:
            self._by = keys
            self._remembered.clear()
        digest = hashlib.sha256(token.encode(errors="replace")).digest()
        found = self._remembered.get(digest)
        if found is not None and self._clock() < found[0]:
            return found[1]
        claims = self._verified(token, keys)
        caller = Caller(self._tenant(claims))
        self._remembered[digest] = (self._good_until(claims), caller)
        self._remembered.move_to_end(digest)
        if len(self._remembered) > _MOST_REMEMBERED:
            self._remembered.popitem(last=False)
        return caller

    def _verified(self, token: str, keys: Keys) -> Mapping[str, Any]:
        try:
            header = jwt.get_unverified_header(token)
            key = self._key(header, keys)
            claims: Mapping[str, Any] = jwt.decode(
                token,
                key,
                algorithms=list(self._config.algorithms),
                audience=self._config.audience,
                issuer=self._config.issuer,
                leeway=self._config.leeway_s,
                options={
                    "require": ["exp", "aud", "iss", self._config.tenant],
                    "enforce_minimum_key_length": True,
                },
            )
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
            raise Unauthenticated(f"the token is not good here: {_words(error)}") from None
        return claims

    def _key(self, header: Mapping[str, Any], keys: Keys) -> jwt.PyJWK:
        """By the token's `kid`; without one, the only key that there is."""
        kid = header.get("kid")
        if kid is None and len(keys) == 1:
            return next(iter(keys.values()))
        key = keys.get(str(kid)) if kid is not None else None
        if key is None:
            self._missing()
            raise Unauthenticated("the token is not good here: it is signed by no key that is known")
        return key

    def _tenant(self, claims: Mapping[str, Any]) -> str:
        tenant = claims[self._config.tenant]
        if not isinstance(tenant, str) or not 0 < len(tenant) <= _MOST_OF_A_TENANT:
            raise Unauthenticated(
                f"the token's claim `{self._config.tenant}` names no tenant: 1 to {_MOST_OF_A_TENANT} characters"
            )
        return tenant

    def _good_until(self, claims: Mapping[str, Any]) -> float:
        return min(float(claims["exp"]) + self._config.leeway_s, self._clock() + _REMEMBERED_S)


# Kinds in the library's tree, the nearer first, and what their bearers are told.
_WORDS: Sequence[tuple[type[Exception], str]] = (
    (jwt.ExpiredSignatureError, "it has expired"),
    (jwt.ImmatureSignatureError, "it is not good yet"),
    (jwt.InvalidAudienceError, "it was made for another audience"),
    (jwt.InvalidIssuerError, "it is another issuer's"),
    (jwt.InvalidAlgorithmError, "its algorithm is not one of `callers.jwt.algorithms`, or not its key's"),
    (jwt.MissingRequiredClaimError, "a claim is missing"),
    (jwt.InvalidSignatureError, "its signature is wrong"),
)


def _words(error: Exception) -> str:
    return next((words for kind, words in _WORDS if isinstance(error, kind)), "it cannot be read")
