"""Only public addresses are connected to, in whatever form others come; a cloud's metadata never."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.edge.fetch.networks import why_not

PRIVATE = [ipaddress.ip_network(text) for text in ("10.0.0.0/8", "fd00::/8", "169.254.0.0/16", "127.0.0.0/8")]


@pytest.mark.parametrize(
    "address", ["93.184.216.34", "8.8.8.8", "1.1.1.1", "2606:4700::1111", "2a00:1450:4001:831::200e"]
)
def test_public_addresses_may_be_connected_to(address: str) -> None:
    assert not why_not(address, [])


@pytest.mark.parametrize(
    ("addresses", "why"),
    [
        ("127.0.0.1 127.255.255.254 0.0.0.0 ::1 ::", "own"),
        ("10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1 100.64.0.1 fc00::1 fd12::1 fec0::1", "private"),
        ("169.254.1.1 fe80::1", "link-local"),
        ("224.0.0.1 239.255.255.255 255.255.255.255 ff02::1", "multicast"),
        (
            "::ffff:127.0.0.1 ::ffff:8.8.8.8 ::7f00:1 64:ff9b::a00:1 64:ff9b:1::1 2002:7f00:1:: 2001:0:1::1",
            "inside",
        ),
        ("192.0.2.1 198.18.0.1 203.0.113.9 240.0.0.1 100::1 2001:db8::1 3fff::1 5f00::1 4000::1", "reserved"),
        ("2606:4700::5efe:7f00:1 2606:4700::200:5efe:7f00:1", "reserved"),
        (
            "169.254.169.254 169.254.170.2 168.63.129.16 100.100.100.200 fd00:ec2::254 fd20:ce::254",
            "metadata",
        ),
        ("localhost 1 0x7f000001 127.1", "no IP address"),
    ],
)
def test_all_others_are_refused_by_what_they_are(addresses: str, why: str) -> None:
    assert {address: why in why_not(address, []) for address in addresses.split()} == dict.fromkeys(
        addresses.split(), True
    )


def test_networks_that_are_allowed_may_be_connected_to_but_for_metadata_and_scopes() -> None:
    assert not why_not("10.1.2.3", PRIVATE)
    assert not why_not("127.0.0.1", PRIVATE)
    assert not why_not("fd12::1", PRIVATE)
    assert why_not("192.168.1.1", PRIVATE)
    assert why_not("::ffff:10.1.2.3", PRIVATE)
    assert "metadata" in why_not("169.254.169.254", PRIVATE)
    assert "metadata" in why_not("fd00:ec2::254", PRIVATE)
    assert why_not("fe80::1%eth0", [ipaddress.ip_network("fe80::/10")])


@settings(max_examples=50, deadline=None)
@given(st.ip_addresses())
def test_what_python_does_not_call_global_is_refused(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    """Two tables by two hands. Ours refuses more: IPv4 inside IPv6, clouds' metadata, multicast."""
    if not address.is_global:
        assert why_not(str(address), [])
