"""An op of tfpyop itself that checks the indices of cotangents that are `tf.IndexedSlices`, on the host.

TensorFlow ignores negative indices when it makes a dense tensor of slices, and XLA ignores all invalid indices. On the
host they raise in every mode.
"""

from __future__ import annotations

import sys
from typing import Any

from tfpyop._registry.bind import bind
from tfpyop._registry.function_op_def import FunctionOpDef
from tfpyop._registry.op_def import REGISTRY, RuleSet
from tfpyop._spec.coercion import Array
from tfpyop._spec.op_spec import OpSpec
from tfpyop._spec.parameters import Parameters
from tfpyop._spec.signature import Signature
from tfpyop._spec.source_location import Site
from tfpyop.errors import ContractError


def require_valid_indices(indices: Any, size: Any, *, owner: str, what: str) -> Any:
    """Return the indices of slices unchanged, after checking them.

    Args:
      indices: The indices, an integer tensor of shape `[n]`.
      size: The number of slices of the dense tensor, in the dtype of the indices.
      owner: The rule and op that returned the slices, for errors.
      what: The slices in errors.

    Raises:
      ContractError: An index is negative or too large. In a graph, it is raised when the graph runs.
    """
    (checked,) = bind(_DEFINITION.specialize(None, {"owner": owner, "what": what}), [indices, size])
    return checked


def _slice_indices(indices: Array, size: Array, *, owner: str, what: str) -> Array:
    is_wrong = (indices < 0) | (indices >= size[..., None])
    if is_wrong.any():
        raise ContractError(
            f"{what} has an invalid index.",
            subject=owner,
            expected=f"indices of tf.IndexedSlices from 0 to {int(size.flat[0]) - 1}",
            got=str(int(indices[is_wrong][0])),
            remedy="Return the indices of the rows of the input that the values belong to.",
        )
    return indices


def _define() -> FunctionOpDef:
    site = Site.of(_slice_indices, sys._getframe())
    spec = OpSpec(
        "tfpyop:slice_indices",
        "tfpyop",
        False,
        site,
        Parameters.of(_slice_indices, ()),
        signature=Signature.parse("(n),()->(n)"),
        is_non_differentiable=True,
    )
    definition = FunctionOpDef(_slice_indices, spec, RuleSet(non_differentiable=True), lambda definition: definition)
    REGISTRY.add_internal(definition)
    return definition


_DEFINITION = _define()
