"""Parse signatures in NumPy's gufunc language, and match them with shapes.

Owns the core and loop dimensions, and how output shapes follow from input shapes. The language extends NumPy's: sizes
may be arithmetic (`(n),(m)->(n+m-1)`), and outputs may have names that no input determines (`(n)->(k)`). Functions
of input sizes compute the sizes of these names (`computed_sizes`), or they are known only after the user's function
has run. Shapes may contain None for sizes that are not known yet.

A signature may leave open which inputs a call has: `()?` is an input that may be None, and `(n)*` stands for any number
of inputs. `for_call` returns the signature of one kind of call, without marks. Only that signature is matched with
shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, reduce
from typing import Protocol

import numpy as np

from tfpyop._spec.signature_text import NO_MARKS, Core, Dimension, Marks, core_text, parse_signature
from tfpyop._spec.size_terms import LARGEST_SIZE, Linear, Term, fold, linear_of, names_in
from tfpyop.errors import ContractError, Shape, SignatureError, describe_shape


@dataclass(frozen=True, slots=True)
class InputDimension:
    """Represent the size of one dimension of one input."""

    input: int
    axis: int


SymbolicSize = int | InputDimension | tuple[str, "SymbolicSize", "SymbolicSize"]
"""A size in terms of the inputs' dimensions. The operators are the operators of signatures, and `broadcast`."""
SymbolicShape = tuple[SymbolicSize, ...]


@dataclass(frozen=True, slots=True)
class DimensionBinding:
    """Store the dimensions of a signature that follow from the inputs of one call."""

    loop: Shape | None
    sizes: Mapping[str, int | None]
    missing: frozenset[str]

    def shape(self, core: Core) -> Shape | None:
        """Return the shape of an array with these core dimensions after the loop dimensions."""
        if self.loop is None:
            return None
        present = (dimension for dimension in core if dimension.text not in self.missing)
        return self.loop + tuple(dimension.size(self.sizes) for dimension in present)


