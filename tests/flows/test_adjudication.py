"""Audits of a noisy teacher, adjudicated by a stronger model over HTTP, as the flow under the real engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sqlalchemy import func, select

from deployments.teacher_sim import TeacherServer
from tasks.cleaning.steps import clean_snapshot
from tasks.monitoring.status import render_status, status
from tasks.project import Project, load_project
from tasks.promotion.steps import promote_challenger
from tasks.records import half_of, text_key
from tasks.store import Store, open_store, schema
from tasks.store.items import append_items
from tasks.store.labels import append_labels
from tasks.store.traffic import append_traffic
from tasks.student.steps import take_snapshot, train_and_register
from tests.conftest import TINY_LEAVES
from tests.monitoring.filled import items_of, request

LEAVES = [" > ".join(leaf) for leaf in TINY_LEAVES]
AUDITED, NOISE = 1200, 0.15


def names_of(first: int, count: int) -> dict[str, str]:
    """Names with their labels, leaf n % 6 in turn; one in twelve bears the noun of another leaf."""
    nouns, rng = list(TINY_LEAVES.values()), np.random.default_rng(first)
    told = [(n + (rng.random() < 0.08)) % 6 for n in range(count)]
    return {f"{nouns[leaf][int(rng.integers(5))]} {first + n}": LEAVES[n % 6] for n, leaf in enumerate(told)}


def noisy(labels: dict[str, str], rate: float) -> dict[str, str]:
    """The next leaf in place of a share of the labels."""
    rng = np.random.default_rng(7)
    return {
        name: LEAVES[(LEAVES.index(label) + int(rng.random() < rate)) % len(LEAVES)]
        for name, label in labels.items()
    }


TRAFFIC = names_of(5000, AUDITED)
TEACHER = noisy(TRAFFIC, NOISE)


def with_audits(project: Project) -> Store:
    """A champion, and audited requests whose teacher errs in one label of seven."""
    store = open_store(project.database_url, project.project)
    learned = names_of(1000, 480)
    append_items(store, items_of(list(learned)), "source", 1)
    append_labels(store, [(text_key(name), label, "consensus") for name, label in learned.items()], 1)
    train_and_register.fn(project, clean_snapshot.fn(project, take_snapshot.fn(project)), 1)
    assert promote_challenger.fn(project).promoted
    append_items(store, items_of(list(TRAFFIC)), "traffic", 2)
    append_traffic(
        store,
        [
            request(name, "teacher", label, audited=True, teacher_label=label)
            for name, label in TEACHER.items()
        ],
        2,
    )
    return store


@pytest.mark.slow
def test_an_adjudicator_lifts_coverage_for_a_part_of_the_labels(
    prefect_server: None, tiny_project: Callable[..., Path]
) -> None:
    """Agreement with a noisy teacher certifies little; its adjudicated audits much more, and are paid for once."""
    from flows.retrain import recalibrate

    recorded: dict[str | bytes, list[str]] = {name: [label] for name, label in TRAFFIC.items()}
    with TeacherServer(recorded) as adjudicator:
        sections: dict[str, Any] = {
            "gold": None,
            "task": {"other": None},
            "encoder": {"model": "hash:256"},
            "student": {"candidates": ["linear"], "prototypes": 0},
            "routing": {"target_error": 0.15, "confidence": 0.9},
        }
        file = tiny_project(**sections)
        project = load_project(file)
        store = with_audits(project)
        mine = [name for name in TRAFFIC if half_of(text_key(name)) == "calibration"]

        alone = recalibrate(str(file))
        assert alone.policy is not None
        assert alone.policy.against == "teacher"
        assert "agreement with the teacher" in alone.policy.sentence
        assert alone.adjudication.calls == 0
        assert alone.adjudication.waiting > 100
        said = status(project, store)
        assert said["adjudicated"]["waiting"] == alone.adjudication.waiting
        assert said["adjudicated"]["answered"] is None
        assert f"{alone.adjudication.waiting:,} wait" in render_status(said)

        sections["teacher"] = {
            "adjudicator": {
                "base_url": adjudicator.base_url, "model": "stronger", "price": {"input": 1.0, "output": 5.0},
            }
        }  # fmt: skip
        file = tiny_project(**sections)
        done = recalibrate(str(file))
        policy, asked = done.policy, done.adjudication
        assert policy is not None
        assert policy.against == "adjudicated"
        assert policy.certified_coverage > alone.policy.certified_coverage + 0.2
        assert policy.calibration_items == len(mine)
        stages = policy.certificate["two_stage"]
        assert 0 < stages["checked"] < stages["agreeing"]
        assert f"all {stages['differing']} on which the teacher differs" in policy.sentence
        assert asked.waiting == 0
        assert asked.calls == asked.asked < 0.8 * len(mine)
        assert asked.cost_usd > 0
        labels, calls = schema.labels.c, schema.calls.c
        decided = store.read(select(labels.key, labels.label).where(labels.source == "adjudicated"))
        right = {text_key(name): label for name, label in TRAFFIC.items()}
        assert dict(decided.iter_rows()) == {key: right[key] for key in decided["key"]}
        assert set(decided["key"]) <= {text_key(name) for name in mine}, "the gate's half is left alone"
        assert store.scalar(select(func.count()).where(calls.stage == "adjudicate")) == asked.calls

        again = recalibrate(str(file))
        assert again.policy is not None
        assert again.policy.id == policy.id, "nothing new, nothing written"
        assert again.adjudication.calls == 0
        told = status(load_project(file), store)
        accuracy = told["adjudicated"]["traffic"]
        truly = sum(TEACHER[name] == TRAFFIC[name] for name in mine) / len(mine)
        assert accuracy["teacher"]["low"] < truly < accuracy["teacher"]["high"]
        assert accuracy["student"]["mean"] > accuracy["teacher"]["mean"]
        assert "right where it answers" in render_status(told)
        file_of_review = pl.read_parquet(project.root / "adjudication" / "1.parquet")
        assert file_of_review.height == len(mine)
        store.close()
