"""Signatures that leave open which inputs a call has: `()?` for an input that may be None, `(n)*` for any number."""

import ast
import itertools
from concurrent.futures import ThreadPoolExecutor

import hypothesis
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from tests import modes
from tests.processes import run_python
from tests.saved_ops import scaled_sine, scaled_sine_gradient, weighted_sum
from tfpyop import RegistrationError, SignatureError, complex_step, differentiable_op, errors, numerical
from tfpyop._registry.op_def import REGISTRY
from tfpyop.testing import Arguments, arguments, check_gradient, check_op

X, SCALE, SLOPE = np.float32([0.5, 1, 2]), np.float32(3), np.float32([1, 0, 2])
KINDS = [(X, None, None), (X, SCALE, None), (X, None, SLOPE), (X, SCALE, SLOPE)]
"""The arguments with each combination of the optional inputs."""
every_kind = pytest.mark.parametrize("given", KINDS, ids=["x", "x, scale", "x, slope", "all"])


def present(given):
    return [value for value in given if value is not None]


def with_none(op, given):
    """Return the op as a function of the inputs that are present."""

    def function(*values):
        remaining = iter(values)
        return op(*[None if value is None else next(remaining) for value in given])

    return function


def expected(given):
    x, scale, slope = given
    y = np.sin(x) * (1 if scale is None else scale) + (0 if slope is None else slope * x)
    by_x = np.cos(x) * (1 if scale is None else scale) + (0 if slope is None else slope)
    by_rest = [None if scale is None else np.sin(x).sum(), None if slope is None else x]
    return y, present([by_x, *by_rest])


def implement(x, scale=None, slope=None):
    y = np.sin(x)
    if scale is not None:
        y = y * np.asarray(scale)[..., None]
    return y if slope is None else y + slope * x


def tf_gradient(op, cotangent):
    x, scale, slope = op.inputs
    assert not any(flag for flag, value in zip(op.needs, op.inputs, strict=True) if value is None)
    by_x = tf.cos(x) if scale is None else tf.cos(x) * scale[..., None]
    by_scale = None if scale is None else tf.reduce_sum(cotangent * tf.sin(x), -1)
    return cotangent * (by_x if slope is None else by_x + slope), by_scale, None if slope is None else cotangent * x


def numpy_jacobian(op):
    x, scale, slope = op.inputs
    by_x = np.cos(x) if scale is None else np.cos(x) * scale[..., None]
    unit = np.eye(x.shape[-1], dtype=x.dtype)
    return (
        (by_x if slope is None else by_x + slope)[..., None] * unit,
        None if scale is None else np.sin(x),
        None if slope is None else x[..., None] * unit,
    )


def tf_jacobian(op):
    x, scale, slope = op.inputs
    by_x = tf.cos(x) if scale is None else tf.cos(x) * scale[..., None]
    by_scale = None if scale is None else tf.sin(x)
    return (
        tf.linalg.diag(by_x if slope is None else by_x + slope),
        by_scale,
        None if slope is None else tf.linalg.diag(x),
    )


def equation(op):
    x, scale, slope = op.inputs
    y = tf.sin(x) if scale is None else tf.sin(x) * scale[..., None]
    return op.outputs[0] - (y if slope is None else y + slope * x)


def tf_jvp(op, by_x, by_scale, by_slope):
    x, scale, slope = op.inputs
    y = tf.cos(x) * by_x if scale is None else tf.cos(x) * by_x * scale[..., None] + tf.sin(x) * by_scale[..., None]
    assert (by_slope is None) == (slope is None)
    return y if slope is None else y + slope * by_x + by_slope * x


SIGNATURE = "(n),()?,(n)?->(n)"


def made(name, **options):
    return differentiable_op(implement, signature=SIGNATURE, name=f"tests.optional.{name}", **options)


