"""Addresses are read strictly, and what is wrong with one is said without repeating it."""

from __future__ import annotations

import pytest

from sidecar.edge.fetch import url
from sidecar.edge.fetch.url import Url


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://example.com", Url("https", "example.com", 443, "/")),
        ("HTTPS://Example.COM./a%20b?c=d&e=%2F#f", Url("https", "example.com", 443, "/a%20b?c=d&e=%2F")),
        ("http://example.com:8080/a", Url("http", "example.com", 8080, "/a")),
        ("https://[2606:4700:0::1]:8443/", Url("https", "2606:4700::1", 8443, "/")),
        ("https://192.0.2.1/x", Url("https", "192.0.2.1", 443, "/x")),
        ("https://a_b.example-1.com/", Url("https", "a_b.example-1.com", 443, "/")),
    ],
)
def test_what_is_usual_is_read_into_its_parts(text: str, expected: Url) -> None:
    assert url.read(text) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("example.com/a", "https://"),
        ("//example.com/a", "https://"),
        ("file:///etc/passwd", "https://"),
        ("ftp://example.com/", "https://"),
        ("gopher://example.com/", "https://"),
        ("https://user:secret@example.com/", "user"),
        ("https://user@example.com/", "user"),
        ("https://@example.com/", "user"),
        ("https://example.com\\@evil.test/", "percent-encoded"),
        ("https://exa mple.com/", "percent-encoded"),
        ("https://example.com/\r\nHost: evil", "percent-encoded"),
        ("https://example.com/ä", "percent-encoded"),
        ("https://exämple.com/", "percent-encoded"),
        ("https://example.com/\x00", "percent-encoded"),
        ("https:///a", "host"),
        ("https://-a.com/", "host"),
        ("https://a..com/", "host"),
        ("https://" + "a" * 64 + ".com/", "host"),
        ("https://[fe80::1%25eth0]/", "host"),
        ("https://[::1/", "host"),
        ("https://example.com:0/", "port"),
        ("https://example.com:65536/", "port"),
        ("https://example.com:x/", "port"),
        ("https://example.com/" + "a" * 8000, "characters"),
    ],
)
def test_what_is_unusual_is_refused_in_words_that_do_not_repeat_it(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as refused:
        url.read(text)
    assert "secret" not in str(refused.value)
    assert "evil" not in str(refused.value)


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("/b?c", "https://example.com:443/b?c"),
        ("b", "https://example.com:443/a/b"),
        ("//other.test/x", "https://other.test:443/x"),
        ("http://other.test/x", "http://other.test:80/x"),
        ("https://[2606::1]/x", "https://[2606::1]:443/x"),
    ],
)
def test_redirects_are_resolved_as_browsers_do(location: str, expected: str) -> None:
    assert url.joined(url.read("https://example.com/a/z?q"), location).text() == expected


@pytest.mark.parametrize("location", ["file:///etc/passwd", "https://u:p@h/", "https://h\\i/", "a" * 9000])
def test_redirects_are_read_as_strictly(location: str) -> None:
    with pytest.raises(ValueError, match="redirects to"):
        url.joined(url.read("https://example.com/"), location)