class SizeValue(Protocol):
    """Compute the size of a name from the sizes of the inputs."""

    @property
    def unknown_without(self) -> tuple[str, ...]:
        """The names of the input sizes that must be known."""
        ...

    def value(self, sizes: Mapping[str, int | None]) -> int | None:
        """Return the size; None if it is not known yet."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Signature:
    """Represent a parsed signature: the core dimensions of every input and output."""

    text: str
    """The text that the user wrote. It does not contain residuals."""
    inputs: tuple[Core, ...]
    outputs: tuple[Core, ...]
    run_time_names: frozenset[str]
    """The names in outputs that are known only after the function has run."""
    given_names: frozenset[str] = frozenset()
    """The names that `sizes=` computes."""
    computed: Mapping[str, SizeValue] = field(default_factory=dict)
    """The sizes of these names, for one set of static values."""
    origin: Signature | None = None
    """For a signature with computed sizes: the signature without them."""
    marks: Marks = NO_MARKS
    """The marks of the inputs, if the signature leaves open which inputs a call has."""
    repeated_output: int | None = None
    """The index of the output that stands for any number of outputs, until their number is known."""
    places: tuple[int | None, ...] | None = None
    """For a call without some optional inputs: for each input as the caller counts them, its index in `inputs`.

    The index is None for an input that is left out.
    """

    @classmethod
    @lru_cache(maxsize=1024)
    def parse(cls, text: str, given_names: frozenset[str] = frozenset()) -> Signature:
        """Parse a signature. Each text with the same given names has one object.

        Args:
          text: The signature.
          given_names: The names in outputs that functions compute.

        Raises:
          SignatureError: The text is not a signature, or the input sizes do not determine all names.
        """
        inputs, outputs, marks, (_, repeated_output) = parse_signature(text)
        always = [core for number, core in enumerate(inputs) if number not in marks.optional]
        bound = _bound_names(always)
        for dimension, own in [(dimension, _bound_names([core])) for core in inputs for dimension in core]:
            if free := names_in(dimension.term) - bound - own:
                raise SignatureError(
                    f"cannot solve signature {text!r} for {min(free)!r} in the input size {dimension.text!r}.",
                    remedy="Use a name, a number, or arithmetic with one name, such as n+1 or 2*n. For arithmetic "
                    "with several names, other inputs must have these names as sizes.",
                )
        for dimension in (dimension for core in outputs for dimension in core):
            free = names_in(dimension.term) - bound - given_names
            if free and isinstance(dimension.term, tuple):
                having = "only optional inputs have" if min(free) in _bound_names(inputs) else "no input has"
                raise SignatureError(
                    f"signature {text!r} uses {min(free)!r} in the output size {dimension.text!r}, but {having} "
                    f"{min(free)!r}.",
                    remedy="Use names from the inputs. For a size that is known only at run time, use a single new "
                    "name.",
                )
        free_names = _names_of(outputs) - _bound_names(inputs)
        return cls(
            text,
            inputs,
            outputs,
            frozenset(free_names - given_names),
            given_names,
            marks=marks,
            repeated_output=repeated_output,
        )

    @classmethod
    def elementwise(cls, n_inputs: int, n_outputs: int) -> Signature:
        """Return the signature of an elementwise function."""
        return cls.parse(",".join(["()"] * n_inputs) + "->" + ",".join(["()"] * n_outputs))

    @classmethod
    def from_ufunc(cls, function: np.ufunc) -> Signature:
        """Return the signature of a ufunc or gufunc."""
        if function.signature is None:
            return cls.elementwise(function.nin, function.nout)
        return cls.parse(function.signature)

    def extended(self, *groups: Sequence[Core], outputs: Sequence[Core] = ()) -> Signature:
        """Return a signature with further inputs after the inputs of this signature, and with other outputs."""
        inputs = self.inputs + tuple(core for group in groups for core in group)
        text = "->".join(",".join(map(core_text, cores)) for cores in (inputs, outputs))
        return Signature(text, inputs, tuple(outputs), frozenset())

    def with_outputs(self, cores: Sequence[str]) -> Signature:
        """Return this signature with further outputs, given by the texts of their core dimensions: `"(n,n)"`."""
        if not cores:
            return self
        whole = Signature.parse(f"{self.text},{','.join(cores)}", self.given_names)
        return replace(whole.with_n_outputs(len(self.outputs) + len(cores)), text=self.text)

    def with_n_outputs(self, count: int) -> Signature:
        """Return this signature with this number of outputs, if it leaves the number open. It must be possible."""
        repeated = self.repeated_output
        if repeated is None:
            return self
        n_repeated = count - len(self.outputs) + 1
        assert n_repeated >= 0
        outputs = self.outputs[:repeated] + self.outputs[repeated : repeated + 1] * n_repeated
        return replace(self, outputs=outputs + self.outputs[repeated + 1 :], repeated_output=None)

    def with_sizes(self, computed: Mapping[str, SizeValue]) -> Signature:
        """Return this signature with the functions that compute sizes, for one set of static values."""
        return self if not computed else replace(self, computed=computed, origin=self)

    def for_call(self, is_present: tuple[bool, ...]) -> Signature:
        """Return the signature of calls with these inputs, without marks.

        Args:
          is_present: For each input as the caller counts them, whether the call has it.

        Raises:
          ValueError: The signature does not allow these inputs.
        """
        if self.marks == NO_MARKS and all(is_present) and len(is_present) == len(self.inputs):
            return self
        return _for_call(self, is_present)

    @property
    def n_inputs(self) -> int | None:
        """The number of inputs as the caller counts them; None if it differs from call to call."""
        return len(self.inputs) if self.marks.repeated is None else None

    @property
    def has_certain_input(self) -> bool:
        """Whether every call has an input."""
        return any(n not in self.marks.optional and n != self.marks.repeated for n in range(len(self.inputs)))

    def place(self, number: int) -> int:
        """Return the number of an input as the caller counts them, with the inputs that the call leaves out."""
        return number if self.places is None else self.places.index(number)

    @property
    def input_names(self) -> frozenset[str]:
        """The names in the inputs."""
        return _names_of(self.inputs)

    @property
    def required_names(self) -> frozenset[str]:
        """The names in the inputs that have a size in every call."""
        is_certain = [n not in self.marks.optional and n != self.marks.repeated for n in range(len(self.inputs))]
        cores = [core for core, flag in zip(self.inputs, is_certain, strict=True) if flag]
        missing = {dimension.text for core in cores for dimension in core if dimension.optional}
        return _names_of(cores) - missing

    @property
    def output_names(self) -> frozenset[str]:
        """The names in the outputs."""
        return _names_of(self.outputs)

    @property
    def is_elementwise(self) -> bool:
        """Whether no input and no output has core dimensions."""
        return not any(self.inputs) and not any(self.outputs)

    def bind(self, shapes: Sequence[Shape | None]) -> DimensionBinding:
        """Match input shapes (None: unknown rank) with the input side.

        Raises:
          SignatureError: An input has too few dimensions, sizes disagree, or loop dimensions do not broadcast.
        """
        return _bind(self.origin or self, tuple(shapes))  # cached, and must not keep the functions in `sizes=` alive

    def core_ranks(self, shapes: Sequence[Shape | None]) -> list[int]:
        """Return the number of core dimensions of each input, for inputs of these shapes."""
        missing = self.bind(shapes).missing
        return [sum(dimension.text not in missing for dimension in core) for core in self.inputs]

    def output_shapes(self, binding: DimensionBinding) -> tuple[Shape | None, ...]:
        """Return the output shapes. A shape contains None only for sizes that are not known yet.

        Raises:
          SignatureError: A size is negative or too large, or its function in `sizes=` did not return a size.
        """
        binding = self._with_computed(binding)
        for dimension in (dimension for core in self.outputs for dimension in core):
            size = dimension.size(binding.sizes)
            if size is not None and not 0 <= size <= LARGEST_SIZE:
                raise SignatureError(
                    f"output dimension {dimension.text!r} of signature {self.text!r} is {size} for "
                    f"{_values_text(dimension.term, binding.sizes)}.",
                    remedy=f"Pass inputs for which it is {'0 or more' if size < 0 else 'below 2**63'}, or correct the "
                    "signature.",
                )
        return tuple(map(binding.shape, self.outputs))

    def symbolic_shapes(self, shapes: Sequence[Shape | None]) -> list[SymbolicShape | None]:
        """Return the shapes of the outputs, with unknown sizes expressed in the inputs' dimensions.

        A shape is None if this is impossible: for inputs of unknown rank, and for sizes known only at run time.
        """
        binding = self._with_computed(self.bind(shapes))
        loop = self._loop_sizes(shapes, binding)
        if loop is None:
            return [None] * len(self.outputs)
        names: dict[str, SymbolicSize] = {name: size for name, size in binding.sizes.items() if size is not None}
        for number, (core, rank) in enumerate(zip(self.inputs, self.core_ranks(shapes), strict=True)):
            present = [dimension for dimension in core if dimension.text not in binding.missing]
            for axis, dimension in enumerate(present, len(shapes[number] or ()) - rank):
                linear = linear_of(dimension.term)
                if linear is not None and binding.sizes.get(linear.name) is None:
                    names.setdefault(linear.name, _solved(linear, InputDimension(number, axis)))
        present_cores = [[d.term for d in core if d.text not in binding.missing] for core in self.outputs]
        return [
            loop + tuple(_substitute(term, names) for term in terms)
            if all(names_in(term) <= names.keys() for term in terms)
            else None
            for terms in present_cores
        ]

    def computed_sizes(self, binding: DimensionBinding) -> dict[str, int | None]:
        """Return the sizes that functions compute, for these sizes of the inputs."""
        return {name: computed.value(binding.sizes) for name, computed in self.computed.items()}

    def all_sizes(self, shapes: Sequence[Shape | None]) -> Mapping[str, int | None]:
        """Return the sizes of all names, for inputs of these shapes, as far as they are known before the call."""
        return self._with_computed(self.bind(shapes)).sizes

    def _with_computed(self, binding: DimensionBinding) -> DimensionBinding:
        if not self.computed:
            return binding
        return replace(binding, sizes={**binding.sizes, **self.computed_sizes(binding)})

    def broadcast_sizes(self, shapes: Sequence[Shape | None], number: int) -> SymbolicShape | None:
        """Return the shape of one input after its loop dimensions are broadcast, in the same form as `output_sizes`."""
        binding, shape = self.bind(shapes), shapes[number]
        loop = self._loop_sizes(shapes, binding)
        if loop is None or shape is None:
            return None
        core = range(len(shape) - self.core_ranks(shapes)[number], len(shape))
        return loop + tuple(_known_or_place(shape, number, axis) for axis in core)

    def _loop_sizes(self, shapes: Sequence[Shape | None], binding: DimensionBinding) -> SymbolicShape | None:
        if binding.loop is None:
            return None
        places: list[list[SymbolicSize]] = [[] for _ in binding.loop]
        for number, (shape, rank) in enumerate(zip(shapes, self.core_ranks(shapes), strict=True)):
            split = len(shape or ()) - rank
            for axis in range(split):
                if shape is not None and shape[axis] != 1:
                    places[axis - split].append(InputDimension(number, axis))
        return tuple(
            reduce(lambda left, right: ("broadcast", left, right), candidates) if size is None else size
            for size, candidates in zip(binding.loop, places, strict=True)
        )

    def check_run_time_sizes(
        self, shapes: Sequence[Shape], binding: DimensionBinding, what: Callable[[int], str] = "output {}".format
    ) -> None:
        """Check that outputs that share a run-time name have the same size there. The ranks must be checked before."""
        sizes: dict[Term, int | None] = {}
        for number, (core, shape) in enumerate(zip(self.outputs, shapes, strict=True)):
            present = [dimension for dimension in core if dimension.text not in binding.missing]
            for dimension, size in zip(present, shape[len(shape) - len(present) :], strict=True):
                if dimension.term in self.run_time_names and sizes.setdefault(dimension.term, size) != size:
                    raise ContractError(
                        f"the size {dimension.text!r} of {what(number)} differs from its size in an earlier output.",
                        expected=f"{dimension.text} = {sizes[dimension.term]}",
                        got=f"{dimension.text} = {size}",
                        remedy=f"Signature {self.text!r} declares these sizes as equal. If they differ, use two names.",
                    )


def broadcast_shapes(shapes: Sequence[Shape | None]) -> Shape | None:
    """Broadcast shapes by NumPy's rules, as far as they are known. Raise ValueError if they do not broadcast."""
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


