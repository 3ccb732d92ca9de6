"""Plain numpy functions as differentiable TensorFlow ops. Importing this package does not import TensorFlow."""

from tfpyop import errors
from tfpyop._decorator import differentiable_op
from tfpyop._import_hooks import install_hooks
from tfpyop._numdiff.complex_step import complex_step
from tfpyop._numdiff.finite_differences import numerical
from tfpyop._op import Op
from tfpyop._prefer_native import prefer_native
from tfpyop._registered import get_op, registered_ops
from tfpyop._rules.description import RuleDescription
from tfpyop._spec.rule_context import RuleContext
from tfpyop._spec.undefined import UNDEFINED
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
    "UNDEFINED",
    "CoercionError",
    "ContractError",
    "GradientError",
    "Op",
    "RegistrationError",
    "RuleContext",
    "RuleDescription",
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

install_hooks()
