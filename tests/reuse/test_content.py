"""An address stands for a content and all that decides what is made of it, and for nothing else."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.media import DataType, DecodeTarget
from sidecar.recipes.loader import load_recipe
from sidecar.recipes.recipe import Recipe
from sidecar.reuse import content
from sidecar.reuse.content import Address, Contents, digest, digest_of

FP32 = {"pixel_values": DataType.FP32}
CLIP: dict[str, Any] = {"image_processor_type": "CLIPImageProcessor"}


@pytest.fixture
async def contents() -> AsyncIterator[Contents]:
    made = Contents()
    yield made
    await made.close()


def recipe(directory: Path, **keys: object) -> Recipe:
    directory.mkdir(exist_ok=True)
    (directory / "preprocessor_config.json").write_text(json.dumps({**CLIP, **keys}), encoding="utf-8")
    return load_recipe(directory)


class TestDigests:
    @given(st.binary(max_size=200), st.binary(max_size=200))
    def test_only_equal_contents_have_equal_digests(self, one: bytes, other: bytes) -> None:
        assert (digest(one) == digest(other)) == (one == other)
        assert len(digest(one)) == 32

    def test_it_does_not_matter_where_the_bytes_lie(self) -> None:
        data = bytes(range(256)) * 100
        around = memoryview(bytearray(b"x" + data + b"y"))
        assert digest(data) == digest(memoryview(data)) == digest(around[1:-1])

    @given(st.lists(st.binary(max_size=9), max_size=6), st.lists(st.binary(max_size=9), max_size=6))
    def test_parts_do_not_run_into_each_other(self, one: list[bytes], other: list[bytes]) -> None:
        assert (digest_of(one) == digest_of(other)) == (one == other)

    async def test_a_long_content_is_read_off_the_event_loop_to_the_same_digest(
        self, contents: Contents, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        readers: list[int] = []

        def spy(data: bytes | memoryview) -> bytes:
            readers.append(threading.get_ident())
            return digest(data)

        monkeypatch.setattr(content, "digest", spy)
        short, long = bytes(content._AT_ONCE_BYTES), bytes(content._AT_ONCE_BYTES + 1)
        assert [await contents.digest(short), await contents.digest(long)] == [digest(short), digest(long)]
        assert readers[0] == threading.get_ident() != readers[1]

    async def test_who_leaves_while_a_long_content_is_read_harms_nobody(self, contents: Contents) -> None:
        long = bytes(64 << 20)
        task = asyncio.create_task(contents.digest(long))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()
        assert await contents.digest(long) == digest(long)


class TestAddresses:
    async def test_all_that_decides_a_result_is_in_it(self, contents: Contents, tmp_path: Path) -> None:
        clip, larger = recipe(tmp_path / "a"), recipe(tmp_path / "b", size={"shortest_edge": 336})
        data, target = digest(b"picture"), DecodeTarget()
        addresses = [
            contents.address(data, clip, FP32, target),
            contents.address(digest(b"another"), clip, FP32, target),
            contents.address(data, larger, FP32, target),
            contents.address(data, clip, {"pixel_values": DataType.FP16}, target),
            contents.address(data, clip, {}, target),
            contents.address(data, clip, {"pixel_value": DataType.FP32}, target),
            contents.address(data, clip, FP32, DecodeTarget(least_size=(224, 224))),
            contents.address(data, clip, FP32, target, "one"),
            contents.address(data, clip, FP32, target, "other"),
        ]
        assert len(set(addresses)) == len(addresses)

    async def test_equal_recipes_of_two_models_share(self, contents: Contents, tmp_path: Path) -> None:
        one, other = recipe(tmp_path / "a"), recipe(tmp_path / "b")
        assert one is not other
        assert contents.address(b"", one, FP32, DecodeTarget()) == contents.address(
            b"", other, FP32, DecodeTarget()
        )

    async def test_the_order_of_the_outputs_does_not_matter(self, contents: Contents, tmp_path: Path) -> None:
        clip = recipe(tmp_path)
        both = {"a": DataType.FP32, "b": DataType.INT64}
        turned = dict(reversed(both.items()))
        assert contents.address(b"", clip, both, DecodeTarget()) == contents.address(
            b"", clip, turned, DecodeTarget()
        )

    async def test_a_recipe_is_pickled_once(
        self, contents: Contents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clip = recipe(tmp_path)
        first = contents.address(b"", clip, FP32, DecodeTarget())
        monkeypatch.setattr("sidecar.reuse.content.pickle.dumps", None)
        assert contents.address(b"", clip, dict(FP32), DecodeTarget()) == first

    async def test_fingerprints_do_not_grow_for_ever_and_come_again_the_same(
        self, contents: Contents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(content, "_MOST_FINGERPRINTS", 3)
        clip = recipe(tmp_path)

        def all_of_them() -> list[Address]:
            return [
                contents.address(b"", clip, {"pixel_values": data_type}, DecodeTarget())
                for data_type in DataType
            ]

        assert all_of_them() == all_of_them()
        assert len(contents._fingerprints) <= 3

    async def test_a_recipe_that_was_loaded_anew_is_never_taken_for_another(
        self, contents: Contents, tmp_path: Path
    ) -> None:
        found = set()
        for edge in range(100, 120):
            # Each is let go of at once, so that the next may come to lie where it was.
            passing = copy.deepcopy(recipe(tmp_path, size={"shortest_edge": edge}))
            found.add(contents.address(b"", passing, FP32, DecodeTarget()).maker)
        assert len(found) == 20


def test_a_digest_is_blake3s_own() -> None:
    assert digest(b"abc").hex() == "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85"
    assert len({digest_of([b"a", b"b"]), digest_of([b"ab"]), digest_of([pickle.dumps("ab")])}) == 3