def by_parts():
    op = made("parts")
    op.gradient(wrt="x")(lambda op, g: tf_gradient(op, g)[0])
    op.numpy_gradient(wrt=("slope", "scale"))(
        lambda op, g: (None if op.inputs[2] is None else g * op.inputs[0], (g * np.sin(op.inputs[0])).sum(-1))
    )
    return op


def attached(name, decorator, rule, **options):
    op = made(name, **options)
    getattr(op, decorator)(rule)
    return op


OPS = {
    "numpy": scaled_sine,
    "TensorFlow": made("tensorflow", grad=tf_gradient),
    "numerical": made("numerical", grad="numerical"),
    "complex step": made("complex", grad="complex-step"),
    "numpy Jacobian": attached("numpy_jacobian", "numpy_jacobian", numpy_jacobian),
    "Jacobian": attached("jacobian", "jacobian", tf_jacobian),
    "implicit": attached("implicit", "implicit", equation),
    "parts": by_parts(),
    "from a JVP": made("from_jvp", jvp=tf_jvp, grad="from-jvp"),
    "from a numpy JVP": made(
        "from_numpy_jvp", numpy_jvp=lambda op, *t: np.array(tf_jvp_in_numpy(op, *t)), grad="from-jvp"
    ),
    "looped": made("looped", vectorized=False, numpy_grad=lambda op, g: looped_gradient(op, g)),
    "rows": made("rows", vectorized="rows", grad="numerical"),
}
"""Ops with each kind of rule."""
every_op = pytest.mark.parametrize("op", OPS.values(), ids=OPS)


def tf_jvp_in_numpy(op, by_x, by_scale, by_slope):
    x, scale, slope = op.inputs
    y = np.cos(x) * by_x
    if scale is not None:
        y = y * scale[..., None] + np.sin(x) * by_scale[..., None]
    return y if slope is None else y + slope * by_x + by_slope * x


def looped_gradient(op, cotangent):
    x, scale, slope = op.inputs
    by_x = np.cos(x) * (1 if scale is None else scale) + (0 if slope is None else slope)
    by_scale = None if scale is None else (cotangent * np.sin(x)).sum()
    return cotangent * by_x, by_scale, None if slope is None else cotangent * x


@every_kind
@pytest.mark.parametrize("mode", modes.MODES)
def test_values_in_every_mode(mode, given):
    found = modes.call(mode, with_none(scaled_sine, given), *present(given))
    np.testing.assert_allclose(found, expected(given)[0], rtol=1e-6)


@every_kind
@pytest.mark.parametrize("mode", modes.GRADIENT_MODES)
def test_gradients_in_every_mode(mode, given):
    found = modes.gradient(mode, with_none(scaled_sine, given), *present(given))
    for gradient, wanted in zip(found, expected(given)[1], strict=True):
        np.testing.assert_allclose(gradient, wanted, rtol=1e-5)


@every_kind
@every_op
@pytest.mark.parametrize("mode", ["tape, eager", "gradients, session", "tape inside, XLA, unknown sizes"])
def test_every_kind_of_rule_gets_none(op, given, mode):
    found = modes.gradient(mode, with_none(op, given), *present(given))
    for gradient, wanted in zip(found, expected(given)[1], strict=True):
        np.testing.assert_allclose(gradient, wanted, rtol=1e-4, atol=1e-5)


@every_kind
@pytest.mark.parametrize("name", [name for name in OPS if name not in ("complex step", "parts", "looped")])
def test_forward_mode(name, given):
    tensors = [tf.constant(value) for value in present(given)]
    with tf.autodiff.ForwardAccumulator(tensors, [tf.ones_like(tensor) for tensor in tensors]) as accumulator:
        y = with_none(OPS[name], given)(*tensors)
    wanted = sum(np.broadcast_to(by, X.shape) for by in expected_along_ones(given))
    np.testing.assert_allclose(accumulator.jvp(y), wanted, rtol=1e-4)


def expected_along_ones(given):
    x, scale, slope = given
    yield np.cos(x) * (1 if scale is None else scale) + (0 if slope is None else slope)
    if scale is not None:
        yield np.sin(x)
    if slope is not None:
        yield x


