"""Strategies for the arguments of an op, its cotangents and tangents, derived from its signature and domain."""

from __future__ import annotations

import inspect
import itertools
import math
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
from hypothesis import strategies as st

from tfpyop import Op
from tfpyop._spec.coercion import Array, DType, dtype_kind, is_differentiable, parse_dtype
from tfpyop._spec.domain import Domain, Interval
from tfpyop._spec.outputs import ArraySpec
from tfpyop._spec.tree import flatten
from tfpyop.errors import RegistrationError, UnsupportedError, naming
from tfpyop.testing._examples import Arguments, Rows
from tfpyop.testing._numbers import SMALLEST, Magnitudes, elements, input_dtype
from tfpyop.testing._ops import plain_outputs, spec_of, subject_of
from tfpyop.testing._shapes import Shapes, presences, signature_of
from tfpyop.testing._shapes import shapes as fitting_shapes
from tfpyop.testing._static import static_choices
from tfpyop.testing._validation import (
    require_arguments,
    require_known_nesting,
    require_limits,
    require_numbers,
    require_parameters,
    require_shapes,
    require_strategy,
)

Draw = st.DrawFn
Strategy = st.SearchStrategy

_FLOATING = (np.float32, np.float64)
_LARGEST = 1e6
_MAGNITUDES = Magnitudes(SMALLEST, _LARGEST)


def arguments(
    op: Op[..., Any],
    /,
    *,
    dtypes: Any = _FLOATING,
    shapes: Strategy[Shapes] | None = None,
    domain: str | Mapping[str, str | None] | None = None,
    max_side: int = 3,
    allow_empty: bool = True,
    smallest: float = SMALLEST,
    largest: float = _LARGEST,
    allow_nan: bool = False,
    allow_infinity: bool = False,
    **overrides: Strategy[Any],
) -> Strategy[Arguments]:
    """Draw arguments of calls that the op should support.

    Shapes match the signature: loop dimensions that broadcast, including missing, empty and size-one dimensions, and
    matching core dimensions, which are rarely empty. Optional inputs are sometimes None, and a repeated core stands for
    one to three inputs. Without a signature, all inputs have one shape. Values lie in the op's `domain=`: mostly simple
    values, also tiny and large values. Arrays are in C order, in Fortran order or not contiguous. Static parameters are
    drawn from annotations (`bool`, `Literal`, an `Enum`), else they keep their default. Inputs that are tuples or dicts
    are only drawn by overrides.

    Args:
      op: The op.
      dtypes: The dtypes of inputs: one or several, for example `np.float32`, `"complex128"` or `tf.int64`. Each call
        uses one of them. Default: float32 and float64. Inputs with the domain `integers` are int32, or int64 if the
        domain contains no int32, unless an integer dtype is given here.
      shapes: Strategy for a tuple with one shape for each input, for example `st.just(((2, 3), (3,)))`, and None for an
        optional input that is left out. Default: shapes from the signature.
      domain: Replaces the op's own `domain=`, in the same notation.
      max_side: The largest size of a dimension.
      allow_empty: Whether arrays may be empty.
      smallest: Smaller magnitudes are replaced by zero, or by this value if zero is not in the domain.
      largest: The largest magnitude of a number.
      allow_nan: Whether NaN is drawn where the domain is unbounded.
      allow_infinity: Whether infinities are drawn where the domain is unbounded.
      **overrides: Strategies for inputs or static parameters by name, for example `axis=st.sampled_from([0, 1])`. They
        replace everything above.

    Returns:
      A strategy of `Arguments`: call `op(*drawn.args, **drawn.static)`.

    Raises:
      RegistrationError: The op has no parameter of a name, an override is not a strategy, a dtype or the domain is
        invalid, or the limits or the domain contain no values.
      UnsupportedError: The values of a static parameter, the number of inputs or their nesting cannot be inferred.

    >>> import numpy as np
    >>> from hypothesis import given
    >>> from tfpyop import differentiable_op
    >>> from tfpyop.testing import arguments
    >>> log = differentiable_op(lambda x: np.log(x), signature="()->()", domain="(0, inf)")
    >>> @given(arguments(log))
    ... def test_logarithms_are_finite(drawn):
    ...     assert np.isfinite(log(*drawn.args)).all()
    >>> test_logarithms_are_finite()
    """
    options = _Options(
        dtypes, shapes, domain, max_side, allow_empty, Magnitudes(smallest, largest), allow_nan, allow_infinity
    )
    require_parameters(op, overrides, options=inspect.signature(arguments).parameters)
    return _arguments(op, options, overrides)


