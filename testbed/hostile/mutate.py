"""Real files with something wrong in them: by their parts, by their compressed pixels, and by their bytes.

The same number gives the same file from the same seeds, so that one that did harm is told by its format and number.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from testbed.hostile.parts import LAYOUTS, Part

MOST_BYTES = 1 << 20
"""No mutant is longer; doubling doubled parts would go on."""

_NUMBERS = (
    0,
    1,
    2,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    1 << 20,
    1 << 24,
)


@dataclass(frozen=True, slots=True)
class Mutator:
    """Mutants of one format; `seeds` are good files of it, `others` files of any."""

    format: str
    seeds: Sequence[bytes] = field(repr=False)
    others: Sequence[bytes] = field(default=(), repr=False)

    def mutant(self, number: int) -> bytes:
        """The mutant of that number."""
        rng = random.Random(f"{self.format} {number}")  # noqa: S311 - no secret
        return self.mutated(rng.choice(self.seeds), rng)

    def mutated(self, data: bytes, rng: random.Random) -> bytes:
        """A file with something wrong in it."""
        layout = LAYOUTS[self.format]
        how = rng.random()
        if how < 0.7:  # noqa: PLR2004 - most by their parts, out of the air
            parts = layout.split(data)
            for _ in range(rng.choice((1, 1, 1, 2, 4))):
                self._change(parts, rng)
            data = layout.join(parts)
        if how > 0.55 or not rng.randrange(8):  # noqa: PLR2004 - some both ways
            changed = bytearray(data)
            for _ in range(rng.choice((1, 1, 2, 3))):
                if changed:
                    changed = rng.choice(_RAW)(changed, rng, self.others or self.seeds)
            data = bytes(changed)
        return data[:MOST_BYTES]

    def _change(self, parts: list[Part], rng: random.Random) -> None:
        """One change somewhere in the tree."""
        siblings = parts
        while True:
            inner = [part.parts for part in siblings if part.parts]
            if not inner or rng.random() < 0.3:  # noqa: PLR2004 - stays here, out of the air
                break
            siblings = rng.choice(inner)
        if siblings:
            rng.choice(_CHANGES)(siblings, rng, self)


def _drop(parts: list[Part], rng: random.Random, _mutator: Mutator) -> None:
    del parts[rng.randrange(len(parts))]


def _double(parts: list[Part], rng: random.Random, _mutator: Mutator) -> None:
    at = rng.randrange(len(parts))
    parts[at:at] = [parts[at]] * rng.choice((1, 1, 1, 2, 16, 300))


def _move(parts: list[Part], rng: random.Random, _mutator: Mutator) -> None:
    parts.insert(rng.randrange(len(parts)), parts.pop(rng.randrange(len(parts))))


def _rename(parts: list[Part], rng: random.Random, _mutator: Mutator) -> None:
    at = rng.randrange(len(parts))
    name = bytearray(rng.choice(parts).name)
    if name and rng.randrange(2):
        name[rng.randrange(len(name))] ^= 1 << rng.randrange(8)
    parts[at] = Part(bytes(name), parts[at].body, parts[at].parts)


def _refill(parts: list[Part], rng: random.Random, mutator: Mutator) -> None:
    """Another content: one of the file's own, or another file's."""
    at = rng.randrange(len(parts))
    other = LAYOUTS[mutator.format].split(rng.choice(mutator.seeds)) if rng.randrange(2) else parts
    donor = rng.choice(other or parts)
    name = donor.name if rng.randrange(2) else parts[at].name
    parts[at] = Part(name, donor.body, donor.parts)


def _bend(parts: list[Part], rng: random.Random, _mutator: Mutator) -> None:
    """A number in a content that is at a bound of its type."""
    at = rng.randrange(len(parts))
    body = bytearray(parts[at].body)
    if not body:
        return
    place = rng.randrange(min(len(body), rng.choice((8, 16, 64, 1 << 20))))
    width, order = rng.choice((1, 1, 2, 2, 4, 4, 8)), rng.choice(("little", "big"))
    number = rng.choice((*_NUMBERS, rng.getrandbits(32), len(body))) & (1 << 8 * width) - 1
    body[place : place + width] = number.to_bytes(width, "little" if order == "little" else "big")
    parts[at] = Part(parts[at].name, bytes(body), parts[at].parts)


def _spoil(parts: list[Part], rng: random.Random, mutator: Mutator) -> None:
    """Any change of bytes, within a part."""
    at = rng.randrange(len(parts))
    body = bytearray(parts[at].body)
    if body:
        body = rng.choice(_RAW)(body, rng, mutator.seeds)
        parts[at] = Part(parts[at].name, bytes(body), parts[at].parts)


def _spoil_deflated(parts: list[Part], rng: random.Random, mutator: Mutator) -> None:
    """Changes what a PNG's pixels or texts unpack to, so that the stream itself is sound."""
    packed = [n for n, part in enumerate(parts) if part.name in {b"IDAT", b"iCCP", b"zTXt"}]
    if mutator.format != "png" or not packed:
        _spoil(parts, rng, mutator)
        return
    at = rng.choice(packed)
    name, body = parts[at].name, parts[at].body
    start = 0 if name == b"IDAT" else body.find(b"\0") + 2
    try:
        inside = bytearray(zlib.decompressobj().decompress(body[start:], MOST_BYTES))
    except zlib.error:
        return
    if inside:
        inside = rng.choice(_RAW)(inside, rng, mutator.seeds)
    parts[at] = Part(name, body[:start] + zlib.compress(bytes(inside), 1))


_CHANGES: tuple[Callable[[list[Part], random.Random, Mutator], None], ...] = (
    _drop,
    _double,
    _move,
    _rename,
    _refill,
    _bend,
    _bend,
    _bend,
    _spoil,
    _spoil,
    _spoil_deflated,
)


def _cut(data: bytearray, rng: random.Random, _others: Sequence[bytes]) -> bytearray:
    return data[: rng.randrange(len(data) + 1)]


def _flip(data: bytearray, rng: random.Random, _others: Sequence[bytes]) -> bytearray:
    for _ in range(rng.choice((1, 1, 4, 32))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


def _flip_header(data: bytearray, rng: random.Random, _others: Sequence[bytes]) -> bytearray:
    for _ in range(rng.choice((1, 2, 8))):
        data[rng.randrange(min(len(data), 256))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    return data


def _number(data: bytearray, rng: random.Random, _others: Sequence[bytes]) -> bytearray:
    at = rng.randrange(len(data))
    laid = struct.pack(rng.choice(("<I", ">I")), rng.choice(_NUMBERS))
    data[at : at + 4] = laid
    return data


def _insert(data: bytearray, rng: random.Random, _others: Sequence[bytes]) -> bytearray:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.randbytes(rng.choice((1, 2, 16, 300))) + data[at:]


def _remove(data: bytearray, rng: random.Random, _others: Sequence[bytes]) -> bytearray:
    at = rng.randrange(len(data))
    return data[:at] + data[at + rng.choice((1, 2, 16, 300)) :]


def _splice(data: bytearray, rng: random.Random, others: Sequence[bytes]) -> bytearray:
    other = rng.choice(others)
    at = rng.randrange(len(data))
    return data[:at] + other[min(at, len(other)) :]


_RAW: tuple[Callable[[bytearray, random.Random, Sequence[bytes]], bytearray], ...] = (
    _cut,
    _flip,
    _flip,
    _flip_header,
    _number,
    _insert,
    _remove,
    _splice,
)
