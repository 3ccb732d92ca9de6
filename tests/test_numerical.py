"""Derivatives from values: how exact they are, what they cost, and what they cannot do."""

import itertools
import re

import numpy as np
import pytest
import scipy.special
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.texts import exactly
from tfpyop import complex_step, differentiable_op, numerical
from tfpyop._numdiff.complex_step import ComplexStep
from tfpyop._numdiff.directional import Function, jvp_from_values, vjp_from_values
from tfpyop._numdiff.finite_differences import Numerical
from tfpyop._rules.numerical import parse_method
from tfpyop.errors import GradientError, RegistrationError

NUMERICAL, COMPLEX_STEP = Numerical(), ComplexStep()
EXACT = {"numerical": (NUMERICAL, 1e-9), "complex step": (COMPLEX_STEP, 1e-14)}
every_method = pytest.mark.parametrize(("method", "tolerance"), EXACT.values(), ids=EXACT)
properties = settings(deadline=None)


class Counted:
    """A function of several arrays with its core ranks, and the inputs of every call."""

    def __init__(self, function, input_ranks=(0,), output_ranks=(0,)):
        self.inputs = []
        self.function = function
        self.ranked = Function(self.call, input_ranks, output_ranks)

    def call(self, arrays):
        self.inputs.append([np.array(array) for array in arrays])
        result = self.function(*arrays)
        return [np.asarray(value) for value in (result if isinstance(result, tuple) else (result,))]


def slope(method, function, x, direction=None):
    """The derivative of an elementwise function at an array."""
    direction = np.ones_like(x) if direction is None else direction
    return method.directional_derivative(Counted(function).ranked, [x], [direction]).values[0]


def relative_error(found, expected):
    return np.max(np.abs(found - expected) / np.abs(expected))


def relative_norm(found, expected):
    largest = np.max(np.abs(expected))
    return np.linalg.norm(np.subtract(found, expected) / largest) / np.linalg.norm(expected / largest)


# -- how exact they are

ELEMENTWISE = {
    "sin": (np.sin, np.sin, np.cos, np.linspace(-10, 10, 1001)),
    "sin far out": (np.sin, np.sin, np.cos, np.float64([100, 1e3, 1e4, -12345.6])),
    "sin near zero": (np.sin, np.sin, np.cos, np.float64([0, 1e-300, 1e-8, -1e-3])),
    "exp": (np.exp, np.exp, np.exp, np.linspace(-20, 20, 401)),
    "exp far out": (np.exp, np.exp, np.exp, np.float64([-600, -100, 100, 600])),
    "gammaln": (scipy.special.gammaln, scipy.special.loggamma, scipy.special.digamma, np.linspace(2, 100, 99)),
    "gammaln near its pole": (
        scipy.special.gammaln,
        scipy.special.loggamma,
        scipy.special.digamma,
        np.float64([1e-3, 0.01, 0.1, 0.5, 1]),
    ),
    "gammaln far out": (
        scipy.special.gammaln,
        scipy.special.loggamma,
        scipy.special.digamma,
        np.geomspace(1e2, 1e8, 7),
    ),
    "a steep power": (lambda x: x**9, lambda x: x**9, lambda x: 9 * x**8, np.float64([1e-2, 1, 1e2, 1e6])),
}


@pytest.mark.parametrize(("function", "_", "derivative", "x"), ELEMENTWISE.values(), ids=ELEMENTWISE)
def test_differences_of_smooth_functions_are_exact_to_nine_digits(function, _, derivative, x):
    assert relative_error(slope(NUMERICAL, function, x), derivative(x)) < 1e-9


@pytest.mark.parametrize(("_", "function", "derivative", "x"), ELEMENTWISE.values(), ids=ELEMENTWISE)
def test_the_complex_step_is_exact_to_rounding(_, function, derivative, x):
    assert relative_norm(slope(COMPLEX_STEP, function, x), derivative(x)) < 1e-14


