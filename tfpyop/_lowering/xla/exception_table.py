"""Exception tables of code objects: extend a try statement to guard a function from its first instruction.

Owns CPython's format of exception tables, which exists since 3.11.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import CodeType


def guarded_from_the_start(code: CodeType) -> CodeType:
    """Return the code of a function that is a single try statement, with its first instructions guarded too.

    Python checks for Ctrl-C when it enters a function, and raises before the try begins. This is so since 3.11. This
    function extends the exception table. Python 3.10 raises inside the try. If a newer Python has another format, the
    code is returned unchanged: an interrupt in the first instructions of a call is then lost.
    """
    if sys.version_info < (3, 11) or not _is_known_format(code):
        return code
    table = code.co_exceptiontable
    (start, _, *rest), _ = read_entry(table)
    return code.replace(co_exceptiontable=write_entry([0, start, *rest]) + table)


def _is_known_format(code: CodeType) -> bool:
    """Return whether the exception table can be read and written again, and all its entries are within the code."""
    if sys.version_info < (3, 11):
        return False
    table, n_instructions = code.co_exceptiontable, len(code.co_code) // 2
    written, previous_end = b"", 0
    while len(written) < len(table):
        try:
            numbers, _ = read_entry(table[len(written) :])
        except IndexError:
            return False
        start, size, target, _ = numbers
        if start < previous_end or not size or start + size > n_instructions or target >= n_instructions:
            return False
        written += write_entry(numbers)
        previous_end = start + size
        if not table.startswith(written):
            return False
    return bool(table)


def read_entry(table: bytes) -> tuple[list[int], int]:
    """Return the first entry and its end: start, length, target, and depth with a flag, in big-endian 6-bit groups."""
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
    """Encode an entry, the reverse of `read_entry`. The first byte of an entry is marked."""
    written = bytearray()
    for number in numbers:
        groups = [number >> shift & 0x3F for shift in range(max(number.bit_length() - 1, 0) // 6 * 6, -1, -6)]
        written += bytes([group | 0x40 for group in groups[:-1]] + groups[-1:])
    written[0] |= 0x80
    return bytes(written)
