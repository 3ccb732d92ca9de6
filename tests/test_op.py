"""An op among Python's functions: its attributes, its signature, and how it binds to instances."""

import inspect
import pydoc
import re

import numpy as np
import pytest
import tensorflow as tf

from tests.forms import (
    LOCAL,
    Scale,
    X,
    Y,
    bare,
    direct,
    every_op,
    floor,
    hypot,
    maximum,
    plain,
    unique,
    with_options,
    with_options_gradient,
    without_options,
)
from tfpyop import Op, differentiable_op


@pytest.mark.parametrize("op", [bare, without_options, with_options, hypot], ids=repr)
def test_an_op_is_made_in_each_way_of_decorating(op):
    assert isinstance(op, Op)
    assert op(X, Y).numpy().tolist() == [5, 10]


@pytest.mark.parametrize(("op", "function"), [(hypot, np.hypot), (unique, np.unique), (maximum, max), (direct, plain)])
def test_the_function_is_kept_as_it_is(op, function):
    assert op.numpy is op.__wrapped__ is function


@pytest.mark.parametrize("attribute", ["__name__", "__qualname__", "__doc__", "__module__"])
@pytest.mark.parametrize("op", [bare, with_options, unique, Scale.method], ids=repr)
def test_an_op_has_the_attributes_of_its_function(op, attribute):
    assert getattr(op, attribute) == getattr(op.numpy, attribute)


def test_inspect_takes_an_op_for_a_function():
    assert inspect.isfunction(bare)
    assert callable(bare)
    assert inspect.getsource(bare).startswith("@differentiable_op\ndef bare(x, y):")


@pytest.mark.parametrize(
    ("op", "signature"),
    [
        (bare, "(x, y)"),
        (with_options, "(x: object, y: object = 4.0, *, factor: int = 1) -> object"),
        (Scale.method, "(self, x)"),
        (Scale().method, "(x)"),
        (LOCAL["tests.forms:partial"], "(y=4.0)"),
        (LOCAL["tests.forms:Scale.plain"], "(x)"),
        (LOCAL["tests.forms:Scale"], "(x)"),
        (floor, "(x, /)"),
        (hypot, "(x1, x2, /)"),
        (maximum, "(*inputs, **static)"),
    ],
)
def test_inspect_shows_the_parameters_of_the_function(op, signature):
    assert str(inspect.signature(op)) == signature


@pytest.mark.parametrize(
    ("op", "heading", "line"),
    [
        (bare, "bare(x, y)", "    The length of the hypotenuse."),
        (hypot, "hypot(x1, x2, /)", '    Given the "legs" of a right triangle, return its hypotenuse.'),
    ],
)
def test_help_shows_parameters_and_docstring(op, heading, line):
    lines = pydoc.render_doc(op, renderer=pydoc.plaintext).splitlines()
    assert heading in lines
    assert line in lines


@pytest.mark.parametrize(
    ("op", "text"),
    [
        (bare, "<tfpyop.Op 'tests.forms:bare'>"),
        (hypot, "<tfpyop.Op 'tests.forms:hypot', signature='(),()->()'>"),
        (Scale().method, "<tfpyop.Op 'tests.forms:Scale.method'>"),
        (with_options_gradient, "<tfpyop.Op 'tests.forms:with_options/vjp'>"),
    ],
)
def test_repr_and_str_show_name_and_signature(op, text):
    assert repr(op) == str(op) == f"{op}" == text


@pytest.mark.parametrize("op", [bare, hypot, Scale().method], ids=repr)
def test_dir_lists_what_the_op_offers_and_what_the_function_has(op):
    listed = dir(op)
    assert {*dir(op.numpy), "numpy", "gradient", "numpy_gradient", "jvp", "numpy_jvp", "signature"} <= {*listed}
    assert all(hasattr(op, name) for name in listed if not name.startswith("__"))
    assert listed == sorted({*listed})


def test_ops_are_equal_if_they_are_the_same():
    first, second = differentiable_op(plain), differentiable_op(plain)
    assert first == first
    assert first != second
    assert first != first.numpy != first
    assert {first: 1, second: 2, plain: 3}[first] == 1
    assert (hash(first), first in {second}, first in {first}) == (hash(first), False, True)


@pytest.mark.parametrize("name", ["anything", "__name__", "__doc__", "__wrapped__", "numpy", "name", "gradient"])
@pytest.mark.parametrize("op", [bare, hypot], ids=repr)
def test_an_op_takes_no_attributes(op, name):
    before = getattr(op.numpy, name, None)
    with pytest.raises(AttributeError, match=rf"cannot set attributes of {re.escape(repr(op))}\. Set '{name}' on the"):
        setattr(op, name, "value")
    assert getattr(op.numpy, name, None) == before


