"""The graph lowering: a node that calls the host function by its token, and a node that carries the gradient.

The first is TensorFlow's PyFunc, pure or stateful. Outputs, residuals and primals pass through the second, the primals
for the gradient rule to read.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfpyop._coercion import STRING, Array
from tfpyop._host import HostFunction
from tfpyop._promise import ArrayType
from tfpyop._registry import REGISTRY, TOKEN_PREFIX, split_token
from tfpyop._rules import HostOp
from tfpyop.errors import TfpyopError, UnsupportedError, describe_arrays
from tfpyop.lowering._tensorflow import install_token_table, stop_recording
from tfpyop.lowering.calls import Call
from tfpyop.lowering.cotangents import input_cotangents
from tfpyop.lowering.gradient_node import keep, node_name, pass_through
from tfpyop.lowering.recording import record
from tfpyop.lowering.tensors import detached, type_of


def call(op: HostOp, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Add a call of the op to the current graph."""
    results = call_with_residuals(op, tensors)
    return results[: len(results) - len(op.residual_names)]


def call_with_residuals(op: HostOp, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """The same, also returning the residuals."""
    types = [type_of(tensor) for tensor in tensors]
    promised = op.host.output_types(types)
    is_differentiable = op.is_differentiable([type_.dtype for type_ in types], [type_.dtype for type_ in promised])
    keep(op, tf.compat.v1.get_default_graph())
    n_outputs = len(promised) - len(op.residual_names)
    with stop_recording():
        results = _host_node(op, tensors, promised)
        if is_differentiable:
            passed = pass_through(op, [*results, *tensors], functools.partial(_gradient, n_outputs))
            results = passed[: len(results)]
    if is_differentiable:
        record(Call(op, list(tensors), results[:n_outputs], results[n_outputs:]))
    return results


def install() -> None:
    """Let TensorFlow's runtime find host functions by their tokens."""
    install_token_table(_find)


def _host_node(op: HostOp, tensors: Sequence[tf.Tensor], promised: Sequence[ArrayType]) -> list[tf.Tensor]:
    dtypes = [tf.string if type_.dtype == STRING else tf.as_dtype(type_.dtype) for type_ in promised]
    node = tf.raw_ops.PyFunc if op.host.is_stateful else tf.raw_ops.PyFuncStateless
    outputs = node(input=list(tensors), token=op.token, Tout=dtypes, name=node_name(op.name))
    if not promised:
        return []
    for output, type_ in zip(outputs, promised, strict=True):
        output.set_shape(type_.shape)
    return list(outputs)


def _gradient(n_outputs: int, op: HostOp, node: tf.Operation, cotangents: Sequence[Any]) -> list[Any]:
    """The gradient of the node that outputs, residuals and primals of a call pass through."""
    n_results = n_outputs + len(op.residual_names)
    outputs = list(node.outputs)
    call = Call(op, list(node.inputs)[n_results:], outputs[:n_outputs], outputs[n_outputs:n_results])
    return [None] * n_results + input_cotangents(call, cotangents[:n_outputs])


def _find(token: str) -> Callable[..., list[Array]] | None:
    if not token.startswith(TOKEN_PREFIX):
        return None
    op = REGISTRY.find_host_op(token)
    return functools.partial(_refuse, token) if op is None else lambda *arrays: _run(op.host, arrays)


def _refuse(token: str, *arrays: Any) -> list[Array]:
    name, _ = split_token(token)
    raise UnsupportedError(
        "it is not known in this process.",
        subject=f"op {name!r}",
        remedy=f"Import the module that defines it ({name.partition(':')[0]!r}?) before the graph runs. Names with '#' "
        "are of local functions, which exist in one process only.",
    )


def _run(host: HostFunction, arrays: Sequence[Any]) -> list[Array]:
    """Run a host function for TensorFlow's runtime, which keeps only the text of an exception."""
    try:
        return [detached(array) for array in host(arrays)]
    except TfpyopError:
        raise
    except BaseException as error:
        given = describe_arrays([np.asarray(array) for array in arrays])
        text = f"{host.subject}: the function raised {type(error).__name__}: {error}\n  Called with: {given}"
        raise _same_status(error)(text) from error


def _same_status(error: BaseException) -> type[Exception]:
    """The kind of exception that TensorFlow maps to the same status. StopIteration would end a dataset in silence."""
    kinds: tuple[type[Exception], ...] = (ValueError, TypeError, MemoryError, NotImplementedError)
    return next((kind for kind in kinds if isinstance(error, kind)), RuntimeError)
