"""The traffic table: one row a routed request, for ever; audits are read back from it.

A request is known by a hash of its row and the policy it was routed under, so that a retry finds what it
already logged and a later policy is a new request.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl
from sqlalchemy import bindparam, func, select, update

from tasks.store import schema
from tasks.store.answers import first_pass_labels
from tasks.store.database import Store

DAY_SECONDS = 86_400.0
CACHE_TIERS = ("exact_cache", "similarity_cache")


def row_id(source_id: str, key: bytes) -> bytes:
    """16 bytes that name a row of a traffic file: its id and its content."""
    return hashlib.blake2b(source_id.encode() + b"\0" + key, digest_size=16).digest()


def request_id(row: bytes, model_version: str | None, policy_id: int | None) -> bytes:
    """16 bytes that name one routing of a row."""
    return hashlib.blake2b(
        b"%b\0%b" % (row, f"{model_version}/{policy_id}".encode()), digest_size=16
    ).digest()


def append_traffic(store: Store, rows: Iterable[Mapping[str, Any]], run_id: int) -> int:
    """Log requests; `student_confidences` is a mapping level to number (or None)."""
    now = time.time()

    def shaped() -> Iterable[dict[str, Any]]:
        for row in rows:
            confidences = row["student_confidences"]
            written = json.dumps(confidences) if confidences is not None else None
            yield {**row, "student_confidences": written, "run_id": run_id, "at": now}

    return store.append(schema.traffic, shaped())


def answer_late(store: Store, rows: Iterable[tuple[bytes, str, float]]) -> None:
    """Write what the teacher said at last onto requests that had to fall back: request_id, label, cost in USD."""
    columns = schema.traffic.c
    late = [{"asked": request, "said": label, "cost": cost} for request, label, cost in rows]
    if not late:
        return
    change = (
        update(schema.traffic)
        .where(columns.request_id == bindparam("asked"))
        .values(
            tier="teacher",
            label=bindparam("said"),
            teacher_label=bindparam("said"),
            audit_owed=False,
            cost_usd=columns.cost_usd + bindparam("cost"),
        )
    )
    with store.begin() as connection:
        connection.execute(change, late)


def audits(
    store: Store, window_days: float, now: float | None = None, misses_only: bool = False
) -> pl.DataFrame:
    """Audited requests within the window, the newest of a key: all columns of the table.

    An audit that the teacher owed and has answered since (in a labelling run) carries that answer.

    Args:
        store: the open database.
        window_days: how far back.
        now: seconds since the epoch.
        misses_only: only what no cache answered, which is all that a student ever sees: what a cache knows, the
            student may have been trained on.
    """
    since = (time.time() if now is None else now) - window_days * DAY_SECONDS
    columns = schema.traffic.c
    rows = store.read(
        select(schema.traffic).where(columns.audited).where(columns.at >= since).order_by(columns.id)
    )
    if misses_only:
        rows = rows.filter(~pl.col("would_tier").is_in(CACHE_TIERS))
    rows = rows.unique("key", keep="last", maintain_order=True)
    said = first_pass_labels(store, rows).rename({"label": "said"})
    answered = rows.join(said, on="key", how="left", maintain_order="left")
    return answered.with_columns(pl.coalesce("teacher_label", "said").alias("teacher_label")).drop("said")


def owed_keys(store: Store) -> pl.DataFrame:
    """Keys the teacher should have answered and did not: escalations and audits it still owes."""
    columns = schema.traffic.c
    return store.read(
        select(columns.key).where((columns.tier == "fallback") | (columns.audit_owed)).distinct()
    )


def tier_counts(store: Store) -> pl.DataFrame:
    """Requests by run and tier: run_id, tier, requests, cost_usd."""
    columns = schema.traffic.c
    return store.read(
        select(
            columns.run_id,
            columns.tier,
            func.count().label("requests"),
            func.sum(columns.cost_usd).label("cost_usd"),
        )
        .group_by(columns.run_id, columns.tier)
        .order_by(columns.run_id, columns.tier)
    )


def newest_traffic_id(store: Store) -> int:
    """Id of the newest logged request, 0 when there is none."""
    return int(store.scalar(select(func.max(schema.traffic.c.id))) or 0)
