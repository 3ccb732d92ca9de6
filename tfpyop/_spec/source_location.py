"""Locate where an op or a rule was defined, for error messages and to recognize a reload of the same module."""

from __future__ import annotations

import contextlib
import inspect
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any


@dataclass(frozen=True, slots=True)
class Site:
    """Identify where an op was defined, so that a reload can be distinguished from a second op of the same name."""

    file: str
    line: int
    executions: tuple[Any, ...] = field(compare=False, repr=False)
    """The objects that distinguish one execution of the modules from the next: namespaces and `__spec__`s."""
    is_interactive: bool = False

    @classmethod
    def of(cls, function: Any, frame: FrameType) -> Site:
        """Return the site of a function that was passed to `differentiable_op` in this frame."""
        code = getattr(function, "__code__", None)
        module = sys.modules.get(getattr(function, "__module__", None) or "")
        namespaces = [frame.f_globals, frame.f_globals if module is None else vars(module)]
        is_made_here = code is not None and (
            code.co_filename == frame.f_code.co_filename or bool(frame.f_code.co_flags & inspect.CO_OPTIMIZED)
        )
        return cls(
            file=code.co_filename if code is not None and is_made_here else frame.f_code.co_filename,
            line=code.co_firstlineno if code is not None and is_made_here else frame.f_lineno,
            executions=tuple(part for names in namespaces for part in (names, names.get("__spec__"))),
            is_interactive=frame.f_globals.get("__name__") == "__main__" and "__file__" not in frame.f_globals,
        )

    def replaces(self, other: Site) -> bool:
        """Return whether an op at this site is a new version of an op at the other site, and not a second op.

        An op is a new version if both sites are in interactive sessions, or if a module has been executed again.
        """
        pairs = zip(self.executions, other.executions, strict=True)
        if self.is_interactive or other.is_interactive:
            return self.is_interactive and other.is_interactive
        return self.file == other.file and any(mine is not theirs for mine, theirs in pairs)

    def __str__(self) -> str:
        """Render the site as `acme/ops.py:12`, relative to the working directory if the file is below it."""
        path = Path(self.file)
        with contextlib.suppress(ValueError, OSError):  # not below the working directory, or there is none
            path = path.relative_to(Path.cwd())
        return f"{path}:{self.line}"


def default_name(function: Any, frame: FrameType) -> tuple[str, str, bool]:
    """Return the op's default name, the module that defines it, and whether the name is valid in this process only.

    Every process can find the names of functions decorated while their module is executed, and of functions of another
    module wrapped at the top level of this module. It cannot find the names of ops created inside a function call.
    """
    caller: str = frame.f_globals.get("__name__", "__main__")
    qualname = getattr(function, "__qualname__", None) or getattr(function, "__name__", None)
    owner = getattr(function, "__self__", None)
    if qualname is None or "<" in qualname or not (owner is None or inspect.ismodule(owner)):
        return f"{caller}:{qualname or type(function).__name__}", caller, True
    if not _is_in_call(frame):
        return f"{caller}:{qualname}", caller, False
    home = getattr(function, "__module__", None) or caller
    return f"{home}:{qualname}", home, not _is_being_defined(function, frame)


def is_of_one_call(function: Any, frame: FrameType) -> bool:
    """Return whether an op of this function belongs to one instance, or to one call of a function.

    Ops that functions create while a module is imported belong to the module.
    """
    owner = getattr(function, "__self__", None)
    is_made = "<locals>" in getattr(function, "__qualname__", "<locals>")
    is_bound = owner is not None and not inspect.ismodule(owner)
    return (is_made or is_bound) and _is_in_call(frame) and not _is_in_import(frame)


def is_in_class(function: Any) -> bool:
    """Return whether a function was defined in the body of a class."""
    return "." in getattr(function, "__qualname__", "").rpartition("<locals>.")[2]


def _is_in_call(frame: FrameType) -> bool:
    """Return whether a frame runs a function, rather than the body of a module or class."""
    return bool(frame.f_code.co_flags & inspect.CO_OPTIMIZED)


def _is_in_import(frame: FrameType | None) -> bool:
    """Return whether a module that is being imported runs further up the stack."""
    while frame is not None:
        if not _is_in_call(frame) and getattr(frame.f_globals.get("__spec__"), "_initializing", False):
            return True
        frame = frame.f_back
    return False


def _is_being_defined(function: Any, frame: FrameType | None) -> bool:
    """Return whether the body of the function's module runs further up the stack, as under another decorator."""
    module = sys.modules.get(getattr(function, "__module__", None) or "")
    namespace = getattr(module, "__dict__", getattr(function, "__globals__", None))
    while frame is not None:
        if frame.f_globals is namespace and not _is_in_call(frame):
            return True
        frame = frame.f_back
    return False
