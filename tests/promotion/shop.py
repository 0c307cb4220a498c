"""A tiny project with versions in its registry that cost no training: one fit each, right or wrong on purpose."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tasks.embedding.encoders import EncoderSettings, load_encoder
from tasks.project import Project, load_project
from tasks.promotion.registry import CHALLENGER, Registry
from tasks.promotion.tracking import registry_of
from tasks.records import Policy, text_key
from tasks.store import open_store
from tasks.store.items import append_items
from tasks.store.policies import append_policy
from tasks.student.linear import LinearHead
from tasks.student.package import Student
from tests.conftest import write_tiny_project

ENCODER = EncoderSettings("hash:64")


def a_shop(folder: Path, name: str, home: Path | None = None, **sections: Any) -> Project:
    """A tiny project of that name, whose items are in its store; its home is the folder unless said otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    written = write_tiny_project(folder, project=name, task={"other": None}, **sections)
    file = written.rename(folder / f"{name}.yaml")
    project = load_project(file, home or folder)
    names = pl.read_parquet(folder / "items.parquet")["name"].to_list()
    items = pl.DataFrame(
        {
            "key": [text_key(item) for item in names],
            "source_id": [str(row) for row in range(len(names))],
            "text": names,
            "image": [None] * len(names),
        },
        schema={"key": pl.Binary, "source_id": pl.String, "text": pl.String, "image": pl.Binary},
    )
    with_store = open_store(project.database_url, project.project)
    append_items(with_store, items, "source", 1)
    with_store.close()
    return project


def a_version(project: Project, wrong: bool = False, certified: float = 0.5) -> str:
    """Register a student of the gold items as challenger, its policy beside it; returns the version.

    A wrong one learnt each item under the label after its own.
    """
    registry = registry_of(project)
    gold = pl.read_parquet(project.resolve(str(project.gold)))
    leaves = project.taxonomy.leaves
    labels = [f"{row['department']} > {row['category']}" for row in gold.iter_rows(named=True)]
    truth = np.array([leaves.index(label) for label in labels])
    vectors = load_encoder(ENCODER).encode(gold["name"].to_list())
    learnt = (truth + 1) % len(leaves) if wrong else truth
    head = LinearHead(30.0).fit(vectors, learnt, n_leaves=len(leaves), seed=0)
    student = Student(project.taxonomy, head, "linear", "text", ENCODER)
    version = _registered(registry, student, project.root / "student" / str(registry.next_version()))
    policy = Policy(
        dict.fromkeys(project.taxonomy.levels, 0.0),
        0.05,
        0.95,
        certified,
        100,
        "gold",
        "",
        sentence="It may.",
    )
    store = open_store(project.database_url, project.project)
    append_policy(store, replace(policy, model_version=version), 1)
    store.close()
    return version


def _registered(registry: Registry, student: Student, folder: Path) -> str:
    """As `Registry.register` leaves a version, without what only serves MLflow's own loading: a tenth of its time."""
    from mlflow import MlflowClient

    student.save(folder / "artifacts" / "student")
    client, name = MlflowClient(registry.tracking_uri, registry.tracking_uri), registry.model_name
    experiment = client.get_experiment_by_name(name)
    place = (registry.artifact_root / name).as_uri()
    number = experiment.experiment_id if experiment else client.create_experiment(name, place)
    model = client.create_logged_model(number, "student")
    client.log_model_artifacts(model.model_id, str(folder))
    client.finalize_logged_model(model.model_id, "READY")
    if experiment is None:
        client.create_registered_model(name)
    version = client.create_model_version(
        name, f"models:/{model.model_id}", tags={"student": student.kind}
    ).version
    registry.set_alias(CHALLENGER, str(version))
    return str(version)
