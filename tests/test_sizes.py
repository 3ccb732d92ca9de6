"""Sizes that functions of input sizes and static values compute (`sizes=`), and shape functions of unknown sizes."""

import ast
import gc
import itertools
import math
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from tests import modes
from tests.processes import run_python
from tests.saved_ops import moments
from tests.texts import exactly
from tfpyop import ContractError, RegistrationError, SignatureError, differentiable_op
from tfpyop.testing import Arguments, arguments, check_op

X = np.float32([[1, 2], [3, 4], [5, 6]])
MOMENTS = [9, 12, 35, 56]
CHECKS = ["check_contract", "check_parity", "check_gradient", "check_batching"]


def doubled(x, *, times=2):
    return np.concatenate([x] * times, axis=-1)


def tiled(**options):
    return differentiable_op(doubled, signature="(n)->(k)", sizes={"k": lambda n, *, times: n * times}, **options)


KNOWN = [mode for mode in modes.MODES if mode != "XLA, unknown sizes"]


@pytest.mark.parametrize("mode", KNOWN)
def test_values_in_every_mode(mode):
    assert modes.call(mode, moments, X).tolist() == MOMENTS
    assert modes.call(mode, lambda x: moments(x, degree=1), np.stack([X, X])).tolist() == [[9, 12]] * 2


@pytest.mark.parametrize("mode", [mode for mode in modes.GRADIENT_MODES if "XLA, unknown" not in mode])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradients_in_every_mode(mode, dtype):
    (found,) = modes.gradient(mode, moments, X.astype(dtype))
    assert found.dtype == dtype
    assert found.tolist() == (1 + 2 * X).tolist()


@pytest.mark.parametrize("is_compiled", [False, True])
def test_graphs_and_xla_know_the_size_for_unknown_batches_and_counts(is_compiled):
    spec = [tf.TensorSpec([None, None, 2])]
    call = tf.function(lambda x: moments(x, degree=3), input_signature=spec, jit_compile=is_compiled)
    assert call.get_concrete_function().output_shapes == [None, 6]
    assert call(np.stack([X] * 4)).shape == [4, 6]
    derivative = tf.function(lambda x: tf.gradients(moments(x), x)[0], input_signature=spec, jit_compile=is_compiled)
    np.testing.assert_array_equal(derivative(np.stack([X] * 4)), np.stack([1 + 2 * X] * 4))


def test_datasets_keras_and_batching_know_the_size():
    rows = tf.data.Dataset.from_tensor_slices(np.stack([X] * 4)).batch(2).map(moments)
    assert rows.element_spec.shape == [None, 4]
    assert next(iter(rows)).numpy().tolist() == [MOMENTS] * 2
    inputs = keras.Input((None, 2))
    model = keras.Model(inputs, moments(inputs, degree=3))
    assert model.output_shape == (None, 6)
    assert model(np.stack([X] * 4)).shape == (4, 6)
    assert moments.as_layer(degree=3)(keras.Input((3, 2))).shape == (None, 6)
    mapped = tf.vectorized_map(moments, np.stack([X] * 4))
    assert mapped.numpy().tolist() == [MOMENTS] * 4
    jacobian_of = tf.function(lambda x: _jacobian(moments, x), jit_compile=True)
    assert jacobian_of(tf.constant(X)).shape == [4, 3, 2]


def _jacobian(function, x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    return tape.jacobian(y, x)


_LOAD = """
import sys
import tensorflow as tf
import tests.saved_ops
loaded = tf.saved_model.load(sys.argv[1])
x = tf.constant([[[1.0, 2.0], [3.0, 4.0]]])
with tf.GradientTape() as tape:
    tape.watch(x)
    y = loaded.moments(x)
print([y.numpy().tolist(), tape.gradient(y, x).numpy().tolist(), loaded.moments.concrete_functions[0].output_shapes])
"""


@pytest.mark.parametrize("is_compiled", [False, True])
def test_another_process_computes_the_size(tmp_path, is_compiled):
    module = tf.Module()
    spec = [tf.TensorSpec([None, None, 2])]
    module.moments = tf.function(
        lambda x: moments(x, degree=1), input_signature=spec, jit_compile=is_compiled, autograph=False
    )
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=True)
    tf.saved_model.save(module, str(tmp_path), options=options)
    process = run_python("-c", _LOAD.replace("concrete_functions[0].output_shapes", "name"), str(tmp_path), timeout=300)
    assert process.returncode == 0, process.stderr
    value, gradient, _ = ast.literal_eval(process.stdout.replace("loaded", "'loaded'").replace("None]", "0]"))
    assert value == [[4, 6]]
    assert gradient == [[[1, 1], [1, 1]]]


def test_methods_executors_and_functions_of_core_dimensions():
    class Tiles:
        def __init__(self, factor):
            self.factor = factor

        @differentiable_op(signature="(n)->(k)", sizes={"k": lambda n, *, times: n * times}, grad="numerical")
        def scaled(self, x, *, times):
            return np.tile(self.factor * x, times)

    assert tf.function(lambda x: Tiles(2).scaled(x[0], times=3))(tf.ones([1, 2])).shape == [6]
    looped = tiled(vectorized=False)
    assert tf.function(looped)(tf.zeros([0, 3]), times=3).shape == [0, 9]
    assert looped(tf.ones([2, 3]), times=3).shape == [2, 9]


