"""The example of a library: built and installed by pip, and used by programs that have nothing else of it."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.environments import fresh_environment, site_packages

ROOT = Path(__file__).parent.parent
NUMPY_SIDE = """
import importlib.metadata
import sys

import numpy as np
import terrain

distances = terrain.distance(np.array([[48.9, 2.4], [52.5, 13.4]]), np.array([41.9, 12.5]))
profile = terrain.diffuse(np.array([0.0, 3.0, 0.0]), np.ones(3))
water = terrain.accumulate(np.array([[2.0, 1.0]]), np.ones([1, 2]))
print([type(result).__name__ for result in (distances, profile, water)])
print(np.round(distances / 1000), profile.round(9), water)
print({"tensorflow", "keras", "tfpyop"} & set(sys.modules))
print(importlib.metadata.version("terrain"), terrain.__file__)
"""
OPS_SIDE = """
import numpy as np
import tensorflow as tf
import terrain
from terrain import ops
import tfpyop


@tf.function
def value_and_gradients(op, inputs, cotangent):
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        result = op(*inputs)
    return result, tape.gradient(result, inputs, output_gradients=cotangent)


def show(op, *inputs, cotangent):
    tensors = [tf.constant(each, tf.float64) for each in inputs]
    result, gradients = value_and_gradients(op, tensors, tf.constant(cotangent, tf.float64))
    np.testing.assert_array_equal(result, getattr(terrain, op.__name__)(*inputs))
    print(op.name, *((each.numpy().round(6) + 0.0).tolist() for each in gradients))


show(ops.distance, [0.0, 0.0], [0.0, 30.0], cotangent=180 / np.pi / terrain.EARTH_RADIUS)
show(ops.diffuse, [0.0, 3.0, 0.0], [1.0, 1.0, 1.0], cotangent=[0.0, 1.0, 0.0])
show(ops.accumulate, [[2.0, 1.0]], [[1.0, 1.0]], cotangent=[[3.0, 5.0]])
print(tfpyop.__file__)
"""


TOGETHER = """
import contextlib, io, json, sys

def printed(program):
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec(program, {})
    return output.getvalue()

print(json.dumps([printed(program) for program in json.load(sys.stdin)]))
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """A copy of the sources, beside a fresh environment with the package in it."""
    directory = tmp_path_factory.mktemp("library")
    # A copy, because a build writes beside the sources.
    shutil.copytree(ROOT / "examples" / "library", directory / "source", ignore=shutil.ignore_patterns("*.egg-info"))
    fresh_environment(directory / "venv", directory / "source")
    return directory


def run(directory, *arguments, given=None):
    """Run the environment's Python; returns what it prints."""
    process = subprocess.run(
        [directory / "venv" / "bin" / "python", *arguments],
        cwd=directory / "source",
        input=given,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def test_the_functions_work_without_tensorflow(library):
    kinds, values, imported, installed = run(library, "-c", NUMPY_SIDE).splitlines()
    assert kinds == "['ndarray', 'ndarray', 'ndarray']"
    assert values == "[1106. 1181.] [0.75 1.5  0.75] [[1. 2.]]"
    assert imported == "set()"
    assert installed == f"1.0.0 {site_packages(library / 'venv') / 'terrain' / '__init__.py'}"


@pytest.fixture(scope="module")
def programs(library):
    """Programs that use the ops, and what each prints; they share a process, because TensorFlow takes long to load."""
    blocks = re.findall(r"^```python\n(.*?)^```$", (library / "source" / "README.md").read_text(), re.M | re.S)
    programs = [OPS_SIDE, *blocks]
    output = run(library, "-c", TOGETHER, given=json.dumps(programs))
    return list(zip(programs, json.loads(output), strict=True))


@pytest.mark.slow
def test_the_ops_have_gradients(programs):
    distance, diffuse, accumulate, tfpyop = programs[0][1].splitlines()
    assert distance == "terrain.ops:distance [0.0, -1.0] [0.0, 1.0]"
    assert diffuse == "terrain.ops:diffuse [0.25, 0.5, 0.25] [-0.09375, -0.1875, -0.09375]"
    assert accumulate == "terrain.ops:accumulate [[0.0, 0.0]] [[8.0, 5.0]]"
    assert tfpyop == str(ROOT / "tfpyop" / "__init__.py")


@pytest.mark.slow
def test_the_blocks_of_its_readme_print_what_they_say(programs):
    assert len(programs) == 3
    for block, printed in programs[1:]:
        assert printed.strip() == block.rpartition("# ")[2].strip()


# In parts, all of them together, which workers share and of which none takes long on a busy machine.
@pytest.mark.slow
@pytest.mark.parametrize("part", ["not TestOps", "TestOps and distance", "TestOps and not distance"])
def test_the_tests_of_the_library_pass(part, library):
    output = run(library, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", part)
    assert " passed" in output
    assert "failed" not in output
