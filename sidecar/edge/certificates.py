"""TLS: the server's certificate and key, and whose certificates callers are to show, from files that are renewed.

gRPC asks for them at every handshake, so a certificate that was renewed on disk is used for every connection from then
on; those that are open stay as they are. A pair that does not fit together, as while one of two files has been
replaced, changes nothing. A key is never logged, nor written anywhere but to memory.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc

from sidecar.edge.watched import Watched
from sidecar.errors import SettingsError

_HANDED_OVER: Final = "a certificate's private key"


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """TLS of all addresses that are "host:port"; sockets of this machine stay plain, and are kept by their modes.

    `certificate` and `key` are PEM files, the first with its chain; empty for no TLS. `client_ca` is a PEM file of the
    authorities of whose certificates callers must show one; empty asks for none. `names` are the callers that are let
    in then, by a subject alternative name or, without any, the common name; empty lets in all.
    """

    certificate: str = ""
    key: str = ""
    client_ca: str = ""
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for key, given, needs in (
            ("tls.certificate", self.certificate, self.key),
            ("tls.key", self.key, self.certificate),
            ("tls.names", ", ".join(self.names), self.client_ca),
        ):
            if given and not needs:
                other = {"tls.certificate": "tls.key", "tls.key": "tls.certificate"}.get(key, "tls.client_ca")
                raise SettingsError(
                    f"`{key}` has the value {given!r}, which is nothing without `{other}`: set both",
                    key=key,
                    value=given,
                )
        if self.client_ca and not self.certificate:
            raise SettingsError(
                f"`tls.client_ca` has the value {self.client_ca!r}, which is nothing without `tls.certificate` and "
                "`tls.key`: callers show certificates only by TLS",
                key="tls.client_ca",
                value=self.client_ca,
            )


def server_credentials(config: TlsConfig) -> grpc.ServerCredentials | None:
    """What an address is bound with; None without TLS. Raises SettingsError for files that cannot be used."""
    if not config.certificate:
        return None
    files = [Path(file) for file in (config.certificate, config.key, config.client_ca) if file]
    found = Watched("tls.certificate", files, _read)
    current = found.value()
    return grpc.dynamic_ssl_server_credentials(
        current, found.value, require_client_authentication=bool(config.client_ca)
    )


def _read(contents: Sequence[bytes]) -> Any:  # noqa: ANN401 - gRPC's class has no public name
    certificate, key, *client_ca = contents
    _check(certificate, key, *client_ca)
    return grpc.ssl_server_certificate_configuration([(key, certificate)], *client_ca)


def _check(certificate: bytes, key: bytes, client_ca: bytes | None = None) -> None:
    """Raises ValueError where the two do not belong together, or the authorities are none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # OpenSSL reads pairs from files alone; this one is memory, and holds the very bytes that gRPC is given.
    memory = os.memfd_create(_HANDED_OVER.replace(" ", "-"), os.MFD_CLOEXEC)
    try:
        with open(memory, "wb", closefd=False) as file:
            file.write(certificate + b"\n" + key)
        context.load_cert_chain(f"/proc/self/fd/{memory}", password=lambda: b"")
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or "no certificate, no key, or a key with a passphrase"
        raise ValueError(f"certificate and key are no pair in PEM ({reason})") from None
    finally:
        os.close(memory)
    if client_ca is not None:
        try:
            context.load_verify_locations(cadata=client_ca.decode("ascii"))
        except (ssl.SSLError, ValueError):
            raise ValueError("the callers' authorities are no certificates in PEM") from None
