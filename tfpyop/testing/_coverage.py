"""Coverage: count the derivatives that a check has compared, so that an inconclusive check does not pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from tfpyop._spec.coercion import Array, is_differentiable
from tfpyop.testing._check_runner import CheckRunner

_MOST_UNDECIDED = 10
"""Number of undecided nonzero derivatives that outweighs any number of compared zeros."""
_CAUSE = (
    "derivatives by it are nowhere precise, as of a part that works in single precision: give domain= or arguments= "
    "where they are, or leave {check} out. If only few examples are drawn, raise max_examples="
)


class Coverage:
    """Count the comparisons of each derivative of one op in one mode, and the inconclusive examples.

    Args:
      check: The check.
      name: The name of the check, for the remedy.
      mode: The mode, if the check runs in several modes.
    """

    def __init__(self, check: CheckRunner, name: str, *, mode: str | None = None) -> None:
        self._check, self._name, self._mode = check, name, mode
        self._compared: Counter[str] = Counter()
        self._compared_zero: Counter[str] = Counter()
        self._undecided: Counter[str] = Counter()
        self._undecided_zero: Counter[str] = Counter()

    def is_judged(self, what: str) -> bool:
        """Return whether a nonzero derivative was compared."""
        return self._compared[what] > 0

    def compare(self, what: str, *, is_zero: bool) -> None:
        """Count a comparison.

        Args:
          what: The derivative.
          is_zero: Whether the numerical derivative is zero, which is weaker evidence.
        """
        (self._compared_zero if is_zero else self._compared)[what] += 1

    def leave_undecided(self, what: str, *, is_zero: bool) -> None:
        """Count an example in which a derivative could not be compared.

        Args:
          what: The derivative.
          is_zero: Whether the rule returns zero for it.
        """
        (self._undecided_zero if is_zero else self._undecided)[what] += 1

    def note_outputs(self, outputs: Sequence[Array], counts: Sequence[Array]) -> None:
        """Count for each output whether the derivative of at least one element could be compared."""
        for number, (values, counted) in enumerate(zip(outputs, counts, strict=True)):
            if is_differentiable(values.dtype) and np.isfinite(values).any():
                note = self.compare if counted.any() else self.leave_undecided
                note(f"the derivative of output {number}", is_zero=True)

    def require_all(self) -> None:
        """Raise CheckError for the first derivative that was inconclusive in all examples."""
        for what in [*self._undecided, *self._undecided_zero]:
            n_undecided, n_zeros = self._undecided[what], self._compared_zero[what]
            is_outweighed = n_undecided >= _MOST_UNDECIDED or n_undecided > n_zeros
            if self._compared[what] or (n_zeros and not is_outweighed):
                continue
            raise self._check.failure(
                f"inconclusive: {what} could not be judged in any example.",
                mode=self._mode,
                cause=_CAUSE.format(check=self._name),
            )