def test_names_of_residuals_and_arithmetic_are_computed():
    @differentiable_op(
        signature="(d)->(2*k)",
        sizes={"k": lambda d: math.comb(d, 2), "m": lambda: 5},
        residuals={"pairs": ("(k,2)", np.int64), "five": ("(m)", np.float64)},
    )
    def pairs(x):
        places = np.array(list(itertools.combinations(range(x.shape[-1]), 2))).reshape(-1, 2)
        loop = x.shape[:-1]
        parts = [x[..., places[:, 0]], x[..., places[:, 1]]]
        return np.concatenate(parts, -1), {
            "pairs": np.broadcast_to(places, loop + places.shape),
            "five": np.ones((*loop, 5)),
        }

    @pairs.numpy_gradient
    def pairs_gradient(op, cotangent):
        assert op.residuals.five.shape == (5,)
        result = np.zeros_like(op.inputs[0])
        np.add.at(result, op.residuals.pairs.T.ravel(), cotangent)
        return result

    for mode in ("tape, eager", "tape inside", "tape outside, XLA"):
        (found,) = modes.gradient(mode, pairs, np.float32([1, 2, 3, 4]))
        assert found.tolist() == [3, 3, 3, 3]


def test_the_checks_draw_static_values_and_know_the_sizes():
    drawn = arguments(moments, dtypes=["float64"], domain="[-2, 2]", degree=st.integers(1, 3))
    check_op(moments, arguments=drawn, max_examples=4, checks=CHECKS, seed=1)


def test_a_result_of_another_size_is_an_error_in_every_mode():
    op = differentiable_op(lambda x, *, k=3: x[..., :2], signature="(n)->(k)", sizes={"k": lambda *, k: k})
    for mode in KNOWN:
        with pytest.raises((ContractError, tf.errors.OpError), match=r"with k = 3 from sizes=\. Fix the signature"):
            modes.call(mode, op, np.ones(4, "float32"))


WITHOUT_SIZE = "  Fix the function, or pass inputs and static values for which it returns a size."
NO_SIZES = [-1, 2**63, 2.0, True, None, (3,), "3"]


@pytest.mark.parametrize("returned", NO_SIZES)
def test_a_function_that_does_not_return_a_size_is_an_error(returned):
    op = differentiable_op(lambda x, *, m=1: x, signature="(n)->(k)", sizes={"k": lambda n, *, m: returned})
    message = (
        f"op {op.name!r} ({op._definition.site}): the function of 'k' in sizes= did not return a size.\n"
        f"  Expected: an integer from 0 to 2**63 - 1\n  Got:      {returned!r} for n = 2, m = 1\n{WITHOUT_SIZE}"
    )
    with pytest.raises(SignatureError, match=exactly(message)):
        op([1.0, 2.0])
    for is_compiled in (False, True):
        with pytest.raises(SignatureError, match="did not return a size"):
            tf.function(op, jit_compile=is_compiled)(tf.ones([2]))


def test_a_function_that_raises_is_an_error():
    op = differentiable_op(lambda x: x, signature="(n)->(k)", sizes={"k": lambda n: [][n]})
    message = (
        f"op {op.name!r} ({op._definition.site}): the function of 'k' in sizes= raised IndexError: list index out of "
        "range\n  Got:      n = 2\n  Fix the function, or pass inputs and static values that it accepts."
    )
    with pytest.raises(SignatureError, match=exactly(message)) as caught:
        op([1.0, 2.0])
    assert isinstance(caught.value.__cause__, IndexError)


def test_xla_names_the_sizes_that_it_must_know():
    call = tf.function(moments, input_signature=[tf.TensorSpec([3, None])], jit_compile=True)
    with pytest.raises(SignatureError, match=r"sizes= computes sizes from d\. Make it known with input_signature="):
        call(X)


def of(function):
    return {"sizes": {"k": function}}


MISUSE = {
    "not a dict": ({"sizes": 3}, "sizes= is not a dict."),
    "no signature": ({"signature": None, **of(lambda n: n)}, "sizes= requires a signature."),
    "a size of an input": ({"sizes": {"n": lambda n: n}}, "sizes= computes 'n', which is the size of an input."),
    "an unknown name": (
        {"sizes": {"kk": lambda n: n}},
        "sizes= computes 'kk', which is not a name in the signature's outputs.",
    ),
    "not a function": (of(3), "the value of 'k' in sizes= is not a function."),
    "an unknown size": (of(lambda d: d), "the function of 'k' in sizes= takes 'd', which is not the size of an input."),
    "an optional size": (
        {"signature": "(n,o?)->(k)", **of(lambda o: o)},
        "the function of 'k' in sizes= takes 'o', which is an optional size.",
    ),
    "any number of sizes": (of(lambda *n: 1), "the function of 'k' in sizes= takes a variable number of arguments."),
    "no parameters": (of(min), "cannot read the parameters of the function of 'k' in sizes=."),
    "an unknown static parameter": (of(lambda n, *, time: n), "the op has no static parameter 'time'."),
}


