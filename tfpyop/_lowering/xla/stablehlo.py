"""StableHLO modules, as text: a custom call of a host function, and the shapes of its results.

Owns the StableHLO text format. Must not depend on TensorFlow.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tfpyop._lowering.xla.call_descriptor import ELEMENT_TYPES, CallDescriptor
from tfpyop._spec.outputs import ArraySpec, ArraySpecs
from tfpyop._spec.signature import InputDimension, SymbolicShape, SymbolicSize

_ARITHMETIC = {"+": "add", "-": "subtract", "*": "multiply"}
_SIZE = "tensor<i64>"
"""Sizes are computed with twice the width of XLA's sizes, to detect sizes that are too large."""
_LARGEST = 2**31 - 1
_MOST_BYTES = 2**48
"""Maximum size of an array, in bytes. TensorFlow crashes if an array, or several arrays together, have 2**63 bytes or
more. No machine has 2**48 bytes."""


def is_too_large(type_: ArraySpec) -> bool:
    """Return whether the known sizes alone make an array too large for any memory. As in XLA, sizes of 0 count as 1."""
    return math.prod(size or 1 for size in type_.shape or ()) * type_.dtype.itemsize > _MOST_BYTES


def host_call(
    target: str, call: CallDescriptor, sizes: Sequence[SymbolicShape], *, problem: str, is_kept: bool = False
) -> str:
    """Return the text of a module whose only function makes a call.

    Args:
      target: The name of the handler in XLA.
      call: The call.
      sizes: The shape of each output in terms of the inputs' dimensions.
      problem: The text of the error before the sizes, if the sizes of an output are impossible.
      is_kept: Whether XLA must keep the call even if its results are unused. Ordered calls are always kept.
    """
    order = [ArraySpec(np.dtype(np.int32), ())] * call.is_ordered
    inputs, outputs = [*call.inputs, *order], [*call.outputs, *order]
    text = _Text(inputs)
    shapes: list[str] = []
    if any(None in (type_.shape or ()) for type_ in outputs):
        sized = list(zip([*sizes, *[()] * len(order)], [type_.dtype.itemsize for type_ in outputs], strict=True))
        for output, itemsize in sized:
            text.check_sizes(output, itemsize, problem)
        shapes = [text.shape(output, itemsize) for output, itemsize in sized]
    operands = [f"%i{number}" for number in range(len(inputs))] + shapes
    operand_types = [
        *map(_tensor, inputs),
        *(f"tensor<{len(output.shape or ())}xi32>" for output in outputs[: len(shapes)]),
    ]
    operand_layouts = [*map(_layout, inputs), *["dense<[0]> : tensor<1xindex>"] * len(shapes)]
    attributes = [
        f'call_target_name = "{target}"',
        "api_version = 4 : i32",
        f'backend_config = {{site = "{_escaped(call.text)}"}}',
        f"has_side_effect = {'true' if call.is_ordered or is_kept else 'false'}",
        f"operand_layouts = [{', '.join(operand_layouts)}]",
        f"result_layouts = [{', '.join(map(_layout, outputs))}]",
    ]
    if shapes:
        numbers = range(len(inputs), len(operands))
        attributes.append(f"indices_of_shape_operands = dense<{list(numbers)}> : tensor<{len(shapes)}xi64>")
    text.custom_call(operands, operand_types, attributes, outputs)
    return text.module(outputs)


def check_of_shape(types: ArraySpecs, allowed: Sequence[SymbolicShape], message: str) -> str:
    """Return the text of a module that fails to compile unless the last input has an allowed shape.

    Args:
      types: The types of the inputs.
      allowed: Shapes in terms of the inputs' dimensions, with the rank of the last input.
      message: The text of the error before the shape.
    """
    text = _Text(types)
    own = [text.size(InputDimension(len(types) - 1, axis)) for axis in range(len(types[-1].shape or ()))]
    text.check(
        text.any([text.all(list(map(text.equal, own, map(text.size, sizes)))) for sizes in allowed]), message, own
    )
    return text.module([])


