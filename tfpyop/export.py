"""Export: list the ops that a saved model needs, and save and load models.

A saved model contains the names of ops, not their functions. To load it, import the modules that define them.
"""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

from tfpyop._atomic_files import writing_directory
from tfpyop._discovery import import_module
from tfpyop._lowering._tensorflow import is_trackable, parse_saved_model, trace_saved_model
from tfpyop._lowering.saved.native_model import make_native
from tfpyop._lowering.saved.nodes import tokens_of
from tfpyop._registry.exportable import export_error_with_defaults
from tfpyop._registry.op_def import REGISTRY, ConcreteOp
from tfpyop._registry.token import Token
from tfpyop.errors import ExportWarning, RegistrationError, UnsupportedError, nearest

__all__ = ["ExportWarning", "RequiredOp", "check", "load", "required_ops", "save"]


_GRAPH = "saved_model.pb"
_FINGERPRINT = "fingerprint.pb"
_KERAS_FILES = (".keras", ".h5", ".hdf5")
"""How names of files that Keras saves end."""
_OWNED = (_GRAPH, "saved_model.pbtxt", _FINGERPRINT, "variables", "assets")


@dataclass(frozen=True, slots=True, order=True)
class RequiredOp:
    """An op that a saved model calls.

    Attributes:
      name: The op's name, as in `tfpyop.registered_ops()`.
      module: The module that defines it: importing it makes the op available.
      is_available: Whether the op is known in this process.
      is_local: Whether the op can be available only in the process that saved the model.
    """

    name: str
    module: str
    is_available: bool
    is_local: bool

    @property
    def is_of_main(self) -> bool:
        """Whether the op belongs to the `__main__` module of a program, which cannot be imported."""
        return self.module == "__main__"


def required_ops(path: str | os.PathLike[str]) -> list[RequiredOp]:
    """List the ops that a SavedModel calls, by name, without importing or running anything.

    Args:
      path: The directory of the model.

    Raises:
      RegistrationError: The directory does not contain a SavedModel.
    """
    return _required(_tokens_of_file(path))


def load(path: str | os.PathLike[str], *, modules: Iterable[str] = (), options: Any = None) -> Any:
    """Import modules, and load a SavedModel whose ops they define.

    Only the named modules are imported. The model file cannot cause other imports.

    Args:
      path: The directory of the model.
      modules: Names of modules to import first.
      options: See `tf.saved_model.load`.

    Returns:
      The result of `tf.saved_model.load`.

    Raises:
      RegistrationError: The directory does not contain a SavedModel, or a module does not exist or raises.
      UnsupportedError: Ops are missing; the message names them and their modules.
    """
    if isinstance(modules, str):
        raise RegistrationError(
            "modules= is a string.", got=repr(modules), remedy=f"Pass a list: modules=[{modules!r}]."
        )
    for module in modules:
        import_module(module)
    tokens = _tokens_of_file(path)
    missing = [op for op in _required(tokens) if not op.is_available]
    if missing:
        raise _missing(os.fspath(path), missing, tokens)
    return tf.saved_model.load(os.fspath(path), options=options)


def _missing(path: str, ops: Sequence[RequiredOp], tokens: Sequence[Token]) -> UnsupportedError:
    """Return the error for a model that calls unknown ops or unknown rules of ops."""
    changed = [op for op in ops if REGISTRY.has(op.name)]
    unknown = [op for op in ops if op not in changed]
    rules = sorted({token.name for token in tokens for op in changed if token.op == op.name and not _is_known(token)})
    return UnsupportedError(
        f"the model in {path!r} needs ops that are not registered in this process."
        if unknown
        else f"the model in {path!r} calls numpy rules that its ops do not have in this process.",
        expected=", ".join([*(op.name for op in unknown), *rules]),
        remedy=_how_to_get(unknown, rules),
    )


def _how_to_get(unknown: Sequence[RequiredOp], rules: Sequence[str]) -> str:
    others = [op for op in unknown if not op.is_local and not op.is_of_main]
    importable = sorted({op.module for op in others if op.module not in sys.modules})
    renamed = [op.name for op in others if op.module in sys.modules]
    imported = sorted({op.module for op in others if op.module in sys.modules})
    ways = [
        f"Name the modules that define them: load(..., modules={importable})." if importable else None,
        f"The module {', '.join(map(repr, imported))} is imported, but does not define "
        f"{', '.join(map(repr, renamed))}, which may have been renamed or removed since the model was saved. "
        f"{nearest(renamed[0], REGISTRY.listed())}"
        if renamed
        else None,
        "Some of the ops exist only in the process that saved the model. To list them, call tfpyop.export.check there."
        if any(op.is_local for op in unknown)
        else None,
        "Ops of __main__ belong to the program that saved the model. Move them to a module, and save the model again."
        if any(op.is_of_main for op in unknown)
        else None,
        f"The ops of {', '.join(map(repr, rules))} have changed since the model was saved. Attach these rules again "
        "with @op.numpy_gradient or @op.numpy_jvp, or save the model again with the current ops."
        if rules
        else None,
    ]
    return " ".join(way for way in ways if way is not None)


