"""Rules for some inputs: `wrt=` in the decorators of rules. Graphs drop the rules that are not used."""

import re

import numpy as np
import pytest
import tensorflow as tf

from tests import modes, saved_ops
from tests.saved_derivatives import derivatives_when_loaded, gradient_of
from tests.test_needs import N_CALLS, PARAMETERS, SCENARIOS, counted
from tfpyop import ContractError, GradientError, RegistrationError, UnsupportedError, differentiable_op
from tfpyop._registry.op_def import REGISTRY

X, Y = np.float32([1.0, 2.0]), np.float32([3.0, 5.0])
KINDS = [(first, second) for first in ("gradient", "numpy_gradient") for second in ("gradient", "numpy_gradient")]


def product(kinds=("gradient", "numpy_gradient"), seen=None):
    """An op x * y with one rule for each input."""
    op = differentiable_op(lambda x, y: x * y, signature="(),()->()")
    seen = [] if seen is None else seen

    def by_x(op, cotangent):
        seen.append(("x", op.needs))
        return cotangent * op.inputs[1]

    def by_y(op, cotangent):
        seen.append(("y", op.needs))
        return cotangent * op.inputs[0]

    getattr(op, kinds[0])(wrt="x")(by_x)
    getattr(op, kinds[1])(by_y, wrt=("y",))
    return op


@pytest.mark.parametrize("kinds", KINDS, ids="-".join)
@pytest.mark.parametrize("mode", modes.GRADIENT_MODES)
def test_each_rule_is_for_its_inputs(mode, kinds):
    found = modes.gradient(mode, product(kinds), X, Y)
    np.testing.assert_array_equal(found, [Y, X])


@pytest.mark.parametrize("mode", ["eager", "graph", "XLA"])
@pytest.mark.parametrize("scenario", [name for name in SCENARIOS if name != "recomputed"])
def test_rules_for_some_inputs_give_the_gradients_of_tensorflow(scenario, mode):
    op, differentiate = product(("gradient", "gradient")), SCENARIOS[scenario]
    found = modes.call(mode, lambda x, y: differentiate(op, x, y), X, Y)
    expected = modes.call("eager", lambda x, y: differentiate(lambda x, y: x * y, x, y), X, Y)
    tf.nest.map_structure(lambda *pair: np.testing.assert_allclose(*pair, rtol=1e-5), found, expected)


@pytest.mark.parametrize("kinds", KINDS, ids="-".join)
@pytest.mark.parametrize("mode", ["eager", "graph", "XLA"])
def test_a_jvp_follows_from_rules_for_some_inputs(mode, kinds):
    op = product(kinds)

    def differentiate(x, y):
        with tf.autodiff.ForwardAccumulator([x, y], [tf.ones_like(x), 2 * tf.ones_like(y)]) as both:
            z = op(x, y)
        with tf.autodiff.ForwardAccumulator(y, tf.ones_like(y)) as one:
            w = op(x, y)
        return both.jvp(z), one.jvp(w)

    found = modes.call(mode, differentiate, X, Y)
    np.testing.assert_array_equal(found, [Y + 2 * X, X])


@pytest.mark.parametrize("kinds", [(f, s) for f in ("jvp", "numpy_jvp") for s in ("jvp", "numpy_jvp")], ids="-".join)
@pytest.mark.parametrize("mode", ["eager", "graph", "XLA"])
def test_the_tangents_of_rules_for_some_inputs_are_added(mode, kinds):
    seen = []
    op = differentiable_op(lambda x, y, z: x * y * z, signature="(),(),()->()")

    def by_y(op, tangent):
        seen.append(op.needs)
        return tangent * op.inputs[0] * op.inputs[2]

    def by_others(op, of_z, of_x):
        seen.append(op.needs)
        x, y, z = op.inputs
        return of_z * x * y + of_x * y * z

    getattr(op, kinds[0])(wrt="y")(by_y)
    getattr(op, kinds[1])(wrt=["z", "x"])(by_others)

    def differentiate(x, y):
        with tf.autodiff.ForwardAccumulator([x, y], [tf.ones_like(x), 2 * tf.ones_like(y)]) as accumulator:
            z = op(x, y, 10.0)
        return accumulator.jvp(z)

    np.testing.assert_allclose(modes.call(mode, differentiate, X, Y), 10 * (Y + 2 * X))
    assert set(seen) == {(False, True, False), (True, False, False)}


