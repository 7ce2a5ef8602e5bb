"""HTTP/2 as the client of one connection: frames, header blocks, flow control. Pure: bytes in, bytes out, no clock.

Of RFC 9113 what unary calls of gRPC need, and all that a server may send: no pushes, no priorities. Of RFC 7541,
header blocks are written as literals, and the server is told to keep no table, so that a block means the same whenever
it comes.

What must never happen here: waiting, a byte sent that the server has not given room for, and trust in a length that
has not been held against what was asked for.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from hpack import Decoder, HPACKError

Part = bytes | memoryview
Headers = tuple[tuple[bytes, bytes], ...]

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    0,
    1,
    *range(3, 10),
)
"""Kinds of frames. Priorities, the third, are no longer used, and are passed over like all that is not known."""
_END_STREAM, _ACK, _END_HEADERS, _PADDED, _PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
_TABLE_SIZE, _PUSH, _STREAMS, _WINDOW, _FRAME, _HEADER_LIST = 1, 2, 3, 4, 5, 6
NO_ERROR, PROTOCOL_ERROR, FLOW_CONTROL_ERROR, REFUSED, CANCEL = 0x0, 0x1, 0x3, 0x7, 0x8
"""Codes with which a stream or a connection ends."""
_FRAME_HEADER: Final = struct.Struct(">IBI")  # the length in 24 bits and the kind in 8; flags; the stream
_UINT32: Final = struct.Struct(">I")
_SETTING: Final = struct.Struct(">HI")
_HEADER_SIZE: Final = _FRAME_HEADER.size
_LOW_31: Final = 0x7FFFFFFF
_FIRST_WINDOW, _FIRST_FRAME = 65_535, 16_384
# We take frames of the size that needs no asking for, and let the server send as much as windows can say.
_OUR_FRAME, _OUR_WINDOW = _FIRST_FRAME, _LOW_31
_MOST_FRAME: Final = (1 << 24) - 1
# Bytes of header fields that the server is told to send at most, gRPC's own bound: it then ends the one call whose
# words are longer, and of a block that is longer still the connection ends.
_OUR_HEADERS: Final = 16 * 1024
_MOST_BLOCK: Final = 64 * 1024
# Blocks whose meaning is remembered: a server ends nearly all its calls with the same two.
_MOST_KNOWN: Final = 64
# Stream numbers are not used again; a connection is left long before they end.
_LAST_NUMBER: Final = 1 << 30
WHOLE: Final = 32 * 1024
"""Up to this size, bytes are joined: it costs less than sending pieces."""


class Broken(Exception):
    """The server does not keep to HTTP/2; the connection cannot go on. `code` is what it is told."""

    def __init__(self, words: str, code: int = PROTOCOL_ERROR) -> None:
        super().__init__(words)
        self.code = code


@dataclass(slots=True, eq=False)
class Stream:
    """One request and its answer. `ended` is called once: with None when the answer is complete, else with the code
    that it was ended by. `refused` says that the server has not looked at it.
    """

    block: bytes
    unsent: deque[memoryview]
    most: int
    ended: Callable[[Stream, int | None], None]
    number: int = 0
    window: int = 0
    headers: Headers = ()
    trailers: Headers = ()
    body: list[bytes] = field(default_factory=list)
    size: int = 0
    refused: bool = False


def literal(name: bytes, value: bytes) -> bytes:
    """A header field that no table remembers (RFC 7541, 6.2.2), without Huffman's code."""
    return b"\x00" + _text(name) + _text(value)


def _text(text: bytes) -> bytes:
    """A length by a prefix of 7 bits (RFC 7541, 5.1), and the bytes."""
    rest = len(text)
    if rest < 0x7F:  # noqa: PLR2004 - the prefix's own size
        return bytes((rest,)) + text
    coded, rest = bytearray((0x7F,)), rest - 0x7F
    while rest >= 0x80:  # noqa: PLR2004 - 7 bits a byte, and one that says: there is more
        coded.append(rest & 0x7F | 0x80)
        rest >>= 7
    coded.append(rest)
    return bytes(coded) + text


