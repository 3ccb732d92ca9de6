"""The export check: a saved op must behave the same in a process that only imports its module."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from hypothesis.strategies import SearchStrategy

from tfpyop import Op
from tfpyop._registry.exportable import export_error
from tfpyop.errors import UnsupportedError
from tfpyop.testing._call_checks import function_outputs, require_equal
from tfpyop.testing._check_runner import CheckRunner
from tfpyop.testing._comparisons import arrays_of
from tfpyop.testing._derivatives import vjp
from tfpyop.testing._examples import Arguments
from tfpyop.testing._modes import checked_modes
from tfpyop.testing._ops import Flat, concrete_op_of, flat_function, rules_of, spec_of
from tfpyop.testing._other_process import Loaded, LoadingError, ModuleProcess, start_process
from tfpyop.testing._property import Property, Steps, check_function
from tfpyop.testing._strategies import arguments as draw_arguments

_MOST_EXPORTED = 10
"""Maximum number of exported examples. Each new rank or dtype is saved and loaded."""
_CAUSE = (
    "the op depends on state that the other process does not have: a global that was set after the import of its "
    "module, a command-line argument, or a seed"
)


@check_function()
def check_export(
    op: Op[..., Any],
    /,
    *,
    arguments: SearchStrategy[Arguments] | None = None,
    max_examples: int | None = None,
    seed: int | None = None,
    modes: Sequence[str] | None = None,
) -> Steps:
    """Check that the op survives a SavedModel: the model is saved here, and loaded in another process.

    Proves, for the drawn examples, that a process that imports the op's module and loads the model returns the same
    values and, if the op has a gradient rule, the same gradient. This detects an op whose results depend on changes
    that this process has made to its module. Starting the process takes about five seconds.

    Args:
      op: The op. Skipped if no other process can find it: its name is valid in this process only, its module cannot be
        imported by name, or its static values are not JSON.
      arguments: Strategy for the arguments. Default: `arguments(op)`.
      max_examples: Number of examples. Default: ten.
      seed: Seed that makes every run draw the same examples.
      modes: Not used, because models are graphs.

    Returns:
      The outcome, with the number of examples.

    Raises:
      CheckError: The loaded op raises, or returns other values.
    """
    checked_modes(modes)
    check = CheckRunner(op, "check_export", max_examples=max_examples, seed=seed, usual=_MOST_EXPORTED)
    spec = spec_of(op)
    if not spec.is_local and spec.module != "__main__" and not _is_importable(spec.module):
        return check.skipped(f"the op's module {spec.module!r} cannot be imported by name")
    is_differentiated = rules_of(op).vjp is not None
    with tempfile.TemporaryDirectory() as directory, ModuleProcess(spec.module) as process:
        saved = SavedModels(op, Path(directory))

        def body(arguments: Arguments) -> None:
            expected = function_outputs(check, op, arguments)
            inputs = [tf.constant(leaf) for leaf in arguments.leaves]
            try:
                path = saved.path_of(arguments, inputs)
                got = process.call(path, [tensor.numpy() for tensor in inputs], is_differentiated=is_differentiated)
            except UnsupportedError as error:
                check.skip_example(error.problem)
            except LoadingError as error:
                raise check.failure("the op fails in another process.", got=str(error)) from error
            problem = "the loaded op differs from the function"
            require_equal(check, expected, got.outputs, problem, is_exact=False, cause=_CAUSE)
            if is_differentiated:
                _require_equal_gradients(check, flat_function(op, arguments), inputs, got)

        yield Property(check, draw_arguments(op) if arguments is None else arguments, body)
    return check.passed()


def start_for_export(op: Op[..., Any]) -> None:
    """Start the shared process that `check_export` needs for an op, if the check applies to the op."""
    spec = spec_of(op)
    if not spec.is_local and _is_importable(spec.module):
        start_process(spec.module)


class SavedModels:
    """Saved models of one op, one for each combination of dtypes, ranks and static values."""

    def __init__(self, op: Op[..., Any], directory: Path) -> None:
        self._op = op
        self._directory = directory
        self._paths: dict[Any, str] = {}

    def path_of(self, arguments: Arguments, inputs: Sequence[tf.Tensor]) -> str:
        """Return the path of the saved model for a call. Save the model first if necessary.

        Raises:
          UnsupportedError: The call has static values that cannot be serialized.
        """
        concrete_op, _ = concrete_op_of(self._op, arguments)
        error = export_error(concrete_op)
        if error is not None:
            raise error
        key = (concrete_op.payload, *((tensor.dtype, tensor.shape.rank) for tensor in inputs))
        if key not in self._paths:
            path = str(self._directory / str(len(self._paths)))
            function = flat_function(self._op, arguments)
            specs = [tf.TensorSpec([None] * tensor.shape.rank, tensor.dtype) for tensor in inputs]
            module = tf.Module()
            module.call = tf.function(lambda *tensors: function(tensors), specs, autograph=False)
            tf.saved_model.save(module, path)
            self._paths[key] = path
        return self._paths[key]


def _is_importable(module: str) -> bool:
    """Return whether another process would import the module that is loaded here."""
    here = getattr(sys.modules.get(module), "__file__", None)
    return here is not None and _origin_of(module) == here


def _origin_of(module: str) -> str | None:
    """Return the file that another process would import. `importlib.util.find_spec` would return the loaded module."""
    path, spec = None, None
    names = module.split(".")
    for end in range(1, len(names) + 1):
        found = (finder.find_spec(".".join(names[:end]), path) for finder in sys.meta_path)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is None:
            return None
        path = spec.submodule_search_locations
    return spec.origin if spec is not None else None


def _require_equal_gradients(check: CheckRunner, call: Flat, inputs: Sequence[tf.Tensor], got: Loaded) -> None:
    expected = arrays_of(vjp(call, inputs, [tf.ones_like(output) for output in call(inputs)]))
    for number, (wanted, cotangent) in enumerate(zip(expected, got.cotangents, strict=True)):
        if (wanted is None) != (cotangent is None):
            raise check.failure(
                f"the cotangent of input {number} from the loaded op differs.",
                expected="None" if wanted is None else "an array",
                got="None" if cotangent is None else "an array",
            )
    present = [(w, c) for w, c in zip(expected, got.cotangents, strict=True) if w is not None and c is not None]
    here, there = [np.asarray(w) for w, _ in present], [np.asarray(c) for _, c in present]
    require_equal(
        check, here, there, "the gradient of the loaded op differs", is_exact=False, noun="cotangent", cause=_CAUSE
    )
