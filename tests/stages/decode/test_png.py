"""PNGs decoded past Pillow have Pillow's bits, take no more memory than they are, or are left to Pillow."""

from __future__ import annotations

import dataclasses
import io
import random
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sidecar.errors import CorruptMedia, MediaError
from sidecar.media import DecodeTarget, ImageInfo, Source
from sidecar.stages.decode import decode
from sidecar.stages.decode.image import _by_pillow, _past_pillow
from sidecar.stages.decode.png import goes_on
from sidecar.stages.probe import probe
from tests import corpus

_Array = npt.NDArray[np.uint8]

_GREY, _RGB, _PALETTE, _GREY_ALPHA, _RGBA = 0, 2, 3, 4, 6
_SAMPLES = {_GREY: 1, _RGB: 3, _PALETTE: 1, _GREY_ALPHA: 2, _RGBA: 4}
# Every kind of pixel that PNG knows, as (colour, bits of a sample).
_KINDS = (
    *((_GREY, bits) for bits in (1, 2, 4, 8, 16)),
    *((_PALETTE, bits) for bits in (1, 2, 4, 8)),
    *((colour, bits) for colour in (_RGB, _GREY_ALPHA, _RGBA) for bits in (8, 16)),
)
_SIZES = ((1, 1), (1, 9), (9, 1), (3, 2), (5, 4), (7, 33), (16, 17), (250, 8))
_MIXED = -1


def _chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _header(width: int, height: int, colour: int = _RGB, bits: int = 8, interlaced: int = 0) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + _chunk(
        b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlaced)
    )


def _lines(  # noqa: PLR0917 - what a picture is, and then how it was filtered
    width: int, height: int, colour: int, bits: int, number: int = _MIXED, seed: int = 0
) -> bytes:
    """Filtered rows: any bytes are some picture's. Half of them repeat, so that they become small."""
    rng = random.Random(seed)
    length = (width * bits * _SAMPLES[colour] + 7) // 8
    line, lines = rng.randbytes(length), []
    for row in range(height):
        line = rng.randbytes(length) if row % 2 else line
        lines.append(bytes([rng.randrange(5) if number == _MIXED else number]) + line)
    return b"".join(lines)


def _palette(colours: int = 256, seed: int = 0) -> bytes:
    return _chunk(b"PLTE", random.Random(seed).randbytes(3 * colours))


def _file(head: bytes, stream: bytes, tail: bytes = _chunk(b"IEND"), cuts: Iterable[int] = ()) -> bytes:
    """A file whose stream is cut into IDATs at these places."""
    places = [0, *cuts, len(stream)]
    idats = (_chunk(b"IDAT", stream[a:b]) for a, b in pairwise(places))
    return head + b"".join(idats) + tail


def _png(  # noqa: PLR0917 - what a file is, from the front to the back
    width: int, height: int, colour: int, bits: int, number: int = _MIXED, seed: int = 0, extra: bytes = b""
) -> bytes:
    head = _header(width, height, colour, bits) + (_palette() if colour == _PALETTE else b"") + extra
    return _file(head, zlib.compress(_lines(width, height, colour, bits, number, seed)))


_LINES = _lines(40, 30, _RGB, 8)
_STREAM = zlib.compress(_LINES)
_PLAIN = _file(_header(40, 30), _STREAM)


def _facts(data: bytes) -> ImageInfo:
    info = probe(Source(data))
    assert isinstance(info, ImageInfo)
    return info


def _directly(data: bytes, *, white: bool = False) -> _Array | None:
    found = _past_pillow(Source(data), _facts(data), DecodeTarget(white_transparency=white))
    return None if found is None else found.array


def _outcome(decoded: Callable[[Source, ImageInfo, DecodeTarget], Any], data: bytes, **wanted: Any) -> Any:
    """Pixels, or what was said of them."""
    try:
        return decoded(Source(data), _facts(data), DecodeTarget(**wanted)).array
    except MediaError as error:
        return type(error), error.message


