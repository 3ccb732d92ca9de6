"""PyTorch: a `torch.library.custom_op` and an `autograd.Function` around numpy, both eager."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from benchmarks.libraries.common import X, Y, mod, mod_gradient
from benchmarks.libraries.host_calls import host_calls
from benchmarks.measuring import Case, Run, timed


@torch.library.custom_op("tfpyop_benchmarks::mod", mutates_args=())
def custom_op(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The remainder as a custom op."""
    return torch.from_numpy(mod(x.numpy(force=True), y.numpy(force=True)))


def _keep(ctx: Any, inputs: Sequence[torch.Tensor], output: torch.Tensor) -> None:
    del output
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
    arrays = (tensor.numpy(force=True) for tensor in (*ctx.saved_tensors, grad))
    return tuple(map(torch.from_numpy, mod_gradient(*arrays)))


custom_op.register_autograd(_backward, setup_context=_keep)


class Mod(torch.autograd.Function):
    """The remainder as an autograd function."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Call numpy."""
        ctx.save_for_backward(x, y)
        return torch.from_numpy(mod(x.numpy(force=True), y.numpy(force=True)))

    backward = staticmethod(_backward)


def cases() -> Mapping[str, Case]:
    """All cases, by name."""
    ops = {"torch custom_op": custom_op, "torch Function": Mod.apply}
    return {
        **{f"eager {name}": _case(_call(op), 200) for name, op in ops.items()},
        **{f"eager gradient {name}": _case(_gradient(op), 50) for name, op in ops.items()},
        **host_calls("torch function", lambda x: torch.sin(torch.tensor(x)).numpy()),
    }


def _case(run: Run, repeat: int) -> Case:
    return lambda: timed(run, repeat)


def _call(op: Callable[..., Any]) -> Run:
    x, y = torch.from_numpy(X.copy()), torch.from_numpy(Y.copy())
    return lambda: op(x, y)


def _gradient(op: Callable[..., Any]) -> Run:
    x, y = (torch.from_numpy(array.copy()).requires_grad_() for array in (X, Y))
    ones = torch.ones(4)
    return lambda: torch.autograd.grad(op(x, y), (x, y), ones)
