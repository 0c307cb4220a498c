"""The Prefect steps of routing: load what is in force once, then route shards of thousands of items.

A shard already logged under the same policy is answered from the log, so that a retry pays nothing twice and
logs no request twice.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.errors import ConfigError
from tasks.project import Project
from tasks.records import Routed
from tasks.routing.cascade import FALLBACK, TEACHER, InForce, TeacherAnswer, route_shard
from tasks.sources import Items, expand, is_sql, iterate_sources, read_items, read_table
from tasks.store import Store, open_store
from tasks.store.database import get_meta
from tasks.store.items import append_items, content_of
from tasks.store.labels import effective_labels
from tasks.store.policies import policy_in_force
from tasks.store.traffic import answer_late, append_traffic, logged, request_id, routed_row_ids, row_id
from tasks.synthetic import SYNTHETIC

if TYPE_CHECKING:
    from tasks.labeling.sessions import Session

SHARD_ROWS = 4096


@dataclass(frozen=True, eq=False)
class Router:
    """Everything one run of routing needs, loaded once."""

    project: Project
    store: Store
    student: Any
    in_force: InForce
    cache: Mapping[bytes, str]
    run_id: int
    session: Session


@dataclass
class Tally:
    """Counts of one run."""

    tiers: Counter[str] = field(default_factory=Counter)
    cost_usd: float = 0.0
    audited: int = 0
    owed: int = 0
    unanswered: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Count what a newly routed shard cost."""
        self.cost_usd += sum(row["cost_usd"] for row in rows)
        self.audited += sum(row["audited"] for row in rows)
        self.owed += sum(row["audit_owed"] for row in rows)

    def record(self, items: int, seconds: float, out: str | None) -> Routed:
        """The counts as what the step returns."""
        return Routed(
            items, dict(self.tiers), round(self.cost_usd, 6), round(seconds, 3), out, self.audited, self.owed,
            self.unanswered, dict(self.rejected), dict(self.errors),
        )  # fmt: skip


@task(name="route a file", cache_policy=NO_CACHE)
def route_file(project: Project, file: str, out: str, run_id: int) -> Routed:
    """Afterwards `out` holds an answer a row of `file`, in its order, and every request is logged once."""
    started = time.monotonic()
    path = Path(file)
    items = read_items(project, read_table(path), path)
    tally = Tally()
    tally.rejected.update(rejection.reason for rejection in items.rejections)
    with _session(project) as session:
        router = _load(project, run_id, session)
        answered = _route(router, items.frame, tally)
    _write(router, items, answered, Path(out))
    return tally.record(items.frame.height, time.monotonic() - started, out)


@task(name="route new traffic", cache_policy=NO_CACHE)
def route_new_traffic(project: Project, run_id: int) -> Routed:
    """Afterwards every row of the traffic files that was never routed has been; nothing else is touched."""
    started, tally = time.monotonic(), Tally()
    if project.source.traffic is None:
        return tally.record(0, 0.0, None)
    fresh = _fresh(project, tally)
    if not fresh.height:
        return tally.record(0, time.monotonic() - started, None)
    with _session(project) as session:
        _route(_load(project, run_id, session), fresh, tally)
    return tally.record(fresh.height, time.monotonic() - started, None)


def _fresh(project: Project, tally: Tally) -> pl.DataFrame:
    store = open_store(project.database_url, project.project)
    known = set(routed_row_ids(store)["row_id"].to_list())
    frames = []
    for file, table in _inbox(project, str(project.source.traffic)):
        items = read_items(project, table, file)
        tally.rejected.update(rejection.reason for rejection in items.rejections)
        rows = zip(items.frame["source_id"].to_list(), items.frame["key"].to_list(), strict=True)
        frames.append(
            items.frame.filter(
                pl.Series([row_id(source, key) not in known for source, key in rows], dtype=pl.Boolean)
            )
        )
    return pl.concat(frames) if frames else pl.DataFrame()


def _inbox(project: Project, written: str) -> Iterator[tuple[Path, pl.DataFrame]]:
    """Every traffic table; a name or a glob that matches nothing yet is an empty inbox, not a mistake."""
    if not is_sql(written):
        try:
            expand(written, project.file.parent)
        except ConfigError as error:
            if not error.file.exists():
                return
            raise
    yield from iterate_sources(project, written, None)


def _session(project: Project) -> Session:
    from tasks.labeling.steps import teacher_session

    return teacher_session(project)


def _load(project: Project, run_id: int, session: Session) -> Router:
    from tasks.promotion.tracking import registry_of

    store, registry = open_store(project.database_url, project.project), registry_of(project)
    version = registry.alias("champion")
    policy = policy_in_force(store, version) if version else None
    labels = effective_labels(store).filter(pl.col("label").is_in(list(project.taxonomy.leaves)))
    labels = labels.filter(pl.col("source") != SYNTHETIC)  # nobody judged these items: they were written
    in_force = InForce(
        version,
        policy.id if policy else None,
        policy.thresholds if policy else None,
        project.routing.audit_rate,
        get_meta(store, "audit_secret", secrets.token_hex(16)),
        project.routing.fallback,
    )
    cache = dict(labels.select("key", "label").iter_rows())
    student = registry.load(version) if version else None
    return Router(project, store, student, in_force, cache, run_id, session)