def matrices(n, *loop):
    generator = np.random.default_rng(n)
    return generator.normal(size=(*loop, n, n)) + n * np.eye(n), generator


@pytest.mark.parametrize("n", [1, 2, 5, 20])
@every_method
def test_the_gradient_of_a_linear_solve_is_exact(method, tolerance, n):
    a, generator = matrices(n, 3)
    b, cotangent = generator.normal(size=(2, 3, n))
    solve = Counted(lambda a, b: np.linalg.solve(a, b[..., None])[..., 0], (2, 1), (1,))
    found = vjp_from_values(method, solve.ranked, [a, b], [cotangent], [True, True])
    (x,) = solve.call([a, b])
    b_cotangent = np.linalg.solve(np.swapaxes(a, -1, -2), cotangent[..., None])[..., 0]
    assert relative_norm(found[0], -b_cotangent[..., :, None] * x[..., None, :]) < tolerance
    assert relative_norm(found[1], b_cotangent) < tolerance


@pytest.mark.parametrize("n", [1, 2, 5, 20])
@every_method
def test_gradient_and_jvp_of_an_inverse_are_exact(method, tolerance, n):
    a, generator = matrices(n, 3)
    cotangent, tangent = generator.normal(size=(2, 3, n, n))
    inverse = Counted(np.linalg.inv, (2,), (2,))
    (value,) = inverse.call([a])
    transposed = np.swapaxes(value, -1, -2)
    (found,) = vjp_from_values(method, inverse.ranked, [a], [cotangent], [True])
    assert relative_norm(found, -transposed @ cotangent @ transposed) < tolerance
    (found,) = jvp_from_values(method, inverse.ranked, [a], [tangent])
    assert relative_norm(found, -value @ tangent @ value) < tolerance


@pytest.mark.parametrize("offset", [1.0, 1e4, 1e8])
def test_differences_are_as_exact_as_the_rounding_of_the_function_lets_them(offset):
    x = np.linspace(0.5, 2, 301)
    found = slope(NUMERICAL, lambda x: offset + np.sin(x), x)
    rounding = offset * np.finfo(float).eps / (0.125 * x)  # at the largest step
    assert np.all(np.abs(found - np.cos(x)) < 100 * rounding + 1e-9)


def test_a_function_of_single_precision_is_differentiated_to_its_precision():
    x = np.linspace(0.5, 1, 301)
    found = slope(NUMERICAL, lambda x: np.sin(x.astype(np.float32)).astype(np.float64), x)
    known = np.isfinite(found)
    assert (~known).sum() <= 1  # by chance, the values at one point of 301 may look like steps
    assert relative_error(found[known], np.cos(x[known])) < 5e-4  # rounding to 6e-8 allows no better step


@pytest.mark.parametrize(
    ("function", "x", "expected"),
    [
        (np.cos, 0.0, 0),
        (lambda x: x**2, 0.0, 0),
        (lambda x: 0 * x + 3, 2.0, 0),
        (lambda x: 1 + 1e-10 * x, 2.0, 1e-10),
        (np.abs, 0.0, 0),  # central differences are symmetric
        (np.abs, -3.0, -1),
        (np.floor, 1.5, 0),
    ],
)
def test_small_and_missing_slopes_are_found(function, x, expected):
    assert np.allclose(slope(NUMERICAL, function, np.float64([x])), expected, rtol=1e-4, atol=1e-15)


@properties
@given(st.floats(-5, 5), st.floats(-5, 5))
def test_the_estimated_error_is_about_the_error(x, offset):
    derivative = NUMERICAL.directional_derivative(
        Counted(lambda x: np.exp(x) * np.sin(3 * x + offset)).ranked, [np.array(x)], [np.ones(())]
    )
    expected = np.exp(x) * (np.sin(3 * x + offset) + 3 * np.cos(3 * x + offset))
    assert np.abs(derivative.values[0] - expected) <= 1e3 * derivative.errors[0] + 1e-9 * np.exp(x)


