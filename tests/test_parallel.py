"""Executors: examples of slow functions in threads, in processes and on a Dask cluster."""

import gc
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests import modes, parallel_ops
from tests.processes import run_python
from tfpyop import RegistrationError, UnsupportedError, differentiable_op
from tfpyop._host.executor_map import ChunkResult
from tfpyop._host.shared_arrays import shared_directory
from tfpyop._registry.op_def import REGISTRY
from tfpyop.errors import WorkerError
from tfpyop.parallel import process_pool

X = np.arange(24, dtype=np.float32).reshape(6, 4)


@pytest.fixture(scope="module", autouse=True)
def pools():
    yield
    for pool in (parallel_ops.POOL, parallel_ops.IMPATIENT):
        pool.shutdown()


@pytest.mark.parametrize("mode", modes.MODES)
def test_values_are_those_of_a_loop_here(mode):
    np.testing.assert_allclose(modes.call(mode, parallel_ops.total, X), np.sum(X**2, axis=-1))


@pytest.mark.parametrize("mode", modes.GRADIENT_MODES)
def test_gradients_too(mode):
    [gradient] = modes.gradient(mode, parallel_ops.total, X)
    np.testing.assert_allclose(gradient, 2 * X)


def test_rows_of_vectorized_map_too():
    np.testing.assert_allclose(tf.vectorized_map(parallel_ops.total, tf.constant(X)), np.sum(X**2, axis=-1))


def test_the_function_runs_in_workers_that_have_no_tensorflow():
    pids, has_tensorflow = parallel_ops.place(np.zeros(64, np.float32)).numpy().T
    assert os.getpid() not in pids
    assert not has_tensorflow.any()


@pytest.mark.parametrize("shape", [(0, 4), (3, 0, 4), (2, 3, 4), (4,)])
def test_batches_of_every_shape(shape):
    x = np.ones(shape, np.float32)
    np.testing.assert_allclose(parallel_ops.total(x), np.sum(x**2, axis=-1))


def test_large_arrays():
    x = np.random.default_rng(0).normal(size=(8, 300_000)).astype(np.float32)
    np.testing.assert_allclose(parallel_ops.total(x), np.sum(x**2, axis=-1), rtol=1e-4)
    assert shared_files() == []


def shared_files():
    return [name for name in os.listdir("/dev/shm") if name.startswith(f"tfpyop-{os.getpid()}-")]


def interrupted_after(function):
    """Return the function, which Ctrl-C interrupts once when it has done its work, and a list of its calls."""
    calls = []

    def interrupted(*arguments, **options):
        calls.append(arguments)
        if len(calls) > 1:
            return function(*arguments, **options)
        function(*arguments, **options)
        raise KeyboardInterrupt

    return interrupted, calls


@pytest.mark.parametrize("step", ["the directory", "the file in it"])
def test_an_interrupt_while_files_are_made_leaves_none(monkeypatch, step):
    owner, name = {"the directory": (Path, "mkdir"), "the file in it": (Path, "write_bytes")}[step]
    interrupted, calls = interrupted_after(getattr(owner, name))
    monkeypatch.setattr(owner, name, interrupted)
    with pytest.raises(KeyboardInterrupt), shared_directory(1):
        pass
    assert str(calls[0][0]).startswith("/dev/shm/tfpyop-")
    assert shared_files() == []


def test_an_interrupt_while_files_are_removed_leaves_none(monkeypatch):
    interrupted, calls = interrupted_after(lambda *arguments, **options: None)
    removed = shutil.rmtree
    monkeypatch.setattr(shutil, "rmtree", lambda *arguments, **options: interrupted() or removed(*arguments, **options))
    with pytest.raises(KeyboardInterrupt), shared_directory(1):
        pass
    assert len(calls) == 2
    assert shared_files() == []


@pytest.mark.parametrize("dtype", [np.float64, tf.bfloat16.as_numpy_dtype, np.complex64, np.bool_, np.int16])
def test_large_arrays_go_through_files_both_ways(dtype, monkeypatch):
    opened = []

    def open_file(path, dtype, mode, *, shape):
        opened.append(path)
        return memmap(path, dtype, mode, shape=shape)

    memmap = np.memmap
    monkeypatch.setattr(np, "memmap", open_file)
    x = np.random.default_rng(0).normal(size=(2, 600_000)).astype(dtype)
    result = parallel_ops.same(tf.constant(x)).numpy()
    assert result.dtype == dtype
    assert (result == x).all()
    assert len(opened) == (0 if x[0].nbytes < 1 << 20 else 2)


