"""Programs of TensorFlow 1, run in a process of their own: `python -m tests.tf1_programs SETTING...`.

Every setting is a function of `tf.compat.v1` that switches a behavior of TensorFlow 2 off, for the whole process. The
process prints, as JSON, what became of each program: "" if it did what it should, else the traceback.
"""

import contextlib
import json
import sys
import tempfile
import traceback

import numpy as np
import pytest
import tensorflow as tf
import tensorflow.compat.v1 as tf1

from tfpyop import differentiable_op

ROWS = np.float32([[1, 2, 3], [4, 5, 6]])
PROGRAMS = {}
EAGER_PROGRAMS = {}


def program(function):
    """Add a program that is run in a graph of its own, by the name of its function."""
    PROGRAMS[function.__name__] = function
    return function


def eager(function):
    """Add a program that is run eagerly, if the settings leave that on."""
    EAGER_PROGRAMS[function.__name__] = function
    return function


@differentiable_op(signature="()->()")
def square(x):
    return x * x


@square.numpy_gradient
def square_gradient(op, cotangent):
    return 2 * op.inputs[0] * cotangent


@square_gradient.gradient
def square_second_derivative(op, second):
    x, _, cotangent = op.inputs
    return 2 * cotangent * second, None, 2 * x * second


@differentiable_op(signature="(n)->()")
def norm(x):
    """The square of the norm, with a rule in TensorFlow ops."""
    return (x * x).sum(-1)


@norm.gradient
def norm_gradient(op, cotangent):
    return 2 * op.inputs[0] * cotangent[..., None]


@differentiable_op(signature="(m,k),(k,n)->(m,n)", residuals={"product": ("(m,n)", np.float32)})
def matmul(a, b):
    return a @ b, {"product": a @ b}


@matmul.numpy_gradient
def matmul_gradient(op, cotangent):
    a, b = op.inputs
    assert op.residuals.product.shape == cotangent.shape
    return cotangent @ np.swapaxes(b, -1, -2), np.swapaxes(a, -1, -2) @ cotangent


@differentiable_op(signature="(n)->(n-1)", grad="numerical")
def difference(x):
    return np.diff(x)


@differentiable_op(signature="(n)->(),()", dtype=(None, np.int64))
def largest(x):
    return x.max(-1), x.argmax(-1)


@largest.numpy_gradient
def largest_gradient(op, cotangent, _):
    return cotangent[..., None] * (np.arange(op.inputs[0].shape[-1]) == op.outputs[1][..., None])


@differentiable_op
def unsigned(x):
    """An op whose shapes are not known."""
    return np.abs(x)


@unsigned.gradient
def unsigned_gradient(op, cotangent):
    return cotangent * tf.sign(op.inputs[0])


@differentiable_op(signature="()->()", dtype="string")
def shout(text):
    return np.array([word.upper() for word in text.ravel()], object).reshape(text.shape)


calls = []


@differentiable_op(signature="()->()", stateful=True)
def count(x):
    calls.append(float(x))
    return x


def run(fetches, feed=None):
    """The values of tensors in a new session, with all variables initialized."""
    with tf1.Session() as session:
        session.run([tf1.global_variables_initializer(), tf1.tables_initializer()])
        return session.run(fetches, feed)


def same(actual, expected):
    """Compare the value of one tensor, or a list of them, with what is expected."""
    pairs = zip(actual, expected, strict=True) if isinstance(actual, list) else [(actual, expected)]
    for left, right in pairs:
        np.testing.assert_allclose(left, right, rtol=1e-4)
        assert np.shape(left) == np.shape(right), (left, right)


@program
def placeholders_of_known_shape():
    x = tf1.placeholder(tf.float32, [2, 3])
    y = norm(x)
    assert y.shape.as_list() == [2]
    same(run([y, *tf1.gradients(y, x)], {x: ROWS}), [[14, 77], 2 * ROWS])


@program
def placeholders_of_unknown_sizes_and_ranks():
    for shape in ([None, 3], [None, None], None):
        x = tf1.placeholder(tf.float32, shape)
        y = norm(x)
        same(run([y, *tf1.gradients(y, x)], {x: ROWS}), [[14, 77], 2 * ROWS])
    assert norm(tf1.placeholder(tf.float32, [None, 3])).shape.as_list() == [None]