@every_method
def test_errors_are_estimated_for_every_number(method, tolerance):
    x = np.linspace(1, 2, 7)
    derivative = method.directional_derivative(
        Counted(lambda x: (np.exp(x), x**2), (0,), (0, 0)).ranked, [x], [np.ones(7)]
    )
    for value, error in zip(derivative.values, derivative.errors, strict=True):
        assert error.shape == value.shape == (7,)
        assert np.all((error >= 0) & (error < tolerance * np.abs(value)))


# -- what they cost


@pytest.mark.parametrize("shape", [(), (5,), (4, 1000)])
@pytest.mark.parametrize(
    ("method", "n_calls"),
    [(NUMERICAL, 22), (Numerical(order=6), 18), (Numerical(order=10), 26), (COMPLEX_STEP, 1)],
)
def test_elements_are_moved_all_at_once(method, n_calls, shape):
    function = Counted(np.exp)
    x = np.linspace(0.5, 2, np.prod(shape, dtype=int)).reshape(shape)
    (found,) = vjp_from_values(method, function.ranked, [x], [np.ones(shape)], [True])
    assert relative_error(found, np.exp(x)) < 1e-9
    assert len(function.inputs) == n_calls
    assert all(np.all(inputs[0] != x) for inputs in function.inputs)


@pytest.mark.parametrize(("method", "n_calls"), [(NUMERICAL, 22), (COMPLEX_STEP, 1)])
def test_core_elements_are_moved_one_after_the_other_in_every_loop_element(method, n_calls):
    function = Counted(lambda a, b: (a * a * b[..., None]).sum(-1), (1, 0), (0,))
    a, b = np.linspace(1, 2, 30).reshape(5, 2, 3), np.linspace(3, 4, 2)
    cotangent = np.linspace(-1, 1, 10).reshape(5, 2)
    found = vjp_from_values(method, function.ranked, [a, b], [cotangent], [True, True])
    assert relative_norm(found[0], 2 * a * (b * cotangent)[..., None]) < 1e-9
    assert relative_norm(found[1], (a * a).sum(-1) * cotangent) < 1e-9
    assert len(function.inputs) == n_calls * (3 + 1)
    for number, inputs in enumerate(function.inputs):
        element = number // n_calls
        moved = inputs[0] != a
        assert np.array_equal(moved, np.broadcast_to(np.arange(3) == element, moved.shape))
        assert np.array_equal(inputs[1] != b, np.full(np.shape(inputs[1]), element == 3))


@pytest.mark.parametrize(("grad", "first", "later"), [("numerical", 22, 22), ("complex-step", 4, 1)])
def test_an_op_is_checked_with_its_first_derivative(grad, first, later):
    calls = []
    op = differentiable_op(lambda x: (calls.append(1), np.exp(x))[1], signature="()->()", grad=grad)
    x = tf.constant(np.linspace(0.5, 2, 7))
    for expected in (first, later, later):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = op(x)
        calls.clear()
        np.testing.assert_allclose(tape.gradient(y, x), y, rtol=1e-9)
        assert len(calls) == expected


@pytest.mark.parametrize(("method", "n_calls"), [(NUMERICAL, 22), (COMPLEX_STEP, 1)])
def test_a_jvp_is_one_directional_derivative(method, n_calls):
    function = Counted(lambda a, b: (a @ b, a.sum((-1, -2))), (2, 2), (2, 0))
    generator = np.random.default_rng(0)
    a, da = generator.normal(size=(2, 5, 3, 4))
    b, db = generator.normal(size=(2, 4, 2))
    product, total = jvp_from_values(method, function.ranked, [a, b], [da, db])
    assert relative_norm(product, da @ b + a @ db) < 1e-9
    assert relative_norm(total, da.sum((-1, -2))) < 1e-9
    assert len(function.inputs) == n_calls
    (product, total) = jvp_from_values(method, function.ranked, [a, b], [None, db])
    assert relative_norm(product, a @ db) < 1e-9
    assert not np.any(total)
    assert all(np.array_equal(inputs[0], a) for inputs in function.inputs[n_calls:])


