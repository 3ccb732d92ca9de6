import json
import re
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.texts import exactly
from tfpyop._spec.parameters import Parameters
from tfpyop._spec.tree import flatten
from tfpyop.errors import RegistrationError, SignatureError, UnsupportedError


class Pair(NamedTuple):
    first: object
    second: object


class Opaque:
    """A callable whose parameters Python cannot tell, as of many C functions."""

    __signature__ = "none"

    def __call__(self, *args, **kwargs):
        return args, kwargs


class Model:
    def method(self, x, y, *, n=2):
        return "method", x, y, n


def one(x):
    return x


def two(x, y=0.5):
    return x, y


def keyword_only(x, *, n, mode="same"):
    return x, n, mode


def mixed(x, n, y, mode="same"):
    return x, n, y, mode


def static_by_default(x, mode="same", y=2.0, function=np.sin, *others):
    return x, mode, y, function, others


def optional(x, y=None, z=None):
    return x, y, z


def variadic(x, *others, n=2):
    return x, others, n


def static_first(n, *xs):
    return n, xs


def options(x, /, **values):
    return x, values


def nothing():
    return "nothing"


CALLS = [
    (one, [], [1], {}, [1], {}),
    (one, [], [], {"x": 1}, [1], {}),
    (two, [], [], {"y": 2, "x": 1}, [1, 2], {}),
    (two, [], [1], {}, [1, 0.5], {}),
    (two, [], [[1, 2]], {}, [[1, 2], 0.5], {}),
    (two, [], [(1, {"b": 3, "a": 2}), None], {}, [1, 2, 3], {}),
    (optional, [], [1], {}, [1], {}),
    (optional, [], [1, 2], {}, [1, 2], {}),
    (optional, [], [1, None, 3], {}, [1, 3], {}),
    (optional, [], [1], {"z": 3}, [1, 3], {}),
    (static_by_default, [], [1], {}, [1, 2.0], {"mode": "same", "function": np.sin}),
    (static_by_default, [], [1], {"mode": "full", "y": 3}, [1, 3], {"mode": "full", "function": np.sin}),
    (static_by_default, [], [1, "full", 3, np.cos, 4], {}, [1, 3, 4], {"mode": "full", "function": np.cos}),
    (static_by_default, ["y"], [1, "full"], {}, [1], {"mode": "full", "y": 2.0, "function": np.sin}),
    (mixed, [], [1, 2, 3], {}, [1, 2, 3], {"mode": "same"}),
    (two, ["y"], [1], {}, [1], {"y": 0.5}),
    (two, ["y"], [1, 2], {}, [1], {"y": 2}),
    (two, ["x"], [1, 2], {}, [2], {"x": 1}),
    (keyword_only, [], [1], {"n": 3}, [1], {"n": 3, "mode": "same"}),
    (keyword_only, [], [1], {"n": 3, "mode": (1, 2)}, [1], {"n": 3, "mode": (1, 2)}),
    (mixed, ["n", "mode"], [1, 2, 3], {}, [1, 3], {"n": 2, "mode": "same"}),
    (mixed, ["n", "mode"], [1, 2, 3, "full"], {}, [1, 3], {"n": 2, "mode": "full"}),
    (mixed, ["n", "mode"], [1], {"y": 3, "n": 2}, [1, 3], {"n": 2, "mode": "same"}),
    (variadic, [], [1], {}, [1], {"n": 2}),
    (variadic, [], [1, 2, (3, 4)], {"n": 4}, [1, 2, 3, 4], {"n": 4}),
    (static_first, ["n"], [1, 2, 3], {}, [2, 3], {"n": 1}),
    (options, [], [1], {"n": 2, "m": 3}, [1], {"n": 2, "m": 3}),
    (options, ["n"], [1], {"n": 2}, [1], {"n": 2}),
    (nothing, [], [], {}, [], {}),
    (Model().method, [], [1, 2], {"n": 3}, [1, 2], {"n": 3}),
    (np.hypot, [], [3.0, 4.0], {}, [3.0, 4.0], {}),
    (Opaque(), [], [1, 2], {"n": 3}, [1, 2], {"n": 3}),
]