def test_an_attribute_of_the_function_is_not_deleted_through_the_op():
    def function(x):
        return x

    function.tag = 1
    op = differentiable_op(function)
    assert op.tag == 1
    with pytest.raises(AttributeError):
        del op.tag
    assert function.tag == 1


@pytest.mark.parametrize(
    ("op", "signature"),
    [
        (differentiable_op(lambda x, y: x, signature=" (n), () -> (k) "), " (n), () -> (k) "),
        (hypot, "(),()->()"),
        (differentiable_op(np.matmul, name="tests:matmul"), "(n?,k),(k,m?)->(n?,m?)"),
        (differentiable_op(np.divmod, name="tests:divmod"), "(),()->(),()"),
        (differentiable_op(np.negative, shape=lambda shape: shape), None),
        (bare, None),
    ],
)
def test_the_signature_is_the_given_one_or_that_of_the_ufunc(op, signature):
    assert op.signature == signature


@pytest.mark.parametrize(
    ("options", "dtypes"),
    [
        ({}, None),
        ({"dtype": "float64"}, np.dtype("f8")),
        ({"dtype": tf.int64}, np.dtype("i8")),
        ({"dtype": str}, np.dtype(object)),
        ({"dtype": (None, bool)}, (None, np.dtype(bool))),
        ({"dtype": [int]}, (np.dtype(int),)),
        ({"dtype": {"b": None, "a": (np.int8, tf.bfloat16)}}, {"a": (np.dtype("i1"), tf.bfloat16), "b": None}),
        ({"signature": "(),()->(),()"}, (None, None)),
        ({"signature": "(),()->(),()", "dtype": np.float32}, (np.dtype("f4"),) * 2),
    ],
)
def test_output_dtypes_are_arranged_like_the_outputs(options, dtypes):
    assert differentiable_op(plain, **options).output_dtypes == dtypes


@every_op
def test_gradient_names_begin_with_the_name(op):
    assert op.gradient_name == op.name


# -- methods


def test_an_op_of_a_class_is_bound_to_each_instance():
    two, three = Scale(2), Scale(3)
    assert (two.method(1.0).numpy(), three.method(1.0).numpy()) == (2, 3)
    assert (two.method.numpy(1.0), three.method.numpy(1.0)) == (2, 3)
    assert two.method.__self__ is two


def test_an_op_is_itself_where_there_is_no_instance():
    assert Scale.__dict__["method"] is Scale.method
    assert Scale().static is Scale.static


@pytest.mark.parametrize("call", [lambda function: function, tf.function], ids=["eager", "graph"])
def test_the_op_of_a_class_takes_an_instance_first(call):
    two, three = Scale(2), Scale(3)
    assert call(lambda x: Scale.method(two, x) * Scale.method(three, x))(tf.constant(X)).numpy().tolist() == [54, 216]
    assert call(lambda x: Scale.Part.method(Scale.Part(), x))(tf.constant(X)).numpy().tolist() == [3, 6]


def test_the_op_of_a_class_is_differentiated():
    class Model:
        factor = 3

        @differentiable_op(signature="()->()")
        def method(self, x):
            return self.factor * x

        @method.numpy_gradient
        def method_gradient(self, op, cotangent):
            return self.factor * cotangent

    x = tf.Variable(X)
    with tf.GradientTape(persistent=True) as tape:
        ys = [Model.method(Model(), x), Model().method(x)]
    assert [tape.gradient(y, x).numpy().tolist() for y in ys] == [[3, 3], [3, 3]]


def defined_outside(self, x):
    return self.factor * x


class WithAliases:
    factor = 3

    @differentiable_op
    def method(self, x):
        return self.factor * x

    alias = method
    outside = differentiable_op(defined_outside)
    anonymous = differentiable_op(lambda self, x: self.factor * x)


class Inheriting(WithAliases):
    inherited_alias = WithAliases.method
    method_of_another_name = WithAliases.outside


@pytest.mark.parametrize(
    "name", ["method", "alias", "outside", "anonymous", "inherited_alias", "method_of_another_name"]
)
def test_a_method_under_any_name_takes_an_instance_first(name):
    instance = Inheriting()
    assert getattr(instance, name)(X).numpy().tolist() == [9, 18]
    assert getattr(Inheriting, name)(instance, X).numpy().tolist() == [9, 18]


def test_an_op_that_is_also_an_attribute_of_a_class_stays_what_it_was():
    op = differentiable_op(lambda x, y=2.0: x * y, grad=lambda op, cotangent: (2 * cotangent, None))

    class Layer:
        activation = op

    x = tf.Variable(X)
    with tf.GradientTape() as tape:
        y = op(x)
    assert tape.gradient(y, x).numpy().tolist() == [2, 2]
    assert Layer.activation is op


def test_a_function_that_does_not_bind_makes_an_op_that_does_not_bind():
    class Holder:
        op = hypot

    assert Holder().op is hypot
