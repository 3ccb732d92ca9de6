"""The pytest plugin: `pytest --tfpyop MODULE` collects a test item for each op of a module and each check.

Every pytest run loads this plugin if tfpyop is installed. The plugin therefore imports TensorFlow and Hypothesis only
if `--tfpyop` is passed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tfpyop._discovery import find_ops
from tfpyop._op import Op, op_def_of
from tfpyop.errors import TfpyopError


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option `--tfpyop`."""
    parser.getgroup("tfpyop", "checks of ops").addoption(
        "--tfpyop",
        action="append",
        default=[],
        metavar="MODULE",
        help="check the ops of this module, or one of its ops (MODULE:OP), in addition to all other tests; may be "
        "repeated",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker `tfpyop` of all checks, so that `-m tfpyop` selects them."""
    config.addinivalue_line("markers", "tfpyop: a check of an op, from --tfpyop or tfpyop.testing.make_test_class.")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add the checks before other plugins select among the items."""
    for target in config.getoption("tfpyop"):
        items.extend(OpsOfModule.from_parent(session, name=target, nodeid=target).collect())


class OpsOfModule(pytest.Collector):
    """The ops that one `--tfpyop` option names."""

    def collect(self) -> Iterator[CheckItem]:
        """Yield one item for each op and check."""
        from tfpyop.testing import CHECKS

        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())  # as `python -m pytest` does
        try:
            ops = find_ops(self.name)
        except TfpyopError as error:
            raise pytest.UsageError(f"--tfpyop {self.name}: {error}") from None
        for name, op in ops.items():
            for check in CHECKS:
                yield CheckItem.from_parent(self, name=f"{name}[{check}]", op=op, check=check)


class CheckItem(pytest.Item):
    """One check of one op."""

    def __init__(self, *, op: Op[..., Any], check: str, **options: Any) -> None:
        super().__init__(**options)
        self._op = op
        self._check = check
        self.add_marker("tfpyop")

    def runtest(self) -> None:
        """Run the check."""
        from tfpyop.testing import CHECKS
        from tfpyop.testing._ops import UNBOUND, is_unbound_method

        if is_unbound_method(self._op):
            pytest.skip(UNBOUND)
        outcome = CHECKS[self._check](self._op)
        if outcome.status == "skipped":
            pytest.skip(str(outcome.reason))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Return only the report, without the stack frames of the checks."""
        if isinstance(excinfo.value, TfpyopError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[str, int, str]:
        """Return the location of the op, and the names of the op and the check."""
        site = op_def_of(self._op).site
        return site.file, site.line - 1, f"{self.parent.name if self.parent else ''}:{self.name}"
