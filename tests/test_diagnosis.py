"""The likely cause of a wrong cotangent."""

import numpy as np
import pytest

from tfpyop import differentiable_op
from tfpyop.testing import CheckError, arguments, check_gradient
from tfpyop.testing._diagnosis import likely_causes

NAN = np.nan


@pytest.mark.parametrize(
    ("got", "right", "others", "cause"),
    [
        ([-1.0, -2.0], [1.0, 2.0], [], "the wrong sign"),
        ([-1.0, NAN], [1.0, 0.0], [], "the wrong sign"),
        ([-1.0, 3.0], [1.0, np.inf], [], "the wrong sign"),
        ([2.0, 6.0], [1.0, 3.0], [], "there is an extra factor of 2"),
        ([5.0], [2.0], [[5.0]], "this is the cotangent of input 0"),
        ([5.0], [2.0], [[[1.0, 4.0]]], "this is the cotangent of input 0"),
        (5.0, 2.0, [[[1.0], [4.0]]], "this is the cotangent of input 0"),
        ([NAN], [2.0], [], None),
        ([1.0, 7.0], [1.0, 2.0], [[7.0]], None),
    ],
    ids=repr,
)
def test_the_most_likely_cause_comes_first(got, right, others, cause):
    causes = likely_causes(np.array(got), np.array(right), others=[np.array(other) for other in others])
    assert causes[:1] == ([] if cause is None else [cause])


@pytest.mark.parametrize("kind", ["numpy_gradient", "gradient"])
def test_a_complex_cotangent_of_a_real_input_points_to_complex_inputs(kind):
    op = differentiable_op(lambda x: (1 + 2j) * x, signature="()->()", dtype="complex128", name=f"tests:turned.{kind}")
    getattr(op, kind)(lambda op, cotangent: (1 - 2j) * cotangent)
    with pytest.raises(CheckError) as caught:
        check_gradient(op, max_examples=5)
    convert = "np.real(c) if np.isrealobj(" if kind == "numpy_gradient" else "tf.math.real(c) if "
    assert f"If the input is real, return the real part: {convert}op.inputs[0]" in str(caught.value)
    cause = (
        "Likely:   this example has real inputs, and the rule returns complex values for them. To check complex "
        'inputs only, pass arguments=arguments(op, dtypes=["complex128"])'
    )
    assert cause in str(caught.value)
    check_gradient(op, arguments=arguments(op, dtypes=["complex128"]), max_examples=5)
