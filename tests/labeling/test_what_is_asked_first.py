"""The labelling step asks what helps most, with what the project has by then: nothing, embeddings, a student."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from sqlalchemy import select

from deployments.teacher_sim import TeacherServer
from tasks.cleaning.steps import clean_snapshot
from tasks.embedding.steps import embed
from tasks.labeling.steps import label_with_teacher, take_in_items
from tasks.project import load_project
from tasks.records import text_key
from tasks.store import open_store, schema
from tasks.store.traffic import append_traffic
from tasks.student.steps import take_snapshot, train_and_register
from tests.conftest import write_tiny_project
from tests.flows.conftest import recorded
from tests.monitoring.filled import request


@pytest.mark.slow
def test_the_mix_is_kept_as_far_as_the_project_has_come(tmp_path: Path) -> None:
    """Random before anything is embedded, then spread out, then by the challenger's margins; what is owed first."""
    write_tiny_project(tmp_path / "conf")
    with TeacherServer(recorded(tmp_path / "conf")) as teacher:
        file = write_tiny_project(
            tmp_path / "conf",
            teacher={"base_url": teacher.base_url},
            labeling={"mix": {"uncertain": 0.5, "diverse": 0.25, "random": 0.25}},
            mlflow={"tracking_uri": f"sqlite:///{tmp_path / 'mlflow.db'}"},
        )
        project = load_project(file)
        take_in_items.fn(project, 1)
        assert label_with_teacher.fn(project, 1, limit=12).chosen == {"random": 12}
        embed.fn(project)
        assert label_with_teacher.fn(project, 1, limit=16).chosen == {"diverse": 12, "random": 4}
        assert not (tmp_path / "mlflow.db").exists(), "no registry was made only to find no student in it"

        train_and_register.fn(project, clean_snapshot.fn(project, take_snapshot.fn(project)), 1)
        store = open_store(project.database_url, project.project)
        due = pl.read_parquet(tmp_path / "conf" / "items.parquet")["name"].to_list()
        asked = set(store.read(select(schema.answers.c.key).distinct())["key"])
        waits = next(name for name in due if text_key(name) not in asked)
        append_traffic(store, [request(waits, "fallback", None)], 1)
        third = label_with_teacher.fn(project, 1, limit=9)
        assert third.chosen == {"owed": 1, "uncertain": 4, "diverse": 2, "random": 2}
        assert label_with_teacher.fn(project, 1).chosen == {"all": 23}, (
            "everything is asked: nothing is chosen"
        )
        store.close()
