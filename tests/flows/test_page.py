"""What a run's page says is what the job's record says, for any record, in words and units."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from flows.page import MLFLOW_UI, in_markdown, links, mlflow_address
from tasks.project import load_project
from tasks.records import Embedded, Labelled


def test_counts_and_costs_are_rows_in_words_and_units() -> None:
    """Money, seconds and counts read as such; what is empty is left out."""
    page = in_markdown(
        {"label": Labelled(items=1200, cost_usd=0.5, tokens={"input": 3}).as_dict(), "changed": True}, {}
    )
    assert "## label" in page
    assert "| items | 1,200 |" in page
    assert "| cost | 0.5000 USD |" in page
    assert "| tokens | input 3 |" in page
    assert "stopped" not in page
    assert "|  | yes |" in page
    embedded = Embedded(1, 2, 3, "abc", 4.25, not_encoded_rows=[f"row {n}" for n in range(10)])
    assert "| seconds | 4.2 s |" in in_markdown({"embed": embedded.as_dict()}, {})
    assert "row 7 and 2 more" in in_markdown({"embed": embedded.as_dict()}, {})


def test_a_mapping_of_mappings_is_a_table_of_its_own() -> None:
    """Cleaning by level: one line a level, one column a count."""
    levels = {"category": {"labels": 10, "share": 0.25}, "department": {"labels": 10}}
    page = in_markdown({"clean": {"levels": levels}}, {})
    assert "| levels | labels | share |" in page
    assert "| category | 10 | 0.25 |" in page
    assert "| department | 10 |  |" in page


def test_what_stands_in_data_breaks_no_table() -> None:
    """A bar or a line break inside an error's words stays inside its cell."""
    page = in_markdown({"label": {"stopped": "a | b\nc"}}, {})
    assert "| stopped | a \\| b c |" in page


def test_links_lead_to_the_ui_that_is_there(
    tiny_project: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Versions by MLflow's address, where one serves it; a report is a file; without MLflow's UI no dead link."""
    project = load_project(tiny_project())
    done = {"report": "report/index.html", "promote": {"challenger_version": "4", "champion_version": "4"}}
    monkeypatch.delenv(MLFLOW_UI, raising=False)
    assert mlflow_address(project) is None
    assert links(project, done, None) == {"report": "report/index.html"}
    monkeypatch.setenv(MLFLOW_UI, "http://127.0.0.1:5000")
    found = links(project, done, mlflow_address(project))
    assert found["version 4 in MLflow"] == "http://127.0.0.1:5000/#/models/tiny/versions/4"
    assert "- [version 4 in MLflow](http://127.0.0.1:5000/" in in_markdown(done, found)
    assert "- report: `report/index.html`" in in_markdown(done, found)
    own = load_project(tiny_project(mlflow={"tracking_uri": "http://models.example:80/"}))
    assert mlflow_address(own) == "http://models.example:80"
