"""Ops that are wrong in one realistic way each, and the check that must find it."""

import secrets
import threading
import time
from dataclasses import dataclass, field

import numpy as np
import tensorflow as tf
from hypothesis import strategies as st

from tests.right_ops import divided_exponentials, divided_exponentials_gradient
from tfpyop import Op, differentiable_op, numerical
from tfpyop._lowering.xla.compilation import is_compiling
from tfpyop.testing import arguments


@dataclass(frozen=True)
class Wrong:
    """An op, how it is wrong, which check must say so, and what its report must hold."""

    how: str
    op: Op
    check: str = "check_gradient"
    options: dict = field(default_factory=dict)
    says: str = "the cotangent of input"
    is_thorough: bool = False  # only a thorough check must find it

    @property
    def arguments(self):
        """A strategy, None for the default one."""
        return arguments(self.op, **self.options) if self.options else None

    def __str__(self):
        return self.how


def square_with(rule, **options):
    op = differentiable_op(lambda x: x * x, signature="()->()", **options)
    op.gradient(rule)
    return op


def product_with(rule, **options):
    op = differentiable_op(lambda x, y: x * y, signature="(),()->()", **options)
    op.gradient(rule)
    return op


def turned_with(rule):
    return differentiable_op(lambda x: x @ np.array([[1.0, 2], [0, 1]], x.dtype), signature="(2)->(2)", grad=rule)


def with_jacobian(kind, function, signature, rule):
    op = differentiable_op(function, signature=signature)
    getattr(op, kind)(rule)
    return op


_TURN = np.array([[1.0, 2], [0, 1]])
JACOBIANS = [
    Wrong(
        f"{how}, {kind}, {check}",
        with_jacobian(kind, function, signature, rule),
        check,
        says=says,
    )
    for kind in ("jacobian", "numpy_jacobian")
    for how, function, signature, rule, check, says in [
        (
            "a transposed Jacobian",
            lambda x: x @ _TURN.T.astype(x.dtype),
            "(2)->(2)",
            lambda op: _TURN.T,
            "check_gradient",
            "the cotangent of input 0",
        ),
        (
            "a transposed Jacobian",
            lambda x: x @ _TURN.T.astype(x.dtype),
            "(2)->(2)",
            lambda op: _TURN.T,
            "check_jvp",
            "the tangent of output 0",
        ),
        (
            "partial derivatives in the wrong order",
            lambda x, y: x * y * y,
            "(),()->()",
            lambda op: (2 * op.inputs[0] * op.inputs[1], op.inputs[1] ** 2),
            "check_gradient",
            "the cotangent of input",
        ),
        (
            "a partial derivative of the wrong loop dimensions",
            lambda x, y: x * y,
            "(),()->()",
            lambda op: (op.inputs[1], op.inputs[0][..., None]),
            "check_gradient",
            "the Jacobian of output 0 by input 1 has the wrong shape",
        ),
        (
            "a block of one element of the loop for all of them",
            lambda x: (x**3).sum(-1),
            "(n)->()",
            lambda op: 3 * op.inputs[0][(0,) * (len(op.inputs[0].shape) - 1)] ** 2,
            "check_gradient",
            "the cotangent of input 0",
        ),
        (
            "None for an input that matters",
            lambda x, y: x * y,
            "(),()->()",
            lambda op: (op.inputs[1], None),
            "check_gradient",
            "the cotangent of input 1",
        ),
    ]
]


def closing_over(numbers):
    """A rule that sees what a loop left behind."""
    rules = [lambda op, grad: grad * number for number in numbers]  # noqa: B023 - the very mistake
    return differentiable_op(lambda x: x * numbers[0], signature="()->()", grad=rules[0])


def plain(function, **options):
    return differentiable_op(function, **{"signature": "()->()", "non_differentiable": True, **options})


def _loop_rank_0_rule(op, grad):
    x, y = op.inputs
    a, b = tf.reduce_sum(grad * y), tf.reduce_sum(grad * x)  # right for scalars only
    return a + tf.zeros_like(x), b + tf.zeros_like(y)


def _in_one_mode(is_in_it):
    def rule(op, grad):
        return (1 if is_in_it() else 2) * op.inputs[0] * grad

    return square_with(rule)


def _bias_rule(op, grad):
    return grad, grad  # of all rows, for the bias that they share


