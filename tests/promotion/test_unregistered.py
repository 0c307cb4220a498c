"""A trained challenger outlives a registry that is away and kills between training and the last file: no second fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from sqlalchemy import select

from tasks.cleaning.steps import clean_snapshot
from tasks.errors import RegistryError
from tasks.project import Project, load_project
from tasks.promotion.registry import Registry
from tasks.promotion.tracking import registry_of
from tasks.promotion.unregistered import BODY, FOLDER, HELD_OUT, Unregistered
from tasks.records import Cleaned, text_key
from tasks.store import open_store, schema
from tasks.store.labels import append_labels
from tasks.store.policies import policy_in_force
from tasks.store.traffic import append_traffic
from tasks.student.package import Student
from tasks.student.steps import take_snapshot, train_and_register
from tests.conftest import TINY_LEAVES
from tests.monitoring.filled import request
from tests.promotion.shop import a_shop

pytestmark = pytest.mark.slow

NOBODY = "http://127.0.0.1:9"


@pytest.fixture
def labelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Project, Cleaned]:
    """A tiny project whose items are labelled and cleaned, and whose MLflow is at an address where nobody is."""
    # MLflow's own client would try for four minutes at each call.
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    project = a_shop(tmp_path, "kept", mlflow={"tracking_uri": NOBODY})
    store = open_store(project.database_url, project.project)
    items = pl.read_parquet(tmp_path / "items.parquet")["name"].to_list()
    leaves = [" > ".join(leaf) for leaf in TINY_LEAVES]
    append_labels(
        store, [(text_key(name), leaves[row // 10], "single") for row, name in enumerate(items)], run_id=1
    )
    store.close()
    return project, clean_snapshot.fn(project, take_snapshot.fn(project))


def back(project: Project) -> Project:
    """The same project after its MLflow came back."""
    written = yaml.safe_load(project.file.read_text())
    del written["mlflow"]
    project.file.write_text(yaml.safe_dump(written))
    return load_project(project.file, project.home)


def mark_of(project: Project) -> str:
    return str(json.loads((project.root / FOLDER / BODY).read_text())["mark"])


def killed_after(patch: pytest.MonkeyPatch, method: str, project: Project, cleaned: Cleaned) -> None:
    """A retrain that ends right after this method of the registry has done its work."""
    whole: Callable[..., Any] = getattr(Registry, method)

    def and_no_more(*given: Any) -> Any:
        whole(*given)
        raise KeyboardInterrupt

    patch.setattr(Registry, method, and_no_more)
    with pytest.raises(KeyboardInterrupt):
        train_and_register.fn(project, cleaned, 1)
    patch.setattr(Registry, method, whole)


def test_nothing_trained_is_lost_while_mlflow_is_away(labelled: tuple[Project, Cleaned]) -> None:
    """The error says where it lies; as soon as MLflow answers that very model is registered, and its folder is gone."""
    project, cleaned = labelled
    with pytest.raises(RegistryError) as away:
        train_and_register.fn(project, cleaned, 1)
    assert away.value.transient
    assert f"MLflow at {NOBODY} does not answer" in str(away.value)
    assert f"What was trained lies in {project.root / FOLDER}" in str(away.value)
    mark = mark_of(project)
    with pytest.raises(RegistryError):
        train_and_register.fn(project, cleaned, 2)
    assert mark_of(project) == mark, "the second attempt trained nothing"

    project = back(project)
    record = train_and_register.fn(project, cleaned, 3)
    registry = registry_of(project)
    assert registry.versions(trained=mark) == [record.model_version] == ["1"]
    assert registry.alias("challenger") == "1"
    assert not (project.root / FOLDER).exists()
    assert (project.root / "retrains" / "1.json").exists()
    assert pl.read_parquet(project.root / "retrains" / "1.heldout.parquet").height == 60
    assert json.loads(json.dumps(record.as_dict()))["policy"]["model_version"] == "1"


def test_other_rows_or_settings_are_trained_anew(labelled: tuple[Project, Cleaned]) -> None:
    """What waits is registered only where exactly that would be trained; a folder that cannot be read is none."""
    project, cleaned = labelled
    marks = []
    for change in ({}, {"routing": {"target_error": 0.2}}, {"student": {"candidates": ["linear", "lda"]}}):
        project.file.write_text(yaml.safe_dump(yaml.safe_load(project.file.read_text()) | change))
        with pytest.raises(RegistryError):
            train_and_register.fn(load_project(project.file, project.home), cleaned, 1)
        marks.append(mark_of(project))
    assert len(set(marks)) == 3
    (project.root / FOLDER / BODY).write_text("{")
    record = train_and_register.fn(back(project), cleaned, 1)
    assert record.model_version == "1"


@pytest.mark.parametrize("method", ["log_retrain", "register"])
def test_killed_on_the_way_nothing_stands_there_twice(
    labelled: tuple[Project, Cleaned], monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Between the run and the version, and between the version and its policy: one run, one version, one policy."""
    from mlflow import MlflowClient

    cleaned, project = labelled[1], back(labelled[0])
    killed_after(monkeypatch, method, project, cleaned)
    mark = mark_of(project)
    record = train_and_register.fn(project, cleaned, 2)
    registry, client = registry_of(project), MlflowClient(project.tracking_uri)
    assert registry.versions() == registry.versions(trained=mark) == ["1"]
    experiment = client.get_experiment_by_name(project.experiment)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.stage = 'retrain'")
    assert [run.info.run_id for run in runs] == [record.run_id]
    assert len(client.search_logged_models([experiment.experiment_id])) == 1
    store = open_store(project.database_url, project.project)
    assert policy_in_force(store, "1") == record.policy
    store.close()


