"""The rules of the architecture, checked against the imports of all modules and by a process of its own."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "tfpyop"
LAYERS = [
    {"errors", "_version", "_locks", "_atomic_files", "_tracebacks", "_prefer_native", "parallel"},
    {"_spec"},
    {"_host", "_numdiff"},
    {"_registry"},
    {"_rules"},
    {"_lowering"},
    {"_import_hooks", "_op", "_registered"},
    {"_decorator"},
    {"_discovery"},
    {"__init__"},
    {"testing", "export"},
    {"cli", "__main__"},
]
"""The parts of the package. Each imports from the parts above it and from itself."""
LAZY = {"_import_hooks", "cli"}
"""The parts that import modules of the package inside of functions."""
WITHOUT_TENSORFLOW = set.union(*LAYERS[:5], *LAYERS[6:9])
TENSORFLOW_IN_CLI = {"tfpyop.cli.bench", "tfpyop.cli.worker"}


def module_of(path):
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


PATHS = {module_of(path): path for path in PACKAGE.rglob("*.py")}


def part_of(module):
    return [*module.split("."), "__init__"][1]


def imported(module):
    """The modules that a module imports, each with whether it does so inside of a function."""

    def found(node, is_inside):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ImportFrom):
                yield from ((nearest(f"{child.module}.{alias.name}"), is_inside) for alias in child.names)
            elif isinstance(child, ast.Import):
                yield from ((nearest(alias.name), is_inside) for alias in child.names)
            elif isinstance(child, ast.Call) and ast.unparse(child.func).endswith("import_module"):
                yield from ((arg.value, is_inside) for arg in child.args if isinstance(arg, ast.Constant))
            yield from found(child, is_inside or isinstance(child, ast.FunctionDef | ast.Lambda))

    return set(found(ast.parse(PATHS[module].read_text()), False))


def nearest(name):
    """The module that a dotted name belongs to, if it is one of the package."""
    while name.startswith("tfpyop.") and name not in PATHS:
        name = name.rpartition(".")[0]
    return name


def own_imports(module):
    return {name: is_inside for name, is_inside in imported(module) if name in PATHS and name != module}


def test_imports_go_one_way_and_never_in_a_circle():
    layers = {part: number for number, layer in enumerate(LAYERS) for part in layer}
    upward = [
        (module, name)
        for module in PATHS
        for name in own_imports(module)
        if part_of(module) not in LAZY and layers[part_of(name)] > layers[part_of(module)]
    ]
    between_neighbours = [
        (module, name)
        for module in PATHS
        for name in own_imports(module)
        if {part_of(module), part_of(name)} == {"_host", "_numdiff"}
    ]
    assert upward == between_neighbours == []
    order = graphlib.TopologicalSorter(
        {
            module: [
                name for name, is_inside in own_imports(module).items() if not (is_inside and part_of(module) in LAZY)
            ]
            for module in PATHS
        }
    )
    assert list(order.static_order())  # CycleError names the circle


def test_only_import_hooks_and_commands_import_inside_of_functions():
    inside = {part_of(module) for module in PATHS if any(own_imports(module).values())}
    assert inside == LAZY


def test_tensorflow_is_used_by_lowerings_and_its_private_parts_by_one_file():
    tops = {module: {name.split(".")[0] for name, _ in imported(module)} for module in PATHS}
    users = {module for module, names in tops.items() if names & {"tensorflow", "keras"}}
    assert not {module for module in users if part_of(module) in WITHOUT_TENSORFLOW}
    assert {module for module in users if part_of(module) == "cli"} == TENSORFLOW_IN_CLI
    pure = ("call_site", "call_descriptor", "exception_table", "stablehlo", "structs")
    assert not users & {f"tfpyop._lowering.xla.{module}" for module in pure}
    private = {
        module
        for module in PATHS
        if any(name.startswith(("tensorflow.python", "tensorflow.compiler")) for name, _ in imported(module))
    }
    assert private == {"tfpyop._lowering._tensorflow"}


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
