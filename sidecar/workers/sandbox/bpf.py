"""Classic BPF, as seccomp runs it over every system call: instructions, and the few ways they are put together here.

It knows the language and no policy. A program is a list of blocks, each of which ends in a verdict or falls through to
the next, so that no jump is longer than its own block.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

# linux/bpf_common.h
_LOAD_WORD: Final = 0x20
_JUMP_EQUAL: Final = 0x15
_JUMP_AT_LEAST: Final = 0x35
_JUMP_ANY_BIT: Final = 0x45
_RETURN: Final = 0x06
# struct seccomp_data: the call's number, the architecture, where it came from, six arguments of 64 bits.
NUMBER_AT: Final = 0
ARCHITECTURE_AT: Final = 4
_ARGUMENTS_AT: Final = 16
_LONGEST_JUMP: Final = 255


class Instruction(NamedTuple):
    """`struct sock_filter`: an operation, how many instructions to skip where its test holds and where it fails."""

    code: int
    then: int
    otherwise: int
    k: int


Block = Sequence[Instruction]


def load(at: int) -> Instruction:
    """The 32 bits at this place of `seccomp_data`, into the register."""
    return Instruction(_LOAD_WORD, 0, 0, at)


def load_argument(index: int) -> Instruction:
    """The lower 32 bits of an argument, on machines that store them first; both that are known here do."""
    return load(_ARGUMENTS_AT + 8 * index)


def verdict(action: int) -> Instruction:
    """Ends the program."""
    return Instruction(_RETURN, 0, 0, action)


def when_equal(value: int, block: Block) -> list[Instruction]:
    """The block where the register is this."""
    return [Instruction(_JUMP_EQUAL, 0, _length(block), value), *block]


def when_at_least(value: int, block: Block) -> list[Instruction]:
    """The block where the register is this or more."""
    return [Instruction(_JUMP_AT_LEAST, 0, _length(block), value), *block]


def when_any_bit(bits: int, block: Block) -> list[Instruction]:
    """The block where the register has one of the bits."""
    return [Instruction(_JUMP_ANY_BIT, 0, _length(block), bits), *block]


def unless_equal(value: int, block: Block) -> list[Instruction]:
    """The block where the register is anything else."""
    return [Instruction(_JUMP_EQUAL, _length(block), 0, value), *block]


def laid(program: Block) -> bytes:
    """The program as the kernel reads it."""
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def _length(block: Block) -> int:
    if len(block) > _LONGEST_JUMP:
        raise ValueError(f"a block of {len(block)} instructions, and a jump skips {_LONGEST_JUMP} at most")
    return len(block)