GRADIENTS = [
    Wrong(
        "a path of its own for XLA", _in_one_mode(is_compiling), says="mode XLA\n  Likely:   a factor of 2 is missing"
    ),
    Wrong(
        "a path of its own for graphs",
        _in_one_mode(lambda: not tf.executing_eagerly()),
        says="mode graph\n  Likely:   a factor of 2 is missing",
    ),
    Wrong(
        "not reduced over what broadcasting added",
        differentiable_op(lambda x, b: x + b[..., None, :], signature="(m,n),(n)->(m,n)", grad=_bias_rule),
        says="Likely:   the cotangent still has dimensions that broadcasting added",
    ),
    Wrong(
        "a factor of 2 without an optional input",
        differentiable_op(
            lambda x, scale=None: x**2 if scale is None else x**2 * scale,
            signature="(),()?->()",
            numpy_grad=lambda op, g: (
                (op.inputs[0] * g, None)
                if op.inputs[1] is None
                else (2 * op.inputs[0] * op.inputs[1] * g, op.inputs[0] ** 2 * g)
            ),
        ),
        says="Likely:   a factor of 2 is missing",
    ),
    Wrong("the wrong sign", square_with(lambda op, grad: -2 * op.inputs[0] * grad), says="Likely:   the wrong sign"),
    Wrong(
        "a factor of 2 is missing",
        square_with(lambda op, grad: op.inputs[0] * grad),
        says="Likely:   a factor of 2 is missing",
    ),
    Wrong(
        "there is an extra factor of 2",
        square_with(lambda op, grad: 4 * op.inputs[0] * grad),
        says="Likely:   there is an extra factor of 2",
    ),
    Wrong("an offset", square_with(lambda op, grad: (2 * op.inputs[0] + 0.01) * grad)),
    Wrong("zeros", square_with(lambda op, grad: tf.zeros_like(grad)), says="Likely:   the rule returns None or zeros"),
    Wrong(
        "None for an input that matters",
        product_with(lambda op, grad: (grad * op.inputs[1], None)),
        says="None: no dependence",
    ),
    Wrong(
        "the cotangent is not used",
        square_with(lambda op, grad: 2 * op.inputs[0] * tf.ones_like(grad)),
        says="Likely:   the rule does not use the cotangent",
    ),
    Wrong(
        "the cotangent is used twice",
        square_with(lambda op, grad: 2 * op.inputs[0] * grad * grad),
        says="Likely:   the rule uses the cotangent twice",
    ),
    Wrong("output instead of input", square_with(lambda op, grad: 2 * op.outputs[0] * grad)),
    Wrong(
        "inputs mixed up",
        product_with(lambda op, grad: (grad * op.inputs[0], grad * op.inputs[1])),
        says="Likely:   this is the cotangent of input 1",
    ),
    Wrong("a stale closure", closing_over([2.0, 3.0])),
    Wrong("summed over elements", product_with(_loop_rank_0_rule)),
    Wrong(
        "the Jacobian is transposed",
        turned_with(lambda op, grad: tf.linalg.matvec(tf.constant([[1.0, 0], [2, 1]], grad.dtype), grad)),
    ),
    Wrong("wrong only for negative values", square_with(lambda op, grad: 2 * tf.abs(op.inputs[0]) * grad)),
    Wrong(
        "wrong only beyond 1e3",
        square_with(
            lambda op, grad: (
                tf.where(tf.abs(op.inputs[0]) > 1e3, 0.9, 1.0 * tf.ones_like(grad)) * 2 * op.inputs[0] * grad
            )
        ),
    ),
    Wrong(
        "wrong only when two inputs are equal",
        product_with(
            lambda op, grad: (
                tf.where(op.inputs[0] == op.inputs[1], 2.0, 1.0 + 0 * grad) * grad * op.inputs[1],
                grad * op.inputs[0],
            )
        ),
    ),
    Wrong(
        "the rule of another function", differentiable_op(np.sin, grad=lambda op, grad: -grad * tf.cos(op.inputs[0]))
    ),
    Wrong(
        "the cotangents of two outputs swapped",
        differentiable_op(
            lambda x: (np.sin(x), np.cos(x)),
            signature="()->(),()",
            grad=lambda op, a, b: b * tf.cos(op.inputs[0]) - a * tf.sin(op.inputs[0]),
        ),
    ),
    Wrong(
        "the second output is forgotten",
        differentiable_op(
            lambda x: (np.sin(x), np.cos(x)), signature="()->(),()", grad=lambda op, a, b: a * tf.cos(op.inputs[0])
        ),
    ),
    Wrong(
        "a sum's cotangent divided like a mean's",
        differentiable_op(
            lambda x: x.sum(-1),
            signature="(n)->()",
            grad=lambda op, grad: (
                tf.ones_like(op.inputs[0]) * grad[..., None] / tf.cast(tf.shape(op.inputs[0])[-1], grad.dtype)
            ),
        ),
    ),
    Wrong(
        "a static parameter is ignored",
        differentiable_op(
            lambda x, *, twice: x * (2 if twice else 1),
            signature="()->()",
            static_argnames=("twice",),
            grad=lambda op, grad: grad,
        ),
        options={"dtypes": ["float64"], "twice": st.booleans()},
    ),
    Wrong(
        "the conjugate is missing",
        differentiable_op(lambda z: np.exp(z), signature="()->()", grad=lambda op, grad: grad * op.outputs[0]),
        options={"dtypes": ["complex128"], "largest": 10},
        says="Likely:   a conjugate is missing or superfluous",
    ),
    Wrong(
        "a numpy rule with the wrong sign",
        differentiable_op(lambda x: np.exp(x), signature="()->()", numpy_grad=lambda op, grad: -grad * op.outputs[0]),
        says="Likely:   the wrong sign",
    ),
    Wrong(
        "the residual is of another value",
        differentiable_op(
            lambda x: (np.sin(x), {"cosine": np.sin(x)}),
            signature="()->()",
            residuals={"cosine": ("()", np.float64)},
            numpy_grad=lambda op, grad: grad * op.residuals.cosine,
        ),
    ),
    Wrong(
        "wrong at kinks' sides: relu passes negative values",
        differentiable_op(lambda x: np.maximum(x, 0), signature="()->()", grad=lambda op, grad: grad),
    ),
    Wrong(
        "wrong only in a graph",
        square_with(lambda op, grad: (2 if tf.executing_eagerly() else 3) * op.inputs[0] * grad),
        says="mode graph",
    ),
    Wrong(
        "a gradient that is not a number",
        square_with(lambda op, grad: 2 * op.inputs[0] ** 2 / op.inputs[0] * grad),
        says="Got:      nan",
    ),
    Wrong(
        "the rule raises",
        square_with(lambda op, grad: tf.ensure_shape(grad, [7, 7, 7, 7])),
        says="a call raised an exception",
    ),
    Wrong(
        "one cotangent too few",
        product_with(lambda op, grad: grad),
        says="a value that is not a valid cotangent of an input",
    ),
    Wrong(
        "a norm's cotangent is not normalised",
        differentiable_op(
            lambda x: np.sqrt((x * x).sum(-1)),
            signature="(n)->()",
            grad=lambda op, grad: op.inputs[0] * grad[..., None],
        ),
    ),
]

GRADIENTS += [
    Wrong("the cotangent is clipped", square_with(lambda op, grad: 2 * op.inputs[0] * tf.clip_by_value(grad, -2, 2))),
    Wrong(
        "a small output is forgotten beside a large one",
        differentiable_op(
            lambda x: (1e12 * x, x * x), signature="()->(),()", grad=lambda op, large, small: 1e12 * large
        ),
    ),
    Wrong("an infinite gradient", square_with(lambda op, grad: grad * np.inf)),
    Wrong(
        "an infinite gradient for some values",
        square_with(
            lambda op, grad: tf.where(op.inputs[0] < -1, -np.inf * tf.ones_like(grad), 2 * op.inputs[0] * grad)
        ),
    ),
    Wrong(
        "nonsense by an input that works in single precision",
        differentiable_op(
            lambda x, k: x * np.sin(k.astype(np.float32)).astype(x.dtype),
            signature="(),()->()",
            domain={"k": "[2, 3]"},
            grad=lambda op, grad: (grad * tf.sin(op.inputs[1]), 1000 * grad * op.inputs[0]),
        ),
        says="input 1 (k) could not be judged in any example",
    ),
    Wrong(
        "wrong beside a number that is none",
        differentiable_op(
            lambda x: np.concatenate([np.full_like(x[..., :1], np.nan), x[..., 1:] ** 2], -1),
            signature="(n)->(n)",
            grad=lambda op, grad: op.inputs[0] * tf.concat([tf.zeros_like(grad[..., :1]), grad[..., 1:]], -1),
        ),
    ),
]

JVPS = [
    Wrong(
        "negative tangents count as positive",
        differentiable_op(lambda x: x * x, signature="()->()", jvp=lambda op, t: 2 * op.inputs[0] * tf.abs(t)),
        "check_jvp",
        says="the tangent of output 0 is wrong at element",
    ),
    Wrong(
        "a tangent of the wrong sign",
        differentiable_op(lambda x: x * x, signature="()->()", jvp=lambda op, t: -2 * op.inputs[0] * t),
        "check_jvp",
        says="the tangent of output 0 is wrong at element",
    ),
    Wrong(
        "JVP and VJP contradict each other",
        differentiable_op(
            lambda x: x * x,
            signature="()->()",
            jvp=lambda op, t: 2 * op.inputs[0] * t,
            grad=lambda op, g: op.inputs[0] * g,
        ),
        "check_jvp",
        says="the JVP rule and the gradient rule contradict each other",
    ),
    Wrong(
        "the tangent of one input is forgotten",
        differentiable_op(lambda x, y: x * y, signature="(),()->()", jvp=lambda op, s, t: s * op.inputs[1] + 0 * t),
        "check_jvp",
        says="the tangent of output 0 is wrong at element",
    ),
    *(
        Wrong(
            f"a gradient from a wrong JVP rule, {kind}, {check}",
            differentiable_op(
                lambda x: x**2 @ _TURN.T.astype(x.dtype),
                signature="(2)->(2)",
                grad="from-jvp",
                **{kind: lambda op, t: ((2 * op.inputs[0] * t)[..., None, :] @ _TURN)[..., 0, :]},  # transposed
            ),
            check,
            says=says,
        )
        for kind in ("jvp", "numpy_jvp")
        for check, says in (
            ("check_gradient", "the cotangent of input 0"),
            ("check_jvp", "the tangent of output 0"),
        )
    ),
    Wrong(
        "a JVP from a gradient rule of the wrong sign",
        differentiable_op(
            lambda x: x.sum(-1),
            signature="(n)->()",
            jvp="from-vjp",
            numpy_grad=lambda op, g: -g[..., None] + 0 * op.inputs[0],
        ),
        "check_jvp",
        says="the tangent of output 0",
    ),
]


def _with_pattern(pattern):
    return differentiable_op(
        lambda x: np.sin(x) + np.roll(x, 1, -1) ** 2, signature="(4)->(4)", grad=numerical(sparsity=pattern)
    )


SPARSITIES = [
    Wrong(
        "a sparsity pattern without a diagonal", _with_pattern(np.eye(4)), "check_sparsity", says="which the sparsity"
    ),
    Wrong(
        "a transposed sparsity pattern",
        _with_pattern(np.eye(4) + np.roll(np.eye(4), 1, 1)),
        "check_sparsity",
        says="the pattern is incomplete, or transposed",
    ),
    Wrong(
        "a sparsity pattern of the wrong shape", _with_pattern(np.eye(3)), "check_sparsity", says="has the wrong shape"
    ),
]


