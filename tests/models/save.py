"""Save the models of this directory: `python -m tests.models.save NAME.zip`.

`v0.1.zip` was saved by tfpyop 0.1.0 and TensorFlow 2.18, the oldest supported version. Models must keep loading, so
never save that file again. Models of a later version go into a file of their own, which the tests find.
"""

import argparse
import tempfile
import zipfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tests.models import ops
from tfpyop import export

ROWS = tf.TensorSpec([None, 2], tf.float32, name="x")


def jacobian(x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = ops.cube(x)
    return tape.batch_jacobian(y, x)


def gradient(x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = ops.cube(x)
    return tape.gradient(y, x)


def pushed(x):
    with tf.autodiff.ForwardAccumulator(x, tf.ones_like(x)) as accumulator:
        y = ops.forward(x)
    return accumulator.jvp(y)


def both(x):
    outputs = ops.both({"b": 2 * x, "a": x})
    return outputs["total"] * outputs["difference"]


FUNCTIONS = {
    "square": ops.square,
    "cube": ops.cube,
    "sine": ops.sine,
    "dot": lambda x: ops.dot(x, 2 * x),
    "scaled": lambda x: ops.scaled(x),
    "scaled_static": lambda x: ops.scaled(x, factor=0.5, options={"by": (2, [3.0])}),
    "rooted": ops.rooted,
    "rooted_static": lambda x: ops.rooted(x, power=3),
    "rolled": lambda x: ops.rolled(x, np.array([1])),
    "both": both,
    "norm": ops.norm,
    "floor": ops.floor,
    "softmax": ops.softmax,
    "rows": lambda x: tf.vectorized_map(ops.cube, x),
    "rows_of_rows": lambda x: tf.vectorized_map(lambda row: tf.vectorized_map(ops.cube, row), x),
    "jacobian": jacobian,
    "gradient": gradient,
    "pushed": pushed,
}
"""Functions that are saved both without and with `jit_compile=True`."""

NOT_COMPILED = {
    "repeated": lambda x: ops.repeated(x, times=3),
    "counted": ops.counted,
    "joined": lambda x: tf.strings.length(ops.joined(tf.strings.as_string(x), "a")),
}


def module_of(functions, **options):
    """A module with a method for each function."""
    module = tf.Module()
    for name, function in functions.items():
        setattr(module, name, tf.function(function, [ROWS], autograph=False, **options))
    return module


def save_all(directory):
    """Save every model."""
    export.save(module_of({**FUNCTIONS, **NOT_COMPILED}), directory / "graphs")
    export.save(module_of(FUNCTIONS, jit_compile=True), directory / "compiled")
    export.save(module_of({"softmax": ops.softmax}), directory / "native", native=True)
    x = keras.Input((2,))
    model = keras.Model(x, ops.scaled.as_layer(factor=0.5, options={"by": (2, [3.0])})(ops.cube(x)))
    model.save(directory / "model.keras")


def pack(directory, path):
    """Put the files of a directory into a zip file."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for file in sorted(directory.rglob("*")):
            archive.write(file, file.relative_to(directory))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    with tempfile.TemporaryDirectory() as temporary:
        save_all(Path(temporary))
        pack(Path(temporary), parser.parse_args().path)
