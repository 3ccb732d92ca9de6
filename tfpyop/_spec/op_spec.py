"""Define the spec of an op: everything that is known when the op is defined.

The spec is read from the function and the options of `differentiable_op`, and checked.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import FrameType
from typing import Any

from tfpyop._spec.coercion import STRING, DType
from tfpyop._spec.computed_sizes import SizeFunction, read_sizes
from tfpyop._spec.domain import Domain
from tfpyop._spec.executor_source import ExecutorSource
from tfpyop._spec.options import (
    Residual,
    check_function,
    check_input_count,
    read_compute_dtype,
    read_executor,
    read_flag,
    read_names,
    read_outputs,
    read_prefer,
    read_residuals,
    read_shape_function,
    read_signature,
    read_vectorized,
)
from tfpyop._spec.parameters import BoundArguments, Parameters
from tfpyop._spec.signature import Signature
from tfpyop._spec.signature_text import NO_MARKS
from tfpyop._spec.source_location import Site, default_name, is_in_class, is_of_one_call
from tfpyop._spec.static_values import PLAIN_TYPES
from tfpyop._spec.tree import LEAF, TreeSpec
from tfpyop._spec.undefined import read_non_differentiable
from tfpyop.errors import RegistrationError, TfpyopError, naming

_ANY_VALUES = inspect.signature(lambda *values, **static: None)
"""The parameters of a numpy rule's op."""