def frame(kind: int, flags: int, number: int, payload: bytes = b"") -> bytes:
    """A whole frame."""
    return _FRAME_HEADER.pack(len(payload) << 8 | kind, flags, number) + payload


class Connection:
    """The state of one connection. What is to be sent is taken by `outgoing`, after every call here.

    `settled` says that the server has told its settings; `leaving` that it takes no more streams, and `last_words` why.
    """

    def __init__(self) -> None:
        settings = ((_TABLE_SIZE, 0), (_PUSH, 0), (_WINDOW, _OUR_WINDOW), (_HEADER_LIST, _OUR_HEADERS))
        told = b"".join(_SETTING.pack(*setting) for setting in settings)
        more = _UINT32.pack(_OUR_WINDOW - _FIRST_WINDOW)
        self._outgoing: list[Part] = [PREFACE, frame(SETTINGS, 0, 0, told), frame(WINDOW_UPDATE, 0, 0, more)]
        self._streams: dict[int, Stream] = {}
        self._waiting: deque[Stream] = deque()
        self._rest = b""
        self._block: tuple[int, int, bytearray] | None = None
        self._known: dict[bytes, Headers] = {}
        self._decoder = Decoder(max_header_list_size=2 * _MOST_BLOCK)
        self._decoder.header_table_size = self._decoder.max_allowed_table_size = 0
        self._next = 1
        self._window = _FIRST_WINDOW
        self._first_window = _FIRST_WINDOW
        self._frame = _FIRST_FRAME
        self._most_streams = _LOW_31
        self._taken = 0
        self.settled = self.leaving = False
        self.last_words = ""
        self._frames: dict[int, Callable[[int, int, bytes], None]] = {
            DATA: self._on_data,
            HEADERS: self._on_headers,
            RST_STREAM: self._on_reset,
            SETTINGS: self._on_settings,
            PUSH_PROMISE: self._on_push,
            PING: self._on_ping,
            GOAWAY: self._on_goaway,
            WINDOW_UPDATE: self._on_window,
            CONTINUATION: self._on_continuation,
        }

    @property
    def busy(self) -> bool:
        """Whether any stream has not ended."""
        return bool(self._streams or self._waiting)

    def outgoing(self) -> list[Part]:
        """What is to be sent now, each piece once."""
        parts, self._outgoing = self._outgoing, []
        return parts

    # --- what we do ---

    def open(
        self,
        block: bytes,
        body: Sequence[Part],
        most: int,
        ended: Callable[[Stream, int | None], None],
    ) -> Stream:
        """Sends a request: its header block, and its body as far as there is room. `most` bounds the answer's bytes:
        one that passes it is ended by CANCEL.
        """
        if sum(map(len, body)) <= WHOLE:
            body = (b"".join(body),)
        stream = Stream(block, deque(memoryview(part) for part in body), most, ended)
        if len(self._streams) < self._most_streams:
            self._begin(stream)
        else:
            self._waiting.append(stream)
        return stream

    def reset(self, stream: Stream, code: int = CANCEL) -> None:
        """Ends a stream on this side; nothing more is told of it."""
        if self._streams.pop(stream.number, None) is not None:
            self._outgoing.append(frame(RST_STREAM, 0, stream.number, _UINT32.pack(code)))
            self._next_waiting()
        elif not stream.number and stream in self._waiting:
            self._waiting.remove(stream)

    def ping(self) -> None:
        """Asks for a sign of life."""
        self._outgoing.append(frame(PING, 0, 0, bytes(8)))

    def close(self, code: int = NO_ERROR) -> None:
        """Says goodbye."""
        self._outgoing.append(frame(GOAWAY, 0, 0, _UINT32.pack(0) + _UINT32.pack(code)))

    def _begin(self, stream: Stream) -> None:
        stream.number, self._next = self._next, self._next + 2
        self.leaving = self.leaving or self._next > _LAST_NUMBER
        stream.window = self._first_window
        self._streams[stream.number] = stream
        block, kind = stream.block, HEADERS
        while True:
            piece, block = block[: self._frame], block[self._frame :]
            flags = 0 if block else _END_HEADERS
            self._outgoing.append(frame(kind, flags, stream.number, piece))
            kind = CONTINUATION
            if not block:
                break
        self._push(stream)

    def _next_waiting(self) -> None:
        while self._waiting and len(self._streams) < self._most_streams:
            self._begin(self._waiting.popleft())

    def _push(self, stream: Stream) -> None:
        """Sends of a body what there is room for."""
        unsent = stream.unsent
        while unsent and (room := min(self._frame, self._window, stream.window)) > 0:
            piece = unsent[0]
            if len(piece) > room:
                unsent[0], piece = piece[room:], piece[:room]
            else:
                unsent.popleft()
            self._window -= len(piece)
            stream.window -= len(piece)
            flags = 0 if unsent else _END_STREAM
            self._outgoing.append(_FRAME_HEADER.pack(len(piece) << 8 | DATA, flags, stream.number))
            self._outgoing.append(piece)

    # --- what the server does ---

    def receive(self, data: bytes) -> None:
        """Takes what came. Raises Broken."""
        if self._rest:
            data = self._rest + data
        at, end = 0, len(data)
        while end - at >= _HEADER_SIZE:
            length, flags, number = _FRAME_HEADER.unpack_from(data, at)
            kind, length = length & 0xFF, length >> 8
            if length > _OUR_FRAME:
                raise Broken(f"a frame of {length} bytes, and {_OUR_FRAME} are taken")
            begin, stop = at + _HEADER_SIZE, at + _HEADER_SIZE + length
            if stop > end:
                break
            if self._block is not None and kind != CONTINUATION:
                raise Broken("a header block that is not continued")
            if kind in self._frames:
                self._frames[kind](flags, number & _LOW_31, data[begin:stop])
            at = stop
        self._rest = data[at:]

    def _on_data(self, flags: int, number: int, payload: bytes) -> None:
        self._taken += len(payload)
        if self._taken > _OUR_WINDOW // 2:
            self._outgoing.append(frame(WINDOW_UPDATE, 0, 0, _UINT32.pack(self._taken)))
            self._taken = 0
        stream = self._streams.get(number)
        if stream is None:
            if number == 0 or number >= self._next:
                raise Broken("data of a stream that never was")
            return  # of one that was ended on this side
        content = _unpadded(payload) if flags & _PADDED else payload
        stream.size += len(content)
        if not stream.headers:
            raise Broken("data before headers")
        if stream.size > stream.most:
            self.reset(stream)
            stream.ended(stream, CANCEL)
            return
        stream.body.append(content)
        if flags & _END_STREAM:
            self._end(stream, None)

    def _on_headers(self, flags: int, number: int, payload: bytes) -> None:
        content = _unpadded(payload) if flags & _PADDED else payload
        if flags & _PRIORITY:
            content = content[5:]
        if flags & _END_HEADERS:
            self._on_block(flags, number, content)
        else:
            self._block = (flags, number, bytearray(content))

    def _on_continuation(self, flags: int, number: int, payload: bytes) -> None:
        if self._block is None or self._block[1] != number:
            raise Broken("a continuation of nothing")
        begun, _, block = self._block
        block += payload
        if len(block) > _MOST_BLOCK:
            raise Broken(f"a header block of more than {_MOST_BLOCK} bytes")
        if flags & _END_HEADERS:
            self._block = None
            self._on_block(begun, number, bytes(block))

    def _on_block(self, flags: int, number: int, block: bytes) -> None:
        stream = self._streams.get(number)
        if stream is None:
            if number == 0 or number >= self._next:
                raise Broken("headers of a stream that never was")
            return
        if (headers := self._known.get(block)) is None:
            headers = self._read(block)
        if stream.headers:
            stream.trailers = headers
            if not flags & _END_STREAM:
                raise Broken("trailers that end nothing")
        else:
            stream.headers = headers
        if flags & _END_STREAM:
            self._end(stream, None)

    def _read(self, block: bytes) -> Headers:
        try:
            headers = tuple(
                (bytes(name), bytes(value)) for name, value in self._decoder.decode(block, raw=True)
            )
        except HPACKError as error:
            raise Broken(f"a header block that cannot be read: {error}") from error
        if len(self._known) < _MOST_KNOWN:
            self._known[block] = headers
        return headers

    def _on_reset(self, _flags: int, number: int, payload: bytes) -> None:
        (code,) = _unpacked(_UINT32, payload)
        if (stream := self._streams.get(number)) is not None:
            stream.refused = code == REFUSED
            self._end(stream, code)

    def _on_settings(self, flags: int, _number: int, payload: bytes) -> None:
        if flags & _ACK:
            return
        if len(payload) % _SETTING.size:
            raise Broken("settings of another length")
        for name, value in _SETTING.iter_unpack(payload):
            if name == _STREAMS:
                self._most_streams = value
            elif name == _FRAME:
                if not _FIRST_FRAME <= value <= _MOST_FRAME:
                    raise Broken(f"frames of {value} bytes")
                self._frame = value
            elif name == _WINDOW:
                if value > _LOW_31:
                    raise Broken(f"a window of {value} bytes", FLOW_CONTROL_ERROR)
                for stream in self._streams.values():
                    stream.window += value - self._first_window
                self._first_window = value
        self.settled = True
        self._outgoing.append(frame(SETTINGS, _ACK, 0))
        self._next_waiting()
        self._push_all()

    def _on_push(self, _flags: int, _number: int, _payload: bytes) -> None:
        raise Broken("a push, which was not allowed")

    def _on_ping(self, flags: int, _number: int, payload: bytes) -> None:
        if not flags & _ACK:
            self._outgoing.append(frame(PING, _ACK, 0, payload))

    def _on_goaway(self, _flags: int, _number: int, payload: bytes) -> None:
        if len(payload) < 2 * _UINT32.size:
            raise Broken("a goodbye that is too short")
        last = _UINT32.unpack_from(payload)[0] & _LOW_31
        self.leaving = True
        self.last_words = payload[8:].decode(errors="replace")
        refused = [stream for number, stream in self._streams.items() if number > last]
        for stream in [*refused, *self._waiting]:
            self._streams.pop(stream.number, None)
            stream.refused = True
            stream.ended(stream, REFUSED)
        self._waiting.clear()

    def _on_window(self, _flags: int, number: int, payload: bytes) -> None:
        more = _unpacked(_UINT32, payload)[0] & _LOW_31
        if number:
            if (stream := self._streams.get(number)) is not None:
                stream.window += more
                self._push(stream)
            return
        self._window += more
        if self._window > _LOW_31:
            raise Broken("a window that is too large", FLOW_CONTROL_ERROR)
        self._push_all()

    def _push_all(self) -> None:
        for stream in self._streams.values():
            if stream.unsent:
                self._push(stream)

    def _end(self, stream: Stream, code: int | None) -> None:
        del self._streams[stream.number]
        if stream.unsent and code is None:
            # The server has answered without the rest.
            self._outgoing.append(frame(RST_STREAM, 0, stream.number, _UINT32.pack(NO_ERROR)))
        self._next_waiting()
        stream.ended(stream, code)


def _unpadded(payload: bytes) -> bytes:
    if not payload or payload[0] >= len(payload):
        raise Broken("padding that is longer than its frame")
    return payload[1 : len(payload) - payload[0]]


def _unpacked(layout: struct.Struct, payload: bytes) -> tuple[int, ...]:
    if len(payload) != layout.size:
        raise Broken("a frame of another length")
    return layout.unpack(payload)
