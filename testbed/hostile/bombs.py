"""Small files that ask for much: memory, time, other files, or the network. Made anew each time, by hand.

Each is known from somewhere: decompression bombs, headers that claim what is not there, chains without an end,
playlists and references that lead elsewhere. All must be refused from their headers, but those of INERT, which are
pictures and sounds whose trap lies where nobody treads; they may be decoded, in bounds.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from PIL import Image

from testbed.hostile.parts import LAYOUTS, Part

_HOURS: Final = 10
_CORPUS: Final = Path(__file__).parents[2] / "tests" / "corpus"
_MIB: Final = 1 << 20

CANARIES: Final = ("file:///etc/hostname", "http://127.0.0.1:9/canary")
"""What playlists and references lead to, where a caller of the makers names nothing else."""


def _seed(name: str) -> bytes:
    return next(_CORPUS.glob(f"*/{name}")).read_bytes()


# --- pictures ---


def _png(
    *chunks: tuple[bytes, bytes], size: tuple[int, int] = (16, 16), depth: int = 8, colour: int = 0
) -> bytes:
    header = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0)
    parts = [Part(b"", b"\x89PNG\r\n\x1a\n"), Part(b"IHDR", header)]
    parts += [Part(name, body) for name, body in chunks]
    return LAYOUTS["png"].join([*parts, Part(b"IEND")])


def _zeros(mebibytes: int) -> bytes:
    packer = zlib.compressobj(1)
    return b"".join([*(packer.compress(bytes(_MIB)) for _ in range(mebibytes)), packer.flush()])


_PIXELS: Final = (b"IDAT", zlib.compress(bytes(16 * 17)))
_NAMED: Final = b"a\0\0"


def _jpeg(**options: object) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), (200, 100, 50)).save(file, "JPEG", **options)
    return file.getvalue()


def _resized_jpeg(width: int, height: int, *, progressive: bool) -> bytes:
    data = bytearray(_jpeg(progressive=progressive))
    at = data.index(b"\xff\xc2" if progressive else b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def _scans(count: int) -> bytes:
    data = _jpeg(progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * count + data[-2:]


def _aliased(values: int, size: int) -> bytes:
    """A TIFF directory whose values all are the same bytes."""
    entries = b"".join(struct.pack("<HHII", 1000 + n, 1, size, 8) for n in range(values))
    head = b"II*\0\x08\0\0\0" + struct.pack("<H", values) + entries + bytes(4)
    return head + bytes(max(0, 8 + size - len(head)))


def _exif_jpeg(body: bytes) -> bytes:
    data = _jpeg()
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 8) + b"Exif\0\0" + body + data[2:]


def _gif(width: int, height: int, *blocks: bytes) -> bytes:
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6) + b"".join(blocks) + b";"


_GIF_FRAME: Final = (
    b"!\xf9\4\0\1\0\0\0,\0\0\0\0\x10\0\x10\0\0\2\x0e\x84\x8f\xa9\xcb\xed\x0f\xa3\x9c\xb4\xda\x8b\xb3>\x05\0"
)


def _riff(*chunks: tuple[bytes, bytes]) -> bytes:
    return LAYOUTS["webp"].join([Part(b"RIFF", b"WEBP"), *(Part(name, body) for name, body in chunks)])


def _canvas(width: int, height: int) -> tuple[bytes, bytes]:
    return b"VP8X", b"\2\0\0\0" + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")


_GREY: Final = ((256, 16), (257, 16), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, 16), (279, 64))


def _tiff(**changed: int) -> bytes:
    """A TIFF of grey; `changed` are tags, as t256=…, with values of 32 bits."""
    tags = dict(_GREY) | {int(name[1:]): value for name, value in changed.items()}
    entries = b"".join(struct.pack("<HHII", name, 4, 1, value) for name, value in sorted(tags.items()))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4 + 64)


def _tiff_chain(pages: int, *, loop: bool = False) -> bytes:
    """Pages one behind the other, each a directory of its own; the last leads to none, or to the first."""
    size = 2 + 12 * len(_GREY) + 4
    entries = b"".join(struct.pack("<HHII", name, 4, 1, value) for name, value in _GREY)
    whole = [b"II*\0\x08\0\0\0"]
    for page in range(1, pages + 1):
        after = 8 + page * size if page < pages else 8 * loop
        whole.append(struct.pack("<H", len(_GREY)) + entries + struct.pack("<I", after))
    return b"".join(whole)


def _resized_avif() -> bytes:
    data = bytearray(_seed("avif.avif"))
    at = data.index(b"ispe") + 8
    data[at : at + 8] = struct.pack(">II", 65_535, 65_535)
    return bytes(data)


# --- sounds ---


def _page(body: bytes, sizes: bytes, granule: int, number: int, flags: int = 0) -> Part:
    head = bytes([0, flags]) + struct.pack("<qII", granule, 7, number)
    return Part(b"OggS", parts=[Part(b"", head), Part(b"", sizes), Part(b"", body)])


def _silent_opus(hours: int) -> bytes:
    """Real: packets of 60 ms in which nothing is said, a byte each."""
    head = b"OpusHead\1\1\0\0" + struct.pack("<IhB", 48_000, 0, 0)
    tags = b"OpusTags\0\0\0\0\0\0\0\0"
    pages = [_page(head, bytes([len(head)]), 0, 0, 2), _page(tags, bytes([len(tags)]), 0, 1)]
    each = 255 * 2880
    pages += [
        _page(b"\x18" * 255, b"\1" * 255, (number + 1) * each, number + 2)
        for number in range(hours * 3600 * 48_000 // each)
    ]
    return LAYOUTS["ogg"].join(pages)


def _wav(channels: int, rate: int, size: int, *, bits: int = 16, claim: int | None = None) -> bytes:
    block = channels * bits // 8
    form = struct.pack("<HHIIHH", 1, channels, rate, rate * block & 0xFFFFFFFF, block & 0xFFFF, bits)
    data = struct.pack("<4sI", b"data", size if claim is None else claim) + bytes(size)
    return b"RIFF" + struct.pack("<I", 36 + size) + b"WAVEfmt " + struct.pack("<I", 16) + form + data


def _flac(rate: int, channels: int, samples: int) -> bytes:
    data = bytearray(_seed("flac_stereo_44k.flac"))
    packed = rate << 44 | channels - 1 << 41 | 15 << 36 | samples
    data[18:26] = packed.to_bytes(8, "big")
    return bytes(data)


def _xing(frames: int) -> bytes:
    data = bytearray(_seed("mp3_stereo_44k.mp3"))
    at = data.index(b"Info" if b"Info" in data else b"Xing")
    data[at + 7] |= 1
    data[at + 8 : at + 12] = struct.pack(">I", frames)
    return bytes(data)


def _within(name: str, box: bytes, offset: int, value: bytes) -> bytes:
    """A file with other bytes in the box of that name, so far behind its name."""
    data = bytearray(_seed(name))
    at = data.index(box) + 4 + offset
    data[at : at + len(value)] = value
    return bytes(data)


def _long_m4a() -> bytes:
    """Its edit list and its track say ten hours, and the one run of times does too."""
    data = bytearray(_seed("aac_mono_44k.m4a"))
    at = data.index(b"stts") + 12
    data[at + 4 : at + 8] = struct.pack(">I", _HOURS * 3600 * 44_100 // 22)
    at = data.index(b"elst") + 4
    data[at + 8 : at + 12] = struct.pack(">I", _HOURS * 3_600_000)
    at = data.index(b"mdhd") + 4
    data[at + 16 : at + 20] = struct.pack(">I", _HOURS * 3600 * 44_100)
    return bytes(data)


def _ebml(name: str, body: bytes) -> bytes:
    return LAYOUTS["webm"].join([Part(bytes.fromhex(name), body)])


def _webm(*, hours: float = 0.0, tracks: int = 1, attached: int = 0) -> bytes:
    """A head without a cluster: so many tracks of Opus, and an attachment of so many bytes."""
    head = _ebml("1a45dfa3", _ebml("4282", b"webm"))
    info = _ebml(
        "1549a966", _ebml("2ad7b1", b"\x0f\x42\x40") + _ebml("4489", struct.pack(">d", hours * 3.6e6))
    )
    sound = _ebml("e1", _ebml("b5", struct.pack(">d", 48_000.0)) + _ebml("9f", b"\1"))
    opus = _ebml("63a2", b"OpusHead\1\1\0\0" + struct.pack("<IhB", 48_000, 0, 0))
    listed = b"".join(
        _ebml(
            "ae",
            _ebml("d7", struct.pack(">H", n + 1))
            + _ebml("83", b"\2")
            + _ebml("86", b"A_OPUS")
            + opus
            + sound,
        )
        for n in range(tracks)
    )
    file = _ebml("61a7", _ebml("466e", b"a.bin") + _ebml("465c", bytes(attached))) if attached else b""
    body = info + _ebml("1654ae6b", listed) + (_ebml("1941a469", file) if attached else b"")
    return head + _ebml("18538067", body + _ebml("1f43b675", _ebml("e7", b"\0")))


def _id3(size: int) -> bytes:
    return b"ID3\4\0\0" + bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0)) + bytes(size)


def _pictured_flac(count: int) -> bytes:
    data = _seed("flac_stereo_44k.flac")
    block = b"\6" + ((1 << 24) - 1).to_bytes(3, "big") + bytes((1 << 24) - 1)
    return data[:42] + block * count + data[42:]


# --- what leads elsewhere ---


def playlists(file: str = CANARIES[0], http: str = CANARIES[1]) -> Mapping[str, bytes]:
    """Texts that name a file and an address, in every guise that a player would follow."""
    m3u8 = (
        f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{file}\n#EXTINF:1,\n{http}\n#EXT-X-ENDLIST\n".encode()
    )
    concat = f"ffconcat version 1.0\nfile '{file}'\nfile '{http}'\n".encode()
    mpd = (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet '
        f'mimeType="audio/mp4"><Representation id="0" bandwidth="1"><BaseURL>{http}</BaseURL></Representation>'
        "</AdaptationSet></Period></MPD>"
    ).encode()
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{file}"/><image href="{http}"/></svg>'.encode()
    )
    sdp = f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=-\na=control:{http}\nm=audio 9 RTP/AVP 0\n".encode()
    return {
        "playlist.m3u8": m3u8,
        "playlist behind a byte order mark.m3u8": b"\xef\xbb\xbf" + m3u8,
        "playlist behind a tag.mp3": _id3(64) + m3u8,
        "script.ffconcat": concat,
        "script behind a tag.mp3": _id3(64) + concat,
        "manifest.mpd": mpd,
        "drawing.svg": svg,
        "session.sdp": sdp,
        "session in a riff.wav": b"RIFF" + struct.pack("<I", len(m3u8) + 4) + b"WAVE" + m3u8,
    }


def references(file: str = CANARIES[0], http: str = CANARIES[1]) -> Mapping[str, bytes]:
    """Sounds in good containers that say that their samples, or more, lie elsewhere."""
    m4a = LAYOUTS["mp4"].split(_seed("aac_mono_44k.m4a"))

    def referring(url: bytes) -> bytes:
        def change(parts: list[Part]) -> list[Part]:
            changed = []
            for part in parts:
                if part.name == b"dref":
                    entry = (
                        struct.pack(">I", 12 + len(url))
                        + (b"url " if b":" in url else b"alis")
                        + bytes(4)
                        + url
                    )
                    changed.append(Part(b"dref", bytes(4) + struct.pack(">I", 1) + entry))
                else:
                    inner = change(part.parts) if part.parts is not None else None
                    changed.append(Part(part.name, part.body, inner))
            return changed

        return LAYOUTS["mp4"].join(change(m4a))

    path = file.removeprefix("file://").encode()
    alias = b"\0\0\0\0" + bytes(2) + struct.pack(">H", 150 + len(path) + 20) + bytes(142)
    alias += struct.pack(">HH", 2, len(path)) + path + struct.pack(">HH", 0xFFFF, 0)
    movie = (
        b"rmra"
        + struct.pack(">I4s", 20 + len(path), b"rmda")
        + struct.pack(">I4sI4sI", 12 + len(path), b"rdrf", 0, b"url ", len(path))
        + path
    )
    webm = LAYOUTS["webm"].split(_seed("opus_stereo_48k.webm"))
    linked = _ebml(
        "1549a966", _ebml("2ad7b1", b"\x0f\x42\x40") + _ebml("3c83ab", path) + _ebml("3eb923", bytes(16))
    )
    text = f"{file}\n{http}\n".encode()
    attached = _ebml(
        "1941a469",
        _ebml("61a7", _ebml("466e", path) + _ebml("4660", b"audio/x-mpegurl") + _ebml("465c", text)),
    )
    segment = LAYOUTS["webm"].join(webm[1].parts or [])
    return {
        "samples in a file.m4a": referring(file.encode()),
        "samples at an address.m4a": referring(http.encode()),
        "samples behind an alias.m4a": referring(alias),
        "movie that is another.mov": _seed("aac_mono_44k.m4a") + struct.pack(">I", 4 + len(movie)) + movie,
        "segment that goes on in another.webm": LAYOUTS["webm"].join([webm[0]])
        + _ebml("18538067", linked + segment + attached),
        "cover that is a link.mp3": _cover(http.encode()) + _seed("mp3_bare_stereo_44k.mp3"),
        "address in its tags.ogg": _commented(f"METADATA_BLOCK_PICTURE={http}".encode()),
    }


def _cover(url: bytes) -> bytes:
    """An ID3 tag with a cover of the kind `-->`: its content is an address."""
    body = b"\0-->\0\3\0" + url
    frame = b"APIC" + struct.pack(">IH", len(body), 0) + body
    return b"ID3\3\0\0" + bytes(len(frame) >> shift & 0x7F for shift in (21, 14, 7, 0)) + frame


def _commented(text: bytes) -> bytes:
    pages = LAYOUTS["ogg"].split(_seed("opus_mono_48k.opus"))
    body = b"OpusTags" + bytes(4) + struct.pack("<II", 1, len(text)) + text
    head = (pages[1].parts or [Part(b"")])[0]
    pages[1] = Part(b"OggS", parts=[head, Part(b"", bytes([len(body)])), Part(b"", body)])
    return LAYOUTS["ogg"].join(pages)


BOMBS: Final[Mapping[str, Callable[[], bytes]]] = {
    "zeros of 900 megapixels.png": lambda: _png((b"IDAT", _zeros(107)), size=(30_000, 30_000), depth=1),
    "two billion a side.png": lambda: _seed("huge.png"),
    "profile of 100 MiB.png": lambda: _png((b"iCCP", b"a\0\0" + _zeros(100)), _PIXELS),
    "text of 100 MiB.png": lambda: _png((b"zTXt", _NAMED + _zeros(100)), _PIXELS),
    "international text of 100 MiB.png": lambda: _png((b"iTXt", b"a\0\1\0\0\0" + _zeros(100)), _PIXELS),
    "sixty texts of 1 MiB.png": lambda: _png(*[(b"zTXt", _NAMED + _zeros(1))] * 60, _PIXELS),
    "texts behind the pixels.png": lambda: _png(_PIXELS, *[(b"zTXt", _NAMED + _zeros(1))] * 60),
    "exif of 20 MiB.png": lambda: _png((b"eXIf", bytes(20 * _MIB)), _PIXELS),
    "a million chunks.png": lambda: _png(*[(b"teSt", b"")] * 200_000, _PIXELS),
    "a million chunks behind the pixels.png": lambda: _png(_PIXELS, *[(b"teSt", b"")] * 200_000),
    "pixels a byte a chunk.png": lambda: _png(*[(b"IDAT", b"x")] * 200_000),
    "two billion frames.png": lambda: _png((b"acTL", struct.pack(">II", 2**31 - 1, 0)), _PIXELS),
    "65535 a side.jpg": lambda: _resized_jpeg(65_535, 65_535, progressive=False),
    "65535 a side in passes.jpg": lambda: _resized_jpeg(65_535, 65_535, progressive=True),
    "five thousand scans.jpg": lambda: _scans(5_000),
    "height to come.jpg": lambda: _resized_jpeg(64, 0, progressive=False),
    "a million segments.jpg": lambda: b"\xff\xd8" + b"\xff\xfe\0\2" * 300_000 + _jpeg()[2:],
    "17 MiB of segments.jpg": lambda: b"\xff\xd8" + (b"\xff\xe2\xff\xff" + bytes(65_533)) * 272 + _jpeg()[2:],
    "exif that asks for 80 MB.jpg": lambda: _exif_jpeg(_aliased(2_000, 40_000)),
    "65535 a side.gif": lambda: _gif(65_535, 65_535, _GIF_FRAME),
    "65535 a side to be cleared.gif": lambda: _gif(
        16, 16, _GIF_FRAME.replace(b"!\xf9\4\0", b"!\xf9\4\x08").replace(b"\x10\0\x10\0", b"\xff\xff\xff\xff")
    ),
    "endless.gif": lambda: _gif(16, 16, _GIF_FRAME * 50_000),
    "endless with comments between.gif": lambda: _gif(16, 16, (_GIF_FRAME + b"!\xfe\1x\0" * 9) * 5_000),
    "endless comment.gif": lambda: _gif(16, 16, b"!\xfe" + b"\1x" * 2_000_000 + b"\0", _GIF_FRAME),
    "16 million by 128.webp": lambda: _riff(_canvas(1 << 24, 1 << 7)),
    "16384 a side without loss.webp": lambda: _riff((b"VP8L", b"\x2f\xff\xff\xff\x0f" + bytes(30))),
    "a million frames.webp": lambda: _riff(_canvas(16, 16), *[(b"ANMF", bytes(16))] * 100_000),
    "exif of 20 MiB.webp": lambda: _riff(_canvas(16, 16), (b"EXIF", bytes(20 * _MIB))),
    "a million a side.tif": lambda: _tiff(t256=1 << 20, t257=1 << 20),
    "one row of four billion.tif": lambda: _tiff(t256=2**32 - 1, t257=1),
    "tile of 600 megapixels.tif": lambda: _tiff(t322=30_000, t323=20_000, t324=8, t325=64),
    "a hundred thousand pages.tif": lambda: _tiff_chain(100_000),
    "65535 tags.tif": lambda: b"II*\0\x08\0\0\0\xff\xff" + bytes(65_535 * 12),
    "tags that ask for 80 MB.tif": lambda: _aliased(2_000, 40_000),
    "two billion a side.bmp": lambda: _within(
        "bmp_rgb.bmp", b"BM", 14, struct.pack("<ii", 2**31 - 1, 2**31 - 1)
    ),
    "65535 a side.avif": _resized_avif,
    "ten hours of silence.opus": lambda: _silent_opus(_HOURS),
    "ten hours.webm": lambda: _webm(hours=_HOURS),
    "ten hours.flac": lambda: _flac(44_100, 2, _HOURS * 3600 * 44_100),
    "as long as can be said.flac": lambda: _flac(655_350, 8, 2**36 - 1),
    "four billion frames.mp3": lambda: _xing(2**32 - 1),
    "ten hours.m4a": _long_m4a,
    "four billion samples.m4a": lambda: _within(
        "aac_mono_44k.m4a", b"stsz", 4, struct.pack(">II", 1, 2**32 - 1)
    ),
    "two billion hertz.wav": lambda: _wav(1, 2_000_000_000, 1_000),
    "65535 channels.wav": lambda: _wav(65_535, 16_000, 131_070),
    "ten hours of a byte.wav": lambda: _wav(1, 1_000, _HOURS * 3_600_000, bits=8),
    "a thousand tracks.webm": lambda: _webm(tracks=1_000),
    "fifty tracks.webm": lambda: _webm(tracks=50),
    "attachment of 20 MiB.webm": lambda: _webm(attached=20 * _MIB),
    "tag of 20 MiB.mp3": lambda: _id3(20 * _MIB) + _seed("mp3_bare_stereo_44k.mp3"),
    "hundreds of tags.mp3": lambda: _id3(64 << 10) * 300 + _seed("mp3_bare_stereo_44k.mp3"),
    "covers of 32 MiB.flac": lambda: _pictured_flac(2),
    **{name: (lambda name=name: playlists()[name]) for name in playlists()},  # type: ignore[misc]  # mypy knows no such lambda
}
"""What must be refused before anything is decoded, by a name that says what it is, with the ending of its format."""

INERT: Final[Mapping[str, Callable[[], bytes]]] = {
    "pixels behind the last row.png": lambda: _png((b"IDAT", _zeros(256))),
    "chain that bites its tail.tif": lambda: _tiff_chain(3, loop=True),
    "one frame in pieces of a byte.gif": lambda: _gif(
        16, 16, b",\0\0\0\0\x10\0\x10\0\0\2" + b"\1\x84" * 2_000_000 + b"\0"
    ),
    "forty recordings one behind the other.opus": lambda: _seed("opus_mono_48k.opus") * 40,
    "forty recordings one behind the other.ogg": lambda: _seed("vorbis_stereo_44k.ogg") * 40,
    "claims four GiB and has a second.wav": lambda: _wav(1, 16_000, 32_000, claim=2**31),
    **{name: (lambda name=name: references()[name]) for name in references()},  # type: ignore[misc]  # as above
}
"""What may be decoded: in memory and time as foretold, and without a look at anything else."""
