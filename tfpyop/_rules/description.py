"""Describe an op: what was declared, and the rules that are attached to it."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tfpyop._registry.op_def import LinearRule, NumpyRule, OpDef, PlainRule, parts_of
from tfpyop._rules.numerical import NumericalRule
from tfpyop._spec.op_spec import OpSpec


@dataclass(frozen=True, slots=True)
class RuleDescription:
    """Describe a rule that is attached to an op.

    Attributes:
      defines: What the rule defines: `"gradient"`, `"JVP"` or `"native"`.
      kind: What was attached: `"TensorFlow rule"`, `"numpy rule"`, `"Jacobian rule"`, `"adjoint rule"`,
        `"implicit rule"`, `"stationary rule"`, or the option that requests a numerical derivative or the missing rule
        of a pair.
      location: The file and line where it was attached.
      wrt: The parameters for whose inputs the rule is. Empty if it is for all inputs.
    """

    defines: str
    kind: str
    location: str
    wrt: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return the description in one line."""
        inputs = f" for {', '.join(self.wrt)}" if self.wrt else ""
        return f"{self.kind}{inputs} ({self.location})"


def rules_of(op: OpDef) -> tuple[RuleDescription, ...]:
    """Describe all rules that are attached to an op."""
    return tuple(_rules(op))


def describe_op(op: OpDef) -> Mapping[str, str]:
    """Return what was declared for an op, by topic."""
    spec, rules = op.spec, rules_of(op)
    lines = {
        "defined at": str(op.site),
        "signature": "none" if spec.signature is None else spec.signature.text,
        "sizes": ", ".join(map(str, spec.sizes.values())),
        "inputs": ", ".join(spec.parameters.input_names) or "unknown",
        "static": ", ".join(str(parameter) for parameter in spec.parameters.static_parameters.values()),
        "output dtypes": ", ".join(
            "result type of the inputs" if dtype is None else str(dtype) for dtype in spec.dtypes
        ),
        "options": ", ".join(_options(spec)),
    }
    for defines in ("gradient", "JVP", "native"):
        lines[defines] = "; ".join(str(rule) for rule in rules if rule.defines == defines)
    if spec.undefined:
        lines["undefined"] = f"the derivative by {', '.join(spec.undefined)}"
    if op.rules.non_differentiable:
        lines["gradient"] = "declared non_differentiable"
    return {topic: text for topic, text in lines.items() if text}


def as_text(op: OpDef) -> str:
    """Return the description of an op as text, one topic a line."""
    lines = describe_op(op)
    width = max(map(len, lines)) + 1
    return "\n".join([f"op {op.name!r}", *(f"  {topic + ':':{width}} {text}" for topic, text in lines.items())])


def as_html(op: OpDef) -> str:
    """Return the description of an op as a table in HTML."""
    rows = "".join(
        f'<tr><th style="text-align: left">{html.escape(topic)}</th>'
        f'<td style="text-align: left">{html.escape(text)}</td></tr>'
        for topic, text in describe_op(op).items()
    )
    return f"<table><caption>op <code>{html.escape(op.name)}</code></caption>{rows}</table>"


def _rules(op: OpDef) -> Iterator[RuleDescription]:
    rules = op.rules
    for defines, rule in (("gradient", rules.vjp), ("JVP", rules.jvp), ("native", rules.native)):
        for wrt, part in parts_of(rule).items():
            yield RuleDescription(defines, _kind(part), str(part.site), wrt)


def _kind(rule: PlainRule) -> str:
    if isinstance(rule, LinearRule):
        return "the op itself, because it is linear"
    function = rule.op.function if isinstance(rule, NumpyRule) else None
    if isinstance(function, NumericalRule) and function.method.sparsity is not None:
        return f"{function.option} with sparsity="
    return rule.kind or ("TensorFlow rule" if function is None else "numpy rule")


def _options(spec: OpSpec) -> Iterator[str]:
    if spec.shape is not None:
        yield "shape"
    if spec.compute_dtype is not None:
        yield f"compute_dtype={spec.compute_dtype}"
    if spec.residuals:
        shown = [f"{name} (object)" if kept.is_object else name for name, kept in spec.residuals.items()]
        yield f"residuals: {', '.join(shown)}"
    if not spec.is_vectorized:
        yield "vectorized=False"
    if spec.takes_rows:
        yield "vectorized='rows'"
    if spec.executor is not None:
        yield "executor"
    if spec.is_stateful:
        yield "stateful"
    if spec.is_surrogate:
        yield "surrogate"
    if spec.prefers_native:
        yield "prefer='native'"
