"""tfpyop and what TensorFlow itself offers: native ops, `numpy_function`, `py_function` and the recipe of both worlds.

The recipe is `tf.custom_gradient` around `tf.numpy_function`, which is what users of TensorFlow write today.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.libraries.common import OPS_OF_GRAPH, ROWS, SIZES, X, Y, large, mod, mod_gradient
from benchmarks.libraries.tensorflow_rules import cases as rule_cases
from benchmarks.measuring import Case, Measure, Run, marginal, seconds, timed
from tfpyop import differentiable_op

CHAIN = 50

Op = Callable[[Any, Any], Any]

tfpyop_mod = differentiable_op(mod, signature="(),()->()", name="benchmarks:mod")
tfpyop_mod.numpy_gradient(lambda op, grad: mod_gradient(*op.inputs, grad))


@differentiable_op(signature="()->()")
def increment(x: np.ndarray, *, out: np.ndarray | None = None) -> np.ndarray:
    """One more, written where it is to go."""
    return np.add(x, 1, out=out)


@differentiable_op(signature="()->()")
def increment_without_out(x: np.ndarray) -> np.ndarray:
    """One more."""
    return x + 1


@differentiable_op(signature="(n)->()")
def norm(x: np.ndarray) -> np.ndarray:
    """The Euclidean norm."""
    return np.sqrt((x * x).sum(-1))


norm.numpy_gradient(lambda op, grad: op.inputs[0] * (grad / op.outputs[0])[..., None])


def by_numpy_function(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """The remainder by `tf.numpy_function`, which loses shapes."""
    return tf.ensure_shape(tf.numpy_function(mod, [x, y], tf.float32, stateful=False), x.shape)


def by_py_function(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """The remainder by `tf.py_function`, which differentiates TensorFlow ops in it."""
    return tf.ensure_shape(tf.py_function(tf.math.floormod, [x, y], tf.float32), x.shape)


@tf.custom_gradient
def by_recipe(x: tf.Tensor, y: tf.Tensor) -> Any:
    """The remainder by the recipe."""

    def gradient(grad: tf.Tensor) -> list[tf.Tensor]:
        results = tf.numpy_function(mod_gradient, [x, y, grad], [tf.float32, tf.float32], stateful=False)
        return [tf.ensure_shape(result, x.shape) for result in results]

    return by_numpy_function(x, y), gradient


@differentiable_op(signature="()->()")
def double(x: np.ndarray) -> np.ndarray:
    """Take one tensor."""
    return x * 2


@differentiable_op(signature="(),()->()")
def multiply(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Take two inputs of any kind."""
    return x * y


@differentiable_op(signature="()->()")
def scale(x: np.ndarray, *, factor: float) -> np.ndarray:
    """Take a static argument."""
    return x * factor


@differentiable_op
def product(pair: Mapping[str, np.ndarray]) -> np.ndarray:
    """Take a dict."""
    return pair["a"] * pair["b"]


OPS: Mapping[str, Op] = {
    "tfpyop": tfpyop_mod,
    "native": tf.math.floormod,
    "numpy_function": by_numpy_function,
    "py_function": by_py_function,
    "recipe": by_recipe,
}


def cases() -> Mapping[str, Case]:
    """All cases, by name."""
    return {
        **rule_cases(),
        **{f"eager {name}": _eager(op) for name, op in OPS.items()},
        **{f"eager gradient {name}": _eager_gradient(op) for name, op in OPS.items() if name != "numpy_function"},
        **_kind_cases(),
        **{f"graph {name}": _chain(op) for name, op in OPS.items()},
        **{f"graph gradient {name}": _gradient_chain(op) for name, op in OPS.items() if name != "numpy_function"},
        "XLA tfpyop": _chain(tfpyop_mod, is_compiled=True),
        "XLA added": lambda: _added(tfpyop_mod),
        **_large_cases(),
        **{f"rows {n} {name}": _rows(op, n) for name, op in ROW_OPS.items() for n in ROWS},
        **{f"jacobian {n} {name}": _jacobian(op, n) for name, op in JACOBIAN_OPS.items() for n in ROWS},
        **{f"trace {n} {name}": _trace(OPS[name], n) for name in ("tfpyop", "native", "recipe") for n in OPS_OF_GRAPH},
        **{
            f"run {n} {name}": _run(OPS[name], n)
            for name in ("tfpyop", "numpy_function", "recipe")
            for n in OPS_OF_GRAPH
        },
        **{f"size {n} {name}": _of_size(OPS[name], n) for name in ("tfpyop", "numpy_function") for n in SIZES},
        **{f"size {n} numpy": _numpy_of_size(n) for n in SIZES},
    }


