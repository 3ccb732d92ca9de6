"""Outputs that a rule does not get: they stand in place of the outputs, and reading them is an error."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Any, NoReturn

from tfpyop.errors import GradientError


class WithoutOutputs(Enum):
    """The reason why a rule does not get the outputs."""

    OPTION = "uses_outputs=False"
    LINEAR = "adjoint"


class MissingOutputs(tuple[Any, ...]):
    """Stand for the outputs of a call in a rule that does not get them.

    Args:
      reason: Why the rule does not get them.
    """

    _reason: WithoutOutputs

    def __new__(cls, reason: WithoutOutputs) -> MissingOutputs:
        """Create the tuple, which seems to have no elements."""
        outputs = super().__new__(cls)
        outputs._reason = reason
        return outputs

    def __getitem__(self, key: Any) -> NoReturn:
        """Raise GradientError."""
        raise self._error()

    def __iter__(self) -> Iterator[Any]:
        """Raise GradientError."""
        raise self._error()

    def __len__(self) -> int:
        """Raise GradientError."""
        raise self._error()

    def __repr__(self) -> str:
        """Return text, for messages that show the context of a rule."""
        return "<not passed to this rule>"

    def _error(self) -> GradientError:
        return GradientError(
            "the rule reads op.outputs, but does not get them.",
            remedy="Remove uses_outputs=False."
            if self._reason is WithoutOutputs.OPTION
            else "The adjoint of a linear op does not depend on its outputs. If this op is not linear, use "
            "@op.numpy_gradient.",
        )
