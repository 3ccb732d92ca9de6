"""Refused dtypes: a dtype for which a function always raises is a failure, not a rejected example."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

import numpy as np
from hypothesis.errors import UnsatisfiedAssumption

from tfpyop.testing._check_runner import CheckRunner, described
from tfpyop.testing._examples import Arguments

_FEWEST = 5
"""Number of examples that show that a function refuses a dtype, and that it accepts other dtypes."""


class RefusedDtypes:
    """Count the examples that a function accepts and refuses, by the dtypes of the inputs.

    Args:
      check: The check.
    """

    def __init__(self, check: CheckRunner) -> None:
        self._check = check
        self._accepted: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._errors: dict[str, Exception] = {}

    @contextlib.contextmanager
    def noted(self, arguments: Arguments) -> Iterator[None]:
        """Note whether the function refuses an example. Empty arrays do not count."""
        arrays = [np.asarray(value) for value in arguments.leaves]
        names = ", ".join(dict.fromkeys(array.dtype.name for array in arrays))
        try:
            yield
        except UnsatisfiedAssumption:
            if all(array.size for array in arrays) and self._check.refusal is not None:
                self._refused[names] += 1
                self._errors[names] = self._check.refusal
            raise
        self._accepted[names] += 1

    def require_accepted(self) -> None:
        """Raise CheckError for a dtype that the function always refuses, although it accepts other dtypes."""
        for names, n_refused in self._refused.items():
            n_others = sum(self._accepted.values())
            if self._accepted[names] or n_refused < _FEWEST or n_others < _FEWEST:
                continue
            raise self._check.failure(
                f"the function raises for all {names} inputs.",
                expected=f"results, as for {', '.join(self._accepted)} inputs",
                got=f"{n_refused} of {n_refused} examples refused, the last time with {described(self._errors[names])}",
                cause='the function does not support this dtype: convert the inputs, pass compute_dtype="float64" to '
                "the op, or check it with arguments(op, dtypes=...)",
            )
