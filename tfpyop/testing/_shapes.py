"""Shapes: the number of inputs of a call, and shapes that match the signature."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import hypothesis.extra.numpy as hnp
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy as Strategy

from tfpyop import Op
from tfpyop._spec.signature import Signature
from tfpyop._spec.signature_text import Dimension, core_text
from tfpyop._spec.size_terms import names_in
from tfpyop.errors import SignatureError, UnsupportedError
from tfpyop.testing._ops import spec_of, subject_of

Shapes = tuple[tuple[int, ...] | None, ...]
"""One shape for each input; None for an optional input that is left out."""

_MOST_VARIADIC = 3


def presences(op: Op[..., Any]) -> Strategy[tuple[bool, ...]]:
    """Return a strategy for the inputs of a call: a flag for each input, False if it is optional and left out.

    Raises:
      UnsupportedError: The number of inputs cannot be inferred.
    """
    spec = spec_of(op)
    parameters, signature = spec.parameters, spec.signature
    if signature is not None:
        counts = st.just(1) if signature.marks.repeated is None else st.integers(1, _MOST_VARIADIC)
        return counts.flatmap(lambda n_repeated: _flags(signature, n_repeated))
    if parameters.signature is None:
        raise UnsupportedError(
            "cannot infer the number of inputs.", subject=subject_of(op), remedy="Pass signature= to the op."
        )
    n_tensors = sum(parameter.default is not None for parameter in parameters.tensors)
    if parameters.variadic is None:
        return st.just((True,) * n_tensors)
    return st.integers(n_tensors + 1, n_tensors + _MOST_VARIADIC).map(lambda count: (True,) * count)


def _flags(signature: Signature, n_repeated: int) -> Strategy[tuple[bool, ...]]:
    """Return a strategy for the inputs of a call, with this number of inputs for a repeated core."""
    flags = [st.booleans() if n in signature.marks.optional else st.just(True) for n in range(len(signature.inputs))]
    if signature.marks.repeated is not None:
        flags[signature.marks.repeated : signature.marks.repeated + 1] = [st.just(True)] * n_repeated
    return st.tuples(*flags)


def signature_of(op: Op[..., Any], is_present: Sequence[bool]) -> Signature | None:
    """Return the signature of a call with these inputs; None without a signature.

    Raises:
      SignatureError: The signature does not allow these inputs.
    """
    signature = spec_of(op).signature
    try:
        return None if signature is None else signature.for_call(tuple(is_present))
    except ValueError as error:
        raise SignatureError(
            "the shapes= strategy drew shapes for other inputs than the signature has.",
            expected=f"shapes for the inputs of signature {signature.text!r}" if signature is not None else "",
            got=str(error),
            subject=subject_of(op),
        ) from None


def shapes(op: Op[..., Any], is_present: Sequence[bool], max_side: int, *, allow_empty: bool) -> Strategy[Shapes]:
    """Draw shapes that match the signature. With allow_empty, 1 in 6 may be empty, and another 1 in 6 probably is.

    Args:
      op: The op.
      is_present: For each input, whether the call has it.
      max_side: The largest size of a dimension.
      allow_empty: Whether arrays may be empty.
    """
    full, maybe_empty, probably_empty = (1, max_side, 0), (0, max_side, 0), (0, 1, 1)
    kinds = st.sampled_from([*[full] * 4, maybe_empty, probably_empty] if allow_empty else [full])
    signature = signature_of(op, is_present)
    drawn = kinds.flatmap(lambda kind: _sided(signature, sum(is_present), *kind))
    return drawn.map(lambda found: _with_none(found, is_present))


def _with_none(drawn: Sequence[tuple[int, ...]], is_present: Sequence[bool]) -> Shapes:
    given = iter(drawn)
    return tuple(next(given) if flag else None for flag in is_present)


def _sided(
    signature: Signature | None, count: int, min_side: int, max_side: int, min_dims: int
) -> Strategy[tuple[tuple[int, ...], ...]]:
    """Draw shapes with these sides, with at most two loop dimensions, or two dimensions without a signature."""
    if signature is None:
        shape = hnp.array_shapes(min_dims=min_dims, max_dims=2, min_side=min_side, max_side=max_side)
        return shape.map(lambda shape: (shape,) * count)
    if not count:
        return st.just(())
    drawn = hnp.mutually_broadcastable_shapes(
        signature=_text_to_draw(signature), min_dims=min_dims, max_dims=2, min_side=min_side, max_side=max_side
    )
    fitted = drawn.map(lambda broadcast: _with_computed_sizes(signature, broadcast.input_shapes))
    return fitted.filter(lambda shapes: _has_outputs(signature, shapes))


def _is_computed(dimension: Dimension) -> bool:
    return isinstance(dimension.term, tuple)


def _names_of_computed(signature: Signature) -> list[str]:
    computed = filter(_is_computed, itertools.chain(*signature.inputs))
    return sorted({name for dimension in computed for name in names_in(dimension.term)})


def _text_to_draw(signature: Signature) -> str:
    """Return the inputs as Hypothesis reads them: computed sizes get fresh names, and a last input has their names."""
    fresh = (Dimension(name, name) for name in map("_computed_{}".format, itertools.count()))
    cores = [
        tuple(next(fresh) if _is_computed(dimension) else dimension for dimension in core) for core in signature.inputs
    ]
    names = _names_of_computed(signature)
    texts = [*map(core_text, cores), *([f"({','.join(names)})"] if names else [])]
    return f"{','.join(texts)}->()"


def _with_computed_sizes(signature: Signature, drawn: Sequence[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
    """Return the drawn shapes with their computed sizes. Negative sizes, for which no shape exists, count as zero."""
    names = _names_of_computed(signature)
    if not names:
        return tuple(drawn)
    *inputs, last = drawn
    sizes = dict(zip(names, last[len(last) - len(names) :], strict=True))
    shapes = []
    for core, shape in zip(signature.inputs, inputs, strict=True):
        fitted = list(shape)
        for axis, dimension in enumerate(core, -len(core)):
            if _is_computed(dimension):
                fitted[axis] = max(dimension.size(sizes) or 0, 0)
        shapes.append(tuple(fitted))
    return tuple(shapes)


def _has_outputs(signature: Signature, shapes: Sequence[tuple[int, ...]]) -> bool:
    """Return whether outputs have valid shapes, because their arithmetic may give negative sizes."""
    try:
        signature.output_shapes(signature.bind(shapes))
    except (SignatureError, ZeroDivisionError):
        return False
    return True
