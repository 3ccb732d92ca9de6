"""Functions of numpy and SciPy whose derivative is known, and points of every kind at which it is asked for.

Derivatives are closed forms where these are short; the others are computed by mpmath, which shares no code with SciPy.
A derivative that is not a number says that there is none at this point.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import mpmath
import numpy as np
import scipy.special as sc

KINDS = ("regular", "large", "small", "edge", "singular")
DIGITS = 40


@dataclass(frozen=True)
class Case:
    """A function of one number, its derivative, and points by kind.

    `rough` gives the height of a structure next to each point, and the derivative of the function without it: the right
    result where the values do not resolve that height. `in_single` says whether it is the same function in single
    precision. `analytic` is the derivative of the function of complex numbers, whose imaginary part is not rounded off.
    `inside` is the magnitude of the numbers that the function computes with, if its values are their small differences.
    """

    name: str
    function: Callable
    derivative: Callable
    points: dict = field(default_factory=dict)
    rough: Callable | None = None
    analytic: Callable | None = None
    in_single: bool = True
    inside: float = 0.0

    def at(self, kind):
        """The points of one kind."""
        return np.float64(self.points.get(kind, ()))


def by_mpmath(function):
    """The derivative of a function of mpmath, number by number; not a number where mpmath refuses."""

    def derivative(x):
        with mpmath.workdps(DIGITS):
            return np.float64([_differentiated(function, value) for value in x])

    return derivative


def _differentiated(function, value):
    try:
        found = mpmath.diff(function, mpmath.mpf(float(value)))
    except (ZeroDivisionError, ValueError, mpmath.libmp.NoConvergence):
        return np.nan
    return float(found.real) if abs(found.imag) < 1e-25 * (1 + abs(found)) else np.nan


def everywhere(value):
    """A derivative that is the same everywhere."""
    return lambda x: np.full(x.shape, value)


def steps(at):
    """The derivative of a function with steps: zero, and none where it jumps."""
    return lambda x: np.where(at(x), np.nan, 0.0)


def structure(height, smooth):
    """A structure of some height, and the derivative of the function without it."""
    return lambda x: (np.broadcast_to(height(x) if callable(height) else height, x.shape), smooth(x))


def kink(at, change, mean):
    """A kink: it is at the point if its distance, times the change of the slope, is not resolved."""
    return structure(lambda x: np.abs(x - at) * change, everywhere(mean))


def is_whole(x):
    return x == np.rint(x)


def is_half(x):
    return is_whole(x - 0.5) & ~is_whole(x)


WHOLE_STEPS = structure(1, everywhere(1))

# Points of functions that are defined everywhere, of positive numbers, between -1 and 1, between 0 and 1, above 1
LINE = {
    "regular": [0.3, 0.7, 1.7, -0.45, -2.3, 3.1],
    "large": [12.5, 37.0, 250.0, -41.0, 1234.5, 1e6],
    "small": [1e-3, 1e-6, -1e-9, 1e-30, -2e-5],
    "edge": [0.0, 1.0, -1.0],
}
POSITIVE = {
    "regular": [0.3, 0.7, 1.7, 2.6, 5.5],
    "large": [12.5, 37.0, 150.0, 1234.5, 1e6],
    "small": [1e-2, 1e-3, 1e-6, 1e-12, 1e-30],
    "edge": [1.0, 2.0],
    "singular": [0.0, -0.5],
}
BALL = {
    "regular": [0.3, 0.7, -0.45, 0.05, -0.8],
    "small": [1e-3, 1e-6, -1e-9, 1e-30],
    "edge": [0.99, 0.999999, -0.9999, 0.0],
    "singular": [1.0, -1.0, 1.5],
}
UNIT = {
    "regular": [0.3, 0.7, 0.45, 0.9],
    "small": [1e-2, 1e-4, 1e-8],
    "edge": [0.99, 0.9999, 0.5],
    "singular": [0.0, 1.0, -0.5],
}
ABOVE_ONE = {
    "regular": [1.3, 1.7, 2.6, 5.5],
    "large": [12.5, 37.0, 1234.5, 1e6],
    "edge": [1.01, 1.0001],
    "singular": [1.0, 0.5],
}
MODERATE = {**LINE, "large": [7.5, 12.5, -9.0, 20.0]}
MODERATE_POSITIVE = {**POSITIVE, "large": [7.5, 12.5, 30.0]}


CASES: list[Case] = []


def add(name, function, derivative, base=LINE, *, rough=None, analytic=None, in_single=True, inside=0.0, **kinds):
    CASES.append(Case(name, function, derivative, {**base, **kinds}, rough, analytic, in_single, inside))


# -- numpy

add("sin", np.sin, np.cos)
add("cos", np.cos, lambda x: -np.sin(x))
add("tan", np.tan, lambda x: 1 / np.cos(x) ** 2, large=[12.5, 37.0, 250.0], edge=[1.57, 1.5707, 0.0])
add("arcsin", np.arcsin, lambda x: 1 / np.sqrt((1 - x) * (1 + x)), BALL)
add("arccos", np.arccos, lambda x: -1 / np.sqrt((1 - x) * (1 + x)), BALL)
add("arctan", np.arctan, lambda x: 1 / (1 + x**2))
add("sinh", np.sinh, np.cosh)
add("cosh", np.cosh, np.sinh)
add("tanh", np.tanh, lambda x: 1 / np.cosh(np.clip(x, -300, 300)) ** 2)
add("arcsinh", np.arcsinh, lambda x: 1 / np.hypot(1, x))
add("arccosh", np.arccosh, lambda x: 1 / np.sqrt((x - 1) * (x + 1)), ABOVE_ONE)
add("arctanh", np.arctanh, lambda x: np.where(abs(x) < 1, 1 / ((1 - x) * (1 + x)), np.nan), BALL)
add("exp", np.exp, np.exp, large=[12.5, 37.0, -41.0, 700.0, 709.7, -800.0])
add("exp2", np.exp2, lambda x: np.log(2) * np.exp2(x))
add("expm1", np.expm1, np.exp)
add("log", np.log, lambda x: np.where(x > 0, 1 / x, np.nan), POSITIVE)
add("log2", np.log2, lambda x: np.where(x > 0, 1 / (x * np.log(2)), np.nan), POSITIVE)
add("log10", np.log10, lambda x: np.where(x > 0, 1 / (x * np.log(10)), np.nan), POSITIVE)
add("log1p", np.log1p, lambda x: np.where(x > -1, 1 / (1 + x), np.nan), BALL, large=[12.5, 1234.5, 1e6])
add("sqrt", np.sqrt, lambda x: 0.5 / np.sqrt(x), POSITIVE)
add("cbrt", np.cbrt, lambda x: 1 / (3 * np.cbrt(x) ** 2), edge=[1.0, -1.0], singular=[0.0])
add("square", np.square, lambda x: 2 * x)
add("reciprocal", np.reciprocal, lambda x: -1 / x**2, edge=[1.0, -1.0], singular=[0.0])
add("absolute", np.abs, np.sign, edge=[1.0, -1.0], singular=[0.0])
add("fabs", np.fabs, np.sign, edge=[1.0], singular=[0.0])
add("sign", np.sign, steps(lambda x: x == 0), edge=[1.0], singular=[0.0])
add("negative", np.negative, everywhere(-1.0))
add("degrees", np.degrees, everywhere(180 / np.pi))
add("radians", np.radians, everywhere(np.pi / 180))
add("sinc", np.sinc, by_mpmath(mpmath.sincpi))
add("i0 of numpy", np.i0, sc.i1, MODERATE)
add(
    "floor",
    np.floor,
    steps(is_whole),
    edge=[0.5, 1.5],
    singular=[0.0, 1.0, 3.0, 1e6],
    rough=WHOLE_STEPS,
)
add("ceil", np.ceil, steps(is_whole), edge=[0.5, 1.5], singular=[0.0, 1.0, 3.0, 1e6], rough=WHOLE_STEPS)
add("trunc", np.trunc, steps(lambda x: is_whole(x) & (x != 0)), edge=[0.5, 1.5], singular=[1.0, 3.0])
add("rint", np.rint, steps(is_half), edge=[1.0, 2.0], singular=[0.5, 1.5, 2.5])
add("rint far out", np.rint, steps(is_half), {"large": [3e5, 1e6, 1e7]}, rough=WHOLE_STEPS)
add(
    "floor far out",
    np.floor,
    steps(is_whole),
    {"large": [300000.5, 500000.3, 700000.4, 1e6]},
    rough=WHOLE_STEPS,
)
add(
    "round to hundredths",
    lambda x: np.round(x, 2),
    steps(lambda x: is_half(100 * x)),
    rough=structure(0.01, everywhere(1)),
    edge=[0.0],
)
add(
    "round to millionths",
    lambda x: np.round(x, 6),
    steps(lambda x: is_half(1e6 * x)),
    rough=structure(1e-6, everywhere(1)),
    edge=[0.0],
)
add("heaviside", lambda x: np.heaviside(x, 0.5), steps(lambda x: x == 0), edge=[1.0], singular=[0.0])
add("maximum", lambda x: np.maximum(x, 1), lambda x: np.where(x == 1, 0.5, x > 1))
add("minimum", lambda x: np.minimum(x, 1), lambda x: np.where(x == 1, 0.5, x < 1))
add("clip", lambda x: np.clip(x, -1, 2), lambda x: np.where(x == -1, 0.5, (x > -1) & (x < 2)))
add("mod", lambda x: x % 1, lambda x: np.where(is_whole(x), np.nan, 1.0), edge=[1.0, 1.00001])
add("fmod", lambda x: np.fmod(x, 0.7), lambda x: np.where(x == 0.7, np.nan, 1.0))
add("hypot", lambda x: np.hypot(x, 2), lambda x: x / np.hypot(x, 2))
add("arctan2", lambda x: np.arctan2(x, 2), lambda x: 2 / (4 + x**2))
add("power 2.5", lambda x: x**2.5, lambda x: 2.5 * x**1.5, POSITIVE, singular=[-0.5])
add("power of 2", lambda x: np.power(2.0, x), lambda x: np.log(2) * 2.0**x)
add("float_power", lambda x: np.float_power(x, -1.5), lambda x: -1.5 * x**-2.5, POSITIVE)
add("logaddexp", lambda x: np.logaddexp(x, 1), lambda x: sc.expit(x - 1))
add("logaddexp2", lambda x: np.logaddexp2(x, 1), lambda x: sc.expit((x - 1) * np.log(2)))
add("modf", lambda x: np.modf(x)[0], lambda x: np.where(is_whole(x) & (x != 0), np.nan, 1.0))
add("frexp", lambda x: np.frexp(x)[0], lambda x: np.exp2(-np.frexp(x)[1]), edge=[1.5], small=[3e-3])
add("ldexp", lambda x: np.ldexp(x, 3), everywhere(8.0))
add(
    "interp",
    lambda x: np.interp(x.real, [0, 1, 3], [1, 3, 0]),
    lambda x: np.select([x < 0, x < 1, x < 3], [0, 2, -1.5]),
    edge=[0.5],
    rough=kink(0, 2, 1),
)
add("polyval", lambda x: np.polyval([1, -2, 0, 3], x), lambda x: 3 * x**2 - 4 * x)
add("copysign", lambda x: np.copysign(x, -1), lambda x: -np.sign(x), edge=[1.0], singular=[0.0])
add("nan_to_num", np.nan_to_num, everywhere(1.0))

# -- put together of numpy

add("x to the x", lambda x: x**x, lambda x: x**x * (np.log(x) + 1), MODERATE_POSITIVE)
add(
    "sine of the reciprocal",
    lambda x: np.sin(1 / x),
    lambda x: -np.cos(1 / x) / x**2,
    small=[0.1, 1e-2, 1e-3],
    edge=[1.0],
    singular=[0.0],
)
add("gauss", lambda x: np.exp(-(x**2)), lambda x: -2 * x * np.exp(-(x**2)))
add("logistic", lambda x: 1 / (1 + np.exp(-x)), lambda x: sc.expit(x) * sc.expit(-x))
add("softplus", lambda x: np.log1p(np.exp(x)), sc.expit, large=[12.5, 37.0, 250.0, -41.0])
add("relu", lambda x: np.maximum(x, 0), lambda x: np.where(x == 0, 0.5, x > 0))
add("leaky relu", lambda x: np.where(x > 0, x, 0.01 * x), lambda x: np.where(x == 0, 0.505, np.where(x > 0, 1, 0.01)))
add(
    "elu",
    lambda x: np.where(x > 0, x, np.expm1(np.minimum(x.real, 0))),
    lambda x: np.where(x > 0, 1, np.exp(np.minimum(x, 0))),
)
add("swish", lambda x: x / (1 + np.exp(-x)), lambda x: sc.expit(x) * (1 + x * sc.expit(-x)))
add("x times its absolute", lambda x: x * np.abs(x), lambda x: 2 * np.abs(x))
add(
    "root of the absolute",
    lambda x: np.sqrt(np.abs(x)),
    lambda x: np.sign(x) * 0.5 / np.sqrt(np.abs(x)),
    edge=[1.0],
    singular=[0.0],
)
add("logarithm of the absolute", lambda x: np.log(np.abs(x)), lambda x: 1 / x, edge=[1.0], singular=[0.0])
add("two thirds power", lambda x: np.cbrt(x) ** 2, lambda x: 2 / (3 * np.cbrt(x)), edge=[1.0], singular=[0.0])
add("inverse square", lambda x: 1 / x**2, lambda x: -2 / x**3, edge=[1.0], singular=[0.0])
add(
    "two branches",
    lambda x: np.where(x.real > 1, x**2, 3 * x),
    lambda x: np.where(x == 1, np.nan, np.where(x > 1, 2 * x, 3)),
)
add("branch that conjugates", lambda x: np.where(x.real > 1, x * np.conj(x), x**2), lambda x: 2 * x)
add("x times its conjugate", lambda x: x * np.conj(x), lambda x: 2 * x)
add("real part", lambda x: np.real(x) * 1.0, everywhere(1.0))
add("hole", lambda x: np.where(x == 1, 5.0, x**2), lambda x: np.where(x == 1, np.nan, 2 * x))
add(
    "small jump",
    lambda x: np.where(x.real > 1, x + 1e-7, x),
    lambda x: np.where(x == 1, np.nan, 1.0),
    rough=structure(1e-7, everywhere(1)),
)
add("fast sine", lambda x: np.sin(50 * x), lambda x: 50 * np.cos(50 * x))
add("very fast sine", lambda x: np.sin(1e6 * x), lambda x: 1e6 * np.cos(1e6 * x), large=[12.5])
add("sine too fast to see", lambda x: np.sin(1e15 * x), lambda x: 1e15 * np.cos(1e15 * x), large=[12.5])
add(
    "small fast waves",
    lambda x: x + 1e-5 * np.sin(1e5 * x),
    lambda x: 1 + np.cos(1e5 * x),
    rough=structure(1e-5, everywhere(1)),
    large=[12.5],
)
add("nearly constant", lambda x: 1 + 1e-10 * x, everywhere(1e-10))
add("constant to rounding", lambda x: 1 + np.sin(1e-15 * x), lambda x: 1e-15 * np.cos(1e-15 * x))
add("constant", lambda x: 0 * x + 3, everywhere(0.0))
add("tiny", lambda x: 1e-200 * np.sin(x), lambda x: 1e-200 * np.cos(x))
add("huge", lambda x: 1e200 * np.sin(x), lambda x: 1e200 * np.cos(x))
add("offset", lambda x: 1e6 + np.sin(x), np.cos)
add("steep step", lambda x: np.tanh(1e6 * (x - 1)), lambda x: 1e6 / np.cosh(np.clip(1e6 * (x - 1), -300, 300)) ** 2)
add("noise", lambda x: np.sin(x) + 1e-9 * np.sin(1e17 * x), np.cos, small=[], edge=[1.0])
add(
    "waves that numbers next to zero resolve",
    lambda x: np.sin(x) + 1e-9 * np.sin(1e17 * x),
    lambda x: np.cos(x) + 1e8 * np.cos(1e17 * x),
    {"small": LINE["small"]},
    in_single=False,
)
add("pythagoras", lambda x: np.sin(x) ** 2 + np.cos(x) ** 2, everywhere(0.0))
add("rational", lambda x: (1 + x) / (1 + x**2), lambda x: (1 - 2 * x - x**2) / (1 + x**2) ** 2)
add("pole at one", lambda x: 1 / (x - 1), lambda x: -1 / (x - 1) ** 2, edge=[0.99, 1.0001], singular=[1.0])
add(
    "expression that cancels",
    lambda x: (x + 1e8) - 1e8,
    everywhere(0.0),  # it has steps
    rough=structure(np.spacing(1e8), everywhere(1)),
    analytic=everywhere(1.0),
)

# -- scipy.special: gamma and beta

add(
    "gamma",
    sc.gamma,
    lambda x: sc.gamma(x) * sc.digamma(x),
    large=[12.5, 37.0, 150.0],
    edge=[1.0, 2.0],
    singular=[0.0, -1.0, -3.0],
)
add("gammaln", sc.gammaln, sc.digamma, POSITIVE, singular=[0.0, -1.0])
add("loggamma", sc.loggamma, lambda x: np.where(x > 0, sc.digamma(x), np.nan), POSITIVE)
add(
    "digamma",
    sc.digamma,
    lambda x: np.where(is_whole(x) & (x <= 0), np.nan, by_mpmath(mpmath.digamma)(x)),
    POSITIVE,
    singular=[0.0, -1.0],
)
add("rgamma", sc.rgamma, by_mpmath(mpmath.rgamma), MODERATE, edge=[0.0, -1.0, -2.0])
add(
    "trigamma",
    lambda x: sc.polygamma(1, x),
    lambda x: np.where(x > 0, sc.polygamma(2, x), np.nan),
    POSITIVE,
    singular=[0.0],
)
add(
    "gammainc",
    lambda x: sc.gammainc(2.5, x),
    lambda x: np.where(x >= 0, np.exp(1.5 * np.log(x) - x - sc.gammaln(2.5)), np.nan),
    POSITIVE,
    singular=[-0.5],
)
add(
    "gammaincc",
    lambda x: sc.gammaincc(2.5, x),
    lambda x: np.where(x >= 0, -np.exp(1.5 * np.log(x) - x - sc.gammaln(2.5)), np.nan),
    POSITIVE,
    singular=[-0.5],
)
add(
    "gammainc by its order",
    lambda x: sc.gammainc(x, 2.0),
    by_mpmath(lambda a: mpmath.gammainc(a, 0, 2, regularized=True)),
    MODERATE_POSITIVE,
    singular=[0.0],
)
add(
    "gammaincinv",
    lambda x: sc.gammaincinv(2.5, x),
    lambda y: 1 / np.exp(1.5 * np.log(sc.gammaincinv(2.5, y)) - sc.gammaincinv(2.5, y) - sc.gammaln(2.5)),
    UNIT,
)
add(
    "beta",
    lambda x: sc.beta(x, 2.5),
    lambda x: sc.beta(x, 2.5) * (sc.digamma(x) - sc.digamma(x + 2.5)),
    MODERATE_POSITIVE,
    singular=[0.0, -1.0],
)
add(
    "betaln",
    lambda x: sc.betaln(x, 2.5),
    lambda x: sc.digamma(x) - sc.digamma(x + 2.5),
    MODERATE_POSITIVE,
    singular=[0.0],
)
add(
    "betainc",
    lambda x: sc.betainc(2, 3, x),
    lambda x: np.where((x < 0) | (x > 1), np.nan, 12 * x * (1 - x) ** 2),
    UNIT,
    singular=[-0.5],
)
add(
    "betaincinv",
    lambda x: sc.betaincinv(2, 3, x),
    lambda x: 1 / (12 * sc.betaincinv(2, 3, x) * (1 - sc.betaincinv(2, 3, x)) ** 2),
    UNIT,
)
add("poch", lambda x: sc.poch(x, 2), lambda x: 2 * x + 1, POSITIVE, singular=[])
add(
    "binom",
    lambda x: sc.binom(10, x),
    by_mpmath(lambda k: mpmath.binomial(10, k)),
    regular=[0.3, 2.7, 4.5, 8.2],
    large=[12.5, 20.3],
    small=[1e-3],
    edge=[2.0, 5.0],
)
add(
    "factorial", sc.factorial, lambda x: sc.gamma(x + 1) * sc.digamma(x + 1), MODERATE_POSITIVE, edge=[1.0], singular=[]
)

# -- error functions

_ERF = 2 / np.sqrt(np.pi)
add("erf", sc.erf, lambda x: _ERF * np.exp(-(x**2)))
add("erfc", sc.erfc, lambda x: -_ERF * np.exp(-(x**2)))
add(
    "erfcx",
    sc.erfcx,
    lambda x: 2 * x * sc.erfcx(x) - _ERF,
    MODERATE,
    regular=[0.3, 0.7, 1.7, -0.45, -2.3],
    large=[4.5, -4.0],
)
add("erfi", sc.erfi, lambda x: _ERF * np.exp(x**2), large=[4.5, -9.0, 20.0])
add("erfinv", sc.erfinv, lambda x: np.where(abs(x) < 1, np.exp(sc.erfinv(x) ** 2) / _ERF, np.nan), BALL)
add(
    "erfcinv",
    sc.erfcinv,
    lambda x: np.where((x > 0) & (x < 2), -np.exp(sc.erfcinv(x) ** 2) / _ERF, np.nan),
    UNIT,
    edge=[1.0, 1.9],
    singular=[0.0, 2.0],
)
add("dawsn", sc.dawsn, lambda x: 1 - 2 * x * sc.dawsn(x), MODERATE)
add("ndtr", sc.ndtr, lambda x: np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi))
add("log_ndtr", sc.log_ndtr, lambda x: np.exp(-(x**2) / 2 - sc.log_ndtr(x)) / np.sqrt(2 * np.pi), MODERATE)
add("ndtri", sc.ndtri, lambda x: np.sqrt(2 * np.pi) * np.exp(sc.ndtri(x) ** 2 / 2), UNIT)
add("wofz", lambda x: sc.wofz(x).real, lambda x: -2 * x * np.exp(-(x**2)))
add(
    "voigt_profile",
    lambda x: sc.voigt_profile(x, 1.0, 0.5),
    by_mpmath(
        lambda x: (
            (mpmath.exp(-(((x + 0.5j) / mpmath.sqrt(2)) ** 2)) * mpmath.erfc(-1j * (x + 0.5j) / mpmath.sqrt(2))).real
            / mpmath.sqrt(2 * mpmath.pi)
        )
    ),
    MODERATE,
)
add(
    "owens_t",
    lambda x: sc.owens_t(x, 0.5),
    lambda x: -np.exp(-(x**2) / 2) * sc.erf(0.5 * x / np.sqrt(2)) / (2 * np.sqrt(2 * np.pi)),
)
add("fresnel sine", lambda x: sc.fresnel(x)[0], lambda x: np.sin(np.pi * x**2 / 2), MODERATE)
add("fresnel cosine", lambda x: sc.fresnel(x)[1], lambda x: np.cos(np.pi * x**2 / 2), MODERATE)

# -- exponential integrals and logistic functions

add("expi", sc.expi, lambda x: np.exp(x) / x, MODERATE, edge=[1.0, -1.0, 0.3725], singular=[0.0])
add("exp1", sc.exp1, lambda x: np.where(x > 0, -np.exp(-x) / x, np.nan), POSITIVE)
add("expn", lambda x: sc.expn(2, x), lambda x: np.where(x > 0, -sc.exp1(x), np.nan), POSITIVE)
add(
    "sine integral",
    lambda x: sc.sici(x)[0],
    lambda x: np.sinc(x / np.pi),
    rough=structure(lambda x: 1 / np.maximum(np.abs(x), 1), everywhere(0)),
)
add(
    "cosine integral",
    lambda x: sc.sici(x)[1],
    lambda x: np.where(x > 0, np.cos(x) / x, np.nan),
    POSITIVE,
    singular=[0.0],
)
add(
    "hyperbolic sine integral",
    lambda x: sc.shichi(x)[0],
    lambda x: np.where(x == 0, 1.0, np.sinh(x) / np.where(x == 0, 1.0, x)),
    MODERATE,
)
add(
    "hyperbolic cosine integral",
    lambda x: sc.shichi(x)[1],
    lambda x: np.where(x > 0, np.cosh(x) / x, np.nan),
    MODERATE_POSITIVE,
    singular=[0.0],
)
add("expit", sc.expit, lambda x: sc.expit(x) * sc.expit(-x))
add("logit", sc.logit, lambda x: np.where((x > 0) & (x < 1), 1 / (x * (1 - x)), np.nan), UNIT)
add("log_expit", sc.log_expit, lambda x: sc.expit(-x))
add("exprel", sc.exprel, by_mpmath(lambda x: mpmath.expm1(x) / x if x else mpmath.mpf(1)), MODERATE, edge=[1.0, -1.0])
add("exp10", sc.exp10, lambda x: np.log(10) * 10.0**x, MODERATE)
add("cosm1", sc.cosm1, lambda x: -np.sin(x))
add("xlogy", lambda x: sc.xlogy(x, 2.0), everywhere(np.log(2)))
add("xlogx", lambda x: sc.xlogy(x, x), lambda x: np.where(x > 0, 1 + np.log(x), np.nan), POSITIVE)
add("xlog1py", lambda x: sc.xlog1py(2.0, x), lambda x: np.where(x > -1, 2 / (1 + x), np.nan), BALL)
add("entr", sc.entr, lambda x: np.where(x > 0, -np.log(x) - 1, np.nan), POSITIVE)
add("rel_entr", lambda x: sc.rel_entr(x, 0.5), lambda x: np.where(x > 0, np.log(2 * x) + 1, np.nan), POSITIVE)
add("kl_div", lambda x: sc.kl_div(x, 0.5), lambda x: np.where(x > 0, np.log(2 * x), np.nan), POSITIVE)
add("huber", lambda x: sc.huber(1.0, x), lambda x: np.clip(x, -1, 1))
add("pseudo_huber", lambda x: sc.pseudo_huber(1.0, x), lambda x: x / np.sqrt(1 + x**2))
add("boxcox", lambda x: sc.boxcox(x, 0.5), lambda x: x**-0.5, POSITIVE)
add("boxcox1p", lambda x: sc.boxcox1p(x, 0.5), lambda x: (1 + x) ** -0.5, BALL, singular=[-1.0, -1.5])
add("inv_boxcox", lambda x: sc.inv_boxcox(x, 0.5), lambda x: 1 + 0.5 * x, POSITIVE, singular=[])
add("softsign", lambda x: x / (1 + np.abs(x)), lambda x: 1 / (1 + np.abs(x)) ** 2)

# -- Bessel functions and their relatives

add("j0", sc.j0, lambda x: -sc.j1(x))
add("j1", sc.j1, lambda x: sc.j0(x) - np.where(x == 0, 0.5, sc.j1(x) / np.where(x == 0, 1.0, x)))
add("jn", lambda x: sc.jn(2, x), lambda x: sc.jvp(2, x))
add("jv", lambda x: sc.jv(1.5, x), lambda x: np.where(x > 0, sc.jvp(1.5, x), np.nan), POSITIVE)
add("jve", lambda x: sc.jve(2, x), lambda x: sc.jvp(2, x))
add("y0", sc.y0, lambda x: np.where(x > 0, -sc.y1(x), np.nan), POSITIVE)
add("y1", sc.y1, lambda x: np.where(x > 0, sc.yvp(1, x), np.nan), POSITIVE)
add("yn", lambda x: sc.yn(2, x), lambda x: np.where(x > 0, sc.yvp(2, x), np.nan), POSITIVE)
add("yv", lambda x: sc.yv(0.5, x), lambda x: np.where(x > 0, sc.yvp(0.5, x), np.nan), POSITIVE)
add("i0", sc.i0, sc.i1, MODERATE)
add("i0e", sc.i0e, lambda x: sc.i1e(x) - np.sign(x) * sc.i0e(x), edge=[1.0], rough=kink(0, 2, 0))
add("i1", sc.i1, lambda x: sc.ivp(1, x), MODERATE)
add("i1e", sc.i1e, lambda x: 0.5 * (sc.i0e(x) + sc.ive(2, x)) - np.sign(x) * sc.i1e(x), edge=[1.0])
add("iv", lambda x: sc.iv(0.5, x), lambda x: np.where(x > 0, sc.ivp(0.5, x), np.nan), MODERATE_POSITIVE)
add("ive", lambda x: sc.ive(2, x), lambda x: 0.5 * (sc.ive(1, x) + sc.ive(3, x)) - np.sign(x) * sc.ive(2, x))
add("k0", sc.k0, lambda x: np.where(x > 0, -sc.k1(x), np.nan), POSITIVE)
add("k0e", sc.k0e, lambda x: np.where(x > 0, sc.k0e(x) - sc.k1e(x), np.nan), POSITIVE)
add("k1", sc.k1, lambda x: np.where(x > 0, sc.kvp(1, x), np.nan), POSITIVE)
add("k1e", sc.k1e, lambda x: np.where(x > 0, sc.k1e(x) - 0.5 * (sc.k0e(x) + sc.kve(2, x)), np.nan), POSITIVE)
add("kn", lambda x: sc.kn(2, x), lambda x: np.where(x > 0, sc.kvp(2, x), np.nan), POSITIVE)
add("kv", lambda x: sc.kv(0.5, x), lambda x: np.where(x > 0, sc.kvp(0.5, x), np.nan), POSITIVE)
add(
    "kve",
    lambda x: sc.kve(2, x),
    lambda x: np.where(x > 0, sc.kve(2, x) - 0.5 * (sc.kve(1, x) + sc.kve(3, x)), np.nan),
    POSITIVE,
)
add("spherical_jn", lambda x: sc.spherical_jn(2, x), lambda x: sc.spherical_jn(2, x, derivative=True))
add(
    "spherical_yn",
    lambda x: sc.spherical_yn(1, x),
    lambda x: sc.spherical_yn(1, x, derivative=True),
    POSITIVE,
    singular=[0.0],
)
add(
    "spherical_in",
    lambda x: sc.spherical_in(1, x),
    lambda x: sc.spherical_in(1, x, derivative=True),
    MODERATE,
    small=[1e-3, 1e-6, -1e-9, -2e-5],
)
add(
    "spherical_in next to zero",  # zero in single precision
    lambda x: sc.spherical_in(1, x),
    lambda x: sc.spherical_in(1, x, derivative=True),
    {"small": [1e-30]},
    in_single=False,
)
add(
    "spherical_kn",
    lambda x: sc.spherical_kn(1, x),
    lambda x: sc.spherical_kn(1, x, derivative=True),
    MODERATE_POSITIVE,
    singular=[0.0],
)
add("struve", lambda x: sc.struve(0, x), lambda x: 2 / np.pi - sc.struve(1, x), MODERATE)
add("modstruve", lambda x: sc.modstruve(0, x), lambda x: 2 / np.pi + sc.modstruve(1, x), MODERATE)
add("ber", sc.ber, sc.berp, MODERATE)
add("bei", sc.bei, sc.beip, MODERATE)
add("ker", sc.ker, lambda x: np.where(x > 0, sc.kerp(x), np.nan), MODERATE_POSITIVE)
add("kei", sc.kei, lambda x: np.where(x > 0, sc.keip(x), np.nan), MODERATE_POSITIVE, singular=[-0.5])
add("airy ai", lambda x: sc.airy(x)[0], lambda x: sc.airy(x)[1], MODERATE)
add("airy bi", lambda x: sc.airy(x)[2], lambda x: sc.airy(x)[3], MODERATE)

# -- elliptic integrals and functions

add("ellipk", sc.ellipk, lambda m: np.where(m < 1, by_mpmath(mpmath.ellipk)(np.minimum(m, 0.99999999)), np.nan), BALL)
add("ellipe", sc.ellipe, lambda m: np.where(m < 1, by_mpmath(mpmath.ellipe)(np.minimum(m, 0.99999999)), np.nan), BALL)
add("ellipkm1", sc.ellipkm1, by_mpmath(lambda p: mpmath.ellipk(1 - p)), UNIT, singular=[])
add("ellipkinc", lambda x: sc.ellipkinc(x, 0.3), lambda x: (1 - 0.3 * np.sin(x) ** 2) ** -0.5, MODERATE)
add("ellipeinc", lambda x: sc.ellipeinc(x, 0.3), lambda x: (1 - 0.3 * np.sin(x) ** 2) ** 0.5, MODERATE)
add("sn", lambda x: sc.ellipj(x, 0.3)[0], lambda x: sc.ellipj(x, 0.3)[1] * sc.ellipj(x, 0.3)[2], MODERATE)
add("cn", lambda x: sc.ellipj(x, 0.3)[1], lambda x: -sc.ellipj(x, 0.3)[0] * sc.ellipj(x, 0.3)[2], MODERATE)
add("dn", lambda x: sc.ellipj(x, 0.3)[2], lambda x: -0.3 * sc.ellipj(x, 0.3)[0] * sc.ellipj(x, 0.3)[1], MODERATE)
add("elliprf", lambda x: sc.elliprf(x, 1.0, 2.0), lambda x: -sc.elliprd(1.0, 2.0, x) / 6, MODERATE_POSITIVE, edge=[1.0])
add("agm", lambda x: sc.agm(x, 1.0), by_mpmath(lambda x: mpmath.agm(x, 1)), MODERATE_POSITIVE, singular=[0.0])

# -- polynomials

add("eval_legendre", lambda x: sc.eval_legendre(3, x), lambda x: (15 * x**2 - 3) / 2, MODERATE)
add("eval_chebyt", lambda x: sc.eval_chebyt(4, x), lambda x: 32 * x**3 - 16 * x, MODERATE)
add("eval_chebyu", lambda x: sc.eval_chebyu(3, x), lambda x: 24 * x**2 - 4, MODERATE)
add("eval_hermite", lambda x: sc.eval_hermite(3, x), lambda x: 24 * x**2 - 12, MODERATE)
add("eval_hermitenorm", lambda x: sc.eval_hermitenorm(3, x), lambda x: 3 * x**2 - 3, MODERATE)
add("eval_laguerre", lambda x: sc.eval_laguerre(2, x), lambda x: x - 2, MODERATE)
add("eval_genlaguerre", lambda x: sc.eval_genlaguerre(2, 0.5, x), lambda x: x - 2.5, MODERATE)
add("eval_gegenbauer", lambda x: sc.eval_gegenbauer(2, 1.5, x), lambda x: 15 * x, MODERATE)
add("eval_jacobi", lambda x: sc.eval_jacobi(1, 0.5, 1.5, x), everywhere(2.0), MODERATE)
add(
    "legendre of order 2.5",
    lambda x: sc.eval_legendre(2.5, x),
    by_mpmath(lambda x: mpmath.legendre(2.5, x)),
    BALL,
    edge=[0.99, -0.9, 0.0],
    singular=[],
)
add("lpmv", lambda x: sc.lpmv(0, 2, x), lambda x: 3 * x, BALL, edge=[0.99, -0.9, 0.0], singular=[])

# -- distributions

add(
    "pdtr",
    lambda x: sc.pdtr(3, x),
    lambda x: np.where(x >= 0, -np.exp(3 * np.log(x) - x) / 6, np.nan),
    POSITIVE,
    singular=[-0.5],
)
add(
    "chdtr",
    lambda x: sc.chdtr(3, x),
    lambda x: np.where(x > 0, np.sqrt(x) * np.exp(-x / 2) / (2**1.5 * sc.gamma(1.5)), np.nan),
    POSITIVE,
    singular=[],
)
add(
    "chdtrc",
    lambda x: sc.chdtrc(3, x),
    lambda x: np.where(x > 0, -np.sqrt(x) * np.exp(-x / 2) / (2**1.5 * sc.gamma(1.5)), np.nan),
    POSITIVE,
    singular=[],
)
add("fdtr", lambda x: sc.fdtr(2, 4, x), lambda x: np.where(x > 0, (1 + x / 2) ** -3, np.nan), POSITIVE)
add("stdtr", lambda x: sc.stdtr(3, x), lambda x: 2 / (np.pi * np.sqrt(3) * (1 + x**2 / 3) ** 2))
add(
    "gdtr",
    lambda x: sc.gdtr(1.5, 2.5, x),
    lambda x: np.where(x >= 0, 1.5 * np.exp(1.5 * np.log(1.5 * x) - 1.5 * x - sc.gammaln(2.5)), np.nan),
    POSITIVE,
    singular=[-0.5],
)
add(
    "bdtr",
    lambda x: sc.bdtr(2, 5, x),
    lambda x: np.where((x < 0) | (x > 1), np.nan, -30 * x**2 * (1 - x) ** 2),
    UNIT,
    singular=[-0.5],
)
add(
    "tklmbda",
    lambda x: sc.tklmbda(x, 0.5),
    by_mpmath(lambda x: _tukey(x)),
    regular=[0.3, -0.7, 1.2],
    large=[1.9],
    small=[1e-3, 1e-6],
    edge=[0.0],
)
add(
    "kolmogorov",
    sc.kolmogorov,
    by_mpmath(lambda x: 2 * mpmath.fsum((-1) ** (k - 1) * mpmath.exp(-2 * k**2 * x**2) for k in range(1, 60))),
    regular=[0.5, 0.7, 1.1, 1.7, 2.6],
    large=[5.5],
    small=[],
    edge=[],
)

# -- others

add(
    "lambertw",
    lambda x: sc.lambertw(x).real,
    by_mpmath(mpmath.lambertw),
    regular=[0.3, 1.7, -0.2, 2.6],
    large=[12.5, 1234.5, 1e6],
    edge=[0.0, 1.0, -0.36],
    singular=[-1 / np.e],
)
add(
    "zeta",
    lambda x: sc.zeta(x),
    by_mpmath(mpmath.zeta),
    regular=[1.5, 1.7, 2.6, 5.5],
    large=[12.5, 37.0],
    small=[],
    edge=[1.01, 2.0],
    singular=[1.0],
)
add(
    "zetac",
    sc.zetac,
    by_mpmath(mpmath.zeta),
    regular=[1.5, 2.6, 0.3, -0.7],
    large=[12.5],
    small=[1e-3],
    edge=[1.01, 2.0],
    singular=[1.0],
)
add(
    "spence",
    sc.spence,
    lambda x: np.where(x > 0, by_mpmath(lambda z: mpmath.polylog(2, 1 - z))(np.maximum(x, 1e-40)), np.nan),
    POSITIVE,
    edge=[1.0, 2.0],
)
add("hyp0f1", lambda x: sc.hyp0f1(1.5, x), lambda x: sc.hyp0f1(2.5, x) / 1.5, MODERATE)
add("hyp1f1", lambda x: sc.hyp1f1(0.5, 1.5, x), lambda x: sc.hyp1f1(1.5, 2.5, x) / 3, MODERATE)
add(
    "hyp2f1",
    lambda x: sc.hyp2f1(0.5, 1.0, 1.5, x),
    lambda x: np.where(x < 1, sc.hyp2f1(1.5, 2.0, 2.5, x) / 3, np.nan),
    BALL,
)
add(
    "hyperu",
    lambda x: sc.hyperu(1.0, 1.5, x),
    lambda x: np.where(x > 0, -sc.hyperu(2.0, 2.5, x), np.nan),
    MODERATE_POSITIVE,
    small=[1e-2],
    singular=[0.0],
)
add("diric", lambda x: sc.diric(x, 5), lambda x: (-2 * np.sin(x) - 4 * np.sin(2 * x)) / 5, MODERATE)
add("sindg", sc.sindg, lambda x: np.pi / 180 * np.cos(np.radians(x)))
add("cosdg", sc.cosdg, lambda x: -np.pi / 180 * np.sin(np.radians(x)))
add("tandg", sc.tandg, lambda x: np.pi / 180 / np.cos(np.radians(x)) ** 2, large=[12.5, 250.0], singular=[90.0])
add("pbdv", lambda x: sc.pbdv(1, x)[0], lambda x: (1 - x**2 / 2) * np.exp(-(x**2) / 4), MODERATE)


# -- terms in single precision, differences of almost equal numbers, and small waves on a large constant


def single(x):
    return x.astype(np.float32)


CANCELLING = {
    "regular": [0.3, 1.7],
    "small": [*np.geomspace(1e-3, 1e-20, 18), *np.geomspace(3.7e-4, 3.7e-17, 14)],
}
DECLINING = {
    "regular": [-0.7, -2.3, 0.9],
    "large": [*np.linspace(-7.3, -39.3, 33), -12.0, -32.0],
}
MIXED = {
    "regular": [0.3, 0.7, 1.3, -0.45, 2.6, -3.1],
    "large": [5.3, 12.5, 17.7, 37.3, -41.0, 100.1, 250.0, 1234.5],
    "small": [0.01, 1e-3, -1e-5],
    "edge": [1.0, -2.0],
}
WAVY = {"regular": [1.0, 3.0, 31.4], "large": [314.0, 2516.0, 777.7, 5000.3, 1e5 + 0.3], "small": [0.01]}

add("x**2 + sin(f32)", lambda x: x**2 + np.sin(single(x)), lambda x: 2 * x + np.cos(x), MIXED, in_single=False)
add(
    "x**2 + 0.01 sin(f32)",
    lambda x: x**2 + 0.01 * np.sin(single(x)),
    lambda x: 2 * x + 0.01 * np.cos(x),
    MIXED,
    in_single=False,
)
add("exp + 0.1 f32", lambda x: np.exp(x) + 0.1 * single(x), lambda x: np.exp(x) + 0.1, MODERATE, in_single=False)
add(
    "3 x + tanh(f32)",
    lambda x: 3 * x + 1e-2 * np.tanh(single(x)),
    lambda x: 3 + 1e-2 / np.cosh(x) ** 2,
    MIXED,
    large=[5.3, 12.5],
    in_single=False,
)
add("sin rounded to f32", lambda x: np.float64(single(np.sin(x))), np.cos, MIXED, in_single=False)
add(
    "sqrt(f32 - 1)",
    lambda x: np.sqrt(single(x) - 1),
    lambda x: np.where(x > 1, 0.5 / np.sqrt(x - 1), np.nan),
    {"regular": [1.3, 2.6, 5.5], "edge": [1.0001, 1.01], "singular": [1.0, 0.5]},
    in_single=False,
)
add("3 x + log(1 + x)", lambda x: 3 * x + np.log(1 + x), lambda x: 3 + 1 / (1 + x), CANCELLING, inside=1)
add("2 x + exp - 1", lambda x: 2 * x + np.exp(x) - 1, lambda x: 2 + np.exp(x), CANCELLING, inside=1)
add(
    "x + 1e-3 (1 + x)**2",
    lambda x: x + 1e-3 * ((1 + x) ** 2 - 1),
    lambda x: 1 + 2e-3 * (1 + x),
    CANCELLING,
    inside=1,
)
add(
    "binary entropy",
    lambda x: -x * np.log(x) - (1 - x) * np.log(1 - x),
    lambda x: np.log((1 - x) / x),
    {**CANCELLING, "regular": [0.3, 0.9]},
    inside=1,
)
add("log(1 + exp)", lambda x: np.log(1 + np.exp(x)), lambda x: 1 / (1 + np.exp(-x)), DECLINING, inside=1)
add("logistic loss", lambda x: -np.log(1 - 1 / (1 + np.exp(-x))), lambda x: 1 / (1 + np.exp(-x)), DECLINING, inside=1)
add("1 - tanh", lambda x: 1 + np.tanh(x), lambda x: 1 / np.cosh(x) ** 2, DECLINING, inside=1)
add(
    "Lorentz factor - 1",
    lambda x: 1 / np.sqrt(1 - x**2) - 1,
    lambda x: x / (1 - x**2) ** 1.5,
    {**CANCELLING, "regular": [0.3, 0.8]},
    inside=1,
)
add("sqrt(1 + x**2) - 1", lambda x: np.sqrt(1 + x**2) - 1, lambda x: x / np.sqrt(1 + x**2), CANCELLING, inside=1)
add(
    "sqrt(1 + (x/1000)**2) - 1",
    lambda x: np.sqrt(1 + (x / 1e3) ** 2) - 1,
    lambda x: x / 1e6 / np.sqrt(1 + (x / 1e3) ** 2),
    CANCELLING,
    inside=1,
)
add("1 - cos", lambda x: 1 - np.cos(x), np.sin, CANCELLING, inside=1)
add(
    "cos(x) - cos(2 x)",
    lambda x: np.cos(x) - np.cos(2 * x),
    lambda x: 2 * np.sin(2 * x) - np.sin(x),
    CANCELLING,
    inside=1,
)
add(
    "vapour pressure",
    lambda x: 10 ** (8.07131 - 1730.63 / (233.426 + x)),
    lambda x: np.log(10) * 1730.63 / (233.426 + x) ** 2 * 10 ** (8.07131 - 1730.63 / (233.426 + x)),
    MIXED,
    small=[0.0371, 0.01, 1e-3],
)
for size in (1e10, 1e11, 1e12, 1e13, 1e14, 1e15):
    add(
        f"{size:g} + sin",
        lambda x, size=size: size + np.sin(x),
        np.cos,
        WAVY,
        rough=structure(1, everywhere(0.0)),
    )
add(
    "1e8 + 3 sin(7 x)",
    lambda x: 1e8 + 3 * np.sin(7 * x),
    lambda x: 21 * np.cos(7 * x),
    WAVY,
    rough=structure(3, everywhere(0.0)),
)


def _tukey(x):
    """The distribution function of Tukey's lambda of 1/2: the p for which x = 2 (sqrt(p) - sqrt(1 - p))."""
    half = x / 2
    return (1 + half * mpmath.sqrt(2 - half**2)) / 2


