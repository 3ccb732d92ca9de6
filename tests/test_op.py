"""An op among Python's functions: its looks, its name and who may take it, copies, pickles, options, AutoGraph."""

import copy
import functools
import importlib
import inspect
import itertools
import logging
import math
import pickle
import pydoc
import re
import subprocess
import sys
import textwrap
from collections.abc import Mapping, MutableMapping

import numpy as np
import pytest
import tensorflow as tf

from tfpyop import (
    CoercionError,
    Op,
    RegistrationError,
    SignatureError,
    TfpyopError,
    UnsupportedError,
    differentiable_op,
    get_op,
    registered_ops,
)
from tfpyop._registry.token import split

X = np.float32([3, 6])
Y = np.float32([4, 8])


@differentiable_op
def bare(x, y):
    """The length of the hypotenuse."""
    return np.hypot(x, y)


@differentiable_op()
def without_options(x, y):
    return np.hypot(x, y)


@differentiable_op(signature="(),()->()", dtype=np.float32)
def with_options(x: object, y: object = 4.0, *, factor: int = 1) -> object:
    """A multiple of the length of the hypotenuse."""
    return factor * np.hypot(x, y)


@with_options.numpy_gradient
def with_options_gradient(op, cotangent):
    x, y = op.inputs
    return cotangent * x / op.outputs[0], cotangent * y / op.outputs[0]


@with_options.numpy_jvp
def with_options_jvp(op, *tangents):
    return sum(tangent * x for tangent, x in zip(tangents, op.inputs, strict=True)) / op.outputs[0]


class Scale:
    """Methods of several kinds, and instances that can be called."""

    def __init__(self, factor=2):
        self.factor = factor

    @differentiable_op
    def method(self, x):
        return self.factor * x

    @staticmethod
    @differentiable_op
    def static(x):
        return 2 * x

    @classmethod
    def of_class(cls, x):
        return 2 * x

    class Part:
        @differentiable_op
        def method(self, x):
            return x

    def plain(self, x):
        return self.factor * x

    def __call__(self, x):
        return self.factor * x


def plain(x, y=4.0):
    return np.hypot(x, y)


def made_in_a_function(function):
    """An op of a function that is made in a function too."""

    @differentiable_op
    def inner(x):
        return function(x)

    return inner


direct = differentiable_op(plain)
hypot = differentiable_op(np.hypot)
named = differentiable_op(lambda x: x, name="tests.named/op-1")
named_ufunc = differentiable_op(np.arctan2, name="tests:angle", signature="(),()->()")
unique = differentiable_op(np.unique, signature="(n)->(k)")
floor = differentiable_op(math.floor, signature="()->()")
maximum = differentiable_op(max, signature="(n)->()")

REGISTERED = {
    "tests.test_op:bare": bare,
    "tests.test_op:without_options": without_options,
    "tests.test_op:with_options": with_options,
    "tests.test_op:Scale.method": Scale.method,
    "tests.test_op:Scale.static": Scale.static,
    "tests.test_op:Scale.Part.method": Scale.Part.method,
    "tests.test_op:plain": direct,
    "tests.test_op:hypot": hypot,
    "tests.named/op-1": named,
    "tests:angle": named_ufunc,
    "tests.test_op:unique": unique,
    "tests.test_op:floor": floor,
    "tests.test_op:max": maximum,
}
RULES = {
    "tests.test_op:with_options/vjp": with_options_gradient,
    "tests.test_op:with_options/jvp": with_options_jvp,
}
LOCAL = {
    "tests.test_op:<lambda>": differentiable_op(lambda x: x),
    "tests.test_op:made_in_a_function.<locals>.inner": made_in_a_function(np.sin),
    "tests.test_op:partial": differentiable_op(functools.partial(plain, 1.0)),
    "tests.test_op:Scale.plain": differentiable_op(Scale().plain),
    "tests.test_op:Scale": differentiable_op(Scale()),
}
every_registered = pytest.mark.parametrize(("name", "op"), REGISTERED.items(), ids=REGISTERED)
every_found = pytest.mark.parametrize(("name", "op"), (REGISTERED | RULES).items(), ids=REGISTERED | RULES)
every_local = pytest.mark.parametrize(("name", "op"), LOCAL.items(), ids=LOCAL)
every_op = pytest.mark.parametrize("op", [*REGISTERED.values(), *RULES.values(), *LOCAL.values()], ids=repr)


# -- looks


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


def test_an_op_is_a_function_to_those_who_ask():
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
        (LOCAL["tests.test_op:partial"], "(y=4.0)"),
        (LOCAL["tests.test_op:Scale.plain"], "(x)"),
        (LOCAL["tests.test_op:Scale"], "(x)"),
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
        (bare, "<tfpyop.Op 'tests.test_op:bare'>"),
        (hypot, "<tfpyop.Op 'tests.test_op:hypot', signature='(),()->()'>"),
        (Scale().method, "<tfpyop.Op 'tests.test_op:Scale.method'>"),
        (with_options_gradient, "<tfpyop.Op 'tests.test_op:with_options/vjp'>"),
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


# -- names


@every_registered
def test_what_a_module_defines_is_registered_as_module_and_qualname(name, op):
    assert op.name == name
    assert registered_ops()[name] is op
    assert get_op(name) is op


@pytest.mark.parametrize(("name", "op"), RULES.items(), ids=RULES)
def test_the_op_of_a_rule_is_found_but_not_listed(name, op):
    assert op.name == name
    assert get_op(name) is op
    assert name not in list(registered_ops())


@pytest.mark.parametrize("option", ["numpy_grad", "numpy_jvp"])
def test_the_op_of_a_rule_that_is_an_option_is_found(option):
    op = differentiable_op(lambda x: 2 * x, name=f"tests:{option}", **{option: lambda op, vector: 2 * vector})
    rule_op = get_op(f"tests:{option}/{'vjp' if option == 'numpy_grad' else 'jvp'}")
    assert rule_op(X, op(X), Y).numpy().tolist() == [8, 16]


