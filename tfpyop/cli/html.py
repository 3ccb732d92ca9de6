"""The HTML page of `tfpyop check --html`: one self-contained file with tables of checks and derivative plots."""

from __future__ import annotations

import html
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from tfpyop._atomic_files import write_file
from tfpyop._op import Op, op_def_of
from tfpyop._version import __version__
from tfpyop.testing import Outcome, Report
from tfpyop.testing._derivative_plots import GradientProfile, Slice, gradient_profile

_STYLE = """
:root { color-scheme: light; --line: #d0d7de; --dim: #59636e; --good: #116329; --bad: #a40e26; --warn: #9a6700; }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 62rem; padding: 1rem; color: #1f2328;
  background: #fff; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; overflow-wrap: anywhere; }
p.facts { color: var(--dim); overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { border-bottom: 1px solid var(--line); padding: .35rem .6rem; text-align: left; vertical-align: top; }
.passed { color: var(--good); } .failed { color: var(--bad); font-weight: 600; } .skipped { color: var(--dim); }
.warning { border-left: 4px solid var(--warn); padding-left: .6rem; overflow-wrap: anywhere; }
pre { background: #f6f8fa; border-left: 4px solid var(--bad); overflow-x: auto; padding: .6rem; }
.survivors code { overflow-wrap: anywhere; }
.plots { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); }
figure { margin: 0; } svg { height: auto; max-width: 100%; } figcaption { color: var(--dim); font-size: .9rem; }
"""
_WORDS = {"passed": "passed", "failed": "FAILED", "skipped": "skipped"}


def write_page(path: str, ops: Mapping[str, Op[..., Any]], reports: Mapping[str, Report]) -> None:
    """Write the HTML page with the outcomes of the checks of ops."""
    sections = "\n".join(_section(name, ops[name], report) for name, report in reports.items())
    n_wrong = sum(bool(report.failures) for report in reports.values())
    said = f"{n_wrong} of {len(reports)} ops are wrong" if n_wrong else f"All {len(reports)} ops passed"
    if len(reports) == 1:
        said = f"1 op {'is wrong' if n_wrong else 'passed'}"
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{said} - tfpyop check</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{said}</h1>
<p class="facts">tfpyop {__version__}. Derivatives are compared in float64 with extrapolated finite differences.</p>
{sections}
</body>
</html>
"""
    write_file(path, page.encode())


def _section(name: str, op: Op[..., Any], report: Report) -> str:
    rows = "\n".join(map(_row, report.outcomes))
    failures = "\n".join(f"<pre>{html.escape(str(failure))}</pre>" for failure in report.failures)
    facts = f"signature {op.signature or 'unknown'}, defined at {op_def_of(op).site}"
    return f"""<section>
<h2>{html.escape(name)}</h2>
<p class="facts">{html.escape(facts)}</p>
<div class="scroll"><table>
<thead><tr><th>check</th><th>outcome</th><th>examples</th><th>seconds</th></tr></thead>
<tbody>
{rows}
</tbody>
</table></div>
{failures}
{_not_tested(report)}
{_mutants(report)}
{_plots(op)}
</section>"""


def _not_tested(report: Report) -> str:
    """Return what no check tested: a paragraph for each warning, and one for everything else."""
    warned = [f'<p class="warning">Warning: {html.escape(str(part))}</p>' for part in report.warnings]
    others = "; ".join(html.escape(str(part)) for part in report.not_tested if not part.is_warning)
    return "\n".join([*warned, *([f'<p class="facts">Not tested: {others}.</p>'] if others else [])])


def _mutants(report: Report) -> str:
    """Return the results of mutants, or an empty string if there are none."""
    if report.mutation is None:
        return ""
    first, *others = str(report.mutation).splitlines()
    items = "".join(f"<li><code>{html.escape(line.strip())}</code></li>" for line in others)
    kind = "warning" if report.mutation.survivors else "facts"
    return f'<p class="{kind}">{html.escape(first)}</p>' + (f'<ul class="survivors">{items}</ul>' if items else "")


def _row(outcome: Outcome) -> str:
    said = _WORDS[outcome.status] + (f": {outcome.reason}" if outcome.reason else "")
    rejected = f" ({outcome.n_rejected} rejected)" if outcome.n_rejected else ""
    examples = f"{outcome.n_examples}{rejected}" if outcome.status == "passed" else ""
    cells = [outcome.check, f'<span class="{outcome.status}">{html.escape(said)}</span>', examples]
    cells.append(f"{outcome.seconds:.1f}" if outcome.status != "skipped" else "")
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _plots(op: Op[..., Any]) -> str:
    """Return the plots of an op, or an empty string if the op has no gradient rule."""
    try:
        profile = gradient_profile(op)
    except Exception as error:  # the table shows the problem; the page is still written
        return f'<p class="facts">No plots: {html.escape(f"{type(error).__name__}: {error}")}</p>'
    if profile is None:
        return ""
    if profile.slice is None:
        return '<p class="facts">No plots: no example has a derivative.</p>'
    return f'<div class="plots">\n{_error_plot(profile)}\n{_slice_plot(profile.slice)}\n</div>'


def _error_plot(profile: GradientProfile) -> str:
    figure = Figure(figsize=(5, 3.4), layout="constrained")
    axes = figure.add_subplot(
        xscale="log", yscale="log", xlabel="largest input", ylabel="relative error of the gradient"
    )
    magnitudes, errors = np.maximum(profile.magnitudes, 1e-3), np.maximum(profile.errors, 1e-17)
    axes.plot(magnitudes, errors, "o", color="#0969da", alpha=0.6, markersize=4)
    axes.axhline(1e-6, color="#a40e26", linewidth=1, linestyle="--")
    axes.set_ylim(1e-18, max(10.0, float(errors.max())))
    axes.grid(visible=True, alpha=0.3)
    return _figure(
        figure,
        "Relative error of the gradient against finite differences. Above the dashed line, the "
        "gradient counts as wrong.",
    )


def _slice_plot(line: Slice) -> str:
    element = f"[{', '.join(map(str, line.index))}]" if line.index else ""
    figure = Figure(figsize=(5, 3.4), layout="constrained")
    axes = figure.add_subplot(xlabel=f"{line.name}{element}", ylabel="derivative of the sum of outputs")
    axes.plot(line.positions, line.numerical, "o", color="#9a6700", markersize=4, label="by differences")
    axes.plot(line.positions, line.analytic, color="#0969da", label="by the gradient rule")
    axes.ticklabel_format(useOffset=False)
    axes.margins(y=0.2)
    known = line.analytic[np.isfinite(line.analytic)]
    if known.size and np.ptp(known) <= 1e-6 * np.max(np.abs(known), initial=1.0):  # constant except for rounding
        axes.set_ylim(known[0] - 1, known[0] + 1)
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    return _figure(
        figure, f"The derivative as only {line.name}{element} varies. Gaps: the function is not smooth, or raises."
    )


def _figure(figure: Figure, caption: str) -> str:
    text = io.StringIO()
    with rc_context({"svg.fonttype": "path", "svg.hashsalt": caption}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    drawing = text.getvalue()
    drawing = drawing[drawing.index("<svg") :].replace(
        "<svg", f'<svg role="img" aria-label="{html.escape(caption)}"', 1
    )
    return f"<figure>{drawing}<figcaption>{html.escape(caption)}</figcaption></figure>"
