"""Derivatives that do not exist (`UNDEFINED`, `non_differentiable=` with names), and rules that are surrogates."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfpyop
from tests import modes
from tests.processes import run_python
from tests.saved_ops import threshold
from tfpyop import UNDEFINED, ContractError, GradientError, RegistrationError, differentiable_op
from tfpyop.testing import CheckError, check_gradient, check_jvp, check_needs, check_op

X, GAMMA = np.float32([1, 2, 3]), np.float32(2.5)
ERRORS = (GradientError, tf.errors.OpError)


def function(x, gamma):
    return np.where(x > gamma, x * gamma, x)


def slope(x, gamma):
    return tf.where(x > gamma, gamma, tf.ones_like(x))


def declared(**options):
    return differentiable_op(
        lambda x, gamma: function(x, gamma), signature="(),()->()", non_differentiable=("gamma",), **options
    )


def with_wrt():
    op = declared()
    op.numpy_gradient(lambda op, g: np.where(op.inputs[0] > op.inputs[1], op.inputs[1], 1) * g, wrt="x")
    op.numpy_jvp(lambda op, t: np.where(op.inputs[0] > op.inputs[1], op.inputs[1], 1) * t, wrt="x")
    return op


def with_jacobian(kind):
    op = declared()
    rule = (lambda op: (slope(*op.inputs), None)) if kind == "jacobian" else _numpy_jacobian
    getattr(op, kind)(rule)
    return op


def _numpy_jacobian(op):
    x, gamma = op.inputs
    return np.where(x > gamma, gamma, 1).astype(x.dtype), UNDEFINED


DECLARED = {
    "TensorFlow": declared(grad=lambda op, g: (slope(*op.inputs) * g, None)),
    "numpy": declared(numpy_grad=lambda op, g: (np.where(op.inputs[0] > op.inputs[1], op.inputs[1], 1) * g, UNDEFINED)),
    "numerical": declared(grad="numerical"),
    "wrt": with_wrt(),
    "jacobian": with_jacobian("jacobian"),
    "numpy_jacobian": with_jacobian("numpy_jacobian"),
}
ALL_DECLARED = pytest.mark.parametrize("op", DECLARED.values(), ids=DECLARED)


def by_rule(kind):
    """An op whose rule returns UNDEFINED for gamma."""
    op = differentiable_op(lambda x, gamma: function(x, gamma), signature="(),()->()")
    if kind == "gradient":
        op.gradient(lambda op, g: (slope(*op.inputs) * g, UNDEFINED))
    elif kind == "jacobian":
        op.jacobian(lambda op: (slope(*op.inputs), UNDEFINED))
    else:
        op.numpy_gradient(lambda op, g: (np.where(op.inputs[0] > op.inputs[1], op.inputs[1], 1) * g, UNDEFINED))
    return op


def of_first(op):
    """The op as a function of x alone."""
    return lambda x: op(x, tf.constant(GAMMA))


@pytest.mark.parametrize("mode", modes.GRADIENT_MODES)
@ALL_DECLARED
def test_other_derivatives_are_computed_in_every_mode(mode, op):
    assert modes.gradient(mode, of_first(op), X)[0].tolist() == [1, 1, 2.5]


@pytest.mark.parametrize("mode", modes.GRADIENT_MODES)
@ALL_DECLARED
def test_requesting_the_declared_derivative_raises_in_every_mode(mode, op):
    with pytest.raises(ERRORS, match=r"the derivative by 'gamma' is not defined"):
        modes.gradient(mode, op, X, GAMMA)


@pytest.mark.parametrize("mode", modes.GRADIENT_MODES)
@pytest.mark.parametrize("kind", ["gradient", "jacobian"])
def test_undefined_from_a_tensorflow_rule_raises_if_it_is_requested(mode, kind):
    op = by_rule(kind)
    assert modes.gradient(mode, of_first(op), X)[0].tolist() == [1, 1, 2.5]
    with pytest.raises(ERRORS, match="is not defined"):
        modes.gradient(mode, op, X, GAMMA)


@pytest.mark.parametrize("mode", modes.GRADIENT_MODES)
def test_undefined_from_a_numpy_rule_raises_if_it_is_requested(mode):
    with pytest.raises(ERRORS, match=r"the derivative by input 1 is not defined: the rule returned UNDEFINED for it"):
        modes.gradient(mode, by_rule("numpy"), X, GAMMA)


@pytest.mark.parametrize("mode", ["tape, eager", "tape inside"])
def test_undefined_from_a_numpy_rule_is_ignored_where_it_is_known_not_to_be_used(mode):
    assert modes.gradient(mode, of_first(by_rule("numpy")), X)[0].tolist() == [1, 1, 2.5]


@ALL_DECLARED
def test_variables_that_are_not_sources_do_not_raise(op):
    x, gamma = tf.Variable(X), tf.Variable(GAMMA)

    def gradient():
        with tf.GradientTape() as tape:
            y = op(x, gamma)
        return tape.gradient(y, x)

    for call in (gradient, tf.function(gradient), tf.function(gradient, jit_compile=True)):
        assert call().numpy().tolist() == [1, 1, 2.5]


def forward(op, *moved):
    tensors = [tf.constant(X), tf.constant(GAMMA)]
    primals = [tensors[number] for number in moved]
    with tf.autodiff.ForwardAccumulator(primals, [tf.ones_like(primal) for primal in primals]) as accumulator:
        y = op(*tensors)
    return accumulator.jvp(y)


@ALL_DECLARED
def test_forward_mode(op):
    assert forward(op, 0).numpy().tolist() == [1, 1, 2.5]
    for moved in ([1], [0, 1]):
        with pytest.raises(GradientError, match="the derivative by 'gamma' is not defined"):
            forward(op, *moved)


@pytest.mark.parametrize("kind", ["gradient", "jacobian", "numpy"])
def test_forward_mode_of_undefined(kind):
    op = by_rule(kind)
    assert forward(op, 0).numpy().tolist() == [1, 1, 2.5]
    with pytest.raises(GradientError, match="is not defined"):
        forward(op, 1)


@pytest.mark.parametrize("decorator", ["jvp", "numpy_jvp"])
def test_undefined_tangents_raise(decorator):
    op = differentiable_op(lambda x, gamma: function(x, gamma), signature="(),()->()")
    getattr(op, decorator)(lambda op, t, u: UNDEFINED if op.needs[1] else np.float32(2) * t)
    assert forward(op, 0).numpy().tolist() == [2, 2, 2]
    with pytest.raises(GradientError, match="the tangent of output 0 is not defined"):
        forward(op, 1)
    with pytest.raises(ERRORS, match="is not defined"):
        tf.function(lambda: forward(op, 1))()
    ignored = tf.function(lambda: (forward(op, 1), op(X, GAMMA))[1], autograph=False)
    if decorator == "jvp":
        assert ignored().shape == [3]


@ALL_DECLARED
def test_batching(op):
    rows = tf.vectorized_map(lambda x: modes._with_tape(of_first(op), x)[0], tf.constant([X, X]))
    assert rows.numpy().tolist() == [[1, 1, 2.5]] * 2
    with pytest.raises(ERRORS, match="is not defined"):
        tf.vectorized_map(lambda x: modes._with_tape(op, x, tf.constant(GAMMA))[1], tf.constant([X, X]))


def test_methods_nested_inputs_and_rules_for_some_inputs():
    class Layer:
        @differentiable_op(signature="(),(),()->()", non_differentiable="limits")
        def clipped(self, x, limits):
            return np.clip(x, limits["low"], limits["high"])

        @clipped.gradient
        def clipped_gradient(self, op, g):
            return g, None, UNDEFINED

    layer = Layer()
    assert (
        modes.gradient("tape, eager", lambda x: layer.clipped(x, {"low": 0.0, "high": 2.0}), X)[0].tolist() == [1] * 3
    )
    with pytest.raises(GradientError, match="the derivative by 'limits' is not defined"):
        modes.gradient("tape, eager", lambda x, low: layer.clipped(x, {"low": low, "high": 2.0}), X, GAMMA)


def test_a_native_implementation_without_rules():
    op = declared(prefer="native")
    op.native(lambda x, gamma: tf.where(x > gamma, x * gamma, x))
    for mode in ("tape, eager", "tape inside", "tape inside, XLA"):
        assert modes.gradient(mode, of_first(op), X)[0].tolist() == [1, 1, 2.5]
        with pytest.raises(ERRORS, match="the derivative by 'gamma' is not defined"):
            modes.gradient(mode, op, X, GAMMA)


def test_keras_trains_other_weights():
    class Layer(keras.layers.Layer):
        def build(self, shape):
            self.scale = self.add_weight(shape=(), initializer="ones")

        def call(self, x):
            return DECLARED["numpy"](x * self.scale, GAMMA)

    model = keras.Sequential([Layer()])
    model.compile("sgd", "mse")
    model.fit(X[:, None], X[:, None], verbose=0)
    assert model.layers[0].scale.numpy() < 1


_LOAD = """
import sys
import tensorflow as tf
import tests.saved_ops
loaded = tf.saved_model.load(sys.argv[1])
x, gamma = tf.constant([1.0, 3.0]), tf.constant(2.0)
for call in (loaded.of_first, loaded.threshold):
    try:
        with tf.GradientTape() as tape:
            tape.watch([x, gamma])
            y = call(x, gamma)
        print(tape.gradient(y, [x, gamma])[0].numpy().tolist())
    except tf.errors.OpError as error:
        print("is not defined" in str(error))
