"""The status page beside the metrics: what is served where, and that page and contract speak of the same fields."""

from __future__ import annotations

import http.client
import json
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor
from multimodal.v1 import diagnostics_pb2 as pb

import sidecar.edge
from inference_client import Client
from sidecar.observe.timings import Stage
from tests.running import Running, running

CLIP = {"clip": "clip-vit-base-patch32"}
NOBODY = "127.0.0.1:9"  # the discard port: nothing listens there
PAGE = (Path(sidecar.edge.__file__).parent / "status.html").read_text(encoding="utf-8")
(SCRIPT,) = re.findall(r"<script>(.*)</script>", PAGE, re.DOTALL)
# An answer that takes longer was held up by somebody.
PATIENCE_S = 5

Answer = tuple[int, http.client.HTTPMessage, bytes]


@pytest.fixture(scope="module")
def watched() -> Iterator[Running]:
    """A sidecar that watches one model, at a model server that is not there, and has looked twice."""
    with running(CLIP, NOBODY) as started, Client(started.address) as client:
        next(each for each in client.watch() if each.upstreams and each.machine is not None)
        yield started


def asked(sidecar: Running, path: str, method: str = "GET") -> Answer:
    host, _, port = sidecar.app.metrics_address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=PATIENCE_S)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


class TestServing:
    @pytest.mark.parametrize("path", ["/", "/index.html", "/?window=5"])
    def test_the_page_is_served_as_it_was_installed(self, watched: Running, path: str) -> None:
        status, headers, body = asked(watched, path)
        assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
        assert body.decode() == PAGE

    def test_the_picture_is_served_as_json_that_nobody_keeps(self, watched: Running) -> None:
        status, headers, body = asked(watched, "/status.json")
        assert (status, headers["Content-Type"]) == (200, "application/json")
        assert headers["Cache-Control"] == "no-store"
        (clip,) = json.loads(body)["upstreams"]
        assert (clip["upstream"], clip["finding"]) == ("clip", "FINDING_NO_DEMAND")

    @pytest.mark.parametrize(
        "path", ["/nowhere", "/status.html", "/status.json/", "/metrics/", "/../status.html"]
    )
    def test_elsewhere_there_is_nothing(self, watched: Running, path: str) -> None:
        assert asked(watched, path)[0] == 404

    @pytest.mark.parametrize("path", ["/", "/status.json", "/nowhere"])
    def test_head_tells_what_get_would_and_sends_nothing(self, watched: Running, path: str) -> None:
        status, headers, body = asked(watched, path, "HEAD")
        got, whole, content = asked(watched, path)
        assert (status, body) == (got, b"")
        assert headers["Content-Type"] == whole["Content-Type"]
        assert int(headers["Content-Length"]) > 0
        if path == "/":
            assert int(headers["Content-Length"]) == len(content)

    def test_the_metrics_are_where_they_were(self, watched: Running) -> None:
        status, headers, body = asked(watched, "/metrics")
        assert (status, headers["Content-Type"].split(";")[0]) == (200, "text/plain")
        assert b"sidecar_" in body

    @pytest.mark.parametrize(
        "said",
        [b"", b"GET /status.js", b"GET / HTTP/1.1\r\nHost: x\r\n", b"GET / HTTP/1.1\r\n\r\n", b"\x16\3\1"],
    )
    def test_clients_that_are_slow_or_silent_hold_up_nobody(self, watched: Running, said: bytes) -> None:
        host, _, port = watched.app.metrics_address.rpartition(":")
        with ExitStack() as idle:
            for _ in range(20):
                connection = idle.enter_context(socket.create_connection((host, int(port)), PATIENCE_S))
                connection.sendall(said)
            for path in ("/", "/status.json", "/metrics"):
                assert asked(watched, path)[0] == 200

    def test_where_nobody_watches_that_is_said(self) -> None:
        with running(None, None, "verdict.enabled=false") as unwatched:
            status, _, body = asked(unwatched, "/status.json")
            assert (status, body.decode()) == (503, "nobody watches here: set `verdict.enabled`")
            assert asked(unwatched, "/")[0] == 200


def messages(root: Descriptor) -> Iterator[Descriptor]:
    """A message and all that it is made of."""
    yield root
    for field in root.fields:
        if field.message_type is not None:
            yield from messages(field.message_type)


