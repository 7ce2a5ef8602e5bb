"""Which IP addresses may be connected to for a caller: public ones, and those that the operator allows. Pure.

The tables are those of IANA's registries of special-purpose addresses (RFC 6890 and what updates it). Of IPv6 all is
refused that is not global unicast, and every form that carries an IPv4 address inside: what it leads to is not seen
from it. Where clouds serve credentials to whoever asks is refused always, even in a network that is allowed.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
_Table = Sequence[tuple[str, Sequence[Network]]]


def _table(rows: Mapping[str, str]) -> _Table:
    return [
        (kind, [ipaddress.ip_network(each) for each in networks.split()]) for kind, networks in rows.items()
    ]


# Of AWS (EC2, ECS, EKS), Google Cloud, Azure, Oracle Cloud and Alibaba Cloud; some are public by their number.
_METADATA: Final = _table(
    {
        "serves a cloud's metadata": """
            169.254.169.254/32 169.254.170.2/32 169.254.170.23/32 168.63.129.16/32 192.0.0.192/32 100.100.100.200/32
            fd00:ec2::254/128 fd00:ec2::23/128 fd20:ce::254/128""",
    }
)
_SPECIAL: Final = _table(
    {
        "is this host's own": "127.0.0.0/8 0.0.0.0/8 ::1/128 ::/128",
        "is private": "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 100.64.0.0/10 fc00::/7 fec0::/10",
        "is link-local": "169.254.0.0/16 fe80::/10",
        "is multicast or broadcast": "224.0.0.0/4 255.255.255.255/32 ff00::/8",
        "carries an IPv4 address inside": """
            ::ffff:0:0/96 ::/96 64:ff9b::/96 64:ff9b:1::/48 2002::/16 2001::/32""",
        "is reserved": """
            192.0.0.0/24 192.0.2.0/24 192.88.99.0/24 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 240.0.0.0/4
            100::/64 2001::/23 2001:db8::/32 3fff::/20 5f00::/16""",
    }
)
_GLOBAL_V6: Final = ipaddress.ip_network("2000::/3")
# ISATAP (RFC 5214): an IPv4 address behind these four bytes.
_ISATAP: Final = (b"\x00\x00\x5e\xfe", b"\x02\x00\x5e\xfe")


def why_not(address: str, allowed: Sequence[Network]) -> str:
    """Why an IP address is not to be connected to, "" where it may be: "is private"."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return "is no IP address"
    if kind := _kind(found, _METADATA):
        return kind
    scoped = isinstance(found, ipaddress.IPv6Address) and found.scope_id is not None
    if not scoped and any(found.version == network.version and found in network for network in allowed):
        return ""
    return _kind(found, _SPECIAL) or ("" if _is_plain(found) else "is reserved")


def _is_plain(address: Address) -> bool:
    """Whether an address that is in no table is one of the public internet's."""
    if isinstance(address, ipaddress.IPv4Address):
        return True
    return address in _GLOBAL_V6 and address.scope_id is None and address.packed[8:12] not in _ISATAP


def _kind(address: Address, table: _Table) -> str:
    for kind, networks in table:
        if any(network.version == address.version and address in network for network in networks):
            return kind
    return ""
