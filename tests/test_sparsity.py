"""`sparsity=` of numerical derivatives: columns of one colour are moved together, and wrong patterns are found."""

import re

import numpy as np
import pytest
import tensorflow as tf
from scipy import sparse

from tests import modes
from tests.test_jacobian import assert_derivatives, weighted_gradient
from tests.texts import exactly
from tfpyop import ContractError, GradientError, RegistrationError, complex_step, differentiable_op, numerical
from tfpyop._numdiff.coloring import Coloring
from tfpyop._numdiff.excluded_elements import sets_of
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
    ("method", "fewest", "most"),
    [(numerical, (22 + 16) * 3, (22 + 16) * 3), (complex_step, (1 + 16) * 3, (1 + 16) * 3 + 60)],
    ids=["numerical", "complex"],
)
def test_a_banded_system_takes_three_colours_and_sixteen_calls_to_verify_each(method, fewest, most):
    """A colour of 67 columns is verified by 8 sets. The complex step is also compared with values."""
    calls = []
    op = differentiable_op(
        lambda x: (calls.append(1), system(x))[1], signature="(n)->(n)", grad=method(sparsity=banded)
    )
    x = tf.constant(np.random.default_rng(0).uniform(1, 2, 200))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = op(x)
    calls.clear()
    (expected,) = weighted_gradient(natively, x)
    found = tape.gradient(y, x, output_gradients=tf.range(1, 201, dtype=tf.float64))
    np.testing.assert_allclose(found, expected, rtol=1e-8)
    assert fewest <= len(calls) <= most


@pytest.mark.parametrize("n", [1, 2, 3, 6, 7, 70, 71])
def test_sets_that_move_columns_without_any_other_column(n):
    sets = sets_of(n)
    members = np.array([np.isin(np.arange(n), chosen) for chosen in sets])
    alone = (members[:, :, None] & ~members[:, None, :]).any(axis=0)
    assert members.any(axis=0).all()
    assert (alone | np.eye(n, dtype=bool)).all()
    assert len(sets) == {1: 1, 2: 2, 3: 3, 6: 4, 7: 5, 70: 8, 71: 9}[n]


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


