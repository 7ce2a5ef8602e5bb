"""The shared-memory object: it lives and dies with its owner, and only dead owners' objects are cleared."""

from __future__ import annotations

import fcntl
import mmap
import os
import secrets
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar.arena.segment import HEADER_BYTES, SHM, Segment, clear_stale
from sidecar.arena.view import attach
from sidecar.errors import InternalError

SIZE = HEADER_BYTES + 16 * 4096
HEX = "0123456789abcdef"

# Owns one, says its name, and waits to be told to end.
OWNER = """
import sys
from sidecar.arena.segment import Segment
segment = Segment(sys.argv[1], int(sys.argv[2]))
print(segment.name, flush=True)
sys.stdin.read()
segment.close()
"""
# Opens as a server does, again and again, and looks whether its object is still there each time.
OPENER = """
import sys
from sidecar.arena.segment import SHM, Segment, clear_stale
lost = 0
for _ in range(int(sys.argv[3])):
    clear_stale(sys.argv[1])
    segment = Segment(sys.argv[1], int(sys.argv[2]))
    clear_stale(sys.argv[1])
    lost += not (SHM / segment.name).exists()
    segment.close()
print(lost)
"""


@pytest.fixture
def prefix() -> Iterator[str]:
    """A prefix of this test's own, and nothing under it left behind."""
    name = f"sidecar-test-{secrets.token_hex(4)}"
    yield name
    left = sorted(SHM.glob(f"{name}-*"))
    for path in left:
        path.unlink()
    assert left == []


