"""Export: what a saved model needs, and what is said before and after it is saved."""

import enum
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import tfpyop
from tests import ops, saved_ops
from tests.processes import run_python
from tests.test_saved_model import saved
from tfpyop import RegistrationError, UnsupportedError, differentiable_op, export
from tfpyop._registry.op_def import RuleSet, TensorFlowRule

ROOT = Path(__file__).parent.parent
renamed = differentiable_op(lambda x: x + 1, name="lab.renamed", signature="()->()", non_differentiable=True)


class Scale:
    factor = 2.0

    @differentiable_op(signature="()->()")
    def scaled(self, x):
        return self.factor * x

    @scaled.gradient
    def scaled_gradient(self, op, grad):
        return self.factor * grad


class Exponent(enum.Enum):
    THREE = 3


@differentiable_op(signature="(n)->(n)")
def softmax(x):
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


@softmax.numpy_gradient
def softmax_gradient(op, grad):
    y = op.outputs[0]
    return y * (grad - (grad * y).sum(-1, keepdims=True))


@softmax.native
def softmax_native(x):
    assert x.shape.rank == 2  # shapes are known as far as they are in the model
    return tf.nn.softmax(x)


class Classifier(tf.Module):
    def __init__(self):
        super().__init__()
        self.weight = tf.Variable([1.0, 2.0, 3.0])

    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32)])
    def call(self, x):
        return softmax(self.inner(x * self.weight))

    @tf.function
    def inner(self, x):
        return softmax(x) + softmax(-x)

    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32)], jit_compile=True)
    def compiled(self, x):
        return softmax(x * self.weight)


class Trained(Classifier):
    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32)])
    def train(self, x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(softmax(x * self.weight) ** 2)
        self.weight.assign_sub(tape.gradient(loss, self.weight))


def local_op(**options):
    return differentiable_op(lambda x: 2 * x, signature="()->()", **options)


X = tf.constant([[1.0, 2.0]])


def module_of(function):
    module = tf.Module()
    module.call = tf.function(function, [tf.TensorSpec([None, 2], tf.float32)], autograph=False)
    return module


UNEXPORTABLE = {
    "local": (local_op(grad=lambda op, g: 2 * g), "created inside a function or from a lambda", "or pass name="),
    "without a rule": (local_op(), "created inside a function or from a lambda", "or pass name="),
    "non-differentiable": (local_op(non_differentiable=True), "created inside a function", "or pass name="),
    "bound": (Scale().scaled, "the op is bound to an instance", "at the top level of a module"),
    "no JSON": (lambda x: ops.power(x, exponent=np.int64(3)), "a static value that is not JSON", "Pass Python numbers"),
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("models")
    saved(lambda x: saved_ops.plain(saved_ops.cube(x)), directory / "model")
    saved(saved_ops.cube, directory / "compiled", is_compiled=True)
    saved(renamed, directory / "renamed")
    saved(lambda x: 2 * x, directory / "native")
    return directory


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ("model", ["tests.saved_ops:cube", "tests.saved_ops:plain"]),
        ("compiled", ["tests.saved_ops:cube"]),
        ("native", []),
    ],
)
def test_the_ops_of_a_model_are_listed(directory, model, names):
    found = export.required_ops(directory / model)
    assert found == [export.RequiredOp(name, "tests.saved_ops", True, False) for name in names]


def test_the_module_of_a_renamed_op_is_known(directory):
    assert export.required_ops(directory / "renamed") == [export.RequiredOp("lab.renamed", __name__, True, False)]


def run(*arguments, **environment):
    return run_python("-m", "tfpyop", *arguments, env={**os.environ, "COLUMNS": "120", **environment})


@pytest.mark.slow
def test_the_command_shows_what_is_missing_and_imports_what_is_named(directory):
    path = str(ROOT)
    process = run("required", directory / "model", PYTHONPATH=path)
    assert process.returncode == 1, process.stderr
    lines = [line.split() for line in process.stdout.splitlines() if "saved_ops" in line]
    assert lines == [[f"tests.saved_ops:{name}", "tests.saved_ops", "no"] for name in ("cube", "plain")]
    process = run("required", directory / "model", "--modules", "tests.saved_ops", PYTHONPATH=path)
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("yes") == 2


