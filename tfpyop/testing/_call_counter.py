"""Count all calls of a user's function or rule, in all threads.

While calls are counted, the code object of the function is replaced. Calls by everything that holds the function are
counted then: ops, graphs, and other functions that call it directly.
"""

from __future__ import annotations

import contextlib
import warnings
from collections import Counter
from collections.abc import Hashable, Mapping
from types import CodeType, FunctionType
from typing import Any

import numpy as np
import tensorflow as tf

from tfpyop.testing._rule_source import innermost, running

_MARK = "mark of tfpyop's call counter"


class CallCounter:
    """Count the calls of a function by their arguments.

    Args:
      function: The function, or a method, a partial function or a decorated function.

    Raises:
      SourceError: It is not a function in Python code.
    """

    def __init__(self, function: Any) -> None:
        self.function = innermost(function)
        self.calls: Counter[Hashable] = Counter()
        self._original = _copy(self.function)
        self._code = self._counting()

    @property
    def n_calls(self) -> int:
        """The number of calls."""
        return sum(self.calls.values())

    def counting(self) -> contextlib.AbstractContextManager[None]:
        """Forget the calls so far, and return the context in which calls are counted."""
        self.calls = Counter()
        return running(self.function, self._code)

    def __matmul__(self, arguments: tuple[tuple[Any, ...], Mapping[str, Any]]) -> Any:
        """Count a call and make it. The code that replaces the function does this."""
        args, keywords = arguments
        self.calls[_key(args, keywords)] += 1
        return self._original(*args, **keywords)

    def _counting(self) -> CodeType:
        """Return code with the free variables of the function, as `running` needs it, that calls this counter."""
        names = ", ".join(self.function.__code__.co_freevars)
        source = f"def outer({names}):\n  def counted(*args, **keywords):\n    return {_MARK!r} @ (args, keywords)\n"
        source += f"    ({names},)\n" if names else ""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            module = compile(source, self.function.__code__.co_filename, "exec")
        (outer,) = (const for const in module.co_consts if isinstance(const, CodeType))
        (counted,) = (const for const in outer.co_consts if isinstance(const, CodeType))
        consts: Any = tuple(self if const == _MARK else const for const in counted.co_consts)
        return counted.replace(co_consts=consts, co_name=self.function.__code__.co_name)


def _copy(function: FunctionType) -> FunctionType:
    """Return a function with the same code and variables."""
    copied = FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    copied.__kwdefaults__ = function.__kwdefaults__
    return copied


def _key(args: tuple[Any, ...], keywords: Mapping[str, Any]) -> Hashable:
    """Return a key that is the same for equal arguments."""
    return tuple(map(_part, tf.nest.flatten((args, sorted(keywords.items())))))


def _part(value: Any) -> Hashable:
    if isinstance(value, np.ndarray | np.generic):
        return value.dtype.name, value.shape, value.tobytes()
    return type(value).__name__, repr(value)
