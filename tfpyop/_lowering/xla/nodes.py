"""Host calls in graphs that XLA compiles: nodes that hold a StableHLO module with a custom call.

Owns everything that must be known when a graph is built: dtypes, shapes, the order of stateful calls.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from tfpyop._host.function import HostFunction
from tfpyop._lowering._tensorflow import call_module, convert_node_with, of_graph, set_attribute
from tfpyop._lowering.tensors import type_of
from tfpyop._lowering.watchdog import WATCHDOG
from tfpyop._lowering.xla import call_site, ffi
from tfpyop._lowering.xla.call_descriptor import ELEMENT_TYPES, CallDescriptor
from tfpyop._lowering.xla.compilation import is_outermost_compiled
from tfpyop._lowering.xla.dynamic_sizes import may_be_dynamic
from tfpyop._lowering.xla.stablehlo import check_of_shape, host_call, is_too_large
from tfpyop._registry.op_def import REGISTRY, ConcreteOp
from tfpyop._spec.coercion import STRING
from tfpyop._spec.outputs import ArraySpec, ArraySpecs, OpOutputSpec, OutputSpec
from tfpyop._spec.signature import SymbolicShape
from tfpyop.errors import ContractError, SignatureError, UnsupportedError, naming

TOKEN_ATTRIBUTE = "_tfpyop_token"
"""The attribute of a node that names its host function. Empty for a check, which has no host function."""

_SUB_BYTE = ("int4", "uint4", "int2", "uint2", "float4")
"""Prefixes of the names of dtypes whose numbers are smaller than a byte."""


def install(*, is_compiling: bool = False) -> None:
    """Register the handler for compiled host calls, including calls that another process has traced.

    Raises:
      UnsupportedError: XLA cannot call Python.
    """
    ffi.register(WATCHDOG.watched(call_site.run), is_compiling=is_compiling)


def can_call_python() -> bool:
    """Return whether compiled code can call Python in this TensorFlow."""
    try:
        install(is_compiling=True)
    except UnsupportedError:
        return False
    return True


def host_node(
    op: ConcreteOp, tensors: Sequence[tf.Tensor], types: ArraySpecs, promised: Sequence[ArraySpec]
) -> list[tf.Tensor]:
    """Add a node that calls the host function; return its outputs, without a gradient.

    Raises:
      UnsupportedError: XLA lacks the dtype, cannot call Python, or does not order the stateful call.
      SignatureError: The shapes of the outputs cannot be computed from the shapes of the inputs.
    """
    with naming(op.subject):
        _check_dtypes([*types, *promised])
        _check_memory(types, "input {}")
        _check_memory(promised, "output {}")
        sizes = _sizes(op.host, types, promised)
        graph = tf.compat.v1.get_default_graph()
        order = _order(graph)[:] or [tf.constant(0)] if op.host.is_stateful else []
        install(is_compiling=True)  # again: at the import an error was suppressed, and here it names the op
    if not promised and not order:
        return []
    call = CallDescriptor(REGISTRY.token_of(op), types, promised, is_ordered=op.host.is_stateful)
    module = host_call(
        ffi.TARGET,
        call,
        sizes,
        problem=f"{op.subject}: an output has no possible shape:",
        is_kept=may_be_dynamic(
            tensors
        ),  # with dynamic sizes, XLA rejects a call that it keeps, and uses invalid sizes for a call that it drops
    )
    results = call_module(
        [*tensors, *order],
        version=9,
        module=module,
        Tout=[*(tf.as_dtype(type_.dtype) for type_ in promised), *([tf.int32] * len(order))],
        Sout=[*(tf.TensorShape(type_.shape) for type_ in promised), *([tf.TensorShape([])] * len(order))],
        platforms=["CPU"],
    )
    set_attribute(results[0].op, TOKEN_ATTRIBUTE, REGISTRY.token_of(op))
    if order:
        _order(graph)[:] = results[-1:]
    return list(results[: len(promised)])


def check_shape(
    inputs: Sequence[tf.Tensor], tensor: tf.Tensor, *, allowed: Sequence[SymbolicShape], what: str, problem: str
) -> tf.Operation:
    """Return a node that XLA refuses to compile unless a tensor has an allowed shape.

    Args:
      inputs: The inputs whose dimensions the allowed shapes refer to.
      tensor: The tensor.
      allowed: Shapes in terms of the inputs' dimensions.
      what: The name of the tensor in errors.
      problem: The text of the error before the shape.

    Raises:
      SignatureError: The rank of the tensor, or of an input, is unknown.
      ContractError: No allowed shape has the rank of the tensor.
    """
    types = [type_of(input_) for input_ in inputs]
    own = type_of(tensor)
    _check_ranks(types, "input {}")
    _check_ranks([own], what)
    candidates = [sizes for sizes in allowed if len(sizes) == len(own.shape or ())]
    if not candidates:
        ranks = sorted({len(sizes) for sizes in allowed})
        raise ContractError(problem, expected=f"{' or '.join(map(str, ranks))} dimensions", got=str(own))
    graph = tf.compat.v1.get_default_graph()
    n_nodes = len(graph.get_operations())
    module = check_of_shape([*types, own], candidates, f"{problem} It is")
    call_module([*inputs, tensor], version=9, module=module, Tout=[], Sout=[], platforms=["CPU"])
    node: tf.Operation = graph.get_operations()[n_nodes]
    set_attribute(node, TOKEN_ATTRIBUTE, "")
    convert_node_with(node, lambda _: tf.no_op())  # rows of one shape need one check
    return node


def _check_dtypes(types: ArraySpecs) -> None:
    for type_ in types:
        name = type_.dtype.name
        if name.startswith(_SUB_BYTE):
            raise UnsupportedError(
                f"XLA packs several {name} numbers into a byte, but TensorFlow stores each number in its own byte.",
                got=str(type_),
                remedy="Cast these tensors outside functions with jit_compile=True, for example with tf.cast(x, "
                "tf.int8), or call the op outside. TensorFlow does not convert between the two formats, so the "
                "results of its own ops are wrong too.",
            )
        if name not in ELEMENT_TYPES:
            raise UnsupportedError(
                f"XLA has no arrays of {'strings' if type_.dtype == STRING else type_.dtype}.",
                expected=f"one of {', '.join(ELEMENT_TYPES)}",
                got=str(type_),
                remedy="Call the op outside functions with jit_compile=True, or pass numbers.",
            )


def _check_memory(types: ArraySpecs, what: str) -> None:
    for number, type_ in enumerate(types):
        if is_too_large(type_):
            raise UnsupportedError(
                f"{what.format(number)} is too large.",
                expected="at most 2**48 bytes",
                got=str(type_),
                remedy="Fix the sizes in the signature, or call the op on smaller parts.",
            )


def _check_ranks(types: ArraySpecs, what: str) -> None:
    for number, type_ in enumerate(types):
        if type_.shape is None:
            raise SignatureError(
                f"{what.format(number)} has an unknown rank; XLA needs it at compile time.",
                got=str(type_),
                remedy="Specify the rank with tf.ensure_shape or input_signature=. Sizes may stay unknown.",
            )


def _sizes(host: HostFunction, types: ArraySpecs, promised: Sequence[ArraySpec]) -> list[SymbolicShape]:
    """Return the shapes of the outputs in terms of the inputs' dimensions."""
    _check_ranks(types, "input {}")
    sizes = host.symbolic_shapes(types)
    for number, (known, type_) in enumerate(zip(sizes, promised, strict=True)):
        if known is None:
            raise SignatureError(
                f"output {number} has an unknown shape; XLA needs it at compile time.",
                expected="sizes that can be computed from the input sizes",
                got=f"{type_} for inputs {', '.join(map(str, types))}",
                remedy=_remedy(host.output_spec, types),
            )
    return [known for known in sizes if known is not None]


