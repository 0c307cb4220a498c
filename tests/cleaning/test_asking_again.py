"""Suspects go back to a real teacher over HTTP: paid once, within the budget, two of three decide."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from sqlalchemy import select

from deployments.teacher_sim import TeacherServer
from tasks.cleaning.asking_again import STAGE, budget_left
from tasks.cleaning.steps import ask_suspects_again, clean_snapshot
from tasks.project import Project, load_project
from tasks.records import Cleaned, text_key
from tasks.store import Store, open_store, schema
from tasks.store.items import append_items
from tasks.store.labels import append_labels, raw_labels
from tasks.student.steps import take_snapshot
from tests.cleaning.test_suspects_for_review import LEAVES, TEXTS, WRONG
from tests.monitoring.filled import items_of

STUBBORN = sorted(WRONG)[0]
"""The teacher says the same wrong label again."""


@pytest.fixture(scope="module")
def teacher() -> Iterator[TeacherServer]:
    recorded: dict[str | bytes, list[str]] = {
        text: [WRONG.get(text, right), WRONG[text] if text == STUBBORN else right]
        for text, right in TEXTS.items()
    }
    with TeacherServer(recorded) as server:
        yield server


def project_of(make: Callable[..., Path], teacher: TeacherServer, **cleaning: Any) -> Project:
    """Labelled by one pass, one label in five wrong; the second answer is right but for one."""
    settings = {"mode": "re-ask", "cap": 1.0, "reask_share": 0.5} | cleaning
    file = make(
        gold=None,
        cleaning=settings,
        encoder={"model": "hash:256"},
        teacher={"base_url": teacher.base_url, "passes": 1, "budget_usd": 1.0},
    )
    project = load_project(file)
    store = open_store(project.database_url, project.project)
    append_items(store, items_of(list(TEXTS)), "source", 1)
    append_labels(store, [(text_key(text), WRONG.get(text, TEXTS[text]), "single") for text in TEXTS], 1)
    return project


def wrong(cleaned: Cleaned) -> int:
    right = {text_key(text): label for text, label in TEXTS.items()}
    rows = pl.read_parquet(cleaned.path).select("key", "label").iter_rows()
    return sum(right[key] != label for key, label in rows)


def paid(store: Store) -> list[tuple[str, int]]:
    """Stage and run of every call that was paid for, oldest first."""
    calls = schema.calls.c
    return [
        (row["stage"], row["run_id"])
        for row in store.read(select(calls.stage, calls.run_id)).iter_rows(named=True)
    ]


def test_the_teacher_mends_its_labels_once_for_all_runs(
    tiny_project: Callable[..., Path], teacher: TeacherServer
) -> None:
    """What it takes back is overwritten, what it insists on stays; a rerun and another step pay nothing."""
    project = project_of(tiny_project, teacher)
    store = open_store(project.database_url, project.project)
    snapshot, before = take_snapshot.fn(project), raw_labels(store)
    proposed = clean_snapshot.fn(project, snapshot)
    assert wrong(proposed) == len(WRONG), "before the teacher is asked nothing is overwritten"
    assert pl.read_parquet(proposed.path)["suspect"].any()

    cleaned = ask_suspects_again.fn(project, proposed, 7)
    counts = cleaned.asked_again
    assert counts["asked"] == counts["answers"] == counts["suspects"] >= len(WRONG) // 2
    assert set(paid(store)) == {(STAGE, 7)}
    assert len(paid(store)) == counts["calls"] == counts["asked"]
    assert cleaned.asked_again_usd > 0
    assert wrong(cleaned) < len(WRONG) // 3
    frame = pl.read_parquet(cleaned.path)
    stubborn = frame.filter(pl.col("key") == text_key(STUBBORN))
    assert stubborn["label"].to_list() == [WRONG[STUBBORN]]
    changed = frame.filter("overwritten")
    assert changed.height == counts["changed"] == cleaned.levels["category"]["overwritten"]
    assert changed["label"].equals(changed["again"])
    assert raw_labels(store).equals(before)

    again = ask_suspects_again.fn(project, clean_snapshot.fn(project, snapshot), 8)
    assert again.asked_again["calls"] == 0
    assert (again.path, again.levels) == (cleaned.path, cleaned.levels)
    retrained_on = clean_snapshot.fn(project, snapshot)
    assert (retrained_on.path, retrained_on.asked_again["changed"]) == (cleaned.path, counts["changed"])
    assert len(paid(store)) == counts["calls"]
    store.close()


def test_the_share_and_the_budget_bound_what_is_asked(
    tiny_project: Callable[..., Path], teacher: TeacherServer, tmp_path: Path
) -> None:
    project = project_of(tiny_project, teacher, reask_share=0.1)
    cleaned = ask_suspects_again.fn(project, clean_snapshot.fn(project, take_snapshot.fn(project)), 2)
    assert cleaned.asked_again["asked"] == cleaned.snapshot.rows // 10
    text = project.file.read_text().replace("reask_share: 0.1", "reask_share: 0.5\n  reask_budget_usd: 0.0")
    project.file.write_text(text)
    poor = load_project(project.file)
    stopped = ask_suspects_again.fn(poor, clean_snapshot.fn(poor, cleaned.snapshot), 3)
    assert stopped.asked_again["asked"] == 0
    assert stopped.asked_again["answers"] == cleaned.asked_again["answers"]


def test_what_a_run_has_spent_is_not_spent_again(
    tiny_project: Callable[..., Path], teacher: TeacherServer
) -> None:
    """The run's budget counts whatever it asked for; the part for second answers only those."""
    project = project_of(tiny_project, teacher, reask_share=0.1)
    store = open_store(project.database_url, project.project)
    spent = ask_suspects_again.fn(
        project, clean_snapshot.fn(project, take_snapshot.fn(project)), 4
    ).asked_again_usd
    assert budget_left(store, 4, None, None) is None
    assert budget_left(store, 4, 1.0, None) == pytest.approx(1.0 - spent)
    assert budget_left(store, 4, 1.0, 0.5) == pytest.approx(0.5 - spent)
    assert budget_left(store, 5, 1.0, 0.5) == 0.5
    assert budget_left(store, 4, spent / 2, None) == 0.0
    store.close()


def test_other_modes_ask_nobody(tiny_project: Callable[..., Path], teacher: TeacherServer) -> None:
    project = project_of(tiny_project, teacher, mode="drop")
    store = open_store(project.database_url, project.project)
    cleaned = clean_snapshot.fn(project, take_snapshot.fn(project))
    assert ask_suspects_again.fn(project, cleaned, 2) == cleaned
    assert paid(store) == []
    assert cleaned.dropped > 0
    frame = pl.read_parquet(cleaned.path)
    assert frame.filter(pl.col("share") == 0).height == cleaned.dropped
    assert not frame["overwritten"].any()
    assert set(frame["label"]) <= set(LEAVES)
    store.close()
