"""The VJP and the JVP of a function that solves an equation, by the implicit function theorem.

With F(x, y) = 0 at the output y, the VJP of y is v -> -(dF/dx)^T (dF/dy)^-T v, and the JVP is
t -> -(dF/dy)^-1 (dF/dx) t. Both read x and y only, so TensorFlow differentiates them again, to every order.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import MethodType
from typing import Any

import numpy as np

from tfpyop._registry.bind import Linearization, TensorFunction, lowering
from tfpyop._registry.op_def import ConcreteOp, Rule, SplitRule, TensorFlowRule, Transform, dtype_of
from tfpyop._rules.derived_rule import DerivedRule, shape_of
from tfpyop._rules.linear_solve import require_small, solve
from tfpyop._rules.linear_system import CallSystem, EquationOptions, with_tensors
from tfpyop._rules.unknowns import Unknowns
from tfpyop._spec.coercion import is_differentiable
from tfpyop._spec.outputs import ArraySpec, is_compatible
from tfpyop._spec.rule_context import RuleContext
from tfpyop._spec.rule_outputs import RuleInputs
from tfpyop._spec.rule_values import OWN_OP
from tfpyop._spec.undefined import UNDEFINED
from tfpyop.errors import ContractError, GradientError, Shape, describe_kind, with_article

_IF_OBJECTIVE = " If this is an objective that the outputs minimize, attach it with @op.stationary."
_IF_GRADIENT = " If this is the gradient of the objective, attach it with @op.implicit."

Evaluate = Callable[[RuleContext], Any]


class ImplicitDerivative(DerivedRule):
    """Compute a VJP or JVP from the residual of the equation that the outputs solve.

    Args:
      rule: The user's function, called as `rule(op)`.
      transform: The direction of differentiation.
      wrt: The parameters for whose inputs the rule is. Default: all.
      options: The options of the rule.
    """

    what = "an implicit rule"
    value = "residual"
    """What the user's function returns."""
    zero = "residual"
    """What is zero at the solution."""

    def __init__(
        self,
        rule: Callable[..., Any],
        transform: Transform,
        wrt: tuple[str, ...],
        options: EquationOptions,
    ) -> None:
        super().__init__(rule, transform, wrt)
        self.options = options

    def _products(self, evaluate: Evaluate, op: RuleContext, vectors: Sequence[Any]) -> list[Any]:
        numbers = self.numbers(op)
        needed = [number for number in numbers if op.needs[number]]
        equation, outputs = self._equation(evaluate, op, needed)
        if self.transform is Transform.VJP:
            found = dict(zip(needed, equation.vjp([vectors[number] for number in outputs]), strict=True))
            return [found.get(number) for number in numbers]
        given = dict(zip(numbers, vectors, strict=True))
        found = dict(zip(outputs, equation.jvp([given[number] for number in needed]), strict=True))
        return [found.get(number) for number in range(len(op.outputs))]

    def _equation(self, evaluate: Evaluate, op: RuleContext, needed: Sequence[int]) -> tuple[Equation, Sequence[int]]:
        """Return the equation as a function of the inputs that are needed, and the indices of its unknowns."""
        outputs = _differentiable(op.outputs)
        point = [op.inputs[number] for number in needed] + [op.outputs[number] for number in outputs]
        unknowns = Unknowns(self.layout(op), op.outputs, outputs)

        def function(tensors: Sequence[Any]) -> list[Any]:
            context = with_tensors(op, [*needed, *(len(op.inputs) + number for number in outputs)], tensors)
            return self.residuals(evaluate, context, outputs)

        system = None if self.options.solver is None else self._system(evaluate, op)
        equation = Equation(function, point, unknowns, len(needed), self.options, system)
        self.require_connected(function, equation.linearization, op)
        return equation, outputs

    def system(self, *arguments: Any) -> CallSystem:
        """Return the linear system of a call, for solvers without a matrix.

        Args:
          *arguments: The arguments of a rule, without vectors.
        """
        evaluate, op, _ = self._parsed(arguments)
        return self._system(evaluate, op)

    def _system(self, evaluate: Evaluate, op: RuleContext) -> CallSystem:
        """Return the linear system. Its derivatives may be by all inputs, whichever inputs this derivative is by."""
        inputs, outputs = _differentiable(op.inputs), _differentiable(op.outputs)
        places = [*inputs, *(len(op.inputs) + number for number in outputs)]
        op = replace(op, needs=tuple([number in inputs for number in range(len(op.inputs))]))

        def function(tensors: Sequence[Any]) -> list[Any]:
            return self.residuals(evaluate, with_tensors(op, places, tensors), outputs)

        unknowns = Unknowns(self.layout(op), op.outputs, outputs)
        return CallSystem(function, op, places, len(inputs), unknowns, self.options, self.wrt)

    def newton_step(self, *arguments: Any) -> list[Any]:
        """Return how far a step of Newton's method moves each output from the value that the function returned.

        The step is zero at the solution. It is None for outputs that are not differentiable.

        Args:
          *arguments: The arguments of a rule, without vectors.

        Raises:
          GradientError: The Jacobian of the residual by the outputs is singular.
        """
        evaluate, op, _ = self._parsed(arguments)
        equation, outputs = self._equation(evaluate, op, [])
        found = dict(zip(outputs, equation.newton_step(), strict=True))
        return [found.get(number) for number in range(len(op.outputs))]

    def residuals(self, evaluate: Evaluate, op: RuleContext, outputs: Sequence[int]) -> list[Any]:
        """Return the residuals of the differentiable outputs.

        Raises:
          ContractError: The number of residuals, a shape or a dtype is wrong.
        """
        result = evaluate(op)
        values = result if isinstance(result, tuple | list) else (result,)
        if len(values) != len(op.outputs):
            raise self._wrong_count(result, len(op.outputs))
        loop = self.layout(op).loop
        return [self._residual(values[number], op.outputs[number], number, loop) for number in outputs]

    def _residual(self, value: Any, output: Any, number: int, loop: Shape | None) -> Any:
        tf, what = lowering().tf, f"the residual of output {number}"
        if value is UNDEFINED:
            raise self._undefined()
        expected = ArraySpec(dtype_of(output), shape_of(output))
        if value is None:
            raise ContractError(
                f"{what} is None.",
                expected=str(expected),
                got="None",
                remedy="Return a residual for each output that is not an integer. Check that the rule has a return "
                "statement.",
            )
        tensor = tf.convert_to_tensor(value)
        got = ArraySpec(dtype_of(tensor), shape_of(tensor))
        if got.dtype != expected.dtype or (got.shape is not None and not is_compatible(got.shape, expected.shape)):
            is_objective = got.shape is not None and (got.shape == () or is_compatible(got.shape, loop))
            raise ContractError(
                f"{what} has the wrong {'shape' if got.dtype == expected.dtype else 'dtype'}.",
                expected=str(expected),
                got=str(got),
                remedy="Return each residual in the shape and dtype of its output. There must be one equation for "
                f"each unknown.{_IF_OBJECTIVE if is_objective and got.shape != expected.shape else ''}",
            )
        if None in (*(got.shape or (None,)), *(expected.shape or (None,))):
            tensor = _reshaped(tensor, output)
        return tensor

    def _wrong_count(self, result: Any, n_outputs: int) -> ContractError:
        is_many = isinstance(result, tuple | list)
        return ContractError(
            f"{self.what} returned the wrong number of {self.value}s.",
            expected=f"{n_outputs}, one for each of op.outputs",
            got=f"{describe_kind(result)} of {len(result)}" if is_many else f"one {type(result).__name__}",
            remedy="Return a tuple in the order of op.outputs. The residual of an integer output is ignored.",
        )

    def _undefined(self) -> GradientError:
        return GradientError(
            f"{self.what} returned UNDEFINED.",
            expected=f"{with_article(self.value)} in TensorFlow ops",
            got=repr(UNDEFINED),
            remedy="If the derivative by some inputs does not exist, name the inputs in non_differentiable=. To define "
            "only some derivatives, write the rule with @op.gradient.",
        )

    def require_connected(self, function: Callable[..., Any], linearization: Linearization, op: RuleContext) -> None:
        """Raise GradientError if the user's function computes with numpy, which TensorFlow cannot differentiate."""
        assert isinstance(op._op, ConcreteOp)
        kind = (weakref.ref(self), self.value, op.needs, len(linearization.values))
        if lowering().escapes(op._op, kind, function, linearization):
            raise GradientError(
                f"TensorFlow cannot trace how the {self.value} depends on the inputs and outputs.",
                remedy=f"Use only TensorFlow ops and ops of tfpyop in the {self.value} (no numpy, .numpy() or "
                f"tf.numpy_function), or {OWN_OP}.",
            )


