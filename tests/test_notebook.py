"""demo.ipynb runs from its first to its last cell, shows pictures, and is stored without outputs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).resolve().parent.parent / "demo.ipynb"


def test_no_outputs_are_stored():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code and all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_notebook_runs_and_every_section_shows_a_picture(monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="nbclient of requirements-app.txt is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel of requirements-app.txt is not installed")
    import nbformat

    monkeypatch.setenv("DEMO_STEPS", "1")
    monkeypatch.setenv("DEMO_REFINE", "2")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3",
                                     resources={"metadata": {"path": str(NOTEBOOK.parent)}})
    client.execute()
    shown = [any("image/png" in output.get("data", {}) for output in cell.outputs)
             for cell in notebook.cells if cell.cell_type == "code"]
    # All but the first cell, which imports and loads, end with a picture.
    assert shown == [False] + [True] * (len(shown) - 1)
