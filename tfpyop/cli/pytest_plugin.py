"""The pytest plugin: `pytest --tfpyop MODULE` collects a test item for each op of a module and each check.

Every pytest run loads this plugin if tfpyop is installed. The plugin therefore imports TensorFlow and Hypothesis only
if `--tfpyop` is passed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tfpyop._discovery import find_ops
from tfpyop._op import Op, op_def_of
from tfpyop.errors import TfpyopError


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options `--tfpyop` and `--tfpyop-thorough`."""
    parser.getgroup("tfpyop", "checks of ops").addoption(
        "--tfpyop",
        action="append",
        default=[],
        metavar="MODULE",
        help="check the ops of this module, or one of its ops (MODULE:OP), in addition to all other tests; may be "
        "repeated",
    )
    parser.getgroup("tfpyop").addoption(
        "--tfpyop-thorough",
        action="store_true",
        help="make the checks of --tfpyop draw ten times as many examples, and search for larger errors",
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
        """Yield one item for each op, check and mode in which the check differs."""
        from tfpyop.testing import CHECKS
        from tfpyop.testing._given_tests import cases, given_test
        from tfpyop.testing._modes import MODES
        from tfpyop.testing._ops import is_unbound_method

        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())  # as `python -m pytest` does
        try:
            ops = find_ops(self.name)
        except TfpyopError as error:
            raise pytest.UsageError(f"--tfpyop {self.name}: {error}") from None
        thorough = bool(self.config.getoption("tfpyop_thorough"))
        for name, op in ops.items():
            for check in CHECKS.values():
                for case, modes in cases(op, check, MODES):
                    options = {"modes": modes}
                    test = _skipped if is_unbound_method(op) else given_test(op, check, options, thorough=thorough)
                    yield CheckItem.from_parent(self, name=f"{name}[{case}]", op=op, test=test)


def _skipped() -> None:
    from tfpyop.testing._ops import UNBOUND

    pytest.skip(UNBOUND)


class CheckItem(pytest.Item):
    """One check of one op. Hypothesis' plugin recognizes the attribute `obj`, the test."""

    def __init__(self, *, op: Op[..., Any], test: Callable[[], None], **options: Any) -> None:
        super().__init__(**options)
        self._op = op
        self.obj = test
        self.add_marker("tfpyop")

    def runtest(self) -> None:
        """Run the check."""
        self.obj()

    def reportinfo(self) -> tuple[str, int, str]:
        """Return the location of the op, and the names of the op and the check."""
        site = op_def_of(self._op).site
        return site.file, site.line - 1, f"{self.parent.name if self.parent else ''}:{self.name}"
