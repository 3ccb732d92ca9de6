"""What a user reads: the whole text of every error; exactly if the call is eager, within TensorFlow's text if not.

In the texts `{op}` stands for the op that is wrong: its name, and the file and line where it is.
"""

import importlib
import inspect
import itertools
import pickle
import re
import runpy
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import tensorflow as tf

import tfpyop
from tests import modes
from tfpyop import (
    CoercionError,
    ContractError,
    GradientError,
    RegistrationError,
    SignatureError,
    UnsupportedError,
    differentiable_op,
    get_op,
)
from tfpyop._lowering.xla import ffi, layouts

X = np.float32([1, 2, 3])
A = np.ones((2, 3), np.float32)


@pytest.fixture(autouse=True)
def _in_the_root_of_the_repository(monkeypatch):
    monkeypatch.chdir(Path(__file__).parent.parent)  # places in texts are relative to the working directory


def place(function):
    """File and line of a function of this module."""
    return f"tests/test_messages.py:{function.__code__.co_firstlineno}"


def subject(op):
    """How a text names an op of a function of this module."""
    return f"op '{op.name}' ({place(op.numpy)})"


has_notes = pytest.mark.skipif(sys.version_info < (3, 11), reason="exceptions have notes since Python 3.11")


def check(kind, text, call, *, is_exact=True):
    """The call raises an error of this kind with exactly this text; or TensorFlow's, with the text as a part of it."""
    kinds = kind if is_exact else (kind, tf.errors.OpError)
    with pytest.raises(kinds, match=re.escape(text.splitlines()[0])) as caught:
        call()
    if is_exact:
        assert str(caught.value) == text
    else:
        assert text in str(caught.value)


every_mode = pytest.mark.parametrize("mode", modes.WITHOUT_XLA)
every_gradient_mode = pytest.mark.parametrize("mode", modes.GRADIENT_MODES_WITHOUT_XLA)
every_plain_mode = pytest.mark.parametrize("mode", ["eager", "graph", "session"])


# -- results of functions

OUTPUTS = {
    "two for one": (
        ContractError,
        differentiable_op(lambda x: (x, x), signature="()->()"),
        """\
{op}: the function returned the wrong number of outputs.
  Expected: 1 output
  Got:      a tuple of 2
  Name every output in the signature, for example signature="()->(),()", or pass dtype= as a tuple. For a single \
array, return np.stack(...).""",
    ),
    "an empty tuple": (
        ContractError,
        differentiable_op(lambda x: ()),
        """\
{op}: the function returned the wrong number of outputs.
  Expected: 1 output
  Got:      a tuple of 0
  Name every output in the signature, for example signature="()->(),()", or pass dtype= as a tuple. For a single \
array, return np.stack(...).""",
    ),
    "three for two": (
        ContractError,
        differentiable_op(lambda x: (x, x, x), signature="()->(),()"),
        """\
{op}: the function returned its outputs in the wrong form.
  Expected: 2 outputs as declared
  Got:      expected 2 values, got 3
  Return a tuple: return a, b. To return a dict, pass dtype= as a dict.""",
    ),
    "one for two": (
        ContractError,
        differentiable_op(lambda x: (x,), signature="()->(),()"),
        """\
{op}: the function returned its outputs in the wrong form.
  Expected: 2 outputs as declared
  Got:      expected 2 values, got 1
  Return a tuple: return a, b. To return a dict, pass dtype= as a dict.""",
    ),
    "an array for two": (
        ContractError,
        differentiable_op(lambda x: x, signature="()->(),()"),
        """\
{op}: the function returned its outputs in the wrong form.
  Expected: 2 outputs as declared
  Got:      expected 2 values, got an ndarray
  Return a tuple: return a, b. To return a dict, pass dtype= as a dict.""",
    ),
    "an array for a dict": (
        ContractError,
        differentiable_op(lambda x: x, dtype={"mean": None, "count": int}),
        """\
{op}: the function returned its outputs in the wrong form.
  Expected: 2 outputs as declared
  Got:      expected a dict, got an ndarray
  Return the outputs in the same form as dtype=.""",
    ),
    "a dict with other keys": (
        ContractError,
        differentiable_op(lambda x: {"mean": x, "size": 3}, dtype={"mean": None, "count": int}),
        """\
{op}: the function returned its outputs in the wrong form.
  Expected: 2 outputs as declared
  Got:      expected keys 'count', 'mean', got keys 'mean', 'size'
  Return the outputs in the same form as dtype=.""",
    ),
    "None": (
        ContractError,
        differentiable_op(lambda x: None, signature="()->()"),
        """\
{op}: output 0 is None.
  Expected: an array or number
  Got:      None
  Check that the function has a return statement.""",
    ),
    "None among two": (
        ContractError,
        differentiable_op(lambda x: (x, None), signature="()->(),()"),
        """\
{op}: output 1 is None.
  Expected: an array or number
  Got:      None
  Check that the function has a return statement.""",
    ),
    "another size": (
        ContractError,
        differentiable_op(lambda x: np.zeros(2), signature="(n)->(n)"),
        """\
{op}: output 0 has the wrong shape.
  Expected: float32[3]
  Got:      float64[2]
  The signature requires this shape for inputs float32[3]. Fix the signature, or return an array of this shape.""",
    ),
    "another rank in a list": (
        ContractError,
        differentiable_op(lambda x: (x, [[1, 2]]), signature="(n)->(n),(2)"),
        """\
{op}: output 1 has the wrong shape.
  Expected: float32[2]
  Got:      int64[1, 2]
  The signature requires this shape for inputs float32[3]. Fix the signature, or return an array of this shape.""",
    ),
    "another rank than that of a run-time size": (
        ContractError,
        differentiable_op(lambda x: x[None], signature="(n)->(k)"),
        """\
{op}: output 0 has the wrong shape.
  Expected: float32[?]
  Got:      float32[1, 3]
  The signature requires this shape for inputs float32[3]. Fix the signature, or return an array of this shape.""",
    ),
    "another shape than that of the shape function": (
        ContractError,
        differentiable_op(lambda x: x, shape=lambda shape: (2, *shape)),
        """\
{op}: output 0 has the wrong shape.
  Expected: float32[2, 3]
  Got:      float32[3]
  The shape function requires this shape for inputs float32[3]. Fix the shape function, or return an array of \
this shape.""",
    ),
    "different run-time sizes": (
        ContractError,
        differentiable_op(lambda x: (x[:2], x[:1]), signature="(n)->(k),(k)"),
        """\
{op}: the size 'k' of output 1 differs from its size in an earlier output.
  Expected: k = 2
  Got:      k = 1
  Signature '(n)->(k),(k)' declares these sizes as equal. If they differ, use two names.""",
    ),
    "floats for integers": (
        CoercionError,
        differentiable_op(lambda x: x / 2, signature="()->()", dtype=np.int32),
        """\
{op}: output 0 has the wrong dtype.
  Expected: int32[3]
  Got:      float32[3]
  Declare dtype=np.float32, or convert the result in the function.""",
    ),
    "bfloat16 for integers": (
        CoercionError,
        differentiable_op(lambda x: x.astype(tf.bfloat16.as_numpy_dtype), signature="()->()", dtype=np.int32),
        """\
{op}: output 0 has the wrong dtype.
  Expected: int32[3]
  Got:      bfloat16[3]
  Declare dtype="bfloat16", or convert the result in the function.""",
    ),
    "integers for booleans": (
        CoercionError,
        differentiable_op(lambda x: x.astype(np.int64), signature="()->()", dtype=bool),
        """\
{op}: output 0 has the wrong dtype.
  Expected: bool[3]
  Got:      int64[3]
  Declare dtype=np.int64, or convert the result in the function.""",
    ),
    "complex numbers for floats": (
        CoercionError,
        differentiable_op(lambda x: x * 1j, signature="()->()"),
        """\
{op}: output 0 has the wrong dtype.
  Expected: float32[3]
  Got:      complex64[3]
  Return the real part, or declare dtype=np.complex64.""",
    ),
    "text for floats": (
        CoercionError,
        differentiable_op(lambda x: "text", signature="(n)->()"),
        """\
{op}: output 0 has the wrong dtype.
  Expected: float32[]
  Got:      string[]
  Declare dtype="string".""",
    ),
    "an array of text for floats": (
        CoercionError,
        differentiable_op(lambda x: np.array(["a", "b"]), signature="(n)->(2)"),
        """\
{op}: output 0 has the wrong dtype.
  Expected: float32[2]
  Got:      string[2]
  Declare dtype="string".""",
    ),
    "floats for text": (
        CoercionError,
        differentiable_op(lambda x: x, signature="()->()", dtype="string"),
        """\
{op}: output 0 has the wrong dtype.
  Expected: string[3]
  Got:      float32[3]
  Return strings, or declare dtype=np.float32.""",
    ),
    "dates": (
        CoercionError,
        differentiable_op(lambda x: np.datetime64("2026-01-01"), signature="(n)->()"),
        """\
{op}: output 0 has the wrong dtype.
  Expected: float32[]
  Got:      datetime64[D][]
  Return numbers: TensorFlow does not support this dtype.""",
    ),
    "an object": (
        CoercionError,
        differentiable_op(lambda x: {1, 2}, signature="(n)->()"),
        """\
{op}: output 0 is not a tensor, array, number or string.
  Got:      set: {1, 2}
  Return an array. For several outputs, name them in the signature, or give dtype= as a tuple or dict of the same \
form.""",
    ),
    "a ragged list": (
        CoercionError,
        differentiable_op(lambda x: [[1], [1, 2]], signature="(n)->(n)"),
        """\
{op}: output 0 is a nested list with rows of different lengths, which cannot become an array.
  Pad the rows, or pass each row as a separate array.""",
    ),
    "a float too large": (
        CoercionError,
        differentiable_op(lambda x: np.float64([1e300, -1e301, np.inf]), signature="()->()"),
        """\
{op}: output 0 has a finite value outside the range of float32.
  Expected: float32[3]
  Got:      float64[3] with -1e+301
  Scale the values, or use float64 for tensors and dtype=.""",
    ),
    "an integer too large": (
        CoercionError,
        differentiable_op(lambda x: np.int64([1, -300, 2]), signature="()->()", dtype=np.int8),
        """\
{op}: output 0 has a finite value outside the range of int8.
  Expected: int8[3]
  Got:      int64[3] with -300
  Scale the values, or use int64 for tensors and dtype=.""",
    ),
    "a complex number too large": (
        CoercionError,
        differentiable_op(lambda x: 1e300j, signature="(n)->()", dtype=np.complex64),
        """\
{op}: output 0 has a finite value outside the range of complex64.
  Expected: complex64[]
  Got:      complex128[] with 1e+300
  Scale the values, or use complex128 for tensors and dtype=.""",
    ),
}


