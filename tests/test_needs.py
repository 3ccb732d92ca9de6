"""`op.needs`: rules learn which cotangents are used, and which inputs vary. No gradient changes because of it."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import modes, saved_ops
from tfpyop import ContractError, UnsupportedError, differentiable_op, export
from tfpyop._registry.op_def import REGISTRY
from tfpyop._spec.payload import split_needs, with_needs

KINDS = ["gradient", "numpy_gradient"]
JVP_KINDS = ["jvp", "numpy_jvp"]
X, Y = np.float32([1.0, 2.0]), np.float32([3.0, 5.0])


def product(kind, *, seen=None, poison=np.nan, **options):
    """An op x * y whose rule returns NaN for what is not needed."""
    op = differentiable_op(lambda x, y: x * y, signature="(),()->()", **options)

    def rule(op, cotangent):
        if seen is not None:
            seen.append(op.needs)
        values = cotangent * op.inputs[1], cotangent * op.inputs[0]
        return [
            value if is_needed else None if poison is None else value * poison
            for value, is_needed in zip(values, op.needs, strict=True)
        ]

    getattr(op, kind)(rule)
    return op


def in_mode(mode, function, *arguments):
    return modes.call(mode, function, *arguments)


# -- what rules see


def needs_in(mode, kind, differentiate, *arguments, **options):
    seen = []
    op = product(kind, seen=seen, **options)
    in_mode(mode, lambda *tensors: differentiate(op, *tensors), *arguments)
    return set(seen)


def by_second(op, x, y):
    with tf.GradientTape() as tape:
        tape.watch(y)
        z = op(x, y)
    return tape.gradient(z, y)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["eager", "graph", "unknown shapes", "XLA", "XLA, unknown sizes"])
def test_an_input_that_the_tape_does_not_watch_is_not_needed(mode, kind):
    assert needs_in(mode, kind, by_second, X, Y) == {(False, True)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["eager", "graph", "XLA"])
def test_python_constants_and_stopped_gradients_are_not_needed(mode, kind):
    def differentiate(op, x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            z = op(x, 2.0) + op(tf.stop_gradient(x), x)
        return tape.gradient(z, x)

    assert needs_in(mode, kind, differentiate, X) == {(True, False), (False, True)}


@pytest.mark.parametrize("mode", ["eager", "graph", "XLA", "gradients"])
@pytest.mark.parametrize("kind", KINDS)
def test_integer_inputs_are_never_needed(mode, kind):
    seen = []
    op = differentiable_op(lambda x, n: x * n, signature="(),()->()", dtype="float32")

    def rule(op, cotangent):
        seen.append(op.needs)
        return cotangent, None

    getattr(op, kind)(rule)
    if mode == "gradients":
        modes.gradient("gradients", lambda x: op(x, np.int32([2, 3])), X)
    else:
        in_mode(mode, lambda x: modes._with_tape(lambda x: op(x, np.int32([2, 3])), x)[0], X)
    assert set(seen) == {(True, False)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_trainable", [True, False])
def test_a_variable_that_is_not_trainable_is_not_needed(kind, is_trainable):
    variable = tf.Variable(Y, trainable=is_trainable)

    def differentiate(op, x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            z = op(x, variable)
        return tape.gradient(z, [x, variable])[0]

    assert needs_in("eager", kind, differentiate, X) == {(True, is_trainable)}
    assert needs_in("graph", kind, differentiate, X) == {(True, is_trainable)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["tape outside", "gradients", "tape outside, XLA", "gradients, XLA"])
def test_where_tensorflow_does_not_know_everything_is_needed(mode, kind):
    seen = []
    op = product(kind, seen=seen)
    modes.gradient(mode, lambda y: op(tf.constant(X), y), Y)
    assert set(seen) == {(True, True)}


@pytest.mark.parametrize("kind", KINDS)
def test_each_gradient_of_a_persistent_tape_has_its_own_needs(kind):
    seen = []
    op = product(kind, seen=seen)
    x, y = tf.constant(X), tf.constant(Y)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(y)
        z = op(x, y)
    tape.gradient(z, y)
    with tape:
        tape.watch(x)
        w = op(x, y)
    tape.gradient(w, x)
    assert seen == [(False, True), (True, True)]


@pytest.mark.parametrize("kind", KINDS)
def test_an_outer_tape_has_needs_of_its_own(kind):
    seen = []
    op = product(kind, seen=seen)
    x, y = tf.constant(X), tf.constant(Y)
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(y)
            z = op(x, y)
        inner.gradient(z, y)
    assert outer.gradient(z, x).numpy().tolist() == Y.tolist()
    assert set(seen) == {(False, True), (True, False)}


def test_the_op_of_a_numpy_rule_returns_what_is_needed_alone():
    op = product("numpy_gradient", poison=None)
    rule = op._definition.rule_op("vjp")
    assert [len(rule.with_needs(rule.specialize(None, {}), needs).host([X, Y, X * Y, X])) for needs in
            ((True, False), (False, True))] == [1, 1]  # fmt: skip


@pytest.mark.parametrize("mode", ["graph", "XLA"])
def test_the_node_of_a_numpy_rule_has_the_needed_outputs_alone(mode):
    op = product("numpy_gradient", poison=None)
    function = tf.function(lambda x, y: by_second(op, x, y), jit_compile=mode == "XLA")
    graph = function.get_concrete_function(tf.constant(X), tf.constant(Y)).graph
    nodes = [node for node in graph.get_operations() if node.type in ("PyFuncStateless", "XlaCallModule")]
    assert [len(node.outputs) for node in nodes] == [1, 1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["eager", "graph", "XLA"])
def test_a_variable_that_is_not_a_source_is_not_needed(mode, kind):
    frozen, weight = tf.Variable(Y), tf.Variable(X)

    def differentiate(op, x):
        with tf.GradientTape(persistent=True) as tape:
            z = op(frozen, weight)
        return tape.gradient(z, weight), tape.gradient(z, [frozen, weight])

    assert needs_in(mode, kind, differentiate, X) == {(False, True), (True, True)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_the_value_of_a_variable_that_is_a_source_is_needed(mode, kind):
    variable = tf.Variable(Y)

    def differentiate(op, x):
        with tf.GradientTape() as tape:
            value = tf.convert_to_tensor(variable)
            tape.watch(x)
            z = op(x, value)
        return tape.gradient(z, [x, value])

    assert needs_in(mode, kind, differentiate, X) == {(True, True)}


@pytest.mark.parametrize("n_data", [1, 100])
@pytest.mark.parametrize("mode", ["eager", "graph", "XLA"])
def test_data_costs_a_numerical_gradient_nothing(mode, n_data):
    n_calls, function = counted()
    op = differentiable_op(function, signature="(p),(n)->()", grad="numerical")

    def gradient(parameters, data):
        with tf.GradientTape() as tape:
            tape.watch(parameters)
            value = op(parameters, data)
        return tape.gradient(value, parameters)

    found = in_mode(mode, gradient, PARAMETERS, np.linspace(0.1, 1, n_data))
    assert found.shape == (2,)
    assert n_calls[0] == N_CALLS


@pytest.mark.parametrize("n_data", [1, 100])
@pytest.mark.parametrize("mode", ["eager", "graph", "XLA"])
def test_data_costs_a_complex_step_nothing(mode, n_data):
    n_calls, function = counted()
    op = differentiable_op(function, signature="(p),(n)->()", grad="complex-step", vectorized=True)
    in_mode(mode, lambda parameters: modes._with_tape(
        lambda parameters: op(parameters, np.linspace(0.1, 1, n_data)), parameters)[0], PARAMETERS)  # fmt: skip
    assert n_calls[0] <= 13


PARAMETERS = np.array([1.5, 0.5])
N_CALLS_OF_DIRECTION = 2 * 8 + 6
"""As documented for a smooth function."""
N_CALLS = 1 + 2 * N_CALLS_OF_DIRECTION
"""For a call, and its gradient by two parameters."""


def counted():
    n_calls = [0]

    def function(parameters, data):
        n_calls[0] += 1
        return (parameters[..., :1] * data + parameters[..., 1:] * data**2).mean(axis=-1)

    return n_calls, function


class Curve(keras.layers.Layer):
    """A layer with two weights, by an op that is differentiated numerically."""

    def __init__(self, op, **options):
        super().__init__(**options)
        self.op = op

    def build(self, shape):
        self.weight = self.add_weight(shape=(2,), initializer=keras.initializers.Constant(0.5), name="weight")

    def call(self, data):
        return self.op(self.weight, data)


def calls_per_step(op, n_calls, data, freeze, *, run_eagerly):
    layers = [keras.layers.Dense(data.shape[1]), Curve(op), keras.layers.Reshape((1,))]
    model = keras.Sequential([keras.Input(data.shape[1:]), *(layers if freeze else layers[1:])])
    if freeze:
        layers[1].trainable = False
    model.compile(keras.optimizers.SGD(0.0), "mse", run_eagerly=run_eagerly)
    model.fit(data, np.zeros((len(data), 1)), batch_size=1, epochs=1, verbose=0)
    n_calls[0] = 0
    model.fit(data, np.zeros((len(data), 1)), batch_size=1, epochs=1, verbose=0)
    return n_calls[0] / len(data)


@pytest.mark.parametrize("run_eagerly", [False, True])
@pytest.mark.parametrize("n_data", [1, 100])
def test_data_costs_a_step_of_keras_nothing(n_data, run_eagerly):
    n_calls, function = counted()
    op = differentiable_op(function, signature="(p),(n)->()", grad="numerical")
    data = np.linspace(0.1, 1, 3 * n_data, dtype=np.float32).reshape(3, n_data)
    assert calls_per_step(op, n_calls, data, False, run_eagerly=run_eagerly) == N_CALLS


def test_the_weights_of_a_frozen_layer_cost_a_step_of_keras_nothing():
    n_calls, function = counted()
    op = differentiable_op(function, signature="(p),(n)->()", grad="numerical")
    data = np.linspace(0.1, 1, 3, dtype=np.float32).reshape(3, 1)
    assert calls_per_step(op, n_calls, data, True, run_eagerly=False) == 1 + N_CALLS_OF_DIRECTION


# -- no gradient changes


def late_watch(op, x, y):
    with tf.GradientTape() as tape:
        tape.watch(y)
        z = op(x, y)
        tape.watch(x)
        w = z * x * op(x, y)
    return tape.gradient(w, [x, y])


def unwatched_source(op, x, y):
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(y)
        z = op(x, y)
    return tape.gradient(z, y), tape.gradient(z, y, output_gradients=x)


def persistent(op, x, y):
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(y)
        z = op(op(x, y), y)
    return [tape.gradient(z, y), tape.gradient(z, [y])[0]]


def nested(op, x, y):
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(y)
            z = op(x, op(x, y))
        first = inner.gradient(z, y)
    return first, outer.gradient(z, x)


def second_order(op, x, y):
    with tf.GradientTape(persistent=True) as outer:
        outer.watch([x, y])
        with tf.GradientTape() as inner:
            inner.watch(y)
            z = op(x, op(x, y)) * y
        first = inner.gradient(z, y)
    return outer.gradient(first, [x, y])


def jacobian(op, x, y):
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(y)
        z = op(x, y)
    return tape.jacobian(z, y)


def of_jacobian(op, x, y):
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as tape:
            tape.watch(y)
            z = op(x, op(x, y))
        found = tape.jacobian(z, y)
    return outer.gradient(found, x)


def in_while_loop(op, x, y):
    with tf.GradientTape() as tape:
        tape.watch(y)
        z = tf.while_loop(lambda i, _: i < 2, lambda i, z: [i + 1, op(z, y)], [0, x], maximum_iterations=2)[1]
    return tape.gradient(z, y)


def tape_in_while_loop(op, x, y):
    return tf.while_loop(lambda i, _: i < 2, lambda i, z: [i + 1, by_second(op, z, y)], [0, x], maximum_iterations=2)[1]


def around_function(op, x, y):
    return by_second(tf.function(lambda x, y: op(x, y) * x), x, y)


def function_in_tape_in_tape(op, x, y):
    with tf.GradientTape() as outer:
        outer.watch(x)
        z = tf.function(lambda x, y: by_second(op, x, op(x, y)))(x, y)
    return outer.gradient(z, x)


def over_rows(op, x, y):
    with tf.GradientTape() as tape:
        tape.watch(y)
        z = tf.vectorized_map(lambda row: op(row, y), tf.stack([x, 2 * x]))
    return tape.gradient(z, y)


def in_rows(op, x, y):
    return tf.vectorized_map(lambda row: by_second(op, row, y), tf.stack([x, 2 * x]))


def in_rows_of_rows(op, x, y):
    with tf.GradientTape() as tape:
        tape.watch(x)
        rows = tf.vectorized_map(lambda row: by_second(op, row, op(row, y)), tf.stack([x, 2 * x]))
    return tape.gradient(rows, x)


def with_custom_gradient(op, x, y):
    @tf.custom_gradient
    def scaled(x, y):
        with tf.GradientTape() as tape:
            tape.watch(x)
            z = op(x, y)
        gradient = tape.gradient(z, x)
        return z, lambda upstream: (upstream * gradient, upstream * op(x, x))

    with tf.GradientTape() as tape:
        tape.watch(y)
        z = scaled(op(x, y), y)
    return tape.gradient(z, y)


def recomputed(op, x, y):
    def step(x):
        return op(x, y) * x

    return by_second(lambda x, y: op(tf.recompute_grad(step)(y), x), x, y)


def forward(op, x, y):
    with tf.autodiff.ForwardAccumulator(y, tf.ones_like(y)) as accumulator:
        z = op(x, op(x, y)) * y
    return accumulator.jvp(z)


def forward_over_reverse(op, x, y):
    with tf.autodiff.ForwardAccumulator(x, tf.ones_like(x)) as accumulator:
        first = by_second(op, x, op(x, y))
    return accumulator.jvp(first)


def reverse_over_forward(op, x, y):
    with tf.GradientTape() as tape:
        tape.watch(x)
        with tf.autodiff.ForwardAccumulator(y, tf.ones_like(y)) as accumulator:
            z = op(x, op(x, y))
        found = accumulator.jvp(z)
    return tape.gradient(found, x)


def forward_over_forward(op, x, y):
    with tf.autodiff.ForwardAccumulator(x, tf.ones_like(x)) as outer:
        with tf.autodiff.ForwardAccumulator(y, tf.ones_like(y)) as inner:
            z = op(x, op(x, y))
        found = inner.jvp(z)
    return found, outer.jvp(z), outer.jvp(found)


def tape_and_accumulator(op, x, y):
    with tf.autodiff.ForwardAccumulator(x, tf.ones_like(x)), tf.GradientTape() as tape:
        tape.watch(y)
        z = op(x, op(x, y))
    return tape.gradient(z, y)


def variable_read_twice(op, x, y):
    variable = VARIABLE
    with tf.GradientTape() as tape:
        z = op(variable, y) * op(x, variable)
    return tape.gradient(z, variable)


def outer_by_another_variable(op, x, y):
    with tf.GradientTape() as outer:
        with tf.GradientTape() as inner:
            z = op(VARIABLE, op(OTHER, y)) * x
        first = inner.gradient(z, VARIABLE)
    return first, outer.gradient(z, OTHER)


def variables_of_one_tape(op, x, y):
    with tf.GradientTape(persistent=True) as tape:
        z = op(VARIABLE, op(OTHER, y)) * op(x, OTHER)
    return tape.gradient(z, VARIABLE), tape.gradient(z, OTHER), tape.gradient(z, [OTHER, VARIABLE])


def jacobian_by_variable(op, x, y):
    with tf.GradientTape(persistent=True) as tape:
        z = op(VARIABLE, op(OTHER, y))
    return tape.jacobian(z, OTHER), tape.jacobian(z, VARIABLE)


def variables_in_loops(op, x, y):
    with tf.GradientTape(persistent=True) as tape:
        z = tf.while_loop(
            lambda i, _: i < 2, lambda i, z: [i + 1, op(z, VARIABLE) * op(OTHER, y)], [0, x], maximum_iterations=2
        )[1]
    return tape.gradient(z, VARIABLE), tape.gradient(z, OTHER)


def tape_in_branch_by_variable(op, x, y):
    def branch():
        with tf.GradientTape(persistent=True) as tape:
            z = op(VARIABLE, op(OTHER, y))
        return tape.gradient(z, VARIABLE), tape.gradient(z, OTHER)

    return tf.cond(x[0] > -1e9, branch, lambda: (x, x))


def variables_of_custom_gradient(op, x, y):
    @tf.custom_gradient
    def scaled(x):
        def gradient(upstream, variables=None):
            with tf.GradientTape() as tape:
                z = op(x, OTHER)
            return upstream * OTHER, [upstream * tape.gradient(z, variable) for variable in variables]

        return op(x, OTHER), gradient

    with tf.GradientTape(persistent=True) as tape:
        z = scaled(op(VARIABLE, y))
    return tape.gradient(z, VARIABLE), tape.gradient(z, OTHER)


def recomputed_with_variables(op, x, y):
    step = tf.recompute_grad(lambda x: op(x, OTHER))
    with tf.GradientTape(persistent=True) as tape:
        z = step(op(VARIABLE, y))
    return tape.gradient(z, VARIABLE), tape.gradient(z, OTHER)


def forward_by_variable(op, x, y):
    with tf.autodiff.ForwardAccumulator(OTHER, tf.ones_like(x)) as accumulator, tf.GradientTape() as tape:
        z = op(VARIABLE, op(OTHER, y))
    return tape.gradient(z, OTHER), accumulator.jvp(z)


VARIABLE, OTHER = tf.Variable(X), tf.Variable(2 * Y)
SCENARIOS = {
    function.__name__: function
    for function in (
        *(late_watch, unwatched_source, persistent, nested, second_order, jacobian, of_jacobian, in_while_loop),
        *(tape_in_while_loop, around_function, function_in_tape_in_tape, over_rows, in_rows, in_rows_of_rows),
        *(with_custom_gradient, recomputed, forward, forward_over_reverse, reverse_over_forward),
        *(forward_over_forward, tape_and_accumulator, variable_read_twice, outer_by_another_variable),
        *(variables_of_one_tape, jacobian_by_variable, variables_in_loops, tape_in_branch_by_variable),
        *(variables_of_custom_gradient, recomputed_with_variables, forward_by_variable),
    )
}


def second_rule(rule):
    """Give a numpy rule of a product a gradient, which reads all outputs of the rule."""

    @rule.gradient
    def second(op, by_x, by_y):
        x, y, _, _ = op.inputs
        of_x, of_y = op.outputs  # cotangent * y, cotangent * x
        zero = 0 * (of_x + of_y)
        return by_y * of_y / x + zero, by_x * of_x / y, None, by_x * y + by_y * x


@pytest.mark.parametrize("mode", ["eager", "graph", "XLA"])
@pytest.mark.parametrize("kind", [*KINDS, "numpy_gradient with a gradient", "numpy_gradient and jvp"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_rule_that_uses_needs_gives_the_gradients_of_tensorflow(scenario, kind, mode):
    op = product(kind.split()[0])
    if "with" in kind:
        second_rule(op._definition.rule_op("vjp").op)
    if "and" in kind:
        op.jvp(poisoned_jvp)
    if kind.endswith("jvp") and scenario in NEED_A_SECOND_RULE:
        pytest.skip("a numpy rule without a rule has no second derivative")
    if kind == "numpy_gradient" and scenario in (*NEED_A_SECOND_RULE, "reverse_over_forward", "forward_over_forward"):
        pytest.skip("a numpy rule without a rule has no second derivative")
    if mode == "XLA" and "recomputed" in scenario:
        pytest.skip("TensorFlow cannot compile its barrier between custom calls")
    differentiate = SCENARIOS[scenario]
    found = in_mode(mode, lambda x, y: differentiate(op, x, y), X, Y)
    expected = in_mode("eager", lambda x, y: differentiate(lambda x, y: x * y, x, y), X, Y)
    tf.nest.map_structure(lambda *pair: np.testing.assert_allclose(*pair, rtol=1e-5), found, expected)


NEED_A_SECOND_RULE = (
    *("second_order", "of_jacobian", "function_in_tape_in_tape", "in_rows_of_rows", "forward_over_reverse"),
)


def poisoned_jvp(op, *tangents):
    """The JVP of a product, which ignores the tangents of inputs that do not vary."""
    x, y = op.inputs
    terms = [vector * other for vector, other, varies in zip(tangents, (y, x), op.needs, strict=True) if varies]
    return sum(terms)


# -- other processes, loops and damage


def by_weights(weights, data):
    return by_first(saved_ops.weighted, weights, data)


def by_first(op, x, y):
    with tf.GradientTape() as tape:
        tape.watch(x)
        z = op(x, y)
    return tape.gradient(z, x)


LOAD = """
import sys
import tensorflow as tf
import tests.saved_ops
loaded = tf.saved_model.load(sys.argv[1])
x = tf.constant([1.0, 2.0])
with tf.GradientTape() as tape:
    tape.watch(x)
    gradient = loaded.gradient(x, tf.constant([3.0, 5.0]))