@every_kind
def test_vectorized_map_and_its_gradient(given):
    rows = [tf.constant(np.stack([value, 2 * value])) for value in present(given)]
    with tf.GradientTape() as tape:
        tape.watch(rows)
        y = tf.vectorized_map(lambda row: with_none(scaled_sine, given)(*row), rows)
    for gradient, values in zip(tape.gradient(y, rows), rows, strict=True):
        assert gradient.shape == values.shape
    doubled = [None if value is None else 2 * value for value in given]
    np.testing.assert_allclose(y, np.stack([expected(given)[0], expected(doubled)[0]]), rtol=1e-6)


@every_kind
def test_second_derivatives_of_rules_in_tensorflow_ops(given):
    def first(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = OPS["TensorFlow"](x, *given[1:])
        return tape.gradient(y, x)

    with tf.GradientTape() as tape:
        x = tf.constant(X)
        tape.watch(x)
        found = first(x)
    scale = 1 if given[1] is None else given[1]
    np.testing.assert_allclose(tape.gradient(found, x), -np.sin(X) * scale, rtol=1e-5)


def test_the_rule_of_a_numpy_rule_gets_none_too():
    op = made("second", numpy_grad=None)
    rule = op.numpy_gradient(lambda op, g: scaled_sine_gradient.numpy(op, g))

    @rule.numpy_gradient
    def second(op, *cotangents):
        x, scale, slope, _, vector = op.inputs
        assert (scale, slope) == (None, None)
        by_x, *others = cotangents
        assert not others
        assert op.needs[1:3] == (False, False)
        return -np.sin(x) * vector * by_x, None, None, None, np.cos(x) * by_x

    x = tf.constant(X)
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = op(x)
        first = tape.gradient(y, x)
    np.testing.assert_allclose(outer.gradient(first, x), -np.sin(X), rtol=1e-5)


def test_the_op_of_a_numpy_rule_takes_none():
    x, y, cotangent = X, np.sin(X), np.ones_like(X)
    (by_x, by_slope) = scaled_sine_gradient(x, None, SLOPE, y, cotangent)
    np.testing.assert_allclose(by_x, np.cos(X) + SLOPE, rtol=1e-6)
    np.testing.assert_allclose(by_slope, X, rtol=1e-6)
    with pytest.raises(TypeError, match="input 0 is None, but it is not an optional input of the op"):
        scaled_sine_gradient(None, SCALE, SLOPE, y, cotangent)


def test_leaving_an_input_out_is_passing_none():
    assert scaled_sine(X).numpy().tolist() == scaled_sine(X, None).numpy().tolist()
    assert scaled_sine(X, slope=SLOPE).numpy().tolist() == scaled_sine(X, None, SLOPE).numpy().tolist()
    traced = tf.function(scaled_sine)
    assert traced(tf.constant(X)).numpy().tolist() == traced(tf.constant(X), None).numpy().tolist()


@pytest.mark.parametrize("op", [scaled_sine, weighted_sum], ids=lambda op: op.name)
def test_calls_that_are_found_by_their_arguments_are_the_calls_that_are_bound(op):
    definition = op._definition
    for args in ((X,), (X, None), (X, SCALE), (X, None, SLOPE), (X, SCALE, SLOPE), (X, SLOPE, X, X)):
        try:
            leaves, tree, static = definition.spec.bind_arguments(args, {})
        except (SignatureError, TypeError) as error:
            with pytest.raises(type(error)):
                definition.bind_arguments(args, {})
            continue
        for _ in range(2):  # the second call is found
            found, given = definition.bind_arguments(args, {})
            assert found is definition.specialize(tree, static)
            assert [id(leaf) for leaf in given] == [id(leaf) for leaf in leaves]


def test_the_static_shape_does_not_need_the_input():
    @tf.function(input_signature=[tf.TensorSpec([None, 3]), tf.TensorSpec([None, 1])])
    def shapes(x, scale):
        return tf.zeros(scaled_sine(x).shape[1:]), tf.zeros(scaled_sine(x, scale=scale[:, 0]).shape[1:])

    assert [zeros.shape for zeros in shapes(tf.zeros([2, 3]), tf.zeros([2, 1]))] == [[3], [3]]


def test_a_size_of_an_optional_input_is_a_run_time_size_without_it():
    op = differentiable_op(
        lambda n, x=None: np.arange(int(n)) * 1.0 if x is None else x * n,
        signature="(),(k)?->(k)",
        dtype=np.float32,
        name="tests.optional.run_time_size",
    )
    concrete = tf.function(op).get_concrete_function(tf.TensorSpec([]))
    assert concrete.output_shapes == [None]
    assert op(3.0).shape == [3]
    assert tf.function(op).get_concrete_function(tf.TensorSpec([]), tf.TensorSpec([2])).output_shapes == [2]


def test_residuals_methods_and_static_arguments():
    class Scaler:
        def __init__(self, power):
            self.power = power

        @differentiable_op(signature="(n),()?->(n)", residuals={"root": ("(n)", np.float32)})
        def scaled(self, x, scale=None, *, offset: float = 0.0):
            y = x**self.power + offset
            return (y if scale is None else y * scale), {"root": x}

        @scaled.numpy_gradient
        def scaled_gradient(self, op, cotangent):
            scale = op.inputs[1]
            by_x = self.power * op.residuals.root ** (self.power - 1) * cotangent
            if scale is None:
                return by_x, None
            return by_x * scale, (cotangent * (op.inputs[0] ** self.power + op.static.offset)).sum(-1)

    scaler = Scaler(2)
    for scale in (None, tf.constant(3.0)):
        x = tf.constant(X)
        with tf.GradientTape() as tape:
            tape.watch([value for value in (x, scale) if value is not None])
            y = scaler.scaled(x, scale, offset=1.0)
        np.testing.assert_allclose(y, (X**2 + 1) * (1 if scale is None else 3), rtol=1e-6)
        by_x = tape.gradient(y, x)
        np.testing.assert_allclose(by_x, 2 * X * (1 if scale is None else 3), rtol=1e-6)


_LOAD = """
import sys
import tensorflow as tf
import tests.saved_ops
loaded = tf.saved_model.load(sys.argv[1])
x, slope = tf.constant([0.5, 1.0, 2.0]), tf.constant([1.0, 0.0, 2.0])
with tf.GradientTape() as tape:
    tape.watch([x, slope])
    y = loaded.alone(x) + loaded.sloped(x, slope) + loaded.summed(x, slope)
print([part.numpy().tolist() for part in (y, *tape.gradient(y, [x, slope]))])
"""


@pytest.mark.parametrize("is_compiled", [False, True])
def test_a_saved_model_in_another_process(tmp_path, is_compiled):
    module, spec = tf.Module(), tf.TensorSpec([None])
    traced = {"jit_compile": is_compiled, "autograph": False}
    module.alone = tf.function(lambda x: scaled_sine(x), input_signature=[spec], **traced)
    module.sloped = tf.function(lambda x, s: scaled_sine(x, None, s), input_signature=[spec, spec], **traced)
    module.summed = tf.function(
        lambda x, s: weighted_sum(tf.constant([1.0, 2.0, 3.0]), x, s, x), input_signature=[spec, spec], **traced
    )
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=True)
    tf.saved_model.save(module, str(tmp_path), options=options)
    process = run_python("-c", _LOAD, str(tmp_path), timeout=300)
    assert process.returncode == 0, process.stderr
    y, by_x, by_slope = ast.literal_eval(process.stdout)
    np.testing.assert_allclose(y, 2 * np.sin(X) + SLOPE * X + 4 * X + 2 * SLOPE, rtol=1e-5)
    np.testing.assert_allclose(by_x, 2 * np.cos(X) + SLOPE + 4, rtol=1e-5)
    np.testing.assert_allclose(by_slope, X + 2, rtol=1e-5)