@every_mode
@pytest.mark.parametrize(("kind", "op", "text"), OUTPUTS.values(), ids=OUTPUTS)
def test_a_result_that_breaks_the_contract(mode, kind, op, text):
    text = text.replace("{op}", subject(op))
    check(kind, text, lambda: modes.call(mode, op, X), is_exact=mode == "eager")


def test_a_floating_result_of_integer_inputs():
    op = differentiable_op(lambda x: x / 2, signature="()->()")
    text = f"""\
{subject(op)}: output 0 has the wrong dtype.
  Expected: int32[]
  Got:      float64[]
  Pass floating inputs (2.0 instead of 2), convert the result, or declare dtype=np.float64."""
    check(CoercionError, text, lambda: op(2))


RESIDUALS = {
    "an array alone": (
        ContractError,
        differentiable_op(lambda x: x, signature="(n)->(n)", residuals={"lu": ("(n)", float)}),
        """\
{op}: the function did not return its residuals.
  Expected: (outputs, {'lu': ...})
  Got:      an ndarray
  Return outputs, {'lu': ...}.""",
    ),
    "an array in place of the dict": (
        ContractError,
        differentiable_op(lambda x: (x, x), signature="(n)->(n)", residuals={"lu": ("(n)", float)}),
        """\
{op}: the function did not return its residuals.
  Expected: (outputs, {'lu': ...})
  Got:      a tuple
  Return outputs, {'lu': ...}.""",
    ),
    "two outputs alone": (
        ContractError,
        differentiable_op(lambda x: (x, x, x), signature="(n)->(n),(n)", residuals={"lu": ("(n)", float)}),
        """\
{op}: the function did not return its residuals.
  Expected: (outputs, {'lu': ...})
  Got:      a tuple
  Return (output 0, output 1, ...), {'lu': ...}.""",
    ),
    "other names": (
        ContractError,
        differentiable_op(lambda x: (x, {"LU": x}), signature="(n)->(n)", residuals={"lu": ("(n)", float)}),
        """\
{op}: the function returned residuals that differ from the declaration.
  Expected: (outputs, {'lu': ...})
  Got:      residuals 'LU'
  Undeclared: 'LU'. Missing: 'lu'.""",
    ),
    "no object": (
        ContractError,
        differentiable_op(lambda x: (x, {"LU": x}), signature="(n)->(n)", residuals={"lu": object}),
        """\
{op}: the function returned residuals that differ from the declaration.
  Expected: (outputs, {'lu': ...})
  Got:      residuals 'LU'
  Undeclared: 'LU'. Missing: 'lu'.""",
    ),
    "another dtype": (
        CoercionError,
        differentiable_op(lambda x: (x, {"lu": x / 2}), signature="(n)->(n)", residuals={"lu": ("(n)", int)}),
        """\
{op}: residual 'lu' has the wrong dtype.
  Expected: int64[3]
  Got:      float32[3]
  Declare residuals={"lu": (..., np.float32)}, or convert it in the function.""",
    ),
}


@every_mode
@pytest.mark.parametrize(("kind", "op", "text"), RESIDUALS.values(), ids=RESIDUALS)
def test_residuals_that_break_the_contract(mode, kind, op, text):
    check(kind, text.replace("{op}", subject(op)), lambda: modes.call(mode, op, X), is_exact=mode == "eager")


LOOP_HINTS = {
    "a core": (
        differentiable_op(lambda x: x.sum(), signature="(n)->()"),
        """\
{op}: output 0 has the wrong shape.
  Expected: float32[2]
  Got:      float32[]
  The signature requires this shape for inputs float32[2, 3]. Fix the signature, or return an array of this shape. \
The inputs have loop dimensions [2] before the core dimensions. Work along the last axes (x.sum(-1)), or pass \
vectorized=False.""",
    ),
    "no core": (
        differentiable_op(lambda x: x[0], signature="()->()"),
        """\
{op}: output 0 has the wrong shape.
  Expected: float32[2, 3]
  Got:      float32[3]
  The signature requires this shape for inputs float32[2, 3]. Fix the signature, or return an array of this shape. \
The inputs have dimensions [2, 3]. Write the function element by element (np.where), or pass vectorized=False.""",
    ),
}


@every_mode
@pytest.mark.parametrize(("op", "text"), LOOP_HINTS.values(), ids=LOOP_HINTS)
def test_a_function_that_does_not_work_on_loop_dimensions(mode, op, text):
    check(ContractError, text.replace("{op}", subject(op)), lambda: modes.call(mode, op, A), is_exact=mode == "eager")


def test_errors_of_a_function_that_is_not_vectorized_do_not_mention_loop_dimensions():
    op = differentiable_op(lambda x: x, signature="(n)->()", vectorized=False)
    text = f"""\
{subject(op)}: output 0 has the wrong shape.
  Expected: float32[]
  Got:      float32[3]
  The signature requires this shape for inputs float32[3]. Fix the signature, or return an array of this shape."""
    check(ContractError, text, lambda: op(A))


def failing(*values):
    raise OverflowError(len(values))


@has_notes
@pytest.mark.parametrize(
    ("signature", "hint"),
    [
        (
            "(n)->()",
            " The inputs have loop dimensions [2] before the core dimensions. Work along the last axes (x.sum(-1)), "
            "or pass vectorized=False.",
        ),
        ("(m,n)->()", ""),
        (None, ""),
    ],
)
def test_the_note_on_an_exception_of_a_function(signature, hint):
    op = differentiable_op(lambda x: np.reshape(x, 5), signature=signature)
    with pytest.raises(ValueError, match="cannot reshape") as caught:
        op(A)
    assert caught.value.__notes__ == [f"Raised in {subject(op)}, called with float32[2, 3].{hint}"]


def test_an_exception_that_loop_dimensions_do_not_explain_does_not_mention_them():
    op = differentiable_op(lambda x: np.load("nowhere.npy"), signature="(n)->()")
    with pytest.raises(FileNotFoundError) as caught:
        op(A)
    assert caught.value.__notes__ == [f"Raised in {subject(op)}, called with float32[2, 3]."]


def test_the_note_on_an_exception_of_a_function_that_does_not_make_its_out():
    def function(x, *, out=None):
        out[...] = x + 1
        return out

    op = differentiable_op(function, signature="()->()")
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"out= is None in this call\. Create an array and retu"):
        tf.vectorized_map(op, tf.constant(X))


def test_the_note_on_an_exception_of_a_rule_survives_autograph():
    op = differentiable_op(lambda x: x, signature="()->()", grad=lambda x, g, h: g)

    @tf.function
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = op(x)
        return tape.gradient(y, x)

    with pytest.raises(TypeError, match="missing 1 required") as caught:
        gradient(tf.constant(X))
    assert caught.value.__notes__ == [f"Raised in the gradient rule of {subject(op)}, called as rule(op, cotangent)."]


class Halved:
    @differentiable_op(signature="()->()")
    def call(self, x):
        return x / 2

    @call.gradient
    def call_gradient(op, cotangent):  # noqa: N805 - without self, which is what is wrong
        return cotangent / 2


@has_notes
def test_the_note_on_the_rule_of_a_method_has_self():
    x = tf.Variable(X)
    with tf.GradientTape() as tape:
        y = Halved().call(x)
    with pytest.raises(TypeError, match="takes 2 positional arguments but 3 were given") as caught:
        tape.gradient(y, x)
    assert caught.value.__notes__[0].endswith(", called as rule(self, op, cotangent).")


@has_notes
@pytest.mark.parametrize("kind", ["grad", "numpy_grad"])
@pytest.mark.parametrize(
    ("rule", "is_told"),
    [
        (lambda op, cotangent: 2.0 * op.inputs, True),
        (lambda op, cotangent: -op.inputs, True),
        (lambda op, cotangent: op.inputs.shape, True),
        (lambda op, cotangent: ",".join([1]), False),
        (lambda op, cotangent: isinstance(cotangent, 3), False),
    ],
)
def test_a_rule_that_does_not_unpack_op_inputs_is_an_error(rule, is_told, kind):
    op = differentiable_op(lambda x: x * x, signature="()->()", **{kind: rule})
    x = tf.Variable(X)
    with tf.GradientTape() as tape:
        y = op(x)
    with pytest.raises((TypeError, AttributeError)) as caught:
        tape.gradient(y, x)
    assert (
        "op.inputs and op.outputs are tuples. Unpack them: (x,) = op.inputs." in caught.value.__notes__[0]
    ) == is_told


def test_an_exception_of_a_rule_that_refuses_to_be_text_arrives_as_it_is():
    class RefusingError(TypeError):
        def __str__(self):
            raise RuntimeError

    def rule(op, cotangent):
        raise RefusingError

    x = tf.Variable(X)
    with tf.GradientTape() as tape:
        y = differentiable_op(lambda x: x, signature="()->()", grad=rule)(x)
    with pytest.raises(RefusingError):
        tape.gradient(y, x)


