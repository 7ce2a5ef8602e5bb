"""Fetching from a real server on loopback, whose names a resolver of the test's own knows."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sidecar.deadline import Deadline
from sidecar.edge.fetch.fetcher import FetchConfig, Fetcher
from sidecar.edge.receive import Link, UploadRoom
from sidecar.errors import (
    DeadlineExceeded,
    FetchFailed,
    FetchRefused,
    FetchUnavailable,
    InvalidRequest,
    MediaTooLarge,
    Overloaded,
    SettingsError,
    SidecarError,
)
from sidecar.media import Source
from sidecar.stages.admit.limits import Limits
from tests.edge.callers.authority import Authority

BODY = bytes(range(256)) * 16
PATIENCE_S = 10.0


def ok(body: bytes = BODY, *headers: str) -> bytes:
    lines = ["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def redirect(where: str, status: int = 302) -> bytes:
    return f"HTTP/1.1 {status} Found\r\nLocation: {where}\r\nContent-Length: 0\r\n\r\n".encode()


@dataclass(slots=True)
class Web:
    """A server: answers by path; `asked` is what came. One with None never answers."""

    port: int = 0
    answers: dict[str, bytes | None] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    open: int = 0
    most_open: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.asked.append(head)
            answer = self.answers.get(
                head.split(" ")[1], b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
            )
            if answer is None:
                await reader.read()
            else:
                writer.write(answer)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open -= 1
            writer.close()


@pytest.fixture
async def web() -> AsyncIterator[Web]:
    found = Web(answers={"/a": ok()})
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0)
    found.port = server.sockets[0].getsockname()[1]
    yield found
    server.close()
    await server.wait_closed()


@pytest.fixture(scope="module", autouse=True)
def trusted(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A few authorities of the test's own: the system's take a tenth of a second to load."""
    TRUSTED["ca"] = str(Authority().file(tmp_path_factory.mktemp("trusted")))


TRUSTED: dict[str, Any] = {}