def packed(division):
    """The inputs of a divided call, arranged as they were given."""
    return division.leaves if division.tree is None else division.tree.unflatten(division.leaves)


def nested(inputs):
    """The structure of inputs; None if it says nothing."""
    structure = flatten(inputs)[1]
    return None if structure.is_flat else structure


@pytest.mark.parametrize(("function", "static_argnames", "args", "kwargs", "leaves", "static"), CALLS)
def test_positional_parameters_are_tensors_and_the_others_static(
    function, static_argnames, args, kwargs, leaves, static
):
    division = Parameters.of(function, static_argnames).bind(args, kwargs, None)
    assert (division.leaves, division.static) == (leaves, static)


@pytest.mark.parametrize(("function", "static_argnames", "args", "kwargs", "leaves", "static"), CALLS)
def test_a_divided_call_is_assembled_again(function, static_argnames, args, kwargs, leaves, static):
    parameters = Parameters.of(function, static_argnames)
    division = parameters.bind(args, kwargs, None)
    tensors, keywords = parameters.call_arguments(packed(division), division.static)
    assert function(*tensors, **keywords) == function(*args, **kwargs)


@pytest.mark.parametrize(
    ("default", "given", "n_inputs", "leaves"),
    [
        (0.5, [1], 1, [1]),
        (0.5, [1], 2, [1, 0.5]),
        (0.5, [1], None, [1, 0.5]),
        (0.5, [1, float("0.5")], 1, [1]),
        (0.5, [(1, 2)], 2, [1, 2]),
        ({"a": 3, "b": 4}, [1], 1, [1]),
        ({"a": 3, "b": 4}, [1], 3, [1, 3, 4]),
        (2, [1, int("2")], 1, [1]),
        (True, [1, True], 1, [1]),
        (None, [1], None, [1]),
        (None, [1], 1, [1]),
        (None, [1, None], 1, [1]),
        (None, [1, 2], None, [1, 2]),
    ],
)
def test_a_default_is_an_input_if_the_signature_has_room(default, given, n_inputs, leaves):
    def function(x, y=default): ...

    division = Parameters.of(function, []).bind(given, {}, n_inputs)
    assert division.leaves == leaves
    assert default is not None or division.tree is None


@pytest.mark.parametrize(("default", "given"), [(2, 2.0), (1, True), (0.5, np.float64(0.5)), (0.5, None)])
def test_a_value_that_only_equals_the_default_is_none(default, given):
    def function(x, y=default): ...

    leaves = Parameters.of(function, []).bind([1, given], {}, None).leaves
    assert [type(leaf) for leaf in leaves[1:]] == ([] if given is None else [type(given)])
    if given is not None:
        with pytest.raises(SignatureError, match="wrong number of inputs"):
            Parameters.of(function, []).bind([1, given], {}, 1)


def test_defaults_are_left_out_from_the_right():
    def function(x, y=1.0, z=None, w=2.0): ...

    parameters = Parameters.of(function, [])
    assert [parameters.bind([0], {}, n_inputs).leaves for n_inputs in (None, 3, 2, 1)] == [
        [0, 1.0, 2.0],
        [0, 1.0, 2.0],
        [0, 1.0],
        [0],
    ]


@pytest.mark.parametrize(
    "default",
    [
        "same",
        b"same",
        np.float32,
        np.dtype("f4"),
        len,
        object(),
        ("a", 1),
        {"mode": "same"},
        (None, np.sin),
        {1: "keys that", "have": "no order"},
    ],
)
def test_a_parameter_whose_default_makes_no_tensor_is_static(default):
    def function(x, option=default): ...

    parameters = Parameters.of(function, [])
    assert [parameter.name for parameter in parameters.tensors] == ["x"]
    assert parameters.bind([1], {}, None).static == {"option": default}
    assert parameters.bind([1, "other"], {}, None).static == {"option": "other"}


