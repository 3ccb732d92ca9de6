"""Calls in a pool while the disk in shared memory is full, for `test_full_disk`, which gives it a small one."""

import contextlib
import os
import tempfile
import time
from pathlib import Path

import numpy as np

from tests import parallel_ops

X = np.float32([1, 2, 3, 4])


def fill(directory):
    """Leave no room, neither for data nor for another file."""
    with open(Path(directory) / "filler", "ab", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            with contextlib.suppress(OSError):  # it is full
                while file.write(bytes(size)):
                    pass


def message_of(call, *arguments):
    start = time.monotonic()
    try:
        call(*arguments)
    except Exception as error:
        return f"{type(error).__name__}: {error} ({time.monotonic() - start:.0f} s)"
    return "no error"


def main():
    assert os.statvfs("/dev/shm").f_blocks * os.statvfs("/dev/shm").f_frsize < 1 << 24
    parallel_ops.picky(X)
    parallel_ops.sleepy(X)  # both pools run
    fill("/dev/shm")
    print("values", parallel_ops.picky(X).numpy().tolist() == X.tolist())
    print("large", bool((parallel_ops.same(np.ones((2, 600_000))).numpy() == 1).all()))
    print("function", message_of(parallel_ops.picky, np.float32([1, 5])))
    print("timeout", message_of(parallel_ops.sleepy, np.float32([1, 7])))
    fill("/dev/shm")  # workers that were ended have left room
    tempfile.tempdir = "/dev/shm"  # the other disk is full too
    print("no room", message_of(parallel_ops.picky, X))
    tempfile.tempdir = None
    parallel_ops.POOL.shutdown()
    fill("/dev/shm")
    print("new pool", message_of(parallel_ops.picky, X))


if __name__ == "__main__":
    main()
