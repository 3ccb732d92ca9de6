"""Exception tables of code objects: how a try statement is made to guard a function from its first instruction.

Owns CPython's format of them, which 3.11 brought.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import CodeType


def guarded_from_the_start(code: CodeType) -> CodeType:
    """The code of a function that is one try statement, with its first instructions under that try as well.

    Python looks for Ctrl-C as it enters a function, and raises before the try begins (since 3.11, whose exception table
    this extends; 3.10 waits for the try).
    """
    if sys.version_info < (3, 11):
        return code
    table = code.co_exceptiontable
    (start, _, *rest), _ = read_entry(table)
    return code.replace(co_exceptiontable=write_entry([0, start, *rest]) + table)


def read_entry(table: bytes) -> tuple[list[int], int]:
    """The first entry: start, length, target, and depth with a flag, in big-endian groups of six bits."""
    numbers, position = [], 0
    for _ in range(4):
        number = 0
        while True:
            byte = table[position]
            position += 1
            number = number << 6 | byte & 0x3F
            if not byte & 0x40:
                break
        numbers.append(number)
    return numbers, position


def write_entry(numbers: Sequence[int]) -> bytes:
    """The reverse; the first byte of an entry is marked."""
    written = bytearray()
    for number in numbers:
        groups = [number >> shift & 0x3F for shift in range(max(number.bit_length() - 1, 0) // 6 * 6, -1, -6)]
        written += bytes([group | 0x40 for group in groups[:-1]] + groups[-1:])
    written[0] |= 0x80
    return bytes(written)
