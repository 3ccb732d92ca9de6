"""Domains: what can be written, what lies in them, and what is refused."""

import numpy as np
import pytest

from tfpyop import RegistrationError, differentiable_op
from tfpyop._spec.domain import Domain, Interval


@pytest.mark.parametrize(
    ("text", "interval"),
    [
        ("(0, inf)", Interval(0, np.inf, True, True)),
        ("[-1,1]", Interval(-1, 1)),
        ("[0, 1)", Interval(0, 1, False, True)),
        ("(-inf, 1e3]", Interval(-np.inf, 1000, True, False)),
        ("integers [0, 10]", Interval(0, 10, is_integer=True)),
        ("integers", Interval(is_integer=True)),
    ],
)
def test_intervals_are_read(text, interval):
    assert Interval.parse(text) == interval


@pytest.mark.parametrize(
    "text", ["", "positive", "[0, 1", "[0; 1]", "0, 1", "[a, b]", "[1, 0]", "(1, 1)", "[nan, 1]", "[inf, inf]"]
)
def test_what_is_no_interval_is_refused(text):
    with pytest.raises(RegistrationError, match="domain"):
        Interval.parse(text)


def test_integers_between_two_numbers_may_be_none():
    with pytest.raises(RegistrationError, match="is empty"):
        Interval.parse("integers (0, 1)")


def test_open_ends_are_left_out():
    assert Interval.parse("(0, 1]").contains(np.array([0.0, 0.5, 1, 2])).tolist() == [False, True, True, False]


def test_integers_have_no_fraction():
    assert Interval.parse("integers [0, 3]").contains(np.array([0.5, 1, 4])).tolist() == [False, True, False]


def test_one_text_holds_for_all_inputs_and_a_dict_by_name():
    assert Domain.read("[0, 1]", ["x", "y"]).of("y") == Interval(0, 1)
    domain = Domain.read({"x": "[0, 1]", "y": None}, ["x", "y"])
    assert (domain.of("x"), domain.of("y")) == (Interval(0, 1), Interval())


def test_a_domain_that_names_no_input_is_refused_with_the_nearest_names():
    with pytest.raises(RegistrationError, match=r"'rate', which is not an input[^'].*\n.*'rates'"):
        differentiable_op(lambda rates: rates, domain={"rate": "(0, inf)"})


@pytest.mark.parametrize("domain", [5, ["(0, 1)"], {"x": 5}])
def test_other_things_are_refused(domain):
    with pytest.raises(RegistrationError, match="a string"):
        differentiable_op(lambda x: x, domain=domain)