def test_a_rule_in_tensorflow_ops_has_no_op():
    differentiable_op(lambda x: x, name="tests:ruled", grad=lambda op, g: g, jvp=lambda op, t: t)
    for kind in ("vjp", "jvp"):
        with pytest.raises(RegistrationError, match=f"^no op named 'tests:ruled/{kind}' is registered"):
            get_op(f"tests:ruled/{kind}")


@every_local
def test_what_only_this_process_can_name_is_not_registered(name, op):
    assert op.name == name
    assert name not in registered_ops()


def test_a_name_makes_any_op_a_registered_one():
    op = differentiable_op(lambda x: x, name="tests:a_lambda")
    assert get_op("tests:a_lambda") is op


def test_an_op_that_is_made_in_a_call_is_not_registered():
    op = differentiable_op(made_in_a_function)
    assert op.name == "tests.test_op:made_in_a_function"
    assert op.name not in registered_ops()


def test_functions_of_the_same_name_made_in_functions_do_not_clash():
    first, second = made_in_a_function(np.sin), made_in_a_function(np.cos)
    assert (first.name, first(0.0).numpy(), second(0.0).numpy()) == (second.name, 0, 1)


_serial = itertools.count(1)


@pytest.fixture
def write(tmp_path, monkeypatch):
    """A function that writes a module where it can be imported, and returns its name."""
    monkeypatch.chdir(tmp_path)  # places in errors are relative to it
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # a reload within the same second must read the file
    names = []

    def write(source, name=None):
        names.append(name or f"acme{next(_serial)}")
        (tmp_path / f"{names[-1]}.py").write_text(textwrap.dedent(source))
        importlib.invalidate_caches()
        return names[-1]

    yield write
    for name in names:
        sys.modules.pop(name, None)


def test_an_op_takes_the_name_of_the_module_where_a_helper_decorates_it(write):
    helper = write("""\
        import functools
        from tfpyop import differentiable_op

        def elementwise(function):
            return differentiable_op(function, signature="()->()")

        elementwise_too = functools.partial(differentiable_op, signature="()->()")
        """)
    user = importlib.import_module(
        write(f"""\
        from {helper} import elementwise, elementwise_too

        @elementwise
        def function(x):
            return x

        @elementwise_too
        def another(x):
            return x

        class Model:
            @elementwise
            def method(self, x):
                return x
        """)
    )
    for op, name in [(user.function, "function"), (user.another, "another"), (user.Model.method, "Model.method")]:
        assert op.name == f"{user.__name__}:{name}"
        assert get_op(op.name) is op
        assert pickle.loads(pickle.dumps(op)) is op


def test_a_graph_of_a_local_op_outlives_the_definition_of_any_other():
    def test_op_of_a_graph(x):
        return 2 * x

    function = tf.function(differentiable_op(test_op_of_a_graph))
    assert function(X).numpy().tolist() == [6, 12]
    name = differentiable_op(test_op_of_a_graph).name
    for prefix in (name, name[:-1], name.split(".<locals>")[0]):
        differentiable_op(np.sin, name=prefix)
        assert function(X).numpy().tolist() == [6, 12]


# -- names that are taken


def test_a_second_function_of_one_name_in_a_module_is_refused(write):
    name = write("""\
        from tfpyop import differentiable_op

        @differentiable_op
        def solve(x):
            return x

        @differentiable_op
        def solve(x):
            return 2 * x
        """)
    with pytest.raises(RegistrationError, match=rf"one at {name}\.py:3 and one at {name}\.py:7\n"):
        importlib.import_module(name)
    assert get_op(f"{name}:solve").numpy(1) == 1


def test_a_name_given_in_two_modules_is_refused(write):
    source = """\
        import numpy as np
        from tfpyop import differentiable_op

        op = differentiable_op(np.hypot, name="tests:given.twice")
        """
    first, second = write(source), write(source)
    op = importlib.import_module(first).op
    with pytest.raises(RegistrationError, match=rf"one at {first}\.py:4 and one at {second}\.py:4\n"):
        importlib.import_module(second)
    assert get_op("tests:given.twice") is op


def test_a_ufunc_that_is_wrapped_on_two_lines_is_refused(write):
    name = write("""\
        import numpy as np
        from tfpyop import differentiable_op

        first = differentiable_op(np.hypot)
        second = differentiable_op(np.hypot, compute_dtype="float64")
        """)
    with pytest.raises(RegistrationError, match=rf"one at {name}\.py:4 and one at {name}\.py:5\n"):
        importlib.import_module(name)


LOOP = """\
from tfpyop import differentiable_op

ops = []
for factor in (2, 3):
    ops.append(differentiable_op(lambda x: factor * x, name="tests:looped"))
"""
FACTORY = """\
from tfpyop import differentiable_op

ops = []
def make(factor):
    ops.append(differentiable_op(lambda x: factor * x, name="tests:looped"))
make(2)
make(3)
"""
UFUNC = """\
import numpy as np
from tfpyop import differentiable_op

ops = [differentiable_op(np.hypot, name="tests:looped") for _ in range(2)]
"""


@pytest.mark.parametrize(("source", "line"), [(LOOP, 5), (FACTORY, 5), (UFUNC, 4)], ids=["loop", "factory", "ufunc"])
def test_a_name_given_twice_on_one_line_is_refused(write, source, line):
    name = write(source.replace("looped", f"looped-{next(_serial)}"))
    with pytest.raises(RegistrationError, match=rf"one at {name}\.py:{line} and one at {name}\.py:{line}\n"):
        importlib.import_module(name)


