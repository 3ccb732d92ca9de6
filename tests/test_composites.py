"""What TensorFlow has beside tensors is refused with a remedy that works for it."""

import numpy as np
import pytest
import tensorflow as tf

from tfpyop import CoercionError, differentiable_op

VALUES = np.float32([1, 2])


@differentiable_op(signature="(n)->(n)", name="tests.test_composites:double")
def double(x):
    return 2 * x


class Pair(tf.experimental.ExtensionType):
    """An extension type of a user's own."""

    first: tf.Tensor


def replicated():
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    value = strategy.experimental_distribute_values_from_function(lambda _: tf.constant(VALUES))
    if not isinstance(value, tf.distribute.DistributedValues):  # there is one replica, and TensorFlow unwraps it
        pytest.skip("one replica is one tensor here")
    return strategy, value


COMPOSITES = {
    "IndexedSlices": (
        lambda: tf.IndexedSlices(tf.constant(VALUES), tf.constant([0, 2])),
        "dense_shape",
        lambda x: double(tf.IndexedSlices(x.values, x.indices, tf.constant([4]))),
        [2, 0, 4, 0],
    ),
    "RaggedTensor": (
        lambda: tf.ragged.constant([[1.0], [2.0]]),
        r"\.to_tensor\(\)",
        lambda x: double(x.to_tensor()),
        [[2], [4]],
    ),
    "SparseTensor": (
        lambda: tf.sparse.from_dense(VALUES),
        r"tf\.sparse\.to_dense",
        lambda x: double(tf.sparse.to_dense(x)),
        [2, 4],
    ),
    "Dataset": (
        lambda: tf.data.Dataset.from_tensors(VALUES),
        r"dataset\.map\(op\)",
        lambda x: next(iter(x.map(double))),
        [2, 4],
    ),
    "Iterator": (
        lambda: iter(tf.data.Dataset.from_tensors(VALUES)),
        r"next\(iterator\)",
        lambda x: double(next(x)),
        [2, 4],
    ),
    "Optional": (
        lambda: tf.experimental.Optional.from_value(tf.constant(VALUES)),
        r"x\.get_value\(\), if x\.has_value\(\)",
        lambda x: double(x.get_value()),
        [2, 4],
    ),
    "TensorArray": (
        lambda: tf.TensorArray(tf.float32, 2).unstack(tf.constant(VALUES)),
        r"\.stack\(\)",
        lambda x: double(x.stack()),
        [2, 4],
    ),
    "Pair": (
        lambda: Pair(tf.constant(VALUES)),
        "Pass its tensors as separate inputs",
        lambda x: double(x.first),
        [2, 4],
    ),
}
EVERY = pytest.mark.parametrize(("make", "remedy", "remedied", "expected"), COMPOSITES.values(), ids=COMPOSITES)


@EVERY
@pytest.mark.parametrize("is_traced", [False, True])
def test_a_composite_is_refused_with_a_remedy_that_works(make, remedy, remedied, expected, is_traced):
    def call():
        with pytest.raises(
            CoercionError, match=rf"double'.*input 0 is a \w+, which cannot be passed as an array\.\n  .*{remedy}"
        ):
            double(make())
        return remedied(make())

    result = tf.function(call, autograph=False)() if is_traced else call()
    np.testing.assert_array_equal(result, expected)


@EVERY
def test_so_is_a_list_with_one_in_it(make, remedy, remedied, expected):
    del remedied, expected
    with pytest.raises(
        CoercionError, match=rf"input 0 is a list that contains a \w+, which cannot be passed as an array\.\n.*{remedy}"
    ):
        double([make()])


def test_the_values_of_replicas():
    strategy, value = replicated()
    with pytest.raises(CoercionError, match=r"input 0 is a PerReplica, .*\n  .*strategy\.run\(op, args=\(x,\)\)"):
        double(value)
    np.testing.assert_array_equal(strategy.experimental_local_results(strategy.run(double, args=(value,)))[0], [2, 4])
    np.testing.assert_array_equal(double(strategy.experimental_local_results(value)[0]), [2, 4])


HANDLES = {
    "resource": lambda: tf.Variable(VALUES).handle,
    "variant": lambda: tf.raw_ops.EmptyTensorList(element_shape=[2], max_num_elements=3, element_dtype=tf.float32),
}


@pytest.mark.parametrize("dtype", HANDLES)
@pytest.mark.parametrize("is_traced", [False, True])
@pytest.mark.parametrize("around", [lambda x: x, lambda x: [x]], ids=["alone", "in a list"])
def test_a_tensor_without_values_is_refused(dtype, is_traced, around):
    handle = HANDLES[dtype]()
    call = tf.function(double, autograph=False) if is_traced else double
    with pytest.raises(CoercionError, match=rf"double'.*input 0 is a tensor of dtype {dtype}, which has no values\."):
        call(around(handle))


def test_variables_and_slices_of_known_shape_are_inputs():
    np.testing.assert_array_equal(double(tf.Variable(VALUES)), [2, 4])
    np.testing.assert_array_equal(double(tf.IndexedSlices(tf.constant(VALUES), [0, 2], [4])), [2, 0, 4, 0])
    np.testing.assert_array_equal(
        differentiable_op(lambda x: x, signature="(m,n)->(m,n)")([tf.Variable(VALUES), VALUES]), [VALUES, VALUES]
    )
