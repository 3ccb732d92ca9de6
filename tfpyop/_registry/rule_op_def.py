"""Define the op of a numpy rule.

Its flat inputs are the inputs, outputs and residuals of the op to which the rule belongs, and the vectors. A rule that
does not use the outputs does not get them, so that a graph can drop the call that computes them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from tfpyop._host.executor_map import ExecutorMap
from tfpyop._host.function import HostFunction
from tfpyop._registry.op_def import (
    MAX_CONCRETE_OPS,
    ConcreteOp,
    NumpyRule,
    OpDef,
    PlainRule,
    Rule,
    RuleSet,
    SplitRule,
    Transform,
)
from tfpyop._spec.coercion import Array, DType, is_differentiable
from tfpyop._spec.missing_outputs import WithoutOutputs
from tfpyop._spec.payload import Needs, in_axes_of_payload, split_needs, with_in_axes, with_needs
from tfpyop._spec.rule_outputs import CotangentSpec, RuleOutputSpec, TangentSpec
from tfpyop._spec.rule_values import OF_TUPLES, Places, describe_rule_call, takes_tuple_for_array
from tfpyop._spec.signature import Signature
from tfpyop._spec.source_location import Site
from tfpyop._spec.tree import LEAF, TreeSpec, is_leaf_type
from tfpyop.errors import annotate, message_of


class RuleOpDef(OpDef):
    """Define the op of a numpy rule.

    Args:
      function: The rule.
      forward_op: The op to which the rule belongs.
      transform: The direction of differentiation.
      site: Where the rule was attached.
      wrt: The parameters of the forward op for whose inputs the rule is. Default: all.
      without_outputs: Why the rule does not get the outputs of the forward op; None if it gets them.
      loops_itself: Whether the rule takes loop dimensions although the op has `vectorized=False`.
      calls_function: Whether the rule calls the user's function, so that exceptions come from it.
      unbound: For the rule of a method that is bound to an instance: the op of the method's rule.
      instance: The instance to which the method is bound.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        forward_op: OpDef,
        transform: Transform,
        site: Site,
        *,
        wrt: tuple[str, ...] = (),
        without_outputs: WithoutOutputs | None = None,
        loops_itself: bool = False,
        calls_function: bool = False,
        unbound: RuleOpDef | None = None,
        instance: Any = None,
    ) -> None:
        self.suffix = ".".join([transform.value, *wrt])
        spec = forward_op.spec.of_rule(f"{forward_op.name}/{self.suffix}", site)
        super().__init__(function, spec, forward_op.make_op, is_bound=unbound is not None)
        self.forward_op = forward_op
        self.transform = transform
        self.wrt = wrt
        self.without_outputs = without_outputs
        self._loops_itself = loops_itself
        self._calls_function = calls_function
        self._unbound = unbound
        self._instance = instance
        self._ops_with_needs: dict[tuple[str, Needs], ConcreteOp] = {}

    @cached_property
    def rules(self) -> RuleSet:
        """The rules declared for the rule's op; for a bound method, the rules bound to the instance."""
        if self._unbound is None:
            return RuleSet()
        return bound_rules(self._unbound.rules, self._instance, self)

    @property
    def forward_ops(self) -> tuple[OpDef, ...]:
        """The op to which the rule belongs. If this op belongs to a rule itself, also the forward ops of that rule."""
        return (self.forward_op, *self.forward_op.forward_ops)

    # -- calls

    def bind_arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[ConcreteOp, Sequence[Any]]:
        """Bind positional arguments as inputs, and keyword arguments as static values of the forward op.

        Optional inputs that the call of the forward op leaves out are None, and so are their tangents.
        """
        leaves = [value for value in args if value is not None]
        if not all(map(is_leaf_type, map(type, leaves))):
            raise TypeError(f"{self.subject}: the op of a rule does not accept tuples or dicts as inputs")
        tree = None if len(leaves) == len(args) else self._tree_of(args)
        return self.specialize(tree, {**(self.spec.parameters.static_defaults or {}), **kwargs}), leaves

    def _tree_of(self, args: Sequence[Any]) -> TreeSpec:
        """Return the nesting of the inputs of the user's op, some of which are None.

        Raises:
          TypeError: One of these inputs is not optional.
        """
        signature = self.forward_ops[-1].spec.signature
        optional = frozenset() if signature is None else signature.marks.optional
        n_inputs = 0 if signature is None else len(signature.inputs)
        missing = [number for number, value in enumerate(args) if value is None]
        is_tangent = self.transform is Transform.JVP
        if not optional or any(number not in optional and not (is_tangent and number > n_inputs) for number in missing):
            raise TypeError(f"{self.subject}: input {missing[0]} is None, but it is not an optional input of the op")
        children = [TreeSpec("none") if value is None else LEAF for value in args[:n_inputs]]
        return TreeSpec("tuple", tuple(children))

    def arrange(self, outputs: Sequence[Any]) -> Any:
        """Return a single output unchanged, or several outputs as a tuple."""
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def call_native(self, op: ConcreteOp, tensors: Sequence[Any]) -> Sequence[Any]:
        """Call the native implementation like the rule, and return the vectors for differentiable values."""
        assert op.rules.native is not None
        assert op.forward_op is not None
        outputs = op.host.output_spec
        assert isinstance(outputs, RuleOutputSpec)
        dtypes = [np.dtype(tensor.dtype.as_numpy_dtype) for tensor in tensors]
        parts = outputs.split(tensors, dtypes)
        needs = outputs.needs_of(outputs.split(dtypes, dtypes).inputs)
        context = op.forward_op.context(parts, needs, without_outputs=self.without_outputs)
        result = op.rules.native.function(context, *outputs.given(parts, dtypes))
        wanted: Sequence[Any] = outputs.unpack_vectors(result, dtypes)
        return wanted

    # -- concrete ops

    def with_needs(self, op: ConcreteOp, needs: Needs) -> ConcreteOp:
        """Return one of the concrete ops for calls with these needs. The op of a VJP rule returns only what is needed.

        Args:
          op: The concrete op for calls in which everything is needed.
          needs: The value of `op.needs` in the rule. At least one is False, and at least one is True.
        """
        if op.payload is None:
            return self._make(op.tree, op.static, None, needs)
        known = self._ops_with_needs.get((op.payload, needs))
        if known is None:
            if len(self._ops_with_needs) >= MAX_CONCRETE_OPS:
                self._ops_with_needs.clear()
            known = self.specialize_from_payload(with_needs(op.payload, needs))
            self._ops_with_needs[op.payload, needs] = known
        return known

    def _read_concrete_op(self, payload: str) -> ConcreteOp:
        whole, needs = split_needs(payload)
        if needs is None:
            return super()._read_concrete_op(payload)
        levels = in_axes_of_payload(whole)
        op = self.specialize_from_payload(with_in_axes(whole, ()))
        return self._make(op.tree, op.static, with_in_axes(payload, ()), needs).batched(*levels)

    def _make_concrete_op(self, tree: TreeSpec | None, static: Mapping[str, Any], payload: str | None) -> ConcreteOp:
        return self._make(tree, static, payload, None)

    def _make(
        self, tree: TreeSpec | None, static: Mapping[str, Any], payload: str | None, needs: Needs | None
    ) -> ConcreteOp:
        forward_op = self.forward_op.specialize(tree, static)
        host = self._host(forward_op, self._executor_map(lambda: op), needs)
        signature = _input_signature(self.transform, forward_op, takes_outputs=self.without_outputs is None)
        op = ConcreteOp(self, host, self.rules, signature, tree, static, payload, forward_op, needs=needs)
        return op

    def _host(self, forward_op: ConcreteOp, executor_map: ExecutorMap | None, needs: Needs | None) -> HostFunction:
        outputs = self._output_spec(forward_op, needs)
        # workers of an executor run single elements
        loops_itself = self._loops_itself and self.spec.executor is None
        is_looped = not self.spec.is_vectorized and not loops_itself
        return HostFunction(
            self.subject,
            function=_rule_caller(self.function, outputs, forward_op),
            output_spec=outputs,
            looped=(lambda dtypes: signature_for(outputs, forward_op, dtypes)) if is_looped else None,
            in_rows=(lambda dtypes: signature_for(outputs, forward_op, dtypes)) if self.spec.takes_rows else None,
            executor_map=executor_map,
            compute_dtype=self.spec.compute_dtype,
            what="function" if self._calls_function else "rule",
        )

    def _output_spec(self, forward_op: ConcreteOp, needs: Needs | None) -> RuleOutputSpec:
        primal = forward_op.host.output_spec
        part = (lambda n_inputs: numbers_of(forward_op, self.wrt, n_inputs)) if self.wrt else None
        places = (lambda dtypes: places_of(forward_op, self.wrt, dtypes)) if forward_op.leaves_out_inputs else None
        if self.transform is Transform.VJP:
            signature, without = forward_op.signature, self.without_outputs
            return CotangentSpec(primal, signature, needs=needs, part=part, places=places, without_outputs=without)
        return TangentSpec(primal, needs=needs, part=part, places=places)

    # -- methods

    def bind_instance(self, instance: Any) -> OpDef:
        """Return the op of a method's rule, bound to an instance."""
        bound = self.forward_op.bind_instance(instance).rule_op(self.suffix)
        assert bound is not None
        return bound

    def bind_with(self, instance: Any, forward_op: OpDef) -> RuleOpDef:
        """Return the op of a method's rule, bound to an instance, for a forward op that is bound already."""
        function = self.function.__get__(instance, type(instance))
        return RuleOpDef(
            function,
            forward_op,
            self.transform,
            self.site,
            wrt=self.wrt,
            without_outputs=self.without_outputs,
            loops_itself=self._loops_itself,
            calls_function=self._calls_function,
            unbound=self,
            instance=instance,
        )


