"""Static values that can be changed: every function, rule and shape function gets its own."""

from types import MappingProxyType

import numpy as np
import pytest
import tensorflow as tf

from tests import modes
from tfpyop import differentiable_op, prefer_native
from tfpyop._spec.static_values import copied, static_values

X = np.float32([1, 2, 3])


class Marked:
    """An object that is not JSON, so that the token is of this process only."""


def spoil(values):
    """Change a list, as nobody should."""
    values.append(99)
    values[0] = 99


class Recorder:
    """An op with every kind of rule, each of which changes its list after it has noted what it got."""

    def __init__(self, options, **more):
        self.seen = {}

        def note(who, values):
            self.seen.setdefault(who, []).append(list(values))
            spoil(values)

        def function(x, *, factors, mark=None):
            note("function", factors)
            return x * 2

        def shape(x, *, factors, mark=None):
            note("shape", factors)
            return x

        self.op = differentiable_op(function, shape=shape, name=f"tests.static:{id(self)}", **more)

        @self.op.gradient
        def gradient(op, grad):
            note("gradient", op.static.factors)
            return grad * 2

        @self.op.jvp
        def jvp(op, tangent):
            note("jvp", op.static.factors)
            return tangent * 2

        @self.op.native
        def native(x, *, factors, mark=None):
            note("native", factors)
            return x * 2

        self.options = options

    def __call__(self, x, factors):
        return self.op(x, factors=factors, **self.options)

    def require_clean(self):
        assert self.seen
        for who, values in self.seen.items():
            assert all(value == [2, 3] for value in values), (who, values)


@pytest.fixture(params=[{}, {"mark": Marked()}], ids=["JSON", "no JSON"])
def recorder(request):
    return Recorder(request.param)


@pytest.mark.parametrize("mode", [mode for mode in modes.MODES if "unknown" not in mode])
def test_changes_of_one_call_are_not_visible_in_another(mode, recorder):
    factors = [2, 3]
    for _ in range(2):
        modes.call(mode, lambda x: recorder(x, factors), X)
    assert factors == [2, 3]
    recorder.require_clean()


@pytest.mark.parametrize("mode", ["tape, eager", "tape outside", "tape inside", "gradients", "tape inside, XLA"])
def test_nor_a_rule(mode, recorder):
    factors = [2, 3]
    for _ in range(2):
        modes.gradient(mode, lambda x: recorder(x, factors), X)
    assert factors == [2, 3]
    assert "gradient" in recorder.seen
    recorder.require_clean()


def test_nor_forward_mode(recorder):
    x, factors = tf.constant(X), [2, 3]
    for _ in range(2):
        with tf.autodiff.ForwardAccumulator(x, tf.ones_like(x)) as accumulator:
            accumulator.jvp(recorder(x, factors))
        recorder(x, factors)
    assert {"jvp", "function"} <= set(recorder.seen)
    recorder.require_clean()


@pytest.mark.parametrize("mode", ["tape, eager", "tape inside", "tape inside, XLA"])
@pytest.mark.parametrize("mark", [None, Marked()])
def test_nor_a_numpy_rule_and_its_rule(mode, mark):
    seen = []

    def note(values):
        seen.append(list(values))
        spoil(values)

    op = differentiable_op(lambda x, *, factors, mark=None: x**2, signature="()->()")

    @op.numpy_gradient
    def first(context, grad):
        note(context.static.factors)
        return 2 * context.inputs[0] * grad

    @first.gradient
    def second(context, grad):
        note(context.static.factors)
        return 2 * context.inputs[2] * grad, None, 2 * context.inputs[0] * grad

    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = op(x, factors=[2, 3], mark=mark)
        return tape.gradient(y, x)

    for _ in range(2):
        [result] = modes.gradient(mode, gradient, X)
        assert result.tolist() == [2, 2, 2]
    assert all(values == [2, 3] for values in seen)
    assert len(seen) >= 2


def test_nor_a_native_implementation(recorder):
    with prefer_native():
        for _ in range(2):
            assert recorder(tf.constant(X), [2, 3]).numpy().tolist() == [2, 4, 6]
    assert "native" in recorder.seen
    recorder.require_clean()


def test_a_list_that_the_caller_changes_later_does_not_change_a_graph(recorder):
    factors = [2, 3]
    function = tf.function(lambda x: recorder(x, factors), autograph=False)
    function(X)
    spoil(factors)
    function(X)
    recorder.require_clean()


def test_a_default_list_is_not_shared():
    seen = []

    def function(x, *, factors=[2, 3]):  # noqa: B006 - the mistake that is caught
        seen.append(list(factors))
        spoil(factors)
        return x

    op = differentiable_op(function, signature="()->()")
    for _ in range(3):
        op(X)
        tf.function(op)(X)
    assert seen == [[2, 3]] * 6


def test_the_token_of_a_default_list_is_that_of_the_op_behind_its_derivative():
    tokens = set()
    op = differentiable_op(
        lambda x, *, factors=[2, 3]: x,
        signature="()->()",
        name="tests.static:default",
    )

    @op.numpy_gradient
    def rule(context, grad):
        return grad

    def gradient(x):
        return tf.gradients(op(x), x)

    graph = tf.function(gradient, autograph=False).get_concrete_function(tf.TensorSpec([3])).graph
    tokens = {
        node.get_attr("token").decode().partition("|")[0] for node in graph.get_operations() if "PyFunc" in node.type
    }
    assert tokens == {
        f'tfpyop:tests.static:default{rule}@tests.test_static_values{{"defaults":{{"factors":[2,3]}}}}'
        for rule in ("", "/vjp")
    }


class OwnList(list):
    """A list of the user's."""


@pytest.mark.parametrize(
    "value", [[1], {"a": [1]}, (1, [2]), {1, 2}, bytearray(b"ab"), OwnList([1])], ids=lambda value: type(value).__name__
)
def test_what_can_be_changed_is_copied(value):
    values = static_values({"value": value, "other": Marked})
    assert values["value"] == value
    assert type(values["value"]) is type(value)
    assert values["value"] is not value
    assert values["value"] is not values["value"]
    assert dict(**values) == {"value": value, "other": Marked}


@pytest.mark.parametrize(
    "value",
    [1, "a", None, (1, ("b",)), frozenset({1}), Marked(), np.ones(3), len],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_changed_or_is_an_object_costs_nothing(value):
    values = static_values({"value": value})
    assert type(values) is MappingProxyType
    assert values["value"] is value
    assert copied(value) is value or copied(value) == value


def test_values_are_taken_over_once():
    values = static_values({"value": [1]})
    assert static_values(values) is values
    assert list(values) == ["value"]
    assert len(values) == 1
    with pytest.raises(KeyError):
        values["other"]
