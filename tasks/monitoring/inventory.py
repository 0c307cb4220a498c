"""What the database holds: items, the labels that count by source, what awaits a person, who works on it now.

Reads only; shared by the status and the report, so that both say the same numbers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl
from sqlalchemy import func, select

from tasks.labeling.adjudication_queue import wanted_for_review
from tasks.labeling.contradictions import confident_contradictions, still_contradicted
from tasks.project import Project
from tasks.records import LLM_SOURCES, PARTIAL, SOURCES
from tasks.sources import read_gold
from tasks.store import Store, schema
from tasks.store.labels import raw_labels, resolve
from tasks.store.moved import as_of_today
from tasks.store.runs import STALE_SECONDS
from tasks.store.traffic import owed_keys
from tasks.synthetic import SYNTHETIC

DIFFERING, CONTRADICTED, PASSES, IMPORTS, INVALID, CHECKED = (
    "student and teacher differ",
    "student contradicts the label",
    "passes differ",
    "imported labels differ",
    "no valid answer",
    "drawn for a check",
)


@dataclass(frozen=True)
class Inventory:
    """Counts of items.

    Attributes:
        items: all that are known, whatever brought them; synthetic examples are not among them.
        from_traffic: of them, those first seen in traffic.
        labelled: items by the source of the label that counts, the most trusted source first.
        unlabelled: items the teacher should still answer.
        awaiting: items for a person to decide, by reason; each stands under one.
        gold_rows: human-verified items; 0 without gold.
        partial: of those awaiting a person, the items whose passes agree on upper levels.
        synthetic: examples that the teacher wrote and nobody has labelled otherwise since.
    """

    items: int
    from_traffic: int
    labelled: Mapping[str, int]
    unlabelled: int
    awaiting: Mapping[str, int]
    gold_rows: int
    synthetic: int = 0
    partial: int = 0


@dataclass(frozen=True)
class RunLine:
    """One run of a job: `status` running, done, incomplete or failed; `seconds` None while it runs."""

    id: int
    job: str
    status: str
    started_at: float
    seconds: float | None
    result: Mapping[str, Any]

    @property
    def outcome(self) -> str:
        """What it did, in one line."""
        return "; ".join(outcomes(self.result))


@dataclass(frozen=True)
class Lease:
    """Who holds the project; `stale` when the holder has given no sign of life for two minutes."""

    owner: str
    acquired_at: float
    silent_seconds: float
    stale: bool


def take_inventory(project: Project, store: Store) -> Inventory:
    """Count what there is.

    Raises:
        FlywheelError: the gold file or the taxonomy is wrong.
    """
    columns = schema.items.c
    items = store.read(select(columns.key, columns.origin).where(columns.origin != SYNTHETIC))
    gold = read_gold(project).select("key")
    every = resolve(as_of_today(raw_labels(store), project.taxonomy))
    resolved = every.filter(pl.col("source") != SYNTHETIC)
    labelled = resolved.filter(pl.col("label").is_not_null())
    by_source = dict(labelled.group_by("source").len().iter_rows())
    asked_about = pl.concat(
        [items.filter(pl.col("origin") != "traffic").select("key"), owed_keys(store).select("key")]
    ).unique()
    unlabelled = asked_about.join(resolved, on="key", how="anti").join(gold, on="key", how="anti")
    return Inventory(
        items=items.height,
        from_traffic=items.filter(pl.col("origin") == "traffic").height,
        labelled={source: by_source[source] for source in SOURCES if source in by_source},
        unlabelled=unlabelled.height,
        awaiting=_awaiting(project, store, resolved, gold),
        gold_rows=gold.height,
        synthetic=every.height - resolved.height,
        partial=resolved.filter(pl.col("source") == PARTIAL).height,
    )


def _awaiting(project: Project, store: Store, resolved: pl.DataFrame, gold: pl.DataFrame) -> dict[str, int]:
    """Items by why a person should decide them, under the first reason that fits."""
    traffic, answers = schema.traffic.c, schema.answers.c
    audited = store.read(
        select(traffic.key, traffic.student_label, traffic.teacher_label)
        .where(traffic.audited, traffic.teacher_label.is_not(None), traffic.student_label.is_not(None))
        .order_by(traffic.id)
    ).unique("key", keep="last", maintain_order=True)
    dead = store.read(select(answers.key).where(answers.label.is_(None)).distinct())
    disputed = resolved.filter(pl.col("label").is_null())
    settled = resolved.filter(pl.col("label").is_not_null())
    doubted, wanted = confident_contradictions(project.root), wanted_for_review(project.root)
    audited = audited.filter(pl.col("student_label") != pl.col("teacher_label"))
    audited = audited.join(wanted.filter(~pl.col("differs")), on="key", how="anti")
    differing = pl.concat([wanted.filter("differs").select("key"), audited.select("key")])
    reasons = {
        DIFFERING: differing.unique(maintain_order=True),
        CHECKED: wanted.filter(~pl.col("differs")),
        CONTRADICTED: still_contradicted(doubted, settled, project.taxonomy.leaves),
        PASSES: disputed.filter(pl.col("source").is_in(LLM_SOURCES)),
        IMPORTS: disputed.filter(pl.col("source") == "imported"),
        INVALID: dead.join(resolved, on="key", how="anti"),
    }
    decided = resolved.filter(pl.col("source").is_in(["human", "adjudicated"]))
    seen = pl.concat([gold.select("key"), decided.select("key")])
    counts = {}
    for reason, found in reasons.items():
        fresh = found.select("key").join(seen, on="key", how="anti")
        counts[reason] = fresh.height
        seen = pl.concat([seen, fresh])
    return {reason: count for reason, count in counts.items() if count}


def run_lines(store: Store, limit: int | None = None) -> list[RunLine]:
    """All runs, or the last `limit` of them; the newest first."""
    columns = schema.runs.c
    query = select(
        columns.id, columns.job, columns.status, columns.started_at, columns.finished_at, columns.result
    ).order_by(columns.id.desc())
    rows = store.read(query if limit is None else query.limit(limit))
    return [
        RunLine(
            row["id"],
            row["job"],
            row["status"],
            row["started_at"],
            None if row["finished_at"] is None else row["finished_at"] - row["started_at"],
            json.loads(row["result"]) if row["result"] else {},
        )
        for row in rows.iter_rows(named=True)
    ]


def lease_of(store: Store, now: float) -> Lease | None:
    """Who holds the project, if anybody does."""
    rows = store.read(select(schema.lease)).rows(named=True)
    if not rows:
        return None
    silent = max(0.0, now - rows[0]["heartbeat_at"])
    return Lease(rows[0]["owner"], rows[0]["acquired_at"], silent, silent > STALE_SECONDS)


def audits_owed(store: Store) -> int:
    """Audited items that the teacher should have answered and still has not."""
    traffic, answers = schema.traffic.c, schema.answers.c
    answered = select(answers.key).where(answers.label.is_not(None))
    return int(
        store.scalar(
            select(func.count(traffic.key.distinct()))
            .where(traffic.audit_owed)
            .where(traffic.key.not_in(answered))
        )
        or 0
    )


def outcomes(result: Mapping[str, Any]) -> list[str]:
    """One clause a job, in the order the wheel runs them; unknown results say nothing."""
    said = []
    if "error" in result:
        said.append(str(result["error"]))
    if result.get("changed") is False:
        said.append("nothing new")
    routed, labelled, embedded = (result.get(name) or {} for name in ("route", "label", "embed"))
    if routed.get("items"):
        said.append(f"routed {routed['items']:,}")
    if labelled.get("items"):
        said.append(f"labelled {labelled['labelled']:,} of {labelled['items']:,}")
    if labelled.get("stopped"):
        said.append(f"stopped: {labelled['stopped']}")
    if labelled.get("unlabelled_left"):
        said.append(f"{labelled['unlabelled_left']:,} left unlabelled")
    if embedded.get("encoded"):
        said.append(f"encoded {embedded['encoded']:,}")
    trained, promoted = result.get("retrain") or {}, result.get("promote") or {}
    if trained:
        said.append(f"trained version {trained['model_version']} ({trained['student']})")
    if promoted.get("promoted"):
        said.append(f"promoted version {promoted['champion_version']}")
    elif promoted.get("waiting"):
        said.append(f"version {promoted['challenger_version']} waits for a person's yes")
    elif promoted.get("challenger_version") is not None:
        reasons = ", ".join(promoted["reasons"])
        said.append(f"version {promoted['challenger_version']} not promoted: {reasons}")
    if back := result.get("rollback"):
        said.append(f"back to version {back['champion_version']}")
    return said
