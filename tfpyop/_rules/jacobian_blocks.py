"""The blocks of a Jacobian: read what a Jacobian rule returned, and check the shape and dtype of each block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tfpyop._spec.coercion import DType, dtype_kind
from tfpyop._spec.outputs import ArraySpec, is_compatible
from tfpyop._spec.signature import Signature, broadcast_shapes
from tfpyop.errors import ContractError, Shape, describe_kind

_ORDER = "the loop dimensions, then the core dimensions of the output, then the core dimensions of the input"


@dataclass(frozen=True, slots=True)
class Block:
    """Store the derivative of one output by one input, as the rule returned it.

    Attributes:
      output: The index of the output.
      input: The index of the input.
      position: The index of the input among the inputs that the rule is for.
      value: The array, tensor or sparse matrix.
      place: The number of the input as the caller counts them.
    """

    output: int
    input: int
    position: int
    value: Any
    place: int

    @property
    def what(self) -> str:
        """The block in error messages."""
        return f"the Jacobian of output {self.output} by input {self.place}"


@dataclass(frozen=True, slots=True)
class Layout:
    """Store which dimensions of the values of a call are loop dimensions, and which are core dimensions.

    Attributes:
      loop: The loop dimensions of the call, as far as they are known.
      inputs: The shapes of the inputs.
      outputs: The shapes of the outputs.
      input_ranks: The number of core dimensions of each input.
      output_ranks: The number of core dimensions of each output.
      residual_ranks: The number of core dimensions of each residual.
      is_complete: Whether no optional core dimension is missing, so that a further loop dimension is possible.
      has_signature: Whether the op has a signature.
    """

    loop: Shape | None
    inputs: Sequence[Shape | None]
    outputs: Sequence[Shape | None]
    input_ranks: Sequence[int]
    output_ranks: Sequence[int]
    residual_ranks: Sequence[int]
    is_complete: bool
    has_signature: bool = True

    @classmethod
    def of(
        cls,
        signature: Signature | None,
        inputs: Sequence[Shape | None],
        outputs: Sequence[Shape | None],
        residuals: Sequence[Shape | None],
        *,
        rule: str,
    ) -> Layout:
        """Return the layout of a call with values of these shapes.

        Args:
          signature: The signature of the op, with residuals among its outputs.
          inputs: The shapes of the inputs, as far as they are known.
          outputs: The shapes of the outputs.
          residuals: The shapes of the residuals.
          rule: The rule that needs the layout, for the error.

        Raises:
          ContractError: The op has no signature, and a rank is unknown.
        """
        if signature is None:
            if None in (*inputs, *outputs):
                raise ContractError(
                    f"{rule} cannot be used here, because the rank of an input or output is unknown.",
                    remedy="Pass signature= to differentiable_op, or set the rank with tf.ensure_shape.",
                )
            of_inputs, of_outputs, of_residuals = (
                [len(shape or ()) for shape in shapes] for shapes in (inputs, outputs, residuals)
            )
            return cls((), inputs, outputs, of_inputs, of_outputs, of_residuals, True, False)
        binding = signature.bind(inputs)
        ranks_of_outputs = [
            sum(dimension.text not in binding.missing for dimension in core) for core in signature.outputs
        ]
        n_outputs = len(outputs)
        return cls(
            binding.loop,
            inputs,
            outputs,
            signature.core_ranks(inputs),
            ranks_of_outputs[:n_outputs],
            ranks_of_outputs[n_outputs:],
            not binding.missing,
        )

    def input_core(self, number: int) -> Any:
        """Return the core dimensions of an input."""
        return _core(self.inputs[number], self.input_ranks[number])

    def output_core(self, number: int) -> Any:
        """Return the core dimensions of an output."""
        return _core(self.outputs[number], self.output_ranks[number])

    @property
    def output_cores(self) -> Sequence[Any]:
        """The core dimensions of all outputs."""
        return [self.output_core(number) for number in range(len(self.outputs))]

    def output_rank(self, block: Block) -> int:
        """Return the number of core dimensions of the output of a block."""
        return self.output_ranks[block.output]

    def input_rank(self, block: Block) -> int:
        """Return the number of core dimensions of the input of a block."""
        return self.input_ranks[block.input]


def blocks_of(result: Any, n_outputs: int, n_inputs: int, like: str) -> Sequence[Sequence[Any]]:
    """Return a row of blocks for each output, with a block for each input, from the result of a Jacobian rule.

    Args:
      result: What the rule returned.
      n_outputs: The number of outputs of the op.
      n_inputs: The number of inputs that the rule is for.
      like: The inputs that the rule is for, in words: `inputs` or `inputs in wrt=`.

    Raises:
      ContractError: The number of rows or blocks is wrong.
    """
    if result is None:
        raise ContractError(
            "the Jacobian rule returned None.",
            expected=_expected(n_outputs, n_inputs, like),
            got="None",
            remedy="Check that the rule has a return statement. Where the derivative is zero, return None in a tuple.",
        )
    if n_outputs == 1:
        return [_row(result, n_outputs, n_inputs, like)]
    if not isinstance(result, tuple | list) or len(result) != n_outputs:
        raise _wrong_count(result, n_outputs, n_inputs, like)
    return [[None] * n_inputs if row is None else _row(row, n_outputs, n_inputs, like) for row in result]


def check_block(
    block: Block, got: ArraySpec, output: DType, primal: DType, layout: Layout, is_flat: bool = False
) -> None:
    """Check the shape and dtype of a block.

    Args:
      block: The block.
      got: The dtype and shape of its value, as far as it is known.
      output: The dtype of the output.
      primal: The dtype of the input.
      layout: The layout of the call.
      is_flat: Whether the value is a matrix without loop dimensions, with the core dimensions flattened.

    Raises:
      ContractError: The shape or dtype is wrong.
    """
    is_real = dtype_kind(output) != "c" != dtype_kind(primal)
    if dtype_kind(got.dtype) not in ("biuf" if is_real else "biufc"):
        raise ContractError(
            f"{block.what} has the wrong dtype.",
            expected=f"{'a real' if is_real else 'a real or complex'} dtype, for {output} by {primal}",
            got=str(got),
            remedy="Return the derivative in a dtype that can be cast to the dtypes of the output and the input.",
        )
    of_output, of_input = layout.output_core(block.output), layout.input_core(block.input)
    if is_flat:
        wanted: Shape | None = (_product(of_output), _product(of_input))
        if is_compatible(got.shape or (), wanted):
            return
        order = "the core dimensions of the output, flattened, by the core dimensions of the input, flattened"
        remedy = f"A sparse matrix has no loop dimensions. Return {order}."
        if layout.loop:
            remedy += " If each element of the loop dimensions needs its own matrix, pass vectorized=False to the op."
        raise _wrong_shape(block, got, wanted, remedy)
    core = None if of_output is None or of_input is None else (*of_output, *of_input)
    if got.shape is None:
        return
    n_core = layout.output_rank(block) + layout.input_rank(block)
    n_loop = len(got.shape) - n_core
    if n_loop >= 0 and is_compatible(got.shape[n_loop:], core) and _broadcasts(got.shape[:n_loop], layout.loop):
        return
    wanted = None if core is None or layout.loop is None else (*layout.loop, *core)
    remedy = f"Return {_ORDER}."
    if core is not None and n_loop >= 0 and of_output != of_input and got.shape[n_loop:] == (*of_input, *of_output):
        remedy += " The core dimensions are swapped: transpose the block."
    if not layout.has_signature and of_input and got.shape == of_input == of_output:
        remedy += ' If the op is elementwise, pass signature="()->()" to it.'
    raise _wrong_shape(block, got, wanted, remedy)


def _core(shape: Shape | None, rank: int) -> Shape | None:
    return None if shape is None else tuple(shape[len(shape) - rank :])


def _product(sizes: Sequence[int | None]) -> int:
    result = 1
    for size in sizes:
        result *= size or 0
    return result


def _broadcasts(shape: Shape, loop: Shape | None) -> bool:
    """Return whether loop dimensions of a block broadcast to the loop dimensions of the call."""
    if loop is None:
        return True
    if len(shape) > len(loop):
        return False
    try:
        broadcast = broadcast_shapes([shape, loop])
    except ValueError:
        return False
    return broadcast is not None and is_compatible(broadcast, loop)


def _row(row: Any, n_outputs: int, n_inputs: int, like: str) -> Sequence[Any]:
    values = row if isinstance(row, tuple | list) else (row,)
    if len(values) != n_inputs:
        raise _wrong_count(row, n_outputs, n_inputs, like)
    return values


def _wrong_count(got: Any, n_outputs: int, n_inputs: int, like: str) -> ContractError:
    is_many = isinstance(got, tuple | list)
    return ContractError(
        "the Jacobian rule returned the wrong number of blocks.",
        expected=_expected(n_outputs, n_inputs, like),
        got=f"{describe_kind(got)} of {len(got)}" if is_many else f"one {type(got).__name__}",
        remedy=f"Return the blocks in the order of op.outputs and op.{like}, with None where the derivative is zero.",
    )


def _expected(n_outputs: int, n_inputs: int, like: str) -> str:
    blocks = "one block" if n_inputs == 1 else f"a tuple of {n_inputs} blocks, one for each of op.{like}"
    return blocks if n_outputs == 1 else f"a tuple of {n_outputs}, with {blocks} for each of op.outputs"


def _wrong_shape(block: Block, got: ArraySpec, wanted: Shape | None, remedy: str) -> ContractError:
    return ContractError(
        f"{block.what} has the wrong shape.",
        expected=str(ArraySpec(got.dtype, wanted)),
        got=str(got),
        remedy=remedy,
    )
