"""The checks: what they say, what they pass over, and how misuse is told."""

import re
from typing import Literal

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import ops
from tfpyop import RegistrationError, UnsupportedError, differentiable_op
from tfpyop._lowering.xla.compilation import is_compiling
from tfpyop.testing import (
    CHECKS,
    Arguments,
    CheckError,
    ChecksError,
    arguments,
    check_batching,
    check_contract,
    check_gradient,
    check_op,
    check_parity,
    check_purity,
    check_second_order,
    cotangents,
    make_test_class,
)
from tfpyop.testing._call_checks import require_equal
from tfpyop.testing._check_runner import CheckRunner
from tfpyop.testing._threads_check import _repeated

EXAMPLES = settings(max_examples=50, deadline=None)


@EXAMPLES
@given(arguments(ops.mod, dtypes=["float32", "float64"], allow_nan=True))
def test_the_code_of_a_call_makes_its_arguments_again(drawn):
    again = eval(drawn.code("list_of"), {"np": np, "tf": tf, "list_of": lambda *args: args})
    for wanted, got in zip(drawn.tensors, again, strict=True):
        np.testing.assert_array_equal(got, wanted)
        assert np.asarray(got).dtype == wanted.numpy().dtype


def test_a_failure_reads_as_a_report():
    op = differentiable_op(lambda x: x * x, signature="()->()", name="squared")
    op.gradient(lambda op, grad: -2 * op.inputs[0] * grad)
    with pytest.raises(CheckError) as raised:
        check_gradient(op, seed=1)
    lines = str(raised.value).splitlines()
    assert lines[0].startswith("op 'squared' (tests/test_testing.py:")
    assert lines[0].endswith("the cotangent of input 0 (x) is wrong at element [].")
    assert lines[1].startswith("  Expected: ")
    assert lines[2].startswith("  Got:      ")
    assert lines[3:5] == ["  Found by: check_gradient, mode eager", "  Likely:   the wrong sign"]
    assert lines[5] == "  Shown by:"
    assert "        outputs = tf.nest.flatten(squared(*args))" in [line.removeprefix("    ") for line in lines[6:]]


def test_the_script_of_a_failure_of_rows_draws_these_rows(capsys):
    def total(x):
        return np.zeros_like(x) + x.sum()

    op = differentiable_op(total, signature="()->()")
    with pytest.raises(CheckError, match="vectorized_map differs from a loop") as failure:
        check_batching(op, seed=1)
    exec(failure.value.code, {"total": op})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("vectorized_map differs from a loop")
    assert [line.split()[0] for line in lines[1:]] == ["expected", "got"]


def test_a_drawn_call_that_does_not_fit_the_signature_is_not_blamed_on_the_function():
    op = differentiable_op(lambda x, y: x * y, signature="(n),(n)->(n)")
    drawn = arguments(op, x=st.just(np.ones(5, np.float32)))
    with pytest.raises(CheckError, match=r"a drawn call does not match the signature\.") as failure:
        check_contract(op, arguments=drawn, seed=1)
    assert failure.value.cause == (
        "inputs that depend on each other were drawn separately: draw them together, with one strategy of Arguments"
    )


def test_what_an_op_calls_wrongly_is_a_mistake_of_its_function():
    inner = differentiable_op(lambda x, y: x + y, signature="(n),(n)->(n)")
    op = differentiable_op(lambda x: inner(np.zeros(2), np.zeros(3)).numpy(), signature="()->()")
    with pytest.raises(CheckError, match=r"the function breaks the contract of the op\."):
        check_contract(op, seed=1)


def test_rows_that_differ_because_the_function_draws_numbers_have_this_cause():
    draw = np.random.default_rng(1)
    op = differentiable_op(lambda x: x + draw.random(x.shape), signature="()->()")
    with pytest.raises(CheckError) as failure:
        check_batching(op, seed=1)
    assert failure.value.cause == "the function keeps state or draws random numbers: declare stateful=True"


