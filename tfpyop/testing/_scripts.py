"""Scripts that show a wrong derivative: complete Python code with the call, its cotangents, and the comparison."""

from __future__ import annotations

import operator
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfpyop import Op
from tfpyop._registry.op_def import Transform
from tfpyop._spec.coercion import Array
from tfpyop._spec.tree import flatten
from tfpyop.testing._examples import Arguments, call_code, value_code
from tfpyop.testing._ops import subject_of, undefined_inputs

_DECORATORS = {"graph": "@tf.function(autograph=False)", "XLA": "@tf.function(autograph=False, jit_compile=True)"}


@dataclass(frozen=True, slots=True)
class WrongCotangent:
    """A wrong derivative by an element of an input, or along a direction.

    Attributes:
      cotangents: The cotangents of the outputs.
      expected: The derivative by differences.
      error: Its estimated error.
      mode: The mode.
      element: The index of the input, and the index of the element.
      directions: A direction for each input, if no element is known. None for inputs that do not move.
    """

    cotangents: Sequence[Array | None]
    expected: Any
    error: float
    mode: str
    element: tuple[int, tuple[int, ...]] | None = None
    directions: Sequence[Array | None] = ()


def gradient_script(op: Op[..., Any], arguments: Arguments, arrays: Sequence[Array], wrong: WrongCotangent) -> str:
    """Return a script that prints the expected and the actual derivative.

    Args:
      op: The op.
      arguments: The arguments of the call.
      arrays: The flat inputs in double precision, in place of the inputs in `arguments`.
      wrong: What is wrong.
    """
    try:
        return "\n".join(_lines(op, arguments, arrays, wrong))
    except (TypeError, ValueError):  # an argument that is neither an array nor a nesting of arrays
        return arguments.code(importable_name(op)[0])


def _lines(op: Op[..., Any], arguments: Arguments, arrays: Sequence[Array], wrong: WrongCotangent) -> Iterator[str]:
    name, where = importable_name(op)
    packed = flatten(arguments.args)[1].unflatten(list(arrays))
    counted = [number for number, cotangent in enumerate(wrong.cotangents) if cotangent is not None]
    is_all = len(counted) == len(wrong.cotangents)
    static = call_code("", (), arguments.static)[1:-1]
    yield from ("import numpy as np", "import tensorflow as tf", where, "")
    yield f"args = {constants_code(packed)}"
    yield f"cotangents = {constants_code([cotangent for cotangent in wrong.cotangents if cotangent is not None])}"
    is_complete = not arguments.missing
    yield from (f"inputs = {'tf.nest.flatten(args)' if is_complete else '[x for x in args if x is not None]'}", "")
    if wrong.mode in _DECORATORS:
        yield _DECORATORS[wrong.mode]
    yield from ("def differentiate():", "    with tf.GradientTape() as tape:")
    yield "        tape.watch([x for x in inputs if x.dtype.is_floating or x.dtype.is_complex])"
    undefined, called = tuple(undefined_inputs(op, arguments, Transform.VJP)), "args"
    if undefined:
        called = "constant"
        values = f"[tf.stop_gradient(x) if number in {undefined} else x for number, x in enumerate(inputs)]"
        if is_complete:
            yield f"        {called} = tf.nest.pack_sequence_as(args, {values})"
        else:
            yield f"        values = iter({values})"
            yield f"        {called} = [None if x is None else next(values) for x in args]"
    yield f"        outputs = tf.nest.flatten({name}(*{called}{f', {static}' if static else ''}))"
    if not is_all:
        yield f"    outputs = [outputs[number] for number in {counted}]"
    yield "    return tape.gradient(outputs, inputs, output_gradients=cotangents)"
    yield from ("", "gradients = differentiate()")
    yield f'print("expected", {_plain(wrong.expected)!r}, "+-", {float(wrong.error):.1g})'
    if wrong.element is not None:
        number, index = wrong.element
        yield f"gradient = gradients[{number}]"
        yield f'print("got", None if gradient is None else gradient.numpy()[{", ".join(map(str, index)) or "()"}])'
        return
    directions = ", ".join("None" if vector is None else plain_array_code(vector) for vector in wrong.directions)
    yield f"directions = [{directions}]"
    yield "moved = [(g, d) for g, d in zip(gradients, directions) if g is not None and d is not None]"
    yield 'print("got", sum(np.sum(np.real(np.conj(g.numpy()) * d)) for g, d in moved))'


def importable_name(op: Op[..., Any]) -> tuple[str, str]:
    """Return a name for an op, and the line that imports it, or a comment if no script can import it."""
    module, _, path = op.name.partition(":")
    own = re.split(r"[:./]", op.name)[-1]
    try:
        found = operator.attrgetter(path)(sys.modules[module])
        is_found = found is op
    except (AttributeError, KeyError):
        is_found = False
    if is_found and module != "__main__":
        return path, f"from {module} import {path.partition('.')[0]}"
    name = own if own.isidentifier() else "op"
    return name, f"# run this where {name} refers to {subject_of(op)}"


def constants_code(values: Any) -> str:
    """Return nested arrays as code, with a tensor for each array."""
    if isinstance(values, np.ndarray | np.generic | float | int | complex | bool):
        code = value_code(np.asarray(values))
        return code if code.startswith("tf.constant(") else f"tf.constant({code})"
    if isinstance(values, dict):
        return f"{{{', '.join(f'{key!r}: {constants_code(value)}' for key, value in values.items())}}}"
    if values is None:
        return "None"
    parts = ", ".join(map(constants_code, values))
    if hasattr(values, "_fields"):
        return f"{type(values).__name__}({parts})"
    return f"[{parts}]" if isinstance(values, list) else f"({parts}{',' * (len(values) == 1)})"


def plain_array_code(values: Any) -> str:
    code = value_code(np.asarray(values))
    return code[len("tf.constant(") : -1] if code.startswith("tf.constant(") else code


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value