@pytest.mark.parametrize("kind", ["grad", "numpy_grad"])
def test_a_cotangent_of_op_inputs_as_one_array_is_an_error(kind):
    op = differentiable_op(lambda x: x * x, signature="()->()", **{kind: lambda op, cotangent: cotangent * op.inputs})
    text = f"""\
{subject(op)}: the cotangent of input 0 has the wrong shape.
  Expected: float32[3]
  Got:      float32[1, 3]
  Return each cotangent in the shape of its input. Broadcast loop dimensions may stay; tfpyop sums over them. \
op.inputs and op.outputs are tuples. Unpack them: (x,) = op.inputs."""
    x = tf.Variable(X)
    with tf.GradientTape() as tape:
        y = op(x)
    prefix = "gradient of " if kind == "grad" else ""
    if kind == "numpy_grad":
        text = text.replace(f"op '{op.name}'", f"op '{op.name}/vjp'")
    check(ContractError, prefix + text, lambda: tape.gradient(y, x), is_exact=False)


@pytest.mark.parametrize(
    "attach",
    [
        "gradient",
        "numpy_gradient",
        "jvp",
        "numpy_jvp",
        "jacobian",
        "numpy_jacobian",
        "implicit",
        "stationary",
        "native",
    ],
)
def test_a_rule_that_takes_the_place_of_its_op(attach):
    square = differentiable_op(lambda x: x * x, signature="()->()")
    text = f"""\
{subject(square)}: the rule has the same name as the op and would overwrite it.
  Give the rule another name."""

    def define(square):
        @getattr(square, attach)
        def square(op, cotangent):
            return 2 * op.inputs[0] * cotangent

    check(RegistrationError, text, lambda: define(square))


def test_a_result_in_the_dtype_of_bfloat16():
    op = differentiable_op(lambda x: np.float32([3.4e38]), signature="(n)->(n)")
    text = f"""\
{subject(op)}: output 0 has a finite value outside the range of bfloat16.
  Expected: bfloat16[1]
  Got:      float32[1] with 3.4e+38
  Scale the values, or use float32 for tensors and dtype=."""
    check(CoercionError, text, lambda: op(tf.zeros([1], tf.bfloat16)))


# -- inputs that are arrays

matmul = differentiable_op(lambda a, b: a @ b, signature="(m,k),(k,n)->(m,n)")
anything = differentiable_op(lambda *inputs: inputs[0], signature="(),()->()")

INPUTS = {
    "core dimensions that differ": (
        SignatureError,
        matmul,
        (A, A),
        """\
{op}: input 1 does not fit signature '(m,k),(k,n)->(m,n)'.
  Expected: size 3 for dimension 'k', as in input 0 of shape [2, 3]
  Got:      [2, 3]""",
    ),
    "a core dimension that is not the fixed one": (
        SignatureError,
        differentiable_op(lambda x: x, signature="(4)->(4)"),
        (A,),
        """\
{op}: input 0 does not fit signature '(4)->(4)'.
  Expected: core dimensions (4)
  Got:      [2, 3]""",
    ),
    "too few dimensions": (
        SignatureError,
        matmul,
        (A, X),
        """\
{op}: input 1 has too few dimensions for signature '(m,k),(k,n)->(m,n)'.
  Expected: at least 2: (k, n)
  Got:      [3]""",
    ),
    "loop dimensions that do not broadcast": (
        SignatureError,
        matmul,
        (np.stack([A, A]), np.stack([A.T, A.T, A.T])),
        """\
{op}: the loop dimensions of the inputs do not broadcast under signature '(m,k),(k,n)->(m,n)'.
  Got:      [2, 2, 3], [3, 3, 2]
  Pass inputs whose loop dimensions (the dimensions before the core dimensions) are equal or 1, as in NumPy \
broadcasting.""",
    ),
    "one for two": (
        SignatureError,
        anything,
        (X,),
        """\
{op}: the call has the wrong number of inputs.
  Expected: 2, as the signature says
  Got:      1: inputs
  None is not an input; a tuple or dict counts as one input for each value in it. Make an option keyword-only, or name \
it in static_argnames.""",
    ),
    "three for two": (
        SignatureError,
        anything,
        (X, X, X),
        """\
{op}: the call has the wrong number of inputs.
  Expected: 2, as the signature says
  Got:      3: inputs, inputs, inputs
  None is not an input; a tuple or dict counts as one input for each value in it. Make an option keyword-only, or name \
it in static_argnames.""",
    ),
    "a negative size that is computed of them": (
        SignatureError,
        differentiable_op(lambda x, y: x, signature="(n),(m)->(n-m)"),
        (X[:1], X),
        "{op}: output dimension 'n-m' of signature '(n),(m)->(n-m)' is -2 for m = 3, n = 1.\n"
        "  Pass inputs for which it is 0 or more, or correct the signature.",
    ),
    "text only": (
        CoercionError,
        differentiable_op(lambda x: 3),
        (np.array("text"),),
        """\
{op}: cannot infer the output dtype from the inputs.
  Got:      string
  Pass numbers. If the function reads text, declare the dtype, for example dtype=np.float32.""",
    ),
    "two kinds of 16 bits": (
        CoercionError,
        differentiable_op(lambda x, y: x),
        (np.float16(1), np.array(1, tf.bfloat16.as_numpy_dtype)),
        """\
{op}: cannot infer the output dtype from the inputs.
  Got:      float16, bfloat16
  Declare the dtype, for example dtype=np.float32.""",
    ),
}


@every_mode
@pytest.mark.parametrize(("kind", "op", "inputs", "text"), INPUTS.values(), ids=INPUTS)
def test_inputs_that_do_not_fit(mode, kind, op, inputs, text):
    text = text.replace("{op}", subject(op))
    check(kind, text, lambda: modes.call(mode, op, *inputs), is_exact=mode == "eager")


@every_mode
def test_inputs_that_a_ufunc_cannot_take(mode):
    op, line = differentiable_op(np.bitwise_and), sys._getframe().f_lineno
    text = f"""\
op '{op.name}' (tests/test_messages.py:{line}): bitwise_and has no loop for these input dtypes.
  Got:      float32, float32
  Use one of these input dtypes: ??->?, bb->b, BB->B, hh->h, HH->H, ii->i, II->I, ll->l. np.typename explains each \
letter."""
    check(CoercionError, text, lambda: modes.call(mode, op, X, X), is_exact=mode == "eager")


@every_mode
def test_an_input_too_large_for_the_compute_dtype(mode):
    op = differentiable_op(lambda x: x, signature="()->()", compute_dtype="float32")
    text = f"""\
{subject(op)}: input 0 has a finite value outside the range of float32.
  Expected: float32[2]
  Got:      float64[2] with 1e+300
  Scale the values, or change compute_dtype=np.float32."""
    check(CoercionError, text, lambda: modes.call(mode, op, np.float64([1e300, 0])), is_exact=mode == "eager")


@pytest.mark.parametrize("arguments", [(), (1.0,), (1.0, 2.0, 3.0)], ids=len)
@every_plain_mode
def test_arguments_that_do_not_fit_the_function(mode, arguments):
    op = differentiable_op(lambda x, y: x, signature="(),()->()")
    with pytest.raises(TypeError, match="argument") as python:
        inspect.signature(op.numpy).bind(*arguments)
    text = f"{subject(op)}: {python.value}.\n  Parameters: (x, y)"
    check(TypeError, text, lambda: modes.call(mode, lambda x: op(*arguments), X))


# -- inputs that are something else

first = differentiable_op(lambda x, y=0.0: x, signature="(),()->()")

VALUES = {
    "an object": (
        lambda x: first({1, 2}),
        """\
{op}: input 0 is not a tensor, array, number or string.
  Got:      set: {1, 2}
  If it is an input, convert it to an array. If not, make its parameter keyword-only, or name it in static_argnames.""",
    ),
    "a function": (
        lambda x: first(x, np.sin),
        """\
{op}: input 1 is not a tensor, array, number or string.
  Got:      ufunc: <ufunc 'sin'>
  If it is an input, convert it to an array. If not, make its parameter keyword-only, or name it in static_argnames.""",
    ),
    "a long list with None in it": (
        lambda x: first([None, *range(100)]),
        """\
{op}: input 0 is not a tensor, array, number or string.
  Got:      list: [None, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20,
  If it is an input, convert it to an array. If not, make its parameter keyword-only, or name it in static_argnames.""",
    ),
    "an integer of more than 64 bits": (
        lambda x: first(10**20),
        """\
{op}: input 0 has integers that no integer dtype can hold.
  Expected: integers from -2**63 to 2**63 - 1, or from 0 to 2**64 - 1
  Got:      100000000000000000000
  Convert them to floats if the rounding is acceptable: float(x).""",
    ),
    "an integer that int32 cannot hold": (
        lambda x: first(2**40),
        """\
{op}: input 0 has a finite value outside the range of int32.
  Expected: int32[]
  Got:      int64[] with 1.1e+12
  Python integers become int32. For another dtype, pass np.int64(x).""",
    ),
    "a ragged list": (
        lambda x: first(x, [[1.0, 2.0], [3.0]]),
        """\
{op}: input 1 is a nested list with rows of different lengths, which cannot become an array.
  Pad the rows, or pass each row as a separate array.""",
    ),
    "a SparseTensor": (
        lambda x: first(tf.sparse.from_dense(x)),
        """\
{op}: input 0 is a SparseTensor, which cannot be passed as an array.
  Convert it with tf.sparse.to_dense(x), or pass its .values and .indices.""",
    ),
    "dates": (
        lambda x: first(np.array(["2026-01-01"], "datetime64[D]")),
        """\
{op}: input 0 has a dtype that TensorFlow does not support.
  Expected: numbers, booleans or strings
  Got:      datetime64[D][1]
  Convert it with numpy first, for example x.astype(np.int64).""",
    ),
    "a float too large for the default": (
        lambda x: first([1e300, -1e301]),
        """\
{op}: input 0 has a finite value outside the range of float32.
  Expected: float32[2]
  Got:      float64[2] with -1e+301
  Scale the values, or pass tf.constant(x, tf.float64).""",
    ),
    "a float too large for the tensor beside it": (
        lambda x: first(tf.cast(x, tf.float16), np.float64(1e6)),
        """\
{op}: input 1 has a finite value outside the range of float16.
  Expected: float16[]
  Got:      float64[] with 1e+06
  Scale the values, or pass tf.constant(x, tf.float64).""",
    ),
    "an integer too large for the tensor beside it": (
        lambda x: first(tf.cast(x, tf.float16), 10**6),
        """\
{op}: input 1 has a finite value outside the range of float16.
  Expected: float16[]
  Got:      int64[] with 1e+06
  Pass np.float64(x) if the rounding is acceptable, or np.int64(x) to pass integers.""",
    ),
}


