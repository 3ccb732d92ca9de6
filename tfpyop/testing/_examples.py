"""Examples: the arguments of calls as strategies draw them, and the Python code that reproduces them."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tfpyop._spec.coercion import Array
from tfpyop._spec.tree import TreeSpec, flatten

_DOUBLE = ("float64", "complex128")


class Arguments(NamedTuple):
    """The arguments of one call: `op(*args, **static)`.

    Attributes:
      args: One array or number for each input, nested as the function takes them, or None for an optional input that
        is left out. As in every call, float64 arrays are converted to float32. Pass `*drawn.tensors` to keep float64.
      static: Values of the static parameters by name.
    """

    args: tuple[Any, ...]
    static: Mapping[str, Any] = {}

    @property
    def tensors(self) -> tuple[Any, ...]:
        """The arguments as tensors, which keep their dtypes."""
        import tensorflow as tf

        return self.map(tf.constant).args

    @property
    def leaves(self) -> Sequence[Any]:
        """The arguments without their nesting. Inputs that are None are left out."""
        return flatten(self.args)[0]

    @property
    def missing(self) -> Sequence[int]:
        """The positions of the arguments that are None."""
        return [number for number, value in enumerate(self.args) if value is None]

    def map(self, function: Callable[[Any], Any]) -> Arguments:
        """Return the arguments with the results of a function for each array or number."""
        leaves, tree = flatten(self.args)
        return Arguments(tree.unflatten([function(leaf) for leaf in leaves]), self.static)

    def code(self, op: str = "op") -> str:
        """Return the call as Python code, which needs numpy as `np` and TensorFlow as `tf`."""
        return call_code(op, self.args, self.static)


class Rows(NamedTuple):
    """The arguments of several calls with the same shapes and dtypes, as `tf.vectorized_map` runs them.

    Attributes:
      arguments: The arguments of each row. The static values of the first row are used.
    """

    arguments: tuple[Arguments, ...]

    @property
    def static(self) -> dict[str, Any]:
        """The values of the static parameters by name."""
        return dict(self.arguments[0].static)

    @property
    def stacked(self) -> tuple[Any, ...]:
        """One array for each input, with a row for each call."""
        import tensorflow as tf

        columns = zip(*[row.leaves for row in self.arguments], strict=True)
        arrays = [np.stack([tf.constant(value).numpy() for value in column]) for column in columns]
        stacked: tuple[Any, ...] = self._tree.unflatten(arrays)
        return stacked

    def of_row(self, leaves: Sequence[Any]) -> Any:
        """Return the arguments of one row, given its flat inputs."""
        return self._tree.unflatten(leaves)

    @property
    def _tree(self) -> TreeSpec:
        return flatten(self.arguments[0].args)[1]


def call_code(function: str, args: Iterable[Any], keywords: Mapping[str, Any]) -> str:
    """Return a call as Python code, which needs numpy as `np` and TensorFlow as `tf`."""
    parts = [*map(value_code, args), *(f"{name}={value_code(value)}" for name, value in keywords.items())]
    return f"{function}({', '.join(parts)})"


def value_code(value: Any) -> str:
    """Return an argument as Python code. Arrays keep dtype, shape, and, if possible, memory order.

    Arrays of double precision become tensors, because calls convert arrays to single precision. For the members of an
    Enum, the code needs the Enum's name.
    """
    if isinstance(value, np.ndarray):
        code = array_code(value)
        return f"tf.constant({code})" if value.dtype.name in _DOUBLE else code
    if isinstance(value, enum.Enum):
        return f"{type(value).__name__}.{value.name}"
    if isinstance(value, np.generic):
        name = value.dtype.name
        return f"np.{name}({_number_code(value)})" if name in vars(np) else array_code(np.asarray(value))
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key!r}: {value_code(item)}' for key, item in value.items())}}}"
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return call_code(type(value).__name__, (), dict(zip(value._fields, value, strict=True)))
    if isinstance(value, tuple | list):
        items = ", ".join(map(value_code, value))
        return f"[{items}]" if isinstance(value, list) else f"({items}{',' * (len(value) == 1)})"
    return _number_code(value) if isinstance(value, float | complex) else repr(value)


def array_code(array: Array) -> str:
    """Return an array as Python code, with its dtype, shape, and, if possible, memory order."""
    dtype = f"np.{array.dtype.name}" if array.dtype.name in vars(np) else repr(array.dtype.name)
    dtype = "object" if array.dtype.kind == "O" else dtype
    numbers = [_number_code(number) for number in array.flat]
    if array.size == 0:
        return f"np.zeros({array.shape}, {dtype})"
    if array.size > 1 and len(set(numbers)) == 1:
        return f"np.full({array.shape}, {numbers[0]}, {dtype})"
    text = f"np.array({_nested_code(array)}, {dtype}"
    return text + (", order='F')" if array.flags.f_contiguous and not array.flags.c_contiguous else ")")


def _nested_code(array: Array) -> str:
    if array.ndim == 0:
        return _number_code(array[()])
    return f"[{', '.join(_nested_code(np.asarray(row)) for row in array)}]"


def _number_code(number: Any) -> str:
    """Return a number as code that evaluates to the same number, without the dtype, which is written separately."""
    if hasattr(number, "item"):
        number = number.item()
    if isinstance(number, complex) and not all(map(_is_plain, (number.real, number.imag))):
        return f"complex({_number_code(number.real)}, {_number_code(number.imag)})"
    if isinstance(number, float) and not math.isfinite(number):
        return f"np.{number}" if number > 0 or math.isnan(number) else f"-np.{-number}"
    return repr(number)


def _is_plain(part: float) -> bool:
    """Return whether Python's notation of complex numbers preserves this part."""
    return math.isfinite(part) and not (part == 0 and math.copysign(1, part) < 0)