def _exp_with_wrong_second():
    op = differentiable_op(lambda x: np.exp(x), signature="()->()")
    first = op.numpy_gradient(lambda op, grad: grad * op.outputs[0])
    first.gradient(lambda op, grad: (None, 2 * grad * op.inputs[2], grad * op.inputs[1]))
    return op


def _product_without_mixed():
    op = differentiable_op(lambda x, y: x * y, signature="(),()->()")
    first = op.numpy_gradient(lambda op, grad: (grad * op.inputs[1], grad * op.inputs[0]))
    first.gradient(lambda op, s, t: (tf.zeros_like(s), tf.zeros_like(t), None, s * op.inputs[1] + t * op.inputs[0]))
    return op


SECOND = [
    Wrong(
        "the rule of the rule has a factor of 2",
        _exp_with_wrong_second(),
        "check_second_order",
        says="the second derivative is wrong",
    ),
    Wrong(
        "a rule stops the gradient",
        square_with(lambda op, grad: 2 * tf.stop_gradient(op.inputs[0]) * grad),
        "check_second_order",
        says="the second derivative is wrong",
    ),
    Wrong(
        "the rule of a numpy rule forgets the mixed derivative",
        _product_without_mixed(),
        "check_second_order",
        says="the second derivative is wrong",
    ),
]


def _stale():
    scale = [1.0]

    def function(x):
        scale[0] += 1.0
        return x * scale[0]

    return plain(function)


def _buffered():
    buffers = {}

    def function(x):
        buffer = buffers.setdefault((x.shape, x.dtype), np.empty_like(x))
        return np.add(x, 1, out=buffer)

    return plain(function)


def _in_place(x):
    x += 1
    return x


def _shared():
    box = {}

    def function(x):
        box["x"] = x + 1
        time.sleep(1e-4)
        return box["x"]

    return plain(function)


def _native():
    op = plain(lambda x: np.floor(x))
    op.native(lambda x: tf.cast(tf.cast(x, tf.int32), x.dtype))
    return op


_of_this_thread = threading.local()
_of_this_thread.scale = 2.0
_weight = secrets.randbits(32)


@differentiable_op(signature="()->()", non_differentiable=True)
def scaled_by_thread(x):
    """Depends on what only the thread that imported the module has."""
    return x * getattr(_of_this_thread, "scale", 1.0)


@differentiable_op(signature="()->()", non_differentiable=True)
def weighted_by_process(x):
    """Depends on a number that every process draws for itself."""
    return x * np.asarray(_weight, x.dtype)


def _cumulative(x):
    return np.cumsum(x).reshape(x.shape)  # over all rows


def _half_written(x, *, out=None):
    out = np.zeros_like(x) if out is None else out
    np.multiply(x[..., :1], 2, out=out[..., :1])  # all of it where the last dimension has one element
    return out


def _added_to(x, *, out=None):
    out = np.zeros_like(x) if out is None else out
    out += x
    return out


def _only_true(x, *, out=None):
    out = np.zeros(x.shape, bool) if out is None else out
    out[x > 0] = True  # and relies on False for the others
    return out


HALF_WRITTEN = plain(_half_written, signature="(n)->(n)")

CALLS = [
    *(
        Wrong(
            f"a part of out= is not written, {dtype}, found by {check}",
            HALF_WRITTEN,
            check,
            {"dtypes": [dtype]},
            says="the function does not write element",
        )
        for dtype, check in [
            ("float32", "check_contract"),
            ("int32", "check_contract"),
            ("float64", "check_parity"),
            ("complex64", "check_parity"),
        ]
    ),
    Wrong(
        "out= is taken for zeros and added to",
        plain(_added_to),
        "check_contract",
        {"dtypes": ["float32", "int64"]},
        says="out= is uninitialized memory",  # at zero, what is added to looks unwritten
    ),
    Wrong(
        "only the true ones are written",
        plain(_only_true, dtype=bool),
        "check_parity",
        {"dtypes": ["float64"]},
        says="the function does not write element",
    ),
    Wrong("a hidden state", _stale(), "check_purity", says="a second call with the same inputs gives another result"),
    Wrong(
        "the same array is returned again",
        _buffered(),
        "check_purity",
        says="a later call overwrites an earlier result",
    ),
    Wrong(
        "a random result",
        plain(lambda x: x + np.random.default_rng().uniform(size=x.shape)),
        "check_purity",
        says="a second call with the same inputs gives another result",
    ),
    Wrong("an input is written to", plain(_in_place), "check_purity", says="the function writes to input 0"),
    Wrong(
        "a sum where a value is promised for each element",
        plain(lambda x: x.sum()),
        "check_contract",
        says="has the wrong shape",
    ),
    Wrong(
        "size one is squeezed away",
        plain(lambda x: np.squeeze(x), signature="(n)->(n)"),
        "check_contract",
        says="has the wrong shape",
    ),
    Wrong(
        "empty inputs give another shape",
        plain(lambda x: x if x.size else np.zeros(1)),
        "check_contract",
        says="has the wrong shape",
    ),
    Wrong(
        "integers are returned as text",
        plain(lambda x: np.asarray(x, str)),
        "check_contract",
        says="breaks the contract",
    ),
    Wrong("complex where real is promised", plain(lambda x: x + 1j), "check_contract", says="breaks the contract"),
    Wrong("one output too many", plain(lambda x: (x, x)), "check_contract", says="breaks the contract"),
    Wrong(
        "loop dimensions are mixed up",
        plain(_cumulative, signature="(n)->(n)"),
        "check_batching",
        says="differs from a loop over rows",
    ),
    Wrong(
        "rows depend on each other",
        plain(lambda x: x - x.mean() if x.size else x),
        "check_batching",
        says="works across rows, for example x.sum() instead of x.sum(-1)",
    ),
    Wrong(
        "the native implementation rounds the other way",
        _native(),
        "check_parity",
        says="the native call differs from the function",
    ),
    Wrong(
        "a setting of the thread that imported the module",
        scaled_by_thread,
        "check_parity",
        says="mode graph",
    ),
    Wrong(
        "random weights of each process",
        weighted_by_process,
        "check_export",
        says="the loaded op differs from the function",
    ),
    Wrong("a variable that all threads share", _shared(), "check_threads", says="Found by: check_threads"),
]

_HEAVY_AND_LIGHT = np.array([1e9, 1e-3])


def weighted_with(factor, *, power=1, **rules):
    """A sum of two numbers of very different weights, and a rule with a factor for the light one."""
    claimed = _HEAVY_AND_LIGHT * np.array([1, factor])
    options = {name: make(claimed) for name, make in rules.items()}
    return differentiable_op(
        lambda x: (x**power * _HEAVY_AND_LIGHT).sum(-1), signature="(2)->()", domain="[1, 100]", **options
    )


def _weighted_gradient(weights):
    return lambda op, g: g[..., None] * weights


def _weighted_jvp(weights):
    return lambda op, t: tf.reduce_sum(t * weights, -1)


def _weighted_square_gradient(weights):
    """A gradient that is right, and whose own gradient is not: part of it is stopped."""

    def rule(op, g):
        x = op.inputs[0]
        return 2 * g[..., None] * (x * weights + tf.stop_gradient(x) * (_HEAVY_AND_LIGHT - weights))

    return rule


def _small_ones_forgotten(op, g):
    x = op.inputs[0]
    is_small = tf.abs(x) < 1e-2 * tf.reduce_max(tf.abs(x), -1, keepdims=True)
    return 9 * g * x**8 * tf.cast(~is_small, g.dtype)


def _light_entry(a):
    return 1e8 * a[..., 0, 0] + 1e-3 * np.trace(a, axis1=-2, axis2=-1)