def test_the_first_op_of_a_name_stays(write):
    name = write(LOOP.replace("looped", "kept"))
    with pytest.raises(RegistrationError, match=r"another op already has the name 'tests:kept'"):
        importlib.import_module(name)
    assert get_op("tests:kept").__module__ == name


def test_a_factory_makes_its_ops_anew_when_its_module_is_executed_again(write):
    module = importlib.import_module(write(FACTORY.replace("make(3)\n", "").replace("looped", "made-anew")))
    first = module.ops[0]
    second = importlib.reload(module).ops[0]
    assert get_op("tests:made-anew") is second is not first


OP_WITH_RULE = """\
from tfpyop import differentiable_op

@differentiable_op
def double(x):
    return 2 * x

@double.numpy_gradient
def double_gradient(op, cotangent):
    return 2 * cotangent
"""


@pytest.mark.parametrize("edited", [OP_WITH_RULE, "\n\n" + OP_WITH_RULE], ids=["unchanged", "moved"])
@pytest.mark.parametrize("way", ["reload", "import anew"])
def test_importing_a_module_again_replaces_its_ops(write, edited, way):
    name = write(OP_WITH_RULE)
    module = importlib.import_module(name)
    old, old_rule = module.double, module.double_gradient
    write(edited.replace("2 *", "3 *"), name)
    if way == "reload":
        importlib.reload(module)
    else:
        del sys.modules[name]
        module = importlib.import_module(name)
    assert get_op(f"{name}:double") is module.double is not old
    assert get_op(f"{name}:double/vjp") is module.double_gradient is not old_rule
    assert (old.numpy(1), module.double.numpy(1)) == (2, 3)


def test_a_reloaded_op_is_found_by_graphs_that_were_traced_before(write):
    module = importlib.import_module(write(OP_WITH_RULE))
    function = tf.function(module.double)
    assert function(X).numpy().tolist() == [6, 12]
    write(OP_WITH_RULE.replace("2 *", "3 *"), module.__name__)
    importlib.reload(module)
    assert function(X).numpy().tolist() == [9, 18]


OP_WITH_STATIC = """\
from tfpyop import differentiable_op

@differentiable_op(signature="()->()")
def scaled(x, *, batch):
    return 2 * batch * x

@scaled.gradient
def scaled_gradient(op, cotangent):
    return 2 * op.static["batch"] * cotangent
"""


def test_a_static_parameter_may_have_the_name_of_what_tokens_say_of_rows(write):
    module = importlib.import_module(write(OP_WITH_STATIC))
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        x = tf.constant(X)
        y = module.scaled(x, batch=1)
        write(OP_WITH_STATIC.replace("2 *", "3 *"), module.__name__)
        importlib.reload(module)
        (derivative,) = tf.gradients(y, x)
        assert session.run(derivative).tolist() == [3, 3]


def test_a_replaced_op_is_not_pickled_as_its_successor(write):
    module = importlib.import_module(write(OP_WITH_RULE))
    old, old_rule = module.double, module.double_gradient
    importlib.reload(module)
    for replaced in (old, old_rule):
        with pytest.raises(RegistrationError, match="the op cannot be pickled"):
            pickle.dumps(replaced)
    assert pickle.loads(pickle.dumps(module.double_gradient)) is module.double_gradient
    assert pickle.loads(pickle.dumps(module.double)) is module.double


REDEFINED = """\
from tfpyop import differentiable_op, get_op, registered_ops

@differentiable_op
def double(x):
    return x

old = double

@differentiable_op
def double(x):
    return 2 * x

print(get_op("__main__:double") is double is not old, double.numpy(1), list(registered_ops()))
"""


def run_python(*arguments, stdin=None):
    return subprocess.run([sys.executable, *arguments], input=stdin, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(("arguments", "stdin"), [(["-i"], REDEFINED), (["-c", REDEFINED], None)], ids=["-i", "-c"])
def test_an_interactive_definition_replaces_the_one_before(arguments, stdin):
    result = run_python(*arguments, stdin=stdin)
    assert result.stdout == "True 2 ['__main__:double']\n", result.stderr


def test_a_script_is_not_interactive(tmp_path):
    (tmp_path / "script.py").write_text(REDEFINED)
    result = run_python(str(tmp_path / "script.py"))
    assert "RegistrationError: op '__main__:double'" in result.stderr
    assert result.stdout == ""


def test_a_notebook_cell_that_runs_again_replaces_op_and_rule():
    notebook = {"__name__": "__main__"}
    for number, factor in enumerate([2, 3, 3], 1):
        cell = OP_WITH_RULE.replace("2 *", f"{factor} *")
        exec(compile("\n" * number + cell, f"<cell {number}>", "exec"), notebook)
    assert get_op("__main__:double") is notebook["double"]
    assert get_op("__main__:double/vjp") is notebook["double_gradient"]
    assert notebook["double"].numpy(1) == 3


def test_a_notebook_cell_that_runs_again_replaces_the_rule_alone():
    notebook = {"__name__": "__main__"}
    op_cell, rule_cell = OP_WITH_RULE.split("@double.numpy_gradient")
    exec(op_cell, notebook)
    for factor in [5, 7]:
        exec(f"@double.numpy_gradient{rule_cell.replace('2 *', f'{factor} *')}", notebook)
    with tf.GradientTape() as tape:
        x = tf.constant(X)
        tape.watch(x)
        y = notebook["double"](x)
    assert tape.gradient(y, x).numpy().tolist() == [7, 7]


def test_a_notebook_cell_does_not_replace_a_rule_that_is_an_option():
    notebook = {"__name__": "__main__"}
    op_cell, rule_cell = OP_WITH_RULE.split("@double.numpy_gradient")
    exec(op_cell.replace("@differentiable_op", "@differentiable_op(grad='numerical')"), notebook)
    with pytest.raises(RegistrationError, match="the op already has such a rule"):
        exec(f"@double.numpy_gradient{rule_cell}", notebook)


# -- the registry


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tests.test_op:bear", "Did you mean 'tests.test_op:bare'"),
        ("test_op:with_option", "Did you mean 'tests.test_op:with_options' or "),
        ("~", "Known: '"),
    ],
)
def test_get_op_names_the_nearest_ops(name, message):
    with pytest.raises(RegistrationError, match=rf"no op named '{name}' is registered\.\n  {message}"):
        get_op(name)