def test_a_path_without_a_model_is_one_line(tmp_path):
    process = run("required", tmp_path, PYTHONPATH=str(ROOT))
    assert process.returncode == 2
    assert f"tfpyop: there is no SavedModel in '{tmp_path}'. Got: " in process.stderr
    assert "}. Pass the directory that" in process.stderr


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
def test_a_file_of_keras_is_named(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(b"PK")
    message = rf"{name}' is a Keras file, not a SavedModel\.\n  Import .* load it with keras\.saving\.load_model\."
    for read in (export.load, export.required_ops):
        with pytest.raises(RegistrationError, match=message):
            read(path)
    with pytest.raises(RegistrationError, match="there is no SavedModel in"):
        export.load(tmp_path / "missing.keras")


@pytest.fixture
def without_ops(monkeypatch):
    """The registry without the ops of a module, and maybe the process without the module."""
    registry = tfpyop._registry.op_def.REGISTRY

    def remove(prefix, *, is_imported):
        known = {name: op for name, op in registry._definitions.items() if not name.startswith(prefix)}
        monkeypatch.setattr(registry, "_definitions", known)
        monkeypatch.setattr(registry, "_concrete_ops", {})
        if not is_imported:
            monkeypatch.delitem(sys.modules, prefix)

    return remove


def test_load_names_the_modules_that_are_missing(directory, without_ops, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(export, "import_module", lambda name: None)
        without_ops("tests.saved_ops", is_imported=False)
        for modules in ([], ["json"]):
            with pytest.raises(
                UnsupportedError,
                match=r"saved_ops:cube, tests\.saved_ops:plain\n  Name.*modules=\['tests\.saved_ops'\]",
            ):
                export.load(directory / "model", modules=modules)
        with pytest.raises(tf.errors.OpError, match=r"Import the module that defines the op, 'tests\.saved_ops',"):
            tf.saved_model.load(directory / "model").call(X)


def test_load_imports_the_modules_that_it_is_given(directory):
    with pytest.raises(RegistrationError, match=r"there is no module 'tests\.saved_opps'"):
        export.load(directory / "model", modules=["tests.saved_opps"])
    model = export.load(directory / "model", modules=["tests.saved_ops"])
    np.testing.assert_allclose(model.call(tf.constant([[1.5, 2.0]])), [[3, 8]])


def test_load_does_not_advise_to_name_modules_that_are_named(directory, without_ops):
    without_ops("tests.saved_ops", is_imported=True)
    differentiable_op(lambda x: x, signature="()->()", name="tests.saved_ops:cubes", non_differentiable=True)
    with pytest.raises(UnsupportedError, match="needs ops that are not registered in this process") as caught:
        export.load(directory / "model", modules=["tests.saved_ops"])
    assert caught.value.expected == "tests.saved_ops:cube, tests.saved_ops:plain"
    assert caught.value.remedy.startswith(
        "The module 'tests.saved_ops' is imported, but does not define 'tests.saved_ops:cube', "
        "'tests.saved_ops:plain', which may have been renamed or removed since the model was saved. Did you mean "
        "'tests.saved_ops:cubes' or "
    )
    message = (
        r"'tests.saved_ops:\w+': module 'tests.saved_ops' is imported, but does not define this op\.\n  Did you mean"
    )
    with pytest.raises(tf.errors.OpError, match=message):
        tf.saved_model.load(directory / "model").call(X)


@pytest.mark.parametrize("kind", ["gradient", "jvp"])
@pytest.mark.parametrize("is_compiled", [False, True], ids=["graph", "XLA"])
def test_a_rule_that_is_gone_is_not_an_op_that_is_not_known(kind, is_compiled, tmp_path, monkeypatch):
    op = differentiable_op(lambda x: x**2, signature="()->()", name=f"tests.rule_gone_{kind}_{is_compiled}")
    getattr(op, f"numpy_{kind}")(lambda op, vector: 2 * op.inputs[0] * vector)

    def derivative(x):
        if kind == "jvp":
            with tf.autodiff.ForwardAccumulator(x, tf.ones_like(x)) as accumulator:
                y = op(x)
            return accumulator.jvp(y)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = op(x)
        return tape.gradient(y, x)

    saved(derivative, tmp_path, is_compiled=is_compiled)
    np.testing.assert_allclose(export.load(tmp_path).call(X), 2 * X)
    definition, registry = op._definition, tfpyop._registry.op_def.REGISTRY
    monkeypatch.setattr(definition, "rules", RuleSet(TensorFlowRule(definition.site, lambda op, cotangent: cotangent)))
    monkeypatch.setattr(registry, "_concrete_ops", {})
    monkeypatch.setattr(registry, "registrations", registry.registrations + 1)
    token = f"{op.name}/{'vjp' if kind == 'gradient' else 'jvp'}"
    with pytest.raises(UnsupportedError, match="calls numpy rules") as caught:
        export.load(tmp_path)
    said = str(caught.value)
    assert "calls numpy rules that its ops do not have in this process." in said
    assert f"Expected: {token}\n" in said
    assert f"The ops of '{token}' have changed since the model was saved. Attach these rules again" in said
    assert "not registered" not in said
    assert "modules=" not in said
    with pytest.raises(tf.errors.OpError, match="a model calls") as caught:
        tf.saved_model.load(tmp_path).call(X)
    said = str(caught.value)
    assert f"op '{op.name}' (" in said
    assert f"a model calls the op's numpy {kind} rule, but the op does not have this rule." in said
    assert f"Expected: a rule attached with @op.numpy_{kind}" in said
    assert "not registered" not in said


@pytest.mark.parametrize(("op", "problem", "remedy"), UNEXPORTABLE.values(), ids=UNEXPORTABLE)
def test_what_cannot_be_exported_is_found_before_it_is_saved(op, problem, remedy):
    [error] = export.check(module_of(op))
    assert problem in str(error)
    assert remedy in str(error)


@pytest.mark.parametrize(("op", "problem", "remedy"), UNEXPORTABLE.values(), ids=UNEXPORTABLE)
def test_what_cannot_be_exported_is_warned_of_when_it_is_saved(op, problem, remedy, tmp_path):
    with pytest.warns(export.ExportWarning, match=problem) as caught:
        export.save(module_of(op), tmp_path)
    [warning] = caught
    assert remedy in str(warning.message)
    assert [op.is_local for op in export.required_ops(tmp_path)] == [True]
    with pytest.raises(UnsupportedError, match="exist only in the process that saved the model"):
        load_in_another_process(tmp_path)


def load_in_another_process(path):
    registry = tfpyop._registry.op_def.REGISTRY
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_concrete_ops", {})
        export.load(path)


def test_tensorflows_own_save_warns_of_ops_with_derivatives(tmp_path):
    with pytest.warns(export.ExportWarning, match="created inside a function"):
        tf.saved_model.save(module_of(local_op(grad=lambda op, g: 2 * g)), str(tmp_path))


def test_a_model_that_can_be_exported_is_saved_without_a_word(tmp_path):
    model = module_of(ops.exp)
    assert export.check(model) == []
    export.save(model, tmp_path)
    assert [op.name for op in export.required_ops(tmp_path)] == ["tests.ops:exp"]


def test_a_native_model_runs_where_there_is_no_tfpyop(tmp_path):
    x = np.float32([[1, 2, 3], [0, 1, 0]])
    model = Classifier()
    expected = model.call(x).numpy(), model.compiled(x).numpy()  # traced with host calls before it is saved
    export.save(model, tmp_path / "model", native=True)
    assert export.required_ops(tmp_path / "model") == []
    np.testing.assert_allclose(model.call(x), expected[0])
    program = """
import json, sys
sys.modules["tfpyop"] = None
import tensorflow as tf
model = tf.saved_model.load("model")
x = tf.constant([[1.0, 2, 3], [0, 1, 0]])
with tf.GradientTape() as tape:
    tape.watch(x)
    y = model.compiled(x)
gradient = tape.gradient(y, x, output_gradients=2 * y)
print(json.dumps([model.call(x).numpy().tolist(), y.numpy().tolist(), gradient.numpy().tolist()]))
"""
    process = run_python("-c", program, cwd=tmp_path, check=True)
    value, compiled, gradient = json.loads(process.stdout)
    np.testing.assert_allclose([value, compiled], expected, rtol=1e-5)
    y = expected[1]
    wanted = y * (2 * y - (2 * y * y).sum(-1, keepdims=True)) * [1, 2, 3]
    np.testing.assert_allclose(gradient, wanted, rtol=1e-4)


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        (lambda: module_of(saved_ops.cube), r"'tests\.saved_ops:cube'(.*)the op has no native implementation"),
        (Trained, r"softmax/vjp'(.*)the model calls this rule, but(?s:.*)@rule\.native"),
        (lambda: module_of(lambda x: tf.vectorized_map(softmax, x[:, None])), "called by vectorized_map"),
    ],
)
def test_a_model_that_cannot_be_native_is_not_written(model, problem, tmp_path):
    with pytest.raises(UnsupportedError, match=problem):
        export.save(model(), tmp_path / "model", native=True)
    assert list(tmp_path.iterdir()) == []