@pytest.mark.parametrize(("options", "problem"), MISUSE.values(), ids=MISUSE)
def test_misuse_is_an_error_when_the_op_is_defined(options, problem):
    with pytest.raises(RegistrationError) as caught:
        differentiable_op(doubled, **{"signature": "(n)->(k)", **options})
    assert caught.value.problem == problem
    assert caught.value.remedy is not None


def test_the_description_shows_the_sizes():
    assert "  sizes:         k(n, *, times)\n" in tiled().describe()


def test_cached_shapes_do_not_keep_the_functions():
    class Size:
        def __call__(self, n: int):
            return n

    size = Size()
    op = differentiable_op(lambda x: x, signature="(n)->(k)", sizes={"k": size})
    assert op([1.0, 2.0]).shape == [2]
    known = weakref.ref(size)
    del op, size
    gc.collect()
    assert known() is None


# -- shape functions


def normalized(shape=lambda x: (*x[:-1], 2 * x[-1])):
    @differentiable_op(shape=shape, residuals={"norms": ("(rows)", np.float64)})
    def op(x):
        norms = np.linalg.norm(x, axis=-1)
        return np.concatenate([x, x], -1), {"norms": norms}

    @op.numpy_gradient
    def gradient(context, cotangent):
        (x,) = context.inputs
        assert context.residuals.norms.tolist() == np.linalg.norm(x, axis=-1).tolist()
        return cotangent[..., : x.shape[-1]] + cotangent[..., x.shape[-1] :]

    return op


def test_shape_functions_get_none_for_unknown_sizes():
    op = normalized()
    call = tf.function(op, input_signature=[tf.TensorSpec([None, 3])])
    assert call.get_concrete_function().output_shapes == [None, 6]
    assert call(tf.ones([2, 3])).shape == [2, 6]
    inputs = keras.Input((3,))
    model = keras.Model(inputs, op(inputs))
    assert model.output_shape == (None, 6)
    assert model(np.ones([2, 3])).shape == (2, 6)


@pytest.mark.parametrize("mode", [mode for mode in modes.GRADIENT_MODES if "XLA" not in mode])  # as of new names
def test_ops_with_shape_functions_have_residuals(mode):
    assert modes.gradient(mode, normalized(), X)[0].tolist() == np.full_like(X, 2).tolist()


def test_xla_knows_residuals_of_fixed_sizes():
    op = differentiable_op(
        lambda x: (2 * x, {"ones": np.ones(3)}),
        shape=lambda x: x,
        residuals={"ones": ("(3)", np.float64)},
        numpy_grad=lambda op, g: 2 * g * op.residuals.ones[0],
    )
    assert modes.gradient("tape inside, XLA", op, X)[0].tolist() == np.full_like(X, 2).tolist()


def test_residuals_with_shape_are_checked():
    op = differentiable_op(
        lambda x: (x, {"a": np.ones((2, 3))}), shape=lambda x: x, residuals={"a": ("(m,m)", np.float64)}
    )
    with pytest.raises(ContractError, match="the size 'm' of residual 'a' differs"):
        op([1.0])
    op = differentiable_op(lambda x: (x, {"a": 1.0}), shape=lambda x: x, residuals={"a": ("(m)", np.float64)})
    with pytest.raises(
        ContractError, match=r"residual 'a' has the wrong shape\.\n(.*\n)*.*The declaration in residuals="
    ):
        op([1.0])
    with pytest.raises(SignatureError, match=r"'\(m\+1\)', with shape="):
        differentiable_op(lambda x: x, shape=lambda x: x, residuals={"a": ("(m+1)", np.float64)})


def test_a_shape_function_that_cannot_take_none_leaves_the_shape_unknown():
    op = normalized(lambda x: (x[0] + 0, 2 * x[1]))
    call = tf.function(op, input_signature=[tf.TensorSpec([None, 3])])
    assert call.get_concrete_function().output_shapes.rank is None
    assert call(tf.ones([2, 3])).shape == [2, 6]
    with pytest.raises(NotImplementedError, match=r"Keras calls shape= with None for unknown sizes, such as the batch"):
        op(keras.Input((3,)))


def test_none_for_known_sizes_is_an_error():
    with pytest.raises(SignatureError, match="the shape function must return one shape for each output"):
        normalized(lambda x: (None, 2 * x[1]))(X)


def test_a_wrong_shape_of_unknown_sizes_is_an_error_when_the_graph_runs():
    op = differentiable_op(lambda x: x, shape=lambda x: (3 if x[0] is None else x[0], 2))
    call = tf.function(op, input_signature=[tf.TensorSpec([None, 2])])
    with pytest.raises((ContractError, tf.errors.OpError), match="has changed since"):
        call(tf.ones([2, 2]))


def test_checks_accept_shape_functions_with_residuals():
    drawn = st.just(Arguments((X.astype("float64"),)))
    check_op(normalized(), arguments=drawn, max_examples=3, checks=CHECKS, seed=1)