def test_killed_after_the_policy_it_is_not_written_twice(labelled: tuple[Project, Cleaned]) -> None:
    """Nor where requests were logged before, after which it was issued: one row, the one that the record names."""
    cleaned, project = labelled[1], back(labelled[0])
    store = open_store(project.database_url, project.project)
    append_traffic(store, [request("earlier", "teacher", "Kitchen > Kettles")], run_id=1)
    held_out = project.root / FOLDER / HELD_OUT
    with pytest.raises(RegistryError):
        train_and_register.fn(labelled[0], cleaned, 1)
    kept = held_out.rename(held_out.with_suffix(".kept"))
    with pytest.raises(FileNotFoundError):
        train_and_register.fn(project, cleaned, 2)
    kept.rename(held_out)
    record = train_and_register.fn(project, cleaned, 3)
    [written] = store.read(select(schema.policies.c.id))["id"].to_list()
    assert record.policy.id == written
    store.close()


def test_what_is_read_back_is_what_was_made(
    labelled: tuple[Project, Cleaned], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Probabilities to the last bit, the policy inside, every figure and number; names and tags tell the runs apart."""
    seen: list[tuple[Unregistered, Student]] = []
    from tasks.promotion import registering

    cleaned, project = labelled[1], back(labelled[0])
    whole = registering.register_challenger

    def watched(*given: Any) -> Any:
        seen.append((given[3], given[3].student(given[2].encoders_home)))
        return whole(*given)

    monkeypatch.setattr(registering, "register_challenger", watched)
    record = train_and_register.fn(project, cleaned, 1)
    ((waiting, student),) = seen
    loaded = registry_of(project).load(record.model_version)
    assert loaded.about == student.about
    assert loaded.about["policy"]["thresholds"] == record.policy.thresholds
    assert {"confusion-category.png", "calibration.png", "candidates.png"} <= set(waiting.parent.figures)
    assert waiting.parent.tags["trained"] == waiting.mark
    assert {run.tags["trained"] for run in waiting.candidates} == {waiting.mark}
    assert record.metrics == waiting.record.metrics