def test_what_is_not_wanted_costs_nothing():
    function = Counted(lambda a, b: a * b, (0, 0))
    found = vjp_from_values(NUMERICAL, function.ranked, [np.ones(3), np.ones(3)], [np.ones(3)], [False, True])
    assert found[0] is None
    assert np.allclose(found[1], 1)
    assert len(function.inputs) == 22
    assert all(np.array_equal(inputs[0], np.ones(3)) for inputs in function.inputs)


def test_the_steps_are_relative_to_the_magnitude_and_about_halved():
    function = Counted(np.exp)
    x = np.float64([[3.0, -0.5], [1e-3, 0]])
    Numerical(step=0.25, order=4, smallest=0.1).directional_derivative(function.ranked, [x], [np.ones((2, 2))])
    steps = [after[0] - x for after in function.inputs[:8:2]]
    assert np.allclose(steps[0], 0.25 * np.float64([[3, 0.5], [0.1, 0.1]]), rtol=1e-3)
    assert all(np.allclose(finer, coarser * 0.53, rtol=1e-3) for coarser, finer in itertools.pairwise(steps))
    assert all(
        np.allclose(after[0] - x, x - before[0], rtol=1e-6)
        for after, before in zip(function.inputs[::2], function.inputs[1::2], strict=True)
    )


def test_in_one_loop_element_the_core_elements_share_a_step():
    function = Counted(lambda a: a.sum(-1), (1,), (0,))
    a = np.float64([[1, 100], [10, 1000]])
    jvp_from_values(NUMERICAL, function.ranked, [a], [np.ones((2, 2))])
    assert np.allclose(function.inputs[0][0] - a, [[0.125, 0.125], [1.25, 1.25]])


@pytest.mark.parametrize("scale", [1e-200, 1e-3, 1.0, 1e5, 1e30])
@every_method
def test_the_length_of_a_direction_does_not_matter(method, tolerance, scale):
    x = np.linspace(1, 2, 5)
    assert relative_error(slope(method, np.exp, x, np.full(5, scale)), scale * np.exp(x)) < tolerance


# -- outputs, cotangents and loops


@every_method
def test_cotangents_of_several_outputs_are_added(method, tolerance):
    function = Counted(lambda x: (np.sin(x), (x**2).sum(-1), x), (1,), (1, 0, 1))
    x = np.linspace(1, 2, 6).reshape(2, 3)
    first, second = np.linspace(1, 2, 6).reshape(2, 3), np.float64([3, 4])
    (found,) = vjp_from_values(method, function.ranked, [x], [first, second, None], [True])
    assert relative_norm(found, first * np.cos(x) + 2 * x * second[:, None]) < tolerance


@every_method
def test_cotangents_have_the_shape_to_which_loop_dimensions_broadcast(method, tolerance):
    function = Counted(lambda a, b: a * b[..., None], (1, 0), (1,))
    a, b = np.linspace(1, 2, 6).reshape(3, 1, 2), np.linspace(3, 4, 5)
    cotangent = np.linspace(-1, 1, 30).reshape(3, 5, 2)
    first, second = vjp_from_values(method, function.ranked, [a, b], [cotangent], [True, True])
    assert (first.shape, second.shape) == ((3, 5, 2), (3, 5))
    assert relative_norm(first, cotangent * b[:, None]) < tolerance
    assert relative_norm(second, (cotangent * a).sum(-1)) < tolerance


