"""Ops that saved models call, in a module that other processes import."""

import numpy as np
import tensorflow as tf

from tfpyop import differentiable_op


@differentiable_op(signature="()->()")
def plain(x):
    return np.floor(x)


@differentiable_op(signature="()->()")
def square(x):
    return x * x


@square.gradient
def square_gradient(op, grad):
    return 2 * op.inputs[0] * grad


@differentiable_op(signature="()->()")
def cube(x):
    return x**3


@cube.numpy_gradient
def cube_gradient(op, grad):
    return 3 * op.inputs[0] ** 2 * grad


@cube_gradient.numpy_gradient
def cube_second(op, grad):
    x, _, first = op.inputs
    return 6 * x * first * grad, None, 3 * x**2 * grad


@differentiable_op(signature="(n)->(n)", grad="numerical")
def sine(x):
    return np.sin(x)


@differentiable_op(signature="()->()", residuals={"root": ("()", np.float32)})
def rooted(x, *, power: int = 1):
    root = np.sqrt(x)
    return root**power, {"root": root}


@rooted.gradient
def rooted_gradient(op, grad):
    root, power = op.residuals.root, op.static.power
    return grad * power * root ** (power - 1) / (2 * root)


@differentiable_op(signature="(),()->()")
def hypotenuse(x, y, *, scale: float = 1.0):
    return scale * np.hypot(x, y)


@hypotenuse.numpy_gradient
def hypotenuse_gradient(op, grad):
    (x, y), length, scale = op.inputs, op.outputs[0], op.static.scale
    inverse = scale**2 / np.where(length == 0, 1, length)
    return grad * x * inverse, grad * y * inverse


@differentiable_op(signature="()->()", non_differentiable=True)
def first_of(x, *, choice, label="none"):
    first, named = choice
    return x + (first if isinstance(choice, tuple) and isinstance(named["a"], tuple) and label is None else 10)


@differentiable_op(signature="(),()->()")
def weighted(x, y):
    return x * x * y


@weighted.numpy_gradient
def weighted_gradient(op, grad):
    x, y = op.inputs
    return 2 * x * y * grad if op.needs[0] else None, x * x * grad if op.needs[1] else None


@weighted_gradient.gradient
def weighted_second(op, by_x, by_y):
    x, y, _, grad = op.inputs
    return (by_x * 2 * y + by_y * 2 * x) * grad, by_x * 2 * x * grad, None, by_x * 2 * x * y + by_y * x * x


@differentiable_op(signature="(),()->()")
def scaled(x, factor):
    return x * np.sin(factor)


@scaled.numpy_adjoint(linear_in="x")
def scaled_adjoint(op, grad):
    return grad * np.sin(op.inputs[1])


@scaled.gradient(wrt="factor")
def scaled_by_factor(op, grad):
    return grad * op.inputs[0] * tf.cos(op.inputs[1])


@differentiable_op(signature="(),()->()")
def split(x, y):
    return x * y


@split.numpy_gradient(wrt="x")
def split_by_x(op, grad):
    return op.inputs[1] * grad


@split.numpy_gradient(wrt="y")
def split_by_y(op, grad):
    return op.inputs[0] * grad


@differentiable_op(signature="(),()->()")
def product_with_jacobian(x, y):
    return x * y


@product_with_jacobian.jacobian
def product_jacobian(op):
    x, y = op.inputs
    return y, x


@differentiable_op(signature="(),()->()")
def product_with_numpy_jacobian(x, y):
    return x * y


@product_with_numpy_jacobian.numpy_jacobian
def product_numpy_jacobian(op):
    x, y = op.inputs
    return y, x


@differentiable_op(signature="(n,d)->(k)", sizes={"k": lambda d, *, degree: d * degree})
def moments(x, *, degree=2):
    return np.concatenate([np.sum(x**power, axis=-2) for power in range(1, degree + 1)], axis=-1)


@moments.numpy_gradient
def moments_gradient(op, cotangent):
    (x,), d = op.inputs, op.inputs[0].shape[-1]
    parts = [cotangent[..., None, power * d : (power + 1) * d] for power in range(op.static.degree)]
    return sum((power + 1) * x**power * part for power, part in enumerate(parts))


@differentiable_op(signature="(),()->()", non_differentiable=("gamma",))
def threshold(x, gamma):
    return np.where(x > gamma, x * gamma, x)