@pytest.mark.parametrize("mode", ["gradients", "gradients, XLA"])
def test_a_graph_runs_the_rules_that_are_used_alone(mode):
    seen = []
    op = product(("numpy_gradient", "numpy_gradient"), seen)
    assert modes.gradient(mode, lambda y: op(tf.constant(X), y), Y)[0].tolist() == X.tolist()
    assert seen == [("y", (False, True))]


def test_a_tape_around_a_function_runs_the_rules_that_are_used_alone():
    seen = []
    op = product(("numpy_gradient", "numpy_gradient"), seen)
    found = modes.gradient("tape outside", lambda y: op(tf.stop_gradient(tf.constant(X)), y), Y)
    assert found[0].tolist() == X.tolist()
    assert seen == [("y", (False, True))]


@pytest.mark.parametrize("mode", ["gradients", "gradients, XLA", "tape outside"])
@pytest.mark.parametrize("n_data", [1, 100])
def test_a_graph_prunes_numerical_derivatives_by_data(mode, n_data):
    n_calls, function = counted()
    op = differentiable_op(function, signature="(p),(n)->()", grad="numerical")
    data = tf.linspace(tf.constant(0.1, tf.float64), 1.0, n_data)
    modes.gradient(mode, lambda parameters: op(parameters, np.linspace(0.1, 1.0, n_data)), PARAMETERS)
    assert (n_calls[0], len(data)) == (N_CALLS, n_data)


def test_variadic_and_nested_inputs_are_named_by_their_parameter():
    op = differentiable_op(lambda pair, *others, k=2: k * pair["a"] * pair["b"] + sum(others))

    @op.numpy_gradient(wrt="pair")
    def by_pair(op, cotangent):
        a, b = op.inputs[:2]
        return op.static.k * cotangent * b, op.static.k * cotangent * a

    @op.gradient(wrt="others")
    def by_others(op, cotangent):
        return [cotangent] * (len(op.inputs) - 2)

    def function(a, b, c, d):
        return op({"b": b, "a": a}, c, d, k=3)

    for mode in ("tape, eager", "tape inside", "tape outside"):
        found = modes.gradient(mode, function, *np.float32([2, 3, 4, 5]))
        assert [float(gradient) for gradient in found] == [9, 6, 1, 1]


def test_integer_inputs_need_no_rule():
    op = differentiable_op(lambda x, n: x * n, signature="(),()->()", dtype="float32")
    op.gradient(lambda op, cotangent: cotangent * tf.cast(op.inputs[1], tf.float32), wrt="x")
    assert modes.gradient("tape inside", lambda x: op(x, np.int32([2, 3])), X)[0].tolist() == [2, 3]


@pytest.mark.parametrize("mode", ["tape, eager", "tape inside", "gradients", "tape inside, XLA", "tape outside"])
def test_an_input_without_a_rule_is_an_error(mode):
    op = differentiable_op(lambda x, y, z: x * y * z, signature="(),(),()->()")
    op.gradient(lambda op, cotangent: cotangent, wrt="y")
    message = (
        r"no gradient rule is for 'x', 'z'.\n  Expected: one rule for each floating input\n  Got:      rules for 'y'"
    )
    is_deferred = mode in ("gradients", "tape outside")
    with pytest.raises(tf.errors.InvalidArgumentError if is_deferred else GradientError, match=message):
        modes.gradient(mode, lambda x: op(x, 2.0, 3.0), X)


def linear_model(**options):
    """An op of parameters and data, with a rule for the parameters."""
    op = differentiable_op(lambda w, data: data @ w, signature="(n),(m,n)->(m)", **options)
    op.numpy_gradient(lambda op, cotangent: cotangent @ op.inputs[1], wrt="w")
    return op


