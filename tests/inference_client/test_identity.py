"""What a client shows and whom it trusts is checked before anything is sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from inference_client import AsyncClient, Client, Hedges, Tls, link, token_file
from inference_client.identity import Bearer


@pytest.mark.parametrize(
    "address", ["127.0.0.1:1", "[::1]:1", "localhost:1", "unix:/tmp/s", "unix-abstract:s"]
)
def test_a_token_goes_to_this_machine_in_the_clear(address: str) -> None:
    Client(address, token="t").close()


@pytest.mark.parametrize("address", ["10.0.0.1:1", "sidecar.test:1", "dns:///sidecar.test:1", "[2606::1]:1"])
def test_it_goes_to_another_by_tls_alone_unless_that_is_asked_for(address: str) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(ValueError, match="in the clear"):
            kind(address, token="t")
    Client(address, token="t", tls=Tls()).close()
    Client(address, token="t", token_in_clear=True).close()


def test_nor_does_it_by_a_hedge() -> None:
    with pytest.raises(ValueError, match=r"10\.0\.0\.9"):
        Client("127.0.0.1:1", token="t", hedges=Hedges(addresses=["10.0.0.9:1"]))


@pytest.mark.parametrize("token", ["a b", "a\n", "ä"])
def test_a_token_that_cannot_be_carried_is_told_without_it(token: str) -> None:
    with pytest.raises(ValueError, match="printable") as refused:
        Bearer((), token, [], is_safe=True).metadata()
    assert token not in str(refused.value)


def test_a_token_of_a_file_is_read_for_each_call(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("one\n")
    bearer = Bearer((("a", "b"),), token_file(file), [], is_safe=True)
    assert bearer.metadata() == (("a", "b"), ("authorization", "Bearer one"))
    file.write_text("two")
    assert bearer.metadata()[1] == ("authorization", "Bearer two")


def test_without_a_token_nothing_is_added() -> None:
    assert Bearer((("a", "b"),), "", ["10.0.0.1:1"], is_safe=False).metadata() == (("a", "b"),)


def test_tls_is_said_once_and_whole(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="go together"):
        Tls(certificate="a")
    with pytest.raises(ValueError, match="either"):
        Client(tls=Tls(), credentials=Tls().credentials())
    with pytest.raises(OSError, match="none"):
        Client(tls=Tls(ca=tmp_path / "none"))


def test_an_address_is_an_item_without_bytes() -> None:
    item = link("https://example.com/a.jpg", name="cat")
    assert (item.uri, item.size, item.name, item.read()) == ("https://example.com/a.jpg", 0, "cat", b"")
