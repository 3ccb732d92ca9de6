"""Names of ops: which ops are registered, which names are taken, and what replaces an op."""

import importlib
import itertools
import pickle
import sys
from collections.abc import Mapping, MutableMapping

import numpy as np
import pytest
import tensorflow as tf

from tests import modes
from tests.forms import RULES, X, Y, bare, every_local, every_registered, hypot, made_in_a_function
from tests.processes import start_python
from tfpyop import RegistrationError, differentiable_op, get_op, registered_ops


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
    assert op.name == "tests.forms:made_in_a_function"
    assert op.name not in registered_ops()


def test_functions_of_the_same_name_made_in_functions_do_not_clash():
    first, second = made_in_a_function(np.sin), made_in_a_function(np.cos)
    assert (first.name, first(0.0).numpy(), second(0.0).numpy()) == (second.name, 0, 1)


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


_serial = itertools.count(1)
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


def test_a_factory_replaces_its_ops_when_its_module_is_executed_again(write):
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


@pytest.mark.parametrize(("arguments", "stdin"), [(["-i"], REDEFINED), (["-c", REDEFINED], None)], ids=["-i", "-c"])
def test_an_interactive_definition_replaces_the_one_before(arguments, stdin):
    result = start_python(*arguments, stdin=stdin)
    assert result.stdout == "True 2 ['__main__:double']\n", result.stderr


def test_a_script_is_not_interactive(tmp_path):
    (tmp_path / "script.py").write_text(REDEFINED)
    result = start_python(str(tmp_path / "script.py"))
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
    with pytest.raises(RegistrationError, match='grad="numerical" already defines this derivative'):
        exec(f"@double.numpy_gradient{rule_cell}", notebook)


# -- the registry


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tests.forms:bear", "Did you mean 'tests.forms:bare'"),
        ("forms:with_option", "Did you mean 'tests.forms:with_options' or "),
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
        ops["tests.forms:bare"] = hypot
    with pytest.raises(TypeError, match="does not support item deletion"):
        del ops["tests.forms:bare"]
    assert ops["tests.forms:bare"] is bare


def test_registered_ops_answers_for_unknown_names_as_mappings_do():
    assert "tests.forms:nothing" not in registered_ops()
    assert registered_ops().get("tests.forms:nothing", 3) == 3
    with pytest.raises(KeyError, match=r"^'tests\.forms:nothing'$"):
        registered_ops()["tests.forms:nothing"]


def test_registered_ops_lists_in_the_order_of_definition_and_grows():
    before = registered_ops()
    names = [f"tests:later_{number}" for number in (2, 1)]
    assert not set(names) & set(before)
    for name in names:
        differentiable_op(np.sin, name=name)
    assert [name for name in before if name in names] == names


BRACKETS = "tests.names:solve[3](csr)"


@pytest.mark.parametrize("mode", modes.MODES)
def test_names_may_contain_brackets(mode):
    op = differentiable_op(lambda x: 2 * x, signature="()->()", numpy_grad=lambda op, g: 2 * g, name=BRACKETS)
    assert get_op(BRACKETS) is op
    assert modes.call(mode, op, np.float32([1, 2])).tolist() == [2, 4]


@pytest.mark.parametrize("is_compiled", [False, True])
def test_models_find_names_with_brackets(tmp_path, is_compiled):
    op = differentiable_op(lambda x: 2 * x, signature="()->()", numpy_grad=lambda op, g: 2 * g, name=BRACKETS)
    module = tf.Module()
    module.call = tf.function(op, input_signature=[tf.TensorSpec([2])], jit_compile=is_compiled)
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=True)
    tf.saved_model.save(module, str(tmp_path), options=options)
    loaded, x = tf.saved_model.load(str(tmp_path)), tf.constant([1.0, 2.0])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = loaded.call(x)
    assert y.numpy().tolist() == [2, 4]
    assert tape.gradient(y, x).numpy().tolist() == [2, 2]
    assert tf.vectorized_map(op, tf.constant([[1.0], [2.0]])).numpy().tolist() == [[2], [4]]
