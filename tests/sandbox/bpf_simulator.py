"""Runs a seccomp filter as the kernel would: the classic BPF instructions that filters may use, on a `struct seccomp_data`."""

from __future__ import annotations

import struct
from collections.abc import Sequence

_INSTRUCTION = struct.Struct("<HBBI")
_LOAD, _JEQ, _JGE, _JA, _AND, _RETURN = 0x20, 0x15, 0x35, 0x05, 0x54, 0x06


def simulate(code: bytes, audit: int, number: int, arguments: Sequence[int] = ()) -> int:
    """The filter's answer to one call. Raises ValueError for what the kernel would refuse to load."""
    padded = [*arguments, *([0] * (6 - len(arguments)))]
    data = struct.pack("<iIQ6Q", number if number < 2**31 else number - 2**32, audit, 0, *(value % 2**64 for value in padded))
    program = [_INSTRUCTION.unpack_from(code, at) for at in range(0, len(code), _INSTRUCTION.size)]
    if len(program) > 4096:
        raise ValueError("too long")
    at, accumulator = 0, 0
    while at < len(program):
        operation, if_true, if_false, constant = program[at]
        at += 1
        if operation == _LOAD:
            if constant % 4 or constant + 4 > len(data):
                raise ValueError(f"load from {constant}")
            accumulator = int.from_bytes(data[constant : constant + 4], "little")
        elif operation == _AND:
            accumulator &= constant
        elif operation in {_JEQ, _JGE}:
            holds = accumulator == constant if operation == _JEQ else accumulator >= constant
            at += if_true if holds else if_false
        elif operation == _JA:
            at += constant
        elif operation == _RETURN:
            return constant
        else:
            raise ValueError(f"instruction {operation:#x}")
    raise ValueError("ran off its end")
