"""Events and notes: what Hypothesis' statistics and reports say about the examples of a check.

Outside of a test that Hypothesis runs, nothing is recorded.
"""

from __future__ import annotations

from typing import NoReturn

import hypothesis
import numpy as np
import tensorflow as tf
from hypothesis.errors import UnsatisfiedAssumption

from tfpyop.testing._examples import Arguments

_BUCKETS = ((1e-3, "below 0.001"), (0.1, "0.001 to 0.1"), (1.0, "0.1 to 1"))
"""The ratios of error and tolerance that are counted together, by their upper end."""


def record(event: str) -> None:
    """Count an event for the current example, in the statistics and observations of Hypothesis."""
    if hypothesis.currently_in_test_context():
        hypothesis.event(event)


def reject_example(reason: str) -> NoReturn:
    """Reject the current example, and count the reason."""
    record(f"rejected: {reason}")
    raise UnsatisfiedAssumption


def record_error(error: float, tolerance: float) -> None:
    """Count the ratio of an error and its tolerance. If it is above 1, add it to the report of the failure."""
    if not hypothesis.currently_in_test_context():
        return
    ratio = float(error / tolerance) if error and tolerance else float(error)
    bucket = next((text for most, text in _BUCKETS if ratio <= most), "above 1")
    hypothesis.event(f"error / tolerance: {bucket}")
    if bucket == "above 1":
        hypothesis.note(f"error / tolerance: {ratio:.3g}")


def record_shapes(arguments: Arguments) -> None:
    """Count the kind of shapes that an example has."""
    if hypothesis.currently_in_test_context():
        hypothesis.event(f"shapes: {_shape_class([np.shape(leaf) for leaf in tf.nest.flatten(arguments.args)])}")


def _shape_class(shapes: list[tuple[int, ...]]) -> str:
    if any(0 in shape for shape in shapes):
        return "empty"
    if not any(shapes):
        return "0-d"
    if all(size == 1 for shape in shapes for size in shape):
        return "one element"
    return "several elements" if len(set(shapes)) == 1 else "several elements, different shapes"
