"""Adjoint rules: the derivatives of every order of ops that are linear in all or some of their inputs."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import modes, saved_ops
from tests.saved_derivatives import derivatives_when_loaded
from tests.test_transformations import gradient
from tfpyop import ContractError, GradientError, RegistrationError, differentiable_op
from tfpyop.testing import CheckError, check_adjoint, check_op

KINDS = ["adjoint", "numpy_adjoint"]
A = np.random.default_rng(0).normal(size=(2, 3))
X = np.array([1.0, 2.0, 3.0])


def matvec(kinds=("numpy_adjoint", "numpy_adjoint"), seen=None, **options):
    """A product that is linear in each factor, with one adjoint rule for each."""
    seen = [] if seen is None else seen

    def function(a, x):
        seen.append("function")
        return (a @ x[..., None])[..., 0]

    op = differentiable_op(function, signature="(m,n),(n)->(m)", **options)
    rules = {
        "adjoint": (
            lambda op, g: g[..., None] * tf.math.conj(op.inputs[1])[..., None, :],
            lambda op, g: tf.linalg.matvec(op.inputs[0], g, adjoint_a=True),
        ),
        "numpy_adjoint": (
            lambda op, g: (seen.append("by a"), g[..., None] * np.conj(op.inputs[1])[..., None, :])[1],
            lambda op, g: (seen.append("by x"), (np.conj(np.swapaxes(op.inputs[0], -1, -2)) @ g[..., None])[..., 0])[1],
        ),
    }
    for number, kind in enumerate(kinds):
        getattr(op, kind)(linear_in="ax"[number])(rules[kind][number])
    return op


def total(kind, seen=None, **options):
    """A cumulative sum, which is linear in its only input."""
    seen = [] if seen is None else seen
    op = differentiable_op(lambda x: (seen.append("function"), np.cumsum(x, -1))[1], signature="(n)->(n)", **options)

    def rule(op, g):
        seen.append("rule")
        if kind == "numpy_adjoint":
            return np.flip(np.cumsum(np.flip(g, -1), -1), -1)
        if g.dtype.is_complex:  # XLA has no cumulative sum of complex numbers
            return tf.complex(*(tf.cumsum(part(g), -1, reverse=True) for part in (tf.math.real, tf.math.imag)))
        return tf.cumsum(g, -1, reverse=True)

    getattr(op, kind)(rule)
    return op


def cumsum(x):
    return tf.cumsum(x, -1)


# -- values


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
@pytest.mark.parametrize("mode", modes.GRADIENT_MODES)
def test_the_gradient_is_the_adjoint(mode, dtype, kind):
    x = (X + (1j * X**2 if np.dtype(dtype).kind == "c" else 0)).astype(dtype)
    op = total(kind)

    def weighted(function):
        return lambda x: tf.math.real(function(x) * tf.constant((1 + 2j) if x.dtype.is_complex else 2.0, x.dtype))

    found = modes.gradient(mode, weighted(op), x)
    expected = modes.gradient("tape, eager", weighted(cumsum), x)
    assert found[0].dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def derivatives(function, order):
    """All derivatives of this order of a function of two tensors, one after the other."""

    def of_order(a, x, order):
        if order == 0:
            return tf.reduce_sum(tf.abs(function(a, x)) ** 3)
        with tf.GradientTape() as tape:
            tape.watch([a, x])
            value = of_order(a, x, order - 1)
        by_a, by_x = tape.gradient(value, [a, x])
        return (
            tf.reduce_sum(tf.math.real(by_a) ** 2) + tf.reduce_sum(tf.math.imag(by_x * tf.cast(1j, by_x.dtype)) ** 2)
            if by_x.dtype.is_complex
            else tf.reduce_sum(by_a**2) + tf.reduce_sum(tf.sin(by_x))
        )

    return lambda a, x: of_order(a, x, order)


@pytest.mark.parametrize("kinds", list(itertools.product(KINDS, KINDS)), ids="-".join)
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("mode", ["eager", "graph", "XLA"])
@pytest.mark.parametrize("is_complex", [False, True], ids=["real", "complex"])
def test_derivatives_of_every_order_are_exact(is_complex, mode, order, kinds):
    a, x = (A + 1j * A**2, X - 1j * X) if is_complex else (A, X)
    found = modes.call(mode, derivatives(matvec(kinds), order), a, x)
    expected = modes.call("eager", derivatives(tf.linalg.matvec, order), a, x)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("kinds", list(itertools.product(KINDS, KINDS)), ids="-".join)
@pytest.mark.parametrize("varied", ["a", "x", "ax"])
@pytest.mark.parametrize("mode", ["eager", "graph", "XLA"])
def test_forward_over_reverse_is_exact(mode, varied, kinds):
    def differentiate(function, a, x):
        named = {"a": a, "x": x}
        primals = [named[name] for name in varied]
        with tf.autodiff.ForwardAccumulator(primals, [primal**2 for primal in primals]) as accumulator:
            with tf.GradientTape() as tape:
                tape.watch([a, x])
                y = tf.sin(function(a, x))
            found = tape.gradient(y, [a, x])
        return [accumulator.jvp(value) for value in found]

    op = matvec(kinds)
    found = modes.call(mode, lambda a, x: differentiate(op, a, x), A, X)
    expected = modes.call("eager", lambda a, x: differentiate(tf.linalg.matvec, a, x), A, X)
    for result, right in zip(found, expected, strict=True):
        np.testing.assert_allclose(result, right, rtol=1e-9)


@pytest.mark.parametrize("rule_of_other", ["gradient", "numpy_gradient"])
@pytest.mark.parametrize("mode", ["eager", "graph", "XLA"])
def test_the_adjoint_is_differentiated_by_inputs_that_are_not_linear(mode, rule_of_other):
    op = differentiable_op(lambda x, y: x * np.sin(y), signature="(),()->()")
    op.numpy_adjoint(lambda op, g: g * np.sin(op.inputs[1]), linear_in="x")
    cos = np.cos if rule_of_other == "numpy_gradient" else tf.cos
    getattr(op, rule_of_other)(lambda op, g: g * op.inputs[0] * cos(op.inputs[1]), wrt="y")

    def second(function, x, y):
        with tf.GradientTape() as outer:
            outer.watch([x, y])
            with tf.GradientTape() as tape:
                tape.watch(x)
                z = tf.sin(function(x, y))
            first = tape.gradient(z, x)
        return outer.gradient(first, [x, y])

    def forward(function, x, y):
        with tf.autodiff.ForwardAccumulator(y, x) as accumulator:
            with tf.GradientTape() as tape:
                tape.watch(x)
                z = function(x, y)
            first = tape.gradient(z, x)
        return [accumulator.jvp(first)]

    for differentiate in (second, forward) if rule_of_other == "gradient" else (second,):
        found = modes.call(mode, lambda x, y, d=differentiate: d(op, x, y), X, X**2)
        expected = modes.call("eager", lambda x, y, d=differentiate: d(lambda x, y: x * tf.sin(y), x, y), X, X**2)
        np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(), (0,), (2, 0), (2, 3)])
@pytest.mark.parametrize("mode", ["eager", "graph", "XLA"])
def test_empty_and_zero_dimensional_inputs(mode, shape, kind):
    op = differentiable_op(lambda x: 3 * x, signature="()->()")
    getattr(op, kind)(lambda op, g: 3 * g)

    def differentiate(x):
        with tf.autodiff.ForwardAccumulator(x, x) as accumulator, tf.GradientTape() as tape:
            tape.watch(x)
            y = op(x)
        return accumulator.jvp(y), tape.gradient(y, x)

    tangent, cotangent = modes.call(mode, differentiate, np.ones(shape))
    np.testing.assert_array_equal(tangent, 3 * np.ones(shape))
    np.testing.assert_array_equal(cotangent, 3 * np.ones(shape))


@pytest.mark.parametrize("kinds", [("adjoint", "numpy_adjoint"), ("numpy_adjoint", "adjoint")], ids="-".join)
@pytest.mark.parametrize("mode", ["eager", "graph", "XLA"])
def test_broadcast_loop_dimensions_are_summed(mode, kinds):
    a, x = np.stack([A, 2 * A, A - 1]), np.stack([X, 1 - X])[:, None]

    def differentiate(function, a, x):
        with tf.autodiff.ForwardAccumulator([a, x], [tf.sin(a), x**2]) as accumulator, tf.GradientTape() as tape:
            tape.watch([a, x])
            y = tf.sin(function(a, x))
        return [accumulator.jvp(y), *tape.gradient(y, [a, x])]

    op = matvec(kinds)
    found = modes.call(mode, lambda a, x: differentiate(op, a, x), a, x)
    expected = modes.call("eager", lambda a, x: differentiate(tf.linalg.matvec, a, x), a, x)
    for result, right in zip(found, expected, strict=True):
        np.testing.assert_allclose(result, right, rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["eager", "graph", "XLA"])
def test_integer_inputs_pass_through(mode, kind):
    op = differentiable_op(lambda x, n: np.roll(x, int(n), -1), signature="(n),()->(n)", vectorized=False)
    roll = np.roll if kind == "numpy_adjoint" else lambda g, n, axis: tf.concat([g[..., 1:], g[..., :1]], axis)
    getattr(op, kind)(lambda op, g: roll(g, -1, -1), linear_in="x")

    def differentiate(x):
        with tf.autodiff.ForwardAccumulator(x, x**2) as accumulator, tf.GradientTape() as tape:
            tape.watch(x)
            y = op(x, np.int32(1))
        return accumulator.jvp(y), tape.gradient(y, x, output_gradients=x)

    tangent, cotangent = modes.call(mode, differentiate, X)
    assert tangent.tolist() == [9, 1, 4]
    assert cotangent.tolist() == [2, 3, 1]


@pytest.mark.parametrize("mode", ["eager", "graph", "XLA"])
def test_residuals_reach_the_adjoint(mode):
    op = differentiable_op(
        lambda x: (2 * x, {"factor": np.full(x.shape, 2.0)}), signature="()->()", residuals={"factor": ("()", "f8")}
    )
    op.numpy_adjoint(lambda op, g: op.residuals.factor * g)

    def differentiate(x):
        with tf.autodiff.ForwardAccumulator(x, x) as accumulator, tf.GradientTape() as tape:
            tape.watch(x)
            y = gradient(lambda x: op(x) ** 2, x)
        return accumulator.jvp(y), tape.gradient(y, x)

    tangent, second = modes.call(mode, differentiate, X)
    np.testing.assert_array_equal(tangent, 8 * X * [1, 2, 3])
    np.testing.assert_array_equal(second, [8, 16, 24])


def test_keras_trains_through_an_adjoint():
    inputs = keras.Input((3,), dtype="float32")
    model = keras.Model(inputs, total("numpy_adjoint")(keras.layers.Dense(3)(inputs)))
    model.compile("sgd", "mse")
    before = model.get_weights()[0]
    model.fit(np.ones((4, 3), np.float32), np.zeros((4, 3), np.float32), verbose=0)
    assert not np.array_equal(before, model.get_weights()[0])


@pytest.mark.parametrize("is_compiled", [False, True])
def test_an_adjoint_is_loaded_in_another_process(tmp_path, is_compiled):
    def second(x, y):
        with tf.GradientTape() as outer:
            outer.watch([x, y])
            first = gradient_of(saved_ops.scaled, x, y)
        return outer.gradient(first, [x, y], unconnected_gradients="zero")

    def gradient_of(function, x, y):
        with tf.GradientTape() as tape:
            tape.watch(x)
            z = function(x, y) ** 2
        return tape.gradient(z, x)

    found = derivatives_when_loaded(tmp_path, saved_ops.scaled, second, is_compiled=is_compiled)
    x, y = np.float32([1, 2]), np.float32([3, 5])
    expected = [np.sin(y), x * np.cos(y), 2 * np.sin(y) ** 2, 2 * x * np.sin(2 * y)]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


# -- calls


def test_each_derivative_costs_one_call():
    seen = []
    op, x = total("numpy_adjoint", seen), tf.constant(X)
    with tf.autodiff.ForwardAccumulator(x, x) as accumulator:
        y = op(x)
    accumulator.jvp(y)
    assert seen == ["function", "function"]
    seen.clear()
    with tf.GradientTape() as outer:
        cotangent = tf.constant(X)
        outer.watch(cotangent)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = op(x)
        first = tape.gradient(y, x, output_gradients=cotangent)
    assert seen == ["function", "rule"]
    outer.gradient(first, cotangent)
    assert seen == ["function", "rule", "function"]


def test_a_jvp_and_a_mixed_derivative_cost_one_call_for_each_factor():
    seen = []
    op, a, x = matvec(seen=seen), tf.constant(A), tf.constant(X)
    with tf.autodiff.ForwardAccumulator([a, x], [a, x]):
        op(a, x)
    assert seen == ["function"] * 3
    seen.clear()
    with tf.GradientTape() as outer:
        outer.watch([a])
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = op(a, x)
        first = tape.gradient(y, x)
    seen.clear()
    outer.gradient(first, a)
    assert seen == ["function", "by a"]


@pytest.mark.parametrize("mode", ["eager", "graph", "XLA"])
def test_only_what_is_needed_is_computed(mode):
    seen = []
    op = matvec(seen=seen)

    def differentiate(a, x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = op(a, x)
        return tape.gradient(y, x)

    modes.call(mode, differentiate, A, X)
    assert seen == (["function", "by x"] if mode == "eager" else ["by x"])  # a graph drops the unused output


def test_needs_reach_the_rule():
    needs = []
    op = differentiable_op(lambda x, y: x - 2 * y, signature="(),()->()")
    op.numpy_adjoint(lambda op, g: (needs.append(op.needs), (g if op.needs[0] else None, -2 * g))[1])
    x = tf.constant(X)
    with tf.GradientTape() as tape:
        tape.watch(x)
        z = op(0 * X, x) ** 2
    np.testing.assert_array_equal(tape.gradient(z, x), 8 * X)
    assert needs == [(False, True)]


# -- inputs without a rule


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", modes.GRADIENT_MODES_WITHOUT_XLA)
def test_inputs_that_are_not_linear_may_be_constant(mode, kind):
    op = differentiable_op(lambda x, y: x * y**2, signature="(),()->()")
    getattr(op, kind)(lambda op, g: g * op.inputs[1] ** 2, linear_in="x")
    assert modes.gradient(mode, lambda x: op(x, tf.constant(X)), X)[0].tolist() == (X**2).tolist()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["tape, eager", "tape inside", "gradients"])
def test_the_derivative_by_inputs_without_a_rule_is_an_error(mode, kind):
    op = differentiable_op(lambda x, y: x * y**2, signature="(),()->()")
    getattr(op, kind)(lambda op, g: g * op.inputs[1] ** 2, linear_in="x")
    with pytest.raises((GradientError, tf.errors.InvalidArgumentError), match="no gradient rule is for 'y'"):
        modes.gradient(mode, op, X, X)


@pytest.mark.parametrize("mode", ["eager", "graph", "XLA"])
def test_a_second_derivative_by_an_input_without_a_rule_is_an_error_if_it_is_used(mode):
    op = differentiable_op(lambda x, y: x * y**2, signature="(),()->()")
    op.numpy_adjoint(lambda op, g: g * op.inputs[1] ** 2, linear_in="x")

    def second(x, y, source):
        with tf.GradientTape() as outer:
            outer.watch([x, y][source])
            with tf.GradientTape() as tape:
                tape.watch(x)
                z = op(x, y) ** 2
            first = tape.gradient(z, x)
        return outer.gradient(first, [x, y][source])

    found = modes.call(mode, lambda x: second(x, tf.constant(X), 0), X)
    np.testing.assert_allclose(found, 2 * X**4)
    with pytest.raises((GradientError, tf.errors.OpError), match="no gradient rule is for 'y'"):
        modes.call(mode, lambda x: second(x, tf.constant(X), 1), X)


def test_a_tangent_of_an_input_without_a_rule_is_an_error():
    op = differentiable_op(lambda x, y: x * y**2, signature="(),()->()")
    op.adjoint(lambda op, g: g * op.inputs[1] ** 2, linear_in="x")
    x = tf.constant(X)
    with pytest.raises(GradientError, match="no jvp rule is for 'y'"), tf.autodiff.ForwardAccumulator(x, x):
        op(x, x)


# -- wrong use


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("linear_in", "message"),
    [
        ("weigths", r"linear_in= names 'weigths', which is not a parameter.\n  Did you mean 'weights'"),
        (("data", "k"), r"linear_in= names 'k', which is a static parameter.\n  Only inputs have derivatives."),
        ((), r"linear_in= is invalid.\n  Expected: the name of a parameter, .*\n  Got:      \(\)"),
        (0, r"linear_in= is invalid.\n.*\n  Got:      0\n  Inputs of the op: 'weights', 'data'"),
    ],
)
def test_a_wrong_name_is_an_error(kind, linear_in, message):
    op = differentiable_op(lambda weights, data, *, k=1: weights * data, signature="(),()->()")
    with pytest.raises(RegistrationError, match=message):
        getattr(op, kind)(linear_in=linear_in)(lambda op, g: g)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["tape, eager", "tape inside", "tape inside, XLA"])
def test_an_integer_input_is_not_linear(mode, kind):
    op = differentiable_op(lambda x, n: x * n, signature="(),()->()")
    getattr(op, kind)(lambda op, g: (g * 2, None), linear_in=("x", "n"))
    message = r"linear_in= names 'n', .*\n  Expected: floating or complex inputs\n  Got:      int32\n  Remove 'n' from"
    with pytest.raises(GradientError, match=message):
        modes.gradient(mode, lambda x: op(x, np.int32(2)), X)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("other", ["gradient", "numpy_gradient", "jvp", "numpy_jvp", "adjoint", "numpy_adjoint"])
@pytest.mark.parametrize("is_first", [False, True])
def test_two_kinds_of_rules_for_the_same_derivative_are_an_error(kind, other, is_first):
    op = differentiable_op(lambda x, y: x + y, signature="(),()->()")
    first, second = (other, kind) if is_first else (kind, other)
    getattr(op, first)(lambda op, *vectors: vectors)
    kinds = [
        "adjoint rule" if "adjoint" in kind else "JVP rule" if "jvp" in kind else "gradient rule"
        for kind in (first, second)
    ]
    message = (
        r"the op already has an adjoint rule, defined at .*; a second one was attached at .*"
        if kinds[0] == kinds[1]
        else rf"the {kinds[1]} attached at .* defines the same derivative as the {kinds[0]} of the op, defined at .*"
    )
    with pytest.raises(RegistrationError, match=rf"{message}\n  Remove one of the two\."):
        getattr(op, second)(lambda op, *vectors: vectors)
    assert (op(X, X).numpy() == 2 * X).all()


def test_a_jvp_rule_next_to_an_adjoint_is_explained():
    op = differentiable_op(lambda x, y: x * y, signature="(),()->()")
    op.adjoint(lambda op, g: g * op.inputs[1], linear_in="x")
    with pytest.raises(
        RegistrationError, match=r"the same derivative as the adjoint rule of(?s:.*)An adjoint rule defines the JVP too"
    ):
        op.jvp(lambda op, t: t * op.inputs[1], wrt="x")


def test_a_failed_adjoint_leaves_no_rule_behind():
    op = differentiable_op(lambda x: 2 * x, signature="()->()", jvp=lambda op, t: 2 * t)
    with pytest.raises(RegistrationError, match=r"adjoint rule attached at .* the same derivative as the JVP rule"):
        op.adjoint(lambda op, g: 2 * g)
    op.gradient(lambda op, g: 2 * g)


@pytest.mark.parametrize("kind", KINDS)
def test_ops_that_cannot_have_an_adjoint(kind):
    op = differentiable_op(lambda x: x, signature="()->()", stateful=True)
    with pytest.raises(RegistrationError, match="a stateful op cannot have an adjoint rule"):
        getattr(op, kind)(lambda op, g: g)
    rule = differentiable_op(lambda x: x).numpy_gradient(lambda op, g: g)
    with pytest.raises(RegistrationError, match=f"@op.{kind} is not available for the op of a numpy rule"):
        getattr(rule, kind)(lambda op, g: g)
    op = differentiable_op(lambda x: x, signature="()->()")
    with pytest.raises(RegistrationError, match=rf"'x' is not a rule.\n  .*write @op.{kind}\(linear_in='x'\)"):
        getattr(op, kind)("x")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["tape, eager", "tape inside", "tape inside, XLA"])
def test_a_cotangent_of_the_wrong_shape_is_an_error(mode, kind):
    op = differentiable_op(lambda x: x.sum(-1), signature="(n)->()")
    getattr(op, kind)(lambda op, g: g)
    expected = (ContractError, tf.errors.OpError)
    with pytest.raises(expected, match=r"the cotangent of input 0 has the wrong shape.\n  Expected: float64\[3\]"):
        modes.gradient(mode, op, X)


@pytest.mark.parametrize("kind", KINDS)
def test_the_wrong_number_of_cotangents_is_an_error(kind):
    op = differentiable_op(lambda x, y: x + y, signature="(),()->()")
    getattr(op, kind)(lambda op, g: (g, g), linear_in="x")
    with pytest.raises(
        ContractError, match=r"wrong number of cotangents.\n  Expected: 1, one for each of op.inputs in"
    ):
        modes.gradient("tape, eager", lambda x: op(x, 1.0), X)


# -- the check


def test_the_check_is_a_part_of_check_op():
    report = check_op(total("numpy_adjoint"), checks=["check_adjoint", "check_second_order"], max_examples=5, seed=1)
    assert [(outcome.check, outcome.status) for outcome in report.outcomes] == [
        ("check_adjoint", "passed"),
        ("check_second_order", "passed"),
    ]


def test_the_check_is_skipped_without_an_adjoint():
    op = differentiable_op(lambda x: x, signature="()->()", grad=lambda op, g: g)
    assert check_adjoint(op).reason == "the op has no adjoint rule"


@pytest.mark.parametrize("linear_in", [("matrix", "vector"), None])
def test_one_adjoint_rule_for_a_product_is_diagnosed(linear_in):
    op = differentiable_op(
        lambda matrix, vector: (matrix @ vector[..., None])[..., 0],
        signature="(m,n),(n)->(m)",
        name=f"tests.adjoint:bilinear.{linear_in is None}",
    )

    def adjoint(op, cotangent):
        matrix, vector = op.inputs
        return cotangent[..., :, None] * vector[..., None, :], tf.linalg.matvec(matrix, cotangent, transpose_a=True)

    op.adjoint(adjoint, linear_in=linear_in)
    with pytest.raises(CheckError, match=r"Likely: .*: attach one adjoint rule for each input, with linear_in="):
        check_adjoint(op, max_examples=20, seed=0)


def test_a_function_that_is_not_linear_in_one_input_is_not_called_bilinear():
    op = differentiable_op(lambda x, y: x * y**2, signature="(),()->()", name="tests.adjoint:quadratic")
    op.adjoint(lambda op, g: (g * op.inputs[1] ** 2, g), linear_in=("x", "y"))
    with pytest.raises(CheckError, match=r"Likely:   the function is affine, or not linear"):
        check_adjoint(op, max_examples=20, seed=0)


def test_an_input_without_an_adjoint_suggests_linear_in():
    op = differentiable_op(lambda x, y: x * y, signature="(),()->()")
    op.adjoint(lambda op, g: g * op.inputs[1], linear_in="x")
    remedy = (
        r"Attach a rule with @op.gradient\(wrt='y'\) or @op.numpy_gradient\(wrt='y'\), or with "
        r"@op.adjoint\(linear_in='y'\) if the op is linear there too. If"
    )
    with pytest.raises(GradientError, match=remedy):
        modes.gradient("tape, eager", op, X, X)
