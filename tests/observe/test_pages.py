"""The HTTP server beside gRPC: pages by their paths, and nobody who holds up another."""

from __future__ import annotations

import http.client
import logging
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from sidecar.observe import pages
from sidecar.observe.pages import Page, serve_pages

HERE = "127.0.0.1"
# Far more than any answer takes; what needs as long is stuck.
PATIENCE_S = 10.0


def metrics(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
    """An application that tells how it was asked."""
    if environ["QUERY_STRING"] == "broken":
        raise KeyError("metrics")
    start("200 OK", [("Content-Type", "text/plain")])
    return [f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}?{environ['QUERY_STRING']}".encode()]


def page(path: str) -> Page | None:
    """Pages of these paths."""
    if path == "/broken":
        raise KeyError(path)
    return {
        "/": Page("text/html; charset=utf-8", b"<p>hello"),
        "/status.json": Page("application/json", b"{}"),
        "/busy": Page("text/plain; charset=utf-8", b"later", "503 Service Unavailable"),
        "/Zürich".encode().decode("latin-1"): Page("text/plain; charset=utf-8", b"there"),
        "/large": Page("application/octet-stream", bytes(20_000_000)),
    }.get(path)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serve_pages(HERE, 0, metrics, page) as served:
        yield served


def asked(port: int, path: str, method: str = "GET", host: str = HERE) -> tuple[int, dict[str, str], bytes]:
    """The status, the headers and the body of an answer."""
    connection = http.client.HTTPConnection(host, port, timeout=PATIENCE_S)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, dict(answer.headers), answer.read()
    finally:
        connection.close()


@contextmanager
def silent(port: int) -> Iterator[socket.socket]:
    """A client that has connected and says nothing."""
    with socket.create_connection((HERE, port), PATIENCE_S) as connection:
        yield connection


class TestAnswers:
    def test_metrics_are_the_application_s_with_whatever_was_asked(self, port: int) -> None:
        assert asked(port, "/metrics")[2] == b"GET /metrics?"
        assert asked(port, "/metrics?name[]=up")[2] == b"GET /metrics?name[]=up"

    @pytest.mark.parametrize(
        ("path", "status", "kind", "body"),
        [
            ("/", 200, "text/html; charset=utf-8", b"<p>hello"),
            ("/?window_s=5", 200, "text/html; charset=utf-8", b"<p>hello"),
            ("/status.json", 200, "application/json", b"{}"),
            ("/Z%C3%BCrich", 200, "text/plain; charset=utf-8", b"there"),
            ("/busy", 503, "text/plain; charset=utf-8", b"later"),
        ],
    )
    def test_everything_else_is_a_page_by_its_path(
        self, port: int, path: str, status: int, kind: str, body: bytes
    ) -> None:
        found, headers, content = asked(port, path)
        assert (found, headers["Content-Type"], content) == (status, kind, body)
        assert int(headers["Content-Length"]) == len(body)

    def test_pages_are_of_the_moment_and_what_they_say_they_are(self, port: int) -> None:
        _, headers, _ = asked(port, "/status.json")
        assert (headers["Cache-Control"], headers["X-Content-Type-Options"]) == ("no-store", "nosniff")

    @pytest.mark.parametrize("path", ["/nowhere", "/metrics/", "/../etc/passwd", "/METRICS", "/%00"])
    def test_a_path_that_leads_nowhere_says_where_something_is(self, port: int, path: str) -> None:
        status, _, body = asked(port, path)
        assert status == 404
        assert b"/metrics" in body

    @pytest.mark.parametrize(("path", "status"), [("/", 200), ("/busy", 503), ("/nowhere", 404)])
    def test_who_asks_for_the_head_gets_the_head(self, port: int, path: str, status: int) -> None:
        found, headers, body = asked(port, path, "HEAD")
        assert (found, body) == (status, b"")
        assert headers["Content-Length"] == asked(port, path)[1]["Content-Length"]

    def test_a_large_page_comes_whole(self, port: int) -> None:
        assert len(asked(port, "/large")[2]) == 20_000_000

    @pytest.mark.parametrize("path", ["/broken", "/metrics?broken"])
    def test_one_that_fails_is_told_in_the_log_and_costs_itself_only(
        self, port: int, path: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
    ) -> None:
        status, _, body = asked(port, path)
        assert status == 500
        assert b"KeyError" not in body
        (record,) = caplog.records
        assert (record.levelno, record.name) == (logging.ERROR, "sidecar.observe.pages")
        assert asked(port, "/")[0] == 200
        assert "Traceback" not in capfd.readouterr().err

    @pytest.mark.parametrize(
        "said",
        [
            b"\r\n\r\n",
            b"nonsense\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"\xff\xfe\x00\r\n\r\n",
            b"GET /" + b"x" * 70_000,
        ],
        ids=["nothing", "nonsense", "a later HTTP", "bytes", "a line without end"],
    )
    def test_what_is_no_request_costs_itself_only(
        self, port: int, said: bytes, capfd: pytest.CaptureFixture[str]
    ) -> None:
        with silent(port) as connection:
            connection.sendall(said)
            connection.shutdown(socket.SHUT_WR)
            try:
                answer = connection.recv(1 << 16)
            except ConnectionError:  # it had more to say than was heard
                answer = b""
        assert b" 200 " not in answer
        assert asked(port, "/")[0] == 200
        assert "Traceback" not in capfd.readouterr().err


class TestClientsThatTakeTheirTime:
    def test_one_that_connects_and_says_nothing_holds_nobody_up(self, port: int) -> None:
        with silent(port), silent(port), silent(port):
            assert asked(port, "/")[0] == 200
            assert asked(port, "/metrics")[0] == 200

    def test_nor_does_one_that_does_not_take_what_it_asked_for(self, port: int) -> None:
        with silent(port) as connection:
            connection.sendall(b"GET /large HTTP/1.0\r\n\r\n")
            assert connection.recv(1)
            assert asked(port, "/")[0] == 200

    @pytest.fixture
    def impatient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pages, "_PATIENCE_S", 0.2)

    @pytest.mark.usefixtures("impatient")
    def test_one_that_says_nothing_is_let_go(self, port: int, capfd: pytest.CaptureFixture[str]) -> None:
        with silent(port) as connection:
            assert connection.recv(1) == b""
        assert "Traceback" not in capfd.readouterr().err

    @pytest.mark.usefixtures("impatient")
    def test_so_is_one_that_never_comes_to_an_end(self, port: int) -> None:
        gone = threading.Event()

        def says(connection: socket.socket) -> None:
            """A header a moment, for ever: each comes long before a silence would be noticed."""
            while not gone.wait(0.02):
                try:
                    connection.sendall(b"X: y\r\n")
                except ConnectionError:
                    return

        with silent(port) as connection:
            connection.sendall(b"GET / HTTP/1.0\r\n")
            talking = threading.Thread(target=says, args=(connection,))
            talking.start()
            try:
                heard = connection.recv(1)
            except ConnectionError:
                heard = b""
            finally:
                gone.set()
                talking.join()
        assert heard == b""


