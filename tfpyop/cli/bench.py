"""`tfpyop bench`: the overhead of op calls over the bare function, by the size of the inputs."""

from __future__ import annotations

import argparse
import functools
import io
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from rich.progress import track

from tfpyop._atomic_files import write_file
from tfpyop._discovery import find_ops
from tfpyop._op import Op
from tfpyop._spec.coercion import Array
from tfpyop._spec.domain import Interval
from tfpyop._spec.signature_text import Core
from tfpyop._spec.size_terms import names_in
from tfpyop.cli._console import make_console, make_table, printing_aside
from tfpyop.cli._output import require_writable
from tfpyop.errors import RegistrationError, UnsupportedError, describe_arrays
from tfpyop.testing._modes import is_applicable
from tfpyop.testing._ops import is_unbound_method, spec_of
from tfpyop.testing._static import static_choices
from tfpyop.testing._validation import require_known_nesting

_N_ROUNDS = 7
_ROUND_SECONDS = 0.02
_LARGEST = 1e6

Times = Mapping[str, float]
"""Seconds per call, by the name of the call."""


def run(options: argparse.Namespace) -> int:
    """Measure one op, print a table, and draw a plot if requested."""
    target, png = options.op, options.png
    if png is not None:
        _require_picture(png)
    with printing_aside():
        ops = find_ops(target)
    if len(ops) > 1:
        raise RegistrationError(
            f"{target!r} defines several ops.", remedy=f"Name one, for example {target}:{next(iter(ops))}."
        )
    [op] = ops.values()
    _require_served(op)
    sizes = [10**power for power in range(len(str(options.max_size)))]
    measured = {}
    for size in track(sizes, description=f"{target}", console=make_console(is_error=True), transient=True):
        arrays = inputs_of(op, size)
        measured[max(array.size for array in arrays)] = _times(op, arrays)
    _print(op, measured)
    if png is not None:
        _draw(op, measured, png)
    return 0


def _require_picture(path: str) -> None:
    """Raise RegistrationError if the plot cannot be written, before the measurement."""
    from matplotlib.figure import Figure

    require_writable(path)
    try:
        _picture(Figure(), path)
    except ValueError as error:
        raise RegistrationError(f"{path!r} cannot be written: {error}.", remedy="Give another path.") from None


def _require_served(op: Op[..., Any]) -> None:
    """Raise RegistrationError if the function rejects the inputs of the measurement."""
    arrays, static = inputs_of(op, 1), static_of(op)
    try:
        args, keywords = spec_of(op).parameters.call_arguments([tf.constant(array) for array in arrays], static)
        op(*args, **keywords)
    except Exception as error:
        raise RegistrationError(
            "the op raises for the inputs of the measurement.",
            got=f"{describe_arrays(arrays)}: {type(error).__name__}: {error}",
            subject=spec_of(op).subject,
            remedy="Pass signature= and domain= to the op. Ops that take tuples or dicts cannot be measured.",
        ) from None


