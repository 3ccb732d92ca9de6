"""Validation: errors for invalid arguments of the testing package."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Mapping
from typing import Any

from hypothesis.strategies import SearchStrategy

from tfpyop import Op
from tfpyop._spec.coercion import DType
from tfpyop._spec.domain import Interval
from tfpyop.errors import RegistrationError, UnsupportedError, nearest
from tfpyop.testing._examples import Arguments
from tfpyop.testing._numbers import Magnitudes, input_dtype, within
from tfpyop.testing._ops import spec_of, subject_of


def require_arguments(op: Op[..., Any], value: Any) -> None:
    """Raise RegistrationError for an example that is not an instance of Arguments."""
    is_call = isinstance(value, Arguments) and isinstance(value.args, tuple) and isinstance(value.static, Mapping)
    if not is_call:
        raise RegistrationError(
            "an example is not an instance of Arguments.",
            got=f"{value!r:.80}",
            subject=subject_of(op),
            remedy="Use a strategy of tfpyop.testing.Arguments: arguments(op), or st.builds(lambda x: "
            "Arguments((x,)), ...).",
        )


def require_count(op: Op[..., Any], max_examples: Any) -> None:
    """Raise RegistrationError for an invalid number of examples."""
    if max_examples is not None and not (type(max_examples) is int and max_examples > 0):
        raise RegistrationError(
            "max_examples= is not a positive integer.",
            expected="an integer of 1 or more",
            got=repr(max_examples),
            subject=subject_of(op),
        )


def require_seed(op: Op[..., Any], seed: Any) -> None:
    """Raise RegistrationError for a seed that is not an integer."""
    if seed is not None and type(seed) is not int:
        raise RegistrationError(
            "seed= is not an integer.", got=repr(seed), subject=subject_of(op), remedy="Pass for example seed=1."
        )


def require_shapes(op: Op[..., Any], shapes: Any) -> None:
    """Raise RegistrationError for a value that is not a tuple of shapes, one for each input."""
    is_shapes = isinstance(shapes, tuple | list) and all(
        shape is None
        or (isinstance(shape, tuple | list) and all(isinstance(size, int) and size >= 0 for size in shape))
        for shape in shapes
    )
    if not is_shapes:
        raise RegistrationError(
            "the shapes= strategy drew a value that is not a tuple of shapes.",
            expected="one shape for each input, for example ((2, 3), (3,)) or ((2,),)",
            got=f"{shapes!r:.80}",
            subject=subject_of(op),
        )


def require_strategy(op: Op[..., Any], name: str, value: Any) -> None:
    """Raise RegistrationError for a value that is not a strategy."""
    if isinstance(value, SearchStrategy):
        return
    remedy = f"To draw this value, write {name}=st.just({value!r:.40}), with hypothesis.strategies imported as st."
    if isinstance(value, list):
        remedy = f"Write {name}=st.sampled_from({value!r:.40}), with hypothesis.strategies imported as st."
    if name == "arguments":
        remedy = "Pass the result of tfpyop.testing.arguments(op), or another strategy of Arguments."
    raise RegistrationError(
        f"{name}= is not a Hypothesis strategy.", got=f"{value!r:.80}", subject=subject_of(op), remedy=remedy
    )


def require_parameters(op: Op[..., Any], names: Iterable[str], *, options: Iterable[str]) -> None:
    """Raise RegistrationError for a name that is neither a parameter of the op nor an option."""
    signature = spec_of(op).parameters.signature
    if signature is None or any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values()):
        return
    for name in names:
        if name not in signature.parameters:
            raise RegistrationError(
                f"the op has no parameter {name!r}.",
                subject=subject_of(op),
                remedy=nearest(name, [*signature.parameters, *options]),
            )


def require_limits(op: Op[..., Any], max_side: int, magnitudes: Magnitudes) -> None:
    """Raise RegistrationError for limits that are not numbers or allow no values."""
    smallest, largest = magnitudes.smallest, magnitudes.largest
    for name, limit in {"max_side": max_side, "smallest": smallest, "largest": largest}.items():
        if not isinstance(limit, numbers.Integral if name == "max_side" else numbers.Real):
            raise RegistrationError(
                f"{name}= is not {'an integer' if name == 'max_side' else 'a number'}.",
                got=f"{limit!r:.80}",
                subject=subject_of(op),
                remedy="To draw a parameter of the op with this name, use a strategy of Arguments: "
                "st.builds(Arguments, ...).",
            )
    if max_side < 1:
        raise RegistrationError(
            f"max_side={max_side} allows no sizes.", subject=subject_of(op), remedy="Pass 1 or more."
        )
    if not 0 <= smallest < largest:
        raise RegistrationError(
            "smallest= is not less than largest=.",
            expected="0 <= smallest < largest",
            got=f"smallest={smallest:g}, largest={largest:g}",
            subject=subject_of(op),
        )


def require_numbers(op: Op[..., Any], name: str, interval: Interval, dtype: DType) -> None:
    """Raise RegistrationError for a domain without values of a dtype."""
    if within(interval, input_dtype(dtype, interval)).is_empty:
        raise RegistrationError(
            f"the domain of {name!r} contains no {input_dtype(dtype, interval)} value.",
            got=f"numbers from {interval.low!r} to {interval.high!r}",
            subject=subject_of(op),
            remedy="Pass other dtypes=, or another domain=.",
        )


def require_known_nesting(op: Op[..., Any], overrides: Mapping[str, Any]) -> None:
    """Raise UnsupportedError if inputs are nested and their nesting is unknown."""
    spec = spec_of(op)
    names, n_inputs = spec.parameters.input_names, spec.n_inputs
    is_repeated = spec.signature is not None and spec.signature.marks.repeated is not None
    is_one_each = not is_repeated and (n_inputs is None or n_inputs <= len(names))
    is_flat = spec.parameters.variadic is not None or not names or is_one_each
    if is_flat or any(name in overrides for name in names):
        return
    raise UnsupportedError(
        f"cannot infer how the {'repeated' if is_repeated else n_inputs} inputs are nested in "
        f"{', '.join(map(repr, names))}.",
        subject=subject_of(op),
        remedy="Pass strategies for these parameters, for example arguments(op, "
        f"{names[0]}=st.fixed_dictionaries({{...}})).",
    )
