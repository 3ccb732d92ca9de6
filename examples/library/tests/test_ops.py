"""The ops: what tfpyop draws and checks, and one test for each of what the drawn examples do not show."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

import terrain
from terrain import ops
from tfpyop.testing import arguments, make_test_class

STATIC = {"spacing": st.sampled_from([0.5, 1.0, 30.0]), "time": st.sampled_from([0.0, 1.0, 100.0])}

TestOps = make_test_class(ops, arguments={"diffuse": arguments(ops.diffuse, **STATIC)}, max_examples=10, seed=1)


def test_an_op_gives_what_the_function_gives():
    places = np.random.default_rng(1).uniform(-80, 80, [2, 5, 2])
    computed = ops.distance(*tf.constant(places))
    assert computed.dtype == tf.float64
    np.testing.assert_array_equal(computed, terrain.distance(*places))


def test_profiles_of_a_batch_creep_one_by_one():
    heights = np.random.default_rng(2).uniform(0, 100, [3, 6])
    after = ops.diffuse(tf.constant(heights), tf.ones([6], tf.float64), time=4.0)
    np.testing.assert_array_equal(after, [terrain.diffuse(row, np.ones(6), time=4.0) for row in heights])


@pytest.mark.parametrize("end", [[10.0, 20.0], [-10.0, -160.0]], ids=["the same place", "the antipode"])
def test_the_distance_has_finite_derivatives_at_its_kinks(end):
    start, end = tf.Variable([10.0, 20.0], dtype=tf.float64), tf.constant(end, tf.float64)
    with tf.GradientTape() as outer:
        with tf.GradientTape() as tape:
            metres = ops.distance(start, end)
        gradient = tape.gradient(metres, start)
    assert np.all(np.isfinite(gradient))
    assert np.all(np.isfinite(outer.jacobian(gradient, start)))


def test_a_place_is_found_from_its_distances():
    stations = tf.constant([[46.0, 7.0], [47.0, 9.0], [45.5, 9.5]], tf.float64)
    hidden = tf.constant([46.4, 8.3], tf.float64)
    measured = ops.distance(hidden, stations)
    place = tf.Variable([46.0, 8.0], dtype=tf.float64)
    for _ in range(6):  # Gauss-Newton
        with tf.GradientTape() as tape:
            misfit = ops.distance(place, stations) - measured
        place.assign_sub(tf.linalg.lstsq(tape.jacobian(misfit, place), misfit[:, None], fast=False)[:, 0])
    np.testing.assert_allclose(place, hidden, atol=1e-9)