@pytest.mark.parametrize(
    "default", [1, 0.5, 1j, True, None, np.float32(1), np.ones(2), [1, 2], (1, None), {"a": (1.0, 2)}, Pair(1, 2), ()]
)
def test_a_parameter_whose_default_makes_tensors_is_an_input(default):
    def function(x, y=default): ...

    parameters = Parameters.of(function, [])
    assert [parameter.name for parameter in parameters.tensors] == ["x", "y"]
    assert parameters.bind([1, 2], {}, None).leaves == [1, 2]


WRONG_COUNTS = [
    (one, [1], {}, 2, "1: x"),
    (one, [1], {}, 0, "1: x"),
    (two, [1], {}, 3, "2: x, y"),
    (two, [1, 2], {}, 1, "2: x, y"),
    (two, [None, 2], {}, 2, "1: x (None: no input), y"),
    (two, [(), 2], {}, 2, "1: x ((): no input), y"),
    (two, [(1, 2), {"a": 3}], {}, 2, "3: x (2 inputs), y"),
    (optional, [1], {}, 2, "1: x"),
    (optional, [1, None, 2], {}, 3, "2: x, y (None: no input), z"),
    (variadic, [1], {}, 2, "1: x"),
    (variadic, [1, 2, (3, 4)], {}, 2, "4: x, others, others (2 inputs)"),
    (static_by_default, [1, "full"], {}, 3, "2: x, y"),
    (keyword_only, [1], {"n": 1}, 2, "1: x"),
    (nothing, [], {}, 1, "0: "),
    (np.hypot, [1, (2, 3)], {}, 2, "3: x1, x2 (2 inputs)"),
]


@pytest.mark.parametrize(("function", "args", "kwargs", "n_inputs", "got"), WRONG_COUNTS)
def test_a_wrong_number_of_inputs_is_reported_with_the_parameters(function, args, kwargs, n_inputs, got):
    message = (
        f"the call has the wrong number of inputs.\n  Expected: {n_inputs}, as the signature says\n  Got:      {got}\n"
        "  None is not an input; a tuple or dict counts as one input for each value in it. Make an option "
        "keyword-only, or name it in static_argnames."
    )
    if None in args:
        message += ' Mark an input that may be None with "?": "(n),()?->(n)".'
    with pytest.raises(SignatureError, match=exactly(message)):
        Parameters.of(function, []).bind(args, kwargs, n_inputs)


def test_the_first_parameter_goes_when_a_method_is_bound():
    parameters = Parameters.of(Model.method, []).without_first()
    assert str(parameters.signature) == "(x, y, *, n=2)"
    assert [parameter.name for parameter in parameters.tensors] == ["x", "y"]
    division = parameters.bind([1], {"y": 2}, 2)
    assert (division.leaves, division.static) == ([1, 2], {"n": 2})
    assert Parameters.of(Opaque(), []).without_first() == Parameters(None)


@pytest.mark.parametrize(
    ("function", "hint"),
    [
        (one, None),
        (two, None),
        (static_by_default, None),
        (keyword_only, None),
        (lambda x, axis=-1, keepdims=False, y=0.5: x, "'axis', 'keepdims'"),
    ],
)
def test_an_integer_default_may_be_an_option_that_came_as_an_array(function, hint):
    expected = hint and (
        f"Positional parameters are inputs, so {hint} was passed as an array. Make an option keyword-only, or name it "
        "in static_argnames."
    )
    assert Parameters.of(function, []).hint == expected


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "message"),
    [
        (two, [], {}, "missing a required argument: 'x'"),
        (two, [1, 2, 3], {}, "too many positional arguments"),
        (two, [1], {"z": 2}, "got an unexpected keyword argument 'z'"),
        (two, [1], {"x": 2}, "multiple values for argument 'x'"),
        (keyword_only, [1], {}, "missing a required"),
        (np.hypot, [1], {}, "missing a required"),
        (np.hypot, [1, 2], {"out": None}, "got an unexpected keyword argument 'out'"),
    ],
)
def test_a_call_that_does_not_fit_is_reported_as_python_does(function, args, kwargs, message):
    with pytest.raises(TypeError, match=f"^{message}"):
        Parameters.of(function, []).bind(args, kwargs, None)


