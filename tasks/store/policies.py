"""The policies table: every set of thresholds ever issued, and which one is in force."""

from __future__ import annotations

import json
import time
from dataclasses import replace

from sqlalchemy import func, insert, select

from tasks.records import Policy
from tasks.store import schema
from tasks.store.database import Store
from tasks.store.traffic import newest_traffic_id


def append_policy(store: Store, policy: Policy, run_id: int) -> Policy:
    """Write a policy and return it with its id."""
    policy = replace(policy, after_request=newest_traffic_id(store))
    body = policy.as_dict() | {"id": None}
    row = {
        "model_version": policy.model_version,
        "thresholds": json.dumps(dict(policy.thresholds)) if policy.thresholds is not None else None,
        "against": policy.against,
        "certified_coverage": policy.certified_coverage,
        "body": json.dumps(body),
        "run_id": run_id,
        "at": time.time(),
    }
    with store.begin() as connection:
        inserted = connection.execute(insert(schema.policies), row).inserted_primary_key
    assert inserted is not None
    return replace(policy, id=int(inserted[0]))


def policy_in_force(store: Store, model_version: str) -> Policy | None:
    """The newest policy of a model version."""
    columns = schema.policies.c
    rows = store.read(
        select(columns.id, columns.body)
        .where(columns.model_version == model_version)
        .order_by(columns.id.desc())
        .limit(1)
    )
    return Policy(**(json.loads(rows["body"][0]) | {"id": rows["id"][0]})) if rows.height else None


def newest_version(store: Store) -> tuple[str | None, float]:
    """The model version trained last and when (seconds since 1970): its first policy's time; (None, 0) before any."""
    columns = schema.policies.c
    first = func.min(columns.at)
    rows = store.read(
        select(columns.model_version, first.label("at"))
        .group_by(columns.model_version)
        .order_by(first.desc())
    )
    return (rows["model_version"][0], float(rows["at"][0])) if rows.height else (None, 0.0)