@dataclass(frozen=True)
class OpSpec:
    """Store the declaration of an op: the function's parameters and the options of `differentiable_op`. Immutable."""

    name: str
    module: str
    """The module whose import defines the op."""
    is_local: bool
    """Whether the name is valid in this process only."""
    site: Site
    parameters: Parameters
    is_kept: bool = True
    """Whether the registry keeps the op. It does not keep an op of one instance, or of one call of a function."""
    signature: Signature | None = None
    shape: Callable[..., Any] | None = None
    dtypes: tuple[DType | None, ...] = (None,)
    tree: TreeSpec = LEAF
    """The nesting of the outputs."""
    residuals: Mapping[str, Residual] = field(default_factory=dict)
    sizes: Mapping[str, SizeFunction] = field(default_factory=dict)
    """The functions that compute output sizes."""
    compute_dtype: DType | None = None
    is_vectorized: bool = True
    takes_rows: bool = False
    """Whether the function and its numpy rules take exactly one loop dimension."""
    executor: ExecutorSource | None = None
    """The source of the executor that runs the elements of loop dimensions."""
    is_stateful: bool = False
    prefers_native: bool = False
    domain: Domain = field(default_factory=Domain)
    is_non_differentiable: bool = False
    """Whether the op has no derivatives."""
    undefined: tuple[str, ...] = ()
    """The parameters by whose inputs the op has no derivative."""
    is_surrogate: bool = False
    """Whether the rules are not the derivatives of the function."""

    @classmethod
    def read(cls, function: Any, frame: FrameType, options: Mapping[str, Any]) -> OpSpec:
        """Read and check a function and its options.

        Args:
          function: The user's function.
          frame: The frame in which `differentiable_op` was called.
          options: All options of `differentiable_op`.

        Raises:
          RegistrationError: The options contradict each other or the function.
          SignatureError: The signature is invalid.
        """
        check_function(function)
        site = Site.of(function, frame)
        default, module, is_local = default_name(function, frame)
        name = default if options["name"] is None else options["name"]
        with naming(f"op {name!r} ({site})"):
            _check_name(name)
            signature = read_signature(function, options["signature"], options["shape"], options["sizes"])
            signature, dtypes, tree = read_outputs(signature, options["dtype"])
            parameters = Parameters.of(function, read_names(options["static_argnames"]))
            check_input_count(parameters, signature, is_method=is_in_class(function))
            is_vectorized, takes_rows = read_vectorized(options["vectorized"], signature)
            is_stateful = read_flag("stateful", options["stateful"])
            residuals = read_residuals(options["residuals"], signature, options["shape"], is_stateful=is_stateful)
            is_non_differentiable, undefined = read_non_differentiable(options["non_differentiable"], parameters)
            return cls(
                name=name,
                module=module,
                is_local=is_local and options["name"] is None,
                site=site,
                parameters=parameters,
                is_kept=not is_of_one_call(function, frame),
                signature=signature,
                shape=read_shape_function(options["shape"]),
                dtypes=dtypes,
                tree=tree,
                residuals=residuals,
                sizes=read_sizes(options["sizes"], _with_residuals(signature, residuals), parameters),
                compute_dtype=read_compute_dtype(options["compute_dtype"]),
                is_vectorized=is_vectorized,
                takes_rows=takes_rows,
                executor=read_executor(options["executor"], is_vectorized=is_vectorized),
                is_stateful=is_stateful,
                prefers_native=read_prefer(options["prefer"]),
                domain=Domain.read(options["domain"], parameters.input_names),
                is_non_differentiable=is_non_differentiable,
                undefined=undefined,
                is_surrogate=read_flag("surrogate", options["surrogate"]),
            )

    @cached_property
    def subject(self) -> str:
        """The op's name and site for error messages."""
        return f"op {self.name!r} ({self.site})"

    @cached_property
    def n_inputs(self) -> int | None:
        """The number of inputs as the caller counts them; None without a signature, or if it is not fixed."""
        return None if self.signature is None else self.signature.n_inputs

    @property
    def is_compilable(self) -> bool:
        """Whether XLA can compile calls: the signature determines all shapes, and no output is text."""
        is_known = self.signature is not None and not self.signature.run_time_names
        return is_known and STRING not in self.dtypes

    @cached_property
    def n_counted(self) -> int | None:
        """The number of tensor parameters if calls can be read by counting the arguments; otherwise None.

        Then all positional parameters are tensors without defaults, and no default of a static parameter can change.
        """
        parameters, n_tensors = self.parameters, len(self.parameters.tensors)
        is_counted = parameters.signature is not None and parameters.variadic is None and parameters.is_direct
        has_defaults = parameters.n_required < n_tensors
        is_constant = all(type(value) in PLAIN_TYPES for value in (parameters.static_defaults or {}).values())
        is_repeated = self.signature is not None and self.signature.marks.repeated is not None
        is_complete = not has_defaults and not is_repeated and self.n_inputs in (None, n_tensors)
        return n_tensors if is_counted and is_constant and is_complete else None

    @cached_property
    def is_open(self) -> bool:
        """Whether the signature leaves open which inputs a call has, and flat positional arguments determine them.

        Then no default of a tensor parameter is a value, and no default of a static parameter can change.
        """
        if self.signature is None or self.signature.marks == NO_MARKS or self.parameters.signature is None:
            return False
        defaults = [parameter.default for parameter in self.parameters.tensors]
        is_constant = all(type(value) in PLAIN_TYPES for value in (self.parameters.static_defaults or {}).values())
        is_direct = self.parameters.is_direct
        return is_constant and is_direct and all(each is None or each is inspect.Parameter.empty for each in defaults)

    @cached_property
    def n_tensors_only(self) -> int | None:
        """The number of tensor parameters if there are no others and calls can be counted; otherwise None."""
        return self.n_counted if self.parameters.is_plain else None

    @cached_property
    def object_names(self) -> tuple[str, ...]:
        """The names of the residuals that are Python objects."""
        return tuple([name for name, residual in self.residuals.items() if residual.is_object])

    @cached_property
    def bound(self) -> OpSpec:
        """For a method: the spec of the ops that are bound to instances."""
        return replace(self, is_local=True, parameters=self.parameters.without_first())

    def of_rule(self, name: str, site: Site) -> OpSpec:
        """Return the spec of a numpy rule's op. It takes flat values and has no signature of its own."""
        parameters = replace(self.parameters, signature=_ANY_VALUES)
        return OpSpec(
            name=name,
            module=self.module,
            is_local=self.is_local,
            site=site,
            parameters=parameters,
            compute_dtype=self.compute_dtype,
            is_vectorized=self.is_vectorized,
            takes_rows=self.takes_rows,
            executor=self.executor,
            is_stateful=self.is_stateful,
            prefers_native=self.prefers_native,
            domain=self.domain,
        )

    @cached_property
    def full_signature(self) -> Signature | None:
        """The signature with the residuals among the outputs."""
        return _with_residuals(self.signature, self.residuals)

    @cached_property
    def residual_signature(self) -> Signature | None:
        """Without a signature: the dimensions of the residuals, in a signature without inputs."""
        if self.signature is not None or not self.residuals:
            return None
        return Signature.parse(f"->{','.join(residual.core for residual in self.residuals.values())}")

    def concrete_signature(self, tree: TreeSpec | None, static: Mapping[str, Any]) -> Signature | None:
        """Return the full signature of calls with this nesting of inputs and these static values.

        Raises:
          ValueError: The signature does not allow these inputs.
        """
        if self.full_signature is None:
            return None
        signature = self.full_signature.for_call(self._presence(self.full_signature, tree))
        return signature.with_sizes({name: size.bound(static) for name, size in self.sizes.items()})

    def _presence(self, signature: Signature, tree: TreeSpec | None) -> tuple[bool, ...]:
        """Return, for each input as the caller counts them, whether a call with this nesting has it."""
        if tree is None:
            return (True,) * len(signature.inputs)
        return self.parameters.presence(tree) if signature.marks.optional else (True,) * tree.n_leaves

    def bind_arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> BoundArguments:
        """Sort the arguments of a call into flat inputs, their nesting, and static values."""
        try:
            if self.signature is None:
                return self.parameters.bind(args, kwargs, None)
            return self.parameters.bind(args, kwargs, len(self.signature.inputs), self.signature.marks)
        except TfpyopError as error:
            raise error.with_subject(self.subject) from error.__cause__
        except TypeError as error:
            parameters = "" if self.parameters.signature is None else f"\n  Parameters: {self.parameters.signature}"
            if self.signature is not None and self.parameters.n_required > len(self.signature.inputs):
                parameters += f"; inputs of signature {self.signature.text!r}: {len(self.signature.inputs)}"
            raise TypeError(f"{self.subject}: {error}.{parameters}") from None

    def require_static(self, names: Iterable[str]) -> None:
        """Raise RegistrationError for a name that is not the name of a static parameter."""
        with naming(self.subject):
            self.parameters.require_static(names)

    def call(
        self,
        function: Callable[..., Any],
        leaves: Sequence[Any],
        tree: TreeSpec | None,
        static: Mapping[str, Any],
        **more: Any,
    ) -> Any:
        """Call a function that has the op's parameters with flat inputs and static values."""
        tensors = leaves if tree is None else tree.unflatten(leaves)
        args, kwargs = self.parameters.call_arguments(tensors, static)
        return function(*args, **kwargs, **more)


def _with_residuals(signature: Signature | None, residuals: Mapping[str, Residual]) -> Signature | None:
    """Return a signature with residuals among its outputs."""
    return None if signature is None else signature.with_outputs([residual.core for residual in residuals.values()])


def _check_name(name: Any) -> None:
    if not isinstance(name, str) or not re.fullmatch(r"[\w.:/<>()\[\]-]+", name):
        raise RegistrationError(
            f"{name!r} is not a valid op name.",
            remedy="Use a name= of letters, digits and the characters . : / - _ ( ) [ ]",
        )
    if re.search(r"/(vjp|jvp)(\.\w+)*\Z", name):
        raise RegistrationError(
            f"{name!r} is the name of a rule's op.", remedy="Give a name= that does not end in /vjp or /jvp."
        )
