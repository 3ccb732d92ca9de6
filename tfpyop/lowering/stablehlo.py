"""StableHLO modules, as text: a custom call of a host function, and the shapes of its results.

Owns the language, and the site's text: what a compiled call tells the host about itself. Knows nothing of TensorFlow.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tfpyop._coercion import parse_dtype
from tfpyop._promise import ArrayType, Types
from tfpyop._signature import Place, Size, Sizes
from tfpyop.errors import Shape

ELEMENT_TYPES = {
    "bool": ("i1", 1),
    "int8": ("i8", 2),
    "int16": ("i16", 3),
    "int32": ("i32", 4),
    "int64": ("i64", 5),
    "uint8": ("ui8", 6),
    "uint16": ("ui16", 7),
    "uint32": ("ui32", 8),
    "uint64": ("ui64", 9),
    "float16": ("f16", 10),
    "bfloat16": ("bf16", 16),
    "float32": ("f32", 11),
    "float64": ("f64", 12),
    "complex64": ("complex<f32>", 15),
    "complex128": ("complex<f64>", 18),
}
"""For each dtype by name: its MLIR type, and its number in XLA."""

_ARITHMETIC = {"+": "add", "-": "subtract", "*": "multiply"}
_SIZE = "tensor<i32>"


@dataclass(frozen=True, slots=True)
class Site:
    """What one compiled call is: whose function, and the types of what it is given and returns."""

    token: str
    inputs: Types
    outputs: Types
    is_ordered: bool = False
    """Whether a last input and a last output, of no content, keep the order of calls."""

    @property
    def text(self) -> str:
        """Everything in one line; equal for calls that are alike in all of it."""
        inputs, outputs = (",".join(map(_type_text, types)) for types in (self.inputs, self.outputs))
        return f"{self.token}|{inputs}->{outputs}{'!' * self.is_ordered}"

    @classmethod
    def parse(cls, text: str) -> Site:
        """Read what `text` gave."""
        token, _, types = text.rpartition("|")
        inputs, outputs = (_read_types(side) for side in types.removesuffix("!").split("->"))
        return cls(token, inputs, outputs, types.endswith("!"))


def host_call(target: str, site: Site, sizes: Sequence[Sizes]) -> str:
    """A module whose one function makes a call.

    Args:
      target: The name under which XLA knows the handler.
      site: The call.
      sizes: The shape of each output in terms of the inputs' dimensions.
    """
    order = [ArrayType(np.dtype(np.int32), ())] * site.is_ordered
    inputs, outputs = [*site.inputs, *order], [*site.outputs, *order]
    text = _Text(inputs)
    shapes: list[str] = []
    if any(None in (type_.shape or ()) for type_ in outputs):
        shapes = [text.shape(output) for output in [*sizes, *[()] * len(order)]]
    operands = [f"%i{number}" for number in range(len(inputs))] + shapes
    operand_types = [
        *map(_tensor, inputs),
        *(f"tensor<{len(output.shape or ())}xi32>" for output in outputs[: len(shapes)]),
    ]
    operand_layouts = [*map(_layout, inputs), *["dense<[0]> : tensor<1xindex>"] * len(shapes)]
    result_types = ", ".join(map(_tensor, outputs))
    attributes = [
        f'call_target_name = "{target}"',
        "api_version = 4 : i32",
        f'backend_config = {{site = "{_escaped(site.text)}"}}',
        f"has_side_effect = {'true' if site.is_ordered else 'false'}",
        f"operand_layouts = [{', '.join(operand_layouts)}]",
        f"result_layouts = [{', '.join(map(_layout, outputs))}]",
    ]
    if shapes:
        numbers = range(len(inputs), len(operands))
        attributes.append(f"indices_of_shape_operands = dense<{list(numbers)}> : tensor<{len(shapes)}xi64>")
    results = [f"%r#{number}" for number in range(len(outputs))] if len(outputs) > 1 else ["%r"] * len(outputs)
    parameters = ", ".join(f"%i{number}: {_tensor(type_)}" for number, type_ in enumerate(inputs))
    return "\n".join(
        [
            "module attributes {jax.uses_shape_polymorphism = true} {",
            f"  func.func public @main({parameters}) -> ({result_types}) {{",
            *(f"    {line}" for line in text.lines),
            f'    {_results(len(outputs))}"stablehlo.custom_call"({", ".join(operands)}) {{{", ".join(attributes)}}}',
            f"      : ({', '.join(operand_types)}) -> ({result_types})",
            f"    return {', '.join(results)}{' : ' if results else ''}{result_types}",
            "  }",
            "}",
        ]
    )


def check_of_shape(types: Types, allowed: Sequence[Sizes], message: str) -> str:
    """A module that refuses to be compiled unless the last input has one of some shapes, all of its rank.

    Args:
      types: Of the inputs.
      allowed: Shapes in terms of the inputs' dimensions.
      message: What the error says, before the shape.
    """
    text = _Text(types)
    own = [text.size(Place(len(types) - 1, axis)) for axis in range(len(types[-1].shape or ()))]
    is_allowed = text.any([list(map(text.equal, own, map(text.size, sizes))) for sizes in allowed])
    places = ", ".join(f"{{{number}}}" for number in range(len(own)))
    attributes = [
        'call_target_name = "shape_assertion"',
        "has_side_effect = true",
        f'error_message = "{_escaped(f"{message} [{places}]")}"',
    ]
    parameters = ", ".join(f"%i{number}: {_tensor(type_)}" for number, type_ in enumerate(types))
    operand_types = ", ".join(["tensor<i1>", *[_SIZE] * len(own)])
    return "\n".join(
        [
            "module attributes {jax.uses_shape_polymorphism = true} {",
            f"  func.func public @main({parameters}) -> () {{",
            *(f"    {line}" for line in text.lines),
            f'    "stablehlo.custom_call"({", ".join([is_allowed, *own])}) {{{", ".join(attributes)}}}',
            f"      : ({operand_types}) -> ()",
            "    return",
            "  }",
            "}",
        ]
    )


@dataclass(slots=True)
class _Text:
    """The lines that compute sizes, each written once."""

    inputs: Types
    lines: list[str] = field(default_factory=list)
    names: dict[Size, str] = field(default_factory=dict)

    def shape(self, sizes: Sizes) -> str:
        """The name of a tensor of sizes."""
        n_sizes = len(sizes)
        if not sizes:
            return self._line("stablehlo.constant dense<> : tensor<0xi32>")
        parts = [self._line(f"stablehlo.reshape {self.size(size)} : ({_SIZE}) -> tensor<1xi32>") for size in sizes]
        types = ", ".join(["tensor<1xi32>"] * n_sizes)
        return self._line(f"stablehlo.concatenate {', '.join(parts)}, dim = 0 : ({types}) -> tensor<{n_sizes}xi32>")

    def size(self, size: Size) -> str:
        """The name of one size."""
        name = self.names.get(size)
        if name is None:
            name = self.names[size] = self._size(size)
        return name

    def equal(self, left: str, right: str) -> str:
        """The name of whether two sizes are equal."""
        return self._line(f"stablehlo.compare EQ, {left}, {right} : ({_SIZE}, {_SIZE}) -> tensor<i1>")

    def any(self, cases: Sequence[Sequence[str]]) -> str:
        """The name of whether everything is true in one of the cases."""
        results = []
        for case in cases:
            result = self._line("stablehlo.constant dense<true> : tensor<i1>")
            for fact in case:
                result = self._line(f"stablehlo.and {result}, {fact} : tensor<i1>")
            results.append(result)
        return functools.reduce(lambda left, right: self._line(f"stablehlo.or {left}, {right} : tensor<i1>"), results)

    def _size(self, size: Size) -> str:
        if isinstance(size, int):
            return self._line(f"stablehlo.constant dense<{size}> : {_SIZE}")
        if isinstance(size, Place):
            source = f"%i{size.input}, dim = {size.axis} : ({_tensor(self.inputs[size.input])}) -> {_SIZE}"
            return self._line(f"stablehlo.get_dimension_size {source}")
        operator, left, right = size[0], self.size(size[1]), self.size(size[2])
        if operator == "broadcast":  # whether they do is for the host to say
            return self._select(left, "EQ", self.size(1), right, left)
        if operator == "//":
            return self._floor_divide(left, right)
        return self._line(f"stablehlo.{_ARITHMETIC[operator]} {left}, {right} : {_SIZE}")

    def _floor_divide(self, left: str, right: str) -> str:
        """Division that rounds down, as Python's; StableHLO's rounds towards zero."""
        quotient = self._line(f"stablehlo.divide {left}, {right} : {_SIZE}")
        product = self._line(f"stablehlo.multiply {quotient}, {right} : {_SIZE}")
        rest = self._line(f"stablehlo.subtract {left}, {product} : {_SIZE}")
        scaled = self._line(f"stablehlo.multiply {rest}, {right} : {_SIZE}")
        lower = self._line(f"stablehlo.subtract {quotient}, {self.size(1)} : {_SIZE}")
        return self._select(scaled, "LT", self.size(0), lower, quotient)

    def _select(self, left: str, comparison: str, right: str, then: str, otherwise: str) -> str:
        compared = f"stablehlo.compare {comparison}, {left}, {right} : ({_SIZE}, {_SIZE}) -> tensor<i1>"
        return self._line(f"stablehlo.select {self._line(compared)}, {then}, {otherwise} : tensor<i1>, {_SIZE}")

    def _line(self, operation: str) -> str:
        name = f"%s{len(self.lines)}"
        self.lines.append(f"{name} = {operation}")
        return name


def _results(count: int) -> str:
    return {0: "", 1: "%r = "}.get(count, f"%r:{count} = ")


def _tensor(type_: ArrayType) -> str:
    sizes = ["?" if size is None else str(size) for size in type_.shape or ()]
    return f"tensor<{'x'.join([*sizes, ELEMENT_TYPES[type_.dtype.name][0]])}>"


def _layout(type_: ArrayType) -> str:
    """Row by row, as numpy has it; XLA would be free to choose another."""
    rank = len(type_.shape or ())
    return f"dense<{list(range(rank - 1, -1, -1)) if rank else ''}> : tensor<{rank}xindex>"


def _type_text(type_: ArrayType) -> str:
    return f"{type_.dtype.name}[{' '.join('?' if size is None else str(size) for size in type_.shape or ())}]"


def _read_types(text: str) -> list[ArrayType]:
    return [_read_type(part) for part in text.split(",")] if text else []


def _read_type(text: str) -> ArrayType:
    name, _, sizes = text.removesuffix("]").partition("[")
    shape: Shape = tuple(None if size == "?" else int(size) for size in sizes.split())
    dtype = parse_dtype(name)
    assert dtype is not None
    return ArrayType(dtype, shape)


def _escaped(text: str) -> str:
    """Text as MLIR has it between quotes."""
    return "".join(chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\{byte:02X}" for byte in text.encode())