@program
def one_graph_is_fed_other_shapes():
    x = tf1.placeholder(tf.float32, [None])
    y = difference(x)
    (gradient,) = tf1.gradients(y, x)
    with tf1.Session() as session:
        for n in (2, 5, 3):
            same(session.run([y, gradient], {x: np.arange(n)}), [np.ones(n - 1), [-1, *[0] * (n - 2), 1]])


@program
def placeholders_with_default_and_feeds_of_inner_tensors():
    x = tf1.placeholder_with_default(np.float32(3), [])
    y = square(x)
    z = square(y)
    same([run(z), run(z, {x: 2}), run(z, {y: 5})], [81, 16, 25])


@program
def inputs_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="input 1 does not fit signature"):
        matmul(tf1.placeholder(tf.float32, [2, 3]), tf1.placeholder(tf.float32, [4, 5]))
    a, b = tf1.placeholder(tf.float32, [2, None]), tf1.placeholder(tf.float32, [None, 5])
    with pytest.raises(tf.errors.OpError, match="input 1 does not fit signature"):
        run(matmul(a, b), {a: np.ones([2, 3]), b: np.ones([4, 5])})


@program
def plain_values_beside_tensors():
    x = tf1.placeholder(tf.float64, [])
    y = matmul([[1.0, 2.0]], tf.reshape(tf.stack([x, x]), [2, 1]))
    assert y.dtype == tf.float64
    same(run(y, {x: 2.0}), [[6]])
    same(run(square(3.0)), 9)


@program
def sizes_are_inputs():
    x = tf1.placeholder(tf.float32, [2, 3])
    scaled = differentiable_op(lambda x, n: x * n, signature="(),()->()")
    same(run(scaled(x, x.shape[1]), {x: ROWS}), 3 * ROWS)  # a Dimension, where tensor shapes are those of TensorFlow 1
    same(run(scaled(x, [x.shape[1]]), {x: ROWS}), 3 * ROWS)


@program
def a_variable_is_trained():
    x = tf1.placeholder(tf.float32, [None, 3])
    weights = tf1.get_variable("weights", [3, 1], initializer=tf1.zeros_initializer())
    loss = tf.reduce_sum(square(matmul(x, weights) - 1))
    for optimizer in (
        tf1.train.GradientDescentOptimizer(0.01),
        tf1.train.MomentumOptimizer(0.005, 0.5),
        tf1.train.AdamOptimizer(0.05),
    ):
        step = optimizer.minimize(loss)
        with tf1.Session() as session:
            session.run(tf1.global_variables_initializer())
            losses = [session.run([loss, step], {x: ROWS})[0] for _ in range(60)]
        assert losses[-1] < 0.1 * losses[0], losses


@program
def variables_are_inputs():
    for use_resource in (False, True):
        variable = tf1.Variable(ROWS, use_resource=use_resource)
        y = norm(variable)
        same(run([y, *tf1.gradients(y, [variable])]), [[14, 77], 2 * ROWS])


@program
def reference_tensors_are_inputs():
    variable = tf1.Variable(ROWS, use_resource=False)
    changed = tf1.assign_add(variable, ROWS)
    same(run(norm(changed)), 4 * np.float32([14, 77]))
    with tf.control_dependencies([tf1.assign(variable, 3 * ROWS)]):
        y = norm(variable.read_value())
    same(run(y), 9 * np.float32([14, 77]))


@program
def outputs_are_assigned_to_a_variable():
    variable = tf1.Variable([1.0, 2.0], use_resource=False)
    step = tf1.assign(variable, square(variable))
    with tf1.Session() as session:
        session.run(tf1.global_variables_initializer())
        for expected in ([1, 4], [1, 16], [1, 256]):
            session.run(step)
            same(session.run(variable), expected)


@program
def partitioned_variables_are_inputs():
    with tf1.variable_scope("parts", partitioner=tf1.fixed_size_partitioner(2)):
        variable = tf1.get_variable("variable", [2, 3], initializer=tf1.ones_initializer())
    y = norm(variable)
    same(run([y, *tf1.gradients(y, list(variable))]), [[3, 3], [[2, 2, 2]], [[2, 2, 2]]])


