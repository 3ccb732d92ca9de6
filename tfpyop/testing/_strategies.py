"""Strategies: the arguments an op takes, and cotangents and tangents for them, drawn from its signature and domain."""

from __future__ import annotations

import enum
import inspect
import math
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import tensorflow as tf
from hypothesis import strategies as st

from tfpyop import Op
from tfpyop._coercion import Array, DType, dtype_kind, is_differentiable
from tfpyop._domain import Domain, Interval
from tfpyop._promise import ArrayType
from tfpyop._signature import Signature
from tfpyop.errors import RegistrationError, SignatureError, UnsupportedError, nearest
from tfpyop.testing._examples import Arguments, Rows
from tfpyop.testing._numbers import SMALLEST, Magnitudes, elements, input_dtype
from tfpyop.testing._ops import definition_of, plain_outputs, subject_of

Draw = st.DrawFn
Strategy = st.SearchStrategy

_FLOATING = (np.float32, np.float64)
_LARGEST = 1e6
_MOST_VARIADIC = 3


def arguments(
    op: Op[..., Any],
    /,
    *,
    dtypes: Sequence[Any] | None = None,
    shapes: Strategy[tuple[tuple[int, ...], ...]] | None = None,
    static: Mapping[str, Strategy[Any]] | None = None,
    domain: str | Mapping[str, str | None] | None = None,
    max_side: int = 3,
    allow_empty: bool = True,
    smallest: float = SMALLEST,
    largest: float = _LARGEST,
    allow_nan: bool = False,
    allow_infinity: bool = False,
    **overrides: Strategy[Any],
) -> Strategy[Arguments]:
    """The arguments of calls that the op should be able to serve.

    Shapes follow the signature: loop dimensions that broadcast, also of size one, missing or empty, and core dimensions
    that agree, rarely empty. Without a signature all inputs have one shape. Values lie in the op's `domain=`: mostly
    simple ones, also tiny and large ones. Arrays are in C order, in Fortran order or not contiguous. Nested inputs
    (tuples, dicts) are drawn by overrides only.

    Args:
      op: The op.
      dtypes: What the inputs of one call may have for their dtype. Default: float32 and float64. Inputs whose domain is
        `integers` are int32, unless an integer dtype is given here.
      shapes: Draws one shape for each input. Default: from the signature.
      static: Draws static parameters by name. Default: from annotations (`bool`, `Literal`, an `Enum`), else the
        parameter's own default.
      domain: In the place of the op's own `domain=`.
      max_side: The largest size of a dimension.
      allow_empty: Whether arrays may be empty.
      smallest: Magnitudes below count as zero, or as this where zero is not allowed.
      largest: The largest magnitude of a number.
      allow_nan: Whether NaN is drawn where the domain is unbounded.
      allow_infinity: Whether infinities are drawn where the domain is unbounded.
      **overrides: Draw the inputs of these names, in the place of all that is said above.

    Returns:
      A strategy of `Arguments`: call `op(*drawn.args, **drawn.static)`.

    Raises:
      RegistrationError: A name is not one of the op's parameters, or the domain cannot be read.
      UnsupportedError: Nothing tells what a static parameter may be, or how many inputs there are.

    >>> from hypothesis import given
    >>> from tfpyop import differentiable_op
    >>> from tfpyop.testing import arguments
    >>> log = differentiable_op(lambda x: np.log(x), signature="()->()", domain="(0, inf)")
    >>> @given(arguments(log))
    ... def test_logarithms_are_finite(drawn):
    ...     assert np.isfinite(log(*drawn.args)).all()
    >>> test_logarithms_are_finite()
    """
    definition = definition_of(op)
    parameters = definition.parameters
    for name in [*overrides, *(static or {})]:
        if parameters.signature is not None and name not in parameters.signature.parameters:
            raise RegistrationError(
                f"it has no parameter {name!r}.",
                subject=subject_of(op),
                remedy=nearest(name, parameters.signature.parameters),
            )
    where = definition.domain if domain is None else Domain.read(domain, parameters.input_names)
    drawn_dtypes = [np.dtype(dtype) for dtype in dtypes or _FLOATING]
    for dtype in drawn_dtypes:
        if dtype_kind(dtype) not in "biufc":
            raise RegistrationError(
                f"dtypes= names {dtype}, of which nothing is drawn.",
                subject=subject_of(op),
                remedy="Text and other values are drawn by overrides, x=st.just(np.array([b'a'], object)).",
            )
    statics = _static_strategies(op, static or {})
    counts = _counts(op)
    magnitudes = Magnitudes(smallest, largest)
    special = [math.nan] * allow_nan + [math.inf, -math.inf] * allow_infinity

    @st.composite
    def draw_arguments(draw: Draw) -> Arguments:
        dtype = draw(st.sampled_from(drawn_dtypes))
        if shapes is None:
            drawn_shapes = draw(_shapes(op, draw(counts), max_side, allow_empty=allow_empty))
        else:
            drawn_shapes = draw(shapes)
        names = _names(op, len(drawn_shapes) if definition.n_inputs is None else definition.n_inputs)
        args = []
        for name, shape in zip(names, drawn_shapes, strict=True):
            interval = where.of(name)
            numbers = elements(interval, dtype, magnitudes, special=special)
            strategy = _arrays(input_dtype(dtype, interval), shape, numbers)
            args.append(draw(overrides.get(name, strategy)))
        return Arguments(tuple(args), {name: draw(strategy) for name, strategy in statics.items()})

    return draw_arguments()