@pytest.mark.parametrize("grad", ["numerical", "complex-step"])
@pytest.mark.parametrize(
    "shapes", [((2,), (3, 2, 4)), ((1,), (1, 1, 1)), ((2,), (5, 3, 2, 4)), ((5, 3, 2), (2,))], ids=str
)
def test_missing_dimensions_and_loop_dimensions_are_not_confused(grad, shapes):
    op = differentiable_op(lambda x, y: np.matmul(x, y), signature="(n?,k),(k,m?)->(n?,m?)", grad=grad)
    generator = np.random.default_rng(0)
    x, y = (tf.constant(generator.normal(size=shape)) for shape in shapes)
    direction = [tf.constant(generator.normal(size=shape)) for shape in shapes]
    with tf.GradientTape() as tape:
        tape.watch([x, y])
        loss = tf.reduce_sum(op(x, y) ** 3)
    got = sum(float(tf.reduce_sum(g * d)) for g, d in zip(tape.gradient(loss, [x, y]), direction, strict=True))
    product, moved = x.numpy() @ y.numpy(), direction[0].numpy() @ y.numpy() + x.numpy() @ direction[1].numpy()
    assert got == pytest.approx(np.sum(3 * product**2 * moved), rel=1e-7)


@pytest.mark.parametrize(("shape", "rank"), [((0,), 0), ((0, 3), 1), ((3, 0), 1), ((2, 0, 3), 2), ((0,), 1)])
@every_method
def test_nothing_has_cotangents_of_its_shape(method, tolerance, shape, rank):
    function = Counted(lambda x: x.sum(tuple(range(-rank, 0))) if rank else x, (rank,), (0,))
    x = np.zeros(shape)
    loop = shape[: len(shape) - rank]
    (found,) = vjp_from_values(method, function.ranked, [x], [np.ones(loop)], [True])
    assert found.shape == shape
    (found,) = jvp_from_values(method, function.ranked, [x], [x])
    assert found.shape == loop


# -- complex numbers


@pytest.mark.parametrize(
    ("function", "cotangent_of"),
    [
        (np.exp, lambda z, g: g * np.conj(np.exp(z))),
        (lambda z: z**3, lambda z, g: g * np.conj(3 * z**2)),
        (np.conj, lambda z, g: np.conj(g)),
        (lambda z: np.abs(z) ** 2, lambda z, g: 2 * z * np.real(g)),
        (np.real, lambda z, g: np.real(g) + 0j),
        (np.imag, lambda z, g: 1j * np.real(g)),
    ],
    ids=["exp", "cube", "conj", "abs", "real", "imag"],
)
def test_complex_cotangents_follow_tensorflow(function, cotangent_of):
    z = np.array([1 + 2j, -0.5 + 1j, 2 - 1j])
    cotangent = np.array([1 - 1j, 2 + 0.5j, 1j])
    if not np.iscomplexobj(function(z)):
        cotangent = cotangent.real
    counted = Counted(function)
    (found,) = vjp_from_values(NUMERICAL, counted.ranked, [z], [cotangent], [True])
    assert found.dtype == np.complex128
    assert relative_norm(found, cotangent_of(z, cotangent)) < 1e-9
    assert len(counted.inputs) == 2 * 22  # along the real and the imaginary axis


def test_a_complex_tangent_is_a_direction():
    z, tangent = np.array([1 + 2j, -0.5 + 1j]), np.array([1 - 1j, 2j])
    (found,) = jvp_from_values(NUMERICAL, Counted(np.exp).ranked, [z], [tangent])
    assert relative_norm(found, np.exp(z) * tangent) < 1e-9
    (found,) = jvp_from_values(NUMERICAL, Counted(np.conj).ranked, [z], [tangent])
    assert relative_norm(found, np.conj(tangent)) < 1e-9


def test_a_real_input_of_a_complex_output_has_a_real_cotangent():
    x, cotangent = np.linspace(0, 2, 5), np.linspace(1, 2, 5) * (1 + 2j)
    (found,) = vjp_from_values(NUMERICAL, Counted(lambda x: np.exp(1j * x)).ranked, [x], [cotangent], [True])
    assert found.dtype == np.float64
    assert relative_norm(found, np.real(np.conj(cotangent) * 1j * np.exp(1j * x))) < 1e-9