def test_rows_may_differ_by_the_order_of_a_sum():
    draw = np.random.default_rng(2)
    first, second = draw.normal(size=(3, 256)).astype(np.float32), draw.normal(size=256).astype(np.float32)
    op = differentiable_op(lambda x: np.tanh(x @ first) @ second, signature="(3)->()")
    check_batching(op, arguments=vectors_of_three(), max_examples=50, seed=1)


def vectors_of_three():
    numbers = st.lists(st.floats(-1, 1, width=32), min_size=3, max_size=3)
    return numbers.map(lambda drawn: Arguments((np.float32(drawn),)))


def test_a_failure_shows_a_call_by_the_name_of_the_op():
    def wrong(op, cotangent):
        return (-cotangent,)

    op = differentiable_op(lambda x: x, signature="()->()", grad=wrong, name="tests.testing:same")
    with pytest.raises(CheckError) as failure:
        check_gradient(op, seed=1)
    assert "tf.nest.flatten(same(*args))" in failure.value.code


@pytest.mark.parametrize("check", [check_batching, check_purity])
def test_inputs_that_must_be_in_order_are_not_rejected(check):
    def interpolate(x):
        if (np.diff(x) <= 0).any():
            raise ValueError("x must increase")
        return x

    op = differentiable_op(interpolate, signature="(n)->(n)", vectorized=False)
    increasing = st.floats(0, 1, width=32).map(lambda first: Arguments((np.float32([first, first + 1, first + 2]),)))
    outcome = check(op, arguments=increasing, max_examples=10, seed=1)
    assert (outcome.n_examples, outcome.n_rejected) == (10, 0)


def test_all_failures_are_reported():
    op = differentiable_op(lambda x: x.sum(), signature="()->()", grad=lambda op, grad: grad * np.nan)
    with pytest.raises(ChecksError, match="checks failed") as raised:
        check_op(op, max_examples=20)
    assert {failure.check for failure in raised.value.report.failures} >= {"check_contract", "check_gradient"}


def test_what_does_not_apply_is_skipped_with_a_reason():
    op = differentiable_op(lambda x: x, signature="()->()")
    assert CHECKS["check_gradient"](op).reason == "the op has no gradient rule"
    assert CHECKS["check_jvp"](op).status == "skipped"


def test_a_numpy_rule_without_a_rule_of_its_own_has_no_second_derivative():
    assert "the numpy rule has no gradient rule" in check_second_order(ops.numpy_mod, max_examples=20).reason


def test_points_that_are_not_smooth_are_rejected_and_counted():
    op = differentiable_op(lambda x: np.abs(x), signature="()->()", grad=lambda op, grad: grad * tf.sign(op.inputs[0]))
    outcome = check_gradient(op, seed=1)
    assert outcome.status == "passed"
    assert outcome.n_rejected > 0


@pytest.mark.slow
def test_a_function_that_is_smooth_nowhere_fails_the_check():
    op = differentiable_op(lambda x: np.floor(1e9 * x) % 7, signature="()->()", grad=lambda op, grad: 0 * grad)
    with pytest.raises(CheckError, match="inconclusive: too many examples were rejected"):
        check_gradient(op, seed=1, arguments=arguments(op, dtypes=["float64"], domain="[1, 2]", allow_empty=False))


def test_a_function_that_refuses_everything_fails_the_check():
    def refuse(x):
        raise ValueError("not today")

    with pytest.raises(CheckError, match=r"the function raised for most examples\.[^$]*ValueError: not today"):
        check_contract(differentiable_op(refuse, signature="()->()"), seed=1)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"checks": ["check_gradiant"]}, "check"),
        ({"checks": "check_gradiant"}, "check 'check_gradiant'"),
        ({"modes": ["egaer"]}, "mode"),
        ({"modes": "egaer"}, "mode 'egaer'"),
        ({"checks": [check_op]}, "check 'check_op'"),
    ],
)
def test_unknown_names_are_reported(options, word):
    with pytest.raises(RegistrationError, match=f"unknown {word}"):
        check_op(ops.exp, **options)


