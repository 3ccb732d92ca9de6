"""Ops in any order of definition, redefinition, tracing, saving, loading, forking, dropping and collection.

Hypothesis makes the steps. A model of a few lines knows what each function must return: what its op returns now if it
has a name, what its op has always returned if it has none, or an error.
"""

import gc
import json
import os
import shutil
import tempfile
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, Phase, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tfpyop import export
from tfpyop._registry.op_def import REGISTRY
from tfpyop.errors import ExportWarning

pytestmark = pytest.mark.slow

X = tf.constant([1.0, 2.0])
NAMES = ("machine.a", "machine.b")
KINDS = {
    "same": ("()->()", "factor * x"),
    "sum": ("(n)->()", "factor * x.sum(-1)"),
    "no rule": ("()->()", "factor * x"),
}
SOURCE = """
from tfpyop import differentiable_op

op = differentiable_op(lambda x: {body}, signature={signature!r}, name={name!r})
"""
RULE = "rule = op.numpy_gradient(lambda op, cotangent: factor * cotangent * (op.inputs[0] * 0 + 1))\n"
NOT_HERE = "exists only in the process that created it"
CHANGED = "the op has changed since the graph that calls it was traced"


def defined(name, kind, factor):
    """Define an op as a module does that is executed, or executed again: in a namespace and with a spec of its own."""
    signature, body = KINDS[kind]
    namespace = {"__name__": "machine", "__spec__": object(), "factor": factor}
    source = SOURCE.format(body=body, signature=signature, name=name) + (RULE if kind != "no rule" else "")
    exec(compile(source, "machine.py", "exec"), namespace)
    return namespace["op"]


@dataclass
class Op:
    """What is known of an op: one object for all that is known by one name."""

    name: str | None
    kind: str
    factor: float
    object: object = None

    def value(self):
        return self.factor * (X.numpy().sum() if self.kind == "sum" else X.numpy())


@dataclass
class Function:
    """A traced or loaded function, and the op that it calls."""

    call: object
    op: Op
    traced_kind: str
    is_traced_here: bool
    is_compiled: bool
    had_rule: bool = True
    """Whether the op had a rule when the function was saved."""


def said_by(function, *arguments):
    with pytest.raises((tf.errors.OpError, ValueError, NotImplementedError, LookupError)) as caught:
        function(*arguments)
    return str(caught.value)


