"""Programs of TensorFlow 1, each with every choice of behaviors that such programs switch off."""

import json
from functools import cache
from pathlib import Path

import pytest

from tests.processes import run_python
from tests.tf1_programs import EAGER_PROGRAMS, PROGRAMS

SETTINGS = {
    "TensorFlow 1": ["disable_v2_behavior"],
    "tensor shapes": ["disable_v2_tensorshape"],
    "control flow and references": ["disable_control_flow_v2", "disable_resource_variables"],
}
WITH_EAGER = [settings for settings in SETTINGS if settings != "TensorFlow 1"]


def marked(names):
    """The third process is for the second tier of tests."""
    return [pytest.param(name, marks=[pytest.mark.slow] * name.startswith("control flow")) for name in names]


@cache
def outcomes(settings):
    """What became of every program, by name; all run in one process, because TensorFlow takes long to load."""
    root = Path(__file__).parent.parent
    process = run_python("-m", "tests.tf1_programs", *SETTINGS[settings], cwd=root, timeout=200, check=True)
    return json.loads(process.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("settings", marked(SETTINGS))
def test_programs_of_graphs_and_sessions_do_what_they_should(settings, program):
    assert outcomes(settings)[program] == ""


@pytest.mark.slow
@pytest.mark.parametrize("program", EAGER_PROGRAMS)
@pytest.mark.parametrize("settings", marked(WITH_EAGER))
def test_eager_programs_do_what_they_should(settings, program):
    assert outcomes(settings)[program] == ""


@pytest.mark.slow
@pytest.mark.parametrize("settings", marked(SETTINGS))
def test_all_programs_are_run(settings):
    assert list(outcomes(settings)) == [*PROGRAMS, *(EAGER_PROGRAMS if settings in WITH_EAGER else [])]
