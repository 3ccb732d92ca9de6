"""Lists the private symbols of TensorFlow that tfpyop uses: `python -m tests.private_symbols [PYTHON]`.

The names come from `_lowering/_tensorflow.py`: what it imports, and the attributes of what it imports. With the Python
of another environment, prints the symbols that are missing or changed there. A symbol is described by its signature, or
by the first line of its docstring if it is written in C++.
"""

import ast
import importlib
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "tfpyop" / "_lowering" / "_tensorflow.py"
PRIVATE = ("tensorflow.python", "tensorflow.core", "tensorflow.compiler")


def names(source):
    """The dotted names of the symbols that a module uses, in order."""
    tree = ast.parse(source)
    imported = {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PRIVATE)
        for alias in node.names
    }
    parameters = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    read = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)]
    attributes = {
        f"{imported[node.value.id]}.{node.attr}" for node in read if node.value.id in imported.keys() - parameters
    }
    return [*imported.values(), *sorted(attributes)]


def described(name):
    """Describe a symbol in one line; None if TensorFlow does not have it."""
    try:
        value = _found(name)
    except (ImportError, AttributeError):
        return None
    if inspect.ismodule(value) or inspect.isclass(value):
        return type(value).__name__
    try:
        return str(inspect.signature(value)) if callable(value) else type(value).__name__
    except (TypeError, ValueError):
        return next(iter((inspect.getdoc(value) or type(value).__name__).splitlines()))


def _found(name):
    module, _, attribute = name.rpartition(".")
    try:
        return importlib.import_module(name)
    except ImportError:
        if not module:
            raise
    return getattr(_found(module), attribute)


def here():
    """The symbols in this environment, with what they are."""
    return {name: described(name) for name in names(SOURCE.read_text())}


def elsewhere(python):
    """The symbols in another environment."""
    program = f"import json; from {__name__ if __name__ != '__main__' else 'tests.private_symbols'} import here; "
    program += "print(json.dumps(here()))"
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(SOURCE.parents[2])}
    command = [str(python), "-c", program]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=True)
    return json.loads(process.stdout.splitlines()[-1])


def changes(before, after):
    """The symbols that are missing or changed, in lines."""
    for name, text in before.items():
        if after.get(name) is None and text is not None:
            yield f"missing: {name}"
        elif after.get(name) != text:
            yield f"changed: {name}: {text} -> {after[name]}"


def main(arguments):
    """Print the symbols, or what differs elsewhere; the status is 1 if a symbol is missing."""
    found = here()
    if not arguments:
        print(*(f"{name}: {text}" for name, text in found.items()), sep="\n")
        return 1 if None in found.values() else 0
    lines = list(changes(found, elsewhere(arguments[0])))
    print(*(lines or ["no symbol is missing or changed"]), sep="\n")
    return 1 if any(line.startswith("missing") for line in lines) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