@differentiable_op(signature="(m,n)->(n)")
def column_sums(x):
    return x.sum(-2)


@column_sums.native
def column_sums_native(x):
    assert x.shape.rank == 2
    assert x.shape[1] == 3
    return tf.reduce_sum(x, -2)


@differentiable_op(signature="()->()", non_differentiable=True)
def doubled(x):
    return 2 * x


@doubled.native
def doubled_native(x):
    return tf.concat([x, x], 0)


def test_shapes_of_one_among_several_outputs_are_known(tmp_path):
    module = tf.Module()
    module.call = tf.function(lambda x: column_sums(tf.linalg.svd(x)[1]), [tf.TensorSpec([4, 3], tf.float32)])
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    expected = module.call(x)
    export.save(module, tmp_path / "model", native=True)
    np.testing.assert_allclose(tf.saved_model.load(tmp_path / "model").call(x), expected)


def test_calls_of_one_op_with_inputs_of_one_kind_share_a_native_function(tmp_path):
    traced = []
    op = differentiable_op(lambda x, *, n: x * n, signature="()->()", name="tests:shared_native", dtype=np.float32)

    @op.native
    def native(x, *, n):
        traced.append((n, tuple(x.shape)))
        return x * n

    def call(x):
        for _ in range(5):
            x = op(op(x, n=2.0), n=3.0)
        return x[0] + op(x[0], n=2.0)

    module = tf.Module()
    module.call = tf.function(call, [tf.TensorSpec([4, 3], tf.float32)], autograph=False)
    export.save(module, tmp_path / "model", native=True)
    assert sorted(traced) == [(2.0, (3,)), (2.0, (4, 3)), (3.0, (4, 3))]
    np.testing.assert_array_equal(tf.saved_model.load(tmp_path / "model").call(tf.ones([4, 3])), [3 * 6.0**5] * 3)


