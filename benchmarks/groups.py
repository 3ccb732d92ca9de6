"""Groups: what is measured side by side, and what tfpyop should reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.libraries.common import OPS_OF_GRAPH, ROWS, SIZES, WORKERS


@dataclass(frozen=True)
class Row:
    """One thing that is measured.

    Attributes:
      name: How it is called in tables.
      case: The case of its library.
      library: The process that measures it.
      at: Where it stands on the axis of its group: a number, or a text if the group has lines instead of a scale.
    """

    name: str
    case: str
    library: str = "tensorflow"
    at: int | str | None = None

    @property
    def key(self) -> str:
        """What tells it from the other rows of its group."""
        if self.at is None:
            return self.name
        return f"{self.name}, {self.at:,}" if isinstance(self.at, int) else f"{self.name}, {self.at}"


@dataclass(frozen=True)
class Target:
    """What the ratio of two rows, or one row in the unit of the group, should not exceed; rows are named by key."""

    row: str
    most: float
    over: str | None = None


@dataclass(frozen=True)
class Group:
    """Rows that take turns.

    Attributes:
      key: Its name on the command line and in file names.
      title: What is measured.
      unit: Of what is printed, and how much of it is one.
      rows: The first one is compared with all others, or with those at the same place.
      targets: What should be reached.
      rounds: How many turns.
      axis: What rows grow with, if they do; those of one name are a curve then.
      compares: Whether ratios of its rows say anything.
      counts: Whether calls are counted: every case then has another one, `calls` and its name. The first name of
        its rows should not make more calls than the others.
    """

    key: str
    title: str
    unit: tuple[str, float]
    rows: Sequence[Row]
    targets: Sequence[Target] = field(default=())
    rounds: int = 25
    axis: str | None = None
    compares: bool = True
    counts: bool = False


_WAYS = ("keyword", "static argument", "method", "dict")
_KINDS = ("two tensors", "variable", "array", "number")
_DERIVATIVES = ("gradient", "JVP", "Jacobian", "HVP")
_RULES: Mapping[str, Sequence[str]] = {
    "VJP in numpy": ("gradient", "Jacobian", "HVP"),
    "VJP in TensorFlow": _DERIVATIVES,
    "split rules": ("gradient", "Jacobian"),
    "Jacobian in TensorFlow": _DERIVATIVES,
    "Jacobian in numpy": _DERIVATIVES,
    "equation": _DERIVATIVES,
    "objective": _DERIVATIVES,
    "adjoint in numpy": _DERIVATIVES,
    "JVP in numpy": ("JVP",),
    "from-jvp, numpy": ("gradient", "JVP", "Jacobian"),
    "from-vjp, numpy": ("gradient", "JVP", "Jacobian"),
    "numerical, tridiagonal": ("gradient", "Jacobian"),
    "numerical": ("gradient", "JVP", "Jacobian"),
    "complex step": ("gradient", "JVP", "Jacobian"),
}
"""The kinds of rules, each with the derivatives that follow from it."""
_NOT_IN_JAX = {"VJP in TensorFlow, JVP", "equation, JVP", "objective, JVP", "adjoint in numpy, Jacobian"}
_NO_PEER = {"from-jvp, numpy", "from-vjp, numpy", "numerical, tridiagonal", "numerical", "complex step"}
US, MS, KB = ("us", 1e-6), ("ms", 1e-3), ("KB", 1e3)
_FOREIGN = [
    Row("jax.pure_callback", "{} jax", "jax"),
    Row("torch custom_op", "{} torch custom_op", "torch"),
    Row("torch autograd.Function", "{} torch Function", "torch"),
    Row("HIPS autograd", "{} autograd", "autograd"),
    Row("PyTensor Op", "{} pytensor", "pytensor"),
]
_CYCLES = [
    *((name, "scipy") for name in ("solve_ivp", "minimize", "root", "least_squares", "CubicSpline", "quad")),
    *[("an explicit cycle", "scipy"), ("JAX function", "jax"), ("torch function", "torch")],
]
"""Functions, each with the library whose process calls it."""
_OURS, _NATIVE, _NUMPY_FUNCTION, _RECIPE = "tfpyop", "native floormod", "tf.numpy_function", "recipe"


def _peers(kind: str, *, has_gradient: bool = False, libraries: Sequence[str] = ()) -> list[Row]:
    rows = [Row(_OURS, f"{kind} tfpyop"), Row(_NATIVE, f"{kind} native")]
    rows += [] if has_gradient else [Row(_NUMPY_FUNCTION, f"{kind} numpy_function")]
    rows += [Row("tf.py_function", f"{kind} py_function"), Row(_RECIPE, f"{kind} recipe")]
    return rows + [Row(row.name, row.case.format(kind), row.library) for row in _FOREIGN if row.library in libraries]


def _curves(cases: Mapping[str, str], places: Sequence[int], library: str = "tensorflow") -> list[Row]:
    return [Row(name, case.format(at), library, at) for at in places for name, case in cases.items()]


def _rules() -> list[Row]:
    rows = []
    for kind, derivatives in _RULES.items():
        for place in (f"{kind}, {derivative}" for derivative in derivatives):
            rows.append(Row(_OURS, f"rules {place}", "tensorflow", place))
            if kind not in _NO_PEER and place not in _NOT_IN_JAX:
                rows.append(Row("JAX", f"rules {place}", "jax", place))
            if kind not in _NO_PEER:
                rows.append(Row("PyTensor", f"rules {place}", "pytensor", place))
    return rows


GROUPS = [
    Group(
        "eager",
        "An eager call, 4 floats",
        US,
        _peers("eager", libraries=("jax", "torch", "autograd", "pytensor")),
        [Target(_OURS, 1.05, _NATIVE), Target(_OURS, 0.5, _NUMPY_FUNCTION), Target(_OURS, 0.12, _RECIPE)],
    ),
    Group(
        "eager-kinds",
        "An eager call with the usual kinds of arguments, 4 floats",
        US,
        [Row(name, f"kind {name}") for name in ("one tensor", *_WAYS, *_KINDS, *(f"native {kind}" for kind in _KINDS))],
        [
            *(Target(way, 2.0, "one tensor") for way in _WAYS),
            *(Target(kind, 1.1, f"native {kind}") for kind in _KINDS),
        ],
    ),
    Group(
        "eager-gradient",
        "An eager call with tape and gradient by a numpy rule, 4 floats",
        US,
        _peers("eager gradient", has_gradient=True, libraries=("jax", "torch", "autograd", "pytensor")),
        [Target(_OURS, 0.75, _NATIVE), Target(_OURS, 0.75, _RECIPE)],
    ),
    Group(
        "graph",
        "One more call in a chain of a graph, 4 floats",
        US,
        _peers("graph", libraries=("pytensor",)),
        [Target(_OURS, 1.0, _NUMPY_FUNCTION)],
    ),
    Group(
        "graph-gradient",
        "One more call in a chain of a graph with its gradient, 4 floats",
        US,
        _peers("graph gradient", has_gradient=True, libraries=("jax", "pytensor")),
        [Target(_OURS, 0.8, _RECIPE)],
    ),
    Group(
        "xla",
        "One more call in a chain that XLA compiles, 4 floats",
        US,
        [
            Row("tfpyop, compiled", "XLA tfpyop"),
            Row("tf.numpy_function, graph", "graph numpy_function"),
            Row("native floormod, graph", "graph native"),
            Row("jax.pure_callback, jit", "XLA jax", "jax"),
        ],
        [
            Target("tfpyop, compiled", 0.3, "tf.numpy_function, graph"),
            Target("tfpyop, compiled", 0.12, "jax.pure_callback, jit"),
        ],
    ),
    Group(
        "xla-added",
        "What one call adds to a function that XLA compiles, 4 floats",
        US,
        [Row("tfpyop", "XLA added"), Row("jax.pure_callback", "XLA added jax", "jax")],
        [Target("tfpyop", 45)],
    ),
    Group(
        "cycles",
        "A call of a function that leaves reference cycles, 4 floats",
        MS,
        [
            Row(f"{name}, {way}", f"cycles {name} {way}", library)
            for name, library in _CYCLES
            for way in ("graph", "XLA")
        ],
        [Target(f"{name}, XLA", 2, f"{name}, graph") for name, _ in _CYCLES],
        rounds=9,
        compares=False,
    ),
    Group(
        "large",
        "x + 1 of 64 MB",
        MS,
        [
            Row("numpy", "64 MB numpy"),
            Row("tfpyop, eager, out=", "64 MB eager, out="),
            Row("tfpyop, eager", "64 MB eager"),
            Row("tf.numpy_function, eager", "64 MB eager numpy_function"),
            Row("native, eager", "64 MB eager native"),
            Row("tfpyop, graph, out=", "64 MB graph, out="),
            Row("tfpyop, graph", "64 MB graph"),
            Row("tf.numpy_function, graph", "64 MB graph numpy_function"),
            Row("tfpyop, XLA, out=", "64 MB XLA, out="),
            Row("native, XLA", "64 MB XLA native"),
            Row("jax.pure_callback, jit", "64 MB jax", "jax"),
        ],
        [
            Target("tfpyop, eager, out=", 1.1, "numpy"),
            Target("tfpyop, eager", 2.4, "numpy"),
            Target("tfpyop, graph, out=", 1.25, "numpy"),
            Target("tfpyop, XLA, out=", 0.75, "numpy"),
            Target("tfpyop, XLA, out=", 1.3, "native, XLA"),
        ],
        rounds=9,
    ),
    Group(
        "rows",
        "vectorized_map of rows of 8 floats",
        MS,
        _curves({_OURS: "rows {} tfpyop", _RECIPE: "rows {} recipe"}, ROWS),
        [Target("tfpyop, 1,000", 0.05, "recipe, 1,000")],
        rounds=7,
        axis="rows",
    ),
    Group(
        "jacobian",
        "vectorized_map of Jacobians, 8 by 8 floats",
        MS,
        _curves({_OURS: "jacobian {} tfpyop", _RECIPE: "jacobian {} recipe"}, ROWS),
        [Target("tfpyop, 1,000", 0.05, "recipe, 1,000")],
        rounds=5,
        axis="rows",
    ),
    Group(
        "rules",
        "Derivatives of functions of 8 floats by kind of rule, compiled",
        US,
        _rules(),
        rounds=9,
        axis="rule, derivative",
        counts=True,
    ),
    Group(
        "trace",
        "Tracing a graph",
        MS,
        _curves({_OURS: "trace {} tfpyop", _NATIVE: "trace {} native", _RECIPE: "trace {} recipe"}, OPS_OF_GRAPH),
        [Target("tfpyop, 1,000", 3.0, "native floormod, 1,000"), Target("tfpyop, 1,000", 0.7, "recipe, 1,000")],
        rounds=5,
        axis="ops",
    ),
    Group(
        "run",
        "Running a graph",
        MS,
        _curves(
            {_OURS: "run {} tfpyop", _NUMPY_FUNCTION: "run {} numpy_function", _RECIPE: "run {} recipe"}, OPS_OF_GRAPH
        ),
        rounds=9,
        axis="ops",
    ),
    Group(
        "retrace",
        "What a trace that nobody keeps leaves in memory",
        KB,
        [
            Row(name, f"retrace {case}", "scaling")
            for name, case in (
                (_OURS, "tfpyop"),
                (_NATIVE, "native"),
                (_NUMPY_FUNCTION, "numpy_function"),
                (_RECIPE, "recipe"),
            )
        ],
        [Target(_OURS, 4)],
        rounds=3,
        compares=False,
    ),
    Group(
        "import",
        "Importing",
        MS,
        [
            Row("import tfpyop", "import tfpyop", "startup"),
            Row("import numpy, wrapt", "import numpy, wrapt", "startup"),
            Row("the difference", "import over", "startup"),
        ],
        [Target("the difference", 60)],
        rounds=9,
        compares=False,
    ),
    Group(
        "decorate",
        "Decorating a function and its rule",
        US,
        [Row("tfpyop", "decorate", "startup")],
        [Target("tfpyop", 100)],
    ),
    Group(
        "size",
        "An eager call",
        US,
        _curves({_OURS: "size {} tfpyop", "numpy": "size {} numpy", _NUMPY_FUNCTION: "size {} numpy_function"}, SIZES),
        rounds=9,
        axis="floats",
    ),
    Group(
        "threads",
        "Sorting 8 arrays of 300,000 floats, by threads",
        MS,
        _curves({_OURS: "threads {} tfpyop", "numpy": "threads {} numpy"}, WORKERS, "scaling"),
        rounds=9,
        axis="threads",
    ),
    Group(
        "processes",
        "64 calls of 20 ms by processes",
        MS,
        _curves({"a pool": "processes {}", "a loop here": "processes 0"}, WORKERS, "scaling"),
        [Target("a pool, 2", 1 / 1.7, "a loop here, 2")],
        rounds=5,
        axis="processes",
    ),
]
