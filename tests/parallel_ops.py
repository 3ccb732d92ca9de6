"""Slow functions for pools of processes."""

import os
import sys
import time

import numpy as np

from tfpyop import differentiable_op
from tfpyop.parallel import process_pool

POOL = process_pool(2, timeout=60)
IMPATIENT = process_pool(2, timeout=2)


@differentiable_op(signature="(n)->()", vectorized=False, executor=POOL)
def total(x):
    return np.sum(x**2)


@total.numpy_gradient
def total_gradient(op, grad):
    return 2 * op.inputs[0] * grad


@differentiable_op(signature="(n,n),(n)->(n)", vectorized=False, executor=POOL, residuals={"inverse": object})
def solve(a, b):
    inverse = np.linalg.inv(a)
    return inverse @ b, {"inverse": [inverse]}


@solve.numpy_gradient
def solve_gradient(op, grad):
    by_b = op.residuals.inverse[0].T @ grad
    return -by_b[:, None] * op.outputs[0], by_b


@differentiable_op(signature="()->(2)", vectorized=False, executor=POOL, dtype="int64", non_differentiable=True)
def place(x):
    return np.array([os.getpid(), "tensorflow" in sys.modules])


@differentiable_op(signature="()->()", vectorized=False, executor=POOL, non_differentiable=True)
def picky(x):
    if x == 5:
        raise ValueError("no fives")
    if x == 6:
        os._exit(3)
    return x


@differentiable_op(signature="()->()", vectorized=False, executor=IMPATIENT, non_differentiable=True)
def sleepy(x):
    time.sleep(60 if x == 7 else 0)
    return x


@differentiable_op(signature="(n)->(n)", vectorized=False, executor=POOL, non_differentiable=True)
def same(x):
    return x


@differentiable_op(signature="(n)->()", vectorized=False, executor=POOL, dtype="int64")
def letters(x):
    return np.array(sum(map(len, x)))


@differentiable_op(signature="()->()", vectorized=False, executor=IMPATIENT, non_differentiable=True)
def slow(x):
    time.sleep(0.4)
    return x


class StubbornError(Exception):
    """Cannot be pickled: it is made of two things and told one."""

    def __init__(self, what, why):
        super().__init__(what)


@differentiable_op(signature="()->()", vectorized=False, executor=POOL, non_differentiable=True)
def stubborn(x):
    raise StubbornError("no", "never")


@differentiable_op(signature="()->()", vectorized=False, executor=POOL, non_differentiable=True)
def doubled_elsewhere_again(x):
    return picky.numpy(np.asarray(places(np.zeros(3, np.float32)))[0])


@differentiable_op(signature="()->()", vectorized=False, executor=POOL, dtype="int64", non_differentiable=True)
def places(x):
    return np.array(os.getpid())


@differentiable_op(signature="()->()", vectorized=False, executor=POOL, non_differentiable=True)
def sleepy_for_long(x):
    time.sleep(60)
    return x


@differentiable_op(signature="()->(2)", vectorized=False, executor=POOL, dtype="int64", non_differentiable=True)
def through_a_graph(x):
    import tensorflow as tf

    return np.array([os.getpid(), *tf.function(lambda x: places(x))(np.zeros(1, np.float32)).numpy()])


def _make_dask_executor():
    from distributed import get_client

    return get_client().get_executor()


@differentiable_op(signature="()->(2)", vectorized=False, executor=_make_dask_executor, dtype="int64")
def dask_place(x):
    return np.array([os.getpid(), int(x)])