@every_plain_mode
@pytest.mark.parametrize(("call", "text"), VALUES.values(), ids=VALUES)
def test_a_value_that_is_no_input(mode, call, text):
    check(CoercionError, text.replace("{op}", subject(first)), lambda: modes.call(mode, call, X))


@every_plain_mode
def test_none_as_an_input(mode):
    text = f"""\
{subject(first)}: the call has the wrong number of inputs.
  Expected: 2, as the signature says
  Got:      1: x (None: no input), y
  None is not an input; a tuple or dict counts as one input for each value in it. Make an option keyword-only, or name \
it in static_argnames. Mark an input that may be None with "?": "(n),()?->(n)"."""
    check(SignatureError, text, lambda: modes.call(mode, lambda x: first(None, x), X))


STATIC_TENSOR = """\
{op}: static argument 'exponent' is or holds a tensor.
  Expected: a Python value that is known when the function is traced
  Got:      """


@every_plain_mode
@pytest.mark.parametrize(
    "make", [lambda x: x, lambda x: [1, (x,)], lambda x: tf.Variable(2)], ids=["it", "in", "variable"]
)
def test_a_tensor_as_a_static_argument(make, mode):
    op = differentiable_op(lambda x, *, exponent: x, signature="()->()")
    text = STATIC_TENSOR.replace("{op}", subject(op))

    def call(x):
        return op(x, exponent=make(x))

    if mode == "eager":
        check(CoercionError, text, lambda: call(tf.constant(X)), is_exact=False)
    else:
        check(CoercionError, text, lambda: modes.call(mode, lambda x: op(x, exponent=[x]), X), is_exact=False)


def test_a_symbolic_tensor_outside_of_its_graph():
    leaked = []
    tf.function(lambda x: (leaked.append(x), x)[1])(X)
    text = f"""\
{subject(first)}: input 0 is a symbolic tensor of a graph, but the call is outside this graph.
  Got:      Tensor("x:0", shape=(3,), dtype=float32)
  Return the tensor from its tf.function, or call the op inside the tf.function."""
    check(UnsupportedError, text, lambda: first(leaked[0]))


def trace_for_xla(op, *specs):
    """Trace the op for XLA with inputs of these shapes, dtypes or both."""
    tf.function(op, jit_compile=True, autograph=False).get_concrete_function(*specs)


def test_an_output_shape_that_xla_cannot_infer():
    op = differentiable_op(lambda x, y: x + y)
    text = f"""\
{subject(op)}: output 0 has an unknown shape; XLA needs it at compile time.
  Expected: sizes that can be computed from the input sizes
  Got:      float32[...] for inputs float32[?], float32[3]
  Pass a signature to the op, for example signature="(),()->()" if it works element by element."""
    check(SignatureError, text, lambda: trace_for_xla(op, tf.TensorSpec([None]), tf.TensorSpec([3])))


def test_a_shape_function_that_xla_cannot_ask():
    op = differentiable_op(lambda x: x, shape=lambda shape: shape)
    text = f"""\
{subject(op)}: output 0 has an unknown shape; XLA needs it at compile time.
  Expected: sizes that can be computed from the input sizes
  Got:      float32[?] for inputs float32[?]
  XLA can use shape= for known sizes only. Write a signature, for example "()->()" for an elementwise \
function, or make all sizes known with input_signature= or tf.ensure_shape."""
    check(SignatureError, text, lambda: trace_for_xla(op, tf.TensorSpec([None])))


def test_a_run_time_size_under_xla():
    op = differentiable_op(lambda x: np.unique(x), signature="(n)->(k)")
    text = f"""\
{subject(op)}: output 0 has an unknown shape; XLA needs it at compile time.
  Expected: sizes that can be computed from the input sizes
  Got:      float32[?] for inputs float32[3]
  Signature '(n)->(k)' leaves k to the run time. Write it as a formula of input sizes, as in "(n)->(n//2+1)", \
compute it with sizes=, or pad the output to a size that is known."""
    check(SignatureError, text, lambda: trace_for_xla(op, tf.TensorSpec([3])))


def test_an_unknown_rank_under_xla():
    text = f"""\
{subject(first)}: input 0 has an unknown rank; XLA needs it at compile time.
  Got:      float32[...]
  Specify the rank with tf.ensure_shape or input_signature=. Sizes may stay unknown."""
    check(SignatureError, text, lambda: trace_for_xla(first, tf.TensorSpec(None)))


def test_text_under_xla():
    op = differentiable_op(lambda x: len(x), signature="()->()", dtype=int)
    text = f"""\
{subject(op)}: XLA has no arrays of strings.
  Expected: one of bool, int8, int16, int32, int64, uint8, uint16, uint32, uint64, float16, bfloat16, float32, \
float64, complex64, complex128, float8_e5m2, float8_e4m3fn, float8_e4m3b11fnuz, float8_e5m2fnuz, float8_e4m3fnuz
  Got:      string[3]
  Call the op outside functions with jit_compile=True, or pass numbers."""
    check(UnsupportedError, text, lambda: trace_for_xla(op, tf.TensorSpec([3], tf.string)))


def test_numbers_shorter_than_a_byte_under_xla():
    op = differentiable_op(lambda x: x, signature="()->()")
    text = f"""\
{subject(op)}: XLA packs several int4 numbers into a byte, but TensorFlow stores each number in its own byte.
  Got:      int4[3]
  Cast these tensors outside functions with jit_compile=True, for example with tf.cast(x, tf.int8), or call the op \
outside. TensorFlow does not convert between the two formats, so the results of its own ops are wrong too."""
    check(UnsupportedError, text, lambda: trace_for_xla(op, tf.TensorSpec([3], tf.as_dtype("int4"))))


def test_a_stateful_op_where_xla_promises_no_order():
    op = differentiable_op(lambda x: x, signature="()->()", stateful=True)
    nested = tf.function(op)
    text = f"""\
{subject(op)}: the op is stateful, and XLA does not guarantee the order of calls in loops, branches and inner functions.
  Call the op directly in the function with jit_compile=True, or outside this function."""
    check(UnsupportedError, text, lambda: tf.function(lambda x: nested(x), jit_compile=True)(X))


def test_a_tensorflow_whose_xla_is_another(monkeypatch):
    version = ffi.version_of(ffi.load_api())
    monkeypatch.setattr(ffi, "_HANDLERS", [])
    monkeypatch.setattr(layouts, "LAYOUTS", {(version.major + 1, 0): layouts.known_layout(version)})
    op = differentiable_op(lambda x: x, signature="()->()")
    text = f"""\
{subject(op)}: XLA in this TensorFlow version cannot call Python.
  Expected: XLA FFI 0.1 to 0.5, as in TensorFlow 2.18 to 2.22.0rc0
  Got:      TensorFlow {tf.__version__}: XLA FFI {version.major}.{version.minor} with a struct of {version.size} bytes
  Install one of these versions or a newer tfpyop, call the op outside functions with jit_compile=True, or attach a \
TensorFlow implementation with @op.native and call the op within tfpyop.prefer_native()."""
    check(UnsupportedError, text, lambda: trace_for_xla(op, tf.TensorSpec([3])))


def test_an_input_kept_from_a_compiled_call():
    kept = []

    def function(x):
        if x[0] > 1:
            kept.append(x[1:])
        return x + 1

    op = differentiable_op(function, signature="(n)->(n)")
    compiled_op = tf.function(op, jit_compile=True)
    text = f"""\
{subject(op)}: the function kept a reference to one of its arrays, which it did not do in its first call.
  Expected: a function that does not use inputs or out= after it has returned
  Got:      called with float32[3]
  Keep a copy instead: x.copy(). XLA owns this memory and reuses it after the call, so do not read the kept array. \
From now on, calls with these shapes get copies."""
    compiled_op(tf.zeros(3))
    compiled_op(tf.zeros(3))
    check(ContractError, text, lambda: compiled_op(2 * tf.ones(3)), is_exact=False)
    assert compiled_op(2 * tf.ones(3)).numpy().tolist() == [3, 3, 3]
    assert kept[-1].tolist() == [2, 2]


@pytest.mark.parametrize(
    ("module", "name", "problem"),
    [
        ("tensorflow.python.eager.record", None, "cannot import name '"),
        ("tensorflow.python.pywrap_tfe", "TFE_Py_TapeSetIsStopped", "module 'tensorflow.python.pywrap_tfe' has no"),
    ],
    ids=["module", "attribute"],
)
def test_a_tensorflow_that_lacks_a_private_symbol(monkeypatch, module, name, problem):
    if name is None:
        monkeypatch.setitem(sys.modules, module, ModuleType("record"))
    else:
        monkeypatch.delattr(importlib.import_module(module), name)
    path = Path(sys.modules["tfpyop"].__file__).parent / "_lowering" / "_tensorflow.py"
    with pytest.raises(UnsupportedError, match="lacks a feature that tfpyop needs") as caught:
        runpy.run_path(str(path))
    lines = str(caught.value).splitlines()
    assert lines[0].startswith(f"TensorFlow {tf.__version__} lacks a feature that tfpyop needs: {problem}")
    assert lines[1:] == [
        "  Expected: a TensorFlow version that tfpyop was tested on: 2.18 to 2.22.0rc0",
        f"  Got:      {tf.__version__}",
        "  Install one of these versions, or a newer tfpyop.",
    ]


# -- functions that write to an input


