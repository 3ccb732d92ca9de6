"""`@op.native`: the same function in TensorFlow ops, on request and where Python cannot run."""

import re
import sys

import numpy as np
import pytest
import tensorflow as tf

import tfpyop
from tests import modes
from tfpyop import ContractError, RegistrationError, UnsupportedError, differentiable_op
from tfpyop._lowering import native

X = np.float32([1, 2, 3])


def cube(**options):
    """An op with an implementation of its own in TensorFlow, and the list of the calls of its function."""
    calls = []
    op = differentiable_op(lambda x: (calls.append(1), x**3)[1], signature="()->()", **options)
    op.native(lambda x: x**3)
    return op, calls


RULES = {
    "no rule": {},
    "TensorFlow rule": {"grad": lambda op, g: 3 * op.inputs[0] ** 2 * g},
    "numpy rule": {"numpy_grad": lambda op, g: 3 * op.inputs[0] ** 2 * g},
}


@pytest.mark.parametrize("mode", modes.MODES)
@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_the_native_implementation_is_called_on_request(mode, rules):
    op, calls = cube(**rules)
    with tfpyop.prefer_native():
        assert modes.call(mode, op, X).tolist() == [1, 8, 27]
    assert calls == []
    if mode not in modes.XLA_MODES:
        assert modes.call(mode, op, X).tolist() == [1, 8, 27]
        assert calls == [1]


@pytest.mark.parametrize("mode", modes.GRADIENT_MODES)
@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_its_gradient_is_that_of_the_op_or_tensorflows(mode, rules):
    op, calls = cube(prefer="native", **rules)
    np.testing.assert_allclose(modes.gradient(mode, op, X)[0], 3 * X**2, rtol=1e-6)
    assert calls == []


def test_the_rules_of_the_op_come_first():
    op = differentiable_op(lambda x: np.round(x), prefer="native", grad=lambda op, g: 7 * g, signature="()->()")
    op.native(tf.round)
    for function in (op, tf.function(op), lambda x: tf.vectorized_map(op, x), lambda x: tf.vectorized_map(op, x[None])):
        assert modes.gradient("tape, eager", function, X)[0].tolist() == [7, 7, 7]
        assert modes.gradient("gradients", function, X)[0].tolist() == [7, 7, 7]


def test_non_differentiable_stays_so():
    op = differentiable_op(lambda x: x, signature="()->()", non_differentiable=True, prefer="native")
    op.native(tf.identity)
    assert modes.gradient("tape, eager", op, X) == [None]


def test_a_preference_can_be_taken_back():
    op, calls = cube(prefer="native")
    with tfpyop.prefer_native(False):
        op(X)
    assert calls == [1]


def test_several_outputs_and_static_arguments():
    op = differentiable_op(lambda x, *, k=2: {"a": x * k, "b": x}, dtype={"a": None, "b": None}, prefer="native")
    op.native(lambda x, *, k: {"a": x * k, "b": x + 0})
    result = op(X, k=5)
    assert {name: tensor.numpy().tolist() for name, tensor in result.items()} == {"a": [5, 10, 15], "b": [1, 2, 3]}


def test_a_method_may_have_one():
    class Scale:
        factor = 3

        @differentiable_op(signature="()->()", prefer="native")
        def scaled(self, x):
            raise AssertionError

        @scaled.native
        def scaled_native(self, x):
            return self.factor * x

    assert Scale().scaled(X).numpy().tolist() == [3, 6, 9]


@pytest.mark.parametrize(
    ("implementation", "got"),
    [
        (lambda x: tf.cast(x, tf.float64), "float64[3]"),
        (lambda x: tf.reduce_sum(x), "float32[]"),
        (lambda x: None, "None"),
    ],
)
def test_what_it_returns_is_checked_against_the_declaration(implementation, got):
    op = differentiable_op(lambda x: x, signature="()->()", prefer="native")
    op.native(implementation)
    with pytest.raises(ContractError, match=rf"native implementation of op .*output 0(.*\n)*.*Got: +{re.escape(got)}"):
        op(X)


def test_two_are_refused():
    op, _ = cube()
    with pytest.raises(RegistrationError, match="the op already has a native implementation"):
        op.native(tf.identity)


def test_a_preference_for_nothing_known_is_refused():
    with pytest.raises(RegistrationError, match="prefer= is not the name of an implementation"):
        differentiable_op(lambda x: x, prefer="cuda")


@pytest.fixture
def accelerator(monkeypatch):
    monkeypatch.setattr(native, "_is_on_accelerator", lambda: True)


def test_xla_on_an_accelerator_asks_for_a_native_implementation(accelerator):
    op = differentiable_op(lambda x: x, signature="()->()")
    with pytest.raises(UnsupportedError, match=r"for an accelerator, where Python cannot run.\n.*with @op.native"):
        tf.function(op, jit_compile=True)(X)


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_xla_on_an_accelerator_calls_nothing_else(accelerator, rules):
    op, calls = cube(**rules)
    assert modes.gradient("tape inside, XLA", op, X)[0].tolist() == [3, 12, 27]
    assert calls == []