@pytest.mark.parametrize(
    ("function", "name", "hint"),
    [
        (mixed, "mod", "Did you mean 'mode'?"),
        (mixed, "zzz", "Known: 'mode', 'n', 'x', 'y'."),
        (nothing, "n", "Known: none."),
        (np.hypot, "where", "Known: 'x1', 'x2'."),
    ],
)
def test_a_static_name_that_is_no_parameter_is_reported(function, name, hint):
    message = f"static_argnames names {name!r}, which is not a parameter.\n  {hint}"
    with pytest.raises(RegistrationError, match=exactly(message)):
        Parameters.of(function, [name])


@pytest.mark.parametrize(
    ("function", "static_argnames", "n_required"),
    [
        (one, [], 1),
        (two, [], 1),
        (mixed, [], 3),
        (mixed, ["n"], 2),
        (static_by_default, [], 1),
        (optional, [], 1),
        (variadic, [], 1),
        (np.hypot, [], 2),
        (Opaque(), [], 0),
    ],
)
def test_tensors_without_a_default_are_required(function, static_argnames, n_required):
    assert Parameters.of(function, static_argnames).n_required == n_required


@pytest.mark.parametrize(
    ("inputs", "static", "payload"),
    [
        ((1, 2), {"n": 3, "mode": "same"}, '{"defaults":{"mode":"same"},"static":{"n":3}}'),
        ((1, 2), {"mode": "same"}, '{"defaults":{"mode":"same"}}'),
        ((1, 2), {}, ""),
        ((1, 2), {"n": None, "mode": "full"}, '{"static":{"mode":"full","n":null}}'),
        ((1, 2), {"n": [1, (2.5, True)], "mode": "é"}, r'{"static":{"mode":"\u00e9","n":[1,{"tuple":[2.5,true]}]}}'),
        ((1, 2), {"n": {"b": 1, "a": ()}}, '{"static":{"n":{"dict":[["b",1],["a",{"tuple":[]}]]}}}'),
        (({"b": 1, "a": (2, None)},), {}, '{"inputs":[{"dict":[["b","leaf"],["a",["leaf","none"]]]}]}'),
        (((1,), 2), {"n": 3}, '{"inputs":[["leaf"],"leaf"],"static":{"n":3}}'),
    ],
)
def test_a_payload_is_canonical_json(inputs, static, payload):
    assert Parameters.of(keyword_only, []).payload(nested(inputs), static) == payload


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (1j, "a complex"),
        (b"a", "a bytes"),
        (np.ones(2), "an ndarray"),
        ([{1: 2}], "a dict"),
        ((one,), "a function"),
        ({1}, "a set"),
        (Pair(1, 2), "a Pair"),
        (np.int64(3), "an int64"),
        (np.bool_(True), "a bool"),
        ([np.float64(0.5)], "a float64"),
        ({"a": np.str_("text")}, "a str_"),
    ],
)
def test_a_static_value_that_is_no_json_is_refused(value, kind):
    with pytest.raises(ValueError, match=exactly(f"{kind} cannot be written as JSON")):
        Parameters.of(keyword_only, []).payload(None, {"n": value})


def test_a_nested_type_that_is_no_json_is_refused():
    with pytest.raises(ValueError, match="only tuples and dicts with text keys can be written as JSON"):
        Parameters.of(one, []).payload(flatten((Pair(1, 2),))[1], {})


def containers(children):
    return st.lists(children) | st.lists(children).map(tuple) | st.dictionaries(st.text(), children)


plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
static_values = st.recursive(plain, containers, max_leaves=10)
nested_inputs = st.recursive(
    st.just(0) | st.none(), lambda inner: st.lists(inner).map(tuple) | st.dictionaries(st.text(), inner), max_leaves=5
)