@every_mode
@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (lambda x: np.add(x, 1, out=x), "output array is read-only"),
        (lambda x: x.__iadd__(1), "output array is read-only"),
        (lambda x: x.__setitem__(0, 1), "assignment destination is read-only"),
        (lambda x: x.sort(), "sort array is read-only"),
    ],
    ids=["out", "+=", "[]", "sort"],
)
def test_a_function_that_writes_to_its_input(mode, function, problem):
    op = differentiable_op(function, signature="()->()")
    text = f"""\
{problem}
  {subject(op)}: inputs are read-only, because other code may use the same tensor. Change a copy instead: x = \
x.copy()."""
    call = lambda: modes.call(mode, op, X)  # noqa: E731
    check(ValueError, text, call, is_exact=mode == "eager")
    if mode != "eager":
        check(ValueError, f"{subject(op)}: the function raised ValueError: {problem}\n", call, is_exact=False)
        check(ValueError, "x = x.copy().\n  Called with: float32[3]\n", call, is_exact=False)


# -- shape functions

SHAPES = {
    "a number": (3, None, "a tuple of sizes", "3"),
    "None": (None, None, "a tuple of sizes", "None"),
    "two for one": (((3,), (3,)), None, "a tuple of sizes", "((3,), (3,))"),
    "one for two": ((3,), (None, None), "2 tuples of sizes", "(3,)"),
    "three for two": (((3,), (3,), (3,)), (None, None), "2 tuples of sizes", "((3,), (3,), (3,))"),
    "a shape and a number": (((3,), 3), (None, None), "2 tuples of sizes", "((3,), 3)"),
}


@every_mode
@pytest.mark.parametrize(("shape", "dtype", "expected", "got"), SHAPES.values(), ids=SHAPES)
def test_a_shape_function_that_returns_no_shape(mode, shape, dtype, expected, got):
    op = differentiable_op(lambda x: x, shape=lambda _: shape, dtype=dtype)
    text = f"""\
{subject(op)}: the shape function must return one shape for each output.
  Expected: {expected}
  Got:      {got}
  Return sizes that are integers of 0 or more."""
    check(SignatureError, text, lambda: modes.call(mode, op, X), is_exact=mode == "eager")


# -- gradients

MISSING = """\
{op}: cannot compute the gradient: the op has no gradient rule.
  Attach a rule with @op.gradient (TensorFlow ops) or @op.numpy_gradient (arrays), or the Jacobian with @op.jacobian \
or @op.numpy_jacobian. If the derivative is zero everywhere, declare non_differentiable=True. To stop gradients here, \
use tf.stop_gradient."""
MISSING_SECOND = """\
{op}: cannot compute a second derivative: this numpy rule has no gradient rule.
  Attach a rule to the object that @op.numpy_gradient returned, with @rule.gradient or @rule.numpy_gradient, or write \
the first rule in TensorFlow ops with @op.gradient."""


@every_gradient_mode
def test_a_gradient_without_a_rule(mode):
    op = differentiable_op(lambda x: x)
    check(GradientError, MISSING.replace("{op}", subject(op)), lambda: modes.gradient(mode, op, X))


@pytest.mark.parametrize("mode", [mode for mode in modes.MODES if mode != "autograph"])
def test_a_second_derivative_through_a_numpy_rule(mode):
    op = differentiable_op(lambda x: x**3, signature="()->()")
    rule_op = op.numpy_gradient(lambda op, cotangent: 3 * op.inputs[0] ** 2 * cotangent)

    def second_derivative(x):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                y = op(x)
            first_derivative = inner.gradient(y, x)
        return outer.gradient(first_derivative, x)

    check(
        GradientError,
        MISSING_SECOND.replace("{op}", subject(rule_op)),
        lambda: modes.call(mode, tf.autograph.experimental.do_not_convert(second_derivative), X),
        is_exact=mode == "eager",  # in a graph the node raises when it runs
    )


NUMPY_JVP_MISSING_SECOND = """\
{op}: cannot compute a second derivative: this numpy rule has no gradient rule.
  Attach a rule to the object that @op.numpy_jvp returned, with @rule.gradient or @rule.jvp, or write the first rule \
in TensorFlow ops with @op.jvp."""


@pytest.mark.parametrize("outer", ["backward", "forward"])
def test_a_second_derivative_through_a_numpy_jvp_rule(outer):
    op = differentiable_op(lambda x: x**3, signature="()->()")
    rule_op = op.numpy_jvp(lambda op, tangent: 3 * op.inputs[0] ** 2 * tangent)
    x = tf.constant(X)

    def first_derivative():
        with tf.autodiff.ForwardAccumulator(x, tf.ones_like(x)) as accumulator:
            y = op(x)
        return accumulator.jvp(y)

    def second_derivative():
        if outer == "forward":
            with tf.autodiff.ForwardAccumulator(x, tf.ones_like(x)):
                return first_derivative()
        with tf.GradientTape() as tape:
            tape.watch(x)
            first = first_derivative()
        return tape.gradient(first, x)

    check(GradientError, NUMPY_JVP_MISSING_SECOND.replace("{op}", subject(rule_op)), second_derivative)


class Cube:
    """A method with derivatives from values."""

    @differentiable_op(signature="()->()", grad=tfpyop.numerical())
    def cube(self, x):
        return x**3


FROM_VALUES = {
    "numerical": differentiable_op(lambda x: x**3, signature="()->()", grad="numerical"),
    "numerical, configured": differentiable_op(lambda x: x**3, signature="()->()", grad=tfpyop.numerical(order=9)),
    "numerical, of a method": Cube().cube,
    "complex-step": differentiable_op(lambda x: x**3, signature="()->()", grad="complex-step"),
}


@pytest.mark.parametrize("mode", ["backward", "backward, graph", "forward"])
@pytest.mark.parametrize(("kind", "op"), FROM_VALUES.items(), ids=FROM_VALUES)
def test_a_second_derivative_from_values(mode, kind, op):
    text = f"""\
op '{op.name}/{"jvp" if mode == "forward" else "vjp"}' ({place(op.numpy)}): \
cannot compute a second derivative: grad="{kind.partition(",")[0]}" provides first derivatives only.
  Write a rule with @op.gradient (TensorFlow ops). Or write a rule with @op.numpy_gradient (arrays), and attach a \
second rule to the object that it returns."""

    def second_derivative(x):
        with tf.GradientTape() as outer:
            outer.watch(x)
            if mode == "forward":
                with tf.autodiff.ForwardAccumulator(x, tf.ones_like(x)) as accumulator:
                    y = op(x)
                first = accumulator.jvp(y)
            else:
                with tf.GradientTape() as inner:
                    inner.watch(x)
                    y = op(x)
                first = inner.gradient(y, x)
        return outer.gradient(first, x)

    call = tf.function(second_derivative) if mode == "backward, graph" else second_derivative
    check(GradientError, text, lambda: call(tf.constant(X)), is_exact=mode != "backward, graph")


def test_forward_mode_around_a_function_with_a_jvp_rule_alone():
    op = differentiable_op(lambda x: x, signature="()->()", jvp=lambda op, tangent: tangent)
    offered = (
        'To derive it from the JVP rule, pass grad="from-jvp" to differentiable_op: a gradient then evaluates the JVP '
        "rule for each core element of the inputs."
    )
    jacobian = ", or the Jacobian with @op.jacobian or @op.numpy_jacobian."
    assert jacobian in MISSING
    text = (
        MISSING.replace(jacobian, f". {offered}")
        + " Forward mode around a tf.function also requires a gradient rule. Alternatively, open the "
        "accumulator inside the function."
    )

    def derivative():
        x = tf.constant(X)
        with tf.autodiff.ForwardAccumulator(x, x):
            return tf.function(op)(x)

    check(GradientError, text.replace("{op}", subject(op)), derivative)


def with_rule(attach, function, signature, rule):
    """An op with a rule in TensorFlow ops or in numpy, and how texts name the rule."""
    op = differentiable_op(function, signature=signature)
    if attach == "gradient":
        op.gradient(rule)
        return op, f"gradient of {subject(op)}"
    return op, subject(op.numpy_gradient(rule))


@every_gradient_mode
@pytest.mark.parametrize("attach", ["gradient", "numpy_gradient"])
@pytest.mark.parametrize(
    ("rule", "got"), [(lambda op, g: (g, g, None), "a tuple of 3"), (lambda op, g: [], "a list of 0")], ids=["3", "0"]
)
def test_a_wrong_number_of_cotangents(mode, attach, rule, got):
    op, name = with_rule(attach, lambda x, y: x + y, "(),()->()", rule)
    text = f"""\
{name}: the gradient rule returned the wrong number of cotangents.
  Expected: 2, one for each of op.inputs
  Got:      {got}
  Return a tuple in the order of op.inputs, with None where there is no dependence."""
    check(ContractError, text, lambda: modes.gradient(mode, op, X, X), is_exact=mode == "tape, eager")


def test_one_cotangent_for_two_inputs():
    op, name = with_rule("numpy_gradient", lambda x, y: x + y, "(),()->()", lambda op, g: g)
    text = f"""\
{name}: the gradient rule returned the wrong number of cotangents.
  Expected: 2, one for each of op.inputs
  Got:      one ndarray
  Return a tuple in the order of op.inputs, with None where there is no dependence."""
    check(ContractError, text, lambda: modes.gradient("tape, eager", op, X, X))


@every_gradient_mode
@pytest.mark.parametrize("attach", ["gradient", "numpy_gradient"])
def test_a_rule_of_two_inputs_that_returns_nothing(mode, attach):
    op, name = with_rule(attach, lambda x, y: x, "(),()->()", lambda op, g: None)
    text = f"""\
{name}: the gradient rule returned None.
  Expected: 2, one cotangent for each of op.inputs
  Got:      None
  Check that the rule has a return statement. If there is no dependence at all, return (None, None)."""
    check(ContractError, text, lambda: modes.gradient(mode, op, X, X), is_exact=mode == "tape, eager")