def gradient_of_row(op, x, row):
    x = tf.constant(x, tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = op(x)[row]
    return tape.gradient(y, x)


@methods
@pytest.mark.parametrize("scale", [1e-12, 1, 1e4, 1e12])
def test_a_missing_element_is_noticed_beside_a_row_of_another_scale(method, scale):
    def function(x):
        return np.stack([np.exp(x[..., 0]) * scale, np.sin(x[..., 1]) + np.sin(x[..., 2]), x[..., 2]], -1)

    wrong = differentiable_op(function, signature="(n)->(n)", grad=method(sparsity=np.eye(3)))
    with pytest.raises(GradientError, match="core element 1 of the outputs depends on further elements"):
        gradient_of_row(wrong, [0.5, 0.7, 0.3], 1)
    right = differentiable_op(function, signature="(n)->(n)", grad=method(sparsity=np.eye(3) + np.eye(3, k=1)))
    found = gradient_of_row(right, [0.5, 0.7, 0.3], 1)
    np.testing.assert_allclose(found, [0, np.cos(0.7), np.cos(0.3)], rtol=1e-9)


@methods
@pytest.mark.parametrize("large", [1, 1e3, 1e6, 1e9])
@pytest.mark.parametrize("slope", [1, 100])
def test_a_missing_element_is_noticed_beside_a_large_input_of_its_row(method, large, slope):
    matrix = np.array([[1.0, slope], [0, 1]])
    wrong = differentiable_op(lambda x: x @ matrix.T, signature="(n)->(n)", grad=method(sparsity=np.eye(2)))
    with pytest.raises(GradientError, match="core element 0 of the outputs depends on further elements"):
        gradient_of_row(wrong, [large, 1.0], 0)
    right = differentiable_op(
        lambda x: x @ np.diag(np.diag(matrix)), signature="(n)->(n)", grad=method(sparsity=np.eye(2))
    )
    np.testing.assert_allclose(gradient_of_row(right, [large, 1.0], 0), [1, 0], rtol=1e-9)


def by_fft(x):
    """The second difference of a periodic function. Each row has rounding errors of all elements."""
    kernel = np.zeros(x.shape[-1])
    kernel[[0, 1, -1]] = -2, 1, 1
    return np.fft.irfft(np.fft.rfft(x) * np.fft.rfft(kernel), x.shape[-1])


def in_single_precision(x):
    return by_fft(np.float32(x)).astype(np.float32)


@pytest.mark.parametrize("function", [by_fft, in_single_precision])
def test_rounding_errors_do_not_contradict_a_right_pattern(function):
    n = 24
    pattern = np.eye(n) + np.roll(np.eye(n), 1, 0) + np.roll(np.eye(n), -1, 0)
    op = differentiable_op(lambda x: function(x), signature="(n)->(n)", grad=numerical(sparsity=pattern))
    x = tf.constant(np.random.default_rng(0).uniform(1, 2, (3, n)))
    (found,) = weighted_gradient(op, x)
    (expected,) = weighted_gradient(lambda x: tf.roll(x, 1, -1) + tf.roll(x, -1, -1) - 2 * x, x)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


@methods
def test_inputs_next_to_the_end_of_a_domain(method):
    """The first move of the verification leaves the domain, and a shorter one does not."""

    def function(x):
        if np.any(x.real > 1):
            raise ValueError("outside")
        return np.sqrt(1 - x)

    x = np.array([0.5, 0.99, 0.999])
    right = differentiable_op(lambda x: function(x), signature="(n)->(n)", grad=method(sparsity=np.eye(3)))
    np.testing.assert_allclose(gradient_of_row(right, x, 2), [0, 0, -0.5 / np.sqrt(1 - x[2])], rtol=1e-6)
    wrong = differentiable_op(
        lambda x: function(x) + 0.1 * np.roll(x, 1, -1), signature="(n)->(n)", grad=method(sparsity=np.eye(3))
    )
    with pytest.raises(GradientError, match="core element 2 of the outputs depends on further elements"):
        gradient_of_row(wrong, x, 2)


@methods
def test_a_pattern_that_cannot_be_verified_raises(method):
    """The elements must move together, so that nothing shows on which of them the first row depends."""

    def function(x):
        return np.stack([np.where(x[..., 0] == x[..., 1], x[..., 0], np.nan), x[..., 1]], -1)

    op = differentiable_op(function, signature="(n)->(n)", grad=method(sparsity=np.eye(2)))
    with pytest.raises(
        GradientError,
        match="cannot verify the sparsity pattern of input 0: the function raises or is not finite while elements that "
        "the pattern excludes for core element 0 of the outputs move",
    ):
        gradient_of_row(op, [2.0, 2.0], 0)


@methods
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("pattern", [np.eye(3), None], ids=["sparse", "dense"])
def test_rows_that_are_not_finite_have_the_derivative_nan(method, value, pattern):
    options = {} if pattern is None else {"sparsity": pattern}
    op = differentiable_op(lambda x: x**2, signature="(n)->(n)", grad=method(**options))
    (found,) = weighted_gradient(op, tf.constant([value, 1.0, 2.0], tf.float64))
    assert np.isnan(found[0])
    if pattern is not None:
        (expected,) = weighted_gradient(lambda x: x**2, tf.constant([0.0, 1.0, 2.0], tf.float64))
        np.testing.assert_allclose(found[1:], expected[1:], rtol=1e-9)


@methods
def test_a_row_outside_its_domain_has_the_derivative_nan(method):
    def logarithm(x):
        with np.errstate(all="ignore"):
            return np.log(x)

    op = differentiable_op(lambda x: logarithm(x), signature="(n)->(n)", grad=method(sparsity=np.eye(3)))
    found = weighted_gradient(op, tf.constant([[-1.0, 1, 2], [3, 4, -5]], tf.float64))[0].numpy()
    assert np.argwhere(np.isnan(found)).tolist() == [[0, 0], [1, 2]]


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


@pytest.mark.parametrize("scale", [1e-12, 1, 1e12, 1e16])
@pytest.mark.parametrize("slope", [1, 1e-9])
def test_the_check_compares_every_row_on_its_own_scale(scale, slope):
    def function(x):
        return np.stack([np.exp(x[..., 0]) * scale, np.sin(x[..., 1]) + slope * x[..., 2], x[..., 2]], -1)

    wrong = differentiable_op(lambda x: function(x), signature="(3)->(3)", grad=numerical(sparsity=np.eye(3)))
    with pytest.raises(CheckError, match=r"output 0 at core element \[1\] depends on input 0 at core element \[2\]"):
        check_sparsity(wrong, seed=0, max_examples=5)
    pattern = np.eye(3) + np.eye(3, k=1)
    right = differentiable_op(lambda x: function(x), signature="(3)->(3)", grad=numerical(sparsity=pattern))
    assert check_sparsity(right, seed=0, max_examples=5).status == "passed"


@pytest.mark.parametrize("function", [by_fft, in_single_precision])
def test_the_check_accepts_rounding_errors(function):
    n = 24
    pattern = np.eye(n) + np.roll(np.eye(n), 1, 0) + np.roll(np.eye(n), -1, 0)
    op = differentiable_op(lambda x: function(x), signature="(24)->(24)", grad=numerical(sparsity=pattern))
    assert check_sparsity(op, seed=0).status == "passed"


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
@pytest.mark.parametrize("make", [np.eye, sparse.eye_array], ids=["dense", "sparse"])
def test_a_fixed_pattern_for_a_size_that_varies_says_how_to_fix_the_size(method, make):
    op = differentiable_op(lambda x: x**2, signature="(n)->(n)", grad=method(sparsity=make(200)))
    message = (
        "\n  Expected: [1, 1]\n  Got:      [200, 200]\n  Pass the core dimensions of the output by the core dimensions "
        "of the input, both flattened. This pattern fits one size only: write the sizes in the signature, such as "
        "(200)->(200), or pass a function of n."
    )
    with pytest.raises(ContractError, match=re.escape(message)):
        weighted_gradient(op, tf.constant([1.0], tf.float64))
    op = differentiable_op(lambda x: x**2, signature="(n)->(n)", grad=method(sparsity=lambda n: make(200)))
    with pytest.raises(ContractError) as caught:
        weighted_gradient(op, tf.constant([1.0], tf.float64))
    assert "one size only" not in str(caught.value)


@methods
def test_a_function_of_sizes_that_raises_names_the_sizes(method):
    def banded(n):
        return sparse.diags_array([np.ones(n), np.ones(n - 2), np.ones(n - 2)], offsets=[0, 2, -2], shape=(n, n))

    op = differentiable_op(lambda x: x**2, signature="(n)->(n)", grad=method(sparsity=banded))
    message = (
        "the function in sparsity= raised an exception.\n  Expected: a pattern for n=1\n"
        "  Got:      ValueError: negative dimensions are not allowed\n  Return a pattern for every size that the op "
        "supports, also for small sizes. If the op supports one size only, write it in the signature: (200)->(200)."
    )
    with pytest.raises(ContractError, match=re.escape(message)) as caught:
        weighted_gradient(op, tf.constant([1.0], tf.float64))
    assert isinstance(caught.value.__cause__, ValueError)


@methods
@pytest.mark.parametrize("pattern", [(2, 2), [(0, 1), (1, 0)]], ids=str)
def test_an_invalid_pattern_is_shown_as_it_was_passed(method, pattern):
    with pytest.raises(RegistrationError, match=rf"\n  Got:      {re.escape(repr(pattern))}\n"):
        method(sparsity=pattern)


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
        (
            {"signature": "(n),()->(k)"},
            lambda size: None,
            "the function in sparsity= takes 'size', which is not a size that is known before the op is called.\n"
            "  Expected: names of input sizes in signature '(n),()->(k)', or of sizes that sizes= computes\n"
            "  Known: 'n'.",
        ),
        (
            {"signature": "(n),()->(n)"},
            lambda n, /: None,
            "the function in sparsity= takes 'n' by position only.\n  It is called with the sizes by name: remove the "
            "/ from its parameters.",
        ),
        (
            {"signature": "(n),()->(n)"},
            max,
            "cannot read the parameters of the function in sparsity=.\n  Got:      <built-in function max>\n"
            "  Wrap it in a function whose parameters are names of the signature.",
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