def test_the_complex_step_cannot_take_complex_inputs():
    message = (
        "the complex step cannot differentiate with respect to a complex input.\n"
        '  Use grad="numerical", or write a rule.'
    )
    function = Counted(lambda x, z: x * z, (0, 0))
    for direction in ([np.ones(2), None], [None, np.ones(2)]):
        with pytest.raises(GradientError, match=exactly(message)):
            COMPLEX_STEP.directional_derivative(function.ranked, [np.ones(2), np.array([1j, 2])], direction)
    assert function.inputs == []


@pytest.mark.parametrize("function", [np.abs, lambda x: x.real, lambda x: np.zeros(2)], ids=["abs", "real", "zeros"])
def test_the_complex_step_needs_the_imaginary_part(function):
    message = (
        "the complex step requires complex outputs for complex inputs, but output 1 is real.\n"
        '  The function dropped the imaginary part: use grad="numerical", or write a rule.'
    )
    counted = Counted(lambda x: (x, function(x)), (0,), (0, 0))
    with pytest.raises(GradientError, match=exactly(message)):
        jvp_from_values(COMPLEX_STEP, counted.ranked, [np.ones(2)], [np.ones(2)])


@pytest.mark.parametrize(
    "function", [np.floor, np.hypot, scipy.special.gammaln], ids=lambda function: function.__name__
)
def test_the_complex_step_reports_a_function_that_takes_no_complex_input(function):
    counted = Counted(lambda x: function(x, x) if function is np.hypot else function(x))
    message = "^the complex step calls the function with complex inputs, but the function does not accept them: ufunc '"
    with pytest.raises(GradientError, match=message) as caught:
        jvp_from_values(COMPLEX_STEP, counted.ranked, [np.ones(2)], [np.ones(2)])
    assert type(caught.value.__cause__) is TypeError
    assert caught.value.remedy == 'Use grad="numerical", or write a rule.'


def test_what_a_function_raises_for_another_reason_is_raised():
    def function(x):
        raise KeyError("n")

    for method in (NUMERICAL, COMPLEX_STEP):
        with pytest.raises(KeyError, match="n"):
            jvp_from_values(method, Counted(function).ranked, [np.ones(2)], [np.ones(2)])


# -- where a function is not defined


@pytest.mark.parametrize(
    ("function", "derivative", "x"),
    [
        (np.sqrt, lambda x: 0.5 / np.sqrt(x), np.float64([1e-3, 5e-4, 1])),
        (np.log, lambda x: 1 / x, np.float64([1e-4, 1e-3, 1])),
        (np.arccos, lambda x: -1 / np.sqrt(1 - x**2), np.float64([0.99, 0, -0.95])),
    ],
    ids=["sqrt", "log", "arccos"],
)
def test_steps_that_leave_the_domain_are_passed_over(function, derivative, x):
    with np.errstate(all="ignore"):
        assert relative_error(slope(NUMERICAL, function, x), derivative(x)) < 1e-5


def test_the_slope_of_what_is_not_defined_is_nan():
    with np.errstate(invalid="ignore"):
        found = slope(NUMERICAL, np.sqrt, np.float64([-1, 4, np.nan, 9]))
    assert np.isnan(found).tolist() == [True, False, True, False]
    assert np.allclose(found[1::2], [1 / 4, 1 / 6], rtol=1e-9)


@every_method
def test_nan_in_one_loop_element_stays_there(method, tolerance):
    a = np.float64([[1, 2], [np.nan, 3], [4, 5]])
    function = Counted(lambda a: (a**2).sum(-1), (1,), (0,))
    (found,) = vjp_from_values(method, function.ranked, [a], [np.ones(3)], [True])
    assert relative_norm(found[::2], 2 * a[::2]) < tolerance
    assert np.isnan(found[1, 0])