def _light_entry_rule(op, g):
    eye, first = np.eye(2), np.array([[1.0, 0], [0, 0]])
    return g[..., None, None] * (1e8 * first + 1e-3 * (2 * first - eye))


WEIGHTS = [
    Wrong("a light element is forgotten", weighted_with(0, grad=_weighted_gradient)),
    Wrong("a light element has the wrong sign", weighted_with(-1, grad=_weighted_gradient)),
    Wrong("a light element has a factor of 2", weighted_with(2, grad=_weighted_gradient)),
    Wrong(
        "a light entry of a matrix has the wrong sign",
        differentiable_op(_light_entry, signature="(2,2)->()", domain="[1, 10]", grad=_light_entry_rule),
    ),
    Wrong(
        "a light row of outputs is forgotten",
        differentiable_op(
            lambda x: np.stack([1e9 * x, 1e-3 * x], -1), signature="()->(2)", grad=lambda op, g: 1e9 * g[..., 0]
        ),
    ),
    Wrong(
        "a light element of a light output is forgotten",
        differentiable_op(
            lambda x: np.stack([1e9 * x[..., 0], 1e3 * x[..., 0] + 1e-3 * x[..., 1]], -1),
            signature="(2)->(2)",
            domain="[1, 10]",
            grad=lambda op, g: tf.stack([1e9 * g[..., 0] + 1e3 * g[..., 1], 0 * g[..., 1]], -1),
        ),
    ),
    Wrong(
        "elements beside much larger ones count as zero",
        differentiable_op(lambda x: x**9, signature="(n)->(n)", grad=_small_ones_forgotten),
    ),
    Wrong(
        "the tangent of a light element is forgotten",
        weighted_with(0, jvp=_weighted_jvp),
        "check_jvp",
        says="the tangent of output 0 is wrong at element",
    ),
    Wrong(
        "the tangent of a light row has a factor of 2",
        differentiable_op(
            lambda x: np.stack([1e9 * x, 1e-3 * x], -1),
            signature="()->(2)",
            jvp=lambda op, t: tf.stack([1e9 * t, 2e-3 * t], -1),
        ),
        "check_jvp",
        says="the tangent of output 0 is wrong at element [",
    ),
    Wrong(
        "tangents beside much larger ones count as zero",
        differentiable_op(lambda x: x**9, signature="(n)->(n)", jvp=_small_ones_forgotten),
        "check_jvp",
        says="the tangent of output 0 is wrong at element",
    ),
    Wrong(
        "the second derivative by a light element is forgotten",
        weighted_with(0, power=2, grad=_weighted_square_gradient),
        "check_second_order",
        says="the second derivative is wrong at element",
    ),
]


def numpy_product_with(rule, **options):
    op = differentiable_op(lambda x, y: x * y, signature="(),()->()", **options)
    op.numpy_gradient(rule)
    return op


def _needs_swapped(op, grad):
    x, y = op.inputs
    return (grad * y if op.needs[1] else None, grad * x if op.needs[0] else None)


def _shared_work_skipped(op, grad):
    x, y = op.inputs
    scaled = grad * x if op.needs[0] else np.zeros_like(grad * x)  # both cotangents need it
    return scaled * y / x, scaled


def _needed_alone(op, grad):
    cotangents = [grad * op.inputs[1], grad * op.inputs[0]]
    return [cotangent for cotangent, is_needed in zip(cotangents, op.needs, strict=True) if is_needed]


def _first_alone(op, grad):
    return (grad * op.inputs[1], grad * op.inputs[0] if all(op.needs) else None)


def _jvp_without_second(op, of_x, of_y):
    x, y = op.inputs
    return of_x * y + of_y * x if all(op.needs) else of_x * y


NEEDS = [
    Wrong("needs are swapped", product_with(_needs_swapped), "check_needs", says="Got:      None for op.needs = ("),
    Wrong(
        "needs are swapped in numpy",
        numpy_product_with(_needs_swapped),
        "check_needs",
        says="changes with op.needs",
    ),
    Wrong(
        "work that two cotangents share is skipped",
        numpy_product_with(_shared_work_skipped),
        "check_needs",
        says="the cotangent of input 1 changes with op.needs",
    ),
    Wrong(
        "only the needed cotangents are returned",
        product_with(_needed_alone),
        "check_needs",
        says="the wrong number of cotangents",
    ),
    Wrong(
        "the second cotangent is forgotten where it is needed alone",
        product_with(_first_alone),
        "check_needs",
        says="the cotangent of input 1 changes with op.needs",
    ),
    Wrong(
        "a tangent is forgotten where it varies alone",
        differentiable_op(lambda x, y: x * y, signature="(),()->()", jvp=_jvp_without_second),
        "check_needs",
        says="the tangent of output 0 changes with op.needs",
    ),
]

_WORKSPACE, _LAST = {}, {}


def _in_a_workspace(x):
    _WORKSPACE["x"] = x  # which the next call overwrites
    return x * x, {"kept": _WORKSPACE}


def _of_the_last_call(x):
    kept = _LAST.get(x.shape, x)
    _LAST[x.shape] = x
    return x * x, {"kept": {"x": kept}}


def square_by_object(function, **rules):
    return differentiable_op(function, signature="()->()", residuals={"kept": object}, **rules)


def _by_object(op, vector):
    return 2 * op.residuals.kept["x"] * vector


OBJECTS = [
    Wrong(
        "an object that the next call overwrites",
        square_by_object(_in_a_workspace, numpy_grad=_by_object),
        "check_residuals",
        says="a call with other inputs changes a derivative in cotangent 0",
    ),
    Wrong(
        "an object of the call before",
        square_by_object(_of_the_last_call, numpy_grad=_by_object),
        "check_residuals",
        says="an object that is created again changes a derivative in cotangent 0",
    ),
    Wrong(
        "an object of the call before, in forward mode",
        square_by_object(lambda x: _of_the_last_call(x), numpy_jvp=_by_object),
        "check_residuals",
        says="changes a derivative in tangent 0",
    ),
    Wrong(
        "an object that belongs to other inputs",
        square_by_object(lambda x: (x * x, {"kept": {"x": x + 1}}), numpy_grad=_by_object),
    ),
]

_MATRIX = np.array([[1 + 2j, 0.5], [0, 1 - 1j]])
_REAL = np.array([[1e6, 2.0], [1e-3, -1.0]])


def linear_with(rule, function=lambda x: x @ _REAL.T, signature="(2)->(2)", linear_in=None, **options):
    """An op with an adjoint rule."""
    op = differentiable_op(function, signature=signature, **options)
    op.adjoint(rule, linear_in=linear_in)
    return op


def _matvec(a, x):
    return (a @ x[..., None])[..., 0]


def _by_both(op, grad):
    a, x = op.inputs
    return grad[..., None] * x[..., None, :], tf.linalg.matvec(a, grad, transpose_a=True)


def _roots(x):
    if (x < 0).any():
        raise ValueError("x must not be negative")
    return x


