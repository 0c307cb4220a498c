"""A run's page links to where more is to be read, and only to what is there."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from prefect import flow

from flows.page import MLFLOW_UI, key_of, links, mlflow_address, publish
from tasks.project import load_project


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
    own = load_project(tiny_project(mlflow={"tracking_uri": "http://models.example:80/"}))
    assert mlflow_address(own) == "http://models.example:80"


def test_keys_hold_what_the_server_allows(tiny_project: Callable[..., Path]) -> None:
    """Small letters, digits and single dashes, whatever project and job are called."""
    project = load_project(tiny_project(project="my_shop"))
    assert key_of(project, "verify embeddings") == "my-shop-verify-embeddings"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("address", "reason"), [("127.0.0.1:1:2", "Invalid url"), ("[broken", "Invalid IPv6")]
)
def test_a_page_that_cannot_be_made_fails_no_job(
    prefect_server: None, tiny_project: Callable[..., Path], address: str, reason: str
) -> None:
    """MLflow's own exception, or a plain ValueError: the run completes and its log has the reason."""
    project = load_project(tiny_project(mlflow={"tracking_uri": f"http://{address}"}))

    @flow
    def reports() -> str:
        publish(project, "report", {"report": "index.html"})
        return "done"

    said: list[str] = []
    listener = logging.Handler()
    listener.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("prefect.flow_runs").addHandler(listener)
    try:
        assert reports() == "done"
    finally:
        logging.getLogger("prefect.flow_runs").removeHandler(listener)
    (why,) = [line for line in said if line.startswith("this run's page shows no result")]
    assert reason in why