def _assert_pillows(data: bytes) -> None:
    for white in (False, True):
        found = _directly(data, white=white)
        assert found is not None
        assert found.dtype == np.uint8
        expected = _by_pillow(Source(data), _facts(data), DecodeTarget(white_transparency=white)).array
        np.testing.assert_array_equal(found, expected)


def _assert_left_to_pillow(data: bytes) -> None:
    for white in (False, True):
        expected = _outcome(_by_pillow, data, white_transparency=white)
        np.testing.assert_equal(_outcome(decode, data, white_transparency=white), expected)
        try:
            assert _directly(data, white=white) is None
        except MediaError:
            assert isinstance(expected, tuple)


@pytest.mark.parametrize(("colour", "bits"), _KINDS)
def test_every_kind_of_pixel_size_and_filter_has_pillows_bits(colour: int, bits: int) -> None:
    for seed, (height, width) in enumerate(_SIZES):
        for number in (_MIXED, 0, 1, 2, 3, 4):
            _assert_pillows(_png(width, height, colour, bits, number, seed))


@pytest.mark.parametrize(("colour", "bits"), _KINDS)
def test_pictures_of_many_pieces_have_pillows_bits(colour: int, bits: int) -> None:
    _assert_pillows(_png(301, 900, colour, bits))
    _assert_pillows(_png(4001, 40, colour, bits))


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("kind", [(_RGB, 8), (_RGBA, 8)])
def test_every_orientation_has_pillows_bits_and_takes_no_memory(
    kind: tuple[int, int], orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x112] = orientation
    data = _png(33, 50, *kind, extra=_chunk(b"eXIf", exif.tobytes()[6:]))
    assert _facts(data).orientation == (orientation if orientation in range(1, 9) else 1)
    _assert_pillows(data)
    found = _directly(data)
    assert found is not None
    assert isinstance(found.base, np.ndarray)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("colours", [0, 1, 2, 3, 100, 256, 257])
@pytest.mark.parametrize(
    "alpha", [None, b"\xff\0\xff", b"\0", bytes(range(200)), b"\xff\xff", b"\xff" * 255 + b"\0"]
)
def test_palettes_of_every_length_fare_as_by_pillow(bits: int, colours: int, alpha: bytes | None) -> None:
    """Values beyond the palette, and colours that are transparent, too."""
    extra = b"" if alpha is None else _chunk(b"tRNS", alpha)
    head = _header(31, 9, _PALETTE, bits) + _palette(colours) + extra
    data = _file(head, zlib.compress(_lines(31, 9, _PALETTE, bits)))
    for white in (False, True):
        np.testing.assert_equal(
            _outcome(decode, data, white_transparency=white),
            _outcome(_by_pillow, data, white_transparency=white),
        )


def test_usual_palettes_are_not_left_to_pillow() -> None:
    for colours in (2, 100, 256):
        for alpha in (b"", _chunk(b"tRNS", b"\xff\0\xff"), _chunk(b"tRNS", bytes(range(100)))):
            head = _header(31, 9, _PALETTE, 8) + _palette(colours) + alpha
            _assert_pillows(_file(head, zlib.compress(_lines(31, 9, _PALETTE, 8))))


@pytest.mark.parametrize(("colour", "bits"), [kind for kind in _KINDS if kind[0] in (_GREY, _RGB)])
def test_a_transparent_colour_becomes_white_as_by_pillow(colour: int, bits: int) -> None:
    for value in (0, 1, 3, 77, 255, 256, 0x4D4D, 65535):
        key = struct.pack(">H", value) * _SAMPLES[colour]
        _assert_pillows(_png(60, 60, colour, bits, 0, extra=_chunk(b"tRNS", key)))


def _cuts() -> dict[str, Sequence[int]]:
    return {
        "every byte": range(1, len(_STREAM)),
        "behind the header's first byte": (1,),
        "nothing in front": (0, 0),
        "nothing at the end": (len(_STREAM), len(_STREAM)),
        "nothing between": (9, 9, 9, 700),
        "the checksum": tuple(range(len(_STREAM) - 4, len(_STREAM))),
    }


