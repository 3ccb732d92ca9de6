"""The command line: `tfpyop list`, `check`, `ghostwrite`, `required`, `worker` and `bench`.

Owns argument parsing and the exit status: 0 for success, 1 if a check failed, and 2 with one line of text if the
command cannot run. Each command is a module of the same name, which is imported when the command runs.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from tfpyop._version import __version__
from tfpyop.errors import TfpyopError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name.

    Args:
      arguments: The arguments after `tfpyop`. Default: the arguments of this process.

    Returns:
      The exit status.
    """
    options = _parser().parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.path.insert(0, os.getcwd())
    try:
        status: int = importlib.import_module(f"tfpyop.cli.{options.command}").run(options)
    except TfpyopError as error:
        return _refuse(_in_one_line(str(error)))
    except ImportError as error:
        if error.name not in ("rich", "matplotlib", "hypothesis", "tensorflow"):
            raise
        package = "tfpyop[cli]" if error.name in ("rich", "matplotlib") else error.name
        return _refuse(f"this command requires {error.name}. Install it: pip install '{package}'.")
    return status


def _in_one_line(text: str) -> str:
    """Join lines to sentences: a full stop follows a line without punctuation at its end."""
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    ended = [line if line.endswith((".", ":", ";", "?", "!", ",")) else f"{line}." for line in lines[:-1]]
    return " ".join([*ended, *lines[-1:]])


def _refuse(why: str) -> int:
    print(f"tfpyop: {why}", file=sys.stderr)  # noqa: T201 - a command line prints
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("tfpyop", description="Plain numpy functions as differentiable TensorFlow ops.")
    parser.add_argument("--version", action="version", version=f"tfpyop {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", required=True, metavar="COMMAND")

    command = commands.add_parser("list", help="show the ops of modules", description="Show the ops of modules.")
    _add_targets(command)

    command = commands.add_parser(
        "check",
        help="run property-based tests on the ops of modules",
        description="Run property-based tests on the ops of modules. The exit status is 1 if a check fails.",
    )
    _add_targets(command)
    command.add_argument("--html", metavar="FILE", help="write a report with plots of the derivatives")
    command.add_argument("--json", action="store_true", help="print the outcomes as JSON instead of a table")
    command.add_argument("--max-examples", type=_count, metavar="N", help="how many examples each check draws")
    command.add_argument(
        "--modes",
        type=_parts,
        action="extend",
        metavar="MODE,...",
        help="one or more of eager, graph, XLA and native; default: all that apply",
    )
    command.add_argument(
        "--checks",
        type=_parts,
        action="extend",
        metavar="CHECK,...",
        help="names of checks, for example check_gradient; default: all",
    )
    command.add_argument(
        "--mutate",
        action="store_true",
        help="also run wrong variants of each rule, and list the variants that no check found, with their lines",
    )
    command.add_argument(
        "--thorough",
        action="store_true",
        help="draw ten times as many examples, and search for larger errors near the largest errors",
    )
    command.add_argument("--seed", type=int, metavar="N", help="draw the same examples in every run")

    command = commands.add_parser(
        "ghostwrite", help="print a test file for the ops", description="Print a test file for the ops of modules."
    )
    _add_targets(command)

    command = commands.add_parser(
        "required",
        help="show the ops that a saved model needs",
        description="Show the ops that a SavedModel needs, the modules that define them, and whether each is available "
        "here. Only the modules given by --modules are imported. The exit status is 1 if an op is not available.",
    )
    command.add_argument("path", metavar="PATH", help="the directory of the model")
    command.add_argument(
        "--modules", nargs="+", default=[], metavar="MODULE", help="modules to import first, which define the ops"
    )

    command = commands.add_parser(
        "worker",
        help="serve ops to a cluster",
        description="Import modules that define ops, and start a TensorFlow server that runs these ops in its "
        "process: a tf.distribute server, configured by the environment variable TF_CONFIG, or a worker of the "
        "tf.data service.",
    )
    command.add_argument("--modules", nargs="+", required=True, metavar="MODULE", help="modules that define ops")
    command.add_argument("--dispatcher", metavar="HOST:PORT", help="run as a worker of this tf.data service")
    command.add_argument(
        "--address",
        default="localhost",
        metavar="HOST",
        help="the name by which other machines reach this machine, for the tf.data service",
    )

    command = commands.add_parser(
        "bench",
        help="measure the overhead of op calls over the bare function",
        description="Measure the overhead of calls of one op over its bare function, by the size of the inputs.",
    )
    command.add_argument("op", metavar="MODULE:OP")
    command.add_argument("--png", metavar="FILE", help="write a plot to this file")
    command.add_argument("--max-size", type=_count, default=10**6, metavar="N", help="the largest number of elements")
    return parser


def _add_targets(command: argparse.ArgumentParser) -> None:
    command.add_argument("targets", nargs="+", metavar="MODULE", help="a module name, or one op of a module: MODULE:OP")


def _count(text: str) -> int:
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer of 1 or more")
    return int(text)


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