N_QUICK = len(CASES)
"""The number of functions that the fast tests use."""

# -- cancellation, saturation, pieces, parts in single precision, waves, scales, poles, noise, parameters

SMALL = {"regular": [0.3, 1.7, -0.7], "small": [1e-2, 3e-3, 1e-4, 7e-6, 1e-8, 3e-11, 1e-15, 1e-20]}
SMALLP = {**SMALL, "regular": [0.3, 1.7, 0.7]}
BIG = {"regular": [0.3, 1.7, 5.5], "large": [12.5, 100.0, 1234.5, 1e5, 3e7, 1e10, 1e14]}


def add_by_mpmath(name, function, same, base, **more):
    """Add a function whose derivative mpmath computes from the same function in mpmath."""
    add(name, function, by_mpmath(same), base, **more)


def hashed(x):
    """Return numbers between -0.5 and 0.5 that scatter from one number to the next."""
    bits = np.ascontiguousarray(np.real(x), np.float64).view(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    bits ^= bits >> np.uint64(31)
    bits *= np.uint64(0xBF58476D1CE4E5B9)
    bits ^= bits >> np.uint64(29)
    return (bits >> np.uint64(11)).astype(float) / 2**53 - 0.5


add("sinh by exps", lambda x: (np.exp(x) - np.exp(-x)) / 2, np.cosh, SMALL, inside=1)
add("(1+x)^10-1", lambda x: (1 + x) ** 10 - 1, lambda x: 10 * (1 + x) ** 9, SMALL, inside=1)
add("log(1+x)", lambda x: np.log(1 + x), lambda x: 1 / (1 + x), SMALLP, inside=1)
add(
    "sqrt(x+1)-sqrt(x)",
    lambda x: np.sqrt(x + 1) - np.sqrt(x),
    by_mpmath(lambda x: mpmath.sqrt(x + 1) - mpmath.sqrt(x)),
    BIG,
    inside=lambda x: np.sqrt(x),
)
add(
    "log(x+1)-log(x)",
    lambda x: np.log(x + 1) - np.log(x),
    by_mpmath(lambda x: mpmath.log(x + 1) - mpmath.log(x)),
    BIG,
    inside=lambda x: np.log(x) + 1,
)
add(
    "arctan(x+1)-arctan(x)",
    lambda x: np.arctan(x + 1) - np.arctan(x),
    by_mpmath(lambda x: mpmath.atan(x + 1) - mpmath.atan(x)),
    BIG,
    inside=1.5,
)
add("x-sin", lambda x: x - np.sin(x), by_mpmath(lambda x: x - mpmath.sin(x)), SMALL, inside=lambda x: abs(x))
add("tan-x", lambda x: np.tan(x) - x, by_mpmath(lambda x: mpmath.tan(x) - x), SMALL, inside=lambda x: abs(x))
add("sinh-x", lambda x: np.sinh(x) - x, by_mpmath(lambda x: mpmath.sinh(x) - x), SMALL, inside=lambda x: abs(x))
add(
    "(e^x-1)/x",
    lambda x: (np.exp(x) - 1) / x,
    by_mpmath(lambda x: mpmath.expm1(x) / x),
    SMALL,
    inside=lambda x: 1 / abs(x),
)
add(
    "(1-cos)/x^2",
    lambda x: (1 - np.cos(x)) / x**2,
    by_mpmath(lambda x: (1 - mpmath.cos(x)) / x**2),
    SMALL,
    inside=lambda x: 1 / x**2,
)
add("sin(x)/x", lambda x: np.sin(x) / x, by_mpmath(lambda x: mpmath.sin(x) / x), SMALL)
add(
    "x+1e12-1e12",
    lambda x: (x + 1e12) - 1e12,
    everywhere(0.0),
    LINE,
    rough=structure(np.spacing(1e12), everywhere(1)),
    analytic=everywhere(1.0),
    in_single=False,
)
add(
    "naive variance",
    lambda x: np.mean([x**2, (x + 1) ** 2, (x + 3) ** 2], axis=0) - np.mean([x, x + 1, x + 3], axis=0) ** 2,
    everywhere(0.0),
    BIG,
    inside=lambda x: x**2,
)
add(
    "exp by Taylor",
    lambda x: sum((-x) ** k / math.factorial(k) for k in range(120)),
    lambda x: -np.exp(-x),
    {"regular": [0.3, 1.7, 5.5], "large": [10.0, 15.0, 20.0, 25.0]},
    inside=lambda x: np.exp(x),
)
add(
    "erf difference",
    lambda x: sc.erf(x + 1e-3) - sc.erf(x),
    by_mpmath(lambda x: mpmath.erf(x + mpmath.mpf(1e-3)) - mpmath.erf(x)),
    {"regular": [0.3, 1.7, -0.7], "large": [3.0, 5.0, 7.0]},
    inside=1,
)
add(
    "1e10 x - 1e10 sin x",
    lambda x: 1e10 * x - 1e10 * np.sin(x),
    by_mpmath(lambda x: 10**10 * (x - mpmath.sin(x))),
    SMALL,
    inside=lambda x: 1e10 * abs(x),
)
add(
    "heron",
    lambda x: np.sqrt(np.maximum((1 + 1 + x) / 2 * ((2 + x) / 2 - 1) ** 2 * ((2 + x) / 2 - x), 0)),
    by_mpmath(lambda x: x / 2 * mpmath.sqrt(1 - x * x / 4)),
    {"regular": [0.3, 1.7, 0.7], "small": [1e-2, 1e-4, 1e-8, 1e-12]},
    inside=1,
)
add(
    "logsumexp naive",
    lambda x: np.log(np.exp(x) + np.exp(2 * x) + 1),
    by_mpmath(lambda x: mpmath.log(mpmath.exp(x) + mpmath.exp(2 * x) + 1)),
    {**MODERATE, "large": [12.5, -9.0, -20.0, -30.0, 100.0, 300.0]},
    inside=1,
)
add(
    "1+exp(-x)",
    lambda x: 1 + np.exp(-x),
    lambda x: -np.exp(-x),
    {**POSITIVE, "large": [12.5, 20.0, 30.0, 37.0, 50.0, 700.0]},
)
add("steep arctan", lambda x: np.arctan(1e10 * x), lambda x: 1e10 / (1 + 1e20 * x * x))
add(
    "x/(1+x)",
    lambda x: x / (1 + x),
    lambda x: 1 / (1 + x) ** 2,
    {**POSITIVE, "large": [1e3, 1e5, 1e7, 1e9, 1e12, 1e17]},
)
add(
    "x/sqrt(1+x2)",
    lambda x: x / np.sqrt(1 + x * x),
    lambda x: (1 + x * x) ** -1.5,
    {**LINE, "large": [12.5, 1e3, -1e5, 1e8, 1e12]},
)
add(
    "hard sigmoid",
    lambda x: np.clip(0.2 * x + 0.5, 0, 1),
    lambda x: np.where(abs(x) == 2.5, 0.1, 0.2 * (abs(x) < 2.5)),
    edge=[2.5, -2.5, 2.499999, 2.500001],
    rough=lambda x: (np.minimum(abs(x - 2.5), abs(x + 2.5)) * 0.2, 0 * x + 0.1),
)
add(
    "min(exp,1e5)",
    lambda x: np.minimum(np.exp(x), 1e5),
    lambda x: np.where(x < np.log(1e5), np.exp(x), 0.0),
    {**LINE, "large": [11.0, 11.5, 11.6, 12.0, 100.0, 800.0]},
)
add(
    "log1p(exp(-x))",
    lambda x: np.log1p(np.exp(-x)),
    lambda x: -sc.expit(-x),
    {**LINE, "large": [12.5, 30.0, 50.0, 100.0, 300.0, 700.0, -50.0]},
)
add(
    "1-exp(-x)",
    lambda x: 1 - np.exp(-x),
    lambda x: np.exp(-x),
    {**POSITIVE, "large": [12.5, 20.0, 30.0, 40.0, 100.0]},
    inside=1,
)
add(
    "gelu",
    lambda x: 0.5 * x * (1 + sc.erf(x / np.sqrt(2))),
    lambda x: 0.5 * (1 + sc.erf(x / np.sqrt(2))) + x * np.exp(-x * x / 2) / np.sqrt(2 * np.pi),
    {**LINE, "large": [5.0, -5.0, -7.0, -8.0, -9.0, 12.0, -40.0]},
    inside=lambda x: abs(x),
)
add(
    "mish",
    lambda x: x * np.tanh(np.log1p(np.exp(x))),
    by_mpmath(lambda x: x * mpmath.tanh(mpmath.log1p(mpmath.exp(x)))),
    {**LINE, "large": [12.5, -20.0, 37.0, -41, 250.0]},
)
add("langmuir", lambda x: 1e-3 * x / (1 + 1e3 * x), lambda x: 1e-3 / (1 + 1e3 * x) ** 2, POSITIVE, singular=[])
add("hill", lambda x: x**8 / (1 + x**8), lambda x: 8 * x**7 / (1 + x**8) ** 2, {**POSITIVE, "singular": [0.0]})
add(
    "planck",
    lambda x: x**3 / np.expm1(x),
    by_mpmath(lambda x: x**3 / mpmath.expm1(x)),
    {**POSITIVE, "large": [12.5, 37.0, 150.0, 700.0], "singular": []},
)
add(
    "fermi",
    lambda x: 1 / (np.exp((x - 1) / 1e-3) + 1),
    lambda x: -np.exp(np.minimum((x - 1) / 1e-3, 700)) / 1e-3 / (np.exp(np.minimum((x - 1) / 1e-3, 300)) + 1) ** 2,
    {"regular": [0.3, 0.9, 0.99, 0.999, 1.001, 1.005, 1.01, 1.03], "edge": [1.0]},
)
add("clip far", lambda x: np.clip(x, -1e3, 1e3), lambda x: (abs(x) < 1e3) * 1.0, edge=[999.999, 1000.001, -999.0])
add(
    "C1 join",
    lambda x: np.where(x.real > 1, 2 * x - 1, x**2),
    lambda x: np.where(x > 1, 2.0, 2 * x),
    edge=[1.0, 0.999999, 1.000001, 0.0],
)
add(
    "C0 join tiny",
    lambda x: np.where(x.real > 1, x + 1e-3 * (x - 1), x),
    lambda x: np.where(x == 1, 1.0005, np.where(x > 1, 1.001, 1.0)),
    edge=[1.0, 1 + 1e-6, 1 - 1e-6, 1 + 1e-9, 1 + 1e-12, 1 - 1e-12],
    rough=kink(1, 1e-3, 1.0005),
)
add(
    "floor+half x",
    lambda x: np.floor(x) + 0.5 * x,
    lambda x: np.where(is_whole(x), np.nan, 0.5),
    edge=[1.00001, 0.99999, 1.0000001],
    rough=structure(1, everywhere(1.5)),
)
add("sawtooth", lambda x: x - np.floor(x), lambda x: np.where(is_whole(x), np.nan, 1.0), edge=[1.0, 0.999999, 1.000001])
add(
    "triangle",
    lambda x: np.abs(x - np.rint(x)),
    lambda x: np.where(is_whole(x) | is_half(x), 0.0, np.sign(x - np.rint(x))),
    {"regular": [0.3, 0.7, 1.7, -0.45, -2.3], "large": [12.3, 37.7, 1234.3], "edge": [0.5, 1.0, 1.4999, 1.50001]},
    rough=lambda x: (2 * np.minimum(abs(x - np.rint(x)), abs(abs(x - np.rint(x)) - 0.5)), 0 * x),
)
add(
    "median",
    lambda x: np.median(np.broadcast_arrays(x, 1.0, 2.0, x * x), axis=0),
    by_mpmath(lambda x: (lambda s: (s[1] + s[2]) / 2)(sorted([x, mpmath.mpf(1), mpmath.mpf(2), x * x]))),
    {"regular": [0.3, 0.7, 1.7, 2.5, -0.45, -1.2], "large": [12.5], "edge": [1.41, 1.42]},
)
add(
    "weights sorted",
    lambda x: np.tensordot([1.0, 2.0, 4.0], np.sort(np.broadcast_arrays(x, 1.0, x * x), axis=0), 1),
    by_mpmath(lambda x: (lambda s: s[0] + 2 * s[1] + 4 * s[2])(sorted([x, mpmath.mpf(1), x * x]))),
    {"regular": [0.3, 0.7, 1.7, 2.5, -0.45, -1.2], "large": [12.5], "edge": [1.01, 0.99]},
)
add(
    "quantile",
    lambda x: np.quantile(np.array(np.broadcast_arrays(x, 1.0, 2.0, x * x, 3.0)), 0.3, axis=0),
    by_mpmath(
        lambda x: (lambda s: s[1] + (s[2] - s[1]) / 5)(sorted([x, mpmath.mpf(1), mpmath.mpf(2), x * x, mpmath.mpf(3)]))
    ),
    {"regular": [0.3, 0.7, 1.7, 2.5, -0.45, -1.2], "large": [12.5]},
)
add(
    "abs sin",
    lambda x: np.abs(np.sin(x)),
    lambda x: np.sign(np.sin(x)) * np.cos(x),
    {**MODERATE, "edge": [3.14159, 3.1416, 6.2831]},
    rough=lambda x: (2 * abs(np.sin(x)), 0 * x),
)
add(
    "max sin cos",
    lambda x: np.maximum(np.sin(x), np.cos(x)),
    lambda x: np.where(np.sin(x) > np.cos(x), np.cos(x), -np.sin(x)),
    {**MODERATE, "edge": [0.785, 0.786, 0.7854, 0.78539]},
)
add("relu squared", lambda x: np.maximum(x, 0) ** 2, lambda x: 2 * np.maximum(x, 0))
add("hinge", lambda x: np.maximum(0, 1 - x), lambda x: np.where(x == 1, -0.5, -1.0 * (x < 1)))
add(
    "relu of offset",
    lambda x: np.maximum(x - 1e-5, 0),
    lambda x: np.where(x == 1e-5, 0.5, 1.0 * (x > 1e-5)),
    edge=[1e-5, 2e-5, 1.1e-5, 0.9e-5, 1.00001e-5],
    rough=kink(1e-5, 1, 0.5),
)
add(
    "trunc 1/8",
    lambda x: np.trunc(8 * x) / 8,
    steps(lambda x: is_whole(8 * x) & (x != 0)),
    edge=[0.06, 0.1],
    rough=structure(0.125, everywhere(1)),
)
add(
    "floor/1e3",
    lambda x: np.floor(1e3 * x) / 1e3,
    lambda x: np.where(is_whole(x * 1e3), np.nan, 0),
    {
        "regular": [0.30005, 0.7005, 1.70031, -0.45021],
        "large": [12.50033, 1234.50041, 1e6 + 0.00042],
        "small": [1e-4, 1e-5],
    },
    rough=structure(1e-3, everywhere(1)),
)
add(
    "sine of floor",
    lambda x: np.sin(np.floor(1e3 * x) / 1e3),
    lambda x: np.where(is_whole(x * 1e3), np.nan, 0),
    {"regular": [0.30005, 0.7005, 1.70031, -0.45021], "large": [12.50033, 1234.50041], "small": [1e-4, 1e-5]},
    rough=structure(1e-3, np.cos),
)
add(
    "int times x",
    lambda x: np.trunc(x.real).astype(np.int64) * x,
    lambda x: np.where(is_whole(x) & (x != 0), np.nan, np.trunc(x)),
    {"regular": [0.3, 0.7, 1.7, -0.45, -2.3, 3.1], "large": [12.5, 37.3, 250.7, 1234.5], "edge": [0.99, 1.01]},
)
add(
    "unwrap mod 2pi",
    lambda x: np.mod(x, 2 * np.pi),
    everywhere(1.0),
    {"regular": [0.3, 1.7, -0.45], "large": [12.5, 37.0, 250.0], "edge": [6.28, 6.2833, -1e-3]},
)
add(
    "signed sqrt",
    lambda x: np.sign(x) * np.sqrt(np.abs(x)),
    lambda x: 0.5 / np.sqrt(abs(x)),
    edge=[1.0],
    singular=[0.0],
)
add(
    "f32 of scaled",
    lambda x: np.sin(single(x / 1000)).astype(float),
    lambda x: np.cos(x / 1000) / 1000,
    {"regular": [0.3, 1.7, 31.0, -2.3], "large": [250.0, 1234.5, 1e5], "small": [1e-3, 1e-6]},
    in_single=False,
)
add(
    "f32 of difference",
    lambda x: np.exp(single(x - 1)).astype(float),
    lambda x: np.exp(x - 1),
    {"regular": [0.3, 1.7, 3.1, -2.3, 1.1], "edge": [1.0, 1.001, 1.000001], "small": [1e-3, 1e-6]},
    in_single=False,
)
add(
    "x + tanh f32",
    lambda x: x + np.tanh(single(x)).astype(float),
    lambda x: 1 + 1 / np.cosh(x) ** 2,
    {**LINE, "large": [5.0, 7.3, 12.5]},
    in_single=False,
)
add("x + 1e-3 f32", lambda x: x + 1e-3 * np.float64(single(x)), everywhere(1.001), in_single=False)
add("1e-5 f32 + x2", lambda x: x * x + 1e-5 * np.float64(single(x)), lambda x: 2 * x + 1e-5, in_single=False)
add(
    "sin + f32 exp",
    lambda x: np.sin(x) + np.exp(single(-x)).astype(float),
    lambda x: np.cos(x) - np.exp(-x),
    {**LINE, "large": [5.0, 7.3, 12.5, 20.0]},
    in_single=False,
)
add("x single(x)", lambda x: x * np.float64(single(x)), lambda x: 2 * x, in_single=False)
add("x sin f32", lambda x: x * np.float64(np.sin(single(x))), lambda x: np.sin(x) + x * np.cos(x), in_single=False)
add("sin(x2)", lambda x: np.sin(x * x), lambda x: 2 * x * np.cos(x * x), {**LINE, "large": [12.5, 37.0, 250.0, 1234.5]})
add(
    "sin exp",
    lambda x: np.sin(np.exp(x)),
    lambda x: np.exp(x) * np.cos(np.exp(x)),
    {**LINE, "large": [7.5, 10.0, 12.5]},
)
add(
    "chirp",
    lambda x: x**2 * np.sin(1 / x),
    lambda x: 2 * x * np.sin(1 / x) - np.cos(1 / x),
    small=[0.1, 1e-2, 1e-3, 1e-4],
    edge=[1.0],
)
add(
    "am radio",
    lambda x: (1 + 0.5 * np.sin(x)) * np.sin(300 * x),
    lambda x: 0.5 * np.cos(x) * np.sin(300 * x) + 300 * (1 + 0.5 * np.sin(x)) * np.cos(300 * x),
    MODERATE,
)
add(
    "square wave",
    lambda x: np.sign(np.sin(x.real * 10)),
    everywhere(0.0),
    {"regular": [0.3, 0.7, 1.7, -0.45], "large": [12.5], "small": [1e-3, 1e-6]},
)
add(
    "smooth square wave",
    lambda x: np.tanh(20 * np.sin(10 * x)),
    lambda x: 200 * np.cos(10 * x) / np.cosh(20 * np.sin(10 * x)) ** 2,
    {"regular": [0.3, 0.7, 1.7, -0.45], "large": [12.5], "small": [1e-3, 1e-6]},
)
add("1e-300 x", lambda x: 1e-300 * x, everywhere(1e-300), in_single=False)
add("1e300 sin", lambda x: 1e300 * np.sin(x), lambda x: 1e300 * np.cos(x), in_single=False)
add(
    "identity extremes",
    lambda x: 1.0 * x,
    everywhere(1.0),
    {"large": [1e100, 1e200, 1e300, 1.7e308, -1e308], "small": [1e-100, 1e-200, 1e-300, 1e-307, 5e-324]},
    in_single=False,
)
add(
    "cube extremes",
    lambda x: x**3,
    lambda x: 3 * x * x,
    {"large": [1e30, 1e60, 1e100], "small": [1e-30, 1e-60, 1e-100]},
    in_single=False,
)
add(
    "reciprocal extremes",
    lambda x: 1 / x,
    lambda x: -1 / x**2,
    {"large": [1e50, 1e100, 1e150, 1e200], "small": [1e-50, 1e-100, 1e-150, 1e-160, 1e-300, 1e-310]},
    in_single=False,
)
add(
    "log extremes",
    lambda x: np.log(x),
    lambda x: 1 / x,
    {"large": [1e50, 1e200, 1e308], "small": [1e-50, 1e-100, 1e-200, 1e-300, 1e-307, 1e-310]},
    in_single=False,
)
add(
    "sqrt extremes",
    lambda x: np.sqrt(x),
    lambda x: 0.5 / np.sqrt(x),
    {"large": [1e50, 1e200, 1e308], "small": [1e-50, 1e-100, 1e-200, 1e-300, 1e-307, 1e-310]},
    in_single=False,
)
add(
    "exp extremes",
    np.exp,
    np.exp,
    {"large": [700.0, 709.0, 709.78, 710.0, -700.0, -740.0, -745.0, -1000.0]},
    in_single=False,
)
add("sin extremes f", np.sin, np.cos, {"large": [1e3, 1e4, 1e5, 1e6]}, rough=structure(1, everywhere(0.0)))
add(
    "arctan extremes",
    np.arctan,
    lambda x: 1 / (1 + x * x),
    {"large": [1e8, 1e20, 1e100, 1e200], "small": [1e-100, 1e-300]},
    in_single=False,
)
add(
    "hypot extremes",
    lambda x: np.hypot(x, 1e-200),
    lambda x: x / np.hypot(x, 1e-200),
    {"regular": [1e-200, 2e-200, 3e-201], "small": [1e-210], "large": [1e-100, 1.0]},
    in_single=False,
)
add(
    "micro scale tanh",
    lambda x: np.tanh(x / 1e-12),
    lambda x: 1e12 / np.cosh(np.clip(x / 1e-12, -300, 300)) ** 2,
    {"regular": [1e-12, 3e-13, -2e-12], "small": [1e-15], "large": [1e-11, 1e-9, 1e-3, 1.0]},
    in_single=False,
)
add(
    "mega scale tanh",
    lambda x: np.tanh(x / 1e12),
    lambda x: 1e-12 / np.cosh(x / 1e12) ** 2,
    {"regular": [1e12, 3e11, -2e12], "small": [1.0, 1e3, 1e6, 1e-3], "large": [1e13, 1e14]},
    in_single=False,
)
add(
    "angstrom lj",
    lambda x: 4 * ((3e-10 / x) ** 12 - (3e-10 / x) ** 6),
    lambda x: 4 * (-12 * (3e-10 / x) ** 12 / x + 6 * (3e-10 / x) ** 6 / x),
    {"regular": [3e-10, 3.4e-10, 5e-10], "large": [1e-9, 1e-8], "small": [2e-10, 1e-10]},
    in_single=False,
)
add(
    "gravity",
    lambda x: 6.674e-11 * 5.97e24 / x**2,
    lambda x: -2 * 6.674e-11 * 5.97e24 / x**3,
    {"regular": [6.4e6, 7e6], "large": [3.8e8, 1.5e11]},
    in_single=False,
)
add(
    "arrhenius",
    lambda x: 1e13 * np.exp(-8e4 / (8.314 * x)),
    lambda x: 1e13 * np.exp(-8e4 / (8.314 * x)) * 8e4 / (8.314 * x * x),
    {"regular": [300.0, 350.0, 500.0], "large": [1500.0, 1e4], "small": [100.0, 50.0, 20.0]},
    in_single=False,
)
add(
    "boltzmann",
    lambda x: np.exp(-x / (1.38e-23 * 300)),
    lambda x: -np.exp(-x / (1.38e-23 * 300)) / (1.38e-23 * 300),
    {"regular": [1e-21, 4e-21, 2e-20], "large": [1e-19, 1e-18], "small": [1e-25]},
    in_single=False,
)
add(
    "diode",
    lambda x: 1e-12 * np.expm1(x / 0.02585),
    lambda x: 1e-12 / 0.02585 * np.exp(x / 0.02585),
    {"regular": [0.3, 0.6, 0.7, -0.3, 0.1], "small": [1e-3, 1e-6], "edge": [0.0], "large": [-5.0]},
)
add("x^(1/3) pos", lambda x: x ** (1 / 3), lambda x: x ** (-2 / 3) / 3, POSITIVE)
add("x^0.1", lambda x: x**0.1, lambda x: 0.1 * x**-0.9, POSITIVE)
add(
    "sqrt(x-1)",
    lambda x: np.sqrt(x - 1),
    lambda x: np.where(x > 1, 0.5 / np.sqrt(x - 1), np.nan),
    {"regular": [1.3, 2.5], "edge": [1 + 1e-3, 1 + 1e-6, 1 + 1e-9, 1 + 1e-12, 1 + 1e-14], "singular": [1.0, 0.5]},
    inside=lambda x: 1 / np.sqrt(x - 1),
)
add(
    "log(x-1)",
    lambda x: np.log(x - 1),
    lambda x: np.where(x > 1, 1 / (x - 1), np.nan),
    {"regular": [1.3, 2.5], "edge": [1 + 1e-3, 1 + 1e-6, 1 + 1e-9, 1 + 1e-12], "singular": [1.0, 0.5]},
    inside=lambda x: 1 / (x - 1),
)
add(
    "1/(x-1)",
    lambda x: 1 / (x - 1),
    lambda x: -1 / (x - 1) ** 2,
    {"regular": [1.3, 2.5], "edge": [1 + 1e-3, 1 + 1e-6, 1 + 1e-9, 1 - 1e-12], "singular": [1.0]},
)
add(
    "1/(x-1)^2",
    lambda x: 1 / (x - 1) ** 2,
    lambda x: -2 / (x - 1) ** 3,
    {"regular": [1.3, 2.5], "edge": [1 + 1e-3, 1 + 1e-6, 1 + 1e-9], "singular": [1.0]},
)
add(
    "1/(x^2+1e-12)",
    lambda x: 1 / (x * x + 1e-12),
    lambda x: -2 * x / (x * x + 1e-12) ** 2,
    {"regular": [1.3, 0.3], "small": [1e-3, 1e-5, 1e-6, 1e-7, 1e-9], "edge": [0.0]},
)
add(
    "lorentz narrow",
    lambda x: 1e-8 / ((x - 1) ** 2 + 1e-8),
    lambda x: -2e-8 * (x - 1) / ((x - 1) ** 2 + 1e-8) ** 2,
    {"regular": [0.3, 0.9, 0.99, 0.999, 0.9999, 1.0001, 1.001, 2.0], "edge": [1.0]},
)
add(
    "narrow gauss",
    lambda x: np.exp(-(((x - 1) / 1e-4) ** 2)),
    lambda x: -2e8 * (x - 1) * np.exp(-(((x - 1) / 1e-4) ** 2)),
    {"regular": [0.3, 0.9, 0.99, 0.999, 0.9999, 1.0001, 1.0002, 1.001, 2.0], "edge": [1.0]},
)
add(
    "x+narrow gauss",
    lambda x: x + np.exp(-(((x - 1) / 1e-4) ** 2)),
    lambda x: 1 - 2e8 * (x - 1) * np.exp(-(((x - 1) / 1e-4) ** 2)),
    {"regular": [0.3, 0.9, 0.99, 0.999, 0.9999, 1.0001, 1.0002, 1.0005, 1.001, 2.0], "edge": [1.0]},
)
add(
    "x+tiny narrow gauss",
    lambda x: x + 1e-6 * np.exp(-(((x - 1) / 1e-6) ** 2)),
    lambda x: 1 - 2e6 * (x - 1) * np.exp(-(((x - 1) / 1e-6) ** 2)),
    {"regular": [0.3, 0.999, 1 - 1e-5, 1 - 1e-6, 1 + 1e-6, 1 + 5e-7, 1 + 3e-6, 1.001], "edge": [1.0]},
    in_single=False,
)
add("tan near pole", np.tan, by_mpmath(mpmath.tan), {"edge": [1.57, 1.5707, 1.57079, 1.570796, 1.5707963, 1.5708]})
add("log log", lambda x: np.log(np.log(x)), lambda x: np.where(x > 1, 1 / (x * np.log(x)), np.nan), ABOVE_ONE)
add("x log abs", lambda x: x * np.log(np.abs(x)), lambda x: np.log(abs(x)) + 1, edge=[1.0], singular=[0.0])
add(
    "x sin(1/x)",
    lambda x: x * np.sin(1 / x),
    lambda x: np.sin(1 / x) - np.cos(1 / x) / x,
    {"regular": [0.3, 1.7], "small": [0.1, 1e-2, 1e-3], "singular": [0.0]},
)
add("abs^1.5", lambda x: np.abs(x) ** 1.5, lambda x: 1.5 * np.sign(x) * np.sqrt(abs(x)), edge=[1.0, 0.0])
add("abs^1.1", lambda x: np.abs(x) ** 1.1, lambda x: 1.1 * np.sign(x) * abs(x) ** 0.1, edge=[1.0, 0.0])
add("abs^0.9", lambda x: np.abs(x) ** 0.9, lambda x: 0.9 * np.sign(x) * abs(x) ** -0.1, edge=[1.0], singular=[0.0])
add(
    "x+abs^0.5",
    lambda x: x + np.abs(x) ** 0.5,
    lambda x: 1 + 0.5 * np.sign(x) * abs(x) ** -0.5,
    edge=[1.0],
    singular=[0.0],
)
add(
    "x+1e-6abs^0.5",
    lambda x: x + 1e-6 * np.abs(x) ** 0.5,
    lambda x: 1 + 0.5e-6 * np.sign(x) * abs(x) ** -0.5,
    edge=[1.0],
    singular=[0.0],
)
add(
    "exp(-1/x)",
    lambda x: np.where(x > 0, np.exp(-1 / np.where(x > 0, x, 1)), 0.0),
    lambda x: np.where(x > 0, np.exp(-1 / np.where(x > 0, x, 1)) / np.where(x > 0, x, 1) ** 2, 0),
    {**LINE, "small": [0.1, 0.03, 0.01, 1e-3, -1e-3]},
)
add("sqrt(x2) ", lambda x: np.sqrt(x * x), np.sign, edge=[1.0], singular=[0.0], rough=kink(0, 2, 0))
add(
    "sqrt(x2+1e-20)",
    lambda x: np.sqrt(x * x + 1e-20),
    lambda x: x / np.sqrt(x * x + 1e-20),
    {**LINE, "small": [1e-3, 1e-6, 1e-9, 1e-10, 1e-11, 1e-15]},
)
add("gamma near -1", sc.gamma, by_mpmath(mpmath.gamma), {"edge": [-1 + 1e-3, -1 + 1e-6, -1 - 1e-9, 1e-8]})
add("digamma near 0", sc.digamma, by_mpmath(mpmath.digamma), {"small": [1e-2, 1e-5, 1e-8, 1e-12]})
add(
    "arcsin near 1",
    np.arcsin,
    lambda x: 1 / np.sqrt((1 - x) * (1 + x)),
    {"edge": [0.9, 0.99, 0.999, 1 - 1e-6, 1 - 1e-9, 1 - 1e-12, 1 - 1e-15]},
    inside=lambda x: 1 / np.sqrt(1 - x),
)
add(
    "arccosh near 1",
    np.arccosh,
    lambda x: 1 / np.sqrt((x - 1) * (x + 1)),
    {"edge": [1.1, 1.001, 1 + 1e-6, 1 + 1e-9, 1 + 1e-12, 1 + 1e-15]},
    inside=lambda x: 1 / np.sqrt(x - 1),
)
add(
    "arctanh near 1",
    np.arctanh,
    lambda x: 1 / ((1 - x) * (1 + x)),
    {"edge": [0.9, 0.99, 0.999, 1 - 1e-6, 1 - 1e-9, 1 - 1e-12, 1 - 1e-15]},
)
add(
    "jump 1e-3",
    lambda x: np.where(x.real > 1, x + 1e-3, x),
    lambda x: np.where(x == 1, np.nan, 1.0),
    edge=[1.0, 1.001, 0.9999, 1 + 1e-6, 1 - 1e-6, 1 + 1e-9, 1 - 1e-12],
)
add(
    "jump 1e-10",
    lambda x: np.where(x.real > 1, x + 1e-10, x),
    lambda x: np.where(x == 1, np.nan, 1.0),
    edge=[1.0, 1.001, 0.9999, 1 + 1e-6, 1 - 1e-6, 1 + 1e-9, 1 - 1e-12],
    rough=structure(1e-10, everywhere(1.0)),
)
add(
    "step up",
    lambda x: np.where(x.real > 1, 1.0, 0.0),
    lambda x: np.where(x == 1, np.nan, 0.0),
    edge=[1.0, 1.001, 0.9999, 1 + 1e-6, 1 - 1e-6, 1 + 1e-9, 1 - 1e-12],
)
add(
    "step on slope 1e6",
    lambda x: np.where(x.real > 1, 1e6 * x, 1e6 * x + 1),
    lambda x: np.where(x == 1, np.nan, 1e6),
    edge=[1.0, 1.001, 0.9999, 1 + 1e-6, 1 - 1e-6, 1 + 1e-9, 1 - 1e-12],
)
add(
    "spike",
    lambda x: np.where(np.abs(x - 1) < 1e-3, 1 - np.abs(x - 1) * 1e3, 0.0),
    lambda x: np.where(abs(x - 1) < 1e-3, -1e3 * np.sign(x - 1), 0),
    {"regular": [0.3, 0.7, 1.7], "edge": [1.0, 1.0005, 0.9995, 1.002, 0.998, 1.01]},
)
add(
    "dead zone",
    lambda x: np.where(np.abs(x) < 0.1, 0.0, x - 0.1 * np.sign(x)),
    lambda x: np.where(abs(x) < 0.1, 0.0, np.where(abs(x) == 0.1, 0.5, 1.0)),
    edge=[0.1, 0.0999, 0.1001, 0.05],
    rough=structure(lambda x: np.abs(np.abs(x) - 0.1), lambda x: 0.5 * np.sign(x) ** 2),
)
add(
    "dead zone tiny",
    lambda x: np.where(np.abs(x) < 1e-6, 0.0, x - 1e-6 * np.sign(x)),
    lambda x: np.where(abs(x) < 1e-6, 0.0, np.where(abs(x) == 1e-6, 0.5, 1.0)),
    small=[1e-3, 1e-5, 2e-6, 0.5e-6, 1e-7, -1e-9],
)
add(
    "dead zone 1e-12",
    lambda x: np.where(np.abs(x) < 1e-12, 0.0, x - 1e-12 * np.sign(x)),
    lambda x: np.where(abs(x) < 1e-12, 0.0, np.where(abs(x) == 1e-12, 0.5, 1.0)),
    small=[1e-3, 1e-5, 2e-6, 0.5e-6, 1e-7, -1e-9, 2e-12, 0.5e-12, 1e-13],
    rough=structure(1e-12, everywhere(1)),
)
add(
    "trapezoid 100",
    lambda x: np.trapezoid(np.exp(-np.multiply.outer(x, np.linspace(0, 1, 101))), dx=0.01, axis=-1),
    lambda x: (
        -np.trapezoid(np.linspace(0, 1, 101) * np.exp(-np.multiply.outer(x, np.linspace(0, 1, 101))), dx=0.01, axis=-1)
    ),
    MODERATE,
)
add(
    "hash of floor",
    lambda x: hashed(np.floor(x)),
    lambda x: np.where(is_whole(x), np.nan, 0),
    {"regular": [0.3, 0.7, 1.7], "large": [12.5, 1234.5]},
)
add(
    "hash of 1e3 floor",
    lambda x: hashed(np.floor(1e3 * x)),
    lambda x: np.where(is_whole(1e3 * x), np.nan, 0),
    {"regular": [0.3005, 0.7005, 1.7003], "large": [12.5004, 1234.5005]},
)
add(
    "x+hash of floor 1e6",
    lambda x: x + 1e-6 * hashed(np.floor(1e6 * x)),
    lambda x: np.where(is_whole(1e6 * x), np.nan, 1.0),
    {"regular": [0.3000005, 0.7000005, 1.7000003], "large": [12.5000004]},
    in_single=False,
)
add(
    "fract sine hash",
    lambda x: np.mod(np.sin(x * 12.9898) * 43758.5453, 1),
    lambda x: 43758.5453 * 12.9898 * np.cos(x * 12.9898),
    {"regular": [0.3, 0.7, 1.7, -0.45]},
    in_single=False,
)
add(
    "value noise",
    lambda x: hashed(np.floor(x)) * (1 - (x - np.floor(x))) + hashed(np.floor(x) + 1) * (x - np.floor(x)),
    lambda x: hashed(np.floor(x) + 1) - hashed(np.floor(x)),
    {"regular": [0.3, 0.7, 1.7], "large": [12.5, 1234.5]},
)
add("zero", lambda x: np.zeros(x.shape), everywhere(0.0), in_single=False)
add(
    "nan beyond 2",
    lambda x: np.where(x.real > 2, np.nan, x * x),
    lambda x: np.where(x < 2, 2 * x, np.nan),
    edge=[2.0, 1.999, 1.9999999, 2.0000001],
)
add(
    "inf beyond 2",
    lambda x: np.where(x.real > 2, np.inf, x * x),
    lambda x: np.where(x < 2, 2 * x, np.nan),
    edge=[2.0, 1.999, 1.9999999, 2.0000001],
)
add(
    "nan at 1",
    lambda x: np.where(x == 1, np.nan, x * x),
    lambda x: np.where(x == 1, np.nan, 2 * x),
    edge=[1.0, 1.0001, 1 - 1e-12],
)
add(
    "overflow to inf",
    lambda x: np.exp(np.exp(x)),
    lambda x: np.exp(x + np.exp(x)),
    {"regular": [0.3, 1.7, 3.1], "large": [5.0, 6.0, 6.56, 6.6]},
)
add(
    "x**-200",
    lambda x: x**-200.0,
    lambda x: -200 * x**-201.0,
    {"regular": [0.9, 1.1, 1.7], "small": [0.03, 0.02], "large": [30.0, 50.0]},
)
add("const 1e300", lambda x: 0 * x + 1e300, everywhere(0.0), in_single=False)
add("const pi/noisefree", lambda x: np.full(x.shape, np.pi), everywhere(0.0), in_single=False)
add_by_mpmath(
    "jv(3.7)",
    lambda x: sc.jv(3.7, x),
    lambda x: mpmath.besselj(mpmath.mpf(3.7), x),
    {"regular": [0.3, 1.7, 5.5], "large": [37.0, 250.0], "small": [0.1, 1e-2]},
)
add_by_mpmath(
    "yv(2.3)",
    lambda x: sc.yv(2.3, x),
    lambda x: mpmath.bessely(mpmath.mpf(2.3), x),
    {"regular": [0.7, 1.7, 5.5], "large": [37.0, 250.0], "small": [0.1]},
)
add_by_mpmath(
    "iv(10)",
    lambda x: sc.iv(10, x),
    lambda x: mpmath.besseli(10, x),
    {"regular": [0.3, 1.7, 5.5], "large": [37.0, 150.0], "small": [0.1, 1e-2]},
)
add_by_mpmath(
    "kv(10.5)",
    lambda x: sc.kv(10.5, x),
    lambda x: mpmath.besselk(mpmath.mpf(10.5), x),
    {"regular": [0.3, 1.7, 5.5], "large": [37.0, 150.0], "small": [0.1, 1e-2]},
)
add_by_mpmath(
    "gammainc(50)",
    lambda x: sc.gammainc(50.0, x),
    lambda x: mpmath.gammainc(50, 0, x, regularized=True),
    {"regular": [30.0, 45.0, 50.0, 55.0], "large": [80.0, 100.0], "small": [5.0, 10.0]},
)
add_by_mpmath(
    "betainc(.5,.5)",
    lambda x: sc.betainc(0.5, 0.5, x),
    lambda x: mpmath.betainc(0.5, 0.5, 0, x, regularized=True),
    {"regular": [0.3, 0.7], "small": [1e-2, 1e-5], "edge": [0.99, 0.9999]},
)
add_by_mpmath(
    "betainc(30,40)",
    lambda x: sc.betainc(30, 40, x),
    lambda x: mpmath.betainc(30, 40, 0, x, regularized=True),
    {"regular": [0.3, 0.4, 0.45, 0.7], "small": [0.1, 1e-2], "edge": [0.9]},
)
add_by_mpmath(
    "hyp2f1 b",
    lambda x: sc.hyp2f1(1.2, 0.7, 2.3, x),
    lambda x: mpmath.hyp2f1(mpmath.mpf(1.2), mpmath.mpf(0.7), mpmath.mpf(2.3), x),
    {"regular": [0.3, 0.7, -0.5, -3.0], "small": [1e-3], "edge": [0.9, 0.95, 0.99, -10.0]},
)
add_by_mpmath(
    "hyp1f1 b",
    lambda x: sc.hyp1f1(1.2, 2.3, x),
    lambda x: mpmath.hyp1f1(mpmath.mpf(1.2), mpmath.mpf(2.3), x),
    {"regular": [0.3, 1.7, -5.0], "large": [20.0, -20.0, -40.0], "small": [1e-3]},
)
add_by_mpmath(
    "ellipj mod",
    lambda k: sc.ellipj(1.3, k)[0],
    lambda k: mpmath.ellipfun("sn", 1.3, m=k),
    {"regular": [0.3, 0.7], "small": [1e-2, 1e-6], "edge": [0.99]},
)
add_by_mpmath(
    "zeta(x,2.5)",
    lambda x: sc.zeta(x, 2.5),
    lambda x: mpmath.zeta(x, 2.5),
    {"regular": [1.5, 2.6, 5.5], "large": [20.0], "edge": [1.01]},
)
add_by_mpmath(
    "polygamma3",
    lambda x: sc.polygamma(3, x),
    lambda x: mpmath.polygamma(3, x),
    {"regular": [0.3, 1.7, 5.5], "large": [37.0, 1e3], "small": [1e-2]},
)
add_by_mpmath(
    "expn5",
    lambda x: sc.expn(5, x),
    lambda x: mpmath.expint(5, x),
    {"regular": [0.3, 1.7, 5.5], "large": [37.0, 100.0], "small": [1e-2]},
)
add_by_mpmath(
    "struve2",
    lambda x: sc.struve(2, x),
    lambda x: mpmath.struveh(2, x),
    {"regular": [0.3, 1.7, 5.5], "large": [20.0, 37.0], "small": [1e-2]},
)
add_by_mpmath(
    "fdtrc",
    lambda x: sc.fdtrc(5, 7, x),
    lambda x: mpmath.betainc(3.5, 2.5, 0, 7 / (7 + 5 * x), regularized=True),
    {"regular": [0.3, 1.7, 5.5], "large": [100.0], "small": [1e-2]},
)
add_by_mpmath(
    "nbdtr", lambda x: sc.nbdtr(3, 5, x), lambda x: mpmath.betainc(5, 4, 0, x, regularized=True), UNIT, singular=[]
)
add_by_mpmath(
    "hankel re",
    lambda x: sc.hankel1(1.5, x).real,
    lambda x: mpmath.besselj(1.5, x),
    {"regular": [0.3, 1.7, 5.5], "large": [37.0, 250.0]},
)
add_by_mpmath(
    "lambertw -1",
    lambda x: sc.lambertw(x, -1).real,
    lambda x: mpmath.lambertw(x, -1).real,
    {"regular": [-0.3, -0.1], "small": [-1e-2, -1e-5, -1e-10], "edge": [-0.367, -0.3678]},
)
add_by_mpmath(
    "wrightomega",
    lambda x: sc.wrightomega(x).real,
    lambda x: mpmath.lambertw(mpmath.exp(x)).real,
    {"regular": [0.3, 1.7, -2.0], "large": [37.0, 250.0, -30.0], "small": [1e-3]},
)
add_by_mpmath(
    "eval_legendre 20", lambda x: sc.eval_legendre(20, x), lambda x: mpmath.legendre(20, x), BALL, singular=[]
)
add_by_mpmath("eval_chebyt 50", lambda x: sc.eval_chebyt(50, x), lambda x: mpmath.chebyt(50, x), BALL, singular=[])
add_by_mpmath("laguerre 10", lambda x: sc.eval_laguerre(10, x), lambda x: mpmath.laguerre(10, 0, x), MODERATE)
add_by_mpmath("logit of expit", lambda x: sc.logit(sc.expit(x)), lambda x: x, MODERATE, inside=lambda x: np.exp(abs(x)))
add_by_mpmath("gammaln(1+x)", lambda x: sc.gammaln(1 + x), lambda x: mpmath.loggamma(1 + x), SMALLP, inside=1)
add_by_mpmath(
    "betaln large",
    lambda x: sc.betaln(x, 1e3),
    lambda x: mpmath.log(mpmath.beta(x, 1000)),
    {"regular": [0.3, 1.7, 5.5], "large": [1e3, 1e5, 1e7]},
    inside=lambda x: x * np.log(x + 3),
)
add_by_mpmath(
    "gammaln diff",
    lambda x: sc.gammaln(x + 1) - sc.gammaln(x),
    lambda x: mpmath.log(x),
    {"regular": [0.3, 1.7, 5.5], "large": [1e3, 1e5, 1e7, 1e10]},
    inside=lambda x: x * np.log(x + 3),
)
add_by_mpmath(
    "log of gamma ratio",
    lambda x: np.log(sc.gamma(x + 0.5) / sc.gamma(x)),
    lambda x: mpmath.loggamma(x + 0.5) - mpmath.loggamma(x),
    {"regular": [0.3, 1.7, 5.5], "large": [50.0, 150.0]},
)
add_by_mpmath("j0 zeros", sc.j0, mpmath.j0, {"edge": [2.404825557695773, 5.520078110286311, 30.63460646843198]})
add_by_mpmath("airy decay", lambda x: sc.airy(x)[0], mpmath.airyai, {"large": [20.0, 50.0, 100.0, -20.0, -50.0]})
add_by_mpmath(
    "erfcx neg", sc.erfcx, lambda x: mpmath.exp(x * x) * mpmath.erfc(x), {"large": [-10.0, -20.0, -26.0, 50.0, 1e3]}
)
add_by_mpmath(
    "log_ndtr far",
    sc.log_ndtr,
    lambda x: mpmath.log(mpmath.erfc(-x / mpmath.sqrt(2)) / 2),
    {"large": [-10.0, -40.0, -1e3, 6.0, 8.0]},
)
add_by_mpmath("exprel neg", sc.exprel, lambda x: mpmath.expm1(x) / x, {"large": [-37.0, -250.0, 300.0]})
add_by_mpmath(
    "kolmogorov small",
    sc.kolmogorov,
    lambda x: (
        1
        - mpmath.sqrt(2 * mpmath.pi)
        / x
        * mpmath.fsum(mpmath.exp(-((2 * k - 1) ** 2) * mpmath.pi**2 / (8 * x * x)) for k in range(1, 20))
    ),
    {"small": [0.2, 0.15], "regular": [0.3, 0.5]},
    inside=1,
)

for digits in range(1, 14):
    noise = 10.0**-digits
    add(f"sin + 1e-{digits} noise", lambda x, a=noise: np.sin(x) + a * hashed(x), np.cos, {**MODERATE, "edge": [1.0]})
    add(
        f"1e3 + sin + 1e-{digits} noise",
        lambda x, a=noise: 1e3 + np.sin(x) + a * hashed(x),
        np.cos,
        {**MODERATE, "edge": [1.0]},
        in_single=False,
    )
    add(
        f"square with relative noise of 1e-{digits}",
        lambda x, a=noise: x * x * (1 + a * hashed(x)),
        lambda x: 2 * x,
        {**MODERATE, "edge": [1.0]},
    )
