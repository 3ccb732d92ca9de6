import dataclasses
import json
import re
import time
from collections import OrderedDict
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfpyop._spec.tree import LEAF, TreeSpec, flat, flatten


class Pair(NamedTuple):
    first: Any
    second: Any


@dataclasses.dataclass
class Point:
    x: Any
    y: Any = 0


leaves = st.integers() | st.text() | st.lists(st.integers(), max_size=2)
keys = st.text(max_size=3)


def portable(children):
    return st.lists(children, max_size=3).map(tuple) | st.dictionaries(keys, children, max_size=3)


def any_kind(children):
    pairs = st.builds(Pair, children, children) | st.builds(Point, children, children)
    return portable(children) | pairs | st.dictionaries(st.integers(), children, max_size=3)


portable_values = st.recursive(st.none() | leaves, portable, max_leaves=10)
values = st.recursive(st.none() | leaves, any_kind, max_leaves=10)
properties = settings(deadline=None)


def structure_of(value):
    return flatten(value)[1]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, [1]),
        (None, []),
        ((), []),
        ((1, 2), [1, 2]),
        ((1, (2, None, (3,))), [1, 2, 3]),
        ({"b": 1, "a": (2, 3)}, [2, 3, 1]),
        ({2: "two", 1: "one"}, ["one", "two"]),
        (Pair(1, {"a": 2}), [1, 2]),
        (Point(1, Pair(2, 3)), [1, 2, 3]),
        ([1, (2, 3)], [[1, (2, 3)]]),
        ((Point, Pair), [Point, Pair]),
        ("text", ["text"]),
    ],
)
def test_values_are_taken_apart_in_the_order_of_tf_nest(value, expected):
    assert flatten(value)[0] == expected


def test_leaves_are_the_objects_that_were_given():
    array = np.ones(3)
    (leaf,), _ = flatten({"a": (array,)})
    assert leaf is array


@properties
@given(values)
def test_pack_undoes_flatten(value):
    found, structure = flatten(value)
    assert repr(structure.unflatten(found)) == repr(value)  # which shows types and the order of dicts too


@properties
@given(values)
def test_a_structure_flattens_the_value_it_came_from(value):
    found, structure = flatten(value)
    assert structure.flatten_as(value) == found
    assert structure.n_leaves == len(found)


@dataclasses.dataclass(frozen=True, slots=True)
class Model:
    """A dataclass that cannot be made by calling it with its fields."""

    scale: Any
    double: Any = dataclasses.field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "double", 2 * self.scale)


def test_a_dataclass_is_made_from_its_fields_without_being_called():
    found, structure = flatten(Model(3))
    assert found == [3, 6]
    model = structure.unflatten([4, "any"])
    assert (type(model), model.scale, model.double) == (Model, 4, "any")


@pytest.mark.parametrize(
    "value",
    [{"b": 1, "a": 2}, ({"b": {"d": 1, "c": 2}, "a": 3},), OrderedDict(b=1, a=2), Point({"b": 1, "a": 2}, 3)],
)
def test_a_dict_is_packed_in_the_order_it_had(value):
    found, structure = flatten(value)
    packed = structure.unflatten(found)
    assert str(packed) == str(dict(value) if isinstance(value, OrderedDict) else value)


@properties
@given(portable_values)
def test_structures_of_tuples_and_dicts_go_through_json(value):
    structure = structure_of(value)
    text = json.dumps(structure.to_json(), sort_keys=True)  # sorted, and still in order
    assert TreeSpec.from_json(json.loads(text)) == structure


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, "leaf"),
        (None, "none"),
        ((), []),
        ({}, {"dict": []}),
        ((1, None, (2,)), ["leaf", "none", ["leaf"]]),
        ({"b": 1, "a": ()}, {"dict": [["b", "leaf"], ["a", []]]}),
        ({"leaf": None}, {"dict": [["leaf", "none"]]}),
        ({"dict": {"b": 1, "a": 2}}, {"dict": [["dict", {"dict": [["b", "leaf"], ["a", "leaf"]]}]]}),
    ],
)
def test_a_structure_is_written_as_plain_json(value, expected):
    assert structure_of(value).to_json() == expected


@pytest.mark.parametrize("value", [Pair(1, 2), Point(1, 2), (1, {"a": Pair(1, 2)}), {1: 2}])
def test_other_types_cannot_be_written_as_json(value):
    with pytest.raises(ValueError, match=r"^only tuples and dicts with text keys can be written as JSON$"):
        structure_of(value).to_json()


@pytest.mark.parametrize(
    ("value", "same"),
    [
        ((1, 2), ("a", "b")),
        ({"a": 1, "b": 2}, OrderedDict(a=3, b=4)),
        (Pair(1, 2), Pair(3, 4)),
        ((None, [1, 2]), (None, 1)),
    ],
)
def test_values_arranged_alike_have_equal_structures(value, same):
    assert structure_of(value) == structure_of(same)
    assert hash(structure_of(value)) == hash(structure_of(same))


