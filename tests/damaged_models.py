"""Call saved models with compiled functions whose texts were changed.

It runs in a process of its own, because a mistake here reads or writes memory that does not exist. It prints, as JSON,
what each call of each damaged model came to.
"""

import json
import re
import shutil
import sys
from pathlib import Path

import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzzed_frames import damaged_texts
from tfpyop import differentiable_op
from tfpyop._lowering._tensorflow import call_module, parse_saved_model
from tfpyop._lowering.xla import nodes
from tfpyop._lowering.xla.call_descriptor import CallDescriptor

SMALL, LARGE = 4, 65536

op = differentiable_op(lambda x: x + 1, signature="(n)->(n)", name="damaged:op")
other = differentiable_op(lambda x, y: (x, y, x), signature="(n),(n)->(n),(n),(n)", name="damaged:other")
logged = differentiable_op(lambda x: x + 1, signature="(n)->(n)", name="damaged:logged", stateful=True)

SITE = re.compile(rb'\{site = "([^"]*)"\}')


def many(site, *, inputs=1, outputs=1):
    token, _, types = site.rpartition(b"|")
    before, after = types.split(b"->")
    return token + b"|" + b",".join([before] * inputs) + b"->" + b",".join([after] * outputs)


DAMAGES = {
    "larger": lambda site: site.replace(b"float32[4]", b"float32[65536]"),
    "smaller": lambda site: site.replace(b"float32[65536]", b"float32[4]"),
    "40 arguments": lambda site: many(site, inputs=40),
    "40 results": lambda site: many(site, outputs=40),
    "no arguments": lambda site: many(site, inputs=0),
    "no results": lambda site: many(site, outputs=0),
    "wider": lambda site: site.replace(b"float32", b"complex128"),
    "other rank": lambda site: site.replace(b"[4]", b"[2 2]").replace(b"[65536]", b"[256 256]"),
    "open sizes": lambda site: re.sub(rb"\[\d+\]", b"[?]", site),
    "other op": lambda site: site.replace(b":op", b":other"),
    "ordered": lambda site: site + b"!",
    "stateful": lambda site: site.replace(b":op", b":logged"),
    "not text": lambda site: site + b"\\FF",
    "no types": lambda site: site.partition(b"|")[0],
    "unknown dtype": lambda site: site.replace(b"float32", b"object"),
    "number": None,
    "missing": None,
    "two": None,
}
ATTRIBUTES = {
    "number": b"{site = 1099511627776 : i64}",
    "missing": b"{}",
    "two": rb'{a = 1099511627776 : i64, site = "\1"}',
}


def save(directory):
    """Save a model with two compiled functions of one op."""
    module = tf.Module()
    for name, size in (("large", LARGE), ("small", SMALL)):
        function = tf.function(
            lambda x: op(x), jit_compile=True, autograph=False, input_signature=[tf.TensorSpec([size])]
        )
        setattr(module, name, function)
    tf.saved_model.save(module, str(directory))


def damage(directory, kind):
    """Change the text of every compiled call in a saved model."""
    saved = parse_saved_model(str(directory))
    n_changed = 0
    for function in saved.meta_graphs[0].graph_def.library.function:
        for node in function.node_def:
            if node.op == "XlaCallModule":
                changed = damaged(node.attr["module"].s, kind)
                n_changed += changed != node.attr["module"].s
                node.attr["module"].s = changed
    assert n_changed
    (directory / "saved_model.pb").write_bytes(saved.SerializeToString())


def damaged(module, kind):
    """The module with another text."""
    if kind in ATTRIBUTES:
        return SITE.sub(ATTRIBUTES[kind], module)
    return SITE.sub(lambda found: b'{site = "' + DAMAGES[kind](found[1]) + b'"}', module)


def outcome(function, size):
    """`right`, `wrong`, or the text of the error."""
    try:
        result = function(tf.zeros(size))
    except tf.errors.OpError as error:
        return error.message
    return "right" if result.shape == (size,) and (result.numpy() == 1).all() else "wrong"


def outcomes(saved, kind):
    """What calls of a damaged model come to, in turn, so that some find what others have left."""
    target = saved.with_name(kind.replace(" ", "-"))
    shutil.copytree(saved, target)
    damage(target, kind)
    loaded = tf.saved_model.load(str(target))
    return [
        outcome(getattr(loaded, name), size) for _ in range(3) for name, size in (("large", LARGE), ("small", SMALL))
    ]


def call_with_site(site, size):
    """Call a compiled function whose call has this text."""
    nodes.install()
    types = [f"tensor<{size}xf32>", "dense<[0]> : tensor<1xindex>"]
    escaped = "".join(f"\\{byte:02X}" for byte in site)
    module = f"""module {{
  func.func public @main(%i0: {types[0]}) -> ({types[0]}) {{
    %r = "stablehlo.custom_call"(%i0) {{call_target_name = "tfpyop_host_call", api_version = 4 : i32,
      backend_config = {{site = "{escaped}"}}, has_side_effect = false,
      operand_layouts = [{types[1]}], result_layouts = [{types[1]}]}} : ({types[0]}) -> ({types[0]})
    return %r : {types[0]}
  }}
}}"""

    def function(x):
        (result,) = call_module(
            [x], version=9, module=module, Tout=[tf.float32], Sout=[tf.TensorShape([size])], platforms=["CPU"]
        )
        return result

    return outcome(tf.function(function, jit_compile=True, autograph=False), size)


FOUND = {"right": 0, "refused": 0}


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.data(), st.sampled_from([SMALL, 7]))
def fuzz(data, size):
    """Texts with a few other bytes, numbers or types, compiled by XLA."""
    site = CallDescriptor.parse(f"tfpyop:{op.name}|float32[{SMALL}]->float32[{SMALL}]".encode()).text.encode()
    site = data.draw(damaged_texts(site))
    found = call_with_site(site, size)
    assert found != "wrong" or not site.startswith(f"tfpyop:{op.name}|".encode()), site  # or it is of another op
    FOUND["right" if found == "right" else "refused"] += 1


def main(directory):
    """Damage models in a directory."""
    saved = Path(directory) / "saved"
    save(saved)
    results = {kind: outcomes(saved, kind) for kind in DAMAGES}
    fuzz()
    sys.stdout.write(json.dumps({"outcomes": results, "fuzz": FOUND}))