@every_gradient_mode
@pytest.mark.parametrize("attach", ["gradient", "numpy_gradient"])
def test_a_rule_that_returns_nothing(mode, attach):
    op, name = with_rule(attach, lambda x: x, "()->()", lambda op, g: None)
    text = f"""\
{name}: the gradient rule returned None.
  Expected: 1, one cotangent for each of op.inputs
  Got:      None
  Check that the rule has a return statement. If there is no dependence at all, return (None,)."""
    check(ContractError, text, lambda: modes.gradient(mode, op, X), is_exact=mode == "tape, eager")


COTANGENT_SHAPES = {
    "another size": (
        (lambda x: x, "()->()"),
        lambda op, cotangent: cotangent[:2],
        (X,),
        """\
{rule}: the cotangent of input 0 has the wrong shape.
  Expected: float32[3]
  Got:      float32[2]
  Return each cotangent in the shape of its input. Broadcast loop dimensions may stay; tfpyop sums over them.""",
        "[3] [2]",
    ),
    "another size, where loop dimensions are broadcast": (
        (lambda x, y: x + y, "(),()->()"),
        lambda op, cotangent: (cotangent, cotangent[:1]),
        (A[:, :1], X),
        """\
{rule}: the cotangent of input 1 has the wrong shape.
  Expected: float32[3] or the broadcast shape [2, 3]
  Got:      float32[1, 3]
  Return each cotangent in the shape of its input. Broadcast loop dimensions may stay; tfpyop sums over them.""",
        "[3] [1 3]",
    ),
    "without the core dimension": (
        (lambda x: x.sum(-1), "(n)->()"),
        lambda op, cotangent: cotangent,
        (A,),
        """\
{rule}: the cotangent of input 0 has the wrong shape.
  Expected: float32[2, 3]
  Got:      float32[2]
  Return each cotangent in the shape of its input. Broadcast loop dimensions may stay; tfpyop sums over them.""",
        "[2 3] [2]",
    ),
}
UNKNOWN_SHAPES, UNKNOWN_TO_XLA = "tape inside, unknown shapes", "tape inside, XLA, unknown sizes"


@pytest.mark.parametrize(
    ("attach", "mode"),
    [("gradient", mode) for mode in modes.GRADIENT_MODES if mode not in (UNKNOWN_SHAPES, UNKNOWN_TO_XLA)]
    + [("numpy_gradient", mode) for mode in modes.GRADIENT_MODES],
)
@pytest.mark.parametrize(("function", "rule", "inputs", "text", "_"), COTANGENT_SHAPES.values(), ids=COTANGENT_SHAPES)
def test_a_cotangent_of_another_shape(mode, attach, function, rule, inputs, text, _):
    op, name = with_rule(attach, *function, rule)
    text = text.replace("{rule}", name)
    check(ContractError, text, lambda: modes.gradient(mode, op, *inputs), is_exact=mode == "tape, eager")


@pytest.mark.parametrize(
    ("function", "rule", "inputs", "text", "shapes"), COTANGENT_SHAPES.values(), ids=COTANGENT_SHAPES
)
def test_a_cotangent_of_another_shape_that_is_known_when_the_graph_runs(function, rule, inputs, text, shapes):
    op, name = with_rule("gradient", *function, rule)
    text = text.splitlines()[0].replace("{rule}", name).replace("'", r"\'") + f" Expected, got:] {shapes}"
    check(ContractError, text, lambda: modes.gradient(UNKNOWN_SHAPES, op, *inputs), is_exact=False)


def test_a_cotangent_of_another_shape_that_is_known_when_xla_compiles():
    op, name = with_rule(
        "gradient", lambda x, y: x + y, "(),()->()", lambda op, cotangent: (tf.tile(cotangent, [2]), cotangent)
    )
    text = f"{name}: the cotangent of input 0 has the wrong shape. It is [6]"
    check(ContractError, text, lambda: modes.gradient(UNKNOWN_TO_XLA, op, X[:1], X), is_exact=False)


@every_gradient_mode
def test_a_complex_cotangent_of_a_real_input(mode):
    op, name = with_rule("gradient", lambda x: x, "()->()", lambda op, cotangent: tf.cast(cotangent, tf.complex64))
    shape = "[...]" if mode == UNKNOWN_SHAPES else "[3]"
    text = f"""\
{name}: the cotangent of input 0 is complex, but the input is real.
  Expected: float32{shape}
  Got:      complex64{shape}
  If the input is real, return the real part: tf.math.real(c) if op.inputs[0].dtype.is_floating else c."""
    check(CoercionError, text, lambda: modes.gradient(mode, op, X))


@every_gradient_mode
@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (
            lambda op, cotangent: cotangent * 1j,
            """\
{rule}: the cotangent of input 0 has the wrong dtype.
  Expected: float32[3]
  Got:      complex64[3]
  If the input is real, return the real part: np.real(c) if np.isrealobj(op.inputs[0]) else c.""",
        ),
        (
            lambda op, cotangent: np.full(3, "text"),
            """\
{rule}: the cotangent of input 0 has the wrong dtype.
  Expected: float32[3]
  Got:      string[3]
  Return numbers.""",
        ),
        (
            lambda op, cotangent: cotangent * np.float64(1e300),
            """\
{rule}: the cotangent of input 0 has a finite value outside the range of float32.
  Expected: float32[3]
  Got:      float64[3] with 1e+300
  Scale the values, or use float64 for tensors and dtype=.""",
        ),
    ],
    ids=["complex", "text", "too large"],
)
def test_a_cotangent_of_another_dtype_from_a_numpy_rule(mode, rule, text):
    op, name = with_rule("numpy_gradient", lambda x: x, "()->()", rule)
    text = text.replace("{rule}", name)
    check(CoercionError, text, lambda: modes.gradient(mode, op, X), is_exact=mode == "tape, eager")


@every_mode
def test_a_call_of_the_op_of_a_numpy_rule_with_its_input_alone(mode):
    rule_op = differentiable_op(lambda x: x).numpy_gradient(lambda op, cotangent: cotangent)
    text = f"""\
{subject(rule_op)}: the op of a derivative rule was called with the wrong number of inputs.
  Expected: the inputs, outputs and residuals of its op, and the cotangents or tangents
  Got:      1
  Pass the inputs, outputs and residuals of one call of the op, in the order in which the rule gets them."""
    check(ContractError, text, lambda: modes.call(mode, rule_op, X), is_exact=mode == "eager")


@has_notes
@pytest.mark.parametrize("signature", [None, "(n)->(n),(),()"])
def test_the_note_on_an_exception_of_a_numpy_rule(signature):
    op = differentiable_op(lambda x: (x, x[..., 0], 1), signature=signature, dtype=(None, None, int))
    rule_op = op.numpy_gradient(lambda op, *cotangents: np.ones(2) + np.ones(3))
    hint = " The inputs have loop dimensions [2] before the core dimensions. Work along the last axes (x.sum(-1)), or "
    hint = f"{hint}pass vectorized=False." if signature else ""
    with pytest.raises(ValueError, match="broadcast") as caught:
        rule_op(A, A, A[:, 0], np.int64([1, 1]), A, A[:, 0], np.int64([1, 1]))
    assert caught.value.__notes__ == [
        f"Raised in {subject(rule_op)}, called with inputs float32[2, 3]; outputs float32[2, 3], float32[2], int64[2]; "
        f"cotangents float32[2, 3], float32[2], None.{hint}"
    ]


@has_notes
@pytest.mark.parametrize("attach", ["numpy_gradient", "numpy_jvp"])
def test_a_numpy_rule_with_the_wrong_number_of_parameters_shows_how_it_is_called(attach):
    op = differentiable_op(lambda x, y: (x, y), signature="(),()->(),()")
    rule_op = getattr(op, attach)(lambda op, vector: vector)
    vector = "cotangent" if attach == "numpy_gradient" else "tangent"
    with pytest.raises(TypeError, match="takes 2 positional arguments but 3 were given") as caught:
        rule_op(*[X] * 6)
    called, raised = caught.value.__notes__
    assert called == f"The rule is called as rule(op, {vector} 0, {vector} 1)."
    assert raised.startswith(f"Raised in {subject(rule_op)}, called with inputs ")
    assert "vectorized" not in raised


@has_notes
@pytest.mark.parametrize(
    ("kind", "function", "signature", "called"),
    [
        ("gradient", lambda x, y: x, "(),()->()", "rule(op, cotangent)"),
        ("gradient", lambda x, y: (x, y), "(),()->(),()", "rule(op, cotangent 0, cotangent 1)"),
        ("jvp", lambda x, y: x, "(),()->()", "rule(op, tangent 0, tangent 1)"),
        ("jvp", lambda x: x, "()->()", "rule(op, tangent)"),
    ],
)
def test_the_note_on_an_exception_of_a_rule_in_tensorflow_ops(kind, function, signature, called):
    op = differentiable_op(function, signature=signature)
    getattr(op, kind)(failing)
    inputs = [tf.constant(X) for _ in range(signature.partition("->")[0].count("("))]

    def differentiate():
        if kind == "gradient":
            return modes.gradient("tape, eager", op, *inputs)
        with tf.autodiff.ForwardAccumulator(inputs, inputs):
            return op(*inputs)

    with pytest.raises(OverflowError) as caught:
        differentiate()
    assert caught.value.__notes__ == [f"Raised in the {kind} rule of {subject(op)}, called as {called}."]


@every_gradient_mode
@pytest.mark.parametrize("attach", ["gradient", "numpy_gradient"])
@pytest.mark.parametrize(
    ("read", "problem"),
    [
        (lambda op: op.residuals.nothing, "no residual 'nothing'. Declared: 'lu'."),
        (lambda op: op.residuals["nothing"], "no residual 'nothing'. Declared: 'lu'."),
        (lambda op: op.static.nothing, "no static argument 'nothing'. Declared: 'axis', 'k'."),
        (lambda op: op.static["nothing"], "no static argument 'nothing'. Declared: 'axis', 'k'."),
    ],
)
def test_an_unknown_residual_or_static_argument(mode, attach, read, problem):
    def function(x, *, axis=-1, k=1):
        return x, {"lu": x}

    op = differentiable_op(function, signature="(n)->(n)", residuals={"lu": ("(n)", np.float32)})
    getattr(op, attach)(lambda op, cotangent: read(op))
    kinds = (AttributeError, KeyError, tf.errors.OpError)
    with pytest.raises(kinds) as caught:
        modes.gradient(mode, op, X)
    assert f"{subject(op)}: {problem}" in str(caught.value).replace("\\'", "'")