@pytest.mark.parametrize("name", _cuts())
def test_wherever_the_stream_is_cut_it_is_one(name: str) -> None:
    _assert_pillows(_file(_header(40, 30), _STREAM, cuts=_cuts()[name]))


@pytest.mark.parametrize("level", [0, 1, 9])
@pytest.mark.parametrize("window", [9, 15])
@pytest.mark.parametrize("strategy", [zlib.Z_FIXED, zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE, zlib.Z_FILTERED])
def test_every_way_of_packing_has_pillows_bits(level: int, window: int, strategy: int) -> None:
    packer = zlib.compressobj(level, zlib.DEFLATED, window, 9, strategy)
    lines = _lines(200, 300, _RGBA, 8)
    _assert_pillows(_file(_header(200, 300, _RGBA), packer.compress(lines) + packer.flush()))


def test_metadata_in_front_is_no_matter() -> None:
    info = PngInfo()
    info.add_text("Comment", "x" * 3000, zip=True)
    info.add_itxt("Title", "é", "fr", "titre")
    file = io.BytesIO()
    Image.fromarray(np.arange(30_000, dtype=np.uint8).reshape(100, 100, 3)).save(
        file, "PNG", pnginfo=info, icc_profile=bytes(5000), dpi=(72, 72), gamma=0.45
    )
    _assert_pillows(file.getvalue())


def test_dates_behind_the_pixels_are_no_matter() -> None:
    dates = (b"date:create\x002026-11-21", b"date:modify\x002026-11-21", b"date:")
    _assert_pillows(
        _file(_header(40, 30), _STREAM, b"".join(_chunk(b"tEXt", d) for d in dates) + _chunk(b"IEND"))
    )


def test_a_wrong_checksum_of_a_chunk_of_pixels_is_no_matter_to_pillow_either() -> None:
    place = _PLAIN.index(_STREAM) + len(_STREAM)
    _assert_pillows(_PLAIN[:place] + b"\0\0\0\0" + _PLAIN[place + 4 :])


def _text(key: bytes, value: bytes = b"1") -> bytes:
    return _chunk(b"tEXt", key + b"\0" + value)


