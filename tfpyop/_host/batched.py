"""Run an op over batches as one host call, for `vectorized_map` and Jacobians.

Every level of batching specifies which inputs have a batch axis. The elements of the batch share all other inputs. An
op with a signature gets the batch axes as further loop dimensions, in one call of the user's function. An op without a
signature, or whose inputs omit optional core dimensions, is called once for each element.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfpyop._host.function import HostFunction, Plan
from tfpyop._host.kept_objects import copied, repeated, stacked
from tfpyop._spec.coercion import Array
from tfpyop._spec.outputs import ArraySpec, ArraySpecs, describe_types
from tfpyop._spec.payload import InAxes
from tfpyop._spec.signature import InputDimension, Signature, SymbolicShape, SymbolicSize
from tfpyop._spec.size_terms import fold
from tfpyop.errors import ContractError


class BatchedHostFunction(HostFunction):
    """Run a host function over batches.

    In the methods, a row is one element of the batch at all levels: the arguments of one unbatched call.

    Args:
      unbatched: The host function of one row.
      signature: The signature of its op; None if the op has no signature.
      in_axes: Whether each input has a batch axis, for each level.
    """

    def __init__(self, unbatched: HostFunction, signature: Signature | None, in_axes: tuple[InAxes, ...]) -> None:
        super().__init__(
            unbatched.subject,
            function=unbatched,
            output_spec=unbatched.output_spec,
            is_stateful=unbatched.is_stateful,
            what=unbatched.what,
        )
        self.unbatched = unbatched
        self.signature = signature
        self.in_axes = in_axes

    def infer_outputs(self, inputs: ArraySpecs) -> list[ArraySpec]:
        """Return the output specs of one row, with the batch axes in front."""
        self._require_rows(inputs)
        rows = [self._row_type(type_, number) for number, type_ in enumerate(inputs)]
        counts = self._counts([type_.shape for type_ in inputs])
        outputs = self.unbatched.infer_outputs(rows)
        return [ArraySpec(type_.dtype, None if type_.shape is None else (*counts, *type_.shape)) for type_ in outputs]

    def symbolic_shapes(self, inputs: ArraySpecs) -> list[SymbolicShape | None]:
        """Return the output sizes of one row, with the batch sizes in front."""
        self._require_rows(inputs)
        rows = [self._row_type(type_, number) for number, type_ in enumerate(inputs)]
        counts: SymbolicShape = tuple(
            self._place_of_rows(depth) if count is None else count
            for depth, count in enumerate(self._counts([type_.shape for type_ in inputs]))
        )
        return [
            None if sizes is None else counts + tuple(map(self._behind_rows, sizes))
            for sizes in self.unbatched.symbolic_shapes(rows)
        ]

    def plan(self, views: Sequence[Array]) -> Plan:
        """Return the plan for calls with arrays of these dtypes and shapes."""
        inputs = [ArraySpec.of(view) for view in views]
        return Plan(inputs, self.infer_outputs(inputs))

    def run(self, plan: Plan, views: Sequence[Array], out: Sequence[Array] | None = None) -> list[Array]:
        """Run the user's function on all rows.

        This is one call if the op has a signature and no core dimension is missing. Otherwise it is one call for each
        row.
        """
        counts = tuple(count or 0 for count in self._counts([view.shape for view in views]))
        rows = [self._row_type(type_, number) for number, type_ in enumerate(plan.inputs)]
        if self.signature is None or self.signature.bind([row.shape for row in rows]).missing:
            return self._run_rows(views, rows, counts)  # no batch axis can precede a missing core dimension
        loops = self._loop_ranks(rows)
        outputs = self.unbatched(
            [self._aligned(view, number, counts, max(loops) - loops[number]) for number, view in enumerate(views)]
        )
        promised = self.unbatched.infer_outputs(rows)
        return [
            repeated(output, counts)
            if output.ndim == 0 and number in self.object_numbers  # one object for all rows
            else output
            if type_.shape is None or None in type_.shape
            else output.reshape(counts + _known(type_.shape))
            for number, (output, type_) in enumerate(zip(outputs, promised, strict=True))
        ]

    def _require_rows(self, inputs: ArraySpecs) -> None:
        """Raise ContractError if the inputs do not have these batch axes. A damaged model may pass them."""
        n_inputs = len(self.in_axes[0])
        problem = None
        if len(inputs) != n_inputs:
            problem = "a batched call has the wrong number of inputs."
        elif any(
            type_.shape is not None and len(type_.shape) < self._n_levels(number) for number, type_ in enumerate(inputs)
        ):
            problem = "an input of a batched call has too few dimensions."
        elif any(len(sizes) > 1 for sizes in self._row_sizes([type_.shape for type_ in inputs])):
            problem = "the inputs of a batched call have different batch sizes."
        if problem is not None:
            rows = [f"{self._n_levels(number)} batch dimensions" for number in range(n_inputs)]
            raise ContractError(
                problem,
                subject=self.subject,
                expected=f"{n_inputs} inputs with {', '.join(rows)}",
                got=describe_types(inputs),
                remedy="The model file may be damaged: save the model again. tf.vectorized_map creates batched calls.",
            )

    def _place_of_rows(self, depth: int) -> InputDimension:
        """Return an input with a batch axis of this level, and the position of the axis."""
        number = self.in_axes[depth].index(True)
        return InputDimension(number, sum(outer[number] for outer in self.in_axes[:depth]))

    def _behind_rows(self, size: SymbolicSize) -> SymbolicSize:
        """Convert a size in terms of the inputs of one row to a size in terms of the batched inputs."""

        def moved(part: int | InputDimension) -> SymbolicSize:
            if isinstance(part, int):
                return part
            return InputDimension(part.input, part.axis + self._n_levels(part.input))

        return fold(size, moved, lambda *parts: parts)

    def _loop_ranks(self, rows: ArraySpecs) -> list[int]:
        """Return the number of loop dimensions of each input in one row."""
        assert self.signature is not None
        ranks = self.signature.core_ranks([row.shape for row in rows])
        return [len(row.shape or ()) - rank for row, rank in zip(rows, ranks, strict=True)]

    def _aligned(self, view: Array, number: int, counts: tuple[int, ...], n_missing: int) -> Array:
        """Return a view with the batch axes as loop dimensions: one per level, in front of all other dimensions."""
        flags = [level[number] for level in self.in_axes]
        row = view.shape[sum(flags) :]
        leading = tuple(count if flag else 1 for flag, count in zip(flags, counts, strict=True))
        aligned: Array = view.reshape(leading + (1,) * n_missing + row)
        if self.output_spec.has_input_shapes:  # each row needs its own vector, also for shared inputs
            aligned = np.broadcast_to(aligned, counts + aligned.shape[len(counts) :])
        return aligned

    def _run_rows(self, views: Sequence[Array], rows: ArraySpecs, counts: tuple[int, ...]) -> list[Array]:
        results = [
            [copied(array) for array in self.unbatched([self._row(*row, index) for row in enumerate(views)])]
            for index in np.ndindex(*counts)
        ]
        if results:
            return [stacked(values).reshape(counts + values[0].shape) for values in zip(*results, strict=True)]
        promised = self.unbatched.infer_outputs(rows)
        return [np.zeros((*counts, *_known(type_.shape or ())), type_.dtype) for type_ in promised]

    def _row(self, number: int, view: Array, index: tuple[int, ...]) -> Array:
        picked = tuple(place for place, level in zip(index, self.in_axes, strict=True) if level[number])
        row: Array = np.array(view[picked], dtype=view.dtype, copy=None)
        return row

    def _row_type(self, type_: ArraySpec, number: int) -> ArraySpec:
        return ArraySpec(type_.dtype, None if type_.shape is None else type_.shape[self._n_levels(number) :])

    def _n_levels(self, number: int) -> int:
        """Return the number of batch axes of an input."""
        return sum(level[number] for level in self.in_axes)

    def _counts(self, shapes: Sequence[Any]) -> list[int | None]:
        """Return the batch size of each level."""
        return [next(iter(sizes), None) for sizes in self._row_sizes(shapes)]

    def _row_sizes(self, shapes: Sequence[Any]) -> list[set[int]]:
        """Return the set of batch sizes of the inputs at each level, as far as they are known."""
        axes = [0] * len(shapes)
        found = []
        for level in self.in_axes:
            sizes = set()
            for number, shape in enumerate(shapes):
                if level[number]:
                    size = None if shape is None else shape[axes[number]]
                    sizes |= set() if size is None else {size}
                    axes[number] += 1
            found.append(sizes)
        return found


def _known(shape: Sequence[int | None]) -> tuple[int, ...]:
    return tuple(size or 0 for size in shape)