def python(program: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def owner(prefix: str) -> tuple[subprocess.Popen[str], str]:
    """A process that owns an object, and the object's name."""
    process = python(OWNER, prefix, SIZE)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def killed(process: subprocess.Popen[str]) -> None:
    with process:
        process.send_signal(signal.SIGKILL)


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_the_object_is_for_those_whom_the_mode_lets_in(prefix: str, mode: int) -> None:
    segment = Segment(prefix, SIZE, mode)
    assert stat.S_IMODE((SHM / segment.name).stat().st_mode) == mode
    segment.close()


def test_the_object_is_a_file_for_its_user_alone_named_by_prefix_and_chance(prefix: str) -> None:
    segment = Segment(prefix, SIZE)
    path = SHM / segment.name
    start, _, end = segment.name.rpartition("-")
    assert (start, len(end), set(end) <= set(HEX)) == (prefix, 16, True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (path.stat().st_size, len(segment.memory)) == (SIZE, SIZE)
    segment.close()
    assert not path.exists()


def test_every_page_is_there_before_the_first_use(prefix: str) -> None:
    segment = Segment(prefix, SIZE)
    assert (SHM / segment.name).stat().st_blocks * 512 >= SIZE
    segment.close()


def test_closing_twice_is_closing_once(prefix: str) -> None:
    segment = Segment(prefix, SIZE)
    segment.close()
    segment.close()


def test_a_view_that_is_still_held_keeps_its_bytes_after_closing(prefix: str) -> None:
    segment = Segment(prefix, SIZE)
    view = segment.memory[HEADER_BYTES : HEADER_BYTES + 5]
    view[:] = b"still"
    segment.close()
    assert bytes(view) == b"still"


def test_closing_never_truncates_what_others_map(prefix: str) -> None:
    segment = Segment(prefix, SIZE)
    other = attach(segment.name, SIZE)
    other[-5:] = b"still"
    segment.close()
    assert bytes(other[-5:]) == b"still"


def test_children_do_not_inherit_the_lock(prefix: str) -> None:
    segment = Segment(prefix, SIZE)
    files = "import os; print([os.path.realpath(f'/proc/self/fd/{each}') for each in os.listdir('/proc/self/fd')])"
    told = subprocess.run(
        [sys.executable, "-c", files], capture_output=True, text=True, check=True, close_fds=False
    )
    assert segment.name not in told.stdout
    segment.close()


def test_a_size_that_there_is_no_room_for_is_an_error_and_leaves_nothing(prefix: str) -> None:
    # More than the whole is refused before a page is taken; more than is free would fill the machine first.
    whole = os.statvfs(SHM)
    with pytest.raises(OSError):
        Segment(prefix, whole.f_blocks * whole.f_frsize + (1 << 50))
    assert list(SHM.glob(f"{prefix}-*")) == []


def test_what_a_killed_process_left_is_freed(prefix: str) -> None:
    process, name = owner(prefix)
    killed(process)
    assert (SHM / name).exists()
    assert clear_stale(prefix) == (name,)
    assert not (SHM / name).exists()


def test_what_a_living_process_owns_is_left_alone(prefix: str) -> None:
    process, name = owner(prefix)
    with process:
        assert clear_stale(prefix) == ()
        assert (SHM / name).exists()
    assert not (SHM / name).exists()


def test_what_this_process_owns_is_left_alone(prefix: str) -> None:
    segment = Segment(prefix, SIZE)
    assert clear_stale(prefix) == ()
    segment.close()


def test_who_only_attached_does_not_keep_a_dead_owners_object_alive(prefix: str) -> None:
    process, name = owner(prefix)
    view = attach(name, SIZE)
    killed(process)
    assert clear_stale(prefix) == (name,)
    assert len(view) == SIZE


def test_a_death_while_the_object_is_being_filled_leaves_what_can_be_freed(prefix: str) -> None:
    segment = Segment(prefix, SIZE)
    head = bytes(segment.memory[:HEADER_BYTES])
    segment.close()
    (SHM / f"{prefix}-{HEX}").write_bytes(head[:64])
    assert clear_stale(prefix) == (f"{prefix}-{HEX}",)


@pytest.mark.parametrize("content", [b"", b"x" * 8192], ids=["empty", "of another program"])
def test_a_file_without_our_mark_is_left_alone(prefix: str, content: bytes) -> None:
    path = SHM / f"{prefix}-{HEX}"
    path.write_bytes(content)
    assert clear_stale(prefix) == ()
    assert path.read_bytes() == content
    path.unlink()


@pytest.mark.parametrize(
    "like", ["{}-0123456789abcde", "{}-0123456789abcdef0", "{}-0123456789ABCDEF", "{}-x-" + HEX]
)
def test_a_marked_file_of_a_like_name_is_left_alone(prefix: str, like: str) -> None:
    segment = Segment(prefix, SIZE)
    path = SHM / like.format(prefix)
    path.write_bytes(segment.memory)
    segment.close()
    assert clear_stale(prefix) == ()
    assert path.exists()
    path.unlink()


def test_a_link_a_pipe_and_a_folder_of_our_name_are_left_alone(prefix: str, tmp_path: Path) -> None:
    process, name = owner(prefix)
    killed(process)
    target = tmp_path / "kept"
    target.write_bytes((SHM / name).read_bytes())
    paths = [SHM / f"{prefix}-{digit * 16}" for digit in "abc"]
    paths[0].symlink_to(target)
    os.mkfifo(paths[1])
    paths[2].mkdir()
    assert clear_stale(prefix) == (name,)
    assert target.exists()
    paths[0].unlink()
    paths[1].unlink()
    paths[2].rmdir()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_another_user_left_is_left_alone(prefix: str) -> None:
    process, name = owner(prefix)
    killed(process)
    os.chown(SHM / name, 65534, -1)
    assert clear_stale(prefix) == ()
    (SHM / name).unlink()


def test_opening_at_once_in_many_processes_takes_nobodys_object_away(prefix: str) -> None:
    openers = [python(OPENER, prefix, SIZE, 1000) for _ in range(4)]
    told = [process.communicate()[0].strip() for process in openers]
    assert told == ["0"] * 4


def test_attached_memory_is_the_same_memory_in_another_process(prefix: str) -> None:
    segment = Segment(prefix, SIZE)
    program = (
        "import sys\nfrom sidecar.arena.view import attach\n"
        "assert 'asyncio' not in sys.modules\n"
        "attach(sys.argv[1], int(sys.argv[2]))[4096:4101] = b'there'"
    )
    with python(program, segment.name, SIZE) as process:
        assert process.wait() == 0
    assert bytes(segment.memory[4096:4101]) == b"there"
    segment.close()


def test_attaching_to_what_is_not_there_or_not_ours_or_of_another_size_is_refused(prefix: str) -> None:
    with pytest.raises(InternalError, match="cannot be opened"):
        attach(f"{prefix}-{HEX}", SIZE)
    foreign = SHM / f"{prefix}-{HEX}"
    foreign.write_bytes(bytes(SIZE))
    with pytest.raises(InternalError, match="header"):
        attach(foreign.name, SIZE)
    foreign.write_bytes(b"")
    with pytest.raises(InternalError, match="header"):
        attach(foreign.name, SIZE)
    foreign.unlink()
    segment = Segment(prefix, SIZE)
    with pytest.raises(InternalError, match="expected"):
        attach(segment.name, SIZE + 4096)
    segment.close()


def test_an_object_cut_short_by_others_is_refused_before_it_is_mapped(prefix: str) -> None:
    segment = Segment(prefix, SIZE)
    os.truncate(SHM / segment.name, HEADER_BYTES)
    with pytest.raises(InternalError, match="expected"):
        attach(segment.name, SIZE)
    segment.close()


def test_attaching_leaves_the_owners_lock_alone(prefix: str) -> None:
    segment = Segment(prefix, SIZE)
    view = attach(segment.name, SIZE)
    assert isinstance(view.obj, mmap.mmap)
    del view
    file = os.open(SHM / segment.name, os.O_RDONLY)
    with pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(file)
    segment.close()
