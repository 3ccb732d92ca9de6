"""Dtypes: what is declared holds in every mode, and what no array can have is refused in every mode."""

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

from tests import modes
from tfpyop import differentiable_op
from tfpyop.errors import CoercionError, RegistrationError

every_mode = pytest.mark.parametrize("mode", modes.MODES)

INTEGERS = {
    tf.qint8: tf.int8,
    tf.quint8: tf.uint8,
    tf.qint16: tf.int16,
    tf.quint16: tf.uint16,
    tf.qint32: tf.int32,
}


@every_mode
@pytest.mark.parametrize("dtype", [np.float64, "float64", float, np.dtype("f8"), tf.float64])
def test_float64_is_declared_for_an_op_without_inputs(mode, dtype):
    op = differentiable_op(lambda: np.array([1.5, 2.5]), signature="->(2)", dtype=dtype)
    result = modes.call(mode, op)
    assert (result.dtype, result.tolist()) == (np.float64, [1.5, 2.5])


@pytest.mark.parametrize("mode", modes.WITHOUT_XLA)
@pytest.mark.parametrize("options", [{}, {"signature": "()->()"}, {"shape": lambda shape: shape}])
def test_float64_is_declared_for_an_op_on_text(mode, options):
    op = differentiable_op(lambda text: np.vectorize(float)(text.astype(str)), dtype=np.float64, **options)
    result = modes.call(mode, op, np.array([b"1.5", b"2"], object))
    assert (result.dtype, result.tolist()) == (np.float64, [1.5, 2])


@every_mode
def test_float64_is_declared_for_an_op_on_float16_and_bfloat16(mode):
    op = differentiable_op(lambda x, y: np.float64(x) + np.float64(y), signature="(),()->()", dtype=np.float64)
    result = modes.call(mode, op, np.float16([1, 2]), np.array([3, 4], ml_dtypes.bfloat16))
    assert (result.dtype, result.tolist()) == (np.float64, [4, 6])


@every_mode
def test_float64_is_declared_for_some_outputs(mode):
    op = differentiable_op(
        lambda x: (x, np.float64(x), x), signature="()->(),(),()", dtype=(None, np.float64, np.int64)
    )
    assert [result.dtype for result in modes.call(mode, op, np.int32([1, 2]))] == [np.int32, np.float64, np.int64]


@every_mode
def test_float64_is_declared_for_a_ufunc(mode):
    op = differentiable_op(np.add, dtype=np.float64)
    assert modes.call(mode, op, np.int32([1, 2]), np.int32([3, 4])).dtype == np.float64


@every_mode
def test_float64_residuals_leave_the_declared_outputs_alone(mode):
    op = differentiable_op(
        lambda: (np.float32(2), {"kept": np.float64(3)}),
        signature="->()",
        dtype=np.float32,
        residuals={"kept": ("()", np.float64)},
    )
    op.numpy_gradient(lambda op, cotangent: ())
    result = modes.call(mode, op)
    assert (result.dtype, result) == (np.float32, 2)


@every_mode
@pytest.mark.parametrize("residual", [np.float64, np.float32])
def test_residuals_do_not_make_outputs_declared_or_undeclared(mode, residual):
    op = differentiable_op(
        lambda x: (2 * x, {"kept": residual(x)}), signature="()->()", residuals={"kept": ("()", residual)}
    )
    op.numpy_gradient(lambda op, cotangent: cotangent * op.residuals.kept)
    assert modes.call(mode, op, np.float32([1, 2])).dtype == np.float32
    (gradient,) = modes.gradient("tape, eager", op, np.float32([1, 2]))
    assert gradient.tolist() == [1, 2]


CALLS = {
    "eager": lambda op, tensor: op(tensor),
    "static value": lambda op, tensor: op(tensor, flag=True),
    "graph": lambda op, tensor: tf.function(op, autograph=False)(tensor),
    "unknown shape": lambda op, tensor: tf.function(op, input_signature=[tf.TensorSpec(None, tensor.dtype)])(tensor),
    "XLA": lambda op, tensor: tf.function(op, jit_compile=True)(tensor),
    "vectorized_map": lambda op, tensor: tf.vectorized_map(op, tensor),
    "loop": lambda op, tensor: tf.function(lambda x: tf.while_loop(lambda y: True, lambda y: [op(x)], [0]))(tensor),
}


@pytest.mark.parametrize("options", [{}, {"signature": "()->()"}, {"signature": "()->()", "dtype": np.float32}])
@pytest.mark.parametrize("dtype", INTEGERS, ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("mode", CALLS)
def test_quantized_tensors_are_refused(mode, dtype, options):
    op = differentiable_op(lambda x, *, flag=False: np.float32(x), **options)
    quantized = tf.bitcast(tf.constant([1, 2], INTEGERS[dtype]), dtype)
    message = (
        rf"^op .*: input 0 has the quantized dtype {dtype.name}, which numpy arrays do not support\.\n"
        rf"  Expected: numbers, booleans or strings\n  Got:      {dtype.name}\n"
        rf"  Pass its integers with tf\.bitcast\(x, tf\.{INTEGERS[dtype].name}\), or its values with "
        r"tf\.quantization\.dequantize\(x, \.\.\.\)\.$"
    )
    with pytest.raises(CoercionError, match=message):
        CALLS[mode](op, quantized)


def test_the_quantized_one_among_several_inputs_is_named():
    op = differentiable_op(lambda x, y: x, signature="(),()->()")
    with pytest.raises(CoercionError, match="input 1 has the quantized dtype qint32"):
        op(tf.constant([1, 2]), tf.bitcast(tf.constant([1, 2]), tf.qint32))


HANDLES = {
    "variant": lambda: tf.raw_ops.EmptyTensorList(
        element_shape=tf.zeros([0], tf.int32), max_num_elements=3, element_dtype=tf.float32
    ),
    "resource": lambda: tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[]),
}


@pytest.mark.parametrize("handle", HANDLES)
@pytest.mark.parametrize("mode", ["eager", "static value", "graph", "XLA"])
def test_handles_are_refused(mode, handle):
    op = differentiable_op(lambda x, *, flag=False: x)
    message = (
        rf"^op .*: input 0 is a tensor of dtype {handle}, which has no values\.\n"
        r"(?s:.*)Pass the object that the tensor refers to"
    )
    with pytest.raises(CoercionError, match=message):
        CALLS[mode](op, HANDLES[handle]())


@pytest.mark.parametrize("dtype", [*INTEGERS, tf.variant, tf.resource], ids=lambda dtype: dtype.name)
def test_dtypes_that_arrays_do_not_have_cannot_be_declared(dtype):
    with pytest.raises(
        RegistrationError, match=rf"tf\.{dtype.name}|<dtype: '{dtype.name}'> is not a valid array dtype"
    ):
        differentiable_op(lambda x: x, dtype=dtype)