def _names_of(cores: Sequence[Core]) -> frozenset[str]:
    return frozenset(name for core in cores for dimension in core for name in names_in(dimension.term))


def _bound_names(cores: Sequence[Core]) -> set[str]:
    """Return the names whose sizes follow from inputs with these cores."""
    terms = [dimension.term for core in cores for dimension in core]
    names = {term for term in terms if isinstance(term, str)}
    return names | {linear.name for term in terms if (linear := linear_of(term)) is not None}


@lru_cache(maxsize=1024)
def _for_call(signature: Signature, is_present: tuple[bool, ...]) -> Signature:
    optional, repeated = signature.marks
    numbers = list(range(len(signature.inputs)))
    if repeated is not None:
        n_repeated = len(is_present) - len(numbers) + 1
        numbers[repeated : repeated + 1] = [repeated] * n_repeated
    if len(numbers) != len(is_present):
        raise ValueError(f"{len(is_present)} inputs, not {len(signature.inputs)}")
    for place, (number, flag) in enumerate(zip(numbers, is_present, strict=True)):
        if not flag and number not in optional:
            raise ValueError(f"input {place} is None")
    inputs = tuple(signature.inputs[number] for number, flag in zip(numbers, is_present, strict=True) if flag)
    given = iter(range(len(inputs)))
    return replace(
        signature,
        inputs=inputs,
        run_time_names=signature.output_names - _bound_names(inputs) - signature.given_names,
        marks=NO_MARKS,
        places=None if all(is_present) else tuple(next(given) if flag else None for flag in is_present),
    )


