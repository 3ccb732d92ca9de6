"""The op of these examples, in a module of its own: every process that runs it imports this."""

import os

import numpy as np

from tfpyop import differentiable_op


@differentiable_op(signature="()->()", domain="(-inf, inf)")
def saturation(light):
    """How much a leaf makes of light: all of a little, ever less of more."""
    return light / (1 + np.abs(light))


@saturation.numpy_gradient
def saturation_gradient(op, cotangent):
    """Its derivative, times the cotangent."""
    return cotangent / (1 + np.abs(op.inputs[0])) ** 2


@differentiable_op(signature="()->()", dtype="int64", non_differentiable=True)
def process_of(values):
    """The process in which each element is computed."""
    return np.full(np.shape(values), os.getpid())
