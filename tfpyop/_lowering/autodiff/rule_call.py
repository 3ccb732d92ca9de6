"""Applied rules: call a rule, and mark results of TensorFlow rules that numpy computed as nondifferentiable."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfpyop._lowering._tensorflow import is_watched
from tfpyop._lowering.autodiff.nondifferentiable import nondifferentiable
from tfpyop._lowering.autodiff.recorded_call import RecordedCall
from tfpyop._lowering.autodiff.unconnected import escapes_once, needs_concrete_values, unconnected_sources
from tfpyop._lowering.tensors import dtype_of, type_of
from tfpyop._numdiff.finite_differences import Numerical
from tfpyop._registry.bind import bind
from tfpyop._registry.op_def import ConcreteOp, NumpyRule, PlainRule, SplitRule, TensorFlowRule
from tfpyop._registry.rule_op_def import RuleOpDef, numbers_of, places_of
from tfpyop._rules.linear import integer_input
from tfpyop._rules.missing import detached_rule, inputs_without_rule
from tfpyop._rules.numerical import NumericalRule
from tfpyop._spec.coercion import is_differentiable
from tfpyop._spec.payload import Needs
from tfpyop._spec.rule_outputs import RuleInputs, RuleOutputSpec
from tfpyop._spec.rule_values import OF_TUPLES, OWN_OP, Places, describe_rule_call, takes_tuple_for_array
from tfpyop.errors import GradientError, TfpyopError, annotate


def apply_rule(call: RecordedCall, rule: TensorFlowRule, kind: str, vectors: Sequence[Any], needs: Needs) -> Any:
    """Call a rule in TensorFlow ops, and annotate its exceptions with the op."""
    try:
        return rule.function(call.op.context(call.values, needs), *vectors)
    except Exception as error:
        kind = rule.decorator or kind
        if isinstance(error, TfpyopError):
            error.with_subject(f"{kind} of {call.op.subject}")
        if not tf.executing_eagerly() and needs_concrete_values(error):
            numpy_form = f"attach the rule with @op.numpy_{kind}" if rule.has_numpy_form else OWN_OP
            raise GradientError(
                f"the op's {kind} rule calls numpy on a symbolic tensor.",
                subject=call.op.subject,
                remedy=f"Use TensorFlow ops in @op.{kind}, or {numpy_form}.",
            ) from error
        vector = "tangent" if kind == "jvp" else "cotangent"
        if rule.annotates:
            raise
        n_vectors = len(vectors) if rule.takes_vectors else 0
        called = describe_rule_call(vector, n_vectors, is_bound=call.op.definition.is_bound)
        hint = f" {OF_TUPLES}" if takes_tuple_for_array(error) else ""
        annotate(error, f"Raised in the {kind} rule of {call.op.subject}, called as {called}.{hint}")
        raise


def apply_numpy_rule(
    call: RecordedCall,
    rule: NumpyRule,
    vectors: Sequence[tf.Tensor | None],
    templates: Sequence[tf.Tensor],
    needs: Needs,
) -> list[tf.Tensor]:
    """Call the op of a numpy rule; return the vectors for differentiable values that are needed.

    Args:
      call: The call that is differentiated.
      rule: The rule.
      vectors: The cotangents or tangents that the rule takes; None for values without a derivative.
      templates: The outputs or inputs that the vectors belong to. A rule takes the value where there is no vector.
      needs: The needs of the call. At least one is True.
    """
    passed = [template if vector is None else vector for vector, template in zip(vectors, templates, strict=True)]
    return bind(rule_op_for(call, rule, needs), leaves_of_rule(call, rule, call.inputs, passed))


def leaves_of_rule(
    call: RecordedCall, rule: NumpyRule, inputs: Sequence[tf.Tensor], vectors: Sequence[tf.Tensor]
) -> list[tf.Tensor]:
    """Return the inputs of a numpy rule's op: the inputs, outputs (if the rule gets them), residuals and vectors."""
    assert isinstance(rule.op, RuleOpDef)
    outputs = call.outputs if rule.op.without_outputs is None else ()
    return [*inputs, *outputs, *call.nondifferentiable_residuals(), *vectors]


def split_parts(call: RecordedCall, rule: SplitRule) -> list[tuple[Places, PlainRule]]:
    """Return the rules for some inputs that an op has, with the places of these inputs in a call.

    Raises:
      GradientError: The op is declared linear in an integer input.
    """
    parts: list[tuple[Places, PlainRule]] = []
    for names, part in rule.parts.items():
        if call.op.rules.is_linear(names):
            _require_floating(call, names)
        parts.append((places_in_rule(call, names), part))
    return parts


