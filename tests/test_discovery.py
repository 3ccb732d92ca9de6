"""Ops found by the name that a user types."""

import importlib

import pytest

from tfpyop import RegistrationError
from tfpyop._discovery import find_ops

SOURCES = {
    "__init__.py": "from found_ops.inner import square\n",
    "inner.py": """
from tfpyop import differentiable_op, registered_ops

negative = differentiable_op(lambda x: -x, signature="()->()")

@differentiable_op(signature="()->()")
def square(x):
    return x * x

@square.numpy_gradient
def square_gradient(op, grad):
    return 2 * op.inputs[0] * grad

class Model:
    @differentiable_op(signature="()->()")
    def scaled(self, x):
        return self.scale * x
""",
    "broken.py": "import no_such_thing\n",
    "raising.py": "1 / 0\n",
    "empty.py": "",
    "exiting.py": "raise SystemExit(3)",
}


@pytest.fixture(scope="module", autouse=True)
def package(tmp_path_factory):
    directory = tmp_path_factory.mktemp("package")
    (directory / "found_ops").mkdir()
    for name, source in SOURCES.items():
        (directory / "found_ops" / name).write_text(source)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(directory)
        yield importlib.import_module("found_ops")


def test_attributes_and_registered_ops_are_found_and_ops_of_rules_are_not():
    assert list(find_ops("found_ops.inner")) == ["negative", "square", "Model.scaled"]


def test_ops_of_submodules_are_found():
    assert list(find_ops("found_ops")) == ["square", "inner:Model.scaled"]


def test_one_op_is_found():
    assert list(find_ops("found_ops.inner:square")) == ["square"]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("found_ops.iner", r"there is no module 'found_ops\.iner'\.\n  Did you mean 'inner'"),
        ("found_opps", r"there is no module 'found_opps'\.\n  Did you mean 'found_ops'"),
        (
            "found_ops.broken",
            r"importing module 'found_ops\.broken' raises ModuleNotFoundError: No module named 'no_such_thing'",
        ),
        ("found_ops.raising", r"importing module 'found_ops\.raising' raises ZeroDivisionError: division by zero"),
        ("found_ops.exiting", r"importing module 'found_ops\.exiting' raises SystemExit: 3"),
        ("found_ops.empty", r"module 'found_ops\.empty' does not define any ops\.\n  Decorate"),
        ("found_ops.inner:sqare", r"module 'found_ops\.inner' has no op 'sqare'\.\n  Did you mean 'square'\?"),
        (
            "found_ops.inner.square",
            r"'found_ops\.inner\.square' is an attribute of a module, not a module\.\n"
            r"  For an op, write found_ops\.inner:square\.",
        ),
        ("", "'' is not a module name"),
        (".inner", "'.inner' is not a module name"),
    ],
)
def test_a_missing_module_or_op_is_an_error_with_the_nearest_names(target, message):
    with pytest.raises(RegistrationError, match=message):
        find_ops(target)
