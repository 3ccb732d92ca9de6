"""Traced outputs: the outputs that a graph expects from a host call, stored in the node after the token.

The op may differ when the node runs: its module was edited, or the graph comes from a saved model. XLA compares
buffers. TensorFlow's runtime compares only dtypes.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import tensorflow as tf

from tfpyop._host.function import HostFunction
from tfpyop._lowering.status import outputs_changed_error
from tfpyop._lowering.tensors import numpy_dtype
from tfpyop._registry.token import Token, split, unreadable
from tfpyop._spec.coercion import STRING, Array, DType
from tfpyop._spec.outputs import ArraySpec, ArraySpecs, is_compatible
from tfpyop._spec.signature import InputDimension, SymbolicSize
from tfpyop._spec.size_terms import OPERATORS, fold
from tfpyop._spec.tree import Json
from tfpyop.errors import Shape

_OPERATORS: Mapping[str, Callable[[int, int], int]] = MappingProxyType(
    {**OPERATORS, "broadcast": lambda left, right: right if left == 1 else left}
)
_MOST_SHAPES = 1024
"""Maximum number of input shapes for which the output shapes are cached."""

_InputShapes = tuple[tuple[int, ...], ...]
_Outputs = Sequence[tuple[DType, Sequence[SymbolicSize | None] | None]]
"""The dtype of each output and its sizes: numbers, terms of the inputs' sizes, or None where unknown."""


class TracedOutputs:
    """The outputs of one host call as they were when its graph was traced."""

    def __init__(self, outputs: _Outputs) -> None:
        self._outputs = outputs
        self._known: dict[_InputShapes, list[ArraySpec]] = {}

    @classmethod
    def of(cls, host: HostFunction, inputs: ArraySpecs, outputs: ArraySpecs) -> TracedOutputs:
        """Return the outputs of a call with these inputs. Unknown sizes are terms of the inputs' sizes."""
        if all(None not in (type_.shape or ()) for type_ in outputs):
            return cls([(type_.dtype, type_.shape) for type_ in outputs])
        pairs = zip(outputs, host.symbolic_shapes(inputs), strict=True)
        return cls([(type_.dtype, type_.shape if sizes is None else sizes) for type_, sizes in pairs])

    @property
    def text(self) -> str:
        """The outputs as JSON."""
        written = [
            (tf.as_dtype(dtype).name, None if sizes is None else list(map(_to_json, sizes)))
            for dtype, sizes in self._outputs
        ]
        return json.dumps(written, separators=(",", ":"))

    @classmethod
    def parse(cls, text: str) -> TracedOutputs:
        """Parse JSON that `text` returned.

        Raises:
          ValueError: The text is invalid.
        """
        try:
            return cls([_read_output(*output) for output in json.loads(text)])
        except (TypeError, RecursionError) as error:  # also for an invalid dtype
            raise ValueError("not a list of outputs") from error

    def check(self, subject: str, inputs: Sequence[Any], results: Sequence[Array]) -> None:
        """Compare results with the outputs that the graph expects for inputs of these shapes.

        Raises:
          ContractError: The op has changed.
          UnsupportedError: The sizes refer to inputs that do not exist.
        """
        shapes = tuple([getattr(array, "shape", ()) for array in inputs])  # a single text is not an array
        expected = self._known.get(shapes)
        if expected is None:
            if len(self._known) >= _MOST_SHAPES:
                self._known.clear()
            expected = self._known[shapes] = self._expected(subject, shapes)
        if len(results) == len(expected):
            for array, type_ in zip(results, expected):  # noqa: B905 - every call runs this loop
                if array.shape != type_.shape and not is_compatible(array.shape, type_.shape):
                    break
                if array.dtype != type_.dtype and type_.dtype != STRING:
                    break
            else:
                return
        raise outputs_changed_error(subject, expected, [ArraySpec.of(array) for array in results])

    def _expected(self, subject: str, shapes: _InputShapes) -> list[ArraySpec]:
        try:
            return [ArraySpec(dtype, _shape(sizes, shapes)) for dtype, sizes in self._outputs]
        except (IndexError, ZeroDivisionError) as error:
            raise unreadable(f"{self.text:.200}", subject=subject) from error


@functools.lru_cache(maxsize=4096)
def read_call(text: str) -> tuple[str, TracedOutputs | None]:
    """Parse the text of a node: the token, and the expected outputs, which are None in models of version 0.1.

    Raises:
      UnsupportedError: The text is invalid.
    """
    token, outputs = split(text)
    try:
        return token, None if outputs is None else TracedOutputs.parse(outputs)
    except ValueError as error:
        raise Token.parse(token).unreadable(outputs) from error


def _shape(sizes: Sequence[SymbolicSize | None] | None, shapes: _InputShapes) -> Shape | None:
    return None if sizes is None else tuple(None if size is None else _evaluate(size, shapes) for size in sizes)


def _evaluate(size: SymbolicSize, shapes: _InputShapes) -> int:
    def leaf(part: int | InputDimension) -> int:
        return part if isinstance(part, int) else shapes[part.input][part.axis]

    return fold(size, leaf, lambda name, left, right: _OPERATORS[name](left, right))


def _to_json(size: SymbolicSize | None) -> Json:
    def leaf(part: int | InputDimension | None) -> Json:
        return [part.input, part.axis] if isinstance(part, InputDimension) else part

    return fold(size, leaf, lambda *parts: list(parts))


def _read_output(dtype: Json, sizes: Json) -> tuple[DType, Sequence[SymbolicSize | None] | None]:
    if not isinstance(dtype, str) or not (sizes is None or isinstance(sizes, list)):
        raise ValueError("an output has a dtype and sizes")
    read = None if sizes is None else [None if size is None else _read_size(size) for size in sizes]
    return numpy_dtype(tf.as_dtype(dtype)), read


def _read_size(size: Json) -> SymbolicSize:
    if type(size) is int:
        return size
    if not isinstance(size, list):
        raise ValueError("a size is a number or a list")
    if len(size) == 2 and all(type(number) is int and number >= 0 for number in size):
        return InputDimension(*size)
    if len(size) == 3 and size[0] in _OPERATORS:
        return (size[0], _read_size(size[1]), _read_size(size[2]))
    raise ValueError("a list is a place or a term")
