"""Derivatives from values where a function jumps, oscillates, ends or changes on a scale of its own."""

import math
import re

import numpy as np
import pytest
import scipy.special
import tensorflow as tf

from tfpyop import complex_step, differentiable_op, numerical
from tfpyop._numdiff.directional import Function
from tfpyop._numdiff.line import LineFunction
from tfpyop.errors import GradientError, RegistrationError


def gradient(function, *points, signature="()->()", grad="numerical", **options):
    op = differentiable_op(lambda *arrays: function(*arrays), signature=signature, grad=grad, **options)
    variables = [tf.constant(point, tf.float64) for point in points]
    with tf.GradientTape() as tape:
        tape.watch(variables)
        y = op(*variables)
    return [found.numpy() for found in tape.gradient(y, variables)]


FOUND = {
    "a jump far off": (lambda x: x % 1, 100.3, 1.0),
    "a jump farther off": (lambda x: x % 1, 12345.6, 1.0),
    "a jump nearby": (lambda x: x % 1, 1.00001, 1.0),
    "a jump before a fraction": (lambda x: x % 0.1, 3.14159, 1.0),
    "a period that fits the point": (lambda x: x + np.sin(2 * np.pi * 64 * x), 1.0, 1 + 128 * np.pi),
    "a sine far out": (np.sin, 1e6, np.cos(1e6)),
    "a pole nearby": (lambda x: 1 / x, 1e-8, -1e16),
    "a kink nearby": (lambda x: abs(x - 1), 1.000001, 1.0),
    "a steep step": (lambda x: np.tanh(1e6 * (x - 1)), 1.0, 1e6),
    "the end of the domain": (np.arccos, 0.99, -1 / np.sqrt(1 - 0.99**2)),
    "the very end of the domain": (np.arccos, 1 - 1e-10, -1 / np.sqrt(1 - (1 - 1e-10) ** 2)),
    "a logarithm near zero": (np.log, 1e-12, 1e12),
    "a logarithm nearer to zero": (np.log, 1e-30, 1e30),
    "a root near zero": (np.sqrt, 1e-14, 5e6),
    "the largest numbers": (np.exp, 709.7, np.exp(709.7)),
    "a power near zero": (lambda x: x**9, 1e-4, 9e-32),
    "small fast waves": (lambda x: x + 1e-6 * np.sin(1e6 * x), 1.0, 1 + np.cos(1e6)),
    "a stationary point": (np.cos, np.pi, 0.0),
    "a constant with rounding": (lambda x: np.sin(x) ** 2 + np.cos(x) ** 2, 0.7, 0.0),
    "a parabola's vertex with an offset": (lambda x: 3 + (x - 1) ** 2, 1.0, 0.0),
    "two branches that meet smoothly": (lambda x: x * np.abs(x), 0.0, 0.0),
    "a kink at the point": (np.abs, 0.0, 0.0),
    "a wide step": (np.floor, 100.5, 0.0),
}


@pytest.mark.parametrize(("function", "x", "expected"), FOUND.values(), ids=FOUND)
def test_the_scale_of_the_function_is_found(function, x, expected):
    (found,) = gradient(function, x)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-11)


REFUSED = {
    "a jump at the point": (lambda x: x % 1, 1.0),
    "a sign at zero": (np.sign, 0.0),
    "a root at zero": (np.sqrt, 0.0),
    "a cube root at zero": (np.cbrt, 0.0),
    "waves too fast to see": (lambda x: x + 1e-3 * np.sin(1e14 * x), 1.0),
    "noise": (lambda x: x + 1e-3 * np.random.default_rng(int(x * 2**40) % 2**31).normal(), 1.0),
}


