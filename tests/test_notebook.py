"""The notebooks run from top to bottom, at tiny size."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import run_cli
from tests.data.emoji_files import write_emoji
from tests.forked import python

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")

FOLDER = Path(__file__).parent.parent / "docs/how-to"
INPAINTING, EMOJI = FOLDER / "first-inpainting.ipynb", FOLDER / "emoji.ipynb"


def tags(cell: dict) -> list[str]:
    return cell["metadata"].get("tags", [])


def pictures(notebook: Any) -> list[tuple[str, int]]:
    """The cells that show a picture, by their source, and how many."""
    shown = [
        (cell.source, sum("image/png" in output.get("data", {}) for output in cell.get("outputs", [])))
        for cell in notebook.cells
    ]
    return [(source, count) for source, count in shown if count]


def run(path: Path, parameters: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The notebook as it stands, but for the installation and its parameters, run in ``place``."""
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    kernel = place / "share/kernels/python3"
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text(
        f'{{"argv": ["{python()}", "-m", "ipykernel_launcher", "-f", "{{connection_file}}"], '
        '"display_name": "Python 3", "language": "python"}'
    )
    monkeypatch.setenv("JUPYTER_PATH", os.fspath(place / "share"))
    notebook = nbformat.read(path, as_version=4)
    notebook.cells = [cell for cell in notebook.cells if "install" not in tags(cell)]
    (given,) = [cell for cell in notebook.cells if "parameters" in tags(cell)]
    names = given.source.partition(" = ")[0]
    given.source = f"{names} = {parameters}"
    return nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(place)}}
    ).execute()


def test_the_notebook_of_digits_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run(INPAINTING, "4, 4, 2", tmp_path, monkeypatch)
    assert pictures(done) == pictures(nbformat.read(INPAINTING, as_version=4))
    assert len(pictures(done)) == 5
    assert (tmp_path / "runs/notebook/pipeline/model_index.json").is_file()


def test_the_notebook_of_emoji_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a run of a few drawn emoji."""
    write_emoji(tmp_path / "images", "google")
    words = """
        train emoji --data.root images --data.styles google --data.test-fraction 0.3
        --tokenizer.model.codebook-size 16 --tokenizer.model.channels 8 8 8 --tokenizer.training.steps 4
        --network.depth 1 --network.width 32 --network.heads 2 --training.steps 4 --training.batch-size 4
        --training.sample-every 0
    """
    trained = run_cli(*words.split(), cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    done = run(EMOJI, "'runs/emoji', '', 2, 0", tmp_path, monkeypatch)
    assert pictures(done) == pictures(nbformat.read(EMOJI, as_version=4))
    assert len(pictures(done)) == 6


@pytest.mark.parametrize("path", [INPAINTING, EMOJI], ids=lambda path: path.stem)
def test_a_notebook_keeps_its_pictures_and_nothing_else(path: Path) -> None:
    """Neither progress nor paths of the machine on which it ran; and it ran from top to bottom."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [*range(1, len(code) + 1)]
    for output in (output for cell in code for output in cell.outputs):
        assert output.output_type == "execute_result"
        assert output.data.keys() == {"image/png", "text/plain"}
