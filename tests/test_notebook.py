"""The notebook runs from top to bottom, at tiny size."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.forked import python

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")

NOTEBOOK = Path(__file__).parent.parent / "docs/how-to/first-inpainting.ipynb"


def tags(cell: dict) -> list[str]:
    return cell["metadata"].get("tags", [])


def pictures(notebook: Any) -> list[tuple[str, int]]:
    """The cells that show a picture, by their source, and how many."""
    shown = [
        (cell.source, sum("image/png" in output.get("data", {}) for output in cell.get("outputs", [])))
        for cell in notebook.cells
    ]
    return [(source, count) for source, count in shown if count]


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands, but for the installation and the lengths of training."""
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    kernel = tmp_path / "share/kernels/python3"
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text(
        f'{{"argv": ["{python()}", "-m", "ipykernel_launcher", "-f", "{{connection_file}}"], '
        '"display_name": "Python 3", "language": "python"}'
    )
    monkeypatch.setenv("JUPYTER_PATH", os.fspath(tmp_path / "share"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    notebook.cells = [cell for cell in notebook.cells if "install" not in tags(cell)]
    (parameters,) = [cell for cell in notebook.cells if "parameters" in tags(cell)]
    parameters.source = "tokenizer_steps, steps, sampling_steps = 4, 4, 2"
    done = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    assert pictures(done) == pictures(nbformat.read(NOTEBOOK, as_version=4))
    assert len(pictures(done)) == 5
    assert (tmp_path / "runs/notebook/pipeline/model_index.json").is_file()


def test_the_notebook_keeps_its_pictures_and_nothing_else() -> None:
    """Neither progress nor paths of the machine on which it ran; and it ran from top to bottom."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [*range(1, len(code) + 1)]
    for output in (output for cell in code for output in cell.outputs):
        assert output.output_type == "execute_result"
        assert output.data.keys() == {"image/png", "text/plain"}
