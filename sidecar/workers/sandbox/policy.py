"""Which system calls a warm worker may make: those that decoding takes, by name, and no others.

A list of what is allowed, for whoever runs code in a worker tries what nobody thought of. By then the worker has all
its threads, all its code is loaded, and nothing is opened any more, so that the list is short. What is not on it has
one of three answers:

- what a library may try by itself when a file misleads it (open a file, a socket, a thread) is refused with an error
  that the library knows how to take: the item fails and nobody else notices;
- what no decoder does by any path, but code that was smuggled in does (run a program, trace, mount, io_uring), ends
  the process: the supervisor counts it as a crash, runs the job once more, then refuses its content, and logs SIGSYS;
- anything else does not exist, as in an older kernel, for which libraries have another way.

No memory becomes code: neither mapped nor turned into it.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from sidecar.workers.sandbox import bpf
from sidecar.workers.sandbox.bpf import Block, Instruction
from sidecar.workers.sandbox.syscalls import Architecture

# linux/seccomp.h
ALLOW: Final = 0x7FFF0000
KILL: Final = 0x80000000
_ERROR: Final = 0x00050000

REFUSE: Final = _ERROR | errno.EACCES
NO_THREAD: Final = _ERROR | errno.EAGAIN
ABSENT: Final = _ERROR | errno.ENOSYS


def _named(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Seen in jobs on every file of the corpus by every recipe: futex, clock_gettime, fstat, read, close, write, lseek,
# memfd_create, dup, fcntl, newfstatat, getpid, madvise, mmap, mprotect, munmap, rt_sigprocmask, gettid; and the
# channel's recvfrom and sendto. The others are how C libraries and interpreters of other versions do the same.
ALLOWED: Final = _named(
    """
    brk clock_getres clock_gettime clock_nanosleep close dup exit exit_group fstat futex futex_requeue
    futex_wait futex_waitv futex_wake getcpu getegid geteuid getgid getpid getppid getrandom getrusage
    gettid gettimeofday getuid lseek membarrier memfd_create mremap munmap nanosleep pread64 read readv
    recvfrom restart_syscall rseq rt_sigaction rt_sigprocmask rt_sigreturn sched_getaffinity sched_yield
    sendto set_robust_list sigaltstack sysinfo time times uname write writev
    """
)

REFUSED: Final = _named(
    """
    accept accept4 access bind chmod chown connect creat epoll_create1 eventfd2 faccessat faccessat2
    fallocate fchmod fchmodat fchown fchownat ftruncate getcwd getdents64 inotify_init1 ioctl link
    linkat listen lstat mkdir mkdirat mknod mknodat open openat openat2 pipe pipe2 prlimit64 readlink
    readlinkat recvmsg rename renameat renameat2 rmdir sched_setaffinity sched_setattr
    sched_setscheduler sendmsg setpgid setpriority setrlimit setsid shmat shmget socket socketpair stat
    statfs symlink symlinkat truncate umask unlink unlinkat utimensat
    """
)

DEADLY: Final = _named(
    """
    acct add_key bpf capset chroot clock_adjtime clock_settime delete_module execve execveat
    finit_module fork fsconfig fsmount fsopen fspick init_module io_uring_enter io_uring_register
    io_uring_setup ioperm iopl kcmp kexec_file_load kexec_load keyctl memfd_secret modify_ldt mount
    mount_setattr move_mount name_to_handle_at open_by_handle_at open_tree perf_event_open personality
    pidfd_getfd pidfd_open pidfd_send_signal pivot_root process_madvise process_mrelease
    process_vm_readv process_vm_writev ptrace quotactl quotactl_fd reboot request_key rt_sigqueueinfo
    rt_tgsigqueueinfo seccomp setdomainname setfsgid setfsuid setgid setgroups sethostname setns
    setregid setresgid setresuid setreuid settimeofday setuid swapoff swapon syslog tkill umount2
    unshare userfaultfd vfork vhangup
    """
)

_PROT_EXEC: Final = 4
# NORMAL, RANDOM, SEQUENTIAL, WILLNEED, DONTNEED, FREE, HUGEPAGE, NOHUGEPAGE: what allocators say of their own pages.
# Not REMOVE, which would take the arena's.
_ADVICE: Final = (0, 1, 2, 3, 4, 8, 14, 15)
# F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_DUPFD_CLOEXEC. Not F_SETOWN and F_SETSIG, which send signals.
_FILE_CONTROL: Final = (0, 1, 2, 3, 1030)
_AT_EMPTY_PATH: Final = 0x1000  # the facts of a file that is open, as fstat gives them
_CLONE_THREAD: Final = 0x00010000
# PR_SET_NAME, PR_GET_NAME and PR_SET_VMA: names of threads and of memory.
_PROCESS_CONTROL: Final = (15, 16, 0x53564D41)


def _values(argument: int, *allowed: int, otherwise: int = REFUSE) -> list[Instruction]:
    """Allowed where the argument is one of these."""
    block = [bpf.load_argument(argument)]
    for value in allowed:
        block += bpf.when_equal(value, [bpf.verdict(ALLOW)])
    return [*block, bpf.verdict(otherwise)]


def _without(argument: int, bits: int) -> list[Instruction]:
    """Allowed where the argument has none of the bits."""
    return [
        bpf.load_argument(argument),
        *bpf.when_any_bit(bits, [bpf.verdict(REFUSE)]),
        bpf.verdict(ALLOW),
    ]


def _with(argument: int, bits: int, then: int, otherwise: int) -> list[Instruction]:
    """`then` where the argument has one of the bits."""
    return [bpf.load_argument(argument), *bpf.when_any_bit(bits, [bpf.verdict(then)]), bpf.verdict(otherwise)]


# What is allowed hangs on an argument; each is told the process's number.
GUARDED: Final[Mapping[str, Callable[[int], Block]]] = {
    "mmap": lambda _: _without(2, _PROT_EXEC),
    "mprotect": lambda _: _without(2, _PROT_EXEC),
    "madvise": lambda _: _values(2, *_ADVICE),
    "fcntl": lambda _: _values(1, *_FILE_CONTROL),
    "newfstatat": lambda _: _with(3, _AT_EMPTY_PATH, ALLOW, REFUSE),
    "prctl": lambda _: _values(0, *_PROCESS_CONTROL),
    # To itself: how a C library aborts.
    "tgkill": lambda own: _values(0, own, otherwise=KILL),
    "kill": lambda own: _values(0, own, otherwise=KILL),
    "clone": lambda _: _with(0, _CLONE_THREAD, NO_THREAD, KILL),
    # Its flags lie in memory, where no filter sees them: C libraries take `clone` then.
    "clone3": lambda _: [bpf.verdict(ABSENT)],
}


def program(architecture: Architecture, own: int) -> list[Instruction]:
    """The filter of the process whose number is `own`, on an architecture."""
    numbers = architecture.numbers
    found = [bpf.load(bpf.ARCHITECTURE_AT), *bpf.unless_equal(architecture.audit, [bpf.verdict(KILL)])]
    found.append(bpf.load(bpf.NUMBER_AT))
    if architecture.others_from is not None:
        found += bpf.when_at_least(architecture.others_from, [bpf.verdict(KILL)])
    for name, block in _blocks(own):
        if name in numbers:
            found += bpf.when_equal(numbers[name], block)
    return [*found, bpf.verdict(ABSENT)]


def _blocks(own: int) -> Iterator[tuple[str, Block]]:
    """What becomes of each call: first those whose arguments count, since newer kernels (5.11) remember the others."""
    yield from ((name, guard(own)) for name, guard in GUARDED.items())
    for names, action in ((ALLOWED, ALLOW), (REFUSED, REFUSE), (DEADLY, KILL)):
        yield from ((name, [bpf.verdict(action)]) for name in sorted(names))