def test_registered_ops_is_a_mapping_that_cannot_be_changed():
    ops = registered_ops()
    assert isinstance(ops, Mapping)
    assert not isinstance(ops, MutableMapping)
    with pytest.raises(TypeError, match="does not support item assignment"):
        ops["tests.test_op:bare"] = hypot
    with pytest.raises(TypeError, match="does not support item deletion"):
        del ops["tests.test_op:bare"]
    assert ops["tests.test_op:bare"] is bare


def test_registered_ops_answers_for_unknown_names_as_mappings_do():
    assert "tests.test_op:nothing" not in registered_ops()
    assert registered_ops().get("tests.test_op:nothing", 3) == 3
    with pytest.raises(KeyError, match=r"^'tests\.test_op:nothing'$"):
        registered_ops()["tests.test_op:nothing"]


def test_registered_ops_lists_in_the_order_of_definition_and_grows():
    before = registered_ops()
    size = len(before)
    for number in (2, 1):
        differentiable_op(np.sin, name=f"tests:later_{number}")
    assert list(before)[size:] == ["tests:later_2", "tests:later_1"]
    assert len(before) == size + 2


# -- copies


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda op: copy.deepcopy({"nested": [op]})["nested"][0]])
@every_op
def test_a_copy_of_an_op_is_the_op(op, clone):
    assert clone(op) is op


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@every_found
def test_a_registered_op_is_pickled_by_its_name(name, op, protocol):
    assert pickle.loads(pickle.dumps(op, protocol)) is op


@pytest.mark.parametrize("op", [*LOCAL.values(), Scale().method], ids=repr)
def test_a_local_op_cannot_be_pickled(op):
    with pytest.raises(RegistrationError, match="cannot be pickled, because its name is valid in this process only"):
        pickle.dumps(op)


def test_a_pickle_of_an_op_that_its_module_no_longer_defines_is_refused():
    name = "tests.test_op:gone"
    op = differentiable_op(plain, name=name)
    pickled = pickle.dumps(op).replace(name.encode(), b"tests.test_op:none")
    with pytest.raises(UnsupportedError, match=r"^op 'tests\.test_op:none': module '.*' is imported, but does not"):
        pickle.loads(pickled)
    with pytest.raises(UnsupportedError, match="the op was defined in the __main__ module of another program"):
        importlib.import_module("tfpyop._op")._unpickle("__main__", "__main__:gone")


def test_a_call_without_an_argument_tells_what_the_signature_has():
    op = differentiable_op(lambda x, y: x, signature="(n)->(n)")
    with pytest.raises(TypeError, match=r"'y'\.\n  Parameters: \(x, y\); inputs of signature '\(n\)->\(n\)': 1$"):
        op(X)


def test_an_array_that_may_be_none_needs_no_default():
    op = differentiable_op(lambda x, mask: x if mask is None else x * mask, signature="()->()")
    assert op(X, None).numpy().tolist() == [3, 6]


def test_a_ufunc_that_was_given_an_argument():
    op = differentiable_op(functools.partial(np.power, 2.0), signature="()->()")
    assert op(X).numpy().tolist() == [8, 64]


@pytest.mark.parametrize("option", ["grad", "numpy_grad"])
def test_a_rule_may_come_from_where_the_function_does(option):
    def scaled_by(factor):
        def scaled(*args):
            return factor * args[-1]

        return scaled

    differentiable_op(scaled_by(2.0), signature="()->()", **{option: scaled_by(2.0)})
    op = differentiable_op(scaled_by(2.0), signature="()->()")
    op.numpy_gradient(scaled_by(2.0))


def test_a_native_implementation_may_be_named_as_the_op():
    square = differentiable_op(lambda x: x * x, signature="()->()")
    square.native(tf.square)

    def attach(op, rule):
        op.gradient(rule)

    def op(op, cotangent):
        return cotangent

    attach(square, op)


def test_a_rule_of_a_rule_that_would_overwrite_the_op():
    @differentiable_op(signature="()->()")
    def cube(x):
        return x**3

    @cube.numpy_gradient
    def cube_gradient(op, cotangent):
        return 3 * op.inputs[0] ** 2 * cotangent

    with pytest.raises(RegistrationError, match="the rule has the same name as the op and would overwrite it"):

        @cube_gradient.gradient
        def cube(op, cotangent):
            return cotangent


def test_a_pickled_op_is_found_in_another_process_by_importing_its_module(write, tmp_path):
    name = write("""\
        import numpy as np
        from tfpyop import differentiable_op

        @differentiable_op
        def double(x):
            return 2 * x

        @double.numpy_gradient
        def double_gradient(op, cotangent):
            return 2 * cotangent

        hypot = differentiable_op(np.hypot)
        named = differentiable_op(np.arctan2, name="acme:angle")

        class Model:
            @differentiable_op
            def method(self, x):
                return x
        """)
    ops = f"[{name}.double, {name}.double_gradient, {name}.hypot, {name}.named, {name}.Model.method]"
    saved = run_python("-c", f"import pickle, {name}; print(pickle.dumps({ops}).hex())")
    program = f"""
import pickle, sys
loaded = pickle.loads(bytes.fromhex({saved.stdout.strip()!r}))
{name} = sys.modules[{name!r}]
print([a is b for a, b in zip(loaded, {ops}, strict=True)], [op.name for op in loaded])
"""
    result = run_python("-c", program)
    names = [f"{name}:double", f"{name}:double/vjp", f"{name}:hypot", "acme:angle", f"{name}:Model.method"]
    assert result.stdout == f"{[True] * 5} {names}\n", result.stderr


