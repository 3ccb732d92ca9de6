"""Damaged models and frames under XLA: a call is right or refused in our words, and the process goes on."""

import json
import re

import pytest

from tests import damaged_models
from tests.processes import run_python

OTHER_ARRAYS = "the arrays of a compiled call do not match the model's declaration"
UNREADABLE = "cannot parse the call data in a compiled model"
WRONG_INPUTS = "the call has the wrong number of inputs"
EXPECTED = {
    "larger": ["right", OTHER_ARRAYS],
    "smaller": [OTHER_ARRAYS, "right"],
    "open sizes": ["right", "right"],
    "other op": [WRONG_INPUTS, WRONG_INPUTS],
    "not text": [UNREADABLE] * 2,
    "no types": [UNREADABLE] * 2,
    "unknown dtype": [UNREADABLE] * 2,
    "number": [UNREADABLE] * 2,
    "missing": [UNREADABLE] * 2,
    "two": [UNREADABLE] * 2,
    "stateful": ["right", "right"],
}
"""What the calls of the large and of the small function come to; refused for their arrays where nothing is said."""


def run(code):
    return run_python("-c", code, timeout=300, check=True).stdout


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    directory = str(tmp_path_factory.mktemp("models"))
    return json.loads(run(f"from tests import damaged_models; damaged_models.main({directory!r})"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", damaged_models.DAMAGES)
def test_a_damaged_model_is_refused_in_every_call(damaged, kind):
    expected = EXPECTED.get(kind, [OTHER_ARRAYS] * 2)
    got = damaged["outcomes"][kind]
    assert len(got) == 6
    for message, wanted in zip(got, expected * 3, strict=True):
        assert re.match(rf"(op '[^']+' \(.*\): )?{wanted}", message), message


def test_the_error_shows_both_sides_and_the_op(damaged):
    assert re.match(
        r"op 'damaged:op' \(.*/damaged_models\.py:\d+\): the arrays of a compiled call do not match the model's "
        r"declaration\.\n  Expected: float32\[65536\] -> float32\[65536\]\n  Got:      float32\[4\] -> float32\[4\]\n"
        r"  The file may be damaged, or a newer tfpyop wrote it\. Save the model again with this version\.",
        damaged["outcomes"]["larger"][1],
    )
    listed = ", ".join(["float32[4]"] * 8)
    assert f"Expected: {listed} and 32 more -> float32[4]\n" in damaged["outcomes"]["40 arguments"][1]


def test_altered_texts_of_compiled_calls_never_end_the_process(damaged):
    assert sum(damaged["fuzz"].values()) >= 60
    assert damaged["fuzz"]["refused"] > 30


@pytest.mark.slow
def test_frames_that_contradict_their_text_never_end_the_process():
    right, deferred_for = map(int, re.findall(r"\d+", run("from tests import fuzzed_frames; fuzzed_frames.main()")))
    assert right > 500
    assert deferred_for > 300