def test_one_check_and_one_mode_are_enough():
    for check in ("check_parity", check_parity, [check_parity, "check_parity"]):
        [outcome] = check_op(ops.exp, checks=check, modes="Graph", max_examples=3).outcomes
        assert (outcome.check, outcome.n_examples) == ("check_parity", 3)


@pytest.mark.parametrize("count", [0, "5", 5.0, True])
def test_an_invalid_number_of_examples_is_refused(count):
    with pytest.raises(
        RegistrationError, match=rf"max_examples= is not a positive integer\.(?s:.*)Got:      {count!r}"
    ):
        check_contract(ops.exp, max_examples=count)


def test_a_function_that_refuses_everything_is_not_called_for_long():
    calls = []
    op = differentiable_op(lambda p: calls.append(1) or p["a"], non_differentiable=True)
    with pytest.raises(
        CheckError,
        match=r"the function raised for 90 of 90 examples, the last time with "
        r"IndexError(?s:.*)pass strategies by name",
    ):
        check_contract(op)
    assert len(calls) < 100


def test_a_static_parameter_may_be_called_as_an_option_of_strategies_is():
    def order(x, *, allow_nan: bool = True):
        return np.sort(x, axis=-1) if allow_nan else x

    op = differentiable_op(order, signature="(n)->(n)", non_differentiable=True)
    assert check_batching(op, max_examples=5).status == "passed"


@pytest.mark.slow
def test_a_rule_may_return_indexed_slices():
    op = differentiable_op(
        lambda x: x[..., :1] ** 2,
        signature="(n)->(1)",
        grad=lambda op, g: (
            2 * op.inputs[0] * tf.pad(g, [[0, 0]] * (len(g.shape) - 1) + [[0, tf.shape(op.inputs[0])[-1] - 1]])
        ),
    )
    assert check_op(op, checks=[check_gradient, check_second_order], max_examples=10)


def test_rows_of_python_numbers_are_what_calls_make_of_them():
    op = differentiable_op(lambda p: p["a"] * p["b"], non_differentiable=True)
    drawn = arguments(op, p=st.fixed_dictionaries({"a": st.just(1.0), "b": st.floats(0, 1)}))
    assert check_batching(op, arguments=drawn, max_examples=3).status == "passed"


@pytest.mark.parametrize(
    ("use", "problem"),
    [
        (lambda: make_test_class("my_ops"), "'my_ops' is not an op"),
        (
            lambda: make_test_class([Scale.scaled]),
            r"the op is an unbound "
            r"method(?s:.*)make_test_class\(instance\.method\)",
        ),
        (lambda: make_test_class([ops.exp], arguments=arguments(ops.exp)), "arguments= is not a dict"),
        (lambda: make_test_class([ops.exp], modes=["egaer"]), "unknown mode 'egaer'"),
        (lambda: make_test_class([ops.exp], seed="a"), "seed= is not an integer"),
        (lambda: make_test_class([ops.exp], max_examples=-1), "max_examples= is not a positive integer"),
        (lambda: check_op(ops.exp, modes=3), "modes= is not a sequence of mode names"),
        (lambda: check_op(ops.exp, checks=3), "unknown check 3"),
        (lambda: check_op(ops.exp, seed=[1]), "seed= is not an integer"),
        (lambda: check_contract(ops.exp, arguments=st.just(Arguments((1.0,), None))), "an example is not"),
        (lambda: cotangents(ops.exp, Arguments((1.0,)), largest="a"), "largest= is not a number"),
        (lambda: check_op(ops), r"To check all ops of a module, use make_test_class\(module\)"),
    ],
)
def test_misuse_of_check_op_is_refused(use, problem):
    with pytest.raises(RegistrationError, match=problem):
        use()


