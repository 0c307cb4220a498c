"""The demo keeps its word: it prints what the README shows, and what it prints is what the database says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.demo_run import Demo, demo
from tests.test_notebooks import NOTEBOOKS, run
from tests.test_readme import README

__all__ = ["demo"]
pytestmark = pytest.mark.slow


def test_the_demo_prints_what_the_readme_shows(demo: Demo) -> None:
    """Every line of the shown table is a line of the printed one, numbers aside."""
    shown = re.search(r"```text\nAccuracy on(.*?)```", README, re.DOTALL)
    assert shown is not None
    printed = {_wording(line) for line in demo.printed.splitlines()}
    missing = [
        line
        for line in ("Accuracy on" + shown[1]).splitlines()
        if line.strip() and _wording(line) not in printed
    ]
    optional = ("Cleaning changed", "Cleaning did not help")
    assert [line for line in missing if not line.strip().startswith(optional)] == []


def _wording(line: str) -> str:
    """A line without its numbers: what stays the same from run to run."""
    return re.sub(r"[\d.,%+-]+|\bto\b", "", " ".join(line.split())).replace(" ", "")[:40]


def test_the_demo_keeps_its_promise_and_says_what_it_saw(demo: Demo) -> None:
    """Both turns are routed, true errors stand beside audited ones, and numbers agree with the database."""
    turns = demo.numbers["turns"]
    assert len(turns) == 2
    assert all(sum(turn["tiers"].values()) == 1500 for turn in turns)
    answered = sum(turn["answered"] for turn in turns)
    wrong = sum(turn["true_wrong"] for turn in turns)
    assert answered > 300, "the student answers a good part of the traffic"
    assert wrong / answered < 0.05, "the certified target"
    from sqlalchemy import func, select

    from tasks.store import open_store, schema

    store = open_store(demo.project.database_url, demo.project.project)
    paid = store.scalar(select(func.sum(schema.calls.c.cost_usd)))
    assert sum(stage["cost_usd"] for stage in demo.numbers["spending"].values()) == pytest.approx(paid)


def test_the_demos_report_is_one_page_with_its_figures(demo: Demo) -> None:
    """The report stands alone: nothing is loaded from elsewhere, and the three figures are in it."""
    page = Path(demo.numbers["places"]["report"]).read_text(encoding="utf-8")
    assert not re.findall(r"(?:src|href)=[\"']https?:", page)
    assert page.count("data:image") >= 3
    assert "What is taken for what" in page
    assert "scalat" in page


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_runs_on_what_the_demo_left(demo: Demo, file: Path) -> None:
    """Every cell runs without a warning, and every cell that ends with a figure shows one."""
    cells = [cell for cell in run(file, demo.home) if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    assert [output.text for output in outputs if output.get("name") == "stderr"] == []
    drawing = [cell for cell in cells if cell.source.endswith("\nfigure")]
    assert len(drawing) >= 4
    blank = [cell.source for cell in drawing if "image/png" not in cell.outputs[0].data]
    assert blank == []