def rows(op: Op[..., Any], arguments_of_row: Strategy[Arguments] | None, /) -> Strategy[Rows]:
    """Three rows: one example, another one of its shapes, and the first again.

    Args:
      op: The op.
      arguments_of_row: Draws the arguments of a row; where it draws two of other shapes, the first one is reversed.
        Default: `arguments(op)`, which is made to draw the same shapes twice.
    """
    if arguments_of_row is None:
        pairs = arguments(op).flatmap(lambda first: st.tuples(st.just(first), _alike(op, first)))
    else:
        pairs = st.tuples(arguments_of_row, arguments_of_row)
    return pairs.map(lambda pair: _as_rows(*pair))


def _alike(op: Op[..., Any], first: Arguments) -> Strategy[Arguments]:
    """Other arguments of the shapes and dtypes of an example."""
    dtypes = [value.dtype for value in first.args if is_differentiable(value.dtype)]
    static = {name: st.just(value) for name, value in first.static.items()}
    shapes = tuple(value.shape for value in first.args)
    return arguments(op, dtypes=dtypes[:1] or None, shapes=st.just(shapes), static=static)


def _as_rows(first: Arguments, second: Arguments) -> Rows:
    types = [[ArrayType.of(np.asarray(leaf)) for leaf in tf.nest.flatten(row.args)] for row in (first, second)]
    args = second.args if types[0] == types[1] else tf.nest.map_structure(np.flip, first.args)
    return Rows((first, Arguments(args, first.static), first))


def smooth_arguments(op: Op[..., Any], /, **options: Any) -> Strategy[Arguments]:
    """Arguments at which derivatives are checked: float64, not empty, of magnitudes that differences can resolve."""
    return arguments(op, **{"dtypes": [np.float64], "allow_empty": False, "smallest": 1e-2, "largest": 1e4, **options})


def cotangents(
    op: Op[..., Any], arguments: Arguments, /, *, largest: float = 1e3
) -> Strategy[tuple[Array | None, ...]]:
    """Cotangents for the outputs of one call.

    Args:
      op: The op.
      arguments: The arguments of the call, which is made to see its outputs.
      largest: The largest magnitude of a number.

    Returns:
      A strategy of tuples: for each output an array of its shape and dtype, None for those without derivative.
    """
    return _vectors(plain_outputs(op, arguments), largest)


def tangents(op: Op[..., Any], arguments: Arguments, /, *, largest: float = 1e3) -> Strategy[tuple[Array | None, ...]]:
    """Tangents for the inputs of one call.

    Args:
      op: The op.
      arguments: The arguments of the call.
      largest: The largest magnitude of a number.

    Returns:
      A strategy of tuples: for each input an array of its shape and dtype, None for those without derivative.
    """
    del op
    return _vectors([np.asarray(value) for value in arguments.args], largest)


def _vectors(like: Sequence[Array], largest: float) -> Strategy[tuple[Array | None, ...]]:
    def vector(values: Array) -> Strategy[Array | None]:
        if not is_differentiable(values.dtype):
            return st.none()
        numbers = elements(Interval(), values.dtype, Magnitudes(SMALLEST, largest))
        return hnp.arrays(values.dtype, values.shape, elements=numbers)

    return st.tuples(*map(vector, like))