@pytest.mark.parametrize(
    ("drawn", "problem"),
    [
        (st.just(Arguments(3)), r"an example is not an instance of Arguments\."),
        (
            st.just(3),
            r"an example is not an instance of Arguments\.\n  Got:      3\n  Use a strategy of tfpyop\.testing",
        ),
        (
            Arguments((1.0,)),
            r"arguments= is not a Hypothesis strategy\.\n  Got:      Arguments[^$]*Pass the result of tfpyop",
        ),
    ],
)
def test_invalid_arguments_are_refused(drawn, problem):
    with pytest.raises(RegistrationError, match=problem):
        check_contract(ops.exp, arguments=drawn)


def test_a_seed_makes_examples_the_same():
    first, second = ([], [])
    for seen in (first, second):
        op = differentiable_op(
            lambda x, seen=seen: seen.append(x.tolist()) or x, signature="()->()", static_argnames="seen"
        )
        check_parity(op, seed=7, max_examples=5, modes=["eager"], arguments=arguments(op, seen=st.just(seen)))
    assert str(first) == str(second)


def test_failures_can_be_pickled():
    import pickle

    failure = CheckError("wrong.", check="check_gradient", mode="eager", cause="a sign", code="f(1)", subject="op 'f'")
    assert str(pickle.loads(pickle.dumps(failure))) == str(failure)


def test_a_failure_shows_the_error_of_the_difference():
    op = differentiable_op(np.sin, signature="()->()", grad=lambda op, g: -g * tf.cos(op.inputs[0]))
    with pytest.raises(CheckError, match=r"Expected: \S+ \+- \de-\d\d by differences"):
        check_gradient(op, seed=1)


def test_a_cotangent_that_is_not_reduced_is_diagnosed():
    op = differentiable_op(lambda x, b: x + b[..., None, :], signature="(m,n),(n)->(m,n)", grad=lambda op, g: (g, g))
    with pytest.raises(
        CheckError,
        match=r"not a valid cotangent of an input(?s:.*)Likely:   the cotangent still has dimensions that broadcasting",
    ):
        check_gradient(op, seed=1)


def test_the_reported_cause_fits_more_than_the_simplest_example():
    op = differentiable_op(np.sin, signature="()->()", grad=lambda op, g: g * tf.sin(op.inputs[0]))
    with pytest.raises(CheckError) as caught:  # at 0, the rule returns zero
        check_gradient(op, seed=1)
    assert caught.value.cause is None


@pytest.mark.parametrize("rule", [lambda op, g: g, lambda op, g: g - tf.reduce_mean(g)])
def test_a_function_that_mixes_loop_dimensions_is_diagnosed(rule):
    op = differentiable_op(lambda x: x - x.mean(), signature="()->()", grad=rule)
    x = np.array([0.0, 1616.75, 0.0])  # where differences are not precise for all outputs: the second rule is right
    with pytest.raises(CheckError, match="Likely:   the function mixes loop dimensions"):
        check_gradient(op, seed=1, arguments=arguments(op, x=st.just(x)))


@pytest.mark.parametrize(
    ("rule", "cause"),
    [
        (lambda op, g: g * op.outputs[0], "a conjugate is missing or superfluous"),
        (lambda op, g: -g * tf.math.conj(op.outputs[0]), "the wrong sign"),
    ],
)
def test_complex_cotangents_are_diagnosed(rule, cause):
    op = differentiable_op(np.exp, signature="()->()", grad=rule)
    with pytest.raises(CheckError, match=f"Likely:   {cause}"):
        check_gradient(op, seed=1, arguments=arguments(op, dtypes="complex128", largest=10))


@pytest.mark.slow
def test_a_function_that_works_in_single_precision_inside_is_not_blamed():
    op = differentiable_op(
        lambda x: np.sin(x.astype(np.float32)).astype(x.dtype),
        signature="()->()",
        grad=lambda op, g: g * tf.cos(op.inputs[0]),
    )
    with pytest.raises(CheckError, match=r"inconclusive(?s:.*)computes in single precision"):
        check_gradient(op, seed=1)