# -- options


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (plain, {"signature": "(),()->()", "shape": max}, "signature= and shape= cannot be used together"),
        (plain, {"grad": max, "numpy_grad": max}, "two VJP rules were passed"),
        (plain, {"jvp": max, "numpy_jvp": max}, "two JVP rules were passed"),
        *[
            (
                plain,
                {"non_differentiable": True, option: max},
                "the op is declared non_differentiable, but a rule was attached",
            )
            for option in ("grad", "numpy_grad", "jvp", "numpy_jvp")
        ],
        (
            plain,
            {"non_differentiable": True, "grad": "numerical"},
            "the op is declared non_differentiable, but a rule was attached",
        ),
        *[(plain, {option: 3}, f": {option}=3 is not a rule") for option in ("grad", "numpy_grad", "jvp", "numpy_jvp")],
        (
            plain,
            {"grad": "numericl"},
            "grad='numericl' is neither a rule nor the name of a method.\n  Did you mean 'numerical'?",
        ),
        *[
            (
                plain,
                {"grad": "numerical", option: max},
                "grad= requests numerical derivatives, but a rule is also passed",
            )
            for option in ("numpy_grad", "jvp", "numpy_jvp")
        ],
        (plain, {"shape": (3,)}, r"shape= is not a function\.\n  Got:      \(3,\)"),
        (plain, {"signature": 3}, r"signature= is not a string\.\n  Got:      3"),
        (plain, {"signature": b"(),()->()"}, r"signature= is not a string\.\n  Got:      b'"),
        (plain, {"vectorized": False}, "vectorized=False requires a signature"),
        *[
            (plain, {option: value}, rf": {option}= is neither True nor False\.\n  Got:      {value!r}")
            for option in ("vectorized", "stateful", "non_differentiable")
            for value in ("no", 0, None)
        ],
        (plain, {"residuals": {"a": ("()", float)}}, "residuals= requires a signature"),
        *[
            (
                plain,
                {"signature": "(n),()->()", "residuals": {name: ("(n)", float)}},
                f"the residual name {name!r} is not a Python identifier",
            )
            for name in ["a b", "", 3, "class"]
        ],
        *[
            (
                plain,
                {"signature": "(n),()->()", "residuals": {name: declared}},
                f"the declaration of residual {name!r} is not a pair",
            )
            for name, declared in [
                ("a", "(n)"),
                ("a", ("(n)",)),
                ("a", ("(n)", None)),
                ("a", (float, "(n)")),
            ]
        ],
        (plain, {"signature": "(n),()->()", "residuals": ["a"]}, r"residuals= is not a dict"),
        (
            plain,
            {"signature": "(n),()->()", "residuals": {"a": ("n", float)}},
            r"cannot parse the core dimensions of residual 'a'.*\n.*\n  Got:      'n', with signature",
        ),
        (
            plain,
            {"signature": "(n),()->()", "residuals": {"a": ("(n)", "flaot")}},
            "'flaot' is not a valid tensor dtype",
        ),
        (Scale.__dict__["static"], {}, "differentiable_op got a staticmethod object"),
        (Scale.__dict__["of_class"], {}, "differentiable_op got a classmethod object"),
        ("()->()", {}, r"the argument of differentiable_op is not a function\.\n  Got:      '\(\)->\(\)'"),
        (3, {"dtype": int}, r"the argument of differentiable_op is not a function\.\n  Got:      3"),
        (None, {"dtype": int}, r"the argument of differentiable_op is not a function\.\n  Got:      None"),
        (bare, {}, r"<tfpyop.Op 'tests.test_op:bare'> is already an op"),
        (Scale().method, {}, r"<tfpyop.Op 'tests.test_op:Scale.method'> is already an op"),
        *[(plain, {"name": name}, "is not a valid op name") for name in ["", "a b", "a{b", "a#b", "a'b", "a\n", "a,b"]],
        (plain, {"static_argnames": 1}, r"static_argnames= is not a sequence of names\.\n  Got:      1"),
        (plain, {"static_argnames": ["x", 1]}, r"static_argnames= is not a sequence of names"),
        (plain, {"static_argnames": "z"}, "static_argnames names 'z', which is not a parameter.\n  Known: 'x', 'y'"),
        (
            with_options.numpy,
            {"static_argnames": ["x", "facto"]},
            "'facto', which is not a .*\n  Did you mean 'factor'?",
        ),
        (np.hypot, {"static_argnames": ["out"]}, "static_argnames names 'out', which is not a parameter"),
        (plain, {"signature": "(),()->(),()", "dtype": (int,)}, "2 dtypes for signature .*\n  Got:      1"),
        (plain, {"signature": "(),()->()", "dtype": (int, None)}, "1 dtypes for signature .*\n  Got:      2"),
        (np.frexp, {"dtype": (None,)}, r"2 dtypes for signature '\(\)->\(\),\(\)'"),
        (plain, {"compute_dtype": "int32"}, "compute_dtype= is not a floating dtype"),
        (plain, {"compute_dtype": np.complex64}, "compute_dtype= is not a floating dtype"),
        (plain, {"dtype": "flaot32"}, "'flaot32' is not a valid tensor dtype"),
        (plain, {"dtype": "datetime64[s]"}, "is not a valid tensor dtype"),
        (lambda a, b, c, d: a, {"signature": "(),()->()"}, "parameters a, b, c, d\n"),
        (plain, {"name": 3}, "3 is not a valid op name"),
        (plain, {"signature": "(),()"}, r"cannot parse signature '\(\),\(\)' at position 6"),
        (plain, {"signature": "(n),(n->(n)"}, "cannot parse signature .* at position 7"),
    ],
)
def test_options_that_make_no_sense_are_refused_at_decoration(function, options, message):
    with pytest.raises(TfpyopError, match=message):
        differentiable_op(function, **options)
    if options:
        with pytest.raises(TfpyopError, match=message):
            differentiable_op(**options)(function)


