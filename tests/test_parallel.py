"""Executors: examples of slow functions in threads, in processes and on a Dask cluster."""

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf

from tests import modes, parallel_ops
from tfpyop import RegistrationError, UnsupportedError, differentiable_op
from tfpyop.errors import WorkerError

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
    assert not [name for name in os.listdir("/dev/shm") if name.startswith(f"tfpyop-{os.getpid()}-")]


def test_an_exception_names_op_and_example_and_the_next_call_works():
    with pytest.raises(ValueError, match="no fives") as caught:
        parallel_ops.picky(np.float32([1, 2, 3, 4, 5, 1]))
    if sys.version_info >= (3, 11):
        [note] = [note for note in caught.value.__notes__ if "by a worker" in note]
        assert "tests.parallel_ops:picky" in note
        assert "for example 4 of 6" in note
    assert parallel_ops.picky(np.float32([1, 2])).numpy().tolist() == [1, 2]


def test_a_worker_that_dies_is_told_and_the_next_call_works():
    before = parallel_ops.place(np.zeros(2, np.float32)).numpy()[:, 0]
    with pytest.raises(WorkerError, match=r"picky'.*a worker process ended\.(?s:.*)while it ran example (1|\d or \d)"):
        parallel_ops.picky(np.float32([1, 6]))
    assert parallel_ops.picky(np.float32([1, 2])).numpy().tolist() == [1, 2]
    assert not [pid for pid in before if is_alive(pid)]


def test_a_worker_that_hangs_is_ended_and_the_next_call_works():
    start = time.monotonic()
    with pytest.raises(
        WorkerError, match=r"sleepy'.*a worker took too long\.(?s:.*)example 2 of 3(?s:.*)longer timeout"
    ):
        parallel_ops.sleepy(np.float32([1, 2, 7]))
    assert time.monotonic() - start < 30
    assert parallel_ops.sleepy(np.float32([1, 2])).numpy().tolist() == [1, 2]


def is_alive(pid):
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0] != "Z"


def test_in_a_graph_the_error_is_told_too():
    with pytest.raises(tf.errors.InvalidArgumentError, match="no fives"):
        tf.function(parallel_ops.picky)(np.float32([1, 5]))


def test_threads_serve_local_ops():
    with ThreadPoolExecutor(2) as pool:
        op = differentiable_op(lambda x: x + 1, signature="()->()", vectorized=False, executor=pool)
        np.testing.assert_allclose(op(X), X + 1)


@pytest.mark.filterwarnings(
    "ignore:A worker was restarted"
)  # of loky: TensorFlow, which this module imports, takes memory
def test_an_op_that_workers_cannot_find_is_told_so():
    op = differentiable_op(lambda x: x + 1, signature="()->()", vectorized=False, executor=parallel_ops.POOL)
    with pytest.raises(UnsupportedError, match=r"not known where its executor runs it\.(?s:.*)top level of 'tests"):
        op(X)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"executor": 3, "vectorized": False}, r"executor= is no executor\.(?s:.*)process_pool\(4\)"),
        ({"executor": parallel_ops.POOL}, r"executor= needs vectorized=False"),
    ],
)
def test_misuse_is_told(options, said):
    with pytest.raises(RegistrationError, match=said):
        differentiable_op(lambda x: x, signature="()->()", **options)


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