@program
def variables_of_a_scope_are_shared():
    def layer(x):
        with tf1.variable_scope("layer", reuse=tf1.AUTO_REUSE):
            return matmul(x, tf1.get_variable("weights", initializer=np.float32([[1], [2], [3]])))

    y = layer(tf.constant(ROWS)) + layer(tf.constant(ROWS))
    (weights,) = tf1.trainable_variables()
    same(run([y, *tf1.gradients(y, weights)]), [[[28], [64]], 2 * ROWS.sum(0)[:, None]])


@program
def rows_are_gathered():
    table = tf1.get_variable("table", initializer=ROWS)
    y = norm(tf1.nn.embedding_lookup(table, [1, 1]))
    step = tf1.train.GradientDescentOptimizer(0.25).minimize(tf.reduce_sum(y))
    with tf1.Session() as session:
        session.run(tf1.global_variables_initializer())
        session.run(step)
        same(session.run(table), [ROWS[0], 0 * ROWS[1]])
    gathered = tf.gather(square(table), [1, 1])  # its cotangent comes as IndexedSlices
    same(run(tf1.gradients(gathered, table)), [[[0, 0, 0], [16, 20, 24]]])


@program
def a_loop_calls_an_op():
    start = tf1.placeholder(tf.float32, [])
    _, y = tf1.while_loop(lambda i, y: i < 3, lambda i, y: (i + 1, square(y)), [0, start])
    same(run([y, *tf1.gradients(y, start)], {start: 1.1}), [1.1**8, 8 * 1.1**7])


@program
def a_loop_calls_ops_on_what_is_outside():
    outside = tf1.placeholder(tf.float32, [None, 3])
    weights = tf1.get_variable("weights", initializer=np.float32([[1], [2], [3]]))
    n = tf1.placeholder(tf.int32, [])
    _, total = tf1.while_loop(
        lambda i, total: i < n, lambda i, total: (i + 1, total + tf.reduce_sum(matmul(outside, weights))), [0, 0.0]
    )
    derivatives = tf1.gradients(total, [outside, weights])
    expected = [3 * 46, [[3, 6, 9], [3, 6, 9]], 3 * ROWS.sum(0)[:, None]]
    same(run([total, *derivatives], {outside: ROWS, n: 3}), expected)


@program
def a_loop_takes_other_shapes_in_each_turn():
    x = tf1.placeholder(tf.float32, [None])
    _, y = tf1.while_loop(
        lambda i, y: i < 2,
        lambda i, y: (i + 1, difference(square(y))),
        [0, x],
        shape_invariants=[tf.TensorShape([]), tf.TensorShape([None])],
    )
    (gradient,) = tf1.gradients(y, x)
    # squares 1 4 9; differences 3 5; squares 9 25; difference 16
    same(run([y, gradient], {x: [1, 2, 3]}), [[16], [2 * 2 * 3, -4 * 2 * 8, 6 * 2 * 5]])


@program
def loops_nest_and_branch():
    x = tf1.placeholder(tf.float32, [])

    def inner(y):
        return tf1.while_loop(
            lambda i, y: i < 2,
            lambda i, y: (i + 1, tf1.cond(tf.equal(i, 0), lambda: square(y), lambda: square(y) + y)),
            [0, y],
        )[1]

    _, y = tf1.while_loop(lambda i, y: i < 2, lambda i, y: (i + 1, inner(y)), [0, x])
    (gradient,) = tf1.gradients(y, x)
    # y -> y^4 + y^2, twice
    first, slope = 0.5**4 + 0.5**2, 4 * 0.5**3 + 2 * 0.5
    same(run([y, gradient], {x: 0.5}), [first**4 + first**2, (4 * first**3 + 2 * first) * slope])


@program
def branches_call_ops():
    condition = tf1.placeholder(tf.bool, [])
    x = tf1.placeholder(tf.float32, [2])
    y = tf1.cond(condition, lambda: square(x), lambda: unsigned(x))
    (gradient,) = tf1.gradients(y, x)
    same(run([y, gradient], {condition: True, x: [3, -2]}), [[9, 4], [6, -4]])
    same(run([y, gradient], {condition: False, x: [3, -2]}), [[3, 2], [1, -1]])
    chosen = tf1.case([(condition, lambda: norm(x))], default=lambda: largest(x)[0])
    (gradient,) = tf1.gradients(chosen, x)
    same(run([chosen, gradient], {condition: True, x: [3, -2]}), [13, [6, -4]])
    same(run([chosen, gradient], {condition: False, x: [3, -2]}), [3, [1, 0]])


