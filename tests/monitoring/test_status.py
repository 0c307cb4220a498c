"""The status in a moment: right numbers, no MLflow where there is none to ask."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import insert

from tasks.monitoring.status import render_status, status
from tasks.project import load_project
from tasks.store import Store, open_store, schema
from tests.monitoring.filled import HOSES, KETTLES, KNIVES, a_policy, add_batch, contradict, fill

TWO_JOBS = """
import sys
from tasks.monitoring.facts import report_facts
from tasks.monitoring.report import render_report
from tasks.monitoring.status import render_status, status
from tasks.project import load_project
from tasks.store import open_store
project = load_project(sys.argv[1])
store = open_store(project.database_url, project.project)
render_status(status(project, store))
heavy = {"mlflow", "torch", "prefect", "sentence_transformers"} & set(sys.modules)
render_report(report_facts(project, store))
print(sorted(heavy), "mlflow" in sys.modules)
"""


def test_an_empty_project_has_a_status(tiny_project: Callable[..., Path], sqlite_store: Store) -> None:
    project = load_project(tiny_project(gold=None))
    found = status(project, sqlite_store)
    assert found["items"] == found["unlabelled"] == found["awaiting_review"] == found["audits_owed"] == 0
    assert found["champion"] is None
    assert found["lease"] is None
    said = render_status(found)
    assert "champion         none yet" in said
    assert "last run         none yet" in said


def test_mlflow_is_not_imported_where_there_is_no_registry(tiny_project: Callable[..., Path]) -> None:
    """Neither by the status nor by the report; and nothing else that takes seconds by the status."""
    ran = subprocess.run(
        [sys.executable, "-c", TWO_JOBS, str(tiny_project())],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert ran.stdout.strip() == "[] False"


def test_the_status_counts_what_the_database_holds(
    tiny_project: Callable[..., Path], sqlite_store: Store
) -> None:
    now = time.time()
    project = load_project(tiny_project())
    fill(project, sqlite_store, now)
    found = status(project, sqlite_store, now)
    json.dumps(found)
    assert found["items"] == 16
    assert found["labelled"] == {"human": 2, "consensus": 4, "single": 3}
    assert found["unlabelled"] == 3
    assert found["awaiting_review"] == 3
    assert found["gold_rows"] == 30
    assert found["tiers"] == {"teacher": 2, "exact_cache": 1, "student": 4, "fallback": 1}
    assert found["audits_owed"] == 1
    assert found["cost_usd"] == pytest.approx(0.042)
    assert sum(line["cost_usd"] for line in found["costs"]) == pytest.approx(0.042)
    said, dearest = render_status(found), found["costs"][0]
    assert dearest["cost_usd"] == max(line["cost_usd"] for line in found["costs"])
    assert f"by stage       {dearest['stage']}, {dearest['model']}: " in said
    assert found["cost_usd_last_30_days"] == pytest.approx(0.012)
    assert [(job, run["status"]) for job, run in found["runs"].items()] == [
        ("nightly", "failed"),
        ("route", "done"),
        ("label", "done"),
    ]
    assert found["runs"]["route"]["age_seconds"] == pytest.approx(2 * 86_400)
    said = render_status(found)
    assert "9  (human 2, consensus 4, single 3)" in said
    assert "failed, 24 h ago: StoreError: disk full" in said
    assert "8, 62% without the teacher  (exact cache 1, student 4, teacher 2, fallback 1)" in said


def test_what_waits_in_open_batches_is_told(tiny_project: Callable[..., Path], store: Store) -> None:
    """Batches that are not closed, the items in them without a fetched answer, and the age of the oldest."""
    now, project = time.time(), load_project(tiny_project())
    nothing = status(project, store, now)
    assert nothing["open_batches"] == {"count": 0, "requests": 0, "items": 0, "oldest_seconds": None}
    assert "open batches" not in render_status(nothing)
    add_batch(store, project, ["a", "b"], now - 900_000, closed=True)
    add_batch(store, project, ["a", "b", "c"], now - 10_800, fetched=2)
    add_batch(store, project, ["c", "d"], now - 60)
    found = status(project, store, now)
    assert found["open_batches"] == {"count": 2, "requests": 10, "items": 3, "oldest_seconds": 10_800.0}
    assert "open batches     2  (3 items in 10 requests, the oldest sent 3 h ago)" in render_status(found)


def test_labels_that_the_student_contradicts_await_review(
    tiny_project: Callable[..., Path], sqlite_store: Store
) -> None:
    """Counted as `review export` counts them: against the labels of today, those of people left alone."""
    now, project = time.time(), load_project(tiny_project())
    fill(project, sqlite_store, now)
    before = status(project, sqlite_store, now)
    said = {
        "a1": (KETTLES, KNIVES),
        "a2": (KETTLES, HOSES),
        "b1": (KETTLES, HOSES),  # labelled so by now
        "c1": (KETTLES, HOSES),  # a person's
        "d1": (KETTLES, KNIVES),  # its passes differ: there is no label
        "s2": (KETTLES, KNIVES),  # stands there as an audit
    }
    contradict(project, said)
    found = status(project, sqlite_store, now)
    because = found["awaiting_review_because"]
    assert because == before["awaiting_review_because"] | {"student contradicts the label": 2}
    assert found["awaiting_review"] == before["awaiting_review"] + 2
    assert "student contradicts the label 2" in render_status(found)


@pytest.mark.parametrize(("silent", "stale"), [(10.0, False), (500.0, True)])
def test_a_lease_without_a_heartbeat_is_stale(
    tiny_project: Callable[..., Path], sqlite_store: Store, silent: float, stale: bool
) -> None:
    now = time.time()
    with sqlite_store.begin() as connection:
        row = {"id": 1, "owner": "host:1:2", "acquired_at": now - 900, "heartbeat_at": now - silent}
        connection.execute(insert(schema.lease), row)
    found = status(load_project(tiny_project()), sqlite_store, now)
    assert found["lease"]["stale"] is stale
    assert ("probably dead" in render_status(found)) is stale


@pytest.mark.parametrize(
    ("against", "words"),
    [
        ("gold", "answers 62.0% at 5.0% error, against gold"),
        ("teacher", "agrees with the teacher on all but 5.0% of 62.0%"),
    ],
)
def test_a_promise_against_the_teacher_is_called_agreement(
    tiny_project: Callable[..., Path], sqlite_store: Store, against: str, words: str
) -> None:
    found = status(load_project(tiny_project()), sqlite_store)
    policy = a_policy(against=against, id=4)
    found["champion"] = {
        "version": "1",
        "policy_id": policy.id,
        "certified_coverage": policy.certified_coverage,
        "partial_coverage": policy.partial_coverage,
        "against": policy.against,
        "target_error": policy.target_error,
    }
    found["challenger_version"] = "2"
    said = render_status(found)
    assert words in said
    assert "version 2 waits" in said


@pytest.mark.slow
def test_the_champion_is_the_one_in_the_registry(tiny_project: Callable[..., Path]) -> None:
    """With a real registry the alias decides whose policy is in force."""
    from tasks.monitoring.facts import report_facts
    from tasks.promotion.tracking import registry_of

    project = load_project(tiny_project())
    registry, store = registry_of(project), open_store(project.database_url, project.project)
    client = registry._client()
    client.create_registered_model(registry.model_name)
    for _ in range(2):
        client.create_model_version(registry.model_name, source="file:///nowhere")
    fill(project, store, time.time())
    assert status(project, store)["champion"] is None
    registry.set_alias("champion", "1")
    registry.set_alias("challenger", "2")
    found = status(project, store)
    assert found["champion"] == {
        "version": "1",
        "policy_id": 2,
        "certified_coverage": 0.62,
        "partial_coverage": 0.0,
        "against": "gold",
        "target_error": 0.05,
    }
    assert found["challenger_version"] == "2"
    facts = report_facts(project, store)
    assert (facts.champion, facts.challenger) == ("1", "2")
    assert [line.in_force for line in facts.policies] == [True, False]
    store.close()