@dataclass(frozen=True, slots=True)
class _Options:
    """The options of `arguments`."""

    dtypes: Any = _FLOATING
    shapes: Strategy[Shapes] | None = None
    domain: str | Mapping[str, str | None] | None = None
    max_side: int = 3
    allow_empty: bool = True
    magnitudes: Magnitudes = _MAGNITUDES
    allow_nan: bool = False
    allow_infinity: bool = False


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a strategy of arguments, for draws that do not use Hypothesis.

    Attributes:
      options: The options of `arguments`.
      domain: The domain of the inputs.
      dtypes: The dtypes of the inputs.
      overridden: The names of the parameters with strategies of their own.
    """

    options: _Options
    domain: Domain
    dtypes: tuple[DType, ...]
    overridden: frozenset[str]


_PARTS: weakref.WeakKeyDictionary[Strategy[Arguments], Parts] = weakref.WeakKeyDictionary()


def parts_of(strategy: Strategy[Arguments]) -> Parts | None:
    """Return the parts of a strategy that `arguments` returned; None for other strategies."""
    return _PARTS.get(strategy)


def _arguments(op: Op[..., Any], options: _Options, overrides: Mapping[str, Strategy[Any]]) -> Strategy[Arguments]:
    spec = spec_of(op)
    for name, strategy in {**overrides, **({} if options.shapes is None else {"shapes": options.shapes})}.items():
        require_strategy(op, name, strategy)
    require_limits(op, options.max_side, options.magnitudes)
    given = options.domain
    where = spec.domain if given is None else Domain.read(given, spec.parameters.input_names)
    drawn_dtypes = _read_dtypes(op, options.dtypes)
    for dtype, name in itertools.product(drawn_dtypes, spec.parameters.input_names):
        if name not in overrides:
            require_numbers(op, name, where.of(name), dtype)
    statics = _static_strategies(op, overrides)
    inputs = presences(op)
    require_known_nesting(op, overrides)
    special = [math.nan] * options.allow_nan + [math.inf, -math.inf] * options.allow_infinity

    @st.composite
    def draw_arguments(draw: Draw) -> Arguments:
        dtype = draw(st.sampled_from(drawn_dtypes))
        drawn_shapes: Sequence[tuple[int, ...] | None]
        if options.shapes is None:
            is_present = draw(inputs)
            possible = fitting_shapes(op, is_present, options.max_side, allow_empty=options.allow_empty)
            drawn_shapes = draw(possible)
        else:
            drawn_shapes = draw(options.shapes)
            require_shapes(op, drawn_shapes)
            signature = signature_of(op, [shape is not None for shape in drawn_shapes])
            if signature is not None:
                signature.bind([shape for shape in drawn_shapes if shape is not None])

        def draw_input(name: str, shape: tuple[int, ...] | None) -> Any:
            if name in overrides:
                return draw(overrides[name])
            if shape is None:
                return None
            own_dtype = input_dtype(dtype, where.of(name))
            numbers = elements(where.of(name), own_dtype, options.magnitudes, special=special)
            return draw(_arrays(own_dtype, shape, numbers))

        args = _drawn_inputs(op, drawn_shapes, draw_input)
        return Arguments(args, {name: draw(strategy) for name, strategy in statics.items()})

    strategy = draw_arguments()
    _PARTS[strategy] = Parts(options, where, tuple(drawn_dtypes), frozenset(overrides))
    return strategy


def rows(op: Op[..., Any], arguments_of_row: Strategy[Arguments] | None, /) -> Strategy[Rows]:
    """Draw three rows: one example, another example of the same shapes, and this example again.

    Args:
      op: The op.
      arguments_of_row: Strategy for the arguments of a row. If it draws two examples with different shapes or static
        values, the second row is the first row reversed. Default: `arguments(op)` with the same shapes in both rows.
    """
    if arguments_of_row is None:
        pairs = arguments(op).flatmap(lambda first: st.tuples(st.just(first), _alike(op, first)))
    else:
        pairs = st.tuples(arguments_of_row, arguments_of_row)
    return pairs.map(lambda pair: _as_rows(*pair))


def pairs(op: Op[..., Any], arguments_of_call: Strategy[Arguments] | None, /) -> Strategy[Rows]:
    """Draw two calls for checks of derivatives, with the same shapes and static values if possible.

    Args:
      op: The op.
      arguments_of_call: Strategy for the arguments of one call. Default: as for other checks of derivatives.
    """
    if arguments_of_call is not None:
        return rows(op, arguments_of_call)
    return (
        smooth_arguments(op)
        .flatmap(lambda first: st.tuples(st.just(first), _alike(op, first)))
        .map(lambda pair: _as_rows(*pair))
    )


def _alike(op: Op[..., Any], first: Arguments) -> Strategy[Arguments]:
    """Draw other arguments with the shapes and dtypes of an example."""
    dtypes = [value.dtype for value in first.leaves if is_differentiable(value.dtype)]
    shapes = st.just(tuple(None if value is None else value.shape for value in first.args))
    static = {name: st.just(value) for name, value in first.static.items()}
    return _arguments(op, _Options(dtypes[:1] or _FLOATING, shapes), static)


def _as_rows(first: Arguments, second: Arguments) -> Rows:
    types = [[ArraySpec.of(np.asarray(leaf)) for leaf in row.leaves] for row in (first, second)]
    is_alike = types[0] == types[1] and first.missing == second.missing and repr(first.static) == repr(second.static)
    other = Arguments(second.args if is_alike else first.map(np.flip).args, first.static)
    return Rows((first, other, other))


def smooth_arguments(op: Op[..., Any], /, **options: Any) -> Strategy[Arguments]:
    """Draw arguments for derivative checks: float64, not empty, with magnitudes that differences can resolve."""
    return arguments(op, **{"dtypes": [np.float64], "allow_empty": False, "smallest": 1e-2, "largest": 1e4, **options})


def cotangents(
    op: Op[..., Any], arguments: Arguments, /, *, largest: float = 1e3
) -> Strategy[tuple[Array | None, ...]]:
    """Draw cotangents for the outputs of one call.

    Args:
      op: The op.
      arguments: The arguments of the call. The function is called to get its outputs.
      largest: The largest magnitude of a number.

    Returns:
      A strategy of tuples: for each output an array of its shape and dtype, or None for outputs without derivatives.

    Raises:
      RegistrationError: `arguments` is not an instance of `Arguments`.
    """
    require_arguments(op, arguments)
    require_limits(op, 1, Magnitudes(SMALLEST, largest))
    return _vectors(plain_outputs(op, arguments), largest)


def tangents(op: Op[..., Any], arguments: Arguments, /, *, largest: float = 1e3) -> Strategy[tuple[Array | None, ...]]:
    """Draw tangents for the inputs of one call.

    Args:
      op: The op.
      arguments: The arguments of the call.
      largest: The largest magnitude of a number.

    Returns:
      A strategy of tuples: for each input an array of its shape and dtype, or None for inputs without derivatives.

    Raises:
      RegistrationError: `arguments` is not an instance of `Arguments`.
    """
    require_arguments(op, arguments)
    require_limits(op, 1, Magnitudes(SMALLEST, largest))
    return _vectors([np.asarray(value) for value in flatten(arguments.args)[0]], largest)


def _vectors(like: Sequence[Array], largest: float) -> Strategy[tuple[Array | None, ...]]:
    def vector(values: Array) -> Strategy[Array | None]:
        if not is_differentiable(values.dtype):
            return st.none()
        numbers = elements(Interval(), values.dtype, Magnitudes(SMALLEST, largest))
        return hnp.arrays(values.dtype, values.shape, elements=numbers)

    return st.tuples(*map(vector, like))


def _drawn_inputs(
    op: Op[..., Any],
    shapes: Sequence[tuple[int, ...] | None],
    draw_input: Callable[[str, tuple[int, ...] | None], Any],
) -> tuple[Any, ...]:
    """Return one value for each parameter. With a signature, a nested value counts as the inputs that it contains."""
    n_known = spec_of(op).n_inputs
    names = _parameter_names(op)
    args: list[Any] = []
    position = 0
    while position < len(shapes):
        name = next(names, None)
        if name is None:
            break
        args.append(draw_input(name, shapes[position]))
        position += 1 if n_known is None or args[-1] is None else len(flatten((args[-1],))[0])
    is_repeated = n_known is None and spec_of(op).signature is not None
    if position != len(shapes) and not is_repeated:  # an override decides how often a core is repeated
        raise RegistrationError(
            "the overrides draw a number of inputs that differs from the signature.",
            expected=f"{len(shapes)} inputs",
            got=f"{position}",
            subject=subject_of(op),
            remedy="Draw one value for each input. A tuple or dict counts as one input for each value in it.",
        )
    return tuple(args)


def _parameter_names(op: Op[..., Any]) -> Iterator[str]:
    """Return the names of the input parameters. The name of variadic or unknown parameters repeats forever."""
    parameters = spec_of(op).parameters
    if parameters.input_names and parameters.variadic is None:
        return iter(parameters.input_names)
    return itertools.chain(parameters.input_names, itertools.repeat((parameters.input_names or ("inputs",))[-1]))


def _static_strategies(op: Op[..., Any], overrides: Mapping[str, Strategy[Any]]) -> dict[str, Strategy[Any]]:
    """Return the strategy of each static parameter that is drawn."""
    inputs = spec_of(op).parameters.input_names
    strategies = {name: strategy for name, strategy in overrides.items() if name not in inputs}
    for name, choices in static_choices(op).items():
        if name in strategies:
            continue
        if choices is None:
            raise UnsupportedError(
                f"cannot infer a strategy for static parameter {name!r}.",
                subject=subject_of(op),
                remedy="Annotate the parameter (bool, Literal, an Enum), or pass a strategy: arguments(op, "
                f"{name}=st.just(...)).",
            )
        strategies[name] = st.sampled_from(choices)
    return strategies


def _read_dtypes(op: Op[..., Any], dtypes: Any) -> list[DType]:
    several = dtypes if isinstance(dtypes, Sequence) and not isinstance(dtypes, str) else [dtypes]
    with naming(subject_of(op)):
        read = [np.dtype(parse_dtype(dtype)) for dtype in several]
    for dtype in read:
        if dtype_kind(dtype) not in "biufc":
            raise RegistrationError(
                f"dtypes= contains {'text' if dtype.kind == 'O' else dtype}, which has no default strategy.",
                subject=subject_of(op),
                remedy="For text and other values, pass a strategy by name: x=st.just(np.array([b'a'], object)).",
            )
    if not read:
        raise RegistrationError(
            "dtypes= is empty.", subject=subject_of(op), remedy='Pass for example dtypes=["float64"].'
        )
    return read


def _arrays(dtype: DType, shape: tuple[int, ...], numbers: Strategy[Any]) -> Strategy[Array]:
    """Draw arrays in any memory layout."""
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
