"""A tiny wheel that turned once, under the session's Prefect server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from deployments.teacher_sim import TeacherServer
from tasks.project import Project, load_project
from tasks.store import Store, open_store
from tests.conftest import write_tiny_project


@dataclass
class Wheel:
    """A tiny project with its teacher; `results` are what the jobs of the first turn returned."""

    file: Path
    project: Project
    teacher: TeacherServer
    results: dict[str, Any]

    @property
    def store(self) -> Store:
        """The project's database, opened anew."""
        return open_store(self.project.database_url, self.project.project)


def recorded(folder: Path) -> dict[str | bytes, list[str]]:
    """What the tiny project's teacher says: text to the answers of both passes."""
    frame = pl.read_parquet(folder / "answers.parquet")
    return {row["text"]: [row["a"], row["b"]] for row in frame.iter_rows(named=True)}


@pytest.fixture(scope="session")
def turned(prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wheel]:
    """The whole wheel once, by the real flows against the real simulated teacher over HTTP."""
    from flows.clean import clean
    from flows.embed import embed
    from flows.label import label
    from flows.promote import promote
    from flows.retrain import retrain

    folder = tmp_path_factory.mktemp("wheel")
    with pytest.MonkeyPatch.context() as patch, TeacherServer(recorded_after_writing(folder)) as teacher:
        patch.setenv("FLYWHEEL_HOME", str(folder))
        file = write_tiny_project(
            folder,
            teacher={"base_url": teacher.base_url},
            routing={"audit_rate": 0.5, "target_error": 0.2, "confidence": 0.8},
            source={"traffic": "traffic/*.parquet"},
            storage={"root": str(folder / "var" / "tiny")},  # FLYWHEEL_HOME is each test's own
            mlflow={"tracking_uri": f"sqlite:///{folder / 'var' / 'mlflow.db'}"},
        )
        (folder / "traffic").mkdir()
        project = load_project(file, folder)
        results: dict[str, Any] = {}
        for name, job in (
            ("label", label),
            ("embed", embed),
            ("clean", clean),
            ("retrain", retrain),
            ("promote", promote),
        ):
            results[name] = job(str(file))
        yield Wheel(file, project, teacher, results)


def recorded_after_writing(folder: Path) -> dict[str | bytes, list[str]]:
    """The answers of a project written there first, before its teacher's address is known."""
    write_tiny_project(folder)
    return recorded(folder)