class Ops(RuleBasedStateMachine):
    """Named ops, local ones, the functions that call them, and their models."""

    def __init__(self):
        super().__init__()
        gc.collect()
        self.directory = Path(tempfile.mkdtemp(prefix="machine-"))
        self.named, self.local, self.functions, self.models = {}, [], [], []
        self.next_factor = 1.0
        self.tokens = set()
        self.found_before = set(REGISTRY._concrete_ops)
        self.is_logged = (
            False  # TensorFlow logs what goes wrong in saving, and pytest holds the frames of what is logged
        )

    @initialize(kind=st.sampled_from(["same", "sum"]), is_compiled=st.booleans())
    def begin(self, kind, is_compiled):
        """Begin with a named and a local op, and with a model of each."""
        self.define(NAMES[0], kind)
        self.define_local(kind)
        for op in (self.named[NAMES[0]], self.local[0]):
            self.trace_op(op, is_compiled)
            self.save_function(self.functions[-1])

    def teardown(self):
        self.named.clear()
        self.local.clear()
        self.functions.clear()
        self.models.clear()
        shutil.rmtree(self.directory)
        for name in NAMES:
            REGISTRY._definitions.pop(name, None)
        gc.collect()
        assert self.is_logged or set(REGISTRY._concrete_ops) <= self.found_before, (
            "nothing is left of ops that nobody holds"
        )

    def factor(self):
        """A factor that no other definition has."""
        self.next_factor += 1
        return self.next_factor

    # -- steps

    @rule(name=st.sampled_from(NAMES), kind=st.sampled_from(list(KINDS)))
    def define(self, name, kind):
        """Define a named op, or define it again: then it replaces the one that is there."""
        known = self.named.get(name)
        factor = self.factor()
        made = defined(name, kind, factor)
        if known is None:
            self.named[name] = Op(name, kind, factor, made)
        else:
            known.kind, known.factor, known.object = kind, factor, made

    @rule(kind=st.sampled_from(["same", "sum"]))
    def define_local(self, kind):
        factor = self.factor()
        op = defined(None, kind, factor)
        assert op._definition.is_local
        self.local.append(Op(None, kind, factor, op))

    @precondition(lambda self: self.named or self.local)
    @rule(data=st.data(), is_compiled=st.sampled_from([False, False, True]))
    def trace(self, data, is_compiled):
        ops = [*self.named.values(), *[op for op in self.local if op.object is not None]]
        if not ops:
            return
        self.trace_op(data.draw(st.sampled_from(ops)), is_compiled)

    def trace_op(self, op, is_compiled):
        function = tf.function(op.object, [tf.TensorSpec([None])], autograph=False, jit_compile=is_compiled)
        concrete = function.get_concrete_function()  # what is called and saved: the function might be traced again
        self.functions.append(Function(concrete, op, op.kind, True, is_compiled))

    @precondition(lambda self: self.functions)
    @rule(data=st.data())
    def call(self, data):
        self.check(data.draw(st.sampled_from(self.functions)))

    @precondition(lambda self: any(function.is_traced_here for function in self.functions))
    @rule(data=st.data())
    def save(self, data):
        self.save_function(data.draw(st.sampled_from([each for each in self.functions if each.is_traced_here])))

    def save_function(self, function):
        module = tf.Module()
        module.call = function.call
        path = self.directory / str(len(self.models))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExportWarning)
            if self.has_changed(function):  # its gradient cannot be traced
                assert "Error when tracing gradients" in said_by(export.save, module, path)
                self.is_logged = True
                return
            export.save(module, path)
        needed = export.required_ops(path)  # of a local op, its rule too
        assert needed
        assert {(op.is_local, op.is_available) for op in needed} == {(function.op.name is None, True)}
        has_rule = function.op.kind != "no rule"
        self.models.append(
            (path, Function(None, function.op, function.traced_kind, False, function.is_compiled, has_rule))
        )

    @precondition(lambda self: self.models)
    @rule(data=st.data())
    def load(self, data):
        path, saved = data.draw(st.sampled_from(self.models))
        self.functions.append(replace(saved, call=tf.saved_model.load(str(path)).call))
        self.check(self.functions[-1])

    @precondition(lambda self: self.functions)
    @rule(data=st.data())
    def drop_function(self, data):
        del self.functions[data.draw(st.integers(0, len(self.functions) - 1))]

    @precondition(lambda self: any(op.object is not None for op in self.local))
    @rule(data=st.data())
    def drop_op(self, data):
        data.draw(st.sampled_from([op for op in self.local if op.object is not None])).object = None

    @rule()
    def collect(self):
        gc.collect()

    @rule()
    def fork(self):
        """A child, which does nothing but to make names: TensorFlow's threads are not in it."""
        read, write = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads, which the child does not use
            child = os.fork()
        if child == 0:
            gc.disable()  # what is collected may be TensorFlow's
            try:
                definition = SimpleNamespace(is_local=True, module="machine", name="machine:op")
                made = [REGISTRY.token_of(ConcreteOp(definition)), REGISTRY.unique("machine:op")]
                os.write(write, json.dumps(made).encode())
            finally:
                os._exit(0)
        os.close(write)
        with os.fdopen(read) as pipe:
            tokens = json.loads(pipe.read())
        assert os.waitpid(child, 0)[1] == 0
        serials = {token.rpartition("#")[2].partition("-")[0] for token in tokens}
        assert serials.isdisjoint({REGISTRY.unique("").rpartition("#")[2].partition("-")[0]})
        assert self.tokens.isdisjoint(tokens)
        assert all(REGISTRY.find_op(token) is None for token in tokens)
        self.tokens.update(tokens)

    # -- what must hold

    def check(self, function):
        """Call a function, and take its gradient: both are right, or an error that says what has changed."""
        op = function.op
        if not self.is_here(op):
            gc.collect()
            if not function.is_traced_here:
                event("a loaded function of an op that is gone")
                assert NOT_HERE in said_by(function.call, X)
            return
        if self.has_changed(function):
            event("a changed op")
            assert CHANGED in said_by(function.call, X)
            return
        event(f"{'local' if op.name is None else 'named'}, {'traced' if function.is_traced_here else 'loaded'}")
        if op.kind == "no rule" or not function.had_rule:
            np.testing.assert_allclose(function.call(X), op.value(), rtol=1e-6)
            return
        with tf.GradientTape() as tape:
            tape.watch(X)
            y = function.call(X)
        np.testing.assert_allclose(y, op.value(), rtol=1e-6)
        np.testing.assert_allclose(tape.gradient(y, X), [op.factor] * 2, rtol=1e-6)

    def has_changed(self, function):
        return (function.op.kind == "sum") != (function.traced_kind == "sum")

    def is_here(self, op):
        """Whether an op must be found: it has a name, or somebody holds it."""
        if op.name is not None or op.object is not None:
            return True
        return any(function.op is op and function.is_traced_here for function in self.functions)

    @invariant()
    def named_ops_are_those_defined_last(self):
        for name, op in self.named.items():
            assert REGISTRY.find(name).op is op.object
            np.testing.assert_allclose(op.object(X), op.value(), rtol=1e-6)


class ConcreteOp:
    """What the registry needs of a concrete op."""

    is_batched, payload, name = False, None, "machine:op"

    def __init__(self, definition):
        self.definition = definition


Ops.TestCase.settings = settings(
    max_examples=12,
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],  # a step takes long, and shrinking takes many
    suppress_health_check=list(HealthCheck),
)

if hasattr(os, "fork"):
    test_ops_in_any_order = Ops.TestCase
