"""Plain numpy functions as differentiable TensorFlow ops. Importing this package does not import TensorFlow."""

from collections.abc import Mapping
from typing import Any

from tfpyop import errors
from tfpyop._complex_step import complex_step
from tfpyop._context import RuleContext
from tfpyop._hooks import install_hooks
from tfpyop._numerical import numerical
from tfpyop._op import Op, differentiable_op, get_op
from tfpyop._preference import prefer_native
from tfpyop._registry import OpsView
from tfpyop._version import __version__
from tfpyop.errors import (
    CoercionError,
    ContractError,
    GradientError,
    RegistrationError,
    SignatureError,
    TfpyopError,
    UnsupportedError,
)

__all__ = [
    "CoercionError",
    "ContractError",
    "GradientError",
    "Op",
    "RegistrationError",
    "RuleContext",
    "SignatureError",
    "TfpyopError",
    "UnsupportedError",
    "__version__",
    "complex_step",
    "differentiable_op",
    "errors",
    "get_op",
    "numerical",
    "prefer_native",
    "registered_ops",
]


def registered_ops() -> Mapping[str, Op[..., Any]]:
    """A read-only mapping from names to the ops of this process, in the order of their definition."""
    return OpsView()


install_hooks()
