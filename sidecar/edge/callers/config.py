"""The settings of who may call; apart from what verifies signed tokens, which takes long to load."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Gt

from sidecar.errors import SettingsError

Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]


@dataclass(frozen=True, slots=True)
class JwtConfig:
    """`keys`: a JWKS, as a file or as an https:// address; empty takes no signed tokens. `issuer` and `audience`: the
    `iss` and `aud` that tokens must have. `algorithms`: those that are taken. `tenant`: the claim that names a tenant.
    `leeway_s`: by how much clocks may differ, in seconds. `renew_s`: how often an address is asked again; `stale_s`:
    how long its keys are good when it does not answer. `ca`: a PEM file of the authorities for that address, empty for
    the system's.
    """

    keys: str = ""
    issuer: str = ""
    audience: str = ""
    algorithms: tuple[Algorithm, ...] = ("RS256", "ES256", "EdDSA")
    tenant: str = "sub"
    leeway_s: Annotated[float, Ge(0)] = 30.0
    renew_s: Annotated[float, Gt(0)] = 300.0
    stale_s: Annotated[float, Gt(0)] = 86_400.0
    ca: str = ""

    def __post_init__(self) -> None:
        if not self.keys:
            return
        for key in ("issuer", "audience", "algorithms", "tenant"):
            if not getattr(self, key):
                raise SettingsError(
                    f"`callers.jwt.{key}` is empty: name it, or tokens that were made for others would be good here",
                    key=f"callers.jwt.{key}",
                    value="",
                )


@dataclass(frozen=True, slots=True)
class CallersConfig:
    """Who may call. Without `tokens` and `jwt.keys` nobody is asked for a token.

    `tokens`: a file of tenants and the SHA-256 of their tokens; `jwt`: signed tokens. `health`: whether probes need a
    token too ("closed") or not ("open"). Of callers who are known, by token or certificate, `operators` are the tenants
    who may use Diagnostics and change the model server's repository, log and trace settings, and `gateways` those who
    may name another tenant in `gate.tenant_key`, for whom they call.
    """

    tokens: str = ""
    jwt: JwtConfig = field(default_factory=JwtConfig)
    health: Literal["open", "closed"] = "open"
    operators: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