def _eager(op: Op) -> Case:
    x, y = tf.constant(X), tf.constant(Y)
    return lambda: timed(lambda: op(x, y), 200)


class _Model:
    @differentiable_op(signature="()->()")
    def double(self, x: np.ndarray) -> np.ndarray:
        return x * 2


def _kind_cases() -> Mapping[str, Case]:
    """Eager calls with the usual kinds of arguments, and the same calls of a native op."""
    x, variable, array, model = tf.constant(X), tf.Variable(Y), np.array(Y), _Model()
    pair = {"a": x, "b": tf.constant(Y)}
    calls: dict[str, Callable[[], Any]] = {
        "one tensor": lambda: double(x),
        "two tensors": lambda: multiply(x, x),
        "keyword": lambda: multiply(x, y=x),
        "static argument": lambda: scale(x, factor=2.0),
        "method": lambda: model.double(x),
        "dict": lambda: product(pair),
        "variable": lambda: multiply(x, variable),
        "array": lambda: multiply(x, array),
        "number": lambda: multiply(x, 2.0),
        "native two tensors": lambda: tf.multiply(x, x),
        "native variable": lambda: tf.multiply(x, variable),
        "native array": lambda: tf.multiply(x, array),
        "native number": lambda: tf.multiply(x, 2.0),
    }
    return {f"kind {name}": functools.partial(_timed_200, call) for name, call in calls.items()}


def _timed_200(call: Callable[[], Any]) -> float:
    return timed(call, 200)


def _with_gradient(op: Callable[..., Any], *tensors: tf.Tensor) -> Any:
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        result = op(*tensors)
    return tape.gradient(result, tensors)


def _eager_gradient(op: Op) -> Case:
    x, y = tf.constant(X), tf.constant(Y)
    return lambda: timed(lambda: _with_gradient(op, x, y), 30)