def test_functional_models_and_layers_of_keras(tmp_path):
    x, slope = keras.Input((3,)), keras.Input((3,))
    layer = scaled_sine.as_layer()
    outputs = [scaled_sine(x), scaled_sine(x, None, slope), layer(x), weighted_sum(np.float32([1, 2]), x, slope)]
    model = keras.Model([x, slope], outputs)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    values = [np.stack([X, X]), np.stack([SLOPE, SLOPE])]
    for found in (model(values), loaded(values)):
        alone, sloped, by_layer, summed = found
        np.testing.assert_allclose(alone[0], np.sin(X), rtol=1e-6)
        np.testing.assert_allclose(by_layer, alone)
        np.testing.assert_allclose(sloped[1], np.sin(X) + SLOPE * X, rtol=1e-6)
        np.testing.assert_allclose(summed[1], X + 2 * SLOPE, rtol=1e-6)


# -- any number of inputs


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("mode", modes.GRADIENT_MODES)
def test_gradients_by_any_number_of_inputs(mode, count):
    weights, vectors = np.float32([2, 3, 5][:count]), [X, SLOPE, X][:count]
    found = modes.gradient(mode, weighted_sum, weights, *vectors)
    np.testing.assert_allclose(found[0], [vector.sum() for vector in vectors], rtol=1e-6)
    for weight, gradient in zip(weights, found[1:], strict=True):
        np.testing.assert_allclose(gradient, np.full(3, weight), rtol=1e-6)


