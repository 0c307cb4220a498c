"""The nightly run through the provider's Batch API: sent one night, fetched the next, nothing waited for."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from sqlalchemy import select

from deployments.teacher_sim import TeacherServer
from tasks.project import load_project
from tasks.store import open_store, schema
from tests.conftest import write_tiny_project
from tests.flows.conftest import recorded_after_writing

pytestmark = pytest.mark.slow


def ended(server: TeacherServer) -> None:
    """Wait until the server has worked off its batches; its own clock decides when."""
    while any(
        batch["status"] not in ("completed", "failed", "expired", "cancelled")
        for batch in httpx.get(f"{server.base_url}/batches?limit=100").json()["data"]
    ):
        continue


def test_what_a_night_sends_the_next_one_fetches(prefect_server: None, tmp_path: Path) -> None:
    """Night one has nothing to learn from yet and says so; night two fetches, and learns; night three is idle.

    The runs' own records say which of them was complete.
    """
    from flows.nightly import nightly

    folder = tmp_path / "conf"
    with TeacherServer(recorded_after_writing(folder)) as teacher:
        terms = {"base_url": teacher.base_url, "batch": {"nightly": True}}
        file = str(write_tiny_project(folder, teacher=terms))
        first = nightly(file)
        assert first["label"]["waiting"] == 120
        assert first["label"]["batches"]["submitted"] == 1
        assert not first["changed"]
        ended(teacher)
        second = nightly(file)
        assert second["label"]["batches"]["fetched"] == 1
        assert (second["label"]["calls"], second["label"]["waiting"]) == (120, 0)
        assert second["changed"]
        assert second["retrain"]["model_version"] == "1"
        third = nightly(file)
        assert (third["label"]["calls"], third["changed"]) == (0, False)
        stats = teacher.stats()
        assert (stats["paid"], stats["batch_paid"], stats["requests"], stats["batches"]) == (120, 120, 0, 1)
    project = load_project(file)
    store = open_store(project.database_url, project.project)
    runs = store.read(select(schema.runs.c.job, schema.runs.c.status).order_by(schema.runs.c.id))
    assert runs.rows()[:3] == [("nightly", "incomplete"), ("nightly", "done"), ("nightly", "done")]
    store.close()