class StationaryDerivative(ImplicitDerivative):
    """Compute a VJP or JVP from an objective whose gradient by the outputs is zero."""

    what = "a stationary rule"
    value = "objective"
    zero = "gradient of the objective"

    def residuals(self, evaluate: Evaluate, op: RuleContext, outputs: Sequence[int]) -> list[Any]:
        """Return the gradient of the objective by the differentiable outputs.

        Raises:
          ContractError: The objective is not one real number for each loop element.
          GradientError: The objective does not depend on an output.
        """
        tf = lowering().tf

        def objective(tensors: Sequence[Any]) -> list[Any]:
            context = with_tensors(op, [len(op.inputs) + number for number in outputs], tensors)
            return [self._objective(evaluate(context), context)]

        linearization = lowering().linearize(objective, [op.outputs[number] for number in outputs])
        self.require_connected(objective, linearization, op)
        gradients = linearization.vjp([tf.ones_like(linearization.values[0])])
        for number, gradient in zip(outputs, gradients, strict=True):
            if gradient is None:
                raise GradientError(
                    f"the objective does not depend on output {number}.",
                    remedy="Compute the objective from op.inputs and op.outputs.",
                )
        return gradients

    def _objective(self, result: Any, op: RuleContext) -> Any:
        tf = lowering().tf
        if result is None or isinstance(result, tuple | list):
            is_gradient = result is not None and len(result) == len(op.outputs) > 1
            hint = " Check that the rule has a return statement." if result is None else ""
            raise ContractError(
                f"{self.what} returned the wrong number of objectives.",
                expected="one tensor",
                got="None" if result is None else f"{describe_kind(result)} of {len(result)}",
                remedy="Return the function that the outputs minimize, maximize, or make stationary."
                f"{_IF_GRADIENT if is_gradient else hint}",
            )
        if result is UNDEFINED:
            raise self._undefined()
        tensor = tf.convert_to_tensor(result)
        loop, got = self.layout(op).loop, ArraySpec(dtype_of(tensor), shape_of(tensor))
        if not tensor.dtype.is_floating or (got.shape is not None and not is_compatible(got.shape, loop)):
            output = next(value for value in op.outputs if is_differentiable(dtype_of(value)))
            dtype, is_gradient = dtype_of(output), got.shape is not None and got.shape == shape_of(output)
            raise ContractError(
                "the objective is not one real number for each element of the loop dimensions.",
                expected=str(ArraySpec(np.zeros(0, dtype).real.dtype, loop)),
                got=str(got),
                remedy="Sum over the core dimensions, and keep the loop dimensions of the call."
                f"{_IF_GRADIENT if is_gradient else ''}",
            )
        return tensor


