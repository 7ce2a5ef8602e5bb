"""Signed tokens: only what the keys of the signer vouch for, for this audience, now."""

from __future__ import annotations

import base64
import datetime as dt
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from sidecar.edge.callers import signed
from sidecar.edge.callers.caller import Caller
from sidecar.edge.callers.config import JwtConfig
from sidecar.edge.callers.signed import SignedTokens, read_keys
from sidecar.errors import SettingsError, Unauthenticated

NOW = 1_900_000_000.0
CONFIG = JwtConfig(keys="keys.json", issuer="https://issuer.test", audience="sidecar")
RSA, EC, ED = (
    rsa.generate_private_key(65_537, 2048),
    ec.generate_private_key(ec.SECP256R1()),
    ed25519.Ed25519PrivateKey.generate(),
)
SECRET = b"a shared secret of thirty-two by"


def jwks(*keys: Mapping[str, Any]) -> bytes:
    return json.dumps({"keys": keys}).encode()


def public(key: Any, kid: str, algorithm: Any) -> dict[str, Any]:
    return dict(json.loads(algorithm.to_jwk(key.public_key())), kid=kid)


KEYS = jwks(
    public(RSA, "rsa", RSAAlgorithm),
    public(EC, "ec", ECAlgorithm),
    public(ED, "ed", OKPAlgorithm),
    {"kty": "oct", "kid": "shared", "k": base64.urlsafe_b64encode(SECRET).decode().rstrip("=")},
    {"kty": "new", "kid": "new"},
)


@pytest.fixture(autouse=True)
def now(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyJWT's clock: it asks for now by datetime."""

    class Frozen(dt.datetime):
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> dt.datetime:  # type: ignore[override]  # enough of it
            return dt.datetime.fromtimestamp(NOW, tz)

    monkeypatch.setattr("jwt.api_jwt.datetime", Frozen)


def claims(**other: Any) -> dict[str, Any]:
    given = {"iss": CONFIG.issuer, "aud": "sidecar", "sub": "agents", "exp": NOW + 100}
    return {key: value for key, value in (given | other).items() if value is not None}


def token(key: Any = EC, algorithm: str = "ES256", kid: str | None = "ec", **other: Any) -> str:
    return jwt.encode(claims(**other), key, algorithm, headers={"kid": kid} if kid else None)


def verifying(keys: bytes = KEYS, config: JwtConfig = CONFIG, **given: Any) -> SignedTokens:
    found = read_keys(keys)
    return SignedTokens(config, lambda: found, clock=lambda: NOW, **given)


def refused(tokens: SignedTokens, text: str) -> str:
    with pytest.raises(Unauthenticated) as problem:
        tokens.caller(text)
    assert text not in problem.value.message
    assert problem.value.__cause__ is None
    return problem.value.message


@pytest.mark.parametrize(
    ("key", "algorithm", "kid"), [(RSA, "RS256", "rsa"), (EC, "ES256", "ec"), (ED, "EdDSA", "ed")]
)
def test_tokens_of_the_signers_keys_are_their_subjects(key: Any, algorithm: str, kid: str) -> None:
    tokens = verifying()
    assert tokens.caller(token(key, algorithm, kid)) == Caller("agents")
    assert tokens.caller(token(key, algorithm, kid, aud=["other", "sidecar"])) == Caller("agents")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: token(exp=NOW - 31), "expired"),
        (lambda: token(nbf=NOW + 31), "not good yet"),
        (lambda: token(aud="other"), "audience"),
        (lambda: token(iss="https://evil.test"), "issuer"),
        (lambda: token(exp=None), "claim is missing"),
        (lambda: token(aud=None), "claim is missing"),
        (lambda: token(iss=None), "claim is missing"),
        (lambda: token(sub=None), "claim is missing"),
        (lambda: token(sub=""), "no tenant"),
        (lambda: token(sub="a" * 129), "no tenant"),
        (lambda: token(exp="soon"), "cannot be read"),
        (lambda: token(kid="other"), "no key"),
        (lambda: token(kid=None), "no key"),
        (lambda: token(kid="shared"), "no key"),
        (lambda: token(kid="new"), "no key"),
        (lambda: token(ec.generate_private_key(ec.SECP256R1())), "signature"),
        (lambda: token(RSA, "RS256", "ec"), "algorithm"),
        (lambda: token(RSA, "RS512", "rsa"), "algorithm"),
        (lambda: token(RSA, "PS256", "rsa"), "algorithm"),
        (lambda: token(SECRET, "HS256", "shared"), "no key"),
        (lambda: token(SECRET, "HS256", "rsa"), "algorithm"),
        (lambda: token("", "none", "ec"), "algorithm"),
        (lambda: token("", "none", "rsa"), "algorithm"),
        (lambda: token()[:-8], "cannot be read|signature"),
        (lambda: token() + "=", "cannot be read|signature"),
        (lambda: "a.b.c", "cannot be read"),
        (lambda: "..", "cannot be read"),
        (lambda: jwt.encode(claims(), EC, "ES256", {"kid": "ec", "crit": ["x"], "x": 1}), "cannot be read"),
    ],
)
def test_all_others_are_refused(make: Callable[[], str], words: str) -> None:
    assert re.search(words, refused(verifying(), make()))


