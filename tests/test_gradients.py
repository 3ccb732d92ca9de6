"""Gradients, in every way TensorFlow takes them: those of the same function in TensorFlow ops, or a clear error."""

import numpy as np
import pytest
import tensorflow as tf

from tests import modes, ops
from tfpyop import CoercionError, ContractError, GradientError, RegistrationError, differentiable_op

X = np.float32([1, 2, 3])
every_gradient_mode = pytest.mark.parametrize("mode", modes.GRADIENT_MODES)


def with_rules(function, rule, **options):
    """The same op twice: the rule in TensorFlow ops and in numpy. The rule uses operators only."""
    return [differentiable_op(function, grad=rule, **options), differentiable_op(function, numpy_grad=rule, **options)]


@pytest.mark.parametrize(
    ("mode", "good"),
    [(mode, good) for mode in modes.GRADIENT_MODES for good in ops.GOOD if good.op.signature or "XLA" not in mode],
    ids=str,
)
def test_the_gradient_equals_that_of_the_native_twin(mode, good):
    result = modes.gradient(mode, good.op, *good.inputs)
    expected = modes.gradient("tape, eager", good.native, *good.inputs)
    for gradient, wanted, primal in zip(result, expected, good.inputs, strict=True):
        if wanted is None:
            assert gradient is None
        else:
            np.testing.assert_allclose(gradient, wanted, rtol=1e-4, atol=1e-5)
            assert (gradient.dtype, gradient.shape) == (primal.dtype, primal.shape)


@every_gradient_mode
@pytest.mark.parametrize("kind", [0, 1], ids=["tensorflow", "numpy"])
def test_broadcast_cotangents_are_summed_over_loop_dimensions(mode, kind):
    op = with_rules(lambda x, y: x * y, lambda op, g: (g * op.inputs[1], g * op.inputs[0]), signature="(),()->()")[kind]
    x, y = np.float32([[1, 2, 3]]), np.float32([[1], [2]])
    gradients = modes.gradient(mode, op, x, y)
    np.testing.assert_array_equal(gradients[0], [[3, 3, 3]])
    np.testing.assert_array_equal(gradients[1], [[6], [6]])


@every_gradient_mode
@pytest.mark.parametrize("kind", [0, 1], ids=["tensorflow", "numpy"])
def test_a_cotangent_of_another_dtype_is_cast_to_the_primals(mode, kind):
    def rule(op, g):
        return g.astype(np.float64) if isinstance(g, np.ndarray) else tf.cast(g, tf.float64)

    op = with_rules(lambda x: x, rule, signature="()->()")[kind]
    assert modes.gradient(mode, op, X)[0].dtype == np.float32


@pytest.mark.parametrize("kind", [0, 1], ids=["tensorflow", "numpy"])
def test_a_cotangent_too_large_for_its_primal_is_an_error(kind):
    def rule(op, g):
        return 1e300 * (g.astype(np.float64) if isinstance(g, np.ndarray) else tf.cast(g, tf.float64))

    op = with_rules(lambda x: x, rule, signature="()->()")[kind]
    with pytest.raises(CoercionError, match="the cotangent of input 0 has a finite value outside the range of float32"):
        modes.gradient("tape, eager", op, X)


@every_gradient_mode
def test_none_from_a_rule_is_no_dependence(mode):
    op = differentiable_op(lambda x, y: x, grad=lambda op, g: (g, None), signature="(),()->()")
    assert modes.gradient(mode, op, X, X)[1] is None


@every_gradient_mode
def test_none_from_a_numpy_rule_is_zero(mode):
    op = differentiable_op(lambda x, y: x, numpy_grad=lambda op, g: (g, None), signature="(),()->()")
    assert modes.gradient(mode, op, X, X)[1].tolist() == [0, 0, 0]


@every_gradient_mode
def test_non_differentiable_ops_have_no_gradient_as_declared(mode):
    op = differentiable_op(np.floor, non_differentiable=True)
    assert modes.gradient(mode, op, X) == [None]


@pytest.mark.parametrize(
    ("mode", "signature"),
    [
        *((mode, "()->()") for mode in modes.GRADIENT_MODES),
        *((mode, None) for mode in modes.GRADIENT_MODES_WITHOUT_XLA),
    ],
)
def test_an_op_without_a_rule_raises(mode, signature):
    op = differentiable_op(lambda x: x * 2, signature=signature)
    with pytest.raises(GradientError, match="cannot compute the gradient: the op has no gradient rule"):
        modes.gradient(mode, op, X)


@every_gradient_mode
def test_integer_inputs_need_no_rule(mode):
    op = differentiable_op(lambda x: x * 2, signature="()->()")
    assert modes.gradient(mode, op, np.int32([1, 2])) == [None]


@every_gradient_mode
def test_integer_outputs_need_no_rule(mode):
    op = differentiable_op(lambda x: x > 1, signature="()->()", dtype=bool)
    assert modes.gradient(mode, lambda x: tf.cast(op(x), tf.float32), X) == [None]


