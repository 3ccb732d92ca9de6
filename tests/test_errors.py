import copy
import inspect
import pickle

import numpy as np
import pytest

from tfpyop import errors
from tfpyop.errors import TfpyopError, describe, describe_arrays, describe_shape, nearest

BUILTINS = {
    errors.SignatureError: ValueError,
    errors.CoercionError: TypeError,
    errors.ContractError: ValueError,
    errors.GradientError: ValueError,
    errors.RegistrationError: ValueError,
    errors.UnsupportedError: NotImplementedError,
    errors.WorkerError: RuntimeError,
}
PARTS = {"expected": "float32[?, 3]", "got": "float64[2, 4]", "remedy": "Return another.", "subject": "op 'f' (a.py:1)"}


def test_every_error_of_the_module_is_in_the_table():
    defined = {kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, TfpyopError)}
    assert defined == {TfpyopError, *BUILTINS}


@pytest.mark.parametrize(("kind", "builtin"), BUILTINS.items())
def test_an_error_is_caught_as_tfpyop_error_and_as_its_builtin(kind, builtin):
    for caught in (kind, TfpyopError, builtin):
        with pytest.raises(caught, match="something is wrong"):
            raise kind("something is wrong.")


@pytest.mark.parametrize("kind", [TfpyopError, *BUILTINS])
def test_no_error_is_a_key_error(kind):
    assert not issubclass(kind, LookupError)  # str() of a KeyError shows quotes and loses the lines


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ([], "it is wrong."),
        (["subject"], "op 'f' (a.py:1): it is wrong."),
        (["expected"], "it is wrong.\n  Expected: float32[?, 3]"),
        (["got"], "it is wrong.\n  Got:      float64[2, 4]"),
        (["remedy"], "it is wrong.\n  Return another."),
        (
            ["remedy", "got", "expected", "subject"],
            "op 'f' (a.py:1): it is wrong.\n  Expected: float32[?, 3]\n  Got:      float64[2, 4]\n  Return another.",
        ),
    ],
)
@pytest.mark.parametrize("kind", [TfpyopError, *BUILTINS])
def test_the_message_has_a_line_for_each_part(kind, parts, text):
    assert str(kind("it is wrong.", **{part: PARTS[part] for part in parts})) == text


def test_an_empty_part_keeps_its_line():
    assert str(TfpyopError("it is wrong.", expected="", got="")) == "it is wrong.\n  Expected: \n  Got:      "


def test_a_subject_that_is_set_later_is_in_the_message():
    error = errors.ContractError("output 0 has the wrong shape.")
    error.subject = "op 'f' (a.py:1)"
    assert str(error) == "op 'f' (a.py:1): output 0 has the wrong shape."


@pytest.mark.parametrize("parts", [{}, PARTS])
@pytest.mark.parametrize("kind", [TfpyopError, *BUILTINS])
def test_args_hold_the_report(kind, parts):
    error = kind("it is wrong.", **parts)
    assert error.args == (str(error),)
    assert str(type(error)(*error.args)) == str(error)  # as Keras makes errors anew


def test_args_follow_a_subject_that_is_set_later():
    error = TfpyopError("it is wrong.")
    error.subject = "op 'f' (a.py:1)"
    assert error.args == ("op 'f' (a.py:1): it is wrong.",)


def test_an_error_is_about_what_named_it_first():
    error = TfpyopError("it is wrong.")
    assert error.with_subject("op 'f'") is error.with_subject("op 'g'") is error
    assert error.subject == "op 'f'"
    assert TfpyopError("it is wrong.", subject="op 'h'").with_subject("op 'f'").subject == "op 'h'"


@pytest.mark.parametrize("part", PARTS)
def test_the_parts_are_given_by_keyword(part):
    assert getattr(TfpyopError("it is wrong.", **PARTS), part) == PARTS[part]
    with pytest.raises(TypeError, match="positional argument"):
        TfpyopError("it is wrong.", PARTS[part])


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
@pytest.mark.parametrize("parts", [{}, PARTS])
@pytest.mark.parametrize("kind", [TfpyopError, *BUILTINS])
def test_a_copied_or_pickled_error_is_whole(kind, parts, clone):
    error = kind("it is wrong.", **parts)
    cloned = clone(error)
    assert type(cloned) is kind
    assert vars(cloned) == vars(error)
    assert str(cloned) == str(error)


def test_a_subject_that_is_set_later_is_pickled():
    error = TfpyopError("it is wrong.")
    error.subject = "op 'f' (a.py:1)"
    assert pickle.loads(pickle.dumps(error)).subject == "op 'f' (a.py:1)"


def test_autograph_passes_the_errors_through():
    assert TfpyopError("it is wrong.").ag_pass_through is True


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        (None, "[...]"),
        ((), "[]"),
        ((3,), "[3]"),
        ((None, 3), "[?, 3]"),
        ([0, None], "[0, ?]"),
        ((np.int64(2), 4), "[2, 4]"),
    ],
)
def test_shapes_are_described_with_marks_for_the_unknown(shape, text):
    assert describe_shape(shape) == text
    assert describe(np.dtype(np.float32), shape) == f"float32{text}"


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        (np.dtype(np.float64), "float64"),
        (np.dtype(bool), "bool"),
        (np.dtype(object), "string"),
        (np.dtype("U5"), "string"),
        (np.dtype("S5"), "string"),
        ("bfloat16", "bfloat16"),
    ],
)
def test_dtypes_are_described_by_the_names_tensorflow_gives_them(dtype, name):
    assert describe(dtype, (2,)) == f"{name}[2]"


@pytest.mark.parametrize(
    ("arrays", "text"),
    [
        ([], "no inputs"),
        ([np.zeros((2, 0), np.int8)], "int8[2, 0]"),
        ([np.zeros(()), np.array(["a"], object)], "float64[], string[1]"),
    ],
)
def test_arrays_are_described_on_one_line(arrays, text):
    assert describe_arrays(arrays) == text
    assert describe_arrays(iter(arrays)) == text


@pytest.mark.parametrize(
    ("name", "known", "text"),
    [
        ("mot", ["mod"], "Did you mean 'mod'?"),
        ("mod1", ["zebra", "mod2", "mod3"], "Did you mean 'mod3' or 'mod2'?"),
        ("mod1", [f"mod{number}" for number in range(2, 9)], "Did you mean 'mod8' or 'mod7' or 'mod6'?"),
        ("zebra", ["b", "a"], "Known: 'a', 'b'."),
        ("zebra", {"b": 1, "a": 2}, "Known: 'a', 'b'."),
        ("zebra", list("kjihgfedcb"), "Known: 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i'."),
        ("zebra", [], "Known: none."),
    ],
)
def test_nearest_names_the_known_names_that_help(name, known, text):
    assert nearest(name, known) == text
