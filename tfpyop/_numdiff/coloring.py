"""Read sparsity patterns, and color their columns, so that columns of one color can be moved together.

Two columns may have the same color if no row has both. Then each row of the derivative along all columns of one color
is an element of the Jacobian.

Source: A. R. Curtis, M. J. D. Powell and J. K. Reid, "On the estimation of sparse Jacobian matrices", IMA Journal of
Applied Mathematics 13 (1974). SciPy has this too, as `group_columns` of `scipy.optimize._numdiff`: a private module of
a package that tfpyop does not require.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfpyop._spec.array_like import is_sparse
from tfpyop._spec.coercion import Array
from tfpyop.errors import ContractError, RegistrationError, annotate, describe_kind, describe_shape, message_of, nearest

_MOST_SIZES = 64
"""The number of sets of sizes for which a pattern and its colors are cached."""
_BLOCKS_REMEDY = "Pass True where all elements may depend on all elements, and None for no dependence or integers."
_FORM = "the core dimensions of the output by the core dimensions of the input"

Core = tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Coloring:
    """Store the colors of the columns of one input.

    Attributes:
      n_columns: The number of core elements of the input.
      owners: For each color: for each row, the column of this color that the row depends on, or -1. The rows are the
        core elements of all outputs.
      members: For each color: the columns of this color.
    """

    n_columns: int
    owners: Sequence[Array]
    members: Sequence[Array]

    @classmethod
    def of(cls, pattern: Array) -> Coloring:
        """Color the columns of a pattern of rows by columns, in two orders, and keep the better one."""
        columns = [np.flatnonzero(pattern[:, column]) for column in range(pattern.shape[1])]
        by_size = sorted(range(len(columns)), key=lambda column: -len(columns[column]))
        found = [_colored(columns, order, pattern.shape[0]) for order in (range(len(columns)), by_size)]
        owners = min(found, key=len)
        colors = np.zeros(len(columns), int)
        for color, owner in enumerate(owners):
            colors[owner[owner >= 0]] = color
        members = [np.flatnonzero(colors == color) for color in range(len(owners))]
        return cls(len(columns), owners, members)

    @property
    def is_dense(self) -> bool:
        """Whether no two columns share a color."""
        return len(self.owners) == self.n_columns

    def add(self, color: int, rows: Array, into: Array) -> None:
        """Add values of the rows, in the last dimension, to their columns of one color."""
        owner = self.owners[color]
        order = np.argsort(owner, kind="stable")
        order = order[owner[order] >= 0]
        if len(order):
            columns, starts = np.unique(owner[order], return_index=True)
            into[..., columns] += np.add.reduceat(rows[..., order], starts, axis=-1)


class Sparsity:
    """Store the sparsity pattern that the user declared: a pattern, patterns, or a function of sizes.

    Raises:
      RegistrationError: The value cannot be a pattern.
    """

    def __init__(self, value: Any, maker: str) -> None:
        self.value = value
        self._known: dict[Any, Sequence[Coloring]] = {}
        if not callable(value):
            for block in _leaves(value):
                _require_pattern(block, f"{maker}(sparsity=...)", value)

    def require_counts(self, n_inputs: int, n_outputs: int) -> None:
        """Raise RegistrationError unless there is a pattern for each output and input."""
        if not callable(self.value) and _blocks_of(self.value, n_inputs, n_outputs) is None:
            raise RegistrationError(
                "sparsity= has the wrong number of patterns.",
                expected=_expected_blocks(n_inputs, n_outputs),
                got=_described_blocks(self.value),
                remedy=_BLOCKS_REMEDY,
            )

    def require_parameters(self, names: Collection[str], signature: str) -> None:
        """Raise RegistrationError unless a function takes sizes of the signature only.

        Args:
          names: The names of the sizes that are known before the op's function is called.
          signature: The text of the signature.
        """
        if not callable(self.value):
            return
        try:
            parameters = inspect.signature(self.value).parameters.values()
        except (TypeError, ValueError):
            raise RegistrationError(
                "cannot read the parameters of the function in sparsity=.",
                got=f"{self.value!r:.80}",
                remedy="Wrap it in a function whose parameters are names of the signature.",
            ) from None
        for parameter in parameters:
            is_required = parameter.default is parameter.empty
            if parameter.kind is parameter.POSITIONAL_ONLY and is_required:
                raise RegistrationError(
                    f"the function in sparsity= takes {parameter.name!r} by position only.",
                    remedy="It is called with the sizes by name: remove the / from its parameters.",
                )
            is_named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
            if is_named and is_required and parameter.name not in names:
                raise RegistrationError(
                    f"the function in sparsity= takes {parameter.name!r}, which is not a size that is known before "
                    "the op is called.",
                    expected=f"names of input sizes in signature {signature!r}, or of sizes that sizes= computes",
                    remedy=nearest(parameter.name, names),
                )

    def patterns(
        self,
        sizes: Mapping[str, int | None],
        inputs: Sequence[Core | None],
        outputs: Sequence[Core],
        wanted: Sequence[int],
    ) -> list[Array]:
        """Return a boolean matrix for each input: the core elements of the wanted outputs by the elements of the input.

        Args:
          sizes: The sizes of the signature in this call, for a function.
          inputs: The core dimensions of all inputs; None for an input that the call leaves out.
          outputs: The core dimensions of all outputs.
          wanted: The indices of the outputs that count.

        Raises:
          ContractError: A pattern has the wrong shape, or there is not one for each output and input.
        """
        is_function = callable(self.value)
        value = _called(self.value, sizes) if is_function else self.value
        names = [] if is_function else [name for name in sizes if name.isidentifier()]
        blocks = _blocks_of(value, len(inputs), len(outputs))
        if blocks is None:
            raise ContractError(
                "sparsity= has the wrong number of patterns.",
                expected=_expected_blocks(len(inputs), len(outputs)),
                got=_described_blocks(value),
                remedy=_BLOCKS_REMEDY,
            )
        return [
            np.concatenate(
                [
                    np.zeros((0, math.prod(core)), bool),
                    *(_matrix(blocks[row][column], outputs[row], core, (row, column), names) for row in wanted),
                ]
            )
            for column, core in enumerate(inputs)
            if core is not None
        ]

    def colorings(
        self,
        sizes: Mapping[str, int | None],
        inputs: Sequence[Core | None],
        outputs: Sequence[Core],
        wanted: Sequence[int],
    ) -> Sequence[Coloring]:
        """Return the colors of each input. They are kept for each set of sizes. Takes the arguments of `patterns`."""
        key = (tuple(inputs), tuple(outputs), tuple(wanted), tuple(sorted(sizes.items())))
        known = self._known.get(key)
        if known is None:
            known = [Coloring.of(pattern) for pattern in self.patterns(sizes, inputs, outputs, wanted)]
            if len(self._known) >= _MOST_SIZES:
                self._known.clear()
            self._known[key] = known
        return known


def _colored(columns: Sequence[Array], order: Sequence[int], n_rows: int) -> list[Array]:
    """Give each column the first color that no column in one of its rows has. Return the owners of each color."""
    owners: list[Array] = []
    for column in order:
        rows = columns[column]
        for owner in owners:
            if np.all(owner[rows] < 0):
                owner[rows] = column
                break
        else:
            owner = np.full(n_rows, -1)
            owner[rows] = column
            owners.append(owner)
    return owners


def _leaves(value: Any) -> list[Any]:
    return [leaf for part in value for leaf in _leaves(part)] if isinstance(value, tuple | list) else [value]


def _require_pattern(block: Any, what: str, whole: Any) -> None:
    """Raise RegistrationError unless a value can be the pattern of one output and one input, in the whole value."""
    is_array = isinstance(block, np.ndarray) and block.dtype.kind in "biuf" and block.ndim > 0
    if block is None or block is True or is_array or is_sparse(block):
        return
    raise RegistrationError(
        f"{what} is not a sparsity pattern.",
        expected="a scipy.sparse matrix or a numpy array, True (all elements) or None (no element); a tuple of these, "
        "one for each input; or a function of the signature's sizes that returns it",
        got=f"{whole!r:.80}",
        remedy="Use a matrix that is not zero where the output may depend on the input.",
    )


def _called(function: Any, sizes: Mapping[str, int | None]) -> Any:
    """Call the user's function with the sizes that it takes."""
    parameters = inspect.signature(function).parameters.values()
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    names = {parameter.name for parameter in parameters}
    given = {name: size for name, size in sizes.items() if takes_all or name in names}
    try:
        return function(**given)
    except Exception as error:
        if isinstance(error, TypeError) and "argument" in message_of(error):
            known = ", ".join(sizes) or "none"
            annotate(error, f"The function in sparsity= is called with the signature's sizes by name: {known}.")
            raise
        raise ContractError(
            "the function in sparsity= raised an exception.",
            expected=f"a pattern for {', '.join(f'{name}={size}' for name, size in given.items()) or 'this call'}",
            got=f"{type(error).__name__}: {message_of(error)}",
            remedy="Return a pattern for every size that the op supports, also for small sizes. If the op supports one "
            "size only, write it in the signature: (200)->(200).",
        ) from error


