"""The scripts in failures: they run, and print what the report says."""

import contextlib
import io
import re

import numpy as np
import pytest
import tensorflow as tf

from tests import processes
from tests.wrong_ops import WRONG
from tfpyop import differentiable_op
from tfpyop.testing import CHECKS, CheckError, arguments, check_gradient
from tfpyop.testing._check_runner import thoroughly
from tfpyop.testing._scripts import importable_name


def failure_of(op, **options):
    with pytest.raises(CheckError) as caught:
        check_gradient(op, **{"seed": 1, "max_examples": 30, **options})
    return caught.value


def printed(failure, op, capsys):
    """Run the script of a failure and return the two values that it prints."""
    name, _ = importable_name(op)
    exec(failure.code, {name: op, "__name__": "script"})
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    return complex(lines["expected"].split()[0]), complex(lines["got"]) if lines["got"] != "None" else None


def require_shown(failure, op, capsys):
    expected, got = printed(failure, op, capsys)
    assert f"{expected if expected.imag else expected.real:.9g}" in failure.expected
    if got is None:
        assert failure.got == "None: no dependence"
        return
    if not np.isnan(got):
        assert f"{complex(got):.9g}" == f"{complex(failure.got):.9g}"
    assert not abs(got - expected) <= 1e-9 * abs(expected)


def printed_by(failure, op):
    """Run the script of a failure and return what it prints, by the first word of each line."""
    name, _ = importable_name(op)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), np.errstate(all="ignore"):  # numbers may overflow in the script
        exec(failure.code, {name: op, "__name__": "script"})
    return dict(line.split(maxsplit=1) for line in printed.getvalue().splitlines() if " " in line)


@pytest.mark.slow
@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_every_script_of_the_zoo_shows_the_failure(wrong, monkeypatch):
    processes.fork_for_exports(monkeypatch)
    with pytest.raises(CheckError) as caught, thoroughly(wrong.is_thorough):
        CHECKS[wrong.check](wrong.op, arguments=wrong.arguments, seed=1)
    failure = caught.value
    if failure.code is None:
        assert "inconclusive" in failure.problem or "raises for all" in failure.problem
        return
    tf.random.set_seed(1)
    if wrong.check == "check_threads":  # threads happen to overlap in most runs, not in all
        assert any("got" in printed_by(failure, wrong.op) for _ in range(5))
        return
    found = printed_by(failure, wrong.op)
    expected, got = found["expected"], found["got"]
    assert expected != got
    if "try:" in failure.code or wrong.check == "check_needs":  # the check runs again, or whole arrays are printed
        return
    first = expected.split()[0]
    if got == "None":
        assert failure.got == "None: no dependence"
        return
    if first.replace("None", "nan") in ("nan", "inf"):
        return
    assert not abs(complex(got) - complex(first)) <= 1e-9 * abs(complex(first))
    shown = failure.got.split(" = ")[-1].split(",")[0].split(" ")[0].rstrip(":")
    digits = 1e-3 if wrong.check == "check_precision" else 1e-6  # numbers in half precision have few digits
    assert shown == "None" or np.isclose(complex(got), complex(shown), rtol=digits, atol=0, equal_nan=True)


def _cubed(rule, **options):
    return differentiable_op(lambda x, *, scale=1: scale * x**3, signature="()->()", grad=rule, **options)


@pytest.mark.parametrize("mode", ["eager", "graph", "XLA"])
def test_a_script_shows_the_failure_in_its_mode(mode, capsys):
    op = _cubed(lambda op, g: -3 * op.inputs[0] ** 2 * g)
    failure = failure_of(op, modes=[mode], max_examples=10)
    assert ("jit_compile=True" in failure.code) == (mode == "XLA")
    assert ("@tf.function" in failure.code) == (mode != "eager")
    require_shown(failure, op, capsys)


def test_the_report_contains_the_script():
    op = _cubed(lambda op, g: -3 * op.inputs[0] ** 2 * g, name="cubed")
    failure = failure_of(op, modes=["eager"])
    lines = str(failure).splitlines()
    start = lines.index("  Shown by:")
    assert lines[start + 1 : start + 4] == [
        "    import numpy as np",
        "    import tensorflow as tf",
        lines[start + 3],
    ]
    assert re.fullmatch(
        r"    # run this where cubed refers to op 'cubed' \(.*test_failure_scripts\.py:\d+\)", lines[start + 3]
    )
    assert failure.code.splitlines()[4:] == [
        "args = (tf.constant(np.array(-1.0, np.float64)),)",
        "cotangents = [tf.constant(np.array(1.0, np.float64))]",
        "inputs = tf.nest.flatten(args)",
        "",
        "def differentiate():",
        "    with tf.GradientTape() as tape:",
        "        tape.watch([x for x in inputs if x.dtype.is_floating or x.dtype.is_complex])",
        "        outputs = tf.nest.flatten(cubed(*args))",
        "    return tape.gradient(outputs, inputs, output_gradients=cotangents)",
        "",
        "gradients = differentiate()",
        failure.code.splitlines()[-3],
        "gradient = gradients[0]",
        'print("got", None if gradient is None else gradient.numpy()[()])',
    ]