def check(model: Any, *, signatures: Any = None) -> list[UnsupportedError]:
    """Find the ops of a model that cannot be available in any other process, before the model is saved.

    The functions of the model are traced as for saving, but no model is written.

    Args:
      model: A `tf.Module`, a Keras model, or another object that `tf.saved_model.save` accepts.
      signatures: See `tf.saved_model.save`.

    Returns:
      An error for each of these ops, with a remedy. The errors are not raised. Functions that have not been called and
      have no `input_signature=` are not saved in a model, so they are not checked.

    Raises:
      RegistrationError: The object is not a model that TensorFlow can save.
    """
    if not is_trackable(model):
        raise RegistrationError(
            "the model is not an object that TensorFlow can save.",
            got=f"{model!r:.80}",
            remedy="Pass a tf.Module or a Keras model.",
        )
    if isinstance(model, tf.types.experimental.PolymorphicFunction):
        raise RegistrationError(
            "the model is a function, not a tf.Module or a Keras model.",
            got=f"{model!r:.80}",
            remedy="Pass a tf.Module that has the function as an attribute: module = tf.Module(); module.call = "
            "function.",
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
    """Save a model, and warn about ops that cannot be available in any other process.

    With `native=True`, the native implementation of every op (`@op.native`) is saved instead of its function. The model
    then needs neither the modules of the ops nor Python: TensorFlow Serving or another language can run it. Its
    derivatives are TensorFlow's derivatives of the native implementations.

    The model is written next to its target and moved there when it is complete. If writing fails, for example because
    the disk is full, the target is unchanged. Files in the target that do not belong to a model are kept.

    Args:
      model: See `tf.saved_model.save`.
      path: The directory to write.
      signatures: See `tf.saved_model.save`.
      options: See `tf.saved_model.save`.
      native: Whether to save native implementations.

    Raises:
      UnsupportedError: `native=True` was passed, and an op has no native implementation.
    """
    target = os.fspath(path)
    write = _save_native if native else _save
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExportWarning)
        if "://" not in target:
            with writing_directory(target, owned=_OWNED, last=_GRAPH) as directory:
                write(model, directory, signatures, options)
        elif native:
            with tempfile.TemporaryDirectory() as local:
                write(model, Path(local), signatures, options)
                _move_to_remote(Path(local), target)
        else:  # written where options.experimental_io_device specifies, which may be another machine
            tf.saved_model.save(model, target, signatures, options)
    if native:
        return
    for error in _unexportable(_tokens_of_file(path)):
        warnings.warn(str(error), ExportWarning, stacklevel=2)


def _save(model: Any, directory: Path, signatures: Any, options: Any) -> None:
    tf.saved_model.save(model, str(directory), signatures, options)


def _save_native(model: Any, directory: Path, signatures: Any, options: Any) -> None:
    """Save a model, and replace the host calls in the written file."""
    tf.saved_model.save(model, str(directory), signatures, options)
    saved = parse_saved_model(str(directory))
    for meta_graph in saved.meta_graphs:
        make_native(meta_graph)
    (directory / _GRAPH).write_bytes(saved.SerializeToString())
    (directory / _FINGERPRINT).unlink(missing_ok=True)  # it belongs to the file before the replacement


def _move_to_remote(written: Path, path: str) -> None:
    """Copy a model next to a target that is not on a local disk, then rename its files, with the graph last."""
    staging = f"{path.rstrip('/')}.tfpyop-{os.urandom(4).hex()}"
    files = sorted((file for file in written.rglob("*") if file.is_file()), key=lambda file: file.name == _GRAPH)
    names = [file.relative_to(written).as_posix() for file in files]
    try:
        for file, name in zip(files, names, strict=True):
            tf.io.gfile.makedirs(os.path.dirname(f"{staging}/{name}"))
            tf.io.gfile.copy(str(file), f"{staging}/{name}")
        for name in (_GRAPH, _FINGERPRINT):  # of an old model: no reader may see a mixture
            if tf.io.gfile.exists(f"{path}/{name}"):
                tf.io.gfile.remove(f"{path}/{name}")
        for name in names:
            tf.io.gfile.makedirs(os.path.dirname(f"{path}/{name}"))
            tf.io.gfile.rename(f"{staging}/{name}", f"{path}/{name}", overwrite=True)
    finally:
        if tf.io.gfile.exists(staging):
            tf.io.gfile.rmtree(staging)


def _required(tokens: Iterable[Token]) -> list[RequiredOp]:
    found: dict[str, list[Token]] = {}
    for token in tokens:
        found.setdefault(token.op, []).append(token)
    return sorted(
        RequiredOp(name, same[0].module, all(map(_is_known, same)), same[0].is_local) for name, same in found.items()
    )


def _is_known(token: Token) -> bool:
    return REGISTRY.find_op(str(token)) is not None


def _unexportable(tokens: Iterable[Token]) -> list[UnsupportedError]:
    """Return the errors that explain why no other process can run the calls of these tokens."""
    errors = map(_why_unexportable, tokens)
    return list({str(error): error for error in errors if error is not None}.values())


def _why_unexportable(token: Token) -> UnsupportedError | None:
    op: ConcreteOp | None = REGISTRY.find_op(str(token))
    if op is not None:
        return export_error_with_defaults(op)
    return token.unknown() if token.is_local or token.is_of_main else None  # of a loaded model


def _tokens_of_file(path: str | os.PathLike[str]) -> list[Token]:
    try:
        saved = parse_saved_model(os.fspath(path))
    except OSError as error:
        if os.path.isfile(path) and os.fspath(path).endswith(_KERAS_FILES):
            raise RegistrationError(
                f"{os.fspath(path)!r} is a Keras file, not a SavedModel.",
                remedy="Import the modules that define its ops, and load it with keras.saving.load_model. To list its "
                "ops, save the loaded model with model.export.",
            ) from None
        raise RegistrationError(
            f"there is no SavedModel in {os.fspath(path)!r}.",
            got=str(error),
            remedy="Pass the directory that tf.saved_model.save, model.export or tfpyop.export.save wrote.",
        ) from None
    return [token for meta_graph in saved.meta_graphs for token in tokens_of(meta_graph)]