def test_texts_go_through_the_pipe():
    assert parallel_ops.letters(np.full((2, 150_000), b"text", object)).numpy().tolist() == [600_000] * 2


def test_a_full_shared_memory_does_not_matter(monkeypatch):
    def full(*args):
        raise OSError("no space left on device")

    monkeypatch.setattr("tfpyop._host.shared_arrays.open", full, raising=False)
    x = np.ones((2, 600_000))
    assert (parallel_ops.same(tf.constant(x)).numpy() == x).all()


def test_an_exception_names_op_and_example_and_the_next_call_works():
    with pytest.raises(ValueError, match="no fives") as caught:
        parallel_ops.picky(np.float32([1, 2, 3, 4, 5, 1]))
    if sys.version_info >= (3, 11):
        [note] = [note for note in caught.value.__notes__ if "by a worker" in note]
        assert "tests.parallel_ops:picky" in note
        assert "for example 4 of 6" in note
    assert parallel_ops.picky(np.float32([1, 2])).numpy().tolist() == [1, 2]


def test_a_worker_that_dies_is_reported_and_the_next_call_works():
    before = parallel_ops.place(np.zeros(2, np.float32)).numpy()[:, 0]
    with pytest.raises(
        WorkerError,
        match=r"picky'.*a worker process terminated unexpectedly\.(?s:.*)termination during example (1|\d or \d) of 2",
    ):
        parallel_ops.picky(np.float32([1, 6]))
    assert parallel_ops.picky(np.float32([1, 2])).numpy().tolist() == [1, 2]
    assert not [pid for pid in before if is_alive(pid)]


def test_a_worker_that_hangs_is_ended_and_the_next_call_works():
    start = time.monotonic()
    with pytest.raises(
        WorkerError,
        match=r"sleepy'.*an example exceeded the timeout\.(?s:.*)2 seconds for example 2 of 3(?s:.*)longer timeout",
    ):
        parallel_ops.sleepy(np.float32([1, 2, 7]))
    assert time.monotonic() - start < 30
    assert parallel_ops.sleepy(np.float32([1, 2])).numpy().tolist() == [1, 2]


def test_a_worker_that_died_while_it_had_nothing_to_do_is_replaced():
    for pid in {*parallel_ops.places(np.zeros(16, np.float32)).numpy().tolist()}:
        os.kill(pid, signal.SIGKILL)
    assert parallel_ops.picky(np.float32([1, 2])).numpy().tolist() == [1, 2]


@pytest.mark.slow
def test_a_call_that_hangs_does_not_end_those_of_others():
    def hang():
        with pytest.raises(WorkerError, match="for example 0 of 1"):
            parallel_ops.sleepy(np.float32([7]))

    with ThreadPoolExecutor(2) as pool:
        hanging = pool.submit(hang)
        innocent = pool.submit(parallel_ops.slow, np.arange(12, dtype=np.float32))
        hanging.result()
        assert innocent.result().numpy().tolist() == list(range(12))


def test_waiting_for_a_worker_takes_nothing_of_the_time():
    assert parallel_ops.slow(np.zeros(16, np.float32)).shape == (16,)  # 3.2 s, of which one example may take 2


@pytest.mark.slow
def test_what_a_worker_calls_runs_there():
    result = parallel_ops.doubled_elsewhere_again(np.float32([1, 2])).numpy().astype(int)
    assert os.getpid() not in result


def test_an_op_over_rows_is_found_by_its_token_alone():
    gc.collect()
    op = REGISTRY.find_op('tfpyop:tests.parallel_ops:total{"batch":[[1]]}')
    np.testing.assert_allclose(op.host([X]), [np.sum(X**2, axis=-1)])


def test_an_exception_that_cannot_be_pickled_is_replaced_by_its_name():
    # it comes as it is where the worker has imported a package that teaches pickle more about exceptions
    with pytest.raises((RuntimeError, parallel_ops.StubbornError), match=r"(?m)^(StubbornError: )?no$") as caught:
        parallel_ops.stubborn(np.float32([1]))
    assert "in stubborn" in "".join(traceback.format_exception(caught.value))


