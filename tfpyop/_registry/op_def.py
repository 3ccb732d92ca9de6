"""Entries: an op with all that belongs to it, as the registry and the lowerings hold it.

An entry makes host ops for calls, takes rules, and is bound to instances. `Op` is its face for users.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tfpyop._host.executor_map import ExecutorMap
from tfpyop._host.function import HostFunction
from tfpyop._registry.bind import bind
from tfpyop._registry.concrete_op import HostOp, batched_op
from tfpyop._registry.registry import import_host
from tfpyop._registry.rules import Rule, Rules
from tfpyop._spec.coercion import Array, DType, is_differentiable
from tfpyop._spec.op_spec import Definition
from tfpyop._spec.outputs import OpPromise
from tfpyop._spec.parameters import Division
from tfpyop._spec.rule_outputs import CotangentPromise, RulePromise, TangentPromise
from tfpyop._spec.rule_values import OF_TUPLES, takes_tuple_for_array
from tfpyop._spec.signature import Signature
from tfpyop._spec.source_location import Site
from tfpyop._spec.static_values import static_values
from tfpyop._spec.tree import LEAF, Structure, flatten
from tfpyop.errors import RegistrationError, TfpyopError, annotate

_MOST_HOST_OPS = 256
_ANY_VALUES = inspect.signature(lambda *values, **static: None)
"""The parameters of every rule's op: inputs, outputs, residuals and vectors, and static values by name."""