def _blocks_of(value: Any, n_inputs: int, n_outputs: int) -> Sequence[Sequence[Any]] | None:
    """Return a row of patterns for each output, with a pattern for each input; None if the numbers do not fit."""
    rows = [value] if n_outputs == 1 else value
    if not isinstance(rows, tuple | list) or len(rows) != n_outputs:
        return None
    rows = [row if isinstance(row, tuple | list) else (row,) for row in rows]
    return rows if all(len(row) == n_inputs for row in rows) else None


def _expected_blocks(n_inputs: int, n_outputs: int) -> str:
    one = "one pattern" if n_inputs == 1 else f"a tuple of {n_inputs} patterns, one for each input"
    return one if n_outputs == 1 else f"a tuple of {n_outputs}, with {one} for each output"


def _described_blocks(value: Any) -> str:
    return (
        f"{describe_kind(value)} of {len(value)}" if isinstance(value, tuple | list) else f"one {type(value).__name__}"
    )


def _if_fixed(block: Any, output: Core, core: Core, names: Sequence[str]) -> str:
    """Return the advice for a pattern that is fixed although sizes of the signature vary."""
    if not names or len(block.shape) != 2:
        return ""
    is_flat = len(output) == len(core) == 1
    sizes = f", such as ({block.shape[1]})->({block.shape[0]})" if is_flat else ""
    return (
        f" This pattern fits one size only: write the sizes in the signature{sizes}, or pass a function of "
        f"{' and '.join(names)}."
    )


