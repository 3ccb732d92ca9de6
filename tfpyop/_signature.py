"""Signatures: NumPy's gufunc language, read once, then asked for shapes.

Owns the text form, the core and loop dimensions, and how output shapes follow from input shapes. Beyond
NumPy's language the output side may hold arithmetic (`(n),(m)->(n+m-1)`) and names that no input binds
(`(n)->(k)`, known only when the function has run). Shapes may hold None for what is not known yet.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce

import numpy as np

from tfpyop.errors import ContractError, Shape, SignatureError, describe_shape

Term = int | str | tuple[str, "Term", "Term"]
"""One size: a number, a name, or an operator with two terms."""


@dataclass(frozen=True, slots=True)
class Place:
    """Stands for the size of one dimension of one input."""

    input: int
    axis: int


Size = int | Place | tuple[str, "Size", "Size"]
"""A size in terms of the inputs' dimensions: operators are those of signatures, and `broadcast`."""
Sizes = tuple[Size, ...]

_OPERATORS: dict[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": operator.floordiv,
}
_AST_OPERATORS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.FloorDiv: "//"}
_ARGUMENT = r"\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)"  # arithmetic may nest parentheses, twice
_EXAMPLE = 'Write it as NumPy does, for example "(m,k),(k,n)->(m,n)" or "(),()->()".'


@dataclass(frozen=True, slots=True)
class Dimension:
    """One core dimension: its text, its size as a term, and whether inputs may leave it out (`?`)."""

    text: str
    term: Term
    optional: bool = False

    def size(self, sizes: Mapping[str, int | None]) -> int | None:
        """Evaluate the term; None as soon as one of its names is unknown."""
        return _evaluate(self.term, sizes)


Core = tuple[Dimension, ...]


@dataclass(frozen=True, slots=True)
class Binding:
    """What the inputs of one call say about the dimensions of a signature."""

    loop: Shape | None
    sizes: Mapping[str, int | None]
    missing: frozenset[str]

    def shape(self, core: Core) -> Shape | None:
        """The shape of an array with these core dimensions behind the loop dimensions."""
        if self.loop is None:
            return None
        present = (dimension for dimension in core if dimension.text not in self.missing)
        return self.loop + tuple(dimension.size(self.sizes) for dimension in present)


