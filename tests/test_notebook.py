"""The notebook runs from top to bottom and shows what it was saved with."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parent.parent / "examples").glob("*.ipynb"))


def shown(notebook):
    """What each code cell prints, and the kinds of what it displays."""
    return [
        (
            "".join(output.text for output in cell.outputs if output.get("name") == "stdout"),
            [sorted(output.data) for output in cell.outputs if "data" in output],
        )
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*IPC transport:UserWarning")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_shows_what_it_was_saved_with(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    saved = shown(notebook)
    assert any(text for text, _ in saved)
    assert any(kinds for _, kinds in saved)  # a plot
    client = NotebookClient(notebook, timeout=200, resources={"metadata": {"path": tmp_path}})
    assert shown(client.execute()) == saved


def test_there_is_a_notebook():
    assert NOTEBOOKS
