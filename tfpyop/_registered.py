"""Find the registered ops by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tfpyop._op import Op
from tfpyop._registry.op_def import REGISTRY


class OpsView(Mapping[str, Op[..., Any]]):
    """Provide a read-only view of the registered ops by name."""

    def __getitem__(self, name: str) -> Op[..., Any]:
        """Return the op of this name. Raise KeyError if no op has this name."""
        if name not in REGISTRY.names():
            raise KeyError(name)
        op: Op[..., Any] = REGISTRY.find(name).op
        return op

    def __repr__(self) -> str:
        """List the ops, one a line."""
        return "\n".join(map(repr, self.values())) or "no ops"

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names in the order in which the ops were defined."""
        return iter(REGISTRY.names())

    def __len__(self) -> int:
        """Return the number of registered ops."""
        return len(REGISTRY.names())


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