class _Bits:
    """A stream written bit by bit."""

    def __init__(self) -> None:
        self._bits: list[int] = []

    def number(self, value: int, count: int) -> _Bits:
        self._bits += [value >> bit & 1 for bit in range(count)]
        return self

    def code(self, digits: str) -> _Bits:
        self._bits += map(int, digits)
        return self

    def stream(self, plain: bytes) -> bytes:
        raw = sum(bit << place for place, bit in enumerate(self._bits))
        packed = raw.to_bytes(-(-len(self._bits) // 8), "little")
        return b"\x78\x9c" + packed + struct.pack(">I", zlib.adler32(plain))


def _with_unused_codes() -> bytes:
    """A grey pixel, whose table gives two of four codes of two bits away. Other libraries would read it."""
    bits = _Bits().number(1, 1).number(2, 2).number(0, 5).number(0, 5).number(14, 4)
    # Lengths of the lengths' codes, in deflate's order: a run of zeros has 1 bit, lengths 1 and 2 have 2.
    lengths = {18: 1, 1: 2, 2: 2}
    for symbol in (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1):
        bits.number(lengths.get(symbol, 0), 3)
    # 0 has two bits, 255 zeros follow, 256 (the end) has two, and the one distance one.
    bits.code("11").code("0").number(127, 7).code("0").number(106, 7).code("11").code("10")
    return bits.code("00").code("00").code("01").stream(b"\0\0")


_BROKEN_UP: dict[str, Callable[[], bytes]] = {
    "interlaced": lambda: corpus.image("png_interlaced.png"),
    "animated": lambda: corpus.image("png_animated.png"),
    "said to be animated": lambda: _file(
        _header(40, 30) + _chunk(b"acTL", struct.pack(">II", 1, 0)), _STREAM
    ),
    "in a frame": lambda: _file(
        _header(40, 30) + _chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 40, 30, 0, 0, 1, 1, 0, 0)), _STREAM
    ),
    "turned by what follows": lambda: corpus.image("png_exif_6_late.png"),
    "text behind the pixels": lambda: _file(_header(40, 30), _STREAM, _text(b"Title") + _chunk(b"IEND")),
    "a colour behind the pixels": lambda: _file(
        _header(40, 30), _STREAM, _text(b"transparency") + _chunk(b"IEND")
    ),
    "too much text behind the pixels": lambda: _file(
        _header(40, 30), _STREAM, _text(b"date:create", bytes(5 << 20)) + _chunk(b"IEND")
    ),
    "damaged text behind the pixels": lambda: _file(_header(40, 30), _STREAM, _chunk(b"zTXt", b"a\0\1")),
    "a text of interlacing": lambda: _file(_header(40, 30) + _text(b"interlace"), _STREAM),
    "a text of a frame": lambda: _file(_header(40, 30) + _text(b"bbox"), _STREAM),
    "a text of transparency": lambda: _file(_header(40, 30, _GREY) + _text(b"transparency"), _STREAM),
    "no palette": lambda: _file(_header(40, 30, _PALETTE), _STREAM),
    "a palette of another header": lambda: _file(
        _header(40, 30, _PALETTE) + _palette() + _header(40, 30)[8:], _STREAM
    ),
    "no end": lambda: _file(_header(40, 30), _STREAM, b""),
    "cut in the end": lambda: _PLAIN[:-5],
    "cut in the pixels": lambda: _PLAIN[:-200],
    "an unknown filter": lambda: _file(_header(40, 30), zlib.compress(b"\5" + _LINES[1:])),
    "an unknown filter at the end": lambda: _file(
        _header(40, 30), zlib.compress(_LINES[:-121] + b"\5" + _LINES[-120:])
    ),
    "a row missing": lambda: _file(_header(40, 30), zlib.compress(_LINES[:-121])),
    "a byte missing": lambda: _file(_header(40, 30), zlib.compress(_LINES[:-1])),
    "a row too many": lambda: _file(_header(40, 30), zlib.compress(_LINES + _LINES[:121])),
    "a byte too many": lambda: _file(_header(40, 30), zlib.compress(_LINES + b"\0")),
    "no pixels": lambda: _file(_header(40, 30), zlib.compress(b"")),
    "an empty stream": lambda: _file(_header(40, 30), b""),
    "bytes behind the stream": lambda: _file(_header(40, 30), _STREAM + b"\0"),
    "bytes in a chunk behind the stream": lambda: _file(
        _header(40, 30), _STREAM + b"\0\0", cuts=(len(_STREAM),)
    ),
    "no checksum": lambda: _file(_header(40, 30), _STREAM[:-4]),
    "a wrong checksum": lambda: _file(_header(40, 30), _STREAM[:-1] + bytes([_STREAM[-1] ^ 1])),
    "a wrong checksum apart": lambda: _file(
        _header(40, 30), _STREAM[:-4] + b"\1\2\3\4", cuts=(len(_STREAM) - 4,)
    ),
    "unused codes": lambda: _file(_header(1, 1, _GREY), _with_unused_codes()),
    "a window too large": lambda: _file(_header(40, 30), b"\x88\x1c" + _STREAM[2:]),
    "a dictionary": lambda: _file(_header(40, 30), b"\x78\xbb\0\0\0\1" + _STREAM[2:]),
    "damage in the stream": lambda: _file(_header(40, 30), _STREAM[:900] + b"\xff\xff\xff" + _STREAM[903:]),
    "a row too long": lambda: _png(50_000, 2, _RGB, 8),
}


@pytest.mark.parametrize("name", _BROKEN_UP)
def test_all_else_is_left_to_pillow(name: str) -> None:
    _assert_left_to_pillow(_BROKEN_UP[name]())


