"""Sites: where an op or a rule was defined, for errors and to recognise a reload of the same module."""

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
    """Where an op was made: enough to tell a reload from a second op of the same name."""

    file: str
    line: int
    executions: tuple[Any, ...] = field(compare=False, repr=False)
    """What distinguishes one execution of the modules involved from the next: namespaces and `__spec__`s."""
    is_interactive: bool = False

    @classmethod
    def of(cls, function: Any, frame: FrameType) -> Site:
        """The site of a function given to `differentiable_op` in this frame."""
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
        """Whether an op made here is a new version of one made there, not a second op.

        It is in a notebook, and when a module has been executed again.
        """
        pairs = zip(self.executions, other.executions, strict=True)
        if self.is_interactive or other.is_interactive:
            return self.is_interactive and other.is_interactive
        return self.file == other.file and any(mine is not theirs for mine, theirs in pairs)

    def __str__(self) -> str:
        """Render as `acme/ops.py:12`, from the working directory if the file is below it."""
        path = Path(self.file)
        with contextlib.suppress(ValueError, OSError):  # elsewhere, or there is no working directory: the whole path
            path = path.relative_to(Path.cwd())
        return f"{path}:{self.line}"


def default_name(function: Any, frame: FrameType) -> tuple[str, str, bool]:
    """The op's default name, the module whose import makes it, and whether the name is for this process only.

    A function decorated while its module is executed has a name that every process finds; so has a function of
    another module that is wrapped at the top level of this one. Anything made inside of a function call has not.
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


def is_in_class(function: Any) -> bool:
    """Whether a function was defined in the body of a class."""
    return "." in getattr(function, "__qualname__", "").rpartition("<locals>.")[2]


def _is_in_call(frame: FrameType) -> bool:
    """Whether a frame runs a function, rather than the body of a module or class."""
    return bool(frame.f_code.co_flags & inspect.CO_OPTIMIZED)


def _is_being_defined(function: Any, frame: FrameType | None) -> bool:
    """Check whether the body of the function's module runs further up the stack, as under another decorator."""
    module = sys.modules.get(getattr(function, "__module__", None) or "")
    namespace = getattr(module, "__dict__", getattr(function, "__globals__", None))
    while frame is not None:
        if frame.f_globals is namespace and not _is_in_call(frame):
            return True
        frame = frame.f_back
    return False
