"""Sweeps of an op: the points that its strategy allows, and the rule and the function on all of them at once."""

from __future__ import annotations

import contextlib
import itertools
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf
from hypothesis.strategies import SearchStrategy

from tfpyop import Op
from tfpyop._numdiff.directional import Function
from tfpyop._registry.op_def import Transform
from tfpyop._spec.coercion import Array, dtype_kind, is_differentiable
from tfpyop.testing._check_runner import CheckRunner
from tfpyop.testing._comparisons import Vectors, arrays_of
from tfpyop.testing._derivatives import host_function, jvp, vjp
from tfpyop.testing._examples import Arguments
from tfpyop.testing._many_points import Batch, Where, batches
from tfpyop.testing._numbers import SMALLEST, input_dtype
from tfpyop.testing._ops import flat_function, spec_of
from tfpyop.testing._shapes import signature_of
from tfpyop.testing._strategies import Parts, parts_of
from tfpyop.testing._sweep import Products, Sweep, row_products

_MOST_STATICS = 3
_MOST_KINDS = 4
"""Maximum number of combinations of optional inputs."""
_MOST_SECONDS = 4.0
"""The time after which no further point is judged."""
_DEFAULT_SIDE = 3
"""The default of `max_side`. A strategy with this value does not limit the sizes of a sweep."""


class Sweeper:
    """Judge points of an op that a sweep finds suspicious, in addition to the examples of a strategy.

    Args:
      check: The check.
      op: The op.
      strategy: The strategy of the check. Nothing is swept if `arguments` did not return it, because other strategies
        may relate inputs to each other.
      seed: The seed of the check.
    """

    def __init__(
        self, check: CheckRunner, op: Op[..., Any], strategy: SearchStrategy[Arguments], *, seed: int | None
    ) -> None:
        self._check, self._op = check, op
        self._strategy = strategy
        self._statics: dict[str, Mapping[str, Any]] = {}
        self._generator = np.random.default_rng([zlib.crc32(op.name.encode()), abs(seed or 0)])

    def watching(self, body: Callable[[Arguments], None]) -> Callable[[Arguments], None]:
        """Return the body of a check that also notes the static values that are drawn."""

        def watched(arguments: Arguments) -> None:
            self.note(arguments)
            body(arguments)

        return watched

    def note(self, arguments: Arguments) -> None:
        """Note the static values of an example."""
        if len(self._statics) < _MOST_STATICS:
            self._statics.setdefault(repr(arguments.static), arguments.static)

    def run(
        self,
        products: Products,
        body: Callable[[Arguments], None],
        *,
        function: Callable[[Batch], Function] | None = None,
        **limits: Any,
    ) -> None:
        """Sweep, and judge the suspicious points.

        Args:
          products: The rule.
          body: The check of one example.
          function: Returns the function for a batch. Default: the function of the op.
          **limits: Limits of the sweep.
        """
        if not self._check.has_judged:
            return
        functions = function or (lambda batch: host_function(self._op, batch.as_arguments))
        suspects = Sweep(functions, products, self._generator, **limits).suspects(self.batches())
        self.judge([batch.arguments(row) for batch, row in suspects], body)

    def run_rows(self, different_rows: Callable[[Batch], Array], body: Callable[[Arguments], None]) -> None:
        """Judge the first row in each batch for which a comparison returns rows; skip batches for which it raises."""
        examples = []
        for batch in self.batches() if self._check.has_judged else ():
            with contextlib.suppress(Exception), np.errstate(all="ignore"):  # the function may refuse a point
                examples += [batch.arguments(row) for row in different_rows(batch)[:1]]
        self.judge(examples, body)

    def judge(self, examples: Sequence[Arguments], body: Callable[[Arguments], None]) -> None:
        """Run the body of a check on examples, in addition to the examples of the strategy."""
        self._check.judge_all(examples, body, most_seconds=_MOST_SECONDS)

    def batches(self) -> Iterator[Batch]:
        """Yield the batches of points that the strategy of the check allows."""
        parts, spec = parts_of(self._strategy), spec_of(self._op)
        names = list(spec.parameters.input_names)
        if parts is None or parts.options.shapes is not None or parts.overridden & set(names):
            return
        signature = spec.signature
        n_inputs = 0 if signature is None else len(signature.inputs)
        if (
            signature is None
            or not n_inputs
            or len(names) > n_inputs
            or (
                (len(names) < n_inputs or signature.marks.repeated is not None)
                and names
                and not spec.parameters.variadic
            )
        ):
            return
        names += [names[-1] if names else "inputs"] * (n_inputs - len(names))
        choices = [(True, False) if n in signature.marks.optional else (True,) for n in range(n_inputs)]
        for flags in itertools.islice(itertools.product(*choices), _MOST_KINDS):
            if any(flags):
                yield from self._batches_of(parts, names, flags)

    def _batches_of(self, parts: Parts, names: Sequence[str], flags: tuple[bool, ...]) -> Iterator[Batch]:
        """Yield the batches of calls with some of the inputs."""
        spec, signature = spec_of(self._op), signature_of(self._op, flags)
        names = [name for name, flag in zip(names, flags, strict=True) if flag]
        widest = max(parts.dtypes, key=lambda dtype: (is_differentiable(dtype), dtype.kind == "c", dtype.itemsize))
        wide = np.dtype(np.complex128 if dtype_kind(widest) == "c" else np.float64)
        dtype = wide if is_differentiable(widest) else widest
        magnitudes, most = parts.options.magnitudes, parts.options.max_side
        intervals = [parts.domain.of(name) for name in names]
        where = Where(
            intervals,
            [input_dtype(dtype, interval) for interval in intervals],
            smallest=max(1e-6, 0 if magnitudes.smallest in (SMALLEST, 1e-2) else magnitudes.smallest),
            largest=min(1e4, magnitudes.largest),
            largest_side=64 if most == _DEFAULT_SIDE else most,
        )
        for static in list(self._statics.values()):
            for batch in batches(signature, where, self._generator, is_looped=not spec.is_vectorized):
                yield replace(batch, static=static, is_present=flags)

    def by_vjp(self, batch: Batch, outputs: Sequence[Array], weights: Vectors, direction: Vectors) -> Any:
        """Return the products of the cotangents of each row with a direction."""
        call = flat_function(self._op, batch.as_arguments)
        gradients = arrays_of(vjp(call, [tf.constant(array) for array in batch.arrays], weights))
        return row_products(gradients, direction, batch)

    def by_jvp(self, batch: Batch, outputs: Sequence[Array], weights: Vectors, direction: Vectors) -> Any:
        """Return the products of the tangents of each row with the cotangents of the outputs."""
        call = flat_function(self._op, batch.as_arguments, Transform.JVP)
        tangents = jvp(call, [tf.constant(array) for array in batch.arrays], direction)
        return row_products(weights, tangents, batch)
