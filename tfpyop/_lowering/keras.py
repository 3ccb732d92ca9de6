"""Keras: ops on symbolic tensors become operations of a functional model, or layers.

Both are saved in a model by the op's token, as in graphs. Imported as soon as Keras is imported.
"""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfpyop._lowering.autodiff.gradient_node import node_name
from tfpyop._lowering.composites import refuse_composites
from tfpyop._lowering.dispatch import call_symbolic_with
from tfpyop._lowering.tensors import numpy_dtype, tensor_of_value, type_of
from tfpyop._lowering.unknown_shapes import find_unknown_shape
from tfpyop._registry.bind import bind
from tfpyop._registry.exportable import export_error_with_defaults
from tfpyop._registry.op_def import REGISTRY, ConcreteOp, OpDef
from tfpyop._registry.token import Token, unreadable
from tfpyop._spec.coercion import DTypeContext
from tfpyop._spec.outputs import ArraySpec
from tfpyop.errors import ExportWarning, Shape, UnsupportedError, naming, shown

_PACKAGE = "tfpyop"


def call(op: ConcreteOp, leaves: Sequence[Any]) -> list[Any]:
    """Call an op on inputs, some of which are symbolic; return its flat symbolic outputs.

    Raises:
      UnsupportedError: The shape of an output is unknown.
    """
    _symbolic(op, leaves)  # may raise; inside the operation, Keras would wrap the error
    outputs: list[Any] = KerasOp(op)(*leaves)
    return outputs


@keras.saving.register_keras_serializable(_PACKAGE, name="OpCall")  # the name in files
class KerasOp(keras.Operation):
    """One call of an op in a functional model.

    Args:
      op: The op with its static values, or its token.
      name: The name of the operation. Default: the name of the op, made unique.
    """

    def __init__(self, op: ConcreteOp | str, *, name: str | None = None) -> None:
        self._op = _op_of(op)
        super().__init__(name=name or _unique_name(self._op.name))

    def call(self, *leaves: Any) -> list[tf.Tensor]:
        """Call the op on tensors."""
        return bind(REGISTRY.current(self._op), leaves)

    def compute_output_spec(self, *leaves: Any) -> list[keras.KerasTensor]:
        """Return the specs of the op's outputs for symbolic tensors."""
        return _symbolic(REGISTRY.current(self._op), leaves)

    def get_config(self) -> dict[str, Any]:
        """Return the op's token and the name. Warn if no other process could find the op."""
        _warn_of_unexportable(self._op)
        return {"name": self.name, "op": REGISTRY.token_of(self._op)}


@keras.saving.register_keras_serializable(_PACKAGE)
class OpLayer(keras.layers.Layer):
    """A layer that calls an op. Its inputs are separate arguments, or a list.

    Args:
      op: The op with its static values, or its token.
      **options: The options of every layer. Default of `name`: the name of the op, made unique.
    """

    def __init__(self, op: ConcreteOp | str, **options: Any) -> None:
        self._op = _op_of(op)
        if self._op.tree is not None or self._op.is_batched:  # a layer determines both in every call
            raise unreadable(f"{self._op.payload!s:.200}", subject=self._op.subject)
        super().__init__(**{"name": _unique_name(self._op.name), **options})
        self.supports_jit = self._op.definition.spec.is_compilable
        self.built = True

    def call(self, *inputs: Any) -> Any:
        """Call the op on tensors."""
        return self._applied(lambda op, leaves: _with_shapes(op, bind(op, leaves)), inputs)

    def compute_output_spec(self, *inputs: Any) -> Any:
        """Return the specs of the op's outputs for symbolic tensors."""
        return self._applied(_symbolic, inputs)

    def get_config(self) -> dict[str, Any]:
        """Return the options and the op's token. Warn if no other process could find the op."""
        _warn_of_unexportable(self._op)
        return {**super().get_config(), "op": REGISTRY.token_of(self._op)}

    def _applied(self, function: Callable[[ConcreteOp, Sequence[Any]], Sequence[Any]], inputs: tuple[Any, ...]) -> Any:
        """Apply a function of op and flat inputs, and arrange its results as the op's outputs."""
        definition = REGISTRY.current(self._op).definition
        assert isinstance(definition, OpDef)
        return definition.arrange(function(*definition.bind_arguments(_spread(inputs), self._op.static)))


def _op_of(op: Any) -> ConcreteOp:
    """Return the op of an operation or layer, which a file stores as a token.

    Raises:
      UnsupportedError: The file is damaged, or the op is not known in this process.
    """
    if isinstance(op, ConcreteOp):
        return op
    if not isinstance(op, str):
        raise UnsupportedError(
            "the file of a Keras model names an op by a value that is not text.",
            expected="the token of an op, such as 'tfpyop:my_ops:cube'",
            got=shown(op),
            remedy="The file may be damaged: save the model again.",
        )
    found: ConcreteOp = REGISTRY.require_op(op)
    if not isinstance(found.definition, OpDef):  # Keras calls only ops of users
        raise Token.parse(op).unreadable(op)
    return found