@dataclass(slots=True)
class Names:
    """A resolver; counts how often it is asked. A name with several answers gives one after the other."""

    known: dict[str, list[Sequence[str]]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    async def __call__(self, host: str, _port: int) -> Sequence[str]:
        self.asked.append(host)
        answers = self.known.get(host, [["127.0.0.1"]])
        return answers.pop(0) if len(answers) > 1 else answers[0]


def fetcher(web: Web, names: Names | None = None, room: UploadRoom | None = None, **config: Any) -> Fetcher:
    given = {
        "hosts": ("media.test", "*.cdn.test"),
        "schemes": ("https", "http"),
        "ports": (web.port,),
        "allow_networks": ("127.0.0.0/8",),
    }
    return Fetcher(FetchConfig(**given | TRUSTED | config), room or UploadRoom(2**30, 10), names or Names())


async def fetch(
    fetching: Fetcher, *uris: str, limits: Limits | None = None, within_s: float = PATIENCE_S
) -> list[Source | SidecarError]:
    links = [Link(uri, "image/png", f"item {place}", f"media[{place}].uri") for place, uri in enumerate(uris)]
    return await fetching.fetch_all(links, limits or Limits(), "tenant", Deadline.after(within_s))


async def problem(fetching: Fetcher, uri: str) -> SidecarError:
    (found,) = await fetch(fetching, uri)
    assert isinstance(found, SidecarError), found
    return found


class TestWhatIsFetched:
    async def test_the_bytes_come_back_as_any_other_media_and_no_credentials_went_out(self, web: Web) -> None:
        (found,) = await fetch(fetcher(web), f"http://media.test:{web.port}/a?")
        assert isinstance(found, Source)
        assert (found.data, found.content_type, found.label) == (BODY, "image/png", "item 0")
        (head,) = web.asked
        assert head.startswith("GET /a HTTP/1.1\r\n")
        sent = dict(line.lower().split(": ", 1) for line in head.strip().splitlines()[1:])
        assert sent == {
            "host": f"media.test:{web.port}",
            "accept": "*/*",
            "accept-encoding": "identity",
            "user-agent": "multimodal-sidecar",
            "connection": "close",
        }

    async def test_bytes_that_were_sent_stay_among_those_that_are_fetched(self, web: Web) -> None:
        sent, refused = Source(b"sent"), InvalidRequest("no", field="")
        link = Link(f"http://media.test:{web.port}/a", "", "item 1", "")
        found = await fetcher(web).fetch_all([sent, link, refused], Limits(), "", Deadline.after(None))
        assert found[0] is sent
        assert found[2] is refused
        assert isinstance(found[1], Source)
        assert found[1].data == BODY

    @pytest.mark.parametrize(
        "answer",
        [
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n\r\nabc",
            b"HTTP/1.0 200 OK\r\n\r\nabc",
            b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
        ],
    )
    async def test_bodies_of_all_kinds_are_read(self, web: Web, answer: bytes) -> None:
        web.answers["/k"] = answer
        (found,) = await fetch(fetcher(web), f"http://media.test:{web.port}/k")
        assert isinstance(found, Source)
        assert found.data == b"abc"

    async def test_by_tls_the_certificate_must_be_the_names_though_the_address_is_connected_to(
        self, web: Web, tmp_path: Path
    ) -> None:
        authority = Authority()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*authority.files(tmp_path, "media.test", dns=["media.test"]))
        server = await asyncio.start_server(web.serve, "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]
        fetching = fetcher(web, ports=(port,), ca=str(authority.file(tmp_path)))
        (found,) = await fetch(fetching, f"https://media.test:{port}/a")
        assert isinstance(found, Source)
        assert found.data == BODY
        other = await problem(fetching, f"https://a.cdn.test:{port}/a")
        assert isinstance(other, FetchFailed)
        assert "certificate" in other.message
        untrusting = await problem(fetcher(web, ports=(port,)), f"https://media.test:{port}/a")
        assert isinstance(untrusting, FetchFailed)
        server.close()
        await server.wait_closed()


class TestWhereTo:
    async def test_without_hosts_nothing_is_fetched(self, web: Web) -> None:
        found = await problem(fetcher(web, hosts=()), f"http://media.test:{web.port}/a")
        assert isinstance(found, FetchRefused)
        assert "fetch.hosts" in found.message

    @pytest.mark.parametrize(
        ("host", "is_allowed"),
        [
            ("media.test", True),
            ("a.cdn.test", True),
            ("a.b.cdn.test", True),
            ("cdn.test", False),
            ("evilcdn.test", False),
            ("media.test.evil.test", False),
            ("127.0.0.1", False),
        ],
    )
    async def test_hosts_are_those_that_are_listed(self, web: Web, host: str, is_allowed: bool) -> None:
        (found,) = await fetch(fetcher(web), f"http://{host}:{web.port}/a")
        assert isinstance(found, Source) is is_allowed
        assert is_allowed or isinstance(found, FetchRefused)

    async def test_schemes_and_ports_are_those_that_are_listed(self, web: Web) -> None:
        assert (
            "fetch.schemes"
            in (await problem(fetcher(web, schemes=("https",)), "http://media.test/a")).message
        )
        assert "fetch.ports" in (await problem(fetcher(web), "http://media.test:81/a")).message
        assert not web.asked

    @pytest.mark.parametrize(
        "addresses",
        [
            ["127.0.0.1"],
            ["10.0.0.1"],
            ["8.8.8.8", "127.0.0.1"],
            ["::1"],
            ["::ffff:127.0.0.1"],
            ["169.254.169.254"],
        ],
    )
    async def test_a_name_with_any_address_that_is_not_public_is_refused(
        self, web: Web, addresses: Sequence[str]
    ) -> None:
        fetching = fetcher(web, Names({"media.test": [addresses]}), allow_networks=())
        found = await problem(fetching, f"http://media.test:{web.port}/a")
        assert isinstance(found, FetchRefused)
        assert not any(address in found.message for address in addresses)
        assert not web.asked

    @pytest.mark.parametrize(
        "host", ["2130706433", "0x7f000001", "127.1", "0177.0.0.1", "[::1]", "[::ffff:7f00:1]"]
    )
    async def test_loopback_by_any_spelling_is_refused_by_the_systems_own_resolver(
        self, web: Web, host: str
    ) -> None:
        config = FetchConfig(hosts=("*",), schemes=("http",), ports=(web.port,), **TRUSTED)
        fetching = Fetcher(config, UploadRoom(2**30, 10))
        found = await problem(fetching, f"http://{host}:{web.port}/a")
        assert isinstance(found, FetchRefused | FetchUnavailable)
        assert not web.asked

    async def test_a_name_is_resolved_once_a_hop_and_the_address_that_was_checked_is_connected_to(
        self, web: Web
    ) -> None:
        names = Names({"media.test": [["127.0.0.1"], ["10.0.0.1"]]})
        (found,) = await fetch(fetcher(web, names), f"http://media.test:{web.port}/a")
        assert isinstance(found, Source)
        assert names.asked == ["media.test"]

    async def test_the_next_address_is_tried_where_one_does_not_answer(self, web: Web) -> None:
        names = Names({"media.test": [["127.0.0.9", "127.0.0.1"]]})
        (found,) = await fetch(fetcher(web, names), f"http://media.test:{web.port}/a")
        assert isinstance(found, Source)


class TestRedirects:
    async def test_they_are_followed_to_other_hosts_that_are_allowed(self, web: Web) -> None:
        web.answers |= {"/r": redirect(f"http://x.cdn.test:{web.port}/s", 307), "/s": redirect("/a", 301)}
        names = Names()
        (found,) = await fetch(fetcher(web, names), f"http://media.test:{web.port}/r")
        assert isinstance(found, Source)
        assert found.data == BODY
        assert names.asked == ["media.test", "x.cdn.test", "x.cdn.test"]

    @pytest.mark.parametrize(
        ("where", "kind", "words"),
        [
            ("http://evil.test/", FetchRefused, "fetch.hosts"),
            ("http://127.0.0.1/", FetchRefused, "fetch.hosts"),
            ("http://inside.cdn.test/", FetchRefused, "private"),
            ("http://media.test:22/", FetchRefused, "fetch.ports"),
            ("file:///etc/passwd", FetchFailed, "https://"),
            ("http://user:pw@media.test/", FetchFailed, "user"),
        ],
    )
    async def test_where_they_lead_is_checked_anew(
        self, web: Web, where: str, kind: type[SidecarError], words: str
    ) -> None:
        web.answers["/r"] = redirect(where)
        found = await problem(
            fetcher(web, Names({"inside.cdn.test": [["10.0.0.7"]]})), f"http://media.test:{web.port}/r"
        )
        assert isinstance(found, kind)
        assert words in found.message
        assert len(web.asked) == 1

    async def test_the_same_name_that_resolves_to_inside_the_second_time_is_refused(self, web: Web) -> None:
        web.answers["/r"] = redirect("/a")
        names = Names({"media.test": [["127.0.0.1"], ["10.0.0.7"]]})
        found = await problem(fetcher(web, names), f"http://media.test:{web.port}/r")
        assert isinstance(found, FetchRefused)
        assert len(web.asked) == 1

    async def test_no_more_are_followed_than_is_set(self, web: Web) -> None:
        web.answers["/r"] = redirect("/r")
        found = await problem(fetcher(web, redirects=2), f"http://media.test:{web.port}/r")
        assert isinstance(found, FetchFailed)
        assert "fetch.redirects" in found.message
        assert len(web.asked) == 3

    async def test_one_from_https_to_http_is_refused_though_http_is_allowed(
        self, web: Web, tmp_path: Path
    ) -> None:
        authority = Authority()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*authority.files(tmp_path, "media.test", dns=["media.test"]))
        web.answers["/r"] = redirect(f"http://media.test:{web.port}/a")
        server = await asyncio.start_server(web.serve, "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]
        fetching = fetcher(web, ports=(port, web.port), ca=str(authority.file(tmp_path)))
        found = await problem(fetching, f"https://media.test:{port}/r")
        assert isinstance(found, FetchRefused)
        assert "https to http" in found.message
        server.close()
        await server.wait_closed()


class TestWhatServersDo:
    @pytest.mark.parametrize(
        ("answer", "kind", "words"),
        [
            (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", FetchFailed, "404"),
            (b"HTTP/1.1 206 Partial\r\nContent-Length: 0\r\n\r\n", FetchFailed, "206"),
            (b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n", FetchFailed, "302"),
            (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", FetchUnavailable, "503"),
            (b"HTTP/1.1 429 Slow\r\nContent-Length: 0\r\n\r\n", FetchUnavailable, "429"),
            (ok(BODY, "Content-Encoding: gzip"), FetchFailed, "compressed"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", FetchUnavailable, "broke off"),
            (b"", FetchUnavailable, "broke off"),
            (b"220 smtp ready\r\n\r\n", FetchFailed, "HTTP/1.1"),
            (b"HTTP/1.1 200 OK\r\nA: " + b"b" * 70_000, FetchFailed, "HTTP/1.1"),
            (b"HTTP/1.1 103 Hint\r\n\r\n" * 20, FetchFailed, "interim"),
        ],
    )
    async def test_what_is_no_media_is_the_items_own_problem(
        self, web: Web, answer: bytes, kind: type[SidecarError], words: str
    ) -> None:
        web.answers["/b"] = answer
        bad, good = await fetch(
            fetcher(web), f"http://media.test:{web.port}/b", f"http://media.test:{web.port}/a"
        )
        assert isinstance(bad, kind)
        assert words in bad.message
        assert "item 0" in bad.message
        assert isinstance(good, Source)

    async def test_one_that_never_answers_is_given_up(self, web: Web) -> None:
        web.answers["/n"] = None
        found = await problem(fetcher(web, timeout_s=0.2), f"http://media.test:{web.port}/n")
        assert isinstance(found, FetchUnavailable)
        assert "fetch.timeout_s" in found.message

    async def test_the_callers_own_deadline_ends_all(self, web: Web) -> None:
        web.answers["/n"] = None
        room = UploadRoom(2**20, 10)
        with pytest.raises(DeadlineExceeded, match="fetched"):
            await fetch(
                fetcher(web, room=room),
                f"http://media.test:{web.port}/a",
                f"http://media.test:{web.port}/n",
                within_s=0.2,
            )
        assert room.held == 0

    async def test_nobody_there_is_unavailable(self, web: Web) -> None:
        found = await problem(fetcher(web, ports=(9,)), "http://media.test:9/a")
        assert isinstance(found, FetchUnavailable)

    async def test_a_name_that_nobody_knows_is_unavailable(self, web: Web) -> None:
        async def unknown(_host: str, _port: int) -> Sequence[str]:
            raise OSError

        config = FetchConfig(hosts=("media.test",))
        found = await problem(Fetcher(config, UploadRoom(1, 1), unknown), "https://media.test/a")
        assert isinstance(found, FetchUnavailable)
        assert "DNS" in found.message
        assert web.asked == []


class TestBounds:
    @pytest.mark.parametrize("answer", [ok(b"x" * 5000), b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 5000])
    @pytest.mark.parametrize(
        ("config", "limit"),
        [({"bytes": 1000}, "fetch.bytes"), ({}, "limits.media_bytes")],
    )
    async def test_sizes_are_refused_announced_or_not(
        self, web: Web, answer: bytes, config: dict[str, Any], limit: str
    ) -> None:
        web.answers["/l"] = answer
        limits = Limits() if config else Limits(media_bytes=1000)
        (found,) = await fetch(fetcher(web, **config), f"http://media.test:{web.port}/l", limits=limits)
        assert isinstance(found, MediaTooLarge)
        assert found.facts["limit"] == limit

    async def test_items_together_are_bounded_as_an_uploads_are(self, web: Web) -> None:
        uri = f"http://media.test:{web.port}/a"
        found = await fetch(fetcher(web), uri, uri, limits=Limits(upload_bytes=len(BODY) + 1))
        assert [type(each) for each in sorted(found, key=lambda each: isinstance(each, Source))] == [
            MediaTooLarge,
            Source,
        ]

    async def test_the_uploads_room_bounds_all_calls_and_is_given_back(self, web: Web) -> None:
        room = UploadRoom(len(BODY), 10)
        await fetch(fetcher(web, room=room), f"http://media.test:{web.port}/a")
        assert room.held == 0
        room.take(1)
        with pytest.raises(Overloaded, match=r"server\.uploads_bytes"):
            await fetch(fetcher(web, room=room), f"http://media.test:{web.port}/a")
        assert room.held == 1

    async def test_no_more_run_at_once_than_is_set(self, web: Web) -> None:
        uris = [f"http://media.test:{web.port}/a"] * 12
        assert all(isinstance(each, Source) for each in await fetch(fetcher(web, concurrent=3), *uris))
        assert web.most_open <= 4  # the server sees a connection's end a moment later
        assert len(web.asked) == 12

    async def test_a_caller_who_leaves_ends_its_connections(self, web: Web) -> None:
        web.answers["/n"] = None
        room = UploadRoom(2**20, 10)
        task = asyncio.create_task(fetch(fetcher(web, room=room), f"http://media.test:{web.port}/n"))
        async with asyncio.timeout(PATIENCE_S):
            while not web.open:  # noqa: ASYNC110 - the kernel tells nobody
                await asyncio.sleep(0.001)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            while web.open:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.001)
        assert room.held == 0

    async def test_proxies_of_the_environment_are_not_asked(
        self, web: Web, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")
        (found,) = await fetch(fetcher(web), f"http://media.test:{web.port}/a")
        assert isinstance(found, Source)


class TestMessages:
    async def test_they_name_the_host_and_nothing_else_of_an_address(self, web: Web) -> None:
        secret = "s3cr3t"
        web.answers[f"/{secret}?{secret}"] = b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"
        cases: list[Callable[[], Any]] = [
            lambda: problem(fetcher(web), f"http://media.test:{web.port}/{secret}?{secret}"),
            lambda: problem(fetcher(web), f"http://u:{secret}@media.test/{secret}"),
            lambda: problem(fetcher(web), f"http://evil.test/{secret}?{secret}"),
            lambda: problem(fetcher(web), f"http://media.test:81/{secret}"),
        ]
        for case in cases:
            found = await case()
            assert secret not in found.message
            assert secret not in str(found.facts)


class TestSettings:
    @pytest.mark.parametrize(
        "host", ["", "A.com", "https://a.com", "a.com:80", "*.", "*a.com", "*.*.a", "a b"]
    )
    def test_hosts_that_are_none_are_told(self, host: str) -> None:
        with pytest.raises(SettingsError, match=r"fetch\.hosts"):
            FetchConfig(hosts=(host,))

    @pytest.mark.parametrize("network", ["10.0.0.1/8", "ten", "10.0.0.0/33"])
    def test_networks_that_are_none_are_told(self, network: str) -> None:
        with pytest.raises(SettingsError, match=r"fetch\.allow_networks"):
            FetchConfig(allow_networks=(network,))

    def test_authorities_that_are_none_are_told(self, tmp_path: Path) -> None:
        file = tmp_path / "ca.pem"
        file.write_text("none")
        with pytest.raises(SettingsError, match=r"fetch\.ca"):
            Fetcher(FetchConfig(hosts=("*",), ca=str(file)), UploadRoom(1, 1))