print(gradient.numpy().tolist(), tape.gradient(gradient, x).numpy().tolist())
"""


@pytest.mark.slow
@pytest.mark.parametrize("is_compiled", [False, True])
def test_a_saved_gradient_with_needs_is_loaded_in_another_process(tmp_path, is_compiled):
    module = tf.Module()
    spec = tf.TensorSpec([2], tf.float32)
    module.gradient = tf.function(by_weights, input_signature=[spec, spec], jit_compile=is_compiled)
    tf.saved_model.save(module, str(tmp_path), options=tf.saved_model.SaveOptions())
    (op,) = export.required_ops(str(tmp_path))
    assert op.name == "tests.saved_ops:weighted"
    process = subprocess.run([sys.executable, "-c", LOAD, tmp_path], capture_output=True, text=True, timeout=300)
    assert process.stdout.strip() == "[6.0, 20.0] [6.0, 10.0]", process.stderr


@pytest.mark.parametrize("options", [{"vectorized": False}, {"vectorized": False, "signature": "(),(),()->()"}, {}])
@pytest.mark.parametrize("mode", ["eager", "graph", "XLA"])
def test_needs_reach_the_loops_of_a_rule(mode, options):
    seen = []
    options = {"signature": "(n),(),(n)->()", **options}
    op = differentiable_op(lambda x, y, z: np.sum(x * y * z, axis=-1) if np.ndim(x) else x * y * z, **options)

    @op.numpy_gradient
    def rule(op, cotangent):
        seen.append(op.needs)
        x, y, z = op.inputs
        return cotangent * y * z, None, cotangent * x * y

    def differentiate(x, z):
        with tf.GradientTape() as tape:
            tape.watch([x, z])
            found = op(x, 2.0, z)
        return tape.gradient(found, [x, z])

    if options == {"signature": "(n),(),(n)->()"}:
        x, z = X, Y
        expected = [2 * Y, 2 * X]
    else:
        x, z = np.stack([X, X]), np.stack([Y, Y])
        expected = [2 * z, 2 * x]
    found = in_mode(mode, differentiate, x, z)
    tf.nest.map_structure(np.testing.assert_allclose, found, expected)
    assert set(seen) == {(True, False, True)}


@pytest.mark.parametrize("kind", JVP_KINDS)
@pytest.mark.parametrize("mode", ["eager", "graph", "XLA"])
def test_a_jvp_rule_learns_which_inputs_vary(mode, kind):
    seen = []
    op = differentiable_op(lambda x, y: x * y, signature="(),()->()")

    def rule(op, *tangents):
        seen.append(op.needs)
        np.testing.assert_equal(len(tangents), 2)
        return poisoned_jvp(op, *tangents)

    getattr(op, kind)(rule)

    def differentiate(x, y):
        with tf.autodiff.ForwardAccumulator(x, tf.ones_like(x)) as accumulator:
            z = op(x, y)
        return accumulator.jvp(z)

    assert in_mode(mode, differentiate, X, Y).tolist() == Y.tolist()
    assert set(seen) == {(True, False)}


@pytest.mark.parametrize("mode", ["eager", "graph", "XLA"])
def test_a_jvp_from_values_varies_what_varies(mode):
    n_calls, function = counted()
    op = differentiable_op(function, signature="(p),(n)->()", grad="numerical")

    def differentiate(parameters):
        data = tf.linspace(tf.constant(0.1, tf.float64), 1.0, 7)
        with tf.autodiff.ForwardAccumulator(parameters, tf.ones_like(parameters)) as accumulator:
            value = op(parameters, data)
        return accumulator.jvp(value)

    in_mode(mode, differentiate, PARAMETERS)
    assert n_calls[0] == 1 + N_CALLS_OF_DIRECTION


def test_the_op_of_a_rule_that_is_called_directly_needs_everything():
    seen = []
    rule = product("numpy_gradient", seen=seen)._definition.rule_op("vjp").op
    assert [tensor.numpy().tolist() for tensor in rule(X, Y, X * Y, X)] == [(X * Y).tolist(), (X * X).tolist()]
    assert seen == [(True, True)]


@pytest.mark.parametrize("value", ["a text", np.zeros(7), object()])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_any_value_is_ignored_where_it_is_not_needed(mode, kind, value):
    op = differentiable_op(lambda x, y: x * y, signature="(),()->()")
    getattr(op, kind)(lambda op, cotangent: (value, cotangent * op.inputs[0]))
    assert in_mode(mode, lambda x, y: by_second(op, x, y), X, Y).tolist() == X.tolist()


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_number_of_cotangents_is_checked_still(mode, kind):
    op = differentiable_op(lambda x, y: x * y, signature="(),()->()")
    getattr(op, kind)(lambda op, cotangent: (cotangent,))
    with pytest.raises((ContractError, tf.errors.InvalidArgumentError), match="the wrong number of cotangents"):
        in_mode(mode, lambda x, y: by_second(op, x, y), X, Y)


@pytest.mark.parametrize(
    "needs", ["1", "[]", "[0,0]", "[1,1]", "[true,false]", "[0,2]", '["0","1"]', "[[0],[1]]", "null", "{}"]
)
def test_needs_of_a_damaged_token_are_refused(needs):
    with pytest.raises(ValueError, match="'needs' are not flags"):
        split_needs(f'{{"needs":{needs}}}')


def test_needs_are_written_and_read():
    written = with_needs('{"static":{"k":2}}', (True, False))
    assert split_needs(written) == ('{"static":{"k":2}}', (True, False))
    assert split_needs("") == ("", None)


@pytest.mark.parametrize("needs", ["[0,1,1]", "[1,0,0]"])
def test_needs_of_another_number_of_inputs_are_refused(needs):
    token = f'tfpyop:tests.saved_ops:weighted/vjp{{"needs":{needs}}}'
    with pytest.raises((UnsupportedError, ContractError), match=r"cannot parse this op's call data|wrong number"):
        REGISTRY.require_op(token).host([X, Y, X, X])


def test_an_op_without_rules_takes_no_needs():
    with pytest.raises(UnsupportedError, match="cannot parse this op's call data in the model"):
        REGISTRY.require_op('tfpyop:tests.saved_ops:weighted{"needs":[0,1]}')


def test_needs_and_batches_are_in_one_token():
    op = REGISTRY.require_op('tfpyop:tests.saved_ops:weighted/vjp{"batch":[[1,1,1,1]],"needs":[1,0]}')
    assert op is REGISTRY.require_op(REGISTRY.token_of(op))
    (found,) = op.host([np.stack([X, X]), np.stack([Y, Y]), np.stack([X, X]), np.stack([X, X])])
    np.testing.assert_allclose(found, np.stack([2 * X * X * Y] * 2))


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_needs_reach_the_workers_of_an_executor(mode):
    seen = []
    with ThreadPoolExecutor(2) as pool:
        op = product("numpy_gradient", seen=seen, vectorized=False, executor=pool)
        assert in_mode(mode, lambda x, y: by_second(op, x, y), X, Y).tolist() == X.tolist()
    assert seen == [(False, True)] * 2
