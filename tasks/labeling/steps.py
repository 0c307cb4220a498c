"""The Prefect steps of labelling: take in new items, ask the teacher, write the review queue; import and review.

The router asks single shards through `ask_teacher`, under the same ledger.
"""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
from prefect import task
from prefect.cache_policies import NO_CACHE
from sqlalchemy import func, select

from tasks.project import Project
from tasks.records import Ingested, Labelled
from tasks.routing.cascade import TeacherAnswer
from tasks.sources import (
    Rejection,
    expand,
    is_sql,
    iterate_sources,
    read_gold,
    read_items,
    read_table,
)
from tasks.store import Store, open_store, schema
from tasks.store.items import append_items, note_source, read_contents, source_unchanged
from tasks.store.traffic import owed_keys


@task(name="take in items", cache_policy=NO_CACHE)
def take_in_items(project: Project, run_id: int) -> Ingested:
    """Afterwards every item of the sources is in the database once; files unchanged since are not read again."""
    store = open_store(project.database_url, project.project)
    settings = _settings_hash(project.source.id or "", project.content_column, project.task.modality)
    rows = new = 0
    rejections: list[Rejection] = []
    if is_sql(project.source.items):
        tables = iterate_sources(project, project.source.items, project.source.query)
    else:
        files = expand(project.source.items, project.file.parent)
        changed = [
            file
            for file in files
            if file.is_dir()
            or not source_unchanged(store, str(file), file.stat().st_size, file.stat().st_mtime, settings)
        ]
        tables = ((file, read_table(file)) for file in changed)
    for file, table in tables:
        items = read_items(project, table, file)
        rows += table.height
        rejections += items.rejections
        new += append_items(store, items.frame, "source", run_id)
        if file.is_file():
            stat = file.stat()
            note_source(store, str(file), stat.st_size, stat.st_mtime, table.height, settings)
    write_rejections(project.root / "rejected" / f"items-run-{run_id}.csv", rejections)
    return Ingested(rows, new, dict(Counter(rejection.reason for rejection in rejections)))


@task(name="ask the teacher", cache_policy=NO_CACHE)
def label_with_teacher(
    project: Project, run_id: int, limit: int | None = None, gold: bool = False
) -> Labelled:
    """Afterwards all that was chosen is answered in every pass or counted as left, and labels are resolved."""
    from tasks.labeling.asking import asking_teacher
    from tasks.labeling.labelling import ask_once, label_items

    store = open_store(project.database_url, project.project)
    how = asking_teacher(project)
    known_gold = read_gold(project)
    never = pl.concat([known_gold.select("key"), _answered_without_the_teacher(store)])
    labelled = label_items(
        store,
        how,
        project.teacher.passes,
        _budget_left(project, store, run_id),
        never,
        run_id,
        limit if limit is not None else project.labeling.limit,
        progress=_progress("labelling"),
    )
    if gold and known_gold.height and labelled.stopped is None:
        left = _budget_left(project, store, run_id)
        said = ask_once(store, how, known_gold, "gold", 1, run_id, left, write_labels=False)
        cost = float(said["cost_usd"].sum())
        calls = _calls_of(store, run_id, "gold")
        labelled = replace(
            labelled, cost_usd=round(labelled.cost_usd + cost, 9), calls=labelled.calls + calls
        )
    return labelled


@task(name="write the review queue", cache_policy=NO_CACHE)
def write_review_queue(project: Project) -> str:
    """Afterwards `review_labels.csv` holds what a person should look at, the most valuable first."""
    return export_review_queue(project)[0]


def export_review_queue(
    project: Project, out: Path | None = None, limit: int | None = None
) -> tuple[str, int]:
    """Write the review queue; returns where it lies and how many rows it has."""
    from tasks.labeling.asking import asking_teacher
    from tasks.labeling.review import export_review

    store = open_store(project.database_url, project.project)
    how = asking_teacher(project)
    place = out or project.root / "review" / "review_labels.csv"
    place.parent.mkdir(parents=True, exist_ok=True)
    gold = read_gold(project).select("key")
    exported = export_review(store, place, how.version, project.teacher.passes, gold, limit)
    return str(place), exported.rows


def import_reviewed(project: Project, file: Path, run_id: int) -> dict[str, Any]:
    """Take in a reviewed CSV; people's labels outrank the teacher for good."""
    from tasks.labeling.review import import_review

    store = open_store(project.database_url, project.project)
    return import_review(store, file, project.taxonomy, run_id).as_dict()


def import_history(
    project: Project, file: Path, run_id: int, text_column: str | None, label_columns: Sequence[str]
) -> dict[str, Any]:
    """Take in labels that an LLM gave before there was a flywheel."""
    from tasks.labeling.history import import_labels

    store = open_store(project.database_url, project.project)
    rejected = project.root / "rejected" / f"import-run-{run_id}.csv"
    record = import_labels(
        store,
        file,
        project.taxonomy,
        run_id,
        rejected,
        text_column or project.source.text,
        label_columns,
        None,
    )
    return record.as_dict()


def ask_teacher(
    project: Project, store: Store, keys: list[bytes], stage: str, run_id: int
) -> dict[bytes, TeacherAnswer]:
    """The teacher's first-pass answers about stored items, asked once and kept in the ledger."""
    from tasks.labeling.asking import asking_teacher
    from tasks.labeling.labelling import ask_once

    how = asking_teacher(project)
    contents = read_contents(store, pl.DataFrame({"key": keys}, schema={"key": pl.Binary}))
    left = _budget_left(project, store, run_id)
    said = ask_once(store, how, contents, stage, project.teacher.passes, run_id, left)
    return {
        row["key"]: TeacherAnswer(row["label"], row["cost_usd"], error_class=row["error_class"])
        for row in said.iter_rows(named=True)
    }


def _budget_left(project: Project, store: Store, run_id: int) -> float | None:
    """What is left of the budget of a run, which may route in shards, label and ask about gold; None is no limit."""
    if project.teacher.budget_usd is None:
        return None
    calls = schema.calls.c
    spent = store.scalar(select(func.sum(calls.cost_usd)).where(calls.run_id == run_id)) or 0.0
    return max(0.0, project.teacher.budget_usd - float(spent))


def _calls_of(store: Store, run_id: int, stage: str) -> int:
    calls = schema.calls.c
    counted = select(func.count()).where(calls.run_id == run_id).where(calls.stage == stage)
    return int(store.scalar(counted) or 0)


def _settings_hash(*settings: str) -> str:
    return hashlib.blake2b("\0".join(settings).encode(), digest_size=16).hexdigest()


def write_rejections(file: Path, rejections: Sequence[Rejection]) -> None:
    """Keep rejected rows with their reason beside the project's data."""
    if not rejections:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "row", "id", "reason"])
        writer.writerows((r.file, r.row, r.id, r.reason) for r in rejections)


def _answered_without_the_teacher(store: Store) -> pl.DataFrame:
    """Traffic that a cache or the student answered: it is not labelling work, or the wheel would save nothing."""
    items, answers = schema.items.c, schema.answers.c
    traffic = store.read(select(items.key).where(items.origin == "traffic"))
    asked = store.read(select(answers.key).where(answers["pass"] == 1).distinct())
    return traffic.join(asked, on="key", how="anti").join(owed_keys(store), on="key", how="anti")


def _progress(what: str) -> Any:
    from tasks.monitoring.progress import console_progress

    return console_progress(what)