def test_what_a_native_implementation_returns_is_held_in_the_model_too(tmp_path):
    export.save(module_of(doubled), tmp_path / "model", native=True)
    model = tf.saved_model.load(tmp_path / "model")
    with pytest.raises(tf.errors.InvalidArgumentError, match="output 0 does not have the declared shape"):
        model.call(tf.ones([2, 2]))


def test_a_native_model_takes_the_place_of_another(tmp_path):
    export.save(module_of(ops.exp), tmp_path)
    assert (tmp_path / "fingerprint.pb").exists()
    export.save(module_of(softmax), tmp_path, native=True)
    assert export.required_ops(tmp_path) == []
    assert not (tmp_path / "fingerprint.pb").exists()


FULL_DISK = """
import pathlib, resource, signal, sys
import tensorflow as tf
from tfpyop import export

class Model(tf.Module):
    def __init__(self, size):
        self.weights = tf.Variable(tf.random.stateless_normal([size], [1, 2]))
        self.call = tf.function(lambda x: x * tf.reduce_sum(self.weights), [tf.TensorSpec([])])

def files(directory):
    found = pathlib.Path(directory).rglob("*") if pathlib.Path(directory).exists() else []
    return {str(path): path.is_file() and path.read_bytes() for path in found}

export.save(Model(10), "old", native=True)
pathlib.Path("old/notes.txt").write_text("mine")
before = files("old")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # as a disk on which no room is left
for target in ("old", "new"):
    try:
        export.save(Model(1_000_000), target, native=True)
    except Exception as error:
        print(type(error).__name__)
print(files("old") == before, files("new"))
"""


