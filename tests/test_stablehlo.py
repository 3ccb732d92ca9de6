"""StableHLO as text: what a site says about itself, and what a module computes."""

import re

import numpy as np
import pytest

from tfpyop._lowering.xla.call_descriptor import ELEMENT_TYPES, CallDescriptor
from tfpyop._lowering.xla.stablehlo import check_of_shape, host_call
from tfpyop._spec.outputs import ArraySpec
from tfpyop._spec.signature import InputDimension

F4 = np.dtype(np.float32)


def call_of(*inputs, outputs, token="tfpyop:a:b", is_ordered=False):
    types = ([ArraySpec(F4, shape) for shape in shapes] for shapes in (inputs, outputs))
    return CallDescriptor(token, *types, is_ordered)


def module(call, sizes, problem="wrong"):
    return host_call("target", call, sizes, problem=problem)


def parsed(text):
    """The same text, in which every name is defined before its use: there is no parser without TensorFlow."""
    known = set(re.findall(r"(%i\d+):", text))
    for line in text.splitlines()[2:]:
        assigned, used = re.match(r"\s*(%\w+)(?::\d+)? = ", line), re.findall(r"%\w+", line)
        assert set(used[bool(assigned) :]) <= known, line
        known |= {assigned.group(1)} if assigned else set()
    return text


@pytest.mark.parametrize(
    "token",
    [
        "tfpyop:a.b:c",
        'tfpyop:a:b{"static":{"k":"|->,[]!?"}}',
        'tfpyop:ä:b{"static":{"k":"\\"\\\\\\n"}}',
        "tfpyop:a:<lambda>#1",
    ],
)
@pytest.mark.parametrize("is_ordered", [False, True])
def test_the_text_of_a_call_is_read_as_it_was_written(token, is_ordered):
    call = CallDescriptor(
        token,
        [
            ArraySpec(np.dtype(name), shape)
            for name, shape in zip(["f4", "?", "i8"], [(), (2, None), (0,)], strict=True)
        ],
        [ArraySpec(np.dtype("c8"), (None, 3))],
        is_ordered,
    )
    assert CallDescriptor.parse(call.text.encode()) == call


@pytest.mark.parametrize("name", ELEMENT_TYPES)
def test_every_dtype_is_written_and_read(name):
    from tfpyop._spec.coercion import parse_dtype

    call = CallDescriptor("t", [ArraySpec(parse_dtype(name), ())], [])
    assert CallDescriptor.parse(call.text.encode()) == call
    assert f"%i0: tensor<{ELEMENT_TYPES[name][0]}>" in module(call, [])


def test_a_call_without_inputs_or_outputs_is_read_as_it_was_written():
    call = CallDescriptor("t", [], [])
    assert CallDescriptor.parse(call.text.encode()) == call


def test_what_mlir_would_take_for_something_else_is_escaped():
    call = call_of((), outputs=[()], token='a"b\\c\nd\té%')
    text = module(call, [()])
    assert r"a\22b\5Cc\0Ad\09\C3\A9%" in text
    assert len(text.splitlines()) == len(module(call_of((), outputs=[()]), [()]).splitlines())


def test_known_sizes_need_no_arithmetic():
    text = parsed(module(call_of((2, 3), outputs=[(2, 3)]), [(2, 3)]))
    assert "indices_of_shape_operands" not in text
    assert "shape_assertion" not in text


def test_each_size_is_computed_once():
    n = InputDimension(0, 0)
    text = parsed(module(call_of((None,), outputs=[(None,), (None,)]), [(("+", n, 1),), (("+", n, 1),)]))
    assert text.count("get_dimension_size") == 1
    assert text.count("stablehlo.add") == 1


def test_sizes_that_arithmetic_made_are_checked_and_others_are_not():
    n = InputDimension(0, 0)
    computed = parsed(module(call_of((None,), outputs=[(None,)]), [(("-", n, 5),)], "too small:"))
    assert 'error_message = "too small: [{0}]"' in computed
    for size in (n, ("broadcast", n, 3)):
        assert "shape_assertion" not in parsed(module(call_of((None,), outputs=[(None,)]), [(size,)]))


def test_a_stateful_call_has_one_more_input_and_output_that_keep_the_order():
    text = parsed(module(call_of((3,), outputs=[(3,)], is_ordered=True), [(3,)]))
    assert "has_side_effect = true" in text
    assert "%i1: tensor<i32>) -> (tensor<3xf32>, tensor<i32>)" in text
    assert "return %r#0, %r#1 : tensor<3xf32>, tensor<i32>" in text


def test_layouts_are_row_by_row():
    text = module(call_of((2, 3, 4), outputs=[()]), [()])
    assert "operand_layouts = [dense<[2, 1, 0]> : tensor<3xindex>]" in text
    assert "result_layouts = [dense<> : tensor<0xindex>]" in text


def test_a_check_names_the_shape_that_it_refuses():
    types = [ArraySpec(F4, (None,)), ArraySpec(F4, (None, 2))]
    text = parsed(check_of_shape(types, [(InputDimension(0, 0), 2), (1, 1)], "wrong"))
    assert 'error_message = "wrong [{0}, {1}]"' in text
    assert "-> () {" in text
    assert "\n    return\n" in text
