"""Export: which ops a saved model needs, and loading and saving with that known.

A saved model holds the names of ops, not their functions: who loads it imports the modules that define them.
"""

from __future__ import annotations

import os
import secrets
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from tfpyop._discovery import import_module
from tfpyop._host_op import HostOp
from tfpyop._registry import REGISTRY
from tfpyop._token import Token
from tfpyop.errors import ExportWarning, RegistrationError, UnsupportedError
from tfpyop.lowering._tensorflow import parse_saved_model, trace_saved_model
from tfpyop.lowering.native_models import make_native
from tfpyop.lowering.saved_nodes import tokens_of

__all__ = ["ExportWarning", "RequiredOp", "check", "load", "required_ops", "save"]


_GRAPH = "saved_model.pb"
_FINGERPRINT = "fingerprint.pb"


@dataclass(frozen=True, slots=True, order=True)
class RequiredOp:
    """An op that a saved model calls.

    Attributes:
      name: The op's name, as in `tfpyop.registered_ops()`.
      module: The module that defines it: importing it makes the op available.
      is_available: Whether the op is known in this process.
      is_local: Whether it can be available in the process alone that saved the model.
    """

    name: str
    module: str
    is_available: bool
    is_local: bool

    @property
    def is_of_main(self) -> bool:
        """Whether it is of a program's `__main__`, which nobody can import."""
        return self.module == "__main__"


def required_ops(path: str | os.PathLike[str]) -> list[RequiredOp]:
    """The ops that a SavedModel calls, by name. Nothing is imported or run.

    Args:
      path: The directory of the model.

    Raises:
      RegistrationError: There is no SavedModel.
    """
    return _required(_tokens_of_file(path))


def load(path: str | os.PathLike[str], *, modules: Iterable[str] = (), options: Any = None) -> Any:
    """Import modules, and load a SavedModel whose ops they define.

    A file does not say what is imported: only the named modules are.

    Args:
      path: The directory of the model.
      modules: Names of modules to import first.
      options: As for `tf.saved_model.load`.

    Returns:
      What `tf.saved_model.load` returns.

    Raises:
      RegistrationError: There is no SavedModel, or no such module, or the module raises.
      UnsupportedError: Ops are missing; it names them and their modules.
    """
    if isinstance(modules, str):
        raise RegistrationError("modules= is text.", got=repr(modules), remedy=f"Give a list: modules=[{modules!r}].")
    for module in modules:
        import_module(module)
    missing = [op for op in required_ops(path) if not op.is_available]
    if missing:
        raise UnsupportedError(
            f"the model in {os.fspath(path)!r} needs ops that are not known in this process.",
            expected=", ".join(op.name for op in missing),
            remedy=_how_to_get(missing),
        )
    return tf.saved_model.load(os.fspath(path), options=options)


def _how_to_get(missing: Sequence[RequiredOp]) -> str:
    importable = sorted({op.module for op in missing} - {op.module for op in missing if op.is_local or op.is_of_main})
    local = any(op.is_local for op in missing)
    of_main = any(op.is_of_main for op in missing)
    ways = [
        f"Name the modules that define them: load(..., modules={importable})." if importable else None,
        "Some exist in the process alone that saved the model: see tfpyop.export.check." if local else None,
        "Ops of __main__ are of the program that saved the model: move them to a module, and save again."
        if of_main
        else None,
    ]
    return " ".join(way for way in ways if way is not None)


def check(model: Any, *, signatures: Any = None) -> list[UnsupportedError]:
    """Find the ops of a model that no other process could have, before it is saved.

    The functions of the model are traced as for saving, but nothing is written.

    Args:
      model: A `tf.Module`, a Keras model, or what else `tf.saved_model.save` takes.
      signatures: As for `tf.saved_model.save`.

    Returns:
      An error for each such op, which says what to do; not raised. Functions that have neither been called nor have an
      `input_signature=` are in no model, and not looked at.

    Raises:
      RegistrationError: It is no such model.
    """
    if not isinstance(model, tf.Module) and not hasattr(model, "_trackable_children"):
        raise RegistrationError(
            "this is not a model that TensorFlow saves.",
            got=f"{model!r:.80}",
            remedy="Give a tf.Module or a Keras model.",
        )
    if isinstance(model, tf.types.experimental.PolymorphicFunction):
        raise RegistrationError(
            "this is a function, not a model.",
            got=f"{model!r:.80}",
            remedy="Give the tf.Module that has it as an attribute: module = tf.Module(); module.call = function.",
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExportWarning)
        meta_graph = trace_saved_model(model, signatures)
    return _unexportable(tokens_of(meta_graph))