def _in_single(x, k):
    return x * np.sin(k.astype(np.float32)).astype(x.dtype)


def _only_precise_by_x(**rules):
    return differentiable_op(_in_single, signature="(),()->()", domain={"x": "[1, 2]", "k": "[2, 3]"}, **rules)


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("factor", [0, 1, 1000])
def test_an_input_that_was_never_judged_is_reported_after_few_examples(factor, mode):
    op = _only_precise_by_x(grad=lambda op, g: (g * tf.sin(op.inputs[1]), factor * g * op.inputs[0]))
    problem = r"inconclusive: the cotangent of input 1 \(k\) could not be judged in any example"
    with pytest.raises(CheckError, match=problem):
        check_gradient(op, seed=1, max_examples=3, modes=mode)


@pytest.mark.slow
def test_an_input_that_has_no_derivative_need_not_be_judged():
    op = _only_precise_by_x(grad=lambda op, g: (g * tf.sin(op.inputs[1]), None))
    assert check_gradient(op, seed=1, max_examples=20).status == "passed"


def _beside_single(x):
    return x * x, np.sin(x.astype(np.float32)).astype(x.dtype)


@pytest.mark.parametrize("check", [check_gradient, CHECKS["check_jvp"]])
def test_an_output_that_was_never_judged_is_reported(check):
    op = differentiable_op(
        _beside_single,
        signature="()->(),()",
        domain="[1, 2]",
        grad=lambda op, a, b: 2 * a * op.inputs[0] + 1000 * b,
        jvp=lambda op, t: (2 * t * op.inputs[0], 1000 * t),
    )
    with pytest.raises(CheckError, match="inconclusive: the derivative of output 1 could not be judged"):
        check(op, seed=1, max_examples=5)


@pytest.mark.slow
def test_a_second_derivative_that_was_never_judged_is_reported():
    op = differentiable_op(lambda x, y: x * x + y, signature="(),()->()", domain="[1, 2]")

    def in_single(x):
        return np.sin(x.astype(np.float32)).astype(x.dtype)

    inner = differentiable_op(in_single, signature="()->()", grad=lambda op, g: g)
    op.gradient(lambda op, g: (2 * g * op.inputs[0], g * inner(op.inputs[1])))
    with pytest.raises(CheckError, match="inconclusive: the derivative of the cotangent of input 1 could not be"):
        check_second_order(op, seed=1, max_examples=5)


def _refusing(x):
    if np.any(x < 0):
        raise ValueError("negative")
    return x * x


@pytest.mark.slow
def test_a_function_may_raise_beyond_a_closed_end_of_its_domain():
    op = differentiable_op(
        _refusing,
        signature="()->()",
        domain="[0, inf)",
        grad=lambda op, g: 2 * op.inputs[0] * g,
        jvp=lambda op, t: 2 * op.inputs[0] * t,
    )
    assert check_op(op, checks=["check_gradient", "check_jvp", "check_second_order"], seed=1)


@pytest.mark.slow
def test_a_rule_may_raise_where_there_is_no_derivative():
    op = differentiable_op(lambda a: tuple(np.linalg.slogdet(a)), signature="(n,n)->(),()", compute_dtype="float64")
    op.numpy_gradient(lambda op, s, g: g[..., None, None] * np.swapaxes(np.linalg.inv(op.inputs[0]), -1, -2))
    assert check_op(op, checks=["check_gradient", "check_second_order"], seed=1)


@pytest.mark.slow
def test_kinks_where_several_inputs_meet_are_not_judged():
    op = differentiable_op(
        lambda x, low, high: np.clip(x, low, high),
        signature="(),(),()->()",
        domain={"low": "[-1, 0]", "high": "[0, 1]"},
    )

    @op.gradient
    def gradient(op, g):
        x, low, high = op.inputs
        zero = tf.zeros_like(g)
        return (
            tf.where((x > low) & (x < high), g, zero),
            tf.where(x <= low, g, zero),
            tf.where((x >= high) & (x > low), g, zero),
        )

    for seed in range(3):
        assert check_gradient(op, seed=seed, modes="eager").status == "passed"


