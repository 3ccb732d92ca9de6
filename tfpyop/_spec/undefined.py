"""Define the value that a rule returns for a derivative that does not exist, and the inputs that have no derivative."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfpyop._spec.parameters import Parameters
from tfpyop.errors import GradientError, RegistrationError, nearest


class Undefined(enum.Enum):
    """The type of `UNDEFINED`."""

    UNDEFINED = "undefined"

    def __repr__(self) -> str:
        """Return the name under which users import the value."""
        return "tfpyop.UNDEFINED"


UNDEFINED = Undefined.UNDEFINED
"""The value that a rule returns for a derivative that does not exist. Requesting it raises `GradientError`."""


def undefined_vector(vector: str, number: int) -> GradientError:
    """Return the error for a cotangent or tangent for which a rule returned UNDEFINED."""
    of = f"the derivative by input {number}" if vector == "cotangent" else f"the tangent of output {number}"
    return GradientError(
        f"{of} is not defined: the rule returned UNDEFINED for it.",
        remedy="Do not request this derivative: pass the input through tf.stop_gradient. If the derivative never "
        "exists, name the inputs in non_differentiable=. Graphs can then compute the other derivatives.",
    )


def read_non_differentiable(value: Any, parameters: Parameters) -> tuple[bool, tuple[str, ...]]:
    """Return whether the op has no derivatives, and otherwise the parameters whose inputs have no derivative.

    Raises:
      RegistrationError: The value is neither a bool nor the names of some, but not all, of the inputs.
    """
    if isinstance(value, bool | np.bool_):
        return bool(value), ()
    names: Sequence[Any] = (value,) if isinstance(value, str) else value
    known = [name for name in parameters.input_names if name not in ("self", "cls")]
    is_list = isinstance(names, tuple | list) and all(isinstance(name, str) for name in names)
    if not is_list or not names or len(set(names)) < len(names):
        raise RegistrationError(
            "non_differentiable= is invalid.",
            expected="True, False, or a tuple of different names of parameters",
            got=f"{value!r:.80}",
            remedy=f"Name some inputs of the op: {', '.join(map(repr, known)) or 'unknown'}.",
        )
    for name in names:
        if name not in known:
            raise RegistrationError(
                f"non_differentiable= names {name!r}, which is not an input.", remedy=nearest(name, known)
            )
    if set(names) == set(known):
        raise RegistrationError(
            "non_differentiable= names all inputs.",
            remedy="Omit non_differentiable= and the rules: the gradient of an op without a rule raises an error. For "
            "gradients of None, pass non_differentiable=True.",
        )
    return False, tuple(names)
