"""A champion whose policy lets it stop at an upper level, routing a file: what stands in it, and in the log."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sqlalchemy import select

from tasks.embedding.encoders import load_encoder
from tasks.embedding.vectors import encoder_settings
from tasks.project import Project, load_project
from tasks.promotion.registry import CandidateRun
from tasks.promotion.tracking import registry_of
from tasks.records import Policy
from tasks.routing import steps
from tasks.routing.steps import route_file
from tasks.store import open_store, schema
from tasks.store.policies import append_policy
from tasks.student.familiarity import fit_prototypes
from tasks.student.linear import LinearHead
from tasks.student.package import Student
from tasks.taxonomy import Taxonomy
from tests.conftest import write_tiny_project

NEVER = 2.0


def with_champion(folder: Path) -> Project:
    """A tiny project whose champion is never sure of a category, and of every department."""
    file = write_tiny_project(folder / "conf", routing={"audit_rate": 0.0, "fallback": "refuse"})
    project = load_project(file, folder)
    taxonomy = project.taxonomy
    names = pl.read_parquet(file.parent / "items.parquet")["name"].to_list()
    X = load_encoder(encoder_settings(project.encoder)).encode(names)
    y = np.arange(len(names)) // 10
    head = LinearHead(10.0).fit(X, y, n_leaves=len(taxonomy.leaves), seed=0)
    prototypes, _ = fit_prototypes(X, y, np.arange(len(y)) % 5, y, n_leaves=len(taxonomy.leaves), seed=0)
    settings = encoder_settings(project.encoder)
    student = Student(taxonomy, head, "linear", "text", settings, prototypes=prototypes)
    registry, snapshot = registry_of(project), folder / "rows.parquet"
    pl.DataFrame({"key": [b"k" * 16], "label": ["l"], "source": ["human"]}).write_parquet(snapshot)
    run = registry.log_retrain(CandidateRun("retrain", {}, {}), [], snapshot, "f" * 24, {}, {})
    version = registry.register(run, student, "It answers departments.", {})
    registry.set_alias("champion", version)
    policy = Policy(
        {"department": 0.0, "category": NEVER}, 0.05, 0.95, 0.0, 100, "gold", version,
        partial_coverage=1.0, partial_thresholds={"department": 0.0},
    )  # fmt: skip
    append_policy(open_store(project.database_url, project.project), policy, 1)
    return project


@pytest.mark.slow
def test_the_levels_that_are_stated_are_written_and_deeper_ones_left_empty(tmp_path: Path) -> None:
    """By the student, without a call; the log keeps the whole answer, its confidences and the familiarity."""
    project = with_champion(tmp_path)
    file, out = project.file.parent / "items.parquet", tmp_path / "out.parquet"
    done = route_file.fn(project, str(file), str(out), 1)
    assert (done.tiers, done.cost_usd, done.unanswered) == ({"student": 60}, 0.0, 0)
    answers = pl.read_parquet(out)
    assert answers["department"].null_count() == 0
    assert answers["category"].null_count() == 60
    log = open_store(project.database_url, project.project).read(
        select(schema.traffic).order_by(schema.traffic.c.id)
    )
    assert log["label"].to_list() == answers["department"].to_list()
    assert log["confidence"].to_list() == answers["confidence"].to_list()
    assert log["familiarity"].null_count() == 0
    assert (log["student_label"].str.split(" > ").list.len() == 2).all()
    again = tmp_path / "again.parquet"
    assert route_file.fn(project, str(file), str(again), 2).tiers == {"student": 60}
    assert again.read_bytes() == out.read_bytes(), "a second run answers from the log"


def test_a_student_of_an_earlier_taxonomy_answers_in_full_or_not_at_all(tmp_path: Path) -> None:
    """What lies below a label may have changed since: its upper level alone is no answer."""
    project = load_project(write_tiny_project(tmp_path))
    policy = Policy({}, 0.05, 0.95, 0.0, 100, "gold", "1", partial_thresholds={"department": 0.5})
    earlier = Taxonomy(("department", "category"), project.taxonomy.leaves[1:], {})
    now, then = (
        Student(tree, LinearHead(), "linear", "text", encoder_settings(project.encoder))
        for tree in (project.taxonomy, earlier)
    )
    assert steps._partial_thresholds(project, policy, now) == {"department": 0.5}
    assert steps._partial_thresholds(project, policy, then) is None
    assert steps._partial_thresholds(project, None, now) is None
