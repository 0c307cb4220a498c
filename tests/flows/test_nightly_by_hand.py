"""A nightly run started by hand: what its form asks for holds for all of the run, and for that run only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import func, select

from deployments.teacher_sim import TeacherServer
from flows.job import job
from tasks.errors import TrainingError
from tasks.project import load_project
from tasks.promotion.tracking import registry_of
from tasks.store import open_store, schema
from tests.conftest import write_tiny_project
from tests.flows.conftest import recorded_after_writing


@pytest.fixture
def tiny(prefect_server: None, tmp_path: Path) -> Iterator[Path]:
    """A project with a teacher, and with traffic that nobody has routed."""
    folder = tmp_path / "conf"
    with TeacherServer(recorded_after_writing(folder)) as teacher:
        yield write_tiny_project(
            folder, teacher={"base_url": teacher.base_url}, source={"traffic": "gold.parquet"}
        )


def test_what_a_job_was_told_goes_for_the_jobs_inside_it(tiny_project: Callable[..., Path]) -> None:
    """An inner job's own word goes first; the next run has the file's settings again."""
    file = str(tiny_project(teacher={"budget_usd": 7}, promotion={"approval": "human"}))
    with job(file, "nightly", budget_usd=2, approval="automatic") as (night, _):
        with job(file, "promote") as (inside, _):
            assert (inside.teacher.budget_usd, inside.promotion.approval) == (2, "automatic")
        with job(file, "label", budget_usd=1) as (inside, _):
            assert (inside.teacher.budget_usd, inside.promotion.approval) == (1, "automatic")
        assert (night.teacher.budget_usd, night.promotion.approval) == (2, "automatic")
    with job(file, "promote") as (plain, _):
        assert (plain.teacher.budget_usd, plain.promotion.approval) == (7, "human")


@pytest.mark.slow
def test_a_budget_ends_all_that_the_night_asks(tiny: Path) -> None:
    """Too little for one answer: neither routing nor labelling pays for any, so there is nothing to learn from."""
    from flows.nightly import nightly

    with pytest.raises(TrainingError, match="0 labelled items"):
        nightly(str(tiny), budget_usd=1e-6)
    project = load_project(tiny)
    store = open_store(project.database_url, project.project)
    assert store.scalar(select(func.count()).select_from(schema.calls)) == 0
    assert store.scalar(select(schema.runs.c.result)).count('"stopped": "budget"') == 1
    store.close()


@pytest.mark.slow
def test_a_limit_is_the_nights_and_a_person_is_asked_where_the_form_says_so(tiny: Path) -> None:
    """Thirty items are asked about; what was learned waits for a person although the project promotes by itself."""
    from flows.nightly import nightly

    done = nightly(str(tiny), limit=30, approval="human")
    assert done["label"]["calls"] == 60
    assert (done["promote"]["promoted"], done["promote"]["waiting"]) == (False, True)
    assert registry_of(load_project(tiny)).alias("champion") is None
