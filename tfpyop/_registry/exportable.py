"""Decide whether another process can use a saved model that calls an op."""

from __future__ import annotations

from tfpyop._registry.op_def import ConcreteOp
from tfpyop.errors import UnsupportedError


def export_error(op: ConcreteOp) -> UnsupportedError | None:
    """Return the error for a call that other processes cannot run from a saved model; None if they can."""
    definition = op.definition
    if definition.is_bound:
        problem = "the op is bound to an instance, which exists only in this process."
        remedy = (
            "Define an op at the top level of a module, and pass the values that it reads from the instance as inputs."
        )
    elif definition.is_local:
        problem = (
            "the op's name is valid in this process only, because the op was created inside a function or from a "
            "lambda."
        )
        remedy = "Define the op with a def statement at the top level of a module, or pass name=."
    elif definition.module == "__main__":
        problem = "the op is defined in a script, which other processes do not import."
        remedy = "Move the op to a module."
    elif op.payload is None:
        problem = "the op is called with a static value that is not JSON, so a model cannot store it."
        remedy = (
            "Pass Python numbers, strings, lists, tuples or dicts, for example float(x), the value of an Enum member, "
            "or array.tolist()."
        )
    else:
        return None
    return UnsupportedError(problem, subject=op.subject, remedy=remedy)


def export_error_with_defaults(op: ConcreteOp) -> UnsupportedError | None:
    """Return the error of `export_error`, or the error for a default that may differ in another process."""
    marks = op.definition.spec.parameters.default_marks
    defaults = op.definition.spec.parameters.static_defaults or {}
    unknown = [name for name, mark in marks.items() if mark is None and op.static.get(name) is defaults[name]]
    error = export_error(op)
    if error is not None or not unknown:
        return error
    return UnsupportedError(
        f"the default of {unknown[0]!r} cannot be stored in a model, so tfpyop cannot compare it when the model is "
        "loaded.",
        subject=op.subject,
        got=f"{defaults[unknown[0]]!r:.80}",
        remedy="A process that loads the model uses its own default. Use a default that is a Python number, "
        "string, list, tuple or dict, or that has a name in a module, such as a function or an Enum member.",
    )
