"""The door before every method of the server, whatever service: who calls, and whether that caller may.

It stands where gRPC has a call's headers and nothing else, so a caller who is refused has sent its message in vain,
and nobody has read it. Certificates were seen to by TLS before; which of them may come in, and who they are, is asked
when a method of ours is entered, where gRPC tells. Nothing of a token is kept, logged or answered.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import grpc
from grpc import aio
from multimodal.v1 import diagnostics_pb2

from sidecar.edge import receive, respond
from sidecar.edge.around import Context
from sidecar.edge.callers.caller import CALLER, HEADER, Caller, Tokens
from sidecar.edge.callers.config import CallersConfig
from sidecar.edge.callers.token_file import TokenFile
from sidecar.edge.certificates import TlsConfig
from sidecar.errors import PermissionDenied, SidecarError, Unauthenticated
from sidecar.observe.metrics import Metrics

if TYPE_CHECKING:
    from sidecar.edge.callers.key_set import KeySource

_Metadata = Iterable[tuple[str, str | bytes]]

_SCHEME: Final = "bearer "
_HEALTH: Final = "/grpc.health.v1.Health/"
# What changes the server, or shows the work of all tenants, is for operators. No two services share a method's name.
_FOR_OPERATORS: Final = frozenset(
    {method.name for method in diagnostics_pb2.DESCRIPTOR.services_by_name["Diagnostics"].methods}
    | {"RepositoryModelLoad", "RepositoryModelUnload", "LogSettings", "TraceSetting"}
)


class Callers:
    """Knows callers. Raises SettingsError for files that cannot be used."""

    def __init__(self, config: CallersConfig, tls: TlsConfig, tenant_key: str) -> None:
        """`tenant_key` is the metadata key by which callers name their tenant; empty: they are one."""
        self._config = config
        self._tls = tls
        self._tenant_key = tenant_key
        self._operators = frozenset(config.operators)
        self._file = TokenFile(Path(config.tokens)) if config.tokens else None
        self._keys: KeySource | None = None
        self._signed: Tokens | None = None
        if config.jwt.keys:
            # PyJWT and what it stands on take 0.1 s to load, which only those pay who take signed tokens.
            from sidecar.edge.callers.key_set import key_source  # noqa: PLC0415
            from sidecar.edge.callers.signed import SignedTokens  # noqa: PLC0415

            self._keys = key_source(config.jwt)
            self._signed = SignedTokens(config.jwt, self._keys.keys, missing=self._keys.missing)

    @property
    def need_tokens(self) -> bool:
        return self._file is not None or self._signed is not None

    async def watch(self) -> None:
        """Keeps keys fresh, until it is cancelled."""
        if self._keys is not None:
            await self._keys.watch()

    def by_token(self, method: str, metadata: _Metadata | None) -> Caller | None:
        """Who calls a method, by its path; None where nobody is asked. Raises Unauthenticated, PermissionDenied."""
        if not self.need_tokens or (self._config.health == "open" and method.startswith(_HEALTH)):
            return None
        token = _token(metadata or ())
        caller = self._tokens(token).caller(token)
        self._check_may(method.rpartition("/")[2], caller)
        return caller

    def recognise(self, method: str, context: Context) -> None:
        """Finds out who calls a method, by its bare name, from the certificate that was shown. Raises PermissionDenied.

        Who shows none, as on sockets of this machine, is nobody; where a token tells too, it says who calls.
        """
        if not self._tls.client_ca:
            return
        names = [name.decode(errors="replace") for name in context.peer_identities() or ()]
        if not names:
            return
        known = [name for name in names if not self._tls.names or name in self._tls.names]
        if not known:
            raise PermissionDenied("none of the certificate's names is in `tls.names`")
        if CALLER.get() is None:
            caller = Caller(known[0], by_token=False)
            self._check_may(method, caller)
            CALLER.set(caller)

    def tenant(self, context: Context) -> str:
        """Whose call it is; empty where callers are not told apart. Raises PermissionDenied for another's name."""
        named = receive.tenant(context.invocation_metadata(), self._tenant_key)
        caller = CALLER.get()
        if caller is None:
            return named
        if not named or named == caller.tenant:
            return caller.tenant
        if caller.tenant in self._config.gateways:
            return named
        raise PermissionDenied(
            f"the caller is known as {caller.tenant!r} and `{self._tenant_key}` names another tenant: leave it out, or "
            "have the caller listed in `callers.gateways`"
        )

    def _tokens(self, token: str) -> Tokens:
        """Who is to believe a token: signed ones have three parts, and those of a file have none."""
        is_signed = token.count(".") == 2  # noqa: PLR2004 - RFC 7515: header, payload, signature
        if self._signed is not None and (is_signed or self._file is None):
            return self._signed
        assert self._file is not None  # noqa: S101 - one of the two is there
        return self._file

    def _check_may(self, method: str, caller: Caller) -> None:
        if method in _FOR_OPERATORS and caller.tenant not in self._operators:
            raise PermissionDenied(
                f"{method} is for operators, and {caller.tenant!r} is not in `callers.operators`"
            )


def _token(metadata: _Metadata) -> str:
    found = [str(value) for key, value in metadata if key == HEADER]
    if len(found) != 1 or not found[0].lower().startswith(_SCHEME):
        raise Unauthenticated(f"the call needs one token: send the metadata `{HEADER}: Bearer TOKEN`")
    return found[0][len(_SCHEME) :].strip()


class Door(aio.ServerInterceptor):
    """Asks for tokens before anything else of a call is looked at."""

    def __init__(self, callers: Callers, metrics: Metrics) -> None:
        self._callers = callers
        self._metrics = metrics

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:  # noqa: ANN401 - a handler of gRPC's
        """The method's own handler, or one that refuses, and reads nothing."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None  # no such method, which gRPC says itself
        method = str(handler_call_details.method)
        try:
            CALLER.set(self._callers.by_token(method, handler_call_details.invocation_metadata))
        except SidecarError as refusal:
            return self._refusing(method, refusal.bare())
        return handler

    def _refusing(self, method: str, refusal: SidecarError) -> grpc.RpcMethodHandler[Any, Any]:
        async def refuse(_requests: object, context: Context) -> None:
            with self._metrics.call(method.rpartition("/")[2]) as call:
                call.reason = refusal.reason
            await respond.abort(context, refusal)

        # A handler of streams is called before the first message is asked for, whatever kind of method it is.
        return grpc.stream_stream_rpc_method_handler(refuse, None, None)