@dataclass(frozen=True, slots=True, eq=False)
class Signature:
    """A parsed signature: the core dimensions of every input and output. One object for each text."""

    text: str
    inputs: tuple[Core, ...]
    outputs: tuple[Core, ...]
    run_time_names: frozenset[str]
    """Output names that no input binds."""

    @classmethod
    @lru_cache(maxsize=1024)
    def parse(cls, text: str) -> Signature:
        """Read a signature; SignatureError says what cannot be read."""
        sides = re.sub(r"\s*([-(),?+*/>])\s*", r"\1", text.strip()).split("->")
        if len(sides) != 2:
            raise SignatureError(f"signature {text!r} needs exactly one '->'.", remedy=_EXAMPLE)
        inputs, outputs = (tuple(map(_parse_core, _split_arguments(side, text))) for side in sides)
        if not outputs:
            raise SignatureError(f"signature {text!r} has no output.", remedy=_EXAMPLE)
        for dimension in (dimension for core in inputs for dimension in core):
            if isinstance(dimension.term, tuple):
                raise SignatureError(
                    f"signature {text!r} computes {dimension.text!r} on the input side.",
                    remedy="Arithmetic belongs on the output side; inputs take names and fixed sizes.",
                )
        bound = {name for core in inputs for dimension in core for name in _names(dimension.term)}
        for dimension in (dimension for core in outputs for dimension in core):
            free = _names(dimension.term) - bound
            if free and isinstance(dimension.term, tuple):
                raise SignatureError(
                    f"signature {text!r} computes {dimension.text!r} from {min(free)!r}, which no input has.",
                    remedy="Use names of the input side, or one new name by itself for a size known at run time.",
                )
        free_names = {name for core in outputs for dimension in core for name in _names(dimension.term)} - bound
        return cls(text, inputs, outputs, frozenset(free_names))

    @classmethod
    def elementwise(cls, n_inputs: int, n_outputs: int) -> Signature:
        """The signature of a function that works on each element by itself."""
        return cls.parse(",".join(["()"] * n_inputs) + "->" + ",".join(["()"] * n_outputs))

    @classmethod
    def from_ufunc(cls, function: np.ufunc) -> Signature:
        """The signature a ufunc or gufunc brings along."""
        if function.signature is None:
            return cls.elementwise(function.nin, function.nout)
        return cls.parse(function.signature)

    def extended(self, *groups: Sequence[Core], outputs: Sequence[Core] = ()) -> Signature:
        """That of an op which takes more than this one's inputs, behind them, and has other outputs."""
        inputs = self.inputs + tuple(core for group in groups for core in group)
        text = "->".join(",".join(map(_core_text, cores)) for cores in (inputs, outputs))
        return Signature(text, inputs, tuple(outputs), frozenset())

    def with_outputs(self, cores: Sequence[str]) -> Signature:
        """This signature with more outputs, each given by the text of its core: `"(n,n)"`."""
        return self if not cores else Signature.parse(f"{self.text},{','.join(cores)}")

    @property
    def is_elementwise(self) -> bool:
        """Whether no input and no output has core dimensions."""
        return not any(self.inputs) and not any(self.outputs)

    def bind(self, shapes: Sequence[Shape | None]) -> Binding:
        """Match input shapes (None: unknown rank) with the input side.

        Raises:
          SignatureError: An input lacks core dimensions, sizes disagree, or loop dimensions do not broadcast.
        """
        return _bind(self, tuple(shapes))

    def core_ranks(self, shapes: Sequence[Shape | None]) -> list[int]:
        """How many core dimensions each input has, for inputs of these shapes."""
        missing = self.bind(shapes).missing
        return [sum(dimension.text not in missing for dimension in core) for core in self.inputs]

    def output_shapes(self, binding: Binding) -> tuple[Shape | None, ...]:
        """What the signature promises: None in a shape only for sizes that nobody knows yet."""
        for dimension in (dimension for core in self.outputs for dimension in core):
            size = dimension.size(binding.sizes)
            if size is not None and size < 0:
                known = ", ".join(f"{name} = {binding.sizes[name]}" for name in sorted(_names(dimension.term)))
                raise SignatureError(
                    f"output dimension {dimension.text!r} of signature {self.text!r} is {size} for {known}.",
                    remedy="Pass inputs for which it is 0 or more, or correct the signature.",
                )
        return tuple(map(binding.shape, self.outputs))

    def output_sizes(self, shapes: Sequence[Shape | None]) -> list[Sizes | None]:
        """The shapes of the outputs, with what is not known yet in terms of the inputs' dimensions.

        None where that cannot be said: inputs of unknown rank, and sizes known at run time.
        """
        binding = self.bind(shapes)
        loop = self._loop_sizes(shapes, binding)
        if loop is None:
            return [None] * len(self.outputs)
        names: dict[str, Size] = {name: size for name, size in binding.sizes.items() if size is not None}
        for number, (core, rank) in enumerate(zip(self.inputs, self.core_ranks(shapes), strict=True)):
            present = [dimension for dimension in core if dimension.text not in binding.missing]
            for axis, dimension in enumerate(present, len(shapes[number] or ()) - rank):
                if isinstance(dimension.term, str):
                    names.setdefault(dimension.term, Place(number, axis))
        return [
            loop + tuple(_substitute(d.term, names) for d in core if d.text not in binding.missing)
            if self.run_time_names.isdisjoint(d.text for d in core)
            else None
            for core in self.outputs
        ]

    def broadcast_sizes(self, shapes: Sequence[Shape | None], number: int) -> Sizes | None:
        """The shape that one input has once its loop dimensions are broadcast, in the same terms."""
        binding, shape = self.bind(shapes), shapes[number]
        loop = self._loop_sizes(shapes, binding)
        if loop is None or shape is None:
            return None
        core = range(len(shape) - self.core_ranks(shapes)[number], len(shape))
        return loop + tuple(_known_or_place(shape, number, axis) for axis in core)

    def _loop_sizes(self, shapes: Sequence[Shape | None], binding: Binding) -> Sizes | None:
        if binding.loop is None:
            return None
        places: list[list[Size]] = [[] for _ in binding.loop]
        for number, (shape, rank) in enumerate(zip(shapes, self.core_ranks(shapes), strict=True)):
            split = len(shape or ()) - rank
            for axis in range(split):
                if shape is not None and shape[axis] != 1:
                    places[axis - split].append(Place(number, axis))
        return tuple(
            reduce(lambda left, right: ("broadcast", left, right), candidates) if size is None else size
            for size, candidates in zip(binding.loop, places, strict=True)
        )

    def check_run_time_sizes(
        self, shapes: Sequence[Shape], binding: Binding, what: Callable[[int], str] = "output {}".format
    ) -> None:
        """Hold outputs that share a run-time name to one size; ranks must be right already."""
        sizes: dict[Term, int | None] = {}
        for number, (core, shape) in enumerate(zip(self.outputs, shapes, strict=True)):
            present = [dimension for dimension in core if dimension.text not in binding.missing]
            for dimension, size in zip(present, shape[len(shape) - len(present) :], strict=True):
                if dimension.term in self.run_time_names and sizes.setdefault(dimension.term, size) != size:
                    raise ContractError(
                        f"{what(number)} has another size of {dimension.text!r} than an earlier output.",
                        expected=f"{dimension.text} = {sizes[dimension.term]}",
                        got=f"{dimension.text} = {size}",
                        remedy=f"Signature {self.text!r} promises them equal; use two names if they differ.",
                    )


