"""Scripts that show a wrong derivative other than a wrong cotangent, by a tape or an accumulator.

Each script is complete. It has the call with the exact cotangents and tangents, and prints the expected and the actual
derivative.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfpyop import Op
from tfpyop._registry.op_def import Transform
from tfpyop._spec.coercion import Array
from tfpyop._spec.tree import flatten
from tfpyop.testing._examples import Arguments, call_code
from tfpyop.testing._linearity import FACTORS
from tfpyop.testing._ops import undefined_inputs
from tfpyop.testing._scripts import constants_code, importable_name, plain_array_code

Vectors = Sequence[Array | None]

_VJP = """
def vjp(cotangents):
    with tf.GradientTape() as tape:
        tape.watch([x for x in inputs if x.dtype.is_floating or x.dtype.is_complex])
        outputs = call(inputs)
    pairs = [(y, tf.constant(u, y.dtype)) for y, u in zip(outputs, cotangents) if u is not None]
    return tape.gradient([y for y, _ in pairs], inputs, output_gradients=[u for _, u in pairs])
"""
_JVP = """
def jvp(tangents):
    moved = [(x, tf.constant(v, x.dtype)) for x, v in zip(inputs, tangents) if v is not None]
    with tf.autodiff.ForwardAccumulator([x for x, _ in moved], [v for _, v in moved]) as accumulator:
        outputs = call(inputs)
    return [accumulator.jvp(y) for y in outputs]
"""
_SECOND = """
def vjp_of_vjp(cotangents, vectors):
    watched = [x for x in inputs if x.dtype.is_floating or x.dtype.is_complex]
    with tf.GradientTape() as outer:
        outer.watch(watched)
        first = vjp(cotangents)
    pairs = [(g, tf.constant(v, g.dtype)) for g, v in zip(first, vectors) if g is not None and v is not None]
    return outer.gradient([g for g, _ in pairs], inputs, output_gradients=[v for _, v in pairs])
"""
_SOME = """
def vjp_of_some(cotangents, needs):
    watched = [x for x, is_needed in zip(inputs, needs) if is_needed]
    with tf.GradientTape() as tape:
        tape.watch(watched)
        outputs = call(inputs)
    pairs = [(y, tf.constant(u, y.dtype)) for y, u in zip(outputs, cotangents) if u is not None]
    found = tape.gradient([y for y, _ in pairs], watched, output_gradients=[u for _, u in pairs])
    return [found.pop(0) if is_needed else None for is_needed in needs]
"""
_INNER = """
def inner(left, right):
    pairs = [(np.asarray(a), np.asarray(b)) for a, b in zip(left, right) if a is not None and b is not None]
    return sum(np.sum(np.real(np.conj(a) * b)) for a, b in pairs)