@pytest.mark.parametrize(
    ("value", "other"),
    [
        (1, (1,)),
        ((1, 2), (1, 2, 3)),
        (1, None),
        ((), {}),
        ({"a": 1}, {"b": 1}),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ((1, 2), Pair(1, 2)),
    ],
)
def test_values_arranged_differently_have_different_structures(value, other):
    assert structure_of(value) != structure_of(other)


def test_in_a_declaration_none_is_a_leaf():
    found, structure = flatten((None, {"a": None}), is_declaration=True)
    assert found == [None, None]
    assert structure.unflatten([1, 2]) == (1, {"a": 2})


def test_in_a_declaration_a_dict_keeps_its_order():
    found, structure = flatten({"b": 1, "a": {"d": 2, "c": 3}}, is_declaration=True)
    assert found == [1, 2, 3]
    assert structure.flatten_as({"a": {"c": "c", "d": "d"}, "b": "b"}) == ["b", "d", "c"]
    assert str(structure.unflatten("xyz")) == "{'b': 'x', 'a': {'d': 'y', 'c': 'z'}}"


def test_keys_that_have_no_order_are_refused_but_in_a_declaration():
    value = {1: "one", "b": "two"}
    with pytest.raises(TypeError, match=r"^the keys of a dict cannot be sorted, so its values have no order$"):
        flatten((1, value))
    assert flatten(value, is_declaration=True)[0] == ["one", "two"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, True),
        ((), True),
        ((1, 2), True),
        (None, False),
        ((1, None), False),
        ((1, (2,)), False),
        ({"a": 1}, False),
        (Pair(1, 2), False),
    ],
)
def test_a_leaf_and_a_tuple_of_leaves_are_flat(value, expected):
    assert structure_of(value).is_flat is expected


@pytest.mark.parametrize("n_leaves", [0, 1, 3])
def test_flat_is_the_structure_of_a_tuple_of_leaves(n_leaves):
    assert flat(n_leaves) == structure_of((1,) * n_leaves)


@pytest.mark.parametrize(
    ("like", "value", "expected"),
    [
        (1, (1, {"a": 2}), [(1, {"a": 2})]),
        (1, None, [None]),
        ((1, 2), [3, [4, 5]], [3, [4, 5]]),
        ((1, (2, 3)), (4, [5, 6]), [4, 5, 6]),
        ((1, 2), Pair(3, 4), [3, 4]),
        (Pair(1, 2), (3, 4), [3, 4]),
        (Point(1, 2), (3, 4), [3, 4]),
        (Point(1, (2, 3)), Point(4, [5, 6]), [4, 5, 6]),
        ({"a": 1, "b": 2}, OrderedDict(b=3, a=4), [4, 3]),
        ((1, None), (2, None), [2]),
    ],
)
def test_a_value_of_another_type_is_flattened_if_it_is_arranged_alike(like, value, expected):
    assert structure_of(like).flatten_as(value) == expected


@pytest.mark.parametrize(
    ("like", "value", "message"),
    [
        ((1, 2), 3, "expected 2 values, got an int"),
        ((1, 2), np.zeros(2), "expected 2 values, got an ndarray"),
        ((1, 2), {"a": 1, "b": 2}, "expected 2 values, got a dict"),
        ((1, 2), Point(1, 2), "expected 2 values, got a Point"),
        ((1, 2), None, "expected 2 values, got a NoneType"),
        ((1, 2), "ab", "expected 2 values, got a str"),
        ((1, 2), (1, 2, 3), "expected 2 values, got 3"),
        ((1, (2, 3)), (1, (2,)), "expected 2 values, got 1"),
        ({"a": 1}, (1,), "expected a dict, got a tuple"),
        ({"a": 1, "b": 2}, {"b": 1, "c": 2}, "expected keys 'a', 'b', got keys 'b', 'c'"),
        ({"a": 1}, {"a": 1, "b": 2}, "expected keys 'a', got keys 'a', 'b'"),
        ((1, None), (1, 2), "expected None, got an int"),
    ],
)
def test_a_value_arranged_differently_is_reported(like, value, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        structure_of(like).flatten_as(value)


def test_a_subclass_of_tuple_that_is_no_namedtuple_is_refused():
    with pytest.raises(TypeError, match=r"^a struct_time, a subclass of tuple that is not a namedtuple$"):
        flatten((1, time.gmtime(0)))


@pytest.mark.parametrize("structure", [LEAF, flat(2), structure_of({"a": (1, None)})])
def test_pack_takes_one_value_for_each_leaf(structure):
    with pytest.raises(AssertionError, match=f"^0 leaves for a structure of {structure.n_leaves}$"):
        structure.unflatten([])