ADJOINTS = [
    Wrong(
        "an adjoint without conj",
        linear_with(lambda op, g: tf.linalg.matvec(_MATRIX.T, g), lambda x: x @ _MATRIX.T, dtype="complex128"),
        "check_adjoint",
        {"dtypes": ["complex128"]},
        says="the adjoint rule is wrong",
    ),
    Wrong(
        "the adjoint of another operator",
        linear_with(lambda op, g: tf.linalg.matvec(tf.constant(_REAL, g.dtype), g)),
        "check_adjoint",
        says="the adjoint rule is wrong",
    ),
    Wrong(
        "an adjoint in numpy with the wrong sign",
        (lambda op: (op.numpy_adjoint(lambda op, g: -g), op)[1])(differentiable_op(lambda x: x, signature="()->()")),
        "check_adjoint",
        says="the wrong sign",
    ),
    Wrong(
        "an adjoint that forgets a light element",
        linear_with(lambda op, g: g * np.array([1e6, 0]), lambda x: x * np.array([1e6, 1e-3])),
        "check_adjoint",
        says="at element [1]",
    ),
    Wrong(
        "a sine that is declared linear",
        linear_with(lambda op, g: g * tf.cos(op.inputs[0]), lambda x: np.sin(x), "()->()"),
        "check_adjoint",
        says="the function is not linear in its inputs: output 0 is wrong for a sum of two inputs",
    ),
    Wrong(
        "a sine that is declared linear, by its tangents",
        linear_with(lambda op, g: g * tf.cos(op.inputs[0]), lambda x: np.sin(x), "()->()"),
        "check_jvp",
        says="the tangent of output 0 is wrong",
    ),
    Wrong(
        "an affine function that is declared linear",
        linear_with(lambda op, g: g, lambda x: x + 1, "()->()"),
        "check_adjoint",
        says="the function is not linear in its inputs: output 0 is wrong for an input of zeros",
    ),
    Wrong(
        "a product that is declared linear in both factors together",
        linear_with(_by_both, lambda a, x: _matvec(a, x), "(m,n),(n)->(m)"),
        "check_adjoint",
        says="attach one adjoint rule for each input",
    ),
    Wrong(
        "linear_in with the wrong name",
        linear_with(lambda op, g: g * op.inputs[1] ** 2, lambda x, y: x * y**2, "(),()->()", linear_in="y"),
        "check_adjoint",
        says="'y'",
    ),
    Wrong(
        "linear_in with the name of an integer input",
        linear_with(
            lambda op, g: g, lambda x, n: x * n, "(),()->()", linear_in=("x", "n"), domain={"n": "integers [1, 3]"}
        ),
        "check_adjoint",
        says="linear_in= names 'n', but an input of this parameter is not a floating-point number",
    ),
    Wrong(
        "a function that takes no tangents",
        linear_with(lambda op, g: g, lambda x: _roots(x), "()->()", domain="[0, 1]"),
        "check_adjoint",
        says="it raises an exception for a vector of another sign or magnitude",
    ),
]


def solved_with(rule, function=lambda x: np.sqrt(x), domain="[0.1, 10]", kind="implicit", **options):
    """An op with an equation."""
    op = differentiable_op(function, signature="()->()", domain=domain)
    getattr(op, kind)(rule, **options)
    return op


def _unfinished(x):
    y = np.ones_like(x)
    for _ in range(3):
        y = (y + x / y) / 2
    return y


EQUATIONS = [
    Wrong(
        "the residual of another equation",
        solved_with(lambda op: op.outputs[0] ** 3 - op.inputs[0]),
        "check_implicit",
        says="the residual is not zero at the value of output 0",
    ),
    Wrong(
        "a residual with the wrong sign",
        solved_with(lambda op: op.outputs[0] ** 2 + op.inputs[0]),
        "check_implicit",
        says="this is the residual of another equation",
    ),
    Wrong(
        "a solver that did not converge",
        solved_with(lambda op: op.outputs[0] ** 2 - op.inputs[0], lambda x: _unfinished(x), "[10, 1000]"),
        "check_implicit",
        says="the tolerance of the solver is too large",
    ),
    Wrong(
        "a solver that did not converge, by verify=",
        solved_with(lambda op: op.outputs[0] ** 2 - op.inputs[0], lambda x: _unfinished(x), "[10, 1000]", verify=1e-9),
        "check_gradient",
        says="the residual is not zero at the value that the function returned",
    ),
    Wrong(
        "a residual that is zero, with a constant instead of an input",
        solved_with(lambda op: op.outputs[0] - tf.stop_gradient(tf.sqrt(op.inputs[0]))),
        "check_gradient",
        says="gradient",
    ),
    Wrong(
        "the objective of another minimum",
        solved_with(lambda op: (op.outputs[0] - op.inputs[0]) ** 2, kind="stationary"),
        "check_implicit",
        says="the residual is not zero at the value of output 0",
    ),
]


def _trace(x):
    return np.trace(x, axis1=-2, axis2=-1)


def _strided_diagonal(op, grad):
    x = op.inputs[0]
    n_rows, n_columns = x.shape[-2:]
    flat = np.zeros((*x.shape[:-2], n_rows * n_columns))
    flat[..., :: n_columns + 1] = grad[..., None]  # beyond the diagonal of a tall matrix
    return flat.reshape(x.shape)


def _reversed_sums(x):
    return np.flip(np.cumsum(np.flip(x, -1), -1), -1)


def _product_by_division(op, grad):
    x = op.inputs[0]
    return _reversed_sums(grad * op.outputs[0]) / np.where(x == 0, 1, x)


def _last_of_duplicates(op, grad):
    result = np.zeros(op.inputs[0].shape, grad.dtype)
    result[..., [0, 2, 0, 1]] = grad
    return result


def _softplus(x):
    return np.logaddexp(0, -x)


def _softplus_rule(op, grad):
    x = op.inputs[0]
    return -grad * np.where(x == 0, 0, 1 / (1 + np.exp(x)))


def _sinc_rule(op, grad):
    x = np.pi * op.inputs[0]
    return grad * np.pi * np.where(np.abs(x) < 0.1, x / 3, (np.cos(x) * x - np.sin(x)) / np.where(x == 0, 1, x**2))


def _upper(x):
    return np.triu(x) @ np.ones(x.shape[-1])


def _both_triangles(op, grad):
    return grad[..., :, None] * np.ones(op.inputs[0].shape)


def _without_diagonal(op, grad):
    return np.triu(np.broadcast_to(grad[..., :, None], op.inputs[0].shape), 1 if op.inputs[0].shape[-1] > 3 else 0)


def _permutation_not_inverted(op, grad):
    return np.take_along_axis(grad, np.argsort(op.inputs[0], -1), -1)  # its own inverse for up to two elements