@every_gradient_mode
def test_an_object_in_a_rule_in_tensorflow_ops(mode):
    op = differentiable_op(lambda x: (x, {"lu": x}), signature="()->()", residuals={"lu": object})
    op.gradient(lambda op, cotangent: op.residuals.lu)
    text = f"""\
{subject(op)}: residual 'lu' is a Python object, which a rule in TensorFlow ops cannot use.
  Attach the rule with @op.numpy_gradient or @op.numpy_jvp, or save arrays: \
residuals={{"lu": ("(n,n)", np.float64)}}."""
    check(GradientError, text, lambda: modes.gradient(mode, op, X), is_exact=False)


def test_an_object_of_a_function_whose_outputs_change():
    calls = itertools.count(1)
    op = differentiable_op(lambda x: (next(calls) * x, {"lu": x}), signature="()->()", residuals={"lu": object})
    rule = op.numpy_gradient(lambda op, cotangent: op.residuals.lu)
    text = f"""\
{subject(op)}: output 0 changed when the function was called again to create an object for a rule.
  Expected: the same outputs for the same inputs
  Got:      a different value of float32[]
  Make the function depend on its inputs only, or save arrays instead of a Python object: \
residuals={{"lu": ("(n,n)", np.float64)}}."""
    check(ContractError, text, lambda: rule(1.0, 5.0, np.uint64(0), 1.0))


def test_an_op_without_residuals():
    op = differentiable_op(lambda x: x, grad=lambda op, cotangent: op.residuals.lu)
    text = f"{subject(op)}: no residual 'lu'. Declared: none."
    check(AttributeError, text, lambda: modes.gradient("tape, eager", op, X))


def test_an_unknown_attribute_of_what_a_rule_is_given():
    op = differentiable_op(lambda x: x, grad=lambda op, cotangent: op.output)
    text = (
        f"op '{op.name}': the first argument of a rule has no attribute 'output'. Attributes: name, inputs, outputs, "
        "residuals, static, needs."
    )
    check(AttributeError, text, lambda: modes.gradient("tape, eager", op, X))


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("numpy_grad", "Did you mean 'numpy_gradient' or 'numpy_adjoint' or 'numpy'?"),
        ("grad", "Did you mean 'gradient'?"),
        (
            "frobnicate",
            "Known: 'adjoint', 'as_layer', 'describe', 'gradient', 'gradient_name', 'implicit', 'jacobian', 'jvp'.",
        ),
    ],
)
def test_an_attribute_that_an_op_does_not_have(name, hint):
    text = f"{subject(matmul)}: neither the op nor its function has an attribute {name!r}. {hint}"
    check(AttributeError, text, lambda: getattr(matmul, name))


# -- decoration


def plain(x, y):
    return x


def another(x, y):
    return x


class Holder:
    """Kinds of functions that must not be decorated, and a method."""

    @staticmethod
    def of_nobody(x):
        return x

    @classmethod
    def of_class(cls, x):
        return x

    @differentiable_op
    def method(self, x):
        return x


DECORATIONS = {
    "signature= and shape=": (
        plain,
        {"signature": "(),()->()", "shape": max},
        """\
{op}: signature= and shape= cannot be used together.
  Remove one of the two.""",
    ),
    "grad= and numpy_grad=": (
        plain,
        {"grad": max, "numpy_grad": max},
        """\
{op}: two VJP rules were passed.
  Remove one of the two.""",
    ),
    "non_differentiable= and grad=": (
        plain,
        {"non_differentiable": True, "grad": max},
        """\
{op}: the op is declared non_differentiable, but a rule was attached.
  Remove one of the two.""",
    ),
    "grad= and a rule": (
        plain,
        {"grad": "numerical", "jvp": max},
        """\
{op}: grad= requests numerical derivatives, but a rule is also passed.
  Remove one of the two.""",
    ),
    "a method with a slip": (
        plain,
        {"grad": "numericl"},
        """\
{op}: grad='numericl' is neither a rule nor the name of a method.
  Did you mean 'numerical'?""",
    ),
    "a method that is not called": (
        plain,
        {"grad": tfpyop.numerical},
        """\
{op}: grad=tfpyop.numerical is neither a rule nor the name of a method.
  Call it: grad=tfpyop.numerical().""",
    ),
    "another method that is not called": (
        plain,
        {"grad": tfpyop.complex_step},
        """\
{op}: grad=tfpyop.complex_step is neither a rule nor the name of a method.
  Call it: grad=tfpyop.complex_step().""",
    ),
    "a number for a rule": (
        plain,
        {"grad": 3},
        """\
{op}: grad=3 is not a rule.
  Expected: a function, called as rule(op, *cotangents), or 'numerical' or 'complex-step' or 'from-jvp'""",
    ),
    "a switch for a rule": (
        plain,
        {"grad": True},
        """\
{op}: grad=True is not a rule.
  Expected: a function, called as rule(op, *cotangents), or 'numerical' or 'complex-step' or 'from-jvp'
  Did you mean grad='numerical'?""",
    ),
    "a step for a rule": (
        plain,
        {"grad": 1e-3},
        """\
{op}: grad=0.001 is not a rule.
  Expected: a function, called as rule(op, *cotangents), or 'numerical' or 'complex-step' or 'from-jvp'
  Did you mean grad='numerical'?""",
    ),
    "a method for a numpy rule": (
        plain,
        {"numpy_grad": "complex-step"},
        """\
{op}: numpy_grad='complex-step' is not a rule.
  Expected: a function, called as rule(op, *cotangents)
  Did you mean grad='complex-step'?""",
    ),
    "text for a JVP rule": (
        plain,
        {"jvp": "x"},
        """\
{op}: jvp='x' is not a rule.
  Expected: a function, called as rule(op, *tangents), or 'from-vjp'""",
    ),
    "a residual whose name is none": (
        plain,
        {"signature": "(n,n),(n)->(n)", "residuals": {"my inverse": ("(n,n)", float)}},
        """\
{op}: the residual name 'my inverse' is not a Python identifier.
  Use letters, digits and _, and no Python keyword, because rules read the residual as op.residuals.name.""",
    ),
    "a residual whose name is a keyword": (
        plain,
        {"signature": "(n,n),(n)->(n)", "residuals": {"class": ("(n,n)", float)}},
        """\
{op}: the residual name 'class' is not a Python identifier.
  Use letters, digits and _, and no Python keyword, because rules read the residual as op.residuals.name.""",
    ),
    "a residual without a dtype": (
        plain,
        {"signature": "(n,n),(n)->(n)", "residuals": {"lu": "(n,n)"}},
        """\
{op}: the declaration of residual 'lu' is neither a pair of core dimensions and a dtype, nor object.
  Got:      '(n,n)'
  Declare it for example as residuals={"lu": ("(n,n)", np.float64)}, or as {"lu": object}.""",
    ),
    "an object of a stateful op": (
        plain,
        {"signature": "(n,n),(n)->(n)", "residuals": {"lu": object}, "stateful": True},
        """\
{op}: residual 'lu' is a Python object, but the op is declared stateful.
  Remove stateful=True, or save an array instead of the object. If an object no longer exists, the function is called \
again, which would change the state.""",
    ),
    "an unknown static name": (
        plain,
        {"static_argnames": ["x", "exponent"]},
        """\
{op}: static_argnames names 'exponent', which is not a parameter.
  Known: 'x', 'y'.""",
    ),
    "a static name with a slip": (
        lambda x, exponent: x,
        {"static_argnames": "exponnt"},
        """\
{op}: static_argnames names 'exponnt', which is not a parameter.
  Did you mean 'exponent'?""",
    ),
    "three dtypes for two outputs": (
        plain,
        {"signature": "(),()->(),()", "dtype": (int, int, int)},
        """\
{op}: dtype= and signature= disagree about the number of outputs.
  Expected: 2 dtypes for signature '(),()->(),()'
  Got:      3""",
    ),
    "two dtypes for one output": (
        plain,
        {"signature": "(),()->()", "dtype": {"a": int, "b": int}},
        """\
{op}: dtype= and signature= disagree about the number of outputs.
  Expected: 1 dtypes for signature '(),()->()'
  Got:      2""",
    ),
    "no dtype": (
        plain,
        {"dtype": "flaot32"},
        """\
{op}: 'flaot32' is not a valid tensor dtype.
  Use for example np.float32, tf.int64 or "string".""",
    ),
    "a compute dtype that is not floating": (
        plain,
        {"compute_dtype": int},
        """\
{op}: compute_dtype= is not a floating dtype.
  Got:      int64
  Use "float32" or "float64". Complex inputs get the complex dtype of the same precision.""",
    ),
    "too many parameters": (
        lambda a, b, c, d=1: a,
        {"signature": "()->()"},
        """\
{op}: the function has more required tensor parameters than the signature has inputs.
  Expected: 1 inputs, from signature '()->()'
  Got:      parameters a, b, c, d
  Add inputs to the signature, or make parameters static: keyword-only, or named in static_argnames.""",
    ),
}


@pytest.mark.parametrize(("function", "options", "text"), DECORATIONS.values(), ids=DECORATIONS)
def test_options_that_make_no_sense(function, options, text):
    name = f"op 'tests.test_messages:{function.__name__}' ({place(function)})"
    check(RegistrationError, text.replace("{op}", name), lambda: differentiable_op(function, **options))


