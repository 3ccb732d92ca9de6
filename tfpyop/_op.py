"""Define `Op`, the object that users hold. It delegates calls and rules to the op's definition."""

from __future__ import annotations

import importlib
import inspect
import sys
import warnings
from collections.abc import Callable
from types import FrameType, MappingProxyType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from tfpyop._import_hooks import keras_layer
from tfpyop._registry.bind import bind, lowering
from tfpyop._registry.op_def import REGISTRY, OpDef, Transform
from tfpyop._registry.token import Token
from tfpyop._rules.declaration import Wrt, declare_native, declare_numpy_rule, declare_rule
from tfpyop._rules.description import RuleDescription, as_html, as_text, rules_of
from tfpyop._rules.implicit import Solver, declare_equation
from tfpyop._rules.jacobian import declare_jacobian, declare_numpy_jacobian
from tfpyop._rules.linear import declare_adjoint, declare_numpy_adjoint
from tfpyop._spec.options import read_flag
from tfpyop._spec.source_location import Site, is_in_class
from tfpyop._tracebacks import hide_package_frames
from tfpyop.errors import ExportWarning, RegistrationError, nearest

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
Function = TypeVar("Function", bound=Callable[..., Any])


class Op(Generic[P, R]):
    """Wrap a numpy function as a TensorFlow op. Create ops with `differentiable_op`.

    An op has the metadata of the function (`__name__`, `__doc__`, signature). It is called like the function, with
    tensors.
    """

    autograph_info__ = MappingProxyType[str, Any]({})  # makes AutoGraph call the op without converting it

    if TYPE_CHECKING:  # the annotations of an op are the annotations of its function
        __name__: str
        __qualname__: str
        __wrapped__: Callable[P, R]
        _definition: OpDef
        _owners: tuple[type, ...]
        _unbound: Op[..., Any] | None
        _is_in_class: bool

    def __init__(self, definition: OpDef, *, unbound: Op[..., Any] | None = None) -> None:
        vars(self).update(
            __wrapped__=definition.function,
            __doc__=definition.function.__doc__,
            __module__=getattr(definition.function, "__module__", definition.module),  # ufuncs of SciPy have none
            _definition=definition,
            _owners=(),  # the classes that have this op as a method
            _unbound=unbound,  # for the op of an instance: the op of the method
            _is_in_class=unbound is None and is_in_class(definition.function),  # and is not bound
        )

    # -- properties

    @property
    def name(self) -> str:
        """The name under which the op is registered. It is `module:qualname` unless `name=` was passed."""
        return self._definition.name

    @property
    def numpy(self) -> Callable[P, R]:
        """The original, unmodified function; also available as `__wrapped__`."""
        return self.__wrapped__

    @property
    def signature(self) -> str | None:
        """The signature as text; None if the op has no signature."""
        signature = self._definition.spec.signature
        return None if signature is None else signature.text

    @property
    def output_dtypes(self) -> Any:
        """The declared dtypes, nested like the outputs. None stands for the result type of the inputs."""
        spec = self._definition.spec
        return spec.tree.unflatten(spec.dtypes)

    @property
    def gradient_name(self) -> str:
        """The common prefix of the gradient names of this op's call sites in graphs."""
        return self.name

    @property
    def __signature__(self) -> inspect.Signature:
        """The function's parameters. If Python cannot inspect the function: any inputs and any static values."""
        return self._definition.spec.parameters.signature or inspect.signature(lambda *inputs, **static: None)

    @property
    def rules(self) -> tuple[RuleDescription, ...]:
        """The attached rules, each with what it defines, its kind, its location, and the inputs that it is for."""
        return rules_of(self._definition)

    def describe(self) -> str:
        """Return what was declared for the op as text: location, signature, inputs, dtypes, options and rules.

        >>> from tfpyop import differentiable_op
        >>> double = differentiable_op(lambda x: 2 * x, signature="()->()", grad="numerical", name="double")
        >>> print(double.describe())  # doctest: +ELLIPSIS
        op 'double'
          defined at:    ...
          signature:     ()->()
          inputs:        x
          output dtypes: result type of the inputs
          gradient:      grad="numerical" (...)
          JVP:           grad="numerical" (...)
        """
        return as_text(self._definition)

    # -- calls

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Call the op with tensors, variables, arrays or numbers, in eager mode or in a graph.

        Returns:
          Tensors, nested like `dtype=` if it was passed. Otherwise one tensor, or a tuple of tensors.

        Raises:
          TypeError: The arguments do not match the function's parameters.
          TfpyopError: Inputs or outputs break the contract of the op.
        """
        definition = self._definition
        if (self._is_in_class or self._owners) and args and self._is_method_call(args[0]):
            # called through its class, or as a classmethod in a Python version that does not chain descriptors
            bound: Op[..., Any] = self.__get__(args[0], type(args[0]))
            return bound(*args[1:], **kwargs)
        try:
            return definition.arrange(bind(*definition.bind_arguments(args, kwargs)))
        except Exception as error:
            hide_package_frames(error)
            raise error  # `raise` alone would restore the frames in Python 3.10

    def _is_method_call(self, first: Any) -> bool:
        """Return whether the first argument is a class, or an instance of a class that has this op as a method."""
        return isinstance(first, self._owners) or (self._is_in_class and isinstance(first, type))

    # -- rules

    @overload
    def gradient(self, rule: Function, *, wrt: Wrt = None) -> Function: ...

    @overload
    def gradient(self, *, wrt: Wrt) -> Callable[[Function], Function]: ...

    def gradient(self, rule: Any = None, *, wrt: Wrt = None) -> Any:
        """Attach the VJP rule in TensorFlow ops.

        Args:
          rule: `rule(op, *cotangents)`, with one cotangent for each output. A cotangent has the shape and dtype of its
            output; for an integer output it is None. `op` has `inputs`, `outputs`, `residuals` and `static`, see
            `RuleContext`. Return one cotangent for each input: a tensor of the input's shape (or of the shape to which
            its loop dimensions broadcast), or None if no output depends on the input. A single value is treated as a
            1-tuple. Complex cotangents follow TensorFlow: for an analytic function, return the conjugate of the
            derivative times the cotangent. The rule of a method takes `self` first. Cotangents that are not used have
            False in `op.needs`.
          wrt: The parameters for whose inputs the rule is: a name or several names. The rule returns one cotangent for
            each of these inputs, in this order. Other rules are for the other inputs. The name of `*parameters`, or of
            a parameter that takes a tuple or dict, stands for all its inputs. Default: the rule is for all inputs.

        Returns:
          The rule, unchanged. If only `wrt` is passed, a decorator.

        Raises:
          RegistrationError: The op already has a VJP rule for these inputs, or is declared non-differentiable; or `wrt`
            does not name inputs.

        >>> import tensorflow as tf
        >>> from tfpyop import differentiable_op
        >>> square = differentiable_op(lambda x: x * x, signature="()->()")
        >>> @square.gradient
        ... def square_gradient(op, cotangent):
        ...     return 2 * op.inputs[0] * cotangent
        >>> x = tf.Variable(3.0)
        >>> with tf.GradientTape() as tape:
        ...     y = square(x)
        >>> tape.gradient(y, x).numpy()
        np.float32(6.0)
        """
        return self._declare(declare_rule, Transform.VJP, rule, wrt, sys._getframe(1))

    @overload
    def numpy_gradient(
        self, rule: Callable[..., Any], *, wrt: Wrt = None, uses_outputs: bool = True
    ) -> Op[..., Any]: ...

    @overload
    def numpy_gradient(
        self, *, wrt: Wrt = None, uses_outputs: bool = True
    ) -> Callable[[Callable[..., Any]], Op[..., Any]]: ...

    def numpy_gradient(self, rule: Any = None, *, wrt: Wrt = None, uses_outputs: bool = True) -> Any:
        """Attach the VJP rule as a numpy function.

        Args:
          rule: Like the rule of `gradient`, but it takes and returns numpy arrays. A returned None stands for a
            cotangent of zeros.
          wrt: The parameters for whose inputs the rule is, as in `gradient`.
          uses_outputs: Whether the rule reads `op.outputs`. If False, the rule does not get them, and graphs that need
            only derivatives do not call the function. This saves calls in Jacobians and Hessian-vector products.

        Returns:
          An op that evaluates the rule. It takes the inputs, outputs (unless `uses_outputs=False`), residuals and
          cotangents of this op, all flat, and returns the cotangents of the floating and complex inputs. For second
          derivatives, attach a `gradient` rule to it. If only options are passed, a decorator.

        Raises:
          RegistrationError: The op already has a VJP rule, or is declared non-differentiable; `wrt` does not name
            inputs; or `uses_outputs` is False for a stateful op.

        >>> from tfpyop import differentiable_op
        >>> square = differentiable_op(lambda x: x * x, signature="()->()")
        >>> @square.numpy_gradient
        ... def square_gradient(op, cotangent):
        ...     return 2 * op.inputs[0] * cotangent
        >>> square_gradient(3.0, 9.0, 1.0).numpy()
        np.float32(6.0)
        """
        options = {} if read_flag("uses_outputs", uses_outputs) else {"uses_outputs": False}
        return self._declare(declare_numpy_rule, Transform.VJP, rule, wrt, sys._getframe(1), **options)

    @overload
    def jvp(self, rule: Function, *, wrt: Wrt = None) -> Function: ...

    @overload
    def jvp(self, *, wrt: Wrt) -> Callable[[Function], Function]: ...

    def jvp(self, rule: Any = None, *, wrt: Wrt = None) -> Any:
        """Attach the JVP rule for forward mode in TensorFlow ops.

        Args:
          rule: `rule(op, *tangents)`, with one tangent for each input. The tangent of an integer input is None; the
            tangent of an input that is not watched is zero. Return one tangent for each output, in the shape of the
            output; None for integer outputs.
          wrt: The parameters for whose inputs the rule is. The rule takes one tangent for each of these inputs, in this
            order. tfpyop adds the tangents that the rules return. Default: the rule is for all inputs.

        Returns:
          The rule, unchanged.

        Raises:
          RegistrationError: The op already has a JVP rule, or is declared non-differentiable.

        >>> import tensorflow as tf
        >>> from tfpyop import differentiable_op
        >>> square = differentiable_op(lambda x: x * x, signature="()->()")
        >>> @square.jvp
        ... def square_jvp(op, tangent):
        ...     return 2 * op.inputs[0] * tangent
        >>> x = tf.constant(3.0)
        >>> with tf.autodiff.ForwardAccumulator(x, tf.constant(1.0)) as accumulator:
        ...     y = square(x)
        >>> accumulator.jvp(y).numpy()
        np.float32(6.0)
        """
        return self._declare(declare_rule, Transform.JVP, rule, wrt, sys._getframe(1))

    @overload
    def numpy_jvp(self, rule: Callable[..., Any], *, wrt: Wrt = None) -> Op[..., Any]: ...

    @overload
    def numpy_jvp(self, *, wrt: Wrt) -> Callable[[Callable[..., Any]], Op[..., Any]]: ...

    def numpy_jvp(self, rule: Any = None, *, wrt: Wrt = None) -> Any:
        """Attach the JVP rule as a numpy function.

        Args:
          rule: Like the rule of `jvp`, but it takes and returns numpy arrays. A returned None stands for a tangent of
            zeros.
          wrt: The parameters for whose inputs the rule is, as in `jvp`.

        Returns:
          An op that evaluates the rule. It takes the inputs, outputs, residuals and tangents of this op, all flat, and
          returns the tangents of the floating and complex outputs.

        Raises:
          RegistrationError: The op already has a JVP rule, or is declared non-differentiable.

        >>> from tfpyop import differentiable_op
        >>> square = differentiable_op(lambda x: x * x, signature="()->()")
        >>> @square.numpy_jvp
        ... def square_jvp(op, tangent):
        ...     return 2 * op.inputs[0] * tangent
        >>> square_jvp(3.0, 9.0, 1.0).numpy()
        np.float32(6.0)
        """
        return self._declare(declare_numpy_rule, Transform.JVP, rule, wrt, sys._getframe(1))

    @overload
    def jacobian(self, rule: Function, *, wrt: Wrt = None) -> Function: ...

    @overload
    def jacobian(self, *, wrt: Wrt) -> Callable[[Function], Function]: ...

    def jacobian(self, rule: Any = None, *, wrt: Wrt = None) -> Any:
        """Attach the Jacobian in TensorFlow ops. The VJP and the JVP follow from it.

        Args:
          rule: `rule(op)`. Return the derivative of each output by each input: an array with the loop dimensions of the
            call, then the core dimensions of the output, then the core dimensions of the input. For an elementwise op
            this is the partial derivative. Loop dimensions that are 1 or missing are broadcast. Return a tuple with one
            array for each input, and for several outputs a tuple of these tuples. A single input or output needs no
            tuple. None stands for zero. What is returned for integer inputs and outputs is ignored. Inputs with False
            in `op.needs` may have any value.
          wrt: The parameters for whose inputs the rule is, as in `gradient`.

        Returns:
          The rule, unchanged. If only `wrt` is passed, a decorator.

        Raises:
          RegistrationError: The op already has a VJP or JVP rule for these inputs, is declared non-differentiable, or
            is the op of a numpy rule; or `wrt` does not name inputs.

        >>> import tensorflow as tf
        >>> from tfpyop import differentiable_op
        >>> power = differentiable_op(lambda x, y: x**y, signature="(),()->()")
        >>> @power.jacobian
        ... def power_jacobian(op):
        ...     x, y = op.inputs
        ...     return y * x ** (y - 1), op.outputs[0] * tf.math.log(x)
        >>> x = tf.Variable(3.0)
        >>> with tf.GradientTape() as tape:
        ...     z = power(x, 2.0)
        >>> tape.gradient(z, x).numpy()
        np.float32(6.0)
        """
        return self._attach(declare_jacobian, rule, wrt, sys._getframe(1))

    @overload
    def numpy_jacobian(self, rule: Callable[..., Any], *, wrt: Wrt = None) -> Op[..., Any]: ...

    @overload
    def numpy_jacobian(self, *, wrt: Wrt) -> Callable[[Callable[..., Any]], Op[..., Any]]: ...

    def numpy_jacobian(self, rule: Any = None, *, wrt: Wrt = None) -> Any:
        """Attach the Jacobian as a numpy function. It stays on the host: TensorFlow gets its products with vectors.

        Args:
          rule: Like the rule of `jacobian`, but it takes and returns numpy arrays. It may return `scipy.sparse`
            matrices without loop dimensions, with the core dimensions of the output and of the input flattened.
          wrt: The parameters for whose inputs the rule is, as in `gradient`.

        Returns:
          An op that evaluates the VJP, like the op that `numpy_gradient` returns. For second derivatives, attach a
          `gradient` rule to it.

        Raises:
          RegistrationError: The op already has a VJP or JVP rule for these inputs, is declared non-differentiable, or
            is the op of a numpy rule; or `wrt` does not name inputs.

        >>> import numpy as np
        >>> from tfpyop import differentiable_op
        >>> matrix = np.float32([[1, 2], [3, 4]])
        >>> product = differentiable_op(lambda x: x @ matrix.T, signature="(2)->(2)")
        >>> vjp = product.numpy_jacobian(lambda op: matrix)
        >>> vjp([1.0, 1.0], [3.0, 7.0], [1.0, 0.0]).numpy()
        array([1., 2.], dtype=float32)
        """
        return self._attach(declare_numpy_jacobian, rule, wrt, sys._getframe(1))

    @overload
    def adjoint(self, rule: Function, *, linear_in: Wrt = None) -> Function: ...

    @overload
    def adjoint(self, *, linear_in: Wrt) -> Callable[[Function], Function]: ...

    def adjoint(self, rule: Any = None, *, linear_in: Wrt = None) -> Any:
        """Attach the adjoint in TensorFlow ops, for an op that is linear in its inputs.

        The adjoint is the VJP rule. The JVP is the op itself, called on the tangents. Second and higher derivatives
        follow.

        Args:
          rule: `rule(op, *cotangents)`, with one cotangent for each output, as for `gradient`. Return one cotangent for
            each linear input. For a matrix A, return the conjugate transpose of A times the cotangent.
          linear_in: The parameters in whose inputs the op is linear, if the other inputs are constant: a name or
            several names. The rule returns one cotangent for each of these inputs, in this order. Attach rules for the
            other inputs with `wrt=`, or further adjoint rules; without a rule, the derivative by them is an error.
            Default: the op is linear in all floating inputs together.

        Returns:
          The rule, unchanged. If only `linear_in` is passed, a decorator.

        Raises:
          RegistrationError: The op already has a VJP or JVP rule for these inputs, is declared non-differentiable or
            stateful; or `linear_in` does not name inputs.

        >>> import numpy as np
        >>> import tensorflow as tf
        >>> from tfpyop import differentiable_op
        >>> total = differentiable_op(lambda x: np.cumsum(x, -1), signature="(n)->(n)")
        >>> @total.adjoint
        ... def total_adjoint(op, cotangent):
        ...     return tf.cumsum(cotangent, -1, reverse=True)
        >>> x = tf.Variable([1.0, 2.0])
        >>> with tf.GradientTape() as tape:
        ...     y = total(x)
        >>> tape.gradient(y, x).numpy().tolist()
        [2.0, 1.0]
        """
        return self._attach(declare_adjoint, rule, linear_in, sys._getframe(1))

    @overload
    def numpy_adjoint(self, rule: Callable[..., Any], *, linear_in: Wrt = None) -> Op[..., Any]: ...

    @overload
    def numpy_adjoint(self, *, linear_in: Wrt) -> Callable[[Callable[..., Any]], Op[..., Any]]: ...

    def numpy_adjoint(self, rule: Any = None, *, linear_in: Wrt = None) -> Any:
        """Attach the adjoint as a numpy function, for an op that is linear in its inputs.

        Args:
          rule: Like the rule of `adjoint`, but it takes and returns numpy arrays.
          linear_in: The parameters in whose inputs the op is linear, as in `adjoint`.

        Returns:
          An op that evaluates the adjoint. It takes the inputs, residuals and cotangents of this op, all flat, and
          returns the cotangents of the linear inputs. It has all derivatives. Its rule does not get `op.outputs`,
          because an adjoint does not depend on them.

        Raises:
          RegistrationError: As for `adjoint`.

        >>> import numpy as np
        >>> from tfpyop import differentiable_op
        >>> total = differentiable_op(lambda x: np.cumsum(x, -1), signature="(n)->(n)")
        >>> @total.numpy_adjoint
        ... def total_adjoint(op, cotangent):
        ...     return np.flip(np.cumsum(np.flip(cotangent, -1), -1), -1)
        >>> total_adjoint([1.0, 2.0], [1.0, 1.0]).numpy().tolist()
        [2.0, 1.0]
        """
        return self._attach(declare_numpy_adjoint, rule, linear_in, sys._getframe(1))

    @overload
    def implicit(
        self, rule: Function, *, wrt: Wrt = None, solve: Solver | None = None, verify: float | None = None
    ) -> Function: ...

    @overload
    def implicit(
        self, *, wrt: Wrt = None, solve: Solver | None = None, verify: float | None = None
    ) -> Callable[[Function], Function]: ...

    def implicit(
        self, rule: Any = None, *, wrt: Wrt = None, solve: Solver | None = None, verify: float | None = None
    ) -> Any:
        """Attach the equation that the outputs solve, in TensorFlow ops. All derivatives follow from it.

        Use it for root finders and other solvers. The derivatives do not depend on how the function finds the solution.
        They follow by the implicit function theorem, to every order.

        Args:
          rule: `rule(op)`. Return the residual of the equation for each output, computed from `op.inputs` and
            `op.outputs` by TensorFlow ops or other ops of tfpyop. It is zero at the solution, and has the shape and
            dtype of the output. The elements of loop dimensions must not depend on each other. A single output
            needs no tuple. The residual of an integer output is ignored.
          wrt: The parameters for whose inputs the rule is, as in `gradient`.
          solve: How linear systems with the Jacobian J of the residual by the outputs are solved. Default: J is
            computed for each element of the loop dimensions, by one VJP of the residual for each element of the output.
            `"cg"`: conjugate gradients, if J is symmetric and positive definite. `"normal-cg"`: conjugate gradients on
            the normal equations, for any invertible J. Or a function `solve(matvec, b)` that returns x with
            `matvec(x) == b`, in TensorFlow ops; b is a real vector, of all loop elements together.
          verify: The largest absolute value of the residual. A larger residual raises GradientError when a derivative
            is computed. Default: no limit; `check_implicit` finds wrong solutions.

        Returns:
          The rule, unchanged. If only options are passed, a decorator.

        Raises:
          RegistrationError: The op already has a VJP or JVP rule for these inputs, is declared non-differentiable, has
            floating residuals or is the op of a numpy rule; or an option is invalid.

        >>> import numpy as np
        >>> import tensorflow as tf
        >>> from tfpyop import differentiable_op
        >>> cube_root = differentiable_op(lambda x: np.cbrt(x), signature="()->()")
        >>> @cube_root.implicit
        ... def cube_root_equation(op):
        ...     return op.outputs[0] ** 3 - op.inputs[0]
        >>> x = tf.Variable(8.0)
        >>> with tf.GradientTape() as tape:
        ...     y = cube_root(x)
        >>> print(f"{tape.gradient(y, x):.4f}")
        0.0833
        """
        return self._attach_equation("implicit", rule, wrt, sys._getframe(1), solve=solve, verify=verify)

    @overload
    def stationary(
        self, rule: Function, *, wrt: Wrt = None, solve: Solver | None = None, verify: float | None = None
    ) -> Function: ...

    @overload
    def stationary(
        self, *, wrt: Wrt = None, solve: Solver | None = None, verify: float | None = None
    ) -> Callable[[Function], Function]: ...

    def stationary(
        self, rule: Any = None, *, wrt: Wrt = None, solve: Solver | None = None, verify: float | None = None
    ) -> Any:
        """Attach the objective that the outputs minimize, maximize or make stationary, in TensorFlow ops.

        This is `implicit` with the gradient of the objective by the outputs as residual. The solution must be in the
        interior of its domain, where this gradient is zero.

        Args:
          rule: `rule(op)`. Return the objective, computed from `op.inputs` and `op.outputs`: one real number for each
            element of the loop dimensions.
          wrt: The parameters for whose inputs the rule is, as in `gradient`.
          solve: As in `implicit`. `"cg"` is for minimizers.
          verify: The largest absolute value of the gradient of the objective, as in `implicit`.

        Returns:
          The rule, unchanged. If only options are passed, a decorator.

        Raises:
          RegistrationError: As for `implicit`.

        >>> import numpy as np
        >>> import tensorflow as tf
        >>> from tfpyop import differentiable_op
        >>> mean = differentiable_op(lambda x: x.mean(-1), signature="(n)->()")
        >>> @mean.stationary
        ... def squared_distances(op):
        ...     return tf.reduce_sum((op.inputs[0] - op.outputs[0][..., None]) ** 2, -1)
        >>> x = tf.Variable([1.0, 2.0])
        >>> with tf.GradientTape() as tape:
        ...     y = mean(x)
        >>> tape.gradient(y, x).numpy().tolist()
        [0.5, 0.5]
        """
        return self._attach_equation("stationary", rule, wrt, sys._getframe(1), solve=solve, verify=verify)

    def _attach_equation(self, decorator: str, rule: Any, wrt: Wrt, frame: FrameType, **options: Any) -> Any:
        """Declare an equation, or return a decorator that does so if only options are passed."""
        if rule is None:
            return lambda rule: self._attach_equation(decorator, rule, wrt, sys._getframe(1), **options)
        declare_equation(self._definition, decorator, rule, self._site_of(rule, frame), wrt, **options)
        return rule

    def _declare(
        self,
        declare: Callable[..., Any],
        transform: Transform,
        rule: Any,
        wrt: Wrt,
        frame: FrameType,
        **options: Any,
    ) -> Any:
        """Declare a rule for one direction, or return a decorator that does so if only options are passed."""

        def declare_for(op: OpDef, rule: Any, site: Site, wrt: Wrt, **options: Any) -> Any:
            return declare(op, transform, rule, site, wrt, **options)

        return self._attach(declare_for, rule, wrt, frame, **options)

    def _attach(self, declare: Callable[..., Any], rule: Any, wrt: Wrt, frame: FrameType, **options: Any) -> Any:
        """Declare a rule, or return a decorator that does so if only options are passed."""
        if rule is None and (wrt is not None or options):
            return lambda rule: self._attach(declare, rule, wrt, sys._getframe(1), **options)
        rule_op = declare(self._definition, rule, self._site_of(rule, frame), wrt, **options)
        return rule if rule_op is None else rule_op.op

    def _site_of(self, rule: Any, frame: FrameType) -> Site:
        """Return the site where a rule is attached.

        Raises:
          RegistrationError: The rule is defined in this frame under the same name as the op, and would overwrite the
            op.
        """
        code = getattr(inspect.unwrap(rule), "__code__", None)
        is_defined_here = code is not None and code in frame.f_code.co_consts
        known = frame.f_locals.get(rule.__name__) if is_defined_here else None
        if type(known) is Op and op_def_of(known) in (self._definition, *self._definition.forward_ops):
            raise RegistrationError(
                "the rule has the same name as the op and would overwrite it.",
                subject=op_def_of(known).subject,
                remedy="Give the rule another name.",
            )
        return Site.of(rule, frame)

    # -- the native implementation

    def native(self, function: Function) -> Function:
        """Attach an implementation of the same function in TensorFlow ops.

        tfpyop calls it where Python cannot run: in functions that XLA compiles for an accelerator. To use it
        everywhere, call `tfpyop.prefer_native()` or pass `prefer="native"`. The op's derivative rules apply to it too.
        If the op has no rules, or its rules need Python or residuals where they are not available, TensorFlow
        differentiates the implementation.

        Args:
          function: Takes tensors and static values in the same way as the numpy function. Returns tensors with the
            shapes and dtypes of the op's outputs.

        Returns:
          The function, unchanged.

        Raises:
          RegistrationError: The op already has a native implementation.

        >>> import tensorflow as tf
        >>> from tfpyop import differentiable_op
        >>> square = differentiable_op(lambda x: x * x, signature="()->()", prefer="native")
        >>> @square.native
        ... def square_native(x):
        ...     return tf.square(x)
        >>> square(3.0).numpy()
        np.float32(9.0)
        """
        declare_native(self._definition, function, self._site_of(function, sys._getframe(1)))
        return function

    # -- in Keras

    def as_layer(self, *, name: str | None = None, **static: Any) -> Any:
        """Return the op as a Keras layer, for Sequential models and wherever Keras requires a layer.

        In functional models you can call the op itself. The layer takes its inputs as separate arguments or as a list.
        It has no weights, and follows Keras' dtype policy like any other layer.

        Args:
          name: The name of the layer. Default: the name of the op, made unique.
          **static: Values of static parameters.

        Returns:
          A `keras.layers.Layer`. A saved model stores it by the name of the op.

        Raises:
          RegistrationError: The op has no static parameter of this name.

        >>> from tfpyop import differentiable_op
        >>> double = differentiable_op(lambda x: 2 * x, signature="()->()", grad=lambda op, grad: 2 * grad)
        >>> import keras
        >>> keras.Sequential([keras.Input((3,)), double.as_layer()]).output_shape
        (None, 3)
        """
        self._definition.spec.require_static(static)
        layer = keras_layer()
        return layer(self._definition.specialize(None, static), **({} if name is None else {"name": name}))

    # -- Python's function protocol

    def __set_name__(self, owner: type, name: str) -> None:
        """Record a class that has this op as a method. Python calls this when it creates the class."""
        if hasattr(type(self.__wrapped__), "__get__"):
            vars(self)["_owners"] += (owner,)

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> Op[..., R]: ...  # the op may be a classmethod

    @overload
    def __get__(self: Op[Concatenate[Any, Q], R], instance: object, owner: type | None = None) -> Op[Q, R]: ...

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """Return the op bound to an instance, as for functions. Each access returns a new op."""
        if instance is None or not hasattr(type(self.__wrapped__), "__get__"):
            return self
        return Op(self._definition.bind_instance(instance), unbound=self)

    @property
    def __func__(self) -> Op[..., Any]:
        """The unbound op of a bound op. `inspect` reads its parameters, as it does for methods."""
        if self._unbound is None:
            raise AttributeError("__func__")
        return self._unbound

    def get_build_config(self) -> None:
        """Warn if Keras would not find the op when it loads the model. Keras calls this when it saves an object.

        Where Keras accepts a function, such as `activation=` or `loss=`, it saves the function's bare name, unless the
        function is registered with Keras.
        """
        keras = sys.modules["keras"]
        if keras.saving.get_registered_name(self) == self.__name__:
            warnings.warn(
                f"{self._definition.subject}: Keras saves this op by the bare name {self.__name__!r}, because the "
                "model uses the op as a function: as activation=, loss= or in a Lambda layer. Loading the model will "
                "fail.\n  Use op.as_layer() after the layer, or register the op in its own module: "
                "keras.saving.register_keras_serializable(package=__name__)(op).",
                ExportWarning,
                stacklevel=2,
            )

    if not TYPE_CHECKING:  # type checkers would then accept any attribute

        @property
        def __class__(self) -> type:
            """The type of the function, so that `inspect` and other libraries treat an op as a function."""
            return type(self.__wrapped__)

        def __getattr__(self, name: str) -> Any:
            """Return an attribute of the function if the op has no attribute of this name."""
            try:
                return getattr(self.__wrapped__, name)
            except AttributeError:
                raise _UnknownAttributeError(self._definition, name) from None

    def __setattr__(self, name: str, value: Any) -> None:
        """Reject attributes. Set them on the function."""
        raise AttributeError(f"cannot set attributes of {self!r}. Set {name!r} on the function: op.numpy.{name} = ...")

    def __delattr__(self, name: str) -> None:
        """Reject the deletion of attributes, because they belong to the function."""
        raise AttributeError(f"cannot delete {name!r}: {self!r} does not store attributes")

    def __copy__(self) -> Op[P, R]:
        """Return the op itself. Like functions, ops are not copied."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Op[P, R]:
        """Return the op itself. Like functions, ops are not copied."""
        return self

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Pickle the op by its name, as for functions."""
        definition = self._definition
        if definition.is_local or not REGISTRY.holds(definition.name, definition):
            raise RegistrationError(
                "the op cannot be pickled, because its name is valid in this process only.",
                subject=definition.subject,
                remedy="Define the op at the top level of a module, or pass name=.",
            )
        return _unpickle, (definition.module, definition.name)

    def __dir__(self) -> list[str]:
        """List the attributes of the op and of the function."""
        return sorted({*dir(type(self)), *dir(self.__wrapped__)})

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """Return the description for notebooks, as text and as HTML."""
        return {"text/plain": as_text(self._definition), "text/html": as_html(self._definition)}

    def __format__(self, specification: str) -> str:
        """Format the name and the signature in an f-string."""
        return format(repr(self), specification)

    def __repr__(self) -> str:
        """Return the name and the signature as text."""
        signature = f", signature={self.signature!r}" if self.signature else ""
        return f"<tfpyop.Op {self.name!r}{signature}>"

    def __tf_tracing_type__(self, context: Any) -> Any:
        """Return the tracing type of this argument for tf.function: the type of the op, not of the wrapped function."""
        return lowering().tracing_type(self)


class _UnknownAttributeError(AttributeError):
    """An attribute that neither an op nor its function has. The text is made when it is read: `hasattr` reads none."""

    def __init__(self, definition: OpDef, name: str) -> None:
        super().__init__(definition, name)
        self.name = name

    def __str__(self) -> str:
        definition, name = self.args
        offered = [offered for offered in vars(Op) if not offered.startswith(("_", "autograph", "get_build"))]
        return (
            f"{definition.subject}: neither the op nor its function has an attribute {name!r}. {nearest(name, offered)}"
        )


def op_def_of(op: Op[..., Any]) -> OpDef:
    """Return the definition of an op, for use inside tfpyop."""
    return op._definition


def _unpickle(module: str, name: str) -> Op[..., Any]:
    importlib.import_module(module)
    try:
        op: Op[..., Any] = REGISTRY.find(name).op
    except RegistrationError:
        raise REGISTRY.missing(Token(name, module=module)) from None
    return op
