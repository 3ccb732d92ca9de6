"""The functions in numpy: known values, what must hold always, and errors."""

import doctest
import subprocess
import sys

import numpy as np
import pytest

import terrain

DEGREE = terrain.EARTH_RADIUS * np.pi / 180


@pytest.mark.parametrize(
    ("start", "end", "degrees"),
    [
        ([0, 0], [0, 1], 1),
        ([0, 179.5], [0, -179.5], 1),
        ([60, 0], [60, 180], 60),  # across the pole
        ([90, 17], [-90, -40], 180),
        ([12.5, 30], [-12.5, -150], 180),
        ([45, 7], [45, 7], 0),
    ],
)
def test_distances_that_are_known(start, end, degrees):
    np.testing.assert_allclose(terrain.distance(start, end), degrees * DEGREE, rtol=1e-14)


def test_a_distance_of_a_millimetre_is_accurate():
    angle = 1e-3 / DEGREE
    np.testing.assert_allclose(terrain.distance([0.0, 0.0], [0.0, angle]), 1e-3, rtol=1e-12)


def test_distances_broadcast():
    places = np.random.default_rng(1).uniform(-80, 80, [5, 2])
    table = terrain.distance(places[:, None], places)
    assert table.shape == (5, 5)
    np.testing.assert_allclose(table, table.T, rtol=1e-13)
    assert np.all(table[0] <= table[0, 1] + table[1] + 1e-6)


def test_diffusion_keeps_the_soil_and_solves_the_equation():
    random = np.random.default_rng(2)
    heights, diffusivity = random.uniform(0, 100, 20), random.uniform(0, 3, 20)
    after = terrain.diffuse(heights, diffusivity, spacing=2.0, time=5.0)
    np.testing.assert_allclose(after.sum(), heights.sum(), rtol=1e-13)
    flux = (diffusivity[1:] + diffusivity[:-1]) / 2 * np.diff(after) / 2.0
    change = np.diff(flux, prepend=0, append=0) / 2.0
    np.testing.assert_allclose(after - heights, 5.0 * change, atol=1e-11)


@pytest.mark.parametrize("heights", [[], [7.0]])
def test_where_there_is_no_slope_nothing_creeps(heights):
    assert terrain.diffuse(heights, np.ones(len(heights))).tolist() == heights


def test_all_water_of_a_valley_meets_at_its_mouth():
    rows, columns = np.mgrid[:6, :7]
    heights = 10.0 - rows + 2 * abs(columns - 3)
    water = terrain.accumulate(heights, np.ones([6, 7]))
    assert water[-1, 3] == 42
    assert water.max() == 42


def test_water_stays_on_a_plain():
    rain = np.random.default_rng(3).uniform(size=[4, 4])
    water = terrain.accumulate(np.zeros([4, 4]), rain)
    assert water.tolist() == rain.tolist()
    assert not np.shares_memory(water, rain)


def test_a_steep_side_wins_over_a_corner_that_is_lower():
    water = terrain.accumulate([[5.0, 4.0], [9.0, 3.9]], [[1.0, 0.0], [0.0, 0.0]])
    assert water.tolist() == [[1, 1], [0, 1]]  # 1 over 1, not 1.1 over 1.41


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: terrain.distance([1.0, 2.0, 3.0], [0.0, 0.0]), r"start must be .* but has shape \[3\]"),
        (lambda: terrain.distance([1.0, 2.0], 0.0), r"end must be .* but has shape \[\]"),
        (lambda: terrain.diffuse([1.0, 2.0], [1.0]), r"one shape \[n\], but have shapes \[2\] and \[1\]"),
        (lambda: terrain.diffuse([1.0, 2.0], [1.0, -2.0]), r"a diffusivity is negative: -2\.0"),
        (lambda: terrain.diffuse([1.0], [1.0], spacing=0.0), r"spacing must be positive .* 0\.0 and 1\.0"),
        (lambda: terrain.diffuse([1.0], [1.0], time=-1.0), r"time not negative, .* 1\.0 and -1\.0"),
        (lambda: terrain.accumulate([1.0], [1.0]), r"grids of one shape \[m, n\], but have shapes \[1\] and \[1\]"),
    ],
)
def test_a_wrong_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("function", [terrain.accumulate, terrain.diffuse, terrain.distance])
def test_the_example_of_a_docstring_runs(function):
    results = doctest.testmod(sys.modules[function.__module__])
    assert results.attempted > 0
    assert results.failed == 0


def run(program):
    """Run a program in a process of its own; returns what it prints."""
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def test_the_functions_import_neither_tensorflow_nor_tfpyop():
    program = """
import sys
import terrain

print(type(terrain.distance([[0, 0], [1, 1]], [0, 1])).__name__, terrain.diffuse([0, 1], [1, 1]).dtype)
print({"tensorflow", "keras", "tfpyop"} & set(sys.modules))
"""
    assert run(program) == "ndarray float64\nset()\n"


@pytest.mark.parametrize("missing", ["tensorflow", "tfpyop"])
def test_ops_without_tensorflow_say_what_to_install(missing):
    program = f"""
import sys
sys.modules[{missing!r}] = None  # as if it were not installed

try:
    import terrain.ops
except ModuleNotFoundError as error:
    print(error)
"""
    assert run(program) == f'terrain.ops needs {missing}: pip install "terrain[tensorflow]"\n'