@settings(deadline=None)
@given(inputs=st.lists(nested_inputs).map(tuple), static=st.dictionaries(st.text(), static_values))
def test_a_payload_is_read_back_into_the_same_structure_and_values(inputs, static):
    parameters, structure = Parameters.of(options, []), nested(inputs)
    payload = parameters.payload(structure, static)
    assert parameters.read_payload(payload) == (structure, static, ())
    assert repr(dict(sorted(parameters.read_payload(payload)[1].items()))) == repr(dict(sorted(static.items())))
    assert parameters.payload(structure, dict(reversed(static.items()))) == payload
    assert payload == "" or isinstance(json.loads(payload), dict)


@pytest.mark.parametrize("value", [True, 1, 1.0, "1", (1,), [1], None, float("inf"), -0.0, {"b": 1, "a": 2}])
def test_a_static_value_keeps_its_type_in_a_payload(value):
    parameters = Parameters.of(keyword_only, [])
    _, static, _ = parameters.read_payload(parameters.payload(None, {"n": value}))
    assert repr(static["n"]) == repr(value)


THREE = np.int64(3)


def test_of_a_default_that_is_no_json_only_a_mark_is_in_the_payload():
    def function(x, *, n=THREE, function=np.sin, nameless=lambda x: x): ...

    parameters = Parameters.of(function, [])
    static = parameters.bind([1], {}, None).static
    payload = parameters.payload(None, static)
    assert re.fullmatch(
        r'\{"marks":\{"function":"numpy:sin","n":"array dtype\(\'int64\'\) \[\] [0-9a-f]{32}"\}\}', payload
    )
    assert parameters.read_payload(payload) == (None, static, ())
    assert parameters.read_payload("") == (None, static, ())


def test_a_static_value_that_equals_the_default_but_is_another_type_is_in_the_payload():
    def function(x, *, n=1): ...

    assert Parameters.of(function, []).payload(None, {"n": True}) == '{"static":{"n":true}}'
    assert Parameters.of(function, []).payload(None, {"n": 1.0}) == '{"static":{"n":1.0}}'


def test_a_default_is_kept_where_it_has_changed():
    payload = Parameters.of(lambda x, *, n=1, mode="same": x, []).payload(None, {"n": 2, "mode": "same"})
    changed = Parameters.of(lambda x, *, n=1, mode="full": x, [])
    assert changed.read_payload(payload) == (None, {"n": 2, "mode": "same"}, ())
    required = Parameters.of(lambda x, *, mode, n=1: x, [])
    assert required.read_payload(payload) == (None, {"n": 2, "mode": "same"}, ())
    anything = Parameters.of(lambda x, *, n=1, **options: x, [])
    assert anything.read_payload(payload) == (None, {"n": 2, "mode": "same"}, ())


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x, *, n=1: x, "static parameters 'n'"),
        (lambda x, *, n=1, manner="same": x, "static parameters 'n', 'manner'"),
        (lambda x, mode, *, n=1: x, "static parameters 'n'"),  # an input now
        (lambda x: x, "no static parameters"),
    ],
)
@pytest.mark.parametrize("value", ["same", "full"])  # a default, and another value
def test_a_static_value_that_no_parameter_takes_any_more_is_an_error(function, expected, value):
    payload = Parameters.of(lambda x, *, n=1, mode="same": x, []).payload(None, {"mode": value})
    with pytest.raises(UnsupportedError, match=r"^the op has no static parameter 'mode'\.") as caught:
        Parameters.of(function, []).read_payload(payload)
    assert (caught.value.expected, caught.value.got) == (expected, f"mode={value!r}")


def test_a_payload_is_completed_by_the_defaults():
    parameters = Parameters.of(keyword_only, [])
    assert parameters.read_payload("") == (None, {"mode": "same"}, ())
    assert parameters.read_payload('{"static":{"n":1}}') == (None, {"mode": "same", "n": 1}, ())