@program
def higher_order_functions_call_ops():
    x = tf1.placeholder(tf.float32, [None])
    mapped = tf.map_fn(square, x)
    folded = tf1.foldl(lambda a, b: a + square(b), x, 0.0)
    scanned = tf1.scan(lambda a, b: a + square(b), x, 0.0)
    same(run([mapped, folded, scanned], {x: [1, 2, 3]}), [[1, 4, 9], 14, [1, 5, 14]])
    for result, expected in ((mapped, [2, 4, 6]), (folded, [2, 4, 6]), (scanned, [6, 8, 6])):
        same(run(tf1.gradients(result, x), {x: [1, 2, 3]}), [expected])


@program
def second_derivatives():
    x = tf1.placeholder(tf.float32, [2])
    (first,) = tf1.gradients(tf.reduce_sum(square(x) * x), x)
    same(run([first, *tf1.gradients(first, x)], {x: [3, 2]}), [[27, 12], [18, 12]])
    same(run(tf1.hessians(norm(x), x), {x: [3, 2]}), [[[2, 0], [0, 2]]])


@program
def several_outputs_and_integers():
    x = tf1.placeholder(tf.float32, [None, 3])
    value, place = largest(x)
    assert (value.dtype, place.dtype) == (tf.float32, tf.int64)
    same(run([value, place, *tf1.gradients(value, x)], {x: ROWS}), [[3, 6], [2, 2], [[0, 0, 1], [0, 0, 1]]])


@program
def gradients_are_clipped_and_given():
    x = tf1.placeholder(tf.float32, [2])
    y = square(x)
    (gradient,) = tf1.gradients(y, x, grad_ys=[tf.constant([1.0, 10.0])], stop_gradients=[])
    clipped, length = tf.clip_by_global_norm([gradient], 1.0)
    same(run([gradient, *clipped, length], {x: [1.5, 0.2]}), [[3, 4], [0.6, 0.8], 5])


@program
def nothing_depends_on_an_output():
    x, y = tf1.placeholder(tf.float32, [2]), tf1.placeholder(tf.float32, [2])
    assert tf1.gradients(square(x), y) == [None]
    same(run(tf1.gradients(tf.stop_gradient(square(x)) * x, x), {x: [3, 2]}), [[9, 4]])


@program
def stateful_calls_come_in_the_order_of_control_dependencies():
    calls.clear()
    x = tf1.placeholder(tf.float32, [])
    first = count(x)
    with tf.control_dependencies([first]):
        second = count(x + 1)
    run([second, first], {x: 1})
    assert calls == [1, 2], calls


@program
def text_is_fed_and_fetched():
    x = tf1.placeholder(tf.string, [None])
    assert run(shout(x), {x: ["a", b"b"]}).tolist() == [b"A", b"B"]


@program
def failures_name_the_op():
    x = tf1.placeholder(tf.float32, [])
    broken = differentiable_op(lambda x: x / {}["key"], signature="()->()", name="broken")
    with pytest.raises(tf.errors.OpError, match=r"(?s)broken.*KeyError"):
        run(broken(x), {x: 1})


@program
def the_input_pipeline_calls_ops():
    rows = tf1.data.Dataset.from_tensor_slices(ROWS).map(norm).batch(2)
    assert run(tf1.data.make_one_shot_iterator(rows).get_next()).tolist() == [14, 77]


@program
def functions_are_called():
    x = tf1.placeholder(tf.float32, [None, 3])
    y = tf.function(lambda x: square(norm(x)))(x)
    same(run([y, *tf1.gradients(y, x)], {x: ROWS}), [[14**2, 77**2], 4 * ROWS * [[14], [77]]])


@program
def compiled_functions_are_called():
    for shape in ([2, 3], [None, 3]):
        x = tf1.placeholder(tf.float32, shape)
        y = tf.function(lambda x: square(norm(x)), jit_compile=True)(x)
        same(run([y, *tf1.gradients(y, x)], {x: ROWS}), [[14**2, 77**2], 4 * ROWS * [[14], [77]]])


