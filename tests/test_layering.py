"""The rules of the architecture, read from the imports and held by a process of its own."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "tfpyop"
LAYERS = [
    {"errors", "_version", "_prefer_native", "_token", "_locks", "_atomic_files"},
    {"_size_terms", "_array_like"},
    {"_signature_text"},
    {"_signature", "_coercion", "_structure", "_progress", "_static_values", "_default_marks"},
    {"_payload"},
    {"_slopes", "_domain", "_shared_arrays", "parallel"},
    {"_noise", "_line"},
    {"_singular_points"},
    {"_second_opinion"},
    {"_extrapolation", "_single_precision"},
    {"_arguments", "_registry", "_promise", "_numerical", "_complex_step", "_rule_context"},
    {"_from_values", "_rule_values", "_executors"},
    {"_rule_promise"},
    {"_host"},
    {"_rules", "_definition"},
    {"_host_op"},
    {"_batching", "_derivative_errors"},
    {"lowering"},
    {"_entry"},
    {"_op", "_import_hooks"},
    {"_discovery"},
    {"__init__"},
    {"testing", "export"},
    {"_pytest_plugin", "cli", "__main__"},
]
MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(path):
    return "/".join(path.relative_to(PACKAGE).with_suffix("").parts)


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "importlib.import_module":
            yield from (argument.value for argument in node.args if isinstance(argument, ast.Constant))


def layer_of(name):
    return next(number for number, layer in enumerate(LAYERS) if name in layer)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_one_way(path):
    layer = layer_of(path.relative_to(PACKAGE).parts[0].removesuffix(".py"))
    own = (name.split(".")[1] for name in imported(path) if name.startswith("tfpyop."))
    assert all(layer_of(name) <= layer for name in own)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_one_file_uses_private_tensorflow(path):
    uses_private = any(name.startswith(("tensorflow.python", "tensorflow.compiler")) for name in imported(path))
    assert uses_private == (path.name == "_tensorflow.py")


@pytest.mark.parametrize("module", ["calls", "call_text", "exception_table", "stablehlo", "structs"])
def test_most_of_xla_knows_nothing_of_tensorflow(module):
    assert not any(name.startswith("tensorflow") for name in imported(PACKAGE / "lowering" / "xla" / f"{module}.py"))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_lowerings_and_tests_use_tensorflow(path):
    uses_tensorflow = any(name.split(".")[0] in ("tensorflow", "keras") for name in imported(path))
    part = path.relative_to(PACKAGE).parts[0]
    is_allowed = part in ("lowering", "testing", "export.py") or name_of(path) in ("cli/benchmark", "cli/serving")
    assert not uses_tensorflow or is_allowed


def test_decorating_imports_neither_tensorflow_nor_keras_nor_hypothesis():
    program = """
import sys
import numpy as np
from tfpyop import differentiable_op

@differentiable_op(signature="(),()->()", dtype="float32", compute_dtype="float64")
def mod(x, y):
    return x % y

@mod.gradient
def mod_gradient(op, cotangent):
    return cotangent, None

@differentiable_op(signature="()->()")
def square(x):
    return x * x

@square.numpy_gradient
def square_gradient(op, cotangent):
    return 2 * op.inputs[0] * cotangent

differentiable_op(np.hypot)
assert mod.numpy(5, 3) == 2
print(sorted({name.split(".")[0] for name in sys.modules} & {"tensorflow", "keras", "hypothesis"}))
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout == "[]\n"