def inputs_without_part(call: RecordedCall, rule: SplitRule) -> list[int]:
    """Return the indices of the differentiable inputs that none of the rules for some inputs is for."""
    known = [number for names in rule.parts for number in numbers_of(call.op, names, len(call.inputs))]
    tensors = enumerate(call.inputs)
    return [number for number, tensor in tensors if is_differentiable(dtype_of(tensor)) and number not in known]


def places_in_rule(call: RecordedCall, names: Sequence[str] = ()) -> Places:
    """Return the places of the inputs that a rule for these parameters (without names: for all inputs) is for."""
    if not names and not call.op.leaves_out_inputs:
        return range(len(call.inputs))
    return places_of(call.op, names, [dtype_of(tensor) for tensor in call.inputs])


def undefined_inputs(call: RecordedCall) -> list[int]:
    """Return the indices of the differentiable inputs that the op declares non-differentiable."""
    names = call.op.definition.spec.undefined
    numbers = numbers_of(call.op, names, len(call.inputs)) if names else ()
    return [number for number in numbers if is_differentiable(dtype_of(call.inputs[number]))]


def error_without_part(call: RecordedCall, rule: SplitRule, kind: str) -> GradientError:
    """Return the error for a derivative by inputs that none of the rules for some inputs is for."""
    op, missing = call.op, inputs_without_part(call, rule)
    by_name = op.definition.spec.parameters.places_of_inputs(op.tree, len(call.inputs))
    names = [name for name, numbers in by_name.items() if any(number in missing for number in numbers)]
    return inputs_without_rule(op, kind, names, [name for part in rule.parts for name in part])


def _require_floating(call: RecordedCall, names: Sequence[str]) -> None:
    for name in names:
        for number in numbers_of(call.op, [name], len(call.inputs)):
            dtype = dtype_of(call.inputs[number])
            if not is_differentiable(dtype):
                raise integer_input(call.op, name, dtype)


def is_separable(rule: PlainRule) -> bool:
    """Return whether a rule computes its cotangents one by one, so that separate calls cost no more than one call."""
    function = rule.op.function if isinstance(rule, NumpyRule) else None
    return isinstance(function, NumericalRule) and isinstance(function.method, Numerical)


def rule_op_for(call: RecordedCall, rule: NumpyRule, needs: Needs) -> ConcreteOp:
    """Return the op of a numpy rule for a call with these needs."""
    op = rule.op.specialize(call.op.tree, call.op.static)
    assert isinstance(rule.op, RuleOpDef)
    outputs = op.host.output_spec
    assert isinstance(outputs, RuleOutputSpec)
    if all(needs) or needs == outputs.needs_of([dtype_of(tensor) for tensor in call.inputs]):
        return op
    return rule.op.with_needs(op, needs)


def mark_unconnected(
    call: RecordedCall,
    rule: Callable[..., Any],
    vectors: Sequence[Any],
    results: Sequence[tf.Tensor | None],
    needs: Needs,
) -> list[tf.Tensor | None]:
    """Return the results of a rule in TensorFlow ops, marked so that differentiating a part made by numpy raises."""
    given = [*call.inputs, *call.outputs, *vectors]
    sources = [tensor for tensor in given if tensor is not None and is_differentiable(dtype_of(tensor))]
    if tf.executing_eagerly():
        sources = [tensor for tensor in sources if is_watched([tensor])]
        lost = sources if sources and _is_detached(call, rule, given, sources, needs) else []
    else:
        lost = unconnected_sources(results, sources)
    if not lost:
        return list(results)
    kept = iter(nondifferentiable(call.op, [value for value in results if value is not None], lost, detached_rule))
    return [None if value is None else next(kept) for value in results]


def _is_detached(
    call: RecordedCall,
    rule: Callable[..., Any],
    given: Sequence[tf.Tensor | None],
    sources: Sequence[tf.Tensor],
    needs: Needs,
) -> bool:
    """Return whether an eager rule reads values of these tensors in Python, checked once per kind of call."""
    replaced = {id(tensor) for tensor in sources}

    def with_symbolic(symbolic: Sequence[tf.Tensor]) -> Any:
        remaining = iter(symbolic)
        values = [next(remaining) if id(tensor) in replaced else tensor for tensor in given]
        n_inputs, n_values = len(call.inputs), len(call.inputs) + len(call.outputs)
        parts = RuleInputs(values[:n_inputs], values[n_inputs:n_values], call.residuals, ())
        return rule(call.op.context(parts, needs), *values[n_values:])

    types = tuple(None if tensor is None else (type_of(tensor), id(tensor) in replaced) for tensor in given)
    kind = (weakref.ref(getattr(rule, "__func__", rule)), types, needs)  # a rule may refer to its op
    return escapes_once(call.op.host, kind, with_symbolic, sources)
