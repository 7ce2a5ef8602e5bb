"""Ways out of a worker, each tried in a process of its own that entered the sandbox as workers do.

    python -m tests.workers.sandbox.escaping '{"layers": [LAYER...], "attempts": [NAME...]}'

Prints one line of JSON: what became of each attempt. A process of its own, since forks of one with threads are ill.
None does harm where it goes through, whoever tries it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import mmap
import os
import resource
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from sidecar.workers.sandbox.config import Confinement
from sidecar.workers.sandbox.kernel import process_control, system_call
from sidecar.workers.sandbox.layers import Sandbox
from sidecar.workers.sandbox.seccomp import here
from sidecar.workers.sandbox.syscalls import ARCHITECTURES

MIB = 1 << 20
MEMORY_BYTES, FILE_BYTES = 64 * MIB, 4 * MIB
THREADS = 3
# What an attempt that went through says, and what is said where it may do so.
DONE = "done"

_ARCHITECTURE = here() or ARCHITECTURES["x86_64"]


def call(name: str, *arguments: int) -> int:
    """A system call by its name."""
    return system_call(_ARCHITECTURE.numbers[name], *arguments)


def address(data: bytes) -> int:
    """Where bytes lie that live as long as this process."""
    _KEPT.append(ctypes.create_string_buffer(data))
    return ctypes.addressof(_KEPT[-1])


_KEPT: list[ctypes.Array[ctypes.c_char]] = []
_PARENT = os.getppid()
_AF_INET, _SOCK_STREAM = 2, 1
# What was open before: a listener, a file, a directory.
_LISTENER = socket.create_server(("127.0.0.1", 0))
_LISTENER.setblocking(False)
_FILE = os.open(__file__, os.O_RDONLY)
_FOLDER = os.open("/etc", os.O_RDONLY | os.O_DIRECTORY)


def connects() -> None:
    with socket.socket() as asking:
        asking.connect(_LISTENER.getsockname())


def writes() -> None:
    with Path(f"/tmp/escaped-{os.getpid()}").open("wb") as file:
        file.write(b"out")


def starts_a_thread() -> None:
    try:
        threading.Thread(target=len, args=("",)).start()
    except RuntimeError as error:
        raise OSError(errno.EAGAIN, str(error)) from error


def makes_code() -> None:
    with mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC):
        pass


def turns_memory_into_code() -> None:
    with mmap.mmap(-1, 4096) as pages:
        at = ctypes.addressof(ctypes.c_char.from_buffer(pages))
        call("mprotect", at, 4096, mmap.PROT_READ | mmap.PROT_EXEC)


def takes_pages_away() -> None:
    with mmap.mmap(-1, 4096) as pages:
        pages.madvise(mmap.MADV_REMOVE)


def grows() -> None:
    try:
        bytearray(2 * MEMORY_BYTES)
    except MemoryError as error:
        raise OSError(errno.ENOMEM, "") from error


def fills_a_memory_file() -> None:
    file = os.memfd_create("x")
    for _ in range(2):
        assert os.write(file, bytes(FILE_BYTES)) == FILE_BYTES


def opens_many() -> None:
    for _ in range(64):
        os.memfd_create("x")


def raises_limits() -> None:
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    except ValueError as error:
        raise OSError(errno.EPERM, str(error)) from error


def asks_for_signals() -> None:
    fcntl.fcntl(os.memfd_create("x"), fcntl.F_SETOWN, _PARENT)


ATTEMPTS: dict[str, Callable[[], object]] = {
    "opens a socket": socket.socket,
    "opens a datagram socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
    "opens a unix socket": lambda: socket.socket(socket.AF_UNIX),
    "connects": connects,
    "accepts on an inherited listener": _LISTENER.accept,
    "makes a pair of sockets": socket.socketpair,
    "reads a file": Path("/etc/passwd").read_bytes,
    "reads another's environment": Path(f"/proc/{_PARENT}/environ").read_bytes,
    "reads its own environment": Path("/proc/self/environ").read_bytes,
    "reads an inherited file": lambda: os.read(_FILE, 1),
    "opens below an inherited directory": lambda: os.open("passwd", os.O_RDONLY, dir_fd=_FOLDER),
    "opens by openat2": lambda: call("openat2", -100, address(b"/etc/passwd"), address(bytes(24)), 24),
    "lists a directory": lambda: list(Path("/").iterdir()),
    "looks whether a file is there": Path("/etc/passwd").stat,
    "writes a file": writes,
    "removes a file": Path("/tmp/not-there").unlink,
    "makes a directory": Path(f"/tmp/escaped-{_PARENT}").mkdir,
    "opens the arena's like": lambda: os.open("/dev/shm", os.O_RDONLY),
    "opens another's memory": lambda: os.open(f"/proc/{_PARENT}/mem", os.O_RDWR),
    "cuts a file short": lambda: os.ftruncate(os.memfd_create("x"), 0),
    "controls a device": lambda: fcntl.ioctl(0, 0x5412, b"x"),
    "has signals sent": asks_for_signals,
    "runs a program": lambda: os.execv("/bin/true", ["true"]),
    "runs a program by its descriptor": lambda: call("execveat", -100, address(b"/bin/true"), 0, 0, 0),
    "forks": lambda: os.fork() or os._exit(0),
    "starts a thread": starts_a_thread,
    "clones by clone3": lambda: call("clone3", address(struct.pack("11Q", *(11 * [0]))), 88),
    "makes memory for code": makes_code,
    "turns memory into code": turns_memory_into_code,
    "takes pages from a mapped file": takes_pages_away,
    "takes more memory than it may": grows,
    "fills a memory file past its bound": fills_a_memory_file,
    "opens more files than it may": opens_many,
    "raises its limits": raises_limits,
    "looks at another's limits": lambda: resource.prlimit(_PARENT, resource.RLIMIT_NOFILE),
    "signals its parent": lambda: os.kill(_PARENT, 0),
    "signals by pidfd": lambda: os.pidfd_open(_PARENT),
    "signals a thread of another": lambda: call("tgkill", _PARENT, _PARENT, 0),
    "signals all": lambda: os.kill(-1, 0),
    "queues a signal": lambda: call("rt_sigqueueinfo", _PARENT, signal.SIGUSR1, address(bytes(128))),
    "traces its parent": lambda: call("ptrace", 16, _PARENT, 0, 0),
    "reads another's memory": lambda: call("process_vm_readv", _PARENT, 0, 0, 0, 0, 0),
    "writes another's memory": lambda: call("process_vm_writev", _PARENT, 0, 0, 0, 0, 0),
    "takes another's file": lambda: call("pidfd_getfd", 0, 0, 0),
    "mounts": lambda: call("mount", 0, address(b"/tmp"), address(b"no such"), 0, 0),
    "opens a file system": lambda: call("fsopen", address(b"no such"), 0),
    "changes its root": lambda: os.chroot("/"),
    "leaves its namespaces": lambda: call("unshare", 0x10000000),
    "enters a namespace": lambda: call("setns", 0, 0),
    "becomes another user": lambda: os.setuid(65534),
    "takes capabilities": lambda: call("capset", address(bytes(8)), address(bytes(24))),
    "opens a ring": lambda: call("io_uring_setup", 1, address(bytes(128))),
    "loads BPF": lambda: call("bpf", 0, address(bytes(128)), 128),
    "adds a key": lambda: call("add_key", address(b"user"), address(b"x"), address(b"y"), 1, -3),
    "asks the key ring": lambda: call("keyctl", 0, -3, 0),
    "handles faults of pages": lambda: call("userfaultfd", 0),
    "measures": lambda: call("perf_event_open", address(bytes(128)), 0, -1, -1, 0),
    "loads a module": lambda: call("finit_module", 0, address(b""), 0),
    "opens by handle": lambda: call("open_by_handle_at", -100, address(bytes(64)), 0),
    "changes its personality": lambda: call("personality", 0x0400000),
    "outlives its parent": lambda: process_control(1, 0),
    "lays a filter of its own": lambda: call("seccomp", 1, 0, 0),
    "makes shared memory": lambda: call("shmget", 0, 4096, 0o1600),
    "calls what is not there": lambda: system_call(9999),
    "calls by the numbers of another architecture": lambda: system_call(0x40000000 + 39),
}


def outcome(layers: Sequence[str], attempt: Callable[[], object]) -> str:
    """What became of an attempt in a process of its own: DONE, an error's name, or the signal that ended it."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if not pid:
        with suppress(BaseException):
            _try(layers, attempt, theirs)
        os._exit(1)
    os.close(theirs)
    with os.fdopen(ours) as told:
        said = told.read()
    _, status = os.waitpid(pid, 0)
    return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else said


def _try(layers: Sequence[str], attempt: Callable[[], object], told: int) -> None:
    """With threads, as workers have them: the attempt is made on one that was there before the last layer."""
    sandbox = Sandbox(Confinement(tuple(layers), MEMORY_BYTES, FILE_BYTES), THREADS)
    begun = threading.Event()
    said: list[str] = []

    def work() -> None:
        begun.wait()
        try:
            attempt()
        except OSError as error:
            said.append(errno.errorcode.get(error.errno or 0, str(error)))
        else:
            said.append(DONE)

    sandbox.enter((told,))
    thread = threading.Thread(target=work)
    thread.start()
    sandbox.shut()
    begun.set()
    thread.join()
    os.write(told, said[0].encode())
    os._exit(0)


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    print(json.dumps({name: outcome(asked["layers"], ATTEMPTS[name]) for name in asked["attempts"]}))  # noqa: T201 - its answer