@pytest.mark.parametrize(
    ("option", "remedy"),
    [("signatur", "Did you mean 'signature'"), ("gradient", "Did you mean 'grad'"), ("Tout", "Known: ")],
)
def test_an_unknown_option_is_refused(option, remedy):
    message = rf"(?s)^differentiable_op has no option '{option}'\.\n  {remedy}"
    with pytest.raises(RegistrationError, match=message):
        differentiable_op(plain, **{option: None})
    with pytest.raises(RegistrationError, match=message):
        differentiable_op(**{option: None})


@pytest.mark.parametrize("name", ["solve/vjp", "acme:solve/jvp", "solve/vjp/vjp"])
def test_a_name_that_the_op_of_a_rule_would_have_is_refused(name):
    with pytest.raises(RegistrationError, match=rf"'{name}' is the name of a rule's op\."):
        differentiable_op(lambda x: x, name=name)


every_attachment = pytest.mark.parametrize("attach", ["gradient", "numpy_gradient", "jvp", "numpy_jvp"])


@every_attachment
def test_a_rule_for_an_op_declared_non_differentiable_is_refused(attach):
    with pytest.raises(RegistrationError, match="the op is declared non_differentiable, but a rule was attached"):
        getattr(differentiable_op(plain, non_differentiable=True), attach)(max)


@every_attachment
def test_a_decorator_of_rules_returns_the_rule_or_its_op(attach):
    def rule(op, *vectors):
        return vectors

    op = differentiable_op(plain)
    result = getattr(op, attach)(rule)
    if attach.startswith("numpy"):
        assert type(result) is Op
        assert (result.numpy, result.name) == (rule, f"{op.name}/{'vjp' if 'gradient' in attach else 'jvp'}")
    else:
        assert result is rule


@every_attachment
@pytest.mark.parametrize("rule", [None, 3, "numerical"])
def test_what_is_no_rule_is_refused(attach, rule):
    with pytest.raises(RegistrationError, match=rf"{rule!r} is not a rule\.\n  Use the decorator without parentheses"):
        getattr(differentiable_op(plain), attach)(rule)


@pytest.mark.parametrize(
    "options",
    [
        {"grad": max, "numpy_grad": max},
        {"numpy_grad": max, "jvp": max, "numpy_jvp": max},
        {"numpy_grad": 3},
        {"numpy_grad": max, "non_differentiable": True},
        {"numpy_grad": max, "dtype": "flaot32"},
        {"numpy_grad": max, "signature": "("},
        {"numpy_grad": max, "static_argnames": "z"},
    ],
)
def test_what_is_refused_registers_nothing(options):
    listed = list(registered_ops())
    with pytest.raises(TfpyopError):
        differentiable_op(plain, name="tests:refused", **options)
    assert list(registered_ops()) == listed
    for name in ("tests:refused", "tests:refused/vjp", "tests:refused/jvp"):
        with pytest.raises(RegistrationError, match=rf"^no op named '{name}' is registered"):
            get_op(name)


def test_a_refused_second_op_leaves_the_first_as_it_was():
    op = differentiable_op(plain, name="tests:first", numpy_grad=with_options_gradient.numpy)
    rule_op = get_op("tests:first/vjp")
    with pytest.raises(RegistrationError, match="another op already has the name 'tests:first'"):
        differentiable_op(plain, name="tests:first", numpy_grad=max, numpy_jvp=max)
    assert (get_op("tests:first"), get_op("tests:first/vjp")) == (op, rule_op)
    with pytest.raises(RegistrationError, match="no op named 'tests:first/jvp'"):
        get_op("tests:first/jvp")


@pytest.mark.parametrize("attach", ["numpy_gradient", "numpy_jvp"])
def test_the_op_of_a_rule_does_not_show_the_face_of_its_primal(attach):
    op = differentiable_op(lambda x, y, *, axis=-1: (x, y), signature="(),()->(),()", dtype=(None, int))
    rule_op = getattr(op, attach)(lambda op, *vectors: None)
    assert str(inspect.signature(rule_op)) == "(*values, **static)"
    assert (rule_op.output_dtypes, rule_op.signature) == (None, None)
    assert (str(inspect.signature(op)), op.output_dtypes) == ("(x, y, *, axis=-1)", (None, np.dtype(int)))


def test_residuals_are_kept_for_the_rule_and_not_returned():
    kept = []

    def function(x):
        return 2 * x, {"half": x / 2, "n": [len(x)]}

    def gradient(op, cotangent):
        kept.append((op.residuals.half.tolist(), op.residuals.n.tolist()))
        return 2 * cotangent

    residuals = {"half": ("(n)", np.float64), "n": ("(1)", np.int32)}
    op = differentiable_op(function, signature="(n)->(n)", residuals=residuals, numpy_grad=gradient)
    assert op(X).numpy().tolist() == [6, 12]
    assert op.output_dtypes is None
    x = tf.Variable(X)
    with tf.GradientTape() as tape:
        y = op(x)
    assert tape.gradient(y, x).numpy().tolist() == [2, 2]
    assert kept == [([1.5, 3.0], [2])]


@pytest.mark.parametrize("call", [lambda function: function, tf.function], ids=["eager", "graph"])
def test_a_function_that_is_not_vectorized_is_called_with_core_dimensions(call):
    def function(a, b):
        assert (a.shape, b.shape) == ((2, 3), (3,))
        return a @ b

    op = differentiable_op(function, signature="(m,k),(k)->(m)", vectorized=False)
    a, b = np.arange(30, dtype=np.float32).reshape(5, 2, 3), np.float32([[[1, 0, 2]], [[0, 1, 0]]])
    assert np.array_equal(call(op)(tf.constant(a), tf.constant(b)), np.einsum("lmk,jik->jlm", a, b))