def _median_rule(op, grad):
    x = op.inputs[0]
    n = x.shape[-1]
    result = np.zeros(x.shape)
    np.put_along_axis(result, np.argsort(x, -1)[..., n // 2, None], grad[..., None], -1)  # right for odd n
    return result


def _quantile(x):
    return np.quantile(x, 0.3, axis=-1)


def _quantile_rule(op, grad):
    x = op.inputs[0]
    place = 0.3 * (x.shape[-1] - 1)
    order, low = np.argsort(x, -1), int(place)
    result = np.zeros(x.shape)
    high = min(low + 1, x.shape[-1] - 1)
    np.put_along_axis(result, order[..., high, None], (1 - (place - low)) * grad[..., None], -1)  # weights swapped
    np.put_along_axis(
        result,
        order[..., low, None],
        np.take_along_axis(result, order[..., low, None], -1) + (place - low) * grad[..., None],
        -1,
    )
    return result


def _interpolated(x):
    return np.interp(x, [0.0, 1.0, 3.0], [0.0, 2.0, 3.0])


def _spectrum(x):
    return np.abs(np.fft.rfft(x)) ** 2


def _spectrum_rule(op, grad):
    x = op.inputs[0]
    n = x.shape[-1]
    return 2 * n * np.fft.irfft(grad * np.fft.rfft(x), n)  # the frequencies in between count twice


def _max_rule(op, grad):
    x = op.inputs[0]
    return grad[..., None] * (x == x.max(-1, keepdims=True)) * (1.0 if x.shape[-1] < 4 else 0.5)


def _product(x):
    return np.prod(x, -1)


def _logarithmic_product(op, grad):
    x = op.inputs[0]
    return (grad * np.exp(np.log(np.abs(x) + 1e-300).sum(-1)))[..., None] / np.where(x == 0, 1, x)


def in_numpy(function, signature, rule, **options):
    return differentiable_op(lambda *inputs: function(*inputs), signature=signature, numpy_grad=rule, **options)


def _piecewise(x):
    return np.where(np.abs(x) < 1e-2, x - x**3 / 6, np.sin(x))


def _where_twice(x):
    return np.where(x > 0, np.sqrt(np.where(x > 0, x, 1)), 0)


def _unmasked_rule(op, grad):
    with np.errstate(all="ignore"):
        return grad * np.where(op.inputs[0] > -1, 0.5 / op.outputs[0], 0)


def _huber(x):
    return np.where(np.abs(x) < 1.5, x * x / 2, 1.5 * np.abs(x) - 1.125)


def _divided_rule(op, grad):
    is_equal = op.inputs[0] == op.inputs[1]
    by_x, by_y = divided_exponentials_gradient(op, grad)
    return np.where(is_equal, 2, 1) * by_x, np.where(is_equal, 0, by_y)


POINTS = [
    # torch.trace: https://github.com/pytorch/pytorch/issues/171704
    Wrong(
        "a trace whose rule leaves the diagonal of tall matrices",
        in_numpy(_trace, "(m,n)->()", _strided_diagonal),
    ),
    # tf.math.cumprod: https://github.com/tensorflow/tensorflow/issues/119430
    Wrong(
        "a cumulative product that divides by zeros",
        in_numpy(lambda x: np.cumprod(x, -1), "(n)->(n)", _product_by_division),
    ),
    # torch.gather: https://github.com/pytorch/pytorch/issues/1631
    Wrong(
        "duplicate indices of which the last one wins",
        in_numpy(lambda x: x[..., [0, 2, 0, 1]], "(3)->(4)", _last_of_duplicates),
    ),
    # jax.nn.log_sigmoid: https://github.com/jax-ml/jax/issues/2140
    Wrong(
        "zero at zero for a logarithm of a sigmoid", in_numpy(_softplus, "()->()", _softplus_rule, domain="[-30, 30]")
    ),
    # jnp.sinc: https://github.com/jax-ml/jax/issues/5054, torch.sinc: https://github.com/pytorch/pytorch/issues/53989
    Wrong("sinc with a series of the wrong sign", in_numpy(np.sinc, "()->()", _sinc_rule, domain="[-5, 5]")),
    # linalg.cholesky(lower=False): https://github.com/jax-ml/jax/issues/40421
    Wrong("a derivative by the triangle that is not read", in_numpy(_upper, "(n,n)->(n)", _both_triangles)),
    Wrong(
        "a triangular mask without the diagonal for larger matrices", in_numpy(_upper, "(n,n)->(n)", _without_diagonal)
    ),
    Wrong(
        "a permutation instead of its inverse",
        in_numpy(lambda x: np.sort(x, -1), "(n)->(n)", _permutation_not_inverted),
    ),
    Wrong(
        "a median of an even number of elements",
        in_numpy(lambda x: np.median(x, axis=-1), "(n)->()", _median_rule),
    ),
    Wrong("swapped weights of a quantile", in_numpy(_quantile, "(n)->()", _quantile_rule)),
    Wrong(
        "one slope for all parts of an interpolation",
        in_numpy(_interpolated, "()->()", lambda op, g: g * 2.0 * (op.inputs[0] > 0) * (op.inputs[0] < 3)),
    ),
    Wrong(
        "a real Fourier transform counts frequencies once",
        in_numpy(_spectrum, "(n)->(n//2+1)", _spectrum_rule),
    ),
    Wrong(
        "an inverse Fourier transform without its factor",
        differentiable_op(
            lambda x: np.fft.ifft(x), signature="(n)->(n)", dtype="complex128", numpy_grad=lambda op, g: np.fft.fft(g)
        ),
        options={"dtypes": ["complex128"], "largest": 100},
    ),
    # tf.matmul: https://github.com/tensorflow/tensorflow/issues/4859
    Wrong(
        "a complex product without conj",
        differentiable_op(
            lambda x, y: x * y,
            signature="(),()->()",
            grad=lambda op, g: (g * op.inputs[1], g * tf.math.conj(op.inputs[0])),
        ),
        options={"dtypes": ["complex128"], "largest": 100},
    ),
    Wrong("half of a maximum for four elements or more", in_numpy(lambda x: x.max(-1), "(n)->()", _max_rule)),
    Wrong("a product by logarithms loses its signs", in_numpy(_product, "(n)->()", _logarithmic_product)),
    Wrong(
        "a series for small numbers with the wrong sign",
        in_numpy(
            _piecewise, "()->()", lambda op, g: g * np.where(np.abs(op.inputs[0]) < 1e-2, -1, 1) * np.cos(op.inputs[0])
        ),
    ),
    Wrong(
        "a series for very small numbers without its second term",
        in_numpy(
            lambda x: np.expm1(x) / np.where(x == 0, 1, x) + (x == 0),
            "()->()",
            lambda op, g: (
                g
                * np.where(
                    np.abs(op.inputs[0]) < 1e-3,
                    1.0,
                    (np.exp(op.inputs[0]) - op.outputs[0]) / np.where(op.inputs[0] == 0, 1, op.inputs[0]),
                )
            ),
            domain="[-5, 5]",
        ),
    ),
    Wrong(
        "a threshold of moderate size that differs between function and rule",
        in_numpy(
            _huber,
            "()->()",
            lambda op, g: g * np.where(np.abs(op.inputs[0]) < 1.45, op.inputs[0], 1.5 * np.sign(op.inputs[0])),
        ),
    ),
    Wrong(
        "wrong in a narrow interval around pi",
        square_with(
            lambda op, g: 2 * g * op.inputs[0] * tf.where(tf.abs(op.inputs[0] - np.pi) < 1e-3, 1.1 + 0 * g, 1.0 + 0 * g)
        ),
    ),
    Wrong(
        "wrong where two inputs are equal", in_numpy(divided_exponentials, "(),()->()", _divided_rule, domain="[-3, 3]")
    ),
    Wrong(
        "wrong from sixteen elements on",
        differentiable_op(
            lambda x: (x**2).sum(-1),
            signature="(n)->()",
            grad=lambda op, g: (
                2 * g[..., None] * op.inputs[0] * tf.cast(tf.range(tf.shape(op.inputs[0])[-1]) < 16, g.dtype)
            ),
        ),
    ),
    Wrong(
        "odd sizes only",
        in_numpy(
            lambda x: x.mean(-1),
            "(n)->()",
            lambda op, g: np.broadcast_to(g[..., None] / (2 * ((op.inputs[0].shape[-1] + 1) // 2)), op.inputs[0].shape),
        ),
    ),
    Wrong(
        "a matrix product that is right for square matrices",
        in_numpy(
            lambda a, x: (a @ x[..., None])[..., 0],
            "(m,n),(n)->(m)",
            lambda op, g: (
                g[..., :, None] * op.inputs[1][..., None, :],
                (
                    (np.swapaxes(op.inputs[0], -1, -2) @ g[..., None])[..., 0]
                    / (1 if op.inputs[0].shape[-1] <= op.inputs[0].shape[-2] else 2)
                ),
            ),
        ),
    ),
    Wrong(
        "a masked square root whose rule is not masked",
        in_numpy(_where_twice, "()->()", _unmasked_rule),
    ),
    Wrong(
        "a tangent of the wrong sign for small numbers",
        differentiable_op(
            lambda x: np.sin(x),
            signature="()->()",
            jvp=lambda op, t: (
                t * tf.cos(op.inputs[0]) * tf.where(tf.abs(op.inputs[0]) < 1e-3, -1.0 + 0 * t, 1.0 + 0 * t)
            ),
        ),
        "check_jvp",
        says="the tangent of output 0 is wrong at element",
    ),
    Wrong(
        "a second derivative that is stopped for small numbers",
        differentiable_op(
            lambda x: x**3,
            signature="()->()",
            grad=lambda op, g: (
                3 * g * tf.where(tf.abs(op.inputs[0]) < 1e-2, tf.stop_gradient(op.inputs[0] ** 2), op.inputs[0] ** 2)
            ),
        ),
        "check_second_order",
        says="the second derivative is wrong",
    ),
]


_last = {}


def _noting(x):
    _last["x"] = x.copy()
    return np.sin(x)


def _by_bytes(function):
    known = {}

    def cached(x):
        key = x.tobytes()
        if key not in known:
            known[key] = function(x)
        return known[key]

    return cached


def _baked_in(op, grad):
    """A rule whose factor is computed in Python, from the values of the call while it is traced."""
    factor = tf.cos(op.inputs[0]) if tf.executing_eagerly() else np.float64(np.cos(_last["x"]).mean())
    return grad * factor


_roots_found = {}


def _warm_root(a):
    x = _roots_found.get(a.shape, np.ones_like(a))
    for _ in range(12):
        x = x - 0.7 * (x**3 + x - a) / (3 * x**2 + 1)
    _roots_found[a.shape] = x
    return x


_cached_ones = _by_bytes(lambda x: np.ones(x.shape))


def _through_a_buffer():
    buffers = {}

    def function(x):
        buffer = buffers.setdefault((x.shape, x.dtype), np.empty_like(x))
        np.multiply(x, 2, out=buffer)
        np.add(buffer, 1, out=buffer)
        return buffer.copy()

    return plain(function)


def _row_through_a_buffer(x, buffer=np.empty(64)):  # noqa: B008 - the very mistake
    part = buffer[: len(x)]
    np.copyto(part, x)
    np.multiply(part, 2, out=part)
    return part.copy()


def _rule_through_a_buffer():
    buffers = {}

    def rule(op, grad):
        buffer = buffers.setdefault(grad.shape, np.empty_like(grad))
        np.multiply(grad, op.inputs[0], out=buffer)
        np.multiply(buffer, 2, out=buffer)
        return buffer.copy()

    return differentiable_op(lambda x: x * x, signature="()->()", numpy_grad=rule)


STATES = [
    Wrong(
        "a rule in numpy uses the input of the last call",
        in_numpy(_noting, "()->()", lambda op, g: g * np.cos(_last["x"])),
        "check_order",
        says="the gradient of a call",
    ),
    Wrong(
        "a rule uses the input of the last call",
        differentiable_op(
            lambda x: _noting(x), signature="()->()", grad=lambda op, g: g * tf.cos(tf.constant(_last["x"]))
        ),
        "check_order",
        says="the rule uses a value that the last call of the function stored",
    ),
    Wrong(
        "a rule bakes in a Python value when it is traced",
        differentiable_op(lambda x: _noting(x), signature="()->()", grad=_baked_in),
        "check_order",
        says="mode graph",
    ),
    Wrong(
        "a cache of results without the shape in its key",
        plain(_by_bytes(lambda x: np.cumsum(x, -1)), signature="(n)->(n)"),
        "check_order",
        says="Found by: check_order",
    ),
    Wrong(
        "a cache of a rule without the shape in its key",
        in_numpy(lambda x: x.sum((-1, -2)), "(m,n)->()", lambda op, g: g[..., None, None] * _cached_ones(op.inputs[0])),
        "check_order",
        says="a call raises after a call with the same numbers in another shape",
    ),
    Wrong(
        "a solver that starts from its last solution",
        plain(_warm_root, domain="[-10, 10]"),
        "check_order",
        says="the same call returns another result after another call",
    ),
    Wrong("a global buffer that is copied out", _through_a_buffer(), "check_threads", says="in parallel"),
    Wrong(
        "a global buffer for rows that is copied out",
        plain(_row_through_a_buffer, signature="(n)->(n)", vectorized=False),
        "check_threads",
        says="in parallel",
    ),
    Wrong("a global buffer in a rule", _rule_through_a_buffer(), "check_threads", says="in parallel"),
]


def _in_single(function):
    return lambda x: function(x.astype(np.float32)).astype(x.dtype)


def in_single(rule, **options):
    """A sine that computes in single precision, whose differences show nothing."""
    return differentiable_op(_in_single(np.sin), signature="()->()", grad=rule, domain="[-3, 3]", **options)


LINEARITY = [
    Wrong(
        "the cotangent is clipped, in single precision",
        in_single(lambda op, g: tf.clip_by_value(g, -0.5, 0.5) * tf.cos(op.inputs[0])),
        "check_linearity",
        says="is not linear in the cotangents of the outputs",
    ),
    Wrong(
        "only positive cotangents pass, in single precision",
        in_single(lambda op, g: tf.nn.relu(g) * tf.cos(op.inputs[0])),
        "check_linearity",
        says="is not linear in the cotangents of the outputs",
    ),
    Wrong(
        "the mean over all rows, in single precision",
        in_single(lambda op, g: tf.reduce_mean(g) * tf.cos(op.inputs[0])),
        "check_linearity",
        says="in one row depends on other rows",
    ),
    Wrong(
        "the magnitude of a tangent",
        differentiable_op(
            _in_single(np.sin), signature="()->()", domain="[-3, 3]", jvp=lambda op, t: tf.abs(t) * tf.cos(op.inputs[0])
        ),
        "check_linearity",
        says="is not linear in the tangents of the inputs",
    ),
    Wrong(
        "rules of sine and cosine, in single precision",
        in_single(lambda op, g: g * tf.cos(op.inputs[0]), jvp=lambda op, t: -t * tf.sin(op.inputs[0])),
        "check_linearity",
        says="the JVP rule and the gradient rule contradict each other",
    ),
]

DECLARATIONS = [
    *(
        Wrong(
            f"the mean over all rows, in a rule that takes rows, {check}",
            differentiable_op(
                lambda x: 2 * x,
                signature="(n)->(n)",
                vectorized="rows",
                numpy_grad=lambda op, g: 2 * np.broadcast_to(g.mean(0), g.shape),
            ),
            check,
            says=says,
        )
        for check, says in (
            ("check_gradient", "the cotangent of input 0"),
            ("check_linearity", "in one row depends on other rows"),
        )
    ),
    Wrong(
        "a function that mixes the rows that it takes",
        differentiable_op(
            lambda x: x - x.mean(0), signature="(n)->(n)", vectorized="rows", numpy_grad=lambda op, g: g - g.mean(0)
        ),
        "check_batching",
        says="differs",
    ),
    *(
        Wrong(
            f"a size function for another count, {check}",
            differentiable_op(
                lambda x: np.concatenate([x, x], -1),
                signature="(n)->(k)",
                sizes={"k": lambda n: 2 * n + 1},
                numpy_grad=lambda op, g: sum(np.split(g, 2, -1)),
            ),
            check,
            says="output 0 has the wrong shape",
        )
        for check in ("check_contract", "check_gradient")
    ),
    Wrong(
        "None where UNDEFINED belongs",
        differentiable_op(
            lambda x, y: x * np.arctan(y),
            signature="(),()->()",
            domain="[-3, 3]",
            numpy_grad=lambda op, g: (g * np.arctan(op.inputs[1]), None),
        ),
        says="Likely:   the rule returns None or zeros",
    ),
    Wrong(
        "no derivative by the other input",
        differentiable_op(
            lambda x, y: x * y,
            signature="(),()->()",
            non_differentiable=("y",),
            grad=lambda op, g: (g * op.inputs[0], None),
        ),
        says="the cotangent of input 0",
    ),
]

SURROGATES = [
    Wrong(
        f"a surrogate that clips the cotangent, {check}",
        differentiable_op(
            lambda x: np.round(x),
            signature="()->()",
            surrogate=True,
            grad=lambda op, g: tf.clip_by_value(g, -0.5, 0.5),
        ),
        check,
        says="is not linear in the cotangents of the outputs",
    )
    for check in ("check_gradient", "check_linearity")
]
SURROGATES += [
    Wrong(
        f"a surrogate with the magnitude of the tangent, {check}",
        differentiable_op(
            lambda x: np.sign(x),
            signature="()->()",
            surrogate=True,
            grad=lambda op, g: g,
            jvp=lambda op, t: tf.abs(t),
        ),
        check,
        says="is not linear in the tangents of the inputs",
    )
    for check in ("check_jvp", "check_linearity")
]

_WEIGHTS = np.array([[0.1, 0.7], [0.3, 1.3]])
_ROUNDED_WEIGHTS = _WEIGHTS.astype(np.float32)


def _in_float32(op, g):
    return tf.cast(tf.cos(tf.cast(op.inputs[0], tf.float32)), g.dtype) * g


def _other_sign_in_float32(op, g):
    return (-1 if g.dtype == np.float32 else 1) * g * np.cos(op.inputs[0])


def _tangent_in_float32(op, t):
    return t.astype(np.float32) * np.cos(op.inputs[0])


def _overflows(op, g):
    x, y = op.inputs
    length = np.sqrt(x * x + y * y)
    return g * x / length, g * y / length


PRECISION = [
    Wrong(
        how,
        differentiable_op(function, signature=signature, **rule),
        "check_precision",
        options,
        says,
    )
    for how, function, signature, rule, options, says in [
        (
            "the gradient is computed in float32",
            lambda x: np.sin(x),
            "()->()",
            {"grad": _in_float32},
            {},
            "the cotangent of input 0 (x) has only single precision in float64",
        ),
        (
            "tf.cast rounds a constant to float32",
            lambda x: 0.1 * x * x,
            "()->()",
            {"grad": lambda op, g: tf.cast(0.2, g.dtype) * op.inputs[0] * g},
            {},
            "a constant of the rule is rounded to single precision",
        ),
        (
            "the weights of a numpy rule are in float32",
            lambda x: x @ _WEIGHTS.T,
            "(2)->(2)",
            {"numpy_grad": lambda op, g: g @ _ROUNDED_WEIGHTS},
            {},
            "a part of the rule computes in float32, or has constants in float32",
        ),
        (
            "the cotangent is rounded to float32",
            lambda x: np.sin(x),
            "()->()",
            {"numpy_grad": lambda op, g: g.astype("f4") * np.cos(op.inputs[0])},
            {},
            "the cotangent of input 0 (x) has only single precision in float64",
        ),
        (
            "the tangent is rounded to float32",
            lambda x: np.sin(x),
            "()->()",
            {"numpy_jvp": _tangent_in_float32},
            {},
            "the tangent of the outputs has only single precision in float64",
        ),
        (
            "another sign in float32",
            lambda x: np.sin(x),
            "()->()",
            {"numpy_grad": _other_sign_in_float32},
            {},
            "the cotangent of input 0 (x) has no correct digits in float32",
        ),
        (
            "a constant in float64 in a rule in TensorFlow",
            lambda x: x * x,
            "()->()",
            {"grad": lambda op, g: tf.constant(2.0, tf.float64) * op.inputs[0] * g},
            {},
            "the gradient rule raises in float32",
        ),
        (
            "a square that overflows in float16",
            lambda x, y: np.hypot(x, y),
            "(),()->()",
            {"numpy_grad": _overflows},
            {"domain": "[300, 1000]", "dtypes": ["float64"], "allow_empty": False},
            "has no correct digits in float16",
        ),
        (
            "a quotient of powers that overflows in float16",
            lambda x: np.log(x),
            "()->()",
            {"numpy_grad": lambda op, g: g * op.inputs[0] ** 4 / op.inputs[0] ** 5},
            {"domain": "[20, 100]", "dtypes": ["float64"], "allow_empty": False},
            "the cotangent of input 0 (x) is not finite in float16",
        ),
        (
            "a difference in which all digits cancel in float16",
            lambda x: x**3 / 3,
            "()->()",
            {"numpy_grad": lambda op, g: g * ((op.inputs[0] + 1) ** 2 - 2 * op.inputs[0] - 1)},
            {"domain": "[0.01, 0.03]", "dtypes": ["float64"], "allow_empty": False},
            "the cotangent of input 0 (x) has no correct digits in float16",
        ),
    ]
]


def _called_again():
    op = differentiable_op(lambda x: np.exp(x), signature="()->()", domain="[-3, 3]")
    op.gradient(lambda of_call, g: g * op(of_call.inputs[0]))
    return op


def _function_called_again():
    def function(x):
        return np.tanh(x)

    op = differentiable_op(function, signature="()->()")
    op.numpy_gradient(lambda of_call, g: g * (1 - function(of_call.inputs[0]) ** 2))
    return op


def _called_again_for_each_row():
    def function(x):
        return np.exp(x).sum()

    op = differentiable_op(function, signature="(n)->()", vectorized=False, domain="[-3, 3]")
    op.numpy_gradient(lambda of_call, g: g * np.exp(of_call.inputs[0]) * (function(of_call.inputs[0]) > 0))
    return op


def _called_again_by_a_jacobian():
    op = differentiable_op(lambda x: np.exp(x), signature="()->()", domain="[-3, 3]")
    op.jacobian(lambda of_call: op(of_call.inputs[0]))
    return op


def _called_again_by_a_jvp():
    op = differentiable_op(
        lambda x: np.exp(x), signature="()->()", domain="[-3, 3]", grad=lambda of, g: g * of.outputs[0]
    )
    op.jvp(lambda of_call, t: t * op(of_call.inputs[0]))
    return op


def _called_again_for_one_input():
    op = differentiable_op(lambda x, y: x * np.exp(y), signature="(),()->()", domain="[1, 3]")

    @op.gradient
    def rule(of_call, g):
        x, y = of_call.inputs
        if of_call.needs[0] and not of_call.needs[1]:
            return g * op(x, y) / x, None
        return g * of_call.outputs[0] / x, g * of_call.outputs[0]

    return op


def _rule_called_twice():
    op = differentiable_op(lambda x: x * x, signature="()->()")

    @op.numpy_gradient
    def rule(of_call, g, is_half=False):
        return g * of_call.inputs[0] if is_half else 2 * rule.numpy(of_call, g, True)

    return op


COSTS = [
    Wrong(how, op, "check_cost", says=says)
    for how, op, says in [
        ("a rule calls its op again", _called_again(), "a gradient calls the function again for the same inputs"),
        (
            "a numpy rule calls the function again",
            _function_called_again(),
            "a gradient calls the function again for the same inputs",
        ),
        (
            "a rule of single rows calls the function again",
            _called_again_for_each_row(),
            "a gradient calls the function again for the same inputs",
        ),
        (
            "a Jacobian rule calls its op again",
            _called_again_by_a_jacobian(),
            "a gradient calls the function again for the same inputs",
        ),
        (
            "a JVP rule calls its op again",
            _called_again_by_a_jvp(),
            "a JVP calls the function again for the same inputs",
        ),
        (
            "a rule calls its op again where one cotangent is needed",
            _called_again_for_one_input(),
            "a gradient by input 0 (x) calls the function again for the same inputs",
        ),
        ("a rule that calls itself", _rule_called_twice(), "a gradient calls the rule rule more than once"),
    ]
]


def _peak_gradient(op, g):
    x = op.inputs[0]
    return 2 * g * x * (1 + 1e-3 / (1 + (x - 741.5) ** 2) ** 2)  # below the tolerance, except near the peak


PEAKS = [
    Wrong(
        "an error with a narrow peak",
        differentiable_op(lambda x: x * x, signature="()->()", numpy_grad=_peak_gradient),
        is_thorough=True,
    ),
]

WRONG = [
    *(*GRADIENTS, *JACOBIANS, *JVPS, *SPARSITIES, *SECOND, *WEIGHTS, *EQUATIONS),
    *(*CALLS, *NEEDS, *OBJECTS, *ADJOINTS, *POINTS, *STATES, *LINEARITY, *DECLARATIONS, *SURROGATES),
    *(*PRECISION, *COSTS, *PEAKS),
]