def _counts(op: Op[..., Any]) -> Strategy[int]:
    """How many inputs a call has."""
    definition = definition_of(op)
    parameters = definition.parameters
    if definition.n_inputs is not None:
        return st.just(definition.n_inputs)
    if parameters.signature is None:
        raise UnsupportedError(
            "nothing tells how many inputs it has.", subject=subject_of(op), remedy="Give the op a signature=."
        )
    n_tensors = sum(parameter.default is not None for parameter in parameters.tensors)
    return st.just(n_tensors) if parameters.variadic is None else st.integers(n_tensors + 1, n_tensors + _MOST_VARIADIC)


def _names(op: Op[..., Any], count: int) -> list[str]:
    """The parameter that each input belongs to."""
    names = list(definition_of(op).parameters.input_names) or ["inputs"]
    return (names + names[-1:] * count)[:count]


def _shapes(op: Op[..., Any], count: int, max_side: int, *, allow_empty: bool) -> Strategy[tuple[tuple[int, ...], ...]]:
    """Shapes that fit the signature; one in six may be empty, and another one probably is."""
    full, maybe_empty, probably_empty = (1, max_side, 0), (0, max_side, 0), (0, 1, 1)
    kinds = st.sampled_from([*[full] * 4, maybe_empty, probably_empty] if allow_empty else [full])
    return kinds.flatmap(lambda kind: _sided_shapes(op, count, *kind))


def _sided_shapes(
    op: Op[..., Any], count: int, min_side: int, max_side: int, min_dims: int
) -> Strategy[tuple[tuple[int, ...], ...]]:
    """Shapes with such sides; loop dimensions, and those without a signature, number two at most."""
    signature = definition_of(op).signature
    if signature is None:
        shape = hnp.array_shapes(min_dims=min_dims, max_dims=2, min_side=min_side, max_side=max_side)
        return shape.map(lambda shape: (shape,) * count)
    if not count:
        return st.just(())
    inputs = signature.text.replace(" ", "").split("->")[0]
    drawn = hnp.mutually_broadcastable_shapes(
        signature=f"{inputs}->()", min_dims=min_dims, max_dims=2, min_side=min_side, max_side=max_side
    )
    return drawn.map(lambda broadcast: broadcast.input_shapes).filter(lambda shapes: _has_outputs(signature, shapes))


def _has_outputs(signature: Signature, shapes: Sequence[tuple[int, ...]]) -> bool:
    """Whether outputs have shapes at all: their arithmetic may give negative sizes."""
    try:
        signature.output_shapes(signature.bind(shapes))
    except (SignatureError, ZeroDivisionError):
        return False
    return True


def _arrays(dtype: DType, shape: tuple[int, ...], numbers: Strategy[Any]) -> Strategy[Array]:
    """Arrays in any memory layout."""
    arrays = hnp.arrays(dtype, shape, elements=numbers)
    if len(shape) == 0:
        return arrays
    return st.tuples(arrays, st.sampled_from(["C", "C", "F", "strided"])).map(lambda drawn: _laid_out(*drawn))


def _laid_out(array: Array, layout: str) -> Array:
    if layout == "F":
        return np.asfortranarray(array)
    if layout == "strided":
        wide = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
        wide[..., ::2] = array
        return wide[..., ::2]
    return array


def _static_strategies(op: Op[..., Any], given: Mapping[str, Strategy[Any]]) -> dict[str, Strategy[Any]]:
    """What draws each static parameter that is drawn at all."""
    definition = definition_of(op)
    parameters = definition.parameters
    if parameters.signature is None:
        return dict(given)
    hints = _hints(op.numpy)
    strategies = dict(given)
    inputs = {*parameters.input_names, "self", "cls"}
    for name, parameter in parameters.signature.parameters.items():
        if name in strategies or name in inputs or parameter.kind is parameter.VAR_KEYWORD:
            continue
        strategy = _annotated(hints.get(name))
        if strategy is not None:
            strategies[name] = strategy
        elif parameter.default is inspect.Parameter.empty:
            raise UnsupportedError(
                f"nothing tells what its static parameter {name!r} may be.",
                subject=subject_of(op),
                remedy=f"Annotate it (bool, Literal, an Enum), or pass static={{{name!r}: st.sampled_from([...])}}.",
            )
    return strategies


def _hints(function: Any) -> Mapping[str, Any]:
    try:
        return typing.get_type_hints(function)
    except Exception:  # annotations may name what is imported for type checkers only
        return {}


def _annotated(hint: Any) -> Strategy[Any] | None:
    if hint is bool:
        return st.booleans()
    if typing.get_origin(hint) is typing.Literal:
        return st.sampled_from(typing.get_args(hint))
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return st.sampled_from(list(hint))
    return None
