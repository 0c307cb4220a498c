"""A database in which every number of the report can be counted by hand, filled through the store's own functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import polars as pl
from sqlalchemy import insert

from tasks.labeling.asking import asking_teacher
from tasks.project import Project
from tasks.records import Policy, text_key
from tasks.store import Store, schema
from tasks.store.items import append_items
from tasks.store.labels import append_labels
from tasks.store.policies import append_policy
from tasks.store.traffic import append_traffic, request_id, row_id

KETTLES, KNIVES, HOSES = "Kitchen > Kettles", "Kitchen > Knives", "Garden > Hoses"
DAY = 86_400.0


def key(name: str) -> bytes:
    return text_key(name)


def items_of(names: list[str]) -> pl.DataFrame:
    return pl.DataFrame(
        {"key": [key(name) for name in names], "source_id": names, "text": names},
        schema={"key": pl.Binary, "source_id": pl.String, "text": pl.String},
    ).with_columns(image=pl.lit(None, pl.Binary))


def add_run(store: Store, job: str, at: float, status: str = "done", result: str = "{}") -> int:
    row = {"job": job, "status": status, "started_at": at, "finished_at": at + 60, "parameters": "{}"}
    with store.begin() as connection:
        inserted = connection.execute(insert(schema.runs), row | {"result": result}).inserted_primary_key
    assert inserted is not None
    return int(inserted[0])


def add_call(store: Store, run: int, stage: str, cost: float, at: float, **other: Any) -> None:
    row = {
        "run_id": run, "stage": stage, "model": "tiny-teacher", "status": "ok", "attempts": 1,
        "prompt_tokens": 100, "cached_tokens": 40, "completion_tokens": 10, "cost_usd": cost,
        "latency_seconds": 0.5, "at": at,
    }  # fmt: skip
    store.append(schema.calls, [row | other])


def add_answers(
    store: Store, project: Project, said: Mapping[str, tuple[str | None, ...]], at: float
) -> None:
    """Answers of the current prompt by item and pass; None is a dead letter."""
    how = asking_teacher(project)
    store.append(
        schema.answers,
        [
            {
                "key": key(name), "pass": number, "prompt_version": how.version.prompt_version,
                "model": how.version.model, "parameters": how.version.parameters, "label": label,
                "confidence": 0.9, "reason": "", "error_class": None if label else "invalid",
                "attempts": 1, "at": at,
            }
            for name, labels in said.items()
            for number, label in enumerate(labels, start=1)
        ],
    )  # fmt: skip


def add_batch(
    store: Store, project: Project, names: list[str], at: float, *, fetched: int = 0, closed: bool = False
) -> int:
    """A batch with a line an item and pass, of which the first so many are in the ledger; returns its id."""
    how, lines = asking_teacher(project), [(name, number) for name in names for number in (1, 2)]
    row = {
        "token": f"token-{at}", "remote_id": "batch-1", "status": "in_progress", "base_url": "http://127.0.0.1:9/v1",
        "model": how.version.model, "stage": "label", "run_id": 1, "requests": len(lines),
        "reserved_usd": 0.1, "created_at": at, "updated_at": at, "closed_at": at + 1 if closed else None,
    }  # fmt: skip
    with store.begin() as connection:
        inserted = connection.execute(insert(schema.batches), row).inserted_primary_key
    assert inserted is not None
    batch = int(inserted[0])
    version = {"prompt_version": how.version.prompt_version, "parameters": how.version.parameters}
    store.append(
        schema.batch_items,
        [
            {"batch_id": batch, "line": line, "place": 0, "key": key(name), "pass": number, **version}
            for line, (name, number) in enumerate(lines)
        ],
    )
    for line in range(fetched):
        add_call(store, 1, "label", 0.001, at, batch_id=batch, batch_line=line)
    return batch


def contradict(project: Project, said: Mapping[str, tuple[str, str]]) -> None:
    """What a retrain leaves about items that its student would have answered: label of then, its own answer."""
    file = project.root / "retrains" / "1.heldout.parquet"
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [(key(name), label, answered, True, 0.9) for name, (label, answered) in said.items()]
    pl.DataFrame(
        rows,
        schema={
            "key": pl.Binary, "label": pl.String, "answered": pl.String, "covered": pl.Boolean,
            "confidence": pl.Float32,
        },
        orient="row",
    ).write_parquet(file)  # fmt: skip


def request(name: str, tier: str, label: str | None, **other: Any) -> dict[str, Any]:
    """One row of the traffic table."""
    row = row_id(name, key(name))
    return {
        "request_id": request_id(row, "1", 1), "row_id": row, "key": key(name), "source_id": name,
        "tier": tier, "would_tier": tier, "label": label, "confidence": None,
        "student_label": None, "student_confidences": None, "cheap_label": None, "teacher_label": None,
        "audited": False, "audit_probability": 0.5, "audit_owed": False, "policy_id": 1,
        "model_version": "1", "latency_seconds": 0.0, "cost_usd": 0.0,
    } | other  # fmt: skip


def a_policy(**other: Any) -> Policy:
    made = Policy(
        {"department": 0.6, "category": 0.9}, 0.05, 0.95, 0.62, 400, "gold", "1", sentence="It may."
    )
    return replace(made, **other)


def fill(project: Project, store: Store, now: float) -> None:
    """Ten items and two turns of traffic.

    Labels: a1..a4 consensus, b1 single, c1 human over consensus, d1 disagreed, e1 dead-lettered, f1 nothing.
    Traffic: run 2 two teacher answers; run 3 four of the student (three audited, one wrong by the teacher's
    word, one wrong by a person's), one of the cache, one fallback whose audit is owed.
    """
    label_run = add_run(store, "label", now - 3 * DAY)
    names = ["a1", "a2", "a3", "a4", "b1", "c1", "d1", "e1", "f1"]
    append_items(store, items_of(names), "source", label_run)
    said: dict[str, tuple[str | None, ...]] = dict.fromkeys(("a1", "a2", "a3", "a4"), (KETTLES, KETTLES))
    said |= {"b1": (HOSES,), "c1": (KETTLES, KETTLES), "d1": (KETTLES, KNIVES), "e1": (None, None)}
    add_answers(store, project, said, now - 3 * DAY)
    append_labels(
        store, [(key(name), KETTLES, "consensus") for name in ("a1", "a2", "a3", "a4", "c1")], label_run
    )
    append_labels(store, [(key("b1"), HOSES, "single"), (key("d1"), None, "disagreed")], label_run)
    append_labels(store, [(key("c1"), KNIVES, "human")], label_run)
    for _ in range(15):
        add_call(store, label_run, "label", 0.002, now - 60 * DAY)

    first = add_run(store, "route", now - 2 * DAY)
    append_items(store, items_of(["t1", "t2"]), "traffic", first)
    append_traffic(store, [request(name, "teacher", HOSES, cost_usd=0.002) for name in ("t1", "t2")], first)
    append_labels(store, [(key(name), HOSES, "single") for name in ("t1", "t2")], first)
    add_answers(store, project, {"t1": (HOSES,), "t2": (HOSES,)}, now - 2 * DAY)
    add_call(store, first, "route", 0.002, now - 2 * DAY)
    add_call(store, first, "route", 0.002, now - 2 * DAY, status="failed", cost_usd=0.0)
    add_call(store, first, "route", 0.002, now - 2 * DAY)

    second = add_run(store, "nightly", now - DAY, "failed", '{"error": "StoreError: disk full"}')
    append_items(store, items_of(["s1", "s2", "s3", "s4", "u1"]), "traffic", second)
    confidences = {"department": 0.99, "category": 0.95}
    student = {"student_label": KETTLES, "student_confidences": confidences, "confidence": 0.95}
    append_labels(store, [(key("s3"), KNIVES, "human")], second)
    append_traffic(
        store,
        [
            request("s1", "student", KETTLES, **student, audited=True, teacher_label=KETTLES),
            request("s2", "student", KETTLES, **student, audited=True, teacher_label=KNIVES),
            request("s3", "student", KETTLES, **student, audited=True, teacher_label=KETTLES),
            request("s4", "student", KETTLES, **student),
            request("a1", "exact_cache", KETTLES, audited=True, teacher_label=KETTLES),
            request("u1", "fallback", None, audited=True, audit_owed=True),
        ],
        second,
    )  # fmt: skip
    for _ in range(4):
        add_call(store, second, "audit", 0.002, now - DAY)
    append_policy(store, a_policy(against="teacher"), second)
    append_policy(store, a_policy(), second)