def bound_rules(rules: RuleSet, instance: Any, op: OpDef) -> RuleSet:
    """Return the rules of a method for its op that is bound to an instance."""

    def plain(rule: PlainRule) -> PlainRule:
        if isinstance(rule, NumpyRule):
            assert isinstance(rule.op, RuleOpDef)
            return replace(rule, op=rule.op.bind_with(instance, op))
        return rule.bound(instance)

    def bound(rule: Rule | None) -> Rule | None:
        if isinstance(rule, SplitRule):
            return SplitRule({names: plain(part) for names, part in rule.parts.items()})
        return None if rule is None else plain(rule)

    native = None if rules.native is None else rules.native.bound(instance)
    return RuleSet(bound(rules.vjp), bound(rules.jvp), native, rules.non_differentiable, rules.derived)


def numbers_of(op: ConcreteOp, names: Sequence[str], n_inputs: int) -> tuple[int, ...]:
    """Return the indices of the inputs of these parameters, in a call with this number of flat inputs."""
    known = op.definition.spec.parameters.places_of_inputs(op.tree, n_inputs)
    return tuple([number for name in names for number in known.get(name, ()) if number is not None])


def places_of(op: ConcreteOp, names: Sequence[str], inputs: Sequence[DType]) -> Places:
    """Return the places of the inputs that a rule for these parameters (without names: for all inputs) is for.

    Args:
      op: The op that was called.
      names: The names of the parameters.
      inputs: The dtypes of the flat inputs of the call.
    """
    if not names:
        return op.places(inputs)
    if not op.leaves_out_inputs:
        return numbers_of(op, names, len(inputs))
    known = op.definition.spec.parameters.places_of_inputs(op.tree, len(inputs))
    return tuple([place for name in names for place in known.get(name, ())])


