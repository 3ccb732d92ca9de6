"""Ops in other processes: the distributed examples, each with the processes it starts, and tf.data in this one."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests import saved_ops
from tests.processes import run_python
from tfpyop import differentiable_op

ROOT = Path(__file__).parent.parent
DIRECTORY = ROOT / "examples" / "distributed"
PRINTED = {
    "mirrored": r"one device: loss (0\.\d{6}), two: \1\n",
    "multi_worker": r"worker 0: loss (0\.\d{6}), (.*)\nworker 1: loss \1, \2\nalone: loss \1, \2\n",
    "parameter_server": r"loss 0\.\d{4} at first, 0\.00\d{4} at last; [23] processes ran the op\n",
    "data_service": r"serving 2 ops: \w+, \w+\nvalues \[0\.0, 0\.5, .*\]\nmade in the data worker: True\n",
}


def run(*arguments, timeout=150, **environment):
    """Run Python in a process group of its own, of which nothing is left afterwards."""
    process = subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=timeout)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, output, errors


@pytest.mark.slow
@pytest.mark.parametrize("example", PRINTED)
def test_an_example_trains_with_processes_of_its_own(example):
    status, output, errors = run(DIRECTORY / f"{example}.py")
    assert status == 0, errors
    assert re.fullmatch(PRINTED[example], output), output


@pytest.mark.parametrize(
    ("variables", "got"),
    [
        ({}, "Got: the variable is not set. Set the variable"),
        ({"TF_CONFIG": "{}"}, "Got: '{}' (no 'cluster'). Set the variable"),
    ],
)
def test_a_worker_without_a_task_says_which_variable_to_set(variables, got, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    process = run_python("-m", "tfpyop", "worker", "--modules", "tests.saved_ops", env={**os.environ, **variables})
    assert process.returncode == 2
    errors = process.stderr
    assert got in errors
    assert "TF_CONFIG does not specify the cluster and the task of this process" in errors
    assert '"task": {"type": "worker", "index": 0}' in errors


def test_a_worker_of_a_module_that_is_not_there_is_one_line():
    process = run_python("-m", "tfpyop", "worker", "--modules", "tests.saved_opps")
    assert process.returncode == 2
    assert "tfpyop: there is no module 'tests.saved_opps'" in process.stderr


X = np.arange(20, dtype=np.float32)


def pipeline(directory):
    data = tf.data.Dataset.from_tensor_slices(X)
    yield "map", data.map(saved_ops.cube)
    yield "map in parallel", data.map(saved_ops.cube, num_parallel_calls=4)
    yield "map out of order", data.map(saved_ops.cube, num_parallel_calls=4, deterministic=False)
    yield "batch", data.batch(3).map(saved_ops.cube, num_parallel_calls=tf.data.AUTOTUNE)
    yield "map and batch", data.map(saved_ops.cube, num_parallel_calls=2).batch(4)
    yield "cache in memory", data.map(saved_ops.cube).cache()
    yield "cache in a file", data.map(saved_ops.cube).cache(str(directory / "cache"))
    yield "snapshot", data.map(saved_ops.cube).snapshot(str(directory / "snapshot"))
    yield "prefetch", data.map(saved_ops.cube).prefetch(2)
    yield (
        "interleave",
        tf.data.Dataset.range(2).interleave(
            lambda half: tf.data.Dataset.from_tensor_slices(X[:10]).map(
                lambda x: saved_ops.cube(x + 10 * tf.cast(half, tf.float32))
            ),
            num_parallel_calls=2,
        ),
    )


NAMES = [name for name, _ in pipeline(Path("unused"))]


@pytest.mark.parametrize("name", NAMES)
def test_ops_work_in_pipelines(name, tmp_path):
    data = dict(pipeline(tmp_path))[name]
    for _ in range(2):
        values = np.concatenate([np.atleast_1d(value) for value in data.as_numpy_iterator()])
        np.testing.assert_allclose(np.sort(values), X**3)


def test_what_a_function_raises_in_a_pipeline_names_the_op():
    def refuse(x):
        raise ValueError("not today")

    op = differentiable_op(refuse, signature="()->()")
    data = tf.data.Dataset.from_tensor_slices(X).map(op, num_parallel_calls=2)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"refuse(?s:.*)not today"):
        list(data)