def _chained(op: Op, count: int, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    x = x + 0.0
    for _ in range(count):
        x = op(x, y)
    return x


def _chain_of(op: Op, count: int, *, is_compiled: bool = False) -> Run:
    chain = tf.function(lambda x, y: _chained(op, count, x, y), autograph=False, jit_compile=is_compiled)
    x, y = tf.constant(X), tf.constant(Y)
    return lambda: chain(x, y)


def _chain(op: Op, *, is_compiled: bool = False) -> Case:
    return lambda: marginal(lambda count: _chain_of(op, count, is_compiled=is_compiled), CHAIN, 60)


def _gradient_chain(op: Op) -> Case:
    def build(count: int) -> Run:
        function = tf.function(
            lambda x, y: _with_gradient(lambda x, y: _chained(op, count, x, y), x, y), autograph=False
        )
        x, y = tf.constant(X), tf.constant(Y)
        return lambda: function(x, y)

    return lambda: marginal(build, CHAIN, 20)


def _added(op: Op) -> Measure:
    one, none = (_chain_of(op, count, is_compiled=True) for count in (1, 0))
    return lambda: seconds(one, 100) - seconds(none, 100)


def _large_cases() -> Mapping[str, Case]:
    def of(function: Callable[[Any], Any], *, is_tensor: bool = True) -> Case:
        def case() -> Measure:
            array = large()
            tensor = tf.constant(array)
            argument = tensor if is_tensor else _array_of(tensor)
            return timed(lambda: function(argument), 1)

        return case

    def graph(function: Callable[[Any], Any], *, is_compiled: bool = False) -> Callable[[Any], Any]:
        return tf.function(function, autograph=False, jit_compile=is_compiled)

    def numpy_function(x: tf.Tensor) -> tf.Tensor:
        return tf.numpy_function(increment_without_out.numpy, [x], tf.float32, stateful=False)

    return {
        "64 MB numpy": of(lambda x: x + 1, is_tensor=False),
        "64 MB eager, out=": of(increment),
        "64 MB eager": of(increment_without_out),
        "64 MB graph, out=": of(graph(increment)),
        "64 MB graph": of(graph(increment_without_out)),
        "64 MB XLA, out=": of(graph(increment, is_compiled=True)),
        "64 MB eager numpy_function": of(numpy_function),
        "64 MB graph numpy_function": of(graph(numpy_function)),
        "64 MB eager native": of(lambda x: x + 1),
        "64 MB XLA native": of(graph(lambda x: x + 1, is_compiled=True)),
    }


@tf.custom_gradient
def _norm_by_recipe(x: tf.Tensor) -> Any:
    def gradient(grad: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(tf.numpy_function(_norm_gradient, [x, grad], tf.float32, stateful=False), x.shape)

    shape = x.shape[:-1]
    return tf.ensure_shape(tf.numpy_function(norm.numpy, [x], tf.float32, stateful=False), shape), gradient


def _norm_gradient(x: np.ndarray, grad: np.ndarray) -> np.ndarray:
    return x * (grad / np.sqrt((x * x).sum(-1)))[..., None]


ROW_OPS: Mapping[str, Callable[[tf.Tensor], tf.Tensor]] = {"tfpyop": norm, "recipe": _norm_by_recipe}


def _rows(op: Callable[[tf.Tensor], tf.Tensor], count: int) -> Case:
    def case() -> Measure:
        rows = tf.random.stateless_uniform([count, 8], seed=[1, 2])
        mapped = tf.function(lambda rows: tf.vectorized_map(op, rows), autograph=False)
        mapped(rows)
        return timed(lambda: mapped(rows), 1)

    return case


@differentiable_op(signature="(n)->(n)")
def softmax(x: np.ndarray) -> np.ndarray:
    """Exponentials of the numbers, with a sum of one."""
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def _softmax_gradient(y: np.ndarray, grad: np.ndarray) -> np.ndarray:
    return y * (grad - (y * grad).sum(-1, keepdims=True))


softmax.numpy_gradient(lambda op, grad: _softmax_gradient(op.outputs[0], grad))


@tf.custom_gradient
def _softmax_by_recipe(x: tf.Tensor) -> Any:
    y = tf.ensure_shape(tf.numpy_function(softmax.numpy, [x], tf.float32, stateful=False), x.shape)

    def gradient(grad: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(tf.numpy_function(_softmax_gradient, [y, grad], tf.float32, stateful=False), x.shape)

    return y, gradient


JACOBIAN_OPS: Mapping[str, Callable[[tf.Tensor], tf.Tensor]] = {"tfpyop": softmax, "recipe": _softmax_by_recipe}


def _jacobian(op: Callable[[tf.Tensor], tf.Tensor], count: int) -> Case:
    """Every row has a Jacobian of its own, for which TensorFlow loops over outputs inside of the loop over rows."""

    def case() -> Measure:
        rows = tf.random.stateless_uniform([count, 8], seed=[1, 2])

        def of_row(x: tf.Tensor) -> tf.Tensor:
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = op(x)
            return tape.jacobian(y, x)

        mapped = tf.function(lambda rows: tf.vectorized_map(of_row, rows), autograph=False)
        mapped(rows)
        return timed(lambda: mapped(rows), 1)

    return case


def _trace(op: Op, count: int) -> Case:
    def trace() -> None:
        tf.function(lambda x, y: _chained(op, count, x, y), autograph=False).get_concrete_function(
            tf.TensorSpec([4]), tf.TensorSpec([4])
        )

    return lambda: timed(trace, 1)


def _run(op: Op, count: int) -> Case:
    def case() -> Measure:
        run = _chain_of(op, count)
        run()
        return timed(run, 1000 // count)

    return case


def _array_of(tensor: tf.Tensor) -> np.ndarray:
    """The tensor's own memory: pages of arrays that numpy allocates are larger, and read faster."""
    return np.frombuffer(tensor, np.float32)


def _arrays(count: int) -> list[np.ndarray]:
    return list(np.random.default_rng(0).uniform(1, 2, (2, count)).astype(np.float32))


def _of_size(op: Op, count: int) -> Case:
    def case() -> Measure:
        x, y = map(tf.constant, _arrays(count))
        return timed(lambda: op(x, y), max(1, 100_000 // (count + 500)))

    return case


def _numpy_of_size(count: int) -> Case:
    def case() -> Measure:
        x, y = (_array_of(tf.constant(array)) for array in _arrays(count))
        return timed(lambda: mod(x, y), max(1, 100_000 // (count + 500)))

    return case