def test_what_subnormal_numbers_lose_is_not_judged():
    op = differentiable_op(
        lambda x, y: x * y, signature="(),()->()", grad=lambda op, g: (g * op.inputs[1], g * op.inputs[0])
    )
    drawn = arguments(op, x=st.floats(-5, 5), y=st.floats(-5, 5) | st.just(2.2e-309))
    assert check_gradient(op, arguments=drawn, seed=1, modes="eager").status == "passed"


@pytest.mark.slow
def test_second_derivatives_that_cancel_within_a_rule_are_not_judged_by_what_is_left():
    def softmax(x):
        powers = np.exp(x - x.max(-1, keepdims=True))
        return powers / powers.sum(-1, keepdims=True)

    op = differentiable_op(softmax, signature="(n)->(n)")
    op.gradient(lambda op, g: op.outputs[0] * (g - tf.reduce_sum(g * op.outputs[0], -1, keepdims=True)))
    drawn = st.just(Arguments((np.array([0.0, 32.0]),))) | arguments(op, dtypes="float64", allow_empty=False)
    assert check_second_order(op, arguments=drawn, seed=1).status == "passed"


@pytest.mark.slow
@pytest.mark.parametrize("check", [check_gradient, check_second_order])
def test_a_rule_that_raises_where_there_is_no_derivative_is_not_blamed(check):
    singular = np.array([[1.5, -1.0, -1.0], [0.09375, 0.0, 0.0], [-1.0, 0.0, 0.0]])
    assert np.isfinite(ops.solve.numpy(singular, np.zeros(3))).all()  # by rounding
    drawn = st.just(Arguments((singular, np.zeros(3)))) | arguments(ops.solve, dtypes="float64", allow_empty=False)
    outcome = check(ops.solve, arguments=drawn, seed=1, max_examples=10)
    assert "no second derivative" in str(outcome.reason) or outcome.n_rejected > 0


def test_one_example_without_a_second_derivative_does_not_hide_the_others():
    def function(x, *, kind: Literal["a", "b"]):
        return x * x

    op = differentiable_op(function, signature="()->()")

    @op.gradient
    def gradient(op, g):
        if op.static.kind == "a":
            return g * tf.stop_gradient(2 * op.inputs[0])  # wrong, for second derivatives
        return g * tf.numpy_function(lambda x: 2 * x, [op.inputs[0]], op.inputs[0].dtype)

    with pytest.raises(CheckError, match="the second derivative is wrong"):
        check_second_order(op, seed=1, max_examples=20)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_small_numbers_that_differ_are_not_the_same(dtype):
    small = float(np.finfo(dtype).smallest_normal) * 2
    check = CheckRunner(ops.exp, "check_parity", max_examples=1, seed=1)
    with pytest.raises(CheckError, match="they differ in output 0, element"):
        require_equal(check, [np.full(2, small, dtype)], [np.full(2, 1.5 * small, dtype)], "they differ")


def test_bfloat16_that_is_not_a_number_is_not_taken_for_written_to():
    op = differentiable_op(lambda x: x, signature="()->()", non_differentiable=True)
    drawn = arguments(op, dtypes=tf.bfloat16, allow_nan=True)
    assert check_purity(op, arguments=drawn, max_examples=50, seed=1).status == "passed"


def test_a_profile_limits_costly_modes_too():
    calls = []
    op = differentiable_op(lambda x: calls.append(1) or x, signature="()->()", non_differentiable=True)
    settings.register_profile("one", max_examples=1)
    settings.load_profile("one")
    try:
        assert check_contract(op, modes="XLA", seed=1).n_examples == 1
    finally:
        settings.load_profile("default")