@lru_cache(maxsize=1024)
def _bind(signature: Signature, shapes: tuple[Shape | None, ...]) -> DimensionBinding:
    if len(shapes) != len(signature.inputs):
        raise SignatureError(
            "the call has the wrong number of inputs.",
            expected=f"{len(signature.inputs)}, from signature {signature.text!r}",
            got=str(len(shapes)),
        )
    missing = _missing_names(signature, shapes)
    found: list[_Found] = []
    loops: list[Shape | None] = []
    for number, (core, shape) in enumerate(zip(signature.inputs, shapes, strict=True)):
        if shape is None:
            loops.append(None)
            continue
        present = [dimension for dimension in core if dimension.text not in missing]
        if len(shape) < len(present):
            raise SignatureError(
                f"input {signature.place(number)} has too few dimensions for signature {signature.text!r}.",
                expected=f"at least {len(present)}: ({', '.join(dimension.text for dimension in present)})",
                got=describe_shape(shape),
            )
        split = len(shape) - len(present)
        loops.append(shape[:split])
        found += [(number, *pair) for pair in zip(present, shape[split:], strict=True)]
    sizes = _solved_sizes(signature, shapes, found)
    try:
        loop = broadcast_shapes(loops)
    except ValueError:
        raise SignatureError(
            f"the loop dimensions of the inputs do not broadcast under signature {signature.text!r}.",
            got=", ".join(map(describe_shape, shapes)),
            remedy="Pass inputs whose loop dimensions (the dimensions before the core dimensions) are equal or 1, as "
            "in NumPy broadcasting.",
        ) from None
    return DimensionBinding(loop, sizes, missing)


def _missing_names(signature: Signature, shapes: Sequence[Shape | None]) -> frozenset[str]:
    """Return the names marked `?` that are missing everywhere, because some input has too few dimensions for them."""
    missing: set[str] = set()
    for core, shape in zip(signature.inputs, shapes, strict=True):
        present = [dimension for dimension in core if dimension.text not in missing]
        optional = [dimension.text for dimension in present if dimension.optional]
        if shape is not None and len(shape) < len(present):
            missing |= set(optional[: len(present) - len(shape)])
    return frozenset(missing)


