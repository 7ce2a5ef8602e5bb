"""The filter's verdicts on both architectures, by an interpreter of its language; its numbers by the kernel's own."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import pytest

from sidecar.workers.sandbox import bpf
from sidecar.workers.sandbox.bpf import Block
from sidecar.workers.sandbox.policy import (
    ABSENT,
    ALLOW,
    ALLOWED,
    DEADLY,
    GUARDED,
    KILL,
    NO_THREAD,
    REFUSE,
    REFUSED,
    program,
)
from sidecar.workers.sandbox.syscalls import ARCHITECTURES, Architecture

OWN = 4321
HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}
both = pytest.mark.parametrize("machine", ARCHITECTURES)


def judged(rules: Block, audit: int, number: int, *arguments: int) -> int:
    """The verdict on a call, as the kernel finds it."""
    data = {bpf.NUMBER_AT: number, bpf.ARCHITECTURE_AT: audit}
    data |= {16 + 8 * index: value & 0xFFFFFFFF for index, value in enumerate([*arguments, *(6 * [0])][:6])}
    at, register = 0, 0
    while True:
        code, then, otherwise, k = rules[at]
        at += 1
        match code:
            case 0x20:
                register = data[k]
            case 0x06:
                return k
            case _:
                holds = {0x15: register == k, 0x35: register >= k, 0x45: bool(register & k)}[code]
                at += then if holds else otherwise


def verdict(machine: str, name: str, *arguments: int) -> int:
    found = ARCHITECTURES[machine]
    return judged(program(found, OWN), found.audit, found.numbers[name], *arguments)


@both
def test_every_call_of_the_policy_gets_its_verdict_and_no_call_has_two(machine: str) -> None:
    numbers = ARCHITECTURES[machine].numbers
    for names, expected in ((ALLOWED, ALLOW), (REFUSED, REFUSE), (DEADLY, KILL)):
        assert {verdict(machine, name) for name in names & set(numbers)} == {expected}
    lists = (ALLOWED, REFUSED, DEADLY, frozenset(GUARDED))
    assert sum(map(len, lists)) == len(frozenset.union(*lists))


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("mmap", (0, 4096, 3), ALLOW),
        ("mmap", (0, 4096, 7), REFUSE),
        ("mprotect", (0, 4096, 1), ALLOW),
        ("mprotect", (0, 4096, 5), REFUSE),
        ("madvise", (0, 4096, 4), ALLOW),
        ("madvise", (0, 4096, 9), REFUSE),
        ("fcntl", (3, 1030, 0), ALLOW),
        ("fcntl", (3, 8, OWN), REFUSE),
        ("newfstatat", (3, 1, 2, 0x1000), ALLOW),
        ("newfstatat", (3, 1, 2, 0), REFUSE),
        ("prctl", (15, 1), ALLOW),
        ("prctl", (1, 0), REFUSE),
        ("kill", (OWN, 9), ALLOW),
        ("kill", (1, 9), KILL),
        ("kill", (-1, 9), KILL),
        ("tgkill", (OWN, OWN + 1, 6), ALLOW),
        ("tgkill", (1, 1, 6), KILL),
        ("clone", (0x3D0F00,), NO_THREAD),
        ("clone", (17,), KILL),
        ("clone3", (0, 88), ABSENT),
    ],
)
@both
def test_an_argument_decides_where_it_should(
    machine: str, name: str, arguments: tuple[int, ...], expected: int
) -> None:
    assert verdict(machine, name, *arguments) == expected


@both
def test_a_call_that_is_not_named_does_not_exist(machine: str) -> None:
    found = ARCHITECTURES[machine]
    rules = program(found, OWN)
    for number in set(range(1024)) - set(found.numbers.values()):
        assert judged(rules, found.audit, number) == ABSENT
    assert ABSENT & 0xFFFF == errno.ENOSYS


@both
def test_calls_of_any_other_architecture_end_the_process(machine: str) -> None:
    found = ARCHITECTURES[machine]
    others = [other.audit for other in ARCHITECTURES.values() if other is not found]
    for audit in (*others, 0x40000003):  # i386, whose read is x86_64's close
        assert judged(program(found, OWN), audit, found.numbers["read"]) == KILL


def test_the_second_set_of_calls_of_x86_ends_the_process() -> None:
    found = ARCHITECTURES["x86_64"]
    assert judged(program(found, OWN), found.audit, 0x40000000 | found.numbers["read"]) == KILL


@both
def test_a_program_is_within_what_the_kernel_takes(machine: str) -> None:
    rules = program(ARCHITECTURES[machine], OWN)
    assert len(rules) <= 4096
    assert len(bpf.laid(rules)) == 8 * len(rules)


@both
def test_a_policy_names_no_call_without_a_number(machine: str) -> None:
    named = ALLOWED | REFUSED | DEADLY | set(GUARDED)
    assert set(ARCHITECTURES[machine].numbers) <= named
    assert set().union(*(found.numbers for found in ARCHITECTURES.values())) == named


@both
def test_numbers_are_those_of_the_kernels_headers(machine: str) -> None:
    if not HEADERS[machine].exists():
        pytest.skip("the kernel's headers are not here")
    text = HEADERS[machine].read_text()
    known = {name: int(number) for name, number in re.findall(r"__NR_(\w+)\s+(\d+)$", text, re.MULTILINE)}
    for name, number in re.findall(r"__NR3264_(\w+)\s+(\d+)$", text, re.MULTILINE):
        known[{"fstatat": "newfstatat"}.get(name, name)] = int(number)
    found = ARCHITECTURES[machine].numbers
    compared = {name: number for name, number in known.items() if name in found}
    assert compared == {name: found[name] for name in compared}
    # Headers may be older than the newest calls.
    assert len(found) - len(compared) < 12


def test_a_block_longer_than_a_jump_is_an_error() -> None:
    with pytest.raises(ValueError, match="skips 255"):
        bpf.when_equal(1, 256 * [bpf.verdict(ALLOW)])


def test_architectures_are_told_by_name() -> None:
    assert isinstance(ARCHITECTURES["aarch64"], Architecture)
    assert "riscv64" not in ARCHITECTURES
