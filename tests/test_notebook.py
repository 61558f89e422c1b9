"""The notebook runs, from a fresh checkpoint, and the outputs it is published with are of the code in it."""

import pathlib

import nbclient
import nbformat
import pytest
from tiny_run import write_run

NOTEBOOK = pathlib.Path(__file__).parents[1] / "notebooks" / "quickstart.ipynb"


@pytest.mark.slow
# Jupyter's own packages use what others have deprecated.
@pytest.mark.filterwarnings("ignore")
def test_every_cell_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("MFG_JAX_WORKDIR", str(write_run(tmp_path / "run")))
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOK.parents[1]))
    monkeypatch.delenv("JAX_NUM_CPU_DEVICES")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    shown = [
        (output["output_type"], kind)
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        for kind in output.get("data", {})
    ]
    # The network, the ranked pictures and the metrics, and the plot.
    assert shown.count(("execute_result", "text/html")) == 3
    assert ("display_data", "image/png") in shown


@pytest.mark.filterwarnings("ignore")
def test_the_published_outputs_are_whole_and_small():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    for cell in code:
        assert all(output.output_type in ("execute_result", "display_data") for output in cell.outputs)
    assert NOTEBOOK.stat().st_size < 1_000_000