# -- static values and inputs


def tokens(concrete):
    nodes = [node for node in concrete.graph.get_operations() if "PyFunc" in node.type]
    return [split(node.get_attr("token").decode())[0] for node in nodes]


@pytest.mark.parametrize(
    ("value", "token"),
    [
        (3, r'tfpyop:tests:power@tests\.test_op\{"static":\{"exponent":3\}\}'),
        (2, r'tfpyop:tests:power@tests\.test_op\{"defaults":\{"exponent":2\}\}'),
        (np.int64(3), r"tfpyop:tests:power#[0-9a-f]{8}-\d+"),
        (np.float64(0.5), r"tfpyop:tests:power#[0-9a-f]{8}-\d+"),
    ],
)
def test_a_static_value_that_is_no_json_has_a_token_of_this_process(value, token):
    if "tests:power" not in registered_ops():
        differentiable_op(lambda x, *, exponent=2: x**exponent, name="tests:power", signature="()->()")
    power = get_op("tests:power")
    function = tf.function(lambda x: power(x, exponent=value))
    assert np.allclose(function(X), X**value)
    (found,) = tokens(function.get_concrete_function(X))
    assert re.fullmatch(token, found)


def test_a_dict_comes_in_and_goes_out_in_its_order():
    op = differentiable_op(
        lambda named: {key: value + len(named) for key, value in named.items()}, dtype={"b": None, "a": None}
    )
    for call in (op, tf.function(op)):
        result = call({"b": X, "a": Y})
        assert [(key, value.numpy().tolist()) for key, value in result.items()] == [("b", [5, 8]), ("a", [6, 10])]
    keys = []
    op = differentiable_op(lambda named: keys.append(list(named)) or named["b"])
    for call in (op, tf.function(lambda b, a: op({"b": b, "a": a}))):
        arguments = [{"b": X, "a": Y}] if call is op else [X, Y]
        assert call(*arguments).numpy().tolist() == [3, 6]
    assert keys == [["b", "a"], ["b", "a"]]


@pytest.mark.parametrize("call", [lambda function: function, tf.function], ids=["eager", "graph"])
def test_a_parameter_with_text_or_an_object_for_a_default_is_static(call):
    def function(x, mode="double", function=np.sin):
        assert (mode, function) in [("double", np.sin), ("triple", np.cos)]
        return 2 * x if mode == "double" else 3 * x

    op = differentiable_op(function, signature="()->()")
    assert call(lambda x: op(x))(X).numpy().tolist() == [6, 12]
    assert call(lambda x: op(x, "triple", np.cos))(X).numpy().tolist() == [9, 18]
    assert call(lambda x: op(x, function=np.cos, mode="triple"))(X).numpy().tolist() == [9, 18]


@pytest.mark.parametrize("call", [lambda function: function, tf.function], ids=["eager", "graph"])
def test_none_at_the_end_is_no_input(call):
    seen = []
    op = differentiable_op(lambda x, y=None, z=None: seen.append((y is None, z is None)) or x)
    assert call(lambda x: op(x))(X).numpy().tolist() == [3, 6]
    assert call(lambda x: op(x, x))(X).numpy().tolist() == [3, 6]
    assert call(lambda x: op(x, None, x))(X).numpy().tolist() == [3, 6]
    assert seen == [(True, True), (False, True), (True, False)]


@pytest.mark.parametrize("call", [lambda function: function, tf.function], ids=["eager", "graph"])
def test_a_wrong_number_of_inputs_names_the_parameters(call):
    op = differentiable_op(lambda x, y=1.0, *, n=2: x, signature="(),()->()")
    with pytest.raises(
        SignatureError, match=r"inputs\.\n  Expected: 2, as the signature says\n  Got:      3: x \(2 in"
    ):
        call(lambda x: op((x, x), x))(X)


@pytest.mark.parametrize("dtype", [">f4", ">f8", ">i4", ">i2", ">u2", ">i8", ">c8", ">c16"])
@pytest.mark.parametrize("call", [lambda function: function, tf.function], ids=["eager", "graph"])
def test_the_byte_order_of_an_array_does_not_matter(call, dtype):
    seen = []
    op = differentiable_op(lambda x: seen.append(x.dtype) or (2 * x).astype(x.dtype.newbyteorder()), signature="()->()")
    assert call(lambda: op(np.array([1, 2], dtype)))().numpy().tolist() == [2, 4]
    assert seen[0].isnative


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64])
def test_python_integers_follow_an_integer_tensor(dtype):
    op = differentiable_op(lambda x, y: x + y, signature="(),()->()")
    assert op(tf.constant([1, 2], dtype), 100).dtype == dtype
    with pytest.raises(CoercionError, match="input 1 has a finite value outside the range of"):
        op(tf.constant([1, 2], dtype), 2**63)


def test_the_users_error_state_reaches_the_function_and_nothing_else():
    states = []

    def function(x):
        states.append(np.geterr())
        return np.float64([np.nan, 1e-300])

    op = differentiable_op(function, signature="()->()")
    with np.errstate(all="raise"):
        expected = np.geterr()
        assert np.isnan(op(X).numpy()).tolist() == [True, False]
    assert states == [expected]


def test_parameters_with_defaults_need_no_input_in_the_signature():
    op = differentiable_op(lambda x, a=1, b=2, c=3: a * b * c * x, signature="()->()")
    assert op(X).numpy().tolist() == [18, 36]


# -- TensorFlow takes ops for functions


