"""Inputs whose sizes are arithmetic, as the cells and faces of a staggered grid, in every mode."""

import numpy as np
import pytest
import tensorflow as tf

from tests import modes
from tfpyop import SignatureError, differentiable_op
from tfpyop.testing import arguments, check_op


@differentiable_op(signature="(n+1),(n)->(n)")
def divergence(fluxes, widths):
    return np.diff(fluxes) / widths


@divergence.numpy_gradient
def divergence_gradient(op, cotangent):
    _, widths = op.inputs
    scaled = cotangent / widths
    edges = np.zeros_like(scaled[..., :1])
    by_fluxes = np.concatenate([edges, scaled], -1) - np.concatenate([scaled, edges], -1)
    return by_fluxes, -cotangent * op.outputs[0] / widths


halved = differentiable_op(
    lambda x: x[..., ::2], signature="(2*n)->(n)", grad="numerical", name="tests.computed.halved"
)

FLUXES = np.float32([[1, 2, 4, 8], [0, 1, 0, 1]])
WIDTHS = np.float32([1, 2, 4])


@pytest.mark.parametrize("mode", modes.MODES)
def test_values_in_every_mode(mode):
    assert modes.call(mode, divergence, FLUXES, WIDTHS).tolist() == [[1, 1, 1], [1, -0.5, 0.25]]
    assert modes.call(mode, halved, np.float32([[1, 2, 3, 4]])).tolist() == [[1, 3]]


@pytest.mark.parametrize("mode", modes.GRADIENT_MODES)
def test_gradients_in_every_mode(mode):
    by_fluxes, by_widths = modes.gradient(mode, divergence, FLUXES, WIDTHS)
    assert by_fluxes.tolist() == [[-1, 0.5, 0.25, 0.25]] * 2
    assert by_widths.tolist() == [-2, -0.25, -0.3125]
    (found,) = modes.gradient(mode, halved, np.float32([[1, 2, 3, 4]]))
    assert found.tolist() == [[1, 0, 1, 0]]


def test_static_shapes_of_graphs_are_solved():
    @tf.function(input_signature=[tf.TensorSpec([None, 5]), tf.TensorSpec([None])])
    def shape(fluxes, widths):
        return tf.zeros(divergence(fluxes, widths).shape[1:])

    assert shape(tf.zeros([2, 5]), tf.zeros([4])).shape == [4]


def test_vectorized_map_maps_rows():
    rows = tf.vectorized_map(lambda row: divergence(row, WIDTHS), tf.constant(FLUXES))
    assert rows.numpy().tolist() == [[1, 1, 1], [1, -0.5, 0.25]]


@pytest.mark.parametrize("mode", modes.MODES)
def test_sizes_that_do_not_fit_are_an_error(mode):
    with pytest.raises((SignatureError, tf.errors.OpError), match="because n = 2"):
        modes.call(mode, divergence, FLUXES, WIDTHS[:2])


@pytest.mark.slow
@pytest.mark.parametrize("op", [divergence, halved], ids=lambda op: op.name)
def test_the_checks_draw_sizes_that_fit(op):
    drawn = arguments(op, dtypes=["float64"], domain={"widths": "[1, 2]"} if op is divergence else None)
    check_op(op, arguments=drawn, max_examples=8, checks=["check_contract", "check_parity", "check_gradient"], seed=1)
