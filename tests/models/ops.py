"""The ops that the models in this directory call. Models hold their names, so change neither names nor mathematics."""

import numpy as np
import tensorflow as tf

from tfpyop import differentiable_op


@differentiable_op(signature="()->()")
def square(x):
    return x * x


@square.gradient
def square_gradient(op, cotangent):
    return 2 * op.inputs[0] * cotangent


@differentiable_op(signature="()->()")
def cube(x):
    return x**3


@cube.numpy_gradient
def cube_gradient(op, cotangent):
    return 3 * op.inputs[0] ** 2 * cotangent


@cube_gradient.numpy_gradient
def cube_second(op, cotangent):
    x, _, first = op.inputs
    return 6 * x * first * cotangent, None, 3 * x**2 * cotangent


@differentiable_op(signature="(n)->(n)", grad="numerical")
def sine(x):
    return np.sin(x)


@differentiable_op(signature="(n),(n)->()", name="lab.dot")
def dot(x, y):
    return (x * y).sum(-1)


@dot.gradient
def dot_gradient(op, cotangent):
    x, y = op.inputs
    return cotangent[..., None] * y, cotangent[..., None] * x


@differentiable_op(signature="()->()")
def scaled(x, *, factor: float = 2.0, options=None):
    return factor * (options or {"by": (1, [1.0])})["by"][1][0] * x


@scaled.numpy_gradient
def scaled_gradient(op, cotangent):
    return scaled.numpy(cotangent, factor=op.static.factor, options=op.static.options)


@differentiable_op(signature="()->()", residuals={"root": ("()", np.float32)})
def rooted(x, *, power: int = 1):
    root = np.sqrt(x)
    return root**power, {"root": root}


@rooted.numpy_gradient
def rooted_gradient(op, cotangent):
    root, power = op.residuals.root, op.static.power
    return cotangent * power * root ** (power - 1) / (2 * root)


@differentiable_op(signature="(n),()->(n)")
def rolled(x, places):
    return np.vectorize(np.roll, signature="(n),()->(n)")(x, places)


@rolled.numpy_gradient
def rolled_gradient(op, cotangent):
    return rolled.numpy(cotangent, -op.inputs[1]), None


@differentiable_op(signature="(),()->(),()", dtype={"total": None, "difference": None})
def both(pair):
    return {"total": pair["a"] + pair["b"], "difference": pair["a"] - pair["b"]}


@both.gradient
def both_gradient(op, total, difference):
    return total + difference, total - difference


@differentiable_op(signature="(n)->()", vectorized=False)
def norm(x):
    assert x.ndim == 1
    return np.linalg.norm(x)


@norm.numpy_gradient
def norm_gradient(op, cotangent):
    assert op.inputs[0].ndim == 1
    return cotangent * op.inputs[0] / op.outputs[0]


@differentiable_op(shape=lambda x, *, times=2: (*x[:-1], x[-1] * times))
def repeated(x, *, times: int = 2):
    return np.concatenate([x] * times, -1)


@repeated.gradient
def repeated_gradient(op, cotangent):
    return tf.add_n(tf.split(cotangent, op.static.times, -1))


@differentiable_op(signature="()->()", stateful=True)
def counted(x):
    return x + 1


@counted.gradient
def counted_gradient(op, cotangent):
    return cotangent


@differentiable_op(signature="()->()")
def floor(x):
    return np.floor(x)


@differentiable_op(signature="(),()->()", dtype=np.str_, non_differentiable=True)
def joined(x, y):
    return np.vectorize(lambda left, right: left + b"-" + right, otypes=[object])(x, y)


@differentiable_op(signature="()->()")
def forward(x):
    return x**2


@forward.numpy_jvp
def forward_jvp(op, tangent):
    return 2 * op.inputs[0] * tangent


@differentiable_op(signature="(n)->(n)")
def softmax(x):
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


@softmax.numpy_gradient
def softmax_gradient(op, cotangent):
    y = op.outputs[0]
    return y * (cotangent - (cotangent * y).sum(-1, keepdims=True))


@softmax.native
def softmax_native(x):
    return tf.nn.softmax(x)
