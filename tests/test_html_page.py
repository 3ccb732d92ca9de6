"""The page of `tfpyop check --html`, opened in headless Chromium at the width of a desktop and of a phone."""

import numpy as np
import pytest

from tests import ops
from tfpyop import differentiable_op
from tfpyop.cli.html import write_page
from tfpyop.testing import Mutant, MutationReport, NotTested, Report
from tfpyop.testing._check_op import outcome_of
from tfpyop.testing._derivative_plots import gradient_profile

CHECKS = ["check_contract", "check_gradient", "check_jvp"]
WRONG = differentiable_op(lambda x: x**2, signature="()->()", grad=lambda op, g: -2 * op.inputs[0] * g)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    named = {"ops:mod": ops.mod, "ops:<wrong>": WRONG}
    options = {"max_examples": 5, "modes": None, "seed": 1}
    reports = {name: Report(tuple(outcome_of(op, check, options) for check in CHECKS)) for name, op in named.items()}
    write_page(path, named, reports)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390], ids=["desktop", "phone"])
def test_the_page_opens_without_errors_and_shows_tables_and_pictures(open_page, page, width):
    tab = open_page(page, width)
    assert tab.title() == "1 of 2 ops are wrong - tfpyop check"
    assert tab.locator("table tbody tr").count() == 2 * len(CHECKS)
    assert tab.locator("h2").all_inner_texts() == ["ops:mod", "ops:<wrong>"]
    assert "the wrong sign" in tab.locator("pre").inner_text()
    pictures = tab.locator("figure svg")
    assert pictures.count() == 4
    for number in range(4):
        box = pictures.nth(number).bounding_box()
        assert box["width"] > 200
        assert box["x"] + box["width"] <= width
    assert tab.evaluate("document.documentElement.scrollWidth") <= width


def test_a_page_is_the_same_each_time(tmp_path):
    again = tmp_path / "again.html"
    write_page(again, {"op": WRONG}, {"op": Report(())})
    first = again.read_text()
    write_page(again, {"op": WRONG}, {"op": Report(())})
    assert again.read_text() == first


def test_a_page_shows_what_was_not_tested_and_the_survivors(tmp_path):
    path = tmp_path / "page.html"
    untested = (NotTested("static parameter 'n' was <1> in all examples", "Annotate it.", is_warning=True, option="n"),)
    mutants = (
        Mutant("ops.py:3", "sign", "a < b", "b", "survived"),
        Mutant("ops.py:4", "sign", "c", "-c", "found", "check_gradient"),
    )
    report = Report((), (*untested, NotTested("NaN"), NotTested("sizes above 3")), MutationReport(mutants))
    write_page(path, {"op": WRONG}, {"op": report})
    text = path.read_text()
    assert "<h1>1 op passed</h1>" in text
    assert (
        '<p class="warning">Warning: static parameter &#x27;n&#x27; was &lt;1&gt; in all examples. Annotate it.</p>'
        in text
    )
    assert '<p class="facts">Not tested: NaN; sizes above 3.</p>' in text
    assert "1 of 2 wrong variants of the rules were found, 1 survived:" in text
    assert "<li><code>ops.py:3: sign: a &lt; b  -&gt;  b</code></li>" in text


def test_a_profile_of_a_right_op_is_within_the_tolerance():
    profile = gradient_profile(ops.exp)
    assert profile.errors.size > 20
    assert np.all(profile.errors < 1e-6)
    np.testing.assert_allclose(profile.slice.analytic, np.exp(profile.slice.positions), rtol=1e-6)
    np.testing.assert_allclose(profile.slice.numerical, profile.slice.analytic, rtol=1e-6)


def test_a_profile_shows_a_wrong_gradient_for_what_it_is():
    profile = gradient_profile(WRONG)
    assert np.median(profile.errors) > 0.1
    known = np.isfinite(profile.slice.numerical) & (profile.slice.positions != 0)
    np.testing.assert_allclose(profile.slice.analytic[known], -profile.slice.numerical[known], rtol=1e-5)


def test_a_profile_has_gaps_where_the_function_is_not_smooth():
    magnitude = differentiable_op(
        lambda x: np.where(x > 0, np.log(np.maximum(x, 1e-300)), np.nan),
        signature="()->()",
        grad=lambda op, g: g / op.inputs[0],
    )
    line = gradient_profile(magnitude).slice
    assert np.isnan(line.numerical[line.positions < 0]).all()
    assert np.isfinite(line.numerical[line.positions > 0.1]).all()


def test_an_op_without_a_rule_has_no_profile():
    assert gradient_profile(differentiable_op(lambda x: x, signature="()->()")) is None