class Equation:
    """Solve the linear systems of the implicit function theorem for one call.

    Args:
      function: Returns the residuals for the inputs that are needed and the outputs.
      point: These inputs and outputs.
      unknowns: The outputs as vectors.
      n_inputs: The number of inputs that are needed.
      options: The options of the rule.
      system: The linear system, if it is solved without a matrix.
    """

    def __init__(
        self,
        function: TensorFunction,
        point: Sequence[Any],
        unknowns: Unknowns,
        n_inputs: int,
        options: EquationOptions,
        system: CallSystem | None,
    ) -> None:
        self.linearization = lowering().linearize(function, point)
        self._system = system
        self._unknowns = unknowns
        self._n_inputs = n_inputs
        self._options = options

    def vjp(self, cotangents: Sequence[Any]) -> list[Any]:
        """Return a cotangent for each input that is needed."""
        right = self._verified(self._unknowns.join(cotangents))
        solution = self._solve(right, Transform.VJP)
        return self.linearization.vjp(self._unknowns.split(-solution))[: self._n_inputs]

    def jvp(self, tangents: Sequence[Any]) -> list[Any]:
        """Return a tangent for each output."""
        moved = self.linearization.jvp([*tangents, *[None] * (len(self.linearization.point) - self._n_inputs)])
        right = self._verified(self._unknowns.join(moved))
        return self._unknowns.split(-self._solve(right, Transform.JVP))

    def newton_step(self) -> list[Any]:
        """Return a step of Newton's method for each output."""
        right = self._unknowns.join(self.linearization.values)
        return self._unknowns.split(-self._solve(right, Transform.JVP))

    def _verified(self, right: Any) -> Any:
        """Return the right-hand side, after checking that the quantity that `verify=` limits is zero."""
        limit = self._options.verify
        if limit is None:
            return right
        residual = self._unknowns.join(self.linearization.values)
        return require_small(right, residual, owner=self._options.subject, limit=limit, what=self._options.zero)

    def _solve(self, right: Any, transform: Transform) -> Any:
        is_vjp = transform is Transform.VJP
        if self._system is not None:
            whole = lowering().tf.reshape(right, [-1])
            solution = lowering().solve_iteratively(self._system, whole, is_transposed=is_vjp)
            return lowering().tf.reshape(solution, lowering().tf.shape(right))
        return solve(
            self._jacobian(is_transposed=is_vjp),
            right,
            owner=self._options.subject,
            precision=self._unknowns.precision,
            skips_zeros=is_vjp,
        )

    def _jacobian(self, *, is_transposed: bool) -> Any:
        """Return the Jacobian of the residuals by the outputs for each loop element, from one VJP for each unknown."""
        tf, unknowns = lowering().tf, self._unknowns

        def row(unit: Any) -> list[Any]:
            cotangents = unknowns.split(unknowns.for_all_elements(unit))
            return [unknowns.join(self.linearization.vjp(cotangents)[self._n_inputs :])]

        if isinstance(unknowns.n_unknowns, int) and unknowns.n_unknowns == 1:
            return row(unknowns.units()[0])[0][:, :, None]
        (rows,) = lowering().map_rows(lambda unit: row(unit), unknowns.units())
        return tf.transpose(rows, [1, 2, 0] if is_transposed else [1, 0, 2])


