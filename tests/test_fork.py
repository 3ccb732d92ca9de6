"""Forked processes: names that hold for one process only are not inherited."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import run_python

ROOT = Path(__file__).parent.parent
PROGRAM = """
import json, os, signal, sys
import tensorflow as tf  # which starts its threads with the first call of an op, so not before the fork
from tfpyop import differentiable_op, export

def made(factor):
    return differentiable_op(lambda x: factor * x, signature="()->()", non_differentiable=True)

def saved(op, path):
    module = tf.Module()
    module.call = tf.function(op, [tf.TensorSpec([None])], autograph=False)
    tf.saved_model.save(module, path)

inherited = made(5.0)
child = os.fork()
if child == 0:
    signal.alarm(60)
    saved(made(3.0), "own")
    saved(inherited, "inherited")
    module = tf.Module()
    module.call = tf.function(inherited, [tf.TensorSpec([None])], autograph=False)
    print(json.dumps(["child", module.call([1.0]).numpy().tolist()]), flush=True)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0

mine = [made(2.0), inherited]  # with the serial numbers that the child's ops have
functions = [tf.function(op, [tf.TensorSpec([None])], autograph=False) for op in mine]
print(json.dumps(["parent", [function([1.0]).numpy().tolist() for function in functions]]))
for path in ("own", "inherited"):
    for load in (export.load, lambda path: tf.saved_model.load(path).call([1.0])):
        try:
            print(json.dumps([path, load(path).numpy().tolist()]))
        except Exception as error:
            print(json.dumps([path, str(error)]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be forked here")
def test_a_model_of_a_forked_child_does_not_run_ops_of_its_parent(tmp_path):
    process = run_python("-c", PROGRAM, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
    child, parent, *loaded = map(json.loads, process.stdout.splitlines())
    assert child == ["child", [5.0]]
    assert parent == ["parent", [[2.0], [5.0]]]
    assert [path for path, _ in loaded] == ["own", "own", "inherited", "inherited"]
    for _, said in loaded:
        assert "only in the process that" in said


NAMES = """
import os
from tfpyop import differentiable_op
from tfpyop._registry.op_def import REGISTRY

def token():
    return REGISTRY.token_of(differentiable_op(lambda x: x, signature="()->()")._definition.specialize(None, {}))

tokens = [token()]
read, write = os.pipe()
for generation in range(3):  # a child, its child, and the child of that
    if os.fork():
        os.wait()
        break
    os.write(write, f"{token()}\\n".encode())
else:
    os._exit(0)
os.write(write, f"{token()}\\n".encode())
if generation:
    os._exit(0)
os.close(write)
print(os.fdopen(read).read(), end="")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be forked here")
def test_tokens_of_forked_processes_differ_in_every_generation():
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", NAMES], capture_output=True, text=True, timeout=60, cwd=ROOT, check=True
    )
    tokens = process.stdout.split()
    assert len(tokens) == len(set(tokens)) == 6
