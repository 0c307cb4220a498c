"""The Prefect steps of routing: load what is in force once, then stream files through it in shards of thousands.

A request already logged under the same policy is answered from the log, so that a retry pays nothing twice and
logs nothing twice. What is held does not grow with the rows of a file.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.errors import ConfigError
from tasks.pieces import items_in_pieces
from tasks.project import Project
from tasks.records import Policy, Routed
from tasks.retries import AGAIN
from tasks.routing.answer_file import AnswerFile
from tasks.routing.cascade import FALLBACK, STUDENT, TEACHER, InForce, TeacherAnswer, route_shard
from tasks.routing.lookup import logged_answers, routed_before
from tasks.sources import Items, expand, is_sql, iterate_sources
from tasks.store import Store, open_store
from tasks.store.database import get_meta
from tasks.store.items import append_items, note_source, source_unchanged
from tasks.store.moved import current_labels, today_or_then
from tasks.store.policies import policy_in_force
from tasks.store.traffic import answer_late, append_traffic, newest_traffic_id, request_id, row_id
from tasks.synthetic import SYNTHETIC

if TYPE_CHECKING:
    from tasks.labeling.sessions import Session

SHARD_ROWS = 4096
Answered = tuple[str, str | None, float | None]
"""(tier, label, confidence)"""


@dataclass(frozen=True, eq=False)
class Router:
    """Everything one run of routing needs, loaded once; `unhelped` are the requests that the teacher failed in it."""

    project: Project
    store: Store
    student: Any
    in_force: InForce
    cache: Mapping[bytes, str]
    run_id: int
    session: Session
    unhelped: set[bytes] = field(default_factory=set)


@dataclass
class Tally:
    """Counts of one run."""

    items: int = 0
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

    def take_in(self, items: Items) -> None:
        """Count what was read."""
        self.items += items.frame.height
        self.rejected.update(rejection.reason for rejection in items.rejections)

    def record(self, seconds: float, out: str | None) -> Routed:
        """The counts as what the step returns."""
        return Routed(
            self.items, dict(self.tiers), round(self.cost_usd, 6), round(seconds, 3), out, self.audited, self.owed,
            self.unanswered, dict(self.rejected), dict(self.errors),
        )  # fmt: skip


@task(name="route a file", cache_policy=NO_CACHE, **AGAIN)
def route_file(project: Project, file: str, out: str, run_id: int) -> Routed:
    """Afterwards `out` holds an answer a row of `file`, in its order, and every request is logged once.

    The file is read, routed and written piece by piece; a run after a kill takes from the log what was done.
    """
    started, tally = time.monotonic(), Tally()
    pieces = items_in_pieces(project, Path(file))
    first = next(pieces)  # a file that cannot be read is told before a model is loaded
    with _session(project) as session, AnswerFile(Path(out), _columns(project)) as answers:
        router = _load(project, run_id, session)
        for items in chain([first], pieces):
            tally.take_in(items)
            answers.append(_shown(project, items.frame, _route(router, items.frame, tally)))
    return tally.record(time.monotonic() - started, out)


@task(name="route new traffic", cache_policy=NO_CACHE, **AGAIN)
def route_new_traffic(project: Project, run_id: int) -> Routed:
    """Afterwards every row of the traffic files that was never routed has been; nothing else is touched.

    A file that is as it was when all of its rows had been routed is not read again.
    """
    started, tally = time.monotonic(), Tally()
    if project.source.traffic is None:
        return tally.record(0.0, None)
    store = open_store(project.database_url, project.project)
    newest, settings = newest_traffic_id(store), _reading(project)
    with ExitStack() as stack:
        router: Router | None = None
        for file in _inbox(project, project.source.traffic):
            there = file.stat()
            known = (f"traffic:{file}", there.st_size, there.st_mtime)
            if file.is_file() and source_unchanged(store, *known, settings):
                continue
            rows, whole = 0, file.is_file()
            for items in items_in_pieces(project, file):
                fresh = _never_routed(store, items, newest)
                tally.take_in(fresh)
                if fresh.frame.height:
                    router = router or _load(project, run_id, stack.enter_context(_session(project)))
                    _route(router, fresh.frame, tally)
                rows += items.frame.height
                whole &= not items.rejections  # an image that lacked may be there the next time
            if whole:
                note_source(store, *known, rows, settings)
    return tally.record(time.monotonic() - started, None)


def _never_routed(store: Store, items: Items, newest: int) -> Items:
    ids = [row_id(source, key) for source, key in items.frame.select("source_id", "key").iter_rows()]
    known = routed_before(store, pl.Series("row_id", ids, pl.Binary), newest)
    return replace(items, frame=items.frame.filter(~known))


def _reading(project: Project) -> str:
    """What else decides which rows a file holds; a change of it makes every file one that was never read."""
    parts = (project.source.id or "", project.content_column, project.task.modality)
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=8).hexdigest()


def _inbox(project: Project, written: str) -> list[Path]:
    """Every traffic table; a name or a glob that matches nothing yet is an empty inbox, not a mistake."""
    if is_sql(written):
        list(iterate_sources(project, written, None))  # says what it lacks
    try:
        return expand(written, project.file.parent)
    except ConfigError as error:
        if error.file.exists():
            raise
        return []


def _session(project: Project) -> Session:
    from tasks.labeling.steps import teacher_session

    return teacher_session(project)


def _load(project: Project, run_id: int, session: Session) -> Router:
    from tasks.promotion.tracking import registry_of

    store, registry = open_store(project.database_url, project.project), registry_of(project)
    version = registry.alias("champion")
    policy = policy_in_force(store, version) if version else None
    student = registry.load(version) if version else None
    labels = current_labels(store, project.taxonomy)
    labels = labels.filter(pl.col("source") != SYNTHETIC)  # nobody judged these items: they were written
    in_force = InForce(
        version,
        policy.id if policy else None,
        policy.thresholds if policy else None,
        project.routing.audit_rate,
        get_meta(store, "audit_secret", secrets.token_hex(16)),
        project.routing.fallback,
        _partial_thresholds(project, policy, student),
    )
    cache = dict(labels.select("key", "label").iter_rows())
    return Router(project, store, student, in_force, cache, run_id, session)


def _partial_thresholds(project: Project, policy: Policy | None, student: Any) -> Mapping[str, float] | None:
    """From where on the student may stop at an upper level; one of an earlier taxonomy answers in full or not."""
    if policy is None or student is None or student.taxonomy.leaves != project.taxonomy.leaves:
        return None
    return policy.partial_thresholds


def _route(router: Router, items: pl.DataFrame, tally: Tally) -> list[Answered]:
    """Route all items; gives what was answered to each."""
    version, policy = router.in_force.model_version, router.in_force.policy_id
    rows = [row_id(source_id, key) for source_id, key in items.select("source_id", "key").iter_rows()]
    places = {row: place for place, row in reversed([*enumerate(rows)])}  # where a row stands first
    requests = {request_id(row, version, policy): row for row in dict.fromkeys(rows)}
    done = logged_answers(router.store, list(requests))
    today = router.project.taxonomy.today
    answered = {
        requests[request]: (tier, label and (today(label) or label), sure)
        for request, (tier, label, sure) in done.items()
    }
    owed = {
        request: (requests[request], items["key"][places[requests[request]]])
        for request, (tier, _, _) in done.items()
        if tier == FALLBACK and request not in router.unhelped
    }
    answered.update(_answered_late(router, owed, tally))
    todo = items[[places[row] for row in requests.values() if row not in answered]]
    if todo.height:
        append_items(router.store, todo, "traffic", router.run_id)
    for shard in todo.iter_slices(SHARD_ROWS):
        routed = _route_one_shard(router, shard, tally)
        tally.add(routed)
        answered.update({row["row_id"]: (row["tier"], row["label"], row["confidence"]) for row in routed})
        router.unhelped.update(row["request_id"] for row in routed if row["tier"] == FALLBACK)
    said = [answered[row] for row in rows]
    tally.tiers.update(tier for tier, _, _ in said)
    tally.unanswered += sum(label is None for _, label, _ in said)
    return said


def _answered_late(
    router: Router, owed: Mapping[bytes, tuple[bytes, bytes]], tally: Tally
) -> dict[bytes, Answered]:
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
    router.unhelped.update(owed.keys() - late.keys())
    answer_late(router.store, ((request, label, cost) for request, (_, label, cost) in late.items()))
    return {row: (TEACHER, label, None) for row, label, _ in late.values()}


def _ask(router: Router, keys: list[bytes], stage: str, tally: Tally) -> dict[bytes, TeacherAnswer]:
    from tasks.labeling.steps import ask_teacher

    said = ask_teacher(router.project, router.store, keys, stage, router.run_id, router.session)
    tally.errors.update(answer.error_class for answer in said.values() if answer.error_class)
    return said


def _route_one_shard(router: Router, shard: pl.DataFrame, tally: Tally) -> list[dict[str, Any]]:
    from tasks.embedding.vectors import has_vector
    from tasks.student.samples import inputs_of

    answers, unread = None, frozenset[int]()
    if router.student is not None:
        inputs = inputs_of(router.project, router.student, shard)
        answers = router.student.answers(inputs)
        if isinstance(inputs, np.ndarray):
            unread = frozenset(np.flatnonzero(~has_vector(inputs)).tolist())

    def ask(keys: list[bytes], stage: str) -> dict[bytes, TeacherAnswer]:
        return _ask(router, keys, stage, tally)

    today = router.project.taxonomy
    taxonomy = router.student.taxonomy if router.student is not None else today
    other = taxonomy.other and (today.today(taxonomy.other) or taxonomy.other)
    if answers is not None:
        answers = replace(answers, labels=today_or_then(answers.labels, today))
    valid = frozenset(today.leaves)
    rows = route_shard(
        shard, router.cache, answers, taxonomy.levels, other, router.in_force, ask, valid, unread
    )
    append_traffic(router.store, rows, router.run_id)
    return rows


def _columns(project: Project) -> dict[str, Any]:
    levels = dict.fromkeys(project.taxonomy.levels, pl.String)
    return {"id": pl.String, **levels, "tier": pl.String, "confidence": pl.Float64}


def _shown(project: Project, items: pl.DataFrame, said: Sequence[Answered]) -> pl.DataFrame:
    """The rows of the file of answers."""
    taxonomy = project.taxonomy
    paths = {label: taxonomy.to_columns(label or "") for label in {label for _, label, _ in said}}
    return pl.DataFrame(
        {
            "id": items["source_id"],
            **{level: [paths[label][level] or None for _, label, _ in said] for level in taxonomy.levels},
            "tier": [tier for tier, _, _ in said],
            "confidence": [confidence if tier == STUDENT else None for tier, _, confidence in said],
        },
        schema=_columns(project),
    )
