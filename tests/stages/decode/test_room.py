"""Memory for pictures is used again once nobody looks at it, and goes back to the kernel only then."""

from __future__ import annotations

import ctypes
import mmap
import threading
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from sidecar.stages.decode.room import Room

_Array = npt.NDArray[np.uint8]

_LARGE = Room.LEAST + 1
_HALF = 4 << 20


def _resident(array: _Array) -> int:
    """Bytes of the array's pages that are real, by the kernel. (smaps would not do: it joins neighbouring mappings.)"""
    libc = ctypes.CDLL(None, use_errno=True)
    pages = -(-array.nbytes // mmap.PAGESIZE)
    seen = (ctypes.c_ubyte * pages)()
    start = ctypes.c_void_p(array.ctypes.data)
    assert libc.mincore(start, ctypes.c_size_t(array.nbytes), seen) == 0, ctypes.get_errno()
    return sum(page & 1 for page in seen) * mmap.PAGESIZE


def test_large_memory_is_handed_out_again_once_nobody_holds_it() -> None:
    room = Room()
    first = room.take(_LARGE)
    place = first.ctypes.data
    part = first[100:200].reshape(10, 10)[::2]
    del first
    other = room.take(_LARGE)
    assert not np.shares_memory(part, other)
    assert room.take(_LARGE).ctypes.data != place
    del part
    assert room.take(Room.MOST).ctypes.data == place


def test_a_view_of_another_kind_keeps_large_memory_too() -> None:
    room = Room()
    view = room.take(_LARGE).data
    assert not np.shares_memory(np.asarray(view), room.take(_LARGE))
    place = np.asarray(view).ctypes.data
    view.release()
    assert room.take(_LARGE).ctypes.data == place


@pytest.mark.parametrize("size", [1, Room.LEAST, Room.MOST + 1])
def test_memory_of_other_sizes_is_left_to_malloc(size: int) -> None:
    room = Room()
    assert room.take(size).size == size
    assert not room.give_back(size)


def test_each_thread_has_memory_of_its_own() -> None:
    room = Room()
    kept = room.take(_LARGE)
    kept[:] = 7
    found = []

    def other() -> None:
        found.append(room.give_back(_LARGE))
        found.append(np.shares_memory(room.take(_LARGE), kept))

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert found == [False, False]
    assert (kept == 7).all()


def test_what_is_given_back_is_no_longer_real_and_the_rest_is_kept() -> None:
    room = Room()
    room.take(Room.MOST)[: 2 * _HALF] = 7
    assert _resident(room.take(Room.MOST)) == 2 * _HALF
    assert room.give_back(_HALF)
    whole = room.take(Room.MOST)
    assert _resident(whole) == _HALF
    assert not whole[:_HALF].any()
    assert (whole[_HALF : 2 * _HALF] == 7).all()


def test_more_than_there_is_may_be_given_back_and_nothing_is_nothing() -> None:
    room = Room()
    room.take(Room.MOST)[:] = 7
    assert not room.give_back(0)
    assert not room.give_back(-1)
    assert (room.take(Room.MOST) == 7).all()
    assert room.give_back(2 * Room.MOST)
    assert _resident(room.take(Room.MOST)) == 0


@pytest.mark.parametrize(
    "look",
    [
        lambda array: array,
        lambda array: array[-1:],
        lambda array: array[:600].reshape(10, 20, 3)[::-1].swapaxes(0, 1),
        lambda array: np.lib.stride_tricks.as_strided(array, (3, 3), (0, 1), writeable=False),
        lambda array: np.broadcast_to(array[:3], (5, 3)),
        lambda array: array.view(np.uint32) if array.size % 4 == 0 else array[:4].view(np.uint32),
        lambda array: np.frombuffer(memoryview(array)[5:9], np.uint8),
        memoryview,
    ],
    ids=["itself", "an end", "turned", "strided", "repeated", "words", "a buffer's buffer", "a buffer"],
)
def test_what_somebody_looks_at_is_never_given_back(look: Callable[[_Array], object]) -> None:
    room = Room()
    taken = room.take(_LARGE)
    taken[:] = 7
    seen = look(taken)
    del taken
    assert not room.give_back(_LARGE)
    values = np.asarray(seen)
    assert set(values.tobytes()) == {7}
    del seen, values
    assert room.give_back(_LARGE)
