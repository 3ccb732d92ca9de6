"""The likely cause of a wrong cotangent."""

import numpy as np
import pytest

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