def of_data(call, *, is_inside=False):
    """The gradient by parameters, with the data as an argument of a tf.function."""
    w, data = tf.Variable([1.0, 2.0]), tf.ones([3, 2])

    def gradient(data):
        with tf.GradientTape() as tape:
            y = call(w, data)
        return tape.gradient(y, w)

    if is_inside:
        return tf.function(gradient)(data)
    call = tf.function(call)
    return gradient(data)


def test_data_of_a_function_in_a_tape_names_the_remedies_that_work():
    remedy = (
        "If this is data, its gradient was computed but not used, because the tape is around a tf.function: open the "
        "tape inside the function, or pass the data through tf.stop_gradient in it. Otherwise attach a rule with "
        "@op.gradient(wrt='data') or @op.numpy_gradient(wrt='data').\n"
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match=re.escape(remedy)):
        of_data(linear_model())
    declared = linear_model(non_differentiable=("data",))
    remedy = (
        "pass it through tf.stop_gradient. If the tape is around a tf.function that takes this input, open the tape "
        "inside the function instead.\n"
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match=re.escape(remedy)):
        of_data(declared)
    for op in (linear_model(), declared):
        assert of_data(op, is_inside=True).numpy().tolist() == [3, 3]
        assert of_data(lambda w, data: op(w, tf.stop_gradient(data))).numpy().tolist() == [3, 3]  # noqa: B023


@pytest.mark.parametrize("mode", modes.GRADIENT_MODES)
def test_an_input_without_a_rule_may_be_constant(mode):
    op = differentiable_op(lambda x, y, z: x * y * z, signature="(),(),()->()")
    op.gradient(lambda op, cotangent: cotangent * op.inputs[0] * op.inputs[2], wrt="y")
    if mode == "tape outside, XLA":
        np.testing.assert_array_equal(modes.gradient("tape outside", lambda y: op(2.0, y, 3.0), Y), [[6, 6]])
    else:
        np.testing.assert_array_equal(modes.gradient(mode, lambda y: op(2.0, y, 3.0), Y), [[6, 6]])


@pytest.mark.parametrize("mode", ["eager", "graph", "XLA"])
def test_the_jvp_follows_from_gradient_rules_where_a_jvp_rule_is_for_other_inputs(mode):
    op = differentiable_op(lambda x, y, z: x * y * z, signature="(),(),()->()")
    op.jvp(lambda op, tangent: tangent * op.inputs[1] * op.inputs[2], wrt="x")
    op.gradient(lambda op, cotangent: cotangent * op.inputs[0] * op.inputs[2], wrt="y")

    def differentiate(x, y):
        with tf.autodiff.ForwardAccumulator([x, y], [tf.ones_like(x), 2 * tf.ones_like(y)]) as accumulator:
            z = op(x, y, 10.0)
        return accumulator.jvp(z)

    np.testing.assert_allclose(modes.call(mode, differentiate, X, Y), 10 * (Y + 2 * X))


def test_an_input_without_a_jvp_rule_is_an_error():
    op = differentiable_op(lambda x, y: x * y, signature="(),()->()")
    op.numpy_jvp(lambda op, tangent: tangent, wrt="y")
    x = tf.constant(X)
    with (
        pytest.raises(
            GradientError, match=r"no jvp rule is for 'x'.*\n.*\n.*\n  Attach a rule with @op.jvp\(wrt='x'\)"
        ),
        tf.autodiff.ForwardAccumulator(x, x),
    ):
        op(x, 2.0)


def test_an_input_with_two_rules_is_an_error():
    op = product()
    with pytest.raises(RegistrationError, match=r"the op already has a rule for 'x', defined at .*test_split_rules.py"):
        op.gradient(wrt=("y", "x"))(lambda op, cotangent: (cotangent, cotangent))
    with pytest.raises(RegistrationError, match="the op already has such a rule"):
        op.gradient(lambda op, cotangent: (cotangent, cotangent))
    whole = differentiable_op(lambda x: x, signature="()->()", grad=lambda op, g: g)
    with pytest.raises(RegistrationError, match="the op already has such a rule"):
        whole.numpy_gradient(wrt="x")(lambda op, cotangent: cotangent)


