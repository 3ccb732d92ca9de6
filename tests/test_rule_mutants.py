"""Mutants of rules: `check_op(op, mutate=True)` makes wrong variants of rules and reports which no check finds."""

import concurrent.futures
import functools
import linecache

import numpy as np
import pytest
import tensorflow as tf

from tfpyop import differentiable_op
from tfpyop.testing import ChecksError, check_op
from tfpyop.testing._mutants import variants_of
from tfpyop.testing._mutation import RuleSources
from tfpyop.testing._rule_source import FunctionSource, LineRecorder, SourceError, innermost, running

_TURN = np.array([[1.0, 2.0], [0.0, 3.0]])


def mutated(op, *checks, max_examples=4, **options):
    checks = checks or ("check_gradient",)
    options = {"modes": ["eager"], "seed": 1, **options}
    return check_op(op, checks=checks, mutate=True, max_examples=max_examples, **options).mutation


def changes(rule, n_inputs=2):
    source = FunctionSource.of(innermost(rule))
    return {(variant.kind, variant.before, variant.after) for variant in variants_of(source, n_inputs=n_inputs)}


def cubed(**rules):
    return differentiable_op(lambda x: x**3, signature="()->()", **rules)


def logged(rule):
    """A decorator that keeps the name of a rule."""

    @functools.wraps(rule)
    def wrapper(*arguments):
        return rule(*arguments)

    return wrapper


def bare(rule):
    """A decorator that does not say what it wraps."""

    def wrapper(*arguments):
        return rule(*arguments)

    return wrapper


# -- what is changed