@pytest.mark.parametrize("state", ["ignore", "warn", "raise"])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 1e308])
@every_method
def test_values_that_are_not_finite_make_no_warnings(method, tolerance, value, state):
    def function(x):
        return np.where(x.real > 1, value, x)

    with np.errstate(all=state):
        found = slope(method, function, np.float64([0.5, 5]))
    assert abs(found[0] - 1) < tolerance
    assert not found[1] > 0  # 0 or not a number


# -- how they are asked for


@pytest.mark.parametrize(
    ("grad", "method"),
    [
        ("numerical", NUMERICAL),
        ("complex-step", COMPLEX_STEP),
        (numerical(), NUMERICAL),
        (numerical(step=0.5, order=3, smallest=1.0), Numerical(0.5, 3, 1.0)),
        (complex_step(), COMPLEX_STEP),
        (complex_step(step=1e-20), ComplexStep(1e-20)),
        (None, None),
        (max, None),
    ],
)
def test_a_method_is_asked_for_by_name_or_by_value(grad, method):
    assert parse_method(grad) == method


@pytest.mark.parametrize(
    ("grad", "hint"),
    [
        ("numericl", "Did you mean 'numerical'?"),
        ("complex_step", "Did you mean 'complex-step'?"),
        ("auto", "Known: 'complex-step', 'from-jvp', 'numerical'."),
    ],
)
def test_an_unknown_method_is_reported(grad, hint):
    with pytest.raises(
        RegistrationError, match=exactly(f"grad={grad!r} is neither a rule nor the name of a method.\n  {hint}")
    ):
        parse_method(grad)


# -- in ops


def gradient_and_jvp(op, x):
    """Cotangent of the first output, and its tangent, both along ones."""
    x = tf.constant(x)
    with tf.GradientTape() as tape, tf.autodiff.ForwardAccumulator(x, tf.ones_like(x)) as accumulator:
        tape.watch(x)
        outputs = op(x)
        y = outputs[0] if isinstance(outputs, tuple) else outputs
        tangent = accumulator.jvp(y)
    return tape.gradient(y, x).numpy(), tangent.numpy()


every_name = pytest.mark.parametrize("grad", ["numerical", "complex-step"])


@every_name
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_an_op_is_differentiated_in_float64(grad, dtype):
    seen = []
    op = differentiable_op(lambda x: seen.append(x.dtype) or np.exp(x), signature="()->()", grad=grad)
    x = np.array([0.5, 1], dtype)
    for found in gradient_and_jvp(op, x):
        assert found.dtype == dtype
        assert np.allclose(found, np.exp(x.astype(float)), rtol=max(1e-12, float(np.finfo(dtype).eps)))
    assert seen[0] == dtype
    assert {dtype.itemsize for dtype in seen[1:]} == ({8} if grad == "numerical" else {8, 16})


@every_name
@pytest.mark.parametrize(
    ("second", "dtype"),
    [
        (lambda x: x.real > 0, bool),
        (lambda x: np.where(x.real > 0, 1, 2), np.int64),
        (lambda x: np.where(x.real > 0, 1, 2).astype("u1"), np.uint8),
        (lambda x: np.where(x.real > 0, "a", "b"), str),
    ],
    ids=["bool", "int", "unsigned", "text"],
)
def test_an_output_without_a_derivative_does_not_matter(grad, second, dtype):
    op = differentiable_op(lambda x: (x * x, second(x)), signature="()->(),()", dtype=(None, dtype), grad=grad)
    for found in gradient_and_jvp(op, np.float32([1, 2])):
        assert found.tolist() == [2, 4]