_Found = tuple[int, Dimension, int | None]
"""An input, one of its core dimensions, and the actual size of this dimension in a call."""


def _solved_sizes(
    signature: Signature, shapes: Sequence[Shape | None], found: Sequence[_Found]
) -> dict[str, int | None]:
    """Return the sizes of all names in inputs, first from plain names, then from arithmetic with one name.

    Raises:
      SignatureError: Sizes disagree.
    """
    sizes: dict[str, int | None] = {
        name: None for core in signature.inputs for dimension in core for name in names_in(dimension.term)
    }
    is_plain = [isinstance(dimension.term, str) for _, dimension, _ in found]
    plain = [each for each, is_name in zip(found, is_plain, strict=True) if is_name]
    computed = [each for each, is_name in zip(found, is_plain, strict=True) if not is_name]
    for number, dimension, size in [*plain, *computed]:
        linear = linear_of(dimension.term)
        if linear is not None and size is not None and sizes[linear.name] is None:
            solution = linear.solution(size)
            if solution is None:
                raise _unsolvable(signature, shapes, number, dimension)
            sizes[linear.name] = solution
    for number, dimension, size in found:
        known = dimension.size(sizes)
        if known is not None and size is not None and known != size:
            raise _misfit(signature, shapes, number, dimension, sizes)
    return sizes


def _solved(linear: Linear, size: SymbolicSize) -> SymbolicSize:
    """Express the name of a linear size in terms of this size."""
    if linear.offset:
        size = ("-", size, linear.offset) if linear.offset > 0 else ("+", size, -linear.offset)
    return size if linear.factor == 1 else ("//", size, linear.factor)


def _unsolvable(
    signature: Signature, shapes: Sequence[Shape | None], number: int, dimension: Dimension
) -> SignatureError:
    """Return the error for an input size that the arithmetic cannot produce."""
    (name,) = names_in(dimension.term)
    return SignatureError(
        f"input {signature.place(number)} does not fit signature {signature.text!r}.",
        expected=f"a size {dimension.text!r} with {name} of 0 or more",
        got=describe_shape(shapes[number]),
    )


def _misfit(
    signature: Signature,
    shapes: Sequence[Shape | None],
    number: int,
    dimension: Dimension,
    sizes: Mapping[str, int | None],
) -> SignatureError:
    """Return the error for an input whose size differs from a fixed size or from the size that other inputs imply."""
    source = _first_to_tell(signature, shapes, dimension.text)
    expected = f"size {dimension.size(sizes)} for dimension {dimension.text!r}"
    if isinstance(dimension.term, int):
        expected = f"core dimensions {core_text(signature.inputs[number])}"
    elif source != number:
        expected += f", as in input {signature.place(source)} of shape {describe_shape(shapes[source])}"
    elif isinstance(dimension.term, tuple):
        expected += f", because {_values_text(dimension.term, sizes)}"
    return SignatureError(
        f"input {signature.place(number)} does not fit signature {signature.text!r}.",
        expected=expected,
        got=describe_shape(shapes[number]),
    )


def _values_text(term: Term, sizes: Mapping[str, int | None]) -> str:
    return ", ".join(f"{name} = {sizes[name]}" for name in sorted(names_in(term)))


def _first_to_tell(signature: Signature, shapes: Sequence[Shape | None], text: str) -> int:
    """Return the first input whose shape determines the size of a dimension."""
    missing = _missing_names(signature, shapes)
    for number, (core, shape) in enumerate(zip(signature.inputs, shapes, strict=True)):
        present = [dimension.text for dimension in core if dimension.text not in missing]
        if shape is not None and text in present and shape[present.index(text) - len(present)] is not None:
            return number
    raise AssertionError(text)


def symbolic_shape(shape: Shape | None, number: int) -> SymbolicShape | None:
    """Return the shape of an input, with a place for each unknown size; None for an unknown rank."""
    return None if shape is None else tuple(_known_or_place(shape, number, axis) for axis in range(len(shape)))


def _known_or_place(shape: Shape, number: int, axis: int) -> SymbolicSize:
    size = shape[axis]
    return InputDimension(number, axis) if size is None else size


def _substitute(term: Term, names: Mapping[str, SymbolicSize]) -> SymbolicSize:
    return fold(term, lambda part: names[part] if isinstance(part, str) else part, lambda *parts: parts)
