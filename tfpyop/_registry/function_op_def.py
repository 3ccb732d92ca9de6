"""Define the op of a user's function."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from tfpyop._host.executor_map import ExecutorMap
from tfpyop._host.function import HostFunction
from tfpyop._registry.op_def import MAX_CONCRETE_OPS, ConcreteOp, OpDef, RuleSet
from tfpyop._registry.rule_op_def import bound_rules
from tfpyop._spec.coercion import Array
from tfpyop._spec.op_spec import OpSpec
from tfpyop._spec.outputs import OpOutputSpec
from tfpyop._spec.static_values import NO_STATIC, PLAIN_TYPES
from tfpyop._spec.tree import TreeSpec, is_leaf_type, outline


class FunctionOpDef(OpDef):
    """Define an op with the function and options of `differentiable_op`.

    Args:
      function: The user's function.
      spec: The spec of the op.
      rules: The rules declared with the op.
      make_op: Makes the `Op` object for users.
      unbound: For a method that is bound to an instance: the op of the method.
      instance: The instance to which the method is bound.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        spec: OpSpec,
        rules: RuleSet | None,
        make_op: Callable[[OpDef], Any],
        *,
        unbound: FunctionOpDef | None = None,
        instance: Any = None,
    ) -> None:
        super().__init__(function, spec, make_op, is_bound=unbound is not None)
        self._given_rules = rules
        self._unbound = unbound
        self._instance = instance
        self._plain_op: ConcreteOp | None = None
        self._counted_ops: dict[Hashable, ConcreteOp] = {}

    @cached_property
    def rules(self) -> RuleSet:
        """The rules declared for the op; for a bound method, the rules bound to the instance."""
        if self._unbound is None:
            return self._given_rules or RuleSet()
        return bound_rules(self._unbound.rules, self._instance, self)

    # -- calls

    def bind_arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[ConcreteOp, Sequence[Any]]:
        """Return the concrete op for the arguments of a call, and the flat inputs.

        There are three ways, the fastest first: only tensors; tensors and plain static values, or optional inputs, by a
        key; and all other calls. They give the same result.
        """
        if not kwargs and len(args) == self.spec.n_tensors_only and all(map(is_leaf_type, map(type, args))):
            return self._plain_op or self._make_plain_op(), args
        call = self._open_call(args) if self.spec.is_open and not kwargs else None
        if self.spec.n_counted is not None:
            call = self._counted_call(args, kwargs)
        if call is None:
            leaves, tree, static = self.spec.bind_arguments(args, kwargs)
            return self.specialize(tree, static), leaves
        leaves, key = call
        op = self._counted_ops.get(key)
        if op is None:
            op = self._keep_counted_op(key, args, kwargs)
        return op, leaves

    def _make_plain_op(self) -> ConcreteOp:
        if self._unbound is not None:
            self._plain_op = self._make_concrete_op(None, NO_STATIC, "")
        else:
            self._plain_op = self.specialize_from_payload("")
        return self._plain_op

    def _counted_call(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Sequence[Any], Hashable] | None:
        """Return the flat inputs and the key of the concrete op; None if the full binding of parameters is required.

        This is a shortcut for calls with one argument for each tensor parameter and plain static values.
        """
        kwargs = dict(kwargs)
        for parameter in self.spec.parameters.tensors[len(args) :]:
            if parameter.name not in kwargs or parameter.kind is parameter.POSITIONAL_ONLY:
                return None
            args = (*args, kwargs.pop(parameter.name))
        if len(args) != self.spec.n_counted:
            return None
        static = []
        for name, value in kwargs.items():
            if type(value) not in PLAIN_TYPES:
                return None
            static.append((name, type(value), repr(value)))
        if all(map(is_leaf_type, map(type, args))):
            return args, (None, tuple(static))
        leaves: list[Any] = []
        try:
            return leaves, (outline(tuple(args), leaves), tuple(static))
        except TypeError:  # the full binding of parameters reports the error
            return None

    def _open_call(self, args: Sequence[Any]) -> tuple[Sequence[Any], Hashable] | None:
        """Return the flat inputs and the key of the concrete op, for a signature that leaves open which inputs exist.

        The key says which arguments are None. The result is None if an argument is nested.
        """
        leaves = [value for value in args if value is not None]
        if not all(map(is_leaf_type, map(type, leaves))):
            return None
        return leaves, (True, *[value is None for value in args])

    def _keep_counted_op(self, key: Hashable, args: Sequence[Any], kwargs: Mapping[str, Any]) -> ConcreteOp:
        _, tree, static = self.spec.bind_arguments(args, kwargs)
        op = self.specialize(tree, static)
        if len(self._counted_ops) >= MAX_CONCRETE_OPS:
            self._counted_ops.clear()
        self._counted_ops[key] = op
        return op

    def arrange(self, outputs: Sequence[Any]) -> Any:
        """Return the outputs, nested like `dtype=`."""
        return self.spec.tree.unflatten(outputs)

    def call_native(self, op: ConcreteOp, tensors: Sequence[Any]) -> Sequence[Any]:
        """Call the native implementation with the parameters of the function."""
        assert op.rules.native is not None
        result = self.spec.call(op.rules.native.function, tensors, op.tree, op.static)
        outputs = op.host.output_spec
        assert isinstance(outputs, OpOutputSpec)
        return outputs.unpack_outputs(result)

    # -- concrete ops

    def _make_concrete_op(self, tree: TreeSpec | None, static: Mapping[str, Any], payload: str | None) -> ConcreteOp:
        executor_map = self._executor_map(lambda: op)
        if self._unbound is None or payload is None:
            host = self._host(tree, static, executor_map)
        else:
            shared = self._unbound._method_template.specialize_from_payload(payload)
            host = shared.host.with_function(self._caller(tree, static), executor_map)
        outputs = host.output_spec
        assert isinstance(outputs, OpOutputSpec)
        op = ConcreteOp(self, host, self.rules, outputs.signature, tree, static, payload)
        return op

    @cached_property
    def _method_template(self) -> FunctionOpDef:
        """For a method: an op whose host functions its bound ops share. They differ only in the instance."""
        return FunctionOpDef(self.function, self.spec.bound, RuleSet(), self.make_op)

    def _caller(self, tree: TreeSpec | None, static: Mapping[str, Any]) -> Callable[..., Any]:
        """Return a function that calls the user's function with flat arrays, and with destinations for `out`."""
        function, spec = self.function, self.spec

        def call(arrays: list[Array]) -> Any:
            return spec.call(function, arrays, tree, static)

        def call_with_out(arrays: list[Array], out: Sequence[Array] | None) -> Any:
            destination = out[0] if out and len(out) == 1 else out and tuple(out)
            return spec.call(function, arrays, tree, static, out=destination)

        def call_directly(arrays: list[Array]) -> Any:
            return function(*arrays, **static)

        def call_nested(arrays: list[Array]) -> Any:
            assert tree is not None
            return function(*tree.unflatten(arrays), **static)

        if spec.parameters.takes_out:
            return call_with_out
        if not spec.parameters.is_direct:
            return call
        return call_directly if tree is None else call_nested

    def _host(self, tree: TreeSpec | None, static: Mapping[str, Any], executor_map: ExecutorMap | None) -> HostFunction:
        spec, shape = self.spec, self.spec.shape
        signature = spec.concrete_signature(tree, static)
        outputs = OpOutputSpec(
            signature,
            None if shape is None else lambda shapes: shape(*shapes, **static),
            (*spec.dtypes, *(residual.dtype for residual in spec.residuals.values())),
            spec.tree,
            tuple(spec.residuals),
            self.function if isinstance(self.function, np.ufunc) else None,
            residual_signature=spec.residual_signature,
            object_names=spec.object_names,
            is_vectorized=spec.is_vectorized,
        )
        return HostFunction(
            self.subject,
            function=self._caller(tree, static),
            output_spec=outputs,
            looped=None if spec.is_vectorized else lambda dtypes: signature,
            in_rows=(lambda dtypes: signature) if spec.takes_rows else None,
            executor_map=executor_map,
            compute_dtype=spec.compute_dtype,
            is_stateful=spec.is_stateful,
            takes_out=spec.parameters.takes_out,
            hint=spec.parameters.hint,
        )

    # -- methods

    def bind_instance(self, instance: Any) -> FunctionOpDef:
        """Return the op of a method, bound to an instance."""
        method = self.function.__get__(instance, type(instance))
        return FunctionOpDef(method, self.spec.bound, None, self.make_op, unbound=self, instance=instance)
