"""Copies and pickles of ops, and functions that share a place or a name."""

import copy
import functools
import importlib
import pickle

import numpy as np
import pytest
import tensorflow as tf

from tests.forms import LOCAL, Scale, X, every_found, every_op, plain
from tests.processes import start_python
from tfpyop import RegistrationError, UnsupportedError, differentiable_op


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
    name = "tests.forms:gone"
    op = differentiable_op(plain, name=name)
    pickled = pickle.dumps(op).replace(name.encode(), b"tests.forms:none")
    with pytest.raises(UnsupportedError, match=r"^op 'tests\.forms:none': module '.*' is imported, but does not"):
        pickle.loads(pickled)
    with pytest.raises(UnsupportedError, match="the op was defined in the __main__ module of another program"):
        importlib.import_module("tfpyop._op")._unpickle("__main__", "__main__:gone")


def test_a_call_without_an_argument_shows_the_inputs_of_the_signature():
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
    saved = start_python("-c", f"import pickle, {name}; print(pickle.dumps({ops}).hex())")
    program = f"""
import pickle, sys
loaded = pickle.loads(bytes.fromhex({saved.stdout.strip()!r}))
{name} = sys.modules[{name!r}]
print([a is b for a, b in zip(loaded, {ops}, strict=True)], [op.name for op in loaded])
"""
    result = start_python("-c", program)
    names = [f"{name}:double", f"{name}:double/vjp", f"{name}:hypot", "acme:angle", f"{name}:Model.method"]
    assert result.stdout == f"{[True] * 5} {names}\n", result.stderr
