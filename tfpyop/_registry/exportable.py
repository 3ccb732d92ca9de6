"""Whether a saved model that calls an op can be used by another process."""

from __future__ import annotations

from tfpyop._registry.op_def import ConcreteOp
from tfpyop.errors import UnsupportedError


def export_error(op: ConcreteOp) -> UnsupportedError | None:
    """Return the error for a call in a saved model that no other process can make; None if other processes can."""
    definition = op.definition
    if definition.is_bound:
        problem = "it is bound to an instance, which no other process has."
        remedy = "Make an op at the top level of a module, and give it what it reads of the instance as inputs."
    elif definition.is_local:
        problem = "its name holds for this process only, as it was made inside of a function, or of a lambda."
        remedy = "Make it with a def at the top level of a module, or give it a name=."
    elif definition.module == "__main__":
        problem = "it is defined in a script, which no other process imports."
        remedy = "Move it into a module."
    elif op.payload is None:
        problem = "it is called with a static value that is not JSON, so that a model cannot hold it."
        remedy = "Pass Python's numbers, text, lists, tuples or dicts: float(x), an Enum's value, a list for an array."
    else:
        return None
    return UnsupportedError(problem, subject=op.subject, remedy=remedy)


def export_error_with_defaults(op: ConcreteOp) -> UnsupportedError | None:
    """Return the same, and also the error for a default that another process may not have."""
    marks = op.definition.spec.parameters.default_marks
    defaults = op.definition.spec.parameters.static_defaults or {}
    unknown = [name for name, mark in marks.items() if mark is None and op.static.get(name) is defaults[name]]
    error = export_error(op)
    if error is not None or not unknown:
        return error
    return UnsupportedError(
        f"the default of {unknown[0]!r} cannot be written into a model, nor compared where the model is loaded.",
        subject=op.subject,
        got=f"{defaults[unknown[0]]!r:.80}",
        remedy="The process that loads the model takes its own default. Use a default that has a name in a module, "
        "such as a function or an Enum's member, or Python's numbers, text, lists, tuples or dicts.",
    )