@every_name
def test_an_output_that_does_not_depend_on_an_input_has_no_slope_along_it(grad):
    op = differentiable_op(lambda x, y: (x * x, y), signature="(),()->(),()", grad=grad)
    x, y = tf.constant([1.0, 2.0]), tf.constant([3.0, 4.0])
    with tf.GradientTape() as tape:
        tape.watch([x, y])
        outputs = op(x, y)
    assert [gradient.numpy().tolist() for gradient in tape.gradient(outputs, [x, y])] == [[2, 4], [1, 1]]


@every_name
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0,)])
def test_an_op_of_nothing_has_a_gradient_of_nothing(grad, shape):
    op = differentiable_op(lambda x: x.sum(-1), signature="(n)->()", grad=grad)
    gradient, tangent = gradient_and_jvp(op, np.zeros(shape))
    assert (gradient.shape, tangent.shape) == (shape, shape[:-1])


@every_name
@pytest.mark.parametrize("is_vectorized", [True, False])
def test_an_op_is_differentiated_with_or_without_loops(grad, is_vectorized):
    op = differentiable_op(
        lambda a: np.swapaxes(np.linalg.inv(a), -1, -2), signature="(n,n)->(n,n)", grad=grad, vectorized=is_vectorized
    )
    a, _ = matrices(3, 4)
    b = np.linalg.inv(a)
    ones = np.ones((3, 3))
    gradient, tangent = gradient_and_jvp(op, a)
    assert relative_norm(gradient, -np.swapaxes(b @ ones @ b, -1, -2)) < 1e-9
    assert relative_norm(tangent, -np.swapaxes(b @ ones @ b, -1, -2)) < 1e-9


def test_the_methods_of_an_op_cost_what_they_say():
    for grad, n_calls in [(numerical(order=6), 18), ("complex-step", 4)]:
        calls = []
        op = differentiable_op(lambda x, calls=calls: calls.append(x) or np.exp(x), signature="()->()", grad=grad)
        x = tf.Variable(np.linspace(0, 1, 100))
        with tf.GradientTape() as tape:
            y = op(x)
        assert len(calls) == 1
        tape.gradient(y, x)
        assert len(calls) == 1 + n_calls


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (np.abs, "but output 0 is real"),
        (np.floor, "but the function does not accept them"),
        (lambda x: x.real, "but output 0 is real"),
    ],
)
def test_what_the_complex_step_cannot_do_is_reported_with_the_op(function, problem):
    op = differentiable_op(lambda x: function(x), signature="()->()", grad="complex-step")
    x = tf.Variable([1.0, 2.0])
    with tf.GradientTape() as tape:
        y = op(x)
    with pytest.raises(GradientError, match=rf"^op '{re.escape(op.name)}/vjp' \(.*\): the complex step .*{problem}"):
        tape.gradient(y, x)


# -- the complex step is confirmed for each function


class Squared:
    def __init__(self, is_analytic):
        self.is_analytic = is_analytic

    @differentiable_op(signature="()->()", grad="complex-step")
    def call(self, x):
        return x * x if self.is_analytic else x * np.conj(x)


def test_an_instance_of_a_method_is_not_trusted_because_of_another_one():
    x = tf.constant(1.5, tf.float64)
    assert first_derivative(Squared(True).call, x) == 3
    with pytest.raises(GradientError, match="not analytic"):
        first_derivative(Squared(False).call, x)


def test_a_static_array_is_not_trusted_because_of_one_that_looks_like_it():
    @differentiable_op(signature="()->()", grad="complex-step", static_argnames=("flags",))
    def squared(x, flags):
        return x * np.conj(x) if flags[1000] else x * x

    x, flags = tf.constant(1.5, tf.float64), np.zeros(3000, bool)
    assert first_derivative(lambda x: squared(x, flags=flags), x) == 3
    flags[1000] = True
    with pytest.raises(GradientError, match="not analytic"):
        first_derivative(lambda x: squared(x, flags=flags), x)


def first_derivative(function, x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    return tape.gradient(y, x).numpy()
