"""Whatever the bytes are, probe and decode raise UnsupportedMedia or CorruptMedia, or succeed in bounds."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.errors import MediaError
from sidecar.media import DecodeTarget, ImageInfo, Source
from sidecar.stages.decode import decode
from sidecar.stages.probe import probe
from testbed.hostile.mutate import Mutator
from testbed.hostile.parts import LAYOUTS
from tests import corpus

_NAMES = (*corpus.PICTURES, *corpus.SOUNDS, *corpus.CORRUPT, *corpus.UNSUPPORTED)
# What admission would let in of files this small; bytes.
_ROOM = 1 << 22


def _survives(data: bytes, rate: int | None = None, max_seconds: float | None = None) -> None:
    """The invariant. A result that is admitted must also be what was promised."""
    try:
        # As the front has them, or as a worker does.
        source = Source(data if len(data) & 1 else memoryview(data))
        info = probe(source)
        if isinstance(info, ImageInfo) and 3 * info.width * info.height > _ROOM:
            return
        frames = decode(source, info, DecodeTarget(rate, _ROOM, max_seconds))
    except MediaError as error:
        assert error.message.startswith("item 0 ")  # noqa: PT017 - most inputs raise, some do not
        return
    assert 0 < frames.array.nbytes <= _ROOM
    if isinstance(info, ImageInfo):
        assert frames.array.shape[1::-1] == info.upright_size


def _cut(data: bytearray, rng: random.Random) -> bytearray:
    return data[: rng.randrange(len(data) + 1)]


def _flip(data: bytearray, rng: random.Random) -> bytearray:
    for _ in range(rng.choice((1, 1, 4, 32))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


def _flip_header(data: bytearray, rng: random.Random) -> bytearray:
    for _ in range(rng.choice((1, 2, 8))):
        data[rng.randrange(min(len(data), 256))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    return data


def _insert(data: bytearray, rng: random.Random) -> bytearray:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.randbytes(rng.choice((1, 2, 16, 300))) + data[at:]


def _remove(data: bytearray, rng: random.Random) -> bytearray:
    at = rng.randrange(len(data))
    return data[:at] + data[at + rng.choice((1, 2, 16, 300)) :]


def _splice(data: bytearray, rng: random.Random) -> bytearray:
    other = corpus.data(rng.choice(_NAMES))
    at = rng.randrange(len(data))
    return data[:at] + other[min(at, len(other)) :]


_MUTATIONS: tuple[Callable[[bytearray, random.Random], bytearray], ...] = (
    _cut,
    _flip,
    _flip_header,
    _insert,
    _remove,
    _splice,
)


def _mutated(name: str, seed: int) -> bytes:
    rng = random.Random(seed)
    data = bytearray(corpus.data(name))
    for _ in range(rng.choice((1, 1, 2, 3))):
        if data:
            data = rng.choice(_MUTATIONS)(data, rng)
    return bytes(data)


@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    name=st.sampled_from(_NAMES),
    seed=st.integers(0, 2**32),
    rate=st.sampled_from((None, 16000)),
    max_seconds=st.sampled_from((None, 0.2)),
)
def test_mutated_files_raise_nothing_but_the_two_errors(
    name: str, seed: int, rate: int | None, max_seconds: float | None
) -> None:
    _survives(_mutated(name, seed), rate, max_seconds)


def _mutator(name: str) -> Mutator:
    known: dict[str, corpus.Picture | corpus.Sound] = {**corpus.PICTURES, **corpus.SOUNDS}
    seeds = [corpus.data(each) for each, facts in known.items() if facts.format == name]
    return Mutator(name, seeds, [corpus.data(each) for each in _NAMES])


def _mutants(name: str, numbers: range) -> None:
    mutator = _mutator(name)
    for number in numbers:
        _survives(mutator.mutant(number), (None, 16000)[number & 1], (None, 0.2)[number >> 1 & 1])


@pytest.mark.parametrize("name", LAYOUTS)
def test_files_with_parts_that_are_wrong_and_checksums_that_are_right_raise_nothing_but_the_two_errors(
    name: str,
) -> None:
    _mutants(name, range(150))


@settings(max_examples=300, deadline=None)
@given(head=st.sampled_from([corpus.data(name)[:32] for name in _NAMES]), tail=st.binary(max_size=300))
def test_a_good_beginning_and_anything_after_raise_nothing_but_the_two_errors(
    head: bytes, tail: bytes
) -> None:
    _survives(head + tail)


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=200))
def test_any_bytes_raise_nothing_but_the_two_errors(data: bytes) -> None:
    _survives(data)


def test_two_threads_at_once_raise_nothing_but_the_two_errors() -> None:
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for name in _NAMES:
                _survives(_mutated(name, seed))
        except BaseException as error:  # noqa: BLE001 - to be looked at by the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", _NAMES)
def test_a_thousand_mutations_of_each_file_raise_nothing_but_the_two_errors(name: str) -> None:
    for seed in range(1000):
        _survives(_mutated(name, seed), (None, 16000)[seed & 1])


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", LAYOUTS)
def test_thousands_of_files_with_parts_that_are_wrong_raise_nothing_but_the_two_errors(name: str) -> None:
    _mutants(name, range(150, 5_000))
