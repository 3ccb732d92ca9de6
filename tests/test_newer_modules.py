"""Graphs and models that call an op whose module was edited since: they run as before, or say what has changed."""

import importlib
import sys

import numpy as np
import pytest
import tensorflow as tf

from tfpyop import export

X = tf.constant([1.0, 2.0, 3.0])
HEADER = "import numpy as np\nfrom tfpyop import differentiable_op\n\n"
OLD = """
@differentiable_op(signature="(n)->(n)")
def op(x, *, scale=2.0):
    return scale * x

@op.numpy_gradient
def rule(op, cotangent):
    return op.static.scale * cotangent

@rule.numpy_gradient
def second(op, cotangent):
    return None, None, op.static.scale * cotangent
"""
RULES = OLD[OLD.index("@op.numpy_gradient") :]


def changed(function, signature='signature="(n)->(n)"'):
    return f"\n@differentiable_op({signature})\ndef op{function}\n\n{RULES}"


WITH_SCALE = "(x, *, scale=2.0): return "
OTHER_OUTPUTS = {
    "a scalar": (changed(WITH_SCALE + "x.sum(-1)", 'signature="(n)->()"'), "float32[3]", "float32[]"),
    "one element more": (changed(WITH_SCALE + "np.append(x, x[:1])", 'signature="(n)->(n+1)"'), "[3]", "[4]"),
    "another rank": (changed(WITH_SCALE + "np.diag(x)", 'signature="(n)->(n,n)"'), "float32[3]", "float32[3, 3]"),
    "a size of the run time": (changed(WITH_SCALE + "x[:2]", 'signature="(n)->(k?)"'), "float32[3]", "float32[2]"),
    "another dtype": (changed(WITH_SCALE + "x", 'signature="(n)->(n)", dtype="float64"'), "float32[3]", "float64[3]"),
    "two outputs": (changed(WITH_SCALE + "(x, x)", 'signature="(n)->(n),(n)"'), "float32[3]", "float32[3], float32[3]"),
    "a residual": (
        changed(WITH_SCALE + '(x, {"r": x})', 'signature="(n)->(n)", residuals={"r": ("(n)", np.float32)}'),
        "float32[3]",
        "float32[3], float32[3]",
    ),
    "no signature": (changed(WITH_SCALE + "x.sum()", "shape=lambda shape, scale: ()"), "float32[3]", "float32[]"),
}
OTHER_INPUTS = {
    "two inputs": (changed("(x, y, *, scale=2.0): return x", 'signature="(n),(n)->(n)"'), "Expected: 2", "Got:      1"),
    "a matrix": (changed(WITH_SCALE + "x.sum(-1)", 'signature="(m,n)->(m)"'), "(m,n)", "[3]"),
}
OTHER_STATIC = {
    "renamed": (changed("(x, *, factor=3.0): return factor * x"), "static parameters 'factor'", "scale="),
    "gone": (changed("(x): return 3 * x"), "no static parameters", "scale="),
    "an input": (changed("(x, scale, *, n=1): return x", 'signature="(n),()->(n)"'), "static parameters 'n'", "scale="),
}
STILL_RIGHT = {
    "another body": changed(WITH_SCALE + "scale * x + 0 * x"),
    "another default": changed("(x, *, scale=7.0): return scale * x"),
    "no default": changed("(x, *, scale): return scale * x"),
    "one parameter more": changed("(x, *, scale=7.0, offset=0.0): return scale * x + offset"),
    "any parameters": changed("(x, **options): return options['scale'] * x"),
    "element by element": changed(WITH_SCALE + "scale * x", 'signature="()->()"'),
    "no signature": changed(WITH_SCALE + "scale * x", ""),
    "of any size": changed(WITH_SCALE + "scale * x", 'signature="(n)->(k?)"'),
}


def use(function):
    """Call a function, and take two derivatives of it."""
    with tf.GradientTape() as outer:
        outer.watch(X)
        with tf.GradientTape() as tape:
            tape.watch(X)
            y = function(X)
        first = tape.gradient(y, X, output_gradients=X)
    return y, first, outer.gradient(first, X)


@pytest.fixture
def write(tmp_path, monkeypatch, request):
    """Write a module and import it, or import it again."""
    name = f"newer_{abs(hash(request.node.name))}"
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(source):
        (tmp_path / f"{name}.py").write_text(HEADER + source)
        importlib.invalidate_caches()
        module = sys.modules.get(name)
        return importlib.import_module(name) if module is None else importlib.reload(module)

    yield write
    sys.modules.pop(name, None)


def traced(op, mode, spec, tmp_path):
    """Return a function that calls the op: of the process that has traced it, or of a model."""
    is_compiled = mode.startswith("XLA")
    function = tf.function(op, input_signature=[spec], jit_compile=is_compiled, autograph=False)
    function.get_concrete_function()
    if mode.endswith("traced"):
        return function
    module = tf.Module()
    module.call = function
    export.save(module, tmp_path / "model")
    return tf.saved_model.load(str(tmp_path / "model")).call