def _matrix(block: Any, output: Core, core: Core, place: tuple[int, int], names: Sequence[str]) -> Array:
    """Return a pattern as a boolean matrix with flattened core dimensions. Stored zeros belong to the pattern.

    Args:
      block: The pattern.
      output: The core dimensions of the output.
      core: The core dimensions of the input.
      place: The indices of the output and the input.
      names: The sizes of the signature, if the pattern is fixed although they vary.
    """
    shape = (math.prod(output), math.prod(core))
    if block is None or block is True:
        return np.full(shape, block is True)
    _require_pattern(block, "the result of the function in sparsity=", block)
    if tuple(block.shape) != shape and (is_sparse(block) or tuple(block.shape) != (*output, *core)):
        swapped = tuple(block.shape) in (shape[::-1], (*core, *output))
        raise ContractError(
            f"the sparsity pattern of output {place[0]} by input {place[1]} has the wrong shape.",
            expected=describe_shape(shape),
            got=describe_shape(block.shape),
            remedy=f"Pass {_FORM}, both flattened.{' The pattern is transposed.' if swapped else ''}"
            f"{_if_fixed(block, output, core, names)}",
        )
    if not is_sparse(block):
        return np.asarray(block != 0).reshape(shape)
    places = block.tocoo()
    result = np.zeros(shape, bool)
    result[places.row, places.col] = True
    return result
