"""The client's side of HTTP/2, held against another implementation of the server's, and what no server should send."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.stages.deliver import http2
from sidecar.stages.deliver.http2 import Broken, Connection, Stream, frame, literal

BLOCK = b"\x83\x86" + literal(b":path", b"/s/m") + literal(b":authority", b"h")
ANSWER = [(":status", "200"), ("content-type", "application/grpc")]
END = [("grpc-status", "0"), ("x-mine", "a" * 200)]
MOST = 1 << 20


@dataclass
class Ends:
    """The judge at the other end, and what has come there."""

    client: Connection = field(default_factory=Connection)
    server: h2.connection.H2Connection = field(
        default_factory=lambda: h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        )
    )
    bodies: dict[int, bytes] = field(default_factory=dict)
    headers: dict[int, dict[str, str]] = field(default_factory=dict)
    complete: list[int] = field(default_factory=list)
    resets: dict[int, int] = field(default_factory=dict)
    ended: list[tuple[Stream, int | None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.server.initiate_connection()

    def open(self, body: bytes, most: int = MOST, block: bytes = BLOCK) -> Stream:
        return self.client.open(block, (body,), most, lambda stream, code: self.ended.append((stream, code)))

    def settle(self, cut: int = 1 << 30) -> None:
        """Carries bytes both ways, so many at a time, until neither end has more to say."""
        while True:
            there = b"".join(self.client.outgoing())
            for begin in range(0, len(there), cut):
                for event in self.server.receive_data(there[begin : begin + cut]):
                    self.note(event)
            back = self.server.data_to_send()
            for begin in range(0, len(back), cut):
                self.client.receive(back[begin : begin + cut])
            if not there and not back:
                return

    def note(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.RequestReceived(stream_id=int(number), headers=headers):
                self.headers[number] = {str(name): str(value) for name, value in headers or ()}
            case h2.events.DataReceived(stream_id=int(number), data=bytes(data)):
                self.bodies[number] = self.bodies.get(number, b"") + data
                self.server.acknowledge_received_data(event.flow_controlled_length or 0, number)
            case h2.events.StreamEnded(stream_id=int(number)):
                self.complete.append(number)
            case h2.events.StreamReset(stream_id=int(number)):
                self.resets[number] = int(event.error_code or 0)

    def answer(self, stream: Stream, body: bytes = b"") -> None:
        self.server.send_headers(stream.number, ANSWER)
        for begin in range(0, len(body), 16_384):
            self.server.send_data(stream.number, body[begin : begin + 16_384])
        self.server.send_headers(stream.number, END, end_stream=True)


def body_of(stream: Stream) -> bytes:
    return b"".join(stream.body)


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(0, 200_000), min_size=1, max_size=4),
    cut=st.integers(1, 70_000),
    window=st.integers(1_000, 1 << 20),
    size=st.sampled_from([16_384, 20_000, 1 << 20]),
)
def test_bodies_arrive_whole_whatever_the_windows_and_however_bytes_are_cut(
    sizes: list[int], cut: int, window: int, size: int
) -> None:
    ends = Ends()
    ends.server.update_settings(
        {
            h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window,
            h2.settings.SettingCodes.MAX_FRAME_SIZE: size,
        }
    )
    ends.settle()
    streams = [ends.open(bytes([place + 1]) * length) for place, length in enumerate(sizes)]
    ends.settle(max(cut, sum(sizes) // 500))
    assert [ends.bodies.get(stream.number, b"") for stream in streams] == [
        bytes([place + 1]) * length for place, length in enumerate(sizes)
    ]
    assert ends.complete == [stream.number for stream in streams] or sorted(ends.complete) == [
        stream.number for stream in streams
    ]
    for stream, length in zip(streams, sizes, strict=True):
        ends.answer(stream, b"x" * length)
    ends.settle(max(cut, sum(sizes) // 500))
    assert [(stream, code) for stream, code in ends.ended] == [(stream, None) for stream in streams]
    assert [len(body_of(stream)) for stream in streams] == sizes
    assert dict(streams[0].trailers)[b"x-mine"] == b"a" * 200
    assert not ends.client.busy


@given(
    st.lists(
        st.tuples(st.from_regex(r"[a-z][a-z0-9-]{0,20}", fullmatch=True), st.text("abc /;=", max_size=400)),
        max_size=8,
    )
)
def test_header_fields_of_any_length_are_read_as_they_were_written(fields: list[tuple[str, str]]) -> None:
    ends = Ends()
    ends.settle()
    wanted = {f"x-{name}": value.strip() for name, value in fields}
    more = b"".join(literal(name.encode(), value.encode()) for name, value in wanted.items())
    stream = ends.open(b"m", block=BLOCK + more)
    ends.settle()
    found = ends.headers[stream.number]
    assert {name: found[name] for name in wanted} == wanted
    assert (found[":method"], found[":path"]) == ("POST", "/s/m")


def test_a_header_block_longer_than_a_frame_is_continued_both_ways() -> None:
    ends = Ends()
    ends.settle()
    stream = ends.open(b"m", block=BLOCK + literal(b"x-long", b"v" * 40_000))
    ends.settle()
    assert ends.headers[stream.number]["x-long"] == "v" * 40_000
    ends.server.send_headers(stream.number, [*ANSWER, ("x-back", "w" * 40_000)])
    ends.server.send_headers(stream.number, END, end_stream=True)
    ends.settle()
    assert dict(stream.headers)[b"x-back"] == b"w" * 40_000


def test_streams_beyond_what_the_server_takes_wait_their_turn() -> None:
    ends = Ends()
    ends.server.update_settings({h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: 1})
    ends.settle()
    first, second, third = (ends.open(b"m") for _ in range(3))
    ends.settle()
    assert ends.complete == [first.number]
    ends.client.reset(second)
    ends.answer(first)
    ends.settle()
    assert (ends.complete, second.number, third.number) == ([1, 3], 0, 3)


def test_the_server_is_told_what_it_may_send() -> None:
    ends = Ends()
    ends.settle()
    told = ends.server.remote_settings
    assert (told.header_table_size, told.enable_push, told.max_header_list_size) == (0, 0, 16_384)
    assert told.initial_window_size == 2**31 - 1


def test_a_reset_either_way_ends_a_stream_and_no_other() -> None:
    ends = Ends()
    ends.settle()
    mine, theirs, other = (ends.open(b"m") for _ in range(3))
    ends.settle()
    ends.client.reset(mine)
    ends.server.reset_stream(theirs.number, http2.REFUSED)
    ends.settle()
    assert ends.resets == {mine.number: http2.CANCEL}
    assert ends.ended == [(theirs, http2.REFUSED)]
    assert theirs.refused
    ends.answer(other)
    ends.settle()
    assert ends.ended[1:] == [(other, None)]


def test_what_comes_late_for_a_stream_that_was_left_disturbs_nobody() -> None:
    ends = Ends()
    ends.settle()
    stream = ends.open(b"m")
    ends.settle()
    ends.server.send_headers(stream.number, ANSWER)
    ends.server.send_data(stream.number, b"late")
    ends.client.reset(stream)
    ends.client.receive(ends.server.data_to_send())
    assert ends.ended == []
    assert not ends.client.busy


def test_an_answer_that_is_larger_than_allowed_is_cut() -> None:
    ends = Ends()
    ends.settle()
    stream = ends.open(b"m", most=100)
    ends.settle()
    ends.server.send_headers(stream.number, ANSWER)
    ends.server.send_data(stream.number, b"x" * 101)
    ends.settle()
    assert ends.ended == [(stream, http2.CANCEL)]
    assert stream.size > stream.most
    assert ends.resets == {stream.number: http2.CANCEL}


def test_an_answer_before_the_request_was_sent_ends_the_request() -> None:
    ends = Ends()
    ends.settle()
    stream = ends.open(b"m" * 200_000)
    for event in ends.server.receive_data(b"".join(ends.client.outgoing())):
        if isinstance(event, h2.events.RequestReceived):
            ends.note(event)  # and no room is given for more
    ends.server.send_headers(stream.number, [*ANSWER, *END], end_stream=True)
    ends.settle()
    assert ends.ended == [(stream, None)]
    assert ends.resets == {stream.number: http2.NO_ERROR}


def test_of_a_server_that_leaves_what_it_did_not_look_at_is_refused_and_the_rest_is_answered() -> None:
    ends = Ends()
    ends.settle()
    seen, unseen = ends.open(b"m"), ends.open(b"m")
    ends.settle()
    ends.client.receive(frame(http2.GOAWAY, 0, 0, seen.number.to_bytes(4, "big") + bytes(4) + b"going"))
    assert ends.client.leaving
    assert ends.client.last_words == "going"
    assert ends.ended == [(unseen, http2.REFUSED)]
    assert unseen.refused
    ends.answer(seen)
    ends.client.receive(ends.server.data_to_send())
    assert ends.ended[1:] == [(seen, None)]


def test_a_sign_of_life_is_given_and_asked() -> None:
    ends = Ends()
    ends.settle()
    ends.server.ping(b"12345678")
    ends.client.ping()
    ends.settle()
    ends.client.receive(frame(http2.PING, 0, 0, b"87654321"))
    assert ends.client.outgoing() == [frame(http2.PING, 1, 0, b"87654321")]


def test_padding_priorities_and_frames_of_kinds_to_come_are_passed_over() -> None:
    ends = Ends()
    ends.settle()
    stream = ends.open(b"m")
    headers = literal(b":status", b"200")
    ends.client.receive(
        frame(2, 0, stream.number, bytes(5))
        + frame(0xEE, 0, 0, b"?")
        + frame(http2.HEADERS, 0x4 | 0x8 | 0x20, stream.number, b"\x02" + bytes(5) + headers + b"\0\0")
        + frame(http2.DATA, 0x8, stream.number, b"\x03body\0\0\0")
        + frame(http2.HEADERS, 0x5, stream.number, literal(b"grpc-status", b"0"))
    )
    assert (stream.headers, body_of(stream)) == (((b":status", b"200"),), b"body")


@pytest.mark.parametrize(
    "sent",
    [
        frame(http2.DATA, 0, 0, b"x"),
        frame(http2.DATA, 0, 9, b"x"),
        frame(http2.DATA, 0, 1, b"before headers"),
        frame(http2.HEADERS, 0x4, 9, literal(b":status", b"200")),
        frame(http2.HEADERS, 0x4, 1, b"\xff\xff\xff\xff\xff"),
        frame(http2.HEADERS, 0x4, 1, b"\xbe"),  # an entry of a table that is not kept
        frame(http2.HEADERS, 0, 1, b"") + frame(http2.PING, 0, 0, bytes(8)),
        frame(http2.HEADERS, 0, 1, b"") + frame(http2.CONTINUATION, 0, 1, bytes(16_000)) * 5,
        frame(http2.CONTINUATION, 0x4, 1, b""),
        frame(http2.PUSH_PROMISE, 0x4, 1, bytes(8)),
        frame(http2.RST_STREAM, 0, 1, b"xyz"),
        frame(http2.SETTINGS, 0, 0, b"12345"),
        frame(http2.SETTINGS, 0, 0, b"\0\x05\0\0\0\0"),
        frame(http2.SETTINGS, 0, 0, b"\0\x04\xff\xff\xff\xff"),
        frame(http2.GOAWAY, 0, 0, b"1234"),
        frame(http2.WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff"),
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
    ],
)
def test_a_server_that_keeps_to_nothing_is_told_by_one_error(sent: bytes) -> None:
    ends = Ends()
    ends.settle()
    ends.open(b"m")
    with pytest.raises(Broken):
        ends.client.receive(sent)


@given(st.lists(st.binary(max_size=60), max_size=10))
def test_whatever_comes_only_that_error_is_raised(pieces: list[bytes]) -> None:
    client = Connection()
    client.open(BLOCK, (b"m",), 1000, lambda _stream, _code: None)
    with suppress(Broken):
        for piece in pieces:
            client.receive(piece)


@given(
    st.lists(
        st.builds(
            frame,
            st.integers(0, 10),
            st.integers(0, 255),
            st.integers(0, 7),
            st.one_of(st.binary(max_size=40), st.just(literal(b":status", b"200"))),
        ),
        max_size=12,
    )
)
def test_frames_in_any_order_raise_only_that_error(frames: list[bytes]) -> None:
    client = Connection()
    ended: list[Stream] = []
    for _ in range(2):
        client.open(BLOCK, (b"m" * 70_000,), 1000, lambda stream, _code: ended.append(stream))
    with suppress(Broken):
        client.receive(b"".join(frames))
    assert len({*map(id, ended)}) == len(ended)  # nobody is told twice
