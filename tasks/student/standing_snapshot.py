"""Which snapshots stand: the newest with what it was made from, so that a night freezes the same rows once, and those
that versions were trained on.

Cleaning and retraining each ask for a snapshot. Knows counts and hashes, no row.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import polars as pl
from sqlalchemy import func, select

from tasks.project import Project
from tasks.records import Snapshot
from tasks.store import Store, schema
from tasks.store.traffic import audits
from tasks.student.retrain_facts import facts_of
from tasks.synthetic import SYNTHETIC
from tasks.whole_files import written_whole

RULE = 1  # raise it when the same rows are frozen otherwise


def state_of(project: Project, store: Store, gold: pl.DataFrame) -> str:
    """What a snapshot depends on, as one hash: of tables that are only appended to the counts and newest rows."""
    items, taxonomy = schema.items.c, project.taxonomy
    counted = [
        store.read(select(func.count(), func.coalesce(func.max(table.c.id), 0)).select_from(table)).row(0)
        for table in (schema.items, schema.labels, schema.answers)
    ]
    written = store.scalar(select(func.count()).where(items.origin == SYNTHETIC))  # one may turn up for real
    watched = audits(store, project.routing.audit_window_days, misses_only=True)["key"].to_list()
    moved = sorted((old, *new) for old, new in taxonomy.moved.items())
    settings = [project.task.modality, project.labeling.synthesis.most_share]
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps([RULE, counted, written, taxonomy.version, moved, settings]).encode())
    for key, text in [*gold.select("key", "text").iter_rows(), *((key, None) for key in sorted(watched))]:
        digest.update(key + (text or "").encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()


def standing_snapshot(root: Path, state: str) -> Snapshot | None:
    """The newest snapshot under the project's root, if it was made in that state and is still there."""
    try:
        known = json.loads(_file(root).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    snapshot = Snapshot(**known["snapshot"])
    return snapshot if known["state"] == state and Path(snapshot.path).exists() else None


def keep_snapshot(root: Path, state: str, snapshot: Snapshot) -> None:
    """Afterwards it is the newest one."""
    with written_whole(_file(root)) as beside:
        beside.write_text(json.dumps({"state": state, "snapshot": snapshot.as_dict()}), encoding="utf-8")


def drop_snapshots(root: Path, gone: Iterable[str], kept: Iterable[str]) -> None:
    """Afterwards what versions that are gone were trained on is gone too, cleaned labels with it.

    The newest snapshot stays, and whatever a kept version was trained on. Labels are the database's: nothing is lost
    but time.

    Args:
        root: the project's.
        gone: versions that the registry has no longer.
        kept: those it has.
    """
    stay = {_trained_on(root, version) for version in kept}
    with suppress(OSError, ValueError, KeyError):
        stay.add(json.loads(_file(root).read_text(encoding="utf-8"))["snapshot"]["fingerprint"])
    for fingerprint in {_trained_on(root, version) for version in gone} - stay - {None}:
        shutil.rmtree(root / "snapshots" / str(fingerprint), ignore_errors=True)


def _trained_on(root: Path, version: str) -> str | None:
    """The fingerprint of a version's snapshot; None where its facts do not say."""
    try:
        return str((facts_of(root, version) or {})["record"]["snapshot"]["fingerprint"])
    except KeyError:
        return None


def _file(root: Path) -> Path:
    return root / "snapshots" / "newest.json"