def test_a_clock_that_is_a_little_off_is_forgiven() -> None:
    assert verifying().caller(token(exp=NOW - 29, nbf=NOW + 29))


def test_the_only_key_needs_no_name() -> None:
    assert verifying(jwks(public(EC, "ec", ECAlgorithm))).caller(token(kid=None)) == Caller("agents")


def test_a_public_key_is_no_shared_secret_for_whoever_has_it() -> None:
    """The old attack: HS256 by the text of the signer's public key."""
    pem = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("jwt.algorithms.is_pem_format", lambda _: False)
        forged = token(pem, "HS256", "rsa")
    assert "algorithm" in refused(verifying(), forged)


def test_a_short_key_verifies_nothing() -> None:
    weak = rsa.generate_private_key(65_537, 1024)
    with pytest.warns(match="key"):
        text = token(weak, "RS256", "weak")
    assert refused(verifying(jwks(public(weak, "weak", RSAAlgorithm))), text)


def test_another_claim_may_name_the_tenant() -> None:
    config = JwtConfig("keys.json", CONFIG.issuer, CONFIG.audience, tenant="team")
    assert verifying(config=config).caller(token(team="vision")) == Caller("vision")


class TestMemory:
    def test_a_token_is_verified_once_until_it_expires(self, monkeypatch: pytest.MonkeyPatch) -> None:
        times, found = [NOW], read_keys(KEYS)
        tokens = SignedTokens(CONFIG, lambda: found, clock=lambda: times[0])
        text = token(exp=NOW + 10)
        assert tokens.caller(text)
        monkeypatch.setattr(tokens, "_verified", lambda *_: pytest.fail("verified again"))
        times[0] = NOW + 39
        assert tokens.caller(text)
        times[0] = NOW + 41
        with pytest.raises(pytest.fail.Exception):
            tokens.caller(text)

    def test_keys_that_changed_make_it_forget(self) -> None:
        current = [read_keys(KEYS)]
        tokens = SignedTokens(CONFIG, lambda: current[0], clock=lambda: NOW)
        text = token()
        assert tokens.caller(text)
        current[0] = read_keys(jwks(public(RSA, "rsa", RSAAlgorithm)))
        assert "no key" in refused(tokens, text)

    def test_it_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(signed, "_MOST_REMEMBERED", 3)
        tokens = verifying()
        for number in range(6):
            tokens.caller(token(sub=f"tenant {number}"))
        assert len(tokens._remembered) == 3

    def test_a_token_by_a_key_that_is_not_there_is_told_of(self) -> None:
        told: list[bool] = []
        refused(verifying(missing=lambda: told.append(True)), token(kid="next"))
        assert told == [True]

    def test_without_keys_nobody_is_believed(self) -> None:
        assert "no keys" in refused(SignedTokens(CONFIG, lambda: None), token())


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"keys": 1}', b'{"keys": []}', b'{"keys": [{"kty": "oct"}]}']
)
def test_what_is_no_set_of_keys_is_told(content: bytes) -> None:
    with pytest.raises(ValueError, match="JWKS"):
        read_keys(content)


@pytest.mark.parametrize("missing", ["issuer", "audience", "algorithms", "tenant"])
def test_settings_by_which_others_tokens_would_be_good_are_refused(missing: str) -> None:
    given: dict[str, Any] = {"keys": "keys.json", "issuer": "i", "audience": "a"} | {missing: ""}
    with pytest.raises(SettingsError, match=rf"callers\.jwt\.{missing}"):
        JwtConfig(**given)
