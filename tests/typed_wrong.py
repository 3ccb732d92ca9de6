"""Wrong uses, one a line, which type checkers must reject: those marked by a comment, and no others. Never called."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

import tfpyop
from tests.typed_right import Model, bare, cube, hypot, mod
from tfpyop import Op, differentiable_op, export
from tfpyop.parallel import process_pool
from tfpyop.testing import arguments, check_op, make_test_class


def identity(x: ArrayLike) -> ArrayLike:
    return x


def options() -> None:
    differentiable_op(identity, signatur="()->()")  # wrong: the keyword
    differentiable_op(signatur="()->()")  # wrong: the keyword
    differentiable_op(identity, "()->()")  # wrong: options are keywords
    differentiable_op("()->()")  # wrong: no function
    differentiable_op(np.hypot, signatur="(),()->()")  # wrong: the keyword, for a ufunc
    differentiable_op(identity, signature=3)  # wrong: text
    differentiable_op(identity, shape=(3,))  # wrong: a function
    differentiable_op(identity, grad="numeric")  # wrong: no such method
    differentiable_op(identity, grad=True)  # wrong: a rule or a method
    differentiable_op(identity, grad=tfpyop.numerical(step="small"))  # wrong: a number
    differentiable_op(identity, numpy_grad="numerical")  # wrong: a rule
    differentiable_op(identity, jvp=1.0)  # wrong: a rule
    differentiable_op(identity, numpy_jvp=True)  # wrong: a rule
    differentiable_op(identity, residuals=["lu"])  # wrong: a dict
    differentiable_op(identity, residuals={"lu": "(n,n)"})  # wrong: pairs
    differentiable_op(identity, vectorized="no")  # wrong: a bool or "rows"
    differentiable_op(identity, executor=4)  # wrong: an executor
    differentiable_op(identity, executor=lambda: 4)  # wrong: makes no executor
    differentiable_op(identity, stateful="yes")  # wrong: a bool
    differentiable_op(identity, sizes=3)  # wrong: a dict
    differentiable_op(identity, surrogate="yes")  # wrong: a bool
    differentiable_op(identity, prefer="tensorflow")  # wrong: "native" or "numpy"
    differentiable_op(identity, non_differentiable=None)  # wrong: a bool or names
    differentiable_op(identity, static_argnames=3)  # wrong: names
    differentiable_op(identity, domain=(0, 1))  # wrong: text
    differentiable_op(identity, name=identity)  # wrong: text


def calls(model: Model) -> None:
    bare()  # wrong: an input is missing
    bare(1.0, 2.0)  # wrong: an input too many
    mod(3.0)  # wrong: an input is missing
    mod(3.0, 2.0, 1.0)  # wrong: static values are keywords
    mod(3.0, 2.0, shift="1")  # wrong: a number
    mod(3.0, 2.0, shfit=1.0)  # wrong: the keyword
    mod(object(), 2.0)  # wrong: no array
    mod.numpy(3.0)  # wrong: an input is missing
    model.scaled()  # wrong: an input is missing
    model.scaled(1.0, 2.0)  # wrong: an input too many
    model.scaled(1.0, by="2")  # wrong: a number
    model.scaled.numpy(1.0, 2.0)  # wrong: an input too many


def attributes() -> None:
    print(mod.gradiant)  # wrong: no such attribute
    mod.name = "other"  # wrong: it is read only
    wanted: int = mod.name  # wrong: it is text
    mod.gradient(3)  # wrong: no rule
    mod.numpy_gradient("numerical")  # wrong: no rule
    mod.jvp(None)  # wrong: no rule
    mod.native(1)  # wrong: no function
    mod.as_layer("name")  # wrong: keywords only
    mod.as_layer(name=1)  # wrong: text
    tfpyop.get_op(mod)  # wrong: text
    tfpyop.registered_ops()["mod"] = mod  # wrong: it is read only
    op: Op[..., Any] = identity  # wrong: no op
    print(wanted, op)


def elsewhere(model: object) -> None:
    check_op(identity)  # wrong: no op
    check_op(cube, max_example=3)  # wrong: the keyword
    check_op(cube, seed="1")  # wrong: a number
    check_op(cube, modes=3)  # wrong: names
    arguments(cube, max_side="3")  # wrong: a number
    make_test_class(cube, examples=3)  # wrong: the keyword
    export.save(model, 3)  # wrong: a path
    export.load("model", module=["numpy"])  # wrong: the keyword
    export.required_ops()  # wrong: the path is missing
    process_pool("2")  # wrong: a number
    process_pool(2, 3.0)  # wrong: keywords only
    process_pool(2, timeout="1")  # wrong: a number
    print(hypot(1.0, 2.0).anything)