class Entry:
    """An op of a user's function."""

    def __init__(self, function: Callable[..., Any], definition: Definition, rules: Rules) -> None:
        self.function = function
        self.definition = definition
        self.rules = rules
        self.is_bound = False
        self.op: Any = None
        self._host_ops: dict[Any, HostOp] = {}

    # -- what it is

    @property
    def primals(self) -> tuple[Entry, ...]:
        """For the op of a rule: the op that it belongs to, and so on."""
        return ()

    @property
    def name(self) -> str:
        """The name it is registered under, or a local one."""
        return self.definition.name

    @property
    def site(self) -> Site:
        """Where it was made."""
        return self.definition.site

    @property
    def module(self) -> str:
        """The module that defines it."""
        return self.definition.module

    @property
    def is_local(self) -> bool:
        """Whether its name holds for this process only."""
        return self.definition.is_local

    @property
    def subject(self) -> str:
        """How errors name it."""
        return self.definition.subject

    # -- calls

    def divide(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Division:
        """Divide the arguments of a call into tensors and static values."""
        return self.definition.divide(args, kwargs)

    def pack(self, outputs: Sequence[Any]) -> Any:
        """Arrange flat outputs as the caller gets them."""
        return self.definition.structure.pack(outputs)

    def host_op(self, structure: Structure | None, static: Mapping[str, Any]) -> HostOp:
        """The op for inputs nested like this (None: not at all) and these static values."""
        payload = ""
        try:
            if structure is not None or static:
                payload = self.definition.parameters.payload(structure, static)
        except ValueError:  # not JSON: the token is one of this process, and saving warns
            return self._make_host_op(structure, static, None)
        return self.host_op_from_payload(payload)

    def host_op_from_payload(self, payload: str) -> HostOp:
        """The op that a token with this payload stands for, with static values of its own; kept for the next call."""
        host_op = self._host_ops.get(payload)
        if host_op is None:
            try:
                structure, static, levels = self.definition.parameters.read_payload(payload)
            except TfpyopError as error:
                raise error.about(self.subject) from None
            counts = {len(level) for level in levels} | ({structure.n_leaves} if structure is not None else set())
            if self.definition.n_inputs is not None and not counts <= {self.definition.n_inputs}:
                raise ValueError(f"{counts} inputs, not {self.definition.n_inputs}")
            host_op = self.host_op(structure, static) if levels else self._make_host_op(structure, static, payload)
            host_op = batched_op(host_op, *levels)
            if len(self._host_ops) >= _MOST_HOST_OPS:
                self._host_ops.clear()
            self._host_ops[payload] = host_op
        return host_op

    def call_flat(self, leaves: Sequence[Any], structure: Structure | None, static: Mapping[str, Any]) -> list[Any]:
        """Call with flat inputs; returns flat outputs."""
        return bind(self.host_op(structure, static), leaves)

    def _make_host_op(self, structure: Structure | None, static: Mapping[str, Any], payload: str | None) -> HostOp:
        static = static_values(static)
        host = self._host_function(structure, static, self._executor_map(lambda: op.token))
        op = HostOp(self.name, host, self.rules, self.definition.full_signature, structure, static, self, payload)
        return op

    def _executor_map(self, token: Callable[[], str]) -> ExecutorMap | None:
        """Return what runs the elements of loop dimensions; None to run them here, one after the other."""
        executor = self.definition.executor
        return None if executor is None else ExecutorMap(executor, token, import_host)

    def _host_function(
        self, structure: Structure | None, static: Mapping[str, Any], executor_map: ExecutorMap | None
    ) -> HostFunction:
        """Return the host function of a call with such inputs and static values."""
        function, definition = self.function, self.definition

        def call(arrays: list[Array]) -> Any:
            return definition.call(function, arrays, structure, static)

        def call_with_out(arrays: list[Array], out: Sequence[Array] | None) -> Any:
            destination = out[0] if out and len(out) == 1 else out and tuple(out)
            return definition.call(function, arrays, structure, static, out=destination)

        def call_plainly(arrays: list[Array]) -> Any:
            return function(*arrays)

        shape, takes_out = definition.shape, definition.parameters.takes_out
        is_plain = definition.parameters.is_plain and structure is None and not static
        promise = OpPromise(
            definition.full_signature,
            None if shape is None else lambda shapes: shape(*shapes, **static),
            (*definition.dtypes, *(dtype for _, dtype in definition.residuals.values())),
            definition.structure,
            tuple(definition.residuals),
            function if isinstance(function, np.ufunc) else None,
        )
        return HostFunction(
            self.subject,
            function=call_with_out if takes_out else call_plainly if is_plain else call,
            promise=promise,
            looped=None if definition.is_vectorized else lambda dtypes: definition.full_signature,
            executor_map=executor_map,
            compute_dtype=definition.compute_dtype,
            is_stateful=definition.is_stateful,
            takes_out=takes_out,
            hint=definition.parameters.hint,
        )

    def full_signature(
        self, dtypes: Sequence[DType], structure: Structure | None, static: Mapping[str, Any]
    ) -> Signature | None:
        """The signature of calls with inputs of these dtypes, with residuals among the outputs."""
        return self.definition.full_signature

    # -- the native implementation

    @property
    def prefers_native(self) -> bool:
        """Whether it is called by default, and must be there."""
        return self.definition.prefers_native

    def call_native(
        self, tensors: Sequence[Any], structure: Structure | None, static: Mapping[str, Any]
    ) -> Sequence[Any]:
        """Call it as the function is called; returns flat outputs.

        Raises:
          ContractError: They are not arranged as those of the op.
        """
        assert self.rules.native is not None
        assert self.rules.native.function is not None
        result = self.definition.call(self.rules.native.function, tensors, structure, static)
        promise = self.host_op(structure, static).host.promise
        assert isinstance(promise, OpPromise)
        return promise.outputs(result)

    # -- rules

    def rule_entry(self, kind: str) -> Any:
        """The entry of a numpy rule, `vjp` or `jvp`; None if there is none."""
        rule = self.rules.gradient if kind == "vjp" else self.rules.jvp
        return None if rule is None else rule.op

    def attach(self, kind: str, rule: Any, site: Site, *, is_numpy: bool) -> Any:
        """Attach a rule; returns the entry of a numpy rule.

        Raises:
          RegistrationError: There is a rule already, or there must not be one.
        """
        known = {"vjp": self.rules.gradient, "jvp": self.rules.jvp, "native": self.rules.native}[kind]
        problem = remedy = None
        if not callable(rule):
            name = {"vjp": "gradient", "jvp": "jvp", "native": "native"}[kind]
            problem = f"{rule!r:.80} is not {'an implementation' if kind == 'native' else 'a rule'}."
            remedy = f"Use the decorator without parentheses: @op.{'numpy_' if is_numpy else ''}{name}"
        elif self.rules.non_differentiable and kind != "native":
            problem, remedy = "it is declared non_differentiable, but given a rule.", "Remove one of the two."
        elif self.is_bound:
            problem = "a rule was attached to a bound method, where it would be lost."
            remedy = "Attach it in the body of the class; the rule of a method takes self first."
        elif known is not None and (known.site is self.site or not site.replaces(known.site)):  # or was an option
            what = "a native implementation" if kind == "native" else "such a rule"
            problem = f"it has {what} already, from {known.site}; another came at {site}."
            remedy = "Remove one of the two."
        if problem is not None:
            raise RegistrationError(problem, subject=self.subject, remedy=remedy)
        entry = RuleEntry(rule, self, kind, site) if is_numpy else None
        attached = Rule(site, op=entry) if is_numpy else Rule(site, function=rule)
        if kind == "vjp":
            self.rules.gradient = attached
        elif kind == "jvp":
            self.rules.jvp = attached
        else:
            self.rules.native = attached
        return entry

    # -- methods

    def bound(self, instance: Any) -> Entry:
        """The op of a method, bound to an instance."""
        method = self.function.__get__(instance, type(instance))
        parameters = self.definition.parameters.without_first()
        entry = Entry(method, replace(self.definition, is_local=True, parameters=parameters), Rules())
        entry.rules = self.rules.bound(instance, entry)
        entry.is_bound = True
        return entry


class RuleEntry(Entry):
    """The op of a numpy rule: inputs, outputs and residuals of its primal op and cotangents or tangents, all flat."""

    def __init__(self, rule: Callable[..., Any], primal: Entry, kind: str, site: Site) -> None:
        definition = replace(
            primal.definition,
            name=f"{primal.name}/{kind}",
            site=site,
            signature=None,
            shape=None,
            dtypes=(None,),
            structure=LEAF,
            residuals={},
            parameters=replace(primal.definition.parameters, signature=_ANY_VALUES),
        )
        super().__init__(rule, definition, Rules())
        self.primal = primal
        self.kind = kind

    @property
    def primals(self) -> tuple[Entry, ...]:
        """The op that the rule belongs to, and if that is of a rule itself, the op of that."""
        return (self.primal, *self.primal.primals)

    @property
    def prefers_native(self) -> bool:
        """As the op that it is a rule of, if the rule has a native implementation."""
        return super().prefers_native and self.rules.native is not None

    def divide(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Division:
        """All positional arguments are inputs, and keywords the static values of the primal op."""
        leaves, structure = flatten(tuple(args))
        if not structure.is_flat:
            raise TypeError(f"{self.subject}: the op of a rule takes flat inputs, no tuples or dicts")
        return Division(leaves, None, {**(self.definition.parameters.static_defaults or {}), **kwargs})

    def pack(self, outputs: Sequence[Any]) -> Any:
        """One value, or a tuple of them."""
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def _host_function(
        self, structure: Structure | None, static: Mapping[str, Any], executor_map: ExecutorMap | None
    ) -> HostFunction:
        """Return the host function that calls the rule; structure and static values are those of the primal op."""
        primal = self.primal.host_op(structure, static)
        promise = _promise(self.kind, primal)
        is_looped = not self.primal.definition.is_vectorized
        return HostFunction(
            self.subject,
            function=_rule_caller(self.function, promise, primal),
            promise=promise,
            looped=(lambda dtypes: self.full_signature(dtypes, structure, static)) if is_looped else None,
            executor_map=executor_map,
            compute_dtype=self.definition.compute_dtype,
        )

    def full_signature(
        self, dtypes: Sequence[DType], structure: Structure | None, static: Mapping[str, Any]
    ) -> Signature | None:
        """The signature of calls with inputs of these dtypes, on which it depends which vectors there are."""
        primal = self.primal.host_op(structure, static)
        parts = _promise(self.kind, primal).split(dtypes, dtypes)
        signature = self.primal.full_signature(parts.inputs, structure, static)
        if signature is None:
            return None
        outputs = signature.outputs[: len(parts.outputs)]
        like = (signature.inputs, parts.inputs) if self.kind == "vjp" else (outputs, parts.outputs)
        return signature.extended(
            signature.outputs,
            outputs if self.kind == "vjp" else signature.inputs,
            outputs=[core for core, dtype in zip(*like, strict=True) if is_differentiable(dtype)],
        )

    def call_native(
        self, tensors: Sequence[Any], structure: Structure | None, static: Mapping[str, Any]
    ) -> Sequence[Any]:
        """Call the native implementation as the rule is called; returns the cotangents or tangents there are."""
        assert self.rules.native is not None
        assert self.rules.native.function is not None
        host_op = self.host_op(structure, static)
        promise = host_op.host.promise
        assert isinstance(promise, RulePromise)
        dtypes = [np.dtype(tensor.dtype.as_numpy_dtype) for tensor in tensors]
        parts = promise.split(tensors, dtypes)
        result = self.rules.native.function(host_op.primal.context(parts), *parts.vectors)
        wanted: Sequence[Any] = promise.wanted(result, dtypes)
        return wanted

    def _make_host_op(self, structure: Structure | None, static: Mapping[str, Any], payload: str | None) -> HostOp:
        static = static_values(static)
        signature = _rule_signature(self.kind, self.primal.host_op(structure, static))
        host = self._host_function(structure, static, self._executor_map(lambda: op.token))
        op = HostOp(self.name, host, self.rules, signature, structure, static, self, payload)
        return op

    def bound(self, instance: Any) -> RuleEntry:
        """The op of a method's rule, bound to an instance."""
        entry: RuleEntry = self.primal.bound(instance).rule_entry(self.kind)
        return entry

    def bound_with(self, instance: Any, primal: Entry) -> RuleEntry:
        """The same, as the rule of a primal op that is bound already."""
        entry = RuleEntry(self.function.__get__(instance, type(instance)), primal, self.kind, self.site)
        entry.rules = self.rules.bound(instance, entry)
        entry.is_bound = True
        return entry


def _promise(kind: str, primal: HostOp) -> RulePromise:
    if kind == "vjp":
        return CotangentPromise(primal.host.promise, primal.signature)
    return TangentPromise(primal.host.promise)


def _rule_caller(rule: Callable[..., Any], promise: RulePromise, primal: HostOp) -> Callable[[list[Array]], Any]:
    """The function of a numpy rule's op: flat arrays in, the rule called as its author wrote it."""

    def call(arrays: list[Array]) -> Any:
        parts = promise.split(arrays, [array.dtype for array in arrays])
        vectors = [vector if is_differentiable(vector.dtype) else None for vector in parts.vectors]
        try:
            return rule(primal.context(parts, primal.host.evaluate), *vectors)
        except Exception as error:
            if takes_tuple_for_array(error):
                annotate(error, OF_TUPLES)
            raise

    return call


def _rule_signature(kind: str, primal: HostOp) -> Signature | None:
    """The input side of a rule's op; None where that of the primal op, or its outputs, are not known."""
    signature = primal.signature
    if signature is None or not signature.outputs:
        return None
    n_outputs = len(signature.outputs) - len(primal.residual_names)
    vectors = signature.outputs[:n_outputs] if kind == "vjp" else signature.inputs
    return signature.extended(signature.outputs, vectors)