@pytest.mark.parametrize("core", ["n,n", "(n,n),(n)", "(n,n", "(m+1)", ""])
def test_core_dimensions_of_a_residual_that_cannot_be_read(core):
    text = f"""\
op 'tests.test_messages:plain' ({place(plain)}): cannot parse the core dimensions of residual 'lu'.
  Expected: dimensions in parentheses, for example "(n,n)", with names from the signature or new names
  Got:      {core!r}, with signature '(n,n),(n)->(n)'"""
    options = {"signature": "(n,n),(n)->(n)", "residuals": {"lu": (core, float)}}
    check(SignatureError, text, lambda: differentiable_op(plain, **options))


@pytest.mark.parametrize(
    "attach",
    ["gradient", "numpy_gradient", "jvp", "numpy_jvp", "jacobian", "numpy_jacobian", "implicit", "stationary"],
)
def test_something_else_than_a_rule(attach):
    op = differentiable_op(lambda x: x)
    text = f"""\
{subject(op)}: 'y' is not a rule.
  Use the decorator without parentheses: @op.{attach}"""
    check(RegistrationError, text, lambda: getattr(op, attach)("y"))


@pytest.mark.parametrize("attach", ["gradient", "numpy_gradient", "jvp", "numpy_jvp"])
def test_the_name_of_an_input_in_place_of_a_rule(attach):
    op = differentiable_op(lambda x: x)
    text = f"""\
{subject(op)}: 'x' is not a rule.
  For a rule for some inputs, write @op.{attach}(wrt='x')."""
    check(RegistrationError, text, lambda: getattr(op, attach)("x"))


def test_a_rule_for_an_input_that_there_is_not():
    op = differentiable_op(lambda weights, data: weights * data)
    text = f"""\
{subject(op)}: wrt= names 'weigths', which is not a parameter.
  Did you mean 'weights'?"""
    check(RegistrationError, text, lambda: op.gradient(wrt="weigths")(lambda op, cotangent: cotangent))


def test_a_rule_for_what_is_not_a_name():
    op = differentiable_op(lambda x, y: x * y)
    text = f"""\
{subject(op)}: wrt= is invalid.
  Expected: the name of a parameter, or a tuple of different names
  Got:      ('x', 'x')
  Inputs of the op: 'x', 'y'."""
    check(RegistrationError, text, lambda: op.gradient(wrt=("x", "x"))(lambda op, cotangent: cotangent))


def test_an_input_without_a_rule():
    op = differentiable_op(lambda x, y: x * y)
    op.gradient(wrt="x")(lambda op, cotangent: cotangent * op.inputs[1])
    text = f"""\
{subject(op)}: no gradient rule is for 'y'.
  Expected: one rule for each floating input
  Got:      rules for 'x'
  Attach a rule with @op.gradient(wrt='y') or @op.numpy_gradient(wrt='y'). If no output depends on the input, the rule \
returns None."""

    def differentiate():
        x = tf.constant(2.0)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = op(1.0, x)
        tape.gradient(y, x)

    check(GradientError, text, differentiate)


@pytest.mark.parametrize("attach", ["gradient", "numpy_gradient", "jvp", "numpy_jvp"])
def test_a_rule_beside_derivatives_from_values(attach):
    op = differentiable_op(lambda x, y: x, grad="numerical")
    text = f"""\
{subject(op)}: grad="numerical" already defines this derivative; a {"JVP" if "jvp" in attach else "gradient"} rule was \
attached at {place(another)}.
  Remove one of the two: grad="numerical" or the rule."""
    check(RegistrationError, text, lambda: getattr(op, attach)(another))


NOT_FUNCTIONS = {
    "a text": (
        "()->()",
        """\
the argument of differentiable_op is not a function.
  Got:      '()->()'
  Pass options as keywords: @differentiable_op(signature="()->()").""",
    ),
    "a staticmethod": (
        vars(Holder)["of_nobody"],
        """\
differentiable_op got a staticmethod object instead of a function.
  Put @staticmethod above @differentiable_op.""",
    ),
    "a classmethod": (
        vars(Holder)["of_class"],
        """\
differentiable_op got a classmethod object instead of a function.
  Put @classmethod above @differentiable_op.""",
    ),
    "an op": (
        matmul,
        """\
<tfpyop.Op 'tests.test_messages:<lambda>', signature='(m,k),(k,n)->(m,n)'> is already an op.
  To create another op from its function, pass op.numpy.""",
    ),
}


@pytest.mark.parametrize(("value", "text"), NOT_FUNCTIONS.values(), ids=NOT_FUNCTIONS)
def test_something_else_than_a_function(value, text):
    check(RegistrationError, text, lambda: differentiable_op(value))
    check(RegistrationError, text, lambda: differentiable_op(name="tests.messages:value")(value))


@pytest.mark.parametrize("name", ["two words", "brace{", "serial#1", "line\n"])
def test_a_name_that_is_none(name):
    text = f"""\
op {name!r} ({place(plain)}): {name!r} is not a valid op name.
  Use a name= of letters, digits and the characters . : / - _ ( ) [ ]"""
    check(RegistrationError, text, lambda: differentiable_op(plain, name=name))


def test_an_empty_name():
    text = f"""\
op '' ({place(plain)}): '' is not a valid op name.
  Use a name= of letters, digits and the characters . : / - _ ( ) [ ]"""
    check(RegistrationError, text, lambda: differentiable_op(plain, name=""))


def test_a_name_that_is_taken():
    differentiable_op(plain, name="tests.messages:taken")
    text = f"""\
op 'tests.messages:taken' ({place(another)}): another op already has the name 'tests.messages:taken'.
  Expected: one definition for each name
  Got:      one at {place(plain)} and one at {place(another)}
  Rename one of the functions, or pass a different name= for each op. Omit name= for ops that a function creates in \
every call."""
    check(RegistrationError, text, lambda: differentiable_op(another, name="tests.messages:taken"))


@pytest.mark.parametrize("attach", ["gradient", "numpy_gradient"])
def test_a_second_rule(attach):
    op = differentiable_op(lambda x, y: x)
    op.gradient(plain)
    text = f"""\
{subject(op)}: the op already has such a rule, defined at {place(plain)}; a second one was attached at {place(another)}.
  Remove one of the two."""
    check(RegistrationError, text, lambda: getattr(op, attach)(another))


@pytest.mark.parametrize("attach", ["gradient", "numpy_gradient"])
def test_a_rule_of_a_bound_method(attach):
    text = f"""\
{subject(Holder.method)}: a rule was attached to a bound method, which does not keep it.
  Attach the rule in the class body. The first parameter of a method's rule is self."""
    check(RegistrationError, text, lambda: getattr(Holder().method, attach)(plain))


SIGNATURES = {
    "(),()": """\
{op}: cannot parse signature '(),()' at position 6.
  Expected: ',' or '->'
  Got:      (),()
                 ^
  Write the signature as in NumPy, for example "(m,k),(k,n)->(m,n)" or "(),()->()".""",
    "(),()->": """\
{op}: signature '(),()->' has no output.
  Write the signature as in NumPy, for example "(m,k),(k,n)->(m,n)" or "(),()->()".""",
    "(n,(n)->(n)": """\
{op}: cannot parse signature '(n,(n)->(n)' at position 4.
  Expected: a name or a number without parentheses
  Got:      (n,(n)->(n)
               ^
  Write the signature as in NumPy, for example "(m,k),(k,n)->(m,n)" or "(),()->()".""",
    "(n),(n)->n": """\
{op}: cannot parse signature '(n),(n)->n' at position 10.
  Expected: '('
  Got:      (n),(n)->n
                     ^
  Write the signature as in NumPy, for example "(m,k),(k,n)->(m,n)" or "(),()->()".""",
    "(n+m),(n)->()": """\
{op}: cannot solve signature '(n+m),(n)->()' for 'm' in the input size 'n+m'.
  Use a name, a number, or arithmetic with one name, such as n+1 or 2*n. For arithmetic with several names, other \
inputs must have these names as sizes.""",
    "(n),(n)->(m+n)": """\
{op}: signature '(n),(n)->(m+n)' uses 'm' in the output size 'm+n', but no input has 'm'.
  Use names from the inputs. For a size that is known only at run time, use a single new name.""",
    "(n),(n)->(n/2)": """\
{op}: cannot parse signature '(n),(n)->(n/2)' at position 12.
  Expected: a name, a number or one of -> ( ) , ? + - * //
  Got:      (n),(n)->(n/2)
                       ^
  Write the signature as in NumPy, for example "(m,k),(k,n)->(m,n)" or "(),()->()".""",
    "(...,n),(n)->()": """\
{op}: cannot parse signature '(...,n),(n)->()' at position 2.
  Expected: a name, a number or one of -> ( ) , ? + - * //
  Got:      (...,n),(n)->()
             ^
  Write the signature as in NumPy, for example "(m,k),(k,n)->(m,n)" or "(),()->()".""",
    "(n?),(n)->()": """\
{op}: cannot parse signature '(n?),(n)->()' at position 7.
  Expected: the same mark for all dimensions 'n'; here it is without '?', before it was with it
  Got:      (n?),(n)->()
                  ^
  Write the signature as in NumPy, for example "(m,k),(k,n)->(m,n)" or "(),()->()".""",
}


@pytest.mark.parametrize(("signature", "text"), SIGNATURES.items(), ids=SIGNATURES)
def test_a_signature_that_cannot_be_read(signature, text):
    text = text.replace("{op}", f"op 'tests.test_messages:plain' ({place(plain)})")
    check(SignatureError, text, lambda: differentiable_op(plain, signature=signature))


# -- ops by name


def test_an_unknown_name():
    differentiable_op(plain, name="zebra.crossing")
    text = """\
no op named 'zebra.crosing' is registered.
  Did you mean 'zebra.crossing'? An op is registered when its module is imported."""
    check(RegistrationError, text, lambda: get_op("zebra.crosing"))


def test_a_pickle_of_a_local_op():
    op = differentiable_op(lambda x: x)
    text = f"""\
{subject(op)}: the op cannot be pickled, because its name is valid in this process only.
  Define the op at the top level of a module, or pass name=."""
    check(RegistrationError, text, lambda: pickle.dumps(op))
