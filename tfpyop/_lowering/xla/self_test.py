"""The self-test of XLA's interface: compiled calls of every kind, in a process that may crash.

`newer_version` runs it. It uses the same handler, structs and buffers as calls of ops.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfpyop._lowering._tensorflow import call_module
from tfpyop._lowering.xla import ffi
from tfpyop._lowering.xla.buffers import CallBuffers
from tfpyop._lowering.xla.call_descriptor import CallDescriptor
from tfpyop._lowering.xla.layouts import Layout
from tfpyop._lowering.xla.stablehlo import host_call
from tfpyop._lowering.xla.structs import Attributes, Buffers, CallFrame, Frame
from tfpyop._spec.coercion import Array
from tfpyop._spec.outputs import ArraySpec

_TARGET = "tfpyop_self_test"
_REVERSE, _RAISE = "tfpyop:self-test", "tfpyop:self-test-raise"
_ERROR = "the error of the self-test"
_N_CALLS = 100
_WRONG_SIZES: list[str] = []


def main(stages: tuple[str, ...]) -> None:
    """Run the test. The process ends with an error, or crashes, if the structs do not match XLA.

    Args:
      stages: The stages of a call, in the order of the handlers.
    """
    try:
        _test(stages)
    except Exception as error:
        sys.exit(str(error).splitlines()[0])


def _test(stages: tuple[str, ...]) -> None:
    api = ffi.load_api()
    handle = ffi.handler(api, _run)

    def checked(address: int) -> int | None:
        wrong = _wrong_sizes(CallFrame.from_address(address))
        _WRONG_SIZES.extend(wrong)
        return None if wrong else handle(address)

    ffi.connect(api, Layout((api.struct_size,), stages), checked, target=_TARGET)
    arrays: list[Array] = [
        np.arange(3, dtype=np.float32),
        np.arange(6, dtype=np.float64).reshape(2, 3),
        np.array([7], np.int8),
        np.array([1j, 2], np.complex64),
        np.zeros((0, 2), np.int64),
        np.array([True, False, True]),
    ]
    _check(arrays)
    _check(arrays[:2], _N_CALLS)
    _check_error(arrays[:1])


def _wrong_sizes(frame: CallFrame) -> list[str]:
    """Return the structs in a frame whose sizes, as XLA writes them, differ from the sizes in this package."""
    if frame.extension_start:  # XLA asks for the version, and passes no arrays
        return []
    expected: dict[str, type[Buffers | Attributes]] = {
        "arguments": Buffers,
        "results": Buffers,
        "attributes": Attributes,
    }
    found = {name: getattr(frame, name).struct_size for name in expected}
    sizes = {name: kind.struct_size.offset + _size(kind) for name, kind in expected.items()}
    return [
        f"{name}: expected {sizes[name]} bytes, got {found[name]}" for name in expected if sizes[name] != found[name]
    ]


def _size(kind: type[Buffers | Attributes]) -> int:
    return kind.items.offset + kind.items.size


def _run(site: bytes, frame: Frame) -> None:
    """Reverse each input into the output of the same number, or raise."""
    call = CallDescriptor.parse(site)
    inputs, outputs = CallBuffers(call, frame).arrays(frame)
    if call.token == _RAISE:
        raise ValueError(_ERROR)
    for array, output in zip(inputs, outputs, strict=True):
        output[...] = array[::-1]


def _compiled(token: str, arrays: Sequence[Array]) -> Any:
    """Return a function that makes a call with arrays of these types."""
    types = [ArraySpec.of(array) for array in arrays]
    module = host_call(_TARGET, CallDescriptor(token, types, types), [], problem="")
    signature = [tf.TensorSpec(array.shape, tf.as_dtype(array.dtype)) for array in arrays]

    def function(*tensors: tf.Tensor) -> list[tf.Tensor]:
        results = call_module(
            list(tensors),
            version=9,
            module=module,
            Tout=[spec.dtype for spec in signature],
            Sout=[spec.shape for spec in signature],
            platforms=["CPU"],
        )
        return list(results)

    return tf.function(function, jit_compile=True, autograph=False, input_signature=signature)


def _check(arrays: Sequence[Array], n_calls: int = 1) -> None:
    function = _compiled(_REVERSE, arrays)
    for _ in range(n_calls):
        results = [tensor.numpy() for tensor in function(*map(tf.constant, arrays))]
        if _WRONG_SIZES:
            raise RuntimeError(f"structs have other sizes: {', '.join(_WRONG_SIZES)}")
        for array, result in zip(arrays, results, strict=True):
            if result.dtype != array.dtype or not np.array_equal(result, array[::-1]):
                raise RuntimeError(f"a compiled call returned {result!r} instead of {array[::-1]!r}")


def _check_error(arrays: Sequence[Array]) -> None:
    try:
        _compiled(_RAISE, arrays)(*map(tf.constant, arrays))
    except tf.errors.InvalidArgumentError as error:
        if _ERROR in str(error):
            return
        raise RuntimeError(f"an exception arrived as {error}") from None
    raise RuntimeError("an exception of a compiled call was lost")
