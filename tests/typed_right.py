"""Typical code of users, annotated, which type checkers must accept and which runs. `test_typing.py` does both."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf  # type: ignore[import-untyped]
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from numpy.typing import ArrayLike, NDArray

import tfpyop
from tfpyop import Op, RuleContext, differentiable_op, export
from tfpyop.parallel import ProcessPool, process_pool
from tfpyop.testing import (
    CHECKS,
    Arguments,
    Report,
    arguments,
    check_gradient,
    check_op,
    cotangents,
    make_test_class,
    tangents,
)

Floats = NDArray[np.float64]


@differentiable_op
def bare(x: ArrayLike) -> Floats:
    return 2.0 * np.asarray(x, np.float64)


@differentiable_op()
def called(x: ArrayLike) -> ArrayLike:
    return x


@differentiable_op(signature="(),()->()", dtype="float32")
def mod(x: ArrayLike, y: ArrayLike, *, shift: float = 0.0) -> Floats:
    result: Floats = np.asarray(x) % np.asarray(y) + shift
    return result


@mod.gradient
def mod_gradient(op: RuleContext, grad: Any) -> tuple[Any, Any]:
    x, y = op.inputs
    return grad, -grad * tf.math.floordiv(x, y)


@differentiable_op(signature="(),()->()", dtype="float32")
def split(x: ArrayLike, y: ArrayLike) -> Floats:
    result: Floats = np.multiply(x, y)
    return result


@split.gradient(wrt="x")
def split_by_x(op: RuleContext, grad: Any) -> Any:
    return grad * op.inputs[1] if op.needs[0] else None


@split.numpy_gradient(wrt=("y",))
def split_by_y(op: RuleContext, grad: Floats) -> Floats:
    result: Floats = grad * op.inputs[0]
    return result


split_rule: Op[..., Any] = split_by_y


@mod.jvp
def mod_jvp(op: RuleContext, x: Any, y: Any) -> Any:
    return x - y * tf.math.floordiv(*op.inputs)


@mod.native
def mod_native(x: Any, y: Any, *, shift: float) -> Any:
    return tf.math.floormod(x, y) + shift


@differentiable_op(signature="(),()->()")
def product(x: ArrayLike, y: ArrayLike) -> Floats:
    result: Floats = np.multiply(x, y)
    return result


@product.jacobian(wrt="x")
def product_by_x(op: RuleContext) -> Any:
    return op.inputs[1]


@product.numpy_jacobian(wrt="y")
def product_by_y(op: RuleContext) -> Any:
    return op.inputs[0]


product_rule: Op[..., Any] = product_by_y


@differentiable_op(signature="(),()->()")
def quotient(x: ArrayLike, y: ArrayLike) -> Floats:
    result: Floats = np.divide(x, y)
    return result


@quotient.implicit(wrt="x", solve="cg", verify=1e-6)
def quotient_equation(op: RuleContext) -> Any:
    return op.outputs[0] * op.inputs[1] - op.inputs[0]


@quotient.stationary(wrt="y", solve=lambda matvec, right: right)
def quotient_objective(op: RuleContext) -> Any:
    return (op.outputs[0] * op.inputs[1] - op.inputs[0]) ** 2


@differentiable_op(signature="()->()")
def cube(x: ArrayLike) -> Floats:
    result: Floats = np.power(x, 3)
    return result


@cube.numpy_gradient
def cube_gradient(op: RuleContext, grad: Floats) -> Floats:
    result: Floats = 3 * op.inputs[0] ** 2 * grad
    return result


@cube.numpy_jvp
def cube_jvp(op: RuleContext, tangent: Floats) -> Floats:
    result: Floats = 3 * op.inputs[0] ** 2 * tangent
    return result


@cube_gradient.gradient
def cube_second(op: RuleContext, grad: Any) -> tuple[Any, None, Any]:
    x, _, cotangent = op.inputs
    return 6 * x * cotangent * grad, None, 3 * x**2 * grad


def rule(op: RuleContext, grad: Any) -> Any:
    return grad


def scale(x: ArrayLike, axis: int = -1) -> Floats:
    array = np.asarray(x, np.float64)
    result: Floats = array / array.max(axis)
    return result


with_options = differentiable_op(
    scale,
    signature="(n)->(n)",
    dtype=np.float32,
    compute_dtype=np.float64,
    numpy_grad=rule,
    numpy_jvp=rule,
    vectorized=False,
    executor=lambda: ThreadPoolExecutor(2),
    stateful=False,
    static_argnames=("axis",),
    domain="[-1, 1]",
    name="typed:with_options",
)
with_rules = differentiable_op(lambda x: x, shape=lambda shape: shape, dtype=None, grad=rule, jvp=rule, domain=None)
with_sizes = differentiable_op(lambda x: x, signature="(n)->(k)", sizes={"k": lambda n: n}, surrogate=True)
in_rows = differentiable_op(lambda x, y: x, signature="(),()->()", vectorized="rows", non_differentiable=("y",))
with_native = differentiable_op(lambda x: x, signature="()->()", prefer="native")
with_native.native(lambda x: x)
without = differentiable_op(lambda x: x, signature="()->()", non_differentiable=True, executor=None)
several = differentiable_op(lambda x: (x, x), signature="()->(),()", dtype=(None, tf.float32), domain={"x": "(0, 1)"})
by_text = differentiable_op(lambda x: x, signature="()->()", grad="complex-step")
by_method = differentiable_op(lambda x: x, signature="()->()", grad=tfpyop.numerical(step=0.5))
hypot = differentiable_op(np.hypot, grad="numerical")


@differentiable_op(signature="(n)->(),(n)", residuals={"total": ("()", np.float64), "kept": object})
def normalised(x: Floats) -> tuple[tuple[Floats, Floats], dict[str, Any]]:
    total = x.sum(-1)
    return (total, x / total[..., None]), {"total": total, "kept": object()}


class Model:
    """Ops as methods."""

    def __init__(self, rate: float) -> None:
        self.rate = rate

    @differentiable_op(signature="()->()")
    def scaled(self, x: ArrayLike, *, by: float = 1.0) -> Floats:
        return self.rate * by * np.asarray(x, np.float64)

    @scaled.gradient
    def scaled_gradient(self, op: RuleContext, grad: Any) -> Any:
        return self.rate * op.static.by * grad

    @classmethod
    @differentiable_op(signature="()->()")
    def named(cls, x: ArrayLike) -> Floats:
        return len(cls.__name__) * np.asarray(x, np.float64)

    @staticmethod
    @differentiable_op(signature="()->()")
    def halved(x: ArrayLike) -> Floats:
        return 0.5 * np.asarray(x, np.float64)


def calls() -> list[Any]:
    """Calls with tensors, arrays, numbers and lists."""
    model = Model(2.0)
    x = tf.constant([1.0, 2.0])
    with tf.GradientTape() as tape:
        tape.watch(x)
        z = mod(x, tf.constant(3.0), shift=0.5)
    with tfpyop.prefer_native():
        native = mod(tf.Variable(tf.constant([1.0])), 2.0)
    first, second = several(0.5)
    total, shares = normalised(np.ones(3))
    return [
        *(tape.gradient(z, x), native, first, second, total, shares),
        *(bare(np.ones(3)), called([1.0, 2.0]), mod(3.0, [1.0, 2.0]), hypot(x, 4.0), hypot(np.ones(2), [1.0, 2.0])),
        *(cube_gradient(x, x, x), with_options(x), tf.function(mod)(x, y=1.0)),
        *(model.scaled(x), model.scaled(np.ones(2), by=3.0), Model.scaled(model, 1.0)),
        *(Model.halved(x), Model.named(x), model.named(x)),
    ]


def attributes() -> list[object]:
    """What ops tell of themselves."""
    plain: Floats = mod.numpy(3.0, [2.0], shift=1.0)
    bound: Floats = Model(1.0).scaled.numpy(1.0, by=2.0)
    name: str = mod.name
    signature: str | None = mod.signature
    ops: list[Op[..., Any]] = list(tfpyop.registered_ops().values())
    found: Op[..., Any] = tfpyop.get_op(mod.name)
    return [plain, bound, name, signature, ops, found, mod.__name__, mod.__doc__, mod.__wrapped__, mod.output_dtypes]


def layers() -> Any:
    """Ops in Keras."""
    import keras  # type: ignore[import-untyped]

    return keras.Sequential([keras.Input((3,)), bare.as_layer(name="twice"), Model(1.0).scaled.as_layer(by=2.0)])


def checks() -> Report:
    """Strategies and checks, with their options."""
    call = Arguments((1.0,), {})
    vectors: list[SearchStrategy[tuple[NDArray[Any] | None, ...]]] = [cotangents(cube, call), tangents(cube, call)]
    drawn = arguments(
        mod, dtypes=["float32"], domain={"x": "[0, 1]", "y": "[1, 2]"}, max_side=2, shift=st.sampled_from([0.0, 0.5])
    )
    check_gradient(cube, max_examples=2)
    make_test_class([cube, mod], checks=CHECKS, arguments={"mod": drawn}, seed=1)
    report = check_op(mod, arguments=drawn, checks=["check_contract"], modes=["eager"], max_examples=9, seed=1)
    seconds: float = sum(outcome.seconds for outcome in report.outcomes)
    assert seconds >= 0
    assert len(vectors) == 2
    return report


def models(path: Path) -> list[str]:
    """Saving and loading."""
    model: Any = tf.Module()
    model.call = tf.function(cube, input_signature=[tf.TensorSpec([None], tf.float32)])
    errors: list[tfpyop.UnsupportedError] = export.check(model)
    export.save(model, path / "model")
    loaded = export.load(str(path / "model"), modules=["numpy"])
    assert loaded.call([2.0]) == 8.0
    return [op.module for op in export.required_ops(path / "model") if op.is_available and not errors]


def pools() -> ProcessPool:
    """Pools of processes, as the executor of an op."""
    pool = process_pool(2, timeout=10.0)
    differentiable_op(lambda x: x, signature="()->()", vectorized=False, executor=pool)
    return pool


def refusals() -> str:
    """Errors are told apart, and tell what is wrong."""
    try:
        differentiable_op(lambda x: x, signature="(")
    except (tfpyop.SignatureError, tfpyop.RegistrationError) as error:
        return str(error)
    return ""