@pytest.mark.parametrize("check", CHECKS.values())
def test_every_check_refuses_an_unknown_mode(check):
    with pytest.raises(RegistrationError, match="unknown mode 'egaer'"):
        check(ops.exp, modes=["egaer"])


def test_ops_with_given_names_are_distinguished_by_them():
    op = differentiable_op(lambda x: x, signature="()->()", name="squared.by.name", non_differentiable=True)
    made = make_test_class(op, arguments={"squared.by.name": arguments(op)})
    assert "test_squared_by_name_check_contract_eager" in vars(made)


@pytest.mark.slow
def test_a_step_function_is_not_taken_for_one_of_single_precision():
    op = differentiable_op(np.floor, signature="()->()", grad=lambda op, g: 0 * g)
    assert check_gradient(op, seed=1).status == "passed"


@pytest.mark.slow
def test_a_gradient_that_is_wrong_under_xla_only_says_so():
    op = differentiable_op(
        lambda x: x * x, signature="()->()", grad=lambda op, g: (1 if is_compiling() else 2) * op.inputs[0] * g
    )
    with pytest.raises(CheckError, match=r"Found by: check_gradient, mode XLA\n  Likely:   a factor of 2 is missing"):
        check_gradient(op, seed=1)
    assert check_gradient(op, seed=1, modes=["eager", "graph"]).status == "passed"


class Scale:
    @differentiable_op(signature="()->()")
    def scaled(self, x):
        return 3 * x

    @scaled.gradient
    def scaled_gradient(self, op, cotangent):
        return 3 * cotangent


@pytest.mark.slow
def test_methods_are_checked_by_instance():
    assert check_op(Scale().scaled, max_examples=5, seed=1)
    with pytest.raises(UnsupportedError, match=r"the op is an unbound method(?s:.*)check_op\(instance\.method\)"):
        check_op(Scale.scaled)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["int32", "bool", "uint8"])
def test_derivatives_of_what_has_none_are_skipped(dtype):
    op = differentiable_op(lambda x: x & x, signature="()->()", grad=lambda op, g: g)
    for check in (check_gradient, check_second_order):
        outcome = check(op, arguments=arguments(op, dtypes=[dtype]), max_examples=10, seed=1)
        assert outcome.status == "skipped"
        assert "nothing to differentiate" in outcome.reason


def test_integer_outputs_have_no_derivatives_to_check():
    op = differentiable_op(lambda x: np.sign(x).astype(int), signature="()->()", dtype=int, grad=lambda op, g: g)
    assert "nothing to differentiate" in check_gradient(op, max_examples=10, seed=1).reason


def test_rows_of_stateful_ops_are_skipped():
    op = differentiable_op(lambda x: x, signature="()->()", stateful=True, non_differentiable=True)
    assert "stateful" in check_batching(op).reason


@pytest.mark.parametrize(
    "use", [check_op, arguments, check_gradient, make_test_class, lambda op: make_test_class([op])]
)
def test_an_object_that_is_not_an_op_is_refused(use):
    with pytest.raises(
        RegistrationError, match=r"<ufunc 'sin'> is not an op\.\n  Pass an op that differentiable_op returned"
    ):
        use(np.sin)


@pytest.mark.slow
def test_where_the_derivative_is_infinite_nothing_is_judged():
    op = differentiable_op(np.sqrt, signature="()->()", domain="[0, inf)", grad=lambda op, g: g * 0.5 / op.outputs[0])
    for check in (check_gradient, check_second_order):
        assert check(op, seed=1).status == "passed"


@pytest.mark.slow
@pytest.mark.parametrize("domain", ["[5e6, inf)", "integers [2000000, 3000000]", "(-inf, -1e9]"])
def test_domains_beyond_the_usual_magnitudes_are_drawn_near_their_end(domain):
    op = differentiable_op(lambda x: x * 1, signature="()->()", domain=domain, grad=lambda op, g: g)
    assert check_contract(op, max_examples=20, seed=1).status == "passed"
    assert check_gradient(op, max_examples=20, seed=1).status in ("passed", "skipped")


