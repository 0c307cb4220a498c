"""Labelling with examples for starved labels, as the job and as the command."""

from __future__ import annotations

from pathlib import Path

import pytest

from deployments.teacher_sim import TeacherServer
from tasks.project import load_project
from tasks.store import open_store
from tasks.store.synthetic import synthetic_keys
from tests.conftest import write_tiny_project
from tests.deployments.commands import flywheel
from tests.flows.conftest import recorded_after_writing

pytestmark = pytest.mark.slow


def test_the_job_writes_examples_once(prefect_server: None, tmp_path: Path) -> None:
    """After labelling, in the same run and money; a second run of the job with nothing new asks nothing."""
    from flows.label import label

    folder = tmp_path / "conf"
    with TeacherServer(recorded_after_writing(folder)) as teacher:
        terms = {"base_url": teacher.base_url}
        file = write_tiny_project(folder, teacher=terms, labeling={"synthesis": {"below": 12}})
        plain = label(str(file), synthesize=False)
        assert plain.synthesis is None
        told = label(str(file))
        assert told.synthesis is not None
        assert told.synthesis["kept"] > 0
        assert (told.items, told.calls) == (0, told.synthesis["calls"])
        assert told.cost_usd == pytest.approx(told.synthesis["cost_usd"])
        paid = teacher.stats()["paid"]
        again = label(str(file))
        assert again.synthesis is not None
        assert (again.synthesis["written"], again.calls, teacher.stats()["paid"]) == (0, 0, paid)
        sliced = label(str(file), limit=5)
        assert sliced.synthesis is None
    project = load_project(file)
    store = open_store(project.database_url, project.project)
    assert synthetic_keys(store).height == told.synthesis["kept"]
    store.close()


def test_the_command_says_what_was_written(tmp_path: Path) -> None:
    """One object with its counts; without `below` it is wrong usage."""
    folder = tmp_path / "conf"
    with TeacherServer(recorded_after_writing(folder)) as teacher:
        terms = {"base_url": teacher.base_url}
        file = write_tiny_project(folder, teacher=terms, labeling={"synthesis": {"below": 12}})
        said = flywheel("label", "--synthesize", "--project", file, "--json", cwd=tmp_path, home=tmp_path)
        file = write_tiny_project(folder, teacher=terms)
        wrong = flywheel("label", "--synthesize", "--project", file, cwd=tmp_path, home=tmp_path)
    assert said.code == 0, said.err
    written = said.body["synthesis"]
    assert written["kept"] > 0
    assert {"written", "kept", "duplicates", "off_label", "by_label", "cost_usd", "missing"} <= set(written)
    assert written["written"] == sum(
        written[name] for name in ("kept", "duplicates", "off_label", "unusable", "surplus")
    )
    assert wrong.code == 2
    assert "labeling.synthesis.below" in wrong.err