@pytest.mark.parametrize("mode", modes.MODES)
def test_no_input_of_a_repeated_core(mode):
    op = differentiable_op(
        lambda *values: np.float32(len(values)), signature="(n)*->()", dtype="float32", name="tests.optional.counted"
    )
    assert modes.call(mode, lambda x: op() + 0 * x, np.float32(1)) == 0
    assert modes.call(mode, lambda x: op(x, x), np.float32([1])) == 2


def test_a_tuple_of_any_length_with_an_optional_input():
    def implement(parts, offset=None):
        return sum(parts) + (0 if offset is None else offset)

    op = differentiable_op(implement, signature="(n)*,()?->(n)", grad="numerical", name="tests.optional.tuple")
    with tf.GradientTape() as tape:
        parts = (tf.constant(X), tf.constant(SLOPE))
        tape.watch(parts)
        y = op(parts)
    assert y.numpy().tolist() == (X + SLOPE).tolist()
    for gradient in tape.gradient(y, parts):
        np.testing.assert_allclose(gradient, np.ones(3), rtol=1e-6)
    assert op((X,), 1.0).numpy().tolist() == (X + 1).tolist()
    with pytest.raises(SignatureError, match="any number of input 0"):
        differentiable_op(implement, signature="(n)*,(),()->(n)", name="tests.optional.short")((), 1.0)


@pytest.mark.parametrize("mode", ["eager", "graph", "XLA"])
def test_any_number_of_outputs_by_the_number_of_dtypes(mode):
    op = differentiable_op(
        lambda x: (x, 2 * x, x.sum(-1)),
        signature="(n)->(n)*,()",
        dtype=(None, None, None),
        name=f"tests.optional.outputs_{mode}",
    )
    first, second, total = modes.call(mode, op, X)
    assert (first.tolist(), second.tolist(), total) == (X.tolist(), (2 * X).tolist(), 3.5)


def test_residuals_come_after_any_number_of_outputs():
    op = differentiable_op(
        lambda x: ((x, 2 * x), {"kept": 3 * x}),
        signature="(n)->(n)*",
        dtype=("float32", "float32"),
        residuals={"kept": ("(n)", np.float32)},
        numpy_grad=lambda op, first, second: first + 2 * second + 0 * op.residuals.kept,
        name="tests.optional.residuals",
    )
    with tf.GradientTape() as tape:
        x = tf.constant(X)
        tape.watch(x)
        first, second = op(x)
    assert tape.gradient([first, second], x).numpy().tolist() == [3, 3, 3]