@program
def rows_are_vectorized():
    for shape in ([2, 3], [None, 3]):
        x = tf1.placeholder(tf.float32, shape)
        y = tf.vectorized_map(norm, x)
        first = tf.convert_to_tensor(*tf1.gradients(y, x))  # of rows, it comes as IndexedSlices
        second = tf.convert_to_tensor(*tf1.gradients(first, x))
        same(run([y, first, second], {x: ROWS}), [[14, 77], 2 * ROWS, 2 * np.ones([2, 3])])


@program
def tapes_record_graphs():
    x = tf1.placeholder(tf.float32, [2, 3])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = norm(x)
    same(run(tape.gradient(y, x), {x: ROWS}), 2 * ROWS)
    with tf.autodiff.ForwardAccumulator(x, tf.ones([2, 3])) as accumulator:
        y = norm(x)
    same(run(accumulator.jvp(y), {x: ROWS}), 2 * ROWS.sum(1))


@program
def graphs_are_written_and_imported():
    with tf.Graph().as_default() as graph:
        x = tf1.placeholder(tf.float32, [2, 3], name="x")
        tf.identity(norm(x), name="y")
    with tf.Graph().as_default():
        x = tf1.placeholder(tf.float32, [2, 3])
        (y,) = tf1.import_graph_def(graph.as_graph_def(), {"x:0": x}, ["y:0"])
        same(run(y, {x: ROWS}), [14, 77])


@program
def checkpoints_are_written_and_restored():
    weights = tf1.get_variable("weights", initializer=np.float32([[1], [2], [3]]))
    y = matmul(ROWS, weights)
    saver = tf1.train.Saver()
    with tempfile.TemporaryDirectory() as directory:
        with tf1.Session() as session:
            session.run(tf1.global_variables_initializer())
            session.run(tf1.assign(weights, 2 * weights))
            path = saver.save(session, f"{directory}/model")
        with tf1.Session() as session:
            saver.restore(session, path)
            same(session.run(y), [[28], [64]])
        with tf.Graph().as_default(), tf1.Session() as session:  # which has the ops of the first one, by their tokens
            tf1.train.import_meta_graph(f"{path}.meta").restore(session, path)
            same(session.run(y.name), [[28], [64]])


@program
def models_are_saved_and_loaded():
    x = tf1.placeholder(tf.float32, [None, 3], name="x")
    weights = tf1.get_variable("weights", initializer=np.float32([[1], [2], [3]]))
    y = matmul(x, weights)
    with tempfile.TemporaryDirectory() as directory:
        with tf1.Session() as session:
            session.run(tf1.global_variables_initializer())
            tf1.saved_model.simple_save(session, f"{directory}/model", {"x": x}, {"y": y})
        with tf.Graph().as_default(), tf1.Session() as session:
            tf1.saved_model.load(session, ["serve"], f"{directory}/model")
            same(session.run(y.name, {"x:0": ROWS}), [[14], [32]])


@program
def variables_are_frozen():
    weights = tf1.get_variable("weights", initializer=np.float32([[1], [2], [3]]))
    tf.identity(matmul(ROWS, weights), name="y")
    with tf1.Session() as session:
        session.run(tf1.global_variables_initializer())
        graph = tf1.graph_util.convert_variables_to_constants(session, session.graph_def, ["y"])
    with tf.Graph().as_default():
        (y,) = tf1.import_graph_def(graph, return_elements=["y:0"])
        same(run(y), [[14], [32]])


@program
def native_implementations_are_called():
    double = differentiable_op(lambda x: 2 * x, signature="(n)->(n)", prefer="native", name="double")
    double.native(lambda x: x + x)
    double.gradient(lambda op, cotangent: 2 * cotangent)
    for shape in ([2, 3], [None, None], None):
        x = tf1.placeholder(tf.float32, shape)
        y = double(x)
        same(run([y, *tf1.gradients(y, x)], {x: ROWS}), [2 * ROWS, 2 * np.ones([2, 3])])


