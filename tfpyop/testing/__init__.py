"""Property-based testing of ops, on Hypothesis: strategies that draw what an op takes, and checks that it is right."""

from tfpyop.testing._examples import Arguments
from tfpyop.testing._failures import CheckError
from tfpyop.testing._strategies import arguments, cotangents, tangents

__all__ = ["Arguments", "CheckError", "arguments", "cotangents", "tangents"]