def threaded(function, executor):
    return differentiable_op(function, signature="()->()", vectorized=False, executor=executor, non_differentiable=True)


def test_threads_raise_the_exception_itself_and_begin_nothing_after_it():
    begun = []

    def fail(x):
        begun.append(float(x))
        if x == 0:
            raise parallel_ops.StubbornError("no", "never")
        time.sleep(0.05)
        return x

    with ThreadPoolExecutor(2) as pool:
        with pytest.raises(parallel_ops.StubbornError, match="no"):
            threaded(fail, pool)(np.arange(80, dtype=np.float32))
        assert len(begun) < 80


def test_a_function_that_calls_its_own_op_does_not_wait_for_itself():
    def nested(x):
        return x if x < 2 else np.asarray(op(np.full(3, x - 1)))[0]

    with ThreadPoolExecutor(1) as pool:
        op = threaded(nested, pool)
        assert op(np.float32([4, 5])).numpy().tolist() == [1, 1]


def test_an_executor_is_made_once_by_however_many_calls():
    made = []

    def make():
        time.sleep(0.1)
        made.append(ThreadPoolExecutor(2))
        return made[-1]

    op = threaded(lambda x: x + 1, make)
    with ThreadPoolExecutor(4) as pool:
        assert all((result.numpy() == 1).all() for result in pool.map(op, [np.zeros(3, np.float32)] * 4))
    assert len(made) == 1
    made[0].shutdown()
    with pytest.raises(WorkerError, match=r"executor does not run the op\.(?s:.*)after shutdown(?s:.*)Keep it open as"):
        op(X)
    np.testing.assert_allclose(op(X), X + 1)
    made[1].shutdown()


def test_a_factory_that_returns_no_executor_is_refused():
    with pytest.raises(RegistrationError, match=r"did not return an Executor\.(?s:.*)Got:      3"):
        threaded(lambda x: x, lambda: 3)(X)


@pytest.mark.parametrize(
    ("args", "options", "said"),
    [
        ((0,), {}, r"not a number of processes\.(?s:.*)Got:      0"),
        (("two",), {}, "not a number of processes"),
        ((1,), {"timeout": 0}, r"timeout= is not a number of seconds(?s:.*)Got:      0"),
    ],
)
def test_an_invalid_pool_is_refused(args, options, said):
    with pytest.raises(RegistrationError, match=said):
        process_pool(*args, **options)


def test_a_pool_that_was_shut_down_starts_again():
    with process_pool(1) as pool:
        assert pool.submit(abs, -1).result() == 1
    assert pool.submit(abs, -1).result() == 1
    futures = [pool.submit(time.sleep, 0.1) for _ in range(20)]
    pool.shutdown(cancel_futures=True)
    assert any(future.cancelled() for future in futures)


def is_alive(pid):
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0] != "Z"


def test_in_a_graph_the_error_is_raised_too():
    with pytest.raises(tf.errors.InvalidArgumentError, match="no fives"):
        tf.function(parallel_ops.picky)(np.float32([1, 5]))


def test_threads_serve_local_ops():
    with ThreadPoolExecutor(2) as pool:
        op = differentiable_op(lambda x: x + 1, signature="()->()", vectorized=False, executor=pool)
        np.testing.assert_allclose(op(X), X + 1)


@pytest.mark.filterwarnings(
    "ignore:A worker was restarted"
)  # of loky: TensorFlow, which this module imports, takes memory
def test_an_op_that_workers_cannot_find_is_refused():
    op = differentiable_op(lambda x: x + 1, signature="()->()", vectorized=False, executor=parallel_ops.POOL)
    with pytest.raises(UnsupportedError, match=r"the worker process cannot find this op\.(?s:.*)top level of a module"):
        op(X)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"executor": 3, "vectorized": False}, r"executor= is not an executor\.(?s:.*)process_pool\(4\)"),
        ({"executor": parallel_ops.POOL}, r"executor= requires vectorized=False"),
    ],
)
def test_misuse_is_refused(options, said):
    with pytest.raises(RegistrationError, match=said):
        differentiable_op(lambda x: x, signature="()->()", **options)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Dask's own