@pytest.mark.parametrize(
    ("wrt", "message"),
    [
        ("weigths", r"wrt= names 'weigths', which is not a parameter.\n  Did you mean 'weights'"),
        (("data", "k"), r"wrt= names 'k', which is a static parameter.\n  Only inputs have derivatives. Known: 'data'"),
        ((), r"wrt= is invalid.\n  Expected: the name of a parameter, .*\n  Got:      \(\)"),
        (("data", "data"), r"wrt= is invalid"),
        (0, r"wrt= is invalid.\n.*\n  Got:      0\n  Inputs of the op: 'weights', 'data'"),
        ((0,), r"wrt= is invalid"),
    ],
)
@pytest.mark.parametrize("kind", ["gradient", "numpy_gradient", "jvp", "numpy_jvp"])
def test_a_wrong_name_is_an_error(kind, wrt, message):
    op = differentiable_op(lambda weights, data, *, k=1: weights * data, signature="(),()->()")
    with pytest.raises(RegistrationError, match=message):
        getattr(op, kind)(wrt=wrt)(lambda op, vector: vector)


def test_a_name_in_place_of_the_rule_is_an_error():
    op = differentiable_op(lambda x: x, signature="()->()")
    with pytest.raises(RegistrationError, match=r"'x' is not a rule.\n  .*write @op.gradient\(wrt='x'\)"):
        op.gradient("x")


def test_the_op_of_a_numpy_rule_takes_no_names():
    op = differentiable_op(lambda x: x, signature="()->()")
    rule = op.numpy_gradient(lambda op, cotangent: cotangent)
    with pytest.raises(RegistrationError, match="wrt= is not available for the op of a numpy rule"):
        rule.gradient(wrt="x")(lambda op, cotangent: cotangent)


@pytest.mark.parametrize("kinds", KINDS, ids="-".join)
def test_the_number_of_values_is_the_number_of_named_inputs(kinds):
    op = differentiable_op(lambda x, y, z: x * y * z, signature="(),(),()->()")
    getattr(op, kinds[0])(wrt=("x", "z"))(lambda op, cotangent: (cotangent, cotangent, cotangent))
    getattr(op, kinds[1])(wrt="y")(lambda op, cotangent: cotangent)
    with pytest.raises(
        ContractError, match=r"wrong number of cotangents.\n  Expected: 2, one for each of op.inputs in"
    ):
        modes.gradient("tape, eager", op, X, X, X)


@pytest.mark.parametrize("mode", ["tape, eager", "tape inside", "gradients"])
def test_rules_for_some_inputs_of_methods_take_self(mode):
    class Scale:
        def __init__(self, factor):
            self.factor = factor

        @differentiable_op(signature="(),()->()")
        def product(self, x, y):
            return self.factor * x * y

        @product.gradient(wrt="x")
        def by_x(self, op, cotangent):
            return self.factor * cotangent * op.inputs[1]

        @product.numpy_gradient(wrt="y")
        def by_y(self, op, cotangent):
            return self.factor * cotangent * op.inputs[0]

    np.testing.assert_array_equal(modes.gradient(mode, Scale(3).product, X, Y), [3 * Y, 3 * X])


def test_a_second_rule_belongs_to_the_rule_for_some_inputs():
    op = differentiable_op(lambda x, y: x**2 * y, signature="(),()->()")

    @op.numpy_gradient(wrt="x")
    def by_x(op, cotangent):
        return 2 * op.inputs[0] * op.inputs[1] * cotangent

    @by_x.gradient
    def second(op, cotangent):
        x, y, _, first = op.inputs
        return 2 * y * first * cotangent, 2 * x * first * cotangent, None, 2 * x * y * cotangent

    @op.gradient(wrt="y")
    def by_y(op, cotangent):
        return op.inputs[0] ** 2 * cotangent

    def first(x, y):
        with tf.GradientTape() as tape:
            tape.watch([x, y])
            z = op(x, y)
        return tape.gradient(z, [x, y])

    for mode in ("tape, eager", "tape inside"):
        found = modes.gradient(mode, lambda x, y: sum(first(x, y)), X, Y)
        np.testing.assert_array_equal(found, [2 * Y + 2 * X, 2 * X])


