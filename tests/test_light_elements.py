"""Derivatives that are small beside others: how they are grouped, and what noise of the function hides."""

import numpy as np
import pytest

from tfpyop.testing._derivatives import Function, slopes
from tfpyop.testing._light_elements import LightElements
from tfpyop.testing._light_tangents import LightTangents
from tfpyop.testing._magnitude_groups import magnitude_groups, reached_elements, spread_for
from tfpyop.testing._value_noise import Noise

HEAVY_AND_LIGHT = np.array([1e9, 1e-3])
POINT, DIRECTION = [np.array([1.0, 1.0])], [np.array([1.0, -1.0])]


def weighted_sum(weights, noise=0.0):
    def call(arrays):
        total = (arrays[0] * weights).sum(-1)
        return [total + noise * np.sin(1e12 * total)]

    return Function(call, [1], [0])


def mismatch(function, claimed):
    light = LightElements(
        function, POINT, DIRECTION, pull=lambda vectors: [vectors[0][..., None] * claimed], noise=1e-14
    )
    numerical = slopes(function, POINT, DIRECTION)
    cotangent = np.array(1.0)
    return light.mismatch(numerical, [cotangent], [cotangent[..., None] * claimed])


def tangent_mismatch(function, claimed):
    light = LightTangents(function, POINT, push=lambda vectors: [(vectors[0] * claimed).sum(-1)])
    return light.mismatch(DIRECTION, slopes(function, POINT, DIRECTION))


def groups_of(sizes, spread=1e3):
    sizes = np.array(sizes)
    return [np.flatnonzero(group[0]).tolist() for group in magnitude_groups([sizes], [sizes == sizes], spread)]


def test_groups_hold_similar_magnitudes_and_zeros_are_the_last():
    assert groups_of([1.0, 1e9, 0.0, 2e6, 0.5e3]) == [[1, 3], [0, 4], [2]]
    assert groups_of([0.0, 0.0]) == [[0, 1]]
    assert groups_of([1.0, np.nan, np.inf]) == [[0]]


@pytest.mark.parametrize(("tolerance", "spread"), [(1e-6, 1e3), (2e-3, 50), (5e-2, 4)])
def test_groups_are_narrower_where_the_tolerance_is_coarse(tolerance, spread):
    assert spread_for(tolerance) == pytest.approx(spread)


def test_only_elements_of_the_same_loop_element_are_reached():
    function = Function(lambda arrays: [arrays[0] + arrays[1]], [0, 0], [0])
    point = [np.ones((2, 1)), np.ones(3)]
    reached = reached_elements(function, point, [np.array([[0.0, 0, 1], [0, 0, 0]])])
    assert reached[0].tolist() == [[True], [False]]
    assert reached[1].tolist() == [False, False, True]


def test_noise_is_measured():
    quiet = Noise.directional_derivative(weighted_sum(np.arange(1.0, 3)), POINT, DIRECTION)
    noisy = Noise.directional_derivative(weighted_sum(np.arange(1.0, 3), noise=1e-6), POINT, DIRECTION)
    assert quiet.values[0] < 1e-14
    assert 1e-8 < noisy.values[0] < 1e-5


@pytest.mark.parametrize("find", [mismatch, tangent_mismatch])
@pytest.mark.parametrize("factor", [0, -1, 2])
def test_a_light_derivative_that_is_wrong_is_found(find, factor):
    found = find(weighted_sum(HEAVY_AND_LIGHT), HEAVY_AND_LIGHT * [1, factor])
    assert abs(found.expected - found.got) > 10 * found.error


@pytest.mark.parametrize("find", [mismatch, tangent_mismatch])
def test_a_light_derivative_that_is_right_is_accepted(find):
    assert find(weighted_sum(HEAVY_AND_LIGHT), HEAVY_AND_LIGHT) is None


def test_tangents_of_single_precision_are_judged_as_such():
    claimed = np.array([1e5, 1e-3 * (1 + 5e-4)])
    light = LightTangents(
        weighted_sum(np.array([1e5, 1e-3])),
        POINT,
        push=lambda vectors: [(vectors[0] * claimed).sum(-1).astype(np.float32)],
    )
    assert light.mismatch(DIRECTION, slopes(light.function, POINT, DIRECTION)) is None


@pytest.mark.parametrize("find", [mismatch, tangent_mismatch])
@pytest.mark.parametrize("factor", [0, -1, 2])
def test_what_noise_hides_is_not_judged(find, factor):
    lighter = np.array([1e9, 1e-6])
    assert find(weighted_sum(lighter), lighter * [1, factor]) is None