def implicit_derivative(rule: Rule | None) -> tuple[ImplicitDerivative, tuple[Any, ...]] | None:
    """Return the derivative that a rule computes from an equation, and the instance of a method, or None."""
    function = rule.function if isinstance(rule, TensorFlowRule) else None
    bound = (function.__self__,) if isinstance(function, MethodType) else ()
    derivative = function.__func__ if isinstance(function, MethodType) else function
    return (derivative, bound) if isinstance(derivative, ImplicitDerivative) else None


def linear_system_of(op: ConcreteOp, names: tuple[str, ...], call: RuleInputs[Any]) -> CallSystem:
    """Return the linear system of an implicit rule with `solve=` for a call.

    Args:
      op: The op that was called.
      names: The parameters for whose inputs the rule is; empty for all.
      call: The tensors of the call, without vectors.

    Raises:
      GradientError: The op has no such rule.
    """
    derivative, bound = _with_solver(op, names)
    return derivative.system(*bound, op.context(call, (True,) * len(call.inputs)))


def solver_of(op: ConcreteOp, names: tuple[str, ...]) -> Any:
    """Return `solve=` of the implicit rule for the inputs of these parameters. See `linear_system_of`."""
    return _with_solver(op, names)[0].options.solver


def _with_solver(op: ConcreteOp, names: tuple[str, ...]) -> tuple[ImplicitDerivative, tuple[Any, ...]]:
    rule = op.rules.vjp
    found = implicit_derivative(rule.parts.get(names) if isinstance(rule, SplitRule) else rule)
    if found is None or found[0].wrt != names or found[0].options.solver is None:
        raise GradientError(
            "the op has no implicit rule with solve=, but the graph contains a solution of such a rule.",
            subject=op.subject,
            remedy="The op has changed since the graph was made. Trace the function again, or save the model again.",
        )
    return found


def _differentiable(values: Sequence[Any]) -> list[int]:
    return [number for number, value in enumerate(values) if is_differentiable(dtype_of(value))]


def _reshaped(tensor: Any, output: Any) -> Any:
    """Return a residual whose shape is known only when the graph runs, after checking it."""
    tf = lowering().tf
    wanted, shape = tf.shape(output), tf.shape(tensor)
    problem = "the residual does not have the shape of its output. Expected, got:"
    same_rank = tf.equal(tf.rank(tensor), tf.rank(output))
    is_same = tf.cond(same_rank, lambda: tf.reduce_all(tf.equal(shape, wanted)), lambda: False)
    with tf.control_dependencies([tf.debugging.Assert(is_same, [problem, wanted, shape])]):
        checked = tf.identity(tensor)  # the derivative of the reshape reads its shape: it must wait for the check too
    checked = tf.reshape(checked, wanted)
    checked.set_shape(output.shape)
    return checked
