"""The notebooks as they are committed: without outputs, each figure explained above it.

tests/test_demo.py runs them on what the demo left.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest

from tests.conftest import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def read(file: Path) -> Any:
    """The notebook, which the format's own schema takes."""
    notebook = nbformat.read(file, as_version=4)
    nbformat.validate(notebook)
    return notebook


def run(file: Path, home: Path) -> list[Any]:
    """The cells after a run on what was written under `home`; fails where one raises."""
    from nbclient import NotebookClient

    notebook = read(file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLYWHEEL_HOME", str(home))
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.delenv("MPLBACKEND")  # the kernel chooses its own
        place = {"metadata": {"path": str(file.parent)}}
        NotebookClient(notebook, timeout=300, kernel_name="python3", resources=place).execute()
    return list(notebook.cells)


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_is_committed_without_what_it_printed(file: Path) -> None:
    """So that a change of one is a change of its text."""
    code = [cell for cell in read(file).cells if cell.cell_type == "code"]
    assert [cell for cell in code if cell.outputs or cell.execution_count] == []


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_says_in_words_what_is_seen(file: Path) -> None:
    """It opens with a title; what explains a figure or a table stands above it; every axis drawn has its name."""
    cells = read(file).cells
    assert cells[0].cell_type == "markdown"
    assert cells[0].source.startswith("# ")
    headings = [cell for cell in cells[1:] if cell.cell_type == "markdown"]
    assert all(cell.source.startswith("## ") and len(cell.source.splitlines()) > 2 for cell in headings)
    drawn = [cell.source for cell in cells if cell.cell_type == "code" and "frame(" in cell.source]
    assert drawn
    assert [source for source in drawn[1:] if "set_xlabel(" not in source] == []


def test_there_are_the_three() -> None:
    assert [file.stem for file in NOTEBOOKS] == [
        "label_audit",
        "operating_points_and_cost",
        "the_wheel_over_time",
    ]