@pytest.mark.parametrize(("function", "x"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_credible_is_never_returned(function, x):
    message = r"the numerical derivative by input 0 is not reliable at [\d.]+: .*\n(  Expected.*\n  Got.*\n)?  \w+"
    with pytest.raises(GradientError, match=message):
        gradient(function, x)


CAUSES = {
    "one side": (np.sqrt, 0.0, "at 0.0: the function is finite on one side of this point only", "Keep the inputs away"),
    "a jump": (lambda x: x % 1, 1.0, "at 1.0: the function jumps at or next to this point", "Keep the inputs away"),
    "neither side": (
        lambda x: np.where(x == 1, 2.0, np.nan),
        1.0,
        "at 1.0: the function is not finite on either side of this point",
        "If the function is finite closer",
    ),
    "low steps": (
        lambda x: np.round(x, 9),
        1 - 1e-14,
        "at 0.99999999999999: (the function's values do not change next|the function's values next to)",
        "The function may",
    ),
    "a cusp": (np.cbrt, 0.0, "at 0.0: no step size gives a stable estimate", "The function may jump"),
    "single precision": (
        lambda x: np.cbrt(np.float32(x)),
        0.0,
        "at 0.0: ",
        "The function returns float32 for float64 inputs, which limits",
    ),
}


@pytest.mark.parametrize(("function", "x", "problem", "remedy"), CAUSES.values(), ids=CAUSES)
def test_an_error_gives_the_cause_that_the_values_show(function, x, problem, remedy):
    with pytest.raises(GradientError, match=rf"not reliable {problem}.*\n(  .*\n)*  .*{remedy}") as caught:
        gradient(function, x)
    assert "no estimate" not in str(caught.value)


def test_an_error_gives_the_element_that_failed():
    with pytest.raises(GradientError, match=r" not reliable at element \[1, 0\] = 0\.0: .* on one side"):
        gradient(np.sqrt, [[1.0, 2.0], [0.0, 3.0]])
    with pytest.raises(GradientError, match=r" not reliable at element \[2\] = 1\.0: .* jumps"):
        gradient(lambda x: np.floor(x).sum(-1), [0.5, 0.25, 1.0], signature="(n)->()")
    with pytest.raises(GradientError, match=r" by input 1 is not reliable at element \[0\] = 0\.0: .* on one side"):
        gradient(lambda x, y: x * np.sqrt(y), [[1.0], [2.0]], [0.0], signature="(),()->()")
    op = differentiable_op(np.sqrt, signature="()->()", grad="numerical")
    x = tf.constant([1.0, 0.0], tf.float64)
    with (
        pytest.raises(GradientError, match=r" of element \[1\] of output 0 along the tangents is not .* on one side"),
        tf.autodiff.ForwardAccumulator(x, tf.ones_like(x)),
    ):
        op(x)


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("x", [1.0, 0.3, 7.7e5, 1e-3])
@pytest.mark.parametrize("distance", [0.0, *2.0 ** np.arange(32)])
def test_a_kink_is_at_the_point_or_it_is_not(distance, x, sign):
    """Its distance is given in units in the last place; a change of the slope by 2 doubles it."""
    kink = x - sign * distance * np.finfo(float).eps * max(x, 0.01)
    try:
        (found,) = gradient(lambda x: np.abs(x - kink), x)
    except GradientError:
        assert distance > 0
        return
    expected = [np.sign(x - kink)] if 2 * distance > 32 else [0.0, np.sign(x - kink)]
    assert min(abs(found - value) for value in expected) < 1e-3


def zero_or_refused(function, x):
    try:
        return gradient(function, x, dtype="float64") == [0]
    except GradientError:
        return True


STEPS = {
    "floor": (np.floor, [300000.5, 500000.3, 700000.4, 1e6]),
    "round to hundredths": (lambda x: np.round(x, 2), [250.1, 1234.5, 2000.7]),
    "round to millionths": (lambda x: np.round(x, 6), [0.3, 0.7]),
}


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize(("function", "points"), STEPS.values(), ids=STEPS)
def test_low_steps_of_single_precision_are_no_rounding(function, points, kind):
    for x in points:
        assert zero_or_refused(lambda x: function(x.astype(np.float32)).astype(kind), x)


@pytest.mark.parametrize("x", [1e6, 123456.7, -54321.0, 1e3, 1.7])
def test_low_steps_of_double_precision_are_no_rounding(x):
    assert zero_or_refused(lambda x: np.round(x, 6), x)


@pytest.mark.parametrize(
    ("function", "x", "expected"),
    [
        (lambda x: 1e9 + x, 1.0, 1.0),
        (lambda x: np.log(1 + x), 1e-6, 1.0),
        (lambda x: 1 - np.cos(x), 1e-3, 1e-3),
        (lambda x: np.exp(20 + x), 1e-3, np.exp(20.001)),
        (lambda x: (1 + x) ** 100, 1e-2, 100 * 1.01**99),
        (lambda x: scipy.special.jv(1.5, x), 2.3, scipy.special.jvp(1.5, 2.3)),
    ],
)
def test_rounding_inside_of_a_function_is_no_structure(function, x, expected):
    (found,) = gradient(function, x)
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_a_modulus_has_both_derivatives():
    np.testing.assert_allclose(gradient(lambda x, y: x % y, 100.3, 1.0, signature="(),()->()"), [1, -100], rtol=1e-6)


def test_an_inverse_of_small_numbers_is_exact():
    a = np.float64([[4e-8, 1e-8], [1e-8, 3e-8]])
    (found,) = gradient(np.linalg.inv, a, signature="(n,n)->(n,n)")
    b = np.linalg.inv(a)
    np.testing.assert_allclose(found, -b.T @ np.ones((2, 2)) @ b.T, rtol=1e-6)


def test_a_value_that_overflows_has_no_derivative():
    with np.errstate(over="ignore"):
        assert np.isnan(gradient(lambda x: x**2, 1e200))


@pytest.mark.parametrize("grad", ["numerical", "complex-step"])
def test_a_cotangent_of_zero_hides_an_infinite_derivative(grad):
    op = differentiable_op(lambda x: (2 * x, np.sqrt(x)), signature="()->(),()", grad=grad)
    x = tf.constant([0.0, 4.0], tf.float64)
    with tf.GradientTape() as tape, np.errstate(all="ignore"):
        tape.watch(x)
        y, _ = op(x)
    assert tape.gradient(y, x).numpy().tolist() == pytest.approx([2, 2])


BAD_NUMBERS = [0, -1.0, math.nan, math.inf, "x", None, True, 1j]


@pytest.mark.parametrize("value", BAD_NUMBERS)
@pytest.mark.parametrize(("make", "option"), [(numerical, "step"), (numerical, "smallest"), (complex_step, "step")])
def test_options_that_are_no_magnitudes_are_refused_at_once(make, option, value):
    parts = "  Expected: a positive finite number\n  Got:      "
    message = f"{make.__name__}({option}=...) is not a positive finite number.\n{parts}{value!r}"
    with pytest.raises(RegistrationError, match=f"^{re.escape(message)}$"):
        make(**{option: value})


@pytest.mark.parametrize("order", [0, -1, 41, 2.0, "x", None, True])
def test_an_order_that_is_no_number_of_steps_is_refused_at_once(order):
    message = f"numerical(order=...) is invalid.\n  Expected: a whole number from 1 to 40\n  Got:      {order!r}"
    with pytest.raises(RegistrationError, match=f"^{re.escape(message)}$"):
        numerical(order=order)


def nondifferentiable(p):
    if np.any((p < 0) | (p > 1)):
        raise ValueError("not a probability")
    return p * p


def test_steps_that_the_function_refuses_are_passed_over():
    np.testing.assert_allclose(gradient(math.log, 1e-3, vectorized=False), 1e3, rtol=1e-8)
    np.testing.assert_allclose(gradient(nondifferentiable, [0.999, 0.01, 0.5]), [[1.998, 0.02, 1]], rtol=1e-8)
    a = np.float64([[1, 0.999], [0.999, 1]])
    (found,) = gradient(lambda a: np.linalg.cholesky((a + a.T) / 2), a, signature="(n,n)->(n,n)", vectorized=False)
    assert np.all(np.isfinite(found))


def test_what_the_function_raises_at_every_step_is_raised_with_a_note():
    with pytest.raises(ValueError, match="not a probability") as caught:
        gradient(nondifferentiable, 1.0)
    if hasattr(caught.value, "add_note"):
        assert any("displaced" in note and "numerical(step=...)" in note for note in caught.value.__notes__)


NOT_ANALYTIC = {
    "conj": (lambda x: x * np.conj(x), "(n)->(n)", [0.3, 0.7]),
    "cholesky": (lambda a: np.linalg.cholesky(a), "(n,n)->(n,n)", [[4.0, 1.0], [1.0, 3.0]]),
    "pinv": (lambda a: np.linalg.pinv(a), "(m,n)->(n,m)", [[4.0, 1.0], [1.0, 3.0], [2.0, 5.0]]),
    "ive": (lambda x: scipy.special.ive(1, x), "()->()", [0.5, 2.0]),
    "sign": (np.sign, "()->()", [1e-6]),
}


@pytest.mark.parametrize(("function", "signature", "x"), NOT_ANALYTIC.values(), ids=NOT_ANALYTIC)
def test_the_complex_step_is_never_wrong_without_an_error(function, signature, x):
    with pytest.raises(GradientError, match=r"not analytic|is not reliable at this point"):
        gradient(function, x, signature=signature, grad="complex-step")


def test_the_complex_step_refuses_complex_outputs():
    op = differentiable_op(np.fft.fft, signature="(n)->(n)", dtype="complex128", grad="complex-step")
    x = tf.constant([1.0, 2.0, 3.0], tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.math.real(op(x))
    with pytest.raises(GradientError, match="not analytic"):
        tape.gradient(y, x)


LIGHT_PARTS = {
    "another input": (lambda x, y: 1e9 * x + 1e-3 * np.abs(y) ** 2, "(),()->()", [0.7, 0.3]),
    "a little lighter": (lambda x, y: 100 * x * x + 0.05 * np.abs(y) ** 2, "(),()->()", [0.7, 0.3]),
    "another element": (lambda x: 1e9 * x[..., 0] + 1e-3 * np.abs(x[..., 1]) ** 2, "(n)->()", [[0.7, 0.3]]),
    "an element that has a part": (
        lambda x: 1e9 * x[..., 0] + 1e-3 * (x[..., 1] + np.abs(x[..., 1]) ** 2),
        "(n)->()",
        [[0.7, 0.3]],
    ),
    "another element in some loops": (
        lambda x, y: x[..., 0] * np.array([1e9, 1.0]) + 1e-3 * np.abs(y) ** 2,
        "(n),()->()",
        [[[0.7], [0.8]], [0.3, 0.4]],
    ),
}


@pytest.mark.parametrize(("function", "signature", "points"), LIGHT_PARTS.values(), ids=LIGHT_PARTS)
def test_the_complex_step_sees_light_parts_that_are_not_analytic(function, signature, points):
    with pytest.raises(GradientError, match=r"not analytic|cannot be trusted"):
        gradient(function, *points, signature=signature, grad="complex-step")


def test_every_derivative_by_the_complex_step_is_checked():
    op = differentiable_op(
        lambda x: np.where(x.real > 0, x * x, x * np.conj(x)), signature="(n)->(n)", grad="complex-step"
    )

    def derivative(*numbers):
        x = tf.constant(numbers, tf.float64, [len(numbers)])
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = op(x)
        return tape.gradient(y, x).numpy().tolist()

    assert derivative() == []  # proves nothing
    assert derivative(1.0, 2.0) == pytest.approx([2, 4])
    with pytest.raises(GradientError, match="not analytic"):
        derivative(1.0, -2.0)
    assert derivative(3.0) == pytest.approx([6])


POLES = {
    "log": (np.log, 0.0),
    "square root": (np.sqrt, -1.0),
    "arcsin": (np.arcsin, 1.1),
    "reciprocal": (lambda x: 1 / x, 0.0),
    "gamma": (scipy.special.gamma, -1.0),
    "digamma": (scipy.special.digamma, 0.0),
}


@pytest.mark.parametrize("grad", ["numerical", "complex-step"])
@pytest.mark.parametrize(("function", "x"), POLES.values(), ids=POLES)
def test_where_the_function_is_not_finite_the_derivative_is_nan(function, x, grad):
    with np.errstate(all="ignore"):
        (found,) = gradient(function, [x, 0.5], grad=grad)
    assert np.isnan(found).tolist() == [True, False]


@pytest.mark.parametrize(("function", "x"), [(np.sqrt, 0.0), (np.arcsin, 1.0), (np.arccosh, 1.0)])
def test_an_infinite_derivative_is_an_error_of_the_complex_step(function, x):
    with np.errstate(all="ignore"), pytest.raises(GradientError, match=r"do not confirm|not analytic"):
        gradient(function, x, grad="complex-step")


@pytest.mark.parametrize("x", [0.3, 3.0, 10.0])
def test_a_function_that_computes_in_single_precision_has_a_derivative(x):
    (found,) = gradient(lambda x: np.sin(x.astype(np.float32)), x)
    np.testing.assert_allclose(found, np.cos(x), rtol=2e-3, atol=2e-5)


@pytest.mark.parametrize("x", [100.0, 1000.0, 12345.0, 1e6])
def test_where_single_precision_hides_the_derivative_it_is_never_zero(x):
    try:
        (found,) = gradient(lambda x: np.sin(x.astype(np.float32)), x)
    except GradientError:
        return
    assert abs(found - np.cos(x)) < 0.02


@pytest.mark.parametrize(
    "function", [lambda x: np.vdot(x, x), lambda x: np.sum(x * np.conj(x)) * 1, lambda x: np.sum(x.real + 0 * x)]
)
def test_the_complex_step_reports_functions_that_are_not_analytic(function):
    message = "the complex step computes a wrong derivative of output 0: the function is not analytic"
    with pytest.raises(GradientError, match=message):
        gradient(function, [1.0, 2.0], signature="(n)->()", dtype="f8", grad="complex-step", vectorized=False)


@pytest.mark.parametrize(
    ("function", "x"),
    [
        (np.sin, 1e6),
        (np.sin, 1e12),
        (np.sqrt, 1e-14),
        (np.log, 1e-13),
        (np.exp, 709.7),
        (np.tanh, 1e-200),
        (lambda x: np.tanh(1e6 * (x - 1)), 1.0),
        (lambda x: 1 / x, 1e-8),
        (np.cos, np.pi),
        (lambda x: 1e12 + np.sin(x), 1.0),
        (lambda x: np.sin(x) ** 2 + np.cos(x) ** 2, 0.7),
    ],
)
def test_the_complex_step_suspects_no_analytic_function(function, x):
    assert np.isfinite(gradient(function, x, grad="complex-step"))


@pytest.mark.parametrize("kind", [int, bool, np.float32])
def test_values_of_other_dtypes_than_declared_have_a_derivative(kind):
    (found,) = gradient(lambda x: (x > 0).astype(kind) + np.zeros(x.shape, kind), [0.5, -2.0], dtype="float64")
    assert found.tolist() == [0, 0]


@pytest.mark.parametrize("kind", [int, bool, np.float32, complex])
def test_where_a_function_refuses_a_displacement_its_values_are_not_numbers(kind):
    def function(arrays):
        if np.any(arrays[0] > 2):
            raise ValueError("too large")
        return [np.asarray(arrays[0] > 0, kind)]

    line = LineFunction(Function(function, [0], [0]), [np.float64([1.9, -2])], [np.ones(2)])
    assert np.isnan(line.at([np.float64([2.1, -1.8])])[0]).all()


@pytest.mark.parametrize("offset", [3e3, 1e4, 1e5])
def test_a_slope_that_single_precision_hides_raises(offset):
    op = differentiable_op(
        lambda x: (np.float32(offset) + np.sin(x.astype(np.float32))).astype(np.float64),
        signature="()->()",
        grad="numerical",
    )
    x = tf.constant(0.3, tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = op(x)
    with pytest.raises(GradientError, match="not reliable"):
        tape.gradient(y, x)


def test_a_complex_step_that_is_not_tiny_next_to_an_input_is_named():
    message = r"the step 1e-30 is not tiny compared with an input of 1e-300\.\n  Pass a step far below the inputs with"
    with pytest.raises(GradientError, match=message):
        gradient(np.log, 1e-300, grad="complex-step")
    (found,) = gradient(np.log, 1e-300, grad=complex_step(step=1e-306))
    np.testing.assert_allclose(found, 1e300, rtol=1e-6)
    with pytest.raises(GradientError, match="not analytic"):
        gradient(np.conj, 1e-3, grad="complex-step")


def test_one_element_that_raises_at_every_step_is_explained():
    def root(x):
        if (x < 0).any():
            raise ValueError("negative")
        return np.sqrt(x)

    with pytest.raises(ValueError, match="negative") as caught:
        gradient(root, [0.0, 1.0])
    if hasattr(caught.value, "__notes__"):  # Python 3.11
        assert "One element that raises there makes the call raise for all elements" in caught.value.__notes__[0]


LOST = {
    "a sine in half precision": (lambda x: np.sin(x.astype(np.float16)).astype(np.float64), 3.0),
    "a difference quotient": (lambda x: (np.exp(x + 1e-8) - np.exp(x)) / 1e-8, 1e-3),
    "a part in single precision that changes fast": (lambda x: x * np.sin(x.astype(np.float32)), 1e6),
    "a quotient of nothing but rounding": (lambda x: (np.exp(x) - 1) / x, 1e-15),
    "a root in single precision at its end": (lambda x: np.sqrt(x.astype(np.float32) - 1).astype(np.float64), 1.0),
}


@pytest.mark.parametrize(("function", "x"), LOST.values(), ids=LOST)
def test_a_slope_that_rounding_hides_is_refused(function, x):
    with np.errstate(all="ignore"), pytest.raises(GradientError, match="is not reliable"):
        gradient(function, x)