"""


def test_a_loaded_model_raises_too(tmp_path):
    module = tf.Module()
    spec = [tf.TensorSpec([2]), tf.TensorSpec([])]
    module.threshold = tf.function(threshold, input_signature=spec)
    module.of_first = tf.function(lambda x, gamma: threshold(x, tf.stop_gradient(gamma)), input_signature=spec)
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=True)
    tf.saved_model.save(module, str(tmp_path), options=options)
    process = run_python("-c", _LOAD, str(tmp_path), timeout=300)
    assert process.stdout.splitlines() == ["[1.0, 2.0]", "True"], process.stderr


CHECKS = ["check_contract", "check_gradient", "check_jvp", "check_needs", "check_second_order", "check_batching"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["numpy", "wrt", "jacobian"])
def test_the_checks_skip_the_undefined_derivative(kind):
    check_op(DECLARED[kind], max_examples=5, checks=CHECKS, seed=1)


def test_undefined_as_an_output_is_an_error():
    op = differentiable_op(lambda x: UNDEFINED, signature="()->()")
    for mode in ("eager", "graph", "XLA"):
        with pytest.raises((ContractError, tf.errors.OpError), match=r"output 0 is UNDEFINED\.\n  Expected: an array"):
            modes.call(mode, op, X)
    assert repr(UNDEFINED) == "tfpyop.UNDEFINED"
    assert tfpyop.UNDEFINED is UNDEFINED


MISUSE = {
    "another name": (("gama",), "non_differentiable= names 'gama', which is not an input."),
    "all names": (("x", "gamma"), "non_differentiable= names all inputs."),
    "no name": ((), "non_differentiable= is invalid."),
    "a name twice": (("x", "x"), "non_differentiable= is invalid."),
    "a number": (1, "non_differentiable= is invalid."),
}


@pytest.mark.parametrize(("value", "problem"), MISUSE.values(), ids=MISUSE)
def test_misuse_of_non_differentiable(value, problem):
    with pytest.raises(RegistrationError) as caught:
        differentiable_op(function, signature="(),()->()", non_differentiable=value)
    assert caught.value.problem == problem


def test_the_description():
    text = DECLARED["numpy"].describe()
    assert "undefined:     the derivative by gamma" in text
    assert "surrogate" in straight_through().describe()


# -- surrogates


def straight_through(rule=lambda op, g: g, **options):
    return differentiable_op(np.round, signature="()->()", surrogate=True, grad=rule, **options)


@pytest.mark.slow
def test_a_surrogate_passes_and_the_report_says_so():
    op = straight_through(jvp=lambda op, t: t)
    for outcome in (check_gradient(op, max_examples=5, seed=1), check_jvp(op, max_examples=5, seed=1)):
        assert outcome.status == "passed"
        assert outcome.reason.startswith("surrogate=True: the rules are not compared with derivatives")
    assert "surrogate=True" in str(check_op(op, max_examples=3, checks=["check_gradient"], seed=1))
    assert check_needs(op, max_examples=3, seed=1).status == "skipped"


def test_the_same_rule_without_the_declaration_fails():
    with pytest.raises(CheckError, match="is wrong"):
        check_gradient(differentiable_op(np.round, signature="()->()", grad=lambda op, g: g), max_examples=20, seed=1)


NONLINEAR = {
    "a square": lambda op, g: g * g,
    "an offset": lambda op, g: g + 1,
    "a sign": lambda op, g: tf.sign(g),
}


@pytest.mark.parametrize("rule", NONLINEAR.values(), ids=NONLINEAR)
def test_a_surrogate_that_is_not_linear_fails(rule):
    with pytest.raises(CheckError, match="is not linear in the cotangents of the outputs"):
        check_gradient(straight_through(rule), max_examples=5, seed=1)
    with pytest.raises(CheckError, match="is not linear in the tangents of the inputs"):
        check_jvp(straight_through(jvp=rule), max_examples=5, seed=1)


def test_a_surrogate_of_the_wrong_shape_fails():
    op = differentiable_op(
        lambda x: np.sort(x), signature="(n)->(n)", surrogate=True, numpy_grad=lambda op, g: g[..., :-1]
    )
    with pytest.raises(CheckError, match="not a valid cotangent"):
        check_gradient(op, max_examples=10, seed=1)


def test_a_surrogate_with_numerical_derivatives_is_refused():
    with pytest.raises(RegistrationError, match="surrogate=True says that the rules are not derivatives"):
        differentiable_op(np.round, signature="()->()", surrogate=True, grad="numerical")
    with pytest.raises(RegistrationError, match="surrogate= is neither True nor False"):
        differentiable_op(np.round, signature="()->()", surrogate="x")


@pytest.mark.slow
def test_none_from_a_numpy_rule_means_no_dependence_and_is_checked():
    op = differentiable_op(lambda x, y: x * y, signature="(),()->()", numpy_grad=lambda op, g: (g * op.inputs[1], None))
    with pytest.raises(CheckError, match=r"the cotangent of input 1 \(y\) is wrong"):
        check_gradient(op, max_examples=10, seed=1)
