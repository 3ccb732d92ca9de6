"""Cotangents that a rule returns as `tf.IndexedSlices`: TensorFlow gets them as they are where it accepts them."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from tests import modes
from tfpyop import ContractError, differentiable_op
from tfpyop.testing import Arguments, check_gradient

TABLE, PLACES = np.float32([[1, 2], [3, 4], [5, 6]]), np.int32([2, 0, 2])
COTANGENT = [[1, 1], [0, 0], [2, 2]]


@differentiable_op(signature="(n,d),(m)->(m,d)")
def looked_up(table, places):
    return table[places]


@looked_up.gradient
def looked_up_gradient(op, cotangent):
    table, places = op.inputs
    return tf.IndexedSlices(cotangent, places, tf.shape(table)), None


def by_table(table):
    return looked_up(table, tf.constant(PLACES))


def gradient(table):
    with tf.GradientTape() as tape:
        tape.watch(table)
        y = by_table(table)
    return tape.gradient(y, table)


@pytest.mark.parametrize("call", [gradient, tf.function(gradient)], ids=["eager", "graph"])
def test_tapes_get_slices(call):
    found = call(tf.constant(TABLE))
    assert isinstance(found, tf.IndexedSlices)
    assert found.indices.numpy().tolist() == PLACES.tolist()
    assert tf.convert_to_tensor(found).numpy().tolist() == COTANGENT


def test_graph_gradients_get_slices():
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        table = tf.constant(TABLE)
        (found,) = tf.gradients(by_table(table), table)
        assert isinstance(found, tf.IndexedSlices)
        assert session.run(tf.convert_to_tensor(found)).tolist() == COTANGENT


@pytest.mark.parametrize("mode", modes.GRADIENT_MODES)
def test_values_in_every_mode(mode):
    """As a dense tensor, behind another op that reads it."""
    (found,) = modes.gradient(mode, lambda table: by_table(2 * table), TABLE)
    assert found.tolist() == (2 * np.array(COTANGENT)).tolist()


def test_optimizers_apply_slices():
    table = tf.Variable(TABLE)
    keras.optimizers.SGD(1.0).apply_gradients([(tf.function(lambda: gradient(table))(), table)])
    assert table.numpy().tolist() == (TABLE - COTANGENT).tolist()


def test_sums_jacobians_forward_mode_and_rows():
    table = tf.constant(TABLE)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(table)
        y = by_table(table)
        total = y + by_table(table)
    assert tf.convert_to_tensor(tape.gradient(total, table)).numpy().tolist() == (2 * np.array(COTANGENT)).tolist()
    expected = np.zeros((3, 2, 3, 2))
    for row, place in enumerate(PLACES):
        for column in range(2):
            expected[row, column, place, column] = 1
    assert tape.jacobian(y, table).numpy().tolist() == expected.tolist()
    with tf.autodiff.ForwardAccumulator(table, tf.ones_like(table)) as accumulator:
        y = by_table(table)
    assert accumulator.jvp(y).numpy().tolist() == np.ones((3, 2)).tolist()
    rows = tf.vectorized_map(lambda row: tf.convert_to_tensor(gradient(row)), tf.stack([table, table]))
    assert rows.numpy().tolist() == [COTANGENT] * 2


@pytest.mark.parametrize("mode", modes.GRADIENT_MODES)
def test_slices_without_a_shape_get_the_shape_of_the_input(mode):
    op = differentiable_op(lambda table, places: table[places], signature="(n,d),(m)->(m,d)")
    op.gradient(lambda op, cotangent: (tf.IndexedSlices(cotangent, op.inputs[1]), None))
    (found,) = modes.gradient(mode, lambda table: op(2 * table, tf.constant(PLACES)), TABLE)
    assert found.tolist() == (2 * np.array(COTANGENT)).tolist()


def test_slices_of_another_shape_are_refused():
    op = differentiable_op(lambda x: x + 0, signature="(n,d)->(n,d)")
    op.gradient(lambda op, g: tf.IndexedSlices(g[:1], [0], [2, 2]))
    with pytest.raises(ValueError, match="the cotangent of input 0 has the wrong shape"):
        modes.gradient("tape, eager", op, TABLE)


def with_slices(make):
    op = differentiable_op(lambda x: x + 0, signature="(n,d)->(n,d)")
    op.gradient(lambda op, g: make(g))
    return op


@pytest.mark.parametrize("mode", modes.GRADIENT_MODES)
@pytest.mark.parametrize("index", [-1, 3])
def test_an_invalid_index_is_an_error_in_every_mode(mode, index):
    op = with_slices(lambda g: tf.IndexedSlices(g, tf.constant([0, 1, index])))
    text = (
        "the cotangent of input 0 has an invalid index.\n"
        "  Expected: indices of tf.IndexedSlices from 0 to 2\n"
        f"  Got:      {index}\n"
        "  Return the indices of the rows of the input that the values belong to."
    )
    with pytest.raises((ContractError, tf.errors.OpError)) as caught:
        modes.gradient(mode, lambda x: op(2 * x), TABLE)
    assert f"gradient of op {op.name!r}" in str(caught.value)
    assert text in str(caught.value)


@pytest.mark.parametrize("mode", modes.GRADIENT_MODES)
@pytest.mark.parametrize("indices", [[0, 1], [[0], [1], [2]], 0], ids=str)
def test_indices_that_do_not_fit_the_values_are_an_error(mode, indices):
    if "unknown" in mode:
        pytest.skip("the sizes are not known when the graph is made")
    op = with_slices(lambda g: tf.IndexedSlices(g, tf.constant(indices), [3, 2]))
    with pytest.raises(ContractError) as caught:
        modes.gradient(mode, lambda x: op(2 * x), TABLE)
    got = f"int32{list(np.shape(indices))}"
    assert str(caught.value).endswith(
        "the cotangent of input 0 has different numbers of values and indices.\n"
        "  Expected: tf.IndexedSlices with a vector of indices, one for each of its values\n"
        f"  Got:      values float32[3, 2] and indices {got}\n"
        "  Return tf.IndexedSlices(values, indices, dense_shape), in which values[k] belongs to dense[indices[k]]."
    )


def test_slices_of_loop_dimensions_are_summed():
    op = differentiable_op(lambda x, y: x + y, signature="(d),(d)->(d)")
    op.gradient(lambda op, g: (tf.IndexedSlices(g, [0, 1, 2], [3, 2]), g))
    found, _ = modes.gradient("tape, eager", op, TABLE[0], TABLE)
    assert found.tolist() == [3, 3]


def test_the_check_accepts_slices():
    drawn = st.just(Arguments((TABLE.astype("float64"), PLACES)))
    assert check_gradient(looked_up, arguments=drawn, max_examples=2, seed=1).status == "passed"