def broadcast_shapes(shapes: Sequence[Shape | None]) -> Shape | None:
    """Broadcast shapes by NumPy's rules, as far as they are known; ValueError where they cannot be."""
    known = [shape for shape in shapes if shape is not None]
    rank = max(map(len, known), default=0)
    result: list[int | None] = []
    for axis in range(-rank, 0):
        sizes = {shape[axis] for shape in known if len(shape) >= -axis}
        fixed = sizes - {1, None}
        if len(fixed) > 1:
            raise ValueError(shapes)
        result.append(fixed.pop() if fixed else (None if None in sizes else 1))
    return tuple(result) if len(known) == len(shapes) else None


@lru_cache(maxsize=1024)
def _bind(signature: Signature, shapes: tuple[Shape | None, ...]) -> Binding:
    if len(shapes) != len(signature.inputs):
        raise SignatureError(
            "the call has the wrong number of inputs.",
            expected=f"{len(signature.inputs)}, as signature {signature.text!r} says",
            got=str(len(shapes)),
        )
    missing = _missing_names(signature, shapes)
    sizes: dict[str, int | None] = {}
    loops: list[Shape | None] = []
    for number, (core, shape) in enumerate(zip(signature.inputs, shapes, strict=True)):
        if shape is None:
            loops.append(None)
            for dimension in core:
                if isinstance(dimension.term, str):
                    sizes.setdefault(dimension.term, None)
            continue
        present = [dimension for dimension in core if dimension.text not in missing]
        if len(shape) < len(present):
            raise SignatureError(
                f"input {number} has too few dimensions for signature {signature.text!r}.",
                expected=f"at least {len(present)}: ({', '.join(dimension.text for dimension in present)})",
                got=describe_shape(shape),
            )
        split = len(shape) - len(present)
        loops.append(shape[:split])
        for dimension, size in zip(present, shape[split:], strict=True):
            if not _unify(sizes, dimension, size):
                raise _misfit(signature, shapes, number, dimension, dimension.size(sizes))
    try:
        loop = broadcast_shapes(loops)
    except ValueError:
        raise SignatureError(
            f"the loop dimensions of the inputs do not broadcast under signature {signature.text!r}.",
            got=", ".join(map(describe_shape, shapes)),
            remedy="Dimensions in front of the core must be equal or 1, as NumPy broadcasts.",
        ) from None
    return Binding(loop, sizes, missing)


def _missing_names(signature: Signature, shapes: Sequence[Shape | None]) -> frozenset[str]:
    """Names marked `?` that some input is too small to have; they are missing everywhere."""
    missing: set[str] = set()
    for core, shape in zip(signature.inputs, shapes, strict=True):
        present = [dimension for dimension in core if dimension.text not in missing]
        optional = [dimension.text for dimension in present if dimension.optional]
        if shape is not None and len(shape) < len(present):
            missing |= set(optional[: len(present) - len(shape)])
    return frozenset(missing)