def test_a_script_imports_an_op_of_a_module(tmp_path, monkeypatch, capsys):
    (tmp_path / "script_ops.py").write_text(
        "from tfpyop import differentiable_op\n\n\n"
        "@differentiable_op(signature='()->()')\n"
        "def cubed(x):\n    return x**3\n\n\n"
        "@cubed.gradient\n"
        "def cubed_gradient(op, grad):\n    return -3 * op.inputs[0] ** 2 * grad\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import script_ops

    failure = failure_of(script_ops.cubed, modes=["eager"])
    assert "from script_ops import cubed" in failure.code
    exec(failure.code, {"__name__": "script"})
    assert f"got {failure.got}" in capsys.readouterr().out


def test_a_script_contains_static_and_nested_arguments(capsys):
    from hypothesis import strategies as st

    from tfpyop.testing import Arguments

    op = differentiable_op(
        lambda pair, *, factor: factor * pair["a"] * pair["b"],
        grad=lambda op, g: (g * op.static.factor * op.inputs[1], -g * op.static.factor * op.inputs[0]),
    )
    drawn = st.builds(
        lambda a, b: Arguments(({"a": np.float64(a), "b": np.float64(b)},), {"factor": 3}),
        st.floats(1, 2),
        st.floats(1, 2),
    )
    failure = failure_of(op, modes=["eager"], arguments=drawn)
    assert "factor=3" in failure.code
    require_shown(failure, op, capsys)


def test_a_script_leaves_out_outputs_without_cotangents(capsys):
    op = differentiable_op(
        lambda x: (np.sign(x).astype(np.int32), x**3),
        signature="()->(),()",
        dtype=("int32", None),
        grad=lambda op, _, g: 2 * op.inputs[0] ** 2 * g,
    )
    failure = failure_of(op, modes=["eager"])
    assert "outputs = [outputs[number] for number in [1]]" in failure.code
    require_shown(failure, op, capsys)


# -- cotangents and causes


def test_cotangents_shrink_to_one():
    op = differentiable_op(lambda x: np.stack([x, x**2, x**3], -1), signature="()->(3)")

    @op.gradient
    def rule(op, g):
        x = op.inputs[0]
        return g[..., 0] + 2 * x * g[..., 1] + 2 * x**2 * g[..., 2]

    failure = failure_of(op, modes=["eager"])
    assert "for cotangents [0. 0. 1.]" in failure.expected


def test_cotangents_stay_as_they_are_if_simpler_ones_show_nothing():
    op = _cubed(lambda op, g: 3 * op.inputs[0] ** 2 * g * g)
    failure = failure_of(op, modes=["eager"])
    assert "for cotangents 1 " not in f"{failure.expected} "
    assert failure.cause == "the rule uses the cotangent twice"


@pytest.mark.parametrize(
    ("factor", "cause"),
    [(lambda n: 2, "there is an extra factor of 2"), (lambda n: n, None), (lambda n: 1 / n, None)],
    ids=["2", "n", "1/n"],
)
def test_a_factor_of_n_is_not_reported_as_a_factor_of_2(factor, cause):
    op = differentiable_op(lambda x: np.square(x).sum(-1), signature="(n)->()")

    @op.numpy_gradient
    def rule(op, g):
        x = op.inputs[0]
        return factor(x.shape[-1]) * 2 * x * g[..., None]

    assert failure_of(op, modes=["eager"]).cause == cause


def test_a_cause_is_not_reported_if_all_examples_have_one_shape():
    from hypothesis import strategies as st

    op = _cubed(lambda op, g: -3 * op.inputs[0] ** 2 * g)
    one_shape = arguments(op, dtypes="float64", shapes=st.just(((2,),)), smallest=0.1, largest=10, allow_empty=False)
    assert failure_of(op, modes=["eager"], arguments=one_shape).cause is None
    assert failure_of(op, modes=["eager"]).cause == "the wrong sign"


def test_a_large_failure_has_a_direction(capsys):
    from hypothesis import strategies as st

    op = differentiable_op(lambda x: (x**2).sum(-1), signature="(n)->()")
    op.gradient(lambda op, g: 4 * op.inputs[0] * tf.expand_dims(g, -1))
    large = arguments(op, dtypes="float64", shapes=st.just(((80,),)), smallest=0.1, largest=10, allow_empty=False)
    failure = failure_of(op, modes=["eager"], arguments=large, max_examples=5)
    assert "along a random direction" in failure.problem
    assert "directions = [" in failure.code
    require_shown(failure, op, capsys)