def inputs_of(op: Op[..., Any], size: int) -> list[Array]:
    """Return inputs of about `size` elements, in the op's domain.

    The core dimensions share one size. Inputs without core dimensions have one loop dimension.

    Raises:
      TfpyopError: The number or the nesting of the inputs cannot be inferred, or the op is an unbound method.
    """
    spec = spec_of(op)
    require_known_nesting(op, {})
    names, signature = spec.parameters.input_names, spec.signature
    if is_unbound_method(op):
        raise UnsupportedError(
            "the op is an unbound method.",
            subject=spec.subject,
            remedy="Create an instance in the module, and bind its op to a name: f = instance.method.",
        )
    if signature is None and not names:
        raise RegistrationError(
            "cannot infer the number of inputs.", subject=spec.subject, remedy="Pass signature= to the op."
        )
    cores: Sequence[Core] = [()] * len(names) if signature is None else signature.inputs
    named = [[names_in(dimension.term) for dimension in core] for core in cores]
    rank = max((sum(map(bool, core)) for core in named), default=0)
    side = max(1, round(size ** (1 / max(rank, 1))))
    sides = {name: side for core in named for each in core for name in each}
    sizes = [tuple(max(dimension.size(sides) or 0, 0) for dimension in core) for core in cores]
    loop = () if rank else (max(1, size // max(map(math.prod, sizes), default=1)),)
    generator = np.random.default_rng(0)
    arrays = []
    for number, core in enumerate(sizes):
        name = names[min(number, len(names) - 1)] if names else ""
        arrays.append(_values(spec.domain.of(name), loop + core, generator))
    return arrays


def static_of(op: Op[..., Any]) -> dict[str, Any]:
    """Return a value for each static parameter without a default: the first value that its annotation allows.

    Raises:
      RegistrationError: No value can be inferred.
    """
    parameters, values = spec_of(op).parameters.static_parameters, {}
    for name, choices in static_choices(op).items():
        if parameters[name].default is not parameters[name].empty:
            continue
        if choices is None:
            raise RegistrationError(
                f"cannot choose a value for static parameter {name!r}: it has no default.",
                subject=spec_of(op).subject,
                remedy="Add a default, or annotate the parameter (bool, Literal, an Enum).",
            )
        values[name] = choices[0]
    return values


def _values(interval: Interval, shape: tuple[int, ...], generator: np.random.Generator) -> Array:
    """Return random numbers of moderate magnitude in an interval."""
    nearer_end = max(interval.low, -interval.high, 0.0)
    largest = max(_LARGEST, 2 * nearer_end)
    low = max(interval.low, -largest) if np.isfinite(interval.low) else min(interval.high, 1.0) - 2.0
    high = min(interval.high, largest) if np.isfinite(interval.high) else max(low, 0.0) + 2.0
    if interval.is_integer:
        first, last = int(max(interval.first_integer, low)), int(min(interval.last_integer, high))
        is_single = max(abs(first), abs(last)) < 2**31
        return generator.integers(first, last, shape, np.int32 if is_single else np.int64, endpoint=True)
    margin = 0.05 * (high - low)
    is_single = max(-low, high) < float(np.finfo(np.float32).max)
    return generator.uniform(low + margin, high - margin, shape).astype(np.float32 if is_single else np.float64)


def _times(op: Op[..., Any], arrays: Sequence[Array]) -> Times:
    parameters, static = spec_of(op).parameters, static_of(op)
    tensors = [tf.constant(array) for array in arrays]
    more = {"out": None} if parameters.takes_out else {}
    numpy_args, keywords = parameters.call_arguments(arrays, static)
    args, _ = parameters.call_arguments(tensors, static)
    calls: dict[str, Callable[[], Any]] = {
        "numpy": lambda: op.numpy(*numpy_args, **keywords, **more),
        "eager": lambda: op(*args, **keywords),
    }
    for mode, is_compiled in (("graph", False), ("XLA", True)):
        if is_applicable(op, mode):
            traced = tf.function(lambda *args: op(*args, **keywords), autograph=False, jit_compile=is_compiled)
            calls[mode] = functools.partial(traced, *args)
    counts = {name: _count(call) for name, call in calls.items()}
    rounds = [{name: _seconds(call, counts[name]) for name, call in calls.items()} for _ in range(_N_ROUNDS)]
    return {name: statistics.median(times[name] for times in rounds) for name in calls}


def _count(call: Callable[[], Any]) -> int:
    """Return the number of calls in a round."""
    call()
    call()
    return max(1, min(1000, int(_ROUND_SECONDS / max(_seconds(call, 1), 1e-7))))


def _seconds(call: Callable[[], Any], count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start) / count


def _print(op: Op[..., Any], measured: Mapping[int, Times]) -> None:
    names = list(next(iter(measured.values())))
    table = make_table("elements", *names, title=f"{op.name}: microseconds per call, and overhead over numpy")
    for size, times in measured.items():
        bare = times["numpy"]
        cells = [
            f"{times[name] * 1e6:.1f}" + ("" if name == "numpy" else f" ({(times[name] - bare) * 1e6:+.1f})")
            for name in names
        ]
        table.add_row(f"{size:,}", *cells)
    for column in table.columns:
        column.justify = "right"
    make_console().print(table)


def _draw(op: Op[..., Any], measured: Mapping[int, Times], path: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot(
        xscale="log",
        yscale="log",
        xlabel="elements of the largest input",
        ylabel="microseconds per call",
        title=op.name,
    )
    for name in next(iter(measured.values())):
        axes.plot(list(measured), [times[name] * 1e6 for times in measured.values()], marker="o", label=name)
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    write_file(path, _picture(figure, path))


def _picture(figure: Any, path: str) -> bytes:
    """Draw a figure in the format of its file extension."""
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=150, format=Path(path).suffix.removeprefix(".") or None)
    return drawn.getvalue()