@pytest.mark.parametrize("is_compiled", [False, True])
def test_rules_for_some_inputs_are_loaded_in_another_process(tmp_path, is_compiled):
    found = derivatives_when_loaded(tmp_path, saved_ops.split, gradient_of(saved_ops.split), is_compiled=is_compiled)
    assert found == [[3.0, 5.0], [1.0, 2.0]] * 2


@pytest.mark.parametrize("mode", ["eager", "graph", "XLA"])
@pytest.mark.parametrize("sources", ["x", "xz", "xyz"])
def test_a_second_rule_of_a_rule_for_several_inputs_gets_all_its_outputs(mode, sources):
    op = differentiable_op(lambda x, y, z: x * y * z, signature="(),(),()->()")

    @op.numpy_gradient(wrt=("z", "x"))
    def by_z_and_x(op, cotangent):
        x, y, z = op.inputs
        return cotangent * x * y, cotangent * y * z if op.needs[0] else None

    @by_z_and_x.gradient
    def second(op, of_x, of_z):
        x, y, z, _, _ = op.inputs
        by_x, by_z = op.outputs  # in the order of the inputs
        return of_z * by_z / x, (of_x * by_x + of_z * by_z) / y, of_x * by_x / z, None, of_x * y * z + of_z * x * y

    op.gradient(wrt="y")(lambda op, cotangent: cotangent * op.inputs[0] * op.inputs[2])

    def derivative(function, x, y, z):
        named = {"x": x, "y": y, "z": z}
        with tf.GradientTape() as outer:
            outer.watch([x, y, z])
            with tf.GradientTape() as tape:
                tape.watch([named[name] for name in sources])
                value = function(x, y, z)
            first = tape.gradient(value, [named[name] for name in sources])
        return outer.gradient(first, [x, y, z], unconnected_gradients="zero")

    arrays = X, Y, np.float32([7, 11])
    found = modes.call(mode, lambda *tensors: derivative(op, *tensors), *arrays)
    expected = modes.call("eager", lambda *tensors: derivative(lambda x, y, z: x * y * z, *tensors), *arrays)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_model_with_a_rule_that_is_gone_says_which():
    with pytest.raises(
        UnsupportedError, match=r"does not have this rule.\n  Expected: .*numpy_gradient\(wrt=\('z',\)\)"
    ):
        REGISTRY.require_op("tfpyop:tests.saved_ops:split/vjp.z")


@pytest.mark.parametrize("name", ["acme/vjp", "acme/vjp.x", "acme/jvp.x.y"])
def test_no_op_has_the_name_of_a_rule(name):
    with pytest.raises(RegistrationError, match="is the name of a rule's op"):
        differentiable_op(lambda x: x, name=name)


def test_a_gradient_is_saved_if_only_some_inputs_have_a_jvp(tmp_path):
    op = differentiable_op(lambda x, y: np.sin(x) * y, signature="(n),(n)->(n)", name="tests.split_rules.partly_linear")
    op.numpy_gradient(wrt="x")(lambda op, c: c * np.cos(op.inputs[0]) * op.inputs[1])
    op.numpy_adjoint(linear_in="y")(lambda op, c: c * np.sin(op.inputs[0]))

    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = op(x, tf.ones_like(x))
        return tape.gradient(y, x)

    module = tf.Module()
    module.gradient = tf.function(gradient, input_signature=[tf.TensorSpec([2])])
    tf.saved_model.save(module, str(tmp_path))  # TensorFlow traces the second derivative too
    x = tf.constant([0.3, 0.7])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.reduce_sum(tf.stop_gradient(module.gradient(x)) * x)
    np.testing.assert_allclose(tape.gradient(y, x), np.cos([0.3, 0.7]), rtol=1e-6)
