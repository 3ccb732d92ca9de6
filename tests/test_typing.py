"""Type checkers see the decorated function: its parameters, and what an op offers."""

import textwrap

import pytest
from mypy import api

HEAD = """
import numpy as np
from numpy.typing import ArrayLike, NDArray
from tfpyop import Op, differentiable_op, registered_ops

@differentiable_op(signature="(),()->()", dtype="float32")
def mod(x: ArrayLike, y: ArrayLike, *, shift: float = 0.0) -> NDArray[np.float64]:
    result: NDArray[np.float64] = np.asarray(x) % np.asarray(y) + shift
    return result

@differentiable_op
def bare(x: ArrayLike) -> ArrayLike:
    return x
"""


def complaints(program, tmp_path):
    """What mypy, strict, says of a program."""
    path = tmp_path / "program.py"
    path.write_text(HEAD + textwrap.dedent(program))
    output, _, _ = api.run(["--strict", "--follow-imports=silent", "--no-error-summary", str(path)])
    return output


def test_typical_code_is_accepted(tmp_path):
    program = """
    mod(3.0, [1.0, 2.0], shift=1.0)
    bare(np.ones(3))
    ops: list[Op[..., object]] = list(registered_ops().values())

    @mod.gradient
    def rule(op: object, cotangent: object) -> tuple[object, None]:
        return cotangent, None

    plain: float = float(mod.numpy(3.0, 2.0))
    rule(object(), 1)
    """
    assert complaints(program, tmp_path) == ""


@pytest.mark.parametrize(
    ("program", "complaint"),
    [
        ("mod(3.0)", "Missing positional argument"),
        ("mod(3.0, 2.0, shift='1')", 'Argument "shift"'),
        ("bare(1, 2)", "Too many arguments"),
        ("differentiable_op(np.hypot, signatur='()->()')", "No overload variant"),
    ],
)
def test_a_wrong_use_is_rejected(program, complaint, tmp_path):
    assert complaint in complaints(program, tmp_path)