def test_a_result_that_differs_now_and_then_is_reported():
    calls = []
    op = differentiable_op(
        lambda x: (calls.append(1), x + (len(calls) % 7 == 0))[1], signature="()->()", non_differentiable=True
    )
    with pytest.raises(ChecksError, match="checks failed") as caught:
        check_op(op, checks=["check_parity", "check_purity"], seed=1)
    assert all(isinstance(failure, CheckError) for failure in caught.value.report.failures)


def test_stateful_results_are_not_compared():
    op = differentiable_op(
        lambda x: x + np.random.default_rng().normal(), signature="()->()", stateful=True, non_differentiable=True
    )
    assert check_op(op, max_examples=5, seed=1)


def test_the_call_of_a_lambda_can_be_pasted():
    op = differentiable_op(lambda x: x * x, signature="()->()", grad=lambda op, g: g)
    with pytest.raises(CheckError, match=r"Shown by:\n(?s:.*)tf\.nest\.flatten\(op\(\*args\)\)"):
        check_gradient(op, seed=1)


@pytest.mark.parametrize("options", [{"modes": []}, {"checks": []}])
def test_nothing_to_do_is_an_error(options):
    with pytest.raises(RegistrationError, match=r"(modes|checks)= is empty\.\n  Pass some of"):
        check_op(ops.exp, **options)


def test_a_gradient_in_no_mode_is_skipped():
    assert check_gradient(ops.exp, modes=["native"]).reason == "none of the modes applies to this op"


@pytest.mark.slow
def test_a_check_that_could_draw_nothing_says_so():
    op = differentiable_op(lambda x: x[..., 5:], signature="(n)->(n-5)", non_differentiable=True)
    with pytest.raises(CheckError, match=r"no example could be drawn(?s:.*)max_side=10"):
        check_contract(op, seed=1)
    assert check_contract(op, arguments=arguments(op, max_side=12), max_examples=10, seed=1).status == "passed"


def test_ops_of_text_are_pure():
    op = differentiable_op(
        lambda s: np.char.str_len(s.astype(bytes)).astype(np.int64), signature="()->()", dtype="int64"
    )
    drawn = st.just(Arguments((np.array([b"a", b"bcd"], object),)))
    assert check_purity(op, arguments=drawn, max_examples=5, seed=1).status == "passed"


def test_threads_get_no_new_dimension_where_one_is_missing():
    op = differentiable_op(lambda x, y: np.matmul(x, y), signature="(n?,k),(k,m?)->(n?,m?)")
    x, y = np.ones((1,)), np.ones((1, 3))
    assert _repeated(op, Arguments((x, y), {}), 512) is None  # (20000, 1) would be a matrix
    assert _repeated(op, Arguments((x[None], y), {}), 512).args[0].shape == (6667, 1, 1)


def test_check_op_prints_each_line_when_the_check_ends(capsys):
    printed = []
    op = differentiable_op(lambda x: printed.append(capsys.readouterr().out) or x, signature="()->()", grad=None)
    check_op(op, checks=["check_purity", "check_contract"], modes="eager", max_examples=3, seed=1, verbose=True)
    assert re.match(r"check_purity +passed: 3 examples, \d+\.\d s\n$", "".join(printed))
    assert re.match(r"check_contract +passed: ", capsys.readouterr().out)


def test_check_gradient_calls_the_rule_once_for_all_inputs_of_an_example():
    calls = []
    op = differentiable_op(lambda x, y: x * y, signature="(),()->()")

    @op.gradient
    def rule(op, g):
        calls.append(1)
        return g * op.inputs[1], g * op.inputs[0]

    outcome = check_gradient(op, modes="graph", seed=1)
    assert len(calls) <= outcome.n_examples + outcome.n_rejected
