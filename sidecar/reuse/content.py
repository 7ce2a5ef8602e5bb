"""What a result is known by: the content it was made of, and all else that decides it.

Two addresses are equal only if everything is: the digest of the encoded bytes, the recipe, the element types,
what decode was to leave, and whose bytes they are. Callers send what they like, so the digest must withstand who
looks for two files with one: 256 bits of BLAKE3. An address
lives as long as the process, and is told to nobody.

Content is read here, and never looked into.
"""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple

from blake3 import blake3

from sidecar.media import DataType, DecodeTarget
from sidecar.recipes.recipe import Recipe

# Thread CPU, with AVX-512: 384 KiB take 54 µs, 3 MiB 0.44 ms, 5 MiB 0.74 ms (SHA-256 with its own instructions:
# 225 µs, 1.8 and 2.9 ms; BLAKE2b 400 µs, 3.3 and 5.3 ms). So the event loop is held up for 70 µs; a thread costs 150 of
# waking and waiting.
_AT_ONCE_BYTES: Final = 512 << 10

_LENGTH_BYTES: Final = 8
# Of recipes and element types. A request chooses among a dozen types, so a few hundred is many models.
_MOST_FINGERPRINTS: Final = 4096


class Address(NamedTuple):
    """What a result is known by.

    `digest` is that of the encoded bytes; `maker` stands for the recipe and the element types; `tenant` is
    empty where callers are not told apart. Callers of different tenants share nothing: how soon an answer comes
    would tell the one what the other has sent.
    """

    digest: bytes
    maker: bytes
    target: DecodeTarget
    tenant: str


class Contents:
    """Digests and fingerprints; long contents are read on `threads` threads. To be closed by who made it."""

    def __init__(self, threads: int = 1) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="digest")
        # By the recipe's identity, with the recipe beside it, so that no other can come by the same.
        self._fingerprints: dict[tuple[int, tuple[tuple[str, DataType], ...]], tuple[Recipe, bytes]] = {}

    async def digest(self, data: bytes | memoryview) -> bytes:
        """32 bytes that stand for a content. The event loop is never held up for longer than about 100 µs."""
        if len(data) <= _AT_ONCE_BYTES:
            return digest(data)
        return await asyncio.get_running_loop().run_in_executor(self._pool, digest, data)

    def address(
        self,
        content: bytes,
        recipe: Recipe,
        data_types: Mapping[str, DataType],
        target: DecodeTarget,
        tenant: str = "",
    ) -> Address:
        """The address of what `recipe` makes of the content with that digest: outputs of these `data_types`."""
        return Address(content, self._fingerprint(recipe, data_types), target, tenant)

    def _fingerprint(self, recipe: Recipe, data_types: Mapping[str, DataType]) -> bytes:
        wanted = tuple(data_types.items())
        known = self._fingerprints.get((id(recipe), wanted))
        if known is not None:
            return known[1]
        if len(self._fingerprints) >= _MOST_FINGERPRINTS:
            self._fingerprints.clear()
        types = (part.encode() for name in sorted(data_types) for part in (name, data_types[name].value))
        found = digest_of([pickle.dumps(recipe), *types])
        self._fingerprints[id(recipe), wanted] = recipe, found
        return found

    async def close(self) -> None:
        """Drops what has not begun, and ends the threads."""
        await asyncio.to_thread(self._pool.shutdown, wait=True, cancel_futures=True)


def digest(data: bytes | memoryview) -> bytes:
    """32 bytes that stand for a content. Holds no lock of the interpreter while it reads a long one."""
    return bytes(blake3(data).digest())


def digest_of(parts: Iterable[bytes | memoryview]) -> bytes:
    """32 bytes that stand for these, in their order and each with its own end: a request's fields and digests."""
    whole = blake3()
    for part in parts:
        whole.update(len(part).to_bytes(_LENGTH_BYTES, "little"))
        whole.update(part)
    return bytes(whole.digest())