@every_gradient_mode
def test_outputs_that_nothing_depends_on_have_zero_cotangents(mode):
    result = modes.gradient(mode, lambda x: ops.sine_and_cosine(x)[1], X)
    np.testing.assert_allclose(result[0], -np.sin(X), rtol=1e-6)


@every_gradient_mode
@pytest.mark.parametrize("kind", [0, 1], ids=["tensorflow", "numpy"])
@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (lambda op, g: (g, g), "returned the wrong number of cotangents"),
        (lambda op, g: g[:2], "the cotangent of input 0 has the wrong shape"),
        (lambda op, g: g[0], "the cotangent of input 0 has the wrong shape"),
    ],
)
def test_a_wrong_cotangent_is_an_error(mode, kind, rule, message):
    op = with_rules(lambda x: x, rule, signature="()->()")[kind]
    with pytest.raises((ContractError, tf.errors.InvalidArgumentError), match=message):
        modes.gradient(mode, op, X)


@pytest.mark.parametrize("mode", ["tape inside, unknown shapes", "tape, eager"])
def test_without_a_signature_only_the_primals_shape_will_do(mode):
    op = differentiable_op(lambda x, y: x * y, grad=lambda op, g: (g, g))
    with pytest.raises(
        (ContractError, tf.errors.InvalidArgumentError), match="cotangent of input 1 has the wrong shape"
    ):
        modes.gradient(mode, op, X, X[:1])