def _unify(sizes: dict[str, int | None], dimension: Dimension, size: int | None) -> bool:
    """Whether a size agrees with what is known of its dimension; where nothing is, it is kept."""
    known = dimension.size(sizes)
    if isinstance(dimension.term, str):
        sizes[dimension.term] = size if known is None else known
    return known is None or size is None or known == size


def _misfit(
    signature: Signature, shapes: Sequence[Shape | None], number: int, dimension: Dimension, size: int | None
) -> SignatureError:
    """The error for an input with another size than the fixed one, or than an input before."""
    source = _first_to_tell(signature, shapes, dimension.text)
    expected = f"size {size} for dimension {dimension.text!r}"
    if isinstance(dimension.term, int):
        expected = f"core dimensions {_core_text(signature.inputs[number])}"
    elif source != number:
        expected += f", as in input {source} of shape {describe_shape(shapes[source])}"
    return SignatureError(
        f"input {number} does not fit signature {signature.text!r}.",
        expected=expected,
        got=describe_shape(shapes[number]),
    )


def _first_to_tell(signature: Signature, shapes: Sequence[Shape | None], text: str) -> int:
    """The first input whose shape tells the size of a dimension."""
    missing = _missing_names(signature, shapes)
    for number, (core, shape) in enumerate(zip(signature.inputs, shapes, strict=True)):
        present = [dimension.text for dimension in core if dimension.text not in missing]
        if shape is not None and text in present and shape[present.index(text) - len(present)] is not None:
            return number
    raise AssertionError(text)


def _split_arguments(side: str, text: str) -> list[str]:
    """Split `(m,k),(k)` into the insides of its parentheses."""
    if side and not re.fullmatch(f"{_ARGUMENT}(,{_ARGUMENT})*", side):
        raise SignatureError(f"signature {text!r} cannot be read at {side!r}.", remedy=_EXAMPLE)
    return [argument[1:-1] for argument in re.findall(_ARGUMENT, side)]


def _core_text(core: Core) -> str:
    return f"({','.join(dimension.text + '?' * dimension.optional for dimension in core)})"


def _parse_core(text: str) -> Core:
    return tuple(map(_parse_dimension, text.split(","))) if text else ()


def _parse_dimension(text: str) -> Dimension:
    optional = text.endswith("?")
    name = text.removesuffix("?")
    try:
        term = _parse_term(ast.parse(name, mode="eval").body)
    except (SyntaxError, ValueError):
        raise SignatureError(
            f"dimension {text!r} of a signature cannot be read.",
            remedy="A dimension is a name, a number, or, on the output side, arithmetic with + - * //.",
        ) from None
    if optional and not isinstance(term, str):
        raise SignatureError(f"dimension {text!r} is optional but has no name.", remedy=_EXAMPLE)
    return Dimension(name, term, optional)


def _parse_term(node: ast.expr) -> Term:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.BinOp) and type(node.op) in _AST_OPERATORS:
        if isinstance(node.op, ast.FloorDiv) and not (isinstance(node.right, ast.Constant) and node.right.value):
            raise ValueError("division by anything but a number other than zero")
        return (_AST_OPERATORS[type(node.op)], _parse_term(node.left), _parse_term(node.right))
    raise ValueError(node)


def _names(term: Term) -> frozenset[str]:
    if isinstance(term, str):
        return frozenset({term})
    return _names(term[1]) | _names(term[2]) if isinstance(term, tuple) else frozenset()


def sizes_of(shape: Shape | None, number: int) -> Sizes | None:
    """The shape of an input, with places for what is not known yet; None for an unknown rank."""
    return None if shape is None else tuple(_known_or_place(shape, number, axis) for axis in range(len(shape)))


def _known_or_place(shape: Shape, number: int, axis: int) -> Size:
    size = shape[axis]
    return Place(number, axis) if size is None else size


def _substitute(term: Term, names: Mapping[str, Size]) -> Size:
    if isinstance(term, tuple):
        return (term[0], _substitute(term[1], names), _substitute(term[2], names))
    return names[term] if isinstance(term, str) else term


def _evaluate(term: Term, sizes: Mapping[str, int | None]) -> int | None:
    if isinstance(term, int):
        return term
    if isinstance(term, str):
        return sizes.get(term)
    left, right = _evaluate(term[1], sizes), _evaluate(term[2], sizes)
    return None if left is None or right is None else _OPERATORS[term[0]](left, right)