def test_a_native_model_that_cannot_be_written_changes_nothing(tmp_path):
    process = run_python("-c", FULL_DISK, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert process.stdout.splitlines()[-1] == "True {}", process.stdout + process.stderr


def test_a_native_model_keeps_other_files_of_its_directory(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    export.save(module_of(softmax), tmp_path, native=True)
    export.save(module_of(softmax), tmp_path, native=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["assets", "notes.txt", "saved_model.pb", "variables"]


def test_a_loaded_model_whose_ops_are_not_known_cannot_be_made_native(directory, tmp_path, monkeypatch):
    model = tf.saved_model.load(directory / "renamed")
    registry = tfpyop._registry.op_def.REGISTRY
    with monkeypatch.context() as patch:
        patch.setattr(registry, "_definitions", {})
        patch.setattr(registry, "_concrete_ops", {})
        with pytest.raises(UnsupportedError, match=r"'lab\.renamed': module '.*test_export' is imported, but does"):
            export.save(model, tmp_path / "model", native=True)


def test_local_ops_of_a_loaded_model_are_found(tmp_path, monkeypatch):
    with pytest.warns(export.ExportWarning):
        export.save(module_of(local_op()), tmp_path)
    model = tf.saved_model.load(tmp_path)
    monkeypatch.setattr(tfpyop._registry.op_def.REGISTRY, "_concrete_ops", {})
    [error] = export.check(model)
    assert "exists only in the process that created it" in str(error)
    assert "test_export" in repr(error)


def test_ops_of_a_script_are_reported_as_such(tmp_path):
    program = tmp_path / "program.py"
    program.write_text("""
import tensorflow as tf
from tfpyop import differentiable_op, export

@differentiable_op(signature="()->()")
def helper(x):
    return x

module = tf.Module()
module.call = tf.function(helper, [tf.TensorSpec([1, 2])])
export.save(module, "model")
""")
    process = run_python(program, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
    assert "defined in a script, which other processes do not import" in process.stderr
    with pytest.raises(UnsupportedError, match=r"__main__:helper\n  Ops of __main__ belong to the program that saved"):
        export.load(tmp_path / "model")
    with pytest.raises(tf.errors.OpError, match="in the __main__ module of another program"):
        tf.saved_model.load(tmp_path / "model").call(X)


@pytest.mark.parametrize(
    ("modules", "said"),
    [
        ("tests.saved_ops", r"modules= is a string\.(?s:.*)modules=\['tests\.saved_ops'\]"),
        ([saved_ops], "not a module name"),
        (["qqqqqqq"], r"there is no module 'qqqqqqq'\.\n  Add its directory to PYTHONPATH"),
    ],
)
def test_invalid_module_names_are_refused(directory, modules, said):
    with pytest.raises(RegistrationError, match=said):
        export.load(directory / "model", modules=modules)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (tf.function(ops.exp), "the model is a function, not a"),
        (3, "the model is not an object that TensorFlow can save"),
    ],
)
def test_what_is_no_model_is_refused(model, said):
    with pytest.raises(RegistrationError, match=said):
        export.check(model)