@pytest.mark.parametrize("mode", modes.MODES)
def test_gradients_pass_through_loops(mode):
    def gradient(square):
        def differentiate(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                most = 3 if mode in modes.XLA_MODES else None
                loop = tf.while_loop(
                    lambda i, _: i < 3, lambda i, y: [i + 1, 0.5 * square(y)], [0, x], maximum_iterations=most
                )
                y = loop[1]
            return tape.gradient(y, x)

        return differentiate

    np.testing.assert_allclose(modes.call(mode, gradient(ops.power), X), modes.call(mode, gradient(tf.square), X))


CONTROL_FLOW = {
    "cond": lambda op, x: tf.cond(tf.reduce_sum(x) > 0, lambda: op(x), lambda: x),
    "scan": lambda op, x: tf.scan(lambda state, element: op(state) * 0.1 + element, x),
    "map_fn": lambda op, x: tf.map_fn(op, x),
    "nested function": lambda op, x: op(tf.function(op)(x)),
}


@pytest.mark.parametrize(
    ("mode", "within"),
    [
        (mode, within)
        for mode in modes.MODES
        for within in CONTROL_FLOW
        if (mode, within) != ("XLA, unknown sizes", "cond")  # XLA gives custom calls nothing that a branch may lack
    ],
)
def test_gradients_pass_through_control_flow(mode, within):
    within = CONTROL_FLOW[within]

    def gradient(square):
        def differentiate(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = within(square, x)
            return tape.gradient(y, x)

        return differentiate

    numpy_square = differentiable_op(np.square, numpy_grad=lambda op, g: 2 * g * op.inputs[0])
    expected = modes.call(mode, gradient(tf.square), X)
    for op in (ops.power, numpy_square):
        np.testing.assert_allclose(modes.call(mode, gradient(op), X), expected, rtol=1e-6)


def test_gradients_pass_through_autograph_loops():
    @tf.function
    def function(x):
        for _ in tf.range(3):
            if tf.reduce_sum(x) < 1e6:
                x = ops.power(x) * 0.5
        return x

    assert modes.gradient("tape outside", function, X)[0].tolist() == [0.0625, 8, 136.6875]


def test_tapes_inside_and_outside_give_second_derivatives():
    @tf.function
    def first(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = ops.power(x, exponent=3)
        return tape.gradient(y, x)

    assert modes.gradient("tape outside", first, X)[0].tolist() == [6, 12, 18]


def test_gradients_reach_variables_in_a_training_step():
    weight = tf.Variable(3.0)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = ops.power(weight - 1.0)
        weight.assign_sub(0.25 * tape.gradient(loss, weight))

    for _ in range(3):
        step()
    assert weight.numpy() == 1.25


def test_sliced_cotangents_are_made_dense():
    result = modes.gradient("tape inside", lambda x: tf.gather(ops.power(x), [0, 0, 2]), X)
    assert result[0].tolist() == [4, 0, 6]


def test_static_arguments_are_visible_to_numpy_rules():
    op = differentiable_op(lambda x, *, k=3: k * x, signature="()->()", numpy_grad=lambda op, g: op.static["k"] * g)
    assert modes.gradient("tape inside", op, X)[0].tolist() == [3, 3, 3]
    assert modes.gradient("tape inside", lambda x: op(x, k=5), X)[0].tolist() == [5, 5, 5]


@every_gradient_mode
def test_rules_of_methods_take_self(mode):
    class Scale:
        def __init__(self, factor):
            self.factor = factor

        @differentiable_op(signature="()->()")
        def plain(self, x):
            return self.factor * x

        @plain.gradient
        def plain_gradient(self, op, cotangent):
            return self.factor * cotangent

        @differentiable_op(signature="()->()")
        def arrays(self, x):
            return self.factor * x

        @arrays.numpy_gradient
        def arrays_gradient(self, op, cotangent):
            return self.factor * cotangent

    two, three = Scale(2), Scale(3)
    assert modes.gradient(mode, lambda x: two.plain(x) + 10 * three.arrays(x), X)[0].tolist() == [32, 32, 32]


def test_the_op_of_a_numpy_rule_is_callable_and_differentiable():
    assert ops.numpy_mod_gradient(5.0, 2.0, 1.0, 1.0)[1].numpy() == -2
    op = differentiable_op(lambda x: x**3, signature="()->()")

    @op.numpy_gradient
    def first(op, cotangent):
        return 3 * op.inputs[0] ** 2 * cotangent

    @first.numpy_gradient
    def second(op, cotangent):
        x, _, first_cotangent = op.inputs
        return 6 * x * first_cotangent * cotangent, None, 3 * x**2 * cotangent

    @second.gradient
    def third(op, *cotangents):
        _, _, first_cotangent, _, second_cotangent = op.inputs
        return 6 * first_cotangent * second_cotangent * cotangents[0], None, None, None, None

    def derivative(function):
        return lambda x: modes._with_tape(function, x)[0]

    assert modes.call("graph", derivative(derivative(op)), X).tolist() == [6, 12, 18]
    assert modes.call("eager", derivative(derivative(derivative(op))), X).tolist() == [6, 6, 6]


def test_second_order_through_a_numpy_rule_without_a_rule_raises():
    def derivative(function):
        return lambda x: modes._with_tape(function, x)[0]

    op = differentiable_op(lambda x: x**3, signature="()->()", numpy_grad=lambda op, g: 3 * op.inputs[0] ** 2 * g)
    with pytest.raises(GradientError, match="cannot compute a second derivative: this numpy rule has"):
        derivative(derivative(op))(tf.constant(X))


def test_an_op_takes_one_rule():
    op = differentiable_op(lambda x: x, name="tests.one_rule", grad=lambda op, g: g)
    with pytest.raises(
        RegistrationError, match=r"the op already has such a rule, defined at tests/test_gradients\.py:\d+"
    ):
        op.numpy_gradient(lambda op, g: g)


def test_a_rule_on_a_bound_method_is_refused():
    class Model:
        @differentiable_op
        def function(self, x):
            return x

    with pytest.raises(RegistrationError, match="attached to a bound method, which does not keep it"):
        Model().function.gradient(lambda op, g: g)


@differentiable_op(signature="(n)->()", vectorized=False)
def cubes(x):
    assert x.ndim == 1
    return np.sum(x**3)


@cubes.numpy_gradient
def cubes_gradient(op, grad):
    return 3 * op.inputs[0] ** 2 * grad


@cubes_gradient.numpy_gradient
def cubes_second(op, grad):
    x, _, cotangent = op.inputs
    assert x.ndim == 1
    assert cotangent.ndim == 0
    return 6 * x * cotangent * grad, None, np.sum(3 * x**2 * grad)


@pytest.mark.parametrize("rows", [2, 3])  # 3 is also the size of a row
def test_the_rule_of_a_rule_is_called_with_core_dimensions_too(rows):
    def norm_of_gradient(total, x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(total(x) ** 2)
        return tf.reduce_sum(tape.gradient(loss, x) ** 2)

    x = np.random.default_rng(0).normal(size=(rows, 3)).astype(np.float32)
    expected = modes.gradient("tape, eager", lambda x: norm_of_gradient(lambda x: tf.reduce_sum(x**3, -1), x), x)
    for mode in ("tape, eager", "tape inside", "tape inside, XLA"):
        [gradient] = modes.gradient(mode, lambda x: norm_of_gradient(cubes, x), x)
        np.testing.assert_allclose(gradient, expected[0], rtol=1e-4)


@differentiable_op(signature="(n),(n),()->()", vectorized=False)
def scaled_product(x, w, s):
    return np.dot(x, w) * s


@scaled_product.numpy_gradient
def scaled_product_gradient(op, grad):
    x, w, s = op.inputs
    return grad * w * s, grad * x * s, grad * np.dot(x, w)


@pytest.mark.parametrize("mode", modes.GRADIENT_MODES)
def test_gradients_of_no_rows_have_the_shapes_of_their_inputs(mode):
    inputs = [np.ones((0, 3), np.float32), np.ones(3, np.float32), np.float32(1)]
    gradients = modes.gradient(mode, scaled_product, *inputs)
    assert [np.shape(gradient) for gradient in gradients] == [(0, 3), (3,), ()]
    assert not np.any(gradients[2])