def _symbolic(op: ConcreteOp, leaves: Sequence[Any]) -> list[keras.KerasTensor]:
    """Return the specs of an op's outputs for inputs, some of which are symbolic."""
    known = list(map(_type_of, leaves))
    partners = DTypeContext.of([type_.dtype for type_ in known if type_ is not None])
    with naming(op.subject):
        for number, leaf in enumerate(leaves):
            refuse_composites(leaf, op.place(number))
        types = [
            type_of(tensor_of_value(leaf, partners, op.place(number))) if type_ is None else type_
            for number, (leaf, type_) in enumerate(zip(leaves, known, strict=True))
        ]
    outputs = op.visible(op.host.infer_outputs(types))
    _require_shapes(op, [type_.shape for type_ in outputs])
    return [keras.KerasTensor(type_.shape, tf.as_dtype(type_.dtype).name) for type_ in outputs]


def _with_shapes(op: ConcreteOp, outputs: Sequence[tf.Tensor]) -> Sequence[tf.Tensor]:
    """Return the outputs. Raise if the rank of an output is unknown, because Keras's layers and losses read shapes."""
    _require_shapes(op, [type_of(output).shape for output in outputs])
    return outputs


def _require_shapes(op: ConcreteOp, shapes: Sequence[Shape | None]) -> None:
    for number, shape in enumerate(shapes):
        if shape is None:
            raise _unknown_shape(op, number)


def _unknown_shape(op: ConcreteOp, number: int) -> UnsupportedError:
    remedy = 'Pass signature= to the op, for example "(n)->()" or "()->()", or pass shape=.'
    if op.definition.spec.shape is not None:
        remedy = (
            "Keras calls shape= with None for unknown sizes, such as the batch size, and the function raises for None. "
            "Make it return a shape, for example shape=lambda x: (*x[:-1], 3), or pass signature=."
        )
    return UnsupportedError(
        f"output {number} has an unknown shape, and Keras needs the shape.", subject=op.subject, remedy=remedy
    )


class _UnknownShapeError(UnsupportedError, ValueError):
    """An unknown-shape error that is also a ValueError, because Keras code expects TensorFlow's ValueError."""


def install() -> None:
    """Make ops accept symbolic tensors, and make errors in Keras name the op whose output has an unknown shape.

    Keras reads shapes long after the op was called, when a layer returns or in another layer. Until then,
    `tf.ensure_shape` can still set the shape.
    """
    call_symbolic_with(call)
    for name in ("as_list", "__len__"):
        _explain_in_keras(name)


def _explain_in_keras(name: str) -> None:
    read = getattr(tf.TensorShape, name)
    if hasattr(read, "tfpyop"):
        return

    @functools.wraps(read)
    def explained(shape: tf.TensorShape) -> Any:
        try:
            return read(shape)
        except ValueError as error:
            found = find_unknown_shape()
            reader = sys._getframe(1).f_globals.get("__name__", "")
            if found is None or shape.rank is not None or not reader.startswith("keras."):
                raise
            explained_error = _unknown_shape(*found)
            raise _UnknownShapeError(
                explained_error.problem, subject=explained_error.subject, remedy=explained_error.remedy
            ) from error

    explained.tfpyop = True  # type: ignore[attr-defined]  # a mark, so that it is replaced only once
    setattr(tf.TensorShape, name, explained)


def _type_of(leaf: Any) -> ArraySpec | None:
    """Return the spec of a tensor, which may be symbolic, or None for a plain value."""
    if isinstance(leaf, keras.KerasTensor):
        return ArraySpec(numpy_dtype(tf.as_dtype(leaf.dtype)), tuple(leaf.shape))
    return type_of(leaf) if isinstance(leaf, tf.Tensor) else None


def _warn_of_unexportable(op: ConcreteOp) -> None:
    error = export_error_with_defaults(op)
    if error is not None:
        warnings.warn(str(error), ExportWarning, stacklevel=3)


def _spread(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the inputs of a layer. A model with several inputs passes them in a list."""
    return tuple(inputs[0]) if len(inputs) == 1 and isinstance(inputs[0], list | tuple) else inputs


def _unique_name(name: str) -> str:
    """Return the op's own name, with a number from its second use on."""
    own = node_name(name)
    number = keras.backend.get_uid(own)
    return own if number == 1 else f"{own}_{number - 1}"
