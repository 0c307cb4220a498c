"""Which tier answers: exact cache, the student where every level clears, the teacher, a stated fallback.

Pure decisions on one shard of requests. Who the teacher is, how an item is encoded and where the log lies is
the caller's business.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from tasks.routing.audit import coin
from tasks.store.traffic import request_id, row_id
from tasks.student.package import Answers
from tasks.student.thresholds import accepts

CACHE, STUDENT, TEACHER, FALLBACK = "exact_cache", "student", "teacher", "fallback"
Ask = Callable[[list[bytes], str], Mapping[bytes, "TeacherAnswer"]]


@dataclass(frozen=True)
class TeacherAnswer:
    """What the teacher said about one item: a label, or none and why; what it cost."""

    label: str | None
    cost_usd: float = 0.0
    latency_seconds: float = 0.0
    error_class: str | None = None


@dataclass(frozen=True)
class InForce:
    """The model version and policy that route, and how requests are watched."""

    model_version: str | None
    policy_id: int | None
    thresholds: Mapping[str, float] | None
    audit_rate: float
    audit_secret: str
    fallback: str


def cleared(
    answers: Answers, levels: Sequence[str], thresholds: Mapping[str, float] | None, other: str | None
) -> list[bool]:
    """Whether every level's confidence reaches its threshold; never without thresholds, never for `other`."""
    wanted = None if thresholds is None else tuple(thresholds[level] for level in levels)
    never = np.asarray(np.array(answers.labels, object) == other, bool)
    return accepts(answers.confidences, wanted, never).tolist()


def route_shard(
    items: pl.DataFrame,
    cache: Mapping[bytes, str],
    answers: Answers | None,
    levels: Sequence[str],
    other: str | None,
    in_force: InForce,
    ask: Ask,
    valid: Collection[str] | None = None,
    unread: Collection[int] = (),
) -> list[dict[str, Any]]:
    """Route requests; returns one row of the traffic table each (without run and time), in order.

    Exactly one tier answers each request. The coin is tossed before any tier looks; heads stores the
    teacher's answer beside the tier's own. One item asked twice in a shard is asked of the teacher once.

    Args:
        items: key, source_id; one row a request.
        cache: label by key for the exact cache, valid under the current taxonomy.
        answers: the student's, row by row; None when there is no champion.
        levels: names of the levels, from the root down.
        other: the label that is always escalated.
        in_force: what routes.
        ask: (keys, stage) to the teacher's answers; a key may lack.
        valid: labels that the student may answer with, where its taxonomy is older than the project's; None is all.
        unread: places of items that the student could not read, whatever `answers` say there.
    """
    sure_of = cleared(answers, levels, in_force.thresholds, other) if answers else [False] * items.height
    if answers and valid is not None:
        sure_of = [sure and label in valid for sure, label in zip(sure_of, answers.labels, strict=True)]
    sure_of = [sure and place not in unread for place, sure in enumerate(sure_of)]
    rows = [
        _decide(
            position, key, source_id, cache, None if position in unread else answers, levels, in_force, sure
        )
        for position, (key, source_id, sure) in enumerate(
            zip(
                items["key"].to_list(),
                items["source_id"].to_list(),
                sure_of,
                strict=True,
            )
        )
    ]
    escalated = list(dict.fromkeys(row["key"] for row in rows if row["tier"] == TEACHER))
    audited = list(
        dict.fromkeys(row["key"] for row in rows if row["audited"] and row["key"] not in set(escalated))
    )
    said = {**(ask(escalated, "route") if escalated else {}), **(ask(audited, "audit") if audited else {})}
    charged: set[bytes] = set()
    for row in rows:
        if row["tier"] == TEACHER or row["audited"]:
            may_fall_back = in_force.fallback == "student" and (
                valid is None or row["student_label"] in valid
            )
            _take_teacher(row, said.get(row["key"]), may_fall_back, charged)
    return rows


def _decide(
    position: int,
    key: bytes,
    source_id: str,
    cache: Mapping[bytes, str],
    answers: Answers | None,
    levels: Sequence[str],
    in_force: InForce,
    sure: bool,
) -> dict[str, Any]:
    row = row_id(source_id, key)
    request = request_id(row, in_force.model_version, in_force.policy_id)
    tier = CACHE if key in cache else STUDENT if sure else TEACHER
    student_label = answers.labels[position] if answers else None
    confidence = float(answers.confidence[position]) if answers else None
    return {
        "request_id": request,
        "row_id": row,
        "key": key,
        "source_id": source_id,
        "tier": tier,
        "would_tier": tier,
        "label": cache[key] if tier == CACHE else student_label if tier == STUDENT else None,
        "confidence": confidence if tier == STUDENT else None,
        "student_label": student_label,
        "student_confidences": (
            {level: float(c) for level, c in zip(levels, answers.confidences[position], strict=True)}
            if answers
            else None
        ),
        "cheap_label": None,
        "teacher_label": None,
        "audited": coin(request, in_force.audit_secret, in_force.audit_rate),
        "audit_probability": in_force.audit_rate,
        "audit_owed": False,
        "policy_id": in_force.policy_id,
        "model_version": in_force.model_version,
        "latency_seconds": 0.0,
        "cost_usd": 0.0,
    }


def _take_teacher(
    row: dict[str, Any], answer: TeacherAnswer | None, may_fall_back: bool, charged: set[bytes]
) -> None:
    label = answer.label if answer else None
    if answer and row["key"] not in charged:
        row["cost_usd"], row["latency_seconds"] = answer.cost_usd, answer.latency_seconds
        charged.add(row["key"])
    row["teacher_label"] = label
    row["audit_owed"] = bool(row["audited"] and label is None)
    if row["tier"] != TEACHER:
        return
    row["label"] = label
    if label is None:
        row["tier"] = FALLBACK
        row["label"] = row["student_label"] if may_fall_back else None