def test_a_dask_cluster_serves():
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, dashboard_address=None, host="127.0.0.1", processes=True
        ) as cluster,
        distributed.Client(cluster),
    ):
        pids, values = parallel_ops.dask_place(np.arange(6, dtype=np.float32)).numpy().T
    assert os.getpid() not in pids
    assert values.tolist() == list(range(6))


def test_an_op_that_is_called_in_its_own_executor_does_not_wait_for_itself():
    with ThreadPoolExecutor(1) as pool:
        op = threaded(lambda x: x + 1, pool)
        assert pool.submit(op, np.float32([1, 2])).result(30).numpy().tolist() == [2, 3]


def test_a_factory_that_raises_is_reported():
    def make():
        raise OSError("no cluster")

    for call in (threaded(lambda x: x, make), tf.function(threaded(lambda x: x, make))):
        with pytest.raises((WorkerError, tf.errors.OpError), match=r"factory raised an exception\.(?s:.*)OSError: no "):
            call(X)


class RefusingError(Exception):
    def __str__(self):
        raise RuntimeError("no text")


class ElsewhereError(Exception):
    def __reduce__(self):
        return str, ("not an exception",)


class ExitingError(Exception):
    def __reduce__(self):
        return sys.exit, (3,)


class TwiceError(Exception):
    def __init__(self, code):
        super().__init__(f"code {code}")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RefusingError(), r"RefusingError: \(its text raised RuntimeError\)"),
        (ElsewhereError("why"), "ElsewhereError: why"),
        (ExitingError("why"), "ExitingError: why"),
        (TwiceError(2), "TwiceError: code 2"),
    ],
)
def test_an_exception_that_changes_when_pickled_is_replaced_by_its_name(error, said):
    came = pickle.loads(pickle.dumps(ChunkResult([], error, ""))).error
    if type(came) is type(error):  # another package, as Dask does, has taught pickle more about exceptions
        assert str(came) == str(error)
    else:
        assert type(came) is RuntimeError
        assert re.fullmatch(said, str(came))


@pytest.mark.slow
def test_an_interrupt_ends_the_workers(tmp_path):
    program = """
import signal, threading, time, os
import numpy as np
from tests import parallel_ops
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
parallel_ops.places(np.zeros(2, np.float32))  # everything is imported, and the workers run
threading.Timer(2, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    parallel_ops.sleepy_for_long(np.full(12, 7, np.float32))
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""
    start = time.monotonic()
    process = run_python("-c", program)
    assert (process.returncode, process.stdout) == (0, "interrupted\n"), process.stderr
    assert time.monotonic() - start < 50


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_starts_workers_of_its_own():
    program = """
import os
from tfpyop.parallel import process_pool
pool = process_pool(1)
assert pool.submit(abs, -1).result() == 1
child = os.fork()
if child == 0:
    ok = pool.submit(abs, -3).result(30) == 3
    pool.shutdown()
    os._exit(0 if ok else 1)
assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-c", program], timeout=100, check=True)


@pytest.mark.slow
@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_a_program_that_is_killed(signal_number):
    program = """
import time
from tfpyop.parallel import process_pool
import os
pool = process_pool(2)
print(*{future.result() for future in [pool.submit(os.getpid) for _ in range(20)]}, flush=True)
time.sleep(100)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        pids = process.stdout.readline().split()
        process.send_signal(signal_number)
        process.stdout.read()  # until everybody who could write has ended
    assert pids
    assert not [pid for pid in pids if is_alive(pid)]


def test_what_a_worker_calls_through_a_graph_runs_there_too():
    pids = parallel_ops.through_a_graph(np.zeros(2, np.float32)).numpy().tolist()
    assert all(own == inner for own, inner in pids)


def test_an_exception_that_cannot_be_pickled_keeps_its_notes():
    error = ExitingError("why")
    if sys.version_info >= (3, 11):
        error.add_note("called with float32[]")
        assert pickle.loads(pickle.dumps(ChunkResult([], error, ""))).error.__notes__ == ["called with float32[]"]


def test_numbers_of_numpy_are_numbers():
    pool = process_pool(np.int64(2), timeout=np.float64(3))
    assert (pool.n_workers, pool.timeout) == (2, 3.0)