@dataclass(slots=True)
class _Text:
    """The lines that compute sizes, without duplicates."""

    inputs: ArraySpecs
    lines: list[str] = field(default_factory=list)
    names: dict[SymbolicSize, str] = field(default_factory=dict)
    limits: dict[SymbolicSize, str] = field(default_factory=dict)
    fits: dict[tuple[SymbolicShape, int], str] = field(default_factory=dict)

    def module(self, outputs: ArraySpecs) -> str:
        """Return the module with these lines. It returns the results of the last custom call."""
        parameters = ", ".join(f"%i{number}: {_tensor(type_)}" for number, type_ in enumerate(self.inputs))
        types = ", ".join(map(_tensor, outputs))
        results = ", ".join(f"%r#{number}" for number in range(len(outputs))) if len(outputs) > 1 else "%r"
        return "\n".join(
            [
                "module attributes {jax.uses_shape_polymorphism = true} {",
                f"  func.func public @main({parameters}) -> ({types}) {{",
                *(f"    {line}" for line in self.lines),
                f"    return {results} : {types}" if outputs else "    return",
                "  }",
                "}",
            ]
        )

    def custom_call(
        self, operands: Sequence[str], operand_types: Sequence[str], attributes: Sequence[str], outputs: ArraySpecs
    ) -> None:
        """Add a custom call, whose results are `%r`."""
        results = {0: "", 1: "%r = "}.get(len(outputs), f"%r:{len(outputs)} = ")
        types = ", ".join(map(_tensor, outputs))
        self.lines += [
            f'{results}"stablehlo.custom_call"({", ".join(operands)}) {{{", ".join(attributes)}}}',
            f"  : ({', '.join(operand_types)}) -> ({types})",
        ]

    def check(self, is_good: str, message: str, shape: Sequence[str]) -> None:
        """Add a check that makes compilation fail, with a message and a shape, unless a condition is true."""
        places = ", ".join(f"{{{number}}}" for number in range(len(shape)))
        attributes = [
            'call_target_name = "shape_assertion"',
            "has_side_effect = true",
            f'error_message = "{_escaped(f"{_without_braces(message)} [{places}]")}"',
        ]
        self.custom_call([is_good, *shape], ["tensor<i1>", *[_SIZE] * len(shape)], attributes, [])

    def check_sizes(self, sizes: SymbolicShape, itemsize: int, message: str) -> None:
        """Add a check that makes compilation fail if a computed size is impossible in XLA, or the array too large."""
        facts = [self._is_possible(size) for size in sizes if _is_computed(size)]
        facts += self._fits(sizes, itemsize)
        if facts:
            self.check(self.all(facts), message, list(map(self.size, sizes)))

    def shape(self, sizes: SymbolicShape, itemsize: int) -> str:
        """Return the name of a tensor of sizes."""
        n_sizes = len(sizes)
        if not sizes:
            return self._line("stablehlo.constant dense<> : tensor<0xi32>")
        fits = self._fits(sizes, itemsize)
        narrow = [self._narrow(size, fits) for size in sizes]
        parts = [self._line(f"stablehlo.reshape {name} : (tensor<i32>) -> tensor<1xi32>") for name in narrow]
        types = ", ".join(["tensor<1xi32>"] * n_sizes)
        return self._line(f"stablehlo.concatenate {', '.join(parts)}, dim = 0 : ({types}) -> tensor<{n_sizes}xi32>")

    def size(self, size: SymbolicSize) -> str:
        """Return the name of one size."""
        name = self.names.get(size)
        if name is None:
            name = self.names[size] = self._size(size)
        return name

    def equal(self, left: str, right: str) -> str:
        """Return the name of a boolean: whether two sizes are equal."""
        return self.compare(left, right, "EQ")

    def compare(self, left: str, right: str, comparison: str) -> str:
        """Return the name of the boolean result of a comparison of sizes. TensorFlow 2.19 needs the explicit SIGNED."""
        return self._line(f"stablehlo.compare {comparison}, {left}, {right}, SIGNED : ({_SIZE}, {_SIZE}) -> tensor<i1>")

    def all(self, facts: Sequence[str]) -> str:
        """Return the name of a boolean: whether all facts are true."""
        true = self._line("stablehlo.constant dense<true> : tensor<i1>")
        return functools.reduce(
            lambda left, right: self._line(f"stablehlo.and {left}, {right} : tensor<i1>"), facts, true
        )

    def any(self, facts: Sequence[str]) -> str:
        """Return the name of a boolean: whether at least one fact is true."""
        return functools.reduce(lambda left, right: self._line(f"stablehlo.or {left}, {right} : tensor<i1>"), facts)

    def _size(self, size: SymbolicSize) -> str:
        if isinstance(size, int):
            return self._line(f"stablehlo.constant dense<{size}> : {_SIZE}")
        if isinstance(size, InputDimension):
            source = f"%i{size.input}, dim = {size.axis} : ({_tensor(self.inputs[size.input])}) -> tensor<i32>"
            narrow = self._line(f"stablehlo.get_dimension_size {source}")
            return self._line(f"stablehlo.convert {narrow} : (tensor<i32>) -> {_SIZE}")
        operator, left, right = size[0], self.size(size[1]), self.size(size[2])
        if operator == "broadcast":  # the host checks that they do broadcast
            return self._select(left, "EQ", self.size(1), right, left)
        if operator == "//":
            return self._floor_divide(left, right)
        return self._line(f"stablehlo.{_ARITHMETIC[operator]} {left}, {right} : {_SIZE}")

    def _floor_divide(self, left: str, right: str) -> str:
        """Return the name of a quotient rounded down, as in Python. StableHLO rounds towards zero."""
        quotient = self._line(f"stablehlo.divide {left}, {right} : {_SIZE}")
        product = self._line(f"stablehlo.multiply {quotient}, {right} : {_SIZE}")
        rest = self._line(f"stablehlo.subtract {left}, {product} : {_SIZE}")
        scaled = self._line(f"stablehlo.multiply {rest}, {right} : {_SIZE}")
        lower = self._line(f"stablehlo.subtract {quotient}, {self.size(1)} : {_SIZE}")
        return self._select(scaled, "LT", self.size(0), lower, quotient)

    def _select(self, left: str, comparison: str, right: str, then: str, otherwise: str) -> str:
        chosen = self.compare(left, right, comparison)
        return self._line(f"stablehlo.select {chosen}, {then}, {otherwise} : tensor<i1>, {_SIZE}")

    def _narrow(self, size: SymbolicSize, fits: Sequence[str]) -> str:
        """Return the name of one size as an i32, or of 0 for an impossible size, to avoid an earlier error from XLA."""
        name = self.size(size)
        facts = [*([self._is_possible(size)] if _is_computed(size) else []), *fits]
        if facts:
            name = self._line(f"stablehlo.select {self.all(facts)}, {name}, {self.size(0)} : tensor<i1>, {_SIZE}")
        return self._line(f"stablehlo.convert {name} : ({_SIZE}) -> tensor<i32>")

    def _fits(self, sizes: SymbolicShape, itemsize: int) -> list[str]:
        """Return the name of a boolean, in a list: whether an array of these sizes fits. Empty if this is known."""
        if len(sizes) < 2 or all(isinstance(size, int) for size in sizes):
            return []
        if (sizes, itemsize) not in self.fits:
            rest = self.size(_MOST_BYTES // itemsize)
            for size in sizes:
                name = self.size(size)
                factor = self._select(name, "LT", self.size(1), self.size(1), name)
                rest = self._line(f"stablehlo.divide {rest}, {factor} : {_SIZE}")
            self.fits[sizes, itemsize] = self.compare(rest, self.size(1), "GE")
        return [self.fits[sizes, itemsize]]

    def _is_possible(self, size: SymbolicSize) -> str:
        """Return the name of a boolean: whether XLA's arrays can have a computed size."""
        if size not in self.limits:
            self.limits[size] = self.all(self._limits(size))
        return self.limits[size]

    def _limits(self, size: SymbolicSize) -> list[str]:
        """Return the names of the conditions on a size: it is in range, and no intermediate result overflowed."""
        facts = self._between(size, 0)
        waiting = [size]
        while waiting:
            part = waiting.pop()
            if isinstance(part, tuple):
                operator, *operands = part
                waiting += operands
                multiplied = {"*": operands, "//": operands[1:]}.get(operator, [])
                facts += [fact for operand in multiplied for fact in self._between(operand, -_LARGEST)]
        return facts

    def _between(self, size: SymbolicSize, smallest: int) -> list[str]:
        name = self.size(size)
        return [self.compare(name, self.size(smallest), "GE"), self.compare(name, self.size(_LARGEST), "LE")]

    def _line(self, operation: str) -> str:
        name = f"%s{len(self.lines)}"
        self.lines.append(f"{name} = {operation}")
        return name


def _is_computed(size: SymbolicSize) -> bool:
    """Return whether a size is the result of arithmetic, and may therefore be impossible."""
    return isinstance(size, tuple) and size[0] != "broadcast"


def _tensor(type_: ArraySpec) -> str:
    sizes = ["?" if size is None else str(size) for size in type_.shape or ()]
    return f"tensor<{'x'.join([*sizes, ELEMENT_TYPES[type_.dtype.name][0]])}>"


def _layout(type_: ArraySpec) -> str:
    """Return the row-major layout, as in numpy. Without it, XLA could choose another layout."""
    rank = len(type_.shape or ())
    return f"dense<{list(range(rank - 1, -1, -1)) if rank else ''}> : tensor<{rank}xindex>"


def _without_braces(text: str) -> str:
    """Replace braces, which XLA treats as placeholders of numbers and does not let us escape, by parentheses."""
    return text.replace("{", "(").replace("}", ")")


def _escaped(text: str) -> str:
    """Return text as it is written between quotes in MLIR."""
    return "".join(chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\{byte:02X}" for byte in text.encode())