@threshold.numpy_gradient
def threshold_gradient(op, cotangent):
    x, gamma = op.inputs
    return np.where(x > gamma, gamma, 1) * cotangent, None


@differentiable_op(signature="(n,n),(n)->(n)", vectorized="rows", residuals={"inverse": ("(n,n)", None)})
def solved_rows(a, b):
    assert (a.ndim, b.ndim) == (3, 2)
    assert len(a) == len(b)
    inverse = np.stack([np.linalg.inv(row) for row in a])
    return np.einsum("bij,bj->bi", inverse, b), {"inverse": inverse}


@solved_rows.numpy_gradient
def solved_rows_gradient(op, cotangent):
    assert cotangent.shape == op.inputs[1].shape
    by_b = np.einsum("bji,bj->bi", op.residuals.inverse, cotangent)
    return -by_b[:, :, None] * op.outputs[0][:, None, :], by_b


def product_jvp(op, x_tangent, y_tangent):
    x, y = op.inputs
    return x_tangent * y + x * y_tangent


product_from_numpy_jvp = differentiable_op(
    lambda x, y: x * y, signature="(),()->()", grad="from-jvp", numpy_jvp=product_jvp, name="tests.saved.from_numpy_jvp"
)
product_from_tensorflow_jvp = differentiable_op(
    lambda x, y: x * y, signature="(),()->()", grad="from-jvp", jvp=product_jvp, name="tests.saved.from_tensorflow_jvp"
)


@differentiable_op(signature="(n),(n)->(n)", jvp="from-vjp")
def total_product(x, y):
    return x * y


@total_product.numpy_gradient
def total_product_gradient(op, grad):
    x, y = op.inputs
    return grad * y, grad * x


@differentiable_op(signature="(),()->()")
def product_with_implicit(x, y):
    return x * y


@product_with_implicit.implicit
def product_equation(op):
    (x, y), (z,) = op.inputs, op.outputs
    return z**2 - x**2 * y**2


@differentiable_op(signature="(),()->()")
def product_with_implicit_by_cg(x, y):
    return x * y


@product_with_implicit_by_cg.implicit(solve="cg")
def product_equation_by_cg(op):
    return op.outputs[0] - op.inputs[0] * op.inputs[1]


@differentiable_op(signature="(),()->()")
def product_with_stationary(x, y):
    return x * y


@product_with_stationary.stationary
def product_objective(op):
    return (op.outputs[0] - op.inputs[0] * op.inputs[1]) ** 2


@differentiable_op(signature="(n),(n)->(n)", residuals={"divide": object})
def divided(x, y):
    def divide(values):
        return values / y

    return divide(x), {"divide": divide}


@divided.numpy_gradient
def divided_gradient(op, grad):
    by_x = op.residuals.divide(grad)
    return by_x, -by_x * op.outputs[0]


@differentiable_op(signature="(),()->()")
def difference(x, y):
    return x - 2 * y


@difference.numpy_adjoint
def difference_adjoint(op, grad):
    return grad, -2 * grad


@differentiable_op(signature="(n),()?,(n)?->(n)")
def scaled_sine(x, scale=None, slope=None):
    y = np.sin(x)
    if scale is not None:
        y = y * scale[..., None]
    return y if slope is None else y + slope * x


@scaled_sine.numpy_gradient
def scaled_sine_gradient(op, cotangent):
    x, scale, slope = op.inputs
    by_x = np.cos(x) if scale is None else np.cos(x) * scale[..., None]
    return (
        cotangent * (by_x if slope is None else by_x + slope),
        None if scale is None else (cotangent * np.sin(x)).sum(-1),
        None if slope is None else cotangent * x,
    )


@scaled_sine.numpy_jvp
def scaled_sine_jvp(op, by_x, by_scale, by_slope):
    x, scale, slope = op.inputs
    y = np.cos(x) * by_x
    if scale is not None:
        y = y * scale[..., None] + np.sin(x) * by_scale[..., None]
    return y if slope is None else y + slope * by_x + by_slope * x


@differentiable_op(signature="(m),(n)*->(n)")
def weighted_sum(weights, *vectors):
    return sum(weights[..., number, None] * vector for number, vector in enumerate(vectors))


@weighted_sum.gradient
def weighted_sum_gradient(op, cotangent):
    weights, *vectors = op.inputs
    by_weights = tf.stack([tf.reduce_sum(cotangent * vector, -1) for vector in vectors], -1)
    return by_weights, *[weights[..., number, None] * cotangent for number in range(len(vectors))]