def signature_for(spec: RuleOutputSpec, forward_op: ConcreteOp, dtypes: Sequence[DType]) -> Signature | None:
    """Return the signature of a rule's op for inputs of these dtypes, which determine the vectors that it returns.

    The result is None if the op to which the rule belongs has no signature.
    """
    parts = spec.split(dtypes, dtypes)
    signature = forward_op.signature
    if forward_op.forward_op is not None:
        outputs_of_rule = forward_op.host.output_spec
        assert isinstance(outputs_of_rule, RuleOutputSpec)
        signature = signature_for(outputs_of_rule, forward_op.forward_op, parts.inputs)
    if signature is None:
        return None
    is_vjp = isinstance(spec, CotangentSpec)
    n_outputs = spec.n_primal_outputs(parts)
    outputs = signature.outputs[:n_outputs]
    like = signature.inputs if is_vjp else outputs
    return signature.extended(
        signature.outputs if spec.takes_outputs else signature.outputs[n_outputs:],
        outputs if is_vjp else signature.inputs,
        outputs=[like[number] for number in spec.numbers(dtypes)],
    )


def _input_signature(transform: Transform, forward_op: ConcreteOp, *, takes_outputs: bool) -> Signature | None:
    """Return the input side of a rule's signature; None if inputs or outputs of the forward op are unknown."""
    signature = forward_op.signature
    if signature is None or not signature.outputs:
        return None
    n_outputs = len(signature.outputs) - len(forward_op.residual_names)
    vectors = signature.outputs[:n_outputs] if transform is Transform.VJP else signature.inputs
    return signature.extended(signature.outputs if takes_outputs else signature.outputs[n_outputs:], vectors)


def _rule_caller(
    rule: Callable[..., Any], outputs: RuleOutputSpec, forward_op: ConcreteOp
) -> Callable[[list[Array]], Any]:
    """Return a function of flat arrays that calls the user's rule."""

    def call(arrays: list[Array]) -> Any:
        dtypes = [array.dtype for array in arrays]
        parts = outputs.split(arrays, dtypes)
        needs = outputs.needs_of([array.dtype for array in parts.inputs])
        vectors = [
            None if vector is None or not is_differentiable(vector.dtype) else vector
            for vector in outputs.given(parts, dtypes)
        ]
        try:
            context = forward_op.context(parts, needs, is_numpy=True, without_outputs=outputs.without_outputs)
            return rule(context, *vectors)
        except Exception as error:
            if takes_tuple_for_array(error):
                annotate(error, OF_TUPLES)
            if _does_not_fit_call(error):
                vector = "cotangent" if isinstance(outputs, CotangentSpec) else "tangent"
                is_bound = forward_op.definition.is_bound
                annotate(error, f"The rule is called as {describe_rule_call(vector, len(vectors), is_bound=is_bound)}.")
            raise

    return call


def _does_not_fit_call(error: Exception) -> bool:
    """Whether Python raised because a function does not take the arguments, before any line of the function ran."""
    traceback = error.__traceback__
    is_outside = traceback is not None and traceback.tb_next is None
    return is_outside and isinstance(error, TypeError) and "argument" in message_of(error)