ROOT = pb.VerdictResponse.DESCRIPTOR
FIELDS = {field.name for message in messages(ROOT) for field in message.fields}
# The part of the time that its states have as IDLE_PREP.
TOLD_OTHERWISE = {"starved"}


class TestFields:
    @pytest.mark.parametrize("name", sorted(FIELDS - TOLD_OTHERWISE))
    def test_the_page_shows_every_field_of_the_contract(self, name: str) -> None:
        assert re.search(rf"\.{name}\b", SCRIPT)

    def test_the_page_reads_no_field_that_the_contract_has_not(self) -> None:
        read = set(re.findall(r"\.([a-z]+(?:_[a-z]+)+)\b", SCRIPT))
        assert read <= FIELDS
        owners = "up|status|now|machine|gpu|load|lane|line|worker|at"
        assert set(re.findall(rf"\b(?:{owners})\.([a-z_]+)\b", SCRIPT)) - {"json"} <= FIELDS

    def test_all_that_the_page_reads_is_in_the_json(self, watched: Running) -> None:
        told = json.loads(asked(watched, "/status.json")[2])
        self.complete(told, ROOT)
        assert told["upstreams"]
        assert told["lanes"]
        assert told["fleet"]["workers"]

    def complete(self, told: dict[str, Any], message: Descriptor) -> None:
        """Every field is there, by its own name, but for those that say that they may not be."""
        optional = {
            field.name for field in message.fields if field.has_presence and field.message_type is None
        }
        assert {field.name for field in message.fields} - optional <= set(told) <= FIELDS
        for field in message.fields:
            if field.message_type is not None:
                parts = told[field.name] if isinstance(told[field.name], list) else [told[field.name]]
                for part in parts:
                    self.complete(part, field.message_type)

    def test_enums_come_by_name_and_pids_as_text_which_the_page_knows(self, watched: Running) -> None:
        told = json.loads(asked(watched, "/status.json")[2])
        names = {each["state"] for each in told["upstreams"][0]["states"]}
        assert names == {name for name, number in pb.AcceleratorState.items() if number}
        assert all(worker["pid"].isdigit() for worker in told["fleet"]["workers"])

    def test_the_page_knows_every_state_stage_and_class(self) -> None:
        states = [name.removeprefix("ACCELERATOR_STATE_").lower() for name in pb.AcceleratorState.keys()]  # noqa: SIM118 - no mapping
        for state in states[1:]:
            assert f'["{state}", "' in SCRIPT
            assert f".{state} {{" in PAGE
        (stages,) = re.findall(r"STAGES = (\[.*\]);", SCRIPT)
        assert json.loads(stages) == [stage.value for stage in Stage]
        (classes,) = re.findall(r"CLASSES = (\[.*\]);", SCRIPT)
        assert len(json.loads(classes)) == 5


class _Assets(HTMLParser):
    """What a page would have a browser fetch, and whether its elements are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in {"meta", "link"}:
            self.open.append(tag)
        self.fetched += [value or "" for name, value in attrs if name in {"src", "href", "srcset", "action"}]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


class TestPage:
    def test_it_fetches_nothing_from_outside(self) -> None:
        page = _Assets()
        page.feed(PAGE)
        assert (page.open, page.fetched) == ([], ["data:,"])
        assert re.findall(r"https?:|[\"'(]//|@import|url\(", PAGE) == []
        assert re.findall(r"fetch\((.*?),", SCRIPT) == ['"status.json"']
        assert "default-src 'none'" in PAGE

    def test_what_the_server_says_is_never_markup(self) -> None:
        ways = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|Function\(|createContextualFragment"
        assert re.findall(ways, SCRIPT) == []

    def test_it_is_small(self) -> None:
        assert len(PAGE.encode()) < 25_000

    def test_it_is_for_light_and_dark_and_for_who_wants_no_motion(self) -> None:
        assert "prefers-color-scheme: dark" in PAGE
        assert "prefers-reduced-motion: reduce" in PAGE

    def test_it_rests_while_nobody_looks(self) -> None:
        assert "visibilitychange" in SCRIPT
        assert "if (!document.hidden) timer = setTimeout(ask, EVERY_MS)" in SCRIPT
