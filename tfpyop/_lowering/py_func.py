"""Host calls in graphs: TensorFlow's PyFunc nodes, pure or stateful, which its runtime runs by tfpyop's tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfpyop._lowering._tensorflow import install_trampoline
from tfpyop._lowering.autodiff.gradient_node import node_name
from tfpyop._lowering.status import advice_of, failure
from tfpyop._lowering.tensors import host_results, type_of
from tfpyop._lowering.traced_outputs import TracedOutputs, read_call
from tfpyop._lowering.watchdog import WATCHDOG
from tfpyop._registry.op_def import REGISTRY, ConcreteOp
from tfpyop._registry.token import PREFIX, joined
from tfpyop._spec.coercion import STRING, Array
from tfpyop._spec.outputs import ArraySpec
from tfpyop.errors import TfpyopError, annotate


def install() -> None:
    """Make TensorFlow's runtime run host functions by their tokens."""
    install_trampoline(PREFIX, WATCHDOG.watched(_run))


def host_node(op: ConcreteOp, tensors: Sequence[tf.Tensor], promised: Sequence[ArraySpec]) -> list[tf.Tensor]:
    """Add a node that calls the host function; return its outputs, without a gradient."""
    dtypes = [tf.string if type_.dtype == STRING else tf.as_dtype(type_.dtype) for type_ in promised]
    node = tf.raw_ops.PyFunc if op.host.is_stateful else tf.raw_ops.PyFuncStateless
    traced = TracedOutputs.of(op.host, list(map(type_of, tensors)), promised)
    outputs = node(
        input=list(tensors), token=joined(REGISTRY.token_of(op), traced.text), Tout=dtypes, name=node_name(op.name)
    )
    if not promised:
        return []
    for output, type_ in zip(outputs, promised, strict=True):
        output.set_shape(type_.shape)
    return list(outputs)


def _run(text: str, arrays: Sequence[Any]) -> list[Array]:
    """Run the host call of a node. TensorFlow's runtime calls this function."""
    token, traced = read_call(text)
    host = REGISTRY.require_op(token).host
    try:
        results = host_results(host, arrays)
    except TfpyopError:
        raise
    except BaseException as error:
        problem = failure(host, [np.asarray(array) for array in arrays], error)
        for note in getattr(error, "__notes__", ()):
            if note not in advice_of(error):
                annotate(problem, note)
        raise problem.with_traceback(error.__traceback__) from _reason_of(error)
    if traced is not None:
        traced.check(host.subject, arrays, results)
    return results


def _reason_of(error: BaseException) -> BaseException | None:
    """Return the exception that Python would show as the reason of an exception."""
    return error.__cause__ or (None if error.__suppress_context__ else error.__context__)
