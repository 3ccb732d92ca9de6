"""Derivatives from values of the functions of the corpus: right as far as it is promised, or refused. Nothing else."""

import re
import warnings
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import scipy
import tensorflow as tf

from tests.derivative_corpus import CASES, KINDS, N_QUICK
from tfpyop import differentiable_op
from tfpyop._numdiff.complex_step import ComplexStep
from tfpyop._numdiff.confirmation import DirectionalEstimate
from tfpyop._numdiff.directional import CREDIBLE, Function, vjp_from_values
from tfpyop._numdiff.finite_differences import Numerical
from tfpyop.errors import GradientError

PAGE = Path(__file__).parent.parent / "docs" / "numerical-derivatives.md"
SINGLE = float(np.finfo(np.float32).eps)
DOUBLE = float(np.finfo(np.float64).eps)


def in_single(function):
    return lambda x: np.asarray(function(x.astype(np.float32)), np.float32)


def in_single_inside(function):
    return lambda x: np.asarray(function(x.astype(np.float32)), np.float64)


VARIANTS = {
    '`"numerical"`, float64': ("numerical", lambda function: function, DOUBLE),
    '`"numerical"`, float32 inside and returned': ("numerical", in_single, SINGLE),
    '`"numerical"`, float32 inside, float64 returned': ("numerical", in_single_inside, SINGLE),
    '`"complex-step"`, complex128': ("complex-step", lambda function: function, DOUBLE),
}
ROUNDING = {DOUBLE: 2e-14, SINGLE: 1.2e-7}
"""The height of steps and waves that count as rounding wherever they are."""
KNOWN = {("sqrt(x2+1e-20)", 1e-15), ("jump 1e-10", 1.0), ("inf beyond 2", 2.0)}
"""The functions and points whose derivatives are known to be wrong, by docs/numerical-derivatives.md."""
UNSEEN = {DOUBLE: 1024, SINGLE: 16}
"""How many units in the last place a structure may be high, and not be seen, by docs/numerical-derivatives.md."""


def points_of(case, precision):
    """The points of a case, with their kinds: numbers of single precision for a function that rounds to these."""
    points = {kind: case.at(kind) for kind in KINDS}
    if precision == SINGLE:
        points = {kind: np.unique(values.astype(np.float32)).astype(np.float64) for kind, values in points.items()}
    kinds = [kind for kind, values in points.items() for _ in values]
    return kinds, np.concatenate([*points.values()])


def promised(case, function, x, derivative, precision):
    """How far derivatives may be off, by docs/numerical-derivatives.md."""
    magnitude = np.maximum(np.abs(x), 1e-2)
    around = np.abs(np.array([function(x + part * magnitude / 8) for part in np.linspace(-1, 1, 9)], np.float64))
    around = np.where(np.isfinite(around), around, 0.0)
    least = np.finfo(np.float32 if precision == SINGLE else np.float64).smallest_normal
    inside = case.inside(x) if callable(case.inside) else case.inside
    resolution = precision * np.maximum(around.max(axis=0), np.maximum(least, inside))
    slopes = np.abs(around[[-1, 0]] - around[[6, 2]]) / (magnitude / 16)
    return 1e-3 * np.abs(derivative) + 512 * resolution / magnitude + 1e-9 * slopes.max(axis=0)


def alternatives(case, function, x, precision):
    """The derivatives of the function without a structure that its values do not resolve; NaN where they do."""
    if case.rough is None:
        return np.full(x.shape, np.nan)
    height, smooth = case.rough(x)
    unit = precision * np.maximum(np.abs(np.float64(function(x))), np.abs(x * smooth))
    is_unseen = (height <= UNSEEN[precision] * unit) | (height <= ROUNDING[precision])
    return np.where(is_unseen, smooth, np.nan)


def by_differences(function, x, values):
    """The numerical derivatives at several points; None where an op would raise."""
    found = Numerical().directional_derivative(
        Function(lambda arrays: [np.asarray(function(*arrays))], [0], [0], [values]), [x], [np.ones(x.shape)]
    )
    is_credible = found.errors[0] <= CREDIBLE * found.scales[0]
    return [value if counts else None for value, counts in zip(found.values[0], is_credible, strict=True)]


def by_complex_step(function, x, values):
    """The same by the complex step."""

    def at(point, value):
        ranked = Function(lambda arrays: [np.asarray(function(*arrays))], [0], [0], [value])
        try:
            found = vjp_from_values(ComplexStep(), ranked, [point], [np.ones(1)], [True])
            for part in DirectionalEstimate.from_vjp(ranked, [point], [np.ones(1)], found):
                ComplexStep().confirm(ranked, part)
        except (GradientError, ValueError):  # scipy.special.factorial raises ValueError for complex numbers
            return None
        return found[0][0]

    return [at(x[n : n + 1], values[n : n + 1]) for n in range(len(x))]