@program
def methods_and_static_values():
    class Power:
        def __init__(self, exponent):
            self.exponent = exponent

        @differentiable_op(signature="()->()")
        def __call__(self, x, *, scale=1.0):
            return scale * x**self.exponent

        @__call__.gradient
        def gradient(self, op, cotangent):
            return cotangent * op.static.scale * self.exponent * op.inputs[0] ** (self.exponent - 1)

    x = tf1.placeholder(tf.float32, [])
    y = Power(3)(x, scale=2.0)
    same(run([y, *tf1.gradients(y, x)], {x: 2}), [16, 24])


@eager
def tensors_and_plain_values():
    same(norm(tf.constant(ROWS)), [14, 77])
    same(norm(ROWS), [14, 77])
    same(square(tf.Variable(3.0)), 9)
    with pytest.raises(ValueError, match="input 1 does not fit signature"):
        matmul(ROWS, ROWS)


@eager
def derivatives_of_every_kind():
    x = tf.constant(ROWS)
    for function in (norm, tf.function(norm), tf.function(norm, jit_compile=True)):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
        same(tape.gradient(y, x), 2 * ROWS)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = norm(x)
    expected = np.zeros([2, 2, 3])
    expected[0, 0], expected[1, 1] = 2 * ROWS
    same(tape.jacobian(y, x), expected)
    with tf.autodiff.ForwardAccumulator(x, tf.ones([2, 3])) as accumulator:
        y = norm(x)
    same(accumulator.jvp(y), 2 * ROWS.sum(1))
    with tf.GradientTape() as outer, tf.GradientTape() as tape:
        outer.watch(x)
        tape.watch(x)
        y = square(x)
        first = tape.gradient(y, x)
    same(outer.gradient(first, x), 2 * np.ones([2, 3]))


@eager
def functions_of_unknown_shapes():
    for is_compiled in (False, True):
        for shape in ([2, 3], [None, 3], [None, None], *([] if is_compiled else [None])):
            specs = [tf.TensorSpec(shape, tf.float32)]

            @tf.function(input_signature=specs, jit_compile=is_compiled)
            def gradient(x):
                with tf.GradientTape() as tape:
                    tape.watch(x)
                    y = tf.reduce_sum(square(difference(x)) * norm(x)[..., None])
                return tape.gradient(y, x)

            x = np.float64(ROWS)
            differences, norms = np.diff(x), (x * x).sum(-1)[:, None]
            by_difference = 2 * differences * norms
            expected = 2 * x * (differences**2).sum(-1)[:, None]
            expected[:, 1:] += by_difference
            expected[:, :-1] -= by_difference
            same(gradient(ROWS), expected)


@eager
def rows_are_mapped():
    same(tf.vectorized_map(norm, tf.constant(ROWS)), [14, 77])
    same(tf.map_fn(norm, tf.constant(ROWS)), [14, 77])
    ragged = tf.ragged.constant([[1.0], [2.0, 3.0]])
    same(square(ragged).to_list(), [[1], [4, 9]])


@eager
def models_of_keras():
    import keras

    inputs = keras.Input((3,))
    model = keras.Model(inputs, square(norm(inputs)))
    same(model(ROWS), [14**2, 77**2])
    same(keras.Sequential([norm.as_layer()])(ROWS), [14, 77])


@eager
def models_of_modules():
    class Module(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 3])])
        def __call__(self, x):
            return norm(x)

    with tempfile.TemporaryDirectory() as directory:
        tf.saved_model.save(Module(), directory)
        loaded = tf.saved_model.load(directory)
        x = tf.constant(ROWS)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = loaded(x)
        same(y, [14, 77])
        same(tape.gradient(y, x), 2 * ROWS)


def outcome(function, context):
    """Run a program; returns the traceback if it fails."""
    try:
        with context:
            function()
    except Exception:
        return traceback.format_exc()
    return ""


def main():
    """Apply the settings, and run all programs that can be run under them."""
    for setting in sys.argv[1:]:
        getattr(tf1, setting)()
    outcomes = {name: outcome(function, tf.Graph().as_default()) for name, function in PROGRAMS.items()}
    if tf.executing_eagerly():
        outcomes |= {name: outcome(function, contextlib.nullcontext()) for name, function in EAGER_PROGRAMS.items()}
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main()