def test_a_function_placed_on_the_cpu_runs_python(monkeypatch):
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [kind])
    op, calls = cube()

    @tf.function(jit_compile=True)
    def function(x):
        with tf.device("CPU"):
            return op(x)

    assert function(X).numpy().tolist() == [1, 8, 27]
    assert calls == [1]


def test_the_op_of_a_rule_may_have_one():
    op = differentiable_op(lambda x: x**3, signature="()->()")
    op.native(lambda x: x**3)

    @op.numpy_gradient
    def rule(op, cotangent):
        raise AssertionError

    rule.native(lambda op, cotangent: 5 * cotangent * op.inputs[0])
    with tfpyop.prefer_native():
        assert rule(X, X**3, X).numpy().tolist() == [5, 20, 45]


@pytest.mark.parametrize("mode", modes.MODES)
def test_an_op_that_prefers_what_it_lacks_says_so(mode):
    op = differentiable_op(lambda x: x, signature="()->()", prefer="native")
    with pytest.raises(UnsupportedError, match=r'created with prefer="native", but has no native.*\n.*with @op\.nativ'):
        modes.call(mode, op, X)
    with tfpyop.prefer_native(False):
        assert modes.call(mode, op, X).tolist() == [1, 2, 3]


def test_rules_need_no_native_implementation_of_their_own():
    op, calls = cube(prefer="native", numpy_grad=lambda op, g: 3 * op.inputs[0] ** 2 * g)
    assert modes.gradient("tape, eager", op, X)[0].tolist() == [3, 12, 27]
    assert calls == []


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exceptions take notes since 3.11")
@pytest.mark.parametrize("mode", ["eager", "graph", "XLA"])
def test_an_exception_of_it_names_the_op(mode):
    op = differentiable_op(lambda x: x, signature="()->()", prefer="native")

    @op.native
    def broken(x):
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken") as caught:
        modes.call(mode, op, X)
    assert any(
        note.startswith(f"Raised in the native implementation of {op._definition.subject}, called with float32[3]")
        for note in caught.value.__notes__
    )


@pytest.mark.parametrize("mode", modes.GRADIENT_MODES)
def test_with_residuals_tensorflow_differentiates_it(mode):
    op = differentiable_op(
        lambda x: (x**3, {"square": x * x}),
        signature="()->()",
        residuals={"square": ("()", np.float32)},
        grad=lambda op, g: 3 * op.residuals.square * g,
    )
    op.native(lambda x: x**3)
    np.testing.assert_allclose(modes.gradient(mode, op, X)[0], 3 * X**2, rtol=1e-6)
    with tfpyop.prefer_native():
        np.testing.assert_allclose(modes.gradient(mode, op, X)[0], 3 * X**2, rtol=1e-6)


@pytest.mark.parametrize("is_compiled", [False, True])
def test_sizes_that_are_not_known_yet_are_checked_against_the_declaration(is_compiled):
    op = differentiable_op(lambda x: np.diff(x, prepend=0), signature="(n)->(n)", prefer="native")
    op.native(lambda x: x[..., 1:] - x[..., :-1])
    call = tf.function(
        lambda x: tf.reduce_mean(op(x)), jit_compile=is_compiled, input_signature=[tf.TensorSpec([None])]
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match="output 0 does not have the declared shape"):
        call(tf.constant([1.0, 2.0, 4.0]))


@pytest.mark.parametrize("is_compiled", [False, True])
def test_sizes_that_are_not_known_yet_and_right_are_let_through(is_compiled):
    op = differentiable_op(np.matmul, signature="(m,k),(k,n)->(m,n)", prefer="native")
    op.native(tf.matmul)
    call = tf.function(
        op, jit_compile=is_compiled, input_signature=[tf.TensorSpec([None] * 3), tf.TensorSpec([None] * 2)]
    )
    x, y = np.ones((2, 3, 4), np.float32), np.ones((4, 5), np.float32)
    np.testing.assert_array_equal(call(x, y), x @ y)
    gradient = tf.function(
        lambda x, y: tf.gradients(op(x, y), x), jit_compile=is_compiled, input_signature=call.input_signature
    )
    np.testing.assert_array_equal(gradient(x, y)[0], np.full((2, 3, 4), 5.0))


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="the calls would run on a GPU")
@pytest.mark.parametrize("mode", [mode for mode in modes.WITHOUT_XLA if mode != "session"])  # which places by itself
def test_calls_that_are_placed_on_a_missing_gpu_run_on_the_host(mode):
    op = differentiable_op(lambda x: x + 1, signature="()->()", numpy_grad=lambda op, g: 3 * g)

    def on_gpu(x):
        with tf.device("/GPU:0"):
            return op(x)

    with_soft_placement = tf.config.get_soft_device_placement()
    tf.config.set_soft_device_placement(True)
    try:
        assert modes.call(mode, on_gpu, X).tolist() == [2, 3, 4]
        for gradient_mode in ("tape, eager", "tape inside"):
            assert modes.gradient(gradient_mode, on_gpu, X)[0].tolist() == [3, 3, 3]
    finally:
        tf.config.set_soft_device_placement(with_soft_placement)