"""


@dataclass(frozen=True, slots=True)
class RuleScript:
    """A script that calls rules of an op at one point.

    Attributes:
      arrays: The flat inputs in double precision.
      functions: The functions that the script defines.
      vectors: Cotangents and tangents, by the names of the variables.
      lines: The lines that compute and print the result.
      transform: The direction in which the op is differentiated.
    """

    arrays: Sequence[Array]
    functions: Sequence[str]
    vectors: dict[str, Vectors]
    lines: Sequence[str]
    transform: Transform = Transform.VJP

    def code(self, op: Op[..., Any], arguments: Arguments) -> str | None:
        """Return the script for a call; None if it has arguments other than arrays and nested arrays."""
        try:
            return "\n".join(self._lines(op, arguments))
        except (TypeError, ValueError):
            return None

    def _lines(self, op: Op[..., Any], arguments: Arguments) -> Iterator[str]:
        name, where = importable_name(op)
        packed = flatten(arguments.args)[1].unflatten(list(self.arrays))
        static = call_code("", (), arguments.static)[1:-1]
        yield from ("import numpy as np", "import tensorflow as tf", where, "")
        leaves = "tf.nest.flatten(args)"
        given = f"[x for x in {leaves} if x is not None]" if arguments.missing else leaves
        yield from (f"args = {constants_code(packed)}", f"inputs = {given}")
        yield from (f"{variable} = [{_listed(vectors)}]" for variable, vectors in self.vectors.items())
        yield from ("", "def call(inputs):")
        undefined = tuple(undefined_inputs(op, arguments, self.transform))
        if undefined:
            yield f"    inputs = [tf.stop_gradient(x) if n in {undefined} else x for n, x in enumerate(inputs)]"
        if arguments.missing:
            yield "    remaining = iter(inputs)"
            yield "    inputs = [None if x is None else next(remaining) for x in tf.nest.flatten(args)]"
        packed_inputs = "*tf.nest.pack_sequence_as(args, inputs)"
        yield f"    return tf.nest.flatten({name}({packed_inputs}{f', {static}' if static else ''}))"
        for function in self.functions:
            yield from function.rstrip().splitlines()
        yield from ("", *self.lines)


def tangent_script(
    arrays: Sequence[Array], directions: Vectors, *, output: int, index: tuple[int, ...], expected: Any, error: float
) -> RuleScript:
    """Return a script that shows a wrong element of a tangent."""
    lines = [
        f'print("expected", {_number(expected)!r}, "+-", {error:.1g})',
        f"tangent = jvp(directions)[{output}]",
        f'print("got", 0.0 if tangent is None else tangent.numpy()[{_index_code(index)}])',
    ]
    return RuleScript(arrays, [_JVP], {"directions": directions}, lines, Transform.JVP)


def second_order_script(
    arrays: Sequence[Array], cotangents: Vectors, vectors: Vectors, directions: Vectors, *, expected: Any, error: float
) -> RuleScript:
    """Return a script that shows a wrong second derivative along a direction.

    Args:
      arrays: The flat inputs.
      cotangents: The cotangents of the outputs.
      vectors: The cotangents of the first gradients; None for inputs without a gradient.
      directions: The direction.
      expected: The derivative by differences.
      error: Its estimated error.
    """
    lines = [
        f'print("expected", {_number(expected)!r}, "+-", {error:.1g})',
        'print("got", inner(vjp_of_vjp(cotangents, vectors), directions))',
    ]
    named = {"cotangents": cotangents, "vectors": vectors, "directions": directions}
    return RuleScript(arrays, [_VJP, _SECOND, _INNER], named, lines)


def transposed_script(arrays: Sequence[Array], cotangents: Vectors, tangents: Vectors) -> RuleScript:
    """Return a script that shows that (u, J v) is not equal to (u J, v)."""
    lines = ['print("expected", inner(vjp(u), v))', 'print("got", inner(u, jvp(v)))']
    return RuleScript(arrays, [_VJP, _JVP, _INNER], {"u": cotangents, "v": tangents}, lines)


def adjoint_script(arrays: Sequence[Array], cotangents: Vectors, vector: Vectors) -> RuleScript:
    """Return a script that shows that (u, f(v)) is not equal to (A u, v), for the adjoint A of a linear function f."""
    lines = [
        "moved = [x if a is None else tf.constant(a, x.dtype) for x, a in zip(inputs, v)]",
        'print("expected", inner(u, call(moved)))',
        'print("got", inner(vjp(u), v))',
    ]
    return RuleScript(arrays, [_VJP, _INNER], {"u": cotangents, "v": vector}, lines)


def needs_script(
    arrays: Sequence[Array], cotangents: Vectors, number: int, needs: Sequence[bool], wanted: Sequence[bool]
) -> RuleScript:
    """Return a script that shows that a cotangent changes with `op.needs`.

    Args:
      arrays: The flat inputs.
      cotangents: The cotangents of the outputs.
      number: The index of the input.
      needs: The inputs whose cotangents are needed.
      wanted: The inputs that have cotangents.
    """
    lines = [
        f'print("expected", vjp_of_some(cotangents, {list(wanted)})[{number}])',
        f'print("got", vjp_of_some(cotangents, {list(needs)})[{number}])',
    ]
    return RuleScript(arrays, [_SOME], {"cotangents": cotangents}, lines)


def linearity_script(
    arrays: Sequence[Array], vectors: Sequence[Vectors], number: int, index: tuple[int, ...], *, is_forward: bool
) -> RuleScript:
    """Return a script that shows that a rule is not linear.

    Args:
      arrays: The flat inputs.
      vectors: Two lists of cotangents or tangents.
      number: The index of the result.
      index: The index of the element.
      is_forward: Whether the rule is a JVP rule.
    """
    rule, (left, right) = "jvp" if is_forward else "vjp", FACTORS
    lines = [
        f"both = [None if a is None or b is None else {left} * a + {right} * b for a, b in zip(u, v)]",
        "",
        "def element(vectors):",
        f"    result = {rule}(vectors)[{number}]",
        f"    return 0.0 if result is None else tf.convert_to_tensor(result).numpy()[{_index_code(index)}]",
        "",
        f'print("expected", {left} * element(u) + {right} * element(v))',
        'print("got", element(both))',
    ]
    function, transform = (_JVP, Transform.JVP) if is_forward else (_VJP, Transform.VJP)
    return RuleScript(arrays, [function], {"u": vectors[0], "v": vectors[1]}, lines, transform)


def _listed(vectors: Vectors) -> str:
    return ", ".join("None" if vector is None else plain_array_code(vector) for vector in vectors)


def _index_code(index: tuple[int, ...]) -> str:
    return ", ".join(map(str, index)) or "()"


def _number(value: Any) -> Any:
    return np.asarray(value).item()
