"""Find the registered ops by name."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, Mapping, ValuesView
from typing import Any

from tfpyop._op import Op
from tfpyop._registry.op_def import REGISTRY


class OpsView(Mapping[str, Op[..., Any]]):
    """Provide a read-only view of the registered ops by name. Other threads may define ops while it is read."""

    def __getitem__(self, name: str) -> Op[..., Any]:
        """Return the op of this name. Raise KeyError if no op has this name."""
        op: Op[..., Any] = REGISTRY.listed()[name].op
        return op

    def __repr__(self) -> str:
        """List the ops, one a line."""
        return "\n".join(map(repr, self.values())) or "no ops"

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names in the order in which the ops were defined."""
        return iter(REGISTRY.listed())

    def __len__(self) -> int:
        """Return the number of registered ops."""
        return len(REGISTRY.listed())

    def items(self) -> ItemsView[str, Op[..., Any]]:
        """Return the names and ops at this moment."""
        return _ops().items()

    def values(self) -> ValuesView[Op[..., Any]]:
        """Return the ops at this moment."""
        return _ops().values()


def _ops() -> dict[str, Op[..., Any]]:
    return {name: definition.op for name, definition in REGISTRY.listed().items()}


def get_op(name: str) -> Op[..., Any]:
    """Return the registered op of this name.

    Args:
      name: The name as in `Op.name`, for example `"acme.ops:solve"`.

    Raises:
      RegistrationError: No op has this name. The message lists the nearest names.
    """
    op: Op[..., Any] = REGISTRY.find(name).op
    return op


def registered_ops() -> Mapping[str, Op[..., Any]]:
    """Return a read-only mapping from names to the ops of this process, in the order in which the ops were defined.

    Ops that instances or function calls created with `name=` come last. They are listed as long as they are referenced.
    """
    return OpsView()