def _remedy(output_spec: OutputSpec, types: ArraySpecs) -> str:
    signature = output_spec.signature if isinstance(output_spec, OpOutputSpec) else None
    if signature is not None and signature.run_time_names:
        names = ", ".join(sorted(signature.run_time_names))
        return (
            f"Signature {signature.text!r} leaves {names} to the run time. Write it as a formula of input sizes, as in "
            '"(n)->(n//2+1)", compute it with sizes=, or pad the output to a size that is known.'
        )
    if signature is not None:
        needed = {name for size in signature.computed.values() for name in size.unknown_without}
        return (
            f"sizes= computes sizes from {', '.join(sorted(needed))}. Make {'it' if len(needed) == 1 else 'them'} "
            "known with input_signature= or tf.ensure_shape. Other sizes may stay unknown."
        )
    example = ",".join(["()"] * len(types))
    if isinstance(output_spec, OpOutputSpec) and output_spec.shape is not None:
        return (
            f'XLA can use shape= for known sizes only. Write a signature, for example "{example}->()" for '
            "an elementwise function, or make all sizes known with input_signature= or tf.ensure_shape."
        )
    return f'Pass a signature to the op, for example signature="{example}->()" if it works element by element.'


def _order(graph: tf.Graph) -> list[tf.Tensor]:
    """Return a list that holds the tensor after which the next stateful call runs; empty before the first call."""
    if not is_outermost_compiled():
        raise UnsupportedError(
            "the op is stateful, and XLA does not guarantee the order of calls in loops, branches and inner functions.",
            remedy="Call the op directly in the function with jit_compile=True, or outside this function.",
        )
    return of_graph(graph, "order", list[tf.Tensor])
