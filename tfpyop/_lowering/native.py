"""Native calls: run an op's implementation in TensorFlow ops instead of its function, with the op's derivatives.

Used on request, and where Python cannot run. The results are checked against the declared outputs, as far as these are
known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfpyop._lowering import graph, vectorized_map
from tfpyop._lowering._tensorflow import CompositeTensor, is_watched, set_attribute, stop_recording
from tfpyop._lowering.autodiff.nondifferentiable import nondifferentiable
from tfpyop._lowering.autodiff.record import record
from tfpyop._lowering.autodiff.recorded_call import RecordedCall
from tfpyop._lowering.autodiff.rule_call import undefined_inputs
from tfpyop._lowering.shape_tensors import is_same_shape, sizes_tensor
from tfpyop._lowering.tensors import dtype_of, holds_tensor, type_of
from tfpyop._lowering.xla import nodes as xla_nodes
from tfpyop._lowering.xla.compilation import is_compiling
from tfpyop._prefer_native import is_preferred
from tfpyop._registry.op_def import ConcreteOp, NumpyRule, OpDef
from tfpyop._rules.missing import undefined_derivative
from tfpyop._spec.array_like import require_levels
from tfpyop._spec.coercion import coerce_output, is_differentiable
from tfpyop._spec.outputs import ArraySpec, is_compatible
from tfpyop._spec.signature import SymbolicShape
from tfpyop.errors import ContractError, TfpyopError, UnsupportedError, annotate

_ACCELERATORS = ("GPU", "TPU")


def is_called_for(op: ConcreteOp) -> bool:
    """Return whether to call the native implementation: it is preferred, or Python cannot run on the XLA device.

    Raises:
      UnsupportedError: There is no native implementation, and Python cannot run there or the op requires it.
    """
    if _is_on_accelerator():
        if op.rules.native is None:
            raise UnsupportedError(
                "XLA compiles this function for an accelerator, where Python cannot run.",
                subject=op.subject,
                remedy="Attach an implementation in TensorFlow ops with @op.native, or place the call on the CPU with "
                'tf.device("CPU") inside the compiled function.',
            )
        return True
    is_wanted = is_preferred(op.definition.spec.prefers_native)
    if op.rules.native is None and is_wanted and _must_have_one(op):
        raise UnsupportedError(
            'the op was created with prefer="native", but has no native implementation.',
            subject=op.subject,
            remedy="Attach a native implementation with @op.native, or remove prefer=. To run the numpy function, use "
            "prefer_native(False).",
        )
    return is_wanted and op.rules.native is not None


def _must_have_one(op: ConcreteOp) -> bool:
    """Return whether `prefer="native"` was declared for this very op, which is not a rule or a batch."""
    return op.definition.spec.prefers_native and op.forward_op is None and not op.is_batched


def call(op: ConcreteOp, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Call the native implementation, with the derivatives of the op if these can be used, else with its own."""
    if op.rules.non_differentiable:
        return [tf.stop_gradient(tensor) for tensor in results(op, tensors)]
    promised = _promised(op, tensors)
    may_differ = op.is_differentiable(list(map(dtype_of, tensors)), [type_.dtype for type_ in promised])
    if not may_differ or not _has_rules_for_it(op):
        return _without_undefined(op, tensors)
    with stop_recording():
        outputs = [tf.identity(tensor) for tensor in results(op, tensors)]
    if tf.executing_eagerly():
        record(RecordedCall(op, list(tensors), outputs, []))
        return outputs
    return graph.with_gradient(
        op, tensors, outputs, lambda rows: vectorized_map.batch_native_call(op, len(outputs), rows)
    )