KNOWN, UNKNOWN = tf.TensorSpec([3]), tf.TensorSpec([None])
MODES = ["graph, traced", "graph, saved", "XLA, traced", "XLA, saved"]
in_every_mode = pytest.mark.parametrize("mode", MODES)
of_every_size = pytest.mark.parametrize(
    ("mode", "spec"),
    [("graph, traced", UNKNOWN), ("graph, saved", UNKNOWN), ("graph, saved", KNOWN), ("XLA, saved", UNKNOWN)],
)


def error_of(function, *arguments):
    with pytest.raises((tf.errors.OpError, ValueError, NotImplementedError)) as caught:
        function(*arguments)
    return str(caught.value)


@of_every_size
@pytest.mark.parametrize("change", OTHER_OUTPUTS)
def test_other_outputs_are_an_error_that_names_both(write, mode, spec, change, tmp_path):
    source, expected, got = OTHER_OUTPUTS[change]
    function = traced(write(OLD).op, mode, spec, tmp_path)
    write(source)
    said = error_of(function, X)
    assert ":op' (" in said
    assert "the op has changed since the graph that calls it was traced" in said
    assert f"{expected}, from the graph" in said
    assert f"{got}, from the current op" in said
    assert "save the model again with the current op" in said


@of_every_size
@pytest.mark.parametrize("change", OTHER_INPUTS)
def test_other_inputs_are_an_error_that_names_both(write, mode, spec, change, tmp_path):
    source, expected, got = OTHER_INPUTS[change]
    function = traced(write(OLD).op, mode, spec, tmp_path)
    write(source)
    said = error_of(function, X)
    assert ":op' (" in said
    assert expected in said
    assert got in said


@in_every_mode
@pytest.mark.parametrize("scale", [None, 2.5], ids=["default", "given"])
@pytest.mark.parametrize("change", OTHER_STATIC)
def test_a_static_value_that_has_no_parameter_is_an_error_that_names_both(write, mode, scale, change, tmp_path):
    source, expected, got = OTHER_STATIC[change]
    op = write(OLD).op
    function = traced((lambda x: op(x)) if scale is None else (lambda x: op(x, scale=scale)), mode, KNOWN, tmp_path)
    write(source)
    said = error_of(function, X)
    assert ":op' (" in said
    assert "the op has no static parameter 'scale'" in said
    assert f"Expected: {expected}" in said
    assert f"{got}{scale or 2.0}" in said
    if mode.endswith("saved"):
        assert "has no static parameter 'scale'" in error_of(export.load, tmp_path / "model")


@of_every_size
@pytest.mark.parametrize("change", STILL_RIGHT)
def test_what_fits_still_runs_with_its_derivatives(write, mode, spec, change, tmp_path):
    function = traced(write(OLD).op, mode, spec, tmp_path)
    write(STILL_RIGHT[change])
    y, first, _ = use(function)
    np.testing.assert_allclose(y, 2 * X)
    np.testing.assert_allclose(first, 2 * X)


@pytest.mark.parametrize("change", ["a residual", "two outputs", "another dtype"])
def test_the_gradient_of_a_node_of_the_old_op_does_not_take_the_new_ones_outputs_for_its_own(write, change):
    op = write(OLD).op

    @tf.function(autograph=False)
    def function(x):
        y = op(x)
        write(OTHER_OUTPUTS[change][0])
        return tf.gradients(y, x)

    with pytest.raises(ValueError, match="the op has changed since the graph that calls it was traced"):
        function(X)


def test_rows_are_compared_too(write, tmp_path):
    op = write(OLD).op
    rows = tf.constant([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    function = traced(lambda x: tf.vectorized_map(op, x), "graph, saved", tf.TensorSpec([None, None]), tmp_path)
    np.testing.assert_allclose(function(rows), 2 * rows)
    write(OTHER_OUTPUTS["a scalar"][0])
    said = error_of(function, rows)
    assert "float32[2, 3], from the graph" in said
    assert "float32[2], from the current op" in said


def test_a_text_is_compared_by_its_shape(write, tmp_path):
    source = "op = differentiable_op(lambda x: {}, name='newer_text', dtype=str, {})"
    for spec in ([], [None]):
        op = write(source.format("x", "signature='()->()'")).op
        function = traced(op, "graph, saved", tf.TensorSpec(spec, tf.string), tmp_path / str(len(spec)))
        text = tf.fill([2] * len(spec), "a")
        assert tf.reduce_all(function(text) == text)
        write(source.format("np.array([b'a'] * 3)", "shape=lambda x: (3,)"))
        assert "string[3], from the current op" in error_of(function, text)
