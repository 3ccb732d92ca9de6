"""The list of private symbols, and the table of versions that were tested."""

import pytest

from tests import matrix, private_symbols

SYMBOLS = private_symbols.here()


def test_every_private_symbol_is_found_and_described():
    assert [name for name, text in SYMBOLS.items() if not text] == []
    assert SYMBOLS["tensorflow.python.eager.context.Context"] == "type"
    assert SYMBOLS["tensorflow.python.ops.parallel_for.pfor.wrap"].startswith("(tensor")
    assert "tensorflow.python.pywrap_tfe.TFE_Py_TapeSetIsStopped" in SYMBOLS
    assert "tensorflow.python.framework.ops.EagerTensor._numpy_internal" in SYMBOLS


def test_missing_and_changed_symbols_are_listed_by_name():
    source = """
from tensorflow.python.eager import record, no_module
from tensorflow.python.framework.ops import no_function
record.no_attribute
record.stop_recording
"""
    names = private_symbols.names(source)
    assert names == [
        "tensorflow.python.eager.record",
        "tensorflow.python.eager.no_module",
        "tensorflow.python.framework.ops.no_function",
        "tensorflow.python.eager.record.no_attribute",
        "tensorflow.python.eager.record.stop_recording",
    ]
    after = {name: private_symbols.described(name) for name in names}
    before = {**dict.fromkeys(names, "()"), "tensorflow.python.eager.record": "module"}
    before["tensorflow.python.eager.record.stop_recording"] = "(tape)"
    assert list(private_symbols.changes(before, after)) == [
        "missing: tensorflow.python.eager.no_module",
        "missing: tensorflow.python.framework.ops.no_function",
        "missing: tensorflow.python.eager.record.no_attribute",
        "changed: tensorflow.python.eager.record.stop_recording: (tape) -> ()",
    ]


@pytest.mark.parametrize("line", ["tensorflow 2.19.1, numpy 3: 5 passed", "tensorflow 2.21.0, numpy 3: 5 passed"])
def test_the_page_gets_one_line_for_each_version(line):
    page = "text\n<!-- matrix -->\n```text\ntensorflow 2.18.1, a: 1\ntensorflow 2.21.0, a: 1\n```\nmore\n"
    expected = {row.partition(",")[0]: row for row in ("tensorflow 2.18.1, a: 1", "tensorflow 2.21.0, a: 1", line)}
    got = matrix.written(page, line)
    rows = "".join(f"{expected[key]}\n" for key in sorted(expected))
    assert got == f"text\n<!-- matrix -->\n```text\n{rows}```\nmore\n"
    assert "<!-- matrix -->" in matrix.PAGE.read_text()