def test_an_op_among_the_arguments_of_a_tf_function_stays_the_op():
    seen = []

    @tf.function
    def apply(function, x):
        seen.append(function)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
        return tape.gradient(y, x)

    double = differentiable_op(lambda x: 2 * x, grad=lambda op, cotangent: 2 * cotangent)
    triple = differentiable_op(lambda x: 3 * x, grad=lambda op, cotangent: 3 * cotangent)
    x = tf.constant(X)
    assert [apply(op, x).numpy().tolist() for op in (double, triple, double)] == [[2, 2], [3, 3], [2, 2]]
    assert [function is op for function, op in zip(seen, (double, triple), strict=True)] == [True, True]


@pytest.mark.parametrize("op", [bare, with_options, hypot, direct], ids=repr)
def test_tf_function_takes_an_op(op):
    assert tf.function(op)(X, Y).numpy().tolist() == [5, 10]


def test_tf_function_takes_an_op_by_keywords_and_defaults():
    assert tf.function(with_options)(y=Y, x=X).numpy().tolist() == [5, 10]
    assert tf.function(with_options)(X[:1], factor=3).numpy().tolist() == [15]


def test_tf_function_takes_an_op_with_an_input_signature():
    function = tf.function(with_options, input_signature=[tf.TensorSpec([None]), tf.TensorSpec([None])])
    assert function(X, Y).numpy().tolist() == [5, 10]
    assert function.get_concrete_function().output_shapes.as_list() == [None]


@pytest.mark.parametrize("op", [Scale().method, Scale.static, Scale().static])
def test_tf_function_takes_the_op_of_a_method(op):
    assert tf.function(op)(X).numpy().tolist() == [6, 12]


def test_tf_function_takes_the_op_of_a_function_without_a_signature():
    assert tf.function(maximum)(X).numpy() == 6


@pytest.mark.parametrize("op", [bare, hypot], ids=repr)
def test_a_dataset_maps_an_op_over_its_components(op):
    dataset = tf.data.Dataset.from_tensor_slices((X, Y)).map(op)
    assert list(dataset.as_numpy_iterator()) == [5, 10]


def without_source():
    namespace = {"__name__": __name__}
    exec(compile("def function(x): return x + 1", "<no file>", "exec"), namespace)
    return namespace["function"]


def with_generator():
    def function(x):
        def parts():
            yield x + 1

        return next(parts())

    return function


def with_coroutine():
    def function(x):
        async def later():
            return x + 1

        try:
            later().send(None)
        except StopIteration as stop:
            return stop.value

    return function


def with_else_after_a_loop():
    def function(x):
        for _ in range(1):
            x = x + 1
        else:
            return x

    return function


# TensorFlow 2.21 on Python 3.13: AutoGraph gives up where warnings are errors, whatever it is to convert.
autograph_works = pytest.mark.filterwarnings("ignore:.*got an unexpected keyword argument '___pyct:DeprecationWarning")


@pytest.fixture
def autograph_warnings():
    """The warnings of AutoGraph during a test, as they come."""
    warnings = []
    handler = logging.Handler()
    handler.emit = lambda record: "AutoGraph" in record.getMessage() and warnings.append(record.getMessage())
    tf.get_logger().addHandler(handler)
    yield warnings
    tf.get_logger().removeHandler(handler)


@autograph_works
@pytest.mark.parametrize("make", [without_source, with_generator, with_coroutine, with_else_after_a_loop])
def test_autograph_leaves_the_function_of_an_op_alone(make, autograph_warnings):
    op = differentiable_op(make())
    assert tf.function(lambda x: op(x))(X).numpy().tolist() == [4, 7]
    assert tf.function(op)(X).numpy().tolist() == [4, 7]
    assert next(tf.data.Dataset.from_tensors(X).map(op).as_numpy_iterator()).tolist() == [4, 7]
    assert autograph_warnings == []
    function = make()
    tf.function(lambda x: function(x))(X)  # without the op AutoGraph tries to convert it, and says so
    assert "could not transform" in autograph_warnings[0]


@autograph_works
@pytest.mark.parametrize("rule", [without_source, with_generator, with_coroutine, with_else_after_a_loop])
@pytest.mark.parametrize("kind", ["grad", "numpy_grad"])
def test_autograph_leaves_rules_alone(rule, kind, autograph_warnings):
    function = rule()
    op = differentiable_op(lambda x: x, **{kind: lambda op, cotangent: function(cotangent)})

    @tf.function
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = op(x)
        return tape.gradient(y, x)

    assert gradient(tf.constant(X)).numpy().tolist() == [2, 2]
    assert autograph_warnings == []


def test_an_op_that_a_class_takes_as_an_attribute_is_called_as_before():
    before = with_options(X, 2.0)

    class Model:
        act = with_options

    assert with_options(X, 2.0).numpy().tolist() == Model.act(X, 2.0).numpy().tolist() == before.numpy().tolist()


def test_a_type_may_be_a_static_argument_at_the_first_place():
    op = differentiable_op(lambda kind, x: x.astype(kind), static_argnames="kind", dtype=np.float64)
    assert op(np.float64, X).dtype == tf.float64


@pytest.mark.parametrize("compiler", [None, False, True], ids=["eager", "graph", "XLA"])
def test_a_function_may_change_its_static_lists(compiler):
    def counted(x, *, items):
        items.append(1)
        return x * len(items)

    op = differentiable_op(counted, signature="()->()", non_differentiable=True)
    items = [1, 2]
    call = lambda x: op(x, items=items)  # noqa: E731
    if compiler is not None:
        call = tf.function(call, jit_compile=compiler, autograph=False)
    assert [call(tf.constant(1.0)).numpy() for _ in range(3)] == [3, 3, 3]
    assert items == [1, 2]


def test_an_op_without_inputs_can_be_the_first_call_of_a_process():
    program = """
import numpy as np
from tfpyop import differentiable_op
op = differentiable_op(lambda: np.arange(3, dtype=np.float32), signature="->(3)", dtype=np.float32)
print(op().numpy().tolist())
"""
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100)
    assert process.stdout == "[0.0, 1.0, 2.0]\n", process.stderr
