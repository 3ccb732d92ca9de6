"""An exception in user code reaches the caller, and both process and op go on working."""

import sys
import traceback

import numpy as np
import pytest
import tensorflow as tf

from tests import modes
from tfpyop import differentiable_op

X = np.float32([1, 2, 3])


class OwnError(Exception):
    """An exception nobody but the user knows."""


def failing_once(error):
    """An op that raises at its first call and then works."""
    errors = [error]

    def function(x):
        if errors:
            raise errors.pop()
        return 2 * x

    return differentiable_op(function, signature="()->()")


ERRORS = [
    ValueError("wrong value"),
    OwnError("all my own"),
    KeyboardInterrupt("stop"),
    StopIteration("the end"),
    KeyError(3),
]
every_error = pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)


@every_error
def test_eager_calls_raise_the_original_object(error):
    op = failing_once(error)
    with pytest.raises(type(error)) as caught:
        op(X)
    assert caught.value is error
    assert "raise errors.pop()" in "".join(traceback.format_exception(error))
    assert op(X).numpy().tolist() == [2, 4, 6]


def test_the_note_on_the_original_object_names_op_and_inputs():
    error = OwnError("all my own")
    with pytest.raises(OwnError, match="all my own"):
        failing_once(error)(X)
    if hasattr(error, "__notes__"):  # Python 3.11
        assert error.__notes__ == [
            "Raised in op 'tests.test_exceptions:failing_once.<locals>.function' (tests/test_exceptions.py:24), "
            "called with float32[3]."
        ]


@pytest.mark.parametrize(
    ("mode", "error"),
    [
        (mode, error)
        for mode in modes.MODES
        for error in ERRORS
        if mode != "eager" and not (mode in modes.XLA_MODES and isinstance(error, KeyboardInterrupt))
    ],
    ids=str,
)
def test_graphs_raise_an_error_with_op_inputs_and_traceback_in_its_text(mode, error):
    op = failing_once(error)
    with pytest.raises(tf.errors.OpError) as caught:
        modes.call(mode, op, X)
    text = str(caught.value)
    assert "failing_once.<locals>.function' (tests/test_exceptions.py:24): the function raised" in text
    assert f"{type(error).__name__}: {error}" in text
    assert "Called with: float32[3]" in text
    assert "raise errors.pop()" in text
    assert modes.call(mode, op, X).tolist() == [2, 4, 6]


def failing_rule(kind):
    """An op with a rule of a kind that always raises; for `numerical`, the function raises in the rule."""
    if kind == "numerical":
        calls = []

        def once(x):
            calls.append(x)
            if len(calls) > 1:
                raise OwnError("not today")
            return x

        return differentiable_op(once, signature="()->()", grad="numerical")
    op = differentiable_op(lambda x: x, signature="()->()")

    @getattr(op, kind)
    def fail(op, *vectors):
        raise OwnError("not today")

    return op


@pytest.mark.parametrize("mode", ["tape inside", "tape outside", "gradients", "tape inside, XLA"])
@pytest.mark.parametrize("kind", ["numpy_gradient", "numpy_jacobian", "numpy_adjoint", "numerical"])
def test_graphs_say_whether_the_rule_or_the_function_raised(mode, kind):
    what = "function" if kind == "numerical" else "rule"
    with pytest.raises(tf.errors.OpError, match=rf"/vjp' .*: the {what} raised OwnError: not today\n  Called with: "):
        modes.gradient(mode, failing_rule(kind), X)


def test_a_batch_in_a_graph_says_that_the_rule_raised():
    op = failing_rule("numpy_gradient")

    def derivative(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = op(x)
        return tape.gradient(y, x)

    with pytest.raises(tf.errors.OpError, match=r"/vjp' .*: the rule raised OwnError"):
        tf.vectorized_map(derivative, tf.constant(X))


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exceptions have notes since Python 3.11")
@pytest.mark.parametrize(
    ("kind", "advice"),
    [
        ("numpy_jacobian", "A Jacobian rule is called as rule(op)."),
        ("numpy_gradient", "The rule is called as rule(op, cotangent)."),
    ],
)
def test_graphs_say_how_a_rule_is_called_next_to_its_exception(kind, advice):
    op = differentiable_op(lambda x: x, signature="()->()")
    getattr(op, kind)(lambda op, x, y: x)
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        modes.gradient("tape inside", op, X)
    assert f"\n  Called with: float32[3], float32[3], float32[3]\n  {advice}\n" in str(caught.value)


class RefusingError(Exception):
    """An exception that refuses to tell what it consists of."""

    @property
    def exceptions(self):
        raise RuntimeError("no")


def with_exceptions(value):
    error = OwnError("all my own")
    error.exceptions = value
    return error


@pytest.mark.parametrize("mode", ["graph", "XLA"])
@pytest.mark.parametrize(
    "error",
    [*map(with_exceptions, [None, 7, "text", {"a": ValueError()}, [None, "text", ValueError()]]), RefusingError("no")],
    ids=lambda error: str(vars(error)),
)
def test_exceptions_that_resemble_groups_are_reported(mode, error):
    with pytest.raises(tf.errors.UnknownError, match=rf"the function raised {type(error).__name__}: {error}"):
        modes.call(mode, failing_once(error), X)


@pytest.mark.parametrize("error", [KeyboardInterrupt("stop"), SystemExit(3)], ids=str)
def test_a_wish_to_stop_leaves_compiled_code_as_what_it_is(error):
    op = failing_once(error)
    variable = tf.Variable(X)

    @tf.function(jit_compile=True)
    def function(x):
        variable.assign(op(x))

    makes_calls_in_this_thread = tuple(map(int, tf.__version__.split(".")[:2])) >= (2, 20)
    with pytest.raises(type(error) if makes_calls_in_this_thread else tf.errors.CancelledError, match=str(error)):
        function(X)
    assert variable.numpy().tolist() == X.tolist()
    assert sys.gettrace() is None
    function(X)
    assert variable.numpy().tolist() == [2, 4, 6]


@pytest.mark.parametrize("mode", ["graph", "XLA"])
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError(), tf.errors.InvalidArgumentError),
        (TypeError(), tf.errors.InvalidArgumentError),
        (NotImplementedError(), tf.errors.UnimplementedError),
        (MemoryError(), tf.errors.ResourceExhaustedError),
        (StopIteration(), tf.errors.UnknownError),
    ],
)
def test_graphs_keep_the_status_of_an_exception(mode, error, status):
    with pytest.raises(status, match="the function raised"):
        modes.call(mode, failing_once(error), X)


def test_a_stop_iteration_does_not_end_a_dataset_in_silence():
    dataset = tf.data.Dataset.range(3).map(failing_once(StopIteration()))
    with pytest.raises(tf.errors.UnknownError, match="raised StopIteration"):
        list(dataset)


@pytest.mark.parametrize("mode", ["tape, eager", "tape inside", "gradients, session"])
@pytest.mark.parametrize("kind", ["grad", "numpy_grad"])
def test_an_exception_in_a_rule_reaches_the_caller(mode, kind):
    def rule(op, cotangent):
        raise ValueError("no idea")

    op = differentiable_op(lambda x: x, signature="()->()", **{kind: rule})
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match="no idea"):
        modes.gradient(mode, op, X)


@pytest.mark.parametrize("mode", modes.MODES)
def test_writing_to_an_input_is_refused_with_a_hint(mode):
    def function(x):
        x += 1
        return x

    x = X.copy()
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match=r"(?s)read-only.*x = x.copy\(\)"):
        modes.call(mode, differentiable_op(function, signature="()->()"), x)
    assert x.tolist() == [1, 2, 3]
