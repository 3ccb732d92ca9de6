"""A disk in shared memory that is full under a running pool: calls work, and no error looks like the function's."""

import contextlib
import errno
import shutil
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

from tests import full_disk, parallel_ops
from tfpyop._host.executor_map import Chunk, run_chunk
from tfpyop._host.heartbeat import Heartbeat
from tfpyop._host.shared_arrays import MemoryMappedArray, load, store
from tfpyop._registry.op_def import import_host
from tfpyop.errors import WorkerError

TOKEN = f"tfpyop:{parallel_ops.__name__}:picky"
NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
SMALL_DISK = 'mount -t tmpfs -o size=8m tmpfs /dev/shm && exec "$@"'


def can_mount():
    if shutil.which("unshare") is None:
        return False
    command = [*NAMESPACE, SMALL_DISK, "sh", "true"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not can_mount(), reason="mounting a disk needs a user namespace")
def test_calls_work_while_the_disk_is_full():
    command = [*NAMESPACE, SMALL_DISK, "sh", sys.executable, "-m", full_disk.__name__]
    process = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert process.returncode == 0, process.stderr
    lines = [line for line in process.stdout.splitlines() if not line.startswith(" ")]
    values, large, function, timeout, no_room, new_pool = lines
    assert (values, large) == ("values True", "large True")
    assert function.startswith("function ValueError: no fives")
    assert timeout.startswith("timeout WorkerError: op 'tests.parallel_ops:sleepy'")
    assert timeout.endswith("an example exceeded the timeout.")
    assert no_room.endswith("there is no space for the files that the op shares with its workers.")
    assert new_pool.endswith("cannot start the op's worker processes.")


def task(directory, arrays=None):
    progress = Heartbeat.create(directory / "progress", 2)
    arrays = [np.arange(3, dtype=np.float32)] if arrays is None else arrays
    return Chunk(import_host, TOKEN, arrays, 0, 1, None, progress)


def test_progress_shows_what_runs(tmp_path):
    progress = Heartbeat.create(tmp_path / "progress", 3)
    assert progress.running() == []
    with progress.heartbeat(1) as begin:
        assert progress.running() == []
        begin(7)
        [(example, since)] = progress.running()
        assert example == 7
        begin(8)
        assert progress.running()[0][1] >= since
    assert progress.running() == []
    with contextlib.suppress(KeyError), progress.heartbeat(0) as begin:
        begin(0)
        raise KeyError
    assert progress.running() == []


def test_what_a_worker_that_died_ran_is_known_until_it_is_cleared(tmp_path):
    progress = Heartbeat.create(tmp_path / "progress", 3)
    heartbeat = progress.heartbeat(2)
    heartbeat.__enter__()(5)
    assert [example for example, _ in progress.running()] == [5]
    progress.clear()
    assert progress.running() == []


@pytest.mark.parametrize("step", ["open", "write"])
def test_a_worker_that_cannot_note_its_progress_does_not_blame_the_function(tmp_path, monkeypatch, step):
    def full(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    class Full:
        __enter__ = lambda self: self  # noqa: E731
        __exit__ = lambda self, *exception: None  # noqa: E731
        seek = write = full

    work = task(tmp_path)
    monkeypatch.setattr(
        "tfpyop._host.heartbeat.open", full if step == "open" else lambda *a, **k: Full(), raising=False
    )
    reply = run_chunk(work)
    assert isinstance(reply.error, WorkerError)
    assert reply.error.problem == "a worker cannot record which example it runs."
    assert "No space left on device" in reply.error.got


@pytest.mark.parametrize("damage", ["missing", "cut off"])
def test_an_array_that_cannot_be_read_does_not_blame_the_function(tmp_path, damage):
    path = tmp_path / "array"
    if damage == "cut off":
        path.write_bytes(b"123")
    reply = run_chunk(task(tmp_path, [MemoryMappedArray(path, np.dtype(np.float32), (3,))]))
    assert isinstance(reply.error, WorkerError)
    assert reply.error.problem == "cannot read an array that the op shares with its workers."


@pytest.mark.parametrize("dtype", ["float64", "complex64", "bool", ml_dtypes.bfloat16])
@pytest.mark.parametrize("order", ["C", "F"])
def test_large_arrays_come_out_of_their_file(tmp_path, dtype, order):
    array = np.asarray(np.arange(1 << 21).reshape(1 << 10, -1) % 7, np.dtype(dtype), order=order)
    stored = store(array, tmp_path, "array")
    assert isinstance(stored, MemoryMappedArray)
    assert (load(stored) == array).all()


def test_an_array_whose_last_block_finds_no_room_goes_through_the_pipe(tmp_path, monkeypatch):
    class AlmostFull:
        def __init__(self, *args):
            pass

        def __enter__(self):
            return self

        def write(self, data):
            return len(data)

        def __exit__(self, *exception):
            raise OSError(errno.ENOSPC, "No space left on device")  # what was buffered

    monkeypatch.setattr("tfpyop._host.shared_arrays.open", AlmostFull, raising=False)
    array = np.ones(1 << 20)
    assert store(array, tmp_path, "array") is array