class TestPorts:
    def test_a_port_that_is_taken_is_an_error(self, port: int) -> None:
        with pytest.raises(OSError, match="in use"):
            serve_pages(HERE, port, metrics, page)

    def test_so_is_an_address_that_is_not_this_machine_s(self) -> None:
        with pytest.raises(OSError, match="assign"):
            serve_pages("192.0.2.1", 0, metrics, page)  # kept free for examples (RFC 5737)

    def test_so_is_a_port_that_is_none(self) -> None:
        with pytest.raises(OverflowError):
            serve_pages(HERE, 70_000, metrics, page)

    def test_it_is_free_again_after_the_block_whoever_is_still_connected(self) -> None:
        threads = set(threading.enumerate())
        with serve_pages(HERE, 0, metrics, page) as first:
            assert asked(first, "/")[0] == 200
            connected = socket.create_connection((HERE, first), PATIENCE_S)
        with connected:
            with pytest.raises(ConnectionRefusedError):
                asked(first, "/")
            with serve_pages(HERE, first, metrics, page) as again:
                assert again == first
                assert asked(again, "/")[0] == 200
        assert "pages" not in {thread.name for thread in set(threading.enumerate()) - threads}

    def test_binding_asks_no_name_server(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def asks(_name: str) -> str:
            raise AssertionError("a name server was asked")

        monkeypatch.setattr(socket, "getfqdn", asks)
        with serve_pages(HERE, 0, metrics, page) as served:
            assert asked(served, "/")[0] == 200

    def test_an_ipv6_address_is_served_too(self) -> None:
        try:
            with socket.socket(socket.AF_INET6) as probe:
                probe.bind(("::1", 0))
        except OSError as error:
            pytest.skip(f"no IPv6 here: {error}")
        with serve_pages("::1", 0, metrics, page) as served:
            assert asked(served, "/", host="::1")[0] == 200
