"""Property-based testing of ops with Hypothesis: strategies for the arguments of ops, and checks of ops."""

from tfpyop.testing._adjoint_check import check_adjoint
from tfpyop.testing._call_checks import check_batching, check_contract, check_parity
from tfpyop.testing._check_op import CHECKS, ChecksError, Report, check_op
from tfpyop.testing._check_runner import Outcome
from tfpyop.testing._cost_check import check_cost
from tfpyop.testing._drawn import Drawn, NotTested, UntestedWarning
from tfpyop.testing._examples import Arguments
from tfpyop.testing._export_check import check_export
from tfpyop.testing._failures import CheckError
from tfpyop.testing._gradient_checks import check_gradient, check_jvp, check_second_order
from tfpyop.testing._implicit_check import check_implicit
from tfpyop.testing._linearity_check import check_linearity
from tfpyop.testing._mutation import Mutant, MutationReport
from tfpyop.testing._needs_check import check_needs
from tfpyop.testing._order_check import check_order
from tfpyop.testing._precision_check import check_precision
from tfpyop.testing._purity_check import check_purity
from tfpyop.testing._residuals_check import check_residuals
from tfpyop.testing._sparsity_check import check_sparsity
from tfpyop.testing._strategies import arguments, cotangents, tangents
from tfpyop.testing._test_class import make_test_class
from tfpyop.testing._threads_check import check_threads

__all__ = [
    "CHECKS",
    "Arguments",
    "CheckError",
    "ChecksError",
    "Drawn",
    "Mutant",
    "MutationReport",
    "NotTested",
    "Outcome",
    "Report",
    "UntestedWarning",
    "arguments",
    "check_adjoint",
    "check_batching",
    "check_contract",
    "check_cost",
    "check_export",
    "check_gradient",
    "check_implicit",
    "check_jvp",
    "check_linearity",
    "check_needs",
    "check_op",
    "check_order",
    "check_parity",
    "check_precision",
    "check_purity",
    "check_residuals",
    "check_second_order",
    "check_sparsity",
    "check_threads",
    "cotangents",
    "make_test_class",
    "tangents",
]