@pytest.mark.parametrize(
    ("rule", "change"),
    [
        (lambda a, b: a + b, ("sign", "a + b", "a - b")),
        (lambda a, b: a - b, ("dropped term", "a - b", "-b")),
        (lambda a, b: a * b, ("dropped factor", "a * b", "b")),
        (lambda a, b: a * b, ("factor", "a * b", "2 * (a * b)")),
        (lambda a, b: a / b, ("dropped factor", "a / b", "a")),
        (lambda a: -a, ("sign", "-a", "a")),
        (lambda a: a**2, ("exponent", "a ** 2", "a ** 3")),
        (lambda a: np.swapaxes(a, -1, -2), ("dropped swapaxes", "np.swapaxes(a, -1, -2)", "a")),
        (lambda a: a.swapaxes(-1, -2), ("dropped swapaxes", "a.swapaxes(-1, -2)", "a")),
        (lambda a: tf.math.conj(a), ("dropped conj", "tf.math.conj(a)", "a")),
        (lambda a: a.conj(), ("dropped conj", "a.conj()", "a")),
        (lambda a: a.T, ("dropped .T", "a.T", "a")),
        (lambda a: a.sum(-1), ("changed axis", "-1", "-2")),
        (lambda a: np.sum(a, axis=0), ("changed axis", "0", "1")),
        (lambda a: tf.reduce_sum(a, (-2, -1)), ("changed axis", "(-2, -1)", "-2")),
        (lambda a: a[..., None], ("changed axis", "a[..., None]", "a[..., None, :]")),
        (lambda op: op.inputs[1], ("wrong input", "op.inputs[1]", "op.inputs[0]")),
        (lambda op: op.inputs[0], ("output instead of input", "op.inputs[0]", "op.outputs[0]")),
        (lambda a, b: (a, b), ("results in the wrong order", "(a, b)", "(b, a)")),
        (lambda a, b: (a, b), ("dropped result", "b", "None")),
        (lambda a, b: np.where(a > 0, a, b), ("swapped branches", "np.where(a > 0, a, b)", "np.where(a > 0, b, a)")),
        (lambda a, b: np.where(a > 0, a, b), ("opposite comparison", "a > 0", "a < 0")),
        (lambda a, b: a if b else -a, ("swapped branches", "a if b else -a", "-a if b else a")),
        (
            lambda a, b: tf.linalg.matmul(a, b, transpose_a=True),
            ("changed transpose_a", "True", "False"),
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_rule_has_this_mutant(rule, change):
    assert change in changes(rule)


def test_unpacked_inputs_are_swapped():
    def rule(op, grad):
        x, y = op.inputs
        return grad * y, grad * x

    assert ("wrong input", "x, y = op.inputs", "y, x = op.inputs") in changes(rule)


def test_loops_that_may_run_forever_texts_and_errors_have_no_mutants():
    def rule(op, grad):
        """Doubles: a + b."""
        while grad < 1 + 2:
            grad = grad + 1
        if grad is None:
            raise ValueError("no" + " gradient")
        return grad

    assert {before for _, before, _ in changes(rule)} == {"grad"}


def test_every_mutant_is_made_once():
    source = FunctionSource.of(lambda a: -(a * a))
    codes = [variant.code.co_code for variant in variants_of(source, n_inputs=1)]
    assert len(codes) == len(set(codes))


# -- rules of every kind


def _triple(op, grad):
    return 3 * op.inputs[0] ** 2 * grad


RULES = {
    "gradient": (lambda: cubed(grad=lambda op, g: 3 * op.inputs[0] ** 2 * g), "check_gradient"),
    "numpy_gradient": (lambda: cubed(numpy_grad=lambda op, g: 3 * op.inputs[0] ** 2 * g), "check_gradient"),
    "jvp": (lambda: cubed(jvp=lambda op, t: 3 * op.inputs[0] ** 2 * t), "check_jvp"),
    "numpy_jvp": (lambda: cubed(numpy_jvp=lambda op, t: 3 * op.inputs[0] ** 2 * t), "check_jvp"),
    "named": (lambda: cubed(grad=_triple), "check_gradient"),
    "decorated": (lambda: cubed(grad=logged(_triple)), "check_gradient"),
    "decorated without a name": (lambda: cubed(numpy_grad=bare(_triple)), "check_gradient"),
    "partial": (lambda: cubed(grad=functools.partial(_scaled, 3)), "check_gradient"),
    "closure": (lambda: cubed(grad=_closing_over(3)), "check_gradient"),
    "callable object": (lambda: cubed(grad=Scaled(3)), "check_gradient"),
    "method": (lambda: Model(3.0).scaled, "check_gradient"),
    "numpy method": (lambda: Model(3.0).shifted, "check_gradient"),
    "jacobian": (lambda: _with("jacobian", lambda op: 3 * op.inputs[0] ** 2), "check_gradient"),
    "numpy_jacobian": (lambda: _with("numpy_jacobian", lambda op: 3 * op.inputs[0] ** 2), "check_jvp"),
    "adjoint": (lambda: _linear("adjoint", lambda op, g: tf.linalg.matvec(_TURN.T, g)), "check_adjoint"),
    "numpy_adjoint": (lambda: _linear("numpy_adjoint", lambda op, g: g @ _TURN), "check_adjoint"),
}


def _scaled(factor, op, grad):
    return factor * op.inputs[0] ** 2 * grad


def _closing_over(factor):
    def rule(op, grad):
        return factor * op.inputs[0] ** 2 * grad

    return rule


class Scaled:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, op, grad):
        return self.factor * op.inputs[0] ** 2 * grad


class Model:
    def __init__(self, factor):
        self.__factor = factor

    @differentiable_op(signature="()->()")
    def scaled(self, x):
        return self.__factor * x

    @scaled.gradient
    def scaled_gradient(self, op, grad):
        return self.__factor * grad

    @differentiable_op(signature="()->()")
    def shifted(self, x):
        return self.__factor * x

    @shifted.numpy_gradient
    def shifted_gradient(self, op, grad):
        return self.__factor * grad


def _with(kind, rule):
    op = cubed()
    getattr(op, kind)(rule)
    return op


def _linear(kind, rule):
    op = differentiable_op(lambda x: x @ _TURN.T, signature="(2)->(2)", compute_dtype="float64")
    getattr(op, kind)(rule)
    return op


@pytest.mark.parametrize("kind", RULES)
def test_the_mutants_of_a_rule_are_found_and_the_rule_is_restored(kind):
    make, check = RULES[kind]
    op = make()
    [source] = RuleSources.of(op).sources
    code = source.function.__code__
    report = mutated(op, check)
    assert report.unavailable == ()
    assert len(report.mutants) >= 2
    assert [str(mutant) for mutant in report.mutants if mutant.status != "found"] == []
    assert {mutant.check for mutant in report.mutants} == {check}
    assert source.function.__code__ is code


@pytest.mark.slow
def test_mutants_of_the_gradient_of_a_numpy_rule_are_found_by_the_second_order():
    op = cubed()

    @op.numpy_gradient
    def gradient(op, grad):
        return 3 * op.inputs[0] ** 2 * grad

    @gradient.gradient
    def second(op, vector):
        x, _, grad = op.inputs
        return 6 * x * grad * vector, None, 3 * x**2 * vector

    report = mutated(op, "check_gradient", "check_second_order", max_examples=10)
    found = {mutant.check for mutant in report.mutants if mutant.status == "found"}
    assert found == {"check_gradient", "check_second_order"}
    assert report.survivors == []


@pytest.mark.slow
def test_mutants_of_rules_for_some_inputs_are_found():
    op = differentiable_op(lambda x, y: x * y * y, signature="(),()->()")
    op.gradient(lambda op, g: g * op.inputs[1] ** 2, wrt="x")
    op.gradient(lambda op, g: 2 * g * op.inputs[0] * op.inputs[1], wrt="y")
    report = mutated(op, max_examples=30)
    assert len({mutant.location for mutant in report.mutants}) == 2
    assert report.survivors == []


# -- survivors


def test_a_survivor_is_listed_with_its_line():
    op = differentiable_op(lambda x: np.where(x > 1e6, x * x, x), signature="()->()")

    @op.gradient
    def rule(op, grad):
        x = op.inputs[0]
        if tf.executing_eagerly() and bool(tf.reduce_all(x > 1e6)):
            return 2 * x * grad
        return tf.where(x > 1e6, 2 * x * grad, grad)

    report = check_op(op, checks=["check_gradient"], modes=["eager"], max_examples=4, seed=1, mutate=True)
    line = rule.__code__.co_firstlineno + 4
    survivors = report.mutation.survivors
    assert {mutant.location.rpartition(":")[2] for mutant in survivors} == {str(line)}
    assert all(mutant.never_ran for mutant in survivors)
    assert f"test_rule_mutants.py:{line}: sign: 2 * x * grad  ->  -(2 * x * grad) (this line never ran)" in str(report)
    assert f"WARNING: line {line} of " in str(report)
    assert "never ran, in the rule rule. Pass domain= or arguments= that reach it." in str(report)


def test_a_mutant_that_changes_results_a_little_survives():
    op = differentiable_op(lambda x: x * 1.0, signature="()->()", grad=lambda op, g: g + 1e-7 * g)
    survivors = mutated(op).survivors
    assert [(mutant.kind, mutant.after) for mutant in survivors] == [("sign", "g - 1e-07 * g"), ("dropped term", "g")]
    assert not any(mutant.never_ran for mutant in survivors)


def test_a_mutant_without_effect_is_not_a_survivor():
    op = differentiable_op(lambda x: 2 * x, signature="()->()", grad=lambda op, g: 2 * g + 0 * op.inputs[0])
    report = mutated(op)
    assert ("dropped term", "2 * g") in {(m.kind, m.after) for m in report.mutants if m.status == "no effect"}
    assert report.survivors == []
    assert "had no effect" in str(report)


def test_survivors_do_not_fail_the_checks_and_failures_prevent_mutants():
    wrong = cubed(grad=lambda op, g: op.inputs[0] ** 2 * g)
    with pytest.raises(ChecksError, match="No mutants: a check failed; correct the op first"):
        mutated(wrong)


# -- rules without mutants


def _unavailable(op, *checks):
    [reason] = mutated(op, *checks).unavailable
    return reason


def test_a_rule_without_source_says_so():
    rule = eval("lambda op, g: 3 * op.inputs[0] ** 2 * g")
    assert _unavailable(cubed(grad=rule)).endswith(": the source of <string> is not available")


def test_a_tf_function_says_so():
    rule = tf.function(lambda op, g: 3 * op.inputs[0] ** 2 * g, autograph=False)
    with pytest.raises(SourceError, match="remove this decorator from the rule"):
        innermost(rule)


def test_a_rule_in_the_workers_of_an_executor_says_so():
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        op = differentiable_op(
            lambda x: x**3,
            signature="()->()",
            vectorized=False,
            executor=pool,
            numpy_grad=lambda op, g: 3 * op.inputs[0] ** 2 * g,
        )
        assert _unavailable(op).endswith(": the workers of executor= run it, and have only the original rule")


def test_an_op_without_a_rule_says_so():
    assert _unavailable(cubed(grad="numerical")) == "the op has no rule that you wrote"
    assert _unavailable(differentiable_op(lambda x: x, signature="()->()", non_differentiable=True)) == (
        "the op has no rule that you wrote"
    )


def test_checks_that_run_no_rule_say_so():
    reason = _unavailable(cubed(grad=lambda op, g: 3 * op.inputs[0] ** 2 * g), "check_contract")
    assert reason == "no check that runs rules was requested and passed"


def test_a_source_that_has_changed_says_so(tmp_path):
    path = tmp_path / "changed.py"
    path.write_text("def rule(op, g):\n    return 2 * g\n")
    names = {}
    exec(compile(path.read_text(), str(path), "exec"), names)
    assert FunctionSource.of(names["rule"]).node.name == "rule"
    path.write_text("def rule(op, g):\n    return 2 + g\n")
    linecache.clearcache()
    with pytest.raises(SourceError, match="has changed since it was imported"):
        FunctionSource.of(names["rule"])


def test_a_built_in_function_has_no_source():
    with pytest.raises(SourceError, match="not a function in Python code"):
        innermost(np.sin)


# -- the parts


def test_two_lambdas_in_one_line_are_distinguished():
    first, second = (lambda a: a + 1), (lambda a: a * 2)
    assert [FunctionSource.of(one).code_of(FunctionSource.of(one).node).co_consts for one in (first, second)] == [
        first.__code__.co_consts,
        second.__code__.co_consts,
    ]


def test_a_function_has_its_own_code_again_after_an_exception():
    def rule(a):
        return a + 1

    source, code = FunctionSource.of(rule), rule.__code__
    variant = variants_of(source, n_inputs=1)[0]

    def fail():
        with running(rule, variant.code):
            assert rule(1) != 2
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert rule.__code__ is code
    assert rule(1) == 2


def test_lines_that_do_not_run_are_recorded():
    def rule(a, flag):
        """Add."""
        if flag:
            a = a + 1
        for _ in range(0):
            a += 1
        return (lambda b: b)(a)

    recorder = LineRecorder(FunctionSource.of(rule))
    first = rule.__code__.co_firstlineno
    with recorder.recording():
        assert rule(1, False) == 1
    assert recorder.lines_not_run == [first + 3, first + 5]
    with recorder.recording():
        assert rule(1, True) == 2
    assert recorder.lines_not_run == [first + 5]