def _without_undefined(op: ConcreteOp, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Return the results with their own derivatives, except by the inputs that are declared non-differentiable."""
    numbers = undefined_inputs(RecordedCall(op, tensors, [], []))
    if not numbers:
        return results(op, tensors)
    stopped = [tf.stop_gradient(tensor) if number in numbers else tensor for number, tensor in enumerate(tensors)]
    sources = [tensors[number] for number in numbers]
    if tf.executing_eagerly():  # a placeholder would raise at once
        sources = [tensor for tensor in sources if is_watched([tensor])]
    outputs = results(op, stopped)
    floating = [tensor for tensor in outputs if is_differentiable(dtype_of(tensor))]
    marked = iter(nondifferentiable(op, floating, sources, undefined_derivative) if sources else floating)
    return [next(marked) if is_differentiable(dtype_of(tensor)) else tensor for tensor in outputs]


def _promised(op: ConcreteOp, tensors: Sequence[tf.Tensor]) -> Sequence[ArraySpec]:
    """Return the specs of the outputs. Residuals are not part of a native call."""
    return op.visible(op.host.infer_outputs([type_of(tensor) for tensor in tensors]))


def _has_rules_for_it(op: ConcreteOp) -> bool:
    """Return whether the op's derivative rules can follow a native call. Numpy rules need Python.

    Rules that use residuals cannot follow it, because a native call has no residuals.
    """
    rules = op.rules.plain()
    if not rules or op.residual_names:
        return False
    return not any(isinstance(rule, NumpyRule) for rule in rules) or not _is_without_python()


def results(op: ConcreteOp, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Return the results of the native implementation with its own derivatives, checked against the declared outputs.

    Raises:
      TfpyopError: The results do not match the declaration.
    """
    promised, definition = _promised(op, tensors), op.definition
    assert isinstance(definition, OpDef)
    try:
        values = definition.call_native(op, tensors)
        fitted = [_fit(value, promised[number], number) for number, value in enumerate(values)]
        return _with_shape_checks(op, tensors, fitted, promised=promised)
    except TfpyopError as error:
        raise error.with_subject(f"native implementation of {op.subject}") from error.__cause__
    except Exception as error:
        called = ", ".join(str(type_of(tensor)) for tensor in tensors)
        annotate(error, f"Raised in the native implementation of {op.subject}, called with {called}.")
        raise


def _fit(value: Any, promised: ArraySpec, number: int) -> tf.Tensor:
    dtype = tf.as_dtype(promised.dtype)
    if value is None:
        remedy = "Check that the native implementation has a return statement."
        raise ContractError(f"output {number} is None.", expected=str(promised), got="None", remedy=remedy)
    if not holds_tensor(value) and not isinstance(value, CompositeTensor):
        value = coerce_output(value, promised.dtype, what=f"output {number}")  # as for the result of the numpy function
    require_levels(value, f"output {number}")
    tensor = tf.convert_to_tensor(value, dtype_hint=dtype)
    got = type_of(tensor)
    is_right_shape = got.shape is None or is_compatible(got.shape, promised.shape)
    if dtype_of(tensor) != promised.dtype or not is_right_shape:
        raise ContractError(
            f"output {number} does not have the declared dtype or shape.",
            expected=str(promised),
            got=str(got),
            remedy="Cast the output with tf.cast, or fix its shape. A native implementation must return the same "
            "dtypes and shapes as the numpy function.",
        )
    return tensor


def _with_shape_checks(
    op: ConcreteOp, tensors: Sequence[tf.Tensor], results: Sequence[tf.Tensor], *, promised: Sequence[ArraySpec]
) -> list[tf.Tensor]:
    """Return the results with checks of the unknown shapes: by XLA at compile time, or when the graph runs."""
    if tf.executing_eagerly():  # all shapes are known and have been compared
        return list(results)
    sizes = op.host.symbolic_shapes([type_of(tensor) for tensor in tensors])
    checked = []
    for number, tensor in enumerate(results):
        shape, wanted = type_of(tensor).shape, promised[number].shape
        expected = sizes[number]
        checks = []
        if expected is not None and (shape is None or None in shape):
            checks = [_check(op, tensors, tensor, number=number, expected=expected)]
        with tf.control_dependencies(checks):
            checked.append(tensor if wanted is None or wanted == shape else tf.ensure_shape(tensor, wanted))
    return checked


def _check(
    op: ConcreteOp, tensors: Sequence[tf.Tensor], tensor: tf.Tensor, *, number: int, expected: SymbolicShape
) -> tf.Operation:
    problem = f"native implementation of {op.subject}: output {number} does not have the declared shape."
    if is_compiling():
        what = f"output {number} of the native implementation"
        return xla_nodes.check_shape(tensors, tensor, allowed=[expected], what=what, problem=problem)
    wanted, shape = sizes_tensor(expected, tensors), tf.shape(tensor)
    check = tf.debugging.Assert(is_same_shape(wanted, shape), [f"{problem} Expected, got:", wanted, shape])
    # XLA would drop the check. The attribute makes TensorFlow trace the function again for XLA.
    set_attribute(check, xla_nodes.TOKEN_ATTRIBUTE, "")
    return check


def _is_without_python() -> bool:
    """Return whether the current graph cannot call Python: on an accelerator, or because XLA's interface is unknown."""
    return _is_on_accelerator() or (is_compiling() and not xla_nodes.can_call_python())


def _is_on_accelerator() -> bool:
    """Return whether XLA compiles for a device where Python cannot run."""
    if not is_compiling() or not any(tf.config.list_logical_devices(kind) for kind in _ACCELERATORS):
        return False
    placed = tf.DeviceSpec.from_string(tf.no_op().device).device_type
    return bool(placed != "CPU")