# -- errors


def message(call, kind=SignatureError):
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value).partition(": ")[2]


@pytest.mark.parametrize("mode", modes.WITHOUT_XLA)
def test_none_for_an_input_that_is_not_optional_is_an_error(mode):
    text = (
        "'x' is None, but the signature does not mark this input as optional.\n"
        "  Expected: a tensor\n"
        "  Got:      None\n"
        '  Pass a tensor. To make the input optional, mark it with "?", as in signature="(n),()?->(n)", and give its '
        "parameter the default None."
    )
    found = message(lambda: modes.call(mode, lambda scale: scaled_sine(None, scale), SCALE))
    assert found.endswith(text)


def test_a_mark_without_a_default_of_none_is_an_error():
    text = (
        "input 1 is optional in the signature, but its parameter does not have the default None.\n"
        "  Expected: a parameter with default None, because of the '?' in signature '(n),()?->(n)'\n"
        "  Got:      parameters (x, scale)\n"
        "  Write, for example, def f(x, weights=None), or remove the '?'."
    )
    found = message(lambda: differentiable_op(lambda x, scale: x, signature="(n),()?->(n)"), RegistrationError)
    assert found.endswith(text)


@pytest.mark.parametrize(
    ("signature", "problem"),
    [
        ("(n)->(n)?", "outputs without '?', because only inputs can be optional"),
        ("(n)*,(n)*->()", "only one '*' on each side of '->'"),
        ("(n)->(n)*,()*", "only one '*' on each side of '->'"),
        ("(n),(k)?->(k+1)", "but only optional inputs have 'k'"),
        ("(n),(k)?,(n+k)->()", "cannot solve signature"),
    ],
)
def test_marks_that_mean_nothing_are_errors(signature, problem):
    with pytest.raises(SignatureError) as caught:
        differentiable_op(lambda *values: values, signature=signature)
    assert problem in str(caught.value)


def test_an_open_number_of_outputs_needs_dtypes():
    text = (
        "signature= leaves the number of outputs open, and dtype= does not determine it.\n"
        "  Expected: a tuple or dict of 1 or more dtypes for signature '(n)->(n)*'\n"
        "  Got:      dtype='float32'\n"
        '  Pass a dtype for each output, for example dtype=("float32",) * 3. None stands for the result type of the '
        "inputs."
    )
    call = lambda: differentiable_op(lambda x: x, signature="(n)->(n)*", dtype="float32")  # noqa: E731  # one claim
    assert message(call, RegistrationError).endswith(text)


def test_messages_count_the_inputs_as_the_caller_does():
    with pytest.raises(SignatureError, match=r"input 2 does not fit signature .*\n.*as in input 0 of shape"):
        scaled_sine(X, None, SLOPE[:2])
    with pytest.raises(errors.CoercionError, match="input 2 is"):
        scaled_sine(X, None, tf.sparse.from_dense(SLOPE))
    op = made("wrong", grad=lambda op, g: (g, None, g[:2]))
    x, slope = tf.constant(X), tf.constant(SLOPE)
    with tf.GradientTape() as tape:
        tape.watch([x, slope])
        y = op(x, None, slope)
    with pytest.raises(errors.ContractError, match="the cotangent of input 2 has the wrong shape"):
        tape.gradient(y, slope)


def test_a_rule_returns_a_value_for_each_input_of_the_signature():
    op = made("short", grad=lambda op, g: (g, g))
    with tf.GradientTape() as tape:
        x = tf.constant(X)
        tape.watch(x)
        y = op(x)
    with pytest.raises(errors.ContractError, match=r"Expected: 3, one for each of op\.inputs"):
        tape.gradient(y, x)


