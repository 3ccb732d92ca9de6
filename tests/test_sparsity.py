"""`sparsity=` of numerical derivatives: columns of one colour are moved together, and wrong patterns are found."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import sparse

from tests import modes
from tests.test_jacobian import assert_derivatives, weighted_gradient
from tests.texts import exactly
from tfpyop import ContractError, GradientError, RegistrationError, complex_step, differentiable_op, numerical
from tfpyop._numdiff.coloring import Coloring
from tfpyop._numdiff.finite_differences import Numerical
from tfpyop.testing import CheckError, check_sparsity

METHODS = [numerical, complex_step]
methods = pytest.mark.parametrize("method", METHODS)
X = np.array([[1.0, 2, 3, -0.5], [0.5, -1, 2, 100.0]])


def banded(n):
    return sparse.diags([np.ones(n - 1), np.ones(n), np.ones(n - 1)], [-1, 0, 1])


def system(x):
    """A banded system: the neighbours of each unknown."""
    padded = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(1, 1)])
    return np.sin(x) + padded[..., 2:] * x - 3 * padded[..., :-2]


def natively(x):
    padded = tf.pad(x, [[0, 0]] * (x.shape.rank - 1) + [[1, 1]])
    return tf.sin(x) + padded[..., 2:] * x - 3 * padded[..., :-2]


def op_of(method, pattern=banded, **options):
    return differentiable_op(lambda x: system(x), signature="(n)->(n)", grad=method(sparsity=pattern), **options)


@methods
@pytest.mark.parametrize("mode", modes.GRADIENT_MODES)
def test_gradients_in_every_mode(mode, method):
    (found,) = modes.gradient(mode, op_of(method), X)
    (expected,) = modes.gradient("tape, eager", natively, X)
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-8)


@methods
@pytest.mark.parametrize("shape", [(5,), (2, 5), (0, 5), (2, 1, 5), (2, 0), (1,)])
@pytest.mark.parametrize("vectorized", [True, False])
def test_loop_dimensions(method, shape, vectorized):
    x = np.random.default_rng(0).normal(size=shape)
    pattern = banded if shape[-1] else lambda n: np.zeros((n, n))
    assert_derivatives(op_of(method, pattern, vectorized=vectorized), natively, x)


@methods
@pytest.mark.parametrize("vectorized", [True, False, "rows"])
def test_a_pattern_of_sizes_that_functions_compute(method, vectorized):
    seen = []

    def pattern(n, k):
        seen.append((n, k))
        return np.tri(k, n, n - k) - np.tri(k, n, -1)

    def function(x, *, width=2):
        return sum(x[..., i : x.shape[-1] + 1 - width + i] ** 2 for i in range(width))

    op = differentiable_op(
        function,
        signature="(n)->(k)",
        sizes={"k": lambda n, *, width: n + 1 - width},
        grad=method(sparsity=pattern),
        vectorized=vectorized,
    )
    for width in (2, 3):
        counts = np.minimum(np.minimum(np.arange(1, 5), np.arange(4, 0, -1)), width)
        for mode in ("tape, eager", "tape inside", "tape outside, XLA"):
            (found,) = modes.gradient(mode, lambda x, width=width: op(x, width=width), X)
            np.testing.assert_allclose(found, 2 * X * np.minimum(counts, 5 - width), rtol=1e-6)
    assert set(seen) == {(4, 3), (4, 2)}
    assert check_sparsity(op, seed=0, max_examples=5).status == "passed"


@pytest.mark.parametrize(
    ("method", "most", "dense"),
    [(numerical, 4 * 40, 200 * 20), (complex_step, 4 + 60, 200)],
    ids=["numerical", "complex"],
)
def test_a_banded_system_takes_three_colours_and_a_confirmation(monkeypatch, method, most, dense):
    calls, directions = [], []
    op = differentiable_op(
        lambda x: (calls.append(1), system(x))[1], signature="(n)->(n)", grad=method(sparsity=banded)
    )
    x = tf.constant(np.random.default_rng(0).uniform(1, 2, 200))
    if method is numerical:
        original = Numerical.directional_derivative
        monkeypatch.setattr(
            Numerical, "directional_derivative", lambda *given: (directions.append(1), original(*given))[1]
        )
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = op(x)
    calls.clear()
    (expected,) = weighted_gradient(natively, x)
    found = tape.gradient(y, x, output_gradients=tf.range(1, 201, dtype=tf.float64))
    np.testing.assert_allclose(found, expected, rtol=1e-8)
    assert len(calls) <= most < dense
    assert method is complex_step or len(directions) == 4


def test_colours():
    pattern = banded(200).toarray() != 0
    coloring = Coloring.of(pattern)
    assert len(coloring.members) == 3
    assert sorted(np.concatenate(coloring.members)) == list(range(200))
    for members, owner in zip(coloring.members, coloring.owners, strict=True):
        assert (pattern[:, members].sum(axis=1) <= 1).all()
        rows, columns = np.nonzero(pattern[:, members])
        assert (owner[rows] == members[columns]).all()
    assert Coloring.of(np.ones((3, 4), bool)).is_dense
    assert len(Coloring.of(np.zeros((3, 4), bool)).members) == 1


@methods
@pytest.mark.parametrize(
    "pattern",
    [
        banded(4),
        sparse.csr_array(banded(4)),
        banded(4).toarray(),
        banded(4).toarray() != 0,
        lambda **sizes: banded(sizes["n"]),
        True,
    ],
    ids=["dia_matrix", "csr_array", "floats", "bools", "all sizes", "True"],
)
def test_forms_of_a_pattern(method, pattern):
    assert_derivatives(op_of(method, pattern), natively, X)


@methods
def test_inputs_of_very_different_magnitudes(method):
    x = np.logspace(-4, 4, 9)
    (found,) = weighted_gradient(op_of(method), tf.constant(x))
    (expected,) = weighted_gradient(natively, tf.constant(x))
    np.testing.assert_allclose(found, expected, rtol=1e-7)


@methods
def test_several_inputs_and_outputs(method):
    def function(x, k, n):
        return (
            x[..., :, None] * k[..., None, None] + 0 * x[..., None, :],
            x**2 * n[..., None],
            n + 0 * k.real.astype("i4"),
        )

    def pattern(n):
        first = np.zeros((n, n, n))
        first[np.arange(n), :, np.arange(n)] = 1
        return (first, True, None), (sparse.eye(n), None, None), (None, None, None)

    op = differentiable_op(
        function, signature="(n),(),()->(n,n),(n),()", dtype=(None, None, "int32"), grad=method(sparsity=pattern)
    )
    n = np.array([2, 3], "int32")

    def native(x, k):
        return x[..., :, None] * k[..., None, None] + 0 * x[..., None, :], x**2 * tf.cast(n, x.dtype)[..., None]

    assert_derivatives(lambda x, k: op(x, k, n)[:2], native, X, np.array([2.0, 3.0]))


def test_complex_inputs():
    op = op_of(numerical)
    assert_derivatives(op, natively, X[0] + 1j * X[1, ::-1] / 50)


@methods
def test_without_a_signature(method):
    op = differentiable_op(lambda x: system(x), grad=method(sparsity=banded(4)))
    assert_derivatives(op, natively, X[0])


# -- wrong patterns


@methods
@pytest.mark.parametrize(
    "pattern", [np.eye(4), np.eye(4) + np.eye(4, k=1), np.zeros((4, 4)), np.tril(banded(4).toarray())], ids=range(4)
)
@pytest.mark.parametrize("traced", [False, True])
def test_a_wrong_pattern_raises(method, pattern, traced):
    op = op_of(method, pattern)
    differentiate = tf.function(lambda x: weighted_gradient(op, x), autograph=False) if traced else None
    with pytest.raises(
        (GradientError, tf.errors.InvalidArgumentError),
        match=r"the sparsity pattern of input 0 is wrong at this point: core element \d of the outputs depends on",
    ):
        (differentiate or (lambda x: weighted_gradient(op, x)))(tf.constant(X))


@methods
def test_a_pattern_that_saves_nothing_is_not_used(method):
    """Every column has its own colour, so that the missing elements do no harm."""
    assert_derivatives(op_of(method, np.triu(np.ones((4, 4)))), natively, X)


@methods
def test_a_missing_element_of_an_output_without_a_cotangent_does_no_harm(method):
    pattern = banded(4).toarray()
    pattern[3, 2] = 0
    x, cotangent = tf.constant(X), tf.constant([1.0, 2, 3, 0], tf.float64) + tf.zeros_like(X)
    found = []
    for function in (op_of(method, pattern), natively):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
        found.append(tape.gradient(y, x, output_gradients=cotangent))
    np.testing.assert_allclose(*found, rtol=1e-8, atol=1e-8)


def test_the_check_names_the_missing_elements():
    pattern = banded(4).toarray()
    pattern[1, 2] = 0
    with pytest.raises(CheckError, match=r"output 0 at core element \[1\] depends on input 0 at core element \[2\]"):
        check_sparsity(
            differentiable_op(lambda x: system(x), signature="(4)->(4)", grad=numerical(sparsity=pattern)), seed=0
        )
    right = differentiable_op(lambda x: system(x), signature="(4)->(4)", grad=numerical(sparsity=banded(4)))
    assert check_sparsity(right, seed=0).status == "passed"
    assert check_sparsity(differentiable_op(np.sin, grad="numerical", name="tests.sparsity.sin")).status == "skipped"


# -- errors


@methods
def test_a_pattern_of_the_wrong_shape(method):
    op = differentiable_op(lambda x: x[..., :2], signature="(4)->(2)", grad=method(sparsity=np.ones((4, 2))))
    message = (
        r"the sparsity pattern of output 0 by input 0 has the wrong shape.\n  Expected: \[2, 4\]\n"
        r"  Got:      \[4, 2\]\n  Pass the core dimensions of the output by the core dimensions of the input, both "
        r"flattened. The pattern is transposed."
    )
    with pytest.raises(ContractError, match=message):
        weighted_gradient(op, tf.constant(X))


@methods
@pytest.mark.parametrize("pattern", ["banded", 3.0, False, [[1, 0], [0, 1]]], ids=str)
def test_values_that_are_no_pattern(method, pattern):
    text = (
        rf"{method.__name__}\(sparsity=...\) is not a sparsity pattern.\n  Expected: a scipy.sparse matrix or a numpy"
    )
    with pytest.raises(RegistrationError, match=text):
        method(sparsity=pattern)


@pytest.mark.parametrize(
    ("options", "pattern", "message"),
    [
        (
            {"signature": "(n),(n)->(n)"},
            True,
            "sparsity= has the wrong number of patterns.\n  Expected: a tuple of 2 patterns, one for each input\n"
            "  Got:      one bool\n  Pass True where all elements may depend on all elements, and None for no "
            "dependence or integers.",
        ),
        (
            {"signature": "()->()"},
            True,
            "sparsity= has no effect: no input has core dimensions in signature '()->()'.\n  Remove sparsity=. All "
            "elements of loop dimensions are varied at once in any case.",
        ),
        (
            {},
            banded,
            "sparsity= is a function of the sizes in the signature, but the op has no signature.\n  Pass signature= to "
            "differentiable_op, or pass a matrix.",
        ),
    ],
)
def test_patterns_that_do_not_suit_the_op(options, pattern, message):
    with pytest.raises(RegistrationError) as caught:
        differentiable_op(lambda x, y=0: x, grad=numerical(sparsity=pattern), **options)
    assert str(caught.value).endswith(message)


def test_sparsity_is_an_option_of_the_method():
    text = "differentiable_op has no option 'sparsity'.\n  Pass it to the method: grad=tfpyop.numerical(sparsity=...)."
    with pytest.raises(RegistrationError, match=exactly(text)):
        differentiable_op(lambda x: x, grad="numerical", sparsity=np.eye(3))


def test_the_description_names_the_pattern():
    assert 'grad="numerical" with sparsity=' in op_of(numerical).describe()