def _route(
    router: Router, items: pl.DataFrame, tally: Tally
) -> dict[bytes, tuple[str, str | None, float | None]]:
    """Route all items; gives (tier, label, confidence) by row id."""
    in_force = router.in_force
    done = {
        request: (tier, label, confidence)
        for request, tier, label, confidence in logged(
            router.store, in_force.model_version, in_force.policy_id
        ).iter_rows()
    }
    answered: dict[bytes, tuple[str, str | None, float | None]] = {}
    todo, owed = [], {}
    for place, (source_id, key) in enumerate(items.select("source_id", "key").iter_rows()):
        row = row_id(source_id, key)
        request = request_id(row, in_force.model_version, in_force.policy_id)
        if request in done:
            answered[row] = done[request]
            if done[request][0] == FALLBACK:
                owed[request] = (row, key)
        elif row not in answered:
            answered[row] = ("", None, None)
            todo.append(place)
    answered.update(_answered_late(router, owed, tally))
    for first in range(0, len(todo), SHARD_ROWS):
        shard = items[todo[first : first + SHARD_ROWS]]
        rows = _route_one_shard(router, shard, tally)
        tally.add(rows)
        answered.update({row["row_id"]: (row["tier"], row["label"], row["confidence"]) for row in rows})
    for source_id, key in items.select("source_id", "key").iter_rows():
        tier, label, _ = answered[row_id(source_id, key)]
        tally.tiers[tier] += 1
        tally.unanswered += label is None
    return answered


def _answered_late(
    router: Router, owed: Mapping[bytes, tuple[bytes, bytes]], tally: Tally
) -> dict[bytes, tuple[str, str | None, float | None]]:
    """Ask again about requests that had to fall back (row id and key by request id); by row id what is said now."""
    keys = list(dict.fromkeys(key for _, key in owed.values()))
    said: dict[bytes, TeacherAnswer] = {}
    for first in range(0, len(keys), SHARD_ROWS):
        said |= _ask(router, keys[first : first + SHARD_ROWS], "route", tally)
    costs = {key: answer.cost_usd for key, answer in said.items()}
    tally.cost_usd += sum(costs.values())
    late = {
        request: (row, label, costs.pop(key, 0.0))  # one call, charged once
        for request, (row, key) in owed.items()
        if key in said and (label := said[key].label) is not None
    }
    answer_late(router.store, ((request, label, cost) for request, (_, label, cost) in late.items()))
    return {row: (TEACHER, label, None) for row, label, _ in late.values()}


def _ask(router: Router, keys: list[bytes], stage: str, tally: Tally) -> dict[bytes, TeacherAnswer]:
    from tasks.labeling.steps import ask_teacher

    said = ask_teacher(router.project, router.store, keys, stage, router.run_id, router.session)
    tally.errors.update(answer.error_class for answer in said.values() if answer.error_class)
    return said


def _route_one_shard(router: Router, shard: pl.DataFrame, tally: Tally) -> list[dict[str, Any]]:
    from tasks.embedding.vectors import vectors_of

    append_items(router.store, shard, "traffic", router.run_id)
    answers = None
    if router.student is not None:
        student = router.student
        inputs = (
            content_of(shard, "image")
            if student.reads_images
            else vectors_of(student.encoder, router.project.root, shard, student.modality)
        )
        answers = student.answers(inputs)

    def ask(keys: list[bytes], stage: str) -> dict[bytes, TeacherAnswer]:
        return _ask(router, keys, stage, tally)

    taxonomy = router.student.taxonomy if router.student is not None else router.project.taxonomy
    valid = frozenset(router.project.taxonomy.leaves)
    rows = route_shard(
        shard, router.cache, answers, taxonomy.levels, taxonomy.other, router.in_force, ask, valid
    )
    append_traffic(router.store, rows, router.run_id)
    return rows


def _write(
    router: Router, items: Items, answered: Mapping[bytes, tuple[str, str | None, float | None]], out: Path
) -> None:
    taxonomy = router.project.taxonomy
    rows = []
    for source_id, key in items.frame.select("source_id", "key").iter_rows():
        tier, label, confidence = answered[row_id(source_id, key)]
        levels = taxonomy.to_columns(label) if label else dict.fromkeys(taxonomy.levels)
        rows.append(
            {"id": source_id, **levels, "tier": tier, "confidence": confidence if tier == "student" else None}
        )
    schema: dict[str, Any] = {"id": pl.String} | dict.fromkeys(taxonomy.levels, pl.String)
    frame = pl.DataFrame(rows, schema=schema | {"tier": pl.String, "confidence": pl.Float64})
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = out.with_name(f".{out.name}.tmp")
    frame.write_parquet(beside)
    beside.rename(out)