@pytest.mark.parametrize(
    "payload", ['{"inputs":["none","leaf","leaf"]}', '{"inputs":["leaf","leaf"]}', '{"inputs":[]}']
)
def test_a_token_for_other_inputs_is_refused(payload):
    with pytest.raises(errors.UnsupportedError, match="cannot parse this op's call data"):
        REGISTRY.require_op(f"tfpyop:{scaled_sine.name}{payload}")


# -- checks


def test_examples_have_and_leave_out_optional_inputs():
    drawn = set()

    def body(example):
        drawn.add(tuple(value is None for value in example.args))

    hypothesis.settings(max_examples=60, database=None, deadline=None)(hypothesis.given(arguments(scaled_sine))(body))()
    assert drawn == {(False, *flags) for flags in itertools.product([False, True], repeat=2)}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["TensorFlow", "looped", "rows"])
def test_right_ops_pass(name):
    drawn = arguments(OPS[name], domain="[-2, 2]", dtypes=["float64"])
    check_op(OPS[name], arguments=drawn, max_examples=5, seed=1)


@pytest.mark.slow
def test_any_number_of_inputs_passes_the_check_of_saved_models():
    counts = st.integers(1, 3)
    drawn = counts.map(lambda n: Arguments((np.arange(n) + 1.0, *[np.float64(X) + n] * n)))
    check_op(weighted_sum, arguments=drawn, max_examples=6, seed=1)


def test_a_wrong_derivative_without_the_input_is_found():
    def wrong(op, cotangent):
        by_x, *others = tf_gradient(op, cotangent)
        return (2 * by_x if op.inputs[1] is None else by_x, *others)

    op = made("wrong_without", grad=wrong)
    with pytest.raises(AssertionError, match="the cotangent of input 0"):
        check_gradient(op, max_examples=20)


# -- other options


def _in_tensorflow(x, scale=None, slope=None):
    y = tf.sin(x) if scale is None else tf.sin(x) * scale[..., None]
    return y if slope is None else y + slope * x


native = made("native", grad=tf_gradient, prefer="native")
native.native(_in_tensorflow)

OTHER_OPS = [
    native,
    made("threads", vectorized=False, executor=ThreadPoolExecutor(2), numpy_grad=looped_gradient),
    made("pattern", grad=numerical(sparsity=(np.eye(3), True, np.eye(3)))),
    made("sized_pattern", grad=complex_step(sparsity=lambda n: (np.eye(n), True, np.eye(n)))),
]


@every_kind
@pytest.mark.parametrize("op", OTHER_OPS, ids=lambda op: op.name)
@pytest.mark.parametrize("mode", ["tape, eager", "tape inside, XLA"])
def test_native_implementations_executors_and_patterns(mode, op, given):
    found = modes.gradient(mode, with_none(op, given), *present(given))
    for gradient, wanted in zip(found, expected(given)[1], strict=True):
        np.testing.assert_allclose(gradient, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("offset", [None, np.float32([1, 2, 3])], ids=["without", "with"])
def test_the_adjoint_of_an_op_with_an_optional_input(offset):
    op = differentiable_op(
        lambda x, offset=None: 2 * x if offset is None else 2 * x + 3 * offset,
        signature="(n),(n)?->(n)",
        name="tests.optional.linear",
    )
    op.numpy_adjoint(lambda op, g: (2 * g, None if op.inputs[1] is None else 3 * g))
    values = present((X, offset))
    for mode in ("tape, eager", "tape inside", "tape inside, XLA"):
        found = modes.gradient(mode, op, *values)
        assert [gradient.tolist() for gradient in found] == [[2] * 3, [3] * 3][: len(values)]
    tensors = [tf.constant(value) for value in values]
    with tf.autodiff.ForwardAccumulator(tensors, [tf.ones_like(tensor) for tensor in tensors]) as accumulator:
        y = op(*tensors)
    assert accumulator.jvp(y).numpy().tolist() == [2 if offset is None else 5] * 3
