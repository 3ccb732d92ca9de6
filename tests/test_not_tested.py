"""What the reports of checks say was not tested."""

import enum
import warnings
from typing import Literal, Optional

import numpy as np
import pytest
from hypothesis import strategies as st

from tfpyop import differentiable_op
from tfpyop.testing import NotTested, Report, UntestedWarning, arguments, check_contract, check_op
from tfpyop.testing._static import static_choices


class Side(enum.Enum):
    LEFT = 1
    RIGHT = 2


def contract(op, **options):
    return check_op(op, checks=["check_contract"], modes=["eager"], **{"max_examples": 20, "seed": 1, **options})


def summed(x, *, axis=-1, scale: int = 2):
    return scale * x.sum(axis)


def options_of(function):
    return static_choices(differentiable_op(function, signature="()->()", non_differentiable=True))


def test_a_static_option_that_never_varied_is_a_warning_and_the_op_passes():
    op = differentiable_op(summed, signature="(n)->()", non_differentiable=True)
    with pytest.warns(UntestedWarning) as caught:
        report = contract(op)
    text = (
        "static parameter 'axis' was -1 in all examples. Annotate it (bool, int, Literal, an Enum), or pass "
        "arguments=arguments(op, axis=st.sampled_from([...]))."
    )
    assert [str(warning.message) for warning in caught] == [f"{op.name}: {text}"]
    assert caught[0].filename == __file__
    assert [(str(part), part.option) for part in report.warnings] == [(text, "axis")]
    assert f"WARNING: {text}" in str(report).splitlines()
    assert report.failures == []


def test_a_static_option_that_varied_is_no_warning():
    op = differentiable_op(summed, signature="(n)->()", non_differentiable=True)
    report = contract(op, arguments=arguments(op, axis=st.sampled_from([-1, (-1,)])))
    assert report.warnings == []
    assert len(report.outcomes[0].drawn.static["scale"]) == 2


def test_options_are_drawn_by_their_annotations():
    def function(
        x,
        *,
        flag: bool = False,
        n: int = 2,
        kind: Literal["a", "b"] = "a",
        side: Side = Side.LEFT,
        maybe: Optional[Literal["c"]] = None,  # noqa: UP045 - both notations
        either: bool | None = None,
        text: str = "t",
        other: int | str = 3,
    ):
        return x

    assert options_of(function) == {
        "flag": [False, True],
        "n": [2, 1, 3],
        "kind": ("a", "b"),
        "side": [Side.LEFT, Side.RIGHT],
        "maybe": ["c", None],
        "either": [False, True, None],
    }


@pytest.mark.parametrize(
    ("default", "choices"),
    [(1, [1, 2, 3]), (0, [0, 1, 2, 3]), (-1, [-1, -2, 0, 1, 2, 3]), (7, [7, 6, 8, 1, 2, 3])],
)
def test_integers_near_the_default_are_drawn(default, choices):
    def function(x, *, n: int = default):
        return x

    assert options_of(function) == {"n": choices}


def test_an_integer_without_default_is_small():
    def function(x, *, n: int):
        return x

    assert options_of(function) == {"n": [1, 2, 3]}


def test_an_option_with_one_possible_value_is_no_warning():
    def function(x, *, kind: Literal["only"] = "only"):
        return x

    report = contract(differentiable_op(function, signature="()->()", non_differentiable=True))
    assert report.warnings == []


def test_a_destination_is_not_an_option():
    def function(x, *, out=None):
        return np.multiply(x, 2, out=out)

    report = contract(differentiable_op(function, signature="()->()", non_differentiable=True))
    assert report.warnings == []


def test_inputs_that_were_not_drawn_are_named():
    op = differentiable_op(lambda x: 2 * x, signature="()->()", non_differentiable=True)
    report = contract(op)
    assert report.not_tested == (NotTested("complex inputs"), NotTested("NaN"), NotTested("sizes above 3"))
    assert str(report).splitlines()[1] == "Not tested: complex inputs; NaN; sizes above 3."


def test_complex_inputs_of_an_op_with_complex_outputs_name_the_call_that_draws_them():
    op = differentiable_op(lambda x: 2j * x, signature="()->()", dtype="complex128", non_differentiable=True)
    part = 'complex inputs, which arguments(op, dtypes=["complex128"]) draws'
    assert str(contract(op).not_tested[0]) == part


def test_inputs_that_were_drawn_are_not_named():
    op = differentiable_op(lambda x: 2 * x, signature="()->()", non_differentiable=True)
    drawn = arguments(op, dtypes=["complex64", "float32"], allow_nan=True, max_side=5)
    outcome = check_contract(op, arguments=drawn, max_examples=100, seed=1, modes=["eager"])
    (part,) = map(str, outcome.not_tested)
    assert part in ("sizes above 4", "sizes above 5")  # the largest size need not be drawn
    assert outcome.drawn.kinds == {"c", "f"}


def test_a_domain_excludes_complex_numbers_and_nan():
    op = differentiable_op(lambda x: 2 * x, signature="()->()", non_differentiable=True, domain="[0, 1]")
    assert [str(part) for part in contract(op).not_tested] == ["sizes above 3"]


def test_integers_have_no_nan():
    op = differentiable_op(lambda x: 2 * x, signature="()->()", non_differentiable=True, domain="integers (-inf, inf)")
    assert [str(part) for part in contract(op).not_tested] == ["sizes above 3"]


def test_what_one_of_the_checks_drew_was_tested():
    op = differentiable_op(summed, signature="(n)->()", non_differentiable=True)
    first = check_contract(op, arguments=arguments(op, axis=st.just(-1)), max_examples=5, seed=1, modes=["eager"])
    second = check_contract(op, arguments=arguments(op, axis=st.just((-1,))), max_examples=5, seed=1, modes=["eager"])
    assert [part.option for part in first.not_tested if part.is_warning] == ["axis"]
    joined = first.drawn.joined(second.drawn)
    assert joined.n_examples == first.drawn.n_examples + second.drawn.n_examples
    assert joined.static["axis"] == ("-1", "(-1,)")
    assert not any(part.is_warning for part in joined.not_tested(op))


def test_lines_of_a_rule_that_never_ran_are_named_without_a_python_warning():
    op = differentiable_op(lambda x: 2 * x, signature="()->()")

    @op.numpy_gradient
    def rule(op, grad):
        if grad.size > 10**6:
            grad = grad + 0
            return grad + grad
        return 2 * grad

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = check_op(op, checks=["check_gradient"], modes=["eager"], max_examples=4, seed=1)
    line = rule.numpy.__code__.co_firstlineno + 3
    [part] = report.warnings
    assert part.what.startswith(f"lines {line}-{line + 1} of ")
    assert part.what.endswith("test_not_tested.py never ran, in the rule rule")


def test_a_rule_that_no_check_ran_is_named_only_if_all_checks_ran():
    op = differentiable_op(lambda x: 2 * x, signature="()->()", jvp=lambda op, tangent: 2 * tangent)
    assert all("never ran" not in str(part) for part in contract(op).not_tested)


def test_a_report_without_examples_names_nothing():
    op = differentiable_op(lambda x: 2 * x, signature="()->()", non_differentiable=True)
    report = check_op(op, checks=["check_gradient"])
    assert report.not_tested == ()
    assert str(Report(report.outcomes)) == str(report)
