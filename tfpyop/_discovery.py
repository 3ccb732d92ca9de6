"""Find the ops of a module by the target that a user types: `module`, or `module:op`."""

from __future__ import annotations

import importlib
import os
import pkgutil
from collections.abc import Sequence
from difflib import get_close_matches
from types import ModuleType
from typing import Any

from tfpyop._op import Op, op_def_of
from tfpyop._registered import OpsView
from tfpyop._registry.rule_op_def import RuleOpDef
from tfpyop.errors import RegistrationError, nearest


def find_ops(target: str) -> dict[str, Op[..., Any]]:
    """Return the ops that a target names, by their names within its module.

    Args:
      target: `module` for all ops that the module and its submodules define, or `module:op` for a single op.

    Raises:
      RegistrationError: The module or the op does not exist, the module defines no ops, or importing it raises.
    """
    name, _, op = target.partition(":")
    found = ops_of(import_module(name))
    if not found:
        raise RegistrationError(
            f"module {name!r} does not define any ops.", remedy="Decorate a function with @differentiable_op."
        )
    if not op:
        return found
    if op not in found:
        raise RegistrationError(f"module {name!r} has no op {op!r}.", remedy=nearest(op, found))
    return {op: found[op]}


def find_all(targets: Sequence[str]) -> dict[str, Op[..., Any]]:
    """Return the ops that several targets name, by `module:op`. Raise the errors of `find_ops`."""
    return {f"{target.partition(':')[0]}:{name}": op for target in targets for name, op in find_ops(target).items()}


def ops_of(module: ModuleType) -> dict[str, Op[..., Any]]:
    """Return the ops that a module and its submodules define, by name within the module.

    These are attributes of the module and registered ops. The ops of numpy rules are left out, because they belong to
    the ops whose rules they are.
    """
    attributes = [(name, value) for name, value in vars(module).items() if type(value) is Op]
    registered = [(_name_within(module, name), op) for name, op in OpsView().items()]
    found: dict[str, Op[..., Any]] = {}
    for name, op in [*attributes, *registered]:
        if not any(op is other for other in found.values()) and _is_made_by(module, op):
            found[name] = op
    return found


def _name_within(module: ModuleType, name: str) -> str:
    """Return `op` for `module:op`, and `submodule:op` for `module.submodule:op`."""
    return name.removeprefix(f"{module.__name__}:").removeprefix(f"{module.__name__}.")


def _is_made_by(module: ModuleType, op: Op[..., Any]) -> bool:
    definition = op_def_of(op)
    home: str = definition.module
    return not isinstance(definition, RuleOpDef) and f"{home}.".startswith(f"{module.__name__}.")


def import_module(name: str) -> ModuleType:
    """Import a module by the name that a user types.

    Raises:
      RegistrationError: The module does not exist, or importing it raises.
    """
    if not isinstance(name, str):
        raise RegistrationError(
            "this is not a module name.", got=f"{name!r:.80}", remedy='Pass a string, for example "my_package".'
        )
    if not name or name.startswith("."):
        raise RegistrationError(
            f"{name!r} is not a module name.", remedy="Pass a dotted name, for example my_package.ops."
        )
    if name.endswith(".py") or "/" in name or os.sep in name:
        path = name.removesuffix(".py").replace(os.sep, ".").replace("/", ".").strip(".")
        raise RegistrationError(
            f"{name!r} is a file name, not a module name.", remedy=f"Pass the name of the module, for example {path}."
        )
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise _broken(name, error) from error
        raise _missing(error.name) from None
    except (Exception, SystemExit) as error:
        raise _broken(name, error) from error


def _broken(name: str, error: BaseException) -> RegistrationError:
    return RegistrationError(
        f"importing module {name!r} raises {type(error).__name__}: {error}",
        remedy=f"Fix this error first. To see the traceback, run: python -c 'import {name}'",
    )


def _missing(name: str) -> RegistrationError:
    """Return the error for a module that does not exist, with the names of similar modules."""
    home, _, own = name.rpartition(".")
    if not home:
        close = get_close_matches(own, {module.name for module in pkgutil.iter_modules()}, n=3)
        remedy = nearest(own, close) if close else "Add its directory to PYTHONPATH, or install the package."
        return RegistrationError(f"there is no module {name!r}.", remedy=remedy)
    package = importlib.import_module(home)
    if hasattr(package, own):
        return RegistrationError(
            f"{name!r} is an attribute of a module, not a module.", remedy=f"For an op, write {home}:{own}."
        )
    siblings = {module.name for module in pkgutil.iter_modules(getattr(package, "__path__", ()))}
    return RegistrationError(f"there is no module {name!r}.", remedy=nearest(own, siblings))