def save(
    model: Any,
    path: str | os.PathLike[str],
    *,
    signatures: Any = None,
    options: Any = None,
    native: bool = False,
) -> None:
    """Save a model, and warn of ops that no other process could have.

    With `native=True`, the native implementation of every op (`@op.native`) is written in the place of its function.
    The model then needs neither the modules of the ops nor Python: TensorFlow Serving or another language can run it.
    Its derivatives are TensorFlow's own, of the native implementations.

    Args:
      model: As for `tf.saved_model.save`.
      path: The directory to write.
      signatures: As for `tf.saved_model.save`.
      options: As for `tf.saved_model.save`.
      native: Whether to write native implementations.

    Raises:
      UnsupportedError: The model is to be native, and an op has no native implementation.
      OSError: The model cannot be written, or what TensorFlow raises then. With `native=True`, what the directory held
        before is unchanged after an error.
    """
    if native:
        _save_native(model, os.fspath(path), signatures, options)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExportWarning)
        tf.saved_model.save(model, os.fspath(path), signatures, options)
    for error in _unexportable(_tokens_of_file(path)):
        warnings.warn(str(error), ExportWarning, stacklevel=2)


def _save_native(model: Any, path: str, signatures: Any, options: Any) -> None:
    """Write a native model inside its directory under another name, and move it when all of it is written."""
    is_new = not tf.io.gfile.exists(path)
    partial = f"{path}/.partial-{secrets.token_hex(4)}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExportWarning)
            tf.saved_model.save(model, partial, signatures, options)
        saved = parse_saved_model(partial)
        for meta_graph in saved.meta_graphs:
            make_native(meta_graph)
        with tf.io.gfile.GFile(f"{partial}/{_GRAPH}", "wb") as file:
            file.write(saved.SerializeToString())
        _move(partial, path)
    finally:
        if tf.io.gfile.exists(partial):
            tf.io.gfile.rmtree(partial)
        if is_new and tf.io.gfile.exists(path) and not tf.io.gfile.listdir(path):
            tf.io.gfile.rmtree(path)


def _move(partial: str, path: str) -> None:
    """Move a model into the directory around it, over the files of an older model.

    The graph goes first and comes last, so that at no moment a graph lies beside variables of another model.
    """
    for name in (_FINGERPRINT, _GRAPH):
        if tf.io.gfile.exists(f"{path}/{name}"):
            tf.io.gfile.remove(f"{path}/{name}")
    for directory, _, files in tf.io.gfile.walk(partial):
        target = f"{path}{directory.removeprefix(partial)}"
        tf.io.gfile.makedirs(target)
        for name in files:
            if name not in (_FINGERPRINT, _GRAPH):  # TensorFlow's fingerprint is that of the graph before
                tf.io.gfile.rename(f"{directory}/{name}", f"{target}/{name}", overwrite=True)
    tf.io.gfile.rename(f"{partial}/{_GRAPH}", f"{path}/{_GRAPH}")


def _required(tokens: Iterable[Token]) -> list[RequiredOp]:
    found: dict[str, list[Token]] = {}
    for token in tokens:
        found.setdefault(token.op, []).append(token)
    return sorted(
        RequiredOp(name, same[0].module, all(map(_is_known, same)), same[0].is_local) for name, same in found.items()
    )


def _is_known(token: Token) -> bool:
    return REGISTRY.find_host_op(str(token)) is not None


def _unexportable(tokens: Iterable[Token]) -> list[UnsupportedError]:
    """Why no other process could run the calls that tokens stand for."""
    errors = map(_why_unexportable, tokens)
    return list({str(error): error for error in errors if error is not None}.values())


def _why_unexportable(token: Token) -> UnsupportedError | None:
    op: HostOp | None = REGISTRY.find_host_op(str(token))
    if op is not None:
        return op.unexportable()
    return token.unknown() if token.is_local or token.is_of_main else None  # of a loaded model


def _tokens_of_file(path: str | os.PathLike[str]) -> list[Token]:
    try:
        saved = parse_saved_model(os.fspath(path))
    except OSError as error:
        raise RegistrationError(
            f"there is no SavedModel in {os.fspath(path)!r}.",
            got=str(error),
            remedy="Give the directory that tf.saved_model.save, model.export or tfpyop.export.save wrote.",
        ) from None
    return [token for meta_graph in saved.meta_graphs for token in tokens_of(meta_graph)]