def test_a_stream_with_unused_codes_is_refused_for_them_alone() -> None:
    with pytest.raises(zlib.error, match="invalid literal/lengths set"):
        zlib.decompress(_with_unused_codes())


def test_what_a_small_file_inflates_to_is_never_held() -> None:
    data = _file(_header(8, 8), zlib.compress(bytes(300 << 20), 9))
    assert len(data) < 400_000
    assert _peak(lambda: _directly(data)) < 2 << 20
    with pytest.raises(CorruptMedia, match="goes on unpacking"):
        decode(Source(data), probe(Source(data)), DecodeTarget())


@pytest.mark.parametrize("cuts", [[0] * 4_000, [len(_STREAM)] * 4_000])
def test_what_many_chunks_say_is_never_held(cuts: list[int]) -> None:
    data = _file(_header(40, 30), _STREAM, cuts=cuts)
    assert _peak(lambda: _directly(data)) < 1 << 20


def test_bytes_behind_the_stream_are_not_gathered() -> None:
    data = _file(_header(40, 30), _STREAM + bytes(30 << 20))
    assert _peak(lambda: _directly(data)) < 1 << 20
    assert _directly(data) is None


def _peak(work: Callable[[], object]) -> int:
    """Bytes of Python and numpy at most while it runs."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("colour", "bits"), _KINDS)
def test_beside_the_picture_no_more_than_a_megabyte_is_taken(colour: int, bits: int) -> None:
    data = _png(1200, 1000, colour, bits)
    assert _directly(data) is not None  # what is loaded once is there
    assert _peak(lambda: _directly(data)) < 3 * 1200 * 1000 + (1 << 20)


@pytest.mark.parametrize("interlaced", [0, 1])
def test_what_unpacks_far_behind_the_last_row_is_refused_before_it_is_unpacked(interlaced: int) -> None:
    packer = zlib.compressobj(1)
    endless = b"".join([*(packer.compress(bytes(1 << 20)) for _ in range(64)), packer.flush()])
    data = _header(16, 16, interlaced=interlaced) + _chunk(b"IDAT", endless) + _chunk(b"IEND")
    with pytest.raises(CorruptMedia, match="goes on unpacking far behind the last row of its 16×16 pixels"):
        decode(Source(data), probe(Source(data)), DecodeTarget())


@pytest.mark.parametrize(("colour", "bits"), _KINDS)
@pytest.mark.parametrize("interlaced", [0, 1])
def test_no_picture_goes_on_behind_its_own_rows(colour: int, bits: int, interlaced: int) -> None:
    for width, height in _SIZES:
        rows = bytes(2 * (2 + width * bits * _SAMPLES[colour] // 8) * height)
        data = _header(width, height, colour, bits, interlaced) + _chunk(b"IDAT", zlib.compress(rows))
        assert not goes_on(
            data, ImageInfo("png", len(data), width, height, "L", progressive=bool(interlaced))
        )


def test_a_size_that_is_not_probes_is_refused_before_memory_is_taken() -> None:
    huge = _file(_header(60_000, 60_000), _STREAM)

    def refused() -> None:
        with pytest.raises(CorruptMedia, match="says 40×30 pixels in its header and 60000×60000 further on"):
            decode(Source(huge), _facts(_PLAIN), DecodeTarget())

    assert _peak(refused) < 2 << 20


def test_more_pixels_than_are_allowed_are_refused() -> None:
    with pytest.raises(CorruptMedia, match="decodes to 3600 bytes and 3599 are allowed"):
        decode(Source(_PLAIN), _facts(_PLAIN), DecodeTarget(max_decoded_bytes=3599))


def test_an_orientation_that_is_not_probes_is_left_to_pillow() -> None:
    info = dataclasses.replace(_facts(_PLAIN), orientation=3)
    assert _past_pillow(Source(_PLAIN), info, DecodeTarget()) is None


def test_bytes_that_are_lent_can_be_taken_back() -> None:
    lent = memoryview(bytearray(_PLAIN))
    assert _past_pillow(Source(lent), _facts(_PLAIN), DecodeTarget()) is not None
    broken = memoryview(bytearray(_BROKEN_UP["damage in the stream"]()))
    assert _past_pillow(Source(broken), _facts(_PLAIN), DecodeTarget()) is None
    lent.release()
    broken.release()


def test_common_pictures_of_the_corpus_are_decoded_here() -> None:
    left = {"png_interlaced.png", "png_animated.png", "png_exif_6_late.png"}
    names = [name for name, picture in corpus.PICTURES.items() if picture.format == "png"]
    assert {name for name in names if _directly(corpus.image(name)) is None} == left


# Mutations: the same pixels or the same words as by Pillow alone.

_PIECES = (
    *(_chunk(kind) for kind in (b"IDAT", b"IEND", b"tEXt", b"eXIf", b"fdAT", b"DDAT", b"abcd")),
    _chunk(b"tRNS", b"\0\1\0\2\0\3"),
    _chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 5, 4, 0, 0, 1, 1, 0, 0)),
    _chunk(b"acTL", struct.pack(">II", 2, 0)),
    _text(b"date:create"),
    _text(b"transparency"),
    _palette(5),
    _header(5, 4)[8:],
)


def _any_png(rng: random.Random) -> bytes:
    height, width = rng.choice(_SIZES)
    colour, bits = rng.choice(_KINDS)
    head = _header(width, height, colour, bits, interlaced=rng.random() < 0.05)
    if colour == _PALETTE:
        head += _palette(rng.choice((2, 16, 200, 256)))
    if rng.random() < 0.2:
        head += rng.choice(_PIECES)
    lines = _lines(width, height, colour, bits, rng.choice((_MIXED, _MIXED, 0, 4)), rng.randrange(100))
    if rng.random() < 0.2:
        lines = _mutated(lines, rng)
    stream = zlib.compress(lines, rng.choice((0, 1, 6)))
    if rng.random() < 0.2:
        stream = _mutated(stream, rng)
    cuts = sorted(rng.randrange(len(stream) + 1) for _ in range(rng.choice((0, 0, 1, 5))))
    tail = rng.choice(_PIECES) if rng.random() < 0.2 else b""
    return _file(head, stream, tail + _chunk(b"IEND"), cuts)


def _mutated(data: bytes, rng: random.Random) -> bytes:
    for _ in range(rng.choice((0, 0, 1, 1, 2, 4))):
        at, some = rng.randrange(len(data) + 1), rng.choice((1, 2, 9, 40))
        cut = rng.randrange(len(data) + 1)
        data = rng.choice(
            (
                data[:at],
                data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :],
                data[: at % 60] + bytes([rng.choice((0, 1, 0xFF))]) + data[at % 60 + 1 :],
                data[:at] + rng.randbytes(some) + data[at:],
                data[:at] + data[at + some :],
                data[:at] + data[cut : cut + some] + data[at:],
                data[:33] + rng.choice(_PIECES) + data[33:],
                data[:-12] + rng.choice(_PIECES) + data[-12:],
            )
        )
    return data


def _compared(seeds: range) -> int:
    """How many of the mutated files were decoded past Pillow; the others must fare the same all the more."""
    direct = 0
    for seed in seeds:
        rng = random.Random(seed)
        data = _mutated(_any_png(rng), rng)
        try:
            info = probe(Source(data))
        except MediaError:
            continue
        if not isinstance(info, ImageInfo) or info.format != "png" or info.width * info.height > 1 << 20:
            continue
        for white in (False, True):
            expected = _outcome(_by_pillow, data, white_transparency=white)
            found = _outcome(decode, data, white_transparency=white)
            np.testing.assert_equal(found, expected, err_msg=f"seed {seed}")
        direct += not isinstance(expected, tuple) and _directly(data) is not None
    return direct


def test_mutated_files_fare_as_by_pillow_alone() -> None:
    assert _compared(range(1500)) > 200


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_many_mutated_files_fare_as_by_pillow_alone() -> None:
    assert _compared(range(10_000, 90_000)) > 10_000