@cache
def outcomes(variant, cases=None):
    """For each point of the first cases: the name, the kind, the point, what came of it, if there is a derivative."""
    method, wrap, precision = VARIANTS[variant]
    differentiate = by_differences if method == "numerical" else by_complex_step
    lines = []
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for case in CASES[:cases]:
            if precision == SINGLE and not case.in_single:
                continue
            function = wrap(case.function)
            kinds, x = points_of(case, precision)
            is_analytic = method == "complex-step" and case.analytic is not None
            values, derivatives = np.asarray(function(x)), (case.analytic if is_analytic else case.derivative)(x)
            found = differentiate(function, x, values)
            others = alternatives(case, function, x, precision)
            allowed = promised(case, function, x, np.where(np.isnan(derivatives), others, derivatives), precision)
            for kind, point, value, derivative, other, got, most in zip(
                kinds, x, values, derivatives, others, found, allowed, strict=True
            ):
                exists = bool(np.isfinite(value) and np.isfinite(derivative))
                outcome = judged(got, value, [derivative, other], most)
                lines.append((case.name, kind, float(point), outcome, exists, got, float(derivative)))
    return lines


def judged(got, value, derivatives, allowed):
    if got is None:
        return "raised"
    if np.isnan(got):
        return "wrong" if np.isfinite(value) else "correct"
    return "correct" if np.isfinite(value) and np.any(np.abs(got - derivatives) <= allowed) else "wrong"


def test_the_corpus_is_large():
    assert len({case.name for case in CASES}) == len(CASES) >= 150
    for kind in KINDS:
        assert sum(len(case.at(kind)) > 0 for case in CASES) >= 75, kind


@pytest.mark.parametrize("variant", [name for name in VARIANTS if "float32" not in name])
def test_derivatives_are_right_or_refused(variant):
    assert [line for line in outcomes(variant, N_QUICK) if line[3] == "wrong"] == []


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_derivative_is_right_or_refused(variant):
    assert {(line[0], line[2]) for line in outcomes(variant) if line[3] == "wrong"} <= KNOWN


@pytest.mark.parametrize(
    ("variant", "least"),
    [
        pytest.param(name, least, marks=pytest.mark.slow if "float32" in name else ())
        for name, least in zip(VARIANTS, [0.99, 0.96, 0.94, 0.8], strict=True)
    ],
    ids=["double", "single", "inside", "complex"],
)
def test_regular_points_are_not_refused(variant, least):
    """Not many: what is refused there are functions with steps or waves too fine to be seen, or not analytic."""
    unseen = {"sine too fast to see", "round to millionths", "expression that cancels"}
    unseen |= {case.name for case in CASES if not case.in_single or re.match(r"1e\+1\d \+ sin", case.name)}
    if variant.startswith('`"complex'):
        unseen |= {case.name for case in CASES if not takes_complex(case)}
    regular = [
        line for line in outcomes(variant, N_QUICK) if line[1] == "regular" and line[4] and line[0] not in unseen
    ]
    assert sum(line[3] == "correct" for line in regular) >= least * len(regular)


def takes_complex(case):
    try:
        with np.errstate(all="ignore"):
            return np.iscomplexobj(case.function(np.array([0.5 + 1e-30j])))
    except (TypeError, ValueError, np.exceptions.ComplexWarning):  # a cast to float32 drops the imaginary part
        return False


@pytest.mark.parametrize("variant", [name for name in VARIANTS if "float32" not in name])
def test_ops_do_what_the_corpus_says(variant):
    method, seen = VARIANTS[variant][0], Counter()
    lines = outcomes(variant, N_QUICK)
    for case in CASES[:N_QUICK:12]:
        op = differentiable_op(
            lambda x, f=case.function: np.asarray(f(x)),
            signature="()->()",
            grad=method,
            name=re.sub(r"\W", "_", f"corpus {case.name} {method}"),
        )
        for _, _, point, outcome, _, got, _ in [line for line in lines if line[0] == case.name]:
            x = tf.constant([point], tf.float64)
            with warnings.catch_warnings(), np.errstate(all="ignore"), tf.GradientTape() as tape:
                warnings.simplefilter("ignore")
                tape.watch(x)
                y = op(x)
            seen[outcome] += 1
            if outcome == "raised":
                with pytest.raises(GradientError), np.errstate(all="ignore"):
                    tape.gradient(y, x)
                continue
            with np.errstate(all="ignore"):
                np.testing.assert_allclose(tape.gradient(y, x).numpy()[0], got, rtol=1e-5, atol=1e-300)
    assert seen["correct"] > 50
    assert seen["raised"] > 5


@pytest.mark.slow
def test_the_page_has_the_counts_of_the_corpus():
    page = PAGE.read_text()
    told = re.search(r"(\d+) functions, with NumPy (\S+) and SciPy (\S+):", page)
    assert int(told[1]) == len(CASES)
    is_same = all(
        written.split(".")[:2] == version.split(".")[:2]
        for written, version in ((told[2], np.__version__), (told[3], scipy.__version__))
    )
    for variant in VARIANTS:
        counts = Counter(line[3] for line in outcomes(variant))
        names = {line[0] for line in outcomes(variant)}
        numbers = [len(names), sum(counts.values()), *(counts[kind] for kind in ("correct", "raised", "wrong"))]
        row = f"| {variant} | {' | '.join(map(str, numbers))} |"
        if is_same:
            assert row in page
        else:  # other versions round differently
            written = re.search(rf"\| {re.escape(variant)} \| \d+ \| (\d+) \| (\d+) \| (\d+) \| \d \|", page)
            assert abs(int(written[2]) - counts["correct"]) <= 0.03 * int(written[1])
